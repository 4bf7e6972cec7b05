//! The entry from the boot loader: PVH (Xen's direct boot for hardware virtual machines, spoken by QEMU's `-kernel`).
//!
//! The processor comes in 32-bit mode without paging, EBX at `hvm_start_info`. This maps the first 4 GiB one to one and
//! the first GiB at the image's place, and goes to [`super::boot_main`] in 64-bit mode.
use core::arch::global_asm;

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_entry

    .section .boot.text, "ax"
    .code32
    .global pvh_entry
pvh_entry:
    cli
    cld
    movl $boot_stack_top, %esp
    movl %ebx, %esi
    # Four page directories of 2 MiB pages.
    movl $boot_pd, %edi
    movl $0x83, %eax
    xorl %edx, %edx
    movl $2048, %ecx
1:  movl %eax, (%edi)
    movl %edx, 4(%edi)
    addl $0x200000, %eax
    adcl $0, %edx
    addl $8, %edi
    decl %ecx
    jnz 1b
    movl $(boot_pd + 0x0003), boot_pdpt_low
    movl $(boot_pd + 0x1003), boot_pdpt_low + 8
    movl $(boot_pd + 0x2003), boot_pdpt_low + 16
    movl $(boot_pd + 0x3003), boot_pdpt_low + 24
    movl $(boot_pd + 0x0003), boot_pdpt_high + 510 * 8
    movl $(boot_pdpt_low + 3), boot_pml4
    movl $(boot_pdpt_high + 3), boot_pml4 + 511 * 8
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0x60, %eax            # PAE, MCE
    movl %eax, %cr4
    movl $0xc0000080, %ecx      # EFER: LME, NXE, SCE
    movl $0x901, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x80010033, %eax      # PG, WP, NE, ET, MP, PE
    movl %eax, %cr0
    lgdt boot_gdtr
    ljmp $0x08, $boot_64
    .code64
boot_64:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    # After a reset the image's zeros are what the life before left there.
    movabsq $__bss_start, %rdi
    movabsq $__bss_end, %rcx
    subq %rdi, %rcx
    shrq $3, %rcx
    xorl %eax, %eax
    rep stosq
    movl %esi, %edi
    xorl %ebp, %ebp
    movabsq ${main}, %rax
    call *%rax
    ud2

    .section .boot.data, "aw"
    .balign 8
boot_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
boot_gdtr:
    .word 23
    .long boot_gdt

    .section .boot.bss, "aw", @nobits
    .balign 4096
boot_pml4: .skip 4096
boot_pdpt_low: .skip 4096
boot_pdpt_high: .skip 4096
boot_pd: .skip 4 * 4096
    .skip 65536
boot_stack_top:
    .text
"#,
    main = sym super::boot_main,
    options(att_syntax)
);

/// What the loader says (Xen `public/arch-x86/hvm/start_info.h`).
#[repr(C)]
pub struct StartInfo {
    /// See [`MAGIC`].
    pub magic: u32,
    /// 1 or more: the memory map is there.
    pub version: u32,
    /// Not used.
    pub flags: u32,
    /// Number of modules.
    pub modules: u32,
    /// Physical address of the module list.
    pub module_list: u64,
    /// Physical address of the command line.
    pub cmdline: u64,
    /// Physical address of the ACPI root.
    pub rsdp: u64,
    /// Physical address of the memory map.
    pub memmap: u64,
    /// Entries in it.
    pub memmap_entries: u32,
}

/// First word of [`StartInfo`].
pub const MAGIC: u32 = 0x336e_c578;

/// One range of the memory map.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MemmapEntry {
    /// Physical address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// 1 is free memory.
    pub kind: u32,
    /// Nothing.
    pub reserved: u32,
}

/// One module.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Module {
    /// Physical address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Physical address of its command line.
    pub cmdline: u64,
    /// Nothing.
    pub reserved: u64,
}

//! The page below 1 MiB where a core starts after INIT and SIPI: from real mode to 64-bit mode under the park page
//! tables, and on to `park_from_reset`. Written once at boot and never again; all that it needs is in it.
use core::{arch::global_asm, ptr::addr_of};

global_asm!(
    r#"
    .section .rodata.trampoline, "a"
    .balign 16
    .code16
    .global trampoline_start
trampoline_start:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    xorl %ebx, %ebx
    movw %ax, %bx
    shll $4, %ebx
    lgdtl trampoline_gdtr - trampoline_start
    movl %cr0, %eax
    andl $0x9fffffff, %eax      # caches on: INIT leaves CD and NW set (SDM 3, 10.1.1)
    orl $1, %eax
    movl %eax, %cr0
    ljmpl *(trampoline_to_32 - trampoline_start)
    .code32
trampoline_32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x60, %eax            # PAE, MCE
    movl %eax, %cr4
    movl (trampoline_cr3 - trampoline_start)(%ebx), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      # EFER: LME, NXE, SCE
    movl $0x901, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x80010033, %eax      # PG, WP, NE, ET, MP, PE
    movl %eax, %cr0
    ljmpl *(trampoline_to_64 - trampoline_start)(%ebx)
    .code64
trampoline_64:
    movq (trampoline_target - trampoline_start)(%rbx), %rax
    jmpq *%rax

    .balign 8
    .global trampoline_gdt
trampoline_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
    .global trampoline_gdtr
trampoline_gdtr:
    .word 31
    .long trampoline_gdt - trampoline_start
    .balign 8
    .global trampoline_to_32
trampoline_to_32:
    .long trampoline_32 - trampoline_start
    .word 0x18
    .balign 8
    .global trampoline_to_64
trampoline_to_64:
    .long trampoline_64 - trampoline_start
    .word 0x08
    .balign 8
    .global trampoline_cr3
trampoline_cr3:
    .quad 0
    .global trampoline_target
trampoline_target:
    .quad 0
    .global trampoline_end
trampoline_end:
    .text
"#,
    options(att_syntax)
);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    static trampoline_gdtr: u8;
    static trampoline_to_32: u8;
    static trampoline_to_64: u8;
    static trampoline_cr3: u8;
    static trampoline_target: u8;
}

/// Writes the trampoline into the page at `page`, and has all interrupts of real mode lead to it: some emulators let an NMI
/// through to a core that waits for its start, which must not run whatever the vectors happen to say.
///
/// # Safety
/// Both pages, the first of memory and `page`, which is below 1 MiB, are mapped one to one and nobody else's. `cr3` is below 4 GiB and maps the page one to one,
/// executable.
pub unsafe fn write(page: u64, cr3: u64, target: u64) {
    // SAFETY: the symbols bound the code above; the page has room for it; the patched words lie inside.
    unsafe {
        let start = addr_of!(trampoline_start);
        let len = addr_of!(trampoline_end) as usize - start as usize;
        core::ptr::copy_nonoverlapping(start, page as *mut u8, len);
        let place = |symbol: *const u8| page + (symbol as u64 - start as u64);
        for address in
            [place(addr_of!(trampoline_gdtr)) + 2, place(addr_of!(trampoline_to_32)), place(addr_of!(trampoline_to_64))]
        {
            let at = address as *mut u32;
            at.write_unaligned(at.read_unaligned() + page as u32);
        }
        // An interrupt vector of real mode is an offset and a segment.
        for vector in 1..256u64 {
            ((vector * 4) as *mut u32).write_volatile((page as u32 >> 4) << 16);
        }
        (place(addr_of!(trampoline_cr3)) as *mut u64).write(cr3);
        (place(addr_of!(trampoline_target)) as *mut u64).write(target);
    }
}

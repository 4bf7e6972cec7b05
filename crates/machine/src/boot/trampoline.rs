//! The page below 1 MiB where a core starts after INIT and SIPI: from real mode to 64-bit mode under the park page
//! tables, and on to `park_from_reset`. Written once at boot and never again; all that it needs is in it.
//!
//! An NMI may come at any moment here too. All that it finds leads to `park_from_reset`, or back to the start.
use super::tables::write_gates;
use core::{arch::global_asm, ptr::addr_of};

/// Where the stack begins: the first page of memory holds the vectors of real mode, and above them what an interrupt pushes.
/// All cores use it at once, as nobody goes back.
const STACK_TOP: u32 = 0x1000;

global_asm!(
    r#"
    .section .rodata.trampoline, "a"
    .balign 16
    .code16
    .global trampoline_start
trampoline_start:
    # Some emulators start a core once more that an NMI has started before, and leave it in the mode in which it is. In
    # 64-bit mode that is a page fault.
    movl %cr0, %eax
    testl %eax, %eax
    js trampoline_leave
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    xorw %ax, %ax
    movw %ax, %ss
    movl ${stack}, %esp
    lgdtl trampoline_gdtr - trampoline_start
    movl $0x60, %eax            # PAE, MCE
    movl %eax, %cr4
    movl trampoline_cr3 - trampoline_start, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      # EFER: LME, NXE, SCE
    movl $0x901, %eax
    xorl %edx, %edx
    wrmsr
    # One step from real mode to 64-bit mode: these vectors serve both.
    lidtl trampoline_idtr - trampoline_start
    movl $0x80010033, %eax      # PG, WP, NE, ET, MP, PE; caches on: INIT leaves CD and NW set (SDM 3, 10.1.1)
    movl %eax, %cr0
trampoline_leave:
    ljmpl *%cs:(trampoline_to_64 - trampoline_start)
    .code64
trampoline_64:
    movq trampoline_target(%rip), %rax
    jmpq *%rax

    .balign 8
trampoline_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
    # Gates 0 to 14. Real mode looks for its vector 2 at byte 8: that is the unused upper half of gate 0.
trampoline_idt:
    .fill 30, 8, 0
trampoline_gdtr:
    .word 23
    .long trampoline_gdt - trampoline_start
    .balign 8
trampoline_idtr:
    .word 239
    .long trampoline_idt - trampoline_start
    .balign 8
trampoline_to_64:
    .long trampoline_64 - trampoline_start
    .word 0x08
    .balign 8
trampoline_cr3:
    .quad 0
trampoline_target:
    .quad 0
    .global trampoline_idt, trampoline_gdtr, trampoline_idtr, trampoline_to_64, trampoline_cr3, trampoline_target
    .global trampoline_end
trampoline_end:
    .text
"#,
    stack = const STACK_TOP,
    options(att_syntax)
);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    static trampoline_idt: u8;
    static trampoline_gdtr: u8;
    static trampoline_idtr: u8;
    static trampoline_to_64: u8;
    static trampoline_cr3: u8;
    static trampoline_target: u8;
}

/// Writes the trampoline into the page at `page`, and has all interrupts of real mode lead to it: some emulators let an NMI
/// through to a core that waits for its start, which must not run whatever the vectors happen to say.
///
/// # Safety
/// Both pages, the first of memory and `page`, which is below 1 MiB, are mapped one to one and nobody else's. `cr3` is below 4 GiB
/// and maps both one to one: the first to be written, the other to be executed.
pub unsafe fn write(page: u64, cr3: u64, target: u64) {
    // SAFETY: the symbols bound the code above; the page has room for it; the patched words lie inside.
    unsafe {
        let start = addr_of!(trampoline_start);
        let len = addr_of!(trampoline_end) as usize - start as usize;
        core::ptr::copy_nonoverlapping(start, page as *mut u8, len);
        let place = |symbol: *const u8| page + (symbol as u64 - start as u64);
        for address in [
            place(addr_of!(trampoline_gdtr)) + 2,
            place(addr_of!(trampoline_idtr)) + 2,
            place(addr_of!(trampoline_to_64)),
        ] {
            let at = address as *mut u32;
            at.write_unaligned(at.read_unaligned() + page as u32);
        }
        // An interrupt vector of real mode is an offset and a segment.
        let vector_of_start = (page as u32 >> 4) << 16;
        for vector in 1..256u64 {
            ((vector * 4) as *mut u32).write_volatile(vector_of_start);
        }
        let vectors = place(addr_of!(trampoline_idt));
        ((vectors + 8) as *mut u32).write(vector_of_start);
        write_gates(vectors, 2..15, target);
        (place(addr_of!(trampoline_cr3)) as *mut u64).write(cr3);
        (place(addr_of!(trampoline_target)) as *mut u64).write(target);
    }
}

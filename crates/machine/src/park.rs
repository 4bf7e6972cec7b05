//! Where cores wait: before their first kernel, and after the death of one.
//!
//! A parked core uses nothing that a kernel can write: its own page tables (in which the commons are the only memory
//! that can be written, besides its own small stack), its own IDT, a GDT in read-only data, and code in the shared
//! text. It says in its mailbox which incarnation has ended there, halts, and at every NMI looks whether it shall boot
//! the next one.
//!
//! Ways in: `park_enter` from a kernel, `park_from_reset` from the trampoline behind INIT and SIPI.
//!
//! An NMI may come between any two instructions here, and must find a handler, its code segment and a stack: without them it
//! is a triple fault, the end of all kernels. So whoever changes page tables first goes over to a stack and to tables of
//! descriptors that both sets of page tables have.
use crate::{
    info::{Info, KernelInfo},
    layout::{INFO_BASE, LAPIC_BASE, PARK_IDT_BASE, PARK_STACK_BYTES, PARK_STACKS_BASE, SHARED_BASE},
};
use core::{arch::global_asm, mem::offset_of};
use shimos_abi::shared::commons::{
    MAILBOX_COMMAND, MAILBOX_FENCE, MAILBOX_PARKED, MAILBOX_PROBE_RIP, MAILBOX_PROBED, MAILBOX_RUNNING, MAILBOXES,
};

global_asm!(
    r#"
    .section .rodata.park, "a"
    .balign 16
    # Code and data for the kernel, with the accessed bit set: nobody ever writes here.
    .global park_gdtr
park_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
park_gdtr:
    .word 23
    .quad park_gdt
park_idtr:
    .word 4095
    .quad {idt}

    .text
    .global park_from_reset
park_from_reset:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rcx, {lapic} + 0x20
    mov ecx, [rcx]
    shr ecx, 24
    mov rdx, {info}
    movzx edi, byte ptr [rdx + rcx + {by_apic}]
    cmp edi, 0xff
    jne park_on_stack
2:  cli
    hlt
    jmp 2b

    # From a kernel, or from a start that failed. EDI: which kernel.
    .global park_enter
park_enter:
    cli
    lea ecx, [rdi + 1]
    imul rcx, rcx, {stack_bytes}
    mov rdx, {stacks}
    lea rsp, [rdx + rcx]
    lgdt [rip + park_gdtr]
    lidt [rip + park_idtr]
    mov rdx, {info}
    mov rax, [rdx + {park_cr3}]
    mov cr3, rax
park_on_stack:
    mov edi, edi
    lea ecx, [rdi + 1]
    imul rcx, rcx, {stack_bytes}
    mov rdx, {stacks}
    lea rsp, [rdx + rcx]
    xor ebp, ebp
    lgdt [rip + park_gdtr]
    lidt [rip + park_idtr]
    xor eax, eax
    mov dr7, rax
    # IRET ends the blocking of NMIs if we came from one (SDM 3, 6.7.1).
    mov rax, rsp
    push 0x10
    push rax
    push 2
    push 8
    lea rax, [rip + park_ready]
    push rax
    iretq

    # EDI: which kernel. Only this part redirects an NMI to itself, so a command cannot fall between the look and the
    # halt.
park_ready:
    mov rdx, {mailboxes}
    mov rbx, rdi
    shl rbx, 6
    add rbx, rdx
    mov rax, [rbx + {running}]
    xchg [rbx + {parked}], rax
    mov r12, [rbx + {running}]
park_look:
    mov rax, [rbx + {command}]
    cmp rax, r12
    ja park_start
    hlt
    jmp park_look
park_ready_end:

    # Boot the incarnation that the command names (plus one, in RAX).
park_start:
    mov qword ptr [rbx + {parked}], 0
    mov [rbx + {running}], rax
    mov rdx, {info}
    mov rcx, [rdx + {stage_cr3}]
    mov cr3, rcx
    mov rsi, rax
    imul rax, rdi, {entry_bytes}
    mov ecx, [rdx + rax + {entry_first}]
    mov eax, [rdx + rax + {entry_pages}]
    add rax, rcx
    shl rax, 12
    mov rsp, rax
    xor ebp, ebp
    call {stage}
    ud2

    # NMI on a parked or starting core.
    .global park_nmi
park_nmi:
    push rax
    push rcx
    lea rax, [rip + park_ready]
    mov rcx, [rsp + 16]
    cmp rcx, rax
    jb 3f
    lea rax, [rip + park_ready_end]
    cmp rcx, rax
    jae 3f
    lea rax, [rip + park_ready]
    mov [rsp + 16], rax
    pop rcx
    pop rax
    iretq
3:  # Starting: park if that is ordered, else count the probe.
    push rdx
    push rbx
    mov rcx, {lapic} + 0x20
    mov ecx, [rcx]
    shr ecx, 24
    mov rdx, {info}
    movzx eax, byte ptr [rdx + rcx + {by_apic}]
    mov edx, eax
    mov rbx, {mailboxes}
    shl rax, 6
    add rbx, rax
    mov rax, [rbx + {running}]
    cmp rax, [rbx + {fence}]
    je 4f
    mov rax, [rsp + 32]
    mov [rbx + {probe_rip}], rax
    lock inc qword ptr [rbx + {probed}]
    pop rbx
    pop rdx
    pop rcx
    pop rax
    iretq
4:  mov edi, edx
    jmp park_enter

    # A machine check that is not ours to judge.
    .global park_machine_check
park_machine_check:
    push rax
    push rcx
    push rdx
    xor eax, eax
    xor edx, edx
    mov ecx, 0x17a
    wrmsr
    pop rdx
    pop rcx
    pop rax
    iretq

    # An exception: the start has failed. Back to waiting, with the failed incarnation as the one that has ended.
    .global park_fault
park_fault:
    mov rcx, {lapic} + 0x20
    mov ecx, [rcx]
    shr ecx, 24
    mov rdx, {info}
    movzx edi, byte ptr [rdx + rcx + {by_apic}]
    jmp park_enter
"#,
    idt = const PARK_IDT_BASE,
    lapic = const LAPIC_BASE,
    info = const INFO_BASE,
    by_apic = const offset_of!(Info, by_apic),
    park_cr3 = const offset_of!(Info, park_cr3),
    stage_cr3 = const offset_of!(Info, stage_cr3),
    entry_bytes = const size_of::<KernelInfo>(),
    entry_first = const offset_of!(Info, entries) + offset_of!(KernelInfo, private.first),
    entry_pages = const offset_of!(Info, entries) + offset_of!(KernelInfo, part_pages),
    stack_bytes = const PARK_STACK_BYTES,
    stacks = const PARK_STACKS_BASE,
    mailboxes = const SHARED_BASE + MAILBOXES as u64 * 8,
    running = const MAILBOX_RUNNING * 8,
    parked = const MAILBOX_PARKED * 8,
    command = const MAILBOX_COMMAND * 8,
    fence = const MAILBOX_FENCE * 8,
    probed = const MAILBOX_PROBED * 8,
    probe_rip = const MAILBOX_PROBE_RIP * 8,
    stage = sym crate::boot::stage::stage_main,
);

unsafe extern "C" {
    /// Leaves everything and parks; the argument is this kernel's number.
    pub fn park_enter(kernel: u32) -> !;
    /// Where the trampoline goes.
    pub fn park_from_reset() -> !;
    /// The NMI handler of parked and starting cores.
    pub fn park_nmi();
    /// Their #MC handler.
    pub fn park_machine_check();
    /// Their handler of all other exceptions.
    pub fn park_fault();
}

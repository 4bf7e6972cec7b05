//! Exceptions and interrupts.
//!
//! From user mode, a stub saves the thread's registers and makes [`crate::user::enter`] return. From kernel mode, the
//! registers are saved on the stack and [`kernel_trap`] decides: an interrupt is noted, an NMI is a probe or the order
//! to park, and everything else is this kernel's death.
use crate::{
    apic::LAPIC,
    arch::read_cr2,
    boot::cores::mailbox,
    check,
    death::{self, Registers},
    fault,
    info::life,
    user, vectors,
};
use core::{
    arch::global_asm,
    sync::atomic::{
        AtomicU8,
        Ordering::{Relaxed, SeqCst},
    },
};
use shimos_abi::shared::commons::{MAILBOX_FENCE, MAILBOX_PROBE_RIP, MAILBOX_PROBED};
use shimos_hal::{Events, check::Verdict};

global_asm!(
    r#"
    # One stub of 16 bytes a vector: makes all frames alike and names the vector.
    .balign 16
    .global trap_stubs
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    # The processor pushes a code for these: 8, 10 to 14, 17, 21, 29, 30.
    .if (0x60227d00 >> vector) & (vector < 32) & 1
    .else
    push 0
    .endif
    .byte 0x68
    .long vector
    .byte 0xe9
    .long trap_common - (. + 4)
    .set vector, vector + 1
    .endr

    # [rsp]: vector, code, rip, cs, rflags, rsp, ss
    .balign 16
trap_common:
    test byte ptr [rsp + 24], 3
    jnz {from_user}

    # From the kernel, or on a stack of its own: keep everything, come back with IRET.
    .global trap_keep
trap_keep:
    push r15
    push r14
    push r13
    push r12
    push r11
    push r10
    push r9
    push r8
    push rbp
    push rdi
    push rsi
    push rdx
    push rcx
    push rbx
    push rax
    cld
    mov rdi, rsp
    call {kernel_trap}
    pop rax
    pop rbx
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    pop rbp
    pop r8
    pop r9
    pop r10
    pop r11
    pop r12
    pop r13
    pop r14
    pop r15
    add rsp, 16
    iretq

    # NMI and machine check: never a thread's doing.
    .global trap_nmi
trap_nmi:
    push 0
    push 2
    jmp trap_keep
    .global trap_machine_check
trap_machine_check:
    push 0
    push 18
    jmp trap_keep
"#,
    from_user = sym user::trap_from_user,
    kernel_trap = sym kernel_trap,
);

unsafe extern "C" {
    static trap_stubs: u8;
    fn trap_nmi();
    fn trap_machine_check();
}

/// Where a vector's gate leads, and on which interrupt stack.
pub(crate) fn gate_of(vector: u8) -> (u64, u8) {
    let stub = &raw const trap_stubs as u64 + u64::from(vector) * 16;
    match vector {
        1 => (stub, 4),
        2 => (trap_nmi as *const () as u64, 1),
        8 => (stub, 2),
        18 => (trap_machine_check as *const () as u64, 3),
        _ => (stub, 0),
    }
}

/// What the stub leaves on the stack.
#[repr(C)]
pub struct Frame {
    registers: Registers,
    vector: u64,
    code: u64,
    rip: u64,
    cs: u64,
    flags: u64,
    rsp: u64,
    ss: u64,
}

/// What has happened, not yet taken.
static EVENTS: AtomicU8 = AtomicU8::new(0);

/// Notes events.
pub(crate) fn raise(events: Events) {
    EVENTS.fetch_or(events.bits(), Relaxed);
}
/// Takes the events.
#[inline]
pub(crate) fn take() -> Events {
    Events::from_bits_truncate(EVENTS.swap(0, Relaxed))
}
/// Whether there are events.
#[inline]
pub(crate) fn pending() -> bool {
    EVENTS.load(Relaxed) != 0
}

/// Notes an interrupt and ends it.
pub(crate) fn interrupt(vector: u8) {
    match vector {
        vectors::TIMER => crate::timer::fired(),
        vectors::IKC if fault::loses_ipis() => {}
        vectors::IKC => raise(Events::IKC),
        vectors::NETWORK | vectors::BLOCK => raise(crate::bare::ack_device(vector)),
        vectors::CONSOLE => raise(Events::CONSOLE),
        vectors::SPURIOUS => return,
        _ => {}
    }
    LAPIC.eoi();
}

extern "C" fn kernel_trap(frame: &mut Frame) {
    match frame.vector {
        2 => nmi(frame),
        32.. => interrupt(frame.vector as u8),
        18 if check::take() == Verdict::Noted => raise(Events::MACHINE_CHECK),
        vector => death::exception(
            &frame.registers,
            death::Exception { address: if vector == 14 || vector == 8 { read_cr2() } else { 0 }, ..what(frame) },
        ),
    }
}

fn what(frame: &Frame) -> death::Exception {
    let Frame { vector, code, rip, rsp, flags, .. } = *frame;
    death::Exception { vector, code, rip, rsp, flags, address: 0 }
}

/// An NMI: parks if that is ordered, else answers the probe. A kernel that does not know yet which one it is does neither: it
/// would do so in the name of another.
fn nmi(frame: &Frame) {
    if !death::is_started() {
        return;
    }
    let life = life();
    let kernel = life.kernel.0.into();
    if mailbox(kernel, MAILBOX_FENCE).load(SeqCst) == u64::from(life.incarnation.0) + 1 {
        death::fenced(&frame.registers, what(frame))
    }
    mailbox(kernel, MAILBOX_PROBE_RIP).store(frame.rip, SeqCst);
    mailbox(kernel, MAILBOX_PROBED).fetch_add(1, SeqCst);
    fault::on_nmi();
}

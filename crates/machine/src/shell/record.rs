//! What the shell writes of a kernel's end, in that kernel's outgoing part, and who it tells.
use super::{
    General, entry,
    vmcb::{Access, Vmcb},
};
use crate::{
    apic::{Ipi, LAPIC},
    boot::{cores::device_owner, stage},
    clock::now,
    death::trace,
    info::{Info, info},
    layout::{STACK_PAGES, stack_top},
    say,
    serial::{self, Line},
    vectors,
};
use core::{
    fmt::Write,
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};
use shimos_abi::{
    control::{DeathCause, Device},
    ids::KernelId,
    shared::{Layout, death, outgoing},
};

/// Why a kernel was ended.
#[derive(Clone, Copy)]
pub enum Cause {
    /// An NMI brought the order to park.
    Fenced,
    /// It could not report a fault.
    TripleFault,
    /// It used memory that is not its own.
    Outside {
        /// Physical address.
        address: u64,
        /// What it did there.
        access: Access,
    },
    /// The processor came back for no reason that the shell knows.
    Other {
        /// The exit's number.
        code: u64,
    },
}

/// A word of a kernel's outgoing part.
pub fn word(info: &Info, kernel: u32, word: usize) -> &'static AtomicU64 {
    let at = Layout::new(info.kernels as usize).outgoing(KernelId(kernel as u16)) + word;
    // SAFETY: inside the shared area, which starting cores have mapped one to one and everyone accesses as atomic words.
    unsafe { &*((info.shared + at as u64 * 8) as *const AtomicU64) }
}

/// Leaves the record, unless the kernel has left one itself, and rings the peers. Whoever ordered it to park knows.
pub fn leave(kernel: u32, life: u64, vmcb: &Vmcb, general: &General, cause: Cause) {
    let info = info();
    let incarnation = life.wrapping_sub(1);
    let put = |at: usize, value: u64| word(info, kernel, outgoing::DEATH + at).store(value, Relaxed);
    let get = |at: usize| word(info, kernel, outgoing::DEATH + at).load(SeqCst);
    if get(death::VALID) == death::MAGIC && get(death::INCARNATION) == incarnation {
        return;
    }
    let saved = &vmcb.saved;
    let mut text = Line::new();
    // A line that is full is cut off.
    let (vector, address) = match cause {
        Cause::Fenced => {
            let _ = write!(text, "made no progress until an NMI parked it");
            (2, 0)
        }
        Cause::TripleFault => {
            let _ = write!(text, "triple fault at {:#x}, stopped by the hardware partition", saved.rip);
            (8, saved.cr2)
        }
        Cause::Outside { address, access } => {
            let name = access.name();
            let _ = write!(
                text,
                "nested page fault: {name} of physical address {address:#x} at {:#x}, stopped by the hardware partition",
                saved.rip
            );
            (14, address)
        }
        Cause::Other { code } => {
            let _ = write!(text, "exit {code:#x} at {:#x}, unknown to the hardware partition", saved.rip);
            (0, 0)
        }
    };
    put(death::VALID, 0);
    put(death::INCARNATION, incarnation);
    let kind = if matches!(cause, Cause::Fenced) { DeathCause::Hang } else { DeathCause::Exception };
    put(death::CAUSE, kind as u64);
    put(death::TIME, now().0);
    put(death::VECTOR, vector);
    put(death::CODE, 0);
    put(death::RIP, saved.rip);
    put(death::RSP, saved.rsp);
    put(death::ADDRESS, address);
    put(death::FLAGS, saved.rflags);
    let [r8, r9, r10, r11, r12, r13, r14, r15] = general.high;
    let General { rbx, rcx, rdx, rsi, rdi, rbp, .. } = *general;
    let all = [saved.rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15];
    for (n, value) in all.into_iter().enumerate() {
        put(death::REGISTERS + n, value);
    }
    let stack = stage::stacks_of(entry(info, kernel));
    trace(rbp, stack.wrapping_sub(stack_top(0) - STACK_PAGES * 4096), &put);
    let said = text.bytes();
    let said = &said[..said.len().min(death::MESSAGE_BYTES)];
    for (n, bytes) in said.chunks(8).enumerate() {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        put(death::MESSAGE + n, u64::from_le_bytes(word));
    }
    put(death::MESSAGE_LEN, said.len() as u64);
    word(info, kernel, outgoing::DEATH + death::VALID).store(death::MAGIC, SeqCst);
    if matches!(cause, Cause::Fenced) {
        return;
    }
    word(info, kernel, outgoing::STATE).store(3, SeqCst);
    for (peer, entry) in info.entries.iter().enumerate().take(info.kernels as usize) {
        if peer != kernel as usize {
            LAPIC.send(entry.apic, Ipi::Fixed(vectors::IKC));
        }
    }
    let owner = device_owner(Device::Console);
    if owner == 0 || owner == incarnation << 32 | u64::from(kernel) {
        serial::cut();
        say!("k{kernel}.{incarnation} dies: {}", core::str::from_utf8(said).unwrap_or("?"));
    }
}

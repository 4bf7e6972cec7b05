//! The stack frame of a signal handler: building it, and going back by it (System V ABI; struct rt_sigframe of Linux).
use crate::{
    resident::Resident,
    services::Services,
    signal::{Action, Info, SigSet, Signal},
    thread::AltStack,
};
use alloc::{vec, vec::Vec};
use shimos_abi::{addr::UserAddr, ids::Pid};
use shimos_hal::{Machine, Regs};

const SA_NODEFER: u64 = 0x4000_0000;
const SA_RESETHAND: u64 = 0x8000_0000;
const SA_ONSTACK: u64 = 0x0800_0000;
const SA_RESTORER: u64 = 0x0400_0000;

/// Bytes of the fixed part of the frame: return address, ucontext, siginfo.
const UCONTEXT: usize = 304;
const SIGINFO: usize = 128;
const FRAME: usize = 8 + UCONTEXT + SIGINFO;
/// Place of the general registers in struct ucontext (`uc_mcontext`).
const MCONTEXT: usize = 40;
/// Place of the signal mask in struct ucontext.
const UC_SIGMASK: usize = 296;
/// Place of the pointer to the vector registers in struct ucontext.
const FPSTATE: usize = MCONTEXT + 184;
/// `uc_flags`: the vector registers are in XSAVE's format; the stack segment is saved, and restored as it is there.
const UC_XSTATE: u64 = 1;
const UC_SEGMENTS: u64 = 2 | 4;
/// Bytes below the stack pointer that a function may use (System V ABI, red zone).
const RED_ZONE: u64 = 128;

/// Bytes of the legacy part of the vector registers.
const LEGACY: usize = 512;
/// Bytes of the legacy part and XSAVE's header.
const HEADED: usize = LEGACY + 64;
/// Where the legacy part says what is behind it (struct _fpx_sw_bytes).
const SOFTWARE: usize = 464;
const MAGIC_BEFORE: u32 = 0x4650_5853;
const MAGIC_BEHIND: u32 = 0x4650_5845;
/// The features of XSAVE that the areas of this length hold: x87, SSE, and AVX where there is room for it.
fn features(length: usize) -> u64 {
    if length > HEADED { 7 } else { 3 }
}

/// The vector registers as a handler finds them: with the marks that say how long they are.
fn marked(area: &[u8]) -> Vec<u8> {
    let mut bytes = area.to_vec();
    if bytes.len() < HEADED {
        return bytes;
    }
    let length = bytes.len() as u32;
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(SOFTWARE, &MAGIC_BEFORE.to_le_bytes());
    put(SOFTWARE + 4, &(length + 4).to_le_bytes());
    put(SOFTWARE + 8, &features(length as usize).to_le_bytes());
    put(SOFTWARE + 16, &length.to_le_bytes());
    put(SOFTWARE + 20, &[0; 28]);
    bytes.extend_from_slice(&MAGIC_BEHIND.to_le_bytes());
    bytes
}

/// siginfo_t, laid out as the signal and its code ask for (sigaction(2), "The siginfo_t argument").
pub fn info_bytes(signal: Signal, info: Info) -> [u8; SIGINFO] {
    const SI_KERNEL: i32 = 0x80;
    /// The last code of SIGIO.
    const POLL_CODES: i32 = 6;
    let mut bytes = [0; SIGINFO];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &u32::from(signal.number()).to_le_bytes());
    put(8, &info.code.to_le_bytes());
    let of_kernel = info.code > 0 && info.code < SI_KERNEL;
    let fault = [Signal::ILL, Signal::FPE, Signal::SEGV, Signal::BUS, Signal::TRAP].contains(&signal);
    if of_kernel && fault {
        put(16, &info.addr.to_le_bytes());
    } else if of_kernel && signal != Signal::CHLD && info.code <= POLL_CODES {
        put(16, &info.addr.to_le_bytes());
        put(24, &(info.value as u32).to_le_bytes());
    } else {
        put(16, &info.pid.to_le_bytes());
        put(20, &info.uid.to_le_bytes());
        put(24, &info.value.to_le_bytes());
    }
    bytes
}

/// Whether a stack pointer is within an alternate stack that is in use.
pub fn is_on(stack: AltStack, rsp: u64) -> bool {
    stack.size != 0 && stack.disarms.is_none() && rsp.wrapping_sub(stack.base).wrapping_sub(1) < stack.size
}

/// Builds the handler's stack frame and aims the thread at the handler.
pub fn enter<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    tid: Pid,
    (signal, info): (Signal, Info),
    action: Action,
) -> Result<(), ()> {
    if action.flags & SA_RESTORER == 0 {
        return Err(());
    }
    let thread = resident.program.threads.get_mut(&tid).ok_or(())?;
    services.machine.save_live(&mut thread.regs, &mut thread.fpu);
    let stack = thread.altstack;
    let inside = is_on(stack, thread.regs.rsp);
    let enters = action.flags & SA_ONSTACK != 0 && stack.size != 0 && !inside;
    let mut sp = if enters { stack.base.wrapping_add(stack.size) } else { thread.regs.rsp.wrapping_sub(RED_ZONE) };
    let fpu = marked(&thread.fpu.area);
    sp = sp.wrapping_sub(fpu.len() as u64) & !63;
    let fpu_addr = if fpu.is_empty() { 0 } else { sp };
    // At the handler's entry the stack pointer is 8 off a multiple of 16, as after a call.
    let frame_addr = (sp.wrapping_sub(FRAME as u64) & !15).wrapping_sub(8);
    if (enters || inside) && frame_addr.wrapping_sub(stack.base) >= stack.size {
        // The alternate stack is too small for it.
        return Err(());
    }
    let mask = thread.saved_mask.take().unwrap_or(thread.mask);
    let mut frame = vec![0; FRAME];
    frame[..8].copy_from_slice(&action.restorer.to_le_bytes());
    let flags = UC_SEGMENTS | if fpu.len() > LEGACY { UC_XSTATE } else { 0 };
    write_context(&mut frame[8..8 + UCONTEXT], &thread.regs, flags, mask, fpu_addr, stack);
    frame[8 + UCONTEXT..].copy_from_slice(&info_bytes(signal, info));

    thread.regs.rdi = signal.number().into();
    thread.regs.rsi = frame_addr + 8 + UCONTEXT as u64;
    thread.regs.rdx = frame_addr + 8;
    thread.regs.rax = 0;
    thread.regs.rsp = frame_addr;
    thread.regs.rip = action.handler;
    thread.regs.rflags &= !0x0001_0500; // DF, TF, RF clear
    thread.mask = SigSet(thread.mask.0 | action.mask.0).as_mask();
    if action.flags & SA_NODEFER == 0 {
        thread.mask = thread.mask.with(signal).as_mask();
    }
    if stack.disarms.is_some() {
        thread.altstack = AltStack::default();
    }
    let pid = thread.process;
    let process = resident.program.processes.get_mut(&pid).ok_or(())?;
    if action.flags & SA_RESETHAND != 0
        && let Some(slot) = process.actions.get_mut(signal.index())
    {
        slot.handler = 0;
    }
    let space = process.space;
    let mut memory = services.memory(resident, space).map_err(|_| ())?;
    memory.write(UserAddr(frame_addr), &frame).map_err(|_| ())?;
    if !fpu.is_empty() {
        memory.write(UserAddr(fpu_addr), &fpu).map_err(|_| ())?;
    }
    Ok(())
}

/// The registers in the order of struct sigcontext.
fn in_order(r: &mut Regs) -> [&mut u64; 18] {
    [
        &mut r.r8,
        &mut r.r9,
        &mut r.r10,
        &mut r.r11,
        &mut r.r12,
        &mut r.r13,
        &mut r.r14,
        &mut r.r15,
        &mut r.rdi,
        &mut r.rsi,
        &mut r.rbp,
        &mut r.rbx,
        &mut r.rdx,
        &mut r.rax,
        &mut r.rcx,
        &mut r.rsp,
        &mut r.rip,
        &mut r.rflags,
    ]
}

fn write_context(to: &mut [u8], regs: &Regs, flags: u64, mask: SigSet, fpu: u64, stack: AltStack) {
    let mut put = |at: usize, value: u64| to[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, flags);
    put(16, stack.base);
    put(24, stack.flags().into());
    put(32, stack.size);
    for (index, value) in in_order(&mut regs.clone()).into_iter().enumerate() {
        put(MCONTEXT + index * 8, *value);
    }
    put(MCONTEXT + 18 * 8, 0x002b_0000_0000_0033); // cs, gs, fs, ss
    put(FPSTATE, fpu);
    put(UC_SIGMASK, mask.0);
}

/// Leaves a handler (rt_sigreturn(2)): takes registers, mask and alternate stack back from the frame that the stack pointer
/// is at.
pub fn leave<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, tid: Pid) -> Result<(), ()> {
    let thread = resident.program.threads.get_mut(&tid).ok_or(())?;
    services.machine.save_live(&mut thread.regs, &mut thread.fpu);
    let (context_addr, length) = (thread.regs.rsp, thread.fpu.area.len());
    let space = resident.program.processes.get(&thread.process).ok_or(())?.space;
    let mut context = vec![0; UCONTEXT];
    let mut memory = services.memory(resident, space).map_err(|_| ())?;
    memory.read(UserAddr(context_addr), &mut context).map_err(|_| ())?;
    let word = |at: usize| context.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    let fpu_addr = word(FPSTATE);
    let area = if fpu_addr == 0 || length == 0 {
        // As after reset.
        Vec::new()
    } else {
        let mut bytes = vec![0; length.min(LEGACY)];
        memory.read(UserAddr(fpu_addr), &mut bytes).map_err(|_| ())?;
        let mut whole = vec![0; length + 4];
        if length >= HEADED && memory.read(UserAddr(fpu_addr), &mut whole).is_ok() && is_marked(&whole) {
            whole.truncate(length);
            whole
        } else {
            // Only the legacy part can be trusted; the rest is as after reset.
            bytes.resize(length, 0);
            if let Some(header) = bytes.get_mut(LEGACY..LEGACY + 8) {
                header.copy_from_slice(&3_u64.to_le_bytes());
            }
            bytes
        }
    };
    let thread = resident.program.threads.get_mut(&tid).ok_or(())?;
    thread.fpu.area = area;
    services.forget_registers(tid);
    for (index, target) in in_order(&mut thread.regs).into_iter().enumerate() {
        *target = word(MCONTEXT + index * 8);
    }
    // User code may set the arithmetic flags, DF and TF; interrupts stay on (Intel SDM vol. 1, 3.4.3).
    thread.regs.rflags = thread.regs.rflags & 0x0000_0dd5 | 0x202;
    thread.mask = SigSet(word(UC_SIGMASK)).as_mask();
    // What cannot be set stays as it is.
    if let Ok(stack) = AltStack::wanted(word(16), word(24) as u32, word(32))
        && !is_on(thread.altstack, thread.regs.rsp)
    {
        thread.altstack = stack;
    }
    Ok(())
}

/// Whether vector registers of a frame still have their marks.
fn is_marked(bytes: &[u8]) -> bool {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    let length = bytes.len().saturating_sub(4);
    word(SOFTWARE) == MAGIC_BEFORE && word(SOFTWARE + 16) as usize == length && word(length) == MAGIC_BEHIND
}

#[cfg(test)]
mod tests {
    use super::{HEADED, info_bytes, is_marked, is_on, marked};
    use crate::{
        signal::{Info, Signal},
        thread::AltStack,
    };

    #[test]
    fn marks_frame_the_registers() {
        let bytes = marked(&[7; HEADED + 256]);
        assert!(bytes.len() == HEADED + 260 && is_marked(&bytes));
        assert!(!is_marked(&bytes[..bytes.len() - 1]) && !is_marked(&[0; HEADED]) && !is_marked(&[]));
        assert_eq!(marked(&[]).len(), 0);
    }

    #[test]
    fn details_lie_where_the_signal_wants_them() {
        let info = Info { code: 1, pid: 2, uid: 3, value: 4, addr: 5 };
        let word =
            |bytes: &[u8], at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let fault = info_bytes(Signal::SEGV, info);
        assert_eq!((word(&fault, 16), word(&fault, 24)), (5, 0));
        let child = info_bytes(Signal::CHLD, info);
        assert_eq!((word(&child, 16), word(&child, 20), word(&child, 24)), (2, 3, 4));
        let ready = info_bytes(Signal::IO, info);
        assert_eq!((word(&ready, 16), word(&ready, 24)), (5, 4));
        let sent = info_bytes(Signal::SEGV, Info { code: 0, ..info });
        assert_eq!((word(&sent, 16), word(&sent, 20)), (2, 3));
    }

    #[test]
    fn a_stack_begins_at_its_upper_end() {
        let stack = AltStack { base: 1000, size: 100, disarms: None };
        assert!(is_on(stack, 1100) && is_on(stack, 1001) && !is_on(stack, 1000) && !is_on(stack, 1101));
        assert!(!is_on(AltStack::default(), 0));
    }
}

//! Signals.
use super::{Arguments, clock};
use crate::{
    context::{Context, Result, Stop, wait_for},
    delivery::{self, Sent},
    frame,
    process::Ending,
    resident::Key,
    signal::{Action, Effect, Info, SigSet, Signal},
    thread::AltStack,
    timers,
};
use alloc::vec::Vec;
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_hal::Machine;

fn check_set_size(size: u64) -> Result<()> {
    if size == 8 { Ok(()) } else { Err(Errno::EINVAL.into()) }
}

/// `SA_NOCLDSTOP`, `SA_NOCLDWAIT`, `SA_SIGINFO`, `SA_EXPOSE_TAGBITS`, `SA_RESTORER`, `SA_ONSTACK`, `SA_RESTART`,
/// `SA_NODEFER`, `SA_RESETHAND`.
const KNOWN_FLAGS: u64 = 0xdc00_0807;

fn signal(number: u64) -> Result<Signal> {
    Signal::new(number).ok_or(Stop::Errno(Errno::EINVAL))
}

pub fn rt_sigaction<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    check_set_size(a[3])?;
    let signal = signal(a[0] as u32 as u64)?;
    let new = if a[1] == 0 {
        None
    } else {
        let bytes = c.read_bytes(a[1], 32)?;
        let word = |i: usize| u64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().unwrap_or_default());
        // What is not known is taken out, so that programs can ask what is.
        let flags = word(1) & KNOWN_FLAGS;
        Some(Action { handler: word(0), flags, restorer: word(2), mask: SigSet(word(3)).as_mask() })
    };
    if new.is_some() && (signal == Signal::KILL || signal == Signal::STOP) {
        return Err(Errno::EINVAL.into());
    }
    let old = c.process()?.actions.get(signal.index()).copied().unwrap_or_default();
    if a[2] != 0 {
        let words = [old.handler, old.flags, old.restorer, old.mask.0];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        c.write_bytes(a[2], &bytes)?;
    }
    if let Some(new) = new {
        let ignored = new.handler == Action::IGNORE || new.handler == 0 && signal.default_effect() == Effect::Ignore;
        c.set_action(signal.index(), new)?;
        if ignored {
            c.process_mut()?.pending.discard(signal);
            let pid = c.pid;
            for thread in c.resident.program.threads.values_mut().filter(|thread| thread.process == pid) {
                thread.pending.discard(signal);
            }
        }
    }
    Ok(0)
}

pub fn rt_sigprocmask<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    check_set_size(a[3])?;
    let new = if a[1] == 0 { None } else { Some(c.read_u64(a[1])?) };
    let old = c.thread()?.mask;
    if a[2] != 0 {
        c.write_u64(a[2], old.0)?;
    }
    if let Some(new) = new {
        c.thread()?.mask = match a[0] {
            0 => SigSet(old.0 | new),
            1 => SigSet(old.0 & !new),
            2 => SigSet(new),
            _ => return Err(Errno::EINVAL.into()),
        }
        .as_mask();
    }
    Ok(0)
}

pub fn rt_sigpending<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    check_set_size(a[1])?;
    let process = c.process()?.pending.set();
    let thread = c.thread()?;
    let set = (process.0 | thread.pending.set().0) & thread.mask.0;
    c.write_u64(a[0], set)?;
    Ok(0)
}

pub fn rt_sigreturn<M: Machine>(c: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    let (pid, tid) = (c.pid, c.tid);
    if frame::leave(c.resident, c.services, tid).is_err() {
        super::end_process(c.resident, c.services, pid, Ending::Killed(Signal::SEGV));
        return Err(Stop::Gone);
    }
    Err(Stop::Resume)
}

pub fn rt_sigsuspend<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    check_set_size(a[1])?;
    let mask = SigSet(c.read_u64(a[0])?).as_mask();
    let thread = c.thread()?;
    if thread.saved_mask.is_none() {
        thread.saved_mask = Some(thread.mask);
    }
    thread.mask = mask;
    // A signal that becomes deliverable ends the call with EINTR in delivery; nothing else does.
    wait_for(Key::Signal)
}

pub fn pause<M: Machine>(_: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    wait_for(Key::Signal)
}

/// rt_sigtimedwait(2): takes a pending signal of the set without running a handler.
pub fn rt_sigtimedwait<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    check_set_size(a[3])?;
    let set = SigSet(c.read_u64(a[0])?).as_mask();
    if let Some((signal, info)) = c.take_signal(set)? {
        if a[1] != 0 {
            let bytes = frame::info_bytes(signal, info);
            c.write_bytes(a[1], &bytes)?;
        }
        return Ok(signal.number().into());
    }
    if a[2] != 0 {
        let timeout = clock::read_timespec(c, a[2])?;
        let deadline = c.deadline_in(timeout)?;
        if c.now() >= deadline {
            return Err(Errno::EAGAIN.into());
        }
    }
    wait_for(Key::Signal)
}

pub fn sigaltstack<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const ON_STACK: u32 = 1;
    let new = if a[0] == 0 {
        None
    } else {
        Some((c.read_u64(a[0])?, c.read_u32(a[0].wrapping_add(8))?, c.read_u64(a[0].wrapping_add(16))?))
    };
    let thread = c.thread()?;
    let old = thread.altstack;
    let inside = frame::is_on(old, thread.regs.rsp);
    if let Some((base, flags, size)) = new {
        if inside {
            return Err(Errno::EPERM.into());
        }
        c.thread()?.altstack = AltStack::wanted(base, flags, size)?;
    }
    if a[1] != 0 {
        let flags = old.flags() | if inside { ON_STACK } else { 0 };
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&old.base.to_le_bytes());
        bytes[8..12].copy_from_slice(&flags.to_le_bytes());
        bytes[16..].copy_from_slice(&old.size.to_le_bytes());
        c.write_bytes(a[1], &bytes)?;
    }
    Ok(0)
}

/// Whether the caller may send `target` a signal (kill(2)).
pub fn may_signal<M: Machine>(c: &Context<'_, M>, target: Pid, signal: Option<Signal>) -> Result<()> {
    let (caller, target) = (c.process()?, c.process_by(target)?);
    // Whoever is in a session may continue all of it.
    if signal == Some(Signal::CONT) && caller.session == target.session {
        return Ok(());
    }
    let (own, other) = (&caller.credentials, &target.credentials);
    let allowed = own.euid == 0 || [own.uid, own.euid].iter().any(|id| *id == other.uid || *id == other.suid);
    if allowed { Ok(()) } else { Err(Errno::EPERM.into()) }
}

pub fn kill<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let which = a[0] as i32;
    let number = a[1] as u32;
    let signal = if number == 0 { None } else { Some(signal(number.into())?) };
    let own_group = c.process()?.group;
    let caller = c.pid;
    let init = c.resident.program.init();
    let targets: Vec<Pid> = c
        .resident
        .program
        .processes
        .values()
        .filter(|process| match which {
            0 => process.group == own_group,
            -1 => process.pid != caller && process.pid != init,
            w if w > 0 => process.pid.0 == w as u32,
            w => process.group.0 == w.unsigned_abs(),
        })
        .map(|process| process.pid)
        .collect();
    if targets.is_empty() {
        return Err(Errno::ESRCH.into());
    }
    let mut refused = None;
    let mut sent = 0;
    for target in targets {
        match may_signal(c, target, signal) {
            Ok(()) => {
                sent += 1;
                if let Some(signal) = signal {
                    let info = Info::from_user(caller, c.process()?.credentials.uid);
                    delivery::send_to_process(c.resident, target, signal, info);
                }
            }
            Err(stop) => refused = Some(stop),
        }
    }
    match refused {
        Some(stop) if sent == 0 => Err(stop),
        _ => Ok(0),
    }
}

/// Sends a thread a signal; 0 only asks whether that is possible.
fn send_to_thread<M: Machine>(
    c: &mut Context<'_, M>,
    process: Option<Pid>,
    tid: Pid,
    number: u64,
    info: Info,
) -> Result<u64> {
    let wrong = |id: Pid| id.0 as i32 <= 0;
    if wrong(tid) || process.is_some_and(wrong) {
        return Err(Errno::EINVAL.into());
    }
    let owner = c.resident.program.threads.get(&tid).map(|thread| thread.process).ok_or(Errno::ESRCH)?;
    if process.is_some_and(|process| process != owner) {
        return Err(Errno::ESRCH.into());
    }
    let signal = if number as u32 == 0 { None } else { Some(signal(number as u32 as u64)?) };
    may_signal(c, owner, signal)?;
    match signal.map(|signal| delivery::send_to_thread(c.resident, tid, signal, info)) {
        Some(Sent::Full) => Err(Errno::EAGAIN.into()),
        _ => Ok(0),
    }
}

/// What tkill(2) and tgkill(2) tell (`SI_TKILL`).
fn told_by_tkill<M: Machine>(c: &Context<'_, M>) -> Result<Info> {
    Ok(Info { code: -6, ..Info::from_user(c.pid, c.process()?.credentials.uid) })
}

pub fn tkill<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let info = told_by_tkill(c)?;
    send_to_thread(c, None, Pid(a[0] as u32), a[1], info)
}

pub fn tgkill<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let info = told_by_tkill(c)?;
    send_to_thread(c, Some(Pid(a[0] as u32)), Pid(a[1] as u32), a[2], info)
}

/// The siginfo_t that a caller sends along. What only the kernel says may be said to oneself alone.
pub fn told<M: Machine>(c: &mut Context<'_, M>, addr: u64, own: Own) -> Result<Info> {
    const SI_TKILL: i32 = -6;
    let bytes = c.read_bytes(addr, 32)?;
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    let code = word(8) as i32;
    if own == Own::No && (code >= 0 || code == SI_TKILL) {
        return Err(Errno::EPERM.into());
    }
    let value = u64::from(word(24)) | u64::from(word(28)) << 32;
    let addr = u64::from(word(16)) | u64::from(word(20)) << 32;
    Ok(Info { code, pid: word(16), uid: word(20), value, addr })
}

/// Whether a caller sends a signal to its own process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Own {
    /// It does.
    Yes,
    /// To another.
    No,
}

/// rt_sigqueueinfo(2): sends a process a signal with a value.
pub fn rt_sigqueueinfo<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let pid = Pid(a[0] as u32);
    let info = told(c, a[2], if pid == c.pid { Own::Yes } else { Own::No })?;
    let number = a[1] as u32 as u64;
    let signal = if number == 0 { None } else { Some(signal(number)?) };
    // Any thread of a process names it.
    let owner = c.resident.program.threads.get(&pid).map_or(pid, |thread| thread.process);
    may_signal(c, owner, signal)?;
    match signal.map(|signal| delivery::send_to_process(c.resident, owner, signal, info)) {
        Some(Sent::Full) => Err(Errno::EAGAIN.into()),
        _ => Ok(0),
    }
}

/// rt_tgsigqueueinfo(2): the same to a thread.
pub fn rt_tgsigqueueinfo<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (process, tid) = (Pid(a[0] as u32), Pid(a[1] as u32));
    let own = if process == c.pid { Own::Yes } else { Own::No };
    let info = told(c, a[3], own)?;
    send_to_thread(c, Some(process), tid, a[2], info)
}

impl<M: Machine> Context<'_, M> {
    /// Takes a pending signal of a set that the caller could take: its own first, then the process's.
    pub fn take_signal(&mut self, set: SigSet) -> Result<Option<(Signal, Info)>> {
        let mut taken = self.thread()?.pending.take(set);
        if taken.is_none() {
            taken = self.process_mut()?.pending.take(set);
        }
        if let Some((_, info)) = &mut taken {
            timers::note_delivery(&mut self.resident.program, self.pid, info);
        }
        Ok(taken)
    }
}

//! Signals on their way: sending, and entering and leaving handlers.
use crate::{
    frame,
    process::{Ending, Stopped, Untold},
    resident::{Key, Resident},
    services::Services,
    signal::{Action, Effect, Info, SigSet, Signal},
    syscall,
    thread::State,
    timers,
};
use alloc::vec::Vec;
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_hal::Machine;

const CLD_STOPPED: i32 = 5;
const CLD_CONTINUED: i32 = 6;
const SA_RESTART: u64 = 0x1000_0000;

/// What became of a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// It is pending, or was not wanted.
    Done,
    /// The queue is full.
    Full,
}

/// Signals that a process's queues hold at most, whatever `RLIMIT_SIGPENDING` says.
const QUEUE_LIMIT: u64 = 1 << 14;

/// How many signals may still queue up for a process.
fn room<M: Machine>(resident: &Resident<M>, pid: Pid) -> usize {
    const SIGPENDING: usize = 11;
    let Some(process) = resident.program.processes.get(&pid) else { return 0 };
    let limit = process.limits.get(SIGPENDING).map_or(0, |limit| limit.0).min(QUEUE_LIMIT) as usize;
    let threads: usize = resident.program.threads_of(pid).map(|thread| thread.pending.len()).sum();
    limit.saturating_sub(process.pending.len()).saturating_sub(threads)
}

/// Sends a signal to a process as a whole.
pub fn send_to_process<M: Machine>(resident: &mut Resident<M>, pid: Pid, signal: Signal, info: Info) -> Sent {
    if !accept(resident, pid, signal) {
        return Sent::Done;
    }
    let room = if signal.number() >= Signal::RT_MIN { room(resident, pid) } else { 0 };
    if let Some(process) = resident.program.processes.get_mut(&pid)
        && process.pending.push(signal, info, room).is_err()
    {
        return Sent::Full;
    }
    // Any thread that does not block it may take it.
    let taker = resident
        .program
        .threads_of(pid)
        .find(|thread| !thread.mask.has(signal) && thread.state == State::Blocked)
        .map(|thread| thread.tid);
    if let Some(tid) = taker {
        resident.rouse(tid);
    }
    resident.wake(Key::Signal);
    Sent::Done
}

/// Sends a signal to one thread.
pub fn send_to_thread<M: Machine>(resident: &mut Resident<M>, tid: Pid, signal: Signal, info: Info) -> Sent {
    let Some(pid) = resident.program.threads.get(&tid).map(|thread| thread.process) else { return Sent::Done };
    if !accept(resident, pid, signal) {
        return Sent::Done;
    }
    let room = if signal.number() >= Signal::RT_MIN { room(resident, pid) } else { 0 };
    if let Some(thread) = resident.program.threads.get_mut(&tid) {
        if thread.pending.push(signal, info, room).is_err() {
            return Sent::Full;
        }
        if !thread.mask.has(signal) {
            resident.rouse(tid);
        }
    }
    resident.wake(Key::Signal);
    Sent::Done
}

/// What a signal does at once when sent: stop and continue cancel each other, ignored ones are dropped.
/// Returns whether it is to become pending.
fn accept<M: Machine>(resident: &mut Resident<M>, pid: Pid, signal: Signal) -> bool {
    let Some(process) = resident.program.processes.get_mut(&pid) else { return false };
    if process.zombie.is_some() {
        return false;
    }
    let stops = [Signal::STOP, Signal::TSTP, Signal::TTIN, Signal::TTOU];
    let handler = process.actions.get(signal.index()).copied().unwrap_or_default().handler;
    if signal == Signal::CONT || signal == Signal::KILL {
        for stop in stops {
            process.pending.discard(stop);
            for thread in resident.program.threads.values_mut().filter(|thread| thread.process == pid) {
                thread.pending.discard(stop);
            }
        }
        if process.stopped.take().is_some() {
            let continues = signal == Signal::CONT;
            if continues {
                process.continued = Some(Untold);
            }
            let tids: Vec<Pid> = resident.program.threads_of(pid).map(|thread| thread.tid).collect();
            for tid in tids {
                resident.resume(tid);
            }
            if continues {
                tell_of_stop(resident, pid, CLD_CONTINUED, Signal::CONT);
            }
        }
    } else if stops.contains(&signal) {
        process.pending.discard(Signal::CONT);
    }
    let ignored = handler == Action::IGNORE || handler == 0 && signal.default_effect() == Effect::Ignore;
    let blocked = resident.program.threads_of(pid).all(|thread| thread.mask.has(signal));
    !ignored || blocked
}

/// What became of a signal that cannot be ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forced {
    /// Its handler or its default effect comes next.
    Pending,
    /// It is blocked or ignored: the process is to end by it.
    Fatal,
}

/// Sends a thread a signal for a fault of its own.
pub fn force<M: Machine>(resident: &mut Resident<M>, tid: Pid, signal: Signal, info: Info) -> Forced {
    let Some(thread) = resident.program.threads.get(&tid) else { return Forced::Fatal };
    let process = resident.program.processes.get(&thread.process);
    let action = process.and_then(|p| p.actions.get(signal.index())).copied().unwrap_or_default();
    if action.handler == Action::IGNORE || thread.mask.has(signal) {
        return Forced::Fatal;
    }
    send_to_thread(resident, tid, signal, info);
    Forced::Pending
}

/// What delivering signals came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// Nothing was pending.
    None,
    /// A handler is about to run, or an effect took place that interrupts a call.
    Interrupted,
    /// The thread is no more, or is stopped.
    Gone,
}

/// Delivers what is pending for a thread that is about to go to user mode or to issue its call again.
///
/// `in_call` says that a call has blocked: it then ends with `EINTR`, or is issued again after the handler where the
/// program asked for that (SA_RESTART).
pub fn deliver<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    tid: Pid,
    in_call: InCall,
) -> Delivery {
    let mut outcome = Delivery::None;
    let mut in_call = in_call;
    if in_call == InCall::Uninterruptible || in_call == InCall::Killable && !is_being_killed(resident, tid) {
        return outcome;
    }
    if in_call == InCall::Killable {
        let Some(pid) = resident.program.threads.get(&tid).map(|thread| thread.process) else { return Delivery::Gone };
        syscall::end_process(resident, services, pid, Ending::Killed(Signal::KILL));
        return Delivery::Gone;
    }
    loop {
        let Some(thread) = resident.program.threads.get_mut(&tid) else { return Delivery::Gone };
        let allowed = SigSet(!thread.mask.0);
        let pid = thread.process;
        let mut next = thread.pending.take(allowed);
        let Some(process) = resident.program.processes.get_mut(&pid) else { return Delivery::Gone };
        if next.is_none() {
            next = process.pending.take(allowed);
        }
        let Some((signal, mut info)) = next else { return outcome };
        let action = process.actions.get(signal.index()).copied().unwrap_or_default();
        timers::note_delivery(&mut resident.program, pid, &mut info);
        if action.handler == Action::IGNORE {
            continue;
        }
        if action.handler != 0 && signal != Signal::KILL && signal != Signal::STOP {
            syscall::note_time_left(resident, services, tid);
            finish_call(resident, tid, in_call, action);
            in_call = InCall::No;
            if frame::enter(resident, services, tid, (signal, info), action).is_err() {
                // There is no stack for the handler. That is a fault of its own, which another stack may serve.
                if signal != Signal::SEGV && force(resident, tid, Signal::SEGV, Info::from_kernel()) == Forced::Pending
                {
                    continue;
                }
                syscall::end_process(resident, services, pid, Ending::Killed(Signal::SEGV));
                return Delivery::Gone;
            }
            outcome = Delivery::Interrupted;
            continue;
        }
        match signal.default_effect() {
            Effect::Ignore | Effect::Continue => {}
            // Nobody could continue it.
            Effect::Stop if signal != Signal::STOP && is_orphaned(resident, pid) => {}
            Effect::Stop => {
                stop(resident, pid, signal);
                return Delivery::Gone;
            }
            Effect::Terminate | Effect::Core => {
                services.log_killed(resident, pid, signal);
                syscall::end_process(resident, services, pid, Ending::Killed(signal));
                return Delivery::Gone;
            }
        }
    }
}

/// Whether a call is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InCall {
    /// No.
    No,
    /// Yes, one that is issued again after a handler with SA_RESTART.
    Restartable,
    /// Yes, one that returns what it has moved, if it has moved anything; else like `Restartable`.
    Transfer,
    /// Yes, one that returns what it has moved, or ends with EINTR.
    Limited,
    /// Yes, one that returns how many messages it has moved, if any; else like `Restartable`.
    Messages,
    /// Yes, one that no signal interrupts.
    Uninterruptible,
    /// Yes, one that only SIGKILL interrupts.
    Killable,
    /// Yes, one that is always issued again.
    Repeated,
    /// Yes, one that ends with EAGAIN.
    GivenUp,
    /// Yes, one that always ends with EINTR (sleeps, polls, waits for signals).
    Interruptible,
}

/// Whether SIGKILL is on its way to a thread.
pub fn is_being_killed<M: Machine>(resident: &Resident<M>, tid: Pid) -> bool {
    let Some(thread) = resident.program.threads.get(&tid) else { return false };
    let process = resident.program.processes.get(&thread.process);
    thread.pending.set().has(Signal::KILL) || process.is_some_and(|process| process.pending.set().has(Signal::KILL))
}

/// connect, accept, accept4: what their note says is no count.
fn is_socket_wait(number: u64) -> bool {
    matches!(number, 42 | 43 | 288)
}

/// Ends a call that a handler interrupts.
fn finish_call<M: Machine>(resident: &mut Resident<M>, tid: Pid, in_call: InCall, action: Action) {
    let Some(thread) = resident.program.threads.get_mut(&tid) else { return };
    match in_call {
        InCall::No | InCall::Uninterruptible | InCall::Killable => return,
        InCall::Messages if thread.call.is_some_and(|call| call.moved >> 32 != 0) => {
            thread.regs.rax = thread.call.map_or(0, |call| call.moved >> 32);
        }
        InCall::Limited if is_socket_wait(thread.regs.rax) => thread.regs.rax = Errno::EINTR.to_return(),
        InCall::Transfer | InCall::Limited if thread.call.is_some_and(|call| call.moved != 0) => {
            thread.regs.rax = thread.call.map_or(0, |call| call.moved);
        }
        InCall::GivenUp => thread.regs.rax = Errno::EAGAIN.to_return(),
        InCall::Repeated => thread.regs.rip = thread.regs.rip.wrapping_sub(2),
        InCall::Restartable | InCall::Transfer | InCall::Messages if action.flags & SA_RESTART != 0 => {
            // rax still holds the call's number; go back over the `syscall` instruction.
            thread.regs.rip = thread.regs.rip.wrapping_sub(2);
        }
        _ => thread.regs.rax = Errno::EINTR.to_return(),
    }
    thread.call = None;
}

fn is_orphaned<M: Machine>(resident: &Resident<M>, pid: Pid) -> bool {
    let program = &resident.program;
    program.processes.get(&pid).is_some_and(|process| program.is_orphaned(process.group, None))
}

/// Tells a parent that a child has stopped or goes on, unless it does not want to hear of that.
fn tell_of_stop<M: Machine>(resident: &mut Resident<M>, pid: Pid, code: i32, status: Signal) {
    const SA_NOCLDSTOP: u64 = 1;
    let Some(process) = resident.program.processes.get(&pid) else { return };
    let (parent, uid) = (process.parent, process.credentials.uid);
    let Some(action) = resident.program.processes.get(&parent).and_then(|p| p.actions.get(Signal::CHLD.index())) else {
        return;
    };
    if action.handler != Action::IGNORE && action.flags & SA_NOCLDSTOP == 0 {
        let info = Info { code, pid: pid.0, uid, value: status.number().into(), ..Info::default() };
        send_to_process(resident, parent, Signal::CHLD, info);
    }
    resident.wake(Key::Child(parent));
}

fn stop<M: Machine>(resident: &mut Resident<M>, pid: Pid, signal: Signal) {
    let Some(process) = resident.program.processes.get_mut(&pid) else { return };
    process.stopped = Some(Stopped { signal, untold: Some(Untold) });
    process.continued = None;
    let tids: Vec<Pid> = resident.program.threads_of(pid).map(|thread| thread.tid).collect();
    for tid in tids {
        resident.ready.remove(tid);
        if let Some(thread) = resident.program.threads.get_mut(&tid) {
            thread.state = State::Stopped;
        }
    }
    tell_of_stop(resident, pid, CLD_STOPPED, signal);
}

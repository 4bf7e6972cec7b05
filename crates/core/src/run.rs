//! Running threads: into user mode, and what follows when they come out.
use crate::{
    context::{Context, Stop},
    delivery::{self, Delivery, Forced, InCall},
    pressure::{self, Reclaimed},
    process::{Ending, UNLIMITED, limit},
    protect,
    resident::{Key, Resident},
    services::Services,
    signal::{Info, Signal},
    syscall::{self, Faulted},
    thread::State,
    timers,
};
use shimos_abi::{errno::Errno, ids::Pid, time::Nanos};
use shimos_hal::{Machine, Trap};

/// Why a thread's turn is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It can go on; another's turn.
    Yielded,
    /// It can go on, but one has become ready that comes first.
    Overtaken,
    /// It can go on, but something has happened that the event loop must look at.
    Interrupted,
    /// It waits, is stopped or is gone.
    Off,
}

/// What comes after a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum After {
    /// The thread goes on.
    GoOn,
    /// Another's turn.
    GiveWay,
    /// The thread waits or is gone.
    Off,
}

/// How a blocked call of this number takes a signal (signal(7), "Interruption of system calls").
fn in_call(number: u64) -> InCall {
    match number {
        // semop, msgsnd, msgrcv, semtimedop.
        65 | 69 | 70 | 220 => InCall::Interruptible,
        // poll, select, pause, nanosleep, rt_sigtimedwait, rt_sigsuspend, clock_nanosleep, epoll_wait, pselect6, ppoll,
        // epoll_pwait, epoll_pwait2.
        7 | 23 | 34 | 35 | 128 | 130 | 230 | 232 | 270 | 271 | 281 | 441 => InCall::Interruptible,
        // read, write and the like keep what they have moved.
        0 | 1 | 17..=20 | 40 | 44..=47 => InCall::Transfer,
        // recvmmsg and sendmmsg count messages in the high half of the note.
        299 | 307 => InCall::Messages,
        // The parent of a vfork waits for its child whatever happens, unless it is killed.
        56 | 58 | 435 => InCall::Killable,
        _ => InCall::Restartable,
    }
}

/// connect, accept, accept4.
fn is_socket_call(number: u64) -> bool {
    matches!(number, 42 | 43 | 288)
}

fn has_limit(thread: &crate::thread::Thread) -> bool {
    thread.call.is_some_and(|call| call.deadline.is_some())
}

/// The same for the call that a thread is in.
fn in_call_of<M: Machine>(resident: &Resident<M>, tid: Pid) -> InCall {
    let Some(thread) = resident.program.threads.get(&tid) else { return InCall::No };
    let granted = thread.call.is_some_and(|call| syscall::is_settled(thread.regs.rax, call.moved));
    let usual = syscall::lock_wait(thread).unwrap_or_else(|| in_call(thread.regs.rax));
    match usual {
        _ if granted => InCall::Uninterruptible,
        // What it has mapped already must not be mapped again.
        _ if thread.call.is_some_and(|call| call.range.is_some()) => InCall::Killable,
        // A wait for a futex with a time limit would begin its time anew.
        InCall::Restartable if thread.regs.rax == 202 && has_limit(thread) => InCall::Interruptible,
        // So would a call on a socket with one.
        InCall::Transfer if has_limit(thread) => InCall::Limited,
        InCall::Restartable if is_socket_call(thread.regs.rax) && has_limit(thread) => InCall::Limited,
        kind => kind,
    }
}

/// Runs one thread until its turn is over: it blocks, ends, gives way, or `until` comes.
///
/// Its vector registers stay loaded; whoever lets another thread run next writes them back before.
pub fn run<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, tid: Pid, until: Nanos) -> Turn {
    services.begin_turn(&resident.program, tid);
    let turn = go_on(resident, services, tid, until);
    services.end_turn(&mut resident.program);
    if let Some(thread) = resident.program.threads.get_mut(&tid) {
        let turns = if turn == Turn::Off { &mut thread.counters.waits } else { &mut thread.counters.preemptions };
        *turns = turns.wrapping_add(1);
    }
    limit_use(resident, tid);
    turn
}

/// What a process may use of the processor (`RLIMIT_CPU`): over the soft limit it is told once a second, over the hard one
/// it is killed.
fn limit_use<M: Machine>(resident: &mut Resident<M>, tid: Pid) {
    let Some(pid) = resident.program.threads.get(&tid).map(|thread| thread.process) else { return };
    let Some((soft, hard)) = resident.program.processes.get(&pid).and_then(|p| p.limits.get(limit::CPU).copied())
    else {
        return;
    };
    if soft == UNLIMITED && hard == UNLIMITED {
        return;
    }
    let used = resident.program.used_by(pid);
    let over = |limit: u64| limit != UNLIMITED && used >= Nanos::secs(limit);
    if over(hard) {
        delivery::send_to_process(resident, pid, Signal::KILL, Info::from_kernel());
    } else if over(soft) {
        delivery::send_to_process(resident, pid, Signal::XCPU, Info::from_kernel());
        // As on Linux, where it can be seen in what getrlimit(2) says.
        if let Some(limit) = resident.program.processes.get_mut(&pid).and_then(|p| p.limits.get_mut(limit::CPU)) {
            limit.0 = soft.saturating_add(1);
        }
    }
}

/// Accesses in a row that came back although they had been made possible.
#[derive(Default)]
struct Again {
    rip: u64,
    addr: u64,
    count: u32,
}

impl Again {
    /// How many are one too many. Nothing else has run between them, and no call of the thread.
    const MOST: u32 = 64;

    /// An access was made possible.
    fn note(&mut self, rip: u64, addr: u64) {
        if (self.rip, self.addr) != (rip, addr) {
            *self = Again { rip, addr, count: 0 };
        }
        self.count += 1;
        assert!(self.count < Again::MOST, "page tables were overwritten: {addr:#x} faults again and again at {rip:#x}");
    }
}

/// Goes on with a thread. Its calls are its own use as well.
fn go_on<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, tid: Pid, until: Nanos) -> Turn {
    let Some(thread) = resident.program.threads.get(&tid) else { return Turn::Off };
    // What the call waits for counts before a signal that came meanwhile: the call is issued again first.
    if thread.call.is_some() {
        if let Some(others) = services.sampling.next() {
            services.begin_timing(&mut resident.program, others);
        }
        match call(resident, services, tid) {
            After::GoOn => {}
            After::GiveWay => return Turn::Yielded,
            After::Off => return Turn::Off,
        }
    }
    // All system calls come through here: nothing is looked up twice, and nobody looks at the clock. The machine comes
    // back when the time is up.
    let mut delivered = false;
    let mut again = Again::default();
    loop {
        if services.is_timing() {
            services.end_timing(&mut resident.program);
        }
        let counted = resident.timers.count_use();
        let until = if counted { limited_by_use(resident, services, tid, until) } else { until };
        // execve may have given the thread its process's id; then its turn is over.
        let Some(thread) = resident.program.threads.get_mut(&tid) else { return Turn::Off };
        let Some(process) = resident.program.processes.get(&thread.process) else { return Turn::Off };
        if !(delivered || thread.pending.is_empty() && process.pending.is_empty()) {
            if resident.has_signals(tid) && delivery::deliver(resident, services, tid, InCall::No) == Delivery::Gone {
                return Turn::Off;
            }
            delivered = true;
            continue;
        }
        delivered = false;
        if thread.state != State::Ready || resident.pending.damage().is_some() {
            return Turn::Off;
        }
        let Some(tables) = resident.tables.get(&process.space) else { return Turn::Off };
        let space = process.space;
        // Timers that a call has set come on time, and so do those that count what the thread uses.
        let until = resident.timers.next().map_or(until, |at| at.min(until));
        services.loaded = Some(tid);
        let (files, descriptions) = (&resident.program.tables, &resident.program.descriptions);
        let (trap, measured) = loop {
            let trap = services.machine.run(tables, &mut thread.regs, &mut thread.fpu, until);
            let measured = services.sampling.next();
            if measured.is_some() || trap != Trap::Syscall {
                break (trap, measured);
            }
            // After these calls everything is as it was: what interrupts bring ends the stay by itself.
            match syscall::answer(thread, process, files, descriptions) {
                Some(value) => thread.regs.rax = value,
                None => break (trap, None),
            }
        };
        if let Some(others) = measured {
            services.begin_timing(&mut resident.program, others);
        }
        if counted {
            services.count_use(&mut resident.program);
            timers::expire_used(resident, services.machine.now());
        }
        // By far the most frequent one does not go through a table of jumps.
        if trap == Trap::Syscall {
            again = Again::default();
            match call(resident, services, tid) {
                After::GoOn if resident.ready.take_news().is_some() && resident.is_overtaken(services, tid) => {
                    return Turn::Overtaken;
                }
                After::GoOn => continue,
                After::GiveWay => return Turn::Yielded,
                After::Off => return Turn::Off,
            }
        }
        match trap {
            Trap::Syscall => {}
            Trap::Interrupted => return Turn::Interrupted,
            Trap::PageFault { addr, access } => match syscall::page_fault(resident, services, space, addr, access) {
                Faulted::Resolved => {
                    if let Some(thread) = resident.program.threads.get_mut(&tid) {
                        thread.counters.minor_faults = thread.counters.minor_faults.wrapping_add(1);
                        again.note(thread.regs.rip, addr.0);
                    }
                    services.settle(resident);
                }
                Faulted::Wait(block) => {
                    if let Some(thread) = resident.program.threads.get_mut(&tid) {
                        thread.counters.major_faults = thread.counters.major_faults.wrapping_add(1);
                    }
                    resident.wait_for_page(tid, Key::Block(block));
                    return Turn::Off;
                }
                Faulted::OutOfMemory => {
                    // The event loop gives memory back or ends a process, perhaps this one; then the access is tried again.
                    services.starved = Some(resident.program.head.id);
                    return Turn::Interrupted;
                }
                Faulted::Signal(signal, code) => force(resident, services, tid, signal, code, addr.0),
            },
            Trap::Exception { vector, .. } => {
                let rip = resident.program.threads.get(&tid).map_or(0, |thread| thread.regs.rip);
                let (signal, code) = signal_of(resident, services, tid, vector);
                let addr = if code == SI_KERNEL { 0 } else { rip };
                force(resident, services, tid, signal, code, addr);
            }
        }
    }
}

/// When a thread comes back at the latest because a timer runs by what it uses.
#[cold]
fn limited_by_use<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, tid: Pid, until: Nanos) -> Nanos {
    let Some(process) = resident.program.threads.get(&tid).map(|thread| thread.process) else { return until };
    services.count_use(&mut resident.program);
    let left = timers::left_to_use(&resident.program, &resident.timers, process, tid);
    left.map_or(until, |left| until.min(services.machine.now() + left))
}

/// Sends a signal for a fault of the thread's own, which it cannot ignore: blocked or ignored it ends the process.
fn force<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    tid: Pid,
    signal: Signal,
    code: i32,
    addr: u64,
) {
    let Some(pid) = resident.program.threads.get(&tid).map(|thread| thread.process) else { return };
    if delivery::force(resident, tid, signal, Info { code, addr, ..Info::default() }) == Forced::Fatal {
        services.log_killed(resident, pid, signal);
        syscall::end_process(resident, services, pid, Ending::Killed(signal));
    }
}

/// `si_code` of what only the processor can tell of.
const SI_KERNEL: i32 = 0x80;

/// The signal and code for an exception (Intel SDM vol. 3, table 6-1; the signals are those of Linux).
fn signal_of<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    tid: Pid,
    vector: u8,
) -> (Signal, i32) {
    const FPE_INTDIV: i32 = 1;
    const TRAP_TRACE: i32 = 2;
    const ILL_ILLOPN: i32 = 2;
    const BUS_ADRALN: i32 = 1;
    match vector {
        0 => (Signal::FPE, FPE_INTDIV),
        1 => (Signal::TRAP, TRAP_TRACE),
        3 => (Signal::TRAP, SI_KERNEL),
        6 => (Signal::ILL, ILL_ILLOPN),
        11 | 12 => (Signal::BUS, SI_KERNEL),
        16 | 19 => {
            let Some(thread) = resident.program.threads.get_mut(&tid) else { return (Signal::FPE, SI_KERNEL) };
            services.machine.save_live(&mut thread.regs, &mut thread.fpu);
            (Signal::FPE, float_code(&thread.fpu.area, vector))
        }
        17 => (Signal::BUS, BUS_ADRALN),
        _ => (Signal::SEGV, SI_KERNEL),
    }
}

/// Which floating-point exception it was: the first that has happened and is not masked.
fn float_code(area: &[u8], vector: u8) -> i32 {
    const FPE_FLTDIV: i32 = 3;
    const FPE_FLTOVF: i32 = 4;
    const FPE_FLTUND: i32 = 5;
    const FPE_FLTRES: i32 = 6;
    const FPE_FLTINV: i32 = 7;
    let half = |at: usize| area.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes);
    // Control and status word of x87, or MXCSR with the mask above the flags.
    let raised = if vector == 16 { half(2) & !half(0) } else { half(24) & !(half(24) >> 7) };
    match raised {
        bits if bits & 1 != 0 => FPE_FLTINV,
        bits if bits & 4 != 0 => FPE_FLTDIV,
        bits if bits & 8 != 0 => FPE_FLTOVF,
        bits if bits & 0x12 != 0 => FPE_FLTUND,
        bits if bits & 0x20 != 0 => FPE_FLTRES,
        _ => SI_KERNEL,
    }
}

/// Issues a thread's call: for the first time, or again.
fn call<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, tid: Pid) -> After {
    let Some(thread) = resident.program.threads.get(&tid) else { return After::Off };
    let (pid, r) = (thread.process, &thread.regs);
    let (number, arguments) = (r.rax, [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]);
    let mut context = Context::new(resident, services, tid, pid);
    let refused = context.services.frames.refused();
    let outcome = match pressure::admit(&mut context, number) {
        Ok(()) => syscall::dispatch(&mut context, number, arguments),
        Err(errno) => Err(errno.into()),
    };
    let tid = context.tid;
    let after = match outcome {
        Ok(value) => finish(resident, tid, Some(value)),
        Err(stop) => stopped(resident, services, tid, stop, refused),
    };
    services.settle(resident);
    // The card works on it while the program goes on.
    if resident.program.net.has_frames() {
        protect::flush_network(resident, services);
    }
    after
}

/// What comes after a call that did not return a number. `refused` is how often a frame had been refused before it.
fn stopped<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    tid: Pid,
    mut stop: Stop,
    refused: u64,
) -> After {
    if stop == Stop::Errno(Errno::ENOMEM)
        && services.frames.refused() != refused
        && pressure::reclaim(resident, services) == Reclaimed::Something
    {
        // What was given back may be enough.
        stop = Stop::Again;
    }
    match stop {
        Stop::Errno(errno) => finish(resident, tid, Some(errno.to_return())),
        Stop::Resume => finish(resident, tid, None),
        Stop::Yield => match finish(resident, tid, Some(0)) {
            After::GoOn => After::GiveWay,
            after => after,
        },
        Stop::Gone => After::Off,
        Stop::Again => {
            if let Some(thread) = resident.program.threads.get_mut(&tid) {
                thread.call.get_or_insert_default();
            }
            let killed = delivery::is_being_killed(resident, tid)
                && delivery::deliver(resident, services, tid, InCall::Killable) == Delivery::Gone;
            if !killed {
                resident.give_way(tid);
            }
            After::Off
        }
        Stop::Block(keys) => {
            if let Some(thread) = resident.program.threads.get_mut(&tid) {
                thread.call.get_or_insert_default();
            }
            // A signal that waits already, or that the call has let in by lending the thread another mask, interrupts it.
            let outcome = if resident.has_signals(tid) {
                // A wait for the disk is short, and programs do not expect that it ends otherwise.
                let disk = matches!(keys[..], [Key::Block(_)]);
                let kind = if disk { InCall::Killable } else { in_call_of(resident, tid) };
                delivery::deliver(resident, services, tid, kind)
            } else {
                Delivery::None
            };
            match outcome {
                Delivery::Interrupted => After::GoOn,
                Delivery::Gone => After::Off,
                Delivery::None => {
                    resident.block(tid, &keys);
                    After::Off
                }
            }
        }
    }
}

#[inline]
fn finish<M: Machine>(resident: &mut Resident<M>, tid: Pid, value: Option<u64>) -> After {
    let Some(thread) = resident.program.threads.get_mut(&tid) else { return After::Off };
    if let Some(value) = value {
        thread.regs.rax = value;
    }
    thread.call = None;
    if let Some(mask) = thread.saved_mask.take() {
        thread.mask = mask;
    }
    After::GoOn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_at_different_places_may_go_on_for_ever() {
        let mut again = Again::default();
        (0..1000).for_each(|page| again.note(1, page % 2));
    }

    #[test]
    #[should_panic(expected = "page tables were overwritten")]
    fn the_same_fault_again_and_again_is_none_of_the_program() {
        let mut again = Again::default();
        (0..1000).for_each(|_| again.note(1, 2));
    }
}

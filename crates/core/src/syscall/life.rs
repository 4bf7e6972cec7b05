//! The end of threads and processes, and what execve(2) leaves of them.
use super::Arguments;
use crate::{
    context::{Context, Result, Stop},
    delivery,
    jobs::{self, Leaving},
    locks::Cut,
    process::{Ending, SpaceId},
    resident::{Key, Resident},
    services::Services,
    signal::{Info, SigSet, Signal},
    thread::AltStack,
    timers,
};
use alloc::vec::Vec;
use shimos_abi::ids::Pid;
use shimos_hal::{Fpu, Machine};

/// exit(2): ends the calling thread, and its process with the last one.
pub fn exit<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (pid, tid) = (c.pid, c.tid);
    if c.resident.program.has_other_threads(pid, tid) {
        end_thread(c.resident, c.services, tid);
    } else {
        end_process(c.resident, c.services, pid, Ending::Exited(a[0] as u8));
    }
    Err(Stop::Gone)
}

pub fn exit_group<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    end_process(c.resident, c.services, c.pid, Ending::Exited(a[0] as u8));
    Err(Stop::Gone)
}

/// Ends one thread: clears and wakes its thread-id word, gives up its robust futexes.
fn end_thread<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, tid: Pid) {
    super::futex::give_up(resident, services, tid);
    resident.forget(tid);
    services.count_use(&mut resident.program);
    let Some(thread) = resident.program.threads.remove(&tid) else { return };
    // The next thread with this id may come from an image.
    services.forget_registers(tid);
    if let Some(files) = thread.files {
        services.drop_table(resident, files);
    }
    if matches!(thread.regs.rax, 2 | 85 | 257 | 437) {
        super::open::give_back(resident, thread.call.map_or(0, |call| call.moved));
    }
    if thread.regs.rax == 3 {
        super::linger::give_back(resident, services, thread.call.map_or(0, |call| call.moved));
    }
    // Its maker may wait for it in vfork(2).
    resident.wake(Key::Child(thread.process));
    if let Some(list) = thread.undo {
        let now = (services.machine.wall_clock() / 1_000_000_000) as i64;
        super::semaphores::end_list(resident, list, thread.process, now);
    }
    if let Some(process) = resident.program.processes.get_mut(&thread.process) {
        process.ended_used = process.ended_used + thread.used;
        process.ended_counters = process.ended_counters.with(thread.counters);
    }
}

/// Ends a process with all its threads: closes its files, drops its memory, hands its children to init, tells its parent.
pub fn end_process<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, pid: Pid, ending: Ending) {
    let tids: Vec<Pid> = resident.program.threads_of(pid).map(|thread| thread.tid).collect();
    for tid in tids {
        end_thread(resident, services, tid);
    }
    let Some(process) = resident.program.processes.get(&pid) else { return };
    let (space, files) = (process.space, process.files);
    super::tell_no_more(resident, None, pid);
    if resident.program.locks.forget_process(pid, None) == Cut::Some {
        resident.wake(Key::Lock);
    }
    services.drop_space_of(resident, space, pid);
    services.drop_table(resident, files);
    timers::forget(resident, pid, timers::Which::All);
    let init = resident.program.init();
    let Some(process) = resident.program.processes.get_mut(&pid) else { return };
    process.zombie = Some(ending);
    let (parent, exit_signal, waiter) = (process.parent, process.exit_signal, process.vfork_waiter.take());
    if pid == init {
        resident.ended = Some(ending.status());
        return;
    }
    jobs::give_up(resident, pid, Leaving::Ends);
    jobs::cut_ties(resident, pid, parent, Some(pid));
    let mut ended = Vec::new();
    let mut told = Vec::new();
    let heir = heir(resident, parent);
    for child in resident.program.processes.values_mut().filter(|child| child.parent == pid) {
        told.extend(child.rights.parent_death.filter(|_| child.zombie.is_none()).map(|signal| (child.pid, signal)));
        child.parent = heir;
        child.exit_signal = Some(Signal::CHLD);
        if let Some(ending) = child.zombie {
            ended.push((child.pid, ending));
        }
    }
    let children: Vec<Pid> = resident.program.children_of(heir).map(|child| child.pid).collect();
    for child in children {
        jobs::cut_ties(resident, child, pid, None);
    }
    for (child, ending) in ended {
        tell_parent(resident, child, heir, Some(Signal::CHLD), ending);
    }
    for (child, signal) in told {
        delivery::send_to_process(resident, child, signal, Info { pid: pid.0, ..Info::default() });
    }
    if let Some(waiter) = waiter {
        resident.rouse(waiter);
    }
    tell_parent(resident, pid, parent, exit_signal, ending);
    resident.wake(Key::Ended(pid));
    resident.wake(Key::Child(heir));
}

/// Whose children the children of a process become that ends: those of its next ancestor that reaps, or of init.
fn heir<M: Machine>(resident: &Resident<M>, parent: Pid) -> Pid {
    let processes = &resident.program.processes;
    let mut next = processes.get(&parent);
    // A chain of parents is no longer than there are processes.
    for _ in 0..processes.len() {
        match next {
            Some(process) if process.rights.reaper && process.zombie.is_none() => return process.pid,
            Some(process) => next = processes.get(&process.parent),
            None => break,
        }
    }
    resident.program.init()
}

/// Sends the exit signal and wakes the parent's wait; a parent that ignores SIGCHLD leaves no zombie (wait(2)).
fn tell_parent<M: Machine>(
    resident: &mut Resident<M>,
    pid: Pid,
    parent: Pid,
    exit_signal: Option<Signal>,
    ending: Ending,
) {
    const NO_CHILD_WAIT: u64 = 2;
    let Some(process) = resident.program.processes.get(&parent) else {
        resident.program.processes.remove(&pid);
        return;
    };
    let action = process.actions.get(Signal::CHLD.index()).copied().unwrap_or_default();
    if action.handler == crate::signal::Action::IGNORE || action.flags & NO_CHILD_WAIT != 0 {
        resident.program.processes.remove(&pid);
    } else if let Some(signal) = exit_signal {
        let (code, value) = match ending {
            Ending::Exited(status) => (1, u64::from(status)),
            Ending::Killed(signal) => (2, u64::from(signal.number())),
        };
        delivery::send_to_process(resident, parent, signal, Info { code, pid: pid.0, value, ..Info::default() });
    }
    resident.wake(Key::Child(parent));
}

/// The freshly executed image's entry state.
pub struct Image {
    /// Entry point.
    pub entry: u64,
    /// Initial stack pointer.
    pub stack: u64,
}

/// Makes the calling thread the only one of its process, with a new address space (execve(2)).
pub fn replace_image<M: Machine>(c: &mut Context<'_, M>, space: SpaceId, image: &Image) -> Result<()> {
    let (pid, tid) = (c.pid, c.tid);
    let others: Vec<Pid> = c.resident.program.threads_of(pid).map(|t| t.tid).filter(|other| *other != tid).collect();
    for other in others {
        end_thread(c.resident, c.services, other);
    }
    super::futex::give_up(c.resident, c.services, tid);
    let old = c.process()?.space;
    c.services.drop_space_of(c.resident, old, pid);
    timers::forget(c.resident, pid, timers::Which::Posix);
    let process = c.process_mut()?;
    process.space = space;
    process.barriers = None;
    for action in process.actions.iter_mut() {
        if action.handler != crate::signal::Action::IGNORE {
            *action = crate::signal::Action::default();
        } else {
            *action = crate::signal::Action { handler: action.handler, ..Default::default() };
        }
    }
    process.executed = Some(crate::process::Untold);
    process.exit_signal = process.exit_signal.map(|_| Signal::CHLD);
    let waiter = process.vfork_waiter.take();
    if let Some(waiter) = waiter {
        c.resident.rouse(waiter);
    }
    c.count_use();
    // The thread that executes takes the process's id (execve(2)).
    let Some(mut thread) = c.resident.program.threads.remove(&tid) else { return Err(Stop::Gone) };
    thread.tid = pid;
    thread.regs = shimos_hal::Regs { rip: image.entry, rsp: image.stack, rflags: 0x202, ..Default::default() };
    thread.fpu = Fpu { tag: pid.0.into(), area: Vec::new() };
    // A program that is being made executes while another's registers are loaded; those stay.
    c.services.forget_registers(tid);
    c.services.forget_registers(pid);
    thread.altstack = AltStack::default();
    thread.clear_tid = 0;
    thread.robust_list = 0;
    thread.call = None;
    thread.mask = SigSet(thread.saved_mask.take().unwrap_or(thread.mask).0);
    let unused = c.process_mut()?.inherit(&mut thread);
    c.resident.program.threads.insert(pid, thread);
    if let Some(files) = unused {
        c.services.drop_table(c.resident, files);
    }
    if tid != pid {
        // The turn that runs is the old id's; it ends with this call.
        c.resident.make_ready(pid);
    }
    c.tid = pid;
    Ok(())
}

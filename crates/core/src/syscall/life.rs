//! The life of processes and threads: clone, exit.
use super::Arguments;
use crate::{
    context::{Context, Result, Stop},
    delivery,
    jobs::{self, Leaving},
    process::{Ending, Process, SpaceId},
    resident::{Key, Resident},
    services::Services,
    signal::{Info, Pending, SigSet, Signal},
    thread::{AltStack, Counters, State, Thread},
    timers,
};
use alloc::vec::Vec;
use shimos_abi::{errno::Errno, ids::Pid, time::Nanos};
use shimos_hal::{Fpu, Machine};

const CLONE_VM: u64 = 0x100;
const CLONE_FS: u64 = 0x200;
const CLONE_FILES: u64 = 0x400;
const CLONE_SIGHAND: u64 = 0x800;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_THREAD: u64 = 0x1_0000;
const CLONE_SYSVSEM: u64 = 0x4_0000;
const CLONE_SETTLS: u64 = 0x8_0000;
const CLONE_PARENT_SETTID: u64 = 0x10_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
const CLONE_DETACHED: u64 = 0x40_0000;
const CLONE_CHILD_SETTID: u64 = 0x100_0000;
const KNOWN: u64 = CLONE_VM
    | CLONE_FS
    | CLONE_FILES
    | CLONE_SIGHAND
    | CLONE_VFORK
    | CLONE_PARENT
    | CLONE_THREAD
    | CLONE_SYSVSEM
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_CLEARTID
    | CLONE_DETACHED
    | CLONE_CHILD_SETTID;

/// What a clone is asked for, whichever call asked.
#[derive(Clone, Copy, Default)]
struct Wish {
    flags: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
    exit_signal: u64,
}

pub fn clone<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let wish = Wish {
        flags: a[0] & !0xff,
        stack: a[1],
        parent_tid: a[2],
        child_tid: a[3],
        tls: a[4],
        exit_signal: a[0] & 0xff,
    };
    start(c, wish)
}

/// clone3(2): the first 64 bytes of struct clone_args are understood; more must be zero.
pub fn clone3<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let size = a[1] as usize;
    if size < 64 {
        return Err(Errno::EINVAL.into());
    }
    if size > 4096 {
        return Err(Errno::E2BIG.into());
    }
    let bytes = c.read_bytes(a[0], size)?;
    let words: Vec<u64> = bytes.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap_or_default())).collect();
    if bytes.iter().skip(64).any(|byte| *byte != 0) {
        return Err(Errno::E2BIG.into());
    }
    let [flags, _pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls] = words[..8] else {
        return Err(Errno::EINVAL.into());
    };
    let top = if stack == 0 { 0 } else { stack.wrapping_add(stack_size) };
    if flags & 0xff != 0 || exit_signal > 64 {
        return Err(Errno::EINVAL.into());
    }
    start(c, Wish { flags, stack: top, parent_tid, child_tid, tls, exit_signal })
}

pub fn fork<M: Machine>(c: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    start(c, Wish { exit_signal: Signal::CHLD.number().into(), ..Wish::default() })
}

pub fn vfork<M: Machine>(c: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    let flags = CLONE_VM | CLONE_VFORK;
    start(c, Wish { flags, exit_signal: Signal::CHLD.number().into(), ..Wish::default() })
}

fn start<M: Machine>(c: &mut Context<'_, M>, wish: Wish) -> Result<u64> {
    // The parent of a vfork was woken: its child has gone its own way.
    if wish.flags & CLONE_VFORK != 0 && c.moved()? != 0 {
        let child = c.moved()?;
        let still = c.resident.program.processes.get(&Pid(child as u32)).is_some_and(|p| p.vfork_waiter == Some(c.tid));
        return if still { Err(Stop::Block(Vec::from([Key::Child(c.pid)]))) } else { Ok(child) };
    }
    check(wish)?;
    let tid = c.resident.program.fresh_pid()?;
    if wish.flags & CLONE_PARENT_SETTID != 0 {
        c.write_u32(wish.parent_tid, tid.0)?;
    }
    if wish.flags & CLONE_THREAD != 0 {
        let process = c.pid;
        add_thread(c, wish, tid, process)?;
    } else {
        add_process(c, wish, tid)?;
        add_thread(c, wish, tid, tid)?;
    }
    if wish.flags & CLONE_CHILD_SETTID != 0 {
        // It is the child's memory that is written: a private copy, unless the two share it.
        let space = c.resident.program.processes.get(&c.resident.program.threads[&tid].process).map(|p| p.space);
        if let Some(space) = space {
            let bytes = tid.0.to_le_bytes();
            let _ = c.services.memory(c.resident, space)?.write(shimos_abi::addr::UserAddr(wish.child_tid), &bytes);
        }
    }
    c.resident.ready.push_back(tid);
    if wish.flags & CLONE_VFORK != 0 {
        c.set_moved(tid.0.into())?;
        return Err(Stop::Block(Vec::from([Key::Child(c.pid)])));
    }
    Ok(tid.0.into())
}

fn check(wish: Wish) -> Result<()> {
    let has = |flag| wish.flags & flag != 0;
    if wish.flags & !KNOWN != 0
        || has(CLONE_SIGHAND) && !has(CLONE_VM)
        || has(CLONE_THREAD) && !has(CLONE_SIGHAND)
        // Threads share these here always; to say otherwise would be a success that did something else.
        || has(CLONE_THREAD) && !(has(CLONE_FILES) && has(CLONE_FS))
    {
        return Err(Errno::EINVAL.into());
    }
    Ok(())
}

fn add_thread<M: Machine>(c: &mut Context<'_, M>, wish: Wish, tid: Pid, process: Pid) -> Result<()> {
    let undo = if wish.flags & CLONE_SYSVSEM != 0 { super::semaphores::share_undo_list(c)? } else { None };
    let name = c.comm();
    let Some(parent) = c.resident.program.threads.get_mut(&c.tid) else { return Err(Stop::Gone) };
    c.services.machine.save_fpu(&mut parent.fpu);
    let mut regs = parent.regs;
    regs.rax = 0;
    if wish.stack != 0 {
        regs.rsp = wish.stack;
    }
    if wish.flags & CLONE_SETTLS != 0 {
        regs.fs_base = wish.tls;
    }
    let shares_memory = wish.flags & CLONE_VM != 0;
    let thread = Thread {
        tid,
        process,
        regs,
        fpu: Fpu { tag: tid.0.into(), area: parent.fpu.area.clone() },
        state: State::Ready,
        mask: parent.saved_mask.unwrap_or(parent.mask),
        saved_mask: None,
        pending: Pending::default(),
        altstack: if shares_memory && wish.flags & CLONE_VFORK == 0 { AltStack::default() } else { parent.altstack },
        clear_tid: if wish.flags & CLONE_CHILD_CLEARTID != 0 { wish.child_tid } else { 0 },
        robust_list: 0,
        call: None,
        used: Nanos(0),
        undo,
        name: if wish.flags & CLONE_THREAD != 0 { Some(name) } else { None },
        counters: Counters::default(),
    };
    c.resident.program.threads.insert(tid, thread);
    Ok(())
}

fn add_process<M: Machine>(c: &mut Context<'_, M>, wish: Wish, pid: Pid) -> Result<()> {
    let space = if wish.flags & CLONE_VM != 0 {
        c.process()?.space
    } else {
        let from = c.process()?.space;
        c.services.fork_space(c.resident, from)?
    };
    let files = c.process()?.files;
    let files = if wish.flags & CLONE_FILES != 0 {
        if let Some(table) = c.resident.program.tables.get_mut(&files) {
            table.users += 1;
        }
        files
    } else {
        copy_table(c.resident, files)
    };
    let now = c.now;
    let parent = c.process()?;
    // A sibling tells the parent as its maker does: nobody may choose a signal for another's parent.
    let (actual_parent, exit_signal) = if wish.flags & CLONE_PARENT != 0 {
        (parent.parent, parent.exit_signal)
    } else {
        (parent.pid, Signal::new(wish.exit_signal))
    };
    let child = Process {
        pid,
        parent: actual_parent,
        space,
        files,
        pending: Pending::default(),
        zombie: None,
        vfork_waiter: (wish.flags & CLONE_VFORK != 0).then_some(c.tid),
        started: now,
        children_used: Nanos(0),
        ended_used: Nanos(0),
        ended_counters: Counters::default(),
        children_counters: Counters::default(),
        comm: c.comm(),
        exit_signal,
        stopped: None,
        continued: None,
        executed: None,
        ..parent.clone()
    };
    c.resident.program.processes.insert(pid, child);
    Ok(())
}

/// A copy of a descriptor table, as fork(2) makes it.
pub fn copy_table<M: Machine>(resident: &mut Resident<M>, files: crate::files::FilesId) -> crate::files::FilesId {
    let copy = crate::files::FilesId(resident.program.fresh_id());
    let mut table = resident.program.tables.get(&files).cloned().unwrap_or_default();
    table.users = 1;
    let descriptors: Vec<_> = table.iter().map(|(_, descriptor)| descriptor).collect();
    for descriptor in descriptors {
        resident.program.retain(descriptor);
    }
    resident.program.tables.insert(copy, table);
    copy
}

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
    let Some(thread) = resident.program.threads.remove(&tid) else { return };
    if let Some(list) = thread.undo {
        let now = (services.machine.wall_clock() / 1_000_000_000) as i64;
        super::semaphores::end_list(resident, list, thread.process, now);
    }
    resident.ready.retain(|ready| *ready != tid);
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
    super::tell_no_more(&mut resident.program, None, pid);
    resident.program.locks.forget_process(pid, None);
    resident.wake(Key::Lock);
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
    for child in resident.program.processes.values_mut().filter(|child| child.parent == pid) {
        child.parent = init;
        child.exit_signal = Some(Signal::CHLD);
        if let Some(ending) = child.zombie {
            ended.push((child.pid, ending));
        }
    }
    let children: Vec<Pid> = resident.program.children_of(init).map(|child| child.pid).collect();
    for child in children {
        jobs::cut_ties(resident, child, pid, None);
    }
    for (child, ending) in ended {
        tell_parent(resident, child, init, Some(Signal::CHLD), ending);
    }
    if let Some(waiter) = waiter {
        resident.rouse(waiter);
    }
    tell_parent(resident, pid, parent, exit_signal, ending);
    resident.wake(Key::Child(init));
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
    for action in &mut process.actions {
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
    // The thread that executes takes the process's id (execve(2)).
    let Some(mut thread) = c.resident.program.threads.remove(&tid) else { return Err(Stop::Gone) };
    thread.tid = pid;
    thread.regs = shimos_hal::Regs { rip: image.entry, rsp: image.stack, rflags: 0x202, ..Default::default() };
    thread.fpu = Fpu { tag: pid.0.into(), area: Vec::new() };
    c.services.machine.forget_fpu();
    thread.altstack = AltStack::default();
    thread.clear_tid = 0;
    thread.robust_list = 0;
    thread.call = None;
    thread.mask = SigSet(thread.saved_mask.take().unwrap_or(thread.mask).0);
    c.resident.program.threads.insert(pid, thread);
    if tid != pid {
        // The turn that runs is the old id's; it ends with this call.
        c.resident.ready.push_back(pid);
    }
    c.tid = pid;
    Ok(())
}

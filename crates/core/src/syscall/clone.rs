//! New threads and processes: clone, fork, vfork, unshare.
use super::Arguments;
use crate::{
    context::{Context, Result, Stop},
    files::{Descriptor, FilesId, Kind, OnExec},
    process::{Process, limit},
    resident::{Key, Resident},
    sharing::Whereabouts,
    signal::{Action, Pending, Signal},
    thread::{AltStack, Counters, State, Thread},
    turns::Standing,
};
use alloc::vec::Vec;
use shimos_abi::{
    addr::{USER_END, UserAddr},
    errno::Errno,
    ids::{PIDS_PER_PROGRAM, Pid},
    time::Nanos,
};
use shimos_hal::{Fpu, Machine};
use shimos_memory::space::Progress;

const CLONE_NEWTIME: u64 = 0x80;
const CLONE_VM: u64 = 0x100;
const CLONE_FS: u64 = 0x200;
const CLONE_FILES: u64 = 0x400;
const CLONE_SIGHAND: u64 = 0x800;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_THREAD: u64 = 0x1_0000;
const CLONE_NEWNS: u64 = 0x2_0000;
const CLONE_SYSVSEM: u64 = 0x4_0000;
const CLONE_SETTLS: u64 = 0x8_0000;
const CLONE_PARENT_SETTID: u64 = 0x10_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
const CLONE_DETACHED: u64 = 0x40_0000;
const CLONE_CHILD_SETTID: u64 = 0x100_0000;
const CLONE_NEWCGROUP: u64 = 0x200_0000;
const CLONE_NEWUTS: u64 = 0x400_0000;
const CLONE_NEWIPC: u64 = 0x800_0000;
const CLONE_NEWUSER: u64 = 0x1000_0000;
const CLONE_NEWPID: u64 = 0x2000_0000;
const CLONE_NEWNET: u64 = 0x4000_0000;
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;
/// A program is one name space of each kind; it makes no others.
const NAME_SPACES: u64 = CLONE_NEWTIME
    | CLONE_NEWNS
    | CLONE_NEWCGROUP
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET;

/// What a clone is asked for, whichever call asked.
#[derive(Clone, Copy, Default)]
struct Wish {
    flags: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
    exit_signal: u64,
    /// Where the descriptor of the new process goes.
    pidfd: u64,
    /// The thread id that it must get.
    tid: Option<u32>,
}

pub fn clone<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let wish = Wish {
        flags: a[0] & 0xffff_ff00,
        stack: a[1],
        parent_tid: a[2],
        child_tid: a[3],
        tls: a[4],
        exit_signal: a[0] & 0xff,
        pidfd: a[2],
        tid: None,
    };
    start(c, wish)
}

/// clone3(2).
pub fn clone3<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const KNOWN_SIZE: usize = 88;
    const LEVELS: u64 = 32;
    let size = a[1] as usize;
    if size > 4096 {
        return Err(Errno::E2BIG.into());
    }
    if size < 64 {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = c.read_bytes(a[0], size)?;
    if bytes.iter().skip(KNOWN_SIZE).any(|byte| *byte != 0) {
        return Err(Errno::E2BIG.into());
    }
    bytes.resize(KNOWN_SIZE, 0);
    let words: Vec<u64> = bytes.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap_or_default())).collect();
    let [flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, levels, group] = words[..]
    else {
        return Err(Errno::EINVAL.into());
    };
    let has = |flag| flags & flag != 0;
    if levels > LEVELS || (set_tid == 0) != (levels == 0) || exit_signal > 64 {
        return Err(Errno::EINVAL.into());
    }
    if has(CLONE_INTO_CGROUP) && (group > i32::MAX as u64 || size < KNOWN_SIZE) {
        return Err(Errno::EINVAL.into());
    }
    if flags >> 34 != 0 || has(CLONE_DETACHED) || flags & 0xff & !CLONE_NEWTIME != 0 {
        return Err(Errno::EINVAL.into());
    }
    if has(CLONE_SIGHAND) && has(CLONE_CLEAR_SIGHAND) || flags & (CLONE_THREAD | CLONE_PARENT) != 0 && exit_signal != 0
    {
        return Err(Errno::EINVAL.into());
    }
    let top = stack.checked_add(stack_size).filter(|top| *top <= USER_END);
    if (stack == 0) != (stack_size == 0) || top.is_none() {
        return Err(Errno::EINVAL.into());
    }
    if has(CLONE_INTO_CGROUP) {
        // There is no control group, so no descriptor can be of one.
        c.descriptor(group)?;
        return Err(Errno::EBADF.into());
    }
    let tid = if levels == 0 { None } else { Some(wanted_tid(c, set_tid, levels)?) };
    start(c, Wish { flags, stack: top.unwrap_or(0), parent_tid, child_tid, tls, exit_signal, pidfd, tid })
}

/// The id that clone3(2) is told to give. There is one name space of processes.
fn wanted_tid<M: Machine>(c: &mut Context<'_, M>, addr: u64, levels: u64) -> Result<u32> {
    if levels > 1 {
        return Err(Errno::EINVAL.into());
    }
    let tid = c.read_u32(addr)?;
    let base = c.resident.program.head.id.0 as u32 * PIDS_PER_PROGRAM;
    if !(base + 1..base + PIDS_PER_PROGRAM).contains(&tid) {
        return Err(Errno::EINVAL.into());
    }
    if c.process()?.credentials.euid != 0 {
        return Err(Errno::EPERM.into());
    }
    Ok(tid)
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
        let child = Pid(c.moved()? as u32);
        let still = match c.resident.program.processes.get(&child) {
            Some(process) => process.vfork_waiter == Some(c.tid),
            // A thread: it leaves the memory only with its end.
            None => wish.flags & CLONE_THREAD != 0 && c.resident.program.threads.contains_key(&child),
        };
        return if still { Err(Stop::Block(Vec::from([Key::Child(c.pid)]))) } else { Ok(child.0.into()) };
    }
    check(c, wish)?;
    check_count(c)?;
    if wish.flags & CLONE_VM == 0 {
        map_all(c)?;
    }
    let tid = match wish.tid {
        Some(tid) => c.resident.program.claim_pid(Pid(tid))?,
        None => c.resident.program.fresh_pid()?,
    };
    if wish.flags & CLONE_PARENT_SETTID != 0 {
        c.write_u32(wish.parent_tid, tid.0)?;
    }
    let process = if wish.flags & CLONE_THREAD != 0 { c.pid } else { tid };
    let pidfd = if wish.flags & CLONE_PIDFD != 0 { Some(reserve_pidfd(c, wish, tid)?) } else { None };
    if process == tid {
        let added = add_process(c, wish, tid);
        if let (Err(_), Some((_, descriptor))) = (&added, pidfd) {
            c.release_description(descriptor.description);
        }
        added?;
    }
    add_thread(c, wish, tid, process)?;
    if let Some((fd, descriptor)) = pidfd {
        // The child has it not: its table is a copy of what was there before.
        c.table()?.replace(fd, descriptor);
    }
    if wish.flags & CLONE_CHILD_SETTID != 0 {
        // It is the child's memory that is written: a private copy, unless the two share it.
        let space = c.process_by(process)?.space;
        let bytes = tid.0.to_le_bytes();
        let _ = c.services.memory(c.resident, space)?.write(UserAddr(wish.child_tid), &bytes);
    }
    c.resident.make_ready(tid);
    if wish.flags & CLONE_VFORK != 0 {
        c.set_moved(tid.0.into())?;
        return Err(Stop::Block(Vec::from([Key::Child(c.pid)])));
    }
    Ok(tid.0.into())
}

/// Makes the descriptor of a process that is about to be, so that nothing is left to fail; says where it will be.
fn reserve_pidfd<M: Machine>(c: &mut Context<'_, M>, wish: Wish, pid: Pid) -> Result<(u32, Descriptor)> {
    c.probe_writable(wish.pidfd, 4)?;
    let (now, status) = (c.now(), super::transfer::flags::READ_WRITE);
    let description = c.resident.program.add_description(Kind::Process(pid, now), status);
    let descriptor = Descriptor { description, on_exec: OnExec::Close };
    let fd = c.install(descriptor)? as u32;
    c.write_u32(wish.pidfd, fd)?;
    c.table()?.remove(fd.into())?;
    Ok((fd, descriptor))
}

fn check<M: Machine>(c: &Context<'_, M>, wish: Wish) -> Result<()> {
    let has = |flag| wish.flags & flag != 0;
    let init = c.resident.program.init();
    if has(CLONE_FS) && (has(CLONE_NEWNS) || has(CLONE_NEWUSER))
        || has(CLONE_SIGHAND) && !has(CLONE_VM)
        || has(CLONE_THREAD) && (!has(CLONE_SIGHAND) || has(CLONE_NEWUSER) || has(CLONE_NEWPID))
        // The first process has no brothers.
        || has(CLONE_PARENT) && c.pid == init
        || has(CLONE_SYSVSEM) && has(CLONE_NEWIPC)
        || has(CLONE_PIDFD) && (has(CLONE_THREAD) || has(CLONE_DETACHED))
        // clone(2) has one place for both.
        || has(CLONE_PIDFD) && has(CLONE_PARENT_SETTID) && wish.pidfd == wish.parent_tid
    {
        return Err(Errno::EINVAL.into());
    }
    if wish.flags & NAME_SPACES != 0 {
        return Err(Errno::EPERM.into());
    }
    Ok(())
}

/// Maps what is still only in the image that the program came from, in steps: a copy of the memory needs all of it.
fn map_all<M: Machine>(c: &mut Context<'_, M>) -> Result<()> {
    if c.resident.pending.is_empty() {
        return Ok(());
    }
    let (space, step) = (c.process()?.space, c.services.save_step);
    match c.services.memory(c.resident, space)?.map_pending(step) {
        Ok(Progress::Done) => Ok(()),
        Ok(Progress::More) => Err(Stop::Again),
        // What is lost is noted, and ends the program.
        Err(_) => Err(Errno::ENOMEM.into()),
    }
}

/// RLIMIT_NPROC: threads of a user.
fn check_count<M: Machine>(c: &Context<'_, M>) -> Result<()> {
    let process = c.process()?;
    let (uid, limit) = (process.credentials.uid, process.limit(limit::NPROC));
    if uid == 0 {
        return Ok(());
    }
    let processes = &c.resident.program.processes;
    let of_user =
        |thread: &&Thread| processes.get(&thread.process).is_some_and(|process| process.credentials.uid == uid);
    let count = c.resident.program.threads.values().filter(of_user).count() as u64;
    if count >= limit { Err(Errno::EAGAIN.into()) } else { Ok(()) }
}

fn add_thread<M: Machine>(c: &mut Context<'_, M>, wish: Wish, tid: Pid, process: Pid) -> Result<()> {
    let undo = if wish.flags & CLONE_SYSVSEM != 0 { super::semaphores::share_undo_list(c)? } else { None };
    let name = c.comm();
    let (mut whereabouts, mut files) = (None, None);
    if process == c.pid {
        if wish.flags & CLONE_FS == 0 {
            whereabouts = Some(Whereabouts { group: None, ..c.whereabouts()? });
        } else if c.thread()?.whereabouts.is_some() {
            whereabouts = Some(c.shared_whereabouts()?);
        }
        if wish.flags & CLONE_FILES == 0 {
            let from = c.files()?;
            files = Some(copy_table(c.resident, from));
        } else if let Some(own) = c.thread()?.files {
            share_table(c.resident, own);
            files = Some(own);
        }
    }
    let Some(parent) = c.resident.program.threads.get_mut(&c.tid) else { return Err(Stop::Gone) };
    c.services.machine.save_live(&mut parent.regs, &mut parent.fpu);
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
        whereabouts,
        files,
        policy: parent.policy,
        owed: Nanos(0),
        scheduling: parent.scheduling.of_child(),
        standing: Standing { time: parent.standing.time, ..Standing::default() },
    };
    c.resident.program.threads.insert(tid, thread);
    Ok(())
}

fn share_table<M: Machine>(resident: &mut Resident<M>, files: FilesId) {
    if let Some(table) = resident.program.tables.get_mut(&files) {
        table.users = table.users.saturating_add(1);
    }
}

fn add_process<M: Machine>(c: &mut Context<'_, M>, wish: Wish, pid: Pid) -> Result<()> {
    let space = if wish.flags & CLONE_VM != 0 {
        c.process()?.space
    } else {
        let from = c.process()?.space;
        c.services.fork_space(c.resident, from)?
    };
    let files = c.files()?;
    let files = if wish.flags & CLONE_FILES != 0 {
        share_table(c.resident, files);
        files
    } else {
        copy_table(c.resident, files)
    };
    let whereabouts = if wish.flags & CLONE_FS != 0 {
        c.shared_whereabouts()?
    } else {
        Whereabouts { group: None, ..c.whereabouts()? }
    };
    if wish.flags & CLONE_SIGHAND != 0 && c.process()?.action_group.is_none() {
        let group = c.resident.program.fresh_id();
        c.process_mut()?.action_group = Some(group);
    }
    let now = c.now();
    let resets = c.thread()?.scheduling.resets.is_some();
    let parent = c.process()?;
    // A sibling tells the parent as its maker does: nobody may choose a signal for another's parent.
    let (actual_parent, maker, exit_signal) = if wish.flags & CLONE_PARENT != 0 {
        (parent.parent, parent.maker, parent.exit_signal)
    } else {
        (parent.pid, Some(c.tid), Signal::new(wish.exit_signal))
    };
    let mut child = Process {
        pid,
        parent: actual_parent,
        maker,
        space,
        files,
        pending: Pending::default(),
        zombie: None,
        vfork_waiter: (wish.flags & CLONE_VFORK != 0).then_some(c.tid),
        started: now,
        children_used: Nanos(0),
        ended_used: Nanos(0),
        peak: 0,
        children_peak: 0,
        ended_counters: Counters::default(),
        children_counters: Counters::default(),
        comm: c.comm(),
        exit_signal,
        stopped: None,
        continued: None,
        executed: None,
        action_group: if wish.flags & CLONE_SIGHAND != 0 { parent.action_group } else { None },
        rights: parent.rights.of_child(),
        nice: if resets { parent.nice.without_gain() } else { parent.nice },
        ..parent.clone()
    };
    child.set_whereabouts(whereabouts);
    if wish.flags & CLONE_CLEAR_SIGHAND != 0 {
        for action in child.actions.iter_mut().filter(|action| action.handler != Action::IGNORE) {
            *action = Action::default();
        }
    }
    c.resident.program.processes.insert(pid, child);
    Ok(())
}

/// A copy of a descriptor table, as fork(2) makes it.
pub fn copy_table<M: Machine>(resident: &mut Resident<M>, files: FilesId) -> FilesId {
    let copy = FilesId(resident.program.fresh_id());
    let mut table = resident.program.tables.get(&files).cloned().unwrap_or_default();
    table.users = 1;
    let descriptors: Vec<_> = table.iter().map(|(_, descriptor)| descriptor).collect();
    for descriptor in descriptors {
        resident.program.retain(descriptor);
    }
    resident.program.tables.insert(copy, table);
    copy
}

/// unshare(2): the caller gets things of its own.
pub fn unshare<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const MEMORY: u64 = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM;
    let flags = a[0];
    if flags & !(MEMORY | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | NAME_SPACES) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (pid, tid) = (c.pid, c.tid);
    let alone = !c.resident.program.has_other_threads(pid, tid);
    let space = c.process()?.space;
    let shares = |process: &Process| process.pid != pid && process.space == space && process.zombie.is_none();
    let shared_memory = c.resident.program.processes.values().any(shares);
    if flags & MEMORY != 0 && !alone || flags & (CLONE_SIGHAND | CLONE_VM) != 0 && shared_memory {
        return Err(Errno::EINVAL.into());
    }
    if flags & NAME_SPACES != 0 {
        return Err(Errno::EPERM.into());
    }
    if flags & CLONE_FS != 0 {
        c.part_whereabouts()?;
    }
    if flags & CLONE_FILES != 0 {
        c.part_files()?;
    }
    if flags & CLONE_SYSVSEM != 0 {
        super::semaphores::part_undo_list(c)?;
    }
    Ok(0)
}

/// setns(2): a program is one name space of each kind, and no descriptor is of one.
pub fn setns<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    c.descriptor(a[0])?;
    Err(Errno::EINVAL.into())
}

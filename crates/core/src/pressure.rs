//! Memory that runs short: what is given back first, who is refused more, and who is ended at last.
//!
//! A kernel must live whatever its programs do. So it keeps frames that only it may take, gives memory back in steps
//! that are short, refuses programs what would fill its own heap, and in the end kills the process that has most.
use crate::{
    context::Context,
    files::DescriptionId,
    kernel::Kernel,
    process::{Ending, Process, SpaceId},
    program::Program,
    resident::Resident,
    services::Services,
    signal::Signal,
    syscall,
};
use alloc::{format, vec::Vec};
use shimos_abi::{
    addr::PAGE,
    errno::Errno,
    ids::{Pid, ProgramId},
};
use shimos_hal::Machine;
use shimos_memory::{AddressSpace, backing::NoBacking, frames::KERNEL, frames::Payer, space, space::Progress};

/// Frames that one turn gives back, at most, for each program.
const STEP: usize = 4096;
/// The part of the pool that only the kernel may take.
const RESERVE_PART: usize = 32;
/// An address space with no more pages than this is ended at once.
const SMALL: usize = 1024;
/// A descriptor table with no more entries than this is closed at once.
pub const FEW_DESCRIPTORS: usize = 1024;
/// The lowest `oom_score_adj`: never killed.
const NEVER: i32 = -1000;

/// Who the frames of a program are counted for.
pub fn payer(program: ProgramId) -> Payer {
    Payer::try_from(u64::from(program.0)).unwrap_or(Payer::MAX)
}

/// How many frames only the kernel itself may take.
pub fn reserve(total: usize) -> usize {
    (total / RESERVE_PART).clamp(16, 2048)
}

/// An address space that nobody uses any more, and its page tables.
pub type Leaving<S> = (AddressSpace, S);

/// Ends an address space: at once if it is small, else step by step.
pub fn leave<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, id: SpaceId) {
    let (Some(space), Some(mut tables)) = (resident.program.spaces.remove(&id), resident.tables.remove(&id)) else {
        return;
    };
    services.machine.retire_space(&mut tables);
    let small = space.resident() <= SMALL;
    resident.leaving.push((space, tables));
    if small {
        let last = resident.leaving.len() - 1;
        while leave_step(resident, services, last, STEP) == Progress::More {}
    }
}

/// Gives up to about `most` frames of an address space that is leaving back; it is gone after `Done`.
fn leave_step<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    index: usize,
    most: usize,
) -> Progress {
    let Some((space, tables)) = resident.leaving.get_mut(index) else { return Progress::Done };
    let mut cx = space::Context {
        machine: &mut services.machine,
        frames: &mut services.frames,
        objects: &mut resident.program.objects,
        backing: &mut NoBacking,
        tables,
    };
    if space.destroy_step(&mut cx, most) == Progress::More {
        return Progress::More;
    }
    let (_, tables) = resident.leaving.remove(index);
    services.machine.drop_space(tables, &mut services.frames);
    Progress::Done
}

/// Closes some descriptors of a table that has no users any more.
fn close_step<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) -> Progress {
    let Some(files) = resident.closing.last().copied() else { return Progress::Done };
    let some: Vec<(u32, DescriptionId)> = match resident.program.tables.get(&files) {
        Some(table) => table.iter().take(FEW_DESCRIPTORS / 2).map(|(fd, open)| (fd, open.description)).collect(),
        None => Vec::new(),
    };
    if some.is_empty() {
        resident.program.tables.remove(&files);
        resident.closing.pop();
    }
    for (fd, description) in some {
        let there = resident.program.tables.get_mut(&files).is_some_and(|table| table.remove(fd.into()).is_ok());
        if there {
            services.release_description(resident, description);
        }
    }
    Progress::More
}

/// Gives back what a program has left behind, a step of it.
pub fn step<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) -> Progress {
    if close_step(resident, services) == Progress::More {
        return Progress::More;
    }
    if let Some(last) = resident.leaving.len().checked_sub(1) {
        leave_step(resident, services, last, STEP);
        return Progress::More;
    }
    resident.program.objects.sweep(&mut services.frames, STEP)
}

/// Whether a program has left something behind.
pub fn has_left<M: Machine>(resident: &Resident<M>) -> bool {
    !resident.closing.is_empty() || !resident.leaving.is_empty() || resident.program.objects.has_garbage()
}

/// How much of something is in use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// There is enough.
    Enough,
    /// Nothing new is made.
    Tight,
    /// Something must go.
    Critical,
}

/// Whether the kernel's heap has room for so many bytes of another program.
pub fn has_heap<M: Machine>(machine: &M, bytes: usize) -> bool {
    let (used, all) = machine.heap();
    used.saturating_add(bytes) <= all / 4 * 3
}

/// How full the kernel's heap is.
#[inline]
fn heap_level<M: Machine>(services: &Services<M>) -> Level {
    let (used, all) = services.machine.heap();
    match used {
        used if used <= all / 8 * 5 => Level::Enough,
        used if used <= all / 4 * 3 => Level::Tight,
        _ => Level::Critical,
    }
}

/// Whether a call is carried out now. What would make the kernel's own heap larger is refused while that is nearly full.
#[inline]
pub fn admit<M: Machine>(c: &mut Context<'_, M>, number: u64) -> Result<(), Errno> {
    match heap_level(c.services) {
        Level::Enough => Ok(()),
        level => admit_short(c, number, level),
    }
}

#[cold]
fn admit_short<M: Machine>(c: &mut Context<'_, M>, number: u64, level: Level) -> Result<(), Errno> {
    if level == Level::Critical {
        c.services.starved = Some(c.resident.program.head.id);
    }
    match number {
        // clone, fork, vfork, clone3.
        56 | 57 | 58 | 435 => Err(Errno::EAGAIN),
        // open, mmap, mprotect, brk, mremap, madvise, pipe, dup, dup2, socket, accept, socketpair, shmget, shmat, semget,
        // semop, msgget, msgsnd, creat, mkdir, link, symlink, mknod and their later forms; event, timer, signal and
        // inotify descriptors; memfd, timers, message queues, locks in memory.
        2 | 9 | 10 | 12 | 22 | 25 | 28 | 32 | 33 | 41 | 43 | 53 | 29 | 30 | 64 | 65 | 68 | 69 | 83 | 85 | 86 | 88
        | 133 | 149 | 151 | 213 | 220 | 222 | 240 | 242 | 253 | 254 | 257 | 258 | 259 | 265 | 266 | 282 | 283 | 284
        | 288 | 289 | 290 | 291 | 292 | 293 | 294 | 319 | 325 | 434 | 437 => Err(Errno::ENOMEM),
        // write, writev, sendto, sendmsg, pwrite64, pwritev, splice, sendfile, sendmmsg, fallocate.
        1 | 18 | 20 | 40 | 44 | 46 | 275 | 278 | 285 | 296 | 307 | 326 | 328 if level == Level::Critical => {
            Err(Errno::ENOMEM)
        }
        _ => Ok(()),
    }
}

/// After a call that found no frame: gives back what only a cache holds. Returns whether that was anything.
pub fn reclaim<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) -> Reclaimed {
    let before = services.frames.free_count();
    if has_left(resident) {
        step(resident, services);
    }
    if services.frames.is_short() {
        services.blocks.shrink(&mut services.frames, STEP);
    }
    if services.frames.free_count() > before { Reclaimed::Something } else { Reclaimed::Nothing }
}

/// Whether memory was given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reclaimed {
    /// It was.
    Something,
    /// It was not.
    Nothing,
}

/// How bad a process is for memory, in pages: `None` for one that must not be killed.
pub fn badness(space: Option<&AddressSpace>, process: &Process, total: u64) -> Option<i64> {
    let adjustment = process.oom_adjustment.unwrap_or(0);
    if process.zombie.is_some() || adjustment <= NEVER {
        return None;
    }
    let pages = space.map_or(0, |space| space.owned_pages() + space.resident() / 512);
    Some(pages as i64 + i64::from(adjustment) * (total / 1000).max(1) as i64)
}

/// What /proc/PID/oom_score says of a badness.
pub fn score(badness: Option<i64>, total: u64) -> i64 {
    badness.map_or(0, |points| (1000 + points.saturating_mul(1000) / (total.max(1) as i64)) * 2 / 3).max(0)
}

/// What a process takes of the kernel's heap, roughly, in objects.
fn weight(program: &Program, process: &Process) -> i64 {
    let mappings = program.spaces.get(&process.space).map_or(0, |space| space.mappings().len());
    let descriptors = program.tables.get(&process.files).map_or(0, |table| table.iter().count());
    let threads = program.threads_of(process.pid).count();
    (mappings + descriptors * 4 + threads * 64) as i64
}

impl<M: Machine> Kernel<M> {
    /// A program found no memory: gives back what can be had, and kills a process where that is not enough.
    pub(crate) fn relieve_memory(&mut self) {
        let Some(id) = self.services.starved.take() else { return };
        let payer = payer(id);
        let heap = heap_level(&self.services) == Level::Critical;
        let over = self.services.frames.used_by(payer) >= self.services.frames.limit_of(payer);
        let before = self.services.frames.free_count();
        let mut left = false;
        for resident in self.residents.values_mut() {
            left |= has_left(resident);
            step(resident, &mut self.services);
        }
        if !over && !heap {
            self.services.blocks.shrink(&mut self.services.frames, STEP);
        }
        // What is being given back may be enough.
        if left || self.services.frames.free_count() > before {
            return;
        }
        let total = if over { self.services.frames.limit_of(payer) } else { self.services.frames.total() } as u64;
        let mut worst: Option<(i64, ProgramId, Pid)> = None;
        for (owner, resident) in self.residents.iter().filter(|(owner, _)| !over || **owner == id) {
            for process in resident.program.processes.values() {
                let space = resident.program.spaces.get(&process.space);
                let Some(pages) = badness(space, process, total) else { continue };
                let points = if heap { weight(&resident.program, process) } else { pages };
                // Of two that are as bad the younger goes, and the first of a program last of all.
                let better = worst.is_none_or(|(most, ..)| points > most);
                if better {
                    worst = Some((points, *owner, process.pid));
                }
            }
        }
        let Some((_, owner, pid)) = worst else { return };
        self.kill_for_memory(owner, pid, if heap { "the kernel's heap is full" } else { "no memory is left" });
    }

    fn kill_for_memory(&mut self, owner: ProgramId, pid: Pid, why: &str) {
        let Some(resident) = self.residents.get_mut(&owner) else { return };
        let Some(process) = resident.program.processes.get(&pid) else { return };
        let space = resident.program.spaces.get(&process.space);
        let pages = space.map_or(0, AddressSpace::owned_pages);
        let text = format!(
            "program {}: {why}: killed {}[{pid}] with {} KiB of its own",
            resident.program.head.name,
            process.comm,
            pages * PAGE / 1024
        );
        self.services.log(&text);
        syscall::end_process(resident, &mut self.services, pid, Ending::Killed(Signal::KILL));
        self.services.settle(resident);
    }

    /// Ends what is left of a program that has ended, a step at a time. Whether it is all gone.
    pub(crate) fn wind_up(&mut self, id: ProgramId) -> Progress {
        let Some(resident) = self.residents.get_mut(&id) else { return Progress::Done };
        let services = &mut self.services;
        let alive = |process: &&Process| process.zombie.is_none();
        let pids: Vec<Pid> = resident.program.processes.values().filter(alive).map(|process| process.pid).collect();
        for pid in pids {
            syscall::end_process(resident, services, pid, Ending::Killed(Signal::KILL));
        }
        let spaces: Vec<SpaceId> = resident.program.spaces.keys().copied().collect();
        for space in spaces {
            services.drop_space(resident, space);
        }
        resident.program.objects.abandon();
        step(resident, services)
    }

    /// Sets how many frames a program may have, before it runs here.
    pub(crate) fn limit_memory(&mut self, resident: &Resident<M>) {
        let head = &resident.program.head;
        let limit = head.memory.map_or(usize::MAX, |bytes| usize::try_from(bytes / PAGE as u64).unwrap_or(usize::MAX));
        self.services.frames.set_limit(payer(head.id), limit.max(1));
    }

    /// Counts what is taken from here on for a program, or for the kernel itself.
    pub(crate) fn count_for(&mut self, program: Option<ProgramId>) {
        self.services.frames.set_payer(program.map_or(KERNEL, payer));
    }
}

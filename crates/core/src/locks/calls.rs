//! The calls that set and ask for locks, and who waits for whom.
use super::{Cut, END, Lock, LockKind, Locks, Owner};
use crate::{
    context::{Context, Result, wait_for},
    files::{DescriptionId, Kind},
    program::Program,
    resident::Key,
    syscall::status_flags as flags,
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_hal::Machine;
use shimos_vfs::NodeId;

/// The number of fcntl(2).
const FCNTL: u64 = 72;
const GETLK: u64 = 5;
const SETLKW: u64 = 7;
const OFD_GETLK: u64 = 36;
const OFD_SETLK: u64 = 37;
const OFD_SETLKW: u64 = 38;
const RDLCK: u16 = 0;
const WRLCK: u16 = 1;
const UNLCK: u16 = 2;

/// The locks that blocked threads wait for. Derived: who waits says so again whenever it looks.
#[derive(Default)]
pub struct Waits {
    by_thread: BTreeMap<Pid, Lock>,
}

impl Waits {
    /// Notes what a thread is about to wait for. Threads that wait for locks no more are forgotten.
    fn note(&mut self, program: &Program, tid: Pid, wanted: Lock) {
        let waits = |tid: &Pid| {
            program.threads.get(tid).is_some_and(|thread| thread.call.is_some() && thread.regs.rax == FCNTL)
        };
        self.by_thread.retain(|tid, _| waits(tid));
        self.by_thread.insert(tid, wanted);
    }

    /// A thread waits no more.
    fn forget(&mut self, tid: Pid) {
        self.by_thread.remove(&tid);
    }

    /// Whether a process would wait for itself: those who hold what is wanted wait for others, and these for the process.
    fn closes_circle(&self, program: &Program, wanted: &Lock) -> Circle {
        let mut seen = BTreeSet::new();
        let mut open: Vec<Owner> = program.locks.conflicts(wanted).map(|held| held.owner).collect();
        while let Some(owner) = open.pop() {
            if owner == wanted.owner {
                return Circle::Closed;
            }
            let Owner::Process(pid) = owner else { continue };
            if !seen.insert(pid) {
                continue;
            }
            for (tid, lock) in &self.by_thread {
                let thread = program.threads.get(tid);
                if thread.is_some_and(|thread| thread.process == pid && thread.call.is_some()) {
                    open.extend(program.locks.conflicts(lock).map(|held| held.owner));
                }
            }
        }
        Circle::Open
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Circle {
    Open,
    Closed,
}

fn node_of<M: Machine>(c: &mut Context<'_, M>, fd: u64) -> Result<NodeId> {
    let kind = &c.description(fd)?.kind;
    let node = match kind {
        Kind::Path(_) => None,
        kind => kind.node(),
    };
    let node = node.ok_or(Errno::EBADF)?;
    Ok(c.resident.program.tree.canonical(node))
}

/// struct flock of a call.
struct Request {
    bytes: Vec<u8>,
    kind: u16,
    start: u64,
    end: u64,
}

fn request<M: Machine>(c: &mut Context<'_, M>, fd: u64, addr: u64) -> Result<Request> {
    let bytes = c.read_bytes(addr, 32)?;
    let half = |at: usize| bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes);
    let word = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, i64::from_le_bytes);
    let (kind, whence, start, len) = (half(0), half(2), word(8), word(16));
    let base = match whence {
        0 => 0,
        1 => c.description(fd)?.offset as i64,
        2 => match c.description(fd)?.kind {
            Kind::File(node) => crate::content::size(c, node)? as i64,
            _ => 0,
        },
        _ => return Err(Errno::EINVAL.into()),
    };
    let from = base.checked_add(start).ok_or(Errno::EOVERFLOW)?;
    if from < 0 {
        return Err(Errno::EINVAL.into());
    }
    let (start, end) = match len {
        0 => (from as u64, END),
        len if len > 0 => {
            from.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?;
            (from as u64, from as u64 + len as u64)
        }
        len => {
            let first = from.checked_add(len).filter(|first| *first >= 0).ok_or(Errno::EINVAL)?;
            (first as u64, from as u64)
        }
    };
    Ok(Request { bytes, kind, start, end })
}

/// fcntl(2) with F_GETLK, F_SETLK, F_SETLKW and their F_OFD_ relatives.
pub fn fcntl<M: Machine>(c: &mut Context<'_, M>, fd: u64, command: u64, addr: u64) -> Result<u64> {
    let id = c.descriptor(fd)?.description;
    let node = node_of(c, fd)?;
    let asked = request(c, fd, addr)?;
    let by_description = matches!(command, OFD_GETLK | OFD_SETLK | OFD_SETLKW);
    if by_description && asked.bytes.get(24..28).is_some_and(|pid| pid != [0; 4]) {
        return Err(Errno::EINVAL.into());
    }
    let owner = if by_description { Owner::Ranges(id) } else { Owner::Process(c.pid) };
    let kind = match asked.kind {
        RDLCK => Some(LockKind::Shared),
        WRLCK => Some(LockKind::Exclusive),
        UNLCK => None,
        _ => return Err(Errno::EINVAL.into()),
    };
    if matches!(command, GETLK | OFD_GETLK) {
        let kind = kind.ok_or(Errno::EINVAL)?;
        return get(c, addr, asked, |start, end| Lock { node, owner, kind, start, end });
    }
    let tid = c.tid;
    c.resident.lock_waits.forget(tid);
    let Some(kind) = kind else {
        if c.resident.program.locks.cut(node, owner, asked.start, asked.end)? == Cut::Some {
            c.wake(Key::Lock);
        }
        return Ok(0);
    };
    let access = c.description_by(id)?.flags & flags::ACCESS_MODE;
    let missing = if kind == LockKind::Shared { flags::WRITE_ONLY } else { flags::READ_ONLY };
    if access == missing {
        return Err(Errno::EBADF.into());
    }
    let wanted = Lock { node, owner, kind, start: asked.start, end: asked.end };
    if c.resident.program.locks.conflict(&wanted).is_none() {
        let downgrades = kind == LockKind::Shared;
        c.resident.program.locks.set(wanted)?;
        if downgrades {
            c.wake(Key::Lock);
        }
        return Ok(0);
    }
    if !matches!(command, SETLKW | OFD_SETLKW) {
        return Err(Errno::EAGAIN.into());
    }
    if !by_description && c.resident.lock_waits.closes_circle(&c.resident.program, &wanted) == Circle::Closed {
        return Err(Errno::EDEADLK.into());
    }
    // Unlocking wakes all that wait in the program, first come first; they look again.
    c.resident.lock_waits.note(&c.resident.program, tid, wanted);
    wait_for(Key::Lock)
}

/// F_GETLK: tells of a lock that stands against the one asked for.
fn get<M: Machine>(
    c: &mut Context<'_, M>,
    addr: u64,
    asked: Request,
    lock: impl FnOnce(u64, u64) -> Lock,
) -> Result<u64> {
    let wanted = lock(asked.start, asked.end);
    let mut answer = asked.bytes;
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(field) = answer.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    match c.resident.program.locks.conflict(&wanted) {
        None => put(0, &UNLCK.to_le_bytes()),
        Some(held) => {
            let kind = if held.kind == LockKind::Shared { RDLCK } else { WRLCK };
            let len = if held.end >= END { 0 } else { held.end.saturating_sub(held.start) };
            let pid = match held.owner {
                Owner::Process(pid) => pid.0,
                // A description belongs to nobody in particular.
                _ => u32::MAX,
            };
            put(0, &kind.to_le_bytes());
            put(2, &[0, 0]);
            put(8, &held.start.to_le_bytes());
            put(16, &len.to_le_bytes());
            put(24, &pid.to_le_bytes());
        }
    }
    c.write_bytes(addr, &answer)?;
    Ok(0)
}

/// flock(2). A lock that is to become one of the other kind is given up first, as on Linux.
pub fn flock<M: Machine>(c: &mut Context<'_, M>, fd: u64, operation: u64) -> Result<u64> {
    const SHARED: u64 = 1;
    const EXCLUSIVE: u64 = 2;
    const NONBLOCK: u64 = 4;
    const UNLOCK: u64 = 8;
    let operation = operation as u32 as u64;
    let kind = match operation & !NONBLOCK {
        SHARED => Some(LockKind::Shared),
        EXCLUSIVE => Some(LockKind::Exclusive),
        UNLOCK => None,
        _ => return Err(Errno::EINVAL.into()),
    };
    let id: DescriptionId = c.descriptor(fd)?.description;
    let node = node_of(c, fd)?;
    let owner = Owner::Description(id);
    let locks: &mut Locks = &mut c.resident.program.locks;
    let held = locks.locks.iter().find(|held| held.node == node && held.owner == owner).map(|held| held.kind);
    if held.is_some() && held == kind {
        return Ok(0);
    }
    if held.is_some() {
        locks.forget_description_flock(id);
        c.wake(Key::Lock);
    }
    let Some(kind) = kind else { return Ok(0) };
    let wanted = Lock { node, owner, kind, start: 0, end: u64::MAX };
    if c.resident.program.locks.conflict(&wanted).is_some() {
        return if operation & NONBLOCK != 0 { Err(Errno::EAGAIN.into()) } else { wait_for(Key::Lock) };
    }
    c.resident.program.locks.set(wanted)?;
    Ok(0)
}

impl Locks {
    fn forget_description_flock(&mut self, id: DescriptionId) {
        self.locks.retain(|held| held.owner != Owner::Description(id));
    }
}

impl<M: Machine> Context<'_, M> {
    /// A descriptor was closed: the process's byte-range locks on that file go (fcntl(2)).
    pub fn release_locks_of(&mut self, id: DescriptionId) {
        let pid = self.pid;
        if let Some(node) = self.resident.program.descriptions.get(&id).and_then(|d| d.kind.node()) {
            let node = self.resident.program.tree.canonical(node);
            if self.resident.program.locks.forget_process(pid, Some(node)) == Cut::Some {
                self.wake(Key::Lock);
            }
        }
    }
}

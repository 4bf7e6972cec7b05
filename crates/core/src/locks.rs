//! File locks: POSIX byte ranges by process (fcntl) and whole files by open file description (flock).
use crate::{
    context::{Context, Result},
    files::{DescriptionId, Kind},
    resident::Key,
};
use alloc::vec::Vec;
use minicbor::{Decode, Encode};
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_hal::Machine;
use shimos_vfs::NodeId;

/// A lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
struct Lock {
    #[n(0)]
    node: NodeId,
    #[n(1)]
    owner: Owner,
    #[n(2)]
    kind: LockKind,
    #[n(3)]
    start: u64,
    /// The byte behind the last.
    #[n(4)]
    end: u64,
}

/// Who holds a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
enum Owner {
    #[n(0)]
    Process(#[n(0)] Pid),
    #[n(1)]
    Description(#[n(0)] DescriptionId),
}

/// The two kinds of locks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
enum LockKind {
    #[n(0)]
    Shared,
    #[n(1)]
    Exclusive,
}

/// All locks of a program. Locks of the two families do not see each other, as on Linux.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub struct Locks {
    #[n(0)]
    locks: Vec<Lock>,
}

impl Locks {
    fn conflict(&self, wanted: &Lock) -> Option<&Lock> {
        self.locks.iter().find(|held| {
            held.node == wanted.node
                && held.owner != wanted.owner
                && matches!(held.owner, Owner::Process(_)) == matches!(wanted.owner, Owner::Process(_))
                && held.start < wanted.end
                && wanted.start < held.end
                && (held.kind == LockKind::Exclusive || wanted.kind == LockKind::Exclusive)
        })
    }

    /// Takes the owner's locks out of a range; what sticks out stays.
    fn cut(&mut self, node: NodeId, owner: Owner, start: u64, end: u64) {
        let mut kept = Vec::with_capacity(self.locks.len() + 1);
        for held in self.locks.drain(..) {
            if held.node != node || held.owner != owner || held.end <= start || end <= held.start {
                kept.push(held);
                continue;
            }
            if held.start < start {
                kept.push(Lock { end: start, ..held });
            }
            if held.end > end {
                kept.push(Lock { start: end, ..held });
            }
        }
        self.locks = kept;
    }

    /// A process has closed a descriptor of this file, or has ended: its locks go.
    pub fn forget_process(&mut self, pid: Pid, node: Option<NodeId>) {
        self.locks.retain(|held| held.owner != Owner::Process(pid) || node.is_some_and(|node| held.node != node));
    }

    /// A description is closed: its lock goes.
    pub fn forget_description(&mut self, id: DescriptionId) {
        self.locks.retain(|held| held.owner != Owner::Description(id));
    }
}

fn node_of<M: Machine>(c: &mut Context<'_, M>, fd: u64) -> Result<NodeId> {
    let node = c.description(fd)?.kind.node().ok_or(Errno::EBADF)?;
    Ok(c.resident.program.tree.canonical(node))
}

/// fcntl(2) with F_GETLK, F_SETLK, F_SETLKW.
pub fn fcntl<M: Machine>(c: &mut Context<'_, M>, fd: u64, command: u64, addr: u64) -> Result<u64> {
    const GETLK: u64 = 5;
    const SETLKW: u64 = 7;
    const RDLCK: u16 = 0;
    const WRLCK: u16 = 1;
    const UNLCK: u16 = 2;
    let bytes = c.read_bytes(addr, 32)?;
    let kind = u16::from_le_bytes([bytes[0], bytes[1]]);
    let whence = u16::from_le_bytes([bytes[2], bytes[3]]);
    let start = i64::from_le_bytes(bytes[8..16].try_into().unwrap_or_default());
    let len = i64::from_le_bytes(bytes[16..24].try_into().unwrap_or_default());
    let node = node_of(c, fd)?;
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
    let (first, end) = match len {
        0 => (from, i64::MAX),
        len if len > 0 => (from, from.checked_add(len).ok_or(Errno::EOVERFLOW)?),
        len => (from.checked_add(len).ok_or(Errno::EINVAL)?, from),
    };
    if first < 0 {
        return Err(Errno::EINVAL.into());
    }
    let owner = Owner::Process(c.pid);
    let (first, end) = (first as u64, end as u64);
    if kind == UNLCK && command != GETLK {
        c.resident.program.locks.cut(node, owner, first, end);
        c.wake(Key::Lock);
        return Ok(0);
    }
    let lock_kind = match kind {
        RDLCK => LockKind::Shared,
        WRLCK => LockKind::Exclusive,
        _ => return Err(Errno::EINVAL.into()),
    };
    let wanted = Lock { node, owner, kind: lock_kind, start: first, end };
    let conflict = c.resident.program.locks.conflict(&wanted).copied();
    if command == GETLK {
        let mut answer = bytes;
        match conflict {
            None => answer[..2].copy_from_slice(&UNLCK.to_le_bytes()),
            Some(held) => {
                let kind = if held.kind == LockKind::Shared { RDLCK } else { WRLCK };
                let len = if held.end == i64::MAX as u64 { 0 } else { held.end - held.start };
                answer[..2].copy_from_slice(&kind.to_le_bytes());
                answer[2..4].copy_from_slice(&[0, 0]);
                answer[8..16].copy_from_slice(&held.start.to_le_bytes());
                answer[16..24].copy_from_slice(&len.to_le_bytes());
                if let Owner::Process(pid) = held.owner {
                    answer[24..28].copy_from_slice(&pid.0.to_le_bytes());
                }
            }
        }
        c.write_bytes(addr, &answer)?;
        return Ok(0);
    }
    if conflict.is_some() {
        // Unlocking wakes all that wait in the program; they look again.
        return if command == SETLKW { crate::context::wait_for(Key::Lock) } else { Err(Errno::EAGAIN.into()) };
    }
    c.resident.program.locks.cut(node, owner, first, end);
    c.resident.program.locks.locks.push(wanted);
    Ok(0)
}

/// flock(2).
pub fn flock<M: Machine>(c: &mut Context<'_, M>, fd: u64, operation: u64) -> Result<u64> {
    const SHARED: u64 = 1;
    const EXCLUSIVE: u64 = 2;
    const NONBLOCK: u64 = 4;
    const UNLOCK: u64 = 8;
    let id = c.descriptor(fd)?.description;
    let node = node_of(c, fd)?;
    let owner = Owner::Description(id);
    let kind = match operation & !NONBLOCK {
        SHARED => LockKind::Shared,
        EXCLUSIVE => LockKind::Exclusive,
        UNLOCK => {
            c.resident.program.locks.cut(node, owner, 0, u64::MAX);
            c.wake(Key::Lock);
            return Ok(0);
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let wanted = Lock { node, owner, kind, start: 0, end: u64::MAX };
    if c.resident.program.locks.conflict(&wanted).is_some() {
        return if operation & NONBLOCK != 0 { Err(Errno::EAGAIN.into()) } else { crate::context::wait_for(Key::Lock) };
    }
    c.resident.program.locks.cut(node, owner, 0, u64::MAX);
    c.resident.program.locks.locks.push(wanted);
    Ok(0)
}

impl<M: Machine> Context<'_, M> {
    /// A descriptor was closed: the process's byte-range locks on that file go (fcntl(2)).
    pub fn release_locks_of(&mut self, id: DescriptionId) {
        let pid = self.pid;
        if let Some(node) = self.resident.program.descriptions.get(&id).and_then(|d| d.kind.node()) {
            let node = self.resident.program.tree.canonical(node);
            self.resident.program.locks.forget_process(pid, Some(node));
            self.wake(Key::Lock);
        }
    }
}

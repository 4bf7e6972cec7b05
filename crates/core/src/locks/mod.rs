//! File locks: byte ranges by process (POSIX) and by open file description (OFD), and whole files by description (flock).
mod calls;
#[cfg(test)]
mod tests;

pub use calls::{Waits, fcntl, flock};

use crate::files::DescriptionId;
use alloc::{format, string::String, vec::Vec};
use minicbor::{Decode, Encode};
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_vfs::NodeId;

/// The byte behind the last that a file may have: a lock up to here reaches to the end, however far that moves.
const END: u64 = 1 << 63;
/// Locks that a program may hold.
const LIMIT: usize = 1 << 13;

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
    /// A process: byte ranges.
    #[n(0)]
    Process(#[n(0)] Pid),
    /// A description: the whole file, by flock(2).
    #[n(1)]
    Description(#[n(0)] DescriptionId),
    /// A description: byte ranges, by F_OFD_SETLK.
    #[n(2)]
    Ranges(#[n(0)] DescriptionId),
}

impl Owner {
    /// Locks of flock(2) and those of fcntl(2) do not see each other.
    fn is_flock(self) -> bool {
        matches!(self, Owner::Description(_))
    }
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

/// A lock as /proc tells of it.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// The file.
    pub node: NodeId,
    /// Whose it is.
    pub holder: Holder,
    kind: LockKind,
    range: (u64, u64),
}

/// Whose a lock is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// A process's: byte ranges.
    Process(Pid),
    /// A description's: the whole file.
    Whole(DescriptionId),
    /// A description's: byte ranges.
    Ranges,
}

impl Held {
    /// What kind of lock it is.
    pub fn class(&self) -> String {
        let class = match self.holder {
            Holder::Process(_) => "POSIX ",
            Holder::Whole(_) => "FLOCK ",
            Holder::Ranges => "OFDLCK",
        };
        let kind = if self.kind == LockKind::Exclusive { "WRITE" } else { "READ " };
        format!("{class} ADVISORY  {kind}")
    }
    /// Its first and last byte.
    pub fn range(&self) -> String {
        let (start, end) = self.range;
        if end >= END { format!("{start} EOF") } else { format!("{start} {}", end.saturating_sub(1)) }
    }
}

/// All locks of a program.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub struct Locks {
    #[n(0)]
    locks: Vec<Lock>,
}

impl Locks {
    /// All, for /proc.
    pub fn held(&self) -> impl Iterator<Item = Held> {
        self.locks.iter().map(|lock| Held {
            node: lock.node,
            holder: match lock.owner {
                Owner::Process(pid) => Holder::Process(pid),
                Owner::Description(id) => Holder::Whole(id),
                Owner::Ranges(_) => Holder::Ranges,
            },
            kind: lock.kind,
            range: (lock.start, lock.end),
        })
    }

    /// The locks that stand against one that is wanted.
    fn conflicts<'a>(&'a self, wanted: &'a Lock) -> impl Iterator<Item = &'a Lock> {
        self.locks.iter().filter(move |held| {
            held.node == wanted.node
                && held.owner != wanted.owner
                && held.owner.is_flock() == wanted.owner.is_flock()
                && held.start < wanted.end
                && wanted.start < held.end
                && (held.kind == LockKind::Exclusive || wanted.kind == LockKind::Exclusive)
        })
    }

    /// The lock that stands against one that is wanted, and begins first.
    fn conflict(&self, wanted: &Lock) -> Option<Lock> {
        self.conflicts(wanted).min_by_key(|held| held.start).copied()
    }

    /// Takes the owner's locks out of a range; what sticks out stays. Returns whether there was one.
    fn cut(&mut self, node: NodeId, owner: Owner, start: u64, end: u64) -> Result<Cut, Errno> {
        let inside = |held: &Lock| held.node == node && held.owner == owner && held.end > start && end > held.start;
        let splits = self.locks.iter().filter(|held| inside(held) && held.start < start && held.end > end).count();
        if self.locks.len().saturating_add(splits) > LIMIT {
            return Err(Errno::ENOLCK);
        }
        let mut kept = Vec::with_capacity(self.locks.len() + splits);
        let mut outcome = Cut::Nothing;
        for held in self.locks.drain(..) {
            if !inside(&held) {
                kept.push(held);
                continue;
            }
            outcome = Cut::Some;
            if held.start < start {
                kept.push(Lock { end: start, ..held });
            }
            if held.end > end {
                kept.push(Lock { start: end, ..held });
            }
        }
        self.locks = kept;
        Ok(outcome)
    }

    /// Sets a lock that nothing stands against; it replaces what its owner had there, and joins what lies next to it.
    fn set(&mut self, wanted: Lock) -> Result<(), Errno> {
        let joins = |held: &Lock| {
            let touches = held.start <= wanted.end && wanted.start <= held.end;
            held.node == wanted.node && held.owner == wanted.owner && held.kind == wanted.kind && touches
        };
        if self.locks.len() >= LIMIT && !self.locks.iter().any(joins) {
            return Err(Errno::ENOLCK);
        }
        let whole = self.locks.iter().filter(|held| joins(held)).fold(wanted, |whole, held| Lock {
            start: whole.start.min(held.start),
            end: whole.end.max(held.end),
            ..whole
        });
        self.cut(wanted.node, wanted.owner, wanted.start, wanted.end)?;
        self.locks.retain(|held| !joins(held));
        self.locks.push(whole);
        Ok(())
    }

    /// A process has closed a descriptor of this file, or has ended: its locks go. Returns whether it had any.
    pub fn forget_process(&mut self, pid: Pid, node: Option<NodeId>) -> Cut {
        let before = self.locks.len();
        self.locks.retain(|held| held.owner != Owner::Process(pid) || node.is_some_and(|node| held.node != node));
        if self.locks.len() == before { Cut::Nothing } else { Cut::Some }
    }

    /// A description is closed: its locks go. Returns whether it had any.
    pub fn forget_description(&mut self, id: DescriptionId) -> Cut {
        let before = self.locks.len();
        self.locks.retain(|held| held.owner != Owner::Description(id) && held.owner != Owner::Ranges(id));
        if self.locks.len() == before { Cut::Nothing } else { Cut::Some }
    }
}

/// Whether locks went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// None was there.
    Nothing,
    /// Who waits for locks is to look again.
    Some,
}

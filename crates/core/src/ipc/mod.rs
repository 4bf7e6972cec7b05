//! Interprocess communication by identifier (sysvipc(7)) and by queue name (mq_overview(7)): saved data and pure rules.
pub mod messages;
pub mod queue;
pub mod semaphores;
pub mod shared;

use crate::process::Ids;
use alloc::collections::BTreeMap;
use messages::MessageQueue;
use minicbor::{Decode, Encode};
use semaphores::SemaphoreSet;
use shared::Segment;
use shimos_abi::errno::Errno;

/// All System V objects of a program.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub struct Ipc {
    /// Shared memory segments.
    #[n(0)]
    pub shared: Names<Segment>,
    /// Semaphore sets.
    #[n(1)]
    pub semaphores: Names<SemaphoreSet>,
    /// Message queues.
    #[n(2)]
    pub messages: Names<MessageQueue>,
}

/// `IPC_PRIVATE`: a key that names nothing.
pub const PRIVATE: i32 = 0;
/// `IPC_CREAT`.
pub const CREATE: u64 = 0o1000;
/// `IPC_EXCL`.
pub const EXCLUSIVE: u64 = 0o2000;
/// `IPC_NOWAIT`.
pub const NO_WAIT: u64 = 0o4000;
/// The bits to ask for reading with.
pub const READ: u64 = 0o444;
/// The bits to ask for writing with.
pub const WRITE: u64 = 0o222;

/// Who may do what with an object (struct ipc_perm).
#[derive(Clone, Debug, Default, Encode, Decode)]
pub struct Permissions {
    /// The key it was made with; [`PRIVATE`] once it is only to be found by its identifier.
    #[n(0)]
    pub key: i32,
    /// Owner.
    #[n(1)]
    pub uid: u32,
    /// Owner's group.
    #[n(2)]
    pub gid: u32,
    /// Who made it.
    #[n(3)]
    pub cuid: u32,
    /// The maker's group.
    #[n(4)]
    pub cgid: u32,
    /// Permission bits, and flags above them.
    #[n(5)]
    pub mode: u32,
}

impl Permissions {
    /// Those of an object that `who` makes.
    pub fn new(key: i32, who: &Ids, mode: u64) -> Permissions {
        Permissions { key, uid: who.euid, gid: who.egid, cuid: who.euid, cgid: who.egid, mode: (mode & 0o777) as u32 }
    }
    /// `EACCES` unless `who` may do what `wanted` asks for: bits in any of the three places.
    pub fn check(&self, who: &Ids, wanted: u64) -> Result<(), Errno> {
        let wanted = (wanted >> 6 | wanted >> 3 | wanted) & 7;
        let member = |gid: u32| who.egid == gid || who.groups.contains(&gid);
        let mode = u64::from(self.mode);
        let granted = if who.euid == self.cuid || who.euid == self.uid {
            mode >> 6
        } else if member(self.cgid) || member(self.gid) {
            mode >> 3
        } else {
            mode
        };
        if wanted & !granted == 0 || who.euid == 0 { Ok(()) } else { Err(Errno::EACCES) }
    }
    /// `EPERM` unless `who` may change or remove the object.
    pub fn check_owner(&self, who: &Ids) -> Result<(), Errno> {
        if who.euid == 0 || who.euid == self.uid || who.euid == self.cuid { Ok(()) } else { Err(Errno::EPERM) }
    }
    /// IPC_SET.
    pub fn set(&mut self, uid: u32, gid: u32, mode: u32) {
        (self.uid, self.gid) = (uid, gid);
        self.mode = self.mode & !0o777 | mode & 0o777;
    }
    /// struct ipc64_perm.
    pub fn bytes(&self, id: i32) -> [u8; 48] {
        let mut bytes = [0; 48];
        let words = [self.key as u32, self.uid, self.gid, self.cuid, self.cgid, self.mode, id as u32 / INDEXES];
        for (field, word) in bytes.chunks_exact_mut(4).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// An object as the calls find it.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Entry<T> {
    /// Tells this object from earlier ones with the same index.
    #[n(0)]
    sequence: u32,
    /// Who may do what.
    #[n(1)]
    pub permissions: Permissions,
    /// Seconds since 1970 of the last change by IPC_SET, or of its making.
    #[n(2)]
    pub changed: i64,
    /// The object itself.
    #[n(3)]
    pub value: T,
}

/// Objects of one kind by index; an identifier is an index and a sequence number.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Names<T> {
    #[n(0)]
    entries: BTreeMap<u32, Entry<T>>,
    #[n(1)]
    sequence: u32,
}

/// Indexes that an identifier has room for.
const INDEXES: u32 = 32768;
/// Sequence numbers that an identifier has room for.
const SEQUENCES: u32 = i32::MAX as u32 / INDEXES;

impl<T> Default for Names<T> {
    fn default() -> Names<T> {
        Names { entries: BTreeMap::new(), sequence: 0 }
    }
}

impl<T> Names<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// The highest index in use, 0 if there is none.
    pub fn highest(&self) -> u64 {
        self.entries.keys().next_back().copied().unwrap_or(0).into()
    }
    /// Adds an object; `ENOSPC` if there are `most`.
    pub fn add(&mut self, permissions: Permissions, value: T, now: i64, most: usize) -> Result<i32, Errno> {
        if self.entries.len() >= most {
            return Err(Errno::ENOSPC);
        }
        let mut index = 0;
        for taken in self.entries.keys() {
            if *taken != index {
                break;
            }
            index += 1;
        }
        if index >= INDEXES {
            return Err(Errno::ENOSPC);
        }
        let sequence = self.sequence;
        self.sequence = (sequence + 1) % SEQUENCES;
        self.entries.insert(index, Entry { sequence, permissions, changed: now, value });
        Ok((sequence * INDEXES + index) as i32)
    }
    /// The object with an identifier.
    pub fn get(&self, id: i32) -> Option<&Entry<T>> {
        let id = u32::try_from(id).ok()?;
        self.entries.get(&(id % INDEXES)).filter(|entry| entry.sequence == id / INDEXES)
    }
    /// The same, to change.
    pub fn get_mut(&mut self, id: i32) -> Option<&mut Entry<T>> {
        let id = u32::try_from(id).ok()?;
        self.entries.get_mut(&(id % INDEXES)).filter(|entry| entry.sequence == id / INDEXES)
    }
    /// The identifier of the object at an index.
    pub fn at(&self, index: i32) -> Option<i32> {
        let index = u32::try_from(index).ok()?;
        self.entries.get(&index).map(|entry| (entry.sequence * INDEXES + index) as i32)
    }
    /// The identifier of the object with a key.
    pub fn by_key(&self, key: i32) -> Option<i32> {
        self.iter().find(|(_, entry)| key != PRIVATE && entry.permissions.key == key).map(|(id, _)| id)
    }
    /// Takes an object away.
    pub fn remove(&mut self, id: i32) -> Option<Entry<T>> {
        self.get(id)?;
        self.entries.remove(&(id as u32 % INDEXES))
    }
    /// All with their identifiers.
    pub fn iter(&self) -> impl Iterator<Item = (i32, &Entry<T>)> {
        self.entries.iter().map(|(index, entry)| ((entry.sequence * INDEXES + index) as i32, entry))
    }
    /// All with their identifiers, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (i32, &mut Entry<T>)> {
        self.entries.iter_mut().map(|(index, entry)| ((entry.sequence * INDEXES + index) as i32, entry))
    }
    /// Whether decoded objects make sense.
    pub fn validate(&self) -> Result<(), &'static str> {
        let possible = |(index, entry): (&u32, &Entry<T>)| *index < INDEXES && entry.sequence < SEQUENCES;
        if self.sequence < SEQUENCES && self.entries.iter().all(possible) {
            Ok(())
        } else {
            Err("an identifier that cannot be")
        }
    }
}

/// What the three get calls have in common: finds by key or says that one is to be made (`None`).
///
/// `fits` looks at an object that exists.
pub fn find<T>(
    names: &Names<T>,
    key: i32,
    flags: u64,
    who: &Ids,
    fits: impl FnOnce(&T) -> Result<(), Errno>,
) -> Result<Option<i32>, Errno> {
    if key == PRIVATE {
        return Ok(None);
    }
    let Some((id, entry)) = names.by_key(key).and_then(|id| Some((id, names.get(id)?))) else {
        return if flags & CREATE == 0 { Err(Errno::ENOENT) } else { Ok(None) };
    };
    if flags & CREATE != 0 && flags & EXCLUSIVE != 0 {
        return Err(Errno::EEXIST);
    }
    fits(&entry.value)?;
    entry.permissions.check(who, flags)?;
    Ok(Some(id))
}

impl Ipc {
    /// Whether decoded objects make sense.
    pub fn validate(&self) -> Result<(), &'static str> {
        self.shared.validate()?;
        self.semaphores.validate()?;
        self.messages.validate()?;
        let sets = self.semaphores.iter().all(|(_, entry)| entry.value.is_valid());
        if sets { Ok(()) } else { Err("a semaphore that cannot be") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_not_used_again_at_once() {
        let mut names = Names::default();
        let permissions = Permissions::new(7, &Ids::default(), 0o600);
        let first = names.add(permissions.clone(), 1, 0, 2).unwrap();
        let second = names.add(Permissions::new(0, &Ids::default(), 0o600), 2, 0, 2).unwrap();
        assert_eq!(names.add(permissions.clone(), 3, 0, 2), Err(Errno::ENOSPC));
        assert_eq!(names.by_key(7), Some(first));
        assert_eq!(names.by_key(0), None);
        assert!(names.remove(first).is_some());
        assert!(names.get(first).is_none());
        let third = names.add(permissions, 3, 0, 2).unwrap();
        assert_ne!(first, third);
        assert_eq!(names.at(0), Some(third));
        assert_eq!(names.at(1), Some(second));
    }

    #[test]
    fn permissions_go_by_owner_group_and_others() {
        let owner = Ids { uid: 5, euid: 5, gid: 6, egid: 6, ..Ids::default() };
        let member = Ids { euid: 7, egid: 9, groups: alloc::vec![6], ..Ids::default() };
        let other = Ids { euid: 8, egid: 9, ..Ids::default() };
        let permissions = Permissions::new(1, &owner, 0o640);
        assert!(permissions.check(&owner, READ | WRITE).is_ok());
        assert!(permissions.check(&member, READ).is_ok());
        assert_eq!(permissions.check(&member, WRITE), Err(Errno::EACCES));
        assert_eq!(permissions.check(&other, READ), Err(Errno::EACCES));
        assert_eq!(permissions.check_owner(&member), Err(Errno::EPERM));
        assert!(permissions.check(&Ids::default(), WRITE).is_ok());
    }
}

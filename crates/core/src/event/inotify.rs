//! Watched files: what is watched, and what is to be told of it (inotify(7)).
use super::{Event, EventId};
use crate::table::Table;
use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use minicbor::{Decode, Encode};
use shimos_vfs::NodeId;

/// The events and flags of inotify(7).
pub mod mask {
    #![allow(missing_docs, reason = "the names are those of inotify(7)")]
    pub const ACCESS: u32 = 1;
    pub const MODIFY: u32 = 2;
    pub const ATTRIB: u32 = 4;
    pub const CLOSE_WRITE: u32 = 8;
    pub const CLOSE_NOWRITE: u32 = 0x10;
    pub const OPEN: u32 = 0x20;
    pub const MOVED_FROM: u32 = 0x40;
    pub const MOVED_TO: u32 = 0x80;
    pub const CREATE: u32 = 0x100;
    pub const DELETE: u32 = 0x200;
    pub const DELETE_SELF: u32 = 0x400;
    pub const MOVE_SELF: u32 = 0x800;
    pub const UNMOUNT: u32 = 0x2000;
    pub const Q_OVERFLOW: u32 = 0x4000;
    pub const IGNORED: u32 = 0x8000;
    pub const ONLYDIR: u32 = 0x0100_0000;
    pub const DONT_FOLLOW: u32 = 0x0200_0000;
    pub const EXCL_UNLINK: u32 = 0x0400_0000;
    pub const MASK_CREATE: u32 = 0x1000_0000;
    pub const MASK_ADD: u32 = 0x2000_0000;
    pub const ISDIR: u32 = 0x4000_0000;
    pub const ONESHOT: u32 = 0x8000_0000;
    /// All that can be watched for.
    pub const EVENTS: u32 = 0xfff;
    /// All that a program may say.
    pub const KNOWN: u32 = EVENTS
        | UNMOUNT
        | Q_OVERFLOW
        | IGNORED
        | ONLYDIR
        | DONT_FOLLOW
        | EXCL_UNLINK
        | MASK_CREATE
        | MASK_ADD
        | ISDIR
        | ONESHOT;
}

/// Events that wait to be read, at most (`/proc/sys/fs/inotify/max_queued_events`).
pub const MAX_QUEUED: usize = 16_384;
/// Files that all of a program watch together, at most.
pub const MAX_WATCHES: usize = 65_536;
/// How many of these descriptors a program may have.
pub const MAX_INSTANCES: usize = 128;
/// Bytes of struct inotify_event without a name; names are padded to a multiple of it.
const HEAD: usize = 16;

/// A file that is watched.
#[derive(Clone, Copy, Debug, Encode, Decode)]
pub struct FileWatch {
    /// The file, by the id that it keeps.
    #[n(0)]
    pub node: NodeId,
    /// What for, with flags.
    #[n(1)]
    pub mask: u32,
}

/// Something to tell.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Told {
    /// Which watch it is for; -1 for none.
    #[n(0)]
    pub watch: i32,
    /// What happened.
    #[n(1)]
    pub mask: u32,
    /// Ties the two ends of a move together.
    #[n(2)]
    pub cookie: u32,
    /// Name in the watched directory.
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    pub name: Vec<u8>,
}

impl Told {
    /// Its size as a program reads it.
    pub fn size(&self) -> usize {
        if self.name.is_empty() { HEAD } else { HEAD + (self.name.len() + 1).next_multiple_of(HEAD) }
    }
    /// struct inotify_event.
    fn encode(&self, into: &mut Vec<u8>) {
        let end = into.len() + self.size();
        into.extend_from_slice(&self.watch.to_le_bytes());
        into.extend_from_slice(&self.mask.to_le_bytes());
        into.extend_from_slice(&self.cookie.to_le_bytes());
        into.extend_from_slice(&((self.size() - HEAD) as u32).to_le_bytes());
        into.extend_from_slice(&self.name);
        into.resize(end, 0);
    }
}

/// What one descriptor watches.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub struct Inotify {
    #[n(0)]
    watches: BTreeMap<i32, FileWatch>,
    #[n(1)]
    last: i32,
    #[n(2)]
    queue: VecDeque<Told>,
}

impl Inotify {
    /// All watches.
    pub fn watches(&self) -> impl Iterator<Item = (i32, &FileWatch)> {
        self.watches.iter().map(|(id, watch)| (*id, watch))
    }
    /// A watch.
    pub fn get(&self, id: i32) -> Option<&FileWatch> {
        self.watches.get(&id)
    }
    /// Changes what a file is watched for.
    pub fn change(&mut self, id: i32, mask: u32) {
        if let Some(watch) = self.watches.get_mut(&id) {
            watch.mask = mask;
        }
    }
    /// Watches a file; says by which number, if there is one left.
    pub fn add(&mut self, watch: FileWatch) -> Option<i32> {
        self.last = self.last.checked_add(1)?;
        self.watches.insert(self.last, watch);
        Some(self.last)
    }
    /// Watches a file no more, and says so. Returns what was watched.
    pub fn remove(&mut self, id: i32) -> Option<FileWatch> {
        let watch = self.watches.remove(&id)?;
        self.push(Told { watch: id, mask: mask::IGNORED, cookie: 0, name: Vec::new() });
        Some(watch)
    }
    /// Something to tell. What was told last is not told twice, and more than fits is told as just that.
    pub fn push(&mut self, told: Told) {
        let same = |last: &Told| {
            last.mask & mask::IGNORED == 0 && (last.watch, last.mask, &last.name) == (told.watch, told.mask, &told.name)
        };
        if self.queue.back().is_some_and(same) {
            return;
        }
        let overflow = Told { watch: -1, mask: mask::Q_OVERFLOW, cookie: 0, name: Vec::new() };
        if self.queue.len() < MAX_QUEUED {
            self.queue.push_back(told);
        } else if self.queue.back() != Some(&overflow) {
            self.queue.push_back(overflow);
        }
    }
    /// Bytes to be read.
    pub fn readable(&self) -> usize {
        self.queue.iter().map(Told::size).sum()
    }
    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
    /// Takes what fits into `room` bytes; `None` if not even the first fits.
    pub fn read(&mut self, room: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(told) = self.queue.front() {
            if bytes.len() + told.size() > room {
                return if bytes.is_empty() { None } else { Some(bytes) };
            }
            told.encode(&mut bytes);
            self.queue.pop_front();
        }
        Some(bytes)
    }
}

/// Who watches which file: an index over all descriptors of a program.
#[derive(Default)]
pub struct FileWatches {
    by_node: BTreeMap<NodeId, Vec<(EventId, i32)>>,
    count: usize,
}

impl FileWatches {
    /// The index over a program's event objects.
    pub fn all(events: &Table<EventId, Event>) -> FileWatches {
        let mut all = FileWatches::default();
        for (id, event) in events {
            if let Event::Files(inotify) = event {
                for (watch, file) in inotify.watches() {
                    all.add(file.node, *id, watch);
                }
            }
        }
        all
    }
    /// Adds a watch.
    pub fn add(&mut self, node: NodeId, event: EventId, watch: i32) {
        self.by_node.entry(node).or_default().push((event, watch));
        self.count += 1;
    }
    /// Removes a watch.
    pub fn remove(&mut self, node: NodeId, event: EventId, watch: i32) {
        if let Some(list) = self.by_node.get_mut(&node) {
            let before = list.len();
            list.retain(|other| *other != (event, watch));
            self.count -= before - list.len();
            if list.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }
    /// Whether nothing is watched.
    pub fn is_empty(&self) -> bool {
        self.by_node.is_empty()
    }
    /// How many watches there are.
    pub fn len(&self) -> usize {
        self.count
    }
    /// Who watches a file.
    pub fn of(&self, node: NodeId) -> Vec<(EventId, i32)> {
        self.by_node.get(&node).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(watch: i32, mask: u32, name: &[u8]) -> Told {
        Told { watch, mask, cookie: 0, name: name.to_vec() }
    }

    #[test]
    fn equal_neighbours_are_one() {
        let mut inotify = Inotify::default();
        for _ in 0..3 {
            inotify.push(told(1, mask::MODIFY, b"a"));
        }
        inotify.push(told(1, mask::MODIFY, b"b"));
        inotify.push(told(1, mask::MODIFY, b"a"));
        assert_eq!(inotify.readable(), 3 * 32);
        assert_eq!(inotify.read(31), None);
        assert_eq!(inotify.read(70).map(|bytes| bytes.len()), Some(64));
        assert_eq!(inotify.read(70).map(|bytes| bytes.len()), Some(32));
        assert!(inotify.is_empty());
    }

    #[test]
    fn a_full_queue_says_so_once() {
        let mut inotify = Inotify::default();
        for n in 0..MAX_QUEUED as i32 + 10 {
            inotify.push(told(n, mask::OPEN, b""));
        }
        assert_eq!(inotify.queue.len(), MAX_QUEUED + 1);
        assert_eq!(inotify.queue.back().map(|told| (told.watch, told.mask)), Some((-1, mask::Q_OVERFLOW)));
    }

    #[test]
    fn names_are_padded() {
        assert_eq!(told(1, 0, b"").size(), 16);
        assert_eq!(told(1, 0, b"123456789012345").size(), 32);
        assert_eq!(told(1, 0, b"1234567890123456").size(), 48);
    }
}

//! Reading directories: the image's entries in their places, then the writable layer's own in the order they were made.
//!
//! A cursor is a place that no change moves: entries of the image by block and index, others by a number that only grows.
//! So a reader that goes on while names come and go sees every name that stays exactly once.
use crate::{
    erofs::Place,
    fault::{Fault, Sources},
    node::{DirEntry, Directory, Kind, NodeId},
    tree::Tree,
};
use alloc::vec::Vec;
use shimos_abi::errno::Errno;

/// The first cursor behind `.` and `..`.
const LOWER: u64 = 2;
/// The cursor of the first entry that is not in the image.
const UPPER: u64 = 1 << 62;

/// Entries of one block have cursors in a range of this size.
const BLOCK_SPAN: u64 = 512;

fn cursor_of(place: Place) -> u64 {
    let cursor = place.block.saturating_mul(BLOCK_SPAN).saturating_add(u64::from(place.index));
    cursor.saturating_add(LOWER).min(UPPER - 1)
}

fn place_of(cursor: u64) -> Place {
    let at = cursor.saturating_sub(LOWER);
    Place { block: at / BLOCK_SPAN, index: (at % BLOCK_SPAN) as u16 }
}

impl Tree {
    /// At most `limit` entries of a directory from `cursor` on (0 for the first), `.` and `..` first. None left is an empty
    /// list. Fewer than `limit` may come before the end.
    pub fn read_dir(
        &self,
        sources: &mut Sources<'_>,
        dir: NodeId,
        cursor: u64,
        limit: usize,
    ) -> Result<Vec<DirEntry>, Fault> {
        let dir = self.canonical(dir);
        let (upper, lower) = match dir {
            NodeId::Lower(nid) => (None, Some(nid)),
            NodeId::Upper(id) => {
                let directory = self.directory(id)?;
                (Some(directory), directory.lower)
            }
            NodeId::Synthetic { mount, node } => return sources.synthetic.read_dir(mount, node, cursor, limit),
        };
        let metadata = self.directory_metadata(sources, dir)?;
        let mut out = Vec::new();
        // A removed directory has no entries, not even dots.
        if metadata.nlink == 0 || limit == 0 {
            return Ok(out);
        }
        if cursor == 0 {
            out.push(DirEntry { name: b".".to_vec(), ino: metadata.ino, kind: Kind::Directory, next: 1 });
        }
        if cursor <= 1 && out.len() < limit {
            let parent = self.parent(sources, dir)?;
            let ino = self.metadata(sources, parent)?.ino;
            out.push(DirEntry { name: b"..".to_vec(), ino, kind: Kind::Directory, next: LOWER });
        }
        if let Some(nid) = lower
            && cursor < UPPER
        {
            let mut place = place_of(cursor);
            while out.len() < limit {
                match self.list_image(sources, nid, upper, place, limit, &mut out) {
                    Ok(Some(next)) => place = next,
                    Ok(None) => break,
                    // What was found is given; the rest is for the next call.
                    Err(Fault::Missing(_)) if !out.is_empty() => return Ok(out),
                    Err(fault) => return Err(fault),
                }
            }
        }
        if let Some(directory) = upper
            && out.len() < limit
        {
            let from = cursor.saturating_sub(UPPER);
            let mut own: Vec<_> = directory
                .entries
                .iter()
                .filter(|(_, entry)| !entry.shadows && entry.seq >= from)
                .filter_map(|(name, entry)| Some((entry.seq, name, entry.node?)))
                .collect();
            own.sort_unstable_by_key(|(seq, ..)| *seq);
            for (seq, name, id) in own.into_iter().take(limit - out.len()) {
                let Ok(node) = self.node(id) else { continue };
                let next = UPPER.saturating_add(seq).saturating_add(1);
                out.push(DirEntry { name: name.0.clone(), ino: node.ino, kind: node.body.kind(), next });
            }
        }
        Ok(out)
    }

    /// Lists the next block of the image's part; returns where to go on, or nothing at the end.
    fn list_image(
        &self,
        sources: &mut Sources<'_>,
        nid: u64,
        upper: Option<&Directory>,
        place: Place,
        limit: usize,
        out: &mut Vec<DirEntry>,
    ) -> Result<Option<Place>, Fault> {
        let inode = self.image.inode(sources.blocks, nid)?;
        let listed = self.image.list(sources.blocks, &inode, place)?;
        let mut next_place = None;
        for found in listed {
            if out.len() >= limit {
                break;
            }
            let behind = Place { block: found.place.block, index: found.place.index + 1 };
            next_place = Some(behind);
            if found.name == b"." || found.name == b".." {
                continue;
            }
            let node = match upper.and_then(|directory| directory.entries.get(found.name.as_slice())) {
                Some(entry) => match entry.node {
                    Some(id) => NodeId::Upper(id),
                    None => continue,
                },
                None => self.canonical(NodeId::Lower(found.nid)),
            };
            let (ino, kind) = match (node, found.kind) {
                (NodeId::Lower(nid), Some(kind)) => (crate::erofs::ino_of(nid), kind),
                _ => {
                    let metadata = self.metadata(sources, node)?;
                    (metadata.ino, metadata.kind)
                }
            };
            out.push(DirEntry { name: found.name, ino, kind, next: cursor_of(behind) });
        }
        Ok(next_place)
    }

    /// Whether a directory has no names but the dots.
    pub(crate) fn check_empty(&self, sources: &mut Sources<'_>, dir: NodeId) -> Result<(), Fault> {
        let (upper, lower) = match self.canonical(dir) {
            NodeId::Lower(nid) => (None, Some(nid)),
            NodeId::Upper(id) => {
                let directory = self.directory(id)?;
                if directory.entries.values().any(|entry| entry.node.is_some()) {
                    return Err(Errno::ENOTEMPTY.into());
                }
                (Some(directory), directory.lower)
            }
            NodeId::Synthetic { .. } => return Err(Errno::EPERM.into()),
        };
        let Some(nid) = lower else { return Ok(()) };
        let inode = self.image.inode(sources.blocks, nid)?;
        let mut place = Place::default();
        loop {
            let listed = self.image.list(sources.blocks, &inode, place)?;
            let Some(last) = listed.last() else { return Ok(()) };
            place = Place { block: last.place.block, index: last.place.index + 1 };
            for found in &listed {
                let hidden = upper.is_some_and(|directory| directory.entries.contains_key(found.name.as_slice()));
                if !hidden && found.name != b"." && found.name != b".." {
                    return Err(Errno::ENOTEMPTY.into());
                }
            }
        }
    }

    /// The name of directory `child` in directory `parent`.
    pub(crate) fn name_in(&self, sources: &mut Sources<'_>, parent: NodeId, child: NodeId) -> Result<Vec<u8>, Fault> {
        let child = self.canonical(child);
        let (upper, lower) = match self.canonical(parent) {
            NodeId::Lower(nid) => (None, Some(nid)),
            NodeId::Upper(id) => {
                let directory = self.directory(id)?;
                let own = directory.entries.iter().find(|(_, entry)| entry.node.map(NodeId::Upper) == Some(child));
                if let Some((name, _)) = own {
                    return Ok(name.0.clone());
                }
                (Some(directory), directory.lower)
            }
            NodeId::Synthetic { .. } => return Err(Errno::ENOENT.into()),
        };
        let nid = lower.ok_or(Errno::ENOENT)?;
        let inode = self.image.inode(sources.blocks, nid)?;
        let mut place = Place::default();
        loop {
            let listed = self.image.list(sources.blocks, &inode, place)?;
            let Some(last) = listed.last() else { return Err(Errno::ENOENT.into()) };
            place = Place { block: last.place.block, index: last.place.index + 1 };
            for found in listed {
                let hidden = upper.is_some_and(|directory| directory.entries.contains_key(found.name.as_slice()));
                let dots = found.name == b"." || found.name == b"..";
                if !hidden && !dots && self.canonical(NodeId::Lower(found.nid)) == child {
                    return Ok(found.name);
                }
            }
        }
    }
}

//! Directories of the image: blocks of sorted entries, names behind them.
use super::{BLOCK, Image, Inode, le16, le64};
use crate::{
    NAME_MAX,
    fault::{Blocks, Fault},
    node::Kind,
};
use alloc::vec::Vec;
use core::cmp::Ordering;
use shimos_abi::errno::Errno;

/// Bytes of an entry: number (8), offset of the name (2), kind (1), unused (1).
const ENTRY: usize = 12;

/// The place of an entry in its directory. It never changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Place {
    /// Block of the directory.
    pub block: u64,
    /// Entry in the block; fewer than 512 fit.
    pub index: u16,
}

/// One entry of a directory, as the image has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Where it was found.
    pub place: Place,
    /// Name.
    pub name: Vec<u8>,
    /// Number of the file.
    pub nid: u64,
    /// Kind of file, if the image says a known one.
    pub kind: Option<Kind>,
}

/// One block of entries.
struct Entries {
    bytes: Vec<u8>,
    count: usize,
}

impl Entries {
    fn new(bytes: Vec<u8>) -> Result<Entries, Fault> {
        // The first name starts where the entries end.
        let end = usize::from(le16(&bytes, 8));
        if end < ENTRY || end % ENTRY != 0 || end > bytes.len() {
            return Err(Errno::EIO.into());
        }
        Ok(Entries { bytes, count: end / ENTRY })
    }

    fn name(&self, index: usize) -> Result<&[u8], Fault> {
        let start = usize::from(le16(&self.bytes, index * ENTRY + 8));
        let end = if index + 1 < self.count {
            usize::from(le16(&self.bytes, (index + 1) * ENTRY + 8))
        } else {
            self.bytes.len()
        };
        let mut name = self.bytes.get(start..end).ok_or(Errno::EIO)?;
        if index + 1 == self.count {
            // The last name ends at the first zero, or with the block.
            name = name.split(|byte| *byte == 0).next().unwrap_or(name);
        }
        if name.is_empty() || name.len() > NAME_MAX || name.contains(&b'/') || name.contains(&0) {
            return Err(Errno::EIO.into());
        }
        Ok(name)
    }

    fn nid(&self, index: usize) -> u64 {
        le64(&self.bytes, index * ENTRY)
    }

    fn kind(&self, index: usize) -> Option<Kind> {
        Some(match self.bytes.get(index * ENTRY + 10)? {
            1 => Kind::Regular,
            2 => Kind::Directory,
            3 => Kind::CharDevice,
            4 => Kind::BlockDevice,
            5 => Kind::Fifo,
            6 => Kind::Socket,
            7 => Kind::Symlink,
            _ => return None,
        })
    }

    /// The entry of this name, or where its block lies relative to this one.
    fn find(&self, name: &[u8]) -> Result<Result<usize, Ordering>, Fault> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = (low + high) / 2;
            match self.name(middle)?.cmp(name) {
                Ordering::Equal => return Ok(Ok(middle)),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Ok(Err(match low {
            0 => Ordering::Less,
            _ if low == self.count => Ordering::Greater,
            _ => Ordering::Equal,
        }))
    }
}

impl Image {
    fn entries(&self, blocks: &mut dyn Blocks, dir: &Inode, block: u64) -> Result<Entries, Fault> {
        Entries::new(self.content_block(blocks, dir, block)?)
    }

    /// The number of the file `name` (`.` and `..` too) in directory `dir`, if it is remembered, or none if it is
    /// remembered that there is none.
    pub(crate) fn remembered(&self, blocks: &mut dyn Blocks, dir: u64, name: &[u8]) -> Option<Option<u64>> {
        blocks.remembered()?.name(self.start, dir, name)
    }

    /// The number of the file `name` (`.` and `..` too) in a directory. ENOENT if there is none.
    pub fn lookup(&self, blocks: &mut dyn Blocks, dir: &Inode, name: &[u8]) -> Result<u64, Fault> {
        if let Some(known) = self.remembered(blocks, dir.nid, name) {
            return Ok(known.ok_or(Errno::ENOENT)?);
        }
        let found = self.search(blocks, dir, name);
        let nid = match found {
            Ok(nid) => Some(nid),
            Err(Fault::Errno(Errno::ENOENT)) => None,
            Err(_) => return found,
        };
        if let Some(remembered) = blocks.remembered() {
            remembered.note_name(self.start, dir.nid, name, nid);
        }
        found
    }

    fn search(&self, blocks: &mut dyn Blocks, dir: &Inode, name: &[u8]) -> Result<u64, Fault> {
        if !dir.is_directory() {
            return Err(Errno::ENOTDIR.into());
        }
        let (mut low, mut high) = (0, dir.metadata.size.div_ceil(BLOCK));
        while low < high {
            let middle = low + (high - low) / 2;
            let entries = self.entries(blocks, dir, middle)?;
            match entries.find(name)? {
                Ok(index) => return Ok(entries.nid(index)),
                Err(Ordering::Less) => high = middle,
                Err(Ordering::Greater) => low = middle + 1,
                Err(Ordering::Equal) => break,
            }
        }
        Err(Errno::ENOENT.into())
    }

    /// The entries of a directory from `place` on, `.` and `..` included: those of the first block that has any. An empty
    /// list is the end.
    pub fn list(&self, blocks: &mut dyn Blocks, dir: &Inode, place: Place) -> Result<Vec<Listed>, Fault> {
        if !dir.is_directory() {
            return Err(Errno::ENOTDIR.into());
        }
        let end = dir.metadata.size.div_ceil(BLOCK);
        let (mut block, mut first) = (place.block, usize::from(place.index));
        while block < end {
            let entries = self.entries(blocks, dir, block)?;
            if first < entries.count {
                let mut listed = Vec::with_capacity(entries.count - first);
                for index in first..entries.count {
                    listed.push(Listed {
                        place: Place { block, index: index as u16 },
                        name: entries.name(index)?.to_vec(),
                        nid: entries.nid(index),
                        kind: entries.kind(index),
                    });
                }
                return Ok(listed);
            }
            block += 1;
            first = 0;
        }
        Ok(Vec::new())
    }
}

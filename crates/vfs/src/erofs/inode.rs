//! Inodes, compact and extended.
use super::{BLOCK, Image, le16, le32, le64};
use crate::{
    access::Gate,
    fault::{Blocks, Fault},
    node::{Kind, Metadata, Rdev},
};
use shimos_abi::errno::Errno;

/// Inode numbers count slots of this many bytes from the start of the inode table.
const SLOT: u64 = 32;

/// Where a file's content lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// In blocks that follow one another.
    Plain {
        /// The first one.
        first: u32,
    },
    /// As [`Layout::Plain`], but the last part lies behind the inode.
    Inline {
        /// The first block.
        first: u32,
        /// Where the last part lies, in bytes from the start of the image.
        tail: u64,
    },
    /// In chunks that a table behind the inode places.
    Chunks {
        /// Blocks in a chunk, as power of two.
        bits: u8,
        /// Bytes in an entry of the table: 4 or 8.
        entry: u8,
        /// Where the table lies, in bytes from the start of the image.
        table: u64,
    },
}

/// One file of the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inode {
    /// Its number.
    pub nid: u64,
    /// What stat(2) tells. The inode number is derived from the file's number.
    pub metadata: Metadata,
    /// Where the content lies.
    pub layout: Layout,
}

impl Inode {
    /// Whether its whole blocks follow one another.
    pub fn is_in_one_piece(&self) -> bool {
        !matches!(self.layout, Layout::Chunks { .. })
    }
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.metadata.kind == Kind::Directory
    }
}

/// Inode numbers of the image are even, those of the writable layer are odd.
pub(crate) fn ino_of(nid: u64) -> u64 {
    nid.wrapping_mul(2)
}

impl Image {
    /// Reads an inode, unless it is remembered.
    pub fn inode(&self, blocks: &mut dyn Blocks, nid: u64) -> Result<Inode, Fault> {
        if let Some(known) = blocks.remembered().and_then(|remembered| remembered.inode(self.start, nid)) {
            return Ok(*known);
        }
        let inode = self.read_inode(blocks, nid)?;
        if let Some(remembered) = blocks.remembered() {
            remembered.note_inode(self.start, &inode);
        }
        Ok(inode)
    }

    /// What stat(2) tells of a file.
    pub fn metadata(&self, blocks: &mut dyn Blocks, nid: u64) -> Result<Metadata, Fault> {
        match blocks.remembered().and_then(|remembered| remembered.inode(self.start, nid)) {
            Some(known) => Ok(known.metadata),
            None => Ok(self.inode(blocks, nid)?.metadata),
        }
    }

    /// Who may use a file.
    pub(crate) fn gate(&self, blocks: &mut dyn Blocks, nid: u64) -> Result<Gate, Fault> {
        match blocks.remembered().and_then(|remembered| remembered.inode(self.start, nid)) {
            Some(known) => Ok(Gate::of(&known.metadata)),
            None => Ok(Gate::of(&self.inode(blocks, nid)?.metadata)),
        }
    }

    fn read_inode(&self, blocks: &mut dyn Blocks, nid: u64) -> Result<Inode, Fault> {
        let at = nid
            .checked_mul(SLOT)
            .and_then(|offset| offset.checked_add(self.meta.checked_mul(BLOCK)?))
            .ok_or(Errno::EIO)?;
        let mut raw = [0; 64];
        self.read_raw(blocks, at, &mut raw[..32])?;
        let format = le16(&raw, 0);
        let extended = format & 1 != 0;
        if extended {
            self.read_raw(blocks, at, &mut raw)?;
        }
        // Bits behind version and layout are features that we do not know.
        if format >> 4 != 0 {
            return Err(Errno::EIO.into());
        }
        let mode = le16(&raw, 4);
        let kind = Kind::from_mode(u32::from(mode)).ok_or(Errno::EIO)?;
        let special = le32(&raw, 16);
        let (size, uid, gid, nlink, time) = if extended {
            let seconds = i64::try_from(le64(&raw, 32)).unwrap_or(0);
            let time = seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(le32(&raw, 40)));
            (le64(&raw, 8), le32(&raw, 24), le32(&raw, 28), le32(&raw, 44), time)
        } else {
            let (uid, gid) = (u32::from(le16(&raw, 24)), u32::from(le16(&raw, 26)));
            (u64::from(le32(&raw, 8)), uid, gid, u32::from(le16(&raw, 6)), self.build_time)
        };
        let has_content = matches!(kind, Kind::Regular | Kind::Directory | Kind::Symlink);
        if size > i64::MAX as u64 - BLOCK {
            return Err(Errno::EIO.into());
        }
        let xattrs = match le16(&raw, 2) {
            0 => 0,
            count => 12 + (u64::from(count) - 1) * 4,
        };
        let behind = at.checked_add(if extended { 64 } else { 32 } + xattrs).ok_or(Errno::EIO)?;
        let layout = match (format >> 1) & 7 {
            0 => Layout::Plain { first: special },
            2 => Layout::Inline { first: special, tail: behind },
            4 => {
                // Bits 0 to 4: chunk size; bit 5: long entries; the rest is unknown.
                if special & !0x3f != 0 {
                    return Err(Errno::EIO.into());
                }
                let entry = if special & 0x20 != 0 { 8 } else { 4 };
                let table = behind.checked_next_multiple_of(entry).ok_or(Errno::EIO)?;
                Layout::Chunks { bits: (special & 0x1f) as u8, entry: entry as u8, table }
            }
            // Compressed.
            _ => return Err(Errno::EIO.into()),
        };
        let rdev = match kind {
            Kind::CharDevice | Kind::BlockDevice => Rdev::decoded(u64::from(special)),
            _ => Rdev::default(),
        };
        let metadata = Metadata {
            kind,
            mode: mode & 0o7777,
            uid,
            gid,
            // A file that can be found has a name.
            nlink: nlink.max(1),
            ino: ino_of(nid),
            rdev,
            size: if has_content { size } else { 0 },
            atime: time,
            mtime: time,
            ctime: time,
        };
        Ok(Inode { nid, metadata, layout })
    }
}

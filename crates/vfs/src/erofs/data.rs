//! Where the content of files lies.
use super::{BLOCK, Image, Inode, Layout, le32};
use crate::{
    fault::{Blocks, Fault},
    node::Kind,
};
use alloc::{vec, vec::Vec};
use shimos_abi::errno::Errno;

/// Where one page of a file lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    /// It is this block of the disk. Behind the end of the file the block holds what the image holds there: zeros, in an
    /// image that is well made.
    Block(u64),
    /// It is a part of a block; zeros follow.
    Inline {
        /// The block of the disk.
        block: u64,
        /// Where in it.
        offset: u16,
        /// How many bytes.
        len: u16,
    },
    /// It is all zeros.
    Hole,
}

impl Image {
    /// Where page `page` of file `nid` lies. Behind the end of the file is a hole.
    pub fn data(&self, blocks: &mut dyn Blocks, nid: u64, page: u64) -> Result<Piece, Fault> {
        let inode = self.inode(blocks, nid)?;
        self.data_of(blocks, &inode, page)
    }

    /// As [`Image::data`], for an inode that was read already.
    pub fn data_of(&self, blocks: &mut dyn Blocks, inode: &Inode, page: u64) -> Result<Piece, Fault> {
        let pages = inode.metadata.size.div_ceil(BLOCK);
        if page >= pages {
            return Ok(Piece::Hole);
        }
        match inode.layout {
            Layout::Plain { first } => self.block(u64::from(first), page),
            Layout::Inline { first, .. } if page + 1 < pages => self.block(u64::from(first), page),
            Layout::Inline { tail, .. } => {
                let len = inode.metadata.size - page * BLOCK;
                let (block, offset) = (tail / BLOCK, tail % BLOCK);
                if offset + len > BLOCK || block >= self.blocks {
                    return Err(Errno::EIO.into());
                }
                Ok(Piece::Inline { block: self.on_disk(block), offset: offset as u16, len: len as u16 })
            }
            Layout::Chunks { bits, entry, table } => {
                let at = (page >> bits).checked_mul(u64::from(entry)).and_then(|offset| table.checked_add(offset));
                let mut raw = [0; 8];
                let raw = &mut raw[..usize::from(entry)];
                self.read_raw(blocks, at.ok_or(Errno::EIO)?, raw)?;
                // A long entry starts with two numbers of 16 bits: hints, and the device, of which there is one.
                if raw.len() == 8 && super::le16(raw, 2) != 0 {
                    return Err(Errno::EIO.into());
                }
                match le32(raw, raw.len() - 4) {
                    u32::MAX => Ok(Piece::Hole),
                    start => self.block(u64::from(start), page & ((1 << bits) - 1)),
                }
            }
        }
    }

    fn block(&self, first: u64, index: u64) -> Result<Piece, Fault> {
        match first.checked_add(index) {
            Some(block) if block < self.blocks => Ok(Piece::Block(self.on_disk(block))),
            _ => Err(Errno::EIO.into()),
        }
    }

    /// Copies content at `offset` of a file; returns how many bytes, fewer only at its end.
    pub fn read(&self, blocks: &mut dyn Blocks, inode: &Inode, offset: u64, into: &mut [u8]) -> Result<usize, Fault> {
        let end = inode.metadata.size.min(offset.saturating_add(into.len() as u64));
        let mut at = offset;
        while at < end {
            let skip = (at % BLOCK) as usize;
            let count = (BLOCK as usize - skip).min((end - at) as usize);
            let start = (at - offset) as usize;
            let Some(part) = into.get_mut(start..start + count) else { return Err(Errno::EIO.into()) };
            match self.data_of(blocks, inode, at / BLOCK)? {
                Piece::Block(block) => blocks.read(block, skip, part)?,
                Piece::Inline { block, offset, .. } => blocks.read(block, usize::from(offset) + skip, part)?,
                Piece::Hole => part.fill(0),
            }
            at += count as u64;
        }
        Ok(at.saturating_sub(offset) as usize)
    }

    /// One whole block of a file's content, cut at its end.
    pub(super) fn content_block(&self, blocks: &mut dyn Blocks, inode: &Inode, index: u64) -> Result<Vec<u8>, Fault> {
        let start = index.checked_mul(BLOCK).ok_or(Errno::EIO)?;
        let len = inode.metadata.size.saturating_sub(start).min(BLOCK) as usize;
        let mut bytes = vec![0; len];
        self.read(blocks, inode, start, &mut bytes)?;
        Ok(bytes)
    }

    /// The text of a symbolic link.
    pub fn readlink(&self, blocks: &mut dyn Blocks, inode: &Inode) -> Result<Vec<u8>, Fault> {
        if inode.metadata.kind != Kind::Symlink {
            return Err(Errno::EINVAL.into());
        }
        if inode.metadata.size >= crate::PATH_MAX as u64 {
            return Err(Errno::EIO.into());
        }
        self.content_block(blocks, inode, 0)
    }
}

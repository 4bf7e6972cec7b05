//! Reader of the root image: EROFS without compression, 4 KiB blocks. The image is hostile input: every number in it is
//! checked before it is used, and nothing recurses.
mod data;
mod dir;
mod inode;
mod superblock;

pub use data::Piece;
pub use dir::{Listed, Place};
pub(crate) use inode::ino_of;
pub use inode::{Inode, Layout};
pub use superblock::{Image, OpenError};

/// Bytes in a block.
pub const BLOCK: u64 = 4096;

/// The little-endian number of `N` bytes at `at`; zeros where `bytes` ends early.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(from) = bytes.get(at..at + N) {
        out.copy_from_slice(from);
    }
    out
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

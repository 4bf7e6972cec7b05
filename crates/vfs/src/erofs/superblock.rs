//! The superblock: what an image is and where its tables lie.
use super::{BLOCK, le16, le32, le64};
use crate::fault::{Blocks, Fault};
use core::fmt;
use minicbor::{Decode, Encode};
use shimos_abi::errno::Errno;

/// Where the superblock lies, in bytes from the start.
const OFFSET: u64 = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
/// No image starts behind this block.
const LAST_START: u64 = 1 << 48;
/// Features that change nothing for us: zero padding of compressed data, chunked files, long xattr prefixes.
const SUPPORTED: u32 = 0x1 | 0x4 | 0x40;

/// An image that was found good: what the reader must know of it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Image {
    #[n(0)]
    pub(super) root: u64,
    /// Blocks in the image.
    #[n(1)]
    pub(super) blocks: u64,
    /// Block where the inode table starts.
    #[n(2)]
    pub(super) meta: u64,
    /// Time stamp of inodes that have none, in nanoseconds.
    #[n(3)]
    pub(super) build_time: i64,
    #[n(4)]
    inodes: u64,
    /// Block of the disk where the image starts. All other block numbers here count from it; those that the reader gives
    /// out and asks for count from the start of the disk.
    #[n(5)]
    #[cbor(default)]
    pub(super) start: u64,
}

/// Why an image cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// A block is missing, or cannot be read.
    Fault(Fault),
    /// There is no EROFS superblock.
    Magic(u32),
    /// The block size (as power of two) is not 4096.
    BlockSize(u8),
    /// It needs features that we do not have: the unknown bits of `feature_incompat`.
    Features(u32),
    /// It spans further devices.
    ExtraDevices(u16),
    /// Directories have another block size (as power of two, relative to blocks).
    DirectoryBlockSize(u8),
    /// The root is not a directory.
    Root,
    /// It says that it has this many blocks, more than there is room for.
    TooLong(u64),
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> OpenError {
        OpenError::Fault(fault)
    }
}

impl From<OpenError> for Fault {
    fn from(error: OpenError) -> Fault {
        match error {
            OpenError::Fault(fault) => fault,
            _ => Fault::Errno(Errno::EINVAL),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Fault(fault) => write!(f, "the image cannot be read: {fault:?}"),
            OpenError::Magic(found) => write!(f, "not an EROFS image (magic {found:#010x})"),
            OpenError::BlockSize(bits) => write!(f, "EROFS block size 2^{bits} is not supported, only 4096 is"),
            OpenError::Features(bits) => {
                write!(
                    f,
                    "EROFS features {bits:#x} are not supported; make the image with mkfs.erofs without -z and -E"
                )
            }
            OpenError::ExtraDevices(count) => {
                write!(f, "EROFS image needs {count} more devices; that is not supported")
            }
            OpenError::DirectoryBlockSize(bits) => write!(f, "EROFS directory block size 2^{bits} is not supported"),
            OpenError::Root => write!(f, "EROFS image is damaged: its root is not a directory"),
            OpenError::TooLong(blocks) => {
                write!(f, "EROFS image is damaged: it says that it has {blocks} blocks, more than lie there")
            }
        }
    }
}

impl Image {
    /// Reads and checks the superblock of an image that has the disk for itself.
    pub fn open(blocks: &mut dyn Blocks) -> Result<Image, OpenError> {
        Image::open_at(blocks, 0, u64::from(u32::MAX))
    }

    /// Reads and checks the superblock of the image that starts at block `start` of the disk and has room for `room` blocks.
    /// Nothing outside of them will be read.
    pub fn open_at(blocks: &mut dyn Blocks, start: u64, room: u64) -> Result<Image, OpenError> {
        if start > LAST_START {
            return Err(OpenError::Fault(Errno::EINVAL.into()));
        }
        let mut raw = [0; 128];
        blocks.read(start, OFFSET as usize, &mut raw)?;
        let magic = le32(&raw, 0);
        if magic != MAGIC {
            return Err(OpenError::Magic(magic));
        }
        if raw[12] != 12 {
            return Err(OpenError::BlockSize(raw[12]));
        }
        let unknown = le32(&raw, 80) & !SUPPORTED;
        if unknown != 0 {
            return Err(OpenError::Features(unknown));
        }
        if le16(&raw, 86) != 0 {
            return Err(OpenError::ExtraDevices(le16(&raw, 86)));
        }
        if raw[90] != 0 {
            return Err(OpenError::DirectoryBlockSize(raw[90]));
        }
        let seconds = i64::try_from(le64(&raw, 24)).unwrap_or(0);
        let image = Image {
            root: u64::from(le16(&raw, 14)),
            blocks: u64::from(le32(&raw, 36)),
            meta: u64::from(le32(&raw, 40)),
            build_time: seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(le32(&raw, 32))),
            inodes: le64(&raw, 16),
            start,
        };
        if image.blocks > room {
            return Err(OpenError::TooLong(image.blocks));
        }
        match image.inode(blocks, image.root) {
            Ok(root) if root.is_directory() => Ok(image),
            Ok(_) => Err(OpenError::Root),
            Err(fault) => Err(OpenError::Fault(fault)),
        }
    }

    /// The root directory's number.
    pub fn root(&self) -> u64 {
        self.root
    }
    /// Size of the image in 4 KiB blocks.
    pub fn block_count(&self) -> u64 {
        self.blocks
    }
    /// Block of the disk where the image starts.
    pub fn start(&self) -> u64 {
        self.start
    }
    /// Files in the image, as the image says; for statfs(2).
    pub fn inode_count(&self) -> u64 {
        self.inodes
    }

    /// Whether the figures are such as [`Image::open`] gives.
    pub(crate) fn validate(&self) -> Result<(), &'static str> {
        let limit = u64::from(u32::MAX);
        let good =
            self.root <= u64::from(u16::MAX) && self.blocks <= limit && self.meta <= limit && self.start <= LAST_START;
        if good { Ok(()) } else { Err("image: a figure is out of range") }
    }

    /// The block of the disk that is block `block` of the image.
    pub(super) fn on_disk(&self, block: u64) -> u64 {
        self.start.saturating_add(block)
    }

    /// Copies bytes at a place of the image, over block borders if need be.
    pub(super) fn read_raw(&self, blocks: &mut dyn Blocks, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let end = at.checked_add(into.len() as u64).ok_or(Errno::EIO)?;
        if end > self.blocks.saturating_mul(BLOCK) {
            return Err(Errno::EIO.into());
        }
        let (mut at, mut rest) = (at, into);
        while !rest.is_empty() {
            let offset = at % BLOCK;
            let part = rest.len().min((BLOCK - offset) as usize);
            let (now, later) = rest.split_at_mut(part);
            blocks.read(self.on_disk(at / BLOCK), offset as usize, now)?;
            at += part as u64;
            rest = later;
        }
        Ok(())
    }
}

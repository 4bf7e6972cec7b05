//! Where blocks come from and how a call fails.
use crate::{mounts::Synthetic, remembered::Remembered};
use shimos_abi::errno::Errno;

/// Why a call did not complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It never will: the error for the program.
    Errno(Errno),
    /// It needs this 4 KiB block of the disk. Fetch it and make the same call again.
    Missing(u64),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Fault {
        Fault::Errno(errno)
    }
}

/// The blocks of the disk with the root images, as far as they are at hand.
pub trait Blocks {
    /// Copies `into.len()` bytes at `offset` of 4 KiB block `block`. `offset + into.len()` is at most 4096.
    /// A block that is not at hand is [`Fault::Missing`].
    fn read(&mut self, block: u64, offset: usize, into: &mut [u8]) -> Result<(), Fault>;

    /// What was found in the images before, if it is kept.
    fn remembered(&mut self) -> Option<&mut Remembered> {
        None
    }
}

/// What a call on the name space may ask.
pub struct Sources<'a> {
    /// Blocks of the root image.
    pub blocks: &'a mut dyn Blocks,
    /// The synthetic trees, all of them.
    pub synthetic: &'a dyn Synthetic,
}

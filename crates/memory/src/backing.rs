//! Where the pages of the root image's files come from.
use crate::frames::Frames;
use shimos_abi::addr::Frame;
use shimos_hal::Machine;

/// Why a page of a file cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackingError {
    /// This block of the disk must be cached first; then ask again.
    Missing(u64),
    /// The page lies behind the file's end.
    End,
    /// The file cannot be read.
    Failed,
    /// There is no free frame.
    OutOfMemory,
}

/// The files of the read-only root image, through the block cache.
pub trait Backing<M: Machine> {
    /// The frame with page `index` of file `nid`, zeros behind the file's end. Nobody writes to it, and no reference is
    /// added: who maps it adds one.
    fn page(&mut self, machine: &mut M, frames: &mut Frames, nid: u64, index: u64) -> Result<Frame, BackingError>;

    /// The same if it costs nothing. Pages around a fault are mapped along with it when this has them.
    fn cached(&mut self, machine: &mut M, nid: u64, index: u64) -> Option<Frame> {
        let _ = (machine, nid, index);
        None
    }

    /// The same for pages that follow one another, from `first` on.
    fn cached_run(&mut self, machine: &mut M, nid: u64, first: u64, into: &mut [Option<Frame>]) {
        for (index, place) in (first..).zip(into) {
            *place = self.cached(machine, nid, index);
        }
    }
}

/// A root image without files.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBacking;

impl<M: Machine> Backing<M> for NoBacking {
    fn page(&mut self, _: &mut M, _: &mut Frames, _: u64, _: u64) -> Result<Frame, BackingError> {
        Err(BackingError::Failed)
    }
}

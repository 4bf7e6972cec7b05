//! The cache of disk blocks: what is at hand, what was asked for. It serves as the page cache of the root images' files.
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use shimos_abi::{
    addr::{Frame, PAGE},
    errno::Errno,
};
use shimos_hal::{FrameSource, Machine};
use shimos_memory::{Backing, BackingError, Frames};
use shimos_vfs::{Blocks, Fault, Image, Piece, Remembered};

/// Blocks asked for along with a missing one, behind it.
const AHEAD: u64 = 8;
/// When fewer frames than this part of the pool are free, cached blocks that nobody uses are given up.
const LOW_PART: usize = 16;

/// Blocks that came last and are kept however scarce frames are: a call that needs several comes to its end only if the
/// first is still there when the last arrives.
const RECENT: u64 = 384;

/// Images whose places are known; of others no blocks are asked for ahead.
const MAX_IMAGES: usize = 4096;

/// A page that is only a part of a block: the image's first block, the file, the page.
type Tail = (u64, u64, u64);

/// A block or tail at hand.
#[derive(Clone, Copy)]
struct Cached {
    frame: Frame,
    /// The how-manieth arrival it was, or the last one before a tail was made.
    arrival: u64,
}

/// The cache.
#[derive(Default)]
pub struct BlockCache {
    cached: BTreeMap<u64, Cached>,
    /// Blocks that have arrived so far.
    arrivals: u64,
    /// Pages of files that are only a part of a block, followed by zeros.
    tails: BTreeMap<Tail, Cached>,
    /// A frame of zeros, for holes.
    hole: Option<Frame>,
    /// Asked for and not yet requested from the disk.
    wanted: BTreeSet<u64>,
    /// Requested and not yet arrived.
    requested: BTreeSet<u64>,
    /// Those of them that had been requested already when it was looked last.
    overdue: BTreeSet<u64>,
    /// Blocks that could not be read.
    failed: BTreeSet<u64>,
    /// Where images lie: the first block, and the one behind the last.
    images: BTreeMap<u64, u64>,
    /// Blocks up to here were looked at for eviction.
    hand: u64,
    /// The same for tails.
    tail_hand: Tail,
    /// Files and names that were found in the images.
    remembered: Remembered,
}

impl BlockCache {
    /// How many blocks are kept.
    pub fn len(&self) -> usize {
        self.cached.len()
    }

    /// Notes where an image lies: blocks are asked for ahead within it. What lies between images may be written later, so
    /// nothing of it may be kept here.
    pub fn note_image(&mut self, first: u64, blocks: u64) {
        // Another image may have lain there before.
        self.remembered.forget();
        if self.images.len() < MAX_IMAGES {
            self.images.insert(first, first.saturating_add(blocks));
        }
    }

    /// Forgets a block, so that it is read again.
    pub fn forget(&mut self, frames: &mut Frames, block: u64) {
        self.remembered.forget();
        if let Some(cached) = self.cached.remove(&block) {
            frames.release(cached.frame);
        }
    }

    fn want(&mut self, block: u64) -> Fault {
        if self.failed.remove(&block) {
            return Fault::Errno(Errno::EIO);
        }
        let image = self.images.range(..=block).next_back();
        let end = image.map_or(0, |(_, end)| *end).clamp(block.saturating_add(1), block.saturating_add(AHEAD));
        for near in block..end {
            if !self.cached.contains_key(&near) && !self.requested.contains(&near) {
                self.wanted.insert(near);
            }
        }
        Fault::Missing(block)
    }

    /// Whether there is a block to request from the disk.
    pub fn has_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// The next block to request from the disk.
    pub fn next_wanted(&mut self) -> Option<u64> {
        let block = self.wanted.pop_first()?;
        self.requested.insert(block);
        Some(block)
    }

    /// A block has arrived in `frame`, which the cache takes over.
    pub fn arrived(&mut self, frames: &mut Frames, block: u64, frame: Frame) {
        self.requested.remove(&block);
        self.arrivals += 1;
        if let Some(old) = self.cached.insert(block, Cached { frame, arrival: self.arrivals }) {
            frames.release(old.frame);
        }
    }

    /// A block cannot be read: who waits for it gets EIO.
    pub fn failed(&mut self, block: u64) {
        self.requested.remove(&block);
        self.failed.insert(block);
    }

    /// The disk has a new owner: what was requested is asked for again.
    pub fn ask_again(&mut self) {
        self.wanted.append(&mut self.requested);
    }

    /// Asks again for what was requested before the last call and has not arrived: a request can meet a kernel that does not drive
    /// the disk any more, or not yet, or that has too many.
    pub fn ask_again_for_overdue(&mut self) {
        let overdue = core::mem::take(&mut self.overdue);
        self.wanted.extend(overdue.into_iter().filter(|block| self.requested.remove(block)));
        self.overdue = self.requested.clone();
    }

    /// Whether a block is requested and has not arrived.
    pub fn is_requested(&self, block: u64) -> bool {
        self.requested.contains(&block)
    }

    /// Gives up to `most` frames back that only the cache holds.
    pub fn shrink(&mut self, frames: &mut Frames, most: usize) {
        let arrivals = self.arrivals;
        self.hand = give_back(&mut self.cached, self.hand, frames, arrivals, most).map_or(0, |last| last + 1);
        let hand = give_back(&mut self.tails, self.tail_hand, frames, arrivals, most);
        self.tail_hand = hand.map_or((0, 0, 0), |(image, nid, page)| (image, nid, page.saturating_add(1)));
    }

    /// Gives up to `most` frames back that only the cache holds, if free frames are scarce.
    pub fn relieve(&mut self, frames: &mut Frames, most: usize) {
        if frames.free_count() > frames.total() / LOW_PART {
            return;
        }
        self.shrink(frames, most);
    }
}

/// Gives up to `most` frames of a map back, from a key on, that nobody else holds and that did not come just now. Returns the
/// last key.
fn give_back<K: Copy + Ord>(
    map: &mut BTreeMap<K, Cached>,
    from: K,
    frames: &mut Frames,
    arrivals: u64,
    most: usize,
) -> Option<K> {
    let is_unused = |cached: &Cached| cached.arrival + RECENT <= arrivals && frames.references(cached.frame) == 1;
    let unused: Vec<K> =
        map.range(from..).filter(|(_, cached)| is_unused(cached)).map(|(key, _)| *key).take(most).collect();
    for key in &unused {
        if let Some(cached) = map.remove(key) {
            frames.release(cached.frame);
        }
    }
    unused.last().copied()
}

/// The cache with the machine that its frames are read through.
pub struct BlockReader<'a, M: Machine> {
    /// The cache.
    pub cache: &'a mut BlockCache,
    /// The machine.
    pub machine: &'a M,
}

impl<M: Machine> Blocks for BlockReader<'_, M> {
    fn read(&mut self, block: u64, offset: usize, into: &mut [u8]) -> Result<(), Fault> {
        let Some(cached) = self.cache.cached.get(&block) else { return Err(self.cache.want(block)) };
        if offset + into.len() > PAGE {
            return Err(Errno::EIO.into());
        }
        self.machine.read_frame(cached.frame, offset, into);
        Ok(())
    }
    fn remembered(&mut self) -> Option<&mut Remembered> {
        Some(&mut self.cache.remembered)
    }
}

/// The files of a root image, page by page.
pub struct Files<'a> {
    /// The cache.
    pub cache: &'a mut BlockCache,
    /// The image.
    pub image: &'a Image,
}

impl Files<'_> {
    fn tail(&self, nid: u64, index: u64) -> Tail {
        (self.image.start(), nid, index)
    }

    fn piece<M: Machine>(&mut self, machine: &M, nid: u64, index: u64) -> Result<Piece, BackingError> {
        let mut reader = BlockReader { cache: self.cache, machine };
        let found = self.image.inode(&mut reader, nid).and_then(|inode| {
            let end = inode.metadata.size.div_ceil(PAGE as u64);
            if index >= end { Ok(None) } else { self.image.data_of(&mut reader, &inode, index).map(Some) }
        });
        match found {
            Ok(Some(piece)) => Ok(piece),
            Ok(None) => Err(BackingError::End),
            Err(Fault::Missing(block)) => Err(BackingError::Missing(block)),
            Err(Fault::Errno(_)) => Err(BackingError::Failed),
        }
    }
}

impl<M: Machine> Backing<M> for Files<'_> {
    fn page(&mut self, machine: &mut M, frames: &mut Frames, nid: u64, index: u64) -> Result<Frame, BackingError> {
        if let Some(tail) = self.cache.tails.get(&self.tail(nid, index)) {
            return Ok(tail.frame);
        }
        match self.piece(machine, nid, index)? {
            Piece::Block(block) => match self.cache.cached.get(&block) {
                Some(cached) => Ok(cached.frame),
                None => match self.cache.want(block) {
                    Fault::Missing(block) => Err(BackingError::Missing(block)),
                    Fault::Errno(_) => Err(BackingError::Failed),
                },
            },
            Piece::Inline { block, offset, len } => {
                let mut bytes = alloc::vec![0; usize::from(len).min(PAGE)];
                let mut reader = BlockReader { cache: self.cache, machine };
                match reader.read(block, offset.into(), &mut bytes) {
                    Ok(()) => {}
                    Err(Fault::Missing(block)) => return Err(BackingError::Missing(block)),
                    Err(Fault::Errno(_)) => return Err(BackingError::Failed),
                }
                let frame = frames.take().ok_or(BackingError::OutOfMemory)?;
                machine.zero_frame(frame);
                machine.write_frame(frame, 0, &bytes);
                let arrival = self.cache.arrivals;
                self.cache.tails.insert(self.tail(nid, index), Cached { frame, arrival });
                Ok(frame)
            }
            Piece::Hole => {
                if let Some(frame) = self.cache.hole {
                    return Ok(frame);
                }
                let frame = frames.take().ok_or(BackingError::OutOfMemory)?;
                machine.zero_frame(frame);
                self.cache.hole = Some(frame);
                Ok(frame)
            }
        }
    }

    fn cached(&mut self, machine: &mut M, nid: u64, index: u64) -> Option<Frame> {
        if let Some(tail) = self.cache.tails.get(&self.tail(nid, index)) {
            return Some(tail.frame);
        }
        match self.piece(machine, nid, index) {
            Ok(Piece::Block(block)) => self.cache.cached.get(&block).map(|cached| cached.frame),
            _ => None,
        }
    }

    fn cached_run(&mut self, machine: &mut M, nid: u64, first: u64, into: &mut [Option<Frame>]) {
        let mut reader = BlockReader { cache: self.cache, machine };
        let Ok(inode) = self.image.inode(&mut reader, nid) else { return };
        // Whole pages of most files lie one behind the other, and so do their blocks in the cache.
        let whole = (inode.metadata.size / PAGE as u64).saturating_sub(first).min(into.len() as u64);
        let mut piece = |page| self.image.data_of(&mut reader, &inode, page);
        let run = match (whole.checked_sub(1), piece(first)) {
            (Some(more), Ok(Piece::Block(from))) => match piece(first + more) {
                Ok(Piece::Block(to)) if to == from + more && inode.is_in_one_piece() => Some((from, to)),
                _ => None,
            },
            _ => None,
        };
        let (run_pages, rest) = into.split_at_mut(if run.is_some() { whole as usize } else { 0 });
        if let Some((from, to)) = run {
            for (block, cached) in self.cache.cached.range(from..=to) {
                if let Some(place) = run_pages.get_mut((block - from) as usize) {
                    *place = Some(cached.frame);
                }
            }
        }
        for (index, place) in (first + run_pages.len() as u64..).zip(rest) {
            *place = self.cached(machine, nid, index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shimos_abi::addr::FrameRange;

    /// A cache with nothing but blocks, or nothing but tails, that fills all the memory there is.
    fn full(frames: &mut Frames, tails: bool) -> BlockCache {
        let mut cache = BlockCache::default();
        while let Some(frame) = frames.take() {
            cache.arrivals += 1;
            let (number, cached) = (cache.arrivals, Cached { frame, arrival: cache.arrivals });
            let old = if tails {
                cache.tails.insert((7, number, 0), cached).is_some()
            } else {
                cache.cached.insert(number, cached).is_some()
            };
            assert!(!old);
        }
        cache
    }

    #[test]
    fn what_nobody_uses_is_given_back_when_memory_is_scarce() {
        for tails in [false, true] {
            let mut frames = Frames::new(FrameRange { first: Frame(100), count: 2000 });
            let mut cache = full(&mut frames, tails);
            // A program has one of them mapped.
            let used = Frame(101);
            frames.share(used);
            for _ in 0..100 {
                cache.relieve(&mut frames, 64);
            }
            let kept = frames.total() - frames.free_count();
            assert!(frames.free_count() > frames.total() / LOW_PART, "tails: {tails}");
            assert!(kept >= RECENT as usize && frames.references(used) == 2);
            assert_eq!(frames.mistakes(), 0);
        }
    }

    #[test]
    fn blocks_are_asked_for_ahead_within_an_image_only() {
        let mut cache = BlockCache::default();
        cache.note_image(0, 10);
        cache.note_image(100, 3);
        let mut wanted = |block| {
            assert_eq!(cache.want(block), Fault::Missing(block));
            let mut all = Vec::new();
            while let Some(next) = cache.next_wanted() {
                all.push(next);
            }
            all
        };
        assert_eq!(wanted(0), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(wanted(8), [8, 9]);
        assert_eq!(wanted(101), [101, 102]);
        assert_eq!(wanted(50), [50], "what lies between images may be written later");
    }

    #[test]
    fn what_does_not_come_is_asked_for_again() {
        let mut frames = Frames::new(FrameRange { first: Frame(20), count: 64 });
        let mut cache = BlockCache::default();
        let asked = |cache: &mut BlockCache| core::iter::from_fn(|| cache.next_wanted()).collect::<Vec<_>>();
        cache.want(3);
        cache.want(4);
        assert_eq!(asked(&mut cache), [3, 4]);
        cache.ask_again_for_overdue();
        assert_eq!(asked(&mut cache), [], "they may be on their way");
        let frame = frames.take().unwrap();
        cache.arrived(&mut frames, 3, frame);
        cache.want(5);
        assert_eq!(asked(&mut cache), [5]);
        cache.ask_again_for_overdue();
        assert_eq!(asked(&mut cache), [4]);
        cache.ask_again_for_overdue();
        assert_eq!(asked(&mut cache), [5], "4 was asked for just now");
    }
}

//! The frames of the pool and who holds them.
use alloc::vec;
use alloc::vec::Vec;
use shimos_abi::addr::{Frame, FrameRange};
use shimos_hal::{FrameSource, Machine};

/// The frames of one kernel's pool, each with a reference count.
///
/// A frame outside the pool is *foreign*: lent by a kernel that died. Sharing and releasing it does nothing, and it is
/// never exclusive, so a write always copies it.
pub struct Frames {
    pool: FrameRange,
    /// One bit a frame; set for free.
    free: Vec<u64>,
    counts: Vec<u32>,
    /// The word of `free` where the last search ended.
    next: usize,
    /// Frames that were given back lately, as places in the pool: taken again first, for what is near in time is cheap to
    /// reach. One that was taken otherwise meanwhile is passed over.
    recent: Vec<usize>,
    free_count: usize,
    zero: Option<Frame>,
    mistakes: u64,
    /// Who took each frame.
    payers: Vec<Payer>,
    /// Who takes frames now.
    payer: Payer,
    /// What each payer has, and may have.
    accounts: Vec<Account>,
    /// Frames that only the kernel itself may take.
    reserve: usize,
    refused: u64,
}

/// How many frames are remembered that were given back.
const RECENT: usize = 64;

/// Who a frame is counted for: 0 is the kernel, others are programs.
pub type Payer = u8;

/// The kernel itself.
pub const KERNEL: Payer = 0;

#[derive(Clone, Copy)]
struct Account {
    frames: usize,
    limit: usize,
}

/// Frames at the beginning of a pool that are the head of the reserved memory.
pub const HEAD_FRAMES: u32 = 16;

impl Frames {
    /// All frames of the pool are free but the first ones: the head of the reserved memory.
    pub fn new(pool: FrameRange) -> Frames {
        let count = pool.count as usize;
        let mut free = vec![u64::MAX; count.div_ceil(64)];
        if !count.is_multiple_of(64)
            && let Some(last) = free.last_mut()
        {
            *last = (1 << (count % 64)) - 1;
        }
        let mut frames = Frames {
            pool,
            free,
            counts: vec![0; count],
            next: 0,
            recent: Vec::with_capacity(RECENT),
            free_count: count,
            zero: None,
            mistakes: 0,
            payers: vec![KERNEL; count],
            payer: KERNEL,
            accounts: vec![Account { frames: 0, limit: usize::MAX }; 256],
            reserve: 0,
            refused: 0,
        };
        (0..HEAD_FRAMES).for_each(|at| frames.reserve(Frame(pool.first.0.saturating_add(at))));
        frames
    }

    /// The pool.
    pub fn pool(&self) -> FrameRange {
        self.pool
    }

    /// Adds a reference to a frame that was not handed out here: one that an image still holds at boot.
    pub fn reserve(&mut self, frame: Frame) {
        let Some(index) = self.pool.index(frame) else { return };
        let Some(count) = self.counts.get_mut(index) else { return };
        if *count == 0 {
            if let Some(word) = self.free.get_mut(index / 64) {
                *word &= !(1 << (index % 64));
            }
            self.free_count = self.free_count.saturating_sub(1);
        }
        *count = count.saturating_add(1);
    }

    /// Adds a reference to a frame that is in use.
    pub fn share(&mut self, frame: Frame) {
        let Some(index) = self.pool.index(frame) else { return };
        match self.counts.get_mut(index) {
            Some(count) if *count > 0 => *count = count.saturating_add(1),
            _ => self.mistakes += 1,
        }
    }

    /// Gives a reference up. The frame is free when nobody holds it any more.
    pub fn release(&mut self, frame: Frame) {
        let Some(index) = self.pool.index(frame) else { return };
        match self.counts.get_mut(index) {
            Some(count) if *count > 0 => {
                *count -= 1;
                if *count == 0 {
                    if let Some(word) = self.free.get_mut(index / 64) {
                        *word |= 1 << (index % 64);
                    }
                    self.free_count += 1;
                    if self.recent.len() < RECENT {
                        self.recent.push(index);
                    }
                    let payer = self.payers.get(index).copied().unwrap_or(KERNEL);
                    if let Some(account) = self.accounts.get_mut(usize::from(payer)) {
                        account.frames = account.frames.saturating_sub(1);
                    }
                }
            }
            _ => self.mistakes += 1,
        }
    }

    /// How many hold `frame`; 0 for a free or a foreign one.
    pub fn references(&self, frame: Frame) -> u32 {
        self.pool.index(frame).and_then(|index| self.counts.get(index)).copied().unwrap_or(0)
    }

    /// Whether the frame is of the pool and held by one alone, who may therefore write to it.
    pub fn exclusive(&self, frame: Frame) -> bool {
        self.references(frame) == 1
    }

    /// Whether the frame lies outside the pool.
    pub fn is_foreign(&self, frame: Frame) -> bool {
        !self.pool.contains(frame)
    }

    /// From now on frames are counted for `payer`. What one program took and another gave back, or what came with an image,
    /// is counted where it was taken.
    pub fn set_payer(&mut self, payer: Payer) {
        self.payer = payer;
    }
    /// How many frames a payer has.
    pub fn used_by(&self, payer: Payer) -> usize {
        self.accounts.get(usize::from(payer)).map_or(0, |account| account.frames)
    }
    /// How many frames a payer may have.
    pub fn limit_of(&self, payer: Payer) -> usize {
        self.accounts.get(usize::from(payer)).map_or(0, |account| account.limit)
    }
    /// Sets how many frames a payer may have.
    pub fn set_limit(&mut self, payer: Payer, limit: usize) {
        if let Some(account) = self.accounts.get_mut(usize::from(payer)) {
            account.limit = limit;
        }
    }
    /// Keeps so many frames for the kernel itself: it must be able to write checkpoints and to communicate.
    pub fn set_reserve(&mut self, frames: usize) {
        self.reserve = frames;
    }
    /// Whether programs get no more frames.
    pub fn is_short(&self) -> bool {
        self.free_count <= self.reserve
    }
    /// Whether there are frames to spare: a program may have some before it needs them.
    pub fn has_plenty(&self) -> bool {
        let (used, limit) = (self.used_by(self.payer), self.limit_of(self.payer));
        self.free_count > self.reserve.saturating_add(self.total() / 8) && used < limit - limit / 8
    }
    /// How often a frame was refused.
    #[inline]
    pub fn refused(&self) -> u64 {
        self.refused
    }
    fn may_take(&self) -> bool {
        match self.payer {
            KERNEL => self.free_count > 0,
            payer => !self.is_short() && self.used_by(payer) < self.limit_of(payer),
        }
    }

    /// How many frames are free.
    pub fn free_count(&self) -> usize {
        self.free_count
    }

    /// How many frames there are.
    pub fn total(&self) -> usize {
        self.pool.count as usize
    }

    /// Calls that made no sense (a reference given up twice, a free frame shared). Not 0 means a bug in this kernel.
    pub fn mistakes(&self) -> u64 {
        self.mistakes
    }

    /// A free frame that was in use lately.
    fn find_recent(&mut self) -> Option<usize> {
        while let Some(index) = self.recent.pop() {
            if self.free.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 != 0) {
                return Some(index);
            }
        }
        None
    }
    /// The next free frame in the pool.
    fn find_next(&mut self) -> Option<usize> {
        let words = self.free.len();
        for step in 0..words {
            let at = (self.next + step) % words;
            let word = *self.free.get(at)?;
            if word != 0 {
                self.next = at;
                return Some(at * 64 + word.trailing_zeros() as usize);
            }
        }
        None
    }

    /// The one frame of zeros that all untouched pages share. No reference is added; it is never freed.
    pub fn zero_frame<M: Machine>(&mut self, machine: &mut M) -> Option<Frame> {
        if self.zero.is_none() {
            let frame = self.take()?;
            machine.zero_frame(frame);
            self.zero = Some(frame);
        }
        self.zero
    }
}

impl FrameSource for Frames {
    fn take(&mut self) -> Option<Frame> {
        if !self.may_take() {
            self.refused += 1;
            return None;
        }
        let index = self.find_recent().or_else(|| self.find_next())?;
        *self.free.get_mut(index / 64)? &= !(1 << (index % 64));
        self.free_count -= 1;
        *self.counts.get_mut(index)? = 1;
        *self.payers.get_mut(index)? = self.payer;
        self.accounts.get_mut(usize::from(self.payer))?.frames += 1;
        Some(self.pool.at(index))
    }

    fn give(&mut self, frame: Frame) {
        self.release(frame);
    }
}

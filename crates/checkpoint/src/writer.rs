//! Writes the generations of one image.
use crate::{
    error::WriteError,
    layout::{
        Base, DESCRIPTOR_WORDS, Descriptor, LEAF_ENTRIES, MAX_PAGE, PageKey, SLOT_COMMIT, SLOT_ROOT, SLOT_STATE,
        SlotPlace, SlotState, Sum, Tree, encode_state,
    },
    page_counts::PageCounts,
    page_map::{Beneath, Effect, PageMap, Place, Swept},
    record_frames::{Stored, store},
    sums::{self, Known},
    teardown::Teardown,
};
use alloc::{collections::VecDeque, vec::Vec};
use shimos_abi::{
    addr::{Frame, FrameRange, PAGE},
    control::{Generations, Integrity},
    ids::{Epoch, ProgramId},
};
use shimos_hal::Machine;
use shimos_memory::{Frames, space::Progress};

/// What the generations of an image say nothing of is in this generation of another one.
#[derive(Clone, Copy, Debug)]
struct Under {
    base: Base,
    /// How many pages that has.
    pages: u32,
}

/// The image of one program under construction.
///
/// `begin`, any number of `put`, `records`, then `commit`: until the one store in it, the two last generations are
/// whole; after it, this one and the one before. `sweep` gives back what no kept generation needs.
pub struct Writer {
    pool: FrameRange,
    slot: SlotPlace,
    program: ProgramId,
    first: u32,
    committed: u32,
    kept: Generations,
    integrity: Integrity,
    /// Whether frames of the pool had checksums when this generation began.
    known_sums: Known,
    writing: Option<u32>,
    map: PageMap,
    pages: PageCounts,
    /// Pages that this generation has changed, and that had a version or not.
    superseding: Vec<(PageKey, u64)>,
    first_versions: Vec<(PageKey, u64)>,
    under: Option<Under>,
    /// The last epoch that has a base.
    last_based: u32,
    /// Pages that were said to be gone while there was a base.
    absent: Vec<(PageKey, u64)>,
    /// Changed pages with superseded versions, by epoch.
    superseded: VecDeque<(u32, Vec<(PageKey, u64)>)>,
    /// Keys to drop, with the first epoch that has no use for them.
    drops: VecDeque<(u32, PageKey)>,
    teardown: Option<Teardown>,
    prune: Option<(PageKey, u64)>,
    new_records: Option<Stored>,
    kept_records: VecDeque<(u32, Stored)>,
}

impl Writer {
    /// For a slot that was just made active, empty.
    pub(crate) fn new(pool: FrameRange, slot: usize, program: ProgramId, after: Epoch) -> Writer {
        let slot = SlotPlace::of(pool.first, slot);
        let (frame, word) = slot.word(SLOT_ROOT);
        Writer {
            pool,
            slot,
            program,
            first: after.0.saturating_add(1),
            committed: after.0,
            kept: Generations::default(),
            integrity: Integrity::default(),
            known_sums: Known::None,
            writing: None,
            map: PageMap::new(Place { frame, word }),
            pages: PageCounts::default(),
            superseding: Vec::new(),
            first_versions: Vec::new(),
            under: None,
            last_based: 0,
            absent: Vec::new(),
            superseded: VecDeque::new(),
            drops: VecDeque::new(),
            teardown: None,
            prune: None,
            new_records: None,
            kept_records: VecDeque::new(),
        }
    }

    /// Whose image it is.
    pub fn program(&self) -> ProgramId {
        self.program
    }
    /// The last committed epoch (or the one that the image started after).
    pub fn committed(&self) -> Epoch {
        Epoch(self.committed)
    }
    /// Whether a committed epoch is one of this image's.
    pub fn has(&self, epoch: Epoch) -> bool {
        (self.first..=self.committed).contains(&epoch.0)
    }
    /// From the next commit on so many generations are kept.
    pub fn keep(&mut self, generations: Generations) {
        self.kept = generations;
    }
    /// From now on pages come with or without checksums of their contents.
    pub fn set_integrity(&mut self, integrity: Integrity) {
        self.integrity = integrity;
        self.known_sums = Known::Some;
    }
    /// What pages come with.
    pub fn integrity(&self) -> Integrity {
        self.integrity
    }
    /// The oldest generation that is kept.
    fn oldest(&self) -> u32 {
        self.committed.saturating_sub(u32::from(self.kept.0.clamp(1, Generations::MOST)) - 1)
    }
    /// A page that the newest generation has changed, for faults that are injected.
    pub fn newest_page(&self) -> Option<(PageKey, u64)> {
        let (epoch, pages) = self.superseded.back()?;
        pages.first().copied().filter(|_| *epoch == self.committed)
    }
    /// A frame of the newest generation's records, likewise.
    pub fn newest_records(&self) -> Option<Frame> {
        self.kept_records.back().and_then(|(_, stored)| stored.frames.first()).copied()
    }
    /// Pages of the image as it stands; about as many while it has a base.
    pub fn pages(&self) -> u32 {
        self.under.map_or(0, |under| under.pages).max(self.pages.all())
    }
    /// From now on a page that this image says nothing of is in that generation of another one, which has so many pages. It
    /// must stay as it is as long as [`Writer::needs_base`]. For an image without generations.
    pub fn set_base(&mut self, base: Base, pages: u32) {
        self.under = Some(Under { base, pages });
        self.map.beneath = Beneath::Base;
    }
    /// The generation that is being written, and those after it, say everything themselves.
    pub fn end_base(&mut self) {
        self.under = None;
        self.map.beneath = Beneath::Nothing;
    }
    /// Whether the next generation will have a base.
    pub fn has_base(&self) -> bool {
        self.under.is_some()
    }
    /// Whether a generation that is kept, or the next one, has a base.
    pub fn needs_base(&self) -> bool {
        self.under.is_some() || self.last_based != 0 && self.last_based >= self.oldest()
    }
    /// References to frames outside the own pool. When it is 0 the image needs no loan any more.
    pub fn foreign_frames(&self) -> u64 {
        self.map.foreign
    }

    /// Whether a generation has begun that is neither committed nor given up.
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Begins the next generation.
    pub fn begin<M: Machine>(&mut self, machine: &M) -> Result<Epoch, WriteError> {
        if self.writing.is_some() {
            return Err(WriteError::OutOfTurn);
        }
        let epoch = self.committed.checked_add(1).ok_or(WriteError::NoEpoch)?;
        self.writing = Some(epoch);
        self.known_sums = sums::known(machine, self.pool);
        Ok(Epoch(epoch))
    }

    /// Says what pages are in this generation: those of one key, and near each other, one behind the other, if it is to be fast.
    /// The image takes a reference to each frame, which must never be written again while it holds it.
    pub fn put<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        pages: &[(PageKey, u64, Option<Frame>)],
    ) -> Result<(), WriteError> {
        let epoch = self.writing.ok_or(WriteError::OutOfTurn)?;
        let leaf_of = |page: u64| page / LEAF_ENTRIES as u64;
        let mut last: Option<(PageKey, u64, Frame)> = None;
        for (key, page, frame) in pages.iter().copied() {
            if page >= MAX_PAGE {
                return Err(WriteError::BadPage);
            }
            let leaf = match last.filter(|(of, number, _)| (*of, *number) == (key, leaf_of(page))) {
                Some((.., leaf)) => leaf,
                None => match self.map.leaf_to_set(machine, frames, (key, page), frame)? {
                    Some(leaf) => leaf,
                    None => continue,
                },
            };
            last = Some((key, leaf_of(page), leaf));
            self.page(machine, frames, epoch, (leaf, key, page), frame)?;
        }
        Ok(())
    }

    fn page<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        epoch: u32,
        (leaf, key, page): (Frame, PageKey, u64),
        frame: Option<Frame>,
    ) -> Result<(), WriteError> {
        let changed = self.map.set(machine, frames, epoch, (leaf, key, page), frame)?;
        match changed.effect {
            Effect::First => self.first_versions.push((key, page)),
            Effect::Superseded => self.superseding.push((key, page)),
            Effect::Again => {}
            Effect::None => return Ok(()),
        }
        if frame.is_none() && self.under.is_some() {
            self.absent.push((key, page));
        }
        self.count(key, changed.was, changed.is);
        let Some(frame) = frame else { return Ok(()) };
        if self.integrity == Integrity::Pages {
            return sums::store(machine, frames, self.pool, frame, self.program);
        }
        if self.known_sums == Known::Some {
            sums::forget(machine, self.pool, frame);
        }
        Ok(())
    }

    fn count(&mut self, key: PageKey, was: bool, is: bool) {
        match (was, is) {
            (false, true) => self.pages.add(key),
            (true, false) => self.pages.remove(key),
            _ => {}
        }
    }

    /// Stores this generation's records, all of them.
    pub fn records<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        bytes: &[u8],
    ) -> Result<(), WriteError> {
        if self.writing.is_none() {
            return Err(WriteError::OutOfTurn);
        }
        let stored = store(machine, frames, bytes)?;
        if let Some(old) = self.new_records.replace(stored) {
            old.release(frames);
        }
        Ok(())
    }

    /// Commits this generation with one store, after which it is the image.
    pub fn commit<M: Machine>(&mut self, machine: &mut M, frames: &mut Frames) -> Result<Epoch, WriteError> {
        let epoch = self.writing.take().ok_or(WriteError::OutOfTurn)?;
        let stored = self.new_records.take().unwrap_or_default();
        let descriptor = Descriptor {
            epoch,
            record_bytes: stored.bytes,
            record_list: stored.list,
            record_crc: stored.crc,
            pages: self.pages(),
            sum: Sum::Headers,
            base: self.under.map(|under| under.base),
        };
        let words = descriptor.words(self.program);
        let start = Descriptor::start(epoch);
        for (at, word) in words.iter().enumerate() {
            self.slot.write(machine, start + at, *word);
        }
        self.slot.write(machine, SLOT_COMMIT, descriptor.commit_word(&words));

        self.committed = epoch;
        if self.under.is_some() {
            self.last_based = epoch;
        }
        self.kept_records.push_back((epoch, stored));
        if self.oldest() == epoch {
            // The one before is none any more, before anything of it is given back.
            let before = Descriptor::start(epoch.wrapping_sub(1));
            self.slot.write(machine, before + DESCRIPTOR_WORDS - 1, 0);
        }
        while let Some((old, _)) = self.kept_records.front()
            && *old < self.oldest()
        {
            if let Some((_, stored)) = self.kept_records.pop_front() {
                stored.release(frames);
            }
        }
        self.first_versions.clear();
        let mut superseded = core::mem::take(&mut self.superseding);
        if !self.needs_base() {
            // Marks of absence hide nothing any more.
            superseded.append(&mut self.absent);
        }
        if !superseded.is_empty() {
            self.superseded.push_back((epoch, superseded));
        }
        Ok(Epoch(epoch))
    }

    /// Takes everything of this generation back. Its number is used again.
    pub fn abort<M: Machine>(&mut self, machine: &mut M, frames: &mut Frames) -> Result<(), WriteError> {
        let epoch = self.writing.take().ok_or(WriteError::OutOfTurn)?;
        if let Some(stored) = self.new_records.take() {
            stored.release(frames);
        }
        let first = core::mem::take(&mut self.first_versions);
        for at in core::mem::take(&mut self.superseding).into_iter().chain(first) {
            let changed = self.map.undo(machine, frames, epoch, at)?;
            // Pages of a dropped key count no more.
            if !self.drops.iter().any(|(_, key)| *key == at.0) {
                self.count(at.0, changed.was, changed.is);
            }
        }
        Ok(())
    }

    /// From the next generation on nobody asks for the pages of `key`, and it is never used again. Between checkpoints,
    /// before the one that no longer has it in its records.
    pub fn drop_key(&mut self, key: PageKey) {
        self.pages.forget(key);
        let in_turn = u32::from(self.writing.is_some());
        self.drops.push_back((self.committed.saturating_add(1 + in_turn), key));
    }

    /// Gives back what no kept generation needs: about `max` pages' worth of work. After every commit, when there is time.
    pub fn sweep<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        max: usize,
    ) -> Result<Progress, WriteError> {
        let oldest = self.oldest();
        for _ in 0..max {
            if let Some(teardown) = &mut self.teardown {
                // Entries are walked one by one; a step does a few of them.
                if teardown.step_in(machine, frames, 8, &mut self.map) == Progress::Done {
                    self.teardown = None;
                }
                continue;
            }
            if let Some((epoch, pages)) = self.superseded.front_mut()
                && *epoch <= oldest
            {
                match pages.pop() {
                    Some(at) => self.sweep_page(machine, frames, oldest, at)?,
                    None => drop(self.superseded.pop_front()),
                }
                continue;
            }
            if let Some((key, page)) = self.prune.take() {
                self.map.prune(machine, frames, key, page)?;
                continue;
            }
            match self.drops.front() {
                Some((epoch, key)) if *epoch <= oldest => {
                    let key = *key;
                    self.drops.pop_front();
                    let word = self.map.unlink(machine, key)?;
                    self.teardown = Some(Teardown::new(self.pool, Tree::Pages(key), word, Vec::new()));
                }
                _ => return Ok(Progress::Done),
            }
        }
        Ok(Progress::More)
    }

    fn sweep_page<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        oldest: u32,
        at: (PageKey, u64),
    ) -> Result<(), WriteError> {
        let leaf = |(key, page): (PageKey, u64)| (key, page / LEAF_ENTRIES as u64);
        if let Some(due) = self.prune
            && leaf(due) != leaf(at)
        {
            self.prune = None;
            self.map.prune(machine, frames, due.0, due.1)?;
        }
        let absent = if self.needs_base() { Beneath::Base } else { Beneath::Nothing };
        if self.map.sweep(machine, frames, (oldest, absent), at)? == Swept::Empty {
            self.prune = Some(at);
        }
        Ok(())
    }

    /// How much memory the image takes besides the pages themselves: bytes of records of the last generation.
    pub fn record_bytes(&self) -> u32 {
        self.kept_records.back().map_or(0, |(_, stored)| stored.bytes)
    }
    /// Frames that the kept records take.
    pub fn record_frames(&self) -> usize {
        self.kept_records.iter().map(|(_, stored)| stored.bytes as usize).map(|bytes| bytes.div_ceil(PAGE)).sum()
    }

    /// The program goes on in another kernel, from this image: it stays as it is, and nothing of the kept generations is
    /// freed until the loan comes back. What no generation needs any more is the returned work.
    pub fn lend<M: Machine>(mut self, machine: &mut M) -> Option<Teardown> {
        self.slot.write(machine, SLOT_STATE, encode_state(SlotState::Lent, self.program));
        self.teardown.take()
    }

    /// Ends the image: the slot is free at once, its frames after the returned work.
    pub fn close<M: Machine>(mut self, machine: &mut M) -> Teardown {
        self.slot.write(machine, SLOT_STATE, encode_state(SlotState::Free, self.program));
        let mut kept: Vec<Frame> = Vec::new();
        for (_, stored) in self.kept_records.drain(..) {
            kept.extend(stored.frames);
        }
        if let Some(stored) = self.new_records.take() {
            kept.extend(stored.frames);
        }
        let root = self.slot.read(machine, SLOT_ROOT);
        self.slot.write(machine, SLOT_ROOT, 0);
        let mut teardown = Teardown::new(self.pool, Tree::Directory, root, kept);
        // A dropped tree that was already taken out of the directory is not found from the root.
        if let Some(dropped) = self.teardown.take() {
            teardown.join(dropped);
        }
        teardown
    }
}

//! Reads an image from a kernel's reserved memory. Nothing in it is trusted.
use crate::{
    error::ImageError,
    layout::{Descriptor, PageKey, SLOT_ROOT, SlotState, Tree, Version, check_head, slot_start},
    record::Records,
    record_frames::load,
    slots::{generations, slots_of},
    sums,
    walk::{Event, Walk},
};
use alloc::vec::Vec;
use shimos_abi::{
    addr::{Frame, FrameRange},
    ids::{Epoch, ProgramId},
};
use shimos_hal::Machine;

/// One generation of a program's image.
#[derive(Debug)]
pub struct Image {
    program: ProgramId,
    state: SlotState,
    pool: FrameRange,
    lent: Vec<FrameRange>,
    root: u64,
    descriptor: Descriptor,
    records: Vec<u8>,
    passed_over: Option<ImageError>,
    newest: u32,
    contents: Contents,
}

/// Whether contents of pages are compared with their checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Contents {
    Trusted,
    Checked,
}

impl Image {
    /// Opens the newest whole generation of `program`'s image in the reserved memory of the kernel that owns `pool`. Pages
    /// may also lie in `lent`: memory of kernels that lent them to the program.
    ///
    /// The memory must be readable ([`Machine::map_dead`], [`Machine::map_lent`]).
    pub fn open<M: Machine>(
        machine: &M,
        pool: FrameRange,
        lent: &[FrameRange],
        program: ProgramId,
    ) -> Result<Image, ImageError> {
        Image::open_below(machine, pool, lent, program, None)
    }

    /// Opens the newest whole generation before `below`, if that is given.
    pub fn open_below<M: Machine>(
        machine: &M,
        pool: FrameRange,
        lent: &[FrameRange],
        program: ProgramId,
        below: Option<Epoch>,
    ) -> Result<Image, ImageError> {
        let head = check_head(machine, pool)?;
        let mut slots = slots_of(machine, pool)?;
        slots.retain(|(_, held)| held.program == program);
        // The living copy before one that went elsewhere and came to nothing there.
        slots.sort_by_key(|(_, held)| (held.state != SlotState::Active, core::cmp::Reverse(held.epoch)));
        let mut reason = ImageError::NoSlot;
        let newest = slots.iter().map(|(slot, _)| generations(machine, head, *slot, program).newest).max();
        if below.is_some() {
            slots.sort_by_key(|(_, held)| core::cmp::Reverse(held.epoch));
        }
        for (slot, held) in slots {
            let found = generations(machine, head, slot, program);
            let mut passed_over = found.damage;
            let mut error = found.damage.unwrap_or(ImageError::NoGeneration);
            let kept = found.kept.into_iter();
            for descriptor in kept.filter(|found| below.is_none_or(|below| found.epoch < below.0)) {
                match load(machine, pool, &descriptor) {
                    Ok(records) => {
                        return Ok(Image {
                            program,
                            state: held.state,
                            pool,
                            lent: lent.to_vec(),
                            root: machine.read_word(head, slot_start(slot) + SLOT_ROOT),
                            descriptor,
                            records,
                            passed_over,
                            newest: newest.unwrap_or(0),
                            contents: Contents::Trusted,
                        });
                    }
                    Err(damage) => {
                        passed_over = Some(damage);
                        error = damage;
                    }
                }
            }
            if reason == ImageError::NoSlot {
                reason = error;
            }
        }
        Err(reason)
    }

    /// The program.
    pub fn program(&self) -> ProgramId {
        self.program
    }
    /// Whether the program lived where the image lies.
    pub fn state(&self) -> SlotState {
        self.state
    }
    /// The epoch.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.descriptor.epoch)
    }
    /// The newest epoch of the program that was committed there, whole or not.
    pub fn newest(&self) -> Epoch {
        Epoch(self.newest.max(self.descriptor.epoch))
    }
    /// From now on contents of pages are compared with their checksums.
    pub fn check_contents(&mut self) {
        self.contents = Contents::Checked;
    }
    /// Why a newer generation was passed over, if one was.
    pub fn passed_over(&self) -> Option<ImageError> {
        self.passed_over
    }
    /// How many pages the generation has. Who has loaded all keys compares: a difference means that some were lost.
    pub fn page_count(&self) -> u32 {
        self.descriptor.pages
    }
    /// Bytes of records.
    pub fn record_bytes(&self) -> usize {
        self.records.len()
    }
    /// The records.
    pub fn records(&self) -> Records<'_> {
        Records::new(&self.records)
    }

    /// Whether the image may name `frame` as a page, and it can be read now.
    pub fn allows<M: Machine>(&self, machine: &M, frame: Frame) -> bool {
        (self.pool.contains(frame) && frame != self.pool.first || self.lent.iter().any(|range| range.contains(frame)))
            && machine.readable(frame)
    }

    /// Whether the page in `frame` is what it was.
    fn check<M: Machine>(&self, machine: &M, frame: Frame) -> Result<Frame, ImageError> {
        if !self.allows(machine, frame) {
            return Err(ImageError::Outside(frame));
        }
        let whole = |pool: &FrameRange| sums::is_whole(machine, *pool, frame, self.program);
        let mut pools = core::iter::once(&self.pool).chain(&self.lent);
        match self.contents {
            Contents::Checked if !pools.find(|pool| pool.contains(frame)).is_none_or(whole) => {
                Err(ImageError::Page(frame))
            }
            _ => Ok(frame),
        }
    }

    /// The pages of one key, in order. The first damage ends it.
    pub fn pages<'a, M: Machine>(&'a self, machine: &'a M, key: PageKey) -> Result<Pages<'a, M>, ImageError> {
        let word = Walk::new(self.pool, Tree::Directory, self.root)?.find_key(machine, key)?;
        Ok(Pages {
            cursor: PageCursor { walk: Some(Walk::new(self.pool, Tree::Pages(key), word)?) },
            image: self,
            machine,
        })
    }

    /// The frame of one page of a key.
    pub fn page<M: Machine>(&self, machine: &M, key: PageKey, page: u64) -> Result<Option<Frame>, ImageError> {
        let word = Walk::new(self.pool, Tree::Directory, self.root)?.find_key(machine, key)?;
        let entry = Walk::new(self.pool, Tree::Pages(key), word)?.find_page(machine, key, page)?;
        let frame = entry.and_then(|entry| entry.at(self.descriptor.epoch)).and_then(Version::page);
        frame.map(|frame| self.check(machine, frame)).transpose()
    }

    /// The same for a caller that changes the machine between pages.
    pub fn cursor<M: Machine>(&self, machine: &M, key: PageKey) -> Result<PageCursor, ImageError> {
        let word = Walk::new(self.pool, Tree::Directory, self.root)?.find_key(machine, key)?;
        Ok(PageCursor { walk: Some(Walk::new(self.pool, Tree::Pages(key), word)?) })
    }
}

/// A place in the pages of one key.
pub struct PageCursor {
    walk: Option<Walk>,
}

impl PageCursor {
    /// The next page and its frame.
    pub fn next<M: Machine>(&mut self, machine: &M, image: &Image) -> Option<Result<(u64, Frame), ImageError>> {
        loop {
            match self.walk.as_mut()?.next(machine)? {
                Event::Entry { page, entry, .. } => {
                    let Some(frame) = entry.at(image.descriptor.epoch).and_then(Version::page) else { continue };
                    let checked = image.check(machine, frame);
                    if checked.is_err() {
                        self.walk = None;
                    }
                    return Some(checked.map(|frame| (page, frame)));
                }
                Event::Damaged(error) => {
                    self.walk = None;
                    return Some(Err(error));
                }
                Event::Enter(_) | Event::Leave(_) => {}
            }
        }
    }
}

/// The pages of one key.
pub struct Pages<'a, M: Machine> {
    cursor: PageCursor,
    image: &'a Image,
    machine: &'a M,
}

impl<M: Machine> Iterator for Pages<'_, M> {
    type Item = Result<(u64, Frame), ImageError>;
    fn next(&mut self) -> Option<Self::Item> {
        self.cursor.next(self.machine, self.image)
    }
}

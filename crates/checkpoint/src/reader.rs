//! Reads an image from a kernel's reserved memory. Nothing in it is trusted.
use crate::{
    error::ImageError,
    layout::{
        Base, Descriptor, Entry, PageKey, SLOT_ROOT, SLOT_STATE, SlotPlace, SlotState, Tree, Version, check_head,
        decode_state, slots_in,
    },
    record::Records,
    record_frames::load,
    saved_page::SavedPage,
    slots::{generations, slots_of},
    sums,
    walk::{Event, Walk},
};
use alloc::vec::Vec;
use core::{cell::Cell, fmt};
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
    slot: usize,
    /// The generation itself, and those that it is based on: each is asked for what the ones before say nothing of.
    layers: Vec<Layer>,
    descriptor: Descriptor,
    records: Vec<u8>,
    passed_over: Option<ImageError>,
    newest: u32,
    contents: Contents,
    mended: Cell<Mended>,
}

/// Where a flipped bit was set right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mend {
    /// In a node of the page map.
    Node(Frame),
    /// In a page.
    Page(Frame),
}

impl fmt::Display for Mend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, frame) = match self {
            Mend::Node(frame) => ("page-map node", frame),
            Mend::Page(frame) => ("the page in frame", frame),
        };
        write!(f, "a flipped bit in {what} {:#x} was set right", frame.0)
    }
}

/// Whether somebody was told that a flipped bit was set right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mended {
    None,
    New(Mend),
    Told,
}

/// The pages of one generation.
#[derive(Clone, Copy, Debug)]
struct Layer {
    pool: FrameRange,
    root: u64,
    epoch: u32,
    /// Pages that it has, as its descriptor says.
    pages: u32,
}

impl Layer {
    fn tree<M: Machine>(&self, machine: &M, key: PageKey) -> Result<Walk, ImageError> {
        let mut directory = Walk::new(self.pool, Tree::Directory, self.root)?;
        let word = directory.find_key(machine, key)?;
        let mut walk = Walk::new(self.pool, Tree::Pages(key), word)?;
        walk.mended = directory.mended.or(walk.mended);
        Ok(walk)
    }
    /// What it says of a page, if it says anything.
    fn version<M: Machine>(
        &self,
        machine: &M,
        image: &Image,
        (key, page): (PageKey, u64),
    ) -> Result<Option<Version>, ImageError> {
        let mut walk = self.tree(machine, key)?;
        let entry: Option<Entry> = walk.find_page(machine, key, page)?;
        image.note_mended(&walk);
        Ok(entry.and_then(|entry| entry.at(self.epoch)))
    }
}

/// Generations that may lie on top of each other.
pub const MOST_LAYERS: usize = 6;

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
        let newest =
            slots.iter().map(|(slot, _)| generations(machine, SlotPlace::of(head, *slot), program).newest).max();
        if below.is_some() {
            slots.sort_by_key(|(_, held)| core::cmp::Reverse(held.epoch));
        }
        for (slot, held) in slots {
            let place = SlotPlace::of(head, slot);
            let found = generations(machine, place, program);
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
                            slot,
                            layers: [Layer {
                                pool,
                                root: place.read(machine, SLOT_ROOT),
                                epoch: descriptor.epoch,
                                pages: descriptor.pages,
                            }]
                            .into(),
                            descriptor,
                            records,
                            passed_over,
                            newest: newest.unwrap_or(0),
                            contents: Contents::Trusted,
                            mended: Cell::new(Mended::None),
                        });
                    }
                    // It is whole, for a kernel with more memory.
                    Err(ImageError::OutOfMemory) => return Err(ImageError::OutOfMemory),
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

    /// Finds the generations that this one is based on, whose memory must be readable now.
    pub fn open_bases<M: Machine>(&mut self, machine: &M) -> Result<(), ImageError> {
        let mut next = self.descriptor.base;
        self.layers.truncate(1);
        while let Some(base) = next {
            if self.layers.len() >= MOST_LAYERS {
                return Err(ImageError::Base);
            }
            let (layer, below) = self.base(machine, base).ok_or(ImageError::Base)?;
            self.layers.push(layer);
            next = below;
        }
        Ok(())
    }

    fn base<M: Machine>(&self, machine: &M, base: Base) -> Option<(Layer, Option<Base>)> {
        let pool = core::iter::once(self.pool).chain(self.lent.iter().copied()).find(|pool| pool.first == base.head)?;
        let head = check_head(machine, pool).ok()?;
        let slot = usize::from(base.slot);
        if slot >= slots_in(machine, head) {
            return None;
        }
        let place = SlotPlace::of(head, slot);
        let (state, program) = decode_state(place.read(machine, SLOT_STATE));
        if state == SlotState::Free || program != self.program {
            return None;
        }
        let kept = generations(machine, place, program).kept;
        let descriptor = kept.into_iter().find(|descriptor| descriptor.epoch == base.epoch)?;
        let root = place.read(machine, SLOT_ROOT);
        Some((Layer { pool, root, epoch: base.epoch, pages: descriptor.pages }, descriptor.base))
    }

    /// The generations whose pages are looked at.
    fn layers(&self) -> Result<&[Layer], ImageError> {
        if self.descriptor.base.is_some() && self.layers.len() < 2 { Err(ImageError::Base) } else { Ok(&self.layers) }
    }

    /// Whether pages of it are in a generation of another image.
    pub fn has_base(&self) -> bool {
        self.descriptor.base.is_some()
    }
    /// The head of the memory in which the `layer`th of the generations on top of each other lies, and its epoch.
    pub fn layer(&self, layer: usize) -> (Frame, Epoch) {
        let own = (self.pool.first, Epoch(self.descriptor.epoch));
        self.layers.get(layer).map_or(own, |layer| (layer.pool.first, Epoch(layer.epoch)))
    }
    /// What an image says that has this generation as its base; `None` if too many lie on top of each other already.
    pub fn as_base(&self) -> Option<Base> {
        let base = Base { head: self.pool.first, slot: self.slot as u16, epoch: self.descriptor.epoch };
        Some(base).filter(|_| self.layers.len() < MOST_LAYERS)
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
    fn note_mended(&self, walk: &Walk) {
        if let Some(node) = walk.mended {
            self.note(Mend::Node(node));
        }
    }
    fn note(&self, mend: Mend) {
        if self.mended.get() == Mended::None {
            self.mended.set(Mended::New(mend));
        }
    }
    /// Where a flipped bit was set right, if one was found; once.
    pub fn take_mended(&self) -> Option<Mend> {
        match self.mended.get() {
            Mended::New(mend) => {
                self.mended.set(Mended::Told);
                Some(mend)
            }
            Mended::None | Mended::Told => None,
        }
    }
    /// Why a newer generation was passed over, if one was.
    pub fn passed_over(&self) -> Option<ImageError> {
        self.passed_over
    }
    /// How many pages the generation has; if it has a base, about how many.
    pub fn page_count(&self) -> u32 {
        self.layers.iter().map(|layer| layer.pages).max().unwrap_or(0)
    }
    /// Bytes of records.
    pub fn record_bytes(&self) -> usize {
        self.records.len()
    }
    /// The records, which were checked when they were loaded.
    pub fn records(&self) -> Records<'_> {
        Records::known(&self.records)
    }

    /// Whether the image may name `frame` as a page, and it can be read now.
    pub fn allows<M: Machine>(&self, machine: &M, frame: Frame) -> bool {
        (self.pool.contains(frame) && frame != self.pool.first || self.lent.iter().any(|range| range.contains(frame)))
            && machine.readable(frame)
    }

    /// The page in `frame`, if it is what it was, or differs in one bit.
    fn check<M: Machine>(&self, machine: &M, frame: Frame) -> Result<SavedPage, ImageError> {
        if !self.allows(machine, frame) {
            return Err(ImageError::Outside(frame));
        }
        let mut pools = core::iter::once(&self.pool).chain(&self.lent);
        let (Contents::Checked, Some(pool)) = (self.contents, pools.find(|pool| pool.contains(frame))) else {
            return Ok(SavedPage { frame, flip: None });
        };
        let page = sums::compare(machine, *pool, frame, self.program).ok_or(ImageError::Page(frame))?;
        if page.flip.is_some() {
            self.note(Mend::Page(frame));
        }
        Ok(page)
    }

    /// The pages of one key. The first damage ends it.
    pub fn pages<'a, M: Machine>(&'a self, machine: &'a M, key: PageKey) -> Result<Pages<'a, M>, ImageError> {
        Ok(Pages { cursor: self.cursor(machine, key)?, image: self, machine })
    }

    /// One page of a key.
    pub fn page<M: Machine>(&self, machine: &M, key: PageKey, page: u64) -> Result<Option<SavedPage>, ImageError> {
        for layer in self.layers()? {
            if let Some(version) = layer.version(machine, self, (key, page))? {
                return version.page().map(|frame| self.check(machine, frame)).transpose();
            }
        }
        Ok(None)
    }

    /// The same as [`Image::pages`] for a caller that changes the machine between pages.
    pub fn cursor<M: Machine>(&self, machine: &M, key: PageKey) -> Result<PageCursor, ImageError> {
        self.cursor_over(machine, key, 0, u64::MAX)
    }

    /// The pages of a key within `first..end`.
    pub fn cursor_over<M: Machine>(
        &self,
        machine: &M,
        key: PageKey,
        first: u64,
        end: u64,
    ) -> Result<PageCursor, ImageError> {
        let mut cursor = PageCursor { key, first, end, layer: 0, walk: None };
        cursor.enter(machine, self)?;
        Ok(cursor)
    }
}

/// A place in the pages of one key: in order for each generation on its own.
pub struct PageCursor {
    key: PageKey,
    first: u64,
    end: u64,
    layer: usize,
    walk: Option<Walk>,
}

impl PageCursor {
    /// Begins with a layer.
    fn enter<M: Machine>(&mut self, machine: &M, image: &Image) -> Result<(), ImageError> {
        self.walk = None;
        if let Some(layer) = image.layers()?.get(self.layer) {
            let mut walk = layer.tree(machine, self.key)?;
            if self.first > 0 {
                walk.seek(machine, self.first);
            }
            image.note_mended(&walk);
            self.walk = Some(walk);
        }
        Ok(())
    }

    /// Whether a generation on top of the present one says something of a page.
    fn is_hidden<M: Machine>(&self, machine: &M, image: &Image, page: u64) -> Result<bool, ImageError> {
        for layer in image.layers.iter().take(self.layer) {
            if layer.version(machine, image, (self.key, page))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Which of the generations on top of each other the last page, or damage, was found in.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// The next page, by its number.
    pub fn next<M: Machine>(&mut self, machine: &M, image: &Image) -> Option<Result<(u64, SavedPage), ImageError>> {
        let found = self.step(machine, image).transpose();
        if let Some(Err(_)) = found {
            self.walk = None;
        }
        found
    }

    fn step<M: Machine>(&mut self, machine: &M, image: &Image) -> Result<Option<(u64, SavedPage)>, ImageError> {
        while let Some(walk) = self.walk.as_mut() {
            let event = walk.next(machine);
            image.note_mended(walk);
            match event {
                Some(Event::Entry { page, entry, .. }) if page < self.end => {
                    let Some(layer) = image.layers.get(self.layer) else { return Ok(None) };
                    let Some(frame) = entry.at(layer.epoch).and_then(Version::page) else { continue };
                    if self.is_hidden(machine, image, page)? {
                        continue;
                    }
                    return image.check(machine, frame).map(|saved| Some((page, saved)));
                }
                Some(Event::Damaged(error)) => return Err(error),
                Some(Event::Enter(_) | Event::Leave(_)) => {}
                Some(Event::Entry { .. }) | None => {
                    self.layer += 1;
                    self.enter(machine, image)?;
                }
            }
        }
        Ok(None)
    }
}

/// The pages of one key.
pub struct Pages<'a, M: Machine> {
    cursor: PageCursor,
    image: &'a Image,
    machine: &'a M,
}

impl<M: Machine> Iterator for Pages<'_, M> {
    type Item = Result<(u64, SavedPage), ImageError>;
    fn next(&mut self) -> Option<Self::Item> {
        self.cursor.next(self.machine, self.image)
    }
}

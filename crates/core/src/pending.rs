//! Pages of a taken-over program that are still only in the image: they are mapped when they are touched, and the rest in the
//! background, so that a takeover takes no longer for a large program than for a small one (D10).
use crate::{process::SpaceId, protect::space_key};
use alloc::{rc::Rc, vec::Vec};
use shimos_abi::{
    addr::{Frame, UserPage},
    ids::Epoch,
};
use shimos_checkpoint::{Image, ImageError, Mend, SavedPage, reader::PageCursor};
use shimos_hal::Machine;
use shimos_memory::{AddressSpace, Adopted, Frames, MemoryFault, PageSet, space::Progress};

/// The pages of one address space that are still to be mapped.
pub struct Pending {
    image: Rc<Image>,
    space: SpaceId,
    /// What is before this was mapped in order.
    cursor: PageCursor,
    /// Pages that were taken from the image. What the program has done to them since counts, even if it has none there now.
    taken: PageSet,
}

/// Frames that must be free for a page to be brought: for itself, and for page tables.
const SPARE: usize = 8;

/// How pages are taken over in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// They are mapped where they lie.
    Map,
    /// They are copied here.
    Bring,
}

/// Why a page of the image could not be taken: the program cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// The image is damaged.
    Image(ImageError),
    /// There is no frame for a page table, or the image contradicts itself.
    Memory,
}

impl From<ImageError> for Lost {
    fn from(error: ImageError) -> Lost {
        Lost::Image(error)
    }
}

/// A page that could not be taken, and where it was looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// What is wrong.
    pub lost: Lost,
    /// The head of the memory that the generation lies in which has the page.
    pub head: Frame,
    /// That generation.
    pub epoch: Epoch,
}

/// All address spaces with pages that are still to be mapped.
#[derive(Default)]
pub struct PendingPages {
    spaces: Vec<Pending>,
    /// A page that cannot be had: the program must not go on without it.
    damage: Option<Damage>,
    /// Where in an image a flipped bit was set right, and that was not told yet.
    mended: Option<Mend>,
}

impl PendingPages {
    /// The pages of `space` are in `image`.
    pub fn add<M: Machine>(&mut self, machine: &M, image: &Rc<Image>, space: SpaceId) -> Result<(), ImageError> {
        let cursor = image.cursor(machine, space_key(space))?;
        self.spaces.push(Pending { image: image.clone(), space, cursor, taken: PageSet::new() });
        Ok(())
    }

    /// What is lost, if anything is.
    pub fn damage(&self) -> Option<Damage> {
        self.damage
    }

    /// Where in an image a flipped bit was set right; once.
    pub fn take_mended(&mut self) -> Option<Mend> {
        self.mended.take()
    }

    /// Whether every page is mapped.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.spaces.is_empty()
    }

    /// The spaces that are not complete.
    pub fn spaces(&self) -> impl Iterator<Item = SpaceId> + '_ {
        self.spaces.iter().map(|pending| pending.space)
    }

    /// A space has ended: nothing of it is needed.
    pub fn forget(&mut self, space: SpaceId) {
        self.spaces.retain(|pending| pending.space != space);
    }

    /// Maps up to about `most` of the pages in `first..end`.
    pub fn touch<M: Machine>(
        &mut self,
        place: &mut Place<'_, M>,
        id: SpaceId,
        (first, end): (u64, u64),
        most: usize,
    ) -> Result<Progress, Lost> {
        let Some(pending) = self.spaces.iter_mut().find(|pending| pending.space == id) else {
            return Ok(Progress::Done);
        };
        let result = pending.touch(place, (first, end), most);
        self.mended = self.mended.or_else(|| pending.image.take_mended());
        result.map_err(|damage| {
            self.damage = Some(damage);
            damage.lost
        })
    }

    /// Takes up to `most` more pages of a space in order; which were brought here is added to `brought`.
    pub fn step<M: Machine>(
        &mut self,
        place: &mut Place<'_, M>,
        id: SpaceId,
        (most, way): (usize, Way),
        brought: &mut PageSet,
    ) -> Result<Progress, Lost> {
        let Some(at) = self.spaces.iter().position(|pending| pending.space == id) else { return Ok(Progress::Done) };
        let Some(pending) = self.spaces.get_mut(at) else { return Ok(Progress::Done) };
        let result = pending.step(place, (most, way), brought);
        self.mended = self.mended.or_else(|| pending.image.take_mended());
        match result {
            Ok(Progress::Done) => drop(self.spaces.swap_remove(at)),
            Ok(Progress::More) => {}
            Err(damage) => self.damage = Some(damage),
        }
        result.map_err(|damage| damage.lost)
    }
}

impl Pending {
    fn touch<M: Machine>(
        &mut self,
        place: &mut Place<'_, M>,
        (first, end): (u64, u64),
        most: usize,
    ) -> Result<Progress, Damage> {
        let cursor = self.image.cursor_over(place.machine, space_key(self.space), first, end);
        let mut cursor = cursor.map_err(|error| self.damage(0, error))?;
        let mut left = most;
        while let Some(found) = cursor.next(place.machine, &self.image) {
            let (page, saved) = found.map_err(|error| self.damage(cursor.layer(), error))?;
            if self.has_taken(page, place.space) {
                continue;
            }
            if left == 0 {
                return Ok(Progress::More);
            }
            left -= 1;
            place.take(UserPage(page), saved, Way::Map).map_err(|lost| self.damage(cursor.layer(), lost))?;
            self.taken.insert(page);
        }
        Ok(Progress::Done)
    }

    fn damage(&self, layer: usize, lost: impl Into<Lost>) -> Damage {
        let (head, epoch) = self.image.layer(layer);
        Damage { lost: lost.into(), head, epoch }
    }

    fn has_taken(&self, page: u64, space: &AddressSpace) -> bool {
        space.owns(UserPage(page)) || self.taken.contains(page)
    }

    fn step<M: Machine>(
        &mut self,
        place: &mut Place<'_, M>,
        (most, way): (usize, Way),
        brought: &mut PageSet,
    ) -> Result<Progress, Damage> {
        // Those that are passed over cost less, but not nothing.
        for _ in 0..most {
            if way == Way::Bring && place.frames.free_count() < SPARE {
                return Ok(Progress::More);
            }
            let Some(found) = self.cursor.next(place.machine, &self.image) else { return Ok(Progress::Done) };
            let layer = self.cursor.layer();
            let (page, saved) = found.map_err(|error| self.damage(layer, error))?;
            if self.has_taken(page, place.space) {
                continue;
            }
            place.take(UserPage(page), saved, way).map_err(|lost| self.damage(layer, lost))?;
            if way == Way::Bring {
                brought.insert(page);
            }
            self.taken.insert(page);
        }
        Ok(Progress::More)
    }
}

/// Where pages are mapped.
pub struct Place<'a, M: Machine> {
    /// The machine.
    pub machine: &'a mut M,
    /// The frames of the pool.
    pub frames: &'a mut Frames,
    /// The address space.
    pub space: &'a mut AddressSpace,
    /// Its page tables.
    pub tables: &'a mut M::Space,
    /// Whether what is mapped where it lies is in the program's own image by that.
    pub adopted: Adopted,
}

impl<M: Machine> Place<'_, M> {
    fn take(&mut self, page: UserPage, saved: SavedPage, way: Way) -> Result<(), Lost> {
        let Place { machine, frames, space, tables, adopted } = self;
        let frame = saved.hold(*machine, frames).ok_or(Lost::Memory)?;
        let taken = match way {
            Way::Map => space.adopt(*machine, frames, tables, page, frame, *adopted),
            Way::Bring => space.bring(*machine, frames, tables, page, frame),
        };
        // The space has a reference of its own.
        frames.release(frame);
        taken.map_err(|_| Lost::Memory)
    }
}

impl From<Lost> for MemoryFault {
    fn from(_: Lost) -> MemoryFault {
        MemoryFault::Bus
    }
}

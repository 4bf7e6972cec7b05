//! Pages of a taken-over program that are still only in the image: they are mapped when they are touched, and the rest in the
//! background, so that a takeover takes no longer for a large program than for a small one (D10).
use crate::{process::SpaceId, protect::space_key};
use alloc::{rc::Rc, vec::Vec};
use shimos_abi::{
    addr::{PAGE, UserAddr, UserPage},
    ids::Epoch,
};
use shimos_checkpoint::{Image, ImageError, reader::PageCursor};
use shimos_hal::Machine;
use shimos_memory::{AddressSpace, Frames, MemoryFault, space::Progress};

/// The pages of one address space that are still to be mapped.
pub struct Pending {
    image: Rc<Image>,
    space: SpaceId,
    /// What is before this was mapped in order.
    cursor: PageCursor,
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

/// All address spaces with pages that are still to be mapped.
#[derive(Default)]
pub struct PendingPages {
    spaces: Vec<Pending>,
    /// A page that cannot be had: the program must not go on without it.
    damage: Option<Lost>,
}

impl PendingPages {
    /// The pages of `space` are in `image`.
    pub fn add<M: Machine>(&mut self, machine: &M, image: &Rc<Image>, space: SpaceId) -> Result<(), ImageError> {
        let cursor = image.cursor(machine, space_key(space))?;
        self.spaces.push(Pending { image: image.clone(), space, cursor });
        Ok(())
    }

    /// What is lost, if anything is.
    pub fn damage(&self) -> Option<Lost> {
        self.damage
    }

    /// The generation that they come from.
    pub fn epoch(&self) -> Option<Epoch> {
        self.spaces.first().map(|pending| pending.image.epoch())
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

    /// Maps the pages that `len` bytes at `addr` touch.
    pub fn touch<M: Machine>(
        &mut self,
        place: &mut Place<'_, M>,
        id: SpaceId,
        addr: UserAddr,
        len: usize,
    ) -> Result<(), Lost> {
        let Some(pending) = self.spaces.iter().find(|pending| pending.space == id) else { return Ok(()) };
        let first = addr.0 / PAGE as u64;
        let last = addr.0.saturating_add(len.max(1) as u64 - 1) / PAGE as u64;
        for page in first..=last {
            let Some(page) = UserAddr(page.saturating_mul(PAGE as u64)).page() else { break };
            if place.space.owns(page) {
                continue;
            }
            let found = pending.image.page(place.machine, space_key(id), page.0).map_err(Lost::from);
            let mapped = found.and_then(|frame| frame.map_or(Ok(()), |frame| place.adopt(page, frame)));
            if let Err(lost) = mapped {
                self.damage = Some(lost);
                return Err(lost);
            }
        }
        Ok(())
    }

    /// Maps up to `most` more pages of a space in order.
    pub fn step<M: Machine>(&mut self, place: &mut Place<'_, M>, id: SpaceId, most: usize) -> Result<Progress, Lost> {
        let Some(at) = self.spaces.iter().position(|pending| pending.space == id) else { return Ok(Progress::Done) };
        let pending = &mut self.spaces[at];
        for _ in 0..most {
            match pending.cursor.next(place.machine, &pending.image) {
                None => {
                    self.spaces.swap_remove(at);
                    return Ok(Progress::Done);
                }
                Some(entry) => {
                    let mapped = entry.map_err(Lost::from).and_then(|(page, frame)| match UserPage(page) {
                        page if place.space.owns(page) => Ok(()),
                        page => place.adopt(page, frame),
                    });
                    if let Err(lost) = mapped {
                        self.damage = Some(lost);
                        return Err(lost);
                    }
                }
            }
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
}

impl<M: Machine> Place<'_, M> {
    fn adopt(&mut self, page: UserPage, frame: shimos_abi::addr::Frame) -> Result<(), Lost> {
        self.space.adopt(self.machine, self.frames, self.tables, page, frame).map_err(|_| Lost::Memory)
    }
}

impl From<Lost> for MemoryFault {
    fn from(_: Lost) -> MemoryFault {
        MemoryFault::Bus
    }
}

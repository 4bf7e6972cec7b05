//! Objects: page containers that several may see: files of the writable layer, shared memory, memfds.
use crate::{
    backing::{Backing, BackingError},
    fault::MemoryFault,
    frames::Frames,
    page_set::PageSet,
    space::{Progress, Tracking},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use minicbor::{Decode, Encode};
use shimos_abi::addr::{Frame, PAGE};
use shimos_hal::{FrameSource, Machine};

/// An object with no more pages than this is given back at once.
const FEW: usize = 1024;

/// The largest object, in bytes.
pub const MAX_SIZE: u64 = 1 << 47;

/// Names an object within its program. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct ObjectId(#[n(0)] pub u32);

/// One object. Its pages are part of the image by themselves and are not encoded.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Object {
    /// Size in bytes.
    #[n(0)]
    size: u64,
    /// File of the root image that shows through where nothing was written yet.
    #[n(1)]
    backing: Option<u64>,
    /// How many bytes of that file still show.
    #[n(2)]
    backed: u64,
    /// Inodes and descriptions that hold it.
    #[n(3)]
    references: u32,
    /// Pages of mappings of it, counted over all address spaces. Derived: see [`crate::AddressSpace::count_mapped`].
    #[cbor(skip)]
    mapped: u64,
    #[cbor(skip)]
    pages: BTreeMap<u64, Frame>,
    /// Pages whose content is not in the last image. Only these are written in place while changes are tracked.
    #[cbor(skip)]
    changed: PageSet,
    /// Pages whose frames belong to an image of an earlier life: never written in place.
    #[cbor(skip)]
    lent: PageSet,
}

impl Object {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
    /// The file of the root image below it.
    pub fn backing(&self) -> Option<u64> {
        self.backing
    }
    /// Pages of its own.
    pub fn resident(&self) -> usize {
        self.pages.len()
    }
    /// Pages of mappings of it.
    pub fn mapped(&self) -> u64 {
        self.mapped
    }
    /// Its own pages.
    pub fn pages(&self) -> impl Iterator<Item = (u64, Frame)> {
        self.pages.iter().map(|(index, frame)| (*index, *frame))
    }
    fn page_count(&self) -> u64 {
        self.size.div_ceil(PAGE as u64)
    }
    pub(crate) fn shows_backing(&self, index: u64) -> Option<u64> {
        self.backing.filter(|_| index < self.backed.div_ceil(PAGE as u64))
    }
}

/// Pages of an object whose frame is another one now: mappings of the old one must go
/// ([`crate::AddressSpace::drop_stale`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stale {
    /// The object.
    pub object: ObjectId,
    /// The first page.
    pub first: u64,
    /// The page behind the last; `u64::MAX` where the object was cut off.
    pub end: u64,
}

impl ObjectId {
    /// Ids within this mask are those of files, which the file system hands out; all others are made here.
    pub const FILE_MASK: u32 = u32::MAX >> 1;
}

/// All objects of one program.
#[derive(Default, Debug, Encode, Decode)]
pub struct Objects {
    #[n(0)]
    next: u32,
    #[n(1)]
    objects: BTreeMap<ObjectId, Object>,
    #[cbor(skip)]
    pub(crate) tracking: Tracking,
    /// Objects with changed pages.
    #[cbor(skip)]
    pub(crate) dirty: BTreeSet<ObjectId>,
    #[cbor(skip)]
    stale: Vec<Stale>,
    #[cbor(skip)]
    ended: Vec<ObjectId>,
    /// Frames of objects that ended, to be given back step by step.
    #[cbor(skip)]
    garbage: Vec<BTreeMap<u64, Frame>>,
}

impl Objects {
    /// A new object of zeros with one reference.
    pub fn create(&mut self, size: u64) -> ObjectId {
        self.add(Object { size: size.min(MAX_SIZE), references: 1, ..Object::default() })
    }
    /// A new object with one reference that shows the first `size` bytes of file `nid` until it is written.
    pub fn create_over(&mut self, nid: u64, size: u64) -> ObjectId {
        let size = size.min(MAX_SIZE);
        self.add(Object { size, backing: Some(nid), backed: size, references: 1, ..Object::default() })
    }
    fn add(&mut self, object: Object) -> ObjectId {
        let id = ObjectId(self.next | !ObjectId::FILE_MASK);
        self.next = self.next.saturating_add(1);
        self.objects.insert(id, object);
        id
    }
    /// Makes sure that an object of a file exists, with one reference: the file system has chosen its id (one of
    /// [`ObjectId::FILE_MASK`]'s numbers). A new one is of `size` bytes and shows the first bytes of a file of the image
    /// where `backing` says so. Returns at once if it exists.
    pub fn ensure(&mut self, id: ObjectId, size: u64, backing: Option<(u64, u64)>) {
        let size = size.min(MAX_SIZE);
        let (nid, backed) = backing.map_or((None, 0), |(nid, len)| (Some(nid), len.min(size)));
        self.objects.entry(id).or_insert_with(|| Object {
            size,
            backing: nid,
            backed,
            references: 1,
            ..Object::default()
        });
    }
    /// One object.
    pub fn get(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(&id)
    }
    /// All objects.
    pub fn iter(&self) -> impl Iterator<Item = (ObjectId, &Object)> {
        self.objects.iter().map(|(id, object)| (*id, object))
    }
    /// Size in bytes; 0 for an object that does not exist.
    pub fn size(&self, id: ObjectId) -> u64 {
        self.objects.get(&id).map_or(0, |object| object.size)
    }
    /// Adds a reference.
    pub fn share(&mut self, id: ObjectId) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.references = object.references.saturating_add(1);
        }
    }
    /// Gives a reference up. The object ends when neither references nor mappings are left.
    pub fn release(&mut self, frames: &mut Frames, id: ObjectId) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.references = object.references.saturating_sub(1);
        }
        self.end_unused(frames, id);
    }
    /// Forgets how often objects are mapped, before all address spaces count again.
    pub fn forget_mapped(&mut self) {
        for object in self.objects.values_mut() {
            object.mapped = 0;
        }
    }
    pub(crate) fn add_mapped(&mut self, id: ObjectId, pages: u64) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.mapped = object.mapped.saturating_add(pages);
        }
    }
    pub(crate) fn sub_mapped(&mut self, frames: &mut Frames, id: ObjectId, pages: u64) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.mapped = object.mapped.saturating_sub(pages);
        }
        self.end_unused(frames, id);
    }
    fn end_unused(&mut self, frames: &mut Frames, id: ObjectId) {
        let unused = self.objects.get(&id).is_some_and(|object| object.references == 0 && object.mapped == 0);
        if unused && let Some(object) = self.objects.remove(&id) {
            if object.pages.len() > FEW {
                self.garbage.push(object.pages);
            } else {
                for frame in object.pages.into_values() {
                    frames.release(frame);
                }
            }
            self.dirty.remove(&id);
            self.ended.push(id);
        }
    }
    /// Gives up to `most` frames of objects that ended back; whether there are more.
    pub fn sweep(&mut self, frames: &mut Frames, most: usize) -> Progress {
        let mut left = most;
        while let Some(pages) = self.garbage.last_mut() {
            while let Some((_, frame)) = pages.pop_first() {
                frames.release(frame);
                left = left.saturating_sub(1);
                if left == 0 {
                    return Progress::More;
                }
            }
            self.garbage.pop();
        }
        Progress::Done
    }
    /// All objects end: their frames are given back by [`Objects::sweep`].
    pub fn abandon(&mut self) {
        for object in core::mem::take(&mut self.objects).into_values() {
            self.garbage.push(object.pages);
        }
        self.dirty.clear();
    }
    /// Whether frames of objects that ended are still to be given back.
    pub fn has_garbage(&self) -> bool {
        !self.garbage.is_empty()
    }
    /// Gives all frames back: the program is gone.
    pub fn destroy(&mut self, frames: &mut Frames) {
        self.sweep(frames, usize::MAX);
        for object in core::mem::take(&mut self.objects).into_values() {
            for frame in object.pages.into_values() {
                frames.release(frame);
            }
        }
        self.dirty.clear();
    }
    /// The objects that ended since the last call: the image drops their pages.
    pub fn take_ended(&mut self) -> Vec<ObjectId> {
        core::mem::take(&mut self.ended)
    }
    /// The pages that changed their frame since the last call. The owner passes them to
    /// [`crate::AddressSpace::drop_stale`] of every address space of the program before any of them runs again.
    pub fn take_stale(&mut self) -> Vec<Stale> {
        core::mem::take(&mut self.stale)
    }
    /// Whether [`Objects::take_stale`] would return anything.
    #[inline]
    pub fn has_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// The frame that shows page `index` now, `None` for a hole of zeros. `Bus` behind the end.
    pub fn page_for_read<M: Machine>(
        &self,
        machine: &mut M,
        frames: &mut Frames,
        backing: &mut dyn Backing<M>,
        id: ObjectId,
        index: u64,
    ) -> Result<Option<Frame>, MemoryFault> {
        let object = self.objects.get(&id).ok_or(MemoryFault::Bus)?;
        if index >= object.page_count() {
            return Err(MemoryFault::Bus);
        }
        if let Some(frame) = object.pages.get(&index) {
            return Ok(Some(*frame));
        }
        match object.shows_backing(index) {
            Some(nid) => match backing.page(machine, frames, nid, index) {
                Ok(frame) => Ok(Some(frame)),
                Err(BackingError::End) => Ok(None),
                Err(error) => Err(error.into()),
            },
            None => Ok(None),
        }
    }

    /// A frame for page `index` that may be written now; the object holds the reference. `Bus` behind the end.
    ///
    /// A page that an image holds gets a new frame, and mappings of the old one become stale.
    pub fn page_for_write<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        backing: &mut dyn Backing<M>,
        id: ObjectId,
        index: u64,
    ) -> Result<Frame, MemoryFault> {
        let tracked = self.tracking == Tracking::On;
        let object = self.objects.get(&id).ok_or(MemoryFault::Bus)?;
        if let Some(frame) = object.pages.get(&index) {
            let in_image = tracked && !object.changed.contains(index);
            if !in_image && !object.lent.contains(index) && !frames.is_foreign(*frame) {
                return Ok(*frame);
            }
        }
        let source = self.page_for_read(machine, frames, backing, id, index)?;
        let new = frames.take().ok_or(MemoryFault::OutOfMemory)?;
        match source {
            Some(old) => machine.copy_frame(old, new),
            None => machine.zero_frame(new),
        }
        self.place(frames, id, index, new);
        Ok(new)
    }

    /// Puts `frame` behind page `index`, in place of what was there.
    pub(crate) fn place(&mut self, frames: &mut Frames, id: ObjectId, index: u64, frame: Frame) {
        let Some(object) = self.objects.get_mut(&id) else {
            frames.release(frame);
            return;
        };
        if let Some(old) = object.pages.insert(index, frame) {
            frames.release(old);
        }
        object.lent.remove(index);
        if self.tracking == Tracking::On {
            object.changed.insert(index);
            self.dirty.insert(id);
        }
        if object.mapped > 0 {
            self.stale.push(Stale { object: id, first: index, end: index + 1 });
        }
    }

    pub(crate) fn set_size(&mut self, id: ObjectId, size: u64) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.size = size;
        }
    }

    pub(crate) fn drop_pages(&mut self, frames: &mut Frames, id: ObjectId, first: u64, end: u64) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        // What lies behind the end goes as a whole.
        let mut cut = object.pages.split_off(&first);
        let kept = if end == u64::MAX { BTreeMap::new() } else { cut.split_off(&end) };
        object.pages.extend(kept);
        for index in cut.keys().copied() {
            object.lent.remove(index);
            if self.tracking == Tracking::On {
                object.changed.insert(index);
                self.dirty.insert(id);
            }
        }
        let mapped = object.mapped > 0;
        if cut.len() > FEW {
            self.garbage.push(cut);
        } else {
            for frame in cut.into_values() {
                frames.release(frame);
            }
        }
        if mapped {
            self.stale.push(Stale { object: id, first, end });
        }
    }

    /// Whether `frame` is what a mapping of page `index` should show, as far as the object knows by itself.
    pub(crate) fn shows(&self, id: ObjectId, index: u64, frame: Frame) -> bool {
        self.objects.get(&id).is_some_and(|object| object.pages.get(&index) == Some(&frame))
    }

    pub(crate) fn forget_lent(&mut self, id: ObjectId, index: u64) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.lent.remove(index);
        }
    }

    pub(crate) fn object_mut(&mut self, id: ObjectId) -> Option<&mut Object> {
        self.objects.get_mut(&id)
    }

    /// Whether decoded objects make sense.
    pub fn validate(&self) -> Result<(), &'static str> {
        for (id, object) in &self.objects {
            if id.0 & !ObjectId::FILE_MASK != 0 && id.0 & ObjectId::FILE_MASK >= self.next {
                return Err("object id that was never given out");
            }
            if object.size > MAX_SIZE || object.backed > object.size {
                return Err("object of impossible size");
            }
        }
        Ok(())
    }
}

/// Access for the rest of the crate.
impl Object {
    pub(crate) fn limit_backed(&mut self, size: u64) {
        self.backed = self.backed.min(size);
    }
    pub(crate) fn frame(&self, index: u64) -> Option<Frame> {
        self.pages.get(&index).copied()
    }
    pub(crate) fn track_all(&mut self) {
        self.changed.clear();
        for index in self.pages.keys() {
            self.changed.insert(*index);
        }
    }
    pub(crate) fn take_changed(&mut self) -> PageSet {
        core::mem::take(&mut self.changed)
    }
    pub(crate) fn take_some_changed(&mut self, most: usize) -> PageSet {
        self.changed.take_some(most)
    }
    pub(crate) fn changed_pages(&self) -> usize {
        self.changed.len()
    }
    pub(crate) fn restore_changed(&mut self, changed: &PageSet) {
        self.changed.merge(changed);
    }
    pub(crate) fn adopt(&mut self, index: u64, frame: Frame) -> Option<Frame> {
        self.lent.insert(index);
        self.pages.insert(index, frame)
    }
    pub(crate) fn first_lent(&self) -> Option<u64> {
        self.lent.first_from(0)
    }
    pub(crate) fn lent_pages(&self) -> usize {
        self.lent.len()
    }
}

//! Change tracking for checkpoints, and pages that come from an image.
use crate::{
    fault::read_rights,
    frames::Frames,
    objects::{Object, ObjectId, Objects},
    page_set::PageSet,
    space::{AddressSpace, Progress, Tracking},
    vma::Sharing,
};
use alloc::vec::Vec;
use shimos_abi::addr::{Frame, UserPage};
use shimos_hal::{FrameSource, Machine, OutOfFrames};

/// Why a page of an image cannot be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdoptError {
    /// No private mapping or no object holds such a page: the image contradicts itself.
    NotMapped,
    /// There is no free frame for a page table.
    OutOfMemory,
}

/// Whether a page that is adopted is in the image that is kept up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Adopted {
    /// It is not: it counts as changed.
    Unsaved,
    /// What that image is based on has it, as long as it is lent.
    Based,
}

impl AddressSpace {
    /// Starts or ends change tracking. When it starts, all owned pages count as changed. For a new image from the start,
    /// end it first.
    pub fn set_tracking(&mut self, tracking: Tracking) {
        if self.tracking == tracking {
            return;
        }
        self.tracking = tracking;
        self.changed.clear();
        if tracking == Tracking::On {
            self.changed = self.owned.clone();
        }
    }
    /// How many pages [`AddressSpace::collect`] would report.
    pub fn changed_pages(&self) -> usize {
        self.changed.len()
    }

    /// Whether [`AddressSpace::collect`] would do anything.
    pub fn is_to_be_saved(&self) -> bool {
        !self.changed.is_empty() || !self.shared_writable.is_empty()
    }

    /// Write-protects and reports every changed page to `visit`, with its frame, or `None` when it has none of its own
    /// any more. The image takes a reference to each frame; from then on a store copies. Pages of shared mappings are
    /// write-protected as well; their objects report them ([`Objects::collect`]), in the same pause.
    ///
    /// The reported pages are returned: if the checkpoint does not commit, they go to
    /// [`AddressSpace::restore_changes`]. If `visit` fails that is done here.
    pub fn collect<M: Machine, E>(
        &mut self,
        machine: &mut M,
        tables: &mut M::Space,
        visit: impl FnMut(&mut M, UserPage, Option<Frame>) -> Result<(), E>,
    ) -> Result<PageSet, E> {
        self.protect_shared(machine, tables);
        self.collect_some(machine, tables, usize::MAX, visit)
    }

    /// Write-protects the pages of shared mappings: before their objects' pages are collected.
    pub fn protect_shared<M: Machine>(&mut self, machine: &mut M, tables: &mut M::Space) {
        for chunk in core::mem::take(&mut self.shared_writable).chunks() {
            let (first, pages) = chunk.parts();
            machine.protect_run(tables, UserPage(first), pages, |_, _| {});
        }
    }

    /// Like [`AddressSpace::collect`], for about `most` of the changed pages and not for those of shared mappings. What is
    /// written after it counts as changed again.
    pub fn collect_some<M: Machine, E>(
        &mut self,
        machine: &mut M,
        tables: &mut M::Space,
        most: usize,
        mut visit: impl FnMut(&mut M, UserPage, Option<Frame>) -> Result<(), E>,
    ) -> Result<PageSet, E> {
        let taken = self.changed.take_some(most);
        match self.report(machine, tables, &taken, &mut visit) {
            Ok(()) => Ok(taken),
            Err(error) => {
                self.changed.merge(&taken);
                Err(error)
            }
        }
    }

    fn report<M: Machine, E>(
        &self,
        machine: &mut M,
        tables: &mut M::Space,
        changed: &PageSet,
        visit: &mut impl FnMut(&mut M, UserPage, Option<Frame>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut found: Vec<(u64, Frame)> = Vec::new();
        for chunk in changed.chunks() {
            let owned = self.owned.chunk_of(chunk.parts().0);
            let both = chunk.both(&owned);
            let (first, pages) = both.parts();
            found.clear();
            machine.protect_run(tables, UserPage(first), pages, |page, frame| found.push((page.0, frame)));
            let mut mapped = found.iter().peekable();
            for page in chunk.iter() {
                let frame = match mapped.next_if(|(at, _)| *at == page) {
                    Some((_, frame)) => Some(*frame),
                    None => self.hidden.get(&page).copied(),
                };
                // Nobody may go on from a checkpoint without it.
                let lost = frame.is_none() && owned.contains(page);
                assert!(!lost, "page tables were overwritten: page {page:#x} is not there");
                visit(machine, UserPage(page), frame)?;
            }
        }
        Ok(())
    }

    /// Like [`AddressSpace::collect`], for some pages of one's own choice.
    pub fn collect_these<M: Machine, E>(
        &mut self,
        machine: &mut M,
        tables: &mut M::Space,
        pages: &PageSet,
        mut visit: impl FnMut(&mut M, UserPage, Option<Frame>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.changed.subtract(pages);
        let outcome = self.report(machine, tables, pages, &mut visit);
        if outcome.is_err() {
            self.changed.merge(pages);
        }
        outcome
    }

    /// The checkpoint that [`AddressSpace::collect`] was for did not commit.
    pub fn restore_changes(&mut self, changes: &PageSet) {
        if self.tracking == Tracking::On {
            self.changed.merge(changes);
        }
    }

    /// Takes a page from an image where it lies. Its frame is never written; a frame of the own pool gets one more
    /// reference.
    pub fn adopt<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        tables: &mut M::Space,
        page: UserPage,
        frame: Frame,
        adopted: Adopted,
    ) -> Result<(), AdoptError> {
        let area = self.mappings.area(page).ok_or(AdoptError::NotMapped)?;
        if area.sharing != Sharing::Private || self.owned.contains(page.0) || self.borrowed.contains(page.0) {
            return Err(AdoptError::NotMapped);
        }
        if area.prot.is_empty() {
            self.hidden.insert(page.0, frame);
        } else {
            machine.map(tables, page, frame, read_rights(area.prot), frames).map_err(|_| AdoptError::OutOfMemory)?;
        }
        frames.share(frame);
        let lent = frames.is_foreign(frame);
        if lent {
            self.lent.insert(page.0);
        }
        self.owned.insert(page.0);
        if !lent || adopted == Adopted::Unsaved {
            self.note_change(page);
        }
        Ok(())
    }

    /// Takes a page from an image, in a frame of the own pool. It counts as changed.
    pub fn bring<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        tables: &mut M::Space,
        page: UserPage,
        frame: Frame,
    ) -> Result<(), AdoptError> {
        if !frames.is_foreign(frame) {
            return self.adopt(machine, frames, tables, page, frame, Adopted::Unsaved);
        }
        let new = frames.take().ok_or(AdoptError::OutOfMemory)?;
        machine.copy_frame(frame, new);
        let outcome = self.adopt(machine, frames, tables, page, new, Adopted::Unsaved);
        // The space has a reference of its own.
        frames.release(new);
        outcome
    }

    /// How many pages still lie in another kernel's memory.
    pub fn lent_pages(&self) -> usize {
        self.lent.len()
    }

    /// Copies up to `pages` pages that lie in another kernel's memory into frames of the own pool. Those that were copied count
    /// as changed and are returned; [`AddressSpace::lent_pages`] tells whether there are more.
    pub fn pull_step<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        tables: &mut M::Space,
        pages: usize,
    ) -> Result<PageSet, OutOfFrames> {
        let mut pulled = PageSet::new();
        for _ in 0..pages {
            let Some(page) = self.lent.first_from(0) else { break };
            if let Some(hidden) = self.hidden.get_mut(&page) {
                let new = frames.take().ok_or(OutOfFrames)?;
                machine.copy_frame(*hidden, new);
                *hidden = new;
                self.note_change(UserPage(page));
                pulled.insert(page);
            } else if let Some(mapping) = machine.lookup(tables, UserPage(page)) {
                let new = frames.take().ok_or(OutOfFrames)?;
                machine.copy_frame(mapping.frame, new);
                if machine.map(tables, UserPage(page), new, mapping.rights, frames).is_err() {
                    frames.release(new);
                    return Err(OutOfFrames);
                }
                self.note_change(UserPage(page));
                pulled.insert(page);
            }
            self.lent.remove(page);
        }
        Ok(pulled)
    }
}

/// Changed pages of objects, as [`Objects::collect`] reported them.
#[derive(Debug, Default)]
pub struct ObjectChanges(Vec<(ObjectId, PageSet)>);

impl ObjectChanges {
    /// How many pages.
    pub fn len(&self) -> usize {
        self.0.iter().map(|(_, pages)| pages.len()).sum()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Adds those of a later step.
    pub fn append(&mut self, mut later: ObjectChanges) {
        self.0.append(&mut later.0);
    }
}

impl Objects {
    /// Starts or ends change tracking. When it starts, all pages count as changed. It ends only together with the image:
    /// from then on pages are written in place.
    pub fn set_tracking(&mut self, tracking: Tracking) {
        if self.tracking == tracking {
            return;
        }
        self.tracking = tracking;
        self.dirty.clear();
        let ids: Vec<ObjectId> = self.iter().map(|(id, _)| id).collect();
        for id in ids {
            let Some(object) = self.object_mut(id) else { continue };
            match tracking {
                Tracking::Off => drop(object.take_changed()),
                Tracking::On => {
                    object.track_all();
                    self.dirty.insert(id);
                }
            }
        }
    }

    /// Starts change tracking where an image has all pages that are not changed from here on.
    pub fn track_from_here(&mut self) {
        self.tracking = Tracking::On;
    }

    /// Reports every changed page with its frame, or `None` for one that is gone. Mappings must be write-protected in the
    /// same pause ([`AddressSpace::collect`] of every space).
    pub fn collect<E>(
        &mut self,
        visit: impl FnMut(ObjectId, u64, Option<Frame>) -> Result<(), E>,
    ) -> Result<ObjectChanges, E> {
        self.collect_some(usize::MAX, visit)
    }

    /// How many pages [`Objects::collect`] would report.
    pub fn changed_pages(&self) -> usize {
        self.dirty.iter().filter_map(|id| self.get(*id)).map(Object::changed_pages).sum()
    }

    /// Like [`Objects::collect`], for about `most` pages.
    pub fn collect_some<E>(
        &mut self,
        most: usize,
        mut visit: impl FnMut(ObjectId, u64, Option<Frame>) -> Result<(), E>,
    ) -> Result<ObjectChanges, E> {
        let mut changes = ObjectChanges::default();
        let mut left = most;
        while left > 0
            && let Some(id) = self.dirty.first().copied()
        {
            let Some(object) = self.object_mut(id) else {
                self.dirty.remove(&id);
                continue;
            };
            let taken = object.take_some_changed(left);
            if object.changed_pages() == 0 {
                self.dirty.remove(&id);
            }
            left = left.saturating_sub(taken.len());
            changes.0.push((id, taken));
        }
        for (id, pages) in &changes.0 {
            for index in pages.iter() {
                let frame = self.get(*id).and_then(|object| object.frame(index));
                if let Err(error) = visit(*id, index, frame) {
                    self.restore_changes(&changes);
                    return Err(error);
                }
            }
        }
        Ok(changes)
    }

    /// The checkpoint that [`Objects::collect`] was for did not commit.
    pub fn restore_changes(&mut self, changes: &ObjectChanges) {
        if self.tracking == Tracking::Off {
            return;
        }
        for (id, pages) in &changes.0 {
            if let Some(object) = self.object_mut(*id) {
                object.restore_changed(pages);
                self.dirty.insert(*id);
            }
        }
    }

    /// Takes a page from an image where it lies. It is never written in place.
    pub fn adopt(&mut self, frames: &mut Frames, id: ObjectId, index: u64, frame: Frame) -> Result<(), AdoptError> {
        let tracked = self.tracking == Tracking::On;
        let object = self.object_mut(id).ok_or(AdoptError::NotMapped)?;
        frames.share(frame);
        if let Some(old) = object.adopt(index, frame) {
            frames.release(old);
        }
        if tracked {
            let mut one = PageSet::new();
            one.insert(index);
            object.restore_changed(&one);
            self.dirty.insert(id);
        }
        Ok(())
    }

    /// How many pages still are those of an image.
    pub fn lent_pages(&self) -> usize {
        self.iter().map(|(_, object)| object.lent_pages()).sum()
    }

    /// Copies up to `pages` pages of an image into frames of the objects' own. Mappings of them become stale.
    pub fn pull_step<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        pages: usize,
    ) -> Result<Progress, OutOfFrames> {
        let mut left = pages;
        let ids: Vec<ObjectId> = self.iter().filter(|(_, object)| object.lent_pages() > 0).map(|(id, _)| id).collect();
        for id in ids {
            while let Some((index, frame)) = self.get(id).and_then(|object| {
                let index = object.first_lent()?;
                Some((index, object.frame(index)))
            }) {
                if left == 0 {
                    return Ok(Progress::More);
                }
                left -= 1;
                let Some(frame) = frame else {
                    self.forget_lent(id, index);
                    continue;
                };
                let new = frames.take().ok_or(OutOfFrames)?;
                machine.copy_frame(frame, new);
                self.place(frames, id, index, new);
            }
        }
        Ok(Progress::Done)
    }
}

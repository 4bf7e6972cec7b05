//! mremap, and making pages ready before they are touched.
use crate::{
    fault::{MemoryFault, Segv},
    mappings::HIGHEST,
    objects::ObjectId,
    space::{AddressSpace, Context, Progress, Remap, RemapTo},
    vma::{Prot, Sharing, Source, Vma, VmaFlags},
};
use alloc::vec::Vec;
use shimos_abi::{
    addr::{Frame, UserPage},
    errno::Errno,
};
use shimos_hal::{Access, Machine, Rights};

impl AddressSpace {
    /// mremap(2): changes the size of the mapping part at `first`, and its place if it must. No old pages stands for another
    /// mapping of the same shared object.
    pub fn remap<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        (first, old_pages): (UserPage, u64),
        new_pages: u64,
        to: RemapTo,
        kind: Remap,
    ) -> Result<UserPage, Errno> {
        let old_end = first.0.checked_add(old_pages).filter(|end| *end <= HIGHEST.0).ok_or(Errno::EFAULT)?;
        if new_pages == 0 {
            return Err(Errno::EINVAL);
        }
        let vma = self.mappings.find(first).ok_or(Errno::EFAULT)?;
        let vma_end = vma.end.0;
        let mut part = vma.clone();
        part.source = vma.source.advance(first.0 - vma.first.0);
        part.first = first;
        part.end = UserPage(old_end);
        let moving = matches!(to, RemapTo::Fixed(_)) || kind == Remap::Leave;
        if !moving && old_pages != 0 && new_pages <= old_pages {
            self.unmap(cx, UserPage(first.0 + new_pages), UserPage(old_end));
            return Ok(first);
        }
        if old_pages == 0 && part.sharing != Sharing::Shared {
            return Err(Errno::EINVAL);
        }
        if first.0 + old_pages.min(new_pages) > vma_end {
            return Err(Errno::EFAULT);
        }
        if let RemapTo::Fixed(target) = to {
            let target_end = target.0.checked_add(new_pages).filter(|end| *end <= HIGHEST.0).ok_or(Errno::EINVAL)?;
            if target.0 < old_end && first.0 < target_end {
                return Err(Errno::EINVAL);
            }
            if target < crate::mappings::LOWEST {
                return Err(Errno::EPERM);
            }
            self.unmap(cx, target, UserPage(target_end));
        }
        if new_pages > old_pages || kind == Remap::Leave {
            let more = if kind == Remap::Leave { new_pages } else { new_pages - old_pages };
            self.check_growth(more, 0, (part.prot, part.sharing, part.flags))?;
        } else {
            self.unmap(cx, UserPage(first.0 + new_pages), UserPage(old_end));
            part.end = UserPage(first.0 + new_pages);
        }
        if old_pages == 0 {
            return self.map_again(cx, part, new_pages, to);
        }
        if let RemapTo::Fixed(target) = to {
            return self.move_part(cx, part, target, new_pages, kind);
        }
        let new_end = first.0.checked_add(new_pages).filter(|end| *end <= HIGHEST.0);
        if kind == Remap::Move
            && vma_end == old_end
            && let Some(new_end) = new_end
            && self.mappings.is_free(UserPage(old_end), UserPage(new_end))
        {
            let added = Vma {
                source: part.source.advance(old_pages),
                first: UserPage(old_end),
                end: UserPage(new_end),
                ..part
            };
            added.validate().map_err(|_| Errno::ENOMEM)?;
            if let Source::Object { id, .. } = added.source {
                cx.objects.add_mapped(id, added.pages());
            }
            self.mappings.insert(added);
            return Ok(first);
        }
        if to == RemapTo::InPlace {
            return Err(Errno::ENOMEM);
        }
        let target = self.find_place(new_pages)?;
        self.move_part(cx, part, target, new_pages, kind)
    }

    /// Maps what `part` shows a second time.
    fn map_again<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        part: Vma,
        pages: u64,
        to: RemapTo,
    ) -> Result<UserPage, Errno> {
        let target = match to {
            RemapTo::Fixed(target) => target,
            RemapTo::MayMove => self.find_place(pages)?,
            RemapTo::InPlace => return Err(Errno::ENOMEM),
        };
        let copy = Vma { first: target, end: UserPage(target.0.saturating_add(pages)), ..part };
        copy.validate().map_err(|_| Errno::ENOMEM)?;
        if let Source::Object { id, .. } = copy.source {
            cx.objects.add_mapped(id, pages);
        }
        self.mappings.insert(copy);
        Ok(target)
    }

    /// Moves a part of a mapping with its pages to `target`, where it gets `pages` pages.
    fn move_part<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        part: Vma,
        target: UserPage,
        pages: u64,
        kind: Remap,
    ) -> Result<UserPage, Errno> {
        let (first, old_end) = (part.first, part.end);
        let kept = part.pages().min(pages);
        let moved = Vma { first: target, end: UserPage(target.0.saturating_add(pages)), ..part };
        moved.validate().map_err(|_| Errno::ENOMEM)?;
        if let Source::Object { id, .. } = moved.source {
            cx.objects.add_mapped(id, pages);
        }
        let kept_end = first.0 + kept;
        let mut batch: Vec<(u64, Frame, Option<Rights>)> = Vec::new();
        let mut from = first.0;
        let mut failed = false;
        while let Some(chunk) = self.owned.chunk_from(from, kept_end) {
            let Some((low, high)) = chunk.bounds() else { break };
            batch.clear();
            cx.machine.update(cx.tables, UserPage(low), UserPage(high), &mut |page, mapping| {
                if !chunk.contains(page.0) {
                    return Some(mapping.rights);
                }
                batch.push((page.0, mapping.frame, Some(mapping.rights)));
                None
            });
            for page in chunk.iter() {
                if let Some(frame) = self.hidden.remove(&page) {
                    batch.push((page, frame, None));
                }
            }
            for (page, frame, rights) in batch.drain(..) {
                let new = target.0 + (page - first.0);
                failed |= !self.settle(cx, page, new, frame, rights);
            }
            from = high;
        }
        // What is left are borrowed pages, which fault in again at the new place.
        match kind {
            Remap::Move => self.unmap(cx, first, old_end),
            Remap::Leave => {
                self.clear(cx, first, old_end);
                // What stays is not locked any more.
                let locked = VmaFlags::LOCKED | VmaFlags::LOCKED_ON_FAULT;
                let _ = self.mappings.set_flags(first, old_end, VmaFlags::empty(), locked);
            }
        }
        self.mappings.insert(moved);
        if failed { Err(Errno::ENOMEM) } else { Ok(target) }
    }

    /// Puts a page that was at `old` to `new`; false if there is no memory for a page table, and the page is lost.
    fn settle<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        old: u64,
        new: u64,
        frame: Frame,
        rights: Option<Rights>,
    ) -> bool {
        let lent = self.lent.remove(old);
        self.owned.remove(old);
        self.note_change(UserPage(old));
        self.note_change(UserPage(new));
        match rights {
            Some(rights) => {
                if self.map_page(cx, UserPage(new), frame, rights).is_err() {
                    cx.frames.release(frame);
                    return false;
                }
            }
            None => {
                self.hidden.insert(new, frame);
            }
        }
        self.owned.insert(new);
        if lent {
            self.lent.insert(new);
        }
        true
    }

    /// Makes up to `most` pages from `at` on ready for use (MAP_POPULATE, mlock). Returns where it came to: `end` when all are
    /// ready.
    pub fn populate<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        (at, end): (UserPage, UserPage),
        most: u64,
        access: Option<Access>,
    ) -> Result<UserPage, (UserPage, MemoryFault)> {
        let stop = end.0.min(at.0.saturating_add(most));
        for page in at.0..stop {
            let page = UserPage(page);
            let unmapped = (page, MemoryFault::Segv(Segv::Unmapped));
            let vma = self.mappings.find(page).ok_or(unmapped)?;
            // Memory of its own is made writable at once, as it will be written.
            let own = vma.sharing == Sharing::Private && vma.prot.contains(Prot::WRITE);
            let access = access.unwrap_or(if own { Access::Write } else { Access::Read });
            self.resolve(cx, page, access).map_err(|fault| (page, fault))?;
        }
        Ok(UserPage(stop))
    }

    /// Takes up to `most` pages of `first..end` out of memory; the mappings stay, and show their source again.
    pub fn clear_step<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        first: UserPage,
        end: UserPage,
        most: u64,
    ) -> Progress {
        let mut gone = Vec::new();
        let (mut from, mut left) = (first.0, most);
        while let Some((low, high)) = self.next_run(from, end.0) {
            if left == 0 {
                return Progress::More;
            }
            self.clear_run(cx, UserPage(low), UserPage(high), &mut gone);
            left = left.saturating_sub(high - low);
            from = high;
        }
        Progress::Done
    }

    /// Whether pages of `first..end` are in memory, one byte for each.
    pub fn residence(&self, first: UserPage, end: UserPage) -> Vec<u8> {
        let there = |page: u64| self.owned.contains(page) || self.borrowed.contains(page);
        (first.0..end.0).map(|page| u8::from(there(page))).collect()
    }

    /// Lets shared mappings of a file of the image show an object instead: the file is about to be written.
    pub fn redirect<M: Machine>(&mut self, cx: &mut Context<'_, M>, nid: u64, object: ObjectId) {
        for (low, high) in self.mappings.redirect(nid, object) {
            cx.objects.add_mapped(object, high.0 - low.0);
            self.clear(cx, low, high);
        }
    }
}

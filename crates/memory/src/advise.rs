//! madvise and mremap.
use crate::{
    mappings::HIGHEST,
    space::{AddressSpace, Context, RemapTo},
    vma::{Source, Vma},
};
use alloc::vec::Vec;
use shimos_abi::{
    addr::{Frame, UserPage},
    errno::Errno,
};
use shimos_hal::{Machine, Rights};

impl AddressSpace {
    /// MADV_DONTNEED and MADV_FREE: private pages show their source again.
    pub fn dont_need<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        first: UserPage,
        end: UserPage,
    ) -> Result<(), Errno> {
        let complete = self.mappings.covers(first, end);
        self.clear(cx, first, end);
        if complete { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// mremap(2): changes the size of the mapping part at `first`, and its place if it must.
    pub fn remap<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        first: UserPage,
        old_pages: u64,
        new_pages: u64,
        to: RemapTo,
    ) -> Result<UserPage, Errno> {
        let old_end = first.0.checked_add(old_pages).filter(|end| *end <= HIGHEST.0).ok_or(Errno::EINVAL)?;
        let new_end = first.0.checked_add(new_pages).filter(|end| *end <= HIGHEST.0).ok_or(Errno::ENOMEM)?;
        if new_pages == 0 || old_pages == 0 {
            return Err(Errno::EINVAL);
        }
        let vma = self.mappings.find(first).ok_or(Errno::EFAULT)?;
        if vma.end.0 < old_end {
            return Err(Errno::EFAULT);
        }
        let whole_tail = vma.end.0 == old_end;
        let mut part = vma.clone();
        part.source = vma.source.advance(first.0 - vma.first.0);
        part.first = first;
        part.end = UserPage(old_end);

        if let RemapTo::Fixed(target) = to {
            let target_end = target.0.checked_add(new_pages).filter(|end| *end <= HIGHEST.0).ok_or(Errno::EINVAL)?;
            if target.0 < old_end && first.0 < target_end {
                return Err(Errno::EINVAL);
            }
            if target < crate::mappings::LOWEST {
                return Err(Errno::EPERM);
            }
            self.unmap(cx, target, UserPage(target_end));
            return self.move_part(cx, part, target, new_pages);
        }
        if new_pages <= old_pages {
            self.unmap(cx, UserPage(new_end), UserPage(old_end));
            return Ok(first);
        }
        if self.mappings.total_pages().saturating_add(new_pages - old_pages) > self.page_limit {
            return Err(Errno::ENOMEM);
        }
        if whole_tail && self.mappings.is_free(UserPage(old_end), UserPage(new_end)) {
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
        self.move_part(cx, part, target, new_pages)
    }

    /// Moves a part of a mapping with its pages to `target`, where it gets `pages` pages.
    fn move_part<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        part: Vma,
        target: UserPage,
        pages: u64,
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
        self.unmap(cx, first, old_end);
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

    /// Makes pages of `first..end` ready for use (MAP_POPULATE, mlock). Stops at the first that cannot be had.
    pub fn populate<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        first: UserPage,
        end: UserPage,
        access: shimos_hal::Access,
    ) -> Result<(), crate::fault::MemoryFault> {
        for page in first.0..end.0 {
            self.resolve(cx, UserPage(page), access)?;
        }
        Ok(())
    }
}

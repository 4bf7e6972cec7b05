//! Copies of an address space, and its end.
use crate::{
    fault::{MemoryFault, read_rights},
    mappings::Mappings,
    page_set::PageSet,
    space::{AddressSpace, Context, Progress, Tracking},
    vma::{Source, Vma, VmaFlags},
};
use alloc::vec::Vec;
use shimos_abi::addr::{Frame, UserPage};
use shimos_hal::{Machine, Rights};

impl AddressSpace {
    /// A copy for fork(2) with page tables of its own. Owned pages are shared until one of both stores to them.
    ///
    /// `cx.tables` are those of the parent. If there is no memory nothing is left behind.
    pub fn fork<M: Machine>(&mut self, cx: &mut Context<'_, M>) -> Result<(AddressSpace, M::Space), MemoryFault> {
        let mut tables = cx.machine.new_space(cx.frames).map_err(|_| MemoryFault::OutOfMemory)?;
        let mut child = AddressSpace {
            mappings: self.inherited().into(),
            brk_start: self.brk_start,
            brk: self.brk,
            mmap_top: self.mmap_top,
            stack_limit: self.stack_limit,
            page_limit: self.page_limit,
            data_limit: self.data_limit,
            tracking: self.tracking,
            ..AddressSpace::default()
        };
        let result = self.copy_pages(cx, &mut child, &mut tables);
        child.count_mapped(cx.objects);
        if let Err(fault) = result {
            while child.destroy_step(&mut cx.with_tables(&mut tables), usize::MAX) == Progress::More {}
            cx.machine.drop_space(tables, cx.frames);
            return Err(fault);
        }
        Ok((child, tables))
    }

    fn inherited(&self) -> Mappings {
        let mut mappings = Mappings::default();
        for vma in self.mappings.iter().filter(|vma| !vma.flags.contains(VmaFlags::DONT_FORK)) {
            // What is locked is locked for the parent alone.
            let flags = vma.flags - VmaFlags::LOCKED - VmaFlags::LOCKED_ON_FAULT;
            mappings.insert(Vma { flags, ..vma.clone() });
        }
        mappings
    }

    fn copy_pages<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        child: &mut AddressSpace,
        tables: &mut M::Space,
    ) -> Result<(), MemoryFault> {
        let mut batch: Vec<(UserPage, Frame, Rights)> = Vec::new();
        for vma in self.mappings.iter() {
            if vma.flags.intersects(VmaFlags::DONT_FORK | VmaFlags::WIPE_ON_FORK) {
                continue;
            }
            let execute = read_rights(vma.prot);
            let mut from = vma.first.0;
            while let Some(chunk) = self.owned.chunk_from(from, vma.end.0) {
                let Some((low, high)) = chunk.bounds() else { break };
                from = high;
                batch.clear();
                cx.machine.update(cx.tables, UserPage(low), UserPage(high), &mut |page, mapping| {
                    if !chunk.contains(page.0) {
                        return Some(mapping.rights);
                    }
                    batch.push((page, mapping.frame, execute));
                    Some(mapping.rights - Rights::WRITE)
                });
                // Noted by runs of 64 pages: one look-up in the set serves for all of a run.
                let mut run = (0, 0);
                let mut outcome = Ok(());
                for (page, frame, rights) in batch.drain(..) {
                    let first = page.0 & !63;
                    if run.0 != first {
                        child.note_copies(run, &self.lent);
                        run = (first, 0);
                    }
                    if cx.machine.map(tables, page, frame, rights, cx.frames).is_err() {
                        outcome = Err(MemoryFault::OutOfMemory);
                        break;
                    }
                    cx.frames.share(frame);
                    run.1 |= 1 << (page.0 & 63);
                }
                child.note_copies(run, &self.lent);
                outcome?;
                for (page, frame) in self.hidden.range(low..high) {
                    cx.frames.share(*frame);
                    child.hidden.insert(*page, *frame);
                    child.note_copy(UserPage(*page), &self.lent);
                }
            }
        }
        Ok(())
    }

    /// Notes pages that were copied: the first of 64, and a bit each.
    fn note_copies(&mut self, (first, bits): (u64, u64), lent: &PageSet) {
        self.owned.insert_window(first, bits);
        if !lent.is_empty() {
            self.lent.insert_window(first, bits & lent.window(first));
        }
        if self.tracking == Tracking::On {
            self.changed.insert_window(first, bits);
        }
    }

    fn note_copy(&mut self, page: UserPage, lent: &PageSet) {
        self.owned.insert(page.0);
        if lent.contains(page.0) {
            self.lent.insert(page.0);
        }
        self.note_change(page);
    }

    /// Takes up to about `pages` pages out of memory, and the mappings when no page is left. After `Done` the owner
    /// drops the page tables.
    pub fn destroy_step<M: Machine>(&mut self, cx: &mut Context<'_, M>, pages: usize) -> Progress {
        let mut gone = Vec::new();
        let mut left = pages;
        while let Some((low, high)) = self.next_run(0, u64::MAX) {
            let high = high.min(low.saturating_add(left as u64));
            self.clear_run(cx, UserPage(low), UserPage(high), &mut gone);
            left = left.saturating_sub((high - low) as usize);
            if left == 0 {
                return Progress::More;
            }
        }
        let mappings = core::mem::take(&mut self.mappings);
        for vma in mappings.iter() {
            if let Source::Object { id, .. } = vma.source {
                cx.objects.sub_mapped(cx.frames, id, vma.pages());
            }
        }
        Progress::Done
    }
}

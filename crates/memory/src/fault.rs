//! Page faults: demand paging, copy-on-write, growth of the stack.
use crate::{
    backing::BackingError,
    mappings::STACK_GUARD,
    objects::ObjectId,
    space::{AddressSpace, Context, Tracking},
    vma::{Area, Prot, Sharing, Source, VmaFlags},
};
use shimos_abi::{
    addr::{Frame, PAGE, UserAddr, UserPage},
    errno::Errno,
};
use shimos_hal::{Access, FrameSource, Machine, Mapping, Rights};

/// Pages mapped along with a faulting one if they cost nothing: an aligned run of this many, at most 64.
pub const AROUND: u64 = 32;

/// How an address is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segv {
    /// Nothing is mapped there (SEGV_MAPERR).
    Unmapped,
    /// The mapping does not allow it (SEGV_ACCERR).
    Protected,
}

/// Why an access to memory cannot be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryFault {
    /// The address is wrong: SIGSEGV, or EFAULT for a system call.
    Segv(Segv),
    /// Behind the end of the object, or it cannot be read: SIGBUS, or EFAULT for a system call.
    Bus,
    /// This block of the disk must be cached first; then try again.
    Missing(u64),
    /// There is no free frame.
    OutOfMemory,
}

impl MemoryFault {
    /// What a system call reports, or the block that it must wait for.
    pub fn errno(self) -> Result<Errno, u64> {
        match self {
            MemoryFault::Segv(_) | MemoryFault::Bus => Ok(Errno::EFAULT),
            MemoryFault::OutOfMemory => Ok(Errno::ENOMEM),
            MemoryFault::Missing(block) => Err(block),
        }
    }
}

impl From<BackingError> for MemoryFault {
    fn from(error: BackingError) -> MemoryFault {
        match error {
            BackingError::Missing(block) => MemoryFault::Missing(block),
            BackingError::End | BackingError::Failed => MemoryFault::Bus,
            BackingError::OutOfMemory => MemoryFault::OutOfMemory,
        }
    }
}

/// The rights to read a page of this area (stores come with a fault of their own).
pub(crate) fn read_rights(prot: Prot) -> Rights {
    if prot.contains(Prot::EXECUTE) { Rights::EXECUTE } else { Rights::empty() }
}

impl AddressSpace {
    /// Makes an access possible that the page tables did not allow: maps the page or copies it.
    pub fn fault<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        addr: UserAddr,
        access: Access,
    ) -> Result<(), MemoryFault> {
        let page = addr.page().ok_or(MemoryFault::Segv(Segv::Unmapped))?;
        self.resolve(cx, page, access).map(|_| ())
    }

    /// The frame behind a page, mapped so that `access` works.
    pub(crate) fn resolve<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        page: UserPage,
        access: Access,
    ) -> Result<Frame, MemoryFault> {
        let area = match self.mappings.area(page) {
            Some(area) => area,
            None => self.grow_stack(page)?,
        };
        let allowed = match access {
            Access::Read => !area.prot.is_empty(),
            Access::Write => area.prot.contains(Prot::WRITE),
            Access::Execute => area.prot.contains(Prot::EXECUTE),
        };
        if !allowed {
            return Err(MemoryFault::Segv(Segv::Protected));
        }
        self.reveal(cx, page, area)?;
        let present = cx.machine.lookup(cx.tables, page);
        // A fresh page in its place would be a wrong one.
        assert!(
            present.is_some() || !self.owned.contains(page.0),
            "page tables were overwritten: {page:?} is not there"
        );
        match (present, access == Access::Write) {
            (Some(mapping), true) if mapping.rights.contains(Rights::WRITE) => Ok(mapping.frame),
            (present, true) if area.sharing == Sharing::Shared => self.write_shared(cx, page, area, present),
            (Some(mapping), true) => self.write_private(cx, page, area, mapping),
            (Some(mapping), false) => {
                let rights = read_rights(area.prot) | (mapping.rights & Rights::WRITE);
                if rights != mapping.rights {
                    self.map_page(cx, page, mapping.frame, rights)?;
                }
                Ok(mapping.frame)
            }
            (None, true) => self.first_write(cx, page, area),
            (None, false) => self.first_read(cx, page, area),
        }
    }

    /// Maps a page again that was kept aside while its mapping allowed nothing.
    fn reveal<M: Machine>(&mut self, cx: &mut Context<'_, M>, page: UserPage, area: Area) -> Result<(), MemoryFault> {
        if self.hidden.is_empty() {
            return Ok(());
        }
        if let Some(frame) = self.hidden.get(&page.0).copied() {
            self.map_page(cx, page, frame, read_rights(area.prot))?;
            self.hidden.remove(&page.0);
        }
        Ok(())
    }

    /// A store to a page of a private mapping that is mapped read-only.
    fn write_private<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        page: UserPage,
        area: Area,
        mapping: Mapping,
    ) -> Result<Frame, MemoryFault> {
        let rights = read_rights(area.prot) | Rights::WRITE;
        if !self.owned.contains(page.0) {
            let new = self.own_copy(cx, page, Some(mapping.frame), rights)?;
            cx.frames.release(mapping.frame);
            return Ok(new);
        }
        if cx.frames.exclusive(mapping.frame) {
            self.map_page(cx, page, mapping.frame, rights)?;
            self.note_change(page);
            return Ok(mapping.frame);
        }
        let new = self.map_copy(cx, page, Some(mapping.frame), rights)?;
        self.note_change(page);
        cx.frames.release(mapping.frame);
        Ok(new)
    }

    /// A store to a page of a shared mapping.
    fn write_shared<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        page: UserPage,
        area: Area,
        present: Option<Mapping>,
    ) -> Result<Frame, MemoryFault> {
        let Source::Object { id, first: index } = area.source else {
            // Shared mappings of other sources never allow stores.
            return Err(MemoryFault::Segv(Segv::Protected));
        };
        let frame = cx.objects.page_for_write(cx.machine, cx.frames, cx.backing, id, index)?;
        self.map_page(cx, page, frame, read_rights(area.prot) | Rights::WRITE)?;
        if present.map(|mapping| mapping.frame) != Some(frame) {
            cx.frames.share(frame);
            if let Some(old) = present {
                cx.frames.release(old.frame);
            }
        }
        self.borrowed.insert(page.0);
        self.shared_writable.insert(page.0);
        Ok(frame)
    }

    /// A store to a page of a private mapping that is not mapped yet.
    fn first_write<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        page: UserPage,
        area: Area,
    ) -> Result<Frame, MemoryFault> {
        let shown = self.shown(cx, area)?;
        self.own_copy(cx, page, shown, read_rights(area.prot) | Rights::WRITE)
    }

    /// A load or fetch from a page that is not mapped yet.
    fn first_read<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        page: UserPage,
        area: Area,
    ) -> Result<Frame, MemoryFault> {
        let frame = match self.shown(cx, area)? {
            Some(frame) => frame,
            None => cx.frames.zero_frame(cx.machine).ok_or(MemoryFault::OutOfMemory)?,
        };
        self.borrow_page(cx, page, frame, area)?;
        if let Source::Image { nid, first } = area.source {
            self.map_around(cx, page, area, nid, first);
        }
        Ok(frame)
    }

    fn borrow_page<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        page: UserPage,
        frame: Frame,
        area: Area,
    ) -> Result<(), MemoryFault> {
        self.map_page(cx, page, frame, read_rights(area.prot))?;
        cx.frames.share(frame);
        self.borrowed.insert(page.0);
        Ok(())
    }

    /// Maps the neighbours of a page of a file that are cached.
    fn map_around<M: Machine>(&mut self, cx: &mut Context<'_, M>, page: UserPage, area: Area, nid: u64, index: u64) {
        let low = (page.0 - page.0 % AROUND).max(area.first.0);
        let high = (page.0 - page.0 % AROUND + AROUND).min(area.end.0);
        let mut frames = [None; AROUND as usize];
        let Some(frames) = frames.get_mut(..high.saturating_sub(low) as usize) else { return };
        // The mapping starts at or below `low`, so its file page is never below 0.
        cx.backing.cached_run(cx.machine, nid, index.wrapping_add(low).wrapping_sub(page.0), frames);
        let taken = self.owned.window(low) | self.borrowed.window(low);
        let mut mapped = 0;
        for (at, frame) in frames.iter_mut().enumerate() {
            if (taken >> at) & 1 != 0 {
                *frame = None;
            }
            mapped |= u64::from(frame.is_some()) << at;
        }
        if cx.machine.map_run(cx.tables, UserPage(low), frames, read_rights(area.prot), cx.frames).is_err() {
            return;
        }
        for frame in frames.iter().flatten() {
            cx.frames.share(*frame);
        }
        self.borrowed.insert_window(low, mapped);
    }

    /// The frame that a page shows before the program stores to it; `None` for zeros.
    fn shown<M: Machine>(&mut self, cx: &mut Context<'_, M>, area: Area) -> Result<Option<Frame>, MemoryFault> {
        match area.source {
            Source::Anonymous => Ok(None),
            Source::Object { id, first } => cx.objects.page_for_read(cx.machine, cx.frames, cx.backing, id, first),
            Source::Image { nid, first } => Ok(Some(cx.backing.page(cx.machine, cx.frames, nid, first)?)),
        }
    }

    /// Gives the page a frame of its own with the content of `source`.
    fn own_copy<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        page: UserPage,
        source: Option<Frame>,
        rights: Rights,
    ) -> Result<Frame, MemoryFault> {
        let new = self.map_copy(cx, page, source, rights)?;
        self.owned.insert(page.0);
        if !self.borrowed.is_empty() {
            self.borrowed.remove(page.0);
        }
        self.note_change(page);
        Ok(new)
    }

    /// Maps the page to a new frame with the content of `source`.
    fn map_copy<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        page: UserPage,
        source: Option<Frame>,
        rights: Rights,
    ) -> Result<Frame, MemoryFault> {
        let new = cx.frames.take().ok_or(MemoryFault::OutOfMemory)?;
        match source {
            Some(source) if Some(source) != cx.frames.zero_frame(cx.machine) => cx.machine.copy_frame(source, new),
            _ => cx.machine.zero_frame(new),
        }
        if let Err(fault) = self.map_page(cx, page, new, rights) {
            cx.frames.release(new);
            return Err(fault);
        }
        if !self.lent.is_empty() {
            self.lent.remove(page.0);
        }
        Ok(new)
    }

    pub(crate) fn map_page<M: Machine>(
        &mut self,
        cx: &mut Context<'_, M>,
        page: UserPage,
        frame: Frame,
        rights: Rights,
    ) -> Result<(), MemoryFault> {
        cx.machine.map(cx.tables, page, frame, rights, cx.frames).map_err(|_| MemoryFault::OutOfMemory)
    }

    /// Remembers that the image of this page is out of date.
    pub(crate) fn note_change(&mut self, page: UserPage) {
        if self.tracking == Tracking::On {
            self.changed.insert(page.0);
        }
    }

    /// Lets the mapping above `page` grow down to it, if it is a stack with room.
    fn grow_stack(&mut self, page: UserPage) -> Result<Area, MemoryFault> {
        let wrong = MemoryFault::Segv(Segv::Unmapped);
        let above = self.mappings.find_from(page).ok_or(wrong)?;
        let (first, end, shared) = (above.first, above.end, above.sharing == Sharing::Shared);
        let too_large = (end.0 - page.0).saturating_mul(PAGE as u64) > self.stack_limit;
        if !above.flags.contains(VmaFlags::GROWS_DOWN) || shared || too_large {
            return Err(wrong);
        }
        let room = match self.mappings.below(page) {
            // Where nothing can be reached there is nothing to run into.
            Some(below) if below.prot.is_empty() => page >= below.end,
            Some(below) => page.0.saturating_sub(below.end.0) >= STACK_GUARD,
            None => page >= crate::mappings::LOWEST,
        };
        if !room {
            return Err(wrong);
        }
        let (prot, flags) = (above.prot, above.flags);
        if self.check_growth(first.0.saturating_sub(page.0), 0, (prot, Sharing::Private, flags)).is_err() {
            return Err(wrong);
        }
        self.mappings.grow_down(first, page);
        self.mappings.area(page).ok_or(wrong)
    }

    /// Unmaps pages whose object shows another frame now.
    pub fn drop_stale<M: Machine>(&mut self, cx: &mut Context<'_, M>, stale: &[crate::objects::Stale]) {
        for entry in stale {
            for (first, end) in self.mappings.places_of(entry.object, entry.first, entry.end) {
                if entry.end == u64::MAX {
                    // Cut off: copies that a private mapping has made go as well (truncate(2)).
                    self.clear(cx, first, end);
                    continue;
                }
                let mut from = first.0;
                while let Some(page) = self.borrowed.first_from(from).filter(|page| *page < end.0) {
                    self.drop_if_stale(cx, entry.object, UserPage(page));
                    from = page + 1;
                }
            }
        }
    }

    fn drop_if_stale<M: Machine>(&mut self, cx: &mut Context<'_, M>, object: ObjectId, page: UserPage) {
        let Some(Source::Object { first: index, .. }) = self.mappings.area(page).map(|area| area.source) else {
            return;
        };
        let Some(mapping) = cx.machine.lookup(cx.tables, page) else { return };
        if cx.objects.shows(object, index, mapping.frame) {
            return;
        }
        cx.machine.unmap(cx.tables, page);
        cx.frames.release(mapping.frame);
        self.borrowed.remove(page.0);
        self.shared_writable.remove(page.0);
    }
}

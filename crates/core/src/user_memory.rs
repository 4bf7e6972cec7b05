//! The memory of programs as the kernel works on it: address spaces with all that belongs to them.
use crate::{
    blocks::Files,
    context::{Context, Stop},
    pending::{Lost, PendingPages, Place, Way},
    pressure,
    process::SpaceId,
    resident::Resident,
    services::Services,
    syscall,
};
use alloc::vec::Vec;
use shimos_abi::{
    addr::{PAGE, UserAddr, UserPage},
    errno::Errno,
    ids::Pid,
};
use shimos_hal::{Access, Machine};
use shimos_memory::{AROUND, AddressSpace, Adopted, Bytes, Frames, MemoryFault, ObjectId, PageSet, Progress, space};

impl<M: Machine> Services<M> {
    /// The memory of one address space, for system calls.
    pub fn memory<'a>(&'a mut self, resident: &'a mut Resident<M>, space: SpaceId) -> Result<UserMemory<'a, M>, Stop> {
        Ok(UserMemory {
            id: space,
            adopted: resident.guard.adopted(),
            pending: &mut resident.pending,
            space: resident.program.spaces.get_mut(&space).ok_or(Errno::ESRCH)?,
            tables: resident.tables.get_mut(&space).ok_or(Errno::ESRCH)?,
            objects: &mut resident.program.objects,
            machine: &mut self.machine,
            frames: &mut self.frames,
            files: Files { cache: &mut self.blocks, image: resident.program.tree.image() },
        })
    }

    /// A copy of an address space for fork(2).
    pub fn fork_space(&mut self, resident: &mut Resident<M>, from: SpaceId) -> Result<SpaceId, Stop> {
        let mut memory = self.memory(resident, from)?;
        let (space, tables) = memory.with(|space, cx| space.fork(cx))?;
        let id = SpaceId(resident.program.fresh_id());
        resident.program.spaces.insert(id, space);
        resident.tables.insert(id, tables);
        Ok(id)
    }

    /// A process leaves an address space; it ends if no other process uses it.
    pub fn drop_space_of(&mut self, resident: &mut Resident<M>, space: SpaceId, pid: Pid) {
        let peak = resident.program.peak_of(pid);
        if let Some(process) = resident.program.processes.get_mut(&pid) {
            process.peak = peak;
        }
        let shared =
            resident.program.processes.values().any(|p| p.pid != pid && p.space == space && p.zombie.is_none());
        if !shared {
            let now = (self.machine.wall_clock() / 1_000_000_000) as i64;
            syscall::leave_segments(resident, space, pid, now);
            self.drop_space(resident, space);
        }
    }

    /// Ends an address space.
    pub fn drop_space(&mut self, resident: &mut Resident<M>, space: SpaceId) {
        resident.pending.forget(space);
        pressure::leave(resident, self, space);
        resident.guard.ended_spaces.push(space);
    }

    /// Settles what calls and faults have left behind: mappings of object pages that were replaced, contents of files that
    /// no name or descriptor needs any more.
    #[inline]
    pub fn settle(&mut self, resident: &mut Resident<M>) {
        if resident.program.tree.has_gone() {
            resident.notice_gone();
        }
        if resident.program.tree.has_released_objects() {
            for object in resident.program.tree.take_released_objects() {
                resident.program.objects.release(&mut self.frames, crate::content::object(object));
            }
        }
        if resident.program.objects.has_stale() {
            self.drop_stale(resident);
        }
    }

    fn drop_stale(&mut self, resident: &mut Resident<M>) {
        let stale = resident.program.objects.take_stale();
        // Private copies go only where an object was cut off; all else are pages of the object.
        let private = stale.iter().any(|stale| stale.end == u64::MAX);
        let spaces: Vec<SpaceId> = resident.program.spaces.keys().copied().collect();
        for space in spaces {
            if let Ok(mut memory) = self.memory(resident, space) {
                let work = |space: &mut AddressSpace, cx: &mut space::Context<'_, M>| space.drop_stale(cx, &stale);
                if private { memory.with(work) } else { memory.with_mappings(work) }
            }
        }
    }
}

/// One address space with everything that work on it needs.
///
/// Pages that are still only in the image that the program came from are mapped before anything else looks at them.
pub struct UserMemory<'a, M: Machine> {
    id: SpaceId,
    adopted: Adopted,
    pending: &'a mut PendingPages,
    space: &'a mut AddressSpace,
    tables: &'a mut M::Space,
    objects: &'a mut shimos_memory::Objects,
    machine: &'a mut M,
    frames: &'a mut Frames,
    files: Files<'a>,
}

impl<M: Machine> UserMemory<'_, M> {
    /// Works on the address space as a whole: all its pages are mapped first.
    pub fn with<T>(&mut self, work: impl FnOnce(&mut AddressSpace, &mut space::Context<'_, M>) -> T) -> T {
        while matches!(self.map_pending(usize::MAX), Ok(Progress::More)) {}
        self.with_mapped(work)
    }
    /// Works on some pages of the address space: these are mapped first.
    pub fn within<T>(
        &mut self,
        (first, end): (UserPage, UserPage),
        work: impl FnOnce(&mut AddressSpace, &mut space::Context<'_, M>) -> T,
    ) -> T {
        // What is lost is noted, and ends the program.
        let _ = self.map_range((first, end), usize::MAX);
        self.with_mapped(work)
    }
    /// Works on the mappings alone, or on pages that are no private ones: none needs to be mapped for that.
    pub fn with_mappings<T>(&mut self, work: impl FnOnce(&mut AddressSpace, &mut space::Context<'_, M>) -> T) -> T {
        self.with_mapped(work)
    }
    /// Maps up to `most` pages that are still only in the image.
    pub fn map_pending(&mut self, most: usize) -> Result<Progress, Lost> {
        self.take_pending((most, Way::Map), &mut PageSet::new())
    }
    /// Copies up to `most` pages here that are still only in the image. Those that were copied are added to `brought`.
    pub fn bring_pending(&mut self, most: usize, brought: &mut PageSet) -> Result<Progress, Lost> {
        self.take_pending((most, Way::Bring), brought)
    }
    fn take_pending(&mut self, way: (usize, Way), brought: &mut PageSet) -> Result<Progress, Lost> {
        if self.pending.is_empty() {
            return Ok(Progress::Done);
        }
        let id = self.id;
        let (mut place, pending) = self.place();
        pending.step(&mut place, id, way, brought)
    }
    /// Maps up to `most` of some pages that are still only in the image.
    pub fn map_range(&mut self, (first, end): (UserPage, UserPage), most: usize) -> Result<Progress, Lost> {
        if self.pending.is_empty() || first >= end {
            return Ok(Progress::Done);
        }
        let id = self.id;
        let (mut place, pending) = self.place();
        pending.touch(&mut place, id, (first.0, end.0), most)
    }
    /// Maps what is still only in the image of the pages that an access can map: those that it touches and, where they show a
    /// file, their neighbours. A neighbour's content of its own must not be hidden by the file's.
    fn touch(&mut self, addr: UserAddr, len: usize) -> Result<(), MemoryFault> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let last = addr.0.saturating_add(len.max(1) as u64 - 1);
        let (first, end) = (UserPage(addr.0 / PAGE as u64), UserPage(last / PAGE as u64 + 1));
        self.map_range(with_neighbours(first, end), usize::MAX)?;
        Ok(())
    }
    fn place(&mut self) -> (Place<'_, M>, &mut PendingPages) {
        let place = Place {
            machine: self.machine,
            frames: self.frames,
            space: self.space,
            tables: self.tables,
            adopted: self.adopted,
        };
        (place, self.pending)
    }
    fn with_mapped<T>(&mut self, work: impl FnOnce(&mut AddressSpace, &mut space::Context<'_, M>) -> T) -> T {
        let mut cx = space::Context {
            machine: self.machine,
            frames: self.frames,
            objects: self.objects,
            backing: &mut self.files,
            tables: self.tables,
        };
        work(self.space, &mut cx)
    }
    /// Fills `into` from the program's memory.
    pub fn read(&mut self, addr: UserAddr, into: &mut [u8]) -> Result<(), MemoryFault> {
        self.touch(addr, into.len())?;
        self.with_mapped(|space, cx| space.read(cx, addr, into)).map_err(MemoryFault::from)
    }
    /// Copies `from` to the program's memory.
    pub fn write(&mut self, addr: UserAddr, from: &[u8]) -> Result<(), MemoryFault> {
        self.touch(addr, from.len())?;
        self.with_mapped(|space, cx| space.write(cx, addr, from)).map_err(MemoryFault::from)
    }
    /// Copies from a file to the program's memory; see [`AddressSpace::take_from_file`].
    pub fn take_from_file(
        &mut self,
        addr: UserAddr,
        len: usize,
        file: Bytes,
        offset: u64,
    ) -> Result<usize, MemoryFault> {
        self.touch(addr, len)?;
        self.with_mapped(|space, cx| space.take_from_file(cx, addr, len, file, offset))
    }
    /// Copies from the program's memory to an object; see [`AddressSpace::put_into_object`].
    pub fn put_into_object(
        &mut self,
        addr: UserAddr,
        len: usize,
        object: ObjectId,
        offset: u64,
    ) -> Result<usize, MemoryFault> {
        self.touch(addr, len)?;
        self.with_mapped(|space, cx| space.put_into_object(cx, addr, len, object, offset))
    }
    /// Makes sure that a copy to the program's memory will not fail.
    pub fn prepare(&mut self, addr: UserAddr, len: usize, access: Access) -> Result<(), MemoryFault> {
        self.touch(addr, len)?;
        self.with_mapped(|space, cx| space.prepare(cx, addr, len, access)).map_err(MemoryFault::from)
    }
    /// Makes an access possible.
    pub fn fault(&mut self, addr: UserAddr, access: Access) -> Result<(), MemoryFault> {
        self.touch(addr, 1)?;
        let complete = self.pending.is_empty();
        self.with_mapped(|space, cx| {
            space.fault(cx, addr, access)?;
            if access == Access::Write
                && complete
                && let Some(page) = addr.page()
            {
                space.make_ready_ahead(cx, page);
            }
            Ok(())
        })
    }
}

/// All pages that may be mapped when some are accessed.
pub(crate) fn with_neighbours(first: UserPage, end: UserPage) -> (UserPage, UserPage) {
    (UserPage(first.0 - first.0 % AROUND), UserPage(end.0.next_multiple_of(AROUND)))
}

impl<M: Machine> Context<'_, M> {
    /// Makes sure that a later copy to the caller's memory will not fail.
    pub fn probe_writable(&mut self, addr: u64, count: usize) -> Result<(), Stop> {
        let space = self.process()?.space;
        Ok(self.services.memory(self.resident, space)?.prepare(UserAddr(addr), count, Access::Write)?)
    }
}

#[cfg(test)]
mod tests {
    use super::{AROUND, UserPage, with_neighbours};

    /// A read of a file's page maps the cached pages around it: what the image holds of these must be mapped before.
    #[test]
    fn neighbours_are_all_that_a_fault_can_map() {
        for (first, end) in [(0, 1), (AROUND - 1, AROUND), (AROUND - 1, AROUND + 1), (5 * AROUND + 7, 5 * AROUND + 8)] {
            let (low, high) = with_neighbours(UserPage(first), UserPage(end));
            assert_eq!(low.0, first / AROUND * AROUND, "{first}..{end}");
            assert_eq!(high.0, ((end - 1) / AROUND + 1) * AROUND, "{first}..{end}");
        }
    }
}

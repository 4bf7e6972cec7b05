//! What the kernel offers to all its programs: memory, the block cache, packets to other kernels, the log.
use crate::{
    accounting::Running,
    blocks::{BlockCache, BlockReader, Files},
    context::{Context, Stop},
    device::{console::ConsoleOwner, disk::DiskOwner},
    event::{Event, EventId, watches::Watch},
    files::{DescriptionId, FilesId, Kind},
    jobs,
    locks::Cut,
    pending::{Lost, PendingPages, Place},
    pressure,
    process::SpaceId,
    resident::{Key, Resident},
    sampling::Sampling,
    signal::Signal,
    syscall,
    timers::TimerRef,
};
use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    format,
    vec::Vec,
};
use shimos_abi::{
    addr::{PAGE, UserAddr},
    control::Device,
    errno::Errno,
    ids::{KernelId, Pid, ProgramId},
    shared::Queue,
};
use shimos_hal::{Access, Machine};
use shimos_ikc::{Endpoint, Notify, SendError};
use shimos_memory::{AROUND, AddressSpace, Bytes, Frames, MemoryFault, ObjectId, Progress, space};
use shimos_vfs::Image;

/// A control request that a program has written to /dev/shimos.
#[derive(Debug)]
pub struct ControlRequest {
    /// Its number, unique in this kernel's life and beyond.
    pub number: u64,
    /// The program that asks.
    pub program: ProgramId,
    /// The request, undecoded.
    pub bytes: Vec<u8>,
}

/// The services.
pub struct Services<M: Machine> {
    /// The machine.
    pub machine: M,
    /// The frames of the pool.
    pub frames: Frames,
    /// The block cache.
    pub blocks: BlockCache,
    /// The machine's own root image, once its head was read.
    pub image: Option<Image>,
    /// The queues to the other kernels.
    pub ikc: Endpoint,
    /// Control requests that wait to be worked on.
    pub requests: VecDeque<ControlRequest>,
    /// Answers to control requests, by number.
    pub answers: BTreeMap<u64, Vec<u8>>,
    /// Ethernet frames for programs that live here.
    pub inbound: VecDeque<Vec<u8>>,
    /// The console, if this kernel drives it.
    pub console: Option<ConsoleOwner>,
    /// The disk, if this kernel drives it.
    pub disk: Option<DiskOwner>,
    /// The network card is driven here.
    pub network: Option<crate::device::network::NetworkOwner>,
    /// Console packets that found the queue full.
    pub unsent_console: VecDeque<Vec<u8>>,
    /// The image that tells programs the time, if the machine's clock allows it.
    pub vdso: Option<Vec<u8>>,
    /// The thread whose vector registers are loaded; its copy in memory is out of date.
    pub loaded: Option<Pid>,
    /// When time in the kernel is measured.
    pub sampling: Sampling,
    /// The thread whose turn it is.
    pub running: Option<Running>,
    /// A program that found no memory, or the heap full: the event loop does something about it.
    pub starved: Option<ProgramId>,
    next_request: u64,
    unknown_calls: BTreeSet<u64>,
    random: u64,
}

impl<M: Machine> Services<M> {
    /// The services of a kernel that has just started.
    pub fn new(mut machine: M, frames: Frames, ikc: Endpoint) -> Services<M> {
        let random = machine.random();
        let vdso = machine.user_clock().map(crate::vdso::image);
        let life = machine.identity().life;
        Services {
            machine,
            frames,
            blocks: BlockCache::default(),
            image: None,
            ikc,
            requests: VecDeque::new(),
            answers: BTreeMap::new(),
            inbound: VecDeque::new(),
            console: None,
            disk: None,
            network: None,
            unsent_console: VecDeque::new(),
            vdso,
            loaded: None,
            sampling: Sampling::default(),
            running: None,
            starved: None,
            next_request: u64::from(life.kernel.0) << 48 | u64::from(life.incarnation.0) << 24,
            unknown_calls: BTreeSet::new(),
            random,
        }
    }

    /// Forgets the loaded vector registers if they are this thread's: it is no more, or has others now.
    pub fn forget_registers(&mut self, tid: Pid) {
        if self.loaded == Some(tid) {
            self.loaded = None;
            self.machine.forget_live();
        }
    }

    /// Whether calls have left something for the event loop to do.
    pub fn has_work(&self) -> bool {
        !self.requests.is_empty()
            || self.starved.is_some()
            || !self.inbound.is_empty()
            || !self.unsent_console.is_empty()
            || self.blocks.has_wanted()
            || self.console.as_ref().is_some_and(ConsoleOwner::is_busy)
    }

    /// A fresh number for a control request.
    pub fn fresh_request(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }

    /// What all request numbers of this life of this kernel share, above their low 24 bits.
    pub fn request_era(&self) -> u64 {
        self.next_request >> 24
    }

    /// Sends a packet; rings the peer if it sleeps.
    pub fn send(&mut self, to: KernelId, queue: Queue, parts: &[&[u8]]) -> Result<(), SendError> {
        if self.ikc.send(to, queue, parts)? == Notify::Interrupt {
            self.machine.notify(to);
        }
        Ok(())
    }

    /// The kernel that drives a device.
    pub fn owner(&self, device: Device) -> Option<KernelId> {
        self.ikc.area().owner(device).map(|life| life.kernel)
    }

    /// Whether this kernel drives a device.
    pub fn owns(&self, device: Device) -> bool {
        self.ikc.area().owner(device) == Some(self.machine.identity().life)
    }

    /// Writes a line to the kernel's log and to the console.
    pub fn log(&mut self, text: &str) {
        let kernel = self.machine.identity().life.kernel;
        self.ikc.log(format!("{} {text}\n", self.machine.now()).as_bytes());
        let line = format!("[{kernel}] {text}\n");
        crate::device::console::kernel_line(self, &line);
    }

    /// Notes a call that is not implemented, once for each number.
    pub fn log_unknown_call(&mut self, number: u64) {
        if self.unknown_calls.len() < 512 && self.unknown_calls.insert(number) {
            self.log(&format!("system call {number} is not implemented: ENOSYS"));
        }
    }

    /// Notes that a signal has ended a process, where that is a fault of the program.
    pub fn log_killed(&mut self, resident: &Resident<M>, pid: Pid, signal: Signal) {
        if [Signal::SEGV, Signal::BUS, Signal::ILL, Signal::FPE].contains(&signal)
            && let Some(process) = resident.program.processes.get(&pid)
        {
            let rip = resident.program.threads.get(&pid).map_or(0, |thread| thread.regs.rip);
            self.log(&format!("{}[{pid}] ended by signal {} at {rip:#x}", process.comm, signal.number()));
        }
    }

    /// The memory of one address space, for system calls.
    pub fn memory<'a>(&'a mut self, resident: &'a mut Resident<M>, space: SpaceId) -> Result<UserMemory<'a, M>, Stop> {
        Ok(UserMemory {
            id: space,
            pending: &mut resident.pending,
            space: resident.program.spaces.get_mut(&space).ok_or(Errno::ESRCH)?,
            tables: resident.tables.get_mut(&space).ok_or(Errno::ESRCH)?,
            objects: &mut resident.program.objects,
            machine: &mut self.machine,
            frames: &mut self.frames,
            files: Files { cache: &mut self.blocks, image: resident.program.tree.image() },
        })
    }

    /// A reader of disk blocks.
    pub fn block_reader(&mut self) -> BlockReader<'_, M> {
        BlockReader { cache: &mut self.blocks, machine: &self.machine }
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

    /// A process gives its descriptor table up; its descriptors are closed if no other process uses it.
    pub fn drop_table(&mut self, resident: &mut Resident<M>, files: FilesId) {
        let Some(table) = resident.program.tables.get_mut(&files) else { return };
        table.users = table.users.saturating_sub(1);
        if table.users > 0 {
            return;
        }
        let descriptors: Vec<DescriptionId> = table.iter().map(|(_, descriptor)| descriptor.description).collect();
        if descriptors.len() > pressure::FEW_DESCRIPTORS {
            // It stays, without users, until all of it is closed.
            resident.closing.push(files);
            return;
        }
        resident.program.tables.remove(&files);
        for description in descriptors {
            self.release_description(resident, description);
        }
    }

    /// A reference to a description is given up; with the last one what it is open on is closed.
    pub fn release_description(&mut self, resident: &mut Resident<M>, id: DescriptionId) {
        // Messages of a closed socket hold references as well; they are given up in turn, not one within the other.
        let mut open = Vec::from([id]);
        let sockets = matches!(resident.program.descriptions.get(&id).map(|found| &found.kind), Some(Kind::Unix(_)));
        while let Some(id) = open.pop() {
            open.extend(self.release_one(resident, id));
        }
        if sockets {
            // What was closed may have been the last way to sockets that lie in each other's queues.
            let dead = syscall::unreachable_rights(resident);
            for id in syscall::drop_rights(resident, &dead) {
                open.push(id);
                while let Some(id) = open.pop() {
                    open.extend(self.release_one(resident, id));
                }
            }
        }
    }

    /// Gives up one reference; returns more that are to be given up.
    fn release_one(&mut self, resident: &mut Resident<M>, id: DescriptionId) -> Vec<DescriptionId> {
        let Some(description) = resident.program.descriptions.get_mut(&id) else { return Vec::new() };
        description.references = description.references.saturating_sub(1);
        if description.references > 0 {
            return Vec::new();
        }
        let Some(description) = resident.program.descriptions.remove(&id) else { return Vec::new() };
        for watch in resident.watches.of_description(id) {
            resident.watches.remove(watch);
            if let Some(Event::Epoll(epoll)) = resident.program.events.get_mut(&watch.epoll) {
                epoll.remove(watch.target);
            }
        }
        if resident.program.locks.forget_description(id) == Cut::Some {
            resident.wake(Key::Lock);
        }
        if description.flags & syscall::ASYNC != 0 {
            resident.hearers.forget(id);
        }
        resident.notice_closed(&description);
        if let Some(node) = description.kind.node() {
            resident.program.tree.unpin(node);
            if resident.program.tree.is_gone(node) {
                resident.program.seals.remove(&node);
            }
        }
        match description.kind {
            Kind::PipeReader(pipe) | Kind::PipeWriter(pipe) | Kind::PipeBoth(pipe) => {
                if let Some(state) = resident.program.pipes.get_mut(&pipe) {
                    if !matches!(description.kind, Kind::PipeWriter(_)) {
                        state.readers = state.readers.saturating_sub(1);
                    }
                    if !matches!(description.kind, Kind::PipeReader(_)) {
                        state.writers = state.writers.saturating_sub(1);
                    }
                    if state.readers == 0 && state.writers == 0 {
                        resident.program.forget_pipe(pipe);
                    }
                }
                resident.wake(Key::Pipe(pipe));
            }
            Kind::Queue(queue) => syscall::queue_closed(&mut resident.program, queue),
            Kind::Socket(socket) => {
                let now = self.machine.now();
                let _ = resident.program.net.close(now, socket);
            }
            Kind::Event(_, event) => end_event(resident, event),
            Kind::Master(_, pair) => jobs::master_closed(resident, pair),
            Kind::Slave { pair, .. } => jobs::slave_closed(resident, pair),
            Kind::Unix(socket) => return syscall::unix_closed(resident, socket),
            Kind::Netlink(socket) => {
                resident.program.netlink.remove(&socket);
            }
            _ => {}
        }
        Vec::new()
    }

    /// Random bytes for programs.
    pub fn random_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            // Each word mixes fresh machine randomness into the running state (splitmix64's finaliser).
            self.random = self.random.wrapping_add(self.machine.random() | 1);
            let mut z = self.random;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        bytes.truncate(count);
        bytes
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
        let spaces: Vec<SpaceId> = resident.program.spaces.keys().copied().collect();
        for space in spaces {
            if let Ok(mut memory) = self.memory(resident, space) {
                memory.with(|space, cx| space.drop_stale(cx, &stale));
            }
        }
    }
}

/// The last descriptor of an event object is closed.
fn end_event<M: Machine>(resident: &mut Resident<M>, id: EventId) {
    match resident.program.events.remove(&id) {
        Some(Event::Epoll(epoll)) => {
            for (target, _) in epoll.items() {
                resident.watches.remove(Watch { epoll: id, target });
            }
        }
        Some(Event::Files(inotify)) => {
            for (watch, file) in inotify.watches() {
                resident.file_watches.remove(file.node, id, watch);
            }
        }
        Some(Event::Timer(_)) => resident.timers.set(TimerRef::Descriptor(id), None),
        _ => {}
    }
    resident.wake(Key::Event(id));
}

/// One address space with everything that work on it needs.
///
/// Pages that are still only in the image that the program came from are mapped before anything else looks at them.
pub struct UserMemory<'a, M: Machine> {
    id: SpaceId,
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
    /// Maps up to `most` pages that are still only in the image.
    pub fn map_pending(&mut self, most: usize) -> Result<Progress, Lost> {
        if self.pending.is_empty() {
            return Ok(Progress::Done);
        }
        let mut place = Place { machine: self.machine, frames: self.frames, space: self.space, tables: self.tables };
        self.pending.step(&mut place, self.id, most)
    }
    /// Maps what is still only in the image of the pages that an access can map: those that it touches and, where they show a
    /// file, their neighbours. A neighbour's content of its own must not be hidden by the file's.
    fn touch(&mut self, addr: UserAddr, len: usize) -> Result<(), MemoryFault> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let (addr, len) = with_neighbours(addr, len);
        let mut place = Place { machine: self.machine, frames: self.frames, space: self.space, tables: self.tables };
        Ok(self.pending.touch(&mut place, self.id, addr, len)?)
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

/// The bytes of all pages that may be mapped when `len` bytes at `addr` are accessed.
fn with_neighbours(addr: UserAddr, len: usize) -> (UserAddr, usize) {
    const WINDOW: u64 = AROUND * PAGE as u64;
    let first = addr.0 - addr.0 % WINDOW;
    let last = addr.0.saturating_add(len.max(1) as u64 - 1);
    let end = last.saturating_add(WINDOW - last % WINDOW);
    (UserAddr(first), (end - first) as usize)
}

impl<M: Machine> Context<'_, M> {
    /// Gives a reference to a description up.
    pub fn release_description(&mut self, id: DescriptionId) {
        self.services.release_description(self.resident, id);
    }
    /// Random bytes.
    pub fn random_bytes(&mut self, count: usize) -> Vec<u8> {
        self.services.random_bytes(count)
    }
    /// Makes sure that a later copy to the caller's memory will not fail.
    pub fn probe_writable(&mut self, addr: u64, count: usize) -> Result<(), Stop> {
        let space = self.process()?.space;
        Ok(self.services.memory(self.resident, space)?.prepare(UserAddr(addr), count, Access::Write)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A read of a file's page maps the cached pages around it: what the image holds of these must be mapped before.
    #[test]
    fn neighbours_are_all_that_a_fault_can_map() {
        let window = AROUND * PAGE as u64;
        for (addr, len) in [(0, 1), (window - 1, 1), (window - 1, 2), (5 * window + 77, 0), (window / 2, 3 * PAGE)] {
            let (first, all) = with_neighbours(UserAddr(addr), len);
            let last = addr + (len.max(1) as u64 - 1);
            assert_eq!(first.0, addr / window * window, "{addr:#x}, {len}");
            assert_eq!(first.0 + all as u64, (last / window + 1) * window, "{addr:#x}, {len}");
        }
        let (_, len) = with_neighbours(UserAddr(u64::MAX - 5), usize::MAX);
        assert!(len > 0);
    }
}

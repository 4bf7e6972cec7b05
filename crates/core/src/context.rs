//! What a system call works with: the calling thread, its program, and the kernel's services.
use crate::{
    event::{Event, EventClass, EventId},
    files::{Description, DescriptionId, Descriptor, FileTable, Kind, OnExec},
    process::Process,
    readiness::{self, Viewer},
    resident::{Key, Resident},
    services::Services,
    thread::{Call, Thread},
};
use alloc::{string::String, vec, vec::Vec};
use core::cell::Cell;
use shimos_abi::{
    addr::{Frame, PAGE, UserAddr},
    errno::Errno,
    ids::Pid,
    time::Nanos,
};
use shimos_hal::{Machine, Rights};
use shimos_memory::MemoryFault;
use shimos_vfs::Fault;

/// Why a call did not simply return a number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It failed.
    Errno(Errno),
    /// It waits for one of these (and for its deadline, if [`Context::deadline_in`] set one), and is issued again then.
    Block(Vec<Key>),
    /// There is more to do than one turn may take: it is issued again when others have had theirs.
    Again,
    /// The registers are already what they must be (sigreturn, execve).
    Resume,
    /// It is done and returns 0, and the thread gives way to others.
    Yield,
    /// The calling thread is no more.
    Gone,
}

/// What a call returns.
pub type Result<T> = core::result::Result<T, Stop>;

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Stop {
        Stop::Errno(errno)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        match fault {
            // A directory that is removed and forgotten, while a process still is in it.
            Fault::Errno(Errno::ESTALE) => Stop::Errno(Errno::ENOENT),
            Fault::Errno(errno) => Stop::Errno(errno),
            Fault::Missing(block) => Stop::Block(vec![Key::Block(block)]),
        }
    }
}

impl From<MemoryFault> for Stop {
    fn from(fault: MemoryFault) -> Stop {
        match fault {
            MemoryFault::Missing(block) => Stop::Block(vec![Key::Block(block)]),
            MemoryFault::OutOfMemory => Stop::Errno(Errno::ENOMEM),
            _ => Stop::Errno(Errno::EFAULT),
        }
    }
}

/// Blocks on one thing.
pub fn wait_for<T>(key: Key) -> Result<T> {
    Err(Stop::Block(vec![key]))
}

/// A system call in progress.
pub struct Context<'a, M: Machine> {
    /// The program.
    pub resident: &'a mut Resident<M>,
    /// The kernel.
    pub services: &'a mut Services<M>,
    /// The calling thread.
    pub tid: Pid,
    /// Its process.
    pub pid: Pid,
    /// The time, once the call has asked for it.
    time: Cell<Option<Nanos>>,
}

/// The most a single call copies through one buffer; a longer transfer is cut short, as Linux may.
pub const MAX_TRANSFER: usize = 1 << 20;

impl<'a, M: Machine> Context<'a, M> {
    /// A call of a thread of a process.
    #[inline]
    pub fn new(resident: &'a mut Resident<M>, services: &'a mut Services<M>, tid: Pid, pid: Pid) -> Context<'a, M> {
        Context { resident, services, tid, pid, time: Cell::new(None) }
    }
}

impl<M: Machine> Context<'_, M> {
    /// The time of the call: one for all of it. Most calls never ask, and do not pay for a look at the clock.
    pub fn now(&self) -> Nanos {
        match self.time.get() {
            Some(now) => now,
            None => {
                let now = self.services.machine.now();
                self.time.set(Some(now));
                now
            }
        }
    }
    /// Counts what the caller has used of the processor; see [`crate::accounting`].
    pub fn count_use(&mut self) {
        self.services.count_use(&mut self.resident.program);
    }
    /// The calling thread.
    pub fn thread(&mut self) -> Result<&mut Thread> {
        self.resident.program.threads.get_mut(&self.tid).ok_or(Stop::Gone)
    }
    /// The calling process.
    pub fn process(&self) -> Result<&Process> {
        self.resident.program.processes.get(&self.pid).ok_or(Stop::Gone)
    }
    /// The calling process, to change.
    pub fn process_mut(&mut self) -> Result<&mut Process> {
        self.resident.program.processes.get_mut(&self.pid).ok_or(Stop::Gone)
    }
    /// A process by id, `ESRCH` if there is none.
    pub fn process_by(&self, pid: Pid) -> Result<&Process> {
        self.resident.program.processes.get(&pid).ok_or(Stop::Errno(Errno::ESRCH))
    }

    /// The caller's descriptor table.
    pub fn table(&mut self) -> Result<&mut FileTable> {
        let files = self.files()?;
        self.resident.program.tables.get_mut(&files).ok_or(Stop::Gone)
    }
    /// What descriptor `fd` refers to.
    pub fn descriptor(&mut self, fd: u64) -> Result<Descriptor> {
        Ok(self.table()?.get(fd)?)
    }
    /// The description behind `fd`.
    pub fn description(&mut self, fd: u64) -> Result<&mut Description> {
        let id = self.descriptor(fd)?.description;
        self.description_by(id)
    }
    /// A description by id.
    pub fn description_by(&mut self, id: DescriptionId) -> Result<&mut Description> {
        self.resident.program.descriptions.get_mut(&id).ok_or(Stop::Errno(Errno::EBADF))
    }
    /// Whether the caller's table has room for another descriptor; `EMFILE` if not.
    pub fn check_room_for_descriptor(&mut self) -> Result<()> {
        let limit = self.process()?.limits.get(7).map_or(1024, |limit| limit.0);
        if self.table()?.has_room(limit) { Ok(()) } else { Err(Errno::EMFILE.into()) }
    }
    /// Puts a new description into the caller's table, at the lowest free number.
    pub fn install(&mut self, descriptor: Descriptor) -> Result<u64> {
        let limit = self.process()?.limit(crate::process::limit::NOFILE);
        match self.table()?.insert(descriptor, 0, limit) {
            Ok(fd) => Ok(fd),
            Err(errno) => {
                self.release_description(descriptor.description);
                Err(errno.into())
            }
        }
    }

    /// Copies bytes out of the caller's memory.
    pub fn read_bytes(&mut self, addr: u64, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count.min(MAX_TRANSFER)];
        self.read_into(addr, &mut bytes)?;
        Ok(bytes)
    }
    /// The frame with bytes of the caller's memory that lie in one page, if it can be had without further ado: nothing
    /// that is mapped may be used in more ways than the page tables say.
    #[inline]
    fn frame_of(&self, addr: u64, len: usize, rights: Rights) -> Option<(Frame, usize)> {
        let (addr, resident) = (UserAddr(addr), &*self.resident);
        if !resident.pending.is_empty() || len > PAGE - addr.offset() {
            return None;
        }
        let tables = resident.tables.get(&resident.program.processes.get(&self.pid)?.space)?;
        let mapping = self.services.machine.lookup(tables, addr.page()?)?;
        mapping.rights.contains(rights).then_some((mapping.frame, addr.offset()))
    }
    /// Fills `into` from the caller's memory.
    pub fn read_into(&mut self, addr: u64, into: &mut [u8]) -> Result<()> {
        if let Some((frame, offset)) = self.frame_of(addr, into.len(), Rights::empty()) {
            self.services.machine.read_frame(frame, offset, into);
            return Ok(());
        }
        let space = self.process()?.space;
        Ok(self.services.memory(self.resident, space)?.read(UserAddr(addr), into)?)
    }
    /// Copies bytes into the caller's memory.
    pub fn write_bytes(&mut self, addr: u64, bytes: &[u8]) -> Result<()> {
        if let Some((frame, offset)) = self.frame_of(addr, bytes.len(), Rights::WRITE) {
            self.services.machine.write_frame(frame, offset, bytes);
            return Ok(());
        }
        let space = self.process()?.space;
        Ok(self.services.memory(self.resident, space)?.write(UserAddr(addr), bytes)?)
    }
    /// Reads a 64-bit word.
    pub fn read_u64(&mut self, addr: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.read_into(addr, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
    /// Reads a 32-bit word.
    pub fn read_u32(&mut self, addr: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read_into(addr, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
    /// Writes a 64-bit word.
    pub fn write_u64(&mut self, addr: u64, value: u64) -> Result<()> {
        self.write_bytes(addr, &value.to_le_bytes())
    }
    /// Writes a 32-bit word.
    pub fn write_u32(&mut self, addr: u64, value: u32) -> Result<()> {
        self.write_bytes(addr, &value.to_le_bytes())
    }
    /// Reads a zero-terminated string of at most `most` bytes; `too_long` if it does not end by then.
    pub fn read_string(&mut self, addr: u64, most: usize, too_long: Errno) -> Result<Vec<u8>> {
        // Never beyond the page: the next one need not be there if the string ends before it. Most strings are short.
        let mut buffer = [0; 64];
        let mut string = Vec::new();
        let mut at = addr;
        while string.len() <= most {
            let piece = (PAGE - at as usize % PAGE).min(buffer.len());
            let bytes = &mut buffer[..piece];
            self.read_into(at, bytes)?;
            let end = bytes.iter().position(|byte| *byte == 0);
            string.extend_from_slice(&bytes[..end.unwrap_or(piece)]);
            if end.is_some() {
                return if string.len() > most { Err(too_long.into()) } else { Ok(string) };
            }
            at = at.checked_add(piece as u64).ok_or(Errno::EFAULT)?;
        }
        Err(too_long.into())
    }
    /// Reads a path: `ENOENT` if empty is left to the caller.
    pub fn read_path(&mut self, addr: u64) -> Result<Vec<u8>> {
        self.read_string(addr, 4095, Errno::ENAMETOOLONG)
    }
    /// Reads a zero-terminated array of pointers to strings (execve); `limit` bounds the bytes in all.
    pub fn read_strings(&mut self, addr: u64, limit: usize) -> Result<Vec<Vec<u8>>> {
        let mut strings = Vec::new();
        let mut total = 0;
        if addr == 0 {
            return Ok(strings);
        }
        let mut at = addr;
        loop {
            let pointer = self.read_u64(at)?;
            if pointer == 0 {
                return Ok(strings);
            }
            let string = self.read_string(pointer, 131_071, Errno::E2BIG)?;
            total += string.len() + 9;
            if total > limit {
                return Err(Errno::E2BIG.into());
            }
            strings.push(string);
            at += 8;
        }
    }

    /// The deadline of a call that waits for `timeout` from its first issue on: fixed then, kept when issued again.
    pub fn deadline_in(&mut self, timeout: Nanos) -> Result<Nanos> {
        let deadline = self.now() + timeout;
        let call = self.thread()?.call.get_or_insert_with(Call::default);
        Ok(*call.deadline.get_or_insert(deadline))
    }
    /// Like [`Context::deadline_in`] for a point in time.
    pub fn deadline_at(&mut self, at: Nanos) -> Result<Nanos> {
        let call = self.thread()?.call.get_or_insert_with(Call::default);
        Ok(*call.deadline.get_or_insert(at))
    }
    /// Moves the deadline of a call that waits for more of what comes piece by piece.
    pub fn move_deadline(&mut self, at: Nanos) -> Result<()> {
        self.thread()?.call.get_or_insert_with(Call::default).deadline = Some(at);
        Ok(())
    }
    /// What the call has moved before it blocked.
    pub fn moved(&mut self) -> Result<u64> {
        Ok(self.thread()?.call.map_or(0, |call| call.moved))
    }
    /// Notes what the call has moved.
    pub fn set_moved(&mut self, moved: u64) -> Result<()> {
        self.thread()?.call.get_or_insert_with(Call::default).moved = moved;
        Ok(())
    }
    /// What a description is ready for, for the caller.
    pub fn readiness(&self, id: DescriptionId) -> u16 {
        readiness::of(&self.resident.program, Viewer { process: self.pid, thread: self.tid, now: self.now() }, id)
    }
    /// Takes notice of what the program has sent to itself over the network.
    pub fn take_network(&mut self) {
        self.resident.program.net.poll(self.now());
        self.resident.take_network();
    }
    /// Puts a new event object into the caller's table.
    pub fn install_event(&mut self, event: Event, status: u32, on_exec: OnExec) -> Result<u64> {
        let id = EventId(self.resident.program.fresh_id());
        let description = self.resident.program.add_description(Kind::Event(event.class(), id), status);
        self.resident.program.events.insert(id, event);
        self.install(Descriptor { description, on_exec })
    }
    /// The event object behind a descriptor, if it is one of this class; `otherwise` if not.
    pub fn event_of(&mut self, fd: u64, class: EventClass, otherwise: Errno) -> Result<EventId> {
        match self.description(fd)?.kind {
            Kind::Event(found, id) if found == class => Ok(id),
            Kind::Path(_) => Err(Errno::EBADF.into()),
            _ => Err(otherwise.into()),
        }
    }
    /// Wakes who waits for `key`.
    pub fn wake(&mut self, key: Key) {
        self.resident.wake(key);
    }
    /// The calling thread's name.
    pub fn comm(&self) -> String {
        let own = self.resident.program.threads.get(&self.tid).and_then(|thread| thread.name.clone());
        own.unwrap_or_else(|| self.process().map(|process| process.comm.clone()).unwrap_or_default())
    }
    /// Names a thread of the caller's program; a name is cut to 15 bytes.
    pub fn set_name(&mut self, tid: Pid, name: &[u8]) -> Result<()> {
        let name = crate::exec::short_name(name);
        let program = &mut self.resident.program;
        let thread = program.threads.get_mut(&tid).ok_or(Errno::ESRCH)?;
        if thread.tid == thread.process {
            program.processes.get_mut(&thread.process).ok_or(Errno::ESRCH)?.comm = name;
        } else {
            thread.name = Some(name);
        }
        Ok(())
    }
}

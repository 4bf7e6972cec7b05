//! A program: everything that is checkpointed, taken over and moved together.
//!
//! Plain data with ids instead of pointers. What can be derived (page tables, wait lists, ready lists) lives beside it
//! in [`crate::resident::Resident`].
use crate::{
    event::{
        Event, EventId,
        timer::{Timer, TimerKey},
    },
    files::{Description, DescriptionId, Descriptor, FileTable, FilesId, Kind, NetlinkId, UnixId},
    guilt::Guilt,
    ipc::{
        Ipc,
        queue::{Queue, QueueId},
    },
    levels::Revival,
    load::Load,
    locks::Locks,
    netlink::NetlinkSocket,
    pipe::{Pipe, PipeId},
    policy::Policy,
    process::{Process, SpaceId},
    rollback::Crashes,
    table::Table,
    terminal::Terminal,
    thread::{Counters, Thread},
    tty::{Pair, PairId},
    unix::UnixSocket,
};
use alloc::{
    collections::{BTreeMap, VecDeque},
    string::String,
    vec::Vec,
};
use minicbor::{Decode, Encode};
use shimos_abi::{
    control::{Output, Protection, Start},
    errno::Errno,
    ids::{KernelId, PIDS_PER_PROGRAM, Pid, ProgramId},
    kept::Kept,
    time::Nanos,
};
use shimos_memory::{AddressSpace, Objects};
use shimos_net::Stack;
use shimos_vfs::{NodeId, Tree};

/// The most processes and threads a program may have.
pub const MAX_THREADS: usize = 4096;

/// A program.
pub struct Program {
    /// Name, protection, counters.
    pub head: Head,
    /// Its processes, zombies included.
    pub processes: Table<Pid, Process>,
    /// Its threads.
    pub threads: Table<Pid, Thread>,
    /// Its address spaces, without page tables.
    pub spaces: Table<SpaceId, AddressSpace>,
    /// Contents of writable files and of shared memory.
    pub objects: Objects,
    /// Its descriptor tables.
    pub tables: Table<FilesId, FileTable>,
    /// Its open file descriptions.
    pub descriptions: Table<DescriptionId, Description>,
    /// Its pipes.
    pub pipes: Table<PipeId, Pipe>,
    /// Its UNIX sockets.
    pub unix: Table<UnixId, UnixSocket>,
    /// Its netlink sockets.
    pub netlink: BTreeMap<NetlinkId, NetlinkSocket>,
    /// Its event objects.
    pub events: Table<EventId, Event>,
    /// Timers that send signals.
    pub timers: BTreeMap<TimerKey, Timer>,
    /// Its names of files.
    pub tree: Kept<Tree>,
    /// Its network.
    pub net: Stack,
    /// Its console.
    pub terminal: Terminal,
    /// Its pseudo terminals.
    pub pairs: BTreeMap<PairId, Pair>,
    /// File locks.
    pub locks: Locks,
    /// Pipes behind named pipes that are open.
    pub fifos: BTreeMap<NodeId, PipeId>,
    /// System V shared memory, semaphores and message queues.
    pub ipc: Ipc,
    /// POSIX message queues.
    pub queues: BTreeMap<QueueId, Queue>,
    /// Seals on files that can be sealed.
    pub seals: BTreeMap<NodeId, u32>,
    /// The machine's policy, if this is the program that keeps it.
    pub policy: Kept<Policy>,
    /// Output that waits for a checkpoint to commit, oldest first (D11).
    pub held: VecDeque<Held>,
}

/// What a program is called and how it is treated.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Head {
    /// Which program.
    #[n(0)]
    pub id: ProgramId,
    /// Its name.
    #[n(1)]
    pub name: String,
    /// How it is protected.
    #[n(2)]
    pub protection: Option<Protection>,
    /// How often it was taken over.
    #[n(3)]
    pub takeovers: u32,
    /// The last process id given out, counted from the program's first.
    #[n(4)]
    pub last_pid: u32,
    /// The last id given to an address space, a table, a description, a pipe, a UNIX socket.
    #[n(5)]
    pub last_id: u32,
    /// When it started.
    #[n(6)]
    pub started: Nanos,
    /// Kernels whose frames it still uses.
    #[n(7)]
    pub loans: Vec<KernelId>,
    /// How many of its threads wanted to run lately.
    #[n(8)]
    #[cbor(default)]
    pub load: Load,
    /// Memory that it may have, in bytes.
    #[n(9)]
    pub memory: Option<u64>,
    /// Its host name, if it is not its own name (sethostname(2)).
    #[n(10)]
    pub host_name: Option<Vec<u8>>,
    /// Its NIS domain name, likewise.
    #[n(11)]
    pub domain_name: Option<Vec<u8>>,
    /// How often it was moved by the administrator.
    #[n(12)]
    #[cbor(default)]
    pub moves: u32,
    /// How often it went back to an earlier generation on its kernel.
    #[n(13)]
    #[cbor(default)]
    pub rollbacks: u32,
    /// Crashes that it has not got over.
    #[n(14)]
    pub crashes: Option<Crashes>,
    /// How it was started.
    #[n(20)]
    pub order: Option<Kept<Start>>,
    /// What is done without checkpoints when its kernel dies.
    #[n(21)]
    #[cbor(default)]
    pub revival: Revival,
    /// How often it was started again.
    #[n(22)]
    #[cbor(default)]
    pub restarts: u32,
    /// Deaths of kernels that it seems to have provoked.
    #[n(23)]
    pub guilt: Option<Guilt>,
}

impl Head {
    /// What uname(2) calls the node.
    pub fn node(&self) -> &[u8] {
        self.host_name.as_deref().unwrap_or(self.name.as_bytes())
    }
    /// What uname(2) calls the domain.
    pub fn domain(&self) -> &[u8] {
        self.domain_name.as_deref().unwrap_or(b"(none)")
    }
    /// The node's name as text.
    pub fn shown_host_name(&self) -> String {
        String::from_utf8_lossy(self.node()).into_owned()
    }
    /// The domain's name as text.
    pub fn shown_domain_name(&self) -> String {
        String::from_utf8_lossy(self.domain()).into_owned()
    }
}

/// Output that has left the program but not the machine.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Held {
    /// An Ethernet frame.
    #[n(0)]
    Packet(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
}

impl Program {
    /// Whether output has to wait for a checkpoint.
    pub fn holds_output(&self) -> bool {
        self.head.protection.is_some_and(|protection| protection.output == Output::Commit)
    }

    /// Pages that its address spaces and objects have.
    pub fn owned_pages(&self) -> usize {
        let spaces: usize = self.spaces.values().map(AddressSpace::owned_pages).sum();
        spaces + self.objects.iter().map(|(_, object)| object.resident()).sum::<usize>()
    }
    /// Pages that the next checkpoint has to save.
    pub fn changed_pages(&self) -> usize {
        self.spaces.values().map(AddressSpace::changed_pages).sum::<usize>() + self.objects.changed_pages()
    }

    /// An id that nothing of the program has, for tables, descriptions, pipes and the like.
    pub fn fresh_id(&mut self) -> u32 {
        self.head.last_id = self.head.last_id.wrapping_add(1);
        self.head.last_id
    }

    /// A process id that is free.
    pub fn fresh_pid(&mut self) -> Result<Pid, Errno> {
        if self.threads.len() + self.processes.len() >= MAX_THREADS {
            return Err(Errno::EAGAIN);
        }
        let base = u32::from(self.head.id.0) * PIDS_PER_PROGRAM;
        for _ in 0..PIDS_PER_PROGRAM {
            self.head.last_pid = self.head.last_pid % (PIDS_PER_PROGRAM - 1) + 1;
            let pid = Pid(base + self.head.last_pid);
            let in_use = self.threads.contains_key(&pid)
                || self.ttys().any(|(_, tty)| tty.session == Some(pid) || tty.foreground == Some(pid))
                || self.processes.values().any(|p| p.pid == pid || p.group == pid || p.session == pid);
            if !in_use {
                return Ok(pid);
            }
        }
        Err(Errno::EAGAIN)
    }

    /// A process id that is wanted, if it is free.
    pub fn claim_pid(&mut self, pid: Pid) -> Result<Pid, Errno> {
        if self.threads.len() + self.processes.len() >= MAX_THREADS {
            return Err(Errno::EAGAIN);
        }
        let in_use = |p: &Process| p.pid == pid || p.group == pid || p.session == pid;
        if self.threads.contains_key(&pid) || self.processes.values().any(in_use) {
            return Err(Errno::EEXIST);
        }
        Ok(pid)
    }

    /// Adds a description with one reference to come.
    pub fn add_description(&mut self, kind: Kind, flags: u32) -> DescriptionId {
        let id = DescriptionId(self.fresh_id());
        self.descriptions.insert(
            id,
            Description { kind, flags, offset: 0, references: 1, place: None, patience: None, hearer: None },
        );
        id
    }

    /// A descriptor is being copied: its description has one more reference.
    pub fn retain(&mut self, descriptor: Descriptor) {
        if let Some(description) = self.descriptions.get_mut(&descriptor.description) {
            description.references = description.references.saturating_add(1);
        }
    }

    /// A named pipe is no more: what no description and no waiting thread has goes with it.
    pub fn forget_fifo(&mut self, node: NodeId) {
        if let Some(id) = self.fifos.remove(&node)
            && self.pipes.get(&id).is_some_and(|pipe| pipe.readers == 0 && pipe.writers == 0)
        {
            self.pipes.remove(&id);
        }
    }

    /// A pipe that nobody has open any more.
    pub fn forget_pipe(&mut self, id: PipeId) {
        self.pipes.remove(&id);
        // Only those that somebody has open, or tried to open, are here.
        self.fifos.retain(|_, behind| *behind != id);
    }

    /// The threads of a process.
    pub fn threads_of(&self, process: Pid) -> impl Iterator<Item = &Thread> {
        self.threads.values().filter(move |thread| thread.process == process)
    }

    /// Processor time that a process has used.
    pub fn used_by(&self, process: Pid) -> Nanos {
        let ended = self.processes.get(&process).map_or(Nanos(0), |process| process.ended_used);
        self.threads_of(process).fold(ended, |sum, thread| sum + thread.used)
    }

    /// The most pages that a process has had in memory.
    pub fn peak_of(&self, process: Pid) -> u64 {
        let Some(process) = self.processes.get(&process) else { return 0 };
        let now = self.spaces.get(&process.space).filter(|_| process.zombie.is_none()).map_or(0, AddressSpace::peak);
        process.peak.max(now)
    }

    /// What a process has done.
    pub fn counters_of(&self, process: Pid) -> Counters {
        let ended = self.processes.get(&process).map(|process| process.ended_counters).unwrap_or_default();
        self.threads_of(process).fold(ended, |sum, thread| sum.with(thread.counters))
    }

    /// Whether a process has another thread than `tid`.
    pub fn has_other_threads(&self, process: Pid, tid: Pid) -> bool {
        self.threads_of(process).any(|thread| thread.tid != tid)
    }

    /// Processes whose parent is `parent`.
    pub fn children_of(&self, parent: Pid) -> impl Iterator<Item = &Process> {
        self.processes.values().filter(move |process| process.parent == parent)
    }

    /// The init process; its end is the program's end.
    pub fn init(&self) -> Pid {
        self.head.id.first_pid()
    }
}

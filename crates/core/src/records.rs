//! A program as the records of an image, and back. What is read back is hostile input.
use crate::{
    event::{
        Event, EventId,
        timer::{Timer, TimerKey},
    },
    files::{Description, DescriptionId, FileTable, FilesId, Kind, NetlinkId, UnixId},
    ipc::{
        Ipc,
        queue::{Queue, QueueId},
    },
    locks::Locks,
    netlink::NetlinkSocket,
    pipe::{Pipe, PipeId},
    policy::Policy,
    process::{Process, SpaceId},
    program::{Head, Held, Program},
    table::Table,
    terminal::Terminal,
    thread::Thread,
    tty::{Pair, PairId},
    unix::UnixSocket,
};
use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use minicbor::{Decode, Encode};
use shimos_abi::{
    flat::{Flat, Source},
    ids::{Pid, ProgramId},
};
use shimos_checkpoint::{Image, RecordWriter, Records};
use shimos_memory::{AddressSpace, Objects};
use shimos_net::Stack;
use shimos_vfs::{NodeId, Tree};

/// Kinds of records.
mod kind {
    pub const HEAD: u16 = 1;
    pub const PROCESS: u16 = 2;
    pub const THREAD: u16 = 3;
    pub const SPACE: u16 = 4;
    pub const OBJECTS: u16 = 5;
    pub const TABLE: u16 = 6;
    /// With numbered fields, as descriptions were saved before.
    pub const NUMBERED_DESCRIPTION: u16 = 7;
    pub const PIPE: u16 = 8;
    pub const UNIX: u16 = 9;
    pub const TREE: u16 = 10;
    pub const NET: u16 = 11;
    pub const TERMINAL: u16 = 12;
    pub const HELD: u16 = 13;
    pub const LOCKS: u16 = 14;
    pub const FIFOS: u16 = 15;
    pub const DESCRIPTION: u16 = 16;
    pub const IPC: u16 = 32;
    pub const QUEUE: u16 = 33;
    pub const EVENT: u16 = 30;
    pub const SEALS: u16 = 31;
    pub const NETLINK: u16 = 60;
    pub const PAIR: u16 = 50;
    pub const TIMER: u16 = 34;
    pub const POLICY: u16 = 70;
}

/// Version of all records; fields may be added without a new one, as they are numbered.
const VERSION: u16 = 1;

/// A record that is longer is not kept: its memory would be used twice.
const LONGEST: usize = 64 * 1024;

/// Why records are no program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadRecords(pub &'static str);

fn add<T: Encode<()>>(writer: &mut RecordWriter, kind: u16, value: &T) {
    // Encoding into memory cannot fail.
    let _ = writer.add_with(kind, VERSION, |bytes| minicbor::encode(value, &mut *bytes));
}

fn add_all<'a, K: Encode<()> + 'a, V: Encode<()> + 'a>(
    writer: &mut RecordWriter,
    kind: u16,
    map: impl IntoIterator<Item = (&'a K, &'a V)>,
) {
    for pair in map {
        add(writer, kind, &pair);
    }
}

/// Adds the records of a table. Those of objects that have not changed are as they were.
fn add_table<K: Copy + Ord + Encode<()>, V: Encode<()>>(writer: &mut RecordWriter, kind: u16, table: &Table<K, V>) {
    add_kept(writer, table, |writer, pair| add(writer, kind, &pair));
}

/// Adds the record of a key and its object, without numbered fields.
fn add_flat<K: Flat, V: Flat>(writer: &mut RecordWriter, kind: u16, (key, value): (&K, &V)) {
    writer.add_with(kind, VERSION, |bytes| {
        key.write(bytes);
        value.write(bytes);
    });
}

/// Adds the records of a table as `add` forms them, or as they were.
fn add_kept<K: Copy + Ord, V>(
    writer: &mut RecordWriter,
    table: &Table<K, V>,
    add: impl Fn(&mut RecordWriter, (&K, &V)),
) {
    for (key, value, record) in table.records() {
        let mut record = record.borrow_mut();
        if record.is_empty() {
            let start = writer.bytes().len();
            add(writer, (key, value));
            let new = writer.since(start);
            if new.len() <= LONGEST {
                record.set(new);
            }
        } else {
            writer.add_record(record.get());
            #[cfg(feature = "inspect")]
            {
                let mut anew = RecordWriter::new();
                add(&mut anew, (key, value));
                assert!(anew.bytes() == record.get(), "a kept record is not that of its object");
            }
        }
    }
}

/// Writes a program's records into `buffer`, whose memory is used again.
pub fn encode(program: &Program, buffer: Vec<u8>) -> Vec<u8> {
    let mut writer = RecordWriter::reuse(buffer);
    add(&mut writer, kind::HEAD, &program.head);
    add_table(&mut writer, kind::PROCESS, &program.processes);
    add_table(&mut writer, kind::THREAD, &program.threads);
    add_table(&mut writer, kind::SPACE, &program.spaces);
    add(&mut writer, kind::OBJECTS, &program.objects);
    add_table(&mut writer, kind::TABLE, &program.tables);
    add_kept(&mut writer, &program.descriptions, |writer, pair| add_flat(writer, kind::DESCRIPTION, pair));
    add_table(&mut writer, kind::PIPE, &program.pipes);
    add_table(&mut writer, kind::UNIX, &program.unix);
    add_all(&mut writer, kind::NETLINK, &program.netlink);
    add_table(&mut writer, kind::EVENT, &program.events);
    add_all(&mut writer, kind::TIMER, &program.timers);
    add(&mut writer, kind::TREE, &program.tree);
    add(&mut writer, kind::NET, &program.net);
    add(&mut writer, kind::TERMINAL, &program.terminal);
    for held in &program.held {
        add(&mut writer, kind::HELD, held);
    }
    add_all(&mut writer, kind::PAIR, &program.pairs);
    add(&mut writer, kind::LOCKS, &program.locks);
    add(&mut writer, kind::FIFOS, &program.fifos);
    add(&mut writer, kind::IPC, &program.ipc);
    add_all(&mut writer, kind::QUEUE, &program.queues);
    add(&mut writer, kind::SEALS, &program.seals);
    if !program.policy.is_empty() {
        add(&mut writer, kind::POLICY, &program.policy);
    }
    writer.into_bytes()
}

/// Writes the record of a head alone.
pub fn encode_head(head: &Head) -> Vec<u8> {
    let mut writer = RecordWriter::reuse(Vec::new());
    add(&mut writer, kind::HEAD, head);
    writer.into_bytes()
}

/// Something that takes what one record holds.
trait Entries<K, V> {
    fn put(&mut self, key: K, value: V);
}

impl<K: Copy + Ord, V> Entries<K, V> for Table<K, V> {
    fn put(&mut self, key: K, value: V) {
        self.insert(key, value);
    }
}

impl<K: Ord, V> Entries<K, V> for BTreeMap<K, V> {
    fn put(&mut self, key: K, value: V) {
        self.insert(key, value);
    }
}

#[derive(Default)]
struct Parts {
    head: Option<Head>,
    processes: Table<Pid, Process>,
    threads: Table<Pid, Thread>,
    spaces: Table<SpaceId, AddressSpace>,
    objects: Option<Objects>,
    tables: Table<FilesId, FileTable>,
    descriptions: Table<DescriptionId, Description>,
    pipes: Table<PipeId, Pipe>,
    unix: Table<UnixId, UnixSocket>,
    netlink: BTreeMap<NetlinkId, NetlinkSocket>,
    events: Table<EventId, Event>,
    timers: BTreeMap<TimerKey, Timer>,
    tree: Option<Tree>,
    net: Option<Stack>,
    terminal: Option<Terminal>,
    pairs: BTreeMap<PairId, Pair>,
    held: VecDeque<Held>,
    locks: Locks,
    fifos: BTreeMap<NodeId, PipeId>,
    ipc: Ipc,
    queues: BTreeMap<QueueId, Queue>,
    seals: BTreeMap<NodeId, u32>,
    policy: Policy,
}

fn decode<'b, T: Decode<'b, ()>>(payload: &'b [u8]) -> Result<T, BadRecords> {
    minicbor::decode(payload).map_err(|_| BadRecords("a record that cannot be decoded"))
}

/// Takes what [`add_flat`] has added.
fn flat_pair<K: Flat, V: Flat>(into: &mut impl Entries<K, V>, payload: &[u8]) -> Result<(), BadRecords> {
    let mut from = Source::new(payload);
    let bad = BadRecords("a record that is too short or too long");
    let key = K::read(&mut from).ok_or(bad)?;
    let value = V::read(&mut from).ok_or(bad)?;
    if !from.is_empty() {
        return Err(bad);
    }
    into.put(key, value);
    Ok(())
}

impl Parts {
    fn take(&mut self, kind: u16, payload: &[u8]) -> Result<(), BadRecords> {
        fn pair<K: for<'b> Decode<'b, ()> + Ord, V: for<'b> Decode<'b, ()>>(
            into: &mut impl Entries<K, V>,
            payload: &[u8],
        ) -> Result<(), BadRecords> {
            let (key, value): (K, V) = decode(payload)?;
            into.put(key, value);
            Ok(())
        }
        match kind {
            kind::HEAD => self.head = Some(decode(payload)?),
            kind::PROCESS => pair(&mut self.processes, payload)?,
            kind::THREAD => pair(&mut self.threads, payload)?,
            kind::SPACE => pair(&mut self.spaces, payload)?,
            kind::OBJECTS => self.objects = Some(decode(payload)?),
            kind::TABLE => pair(&mut self.tables, payload)?,
            kind::NUMBERED_DESCRIPTION => pair(&mut self.descriptions, payload)?,
            kind::DESCRIPTION => flat_pair(&mut self.descriptions, payload)?,
            kind::PIPE => pair(&mut self.pipes, payload)?,
            kind::UNIX => pair(&mut self.unix, payload)?,
            kind::NETLINK => pair(&mut self.netlink, payload)?,
            kind::EVENT => pair(&mut self.events, payload)?,
            kind::TIMER => pair(&mut self.timers, payload)?,
            kind::TREE => self.tree = Some(decode(payload)?),
            kind::NET => self.net = Some(decode(payload)?),
            kind::TERMINAL => self.terminal = Some(decode(payload)?),
            kind::HELD => self.held.push_back(decode(payload)?),
            kind::PAIR => pair(&mut self.pairs, payload)?,
            kind::LOCKS => self.locks = decode(payload)?,
            kind::FIFOS => self.fifos = decode(payload)?,
            kind::IPC => self.ipc = decode(payload)?,
            kind::QUEUE => pair(&mut self.queues, payload)?,
            kind::SEALS => self.seals = decode(payload)?,
            kind::POLICY => self.policy = decode(payload)?,
            // Of a later build: what this one does not know cannot be needed to run on.
            _ => {}
        }
        Ok(())
    }
}

/// Only the head of a program's records: enough to know whose memory it uses.
pub fn decode_head(image: &Image) -> Result<Head, BadRecords> {
    for record in image.records() {
        let record = record.map_err(|_| BadRecords("a damaged record"))?;
        if record.kind == kind::HEAD {
            return decode(record.payload);
        }
    }
    Err(BadRecords("no head"))
}

/// Why records give no program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreadable {
    /// They are damaged.
    Bad(BadRecords),
    /// This kernel has no room for what they describe.
    NoRoom,
}

impl Unreadable {
    /// What to tell whoever wanted the program.
    pub fn why(self) -> &'static str {
        match self {
            Unreadable::Bad(bad) => bad.0,
            Unreadable::NoRoom => "the kernel has no memory left for it",
        }
    }
}

impl From<BadRecords> for Unreadable {
    fn from(bad: BadRecords) -> Unreadable {
        Unreadable::Bad(bad)
    }
}

/// Reads a program from an image's records. Before each record `has_room` is asked for as much of the kernel's heap as it may take.
pub fn decode_program(image: &Image, id: ProgramId, has_room: impl Fn(usize) -> bool) -> Result<Program, Unreadable> {
    assemble(image.records(), id, has_room)
}

/// Reads a program from records that are in no image; the same.
pub fn decode_bytes(bytes: &[u8], id: ProgramId, has_room: impl Fn(usize) -> bool) -> Result<Program, Unreadable> {
    assemble(Records::new(bytes), id, has_room)
}

/// Bytes of the heap that a byte of a record becomes, at most and about.
const UNPACKED: usize = 8;

fn assemble(records: Records<'_>, id: ProgramId, has_room: impl Fn(usize) -> bool) -> Result<Program, Unreadable> {
    let mut parts = Parts::default();
    for record in records {
        let record = record.map_err(|_| BadRecords("a damaged record"))?;
        if record.version != VERSION {
            return Err(BadRecords("a record of another version").into());
        }
        if !has_room(record.payload.len().saturating_mul(UNPACKED)) {
            return Err(Unreadable::NoRoom);
        }
        parts.take(record.kind, record.payload)?;
    }
    let missing = BadRecords("a missing record");
    let program = Program {
        head: parts.head.ok_or(missing)?,
        processes: parts.processes,
        threads: parts.threads,
        spaces: parts.spaces,
        objects: parts.objects.ok_or(missing)?,
        tables: parts.tables,
        descriptions: parts.descriptions,
        pipes: parts.pipes,
        unix: parts.unix,
        netlink: parts.netlink,
        events: parts.events,
        timers: parts.timers,
        tree: parts.tree.ok_or(missing)?.into(),
        net: parts.net.ok_or(missing)?,
        terminal: parts.terminal.ok_or(missing)?,
        pairs: parts.pairs,
        held: parts.held,
        locks: parts.locks,
        fifos: parts.fifos,
        ipc: parts.ipc,
        queues: parts.queues,
        seals: parts.seals,
        policy: parts.policy.into(),
    };
    validate(&program, id)?;
    Ok(program)
}

/// Checks that ids lead somewhere and belong together.
fn validate(program: &Program, id: ProgramId) -> Result<(), BadRecords> {
    if program.head.id != id {
        return Err(BadRecords("another program's records"));
    }
    for (pid, process) in &program.processes {
        if *pid != process.pid || ProgramId::of(*pid) != id {
            return Err(BadRecords("a process with a wrong id"));
        }
        let alive = process.zombie.is_none();
        if alive && (!program.spaces.contains_key(&process.space) || !program.tables.contains_key(&process.files)) {
            return Err(BadRecords("a process without memory or files"));
        }
        if process.actions.len() != 64 {
            return Err(BadRecords("a process with a wrong number of signals"));
        }
    }
    for (tid, thread) in &program.threads {
        let owner = program.processes.get(&thread.process);
        if *tid != thread.tid || ProgramId::of(*tid) != id || owner.is_none_or(|owner| owner.zombie.is_some()) {
            return Err(BadRecords("a thread without a process"));
        }
        if thread.files.is_some_and(|files| !program.tables.contains_key(&files)) {
            return Err(BadRecords("a thread without files"));
        }
    }
    for table in program.tables.values() {
        if table.iter().any(|(_, descriptor)| !program.descriptions.contains_key(&descriptor.description)) {
            return Err(BadRecords("a descriptor of nothing"));
        }
    }
    validate_events(program)?;
    validate_sockets(program)?;
    program.spaces.values().try_for_each(AddressSpace::validate).map_err(BadRecords)?;
    program.objects.validate().map_err(BadRecords)?;
    program.ipc.validate().map_err(BadRecords)?;
    program.tree.validate().map_err(BadRecords)?;
    let lost = |kind: &Kind| match kind {
        Kind::Master(_, pair) => !program.pairs.contains_key(pair),
        _ => false,
    };
    if program.descriptions.values().any(|description| lost(&description.kind)) {
        return Err(BadRecords("a master of no pair"));
    }
    Ok(())
}

/// Checks that what travels between UNIX sockets is there, and is counted.
fn validate_sockets(program: &Program) -> Result<(), BadRecords> {
    if program.unix.values().all(|socket| socket.queue.iter().all(|message| message.files.is_empty())) {
        return Ok(());
    }
    let mut held: BTreeMap<DescriptionId, u32> = BTreeMap::new();
    for table in program.tables.values() {
        for (_, descriptor) in table.iter() {
            *held.entry(descriptor.description).or_default() += 1;
        }
    }
    for socket in program.unix.values() {
        for file in socket.queue.iter().flat_map(|message| &message.files) {
            let Some(description) = program.descriptions.get(file) else {
                return Err(BadRecords("a message that carries nothing"));
            };
            let holders = held.entry(*file).or_default();
            *holders += 1;
            if *holders > description.references {
                return Err(BadRecords("a description with more holders than references"));
            }
        }
    }
    Ok(())
}

/// Checks that descriptions and event objects belong together, and that epoll sets watch what there is.
fn validate_events(program: &Program) -> Result<(), BadRecords> {
    for description in program.descriptions.values() {
        if let Kind::Event(class, id) = description.kind
            && program.events.get(&id).is_none_or(|event| event.class() != class)
        {
            return Err(BadRecords("a descriptor of no event"));
        }
    }
    let alive = |pid| program.processes.get(pid).is_some_and(|process| process.zombie.is_none());
    if program.timers.keys().any(|key| !alive(&key.process)) {
        return Err(BadRecords("a timer of no process"));
    }
    for event in program.events.values() {
        if let Event::Epoll(epoll) = event {
            epoll.validate().map_err(BadRecords)?;
            if epoll.items().any(|(target, _)| !program.descriptions.contains_key(&target.description)) {
                return Err(BadRecords("an epoll set that watches nothing"));
            }
        }
    }
    Ok(())
}

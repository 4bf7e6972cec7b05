//! Signals that tell of descriptors (fcntl(2), "Managing signals"): who gets them, which they are, and sending them.
use crate::{
    context::{Context, Result},
    delivery::{self, Sent},
    event::epoll::bits,
    files::{DescriptionId, Kind},
    jobs,
    program::Program,
    readiness::{self, Viewer},
    resident::{Key, Resident},
    signal::{Info, Signal},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use minicbor::{Decode, Encode};
use shimos_abi::{errno::Errno, ids::Pid, time::Nanos};
use shimos_hal::Machine;
use shimos_net::SocketId;

/// `O_ASYNC`.
pub const ASYNC: u32 = 0x2000;

/// Who hears of a description, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Hearer {
    /// Who, if anybody.
    #[n(0)]
    pub owner: Option<Owner>,
    /// The signal; SIGIO without details if there is none.
    #[n(1)]
    pub signal: Option<Signal>,
    /// Real and effective user who named the owner.
    #[n(2)]
    pub users: (u32, u32),
}

/// What F_SETOWN_EX names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Owner {
    /// A thread.
    #[n(0)]
    Thread(#[n(0)] Pid),
    /// A process.
    #[n(1)]
    Process(#[n(0)] Pid),
    /// A process group.
    #[n(2)]
    Group(#[n(0)] Pid),
}

impl Owner {
    /// As F_GETOWN says it.
    fn to_number(self) -> i32 {
        match self {
            Owner::Thread(id) | Owner::Process(id) => id.0 as i32,
            Owner::Group(id) => -(id.0 as i32),
        }
    }
    /// `F_OWNER_` and the id.
    fn to_pair(self) -> (u32, u32) {
        match self {
            Owner::Thread(id) => (0, id.0),
            Owner::Process(id) => (1, id.0),
            Owner::Group(id) => (2, id.0),
        }
    }
}

/// The descriptions with O_ASYNC by what wakes those who wait for them. Derived.
#[derive(Default)]
pub struct Hearers {
    by_key: BTreeMap<Key, BTreeSet<DescriptionId>>,
}

impl Hearers {
    /// Those of a program.
    pub fn of(program: &Program) -> Hearers {
        let mut hearers = Hearers::default();
        for (id, description) in program.descriptions.iter().filter(|(_, d)| d.flags & ASYNC != 0) {
            if let Some(key) = key_of(&description.kind) {
                hearers.by_key.entry(key).or_default().insert(*id);
            }
        }
        hearers
    }
    /// Whether nobody is to hear of anything.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
    /// Forgets a description.
    pub fn forget(&mut self, id: DescriptionId) {
        self.by_key.retain(|_, ids| {
            ids.remove(&id);
            !ids.is_empty()
        });
    }
}

/// What is woken when something happens that signals tell of: none for what never sends any.
pub fn key_of(kind: &Kind) -> Option<Key> {
    let tells = |key: &Key| matches!(key, Key::Pipe(_) | Key::Unix(_) | Key::Socket(_) | Key::Pair(_) | Key::Terminal);
    kind.key().filter(tells)
}

/// O_ASYNC of a description may have changed.
pub fn flags_changed<M: Machine>(resident: &mut Resident<M>, id: DescriptionId, before: u32) {
    let Some(description) = resident.program.descriptions.get(&id) else { return };
    if (before ^ description.flags) & ASYNC == 0 {
        return;
    }
    if description.flags & ASYNC == 0 {
        resident.hearers.forget(id);
    } else if let Some(key) = key_of(&description.kind) {
        resident.hearers.by_key.entry(key).or_default().insert(id);
    }
}

/// Something has happened to what `key` stands for: sends the signals of the descriptions that are ready for it.
pub fn tell<M: Machine>(resident: &mut Resident<M>, key: Key, events: u16) {
    const POLL_IN: i32 = 1;
    const POLL_OUT: i32 = 2;
    const POLL_HUP: i32 = 6;
    let ids: Vec<DescriptionId> = resident.hearers.by_key.get(&key).into_iter().flatten().copied().collect();
    for id in ids {
        let Some(description) = resident.program.descriptions.get(&id) else { continue };
        let Some(Hearer { owner: Some(owner), signal, .. }) = description.hearer else { continue };
        let (Owner::Thread(one) | Owner::Process(one) | Owner::Group(one)) = owner;
        let who = Viewer { process: one, thread: one, now: Nanos(0) };
        let ready = readiness::of(&resident.program, who, id) & events;
        // Room is told of where only room has come.
        let code = match ready {
            _ if ready & (bits::HUP | bits::ERR) != 0 => POLL_HUP,
            _ if ready & bits::READ != 0 => POLL_IN,
            _ if ready & bits::WRITE != 0 && events & bits::READ == 0 => POLL_OUT,
            _ => continue,
        };
        let info = match signal {
            None => Info::from_kernel(),
            Some(_) => {
                let descriptor = number_of(&resident.program, one, id);
                Info { code, addr: ready.into(), value: descriptor.into(), ..Info::default() }
            }
        };
        let signal = signal.unwrap_or(Signal::IO);
        let mut sent = Sent::Done;
        match owner {
            Owner::Thread(tid) => sent = delivery::send_to_thread(resident, tid, signal, info),
            Owner::Process(pid) => sent = delivery::send_to_process(resident, pid, signal, info),
            Owner::Group(group) => jobs::signal_group(resident, group, signal, info),
        }
        // Who lost a signal is told by the one that cannot queue up, and looks at all descriptors.
        if sent == Sent::Full
            && let Owner::Thread(pid) | Owner::Process(pid) = owner
        {
            delivery::send_to_process(resident, pid, Signal::IO, Info::from_kernel());
        }
    }
}

/// Urgent data has come to a socket: its owner gets SIGURG, whether O_ASYNC is set or not.
pub fn urgent<M: Machine>(resident: &mut Resident<M>, socket: SocketId) {
    let found = resident.program.descriptions.iter().find(|(_, d)| matches!(d.kind, Kind::Socket(id) if id == socket));
    let Some(Hearer { owner: Some(owner), .. }) = found.and_then(|(_, description)| description.hearer) else { return };
    match owner {
        Owner::Thread(tid) => {
            delivery::send_to_thread(resident, tid, Signal::URG, Info::from_kernel());
        }
        Owner::Process(pid) => {
            delivery::send_to_process(resident, pid, Signal::URG, Info::from_kernel());
        }
        Owner::Group(group) => jobs::signal_group(resident, group, Signal::URG, Info::from_kernel()),
    }
}

/// The first descriptor of the owner that refers to a description, for `si_fd`.
fn number_of(program: &Program, owner: Pid, id: DescriptionId) -> u32 {
    let pid = program.threads.get(&owner).map_or(owner, |thread| thread.process);
    let table = program.processes.get(&pid).and_then(|process| program.tables.get(&process.files));
    table.and_then(|table| table.iter().find(|(_, d)| d.description == id)).map_or(0, |(fd, _)| fd)
}

/// The fcntl(2) commands; `None` for others.
pub fn fcntl<M: Machine>(c: &mut Context<'_, M>, fd: u64, command: u64, argument: u64) -> Result<Option<u64>> {
    const SETOWN: u64 = 8;
    const GETOWN: u64 = 9;
    const SETSIG: u64 = 10;
    const GETSIG: u64 = 11;
    const SETOWN_EX: u64 = 15;
    const GETOWN_EX: u64 = 16;
    const GETOWN_UIDS: u64 = 17;
    if !matches!(command, SETOWN..=GETSIG | SETOWN_EX..=GETOWN_UIDS) {
        return Ok(None);
    }
    let id = c.descriptor(fd)?.description;
    let hearer = c.description_by(id)?.hearer.unwrap_or_default();
    let value = match command {
        SETOWN => {
            let number = argument as i32;
            let pid = Pid(number.checked_abs().ok_or(Errno::EINVAL)? as u32);
            let owner = match number {
                0 => None,
                number if number < 0 => Some(Owner::Group(pid)),
                _ => Some(Owner::Process(pid)),
            };
            name(c, id, owner)?
        }
        GETOWN => hearer.owner.map_or(0, Owner::to_number) as i64 as u64,
        SETSIG => {
            let signal = if argument == 0 { None } else { Some(Signal::new(argument).ok_or(Errno::EINVAL)?) };
            let description = c.description_by(id)?;
            description.hearer = Some(Hearer { signal, ..hearer });
            0
        }
        GETSIG => hearer.signal.map_or(0, |signal| signal.number().into()),
        SETOWN_EX => {
            let (kind, pid) = (c.read_u32(argument)?, Pid(c.read_u32(argument.wrapping_add(4))?));
            let owner = match kind {
                0 => Owner::Thread(pid),
                1 => Owner::Process(pid),
                2 => Owner::Group(pid),
                _ => return Err(Errno::EINVAL.into()),
            };
            name(c, id, (pid != Pid(0)).then_some(owner))?
        }
        GETOWN_EX => {
            let (kind, pid) = hearer.owner.map_or((0, 0), Owner::to_pair);
            c.write_u32(argument, kind)?;
            c.write_u32(argument.wrapping_add(4), pid)?;
            0
        }
        _ => {
            c.write_u32(argument, hearer.users.0)?;
            c.write_u32(argument.wrapping_add(4), hearer.users.1)?;
            0
        }
    };
    Ok(Some(value))
}

/// Names who hears of a description; ESRCH if there is no such.
fn name<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, owner: Option<Owner>) -> Result<u64> {
    let program = &c.resident.program;
    let exists = match owner {
        None => true,
        Some(Owner::Thread(tid)) => program.threads.contains_key(&tid),
        Some(Owner::Process(pid)) => program.processes.contains_key(&pid),
        Some(Owner::Group(group)) => program.processes.values().any(|process| process.group == group),
    };
    if !exists {
        return Err(Errno::ESRCH.into());
    }
    let users = (c.process()?.credentials.uid, c.process()?.credentials.euid);
    let description = c.description_by(id)?;
    let signal = description.hearer.and_then(|hearer| hearer.signal);
    description.hearer = Some(Hearer { owner, signal, users });
    Ok(0)
}

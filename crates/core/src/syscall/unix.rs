//! UNIX sockets: their names, how they meet and how they part.
use super::{
    network::{caller, caller_groups},
    transfer::{Waiting, wait_if},
};
use crate::{
    context::{Context, Result},
    event::epoll::bits,
    files::{DescriptionId, Kind, UnixId},
    names,
    resident::{Key, Resident},
    unix::{Bound, Closed, UnixKind, UnixSocket, UnixState},
};
use alloc::{format, vec, vec::Vec};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_net::How;
use shimos_vfs::Want;

/// Bytes of `struct sockaddr_un`.
const ADDRESS: usize = 110;
const FAMILY: [u8; 2] = [1, 0];

fn add<M: Machine>(c: &mut Context<'_, M>, socket: UnixSocket) -> UnixId {
    let id = UnixId(c.resident.program.fresh_id());
    c.resident.program.unix.insert(id, socket);
    id
}

pub fn get<'a, M: Machine>(c: &'a mut Context<'_, M>, id: UnixId) -> Result<&'a mut UnixSocket> {
    Ok(c.resident.program.unix.get_mut(&id).ok_or(Errno::EBADF)?)
}

pub fn create<M: Machine>(c: &mut Context<'_, M>, kind: UnixKind) -> Result<Kind> {
    let (owner, groups) = (caller(c)?, caller_groups(c)?);
    Ok(Kind::Unix(add(c, UnixSocket::new(kind, owner, groups))))
}

pub fn create_pair<M: Machine>(c: &mut Context<'_, M>, kind: UnixKind) -> Result<(Kind, Kind)> {
    let (owner, groups) = (caller(c)?, caller_groups(c)?);
    let socket = || UnixSocket {
        peer_owner: Some(owner),
        peer_groups: groups.clone(),
        ..UnixSocket::new(kind, owner, groups.clone())
    };
    let one = add(c, socket());
    let two = add(c, UnixSocket { state: UnixState::Connected(one), ..socket() });
    get(c, one)?.state = UnixState::Connected(two);
    Ok((Kind::Unix(one), Kind::Unix(two)))
}

/// The name in a struct sockaddr_un: a path without its closing zero, or an abstract name with its leading one.
fn parse(bytes: &[u8]) -> Result<Vec<u8>> {
    if bytes.len() > ADDRESS || bytes.first_chunk::<2>() != Some(&FAMILY) {
        return Err(Errno::EINVAL.into());
    }
    let name = bytes.get(2..).unwrap_or_default();
    if name.first() == Some(&0) {
        return Ok(name.to_vec());
    }
    Ok(name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec())
}

/// The address that a name makes.
pub fn address(name: &[u8]) -> Vec<u8> {
    let mut bytes = FAMILY.to_vec();
    bytes.extend_from_slice(name);
    if name.first().is_some_and(|byte| *byte != 0) {
        bytes.push(0);
    }
    bytes
}

/// Whether a socket has its name only because its listener has it.
fn is_accepted(socket: &UnixSocket) -> bool {
    socket.bound == Bound::ByListener
}

fn is_taken<M: Machine>(c: &Context<'_, M>, name: &[u8]) -> bool {
    c.resident.program.unix.values().any(|socket| socket.name == name && !is_accepted(socket))
}

/// An abstract name that nobody has.
fn free_name<M: Machine>(c: &mut Context<'_, M>) -> Result<Vec<u8>> {
    const NAMES: u32 = 0x10_0000;
    let start = c.resident.program.fresh_id();
    let name = |step: u32| [b"\0".as_slice(), format!("{:05x}", start.wrapping_add(step) % NAMES).as_bytes()].concat();
    let free = (0..NAMES).map(name).find(|name| !is_taken(c, name));
    Ok(free.ok_or(Errno::ENOSPC)?)
}

pub fn bind<M: Machine>(c: &mut Context<'_, M>, id: UnixId, bytes: &[u8]) -> Result<()> {
    let mut name = parse(bytes)?;
    let bound = !get(c, id)?.name.is_empty();
    if name.is_empty() && bytes.len() == FAMILY.len() {
        // Who gives no name at all gets one, unless there is one already.
        if bound {
            return Ok(());
        }
        name = free_name(c)?;
    }
    if name.is_empty() {
        return Err(Errno::ENOENT.into());
    }
    if bound {
        return Err(Errno::EINVAL.into());
    }
    // A path is bound as the node that it makes, so that all paths of the node find it.
    let node = if name.first() == Some(&0) {
        if is_taken(c, &name) {
            return Err(Errno::EADDRINUSE.into());
        }
        None
    } else {
        Some(names::make_socket(c, &name)?)
    };
    let socket = get(c, id)?;
    socket.name = name;
    socket.node = node;
    Ok(())
}

/// Gives a socket a name of its own if it wants its messages to say who sent them and has none.
pub fn name_itself<M: Machine>(c: &mut Context<'_, M>, id: UnixId) -> Result<()> {
    let socket = get(c, id)?;
    if socket.options.passes_credentials() && socket.name.is_empty() {
        let name = free_name(c)?;
        get(c, id)?.name = name;
    }
    Ok(())
}

pub fn listen<M: Machine>(c: &mut Context<'_, M>, id: UnixId, backlog: u32) -> Result<()> {
    let (owner, groups) = (caller(c)?, caller_groups(c)?);
    let socket = get(c, id)?;
    if socket.kind == UnixKind::Datagram {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if socket.name.is_empty() {
        return Err(Errno::EINVAL.into());
    }
    let grown = match &mut socket.state {
        UnixState::Idle => {
            socket.state = UnixState::Listening(Default::default(), backlog);
            false
        }
        UnixState::Listening(_, limit) => core::mem::replace(limit, backlog) < backlog,
        _ => return Err(Errno::EINVAL.into()),
    };
    // Who connects sees who listens, not who made the socket.
    socket.owner = owner;
    socket.owner_groups = groups;
    if grown {
        c.resident.wake_threads(Key::Unix(id));
    }
    Ok(())
}

/// The bound socket of a name.
pub fn find<M: Machine>(c: &mut Context<'_, M>, bytes: &[u8]) -> Result<UnixId> {
    let name = parse(bytes)?;
    if name.is_empty() {
        return Err(if bytes.len() == FAMILY.len() { Errno::EINVAL } else { Errno::ECONNREFUSED }.into());
    }
    let node = if name.first() == Some(&0) {
        None
    } else {
        // A path that does not exist is ENOENT; one that nobody listens at is refused below.
        let node = names::resolve(c, &name)?;
        let metadata = c.metadata(node)?;
        c.access()?.check(&metadata, Want::WRITE)?;
        Some(c.resident.program.tree.canonical(node))
    };
    let matches = |socket: &UnixSocket| {
        !is_accepted(socket) && if node.is_some() { socket.node == node } else { socket.name == name }
    };
    let found = c.resident.program.unix.iter().find(|(_, socket)| matches(socket)).map(|(id, _)| *id);
    found.ok_or(Errno::ECONNREFUSED.into())
}

pub fn connect<M: Machine>(c: &mut Context<'_, M>, id: UnixId, bytes: &[u8], waiting: Waiting) -> Result<()> {
    let kind = get(c, id)?.kind;
    if kind == UnixKind::Datagram {
        return connect_datagrams(c, id, bytes);
    }
    name_itself(c, id)?;
    let target = find(c, bytes)?;
    match get(c, id)?.state {
        UnixState::Idle => {}
        UnixState::Listening(..) => return Err(Errno::EINVAL.into()),
        _ => return Err(Errno::EISCONN.into()),
    }
    let (owner, groups) = (caller(c)?, caller_groups(c)?);
    let listener = get(c, target)?;
    if listener.kind != kind {
        return Err(Errno::EPROTOTYPE.into());
    }
    match &listener.state {
        UnixState::Listening(..) if listener.read_closed.is_some() => return Err(Errno::ECONNREFUSED.into()),
        UnixState::Listening(queue, backlog) if queue.len() as u32 > *backlog => {
            return wait_if(c, waiting, Key::Unix(target));
        }
        UnixState::Listening(..) => {}
        _ => return Err(Errno::ECONNREFUSED.into()),
    }
    let server = UnixSocket {
        state: UnixState::Connected(id),
        name: listener.name.clone(),
        bound: Bound::ByListener,
        peer_owner: Some(owner),
        peer_groups: groups,
        options: listener.options.clone(),
        ..UnixSocket::new(kind, listener.owner, listener.owner_groups.clone())
    };
    let (server_owner, server_groups) = (server.owner, server.owner_groups.clone());
    let server = add(c, server);
    let client = get(c, id)?;
    client.state = UnixState::Connected(server);
    client.peer_owner = Some(server_owner);
    client.peer_groups = server_groups;
    if let UnixState::Listening(waiting, _) = &mut get(c, target)?.state {
        waiting.push_back(server);
    }
    c.resident.wake_as(Key::Unix(target), bits::READ);
    // It was at its end before, and can be written now.
    c.wake(Key::Unix(id));
    Ok(())
}

/// Chooses whom a datagram socket talks to; AF_UNSPEC: nobody.
fn connect_datagrams<M: Machine>(c: &mut Context<'_, M>, id: UnixId, bytes: &[u8]) -> Result<()> {
    if bytes.first_chunk::<2>() == Some(&[0, 0]) {
        get(c, id)?.state = UnixState::Idle;
        c.wake(Key::Unix(id));
        return Ok(());
    }
    name_itself(c, id)?;
    let target = find(c, bytes)?;
    let peer = get(c, target)?;
    if peer.kind != UnixKind::Datagram {
        return Err(Errno::EPROTOTYPE.into());
    }
    if peer.peer().is_some_and(|other| other != id) {
        return Err(Errno::EPERM.into());
    }
    get(c, id)?.state = UnixState::Connected(target);
    c.wake(Key::Unix(id));
    Ok(())
}

pub fn accept<M: Machine>(c: &mut Context<'_, M>, id: UnixId, waiting: Waiting) -> Result<(Kind, Vec<u8>)> {
    let socket = get(c, id)?;
    if socket.kind == UnixKind::Datagram {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let ended = socket.read_closed.is_some();
    let UnixState::Listening(queue, _) = &mut socket.state else { return Err(Errno::EINVAL.into()) };
    let Some(new) = queue.pop_front() else {
        return if ended { Err(Errno::EINVAL.into()) } else { wait_if(c, waiting, Key::Unix(id)) };
    };
    c.resident.wake_threads(Key::Unix(id));
    let peer = peer_name(c, new).unwrap_or_else(|_| address(&[]));
    Ok((Kind::Unix(new), peer))
}

pub fn name<M: Machine>(c: &mut Context<'_, M>, id: UnixId) -> Result<Vec<u8>> {
    Ok(address(&get(c, id)?.name))
}

pub fn peer_name<M: Machine>(c: &mut Context<'_, M>, id: UnixId) -> Result<Vec<u8>> {
    let peer = get(c, id)?.peer().ok_or(Errno::ENOTCONN)?;
    Ok(address(&get(c, peer)?.name))
}

pub fn shutdown<M: Machine>(c: &mut Context<'_, M>, id: UnixId, how: How) -> Result<()> {
    let socket = get(c, id)?;
    if how != How::Write {
        socket.read_closed = Some(Closed);
    }
    if how != How::Read {
        socket.write_closed = Some(Closed);
    }
    let peer = socket.peer().filter(|_| socket.kind != UnixKind::Datagram);
    if let Some(peer) = peer {
        if let Ok(other) = get(c, peer) {
            if how != How::Read {
                other.read_closed = Some(Closed);
            }
            if how != How::Write {
                other.write_closed = Some(Closed);
            }
        }
        c.wake(Key::Unix(peer));
    }
    c.wake(Key::Unix(id));
    Ok(())
}

/// Reads an option of the level SOL_SOCKET.
pub fn option<M: Machine>(c: &mut Context<'_, M>, id: UnixId, name: i32) -> Result<Vec<u8>> {
    const TYPE: i32 = 3;
    const ERROR: i32 = 4;
    const PEER_CREDENTIALS: i32 = 17;
    const PEER_NAME: i32 = 28;
    const LISTENS: i32 = 30;
    const PROTOCOL: i32 = 38;
    const DOMAIN: i32 = 39;
    const COOKIE: i32 = 57;
    const PEER_GROUPS: i32 = 59;
    let socket = get(c, id)?;
    let value = match name {
        TYPE => match socket.kind {
            UnixKind::Stream => 1,
            UnixKind::Datagram => 2,
            UnixKind::SeqPacket => 5_u32,
        },
        ERROR => socket.error.take().map_or(0, |error| error.0.into()),
        LISTENS => matches!(socket.state, UnixState::Listening(..)).into(),
        PROTOCOL => 0,
        DOMAIN => 1,
        COOKIE => return Ok(u64::from(id.0).to_le_bytes().to_vec()),
        PEER_CREDENTIALS => {
            let (pid, uid, gid) =
                socket.peer_owner.map_or((0, u32::MAX, u32::MAX), |(pid, uid, gid)| (pid.0, uid, gid));
            return Ok([pid.to_le_bytes(), uid.to_le_bytes(), gid.to_le_bytes()].concat());
        }
        PEER_GROUPS => {
            socket.peer_owner.ok_or(Errno::ENODATA)?;
            return Ok(socket.peer_groups.iter().flat_map(|group| group.to_le_bytes()).collect());
        }
        PEER_NAME => return peer_name(c, id),
        name => return Ok(socket.options.general(name)?),
    };
    Ok(value.to_le_bytes().to_vec())
}

/// The last descriptor of a socket is closed: its peer sees the end, what was in flight is dropped.
pub fn closed<M: Machine>(c: &mut Resident<M>, id: UnixId) -> Vec<DescriptionId> {
    let Some(socket) = c.program.unix.remove(&id) else { return Vec::new() };
    let mut dropped: Vec<DescriptionId> = socket.queue.iter().flat_map(|message| message.files.clone()).collect();
    c.rights_in_flight = c.rights_in_flight.saturating_sub(dropped.len());
    let mut lost = !socket.queue.is_empty();
    if let UnixState::Listening(waiting, _) = &socket.state {
        for unaccepted in waiting.clone() {
            if let Some(socket) = c.program.unix.get_mut(&unaccepted) {
                // Nobody will ever accept it: its peer is told as if bytes were lost.
                socket.error = Some(Errno::ECONNRESET);
            }
            dropped.extend(closed(c, unaccepted));
        }
    }
    lost |= socket.bound == Bound::ByListener && socket.error == Some(Errno::ECONNRESET);
    // Of a stream only its peer has it for a peer; of datagrams many may.
    let peers: Vec<UnixId> = match socket.kind {
        UnixKind::Datagram => {
            c.program.unix.iter().filter(|(_, other)| other.peer() == Some(id)).map(|(id, _)| *id).collect()
        }
        _ => socket.peer().into_iter().collect(),
    };
    for peer in peers {
        if let Some(other) = c.program.unix.get_mut(&peer) {
            other.state = UnixState::Orphaned;
            if other.kind != UnixKind::Datagram {
                other.read_closed = Some(Closed);
                other.write_closed = Some(Closed);
                if lost {
                    other.error = Some(Errno::ECONNRESET);
                }
            }
        }
        c.wake(Key::Unix(peer));
    }
    c.wake(Key::Unix(id));
    dropped
}

/// Descriptions that only messages in flight refer to, directly or through sockets that are themselves only in flight: no
/// program can ever reach them.
pub fn unreachable_rights<M: Machine>(c: &Resident<M>) -> Vec<DescriptionId> {
    use alloc::collections::{BTreeMap, BTreeSet};
    if c.rights_in_flight == 0 {
        return Vec::new();
    }
    let mut flying: BTreeMap<DescriptionId, u32> = BTreeMap::new();
    for socket in c.program.unix.values() {
        for file in socket.queue.iter().flat_map(|message| &message.files) {
            *flying.entry(*file).or_default() += 1;
        }
    }
    let socket_of = |id: &DescriptionId| match c.program.descriptions.get(id).map(|found| &found.kind) {
        Some(Kind::Unix(socket)) => Some(*socket),
        _ => None,
    };
    // Sockets that are in flight and nowhere else, with the descriptions that stand for them.
    let suspects: BTreeMap<UnixId, DescriptionId> = flying
        .iter()
        .filter(|(id, count)| c.program.descriptions.get(id).is_some_and(|found| found.references <= **count))
        .filter_map(|(id, _)| socket_of(id).map(|socket| (socket, *id)))
        .collect();
    if suspects.is_empty() {
        return Vec::new();
    }
    // What can be reached from sockets outside is alive, and so is what their queues carry.
    let mut alive: BTreeSet<UnixId> = BTreeSet::new();
    let in_listener = |id: UnixId| {
        c.program.unix.iter().find_map(|(listener, socket)| match &socket.state {
            UnixState::Listening(queue, _) if queue.contains(&id) => Some(*listener),
            _ => None,
        })
    };
    let mut open: Vec<UnixId> = c
        .program
        .unix
        .keys()
        .filter(|id| !suspects.contains_key(id) && in_listener(**id).is_none_or(|at| !suspects.contains_key(&at)))
        .copied()
        .collect();
    while let Some(id) = open.pop() {
        if !alive.insert(id) {
            continue;
        }
        let Some(socket) = c.program.unix.get(&id) else { continue };
        open.extend(socket.queue.iter().flat_map(|message| &message.files).filter_map(socket_of));
        if let UnixState::Listening(queue, _) = &socket.state {
            open.extend(queue.iter().copied());
        }
    }
    suspects.into_iter().filter(|(socket, _)| !alive.contains(socket)).map(|(_, id)| id).collect()
}

/// Empties the queues of the sockets behind these descriptions; returns the references that their messages held.
pub fn drop_rights<M: Machine>(c: &mut Resident<M>, dead: &[DescriptionId]) -> Vec<DescriptionId> {
    let mut dropped = vec![];
    for id in dead {
        let Some(Kind::Unix(socket)) = c.program.descriptions.get(id).map(|found| found.kind.clone()) else {
            continue;
        };
        let mut queues = vec![socket];
        if let Some(UnixState::Listening(waiting, _)) = c.program.unix.get(&socket).map(|socket| &socket.state) {
            queues.extend(waiting.iter().copied());
        }
        for queue in queues {
            if let Some(socket) = c.program.unix.get_mut(&queue) {
                while let Some(message) = socket.pop() {
                    dropped.extend(message.files);
                }
            }
        }
    }
    c.rights_in_flight = c.rights_in_flight.saturating_sub(dropped.len());
    dropped
}

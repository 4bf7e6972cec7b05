//! UNIX sockets.
use super::{
    network::Received,
    transfer::{Progress, Waiting, wait_if},
};
use crate::{
    context::{Context, Result},
    event::epoll::bits,
    files::{DescriptionId, Kind, UnixId},
    names,
    resident::Key,
    unix::{Bound, Closed, Message, QUEUE_LIMIT, UnixKind, UnixSocket, UnixState},
};
use alloc::{vec, vec::Vec};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_net::{How, Take};
use shimos_vfs::Want;

fn owner<M: Machine>(c: &Context<'_, M>) -> Result<(shimos_abi::ids::Pid, u32, u32)> {
    let process = c.process()?;
    Ok((process.pid, process.credentials.euid, process.credentials.egid))
}

fn add<M: Machine>(c: &mut Context<'_, M>, socket: UnixSocket) -> UnixId {
    let id = UnixId(c.resident.program.fresh_id());
    c.resident.program.unix.insert(id, socket);
    id
}

fn get<'a, M: Machine>(c: &'a mut Context<'_, M>, id: UnixId) -> Result<&'a mut UnixSocket> {
    Ok(c.resident.program.unix.get_mut(&id).ok_or(Errno::EBADF)?)
}

pub fn create<M: Machine>(c: &mut Context<'_, M>, kind: UnixKind) -> Result<Kind> {
    let owner = owner(c)?;
    Ok(Kind::Unix(add(c, UnixSocket::new(kind, owner))))
}

pub fn create_pair<M: Machine>(c: &mut Context<'_, M>, kind: UnixKind) -> Result<(Kind, Kind)> {
    let owner = owner(c)?;
    let socket = || UnixSocket { peer_owner: Some(owner), ..UnixSocket::new(kind, owner) };
    let one = add(c, socket());
    let two = add(c, UnixSocket { state: UnixState::Connected(one), ..socket() });
    get(c, one)?.state = UnixState::Connected(two);
    Ok((Kind::Unix(one), Kind::Unix(two)))
}

/// The name in a struct sockaddr_un: a path without its closing zero, or an abstract name with its leading one.
fn parse(bytes: &[u8]) -> Result<Vec<u8>> {
    if bytes.first() != Some(&1) || bytes.get(1) != Some(&0) {
        return Err(Errno::EINVAL.into());
    }
    let name = bytes.get(2..).unwrap_or_default();
    if name.first() == Some(&0) {
        return Ok(name.to_vec());
    }
    Ok(name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec())
}

fn address(name: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 0];
    bytes.extend_from_slice(name);
    if !name.is_empty() && name[0] != 0 {
        bytes.push(0);
    }
    bytes
}

pub fn bind<M: Machine>(c: &mut Context<'_, M>, id: UnixId, bytes: &[u8]) -> Result<()> {
    let name = parse(bytes)?;
    if name.is_empty() || !get(c, id)?.name.is_empty() {
        return Err(Errno::EINVAL.into());
    }
    // A path is bound as the node that it makes, so that all paths of the node find it.
    let node = if name.first() == Some(&0) {
        if c.resident.program.unix.values().any(|socket| socket.name == name && !is_accepted(socket)) {
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

/// Whether a socket has its name only because its listener has it.
fn is_accepted(socket: &UnixSocket) -> bool {
    socket.bound == Bound::ByListener
}

pub fn listen<M: Machine>(c: &mut Context<'_, M>, id: UnixId, backlog: u32) -> Result<()> {
    let socket = get(c, id)?;
    if socket.kind == UnixKind::Datagram {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if socket.name.is_empty() {
        return Err(Errno::EINVAL.into());
    }
    match &mut socket.state {
        UnixState::Idle => socket.state = UnixState::Listening(Default::default(), backlog),
        UnixState::Listening(_, limit) => *limit = backlog,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(())
}

/// The bound socket of a name.
fn find<M: Machine>(c: &mut Context<'_, M>, bytes: &[u8]) -> Result<UnixId> {
    let name = parse(bytes)?;
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
    let target = find(c, bytes)?;
    let kind = get(c, id)?.kind;
    if get(c, target)?.kind != kind {
        return Err(Errno::EPROTOTYPE.into());
    }
    if kind == UnixKind::Datagram {
        get(c, id)?.state = UnixState::Connected(target);
        return Ok(());
    }
    if !matches!(get(c, id)?.state, UnixState::Idle) {
        return Err(Errno::EISCONN.into());
    }
    let listener = get(c, target)?;
    let (name, owner) = (listener.name.clone(), listener.owner);
    match &listener.state {
        UnixState::Listening(queue, backlog) if queue.len() as u32 > *backlog => {
            return wait_if(c, waiting, Key::Unix(target));
        }
        UnixState::Listening(..) => {}
        _ => return Err(Errno::ECONNREFUSED.into()),
    }
    let state = UnixState::Connected(id);
    let peer_owner = Some(self::owner(c)?);
    let server = UnixSocket { state, name, bound: Bound::ByListener, peer_owner, ..UnixSocket::new(kind, owner) };
    let server = add(c, server);
    let client = get(c, id)?;
    client.state = UnixState::Connected(server);
    client.peer_owner = Some(owner);
    if let UnixState::Listening(waiting, _) = &mut get(c, target)?.state {
        waiting.push_back(server);
    }
    c.resident.wake_as(Key::Unix(target), bits::READ);
    // It was at its end before, and can be written now.
    c.wake(Key::Unix(id));
    Ok(())
}

pub fn accept<M: Machine>(c: &mut Context<'_, M>, id: UnixId, waiting: Waiting) -> Result<(Kind, Vec<u8>)> {
    let UnixState::Listening(queue, _) = &mut get(c, id)?.state else { return Err(Errno::EINVAL.into()) };
    let Some(new) = queue.pop_front() else {
        return wait_if(c, waiting, Key::Unix(id));
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

/// Sends to the peer; `Moved(0)` for a broken connection. References of `files` are taken when the bytes go.
pub fn send<M: Machine>(
    c: &mut Context<'_, M>,
    id: UnixId,
    bytes: &[u8],
    files: Vec<DescriptionId>,
) -> Result<Progress> {
    let socket = get(c, id)?;
    if socket.kind == UnixKind::Datagram && matches!(socket.state, UnixState::Orphaned) {
        // Told once; then it has no peer.
        socket.state = UnixState::Idle;
        return Err(Errno::ECONNREFUSED.into());
    }
    if socket.write_closed.is_some() || matches!(socket.state, UnixState::Orphaned) {
        return Ok(Progress::Moved(0));
    }
    let peer = socket.peer().ok_or(Errno::ENOTCONN)?;
    deliver(c, id, peer, bytes, files)
}

/// Sends a datagram to a name.
pub fn send_to<M: Machine>(
    c: &mut Context<'_, M>,
    id: UnixId,
    to: &[u8],
    bytes: &[u8],
    files: Vec<DescriptionId>,
) -> Result<Progress> {
    if get(c, id)?.kind != UnixKind::Datagram {
        return Err(Errno::EISCONN.into());
    }
    let target = find(c, to)?;
    deliver(c, id, target, bytes, files)
}

fn deliver<M: Machine>(
    c: &mut Context<'_, M>,
    from: UnixId,
    to: UnixId,
    bytes: &[u8],
    files: Vec<DescriptionId>,
) -> Result<Progress> {
    let (kind, from_name) = {
        let socket = get(c, from)?;
        (socket.kind, address(&socket.name))
    };
    let Ok(peer) = get(c, to) else { return Err(Errno::ECONNREFUSED.into()) };
    if peer.read_closed.is_some() && kind != UnixKind::Datagram {
        return Ok(Progress::Moved(0));
    }
    let room = QUEUE_LIMIT.saturating_sub(peer.queued());
    let count = match kind {
        UnixKind::Stream => bytes.len().min(room),
        _ if bytes.len() > QUEUE_LIMIT => return Err(Errno::EMSGSIZE.into()),
        _ if bytes.len() > room => 0,
        _ => bytes.len(),
    };
    if count == 0 && (!bytes.is_empty() || room == 0) {
        return Ok(Progress::Wait(Key::Unix(to)));
    }
    if kind == UnixKind::Stream && bytes.is_empty() {
        return Ok(Progress::Moved(0));
    }
    // Pieces of a stream without descriptors join the last piece.
    let joined = match peer.queue.back_mut() {
        Some(last) if kind == UnixKind::Stream && files.is_empty() && last.bytes.len() < 65536 => {
            last.bytes.extend_from_slice(&bytes[..count]);
            true
        }
        _ => false,
    };
    if !joined {
        peer.queue.push_back(Message { bytes: bytes[..count].to_vec(), files: files.clone(), from: from_name });
        for file in files {
            if let Some(description) = c.resident.program.descriptions.get_mut(&file) {
                description.references = description.references.saturating_add(1);
            }
        }
    }
    c.resident.wake_as(Key::Unix(to), bits::READ | bits::PRI);
    Ok(Progress::Moved(count))
}

/// Receives: one message, or what a stream has (not beyond a piece that carries descriptors).
pub fn receive<M: Machine>(
    c: &mut Context<'_, M>,
    id: UnixId,
    count: usize,
    waiting: Waiting,
    peek: Take,
) -> Result<Received> {
    let socket = get(c, id)?;
    if socket.queue.is_empty() {
        let stream = socket.kind != UnixKind::Datagram;
        let ended = socket.read_closed.is_some() || stream && matches!(socket.state, UnixState::Orphaned);
        if ended {
            return Ok(Received { bytes: Vec::new(), files: Vec::new(), from: Vec::new() });
        }
        if matches!(socket.state, UnixState::Idle) && socket.kind != UnixKind::Datagram {
            return Err(Errno::EINVAL.into());
        }
        return wait_if(c, waiting, Key::Unix(id));
    }
    let datagrams = socket.kind == UnixKind::Datagram;
    let was_full = socket.queued() >= QUEUE_LIMIT / 2;
    let mut received = Received { bytes: Vec::new(), files: Vec::new(), from: Vec::new() };
    if peek == Take::Peek {
        if let Some(message) = socket.queue.front() {
            received.bytes.extend_from_slice(&message.bytes[..count.min(message.bytes.len())]);
            received.from.clone_from(&message.from);
        }
        return Ok(received);
    }
    while let Some(message) = socket.queue.front_mut() {
        let take = (count - received.bytes.len()).min(message.bytes.len());
        received.files.append(&mut message.files);
        received.from.clone_from(&message.from);
        if socket.kind != UnixKind::Stream {
            received.bytes.extend_from_slice(&message.bytes[..take]);
            socket.queue.pop_front();
            break;
        }
        received.bytes.extend(message.bytes.drain(..take));
        if message.bytes.is_empty() {
            socket.queue.pop_front();
        }
        if received.bytes.len() >= count || !received.files.is_empty() {
            break;
        }
    }
    let made_room = was_full && socket.queued() < QUEUE_LIMIT / 2;
    // Senders wait on the receiving socket; who watches for room in it watches his own.
    c.resident.wake_threads(Key::Unix(id));
    let senders: Vec<UnixId> = if datagrams {
        if !made_room {
            return Ok(received);
        }
        let sockets = c.resident.program.unix.iter();
        sockets.filter(|(_, other)| other.peer() == Some(id)).map(|(sender, _)| *sender).collect()
    } else {
        get(c, id)?.peer().into_iter().collect()
    };
    for sender in senders {
        c.resident.wake_as(Key::Unix(sender), bits::WRITE);
    }
    Ok(received)
}

pub fn shutdown<M: Machine>(c: &mut Context<'_, M>, id: UnixId, how: How) -> Result<()> {
    let peer = get(c, id)?.peer().ok_or(Errno::ENOTCONN)?;
    if how != How::Write {
        get(c, id)?.read_closed = Some(Closed);
    }
    if how != How::Read {
        get(c, id)?.write_closed = Some(Closed);
        if let Ok(peer) = get(c, peer) {
            peer.read_closed = Some(Closed);
        }
    }
    c.wake(Key::Unix(id));
    c.wake(Key::Unix(peer));
    Ok(())
}

pub fn option<M: Machine>(c: &mut Context<'_, M>, id: UnixId, level: u32, name: u32) -> Result<Vec<u8>> {
    const SO_TYPE: u32 = 3;
    const SO_ERROR: u32 = 4;
    const SO_SNDBUF: u32 = 7;
    const SO_RCVBUF: u32 = 8;
    const SO_PEERCRED: u32 = 17;
    const SO_ACCEPTCONN: u32 = 30;
    const SO_DOMAIN: u32 = 39;
    if level != 1 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let socket = get(c, id)?;
    let value = match name {
        SO_TYPE => match socket.kind {
            UnixKind::Stream => 1,
            UnixKind::Datagram => 2,
            UnixKind::SeqPacket => 5_u32,
        },
        SO_ERROR => 0,
        SO_SNDBUF | SO_RCVBUF => QUEUE_LIMIT as u32,
        SO_ACCEPTCONN => matches!(socket.state, UnixState::Listening(..)).into(),
        SO_DOMAIN => 1,
        SO_PEERCRED => {
            let (pid, uid, gid) =
                socket.peer_owner.map_or((0, u32::MAX, u32::MAX), |(pid, uid, gid)| (pid.0, uid, gid));
            return Ok([pid.to_le_bytes(), uid.to_le_bytes(), gid.to_le_bytes()].concat());
        }
        _ => return Err(Errno::ENOPROTOOPT.into()),
    };
    Ok(value.to_le_bytes().to_vec())
}

/// The last descriptor of a socket is closed: its peer sees the end, what was in flight is dropped.
pub fn closed<M: Machine>(c: &mut crate::resident::Resident<M>, id: UnixId) -> Vec<DescriptionId> {
    let Some(socket) = c.program.unix.remove(&id) else { return Vec::new() };
    let mut dropped: Vec<DescriptionId> = socket.queue.iter().flat_map(|message| message.files.clone()).collect();
    if let UnixState::Listening(waiting, _) = &socket.state {
        for unaccepted in waiting.clone() {
            dropped.extend(closed(c, unaccepted));
        }
    }
    let peers: Vec<UnixId> =
        c.program.unix.iter().filter(|(_, other)| other.peer() == Some(id)).map(|(id, _)| *id).collect();
    for peer in peers {
        if let Some(other) = c.program.unix.get_mut(&peer) {
            other.state = UnixState::Orphaned;
            if other.kind != UnixKind::Datagram {
                other.read_closed = Some(Closed);
            }
        }
        c.wake(Key::Unix(peer));
    }
    c.wake(Key::Unix(id));
    dropped
}

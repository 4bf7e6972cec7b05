//! UNIX sockets: messages and what travels with them.
use super::{
    ancillary,
    receiving::{self, Received},
    sending::{Outgoing, message},
    transfer::{Waiting, wait_if},
    unix::{address, find, get, name_itself},
    writing::Progress,
};
use crate::{
    context::{Context, Result, Stop},
    event::epoll::bits,
    files::{DescriptionId, UnixId},
    resident::Key,
    unix::{Message, UnixKind, UnixSocket, UnixState},
};
use alloc::vec::Vec;
use shimos_abi::errno::Errno;
use shimos_hal::Machine;

/// Pieces of a stream join into messages of this size at most.
const PIECE: usize = 65536;
/// What Linux keeps of a send buffer for itself.
const OVERHEAD: usize = 32;
/// RLIMIT_NOFILE.
const FILES_LIMIT: usize = 7;

/// Sends a message, or the rest of one of which `moved` bytes went already. Descriptors go with its first byte.
pub fn send<M: Machine>(
    c: &mut Context<'_, M>,
    id: UnixId,
    rest: &[u8],
    out: &Outgoing,
    moved: usize,
) -> Result<Progress> {
    if out.flags & message::OUT_OF_BAND != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let socket = get(c, id)?;
    if let Some(error) = socket.error.take_if(|_| socket.kind == UnixKind::Datagram) {
        return Err(error.into());
    }
    let kind = socket.kind;
    let connected = matches!(socket.state, UnixState::Connected(_) | UnixState::Orphaned);
    let to = match (&out.to, kind) {
        (Some(_), UnixKind::Stream) => {
            return Err(if connected { Errno::EISCONN } else { Errno::EOPNOTSUPP }.into());
        }
        (Some(name), UnixKind::Datagram) => Some(name.clone()),
        _ => None,
    };
    if kind == UnixKind::Datagram {
        name_itself(c, id)?;
    }
    let target = match &to {
        Some(name) => {
            let target = find(c, name)?;
            if get(c, target)?.kind != kind {
                return Err(Errno::EPROTOTYPE.into());
            }
            target
        }
        None => {
            let socket = get(c, id)?;
            match socket.state {
                UnixState::Connected(peer) => peer,
                UnixState::Orphaned if kind == UnixKind::Datagram => {
                    // Told once; then it has no peer.
                    socket.state = UnixState::Idle;
                    return Err(Errno::ECONNREFUSED.into());
                }
                UnixState::Orphaned => return Err(Errno::EPIPE.into()),
                _ => return Err(Errno::ENOTCONN.into()),
            }
        }
    };
    let socket = get(c, id)?;
    if socket.write_closed.is_some() {
        return Err(Errno::EPIPE.into());
    }
    let limit = socket.options.send_buffer as usize;
    let name = address(&socket.name);
    if kind != UnixKind::Stream && rest.len() > limit.saturating_sub(OVERHEAD) {
        return Err(Errno::EMSGSIZE.into());
    }
    deliver(c, id, target, rest, limit, Envelope { name, out, moved })
}

/// What goes with the bytes of a message.
struct Envelope<'a> {
    name: Vec<u8>,
    out: &'a Outgoing,
    moved: usize,
}

fn deliver<M: Machine>(
    c: &mut Context<'_, M>,
    from: UnixId,
    to: UnixId,
    bytes: &[u8],
    limit: usize,
    envelope: Envelope<'_>,
) -> Result<Progress> {
    let sender = ancillary::sender(c, envelope.out)?;
    let files: &[DescriptionId] = if envelope.moved == 0 { &envelope.out.files } else { &[] };
    let Ok(peer) = get(c, to) else { return Err(Errno::ECONNREFUSED.into()) };
    let kind = peer.kind;
    if peer.read_closed.is_some() {
        return Err(Errno::EPIPE.into());
    }
    if kind == UnixKind::Datagram && peer.peer().is_some_and(|other| other != from) {
        return Err(Errno::EPERM.into());
    }
    if kind == UnixKind::Stream && bytes.is_empty() {
        return Ok(Progress::Moved(0));
    }
    let room = limit.saturating_sub(peer.queued());
    let fits = match kind {
        UnixKind::Stream => !peer.is_full(limit),
        // One message more than there is room for, as long as there is some.
        _ => !peer.is_full(limit) || peer.queue.is_empty(),
    };
    if !fits {
        return Ok(Progress::Wait(Key::Unix(to)));
    }
    let count = if kind == UnixKind::Stream { bytes.len().min(room) } else { bytes.len() };
    let bytes = bytes.get(..count).unwrap_or(bytes);
    if !files.is_empty() {
        take_rights(c, files)?;
    }
    let peer = get(c, to)?;
    // Pieces of a stream that say the same of their sender join.
    let joins = |last: &&mut Message| {
        kind == UnixKind::Stream && files.is_empty() && last.bytes.len() < PIECE && last.sender == Some(sender)
    };
    match peer.queue.back_mut().filter(joins) {
        Some(last) => {
            last.bytes.extend_from_slice(bytes);
            peer.used = peer.used.saturating_add(bytes.len());
        }
        None => peer.push(Message {
            bytes: bytes.to_vec(),
            files: files.to_vec(),
            from: envelope.name,
            sender: Some(sender),
            read: 0,
        }),
    }
    c.resident.wake_as(Key::Unix(to), bits::READ | bits::PRI);
    Ok(Progress::Moved(count))
}

/// Takes a reference to each description that is to travel. How many may be under way is bounded as descriptors are.
fn take_rights<M: Machine>(c: &mut Context<'_, M>, files: &[DescriptionId]) -> Result<()> {
    let limit = c.process()?.limits.get(FILES_LIMIT).map_or(1024, |limit| limit.0) as usize;
    if c.resident.rights_in_flight.saturating_add(files.len()) > limit {
        return Err(Errno::ETOOMANYREFS.into());
    }
    for file in files {
        let description = c.description_by(*file)?;
        description.references = description.references.saturating_add(1);
    }
    c.resident.rights_in_flight = c.resident.rights_in_flight.saturating_add(files.len());
    Ok(())
}

/// Looks at descriptions in flight without taking them: the receiver gets references of its own.
fn copy_rights<M: Machine>(c: &mut Context<'_, M>, files: &[DescriptionId]) -> Vec<DescriptionId> {
    let mut copied = Vec::new();
    for file in files {
        if let Ok(description) = c.description_by(*file) {
            description.references = description.references.saturating_add(1);
            copied.push(*file);
        }
    }
    copied
}

/// Why there is nothing to receive, if not because nothing has come yet.
fn ended(socket: &mut UnixSocket) -> Option<Result<()>> {
    if let Some(error) = socket.error.take() {
        return Some(Err(error.into()));
    }
    let stream = socket.kind != UnixKind::Datagram;
    if socket.read_closed.is_some() || stream && matches!(socket.state, UnixState::Orphaned) {
        return Some(Ok(()));
    }
    match (socket.kind, &socket.state) {
        (UnixKind::Stream, UnixState::Idle | UnixState::Listening(..)) => Some(Err(Errno::EINVAL.into())),
        (UnixKind::SeqPacket, UnixState::Idle | UnixState::Listening(..)) => Some(Err(Errno::ENOTCONN.into())),
        _ => None,
    }
}

/// Receives: one message, or what a stream has. `store` puts bytes where they go, from a place on; a piece of a stream is
/// taken out of the queue only when it is stored. Returns what the call returns as well.
pub fn receive_into<M: Machine>(
    c: &mut Context<'_, M>,
    id: UnixId,
    flags: u64,
    waiting: Waiting,
    room: usize,
    store: impl Fn(&mut Context<'_, M>, usize, &[u8]) -> Result<()>,
) -> Result<(Received, u64)> {
    if flags & message::OUT_OF_BAND != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let kind = get(c, id)?.kind;
    if kind == UnixKind::Stream {
        return receive_stream(c, id, flags, waiting, room, store);
    }
    let peek_at = 0;
    let socket = get(c, id)?;
    let Some(first) = socket.queue.front() else {
        return match ended(socket) {
            Some(end) => end.map(|()| (Received::default(), 0)),
            None => wait_if(c, waiting, Key::Unix(id)),
        };
    };
    let wants = socket.options.passes_credentials();
    let count = first.bytes.len().min(room);
    let bytes = first.bytes.get(peek_at..count).unwrap_or_default().to_vec();
    let (length, from, sender) = (first.bytes.len(), first.from.clone(), first.sender);
    let files = first.files.clone();
    store(c, 0, &bytes)?;
    let files = if flags & message::PEEK != 0 {
        copy_rights(c, &files)
    } else {
        let was_full = {
            let socket = get(c, id)?;
            let was_full = socket.is_full(socket.options.send_buffer as usize / 2);
            socket.pop();
            was_full
        };
        c.resident.rights_in_flight = c.resident.rights_in_flight.saturating_sub(files.len());
        made_room(c, id, was_full)?;
        files
    };
    let credentials = sender.filter(|_| wants);
    let received = Received { bytes, length, files, from, credentials, ..Received::default() };
    Ok(receiving::finish(received, flags))
}

fn receive_stream<M: Machine>(
    c: &mut Context<'_, M>,
    id: UnixId,
    flags: u64,
    waiting: Waiting,
    room: usize,
    store: impl Fn(&mut Context<'_, M>, usize, &[u8]) -> Result<()>,
) -> Result<(Received, u64)> {
    let peeks = flags & message::PEEK != 0;
    let low = get(c, id)?.options.receive_low();
    let least = if flags & message::WAIT_ALL != 0 { room } else { low.min(room) };
    let mut moved = if peeks { 0 } else { (c.moved()? as usize).min(room) };
    let mut received = Received::default();
    let mut sender = None;
    // Where the next piece to look at is.
    let mut place = 0;
    loop {
        let socket = get(c, id)?;
        let wants = socket.options.passes_credentials();
        let Some(first) = socket.queue.get(place) else {
            if moved >= least && (moved > 0 || room == 0) || (peeks && moved > 0) {
                break;
            }
            return match ended(socket) {
                Some(_) if moved > 0 => break,
                Some(end) => end.map(|()| (Received::default(), 0)),
                None => match wait_if::<M, ()>(c, waiting, Key::Unix(id)) {
                    Err(Stop::Errno(_)) if moved > 0 => break,
                    Err(Stop::Block(keys)) => {
                        c.set_moved(moved as u64)?;
                        return Err(Stop::Block(keys));
                    }
                    other => other.map(|()| (Received::default(), 0)),
                },
            };
        };
        // Bytes of different senders do not mix for who wants to know the sender.
        if moved > 0 && wants && sender.is_some_and(|known| known != first.sender) {
            break;
        }
        sender = Some(first.sender);
        let count = first.rest().len().min(room - moved);
        let bytes = first.rest().get(..count).unwrap_or_default().to_vec();
        let files = first.files.clone();
        if first.from.len() > 2 {
            received.from.clone_from(&first.from);
        }
        store(c, moved, &bytes)?;
        moved += count;
        let was_full = get(c, id)?.is_full(crate::unix::QUEUE_LIMIT / 2);
        if peeks {
            received.files.extend(copy_rights(c, &files));
            place += 1;
        } else {
            if let Some(first) = get(c, id)?.queue.front_mut() {
                first.files.clear();
            }
            c.resident.rights_in_flight = c.resident.rights_in_flight.saturating_sub(files.len());
            received.files.extend(files);
            get(c, id)?.advance(count);
            made_room(c, id, was_full)?;
        }
        if moved >= room || !received.files.is_empty() {
            break;
        }
    }
    let wants = get(c, id)?.options.passes_credentials();
    received.credentials = sender.flatten().filter(|_| wants);
    received.length = moved;
    Ok((received, moved as u64))
}

/// Wakes who waits for room in a queue. Senders wait on the receiving socket; who watches for room in it watches his own.
fn made_room<M: Machine>(c: &mut Context<'_, M>, id: UnixId, was_full: bool) -> Result<()> {
    let socket = get(c, id)?;
    let datagrams = socket.kind == UnixKind::Datagram;
    let made = was_full && !socket.is_full(crate::unix::QUEUE_LIMIT / 2);
    let peer = socket.peer();
    c.resident.wake_threads(Key::Unix(id));
    let senders: Vec<UnixId> = if datagrams {
        if !made {
            return Ok(());
        }
        let sockets = c.resident.program.unix.iter();
        sockets.filter(|(_, other)| other.peer() == Some(id)).map(|(sender, _)| *sender).collect()
    } else {
        peer.into_iter().collect()
    };
    for sender in senders {
        c.resident.wake_as(Key::Unix(sender), bits::WRITE);
    }
    Ok(())
}

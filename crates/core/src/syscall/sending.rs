//! Sending messages: sendto, sendmsg, sendmmsg.
use super::{
    Arguments,
    ancillary::{self, Takes},
    netlink,
    network::{Socket, socket_by, socket_of},
    pieces::{self, Piece, in_pieces},
    sockaddr,
    transfer::{self, Direction, Waiting, wait_if},
    unix_data,
    writing::{Progress, broken_pipe},
};
use crate::{
    context::{Context, Result, Stop},
    files::DescriptionId,
    resident::Key,
    unix::Owner,
};
use alloc::vec::Vec;
use core::net::SocketAddr;
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_net::{Control, Family, Message, More, Protocol, Room, SocketId, Urgency};

/// Flags of messages (send(2) and recv(2)).
pub mod message {
    pub const OUT_OF_BAND: u64 = 1;
    pub const PEEK: u64 = 2;
    pub const TRUNCATED: u64 = 0x20;
    pub const DONT_WAIT: u64 = 0x40;
    pub const WAIT_ALL: u64 = 0x100;
    pub const ERRORS: u64 = 0x2000;
    pub const NO_SIGNAL: u64 = 0x4000;
    pub const MORE: u64 = 0x8000;
    pub const WAIT_FOR_ONE: u64 = 0x10000;
    pub const FAST_OPEN: u64 = 0x2000_0000;
    pub const CLOSE_ON_EXEC: u64 = 0x4000_0000;
    pub const COMPATIBLE: u64 = 0x8000_0000;
}

/// Messages that one call of sendmmsg or recvmmsg moves, at most (UIO_MAXIOV).
pub const MAX_MESSAGES: u64 = 1024;
/// Bytes of `struct mmsghdr`.
pub const MESSAGE_STRIDE: u64 = 64;

/// A message on its way out, without its bytes.
#[derive(Default)]
pub struct Outgoing {
    /// The receiver's address, if one was named.
    pub to: Option<Vec<u8>>,
    /// Descriptions that go along; no reference is taken yet.
    pub files: Vec<DescriptionId>,
    /// Who the sender says it is.
    pub credentials: Option<Owner>,
    /// Control messages for the network.
    pub control: Vec<Control>,
    /// Flags of the call.
    pub flags: u64,
}

/// Whether a call may wait, with the flags of its message.
pub fn waiting<M: Machine>(
    c: &mut Context<'_, M>,
    id: DescriptionId,
    direction: Direction,
    msg_flags: u64,
) -> Result<Waiting> {
    let waiting = transfer::waiting(c, id, direction)?;
    Ok(if msg_flags & message::DONT_WAIT != 0 { Waiting::Refused } else { waiting })
}

/// Sends one message: all of a stream's bytes, blocking in between where that is allowed; or one datagram.
fn send_message<M: Machine>(c: &mut Context<'_, M>, fd: u64, spans: &[(u64, usize)], out: &Outgoing) -> Result<u64> {
    let (description, socket) = socket_of(c, fd)?;
    let waiting = waiting(c, description, Direction::Out, out.flags)?;
    let sent = in_pieces(c, pieces::total(spans), |c, moved, len| {
        let part = pieces::part(spans, moved, len);
        let streamed = match socket {
            Socket::Net(id) => stream(c, id, &part, out.flags)?,
            _ => None,
        };
        let progress = match streamed {
            Some(progress) => progress,
            None => {
                let rest = transfer::gather(c, &part)?;
                match socket {
                    Socket::Net(id) => send_internet(c, id, &rest, out)?,
                    Socket::Unix(id) => unix_data::send(c, id, &rest, out, moved)?,
                    Socket::Netlink(id) => Progress::Moved(netlink::send(c, id, &rest, out)?),
                }
            }
        };
        match progress {
            Progress::Moved(count) => Ok(Piece::Moved(count)),
            Progress::Wait(key) => wait_if(c, waiting, key),
        }
    });
    match sent {
        Err(Stop::Errno(Errno::EPIPE)) if out.flags & message::NO_SIGNAL == 0 && signals(c, socket) => broken_pipe(c),
        sent => sent,
    }
}

/// Whether writing to a broken connection of this socket raises SIGPIPE: that of datagrams does not.
fn signals<M: Machine>(c: &Context<'_, M>, socket: Socket) -> bool {
    match socket {
        Socket::Net(id) => c.resident.program.net.protocol(id) == Ok(Protocol::Tcp),
        Socket::Unix(id) => {
            c.resident.program.unix.get(&id).is_some_and(|socket| socket.kind != crate::unix::UnixKind::Datagram)
        }
        Socket::Netlink(_) => false,
    }
}

/// Sends bytes of the caller's memory over a TCP connection, without a copy in between: as much as goes now. `None` if it is
/// none, or if more than bytes are to be sent.
pub fn stream<M: Machine>(
    c: &mut Context<'_, M>,
    id: SocketId,
    spans: &[(u64, usize)],
    flags: u64,
) -> Result<Option<Progress>> {
    if spans.is_empty() || flags & (message::OUT_OF_BAND | message::FAST_OPEN) != 0 {
        return Ok(None);
    }
    let mut room = match c.resident.program.net.lend_room(id) {
        Ok(Some(room)) => room,
        Ok(None) => return Ok(None),
        Err(Errno::EAGAIN) => return Ok(Some(Progress::Wait(Key::Socket(id)))),
        Err(errno) => return Err(errno.into()),
    };
    let filled = fill(c, &mut room, spans);
    let added = room.added();
    let now = c.now();
    let more = if flags & message::MORE != 0 { More::Follows } else { More::No };
    c.resident.program.net.return_room(now, room, more);
    match filled {
        Err(stop) if added == 0 => Err(stop),
        _ => Ok(Some(Progress::Moved(added))),
    }
}

/// Fills room with the caller's bytes.
fn fill<M: Machine>(c: &mut Context<'_, M>, room: &mut Room, spans: &[(u64, usize)]) -> Result<()> {
    for (addr, len) in spans {
        let count = room.left().min(*len);
        let (first, second) = room.space(count);
        let split = first.len() as u64;
        c.read_into(*addr, first)?;
        if !second.is_empty() {
            c.read_into(addr.wrapping_add(split), second)?;
        }
        room.commit(count);
    }
    Ok(())
}

fn send_internet<M: Machine>(c: &mut Context<'_, M>, id: SocketId, rest: &[u8], out: &Outgoing) -> Result<Progress> {
    let net = &mut c.resident.program.net;
    let stream = net.protocol(id)? == Protocol::Tcp;
    if stream && out.flags & message::FAST_OPEN != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    // A stream has its peer; an address is not looked at.
    let to = match &out.to {
        Some(to) if !stream => target(net.family(id)?, to)?,
        _ => None,
    };
    let flag = |flag: u64| out.flags & flag != 0;
    let message = Message {
        bytes: rest,
        to,
        control: &out.control,
        more: if flag(message::MORE) { More::Follows } else { More::No },
        urgent: if flag(message::OUT_OF_BAND) { Urgency::Urgent } else { Urgency::No },
    };
    let now = c.now();
    match c.resident.program.net.send_message(now, id, &message) {
        Ok(sent) => Ok(Progress::Moved(sent)),
        Err(Errno::EAGAIN) => Ok(Progress::Wait(Key::Socket(id))),
        Err(errno) => Err(errno.into()),
    }
}

/// The address of a datagram's receiver. Old programs leave the family out.
fn target(family: Family, bytes: &[u8]) -> Result<Option<SocketAddr>> {
    let named = sockaddr::family_of(bytes);
    if named == sockaddr::AF_UNSPEC && family == Family::V6 {
        return Ok(None);
    }
    if named == sockaddr::AF_UNSPEC {
        let mut bytes = bytes.to_vec();
        if let Some(first) = bytes.first_mut() {
            *first = sockaddr::AF_INET as u8;
        }
        return Ok(Some(sockaddr::parse(&bytes)?));
    }
    Ok(Some(match family {
        Family::V4 => sockaddr::parse_for(family, bytes)?,
        Family::V6 => sockaddr::parse(bytes)?,
    }))
}

/// Writes to a socket (write(2)): as much as goes now.
pub fn write<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, bytes: &[u8]) -> Result<Progress> {
    let socket = socket_by(c, id)?;
    let out = Outgoing::default();
    let progress = match socket {
        Socket::Net(id) => send_internet(c, id, bytes, &out),
        Socket::Unix(id) => unix_data::send(c, id, bytes, &out, 0),
        Socket::Netlink(id) => netlink::send(c, id, bytes, &out).map(Progress::Moved),
    };
    match progress {
        Err(Stop::Errno(Errno::EPIPE)) if signals(c, socket) => broken_pipe(c),
        progress => progress,
    }
}

pub fn sendto<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    socket_of(c, a[0])?;
    let flags = a[3] as u32 as u64;
    let to = if a[4] == 0 { None } else { Some(sockaddr::read(c, a[4], a[5])?) };
    let out = Outgoing { to, flags, ..Outgoing::default() };
    send_message(c, a[0], &[(a[1], a[2] as usize)], &out)
}

/// `struct msghdr`.
pub struct Header {
    /// Where the address is or goes, and its length.
    pub name: u64,
    pub name_len: u32,
    /// Where the bytes are or go.
    pub spans: Vec<(u64, usize)>,
    /// Where the control messages are or go, and the room for them.
    pub control: u64,
    pub control_len: u64,
}

/// Reads `struct msghdr`.
pub fn read_header<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<Header> {
    let words = c.read_bytes(addr, 56)?;
    let word = |at: usize| {
        words.get(at..at + 8).and_then(|b| b.first_chunk::<8>()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    let (name, name_len) = (word(0), word(8) as u32);
    if (name_len as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    if word(24) > MAX_MESSAGES {
        return Err(Errno::EMSGSIZE.into());
    }
    let spans = transfer::read_spans(c, word(16), word(24))?;
    Ok(Header { name, name_len, spans, control: word(32), control_len: word(40) })
}

fn send_header<M: Machine>(c: &mut Context<'_, M>, fd: u64, addr: u64, flags: u64) -> Result<u64> {
    let (_, socket) = socket_of(c, fd)?;
    if flags & message::COMPATIBLE != 0 {
        return Err(Errno::EINVAL.into());
    }
    let header = read_header(c, addr)?;
    let mut out = Outgoing { flags, ..Outgoing::default() };
    if header.name != 0 && header.name_len != 0 {
        out.to = Some(sockaddr::read(c, header.name, u64::from(header.name_len.min(128)))?);
    }
    let takes = if matches!(socket, Socket::Unix(_)) { Takes::Files } else { Takes::Network };
    ancillary::read(c, header.control, header.control_len, takes, &mut out)?;
    send_message(c, fd, &header.spans, &out)
}

pub fn sendmsg<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    send_header(c, a[0], a[1], a[2] as u32 as u64)
}

/// Sends several messages. What was sent before a message that has to wait is kept in the call: the high half of the note
/// counts messages, the low half bytes of the current one.
pub fn sendmmsg<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const SHIFT: u32 = 32;
    socket_of(c, a[0])?;
    let count = u64::from(a[2] as u32).min(MAX_MESSAGES);
    let note = c.moved()?;
    let mut done = note >> SHIFT;
    c.set_moved(note & u64::from(u32::MAX))?;
    while done < count {
        let addr = a[1].wrapping_add(done * MESSAGE_STRIDE);
        match send_header(c, a[0], addr, a[3] as u32 as u64) {
            Ok(sent) => {
                c.write_u32(addr.wrapping_add(56), sent as u32)?;
                done += 1;
                c.set_moved(0)?;
            }
            Err(stop @ (Stop::Block(_) | Stop::Again)) => {
                let part = c.moved()?;
                c.set_moved(done << SHIFT | part)?;
                return Err(stop);
            }
            Err(Stop::Errno(_)) if done > 0 => break,
            Err(stop) => return Err(stop),
        }
    }
    Ok(done)
}

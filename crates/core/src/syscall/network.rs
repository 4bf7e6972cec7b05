//! Sockets: the calls, whichever family the socket is of.
use super::{Arguments, descriptors, transfer, unix};
use crate::{
    context::{Context, Result, Stop},
    files::{DescriptionId, Descriptor, Kind, OnExec},
    resident::Key,
    syscall::transfer::{Direction, Progress, Waiting, flags, wait_if},
};
use alloc::{vec, vec::Vec};
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_net::{How, Protocol, SocketId, Take};

const AF_UNIX: u64 = 1;
pub const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const STREAM: u64 = 1;
const DATAGRAM: u64 = 2;
const SEQPACKET: u64 = 5;
const TYPE_MASK: u64 = 0xf;
const NONBLOCK: u64 = 0x800;
const CLOEXEC: u64 = 0x80000;
const MSG_PEEK: u64 = 2;
const MSG_DONTWAIT: u64 = 0x40;
const MSG_NOSIGNAL: u64 = 0x4000;

/// A socket of either family.
#[derive(Clone, Copy)]
pub enum Socket {
    Net(SocketId),
    Unix(crate::files::UnixId),
}

/// The socket behind a descriptor.
pub fn socket_of<M: Machine>(c: &mut Context<'_, M>, fd: u64) -> Result<(DescriptionId, Socket)> {
    let id = c.descriptor(fd)?.description;
    match c.description_by(id)?.kind {
        Kind::Socket(socket) => Ok((id, Socket::Net(socket))),
        Kind::Unix(socket) => Ok((id, Socket::Unix(socket))),
        _ => Err(Errno::ENOTSOCK.into()),
    }
}

/// Whether a call may wait, with the flags of its message.
fn waiting<M: Machine>(
    c: &mut Context<'_, M>,
    id: DescriptionId,
    direction: Direction,
    msg_flags: u64,
) -> Result<Waiting> {
    if msg_flags & MSG_DONTWAIT != 0 { Ok(Waiting::Refused) } else { transfer::waiting(c, id, direction) }
}

fn install<M: Machine>(c: &mut Context<'_, M>, kind: Kind, flags: u64) -> Result<u64> {
    let status = flags::READ_WRITE | if flags & NONBLOCK != 0 { flags::NONBLOCK } else { 0 };
    let description = c.resident.program.add_description(kind, status);
    let on_exec = if flags & CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep };
    c.install(Descriptor { description, on_exec })
}

pub fn socket<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (family, kind, protocol) = (a[0], a[1] & TYPE_MASK, a[2]);
    if a[1] & !(TYPE_MASK | NONBLOCK | CLOEXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let kind = match (family, kind) {
        (AF_UNIX, STREAM | DATAGRAM | SEQPACKET) => unix::create(c, unix_kind(kind)?)?,
        (AF_INET, STREAM) if protocol == 0 || protocol == 6 => {
            Kind::Socket(c.resident.program.net.open(Protocol::Tcp)?)
        }
        (AF_INET, DATAGRAM) if protocol == 0 || protocol == 17 => {
            Kind::Socket(c.resident.program.net.open(Protocol::Udp)?)
        }
        (AF_INET, STREAM | DATAGRAM) => return Err(Errno::EPROTONOSUPPORT.into()),
        (AF_UNIX | AF_INET, _) => return Err(Errno::ESOCKTNOSUPPORT.into()),
        _ => return Err(Errno::EAFNOSUPPORT.into()),
    };
    install(c, kind, a[1])
}

fn unix_kind(kind: u64) -> Result<crate::unix::UnixKind> {
    match kind {
        STREAM => Ok(crate::unix::UnixKind::Stream),
        DATAGRAM => Ok(crate::unix::UnixKind::Datagram),
        SEQPACKET => Ok(crate::unix::UnixKind::SeqPacket),
        _ => Err(Errno::ESOCKTNOSUPPORT.into()),
    }
}

pub fn socketpair<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[0] != AF_UNIX {
        return Err(Errno::EOPNOTSUPP.into());
    }
    c.probe_writable(a[3], 8)?;
    let (one, two) = unix::create_pair(c, unix_kind(a[1] & TYPE_MASK)?)?;
    let status = flags::READ_WRITE | if a[1] & NONBLOCK != 0 { flags::NONBLOCK } else { 0 };
    let program = &mut c.resident.program;
    let pair = [program.add_description(one, status), program.add_description(two, status)];
    descriptors::install_pair(c, a[3], pair, descriptors::on_exec(a[1]))
}

/// Reads a socket address of the internet families.
fn parse_address(bytes: &[u8]) -> Result<SocketAddr> {
    let family = u64::from(u16::from_le_bytes([*bytes.first().unwrap_or(&0), *bytes.get(1).unwrap_or(&0)]));
    match family {
        AF_INET => {
            let [_, _, p1, p2, a, b, c, d, ..] = *bytes else { return Err(Errno::EINVAL.into()) };
            Ok(SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([p1, p2]))))
        }
        AF_INET6 => {
            let address: [u8; 16] = bytes.get(8..24).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
            let port = u16::from_be_bytes([bytes[2], bytes[3]]);
            Ok(SocketAddr::from((Ipv6Addr::from(address), port)))
        }
        _ => Err(Errno::EAFNOSUPPORT.into()),
    }
}

fn read_address<M: Machine>(c: &mut Context<'_, M>, addr: u64, len: u64) -> Result<Vec<u8>> {
    if !(2..=128).contains(&len) {
        return Err(Errno::EINVAL.into());
    }
    c.read_bytes(addr, len as usize)
}

/// The bytes of a socket address.
fn address_bytes(address: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::new();
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend_from_slice(&(AF_INET as u16).to_le_bytes());
            bytes.extend_from_slice(&v4.port().to_be_bytes());
            bytes.extend_from_slice(&v4.ip().octets());
            bytes.extend_from_slice(&[0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend_from_slice(&(AF_INET6 as u16).to_le_bytes());
            bytes.extend_from_slice(&v6.port().to_be_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&v6.ip().octets());
            bytes.extend_from_slice(&[0; 4]);
        }
    }
    bytes
}

/// Stores an address where the caller wants it, cut to the room there is; the true length goes to `len_addr`.
fn store_address<M: Machine>(c: &mut Context<'_, M>, addr: u64, len_addr: u64, bytes: &[u8]) -> Result<()> {
    if addr == 0 || len_addr == 0 {
        return Ok(());
    }
    let room = c.read_u32(len_addr)?;
    if (room as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    c.write_bytes(addr, &bytes[..bytes.len().min(room as usize)])?;
    c.write_u32(len_addr, bytes.len() as u32)
}

pub fn bind<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (_, socket) = socket_of(c, a[0])?;
    let bytes = read_address(c, a[1], a[2])?;
    match socket {
        Socket::Net(id) => c.resident.program.net.bind(id, parse_address(&bytes)?)?,
        Socket::Unix(id) => unix::bind(c, id, &bytes)?,
    }
    Ok(0)
}

pub fn listen<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (_, socket) = socket_of(c, a[0])?;
    let backlog = (a[1] as u32).min(4096);
    match socket {
        Socket::Net(id) => c.resident.program.net.listen(id, backlog)?,
        Socket::Unix(id) => unix::listen(c, id, backlog)?,
    }
    Ok(0)
}

pub fn accept<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    accept4(c, [a[0], a[1], a[2], 0, 0, 0])
}

pub fn accept4<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[3] & !(NONBLOCK | CLOEXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (description, socket) = socket_of(c, a[0])?;
    let waiting = waiting(c, description, Direction::In, 0)?;
    let (kind, peer) = match socket {
        Socket::Net(id) => match c.resident.program.net.accept(id) {
            Ok((new, peer)) => (Kind::Socket(new), address_bytes(peer)),
            Err(Errno::EAGAIN) => return wait_if(c, waiting, Key::Socket(id)),
            Err(errno) => return Err(errno.into()),
        },
        Socket::Unix(id) => unix::accept(c, id, waiting)?,
    };
    let fd = install(c, kind, a[3])?;
    store_address(c, a[1], a[2], &peer)?;
    Ok(fd)
}

pub fn connect<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (description, socket) = socket_of(c, a[0])?;
    let bytes = read_address(c, a[1], a[2])?;
    let waiting = waiting(c, description, Direction::Out, 0)?;
    match socket {
        Socket::Unix(id) => unix::connect(c, id, &bytes, waiting).map(|()| 0),
        Socket::Net(id) => {
            let now = c.now;
            let again = c.moved()? != 0;
            match c.resident.program.net.connect(now, id, parse_address(&bytes)?) {
                Ok(()) => Ok(0),
                Err(Errno::EISCONN) if again => Ok(0),
                Err(errno @ (Errno::EINPROGRESS | Errno::EALREADY)) => {
                    c.set_moved(1)?;
                    match wait_if(c, waiting, Key::Socket(id)) {
                        Err(Stop::Errno(_)) if waiting != Waiting::Refused => Err(Errno::EINPROGRESS.into()),
                        Err(Stop::Errno(_)) => Err(errno.into()),
                        other => other,
                    }
                }
                Err(errno) => Err(errno.into()),
            }
        }
    }
}

pub fn getsockname<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (_, socket) = socket_of(c, a[0])?;
    let bytes = match socket {
        Socket::Net(id) => address_bytes(c.resident.program.net.local_address(id)?),
        Socket::Unix(id) => unix::name(c, id)?,
    };
    store_address(c, a[1], a[2], &bytes)?;
    Ok(0)
}

pub fn getpeername<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (_, socket) = socket_of(c, a[0])?;
    let bytes = match socket {
        Socket::Net(id) => address_bytes(c.resident.program.net.peer_address(id)?),
        Socket::Unix(id) => unix::peer_name(c, id)?,
    };
    store_address(c, a[1], a[2], &bytes)?;
    Ok(0)
}

pub fn shutdown<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let how = match a[1] {
        0 => How::Read,
        1 => How::Write,
        2 => How::Both,
        _ => return Err(Errno::EINVAL.into()),
    };
    let now = c.now;
    match socket_of(c, a[0])?.1 {
        Socket::Net(id) => c.resident.program.net.shutdown(now, id, how)?,
        Socket::Unix(id) => unix::shutdown(c, id, how)?,
    }
    Ok(0)
}

/// Sends one message: all of a stream's bytes, blocking in between where that is allowed; or one datagram.
fn send_message<M: Machine>(
    c: &mut Context<'_, M>,
    fd: u64,
    bytes: &[u8],
    to: Option<Vec<u8>>,
    files: Vec<DescriptionId>,
    msg_flags: u64,
) -> Result<u64> {
    let (description, socket) = socket_of(c, fd)?;
    let waiting = waiting(c, description, Direction::Out, msg_flags)?;
    let mut moved = (c.moved()? as usize).min(bytes.len());
    loop {
        let rest = &bytes[moved..];
        let progress = match socket {
            Socket::Net(id) => {
                let now = c.now;
                let to = to.as_deref().map(parse_address).transpose()?;
                match c.resident.program.net.send(now, id, rest, to) {
                    Ok(sent) => Progress::Moved(sent),
                    Err(Errno::EAGAIN) => Progress::Wait(Key::Socket(id)),
                    Err(Errno::EPIPE) if moved == 0 && msg_flags & MSG_NOSIGNAL == 0 => {
                        return transfer::broken_pipe(c);
                    }
                    Err(errno) if moved == 0 => return Err(errno.into()),
                    Err(_) => return Ok(moved as u64),
                }
            }
            Socket::Unix(id) => {
                let files = if moved == 0 { files.clone() } else { Vec::new() };
                let sent = match &to {
                    Some(name) => unix::send_to(c, id, name, rest, files)?,
                    None => unix::send(c, id, rest, files)?,
                };
                if sent == Progress::Moved(0) && !rest.is_empty() {
                    return if msg_flags & MSG_NOSIGNAL == 0 {
                        transfer::broken_pipe(c)
                    } else {
                        Err(Errno::EPIPE.into())
                    };
                }
                sent
            }
        };
        match progress {
            Progress::Moved(count) => {
                moved += count;
                if moved >= bytes.len() {
                    return Ok(moved as u64);
                }
            }
            Progress::Wait(key) => {
                return match wait_if(c, waiting, key) {
                    Err(Stop::Errno(_)) if moved > 0 => Ok(moved as u64),
                    Err(Stop::Block(keys)) => {
                        c.set_moved(moved as u64)?;
                        Err(Stop::Block(keys))
                    }
                    other => other,
                };
            }
        }
    }
}

pub fn sendto<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let bytes = c.read_bytes(a[1], a[2] as usize)?;
    let to = if a[4] == 0 { None } else { Some(read_address(c, a[4], a[5])?) };
    send_message(c, a[0], &bytes, to, Vec::new(), a[3])
}

/// What was received.
pub struct Received {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Descriptions that came along; the receiver owns the references.
    pub files: Vec<DescriptionId>,
    /// The sender's address.
    pub from: Vec<u8>,
}

impl Received {
    /// The bytes alone: nobody asked for the descriptors, so they are closed.
    pub fn without_files<M: Machine>(self, c: &mut Context<'_, M>) -> Vec<u8> {
        for file in self.files {
            c.release_description(file);
        }
        self.bytes
    }
}

fn receive_message<M: Machine>(c: &mut Context<'_, M>, fd: u64, count: usize, msg_flags: u64) -> Result<Received> {
    let (description, socket) = socket_of(c, fd)?;
    let waiting = waiting(c, description, Direction::In, msg_flags)?;
    let peek = if msg_flags & MSG_PEEK != 0 { Take::Peek } else { Take::Consume };
    match socket {
        Socket::Unix(id) => unix::receive(c, id, count, waiting, peek),
        Socket::Net(id) => {
            let mut bytes = vec![0; count.min(crate::context::MAX_TRANSFER)];
            let now = c.now;
            match c.resident.program.net.receive_from(now, id, &mut bytes, peek) {
                Ok(shimos_net::Received { copied: got, from, .. }) => {
                    bytes.truncate(got);
                    Ok(Received { bytes, files: Vec::new(), from: from.map(address_bytes).unwrap_or_default() })
                }
                Err(Errno::EAGAIN) => wait_if(c, waiting, Key::Socket(id)),
                Err(errno) => Err(errno.into()),
            }
        }
    }
}

pub fn recvfrom<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    c.probe_writable(a[1], (a[2] as usize).min(1 << 16))?;
    let received = receive_message(c, a[0], a[2] as usize, a[3])?;
    let from = received.from.clone();
    let bytes = received.without_files(c);
    c.write_bytes(a[1], &bytes)?;
    store_address(c, a[4], a[5], &from)?;
    Ok(bytes.len() as u64)
}

/// struct msghdr.
struct Header {
    name: u64,
    name_len: u32,
    spans: Vec<(u64, usize)>,
    control: u64,
    control_len: u64,
}

fn read_header<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<Header> {
    let name = c.read_u64(addr)?;
    let name_len = c.read_u32(addr.wrapping_add(8))?;
    let (iov, iov_len) = (c.read_u64(addr.wrapping_add(16))?, c.read_u64(addr.wrapping_add(24))?);
    if iov_len > 1024 {
        return Err(Errno::EMSGSIZE.into());
    }
    let spans = transfer::read_spans(c, iov, iov_len)?;
    let (control, control_len) = (c.read_u64(addr.wrapping_add(32))?, c.read_u64(addr.wrapping_add(40))?);
    Ok(Header { name, name_len, spans, control, control_len })
}

pub const SOL_SOCKET: u32 = 1;
const SCM_RIGHTS: u32 = 1;
const CONTROL_HEADER: usize = 16;
/// Descriptors in one message, at most (SCM_MAX_FD).
const MAX_FILES: usize = 253;

/// Takes the descriptors out of a control buffer and adds a reference to each description.
fn read_rights<M: Machine>(c: &mut Context<'_, M>, header: &Header) -> Result<Vec<DescriptionId>> {
    let mut found: Vec<DescriptionId> = Vec::new();
    if header.control == 0 || header.control_len < CONTROL_HEADER as u64 {
        return Ok(found);
    }
    let bytes = c.read_bytes(header.control, header.control_len.min(65536) as usize)?;
    let mut at = 0;
    while let Some(head) = bytes.get(at..at + CONTROL_HEADER) {
        let len = u64::from_le_bytes(head[..8].try_into().unwrap_or_default()) as usize;
        let level = u32::from_le_bytes(head[8..12].try_into().unwrap_or_default());
        let kind = u32::from_le_bytes(head[12..16].try_into().unwrap_or_default());
        let end =
            at.checked_add(len).filter(|end| len >= CONTROL_HEADER && *end <= bytes.len()).ok_or(Errno::EINVAL)?;
        if level == SOL_SOCKET && kind == SCM_RIGHTS {
            for fd in bytes[at + CONTROL_HEADER..end].chunks_exact(4) {
                let fd = u32::from_le_bytes([fd[0], fd[1], fd[2], fd[3]]);
                found.push(c.descriptor(fd.into())?.description);
            }
        } else if level == SOL_SOCKET && kind != 2 {
            return Err(Errno::EINVAL.into());
        }
        at += len.next_multiple_of(8);
    }
    if found.len() > MAX_FILES {
        return Err(Errno::EINVAL.into());
    }
    Ok(found)
}

pub fn sendmsg<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let header = read_header(c, a[1])?;
    let bytes = transfer::gather(c, &header.spans)?;
    let to = if header.name == 0 { None } else { Some(read_address(c, header.name, header.name_len.into())?) };
    let files = read_rights(c, &header)?;
    send_message(c, a[0], &bytes, to, files, a[2])
}

pub fn recvmsg<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const CMSG_CLOEXEC: u64 = 0x4000_0000;
    const TRUNCATED_CONTROL: u32 = 8;
    let header = read_header(c, a[1])?;
    let total = header.spans.iter().map(|(_, len)| *len).sum::<usize>();
    let received = receive_message(c, a[0], total, a[2])?;
    let mut rest = received.bytes.as_slice();
    for (addr, len) in &header.spans {
        let (now, later) = rest.split_at((*len).min(rest.len()));
        c.write_bytes(*addr, now)?;
        rest = later;
    }
    let on_exec = if a[2] & CMSG_CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep };
    let room = (header.control_len as usize).saturating_sub(CONTROL_HEADER) / 4;
    let mut fds = Vec::new();
    let mut msg_flags = 0_u32;
    for (index, description) in received.files.into_iter().enumerate() {
        if header.control == 0 || index >= room {
            msg_flags |= TRUNCATED_CONTROL;
            c.release_description(description);
            continue;
        }
        fds.push(c.install(Descriptor { description, on_exec })? as u32);
    }
    let mut control_len = 0_u64;
    if !fds.is_empty() {
        let len = CONTROL_HEADER + fds.len() * 4;
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&(len as u64).to_le_bytes());
        bytes.extend_from_slice(&SOL_SOCKET.to_le_bytes());
        bytes.extend_from_slice(&SCM_RIGHTS.to_le_bytes());
        for fd in &fds {
            bytes.extend_from_slice(&fd.to_le_bytes());
        }
        c.write_bytes(header.control, &bytes)?;
        control_len = (len as u64).next_multiple_of(8).min(header.control_len);
    }
    if header.name != 0 {
        let len = received.from.len().min(header.name_len as usize);
        c.write_bytes(header.name, &received.from[..len])?;
        c.write_u32(a[1].wrapping_add(8), received.from.len() as u32)?;
    }
    c.write_u64(a[1].wrapping_add(40), control_len)?;
    c.write_u32(a[1].wrapping_add(48), msg_flags)?;
    Ok(received.bytes.len() as u64)
}

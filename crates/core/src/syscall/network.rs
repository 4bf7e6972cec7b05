//! Sockets: making, naming, connecting and shutting them down, whichever family they are of.
use super::{
    Arguments, descriptors, netlink,
    sockaddr::{self, AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, AF_UNSPEC},
    transfer::{self, Direction, Waiting, flags, wait_if},
    unix,
};
use crate::{
    context::{Context, Result, Stop},
    files::{DescriptionId, Descriptor, Kind, NetlinkId, OnExec, UnixId},
    resident::Key,
    unix::UnixKind,
};
use alloc::vec::Vec;
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_net::{Family, How, Privilege, Protocol, SocketId};

const STREAM: u64 = 1;
const DATAGRAM: u64 = 2;
const RAW: u64 = 3;
const SEQPACKET: u64 = 5;
/// No type of socket has this number or a higher one.
const TYPES: u64 = 11;
const TYPE_MASK: u64 = 0xf;
const NONBLOCK: u64 = 0x800;
const CLOEXEC: u64 = 0x80000;
/// Families that there could be.
const FAMILIES: u64 = 46;
/// The most connections that may wait (net.core.somaxconn).
const BACKLOG_MAX: u32 = 4096;

/// A socket of any family.
#[derive(Clone, Copy)]
pub enum Socket {
    Net(SocketId),
    Unix(UnixId),
    Netlink(NetlinkId),
}

/// The socket behind a descriptor.
pub fn socket_of<M: Machine>(c: &mut Context<'_, M>, fd: u64) -> Result<(DescriptionId, Socket)> {
    let id = c.descriptor(fd)?.description;
    Ok((id, socket_by(c, id)?))
}

/// The socket behind a description.
pub fn socket_by<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId) -> Result<Socket> {
    // What the program has sent to itself has arrived by its next call.
    if c.resident.program.net.has_looped() {
        c.take_network();
    }
    match c.description_by(id)?.kind {
        Kind::Socket(socket) => Ok(Socket::Net(socket)),
        Kind::Unix(socket) => Ok(Socket::Unix(socket)),
        Kind::Netlink(socket) => Ok(Socket::Netlink(socket)),
        Kind::Path(_) => Err(Errno::EBADF.into()),
        _ => Err(Errno::ENOTSOCK.into()),
    }
}

/// What the caller may do to the network.
pub fn privilege<M: Machine>(c: &Context<'_, M>) -> Result<Privilege> {
    let root = c.process()?.credentials.euid == 0;
    Ok(if root { Privilege::Admin } else { Privilege::None })
}

fn install<M: Machine>(c: &mut Context<'_, M>, kind: Kind, flags: u64) -> Result<u64> {
    let status = flags::READ_WRITE | if flags & NONBLOCK != 0 { flags::NONBLOCK } else { 0 };
    let description = c.resident.program.add_description(kind, status);
    let on_exec = if flags & CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep };
    c.install(Descriptor { description, on_exec })
}

pub fn socket<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (family, kind, protocol) = (a[0] as u32 as u64, a[1] & TYPE_MASK, a[2] as i32);
    if a[1] as u32 as u64 & !(TYPE_MASK | NONBLOCK | CLOEXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if family >= FAMILIES {
        return Err(Errno::EAFNOSUPPORT.into());
    }
    if kind >= TYPES {
        return Err(Errno::EINVAL.into());
    }
    let kind = match family as u16 {
        AF_UNIX if !(0..=1).contains(&protocol) => return Err(Errno::EPROTONOSUPPORT.into()),
        AF_UNIX => unix::create(c, unix_kind(kind)?)?,
        AF_INET => Kind::Socket(internet(c, Family::V4, kind, protocol)?),
        AF_INET6 => Kind::Socket(internet(c, Family::V6, kind, protocol)?),
        AF_NETLINK if !matches!(kind, RAW | DATAGRAM) => return Err(Errno::ESOCKTNOSUPPORT.into()),
        AF_NETLINK => netlink::create(c, protocol)?,
        _ => return Err(Errno::EAFNOSUPPORT.into()),
    };
    install(c, kind, a[1])
}

fn internet<M: Machine>(c: &mut Context<'_, M>, family: Family, kind: u64, protocol: i32) -> Result<SocketId> {
    const TCP: i32 = 6;
    const UDP: i32 = 17;
    const UDP_LITE: i32 = 136;
    let echo = if family == Family::V4 { 1 } else { 58 };
    if !(0..=262).contains(&protocol) {
        return Err(Errno::EINVAL.into());
    }
    let privilege = privilege(c)?;
    let net = &mut c.resident.program.net;
    Ok(match (kind, protocol) {
        (STREAM, 0 | TCP) => net.open(family, Protocol::Tcp)?,
        (DATAGRAM, 0 | UDP) => net.open(family, Protocol::Udp)?,
        (DATAGRAM, UDP_LITE) => net.open(family, Protocol::Lite)?,
        (DATAGRAM, protocol) if protocol == echo => net.open(family, Protocol::Echo)?,
        (RAW, 1..=255) if privilege != Privilege::Admin => return Err(Errno::EPERM.into()),
        (RAW, 1..=255) => net.open_raw(family, protocol as u8)?,
        (STREAM | DATAGRAM | RAW, _) => return Err(Errno::EPROTONOSUPPORT.into()),
        _ => return Err(Errno::ESOCKTNOSUPPORT.into()),
    })
}

fn unix_kind(kind: u64) -> Result<UnixKind> {
    match kind {
        STREAM => Ok(UnixKind::Stream),
        // A raw socket of this family is one of datagrams.
        DATAGRAM | RAW => Ok(UnixKind::Datagram),
        SEQPACKET => Ok(UnixKind::SeqPacket),
        _ => Err(Errno::ESOCKTNOSUPPORT.into()),
    }
}

pub fn socketpair<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[1] as u32 as u64 & !(TYPE_MASK | NONBLOCK | CLOEXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    match a[0] as u32 as u64 {
        family if family == u64::from(AF_UNIX) => {}
        family if [AF_INET, AF_INET6, AF_NETLINK].map(u64::from).contains(&family) => {
            return Err(Errno::EOPNOTSUPP.into());
        }
        _ => return Err(Errno::EAFNOSUPPORT.into()),
    }
    if !(0..=1).contains(&(a[2] as i32)) {
        return Err(Errno::EPROTONOSUPPORT.into());
    }
    c.probe_writable(a[3], 8)?;
    let (one, two) = unix::create_pair(c, unix_kind(a[1] & TYPE_MASK)?)?;
    let status = flags::READ_WRITE | if a[1] & NONBLOCK != 0 { flags::NONBLOCK } else { 0 };
    let program = &mut c.resident.program;
    let pair = [program.add_description(one, status), program.add_description(two, status)];
    descriptors::install_pair(c, a[3], pair, descriptors::on_exec(a[1]))
}

pub fn bind<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const PRIVILEGED: core::ops::Range<u16> = 1..1024;
    let (_, socket) = socket_of(c, a[0])?;
    let bytes = sockaddr::read(c, a[1], a[2])?;
    match socket {
        Socket::Net(id) => {
            let family = c.resident.program.net.family(id)?;
            let address = sockaddr::parse_for(family, &bytes)?;
            if PRIVILEGED.contains(&address.port())
                && privilege(c)? != Privilege::Admin
                && c.resident.program.net.protocol(id)? != Protocol::Raw
            {
                return Err(Errno::EACCES.into());
            }
            c.resident.program.net.bind(id, address)?;
        }
        Socket::Unix(id) => unix::bind(c, id, &bytes)?,
        Socket::Netlink(id) => netlink::bind(c, id, &bytes)?,
    }
    Ok(0)
}

pub fn listen<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (_, socket) = socket_of(c, a[0])?;
    let backlog = (a[1] as u32).min(BACKLOG_MAX);
    match socket {
        Socket::Net(id) => c.resident.program.net.listen(id, backlog)?,
        Socket::Unix(id) => unix::listen(c, id, backlog)?,
        Socket::Netlink(_) => return Err(Errno::EOPNOTSUPP.into()),
    }
    Ok(0)
}

pub fn accept<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    accept4(c, [a[0], a[1], a[2], 0, 0, 0])
}

pub fn accept4<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[3] as u32 as u64 & !(NONBLOCK | CLOEXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (description, socket) = socket_of(c, a[0])?;
    let waiting = transfer::waiting(c, description, Direction::In)?;
    c.check_room_for_descriptor()?;
    let (kind, peer) = match socket {
        Socket::Net(id) => match c.resident.program.net.accept(id) {
            Ok((new, peer)) => (Kind::Socket(new), sockaddr::bytes_of(peer)),
            Err(Errno::EAGAIN) => return wait_if(c, waiting, Key::Socket(id)),
            Err(errno) => return Err(errno.into()),
        },
        Socket::Unix(id) => unix::accept(c, id, waiting)?,
        Socket::Netlink(_) => return Err(Errno::EOPNOTSUPP.into()),
    };
    let fd = install(c, kind, a[3])?;
    if let Err(stop) = sockaddr::store(c, a[1], a[2], &peer) {
        let descriptor = c.table()?.remove(fd)?;
        c.release_description(descriptor.description);
        return Err(stop);
    }
    Ok(fd)
}

pub fn connect<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (description, socket) = socket_of(c, a[0])?;
    let bytes = sockaddr::read(c, a[1], a[2])?;
    let waiting = transfer::waiting(c, description, Direction::Out)?;
    match socket {
        Socket::Unix(id) => unix::connect(c, id, &bytes, waiting).map(|()| 0),
        Socket::Netlink(id) => netlink::connect(c, id, &bytes).map(|()| 0),
        Socket::Net(id) => connect_internet(c, id, &bytes, waiting),
    }
}

fn connect_internet<M: Machine>(c: &mut Context<'_, M>, id: SocketId, bytes: &[u8], waiting: Waiting) -> Result<u64> {
    if bytes.len() < 2 {
        return Err(Errno::EINVAL.into());
    }
    let now = c.now();
    let net = &mut c.resident.program.net;
    if sockaddr::family_of(bytes) == AF_UNSPEC {
        net.disconnect(now, id)?;
        c.wake(Key::Socket(id));
        return Ok(0);
    }
    let stream = net.protocol(id)? == Protocol::Tcp;
    let family = net.family(id)?;
    let address =
        if stream || family == Family::V4 { sockaddr::parse_for(family, bytes)? } else { sockaddr::parse(bytes)? };
    let again = c.moved()? != 0;
    match c.resident.program.net.connect(now, id, address) {
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

pub fn getsockname<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let bytes = match socket_of(c, a[0])?.1 {
        Socket::Net(id) => sockaddr::bytes_of(c.resident.program.net.local_address(id)?),
        Socket::Unix(id) => unix::name(c, id)?,
        Socket::Netlink(id) => netlink::name(c, id)?,
    };
    store_name(c, a, &bytes)
}

pub fn getpeername<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let bytes = match socket_of(c, a[0])?.1 {
        Socket::Net(id) => sockaddr::bytes_of(c.resident.program.net.peer_address(id)?),
        Socket::Unix(id) => unix::peer_name(c, id)?,
        Socket::Netlink(id) => netlink::peer_name(c, id)?,
    };
    store_name(c, a, &bytes)
}

fn store_name<M: Machine>(c: &mut Context<'_, M>, a: Arguments, bytes: &[u8]) -> Result<u64> {
    // Unlike other calls these want both places.
    if a[1] == 0 {
        let room = c.read_u32(a[2])?;
        return Err(if (room as i32) < 0 { Errno::EINVAL.into() } else { Errno::EFAULT.into() });
    }
    sockaddr::store(c, a[1], a[2], bytes)?;
    Ok(0)
}

pub fn shutdown<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (_, socket) = socket_of(c, a[0])?;
    let how = match a[1] as i32 {
        0 => How::Read,
        1 => How::Write,
        2 => How::Both,
        _ => return Err(Errno::EINVAL.into()),
    };
    let now = c.now();
    match socket {
        Socket::Net(id) => {
            let done = c.resident.program.net.shutdown(now, id, how);
            c.wake(Key::Socket(id));
            done?;
        }
        Socket::Unix(id) => unix::shutdown(c, id, how)?,
        Socket::Netlink(_) => return Err(Errno::EOPNOTSUPP.into()),
    }
    Ok(0)
}

/// The owner of every socket that is given out: pid, uid and gid of the caller.
pub fn caller<M: Machine>(c: &Context<'_, M>) -> Result<crate::unix::Owner> {
    let process = c.process()?;
    Ok((process.pid, process.credentials.euid, process.credentials.egid))
}

/// The caller's supplementary groups.
pub fn caller_groups<M: Machine>(c: &Context<'_, M>) -> Result<Vec<u32>> {
    Ok(c.process()?.credentials.groups.clone())
}

//! Netlink sockets: the calls on them.
use super::{
    receiving::Received,
    sending::Outgoing,
    transfer::{Waiting, wait_if},
};
use crate::{
    context::{Context, Result},
    files::{Kind, NetlinkId},
    netlink::{self, Manners, NetlinkSocket},
    resident::Key,
};
use alloc::vec::Vec;
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_net::Take;

/// AF_NETLINK, as the first bytes of an address.
const FAMILY: [u8; 2] = [16, 0];
/// Bytes of `struct sockaddr_nl`.
const ADDRESS: usize = 12;

fn get<'a, M: Machine>(c: &'a mut Context<'_, M>, id: NetlinkId) -> Result<&'a mut NetlinkSocket> {
    Ok(c.resident.program.netlink.get_mut(&id).ok_or(Errno::EBADF)?)
}

pub fn create<M: Machine>(c: &mut Context<'_, M>, protocol: i32) -> Result<Kind> {
    if protocol != netlink::ROUTE {
        return Err(Errno::EPROTONOSUPPORT.into());
    }
    let id = NetlinkId(c.resident.program.fresh_id());
    c.resident.program.netlink.insert(id, NetlinkSocket::default());
    Ok(Kind::Netlink(id))
}

/// Port and groups of an address.
fn parse(bytes: &[u8]) -> Result<(u32, u32)> {
    let word =
        |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).map(|word| u32::from_le_bytes(*word));
    match (word(4), word(8)) {
        (Some(port), Some(groups)) if bytes.first_chunk::<2>() == Some(&FAMILY) => Ok((port, groups)),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn address(port: u32, groups: u32) -> Vec<u8> {
    let mut bytes = FAMILY.to_vec();
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&port.to_le_bytes());
    bytes.extend_from_slice(&groups.to_le_bytes());
    bytes
}

/// Gives a socket a port: the process id if that is free.
fn choose_port<M: Machine>(c: &mut Context<'_, M>, id: NetlinkId) -> Result<()> {
    if get(c, id)?.port != 0 {
        return Ok(());
    }
    let sockets = &c.resident.program.netlink;
    let taken = |port: u32| sockets.values().any(|socket| socket.port == port);
    let port = if taken(c.pid.0) {
        // Numbers that are negative as process ids, so that they are none.
        (0..=sockets.len() as u32).map(|step| u32::MAX - 4096 - step).find(|port| !taken(*port)).unwrap_or(u32::MAX)
    } else {
        c.pid.0
    };
    get(c, id)?.port = port;
    Ok(())
}

pub fn bind<M: Machine>(c: &mut Context<'_, M>, id: NetlinkId, bytes: &[u8]) -> Result<()> {
    if bytes.len() < ADDRESS {
        return Err(Errno::EINVAL.into());
    }
    let (port, groups) = parse(bytes)?;
    let own = get(c, id)?.port;
    if own != 0 && port != own {
        return Err(Errno::EINVAL.into());
    }
    if own == 0 {
        if port == 0 {
            choose_port(c, id)?;
        } else if c.resident.program.netlink.values().any(|socket| socket.port == port) {
            return Err(Errno::EADDRINUSE.into());
        } else {
            get(c, id)?.port = port;
        }
    }
    let socket = get(c, id)?;
    socket.groups = socket.groups & !u64::from(u32::MAX) | u64::from(groups);
    Ok(())
}

pub fn connect<M: Machine>(c: &mut Context<'_, M>, id: NetlinkId, bytes: &[u8]) -> Result<()> {
    if bytes.first_chunk::<2>() == Some(&[0, 0]) {
        get(c, id)?.peer = None;
        return Ok(());
    }
    if bytes.len() < ADDRESS {
        return Err(Errno::EINVAL.into());
    }
    let peer = parse(bytes)?;
    choose_port(c, id)?;
    get(c, id)?.peer = Some(peer);
    Ok(())
}

pub fn name<M: Machine>(c: &mut Context<'_, M>, id: NetlinkId) -> Result<Vec<u8>> {
    let socket = get(c, id)?;
    Ok(address(socket.port, socket.groups as u32))
}

pub fn peer_name<M: Machine>(c: &mut Context<'_, M>, id: NetlinkId) -> Result<Vec<u8>> {
    let (port, groups) = get(c, id)?.peer.unwrap_or_default();
    Ok(address(port, groups))
}

/// Sends questions to the kernel, which answers at once. There is nobody else to talk to.
pub fn send<M: Machine>(c: &mut Context<'_, M>, id: NetlinkId, bytes: &[u8], out: &Outgoing) -> Result<usize> {
    const OVERHEAD: usize = 32;
    if out.flags & super::sending::message::OUT_OF_BAND != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let (port, groups) = match &out.to {
        Some(to) => parse(to)?,
        None => get(c, id)?.peer.unwrap_or_default(),
    };
    choose_port(c, id)?;
    if bytes.len() > (get(c, id)?.options.send_buffer as usize).saturating_sub(OVERHEAD) {
        return Err(Errno::EMSGSIZE.into());
    }
    if port != 0 || groups != 0 {
        return Err(Errno::ECONNREFUSED.into());
    }
    let now = c.now();
    let program = &mut c.resident.program;
    let socket = program.netlink.get_mut(&id).ok_or(Errno::EBADF)?;
    netlink::answer(&program.net, now, socket, bytes);
    c.wake(Key::Netlink(id));
    Ok(bytes.len())
}

pub fn receive<M: Machine>(
    c: &mut Context<'_, M>,
    id: NetlinkId,
    room: usize,
    waiting: Waiting,
    take: Take,
) -> Result<Received> {
    let socket = get(c, id)?;
    if socket.overrun.take().is_some() && !socket.manners.contains(Manners::NO_OVERRUN) {
        return Err(Errno::ENOBUFS.into());
    }
    let datagram = match take {
        Take::Peek => socket.queue.front().cloned(),
        Take::Consume => socket.queue.pop_front(),
    };
    let Some(mut datagram) = datagram else { return wait_if(c, waiting, Key::Netlink(id)) };
    let length = datagram.0.len();
    datagram.0.truncate(room);
    Ok(Received { bytes: datagram.0, length, from: address(0, 0), ..Received::default() })
}

const SOL_SOCKET: i32 = 1;
const SOL_NETLINK: i32 = 270;
const ADD_MEMBERSHIP: i32 = 1;
const DROP_MEMBERSHIP: i32 = 2;
const LIST_MEMBERSHIPS: i32 = 9;

fn manner_of(name: i32) -> Option<Manners> {
    Some(match name {
        3 => Manners::PACKET_INFO,
        4 => Manners::BROADCAST_ERROR,
        5 => Manners::NO_OVERRUN,
        10 => Manners::SHORT_ERRORS,
        11 => Manners::EXTENDED_ERRORS,
        12 => Manners::STRICT,
        _ => return None,
    })
}

pub fn option<M: Machine>(c: &mut Context<'_, M>, id: NetlinkId, level: i32, name: i32) -> Result<Vec<u8>> {
    const TYPE: i32 = 3;
    const ERROR: i32 = 4;
    const LISTENS: i32 = 30;
    const PROTOCOL: i32 = 38;
    const DOMAIN: i32 = 39;
    const RAW: i32 = 3;
    let socket = get(c, id)?;
    let number = |value: i32| Ok(value.to_le_bytes().to_vec());
    match (level, name) {
        (SOL_SOCKET, TYPE) => number(RAW),
        (SOL_SOCKET, ERROR | LISTENS) => number(0),
        (SOL_SOCKET, PROTOCOL) => number(netlink::ROUTE),
        (SOL_SOCKET, DOMAIN) => number(16),
        (SOL_SOCKET, name) => Ok(socket.options.general(name)?),
        (SOL_NETLINK, LIST_MEMBERSHIPS) => Ok(socket.groups.to_le_bytes().to_vec()),
        (SOL_NETLINK, name) => {
            let manner = manner_of(name).ok_or(Errno::ENOPROTOOPT)?;
            number(socket.manners.contains(manner).into())
        }
        _ => Err(Errno::ENOPROTOOPT.into()),
    }
}

pub fn set_option<M: Machine>(
    c: &mut Context<'_, M>,
    id: NetlinkId,
    level: i32,
    name: i32,
    value: &[u8],
) -> Result<()> {
    const GROUPS: u32 = 36;
    let privilege = super::network::privilege(c)?;
    let socket = get(c, id)?;
    if level == SOL_SOCKET {
        return Ok(socket.options.set_general(privilege, name, value)?);
    }
    if level != SOL_NETLINK {
        return Err(Errno::ENOPROTOOPT.into());
    }
    let value = value.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    match name {
        ADD_MEMBERSHIP | DROP_MEMBERSHIP => {
            if !(1..=GROUPS).contains(&value) {
                return Err(Errno::EINVAL.into());
            }
            let bit = 1_u64 << (value - 1);
            if name == ADD_MEMBERSHIP {
                socket.groups |= bit;
            } else {
                socket.groups &= !bit;
            }
        }
        name => socket.manners.set(manner_of(name).ok_or(Errno::ENOPROTOOPT)?, value != 0),
    }
    Ok(())
}

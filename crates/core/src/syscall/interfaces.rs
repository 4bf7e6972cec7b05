//! ioctl(2) on sockets: how much waits, and what the interfaces are (netdevice(7)). Nothing of the interfaces can be changed.
use super::{
    asynchronous,
    network::{Socket, socket_of},
};
use crate::{
    context::{Context, Result},
    unix::{UnixKind, UnixState},
};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_net::{CARD_INDEX, INTERFACES, LOOPBACK_INDEX};

/// Bytes waiting to be received (FIONREAD, SIOCINQ) and to be sent (TIOCOUTQ, SIOCOUTQ).
const WAITING_IN: u64 = 0x541b;
const WAITING_OUT: u64 = 0x5411;
/// Who is told of the socket by signals (FIOSETOWN, SIOCSPGRP, FIOGETOWN, SIOCGPGRP): what fcntl(2) says as well.
const SET_OWNER: u64 = 0x8901;
const SET_GROUP: u64 = 0x8902;
const GET_OWNER: u64 = 0x8903;
const GET_GROUP: u64 = 0x8904;
const F_SETOWN: u64 = 8;
const F_GETOWN: u64 = 9;
const AT_MARK: u64 = 0x8905;
const GET_STAMP: u64 = 0x8906;
const GET_NAME: u64 = 0x8910;
const GET_LIST: u64 = 0x8912;
const GET_FLAGS: u64 = 0x8913;
const GET_ADDRESS: u64 = 0x8915;
const GET_DESTINATION: u64 = 0x8917;
const GET_BROADCAST: u64 = 0x8919;
const GET_NETMASK: u64 = 0x891b;
const GET_METRIC: u64 = 0x891d;
const GET_MTU: u64 = 0x8921;
const GET_HARDWARE: u64 = 0x8927;
const GET_INDEX: u64 = 0x8933;
const GET_QUEUE: u64 = 0x8942;
const ETHTOOL: u64 = 0x8946;
const GET_NEIGHBOUR: u64 = 0x8954;
const GET_MAP: u64 = 0x8970;
/// Requests about wireless cards; there are none.
const WIRELESS: core::ops::RangeInclusive<u64> = 0x8b00..=0x8bff;
/// Requests that change interfaces, routes and neighbours.
const CHANGES: [u64; 16] = [
    0x890b, 0x890c, 0x8914, 0x8916, 0x8918, 0x891a, 0x891c, 0x891e, 0x8922, 0x8923, 0x8924, 0x8931, 0x8932, 0x8943,
    0x8953, 0x8955,
];

/// Bytes of `struct ifreq`, and of the name in it.
const REQUEST: usize = 40;
const NAME: usize = 16;

pub fn ioctl<M: Machine>(c: &mut Context<'_, M>, fd: u64, request: u64, argument: u64) -> Result<u64> {
    let (_, socket) = socket_of(c, fd)?;
    let value = match request {
        WAITING_IN => readable(c, socket)?,
        WAITING_OUT => unsent(c, socket)?,
        AT_MARK => match socket {
            Socket::Net(id) => usize::from(c.resident.program.net.is_at_mark(id)?),
            _ => return Err(Errno::ENOTTY.into()),
        },
        // Nobody asked for stamps to be kept on the socket itself.
        GET_STAMP => return Err(Errno::ENOENT.into()),
        SET_OWNER | SET_GROUP => {
            let owner = i64::from(c.read_u32(argument)? as i32) as u64;
            asynchronous::fcntl(c, fd, F_SETOWN, owner)?;
            return Ok(0);
        }
        GET_OWNER | GET_GROUP => {
            let owner = asynchronous::fcntl(c, fd, F_GETOWN, 0)?.unwrap_or_default();
            return c.write_u32(argument, owner as u32).map(|()| 0);
        }
        _ => return interfaces(c, socket, request, argument),
    };
    c.write_u32(argument, value.min(i32::MAX as usize) as u32)?;
    Ok(0)
}

fn readable<M: Machine>(c: &Context<'_, M>, socket: Socket) -> Result<usize> {
    Ok(match socket {
        Socket::Net(id) => c.resident.program.net.readable_bytes(id)?,
        Socket::Unix(id) => {
            let socket = c.resident.program.unix.get(&id).ok_or(Errno::EBADF)?;
            if matches!(socket.state, UnixState::Listening(..)) {
                return Err(Errno::EINVAL.into());
            }
            socket.readable()
        }
        Socket::Netlink(_) => return Err(Errno::ENOTTY.into()),
    })
}

fn unsent<M: Machine>(c: &Context<'_, M>, socket: Socket) -> Result<usize> {
    Ok(match socket {
        Socket::Net(id) => c.resident.program.net.unsent_bytes(id)?,
        Socket::Unix(id) => {
            let sockets = &c.resident.program.unix;
            let socket = sockets.get(&id).ok_or(Errno::EBADF)?;
            let peer = socket.peer().filter(|_| socket.kind != UnixKind::Datagram).and_then(|peer| sockets.get(&peer));
            peer.map_or(0, |peer| peer.queued())
        }
        Socket::Netlink(_) => return Err(Errno::ENOTTY.into()),
    })
}

/// `struct sockaddr_in` without a port.
fn internet(address: Ipv4Addr) -> Vec<u8> {
    let mut bytes = [2, 0, 0, 0].to_vec();
    bytes.extend_from_slice(&address.octets());
    bytes.resize(16, 0);
    bytes
}

fn interfaces<M: Machine>(c: &mut Context<'_, M>, socket: Socket, request: u64, argument: u64) -> Result<u64> {
    if CHANGES.contains(&request) {
        return Err(Errno::EPERM.into());
    }
    let internet_socket = matches!(socket, Socket::Net(_));
    match request {
        GET_LIST => return list(c, argument),
        GET_NEIGHBOUR if internet_socket => return neighbour(c, argument),
        GET_ADDRESS | GET_DESTINATION | GET_BROADCAST | GET_NETMASK if !internet_socket => {
            return Err(Errno::ENOTTY.into());
        }
        GET_NAME | GET_FLAGS | GET_ADDRESS | GET_DESTINATION | GET_BROADCAST | GET_NETMASK | GET_METRIC | GET_MTU
        | GET_HARDWARE | GET_INDEX | GET_QUEUE | GET_MAP | ETHTOOL => {}
        request if WIRELESS.contains(&request) => {}
        _ => return Err(Errno::ENOTTY.into()),
    }
    let asked = c.read_bytes(argument, REQUEST)?;
    let index = if request == GET_NAME {
        let number = asked.get(NAME..).and_then(|rest| rest.first_chunk::<4>()).map(|word| u32::from_le_bytes(*word));
        let found = INTERFACES.iter().find(|(index, _)| Some(*index) == number).ok_or(Errno::ENODEV)?;
        let mut name = found.1.as_bytes().to_vec();
        name.resize(NAME, 0);
        c.write_bytes(argument, &name)?;
        return Ok(0);
    } else {
        let name = asked.get(..NAME).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default();
        // An alias, as "eth0:1", stands for its interface.
        let name = name.split(|byte| *byte == b':').next().unwrap_or_default();
        let found = INTERFACES.iter().find(|(_, known)| known.as_bytes() == name);
        found.ok_or(Errno::ENODEV)?.0
    };
    let answer = about(c, request, index)?;
    c.write_bytes(argument.wrapping_add(NAME as u64), &answer)?;
    Ok(0)
}

/// What `struct ifreq` gets after the name.
fn about<M: Machine>(c: &Context<'_, M>, request: u64, index: u32) -> Result<Vec<u8>> {
    const ETHERNET: u16 = 1;
    const LOOPBACK: u16 = 772;
    let config = c.resident.program.net.config();
    let card = index == CARD_INDEX;
    let number = |value: u32| value.to_le_bytes().to_vec();
    Ok(match request {
        GET_FLAGS => {
            // Up, running, and for the card broadcast and multicast.
            let flags: u16 = if card { 0x1043 } else { 0x49 };
            flags.to_le_bytes().to_vec()
        }
        GET_ADDRESS | GET_DESTINATION => internet(if card { config.address } else { Ipv4Addr::LOCALHOST }),
        GET_BROADCAST => internet(if card { config.broadcast() } else { Ipv4Addr::UNSPECIFIED }),
        GET_NETMASK => internet(if card { config.netmask() } else { Ipv4Addr::new(255, 0, 0, 0) }),
        GET_METRIC => number(0),
        GET_MTU => number(if card { 1500 } else { 65536 }),
        GET_HARDWARE => {
            let (kind, mac) = if card { (ETHERNET, config.mac) } else { (LOOPBACK, [0; 6]) };
            let mut bytes = kind.to_le_bytes().to_vec();
            bytes.extend_from_slice(&mac);
            bytes.resize(16, 0);
            bytes
        }
        GET_INDEX => number(index),
        GET_QUEUE => number(1000),
        GET_MAP => [0; 24].to_vec(),
        _ => return Err(Errno::EOPNOTSUPP.into()),
    })
}

/// SIOCGIFCONF: the interfaces that have an IPv4 address, as many as there is room for.
fn list<M: Machine>(c: &mut Context<'_, M>, argument: u64) -> Result<u64> {
    let room = c.read_u32(argument)? as i32;
    let place = c.read_u64(argument.wrapping_add(8))?;
    let config = c.resident.program.net.config();
    let mut bytes = Vec::new();
    for (index, name) in INTERFACES {
        let mut entry = name.as_bytes().to_vec();
        entry.resize(NAME, 0);
        entry.extend(internet(if index == LOOPBACK_INDEX { Ipv4Addr::LOCALHOST } else { config.address }));
        entry.resize(REQUEST, 0);
        bytes.extend(entry);
    }
    if place != 0 {
        let whole = usize::try_from(room).map_err(|_| Errno::EINVAL)? / REQUEST * REQUEST;
        bytes.truncate(whole);
        c.write_bytes(place, &bytes)?;
    }
    c.write_u32(argument, bytes.len() as u32)?;
    Ok(0)
}

/// SIOCGARP: the hardware address of a neighbour.
fn neighbour<M: Machine>(c: &mut Context<'_, M>, argument: u64) -> Result<u64> {
    const FLAGS: u64 = 32;
    const COMPLETE: u32 = 2;
    let asked = c.read_bytes(argument, 16)?;
    if asked.first_chunk::<2>() != Some(&[2, 0]) {
        return Err(Errno::EPFNOSUPPORT.into());
    }
    let address = asked.get(4..).and_then(|rest| rest.first_chunk::<4>()).ok_or(Errno::EFAULT)?;
    let address = IpAddr::V4(Ipv4Addr::from_octets(*address));
    let now = c.now();
    let known = c.resident.program.net.neighbours(now);
    let mac = known.iter().find(|(known, ..)| *known == address).and_then(|(_, mac, _)| *mac).ok_or(Errno::ENXIO)?;
    let mut bytes = [1, 0].to_vec();
    bytes.extend_from_slice(&mac);
    c.write_bytes(argument.wrapping_add(16), &bytes)?;
    c.write_u32(argument.wrapping_add(FLAGS), COMPLETE)?;
    Ok(0)
}

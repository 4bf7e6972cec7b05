//! Reading and changing the settings of sockets.
use crate::{
    config::Config,
    endpoint::{Endpoint, Family},
    options::{Flags, Privilege, bytes, int, level},
    socket::{Kind, Protocol, Socket, SocketId},
    stack::Stack,
    tcp::State,
};
use alloc::vec::Vec;
use core::net::IpAddr;
use shimos_abi::{errno::Errno, time::Nanos};

/// Options of the level SOL_SOCKET that ask what a socket is.
mod about {
    pub const TYPE: i32 = 3;
    pub const ERROR: i32 = 4;
    pub const PEER_NAME: i32 = 28;
    pub const LISTENS: i32 = 30;
    pub const PROTOCOL: i32 = 38;
    pub const DOMAIN: i32 = 39;
    pub const MEMORY: i32 = 55;
    pub const COOKIE: i32 = 57;
    pub const NETWORK_COOKIE: i32 = 71;
}

const IP_OWN_HEADER: i32 = 3;
const IP_MTU: i32 = 14;
const IP_GROUP_DEVICE: i32 = 32;
const IPV6_ADDRESS_FORM: i32 = 1;
const IPV6_CHECKSUM: i32 = 7;
const IPV6_MTU: i32 = 24;
const IPV6_ONLY: i32 = 26;
const IPV6_PATH_MTU: i32 = 61;
const TCP_MAX_SEGMENT: i32 = 2;
const TCP_WINDOW_CLAMP: i32 = 10;
const TCP_INFO: i32 = 11;
const TCP_FAST_OPEN: i32 = 23;
const UDP_CORK: i32 = 1;
const ICMP_FILTER: i32 = 1;

impl Stack {
    /// Reads a setting: the bytes that getsockopt(2) gives, before they are cut to the room there is.
    pub fn option(&mut self, now: Nanos, id: SocketId, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        if level == level::SOCKET && name == about::ERROR {
            return Ok(bytes(self.take_error(id)?.map_or(0, |error| i32::from(error.0))));
        }
        let socket = self.socket(id)?;
        let config = self.saved.link.config;
        match level {
            level::SOCKET => socket_option(socket, id, name),
            level::IP if name == IP_GROUP_DEVICE => Ok(socket.options.group_source(&config).octets().to_vec()),
            level::IP if name == IP_MTU => self.path_mtu(id, Family::V4),
            level::IP if name == IP_OWN_HEADER && socket.protocol() == Protocol::Raw => {
                Ok(bytes(socket.options.has(Flags::OWN_HEADER).into()))
            }
            level::IP => socket.options.internet4(name),
            level::IPV6 if socket.family == Family::V6 => match name {
                IPV6_MTU => self.path_mtu(id, Family::V6),
                IPV6_PATH_MTU => Err(Errno::ENOTCONN),
                IPV6_CHECKSUM => checksum_place(socket),
                name => socket.options.internet6(name),
            },
            level::TCP if socket.protocol() == Protocol::Tcp => stream_option(socket, now, name),
            level::UDP if socket.protocol() == Protocol::Udp && name == UDP_CORK => {
                Ok(bytes(socket.options.has(Flags::CORK_DATAGRAMS).into()))
            }
            level::LITE if socket.protocol() == Protocol::Lite => lite_option(socket, name),
            level::RAW | level::ICMP6 => raw_option(socket, level, name),
            level::TCP | level::UDP if socket.protocol() != Protocol::Raw => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    /// The largest packet to the peer.
    fn path_mtu(&self, id: SocketId, family: Family) -> Result<Vec<u8>, Errno> {
        let socket = self.socket(id)?;
        let peer = match &socket.kind {
            Kind::Connection(connection) => Some(connection.tuple.remote),
            _ => socket.flow().and_then(|flow| flow.peer),
        };
        match peer {
            Some(peer) if Family::of(peer.address) == family => Ok(bytes(self.saved.link.mtu(peer.address) as i32)),
            _ => Err(Errno::ENOTCONN),
        }
    }

    /// Changes a setting.
    pub fn set_option(
        &mut self,
        now: Nanos,
        id: SocketId,
        privilege: Privilege,
        level: i32,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        let config = self.saved.link.config;
        let socket = self.socket_mut(id)?;
        let protocol = socket.protocol();
        match level {
            level::SOCKET => set_socket_option(socket, privilege, name, value)?,
            level::IP if name == IP_OWN_HEADER => {
                if protocol != Protocol::Raw {
                    return Err(Errno::ENOPROTOOPT);
                }
                socket.options.flags.set(Flags::OWN_HEADER, int(value)? != 0);
            }
            level::IP | level::IPV6 if protocol == Protocol::Tcp && group_error(level, name).is_some() => {
                return Err(group_error(level, name).unwrap_or(Errno::EINVAL));
            }
            level::IP => socket.options.set_internet4(privilege, &config, name, value)?,
            level::IPV6 if socket.family == Family::V6 => set_v6_option(socket, &config, privilege, name, value)?,
            level::TCP if protocol == Protocol::Tcp => set_stream_option(socket, name, value)?,
            level::UDP if protocol == Protocol::Udp => {
                if name != UDP_CORK {
                    return Err(Errno::ENOPROTOOPT);
                }
                let on = int(value)? != 0;
                socket.options.flags.set(Flags::CORK_DATAGRAMS, on);
                if !on {
                    return self.uncork(now, id);
                }
            }
            level::LITE if protocol == Protocol::Lite => set_lite_option(socket, name, value)?,
            level::RAW | level::ICMP6 => return set_raw_option(socket, level, name, value),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        // A cork pulled, or a larger buffer, may let something out; a keep-alive timer may have to be set.
        self.with_connection(now, id, |connection, cx| {
            connection.timers.keep = None;
            if connection.state != State::Closed {
                connection.settings_changed(cx);
                connection.output(cx);
            }
        });
        Ok(())
    }
}

/// Why an option about groups is nothing for streams.
fn group_error(level: i32, name: i32) -> Option<Errno> {
    match (level, name) {
        // IP_MULTICAST_IF, IP_MULTICAST_TTL.
        (level::IP, 32 | 33) => Some(Errno::EINVAL),
        // IPV6_MULTICAST_IF, IPV6_MULTICAST_HOPS.
        (level::IPV6, 17 | 18) => Some(Errno::ENOPROTOOPT),
        // Joining and leaving.
        (level::IP, 35..=48) | (level::IPV6, 20 | 21 | 42..=48) => Some(Errno::EPROTO),
        _ => None,
    }
}

fn socket_option(socket: &Socket, id: SocketId, name: i32) -> Result<Vec<u8>, Errno> {
    Ok(match name {
        about::TYPE => bytes(match socket.protocol() {
            Protocol::Tcp => 1,
            Protocol::Udp | Protocol::Lite | Protocol::Echo => 2,
            Protocol::Raw => 3,
        }),
        about::PROTOCOL => bytes(match (&socket.kind, socket.family) {
            (Kind::Raw(raw), _) => raw.protocol.into(),
            (Kind::Udp(flow), _) => {
                if flow.coverage.is_some() {
                    136
                } else {
                    17
                }
            }
            (Kind::Ping(_), Family::V4) => 1,
            (Kind::Ping(_), Family::V6) => 58,
            _ => 6,
        }),
        about::DOMAIN => bytes(if socket.family == Family::V4 { 2 } else { 10 }),
        about::LISTENS => bytes(matches!(socket.kind, Kind::Listener(_)).into()),
        about::COOKIE => u64::from(id.0).to_le_bytes().to_vec(),
        about::NETWORK_COOKIE => 1_u64.to_le_bytes().to_vec(),
        about::PEER_NAME => return Err(Errno::ENOTCONN),
        about::MEMORY => {
            let (receiving, sending) = match &socket.kind {
                Kind::Connection(connection) => (connection.receive.len(), connection.send.len()),
                _ => (socket.flow().map_or(0, |flow| flow.queue.used()), 0),
            };
            let (receiving, sending) = (receiving as u32, sending as u32);
            let options = &socket.options;
            let words =
                [receiving, options.receive_buffer, sending, options.send_buffer, 0, sending, 0, 0, drops(socket)];
            words.iter().flat_map(|word| word.to_le_bytes()).collect()
        }
        name => return socket.options.general(name),
    })
}

fn drops(socket: &Socket) -> u32 {
    socket.flow().map_or(0, |flow| flow.queue.dropped)
}

fn set_socket_option(socket: &mut Socket, privilege: Privilege, name: i32, value: &[u8]) -> Result<(), Errno> {
    const TIMESTAMPING: i32 = 37;
    const TIMESTAMPING_NEW: i32 = 65;
    const REUSE_PORT: i32 = 15;
    /// SOF_TIMESTAMPING_RX_SOFTWARE and SOF_TIMESTAMPING_SOFTWARE.
    const SOFTWARE: u32 = 1 << 3 | 1 << 4;
    match name {
        about::TYPE | about::PROTOCOL | about::DOMAIN | about::ERROR => Err(Errno::ENOPROTOOPT),
        TIMESTAMPING | TIMESTAMPING_NEW => {
            let wanted = int(value)? as u32;
            if wanted & !SOFTWARE != 0 {
                return Err(Errno::EINVAL);
            }
            socket.options.general.timestamping = wanted;
            Ok(())
        }
        REUSE_PORT if socket.protocol() == Protocol::Raw && int(value)? != 0 => Err(Errno::EOPNOTSUPP),
        name => socket.options.set_general(privilege, name, value),
    }
}

fn set_v6_option(
    socket: &mut Socket,
    config: &Config,
    privilege: Privilege,
    name: i32,
    value: &[u8],
) -> Result<(), Errno> {
    match name {
        IPV6_ONLY if socket.bound.is_some() && socket.protocol() != Protocol::Raw => {
            int(value)?;
            Err(Errno::EINVAL)
        }
        IPV6_CHECKSUM => {
            let place = int(value)?;
            let Kind::Raw(raw) = &mut socket.kind else { return Err(Errno::ENOPROTOOPT) };
            if raw.protocol == crate::packet::protocol::ICMP6 || (place >= 0 && place & 1 != 0) {
                return Err(Errno::EINVAL);
            }
            raw.checksum_at = u16::try_from(place).ok();
            Ok(())
        }
        IPV6_ADDRESS_FORM => set_form(socket, value),
        name => socket.options.set_internet6(privilege, config, name, value),
    }
}

/// Turns an IPv6 socket that is connected by IPv4 into an IPv4 socket.
fn set_form(socket: &mut Socket, value: &[u8]) -> Result<(), Errno> {
    const AF_INET: i32 = 2;
    if int(value)? != AF_INET {
        return Err(Errno::EINVAL);
    }
    let peer = match &socket.kind {
        Kind::Connection(connection) if connection.state == State::Established => Some(connection.tuple.remote),
        Kind::Udp(flow) => flow.peer,
        _ => None,
    };
    match peer {
        Some(Endpoint { address: IpAddr::V4(_), .. }) => {
            socket.family = Family::V4;
            Ok(())
        }
        Some(_) => Err(Errno::EADDRNOTAVAIL),
        None => Err(Errno::ENOTCONN),
    }
}

fn checksum_place(socket: &Socket) -> Result<Vec<u8>, Errno> {
    match &socket.kind {
        Kind::Raw(raw) => Ok(bytes(raw.checksum_at.map_or(-1, i32::from))),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

fn stream_option(socket: &Socket, now: Nanos, name: i32) -> Result<Vec<u8>, Errno> {
    /// The segment size of a socket without a connection.
    const USUAL_SEGMENT: u16 = 536;
    match (name, &socket.kind) {
        (TCP_MAX_SEGMENT, Kind::Connection(connection)) => Ok(bytes(connection.agreed.mss.into())),
        (TCP_MAX_SEGMENT, _) => {
            let asked = socket.options.stream.max_segment;
            Ok(bytes(if asked == 0 { USUAL_SEGMENT.into() } else { asked.into() }))
        }
        (TCP_INFO, Kind::Connection(connection)) => Ok(connection.info().to_bytes(now)),
        (TCP_INFO, kind) => {
            // Nothing but the state: closed, or listening.
            let mut info = alloc::vec![0; 240];
            if let Some(state) = info.first_mut() {
                *state = if matches!(kind, Kind::Listener(_)) { 10 } else { 7 };
            }
            Ok(info)
        }
        _ => socket.options.stream(name),
    }
}

fn set_stream_option(socket: &mut Socket, name: i32, value: &[u8]) -> Result<(), Errno> {
    let first = int(value);
    let closed = matches!(socket.kind, Kind::Idle);
    match name {
        TCP_WINDOW_CLAMP if first == Ok(0) && !closed => Err(Errno::EINVAL),
        TCP_FAST_OPEN if !closed && !matches!(socket.kind, Kind::Listener(_)) => Err(Errno::EINVAL),
        name => socket.options.set_stream(name, value),
    }
}

/// What the checksums of UDP-Lite cover.
const SEND_COVERAGE: i32 = 10;
const RECEIVE_COVERAGE: i32 = 11;

fn lite_option(socket: &Socket, name: i32) -> Result<Vec<u8>, Errno> {
    let coverage = socket.flow().and_then(|flow| flow.coverage).unwrap_or_default();
    match name {
        SEND_COVERAGE => Ok(bytes(coverage.send.into())),
        RECEIVE_COVERAGE => Ok(bytes(coverage.receive.unwrap_or(0).into())),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

fn set_lite_option(socket: &mut Socket, name: i32, value: &[u8]) -> Result<(), Errno> {
    let first = int(value)?;
    // Less than the header cannot be left out; more than there can be is all that there can be.
    let covered = if first == 0 { 0 } else { first.clamp(crate::datagram::UDP_HEADER as i32, 65535) as u16 };
    let coverage = socket.flow_mut().and_then(|flow| flow.coverage.as_mut()).ok_or(Errno::ENOPROTOOPT)?;
    match name {
        SEND_COVERAGE => coverage.send = covered,
        RECEIVE_COVERAGE => coverage.receive = Some(covered),
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

fn raw_option(socket: &Socket, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
    let Kind::Raw(raw) = &socket.kind else { return Err(Errno::ENOPROTOOPT) };
    match filter_words(socket.family, level, raw.protocol, name) {
        Some(words) => Ok(raw.filter.iter().take(words).flat_map(|word| word.to_le_bytes()).collect()),
        None if name == IPV6_CHECKSUM && socket.family == Family::V6 => checksum_place(socket),
        None => Err(Errno::ENOPROTOOPT),
    }
}

/// How many words the filter of a raw ICMP socket has.
fn filter_words(family: Family, level: i32, protocol: u8, name: i32) -> Option<usize> {
    use crate::packet::protocol::{ICMP, ICMP6};
    match (family, level, protocol, name) {
        (Family::V4, level::RAW, ICMP, ICMP_FILTER) => Some(1),
        (Family::V6, level::ICMP6, ICMP6, ICMP_FILTER) => Some(8),
        _ => None,
    }
}

fn set_raw_option(socket: &mut Socket, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    let family = socket.family;
    let Kind::Raw(raw) = &mut socket.kind else { return Err(Errno::ENOPROTOOPT) };
    let words = filter_words(family, level, raw.protocol, name).ok_or(Errno::ENOPROTOOPT)?;
    let given = value.as_chunks::<4>().0;
    for (word, bytes) in raw.filter.iter_mut().take(words).zip(given) {
        *word = u32::from_le_bytes(*bytes);
    }
    Ok(())
}

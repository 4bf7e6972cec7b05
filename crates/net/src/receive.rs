//! Receiving: what programs take out of their sockets.
use crate::{
    config::{CARD_INDEX, LOOPBACK_INDEX},
    datagram::{Datagram, Failure, interface_or_loopback},
    endpoint::{Endpoint, Family, Host},
    options::{Flags, bytes, level},
    socket::{Control, Kind, Received, Socket, SocketId, Stamp, Take},
    stack::Stack,
};
use alloc::{vec, vec::Vec};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use shimos_abi::{errno::Errno, time::Nanos};

const STAMP_MICROS: i32 = 29;
const STAMP_NANOS: i32 = 35;
const STAMP_MICROS_NEW: i32 = 63;
const STAMP_NANOS_NEW: i32 = 64;
const TIMESTAMPING: i32 = 37;

impl Stack {
    /// Receives. `EAGAIN` if there is nothing now; nothing copied means the end of a stream.
    pub fn receive_from(&mut self, now: Nanos, id: SocketId, into: &mut [u8], take: Take) -> Result<Received, Errno> {
        let socket = self.socket_mut(id)?;
        // As on Linux an error is told before what is queued; but of a stream after it.
        match &socket.kind {
            Kind::Connection(_) => return self.receive_stream(now, id, into, take),
            Kind::Idle | Kind::Listener(_) => return Err(Errno::ENOTCONN),
            _ => {}
        }
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        let flow = socket.flow_mut().ok_or(Errno::ENOTCONN)?;
        let ended = flow.shut_read;
        let Some(datagram) = flow.receive(take) else {
            return if ended { Ok(Received::default()) } else { Err(Errno::EAGAIN) };
        };
        let peek_at = socket.options.general.peek_at.filter(|_| take == Take::Peek).unwrap_or(0) as usize;
        let content = datagram.bytes.0.get(peek_at..).unwrap_or(&[]);
        let copied = content.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..copied), content.get(..copied)) {
            to.copy_from_slice(from);
        }
        let mut from = datagram.from;
        if !matches!(socket.kind, Kind::Udp(_)) {
            // Raw packets and echo replies have no port.
            from.port = 0;
        }
        Ok(Received {
            copied,
            length: datagram.bytes.0.len(),
            from: Some(socket.family.show(from)),
            control: told(socket, &datagram),
            stamp: stamp(socket, datagram.at),
        })
    }

    fn receive_stream(&mut self, now: Nanos, id: SocketId, into: &mut [u8], take: Take) -> Result<Received, Errno> {
        const WAITING: i32 = 36;
        let copied = self.with_connection(now, id, |connection, cx| connection.read(into, take, cx)).flatten();
        let socket = self.socket_mut(id)?;
        if copied.is_none_or(|copied| copied == 0)
            && !into.is_empty()
            && let Some(error) = socket.error.take()
        {
            return Err(error);
        }
        let copied = copied.ok_or(Errno::EAGAIN)?;
        let mut control = Vec::new();
        if socket.options.has(Flags::TELL_WAITING)
            && let Kind::Connection(connection) = &socket.kind
        {
            let waiting = connection.readable(&socket.options);
            control.push(Control { level: level::TCP, kind: WAITING, bytes: bytes(waiting as i32) });
        }
        Ok(Received { copied, length: copied, control, ..Received::default() })
    }

    /// Takes an error that came back for something sent (MSG_ERRQUEUE), with what it quotes.
    pub fn receive_failure(&mut self, id: SocketId, into: &mut [u8]) -> Result<Received, Errno> {
        let socket = self.socket_mut(id)?;
        let family = socket.family;
        let flow = socket.flow_mut().ok_or(Errno::EAGAIN)?;
        let failure = flow.failures.pop_front().ok_or(Errno::EAGAIN)?;
        socket.error = None;
        let content = &failure.bytes.0;
        let copied = content.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..copied), content.get(..copied)) {
            to.copy_from_slice(from);
        }
        Ok(Received {
            copied,
            length: content.len(),
            from: Some(family.show(failure.target)),
            control: vec![extended(&failure)],
            stamp: None,
        })
    }

    /// Takes the urgent byte of a stream (MSG_OOB).
    pub fn receive_urgent(&mut self, id: SocketId, take: Take) -> Result<u8, Errno> {
        let socket = self.socket_mut(id)?;
        let inline = socket.options.has(Flags::OUT_OF_BAND_INLINE);
        match &mut socket.kind {
            Kind::Connection(connection) => connection.read_urgent(inline, take),
            Kind::Idle | Kind::Listener(_) => Err(Errno::ENOTCONN),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Whether the next byte of a stream is the urgent one (SIOCATMARK).
    pub fn is_at_mark(&self, id: SocketId) -> Result<bool, Errno> {
        match &self.socket(id)?.kind {
            Kind::Connection(connection) => Ok(connection.is_at_mark()),
            Kind::Listener(_) => Err(Errno::EINVAL),
            Kind::Idle => Ok(false),
            _ => Err(Errno::ENOTTY),
        }
    }
}

/// Whether and how the program wants to know when a datagram came.
fn stamp(socket: &Socket, at: Nanos) -> Option<Stamp> {
    /// SOF_TIMESTAMPING_RX_SOFTWARE with SOF_TIMESTAMPING_SOFTWARE.
    const SOFTWARE: u32 = 1 << 3 | 1 << 4;
    let options = &socket.options;
    let new = options.has(Flags::STAMP_NEW);
    let kind = if options.has(Flags::STAMP_MICROS) {
        if new { STAMP_MICROS_NEW } else { STAMP_MICROS }
    } else if options.has(Flags::STAMP_NANOS) {
        if new { STAMP_NANOS_NEW } else { STAMP_NANOS }
    } else if options.general.timestamping & SOFTWARE == SOFTWARE {
        TIMESTAMPING
    } else {
        return None;
    };
    Some(Stamp { at, kind })
}

/// What the program wants to be told of a datagram.
fn told(socket: &Socket, datagram: &Datagram) -> Vec<Control> {
    const IP_TOS: i32 = 1;
    const IP_TTL: i32 = 2;
    const IP_PACKET_INFO: i32 = 8;
    const IP_ORIGINAL: i32 = 20;
    const IPV6_PACKET_INFO: i32 = 50;
    const IPV6_HOPS: i32 = 52;
    const IPV6_CLASS: i32 = 67;
    const IPV6_ORIGINAL: i32 = 74;
    const SOCKET_OVERFLOW: i32 = 40;
    let options = &socket.options;
    let mut control = Vec::new();
    let mut tell = |level: i32, kind: i32, bytes: Vec<u8>| control.push(Control { level, kind, bytes });
    if options.has(Flags::TELL_OVERFLOW)
        && let Some(flow) = socket.flow()
    {
        tell(level::SOCKET, SOCKET_OVERFLOW, flow.queue.dropped.to_le_bytes().to_vec());
    }
    let interface = interface_or_loopback(datagram.interface);
    let target = datagram.target.unwrap_or(datagram.from);
    if let IpAddr::V4(to) = target.address {
        if options.has(Flags::PACKET_INFO4) {
            // The local address a reply would come from, and the one in the header.
            let local = if to.is_multicast() || to.is_broadcast() { Ipv4Addr::UNSPECIFIED } else { to };
            let mut info = interface.to_le_bytes().to_vec();
            info.extend_from_slice(&local.octets());
            info.extend_from_slice(&to.octets());
            tell(level::IP, IP_PACKET_INFO, info);
        }
        if options.has(Flags::TELL_TTL) {
            tell(level::IP, IP_TTL, bytes(datagram.ttl.into()));
        }
        if options.has(Flags::TELL_TOS) {
            tell(level::IP, IP_TOS, vec![datagram.tos]);
        }
        if options.has(Flags::TELL_ORIGINAL) {
            tell(level::IP, IP_ORIGINAL, name(Family::V4.show(target)));
        }
    }
    if socket.family == Family::V6 {
        if options.has(Flags::PACKET_INFO6) {
            let to = match target.address {
                IpAddr::V6(v6) => v6,
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            };
            tell(level::IPV6, IPV6_PACKET_INFO, [to.octets().as_slice(), &interface.to_le_bytes()].concat());
        }
        if target.address.is_ipv6() && options.has(Flags::TELL_HOPS) {
            tell(level::IPV6, IPV6_HOPS, bytes(datagram.ttl.into()));
        }
        if target.address.is_ipv6() && options.has(Flags::TELL_CLASS) {
            tell(level::IPV6, IPV6_CLASS, bytes(datagram.tos.into()));
        }
        if options.has(Flags::TELL_ORIGINAL6) {
            tell(level::IPV6, IPV6_ORIGINAL, name(Family::V6.show(target)));
        }
    }
    control
}

/// A socket address as C has it.
fn name(address: SocketAddr) -> Vec<u8> {
    let mut out = Vec::new();
    match address {
        SocketAddr::V4(v4) => {
            out.extend_from_slice(&[2, 0]);
            out.extend_from_slice(&v4.port().to_be_bytes());
            out.extend_from_slice(&v4.ip().octets());
            out.extend_from_slice(&[0; 8]);
        }
        SocketAddr::V6(v6) => {
            out.extend_from_slice(&[10, 0]);
            out.extend_from_slice(&v6.port().to_be_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&v6.ip().octets());
            out.extend_from_slice(&v6.scope_id().to_le_bytes());
        }
    }
    out
}

/// `struct sock_extended_err` and who said so.
fn extended(failure: &Failure) -> Control {
    const IP_ERRORS: i32 = 11;
    const IPV6_ERRORS: i32 = 25;
    let (level, kind, family) = match failure.target.address {
        IpAddr::V4(_) => (level::IP, IP_ERRORS, Family::V4),
        IpAddr::V6(_) => (level::IPV6, IPV6_ERRORS, Family::V6),
    };
    let mut out = u32::from(failure.error.0).to_le_bytes().to_vec();
    out.extend_from_slice(&[failure.origin, failure.kind, failure.code, 0]);
    out.extend_from_slice(&failure.info.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    match failure.offender {
        Some(Host(offender)) => out.extend(name(family.show(Endpoint::new(offender, 0)))),
        None => out.extend_from_slice(if family == Family::V4 { &[0; 16] } else { &[0; 28] }),
    }
    Control { level, kind, bytes: out }
}

/// The names of the interfaces, by number.
pub const INTERFACES: [(u32, &str); 2] = [(LOOPBACK_INDEX, "lo"), (CARD_INDEX, "eth0")];

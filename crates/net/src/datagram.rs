//! Sockets of datagrams: UDP, ICMP echo and raw IP. What they have in common is a queue, a peer, and errors to be told.
use crate::{
    checksum::Sum,
    config::LOOPBACK_INDEX,
    endpoint::{Endpoint, Host, Tuple},
    options::{Flags, Options},
    packet::{Incoming, protocol, set},
    ring::Bytes,
    socket::{How, Readiness, Take},
};
use alloc::{collections::VecDeque, vec::Vec};
use core::net::IpAddr;
use minicbor::{Decode, Encode};
use shimos_abi::{errno::Errno, time::Nanos};

/// Bytes of a UDP header.
pub(crate) const UDP_HEADER: usize = 8;
/// What keeping a datagram costs besides its bytes, so that empty ones do not pile up.
const COST: usize = 128;
/// Errors that wait to be told.
const FAILURES: usize = 32;

/// A datagram and where it came from.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Datagram {
    #[n(0)]
    pub from: Endpoint,
    #[n(1)]
    pub bytes: Bytes,
    /// Where it was sent to.
    #[n(2)]
    pub target: Option<Endpoint>,
    #[cbor(n(3), default)]
    pub ttl: u8,
    #[cbor(n(4), default)]
    pub tos: u8,
    /// When it came.
    #[cbor(n(5), default)]
    pub at: Nanos,
    /// The interface it came by.
    #[cbor(n(6), default)]
    pub interface: u32,
}

/// Why something that was sent did not arrive (`struct sock_extended_err`).
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Failure {
    #[n(0)]
    pub error: Errno,
    #[n(1)]
    pub origin: u8,
    #[n(2)]
    pub kind: u8,
    #[n(3)]
    pub code: u8,
    /// The MTU of the narrow place, if that was it.
    #[n(4)]
    pub info: u32,
    /// Who said so.
    #[n(5)]
    pub offender: Option<Host>,
    /// Where the datagram was sent to.
    #[n(6)]
    pub target: Endpoint,
    /// What of it was quoted.
    #[n(7)]
    pub bytes: Bytes,
    #[n(8)]
    pub at: Nanos,
}

/// Datagrams that were received.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct Queue {
    #[n(0)]
    datagrams: VecDeque<Datagram>,
    /// What they cost.
    #[cbor(n(1), default)]
    used: usize,
    /// Datagrams that found no room.
    #[cbor(n(2), default)]
    pub dropped: u32,
}

impl Queue {
    /// Adds a datagram if there is room for it.
    pub fn push(&mut self, datagram: Datagram, limit: u32) -> Option<()> {
        if self.used > limit as usize {
            self.dropped = self.dropped.wrapping_add(1);
            return None;
        }
        self.used = self.used.saturating_add(datagram.bytes.0.len() + COST);
        self.datagrams.push_back(datagram);
        Some(())
    }

    pub fn front(&self) -> Option<&Datagram> {
        self.datagrams.front()
    }

    pub fn pop(&mut self) -> Option<Datagram> {
        let datagram = self.datagrams.pop_front()?;
        self.used = self.used.saturating_sub(datagram.bytes.0.len() + COST);
        if self.datagrams.is_empty() {
            self.used = 0;
        }
        Some(datagram)
    }

    /// Bytes of the first datagram.
    pub fn readable(&self) -> usize {
        self.datagrams.front().map_or(0, |first| first.bytes.0.len())
    }

    /// What all of them cost.
    pub fn used(&self) -> usize {
        self.used
    }
}

/// The state of a socket of datagrams.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct Flow {
    /// The only one it talks to.
    #[n(0)]
    pub peer: Option<Endpoint>,
    #[n(1)]
    pub queue: Queue,
    #[cbor(n(2), default)]
    pub shut_read: bool,
    #[cbor(n(3), default)]
    pub shut_write: bool,
    #[cbor(n(4), default)]
    pub failures: VecDeque<Failure>,
    /// A datagram that is being put together (MSG_MORE, UDP_CORK), and where it will go.
    #[n(5)]
    pub corked: Option<Corked>,
    /// What checksums cover, of a UDP-Lite socket.
    #[n(6)]
    pub coverage: Option<Coverage>,
}

/// How many bytes of a UDP-Lite datagram, its header included, its checksum covers (RFC 3828); 0 is all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub(crate) struct Coverage {
    /// Of what is sent.
    #[n(0)]
    pub send: u16,
    /// Of what is received, at least; any if that was never said.
    #[n(1)]
    pub receive: Option<u16>,
}

/// A datagram that is not complete.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Corked {
    #[n(0)]
    pub to: Endpoint,
    #[n(1)]
    pub bytes: Bytes,
}

impl Flow {
    pub fn readiness(&self, options: &Options) -> Readiness {
        let mut ready = Readiness::WRITABLE;
        ready.set(Readiness::READABLE, self.queue.front().is_some());
        if self.shut_read {
            ready |= Readiness::READABLE | Readiness::READ_CLOSED;
        }
        ready.set(Readiness::HANGUP, self.shut_read && self.shut_write);
        if !self.failures.is_empty() {
            ready |= Readiness::ERROR;
            ready.set(Readiness::URGENT, options.has(Flags::SELECT_ERRORS));
        }
        ready
    }

    pub fn shutdown(&mut self, how: How) -> Result<(), Errno> {
        self.shut_read |= how != How::Write;
        self.shut_write |= how != How::Read;
        if self.peer.is_none() { Err(Errno::ENOTCONN) } else { Ok(()) }
    }

    /// How well a datagram fits a socket; `None` if it comes from another than its peer.
    pub fn fit(&self, named: u8, tuple: Tuple) -> Option<u8> {
        match self.peer {
            None => Some(named),
            Some(peer) if peer == tuple.remote => Some(4 + named),
            Some(_) => None,
        }
    }

    pub fn fail(&mut self, failure: Failure) {
        if self.failures.len() < FAILURES {
            self.failures.push_back(failure);
        }
    }

    /// Gives the first datagram, and removes it unless it is only looked at.
    pub fn receive(&mut self, take: Take) -> Option<Datagram> {
        match take {
            Take::Consume => self.queue.pop(),
            Take::Peek => self.queue.front().cloned(),
        }
    }
}

/// Which raw packets a socket takes.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Raw {
    #[n(0)]
    pub flow: Flow,
    #[n(1)]
    pub protocol: u8,
    /// ICMP types that it does not want: 32 for IPv4, 256 for IPv6.
    #[n(2)]
    pub filter: [u32; 8],
    /// Where the checksum is that IPv6 packets are given, if it is.
    #[n(3)]
    pub checksum_at: Option<u16>,
}

impl Raw {
    pub fn new(protocol: u8) -> Raw {
        let checksum_at = (protocol == protocol::ICMP6).then_some(2);
        Raw { flow: Flow::default(), protocol, filter: [0; 8], checksum_at }
    }

    /// Whether the filter lets a message through.
    pub fn wants(&self, incoming: &Incoming<'_>) -> bool {
        let Some(kind) = incoming.payload.first() else { return true };
        let blocked =
            |kind: u8| self.filter.get(usize::from(kind / 32)).is_some_and(|word| word >> (kind % 32) & 1 == 1);
        match (self.protocol, incoming.source) {
            (protocol::ICMP, IpAddr::V4(_)) => *kind >= 32 || !blocked(*kind),
            (protocol::ICMP6, IpAddr::V6(_)) => !blocked(*kind),
            _ => true,
        }
    }
}

/// A received packet as a datagram.
pub(crate) fn datagram(now: Nanos, incoming: &Incoming<'_>, tuple: Tuple, bytes: &[u8]) -> Datagram {
    Datagram {
        from: tuple.remote,
        bytes: Bytes(bytes.to_vec()),
        target: Some(tuple.local),
        ttl: incoming.ttl,
        tos: incoming.tos,
        at: now,
        interface: incoming.interface(),
    }
}

/// Whether a datagram socket that is bound to an interface takes this packet.
pub(crate) fn takes(options: &Options, incoming: &Incoming<'_>) -> bool {
    let device = options.general.device.is_none_or(|device| device == incoming.interface());
    device && incoming.ttl >= options.internet(incoming.source).least_ttl
}

/// Appends a datagram to a frame that begins at its header: UDP, or UDP-Lite with this coverage.
pub(crate) fn write_udp(frame: &mut Vec<u8>, tuple: Tuple, bytes: &[u8], coverage: Option<Coverage>) {
    let start = frame.len();
    let length = UDP_HEADER + bytes.len();
    frame.extend_from_slice(&tuple.local.port.to_be_bytes());
    frame.extend_from_slice(&tuple.remote.port.to_be_bytes());
    let (kind, told, covered) = match coverage {
        None => (protocol::UDP, length as u16, length),
        Some(Coverage { send, .. }) if send == 0 || usize::from(send) >= length => (protocol::LITE, 0, length),
        Some(Coverage { send, .. }) => (protocol::LITE, send, usize::from(send)),
    };
    frame.extend_from_slice(&told.to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(bytes);
    let segment = frame.get(start..start + covered).unwrap_or(&[]);
    let (source, target) = (tuple.local.address, tuple.remote.address);
    let sum = match Sum::pseudo(source, target, kind, length).add(segment).finish() {
        // Zero would mean that there is no checksum.
        [0, 0] => [0xff, 0xff],
        sum => sum,
    };
    set(frame, start + 6, &sum);
}

/// Takes a UDP datagram apart.
pub(crate) fn parse_udp<'a>(incoming: &Incoming<'a>) -> Option<(Tuple, &'a [u8])> {
    let header = incoming.payload.first_chunk::<UDP_HEADER>()?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let length = usize::from(word(4));
    let whole = incoming.payload.get(..length).filter(|_| length >= UDP_HEADER)?;
    let unchecked = word(6) == 0 && incoming.source.is_ipv4();
    let valid = incoming.looped
        || unchecked
        || Sum::pseudo(incoming.source, incoming.target, protocol::UDP, length).add(whole).is_valid();
    if !valid || word(2) == 0 {
        return None;
    }
    let tuple =
        Tuple { local: Endpoint::new(incoming.target, word(2)), remote: Endpoint::new(incoming.source, word(0)) };
    Some((tuple, whole.get(UDP_HEADER..)?))
}

/// Takes a UDP-Lite datagram apart: its ends, its bytes, and how much of it the checksum covers.
pub(crate) fn parse_lite<'a>(incoming: &Incoming<'a>) -> Option<(Tuple, &'a [u8], u16)> {
    let header = incoming.payload.first_chunk::<UDP_HEADER>()?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let length = incoming.payload.len();
    let covered = if word(4) == 0 { length } else { usize::from(word(4)) };
    let part = incoming.payload.get(..covered).filter(|_| covered >= UDP_HEADER)?;
    let sum = Sum::pseudo(incoming.source, incoming.target, protocol::LITE, length).add(part);
    // There is always a checksum, and always a port.
    if word(6) == 0 || word(2) == 0 || !(incoming.looped || sum.is_valid()) {
        return None;
    }
    let tuple =
        Tuple { local: Endpoint::new(incoming.target, word(2)), remote: Endpoint::new(incoming.source, word(0)) };
    Some((tuple, incoming.payload.get(UDP_HEADER..)?, if covered == length { 0 } else { word(4) }))
}

/// The interface number of a socket's own packets when none was noted.
pub(crate) fn interface_or_loopback(interface: u32) -> u32 {
    if interface == 0 { LOOPBACK_INDEX } else { interface }
}

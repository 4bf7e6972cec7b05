//! What a socket is: its name, its kind, its settings, and what a program may ask of it.
use crate::{
    datagram::{Flow, Raw},
    endpoint::{Endpoint, Family},
    options::{Flags, Options},
    tcp::{Connection, Listener},
};
use alloc::{boxed::Box, vec::Vec};
use bitflags::bitflags;
use core::net::{IpAddr, SocketAddr};
use minicbor::{Decode, Encode};
use shimos_abi::{
    errno::Errno,
    flat,
    flat::{Flat, Source},
    time::Nanos,
};

/// A socket of one stack. Never used again for another socket.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct SocketId(#[n(0)] pub u32);

/// What a socket speaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Protocol {
    /// A stream of bytes (SOCK_STREAM).
    #[n(0)]
    Tcp,
    /// Datagrams (SOCK_DGRAM).
    #[n(1)]
    Udp,
    /// ICMP echo requests and replies (SOCK_DGRAM with IPPROTO_ICMP). A port stands for the identifier.
    #[n(2)]
    Echo,
    /// IP packets (SOCK_RAW). A port stands for the number of the protocol.
    #[n(3)]
    Raw,
    /// Datagrams of which only a part may be covered by the checksum (SOCK_DGRAM with IPPROTO_UDPLITE).
    #[n(4)]
    Lite,
}

/// Which directions to shut down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// Nothing more is received.
    Read,
    /// Nothing more is sent.
    Write,
    /// Both.
    Both,
}

/// Whether what is received is also removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Take {
    /// Remove it.
    Consume,
    /// Leave it for the next call (MSG_PEEK).
    Peek,
}

/// What was received.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Received {
    /// Bytes copied. Zero at the end of a stream.
    pub copied: usize,
    /// Bytes the datagram has; more than `copied` if it was cut short (MSG_TRUNC). For a stream the same as `copied`.
    pub length: usize,
    /// Who sent the datagram. Nothing for a stream.
    pub from: Option<SocketAddr>,
    /// What else is told about it.
    pub control: Vec<Control>,
    /// When it came, if the program wants to know (SO_TIMESTAMP and the like).
    pub stamp: Option<Stamp>,
}

/// When a datagram came, and how the program wants to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Time of the machine's clock.
    pub at: Nanos,
    /// The type of the control message: SO_TIMESTAMP, SO_TIMESTAMPNS, their new forms, or SO_TIMESTAMPING.
    pub kind: i32,
}

/// A control message (cmsg(3)).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Control {
    /// Its level.
    pub level: i32,
    /// Its type.
    pub kind: i32,
    /// Its data.
    pub bytes: Vec<u8>,
}

/// A message to send.
#[derive(Clone, Copy, Debug, Default)]
pub struct Message<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Where to, if not to the peer.
    pub to: Option<SocketAddr>,
    /// How: addresses and limits of this one packet.
    pub control: &'a [Control],
    /// Whether more follows (MSG_MORE).
    pub more: More,
    /// Whether its last byte is urgent (MSG_OOB).
    pub urgent: Urgency,
}

/// Whether more of a message follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum More {
    /// It is complete.
    #[default]
    No,
    /// It can wait for more.
    Follows,
}

/// Whether something is urgent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Urgency {
    /// As usual.
    #[default]
    No,
    /// It is to be noticed at once.
    Urgent,
}

bitflags! {
    /// What can be done with a socket now, in the sense of poll(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Readiness: u8 {
        /// Receiving or accepting does not block (POLLIN).
        const READABLE = 1;
        /// Sending does not block (POLLOUT).
        const WRITABLE = 2;
        /// Both directions are at their end (POLLHUP).
        const HANGUP = 4;
        /// Nothing more will be received (POLLRDHUP).
        const READ_CLOSED = 8;
        /// An error is to be told (POLLERR).
        const ERROR = 16;
        /// Urgent data is here (POLLPRI).
        const URGENT = 32;
    }
}

/// What a socket is by protocol and state.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) enum Kind {
    /// A TCP socket that has no connection yet, or a failed one behind it.
    #[n(0)]
    Idle,
    #[n(1)]
    Listener(#[n(0)] Box<Listener>),
    #[n(2)]
    Connection(#[n(0)] Box<Connection>),
    #[n(3)]
    Udp(#[n(0)] Flow),
    /// Its port is the identifier of its echo requests.
    #[n(4)]
    Ping(#[n(0)] Flow),
    #[n(5)]
    Raw(#[n(0)] Box<Raw>),
}

/// One socket.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Socket {
    #[n(0)]
    pub kind: Kind,
    #[n(1)]
    pub options: Options,
    /// The local address and port, if it has one of its own. Accepted connections have not: theirs is the listener's.
    #[n(2)]
    pub bound: Option<Endpoint>,
    /// What the program is to be told by its next call.
    #[n(3)]
    pub error: Option<Errno>,
    /// Whether the program has it: no longer after close, not yet before accept.
    #[n(4)]
    pub owner: Owner,
    /// When its timers are due; mirrors the entry in the stack's order of timers.
    #[cbor(skip)]
    pub armed: Option<Nanos>,
    #[cbor(n(5), default)]
    pub family: Family,
    /// Whether its port was chosen for it rather than by bind(2).
    #[cbor(n(6), default)]
    pub chosen: bool,
}

flat!(Socket { kind, options, bound, error, owner, family, chosen; armed });

/// Connections are many; of the others only what is common has fields without numbers.
impl Flat for Kind {
    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Kind::Connection(connection) => {
                to.push(1);
                connection.write(to);
            }
            other => {
                to.push(0);
                flat::write_numbered(other, to);
            }
        }
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<Kind> {
        match u8::read(from)? {
            0 => flat::read_numbered(from),
            1 => Flat::read(from).map(Kind::Connection),
            _ => None,
        }
    }
}

/// Who has a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) enum Owner {
    /// The program.
    #[n(0)]
    Program,
    /// The listener whose queue it is in.
    #[n(1)]
    Listener(#[n(0)] SocketId),
    /// Nobody: it is closed and ends by itself.
    #[n(2)]
    Nobody,
}

impl Flat for Owner {
    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Owner::Program => to.push(0),
            Owner::Listener(SocketId(id)) => (1_u8, *id).write(to),
            Owner::Nobody => to.push(2),
        }
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<Owner> {
        match u8::read(from)? {
            0 => Some(Owner::Program),
            1 => u32::read(from).map(|id| Owner::Listener(SocketId(id))),
            2 => Some(Owner::Nobody),
            _ => None,
        }
    }
}

/// What a socket that is read takes the place of.
impl Default for Socket {
    #[inline(always)]
    fn default() -> Socket {
        Socket::new(Family::V4, Kind::Idle, Options::new())
    }
}

impl Socket {
    #[inline(always)]
    pub fn new(family: Family, kind: Kind, options: Options) -> Socket {
        Socket { kind, options, bound: None, error: None, owner: Owner::Program, armed: None, family, chosen: false }
    }

    pub fn protocol(&self) -> Protocol {
        match &self.kind {
            Kind::Idle | Kind::Listener(_) | Kind::Connection(_) => Protocol::Tcp,
            Kind::Udp(flow) if flow.coverage.is_some() => Protocol::Lite,
            Kind::Udp(_) => Protocol::Udp,
            Kind::Ping(_) => Protocol::Echo,
            Kind::Raw(_) => Protocol::Raw,
        }
    }

    /// When its next timer is due.
    pub fn next_deadline(&self) -> Option<Nanos> {
        match &self.kind {
            Kind::Connection(connection) => connection.next_deadline(),
            Kind::Listener(listener) => listener.timer,
            _ => None,
        }
    }

    /// The state of a datagram socket.
    pub fn flow(&self) -> Option<&Flow> {
        match &self.kind {
            Kind::Udp(flow) | Kind::Ping(flow) => Some(flow),
            Kind::Raw(raw) => Some(&raw.flow),
            _ => None,
        }
    }

    /// The state of a datagram socket, to change.
    pub fn flow_mut(&mut self) -> Option<&mut Flow> {
        match &mut self.kind {
            Kind::Udp(flow) | Kind::Ping(flow) => Some(flow),
            Kind::Raw(raw) => Some(&mut raw.flow),
            _ => None,
        }
    }

    /// How well a socket that is bound to `bound` fits packets to `target`; `None` if they are not for it.
    pub fn rank(&self, bound: IpAddr, target: IpAddr) -> Option<u8> {
        match (bound, target) {
            (bound, target) if bound == target => Some(2),
            (IpAddr::V4(bound), IpAddr::V4(_)) if bound.is_unspecified() => Some(1),
            (IpAddr::V6(bound), IpAddr::V6(_)) if bound.is_unspecified() => Some(1),
            (IpAddr::V6(bound), IpAddr::V4(_)) if bound.is_unspecified() && !self.options.has(Flags::ONLY_V6) => {
                Some(0)
            }
            _ => None,
        }
    }

    /// How well it fits packets to `target`.
    pub fn fits(&self, target: Endpoint) -> Option<u8> {
        let bound = self.bound.filter(|bound| bound.port == target.port)?;
        self.rank(bound.address, target.address)
    }

    /// Whether this socket, bound to `here`, and another one would get some of the same packets.
    pub fn meets(&self, here: Endpoint, other: &Socket) -> bool {
        let Some(there) = other.bound.filter(|there| there.port == here.port) else { return false };
        let devices = (self.options.general.device, other.options.general.device);
        let apart = matches!(devices, (Some(a), Some(b)) if a != b);
        let together =
            self.rank(here.address, there.address).is_some() || other.rank(there.address, here.address).is_some();
        together && !apart
    }

    /// What it can do now.
    pub fn readiness(&self) -> Readiness {
        let mut ready = match &self.kind {
            Kind::Idle => Readiness::WRITABLE | Readiness::HANGUP,
            Kind::Listener(listener) => listener.readiness(),
            Kind::Connection(connection) => connection.readiness(&self.options),
            Kind::Udp(flow) | Kind::Ping(flow) => flow.readiness(&self.options),
            Kind::Raw(raw) => raw.flow.readiness(&self.options),
        };
        if self.error.is_some() {
            ready |= Readiness::ERROR | Readiness::READABLE | Readiness::WRITABLE;
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, stack::Stack};
    use core::net::{Ipv4Addr, SocketAddr};
    use shimos_abi::flat::Flatly;

    fn stack() -> Stack {
        let address = Ipv4Addr::new(10, 77, 1, 1);
        let gateway = Ipv4Addr::new(10, 77, 0, 1);
        Stack::new(Config { mac: [2, 0, 0, 0, 0, 1], address, prefix: 16, gateway, v6: None }, 7)
    }

    /// A connection to itself with bytes under way, its listener, and sockets of other kinds.
    fn sockets() -> Vec<Socket> {
        let (mut stack, mut now) = (stack(), Nanos::secs(1));
        let listener = stack.open(Family::V4, Protocol::Tcp).unwrap();
        let port = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80));
        stack.bind(listener, port).unwrap();
        stack.listen(listener, 5).unwrap();
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Echo] {
            stack.open(Family::V6, protocol).unwrap();
        }
        let client = stack.open(Family::V4, Protocol::Tcp).unwrap();
        let _ = stack.connect(now, client, SocketAddr::from((Ipv4Addr::LOCALHOST, 80)));
        for _ in 0..20 {
            now = now + Nanos::millis(1);
            stack.poll(now);
        }
        stack.socket_mut(client).unwrap().options.stream.unsent_low = Some(7);
        stack.send(now, client, b"hello", None).unwrap();
        stack.saved.sockets.values().map(|kept| (***kept).clone()).collect()
    }

    #[test]
    fn sockets_are_read_as_they_were_saved_and_as_they_were_saved_before() {
        let sockets = sockets();
        assert!(sockets.iter().any(|socket| matches!(&socket.kind, Kind::Connection(c) if c.send.len() == 5)));
        for socket in sockets {
            let numbered = minicbor::to_vec(&socket).unwrap();
            let flat = minicbor::to_vec(Flatly::from(socket)).unwrap();
            for form in [&flat, &numbered] {
                let read: Flatly<Socket> = minicbor::decode(form).unwrap();
                assert_eq!(minicbor::to_vec(&*read).unwrap(), numbered);
                assert_eq!(minicbor::to_vec(&read).unwrap(), flat);
            }
        }
    }

    #[test]
    fn damaged_sockets_are_read_or_refused() {
        let mut seed = 1_u32;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % below
        };
        for socket in sockets() {
            let flat = minicbor::to_vec(Flatly::from(socket)).unwrap();
            for _ in 0..3_000 {
                let mut bytes = flat.clone();
                for _ in 0..1 + random(3) {
                    let at = random(bytes.len());
                    bytes[at] = random(256) as u8;
                }
                bytes.truncate(bytes.len() - random(2) * random(bytes.len()));
                if let Ok(read) = minicbor::decode::<Flatly<Socket>>(&bytes)
                    && let Kind::Connection(connection) = &read.kind
                {
                    let _ = connection.validate();
                }
            }
        }
    }
}

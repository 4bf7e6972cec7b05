//! What a socket is: its name, its kind, its settings, and what a program may ask of it.
use crate::{
    endpoint::Endpoint,
    icmp::Ping,
    options::Options,
    tcp::{Connection, Listener},
    udp::Udp,
};
use alloc::boxed::Box;
use bitflags::bitflags;
use core::net::SocketAddr;
use minicbor::{Decode, Encode};
use shimos_abi::errno::Errno;

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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Bytes copied. Zero at the end of a stream.
    pub copied: usize,
    /// Bytes the datagram has; more than `copied` if it was cut short (MSG_TRUNC). For a stream the same as `copied`.
    pub length: usize,
    /// Who sent the datagram. Nothing for a stream.
    pub from: Option<SocketAddr>,
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
    Udp(#[n(0)] Udp),
    #[n(4)]
    Ping(#[n(0)] Ping),
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
    pub armed: Option<shimos_abi::time::Nanos>,
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

impl Socket {
    pub fn new(kind: Kind, options: Options) -> Socket {
        Socket { kind, options, bound: None, error: None, owner: Owner::Program, armed: None }
    }

    pub fn protocol(&self) -> Protocol {
        match self.kind {
            Kind::Idle | Kind::Listener(_) | Kind::Connection(_) => Protocol::Tcp,
            Kind::Udp(_) => Protocol::Udp,
            Kind::Ping(_) => Protocol::Echo,
        }
    }

    /// What it can do now.
    pub fn readiness(&self) -> Readiness {
        let mut ready = match &self.kind {
            Kind::Idle => Readiness::WRITABLE | Readiness::HANGUP,
            Kind::Listener(listener) => listener.readiness(),
            Kind::Connection(connection) => connection.readiness(&self.options),
            Kind::Udp(udp) => udp.readiness(&self.options),
            Kind::Ping(ping) => ping.queue.readiness(),
        };
        if self.error.is_some() {
            ready |= Readiness::ERROR | Readiness::READABLE | Readiness::WRITABLE;
        }
        ready
    }
}

//! UNIX sockets, stream and datagram, with descriptors in flight.
use crate::files::{DescriptionId, UnixId};
use alloc::{collections::VecDeque, vec::Vec};
use minicbor::{Decode, Encode};
use shimos_abi::ids::Pid;
use shimos_vfs::NodeId;

/// Bytes a socket's queue holds at most.
pub const QUEUE_LIMIT: usize = 212_992;

/// The two kinds of UNIX sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum UnixKind {
    /// A byte stream.
    #[n(0)]
    Stream,
    /// Datagrams.
    #[n(1)]
    Datagram,
    /// A stream of records.
    #[n(2)]
    SeqPacket,
}

/// A UNIX socket.
#[derive(Clone, Debug, Encode, Decode)]
pub struct UnixSocket {
    /// Its kind.
    #[n(0)]
    pub kind: UnixKind,
    /// What it does.
    #[n(1)]
    pub state: UnixState,
    /// The name it is bound to, as given (a leading zero byte is the abstract name space).
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub name: Vec<u8>,
    /// Messages received and not yet read.
    #[n(3)]
    pub queue: VecDeque<Message>,
    /// Its peer sends no more.
    #[n(4)]
    pub read_closed: Option<Closed>,
    /// It sends no more.
    #[n(5)]
    pub write_closed: Option<Closed>,
    /// Who made it, for SO_PEERCRED of the other side: pid, uid, gid.
    #[n(6)]
    pub owner: (Pid, u32, u32),
    /// Who was at the other side when it was connected (SO_PEERCRED): it stays when that side is closed.
    #[n(9)]
    pub peer_owner: Option<(Pid, u32, u32)>,
    /// The node that binding it made, if its name is a path.
    #[n(7)]
    pub node: Option<NodeId>,
    /// Where its name comes from.
    #[n(8)]
    pub bound: Bound,
}

/// Where a socket's name comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Bound {
    /// From bind(2), if it has one.
    #[n(0)]
    ByItself,
    /// From the listener that accepted it; it is not found by it.
    #[n(1)]
    ByListener,
}

/// A marker that a direction is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Closed;

/// What a UNIX socket does.
#[derive(Clone, Debug, Encode, Decode)]
pub enum UnixState {
    /// Nothing yet.
    #[n(0)]
    Idle,
    /// It listens; sockets that connected and wait to be accepted.
    #[n(1)]
    Listening(#[n(0)] VecDeque<UnixId>, #[n(1)] u32),
    /// It has a peer.
    #[n(2)]
    Connected(#[n(0)] UnixId),
    /// Its peer is gone.
    #[n(3)]
    Orphaned,
}

/// A message, or a piece of a stream.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Message {
    /// Its bytes.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
    /// Descriptions that travel with its first byte; each holds a reference.
    #[n(1)]
    pub files: Vec<DescriptionId>,
    /// Sender's name.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub from: Vec<u8>,
}

impl UnixSocket {
    /// A new socket of a kind.
    pub fn new(kind: UnixKind, owner: (Pid, u32, u32)) -> UnixSocket {
        UnixSocket {
            kind,
            state: UnixState::Idle,
            name: Vec::new(),
            queue: VecDeque::new(),
            read_closed: None,
            write_closed: None,
            owner,
            peer_owner: None,
            node: None,
            bound: Bound::ByItself,
        }
    }
    /// Bytes in its queue.
    pub fn queued(&self) -> usize {
        self.queue.iter().map(|message| message.bytes.len()).sum()
    }
    /// Its peer.
    pub fn peer(&self) -> Option<UnixId> {
        match self.state {
            UnixState::Connected(peer) => Some(peer),
            _ => None,
        }
    }
}

//! UNIX sockets, stream, datagram and record, with descriptors in flight.
use crate::files::{DescriptionId, UnixId};
use alloc::{collections::VecDeque, vec::Vec};
use minicbor::{Decode, Encode};
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_net::Options;
use shimos_vfs::NodeId;

/// Bytes a socket's queue holds at most.
pub const QUEUE_LIMIT: usize = 212_992;

/// Messages that wait in a datagram socket's queue at most (net.unix.max_dgram_qlen).
pub const DATAGRAMS: usize = 10;

/// Who has or sent something: pid, uid, gid.
pub type Owner = (Pid, u32, u32);

/// The kinds of UNIX sockets.
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
    /// Its settings.
    #[cbor(n(10), default)]
    pub options: Options,
    /// What the next call is told.
    #[n(11)]
    pub error: Option<Errno>,
    /// The supplementary groups of `owner`.
    #[cbor(n(12), default)]
    pub owner_groups: Vec<u32>,
    /// The same of `peer_owner` (SO_PEERGROUPS).
    #[cbor(n(13), default)]
    pub peer_groups: Vec<u32>,
    /// Bytes in its queue.
    #[cbor(n(14), default)]
    pub used: usize,
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
    /// Who sent it.
    #[n(3)]
    pub sender: Option<Owner>,
    /// Bytes of it that were read already: a stream is read in pieces.
    #[cbor(n(4), default)]
    pub read: usize,
}

impl Message {
    /// What was not read yet.
    pub fn rest(&self) -> &[u8] {
        self.bytes.get(self.read..).unwrap_or_default()
    }
}

impl UnixSocket {
    /// A new socket of a kind.
    pub fn new(kind: UnixKind, owner: Owner, owner_groups: Vec<u32>) -> UnixSocket {
        let mut options = Options::new();
        options.send_buffer = QUEUE_LIMIT as u32;
        options.receive_buffer = QUEUE_LIMIT as u32;
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
            options,
            error: None,
            owner_groups,
            peer_groups: Vec::new(),
            used: 0,
        }
    }

    /// Bytes in its queue.
    pub fn queued(&self) -> usize {
        self.used
    }

    /// Bytes that one call can get (FIONREAD): of a stream all, else those of the first message.
    pub fn readable(&self) -> usize {
        match self.kind {
            UnixKind::Stream => self.used,
            _ => self.queue.front().map_or(0, |message| message.rest().len()),
        }
    }

    /// Adds a message to its queue.
    pub fn push(&mut self, message: Message) {
        self.used = self.used.saturating_add(message.rest().len());
        self.queue.push_back(message);
    }

    /// Takes the first message out of its queue.
    pub fn pop(&mut self) -> Option<Message> {
        let message = self.queue.pop_front()?;
        self.used = self.used.saturating_sub(message.rest().len());
        Some(message)
    }

    /// Reads `count` bytes of the first message of a stream's queue.
    pub fn advance(&mut self, count: usize) {
        let Some(first) = self.queue.front_mut() else { return };
        let count = count.min(first.rest().len());
        first.read += count;
        self.used = self.used.saturating_sub(count);
        if first.rest().is_empty() {
            self.queue.pop_front();
        }
    }

    /// Whether a sender of this many bytes has to wait.
    pub fn is_full(&self, limit: usize) -> bool {
        match self.kind {
            UnixKind::Datagram => self.queue.len() > DATAGRAMS || self.used >= limit,
            _ => self.used >= limit,
        }
    }

    /// Its peer.
    pub fn peer(&self) -> Option<UnixId> {
        match self.state {
            UnixState::Connected(peer) => Some(peer),
            _ => None,
        }
    }

    /// Counts its queue, after it was decoded.
    pub fn recount(&mut self) {
        for message in &mut self.queue {
            message.read = message.read.min(message.bytes.len());
        }
        self.used = self.queue.iter().map(|message| message.rest().len()).sum();
    }
}

//! UDP: queues of datagrams.
use crate::{
    checksum::Sum,
    endpoint::{Endpoint, Tuple},
    link::{ETHERNET, IPV4, Incoming, Link, MTU},
    options::{Flags, Options},
    ring::Bytes,
    socket::{How, Readiness, Take},
};
use alloc::collections::VecDeque;
use minicbor::{Decode, Encode};
use shimos_abi::{errno::Errno, time::Nanos};
use smoltcp::wire::{IpProtocol, UdpPacket};

/// Bytes of a UDP header.
const HEADER: usize = 8;
/// The most a datagram can carry.
const MOST: usize = 65535 - IPV4 - HEADER;
/// What keeping a datagram costs besides its bytes, so that empty ones do not pile up.
const COST: usize = 128;

/// A datagram and where it came from.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Datagram {
    #[n(0)]
    pub from: Endpoint,
    #[n(1)]
    pub bytes: Bytes,
}

/// Datagrams that were received.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct Queue {
    #[n(0)]
    datagrams: VecDeque<Datagram>,
}

impl Queue {
    /// Adds a datagram if there is room for it.
    pub fn push(&mut self, from: Endpoint, bytes: &[u8], options: &Options) -> Option<()> {
        let used: usize = self.datagrams.iter().map(|d| d.bytes.0.len() + COST).sum();
        if used > options.receive_buffer as usize {
            return None;
        }
        self.datagrams.push_back(Datagram { from, bytes: Bytes(bytes.to_vec()) });
        Some(())
    }

    /// Copies the first datagram: how much was copied, how long it is, who sent it.
    pub fn receive(&mut self, into: &mut [u8], take: Take) -> Option<(usize, usize, Endpoint)> {
        let first = self.datagrams.front()?;
        let bytes = &first.bytes.0;
        let copied = bytes.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..copied), bytes.get(..copied)) {
            to.copy_from_slice(from);
        }
        let answer = (copied, bytes.len(), first.from);
        if take == Take::Consume {
            self.datagrams.pop_front();
        }
        Some(answer)
    }

    /// Bytes of the first datagram.
    pub fn readable(&self) -> usize {
        self.datagrams.front().map_or(0, |first| first.bytes.0.len())
    }

    pub fn readiness(&self) -> Readiness {
        if self.datagrams.is_empty() { Readiness::WRITABLE } else { Readiness::READABLE | Readiness::WRITABLE }
    }
}

/// A UDP socket.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct Udp {
    /// The only one it talks to.
    #[n(0)]
    pub peer: Option<Endpoint>,
    #[n(1)]
    pub queue: Queue,
    #[n(2)]
    pub shut_read: bool,
    #[n(3)]
    pub shut_write: bool,
}

impl Udp {
    pub fn readiness(&self, _: &Options) -> Readiness {
        let mut ready = self.queue.readiness();
        if self.shut_read {
            ready |= Readiness::READABLE | Readiness::READ_CLOSED;
        }
        ready.set(Readiness::HANGUP, self.shut_read && self.shut_write);
        ready
    }

    pub fn shutdown(&mut self, how: How) -> Result<(), Errno> {
        if self.peer.is_none() {
            return Err(Errno::ENOTCONN);
        }
        self.shut_read |= how != How::Write;
        self.shut_write |= how != How::Read;
        Ok(())
    }

    /// How well a datagram fits a socket bound to `bound`; `None` if it is not for it.
    pub fn fit(&self, bound: Endpoint, tuple: Tuple) -> Option<u8> {
        if !bound.covers(tuple.local) {
            return None;
        }
        let named = u8::from(!bound.address.is_unspecified());
        match self.peer {
            None => Some(named),
            Some(peer) if peer == tuple.remote => Some(2 + named),
            Some(_) => None,
        }
    }
}

/// Whether a datagram of this length may be sent there.
pub(crate) fn check(link: &Link, to: Endpoint, length: usize, options: &Options) -> Result<(), Errno> {
    let most = if link.config.is_local(to.address) { MOST } else { MTU - IPV4 - HEADER };
    if to.port == 0 {
        Err(Errno::EINVAL)
    } else if length > most {
        Err(Errno::EMSGSIZE)
    } else if link.config.is_broadcast(to.address) && !options.has(Flags::BROADCAST) {
        Err(Errno::EACCES)
    } else if !link.has_room(to.address) {
        Err(Errno::EAGAIN)
    } else {
        Ok(())
    }
}

/// Sends a datagram that [`check`] allowed.
pub(crate) fn send(link: &mut Link, now: Nanos, tuple: Tuple, bytes: &[u8]) {
    let (source, target) = (tuple.local.address, tuple.remote.address);
    let length = HEADER + bytes.len();
    let mut frame = link.frame(source, target, IpProtocol::Udp, length);
    let start = ETHERNET + IPV4;
    frame.resize(start + HEADER, 0);
    if let Some(buffer) = frame.get_mut(start..) {
        let mut packet = UdpPacket::new_unchecked(buffer);
        packet.set_src_port(tuple.local.port);
        packet.set_dst_port(tuple.remote.port);
        packet.set_len(length as u16);
    }
    frame.extend_from_slice(bytes);
    let segment = frame.get(start..).unwrap_or(&[]);
    let sum = match Sum::pseudo(source, target, IpProtocol::Udp, segment.len()).add(segment).finish() {
        // Zero would mean that there is no checksum.
        [0, 0] => [0xff, 0xff],
        sum => sum,
    };
    if let Some(place) = frame.get_mut(start + 6..start + 8) {
        place.copy_from_slice(&sum);
    }
    link.transmit(now, target, frame);
}

/// Takes a datagram apart.
pub(crate) fn parse<'a>(incoming: &Incoming<'a>) -> Option<(Tuple, &'a [u8])> {
    let packet = UdpPacket::new_checked(incoming.payload).ok()?;
    let length = usize::from(packet.len());
    let whole = incoming.payload.get(..length)?;
    let valid = incoming.looped
        || packet.checksum() == 0
        || Sum::pseudo(incoming.source, incoming.target, IpProtocol::Udp, length).add(whole).is_valid();
    if !valid || packet.dst_port() == 0 {
        return None;
    }
    let tuple = Tuple {
        local: Endpoint::new(incoming.target, packet.dst_port()),
        remote: Endpoint::new(incoming.source, packet.src_port()),
    };
    Some((tuple, packet.payload()))
}

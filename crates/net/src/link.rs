//! Frames: the queues of packets that go out to the wire or back in, and what the wire brings.
use crate::{
    config::Config,
    counters::Counters,
    endpoint::Host,
    fragments::Fragments,
    neighbour::{self, Neighbours, Way},
    packet::{self, ETHERNET, Envelope, Incoming, Packet, Pieces, header_of, protocol},
    ring::Bytes,
};
use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use core::net::IpAddr;
use minicbor::{Decode, Encode};
use shimos_abi::time::Nanos;

/// The largest IP packet on the wire.
pub(crate) const MTU: usize = 1500;
/// The largest IP packet over loopback.
pub(crate) const LOOPBACK_MTU: usize = 65535;
/// Frames that may wait in each of the two queues before senders have to wait.
const QUEUE: usize = 512;

/// The network card's side of a stack.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Link {
    #[n(0)]
    pub config: Config,
    #[n(1)]
    pub neighbours: Neighbours,
    /// Frames for the wire.
    #[n(2)]
    outgoing: VecDeque<Bytes>,
    /// Frames for this stack itself; their Ethernet header is blank.
    #[n(3)]
    looped: VecDeque<Bytes>,
    /// Names the pieces of the next packet that is cut.
    #[cbor(n(4), default)]
    next_cut: u32,
    #[cbor(n(5), default)]
    pub counters: Counters,
    /// Hosts that smaller packets reach than fit on our wire, and since when that is known.
    #[cbor(n(6), default)]
    narrow: BTreeMap<Host, Narrow>,
    /// Neighbours that did not answer, for the stack to tell its sockets.
    #[cbor(skip)]
    unreachable: Vec<IpAddr>,
    #[cbor(skip)]
    fragments: Fragments,
}

/// The largest packet that reaches a host.
#[derive(Clone, Copy, Debug, Encode, Decode)]
struct Narrow {
    #[n(0)]
    mtu: u16,
    #[n(1)]
    since: Nanos,
}

/// What a frame was.
pub(crate) enum Arrived<'a> {
    Packet(Incoming<'a>),
    /// A packet that was put together from its pieces.
    Joined(Vec<u8>),
    Nothing,
}

impl Link {
    pub fn new(config: Config) -> Link {
        Link {
            config,
            neighbours: Neighbours::default(),
            outgoing: VecDeque::new(),
            looped: VecDeque::new(),
            next_cut: 1,
            narrow: BTreeMap::new(),
            counters: Counters::default(),
            unreachable: Vec::new(),
            fragments: Fragments::default(),
        }
    }

    pub fn take_frame(&mut self) -> Option<Vec<u8>> {
        self.outgoing.pop_front().map(|frame| frame.0)
    }

    /// Whether frames wait for the wire.
    pub fn has_frames(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub fn take_looped(&mut self) -> Option<Vec<u8>> {
        self.looped.pop_front().map(|frame| frame.0)
    }

    /// How many packets to itself are on their way.
    pub fn looped(&self) -> usize {
        self.looped.len()
    }

    pub fn take_unreachable(&mut self) -> Option<IpAddr> {
        self.unreachable.pop()
    }

    /// Whether the queue that packets to `target` join has room.
    pub fn has_room(&self, target: IpAddr) -> bool {
        if self.config.is_local(target) { self.looped.len() < QUEUE } else { self.wire_has_room() }
    }

    /// Whether the queue to the wire has room.
    pub fn wire_has_room(&self) -> bool {
        self.outgoing.len() < QUEUE
    }

    /// The largest packet that reaches `target` in one piece.
    pub fn mtu(&self, target: IpAddr) -> usize {
        if self.config.is_local(target) {
            return LOOPBACK_MTU;
        }
        self.narrow.get(&Host(target)).map_or(MTU, |narrow| usize::from(narrow.mtu))
    }

    /// A router says that packets to `target` are too large; `mtu` would pass, if it is not 0.
    pub fn narrow(&mut self, now: Nanos, target: IpAddr, mtu: u32) {
        /// A router that does not say how much would pass: what everything passes.
        const LEAST: u32 = 576;
        const LEAST6: u32 = 1280;
        const KNOWN: usize = 64;
        const VALID: Nanos = Nanos::secs(600);
        let least = if target.is_ipv4() { LEAST } else { LEAST6 };
        let mtu = mtu.max(least);
        if mtu as usize >= MTU {
            return;
        }
        self.narrow.retain(|_, narrow| now - narrow.since < VALID);
        if self.narrow.len() < KNOWN || self.narrow.contains_key(&Host(target)) {
            self.narrow.insert(Host(target), Narrow { mtu: mtu as u16, since: now });
        }
    }

    /// The largest payload of TCP in packets to `target`, without options.
    pub fn mss(&self, target: IpAddr) -> u16 {
        // Over loopback whole pages go in one segment; longer ones would only make the queues jerk.
        const LOOPBACK: usize = 32 * 1024;
        let mtu = if self.config.is_local(target) { LOOPBACK + 52 } else { self.mtu(target) };
        (mtu - header_of(target) - 20) as u16
    }

    /// Sends a frame begun by [`Envelope::open`] on its way.
    pub fn transmit(&mut self, now: Nanos, envelope: &Envelope, frame: Vec<u8>) {
        let target = envelope.target;
        let length = frame.len() - ETHERNET.min(frame.len());
        if self.config.is_local(target) {
            return self.loop_back(frame);
        }
        let path = self.mtu(target);
        let mtu = envelope.longest.map_or(path, |longest| path.min(longest.into()));
        if length > mtu {
            if envelope.pieces == Pieces::Forbidden && length > MTU {
                return;
            }
            self.next_cut = self.next_cut.wrapping_add(1);
            for piece in packet::cut(&frame, self.next_cut, mtu) {
                self.send(now, target, piece);
            }
            return;
        }
        self.send(now, target, frame);
    }

    /// Brings a frame back to this stack.
    pub fn loop_back(&mut self, frame: Vec<u8>) {
        self.counters.loopback.sent(frame.len());
        self.counters.loopback.received(frame.len());
        self.looped.push_back(Bytes(frame));
    }

    fn send(&mut self, now: Nanos, target: IpAddr, frame: Vec<u8>) {
        if self.config.is_broadcast(target) {
            let frame = neighbour::address_to(&self.config, [0xff; 6], frame);
            self.push(frame);
        } else if target.is_multicast() {
            let frame = neighbour::address_to(&self.config, neighbour::group_mac(target), frame);
            self.push(frame);
        } else if let Some(hop) = self.config.next_hop(target) {
            let mut questions = Vec::new();
            let way = self.neighbours.way(now, &self.config, hop, frame, &mut questions);
            for question in questions {
                self.push(question);
            }
            if let Way::To(mac, frame) = way {
                let frame = neighbour::address_to(&self.config, mac, frame);
                self.push(frame);
            }
        }
    }

    fn push(&mut self, frame: Vec<u8>) {
        // Twice the limit that senders keep to: answers and pieces beyond it are lost, as on a wire.
        if self.outgoing.len() >= 2 * QUEUE {
            self.counters.card.dropped_sending = self.counters.card.dropped_sending.wrapping_add(1);
            return;
        }
        self.counters.card.sent(frame.len());
        self.outgoing.push_back(Bytes(frame));
    }

    /// Takes a frame from the wire. Questions for addresses are dealt with here; a packet for this program is returned.
    pub fn receive<'a>(&mut self, now: Nanos, frame: &'a [u8]) -> Arrived<'a> {
        let Some((header, rest)) = frame.split_at_checked(ETHERNET) else { return Arrived::Nothing };
        let group = header.first().is_some_and(|byte| byte & 1 == 1);
        if header.get(..6) != Some(&self.config.mac) && !group {
            return Arrived::Nothing;
        }
        self.counters.card.received(frame.len());
        if group {
            self.counters.card.multicast = self.counters.card.multicast.wrapping_add(1);
        }
        if neighbour::is_arp(frame) {
            let mut answers = Vec::new();
            self.neighbours.receive_arp(now, &self.config, rest, &mut answers);
            self.push_all(answers);
            return Arrived::Nothing;
        }
        let kind = header.get(12..14);
        let version = rest.first().map(|byte| byte >> 4);
        let packet = match (kind, version) {
            (Some([0x08, 0x00]), Some(4)) | (Some([0x86, 0xdd]), Some(6)) => packet::parse(rest),
            _ => None,
        };
        match packet {
            Some(Packet::Whole(incoming)) => self.accept(now, incoming),
            Some(Packet::Piece(piece)) if self.is_mine(piece.target) && self.is_honest(piece.source) => {
                match self.fragments.insert(now, &piece) {
                    Some(packet) => Arrived::Joined(packet),
                    None => Arrived::Nothing,
                }
            }
            _ => Arrived::Nothing,
        }
    }

    fn push_all(&mut self, frames: Vec<Vec<u8>>) {
        for frame in frames {
            self.push(frame);
        }
    }

    fn accept<'a>(&mut self, now: Nanos, incoming: Incoming<'a>) -> Arrived<'a> {
        if !self.is_mine(incoming.target) || !self.is_honest(incoming.source) {
            return Arrived::Nothing;
        }
        if incoming.protocol == protocol::ICMP6 && neighbour::is_discovery(incoming.payload) {
            let mut answers = Vec::new();
            self.neighbours.receive_discovery(now, &self.config, &incoming, &mut answers);
            self.push_all(answers);
        }
        Arrived::Packet(incoming)
    }

    /// Whether a packet from the wire to `target` may be for this program. Groups are looked at by the sockets.
    fn is_mine(&self, target: IpAddr) -> bool {
        self.config.is_group(target) || (self.config.is_local(target) && !target.is_loopback())
    }

    /// Nobody else may claim to be this program.
    fn is_honest(&self, source: IpAddr) -> bool {
        !self.config.is_local(source) && self.config.is_unicast(source)
    }

    /// Asks again for addresses that packets wait for.
    pub fn poll(&mut self, now: Nanos) {
        let mut questions = Vec::new();
        let absent = self.neighbours.poll(now, &self.config, &mut questions);
        self.unreachable.extend(absent);
        self.push_all(questions);
    }

    /// When [`Link::poll`] has something to do.
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.neighbours.next_deadline()
    }
}

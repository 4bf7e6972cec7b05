//! Frames: the program's addresses, neighbours on the wire (ARP), and the queues of packets that go out or back in.
use crate::{checksum::Sum, ring::Bytes};
use alloc::{
    collections::{BTreeMap, VecDeque},
    vec,
    vec::Vec,
};
use core::net::Ipv4Addr;
use minicbor::{Decode, Encode};
use shimos_abi::time::Nanos;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol,
        Ipv4Packet, Ipv4Repr,
    },
};

/// Bytes of the Ethernet header.
pub(crate) const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub(crate) const IPV4: usize = 20;
/// The largest IPv4 packet on the wire.
pub(crate) const MTU: usize = 1500;
/// The largest IPv4 packet over loopback: large enough that headers cost little.
pub(crate) const LOOPBACK_MTU: usize = 16 * 1024 + 52;
/// Frames that may wait in each of the two queues before senders have to wait.
const QUEUE: usize = 512;
/// Neighbours remembered.
const NEIGHBOURS: usize = 128;
/// Packets that wait for one neighbour's address.
const WAITING: usize = 32;
/// How often a neighbour is asked before it counts as absent.
const TRIES: u8 = 3;
const ASK_EVERY: Nanos = Nanos::secs(1);
/// After this time without an answer a neighbour is asked again while its address is still used ...
const STALE: Nanos = Nanos::secs(60);
/// ... and after this time the address is used no more.
const GONE: Nanos = Nanos::secs(90);

/// The addresses of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Config {
    /// Its hardware address.
    #[n(0)]
    pub mac: [u8; 6],
    /// Its IPv4 address.
    #[n(1)]
    pub address: Ipv4Addr,
    /// Bits of the address that name its network.
    #[n(2)]
    pub prefix: u8,
    /// Where packets to other networks go; unspecified if there is no such place.
    #[n(3)]
    pub gateway: Ipv4Addr,
}

impl Config {
    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0)
    }

    /// Whether packets to `address` come back to this program.
    pub(crate) fn is_local(&self, address: Ipv4Addr) -> bool {
        address.is_loopback() || address == self.address
    }

    /// Whether `address` names every host of the network.
    pub(crate) fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        address.is_broadcast() || (self.prefix < 31 && address.to_bits() == self.address.to_bits() | !self.mask())
    }

    /// The address that packets to `target` come from.
    pub(crate) fn source_for(&self, target: Ipv4Addr) -> Ipv4Addr {
        if target.is_loopback() { Ipv4Addr::LOCALHOST } else { self.address }
    }

    /// Whether one host of this or another network can be meant by `address`.
    fn is_unicast(&self, address: Ipv4Addr) -> bool {
        !address.is_unspecified() && !address.is_multicast() && !self.is_broadcast(address)
    }

    /// The neighbour that takes packets to `target`.
    pub(crate) fn next_hop(&self, target: Ipv4Addr) -> Option<Ipv4Addr> {
        if (target.to_bits() ^ self.address.to_bits()) & self.mask() == 0 {
            Some(target)
        } else if self.gateway.is_unspecified() {
            None
        } else {
            Some(self.gateway)
        }
    }
}

#[derive(Clone, Debug, Encode, Decode)]
struct Neighbour {
    /// Its hardware address, once known.
    #[n(0)]
    mac: Option<[u8; 6]>,
    /// When it last told its address.
    #[n(1)]
    confirmed: Nanos,
    /// When it was last asked.
    #[n(2)]
    asked: Nanos,
    #[n(3)]
    tries: u8,
    /// Packets that need the address.
    #[n(4)]
    waiting: VecDeque<Bytes>,
}

/// What came in a frame.
pub(crate) struct Incoming<'a> {
    pub source: Ipv4Addr,
    pub target: Ipv4Addr,
    pub protocol: IpProtocol,
    /// The whole IPv4 packet, for errors that quote it.
    pub packet: &'a [u8],
    pub payload: &'a [u8],
    /// Whether the packet never left this stack. Then nothing can have damaged it.
    pub looped: bool,
}

impl Incoming<'_> {
    /// Whether the checksum over payload and pseudo header is right.
    pub fn checksum_is_valid(&self) -> bool {
        self.looped
            || Sum::pseudo(self.source, self.target, self.protocol, self.payload.len()).add(self.payload).is_valid()
    }
}

/// The network card's side of a stack.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Link {
    #[n(0)]
    pub config: Config,
    #[n(1)]
    neighbours: BTreeMap<Ipv4Addr, Neighbour>,
    /// Frames for the wire.
    #[n(2)]
    outgoing: VecDeque<Bytes>,
    /// Frames for this stack itself; their Ethernet header is blank.
    #[n(3)]
    looped: VecDeque<Bytes>,
    /// Neighbours that did not answer, for the stack to tell its sockets.
    #[cbor(skip)]
    unreachable: Vec<Ipv4Addr>,
}

impl Link {
    pub fn new(config: Config) -> Link {
        Link {
            config,
            neighbours: BTreeMap::new(),
            outgoing: VecDeque::new(),
            looped: VecDeque::new(),
            unreachable: Vec::new(),
        }
    }

    pub fn take_frame(&mut self) -> Option<Vec<u8>> {
        self.outgoing.pop_front().map(|frame| frame.0)
    }

    pub fn take_looped(&mut self) -> Option<Vec<u8>> {
        self.looped.pop_front().map(|frame| frame.0)
    }

    /// How many packets to itself are on their way.
    pub fn looped(&self) -> usize {
        self.looped.len()
    }

    pub fn take_unreachable(&mut self) -> Option<Ipv4Addr> {
        self.unreachable.pop()
    }

    /// Whether the queue that packets to `target` join has room.
    pub fn has_room(&self, target: Ipv4Addr) -> bool {
        if self.config.is_local(target) { self.looped.len() < QUEUE } else { self.outgoing.len() < QUEUE }
    }

    /// The largest packet that reaches `target` in one piece.
    pub fn mtu(&self, target: Ipv4Addr) -> usize {
        if self.config.is_local(target) { LOOPBACK_MTU } else { MTU }
    }

    /// The beginning of a frame: blank Ethernet header and IPv4 header. The caller appends `length` bytes.
    pub fn frame(&self, source: Ipv4Addr, target: Ipv4Addr, protocol: IpProtocol, length: usize) -> Vec<u8> {
        let mut frame = Vec::with_capacity(ETHERNET + IPV4 + length);
        frame.resize(ETHERNET + IPV4, 0);
        let header = Ipv4Repr {
            src_addr: source,
            dst_addr: target,
            next_header: protocol,
            payload_len: length.min(usize::from(u16::MAX) - IPV4),
            hop_limit: 64,
        };
        if let Some(buffer) = frame.get_mut(ETHERNET..) {
            header.emit(&mut Ipv4Packet::new_unchecked(buffer), &ChecksumCapabilities::default());
        }
        frame
    }

    /// Sends a frame begun by [`Link::frame`] on its way to `target`.
    pub fn transmit(&mut self, now: Nanos, target: Ipv4Addr, frame: Vec<u8>) {
        if self.config.is_local(target) {
            self.looped.push_back(Bytes(frame));
        } else if self.config.is_broadcast(target) {
            self.send_to([0xff; 6], frame);
        } else if target.is_multicast() {
            let [_, b, c, d] = target.octets();
            self.send_to([0x01, 0x00, 0x5e, b & 0x7f, c, d], frame);
        } else if let Some(hop) = self.config.next_hop(target) {
            self.send_to_neighbour(now, hop, frame);
        }
    }

    fn send_to(&mut self, mac: [u8; 6], mut frame: Vec<u8>) {
        let header = EthernetRepr {
            src_addr: EthernetAddress(self.config.mac),
            dst_addr: EthernetAddress(mac),
            ethertype: EthernetProtocol::Ipv4,
        };
        header.emit(&mut EthernetFrame::new_unchecked(&mut frame));
        self.outgoing.push_back(Bytes(frame));
    }

    fn send_to_neighbour(&mut self, now: Nanos, hop: Ipv4Addr, frame: Vec<u8>) {
        match self.neighbours.get_mut(&hop) {
            Some(neighbour) => {
                let age = now - neighbour.confirmed;
                if age > GONE {
                    neighbour.mac = None;
                }
                let mac = neighbour.mac;
                let ask = (mac.is_none() || age > STALE) && now - neighbour.asked >= ASK_EVERY;
                if mac.is_none() && neighbour.waiting.len() < WAITING {
                    neighbour.waiting.push_back(Bytes(frame.clone()));
                }
                if ask {
                    neighbour.asked = now;
                    self.ask(hop);
                }
                if let Some(mac) = mac {
                    self.send_to(mac, frame);
                }
            }
            None => {
                self.make_room();
                let waiting = VecDeque::from([Bytes(frame)]);
                let neighbour = Neighbour { mac: None, confirmed: Nanos::default(), asked: now, tries: 1, waiting };
                self.neighbours.insert(hop, neighbour);
                self.ask(hop);
            }
        }
    }

    /// Forgets the neighbour that was heard of longest ago, if too many are known.
    fn make_room(&mut self) {
        while self.neighbours.len() >= NEIGHBOURS {
            let oldest = self.neighbours.iter().min_by_key(|(_, n)| n.confirmed.max(n.asked)).map(|(hop, _)| *hop);
            match oldest {
                Some(hop) => self.neighbours.remove(&hop),
                None => return,
            };
        }
    }

    fn ask(&mut self, hop: Ipv4Addr) {
        self.send_arp(ArpOperation::Request, [0xff; 6], [0; 6], hop);
    }

    fn send_arp(&mut self, operation: ArpOperation, to: [u8; 6], target_mac: [u8; 6], target: Ipv4Addr) {
        let arp = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(self.config.mac),
            source_protocol_addr: self.config.address,
            target_hardware_addr: EthernetAddress(target_mac),
            target_protocol_addr: target,
        };
        let header = EthernetRepr {
            src_addr: EthernetAddress(self.config.mac),
            dst_addr: EthernetAddress(to),
            ethertype: EthernetProtocol::Arp,
        };
        let mut frame = vec![0; ETHERNET + arp.buffer_len()];
        let mut ethernet = EthernetFrame::new_unchecked(&mut frame);
        header.emit(&mut ethernet);
        arp.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
        self.outgoing.push_back(Bytes(frame));
    }

    /// Takes a frame from the wire. ARP is dealt with here; an IPv4 packet for this program is returned.
    pub fn receive<'a>(&mut self, now: Nanos, frame: &'a [u8]) -> Option<Incoming<'a>> {
        let frame = EthernetFrame::new_checked(frame).ok()?;
        let to = frame.dst_addr();
        if to.0 != self.config.mac && !to.is_broadcast() {
            return None;
        }
        match frame.ethertype() {
            EthernetProtocol::Arp => {
                self.receive_arp(now, frame.payload());
                None
            }
            EthernetProtocol::Ipv4 => {
                let incoming = parse(frame.payload())?;
                let mine = incoming.target == self.config.address
                    || (self.config.is_broadcast(incoming.target) && incoming.protocol == IpProtocol::Udp);
                // Nobody else may claim to be this program.
                let honest = !self.config.is_local(incoming.source) && self.config.is_unicast(incoming.source);
                (mine && honest).then_some(incoming)
            }
            _ => None,
        }
    }

    fn receive_arp(&mut self, now: Nanos, packet: &[u8]) {
        let parsed = ArpPacket::new_checked(packet).and_then(|packet| ArpRepr::parse(&packet));
        let Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        }) = parsed
        else {
            return;
        };
        let sender = source_protocol_addr;
        if !source_hardware_addr.is_unicast()
            || !self.config.is_unicast(sender)
            || self.config.is_local(sender)
            || self.config.next_hop(sender) != Some(sender)
        {
            return;
        }
        let mac = source_hardware_addr.0;
        let for_me = target_protocol_addr == self.config.address;
        // Only who was asked, or asks, is remembered: what others say unasked does not fill the table.
        if operation == ArpOperation::Request && for_me && !self.neighbours.contains_key(&sender) {
            self.make_room();
            let waiting = VecDeque::new();
            self.neighbours
                .insert(sender, Neighbour { mac: None, confirmed: now, asked: Nanos::default(), tries: 0, waiting });
        }
        if let Some(neighbour) = self.neighbours.get_mut(&sender) {
            neighbour.mac = Some(mac);
            neighbour.confirmed = now;
            neighbour.tries = 0;
            for frame in core::mem::take(&mut neighbour.waiting) {
                self.send_to(mac, frame.0);
            }
        }
        if operation == ArpOperation::Request && for_me && self.outgoing.len() < QUEUE {
            self.send_arp(ArpOperation::Reply, mac, mac, sender);
        }
    }

    /// Asks again for addresses that packets wait for.
    pub fn poll(&mut self, now: Nanos) {
        let due: Vec<Ipv4Addr> = self
            .neighbours
            .iter()
            .filter(|(_, n)| !n.waiting.is_empty() && now >= n.asked + ASK_EVERY)
            .map(|(hop, _)| *hop)
            .collect();
        for hop in due {
            let Some(neighbour) = self.neighbours.get_mut(&hop) else {
                continue;
            };
            if neighbour.tries >= TRIES {
                self.neighbours.remove(&hop);
                self.unreachable.push(hop);
            } else {
                neighbour.tries += 1;
                neighbour.asked = now;
                self.ask(hop);
            }
        }
    }

    /// When [`Link::poll`] has something to do.
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.neighbours.values().filter(|n| !n.waiting.is_empty()).map(|n| n.asked + ASK_EVERY).min()
    }
}

/// Takes an IPv4 packet apart. Fragments and damaged headers give nothing.
pub(crate) fn parse(bytes: &[u8]) -> Option<Incoming<'_>> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    let header = Ipv4Repr::parse(&packet, &ChecksumCapabilities::default()).ok()?;
    Some(Incoming {
        source: header.src_addr,
        target: header.dst_addr,
        protocol: header.next_header,
        packet: bytes.get(..usize::from(packet.total_len()))?,
        payload: packet.payload(),
        looped: false,
    })
}

//! Neighbours on the wire: their hardware addresses, asked for by ARP (RFC 826) and neighbour discovery (RFC 4861).
use crate::{
    checksum::Sum,
    config::{Config, solicited_node},
    endpoint::Host,
    packet::{ETHERNET, Envelope, Incoming, protocol, set},
    ring::Bytes,
};
use alloc::{
    collections::{BTreeMap, VecDeque},
    vec,
    vec::Vec,
};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use minicbor::{Decode, Encode};
use shimos_abi::time::Nanos;

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

const ARP_TYPE: [u8; 2] = [0x08, 0x06];
const IPV6_TYPE: [u8; 2] = [0x86, 0xdd];
const ARP: usize = 28;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
/// ICMPv6 types of neighbour discovery.
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_OPTION: u8 = 1;
const TARGET_OPTION: u8 = 2;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

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

/// How fresh the knowledge of a neighbour is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// It is being asked.
    Incomplete,
    /// It told its address lately.
    Reachable,
    /// It told its address a while ago.
    Stale,
}

/// What is to be done with a packet for a neighbour.
pub(crate) enum Way {
    /// Send it there.
    To([u8; 6], Vec<u8>),
    /// It waits, or is lost.
    Kept,
}

/// The neighbours that are known or asked for.
#[derive(Clone, Debug, Default, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct Neighbours(#[n(0)] BTreeMap<Host, Neighbour>);

impl Neighbours {
    /// A frame wants to go to `hop`. A question that must be asked first is put into `questions`.
    pub fn way(&mut self, now: Nanos, config: &Config, hop: IpAddr, frame: Vec<u8>, out: &mut Vec<Vec<u8>>) -> Way {
        let Some(neighbour) = self.0.get_mut(&Host(hop)) else {
            self.make_room();
            let waiting = VecDeque::from([Bytes(frame)]);
            let neighbour = Neighbour { mac: None, confirmed: Nanos::default(), asked: now, tries: 1, waiting };
            self.0.insert(Host(hop), neighbour);
            out.push(question(config, hop));
            return Way::Kept;
        };
        let age = now - neighbour.confirmed;
        if age > GONE {
            neighbour.mac = None;
        }
        if (neighbour.mac.is_none() || age > STALE) && now - neighbour.asked >= ASK_EVERY {
            neighbour.asked = now;
            out.push(question(config, hop));
        }
        match neighbour.mac {
            Some(mac) => Way::To(mac, frame),
            None => {
                if neighbour.waiting.len() < WAITING {
                    neighbour.waiting.push_back(Bytes(frame));
                }
                Way::Kept
            }
        }
    }

    /// Forgets the neighbour that was heard of longest ago, if too many are known.
    fn make_room(&mut self) {
        while self.0.len() >= NEIGHBOURS {
            let oldest = self.0.iter().min_by_key(|(_, n)| n.confirmed.max(n.asked)).map(|(hop, _)| *hop);
            match oldest {
                Some(hop) => self.0.remove(&hop),
                None => return,
            };
        }
    }

    /// A neighbour told its address; frames that waited for it are given with it. Only who was asked, or asks, is
    /// remembered: what others say unasked does not fill the table.
    fn heard(&mut self, now: Nanos, sender: IpAddr, mac: [u8; 6], asks: Asks) -> VecDeque<Bytes> {
        if asks == Asks::Us && !self.0.contains_key(&Host(sender)) {
            self.make_room();
            let waiting = VecDeque::new();
            let neighbour = Neighbour { mac: None, confirmed: now, asked: Nanos::default(), tries: 0, waiting };
            self.0.insert(Host(sender), neighbour);
        }
        let Some(neighbour) = self.0.get_mut(&Host(sender)) else { return VecDeque::new() };
        neighbour.mac = Some(mac);
        neighbour.confirmed = now;
        neighbour.tries = 0;
        core::mem::take(&mut neighbour.waiting)
    }

    /// Takes an ARP packet.
    pub fn receive_arp(&mut self, now: Nanos, config: &Config, packet: &[u8], out: &mut Vec<Vec<u8>>) {
        let Some(arp) = packet.first_chunk::<ARP>() else { return };
        let [0, 1, 8, 0, 6, 4, 0, operation, rest @ ..] = arp else { return };
        let (Some(mac), Some(sender)) = (rest.first_chunk::<6>(), rest.get(6..10).and_then(|b| b.first_chunk::<4>()))
        else {
            return;
        };
        let Some(target) = rest.get(16..20).and_then(|b| b.first_chunk::<4>()) else { return };
        let sender = Ipv4Addr::from_octets(*sender);
        if !is_station(mac) || !is_neighbour(config, sender.into()) {
            return;
        }
        let asks = match *operation {
            REQUEST if *target == config.address.octets() => Asks::Us,
            _ => Asks::Nobody,
        };
        for frame in self.heard(now, sender.into(), *mac, asks) {
            out.push(address_to(config, *mac, frame.0));
        }
        if asks == Asks::Us {
            out.push(arp_frame(config, REPLY, *mac, *mac, sender));
        }
    }

    /// Takes a message of neighbour discovery; others are none of its business.
    pub fn receive_discovery(&mut self, now: Nanos, config: &Config, incoming: &Incoming<'_>, out: &mut Vec<Vec<u8>>) {
        let Some(message) = incoming.payload.first_chunk::<24>() else { return };
        if incoming.ttl != 255 || message[1] != 0 || !incoming.checksum_is_valid() {
            return;
        }
        let Some(target) = message.get(8..24).and_then(|b| b.first_chunk::<16>()) else { return };
        let target = Ipv6Addr::from_octets(*target);
        let options = incoming.payload.get(24..).unwrap_or(&[]);
        match message[0] {
            SOLICITATION if config.is_local(target.into()) && !target.is_loopback() => {
                let Some(mac) = hardware_address(options, SOURCE_OPTION) else { return };
                if !is_neighbour(config, incoming.source) {
                    return;
                }
                for frame in self.heard(now, incoming.source, mac, Asks::Us) {
                    out.push(address_to(config, mac, frame.0));
                }
                let mut answer = vec![ADVERTISEMENT, 0, 0, 0, SOLICITED | OVERRIDE, 0, 0, 0];
                answer.extend_from_slice(&target.octets());
                answer.extend_from_slice(&[TARGET_OPTION, 1]);
                answer.extend_from_slice(&config.mac);
                out.push(discovery(config, mac, target, incoming.source, &answer));
            }
            ADVERTISEMENT if is_neighbour(config, target.into()) => {
                let Some(mac) = hardware_address(options, TARGET_OPTION) else { return };
                for frame in self.heard(now, target.into(), mac, Asks::Nobody) {
                    out.push(address_to(config, mac, frame.0));
                }
            }
            _ => {}
        }
    }

    /// Asks again for addresses that packets wait for; returns who is asked no more.
    pub fn poll(&mut self, now: Nanos, config: &Config, out: &mut Vec<Vec<u8>>) -> Vec<IpAddr> {
        let mut absent = Vec::new();
        for (hop, neighbour) in &mut self.0 {
            if neighbour.waiting.is_empty() || now < neighbour.asked + ASK_EVERY {
                continue;
            }
            if neighbour.tries >= TRIES {
                absent.push(hop.0);
            } else {
                neighbour.tries += 1;
                neighbour.asked = now;
                out.push(question(config, hop.0));
            }
        }
        for hop in &absent {
            self.0.remove(&Host(*hop));
        }
        absent
    }

    /// When [`Neighbours::poll`] has something to do.
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.0.values().filter(|n| !n.waiting.is_empty()).map(|n| n.asked + ASK_EVERY).min()
    }

    /// The neighbours and what is known of them.
    pub fn list(&self, now: Nanos) -> Vec<(IpAddr, Option<[u8; 6]>, Freshness)> {
        let freshness = |n: &Neighbour| match n.mac {
            None => Freshness::Incomplete,
            Some(_) if now - n.confirmed > STALE => Freshness::Stale,
            Some(_) => Freshness::Reachable,
        };
        self.0.iter().map(|(host, n)| (host.0, n.mac, freshness(n))).collect()
    }
}

/// Whom a question was for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    Us,
    Nobody,
}

fn is_station(mac: &[u8; 6]) -> bool {
    mac[0] & 1 == 0 && *mac != [0; 6]
}

fn is_neighbour(config: &Config, address: IpAddr) -> bool {
    config.is_unicast(address) && !config.is_local(address) && config.next_hop(address) == Some(address)
}

/// The hardware address in the options of a message.
fn hardware_address(mut options: &[u8], kind: u8) -> Option<[u8; 6]> {
    while let [found, words, ..] = *options {
        let length = usize::from(words) * 8;
        if found == kind && length == 8 {
            return options.get(2..8)?.first_chunk().copied().filter(is_station);
        }
        options = options.get(length.max(8)..)?;
    }
    None
}

/// Puts the hardware addresses on a frame with an IP packet.
pub(crate) fn address_to(config: &Config, mac: [u8; 6], mut frame: Vec<u8>) -> Vec<u8> {
    let kind = if frame.get(ETHERNET).is_some_and(|byte| byte >> 4 == 6) { IPV6_TYPE } else { [8, 0] };
    set(&mut frame, 0, &mac);
    set(&mut frame, 6, &config.mac);
    set(&mut frame, 12, &kind);
    frame
}

/// The hardware address of a group.
pub(crate) fn group_mac(group: IpAddr) -> [u8; 6] {
    match group {
        IpAddr::V4(v4) => {
            let [_, b, c, d] = v4.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// The frame that asks for the hardware address of `hop`.
fn question(config: &Config, hop: IpAddr) -> Vec<u8> {
    match hop {
        IpAddr::V4(v4) => arp_frame(config, REQUEST, [0xff; 6], [0; 6], v4),
        IpAddr::V6(v6) => {
            let IpAddr::V6(source) = config.source_for(hop) else { return Vec::new() };
            let group = solicited_node(v6);
            let mut ask = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
            ask.extend_from_slice(&v6.octets());
            ask.extend_from_slice(&[SOURCE_OPTION, 1]);
            ask.extend_from_slice(&config.mac);
            discovery(config, group_mac(group.into()), source, group.into(), &ask)
        }
    }
}

fn arp_frame(config: &Config, operation: u8, to: [u8; 6], target_mac: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET + ARP);
    frame.extend_from_slice(&to);
    frame.extend_from_slice(&config.mac);
    frame.extend_from_slice(&ARP_TYPE);
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend_from_slice(&config.mac);
    frame.extend_from_slice(&config.address.octets());
    frame.extend_from_slice(&target_mac);
    frame.extend_from_slice(&target.octets());
    frame
}

fn discovery(config: &Config, mac: [u8; 6], source: Ipv6Addr, target: IpAddr, message: &[u8]) -> Vec<u8> {
    let mut envelope = Envelope::new(source.into(), target, protocol::ICMP6);
    envelope.ttl = 255;
    let mut frame = envelope.open(message.len());
    let start = frame.len();
    frame.extend_from_slice(message);
    let sum = Sum::pseudo(source.into(), target, protocol::ICMP6, message.len()).add(message).finish();
    set(&mut frame, start + 2, &sum);
    address_to(config, mac, frame)
}

/// Whether an ICMPv6 message is one of neighbour or router discovery.
pub(crate) fn is_discovery(payload: &[u8]) -> bool {
    payload.first().is_some_and(|kind| (133..=137).contains(kind))
}

/// Whether an Ethernet frame carries ARP.
pub(crate) fn is_arp(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&ARP_TYPE)
}

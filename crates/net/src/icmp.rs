//! ICMP and ICMPv6: answers to echo requests, and errors in both directions.
use crate::{
    checksum::Sum,
    counters::count,
    endpoint::{Endpoint, Tuple},
    link::Link,
    packet::{self, Envelope, IPV4, IPV6, Incoming, Packet, header_of, protocol, set},
};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use shimos_abi::{errno::Errno, time::Nanos};

/// Bytes of an ICMP header.
pub(crate) const HEADER: usize = 8;
/// The most that an error message of IPv6 may be long.
const LEAST_MTU6: usize = 1280;

/// An ICMP error that came for something sent from here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal<'a> {
    pub protocol: u8,
    pub tuple: Tuple,
    pub error: Errno,
    /// Whether the sender can do nothing but give up.
    pub hard: Hard,
    pub kind: u8,
    pub code: u8,
    /// The largest packet that would have passed, if that was the reason; 0 if it is not known.
    pub mtu: Option<u32>,
    /// The sequence number of a TCP segment.
    pub seq: u32,
    /// The payload after the quoted header of UDP or ICMP.
    pub rest: &'a [u8],
}

/// Whether an error is for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hard {
    Yes,
    No,
}

/// What an ICMP message means to the stack.
pub(crate) enum Message<'a> {
    /// It asks for an answer.
    Request,
    /// It answers the socket with this identifier.
    Reply(u16),
    /// Something that was sent from here could not be delivered.
    Refusal(Refusal<'a>),
    /// It says nothing to the stack itself.
    Other,
}

/// The numbers of a message in one of the two versions.
struct Numbers {
    request: u8,
    reply: u8,
}

const fn numbers(address: IpAddr) -> Numbers {
    match address {
        IpAddr::V4(_) => Numbers { request: 8, reply: 0 },
        IpAddr::V6(_) => Numbers { request: 128, reply: 129 },
    }
}

/// The type of echo requests to an address.
pub(crate) const fn request_type(address: IpAddr) -> u8 {
    numbers(address).request
}

/// Understands a message; `None` if it is damaged.
pub(crate) fn parse<'a>(incoming: &Incoming<'a>) -> Option<Message<'a>> {
    let bytes = incoming.payload;
    let sum = match incoming.source {
        IpAddr::V4(_) => Sum::default(),
        IpAddr::V6(_) => Sum::pseudo(incoming.source, incoming.target, protocol::ICMP6, bytes.len()),
    };
    if !incoming.looped && !sum.add(bytes).is_valid() {
        return None;
    }
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let [kind, code, _, _, a, b, c, d] = *header;
    let numbers = numbers(incoming.source);
    if kind == numbers.request {
        return Some(Message::Request);
    }
    if kind == numbers.reply {
        return Some(Message::Reply(u16::from_be_bytes([a, b])));
    }
    let meaning = match incoming.source {
        IpAddr::V4(_) => meaning4(kind, code, u16::from_be_bytes([c, d])),
        IpAddr::V6(_) => meaning6(kind, code, u32::from_be_bytes([a, b, c, d])),
    };
    let Some((error, hard, mtu)) = meaning else { return Some(Message::Other) };
    let Some((protocol, tuple, seq, rest)) = quoted(rest) else { return Some(Message::Other) };
    Some(Message::Refusal(Refusal { protocol, tuple, error, hard, kind, code, mtu, seq, rest }))
}

/// What an error of ICMP tells (RFC 1122, 3.2.2.1, and the table that Linux has).
fn meaning4(kind: u8, code: u8, mtu: u16) -> Option<(Errno, Hard, Option<u32>)> {
    Some(match (kind, code) {
        (3, 0 | 6 | 11) => (Errno::ENETUNREACH, if code == 6 { Hard::Yes } else { Hard::No }, None),
        (3, 1 | 5 | 12) => (Errno::EHOSTUNREACH, Hard::No, None),
        (3, 2) => (Errno::ENOPROTOOPT, Hard::Yes, None),
        (3, 3) => (Errno::ECONNREFUSED, Hard::Yes, None),
        (3, 4) => (Errno::EMSGSIZE, Hard::No, Some(mtu.into())),
        (3, 7) => (Errno::EHOSTDOWN, Hard::Yes, None),
        (3, 8) => (Errno::ENONET, Hard::Yes, None),
        (3, 9 | 10 | 13..=15) => (if code == 9 { Errno::ENETUNREACH } else { Errno::EHOSTUNREACH }, Hard::Yes, None),
        (11, _) => (Errno::EHOSTUNREACH, Hard::No, None),
        (12, _) => (Errno::EPROTO, Hard::Yes, None),
        _ => return None,
    })
}

fn meaning6(kind: u8, code: u8, info: u32) -> Option<(Errno, Hard, Option<u32>)> {
    Some(match (kind, code) {
        (1, 0) => (Errno::ENETUNREACH, Hard::No, None),
        (1, 1 | 5 | 6) => (Errno::EACCES, Hard::Yes, None),
        (1, 4) => (Errno::ECONNREFUSED, Hard::Yes, None),
        (1, _) => (Errno::EHOSTUNREACH, Hard::No, None),
        (2, _) => (Errno::EMSGSIZE, Hard::No, Some(info)),
        (3, _) => (Errno::EHOSTUNREACH, Hard::No, None),
        (4, _) => (Errno::EPROTO, Hard::Yes, None),
        _ => return None,
    })
}

/// Whose packet an error quotes: protocol, the two ends as seen from here, a number, and what follows the ports.
fn quoted(bytes: &[u8]) -> Option<(u8, Tuple, u32, &[u8])> {
    let (source, target, kind, rest) = match bytes.first()? >> 4 {
        4 => {
            let header = bytes.first_chunk::<IPV4>()?;
            let length = usize::from(header[0] & 15) * 4;
            let address = |at: usize| Some(Ipv4Addr::from_octets(*header.get(at..)?.first_chunk()?));
            let (source, target) = (address(12)?, address(16)?);
            (IpAddr::V4(source), IpAddr::V4(target), header[9], bytes.get(length.max(IPV4)..)?)
        }
        6 => {
            let header = bytes.first_chunk::<IPV6>()?;
            let address = |at: usize| Some(Ipv6Addr::from_octets(*header.get(at..)?.first_chunk()?));
            let (source, target) = (address(8)?, address(24)?);
            (IpAddr::V6(source), IpAddr::V6(target), header[6], bytes.get(IPV6..)?)
        }
        _ => return None,
    };
    let [a, b, c, d, e, f, g, h] = *rest.first_chunk::<8>()?;
    let (near, far, number) = match kind {
        protocol::TCP => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), u32::from_be_bytes([e, f, g, h])),
        protocol::UDP | protocol::LITE => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), 0),
        // The identifier of an echo request stands for our port.
        protocol::ICMP | protocol::ICMP6 => (u16::from_be_bytes([e, f]), 0, 0),
        _ => (0, 0, 0),
    };
    let tuple = Tuple { local: Endpoint::new(source, near), remote: Endpoint::new(target, far) };
    let skip = if matches!(kind, protocol::UDP | protocol::LITE) { 8 } else { 0 };
    Some((kind, tuple, number, rest.get(skip..).unwrap_or(&[])))
}

/// Sends a message, whose checksum is set here.
pub(crate) fn send(link: &mut Link, now: Nanos, envelope: &Envelope, message: &[u8]) {
    if !link.has_room(envelope.target) {
        return;
    }
    let mut frame = envelope.open(message.len());
    let start = frame.len();
    frame.extend_from_slice(message);
    set(&mut frame, start + 2, &[0, 0]);
    let sum = match envelope.target {
        IpAddr::V4(_) => Sum::default(),
        IpAddr::V6(_) => Sum::pseudo(envelope.source, envelope.target, protocol::ICMP6, message.len()),
    };
    let sum = sum.add(frame.get(start..).unwrap_or(&[])).finish();
    set(&mut frame, start + 2, &sum);
    count(&mut link.counters.icmp_sent);
    link.transmit(now, envelope, frame);
}

/// The protocol number of ICMP for an address.
pub(crate) const fn protocol_for(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => protocol::ICMP,
        IpAddr::V6(_) => protocol::ICMP6,
    }
}

/// Answers an echo request.
pub(crate) fn reply(link: &mut Link, now: Nanos, incoming: &Incoming<'_>) {
    let source = if link.config.is_group(incoming.target) {
        // IPv4 hosts keep silent when everybody is asked.
        if incoming.source.is_ipv4() {
            return;
        }
        link.config.source_for(incoming.source)
    } else {
        incoming.target
    };
    let mut answer = incoming.payload.to_vec();
    set(&mut answer, 0, &[numbers(incoming.source).reply]);
    let mut envelope = Envelope::new(source, incoming.source, protocol_for(incoming.source));
    envelope.tos = incoming.tos;
    send(link, now, &envelope, &answer);
}

/// Why a packet is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    /// Nobody uses its port.
    Port,
    /// Nobody speaks its protocol.
    Protocol,
}

/// Tells the sender of a packet why it was not taken.
pub(crate) fn refuse(link: &mut Link, now: Nanos, incoming: &Incoming<'_>, reason: Reason) {
    if link.config.is_group(incoming.target) || !link.config.is_unicast(incoming.source) {
        return;
    }
    let (kind, code, most) = match (incoming.source, reason) {
        (IpAddr::V4(_), Reason::Port) => (3, 3, 548),
        (IpAddr::V4(_), Reason::Protocol) => (3, 2, 548),
        (IpAddr::V6(_), Reason::Port) => (1, 4, LEAST_MTU6 - IPV6 - HEADER),
        (IpAddr::V6(_), Reason::Protocol) => (4, 1, LEAST_MTU6 - IPV6 - HEADER),
    };
    let quote = incoming.packet.get(..most).unwrap_or(incoming.packet);
    let mut message = Vec::with_capacity(HEADER + quote.len());
    message.extend_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
    if kind == 4 {
        // Where in the packet the unknown number is: the next-header field.
        set(&mut message, 7, &[6]);
    }
    message.extend_from_slice(quote);
    let envelope = Envelope::new(incoming.target, incoming.source, protocol_for(incoming.source));
    send(link, now, &envelope, &message);
}

/// The payload of a looped frame, taken apart.
pub(crate) fn looped(frame: &[u8]) -> Option<Incoming<'_>> {
    match packet::parse(frame.get(packet::ETHERNET..)?)? {
        Packet::Whole(mut incoming) => {
            incoming.looped = true;
            Some(incoming)
        }
        Packet::Piece(_) => None,
    }
}

/// The longest message to an address in one packet.
pub(crate) fn longest(address: IpAddr) -> usize {
    65535 - if address.is_ipv4() { header_of(address) } else { 0 }
}

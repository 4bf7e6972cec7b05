//! IPv4 and IPv6 packets: their headers on the wire.
use crate::checksum::Sum;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of the Ethernet header.
pub(crate) const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub(crate) const IPV4: usize = 20;
/// Bytes of an IPv6 header.
pub(crate) const IPV6: usize = 40;
/// Bytes of the header that a piece of an IPv6 packet has in addition.
pub(crate) const FRAGMENT: usize = 8;

/// Numbers of the protocols over IP.
pub(crate) mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const FRAGMENT: u8 = 44;
    pub const LITE: u8 = 136;
    pub const ICMP6: u8 = 58;
    pub const NONE: u8 = 59;
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;

    /// Whether an IPv6 header of this kind may stand before another and can be skipped.
    pub fn is_extension(kind: u8) -> bool {
        matches!(kind, HOP_BY_HOP | ROUTING | DESTINATION)
    }
}

/// Bytes of the IP header of packets to this address.
pub(crate) const fn header_of(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => IPV4,
        IpAddr::V6(_) => IPV6,
    }
}

/// What the header of a packet to send says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Envelope {
    pub source: IpAddr,
    pub target: IpAddr,
    pub protocol: u8,
    /// Routers it may pass.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// Whether it may be cut into pieces on its way.
    pub pieces: Pieces,
    /// The longest piece, if that is to be less than what the path takes.
    pub longest: Option<u16>,
}

/// Whether a packet may be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pieces {
    Allowed,
    Forbidden,
}

/// The limit of routers where nothing else is asked for.
pub(crate) const TTL: u8 = 64;

impl Envelope {
    pub const fn new(source: IpAddr, target: IpAddr, protocol: u8) -> Envelope {
        Envelope { source, target, protocol, ttl: TTL, tos: 0, pieces: Pieces::Allowed, longest: None }
    }

    /// The beginning of a frame: blank Ethernet header and IP header. The caller appends `length` bytes.
    pub fn open(&self, length: usize) -> Vec<u8> {
        let header = header_of(self.target);
        let mut frame = Vec::with_capacity(ETHERNET + header + length);
        frame.resize(ETHERNET, 0);
        match (self.source, self.target) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let total = (IPV4 + length).min(usize::from(u16::MAX)) as u16;
                let flags: u16 = if self.pieces == Pieces::Forbidden { 0x4000 } else { 0 };
                let mut header = [0; IPV4];
                header[0] = 0x45;
                header[1] = self.tos;
                header[2..4].copy_from_slice(&total.to_be_bytes());
                header[6..8].copy_from_slice(&flags.to_be_bytes());
                header[8] = self.ttl;
                header[9] = self.protocol;
                header[12..16].copy_from_slice(&source.octets());
                header[16..20].copy_from_slice(&target.octets());
                let sum = Sum::default().add(&header).finish();
                header[10..12].copy_from_slice(&sum);
                frame.extend_from_slice(&header);
            }
            (source, target) => {
                let octets = |address: IpAddr| match address {
                    IpAddr::V6(v6) => v6.octets(),
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                };
                let mut header = [0; IPV6];
                header[0] = 0x60 | self.tos >> 4;
                header[1] = self.tos << 4;
                header[4..6].copy_from_slice(&(length.min(usize::from(u16::MAX)) as u16).to_be_bytes());
                header[6] = self.protocol;
                header[7] = self.ttl;
                header[8..24].copy_from_slice(&octets(source));
                header[24..40].copy_from_slice(&octets(target));
                frame.extend_from_slice(&header);
            }
        }
        frame
    }
}

/// What came in a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming<'a> {
    pub source: IpAddr,
    pub target: IpAddr,
    pub protocol: u8,
    pub ttl: u8,
    pub tos: u8,
    /// The whole packet, for errors that quote it.
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

    /// The interface it came by.
    pub fn interface(&self) -> u32 {
        if self.looped { crate::config::LOOPBACK_INDEX } else { crate::config::CARD_INDEX }
    }
}

/// A piece of a packet.
pub(crate) struct Piece<'a> {
    pub source: IpAddr,
    pub target: IpAddr,
    pub protocol: u8,
    pub id: u32,
    /// Where in the packet's payload it belongs.
    pub offset: usize,
    /// Whether more follows.
    pub more: bool,
    /// The headers that the whole packet will have.
    pub header: &'a [u8],
    pub payload: &'a [u8],
}

/// What an IP packet is.
pub(crate) enum Packet<'a> {
    Whole(Incoming<'a>),
    Piece(Piece<'a>),
}

/// Takes a packet apart. Damaged and impossible ones give nothing.
pub(crate) fn parse(bytes: &[u8]) -> Option<Packet<'_>> {
    match bytes.first()? >> 4 {
        4 => parse4(bytes),
        6 => parse6(bytes),
        _ => None,
    }
}

fn parse4(bytes: &[u8]) -> Option<Packet<'_>> {
    let fixed = bytes.first_chunk::<IPV4>()?;
    let length = usize::from(fixed[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let packet = bytes.get(..total)?;
    let header = packet.get(..length).filter(|_| length >= IPV4)?;
    if !Sum::default().add(header).is_valid() {
        return None;
    }
    let source = IpAddr::V4(Ipv4Addr::from_octets(*fixed.get(12..16)?.first_chunk()?));
    let target = IpAddr::V4(Ipv4Addr::from_octets(*fixed.get(16..20)?.first_chunk()?));
    let payload = packet.get(length..)?;
    let place = u16::from_be_bytes([fixed[6], fixed[7]]);
    if place & 0x3fff != 0 {
        return Some(Packet::Piece(Piece {
            source,
            target,
            protocol: fixed[9],
            id: u16::from_be_bytes([fixed[4], fixed[5]]).into(),
            offset: usize::from(place & 0x1fff) * 8,
            more: place & 0x2000 != 0,
            header,
            payload,
        }));
    }
    let (protocol, ttl, tos) = (fixed[9], fixed[8], fixed[1]);
    Some(Packet::Whole(Incoming { source, target, protocol, ttl, tos, packet, payload, looped: false }))
}

fn parse6(bytes: &[u8]) -> Option<Packet<'_>> {
    let fixed = bytes.first_chunk::<IPV6>()?;
    let length = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let packet = bytes.get(..IPV6 + length)?;
    let source = IpAddr::V6(Ipv6Addr::from_octets(*fixed.get(8..24)?.first_chunk()?));
    let target = IpAddr::V6(Ipv6Addr::from_octets(*fixed.get(24..40)?.first_chunk()?));
    let tos = fixed[0] << 4 | fixed[1] >> 4;
    let mut kind = fixed[6];
    let mut at = IPV6;
    while protocol::is_extension(kind) {
        let [next, words, ..] = *packet.get(at..)? else { return None };
        kind = next;
        at += (usize::from(words) + 1) * 8;
    }
    if kind == protocol::FRAGMENT {
        let head = packet.get(at..)?.first_chunk::<FRAGMENT>()?;
        let place = u16::from_be_bytes([head[2], head[3]]);
        return Some(Packet::Piece(Piece {
            source,
            target,
            protocol: head[0],
            id: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
            offset: usize::from(place & 0xfff8),
            more: place & 1 != 0,
            header: packet.get(..IPV6)?,
            payload: packet.get(at + FRAGMENT..)?,
        }));
    }
    let payload = packet.get(at..)?;
    let ttl = fixed[7];
    Some(Packet::Whole(Incoming { source, target, protocol: kind, ttl, tos, packet, payload, looped: false }))
}

/// Cuts a frame with an IP packet that is too long for the wire into frames with pieces of it.
pub(crate) fn cut(frame: &[u8], id: u32, mtu: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let Some(version) = frame.get(ETHERNET).map(|byte| byte >> 4) else { return frames };
    let (header, extra) = if version == 4 { (IPV4, 0) } else { (IPV6, FRAGMENT) };
    let Some((head, payload)) = frame.split_at_checked(ETHERNET + header) else { return frames };
    let step = (mtu - header - extra) & !7;
    let kind = head.get(ETHERNET + 6).copied().unwrap_or(protocol::NONE);
    for (index, part) in payload.chunks(step).enumerate() {
        let offset = index * step;
        let more = offset + part.len() < payload.len();
        let mut piece = Vec::with_capacity(head.len() + extra + part.len());
        piece.extend_from_slice(head);
        if let Some(ip) = piece.get_mut(ETHERNET..) {
            if version == 4 {
                let place = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
                set(ip, 2, &((IPV4 + part.len()) as u16).to_be_bytes());
                set(ip, 4, &(id as u16).to_be_bytes());
                set(ip, 6, &place.to_be_bytes());
                set(ip, 10, &[0, 0]);
                let sum = Sum::default().add(ip).finish();
                set(ip, 10, &sum);
            } else {
                set(ip, 4, &((FRAGMENT + part.len()) as u16).to_be_bytes());
                set(ip, 6, &[protocol::FRAGMENT]);
                let place = offset as u16 | u16::from(more);
                piece.extend_from_slice(&[kind, 0]);
                piece.extend_from_slice(&place.to_be_bytes());
                piece.extend_from_slice(&id.to_be_bytes());
            }
        }
        piece.extend_from_slice(part);
        frames.push(piece);
    }
    frames
}

/// Puts a whole packet together again from its headers and its payload.
pub(crate) fn join(header: &[u8], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(header.len() + payload.len());
    packet.extend_from_slice(header);
    if header.first().is_some_and(|byte| byte >> 4 == 4) {
        set(&mut packet, 2, &((header.len() + payload.len()) as u16).to_be_bytes());
        set(&mut packet, 6, &[0, 0, packet_ttl(header), protocol, 0, 0]);
        let sum = Sum::default().add(&packet).finish();
        set(&mut packet, 10, &sum);
    } else {
        set(&mut packet, 4, &(payload.len() as u16).to_be_bytes());
        set(&mut packet, 6, &[protocol]);
    }
    packet.extend_from_slice(payload);
    packet
}

fn packet_ttl(header: &[u8]) -> u8 {
    header.get(8).copied().unwrap_or(TTL)
}

/// Overwrites bytes at a place, if there is room for them.
pub(crate) fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = at.checked_add(value.len()).and_then(|end| bytes.get_mut(at..end)) {
        place.copy_from_slice(value);
    }
}

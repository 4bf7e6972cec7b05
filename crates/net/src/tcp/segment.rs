//! Segments on the wire: taking them apart and putting them together.
use super::Seq;
use crate::{
    checksum::Sum,
    endpoint::{Endpoint, Tuple},
    link::{ETHERNET, IPV4, Incoming, Link},
};
use shimos_abi::time::Nanos;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{IpAddress, IpProtocol, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, TcpTimestampRepr},
};

/// A received segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    /// Our end is the local one.
    pub tuple: Tuple,
    pub seq: Seq,
    pub ack: Option<Seq>,
    pub control: TcpControl,
    pub window: u16,
    pub mss: Option<u16>,
    pub shift: Option<u8>,
    pub sack_permitted: bool,
    pub sacks: [Option<(u32, u32)>; 3],
    /// Its timestamp and the one it echoes.
    pub stamp: Option<(u32, u32)>,
    pub payload: &'a [u8],
}

impl Segment<'_> {
    /// Takes a segment apart. Damaged and impossible ones give nothing.
    pub fn parse<'a>(incoming: &Incoming<'a>) -> Option<Segment<'a>> {
        let packet = TcpPacket::new_checked(incoming.payload).ok()?;
        if !incoming.checksum_is_valid() {
            return None;
        }
        let (source, target) = (IpAddress::Ipv4(incoming.source), IpAddress::Ipv4(incoming.target));
        let repr = TcpRepr::parse(&packet, &source, &target, &ChecksumCapabilities::ignored()).ok()?;
        Some(Segment {
            tuple: Tuple {
                local: Endpoint::new(incoming.target, repr.dst_port),
                remote: Endpoint::new(incoming.source, repr.src_port),
            },
            seq: Seq(repr.seq_number.0 as u32),
            ack: repr.ack_number.map(|ack| Seq(ack.0 as u32)),
            control: repr.control,
            window: repr.window_len,
            mss: repr.max_seg_size,
            shift: repr.window_scale,
            sack_permitted: repr.sack_permitted,
            sacks: repr.sack_ranges,
            stamp: repr.timestamp.map(|stamp| (stamp.tsval, stamp.tsecr)),
            payload: repr.payload,
        })
    }

    /// The sequence number after it.
    pub fn end(&self) -> Seq {
        let control = matches!(self.control, TcpControl::Syn | TcpControl::Fin);
        self.seq + self.payload.len() as u32 + u32::from(control)
    }

    pub fn is_syn(&self) -> bool {
        self.control == TcpControl::Syn
    }

    pub fn is_fin(&self) -> bool {
        self.control == TcpControl::Fin
    }

    pub fn is_reset(&self) -> bool {
        self.control == TcpControl::Rst
    }
}

/// A header with nothing but its addresses.
pub(crate) fn header(tuple: Tuple, seq: Seq, ack: Option<Seq>) -> TcpRepr<'static> {
    TcpRepr {
        src_port: tuple.local.port,
        dst_port: tuple.remote.port,
        control: TcpControl::None,
        seq_number: TcpSeqNumber(seq.0 as i32),
        ack_number: ack.map(|ack| TcpSeqNumber(ack.0 as i32)),
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    }
}

/// The timestamp option.
pub(crate) fn timestamp(value: u32, echo: u32) -> Option<TcpTimestampRepr> {
    Some(TcpTimestampRepr::new(value, echo))
}

/// Sends a segment: a header and the bytes of two runs.
pub(crate) fn send(link: &mut Link, now: Nanos, tuple: Tuple, header: &TcpRepr<'_>, runs: (&[u8], &[u8])) {
    let (source, target) = (tuple.local.address, tuple.remote.address);
    let length = header.header_len() + runs.0.len() + runs.1.len();
    let mut frame = link.frame(source, target, IpProtocol::Tcp, length);
    let start = ETHERNET + IPV4;
    frame.resize(start + header.header_len(), 0);
    if let Some(buffer) = frame.get_mut(start..) {
        let (a, b) = (IpAddress::Ipv4(source), IpAddress::Ipv4(target));
        header.emit(&mut TcpPacket::new_unchecked(buffer), &a, &b, &ChecksumCapabilities::ignored());
    }
    frame.extend_from_slice(runs.0);
    frame.extend_from_slice(runs.1);
    if !link.config.is_local(target) {
        let segment = frame.get(start..).unwrap_or(&[]);
        let sum = Sum::pseudo(source, target, IpProtocol::Tcp, segment.len()).add(segment).finish();
        if let Some(place) = frame.get_mut(start + 16..start + 18) {
            place.copy_from_slice(&sum);
        }
    }
    link.transmit(now, target, frame);
}

/// Answers a segment that belongs to no connection with a reset.
pub(crate) fn reset_for(segment: &Segment<'_>, link: &mut Link, now: Nanos) {
    if segment.is_reset() || !link.has_room(segment.tuple.remote.address) {
        return;
    }
    let mut reset = match segment.ack {
        Some(ack) => header(segment.tuple, ack, None),
        None => header(segment.tuple, Seq(0), Some(segment.end())),
    };
    reset.control = TcpControl::Rst;
    send(link, now, segment.tuple, &reset, (&[], &[]));
}

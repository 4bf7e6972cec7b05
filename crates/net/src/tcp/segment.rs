//! Segments on the wire: taking them apart and putting them together.
use super::Seq;
use crate::{
    checksum::Sum,
    counters::count,
    endpoint::{Endpoint, Tuple},
    link::Link,
    options::Options,
    packet::{self, ETHERNET, Envelope, Incoming, Packet, Pieces, protocol, set},
};
use shimos_abi::time::Nanos;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{IpAddress, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, TcpTimestampRepr},
};

/// Whether an Ethernet frame answers the opening of a connection.
pub fn answers_opening(frame: &[u8]) -> bool {
    let Some(Packet::Whole(packet)) = frame.get(ETHERNET..).and_then(packet::parse) else { return false };
    packet.protocol == protocol::TCP
        && TcpPacket::new_checked(packet.payload).is_ok_and(|segment| segment.syn() && segment.ack())
}

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
    /// Where urgent data ends, counted from `seq`.
    pub urgent: Option<u16>,
    pub payload: &'a [u8],
}

const NOBODY: IpAddress = IpAddress::Ipv4(core::net::Ipv4Addr::UNSPECIFIED);

impl Segment<'_> {
    /// Takes a segment apart. Damaged and impossible ones give nothing.
    pub fn parse<'a>(incoming: &Incoming<'a>) -> Option<Segment<'a>> {
        let packet = TcpPacket::new_checked(incoming.payload).ok()?;
        if !incoming.checksum_is_valid() {
            return None;
        }
        // The addresses are for the checksum alone, which is looked at above.
        let repr = TcpRepr::parse(&packet, &NOBODY, &NOBODY, &ChecksumCapabilities::ignored()).ok()?;
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
            urgent: packet.urg().then(|| packet.urgent_at()),
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

/// What the IP header of a segment says besides its addresses, and what the TCP header says besides smoltcp's part.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extras {
    /// Type of service.
    pub tos: u8,
    /// Routers it may pass, if not as usual.
    pub ttl: Option<u8>,
    /// Where urgent data ends, counted from the segment's number.
    pub urgent: Option<u16>,
}

impl Extras {
    /// What a socket's settings ask for.
    pub fn of(options: &Options, tuple: Tuple) -> Extras {
        let internet = options.internet(tuple.remote.address);
        Extras { tos: internet.tos, ttl: internet.ttl, urgent: None }
    }
}

/// Sends a segment: a header and the bytes of two runs.
pub(crate) fn send(link: &mut Link, now: Nanos, tuple: Tuple, header: &TcpRepr<'_>, runs: Runs<'_>, extras: Extras) {
    const FLAGS: usize = 13;
    const URGENT_FLAG: u8 = 0x20;
    let (source, target) = (tuple.local.address, tuple.remote.address);
    let length = header.header_len() + runs.0.len() + runs.1.len();
    let mut envelope = Envelope::new(source, target, protocol::TCP);
    envelope.pieces = Pieces::Forbidden;
    envelope.tos = extras.tos;
    envelope.ttl = extras.ttl.unwrap_or(envelope.ttl);
    let mut frame = envelope.open(length);
    let start = frame.len();
    frame.resize(start + header.header_len(), 0);
    if let Some(buffer) = frame.get_mut(start..) {
        header.emit(&mut TcpPacket::new_unchecked(buffer), &NOBODY, &NOBODY, &ChecksumCapabilities::ignored());
    }
    if let Some(urgent) = extras.urgent {
        if let Some(flags) = frame.get_mut(start + FLAGS) {
            *flags |= URGENT_FLAG;
        }
        set(&mut frame, start + 18, &urgent.to_be_bytes());
    }
    frame.extend_from_slice(runs.0);
    frame.extend_from_slice(runs.1);
    if !link.config.is_local(target) {
        let segment = frame.get(start..).unwrap_or(&[]);
        let sum = Sum::pseudo(source, target, protocol::TCP, segment.len()).add(segment).finish();
        set(&mut frame, start + 16, &sum);
    }
    count(&mut link.counters.tcp_sent);
    count(&mut link.counters.packets_sent);
    link.transmit(now, &envelope, frame);
}

/// The bytes of a segment, in two runs.
pub(crate) type Runs<'a> = (&'a [u8], &'a [u8]);

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
    count(&mut link.counters.tcp_resets_sent);
    send(link, now, segment.tuple, &reset, (&[], &[]), Extras::default());
}

//! Pieces of packets, until the packet is whole. They are not saved: who moves while pieces are missing loses the packet,
//! as a network may.
use crate::packet::{self, Piece};
use alloc::{collections::BTreeMap, vec::Vec};
use core::net::IpAddr;
use shimos_abi::time::Nanos;

/// Packets that may be incomplete at a time.
const PACKETS: usize = 16;
/// The longest payload that can be put together.
const LONGEST: usize = 65535;
/// Pieces one packet may have.
const PIECES: usize = 128;
/// How long pieces are kept.
const PATIENCE: Nanos = Nanos::secs(30);

#[derive(Clone, Debug, Default)]
struct Partial {
    since: Nanos,
    header: Vec<u8>,
    pieces: BTreeMap<usize, Vec<u8>>,
    total: Option<usize>,
}

type Name = (IpAddr, IpAddr, u32, u8);

/// Incomplete packets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fragments(BTreeMap<Name, Partial>);

impl Fragments {
    /// Takes a piece; gives the packet if it is whole now.
    pub fn insert(&mut self, now: Nanos, piece: &Piece<'_>) -> Option<Vec<u8>> {
        let name = (piece.source, piece.target, piece.id, piece.protocol);
        self.0.retain(|_, partial| now - partial.since < PATIENCE);
        if !self.0.contains_key(&name) && self.0.len() >= PACKETS {
            let oldest = self.0.iter().min_by_key(|(_, partial)| partial.since).map(|(name, _)| *name)?;
            self.0.remove(&oldest);
        }
        let end = piece.offset + piece.payload.len();
        let uneven = piece.more && (!piece.payload.len().is_multiple_of(8) || piece.payload.is_empty());
        let partial = self.0.entry(name).or_insert_with(|| Partial { since: now, ..Partial::default() });
        // Pieces that overlap are an attack or an accident; the packet is lost either way (RFC 5722).
        let before = partial.pieces.range(..=piece.offset).next_back();
        let after = partial.pieces.range(piece.offset..).next();
        let overlaps =
            before.is_some_and(|(at, bytes)| at + bytes.len() > piece.offset) || after.is_some_and(|(at, _)| *at < end);
        let beyond = partial.total.is_some_and(|total| end > total || (!piece.more && end != total));
        if uneven || overlaps || beyond || end > LONGEST || partial.pieces.len() >= PIECES {
            self.0.remove(&name);
            return None;
        }
        if !piece.more {
            partial.total = Some(end);
        }
        if piece.offset == 0 {
            partial.header = piece.header.to_vec();
        }
        partial.pieces.insert(piece.offset, piece.payload.to_vec());
        let known: usize = partial.pieces.values().map(Vec::len).sum();
        if partial.total != Some(known) {
            return None;
        }
        let partial = self.0.remove(&name)?;
        let mut payload = Vec::with_capacity(known);
        for bytes in partial.pieces.values() {
            payload.extend_from_slice(bytes);
        }
        Some(packet::join(&partial.header, piece.protocol, &payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{ETHERNET, Envelope, Packet, parse, protocol};
    use alloc::vec;

    fn pieces(target: &str) -> (Vec<u8>, Vec<Vec<u8>>) {
        let target: IpAddr = target.parse().unwrap();
        let mut frame = Envelope::new(target, target, protocol::UDP).open(5000);
        frame.extend((0..5000).map(|n| n as u8));
        let frames = packet::cut(&frame, 77, 1500);
        (frame[ETHERNET..].to_vec(), frames)
    }

    fn insert(fragments: &mut Fragments, frame: &[u8]) -> Option<Vec<u8>> {
        match parse(&frame[ETHERNET..]) {
            Some(Packet::Piece(piece)) => fragments.insert(Nanos(1), &piece),
            _ => panic!("no piece"),
        }
    }

    #[test]
    fn what_was_cut_is_joined_again() {
        for target in ["10.0.0.1", "fec0::1"] {
            let (whole, mut frames) = pieces(target);
            assert_eq!(frames.len(), 4);
            frames.reverse();
            let mut fragments = Fragments::default();
            let (last, first) = frames.split_last().unwrap();
            for frame in first {
                assert_eq!(insert(&mut fragments, frame), None);
            }
            let joined = insert(&mut fragments, last).unwrap();
            let (Some(Packet::Whole(a)), Some(Packet::Whole(b))) = (parse(&joined), parse(&whole)) else {
                panic!("not whole")
            };
            assert_eq!((a.payload, a.source, a.protocol), (b.payload, b.source, b.protocol));
            assert!(fragments.0.is_empty());
        }
    }

    #[test]
    fn pieces_that_overlap_lose_the_packet() {
        let (_, frames) = pieces("10.0.0.1");
        let mut fragments = Fragments::default();
        assert_eq!(insert(&mut fragments, &frames[0]), None);
        assert_eq!(insert(&mut fragments, &frames[0]), None);
        assert!(fragments.0.is_empty());
        // And a flood of beginnings is bounded.
        let target: IpAddr = "10.0.0.1".parse().unwrap();
        for id in 0..1000 {
            let mut frame = Envelope::new(target, target, protocol::UDP).open(3000);
            frame.extend(vec![0; 3000]);
            insert(&mut fragments, &packet::cut(&frame, id, 1500)[0]);
        }
        assert_eq!(fragments.0.len(), PACKETS);
    }
}

//! Bytes that arrived before their turn. They are kept over a takeover, because the peer was told that it may forget them.
use super::Seq;
use crate::ring::{Bytes, Ring};
use alloc::vec::Vec;
use minicbor::{Decode, Encode};
use shimos_abi::flat;

/// Pieces kept. A peer that sends many tiny ones out of order has to send some of them again.
const PIECES: usize = 256;

#[derive(Clone, Debug, Encode, Decode)]
struct Piece {
    #[n(0)]
    start: Seq,
    #[n(1)]
    bytes: Bytes,
}

flat!(Piece { start, bytes });

impl Piece {
    fn end(&self) -> Seq {
        self.start + self.bytes.0.len() as u32
    }
}

/// Pieces of the stream after a gap: in order, none empty, none overlapping.
#[derive(Clone, Default, Debug, Encode, Decode)]
pub(crate) struct Reassembly {
    #[n(0)]
    pieces: Vec<Piece>,
    /// Where the newest piece begins: its block is told first (RFC 2018).
    #[n(1)]
    newest: Option<Seq>,
}

flat!(Reassembly { pieces, newest });

impl Reassembly {
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Keeps what is new of `bytes`.
    pub fn insert(&mut self, mut start: Seq, mut bytes: &[u8]) {
        self.newest = Some(start);
        let mut place = self.pieces.partition_point(|piece| !piece.end().after(start));
        while !bytes.is_empty() {
            let fresh = match self.pieces.get(place) {
                Some(piece) if !piece.start.after(start) => {
                    // The beginning is known already.
                    let known = piece.end().since(start).max(0) as usize;
                    bytes = bytes.get(known..).unwrap_or(&[]);
                    start = start + known as u32;
                    place += 1;
                    continue;
                }
                Some(piece) => (piece.start.since(start) as usize).min(bytes.len()),
                None => bytes.len(),
            };
            if self.pieces.len() >= PIECES {
                return;
            }
            let (now, later) = bytes.split_at(fresh);
            self.pieces.insert(place, Piece { start, bytes: Bytes(now.to_vec()) });
            start = start + fresh as u32;
            bytes = later;
            place += 1;
        }
    }

    /// Moves what has its turn at `next` to the received bytes; returns what is expected then.
    pub fn drain(&mut self, mut next: Seq, into: &mut Ring) -> Seq {
        let mut used = 0;
        for piece in &self.pieces {
            if piece.start.after(next) {
                break;
            }
            let known = next.since(piece.start).max(0) as usize;
            let fresh = piece.bytes.0.get(known..).unwrap_or(&[]);
            into.push(fresh);
            next = next + fresh.len() as u32;
            used += 1;
        }
        self.pieces.drain(..used);
        next
    }

    /// The runs of bytes to tell the peer about, the newest first.
    pub fn blocks(&self) -> [Option<(u32, u32)>; 3] {
        let mut blocks = [None; 3];
        let mut rest = blocks.iter_mut().skip(1);
        let mut run: Option<(Seq, Seq)> = None;
        let mut first = None;
        let mut give = |run: (Seq, Seq), newest: Option<Seq>| {
            let block = Some((run.0.0, run.1.0));
            if newest.is_some_and(|newest| !newest.before(run.0) && newest.before(run.1)) {
                first = block;
            } else if let Some(slot) = rest.next() {
                *slot = block;
            }
        };
        for piece in &self.pieces {
            run = match run {
                Some((start, end)) if end == piece.start => Some((start, piece.end())),
                Some(done) => {
                    give(done, self.newest);
                    Some((piece.start, piece.end()))
                }
                None => Some((piece.start, piece.end())),
            };
        }
        if let Some(done) = run {
            give(done, self.newest);
        }
        match first {
            Some(_) => blocks[0] = first,
            None => blocks.rotate_left(1),
        }
        blocks
    }

    pub fn validate(&self, next: Seq) -> Result<(), &'static str> {
        let mut at = next;
        for piece in &self.pieces {
            let length = piece.bytes.0.len();
            if piece.start.before(at) || length == 0 || piece.end().since(next) <= 0 || length > 1 << 28 {
                return Err("early pieces out of order");
            }
            at = piece.end();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_in_any_order_give_the_stream() {
        let stream: Vec<u8> = (0..100u8).collect();
        let base = Seq(u32::MAX - 50);
        let mut early = Reassembly::default();
        for (start, end) in [(10, 20), (40, 50), (15, 45), (5, 12), (60, 99), (45, 70), (99, 100), (30, 31)] {
            early.insert(base + start as u32, &stream[start..end]);
            early.validate(base).unwrap();
        }
        let mut ring = Ring::default();
        assert_eq!(early.drain(base, &mut ring), base);
        ring.push(&stream[..7]);
        assert_eq!(early.drain(base + 7, &mut ring), base + 100);
        let mut all = [0; 100];
        ring.peek(&mut all);
        assert_eq!(all[..], stream[..]);
        assert!(early.is_empty());
    }

    #[test]
    fn blocks_name_the_newest_first() {
        let mut early = Reassembly::default();
        early.insert(Seq(100), &[0; 10]);
        early.insert(Seq(200), &[0; 10]);
        early.insert(Seq(110), &[0; 10]);
        assert_eq!(early.blocks(), [Some((100, 120)), Some((200, 210)), None]);
        early.insert(Seq(300), &[0; 10]);
        assert_eq!(early.blocks(), [Some((300, 310)), Some((100, 120)), Some((200, 210))]);
    }
}

//! A queue of bytes that is filled, read and encoded in whole runs.
use alloc::{vec, vec::Vec};
use minicbor::{
    Decode, Encode,
    decode::{self, Decoder},
    encode::{self, Encoder, Write},
};
use shimos_abi::flat::{Flat, Source};

/// The least that is allocated; capacities are powers of two.
const LEAST: usize = 512;
/// A buffer that was large once should not stay so for an idle connection.
const KEPT: usize = 64 * 1024;

/// Bytes, first in, first out.
#[derive(Clone, Default, Debug)]
pub(crate) struct Ring {
    /// Empty, or a power of two long.
    buffer: Vec<u8>,
    /// Where the first byte is.
    first: usize,
    len: usize,
}

impl PartialEq for Ring {
    fn eq(&self, other: &Ring) -> bool {
        let (a, b) = self.range(0, self.len);
        let (c, d) = other.range(0, other.len);
        a.iter().chain(b).eq(c.iter().chain(d))
    }
}
impl Eq for Ring {}

impl Ring {
    fn of(bytes: &[u8]) -> Ring {
        let mut ring = Ring::default();
        ring.push(bytes);
        ring
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The buffer's index of a place.
    fn index(&self, at: usize) -> usize {
        self.first.wrapping_add(at) & self.buffer.len().wrapping_sub(1)
    }

    /// Room for `count` bytes behind the last, in two runs. They count only once [`Ring::commit`] says so.
    pub fn space(&mut self, count: usize) -> (&mut [u8], &mut [u8]) {
        let wanted = self.len.saturating_add(count);
        if wanted > self.buffer.len() {
            self.grow(wanted);
        }
        let start = self.index(self.len);
        let straight = count.min(self.buffer.len() - start);
        let (front, back) = self.buffer.split_at_mut(start);
        (back.get_mut(..straight).unwrap_or(&mut []), front.get_mut(..count - straight).unwrap_or(&mut []))
    }

    /// Counts `count` bytes that were written into [`Ring::space`].
    pub fn commit(&mut self, count: usize) {
        self.len = self.len.saturating_add(count).min(self.buffer.len());
    }

    fn grow(&mut self, wanted: usize) {
        let mut buffer = vec![0; wanted.next_power_of_two().max(LEAST)];
        let (a, b) = self.range(0, self.len);
        if let Some((to_a, rest)) = buffer.split_at_mut_checked(a.len())
            && let Some(to_b) = rest.get_mut(..b.len())
        {
            to_a.copy_from_slice(a);
            to_b.copy_from_slice(b);
        }
        self.buffer = buffer;
        self.first = 0;
    }

    pub fn push(&mut self, bytes: &[u8]) {
        let (a, b) = self.space(bytes.len());
        if let Some((first, second)) = bytes.split_at_checked(a.len()) {
            a.copy_from_slice(first);
            b.copy_from_slice(second);
            self.commit(bytes.len());
        }
    }

    /// Drops the first `count` bytes.
    pub fn skip(&mut self, count: usize) {
        let count = count.min(self.len);
        self.first = self.index(count);
        self.len -= count;
        if self.len == 0 {
            self.first = 0;
            if self.buffer.len() > KEPT {
                self.buffer = Vec::new();
            }
        }
    }

    /// Copies the first bytes; returns how many.
    #[cfg(test)]
    pub fn peek(&self, into: &mut [u8]) -> usize {
        self.copy(0, into)
    }

    /// The byte at a place.
    pub fn byte(&self, at: usize) -> Option<u8> {
        self.buffer.get(self.index(at)).copied().filter(|_| at < self.len)
    }

    /// Copies bytes from place `start` on; returns how many.
    pub fn copy(&self, start: usize, into: &mut [u8]) -> usize {
        let (a, b) = self.range(start, into.len());
        let (first, rest) = into.split_at_mut(a.len());
        first.copy_from_slice(a);
        if let Some(second) = rest.get_mut(..b.len()) {
            second.copy_from_slice(b);
        }
        a.len() + b.len()
    }

    /// Up to `length` bytes from place `start` on, in two runs.
    pub fn range(&self, start: usize, length: usize) -> (&[u8], &[u8]) {
        let start = start.min(self.len);
        let length = length.min(self.len - start);
        let at = if length == 0 { 0 } else { self.index(start) };
        let straight = length.min(self.buffer.len() - at);
        (self.buffer.get(at..at + straight).unwrap_or(&[]), self.buffer.get(..length - straight).unwrap_or(&[]))
    }

    pub fn clear(&mut self) {
        *self = Ring::default();
    }
}

impl<C> Encode<C> for Ring {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        let (a, b) = self.range(0, self.len);
        e.bytes_len(self.len as u64)?;
        e.writer_mut().write_all(a).map_err(encode::Error::write)?;
        e.writer_mut().write_all(b).map_err(encode::Error::write)
    }
}

impl<'b, C> Decode<'b, C> for Ring {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        d.bytes().map(Ring::of)
    }
}

impl Flat for Ring {
    fn write(&self, to: &mut Vec<u8>) {
        (self.len as u32).write(to);
        let (a, b) = self.range(0, self.len);
        to.extend_from_slice(a);
        to.extend_from_slice(b);
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<Ring> {
        match from.run()? {
            // Those of nearly all connections.
            [] => Some(Ring::default()),
            bytes => Some(Ring::of(bytes)),
        }
    }
}

/// A piece of bytes that is encoded as bytes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct Bytes(
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub Vec<u8>,
);

impl Flat for Bytes {
    fn write(&self, to: &mut Vec<u8>) {
        (self.0.len() as u32).write(to);
        to.extend_from_slice(&self.0);
    }
    fn read(from: &mut Source<'_>) -> Option<Bytes> {
        from.run().map(|bytes| Bytes(bytes.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let (mut ring, mut model) = (Ring::default(), VecDeque::new());
        let mut random = 1u32;
        let mut next = move |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % below
        };
        for round in 0..4000u32 {
            let bytes: Vec<u8> = (0..next(900)).map(|i| (i ^ round) as u8).collect();
            ring.push(&bytes);
            model.extend(bytes);
            let gone = next(1000).min(model.len() as u32) as usize;
            assert_eq!(ring.len(), model.len());
            let (a, b) = ring.range(0, gone);
            assert!(a.iter().chain(b).eq(model.iter().take(gone)));
            ring.skip(gone);
            model.drain(..gone);
        }
    }

    #[test]
    fn runs_wrap_around() {
        let mut ring = Ring { buffer: vec![0; 16], ..Ring::default() };
        ring.push(&[1; 12]);
        ring.skip(10);
        ring.push(&[2, 3, 4, 5, 6, 7, 8, 9]);
        let mut all = [0; 12];
        assert_eq!(ring.peek(&mut all), 10);
        assert_eq!(all, [1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0]);
        for start in 0..12 {
            for length in 0..12 {
                let (a, b) = ring.range(start, length);
                let end = (start + length).min(10);
                assert_eq!([a, b].concat(), all[start.min(end)..end]);
            }
        }
        assert_eq!((ring.byte(9), ring.byte(10)), (Some(9), None));
        // Growing puts the runs in order, and what was not committed does not count.
        let before = ring.clone();
        ring.space(1000).0.fill(7);
        assert_eq!(ring, before);
        ring.push(&[10; 100]);
        assert_eq!(ring.len(), 110);
        ring.skip(100);
        assert_eq!(ring.range(0, 100), (&[10; 10][..], &[][..]));
        let encoded = minicbor::to_vec(&ring).unwrap();
        assert_eq!(minicbor::decode::<Ring>(&encoded).unwrap(), ring);
    }
}

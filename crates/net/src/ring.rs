//! A queue of bytes that is filled, read and encoded in whole runs.
use alloc::{collections::VecDeque, vec::Vec};
use minicbor::{
    Decode, Encode,
    decode::{self, Decoder},
    encode::{self, Encoder, Write},
};

/// Bytes, first in, first out.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct Ring(VecDeque<u8>);

impl Ring {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn push(&mut self, bytes: &[u8]) {
        // Extending by a slice copies whole runs.
        self.0.extend(bytes);
    }

    /// Drops the first `count` bytes.
    pub fn skip(&mut self, count: usize) {
        self.0.drain(..count.min(self.0.len()));
        // A buffer that was large once should not stay so for an idle connection.
        if self.0.is_empty() && self.0.capacity() > 64 * 1024 {
            self.0 = VecDeque::new();
        }
    }

    /// Copies the first bytes; returns how many.
    #[cfg(test)]
    pub fn peek(&self, into: &mut [u8]) -> usize {
        self.copy(0, into)
    }

    /// The byte at a place.
    pub fn byte(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
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
        let (a, b) = self.0.as_slices();
        let end = start.saturating_add(length).min(self.0.len());
        let start = start.min(end);
        let split = a.len();
        (
            a.get(start.min(split)..end.min(split)).unwrap_or(&[]),
            b.get(start.saturating_sub(split)..end.saturating_sub(split)).unwrap_or(&[]),
        )
    }

    pub fn clear(&mut self) {
        self.0 = VecDeque::new();
    }
}

impl<C> Encode<C> for Ring {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        let (a, b) = self.0.as_slices();
        e.bytes_len(self.0.len() as u64)?;
        e.writer_mut().write_all(a).map_err(encode::Error::write)?;
        e.writer_mut().write_all(b).map_err(encode::Error::write)
    }
}

impl<'b, C> Decode<'b, C> for Ring {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        Ok(Ring(VecDeque::from(Vec::from(d.bytes()?))))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_wrap_around() {
        let mut ring = Ring(VecDeque::with_capacity(16));
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
        let encoded = minicbor::to_vec(&ring).unwrap();
        assert_eq!(minicbor::decode::<Ring>(&encoded).unwrap(), ring);
    }
}

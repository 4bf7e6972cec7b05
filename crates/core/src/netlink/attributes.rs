//! Messages and their attributes on the wire of netlink: lengths first, everything padded to four bytes.
use super::HEADER;
use alloc::vec::Vec;

/// A message under construction.
pub struct Builder(Vec<u8>);

impl Builder {
    /// A message with nothing in it yet.
    pub fn new(kind: u16, flags: u16, sequence: u32, port: u32) -> Builder {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&sequence.to_le_bytes());
        bytes.extend_from_slice(&port.to_le_bytes());
        Builder(bytes)
    }

    /// Appends bytes of a fixed part.
    pub fn bytes(mut self, bytes: &[u8]) -> Builder {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends an attribute.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Builder {
        self.0.extend_from_slice(&((value.len() + 4) as u16).to_le_bytes());
        self.0.extend_from_slice(&kind.to_le_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Appends an attribute that is a number.
    pub fn number(self, kind: u16, value: u32) -> Builder {
        self.attribute(kind, &value.to_le_bytes())
    }

    /// Appends an attribute that is a string, with its closing zero.
    pub fn string(self, kind: u16, value: &str) -> Builder {
        let bytes = [value.as_bytes(), &[0]].concat();
        self.attribute(kind, &bytes)
    }

    /// The message, with its length.
    pub fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() as u32).to_le_bytes();
        if let Some(place) = self.0.get_mut(..4) {
            place.copy_from_slice(&length);
        }
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.0
    }
}

/// A request, taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// The whole message, for answers that quote it.
    pub whole: &'a [u8],
}

impl<'a> Request<'a> {
    /// The first message of `bytes`, and what follows it.
    pub fn parse(bytes: &'a [u8]) -> Option<(Request<'a>, &'a [u8])> {
        let header = bytes.first_chunk::<HEADER>()?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *header;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let whole = bytes.get(..length).filter(|_| length >= HEADER)?;
        let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let request = Request {
            kind: u16::from_le_bytes([e, f]),
            flags: u16::from_le_bytes([g, h]),
            sequence: u32::from_le_bytes([i, j, k, l]),
            whole,
        };
        Some((request, rest))
    }

    /// What follows the header.
    pub fn payload(&self) -> &'a [u8] {
        self.whole.get(HEADER..).unwrap_or_default()
    }

    /// A byte of the fixed part.
    pub fn byte(&self, at: usize) -> u8 {
        self.payload().get(at).copied().unwrap_or(0)
    }

    /// A word of the fixed part.
    pub fn word(&self, at: usize) -> u32 {
        let bytes = self.payload().get(at..).and_then(|rest| rest.first_chunk::<4>());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    /// The attribute of a kind after a fixed part of `fixed` bytes.
    pub fn attribute(&self, fixed: usize, kind: u16) -> Option<&'a [u8]> {
        let mut rest = self.payload().get(fixed..)?;
        while let Some(head) = rest.first_chunk::<4>() {
            let length = usize::from(u16::from_le_bytes([head[0], head[1]]));
            let found = u16::from_le_bytes([head[2], head[3]]) & 0x3fff;
            let value = rest.get(4..length)?;
            if found == kind {
                return Some(value);
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        None
    }

    /// An attribute that is a number.
    pub fn number(&self, fixed: usize, kind: u16) -> Option<u32> {
        self.attribute(fixed, kind)?.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes))
    }
}

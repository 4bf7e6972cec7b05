//! Records: the kernel's objects, one after the other, each with a kind, a version and a checksum.
use crate::error::ImageError;
use alloc::vec::Vec;
use shimos_abi::sealed::sum;

/// Bytes of a record's header.
pub const HEADER: usize = 12;

/// Collects records.
#[derive(Default, Debug)]
pub struct RecordWriter {
    bytes: Vec<u8>,
}

impl RecordWriter {
    /// An empty one.
    pub fn new() -> RecordWriter {
        RecordWriter::default()
    }
    /// An empty one that uses the memory of an old buffer.
    pub fn reuse(mut buffer: Vec<u8>) -> RecordWriter {
        buffer.clear();
        RecordWriter { bytes: buffer }
    }
    /// Adds a record. A payload of 4 GiB or more is cut; none comes near.
    pub fn add(&mut self, kind: u16, version: u16, payload: &[u8]) {
        self.add_with(kind, version, |bytes| bytes.extend_from_slice(payload));
    }
    /// Adds a record whose payload `write` appends to the buffer it is given.
    pub fn add_with<T>(&mut self, kind: u16, version: u16, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEADER]);
        let result = write(&mut self.bytes);
        let payload = self.bytes.get(start + HEADER..).unwrap_or_default();
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let header = encode_header(kind, version, length, payload);
        if let Some(place) = self.bytes.get_mut(start..start + HEADER) {
            place.copy_from_slice(&header);
        }
        result
    }
    /// Adds a record as it stood in another writer ([`RecordWriter::since`]).
    pub fn add_record(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
    }
    /// What was added after so many bytes.
    pub fn since(&self, start: usize) -> &[u8] {
        self.bytes.get(start..).unwrap_or_default()
    }
    /// All records so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    /// All records.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

fn encode_header(kind: u16, version: u16, length: u32, payload: &[u8]) -> [u8; HEADER] {
    let first = u64::from(kind) | u64::from(version) << 16 | u64::from(length) << 32;
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&first.to_le_bytes());
    header[8..].copy_from_slice(&folded_sum(first, payload).to_le_bytes());
    header
}

/// The checksum of a record: of the first word of its header, and its payload.
fn folded_sum(first: u64, payload: &[u8]) -> u32 {
    let sum = sum(first, payload);
    (sum ^ sum >> 32) as u32
}

/// The checksum that records had before.
fn crc(first: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&first.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// The checksum of a generation's records: over their headers, each of which has the checksum of its payload. What is no
/// record ends it.
pub fn checksum(records: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let mut left = records;
    while let Some((header, rest)) = left.split_first_chunk::<HEADER>() {
        hasher.update(header);
        let [_, _, _, _, l0, l1, l2, l3, ..] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let Some(next) = rest.get(length..) else { break };
        left = next;
    }
    hasher.finalize()
}

/// One record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// What it is.
    pub kind: u16,
    /// Version of its payload's form.
    pub version: u16,
    /// The payload.
    pub payload: &'a [u8],
}

/// The records of a byte string, one by one, checked unless that was done before. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    left: &'a [u8],
    at: usize,
    payloads: Payloads,
}

/// Whether checksums of payloads are computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Payloads {
    Checked,
    Known,
}

impl<'a> Records<'a> {
    /// Over `bytes`.
    pub fn new(bytes: &'a [u8]) -> Records<'a> {
        Records { left: bytes, at: 0, payloads: Payloads::Checked }
    }
    /// Over bytes that were checked before, and have not changed since.
    pub(crate) fn known(bytes: &'a [u8]) -> Records<'a> {
        Records { payloads: Payloads::Known, ..Records::new(bytes) }
    }
    fn parse(&mut self) -> Result<Record<'a>, ImageError> {
        let bad_header = ImageError::RecordHeader(self.at);
        let (header, rest) = self.left.split_first_chunk::<HEADER>().ok_or(bad_header)?;
        let [k0, k1, v0, v1, l0, l1, l2, l3, s0, s1, s2, s3] = *header;
        let first = u64::from_le_bytes([k0, k1, v0, v1, l0, l1, l2, l3]);
        let (kind, version, length) = (first as u16, (first >> 16) as u16, (first >> 32) as usize);
        let (payload, rest) = rest.split_at_checked(length).ok_or(bad_header)?;
        let saved = u32::from_le_bytes([s0, s1, s2, s3]);
        let is_right = || saved == folded_sum(first, payload) || saved == crc(first, payload);
        if self.payloads == Payloads::Checked && !is_right() {
            return Err(ImageError::RecordPayload(self.at));
        }
        self.at += HEADER + payload.len();
        self.left = rest;
        Ok(Record { kind, version, payload })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, ImageError>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        let record = self.parse();
        if record.is_err() {
            self.left = &[];
        }
        Some(record)
    }
}

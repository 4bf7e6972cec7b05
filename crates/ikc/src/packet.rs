//! IKC packets: a header of four words, then the payload.
//!
//! ```text
//! word 0  magic:32 | version:8 | queue:8 | payload length:16
//! word 1  source kernel:16 | 0:16 | source incarnation:32
//! word 2  destination kernel:16 | 0:16 | destination incarnation:32
//! word 3  sequence:32 | checksum:32 (daemon queue; 0 in the others)
//! ```
use crate::sync::{AtomicU64, Ordering};
use alloc::vec::Vec;
use shimos_abi::{
    ids::Life,
    shared::{Queue, outgoing},
};

/// Words of the header.
const HEADER: usize = 4;
/// The most bytes one packet carries.
pub const MAX_PAYLOAD: usize = (outgoing::PACKET_WORDS - HEADER) * 8;

const MAGIC: u64 = u32::from_le_bytes(*b"IKCp") as u64;
const VERSION: u64 = 1;

/// What a packet must say of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Who sends.
    pub from: Life,
    /// Who receives.
    pub to: Life,
    /// Which queue.
    pub queue: Queue,
    /// Its number on the link.
    pub sequence: u32,
}

/// What is wrong with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Defect {
    /// The descriptor points nowhere or has another number.
    Descriptor,
    /// Magic or version.
    Magic,
    /// Length, or another length than the descriptor's.
    Length,
    /// Another sender, receiver, queue or number.
    Envelope,
    /// The checksum.
    Checksum,
}

fn life_word(life: Life) -> u64 {
    u64::from(life.kernel.0) << 48 | u64::from(life.incarnation.0)
}

/// The descriptor of a packet.
pub fn descriptor(index: u16, length: usize, sequence: u32) -> u64 {
    u64::from(index) << 48 | (length as u64 & 0xffff) << 32 | u64::from(sequence)
}

/// Packet index and length of a descriptor.
pub fn place(descriptor: u64, sequence: u32) -> Result<(u16, usize), Defect> {
    let length = (descriptor >> 32 & 0xffff) as usize;
    let index = (descriptor >> 48) as u16;
    if descriptor as u32 != sequence || usize::from(index) >= outgoing::PACKETS {
        return Err(Defect::Descriptor);
    }
    if length > MAX_PAYLOAD {
        return Err(Defect::Length);
    }
    Ok((index, length))
}

fn checksum<'a>(header: [u64; HEADER - 1], sequence: u32, parts: impl Iterator<Item = &'a [u8]>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    header.iter().for_each(|word| hasher.update(&word.to_le_bytes()));
    hasher.update(&sequence.to_le_bytes());
    parts.for_each(|part| hasher.update(part));
    hasher.finalize()
}

fn header(envelope: &Envelope, length: usize) -> [u64; HEADER - 1] {
    let kind = envelope.queue as u64;
    let first = MAGIC << 32 | VERSION << 24 | kind << 16 | length as u64 & 0xffff;
    [first, life_word(envelope.from), life_word(envelope.to)]
}

/// Writes a packet. `words` are its words; the parts fit.
pub fn write(words: &[AtomicU64], envelope: &Envelope, length: usize, parts: &[&[u8]]) {
    let head = header(envelope, length);
    let sum = match envelope.queue {
        Queue::Daemon => checksum(head, envelope.sequence, parts.iter().copied()),
        Queue::Console | Queue::Block | Queue::Network => 0,
    };
    let last = u64::from(envelope.sequence) << 32 | u64::from(sum);
    let (front, data) = words.split_at(words.len().min(HEADER));
    for (word, value) in front.iter().zip(head.into_iter().chain([last])) {
        word.store(value, Ordering::Relaxed);
    }
    let mut packer = Packer { words: data.iter(), word: [0; 8], fill: 0 };
    parts.iter().for_each(|part| packer.push(part));
    packer.flush();
}

/// Copies a packet of `length` bytes into `into` (in place of what it held), then checks the copy.
pub fn read(words: &[AtomicU64], envelope: &Envelope, length: usize, into: &mut Vec<u8>) -> Result<(), Defect> {
    into.clear();
    let mut front = [0; HEADER];
    front.iter_mut().zip(words).for_each(|(to, from)| *to = from.load(Ordering::Relaxed));
    into.reserve(length.next_multiple_of(8));
    for word in words.iter().skip(HEADER).take(length.div_ceil(8)) {
        into.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
    }
    into.truncate(length);
    let result = check(front, envelope, length, into);
    if result.is_err() {
        into.clear();
    }
    result
}

fn check(front: [u64; HEADER], envelope: &Envelope, length: usize, payload: &[u8]) -> Result<(), Defect> {
    let [first, from, to, last] = front;
    let expected = header(envelope, length);
    if first >> 24 != expected[0] >> 24 {
        return Err(Defect::Magic);
    }
    if first as u16 != expected[0] as u16 || payload.len() != length {
        return Err(Defect::Length);
    }
    if [first, from, to] != expected || (last >> 32) as u32 != envelope.sequence {
        return Err(Defect::Envelope);
    }
    if envelope.queue == Queue::Daemon
        && last as u32 != checksum(expected, envelope.sequence, core::iter::once(payload))
    {
        return Err(Defect::Checksum);
    }
    Ok(())
}

/// Packs bytes of any number of parts into words.
struct Packer<'a> {
    words: core::slice::Iter<'a, AtomicU64>,
    word: [u8; 8],
    fill: usize,
}

impl Packer<'_> {
    fn push(&mut self, mut bytes: &[u8]) {
        if self.fill > 0 {
            let (now, later) = bytes.split_at(bytes.len().min(8 - self.fill));
            self.word.iter_mut().skip(self.fill).zip(now).for_each(|(to, from)| *to = *from);
            self.fill += now.len();
            bytes = later;
            if self.fill < 8 {
                return;
            }
            self.flush();
        }
        let (whole, rest) = bytes.as_chunks::<8>();
        for chunk in whole {
            self.store(*chunk);
        }
        self.word.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        self.fill = rest.len();
    }
    fn flush(&mut self) {
        if self.fill > 0 {
            let word = self.word;
            self.store(word);
        }
        self.word = [0; 8];
        self.fill = 0;
    }
    fn store(&mut self, bytes: [u8; 8]) {
        if let Some(word) = self.words.next() {
            word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
    }
}

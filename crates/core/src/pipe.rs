//! Pipes.
use alloc::{collections::VecDeque, vec::Vec};
use minicbor::{Decode, Encode, decode, encode};
use shimos_abi::errno::Errno;

/// Names a pipe of a program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct PipeId(#[n(0)] pub u32);

/// A pipe with its content.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Pipe {
    #[n(0)]
    content: Bytes,
    #[n(1)]
    capacity: u32,
    /// Open descriptions that read.
    #[n(2)]
    pub readers: u32,
    /// Open descriptions that write.
    #[n(3)]
    pub writers: u32,
}

/// Writes of at most this many bytes are not torn apart (POSIX, PIPE_BUF).
pub const ATOMIC: usize = 4096;
const DEFAULT_CAPACITY: u32 = 65536;
const MAX_CAPACITY: u32 = 1 << 20;

impl Pipe {
    /// An empty pipe with one reader and one writer.
    pub fn new() -> Pipe {
        Pipe { content: Bytes::default(), capacity: DEFAULT_CAPACITY, readers: 1, writers: 1 }
    }
    /// An empty pipe that no end is open of yet: behind a named pipe.
    pub fn unopened() -> Pipe {
        Pipe { readers: 0, writers: 0, ..Pipe::new() }
    }
    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.content.0.len()
    }
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.content.0.is_empty()
    }
    /// Bytes that fit into it.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }
    /// Sets the capacity (F_SETPIPE_SZ); it is rounded up to a power of two of pages.
    pub fn set_capacity(&mut self, wanted: u64) -> Result<u32, Errno> {
        if wanted > u64::from(MAX_CAPACITY) {
            return Err(Errno::EPERM);
        }
        let capacity = (wanted.max(4096) as u32).next_power_of_two();
        if (capacity as usize) < self.len() {
            return Err(Errno::EBUSY);
        }
        self.capacity = capacity;
        Ok(capacity)
    }
    /// Free room.
    pub fn room(&self) -> usize {
        (self.capacity as usize).saturating_sub(self.len())
    }
    /// Takes up to `most` bytes out.
    pub fn read(&mut self, most: usize) -> Vec<u8> {
        let count = most.min(self.len());
        self.content.0.drain(..count).collect()
    }
    /// A copy of up to `most` bytes; they stay.
    pub fn peek(&self, most: usize) -> Vec<u8> {
        self.content.0.iter().take(most).copied().collect()
    }
    /// Takes `count` bytes out that were copied.
    pub fn skip(&mut self, count: usize) {
        self.content.0.drain(..count.min(self.len()));
    }
    /// How much of a write of `count` bytes fits now: all or nothing up to [`ATOMIC`].
    pub fn accepts(&self, count: usize) -> usize {
        let room = self.room();
        if count <= ATOMIC && room < count { 0 } else { room.min(count) }
    }
    /// Puts bytes in. The caller has asked [`Pipe::accepts`].
    pub fn write(&mut self, bytes: &[u8]) {
        self.content.0.extend(bytes);
    }
}

impl Default for Pipe {
    fn default() -> Pipe {
        Pipe::new()
    }
}

/// A byte queue that is encoded as one byte string.
#[derive(Clone, Debug, Default)]
pub struct Bytes(pub VecDeque<u8>);

impl<C> Encode<C> for Bytes {
    fn encode<W: encode::Write>(&self, e: &mut minicbor::Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        let (head, tail) = self.0.as_slices();
        e.bytes_len(self.0.len() as u64)?;
        e.writer_mut().write_all(head).map_err(encode::Error::write)?;
        e.writer_mut().write_all(tail).map_err(encode::Error::write)
    }
}

impl<'b, C> Decode<'b, C> for Bytes {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Bytes, decode::Error> {
        Ok(Bytes(VecDeque::from(Vec::from(d.bytes()?))))
    }
}

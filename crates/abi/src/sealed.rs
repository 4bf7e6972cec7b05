//! Bytes that are kept for later use, with a seal that shows whether somebody else has written there meanwhile.
use alloc::vec::Vec;

const START: u64 = 0x9e37_79b9_7f4a_7c15;
const FACTOR: u64 = 0xff51_afd7_ed55_8ccd;

/// Bytes under a seal. Whoever writes into them through a stray pointer breaks it.
#[derive(Debug)]
pub struct Sealed {
    bytes: Vec<u8>,
    seal: u64,
}

impl Default for Sealed {
    fn default() -> Sealed {
        Sealed::new()
    }
}

impl Sealed {
    /// No bytes.
    pub const fn new() -> Sealed {
        Sealed { bytes: Vec::new(), seal: START }
    }
    /// Puts a seal on bytes.
    pub fn of(bytes: Vec<u8>) -> Sealed {
        let seal = seal(&bytes);
        Sealed { bytes, seal }
    }
    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
    /// Drops the bytes; their memory stays.
    #[inline]
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.seal = START;
    }
    /// Takes the memory out, empty.
    pub fn take_memory(&mut self) -> Vec<u8> {
        let mut bytes = core::mem::take(&mut self.bytes);
        bytes.clear();
        bytes
    }
    /// Replaces the bytes.
    pub fn set(&mut self, bytes: &[u8]) {
        let mut memory = self.take_memory();
        memory.extend_from_slice(bytes);
        *self = Sealed::of(memory);
    }
    /// The bytes.
    ///
    /// # Panics
    /// If the seal is broken: this kernel's memory is not as it left it, and what it would save is worth nothing.
    pub fn get(&self) -> &[u8] {
        assert!(seal(&self.bytes) == self.seal, "memory that nobody may write was overwritten");
        &self.bytes
    }
}

/// A sum of bytes that any overwritten word changes.
fn seal(bytes: &[u8]) -> u64 {
    sum_on(START ^ bytes.len() as u64, bytes)
}

/// A sum of a word and the bytes behind it. It is always another one if a single word of eight bytes is, and takes a third of the
/// instructions of a CRC-32.
pub fn sum(first: u64, bytes: &[u8]) -> u64 {
    sum_on(step(START ^ bytes.len() as u64, first), bytes)
}

#[inline]
fn step(sum: u64, word: u64) -> u64 {
    (sum ^ word).wrapping_mul(FACTOR).rotate_left(29)
}

#[inline]
fn sum_on(start: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(start, |sum, word| step(sum, u64::from_le_bytes(*word)));
    rest.iter().fold(sum, |sum, byte| step(sum, u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn what_was_sealed_comes_back() {
        let mut sealed = Sealed::of(vec![1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(sealed.get(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        sealed.set(&[7; 16]);
        assert_eq!(sealed.get(), [7; 16]);
        sealed.clear();
        assert!(sealed.is_empty() && sealed.get().is_empty());
        assert!(Sealed::new().get().is_empty());
    }

    #[test]
    fn every_bit_that_flips_breaks_the_seal() {
        for length in [1, 7, 8, 9, 40] {
            let bytes = vec![0x5a; length];
            for bit in 0..length * 8 {
                let mut other = bytes.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(seal(&bytes), seal(&other), "bit {bit} of {length} bytes");
            }
        }
    }

    #[test]
    #[should_panic(expected = "overwritten")]
    fn a_broken_seal_is_the_end() {
        let mut sealed = Sealed::of(vec![1, 2, 3]);
        sealed.bytes[1] = 9;
        sealed.get();
    }
}

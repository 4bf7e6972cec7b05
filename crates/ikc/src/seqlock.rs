//! A blob that one kernel publishes and all may read: a sequence word, a length word, the bytes.
//!
//! The sequence is odd while the writer writes. A reader copies, and believes its copy only if the sequence was even
//! and is unchanged. A writer that dies in the middle leaves it odd: then there is nothing to read until the next
//! life publishes.
use crate::sync::{AtomicU64, Ordering, fence};
use alloc::vec::Vec;

/// How often a reader tries.
const TRIES: usize = 16;

/// Bytes that fit into a blob of `words` words.
pub const fn capacity(words: usize) -> usize {
    words.saturating_sub(2) * 8
}

/// Writes `bytes`; returns whether they fit. Only the owner of the words calls this.
pub fn write(words: &[AtomicU64], bytes: &[u8]) -> bool {
    let [sequence, length, data @ ..] = words else {
        return false;
    };
    if bytes.len() > data.len() * 8 {
        return false;
    }
    // A dead earlier life may have left it odd.
    let odd = sequence.load(Ordering::Relaxed) | 1;
    sequence.store(odd, Ordering::Relaxed);
    // Who sees a word of the new blob sees the odd number.
    fence(Ordering::Release);
    length.store(bytes.len() as u64, Ordering::Relaxed);
    for (word, chunk) in data.iter().zip(bytes.chunks(8)) {
        let mut value = [0; 8];
        value.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        word.store(u64::from_le_bytes(value), Ordering::Relaxed);
    }
    sequence.store(odd.wrapping_add(1), Ordering::Release);
    true
}

/// A whole blob, or nothing if the writer is (or died) in the middle, or never wrote.
pub fn read(words: &[AtomicU64]) -> Option<Vec<u8>> {
    let [sequence, length, data @ ..] = words else {
        return None;
    };
    for _ in 0..TRIES {
        let before = sequence.load(Ordering::Acquire);
        if before == 0 {
            return None;
        }
        if before % 2 == 1 {
            core::hint::spin_loop();
            continue;
        }
        let length = length.load(Ordering::Relaxed).min(data.len() as u64 * 8) as usize;
        let mut bytes = Vec::with_capacity(length.next_multiple_of(8));
        for word in data.iter().take(length.div_ceil(8)) {
            bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        bytes.truncate(length);
        // Our copy comes before the second look.
        fence(Ordering::Acquire);
        if sequence.load(Ordering::Relaxed) == before {
            return Some(bytes);
        }
    }
    None
}

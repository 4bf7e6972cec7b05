//! The log ring of one kernel: a count of bytes ever written, then the bytes. Readers keep their own place.
use crate::sync::{AtomicU64, Ordering, fence};
use alloc::vec::Vec;

/// Bytes written between two updates of the count: so many bytes behind the oldest may be in the making.
const CHUNK: u64 = 256;

/// Bytes that a log of `words` words keeps readable.
pub const fn capacity(words: usize) -> u64 {
    (words as u64).saturating_sub(1).saturating_mul(8).saturating_sub(CHUNK)
}

/// Appends `bytes`. Only the owner of the words calls this. The count goes on from an earlier life's, whose last
/// words stay readable.
pub fn append(words: &[AtomicU64], bytes: &[u8]) {
    let [count, data @ ..] = words else { return };
    let ring = data.len() as u64 * 8;
    if ring == 0 {
        return;
    }
    let mut at = count.load(Ordering::Relaxed);
    for chunk in bytes.chunks(CHUNK as usize) {
        for &byte in chunk {
            let place = at % ring;
            if let Some(word) = data.get((place / 8) as usize) {
                let shift = place % 8 * 8;
                let rest = word.load(Ordering::Relaxed) & !(0xff << shift);
                word.store(rest | u64::from(byte) << shift, Ordering::Relaxed);
            }
            at = at.wrapping_add(1);
        }
        count.store(at, Ordering::Release);
        // Who sees bytes of the next chunk sees at least this count.
        fence(Ordering::Release);
    }
}

/// Appends to `into` what was written from place `from` on, as far as it is still there, at most `limit` bytes;
/// returns the place to go on from.
pub fn read(words: &[AtomicU64], from: u64, limit: usize, into: &mut Vec<u8>) -> u64 {
    let [count, data @ ..] = words else {
        return from;
    };
    let ring = data.len() as u64 * 8;
    let keep = capacity(words.len());
    let end = count.load(Ordering::Acquire);
    // A place ahead of the end is from a log that was longer: start anew at the oldest.
    let oldest = end.saturating_sub(keep);
    let start = if from > end { oldest } else { from.max(oldest) };
    let stop = end.min(start.saturating_add(limit as u64));
    let first = into.len();
    for place in start..stop {
        let place = place % ring.max(1);
        let word = data.get((place / 8) as usize).map_or(0, |w| w.load(Ordering::Relaxed));
        into.push((word >> (place % 8 * 8)) as u8);
    }
    fence(Ordering::Acquire);
    // What was overwritten while we copied goes.
    let lost = count.load(Ordering::Relaxed).saturating_sub(keep).saturating_sub(start);
    let lost = (lost as usize).min(into.len() - first);
    into.drain(first..first + lost);
    stop
}

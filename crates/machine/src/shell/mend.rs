//! Words that must be what they were.
use core::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, Release},
};

/// What was set right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mended {
    /// Place of the first word.
    pub first: usize,
    /// How many words.
    pub words: usize,
}

/// Words that are compared in one go: hardly any differ.
const CHUNK: usize = 16;

/// Sets right what differs from the original. Nothing is stored where nothing differs: others may be executing it.
pub fn mend(now: &[AtomicU64], original: &[AtomicU64]) -> Option<Mended> {
    let mut mended: Option<Mended> = None;
    for (chunk, (now, original)) in now.chunks(CHUNK).zip(original.chunks(CHUNK)).enumerate() {
        let both = || now.iter().zip(original);
        if both().fold(0, |differs, (now, original)| differs | now.load(Relaxed) ^ original.load(Relaxed)) == 0 {
            continue;
        }
        for (place, (now, original)) in both().enumerate() {
            let right = original.load(Relaxed);
            if now.load(Relaxed) != right {
                now.store(right, Release);
                let before = mended.unwrap_or(Mended { first: chunk * CHUNK + place, words: 0 });
                mended = Some(Mended { words: before.words + 1, ..before });
            }
        }
    }
    mended
}

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

/// Sets right what differs from the original. Nothing is stored where nothing differs: others may be executing it.
pub fn mend(now: &[AtomicU64], original: &[AtomicU64]) -> Option<Mended> {
    let mut mended: Option<Mended> = None;
    for (place, (now, original)) in now.iter().zip(original).enumerate() {
        let right = original.load(Relaxed);
        if now.load(Relaxed) != right {
            now.store(right, Release);
            let before = mended.unwrap_or(Mended { first: place, words: 0 });
            mended = Some(Mended { words: before.words + 1, ..before });
        }
    }
    mended
}

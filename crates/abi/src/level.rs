//! How reliable a program is to be.
use crate::time::Nanos;
use minicbor::{Decode, Encode};

/// How a program is protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Protection {
    /// Time between checkpoints.
    #[n(0)]
    pub interval: Nanos,
    /// Whether output waits for the checkpoint that covers it (D11).
    #[n(1)]
    pub output: Output,
    /// What of an image carries checksums.
    #[n(2)]
    #[cbor(default)]
    pub integrity: Integrity,
    /// What is done when the program itself crashes.
    #[n(3)]
    #[cbor(default)]
    pub on_crash: OnCrash,
    /// How many committed generations are kept.
    #[n(4)]
    #[cbor(default)]
    pub generations: Generations,
}

impl Protection {
    /// Checkpoints in an interval, and all else as usual.
    pub const fn new(interval: Nanos, output: Output) -> Protection {
        Protection {
            interval,
            output,
            integrity: Integrity::Records,
            on_crash: OnCrash::Stop,
            generations: Generations(Generations::MOST),
        }
    }
}

/// What of an image carries checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum Integrity {
    /// The kernel's records, and the words of the page map.
    #[n(0)]
    #[default]
    Records,
    /// The contents of pages too.
    #[n(1)]
    Pages,
}

/// What is done when a program itself crashes: its first process ends by a signal that says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub enum OnCrash {
    /// It has ended.
    #[n(0)]
    #[default]
    Stop,
    /// It goes back to its last generation; if it crashes again soon, to the one before.
    #[n(1)]
    Rollback {
        /// So many times in a row; then it has ended.
        #[n(0)]
        limit: u32,
    },
}

/// How many committed generations of an image are kept: 1 or 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct Generations(#[n(0)] pub u8);

impl Generations {
    /// As many as an entry of the page map has versions for, beside the one that is being written.
    pub const MOST: u8 = 2;
}

impl Default for Generations {
    fn default() -> Generations {
        Generations(Generations::MOST)
    }
}

/// What happens to a program when its kernel dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Level {
    /// It dies as well.
    #[n(0)]
    Off,
    /// It is started again elsewhere, from the beginning.
    #[n(1)]
    Restart,
    /// It goes on elsewhere from its last checkpoint.
    #[n(2)]
    Checkpoint(#[n(0)] Protection),
}

/// What happens to a protected program's output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Output {
    /// Held until the checkpoint that covers it commits.
    #[n(0)]
    Commit,
    /// Leaves at once: a takeover may repeat or contradict it.
    #[n(1)]
    Free,
}

/// What is done if something of a program cannot be protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum Strictness {
    /// It is told.
    #[n(0)]
    #[default]
    Tell,
    /// The program is not protected at all, and one that is being started is not started.
    #[n(1)]
    Refuse,
}

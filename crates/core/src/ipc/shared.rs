//! Shared memory segments.
use minicbor::{Decode, Encode};
use shimos_abi::ids::Pid;
use shimos_memory::ObjectId;

/// A segment. How often it is attached is counted over the mappings of its object.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Segment {
    /// Its content; the segment holds one reference until it is removed.
    #[n(0)]
    pub object: ObjectId,
    /// Bytes asked for.
    #[n(1)]
    pub size: u64,
    /// Seconds since 1970 of the last shmat(2).
    #[n(2)]
    pub attached: i64,
    /// Seconds since 1970 of the last shmdt(2).
    #[n(3)]
    pub detached: i64,
    /// Who made it.
    #[n(4)]
    pub creator: Pid,
    /// Who attached or detached it last.
    #[n(5)]
    pub last: Pid,
}

/// Set in the mode of a segment that was removed and is still attached.
pub const REMOVED: u32 = 0o1000;
/// Set in the mode of a segment that is locked.
pub const LOCKED: u32 = 0o2000;
/// `SHMMAX`.
pub const MAX_SIZE: u64 = u64::MAX - (1 << 24);
/// `SHMALL`.
pub const MAX_PAGES: u64 = u64::MAX - (1 << 24);
/// `SHMMNI`.
pub const MAX_SEGMENTS: usize = 4096;

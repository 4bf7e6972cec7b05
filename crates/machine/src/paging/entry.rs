//! The flags of page table entries.

/// The entry is in use.
pub const PRESENT: u64 = 1;
/// Stores are allowed.
pub const WRITE: u64 = 1 << 1;
/// User mode may use it.
pub const USER: u64 = 1 << 2;
/// Uncached (with write-through, page attribute 3).
pub const UNCACHED: u64 = 1 << 3 | 1 << 4;
/// Was used.
pub const ACCESSED: u64 = 1 << 5;
/// Was written.
pub const DIRTY: u64 = 1 << 6;
/// A 2 MiB page.
pub const LARGE_PAGE: u64 = 1 << 7;
/// No instruction fetch.
pub const NO_EXECUTE: u64 = 1 << 63;
/// The address in an entry.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Data: read.
pub const READ_ONLY: u64 = PRESENT | NO_EXECUTE;
/// Data: read and write.
pub const READ_WRITE: u64 = PRESENT | WRITE | NO_EXECUTE;
/// Code: read and execute.
pub const CODE: u64 = PRESENT;
/// Device registers.
pub const DEVICE: u64 = READ_WRITE | UNCACHED;

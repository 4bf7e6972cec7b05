//! Changing the kernel half while the kernel runs: device registers and peers' pools come and go. The tables for that
//! are made at the start of an incarnation, so the top of the kernel half never changes and address spaces can copy it.
use super::{DEVICE, LARGE_PAGE, READ_ONLY, READ_WRITE};
use crate::{
    arch::{invlpg, read_cr3, write_cr3},
    info::info,
    layout::{DIRECT_BASE, LARGE, MMIO_BASE, MMIO_PAGES, TABLES_BASE},
};
use shimos_abi::addr::FrameRange;

/// The tables in the window, in order: the directories of the direct map, one a GiB, then the device window's tables.
fn entry(table: u64, index: usize) -> *mut u64 {
    (TABLES_BASE + table * 4096 + index as u64 * 8) as *mut u64
}

/// Maps one page of the device window.
pub(crate) fn map_mmio(page: usize, phys: u64) {
    assert!(page < MMIO_PAGES, "device window overrun");
    // SAFETY: the table is ours alone and mapped in the window; the page was unused, so nobody relies on it.
    unsafe { entry(info().gigabytes + (page / 512) as u64, page % 512).write_volatile(phys | DEVICE) };
    invlpg(MMIO_BASE + page as u64 * 4096);
}

/// Whether a peer's pool can be read here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// It can.
    Readable,
    /// It cannot.
    Hidden,
}

/// A wild deed, for tests: maps a peer's pool as if it were our own.
///
/// # Safety
/// Nothing is safe after this, unless nested page tables stop it.
pub(crate) unsafe fn map_writable(pool: FrameRange) {
    let start = pool.first.addr();
    for at in (start..start + u64::from(pool.count) * 4096).step_by(LARGE as usize) {
        // SAFETY: the caller's.
        unsafe { entry(at >> 30, (at >> 21 & 511) as usize).write_volatile(at | READ_WRITE | LARGE_PAGE) };
        invlpg(DIRECT_BASE + at);
    }
}

/// Shows or hides a peer's pool in the direct map. Pools start and end at large pages.
pub(crate) fn set_peer(pool: FrameRange, peer: Peer) {
    let start = pool.first.addr();
    let mut at = start;
    while at < start + u64::from(pool.count) * 4096 {
        let value = if peer == Peer::Readable { at | READ_ONLY | LARGE_PAGE } else { 0 };
        assert!(at >> 30 < info().gigabytes, "pool outside of memory");
        // SAFETY: the directory is ours alone; the large page shows nothing but the peer's pool, read-only.
        unsafe { entry(at >> 30, (at >> 21 & 511) as usize).write_volatile(value) };
        invlpg(DIRECT_BASE + at);
        at += LARGE;
    }
    // SAFETY: the same tables again; drops what is cached of the old entries.
    unsafe { write_cr3(read_cr3()) };
}

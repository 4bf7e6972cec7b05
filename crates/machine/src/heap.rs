//! The kernel's heap: a fixed part of its private memory, made anew at every start.
use crate::{info::me, layout::HEAP_BASE};
use core::{
    alloc::{GlobalAlloc, Layout},
    sync::atomic::{AtomicUsize, Ordering},
};
use talc::{TalcCell, source::Manual};

struct Heap(TalcCell<Manual>);

// SAFETY: a kernel runs on one core only, and no interrupt handler allocates.
unsafe impl Sync for Heap {}

// SAFETY: forwards to an allocator that keeps the contract.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's.
        unsafe { self.0.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's.
        unsafe { self.0.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller's.
        unsafe { self.0.realloc(at, layout, size) }
    }
}

/// Bytes that are handed out, with about what each costs besides.
static USED: AtomicUsize = AtomicUsize::new(0);

/// What a piece of memory costs: the allocator's own bytes, and its smallest piece.
const fn cost(size: usize) -> usize {
    if size == 0 { 0 } else { (size + 8).next_multiple_of(32) }
}

/// Notes that a piece of memory takes the place of another. One core alone comes here, so a load and a store will do.
fn count(new: usize, old: usize) {
    let used = USED.load(Ordering::Relaxed);
    USED.store(used.wrapping_add(cost(new)).wrapping_sub(cost(old)), Ordering::Relaxed);
}

/// Bytes that there are.
static ALL: AtomicUsize = AtomicUsize::new(0);

/// Bytes in use, and all.
#[inline]
pub(crate) fn usage() -> (usize, usize) {
    (USED.load(Ordering::Relaxed), ALL.load(Ordering::Relaxed))
}

#[global_allocator]
static HEAP: Heap = Heap(TalcCell::new(Manual));

/// Gives the heap its memory. Once, before the first allocation.
///
/// # Safety
/// Nothing is in the heap's memory.
pub(crate) unsafe fn init() {
    let bytes = me().heap_bytes as usize;
    // SAFETY: the range is mapped, this kernel's alone, and not used yet.
    let claimed = unsafe { HEAP.0.claim(HEAP_BASE as *mut u8, bytes) };
    ALL.store(bytes, Ordering::Relaxed);
    assert!(claimed.is_some(), "the heap is too small");
}

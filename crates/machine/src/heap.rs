//! The kernel's heap: a fixed part of its private memory, made anew at every start.
use crate::{info::me, layout::HEAP_BASE};
use core::alloc::{GlobalAlloc, Layout};
use talc::{TalcCell, source::Manual};

struct Heap(TalcCell<Manual>);

// SAFETY: a kernel runs on one core only, and no interrupt handler allocates.
unsafe impl Sync for Heap {}

// SAFETY: forwards to an allocator that keeps the contract.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { self.0.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { self.0.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { self.0.realloc(at, layout, size) }
    }
}

#[global_allocator]
static HEAP: Heap = Heap(TalcCell::new(Manual));

/// Gives the heap its memory. Once, before the first allocation.
///
/// # Safety
/// Nothing is in the heap's memory.
pub(crate) unsafe fn init() {
    // SAFETY: the range is mapped, this kernel's alone, and not used yet.
    let claimed = unsafe { HEAP.0.claim(HEAP_BASE as *mut u8, me().heap_bytes as usize) };
    assert!(claimed.is_some(), "the heap is too small");
}

//! Wild writes to order: into memory that a kernel can write and must not. The same seed hits the same words.
//!
//! None of this is sound, and that is the point: the functions are unsafe, and called only for an ordered fault.
use crate::{
    arch::{read_cr3, write_cr3},
    heap,
    info::{info, life, me},
    layout::{HEAP_BASE, LARGE, SHARED_BASE, TABLES_BASE},
};
use shimos_abi::shared::{Layout, Queue, commons, outgoing};

/// Words that are overwritten where one would seldom be noticed.
const WORDS: usize = 64;

/// Numbers that follow from a seed (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }
    fn below(&mut self, most: u64) -> u64 {
        self.next() % most.max(1)
    }
}

unsafe fn overwrite(address: u64, value: u64) {
    // SAFETY: the caller wants the damage; the address is mapped and can be written, so nothing but this kernel (and
    // those who share the word) is hit.
    unsafe { (address as *mut u64).write_volatile(value) }
}

/// Words of the heap that is in use.
pub(crate) unsafe fn heap(seed: u64) {
    let mut numbers = Numbers(seed);
    let words = heap::usage().0 as u64 / 8;
    for _ in 0..WORDS {
        let place = numbers.below(words);
        // SAFETY: inside the heap.
        unsafe { overwrite(HEAP_BASE + place * 8, numbers.next()) };
    }
}

/// The entry that shows a large page of the own pool.
pub(crate) unsafe fn tables(seed: u64) {
    let mut numbers = Numbers(seed);
    let pool = me().pool;
    let pages = u64::from(pool.count) * 4096 / LARGE;
    let entry = (pool.first.addr() + numbers.below(pages) * LARGE) / LARGE;
    // SAFETY: inside the window on the own tables, which show the direct map in order.
    unsafe {
        overwrite(TABLES_BASE + entry * 8, numbers.next());
        write_cr3(read_cr3());
    }
}

fn own_part() -> (u64, usize) {
    let layout = Layout::new(info().kernels as usize);
    (SHARED_BASE + layout.outgoing(life().kernel) as u64 * 8, layout.kernels())
}

/// Words of the own outgoing part, packets aside.
pub(crate) unsafe fn outgoing(seed: u64) {
    let mut numbers = Numbers(seed);
    let (base, kernels) = own_part();
    for _ in 0..WORDS {
        let place = numbers.below(outgoing::packets(kernels) as u64);
        // SAFETY: inside the own part, which the own tables show writable.
        unsafe { overwrite(base + place * 8, numbers.next()) };
    }
}

/// Heads and descriptors of the queues to all peers.
pub(crate) unsafe fn queues(seed: u64) {
    let mut numbers = Numbers(seed);
    let (base, kernels) = own_part();
    let all = (kernels * Queue::ALL.len() * outgoing::RING_WORDS) as u64;
    for place in 0..all {
        if numbers.below(4) == 0 {
            // SAFETY: as for `outgoing`.
            unsafe { overwrite(base + (outgoing::RINGS as u64 + place) * 8, numbers.next()) };
        }
    }
}

/// One word of the commons.
pub(crate) unsafe fn commons(seed: u64) {
    let mut numbers = Numbers(seed);
    let place = commons::START as u64 + numbers.below(commons::WORDS as u64);
    // SAFETY: inside the commons, which all tables show writable.
    unsafe { overwrite(SHARED_BASE + place * 8, numbers.next()) };
}

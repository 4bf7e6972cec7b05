//! Device registers: mapping a physical range into this kernel's address space, and volatile access to it.
//!
//! Every kernel has a window of its own for this; mappings last for one incarnation and are never taken back.
use crate::{
    layout::{MMIO_BASE, MMIO_PAGES},
    paging::kernel,
};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use shimos_abi::addr::PAGE;

/// Pages of the window that are taken.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// A mapped range of device registers. Accesses outside of it panic.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    base: usize,
    len: usize,
}

/// Maps `len` bytes of registers at physical address `phys`, uncached. `None` if the window is used up.
pub fn map(phys: u64, len: usize) -> Option<Mmio> {
    let first = phys & !(PAGE as u64 - 1);
    let inside = (phys - first) as usize;
    let pages = inside.checked_add(len)?.div_ceil(PAGE);
    let place = TAKEN.load(Relaxed);
    if len == 0 || pages > MMIO_PAGES - place {
        return None;
    }
    TAKEN.store(place + pages, Relaxed);
    for page in 0..pages {
        kernel::map_mmio(place + page, first + (page * PAGE) as u64);
    }
    Some(Mmio { base: MMIO_BASE as usize + place * PAGE + inside, len })
}

impl Mmio {
    /// Where the range is mapped.
    pub fn address(&self) -> *mut u8 {
        self.base as *mut u8
    }
    /// Writes the register at `offset`.
    pub fn write32(&self, offset: usize, value: u32) {
        // SAFETY: `at` gives an aligned address inside a range that `map` mapped for device registers alone; what the
        // device does with it is the driver's business.
        unsafe { (self.at(offset, 4) as *mut u32).write_volatile(value) }
    }
    /// Writes the 8-bit register at `offset`.
    pub fn write8(&self, offset: usize, value: u8) {
        // SAFETY: as above.
        unsafe { (self.at(offset, 1) as *mut u8).write_volatile(value) }
    }

    fn at(&self, offset: usize, size: usize) -> usize {
        let address = self.base + offset;
        assert!(offset <= self.len && size <= self.len - offset && address.is_multiple_of(size), "bad register access");
        address
    }
}

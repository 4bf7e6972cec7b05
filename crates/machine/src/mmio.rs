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

macro_rules! access {
    ($read:ident, $write:ident, $type:ty) => {
        /// Reads the register at `offset`.
        pub fn $read(&self, offset: usize) -> $type {
            // SAFETY: `at` gives an aligned address inside a range that `map` mapped for device registers alone.
            unsafe { (self.at(offset, size_of::<$type>()) as *const $type).read_volatile() }
        }
        /// Writes the register at `offset`.
        pub fn $write(&self, offset: usize, value: $type) {
            // SAFETY: as for the read; what the device does with it is the driver's business.
            unsafe { (self.at(offset, size_of::<$type>()) as *mut $type).write_volatile(value) }
        }
    };
}

impl Mmio {
    access!(read8, write8, u8);
    access!(read16, write16, u16);
    access!(read32, write32, u32);
    access!(read64, write64, u64);

    /// Where the range is mapped.
    pub fn address(&self) -> *mut u8 {
        self.base as *mut u8
    }
    /// Bytes in the range.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Never true: there is no empty range.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// A part of the range, if it lies inside.
    pub fn part(&self, offset: usize, len: usize) -> Option<Mmio> {
        (offset.checked_add(len)? <= self.len).then_some(Mmio { base: self.base + offset, len })
    }

    fn at(&self, offset: usize, size: usize) -> usize {
        let address = self.base + offset;
        assert!(offset <= self.len && size <= self.len - offset && address.is_multiple_of(size), "bad register access");
        address
    }
}

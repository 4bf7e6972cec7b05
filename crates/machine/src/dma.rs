//! Memory that devices read and write: a part of this kernel's private memory that belongs to its drivers alone, so
//! that a late write of a device that was not reset hits nothing else.
use crate::{
    info::me,
    layout::{DIRECT_BASE, DMA_BYTES},
};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use shimos_abi::addr::{Frame, PAGE};

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// A run of physically contiguous pages for a driver, of any content.
#[derive(Debug)]
pub struct Dma {
    /// Where the kernel sees it. Page aligned, and nobody else has it.
    pub virt: *mut u8,
    /// Where the device sees it.
    pub phys: u64,
}

/// Takes at least `bytes` of the drivers' memory (2 MiB in all), for the rest of this incarnation.
pub fn alloc(bytes: usize) -> Option<Dma> {
    let len = bytes.checked_next_multiple_of(PAGE)?;
    let place = TAKEN.load(Relaxed);
    if len == 0 || len > DMA_BYTES - place {
        return None;
    }
    TAKEN.store(place + len, Relaxed);
    let phys = me().dma + place as u64;
    Some(Dma { virt: (DIRECT_BASE + phys) as *mut u8, phys })
}

/// Takes all that is left and leaves it as it is: a device may write there. Calls `visit` for each frame of the pool that
/// anything in it names, because the device may have been told to write there too.
pub fn give_up(visit: &mut dyn FnMut(Frame)) {
    let me = me();
    TAKEN.store(DMA_BYTES, Relaxed);
    for place in 0..DMA_BYTES / 8 {
        // SAFETY: the drivers' memory is mapped here, whole; devices may write there at any time, hence volatile.
        let word = unsafe { ((DIRECT_BASE + me.dma) as *const u64).add(place).read_volatile() };
        let frame = Frame((word / PAGE as u64) as u32);
        if word != 0 && word / PAGE as u64 <= u64::from(u32::MAX) && me.pool.contains(frame) {
            visit(frame);
        }
    }
}

/// Whether a device may be told to write into `frame`: it lies in this kernel's pool.
pub fn owns(frame: Frame) -> bool {
    me().pool.contains(frame)
}

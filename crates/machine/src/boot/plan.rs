//! Who gets what memory.
use super::{
    image,
    memmap::{Facts, fit, option},
};
use crate::{
    info::{Info, KernelInfo},
    layout::{DMA_BYTES, LARGE, MMIO_TABLES, STACKS},
    say, shell,
};
use shimos_abi::{
    addr::{Frame, FrameRange, PAGE},
    ids::MAX_KERNELS,
    shared::Layout,
};

/// Least private memory.
const MIN_MEMORY: u64 = 32 << 20;
/// Bounds of the heap.
const MIN_HEAP: u64 = 8 << 20;
const MAX_HEAP: u64 = 128 << 20;
/// Memory of a kernel when the command line does not say: all there is, up to this.
const MAX_DEFAULT: u64 = 4 << 30;
/// Pages of the stack that a starting core uses, at the top of its kernel part.
pub const START_STACK_PAGES: u64 = 16;

/// Pages of the kernel part: what is not heap, drivers' memory or pool. Whole large pages.
fn part_pages(info: &Info) -> u64 {
    let shared = Layout::new(info.kernels as usize).words() as u64 * 8 / 4096 + 1;
    let image = image::text().pages + image::rodata().pages + image::data().pages + image::bss().pages;
    let window = 1 + info.gigabytes + MMIO_TABLES as u64;
    let stacks: u64 = STACKS.iter().sum();
    let own = 1 + image::data().pages + image::bss().pages + stacks;
    let tables = 32 + shared.div_ceil(512) + image.div_ceil(512) + window.div_ceil(512) + STACKS.len() as u64;
    (window + own + tables + START_STACK_PAGES).next_multiple_of(512)
}

/// Lays the private memories out; writes kernels and entries of `info`. Fails if not even one kernel fits.
pub fn lay_out(info: &mut Info, facts: &mut Facts, cores: &[u32], above: u64) -> Result<(), &'static str> {
    let wished = option(facts.cmdline(), "memory").map(|mib| (mib << 20).max(MIN_MEMORY) & !(LARGE - 1));
    let mut kernels = option(facts.cmdline(), "kernels").unwrap_or(cores.len() as u64);
    kernels = kernels.clamp(1, cores.len().min(MAX_KERNELS) as u64);
    // Fewer kernels if they do not even fit with the least memory.
    let size = loop {
        let shared = Layout::new(kernels as usize).words() as u64 * 8;
        let shells = shell::bytes(info, kernels);
        let common = (shared.next_multiple_of(4096) + shells).next_multiple_of(LARGE);
        info.shared = facts.take(common, LARGE, above).ok_or("no room for the shared area")?;
        info.shell = info.shared + shared.next_multiple_of(4096);
        let fits = |size: u64| fit(facts.ranges(), size, LARGE, above) >= kernels;
        let total = fit(facts.ranges(), LARGE, LARGE, above) * LARGE;
        let mut size = wished.unwrap_or((total / kernels).clamp(MIN_MEMORY, MAX_DEFAULT)) & !(LARGE - 1);
        size = size.min((total / kernels) & !(LARGE - 1));
        while size >= MIN_MEMORY && !fits(size) {
            size -= LARGE;
        }
        if size >= MIN_MEMORY {
            break size;
        }
        facts.give_back(info.shared, info.shared + common);
        kernels -= 1;
        if kernels == 0 {
            return Err("too little memory for one kernel");
        }
    };
    info.kernels = kernels as u32;
    if option(facts.cmdline(), "kernels").is_some_and(|asked| asked != kernels) {
        say!("shimos: {} cores; memory and cores allow {kernels} kernels", cores.len());
    }
    if wished.is_some_and(|asked| asked != size) {
        say!("shimos: only {} MiB for each kernel", size >> 20);
    }
    let pages = part_pages(info);
    let heap_bytes = (size / 8).clamp(MIN_HEAP, MAX_HEAP) & !(LARGE - 1);
    for (kernel, &apic) in cores.iter().take(kernels as usize).enumerate() {
        let start = facts.take(size, LARGE, above).ok_or("no room for a kernel")?;
        let heap = start + pages * 4096;
        let dma = heap + heap_bytes;
        let pool = dma + DMA_BYTES as u64;
        if pool + (MIN_HEAP / 2) > start + size {
            return Err("private memory too small");
        }
        info.entries[kernel] = KernelInfo {
            apic,
            part_pages: pages as u32,
            private: range(start, start + size),
            pool: range(pool, start + size),
            heap,
            heap_bytes,
            dma,
        };
        info.by_apic[apic as usize & 255] = kernel as u8;
    }
    Ok(())
}

fn range(start: u64, end: u64) -> FrameRange {
    FrameRange { first: Frame((start / PAGE as u64) as u32), count: ((end - start) / PAGE as u64) as u32 }
}

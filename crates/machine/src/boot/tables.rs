//! What the boot core writes once for all: page tables and interrupt tables of parked and of starting cores, the IDT of
//! all kernels, the shared area.
use super::image;
use crate::{
    info::{INFO_PAGES, Info},
    layout::{
        IDT_BASE, INFO_BASE, KERNEL_CODE, LAPIC_BASE, LARGE, PARK_IDT_BASE, PARK_STACK_PAGES, PARK_STACKS_BASE,
        SHARED_BASE,
    },
    paging::{CODE, DEVICE, READ_ONLY, READ_WRITE, build::Builder},
    park, traps,
};
use shimos_abi::shared::{PAGE_WORDS, commons};

/// An entry of the IDT (SDM 3, 6.14.1): an interrupt gate.
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u16,
    selector: u16,
    stack: u8,
    kind: u8,
    middle: u16,
    high: u32,
    zero: u32,
}

fn gate(handler: u64, stack: u8, user: u8) -> Gate {
    Gate {
        low: handler as u16,
        selector: KERNEL_CODE,
        stack,
        kind: 0x8e | user << 5,
        middle: (handler >> 16) as u16,
        high: (handler >> 32) as u32,
        zero: 0,
    }
}

/// Writes both IDTs.
///
/// # Safety
/// Both pages are the caller's, and mapped one to one.
pub unsafe fn write_idts(kernel: u64, parked: u64) {
    for vector in 0..256u64 {
        let (handler, stack) = traps::gate_of(vector as u8);
        // Breakpoint and overflow are instructions that user code may use.
        let user = if vector == 3 || vector == 4 { 3 } else { 0 };
        let waiting = match vector {
            2 => park::park_nmi as *const () as u64,
            18 => park::park_machine_check as *const () as u64,
            _ => park::park_fault as *const () as u64,
        };
        // SAFETY: the caller's: each page holds 256 gates.
        unsafe {
            (kernel as *mut Gate).add(vector as usize).write(gate(handler, stack, user));
            (parked as *mut Gate).add(vector as usize).write(gate(waiting, 0, 0));
        }
    }
}

/// Writes some gates of the IDT at `idt`; all lead to `handler`.
///
/// # Safety
/// The IDT has room for them, is the caller's and mapped one to one.
pub unsafe fn write_gates(idt: u64, vectors: core::ops::Range<usize>, handler: u64) {
    for vector in vectors {
        // SAFETY: the caller's.
        unsafe { (idt as *mut Gate).add(vector).write_unaligned(gate(handler, 0, 0)) }
    }
}

/// Physical places of what is mapped for parked and starting cores.
pub struct Places {
    /// The trampoline.
    pub trampoline: u64,
    /// Stacks of parked cores.
    pub park_stacks: u64,
    /// IDT of parked cores.
    pub park_idt: u64,
}

fn map_common(builder: &mut Builder, info: &Info, places: &Places) {
    let (text, rodata) = (image::text(), image::rodata());
    builder.map_run(text.virt, text.phys, text.pages, CODE);
    builder.map_run(rodata.virt, rodata.phys, rodata.pages, READ_ONLY);
    builder.map_run(INFO_BASE, info.info, INFO_PAGES, READ_ONLY);
    builder.map(PARK_IDT_BASE, places.park_idt, READ_ONLY);
    builder.map_run(PARK_STACKS_BASE, places.park_stacks, PARK_STACK_PAGES, READ_WRITE);
    builder.map(LAPIC_BASE, info.lapic, DEVICE);
    let commons_at = commons::START as u64 * 8;
    let commons_pages = (commons::WORDS / PAGE_WORDS) as u64;
    builder.map_run(SHARED_BASE + commons_at, info.shared + commons_at, commons_pages, READ_WRITE);
}

/// Builds the page tables of parked cores. They show the trampoline and its stack, the first page of memory, one to one.
pub fn build_park(builder: &mut Builder, info: &Info, places: &Places) {
    map_common(builder, info, places);
    builder.map(places.trampoline, places.trampoline, CODE);
    builder.map(0, 0, READ_WRITE);
}

/// Builds the page tables of starting cores: the same, and all of memory one to one.
pub fn build_stage(builder: &mut Builder, info: &Info, places: &Places) {
    map_common(builder, info, places);
    let (data, bss) = (image::data(), image::bss());
    builder.map_run(data.virt, data.phys, data.pages, READ_ONLY);
    builder.map_run(bss.virt, bss.phys, bss.pages, READ_WRITE);
    builder.map(IDT_BASE, info.idt, READ_ONLY);
    builder.map_large(0, 0, (info.gigabytes.max(4) << 30) / LARGE, READ_WRITE);
}

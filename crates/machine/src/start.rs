//! The first steps of an incarnation under its own page tables.
use crate::{apic::LAPIC, bare::Bare, check, cpu, death, fpu, heap, info, serial};
use shimos_abi::ids::{Incarnation, KernelId, Life};

unsafe extern "Rust" {
    /// The kernel proper; see [`crate::entry`].
    safe fn shimos_kernel_main(machine: Bare) -> !;
}

/// Everything that an incarnation starts with, in order. `word` is the incarnation plus one.
pub(crate) extern "C" fn kernel_start(kernel: u32, word: u64) -> ! {
    info::set_life(Life {
        kernel: KernelId(kernel as u16),
        incarnation: Incarnation(u32::try_from(word.saturating_sub(1)).unwrap_or(u32::MAX)),
    });
    death::started();
    serial::set_speaker(kernel);
    let features = cpu::init();
    check::init();
    fpu::init(features);
    // SAFETY: nothing has been allocated yet.
    unsafe { heap::init() };
    LAPIC.init();
    shimos_kernel_main(Bare::new())
}

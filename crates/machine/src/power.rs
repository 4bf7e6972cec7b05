//! Switching the machine off.
use crate::{
    arch::{outl, outw, pause, stop},
    clock::now,
    info::info,
    mmio,
};
use shimos_abi::time::Nanos;

/// The emulator switches off behind our back, a while later.
fn give_time() {
    let end = now() + Nanos::secs(2);
    while now() < end {
        pause();
    }
}

/// Tries what there is: ACPI sleep state 5 (ACPI 6.5, 4.8.3.2.1; sleep type 0 on the emulated chip sets), the sleep
/// control register of a hardware-reduced machine (4.8.3.7, sleep type 5), and the emulator's debug exit. What is still on
/// then stands still: a reset would start it again.
pub(crate) fn off() -> ! {
    let power = info().power;
    if let Ok(port @ 1..) = u16::try_from(power.pm1a) {
        outw(port, 1 << 13);
        give_time();
    }
    if power.sleep != 0
        && let Some(register) = mmio::map(power.sleep, 1)
    {
        register.write8(0, 5 << 2 | 1 << 5);
        give_time();
    }
    outl(0xf4, 0x10);
    stop()
}

//! The bare-metal kernel.
#![no_std]
#![no_main]

use shimos_hal::Machine;
use shimos_machine::{Bare, say};

shimos_machine::entry!(main);

fn main(mut machine: Bare) -> ! {
    let me = machine.identity().clone();
    say!(
        "{} on APIC id {}: {} MiB, pool of {} frames, {} ns",
        me.life,
        me.apic_ids[me.life.kernel.index()],
        me.memory >> 20,
        me.pool.count,
        machine.now().0
    );
    loop {
        machine.idle(shimos_abi::time::Nanos::NEVER);
        machine.take_events();
    }
}

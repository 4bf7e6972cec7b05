//! The bare-metal kernel: the machine layer's boot, and the kernel proper on top of it.
#![no_std]
#![no_main]

extern crate alloc;

mod selftest;

use shimos_hal::Machine;
use shimos_machine::{Bare, say};

shimos_machine::entry!(main);

fn main(mut machine: Bare) -> ! {
    let me = machine.identity().clone();
    say!(
        "{} on APIC id {}: {} MiB, pool of {} frames, {} {}",
        me.life,
        me.apic_ids[me.life.kernel.index()],
        me.memory >> 20,
        me.pool.count,
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION")
    );
    if machine.cmdline().split_ascii_whitespace().any(|word| word == "selftest") {
        selftest::run(machine);
    }
    loop {
        machine.idle(shimos_abi::time::Nanos::NEVER);
        machine.take_events();
    }
}

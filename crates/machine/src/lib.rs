//! The bare x86-64 machine: the only unsafe code of the system. It boots one kernel on every core, keeps their memories
//! apart, and implements [`shimos_hal::Machine`] for each.
//!
//! The ways through it: [`boot`] (from the loader to a kernel), `traps` and `user` (between kernel and user mode),
//! `death` and [`park`] (the end of an incarnation), `bare` (the machine as the kernel sees it). [`layout`] is the map
//! of the kernel half of the address space.
#![no_std]
#![warn(unsafe_op_in_unsafe_fn)]

extern crate alloc;

pub mod apic;
pub mod arch;
mod bare;
pub mod boot;
mod check;
mod clock;
mod console;
mod copy;
mod cpu;
mod death;
pub mod device;
mod dma;
mod fault;
mod fpu;
mod frames;
mod heap;
pub mod info;
pub mod layout;
mod mmio;
mod paging;
pub mod park;
mod power;
mod random;
pub mod serial;
pub mod shell;
mod start;
mod timer;
mod traps;
mod user;
pub mod vectors;
mod watchdog;
mod wild;

pub use bare::Bare;
pub use paging::space::Space;

/// Names the function that every incarnation of every kernel begins with: `fn(Bare) -> !`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "Rust" fn shimos_kernel_main(machine: $crate::Bare) -> ! {
            let main: fn($crate::Bare) -> ! = $main;
            main(machine)
        }
    };
}

//! The simulated machine: cores, frames, page tables, devices and a small processor in host memory, all of it
//! deterministic from one seed (D5).
//!
//! A [`World`] is one whole machine. [`SoftMachine`] is one core of it as its kernel sees it. What happens next is asked
//! of [`World::advance`]; the caller runs one turn of that core's kernel and hands an unwound turn to [`World::settle`].
#![forbid(unsafe_code)]

mod access;
pub mod asm;
mod config;
mod cores;
mod death;
mod devices;
mod frames;
mod machine;
mod processor;
mod space;
mod threads;
mod wire;
mod world;

pub use config::{Config, Timing};
pub use cores::Phase;
pub use death::{Crash, Died, End};
pub use machine::{Scheduler, SoftMachine};
pub use space::SoftSpace;
pub use threads::{Threads, Turn};
pub use world::{Next, SharedSnapshot, World};

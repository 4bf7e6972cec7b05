//! Whole-machine tests: what boots machines, drives them and waits for what must happen.
//!
//! Nothing here sleeps to let something happen: every wait asks for a state or for lines of the console and has a
//! deadline that is long enough for a host that stalls.
#![forbid(unsafe_code)]

pub mod client;
pub mod clock;
pub mod group;
pub mod makings;
pub mod programs;
pub mod rig;
pub mod suite;
pub mod tool;

//! Runs the device drivers' own tests on the host. The rest of the crate is only for the bare machine, so the module is
//! taken in by its path.
#![allow(dead_code, reason = "the drivers' users are not here")]

#[path = "../src/device/mod.rs"]
mod device;

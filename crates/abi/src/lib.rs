//! What the parts of Shimos agree on: names of things, addresses, errors, the layout of the shared memory area, the control
//! protocol and the protocol of sessions. Plain data, hardly any behaviour; every other crate may depend on this one and it
//! depends on none of them.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod addr;
pub mod console;
pub mod control;
pub mod errno;
mod fault;
pub mod flat;
pub mod ids;
pub mod kept;
mod level;
mod network;
pub mod policy;
pub mod sealed;
pub mod session;
pub mod shared;
pub mod state;
pub mod time;

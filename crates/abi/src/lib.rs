//! What the parts of Shimos agree on: names of things, addresses, errors, the layout of the shared memory area and the
//! control protocol. Plain data, no behaviour; every other crate may depend on this one and it depends on none of them.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod addr;
pub mod control;
pub mod errno;
pub mod ids;
pub mod shared;
pub mod time;

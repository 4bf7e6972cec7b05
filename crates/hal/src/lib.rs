//! The machine as the kernel sees it: one small trait, implemented by the bare metal (`shimos-machine`) and by the
//! simulator (`shimos-soft`). Everything above is safe code and the same on both (D4, D5).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod check;
pub mod cpu;
pub mod fence;
pub mod machine;

pub use cpu::{Access, Fpu, Regs, Trap};
pub use fence::Fenced;
pub use machine::{Events, FrameSource, Identity, Machine, Mapping, OutOfFrames, Rights, Scrub, UserClock};

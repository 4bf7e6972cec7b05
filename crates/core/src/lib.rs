//! The kernel: programs and their system calls, virtual devices, checkpoints and takeovers, and the event loop that ties them
//! together. Generic over [`shimos_hal::Machine`]: the same code runs on bare metal and in the simulator.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod accounting;
mod accusations;
mod alarms;
mod bench;
mod blocks;
mod census;
mod content;
mod context;
mod control;
mod control_daemon;
mod create;
mod daemon;
mod damage;
mod delivery;
mod device;
mod devpts;
mod drain;
mod event;
mod exceptions;
mod exec;
mod files;
mod frame;
mod guilt;
#[cfg(feature = "inspect")]
pub mod inspect;
mod ipc;
mod jobs;
mod join;
mod kernel;
mod levels;
mod load;
mod locks;
mod moves;
mod names;
mod netlink;
mod notice;
mod numbered;
mod orders;
mod past;
mod pending;
mod pipe;
mod policy;
mod pressure;
mod proc;
pub mod process;
mod program;
mod protect;
mod readiness;
mod records;
mod release;
mod requests;
mod reset;
mod resident;
mod rights;
mod rollback;
mod run;
mod run_queue;
mod sampling;
mod saving;
mod services;
pub mod sharing;
mod signal;
mod status;
mod syscall;
mod table;
mod takeover;
mod terminal;
mod thread;
mod timers;
mod transfer;
mod tty;
mod turns;
mod unix;
mod user_memory;
mod vdso;

pub use kernel::{BootConfig, Kernel};
pub use syscall::{Call, IMPLEMENTED as IMPLEMENTED_CALLS};

/// Version and build of this kernel, as it announces itself.
pub const BUILD: &str = concat!("shimos ", env!("CARGO_PKG_VERSION"));

//! The host side of Shimos: builds what a machine needs, boots it in an emulator, drives and watches it.
//!
//! The `shimos` tool is a thin command line over this library; the whole-machine tests use it too.
#![forbid(unsafe_code)]

pub mod accelerator;
pub mod artifacts;
pub mod bench;
pub mod campaign;
pub mod children;
pub mod cli;
pub mod commands;
pub mod compat;
pub mod console;
pub mod control;
pub mod counter;
pub mod demo;
pub mod disk;
pub mod download;
pub mod dump;
pub mod events;
pub mod exclusive;
pub mod fate;
pub mod faults;
pub mod image;
pub mod images;
pub mod linux;
pub mod loads;
pub mod logs;
pub mod machine;
pub mod moves;
pub mod names;
pub mod packages;
pub mod paths;
pub mod policy;
pub mod programs;
pub mod protection;
pub mod ps;
pub mod qmp;
pub mod recovery;
pub mod registry;
pub mod resets;
pub mod run;
pub mod run_args;
pub mod saved;
pub mod session;
pub mod signals;
pub mod soak;
pub mod status;
pub mod stop;
pub mod terminal;
pub mod testing;
pub mod units;
pub mod usage;
pub mod versus;
pub mod wire;

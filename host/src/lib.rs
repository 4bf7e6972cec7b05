//! The host side of Shimos: builds what a machine needs, boots it in an emulator, drives and watches it.
//!
//! The `shimos` tool is a thin command line over this library; the whole-machine tests use it too.
#![forbid(unsafe_code)]

pub mod accelerator;
pub mod artifacts;
pub mod bench;
pub mod children;
pub mod cli;
pub mod commands;
pub mod console;
pub mod control;
pub mod counter;
pub mod demo;
pub mod disk;
pub mod download;
pub mod image;
pub mod images;
pub mod linux;
pub mod machine;
pub mod names;
pub mod packages;
pub mod paths;
pub mod qmp;
pub mod recovery;
pub mod registry;
pub mod status;
pub mod testing;
pub mod units;
pub mod usage;
pub mod versus;

//! A machine that runs Debian's own Linux kernel in the same emulator: to compare with, and as a peer in tests.
//!
//! ```no_run
//! # fn example(paths: &shimos::paths::Paths) -> anyhow::Result<()> {
//! use shimos::linux::{Linux, Options};
//! use std::time::Duration;
//! let mut linux = Linux::boot(paths, Options::default(), Duration::from_secs(120))?;
//! let said = linux.run("uname -r", Duration::from_secs(10))?;
//! println!("{:?}", said.lines);
//! # Ok(())
//! # }
//! ```
mod cpio;
mod files;
mod machine;
mod modules;
mod options;

pub use files::{Files, make};
pub use machine::{Answer, Linux};
pub use options::{Options, arguments};

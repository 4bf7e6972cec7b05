//! The daemons of every kernel (paper 2.3): timer daemon, monitor daemon, election, and what follows a death: the
//! fencing ladder, the takeover of programs and devices, and the restart of the core.
//!
//! Pure state machines: they are given what the shared area says ([`View`]) and the time, and give back what to do.
//! They keep nothing that a successor could not find again in the shared words, so a monitor may die at any step of a
//! recovery and the next one goes on.
//!
//! ```text
//! Watching -> (probe) -> Fencing -> Fenced: takeovers -> restart -> Booting -> Watching
//!                           |                                         |
//!                           +-> Retired (cannot be fenced)            +-> Fencing ... -> Retired (does not come up)
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod action;
pub mod config;
mod core_state;
pub mod daemon;
pub mod history;
pub mod ladder;
pub mod timer;
pub mod view;
pub mod watch;
mod work;

pub use action::{Action, Freed, Refusal, Work};
pub use config::Config;
pub use daemon::MonitorDaemon;
pub use shimos_ikc::commons::{Claim, Drained, Election, Home};
pub use timer::{TimerDaemon, TimerTurn};
pub use view::{KernelView, Phase, View};

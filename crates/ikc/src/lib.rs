//! Inter-kernel communication (paper 2.4) over the words of the shared memory area: packets and packet queues, the
//! monitoring table, published status, log, death record, and the words that kernels change by compare-and-swap.
//!
//! Every word has one writer, but for the commons, and whatever a peer writes is taken for hostile: it is copied
//! first and checked then, and what is wrong costs the link to that peer and nothing else (D7).
//!
//! * [`Area`]: reads anything of any kernel, and changes the commons.
//! * [`Endpoint`]: writes the outgoing part of this kernel; sends and receives packets.
#![no_std]
#![forbid(unsafe_code)]
#![allow(unexpected_cfgs, reason = "cfg(loom) is given by hand to run the models")]

extern crate alloc;

pub mod area;
pub mod commons;
pub mod death;
pub mod endpoint;
pub mod log;
mod packet;
pub mod polling;
pub mod ring;
pub mod seqlock;
mod sync;
pub mod warm;

pub use area::Area;
pub use commons::{Claim, Drained, Election, Home, Quarantine, Rebooting};
pub use death::DeathRecord;
pub use endpoint::{Endpoint, LinkFault, Notify, Received, SendError};
pub use packet::MAX_PAYLOAD;

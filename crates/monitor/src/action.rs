//! What the monitor daemon asks its kernel to do. Every action may be done twice, or late, without harm.
use crate::{Claim, Home};
use alloc::string::String;
use minicbor::{Decode, Encode};
use shimos_abi::{
    control::Device,
    ids::{KernelId, Life, ProgramId},
};

/// What a target is asked to take over from a dead life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub enum Work {
    /// Drive this device: reset it, wait for the reset to be confirmed, move the owner word.
    #[n(0)]
    Device(#[n(0)] Device),
    /// Run this program on from its image: move the home word.
    #[n(1)]
    Program(#[n(0)] ProgramId),
}

/// Why a target does not do it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Refusal {
    /// It has no room for it.
    #[n(0)]
    NoRoom,
    /// There is no image that can be read.
    #[n(1)]
    BadImage,
    /// The device did not confirm its reset, or cannot be reached.
    #[n(2)]
    Device,
    /// Not now, for another reason.
    #[n(3)]
    Busy,
}

/// Why a home word is freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freed {
    /// There was no checkpoint of the program: it died with its kernel.
    Unsaved,
    /// No kernel can read its image.
    Lost,
    /// Too many kernels in a row have died under it before they had committed a checkpoint of it.
    Deadly,
}

/// One thing to do. Before each, ask [`crate::MonitorDaemon::permits`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Say that this kernel is to give up the memory that its devices may write, and to be restarted: nobody gets their
    /// reset confirmed.
    Quarantine(KernelId),
    /// Write the acknowledged timestamp of `kernel`.
    Acknowledge {
        /// Whose.
        kernel: KernelId,
        /// The stamp that was seen.
        stamp: u64,
    },
    /// Compare-and-swap the recovery claim.
    Claim {
        /// Whose mailbox.
        kernel: KernelId,
        /// What was seen.
        from: Claim,
        /// What to put.
        to: Claim,
    },
    /// Send a non-maskable interrupt, without touching the fence word.
    Probe(KernelId),
    /// Send the message that asks this life to park itself.
    AskToPark(Life),
    /// Write the fence word, then send the non-maskable interrupt.
    Nmi(Life),
    /// Write the fence word, then send INIT and SIPI into the park stub.
    Init(Life),
    /// Restart command to `target`: take `work` over from the dead life `from`. If `target` is this kernel, do it here.
    /// The target checks that `term` still is the term of the election word, and proves the fence for itself.
    Order {
        /// What.
        work: Work,
        /// From whom.
        from: Life,
        /// By whom.
        target: Life,
        /// In which term it was said.
        term: u32,
    },
    /// Free a program's home word by compare-and-swap from `home`.
    FreeHome {
        /// Which.
        program: ProgramId,
        /// What was seen.
        home: Home,
        /// Why.
        why: Freed,
    },
    /// If the machine confirms that this life is parked, re-initialise its core and boot the next incarnation.
    /// Packets in flight to it may be forgotten.
    Restart(Life),
    /// Write a line to the log.
    Log(String),
}

impl Action {
    /// The life that the action could hurt, if it came late.
    pub const fn hurts(&self) -> Option<Life> {
        match self {
            Action::AskToPark(life) | Action::Nmi(life) | Action::Init(life) | Action::Restart(life) => Some(*life),
            _ => None,
        }
    }
}

//! What kernels and the owner of the console tell each other.
use alloc::{string::String, vec::Vec};
use minicbor::{Decode, Encode};
use shimos_abi::ids::ProgramId;

/// A console packet.
#[derive(Debug, Encode, Decode)]
pub(super) enum Packet {
    /// A line of a kernel.
    #[n(0)]
    Kernel(#[n(0)] String),
    /// Output of a program.
    #[n(1)]
    Output {
        #[n(0)]
        program: ProgramId,
        #[n(1)]
        name: String,
        /// Place of the first byte in the program's stream.
        #[n(2)]
        at: u64,
        #[cbor(n(3), with = "minicbor::bytes")]
        bytes: Vec<u8>,
        /// Which stream of this program id it is: when the program started.
        #[n(4)]
        stream: u64,
        /// What the sender knows of it.
        #[n(5)]
        known: Known,
    },
    /// A stream of a program has ended.
    #[n(2)]
    End {
        #[n(0)]
        program: ProgramId,
        #[n(1)]
        stream: u64,
    },
}

/// What the sender of a piece knows of its stream.
#[derive(Clone, Copy, Debug, Encode, Decode)]
pub(super) struct Known {
    /// What is before this place is printed.
    #[n(0)]
    pub printed: u64,
    /// Nothing was ever written from this place on.
    #[n(1)]
    pub written: u64,
}

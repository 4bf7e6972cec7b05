//! A machine's policy, as the control protocol carries it: text that tools read, and kernels only keep.
use alloc::vec::Vec;
use minicbor::{Decode, Encode};

/// Longest text, in bytes.
pub const MAX_POLICY: usize = 16 * 1024;
/// Bytes of a part: a request or an answer with one fits into a packet between kernels.
pub const PART: usize = 1536;

/// A part of the text.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Part {
    /// Bytes of the whole text; 0 if there is no policy.
    #[n(0)]
    pub total: u32,
    /// CRC-32 of the whole text.
    #[n(1)]
    pub checksum: u32,
    /// The place of the first byte.
    #[n(2)]
    pub from: u32,
    /// The bytes.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
}

//! What the programs inside Shimos share: messages behind a length, and the device `/dev/shimos`.
#![deny(unsafe_code)]

pub mod device;
pub mod framing;
pub mod raw;

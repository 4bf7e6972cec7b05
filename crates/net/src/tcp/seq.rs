//! Sequence numbers: they wrap around, so only distances have an order.
use core::ops::Add;
use minicbor::{Decode, Encode};
use shimos_abi::flat;

/// A sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct Seq(#[n(0)] pub u32);

flat!(Seq { 0 });

impl Seq {
    /// How far this is after `other`; negative if before.
    pub fn since(self, other: Seq) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }

    pub fn before(self, other: Seq) -> bool {
        self.since(other) < 0
    }

    pub fn after(self, other: Seq) -> bool {
        self.since(other) > 0
    }

    pub fn max(self, other: Seq) -> Seq {
        if self.after(other) { self } else { other }
    }

    pub fn min(self, other: Seq) -> Seq {
        if self.before(other) { self } else { other }
    }

    /// The number `count` before.
    pub fn back(self, count: u32) -> Seq {
        Seq(self.0.wrapping_sub(count))
    }
}

impl Add<u32> for Seq {
    type Output = Seq;
    fn add(self, count: u32) -> Seq {
        Seq(self.0.wrapping_add(count))
    }
}

//! Time: nanoseconds since the machine started, one clock for all kernels (D13).
use core::{
    fmt,
    ops::{Add, Sub},
};
use minicbor::{Decode, Encode};

/// A point on the machine's monotonic clock, or a span of it, in nanoseconds. Arithmetic saturates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode, Default)]
#[cbor(transparent)]
pub struct Nanos(#[n(0)] pub u64);

impl Nanos {
    /// Later than any time that will come.
    pub const NEVER: Nanos = Nanos(u64::MAX);
    /// `n` microseconds.
    pub const fn micros(n: u64) -> Nanos {
        Nanos(n.saturating_mul(1_000))
    }
    /// `n` milliseconds.
    pub const fn millis(n: u64) -> Nanos {
        Nanos(n.saturating_mul(1_000_000))
    }
    /// `n` seconds.
    pub const fn secs(n: u64) -> Nanos {
        Nanos(n.saturating_mul(1_000_000_000))
    }
    /// `n` times this span.
    pub const fn times(self, n: u64) -> Nanos {
        Nanos(self.0.saturating_mul(n))
    }
}

impl Add for Nanos {
    type Output = Nanos;
    fn add(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(other.0))
    }
}

impl Sub for Nanos {
    type Output = Nanos;
    fn sub(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000_000, self.0 / 1_000 % 1_000_000)
    }
}

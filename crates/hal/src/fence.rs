//! Proof that a kernel runs no more.
use shimos_abi::ids::Life;

/// Proof that the core of one life of one kernel is parked and executes nothing of that kernel (D8).
///
/// Mapping a dead kernel's memory, taking its programs over and restarting its core all demand it. Only a machine makes
/// one, in [`crate::Machine::confirm_parked`], from the parked core's own acknowledgement. It stays true until the core is
/// restarted, and that consumes it.
#[derive(PartialEq, Eq, Debug)]
pub struct Fenced(Life);

impl Fenced {
    /// For implementations of [`crate::Machine`] alone: `life`'s core has acknowledged that it is parked.
    pub const fn acknowledged(life: Life) -> Fenced {
        Fenced(life)
    }
    /// The life that has ended.
    pub const fn life(&self) -> Life {
        self.0
    }
}

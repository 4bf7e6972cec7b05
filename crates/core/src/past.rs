//! What the life before this one told of deaths and takeovers. It lies in this kernel's part of the shared area until this life
//! publishes, so a record of a death outlives the kernel that led the recovery, and a reset of the machine.
//!
//! It is for people alone: it is read like anything else that a dead kernel has left, and nothing is decided by it.
use alloc::{format, string::String, vec::Vec};
use shimos_abi::{
    control::{Cause, Published, Recovery, Takeover},
    ids::KernelId,
    time::Nanos,
};
use shimos_ikc::Area;

/// How many of each are kept.
const KEPT: usize = 16;
/// Bytes of a message that are kept.
const WORDS: usize = 200;

/// See the module.
#[derive(Default)]
pub(crate) struct Past {
    pub recoveries: Vec<Recovery>,
    pub takeovers: Vec<Takeover>,
}

impl Past {
    /// What is told in the part of `kernel`, before its new life writes there.
    pub fn of(area: Area, kernel: KernelId) -> Past {
        let told = area.read_published(kernel).and_then(|bytes| minicbor::decode::<Published>(&bytes).ok());
        let Published { mut recoveries, mut takeovers, .. } = told.unwrap_or_default();
        takeovers.retain(|takeover| takeover.cause == Cause::Death && takeover.first_instruction != Nanos(0));
        recoveries.drain(..recoveries.len().saturating_sub(KEPT));
        takeovers.drain(..takeovers.len().saturating_sub(KEPT));
        for recovery in &mut recoveries {
            shorten(&mut recovery.message);
            if recovery.rejoined == Nanos(0) && recovery.waiting.is_none() {
                recovery.waiting = Some(format!("{kernel}, which led this recovery, died in it"));
            }
        }
        Past { recoveries, takeovers }
    }
}

fn shorten(text: &mut String) {
    while text.len() > WORDS {
        text.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shimos_abi::{
        control::{DeathCause, DetectedBy, FencedBy},
        ids::{Incarnation, Life},
        shared::Layout,
    };
    use shimos_ikc::Endpoint;

    #[test]
    fn what_a_life_told_outlives_it() {
        let layout = Layout::new(2);
        let words: Vec<_> = (0..layout.words()).map(|_| Default::default()).collect();
        let words = words.leak();
        let life = |kernel, incarnation| Life { kernel: KernelId(kernel), incarnation: Incarnation(incarnation) };
        let recovery = |incarnation, rejoined| Recovery {
            dead: life(1, incarnation),
            cause: DeathCause::Panic,
            message: "x".repeat(1000),
            detected_by: DetectedBy::DeathRecord,
            monitor: KernelId(0),
            died: Nanos(1),
            detected: Nanos(2),
            fenced: Nanos(3),
            fenced_by: FencedBy::Itself,
            taken_over: Nanos(4),
            restarted: Nanos(5),
            rejoined: Nanos(rejoined),
            waiting: None,
        };
        let mut first = Endpoint::new(words, layout, life(0, 1));
        let told = Published {
            recoveries: (1..=20).map(|n| recovery(n, u64::from(n % 20))).collect(),
            ..Published::default()
        };
        assert!(first.publish(&minicbor::to_vec(&told).unwrap()));
        let second = Endpoint::new(words, layout, life(0, 2));
        let past = Past::of(second.area(), KernelId(0));
        assert_eq!(past.recoveries.len(), KEPT);
        assert_eq!(past.recoveries.last().map(|it| it.dead), Some(life(1, 20)));
        assert!(past.recoveries.iter().all(|it| it.message.len() == WORDS));
        let open: Vec<Life> = past.recoveries.iter().filter(|it| it.waiting.is_some()).map(|it| it.dead).collect();
        assert_eq!(open, [life(1, 20)]);
        // Nothing is there that can be read.
        assert!(Past::of(second.area(), KernelId(1)).recoveries.is_empty());
    }
}

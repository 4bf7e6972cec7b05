//! The records of recoveries: for people and for measurements, never for decisions.
use alloc::{
    collections::VecDeque,
    string::{String, ToString},
};
use shimos_abi::{
    control::{DeathCause, DetectedBy, FencedBy, Recovery},
    ids::{KernelId, Life},
    time::Nanos,
};
use shimos_ikc::DeathRecord;

/// How many are kept.
const KEPT: usize = 16;

/// The latest recoveries that this kernel's monitor daemon led.
#[derive(Clone, Debug, Default)]
pub struct History(VecDeque<Recovery>);

impl History {
    /// All, the latest last.
    pub fn iter(&self) -> impl Iterator<Item = &Recovery> {
        self.0.iter()
    }
    /// The record of a dead life.
    pub fn of(&mut self, dead: Life) -> Option<&mut Recovery> {
        self.0.iter_mut().rev().find(|record| record.dead == dead)
    }
    /// Notes where everything has a new home by now: `left` says whether a kernel left something that has none.
    pub fn settle(&mut self, left: impl Fn(KernelId) -> bool, now: Nanos) {
        let open = |r: &&mut Recovery| r.fenced != Nanos(0) && r.taken_over == Nanos(0);
        for record in self.0.iter_mut().filter(open) {
            if !left(record.dead.kernel) {
                record.taken_over = now;
                record.waiting = None;
            }
        }
    }
    /// Opens the record of a dead life, or finds the one that is open. `record` is its death record, if it left one.
    pub fn open(
        &mut self,
        dead: Life,
        monitor: KernelId,
        record: Option<&DeathRecord>,
        last_stamp: Nanos,
        now: Nanos,
    ) -> Option<&mut Recovery> {
        if self.of(dead).is_none() {
            // One that was parked by force left a record too, but it was not that which told of its end.
            let told = record.is_some_and(|r| r.cause != DeathCause::Hang);
            if self.0.len() >= KEPT {
                self.0.pop_front();
            }
            self.0.push_back(Recovery {
                dead,
                cause: record.map_or(DeathCause::Hang, |r| r.cause),
                message: record.map_or(String::new(), |r| r.message.to_string()),
                detected_by: if told { DetectedBy::DeathRecord } else { DetectedBy::Heartbeat },
                monitor,
                died: record.map_or(last_stamp, |r| r.time),
                detected: now,
                fenced: Nanos(0),
                fenced_by: FencedBy::Itself,
                taken_over: Nanos(0),
                restarted: Nanos(0),
                rejoined: Nanos(0),
                waiting: None,
            });
        }
        self.of(dead)
    }
}

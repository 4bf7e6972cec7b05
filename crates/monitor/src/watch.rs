//! Watching one kernel's timestamps, by change and by the watcher's own clock (D9).
use crate::{Config, KernelView};
use shimos_abi::{ids::Incarnation, time::Nanos};

/// How often in a row a stall of the watcher excuses the watched.
const EXCUSES: u32 = 2;

/// What the watcher makes of a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It makes progress, as far as is known.
    Fine,
    /// It is suspected; wait for more.
    Suspect,
    /// It is suspected: send a probe now.
    Probe,
    /// It answers probes, and makes no progress.
    Hung,
    /// It answers nothing.
    Silent,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doubt {
    None,
    /// A probe was sent, the count of answers was this; so many were answered before.
    Probed {
        at: Nanos,
        count: u64,
        answers: u32,
    },
    /// A probe was answered then; wait for progress.
    Answered {
        at: Nanos,
    },
}

/// How long the watcher was away since it last looked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gap {
    /// Not longer than it should.
    Usual,
    /// Longer: it cannot tell whether others stood still as well.
    Stalled,
}

/// The watch over one incarnation of one kernel.
#[derive(Clone, Debug)]
pub struct Watch {
    incarnation: Incarnation,
    stamp: u64,
    /// When the stamp was seen to change.
    changed: Nanos,
    /// When the stamp was last counted as missed or not.
    counted: Nanos,
    misses: u32,
    excuses: u32,
    doubt: Doubt,
}

impl Watch {
    /// Starts to watch.
    pub fn new(incarnation: Incarnation, stamp: u64, now: Nanos) -> Watch {
        Watch { incarnation, stamp, changed: now, counted: now, misses: 0, excuses: 0, doubt: Doubt::None }
    }
    /// The same, of a kernel that others have missed before: one more interval makes a suspicion.
    pub fn doubtful(self, config: &Config) -> Watch {
        Watch { misses: config.missed.saturating_sub(1), ..self }
    }
    /// Who is watched.
    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }
    /// When its stamp last changed.
    pub const fn changed(&self) -> Nanos {
        self.changed
    }
    /// Whether nothing speaks against it: only such a kernel is given work.
    pub fn trusted(&self) -> bool {
        self.misses < 2 && self.doubt == Doubt::None
    }

    /// Looks once.
    pub fn look(&mut self, seen: &KernelView, now: Nanos, interval: Nanos, gap: Gap, config: &Config) -> Verdict {
        if seen.stamp != self.stamp {
            *self = Watch::new(self.incarnation, seen.stamp, now);
            return Verdict::Fine;
        }
        if gap == Gap::Stalled && self.excuses < EXCUSES {
            self.excuses += 1;
            self.misses = 0;
            self.counted = now;
            self.doubt = Doubt::None;
            return Verdict::Fine;
        }
        match self.doubt {
            Doubt::None => {
                if now >= self.counted + interval {
                    self.counted = now;
                    self.misses += 1;
                }
                // The first probe goes out an interval early, so that its second answer falls into the last one.
                if self.misses + 1 < config.missed {
                    return Verdict::Fine;
                }
                self.doubt = Doubt::Probed { at: now, count: seen.probed, answers: 0 };
                Verdict::Probe
            }
            Doubt::Probed { count, answers, .. } if seen.probed != count => {
                // Two answers with an interval between them: it did run in that time, and got nowhere.
                if answers > 0 {
                    return Verdict::Hung;
                }
                self.doubt = Doubt::Answered { at: now };
                Verdict::Suspect
            }
            Doubt::Probed { at, .. } => {
                if now >= at + config.stall_grace {
                    Verdict::Silent
                } else {
                    Verdict::Suspect
                }
            }
            Doubt::Answered { at } => {
                if now < at + interval.max(config.probe_gap) {
                    return Verdict::Suspect;
                }
                self.doubt = Doubt::Probed { at: now, count: seen.probed, answers: 1 };
                Verdict::Probe
            }
        }
    }
}

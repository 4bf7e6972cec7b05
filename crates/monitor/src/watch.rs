//! Watching one kernel's timestamps, by change and by the watcher's own clock (D9).
use crate::{Config, KernelView};
use shimos_abi::{ids::Incarnation, time::Nanos};

/// How often in a row a stall of the watcher excuses the watched.
const EXCUSES: u32 = 2;
/// Looks in the gap before the verdict, after the last probe.
const LAST_LOOKS: u64 = 10;

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
    /// A first probe was sent, the count of answers was this.
    Probed {
        at: Nanos,
        count: u64,
    },
    /// The first probe, sent then, was answered; wait for progress.
    Answered {
        at: Nanos,
    },
    /// The last probe was sent.
    ProbedAgain {
        at: Nanos,
        count: u64,
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
    /// When it was last looked at.
    looked: Nanos,
    /// The time from which the next interval without a stamp counts.
    counted: Nanos,
    misses: u32,
    excuses: u32,
    doubt: Doubt,
}

impl Watch {
    /// Starts to watch.
    pub fn new(incarnation: Incarnation, stamp: u64, now: Nanos) -> Watch {
        Watch { incarnation, stamp, changed: now, looked: now, counted: now, misses: 0, excuses: 0, doubt: Doubt::None }
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

    /// When to look again at the latest.
    pub fn next(&self, now: Nanos, interval: Nanos, config: &Config) -> Nanos {
        match self.doubt {
            // An interval has passed without a stamp: the end of the next one is looked at when it is there.
            Doubt::None if self.misses > 0 => (self.counted + interval).clamp(now, now + interval),
            Doubt::None => now + interval,
            Doubt::Probed { .. } | Doubt::Answered { .. } => now + interval.min(config.probe_gap),
            Doubt::ProbedAgain { .. } => now + interval.min(Nanos(config.probe_gap.0 / LAST_LOOKS)),
        }
    }

    /// Looks once.
    pub fn look(&mut self, seen: &KernelView, now: Nanos, interval: Nanos, gap: Gap, config: &Config) -> Verdict {
        let before = core::mem::replace(&mut self.looked, now);
        if seen.stamp != self.stamp {
            *self = Watch::new(self.incarnation, seen.stamp, now);
            // It changed between the last look and this one: within that what the kernel says of the time is believed.
            self.counted = seen.stamp_time.clamp(before.min(now), now).max(now - interval);
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
                    self.counted = (self.counted + interval).max(now - interval);
                    self.misses += 1;
                }
                // The first probe goes out an interval early, so that the answer to the last one falls to the end of that.
                if self.misses + 1 < config.missed {
                    return Verdict::Fine;
                }
                self.doubt = Doubt::Probed { at: now, count: seen.probed };
                Verdict::Probe
            }
            Doubt::Probed { at, count } if seen.probed != count => {
                self.doubt = Doubt::Answered { at };
                Verdict::Suspect
            }
            Doubt::Answered { at } => {
                if now + config.probe_gap < at + interval.max(config.probe_gap.times(2)) {
                    return Verdict::Suspect;
                }
                self.doubt = Doubt::ProbedAgain { at: now, count: seen.probed };
                Verdict::Probe
            }
            // Two answers with an interval between them: it did run in that time, and got nowhere.
            Doubt::ProbedAgain { count, .. } if seen.probed != count => {
                if now < self.counted + interval {
                    Verdict::Suspect
                } else {
                    Verdict::Hung
                }
            }
            Doubt::Probed { at, .. } | Doubt::ProbedAgain { at, .. } => {
                if now >= at + config.stall_grace {
                    Verdict::Silent
                } else {
                    Verdict::Suspect
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Drained;
    use shimos_abi::control::KernelState;
    use shimos_ikc::Claim;

    const INTERVAL: Nanos = Nanos::millis(100);

    fn seen(stamp: u64, stamp_time: Nanos, probed: u64) -> KernelView {
        KernelView {
            incarnation: Some(Incarnation(1)),
            state: KernelState::Running,
            stamp,
            stamp_time,
            load: 0,
            free_frames: 0,
            parked: None,
            command: None,
            probed,
            claim: Claim::default(),
            drained: Drained::No,
        }
    }

    /// Looks whenever it wants to, from `from` on, at a kernel that stamps no more and answers probes or not. Returns the verdict
    /// that ends that, and when.
    fn judged(watch: &mut Watch, stamp: (u64, Nanos), from: Nanos, answers: u64) -> (Verdict, Nanos) {
        let config = Config::default();
        let (mut now, mut probed) = (from, 0);
        for _ in 0..1000 {
            match watch.look(&seen(stamp.0, stamp.1, probed), now, INTERVAL, Gap::Usual, &config) {
                Verdict::Probe => probed += answers,
                Verdict::Fine | Verdict::Suspect => {}
                verdict => return (verdict, now),
            }
            let next = watch.next(now, INTERVAL, &config);
            assert!(next > now, "at {now} it looks at {next}");
            now = next;
        }
        panic!("no verdict until {now}");
    }

    #[test]
    fn a_hang_is_noticed_three_intervals_after_the_last_stamp() {
        // The watcher looks at any time after a stamp.
        for after in [0, 1, 20, 50, 80, 99] {
            let last = Nanos::secs(5);
            let before = last + Nanos::millis(after) - INTERVAL;
            let mut watch = Watch::new(Incarnation(1), 6, before);
            let (verdict, at) = judged(&mut watch, (7, last), last + Nanos::millis(after), 1);
            assert_eq!(verdict, Verdict::Hung);
            let late = at - (last + INTERVAL.times(3));
            assert!(
                at >= last + INTERVAL.times(3) && late <= Nanos::millis(2),
                "{late} late, looking {after} ms after"
            );
        }
    }

    #[test]
    fn what_answers_nothing_is_given_time() {
        let last = Nanos::secs(5);
        let mut watch = Watch::new(Incarnation(1), 6, last - INTERVAL);
        let (verdict, at) = judged(&mut watch, (7, last), last, 0);
        assert_eq!(verdict, Verdict::Silent);
        assert!(at >= last + INTERVAL.times(2) + Config::default().stall_grace);
    }

    #[test]
    fn a_stamp_from_any_time_but_since_the_last_look_is_not_believed() {
        let last = Nanos::secs(5);
        for lie in [Nanos(0), last - Nanos::millis(1), Nanos::secs(500), Nanos::NEVER] {
            let mut watch = Watch::new(Incarnation(1), 6, last);
            let now = last + Nanos::millis(60);
            let (verdict, at) = judged(&mut watch, (7, lie), now, 1);
            assert_eq!(verdict, Verdict::Hung);
            assert!(
                at >= last + INTERVAL.times(3) && at <= now + INTERVAL.times(3) + Nanos::millis(2),
                "{at} for {lie}"
            );
        }
    }

    #[test]
    fn a_stamp_ends_every_doubt() {
        let config = Config::default();
        let mut watch = Watch::new(Incarnation(1), 6, Nanos(0));
        for (millis, verdict) in [(100, Verdict::Fine), (200, Verdict::Probe), (205, Verdict::Suspect)] {
            let now = Nanos::millis(millis);
            let answers = u64::from(millis > 200);
            assert_eq!(watch.look(&seen(6, Nanos(0), answers), now, INTERVAL, Gap::Usual, &config), verdict);
        }
        assert!(!watch.trusted());
        let now = Nanos::millis(299);
        assert_eq!(watch.look(&seen(7, now, 1), now, INTERVAL, Gap::Usual, &config), Verdict::Fine);
        assert!(watch.trusted());
    }
}

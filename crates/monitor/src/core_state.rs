//! The recovery of one core, from the first doubt to its return.
use crate::{
    Action, Claim, Config, KernelView, Phase, View,
    history::History,
    ladder::{Belief, Ladder, Move},
    watch::{Gap, Verdict, Watch},
    work::{Blocks, WorkList},
};
use alloc::{format, string::String, vec::Vec};
use shimos_abi::{
    control::{DeathCause, Recovery},
    ids::{Incarnation, KernelId, Life},
    time::Nanos,
};
use shimos_ikc::DeathRecord;

/// How long after a restart command it is given again, if nothing is seen of it.
const REPEAT: Nanos = Nanos::millis(100);
/// How often the parked word of a core that is being fenced is looked at.
const FENCE_POLL: Nanos = Nanos::micros(100);
/// How often the home words are looked at while takeovers go on.
const WORK_POLL: Nanos = Nanos::millis(1);

/// What a step needs to know.
pub struct Context<'a, V> {
    pub view: &'a V,
    pub me: KernelId,
    pub term: u32,
    pub now: Nanos,
    pub interval: Nanos,
    pub gap: Gap,
    pub config: &'a Config,
    pub works: &'a WorkList,
    pub history: &'a mut History,
    pub out: &'a mut Vec<Action>,
}

#[derive(Clone, Debug)]
enum Stage {
    Watching(Watch),
    Fencing(Ladder),
    Fenced {
        life: Life,
        since: Nanos,
        restart: Nanos,
    },
    Booting {
        life: Life,
        since: Nanos,
    },
    Unfenceable {
        life: Life,
        retry: Nanos,
    },
    /// It does not come up.
    Retired,
}

/// One core as the active monitor sees it.
#[derive(Clone, Debug)]
pub struct CoreState {
    kernel: KernelId,
    stage: Stage,
    /// Failed boots in a row.
    failures: u32,
    /// When it came up last.
    up_since: Nanos,
    /// The life whose recovery is going on.
    recovering: Option<Life>,
}

impl CoreState {
    /// A core of which only the words are known. `failed` is the monitor that was superseded because it acknowledged
    /// no more.
    pub fn new(
        kernel: KernelId,
        seen: &KernelView,
        phase: Phase,
        failed: Option<KernelId>,
        now: Nanos,
        c: &Config,
    ) -> Self {
        let life = |incarnation| Life { kernel, incarnation };
        let watch = Watch::new(phase.incarnation(), seen.stamp, now);
        let watch = if failed == Some(kernel) { watch.doubtful(c) } else { watch };
        let stage = match phase {
            Phase::Booting(i) => Stage::Booting { life: life(i), since: now },
            Phase::Running(_) | Phase::Dead(_) | Phase::Parked(_) => Stage::Watching(watch),
        };
        CoreState { kernel, stage, failures: 0, up_since: Nanos(0), recovering: None }
    }

    /// The life that may be given work, if this kernel may.
    pub fn trusted(&self) -> Option<Life> {
        match &self.stage {
            Stage::Watching(watch) if watch.trusted() => {
                Some(Life { kernel: self.kernel, incarnation: watch.incarnation() })
            }
            _ => None,
        }
    }
    /// Whether it is on its way up.
    pub fn is_coming(&self) -> bool {
        matches!(self.stage, Stage::Booting { .. })
    }
    /// When to look again at the latest.
    pub fn next(&self, now: Nanos, interval: Nanos, config: &Config) -> Nanos {
        now + match &self.stage {
            Stage::Watching(watch) => watch.next(now, interval, config) - now,
            Stage::Fencing(ladder) => FENCE_POLL.min(ladder.until() - now).max(Nanos::micros(50)),
            Stage::Fenced { .. } => WORK_POLL,
            Stage::Booting { .. } => interval.min(Nanos::millis(20)),
            Stage::Unfenceable { .. } | Stage::Retired => interval,
        }
    }

    /// One step.
    pub fn step<V: View>(&mut self, seen: &KernelView, phase: Phase, x: &mut Context<'_, V>) {
        let life = Life { kernel: self.kernel, incarnation: phase.incarnation() };
        match (&mut self.stage, phase) {
            (Stage::Retired, _) => {}
            (Stage::Unfenceable { life: old, retry }, Phase::Booting(_) | Phase::Running(_) | Phase::Dead(_)) => {
                if x.now >= *retry {
                    let old = *old;
                    self.fence(old, Belief::Unresponsive, seen, x);
                }
            }
            (Stage::Fenced { .. }, Phase::Parked(_)) => self.restart(life, seen, x),
            (_, Phase::Parked(_)) => self.fenced(life, x),
            (Stage::Watching(watch), Phase::Booting(i)) if watch.incarnation() != i => {
                self.stage = Stage::Booting { life, since: x.now };
            }
            // One that ran does not boot again as the same life, whatever it says: its stamps count.
            (Stage::Watching(watch), Phase::Running(i) | Phase::Booting(i)) => {
                if watch.incarnation() != i {
                    *watch = Watch::new(i, seen.stamp, x.now);
                }
                match watch.look(seen, x.now, x.interval, x.gap, x.config) {
                    Verdict::Fine | Verdict::Suspect => {}
                    Verdict::Probe => x.out.push(Action::Probe(self.kernel)),
                    Verdict::Hung => self.died(life, Belief::Unresponsive, seen, "answers, and makes no progress", x),
                    Verdict::Silent => self.died(life, Belief::Unresponsive, seen, "answers nothing", x),
                }
            }
            (Stage::Watching(_), Phase::Dead(_)) => self.died(life, Belief::Panicked, seen, "left a death record", x),
            // Somebody else has fenced and restarted it.
            (Stage::Fencing(ladder), _) if life.incarnation > ladder.life().incarnation => {
                self.stage = Stage::Booting { life, since: x.now };
            }
            (Stage::Fencing(_), _) => self.climb(seen, x),
            (Stage::Fenced { .. }, _) => self.stage = Stage::Booting { life, since: x.now },
            (Stage::Booting { life: expected, .. }, _) if *expected != life => {
                self.stage = Stage::Booting { life, since: x.now };
            }
            (Stage::Booting { .. }, Phase::Running(_)) => self.came_up(life, seen, x),
            (Stage::Booting { .. }, Phase::Dead(_)) => {
                self.up_since = x.now;
                self.died(life, Belief::Panicked, seen, "died while it booted", x);
            }
            (Stage::Booting { since, .. }, Phase::Booting(_)) => {
                if x.now >= *since + x.config.boot_time {
                    self.up_since = x.now;
                    self.died(life, Belief::Unresponsive, seen, "did not come up", x);
                }
            }
        }
    }

    /// Ends a life that runs.
    pub fn condemn<V: View>(&mut self, life: Life, seen: &KernelView, x: &mut Context<'_, V>) {
        if self.trusted() == Some(life) {
            self.died(life, Belief::Responsive, seen, "is condemned", x);
            self.note(x, |record| record.cause = DeathCause::Requested);
        }
    }

    /// A life has ended, or is taken to have.
    fn died<V: View>(&mut self, life: Life, belief: Belief, seen: &KernelView, how: &str, x: &mut Context<'_, V>) {
        self.count_life(x.now, x.config);
        let death = (belief == Belief::Panicked).then(|| x.view.death(self.kernel)).flatten();
        let death = death.filter(|record| record.incarnation == life.incarnation);
        x.out.push(Action::Log(match &death {
            Some(record) => last_words(life, record),
            None => format!("monitor: {life} {how}"),
        }));
        let record = x.history.open(life, x.me, death.as_ref(), seen.stamp_time, x.now);
        if let (Some(record), None) = (record, death) {
            record.cause = DeathCause::Hang;
            record.message = String::from(how);
        }
        self.recovering = Some(life);
        self.fence(life, belief, seen, x);
    }

    /// A life has ended: a short one counts as a boot that failed.
    fn count_life(&mut self, now: Nanos, config: &Config) {
        if now < self.up_since + config.short_life && self.up_since != Nanos(0) {
            self.failures = self.failures.saturating_add(1);
        } else {
            self.failures = 0;
        }
    }

    fn fence<V: View>(&mut self, life: Life, belief: Belief, seen: &KernelView, x: &mut Context<'_, V>) {
        self.stage = Stage::Fencing(Ladder::new(life, belief, x.now));
        self.climb(seen, x);
    }

    fn climb<V: View>(&mut self, seen: &KernelView, x: &mut Context<'_, V>) {
        let Stage::Fencing(ladder) = &mut self.stage else {
            return;
        };
        let life = ladder.life();
        claim(self.kernel, seen, life.incarnation, x);
        match ladder.step(x.now, x.config) {
            Move::Wait(_) => {}
            Move::Ask => x.out.push(Action::AskToPark(life)),
            Move::Nmi => x.out.push(Action::Nmi(life)),
            Move::Init => x.out.push(Action::Init(life)),
            Move::Unfenceable => {
                self.stage = Stage::Unfenceable { life, retry: x.now + x.config.fence_retry };
                x.out.push(Action::Log(format!("monitor: {life} cannot be fenced; its programs stay where they are")));
                self.note(x, |record| {
                    record.waiting = Some(String::from("the core cannot be fenced; it is tried again"))
                });
            }
        }
    }

    /// The core is proven parked.
    fn fenced<V: View>(&mut self, life: Life, x: &mut Context<'_, V>) {
        if self.recovering.is_none_or(|dead| dead.incarnation != life.incarnation) {
            // Another monitor began this, or the kernel parked before anyone had a doubt.
            self.count_life(x.now, x.config);
            let death = x.view.death(self.kernel).filter(|record| record.incarnation == life.incarnation);
            if let Some(record) = &death {
                x.out.push(Action::Log(last_words(life, record)));
            }
            x.history.open(life, x.me, death.as_ref(), x.now, x.now);
            self.recovering = Some(life);
        }
        let by = match &self.stage {
            Stage::Fencing(ladder) => Some(ladder.last()),
            _ => None,
        };
        let now = x.now;
        self.note(x, |record| {
            record.fenced = now;
            record.waiting = None;
            if let Some(by) = by {
                record.fenced_by = by;
            }
        });
        x.out.push(Action::Log(format!("monitor: {life} is fenced")));
        let delay = match self.failures {
            0 => Nanos(0),
            n => x.config.backoff.times(1 << (n - 1).min(10)),
        };
        self.stage = Stage::Fenced { life, since: now, restart: now + delay };
        if self.failures >= x.config.boot_failures {
            self.stage = Stage::Retired;
            x.out.push(Action::Log(format!("monitor: {} does not come up any more and is retired", self.kernel)));
            self.note(x, |record| record.waiting = Some(String::from("it failed to boot too often and is retired")));
        }
    }

    /// Restarts the core once what it left behind has a home.
    fn restart<V: View>(&mut self, parked: Life, seen: &KernelView, x: &mut Context<'_, V>) {
        let Stage::Fenced { life, since, restart } = &mut self.stage else {
            return;
        };
        if parked.incarnation != life.incarnation {
            *life = parked;
            *since = x.now;
        }
        let now = x.now;
        let blocks = x.works.blocks_restart(self.kernel);
        let wait = match blocks {
            Blocks::Nothing => false,
            Blocks::Program => now < *since + x.config.takeover,
            // What it may write was given up, or is still waited for.
            Blocks::Device => !x.view.is_quarantined(self.kernel),
        };
        let due = !wait && now >= *restart;
        if due {
            *restart = now + REPEAT;
        }
        let why = x.works.waiting(self.kernel);
        self.note(x, |record| record.waiting = why);
        if due {
            // First the claim: whoever goes on from here knows which incarnation counts, whatever the boot leaves in
            // its words.
            let next = Incarnation(parked.incarnation.0.wrapping_add(1));
            claim(self.kernel, seen, next, x);
            x.out.push(Action::Restart(parked));
            self.note(x, |record| record.restarted = now);
        }
    }

    /// A new life says that it runs; its first stamp proves it.
    fn came_up<V: View>(&mut self, life: Life, seen: &KernelView, x: &mut Context<'_, V>) {
        let overdue = matches!(self.stage, Stage::Booting { since, .. } if x.now >= since + x.config.boot_time);
        if seen.stamp == 0 && !overdue {
            return;
        }
        self.up_since = x.now;
        self.stage = Stage::Watching(Watch::new(life.incarnation, seen.stamp, x.now));
        if self.recovering.is_some() {
            x.out.push(Action::Log(format!("monitor: {life} has joined")));
        }
        let now = x.now;
        self.note(x, |record| record.rejoined = now);
        self.recovering = None;
    }

    fn note<V>(&self, x: &mut Context<'_, V>, change: impl FnOnce(&mut Recovery)) {
        if let Some(record) = self.recovering.and_then(|dead| x.history.of(dead)) {
            change(record);
        }
    }
}

/// Takes the recovery claim of `kernel` for this term and `incarnation`, unless it is held so already or by a later
/// term.
fn claim<V>(kernel: KernelId, seen: &KernelView, incarnation: Incarnation, x: &mut Context<'_, V>) {
    let to = Claim { term: x.term, incarnation };
    if seen.claim != to && seen.claim.term <= x.term {
        x.out.push(Action::Claim { kernel, from: seen.claim, to });
    }
}

/// What a dying kernel has left behind, on one line: it may not print that itself.
fn last_words(life: Life, record: &DeathRecord) -> String {
    format!("monitor: {life} left a death record: {}", record.message.replace('\n', " "))
}

//! The timer daemon (paper 2.3.1): stamps, and elects a new monitor when the active one acknowledges no more (paper
//! 2.3.3).
use crate::{Config, Election, Phase, View};
use shimos_abi::{
    ids::{KernelId, Life},
    time::Nanos,
};

/// How often in a row an own stall may excuse the monitor.
const EXCUSES: u32 = 2;

/// The longest time between two turns: a changed interval and the death of a monitor are noticed within it.
const LONGEST: Nanos = Nanos::secs(1);

/// What to do at one turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerTurn {
    /// Write this timestamp, if it is time.
    pub stamp: Option<u64>,
    /// Nominate the own shadow: compare-and-swap the election word from this to the own kernel. Ring no one; the
    /// others see it at their next turn.
    pub nominate: Option<Election>,
    /// When to call again at the latest.
    pub next: Nanos,
}

/// The timer daemon of one kernel. Called from the event loop and from nowhere else, so that a stamp shows progress
/// (D9).
#[derive(Clone, Debug)]
pub struct TimerDaemon {
    me: Life,
    config: Config,
    stamp: u64,
    /// When the last stamp was written.
    stamped: Option<Nanos>,
    interval: Nanos,
    election: Election,
    /// The last acknowledgement seen.
    acknowledged: u64,
    unacknowledged: u32,
    excuses: u32,
    /// No counting before this time: a new monitor, a new interval or a new kernel needs time.
    patience: Nanos,
}

impl TimerDaemon {
    /// The daemon of a kernel that has just booted.
    pub fn new(me: Life, config: Config) -> TimerDaemon {
        TimerDaemon {
            me,
            config,
            stamp: 0,
            stamped: None,
            interval: Nanos(0),
            election: Election { term: 0, monitor: me.kernel },
            acknowledged: 0,
            unacknowledged: 0,
            excuses: 0,
            patience: Nanos(0),
        }
    }

    /// One turn. May be called at any time; writes a stamp only when the interval is over. Calling it when a peer
    /// rings makes the death of a monitor that left a death record known at once.
    pub fn turn(&mut self, view: &impl View, now: Nanos) -> TimerTurn {
        let interval = self.config.interval(view.heartbeat());
        let election = view.election();
        self.adapt(view, now, interval, election);
        let mut turn = TimerTurn { stamp: None, nominate: None, next: Nanos(0) };
        if election.monitor != self.me.kernel && monitor_is_dead(view, election.monitor) {
            turn.nominate = Some(election);
        }
        let due = self.stamped.is_none_or(|last| now >= last + interval);
        if due {
            if self.must_elect(view, now, interval, election) {
                turn.nominate = Some(election);
            }
            self.stamp = self.stamp.wrapping_add(1).max(1);
            self.stamped = Some(now);
            turn.stamp = Some(self.stamp);
        }
        if turn.nominate.is_some() {
            self.forgive();
        }
        turn.next = self.stamped.map_or(now, |last| last + interval).min(now + LONGEST);
        turn
    }

    /// Starts anew when the interval or the monitor has changed.
    fn adapt(&mut self, view: &impl View, now: Nanos, interval: Nanos, election: Election) {
        let first = self.stamped.is_none();
        if first || interval != self.interval {
            // A monitor that sleeps by the old interval learns of the new one when it wakes.
            let slower = interval.max(self.interval);
            let booting = if first { slower.times(10).max(self.config.stall_grace) } else { Nanos(0) };
            self.patience = now + slower.times(3).max(booting);
            self.interval = interval;
            self.forgive();
        }
        if first || election != self.election {
            self.patience = self.patience.max(now + interval.times(3));
            self.election = election;
            self.acknowledged = view.acknowledged(election.monitor, self.me.kernel);
            self.forgive();
        }
    }

    /// Whether the active monitor has left too many stamps without an acknowledgement.
    fn must_elect(&mut self, view: &impl View, now: Nanos, interval: Nanos, election: Election) -> bool {
        let Some(last) = self.stamped else {
            return false;
        };
        if election.monitor == self.me.kernel {
            return false;
        }
        let acknowledged = view.acknowledged(election.monitor, self.me.kernel);
        // A change is a sign of life, even if it is behind.
        if acknowledged != self.acknowledged || acknowledged == self.stamp {
            self.acknowledged = acknowledged;
            self.patience = now;
            self.forgive();
            return false;
        }
        if now < self.patience {
            return false;
        }
        // After a stall of our own we cannot tell whether the monitor stood still as well. But there is an end to
        // excuses.
        if now > last + interval.times(2) && self.excuses < EXCUSES {
            self.excuses += 1;
            self.unacknowledged = 0;
            return false;
        }
        self.unacknowledged += 1;
        self.unacknowledged >= self.config.missed
    }

    fn forgive(&mut self) {
        self.unacknowledged = 0;
        self.excuses = 0;
    }
}

/// Whether the monitor's kernel is dead beyond doubt: it says so itself, or its core is parked.
fn monitor_is_dead(view: &impl View, monitor: KernelId) -> bool {
    if monitor.index() >= view.kernels() {
        return true;
    }
    matches!(view.kernel(monitor).phase(|| view.death(monitor)), Phase::Dead(_) | Phase::Parked(_))
}

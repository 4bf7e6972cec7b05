//! Timers: when they are due, how often they have been, and the descriptors that tell it.
use minicbor::{Decode, Encode};
use shimos_abi::time::Nanos;

/// When something is due, and how often again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Schedule {
    /// Next time.
    #[n(0)]
    pub at: Nanos,
    /// Time between two; 0 for once.
    #[n(1)]
    pub period: Nanos,
}

impl Schedule {
    /// How often it was due up to `now`. It goes on with the first time after, its phase kept.
    pub fn pass(&mut self, now: Nanos) -> u64 {
        if now < self.at {
            return 0;
        }
        if self.period == Nanos(0) {
            self.at = Nanos::NEVER;
            return 1;
        }
        let times = ((now - self.at).0 / self.period.0).saturating_add(1);
        self.at = self.at + self.period.times(times);
        times
    }
    /// What is left until it is due: never 0 while it is to come.
    pub fn left(&self, now: Nanos) -> Nanos {
        if self.at == Nanos::NEVER { Nanos(0) } else { (self.at - now).max(Nanos(1)) }
    }
}

/// What a timerfd is.
#[derive(Clone, Copy, Debug, Encode, Decode)]
pub struct TimerFd {
    /// Its clock.
    #[n(0)]
    pub clock: u32,
    /// When it is due; none if it is not set.
    #[n(1)]
    pub schedule: Option<Schedule>,
    /// How often it was due since it was read.
    #[n(2)]
    pub ticks: u64,
}

impl TimerFd {
    /// Counts what was due up to `now`.
    pub fn count(&mut self, now: Nanos) {
        if let Some(schedule) = &mut self.schedule {
            self.ticks = self.ticks.saturating_add(schedule.pass(now));
        }
    }
    /// When somebody is to be told: not before what was told is read.
    pub fn deadline(&self) -> Option<Nanos> {
        if self.ticks > 0 { None } else { self.schedule.map(|schedule| schedule.at).filter(|at| *at != Nanos::NEVER) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_is_kept() {
        let mut schedule = Schedule { at: Nanos(100), period: Nanos(30) };
        assert_eq!(schedule.pass(Nanos(99)), 0);
        assert_eq!(schedule.pass(Nanos(100)), 1);
        assert_eq!(schedule.at, Nanos(130));
        assert_eq!(schedule.pass(Nanos(1000)), 30);
        assert_eq!(schedule.at, Nanos(1030));
    }

    #[test]
    fn once_is_once() {
        let mut schedule = Schedule { at: Nanos(100), period: Nanos(0) };
        assert_eq!((schedule.pass(Nanos(500)), schedule.pass(Nanos(900))), (1, 0));
        assert_eq!(schedule.left(Nanos(900)), Nanos(0));
    }

    #[test]
    fn nothing_overflows() {
        let mut schedule = Schedule { at: Nanos(0), period: Nanos(1) };
        assert_eq!(schedule.pass(Nanos(u64::MAX - 1)), u64::MAX);
        let mut late = Schedule { at: Nanos(u64::MAX - 5), period: Nanos(10) };
        assert_eq!(late.pass(Nanos(u64::MAX - 5)), 1);
        assert_eq!(late.at, Nanos::NEVER);
    }

    #[test]
    fn a_descriptor_is_told_once_until_it_is_read() {
        let mut timer = TimerFd { clock: 1, schedule: Some(Schedule { at: Nanos(10), period: Nanos(10) }), ticks: 0 };
        assert_eq!(timer.deadline(), Some(Nanos(10)));
        timer.count(Nanos(35));
        assert_eq!((timer.ticks, timer.deadline()), (3, None));
        timer.ticks = 0;
        assert_eq!(timer.deadline(), Some(Nanos(40)));
    }
}

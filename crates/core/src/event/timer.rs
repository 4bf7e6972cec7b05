//! Timers: when they are due, how often they have been, and the descriptors that tell it.
use crate::signal::Signal;
use minicbor::{Decode, Encode};
use shimos_abi::{ids::Pid, time::Nanos};

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

/// Names a timer of a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct TimerKey {
    /// Whose it is.
    #[n(0)]
    pub process: Pid,
    /// Which one.
    #[n(1)]
    pub slot: Slot,
}

/// The timers that a process has: three of setitimer(2), and those of timer_create(2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub enum Slot {
    /// ITIMER_REAL, which is also alarm(2)'s.
    #[n(0)]
    Real,
    /// ITIMER_VIRTUAL.
    #[n(1)]
    Virtual,
    /// ITIMER_PROF.
    #[n(2)]
    Profile,
    /// One with an id.
    #[n(3)]
    Posix(#[n(0)] u32),
}

/// What a timer runs by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Clock {
    /// The machine's clock.
    #[n(0)]
    Machine,
    /// The same, but a point in time is one of the wall clock.
    #[n(1)]
    Wall,
    /// Processor time of a process.
    #[n(2)]
    Process(#[n(0)] Pid),
    /// Processor time of a thread.
    #[n(3)]
    Thread(#[n(0)] Pid),
    /// Processor time of a process outside the kernel.
    #[n(4)]
    User(#[n(0)] Pid),
}

impl Clock {
    /// Whether it stands still while nothing runs.
    pub fn counts_use(self) -> bool {
        matches!(self, Clock::Process(_) | Clock::Thread(_) | Clock::User(_))
    }
}

/// Who is told that a timer is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Tells {
    /// Nobody (SIGEV_NONE).
    #[n(0)]
    Nobody,
    /// The process.
    #[n(1)]
    Process(#[n(0)] Signal),
    /// One of its threads (SIGEV_THREAD_ID).
    #[n(2)]
    Thread(#[n(0)] Signal, #[n(1)] Pid),
}

/// A timer that sends signals.
#[derive(Clone, Copy, Debug, Encode, Decode)]
pub struct Timer {
    /// What it runs by.
    #[n(0)]
    pub clock: Clock,
    /// When it is due by its clock; none if it is not set.
    #[n(1)]
    pub schedule: Option<Schedule>,
    /// Who is told.
    #[n(2)]
    pub tells: Tells,
    /// What is told along.
    #[n(3)]
    pub value: u64,
    /// How often it was due since its signal was sent and not yet delivered.
    #[n(4)]
    pub missed: u64,
    /// How many of those the signal that was delivered last stood for (timer_getoverrun(2)).
    #[n(5)]
    pub overrun: u32,
}

impl Timer {
    /// Overruns as they are told: never more than this (DELAYTIMER_MAX).
    pub fn told(missed: u64) -> u32 {
        missed.min(i32::MAX as u64) as u32
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

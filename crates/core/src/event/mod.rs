//! What event descriptors are open on: epoll sets, counters, timers, signals, watched files, processes.
pub mod epoll;
pub mod inotify;
pub mod timer;
pub mod watches;

use epoll::Epoll;
use inotify::Inotify;
use minicbor::{Decode, Encode};
use timer::TimerFd;

use crate::signal::SigSet;

/// Names an event object of a program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct EventId(#[n(0)] pub u32);

/// What kind of event object a descriptor is open on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum EventClass {
    /// epoll_create(2).
    #[n(0)]
    Epoll,
    /// eventfd(2).
    #[n(1)]
    Counter,
    /// timerfd_create(2).
    #[n(2)]
    Timer,
    /// signalfd(2).
    #[n(3)]
    Signals,
    /// inotify(7).
    #[n(4)]
    Files,
}

impl EventClass {
    /// What a link of /proc/PID/fd says.
    pub fn link(self) -> &'static str {
        match self {
            EventClass::Epoll => "anon_inode:[eventpoll]",
            EventClass::Counter => "anon_inode:[eventfd]",
            EventClass::Timer => "anon_inode:[timerfd]",
            EventClass::Signals => "anon_inode:[signalfd]",
            EventClass::Files => "anon_inode:inotify",
        }
    }
}

/// An event object.
#[derive(Clone, Debug, Encode, Decode)]
pub enum Event {
    /// Descriptors that are watched.
    #[n(0)]
    Epoll(#[n(0)] Epoll),
    /// A counter.
    #[n(1)]
    Counter(#[n(0)] Counter),
    /// A timer.
    #[n(2)]
    Timer(#[n(0)] TimerFd),
    /// Signals that are read instead of delivered.
    #[n(3)]
    Signals(#[n(0)] SigSet),
    /// Files that are watched.
    #[n(4)]
    Files(#[n(0)] Inotify),
}

impl Event {
    /// Its class.
    pub fn class(&self) -> EventClass {
        match self {
            Event::Epoll(_) => EventClass::Epoll,
            Event::Counter(_) => EventClass::Counter,
            Event::Timer(_) => EventClass::Timer,
            Event::Signals(_) => EventClass::Signals,
            Event::Files(_) => EventClass::Files,
        }
    }
}

/// The counter of an eventfd.
#[derive(Clone, Copy, Debug, Encode, Decode)]
pub struct Counter {
    /// Its value, at most [`Counter::MAX`].
    #[n(0)]
    pub value: u64,
    /// What a read takes.
    #[n(1)]
    pub takes: Takes,
}

/// What a read takes from a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Takes {
    /// All of it.
    #[n(0)]
    All,
    /// One (EFD_SEMAPHORE).
    #[n(1)]
    One,
}

impl Counter {
    /// The largest value.
    pub const MAX: u64 = u64::MAX - 1;

    /// Takes a value out; `None` if there is nothing.
    pub fn take(&mut self) -> Option<u64> {
        let taken = match self.takes {
            _ if self.value == 0 => return None,
            Takes::All => self.value,
            Takes::One => 1,
        };
        self.value -= taken;
        Some(taken)
    }

    /// Adds to it; `None` if that does not fit.
    pub fn add(&mut self, amount: u64) -> Option<()> {
        self.value = self.value.checked_add(amount).filter(|sum| *sum <= Counter::MAX)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_takes_all_or_one() {
        let mut all = Counter { value: 5, takes: Takes::All };
        assert_eq!((all.take(), all.take()), (Some(5), None));
        let mut one = Counter { value: 2, takes: Takes::One };
        assert_eq!((one.take(), one.take(), one.take()), (Some(1), Some(1), None));
    }

    #[test]
    fn a_counter_does_not_overflow() {
        let mut counter = Counter { value: 1, takes: Takes::All };
        assert_eq!(counter.add(u64::MAX), None);
        assert_eq!(counter.add(Counter::MAX), None);
        assert_eq!(counter.add(Counter::MAX - 1), Some(()));
        assert_eq!(counter.add(1), None);
        assert_eq!(counter.value, Counter::MAX);
    }
}

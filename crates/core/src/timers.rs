//! Timers of a program in the order in which they are due: derived from what is saved.
use crate::{
    event::{Event, EventId, epoll::bits},
    program::Program,
    resident::{Key, Resident},
};
use alloc::collections::{BTreeMap, BTreeSet};
use shimos_abi::time::Nanos;
use shimos_hal::Machine;

/// Names a timer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TimerRef {
    /// A timerfd.
    Descriptor(EventId),
}

/// Timers by the time at which they are due.
#[derive(Default)]
pub struct TimerQueue {
    order: BTreeSet<(Nanos, TimerRef)>,
    due: BTreeMap<TimerRef, Nanos>,
}

impl TimerQueue {
    /// The timers of a program.
    pub fn of(program: &Program) -> TimerQueue {
        let mut queue = TimerQueue::default();
        for (id, event) in &program.events {
            if let Event::Timer(timer) = event {
                queue.set(TimerRef::Descriptor(*id), timer.deadline());
            }
        }
        queue
    }
    /// Sets when a timer is due; none takes it out.
    pub fn set(&mut self, timer: TimerRef, at: Option<Nanos>) {
        if let Some(old) = self.due.remove(&timer) {
            self.order.remove(&(old, timer));
        }
        if let Some(at) = at {
            self.due.insert(timer, at);
            self.order.insert((at, timer));
        }
    }
    /// When the first one is due.
    pub fn next(&self) -> Option<Nanos> {
        self.order.first().map(|(at, _)| *at)
    }
    /// Takes the first one out that is due.
    fn take(&mut self, now: Nanos) -> Option<TimerRef> {
        let (at, timer) = self.order.first().copied().filter(|(at, _)| *at <= now)?;
        self.order.remove(&(at, timer));
        self.due.remove(&timer);
        Some(timer)
    }
}

/// Lets the timers go off that are due.
pub fn expire<M: Machine>(resident: &mut Resident<M>, now: Nanos) {
    while let Some(timer) = resident.timers.take(now) {
        match timer {
            TimerRef::Descriptor(id) => {
                if let Some(Event::Timer(timer)) = resident.program.events.get_mut(&id) {
                    timer.count(now);
                    // It is told again only after it was read.
                    resident.wake_as(Key::Event(id), bits::IN);
                }
            }
        }
    }
}

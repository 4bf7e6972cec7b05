//! When blocked threads are woken because their time is over.
use alloc::collections::{BTreeMap, BTreeSet};
use shimos_abi::{ids::Pid, time::Nanos};

/// The times at which threads are to be woken; one for a thread at most.
#[derive(Default, Debug)]
pub struct Alarms {
    by_time: BTreeSet<(Nanos, Pid)>,
    by_thread: BTreeMap<Pid, Nanos>,
}

impl Alarms {
    /// Sets the alarm of a thread, in place of the one that it has.
    pub fn set(&mut self, tid: Pid, at: Nanos) {
        self.clear(tid);
        self.by_thread.insert(tid, at);
        self.by_time.insert((at, tid));
    }

    /// Takes a thread's alarm away, if it has one.
    pub fn clear(&mut self, tid: Pid) {
        if let Some(at) = self.by_thread.remove(&tid) {
            self.by_time.remove(&(at, tid));
        }
    }

    /// Takes the first alarm that has come.
    pub fn take_due(&mut self, now: Nanos) -> Option<Pid> {
        let (_, tid) = self.by_time.first().copied().filter(|(at, _)| *at <= now)?;
        self.clear(tid);
        Some(tid)
    }

    /// When the first alarm comes.
    pub fn next(&self) -> Option<Nanos> {
        self.by_time.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_come_once_and_in_the_order_of_their_times() {
        let mut alarms = Alarms::default();
        alarms.set(Pid(1), Nanos(30));
        alarms.set(Pid(2), Nanos(10));
        alarms.set(Pid(3), Nanos(10));
        alarms.set(Pid(2), Nanos(20));
        alarms.clear(Pid(3));
        assert_eq!(alarms.next(), Some(Nanos(20)));
        assert_eq!(alarms.take_due(Nanos(19)), None);
        assert_eq!(alarms.take_due(Nanos(40)), Some(Pid(2)));
        assert_eq!(alarms.take_due(Nanos(40)), Some(Pid(1)));
        assert_eq!((alarms.take_due(Nanos(40)), alarms.next()), (None, None));
    }
}

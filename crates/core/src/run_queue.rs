//! Threads that are ready, in the order in which they run.
//!
//! Ordinary threads run by their *virtual time*: what they have used, made longer for those that are to have less. The one
//! with the least is next, so that nobody starves and everybody has its share. Who sleeps gathers no more than [`CREDIT`].
//! Real-time threads come before all ordinary ones, by priority, and have 95 % of the processor at most.
use alloc::collections::BinaryHeap;
use core::cmp::Reverse;
use shimos_abi::{ids::Pid, time::Nanos};

/// How far a thread that wakes may be behind those that ran meanwhile.
const CREDIT: u64 = 2_500_000;
/// How far the running thread must be ahead of one that has just become ready to give way to it.
const LEAD: u64 = 1_000_000;
/// Real-time threads use so much of each period at most while others are ready.
const PERIOD: Nanos = Nanos::secs(1);
const MOST: Nanos = Nanos::millis(950);

/// What a thread's place goes by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rank {
    /// Real-time, with a priority of 1 to 99.
    RealTime(u8),
    /// Ordinary, with its virtual time.
    Ordinary(u64),
}

/// Among real-time threads of one priority.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Before all others: it was not done.
    Front,
    /// Behind all others.
    Back,
}

/// The smallest comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    key: u64,
    order: i64,
    tid: Pid,
}

/// The queue.
#[derive(Default)]
pub struct RunQueue {
    real_time: BinaryHeap<Reverse<Place>>,
    ordinary: BinaryHeap<Reverse<Place>>,
    /// The virtual time of the ordinary thread that ran last; never goes back.
    floor: u64,
    /// The most virtual time that one had when it came in.
    highest: u64,
    /// What the next that comes in has as its order, at either end.
    back: i64,
    front: i64,
    /// Since somebody has looked, one has become ready.
    news: Option<News>,
    /// When the period began, and what real-time threads have used of it.
    period: (Nanos, Nanos),
}

/// A thread has become ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct News;

impl RunQueue {
    /// How many.
    pub fn len(&self) -> usize {
        self.real_time.len() + self.ordinary.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.real_time.is_empty() && self.ordinary.is_empty()
    }
    /// All of them, in no order.
    #[cfg(feature = "inspect")]
    pub fn iter(&self) -> impl Iterator<Item = Pid> + '_ {
        self.real_time.iter().chain(&self.ordinary).map(|Reverse(place)| place.tid)
    }
    /// Puts a thread in.
    pub fn push(&mut self, tid: Pid, rank: Rank, end: End) {
        self.news = Some(News);
        let order = match end {
            End::Back => {
                self.back += 1;
                self.back
            }
            End::Front => {
                self.front -= 1;
                self.front
            }
        };
        match rank {
            Rank::RealTime(priority) => {
                self.real_time.push(Reverse(Place { key: u64::from(u8::MAX - priority), order, tid }));
            }
            Rank::Ordinary(time) => {
                self.highest = self.highest.max(time);
                self.ordinary.push(Reverse(Place { key: time, order, tid }));
            }
        }
    }
    /// Whether real-time threads have had their share.
    fn is_throttled(&self, now: Nanos) -> bool {
        self.period.1 >= MOST && now < self.period.0 + PERIOD && !self.ordinary.is_empty()
    }
    /// The next one, and what its place goes by.
    pub fn first(&self, now: Nanos) -> Option<(Pid, Rank)> {
        match self.real_time.peek() {
            Some(Reverse(place)) if !self.is_throttled(now) => {
                Some((place.tid, Rank::RealTime(u8::MAX - (place.key as u8))))
            }
            _ => self.ordinary.peek().map(|Reverse(place)| (place.tid, Rank::Ordinary(place.key))),
        }
    }
    /// Takes the next one out.
    pub fn pop(&mut self, now: Nanos) -> Option<Pid> {
        let (tid, rank) = self.first(now)?;
        match rank {
            Rank::RealTime(_) => self.real_time.pop(),
            Rank::Ordinary(time) => {
                self.floor = self.floor.max(time);
                self.ordinary.pop()
            }
        };
        self.news = None;
        Some(tid)
    }
    /// Takes a thread out; says whether it was in.
    pub fn remove(&mut self, tid: Pid) -> Option<Pid> {
        let before = self.len();
        self.real_time.retain(|Reverse(place)| place.tid != tid);
        self.ordinary.retain(|Reverse(place)| place.tid != tid);
        (self.len() < before).then_some(tid)
    }

    /// The virtual time with which a thread comes in that has slept.
    pub fn after_sleep(&self, own: u64) -> u64 {
        own.max(self.floor.saturating_sub(CREDIT))
    }
    /// The virtual time of a thread that gives way to all others.
    pub fn behind_all(&self, own: u64) -> u64 {
        if self.ordinary.is_empty() { own } else { own.max(self.highest) }
    }
    /// The virtual time of one that begins.
    pub fn floor(&self) -> u64 {
        self.floor
    }
    /// A real-time thread has run.
    pub fn charge_real_time(&mut self, used: Nanos, now: Nanos) {
        if now >= self.period.0 + PERIOD {
            self.period = (now, Nanos(0));
        }
        self.period.1 = self.period.1 + used;
    }
    /// Whether one has become ready since this was asked, or since the last one was taken.
    #[inline]
    pub fn take_news(&mut self) -> Option<News> {
        self.news.take()
    }
    /// Lets the running thread look again who comes first: its own rank has changed.
    pub fn tell(&mut self) {
        self.news = Some(News);
    }
    /// Whether the next one comes before one that runs with `rank`.
    pub fn comes_before(&self, rank: Rank, now: Nanos) -> bool {
        match (self.first(now), rank) {
            (Some((_, Rank::RealTime(next))), Rank::RealTime(own)) => next > own,
            (Some((_, Rank::RealTime(_))), Rank::Ordinary(_)) => true,
            (Some((_, Rank::Ordinary(next))), Rank::Ordinary(own)) => own > next.saturating_add(LEAD),
            (Some((_, Rank::Ordinary(_))), Rank::RealTime(_)) => self.is_throttled(now),
            (None, _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{collections::BTreeMap, vec, vec::Vec};

    const NOW: Nanos = Nanos(0);
    const SLICE: u64 = 5_000_000;

    fn in_order(mut queue: RunQueue) -> Vec<Pid> {
        core::iter::from_fn(|| queue.pop(NOW)).collect()
    }

    fn ordinary(queue: &mut RunQueue, tid: u32, time: u64) {
        queue.push(Pid(tid), Rank::Ordinary(time), End::Back);
    }

    #[test]
    fn the_least_time_comes_first_and_equals_in_turn() {
        let mut queue = RunQueue::default();
        for (tid, time) in [(1, 30), (2, 10), (3, 20), (4, 10)] {
            ordinary(&mut queue, tid, time);
        }
        assert_eq!(queue.len(), 4);
        assert_eq!(queue.remove(Pid(3)), Some(Pid(3)));
        assert_eq!(queue.remove(Pid(3)), None);
        assert_eq!(in_order(queue), [Pid(2), Pid(4), Pid(1)]);
    }

    #[test]
    fn real_time_comes_by_priority_and_who_was_not_done_stays_in_front() {
        let mut queue = RunQueue::default();
        ordinary(&mut queue, 1, 0);
        for (tid, priority) in [(2, 1), (3, 50), (4, 50), (5, 99)] {
            queue.push(Pid(tid), Rank::RealTime(priority), End::Back);
        }
        queue.push(Pid(6), Rank::RealTime(50), End::Front);
        assert!(queue.comes_before(Rank::Ordinary(0), NOW));
        assert!(queue.comes_before(Rank::RealTime(98), NOW));
        assert!(!queue.comes_before(Rank::RealTime(99), NOW));
        assert_eq!(in_order(queue), [5, 6, 3, 4, 2, 1].map(Pid));
    }

    /// Threads that never sleep share by weight, and one that wakes has its turn soon but cannot save up more than a little.
    #[test]
    fn shares_are_kept_and_nobody_starves() {
        let mut queue = RunQueue::default();
        // Thread, what a unit of its time costs it, what it has used.
        let costs = BTreeMap::from([(1, 1), (2, 1), (3, 4)]);
        let mut used = BTreeMap::from([(1, 0), (2, 0), (3, 0)]);
        for tid in costs.keys() {
            ordinary(&mut queue, *tid, 0);
        }
        for _ in 0..9000 {
            let (tid, rank) = queue.first(NOW).expect("one is ready");
            let Rank::Ordinary(time) = rank else { panic!("none is real-time") };
            assert_eq!(queue.pop(NOW), Some(tid));
            *used.get_mut(&tid.0).expect("known") += SLICE;
            ordinary(&mut queue, tid.0, time + SLICE * costs[&tid.0]);
        }
        let all = 9000 * SLICE;
        for (tid, share) in [(1, 4), (2, 4), (3, 1)] {
            assert!(used[&tid].abs_diff(all * share / 9) <= 4 * SLICE, "{used:?}");
        }
        // One that has slept all the while.
        let floor = queue.floor();
        let woken = queue.after_sleep(0);
        assert_eq!(woken, floor - CREDIT);
        ordinary(&mut queue, 9, woken);
        assert_eq!(queue.take_news(), Some(News));
        assert_eq!(queue.take_news(), None);
        assert!(queue.comes_before(Rank::Ordinary(floor), NOW));
        assert_eq!(queue.pop(NOW), Some(Pid(9)));
    }

    /// A waker and a woken that do equally much take turns without a switch at each step.
    #[test]
    fn who_has_used_as_much_waits_for_its_turn() {
        let mut queue = RunQueue::default();
        ordinary(&mut queue, 1, 1000);
        assert!(!queue.comes_before(Rank::Ordinary(1000), NOW));
        assert!(!queue.comes_before(Rank::Ordinary(1000 + LEAD), NOW));
        assert!(queue.comes_before(Rank::Ordinary(1001 + LEAD), NOW));
    }

    #[test]
    fn who_gives_way_comes_behind_all() {
        let mut queue = RunQueue::default();
        assert_eq!(queue.behind_all(7), 7);
        for (tid, time) in [(1, 30), (2, 10)] {
            ordinary(&mut queue, tid, time);
        }
        let time = queue.behind_all(5);
        ordinary(&mut queue, 3, time);
        assert_eq!(in_order(queue), [2, 1, 3].map(Pid));
    }

    #[test]
    fn real_time_leaves_something_to_others() {
        let mut queue = RunQueue::default();
        let (mut now, mut shares) = (Nanos::secs(5), vec![Nanos(0); 2]);
        let step = Nanos::millis(5);
        for _ in 0..2000 {
            if queue.is_empty() {
                ordinary(&mut queue, 0, 0);
                queue.push(Pid(1), Rank::RealTime(1), End::Front);
            }
            let tid = queue.pop(now).expect("both are ready");
            now = now + step;
            shares[tid.0 as usize] = shares[tid.0 as usize] + step;
            if tid == Pid(1) {
                queue.charge_real_time(step, now);
                queue.push(tid, Rank::RealTime(1), End::Front);
            } else {
                ordinary(&mut queue, 0, 0);
            }
        }
        assert!(shares[0] >= Nanos::millis(450) && shares[0] <= Nanos::millis(600), "{shares:?}");
        // Alone it has all there is.
        let mut queue = RunQueue::default();
        queue.charge_real_time(MOST, now);
        queue.push(Pid(1), Rank::RealTime(1), End::Front);
        assert_eq!(queue.pop(now), Some(Pid(1)));
    }
}

//! Epoll sets: what is watched, and what may be ready.
use crate::files::DescriptionId;
use alloc::collections::BTreeMap;
use minicbor::{Decode, Encode};

/// The events of poll(2) and epoll(7).
pub mod bits {
    #![allow(missing_docs, reason = "the names are those of poll(2)")]
    pub const IN: u16 = 1;
    pub const PRI: u16 = 2;
    pub const OUT: u16 = 4;
    pub const ERR: u16 = 8;
    pub const HUP: u16 = 0x10;
    pub const NVAL: u16 = 0x20;
    pub const RDNORM: u16 = 0x40;
    pub const WRNORM: u16 = 0x100;
    pub const RDHUP: u16 = 0x2000;
    /// Something can be read.
    pub const READ: u16 = IN | RDNORM;
    /// Something can be written.
    pub const WRITE: u16 = OUT | WRNORM;
    /// Whatever it may be.
    pub const ANY: u16 = u16::MAX;
}

/// Told to one epoll set of several, not to all.
pub const EXCLUSIVE: u32 = 1 << 28;
/// Keeps the system awake, which nothing here lets sleep.
pub const WAKEUP: u32 = 1 << 29;
/// Told once, until it is asked for again.
pub const ONESHOT: u32 = 1 << 30;
/// Told once for each change.
pub const EDGE: u32 = 1 << 31;
/// What is no event but says how they are told.
const PRIVATE: u32 = EXCLUSIVE | WAKEUP | ONESHOT | EDGE;

/// What is watched: a descriptor's number and what it referred to then (epoll(7), Q1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct Target {
    /// The description.
    #[n(0)]
    pub description: DescriptionId,
    /// The descriptor's number.
    #[n(1)]
    pub fd: u32,
}

/// How a target is watched.
#[derive(Clone, Copy, Debug, Encode, Decode)]
pub struct Item {
    /// Events and flags as the program gave them, with EPOLLERR and EPOLLHUP.
    #[n(0)]
    pub events: u32,
    /// What the program wants to be told.
    #[n(1)]
    pub data: u64,
    /// Its place among those that may be ready.
    #[n(2)]
    place: Option<u64>,
}

impl Item {
    /// The events that it is watched for; none for one that was told once and is not asked for again.
    pub fn wanted(&self) -> u16 {
        if self.events & !PRIVATE == 0 { 0 } else { (self.events & !PRIVATE) as u16 }
    }
    /// Whether a flag is set.
    pub fn has(&self, flag: u32) -> bool {
        self.events & flag != 0
    }
}

/// An epoll set.
///
/// The list of what may be ready is saved: what was woken before a takeover is told after it.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub struct Epoll {
    #[n(0)]
    items: BTreeMap<Target, Item>,
    /// What may be ready, in the order in which it is told.
    #[n(1)]
    ready: BTreeMap<u64, Target>,
    #[n(2)]
    next: u64,
}

impl Epoll {
    /// All that is watched.
    pub fn items(&self) -> impl Iterator<Item = (Target, &Item)> {
        self.items.iter().map(|(target, item)| (*target, item))
    }
    /// What is watched, in the order in which it was opened.
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        self.items.keys().copied()
    }
    /// How a target is watched.
    pub fn get(&self, target: Target) -> Option<&Item> {
        self.items.get(&target)
    }
    /// Watches a target, or changes how.
    pub fn set(&mut self, target: Target, events: u32, data: u64) {
        let place = self.items.get(&target).and_then(|item| item.place);
        let events = events | u32::from(bits::ERR | bits::HUP);
        self.items.insert(target, Item { events, data, place });
    }
    /// Watches a target no more. Returns whether it was watched.
    pub fn remove(&mut self, target: Target) -> bool {
        let Some(item) = self.items.remove(&target) else { return false };
        if let Some(place) = item.place {
            self.ready.remove(&place);
        }
        true
    }
    /// What may be ready, first to be told first.
    pub fn ready(&self) -> impl Iterator<Item = (Target, &Item)> {
        self.ready.values().filter_map(|target| Some((*target, self.items.get(target)?)))
    }
    /// How many may be ready.
    pub fn ready_count(&self) -> usize {
        self.ready.len()
    }
    /// A target may be ready for some of `events`. Returns whether it is watched for any of them.
    pub fn arrive(&mut self, target: Target, events: u16) -> bool {
        let Some(item) = self.items.get_mut(&target) else { return false };
        if item.wanted() & events == 0 {
            return false;
        }
        if item.place.is_none() {
            item.place = Some(self.next);
            self.ready.insert(self.next, target);
            self.next = self.next.saturating_add(1);
        }
        true
    }
    /// A target was found not to be ready.
    pub fn settle(&mut self, target: Target) {
        if let Some(place) = self.items.get_mut(&target).and_then(|item| item.place.take()) {
            self.ready.remove(&place);
        }
    }
    /// A target was told: what is watched by level stays ready, behind the others.
    pub fn told(&mut self, target: Target) {
        self.settle(target);
        let Some(item) = self.items.get_mut(&target) else { return };
        if item.has(ONESHOT) {
            item.events &= PRIVATE;
        } else if !item.has(EDGE) {
            self.arrive(target, bits::ANY);
        }
    }
    /// Whether decoded data hangs together.
    pub fn validate(&self) -> Result<(), &'static str> {
        let listed = self.ready.iter().all(|(place, target)| {
            *place < self.next && self.items.get(target).is_some_and(|item| item.place == Some(*place))
        });
        let placed = self.items.values().filter(|item| item.place.is_some()).count();
        if listed && placed == self.ready.len() { Ok(()) } else { Err("an epoll set whose list is not its own") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn target(fd: u32) -> Target {
        Target { description: DescriptionId(fd + 100), fd }
    }
    fn order(epoll: &Epoll) -> Vec<u32> {
        epoll.ready().map(|(target, _)| target.fd).collect()
    }

    #[test]
    fn level_items_go_behind_the_others() {
        let mut epoll = Epoll::default();
        for fd in 1..4 {
            epoll.set(target(fd), bits::IN.into(), 0);
            assert!(epoll.arrive(target(fd), bits::READ));
            assert!(epoll.arrive(target(fd), bits::READ), "told again while it is listed");
        }
        assert_eq!(order(&epoll), [1, 2, 3]);
        epoll.told(target(1));
        assert_eq!(order(&epoll), [2, 3, 1]);
        epoll.settle(target(3));
        assert_eq!(order(&epoll), [2, 1]);
        assert_eq!(epoll.validate(), Ok(()));
    }

    #[test]
    fn edges_are_told_once() {
        let mut epoll = Epoll::default();
        epoll.set(target(1), u32::from(bits::IN) | EDGE, 0);
        epoll.arrive(target(1), bits::READ);
        epoll.told(target(1));
        assert_eq!(epoll.ready_count(), 0);
        assert!(!epoll.arrive(target(1), bits::WRITE), "not asked for");
        assert!(epoll.arrive(target(1), bits::READ));
        assert_eq!(epoll.ready_count(), 1);
    }

    #[test]
    fn once_means_once() {
        let mut epoll = Epoll::default();
        epoll.set(target(1), u32::from(bits::IN) | ONESHOT, 7);
        epoll.arrive(target(1), bits::READ);
        epoll.told(target(1));
        assert!(!epoll.arrive(target(1), bits::ANY));
        epoll.set(target(1), u32::from(bits::IN) | ONESHOT, 8);
        assert!(epoll.arrive(target(1), bits::READ));
        assert!(epoll.remove(target(1)));
        assert_eq!(epoll.ready_count(), 0);
        assert_eq!(epoll.validate(), Ok(()));
    }

    #[test]
    fn a_forged_list_is_refused() {
        let mut epoll = Epoll::default();
        epoll.set(target(1), bits::IN.into(), 0);
        epoll.ready.insert(0, target(1));
        assert!(epoll.validate().is_err());
    }
}

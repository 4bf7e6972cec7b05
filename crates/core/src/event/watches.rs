//! Who watches what: an index over all epoll sets of a program, derived from them.
use super::{Event, EventId, epoll::Target};
use crate::{files::DescriptionId, program::Program, resident::Key};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

/// The most targets that all epoll sets of a program may watch together.
pub const MAX_WATCHES: usize = 1 << 17;
/// How many epoll sets may lie in one another, the outermost not counted.
const MAX_NESTS: usize = 4;

/// One target of one epoll set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Watch {
    /// The epoll set.
    pub epoll: EventId,
    /// What it watches.
    pub target: Target,
}

/// The index.
#[derive(Default)]
pub struct Watches {
    by_key: BTreeMap<Key, BTreeSet<Watch>>,
    keys: BTreeMap<Watch, Option<Key>>,
    by_description: BTreeMap<DescriptionId, BTreeSet<Watch>>,
}

impl Watches {
    /// The index over a program's epoll sets.
    pub fn of(program: &Program) -> Watches {
        let mut watches = Watches::default();
        for (id, event) in &program.events {
            if let Event::Epoll(epoll) = event {
                for (target, _) in epoll.items() {
                    let key = program.descriptions.get(&target.description).and_then(|found| found.kind.key());
                    watches.add(Watch { epoll: *id, target }, key);
                }
            }
        }
        watches
    }
    /// Adds a watch; `key` is woken when the target changes.
    pub fn add(&mut self, watch: Watch, key: Option<Key>) {
        self.remove(watch);
        self.keys.insert(watch, key);
        self.by_description.entry(watch.target.description).or_default().insert(watch);
        if let Some(key) = key {
            self.by_key.entry(key).or_default().insert(watch);
        }
    }
    /// Removes a watch.
    pub fn remove(&mut self, watch: Watch) {
        fn take<K: Ord + Copy>(from: &mut BTreeMap<K, BTreeSet<Watch>>, key: K, watch: Watch) {
            if let Some(set) = from.get_mut(&key) {
                set.remove(&watch);
                if set.is_empty() {
                    from.remove(&key);
                }
            }
        }
        if let Some(key) = self.keys.remove(&watch) {
            take(&mut self.by_description, watch.target.description, watch);
            if let Some(key) = key {
                take(&mut self.by_key, key, watch);
            }
        }
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }
    /// Who watches what changes with `key`.
    pub fn for_key(&self, key: Key) -> impl Iterator<Item = Watch> + '_ {
        self.by_key.get(&key).into_iter().flatten().copied()
    }
    /// Who watches a description.
    pub fn of_description(&self, id: DescriptionId) -> Vec<Watch> {
        self.by_description.get(&id).into_iter().flatten().copied().collect()
    }
}

/// The epoll sets that are watched by one of `sets`.
fn inside(program: &Program, sets: &BTreeSet<EventId>) -> BTreeSet<EventId> {
    let mut found = BTreeSet::new();
    for id in sets {
        let Some(Event::Epoll(set)) = program.events.get(id) else { continue };
        let watched = set.items().filter_map(|(target, _)| program.descriptions.get(&target.description));
        found.extend(watched.filter_map(|description| description.kind.epoll()));
    }
    found
}

/// Whether `inner` may be watched by `outer`: no loop, and not too deep.
pub fn may_nest(program: &Program, watches: &Watches, outer: EventId, inner: EventId) -> bool {
    let mut depth = 1;
    let mut level = inside(program, &BTreeSet::from([inner]));
    while !level.is_empty() {
        depth += 1;
        if depth > MAX_NESTS || level.contains(&outer) {
            return false;
        }
        level = inside(program, &level);
    }
    let mut level = BTreeSet::from([outer]);
    loop {
        level = level.iter().flat_map(|id| watches.for_key(Key::Event(*id))).map(|watch| watch.epoll).collect();
        if level.is_empty() {
            return true;
        }
        depth += 1;
        if depth > MAX_NESTS {
            return false;
        }
    }
}

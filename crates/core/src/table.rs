//! A map from ids to objects for what every system call looks up.
//!
//! The same few objects are asked for again and again: the thread that runs, its process, its descriptors. So the place
//! where the last one was found is tried first; a search of the sorted ids is the rest.
//!
//! Each object keeps the record that it was last written as for a checkpoint. Whoever borrows an object to change it makes
//! that void; so what was not touched since the last checkpoint need not be encoded again.
use alloc::{boxed::Box, vec, vec::Vec};
use core::{
    cell::{Cell, RefCell},
    fmt,
    ops::RangeBounds,
    slice,
};
use shimos_abi::sealed::Sealed;

/// A map, ordered by its keys. An insertion in the middle moves pointers only.
pub struct Table<K, V> {
    entries: Vec<Entry<K, V>>,
    /// Where the last look-up ended. Any value is right; a good one saves the search.
    last: Cell<usize>,
}

type Entry<K, V> = (K, Box<Slot<V>>);

/// An object and its record.
pub struct Slot<V> {
    value: V,
    /// Empty if there is none.
    record: RefCell<Sealed>,
}

impl<V> Slot<V> {
    fn new(value: V) -> Box<Slot<V>> {
        Box::new(Slot { value, record: RefCell::new(Sealed::new()) })
    }
    /// The object, to change. The record's memory stays: it will be needed again.
    #[inline]
    fn change(&mut self) -> &mut V {
        self.record.get_mut().clear();
        &mut self.value
    }
}

impl<V: Clone> Clone for Slot<V> {
    fn clone(&self) -> Slot<V> {
        Slot { value: self.value.clone(), record: RefCell::new(Sealed::new()) }
    }
}

impl<K: Copy + Ord, V> Table<K, V> {
    /// An empty map.
    pub const fn new() -> Table<K, V> {
        Table { entries: Vec::new(), last: Cell::new(0) }
    }
    /// How many entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where a key is.
    #[inline]
    fn place(&self, key: &K) -> Option<usize> {
        let last = self.last.get();
        match self.entries.get(last) {
            Some((found, _)) if found == key => Some(last),
            _ => self.search(key),
        }
    }
    fn search(&self, key: &K) -> Option<usize> {
        // Who goes through all descriptors finds their descriptions mostly in order.
        let next = self.last.get().wrapping_add(1);
        let at = match self.entries.get(next) {
            Some((found, _)) if found == key => next,
            _ => self.entries.binary_search_by(|(found, _)| found.cmp(key)).ok()?,
        };
        self.last.set(at);
        Some(at)
    }

    /// The object of a key.
    #[inline]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.place(key).and_then(|at| self.entries.get(at)).map(|(_, slot)| &slot.value)
    }
    /// The object of a key, to change.
    #[inline]
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = self.place(key)?;
        self.entries.get_mut(at).map(|(_, slot)| slot.change())
    }
    /// Whether a key is there.
    pub fn contains_key(&self, key: &K) -> bool {
        self.place(key).is_some()
    }

    /// Puts an object in; returns the one that it replaces.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        // Ids grow: most insertions are at the end.
        let at = match self.entries.last() {
            Some((last, _)) if *last < key => Err(self.entries.len()),
            _ => self.entries.binary_search_by(|(found, _)| found.cmp(&key)),
        };
        match at {
            Ok(at) => {
                let (_, old) = self.entries.get_mut(at)?;
                Some(core::mem::replace(old.change(), value))
            }
            Err(at) => {
                self.entries.insert(at, (key, Slot::new(value)));
                None
            }
        }
    }
    /// Takes an object out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.place(key)?;
        (at < self.entries.len()).then(|| self.entries.remove(at).1.value)
    }
    /// Keeps what `keep` says.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.entries.retain_mut(|(key, slot)| keep(key, slot.change()));
    }

    /// The keys in order.
    pub fn keys(&self) -> Keys<'_, K, V> {
        Keys(self.entries.iter())
    }
    /// The objects in the order of their keys.
    pub fn values(&self) -> Values<'_, K, V> {
        Values(self.entries.iter())
    }
    /// The objects, to change.
    pub fn values_mut(&mut self) -> ValuesMut<'_, K, V> {
        ValuesMut(self.entries.iter_mut())
    }
    /// Keys and objects in order.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter(self.entries.iter())
    }
    /// Keys and objects, the objects to change.
    pub fn iter_mut(&mut self) -> IterMut<'_, K, V> {
        IterMut(self.entries.iter_mut())
    }
    /// The entries whose keys lie in `bounds`.
    pub fn range(&self, bounds: impl RangeBounds<K>) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.entries.iter().filter(move |(key, _)| bounds.contains(key)).map(|(key, slot)| (key, &slot.value))
    }
    /// The first entry.
    pub fn first_key_value(&self) -> Option<(&K, &V)> {
        self.entries.first().map(|(key, slot)| (key, &slot.value))
    }
    /// The last entry.
    pub fn last_key_value(&self) -> Option<(&K, &V)> {
        self.entries.last().map(|(key, slot)| (key, &slot.value))
    }
    /// Keys, objects, and the record of each: empty if it must be written anew.
    pub fn records(&self) -> impl Iterator<Item = (&K, &V, &RefCell<Sealed>)> {
        self.entries.iter().map(|(key, slot)| (key, &slot.value, &slot.record))
    }
    /// Objects that satisfy `wanted`, to change.
    pub fn some_mut(&mut self, mut wanted: impl FnMut(&K, &V) -> bool) -> impl Iterator<Item = (&K, &mut V)> {
        self.entries.iter_mut().filter_map(
            move |(key, slot)| {
                if wanted(key, &slot.value) { Some((&*key, slot.change())) } else { None }
            },
        )
    }
}

impl<K: Copy + Ord, V> Default for Table<K, V> {
    fn default() -> Table<K, V> {
        Table::new()
    }
}

impl<K: Copy, V: Clone> Clone for Table<K, V> {
    fn clone(&self) -> Table<K, V> {
        Table { entries: self.entries.clone(), last: Cell::new(0) }
    }
}

impl<K: Copy + Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// An iterator over entries that shows a part of them.
macro_rules! iterator {
    ($(#[$about:meta])* $name:ident over $inner:ident gives $item:ty, $part:expr) => {
        $(#[$about])*
        pub struct $name<'a, K, V>(slice::$inner<'a, Entry<K, V>>);

        impl<'a, K, V> Iterator for $name<'a, K, V> {
            type Item = $item;
            #[inline]
            fn next(&mut self) -> Option<$item> {
                self.0.next().map($part)
            }
            fn size_hint(&self) -> (usize, Option<usize>) {
                self.0.size_hint()
            }
        }

        impl<'a, K, V> DoubleEndedIterator for $name<'a, K, V> {
            fn next_back(&mut self) -> Option<$item> {
                self.0.next_back().map($part)
            }
        }

        impl<K, V> ExactSizeIterator for $name<'_, K, V> {}
    };
}

iterator! {
    /// Keys.
    Keys over Iter gives &'a K, |(key, _)| key
}
iterator! {
    /// Objects.
    Values over Iter gives &'a V, |(_, slot)| &slot.value
}
iterator! {
    /// Objects, to change.
    ValuesMut over IterMut gives &'a mut V, |(_, slot)| slot.change()
}
iterator! {
    /// Keys and objects.
    Iter over Iter gives (&'a K, &'a V), |(key, slot)| (key, &slot.value)
}
iterator! {
    /// Keys and objects, the objects to change.
    IterMut over IterMut gives (&'a K, &'a mut V), |(key, slot)| (&*key, slot.change())
}

impl<'a, K: Copy + Ord, V> IntoIterator for &'a Table<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;
    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

impl<'a, K: Copy + Ord, V> IntoIterator for &'a mut Table<K, V> {
    type Item = (&'a K, &'a mut V);
    type IntoIter = IterMut<'a, K, V>;
    fn into_iter(self) -> IterMut<'a, K, V> {
        self.iter_mut()
    }
}

impl<K: Copy, V> IntoIterator for Table<K, V> {
    type Item = (K, V);
    type IntoIter = core::iter::Map<vec::IntoIter<Entry<K, V>>, fn(Entry<K, V>) -> (K, V)>;
    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter().map(|(key, slot)| (key, slot.value))
    }
}

impl<K: Copy + Ord, V> Extend<(K, V)> for Table<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, pairs: I) {
        for (key, value) in pairs {
            self.insert(key, value);
        }
    }
}

impl<K: Copy + Ord, V> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Table<K, V> {
        let mut table = Table::new();
        table.extend(pairs);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    #[test]
    fn it_does_what_a_tree_does() {
        let (mut table, mut model) = (Table::new(), BTreeMap::new());
        let mut state = 7_u32;
        for step in 0..20_000_u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = state >> 16 & 63;
            match state >> 24 & 3 {
                0 | 1 => assert_eq!(table.insert(key, step), model.insert(key, step)),
                2 => assert_eq!(table.remove(&key), model.remove(&key)),
                _ => {
                    assert_eq!(table.get(&key), model.get(&key));
                    assert_eq!(table.get_mut(&key).copied(), model.get(&key).copied());
                    assert_eq!(table.contains_key(&key), model.contains_key(&key));
                }
            }
            assert_eq!(table.len(), model.len());
        }
        assert!(table.iter().eq(model.iter()));
        assert!(table.keys().eq(model.keys()) && table.values().eq(model.values()));
        assert!(table.range(10..20).eq(model.range(10..20)));
        assert_eq!(table.first_key_value(), model.first_key_value());
        assert_eq!(table.last_key_value(), model.last_key_value());
        table.retain(|key, _| key % 2 == 0);
        model.retain(|key, _| key % 2 == 0);
        assert!(table.into_iter().eq(model));
    }
}

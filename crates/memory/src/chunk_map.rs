//! Bit maps by number, of which the one that was asked for last is found at once: who touches a page touches its neighbours
//! next.
use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};
use core::cell::Cell;

/// Words of one bit map.
pub const WORDS: usize = 8;
/// Bit maps in one piece of memory.
const PIECE: usize = 8;

/// A bit map.
pub type Bits = [u64; WORDS];

#[derive(Clone, Copy, Default, Debug)]
struct Slot {
    key: u64,
    bits: Bits,
}

/// Bit maps by number, in order.
#[derive(Clone, Default, Debug)]
pub struct ChunkMap {
    /// Where each is; the places from 0 on, without a gap.
    places: BTreeMap<u64, usize>,
    #[expect(clippy::vec_box, reason = "a kernel's heap may have no large pieces left")]
    pieces: Vec<Box<[Slot; PIECE]>>,
    recent: Cell<usize>,
}

impl ChunkMap {
    /// An empty one.
    pub const fn new() -> ChunkMap {
        ChunkMap { places: BTreeMap::new(), pieces: Vec::new(), recent: Cell::new(0) }
    }

    /// Removes all.
    pub fn clear(&mut self) {
        *self = ChunkMap::new();
    }

    #[inline]
    fn slot(&self, place: usize) -> Option<&Slot> {
        self.pieces.get(place / PIECE)?.get(place % PIECE)
    }

    #[inline]
    fn slot_mut(&mut self, place: usize) -> Option<&mut Slot> {
        self.pieces.get_mut(place / PIECE)?.get_mut(place % PIECE)
    }

    #[inline]
    fn place(&self, key: u64) -> Option<usize> {
        let recent = self.recent.get();
        if recent < self.places.len() && self.slot(recent).is_some_and(|slot| slot.key == key) {
            return Some(recent);
        }
        self.look_up(key)
    }

    fn look_up(&self, key: u64) -> Option<usize> {
        let place = *self.places.get(&key)?;
        self.recent.set(place);
        Some(place)
    }

    /// The one of this number.
    #[inline]
    pub fn get(&self, key: u64) -> Option<&Bits> {
        self.slot(self.place(key)?).map(|slot| &slot.bits)
    }

    /// The one of this number, to be changed.
    #[inline]
    pub fn get_mut(&mut self, key: u64) -> Option<&mut Bits> {
        let place = self.place(key)?;
        self.slot_mut(place).map(|slot| &mut slot.bits)
    }

    /// Changes the one of this number, which is made, empty, if there is none.
    #[inline]
    pub fn change<T>(&mut self, key: u64, change: impl FnOnce(&mut Bits) -> T) -> T {
        let place = self.place(key).unwrap_or_else(|| self.make(key));
        match self.slot_mut(place) {
            Some(slot) => change(&mut slot.bits),
            // A place leads to a slot.
            None => change(&mut Bits::default()),
        }
    }

    fn make(&mut self, key: u64) -> usize {
        let place = self.places.len();
        if place / PIECE >= self.pieces.len() {
            self.pieces.push(Box::default());
        }
        if let Some(slot) = self.slot_mut(place) {
            *slot = Slot { key, bits: Bits::default() };
        }
        self.places.insert(key, place);
        self.recent.set(place);
        place
    }

    /// Takes the one of this number out. The last one takes its place.
    pub fn remove(&mut self, key: u64) -> Option<Bits> {
        let place = self.places.remove(&key)?;
        let last = self.places.len();
        let removed = self.slot(place).copied()?;
        if let Some(moved) = self.slot(last).copied().filter(|_| place != last) {
            if let Some(slot) = self.slot_mut(place) {
                *slot = moved;
            }
            self.places.insert(moved.key, place);
        }
        self.pieces.truncate(last.div_ceil(PIECE));
        Some(removed.bits)
    }

    /// Takes the first one out.
    pub fn pop_first(&mut self) -> Option<(u64, Bits)> {
        let key = *self.places.first_key_value()?.0;
        Some((key, self.remove(key)?))
    }

    /// Those with numbers from `first` to `last`, in order.
    pub fn range(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, &Bits)> {
        self.places.range(first..=last).filter_map(|(key, place)| Some((*key, &self.slot(*place)?.bits)))
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Bits)> {
        self.places.iter().filter_map(|(key, place)| Some((*key, &self.slot(*place)?.bits)))
    }
}

impl PartialEq for ChunkMap {
    fn eq(&self, other: &ChunkMap) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ChunkMap {}

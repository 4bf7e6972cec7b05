//! Sets of page numbers.
use crate::chunk_map::{Bits, ChunkMap, WORDS};

/// Pages in one chunk of a set: as many as one page table maps.
pub const CHUNK: u64 = WORDS as u64 * 64;

/// A set of page numbers, kept as bit maps of [`CHUNK`] pages: dense sets cost little, and it is walked in order.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct PageSet {
    chunks: ChunkMap,
    len: usize,
}

/// The members of a set within one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    base: u64,
    words: Bits,
}

impl Chunk {
    /// How many members.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
    /// The first page that there is room for, and a bit for each from it on.
    pub fn parts(&self) -> (u64, &Bits) {
        (self.base, &self.words)
    }
    /// The members that are in another chunk of the same pages as well.
    pub fn both(&self, other: &Chunk) -> Chunk {
        let mut both = *self;
        for (word, other) in both.words.iter_mut().zip(other.words) {
            *word &= other;
        }
        both
    }
    /// Whether `page` is a member of this chunk.
    pub fn contains(&self, page: u64) -> bool {
        page.checked_sub(self.base)
            .and_then(|at| Some((self.words.get((at / 64) as usize)? >> (at % 64)) & 1 == 1))
            .unwrap_or(false)
    }
    /// The members in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + use<> {
        let base = self.base;
        self.words
            .into_iter()
            .enumerate()
            .flat_map(move |(at, word)| bits(word).map(move |bit| base + at as u64 * 64 + bit))
    }
    /// The first member and the page behind the last one.
    pub fn bounds(&self) -> Option<(u64, u64)> {
        let first = self.words.iter().position(|word| *word != 0)?;
        let last = self.words.iter().rposition(|word| *word != 0)?;
        let low = self.words.get(first)?.trailing_zeros() as u64;
        let high = 64 - self.words.get(last)?.leading_zeros() as u64;
        Some((self.base + first as u64 * 64 + low, self.base + last as u64 * 64 + high))
    }
}

fn bits(word: u64) -> impl Iterator<Item = u64> {
    core::iter::successors(Some(word), |word| Some(*word & word.wrapping_sub(1)))
        .take_while(|word| *word != 0)
        .map(|word| word.trailing_zeros() as u64)
}

/// The bits of word `at` of the chunk at `base` that lie in `first..end`.
fn mask(base: u64, at: usize, first: u64, end: u64) -> u64 {
    let start = base + at as u64 * 64;
    let low = first.saturating_sub(start).min(64);
    let high = end.saturating_sub(start).min(64);
    let below = |n: u64| if n >= 64 { u64::MAX } else { (1 << n) - 1 };
    below(high) & !below(low)
}

impl PageSet {
    /// An empty set.
    pub const fn new() -> PageSet {
        PageSet { chunks: ChunkMap::new(), len: 0 }
    }
    /// How many members.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Removes all.
    pub fn clear(&mut self) {
        self.chunks.clear();
        self.len = 0;
    }
    /// Adds a page; whether it is new.
    pub fn insert(&mut self, page: u64) -> bool {
        let at = page % CHUNK;
        let new = self.chunks.change(page / CHUNK, |words| {
            let Some(word) = words.get_mut((at / 64) as usize) else { return false };
            let new = (*word >> (at % 64)) & 1 == 0;
            *word |= 1 << (at % 64);
            new
        });
        self.len += usize::from(new);
        new
    }
    /// Removes a page; whether it was there.
    pub fn remove(&mut self, page: u64) -> bool {
        let Some(words) = self.chunks.get_mut(page / CHUNK) else { return false };
        let at = page % CHUNK;
        let Some(word) = words.get_mut((at / 64) as usize) else { return false };
        let there = (*word >> (at % 64)) & 1 == 1;
        *word &= !(1 << (at % 64));
        self.len -= usize::from(there);
        if there && words.iter().all(|word| *word == 0) {
            self.chunks.remove(page / CHUNK);
        }
        there
    }
    /// Whether a page is a member.
    pub fn contains(&self, page: u64) -> bool {
        let Some(words) = self.chunks.get(page / CHUNK) else { return false };
        let at = page % CHUNK;
        words.get((at / 64) as usize).is_some_and(|word| (word >> (at % 64)) & 1 == 1)
    }
    /// Which of the up to 64 pages from `first` on are members, a bit each. They lie in one aligned run of 64.
    pub fn window(&self, first: u64) -> u64 {
        let Some(words) = self.chunks.get(first / CHUNK) else { return 0 };
        words.get((first % CHUNK / 64) as usize).map_or(0, |word| word >> (first % 64))
    }
    /// Adds pages by their bits, as [`PageSet::window`] gives them.
    pub fn insert_window(&mut self, first: u64, bits: u64) {
        if bits == 0 {
            return;
        }
        self.len += self.chunks.change(first / CHUNK, |words| {
            let Some(word) = words.get_mut((first % CHUNK / 64) as usize) else { return 0 };
            let new = (bits << (first % 64)) & !*word;
            *word |= new;
            new.count_ones() as usize
        });
    }
    /// Adds the members of a chunk.
    pub fn insert_chunk(&mut self, chunk: &Chunk) {
        self.add(chunk.base / CHUNK, &chunk.words);
    }
    /// Adds the members of another set.
    pub fn merge(&mut self, other: &PageSet) {
        for (key, words) in other.chunks.iter() {
            self.add(key, words);
        }
    }
    fn add(&mut self, key: u64, words: &Bits) {
        if words.iter().all(|word| *word == 0) {
            return;
        }
        self.len += self.chunks.change(key, |own| {
            let mut new = 0;
            for (own, word) in own.iter_mut().zip(words) {
                new += (word & !*own).count_ones() as usize;
                *own |= word;
            }
            new
        });
    }
    fn take_out(&mut self, key: u64, words: &Bits) -> usize {
        let Some(own) = self.chunks.get_mut(key) else { return 0 };
        let (mut removed, mut empty) = (0, true);
        for (own, word) in own.iter_mut().zip(words) {
            removed += (word & *own).count_ones() as usize;
            *own &= !word;
            empty &= *own == 0;
        }
        if empty {
            self.chunks.remove(key);
        }
        self.len -= removed;
        removed
    }
    /// Removes the members of another set.
    pub fn subtract(&mut self, other: &PageSet) {
        for (key, words) in other.chunks.iter() {
            self.take_out(key, words);
        }
    }
    /// The first member at or above `page`.
    pub fn first_from(&self, page: u64) -> Option<u64> {
        self.chunk_from(page, u64::MAX).and_then(|chunk| chunk.bounds()).map(|(first, _)| first)
    }
    /// The members within `from..end` of the first chunk that has any there.
    pub fn chunk_from(&self, from: u64, end: u64) -> Option<Chunk> {
        if from >= end {
            return None;
        }
        for (key, words) in self.chunks.range(from / CHUNK, (end - 1) / CHUNK) {
            let chunk = Self::masked(key, words, from, end);
            if !chunk.is_empty() {
                return Some(chunk);
            }
        }
        None
    }
    /// The members of the chunk that holds `page`.
    pub fn chunk_of(&self, page: u64) -> Chunk {
        let key = page / CHUNK;
        Chunk { base: key * CHUNK, words: self.chunks.get(key).copied().unwrap_or_default() }
    }
    /// All chunks with members, in order.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> {
        self.chunks.iter().map(|(key, words)| Chunk { base: key * CHUNK, words: *words })
    }
    /// The members in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.chunks().flat_map(|chunk| chunk.iter())
    }
    /// Takes chunks out, the first ones, until they hold at least `most` members.
    pub fn take_some(&mut self, most: usize) -> PageSet {
        if self.len <= most {
            return core::mem::take(self);
        }
        let mut taken = PageSet::new();
        while taken.len < most
            && let Some((key, words)) = self.chunks.pop_first()
        {
            let count = words.iter().map(|word| word.count_ones() as usize).sum::<usize>();
            self.len -= count;
            taken.len += count;
            taken.chunks.change(key, |taken| *taken = words);
        }
        taken
    }
    /// Removes the members in `first..end`; how many they were.
    pub fn remove_range(&mut self, first: u64, end: u64) -> usize {
        if first >= end {
            return 0;
        }
        let mut removed = 0;
        let mut from = first;
        while let Some(chunk) = self.chunk_from(from, end) {
            removed += self.take_out(chunk.base / CHUNK, &chunk.words);
            from = chunk.base.saturating_add(CHUNK);
        }
        removed
    }

    fn masked(key: u64, words: &Bits, first: u64, end: u64) -> Chunk {
        let base = key * CHUNK;
        let mut words = *words;
        for (at, word) in words.iter_mut().enumerate() {
            *word &= mask(base, at, first, end);
        }
        Chunk { base, words }
    }
}

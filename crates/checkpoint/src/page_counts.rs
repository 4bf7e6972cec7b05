//! How many pages an image has, of each key and in all.
use crate::layout::PageKey;
use alloc::collections::BTreeMap;

/// Counts by key. That of the key used last is at hand: pages of one key come together.
#[derive(Default, Debug)]
pub(crate) struct PageCounts {
    /// Of all keys but the recent one.
    of_others: BTreeMap<PageKey, u32>,
    recent: Option<(PageKey, u32)>,
    all: u32,
}

impl PageCounts {
    /// All pages.
    pub fn all(&self) -> u32 {
        self.all
    }

    /// There is a page more.
    pub fn add(&mut self, key: PageKey) {
        *self.of(key) += 1;
        self.all += 1;
    }

    /// There is a page less.
    pub fn remove(&mut self, key: PageKey) {
        let of_key = self.of(key);
        *of_key = of_key.saturating_sub(1);
        self.all = self.all.saturating_sub(1);
    }

    /// The pages of a key count no more.
    pub fn forget(&mut self, key: PageKey) {
        let count = *self.of(key);
        self.recent = None;
        self.all = self.all.saturating_sub(count);
    }

    fn of(&mut self, key: PageKey) -> &mut u32 {
        if self.recent.is_none_or(|(recent, _)| recent != key) {
            let count = self.of_others.remove(&key).unwrap_or(0);
            if let Some((before, count)) = self.recent.replace((key, count)) {
                self.of_others.insert(before, count);
            }
        }
        &mut self.recent.get_or_insert((key, 0)).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own() {
        let mut counts = PageCounts::default();
        let [a, b, c] = [1, 2, 3].map(PageKey);
        for key in [a, b, a, c, a, b] {
            counts.add(key);
        }
        counts.remove(b);
        assert_eq!(counts.all(), 5);
        counts.forget(a);
        assert_eq!(counts.all(), 2);
        counts.forget(a);
        counts.remove(a);
        counts.add(a);
        assert_eq!(counts.all(), 2);
        [a, b, c].into_iter().for_each(|key| counts.forget(key));
        assert_eq!(counts.all(), 0);
    }
}

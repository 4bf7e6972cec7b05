//! Sets single flipped bits right in the words that both kept generations go by: a slot's state, pointers and versions of the
//! page map. There is no older copy of those to fall back to, and their checks tell one flipped bit from all others.
use crate::layout::{Damaged, ENTRY_WORDS, Node, PageKey, Tree, VERSIONS, Version};

/// All words that differ from `word` in one bit.
fn neighbours(word: u64) -> impl Iterator<Item = u64> {
    (0..u64::BITS).map(move |bit| word ^ 1 << bit)
}

/// The only one, if there is no other.
pub(crate) fn only<T>(mut found: impl Iterator<Item = T>) -> Option<T> {
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// The word with one bit changed that is `right`; `None` if there is none, or more than one.
pub(crate) fn word(word: u64, right: impl Fn(u64) -> bool) -> Option<u64> {
    only(neighbours(word).filter(|near| right(*near)))
}

impl Tree {
    /// What a pointer that does not check was before one of its bits was flipped.
    pub(crate) fn mend(self, word: u64, prefix: u64, height: Option<u8>) -> Result<Option<Node>, Damaged> {
        let right = |node: &Option<Node>| node.is_none_or(|node| height.is_none_or(|height| node.height == height));
        let near = neighbours(word).filter_map(|near| self.node(near, prefix).ok());
        only(near.filter(right)).ok_or(Damaged)
    }
}

/// What the words of an entry that does not check were before a bit was flipped in one or several of its versions.
pub(crate) fn entry(words: &[u64; ENTRY_WORDS], key: PageKey, page: u64) -> Option<[u64; ENTRY_WORDS]> {
    let [versions @ .., checks] = words;
    let mut mended = *words;
    for (place, word) in versions.iter().enumerate().take(VERSIONS) {
        let check = (checks >> (16 * place)) as u16;
        let own = Version::from_bits(*word).check(key, page);
        if *word == 0 || own == check {
            continue;
        }
        // A bit of the check, a bit of the version, or a bit where there was nothing.
        let same = (own ^ check).is_power_of_two().then_some(*word);
        let near = neighbours(*word).filter(|near| *near == 0 || Version::from_bits(*near).check(key, page) == check);
        let right = only(same.into_iter().chain(near))?;
        *mended.get_mut(place)? = right;
        if right == *word {
            let shift = 16 * place;
            *mended.last_mut()? = mended.last()? & !(0xffff << shift) | u64::from(own) << shift;
        }
    }
    Some(mended)
}

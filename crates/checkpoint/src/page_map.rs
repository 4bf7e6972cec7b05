//! The page map as its writer uses it: finds and makes leaves, changes entries in an order that any death may cut.
use crate::{
    error::{ImageError, WriteError},
    layout::{ABSENT, ENTRY_WORDS, Entry, LEAF_ENTRIES, Node, PageKey, Tree, VERSIONS, Version, WORDS},
};
use alloc::vec::Vec;
use shimos_abi::addr::Frame;
use shimos_hal::{FrameSource, Machine};
use shimos_memory::Frames;

/// A word of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub frame: Frame,
    pub word: usize,
}

/// The page map of one image, by the place of its root pointer.
#[derive(Debug)]
pub(crate) struct PageMap {
    root: Place,
    /// The leaf used last: key, number of the leaf, frame.
    last: Option<(PageKey, u64, Frame)>,
    /// Where the pointer to the page tree of the key used last is. Leaves of the directory stay for good.
    last_key: Option<(PageKey, Place)>,
    /// References that the map holds on frames outside the pool.
    pub foreign: u64,
    /// Who is asked for pages that the map says nothing of.
    pub beneath: Beneath,
}

/// What is beneath a page map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Beneath {
    /// Nothing: a page that it says nothing of is none.
    #[default]
    Nothing,
    /// Another map, which may have the page: that it is gone must be said.
    Base,
}

/// What changing a page's entry has meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Changed {
    /// Whether the page was there before.
    pub was: bool,
    /// Whether it is there now.
    pub is: bool,
    /// What happened to the entry.
    pub effect: Effect,
}

/// What happened to an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// Nothing: it said so already.
    None,
    /// A first version was written.
    First,
    /// A version was written that supersedes others.
    Superseded,
    /// The version of this same epoch was replaced.
    Again,
}

impl PageMap {
    pub fn new(root: Place) -> PageMap {
        PageMap { root, last: None, last_key: None, foreign: 0, beneath: Beneath::Nothing }
    }

    /// Makes a node: a frame of zeros.
    fn new_node<M: Machine>(machine: &mut M, frames: &mut Frames) -> Result<Frame, WriteError> {
        let frame = frames.take().ok_or(WriteError::OutOfFrames)?;
        machine.zero_frame(frame);
        Ok(frame)
    }

    /// The leaf of `tree` for `index`, made if need be. Every node is complete before a pointer to it is stored.
    fn make_leaf<M: Machine>(
        machine: &mut M,
        frames: &mut Frames,
        tree: Tree,
        root: Place,
        index: u64,
    ) -> Result<Frame, WriteError> {
        let damaged = |place: Place| WriteError::Damaged(ImageError::Pointer(place.frame));
        let needed = tree.height_for(index);
        let word = machine.read_word(root.frame, root.word);
        let mut node = match tree.node(word, 0).map_err(|_| damaged(root))? {
            Some(node) => node,
            None => {
                let node = Node { frame: Self::new_node(machine, frames)?, height: needed };
                machine.write_word(root.frame, root.word, tree.pointer(node, 0));
                node
            }
        };
        while node.height < needed {
            let above = Node { frame: Self::new_node(machine, frames)?, height: node.height + 1 };
            machine.write_word(above.frame, 0, tree.pointer(node, 0));
            machine.write_word(root.frame, root.word, tree.pointer(above, 0));
            node = above;
        }
        while node.height > 0 {
            let place = Place { frame: node.frame, word: tree.place(index, node.height) };
            let below = node.height - 1;
            let prefix = tree.prefix(index, below);
            let word = machine.read_word(place.frame, place.word);
            node = match tree.node(word, prefix).map_err(|_| damaged(place))? {
                Some(next) if next.height == below => next,
                Some(_) => return Err(damaged(place)),
                None => {
                    let next = Node { frame: Self::new_node(machine, frames)?, height: below };
                    machine.write_word(place.frame, place.word, tree.pointer(next, prefix));
                    next
                }
            };
        }
        Ok(node.frame)
    }

    /// The places of the pointers on the way to the leaf of `index`, the leaf's own last; empty if there is no leaf.
    fn path<M: Machine>(machine: &M, tree: Tree, root: Place, index: u64) -> Result<Vec<(Place, Node)>, WriteError> {
        let damaged = |place: Place| WriteError::Damaged(ImageError::Pointer(place.frame));
        let mut path = Vec::new();
        let word = machine.read_word(root.frame, root.word);
        let Some(mut node) = tree.node(word, 0).map_err(|_| damaged(root))? else { return Ok(path) };
        if node.height < tree.height_for(index) {
            return Ok(path);
        }
        path.push((root, node));
        while node.height > 0 {
            let place = Place { frame: node.frame, word: tree.place(index, node.height) };
            let below = node.height - 1;
            let word = machine.read_word(place.frame, place.word);
            match tree.node(word, tree.prefix(index, below)).map_err(|_| damaged(place))? {
                Some(next) if next.height == below => node = next,
                Some(_) => return Err(damaged(place)),
                None => return Ok(Vec::new()),
            }
            path.push((place, node));
        }
        Ok(path)
    }

    /// The leaf of `index`, if there is one.
    fn find<M: Machine>(machine: &M, tree: Tree, root: Place, index: u64) -> Result<Option<Frame>, WriteError> {
        let damaged = |place: Place| WriteError::Damaged(ImageError::Pointer(place.frame));
        let word = machine.read_word(root.frame, root.word);
        let Some(mut node) = tree.node(word, 0).map_err(|_| damaged(root))? else { return Ok(None) };
        if node.height < tree.height_for(index) {
            return Ok(None);
        }
        while node.height > 0 {
            let place = Place { frame: node.frame, word: tree.place(index, node.height) };
            let below = node.height - 1;
            let word = machine.read_word(place.frame, place.word);
            match tree.node(word, tree.prefix(index, below)).map_err(|_| damaged(place))? {
                Some(next) if next.height == below => node = next,
                Some(_) => return Err(damaged(place)),
                None => return Ok(None),
            }
        }
        Ok(Some(node.frame))
    }

    /// Where the pointer to the page tree of `key` is, if its directory leaf exists.
    fn key_place<M: Machine>(&mut self, machine: &M, key: PageKey) -> Result<Option<Place>, WriteError> {
        if let Some((last, place)) = self.last_key
            && last == key
        {
            return Ok(Some(place));
        }
        let index = u64::from(key.0);
        let Some(frame) = Self::find(machine, Tree::Directory, self.root, index)? else { return Ok(None) };
        let place = Place { frame, word: (index % WORDS as u64) as usize };
        self.last_key = Some((key, place));
        Ok(Some(place))
    }

    /// The leaf of a page, if there is one.
    fn find_leaf<M: Machine>(&mut self, machine: &M, key: PageKey, page: u64) -> Result<Option<Frame>, WriteError> {
        let number = page / LEAF_ENTRIES as u64;
        if let Some((last_key, last_number, leaf)) = self.last
            && last_key == key
            && last_number == number
        {
            return Ok(Some(leaf));
        }
        let Some(root) = self.key_place(machine, key)? else { return Ok(None) };
        let leaf = Self::find(machine, Tree::Pages(key), root, page)?;
        if let Some(leaf) = leaf {
            self.last = Some((key, number, leaf));
        }
        Ok(leaf)
    }

    fn leaf_for<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        key: PageKey,
        page: u64,
    ) -> Result<Frame, WriteError> {
        if let Some(leaf) = self.find_leaf(machine, key, page)? {
            return Ok(leaf);
        }
        let directory = Self::make_leaf(machine, frames, Tree::Directory, self.root, u64::from(key.0))?;
        let root = Place { frame: directory, word: (u64::from(key.0) % WORDS as u64) as usize };
        let leaf = Self::make_leaf(machine, frames, Tree::Pages(key), root, page)?;
        self.last = Some((key, page / LEAF_ENTRIES as u64, leaf));
        Ok(leaf)
    }

    /// The leaf in which it can be said what a page is; `None` if that there is none needs no words.
    pub fn leaf_to_set<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        (key, page): (PageKey, u64),
        frame: Option<Frame>,
    ) -> Result<Option<Frame>, WriteError> {
        if frame.is_some() || self.beneath == Beneath::Base {
            self.leaf_for(machine, frames, key, page).map(Some)
        } else {
            self.find_leaf(machine, key, page)
        }
    }

    /// Says what a page, which is in this leaf, is from `epoch` on. The two generations before keep what they have.
    pub fn set<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        epoch: u32,
        (leaf, key, page): (Frame, PageKey, u64),
        frame: Option<Frame>,
    ) -> Result<Changed, WriteError> {
        let words = Entry::words(machine, leaf, page);
        if !Entry::is_right(&words, key, page) {
            return Err(WriteError::Damaged(ImageError::Entry(leaf)));
        }
        let [versions @ .., checks] = words;
        // Of three versions the oldest is needed by no kept generation: the newest is for the last committed one and the
        // middle one at most for the one before. A version of this same epoch is replaced before that, as its word is the largest.
        let (mut newest, mut newest_place, mut oldest, mut oldest_place) = (0, 0, u64::MAX, 0);
        for (place, word) in versions.into_iter().enumerate() {
            if word > newest && word >> 32 <= u64::from(epoch) {
                (newest, newest_place) = (word, place);
            }
            if word < oldest {
                (oldest, oldest_place) = (word, place);
            }
        }
        let before = Version::from_word(newest).and_then(Version::page);
        let (was, is) = (before.is_some(), frame.is_some());
        // A frame in the image is never written, so the same frame is the same content.
        if before == frame && (newest != 0 || self.beneath == Beneath::Nothing) {
            return Ok(Changed { was, is, effect: Effect::None });
        }
        let again = newest >> 32 == u64::from(epoch);
        let (place, old) = if again { (newest_place, newest) } else { (oldest_place, oldest) };
        if let Some(frame) = frame {
            self.hold(frames, frame);
        }
        let start = (page % LEAF_ENTRIES as u64) as usize * ENTRY_WORDS;
        // First the word, then the reference.
        if let Some(version) = Version::from_word(old) {
            machine.write_word(leaf, start + place, 0);
            if let Some(frame) = version.page() {
                self.forget(frames, frame);
            }
        }
        let version = Version { epoch, frame: frame.map_or(ABSENT, |frame| frame.0) };
        let first = versions.into_iter().enumerate().all(|(at, word)| word == 0 || at == place);
        if first && frame.is_none() && self.beneath == Beneath::Nothing {
            return Ok(Changed { was, is, effect: Effect::Again });
        }
        let shift = 16 * place;
        let checks = checks & !(0xffff << shift) | u64::from(version.check(key, page)) << shift;
        machine.write_word(leaf, start + VERSIONS, checks);
        machine.write_word(leaf, start + place, version.word());
        let effect = match (again, first) {
            (true, _) => Effect::Again,
            (false, true) => Effect::First,
            (false, false) => Effect::Superseded,
        };
        Ok(Changed { was, is, effect })
    }

    fn hold(&mut self, frames: &mut Frames, frame: Frame) {
        frames.share(frame);
        if frames.is_foreign(frame) {
            self.foreign += 1;
        }
    }

    /// Removes one version: first the word, then the reference.
    fn clear<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        leaf: Frame,
        page: u64,
        entry: &mut Entry,
        place: usize,
    ) {
        let Some(version) = entry.versions.get_mut(place).and_then(Option::take) else { return };
        machine.write_word(leaf, (page % LEAF_ENTRIES as u64) as usize * ENTRY_WORDS + place, 0);
        if let Some(frame) = version.page() {
            self.forget(frames, frame);
        }
    }

    /// A reference of the map on a frame is given up.
    pub fn forget(&mut self, frames: &mut Frames, frame: Frame) {
        if frames.is_foreign(frame) {
            self.foreign = self.foreign.saturating_sub(1);
        }
        frames.release(frame);
    }

    /// Takes the version of `epoch` back.
    pub fn undo<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        epoch: u32,
        at: (PageKey, u64),
    ) -> Result<Changed, WriteError> {
        let (key, page) = at;
        let none = Changed { was: false, is: false, effect: Effect::None };
        let Some(leaf) = self.find_leaf(machine, key, page)? else { return Ok(none) };
        let mut entry = Entry::read(machine, leaf, key, page)?;
        let was = entry.at(epoch).and_then(Version::page).is_some();
        for place in 0..VERSIONS {
            if entry.versions.get(place).copied().flatten().is_some_and(|version| version.epoch == epoch) {
                self.clear(machine, frames, leaf, page, &mut entry, place);
            }
        }
        let is = entry.at(epoch).and_then(Version::page).is_some();
        Ok(Changed { was, is, effect: Effect::None })
    }

    /// Removes what no generation from `oldest` on needs; `absent` says whether that one may need marks of absence. Returns
    /// whether the entry is empty now.
    pub fn sweep<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        (oldest, absent): (u32, Beneath),
        at: (PageKey, u64),
    ) -> Result<Swept, WriteError> {
        let (key, page) = at;
        let Some(leaf) = self.find_leaf(machine, key, page)? else { return Ok(Swept::InUse) };
        let mut entry = Entry::read(machine, leaf, key, page)?;
        let Some(base) = entry.at(oldest) else { return Ok(Swept::InUse) };
        // The mark of absence goes last: while it stands, what it supersedes does not come back.
        let needed = base.page().is_some() || absent == Beneath::Base;
        let limit = if needed { base.epoch } else { base.epoch.saturating_add(1) };
        while let Some(place) = oldest_below(&entry, limit) {
            self.clear(machine, frames, leaf, page, &mut entry, place);
        }
        Ok(if entry.is_empty() { Swept::Empty } else { Swept::InUse })
    }

    /// Removes the leaf of a page, and nodes above it, if nothing is in them.
    pub fn prune<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        key: PageKey,
        page: u64,
    ) -> Result<(), WriteError> {
        let Some(root) = self.key_place(machine, key)? else { return Ok(()) };
        let mut path = Self::path(machine, Tree::Pages(key), root, page)?;
        while let Some((place, node)) = path.pop() {
            let used = if node.height == 0 {
                (0..WORDS).any(|word| word % ENTRY_WORDS != VERSIONS && machine.read_word(node.frame, word) != 0)
            } else {
                (0..WORDS).any(|word| machine.read_word(node.frame, word) != 0)
            };
            if used {
                return Ok(());
            }
            self.last = None;
            machine.write_word(place.frame, place.word, 0);
            frames.release(node.frame);
        }
        Ok(())
    }

    /// Takes the page tree of a key out of the directory; the word that pointed to it.
    pub fn unlink<M: Machine>(&mut self, machine: &mut M, key: PageKey) -> Result<u64, WriteError> {
        let Some(place) = self.key_place(machine, key)? else { return Ok(0) };
        let word = machine.read_word(place.frame, place.word);
        machine.write_word(place.frame, place.word, 0);
        if self.last.is_some_and(|(last, ..)| last == key) {
            self.last = None;
        }
        Ok(word)
    }
}

/// What is left of an entry after sweeping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Swept {
    InUse,
    Empty,
}

fn oldest_below(entry: &Entry, limit: u32) -> Option<usize> {
    (0..VERSIONS)
        .filter_map(|place| Some((entry.versions.get(place).copied().flatten()?.epoch, place)))
        .filter(|(epoch, _)| *epoch < limit)
        .min()
        .map(|(_, place)| place)
}

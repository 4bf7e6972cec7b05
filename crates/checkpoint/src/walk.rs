//! A walk over a tree of an image, step by step, that trusts nothing it reads.
use crate::{
    error::ImageError,
    layout::{Damaged, Entry, LEAF_ENTRIES, MAX_PAGE, Node, PageKey, Tree, WORDS},
};
use alloc::vec::Vec;
use shimos_abi::addr::{Frame, FrameRange};
use shimos_hal::Machine;

/// What a walk comes by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// A node is entered.
    Enter(Frame),
    /// All below it was seen.
    Leave(Frame),
    /// A page's entry, not empty.
    Entry { key: PageKey, page: u64, entry: Entry },
    /// Something is wrong here; the walk goes on beside it.
    Damaged(ImageError),
}

struct Level {
    tree: Tree,
    node: Node,
    prefix: u64,
    at: usize,
}

/// The walk. Nodes lie in `pool`; in a valid image each lies in a frame of its own, so their number is bounded.
pub(crate) struct Walk {
    pool: FrameRange,
    stack: Vec<Level>,
    nodes_left: u32,
    /// A node in which a flipped bit was set right.
    pub mended: Option<Frame>,
}

/// The node that a word in `holder` points to, which must have that height if one is given.
fn follow(
    (tree, word, prefix, height): (Tree, u64, u64, Option<u8>),
    holder: Frame,
    mended: &mut Option<Frame>,
) -> Result<Option<Node>, Damaged> {
    match tree.node(word, prefix) {
        Ok(Some(node)) if height.is_none_or(|height| height == node.height) => Ok(Some(node)),
        Ok(None) => Ok(None),
        _ => {
            let node = tree.mend(word, prefix, height)?;
            *mended = Some(holder);
            Ok(node)
        }
    }
}

impl Walk {
    /// From the root that `word` points to. A damaged root is the one event of the walk.
    pub fn new(pool: FrameRange, tree: Tree, word: u64) -> Result<Walk, ImageError> {
        let mut walk = Walk { pool, stack: Vec::new(), nodes_left: pool.count, mended: None };
        match follow((tree, word, 0, None), pool.first, &mut walk.mended) {
            Ok(Some(node)) => walk.stack.push(Level { tree, node, prefix: 0, at: 0 }),
            Ok(None) => {}
            Err(_) => return Err(ImageError::Pointer(pool.first)),
        }
        Ok(walk)
    }

    /// Goes to where `index` is, or what follows it: what is before it does not come any more. For a walk that has not begun.
    pub fn seek<M: Machine>(&mut self, machine: &M, index: u64) {
        if self.stack.last().is_some_and(|root| root.node.height < root.tree.height_for(index)) {
            // All of the tree is before it.
            self.stack.clear();
        }
        loop {
            let (pool, nodes_left) = (self.pool, self.nodes_left);
            let Some(level) = self.stack.last_mut() else { return };
            let (tree, node) = (level.tree, level.node);
            let usable = pool.contains(node.frame) && node.frame != pool.first && machine.readable(node.frame);
            if !usable || nodes_left == 0 {
                // The walk says so.
                return;
            }
            self.nodes_left -= 1;
            if node.height == 0 {
                level.at = 1 + (index % (1 << tree.leaf_bits())) as usize;
                return;
            }
            let place = tree.place(index, node.height);
            level.at = 1 + place;
            let prefix = tree.prefix(index, node.height - 1);
            let word = machine.read_word(node.frame, place);
            match follow((tree, word, prefix, Some(node.height - 1)), node.frame, &mut self.mended) {
                Ok(Some(next)) => {
                    level.at += 1;
                    self.stack.push(Level { tree, node: next, prefix, at: 0 });
                }
                // Nothing is there, or the walk says what is wrong with it.
                _ => return,
            }
        }
    }

    fn usable<M: Machine>(&self, machine: &M, frame: Frame) -> bool {
        self.pool.contains(frame) && frame != self.pool.first && machine.readable(frame)
    }

    /// The next event; `None` at the end.
    pub fn next<M: Machine>(&mut self, machine: &M) -> Option<Event> {
        loop {
            let pool = self.pool;
            let level = self.stack.last_mut()?;
            let frame = level.node.frame;
            if level.at == 0 {
                let usable = pool.contains(frame) && frame != pool.first && machine.readable(frame);
                if !usable || self.nodes_left == 0 {
                    self.stack.pop();
                    let error = if usable { ImageError::Endless } else { ImageError::Outside(frame) };
                    return Some(Event::Damaged(error));
                }
                self.nodes_left -= 1;
                level.at = 1;
                return Some(Event::Enter(frame));
            }
            let place = level.at - 1;
            level.at += 1;
            if let (Tree::Pages(key), 0) = (level.tree, level.node.height) {
                let page = level.prefix * LEAF_ENTRIES as u64 + place as u64;
                if place >= LEAF_ENTRIES || page >= MAX_PAGE {
                    self.stack.pop();
                    return Some(Event::Leave(frame));
                }
                let words = Entry::words(machine, frame, page);
                if let [0, 0, 0, _] = words {
                    continue;
                }
                return match Entry::mended(&words, key, page) {
                    Ok((entry, mended)) => {
                        if mended {
                            self.mended = Some(frame);
                        }
                        if entry.is_empty() {
                            continue;
                        }
                        Some(Event::Entry { key, page, entry })
                    }
                    Err(Damaged) => Some(Event::Damaged(ImageError::Entry(frame))),
                };
            }
            if place >= WORDS {
                self.stack.pop();
                return Some(Event::Leave(frame));
            }
            let word = machine.read_word(frame, place);
            if word == 0 {
                continue;
            }
            let below = level.prefix * WORDS as u64 + place as u64;
            let (tree, prefix, height) = match (level.tree, level.node.height) {
                // A leaf of the directory leads to the page tree of a key, of any height.
                (Tree::Directory, 0) => match u32::try_from(below) {
                    Ok(key) => (Tree::Pages(PageKey(key)), 0, None),
                    Err(_) => return Some(Event::Damaged(ImageError::Pointer(frame))),
                },
                (tree, height) => (tree, below, Some(height - 1)),
            };
            match follow((tree, word, prefix, height), frame, &mut self.mended) {
                Ok(Some(node)) => self.stack.push(Level { tree, node, prefix, at: 0 }),
                // A bit was flipped where there is nothing.
                Ok(None) => {}
                Err(Damaged) => return Some(Event::Damaged(ImageError::Pointer(frame))),
            }
        }
    }

    /// Follows pointers from the root down to the leaf of `index`, if there is one.
    fn find_leaf<M: Machine>(&mut self, machine: &M, index: u64) -> Result<Option<Frame>, ImageError> {
        let Some(Level { tree, mut node, .. }) = self.stack.pop() else { return Ok(None) };
        if node.height < tree.height_for(index) {
            return Ok(None);
        }
        while node.height > 0 {
            if !self.usable(machine, node.frame) {
                return Err(ImageError::Outside(node.frame));
            }
            let below = node.height - 1;
            let word = machine.read_word(node.frame, tree.place(index, node.height));
            let wanted = (tree, word, tree.prefix(index, below), Some(below));
            match follow(wanted, node.frame, &mut self.mended) {
                Ok(None) => return Ok(None),
                Ok(Some(next)) => node = next,
                Err(Damaged) => return Err(ImageError::Pointer(node.frame)),
            }
        }
        if !self.usable(machine, node.frame) {
            return Err(ImageError::Outside(node.frame));
        }
        Ok(Some(node.frame))
    }

    /// The word that points to the page tree of `key`; 0 for none.
    pub fn find_key<M: Machine>(&mut self, machine: &M, key: PageKey) -> Result<u64, ImageError> {
        let index = u64::from(key.0);
        let leaf = self.find_leaf(machine, index)?;
        Ok(leaf.map_or(0, |leaf| machine.read_word(leaf, (index % WORDS as u64) as usize)))
    }

    /// The entry of one page of `key`, whose page tree this walk is over.
    pub fn find_page<M: Machine>(&mut self, machine: &M, key: PageKey, page: u64) -> Result<Option<Entry>, ImageError> {
        if page >= MAX_PAGE {
            return Ok(None);
        }
        match self.find_leaf(machine, page)? {
            Some(leaf) => {
                let (entry, mended) = Entry::read_mended(machine, leaf, key, page)?;
                if mended {
                    self.mended = Some(leaf);
                }
                Ok(Some(entry))
            }
            None => Ok(None),
        }
    }
}

//! Directories that paths have led to, so that the next path through them need not be walked again. Derived.
//!
//! A way is what stands before the last part of a path. It stays true until a directory or symbolic link loses its name,
//! gets other rights, or something is mounted: then all are forgotten. New names and everything that happens to other
//! files change no way. Only ways without symbolic links and outside of synthetic trees are known.
use crate::{access::Credentials, node::NodeId, walk::Start};
use alloc::{boxed::Box, vec::Vec};
use core::{cell::RefCell, fmt};

/// Ways that are known at a time.
const WAYS: usize = 256;
/// Longer ones are walked.
const LONGEST: usize = 256;

struct Way {
    start: Start,
    uid: u32,
    gid: u32,
    path: Box<[u8]>,
    /// Where it leads; its rights let the user search it.
    dir: NodeId,
}

/// Ways, each in the one place where it may be.
#[derive(Default)]
pub(crate) struct Ways(RefCell<Vec<Option<Way>>>);

fn place_of(path: &[u8]) -> usize {
    let mut hash = path.len() as u64;
    let mut words = path.chunks_exact(8);
    for word in &mut words {
        hash = (hash ^ u64::from_le_bytes(word.try_into().unwrap_or_default())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
    }
    let rest = words.remainder().iter().fold(0, |rest, byte| rest << 8 | u64::from(*byte));
    hash = (hash ^ rest).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 40) as usize % WAYS
}

/// Whether two paths are the same, a word at a time.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let (mut x, mut y) = (a.chunks_exact(8), b.chunks_exact(8));
    let same = (&mut x).zip(&mut y).all(|(a, b)| a == b);
    same && x.remainder().iter().zip(y.remainder()).all(|(a, b)| a == b)
}

/// Where a path begins, as far as that matters to it.
fn start_of(start: &Start, path: &[u8]) -> Start {
    let cwd = if path.first() == Some(&b'/') { start.root } else { start.cwd };
    Start { root: start.root, cwd }
}

impl Ways {
    /// Where a way leads.
    pub fn find(&self, start: &Start, who: &Credentials, path: &[u8]) -> Option<NodeId> {
        let ways = self.0.borrow();
        let way = ways.get(place_of(path))?.as_ref()?;
        let known = way.start == start_of(start, path)
            && (way.uid, way.gid) == (who.uid, who.gid)
            && (who.is_root() || who.groups.is_empty())
            && is_same(&way.path, path);
        known.then_some(way.dir)
    }
    /// Remembers a way.
    pub fn note(&self, start: &Start, who: &Credentials, path: &[u8], dir: NodeId) {
        if path.len() > LONGEST || !(who.is_root() || who.groups.is_empty()) {
            return;
        }
        let mut ways = self.0.borrow_mut();
        if ways.is_empty() {
            ways.resize_with(WAYS, || None);
        }
        if let Some(place) = ways.get_mut(place_of(path)) {
            let start = start_of(start, path);
            *place = Some(Way { start, uid: who.uid, gid: who.gid, path: path.into(), dir });
        }
    }
    /// Forgets all ways.
    pub fn forget(&mut self) {
        self.0.get_mut().clear();
    }
}

/// What is derived is no part of a tree's state: a copy begins without it, and it makes no difference.
impl Clone for Ways {
    fn clone(&self) -> Ways {
        Ways::default()
    }
}
impl PartialEq for Ways {
    fn eq(&self, _: &Ways) -> bool {
        true
    }
}
impl Eq for Ways {}
impl fmt::Debug for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ways")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, vec, vec::Vec};

    fn start(cwd: u64) -> Start {
        Start { root: NodeId::Lower(1), cwd: NodeId::Lower(cwd) }
    }

    fn user(uid: u32, groups: Vec<u32>) -> Credentials {
        Credentials { uid, gid: uid, groups }
    }

    #[test]
    fn a_way_is_known_to_who_went_it() {
        let (mut ways, root, dir) = (Ways::default(), user(0, vec![]), NodeId::Upper(7));
        assert_eq!(ways.find(&start(2), &root, b"/usr/bin/"), None);
        ways.note(&start(2), &root, b"/usr/bin/", dir);
        assert_eq!(ways.find(&start(2), &root, b"/usr/bin/"), Some(dir));
        assert_eq!(ways.find(&start(3), &root, b"/usr/bin/"), Some(dir), "where one stands does not matter to it");
        assert_eq!(ways.find(&start(2), &user(5, vec![]), b"/usr/bin/"), None, "others may not search it");
        assert_eq!(ways.find(&start(2), &root, b"/usr/bim/"), None);
        assert_eq!(ways.find(&start(2), &root, b"/usr/bin"), None);
        let elsewhere = Start { root: NodeId::Lower(9), cwd: NodeId::Lower(2) };
        assert_eq!(ways.find(&elsewhere, &root, b"/usr/bin/"), None);
        ways.note(&start(2), &root, b"bin/", dir);
        assert_eq!(ways.find(&start(2), &root, b"bin/"), Some(dir));
        assert_eq!(ways.find(&start(3), &root, b"bin/"), None, "from here it leads elsewhere");
        assert_eq!(ways.clone().find(&start(2), &root, b"bin/"), None);
        ways.forget();
        assert_eq!(ways.find(&start(2), &root, b"bin/"), None);
    }

    #[test]
    fn only_root_is_known_with_other_groups() {
        let (ways, dir) = (Ways::default(), NodeId::Upper(7));
        ways.note(&start(2), &user(5, vec![8]), b"/a/", dir);
        assert_eq!(ways.find(&start(2), &user(5, vec![8]), b"/a/"), None);
        assert_eq!(ways.find(&start(2), &user(5, vec![]), b"/a/"), None);
        ways.note(&start(2), &user(0, vec![8]), b"/a/", dir);
        assert_eq!(ways.find(&start(2), &user(0, vec![9]), b"/a/"), Some(dir));
    }

    #[test]
    fn what_is_known_is_bounded_and_never_wrong() {
        let (ways, root) = (Ways::default(), user(0, vec![]));
        let path = |number: u64| format!("/some/directory/with/a/name/{number:06}/").into_bytes();
        for number in 0..3000 {
            ways.note(&start(2), &root, &path(number), NodeId::Upper(number));
        }
        let known = (0..3000).filter(|number| {
            let found = ways.find(&start(2), &root, &path(*number));
            assert!(found.is_none_or(|dir| dir == NodeId::Upper(*number)));
            found.is_some()
        });
        assert!((WAYS / 2..=WAYS).contains(&known.count()));
        let long = vec![b'x'; LONGEST + 1];
        ways.note(&start(2), &root, &long, NodeId::Upper(1));
        assert_eq!(ways.find(&start(2), &root, &long), None);
    }
}

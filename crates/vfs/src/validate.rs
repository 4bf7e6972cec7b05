//! What must hold in a tree that was decoded from memory that is not to be trusted.
use crate::{
    NAME_MAX, PATH_MAX,
    change::is_dots,
    erofs::BLOCK,
    node::{Body, Directory, NodeId},
    tree::Tree,
};
use alloc::collections::BTreeSet;

/// Counters stay below this, so that they never overflow.
const COUNTER_END: u64 = 1 << 61;

fn require(holds: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(otherwise) }
}

impl Tree {
    /// Checks every cross reference and range. A tree that fails is not to be used; using it would not panic.
    pub fn validate(&self) -> Result<(), &'static str> {
        self.image.validate()?;
        let counters = [self.next_node, self.next_object, self.next_seq];
        require(counters.iter().all(|counter| (1..COUNTER_END).contains(counter)), "tree: a counter is out of range")?;
        let mut objects = BTreeSet::new();
        for (id, node) in &self.nodes {
            require(*id < self.next_node, "tree: a node's number is not given out yet")?;
            require(node.mode & !0o7777 == 0, "tree: a node's mode is out of range")?;
            if let Some(nid) = node.copied_from {
                require(self.copied.get(&nid) == Some(id), "tree: a copied node is not known as such")?;
            }
            require(node.attributes_fit(), "tree: a file has more attributes than it may")?;
            match &node.body {
                Body::Directory(directory) => self.validate_directory(directory, node.copied_from)?,
                Body::File { object, size, backing } => {
                    require(object.0 < self.next_object, "tree: an object's number is not given out yet")?;
                    require(objects.insert(*object), "tree: two files share an object")?;
                    require(*size <= i64::MAX as u64 - BLOCK, "tree: a file's size is out of range")?;
                    let backed =
                        backing.is_none_or(|backing| node.copied_from == Some(backing.nid) && backing.len <= *size);
                    require(backed, "tree: a file's backing is not its own or too long")?;
                }
                Body::Symlink { target } => require(target.len() < PATH_MAX, "tree: a link's text is too long")?,
                Body::Device { .. } | Body::Fifo | Body::Socket => {}
            }
        }
        for (nid, id) in &self.copied {
            let whole = self.nodes.get(id).is_some_and(|node| node.copied_from == Some(*nid));
            require(whole, "tree: the copy of a file of the image is not there")?;
        }
        if let NodeId::Upper(root) = self.root() {
            require(self.directory(root).is_ok(), "tree: the root is not a directory")?;
        }
        for (node, count) in &self.pins {
            let known = match node {
                NodeId::Upper(id) => self.nodes.contains_key(id),
                NodeId::Lower(nid) => !self.copied.contains_key(nid),
                NodeId::Synthetic { .. } => false,
            };
            require(known && *count > 0, "tree: a node is held open that is not there")?;
        }
        let mut released = self.released.iter();
        require(
            released.all(|object| object.0 < self.next_object && objects.insert(*object)),
            "tree: an object is released that is in use",
        )?;
        let mut mounts = BTreeSet::new();
        for mounted in &self.mounts {
            require(mounts.insert(mounted.mount.number), "tree: a synthetic tree is mounted twice")?;
            let at = match mounted.at {
                NodeId::Upper(id) => self.directory(id).is_ok(),
                NodeId::Lower(_) => true,
                NodeId::Synthetic { .. } => false,
            };
            require(at, "tree: a mount covers no directory")?;
        }
        Ok(())
    }

    fn validate_directory(&self, directory: &Directory, copied_from: Option<u64>) -> Result<(), &'static str> {
        require(directory.lower == copied_from, "tree: a directory shows another one of the image")?;
        require(!matches!(directory.parent, NodeId::Synthetic { .. }), "tree: a directory lies in a synthetic tree")?;
        for (name, entry) in &directory.entries {
            let good = !is_dots(&name.0) && name.0.len() <= NAME_MAX && !name.0.contains(&b'/') && !name.0.contains(&0);
            require(good, "tree: a name is not one")?;
            require(entry.seq < self.next_seq, "tree: an entry's place is not given out yet")?;
            require(!entry.shadows || directory.lower.is_some(), "tree: an entry shadows nothing")?;
            match entry.node {
                Some(id) => require(self.nodes.contains_key(&id), "tree: an entry's node is not there")?,
                None => require(entry.shadows, "tree: an entry stands for nothing")?,
            }
        }
        Ok(())
    }
}

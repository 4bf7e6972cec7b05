//! Files that are held open.
//!
//! The kernel pins what it holds beyond one call: open files, mappings, working and root directories. A file that loses its
//! last name lives on while it is pinned. The counts are saved with the tree; a kernel that restores only some of the
//! holders says so with [`Tree::rebuild_pins`].
use crate::{
    node::{Body, NodeId, ObjectId},
    tree::Tree,
};
use alloc::vec::Vec;

impl Tree {
    /// Holds a file once more. Synthetic files need no holding, and nothing is counted for them.
    pub fn pin(&mut self, node: NodeId) {
        let node = self.canonical(node);
        if !matches!(node, NodeId::Synthetic { .. }) {
            let count = self.pins.entry(node).or_insert(0);
            *count = count.saturating_add(1);
        }
    }

    /// Holds a file once less. A file without a name goes with its last holder.
    pub fn unpin(&mut self, node: NodeId) {
        let node = self.canonical(node);
        let Some(count) = self.pins.get_mut(&node) else { return };
        *count = count.saturating_sub(1);
        if *count > 0 {
            return;
        }
        self.pins.remove(&node);
        if let NodeId::Upper(id) = node {
            self.drop_unused(id);
        }
    }

    /// Whether a file of the writable layer is no more: it has neither a name nor a holder.
    pub fn is_gone(&self, node: NodeId) -> bool {
        matches!(self.canonical(node), NodeId::Upper(id) if !self.nodes.contains_key(&id))
    }

    /// Forgets all holders, takes these instead (one item for each), and drops what nobody holds.
    pub fn rebuild_pins(&mut self, holders: impl IntoIterator<Item = NodeId>) {
        self.pins.clear();
        for node in holders {
            self.pin(node);
        }
        let nameless: Vec<u64> = self.nodes.iter().filter(|(_, node)| node.nlink == 0).map(|(id, _)| *id).collect();
        for id in nameless {
            self.drop_unused(id);
        }
    }

    /// Whether there are any for [`Tree::take_released_objects`].
    #[inline]
    pub fn has_released_objects(&self) -> bool {
        !self.released.is_empty()
    }
    /// The objects that no file needs any more, since the last call. The kernel frees their pages.
    #[inline]
    pub fn take_released_objects(&mut self) -> Vec<ObjectId> {
        core::mem::take(&mut self.released)
    }

    /// Whether there are any for [`Tree::take_gone`].
    #[inline]
    pub fn has_gone(&self) -> bool {
        !self.gone.is_empty()
    }
    /// The files that are no more, since the last call, by their ids of [`Tree::origin`].
    pub fn take_gone(&mut self) -> Vec<NodeId> {
        core::mem::take(&mut self.gone)
    }

    /// Drops a node that has neither a name nor a holder.
    pub(crate) fn drop_unused(&mut self, id: u64) {
        let Some(node) = self.nodes.get(&id) else { return };
        if node.nlink > 0 || self.pins.contains_key(&NodeId::Upper(id)) {
            return;
        }
        self.gone.push(self.origin(NodeId::Upper(id)));
        if let Some(nid) = node.copied_from
            && self.copied.get(&nid) == Some(&id)
        {
            self.copied.remove(&nid);
        }
        if let Body::File { object, .. } = node.body {
            self.released.push(object);
        }
        self.nodes.remove(&id);
    }
}

//! Synthetic trees and where they are mounted; paths of directories.
use crate::{
    fault::{Fault, Sources},
    node::{DirEntry, Metadata, NodeId},
    tree::{MAX_DEPTH, Tree},
};
use alloc::vec::Vec;
use minicbor::{Decode, Encode};
use shimos_abi::errno::Errno;

/// What a symbolic link leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Link {
    /// A path.
    Text(Vec<u8>),
    /// A file, directly (as in `/proc/self/fd`). It may be one that has no name any more, or a synthetic one that stands
    /// for an open pipe or socket.
    Node(NodeId),
}

/// All synthetic trees of a program, answered by the kernel. `mount` says which tree.
///
/// Node ids are the tree's own; [`Mount::root`] is its root. A process's own files (`/proc/self`) are answered for the
/// process that makes the call.
pub trait Synthetic {
    /// The file `name` of directory `dir`, never `.` or `..`. ENOENT if there is none.
    fn lookup(&self, mount: u8, dir: u64, name: &[u8]) -> Result<u64, Fault>;
    /// The directory that holds `dir`. Not asked for the root.
    fn parent(&self, mount: u8, dir: u64) -> Result<u64, Fault>;
    /// What stat(2) tells.
    fn metadata(&self, mount: u8, node: u64) -> Result<Metadata, Fault>;
    /// The text of a symbolic link.
    fn readlink(&self, mount: u8, node: u64) -> Result<Vec<u8>, Fault>;
    /// Where the walk goes on at a symbolic link: at its text, unless the tree says otherwise.
    fn follow(&self, mount: u8, node: u64) -> Result<Link, Fault> {
        Ok(Link::Text(self.readlink(mount, node)?))
    }
    /// At most `limit` entries behind `cursor` (0 for the first), `.` and `..` included. None left is an empty list.
    fn read_dir(&self, mount: u8, dir: u64, cursor: u64, limit: usize) -> Result<Vec<DirEntry>, Fault>;
    /// The path of `node` from the tree's root, without a leading slash; empty for the root.
    fn path(&self, mount: u8, node: u64) -> Result<Vec<u8>, Fault>;
}

/// No synthetic trees at all.
pub struct NoSynthetic;

impl Synthetic for NoSynthetic {
    fn lookup(&self, _: u8, _: u64, _: &[u8]) -> Result<u64, Fault> {
        Err(Errno::ENOENT.into())
    }
    fn parent(&self, _: u8, _: u64) -> Result<u64, Fault> {
        Err(Errno::ENOENT.into())
    }
    fn metadata(&self, _: u8, _: u64) -> Result<Metadata, Fault> {
        Err(Errno::ENOENT.into())
    }
    fn readlink(&self, _: u8, _: u64) -> Result<Vec<u8>, Fault> {
        Err(Errno::ENOENT.into())
    }
    fn read_dir(&self, _: u8, _: u64, _: u64, _: usize) -> Result<Vec<DirEntry>, Fault> {
        Err(Errno::ENOENT.into())
    }
    fn path(&self, _: u8, _: u64) -> Result<Vec<u8>, Fault> {
        Err(Errno::ENOENT.into())
    }
}

/// A synthetic tree that is mounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Mount {
    /// Which tree: the `mount` of its node ids.
    #[n(0)]
    pub number: u8,
    /// Its root.
    #[n(1)]
    pub root: u64,
}

/// A mount and the directory that it covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) struct Mounted {
    #[n(0)]
    pub at: NodeId,
    #[n(1)]
    pub mount: Mount,
}

impl Tree {
    /// Covers directory `at` by a synthetic tree. EBUSY if it is covered already, or the tree mounted elsewhere; EINVAL
    /// inside another synthetic tree.
    pub fn mount(&mut self, sources: &mut Sources<'_>, at: NodeId, mount: Mount) -> Result<(), Fault> {
        self.directory_metadata(sources, at)?;
        let at = self.canonical(at);
        if let NodeId::Synthetic { .. } = at {
            return Err(Errno::EINVAL.into());
        }
        if self.covering(at).is_some() || self.mounts.iter().any(|known| known.mount.number == mount.number) {
            return Err(Errno::EBUSY.into());
        }
        self.mounts.push(Mounted { at, mount });
        self.ways.forget();
        Ok(())
    }

    /// Uncovers the directory under a synthetic tree. EINVAL if it is not mounted.
    pub fn unmount(&mut self, number: u8) -> Result<(), Errno> {
        let before = self.mounts.len();
        self.mounts.retain(|known| known.mount.number != number);
        self.ways.forget();
        if self.mounts.len() == before { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// The root of the tree that covers `dir`, if one does.
    pub fn covering(&self, dir: NodeId) -> Option<NodeId> {
        let dir = self.canonical(dir);
        let covers = |known: &&Mounted| match (known.at, dir) {
            // It may have been moved to the writable layer since.
            (NodeId::Lower(_), NodeId::Upper(_)) => self.canonical(known.at) == dir,
            (at, dir) => at == dir,
        };
        let mounted = self.mounts.iter().find(covers)?;
        Some(NodeId::Synthetic { mount: mounted.mount.number, node: mounted.mount.root })
    }

    /// The mount whose files have this number.
    pub(crate) fn mounted(&self, number: u8) -> Result<&Mounted, Errno> {
        self.mounts.iter().find(|known| known.mount.number == number).ok_or(Errno::ENOENT)
    }

    /// The path of directory `dir` as seen from directory `root`: for getcwd(2) and for names of open directories.
    /// ENOENT if the directory is removed or does not lie under `root`.
    pub fn path_of(&self, sources: &mut Sources<'_>, root: NodeId, dir: NodeId) -> Result<Vec<u8>, Fault> {
        let root = self.canonical(root);
        let mut at = self.canonical(dir);
        // Names from the inside out.
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut length = 0;
        while at != root {
            if let NodeId::Synthetic { mount, node } = at {
                let inside = sources.synthetic.path(mount, node)?;
                if !inside.is_empty() {
                    length += inside.len() + 1;
                    names.push(inside);
                }
                at = self.canonical(self.mounted(mount)?.at);
                continue;
            }
            if at == self.root() || self.metadata(sources, at)?.nlink == 0 || names.len() >= MAX_DEPTH {
                return Err(Errno::ENOENT.into());
            }
            let parent = self.parent(sources, at)?;
            let name = self.name_in(sources, parent, at)?;
            length += name.len() + 1;
            if length >= crate::PATH_MAX {
                return Err(Errno::ENAMETOOLONG.into());
            }
            names.push(name);
            at = parent;
        }
        if names.is_empty() {
            return Ok(b"/".to_vec());
        }
        let mut path = Vec::with_capacity(length);
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        Ok(path)
    }

    /// The path of entry `name` of directory `dir`, as [`crate::Resolved`] gives them: for `/proc/self/exe` and names of
    /// open files. `.` and the empty name stand for the directory itself.
    pub fn path_of_entry(
        &self,
        sources: &mut Sources<'_>,
        root: NodeId,
        dir: NodeId,
        name: &[u8],
    ) -> Result<Vec<u8>, Fault> {
        if name == b".." {
            let above = if self.canonical(dir) == self.canonical(root) { dir } else { self.parent(sources, dir)? };
            return self.path_of(sources, root, above);
        }
        let mut path = self.path_of(sources, root, dir)?;
        if name.is_empty() || name == b"." {
            return Ok(path);
        }
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Ok(path)
    }
}

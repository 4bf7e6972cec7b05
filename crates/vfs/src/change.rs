//! Making and removing names.
use crate::{
    PATH_MAX,
    access::Actor,
    fault::{Fault, Sources},
    node::{Body, DeviceClass, Directory, Kind, Metadata, Nameless, Node, NodeId, Rdev},
    tree::{Found, Tree},
};
use alloc::{collections::BTreeMap, vec::Vec};
use shimos_abi::errno::Errno;

/// Most names that a file may have.
const LINK_MAX: u32 = 65_000;
const SET_GID: u16 = 0o2000;
const STICKY: u16 = 0o1000;

/// What mknod(2) makes besides regular files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Special {
    /// Device.
    Device {
        /// Character or block.
        class: DeviceClass,
        /// Number.
        rdev: Rdev,
    },
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

/// Whether a path's last part is no name: `.`, `..`, or empty (the root).
pub(crate) fn is_dots(name: &[u8]) -> bool {
    matches!(name, b"" | b"." | b"..")
}

/// A name that is free, in a directory of the writable layer.
struct Place {
    dir: u64,
    found: Found,
    metadata: Metadata,
}

impl Tree {
    /// Finds out whether `name` may be made in `dir`, and moves the directory to the writable layer.
    fn place(
        &mut self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        dir: NodeId,
        name: &[u8],
    ) -> Result<Place, Fault> {
        if is_dots(name) {
            return Err(Errno::EEXIST.into());
        }
        if name.contains(&b'/') || name.contains(&0) {
            return Err(Errno::EINVAL.into());
        }
        let found = self.find(sources, dir, name)?;
        if found.node.is_some() {
            return Err(Errno::EEXIST.into());
        }
        let metadata = self.check_change(sources, actor, dir)?;
        Ok(Place { dir: self.copy_up(sources, dir)?, found, metadata })
    }

    /// Makes a node and its first name.
    fn make(
        &mut self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        (dir, name): (NodeId, &[u8]),
        mode: u16,
        body: impl FnOnce(&mut Tree, NodeId) -> Body,
    ) -> Result<NodeId, Fault> {
        let place = self.place(sources, actor, dir, name)?;
        if self.nodes.len() as u64 >= self.limit {
            return Err(Errno::ENOSPC.into());
        }
        let body = body(self, NodeId::Upper(place.dir));
        let mut node = self.new_node(actor, mode, body);
        let is_directory = node.body.kind() == Kind::Directory;
        if place.metadata.mode & SET_GID != 0 {
            node.gid = place.metadata.gid;
            if is_directory {
                node.mode |= SET_GID;
            }
        }
        node.nlink = if is_directory { 2 } else { 1 };
        let id = self.insert(node);
        self.set_entry(place.dir, name, id, place.found)?;
        let dir = self.node_mut(place.dir)?;
        (dir.mtime, dir.ctime) = (actor.now, actor.now);
        if is_directory {
            dir.nlink = dir.nlink.saturating_add(1);
        }
        Ok(NodeId::Upper(id))
    }

    /// A node without a name.
    fn new_node(&self, actor: &Actor<'_>, mode: u16, body: Body) -> Node {
        Node {
            body,
            mode: mode & 0o7777,
            uid: actor.credentials.uid,
            gid: actor.credentials.gid,
            nlink: 0,
            // Odd, see `erofs::ino_of`.
            ino: self.next_node.wrapping_mul(2) | 1,
            atime: actor.now,
            mtime: actor.now,
            ctime: actor.now,
            copied_from: None,
            nameless: None,
            attributes: Vec::new(),
        }
    }

    /// Makes an empty regular file. EEXIST if the name is there. The caller has taken the umask off `mode`.
    pub fn create(
        &mut self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        dir: NodeId,
        name: &[u8],
        mode: u16,
    ) -> Result<NodeId, Fault> {
        let body = |tree: &mut Tree, _| Body::File { object: tree.new_object(), size: 0, backing: None };
        self.make(sources, actor, (dir, name), mode, body)
    }

    /// Makes a regular file that has no name (O_TMPFILE, memfd_create). It is pinned once, for the caller.
    /// Whether it may get a name later is said by `nameless`.
    pub fn create_unnamed(
        &mut self,
        actor: &Actor<'_>,
        mode: u16,
        nameless: Option<Nameless>,
    ) -> Result<NodeId, Errno> {
        if self.nodes.len() as u64 >= self.limit {
            return Err(Errno::ENOSPC);
        }
        let body = Body::File { object: self.new_object(), size: 0, backing: None };
        let node = Node { nameless, ..self.new_node(actor, mode, body) };
        let id = NodeId::Upper(self.insert(node));
        self.pin(id);
        Ok(id)
    }

    /// Makes a directory.
    pub fn mkdir(
        &mut self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        dir: NodeId,
        name: &[u8],
        mode: u16,
    ) -> Result<NodeId, Fault> {
        let body = |_: &mut Tree, parent| Body::Directory(Directory { lower: None, parent, entries: BTreeMap::new() });
        self.make(sources, actor, (dir, name), mode & 0o1777, body)
    }

    /// Makes a symbolic link.
    pub fn symlink(
        &mut self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        dir: NodeId,
        name: &[u8],
        target: &[u8],
    ) -> Result<NodeId, Fault> {
        if target.is_empty() {
            return Err(Errno::ENOENT.into());
        }
        if target.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        self.make(sources, actor, (dir, name), 0o777, |_, _| Body::Symlink { target: target.to_vec() })
    }

    /// Makes a device, named pipe or socket. Only the superuser makes devices.
    pub fn mknod(
        &mut self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        dir: NodeId,
        name: &[u8],
        mode: u16,
        special: Special,
    ) -> Result<NodeId, Fault> {
        let body = match special {
            Special::Device { .. } if !actor.credentials.is_root() => return Err(Errno::EPERM.into()),
            Special::Device { class, rdev } => Body::Device { class, rdev },
            Special::Fifo => Body::Fifo,
            Special::Socket => Body::Socket,
        };
        self.make(sources, actor, (dir, name), mode, |_, _| body)
    }

    /// Gives a file another name.
    pub fn link(
        &mut self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        node: NodeId,
        dir: NodeId,
        name: &[u8],
    ) -> Result<(), Fault> {
        let metadata = self.metadata(sources, node)?;
        let synthetic = |id| matches!(id, NodeId::Synthetic { .. });
        if synthetic(node) != synthetic(dir) {
            return Err(Errno::EXDEV.into());
        }
        // The directory's own checks come first, as on Linux; moving it to the writable layer changes nothing visible.
        let place = self.place(sources, actor, dir, name)?;
        match metadata {
            Metadata { kind: Kind::Directory, .. } => return Err(Errno::EPERM.into()),
            Metadata { nlink: 0, .. } if !self.is_nameless(node) => return Err(Errno::ENOENT.into()),
            Metadata { nlink: LINK_MAX.., .. } => return Err(Errno::EMLINK.into()),
            _ => {}
        }
        let id = self.copy_up(sources, node)?;
        self.set_entry(place.dir, name, id, place.found)?;
        let node = self.node_mut(id)?;
        node.nlink += 1;
        node.nameless = None;
        node.ctime = actor.now;
        let dir = self.node_mut(place.dir)?;
        (dir.mtime, dir.ctime) = (actor.now, actor.now);
        Ok(())
    }

    /// Whether a file has no name yet, and may get one.
    fn is_nameless(&self, node: NodeId) -> bool {
        matches!(node, NodeId::Upper(id) if self.node(id).is_ok_and(|node| node.nameless.is_some()))
    }

    /// EACCES or EPERM unless `actor` may remove a file from `dir`.
    pub(crate) fn check_removal(
        &self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        dir: NodeId,
        victim: &Metadata,
    ) -> Result<(), Fault> {
        let dir = self.check_change(sources, actor, dir)?;
        let who = actor.credentials;
        if dir.mode & STICKY != 0 && !who.is_root() && who.uid != victim.uid && who.uid != dir.uid {
            return Err(Errno::EPERM.into());
        }
        Ok(())
    }

    /// EBUSY if the directory is the root or covered by a mount.
    pub(crate) fn check_idle(&self, dir: NodeId) -> Result<(), Errno> {
        if dir == self.root() || self.covering(dir).is_some() { Err(Errno::EBUSY) } else { Ok(()) }
    }

    /// Removes a name of a file that is no directory. Content that nothing holds any more is released.
    pub fn unlink(
        &mut self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        dir: NodeId,
        name: &[u8],
    ) -> Result<(), Fault> {
        if is_dots(name) {
            return Err(Errno::EISDIR.into());
        }
        let found = self.find(sources, dir, name)?;
        let victim = found.node.ok_or(Errno::ENOENT)?;
        let metadata = self.metadata(sources, victim)?;
        self.check_removal(sources, actor, dir, &metadata)?;
        match metadata.kind {
            Kind::Directory => return Err(Errno::EISDIR.into()),
            Kind::Symlink => self.ways.forget(),
            _ => {}
        }
        let dir = self.copy_up(sources, dir)?;
        let id = self.copy_up(sources, victim)?;
        self.clear_entry(dir, name, found)?;
        self.lose_name(id, actor.now)?;
        let dir = self.node_mut(dir)?;
        (dir.mtime, dir.ctime) = (actor.now, actor.now);
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(
        &mut self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        dir: NodeId,
        name: &[u8],
    ) -> Result<(), Fault> {
        match name {
            b"" => return Err(Errno::EBUSY.into()),
            b"." => return Err(Errno::EINVAL.into()),
            b".." => return Err(Errno::ENOTEMPTY.into()),
            _ => {}
        }
        let found = self.find(sources, dir, name)?;
        let victim = found.node.ok_or(Errno::ENOENT)?;
        let metadata = self.metadata(sources, victim)?;
        self.check_removal(sources, actor, dir, &metadata)?;
        if metadata.kind != Kind::Directory {
            return Err(Errno::ENOTDIR.into());
        }
        self.check_idle(victim)?;
        self.check_empty(sources, victim)?;
        self.ways.forget();
        let dir = self.copy_up(sources, dir)?;
        let id = self.copy_up(sources, victim)?;
        self.clear_entry(dir, name, found)?;
        // Whoever still holds it finds the way up from here.
        self.directory_mut(id)?.parent = NodeId::Upper(dir);
        self.lose_name(id, actor.now)?;
        let dir = self.node_mut(dir)?;
        dir.nlink = dir.nlink.saturating_sub(1);
        (dir.mtime, dir.ctime) = (actor.now, actor.now);
        Ok(())
    }

    /// Counts one name less, and drops the node with its last name unless it is held open. A directory has one name.
    pub(crate) fn lose_name(&mut self, id: u64, now: i64) -> Result<(), Errno> {
        let node = self.node_mut(id)?;
        node.ctime = now;
        node.nlink = match node.body {
            Body::Directory(_) => 0,
            _ => node.nlink.saturating_sub(1),
        };
        self.drop_unused(id);
        Ok(())
    }
}

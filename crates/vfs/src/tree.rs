//! The tree: the root image under the writable layer. Here: what it is made of, and everything that only looks.
use crate::{
    NAME_MAX,
    access::{Actor, Credentials, Gate, Want},
    erofs::Image,
    fault::{Blocks, Fault, Sources},
    mounts::{Link, Mounted},
    node::{
        Backing, Body, Content, DeviceClass, Directory, Entry, Kind, Metadata, Name, Node, NodeId, ObjectId, Written,
    },
    ways::Ways,
};
use alloc::{collections::BTreeMap, vec::Vec};
use minicbor::{Decode, Encode};
use shimos_abi::{errno::Errno, kept::Kept};

/// How deep directories may lie for their paths to be told and for renames to be checked. A program may nest them deeper,
/// but no path that it can name is as long.
pub(crate) const MAX_DEPTH: usize = 4096;
/// How many files the writable layer holds unless the kernel says otherwise.
const DEFAULT_LIMIT: u64 = 1 << 18;

/// The name space of one program. Plain data: it is part of the program's checkpoint as it is.
///
/// Calls take node ids in any form and give them in canonical form. A call that fails with [`Fault::Missing`] can be
/// repeated as it is. It may have moved the metadata of a file from the image to the writable layer, which nobody can see.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Tree {
    #[n(0)]
    pub(crate) image: Image,
    /// The writable layer.
    #[n(1)]
    pub(crate) nodes: BTreeMap<u64, Kept<Node>>,
    /// Which node has taken the place of a file of the image.
    #[n(2)]
    pub(crate) copied: BTreeMap<u64, u64>,
    #[n(3)]
    pub(crate) next_node: u64,
    #[n(4)]
    pub(crate) next_object: u64,
    /// Next place in listings, over all directories.
    #[n(5)]
    pub(crate) next_seq: u64,
    /// How often each node is held open. Keys are canonical.
    #[n(6)]
    pub(crate) pins: BTreeMap<NodeId, u32>,
    /// Objects that no file needs any more.
    #[n(7)]
    pub(crate) released: Vec<ObjectId>,
    #[n(8)]
    pub(crate) mounts: Vec<Mounted>,
    #[n(9)]
    pub(crate) limit: u64,
    /// Files that are no more, for those who watch them.
    #[cbor(skip)]
    pub(crate) gone: Vec<NodeId>,
    #[cbor(skip)]
    pub(crate) ways: Ways,
}

/// What one name in a directory stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// The file; none if there is no such name.
    pub node: Option<NodeId>,
    /// Whether the directory's part in the image has the name, hidden or not.
    pub in_image: bool,
}

impl Tree {
    /// The tree over an image, with nothing changed.
    pub fn new(image: Image) -> Tree {
        Tree {
            image,
            nodes: BTreeMap::new(),
            copied: BTreeMap::new(),
            next_node: 1,
            next_object: 1,
            next_seq: 1,
            pins: BTreeMap::new(),
            released: Vec::new(),
            mounts: Vec::new(),
            ways: Ways::default(),
            limit: DEFAULT_LIMIT,
            gone: Vec::new(),
        }
    }

    /// Sets how many files the writable layer may hold; more are ENOSPC.
    pub fn set_limit(&mut self, files: u64) {
        self.limit = files;
    }
    /// How many files the writable layer holds, and how many it may hold.
    pub fn usage(&self) -> (u64, u64) {
        (self.nodes.len() as u64, self.limit)
    }
    /// The root image.
    pub fn image(&self) -> &Image {
        &self.image
    }
    /// Lies on another root image from here on, as if it had been made there: for those who test.
    pub fn set_image(&mut self, image: Image) {
        self.image = image;
    }
    /// The root directory.
    pub fn root(&self) -> NodeId {
        self.canonical(NodeId::Lower(self.image.root()))
    }

    /// The one id that a file has now: where a file of the image was changed, its node in the writable layer.
    pub fn canonical(&self, id: NodeId) -> NodeId {
        match id {
            NodeId::Lower(_) if self.copied.is_empty() => id,
            NodeId::Lower(nid) => self.copied.get(&nid).map_or(id, |upper| NodeId::Upper(*upper)),
            _ => id,
        }
    }

    /// The one id that a file has all its life: that of the image's file where it comes from the image.
    pub fn origin(&self, id: NodeId) -> NodeId {
        let canonical = self.canonical(id);
        let NodeId::Upper(upper) = canonical else { return canonical };
        let copied_from = self.nodes.get(&upper).and_then(|node| node.copied_from);
        copied_from.filter(|nid| self.copied.get(nid) == Some(&upper)).map_or(canonical, NodeId::Lower)
    }

    /// A node of the writable layer. ESTALE if it is gone.
    pub(crate) fn node(&self, id: u64) -> Result<&Node, Errno> {
        self.nodes.get(&id).map(|node| &**node).ok_or(Errno::ESTALE)
    }
    pub(crate) fn node_mut(&mut self, id: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&id).map(|node| &mut **node).ok_or(Errno::ESTALE)
    }
    pub(crate) fn directory(&self, id: u64) -> Result<&Directory, Errno> {
        match &self.node(id)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }
    pub(crate) fn directory_mut(&mut self, id: u64) -> Result<&mut Directory, Errno> {
        match &mut self.node_mut(id)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// What stat(2) tells of a file.
    pub fn metadata(&self, sources: &mut Sources<'_>, node: NodeId) -> Result<Metadata, Fault> {
        match self.canonical(node) {
            NodeId::Lower(nid) => self.image.metadata(sources.blocks, nid),
            NodeId::Upper(id) => Ok(self.node(id)?.metadata()),
            NodeId::Synthetic { mount, node } => sources.synthetic.metadata(mount, node),
        }
    }

    /// The part of it that decides who may use the file.
    pub(crate) fn gate(&self, sources: &mut Sources<'_>, node: NodeId) -> Result<Gate, Fault> {
        match self.canonical(node) {
            NodeId::Lower(nid) => self.image.gate(sources.blocks, nid),
            NodeId::Upper(id) => {
                let node = self.node(id)?;
                Ok(Gate { kind: node.body.kind(), mode: node.mode, uid: node.uid, gid: node.gid })
            }
            NodeId::Synthetic { mount, node } => Ok(Gate::of(&sources.synthetic.metadata(mount, node)?)),
        }
    }

    /// As [`Tree::metadata`]; ENOTDIR unless it is a directory.
    pub(crate) fn directory_metadata(&self, sources: &mut Sources<'_>, dir: NodeId) -> Result<Metadata, Fault> {
        let metadata = self.metadata(sources, dir)?;
        if metadata.kind == Kind::Directory { Ok(metadata) } else { Err(Errno::ENOTDIR.into()) }
    }

    /// EACCES unless the file may be used in all the ways of `want`.
    pub fn check_access(
        &self,
        sources: &mut Sources<'_>,
        who: &Credentials,
        node: NodeId,
        want: Want,
    ) -> Result<(), Fault> {
        Ok(who.check(&self.metadata(sources, node)?, want)?)
    }

    /// The file of this name in a directory; ENOENT if there is none. Checks no permission and crosses no mount: that is
    /// the path walk's part ([`crate::resolve`]).
    pub fn lookup(&self, sources: &mut Sources<'_>, dir: NodeId, name: &[u8]) -> Result<NodeId, Fault> {
        match name {
            b"." => Ok(self.canonical(dir)),
            b".." => self.parent(sources, dir),
            _ => Ok(self.find(sources, dir, name)?.node.ok_or(Errno::ENOENT)?),
        }
    }

    /// What an ordinary name in a directory stands for.
    pub(crate) fn find(&self, sources: &mut Sources<'_>, dir: NodeId, name: &[u8]) -> Result<Found, Fault> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        match self.canonical(dir) {
            NodeId::Lower(nid) => self.find_in_image(sources.blocks, nid, name),
            NodeId::Upper(id) => {
                let directory = self.directory(id)?;
                if let Some(entry) = directory.entries.get(name) {
                    return Ok(Found { node: entry.node.map(NodeId::Upper), in_image: entry.shadows });
                }
                match directory.lower {
                    Some(nid) => self.find_in_image(sources.blocks, nid, name),
                    None => Ok(Found { node: None, in_image: false }),
                }
            }
            NodeId::Synthetic { mount, node } => match sources.synthetic.lookup(mount, node, name) {
                Ok(node) => Ok(Found { node: Some(NodeId::Synthetic { mount, node }), in_image: false }),
                Err(Fault::Errno(Errno::ENOENT)) => Ok(Found { node: None, in_image: false }),
                Err(fault) => Err(fault),
            },
        }
    }

    fn find_in_image(&self, blocks: &mut dyn Blocks, dir: u64, name: &[u8]) -> Result<Found, Fault> {
        let found = match self.image.remembered(blocks, dir, name) {
            Some(known) => known.ok_or(Fault::Errno(Errno::ENOENT)),
            None => {
                let dir = self.image.inode(blocks, dir)?;
                self.image.lookup(blocks, &dir, name)
            }
        };
        match found {
            Ok(nid) => Ok(Found { node: Some(self.canonical(NodeId::Lower(nid))), in_image: true }),
            Err(Fault::Errno(Errno::ENOENT)) => Ok(Found { node: None, in_image: false }),
            Err(fault) => Err(fault),
        }
    }

    /// The directory above a directory; the root's is itself. From the root of a synthetic tree it leads out of it.
    pub fn parent(&self, sources: &mut Sources<'_>, dir: NodeId) -> Result<NodeId, Fault> {
        let mut dir = self.canonical(dir);
        if let NodeId::Synthetic { mount, node } = dir {
            let mounted = self.mounted(mount)?;
            if node != mounted.mount.root {
                return Ok(NodeId::Synthetic { mount, node: sources.synthetic.parent(mount, node)? });
            }
            dir = self.canonical(mounted.at);
        }
        match dir {
            _ if dir == self.root() => Ok(dir),
            NodeId::Upper(id) => Ok(self.canonical(self.directory(id)?.parent)),
            NodeId::Lower(nid) => {
                let inode = self.image.inode(sources.blocks, nid)?;
                Ok(self.canonical(NodeId::Lower(self.image.lookup(sources.blocks, &inode, b"..")?)))
            }
            NodeId::Synthetic { .. } => Err(Errno::ELOOP.into()),
        }
    }

    /// Whether `above` is `dir` or a directory over it. Neither is synthetic.
    pub(crate) fn is_within(&self, sources: &mut Sources<'_>, dir: NodeId, above: NodeId) -> Result<Within, Fault> {
        let (mut at, above, root) = (self.canonical(dir), self.canonical(above), self.root());
        for _ in 0..MAX_DEPTH {
            if at == above {
                return Ok(Within::Inside);
            }
            if at == root {
                return Ok(Within::Outside);
            }
            at = self.parent(sources, at)?;
        }
        // Deeper than any path, or a loop in a damaged image.
        Err(Errno::ELOOP.into())
    }

    /// The text of a symbolic link; EINVAL if it is none.
    pub fn readlink(&self, sources: &mut Sources<'_>, node: NodeId) -> Result<Vec<u8>, Fault> {
        match self.canonical(node) {
            NodeId::Lower(nid) => {
                let inode = self.image.inode(sources.blocks, nid)?;
                self.image.readlink(sources.blocks, &inode)
            }
            NodeId::Upper(id) => match &self.node(id)?.body {
                Body::Symlink { target } => Ok(target.clone()),
                _ => Err(Errno::EINVAL.into()),
            },
            NodeId::Synthetic { mount, node } => sources.synthetic.readlink(mount, node),
        }
    }

    /// Where the walk goes on at a symbolic link.
    pub(crate) fn follow(&self, sources: &mut Sources<'_>, node: NodeId) -> Result<Link, Fault> {
        match self.canonical(node) {
            NodeId::Synthetic { mount, node } => match sources.synthetic.follow(mount, node)? {
                Link::Node(to) => Ok(Link::Node(self.canonical(to))),
                text => Ok(text),
            },
            id => Ok(Link::Text(self.readlink(sources, id)?)),
        }
    }

    /// Where the content of a regular file is. EISDIR for directories, EINVAL for everything else.
    pub fn content(&self, sources: &mut Sources<'_>, node: NodeId) -> Result<Content, Fault> {
        let not_regular = |kind| if kind == Kind::Directory { Errno::EISDIR } else { Errno::EINVAL };
        match self.canonical(node) {
            NodeId::Lower(nid) => {
                let metadata = self.image.metadata(sources.blocks, nid)?;
                match metadata.kind {
                    Kind::Regular => Ok(Content::Image { nid, size: metadata.size }),
                    kind => Err(not_regular(kind).into()),
                }
            }
            NodeId::Upper(id) => match &self.node(id)?.body {
                Body::File { object, size, backing } => {
                    Ok(Content::Object(Written { object: *object, size: *size, backing: *backing }))
                }
                body => Err(not_regular(body.kind()).into()),
            },
            NodeId::Synthetic { .. } => Err(Errno::EINVAL.into()),
        }
    }

    /// Where the content of a regular file of the writable layer is; none for any other file.
    pub fn written(&self, node: NodeId) -> Option<Written> {
        let NodeId::Upper(id) = self.canonical(node) else { return None };
        match &self.nodes.get(&id)?.body {
            Body::File { object, size, backing } => Some(Written { object: *object, size: *size, backing: *backing }),
            _ => None,
        }
    }

    /// The node of the writable layer for a file that is to be changed, which is moved there if need be. EPERM for
    /// synthetic files. The limit does not count here, so that files can be removed when it is reached.
    pub(crate) fn copy_up(&mut self, sources: &mut Sources<'_>, node: NodeId) -> Result<u64, Fault> {
        let nid = match self.canonical(node) {
            NodeId::Upper(id) => return Ok(id),
            NodeId::Synthetic { .. } => return Err(Errno::EPERM.into()),
            NodeId::Lower(nid) => nid,
        };
        let inode = self.image.inode(sources.blocks, nid)?;
        let metadata = inode.metadata;
        let body = match metadata.kind {
            Kind::Directory => {
                let parent = self.parent(sources, NodeId::Lower(nid))?;
                Body::Directory(Directory { lower: Some(nid), parent, entries: BTreeMap::new() })
            }
            Kind::Regular => {
                let backing = (metadata.size > 0).then_some(Backing { nid, len: metadata.size });
                Body::File { object: self.new_object(), size: metadata.size, backing }
            }
            Kind::Symlink => Body::Symlink { target: self.image.readlink(sources.blocks, &inode)? },
            Kind::CharDevice => Body::Device { class: DeviceClass::Char, rdev: metadata.rdev },
            Kind::BlockDevice => Body::Device { class: DeviceClass::Block, rdev: metadata.rdev },
            Kind::Fifo => Body::Fifo,
            Kind::Socket => Body::Socket,
        };
        let id = self.insert(Node {
            body,
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            nlink: metadata.nlink,
            ino: metadata.ino,
            atime: metadata.atime,
            mtime: metadata.mtime,
            ctime: metadata.ctime,
            copied_from: Some(nid),
            nameless: None,
            attributes: Vec::new(),
        });
        self.copied.insert(nid, id);
        // Who holds the file open holds the new node.
        if let Some(count) = self.pins.remove(&NodeId::Lower(nid)) {
            self.pins.insert(NodeId::Upper(id), count);
        }
        Ok(id)
    }

    /// A number for the content of a new file.
    pub(crate) fn new_object(&mut self) -> ObjectId {
        let object = ObjectId(self.next_object);
        self.next_object = self.next_object.wrapping_add(1);
        object
    }

    /// Adds a node.
    pub(crate) fn insert(&mut self, node: Node) -> u64 {
        let id = self.next_node;
        self.next_node = id.wrapping_add(1);
        self.nodes.insert(id, node.into());
        id
    }

    /// Puts a node at a name. A name that is there already keeps its place in listings.
    pub(crate) fn set_entry(&mut self, dir: u64, name: &[u8], node: u64, found: Found) -> Result<(), Errno> {
        let seq = self.next_seq;
        let directory = self.directory_mut(dir)?;
        match directory.entries.get_mut(name) {
            Some(entry) => entry.node = Some(node),
            None => {
                let entry = Entry { node: Some(node), seq, shadows: found.in_image };
                directory.entries.insert(Name::from(name), entry);
                self.next_seq = seq.wrapping_add(1);
            }
        }
        Ok(())
    }

    /// Removes a name.
    pub(crate) fn clear_entry(&mut self, dir: u64, name: &[u8], found: Found) -> Result<(), Errno> {
        let directory = self.directory_mut(dir)?;
        if found.in_image {
            let entry = Entry { node: None, seq: 0, shadows: true };
            directory.entries.insert(Name::from(name), entry);
        } else {
            directory.entries.remove(name);
        }
        Ok(())
    }

    /// A change to a directory's names: allowed to `actor`?
    pub(crate) fn check_change(
        &self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        dir: NodeId,
    ) -> Result<Metadata, Fault> {
        let metadata = self.directory_metadata(sources, dir)?;
        actor.credentials.check(&metadata, Want::WRITE | Want::EXECUTE)?;
        if let NodeId::Synthetic { .. } = self.canonical(dir) {
            return Err(Errno::EPERM.into());
        }
        if metadata.nlink == 0 {
            return Err(Errno::ENOENT.into());
        }
        Ok(metadata)
    }
}

/// How two directories lie to one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Within {
    /// The one is the other, or somewhere under it.
    Inside,
    /// It is not.
    Outside,
}

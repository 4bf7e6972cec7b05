//! From a path to a file.
use crate::{
    NAME_MAX, PATH_MAX,
    access::{Credentials, Gate, Want},
    change::is_dots,
    fault::{Fault, Sources},
    mounts::Link,
    node::{Kind, Metadata, NodeId},
    rename::RenameMode,
    tree::Tree,
};
use alloc::{
    borrow::{Cow, ToOwned},
    vec::Vec,
};
use shimos_abi::errno::Errno;

/// Symbolic links that one walk follows.
const MAX_LINKS: usize = 40;

/// Where a walk starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    /// Directory that `/` stands for, and that `..` does not leave.
    pub root: NodeId,
    /// Directory that other paths start from.
    pub cwd: NodeId,
}

/// What to do with the last part of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    /// Follow it if it is a symbolic link (open, stat, and most others).
    Follow,
    /// Follow it only if a slash is behind it (lstat, O_NOFOLLOW).
    Keep,
    /// As [`Last::Follow`], but EISDIR if a slash is behind it (open with O_CREAT).
    Create,
    /// Never follow it: the name is what counts (open with O_EXCL, mkdir, mknod, symlink, link's new name, unlink, rmdir,
    /// rename).
    Name,
}

/// Where a walk ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// The directory that the last part was looked up in.
    pub parent: NodeId,
    /// The last part; `.` or `..` where the path ends so, and empty where it is only slashes.
    pub name: Vec<u8>,
    /// The file; none if all but the last part is there.
    pub node: Option<NodeId>,
    /// What stat(2) tells of it.
    pub metadata: Option<Metadata>,
    /// Whether slashes follow the last part. With [`Last::Follow`] and [`Last::Keep`] the file, if it is there, is then a
    /// directory.
    pub trailing_slash: bool,
}

impl Resolved {
    /// The file that is there; ENOENT if there is none.
    pub fn existing(&self) -> Result<NodeId, Errno> {
        self.node.ok_or(Errno::ENOENT)
    }
    /// Whether mkdir may make this name (as far as the path tells).
    pub fn check_new_directory(&self) -> Result<(), Errno> {
        if self.node.is_some() { Err(Errno::EEXIST) } else { Ok(()) }
    }
    /// Whether mknod, symlink or link may make this name.
    pub fn check_new(&self) -> Result<(), Errno> {
        match self.node {
            Some(_) => Err(Errno::EEXIST),
            None if self.trailing_slash => Err(Errno::ENOENT),
            None => Ok(()),
        }
    }
    /// Whether open with O_CREAT and O_EXCL may make a file of this name.
    pub fn check_new_file(&self) -> Result<(), Errno> {
        match self.node {
            _ if self.trailing_slash && !is_dots(&self.name) => Err(Errno::EISDIR),
            Some(_) => Err(Errno::EEXIST),
            None => Ok(()),
        }
    }
    /// Whether unlink may remove this name.
    pub fn check_unlink(&self) -> Result<(), Errno> {
        match &self.metadata {
            _ if is_dots(&self.name) => Err(Errno::EISDIR),
            None => Err(Errno::ENOENT),
            Some(file) if !self.trailing_slash || file.kind == Kind::Directory => Ok(()),
            Some(_) => Err(Errno::ENOTDIR),
        }
    }
    /// Whether rename may move `self` to `to`: only directories are named with slashes behind. What it does not find wrong
    /// is for [`Tree::rename`] to judge.
    pub fn check_rename(&self, to: &Resolved, mode: RenameMode) -> Result<(), Errno> {
        let Some(moved) = &self.metadata else { return Ok(()) };
        if is_dots(&self.name) || is_dots(&to.name) {
            return Ok(());
        }
        let is_directory = |file: &Metadata| file.kind == Kind::Directory;
        match (&to.metadata, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(Errno::EEXIST),
            (None, RenameMode::Exchange) => return Err(Errno::ENOENT),
            (Some(other), RenameMode::Exchange) if !is_directory(other) && to.trailing_slash => {
                return Err(Errno::ENOTDIR);
            }
            _ => {}
        }
        let named_as_directory = self.trailing_slash || (to.trailing_slash && mode != RenameMode::Exchange);
        if !is_directory(moved) && named_as_directory { Err(Errno::ENOTDIR) } else { Ok(()) }
    }
}

/// What a walk has come through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Crosses {
    Nothing,
    /// A synthetic tree, whose names come and go by themselves.
    Synthetic,
}

/// Splits the next part off `rest`; returns it and what follows, which starts with a slash or is empty.
fn split(rest: &[u8]) -> (&[u8], &[u8]) {
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    rest.split_at(end)
}

/// Walks a path. Every directory on the way must be searchable by `who`.
pub fn resolve(
    tree: &Tree,
    sources: &mut Sources<'_>,
    who: &Credentials,
    start: &Start,
    path: &[u8],
    last: Last,
) -> Result<Resolved, Fault> {
    if path.is_empty() {
        return Err(Errno::ENOENT.into());
    }
    if path.len() >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG.into());
    }
    let root = tree.canonical(start.root);
    // Most paths end in an ordinary name behind a way that is known.
    let way = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let known = match path.split_at_checked(way) {
        Some((way, name)) if !way.is_empty() && !is_dots(name) => tree.ways.find(start, who, way),
        _ => None,
    };
    let mut done = if known.is_some() { way } else { 0 };
    let mut at = match known {
        Some(dir) => tree.canonical(dir),
        None if path.first() == Some(&b'/') => root,
        None => tree.canonical(start.cwd),
    };
    // What is known of the directory `at`; nothing where it has been checked before.
    let mut gate = if known.is_some() { None } else { Some(tree.gate(sources, at)?) };
    // Paths of links are put before what is still to be walked. 40 links of 4 KiB bound this.
    let mut pending = Cow::Borrowed(path);
    let mut links = 0;
    let mut crosses = Crosses::Nothing;
    loop {
        let mut rest = pending.get(done..).unwrap_or_default();
        while let Some((b'/', behind)) = rest.split_first() {
            rest = behind;
        }
        let (name, behind) = split(rest);
        let is_last = behind.iter().all(|byte| *byte == b'/');
        let trailing_slash = is_last && !behind.is_empty();
        if name.is_empty() {
            // Only slashes: the root.
            let (node, metadata) = (Some(at), Some(tree.metadata(sources, at)?));
            return Ok(Resolved { parent: at, name: Vec::new(), node, metadata, trailing_slash: true });
        }
        if let Some(gate) = gate.take() {
            if gate.kind != Kind::Directory {
                return Err(Errno::ENOTDIR.into());
            }
            who.check_gate(&gate, Want::EXECUTE)?;
            let before = path.len().saturating_sub(name.len());
            if let NodeId::Synthetic { .. } = at {
                crosses = Crosses::Synthetic;
            }
            let plain = links == 0 && crosses == Crosses::Nothing;
            if plain && behind.is_empty() && before > 0 && !is_dots(name) {
                tree.ways.note(start, who, path.get(..before).unwrap_or_default(), at);
            }
        }
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let dots = is_dots(name);
        if last == Last::Create && trailing_slash && !dots {
            return Err(Errno::EISDIR.into());
        }
        let child = match name {
            b"." => Ok(at),
            b".." if at == root => Ok(at),
            // The directory above may be covered too, where something is mounted over a directory that was entered before.
            b".." => tree.parent(sources, at),
            _ => tree.lookup(sources, at, name),
        };
        let child = match child {
            Ok(child) => tree.covering(child).unwrap_or(child),
            Err(Fault::Errno(Errno::ENOENT)) if is_last && !dots => {
                let name = name.to_owned();
                return Ok(Resolved { parent: at, name, node: None, metadata: None, trailing_slash });
            }
            Err(fault) => return Err(fault),
        };
        // Of the last part all is told, of the others what decides about the way on.
        let whole = if is_last { Some(tree.metadata(sources, child)?) } else { None };
        let found = match &whole {
            Some(metadata) => Gate::of(metadata),
            None => tree.gate(sources, child)?,
        };
        let follow = match last {
            _ if found.kind != Kind::Symlink => false,
            _ if !is_last => true,
            Last::Follow | Last::Create => true,
            Last::Keep => trailing_slash,
            Last::Name => false,
        };
        if follow {
            if links == MAX_LINKS {
                return Err(Errno::ELOOP.into());
            }
            links += 1;
            match tree.follow(sources, child)? {
                Link::Text(text) => {
                    if text.is_empty() {
                        return Err(Errno::ENOENT.into());
                    }
                    if text.first() == Some(&b'/') {
                        at = root;
                        gate = Some(tree.gate(sources, at)?);
                    }
                    let mut joined = text;
                    joined.extend_from_slice(behind);
                    pending = Cow::Owned(joined);
                    done = 0;
                    continue;
                }
                Link::Node(node) if is_last => {
                    let found = tree.metadata(sources, node)?;
                    if trailing_slash && found.kind != Kind::Directory {
                        return Err(Errno::ENOTDIR.into());
                    }
                    let name = name.to_owned();
                    let (node, metadata) = (Some(node), Some(found));
                    return Ok(Resolved { parent: at, name, node, metadata, trailing_slash });
                }
                Link::Node(node) => {
                    at = node;
                    gate = Some(tree.gate(sources, at)?);
                }
            }
        } else if is_last {
            if trailing_slash && last != Last::Name && found.kind != Kind::Directory {
                return Err(Errno::ENOTDIR.into());
            }
            let name = name.to_owned();
            return Ok(Resolved { parent: at, name, node: Some(child), metadata: whole, trailing_slash });
        } else {
            at = child;
            gate = Some(found);
        }
        done = pending.len() - behind.len();
    }
}

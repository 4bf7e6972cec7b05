//! The files of an image to be, in memory; their content stays where it is.
use super::blob::Blob;
use anyhow::{Result, anyhow, bail};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// Symbolic links that one path may lead through.
const MAX_LINKS: usize = 16;
/// Files in one image.
const MAX_NODES: usize = 1_000_000;

/// A path or name for people: nothing in it acts on a terminal.
pub fn show(path: &[u8]) -> String {
    const MOST: usize = 200;
    if path.is_empty() {
        return "/".to_string();
    }
    let path = path.strip_suffix(b"/").unwrap_or(path);
    match path.get(..MOST) {
        Some(start) => format!("{}...", start.escape_ascii()),
        None => path.escape_ascii().to_string(),
    }
}

/// The components of a path, each with the place where it starts.
fn components(path: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    path.split(|byte| *byte == b'/')
        .map(move |part| {
            let start = at;
            at += part.len() + 1;
            (start, part)
        })
        .filter(|(_, part)| !part.is_empty())
}

/// Owner, mode, time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Permissions, set-id and sticky bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
}

impl Meta {
    /// Root's.
    pub fn of_root(mode: u16) -> Meta {
        Meta { mode, uid: 0, gid: 0, mtime: (0, 0) }
    }
}

/// Where the content of a file is.
#[derive(Clone, Debug)]
pub enum Content {
    /// In a part of a file.
    Blob(Blob),
    /// Here.
    Bytes(Arc<[u8]>),
    /// In a file of this length, opened when it is needed.
    File(PathBuf, u64),
}

impl Content {
    /// How many bytes.
    pub fn len(&self) -> u64 {
        match self {
            Content::Blob(blob) => blob.len(),
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::File(_, len) => *len,
        }
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Names a file of a tree.
pub type NodeId = usize;
/// The root directory.
pub const ROOT: NodeId = 0;

/// One file.
#[derive(Clone, Debug)]
pub struct Node {
    /// Owner, mode, time.
    pub meta: Meta,
    /// What it is.
    pub body: Body,
}

/// What a file is.
#[derive(Clone, Debug)]
pub enum Body {
    /// A directory.
    Directory(BTreeMap<Vec<u8>, NodeId>),
    /// A regular file.
    File(Content),
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
}

impl Body {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self, Body::Directory(_))
    }
    /// A directory with nothing in it.
    pub fn directory() -> Body {
        Body::Directory(BTreeMap::new())
    }
}

/// The files. Nodes that no name leads to any more stay, unseen.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree { nodes: vec![Node { meta: Meta::of_root(0o755), body: Body::directory() }] }
    }
}

impl Tree {
    /// A node; ids come from this tree.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// How many nodes there are, unseen ones included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }
    /// Never: there is a root.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The names in a directory; none for anything else.
    pub fn children(&self, id: NodeId) -> impl Iterator<Item = (&Vec<u8>, NodeId)> {
        let entries = match &self.nodes[id].body {
            Body::Directory(entries) => Some(entries),
            _ => None,
        };
        entries.into_iter().flatten().map(|(name, child)| (name, *child))
    }

    fn child(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self.nodes[dir].body {
            Body::Directory(entries) => entries.get(name).copied(),
            _ => None,
        }
    }

    fn add(&mut self, node: Node) -> Result<NodeId> {
        if self.nodes.len() >= MAX_NODES {
            bail!("there are more than {MAX_NODES} files, the limit for an image");
        }
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    fn enter(&mut self, dir: NodeId, name: &[u8], node: NodeId) {
        if let Body::Directory(entries) = &mut self.nodes[dir].body {
            entries.insert(name.to_vec(), node);
        }
    }

    fn new_directory(&mut self, dir: NodeId, name: &[u8]) -> Result<NodeId> {
        let made = self.add(Node { meta: Meta::of_root(0o755), body: Body::directory() })?;
        self.enter(dir, name, made);
        Ok(made)
    }

    /// Whether a path may go on in a file; `so_far` leads to it.
    fn check_way(&self, node: NodeId, so_far: &[u8]) -> Result<()> {
        match &self.nodes[node].body {
            Body::Directory(_) => Ok(()),
            Body::Symlink(_) => bail!("the path leads through the symbolic link {}", show(so_far)),
            _ => bail!("the path leads through {}, which is no directory", show(so_far)),
        }
    }

    /// The file at a path, if there is one. A path never leads through a link.
    pub fn find(&self, path: &[u8]) -> Result<Option<NodeId>> {
        let mut here = ROOT;
        for (start, name) in components(path) {
            self.check_way(here, &path[..start])?;
            match self.child(here, name) {
                Some(child) => here = child,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// The directory that a path lies in, made with what leads to it if need be, and the path's last name.
    fn parent<'a>(&mut self, path: &'a [u8]) -> Result<(NodeId, &'a [u8])> {
        let mut here = ROOT;
        let mut parts = components(path).peekable();
        while let Some((start, name)) = parts.next() {
            self.check_way(here, &path[..start])?;
            if parts.peek().is_none() {
                return Ok((here, name));
            }
            here = match self.child(here, name) {
                Some(child) => child,
                None => self.new_directory(here, name)?,
            };
        }
        bail!("it has the root's name")
    }

    /// Puts a file at a path, into the place of what is there. A directory in the place of a directory leaves what lies in it.
    pub fn put(&mut self, path: &[u8], node: Node) -> Result<NodeId> {
        if let Body::Directory(_) = node.body
            && let Ok(Some(id)) = self.find(path)
            && let Body::Directory(_) = self.nodes[id].body
        {
            self.nodes[id].meta = node.meta;
            return Ok(id);
        }
        let (dir, name) = self.parent(path)?;
        let id = self.add(node)?;
        self.enter(dir, name, id);
        Ok(id)
    }

    /// Gives a file another name.
    pub fn link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let wrong = |why: String| anyhow!("it is a hard link to {}, which cannot be: {why}", show(target));
        let id = match self.find(target) {
            Ok(Some(id)) => id,
            Ok(None) => return Err(wrong("there is no such file before it".to_string())),
            Err(error) => return Err(wrong(error.to_string())),
        };
        if let Body::Directory(_) = self.nodes[id].body {
            return Err(wrong("that is a directory".to_string()));
        }
        let (dir, name) = self.parent(path)?;
        self.enter(dir, name, id);
        Ok(())
    }

    /// Removes a name from a directory, if both are there.
    pub fn remove(&mut self, dir: &[u8], name: &[u8]) -> Result<()> {
        if let Some(dir) = self.find(dir)?
            && let Body::Directory(entries) = &mut self.nodes[dir].body
        {
            entries.remove(name);
        }
        Ok(())
    }

    /// Removes all that lies in a directory, if it is there.
    pub fn empty(&mut self, path: &[u8]) -> Result<()> {
        if let Some(dir) = self.find(path)?
            && let Body::Directory(entries) = &mut self.nodes[dir].body
        {
            entries.clear();
        }
        Ok(())
    }

    /// The directory that a program would find at a path: links are followed within the tree, what is missing is made. Paths
    /// here are the tool's own.
    pub fn reach(&mut self, path: &[u8]) -> Result<NodeId> {
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            let parts = components(path).filter(|(_, part)| *part != b".");
            parts.map(|(_, part)| part.to_vec()).collect::<Vec<_>>().into_iter().rev().collect()
        };
        let mut todo = parts(path);
        let mut trail = vec![ROOT];
        let mut links = 0;
        while let Some(name) = todo.pop() {
            let here = trail.last().copied().unwrap_or(ROOT);
            if name == b".." {
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            }
            let child = match self.child(here, &name) {
                Some(child) => child,
                None => self.new_directory(here, &name)?,
            };
            match &self.nodes[child].body {
                Body::Directory(_) => trail.push(child),
                Body::Symlink(text) if links < MAX_LINKS => {
                    links += 1;
                    if text.starts_with(b"/") {
                        trail.truncate(1);
                    }
                    todo.extend(parts(text));
                }
                _ => bail!("there is no way to the directory {}", show(path)),
            }
        }
        Ok(trail.last().copied().unwrap_or(ROOT))
    }

    /// Puts a file into a directory that [`Tree::reach`] has found.
    pub fn put_into(&mut self, dir: NodeId, name: &[u8], node: Node) -> Result<NodeId> {
        let id = self.add(node)?;
        self.enter(dir, name, id);
        Ok(id)
    }

    /// Gives a file another name, in a directory that [`Tree::reach`] has found.
    pub fn link_into(&mut self, dir: NodeId, name: &[u8], node: NodeId) {
        self.enter(dir, name, node);
    }
}

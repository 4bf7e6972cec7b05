//! Files of a root image, read on the host with the kernel's own reader.
use super::{
    blob::Blob,
    tree::{Body, Content, Meta, Node, NodeId, Tree},
};
use anyhow::{Context, Result, bail};
use shimos_abi::errno::Errno;
use shimos_vfs::{
    Blocks, Fault, Image, Inode, Kind,
    erofs::{Layout, Place},
};
use std::{collections::HashMap, fs::File, os::unix::fs::FileExt, path::Path};

/// Symbolic links that one path may lead through.
const MAX_LINKS: usize = 16;

/// A root image in a file.
pub struct Reader {
    blocks: FileBlocks,
    image: Image,
}

struct FileBlocks(File);

impl Blocks for FileBlocks {
    fn read(&mut self, block: u64, offset: usize, into: &mut [u8]) -> Result<(), Fault> {
        let at = block.checked_mul(4096).and_then(|at| at.checked_add(offset as u64)).ok_or(Errno::EIO)?;
        self.0.read_exact_at(into, at).map_err(|_| Fault::Errno(Errno::EIO))
    }
}

/// A fault of the reader as an error of the tool.
fn damaged(fault: Fault) -> anyhow::Error {
    anyhow::anyhow!("the image is damaged ({fault:?})")
}

impl Reader {
    /// Opens an image.
    pub fn open(path: &Path) -> Result<Reader> {
        let file = File::open(path).with_context(|| format!("cannot open the image {}", path.display()))?;
        let mut blocks = FileBlocks(file);
        match Image::open(&mut blocks) {
            Ok(image) => Ok(Reader { blocks, image }),
            Err(error) => bail!("{} is no root image: {error}", path.display()),
        }
    }

    /// The file at a path, links followed within the image; none if there is none.
    pub fn find(&mut self, path: &str) -> Result<Option<Inode>> {
        let mut todo: Vec<Vec<u8>> = components(path.as_bytes());
        let root = self.image.inode(&mut self.blocks, self.image.root()).map_err(damaged)?;
        let mut trail = vec![root];
        let mut links = 0;
        while let Some(name) = todo.pop() {
            let here = *trail.last().unwrap_or(&root);
            if name == b".." {
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            }
            let nid = match self.image.lookup(&mut self.blocks, &here, &name) {
                Ok(nid) => nid,
                Err(Fault::Errno(Errno::ENOENT | Errno::ENOTDIR)) => return Ok(None),
                Err(fault) => return Err(damaged(fault)),
            };
            let inode = self.image.inode(&mut self.blocks, nid).map_err(damaged)?;
            if inode.metadata.kind != Kind::Symlink {
                trail.push(inode);
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Ok(None);
            }
            let text = self.image.readlink(&mut self.blocks, &inode).map_err(damaged)?;
            if text.starts_with(b"/") {
                trail.truncate(1);
            }
            todo.extend(components(&text));
        }
        Ok(trail.pop())
    }

    /// All files of an image that [`super::erofs`] has written, their content left where it is.
    pub fn tree(&mut self, path: &Path) -> Result<Tree> {
        let whole = Blob::open(path)?;
        let mut tree = Tree::default();
        let root = self.inode(self.image.root())?;
        tree.put(b"", Node { meta: meta_of(&root), body: Body::directory() })?;
        let mut known: HashMap<u64, Vec<u8>> = HashMap::new();
        let mut todo: Vec<(Inode, Vec<u8>)> = vec![(root, Vec::new())];
        while let Some((directory, inside)) = todo.pop() {
            let mut place = Place::default();
            loop {
                let listed = self.image.list(&mut self.blocks, &directory, place).map_err(damaged)?;
                let Some(last) = listed.last() else { break };
                place = Place { block: last.place.block, index: last.place.index + 1 };
                for entry in listed.iter().filter(|entry| entry.name != b"." && entry.name != b"..") {
                    let path =
                        if inside.is_empty() { entry.name.clone() } else { [&inside[..], &entry.name].join(&b'/') };
                    if let Some(first) = known.get(&entry.nid) {
                        tree.link(&path, first)?;
                        continue;
                    }
                    let inode = self.inode(entry.nid)?;
                    if self.add(&mut tree, &whole, &inode, &path).map(|id| tree.node(id).body.is_directory())? {
                        todo.push((inode, path));
                    } else {
                        known.insert(entry.nid, path);
                    }
                }
            }
        }
        Ok(tree)
    }

    fn inode(&mut self, nid: u64) -> Result<Inode> {
        self.image.inode(&mut self.blocks, nid).map_err(damaged)
    }

    fn add(&mut self, tree: &mut Tree, whole: &Blob, inode: &Inode, path: &[u8]) -> Result<NodeId> {
        let size = inode.metadata.size;
        let body = match (inode.metadata.kind, inode.layout) {
            (Kind::Directory, _) => Body::directory(),
            (Kind::Symlink, _) => Body::Symlink(self.image.readlink(&mut self.blocks, inode).map_err(damaged)?),
            (Kind::Fifo, _) => Body::Fifo,
            (Kind::Regular, _) if size == 0 => Body::File(Content::Bytes([].into())),
            (Kind::Regular, layout) => {
                let start = match layout {
                    Layout::Plain { first } => u64::from(first) * 4096,
                    Layout::Inline { tail, .. } if size < 4096 => tail,
                    _ => bail!("the image was not made by this tool"),
                };
                Body::File(Content::Blob(whole.part(start, size).context("the image is cut short")?))
            }
            _ => bail!("the image was not made by this tool"),
        };
        tree.put(path, Node { meta: meta_of(inode), body })
    }

    /// The content of a regular file of at most `most` bytes; none if there is none of that name.
    pub fn read(&mut self, path: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(inode) = self.find(path)?.filter(|inode| inode.metadata.kind == Kind::Regular) else {
            return Ok(None);
        };
        if inode.metadata.size > most {
            bail!("{path} of the image is too large");
        }
        let mut bytes = vec![0; inode.metadata.size as usize];
        let got = self.image.read(&mut self.blocks, &inode, 0, &mut bytes).map_err(damaged)?;
        bytes.truncate(got);
        Ok(Some(bytes))
    }
}

fn meta_of(inode: &Inode) -> Meta {
    let metadata = inode.metadata;
    let (seconds, rest) = (metadata.mtime.div_euclid(1_000_000_000), metadata.mtime.rem_euclid(1_000_000_000));
    Meta { mode: metadata.mode, uid: metadata.uid, gid: metadata.gid, mtime: (seconds, rest as u32) }
}

/// The components of a path, the first one last.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let mut parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
    parts.reverse();
    parts
}

//! Writes root images: EROFS without compression, owners and modes as the tree has them, so that no rights are needed.
//!
//! Inodes lie together at the start, those of one directory side by side; short content follows its inode. The same tree
//! gives the same bytes.
use super::tree::{Body, Content, Meta, NodeId, ROOT, Tree};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs::File,
    io::{BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

const BLOCK: u64 = 4096;
const SUPERBLOCK: u64 = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
const UUID: &[u8; 16] = b"SHIMOS\x40\0\x80\0\0\0\0\0\0\x02";
/// Bytes of an inode of the long form.
const INODE: u64 = 64;
/// Inode numbers count slots of this many bytes.
const SLOT: u64 = 32;
/// Bytes of a directory entry without its name.
const ENTRY: usize = 12;
/// Files up to this size follow their inode; the content of larger ones fills blocks of its own, which can be mapped as
/// they are.
const SHORT: u64 = 2048;
/// Short files that do not fit behind their inode in a block that is this full get a block of their own.
const WORTH_A_GAP: u64 = 1024;

/// Where a file was put.
#[derive(Clone, Copy, Default)]
struct Place {
    /// Its inode, in bytes from the start; 0 while it has none.
    inode: u64,
    parent: NodeId,
    names: u32,
    size: u64,
    /// Whether the last part of its content follows the inode.
    inline: bool,
    /// The first block of the rest of its content.
    first: u32,
}

impl Place {
    fn nid(&self) -> u64 {
        self.inode / SLOT
    }
    fn tail(&self) -> u64 {
        if self.inline { self.size % BLOCK } else { 0 }
    }
    fn blocks(&self) -> u64 {
        if self.inline { self.size / BLOCK } else { self.size.div_ceil(BLOCK) }
    }
}

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Files of all kinds.
    pub files: usize,
    /// Bytes of the image.
    pub bytes: u64,
}

/// Writes a tree to a new file.
pub fn write(tree: &Tree, path: &Path) -> Result<Written> {
    let mut plan = Plan::new(tree)?;
    let end = plan.place_inodes();
    let blocks = plan.place_content(end.div_ceil(BLOCK))?;
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    plan.write(&mut out, end.next_multiple_of(BLOCK), blocks)
        .and_then(|()| Ok(out.flush()?))
        .with_context(|| format!("cannot write the image {}", path.display()))?;
    Ok(Written { files: plan.order.len(), bytes: blocks * BLOCK })
}

struct Plan<'a> {
    tree: &'a Tree,
    places: Vec<Place>,
    /// The files in the order of their inodes.
    order: Vec<NodeId>,
}

impl<'a> Plan<'a> {
    /// Finds out what there is.
    fn new(tree: &'a Tree) -> Result<Plan<'a>> {
        let mut plan = Plan { tree, places: vec![Place::default(); tree.len()], order: vec![ROOT] };
        plan.places[ROOT].names = 2;
        let mut todo = vec![ROOT];
        while let Some(dir) = todo.pop() {
            let mut below = Vec::new();
            for (_, child) in tree.children(dir) {
                let first = plan.places[child].names == 0;
                if first {
                    plan.order.push(child);
                }
                plan.places[child].names += 1;
                if let Body::Directory(_) = tree.node(child).body {
                    ensure!(first, "a directory has two names");
                    plan.places[child].parent = dir;
                    plan.places[child].names = 2;
                    plan.places[dir].names += 1;
                    below.push(child);
                }
            }
            todo.extend(below.into_iter().rev());
        }
        for id in &plan.order {
            let size = match &tree.node(*id).body {
                Body::Directory(_) => directory_size(tree, *id),
                Body::File(content) => content.len(),
                Body::Symlink(text) => text.len() as u64,
                Body::Fifo => 0,
            };
            plan.places[*id].size = size;
        }
        Ok(plan)
    }

    /// Gives every file an inode; returns where they end.
    fn place_inodes(&mut self) -> u64 {
        let mut at = SUPERBLOCK + 128;
        for id in &self.order {
            let place = &mut self.places[*id];
            let tail = place.size % BLOCK;
            let left = BLOCK - at % BLOCK;
            let fits = INODE + tail <= left;
            place.inline = tail > 0
                && tail <= BLOCK - INODE
                && match self.tree.node(*id).body {
                    Body::File(_) => place.size <= SHORT && (fits || tail <= WORTH_A_GAP),
                    _ => true,
                };
            if place.inline && !fits {
                at = at.next_multiple_of(BLOCK);
            }
            place.inode = at;
            at = (at + INODE + place.tail()).next_multiple_of(INODE);
        }
        at
    }

    /// Gives content that does not follow an inode its blocks; returns where they end.
    fn place_content(&mut self, first: u64) -> Result<u64> {
        let mut next = first;
        for id in self.in_blocks() {
            let place = &mut self.places[id];
            place.first = u32::try_from(next).unwrap_or(u32::MAX);
            next += place.blocks();
        }
        ensure!(next < u64::from(u32::MAX), "the files are too large for one image");
        Ok(next)
    }

    /// Files with content in blocks of their own, in the order of that: directories first.
    fn in_blocks(&self) -> Vec<NodeId> {
        let files = |file: bool| {
            let of_kind = move |id: &&NodeId| matches!(self.tree.node(**id).body, Body::File(_)) == file;
            self.order.iter().filter(of_kind).filter(|id| self.places[**id].blocks() > 0).copied()
        };
        files(false).chain(files(true)).collect()
    }

    fn write(&self, out: &mut impl Write, inodes_end: u64, blocks: u64) -> Result<()> {
        let mut inodes = vec![0; inodes_end as usize];
        self.superblock(&mut inodes, blocks);
        for id in &self.order {
            let place = self.places[*id];
            self.inode(&mut inodes, *id);
            if place.tail() > 0 {
                let mut content = Vec::new();
                self.content(*id, &mut content)?;
                let skip = (place.size - place.tail()) as usize;
                put(&mut inodes, place.inode + INODE, content.get(skip..).unwrap_or_default());
            }
        }
        out.write_all(&inodes)?;
        drop(inodes);
        for id in self.in_blocks() {
            let place = self.places[id];
            if place.inline {
                // A directory whose last part stands elsewhere.
                let mut content = Vec::new();
                self.content(id, &mut content)?;
                content.truncate((place.blocks() * BLOCK) as usize);
                out.write_all(&content)?;
            } else {
                self.content(id, out)?;
                let pad = place.blocks() * BLOCK - place.size;
                out.write_all(&vec![0; pad as usize])?;
            }
        }
        Ok(())
    }

    fn content(&self, id: NodeId, out: &mut impl Write) -> Result<()> {
        match &self.tree.node(id).body {
            Body::Directory(_) => self.directory(id, out),
            Body::Symlink(text) => Ok(out.write_all(text)?),
            Body::Fifo => Ok(()),
            Body::File(Content::Bytes(bytes)) => Ok(out.write_all(bytes)?),
            Body::File(Content::Blob(blob)) => Ok(blob.copy_to(out)?),
            Body::File(Content::File(path, len)) => {
                let shown = path.display();
                let follow_no_link = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
                let file = File::options().read(true).custom_flags(follow_no_link).open(path);
                let blob = super::blob::Blob::of(file.with_context(|| format!("cannot open {shown}"))?)?;
                let Some(blob) = blob.part(0, *len) else { bail!("{shown} became shorter while it was read") };
                blob.copy_to(out).with_context(|| format!("cannot read {shown}"))
            }
        }
    }

    /// The blocks of a directory; the last one without what would fill it up.
    fn directory(&self, dir: NodeId, out: &mut impl Write) -> Result<()> {
        let entries = entries_of(self.tree, dir, self.places[dir].parent);
        let blocks = in_directory_blocks(&entries);
        let last = blocks.len().saturating_sub(1);
        for (index, block) in blocks.into_iter().enumerate() {
            let mut bytes = Vec::with_capacity(BLOCK as usize);
            let mut name_at = block.len() * ENTRY;
            for (name, id) in block {
                bytes.extend_from_slice(&self.places[*id].nid().to_le_bytes());
                bytes.extend_from_slice(&(name_at as u16).to_le_bytes());
                bytes.extend_from_slice(&[self.kind(*id).1, 0]);
                name_at += name.len();
            }
            for (name, _) in block {
                bytes.extend_from_slice(name);
            }
            if index != last {
                bytes.resize(BLOCK as usize, 0);
            }
            out.write_all(&bytes)?;
        }
        Ok(())
    }

    /// The bits of a mode that say the kind, and the kind in a directory entry.
    fn kind(&self, id: NodeId) -> (u16, u8) {
        match self.tree.node(id).body {
            Body::File(_) => (0o100_000, 1),
            Body::Directory(_) => (0o040_000, 2),
            Body::Fifo => (0o010_000, 5),
            Body::Symlink(_) => (0o120_000, 7),
        }
    }

    fn inode(&self, into: &mut [u8], id: NodeId) {
        let place = self.places[id];
        let Meta { mode, uid, gid, mtime: (seconds, nanoseconds) } = self.tree.node(id).meta;
        let layout: u16 = if place.inline { 2 } else { 0 };
        let mut field = |at: u64, bytes: &[u8]| put(into, place.inode + at, bytes);
        field(0, &(layout << 1 | 1).to_le_bytes());
        field(4, &(self.kind(id).0 | mode).to_le_bytes());
        field(8, &place.size.to_le_bytes());
        field(16, &place.first.to_le_bytes());
        field(20, &(place.nid() as u32).to_le_bytes());
        field(24, &uid.to_le_bytes());
        field(28, &gid.to_le_bytes());
        field(32, &seconds.max(0).to_le_bytes());
        field(40, &nanoseconds.min(999_999_999).to_le_bytes());
        field(44, &place.names.to_le_bytes());
    }

    fn superblock(&self, into: &mut [u8], blocks: u64) {
        let mut field = |at: u64, bytes: &[u8]| put(into, SUPERBLOCK + at, bytes);
        field(0, &MAGIC.to_le_bytes());
        field(12, &[12]);
        // The root's inode is the first one.
        field(14, &(self.places[ROOT].nid() as u16).to_le_bytes());
        field(16, &(self.order.len() as u64).to_le_bytes());
        field(36, &(blocks as u32).to_le_bytes());
        field(48, UUID);
    }
}

fn put(into: &mut [u8], at: u64, bytes: &[u8]) {
    let at = at as usize;
    if let Some(place) = into.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

type Named<'a> = (&'a [u8], NodeId);

/// The entries of a directory in the order of their names, the two dots among them.
fn entries_of(tree: &Tree, dir: NodeId, parent: NodeId) -> Vec<Named<'_>> {
    let mut entries: Vec<Named<'_>> = tree.children(dir).map(|(name, id)| (name.as_slice(), id)).collect();
    entries.push((b".", dir));
    entries.push((b"..", parent));
    entries.sort_unstable();
    entries
}

/// Entries as they share blocks.
fn in_directory_blocks<'a, 'b>(entries: &'b [Named<'a>]) -> Vec<&'b [Named<'a>]> {
    let mut blocks = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (index, (name, _)) in entries.iter().enumerate() {
        let more = ENTRY + name.len();
        if used + more > BLOCK as usize {
            blocks.push(&entries[start..index]);
            (start, used) = (index, 0);
        }
        used += more;
    }
    blocks.push(&entries[start..]);
    blocks
}

fn directory_size(tree: &Tree, dir: NodeId) -> u64 {
    let entries = entries_of(tree, dir, ROOT);
    let blocks = in_directory_blocks(&entries);
    let last: usize = blocks.last().map_or(0, |block| block.iter().map(|(name, _)| ENTRY + name.len()).sum());
    (blocks.len() as u64 - 1) * BLOCK + last as u64
}

//! Writes a small read-only root image (EROFS, uncompressed) with directories and files.
use std::collections::BTreeMap;

const BLOCK: usize = 4096;
const INODE: usize = 32;
const MAGIC: u32 = 0xe0f5_e1e2;

/// One entry of a directory.
enum Node {
    Directory(BTreeMap<String, Node>),
    File { mode: u16, content: Vec<u8> },
}

/// A root image in the making.
pub struct Image {
    root: BTreeMap<String, Node>,
}

/// An inode and where its content will lie.
struct Placed {
    mode: u16,
    links: u16,
    size: usize,
    block: usize,
}

impl Image {
    /// An image with the usual directories.
    pub fn new() -> Image {
        let mut root = BTreeMap::new();
        for name in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var"] {
            root.insert(name.to_string(), Node::Directory(BTreeMap::new()));
        }
        Image { root }
    }

    /// Adds an executable file to `/bin`.
    pub fn program(&mut self, name: &str, content: Vec<u8>) {
        if let Some(Node::Directory(bin)) = self.root.get_mut("bin") {
            bin.insert(name.to_string(), Node::File { mode: 0o755, content });
        }
    }

    /// The image's bytes.
    pub fn build(self) -> Vec<u8> {
        let mut builder = Builder { inodes: Vec::new(), content: Vec::new(), first: 0 };
        // Contents start behind the superblock and the inode table.
        let count = 1 + count(&self.root);
        builder.first = 1 + (count * INODE).div_ceil(BLOCK);
        builder.inodes.resize_with(count, || Placed { mode: 0, links: 1, size: 0, block: 0 });
        let mut next = 1;
        builder.directory(0, 0, &self.root, &mut next);
        builder.finish()
    }
}

fn count(entries: &BTreeMap<String, Node>) -> usize {
    entries.values().map(|node| 1 + if let Node::Directory(inner) = node { count(inner) } else { 0 }).sum()
}

struct Builder {
    inodes: Vec<Placed>,
    content: Vec<u8>,
    /// Block of the first content.
    first: usize,
}

impl Builder {
    /// Appends content, in whole blocks; returns its first block.
    fn place(&mut self, bytes: &[u8]) -> usize {
        let block = self.first + self.content.len() / BLOCK;
        self.content.extend(bytes);
        self.content.resize(self.content.len().next_multiple_of(BLOCK), 0);
        block
    }

    fn directory(&mut self, own: usize, parent: usize, entries: &BTreeMap<String, Node>, next: &mut usize) {
        // Names in byte order, `.` and `..` among them.
        let mut names: BTreeMap<&str, (usize, u8)> = BTreeMap::new();
        names.insert(".", (own, 2));
        names.insert("..", (parent, 2));
        let mut links = 2;
        for (name, node) in entries {
            let inode = *next;
            *next += 1;
            match node {
                Node::Directory(inner) => {
                    links += 1;
                    self.directory(inode, own, inner, next);
                    names.insert(name, (inode, 2));
                }
                Node::File { mode, content } => {
                    let block = self.place(content);
                    self.inodes[inode] = Placed { mode: 0o100_000 | mode, links: 1, size: content.len(), block };
                    names.insert(name, (inode, 1));
                }
            }
        }
        // One block holds every directory that a simulation needs.
        let mut block = vec![0; names.len() * 12];
        for (place, (name, (inode, kind))) in names.iter().enumerate() {
            let name_at = block.len() as u16;
            let entry = &mut block[place * 12..place * 12 + 12];
            entry[..8].copy_from_slice(&(*inode as u64).to_le_bytes());
            entry[8..10].copy_from_slice(&name_at.to_le_bytes());
            entry[10] = *kind;
            block.extend(name.as_bytes());
        }
        assert!(block.len() <= BLOCK, "a directory of more than one block");
        let size = block.len();
        let block = self.place(&block);
        self.inodes[own] = Placed { mode: 0o040_755, links, size, block };
    }

    fn finish(self) -> Vec<u8> {
        let blocks = self.first + self.content.len() / BLOCK;
        let mut image = vec![0; self.first * BLOCK];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(1024, &MAGIC.to_le_bytes());
        put(1024 + 12, &[12]);
        put(1024 + 16, &(self.inodes.len() as u64).to_le_bytes());
        put(1024 + 24, &1_767_225_600_u64.to_le_bytes());
        put(1024 + 36, &(blocks as u32).to_le_bytes());
        put(1024 + 40, &1_u32.to_le_bytes());
        for (index, inode) in self.inodes.iter().enumerate() {
            let at = BLOCK + index * INODE;
            put(at + 4, &inode.mode.to_le_bytes());
            put(at + 6, &inode.links.to_le_bytes());
            put(at + 8, &(inode.size as u32).to_le_bytes());
            put(at + 16, &(inode.block as u32).to_le_bytes());
            put(at + 20, &(index as u32 + 1).to_le_bytes());
        }
        image.extend(self.content);
        image
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_can_read_it() {
        struct Disk(Vec<u8>);
        impl shimos_vfs::Blocks for Disk {
            fn read(&mut self, block: u64, offset: usize, into: &mut [u8]) -> Result<(), shimos_vfs::Fault> {
                let at = block as usize * BLOCK + offset;
                into.copy_from_slice(&self.0[at..at + into.len()]);
                Ok(())
            }
        }
        let mut image = Image::new();
        image.program("hello", b"world".repeat(1000));
        let mut disk = Disk(image.build());
        let image = shimos_vfs::Image::open(&mut disk).expect("an image");
        let root = image.inode(&mut disk, image.root()).expect("a root");
        assert!(root.is_directory());
    }
}

//! Files of a root image, read on the host with the kernel's own reader.
use anyhow::{Context, Result, bail};
use shimos_abi::errno::Errno;
use shimos_vfs::{Blocks, Fault, Image, Inode, Kind};
use std::{fs::File, os::unix::fs::FileExt, path::Path};

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

/// The components of a path, the first one last.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let mut parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
    parts.reverse();
    parts
}

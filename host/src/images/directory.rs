//! Directories of the host as images.
use super::{
    blob::{Blob, hex},
    tree::{Body, Content, Meta, Node, Tree, show},
};
use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs::{self, Metadata},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

/// The files below a directory and the digest of all that they are. Links are not followed.
pub fn read(root: &Path) -> Result<(Tree, String)> {
    let mut tree = Tree::default();
    let mut hash = Sha256::new();
    let mut linked: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let found = fs::symlink_metadata(root).with_context(|| format!("cannot read {}", root.display()))?;
    tree.put(b"", Node { meta: meta(&found), body: Body::directory() })?;
    let mut todo: Vec<(PathBuf, Vec<u8>)> = vec![(root.to_path_buf(), Vec::new())];
    while let Some((directory, inside)) = todo.pop() {
        let mut names: Vec<Vec<u8>> = Vec::new();
        for item in fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
            names.push(item.with_context(|| format!("cannot read {}", directory.display()))?.file_name().into_vec());
        }
        names.sort();
        for name in names {
            let path = directory.join(std::ffi::OsStr::from_bytes(&name));
            let place = if inside.is_empty() { name } else { [inside.as_slice(), &name].join(&b'/') };
            let put = add(&mut tree, &mut hash, &mut linked, &path, &place);
            if put.map_err(|error| anyhow!("{}: {error:#}", show(&place)))? {
                todo.push((path, place));
            }
        }
    }
    Ok((tree, hex(hash)))
}

/// Adds one file; says whether it is a directory.
fn add(
    tree: &mut Tree,
    hash: &mut Sha256,
    linked: &mut HashMap<(u64, u64), Vec<u8>>,
    path: &Path,
    place: &[u8],
) -> Result<bool> {
    let found = fs::symlink_metadata(path)?;
    let (kind, meta) = (found.file_type(), meta(&found));
    let mut note = |what: &str, size: u64| {
        let Meta { mode, uid, gid, mtime } = meta;
        hash.update(format!("{what} {} {mode} {uid} {gid} {mtime:?} {size}\n", place.escape_ascii()));
    };
    if found.nlink() > 1 && !kind.is_dir() {
        if let Some(first) = linked.get(&(found.dev(), found.ino())) {
            note("link", first.len() as u64);
            hash.update(first);
            tree.link(place, first)?;
            return Ok(false);
        }
        linked.insert((found.dev(), found.ino()), place.to_vec());
    }
    let body = if kind.is_dir() {
        note("directory", 0);
        Body::directory()
    } else if kind.is_file() {
        let blob = Blob::open(path)?;
        note("file", blob.len());
        hash.update(blob.digest()?);
        Body::File(Content::File(path.to_path_buf(), blob.len()))
    } else if kind.is_symlink() {
        let text = fs::read_link(path)?.into_os_string().into_vec();
        note("symlink", text.len() as u64);
        hash.update(&text);
        Body::Symlink(text)
    } else if kind.is_fifo() {
        note("fifo", 0);
        Body::Fifo
    } else if kind.is_socket() || place.starts_with(b"dev/") {
        // Sockets are nothing without who listens; the kernel brings its own devices.
        return Ok(false);
    } else {
        bail!("it is a device outside of dev");
    };
    let directory = matches!(body, Body::Directory(_));
    tree.put(place, Node { meta, body })?;
    Ok(directory)
}

fn meta(found: &Metadata) -> Meta {
    Meta {
        mode: (found.mode() & 0o7777) as u16,
        uid: found.uid(),
        gid: found.gid(),
        mtime: (found.mtime(), found.mtime_nsec() as u32),
    }
}

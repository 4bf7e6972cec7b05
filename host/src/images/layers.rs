//! Layers: archives laid over one another.
use super::{
    archive::{self, Entry, Kind},
    blob::{Blob, Spool},
    tree::{Body, Content, Node, Tree, show},
};
use anyhow::{Result, anyhow, bail, ensure};
use std::collections::HashMap;

/// The name that hides all that lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What names begin with that the layers' makers keep for themselves.
const RESERVED: &[u8] = b".wh..wh.";
/// What names begin with that hide the name behind it in lower layers.
const WHITEOUT: &[u8] = b".wh.";

/// What names that begin with `.wh.` mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whiteouts {
    /// They hide what lower layers have.
    Obeyed,
    /// They are names like others.
    Ordinary,
}

/// Lays an archive over what is there.
pub fn apply(tree: &mut Tree, archive: &Blob, whiteouts: Whiteouts, spool: &mut Spool) -> Result<()> {
    let entries = archive::entries(archive, spool)?;
    let (hiding, entries): (Vec<Entry>, Vec<Entry>) =
        entries.into_iter().partition(|entry| whiteouts == Whiteouts::Obeyed && is_whiteout(entry));
    // They hide what lies below, wherever in the archive they stand.
    for entry in hiding {
        hide(tree, &entry).map_err(|error| anyhow!("{}: {error:#}", show(&entry.path)))?;
    }
    let mut seen: HashMap<Vec<u8>, bool> = HashMap::new();
    for entry in entries {
        let named = |error: anyhow::Error| anyhow!("{}: {error:#}", show(&entry.path));
        let directory = matches!(entry.kind, Kind::Directory);
        if seen.insert(entry.path.clone(), directory).is_some_and(|before| !(before && directory)) {
            return Err(named(anyhow!("the archive has it twice")));
        }
        lay(tree, &entry).map_err(named)?;
    }
    Ok(())
}

fn is_whiteout(entry: &Entry) -> bool {
    split(&entry.path).1.starts_with(WHITEOUT)
}

/// The directory and the last name of a path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn hide(tree: &mut Tree, entry: &Entry) -> Result<()> {
    let (dir, name) = split(&entry.path);
    if name == OPAQUE {
        return tree.empty(dir);
    }
    if name.starts_with(RESERVED) {
        return Ok(());
    }
    let hidden = name.strip_prefix(WHITEOUT).unwrap_or_default();
    ensure!(!matches!(hidden, b"" | b"." | b".."), "it hides nothing that can have a name");
    tree.remove(dir, hidden)
}

fn lay(tree: &mut Tree, entry: &Entry) -> Result<()> {
    let body = match &entry.kind {
        Kind::HardLink(target) => return tree.link(&entry.path, target),
        Kind::Device => {
            // The kernel brings its own.
            ensure!(entry.path.starts_with(b"dev/"), "it is a device outside of dev");
            return Ok(());
        }
        Kind::Directory => Body::directory(),
        Kind::File(content) => Body::File(Content::Blob(content.clone())),
        Kind::Symlink(text) => Body::Symlink(text.clone()),
        Kind::Fifo => Body::Fifo,
    };
    if entry.path.is_empty() && !matches!(body, Body::Directory(_)) {
        bail!("it has the root's name");
    }
    tree.put(&entry.path, Node { meta: entry.meta, body })?;
    Ok(())
}

//! Images from archives and directories.
use super::{
    blob::{Blob, Limits, Spool, hex},
    bundle::{self, Bundle, Found, check_digest},
    config::Config,
    directory, erofs,
    furnish::{self, Agents},
    layers::{self, Whiteouts},
    store::{Kept, Store, check_name},
    tree::Tree,
};
use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Changes whenever the same input gives another image.
const RECIPE: &str = "shimos image 1";

/// Bytes that are read without a word.
const WORTH_SAYING: u64 = 64 << 20;

/// What is to be imported, and how.
#[derive(Clone, Copy, Debug)]
pub struct Import<'a> {
    /// The file or directory.
    pub source: &'a Path,
    /// What the image is to be called; what it says itself, or the file's name, otherwise.
    pub name: Option<&'a str>,
    /// Which image of several.
    pub wanted: Option<&'a str>,
    /// How much it may hold.
    pub limits: Limits,
}

/// Imports an image, or finds it where it was imported already.
pub fn run(store: &Store, agents: &Agents, import: Import<'_>) -> Result<Kept> {
    import.name.map_or(Ok(()), check_name)?;
    let shown = import.source.display();
    let cannot = |error: anyhow::Error| error.context(format!("cannot make an image of {shown}"));
    let found = std::fs::metadata(import.source).with_context(|| format!("cannot open {shown}"))?;
    if found.is_dir() || found.len() > WORTH_SAYING {
        eprintln!("shimos: reading {shown}");
    }
    if found.is_dir() && !bundle::is_bundle(import.source) {
        let (tree, digest) = directory::read(import.source).map_err(cannot)?;
        let key = key("directory", "", &digest);
        return keep(store, agents, &import, &key, |_| Ok((tree, Config::default(), None)));
    }
    let wanted = import.wanted.unwrap_or_default();
    if found.is_dir() {
        let bundle = Bundle::Directory(import.source.to_path_buf());
        let image = bundle.image(import.wanted).map_err(cannot)?;
        let image = image.with_context(|| format!("cannot make an image of {shown}: its description is gone"))?;
        let layers: String = image.layers.iter().map(|(_, digest)| digest.as_str()).collect();
        let key = key("layers", &image.config.to_json().to_string(), &layers);
        return keep(store, agents, &import, &key, |spool| unpack(image, spool));
    }
    if !found.is_file() {
        bail!("cannot make an image of {shown}: it is neither a file nor a directory");
    }
    let archive = Blob::open(import.source)?;
    let digest = archive.digest().with_context(|| format!("cannot read {shown}"))?;
    let key = key("archive", wanted, &digest);
    keep(store, agents, &import, &key, |spool| of_archive(&archive, import.wanted, spool))
}

/// A tree, what it says about the program to run, and what it was called.
pub(super) type Unpacked = (Tree, Config, Option<String>);

/// Names an input by its content.
pub(super) fn key(kind: &str, choice: &str, digest: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{RECIPE}\0{kind}\0{choice}\0{digest}"));
    hex(hash)
}

impl<'a> Import<'a> {
    /// What is to be made from things that have this description.
    pub(super) fn of_files(source: &'a Path, name: &'a str) -> Import<'a> {
        Import { source, name: Some(name), wanted: None, limits: Limits::default() }
    }
}

/// The files of an archive in a file.
pub(super) fn of_archive_file(path: &Path, spool: &mut Spool) -> Result<Unpacked> {
    of_archive(&Blob::open(path)?, None, spool)
}

/// The image of a key; made if it is not there.
pub(super) fn keep(
    store: &Store,
    agents: &Agents,
    import: &Import<'_>,
    key: &str,
    make: impl FnOnce(&mut Spool) -> Result<Unpacked>,
) -> Result<Kept> {
    let lock = store.lock()?;
    let source = import.source.display().to_string();
    if let Some(kept) = store.get(key) {
        eprintln!("shimos: it is there already");
        return match import.name {
            Some(name) => lock.name(key, name),
            None if kept.names.is_empty() => lock.name(key, &name_of(import.source)),
            None => Ok(kept),
        };
    }
    let cannot = |error: anyhow::Error| error.context(format!("cannot make an image of {source}"));
    let (mut tree, config, own) = make(&mut Spool::new(lock.work(), import.limits)).map_err(cannot)?;
    furnish::surroundings(&mut tree, &config.workdir).map_err(cannot)?;
    agents.install(&mut tree).map_err(cannot)?;
    let root = lock.work().join("root");
    eprintln!("shimos: writing the image");
    let written = erofs::write(&tree, &root)?;
    eprintln!("shimos: {} files, {} MiB", written.files, written.bytes >> 20);
    let name = import.name.map(str::to_string).or(own.filter(|name| check_name(name).is_ok()));
    let name = name.unwrap_or_else(|| name_of(import.source));
    lock.keep(&root, key, &source, agents.digest(), config)?;
    lock.name(key, &name)
}

/// A name for an image from the name of its file.
fn name_of(source: &Path) -> String {
    let source = source.canonicalize().unwrap_or_else(|_| source.to_path_buf());
    let file = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut name = file.as_str();
    for ending in [".gz", ".xz", ".zst", ".bz2", ".tgz", ".txz", ".tar"] {
        name = name.strip_suffix(ending).unwrap_or(name);
    }
    if check_name(name).is_ok() { name.to_string() } else { "imported".to_string() }
}

/// An archive: an image of Docker or OCI, or the files of one.
fn of_archive(archive: &Blob, wanted: Option<&str>, spool: &mut Spool) -> Result<Unpacked> {
    let archive = spool.unpack(archive)?;
    if let Some(found) = image_in(&archive, wanted, spool)? {
        return unpack(found, spool);
    }
    if let Some(wanted) = wanted {
        bail!("it holds files and no images, so there is no '{wanted}' to choose");
    }
    let mut tree = Tree::default();
    layers::apply(&mut tree, &archive, Whiteouts::Ordinary, spool)?;
    Ok((tree, Config::default(), None))
}

/// The image in an archive, if it is one of images. The archive's entries are counted when they are unpacked.
fn image_in(archive: &Blob, wanted: Option<&str>, spool: &Spool) -> Result<Option<Found>> {
    Bundle::of_archive(archive, &mut spool.apart()).and_then(|bundle| bundle.image(wanted))
}

fn unpack(found: Found, spool: &mut Spool) -> Result<Unpacked> {
    let mut tree = Tree::default();
    let count = found.layers.len();
    for (index, (layer, digest)) in found.layers.into_iter().enumerate() {
        eprintln!("shimos: layer {} of {count}, {} MiB", index + 1, layer.len() >> 20);
        let named = |error: anyhow::Error| anyhow!("layer {}: {error:#}", index + 1);
        let unpacked = spool.unpack(&layer).map_err(named)?;
        check_digest(&unpacked, &digest).map_err(named)?;
        layers::apply(&mut tree, &unpacked, Whiteouts::Obeyed, spool).map_err(named)?;
    }
    Ok((tree, found.config, found.name))
}

//! Root images that users bring: built from Debian's packages or imported, kept by their content, put on the disks of
//! running machines.
pub mod archive;
pub mod blob;
pub mod build;
pub mod bundle;
pub mod commands;
pub mod config;
pub mod directory;
pub mod erofs;
pub mod furnish;
pub mod import;
pub mod layers;
pub mod reader;
pub mod store;
pub mod tree;
pub mod users;

use crate::{
    disk, machine,
    paths::Paths,
    registry::{self, Entry},
};
use anyhow::{Context, Result, bail};
use blob::Limits;
use config::Config;
use furnish::Agents;
use import::Import;
use reader::Reader;
use shimos_abi::control::{Extent, User};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use store::{Kept, Store};

/// Largest table of users or groups that is read.
const MAX_TABLE: u64 = 1 << 20;

/// A root image that is ready to be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// The file system.
    pub file: PathBuf,
    /// What names its content.
    pub digest: String,
    /// What it says about the program to run.
    pub config: Config,
}

impl Image {
    /// The user that a text names (`NAME` or `UID`, perhaps `:GROUP`), by the image's own tables.
    pub fn user(&self, wanted: &str) -> Result<User> {
        let mut reader = Reader::open(&self.file)?;
        let mut table = |path| -> Result<String> {
            let bytes = reader.read(path, MAX_TABLE)?.unwrap_or_default();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        users::find(wanted, &table("/etc/passwd")?, &table("/etc/group")?)
    }
}

/// The image of a name, of a digest or the start of one, or in a file of its own.
pub fn resolve(paths: &Paths, wanted: &str) -> Result<Image> {
    let path = Path::new(wanted);
    let store = Store::of(paths);
    match store.find(wanted) {
        Ok(kept) => Ok(renew(paths, kept)?.image()),
        Err(_) if path.is_file() => of_file(path),
        Err(error) => Err(error),
    }
}

/// The file of an image that a machine is to boot with: one of the store, or the file itself.
pub fn file_of(paths: &Paths, wanted: &Path) -> Result<PathBuf> {
    match wanted.to_str().map(|name| Store::of(paths).find(name)) {
        Some(Ok(kept)) if !wanted.is_file() => Ok(renew(paths, kept)?.file()),
        _ => Ok(wanted.to_path_buf()),
    }
}

/// Gives an image of the store the agents of this checkout, as they were built last.
fn renew(paths: &Paths, kept: Kept) -> Result<Kept> {
    let Ok(agents) = Agents::present(paths) else { return Ok(kept) };
    if kept.agents == agents.digest() {
        return Ok(kept);
    }
    let lock = Store::of(paths).lock()?;
    let mut kept = lock.store.get(&kept.digest).context("the image is gone")?;
    if kept.agents == agents.digest() {
        return Ok(kept);
    }
    eprintln!("shimos: putting the agents of this build into the image {}", kept.short());
    let mut tree = Reader::open(&kept.file())?.tree(&kept.file())?;
    agents.install(&mut tree)?;
    let root = lock.work().join("root");
    erofs::write(&tree, &root)?;
    lock.renew(&mut kept, &root, agents.digest())?;
    Ok(kept)
}

/// An image outside of the store. It says nothing about programs.
pub fn of_file(path: &Path) -> Result<Image> {
    machine::check_image(path)?;
    let file = path.canonicalize().with_context(|| format!("no image at {}", path.display()))?;
    let found = fs::metadata(&file)?;
    let digest =
        format!("file-{}-{}-{}-{}.{}", found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec());
    Ok(Image { file, digest, config: Config::default() })
}

/// The image that a machine was booted with: it lies at the start of its disk.
pub fn of_machine(machine: &Entry) -> Image {
    Image { file: disk::of(&machine.directory), digest: String::new(), config: Config::default() }
}

/// Imports a file or directory.
pub fn import(paths: &Paths, source: &Path, name: Option<&str>, wanted: Option<&str>) -> Result<Kept> {
    let agents = Agents::built(paths)?;
    let import = Import { source, name, wanted, limits: Limits::default() };
    renew(paths, import::run(&Store::of(paths), &agents, import)?)
}

/// Removes an image, unless a running machine has it on its disk.
pub fn remove(paths: &Paths, wanted: &str) -> Result<Kept> {
    let lock = Store::of(paths).lock()?;
    let kept = lock.store.find(wanted)?;
    // Of several names only this one goes.
    if kept.names.len() > 1 && kept.names.iter().any(|name| name == wanted) {
        return lock.unname(kept, wanted);
    }
    for machine in registry::all(paths) {
        if disk::holds(&machine.directory, &kept.digest) {
            bail!("the image {wanted} is in use by the machine {}; end that first with: ./shimos stop", machine.id);
        }
    }
    lock.remove(&kept)?;
    Ok(kept)
}

/// Puts an image on the disk of a running machine, unless it is there already; says where.
pub fn place_on(machine: &Entry, image: &Image) -> Result<Extent> {
    disk::place(&machine.directory, &image.digest, &image.file)
}

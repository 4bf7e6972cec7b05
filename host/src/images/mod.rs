//! Root images that users bring: built from Debian's packages or imported, kept by their content, put on the disks of
//! running machines.
pub mod config;
pub mod reader;
pub mod store;
pub mod users;

use crate::{disk, machine, paths::Paths, registry::Entry};
use anyhow::{Context, Result};
use config::Config;
use reader::Reader;
use shimos_abi::control::{Extent, User};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use store::Store;

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
        Ok(kept) => Ok(kept.image()),
        Err(_) if path.is_file() => of_file(path),
        Err(error) => Err(error),
    }
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

/// Puts an image on the disk of a running machine, unless it is there already; says where.
pub fn place_on(machine: &Entry, image: &Image) -> Result<Extent> {
    disk::place(&machine.directory, &image.digest, &image.file)
}

//! What the tests share: images made by mkfs.erofs, blocks that go missing.
#![allow(dead_code, reason = "no test file uses all of it")]
use shimos_abi::errno::Errno;
use shimos_vfs::{Actor, Blocks, Credentials, Fault, Image, NoSynthetic, Sources, Tree};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// A directory that goes with the test.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("shimos-vfs-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).expect("temporary directory");
        TempDir(path)
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An image of `source`; nothing, with a message, where mkfs.erofs is not installed.
pub fn make_image(source: &Path, options: &[&str]) -> Option<Vec<u8>> {
    let out = TempDir::new();
    let file = out.path().join("image");
    match Command::new("mkfs.erofs").arg("--quiet").args(options).arg(&file).arg(source).output() {
        Ok(output) => {
            assert!(output.status.success(), "mkfs.erofs: {}", String::from_utf8_lossy(&output.stderr));
            Some(fs::read(&file).expect("image"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: mkfs.erofs is not installed (package erofs-utils)");
            None
        }
        Err(error) => panic!("mkfs.erofs: {error}"),
    }
}

/// When blocks are at hand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Supply {
    Always,
    /// Each block is missing the first time after [`Disk::forget`].
    SecondTime,
}

/// An image as a source of blocks.
pub struct Disk {
    pub bytes: Vec<u8>,
    pub supply: Supply,
    pub misses: usize,
    cached: BTreeSet<u64>,
}

impl Disk {
    pub fn new(bytes: Vec<u8>, supply: Supply) -> Disk {
        Disk { bytes, supply, misses: 0, cached: BTreeSet::new() }
    }
    pub fn forget(&mut self) {
        self.cached.clear();
    }
}

impl Blocks for Disk {
    fn read(&mut self, block: u64, offset: usize, into: &mut [u8]) -> Result<(), Fault> {
        assert!(offset + into.len() <= 4096, "a read over the end of a block");
        if self.supply == Supply::SecondTime && self.cached.insert(block) {
            self.misses += 1;
            return Err(Fault::Missing(block));
        }
        let start = block as usize * 4096 + offset;
        into.copy_from_slice(self.bytes.get(start..start + into.len()).ok_or(Errno::EIO)?);
        Ok(())
    }
}

/// Makes a call again until no block is missing.
pub fn retry<T>(disk: &mut Disk, mut call: impl FnMut(&mut Sources<'_>) -> Result<T, Fault>) -> Result<T, Errno> {
    loop {
        match call(&mut Sources { blocks: disk, synthetic: &NoSynthetic }) {
            Ok(value) => return Ok(value),
            Err(Fault::Errno(errno)) => return Err(errno),
            Err(Fault::Missing(_)) => {}
        }
    }
}

/// The tree over a disk.
pub fn open(disk: &mut Disk) -> Tree {
    loop {
        match Image::open(disk) {
            Ok(image) => return Tree::new(image),
            Err(shimos_vfs::OpenError::Fault(Fault::Missing(_))) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// The superuser at a fixed time.
pub const ROOT: Actor<'static> = Actor { credentials: &Credentials::ROOT, now: 1_000_000_000 };

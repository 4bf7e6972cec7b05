//! A machine's disk: a sparse file with the machine's own root image at its start. Further images are put behind it, also
//! while the machine runs: the disk is declared large from the beginning, and the emulator sees what is written to the file.
use anyhow::{Context, Result, bail};
use rustix::{
    fs::{FlockOperation, SeekFrom, flock, ioctl_ficlone, seek},
    io::Errno,
};
use serde_json::{Value, json};
use shimos_abi::control::Extent;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

/// Size that the disk is declared with; the file is sparse.
const SIZE: u64 = 1 << 40;
/// Images begin at multiples of this. The gap before the next one is never read.
const ALIGNMENT: u64 = 2 << 20;
/// Bytes of a block of the disk.
const BLOCK: u64 = 4096;

const DISK: &str = "disk";
const LIST: &str = "disk.json";
const LOCK: &str = "disk.lock";

/// Where the disk of a machine lies.
pub fn of(directory: &Path) -> PathBuf {
    directory.join(DISK)
}

/// Makes the disk of a machine that is about to start.
pub fn create(directory: &Path, image: &Path) -> Result<PathBuf> {
    let path = of(directory);
    let source = File::open(image).with_context(|| format!("cannot open the image {}", image.display()))?;
    let made = (|| -> io::Result<()> {
        let disk = OpenOptions::new().create_new(true).write(true).open(&path)?;
        if ioctl_ficlone(&disk, &source).is_err() {
            copy(&source, &disk, 0)?;
        }
        declare(&disk, source.metadata()?.len())
    })();
    made.with_context(|| format!("cannot make the machine's disk {}", path.display()))?;
    write_list(directory, &List { end: source.metadata()?.len(), images: Vec::new() })?;
    Ok(path)
}

/// Gives the disk its size, or as much of it as the file system allows.
fn declare(disk: &File, least: u64) -> io::Result<()> {
    let mut size = SIZE;
    loop {
        match disk.set_len(size.max(least.next_multiple_of(BLOCK))) {
            Err(_) if size > least => size /= 2,
            done => return done,
        }
    }
}

/// Copies a file to a place of another one; holes stay holes.
fn copy(from: &File, to: &File, place: u64) -> io::Result<()> {
    let (mut from, mut to) = (from, to);
    let end = from.metadata()?.len();
    let mut at = 0;
    while at < end {
        let (start, stop) = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => (start, seek(from, SeekFrom::Hole(start))?),
            // Only a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            // A file system that knows no holes.
            Err(_) => (at, end),
        };
        from.seek(io::SeekFrom::Start(start))?;
        to.seek(io::SeekFrom::Start(place + start))?;
        let copied = io::copy(&mut Read::take(from, stop - start), &mut to)?;
        if copied != stop - start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = stop;
    }
    Ok(())
}

/// Which image lies where on a disk.
#[derive(Default)]
struct List {
    /// Bytes in use.
    end: u64,
    images: Vec<(String, Extent)>,
}

fn read_list(directory: &Path) -> Option<List> {
    let value: Value = serde_json::from_str(&fs::read_to_string(directory.join(LIST)).ok()?).ok()?;
    let images = value.get("images")?.as_array()?.iter().map(|image| {
        let extent = Extent { first: image.get("first")?.as_u64()?, blocks: image.get("blocks")?.as_u64()? };
        Some((image.get("identity")?.as_str()?.to_string(), extent))
    });
    Some(List { end: value.get("end")?.as_u64()?, images: images.collect::<Option<Vec<_>>>()? })
}

fn write_list(directory: &Path, list: &List) -> Result<()> {
    let images: Vec<Value> = list
        .images
        .iter()
        .map(|(identity, at)| json!({ "identity": identity, "first": at.first, "blocks": at.blocks }))
        .collect();
    let (path, new) = (directory.join(LIST), directory.join("disk.json.new"));
    let text = json!({ "end": list.end, "images": images }).to_string();
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The place of an image on the disk of the machine of this directory; it is put there if it is not there yet. The identity
/// names its content.
pub fn place(directory: &Path, identity: &str, image: &Path) -> Result<Extent> {
    let lock = directory.join(LOCK);
    let lock = File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
    flock(&lock, FlockOperation::LockExclusive).context("cannot lock the machine's disk")?;
    let Some(mut list) = read_list(directory) else {
        bail!("the machine of {} has no disk that takes images", directory.display());
    };
    if let Some((_, extent)) = list.images.iter().find(|(known, _)| known == identity) {
        return Ok(*extent);
    }
    let source = File::open(image).with_context(|| format!("cannot open the image {}", image.display()))?;
    let size = source.metadata()?.len();
    let start = list.end.next_multiple_of(ALIGNMENT) + ALIGNMENT;
    let extent = Extent { first: start / BLOCK, blocks: size.div_ceil(BLOCK) };
    let path = of(directory);
    let disk = OpenOptions::new().write(true).open(&path);
    let disk = disk.with_context(|| format!("cannot open the machine's disk {}", path.display()))?;
    if start.saturating_add(size) > disk.metadata()?.len() {
        bail!("the machine's disk is full; stop it and start another with: ./shimos stop && ./shimos boot");
    }
    copy(&source, &disk, start).with_context(|| format!("cannot write to the machine's disk {}", path.display()))?;
    (&disk).flush()?;
    list.end = start + size;
    list.images.push((identity.to_string(), extent));
    write_list(directory, &list)?;
    Ok(extent)
}

/// Whether an image whose identity begins so lies on the disk of a machine.
pub fn holds(directory: &Path, start: &str) -> bool {
    read_list(directory).is_some_and(|list| list.images.iter().any(|(known, _)| known.starts_with(start)))
}

/// Removes the disk of a machine that has ended.
pub fn remove(directory: &Path) {
    for name in [DISK, LIST, LOCK] {
        let _ = fs::remove_file(directory.join(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn images_get_places_of_their_own_and_keep_them() {
        let directory = std::env::temp_dir().join(format!("shimos-disk-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("directory");
        let (one, two) = (directory.join("one"), directory.join("two"));
        fs::write(&one, vec![1; 10_000]).expect("writes");
        let sparse = File::create(&two).expect("file");
        sparse.set_len(8 << 20).expect("grows");
        sparse.write_all_at(b"island", 5 << 20).expect("writes");
        let path = create(&directory, &one).expect("a disk");
        let disk = File::open(&path).expect("opens");
        let metadata = disk.metadata().expect("metadata");
        assert_eq!(metadata.len(), SIZE);
        let mut start = [0; 10_000];
        disk.read_exact_at(&mut start, 0).expect("reads");
        assert_eq!(start, [1; 10_000]);
        let a = place(&directory, "a", &two).expect("a place");
        let b = place(&directory, "b", &one).expect("a place");
        assert_eq!(place(&directory, "a", &two).expect("the same"), a);
        assert!(a.first * BLOCK >= 10_000 + ALIGNMENT && b.first >= a.first + a.blocks);
        let mut island = [0; 6];
        disk.read_exact_at(&mut island, a.first * BLOCK + (5 << 20)).expect("reads");
        assert_eq!(&island, b"island");
        assert!(disk.metadata().expect("metadata").blocks() * 512 < 6 << 20, "holes were filled");
        assert!(holds(&directory, "b") && !holds(&directory, "c"));
        remove(&directory);
        assert!(!path.exists() && place(&directory, "a", &two).is_err());
        let _ = fs::remove_dir_all(directory);
    }
}

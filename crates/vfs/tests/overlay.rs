//! The writable layer against the host's file system: the same random operations give the same errors and the same tree.
mod common;

use common::{Disk, ROOT, Supply, TempDir, make_image, open, retry};
use rustix::fs::{AtFlags, CWD, FileType, RenameFlags};
use shimos_abi::errno::Errno;
use shimos_random::Random;
use shimos_vfs::{
    Content, Credentials, Fault, Kind, Last, NodeId, ObjectId, Piece, RenameMode, Resolved, Sources, Special, Start,
    Times, Tree, Written, resolve,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, OpenOptionsExt, symlink},
    },
    path::{Path, PathBuf},
};

type Page = Box<[u8; 4096]>;

/// What the kernel does around the tree: it keeps the pages of objects.
struct Kernel {
    tree: Tree,
    disk: Disk,
    objects: BTreeMap<ObjectId, BTreeMap<u64, Page>>,
}

fn io_errno(error: io::Error) -> Errno {
    Errno(error.raw_os_error().expect("error number") as u16)
}

impl Kernel {
    fn call<T>(&mut self, mut call: impl FnMut(&mut Tree, &mut Sources<'_>) -> Result<T, Fault>) -> Result<T, Errno> {
        self.disk.forget();
        let tree = &mut self.tree;
        let result = retry(&mut self.disk, |sources| call(tree, sources));
        for object in self.tree.take_released_objects() {
            self.objects.remove(&object);
        }
        result
    }

    fn walk(tree: &Tree, sources: &mut Sources<'_>, path: &str, last: Last) -> Result<Resolved, Fault> {
        let start = Start { root: tree.root(), cwd: tree.root() };
        resolve(tree, sources, &Credentials::ROOT, &start, path.as_bytes(), last)
    }

    fn page(&mut self, written: &Written, page: u64) -> Page {
        if let Some(bytes) = self.objects.get(&written.object).and_then(|pages| pages.get(&page)) {
            return bytes.clone();
        }
        match written.backing {
            Some(backing) => {
                let mut bytes = self.image_page(backing.nid, page);
                let left = backing.len.saturating_sub(page * 4096).min(4096) as usize;
                bytes[left..].fill(0);
                bytes
            }
            None => Box::new([0; 4096]),
        }
    }

    fn image_page(&mut self, nid: u64, page: u64) -> Page {
        let mut bytes = Box::new([0; 4096]);
        self.call(|tree, sources| {
            match tree.image().data(sources.blocks, nid, page)? {
                Piece::Block(block) => sources.blocks.read(block, 0, &mut bytes[..])?,
                Piece::Inline { block, offset, len } => {
                    sources.blocks.read(block, usize::from(offset), &mut bytes[..usize::from(len)])?;
                }
                Piece::Hole => {}
            }
            Ok(())
        })
        .unwrap();
        bytes
    }

    fn read(&mut self, node: NodeId) -> Vec<u8> {
        let mut out = Vec::new();
        let size = match self.call(|tree, sources| tree.content(sources, node)).unwrap() {
            Content::Image { nid, size } => {
                for page in 0..size.div_ceil(4096) {
                    out.extend_from_slice(&self.image_page(nid, page)[..]);
                }
                size
            }
            Content::Object(written) => {
                for page in 0..written.size.div_ceil(4096) {
                    out.extend_from_slice(&self.page(&written, page)[..]);
                }
                written.size
            }
        };
        out.truncate(size as usize);
        out
    }

    fn write(&mut self, node: NodeId, offset: u64, bytes: &[u8]) {
        let written = self.call(|tree, sources| tree.open_for_write(sources, node)).unwrap();
        for (at, byte) in (offset..).zip(bytes) {
            let mut page = self.page(&written, at / 4096);
            page[at as usize % 4096] = *byte;
            self.objects.entry(written.object).or_default().insert(at / 4096, page);
        }
        self.tree.wrote(node, offset + bytes.len() as u64, 7).unwrap();
    }

    fn truncate(&mut self, node: NodeId, size: u64) {
        let written = self.call(|tree, sources| tree.set_size(sources, node, size, 8)).unwrap();
        if let Some(pages) = self.objects.get_mut(&written.object) {
            pages.retain(|page, _| page * 4096 < size);
            if !size.is_multiple_of(4096)
                && let Some(last) = pages.get_mut(&(size / 4096))
            {
                last[size as usize % 4096..].fill(0);
            }
        }
    }
}

fn host(result: rustix::io::Result<()>) -> Result<(), Errno> {
    result.map_err(|error| Errno(error.raw_os_error() as u16))
}

const NAMES: [&str; 7] = ["a", "b", "c", "d", "dir", "big", "link"];

/// Paths that never leave the tree: no more `..` than names before, and links only lead down.
fn path(rng: &mut Random) -> String {
    let mut path = String::new();
    for depth in 0..1 + rng.index(3) {
        if depth > 0 {
            path.push('/');
            match rng.index(25) {
                0 => path.push_str("../"),
                1 => path.push_str("./"),
                2 => path.push('/'),
                _ => {}
            }
        }
        path.push_str(rng.one(&NAMES));
    }
    match rng.index(40) {
        0 | 1 => path.push('/'),
        2 => path.push_str("/."),
        3 => path.push_str("/.."),
        4 => path.push_str(&format!("/{}", "n".repeat(256))),
        _ => {}
    }
    path
}

/// One operation on both; the errors must be the same.
fn step(kernel: &mut Kernel, root: &Path, rng: &mut Random, held: &mut Vec<(fs::File, NodeId)>) -> String {
    let (mut one, mut two) = (path(rng), path(rng));
    let choice = rng.index(16);
    // With two paths it depends on the host's order which one's errors come first; a name that is too long tells.
    while (9..=12).contains(&choice) && (one.len() > 255 || two.len() > 255) {
        (one, two) = (path(rng), path(rng));
    }
    let at = |path: &str| PathBuf::from(format!("{}/{path}", root.display()));
    let (host_one, host_two) = (at(&one), at(&two));
    let (what, expected, found): (String, Result<(), Errno>, Result<(), Errno>) = match choice {
        0 | 1 => (
            format!("mkdir {one}"),
            host(rustix::fs::mkdirat(CWD, &host_one, 0o755.into())),
            kernel.call(|tree, sources| {
                let place = Kernel::walk(tree, sources, &one, Last::Name)?;
                place.check_new_directory()?;
                tree.mkdir(sources, &ROOT, place.parent, &place.name, 0o755).map(|_| ())
            }),
        ),
        2 | 3 => {
            let data: Vec<u8> = (0..1 + rng.index(6000)).map(|_| rng.bits() as u8).collect();
            let offset = rng.one(&[0, 0, 100, 4096, 5000, 9000]);
            let hold = rng.index(3) == 0;
            let exclusive = rng.index(4) == 0;
            let mut options = fs::OpenOptions::new();
            options.read(true).write(true).create(true).mode(0o644).custom_flags(0o4000);
            options.create_new(exclusive);
            let opened = kernel.call(|tree, sources| {
                let last = if exclusive { Last::Name } else { Last::Create };
                let place = Kernel::walk(tree, sources, &one, last)?;
                if exclusive {
                    place.check_new_file()?;
                }
                match place.node {
                    None => tree.create(sources, &ROOT, place.parent, &place.name, 0o644),
                    Some(node) => match tree.metadata(sources, node)?.kind {
                        Kind::Regular => Ok(node),
                        Kind::Directory => Err(Errno::EISDIR.into()),
                        _ => Err(Errno::ENXIO.into()),
                    },
                }
            });
            // A named pipe opened for both reading and writing would succeed.
            let is_pipe = fs::metadata(&host_one).is_ok_and(|found| found.mode() & 0o170_000 == 0o010_000);
            let expected = if is_pipe && !exclusive {
                Err(if one.ends_with('/') { Errno::EISDIR } else { Errno::ENXIO })
            } else {
                options.open(&host_one).map_err(io_errno)
            };
            let result = match (expected, opened) {
                (Ok(file), Ok(node)) => {
                    file.write_all_at(&data, offset).unwrap();
                    kernel.write(node, offset, &data);
                    if hold && held.len() < 6 {
                        kernel.tree.pin(node);
                        held.push((file, node));
                    }
                    (Ok(()), Ok(()))
                }
                (expected, opened) => (expected.map(|_| ()), opened.map(|_| ())),
            };
            (format!("write {one} at {offset}, {} bytes, exclusive {exclusive}", data.len()), result.0, result.1)
        }
        4 => {
            let target = if rng.index(3) == 0 {
                format!("{}/{}", rng.one(&NAMES), rng.one(&NAMES))
            } else {
                rng.one(&NAMES).into()
            };
            (
                format!("symlink {target} {one}"),
                symlink(&target, &host_one).map_err(io_errno),
                kernel.call(|tree, sources| {
                    let place = Kernel::walk(tree, sources, &one, Last::Name)?;
                    place.check_new()?;
                    tree.symlink(sources, &ROOT, place.parent, &place.name, target.as_bytes()).map(|_| ())
                }),
            )
        }
        5 => (
            format!("mknod {one}"),
            host(rustix::fs::mknodat(CWD, &host_one, FileType::Fifo, 0o600.into(), 0)),
            kernel.call(|tree, sources| {
                let place = Kernel::walk(tree, sources, &one, Last::Name)?;
                place.check_new()?;
                tree.mknod(sources, &ROOT, place.parent, &place.name, 0o600, Special::Fifo).map(|_| ())
            }),
        ),
        6 | 7 => (
            format!("unlink {one}"),
            host(rustix::fs::unlinkat(CWD, &host_one, AtFlags::empty())),
            kernel.call(|tree, sources| {
                let place = Kernel::walk(tree, sources, &one, Last::Name)?;
                place.check_unlink()?;
                tree.unlink(sources, &ROOT, place.parent, &place.name)
            }),
        ),
        8 => (
            format!("rmdir {one}"),
            host(rustix::fs::unlinkat(CWD, &host_one, AtFlags::REMOVEDIR)),
            kernel.call(|tree, sources| {
                let place = Kernel::walk(tree, sources, &one, Last::Name)?;
                tree.rmdir(sources, &ROOT, place.parent, &place.name)
            }),
        ),
        9..=11 => {
            let (mode, flags) = rng.one(&[
                (RenameMode::Replace, RenameFlags::empty()),
                (RenameMode::Replace, RenameFlags::empty()),
                (RenameMode::NoReplace, RenameFlags::NOREPLACE),
                (RenameMode::Exchange, RenameFlags::EXCHANGE),
            ]);
            (
                format!("rename {one} {two} {mode:?}"),
                host(rustix::fs::renameat_with(CWD, &host_one, CWD, &host_two, flags)),
                kernel.call(|tree, sources| {
                    let from = Kernel::walk(tree, sources, &one, Last::Name)?;
                    let to = Kernel::walk(tree, sources, &two, Last::Name)?;
                    from.check_rename(&to, mode)?;
                    tree.rename(sources, &ROOT, (from.parent, &from.name), (to.parent, &to.name), mode)
                }),
            )
        }
        12 => (
            format!("link {one} {two}"),
            host(rustix::fs::linkat(CWD, &host_one, CWD, &host_two, AtFlags::empty())),
            kernel.call(|tree, sources| {
                let node = Kernel::walk(tree, sources, &one, Last::Keep)?.existing()?;
                let place = Kernel::walk(tree, sources, &two, Last::Name)?;
                place.check_new()?;
                tree.link(sources, &ROOT, node, place.parent, &place.name)
            }),
        ),
        13 => {
            let mode = rng.one(&[0o644, 0o4755, 0o2711, 0o600, 0o1777, 0]);
            (
                format!("chmod {one} {mode:o}"),
                host(rustix::fs::chmodat(CWD, &host_one, mode.into(), AtFlags::empty())),
                kernel.call(|tree, sources| {
                    let node = Kernel::walk(tree, sources, &one, Last::Follow)?.existing()?;
                    tree.set_mode(sources, &ROOT, node, mode as u16)
                }),
            )
        }
        14 => {
            let (uid, gid) = (rng.one(&[None, Some(0), Some(1000)]), rng.one(&[None, Some(0), Some(70_000)]));
            (
                format!("chown {one} {uid:?} {gid:?}"),
                std::os::unix::fs::lchown(&host_one, uid, gid).map_err(io_errno),
                kernel.call(|tree, sources| {
                    let node = Kernel::walk(tree, sources, &one, Last::Keep)?.existing()?;
                    tree.set_owner(sources, &ROOT, node, uid, gid)
                }),
            )
        }
        _ => {
            let size = rng.one(&[0, 1, 1000, 4096, 5000, 20_000]);
            let found = kernel.call(|tree, sources| {
                let node = Kernel::walk(tree, sources, &one, Last::Follow)?.existing()?;
                tree.content(sources, node)?;
                Ok(node)
            });
            // Opening a named pipe would wait; truncate(2) says EINVAL there.
            let is_pipe = fs::metadata(&host_one).is_ok_and(|found| found.mode() & 0o170_000 == 0o010_000);
            let expected = if is_pipe {
                Err(Errno::EINVAL)
            } else {
                let file = fs::OpenOptions::new().write(true).open(&host_one);
                file.and_then(|file| file.set_len(size)).map_err(io_errno)
            };
            if let (Ok(()), Ok(node)) = (expected, found) {
                kernel.truncate(node, size);
                let times = Times { atime: Some(5), mtime: Some(-3) };
                kernel.call(|tree, sources| tree.set_times(sources, &ROOT, node, times)).unwrap();
                let metadata = kernel.call(|tree, sources| tree.metadata(sources, node)).unwrap();
                assert_eq!((metadata.atime, metadata.mtime, metadata.ctime), (5, -3, ROOT.now));
            }
            (format!("truncate {one} {size}"), expected, found.map(|_| ()))
        }
    };
    assert_eq!(found, expected, "{what}");
    what
}

fn compare(kernel: &mut Kernel, node: NodeId, path: &Path, objects: &mut BTreeSet<ObjectId>) {
    let found = kernel.call(|tree, sources| tree.metadata(sources, node)).unwrap();
    let expected = fs::symlink_metadata(path).unwrap();
    compare_metadata(&found, &expected, path);
    match found.kind {
        Kind::Regular => {
            assert!(kernel.read(node) == fs::read(path).unwrap(), "content of {path:?}");
            if let Ok(Content::Object(written)) = kernel.call(|tree, sources| tree.content(sources, node)) {
                objects.insert(written.object);
            }
        }
        Kind::Symlink => {
            let text = kernel.call(|tree, sources| tree.readlink(sources, node)).unwrap();
            assert_eq!(text, fs::read_link(path).unwrap().as_os_str().as_bytes());
        }
        Kind::Directory => {
            let mut entries = Vec::new();
            let mut cursor = 0;
            loop {
                let part = kernel.call(|tree, sources| tree.read_dir(sources, node, cursor, 3)).unwrap();
                let Some(last) = part.last() else { break };
                cursor = last.next;
                entries.extend(part);
            }
            let mut names = Vec::new();
            let start = kernel.call(|tree, sources| tree.path_of(sources, tree.root(), node)).unwrap();
            for entry in entries.into_iter().filter(|entry| entry.name != b"." && entry.name != b"..") {
                let child = kernel.call(|tree, sources| tree.lookup(sources, node, &entry.name)).unwrap();
                let metadata = kernel.call(|tree, sources| tree.metadata(sources, child)).unwrap();
                assert_eq!((entry.ino, entry.kind), (metadata.ino, metadata.kind));
                if metadata.kind == Kind::Directory {
                    assert_eq!(kernel.call(|tree, sources| tree.parent(sources, child)), Ok(node));
                    let deeper = kernel.call(|tree, sources| tree.path_of(sources, tree.root(), child)).unwrap();
                    let mut expected = if start == b"/" { Vec::new() } else { start.clone() };
                    expected.push(b'/');
                    expected.extend_from_slice(&entry.name);
                    assert_eq!(deeper, expected);
                }
                compare(kernel, child, &path.join(std::ffi::OsStr::from_bytes(&entry.name)), objects);
                names.push(entry.name);
            }
            let mut expected: Vec<_> =
                fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
            expected.sort();
            names.sort();
            assert_eq!(names, expected, "{path:?}");
        }
        _ => {}
    }
}

fn compare_metadata(found: &shimos_vfs::Metadata, expected: &fs::Metadata, path: &Path) {
    assert_eq!(format!("{:o}", found.st_mode()), format!("{:o}", expected.mode()), "{path:?}");
    assert_eq!((found.uid, found.gid), (expected.uid(), expected.gid()), "{path:?}");
    assert_eq!(u64::from(found.nlink), expected.nlink(), "names of {path:?}");
    if found.kind != Kind::Directory {
        assert_eq!(found.size, expected.len(), "size of {path:?}");
    }
}

fn build(dir: &Path) {
    fs::create_dir_all(dir.join("dir/dir/a")).unwrap();
    fs::create_dir_all(dir.join("a/b")).unwrap();
    fs::write(dir.join("b"), b"hello").unwrap();
    fs::write(dir.join("big"), vec![b'x'; 10_000]).unwrap();
    fs::hard_link(dir.join("big"), dir.join("dir/big")).unwrap();
    fs::write(dir.join("dir/dir/c"), vec![b'y'; 4096]).unwrap();
    fs::write(dir.join("dir/dir/a/d"), vec![b'z'; 4100]).unwrap();
    fs::write(dir.join("a/b/link"), b"").unwrap();
    symlink("dir", dir.join("link")).unwrap();
    symlink("dir/c", dir.join("dir/link")).unwrap();
}

fn same_as_host(seed: u64, steps: usize, supply: Supply) {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("SKIPPED: comparing owners with the host needs the superuser");
        return;
    }
    let (source, copy) = (TempDir::new(), TempDir::new());
    build(source.path());
    build(copy.path());
    let Some(image) = make_image(source.path(), &[]) else { return };
    let mut disk = Disk::new(image, supply);
    let mut kernel = Kernel { tree: open(&mut disk), disk, objects: BTreeMap::new() };
    let mut rng = Random::new(seed);
    let mut held: Vec<(fs::File, NodeId)> = Vec::new();
    let mut log = Vec::new();
    for number in 0..steps {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            step(&mut kernel, copy.path(), &mut rng, &mut held)
        }));
        match result {
            Ok(what) => log.push(what),
            Err(cause) => {
                eprintln!("seed {seed}, step {number}; before: {:#?}", &log[log.len().saturating_sub(10)..]);
                std::panic::resume_unwind(cause);
            }
        }
        if !held.is_empty() && rng.index(12) == 0 {
            let (_, node) = held.swap_remove(rng.index(held.len()));
            kernel
                .call(|tree, _| {
                    tree.unpin(node);
                    Ok(())
                })
                .unwrap();
        }
        if number % 40 == 39 || number + 1 == steps {
            kernel.tree.validate().unwrap();
            // The kernel asks for these after each call: no checkpoint has them.
            kernel.tree.take_gone();
            let encoded = minicbor::to_vec(&kernel.tree).unwrap();
            let decoded: Tree = minicbor::decode(&encoded).unwrap();
            assert!(decoded == kernel.tree);
            kernel.tree = decoded;
            let mut objects = BTreeSet::new();
            let root = kernel.tree.root();
            compare(&mut kernel, root, copy.path(), &mut objects);
            for (file, node) in &held {
                let found = kernel.call(|tree, sources| tree.metadata(sources, *node)).unwrap();
                compare_metadata(&found, &file.metadata().unwrap(), Path::new("held"));
                let mut content = vec![0; found.size as usize];
                file.read_exact_at(&mut content, 0).unwrap();
                assert!(kernel.read(*node) == content, "content of an open file");
                if let Ok(Content::Object(written)) = kernel.call(|tree, sources| tree.content(sources, *node)) {
                    objects.insert(written.object);
                }
            }
            assert!(kernel.objects.keys().all(|object| objects.contains(object)), "an object was not released");
        }
    }
    assert_eq!(supply == Supply::SecondTime, kernel.disk.misses > 0);
}

#[test]
fn random_operations_are_as_on_the_host() {
    for seed in 1..10 {
        same_as_host(seed * 7919, 500, Supply::Always);
    }
}

#[test]
fn random_operations_with_every_block_missing_once() {
    for seed in 1..6 {
        same_as_host(seed * 104_729, 300, Supply::SecondTime);
    }
}

#[test]
fn odd_bytes_decode_to_an_error_or_a_tree_that_does_no_harm() {
    let source = TempDir::new();
    build(source.path());
    let Some(image) = make_image(source.path(), &[]) else { return };
    let mut disk = Disk::new(image, Supply::Always);
    let mut kernel = Kernel { tree: open(&mut disk), disk, objects: BTreeMap::new() };
    let copy = TempDir::new();
    build(copy.path());
    let mut rng = Random::new(99);
    for _ in 0..200 {
        step(&mut kernel, copy.path(), &mut rng, &mut Vec::new());
    }
    let good = minicbor::to_vec(&kernel.tree).unwrap();
    let mut survivors = 0;
    for _ in 0..3000 {
        let mut bytes = good.clone();
        for _ in 0..1 + rng.index(3) {
            let at = rng.index(bytes.len());
            bytes[at] = rng.bits() as u8;
        }
        let Ok(mut tree) = minicbor::decode::<Tree>(&bytes) else { continue };
        if tree.validate().is_err() {
            continue;
        }
        survivors += 1;
        for name in NAMES {
            let _ = retry(&mut kernel.disk, |sources| {
                let root = tree.root();
                tree.read_dir(sources, root, 0, 100)?;
                let node = tree.lookup(sources, root, name.as_bytes())?;
                let _ = tree.path_of(sources, root, node);
                tree.mkdir(sources, &ROOT, node, b"made", 0o755)?;
                tree.rename(sources, &ROOT, (root, name.as_bytes()), (root, b"moved"), RenameMode::Replace)
            });
        }
    }
    assert!(survivors > 0);
}

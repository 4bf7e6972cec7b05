//! The image reader against mkfs.erofs: what was put in comes out, and damaged images do no harm.
mod common;

use common::{Disk, Supply, TempDir, make_image, open, retry};
use shimos_abi::errno::Errno;
use shimos_random::Random;
use shimos_vfs::{Fault, Image, Kind, NodeId, OpenError, Piece, Tree};
use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
};

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Random::new(seed);
    (0..len).map(|_| rng.bits() as u8).collect()
}

/// A tree with all that can go wrong: sizes around blocks, a directory of many blocks, links, special files.
fn build(dir: &Path) {
    for len in [0, 1, 100, 3900, 4000, 4095, 4096, 4097, 8191, 8192, 12_345, 100_000] {
        fs::write(dir.join(format!("file-{len}")), bytes(len, len as u64)).unwrap();
    }
    fs::create_dir_all(dir.join("deep/er/and/deeper")).unwrap();
    fs::write(dir.join("deep/er/and/deeper/x"), b"x").unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    fs::create_dir(dir.join("many")).unwrap();
    for i in 0..1000 {
        fs::write(dir.join(format!("many/entry-{}-{i}", "n".repeat(i % 60))), b"").unwrap();
    }
    // mkfs.erofs 1.5 refuses names of 255 bytes.
    fs::write(dir.join(format!("many/{}", "l".repeat(254))), b"long").unwrap();
    symlink("file-100", dir.join("link")).unwrap();
    symlink(format!("{}target", "./".repeat(1500)), dir.join("long-link")).unwrap();
    fs::hard_link(dir.join("file-12345"), dir.join("hard")).unwrap();
    fs::set_permissions(dir.join("file-1"), fs::Permissions::from_mode(0o4751)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, dir.join("fifo"), rustix::fs::FileType::Fifo, 0o640.into(), 0).unwrap();
    // Only the superuser can; without, there are fewer kinds to compare.
    let device = rustix::fs::makedev(10, 0x12345);
    let _ = rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join("device"),
        rustix::fs::FileType::CharacterDevice,
        0o600.into(),
        device,
    );
    let _ = std::os::unix::fs::chown(dir.join("file-4096"), Some(70_000), Some(1234));
    // A file with a hole.
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", 500_000).unwrap();
}

fn content(tree: &Tree, disk: &mut Disk, nid: u64) -> Vec<u8> {
    let image = tree.image();
    let inode = retry(disk, |sources| image.inode(sources.blocks, nid)).unwrap();
    let mut out = Vec::new();
    for page in 0..inode.metadata.size.div_ceil(4096) {
        let mut bytes = vec![0; 4096];
        match retry(disk, |sources| image.data(sources.blocks, nid, page)).unwrap() {
            Piece::Block(block) => retry(disk, |sources| sources.blocks.read(block, 0, &mut bytes)).unwrap(),
            Piece::Inline { block, offset, len } => {
                let part = &mut bytes[..usize::from(len)];
                retry(disk, |sources| sources.blocks.read(block, usize::from(offset), part)).unwrap();
            }
            Piece::Hole => {}
        }
        out.extend_from_slice(&bytes);
    }
    let zeros = out.split_off(inode.metadata.size as usize);
    assert!(zeros.iter().all(|byte| *byte == 0), "something behind the end of a file");
    let mut again = vec![0; out.len() + 10];
    let count = retry(disk, |sources| image.read(sources.blocks, &inode, 0, &mut again)).unwrap();
    assert_eq!(again[..count], out);
    out
}

fn compare(tree: &Tree, disk: &mut Disk, node: NodeId, path: &Path) -> usize {
    let found = retry(disk, |sources| tree.metadata(sources, node)).unwrap();
    let host = fs::symlink_metadata(path).unwrap();
    assert_eq!(found.st_mode(), host.mode(), "{path:?}");
    assert_eq!((found.uid, found.gid), (host.uid(), host.gid()), "{path:?}");
    assert_eq!(u64::from(found.nlink), host.nlink(), "{path:?}");
    assert_eq!(found.rdev.encoded(), host.rdev(), "{path:?}");
    if host.mtime_nsec() != 0 && path.ends_with("file-100") {
        assert_eq!(found.mtime, host.mtime() * 1_000_000_000 + host.mtime_nsec(), "{path:?}");
    }
    match found.kind {
        Kind::Regular => {
            let NodeId::Lower(nid) = node else { panic!("{node:?}") };
            assert_eq!(found.size, host.size(), "{path:?}");
            assert!(content(tree, disk, nid) == fs::read(path).unwrap(), "{path:?}");
            1
        }
        Kind::Symlink => {
            let text = retry(disk, |sources| tree.readlink(sources, node)).unwrap();
            assert_eq!(text, fs::read_link(path).unwrap().as_os_str().as_bytes());
            1
        }
        Kind::Directory => {
            let mut files = 1;
            let mut names = Vec::new();
            let mut cursor = 0;
            loop {
                let part = retry(disk, |sources| tree.read_dir(sources, node, cursor, 7)).unwrap();
                let Some(last) = part.last() else { break };
                cursor = last.next;
                for entry in part.into_iter().filter(|entry| entry.name != b"." && entry.name != b"..") {
                    let child = retry(disk, |sources| tree.lookup(sources, node, &entry.name)).unwrap();
                    let metadata = retry(disk, |sources| tree.metadata(sources, child)).unwrap();
                    assert_eq!((entry.ino, entry.kind), (metadata.ino, metadata.kind));
                    if metadata.kind == Kind::Directory {
                        assert_eq!(retry(disk, |sources| tree.lookup(sources, child, b"..")), Ok(node));
                    }
                    files += compare(tree, disk, child, &path.join(std::ffi::OsStr::from_bytes(&entry.name)));
                    names.push(entry.name);
                }
            }
            let mut expected: Vec<_> =
                fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
            expected.sort();
            names.sort();
            assert_eq!(names, expected);
            for name in [&b"none"[..], b"\x01", b"\xff", b"entry-nn", b"m", b"entry-zz"] {
                assert_eq!(retry(disk, |sources| tree.lookup(sources, node, name)), Err(Errno::ENOENT));
            }
            files
        }
        _ => 1,
    }
}

#[test]
fn what_was_put_in_comes_out() {
    let source = TempDir::new();
    build(source.path());
    for options in [&[][..], &["-Enoinline_data"], &["-Eforce-inode-extended"], &["-Eforce-inode-compact"]] {
        // Compact inodes know no large ids and no times.
        if options == ["-Eforce-inode-compact"] {
            let _ = std::os::unix::fs::chown(source.path().join("file-4096"), Some(700), Some(1234));
            fs::write(source.path().join("file-100"), bytes(100, 100)).unwrap();
        }
        for supply in [Supply::Always, Supply::SecondTime] {
            let Some(image) = make_image(source.path(), options) else { return };
            let mut disk = Disk::new(image, supply);
            let tree = open(&mut disk);
            if options == ["-Eforce-inode-compact"] {
                let file = retry(&mut disk, |sources| tree.lookup(sources, tree.root(), b"file-1")).unwrap();
                assert_eq!(retry(&mut disk, |sources| tree.metadata(sources, file)).unwrap().size, 1);
                continue;
            }
            let files = compare(&tree, &mut disk, tree.root(), source.path());
            assert!(files > 1020);
            assert_eq!(supply == Supply::SecondTime, disk.misses > 0);
        }
    }
}

#[test]
fn chunks_are_read() {
    let source = TempDir::new();
    build(source.path());
    for chunk in ["--chunksize=4096", "--chunksize=16384"] {
        let Some(image) = make_image(source.path(), &[chunk]) else { return };
        let mut disk = Disk::new(image, Supply::Always);
        let tree = open(&mut disk);
        compare(&tree, &mut disk, tree.root(), source.path());
        // The hole takes no room.
        assert!(disk.bytes.len() < 900_000);
    }
}

#[test]
fn several_images_lie_on_one_disk() {
    const START: u64 = 5;
    let source = TempDir::new();
    build(source.path());
    for options in [&[][..], &["--chunksize=4096"]] {
        let Some(image) = make_image(source.path(), options) else { return };
        let room = image.len() as u64 / 4096;
        let mut bytes = image.clone();
        bytes.resize(START as usize * 4096, 0xee);
        bytes.truncate(START as usize * 4096);
        bytes.extend_from_slice(&image);
        let mut disk = Disk::new(bytes, Supply::Always);
        let found = Image::open_at(&mut disk, START, room).unwrap();
        assert_eq!((found.start(), found.block_count()), (START, room));
        assert_eq!(Image::open_at(&mut disk, START, room - 1), Err(OpenError::TooLong(room)));
        let beyond = Err(OpenError::Fault(Fault::Errno(Errno::EIO)));
        assert_eq!(Image::open_at(&mut disk, START + room + 9, room), beyond);
        assert!(Image::open_at(&mut disk, u64::MAX, room).is_err());
        // What is saved of it leads to the same place.
        let saved = minicbor::to_vec(Tree::new(found)).unwrap();
        let tree: Tree = minicbor::decode(&saved).unwrap();
        assert_eq!(tree.validate(), Ok(()));
        compare(&tree, &mut disk, tree.root(), source.path());
    }
}

#[test]
fn what_is_not_supported_is_refused() {
    let mut disk = Disk::new(vec![0; 8192], Supply::Always);
    assert_eq!(Image::open(&mut disk), Err(OpenError::Magic(0)));
    let source = TempDir::new();
    fs::write(source.path().join("a"), vec![b'a'; 100_000]).unwrap();
    let Some(image) = make_image(source.path(), &[]) else { return };
    for (at, value) in [(12, 9), (80, 2), (81, 1), (86, 1), (90, 1)] {
        let mut disk = Disk::new(image.clone(), Supply::Always);
        disk.bytes[1024 + at] = value;
        let error = Image::open(&mut disk).unwrap_err();
        assert!(error.to_string().contains("not supported"), "{error}");
    }
    // A compressed image may be opened only if none of its features is unknown; its files are not readable anyway.
    if let Some(image) = make_image(source.path(), &["-zlz4"]) {
        let mut disk = Disk::new(image, Supply::Always);
        if let Ok(image) = Image::open(&mut disk) {
            let root = image.inode(&mut disk, image.root()).unwrap();
            let nid = image.lookup(&mut disk, &root, b"a").unwrap();
            assert_eq!(image.inode(&mut disk, nid), Err(Fault::Errno(Errno::EIO)));
        }
    }
}

/// Looks at everything, with a bound on how much: damaged images may have loops.
fn survey(tree: &Tree, disk: &mut Disk) {
    let mut todo = vec![tree.root()];
    let mut budget = 3000;
    while let Some(node) = todo.pop() {
        let Ok(metadata) = retry(disk, |sources| tree.metadata(sources, node)) else { continue };
        let _ = retry(disk, |sources| tree.readlink(sources, node));
        let _ = retry(disk, |sources| tree.lookup(sources, node, b"entry-5"));
        if let NodeId::Lower(nid) = node {
            for page in [0, 1, 2, 24, u64::MAX / 4096, u64::MAX] {
                if let Ok(Piece::Block(block)) = retry(disk, |sources| tree.image().data(sources.blocks, nid, page)) {
                    assert!(block < tree.image().block_count());
                }
            }
        }
        if metadata.kind != Kind::Directory {
            continue;
        }
        let _ = retry(disk, |sources| tree.path_of(sources, tree.root(), node));
        let mut cursor = 0;
        while let Ok(part) = retry(disk, |sources| tree.read_dir(sources, node, cursor, 50)) {
            let Some(last) = part.last() else { break };
            assert!(last.next > cursor);
            cursor = last.next;
            budget -= 1;
            for entry in &part {
                if let Ok(child) = retry(disk, |sources| tree.lookup(sources, node, &entry.name))
                    && entry.name != b"."
                    && entry.name != b".."
                    && todo.len() < 300
                {
                    todo.push(child);
                }
            }
            if budget < 0 {
                return;
            }
        }
    }
}

/// Changes things all over a tree of a damaged image: no call may panic, and what results is whole.
fn disturb(tree: &mut Tree, disk: &mut Disk, rng: &mut Random) {
    let mut dirs = vec![tree.root()];
    for _ in 0..40 {
        let (dir, other) = (dirs[rng.index(dirs.len())], dirs[rng.index(dirs.len())]);
        let Ok(entries) = retry(disk, |sources| tree.read_dir(sources, dir, 0, 100)) else { continue };
        if entries.is_empty() {
            continue;
        }
        let name = entries[rng.index(entries.len())].name.clone();
        let actor = common::ROOT;
        let _ = match rng.index(6) {
            0 => retry(disk, |sources| tree.unlink(sources, &actor, dir, &name)),
            1 => retry(disk, |sources| tree.rmdir(sources, &actor, dir, &name)),
            2 => {
                let mode = shimos_vfs::RenameMode::Replace;
                retry(disk, |sources| tree.rename(sources, &actor, (dir, &name), (other, b"moved"), mode))
            }
            3 => retry(disk, |sources| {
                let node = tree.lookup(sources, dir, &name)?;
                tree.link(sources, &actor, node, other, b"again")
            }),
            4 => retry(disk, |sources| tree.mkdir(sources, &actor, dir, b"new", 0o755).map(|_| ())),
            _ => retry(disk, |sources| {
                let node = tree.lookup(sources, dir, &name)?;
                tree.set_mode(sources, &actor, node, 0o700)
            }),
        };
        if let Ok(child) = retry(disk, |sources| tree.lookup(sources, dir, &name))
            && retry(disk, |sources| tree.metadata(sources, child)).is_ok_and(|found| found.kind == Kind::Directory)
        {
            dirs.push(child);
        }
    }
}

#[test]
fn damaged_images_do_no_harm() {
    let source = TempDir::new();
    for len in [10, 4096, 9000] {
        fs::write(source.path().join(format!("file-{len}")), bytes(len, 3)).unwrap();
    }
    fs::create_dir_all(source.path().join("a/b/c")).unwrap();
    fs::create_dir(source.path().join("many")).unwrap();
    for i in 0..400 {
        fs::write(source.path().join(format!("many/entry-{i}")), b"").unwrap();
    }
    symlink("a/b", source.path().join("link")).unwrap();
    for options in [&[][..], &["--chunksize=4096"]] {
        let Some(image) = make_image(source.path(), options) else { return };
        let mut rng = Random::new(0x5eed);
        for round in 0..150 {
            let mut disk = Disk::new(image.clone(), Supply::Always);
            // The inodes and entries lie in what is not content: most blocks here.
            for _ in 0..1 + round % 40 {
                let at = rng.index(disk.bytes.len());
                disk.bytes[at] = match rng.index(3) {
                    0 => rng.bits() as u8,
                    1 => disk.bytes[at] ^ (1 << rng.index(8)),
                    _ => rng.one(&[0, 0xff, 0x7f, 0x80, b'/', b'.']),
                };
            }
            if round % 3 == 0 {
                // Aim at the superblock and what follows it.
                let at = 1024 + rng.index(1024);
                disk.bytes[at] = rng.bits() as u8;
            }
            let Ok(image) = Image::open(&mut disk) else { continue };
            let mut tree = Tree::new(image);
            survey(&tree, &mut disk);
            disturb(&mut tree, &mut disk, &mut rng);
            survey(&tree, &mut disk);
        }
    }
}

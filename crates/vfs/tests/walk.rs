//! Path walks, permissions, mounts, held files, listings that change, and `/dev`.
mod common;

use common::{Disk, ROOT, Supply, TempDir, make_image, open, retry};
use shimos_abi::errno::Errno;
use shimos_vfs::{
    Actor, Content, Credentials, DirEntry, Fault, Kind, Last, Link, Metadata, Mount, NodeId, Rdev, RenameMode,
    Resolved, Sources, Start, Synthetic, Tree, Want, resolve,
};
use std::{fs, os::unix::fs::symlink, path::Path};

/// A small tree: `self` (directory) with `exe` (leads to a node) and `text`.
struct Proc {
    exe: NodeId,
}

fn synthetic_metadata(kind: Kind, ino: u64) -> Metadata {
    let (mode, nlink) = if kind == Kind::Directory { (0o555, 2) } else { (0o444, 1) };
    let rdev = Rdev::default();
    Metadata { kind, mode, uid: 0, gid: 0, nlink, ino, rdev, size: 0, atime: 0, mtime: 0, ctime: 0 }
}

impl Synthetic for Proc {
    fn lookup(&self, _: u8, dir: u64, name: &[u8]) -> Result<u64, Fault> {
        match (dir, name) {
            (1, b"self") => Ok(2),
            (2, b"exe") => Ok(3),
            (2, b"text") => Ok(4),
            _ => Err(Errno::ENOENT.into()),
        }
    }
    fn parent(&self, _: u8, _: u64) -> Result<u64, Fault> {
        Ok(1)
    }
    fn metadata(&self, _: u8, node: u64) -> Result<Metadata, Fault> {
        Ok(match node {
            1 | 2 => synthetic_metadata(Kind::Directory, node),
            3 => synthetic_metadata(Kind::Symlink, node),
            _ => synthetic_metadata(Kind::Regular, node),
        })
    }
    fn readlink(&self, _: u8, _: u64) -> Result<Vec<u8>, Fault> {
        Ok(b"/gone (deleted)".to_vec())
    }
    fn follow(&self, _: u8, _: u64) -> Result<Link, Fault> {
        Ok(Link::Node(self.exe))
    }
    fn read_dir(&self, _: u8, _: u64, _: u64, _: usize) -> Result<Vec<DirEntry>, Fault> {
        Ok(Vec::new())
    }
    fn path(&self, _: u8, node: u64) -> Result<Vec<u8>, Fault> {
        Ok(if node == 2 { b"self".to_vec() } else { Vec::new() })
    }
}

struct World {
    tree: Tree,
    disk: Disk,
}

const USER: Credentials = Credentials { uid: 1000, gid: 1000, groups: Vec::new() };

impl World {
    fn new(build: impl Fn(&Path)) -> Option<World> {
        let source = TempDir::new();
        build(source.path());
        let mut disk = Disk::new(make_image(source.path(), &["--all-root"])?, Supply::SecondTime);
        Some(World { tree: open(&mut disk), disk })
    }
    fn call<T>(&mut self, mut call: impl FnMut(&mut Tree, &mut Sources<'_>) -> Result<T, Fault>) -> Result<T, Errno> {
        self.disk.forget();
        retry(&mut self.disk, |sources| call(&mut self.tree, sources))
    }
    fn walk(&mut self, path: &str, last: Last) -> Result<Resolved, Errno> {
        self.call(|tree, sources| {
            let start = Start { root: tree.root(), cwd: tree.root() };
            resolve(tree, sources, &Credentials::ROOT, &start, path.as_bytes(), last)
        })
    }
    fn node(&mut self, path: &str) -> NodeId {
        self.walk(path, Last::Follow)
            .and_then(|found| found.existing())
            .unwrap_or_else(|errno| panic!("{path}: {errno:?}"))
    }
    fn walk_as(&mut self, who: &Credentials, path: &str) -> Result<NodeId, Errno> {
        self.call(|tree, sources| {
            let start = Start { root: tree.root(), cwd: tree.root() };
            Ok(resolve(tree, sources, who, &start, path.as_bytes(), Last::Follow)?.existing()?)
        })
    }
}

fn build(dir: &Path) {
    fs::create_dir_all(dir.join("usr/bin")).unwrap();
    fs::create_dir_all(dir.join("home/user")).unwrap();
    fs::create_dir_all(dir.join("proc")).unwrap();
    fs::create_dir_all(dir.join("many")).unwrap();
    fs::write(dir.join("usr/bin/program"), b"code").unwrap();
    fs::write(dir.join("data"), vec![b'd'; 5000]).unwrap();
    for i in 0..300 {
        fs::write(dir.join(format!("many/file-{i}")), b"").unwrap();
    }
    symlink("usr/bin", dir.join("bin")).unwrap();
    symlink("loop", dir.join("loop")).unwrap();
    symlink("nowhere/else", dir.join("dangling")).unwrap();
    symlink("home/new", dir.join("to-new")).unwrap();
    symlink("data", dir.join("chain-0")).unwrap();
    for i in 1..=40 {
        symlink(format!("chain-{}", i - 1), dir.join(format!("chain-{i}"))).unwrap();
    }
}

#[test]
fn walks_end_where_they_should() {
    let Some(mut world) = World::new(build) else { return };
    let program = world.node("/usr/bin/program");
    assert_eq!(world.node("/bin/program"), program);
    assert_eq!(world.node("/usr/../bin/./program"), program);
    assert_eq!(world.node("/../../usr/bin/program"), program);
    let found = world.walk("/bin", Last::Keep).unwrap();
    assert_eq!(found.metadata.unwrap().kind, Kind::Symlink);
    assert_eq!(world.walk("/bin/", Last::Keep).unwrap().metadata.unwrap().kind, Kind::Directory);
    assert_eq!(world.walk("/bin/", Last::Name).unwrap().metadata.unwrap().kind, Kind::Symlink);
    let root = world.tree.root();
    assert_eq!(world.walk("///", Last::Follow).unwrap().node, Some(root));
    for (path, errno) in [
        ("", Errno::ENOENT),
        ("/loop", Errno::ELOOP),
        ("/data/", Errno::ENOTDIR),
        ("/data/x", Errno::ENOTDIR),
        ("/data/.", Errno::ENOTDIR),
        ("/dangling", Errno::ENOENT),
        ("/none/x", Errno::ENOENT),
        ("/chain-40", Errno::ELOOP),
    ] {
        assert_eq!(world.walk(path, Last::Follow).map(|_| ()), Err(errno), "{path}");
    }
    let data = world.node("/data");
    assert_eq!(world.node("/chain-39"), data);
    let long = "x".repeat(256);
    assert_eq!(world.walk(&long, Last::Follow), Err(Errno::ENAMETOOLONG));
    assert_eq!(world.walk(&"/".repeat(4096), Last::Follow), Err(Errno::ENAMETOOLONG));
    assert!(world.walk(&"/".repeat(4095), Last::Follow).is_ok());
    // A file may be made through a link that leads nowhere yet.
    let found = world.walk("/to-new", Last::Create).unwrap();
    let home = world.node("/home");
    assert_eq!((found.parent, found.name.as_slice(), found.node), (home, &b"new"[..], None));
    assert_eq!(world.walk("/to-new/", Last::Create), Err(Errno::EISDIR));
}

#[test]
fn a_root_cannot_be_left() {
    let Some(mut world) = World::new(build) else { return };
    let usr = world.node("/usr");
    let program = world.node("/usr/bin/program");
    let found = world.call(|tree, sources| {
        let start = Start { root: usr, cwd: usr };
        resolve(tree, sources, &Credentials::ROOT, &start, b"../../bin/../../bin/program", Last::Follow)
    });
    assert_eq!(found.unwrap().node, Some(program));
    let bin = world.node("/usr/bin");
    assert_eq!(world.call(|tree, sources| tree.path_of(sources, usr, bin)).unwrap(), b"/bin");
    assert_eq!(world.call(|tree, sources| tree.path_of(sources, usr, usr)).unwrap(), b"/");
    let home = world.node("/home");
    assert_eq!(world.call(|tree, sources| tree.path_of(sources, usr, home)), Err(Errno::ENOENT));
}

#[test]
fn modes_are_obeyed() {
    let Some(mut world) = World::new(build) else { return };
    let user = Actor { credentials: &USER, now: 5 };
    let (home, mine) = (world.node("/home"), world.node("/home/user"));
    let set =
        |world: &mut World, node, mode| world.call(|tree, sources| tree.set_mode(sources, &ROOT, node, mode)).unwrap();
    assert_eq!(world.call(|tree, sources| tree.create(sources, &user, home, b"x", 0o644)), Err(Errno::EACCES));
    assert_eq!(world.call(|tree, sources| tree.set_mode(sources, &user, home, 0o777)), Err(Errno::EPERM));
    assert_eq!(world.call(|tree, sources| tree.set_owner(sources, &user, home, Some(1000), None)), Err(Errno::EPERM));
    world.call(|tree, sources| tree.set_owner(sources, &ROOT, mine, Some(1000), Some(1000))).unwrap();
    let file = world.call(|tree, sources| tree.create(sources, &user, mine, b"x", 0o640)).unwrap();
    let metadata = world.call(|tree, sources| tree.metadata(sources, file)).unwrap();
    assert_eq!((metadata.uid, metadata.gid, metadata.mtime), (1000, 1000, 5));
    assert!(world.walk_as(&USER, "/home/user/x").is_ok());
    set(&mut world, home, 0o700);
    assert_eq!(world.walk_as(&USER, "/home/user/x"), Err(Errno::EACCES));
    assert!(world.walk("/home/user/x", Last::Follow).is_ok());
    // Sticky directories protect the files of others.
    set(&mut world, home, 0o1777);
    world.call(|tree, sources| tree.create(sources, &ROOT, home, b"root's", 0o666)).unwrap();
    assert_eq!(world.call(|tree, sources| tree.unlink(sources, &user, home, b"root's")), Err(Errno::EPERM));
    let rename = |world: &mut World, from: &[u8], to: &[u8]| {
        world.call(|tree, sources| tree.rename(sources, &user, (home, from), (home, to), RenameMode::Replace))
    };
    assert_eq!(rename(&mut world, b"root's", b"y"), Err(Errno::EPERM));
    world.call(|tree, sources| tree.create(sources, &user, home, b"mine", 0o666)).unwrap();
    assert_eq!(rename(&mut world, b"mine", b"root's"), Err(Errno::EPERM));
    assert_eq!(rename(&mut world, b"mine", b"still mine"), Ok(()));
    // A group's directory gives its group.
    world.call(|tree, sources| tree.set_owner(sources, &ROOT, home, None, Some(50))).unwrap();
    set(&mut world, home, 0o2777);
    let sub = world.call(|tree, sources| tree.mkdir(sources, &user, home, b"sub", 0o755)).unwrap();
    let metadata = world.call(|tree, sources| tree.metadata(sources, sub)).unwrap();
    assert_eq!((metadata.gid, metadata.mode), (50, 0o2755));
    let grouped = Credentials { uid: 7, gid: 7, groups: vec![1000] };
    let check = |world: &mut World, who: &Credentials, want| {
        world.call(|tree, sources| tree.check_access(sources, who, file, want))
    };
    assert_eq!(check(&mut world, &grouped, Want::READ), Ok(()));
    assert_eq!(check(&mut world, &grouped, Want::WRITE), Err(Errno::EACCES));
    assert_eq!(check(&mut world, &Credentials::ROOT, Want::EXECUTE), Err(Errno::EACCES));
    let other = Actor { credentials: &grouped, now: 5 };
    let times = shimos_vfs::Times { atime: Some(5), mtime: Some(5) };
    assert_eq!(world.call(|tree, sources| tree.set_times(sources, &other, file, times)), Err(Errno::EACCES));
    assert_eq!(world.call(|tree, sources| tree.set_times(sources, &user, file, times)), Ok(()));
}

#[test]
fn mounts_are_crossed_both_ways() {
    let Some(mut world) = World::new(build) else { return };
    let (proc, root) = (world.node("/proc"), world.tree.root());
    world.call(|tree, sources| tree.mount(sources, proc, Mount { number: 3, root: 1 })).unwrap();
    let again = world.call(|tree, sources| tree.mount(sources, proc, Mount { number: 4, root: 1 }));
    assert_eq!(again, Err(Errno::EBUSY));
    world.tree.validate().unwrap();
    // The covered directory moves to the writable layer under the mount.
    world.call(|tree, sources| tree.set_mode(sources, &ROOT, proc, 0o555)).unwrap();
    let exe = world.node("/usr/bin/program");
    let synthetic = Proc { exe };
    let World { tree, disk } = &mut world;
    disk.supply = Supply::Always;
    let mut sources = Sources { blocks: disk, synthetic: &synthetic };
    let start = Start { root, cwd: root };
    let mut walk = |tree: &Tree, path: &[u8]| {
        resolve(tree, &mut sources, &Credentials::ROOT, &start, path, Last::Follow)
            .and_then(|found| Ok(found.existing()?))
    };
    assert_eq!(walk(tree, b"/proc"), Ok(NodeId::Synthetic { mount: 3, node: 1 }));
    assert_eq!(walk(tree, b"/proc/self/text"), Ok(NodeId::Synthetic { mount: 3, node: 4 }));
    assert_eq!(walk(tree, b"/proc/self/exe"), Ok(exe));
    assert_eq!(walk(tree, b"/proc/self/exe/"), Err(Errno::ENOTDIR.into()));
    assert_eq!(walk(tree, b"/proc/self/../../proc/.."), Ok(root));
    assert_eq!(walk(tree, b"/proc/none"), Err(Errno::ENOENT.into()));
    let inside = NodeId::Synthetic { mount: 3, node: 2 };
    assert_eq!(tree.path_of(&mut sources, root, inside), Ok(b"/proc/self".to_vec()));
    assert_eq!(tree.path_of_entry(&mut sources, root, inside, b"text"), Ok(b"/proc/self/text".to_vec()));
    assert_eq!(tree.create(&mut sources, &ROOT, inside, b"x", 0o644), Err(Errno::EPERM.into()));
    assert_eq!(tree.rmdir(&mut sources, &ROOT, root, b"proc"), Err(Errno::EBUSY.into()));
    let mode = RenameMode::Replace;
    assert_eq!(tree.rename(&mut sources, &ROOT, (root, b"proc"), (root, b"x"), mode), Err(Errno::EBUSY.into()));
    assert_eq!(tree.rename(&mut sources, &ROOT, (inside, b"text"), (root, b"x"), mode), Err(Errno::EXDEV.into()));
    tree.unmount(3).unwrap();
    assert_eq!(tree.rmdir(&mut sources, &ROOT, root, b"proc"), Ok(()));
}

#[test]
fn who_holds_a_file_keeps_it() {
    let Some(mut world) = World::new(build) else { return };
    let (root, data) = (world.tree.root(), world.node("/data"));
    assert!(matches!(data, NodeId::Lower(_)));
    let ino = world.call(|tree, sources| tree.metadata(sources, data)).unwrap().ino;
    world.tree.pin(data);
    let written = world.call(|tree, sources| tree.open_for_write(sources, data)).unwrap();
    assert_eq!((written.size, written.backing.unwrap().len), (5000, 5000));
    world.tree.wrote(data, 6000, 9).unwrap();
    let metadata = world.call(|tree, sources| tree.metadata(sources, data)).unwrap();
    assert_eq!((metadata.size, metadata.ino), (6000, ino));
    // What was cut off does not come back.
    world.call(|tree, sources| tree.set_size(sources, data, 10, 9)).unwrap();
    let written = world.call(|tree, sources| tree.set_size(sources, data, 5000, 9)).unwrap();
    assert_eq!((written.size, written.backing.unwrap().len), (5000, 10));
    world.call(|tree, sources| tree.unlink(sources, &ROOT, root, b"data")).unwrap();
    assert_eq!(world.walk("/data", Last::Follow).unwrap().node, None);
    assert_eq!(world.call(|tree, sources| tree.metadata(sources, data)).unwrap().nlink, 0);
    assert!(world.tree.take_released_objects().is_empty());
    // It survives a checkpoint.
    let encoded = minicbor::to_vec(&world.tree).unwrap();
    world.tree = minicbor::decode(&encoded).unwrap();
    world.tree.validate().unwrap();
    let content = world.call(|tree, sources| tree.content(sources, data)).unwrap();
    assert_eq!(content, Content::Object(written));
    let mut other = world.tree.clone();
    other.rebuild_pins([data, data]);
    other.unpin(data);
    assert!(other.take_released_objects().is_empty());
    other.rebuild_pins([]);
    assert_eq!(other.take_released_objects(), [written.object]);
    world.tree.unpin(data);
    assert_eq!(world.tree.take_released_objects(), [written.object]);
    assert_eq!(world.tree.usage().0, 1, "only the root directory is left");
    world.tree.validate().unwrap();

    let unnamed = world.tree.create_unnamed(&ROOT, 0o600, None).unwrap();
    assert!(world.call(|tree, sources| tree.content(sources, unnamed)).is_ok());
    world.tree.unpin(unnamed);
    assert_eq!(world.tree.take_released_objects().len(), 1);

    // A working directory that is removed.
    let user = world.node("/home/user");
    world.tree.pin(user);
    let home = world.node("/home");
    world.call(|tree, sources| tree.rmdir(sources, &ROOT, home, b"user")).unwrap();
    assert_eq!(world.call(|tree, sources| tree.create(sources, &ROOT, user, b"x", 0o644)), Err(Errno::ENOENT));
    assert_eq!(world.call(|tree, sources| tree.path_of(sources, root, user)), Err(Errno::ENOENT));
    assert_eq!(world.call(|tree, sources| tree.read_dir(sources, user, 0, 9)).unwrap(), []);
    let home = world.node("/home");
    assert_eq!(world.call(|tree, sources| tree.parent(sources, user)), Ok(home));
}

#[test]
fn listings_stay_stable_under_changes() {
    let Some(mut world) = World::new(build) else { return };
    let many = world.node("/many");
    for i in 0..50 {
        let name = format!("new-{i}");
        world.call(|tree, sources| tree.create(sources, &ROOT, many, name.as_bytes(), 0o644)).unwrap();
    }
    // Remove everything while reading, as rm does, and make new files under old names all the while.
    let mut cursor = 0;
    let mut seen = Vec::new();
    loop {
        let part = world.call(|tree, sources| tree.read_dir(sources, many, cursor, 11)).unwrap();
        let Some(last) = part.last() else { break };
        cursor = last.next;
        for entry in part.into_iter().filter(|entry| entry.name != b"." && entry.name != b"..") {
            world.call(|tree, sources| tree.unlink(sources, &ROOT, many, &entry.name)).unwrap();
            if seen.len() % 10 == 0 && entry.name.starts_with(b"file") {
                world.call(|tree, sources| tree.create(sources, &ROOT, many, &entry.name, 0o644)).unwrap();
            }
            seen.push(entry.name);
        }
    }
    assert_eq!(seen.len(), 350);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 350, "a name came twice");
    // With all blocks at hand, all comes at once.
    world.disk.supply = Supply::Always;
    let left = world.call(|tree, sources| tree.read_dir(sources, many, 0, 1000)).unwrap();
    assert_eq!(left.len(), 2 + 30);
    let root = world.tree.root();
    assert_eq!(world.call(|tree, sources| tree.rmdir(sources, &ROOT, root, b"many")), Err(Errno::ENOTEMPTY));
    for entry in left.iter().skip(2) {
        world.call(|tree, sources| tree.unlink(sources, &ROOT, many, &entry.name)).unwrap();
    }
    world.call(|tree, sources| tree.rmdir(sources, &ROOT, root, b"many")).unwrap();
    // A new directory of the name does not show what was there before.
    let many = world.call(|tree, sources| tree.mkdir(sources, &ROOT, root, b"many", 0o755)).unwrap();
    assert_eq!(world.call(|tree, sources| tree.read_dir(sources, many, 0, 1000)).unwrap().len(), 2);
    world.tree.validate().unwrap();
}

#[test]
fn a_temporary_file_leaves_no_trace() {
    let Some(mut world) = World::new(build) else { return };
    let home = world.node("/home");
    world.call(|tree, sources| tree.create(sources, &ROOT, home, b"x", 0o644)).unwrap();
    world.call(|tree, sources| tree.unlink(sources, &ROOT, home, b"x")).unwrap();
    let before = minicbor::to_vec(&world.tree).unwrap().len();
    for _ in 0..10 {
        world.call(|tree, sources| tree.create(sources, &ROOT, home, b"x", 0o644)).unwrap();
        world.call(|tree, sources| tree.unlink(sources, &ROOT, home, b"x")).unwrap();
    }
    world.tree.take_released_objects();
    assert!(minicbor::to_vec(&world.tree).unwrap().len() <= before + 3);
}

#[test]
fn a_full_layer_says_so() {
    let Some(mut world) = World::new(build) else { return };
    let root = world.tree.root();
    world.tree.set_limit(3);
    assert!(world.call(|tree, sources| tree.create(sources, &ROOT, root, b"1", 0o644)).is_ok());
    assert!(world.call(|tree, sources| tree.create(sources, &ROOT, root, b"2", 0o644)).is_ok());
    assert_eq!(world.call(|tree, sources| tree.mkdir(sources, &ROOT, root, b"3", 0o755)), Err(Errno::ENOSPC));
    // Removing makes room again, files of the image too.
    world.call(|tree, sources| tree.unlink(sources, &ROOT, root, b"data")).unwrap();
    world.call(|tree, sources| tree.unlink(sources, &ROOT, root, b"1")).unwrap();
    assert!(world.call(|tree, sources| tree.mkdir(sources, &ROOT, root, b"3", 0o755)).is_ok());
}

#[test]
fn dev_is_populated() {
    // The image has a plain file where a device belongs, and a directory that programs fill.
    let prepared = |dir: &Path| {
        build(dir);
        fs::create_dir_all(dir.join("dev/shm")).unwrap();
        fs::write(dir.join("dev/null"), b"").unwrap();
    };
    for build in [&build as &dyn Fn(&Path), &prepared] {
        let Some(mut world) = World::new(build) else { return };
        world.call(|tree, sources| tree.populate_dev(sources, 1)).unwrap();
        let once = world.tree.clone();
        world.call(|tree, sources| tree.populate_dev(sources, 2)).unwrap();
        assert!(once == world.tree, "a second time changes nothing");
        for (path, major, minor) in [("/dev/null", 1, 3), ("/dev/urandom", 1, 9), ("/dev/shimos", 10, 220)] {
            let found = world.walk(path, Last::Follow).unwrap().metadata.unwrap();
            assert_eq!((found.kind, found.rdev), (Kind::CharDevice, Rdev { major, minor }), "{path}");
        }
        let found = world.walk("/dev/stdin", Last::Keep).unwrap();
        let text = world.call(|tree, sources| tree.readlink(sources, found.existing()?));
        assert_eq!(text.unwrap(), b"/proc/self/fd/0");
        assert_eq!(world.walk("/dev/pts/", Last::Follow).unwrap().metadata.unwrap().kind, Kind::Directory);
        assert_eq!(world.walk("/dev/shm/", Last::Follow).unwrap().metadata.unwrap().mode, 0o1777);
    }
}

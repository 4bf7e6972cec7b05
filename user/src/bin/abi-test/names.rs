//! Names of files: directories, links, renaming.
use crate::{
    Outcome, Subtest,
    check::{fails, same, text, that, works},
};
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use shimos_user::raw;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("names/directories", directories),
    ("names/listing", listing),
    ("names/links", links),
    ("names/unnamed", unnamed),
    ("names/rename", rename),
    ("names/relative", relative),
    ("names/working-directory", working_directory),
    ("names/times", times),
    ("names/nodes", nodes),
    ("names/access", access),
    ("names/statx", statx),
    ("names/statfs", statfs),
    ("names/deep", deep),
];

fn directories() -> Outcome {
    std::fs::create_dir("d").map_err(text)?;
    fails("again", std::fs::create_dir("d"), libc::EEXIST)?;
    fails("below nothing", std::fs::create_dir("x/y"), libc::ENOENT)?;
    std::fs::create_dir_all("d/e/f").map_err(text)?;
    fails("not empty", std::fs::remove_dir("d/e"), libc::ENOTEMPTY)?;
    fails("a directory", fs::unlink("d"), libc::EISDIR)?;
    std::fs::write("file", b"").map_err(text)?;
    fails("a file", std::fs::remove_dir("file"), libc::ENOTDIR)?;
    fails("a slash behind a file", std::fs::metadata("file/"), libc::ENOTDIR)?;
    same("links of a directory", std::fs::metadata("d").map_err(text)?.nlink() >= 1, true)?;
    std::fs::remove_dir("d/e/f").map_err(text)?;
    std::fs::remove_dir_all("d").map_err(text)?;
    fails("gone", std::fs::metadata("d"), libc::ENOENT)?;
    fails("the dot", std::fs::remove_dir("."), libc::EINVAL)
}

fn listing() -> Outcome {
    std::fs::create_dir("d").map_err(text)?;
    let mut wanted: Vec<String> = (0..500).map(|n| format!("file-{n:03}")).collect();
    for name in &wanted {
        std::fs::write(format!("d/{name}"), b"").map_err(text)?;
    }
    std::fs::create_dir("d/sub").map_err(text)?;
    wanted.push("sub".into());
    let mut names = Vec::new();
    for entry in std::fs::read_dir("d").map_err(text)? {
        let entry = entry.map_err(text)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        same("kind", entry.file_type().map_err(text)?.is_dir(), name == "sub")?;
        same("number", entry.metadata().map_err(text)?.ino(), std::os::unix::fs::DirEntryExt::ino(&entry))?;
        names.push(name);
    }
    names.sort();
    same("all", names, wanted.clone())?;
    // Removing while listing skips nothing that stays.
    let mut seen = 0;
    for entry in std::fs::read_dir("d").map_err(text)? {
        let entry = entry.map_err(text)?;
        if entry.file_type().map_err(text)?.is_file() {
            std::fs::remove_file(entry.path()).map_err(text)?;
            seen += 1;
        }
    }
    same("removed", seen, 500)?;
    let dir = works("open", fs::open("d", OFlags::DIRECTORY, Mode::empty()))?;
    let mut dots = Vec::new();
    for entry in works("dir", fs::Dir::read_from(&dir))? {
        dots.push(works("entry", entry)?.file_name().to_string_lossy().into_owned());
    }
    dots.sort();
    same("dots", dots, vec![".".to_string(), "..".into(), "sub".into()])
}

fn links() -> Outcome {
    std::fs::write("a", b"one").map_err(text)?;
    std::fs::hard_link("a", "b").map_err(text)?;
    let (a, b) = (std::fs::metadata("a").map_err(text)?, std::fs::metadata("b").map_err(text)?);
    same("same file", (a.ino(), a.nlink()), (b.ino(), 2))?;
    std::fs::write("b", b"two").map_err(text)?;
    same("content", std::fs::read("a").map_err(text)?, b"two".to_vec())?;
    std::fs::remove_file("a").map_err(text)?;
    same("left", std::fs::read("b").map_err(text)?, b"two".to_vec())?;
    fails("onto a name", std::fs::hard_link("b", "b"), libc::EEXIST)?;
    symlink("b", "s").map_err(text)?;
    same("text", std::fs::read_link("s").map_err(text)?.to_string_lossy().into_owned(), "b".to_string())?;
    same("its size", std::fs::symlink_metadata("s").map_err(text)?.len(), 1)?;
    fails("no link", std::fs::read_link("b"), libc::EINVAL)?;
    symlink("nowhere", "broken").map_err(text)?;
    fails("a broken link", std::fs::read("broken"), libc::ENOENT)?;
    std::fs::write("broken", b"made").map_err(text)?;
    same("made through the link", std::fs::read("nowhere").map_err(text)?, b"made".to_vec())?;
    std::fs::create_dir("d").map_err(text)?;
    fails("link a directory", std::fs::hard_link("d", "e"), libc::EPERM)?;
    symlink("d", "to-d").map_err(text)?;
    std::fs::write("to-d/x", b"").map_err(text)?;
    that("through a directory link", std::fs::metadata("d/x").is_ok())
}

fn rename() -> Outcome {
    std::fs::write("a", b"a").map_err(text)?;
    std::fs::write("b", b"b").map_err(text)?;
    std::fs::rename("a", "b").map_err(text)?;
    same("replaced", std::fs::read("b").map_err(text)?, b"a".to_vec())?;
    fails("gone", std::fs::metadata("a"), libc::ENOENT)?;
    std::fs::create_dir_all("d/e").map_err(text)?;
    fails("file onto directory", std::fs::rename("b", "d"), libc::EISDIR)?;
    fails("directory onto file", std::fs::rename("d", "b"), libc::ENOTDIR)?;
    fails("into itself", std::fs::rename("d", "d/e/f"), libc::EINVAL)?;
    std::fs::create_dir("g").map_err(text)?;
    std::fs::write("g/x", b"").map_err(text)?;
    fails("onto a full directory", std::fs::rename("d", "g"), libc::ENOTEMPTY)?;
    std::fs::rename("d/e", "h").map_err(text)?;
    std::fs::rename("g", "h").map_err(text)?;
    that("moved", std::fs::metadata("h/x").is_ok())?;
    std::fs::write("c", b"c").map_err(text)?;
    let (b, c) = ("b", "c");
    fails("no replace", fs::renameat_with(CWD, b, CWD, c, RenameFlags::NOREPLACE), libc::EEXIST)?;
    works("exchange", fs::renameat_with(CWD, b, CWD, c, RenameFlags::EXCHANGE))?;
    same("exchanged", std::fs::read("b").map_err(text)?, b"c".to_vec())?;
    fails("nothing", std::fs::rename("nothing", "x"), libc::ENOENT)
}

fn relative() -> Outcome {
    std::fs::create_dir_all("d/e").map_err(text)?;
    let dir = works("open", fs::open("d", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()))?;
    works("mkdirat", fs::mkdirat(&dir, "f", Mode::from_raw_mode(0o700)))?;
    works("symlinkat", fs::symlinkat("e", &dir, "l"))?;
    same("statat", works("statat", fs::statat(&dir, "l", AtFlags::SYMLINK_NOFOLLOW))?.st_mode & 0o170_000, 0o120_000)?;
    works("renameat", fs::renameat(&dir, "f", &dir, "g"))?;
    works("unlinkat", fs::unlinkat(&dir, "g", AtFlags::REMOVEDIR))?;
    same("dot dot", std::fs::metadata("d/e/../..").map_err(text)?.ino(), std::fs::metadata(".").map_err(text)?.ino())?;
    let file = std::fs::File::create("file").map_err(text)?;
    fails("not a directory", fs::statat(&file, "x", AtFlags::empty()), libc::ENOTDIR)?;
    same("an empty path", works("statat", fs::statat(&file, "", AtFlags::EMPTY_PATH))?.st_mode & 0o170_000, 0o100_000)
}

fn working_directory() -> Outcome {
    let start = std::env::current_dir().map_err(text)?;
    std::fs::create_dir_all("d/e").map_err(text)?;
    std::env::set_current_dir("d/e").map_err(text)?;
    same("getcwd", std::env::current_dir().map_err(text)?, start.join("d/e"))?;
    std::env::set_current_dir("..").map_err(text)?;
    std::fs::rename(start.join("d"), start.join("moved")).map_err(text)?;
    same("after a rename", std::env::current_dir().map_err(text)?, start.join("moved"))?;
    std::fs::remove_dir_all(start.join("moved")).map_err(text)?;
    fails("removed", std::env::current_dir(), libc::ENOENT)?;
    std::env::set_current_dir(&start).map_err(text)?;
    fails("no room", raw::call(libc::SYS_getcwd, [[0_u8; 1].as_mut_ptr() as u64, 1, 0, 0, 0, 0]), libc::ERANGE)
}

fn times() -> Outcome {
    std::fs::write("a", b"").map_err(text)?;
    let at = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: at(1000, 5), last_modification: at(2000, 7) };
    works("utimensat", fs::utimensat(CWD, "a", &times, AtFlags::empty()))?;
    let meta = std::fs::metadata("a").map_err(text)?;
    same("times", (meta.atime(), meta.atime_nsec(), meta.mtime(), meta.mtime_nsec()), (1000, 5, 2000, 7))?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_secs() as i64);
    that("change time is now", (meta.ctime() - now).abs() < 5)?;
    std::fs::write("a", b"x").map_err(text)?;
    that("a write sets it", (std::fs::metadata("a").map_err(text)?.mtime() - now).abs() < 5)?;
    let omit = Timestamps { last_access: at(0, libc::UTIME_OMIT), last_modification: at(3000, 0) };
    works("omit", fs::utimensat(CWD, "a", &omit, AtFlags::empty()))?;
    same("set", std::fs::metadata("a").map_err(text)?.mtime(), 3000)?;
    let bad = Timestamps { last_access: at(0, 2_000_000_000), last_modification: at(0, 0) };
    fails("bad", fs::utimensat(CWD, "a", &bad, AtFlags::empty()), libc::EINVAL)?;
    symlink("a", "l").map_err(text)?;
    let times = Timestamps { last_access: at(5, 0), last_modification: at(6, 0) };
    works("a link's own", fs::utimensat(CWD, "l", &times, AtFlags::SYMLINK_NOFOLLOW))?;
    same("the link", std::fs::symlink_metadata("l").map_err(text)?.mtime(), 6)?;
    same("not the file", std::fs::metadata("a").map_err(text)?.mtime(), 3000)
}

fn nodes() -> Outcome {
    works("mkfifo", fs::mknodat(CWD, "f", FileType::Fifo, Mode::from_raw_mode(0o600), 0))?;
    that("a fifo", std::fs::metadata("f").map_err(text)?.file_type().is_fifo())?;
    fails("again", fs::mknodat(CWD, "f", FileType::Fifo, Mode::from_raw_mode(0o600), 0), libc::EEXIST)?;
    works("a file", fs::mknodat(CWD, "r", FileType::RegularFile, Mode::from_raw_mode(0o644), 0))?;
    that("regular", std::fs::metadata("r").map_err(text)?.is_file())
}

fn access() -> Outcome {
    std::fs::write("a", b"").map_err(text)?;
    works("chmod", fs::chmod("a", Mode::from_raw_mode(0o644)))?;
    works("readable", fs::access("a", fs::Access::READ_OK))?;
    fails("not executable", fs::access("a", fs::Access::EXEC_OK), libc::EACCES)?;
    fails("not there", fs::access("b", fs::Access::EXISTS), libc::ENOENT)?;
    fails("a bad mode", raw::call(libc::SYS_access, [c"a".as_ptr() as u64, 8, 0, 0, 0, 0]), libc::EINVAL)
}

fn statx() -> Outcome {
    std::fs::write("a", vec![1; 5000]).map_err(text)?;
    let meta = std::fs::metadata("a").map_err(text)?;
    let more = works("statx", fs::statx(CWD, "a", AtFlags::empty(), fs::StatxFlags::BASIC_STATS))?;
    same("size", more.stx_size, 5000)?;
    same("number", more.stx_ino, meta.ino())?;
    same("mode", u32::from(more.stx_mode), meta.mode())?;
    same("mtime", more.stx_mtime.tv_sec, meta.mtime())?;
    that("what is told", more.stx_mask & 0x7ff == 0x7ff)?;
    same("device", libc::makedev(more.stx_dev_major, more.stx_dev_minor), meta.dev())
}

fn statfs() -> Outcome {
    let here = works("statfs", fs::statfs("."))?;
    that("has a size", here.f_blocks > 0 && here.f_bsize > 0 && here.f_bfree <= here.f_blocks)?;
    same("proc", works("statfs", fs::statfs("/proc"))?.f_type as u64, 0x9fa0)?;
    fails("nothing", fs::statfs("nothing"), libc::ENOENT)
}

fn deep() -> Outcome {
    let mut path = std::path::PathBuf::from("d");
    for _ in 0..100 {
        path.push("sub");
    }
    std::fs::create_dir_all(&path).map_err(text)?;
    std::fs::write(path.join("x"), b"deep").map_err(text)?;
    same("deep", std::fs::read(path.join("x")).map_err(text)?, b"deep".to_vec())?;
    std::fs::remove_dir_all("d").map_err(text)
}

/// A file without a name gets one, once.
fn unnamed() -> Outcome {
    use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
    use std::os::fd::AsRawFd;
    let make = |flags| works("O_TMPFILE", open(".", OFlags::TMPFILE | OFlags::RDWR | flags, Mode::RUSR | Mode::WUSR));
    let path = |fd: &std::os::fd::OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let file = make(OFlags::empty())?;
    works("write", rustix::io::write(&file, b"content"))?;
    works("a name", linkat(CWD, path(&file), CWD, "named", AtFlags::SYMLINK_FOLLOW))?;
    same("content", std::fs::read("named").map_err(|error| error.to_string())?, b"content".to_vec())?;
    same("names", works("fstat", fs::fstat(&file))?.st_nlink, 1)?;
    works("another", linkat(CWD, path(&file), CWD, "again", AtFlags::SYMLINK_FOLLOW))?;
    for name in ["named", "again"] {
        std::fs::remove_file(name).map_err(|error| error.to_string())?;
    }
    let link = linkat(CWD, path(&file), CWD, "third", AtFlags::SYMLINK_FOLLOW);
    fails("it has had its names", link, libc::ENOENT)?;
    let alone = make(OFlags::EXCL)?;
    let link = linkat(CWD, path(&alone), CWD, "alone", AtFlags::SYMLINK_FOLLOW);
    fails("never a name", link, libc::ENOENT)?;
    let file = make(OFlags::empty())?;
    if rustix::process::geteuid().is_root() {
        works("by descriptor", linkat(&file, "", CWD, "empty", AtFlags::EMPTY_PATH))?;
    } else {
        fails("by descriptor", linkat(&file, "", CWD, "empty", AtFlags::EMPTY_PATH), libc::ENOENT)?;
    }
    Ok(())
}

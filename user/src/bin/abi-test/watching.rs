//! inotify.
use crate::{
    Outcome, Subtest,
    check::{fails, same, text, that, works},
    epoll::{self, owned},
};
use shimos_user::raw::{self, Answer};
use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::{fd::AsRawFd, fd::OwnedFd, unix::fs::PermissionsExt},
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("inotify/file", file),
    ("inotify/directory", directory),
    ("inotify/moves", moves),
    ("inotify/exchange", exchange),
    ("inotify/links", links),
    ("inotify/removal", removal),
    ("inotify/attributes", attributes),
    ("inotify/image-file", image_file),
    ("inotify/options", options),
    ("inotify/reading", reading),
    ("inotify/overflow", overflow),
    ("inotify/bad-arguments", bad_arguments),
];

const ACCESS: u32 = libc::IN_ACCESS;
const MODIFY: u32 = libc::IN_MODIFY;
const ATTRIB: u32 = libc::IN_ATTRIB;
const CLOSE_WRITE: u32 = libc::IN_CLOSE_WRITE;
const CLOSE_NOWRITE: u32 = libc::IN_CLOSE_NOWRITE;
const OPEN: u32 = libc::IN_OPEN;
const CREATE: u32 = libc::IN_CREATE;
const DELETE: u32 = libc::IN_DELETE;
const DIR: u32 = libc::IN_ISDIR;
const IGNORED: u32 = libc::IN_IGNORED;
const ALL: u32 = libc::IN_ALL_EVENTS;

/// Watch, mask, cookie and name.
type Told = (i32, u32, u32, String);

fn new() -> Result<OwnedFd, String> {
    owned("inotify_init1", raw::call(libc::SYS_inotify_init1, [libc::IN_NONBLOCK as u64, 0, 0, 0, 0, 0]))
}

fn watch(fd: &OwnedFd, path: &str, mask: u32) -> Result<i32, i32> {
    let path = CString::new(path).unwrap_or_default();
    let arguments = [fd.as_raw_fd() as u64, path.as_ptr() as u64, mask.into(), 0, 0, 0];
    raw::call(libc::SYS_inotify_add_watch, arguments).map(|id| id as i32)
}

fn unwatch(fd: &OwnedFd, id: i32) -> Answer {
    raw::call(libc::SYS_inotify_rm_watch, [fd.as_raw_fd() as u64, id as u64, 0, 0, 0, 0])
}

fn read(fd: &OwnedFd, room: usize) -> Result<Vec<Told>, i32> {
    let mut bytes = vec![0_u8; room];
    let arguments = [fd.as_raw_fd() as u64, bytes.as_mut_ptr() as u64, room as u64, 0, 0, 0];
    bytes.truncate(raw::call(libc::SYS_read, arguments)? as usize);
    let mut told = Vec::new();
    let mut rest = bytes.as_slice();
    while rest.len() >= 16 {
        let word = |at: usize| u32::from_le_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
        let len = word(12) as usize;
        let name = rest[16..16 + len].split(|byte| *byte == 0).next().unwrap_or_default();
        told.push((word(0) as i32, word(4), word(8), String::from_utf8_lossy(name).into_owned()));
        rest = &rest[16 + len..];
    }
    Ok(told)
}

/// All that there is.
fn all(fd: &OwnedFd) -> Result<Vec<Told>, String> {
    match read(fd, 1 << 16) {
        Err(libc::EAGAIN) => Ok(Vec::new()),
        other => works("read", other),
    }
}

/// Masks and names alone.
fn masks(fd: &OwnedFd) -> Result<Vec<(u32, String)>, String> {
    Ok(all(fd)?.into_iter().map(|(_, mask, _, name)| (mask, name)).collect())
}

fn named(events: &[u32], name: &str) -> Vec<(u32, String)> {
    events.iter().map(|mask| (*mask, name.to_string())).collect()
}

fn file() -> Outcome {
    fs::write("a", b"some").map_err(text)?;
    let fd = new()?;
    let id = works("watch", watch(&fd, "a", ALL))?;
    same("the first", id, 1)?;
    let mut open = OpenOptions::new().read(true).write(true).open("a").map_err(text)?;
    let mut bytes = [0; 2];
    open.read_exact(&mut bytes).map_err(text)?;
    open.write_all(b"xx").map_err(text)?;
    open.write_all(b"yy").map_err(text)?;
    open.set_len(3).map_err(text)?;
    drop(open);
    same("one after the other", masks(&fd)?, named(&[OPEN, ACCESS, MODIFY, CLOSE_WRITE], ""))?;
    drop(File::open("a").map_err(text)?);
    same("reading alone", all(&fd)?.last().map(|told| (told.0, told.1)), Some((1, CLOSE_NOWRITE)))?;
    drop(File::create("a").map_err(text)?);
    // The first two have changed places between releases of Linux.
    let mut told = masks(&fd)?;
    told.sort();
    same("cut off", told, named(&[MODIFY, CLOSE_WRITE, OPEN], ""))?;
    let copy = File::open("a").map_err(text)?;
    let other = copy.try_clone().map_err(text)?;
    drop(copy);
    same("still open", masks(&fd)?, named(&[OPEN], ""))?;
    drop(other);
    same("closed", masks(&fd)?, named(&[CLOSE_NOWRITE], ""))
}

fn directory() -> Outcome {
    let fd = new()?;
    works("watch", watch(&fd, ".", ALL))?;
    fs::write("a", b"x").map_err(text)?;
    same("a file", masks(&fd)?, named(&[CREATE, OPEN, MODIFY, CLOSE_WRITE], "a"))?;
    fs::read("a").map_err(text)?;
    same("read", masks(&fd)?, named(&[OPEN, ACCESS, CLOSE_NOWRITE], "a"))?;
    fs::create_dir("d").map_err(text)?;
    same("a directory", masks(&fd)?, named(&[CREATE | DIR], "d"))?;
    fs::write("d/inside", b"x").map_err(text)?;
    same("not further down", masks(&fd)?, Vec::new())?;
    fs::remove_file("d/inside").map_err(text)?;
    fs::remove_dir("d").map_err(text)?;
    same("removed", masks(&fd)?, named(&[DELETE | DIR], "d"))?;
    std::os::unix::fs::symlink("a", "l").map_err(text)?;
    works("mkfifo", raw::call(libc::SYS_mknod, [c"f".as_ptr() as u64, 0o10_644, 0, 0, 0, 0]))?;
    same("others", masks(&fd)?, [named(&[CREATE], "l"), named(&[CREATE], "f")].concat())?;
    let here = File::open(".").map_err(text)?;
    same("itself", masks(&fd)?, named(&[OPEN | DIR], ""))?;
    drop(here);
    same("itself", masks(&fd)?, named(&[CLOSE_NOWRITE | DIR], ""))
}

fn moves() -> Outcome {
    fs::create_dir("one").map_err(text)?;
    fs::create_dir("two").map_err(text)?;
    fs::write("one/a", b"").map_err(text)?;
    fs::write("two/b", b"").map_err(text)?;
    let fd = new()?;
    let one = works("watch", watch(&fd, "one", ALL))?;
    let two = works("watch", watch(&fd, "two", ALL))?;
    let itself = works("watch", watch(&fd, "one/a", ALL))?;
    let other = works("watch", watch(&fd, "two/b", ALL))?;
    fs::rename("one/a", "two/c").map_err(text)?;
    let told = all(&fd)?;
    same("three", told.len(), 3)?;
    same("from", (told[0].0, told[0].1, told[0].3.as_str()), (one, libc::IN_MOVED_FROM, "a"))?;
    same("to", (told[1].0, told[1].1, told[1].3.as_str()), (two, libc::IN_MOVED_TO, "c"))?;
    that("tied together", told[0].2 != 0 && told[0].2 == told[1].2)?;
    same("itself", (told[2].0, told[2].1, told[2].2), (itself, libc::IN_MOVE_SELF, 0))?;
    fs::rename("two/c", "two/b").map_err(text)?;
    let told = all(&fd)?;
    that("another pair", told[0].2 != 0 && told[0].2 == told[1].2)?;
    let gone: Vec<u32> = told.iter().filter(|told| told.0 == other).map(|told| told.1).collect();
    same("the one that was there", gone, vec![ATTRIB, libc::IN_DELETE_SELF, IGNORED])?;
    fs::create_dir("one/d").map_err(text)?;
    all(&fd)?;
    fs::rename("one/d", "one/e").map_err(text)?;
    let told = masks(&fd)?;
    same("a directory", told.first().map(|told| told.0), Some(libc::IN_MOVED_FROM | DIR))
}

fn exchange() -> Outcome {
    fs::write("a", b"").map_err(text)?;
    fs::create_dir("d").map_err(text)?;
    let fd = new()?;
    works("watch", watch(&fd, ".", ALL))?;
    let at = libc::AT_FDCWD as u64;
    let arguments = [at, c"a".as_ptr() as u64, at, c"d".as_ptr() as u64, libc::RENAME_EXCHANGE as u64, 0];
    works("exchange", raw::call(libc::SYS_renameat2, arguments))?;
    let (from, to) = (libc::IN_MOVED_FROM, libc::IN_MOVED_TO);
    let wanted = [(from, "a"), (to, "d"), (from | DIR, "d"), (to | DIR, "a")];
    let wanted: Vec<(u32, String)> = wanted.iter().map(|(mask, name)| (*mask, name.to_string())).collect();
    same("both ways", masks(&fd)?, wanted)
}

fn links() -> Outcome {
    fs::write("a", b"").map_err(text)?;
    fs::create_dir("d").map_err(text)?;
    let fd = new()?;
    let file = works("watch", watch(&fd, "a", ALL))?;
    let dir = works("watch", watch(&fd, "d", ALL))?;
    fs::hard_link("a", "d/b").map_err(text)?;
    let told: Vec<(i32, u32)> = all(&fd)?.into_iter().map(|told| (told.0, told.1)).collect();
    same("a new name", told, vec![(file, ATTRIB), (dir, CREATE)])?;
    fs::remove_file("a").map_err(text)?;
    let told: Vec<(i32, u32)> = all(&fd)?.into_iter().map(|told| (told.0, told.1)).collect();
    same("a name less", told, vec![(file, ATTRIB)])?;
    fs::write("d/b", b"x").map_err(text)?;
    let told: Vec<(i32, u32)> = all(&fd)?.into_iter().filter(|told| told.1 == MODIFY).map(|t| (t.0, t.1)).collect();
    that("by the other name", told.contains(&(file, MODIFY)) && told.contains(&(dir, MODIFY)))
}

fn removal() -> Outcome {
    fs::write("a", b"").map_err(text)?;
    fs::create_dir("d").map_err(text)?;
    let fd = new()?;
    let file = works("watch", watch(&fd, "a", libc::IN_DELETE_SELF | ATTRIB))?;
    let dir = works("watch", watch(&fd, "d", libc::IN_DELETE_SELF | ATTRIB))?;
    let open = File::open("a").map_err(text)?;
    fs::remove_file("a").map_err(text)?;
    same("open still", masks(&fd)?, named(&[ATTRIB], ""))?;
    drop(open);
    same("gone", masks(&fd)?, named(&[libc::IN_DELETE_SELF, IGNORED], ""))?;
    fails("no watch", unwatch(&fd, file), libc::EINVAL)?;
    fs::remove_dir("d").map_err(text)?;
    same("a directory", masks(&fd)?, named(&[libc::IN_DELETE_SELF, IGNORED], ""))?;
    fails("no watch", unwatch(&fd, dir), libc::EINVAL)
}

fn attributes() -> Outcome {
    fs::write("a", b"").map_err(text)?;
    let fd = new()?;
    works("watch", watch(&fd, ".", ALL))?;
    fs::set_permissions("a", fs::Permissions::from_mode(0o600)).map_err(text)?;
    same("mode", masks(&fd)?, named(&[ATTRIB], "a"))?;
    std::os::unix::fs::chown("a", Some(0), None).map_err(text)?;
    same("owner", masks(&fd)?, named(&[ATTRIB], "a"))?;
    works("times", raw::call(libc::SYS_utime, [c"a".as_ptr() as u64, 0, 0, 0, 0, 0]))?;
    same("times", masks(&fd)?, named(&[ATTRIB], "a"))?;
    works("truncate", raw::call(libc::SYS_truncate, [c"a".as_ptr() as u64, 9, 0, 0, 0, 0]))?;
    same("size", masks(&fd)?, named(&[MODIFY], "a"))?;
    fs::read_dir(".").map_err(text)?.count();
    let told = masks(&fd)?;
    that("listing", told.contains(&(ACCESS | DIR, String::new())))
}

/// A file is the same file before and after it is changed for the first time.
fn image_file() -> Outcome {
    let fd = new()?;
    let path = std::env::current_exe().map_err(text)?;
    let id = works("watch", watch(&fd, &path.to_string_lossy(), ATTRIB))?;
    let mode = fs::metadata(&path).map_err(text)?.permissions();
    fs::set_permissions(&path, mode.clone()).map_err(text)?;
    fs::set_permissions(&path, mode).map_err(text)?;
    same("changed", all(&fd)?.first().map(|told| (told.0, told.1)), Some((id, ATTRIB)))?;
    same("the same watch", watch(&fd, &path.to_string_lossy(), ATTRIB), Ok(id))
}

fn options() -> Outcome {
    fs::write("a", b"").map_err(text)?;
    std::os::unix::fs::symlink("a", "l").map_err(text)?;
    let fd = new()?;
    let id = works("watch", watch(&fd, "a", OPEN | libc::IN_ONESHOT))?;
    drop(File::open("a").map_err(text)?);
    let told: Vec<(i32, u32)> = all(&fd)?.into_iter().map(|told| (told.0, told.1)).collect();
    same("once", told, vec![(id, OPEN), (id, IGNORED)])?;
    fails("gone", unwatch(&fd, id), libc::EINVAL)?;
    let id = works("watch", watch(&fd, "a", OPEN))?;
    same("another number", id, 2)?;
    same("by the link", watch(&fd, "l", OPEN), Ok(id))?;
    let link = works("the link itself", watch(&fd, "l", ALL | libc::IN_DONT_FOLLOW))?;
    that("another", link != id)?;
    fails("it is there", watch(&fd, "a", OPEN | libc::IN_MASK_CREATE), libc::EEXIST)?;
    same("added", watch(&fd, "a", libc::IN_CLOSE | libc::IN_MASK_ADD), Ok(id))?;
    drop(File::open("a").map_err(text)?);
    same("both", masks(&fd)?, named(&[OPEN, CLOSE_NOWRITE], ""))?;
    same("replaced", watch(&fd, "a", libc::IN_CLOSE), Ok(id))?;
    drop(File::open("a").map_err(text)?);
    same("one", masks(&fd)?, named(&[CLOSE_NOWRITE], ""))?;
    fails("no directory", watch(&fd, "a", OPEN | libc::IN_ONLYDIR), libc::ENOTDIR)?;
    works("a directory", watch(&fd, ".", OPEN | libc::IN_ONLYDIR))?;
    works("remove", unwatch(&fd, id))?;
    same("said so", all(&fd)?.iter().map(|told| (told.0, told.1)).collect::<Vec<_>>(), vec![(id, IGNORED)])
}

fn reading() -> Outcome {
    fs::write("a-name-of-more-than-16-bytes", b"").map_err(text)?;
    let fd = new()?;
    works("watch", watch(&fd, ".", OPEN))?;
    fails("nothing", read(&fd, 100), libc::EAGAIN)?;
    let set = epoll::set()?;
    epoll::add(&set, &fd, epoll::IN | epoll::ET)?;
    same("not ready", works("wait", epoll::wait(&set, 0))?.len(), 0)?;
    for _ in 0..3 {
        drop(File::open("a-name-of-more-than-16-bytes").map_err(text)?);
    }
    same("ready", works("wait", epoll::wait(&set, 0))?.len(), 1)?;
    let mut len = 0_u32;
    let arguments = [fd.as_raw_fd() as u64, libc::FIONREAD, &raw mut len as u64, 0, 0, 0];
    works("FIONREAD", raw::call(libc::SYS_ioctl, arguments))?;
    same("merged", len, 48)?;
    fails("too small", read(&fd, 47), libc::EINVAL)?;
    same("just fits", works("read", read(&fd, 48))?.len(), 1)?;
    fails("no more", read(&fd, 100), libc::EAGAIN)?;
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(text)?;
    same("its link", link.to_string_lossy().into_owned(), "anon_inode:inotify".into())
}

fn overflow() -> Outcome {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").map_err(text)?;
    let limit: usize = limit.trim().parse().map_err(|_| "no number".to_string())?;
    fs::write("a", b"").map_err(text)?;
    let fd = new()?;
    works("watch", watch(&fd, "a", OPEN | libc::IN_CLOSE))?;
    let mut opened = 0;
    while opened < limit + 20 {
        drop(File::open("a").map_err(text)?);
        opened += 2;
    }
    let mut told = Vec::new();
    loop {
        let more = all(&fd)?;
        if more.is_empty() {
            break;
        }
        told.extend(more);
    }
    same("as many as fit, and one", told.len(), limit + 1)?;
    same("which says so", told.last().map(|told| (told.0, told.1)), Some((-1, libc::IN_Q_OVERFLOW)))
}

fn bad_arguments() -> Outcome {
    fails("flags", raw::call(libc::SYS_inotify_init1, [1, 0, 0, 0, 0, 0]), libc::EINVAL)?;
    let fd = new()?;
    drop(owned("inotify_init", raw::call(libc::SYS_inotify_init, [0; 6]))?);
    fs::write("a", b"").map_err(text)?;
    fails("nothing", watch(&fd, "a", 0), libc::EINVAL)?;
    fails("nobody", watch(&fd, "b", OPEN), libc::ENOENT)?;
    fails("both", watch(&fd, "a", OPEN | libc::IN_MASK_ADD | libc::IN_MASK_CREATE), libc::EINVAL)?;
    fails("no watch", unwatch(&fd, 99), libc::EINVAL)?;
    let other = OwnedFd::from(File::open("a").map_err(text)?);
    fails("a file", watch(&other, "a", OPEN), libc::EINVAL)?;
    fails("a file", unwatch(&other, 1), libc::EINVAL)?;
    let arguments = [999, c"a".as_ptr() as u64, OPEN.into(), 0, 0, 0];
    fails("no descriptor", raw::call(libc::SYS_inotify_add_watch, arguments), libc::EBADF)?;
    let arguments = [fd.as_raw_fd() as u64, 8, OPEN.into(), 0, 0, 0];
    fails("no memory", raw::call(libc::SYS_inotify_add_watch, arguments), libc::EFAULT)?;
    let word = 0_u64;
    let arguments = [fd.as_raw_fd() as u64, &raw const word as u64, 8, 0, 0, 0];
    fails("writing", raw::call(libc::SYS_write, arguments), libc::EBADF)
}

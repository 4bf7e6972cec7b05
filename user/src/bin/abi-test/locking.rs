//! File locks of all three kinds, and signals that tell of descriptors.
use crate::{
    Outcome, Subtest,
    check::{asleep, fails, same, text, that, works},
};
use shimos_user::raw::{self, Disposition};
use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::fd::{AsRawFd, OwnedFd},
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("locks/ranges", ranges),
    ("locks/listed", listed),
    ("locks/refused", refused),
    ("locks/of-descriptions", of_descriptions),
    ("locks/whole-files", whole_files),
    ("locks/closing", closing),
    ("locks/deadlock", deadlock),
    ("locks/waiting", waiting),
    ("locks/leases", leases),
    ("async/owner", owner),
    ("async/pipe", pipe),
    ("async/socket", socket),
    ("async/terminal", terminal),
];

const OFD_GETLK: i32 = 36;
const OFD_SETLK: i32 = 37;
const OFD_SETLKW: i32 = 38;

fn own() -> i32 {
    std::process::id() as i32
}

fn open() -> Result<File, String> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open("file").map_err(text)
}

/// struct flock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
struct Range {
    kind: i16,
    whence: i16,
    start: i64,
    len: i64,
    pid: i32,
}

const READ: i16 = libc::F_RDLCK as i16;
const WRITE: i16 = libc::F_WRLCK as i16;
const NONE: i16 = libc::F_UNLCK as i16;

fn range(kind: i16, start: i64, len: i64) -> Range {
    Range { kind, whence: 0, start, len, pid: 0 }
}

fn fcntl(file: &impl AsRawFd, command: i32, argument: u64) -> raw::Answer {
    raw::call(libc::SYS_fcntl, [file.as_raw_fd() as u64, command as u64, argument, 0, 0, 0])
}

fn lock(file: &impl AsRawFd, command: i32, range: Range) -> raw::Answer {
    fcntl(file, command, &raw const range as u64)
}

/// What stands against a lock.
fn ask(file: &impl AsRawFd, command: i32, range: Range) -> Result<Range, i32> {
    let mut range = range;
    fcntl(file, command, &raw mut range as u64)?;
    Ok(range)
}

/// Runs `work` in another process.
fn elsewhere(work: impl FnOnce() -> Outcome) -> Outcome {
    let (mut why, mut tell) = std::io::pipe().map_err(text)?;
    let child = raw::fork(|| match work() {
        Ok(()) => 0,
        Err(said) => {
            let _ = tell.write_all(said.as_bytes());
            1
        }
    })
    .map_err(text)?;
    drop(tell);
    let mut said = String::new();
    why.read_to_string(&mut said).map_err(text)?;
    if raw::exit_of(child).map_err(text)? == 0 { Ok(()) } else { Err(said) }
}

fn ranges() -> Outcome {
    let file = open()?;
    file.set_len(100).map_err(text)?;
    works("first", lock(&file, libc::F_SETLK, range(WRITE, 0, 10)))?;
    works("next to it", lock(&file, libc::F_SETLK, range(WRITE, 10, 10)))?;
    works("a hole", lock(&file, libc::F_SETLK, range(NONE, 5, 2)))?;
    works("from the end", lock(&file, libc::F_SETLK, Range { whence: 2, ..range(READ, -10, 0) }))?;
    elsewhere(|| {
        let file = open()?;
        let parent = raw::call(libc::SYS_getppid, [0; 6]).unwrap_or_default() as i32;
        let held = works("F_GETLK", ask(&file, libc::F_GETLK, range(READ, 0, 0)))?;
        same("the first", held, Range { pid: parent, ..range(WRITE, 0, 5) })?;
        let held = works("F_GETLK", ask(&file, libc::F_GETLK, range(READ, 6, 0)))?;
        same("joined", held, Range { pid: parent, ..range(WRITE, 7, 13) })?;
        let held = works("F_GETLK", ask(&file, libc::F_GETLK, range(WRITE, 30, 0)))?;
        same("to the end", held, Range { pid: parent, ..range(READ, 90, 0) })?;
        let free = works("F_GETLK", ask(&file, libc::F_GETLK, range(READ, 90, 1)))?;
        same("free", free.kind, NONE)?;
        fails("taken", lock(&file, libc::F_SETLK, range(READ, 0, 1)), libc::EAGAIN)?;
        works("the hole", lock(&file, libc::F_SETLK, range(WRITE, 5, 2)))?;
        works("shared", lock(&file, libc::F_SETLK, range(READ, 95, 1)))?;
        works("negative length", lock(&file, libc::F_SETLK, range(WRITE, 30, -5)))?;
        let own = works("F_GETLK", ask(&file, libc::F_GETLK, range(WRITE, 25, 5)))?;
        same("one's own does not count", own.kind, NONE)
    })
}

fn refused() -> Outcome {
    let file = open()?;
    let reader = File::open("file").map_err(text)?;
    let writer = OpenOptions::new().write(true).open("file").map_err(text)?;
    fails("not open for writing", lock(&reader, libc::F_SETLK, range(WRITE, 0, 1)), libc::EBADF)?;
    fails("not open for reading", lock(&writer, libc::F_SETLK, range(READ, 0, 1)), libc::EBADF)?;
    works("asking is free", ask(&reader, libc::F_GETLK, range(WRITE, 0, 1)))?;
    fails("kind", lock(&file, libc::F_SETLK, range(3, 0, 1)), libc::EINVAL)?;
    fails("whence", lock(&file, libc::F_SETLK, Range { whence: 3, ..range(READ, 0, 1) }), libc::EINVAL)?;
    fails("before the beginning", lock(&file, libc::F_SETLK, range(READ, -1, 1)), libc::EINVAL)?;
    fails("before the beginning", lock(&file, libc::F_SETLK, range(READ, 5, -6)), libc::EINVAL)?;
    fails("too far", lock(&file, libc::F_SETLK, range(READ, i64::MAX, 2)), libc::EOVERFLOW)?;
    works("the last byte", lock(&file, libc::F_SETLK, range(READ, i64::MAX, 1)))?;
    fails("unlock is no question", ask(&file, libc::F_GETLK, range(NONE, 0, 1)), libc::EINVAL)?;
    fails("whose", lock(&file, OFD_SETLK, Range { pid: 1, ..range(READ, 0, 1) }), libc::EINVAL)?;
    fails("no address", fcntl(&file, libc::F_SETLK, 8), libc::EFAULT)?;
    fails("unknown", fcntl(&file, 77, 0), libc::EINVAL)?;
    fails("unknown", fcntl(&file, 99, 0), libc::EINVAL)?;
    fails("flock", raw::call(libc::SYS_flock, [file.as_raw_fd() as u64, 3, 0, 0, 0, 0]), libc::EINVAL)?;
    fails("flock", raw::call(libc::SYS_flock, [999, 1, 0, 0, 0, 0]), libc::EBADF)
}

fn of_descriptions() -> Outcome {
    let (one, two) = (open()?, open()?);
    works("one", lock(&one, OFD_SETLK, range(WRITE, 0, 10)))?;
    fails("two", lock(&two, OFD_SETLK, range(READ, 5, 1)), libc::EAGAIN)?;
    same("whose", works("F_OFD_GETLK", ask(&two, OFD_GETLK, range(READ, 0, 0)))?.pid, -1)?;
    // Both kinds of ranges see each other, and a process its own descriptions.
    fails("the process", lock(&two, libc::F_SETLK, range(READ, 0, 1)), libc::EAGAIN)?;
    let copy = one.try_clone().map_err(text)?;
    works("a copy is the same", lock(&copy, OFD_SETLK, range(READ, 0, 5)))?;
    works("shared", lock(&two, OFD_SETLK, range(READ, 0, 5)))?;
    elsewhere(|| works("inherited", lock(&one, OFD_SETLK, range(NONE, 5, 5))).map(drop))?;
    works("unlocked by a child", lock(&two, OFD_SETLK, range(WRITE, 5, 5)))?;
    // Another descriptor of the file may be closed.
    drop(open()?);
    fails("still there", lock(&one, OFD_SETLK, range(READ, 5, 1)), libc::EAGAIN)?;
    drop(two);
    works("closed", lock(&one, OFD_SETLKW, range(WRITE, 0, 0))).map(drop)
}

fn flock(file: &File, operation: i32) -> raw::Answer {
    raw::call(libc::SYS_flock, [file.as_raw_fd() as u64, operation as u64, 0, 0, 0, 0])
}

fn whole_files() -> Outcome {
    const TRY_SHARED: i32 = libc::LOCK_SH | libc::LOCK_NB;
    const TRY_EXCLUSIVE: i32 = libc::LOCK_EX | libc::LOCK_NB;
    let (one, two) = (open()?, open()?);
    works("shared", flock(&one, TRY_SHARED))?;
    works("shared", flock(&two, TRY_SHARED))?;
    works("again", flock(&two, TRY_SHARED))?;
    // A change that is refused costs the lock that was held.
    fails("upgrade", flock(&two, TRY_EXCLUSIVE), libc::EAGAIN)?;
    works("alone now", flock(&one, TRY_EXCLUSIVE))?;
    works("down", flock(&one, TRY_SHARED))?;
    works("both", flock(&two, TRY_SHARED))?;
    works("nothing", flock(&one, libc::LOCK_UN))?;
    works("nothing twice", flock(&one, libc::LOCK_UN))?;
    works("range locks do not see it", lock(&one, libc::F_SETLK, range(WRITE, 0, 0)))?;
    let copy = two.try_clone().map_err(text)?;
    drop(two);
    fails("the copy holds it", flock(&one, TRY_EXCLUSIVE), libc::EAGAIN)?;
    drop(copy);
    works("closed", flock(&one, TRY_EXCLUSIVE)).map(drop)
}

fn closing() -> Outcome {
    let file = open()?;
    works("lock", lock(&file, libc::F_SETLK, range(WRITE, 0, 0)))?;
    let held = || {
        let look = || -> Outcome {
            let other = open()?;
            that("held", works("F_GETLK", ask(&other, libc::F_GETLK, range(WRITE, 0, 0)))?.kind != NONE)
        };
        elsewhere(look).is_ok()
    };
    that("held", held())?;
    // Closing any descriptor of the file gives up all locks of the process on it.
    drop(open()?);
    that("given up", !held())?;
    works("lock", lock(&file, libc::F_SETLK, range(WRITE, 0, 0)))?;
    let other = File::open("/dev/null").map_err(text)?;
    let spare = open()?;
    works("dup2", raw::call(libc::SYS_dup2, [other.as_raw_fd() as u64, spare.as_raw_fd() as u64, 0, 0, 0, 0]))?;
    that("given up by dup2", !held())?;
    // A child does not inherit them, nor give them up.
    works("lock", lock(&file, libc::F_SETLK, range(WRITE, 0, 0)))?;
    elsewhere(|| fails("not inherited", lock(&file, libc::F_SETLK, range(READ, 0, 1)), libc::EAGAIN))?;
    that("still held", held())
}

fn deadlock() -> Outcome {
    let file = open()?;
    let (ready, tell) = std::io::pipe().map_err(text)?;
    works("one", lock(&file, libc::F_SETLK, range(WRITE, 0, 1)))?;
    let child = raw::fork(|| {
        let taken = lock(&file, libc::F_SETLK, range(WRITE, 1, 1));
        let _ = (&tell).write_all(b"x");
        let waited = lock(&file, libc::F_SETLKW, range(WRITE, 0, 1));
        i32::from(taken.is_err() || waited.is_err())
    })
    .map_err(text)?;
    (&ready).read_exact(&mut [0]).map_err(text)?;
    asleep(child)?;
    fails("each waits for the other", lock(&file, libc::F_SETLKW, range(WRITE, 1, 1)), libc::EDEADLK)?;
    works("no more", lock(&file, libc::F_SETLK, range(NONE, 0, 1)))?;
    works("now", lock(&file, libc::F_SETLKW, range(WRITE, 1, 1)))?;
    same("the other", raw::exit_of(child).map_err(text)?, 0)
}

fn waiting() -> Outcome {
    let file = open()?;
    works("lock", lock(&file, libc::F_SETLK, range(WRITE, 0, 0)))?;
    let (ready, tell) = std::io::pipe().map_err(text)?;
    let child = raw::fork(|| {
        let _ = raw::on_signal(libc::SIGALRM, Disposition::Count(0));
        let _ = raw::call(libc::SYS_alarm, [1, 0, 0, 0, 0, 0]);
        let interrupted = lock(&file, libc::F_SETLKW, range(READ, 0, 1)) == Err(libc::EINTR);
        let _ = (&tell).write_all(b"x");
        let shared = lock(&file, libc::F_SETLKW, range(READ, 0, 1)).is_ok();
        i32::from(!interrupted) | i32::from(!shared) << 1
    })
    .map_err(text)?;
    (&ready).read_exact(&mut [0]).map_err(text)?;
    asleep(child)?;
    // To share what one had alone lets others in.
    works("down", lock(&file, libc::F_SETLK, range(READ, 0, 0)))?;
    same("the other", raw::exit_of(child).map_err(text)?, 0)
}

fn leases() -> Outcome {
    let file = open()?;
    same("none", works("F_GETLEASE", fcntl(&file, libc::F_GETLEASE, 0))?, libc::F_UNLCK as u64)?;
    fails("unknown", fcntl(&file, libc::F_SETLEASE, 77), libc::EINVAL)?;
    let dir = File::open(".").map_err(text)?;
    works("to hear of nothing", fcntl(&dir, libc::F_NOTIFY, 1 << 31))?;
    fails("no directory", fcntl(&file, libc::F_NOTIFY, 1), libc::ENOTDIR)
}

const GETOWN_EX: i32 = 16;
const SETOWN_EX: i32 = 15;

fn owner() -> Outcome {
    let (reader, _writer) = std::io::pipe().map_err(text)?;
    same("nobody", works("F_GETOWN", fcntl(&reader, libc::F_GETOWN, 0))?, 0)?;
    works("F_SETOWN", fcntl(&reader, libc::F_SETOWN, own() as u64))?;
    same("F_GETOWN", works("F_GETOWN", fcntl(&reader, libc::F_GETOWN, 0))?, own() as u64)?;
    let mut pair = [9_i32; 2];
    works("F_GETOWN_EX", fcntl(&reader, GETOWN_EX, &raw mut pair as u64))?;
    same("a process", pair, [1, own()])?;
    let group = works("getpgid", raw::call(libc::SYS_getpgid, [0; 6]))? as i32;
    works("F_SETOWN", fcntl(&reader, libc::F_SETOWN, -group as i64 as u64))?;
    works("F_GETOWN_EX", fcntl(&reader, GETOWN_EX, &raw mut pair as u64))?;
    same("a group", pair, [2, group])?;
    pair = [0, own()];
    works("F_SETOWN_EX", fcntl(&reader, SETOWN_EX, &raw const pair as u64))?;
    same("F_GETOWN", works("F_GETOWN", fcntl(&reader, libc::F_GETOWN, 0))?, own() as u64)?;
    pair = [3, own()];
    fails("what", fcntl(&reader, SETOWN_EX, &raw const pair as u64), libc::EINVAL)?;
    fails("nobody", fcntl(&reader, libc::F_SETOWN, 4_000_000), libc::ESRCH)?;
    fails("nobody", fcntl(&reader, libc::F_SETOWN, i32::MIN as i64 as u64), libc::EINVAL)?;
    works("F_SETOWN", fcntl(&reader, libc::F_SETOWN, 0))?;
    same("nobody", works("F_GETOWN", fcntl(&reader, libc::F_GETOWN, 0))?, 0)?;
    same("SIGIO", works("F_GETSIG", fcntl(&reader, 11, 0))?, 0)?;
    works("F_SETSIG", fcntl(&reader, 10, 34))?;
    same("chosen", works("F_GETSIG", fcntl(&reader, 11, 0))?, 34)?;
    fails("no signal", fcntl(&reader, 10, 65), libc::EINVAL)
}

fn set_async(file: &impl AsRawFd) -> Outcome {
    works("F_SETOWN", fcntl(file, libc::F_SETOWN, own() as u64))?;
    let flags = works("F_GETFL", fcntl(file, libc::F_GETFL, 0))?;
    works("F_SETFL", fcntl(file, libc::F_SETFL, flags | libc::O_ASYNC as u64)).map(drop)
}

fn await_caught(signal: i32, count: u32) {
    while raw::caught(signal) < count {
        let _ = raw::call(libc::SYS_sched_yield, [0; 6]);
    }
}

fn pipe() -> Outcome {
    let (mut reader, mut writer) = std::io::pipe().map_err(text)?;
    raw::on_signal(libc::SIGIO, Disposition::Count(libc::SA_RESTART)).map_err(text)?;
    raw::on_signal(40, Disposition::Count(libc::SA_RESTART)).map_err(text)?;
    writer.write_all(b"x").map_err(text)?;
    same("nobody asked", raw::caught(libc::SIGIO), 0)?;
    reader.read_exact(&mut [0]).map_err(text)?;
    set_async(&reader)?;
    writer.write_all(b"x").map_err(text)?;
    await_caught(libc::SIGIO, 1);
    reader.read_exact(&mut [0]).map_err(text)?;
    // A signal of one's own choice comes with details.
    works("F_SETSIG", fcntl(&reader, 10, 40))?;
    writer.write_all(b"x").map_err(text)?;
    await_caught(40, 1);
    same("POLL_IN", raw::last_info().1, 1)?;
    let flags = works("F_GETFL", fcntl(&reader, libc::F_GETFL, 0))?;
    that("O_ASYNC shows", flags & libc::O_ASYNC as u64 != 0)?;
    works("off", fcntl(&reader, libc::F_SETFL, flags & !(libc::O_ASYNC as u64)))?;
    let before = (raw::caught(libc::SIGIO), raw::caught(40));
    writer.write_all(b"x").map_err(text)?;
    same("quiet", (raw::caught(libc::SIGIO), raw::caught(40)), before)?;
    let file = open()?;
    let on = 1_i32;
    let asked = [file.as_raw_fd() as u64, 0x5452, &raw const on as u64, 0, 0, 0];
    fails("a file tells of nothing", raw::call(libc::SYS_ioctl, asked), libc::ENOTTY)
}

fn socket() -> Outcome {
    let (one, mut two) = std::os::unix::net::UnixStream::pair().map_err(text)?;
    raw::on_signal(libc::SIGIO, Disposition::Count(libc::SA_RESTART)).map_err(text)?;
    works("F_SETOWN", fcntl(&one, libc::F_SETOWN, own() as u64))?;
    let on = 1_i32;
    works("FIOASYNC", raw::call(libc::SYS_ioctl, [one.as_raw_fd() as u64, 0x5452, &raw const on as u64, 0, 0, 0]))?;
    two.write_all(b"x").map_err(text)?;
    await_caught(libc::SIGIO, 1);
    drop(two);
    await_caught(libc::SIGIO, 2);
    Ok(())
}

fn terminal() -> Outcome {
    let pair = crate::ttys::pair()?;
    raw::on_signal(libc::SIGIO, Disposition::Count(libc::SA_RESTART)).map_err(text)?;
    let slave: &OwnedFd = &pair.slave;
    set_async(slave)?;
    crate::ttys::put(&pair.master, b"line\n")?;
    await_caught(libc::SIGIO, 1);
    Ok(())
}

/// /proc/locks tells of each.
fn listed() -> Outcome {
    use rustix::fs::{FlockOperation, fcntl_lock, flock};
    let file = File::create("listed").map_err(|error| error.to_string())?;
    let inode = std::os::unix::fs::MetadataExt::ino(&file.metadata().map_err(|error| error.to_string())?);
    works("a range", fcntl_lock(&file, FlockOperation::LockExclusive))?;
    works("the whole", flock(&file, FlockOperation::LockShared))?;
    let list = std::fs::read_to_string("/proc/locks").map_err(|error| error.to_string())?;
    let pid = std::process::id();
    let mine: Vec<String> = list
        .lines()
        .filter(|line| line.contains(&format!(":{inode} ")))
        .map(|line| line.split_whitespace().enumerate().filter(|(at, _)| ![0, 5].contains(at)).map(|(_, word)| word))
        .map(|words| words.collect::<Vec<&str>>().join(" "))
        .collect();
    that(&format!("{mine:?}"), mine.contains(&format!("POSIX ADVISORY WRITE {pid} 0 EOF")))?;
    that(&format!("{mine:?}"), mine.contains(&format!("FLOCK ADVISORY READ {pid} 0 EOF")))
}

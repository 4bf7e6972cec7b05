//! eventfd, timerfd, signalfd, memfd.
use crate::{
    Outcome, Subtest,
    check::{fails, same, text, that, works},
    epoll::owned,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shimos_user::raw::{self, Answer};
use std::{
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("eventfd/counts", eventfd_counts),
    ("eventfd/semaphore", eventfd_semaphore),
    ("eventfd/overflow", eventfd_overflow),
    ("eventfd/wakes", eventfd_wakes),
    ("timerfd/once", timerfd_once),
    ("timerfd/period", timerfd_period),
    ("timerfd/absolute", timerfd_absolute),
    ("timerfd/bad-arguments", timerfd_bad_arguments),
    ("signalfd/reads", signalfd_reads),
    ("signalfd/polls", signalfd_polls),
    ("signalfd/bad-arguments", signalfd_bad_arguments),
    ("memfd/file", memfd_file),
    ("memfd/seals", memfd_seals),
    ("memfd/names", memfd_names),
];

fn read(fd: &OwnedFd) -> Answer {
    let mut word = 0_u64;
    let arguments = [fd.as_raw_fd() as u64, &raw mut word as u64, 8, 0, 0, 0];
    raw::call(libc::SYS_read, arguments).map(|_| word)
}

fn write(fd: &OwnedFd, word: u64) -> Answer {
    raw::call(libc::SYS_write, [fd.as_raw_fd() as u64, &raw const word as u64, 8, 0, 0, 0])
}

fn ready(fd: &OwnedFd, millis: i64) -> Result<PollFlags, String> {
    let time = Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
    let mut fds = [PollFd::new(fd, PollFlags::IN | PollFlags::OUT)];
    works("poll", poll(&mut fds, Some(&time)))?;
    Ok(fds[0].revents())
}

fn eventfd(value: u64, flags: i32) -> Result<OwnedFd, String> {
    owned("eventfd2", raw::call(libc::SYS_eventfd2, [value, flags as u64, 0, 0, 0, 0]))
}

fn eventfd_counts() -> Outcome {
    let fd = eventfd(3, libc::EFD_NONBLOCK)?;
    same("ready", ready(&fd, 0)?, PollFlags::IN | PollFlags::OUT)?;
    same("at first", read(&fd), Ok(3))?;
    fails("nothing", read(&fd), libc::EAGAIN)?;
    same("not ready", ready(&fd, 0)?, PollFlags::OUT)?;
    works("write", write(&fd, 5))?;
    works("write", write(&fd, 6))?;
    same("the sum", read(&fd), Ok(11))?;
    let mut small = [0_u8; 4];
    let arguments = [fd.as_raw_fd() as u64, small.as_mut_ptr() as u64, 4, 0, 0, 0];
    fails("short read", raw::call(libc::SYS_read, arguments), libc::EINVAL)?;
    fails("short write", raw::call(libc::SYS_write, arguments), libc::EINVAL)?;
    fails("flags", raw::call(libc::SYS_eventfd2, [0, 2, 0, 0, 0, 0]), libc::EINVAL)?;
    same("no place in it", raw::call(libc::SYS_lseek, [fd.as_raw_fd() as u64, 7, 0, 0, 0, 0]), Ok(0))?;
    drop(owned("eventfd", raw::call(libc::SYS_eventfd, [7, 0, 0, 0, 0, 0]))?);
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(text)?;
    same("its link", link.to_string_lossy().into_owned(), "anon_inode:[eventfd]".into())
}

fn eventfd_semaphore() -> Outcome {
    let fd = eventfd(2, libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE)?;
    same("one", read(&fd), Ok(1))?;
    same("one more", read(&fd), Ok(1))?;
    fails("none", read(&fd), libc::EAGAIN)
}

fn eventfd_overflow() -> Outcome {
    let fd = eventfd(0, libc::EFD_NONBLOCK)?;
    fails("too much", write(&fd, u64::MAX), libc::EINVAL)?;
    works("all but that", write(&fd, u64::MAX - 1))?;
    same("full", ready(&fd, 0)?, PollFlags::IN)?;
    fails("one more", write(&fd, 1), libc::EAGAIN)?;
    works("nothing more", write(&fd, 0))?;
    same("read", read(&fd), Ok(u64::MAX - 1))
}

fn eventfd_wakes() -> Outcome {
    let (there, back) = (eventfd(0, 0)?, eventfd(u64::from(u32::MAX), 0)?);
    works("fill", write(&back, u64::MAX - 1 - u64::from(u32::MAX)))?;
    let child = raw::fork(|| {
        let waited = write(&there, 4).is_ok() && write(&back, 9).is_ok();
        i32::from(!waited)
    })
    .map_err(text)?;
    same("waits for a number", read(&there), Ok(4))?;
    same("makes room", read(&back), Ok(u64::MAX - 1))?;
    same("what did not fit", read(&back), Ok(9))?;
    same("status", raw::exit_of(child).map_err(text)?, 0)
}

fn timerfd(clock: i32, flags: i32) -> Result<OwnedFd, String> {
    owned("timerfd_create", raw::call(libc::SYS_timerfd_create, [clock as u64, flags as u64, 0, 0, 0, 0]))
}

fn settime(fd: &OwnedFd, flags: u64, period: Duration, value: Duration) -> Result<[u64; 4], i32> {
    let parts = |time: Duration| [time.as_secs(), u64::from(time.subsec_nanos())];
    let [new, mut old] = [[parts(period), parts(value)].concat(), vec![9; 4]];
    let arguments = [fd.as_raw_fd() as u64, flags, new.as_ptr() as u64, old.as_mut_ptr() as u64, 0, 0];
    raw::call(libc::SYS_timerfd_settime, arguments).map(|_| [old[0], old[1], old[2], old[3]])
}

fn gettime(fd: &OwnedFd) -> Result<(Duration, Duration), String> {
    let mut now = [9_u64; 4];
    works(
        "gettime",
        raw::call(libc::SYS_timerfd_gettime, [fd.as_raw_fd() as u64, now.as_mut_ptr() as u64, 0, 0, 0, 0]),
    )?;
    Ok((Duration::new(now[0], now[1] as u32), Duration::new(now[2], now[3] as u32)))
}

const NONE: Duration = Duration::ZERO;

fn timerfd_once() -> Outcome {
    let fd = timerfd(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK)?;
    same("not set", gettime(&fd)?, (NONE, NONE))?;
    fails("nothing", read(&fd), libc::EAGAIN)?;
    let begun = Instant::now();
    same("not set before", settime(&fd, 0, NONE, Duration::from_millis(50)), Ok([0; 4]))?;
    let (period, left) = gettime(&fd)?;
    that("what is left", period == NONE && left > NONE && left <= Duration::from_millis(50))?;
    same("due", ready(&fd, 20_000)?, PollFlags::IN)?;
    that("not before", begun.elapsed() >= Duration::from_millis(50))?;
    same("once", read(&fd), Ok(1))?;
    fails("read", read(&fd), libc::EAGAIN)?;
    same("nothing left", gettime(&fd)?, (NONE, NONE))?;
    works("far", settime(&fd, 0, NONE, Duration::from_secs(1000)))?;
    let old = works("stop", settime(&fd, 0, NONE, NONE))?;
    that("what was left", old[2] > 900 && old[2] < 1000)?;
    same("stopped", gettime(&fd)?, (NONE, NONE))?;
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(text)?;
    same("its link", link.to_string_lossy().into_owned(), "anon_inode:[timerfd]".into())
}

fn timerfd_period() -> Outcome {
    let fd = timerfd(libc::CLOCK_BOOTTIME, 0)?;
    let begun = Instant::now();
    let period = Duration::from_millis(10);
    works("set", settime(&fd, 0, period, period))?;
    let mut count = 0;
    while count < 5 {
        count += works("read", read(&fd))?;
    }
    that("the phase is kept", begun.elapsed() >= Duration::from_millis(50))?;
    std::thread::sleep(Duration::from_millis(60));
    let missed = works("read", read(&fd))?;
    that(&format!("{missed} were missed"), missed >= 5)?;
    let (interval, left) = gettime(&fd)?;
    that("goes on", interval == period && left > NONE && left <= period)?;
    let ticks = (begun.elapsed().as_nanos() / period.as_nanos()) as u64;
    that("none was told twice", count + missed <= ticks + 1)
}

fn timerfd_absolute() -> Outcome {
    let fd = timerfd(libc::CLOCK_REALTIME, 0)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_err(|e| e.to_string())?;
    works("past", settime(&fd, 1, NONE, Duration::from_secs(1)))?;
    same("due at once", read(&fd), Ok(1))?;
    works("soon", settime(&fd, 3, NONE, now + Duration::from_millis(40)))?;
    same("due", read(&fd), Ok(1))?;
    let after = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_err(|e| e.to_string())?;
    that("not before", after >= now + Duration::from_millis(40))?;
    let fd = timerfd(libc::CLOCK_MONOTONIC, 0)?;
    works("missed many", settime(&fd, 1, Duration::from_secs(1), Duration::from_nanos(1)))?;
    that("all are counted", works("read", read(&fd))? >= 1)
}

fn timerfd_bad_arguments() -> Outcome {
    let create = |clock: u64, flags: u64| raw::call(libc::SYS_timerfd_create, [clock, flags, 0, 0, 0, 0]);
    fails("a clock", create(2, 0), libc::EINVAL)?;
    fails("a clock", create(99, 0), libc::EINVAL)?;
    fails("flags", create(1, 1), libc::EINVAL)?;
    let fd = timerfd(libc::CLOCK_MONOTONIC, 0)?;
    fails("flags", settime(&fd, 4, NONE, NONE), libc::EINVAL)?;
    let bad = [0_u64, 1_000_000_000, 0, 0];
    let arguments = [fd.as_raw_fd() as u64, 0, bad.as_ptr() as u64, 0, 0, 0];
    fails("no time", raw::call(libc::SYS_timerfd_settime, arguments), libc::EINVAL)?;
    let arguments = [fd.as_raw_fd() as u64, 0, 8, 0, 0, 0];
    fails("no memory", raw::call(libc::SYS_timerfd_settime, arguments), libc::EFAULT)?;
    let good = [0_u64; 4];
    let arguments = [0, 0, good.as_ptr() as u64, 0, 0, 0];
    let other = eventfd(0, 0)?;
    let arguments = [other.as_raw_fd() as u64, 0, arguments[2], 0, 0, 0];
    fails("no timer", raw::call(libc::SYS_timerfd_settime, arguments), libc::EINVAL)?;
    let mut small = [0_u8; 4];
    let arguments = [fd.as_raw_fd() as u64, small.as_mut_ptr() as u64, 4, 0, 0, 0];
    fails("short", raw::call(libc::SYS_read, arguments), libc::EINVAL)?;
    fails("writing", write(&fd, 1), libc::EINVAL)
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

fn signalfd(fd: i64, mask: u64, flags: i32) -> Answer {
    raw::call(libc::SYS_signalfd4, [fd as u64, &raw const mask as u64, 8, flags as u64, 0, 0])
}

/// Signal, code, pid and value of each entry read.
fn entries(fd: &OwnedFd) -> Result<Vec<(u32, i32, u32, u64)>, i32> {
    let mut bytes = [0_u8; 512];
    let count = raw::call(libc::SYS_read, [fd.as_raw_fd() as u64, bytes.as_mut_ptr() as u64, 512, 0, 0, 0])?;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let entry = |at: usize| (word(at), word(at + 8) as i32, word(at + 12), u64::from(word(at + 48)));
    Ok((0..count as usize / 128).map(|i| entry(i * 128)).collect())
}

fn signalfd_reads() -> Outcome {
    let own = std::process::id();
    let set = bit(libc::SIGUSR1) | bit(libc::SIGUSR2) | bit(libc::SIGCHLD);
    works("block", raw::mask(libc::SIG_BLOCK, set))?;
    let fd = owned("signalfd4", signalfd(-1, set, libc::SFD_NONBLOCK))?;
    fails("nothing", entries(&fd), libc::EAGAIN)?;
    raw::kill(own as i32, libc::SIGUSR2).map_err(text)?;
    raw::kill(own as i32, libc::SIGUSR1).map_err(text)?;
    let both = vec![(libc::SIGUSR1 as u32, 0, own, 0), (libc::SIGUSR2 as u32, 0, own, 0)];
    same("both, lowest first", entries(&fd), Ok(both))?;
    fails("read", entries(&fd), libc::EAGAIN)?;
    let child = raw::fork(|| 3).map_err(text)?;
    let fd = owned("signalfd4", signalfd(-1, set, 0))?;
    let told = works("read", entries(&fd))?;
    same("a child", told.first().map(|e| (e.0, e.1, e.2)), Some((libc::SIGCHLD as u32, 1, child as u32)))?;
    same("status", raw::exit_of(child).map_err(text)?, 3)?;
    works("change", signalfd(fd.as_raw_fd().into(), bit(libc::SIGUSR2), 0))?;
    raw::kill(own as i32, libc::SIGUSR1).map_err(text)?;
    raw::kill(own as i32, libc::SIGUSR2).map_err(text)?;
    same("the other set", works("read", entries(&fd))?.len(), 1)?;
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(text)?;
    same("its link", link.to_string_lossy().into_owned(), "anon_inode:[signalfd]".into())
}

fn signalfd_polls() -> Outcome {
    works("block", raw::mask(libc::SIG_BLOCK, bit(libc::SIGUSR1)))?;
    let fd = owned("signalfd4", signalfd(-1, bit(libc::SIGUSR1), 0))?;
    same("not yet", ready(&fd, 0)?, PollFlags::empty())?;
    let parent = std::process::id() as i32;
    let child = raw::fork(|| i32::from(raw::kill(parent, libc::SIGUSR1).is_err())).map_err(text)?;
    same("then", ready(&fd, 20_000)?, PollFlags::IN)?;
    same("who", works("read", entries(&fd))?.first().map(|e| e.2), Some(child as u32))?;
    same("status", raw::exit_of(child).map_err(text)?, 0)
}

fn signalfd_bad_arguments() -> Outcome {
    let mask = bit(libc::SIGUSR1);
    fails("flags", signalfd(-1, mask, 1), libc::EINVAL)?;
    fails("no descriptor", signalfd(999, mask, 0), libc::EBADF)?;
    fails("not one", signalfd(0, mask, 0), libc::EINVAL)?;
    let arguments = [u64::MAX, &raw const mask as u64, 4, 0, 0, 0];
    fails("a size", raw::call(libc::SYS_signalfd4, arguments), libc::EINVAL)?;
    let fd = owned("signalfd", raw::call(libc::SYS_signalfd, [u64::MAX, &raw const mask as u64, 8, 0, 0, 0]))?;
    let mut small = [0_u8; 64];
    let arguments = [fd.as_raw_fd() as u64, small.as_mut_ptr() as u64, 64, 0, 0, 0];
    fails("short", raw::call(libc::SYS_read, arguments), libc::EINVAL)
}

fn memfd(name: &str, flags: u32) -> Result<OwnedFd, String> {
    let name = std::ffi::CString::new(name).map_err(|error| error.to_string())?;
    owned("memfd_create", raw::call(libc::SYS_memfd_create, [name.as_ptr() as u64, flags.into(), 0, 0, 0, 0]))
}

fn memfd_file() -> Outcome {
    let fd = memfd("some", libc::MFD_CLOEXEC)?;
    same("write", works("write", rustix::io::write(&fd, b"hello"))?, 5)?;
    let mut into = [0; 8];
    same("read", works("pread", rustix::io::pread(&fd, &mut into, 1))?, 4)?;
    same("bytes", &into[..4], b"ello")?;
    works("grow", rustix::fs::ftruncate(&fd, 8192))?;
    let status = works("stat", rustix::fs::fstat(&fd))?;
    same("size and names", (status.st_size, status.st_nlink, status.st_mode), (8192, 0, 0o100_777))?;
    let map =
        raw::Map::new(8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd.as_raw_fd(), 0).map_err(text)?;
    same("shown", map.get(4), b'o')?;
    map.set(5000, 9);
    works("read", rustix::io::pread(&fd, &mut into, 4999))?;
    same("stored", into[1], 9)?;
    drop(fd);
    same("lives on", map.get(5000), 9)
}

fn seals(fd: &OwnedFd, add: Option<u64>) -> Answer {
    let (command, argument) = add.map_or((libc::F_GET_SEALS, 0), |seals| (libc::F_ADD_SEALS, seals));
    raw::call(libc::SYS_fcntl, [fd.as_raw_fd() as u64, command as u64, argument, 0, 0, 0])
}

fn memfd_seals() -> Outcome {
    let (shrink, grow, write) = (libc::F_SEAL_SHRINK as u64, libc::F_SEAL_GROW as u64, libc::F_SEAL_WRITE as u64);
    let plain = memfd("plain", 0)?;
    same("sealed against seals", seals(&plain, None), Ok(libc::F_SEAL_SEAL as u64))?;
    fails("no seals", seals(&plain, Some(shrink)), libc::EPERM)?;
    let fd = memfd("sealed", libc::MFD_ALLOW_SEALING)?;
    same("none", seals(&fd, None), Ok(0))?;
    works("grow", rustix::fs::ftruncate(&fd, 100))?;
    fails("unknown", seals(&fd, Some(0x8000)), libc::EINVAL)?;
    works("shrink", seals(&fd, Some(shrink)))?;
    fails("shorter", rustix::fs::ftruncate(&fd, 99), libc::EPERM)?;
    works("longer", rustix::fs::ftruncate(&fd, 200))?;
    works("grow", seals(&fd, Some(grow)))?;
    fails("longer", rustix::fs::ftruncate(&fd, 201), libc::EPERM)?;
    fails("behind the end", rustix::io::pwrite(&fd, b"x", 200), libc::EPERM)?;
    works("within", rustix::io::pwrite(&fd, b"x", 199))?;
    let (both, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    let map = raw::Map::new(200, both, flags, fd.as_raw_fd(), 0).map_err(text)?;
    fails("mapped", seals(&fd, Some(write)), libc::EBUSY)?;
    drop(map);
    works("write", seals(&fd, Some(write)))?;
    fails("writing", rustix::io::pwrite(&fd, b"x", 0), libc::EPERM)?;
    fails("mapping", raw::Map::new(200, both, flags, fd.as_raw_fd(), 0).map(drop), libc::EPERM)?;
    let map = raw::Map::new(200, libc::PROT_READ, libc::MAP_PRIVATE, fd.as_raw_fd(), 0).map_err(text)?;
    same("reading", map.get(199), b'x')?;
    same("all", seals(&fd, None), Ok(shrink | grow | write))?;
    works("no more", seals(&fd, Some(libc::F_SEAL_SEAL as u64)))?;
    fails("more", seals(&fd, Some(write)), libc::EPERM)?;
    let (reader, _writer) = std::io::pipe().map_err(text)?;
    fails("a pipe", seals(&OwnedFd::from(reader), None), libc::EINVAL)
}

fn memfd_names() -> Outcome {
    let fd = memfd("a name", 0)?;
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(text)?;
    same("its link", link.to_string_lossy().into_owned(), "/memfd:a name (deleted)".into())?;
    let make = |name: &std::ffi::CStr, flags: u64| {
        raw::call(libc::SYS_memfd_create, [name.as_ptr() as u64, flags, 0, 0, 0, 0])
    };
    let long = std::ffi::CString::new("x".repeat(250)).map_err(|error| error.to_string())?;
    fails("too long", make(&long, 0), libc::EINVAL)?;
    let fits = std::ffi::CString::new("x".repeat(249)).map_err(|error| error.to_string())?;
    drop(owned("just fits", make(&fits, 0))?);
    fails("flags", make(c"x", 0x8000), libc::EINVAL)?;
    fails("no memory", raw::call(libc::SYS_memfd_create, [8, 0, 0, 0, 0, 0]), libc::EFAULT)
}

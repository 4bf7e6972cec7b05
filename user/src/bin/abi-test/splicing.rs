//! splice, tee, vmsplice, copy_file_range, sendfile, preadv2, pwritev2, hints about files, futex_waitv.
use crate::{
    Outcome, Subtest,
    check::{fails, parent_asleep, same, text, that, works},
};
use shimos_user::raw::{self, Answer};
use std::{
    fs::{self, File, OpenOptions},
    io::{PipeReader, PipeWriter, Read, Write},
    os::fd::AsRawFd,
    sync::atomic::AtomicU32,
    thread,
    time::{Duration, Instant},
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("splice/file-to-pipe", file_to_pipe),
    ("splice/pipe-to-file", pipe_to_file),
    ("splice/pipe-to-pipe", pipe_to_pipe),
    ("splice/socket", socket),
    ("splice/waits", waits),
    ("splice/bad-arguments", bad_arguments),
    ("splice/tee", tee),
    ("splice/vmsplice", vmsplice),
    ("splice/copy-file-range", copy_file_range),
    ("splice/sendfile", sendfile),
    ("splice/vectors", vectors),
    ("splice/hints", hints),
    ("futex/waitv", waitv),
    ("futex/timed-out-waiters", timed_out_waiters),
];

const NONBLOCK: u64 = libc::SPLICE_F_NONBLOCK as u64;

fn pipe() -> Result<(PipeReader, PipeWriter), String> {
    std::io::pipe().map_err(text)
}

fn open(name: &str) -> Result<File, String> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(name).map_err(text)
}

fn splice(
    from: &impl AsRawFd,
    at: Option<&mut u64>,
    to: &impl AsRawFd,
    to_at: Option<&mut u64>,
    len: u64,
    flags: u64,
) -> Answer {
    let addr = |offset: Option<&mut u64>| offset.map_or(0, |offset| &raw mut *offset as u64);
    raw::call(libc::SYS_splice, [from.as_raw_fd() as u64, addr(at), to.as_raw_fd() as u64, addr(to_at), len, flags])
}

fn taken(reader: &mut PipeReader, len: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; len];
    reader.read_exact(&mut bytes).map_err(text)?;
    Ok(bytes)
}

fn held(what: &str, got: Vec<u8>, wanted: &[u8]) -> Outcome {
    same(what, got.as_slice(), wanted)
}

fn file_to_pipe() -> Outcome {
    fs::write("a", b"hello world").map_err(text)?;
    let file = open("a")?;
    let (mut reader, writer) = pipe()?;
    same("from the position", splice(&file, None, &writer, None, 5, 0), Ok(5))?;
    let mut offset = 6;
    same("from an offset", splice(&file, Some(&mut offset), &writer, None, 100, 0), Ok(5))?;
    same("the offset", offset, 11)?;
    held("bytes", taken(&mut reader, 10)?, b"helloworld")?;
    same("at the end", splice(&file, Some(&mut offset), &writer, None, 100, 0), Ok(0))?;
    same("the position stays", splice(&file, None, &writer, None, 1, 0), Ok(1))?;
    held("bytes", taken(&mut reader, 1)?, b" ")
}

fn pipe_to_file() -> Outcome {
    let file = open("a")?;
    let (reader, mut writer) = pipe()?;
    writer.write_all(b"one two three").map_err(text)?;
    same("to the position", splice(&reader, None, &file, None, 4, 0), Ok(4))?;
    let mut offset = 10;
    same("to an offset", splice(&reader, None, &file, Some(&mut offset), 4, 0), Ok(4))?;
    same("the offset", offset, 14)?;
    same("all that is there", splice(&reader, None, &file, None, 100, 0), Ok(5))?;
    held("bytes", fs::read("a").map_err(text)?, b"one three\0two ")?;
    fails("nothing there", splice(&reader, None, &file, None, 100, NONBLOCK), libc::EAGAIN)?;
    drop(writer);
    same("the end", splice(&reader, None, &file, None, 100, 0), Ok(0))?;
    let null = OpenOptions::new().write(true).open("/dev/null").map_err(text)?;
    let (reader, mut writer) = pipe()?;
    writer.write_all(b"away").map_err(text)?;
    same("away", splice(&reader, None, &null, None, 100, 0), Ok(4))
}

fn pipe_to_pipe() -> Outcome {
    let ((one, mut into), (mut other, out)) = (pipe()?, pipe()?);
    into.write_all(b"abcdef").map_err(text)?;
    same("some", splice(&one, None, &out, None, 4, 0), Ok(4))?;
    held("bytes", taken(&mut other, 4)?, b"abcd")?;
    same("the rest", splice(&one, None, &out, None, 100, 0), Ok(2))?;
    fails("the same", splice(&one, None, &into, None, 1, 0), libc::EINVAL)?;
    drop(other);
    raw::on_signal(libc::SIGPIPE, raw::Disposition::Ignore).map_err(text)?;
    into.write_all(b"x").map_err(text)?;
    fails("nobody reads", splice(&one, None, &out, None, 100, 0), libc::EPIPE)
}

fn socket() -> Outcome {
    let (mut near, far) = std::os::unix::net::UnixStream::pair().map_err(text)?;
    let (mut reader, mut writer) = pipe()?;
    writer.write_all(b"over").map_err(text)?;
    same("to a socket", splice(&reader, None, &far, None, 100, 0), Ok(4))?;
    let mut bytes = [0; 4];
    near.read_exact(&mut bytes).map_err(text)?;
    same("bytes", &bytes, b"over")?;
    near.write_all(b"back").map_err(text)?;
    same("from a socket", splice(&far, None, &writer, None, 100, 0), Ok(4))?;
    held("bytes", taken(&mut reader, 4)?, b"back")
}

fn waits() -> Outcome {
    let file = open("a")?;
    let (reader, mut writer) = pipe()?;
    let child =
        raw::fork(|| i32::from(parent_asleep().is_err() || writer.write_all(b"late").is_err())).map_err(text)?;
    same("waits", splice(&reader, None, &file, None, 100, 0), Ok(4))?;
    same("status", raw::exit_of(child).map_err(text)?, 0)
}

fn bad_arguments() -> Outcome {
    let (file, other) = (open("a")?, open("b")?);
    let (reader, writer) = pipe()?;
    same("nothing", splice(&file, None, &other, None, 0, 0), Ok(0))?;
    fails("no pipe", splice(&file, None, &other, None, 1, 0), libc::EINVAL)?;
    fails("flags", splice(&file, None, &writer, None, 1, 16), libc::EINVAL)?;
    fails("a place in a pipe", splice(&reader, Some(&mut 0), &file, None, 1, 0), libc::ESPIPE)?;
    fails("a place in a pipe", splice(&file, None, &writer, Some(&mut 0), 1, 0), libc::ESPIPE)?;
    fails("not to be read", splice(&writer, None, &file, None, 1, 0), libc::EBADF)?;
    fails("not to be written", splice(&file, None, &reader, None, 1, 0), libc::EBADF)?;
    let append = OpenOptions::new().append(true).open("a").map_err(text)?;
    fails("appending", splice(&reader, None, &append, None, 1, 0), libc::EINVAL)?;
    let arguments = [999, 0, writer.as_raw_fd() as u64, 0, 1, 0];
    fails("no descriptor", raw::call(libc::SYS_splice, arguments), libc::EBADF)
}

fn tee() -> Outcome {
    let ((mut one, mut into), (mut other, out)) = (pipe()?, pipe()?);
    let call = |from: &PipeReader, to: &PipeWriter, len: u64, flags: u64| {
        raw::call(libc::SYS_tee, [from.as_raw_fd() as u64, to.as_raw_fd() as u64, len, flags, 0, 0])
    };
    into.write_all(b"twice").map_err(text)?;
    same("copied", call(&one, &out, 100, 0), Ok(5))?;
    held("bytes", taken(&mut other, 5)?, b"twice")?;
    held("still there", taken(&mut one, 5)?, b"twice")?;
    fails("nothing", call(&one, &out, 100, NONBLOCK), libc::EAGAIN)?;
    fails("itself", call(&one, &into, 100, 0), libc::EINVAL)?;
    fails("flags", call(&one, &out, 100, 16), libc::EINVAL)?;
    let file = open("a")?;
    let arguments = [one.as_raw_fd() as u64, file.as_raw_fd() as u64, 1, 0, 0, 0];
    fails("a file", raw::call(libc::SYS_tee, arguments), libc::EINVAL)
}

fn vmsplice() -> Outcome {
    let (mut reader, writer) = pipe()?;
    let (one, two) = (*b"abc", *b"defg");
    let spans = [one.as_ptr() as u64, 3, two.as_ptr() as u64, 4];
    let call = |fd: i32, spans: &[u64; 4], flags: u64| {
        raw::call(libc::SYS_vmsplice, [fd as u64, spans.as_ptr() as u64, 2, flags, 0, 0])
    };
    same("into it", call(writer.as_raw_fd(), &spans, 0), Ok(7))?;
    held("bytes", taken(&mut reader, 7)?, b"abcdefg")?;
    let mut writer = writer;
    writer.write_all(b"12345").map_err(text)?;
    let (mut one, mut two) = ([0_u8; 3], [0_u8; 4]);
    let spans = [one.as_mut_ptr() as u64, 3, two.as_mut_ptr() as u64, 4];
    same("out of it", call(reader.as_raw_fd(), &spans, 0), Ok(5))?;
    same("bytes", (&one, &two), (b"123", b"45\0\0"))?;
    fails("nothing", call(reader.as_raw_fd(), &spans, NONBLOCK), libc::EAGAIN)?;
    let file = open("a")?;
    fails("a file", call(file.as_raw_fd(), &spans, 0), libc::EBADF)?;
    fails("flags", call(writer.as_raw_fd(), &spans, 16), libc::EINVAL)
}

fn copy(from: &File, at: Option<&mut u64>, to: &File, to_at: Option<&mut u64>, len: u64, flags: u64) -> Answer {
    let addr = |offset: Option<&mut u64>| offset.map_or(0, |offset| &raw mut *offset as u64);
    let arguments = [from.as_raw_fd() as u64, addr(at), to.as_raw_fd() as u64, addr(to_at), len, flags];
    raw::call(libc::SYS_copy_file_range, arguments)
}

fn copy_file_range() -> Outcome {
    fs::write("a", b"0123456789").map_err(text)?;
    let (from, to) = (open("a")?, open("b")?);
    same("some", copy(&from, None, &to, None, 4, 0), Ok(4))?;
    let (mut at, mut to_at) = (8, 6);
    same("elsewhere", copy(&from, Some(&mut at), &to, Some(&mut to_at), 100, 0), Ok(2))?;
    same("offsets", (at, to_at), (10, 8))?;
    held("bytes", fs::read("b").map_err(text)?, b"0123\0\x0089")?;
    same("the end", copy(&from, Some(&mut at), &to, None, 100, 0), Ok(0))?;
    same("the rest", copy(&from, None, &to, None, 100, 0), Ok(6))?;
    held("bytes", fs::read("b").map_err(text)?, b"0123456789")?;
    let (mut at, mut to_at) = (0, 2);
    fails("over itself", copy(&from, Some(&mut at), &from, Some(&mut to_at), 5, 0), libc::EINVAL)?;
    let mut to_at = 10;
    same("behind itself", copy(&from, Some(&mut at), &from, Some(&mut to_at), 5, 0), Ok(5))?;
    fails("flags", copy(&from, None, &to, None, 1, 1), libc::EINVAL)?;
    let append = OpenOptions::new().append(true).open("b").map_err(text)?;
    fails("appending", copy(&from, None, &append, None, 1, 0), libc::EBADF)?;
    let directory = File::open(".").map_err(text)?;
    fails("a directory", copy(&directory, None, &to, None, 1, 0), libc::EISDIR)?;
    let null = OpenOptions::new().write(true).open("/dev/null").map_err(text)?;
    fails("a device", copy(&from, None, &null, None, 1, 0), libc::EINVAL)?;
    fails("not to be written", copy(&to, None, &File::open("a").map_err(text)?, None, 1, 0), libc::EBADF)
}

fn sendfile() -> Outcome {
    fs::write("a", b"0123456789").map_err(text)?;
    let (from, to) = (open("a")?, open("b")?);
    let call = |to: i32, from: i32, at: Option<&mut u64>, len: u64| {
        let addr = at.map_or(0, |offset| &raw mut *offset as u64);
        raw::call(libc::SYS_sendfile, [to as u64, from as u64, addr, len, 0, 0])
    };
    same("to a file", call(to.as_raw_fd(), from.as_raw_fd(), None, 4), Ok(4))?;
    let mut at = 8;
    same("from an offset", call(to.as_raw_fd(), from.as_raw_fd(), Some(&mut at), 100), Ok(2))?;
    same("the offset", at, 10)?;
    held("bytes", fs::read("b").map_err(text)?, b"012389")?;
    let (mut reader, writer) = pipe()?;
    same("to a pipe", call(writer.as_raw_fd(), from.as_raw_fd(), None, 100), Ok(6))?;
    held("bytes", taken(&mut reader, 6)?, b"456789")?;
    fails("from a pipe", call(to.as_raw_fd(), reader.as_raw_fd(), None, 1), libc::EINVAL)?;
    fails("not to be written", call(reader.as_raw_fd(), from.as_raw_fd(), None, 1), libc::EBADF)
}

fn vectors() -> Outcome {
    fs::write("a", b"0123456789").map_err(text)?;
    let file = open("a")?;
    let fd = file.as_raw_fd() as u64;
    let (mut one, mut two) = ([0_u8; 2], [0_u8; 3]);
    let spans = [one.as_mut_ptr() as u64, 2, two.as_mut_ptr() as u64, 3];
    let call =
        |number: i64, at: i64, flags: u64| raw::call(number, [fd, spans.as_ptr() as u64, 2, at as u64, 0, flags]);
    same("at a place", call(libc::SYS_preadv2, 4, 0), Ok(5))?;
    same("bytes", (&one, &two), (b"45", b"678"))?;
    same("at the position", call(libc::SYS_preadv2, -1, 0), Ok(5))?;
    same("and on", call(libc::SYS_preadv2, -1, libc::RWF_HIPRI as u64), Ok(5))?;
    same("bytes", (&one, &two), (b"56", b"789"))?;
    fails("flags", call(libc::SYS_preadv2, 0, 0x8000), libc::EOPNOTSUPP)?;
    fails("flags", call(libc::SYS_pwritev2, 0, 0x8000), libc::EOPNOTSUPP)?;
    fails("a place", call(libc::SYS_preadv2, -2, 0), libc::EINVAL)?;
    same("written", call(libc::SYS_pwritev2, 0, libc::RWF_SYNC as u64), Ok(5))?;
    same("appended", call(libc::SYS_pwritev2, 0, libc::RWF_APPEND as u64), Ok(5))?;
    held("bytes", fs::read("a").map_err(text)?, b"567895678956789")?;
    let (reader, mut writer) = pipe()?;
    let arguments = |flags: u64| [reader.as_raw_fd() as u64, spans.as_ptr() as u64, 2, u64::MAX, 0, flags];
    fails("would wait", raw::call(libc::SYS_preadv2, arguments(libc::RWF_NOWAIT as u64)), libc::EAGAIN)?;
    writer.write_all(b"xy").map_err(text)?;
    same("would not", raw::call(libc::SYS_preadv2, arguments(libc::RWF_NOWAIT as u64)), Ok(2))
}

fn hints() -> Outcome {
    fs::write("a", b"0123456789").map_err(text)?;
    let file = open("a")?;
    let (reader, _writer) = pipe()?;
    let range = |fd: i32, offset: i64, len: i64, flags: u64| {
        raw::call(libc::SYS_sync_file_range, [fd as u64, offset as u64, len as u64, flags, 0, 0])
    };
    works("a range", range(file.as_raw_fd(), 0, 0, 7))?;
    fails("flags", range(file.as_raw_fd(), 0, 0, 8), libc::EINVAL)?;
    fails("negative", range(file.as_raw_fd(), -1, 1, 7), libc::EINVAL)?;
    fails("a pipe", range(reader.as_raw_fd(), 0, 0, 7), libc::ESPIPE)?;
    let ahead = |fd: i32| raw::call(libc::SYS_readahead, [fd as u64, 0, 4096, 0, 0, 0]);
    works("ahead", ahead(file.as_raw_fd()))?;
    fails("a pipe", ahead(reader.as_raw_fd()), libc::EINVAL)?;
    fails("no descriptor", ahead(999), libc::EBADF)?;
    works("syncfs", raw::call(libc::SYS_syncfs, [file.as_raw_fd() as u64, 0, 0, 0, 0, 0]))?;
    fails("no descriptor", raw::call(libc::SYS_syncfs, [999, 0, 0, 0, 0, 0]), libc::EBADF)
}

static WORDS: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];

fn address(at: usize) -> u64 {
    &raw const WORDS[at] as u64
}

fn wake(at: usize, most: u64) -> Answer {
    raw::call(libc::SYS_futex, [address(at), libc::FUTEX_WAKE as u64, most, 0, 0, 0])
}

fn waitv() -> Outcome {
    const SIZE_32: u64 = 2;
    let entries: Vec<u64> = (0..3).flat_map(|at| [0, address(at), SIZE_32]).collect();
    let call = |count: u64, flags: u64, timeout: u64| {
        raw::call(libc::SYS_futex_waitv, [entries.as_ptr() as u64, count, flags, timeout, 1, 0])
    };
    fails("none", call(0, 0, 0), libc::EINVAL)?;
    fails("too many", call(129, 0, 0), libc::EINVAL)?;
    fails("flags", call(3, 1, 0), libc::EINVAL)?;
    let past = [1_u64, 0];
    fails("time is over", call(3, 0, past.as_ptr() as u64), libc::ETIMEDOUT)?;
    let other = [5, address(0), SIZE_32];
    let arguments = [other.as_ptr() as u64, 1, 0, 0, 0, 0];
    fails("another value", raw::call(libc::SYS_futex_waitv, arguments), libc::EAGAIN)?;
    let odd = [0, address(0), 1];
    fails("a size", raw::call(libc::SYS_futex_waitv, [odd.as_ptr() as u64, 1, 0, 0, 0, 0]), libc::EINVAL)?;
    let waker = thread::spawn(|| {
        let begun = Instant::now();
        while wake(1, 1) == Ok(0) && begun.elapsed() < Duration::from_secs(20) {
            thread::yield_now();
        }
    });
    same("the second", call(3, 0, 0), Ok(1))?;
    waker.join().map_err(|_| "the waker failed".to_string())
}

/// A wake goes to one who waits, not to one whose time was over.
fn timed_out_waiters() -> Outcome {
    let early = thread::spawn(|| {
        let time = [0_u64, 10_000_000];
        let wait = [address(2), libc::FUTEX_WAIT as u64, 0, time.as_ptr() as u64, 0, 0];
        let first = raw::call(libc::SYS_futex, wait);
        // Waits for something else from here on.
        thread::sleep(Duration::from_millis(100));
        first
    });
    let waiter = thread::spawn(|| {
        thread::sleep(Duration::from_millis(40));
        let time = [20_u64, 0];
        raw::call(libc::SYS_futex, [address(2), libc::FUTEX_WAIT as u64, 0, time.as_ptr() as u64, 0, 0])
    });
    let begun = Instant::now();
    thread::sleep(Duration::from_millis(60));
    while wake(2, 1) == Ok(0) {
        that("somebody waits", begun.elapsed() < Duration::from_secs(15))?;
        thread::yield_now();
    }
    let late = waiter.join().map_err(|_| "the waiter failed".to_string())?;
    that(&format!("{late:?}"), late == Ok(0) && begun.elapsed() < Duration::from_secs(15))?;
    same("the first", early.join().map_err(|_| "the first failed".to_string())?, Err(libc::ETIMEDOUT))
}

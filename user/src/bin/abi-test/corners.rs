//! Corners that random calls have found: each was once answered otherwise here than on Linux.
use crate::{
    Outcome, Subtest,
    check::{asleep, fails, same, text, works},
};
use shimos_user::raw;
use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::{
        fd::AsRawFd,
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("corners/read_nothing", read_nothing),
    ("corners/bad_memory", bad_memory),
    ("corners/append_nothing", append_nothing),
    ("corners/fifo_opener_killed", fifo_opener_killed),
    ("corners/fifo_renamed", fifo_renamed),
];

/// Reading no bytes from a socket waits for nothing.
fn read_nothing() -> Outcome {
    let (one, _two) = UnixStream::pair().map_err(text)?;
    let mut byte = [0; 1];
    let mut call = |number| raw::call(number, [one.as_raw_fd() as u64, byte.as_mut_ptr() as u64, 0, 0, 0, 0]);
    same("read", works("read", call(libc::SYS_read))?, 0)
}

/// What a descriptor does not allow is told before what memory does not allow.
fn bad_memory() -> Outcome {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open("file").map_err(text)?;
    let fd = file.as_raw_fd() as u64;
    fails("read", raw::call(libc::SYS_read, [fd, 8, 16, 0, 0, 0]), libc::EBADF)?;
    fails("pread64", raw::call(libc::SYS_pread64, [fd, 8, 16, 0, 0, 0]), libc::EBADF)
}

/// Appending no bytes leaves the position where it is.
fn append_nothing() -> Outcome {
    std::fs::write("file", b"content").map_err(text)?;
    let mut file = OpenOptions::new().read(true).append(true).open("file").map_err(text)?;
    same("written", file.write(&[]).map_err(text)?, 0)?;
    same("position", file.stream_position().map_err(text)?, 0)
}

fn make_fifo(name: &str) -> Outcome {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    works("mknod", rustix::fs::mknodat(rustix::fs::CWD, name, rustix::fs::FileType::Fifo, mode, 0))
}

fn open_quietly(name: &str) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(name)
}

/// A process that waits in open for the other end of a named pipe, and is killed when it comes, is no writer.
fn fifo_opener_killed() -> Outcome {
    make_fifo("fifo")?;
    for _ in 0..20 {
        let child = raw::fork(|| i32::from(OpenOptions::new().write(true).open("fifo").is_err())).map_err(text)?;
        asleep(child)?;
        let mut reader = open_quietly("fifo").map_err(text)?;
        raw::kill(child, libc::SIGKILL).map_err(text)?;
        raw::wait(child, 0).map_err(text)?;
        // The end of the file, and not EAGAIN: nobody writes.
        same("read", reader.read(&mut [0; 8]).map_err(text)?, 0)?;
    }
    Ok(())
}

/// The name of the pipe may go while somebody waits for its other end.
fn fifo_renamed() -> Outcome {
    make_fifo("fifo")?;
    let child = raw::fork(|| i32::from(OpenOptions::new().write(true).open("fifo").is_err())).map_err(text)?;
    asleep(child)?;
    std::fs::rename("fifo", "other").map_err(text)?;
    let mut reader = open_quietly("other").map_err(text)?;
    same("the opener", raw::exit_of(child).map_err(text)?, 0)?;
    same("read", reader.read(&mut [0; 8]).map_err(text)?, 0)
}

//! Pipes and named pipes.
use crate::{
    Outcome, Subtest,
    check::{asleep, fails, parent_asleep, same, text, that, works},
};
use rustix::{
    fs::{self, CWD, FileType, Mode, OFlags},
    pipe,
};
use shimos_user::raw;
use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::fd::AsRawFd,
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("pipes/order-and-end", order_and_end),
    ("pipes/capacity", capacity),
    ("pipes/nonblocking", nonblocking),
    ("pipes/long", long),
    ("pipes/atomic", atomic),
    ("pipes/fifo", fifo),
    ("pipes/fifo-both", fifo_both),
    ("pipes/fifo-interrupted", fifo_interrupted),
    ("pipes/by-proc", by_proc),
];

fn order_and_end() -> Outcome {
    let (mut reader, mut writer) = std::io::pipe().map_err(text)?;
    let child = raw::fork(|| {
        let whole = (0..100_u8).all(|n| writer.write_all(&[n; 100]).is_ok());
        i32::from(!whole)
    })
    .map_err(text)?;
    drop(writer);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(text)?;
    same("status", raw::exit_of(child).map_err(text)?, 0)?;
    same("length", bytes.len(), 10_000)?;
    that("order", bytes.chunks(100).enumerate().all(|(n, chunk)| chunk.iter().all(|byte| *byte == n as u8)))?;
    same("the end stays", reader.read(&mut [0]).map_err(text)?, 0)
}

fn capacity() -> Outcome {
    let (reader, writer) = works("pipe", pipe::pipe_with(pipe::PipeFlags::NONBLOCK))?;
    same("size", works("F_GETPIPE_SZ", pipe::fcntl_getpipe_size(&writer))?, 65536)?;
    works("F_SETPIPE_SZ", pipe::fcntl_setpipe_size(&writer, 5000))?;
    same("rounded up", works("F_GETPIPE_SZ", pipe::fcntl_getpipe_size(&writer))?, 8192)?;
    same("full", works("write", rustix::io::write(&writer, &[0; 10_000]))?, 8192)?;
    fails("no more", rustix::io::write(&writer, &[0]), libc::EAGAIN)?;
    same("in it", works("FIONREAD", rustix::io::ioctl_fionread(&reader))?, 8192)?;
    fails("too small", pipe::fcntl_setpipe_size(&writer, 4096), libc::EBUSY)
}

fn nonblocking() -> Outcome {
    let (reader, writer) = works("pipe", pipe::pipe_with(pipe::PipeFlags::NONBLOCK))?;
    fails("empty", rustix::io::read(&reader, &mut [0; 1]), libc::EAGAIN)?;
    works("write", rustix::io::write(&writer, b"abc"))?;
    let mut bytes = [0; 8];
    same("what is there", works("read", rustix::io::read(&reader, &mut bytes))?, 3)?;
    drop(writer);
    same("the end", works("read", rustix::io::read(&reader, &mut bytes))?, 0)?;
    fails("write to a reader", rustix::io::write(&reader, b"x"), libc::EBADF)
}

fn long() -> Outcome {
    let (mut reader, mut writer) = std::io::pipe().map_err(text)?;
    let child = raw::fork(|| {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 253) as u8).collect();
        i32::from(writer.write_all(&bytes).is_err())
    })
    .map_err(text)?;
    drop(writer);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(text)?;
    same("status", raw::exit_of(child).map_err(text)?, 0)?;
    same("length", bytes.len(), 3_000_000)?;
    that("content", bytes.iter().enumerate().all(|(n, byte)| *byte == (n % 253) as u8))
}

fn atomic() -> Outcome {
    let (mut reader, writer) = std::io::pipe().map_err(text)?;
    let mut children = Vec::new();
    for n in 0..4_u8 {
        let mut writer = writer.try_clone().map_err(text)?;
        children
            .push(raw::fork(move || i32::from(!(0..100).all(|_| writer.write_all(&[n; 3000]).is_ok()))).map_err(text)?);
    }
    drop(writer);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(text)?;
    same("length", bytes.len(), 1_200_000)?;
    that("not torn", bytes.chunks(3000).all(|chunk| chunk.iter().all(|byte| *byte == chunk[0])))?;
    children.into_iter().try_for_each(|child| same("status", raw::exit_of(child).map_err(text)?, 0))
}

fn make_fifo() -> Outcome {
    works("mkfifo", fs::mknodat(CWD, "f", FileType::Fifo, Mode::from_raw_mode(0o600), 0))
}

/// Who opens a pipe first, and waits there.
#[derive(Clone, Copy, PartialEq)]
enum First {
    Reader,
    Writer,
}

fn fifo() -> Outcome {
    make_fifo()?;
    fails("no reader", fs::open("f", OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()), libc::ENXIO)?;
    // The reader comes first, and the writer has gone before the reader runs again.
    for first in [First::Reader, First::Writer] {
        let child = raw::fork(move || {
            let late = first == First::Reader && parent_asleep().is_err();
            i32::from(late || std::fs::write("f", b"through").is_err())
        })
        .map_err(text)?;
        if first == First::Writer {
            asleep(child)?;
        }
        let mut said = String::new();
        File::open("f").map_err(text)?.read_to_string(&mut said).map_err(text)?;
        same("content", said.as_str(), "through")?;
        same("status", raw::exit_of(child).map_err(text)?, 0)?;
    }
    let reader = works("open", fs::open("f", OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()))?;
    same("no writer", works("read", rustix::io::read(&reader, &mut [0; 1]))?, 0)
}

fn fifo_both() -> Outcome {
    make_fifo()?;
    let mut both = OpenOptions::new().read(true).write(true).open("f").map_err(text)?;
    both.write_all(b"loop").map_err(text)?;
    let mut bytes = [0; 4];
    both.read_exact(&mut bytes).map_err(text)?;
    same("content", &bytes, b"loop")?;
    let mut writer = OpenOptions::new().write(true).open("f").map_err(text)?;
    writer.write_all(b"more").map_err(text)?;
    drop(writer);
    both.read_exact(&mut bytes).map_err(text)?;
    same("content", &bytes, b"more")
}

fn fifo_interrupted() -> Outcome {
    make_fifo()?;
    raw::on_signal(libc::SIGALRM, raw::Disposition::Count(0)).map_err(text)?;
    let once = [0_u64, 0, 0, 20_000];
    works("setitimer", raw::call(libc::SYS_setitimer, [0, once.as_ptr() as u64, 0, 0, 0, 0]))?;
    fails("open", fs::open("f", OFlags::RDONLY, Mode::empty()), libc::EINTR)?;
    fails("no reader was left", fs::open("f", OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()), libc::ENXIO)
}

fn by_proc() -> Outcome {
    let (reader, mut writer) = std::io::pipe().map_err(text)?;
    writer.write_all(b"again").map_err(text)?;
    let mut other = File::open(format!("/proc/self/fd/{}", reader.as_raw_fd())).map_err(text)?;
    let mut bytes = [0; 5];
    other.read_exact(&mut bytes).map_err(text)?;
    same("content", &bytes, b"again")?;
    let mut second = OpenOptions::new().write(true).open(format!("/dev/fd/{}", writer.as_raw_fd())).map_err(text)?;
    second.write_all(b"twice").map_err(text)?;
    (&reader).read_exact(&mut bytes).map_err(text)?;
    same("content", &bytes, b"twice")?;
    drop((writer, second));
    let mut late = File::open(format!("/proc/self/fd/{}", reader.as_raw_fd())).map_err(text)?;
    same("nobody is waited for", late.read(&mut bytes).map_err(text)?, 0)
}

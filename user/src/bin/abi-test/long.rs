//! Long transfers: one call moves all that it is asked to, however much that is.
use crate::{
    Outcome, Subtest,
    check::{same, that, works},
};
use shimos_user::raw;
use std::{
    fs::{File, OpenOptions},
    io::{IoSlice, Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("long/files", files),
    ("long/vectors", vectors),
    ("long/devices", devices),
    ("long/pipe", pipe),
    ("long/sockets", sockets),
];

/// More than goes in a turn, and no multiple of a page.
const LEN: usize = (5 << 20) + 77;

fn text(error: std::io::Error) -> String {
    error.to_string()
}

fn pattern() -> Vec<u8> {
    (0..LEN).map(|at| (at % 251) as u8 ^ (at >> 16) as u8).collect()
}

fn call(number: i64, fd: i32, bytes: &[u8], last: [u64; 3]) -> Result<usize, String> {
    let [a, b, c] = last;
    let done = raw::call(number, [fd as u64, bytes.as_ptr() as u64, bytes.len() as u64, a, b, c]);
    works("the call", done).map(|count| count as usize)
}

fn create() -> Result<File, String> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open("file").map_err(text)
}

fn files() -> Outcome {
    let bytes = pattern();
    let file = create()?;
    same("write", call(libc::SYS_write, file.as_raw_fd(), &bytes, [0; 3])?, LEN)?;
    same("pwrite", call(libc::SYS_pwrite64, file.as_raw_fd(), &bytes, [LEN as u64, 0, 0])?, LEN)?;
    let back = vec![1_u8; LEN + 100];
    same("pread", call(libc::SYS_pread64, file.as_raw_fd(), &back, [LEN as u64 + 100, 0, 0])?, LEN - 100)?;
    that("content", back[..LEN - 100] == bytes[100..])?;
    same("at the end of what was written", call(libc::SYS_read, file.as_raw_fd(), &back[..LEN], [0; 3])?, LEN)?;
    that("content", back[..LEN] == bytes)?;
    same("the end", call(libc::SYS_read, file.as_raw_fd(), &back, [0; 3])?, 0)
}

fn vectors() -> Outcome {
    let bytes = pattern();
    let mut file = create()?;
    let (one, two) = bytes.split_at(3 << 20);
    let slices = [IoSlice::new(one), IoSlice::new(&[]), IoSlice::new(two)];
    same("writev", file.write_vectored(&slices).map_err(text)?, LEN)?;
    let spans = slices.map(|slice| [slice.as_ptr() as u64, slice.len() as u64]);
    let place = |number: i64, at: u64, flags: u64| {
        let done = raw::call(number, [file.as_raw_fd() as u64, spans.as_ptr() as u64, 3, at, 0, flags]);
        works("the call", done).map(|count| count as usize)
    };
    same("pwritev", place(libc::SYS_pwritev, 100, 0)?, LEN)?;
    // RWF_APPEND, at the description's own place.
    file.set_len(100).map_err(text)?;
    same("pwritev2", place(libc::SYS_pwritev2, u64::MAX, 0x10)?, LEN)?;
    let (one, two) = (vec![0_u8; 1 << 20], vec![0_u8; LEN]);
    let spans = [[one.as_ptr() as u64, one.len() as u64], [two.as_ptr() as u64, two.len() as u64]];
    let got = raw::call(libc::SYS_preadv, [file.as_raw_fd() as u64, spans.as_ptr() as u64, 2, 100, 0, 0]);
    same("preadv", got, Ok(LEN as u64))?;
    that("content", one == bytes[..1 << 20] && two[..LEN - (1 << 20)] == bytes[1 << 20..])
}

fn devices() -> Outcome {
    let zero = OpenOptions::new().read(true).write(true).open("/dev/zero").map_err(text)?;
    let mut bytes = vec![1_u8; LEN];
    same("/dev/zero", (&zero).read(&mut bytes).map_err(text)?, LEN)?;
    that("zeros", bytes.iter().all(|byte| *byte == 0))?;
    same("thrown away", (&zero).write(&bytes).map_err(text)?, LEN)?;
    let mut random = File::open("/dev/urandom").map_err(text)?;
    same("/dev/urandom", random.read(&mut bytes).map_err(text)?, LEN)?;
    // At a place, where none is like another.
    for device in ["/dev/full", "/dev/zero", "/dev/urandom"] {
        let file = File::open(device).map_err(text)?;
        same(device, call(libc::SYS_pread64, file.as_raw_fd(), &bytes[..100], [1 << 40, 0, 0])?, 100)?;
        for (offset, whence) in [(-5_i64, libc::SEEK_CUR), (77, libc::SEEK_SET), (-1, libc::SEEK_SET)] {
            let place = raw::call(libc::SYS_lseek, [file.as_raw_fd() as u64, offset as u64, whence as u64, 0, 0, 0]);
            same(device, place, Ok(0))?;
        }
    }
    Ok(())
}

/// Reads all from another process, which must be what the pattern is.
fn reader(stream: impl Read) -> Result<i32, String> {
    let mut stream = stream;
    raw::fork(move || {
        let mut bytes = Vec::new();
        i32::from(stream.by_ref().take(LEN as u64).read_to_end(&mut bytes).is_err() || bytes != pattern())
    })
    .map_err(text)
}

fn pipe() -> Outcome {
    let (from, to) = std::io::pipe().map_err(text)?;
    let child = reader(&from)?;
    drop(from);
    same("write", call(libc::SYS_write, to.as_raw_fd(), &pattern(), [0; 3])?, LEN)?;
    same("reader", raw::exit_of(child).map_err(text)?, 0)
}

fn sockets() -> Outcome {
    let bytes = pattern();
    let send = |fd: BorrowedFd<'_>, child: i32| -> Outcome {
        same("sendto", call(libc::SYS_sendto, fd.as_raw_fd(), &bytes, [0; 3])?, LEN)?;
        same("reader", raw::exit_of(child).map_err(text)?, 0)
    };
    use std::os::fd::AsFd;
    let (one, two) = UnixStream::pair().map_err(text)?;
    let child = reader(&two)?;
    send(one.as_fd(), child)?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(text)?;
    let client = TcpStream::connect(listener.local_addr().map_err(text)?).map_err(text)?;
    let (server, _) = listener.accept().map_err(text)?;
    let child = reader(&server)?;
    send(client.as_fd(), child)
}

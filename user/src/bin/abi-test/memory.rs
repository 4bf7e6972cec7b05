//! Mappings.
use crate::{
    Outcome, Subtest,
    check::{fails, same, text, that, works},
};
use shimos_user::raw::{self, Map};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::{fd::AsRawFd, unix::fs::FileExt},
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("memory/anonymous", anonymous),
    ("memory/file-private", file_private),
    ("memory/file-shared", file_shared),
    ("memory/image-file", image_file),
    ("memory/protect", protect),
    ("memory/resize", resize),
    ("memory/advice", advice),
    ("memory/break", program_break),
    ("memory/bad-arguments", bad_arguments),
    ("memory/shared-by-fork", shared_by_fork),
    ("memory/stack", stack),
];

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn file(content: &[u8]) -> Result<File, String> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open("a").map_err(text)?;
    file.write_all(content).map_err(text)?;
    Ok(file)
}

fn anonymous() -> Outcome {
    let map = Map::anonymous(16 << 20, libc::MAP_PRIVATE).map_err(text)?;
    that("zeros", (0..map.len()).step_by(4096).all(|at| map.get(at) == 0))?;
    for at in (0..map.len()).step_by(4096) {
        map.set(at + 7, (at >> 12) as u8);
    }
    that("kept", (0..map.len()).step_by(4096).all(|at| map.get(at + 7) == (at >> 12) as u8))?;
    // A mapping without reservation may be larger than memory.
    let huge = Map::anonymous(1 << 40, libc::MAP_PRIVATE | libc::MAP_NORESERVE).map_err(text)?;
    huge.set(1 << 39, 1);
    same("far in", huge.get(1 << 39), 1)
}

fn file_private() -> Outcome {
    let file = file(&[5; 6000])?;
    let map = Map::new(8192, READ_WRITE, libc::MAP_PRIVATE, file.as_raw_fd(), 0).map_err(text)?;
    same("content", (map.get(0), map.get(5999), map.get(6000)), (5, 5, 0))?;
    map.set(0, 9);
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).map_err(text)?;
    same("the file is as it was", byte[0], 5)?;
    let second = Map::new(4096, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 4096).map_err(text)?;
    same("from an offset", second.get(100), 5)
}

fn file_shared() -> Outcome {
    let file = file(&[5; 8192])?;
    let map = Map::new(8192, READ_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0).map_err(text)?;
    map.set(5000, 7);
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).map_err(text)?;
    same("stores reach the file", byte[0], 7)?;
    file.write_at(&[8], 100).map_err(text)?;
    same("writes reach the mapping", map.get(100), 8)?;
    let other = Map::new(8192, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0).map_err(text)?;
    map.set(200, 3);
    same("and other mappings", other.get(200), 3)?;
    works("msync", raw::call(libc::SYS_msync, [map.addr(), 8192, libc::MS_SYNC as u64, 0, 0, 0]))?;
    let reader = File::open("a").map_err(text)?;
    let refused = Map::new(4096, READ_WRITE, libc::MAP_SHARED, reader.as_raw_fd(), 0).map(|map| map.addr());
    fails("a reader's", refused, libc::EACCES)?;
    let readable = Map::new(4096, libc::PROT_READ, libc::MAP_SHARED, reader.as_raw_fd(), 0).map_err(text)?;
    fails("made writable", readable.protect(READ_WRITE), libc::EACCES)
}

fn image_file() -> Outcome {
    let path = "/bin/cat";
    let content = std::fs::read(path).map_err(text)?;
    let file = File::open(path).map_err(text)?;
    let map = Map::new(content.len(), libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0).map_err(text)?;
    that("content", content.iter().enumerate().all(|(at, byte)| map.get(at) == *byte))
}

fn protect() -> Outcome {
    let map = Map::anonymous(3 * 4096, libc::MAP_PRIVATE).map_err(text)?;
    map.set(4096, 1);
    let middle = map.addr() + 4096;
    works("mprotect", raw::call(libc::SYS_mprotect, [middle, 4096, libc::PROT_READ as u64, 0, 0, 0]))?;
    same("still readable", map.get(4096), 1)?;
    map.set(0, 1);
    map.set(8192, 1);
    let child = raw::fork(|| {
        map.set(4097, 1);
        0
    })
    .map_err(text)?;
    same("not writable", raw::exit_of(child).map_err(text)?, 256 + libc::SIGSEGV)?;
    works("munmap", raw::call(libc::SYS_munmap, [middle, 4096, 0, 0, 0, 0]))?;
    fails("a hole", map.protect(READ_WRITE), libc::ENOMEM)
}

fn resize() -> Outcome {
    let mut map = Map::anonymous(64 << 10, libc::MAP_PRIVATE).map_err(text)?;
    for at in (0..map.len()).step_by(4096) {
        map.set(at, (at >> 12) as u8 + 1);
    }
    map.resize(8 << 20).map_err(text)?;
    that("kept", (0..16).all(|page| map.get(page << 12) == page as u8 + 1))?;
    same("zeros behind", map.get((64 << 10) + 5), 0)?;
    map.resize(8192).map_err(text)?;
    same("cut", map.get(4096), 2)?;
    fails("a bad flag", raw::call(libc::SYS_mremap, [map.addr(), 4096, 8192, 64, 0, 0]), libc::EINVAL)
}

fn advice() -> Outcome {
    let map = Map::anonymous(8192, libc::MAP_PRIVATE).map_err(text)?;
    map.set(0, 1);
    map.set(4096, 1);
    works("MADV_DONTNEED", raw::call(libc::SYS_madvise, [map.addr(), 4096, libc::MADV_DONTNEED as u64, 0, 0, 0]))?;
    same("zeros, and the rest", (map.get(0), map.get(4096)), (0, 1))?;
    works("MADV_WILLNEED", raw::call(libc::SYS_madvise, [map.addr(), 4096, libc::MADV_WILLNEED as u64, 0, 0, 0]))?;
    fails("no such advice", raw::call(libc::SYS_madvise, [map.addr(), 4096, 9999, 0, 0, 0]), libc::EINVAL)
}

fn program_break() -> Outcome {
    let end = works("brk", raw::call(libc::SYS_brk, [0; 6]))?;
    same("longer", works("brk", raw::call(libc::SYS_brk, [end + 100_000, 0, 0, 0, 0, 0]))?, end + 100_000)?;
    same("back", works("brk", raw::call(libc::SYS_brk, [end, 0, 0, 0, 0, 0]))?, end)?;
    same("nonsense changes nothing", works("brk", raw::call(libc::SYS_brk, [1, 0, 0, 0, 0, 0]))?, end)
}

fn bad_arguments() -> Outcome {
    let map = |len: u64, prot: u64, flags: i32, fd: i64, offset: u64| {
        raw::call(libc::SYS_mmap, [0, len, prot, flags as u64, fd as u64, offset])
    };
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    fails("no length", map(0, 1, private, -1, 0), libc::EINVAL)?;
    fails("no kind", map(4096, 1, libc::MAP_ANONYMOUS, -1, 0), libc::EINVAL)?;
    fails("too long", map(1 << 47, 1, private, -1, 0), libc::ENOMEM)?;
    fails("no file", map(4096, 1, libc::MAP_PRIVATE, 999, 0), libc::EBADF)?;
    let file = file(b"x")?;
    fails("an odd offset", map(4096, 1, libc::MAP_PRIVATE, file.as_raw_fd().into(), 5), libc::EINVAL)?;
    let (reader, _writer) = std::io::pipe().map_err(text)?;
    fails("a pipe", map(4096, 1, libc::MAP_PRIVATE, reader.as_raw_fd().into(), 0), libc::ENODEV)?;
    fails("munmap of an odd address", raw::call(libc::SYS_munmap, [1, 4096, 0, 0, 0, 0]), libc::EINVAL)?;
    fails("munmap of nothing", raw::call(libc::SYS_munmap, [4096, 0, 0, 0, 0, 0]), libc::EINVAL)
}

fn shared_by_fork() -> Outcome {
    let map = Map::anonymous(1 << 20, libc::MAP_SHARED).map_err(text)?;
    let mut children = Vec::new();
    for n in 0..4_usize {
        children.push(
            raw::fork(|| {
                for at in (n * (1 << 18)..(n + 1) * (1 << 18)).step_by(4096) {
                    map.set(at, n as u8 + 1);
                }
                0
            })
            .map_err(text)?,
        );
    }
    for child in children {
        same("status", raw::exit_of(child).map_err(text)?, 0)?;
    }
    that("all of it", (0..1 << 20).step_by(4096).all(|at| usize::from(map.get(at)) == (at >> 18) + 1))
}

/// Uses `depth` kilobytes of stack.
fn dig(depth: u32) -> u32 {
    let block = std::hint::black_box([depth as u8; 1000]);
    if depth == 0 { 0 } else { dig(depth - 1) + u32::from(std::hint::black_box(block[5]) == depth as u8) }
}

fn stack() -> Outcome {
    same("four megabytes", dig(4000), 4000)?;
    let child = raw::fork(|| dig(1_000_000) as i32).map_err(text)?;
    let status = raw::exit_of(child).map_err(text)?;
    that("too deep ends by a signal", status == 256 + libc::SIGSEGV || status == 256 + libc::SIGABRT)
}

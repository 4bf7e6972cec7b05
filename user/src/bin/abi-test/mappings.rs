//! Mappings with everything that mmap and its family offer.
use crate::{
    Outcome, Subtest,
    check::{call, fails, same, text, that, works},
};
use shimos_user::raw::{self, Disposition, Map};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::{fd::AsRawFd, unix::fs::FileExt},
    sync::atomic::Ordering,
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("mappings/flags", map_flags),
    ("mappings/places", places),
    ("mappings/grows-down", grows_down),
    ("mappings/populate", populate),
    ("mappings/remap", remap),
    ("mappings/remap-leaves", remap_leaves),
    ("mappings/remap-copies", remap_copies),
    ("mappings/remap-errors", remap_errors),
    ("mappings/protect-errors", protect_errors),
    ("mappings/advice", advice),
    ("mappings/fork-advice", fork_advice),
    ("mappings/holes", holes),
    ("mappings/locks", locks),
    ("mappings/lock-limits", lock_limits),
    ("mappings/residence", residence),
    ("mappings/sync", sync),
    ("mappings/file-pages", file_pages),
    ("mappings/coherence", coherence),
    ("mappings/truncated", truncated),
    ("mappings/limits", limits),
    ("mappings/file-size", file_size),
    ("mappings/across", across),
    ("mappings/policies", policies),
    ("mappings/barriers", barriers),
    ("mappings/keys", keys),
];

const READ: u64 = libc::PROT_READ as u64;
const WRITE: u64 = libc::PROT_WRITE as u64;
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

fn mmap(addr: u64, len: u64, prot: u64, flags: i32, fd: i32, offset: u64) -> raw::Answer {
    call(libc::SYS_mmap, &[addr, len, prot, flags as u64, fd as u64, offset])
}

fn unmap(addr: u64, len: u64) -> raw::Answer {
    call(libc::SYS_munmap, &[addr, len])
}

fn load(addr: u64) -> u32 {
    raw::word(addr).load(Ordering::SeqCst)
}

fn store(addr: u64, value: u32) {
    raw::word(addr).store(value, Ordering::SeqCst);
}

/// What becomes of a child that does `work`: its exit status, or 256 and the signal.
fn fate(work: impl FnOnce()) -> Result<i32, String> {
    let child = raw::fork(|| {
        work();
        0
    })
    .map_err(text)?;
    raw::exit_of(child).map_err(text)
}

fn file(name: &str, content: &[u8]) -> Result<File, String> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(name).map_err(text)?;
    file.write_all(content).map_err(text)?;
    Ok(file)
}

fn map_flags() -> Outcome {
    let file = file("a", &[7; 4096])?;
    let fd = file.as_raw_fd();
    fails("no type", mmap(0, 4096, READ, libc::MAP_ANONYMOUS, -1, 0), libc::EINVAL)?;
    fails("a type that is none", mmap(0, 4096, READ, 5 | libc::MAP_ANONYMOUS, -1, 0), libc::EINVAL)?;
    fails("an odd offset", mmap(0, 4096, READ, ANONYMOUS, -1, 5), libc::EINVAL)?;
    let validate = libc::MAP_SHARED_VALIDATE;
    works("validated", mmap(0, 4096, READ, validate | libc::MAP_POPULATE, fd, 0))
        .and_then(|at| works("unmap", unmap(at, 4096)))?;
    fails("memory that keeps", mmap(0, 4096, READ, validate | libc::MAP_SYNC, fd, 0), libc::EOPNOTSUPP)?;
    fails("an unknown flag", mmap(0, 4096, READ, validate | 1 << 23, fd, 0), libc::EOPNOTSUPP)?;
    let at = works("not validated", mmap(0, 4096, READ, libc::MAP_SHARED | 1 << 23, fd, 0))?;
    works("unmap", unmap(at, 4096))?;
    fails("validated without a file", mmap(0, 4096, READ, validate | libc::MAP_ANONYMOUS, -1, 0), libc::EINVAL)?;
    let at = works("unknown protection", mmap(0, 4096, READ | 1 << 20, ANONYMOUS, -1, 0))?;
    works("unmap", unmap(at, 4096))?;
    fails("a growing file", mmap(0, 4096, READ, libc::MAP_PRIVATE | libc::MAP_GROWSDOWN, fd, 0), libc::EINVAL)?;
    let huge = ANONYMOUS | libc::MAP_HUGETLB;
    fails("huge pages of no size", mmap(0, 4096, READ, huge | 13 << 26, -1, 0), libc::EINVAL)?;
    fails("huge pages of a file", mmap(0, 4096, READ, libc::MAP_PRIVATE | libc::MAP_HUGETLB, fd, 0), libc::EINVAL)?;
    fails("beyond all files", mmap(0, 8192, READ, libc::MAP_PRIVATE, fd, !4095), libc::EOVERFLOW)?;
    fails("far too long", mmap(0, !4095, READ, ANONYMOUS, -1, 0), libc::ENOMEM)?;
    let directory = File::open(".").map_err(text)?;
    fails("a directory", mmap(0, 4096, READ, libc::MAP_PRIVATE, directory.as_raw_fd(), 0), libc::ENODEV)?;
    let zero = OpenOptions::new().read(true).write(true).open("/dev/zero").map_err(text)?;
    let at = works("shared zeros", mmap(0, 4096, READ | WRITE, libc::MAP_SHARED, zero.as_raw_fd(), 0))?;
    same("child", fate(|| store(at, 9))?, 0)?;
    same("seen", load(at), 9)?;
    works("unmap", unmap(at, 4096)).map(|_| ())
}

fn places() -> Outcome {
    let at = works("somewhere", mmap(0, 3 * 4096, READ | WRITE, ANONYMOUS, -1, 0))?;
    store(at, 1);
    store(at + 4096, 2);
    fails("taken", mmap(at + 4096, 4096, READ, ANONYMOUS | libc::MAP_FIXED_NOREPLACE, -1, 0), libc::EEXIST)?;
    same("replaced", mmap(at + 4096, 4096, READ, ANONYMOUS | libc::MAP_FIXED, -1, 0), Ok(at + 4096))?;
    same("content", (load(at), load(at + 4096)), (1, 0))?;
    works("unmap", unmap(at + 4096, 4096))?;
    same("free", mmap(at + 4096, 4096, READ, ANONYMOUS | libc::MAP_FIXED_NOREPLACE, -1, 0), Ok(at + 4096))?;
    fails("an odd place", mmap(at + 5, 4096, READ, ANONYMOUS | libc::MAP_FIXED, -1, 0), libc::EINVAL)?;
    works("unmap", unmap(at, 3 * 4096))?;
    same("a wish", mmap(at, 4096, READ, ANONYMOUS, -1, 0), Ok(at))?;
    works("unmap", unmap(at, 4096))?;
    let low = works("32 bits", mmap(0, 1 << 20, READ, ANONYMOUS | libc::MAP_32BIT, -1, 0))?;
    that("low", low >> 31 == 0)?;
    works("unmap", unmap(low, 1 << 20))?;
    fails("beyond", mmap(1 << 47, 4096, READ, ANONYMOUS | libc::MAP_FIXED, -1, 0), libc::ENOMEM)
}

fn grows_down() -> Outcome {
    let room = 1 << 21;
    let base = works("room", mmap(0, room + 8192, 0, ANONYMOUS, -1, 0))?;
    works("free", unmap(base, room + 8192))?;
    let top = base + room;
    let flags = ANONYMOUS | libc::MAP_GROWSDOWN | libc::MAP_FIXED;
    same("a stack", mmap(top, 8192, READ | WRITE, flags, -1, 0), Ok(top))?;
    store(top - 4096, 5);
    store(top - 16 * 4096, 6);
    same("grown", (load(top - 4096), load(top - 8 * 4096), load(top - 16 * 4096)), (5, 0, 6))?;
    let protect = |at: u64, prot: u64| call(libc::SYS_mprotect, &[at, 4096, prot]);
    works("all of it", protect(top, READ | libc::PROT_GROWSDOWN as u64))?;
    same("read-only to its start", fate(|| store(top - 16 * 4096, 1))?, 256 + libc::SIGSEGV)?;
    fails("up and down", protect(top, READ | 0x300_0000), libc::EINVAL)?;
    // Room is kept free below.
    let low = top - (1 << 19);
    same("a neighbour", mmap(low - 8192, 4096, READ, ANONYMOUS | libc::MAP_FIXED, -1, 0), Ok(low - 8192))?;
    works("writable", call(libc::SYS_mprotect, &[top - 16 * 4096, 4096, READ | WRITE]))?;
    same("near it", fate(|| store(low + 4096, 1))?, 256 + libc::SIGSEGV)?;
    works("unmap", unmap(base, room + 8192))?;
    let flat = works("a flat one", mmap(0, 4096, READ, ANONYMOUS, -1, 0))?;
    fails("does not grow", protect(flat, READ | libc::PROT_GROWSDOWN as u64), libc::EINVAL)
}

fn residence_of(at: u64, pages: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![9_u8; pages];
    works("mincore", call(libc::SYS_mincore, &[at, pages as u64 * 4096, bytes.as_mut_ptr() as u64]))?;
    Ok(bytes.into_iter().map(|byte| byte & 1).collect())
}

fn populate() -> Outcome {
    let at = works("populated", mmap(0, 40 << 20, READ | WRITE, ANONYMOUS | libc::MAP_POPULATE, -1, 0))?;
    that("all there", residence_of(at, 10240)?.iter().all(|byte| *byte == 1))?;
    works("unmap", unmap(at, 40 << 20))?;
    let at = works("not populated", mmap(0, 8 * 4096, READ | WRITE, ANONYMOUS, -1, 0))?;
    let advise =
        |first: u64, pages: u64, advice: u64| call(libc::SYS_madvise, &[at + first * 4096, pages * 4096, advice]);
    works("for writing", advise(0, 2, 23))?;
    works("for reading", advise(4, 1, 22))?;
    same("there", residence_of(at, 8)?, vec![1, 1, 0, 0, 1, 0, 0, 0])?;
    works("read-only", call(libc::SYS_mprotect, &[at, 4096, READ]))?;
    fails("for writing what cannot be", advise(0, 2, 23), libc::EINVAL)?;
    works("unmap", unmap(at + 4096, 4096))?;
    fails("with a hole", advise(0, 3, 22), libc::ENOMEM)
}

fn resize(old: u64, len: u64, new_len: u64, flags: i32, to: u64) -> raw::Answer {
    call(libc::SYS_mremap, &[old, len, new_len, flags as u64, to])
}

fn remap() -> Outcome {
    let at = works("mmap", mmap(0, 4 * 4096, READ | WRITE, ANONYMOUS, -1, 0))?;
    for page in 0..4 {
        store(at + page * 4096, page as u32 + 1);
    }
    let target = works("room", mmap(0, 16 * 4096, READ, ANONYMOUS, -1, 0))?;
    let fixed = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    same("moved there", resize(at, 4 * 4096, 6 * 4096, fixed, target), Ok(target))?;
    same("content", (load(target), load(target + 3 * 4096), load(target + 5 * 4096)), (1, 4, 0))?;
    fails("gone from here", call(libc::SYS_mprotect, &[at, 4096, READ]), libc::ENOMEM)?;
    store(target + 5 * 4096, 6);
    same("a part, smaller", resize(target + 4096, 3 * 4096, 4096, fixed, target + 8 * 4096), Ok(target + 8 * 4096))?;
    same("content", (load(target), load(target + 8 * 4096), load(target + 5 * 4096)), (1, 2, 6))?;
    fails("gone", call(libc::SYS_mprotect, &[target + 4096, 4096, READ]), libc::ENOMEM)?;
    works("unmap", unmap(target, 16 * 4096)).map(|_| ())
}

fn remap_leaves() -> Outcome {
    const DONT_UNMAP: i32 = 4;
    let at = works("mmap", mmap(0, 2 * 4096, READ | WRITE, ANONYMOUS, -1, 0))?;
    store(at, 1);
    store(at + 4096, 2);
    let to = works("left", resize(at, 8192, 8192, libc::MREMAP_MAYMOVE | DONT_UNMAP, 0))?;
    that("elsewhere", to != at)?;
    same("content", (load(to), load(to + 4096)), (1, 2))?;
    same("empty", (load(at), load(at + 4096)), (0, 0))?;
    store(at, 7);
    same("apart", (load(to), load(at)), (1, 7))?;
    fails("another size", resize(at, 8192, 4096, libc::MREMAP_MAYMOVE | DONT_UNMAP, 0), libc::EINVAL)?;
    fails("in place", resize(at, 8192, 8192, DONT_UNMAP, 0), libc::EINVAL)
}

fn remap_copies() -> Outcome {
    let at = works("mmap", mmap(0, 2 * 4096, READ | WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0))?;
    store(at + 4096, 3);
    let copy = works("again", resize(at + 4096, 0, 4096, libc::MREMAP_MAYMOVE, 0))?;
    same("content", load(copy), 3)?;
    store(copy, 4);
    same("one memory", load(at + 4096), 4)?;
    let private = works("mmap", mmap(0, 4096, READ | WRITE, ANONYMOUS, -1, 0))?;
    fails("private memory", resize(private, 0, 4096, libc::MREMAP_MAYMOVE, 0), libc::EINVAL)
}

fn remap_errors() -> Outcome {
    let at = works("mmap", mmap(0, 4 * 4096, READ, ANONYMOUS, -1, 0))?;
    let may_move = libc::MREMAP_MAYMOVE;
    fails("no size", resize(at, 4096, 0, may_move, 0), libc::EINVAL)?;
    fails("an odd address", resize(at + 1, 4096, 4096, may_move, 0), libc::EINVAL)?;
    fails("fixed but not moving", resize(at, 4096, 4096, libc::MREMAP_FIXED, at), libc::EINVAL)?;
    fails("onto itself", resize(at, 8192, 8192, may_move | libc::MREMAP_FIXED, at + 4096), libc::EINVAL)?;
    fails("no room", resize(at, 4096, 8192, 0, 0), libc::ENOMEM)?;
    works("a hole", unmap(at + 8192, 4096))?;
    fails("over a hole", resize(at, 4 * 4096, 8 * 4096, may_move, 0), libc::EFAULT)?;
    fails("nothing there", resize(at + 8192, 4096, 8192, may_move, 0), libc::EFAULT)?;
    works("unmap", unmap(at, 4 * 4096)).map(|_| ())
}

fn protect_errors() -> Outcome {
    let at = works("mmap", mmap(0, 8192, READ, ANONYMOUS, -1, 0))?;
    let protect = |at: u64, len: u64, prot: u64| call(libc::SYS_mprotect, &[at, len, prot]);
    same("nothing", protect(at, 0, READ), Ok(0))?;
    fails("an odd address", protect(at + 1, 4096, READ), libc::EINVAL)?;
    fails("no such protection", protect(at, 4096, 0x80), libc::EINVAL)?;
    fails("around the end", protect(at, !4095, READ), libc::ENOMEM)?;
    let file = file("a", &[1; 4096])?;
    let reader = File::open("a").map_err(text)?;
    let shared = works("mmap", mmap(0, 4096, READ, libc::MAP_SHARED, reader.as_raw_fd(), 0))?;
    fails("a file that is not open for it", protect(shared, 4096, READ | WRITE), libc::EACCES)?;
    let private = works("mmap", mmap(0, 4096, READ, libc::MAP_PRIVATE, reader.as_raw_fd(), 0))?;
    works("a copy", protect(private, 4096, READ | WRITE))?;
    store(private, 5);
    let mut byte = [0];
    file.read_at(&mut byte, 0).map_err(text)?;
    same("the file", byte[0], 1)
}

fn advise(at: u64, len: u64, advice: u64) -> raw::Answer {
    call(libc::SYS_madvise, &[at, len, advice])
}

fn advice() -> Outcome {
    let at = works("mmap", mmap(0, 4 * 4096, READ | WRITE, ANONYMOUS, -1, 0))?;
    for hint in [0, 1, 2, 3, 14, 15, 16, 17, 20, 21] {
        works("a hint", advise(at, 8192, hint))?;
    }
    for unknown in [5, 6, 7, 26 + 50, 99, 199, 1 << 31] {
        fails("no such advice", advise(at, 8192, unknown), libc::EINVAL)?;
    }
    fails("an odd address", advise(at + 1, 4096, 0), libc::EINVAL)?;
    fails("around the end", advise(at, u64::MAX, 0), libc::EINVAL)?;
    same("nothing", advise(at, 0, 4), Ok(0))?;
    store(at, 1);
    store(at + 4096, 2);
    works("a hole", unmap(at + 8192, 4096))?;
    fails("the rest all the same", advise(at, 4 * 4096, libc::MADV_DONTNEED as u64), libc::ENOMEM)?;
    same("zeros", (load(at), load(at + 4096)), (0, 0))?;
    store(at, 1);
    works("MADV_FREE", advise(at, 4096, libc::MADV_FREE as u64))?;
    that("either", load(at) <= 1)?;
    let file = file("a", &[3; 4096])?;
    let mapped = works("mmap", mmap(0, 4096, READ | WRITE, libc::MAP_PRIVATE, file.as_raw_fd(), 0))?;
    store(mapped, 9);
    works("MADV_DONTNEED", advise(mapped, 4096, libc::MADV_DONTNEED as u64))?;
    same("the file again", load(mapped), 0x0303_0303)?;
    let shared = works("mmap", mmap(0, 4096, READ | WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0))?;
    fails("MADV_FREE of a file", advise(shared, 4096, libc::MADV_FREE as u64), libc::EINVAL)?;
    store(shared, 8);
    works("MADV_DONTNEED", advise(shared, 4096, libc::MADV_DONTNEED as u64))?;
    same("kept", load(shared), 8)?;
    let taken = call(libc::SYS_process_madvise, &[0, 0, 0, 20, 1]);
    fails("process_madvise with flags", taken, libc::EINVAL)
}

fn fork_advice() -> Outcome {
    let at = works("mmap", mmap(0, 3 * 4096, READ | WRITE, ANONYMOUS, -1, 0))?;
    for page in 0..3 {
        store(at + page * 4096, 5);
    }
    works("MADV_DONTFORK", advise(at, 4096, libc::MADV_DONTFORK as u64))?;
    works("MADV_WIPEONFORK", advise(at + 4096, 4096, 18))?;
    same("not there", fate(|| store(at, 1))?, 256 + libc::SIGSEGV)?;
    let child = raw::fork(|| (load(at + 4096) * 16 + load(at + 8192)) as i32).map_err(text)?;
    same("wiped, and kept", raw::exit_of(child).map_err(text)?, 5)?;
    same("here as before", (load(at), load(at + 4096)), (5, 5))?;
    works("MADV_DOFORK", advise(at, 4096, libc::MADV_DOFORK as u64))?;
    works("MADV_KEEPONFORK", advise(at + 4096, 4096, 19))?;
    let child = raw::fork(|| (load(at) * 16 + load(at + 4096)) as i32).map_err(text)?;
    same("both again", raw::exit_of(child).map_err(text)?, 0x55)?;
    let shared = works("mmap", mmap(0, 4096, READ, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0))?;
    fails("shared memory", advise(shared, 4096, 18), libc::EINVAL)
}

fn holes() -> Outcome {
    let at = works("mmap", mmap(0, 3 * 4096, READ | WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0))?;
    for page in 0..3 {
        store(at + page * 4096, page as u32 + 1);
    }
    works("MADV_REMOVE", advise(at + 4096, 4096, libc::MADV_REMOVE as u64))?;
    same("a hole", (load(at), load(at + 4096), load(at + 8192)), (1, 0, 3))?;
    let private = works("mmap", mmap(0, 4096, READ | WRITE, ANONYMOUS, -1, 0))?;
    fails("private memory", advise(private, 4096, libc::MADV_REMOVE as u64), libc::EINVAL)
}

fn locks() -> Outcome {
    let at = works("mmap", mmap(0, 4 * 4096, READ | WRITE, ANONYMOUS, -1, 0))?;
    works("mlock", call(libc::SYS_mlock, &[at + 100, 4096]))?;
    same("there", residence_of(at, 4)?, vec![1, 1, 0, 0])?;
    works("mlock2", call(libc::SYS_mlock2, &[at + 8192, 4096, 1]))?;
    same("not yet", residence_of(at, 4)?, vec![1, 1, 0, 0])?;
    fails("a flag", call(libc::SYS_mlock2, &[at, 4096, 2]), libc::EINVAL)?;
    fails("MADV_DONTNEED", advise(at, 4096, libc::MADV_DONTNEED as u64), libc::EINVAL)?;
    works("munlock", call(libc::SYS_munlock, &[at, 8192]))?;
    works("MADV_DONTNEED", advise(at, 4096, libc::MADV_DONTNEED as u64))?;
    works("a hole", unmap(at + 4096, 4096))?;
    fails("over a hole", call(libc::SYS_mlock, &[at, 4 * 4096]), libc::ENOMEM)?;
    fails("over a hole", call(libc::SYS_munlock, &[at, 4 * 4096]), libc::ENOMEM)?;
    fails("nothing", call(libc::SYS_mlockall, &[0]), libc::EINVAL)?;
    fails("only on fault", call(libc::SYS_mlockall, &[4]), libc::EINVAL)?;
    fails("an unknown flag", call(libc::SYS_mlockall, &[8]), libc::EINVAL)?;
    works("munlockall", call(libc::SYS_munlockall, &[])).map(|_| ())
}

fn set_limit(which: u32, soft: u64) -> Result<(), String> {
    let mut limit = [0_u64; 2];
    works("getrlimit", call(libc::SYS_getrlimit, &[which.into(), limit.as_mut_ptr() as u64]))?;
    limit[0] = soft;
    works("setrlimit", call(libc::SYS_setrlimit, &[which.into(), limit.as_ptr() as u64])).map(|_| ())
}

/// Does `work` as a user without privilege, in a child; its error becomes the test's.
fn unprivileged(work: impl FnOnce() -> Outcome) -> Outcome {
    let (mut hear, mut tell) = std::io::pipe().map_err(text)?;
    let child = raw::fork(|| {
        let _ = call(libc::SYS_setresuid, &[12345, 12345, 12345]);
        match work() {
            Ok(()) => 0,
            Err(why) => {
                let _ = tell.write_all(why.as_bytes());
                1
            }
        }
    })
    .map_err(text)?;
    if raw::exit_of(child).map_err(text)? == 0 {
        return Ok(());
    }
    let mut why = vec![0; 512];
    let len = std::io::Read::read(&mut hear, &mut why).unwrap_or(0);
    Err(String::from_utf8_lossy(&why[..len]).into_owned())
}

fn lock_limits() -> Outcome {
    unprivileged(|| {
        set_limit(libc::RLIMIT_MEMLOCK, 8192)?;
        let at = works("mmap", mmap(0, 4 * 4096, READ | WRITE, ANONYMOUS, -1, 0))?;
        works("two pages", call(libc::SYS_mlock, &[at, 8192]))?;
        works("again", call(libc::SYS_mlock, &[at, 8192]))?;
        fails("a third", call(libc::SYS_mlock, &[at + 8192, 4096]), libc::ENOMEM)?;
        fails("MAP_LOCKED", mmap(0, 4096, READ, ANONYMOUS | libc::MAP_LOCKED, -1, 0), libc::EAGAIN)?;
        fails("all", call(libc::SYS_mlockall, &[1]), libc::ENOMEM)?;
        works("unmapped is unlocked", unmap(at, 4096))?;
        works("MAP_LOCKED", mmap(0, 4096, READ, ANONYMOUS | libc::MAP_LOCKED, -1, 0))?;
        set_limit(libc::RLIMIT_MEMLOCK, 0)?;
        fails("none allowed", call(libc::SYS_mlock, &[at + 4096, 4096]), libc::EPERM)?;
        fails("MAP_LOCKED", mmap(0, 4096, READ, ANONYMOUS | libc::MAP_LOCKED, -1, 0), libc::EPERM)
    })
}

fn residence() -> Outcome {
    let at = works("mmap", mmap(0, 3 * 4096, READ | WRITE, ANONYMOUS, -1, 0))?;
    same("nothing yet", residence_of(at, 3)?, vec![0, 0, 0])?;
    store(at + 4096, 1);
    same("touched", residence_of(at, 3)?, vec![0, 1, 0])?;
    let mut byte = [0_u8; 3];
    let place = byte.as_mut_ptr() as u64;
    fails("an odd address", call(libc::SYS_mincore, &[at + 1, 4096, place]), libc::EINVAL)?;
    fails("a bad vector", call(libc::SYS_mincore, &[at, 4096, 8]), libc::EFAULT)?;
    works("a hole", unmap(at + 4096, 4096))?;
    fails("over a hole", call(libc::SYS_mincore, &[at, 3 * 4096, place]), libc::ENOMEM)
}

fn sync() -> Outcome {
    let at = works("mmap", mmap(0, 8192, READ | WRITE, ANONYMOUS, -1, 0))?;
    let sync = |len: u64, flags: i32| call(libc::SYS_msync, &[at, len, flags as u64]);
    works("MS_SYNC", sync(8192, libc::MS_SYNC))?;
    works("none", sync(8192, 0))?;
    fails("both", sync(8192, libc::MS_SYNC | libc::MS_ASYNC), libc::EINVAL)?;
    fails("unknown", sync(8192, 8), libc::EINVAL)?;
    works("mlock", call(libc::SYS_mlock, &[at, 4096]))?;
    fails("locked", sync(8192, libc::MS_INVALIDATE), libc::EBUSY)?;
    works("a hole", unmap(at + 4096, 4096))?;
    fails("over a hole", sync(8192, libc::MS_ASYNC), libc::ENOMEM)
}

fn file_pages() -> Outcome {
    let mut content = vec![1; 4096];
    content.extend([2; 4096]);
    let file = file("a", &content)?;
    let at = works("mmap", mmap(0, 8192, READ | WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0))?;
    let remap = |at: u64, len: u64, prot: u64, page: u64| call(libc::SYS_remap_file_pages, &[at, len, prot, page, 0]);
    works("remap_file_pages", remap(at, 4096, 0, 1))?;
    same("the second twice", (load(at), load(at + 4096)), (0x0202_0202, 0x0202_0202))?;
    store(at, 7);
    same("one page", load(at + 4096), 7)?;
    fails("a protection", remap(at, 4096, 1, 0), libc::EINVAL)?;
    let private = works("mmap", mmap(0, 4096, READ, ANONYMOUS, -1, 0))?;
    fails("private memory", remap(private, 4096, 0, 0), libc::EINVAL)
}

fn coherence() -> Outcome {
    let file = file("a", &[1; 8192])?;
    let reader = File::open("a").map_err(text)?;
    let writable = works("mmap", mmap(0, 8192, READ | WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0))?;
    let readable = works("mmap", mmap(0, 8192, READ, libc::MAP_SHARED, reader.as_raw_fd(), 0))?;
    same("content", load(readable), 0x0101_0101)?;
    file.write_all_at(&[2; 4], 0).map_err(text)?;
    same("written, seen", (load(writable), load(readable)), (0x0202_0202, 0x0202_0202))?;
    store(writable + 4096, 0x0303_0303);
    let mut bytes = [0; 4];
    reader.read_exact_at(&mut bytes, 4096).map_err(text)?;
    same("stored, read", bytes, [3; 4])?;
    same("child", fate(|| store(writable, 9))?, 0)?;
    same("stored by a child", load(readable), 9)?;
    // A file of the image that is written after it was mapped.
    let name = "/etc/hosts";
    let hosts = File::open(name).map_err(text)?;
    let at = works("mmap", mmap(0, 4096, READ, libc::MAP_SHARED, hosts.as_raw_fd(), 0))?;
    let before = load(at);
    let Ok(writer) = OpenOptions::new().write(true).open(name) else { return Ok(()) };
    let mut first = [0; 4];
    hosts.read_exact_at(&mut first, 0).map_err(text)?;
    same("as read", before, u32::from_le_bytes(first))?;
    writer.write_all_at(b"####", 0).map_err(text)?;
    let seen = load(at);
    writer.write_all_at(&first, 0).map_err(text)?;
    same("written, seen", seen, u32::from_le_bytes(*b"####"))?;
    same("and back", load(at), before)
}

fn truncated() -> Outcome {
    let file = file("a", &[1; 3 * 4096])?;
    let at = works("mmap", mmap(0, 4 * 4096, READ | WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0))?;
    same("beyond the end", fate(|| _ = load(at + 3 * 4096))?, 256 + libc::SIGBUS)?;
    same("there", load(at + 8192), 0x0101_0101)?;
    file.set_len(4096 + 100).map_err(text)?;
    same("cut off", fate(|| _ = load(at + 8192))?, 256 + libc::SIGBUS)?;
    same("zeros behind the end", load(at + 4096 + 200), 0)?;
    file.set_len(3 * 4096).map_err(text)?;
    same("zeros where it was", load(at + 8192), 0)?;
    // What a private mapping has written goes with the end of the file, but not with a hole in it.
    let at = works("mmap", mmap(0, 3 * 4096, READ | WRITE, libc::MAP_PRIVATE, file.as_raw_fd(), 0))?;
    for page in 0..3 {
        store(at + page * 4096, 0x0505_0505);
    }
    let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    works("a hole", call(libc::SYS_fallocate, &[file.as_raw_fd() as u64, hole as u64, 0, 4096]))?;
    file.set_len(2 * 4096).map_err(text)?;
    same("cut off", fate(|| _ = load(at + 8192))?, 256 + libc::SIGBUS)?;
    file.set_len(3 * 4096).map_err(text)?;
    same("zeros, not what was written", load(at + 8192), 0)?;
    same("its own still", (load(at), load(at + 4096)), (0x0505_0505, 0x0505_0505))?;
    raw::on_signal(libc::SIGBUS, Disposition::Default).map_err(text)
}

fn limits() -> Outcome {
    let big = 64 << 20;
    let status = raw::fork(|| {
        let check = || -> Outcome {
            set_limit(libc::RLIMIT_DATA, 16 << 20)?;
            fails("data", mmap(0, big, READ | WRITE, ANONYMOUS, -1, 0), libc::ENOMEM)?;
            let at = works("read-only", mmap(0, big, READ, ANONYMOUS, -1, 0))?;
            fails("made data", call(libc::SYS_mprotect, &[at, big, READ | WRITE]), libc::ENOMEM)?;
            works("unmap", unmap(at, big))?;
            let shared = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
            let at = works("shared", mmap(0, big, READ | WRITE, shared, -1, 0))?;
            works("unmap", unmap(at, big))?;
            let end = works("brk", call(libc::SYS_brk, &[0]))?;
            same("heap", call(libc::SYS_brk, &[end + big]), Ok(end))?;
            set_limit(libc::RLIMIT_DATA, u64::MAX)?;
            set_limit(libc::RLIMIT_AS, 32 << 20)?;
            fails("address space", mmap(0, big, READ, ANONYMOUS, -1, 0), libc::ENOMEM)?;
            set_limit(libc::RLIMIT_AS, u64::MAX)?;
            works("no limit", mmap(0, big, READ | WRITE, ANONYMOUS, -1, 0)).map(|_| ())
        };
        match check() {
            Ok(()) => 0,
            Err(why) => {
                eprintln!("{why}");
                1
            }
        }
    })
    .map_err(text)?;
    same("status", raw::exit_of(status).map_err(text)?, 0)
}

fn file_size() -> Outcome {
    let file = file("a", b"x")?;
    raw::on_signal(libc::SIGXFSZ, Disposition::Count(0)).map_err(text)?;
    set_limit(libc::RLIMIT_FSIZE, 10)?;
    same("cut", file.write_at(&[0; 20], 4).map_err(text)?, 6)?;
    same("no signal for it", raw::caught(libc::SIGXFSZ), 0)?;
    fails("beyond", file.write_at(&[0; 1], 10), libc::EFBIG)?;
    same("a signal", raw::caught(libc::SIGXFSZ), 1)?;
    fails("longer", file.set_len(11), libc::EFBIG)?;
    same("a signal", raw::caught(libc::SIGXFSZ), 2)?;
    file.set_len(10).map_err(text)?;
    set_limit(libc::RLIMIT_FSIZE, u64::MAX)?;
    file.set_len(11).map_err(text)
}

fn across() -> Outcome {
    let here = Map::anonymous(8192, libc::MAP_PRIVATE).map_err(text)?;
    here.set(0, 1);
    let shared = Map::anonymous(4096, libc::MAP_SHARED).map_err(text)?;
    let child = raw::fork(|| {
        here.set(0, 42);
        here.set(4096, 43);
        shared.set(0, 1);
        while shared.get(0) == 1 {
            std::thread::yield_now();
        }
        i32::from(here.get(1))
    })
    .map_err(text)?;
    while shared.get(0) == 0 {
        std::thread::yield_now();
    }
    let mut bytes = [0_u8; 3];
    let local = [bytes.as_mut_ptr() as u64, 1, bytes.as_mut_ptr() as u64 + 1, 2];
    let remote = [here.addr(), 1, here.addr() + 4096, 1];
    let both = |number: i64, flags: u64| {
        call(number, &[child as u64, local.as_ptr() as u64, 2, remote.as_ptr() as u64, 2, flags])
    };
    same("read", both(libc::SYS_process_vm_readv, 0), Ok(2))?;
    same("bytes", bytes, [42, 43, 0])?;
    fails("flags", both(libc::SYS_process_vm_readv, 1), libc::EINVAL)?;
    bytes = [0, 9, 8];
    let remote = [here.addr(), 2, 8, 10];
    let local = [bytes.as_mut_ptr() as u64, 3];
    let write =
        call(libc::SYS_process_vm_writev, &[child as u64, local.as_ptr() as u64, 1, remote.as_ptr() as u64, 2, 0]);
    same("as far as it goes", write, Ok(2))?;
    let bad = [8_u64, 10];
    let read = |pid: u64| call(libc::SYS_process_vm_readv, &[pid, local.as_ptr() as u64, 1, bad.as_ptr() as u64, 1, 0]);
    fails("nothing there", read(child as u64), libc::EFAULT)?;
    fails("nobody there", read(0x3ff_fff0), libc::ESRCH)?;
    shared.set(0, 2);
    same("what was written", raw::exit_of(child).map_err(text)?, 9)
}

fn policies() -> Outcome {
    let (mut mode, mut nodes) = (9_u32, [0_u64; 16]);
    let places = [&raw mut mode as u64, nodes.as_mut_ptr() as u64];
    works("get_mempolicy", call(libc::SYS_get_mempolicy, &[places[0], places[1], 1024, 0, 0]))?;
    same("default", (mode, nodes[0]), (0, 0))?;
    works("allowed", call(libc::SYS_get_mempolicy, &[0, places[1], 1024, 0, 4]))?;
    that("node 0", nodes[0] & 1 == 1)?;
    let one = [1_u64];
    works("bind", call(libc::SYS_set_mempolicy, &[2, one.as_ptr() as u64, 64]))?;
    works("get_mempolicy", call(libc::SYS_get_mempolicy, &[places[0], places[1], 1024, 0, 0]))?;
    same("bound", (mode, nodes[0]), (2, 1))?;
    fails("to nothing", call(libc::SYS_set_mempolicy, &[2, 0, 0]), libc::EINVAL)?;
    fails("no such policy", call(libc::SYS_set_mempolicy, &[77, 0, 0]), libc::EINVAL)?;
    works("default", call(libc::SYS_set_mempolicy, &[0, 0, 0]))?;
    let at = works("mmap", mmap(0, 8192, READ, ANONYMOUS, -1, 0))?;
    works("mbind", call(libc::SYS_mbind, &[at, 8192, 2, one.as_ptr() as u64, 64, 0]))?;
    fails("a flag", call(libc::SYS_mbind, &[at, 8192, 2, one.as_ptr() as u64, 64, 1 << 20]), libc::EINVAL)?;
    fails("an odd address", call(libc::SYS_mbind, &[at + 1, 4096, 0, 0, 0, 0]), libc::EINVAL)?;
    works("a hole", unmap(at + 4096, 4096))?;
    fails("over a hole", call(libc::SYS_mbind, &[at, 8192, 2, one.as_ptr() as u64, 64, 0]), libc::EFAULT)
}

fn barriers() -> Outcome {
    let barrier = |command: u64, flags: u64| call(libc::SYS_membarrier, &[command, flags, 0]);
    let offered = works("query", barrier(0, 0))?;
    that("the private ones", offered & 24 == 24)?;
    fails("not registered", barrier(8, 0), libc::EPERM)?;
    works("register", barrier(16, 0))?;
    works("barrier", barrier(8, 0))?;
    works("all", barrier(1, 0))?;
    fails("flags", barrier(0, 2), libc::EINVAL)?;
    fails("no such command", barrier(1 << 20, 0), libc::EINVAL)
}

fn keys() -> Outcome {
    fails("flags", call(libc::SYS_pkey_alloc, &[1, 0]), libc::EINVAL)?;
    fails("rights", call(libc::SYS_pkey_alloc, &[0, 8]), libc::EINVAL)?;
    fails("not allocated", call(libc::SYS_pkey_free, &[9]), libc::EINVAL)?;
    let at = works("mmap", mmap(0, 4096, READ, ANONYMOUS, -1, 0))?;
    works("no key", call(libc::SYS_pkey_mprotect, &[at, 4096, READ | WRITE, u64::MAX]))?;
    store(at, 1);
    fails("not allocated", call(libc::SYS_pkey_mprotect, &[at, 4096, READ, 9]), libc::EINVAL)
}

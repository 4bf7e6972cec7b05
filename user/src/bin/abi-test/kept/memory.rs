//! Memory: shared frames stay shared, copies stay apart, waiters on words go on to wait.
use super::{Case, Gate, Other};
use crate::{
    Outcome,
    check::{call, fails, same, text, that, works},
    epoll::owned,
};
use shimos_user::raw::{self, Map};
use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::{fd::AsRawFd, unix::fs::FileExt},
    sync::atomic::Ordering::SeqCst,
};

pub const CASES: &[Case] = &[
    ("memory/shared-between-processes", shared),
    ("memory/copies-after-fork", copies),
    ("memory/mapped-file", mapped_file),
    ("memory/memfd-with-seals", memfd),
    ("memory/protection", protection),
    ("memory/futex-waiters", futex),
    ("memory/futex-with-an-owner", owner),
];

fn shared(gate: &mut Gate) -> Outcome {
    let map = Map::anonymous(8192, libc::MAP_SHARED).map_err(text)?;
    map.set(0, 1);
    let child = Other::new(|next| {
        map.set(4096, 2);
        next();
        same("seen by the child", map.get(1), 3)?;
        map.set(4097, 4);
        Ok(())
    })?;
    gate.deaths()?;
    map.set(1, 3);
    child.end()?;
    same("seen by the parent", (map.get(0), map.get(4096), map.get(4097)), (1, 2, 4))
}

fn copies(gate: &mut Gate) -> Outcome {
    const PAGES: usize = 64;
    let map = Map::anonymous(PAGES * 4096, libc::MAP_PRIVATE).map_err(text)?;
    (0..PAGES).for_each(|page| map.set(page * 4096, page as u8));
    let child = Other::new(|next| {
        (0..PAGES).step_by(2).for_each(|page| map.set(page * 4096, 100));
        next();
        let right = |page: usize| map.get(page * 4096) == if page.is_multiple_of(2) { 100 } else { page as u8 };
        that("the child's", (0..PAGES).all(right))
    })?;
    gate.deaths()?;
    that("before the write", (0..PAGES).all(|page| map.get(page * 4096) == page as u8))?;
    (0..PAGES).for_each(|page| map.set(page * 4096, 200));
    child.end()?;
    that("the parent's", (0..PAGES).all(|page| map.get(page * 4096) == 200))
}

fn mapped_file(gate: &mut Gate) -> Outcome {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open("f").map_err(text)?;
    file.set_len(8192).map_err(text)?;
    let both = libc::PROT_READ | libc::PROT_WRITE;
    let map = Map::new(8192, both, libc::MAP_SHARED, file.as_raw_fd(), 0).map_err(text)?;
    let private = Map::new(8192, both, libc::MAP_PRIVATE, file.as_raw_fd(), 0).map_err(text)?;
    map.set(0, 1);
    private.set(4096, 9);
    gate.deaths()?;
    map.set(1, 2);
    file.write_at(b"\x03", 2).map_err(text)?;
    let mut bytes = [0; 3];
    File::open("f").map_err(text)?.read_exact(&mut bytes).map_err(text)?;
    same("in the file", bytes, [1, 2, 3])?;
    same("in the mapping", map.get(2), 3)?;
    same("private", (private.get(2), private.get(4096), map.get(4096)), (3, 9, 0))
}

fn memfd(gate: &mut Gate) -> Outcome {
    let name = c"kept";
    let fd = owned("memfd", call(libc::SYS_memfd_create, &[name.as_ptr() as u64, libc::MFD_ALLOW_SEALING as u64]))?;
    let file = File::from(fd);
    file.write_all_at(b"sealed", 0).map_err(text)?;
    let seals = (libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK) as u64;
    let at = file.as_raw_fd() as u64;
    works("seal", call(libc::SYS_fcntl, &[at, libc::F_ADD_SEALS as u64, seals]))?;
    gate.deaths()?;
    same("seals", call(libc::SYS_fcntl, &[at, libc::F_GET_SEALS as u64]), Ok(seals))?;
    fails("write", file.write_at(b"x", 0), libc::EPERM)?;
    let mut bytes = [0; 6];
    file.read_exact_at(&mut bytes, 0).map_err(text)?;
    same("content", &bytes, b"sealed")
}

fn protection(gate: &mut Gate) -> Outcome {
    let map = Map::anonymous(3 * 4096, libc::MAP_PRIVATE).map_err(text)?;
    map.set(0, 5);
    map.protect(libc::PROT_READ).map_err(text)?;
    gate.deaths()?;
    same("content", map.get(0), 5)?;
    let child = raw::fork(|| {
        map.set(1, 1);
        0
    })
    .map_err(text)?;
    same("written", works("wait", raw::exit_of(child))?, 256 + libc::SIGSEGV)?;
    map.protect(libc::PROT_READ | libc::PROT_WRITE).map_err(text)?;
    map.set(1, 6);
    same("content", (map.get(0), map.get(1), map.get(8192)), (5, 6, 0))
}

fn word_call(at: u64, operation: i32, value: u64) -> raw::Answer {
    call(libc::SYS_futex, &[at, operation as u64, value, 0])
}

/// Each waiter is woken once.
fn futex(gate: &mut Gate) -> Outcome {
    let map = Map::anonymous(4096, libc::MAP_SHARED).map_err(text)?;
    let at = map.addr();
    let children: Result<Vec<Other>, String> = (0..3)
        .map(|_| {
            Other::new(|next| {
                works("wait", word_call(at, libc::FUTEX_WAIT, 0))?;
                raw::word(at + 8).fetch_add(1, SeqCst);
                next();
                Ok(())
            })
        })
        .collect();
    gate.deaths()?;
    same("woken in between", raw::word(at + 8).load(SeqCst), 0)?;
    let mut woken = 0;
    while woken < 3 {
        // One that did not wait yet does so soon.
        woken += works("wake", word_call(at, libc::FUTEX_WAKE, 1))?;
        works("yield", call(libc::SYS_sched_yield, &[]))?;
    }
    children?.into_iter().try_for_each(Other::end)?;
    same("woken", raw::word(at + 8).load(SeqCst), 3)
}

/// A lock with an owner goes on to the one that waits when its owner lets it go, after the deaths.
fn owner(gate: &mut Gate) -> Outcome {
    let map = Map::anonymous(4096, libc::MAP_SHARED).map_err(text)?;
    let at = map.addr();
    works("lock", word_call(at, libc::FUTEX_LOCK_PI, 0))?;
    let waiter = Other::new(|next| {
        works("wait", word_call(at, libc::FUTEX_LOCK_PI, 0))?;
        raw::word(at + 8).store(1, SeqCst);
        next();
        works("unlock", word_call(at, libc::FUTEX_UNLOCK_PI, 0)).map(drop)
    })?;
    // Until the kernel has noted that somebody waits.
    while raw::word(at).load(SeqCst) & libc::FUTEX_WAITERS == 0 {
        works("yield", call(libc::SYS_sched_yield, &[]))?;
    }
    gate.deaths()?;
    same("owner", raw::word(at).load(SeqCst), std::process::id() | libc::FUTEX_WAITERS)?;
    same("granted in between", raw::word(at + 8).load(SeqCst), 0)?;
    works("unlock", word_call(at, libc::FUTEX_UNLOCK_PI, 0))?;
    waiter.end()?;
    same("granted", raw::word(at + 8).load(SeqCst), 1)
}

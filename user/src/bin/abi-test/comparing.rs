//! kcmp(2): whether two processes share something; and which children a thread waits for.
use crate::{
    Outcome, Subtest,
    check::{fails, same, that, works},
};
use rustix::event::epoll;
use shimos_user::raw::{self, Answer};
use std::os::fd::AsRawFd;

/// The subtests.
pub const TESTS: &[Subtest] =
    &[("compare/files", files), ("compare/parts", parts), ("compare/watched", watched), ("compare/refused", refused)];

const FILE: u64 = 0;
const VM: u64 = 1;
const FILES: u64 = 2;
const FS: u64 = 3;
const SIGHAND: u64 = 4;
const SYSVSEM: u64 = 6;
const EPOLL_TARGET: u64 = 7;

fn text(error: std::io::Error) -> String {
    error.to_string()
}

fn own() -> u64 {
    std::process::id().into()
}

fn kcmp(other: u64, kind: u64, one: u64, two: u64) -> Answer {
    raw::call(libc::SYS_kcmp, [own(), other, kind, one, two, 0])
}

fn fd(file: &impl AsRawFd) -> u64 {
    file.as_raw_fd() as u64
}

/// A child made by clone(2) with some flags, that waits to be killed.
fn child(flags: u64) -> Result<u64, String> {
    let pid = works("clone", raw::call(libc::SYS_clone, [flags | libc::SIGCHLD as u64, 0, 0, 0, 0, 0]))?;
    if pid == 0 {
        loop {
            let _ = raw::call(libc::SYS_pause, [0; 6]);
        }
    }
    Ok(pid)
}

fn end(pid: u64) -> Outcome {
    raw::kill(pid as i32, libc::SIGKILL).map_err(text)?;
    raw::wait(pid as i32, 0).map(drop).map_err(text)
}

fn files() -> Outcome {
    let file = std::fs::File::create("file").map_err(text)?;
    let copy = file.try_clone().map_err(text)?;
    let again = std::fs::File::open("file").map_err(text)?;
    same("a copy", kcmp(own(), FILE, fd(&file), fd(&copy)), Ok(0))?;
    let one = works("another", kcmp(own(), FILE, fd(&file), fd(&again)))?;
    let two = works("the other way", kcmp(own(), FILE, fd(&again), fd(&file)))?;
    that("an order", [(1, 2), (2, 1)].contains(&(one, two)))?;
    let child = child(0)?;
    same("inherited", kcmp(child, FILE, fd(&file), fd(&copy)), Ok(0))?;
    that("not the same", works("another", kcmp(child, FILE, fd(&file), fd(&again)))? != 0)?;
    end(child)
}

fn parts() -> Outcome {
    let copy = child(0)?;
    for kind in [VM, FILES, FS, SIGHAND] {
        same("with itself", kcmp(own(), kind, 0, 0), Ok(0))?;
        that("of a copy", works("kcmp", kcmp(copy, kind, 0, 0))? != 0)?;
    }
    same("no semaphores", kcmp(copy, SYSVSEM, 0, 0), Ok(0))?;
    end(copy)?;
    for (flag, kind) in [(libc::CLONE_FILES, FILES), (libc::CLONE_FS, FS)] {
        let sharer = child(flag as u64)?;
        same("shared", kcmp(sharer, kind, 0, 0), Ok(0))?;
        that("the memory is not", works("kcmp", kcmp(sharer, VM, 0, 0))? != 0)?;
        end(sharer)?;
    }
    Ok(())
}

fn watched() -> Outcome {
    let (reader, _writer) = std::io::pipe().map_err(text)?;
    let other = reader.try_clone().map_err(text)?;
    let set = works("epoll", epoll::create(epoll::CreateFlags::empty()))?;
    works("add", epoll::add(&set, &reader, epoll::EventData::new_u64(0), epoll::EventFlags::IN))?;
    let slot = |number: u64, at: u32| [fd(&set) as u32, number as u32, at];
    let ask = |slot: &[u32; 3], file: u64| kcmp(own(), EPOLL_TARGET, file, slot.as_ptr() as u64);
    same("watched", ask(&slot(fd(&reader), 0), fd(&reader)), Ok(0))?;
    same("by its copy", ask(&slot(fd(&reader), 0), fd(&other)), Ok(0))?;
    that("another", works("kcmp", ask(&slot(fd(&reader), 0), 0))? != 0)?;
    fails("not added", ask(&slot(fd(&other), 0), fd(&reader)), libc::ENOENT)?;
    fails("only once", ask(&slot(fd(&reader), 1), fd(&reader)), libc::ENOENT)
}

fn refused() -> Outcome {
    fails("kind", kcmp(own(), 8, 0, 0), libc::EINVAL)?;
    fails("no descriptor", kcmp(own(), FILE, 0, 999), libc::EBADF)?;
    let child = child(0)?;
    end(child)?;
    fails("nobody", kcmp(child, VM, 0, 0), libc::ESRCH)?;
    fails("no set", kcmp(own(), EPOLL_TARGET, 0, [1_u32, 0, 0].as_ptr() as u64), libc::EINVAL)?;
    fails("no slot", kcmp(own(), EPOLL_TARGET, 0, 8), libc::EFAULT)
}

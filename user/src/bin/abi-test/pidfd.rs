//! Descriptors of processes.
use crate::{
    Outcome, Subtest,
    check::{fails, same, text, that, works},
    epoll::owned,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shimos_user::raw::{self, Answer, Disposition};
use std::os::fd::{AsRawFd, OwnedFd};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("pidfd/polls", polls),
    ("pidfd/signals", signals),
    ("pidfd/waits", waits),
    ("pidfd/clone", clone),
    ("pidfd/getfd", getfd),
    ("pidfd/bad-arguments", bad_arguments),
];

fn open(pid: i32, flags: u64) -> Answer {
    raw::call(libc::SYS_pidfd_open, [pid as u64, flags, 0, 0, 0, 0])
}

fn send(fd: &OwnedFd, signal: i32) -> Answer {
    raw::call(libc::SYS_pidfd_send_signal, [fd.as_raw_fd() as u64, signal as u64, 0, 0, 0, 0])
}

fn ready(fd: &OwnedFd, millis: i64) -> Result<PollFlags, String> {
    let time = Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    works("poll", poll(&mut fds, Some(&time)))?;
    Ok(fds[0].revents())
}

/// A child that waits to be killed.
fn child() -> Result<i32, String> {
    raw::fork(|| {
        loop {
            let _ = raw::call(libc::SYS_pause, [0; 6]);
        }
    })
    .map_err(text)
}

/// Waits by descriptor: pid and status.
fn wait(fd: &OwnedFd, options: i32) -> Result<(i32, i32), i32> {
    let mut info = [0_i32; 32];
    let arguments = [3, fd.as_raw_fd() as u64, info.as_mut_ptr() as u64, options as u64, 0, 0];
    raw::call(libc::SYS_waitid, arguments).map(|_| (info[4], info[6]))
}

fn polls() -> Outcome {
    let pid = child()?;
    let fd = owned("pidfd_open", open(pid, 0))?;
    same("alive", ready(&fd, 0)?, PollFlags::empty())?;
    raw::kill(pid, libc::SIGKILL).map_err(text)?;
    same("ended", ready(&fd, 20_000)?, PollFlags::IN)?;
    same("not waited for", works("waitid", wait(&fd, libc::WEXITED))?, (pid, libc::SIGKILL))?;
    that("still ended", ready(&fd, 0)?.contains(PollFlags::IN))?;
    fails("gone", send(&fd, 0), libc::ESRCH)?;
    fails("gone", open(pid, 0), libc::ESRCH)?;
    let flags = raw::call(libc::SYS_fcntl, [fd.as_raw_fd() as u64, libc::F_GETFD as u64, 0, 0, 0, 0]);
    same("closed on execution", flags, Ok(1))
}

fn signals() -> Outcome {
    raw::on_signal(libc::SIGUSR1, Disposition::Count(0)).map_err(text)?;
    let own = std::process::id() as i32;
    let fd = owned("pidfd_open", open(own, 0))?;
    works("nothing", send(&fd, 0))?;
    works("itself", send(&fd, libc::SIGUSR1))?;
    same("caught", raw::caught(libc::SIGUSR1), 1)?;
    same("who and how", raw::last_info(), (own, 0))?;
    fails("a signal", send(&fd, 65), libc::EINVAL)?;
    let arguments = [fd.as_raw_fd() as u64, 0, 0, 0x100, 0, 0];
    fails("flags", raw::call(libc::SYS_pidfd_send_signal, arguments), libc::EINVAL)?;
    fails("no such descriptor", raw::call(libc::SYS_pidfd_send_signal, [0, 0, 0, 0, 0, 0]), libc::EBADF)?;
    let directory = |path: String| std::fs::File::open(path).map(OwnedFd::from).map_err(text);
    let child = child()?;
    let its = directory(format!("/proc/{child}"))?;
    works("a directory of /proc", send(&its, libc::SIGTERM))?;
    let fd = owned("pidfd_open", open(child, 0))?;
    same("ended", wait(&fd, libc::WEXITED), Ok((child, libc::SIGTERM)))?;
    fails("a directory of who was", send(&its, 0), libc::ESRCH)?;
    fails("a thread's directory", send(&directory(format!("/proc/{own}/task/{own}"))?, 0), libc::EBADF)?;
    fails("another directory", send(&directory("/".to_string())?, 0), libc::EBADF)
}

fn waits() -> Outcome {
    let pid = child()?;
    let fd = owned("pidfd_open", open(pid, libc::O_NONBLOCK as u64))?;
    fails("would wait", wait(&fd, libc::WEXITED), libc::EAGAIN)?;
    same("nothing yet", wait(&fd, libc::WEXITED | libc::WNOHANG), Ok((0, 0)))?;
    works("kill", send(&fd, libc::SIGTERM))?;
    same("ended", ready(&fd, 20_000)?, PollFlags::IN)?;
    same("how", wait(&fd, libc::WEXITED), Ok((pid, libc::SIGTERM)))?;
    fails("once", wait(&fd, libc::WEXITED), libc::ECHILD)?;
    let own = owned("pidfd_open", open(std::process::id() as i32, 0))?;
    fails("no child", wait(&own, libc::WEXITED), libc::ECHILD)?;
    let (reader, _writer) = std::io::pipe().map_err(text)?;
    fails("a pipe", wait(&OwnedFd::from(reader), libc::WEXITED), libc::EBADF)
}

fn clone() -> Outcome {
    const CLONE_PIDFD: u64 = 0x1000;
    const CLONE_THREAD: u64 = 0x1_0000;
    let mut fd = u32::MAX;
    let flags = CLONE_PIDFD | libc::SIGCHLD as u64;
    let made = works("clone", raw::call(libc::SYS_clone, [flags, 0, &raw mut fd as u64, 0, 0, 0]))?;
    if made == 0 {
        // The child has no descriptor of itself.
        let none = raw::call(libc::SYS_fcntl, [u64::from(fd), libc::F_GETFD as u64, 0, 0, 0, 0]);
        std::process::exit(if none == Err(libc::EBADF) { 7 } else { 8 });
    }
    let fd = owned("the descriptor", Ok(fd.into()))?;
    same("the child", wait(&fd, libc::WEXITED), Ok((made as i32, 7)))?;
    let mut other = u32::MAX;
    let mut words = [0_u64; 11];
    words[0] = CLONE_PIDFD;
    words[1] = &raw mut other as u64;
    words[4] = libc::SIGCHLD as u64;
    let made = works("clone3", raw::call(libc::SYS_clone3, [words.as_ptr() as u64, 64, 0, 0, 0, 0]))?;
    if made == 0 {
        std::process::exit(9);
    }
    let fd = owned("the descriptor", Ok(other.into()))?;
    same("the child", wait(&fd, libc::WEXITED), Ok((made as i32, 9)))?;
    words[0] = CLONE_PIDFD | CLONE_THREAD;
    words[4] = 0;
    fails("a thread", raw::call(libc::SYS_clone3, [words.as_ptr() as u64, 64, 0, 0, 0, 0]), libc::EINVAL)
}

fn getfd() -> Outcome {
    let (reader, _writer) = std::io::pipe().map_err(text)?;
    let number = reader.as_raw_fd() as u64;
    let pid = child()?;
    let fd = owned("pidfd_open", open(pid, 0))?;
    let get =
        |number: u64, flags: u64| raw::call(libc::SYS_pidfd_getfd, [fd.as_raw_fd() as u64, number, flags, 0, 0, 0]);
    let copy = owned("pidfd_getfd", get(number, 0))?;
    let name = |fd: i32| std::fs::read_link(format!("/proc/self/fd/{fd}")).map_err(text);
    same("the same pipe", name(copy.as_raw_fd())?, name(reader.as_raw_fd())?)?;
    fails("no such", get(999, 0), libc::EBADF)?;
    fails("flags", get(number, 1), libc::EINVAL)?;
    works("kill", send(&fd, libc::SIGKILL))?;
    same("ended", wait(&fd, libc::WEXITED), Ok((pid, libc::SIGKILL)))?;
    fails("gone", get(number, 0), libc::ESRCH)
}

fn bad_arguments() -> Outcome {
    fails("none", open(0, 0), libc::EINVAL)?;
    fails("negative", open(-1, 0), libc::EINVAL)?;
    fails("flags", open(1, 1), libc::EINVAL)?;
    fails("nobody", open(i32::MAX, 0), libc::ESRCH)?;
    let fd = owned("pidfd_open", open(std::process::id() as i32, 0))?;
    let mut byte = [0_u8; 8];
    let arguments = [fd.as_raw_fd() as u64, byte.as_mut_ptr() as u64, 8, 0, 0, 0];
    fails("reading", raw::call(libc::SYS_read, arguments), libc::EINVAL)
}

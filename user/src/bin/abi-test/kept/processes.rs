//! Processes: children that have ended or stand still, job control, and what a process is set to.
use super::{Case, Gate, Other};
use crate::{
    Outcome,
    check::{call, fails, same, text, that, works},
    epoll::owned,
    privileges::is_root,
    ttys::{self, change, give, number, put, take},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shimos_user::raw::{self, Disposition};
use std::fs;

pub const CASES: &[Case] = &[
    ("processes/zombie", zombie),
    ("processes/stopped-and-not-told", stopped),
    ("processes/stopped-and-told", told),
    ("processes/parent-that-waits", waits),
    ("processes/pidfd", pidfd),
    ("processes/terminal-and-foreground", terminal),
    ("processes/credentials", credentials),
    ("processes/settings", settings),
    ("processes/signal-actions", actions),
    ("processes/directory-that-is-gone", directory),
    ("processes/sleep-with-a-deadline", sleep),
];

fn pause() -> Result<i32, String> {
    raw::fork(|| {
        loop {
            let _ = call(libc::SYS_pause, &[]);
        }
    })
    .map_err(text)
}

fn zombie(gate: &mut Gate) -> Outcome {
    let child = raw::fork(|| 7).map_err(text)?;
    // It has ended, and its status stays there.
    let look = [1, child as u64, 0, (libc::WEXITED | libc::WNOWAIT) as u64, 0];
    works("waitid", call(libc::SYS_waitid, &look))?;
    gate.deaths()?;
    same("status", works("wait", raw::exit_of(child))?, 7)?;
    fails("once", raw::wait(child, 0), libc::ECHILD)
}

/// The letter of its state.
fn state(pid: i32) -> Result<String, String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(text)?;
    Ok(stat.rsplit(')').next().unwrap_or_default().split_whitespace().next().unwrap_or_default().to_string())
}

fn end(child: i32) -> Outcome {
    raw::kill(child, libc::SIGKILL).map_err(text)?;
    same("status", works("wait", raw::wait(child, 0))?, (child, libc::SIGKILL))
}

fn stopped(gate: &mut Gate) -> Outcome {
    let child = pause()?;
    raw::kill(child, libc::SIGSTOP).map_err(text)?;
    gate.deaths()?;
    let (pid, status) = works("wait", raw::wait(child, libc::WUNTRACED))?;
    that("told", pid == child && libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGSTOP)?;
    same("told once", works("wait", raw::wait(child, libc::WUNTRACED | libc::WNOHANG))?, (0, 0))?;
    end(child)
}

fn told(gate: &mut Gate) -> Outcome {
    let child = pause()?;
    raw::kill(child, libc::SIGSTOP).map_err(text)?;
    works("wait", raw::wait(child, libc::WUNTRACED))?;
    gate.deaths()?;
    same("told once", works("wait", raw::wait(child, libc::WUNTRACED | libc::WNOHANG))?, (0, 0))?;
    same("state", state(child)?.as_str(), "T")?;
    raw::kill(child, libc::SIGCONT).map_err(text)?;
    let (_, status) = works("wait", raw::wait(child, libc::WCONTINUED))?;
    that("goes on", libc::WIFCONTINUED(status))?;
    end(child)
}

fn waits(gate: &mut Gate) -> Outcome {
    let (mut hear, mut tell) = std::io::pipe().map_err(text)?;
    let parent = Other::new(|next| {
        let mut child = Other::new(|next| {
            next();
            Ok(())
        })?;
        std::io::Write::write_all(&mut tell, &child.pid.to_le_bytes()).map_err(text)?;
        // The outer process ends the child by a signal.
        let status = works("wait", raw::wait(child.pid, 0))?;
        same("how it ended", status, (child.pid, libc::SIGTERM))?;
        let _ = child.go_on();
        next();
        Ok(())
    })?;
    let mut pid = [0; 4];
    std::io::Read::read_exact(&mut hear, &mut pid).map_err(text)?;
    gate.deaths()?;
    raw::kill(i32::from_le_bytes(pid), libc::SIGTERM).map_err(text)?;
    parent.end()
}

fn pidfd(gate: &mut Gate) -> Outcome {
    let child = pause()?;
    let fd = owned("pidfd_open", call(libc::SYS_pidfd_open, &[child as u64, 0]))?;
    let ready = |seconds: i64| {
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        works("poll", poll(&mut fds, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })))?;
        Ok::<_, String>(fds[0].revents())
    };
    gate.deaths()?;
    same("alive", ready(0)?, PollFlags::empty())?;
    works("signal", call(libc::SYS_pidfd_send_signal, &[std::os::fd::AsRawFd::as_raw_fd(&fd) as u64, 15, 0, 0]))?;
    same("ended", ready(10)?, PollFlags::IN)?;
    same("status", works("wait", raw::wait(child, 0))?, (child, libc::SIGTERM))
}

fn terminal(gate: &mut Gate) -> Outcome {
    let pair = ttys::pair()?;
    works("setsid", call(libc::SYS_setsid, &[]))?;
    works("TIOCSCTTY", ttys::ioctl(&pair.slave, libc::TIOCSCTTY, 0))?;
    let size = [31_u16, 77, 0, 0];
    works("TIOCSWINSZ", ttys::ioctl(&pair.master, libc::TIOCSWINSZ, size.as_ptr() as u64))?;
    change(&pair.slave, |settings| settings.local &= !libc::ECHO)?;
    let before = works("TCGETS", ttys::get(&pair.slave))?;
    let job = pause()?;
    works("setpgid", call(libc::SYS_setpgid, &[job as u64, job as u64]))?;
    raw::on_signal(libc::SIGTTOU, Disposition::Ignore).map_err(text)?;
    works("tcsetpgrp", give(&pair.slave, libc::TIOCSPGRP, job))?;
    put(&pair.master, b"a line\nhalf a li")?;
    gate.deaths()?;
    same("settings", works("TCGETS", ttys::get(&pair.slave))?, before)?;
    let mut seen = [0_u16; 4];
    works("TIOCGWINSZ", ttys::ioctl(&pair.slave, libc::TIOCGWINSZ, seen.as_mut_ptr() as u64))?;
    same("size", std::hint::black_box(seen), size)?;
    same("foreground", works("tcgetpgrp", number(&pair.slave, libc::TIOCGPGRP))?, job)?;
    same("session", works("getsid", call(libc::SYS_getsid, &[job as u64]))?, u64::from(std::process::id()))?;
    put(&pair.master, b"ne\n")?;
    works("tcsetpgrp", give(&pair.slave, libc::TIOCSPGRP, std::process::id() as i32))?;
    same("lines", take(&pair.slave, 19)?.as_str(), "a line\nhalf a line\n")?;
    works("tcsetpgrp", give(&pair.slave, libc::TIOCSPGRP, job))?;
    put(&pair.master, b"\x03")?;
    same("interrupted", works("wait", raw::wait(job, 0))?, (job, libc::SIGINT))?;
    // The end of the pair's master is not to end us.
    raw::on_signal(libc::SIGHUP, Disposition::Ignore).map_err(text)
}

fn credentials(gate: &mut Gate) -> Outcome {
    if is_root() {
        let groups = [11_u32, 12];
        works("setgroups", call(libc::SYS_setgroups, &[2, groups.as_ptr() as u64]))?;
        works("setresgid", call(libc::SYS_setresgid, &[5, 6, 7]))?;
        works("setresuid", call(libc::SYS_setresuid, &[8, 9, 10]))?;
    }
    let all = || {
        let status = fs::read_to_string("/proc/self/status").map_err(text)?;
        let kept = ["Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:"];
        let lines = status.lines().filter(|line| kept.iter().any(|name| line.starts_with(name)));
        Ok::<_, String>(lines.map(str::to_string).collect::<Vec<_>>())
    };
    let before = all()?;
    gate.deaths()?;
    same("credentials", all()?, before)
}

fn settings(gate: &mut Gate) -> Outcome {
    const NOFILE: u64 = libc::RLIMIT_NOFILE as u64;
    let prctl = |option: i32, value: u64| call(libc::SYS_prctl, &[option as u64, value, 0, 0, 0]);
    let limit = [100_u64, 200];
    works("prlimit", call(libc::SYS_prlimit64, &[0, NOFILE, limit.as_ptr() as u64, 0]))?;
    works("umask", call(libc::SYS_umask, &[0o027]))?;
    works("nice", call(libc::SYS_setpriority, &[0, 0, 5]))?;
    let name = c"kept-name";
    works("name", prctl(libc::PR_SET_NAME, name.as_ptr() as u64))?;
    works("death signal", prctl(libc::PR_SET_PDEATHSIG, 12))?;
    works("subreaper", prctl(libc::PR_SET_CHILD_SUBREAPER, 1))?;
    works("no new privileges", prctl(libc::PR_SET_NO_NEW_PRIVS, 1))?;
    works("slack", prctl(libc::PR_SET_TIMERSLACK, 70_000))?;
    let head = [0_u64; 3];
    works("robust list", call(libc::SYS_set_robust_list, &[head.as_ptr() as u64, 24]))?;
    let stack = raw::Map::anonymous(65536, libc::MAP_PRIVATE).map_err(text)?;
    let alternative = [stack.addr(), 0, 65536];
    works("sigaltstack", call(libc::SYS_sigaltstack, &[alternative.as_ptr() as u64, 0]))?;
    gate.deaths()?;
    let mut now = [0_u64; 2];
    works("prlimit", call(libc::SYS_prlimit64, &[0, NOFILE, 0, now.as_mut_ptr() as u64]))?;
    same("limit", std::hint::black_box(now), limit)?;
    same("umask", call(libc::SYS_umask, &[0]), Ok(0o027))?;
    same("nice", call(libc::SYS_getpriority, &[0, 0]), Ok(15))?;
    same("name", fs::read_to_string("/proc/self/comm").map_err(text)?.trim_end(), "kept-name")?;
    let mut signal = 0_u32;
    works("death signal", prctl(libc::PR_GET_PDEATHSIG, &raw mut signal as u64))?;
    same("death signal", std::hint::black_box(signal), 12)?;
    let mut reaper = 0_u32;
    works("subreaper", prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut reaper as u64))?;
    same("subreaper", std::hint::black_box(reaper), 1)?;
    same("no new privileges", prctl(libc::PR_GET_NO_NEW_PRIVS, 0), Ok(1))?;
    same("slack", prctl(libc::PR_GET_TIMERSLACK, 0), Ok(70_000))?;
    let mut list = [0_u64; 2];
    let places = [&raw mut list[0] as u64, &raw mut list[1] as u64];
    works("robust list", call(libc::SYS_get_robust_list, &[0, places[0], places[1]]))?;
    same("robust list", std::hint::black_box(list), [head.as_ptr() as u64, 24])?;
    let mut seen = [0_u64; 3];
    works("sigaltstack", call(libc::SYS_sigaltstack, &[0, seen.as_mut_ptr() as u64]))?;
    same("alternative stack", std::hint::black_box(seen), alternative)
}

fn actions(gate: &mut Gate) -> Outcome {
    raw::on_signal(libc::SIGUSR2, Disposition::Count(0)).map_err(text)?;
    raw::on_signal(libc::SIGHUP, Disposition::Ignore).map_err(text)?;
    let blocked = 1_u64 << (libc::SIGTERM - 1);
    works("block", raw::mask(libc::SIG_BLOCK, blocked))?;
    raw::kill(std::process::id() as i32, libc::SIGTERM).map_err(text)?;
    let own = std::process::id() as i32;
    let before = works("mask", raw::mask(libc::SIG_BLOCK, 0))?;
    gate.deaths()?;
    same("mask", works("mask", raw::mask(libc::SIG_BLOCK, 0))?, before)?;
    let mut pending = 0_u64;
    works("pending", call(libc::SYS_rt_sigpending, &[&raw mut pending as u64, 8]))?;
    same("pending", std::hint::black_box(pending), blocked)?;
    raw::kill(own, libc::SIGHUP).map_err(text)?;
    raw::kill(own, libc::SIGUSR2).map_err(text)?;
    same("caught", raw::caught(libc::SIGUSR2), 1)
}

fn directory(gate: &mut Gate) -> Outcome {
    fs::create_dir("d").map_err(text)?;
    std::env::set_current_dir("d").map_err(text)?;
    let kept = fs::File::open("../d").map_err(text)?;
    fs::remove_dir("../d").map_err(text)?;
    gate.deaths()?;
    fails("no path", std::env::current_dir(), libc::ENOENT)?;
    fails("nothing is made there", fs::write("f", ""), libc::ENOENT)?;
    let links = std::os::unix::fs::MetadataExt::nlink(&kept.metadata().map_err(text)?);
    same("links", links, 0)?;
    std::env::set_current_dir("..").map_err(text)
}

/// An absolute deadline stays where it is: who slept through the deaths wakes at once.
fn sleep(gate: &mut Gate) -> Outcome {
    const MONOTONIC: u64 = 1;
    let now = || {
        let mut time = [0_u64; 2];
        works("clock", call(libc::SYS_clock_gettime, &[MONOTONIC, time.as_mut_ptr() as u64]))?;
        Ok::<_, String>(std::hint::black_box(time))
    };
    let begun = now()?;
    let child = Other::new(|next| {
        let time = [2_u64, 0];
        works("sleep", call(libc::SYS_clock_nanosleep, &[MONOTONIC, 0, time.as_ptr() as u64, 0]))?;
        let [seconds, nanos] = now()?;
        that("too short", (seconds, nanos) >= (begun[0] + 2, begun[1]))?;
        next();
        Ok(())
    })?;
    gate.deaths()?;
    child.end()
}

//! A program that lives on events alone and counts its rounds: to be watched while kernels die under it.
//!
//! A round is over when a timer's descriptor, a counter that another process answers, and a timer's signal have each come
//! through one epoll set, all of them by edge. A wake that is lost stops it for ever; a time that is counted twice is told.
use crate::{
    check::works,
    epoll::{self, owned},
};
use shimos_user::raw::{self, Answer};
use std::{
    io::Write,
    os::fd::{AsRawFd, OwnedFd},
    process::ExitCode,
    time::{Duration, Instant},
};

const TICK: Duration = Duration::from_millis(7);
const BEAT: Duration = Duration::from_millis(11);
const SIGNAL: i32 = 40;

fn read(fd: &OwnedFd) -> Answer {
    let mut word = 0_u64;
    raw::call(libc::SYS_read, [fd.as_raw_fd() as u64, &raw mut word as u64, 8, 0, 0, 0]).map(|_| word)
}

fn write(fd: &OwnedFd, word: u64) -> Answer {
    raw::call(libc::SYS_write, [fd.as_raw_fd() as u64, &raw const word as u64, 8, 0, 0, 0])
}

fn every(time: Duration) -> [u64; 4] {
    let nanos = time.as_nanos() as u64;
    [0, nanos, 0, nanos]
}

/// Runs for ever; prints the number of each round.
pub fn run() -> ExitCode {
    match rounds() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("wrong: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The timer whose signal is read from the second descriptor.
fn beat() -> Result<(u32, OwnedFd), String> {
    let set = 1_u64 << (SIGNAL - 1);
    works("block", raw::mask(libc::SIG_BLOCK, set))?;
    let flags = libc::SFD_NONBLOCK as u64;
    let signals = raw::call(libc::SYS_signalfd4, [u64::MAX, &raw const set as u64, 8, flags, 0, 0]);
    let signals = owned("signalfd4", signals)?;
    let mut event = [0_u64; 8];
    event[1] = SIGNAL as u64;
    let mut id = 0_u32;
    works("create", raw::call(libc::SYS_timer_create, [1, event.as_ptr() as u64, &raw mut id as u64, 0, 0, 0]))?;
    works("set", raw::call(libc::SYS_timer_settime, [id.into(), 0, every(BEAT).as_ptr() as u64, 0, 0, 0]))?;
    Ok((id, signals))
}

fn rounds() -> Result<(), String> {
    let flags = libc::EFD_NONBLOCK as u64;
    let there = owned("eventfd", raw::call(libc::SYS_eventfd2, [0, 0, 0, 0, 0, 0]))?;
    let back = owned("eventfd", raw::call(libc::SYS_eventfd2, [0, flags, 0, 0, 0, 0]))?;
    let child = || loop {
        // Waits in a read, and answers with one more.
        match read(&there).and_then(|word| write(&back, word + 1)) {
            Ok(_) => {}
            Err(_) => return 1,
        }
    };
    raw::fork(child).map_err(|error| error.to_string())?;
    let begun = Instant::now();
    let ticks = owned("timerfd", raw::call(libc::SYS_timerfd_create, [1, libc::TFD_NONBLOCK as u64, 0, 0, 0, 0]))?;
    let time = every(TICK);
    works("set", raw::call(libc::SYS_timerfd_settime, [ticks.as_raw_fd() as u64, 0, time.as_ptr() as u64, 0, 0, 0]))?;
    let (_, beats) = beat()?;
    let set = epoll::set()?;
    for fd in [&ticks, &back, &beats] {
        epoll::add(&set, fd, epoll::IN | epoll::ET)?;
    }
    let (mut ticked, mut beaten) = (0_u64, 0_u64);
    for round in 1_u64.. {
        works("write", write(&there, round))?;
        let (mut tick, mut beat, mut answer) = (0, 0, 0);
        while tick == 0 || beat == 0 || answer == 0 {
            for (_, fd) in works("wait", epoll::wait(&set, -1))? {
                if fd == ticks.as_raw_fd() as u64 {
                    tick += works("ticks", read(&ticks))?;
                } else if fd == back.as_raw_fd() as u64 {
                    answer += works("answer", read(&back))?;
                } else {
                    beat += drain(&beats)?;
                }
            }
        }
        if answer != round + 1 {
            return Err(format!("answer {answer} in round {round}"));
        }
        ticked += tick;
        beaten += beat;
        let most = |period: Duration| (begun.elapsed().as_nanos() / period.as_nanos()) as u64 + 1;
        if ticked > most(TICK) || beaten > most(BEAT) {
            return Err(format!("{ticked} ticks and {beaten} beats in {:?}", begun.elapsed()));
        }
        println!("{round}");
        let _ = std::io::stdout().flush();
    }
    Ok(())
}

/// Reads all signals that are there: how often the timer was due.
fn drain(beats: &OwnedFd) -> Result<u64, String> {
    let mut count = 0;
    loop {
        let mut info = [0_u32; 32];
        match raw::call(libc::SYS_read, [beats.as_raw_fd() as u64, info.as_mut_ptr() as u64, 128, 0, 0, 0]) {
            Ok(_) => count += 1 + u64::from(info[8]),
            Err(libc::EAGAIN) => return Ok(count),
            Err(errno) => return Err(format!("signals: error {errno}")),
        }
    }
}

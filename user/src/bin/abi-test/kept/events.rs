//! Events: timers in phase, sets of watched descriptors, signals that wait.
use super::{Case, Gate, Other};
use crate::{
    Outcome,
    check::{call, fails, same, text, that, works},
    epoll::{self, owned},
};
use shimos_user::raw::{self, Answer};
use std::{
    fs::{self, File},
    io::{Read, Write, pipe},
    os::fd::{AsRawFd, OwnedFd},
};

pub const CASES: &[Case] = &[
    ("events/epoll-by-edge", edge),
    ("events/epoll-waiter-wakes", waiter),
    ("events/eventfd", eventfd),
    ("events/timerfd-in-phase", timerfd),
    ("events/timer-in-phase", timer),
    ("events/interval-timer", itimer),
    ("events/signals-with-values", values),
    ("events/signalfd", signalfd),
    ("events/inotify", inotify),
];

/// Period of the timers.
const PERIOD: u64 = 50_000_000;
const MONOTONIC: u64 = 1;
const ABSOLUTE: u64 = 1;

fn now() -> Result<u64, String> {
    let mut time = [0_u64; 2];
    works("clock", call(libc::SYS_clock_gettime, &[MONOTONIC, time.as_mut_ptr() as u64]))?;
    let [seconds, nanos] = std::hint::black_box(time);
    Ok(seconds * 1_000_000_000 + nanos)
}

fn read(fd: &OwnedFd) -> Answer {
    let mut word = 0_u64;
    call(libc::SYS_read, &[fd.as_raw_fd() as u64, &raw mut word as u64, 8])?;
    Ok(std::hint::black_box(word))
}

fn write(fd: &OwnedFd, word: u64) -> Answer {
    call(libc::SYS_write, &[fd.as_raw_fd() as u64, &raw const word as u64, 8])
}

fn edge(gate: &mut Gate) -> Outcome {
    let (mut seen, mut tell_seen) = pipe().map_err(text)?;
    let (once, mut tell_once) = pipe().map_err(text)?;
    let set = epoll::set()?;
    epoll::add(&set, &seen, epoll::IN | epoll::ET)?;
    epoll::add(&set, &once, epoll::IN | libc::EPOLLONESHOT as u32)?;
    tell_seen.write_all(b"ab").map_err(text)?;
    tell_once.write_all(b"a").map_err(text)?;
    same("both", works("wait", epoll::wait(&set, 1000))?.len(), 2)?;
    gate.deaths()?;
    same("told already", works("wait", epoll::wait(&set, 0))?, Vec::new())?;
    tell_seen.write_all(b"c").map_err(text)?;
    tell_once.write_all(b"c").map_err(text)?;
    let told = works("wait", epoll::wait(&set, 1000))?;
    same("the new edge", told, vec![(epoll::IN, seen.as_raw_fd() as u64)])?;
    let mut bytes = [0; 3];
    seen.read_exact(&mut bytes).map_err(text)?;
    same("bytes", &bytes, b"abc")
}

fn waiter(gate: &mut Gate) -> Outcome {
    let (end, mut tell) = pipe().map_err(text)?;
    let child = Other::new(|next| {
        let set = epoll::set()?;
        epoll::add(&set, &end, epoll::IN | epoll::ET)?;
        same("woken", works("wait", epoll::wait(&set, -1))?.len(), 1)?;
        next();
        Ok(())
    })?;
    gate.deaths()?;
    tell.write_all(b"x").map_err(text)?;
    child.end()
}

fn eventfd(gate: &mut Gate) -> Outcome {
    let flags = (libc::EFD_SEMAPHORE | libc::EFD_NONBLOCK) as u64;
    let count = owned("eventfd", call(libc::SYS_eventfd2, &[2, flags]))?;
    gate.deaths()?;
    same("one", read(&count), Ok(1))?;
    works("write", write(&count, 1))?;
    same("two", read(&count), Ok(1))?;
    same("three", read(&count), Ok(1))?;
    fails("no more", read(&count), libc::EAGAIN)
}

/// The next expiry that a timer tells is one of those that it was set for, and no other.
fn in_phase(base: u64, ask: impl Fn() -> Result<[u64; 4], String>) -> Outcome {
    let before = now()?;
    let [_, interval, seconds, nanos] = ask()?;
    let after = now()?;
    same("period", interval, PERIOD)?;
    let left = seconds * 1_000_000_000 + nanos;
    // It was asked at some time between the two.
    let (from, to) = (before + left - base, after + left - base);
    that(&format!("in phase: {from} to {to}"), from.div_ceil(PERIOD) * PERIOD <= to)
}

fn timerfd(gate: &mut Gate) -> Outcome {
    let fd = owned("timerfd", call(libc::SYS_timerfd_create, &[MONOTONIC, 0]))?;
    let base = now()? + 7_000_000;
    let time = [0, PERIOD, base / 1_000_000_000, base % 1_000_000_000];
    works("set", call(libc::SYS_timerfd_settime, &[fd.as_raw_fd() as u64, ABSOLUTE, time.as_ptr() as u64, 0]))?;
    let mut all = works("read", read(&fd))?;
    gate.deaths()?;
    let before = now()?;
    all += works("read", read(&fd))?;
    let after = now()?;
    let due = |time: u64| (time - base) / PERIOD + 1;
    that(&format!("{all} expiries"), (due(before)..=due(after)).contains(&all))?;
    in_phase(base, || {
        let mut time = [0_u64; 4];
        works("get", call(libc::SYS_timerfd_gettime, &[fd.as_raw_fd() as u64, time.as_mut_ptr() as u64]))?;
        Ok(std::hint::black_box(time))
    })
}

fn timer(gate: &mut Gate) -> Outcome {
    const SIGNAL: u64 = 42;
    let set = 1_u64 << (SIGNAL - 1);
    works("block", raw::mask(libc::SIG_BLOCK, set))?;
    let (mut event, mut id) = ([0_u64; 8], 0_u32);
    event[0] = 1234;
    event[1] = SIGNAL;
    works("create", call(libc::SYS_timer_create, &[MONOTONIC, event.as_ptr() as u64, &raw mut id as u64]))?;
    let id = u64::from(std::hint::black_box(id));
    let base = now()? + 7_000_000;
    let time = [0, PERIOD, base / 1_000_000_000, base % 1_000_000_000];
    works("set", call(libc::SYS_timer_settime, &[id, ABSOLUTE, time.as_ptr() as u64, 0]))?;
    let tick = || {
        let mut info = [0_u32; 32];
        works("wait", call(libc::SYS_rt_sigtimedwait, &[&raw const set as u64, info.as_mut_ptr() as u64, 0, 8]))?;
        let info = std::hint::black_box(info);
        same("value", info[6], 1234)?;
        Ok::<u64, String>(1 + u64::from(info[5]))
    };
    let mut all = tick()?;
    gate.deaths()?;
    all += tick()?;
    all += tick()?;
    let after = now()?;
    that(&format!("{all} expiries"), all <= (after - base) / PERIOD + 1)?;
    in_phase(base, || {
        let mut time = [0_u64; 4];
        works("get", call(libc::SYS_timer_gettime, &[id, time.as_mut_ptr() as u64]))?;
        Ok(std::hint::black_box(time))
    })
}

fn itimer(gate: &mut Gate) -> Outcome {
    let time = [5_u64, 0, 3000, 0];
    works("set", call(libc::SYS_setitimer, &[0, time.as_ptr() as u64, 0]))?;
    let begun = now()?;
    gate.deaths()?;
    let mut left = [0_u64; 4];
    let before = now()?;
    works("get", call(libc::SYS_getitimer, &[0, left.as_mut_ptr() as u64]))?;
    let [interval, _, seconds, micros] = std::hint::black_box(left);
    same("interval", interval, 5)?;
    let passed = 3_000_000_000_000 - (seconds * 1_000_000_000 + micros * 1000);
    that(&format!("{passed} passed"), passed + 10_000_000 >= before - begun)
}

fn values(gate: &mut Gate) -> Outcome {
    const SIGNAL: u64 = 43;
    let set = 1_u64 << (SIGNAL - 1);
    works("block", raw::mask(libc::SIG_BLOCK, set))?;
    let own = u64::from(std::process::id());
    for value in [7_u64, 8, 9] {
        // si_signo, si_errno, si_code SI_QUEUE, pid, uid, value.
        let mut info = [0_u32; 32];
        (info[0], info[2], info[3], info[6]) = (SIGNAL as u32, -1_i32 as u32, own as u32, value as u32);
        works("queue", call(libc::SYS_rt_sigqueueinfo, &[own, SIGNAL, info.as_ptr() as u64]))?;
    }
    gate.deaths()?;
    let no_time = [0_u64; 2];
    let take = || {
        let mut info = [0_u32; 32];
        let places = [&raw const set as u64, info.as_mut_ptr() as u64, no_time.as_ptr() as u64];
        call(libc::SYS_rt_sigtimedwait, &[places[0], places[1], places[2], 8])?;
        Ok::<u32, i32>(std::hint::black_box(info)[6])
    };
    for value in [7, 8, 9] {
        same("in order", take(), Ok(value))?;
    }
    fails("no more", take(), libc::EAGAIN)
}

fn signalfd(gate: &mut Gate) -> Outcome {
    let set = 1_u64 << (libc::SIGUSR2 - 1);
    works("block", raw::mask(libc::SIG_BLOCK, set))?;
    let flags = libc::SFD_NONBLOCK as u64;
    let fd = owned("signalfd", call(libc::SYS_signalfd4, &[u64::MAX, &raw const set as u64, 8, flags]))?;
    raw::kill(std::process::id() as i32, libc::SIGUSR2).map_err(text)?;
    gate.deaths()?;
    let take = || {
        let mut info = [0_u32; 32];
        call(libc::SYS_read, &[fd.as_raw_fd() as u64, info.as_mut_ptr() as u64, 128])?;
        Ok::<u32, i32>(std::hint::black_box(info)[0])
    };
    same("waiting", take(), Ok(libc::SIGUSR2 as u32))?;
    fails("once", take(), libc::EAGAIN)?;
    raw::kill(std::process::id() as i32, libc::SIGUSR2).map_err(text)?;
    same("another", take(), Ok(libc::SIGUSR2 as u32))
}

fn inotify(gate: &mut Gate) -> Outcome {
    fs::create_dir("d").map_err(text)?;
    let fd = owned("inotify", call(libc::SYS_inotify_init1, &[libc::IN_NONBLOCK as u64]))?;
    let path = c"d";
    let mask = u64::from(libc::IN_CREATE | libc::IN_DELETE);
    let id = works("watch", call(libc::SYS_inotify_add_watch, &[fd.as_raw_fd() as u64, path.as_ptr() as u64, mask]))?;
    File::create("d/before").map_err(text)?;
    gate.deaths()?;
    File::create("d/after").map_err(text)?;
    fs::remove_file("d/before").map_err(text)?;
    let mut bytes = [0_u8; 1024];
    let count = works("read", call(libc::SYS_read, &[fd.as_raw_fd() as u64, bytes.as_mut_ptr() as u64, 1024]))?;
    let bytes = std::hint::black_box(bytes);
    let mut rest = &bytes[..count as usize];
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
    let mut told = Vec::new();
    while rest.len() >= 16 {
        let end = 16 + word(rest, 12) as usize;
        let name: Vec<u8> = rest[16..end].iter().copied().take_while(|byte| *byte != 0).collect();
        same("watch", u64::from(word(rest, 0)), id)?;
        told.push((word(rest, 4), String::from_utf8_lossy(&name).into_owned()));
        rest = &rest[end..];
    }
    let wanted = [(libc::IN_CREATE, "before"), (libc::IN_CREATE, "after"), (libc::IN_DELETE, "before")];
    same("events", told, wanted.map(|(mask, name)| (mask, name.to_string())).to_vec())
}

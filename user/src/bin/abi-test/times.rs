//! Clocks and sleeping.
use crate::{
    Outcome, Subtest,
    check::{asleep, fails, same, that, works},
};
use rustix::time::{ClockId, clock_gettime};
use shimos_user::raw;
use std::time::{Duration, Instant, SystemTime};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("time/clocks", clocks),
    ("time/without_a_call", without_a_call),
    ("time/sleep", sleep),
    ("time/processor", processor),
    ("time/user_and_system", user_and_system),
    ("time/limit", limit),
    ("time/killed_asleep", killed_asleep),
    ("time/timers_of_use", timers_of_use),
    ("time/names", names),
];

fn clocks() -> Outcome {
    let mut last = Instant::now();
    for _ in 0..10_000 {
        let now = Instant::now();
        that("never back", now >= last)?;
        last = now;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(|error| error.to_string())?;
    that("after 2024", now.as_secs() > 1_704_067_200)?;
    let mut value = [0_u64; 2];
    works("gettimeofday", raw::call(libc::SYS_gettimeofday, [value.as_mut_ptr() as u64, 0, 0, 0, 0, 0]))?;
    that("agree", value[0].abs_diff(now.as_secs()) < 3)?;
    that("time agrees", works("time", raw::call(libc::SYS_time, [0; 6]))?.abs_diff(now.as_secs()) < 3)?;
    works("resolution", raw::call(libc::SYS_clock_getres, [1, value.as_mut_ptr() as u64, 0, 0, 0, 0]))?;
    fails(
        "no such clock",
        raw::call(libc::SYS_clock_gettime, [77, value.as_mut_ptr() as u64, 0, 0, 0, 0]),
        libc::EINVAL,
    )
}

/// A clock by the system call, in nanoseconds.
fn called(clock: ClockId) -> Result<u64, String> {
    let mut value = [0_u64; 2];
    let address = value.as_mut_ptr() as u64;
    works("clock_gettime", raw::call(libc::SYS_clock_gettime, [clock as u64, address, 0, 0, 0, 0]))?;
    Ok(value[0] * 1_000_000_000 + value[1])
}

/// What the libraries read without a system call (vdso(7)) lies between two system calls.
fn without_a_call() -> Outcome {
    for _ in 0..2000 {
        let before = called(ClockId::Realtime)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(|error| error.to_string())?;
        let (now, after) = (now.as_nanos() as u64, called(ClockId::Realtime)?);
        that(&format!("{before} <= {now} <= {after}"), before <= now && now <= after)?;
        for clock in [ClockId::Monotonic, ClockId::MonotonicRaw, ClockId::Boottime] {
            let before = called(clock)?;
            let now = clock_gettime(clock);
            let (now, after) = (now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64, called(clock)?);
            that(&format!("{clock:?}: {before} <= {now} <= {after}"), before <= now && now <= after)?;
        }
    }
    Ok(())
}

fn sleep() -> Outcome {
    let begun = Instant::now();
    std::thread::sleep(Duration::from_millis(50));
    let slept = begun.elapsed();
    that(&format!("slept {slept:?}"), slept >= Duration::from_millis(50) && slept < Duration::from_secs(5))?;
    let now = clock_gettime(ClockId::Monotonic);
    let until = [now.tv_sec as u64 + 1, now.tv_nsec as u64];
    works("until", raw::call(libc::SYS_clock_nanosleep, [1, 1, until.as_ptr() as u64, 0, 0, 0]))?;
    let after = clock_gettime(ClockId::Monotonic);
    that("not before", (after.tv_sec, after.tv_nsec) >= (now.tv_sec + 1, now.tv_nsec))?;
    let past = [1_u64, 0];
    works("in the past", raw::call(libc::SYS_clock_nanosleep, [1, 1, past.as_ptr() as u64, 0, 0, 0]))?;
    let bad = [0_u64, 1_000_000_000];
    fails("no time", raw::call(libc::SYS_nanosleep, [bad.as_ptr() as u64, 0, 0, 0, 0, 0]), libc::EINVAL)
}

fn processor() -> Outcome {
    let before = clock_gettime(ClockId::ProcessCPUTime);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(50) {}
    let after = clock_gettime(ClockId::ProcessCPUTime);
    let used = (after.tv_sec - before.tv_sec) * 1_000_000_000 + after.tv_nsec - before.tv_nsec;
    that(&format!("used {used} ns"), (1_000_000..5_000_000_000).contains(&used))?;
    std::thread::sleep(Duration::from_millis(200));
    let idle = clock_gettime(ClockId::ProcessCPUTime);
    let used = (idle.tv_sec - after.tv_sec) * 1_000_000_000 + idle.tv_nsec - after.tv_nsec;
    that(&format!("sleeping used {used} ns"), used < 150_000_000)
}

fn names() -> Outcome {
    let name = rustix::system::uname();
    same("system", name.sysname().to_string_lossy().into_owned(), "Linux".to_string())?;
    same("machine", name.machine().to_string_lossy().into_owned(), "x86_64".to_string())?;
    let info = rustix::system::sysinfo();
    that("memory", info.totalram > 0 && info.freeram <= info.totalram && info.mem_unit > 0)?;
    let mut bytes = [0_u8; 300];
    same(
        "getrandom",
        works("getrandom", raw::call(libc::SYS_getrandom, [bytes.as_mut_ptr() as u64, 300, 0, 0, 0, 0]))?,
        300,
    )?;
    that("random", bytes.iter().any(|byte| *byte != bytes[0]))
}

/// User and system time of the process so far, in microseconds.
fn used(who: i64) -> Result<(u64, u64), String> {
    let mut usage = [0_u64; 18];
    works("getrusage", raw::call(libc::SYS_getrusage, [who as u64, usage.as_mut_ptr() as u64, 0, 0, 0, 0]))?;
    Ok((usage[0] * 1_000_000 + usage[1], usage[2] * 1_000_000 + usage[3]))
}

/// Goes on until the process has used this many microseconds.
fn use_up(micros: u64, mut work: impl FnMut()) -> Outcome {
    let begin = used(0)?;
    loop {
        for _ in 0..200 {
            work();
        }
        let now = used(0)?;
        that("never back", now.0 >= begin.0 && now.1 >= begin.1)?;
        if now.0 + now.1 >= begin.0 + begin.1 + micros {
            return Ok(());
        }
    }
}

fn user_and_system() -> Outcome {
    let begin = used(0)?;
    let mut sum = 1_u64;
    use_up(300_000, || (0..2000).for_each(|i| sum = std::hint::black_box(sum.wrapping_mul(31) ^ i)))?;
    let computed = used(0)?;
    let (user, system) = (computed.0 - begin.0, computed.1 - begin.1);
    that(&format!("computing: {user} user, {system} system"), user > 2 * system)?;
    // Each call has the kernel fill pages.
    use_up(300_000, || {
        let map = |length| raw::call(libc::SYS_mmap, [0, length, 3, 0x8022, u64::MAX, 0]);
        if let Ok(addr) = map(64 << 12) {
            let _ = raw::call(libc::SYS_munmap, [addr, 64 << 12, 0, 0, 0, 0]);
        }
    })?;
    let called = used(0)?;
    let (user, system) = (called.0 - computed.0, called.1 - computed.1);
    // Where a processor is virtual, it may have stood still for a large part of it: that may count as either.
    that(&format!("calling: {user} user, {system} system"), 4 * system > user)?;
    let mut ticks = [0_u64; 4];
    works("times", raw::call(libc::SYS_times, [ticks.as_mut_ptr() as u64, 0, 0, 0, 0, 0]))?;
    that(&format!("times say {ticks:?}"), ticks[0] >= called.0 / 10_000 && ticks[1] >= called.1 / 10_000)?;
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(|error| error.to_string())?;
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap_or("").split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    let (user, system) = (fields.get(11).copied().unwrap_or(0), fields.get(12).copied().unwrap_or(0));
    that(&format!("stat says {user} {system}"), user >= ticks[0] && system >= ticks[1])?;
    let mut clock = [0_u64; 2];
    let all = used(0)?;
    works("clock", raw::call(libc::SYS_clock_gettime, [2, clock.as_mut_ptr() as u64, 0, 0, 0, 0]))?;
    let sum = clock[0] * 1_000_000 + clock[1] / 1000;
    that(&format!("the clock is the sum: {sum}, {all:?}"), sum + 20_000 >= all.0 + all.1)
}

/// RLIMIT_CPU: SIGXCPU at the soft limit, SIGKILL at the hard one.
fn limit() -> Outcome {
    let text = |error: std::io::Error| error.to_string();
    let spin = |soft: u64, hard: u64, block: bool| {
        raw::fork(move || {
            if block {
                let set = 1_u64 << (libc::SIGXCPU - 1);
                let _ = raw::call(libc::SYS_rt_sigprocmask, [0, &raw const set as u64, 0, 8, 0, 0]);
            }
            let limits = [soft, hard];
            if raw::call(libc::SYS_setrlimit, [0, limits.as_ptr() as u64, 0, 0, 0, 0]).is_err() {
                return 9;
            }
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(50) {}
            8
        })
    };
    let first = spin(1, u64::MAX, false).map_err(text)?;
    let second = spin(1, 2, true).map_err(text)?;
    let (_, status) = raw::wait(first, 0).map_err(text)?;
    that(&format!("soft: {status:#x}"), libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGXCPU)?;
    let (_, status) = raw::wait(second, 0).map_err(text)?;
    that(&format!("hard: {status:#x}"), libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL)
}

/// ITIMER_VIRTUAL counts user time, ITIMER_PROF all of it.
fn timers_of_use() -> Outcome {
    for (which, signal) in [(1, libc::SIGVTALRM), (2, libc::SIGPROF)] {
        let set = 1_u64 << (signal - 1);
        works("block", raw::call(libc::SYS_rt_sigprocmask, [0, &raw const set as u64, 0, 8, 0, 0]))?;
        let before = used(0)?;
        let value = [0_u64, 0, 0, 50_000];
        works("setitimer", raw::call(libc::SYS_setitimer, [which, value.as_ptr() as u64, 0, 0, 0, 0]))?;
        let mut pending = 0_u64;
        let mut sum = 1_u64;
        while pending & set == 0 {
            (0..20_000).for_each(|i| sum = std::hint::black_box(sum.wrapping_mul(31) ^ i));
            works("pending", raw::call(libc::SYS_rt_sigpending, [&raw mut pending as u64, 8, 0, 0, 0, 0]))?;
        }
        let after = used(0)?;
        let (user, system) = (after.0 - before.0, after.1 - before.1);
        let counted = if which == 1 { user } else { user + system };
        that(&format!("timer {which} after {user} user, {system} system"), counted >= 40_000)?;
    }
    Ok(())
}

/// A process that sleeps for ever, by whatever clock, can be killed.
fn killed_asleep() -> Outcome {
    let text = |error: std::io::Error| error.to_string();
    for clock in [0_u64, 1, 2] {
        let child = raw::fork(|| {
            let span = [i64::MAX as u64, 0];
            let _ = raw::call(libc::SYS_clock_nanosleep, [clock, 0, span.as_ptr() as u64, 0, 0, 0]);
            7
        })
        .map_err(text)?;
        asleep(child)?;
        raw::kill(child, libc::SIGKILL).map_err(text)?;
        let (_, status) = raw::wait(child, 0).map_err(text)?;
        that(&format!("clock {clock}: {status:#x}"), libc::WIFSIGNALED(status))?;
    }
    Ok(())
}

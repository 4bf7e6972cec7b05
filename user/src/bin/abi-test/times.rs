//! Clocks and sleeping.
use crate::{
    Outcome, Subtest,
    check::{fails, same, that, works},
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

//! Timers that send signals, and clocks of processor time.
use crate::{
    Outcome, Subtest,
    check::{fails, same, text, that, works},
};
use shimos_user::raw::{self, Answer, Disposition};
use std::time::{Duration, Instant};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("timer/signal", signal),
    ("timer/overrun", overrun),
    ("timer/none", none),
    ("timer/thread", thread),
    ("timer/absolute", absolute),
    ("timer/processor", processor),
    ("timer/bad-arguments", bad_arguments),
    ("timer/forgotten", forgotten),
    ("timer/interval", interval),
    ("timer/alarm", alarm),
    ("timer/virtual", virtual_and_profile),
    ("timer/clocks-of-others", clocks_of_others),
    ("timer/setting-clocks", setting_clocks),
];

const SIGNAL: i32 = libc::SIGUSR1;

/// struct sigevent.
fn event(notify: i32, signal: i32, value: u64, tid: i32) -> [u64; 8] {
    let mut words = [0; 8];
    words[0] = value;
    words[1] = signal as u64 | (notify as u64) << 32;
    words[2] = tid as u64;
    words
}

fn create(clock: i32, event: &[u64; 8]) -> Answer {
    let mut id = 0xffff_ffff_u32;
    let arguments = [clock as u64, event.as_ptr() as u64, &raw mut id as u64, 0, 0, 0];
    raw::call(libc::SYS_timer_create, arguments).map(|_| id.into())
}

fn set(id: u64, flags: u64, period: Duration, value: Duration) -> Result<[u64; 4], i32> {
    let parts = |time: Duration| [time.as_secs(), u64::from(time.subsec_nanos())];
    let [new, mut old] = [[parts(period), parts(value)].concat(), vec![9; 4]];
    let arguments = [id, flags, new.as_ptr() as u64, old.as_mut_ptr() as u64, 0, 0];
    raw::call(libc::SYS_timer_settime, arguments).map(|_| [old[0], old[1], old[2], old[3]])
}

fn left(id: u64) -> Result<(Duration, Duration), String> {
    let mut now = [9_u64; 4];
    works("timer_gettime", raw::call(libc::SYS_timer_gettime, [id, now.as_mut_ptr() as u64, 0, 0, 0, 0]))?;
    Ok((Duration::new(now[0], now[1] as u32), Duration::new(now[2], now[3] as u32)))
}

fn overruns(id: u64) -> Answer {
    raw::call(libc::SYS_timer_getoverrun, [id, 0, 0, 0, 0, 0])
}

fn delete(id: u64) -> Answer {
    raw::call(libc::SYS_timer_delete, [id, 0, 0, 0, 0, 0])
}

/// Waits for a blocked signal: its code, timer id, overruns and value.
fn wait(signal: i32, patience: Duration) -> Result<(i32, u32, u32, u64), i32> {
    let (set, mut info) = (1_u64 << (signal - 1), [0_u32; 32]);
    let time = [patience.as_secs(), u64::from(patience.subsec_nanos())];
    let arguments = [&raw const set as u64, info.as_mut_ptr() as u64, time.as_ptr() as u64, 8, 0, 0];
    raw::call(libc::SYS_rt_sigtimedwait, arguments)?;
    Ok((info[2] as i32, info[4], info[5], u64::from(info[6]) | u64::from(info[7]) << 32))
}

fn block(signal: i32) -> Outcome {
    works("block", raw::mask(libc::SIG_BLOCK, 1 << (signal - 1))).map(drop)
}

const NONE: Duration = Duration::ZERO;
const SOON: Duration = Duration::from_secs(20);

fn signal() -> Outcome {
    block(SIGNAL)?;
    let id = works("create", create(libc::CLOCK_MONOTONIC, &event(0, SIGNAL, 0x1234_5678_9abc, 0)))?;
    same("not set", left(id)?, (NONE, NONE))?;
    let begun = Instant::now();
    same("set", set(id, 0, NONE, Duration::from_millis(40)), Ok([0; 4]))?;
    let (period, rest) = left(id)?;
    that("what is left", period == NONE && rest > NONE && rest <= Duration::from_millis(40))?;
    same("told", wait(SIGNAL, SOON), Ok((libc::SI_TIMER, id as u32, 0, 0x1234_5678_9abc)))?;
    that("not before", begun.elapsed() >= Duration::from_millis(40))?;
    same("no overruns", overruns(id), Ok(0))?;
    same("nothing left", left(id)?, (NONE, NONE))?;
    works("far", set(id, 0, NONE, Duration::from_secs(1000)))?;
    let old = works("stop", set(id, 0, NONE, NONE))?;
    that("what was left", old[2] > 900 && old[2] < 1000)?;
    works("delete", delete(id))?;
    fails("gone", overruns(id), libc::EINVAL)?;
    // Without a description: SIGALRM, with its id.
    block(libc::SIGALRM)?;
    let mut id = 0_u32;
    works("create", raw::call(libc::SYS_timer_create, [1, 0, &raw mut id as u64, 0, 0, 0]))?;
    works("set", set(id.into(), 0, NONE, Duration::from_millis(1)))?;
    same("its own id", wait(libc::SIGALRM, SOON), Ok((libc::SI_TIMER, id, 0, id.into())))
}

fn overrun() -> Outcome {
    block(SIGNAL)?;
    let id = works("create", create(libc::CLOCK_MONOTONIC, &event(0, SIGNAL, 5, 0)))?;
    let begun = Instant::now();
    works("set", set(id, 0, Duration::from_millis(5), Duration::from_millis(5)))?;
    std::thread::sleep(Duration::from_millis(60));
    let (code, timer, missed, value) = works("wait", wait(SIGNAL, SOON))?;
    let most = begun.elapsed().as_millis() as u32 / 5;
    same("which", (code, timer, value), (libc::SI_TIMER, id as u32, 5))?;
    that(&format!("{missed} of {most} missed"), missed >= 10 && missed < most + 1)?;
    same("the same", overruns(id), Ok(missed.into()))?;
    let (period, rest) = left(id)?;
    that("goes on", period == Duration::from_millis(5) && rest > NONE && rest <= period)?;
    let next = works("wait", wait(SIGNAL, SOON))?;
    that("again", next.0 == libc::SI_TIMER)?;
    // A handler that is called late learns it as well.
    raw::on_signal(SIGNAL, Disposition::Count(0)).map_err(text)?;
    std::thread::sleep(Duration::from_millis(30));
    works("unblock", raw::mask(libc::SIG_UNBLOCK, 1 << (SIGNAL - 1)))?;
    that("caught", raw::caught(SIGNAL) >= 1)?;
    works("delete", delete(id)).map(drop)
}

fn none() -> Outcome {
    let id = works("create", create(libc::CLOCK_REALTIME, &event(libc::SIGEV_NONE, 0, 0, 0)))?;
    works("set", set(id, 0, Duration::from_secs(1000), Duration::from_millis(10)))?;
    std::thread::sleep(Duration::from_millis(20));
    let (period, rest) = left(id)?;
    that("counts on", period == Duration::from_secs(1000) && rest > Duration::from_secs(900))
}

fn thread() -> Outcome {
    block(SIGNAL)?;
    let own = works("gettid", raw::call(libc::SYS_gettid, [0; 6]))? as i32;
    let id = works("create", create(libc::CLOCK_MONOTONIC, &event(libc::SIGEV_THREAD_ID, SIGNAL, 9, own)))?;
    works("set", set(id, 0, NONE, Duration::from_millis(5)))?;
    same("told", wait(SIGNAL, SOON), Ok((libc::SI_TIMER, id as u32, 0, 9)))?;
    fails("a stranger", create(1, &event(libc::SIGEV_THREAD_ID, SIGNAL, 0, 1)), libc::EINVAL)
}

fn absolute() -> Outcome {
    block(SIGNAL)?;
    let id = works("create", create(libc::CLOCK_REALTIME, &event(0, SIGNAL, 0, 0)))?;
    works("past", set(id, 1, NONE, Duration::from_secs(1)))?;
    works("told at once", wait(SIGNAL, SOON))?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_err(|e| e.to_string())?;
    works("soon", set(id, 1, NONE, now + Duration::from_millis(30)))?;
    works("told", wait(SIGNAL, SOON))?;
    let after = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_err(|e| e.to_string())?;
    that("not before", after >= now + Duration::from_millis(30))
}

fn spend(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {}
}

fn processor() -> Outcome {
    block(SIGNAL)?;
    for clock in [libc::CLOCK_PROCESS_CPUTIME_ID, libc::CLOCK_THREAD_CPUTIME_ID] {
        let id = works("create", create(clock, &event(0, SIGNAL, 3, 0)))?;
        works("set", set(id, 0, NONE, Duration::from_millis(30)))?;
        fails("time that is slept does not count", wait(SIGNAL, Duration::from_millis(60)), libc::EAGAIN)?;
        let begun = Instant::now();
        let told = loop {
            spend(Duration::from_millis(5));
            if let Ok(told) = wait(SIGNAL, NONE) {
                break told;
            }
            that("in time", begun.elapsed() < SOON)?;
        };
        same("told", told, (libc::SI_TIMER, id as u32, 0, 3))?;
        that("not before", begun.elapsed() >= Duration::from_millis(20))?;
        works("delete", delete(id))?;
    }
    Ok(())
}

fn bad_arguments() -> Outcome {
    let good = event(0, SIGNAL, 0, 0);
    fails("a clock", create(77, &good), libc::EINVAL)?;
    fails("a raw clock", create(libc::CLOCK_MONOTONIC_RAW, &good), libc::EOPNOTSUPP)?;
    fails("a coarse clock", create(libc::CLOCK_MONOTONIC_COARSE, &good), libc::EOPNOTSUPP)?;
    fails("a signal", create(1, &event(0, 65, 0, 0)), libc::EINVAL)?;
    fails("no signal", create(1, &event(0, 0, 0, 0)), libc::EINVAL)?;
    fails("a way", create(1, &event(7, SIGNAL, 0, 0)), libc::EINVAL)?;
    fails("no memory", raw::call(libc::SYS_timer_create, [1, 8, 8, 0, 0, 0]), libc::EFAULT)?;
    let id = works("create", create(1, &good))?;
    let bad = [0_u64, 0, 0, 1_000_000_000];
    fails("no time", raw::call(libc::SYS_timer_settime, [id, 0, bad.as_ptr() as u64, 0, 0, 0]), libc::EINVAL)?;
    fails("nothing", raw::call(libc::SYS_timer_settime, [id, 0, 0, 0, 0, 0]), libc::EINVAL)?;
    fails("no timer", set(9999, 0, NONE, NONE), libc::EINVAL)?;
    fails("no timer", delete(9999), libc::EINVAL)?;
    fails("no timer", overruns(9999), libc::EINVAL)
}

/// A child has none of its parent's timers.
fn forgotten() -> Outcome {
    let id = works("create", create(1, &event(0, SIGNAL, 0, 0)))?;
    works("alarm", raw::call(libc::SYS_alarm, [1000, 0, 0, 0, 0, 0]))?;
    let child = raw::fork(|| {
        let timers = overruns(id) == Err(libc::EINVAL);
        i32::from(!(timers && raw::call(libc::SYS_alarm, [0; 6]) == Ok(0)))
    })
    .map_err(text)?;
    same("none there", raw::exit_of(child).map_err(text)?, 0)?;
    same("all here", overruns(id), Ok(0))?;
    same("the alarm", raw::call(libc::SYS_alarm, [0; 6]), Ok(1000))
}

fn set_interval(which: i32, period: Duration, value: Duration) -> Result<[u64; 4], i32> {
    let parts = |time: Duration| [time.as_secs(), u64::from(time.subsec_micros())];
    let [new, mut old] = [[parts(period), parts(value)].concat(), vec![9; 4]];
    let arguments = [which as u64, new.as_ptr() as u64, old.as_mut_ptr() as u64, 0, 0, 0];
    raw::call(libc::SYS_setitimer, arguments).map(|_| [old[0], old[1], old[2], old[3]])
}

fn interval() -> Outcome {
    raw::on_signal(libc::SIGALRM, Disposition::Count(0)).map_err(text)?;
    let begun = Instant::now();
    works("set", set_interval(0, Duration::from_millis(10), Duration::from_millis(10)))?;
    while raw::caught(libc::SIGALRM) < 4 {
        that("in time", begun.elapsed() < SOON)?;
        let _ = raw::call(libc::SYS_pause, [0; 6]);
    }
    that("not before", begun.elapsed() >= Duration::from_millis(40))?;
    let mut now = [9_u64; 4];
    works("getitimer", raw::call(libc::SYS_getitimer, [0, now.as_mut_ptr() as u64, 0, 0, 0, 0]))?;
    that("goes on", now[..2] == [0, 10_000] && now[2] == 0 && now[3] <= 10_000)?;
    works("stop", set_interval(0, NONE, NONE))?;
    fails("which", set_interval(3, NONE, NONE), libc::EINVAL)?;
    let bad = [0_u64, 1_000_000, 0, 0];
    fails("no time", raw::call(libc::SYS_setitimer, [0, bad.as_ptr() as u64, 0, 0, 0, 0]), libc::EINVAL)
}

/// alarm(2) and ITIMER_REAL are one timer.
fn alarm() -> Outcome {
    let alarm = |seconds: u64| raw::call(libc::SYS_alarm, [seconds, 0, 0, 0, 0, 0]);
    same("none before", alarm(100), Ok(0))?;
    let old = works("setitimer", set_interval(0, NONE, Duration::from_millis(50_600)))?;
    that("the alarm", old[2] == 99 && old[..2] == [0, 0])?;
    same("rounded", alarm(7), Ok(51))?;
    works("almost nothing", set_interval(0, NONE, Duration::from_secs(2)))?;
    same("rounded", alarm(0), Ok(2))?;
    same("none", alarm(0), Ok(0))
}

fn virtual_and_profile() -> Outcome {
    for (which, signal) in [(libc::ITIMER_VIRTUAL, libc::SIGVTALRM), (libc::ITIMER_PROF, libc::SIGPROF)] {
        raw::on_signal(signal, Disposition::Count(0)).map_err(text)?;
        works("set", set_interval(which, Duration::from_millis(20), Duration::from_millis(20)))?;
        std::thread::sleep(Duration::from_millis(60));
        same("time that is slept does not count", raw::caught(signal), 0)?;
        let begun = Instant::now();
        while raw::caught(signal) < 2 {
            that("in time", begun.elapsed() < SOON)?;
            spend(Duration::from_millis(1));
        }
        that("not before", begun.elapsed() >= Duration::from_millis(30))?;
        let old = works("stop", set_interval(which, NONE, NONE))?;
        same("its period", old[..2].to_vec(), vec![0, 20_000])?;
    }
    Ok(())
}

fn clocks_of_others() -> Outcome {
    let clock = |pid: i32, kind: i32| ((!pid << 3) | kind) as u32 as u64;
    let read = |clock: u64| {
        let mut time = [0_u64; 2];
        raw::call(libc::SYS_clock_gettime, [clock, time.as_mut_ptr() as u64, 0, 0, 0, 0])
            .map(|_| Duration::new(time[0], time[1] as u32))
    };
    let (mut hear, mut say) = std::io::pipe().map_err(text)?;
    let child = raw::fork(|| {
        spend(Duration::from_millis(40));
        let told = std::io::Write::write_all(&mut say, b"x");
        let _ = raw::call(libc::SYS_pause, [0; 6]);
        i32::from(told.is_err())
    })
    .map_err(text)?;
    std::io::Read::read_exact(&mut hear, &mut [0]).map_err(text)?;
    let used = works("a child's", read(clock(child, 2)))?;
    that(&format!("{used:?} used"), used >= Duration::from_millis(10))?;
    raw::kill(child, libc::SIGKILL).map_err(text)?;
    same("killed", raw::exit_of(child).map_err(text)?, 256 + libc::SIGKILL)?;
    fails("gone", read(clock(child, 2)), libc::EINVAL)?;
    works("its own", read(clock(0, 2)))?;
    works("its thread's", read(clock(0, 6)))?;
    fails("a thread of others", read(clock(1, 6)), libc::EINVAL)?;
    fails("a descriptor", read(clock(1, 3)), libc::EINVAL)?;
    let resolution = |clock: u64| raw::call(libc::SYS_clock_getres, [clock, 0, 0, 0, 0, 0]);
    works("resolution", resolution(2))?;
    fails("resolution", resolution(77), libc::EINVAL)
}

fn setting_clocks() -> Outcome {
    let time = [1_000_000_u64, 0];
    let set = |clock: u64| raw::call(libc::SYS_clock_settime, [clock, time.as_ptr() as u64, 0, 0, 0, 0]);
    fails("monotonic", set(1), libc::EINVAL)?;
    fails("processor", set(2), libc::EINVAL)?;
    fails("processor", set(u64::from((!0_u32 << 3) | 2)), libc::EPERM)?;
    fails("none", set(77), libc::EINVAL)
}

//! Signals.
use crate::{
    Outcome, Subtest,
    check::{asleep, fails, same, text, that, works},
};
use shimos_user::raw::{self, Disposition};
use std::{
    io::{Read, Write},
    thread::sleep,
    time::{Duration, Instant},
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("signals/handler", handler),
    ("signals/mask", mask),
    ("signals/ignore", ignore),
    ("signals/reset", reset),
    ("signals/interrupts", interrupts),
    ("signals/restarts", restarts),
    ("signals/partial-write", partial_write),
    ("signals/broken-pipe", broken_pipe),
    ("signals/faults", faults),
    ("signals/child", child),
    ("signals/suspend", suspend),
    ("signals/timed-wait", timed_wait),
    ("signals/alarm", alarm),
    ("signals/queued", queued),
    ("signals/inherited", inherited),
    ("signals/stop-in-sleep", stop_in_sleep),
    ("signals/vector-registers", vector_registers),
    ("signals/with-what-is-waited-for", with_what_is_waited_for),
    ("signals/bad-arguments", bad_arguments),
];

fn own() -> i32 {
    std::process::id() as i32
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

fn handler() -> Outcome {
    raw::on_signal(libc::SIGUSR1, Disposition::Count(0)).map_err(text)?;
    raw::kill(own(), libc::SIGUSR1).map_err(text)?;
    same("caught", raw::caught(libc::SIGUSR1), 1)?;
    same("who and how", raw::last_info(), (own(), 0))?;
    works("tgkill", raw::call(libc::SYS_tgkill, [own() as u64, own() as u64, libc::SIGUSR1 as u64, 0, 0, 0]))?;
    same("caught", raw::caught(libc::SIGUSR1), 2)?;
    same("SI_TKILL", raw::last_info(), (own(), -6))?;
    for _ in 0..1000 {
        raw::kill(own(), libc::SIGUSR1).map_err(text)?;
    }
    same("all", raw::caught(libc::SIGUSR1), 1002)
}

fn mask() -> Outcome {
    raw::on_signal(libc::SIGUSR1, Disposition::Count(0)).map_err(text)?;
    works("block", raw::mask(libc::SIG_BLOCK, bit(libc::SIGUSR1)))?;
    raw::kill(own(), libc::SIGUSR1).map_err(text)?;
    raw::kill(own(), libc::SIGUSR1).map_err(text)?;
    same("blocked", raw::caught(libc::SIGUSR1), 0)?;
    let mut pending = 0_u64;
    works("sigpending", raw::call(libc::SYS_rt_sigpending, [&raw mut pending as u64, 8, 0, 0, 0, 0]))?;
    same("pending", pending, bit(libc::SIGUSR1))?;
    works("unblock", raw::mask(libc::SIG_UNBLOCK, bit(libc::SIGUSR1)))?;
    same("told once", raw::caught(libc::SIGUSR1), 1)?;
    works("block all", raw::mask(libc::SIG_SETMASK, u64::MAX))?;
    let kept = works("read", raw::mask(libc::SIG_BLOCK, 0))?;
    same("KILL and STOP stay", kept & (bit(libc::SIGKILL) | bit(libc::SIGSTOP)), 0)
}

fn ignore() -> Outcome {
    raw::on_signal(libc::SIGTERM, Disposition::Ignore).map_err(text)?;
    raw::kill(own(), libc::SIGTERM).map_err(text)?;
    // Ignored by default.
    raw::kill(own(), libc::SIGCHLD).map_err(text)?;
    raw::kill(own(), libc::SIGURG).map_err(text)?;
    // What is pending and then ignored is forgotten.
    works("block", raw::mask(libc::SIG_BLOCK, bit(libc::SIGUSR1)))?;
    raw::kill(own(), libc::SIGUSR1).map_err(text)?;
    raw::on_signal(libc::SIGUSR1, Disposition::Ignore).map_err(text)?;
    raw::on_signal(libc::SIGUSR1, Disposition::Count(0)).map_err(text)?;
    works("unblock", raw::mask(libc::SIG_UNBLOCK, bit(libc::SIGUSR1)))?;
    same("forgotten", raw::caught(libc::SIGUSR1), 0)
}

fn reset() -> Outcome {
    let child = raw::fork(|| {
        let set = raw::on_signal(libc::SIGUSR1, Disposition::Count(libc::SA_RESETHAND));
        if set.is_err() || raw::kill(own(), libc::SIGUSR1).is_err() || raw::caught(libc::SIGUSR1) != 1 {
            return 1;
        }
        let _ = raw::kill(own(), libc::SIGUSR1);
        2
    })
    .map_err(text)?;
    same("the second one kills", raw::exit_of(child).map_err(text)?, 256 + libc::SIGUSR1)
}

/// A child that sends its parent a signal when that waits.
fn sender(signal: i32) -> Result<i32, String> {
    let parent = own();
    raw::fork(move || i32::from(asleep(parent).is_err() || raw::kill(parent, signal).is_err())).map_err(text)
}

fn interrupts() -> Outcome {
    raw::on_signal(libc::SIGUSR1, Disposition::Count(0)).map_err(text)?;
    let (reader, _writer) = std::io::pipe().map_err(text)?;
    let child = sender(libc::SIGUSR1)?;
    fails("read", (&reader).read(&mut [0]), libc::EINTR)?;
    raw::exit_of(child).map_err(text)?;
    let child = sender(libc::SIGUSR1)?;
    let mut left = [0_u64; 2];
    let sleep = [5_u64, 0];
    let slept = raw::call(libc::SYS_nanosleep, [sleep.as_ptr() as u64, left.as_mut_ptr() as u64, 0, 0, 0, 0]);
    fails("nanosleep", slept, libc::EINTR)?;
    that("time left", left[0] == 4 && left[1] > 0)?;
    raw::exit_of(child).map_err(text)?;
    let child = sender(libc::SIGUSR1)?;
    fails("poll", raw::call(libc::SYS_poll, [0, 0, 5000, 0, 0, 0]), libc::EINTR)?;
    raw::exit_of(child).map_err(text)?;
    same("caught", raw::caught(libc::SIGUSR1), 3)
}

fn restarts() -> Outcome {
    raw::on_signal(libc::SIGUSR1, Disposition::Count(libc::SA_RESTART)).map_err(text)?;
    let (mut reader, mut writer) = std::io::pipe().map_err(text)?;
    let parent = own();
    let child = raw::fork(move || {
        let waited = asleep(parent).is_ok();
        let _ = raw::kill(parent, libc::SIGUSR1);
        i32::from(!waited || asleep(parent).is_err() || writer.write_all(b"x").is_err())
    })
    .map_err(text)?;
    same("read goes on", reader.read(&mut [0]).map_err(text)?, 1)?;
    same("the handler ran", raw::caught(libc::SIGUSR1), 1)?;
    same("wait goes on", raw::exit_of(child).map_err(text)?, 0)
}

fn partial_write() -> Outcome {
    raw::on_signal(libc::SIGUSR1, Disposition::Count(0)).map_err(text)?;
    let (_reader, writer) = std::io::pipe().map_err(text)?;
    let child = sender(libc::SIGUSR1)?;
    let written = (&writer).write(&vec![1; 500_000]).map_err(text)?;
    same("what fits", written, 65536)?;
    raw::exit_of(child).map(|_| ()).map_err(text)
}

fn broken_pipe() -> Outcome {
    let (reader, writer) = std::io::pipe().map_err(text)?;
    drop(reader);
    raw::on_signal(libc::SIGPIPE, Disposition::Count(0)).map_err(text)?;
    fails("write", (&writer).write(b"x"), libc::EPIPE)?;
    same("SIGPIPE", raw::caught(libc::SIGPIPE), 1)?;
    let child = raw::fork(|| {
        let _ = raw::on_signal(libc::SIGPIPE, Disposition::Default);
        let _ = (&writer).write(b"x");
        0
    })
    .map_err(text)?;
    same("it kills", raw::exit_of(child).map_err(text)?, 256 + libc::SIGPIPE)
}

fn faults() -> Outcome {
    let guarded = raw::Map::anonymous(4096, libc::MAP_PRIVATE).map_err(text)?;
    guarded.protect(libc::PROT_NONE).map_err(text)?;
    let status = |work: &dyn Fn()| {
        raw::fork(|| {
            work();
            0
        })
        .and_then(raw::exit_of)
        .map_err(text)
    };
    same("read", status(&|| _ = guarded.get(0))?, 256 + libc::SIGSEGV)?;
    guarded.protect(libc::PROT_READ).map_err(text)?;
    same("write", status(&|| guarded.set(0, 1))?, 256 + libc::SIGSEGV)?;
    let file = std::fs::File::create_new("a").map_err(text)?;
    drop(file);
    let file = std::fs::OpenOptions::new().read(true).write(true).open("a").map_err(text)?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    let map = raw::Map::new(4096, libc::PROT_READ, libc::MAP_SHARED, fd, 0).map_err(text)?;
    same("behind a file's end", status(&|| _ = map.get(0))?, 256 + libc::SIGBUS)?;
    same("abort", status(&|| std::process::abort())?, 256 + libc::SIGABRT)?;
    // Blocked or ignored, a fault still ends the process.
    same(
        "blocked",
        status(&|| {
            let _ = raw::mask(libc::SIG_BLOCK, bit(libc::SIGSEGV));
            guarded.set(0, 1);
        })?,
        256 + libc::SIGSEGV,
    )
}

fn child() -> Outcome {
    raw::on_signal(libc::SIGCHLD, Disposition::Count(libc::SA_RESTART)).map_err(text)?;
    let child = raw::fork(|| 4).map_err(text)?;
    same("status", raw::exit_of(child).map_err(text)?, 4)?;
    same("told", raw::caught(libc::SIGCHLD), 1)?;
    same("who, and CLD_EXITED", raw::last_info(), (child, 1))?;
    let child = raw::fork(|| {
        let _ = raw::kill(own(), libc::SIGKILL);
        0
    })
    .map_err(text)?;
    raw::exit_of(child).map_err(text)?;
    same("who, and CLD_KILLED", raw::last_info(), (child, 2))
}

fn suspend() -> Outcome {
    raw::on_signal(libc::SIGUSR1, Disposition::Count(0)).map_err(text)?;
    works("block", raw::mask(libc::SIG_BLOCK, bit(libc::SIGUSR1)))?;
    raw::kill(own(), libc::SIGUSR1).map_err(text)?;
    let none = 0_u64;
    fails("sigsuspend", raw::call(libc::SYS_rt_sigsuspend, [&raw const none as u64, 8, 0, 0, 0, 0]), libc::EINTR)?;
    same("caught", raw::caught(libc::SIGUSR1), 1)?;
    same("the mask is back", works("mask", raw::mask(libc::SIG_BLOCK, 0))? & bit(libc::SIGUSR1), bit(libc::SIGUSR1))?;
    let child = sender(libc::SIGUSR1)?;
    fails("sigsuspend", raw::call(libc::SYS_rt_sigsuspend, [&raw const none as u64, 8, 0, 0, 0, 0]), libc::EINTR)?;
    same("caught", raw::caught(libc::SIGUSR1), 2)?;
    raw::exit_of(child).map(|_| ()).map_err(text)
}

fn timed_wait() -> Outcome {
    let set = bit(libc::SIGUSR1) | bit(libc::SIGUSR2);
    works("block", raw::mask(libc::SIG_BLOCK, set))?;
    let wait = |millis: u64| {
        let time = [0_u64, millis * 1_000_000];
        raw::call(libc::SYS_rt_sigtimedwait, [&raw const set as u64, 0, time.as_ptr() as u64, 8, 0, 0])
    };
    fails("nothing comes", wait(20), libc::EAGAIN)?;
    raw::kill(own(), libc::SIGUSR2).map_err(text)?;
    same("pending", works("wait", wait(0))?, libc::SIGUSR2 as u64)?;
    let child = sender(libc::SIGUSR1)?;
    same("it comes", works("wait", wait(900))?, libc::SIGUSR1 as u64)?;
    raw::exit_of(child).map(|_| ()).map_err(text)
}

fn alarm() -> Outcome {
    raw::on_signal(libc::SIGALRM, Disposition::Count(0)).map_err(text)?;
    let every = [0_u64, 10_000, 0, 20_000];
    let begun = Instant::now();
    works("setitimer", raw::call(libc::SYS_setitimer, [0, every.as_ptr() as u64, 0, 0, 0, 0]))?;
    while raw::caught(libc::SIGALRM) < 5 {
        that("they come", begun.elapsed() < Duration::from_secs(5))?;
        std::hint::spin_loop();
    }
    that("not too early", begun.elapsed() >= Duration::from_millis(60))?;
    let mut now = [0_u64; 4];
    works("getitimer", raw::call(libc::SYS_getitimer, [0, now.as_mut_ptr() as u64, 0, 0, 0, 0]))?;
    same("period", (now[0], now[1]), (0, 10_000))?;
    works("off", raw::call(libc::SYS_setitimer, [0, [0_u64; 4].as_ptr() as u64, 0, 0, 0, 0]))?;
    same("alarm", works("alarm", raw::call(libc::SYS_alarm, [10, 0, 0, 0, 0, 0]))?, 0)?;
    same("time left", works("alarm", raw::call(libc::SYS_alarm, [0, 0, 0, 0, 0, 0]))?, 10)
}

fn queued() -> Outcome {
    let signal = 40;
    raw::on_signal(signal, Disposition::Count(0)).map_err(text)?;
    works("block", raw::mask(libc::SIG_BLOCK, bit(signal)))?;
    for _ in 0..10 {
        raw::kill(own(), signal).map_err(text)?;
    }
    works("unblock", raw::mask(libc::SIG_UNBLOCK, bit(signal)))?;
    same("each one", raw::caught(signal), 10)
}

fn inherited() -> Outcome {
    raw::on_signal(libc::SIGUSR1, Disposition::Count(0)).map_err(text)?;
    works("block", raw::mask(libc::SIG_BLOCK, bit(libc::SIGUSR1)))?;
    raw::kill(own(), libc::SIGUSR1).map_err(text)?;
    let child = raw::fork(|| {
        // The mask is inherited, pending signals are not.
        let mask = raw::mask(libc::SIG_UNBLOCK, bit(libc::SIGUSR1)).unwrap_or(0);
        if mask & bit(libc::SIGUSR1) == 0 || raw::caught(libc::SIGUSR1) != 0 {
            return 1;
        }
        // The handler is inherited by fork.
        let _ = raw::kill(own(), libc::SIGUSR1);
        i32::from(raw::caught(libc::SIGUSR1) != 1) * 2
    })
    .map_err(text)?;
    same("fork", raw::exit_of(child).map_err(text)?, 0)?;
    raw::on_signal(libc::SIGUSR2, Disposition::Ignore).map_err(text)?;
    let script = "kill -USR2 $$; echo ignored; kill -HUP $$; echo not reached";
    raw::on_signal(libc::SIGHUP, Disposition::Count(0)).map_err(text)?;
    let output = std::process::Command::new("/bin/sh").args(["-c", script]).output().map_err(text)?;
    same("exec keeps what is ignored", String::from_utf8_lossy(&output.stdout).into_owned(), "ignored\n".to_string())
}

fn stop_in_sleep() -> Outcome {
    let child = raw::fork(|| {
        let begun = Instant::now();
        sleep(Duration::from_millis(100));
        i32::from(begun.elapsed() < Duration::from_millis(100))
    })
    .map_err(text)?;
    asleep(child)?;
    raw::kill(child, libc::SIGSTOP).map_err(text)?;
    raw::wait(child, libc::WUNTRACED).map_err(text)?;
    raw::kill(child, libc::SIGCONT).map_err(text)?;
    same("it sleeps on", raw::exit_of(child).map_err(text)?, 0)?;
    let stopped = raw::fork(|| {
        sleep(Duration::from_secs(20));
        0
    })
    .map_err(text)?;
    raw::kill(stopped, libc::SIGSTOP).map_err(text)?;
    raw::kill(stopped, libc::SIGKILL).map_err(text)?;
    same("a stopped one is killed", raw::exit_of(stopped).map_err(text)?, 256 + libc::SIGKILL)
}

fn vector_registers() -> Outcome {
    raw::on_signal(libc::SIGALRM, Disposition::Count(0)).map_err(text)?;
    let every = [0_u64, 1000, 0, 1000];
    let begun = Instant::now();
    works("setitimer", raw::call(libc::SYS_setitimer, [0, every.as_ptr() as u64, 0, 0, 0, 0]))?;
    while begun.elapsed() < Duration::from_millis(100) {
        let mut sums = [0.0_f64; 8];
        for n in 0..2000 {
            for (at, sum) in sums.iter_mut().enumerate() {
                *sum += std::hint::black_box(n as f64 + at as f64);
            }
        }
        let wanted: Vec<f64> = (0..8).map(|at| 1_999_000.0 + 2000.0 * at as f64).collect();
        same("sums", sums.to_vec(), wanted)?;
    }
    that("handlers ran", raw::caught(libc::SIGALRM) > 0)
}

fn bad_arguments() -> Outcome {
    fails("KILL", raw::on_signal(libc::SIGKILL, Disposition::Ignore), libc::EINVAL)?;
    fails("no signal", raw::call(libc::SYS_rt_sigaction, [65, 0, 0, 8, 0, 0]), libc::EINVAL)?;
    fails("a bad size", raw::call(libc::SYS_rt_sigaction, [1, 0, 0, 16, 0, 0]), libc::EINVAL)?;
    let set = 0_u64;
    fails("how", raw::call(libc::SYS_rt_sigprocmask, [9, &raw const set as u64, 0, 8, 0, 0]), libc::EINVAL)?;
    fails("tkill nobody", raw::call(libc::SYS_tkill, [0x3ff_ffff, 0, 0, 0, 0, 0]), libc::ESRCH)
}

/// A signal that comes with what a call waits for does not interrupt the call.
fn with_what_is_waited_for() -> Outcome {
    raw::on_signal(libc::SIGCHLD, Disposition::Count(0)).map_err(text)?;
    for round in 1..=20 {
        let child = raw::fork(|| {
            std::thread::yield_now();
            5
        })
        .map_err(text)?;
        let (pid, status) = raw::wait(child, 0).map_err(text)?;
        same("the child", (pid, libc::WEXITSTATUS(status)), (child, 5))?;
        same("caught", raw::caught(libc::SIGCHLD), round)?;
    }
    Ok(())
}

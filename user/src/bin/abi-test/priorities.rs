//! Real-time threads: who may become one, in which order they run, and what they lend.
use crate::{
    Outcome, Subtest,
    administration::as_nobody,
    check::{call, fails, same, text, that, works},
    futexes::{Words, futex},
    privileges::{apart, is_root},
};
use shimos_user::raw;
use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

pub const TESTS: &[Subtest] = &[
    ("priorities/asked", asked),
    ("priorities/limited", limited),
    ("priorities/order", order),
    ("priorities/rounds", rounds),
    ("priorities/woken", woken),
    ("priorities/lent", lent),
];

const OTHER: u64 = 0;
const FIFO: u64 = 1;
const ROUND_ROBIN: u64 = 2;
const BATCH: u64 = 3;
const IDLE: u64 = 5;
const RESETS: u64 = 0x4000_0000;

fn set(pid: i32, policy: u64, priority: u32) -> raw::Answer {
    call(libc::SYS_sched_setscheduler, &[pid as u64, policy, &raw const priority as u64])
}

fn parameter(priority: u32) -> raw::Answer {
    call(libc::SYS_sched_setparam, &[0, &raw const priority as u64])
}

/// The caller's policy and priority.
fn own() -> Result<(u64, u32), String> {
    let mut priority = 77_u32;
    works("getparam", call(libc::SYS_sched_getparam, &[0, &raw mut priority as u64]))?;
    Ok((works("getscheduler", call(libc::SYS_sched_getscheduler, &[0]))?, priority))
}

/// Milliseconds of a turn.
fn turn() -> Result<u64, String> {
    let mut turn = [7_u64; 2];
    works("interval", call(libc::SYS_sched_rr_get_interval, &[0, turn.as_mut_ptr() as u64]))?;
    Ok(turn[0] * 1000 + turn[1] / 1_000_000)
}

fn asked() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    apart(|| {
        works("fifo", set(0, FIFO, 10))?;
        same("kept", own()?, (FIFO, 10))?;
        same("no turn", turn()?, 0)?;
        works("another priority", parameter(99))?;
        same("kept", own()?, (FIFO, 99))?;
        let mut got = [0_u32; 14];
        works("getattr", call(libc::SYS_sched_getattr, &[0, got.as_mut_ptr() as u64, 56, 0]))?;
        same("attributes", (got[1], got[4], got[5]), (1, 0, 99))?;
        for priority in [0, 100, 1 << 20, u32::MAX] {
            fails("priority", parameter(priority), libc::EINVAL)?;
        }
        fails("ordinary with a priority", set(0, OTHER, 1), libc::EINVAL)?;
        apart(|| same("inherited", own()?, (FIFO, 99)))?;
        works("rr", set(0, ROUND_ROBIN | RESETS, 3))?;
        that(&format!("turn {}", turn()?), turn()? > 0)?;
        same("kept", own()?, (ROUND_ROBIN | RESETS, 3))?;
        apart(|| same("not inherited", own()?, (OTHER, 0)))?;
        let stat = std::fs::read_to_string("/proc/self/stat").map_err(text)?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // Priority, real-time priority, policy: the name was the second field.
        same("shown", (fields[15], fields[37], fields[38]), ("-4", "3", "2"))?;
        works("back", set(0, OTHER, 0))?;
        same("ordinary", own()?, (OTHER, 0))
    })
}

/// What users without rights may do is what RLIMIT_RTPRIO says.
fn limited() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    apart(|| {
        let limit = [5_u64, 5];
        if call(libc::SYS_setrlimit, &[14, limit.as_ptr() as u64]).is_err() {
            // The tests' own user may not raise it.
            return Ok(());
        }
        as_nobody(|| {
            works("up to it", set(0, FIFO, 5))?;
            fails("above", set(0, FIFO, 6), libc::EPERM)?;
            works("below", parameter(3))?;
            works("up again", set(0, ROUND_ROBIN, 5))?;
            let none = [0_u64, 0];
            works("no limit", call(libc::SYS_setrlimit, &[14, none.as_ptr() as u64]))?;
            fails("another policy", set(0, FIFO, 1), libc::EPERM)?;
            works("less", parameter(4))?;
            fails("more", parameter(5), libc::EPERM)?;
            works("the flag", set(0, ROUND_ROBIN | RESETS, 4))?;
            fails("without it", set(0, ROUND_ROBIN, 4), libc::EPERM)?;
            works("ordinary", set(0, BATCH | RESETS, 0))?;
            fails("never more", set(0, FIFO, 1), libc::EPERM)?;
            works("idle", set(0, IDLE | RESETS, 0))?;
            fails("not idle any more", set(0, OTHER | RESETS, 0), libc::EPERM)
        })
    })
}

/// Stays on the first processor that there is: one runs at a time.
fn pin() -> Outcome {
    let mut set = [0_u64; 16];
    let bytes = works("getaffinity", call(libc::SYS_sched_getaffinity, &[0, 128, set.as_mut_ptr() as u64]))?;
    let mut left = true;
    for word in &mut set {
        let lowest = if left { *word & word.wrapping_neg() } else { 0 };
        left &= lowest == 0;
        *word = lowest;
    }
    works("setaffinity", call(libc::SYS_sched_setaffinity, &[0, bytes, set.as_ptr() as u64])).map(drop)
}

/// Children of these priorities and policies, which do `work` as soon as they come to run.
fn children(of: &[(u64, u32)], work: impl Fn(usize) -> i32) -> Result<Vec<i32>, String> {
    let mut pids = Vec::new();
    for (index, (policy, priority)) in of.iter().enumerate() {
        let pid = raw::fork(|| work(index)).map_err(text)?;
        works("child's policy", set(pid, *policy, *priority))?;
        pids.push(pid);
    }
    Ok(pids)
}

fn statuses(pids: Vec<i32>) -> Result<Vec<i32>, String> {
    pids.into_iter().map(|pid| raw::exit_of(pid).map_err(text)).collect()
}

/// Everyone runs when all of a higher priority wait. Whose priority was lowered comes before those that had it.
fn order() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    apart(|| {
        pin()?;
        works("own", set(0, FIFO, 50))?;
        let words = Words::new()?;
        let came = |_| words.word(0).fetch_add(1, SeqCst) as i32;
        let pids = children(&[(FIFO, 10), (FIFO, 30), (OTHER, 0), (ROUND_ROBIN, 20), (FIFO, 30)], came)?;
        same("nobody yet", words.word(0).load(SeqCst), 0)?;
        same("places", statuses(pids)?, vec![3, 1, 4, 2, 0])?;
        // One with a higher priority than the caller's runs at once.
        let pid = raw::fork(|| came(0)).map_err(text)?;
        works("higher", set(pid, FIFO, 60))?;
        same("came", words.word(0).load(SeqCst), 6)?;
        same("place", raw::exit_of(pid).map_err(text)?, 5)
    })
}

/// sched_yield leads behind those of the same priority, and never to one of a lower.
fn rounds() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    apart(|| {
        pin()?;
        works("own", set(0, FIFO, 50))?;
        let words = Words::new()?;
        let mine = |index: usize| {
            for _ in 0..3 {
                // Each in turn finds the word as the other has left it; the last that was made begins.
                if words.word(0).fetch_add(1, SeqCst) % 2 == index as u32 {
                    return 1;
                }
                let _ = call(libc::SYS_sched_yield, &[]);
            }
            0
        };
        let late = |index: usize| if index == 2 { i32::from(words.word(0).load(SeqCst) != 6) } else { mine(index) };
        let pids = children(&[(FIFO, 20), (FIFO, 20), (FIFO, 19)], late)?;
        same("in turn", statuses(pids)?, vec![0, 0, 0])
    })
}

const WAIT: u64 = 0;
const WAKE: u64 = 1;
const LOCK_PI: u64 = 6;
const UNLOCK_PI: u64 = 7;

/// Waits until something is so.
fn until(what: &str, holds: impl Fn() -> bool) -> Outcome {
    let begun = Instant::now();
    while !holds() {
        that(what, begun.elapsed() < Duration::from_secs(20))?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A field of a process's stat, the state being the first.
fn field(pid: i32, index: usize) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().unwrap_or_default().split_whitespace().nth(index).unwrap_or_default().to_string()
}

fn asleep(pid: i32) -> Outcome {
    until("sleeps", || field(pid, 0) == "S")
}

/// A futex wakes by priority, those of the same as they came.
fn woken() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    apart(|| {
        pin()?;
        works("own", set(0, FIFO, 50))?;
        let words = Words::new()?;
        let wait = |_| {
            let woken = futex(&[words.at(0), WAIT, 0]).is_ok();
            let place = words.word(1).fetch_add(1, SeqCst);
            if woken { place as i32 } else { 100 }
        };
        let of = [(FIFO, 10), (OTHER, 0), (FIFO, 30), (FIFO, 10)];
        let mut pids = Vec::new();
        for one in of {
            let pid = children(&[one], wait)?;
            asleep(pid[0])?;
            pids.extend(pid);
        }
        for count in 1..=4 {
            same("one", futex(&[words.at(0), WAKE, 1]), Ok(1))?;
            until("came", || words.word(1).load(SeqCst) == count)?;
        }
        same("places", statuses(pids)?, vec![1, 3, 0, 2])
    })
}

/// Who holds a lock has the priority of those that wait for it, until it gives the lock up; the highest has it next.
fn lent() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    apart(|| {
        let words = Words::new()?;
        let holds = raw::fork(|| {
            let taken = futex(&[words.at(0), LOCK_PI]).is_ok();
            words.word(1).store(1, SeqCst);
            while words.word(1).load(SeqCst) == 1 {
                std::thread::sleep(Duration::from_millis(1));
            }
            let given = futex(&[words.at(0), UNLOCK_PI]).is_ok();
            words.word(1).store(3, SeqCst);
            while words.word(1).load(SeqCst) == 3 {
                std::thread::sleep(Duration::from_millis(1));
            }
            i32::from(!(taken && given))
        })
        .map_err(text)?;
        until("taken", || words.word(1).load(SeqCst) == 1)?;
        same("usual", field(holds, 15), "20".to_string())?;
        let wait = |_| {
            let taken = futex(&[words.at(0), LOCK_PI]).is_ok();
            let place = words.word(2).fetch_add(1, SeqCst);
            let given = futex(&[words.at(0), UNLOCK_PI]).is_ok();
            if taken && given { place as i32 } else { 100 }
        };
        let mut pids = Vec::new();
        for (priority, shown) in [(10, "-11"), (30, "-31"), (20, "-31")] {
            let start = |_| {
                let begun = Instant::now();
                while own().is_ok_and(|(policy, _)| policy == OTHER) && begun.elapsed() < Duration::from_secs(20) {
                    std::thread::yield_now();
                }
                wait(0)
            };
            let pid = children(&[(FIFO, priority)], start)?;
            asleep(pid[0])?;
            same("lent", field(holds, 15), shown.to_string())?;
            pids.extend(pid);
        }
        words.word(1).store(2, SeqCst);
        until("given up", || words.word(1).load(SeqCst) == 3)?;
        same("returned", field(holds, 15), "20".to_string())?;
        words.word(1).store(4, SeqCst);
        same("by priority", statuses(pids)?, vec![2, 0, 1])?;
        same("holder", raw::exit_of(holds).map_err(text)?, 0)
    })
}

//! Futexes, robust lists, and what threads and processes share.
use crate::{
    Outcome, Subtest,
    check::{asleep, call, fails, same, state, text, that, works},
};
use shimos_user::raw::{self, Disposition, Map};
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("futex/wait-and-wake", wait_and_wake),
    ("futex/time-limits", time_limits),
    ("futex/bitset", bitset),
    ("futex/requeue", requeue),
    ("futex/wake-op", wake_op),
    ("futex/waitv", waitv),
    ("futex/signal", signal),
    ("futex/errors", errors),
    ("futex/lock", lock),
    ("futex/lock-errors", lock_errors),
    ("futex/lock-owner-dies", lock_owner_dies),
    ("futex/requeue-lock", requeue_lock),
    ("futex/lock-and-signals", lock_and_signals),
    ("futex/robust", robust),
    ("futex/robust-loop", robust_loop),
    ("clone/flags", clone_flags),
    ("clone/clear-handlers", clear_handlers),
    ("clone/chosen-id", chosen_id),
    ("clone/own-files", own_files),
    ("clone/own-directory", own_directory),
    ("clone/shared-directory", shared_directory),
    ("clone/unshare", unshare),
    ("clone/main-thread-ends", main_thread_ends),
    ("clone/parent", brother),
];

const WAIT: u64 = 0;
const WAKE: u64 = 1;
const REQUEUE: u64 = 3;
const CMP_REQUEUE: u64 = 4;
const WAKE_OP: u64 = 5;
const LOCK_PI: u64 = 6;
const UNLOCK_PI: u64 = 7;
const TRYLOCK_PI: u64 = 8;
const WAIT_BITSET: u64 = 9;
const WAKE_BITSET: u64 = 10;
const WAIT_REQUEUE_PI: u64 = 11;
const CMP_REQUEUE_PI: u64 = 12;
const LOCK_PI2: u64 = 13;
const REALTIME: u64 = 256;
const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;

/// futex(2).
pub fn futex(arguments: &[u64]) -> raw::Answer {
    call(libc::SYS_futex, arguments)
}

/// Memory that processes share, as words.
pub struct Words(Map);

impl Words {
    pub fn new() -> Result<Words, String> {
        Map::anonymous(4096, libc::MAP_SHARED).map(Words).map_err(text)
    }
    pub fn at(&self, index: u64) -> u64 {
        self.0.addr() + index * 4
    }
    pub fn word(&self, index: u64) -> &'static AtomicU32 {
        raw::word(self.at(index))
    }
    fn get(&self, index: u64) -> u32 {
        self.word(index).load(Ordering::SeqCst)
    }
    fn set(&self, index: u64, value: u32) {
        self.word(index).store(value, Ordering::SeqCst);
    }
}

fn forked(work: impl FnOnce() -> i32) -> Result<i32, String> {
    raw::fork(work).map_err(text)
}

fn sleeper(work: impl FnOnce() -> i32) -> Result<i32, String> {
    let pid = forked(work)?;
    asleep(pid)?;
    Ok(pid)
}

fn status(pid: i32) -> Result<i32, String> {
    raw::exit_of(pid).map_err(text)
}

/// What a call came to, as an exit status: its error number.
fn code(answer: raw::Answer) -> i32 {
    answer.map_or_else(|errno| errno, |_| 0)
}

fn wait_and_wake() -> Outcome {
    let words = Words::new()?;
    fails("another value", futex(&[words.at(0), WAIT, 1]), libc::EAGAIN)?;
    same("nobody", futex(&[words.at(0), WAKE, 1]), Ok(0))?;
    let children = [0; 3].map(|_| sleeper(|| code(futex(&[words.at(0), WAIT, 0]))));
    let [a, b, c] = children;
    let (a, b, c) = (a?, b?, c?);
    same("another word", futex(&[words.at(1), WAKE, 9]), Ok(0))?;
    same("one", futex(&[words.at(0), WAKE, 1]), Ok(1))?;
    same("first come first", status(a)?, 0)?;
    same("the rest", futex(&[words.at(0), WAKE, 9]), Ok(2))?;
    same("status", (status(b)?, status(c)?), (0, 0))?;
    // A file that two processes map is one word, at whatever address.
    let file =
        std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open("f").map_err(text)?;
    file.set_len(8192).map_err(text)?;
    let map = || {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        Map::new(8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0).map_err(text)
    };
    let (first, second) = (map()?, map()?);
    let child = sleeper(|| code(futex(&[first.addr() + 4096, WAIT, 0])))?;
    same("by the other mapping", futex(&[second.addr() + 4096, WAKE, 1]), Ok(1))?;
    same("status", status(child)?, 0)
}

fn now(clock: i32) -> [u64; 2] {
    let mut time = [0_u64; 2];
    let _ = call(libc::SYS_clock_gettime, &[clock as u64, time.as_mut_ptr() as u64]);
    time
}

fn time_limits() -> Outcome {
    let words = Words::new()?;
    let begun = Instant::now();
    let limit = [0_u64, 20_000_000];
    fails("relative", futex(&[words.at(0), WAIT, 0, limit.as_ptr() as u64]), libc::ETIMEDOUT)?;
    that("not too early", begun.elapsed() >= Duration::from_millis(20))?;
    for (clock, flag) in [(libc::CLOCK_MONOTONIC, 0), (libc::CLOCK_REALTIME, REALTIME)] {
        let mut until = now(clock);
        until[1] += 20_000_000;
        (until[0], until[1]) = (until[0] + until[1] / 1_000_000_000, until[1] % 1_000_000_000);
        let waited = futex(&[words.at(0), WAIT_BITSET | flag, 0, until.as_ptr() as u64, 0, u32::MAX.into()]);
        fails("a point in time", waited, libc::ETIMEDOUT)?;
        that("not too early", now(clock) >= until)?;
        let past = [1_u64, 0];
        let waited = futex(&[words.at(0), WAIT_BITSET | flag, 0, past.as_ptr() as u64, 0, u32::MAX.into()]);
        fails("long ago", waited, libc::ETIMEDOUT)?;
    }
    let bad = [0_u64, 1_000_000_000];
    fails("no time", futex(&[words.at(0), WAIT, 0, bad.as_ptr() as u64]), libc::EINVAL)?;
    fails("a flag that is not for this", futex(&[words.at(0), WAIT | REALTIME, 0, 0]), libc::ENOSYS)
}

fn bitset() -> Outcome {
    let words = Words::new()?;
    let wait = |bits: u64| code(futex(&[words.at(0), WAIT_BITSET, 0, 0, 0, bits]));
    let (a, b) = (sleeper(|| wait(1))?, sleeper(|| wait(6))?);
    same("nobody", futex(&[words.at(0), WAKE_BITSET, 9, 0, 0, 8]), Ok(0))?;
    same("the second", futex(&[words.at(0), WAKE_BITSET, 9, 0, 0, 4]), Ok(1))?;
    same("status", status(b)?, 0)?;
    same("all", futex(&[words.at(0), WAKE, 9]), Ok(1))?;
    same("status", status(a)?, 0)?;
    fails("no bits", futex(&[words.at(0), WAIT_BITSET, 0, 0, 0, 0]), libc::EINVAL)?;
    fails("no bits", futex(&[words.at(0), WAKE_BITSET, 0, 0, 0, 0]), libc::EINVAL)
}

fn requeue() -> Outcome {
    let words = Words::new()?;
    let mut children = Vec::new();
    for _ in 0..4 {
        children.push(sleeper(|| code(futex(&[words.at(0), WAIT, 0])))?);
    }
    let (from, to) = (words.at(0), words.at(9));
    fails("another value", futex(&[from, CMP_REQUEUE, 1, 9, to, 7]), libc::EAGAIN)?;
    same("woken and moved", futex(&[from, CMP_REQUEUE, 1, 2, to, 0]), Ok(3))?;
    same("status", status(children[0])?, 0)?;
    // Those that were moved do not mind what the first word holds.
    words.set(0, 5);
    same("one left", futex(&[from, WAKE, 9]), Ok(1))?;
    same("status", status(children[3])?, 0)?;
    same("moved back", futex(&[to, REQUEUE, 0, 1, from]), Ok(1))?;
    same("there", futex(&[from, WAKE, 9]), Ok(1))?;
    same("and there", futex(&[to, WAKE, 9]), Ok(1))?;
    same("status", (status(children[1])?, status(children[2])?), (0, 0))?;
    fails("less than none", futex(&[from, CMP_REQUEUE, u32::MAX.into(), 1, to, 5]), libc::EINVAL)
}

fn wake_op() -> Outcome {
    let words = Words::new()?;
    let (first, second) = (words.at(0), words.at(1));
    let encode = |operation: u64, argument: u64, compare: u64, with: u64| {
        operation << 28 | compare << 24 | argument << 12 | with
    };
    let operate = |code: u64| futex(&[first, WAKE_OP, 9, 9, second, code]);
    same("set", operate(encode(0, 12, 0, 0)), Ok(0))?;
    same("word", words.get(1), 12)?;
    same("add", operate(encode(1, 0xfff, 0, 0)), Ok(0))?;
    same("word", words.get(1), 11)?;
    same("or a shifted bit", operate(encode(2 | 8, 4, 0, 0)), Ok(0))?;
    same("word", words.get(1), 27)?;
    same("and not", operate(encode(3, 3, 0, 0)), Ok(0))?;
    same("word", words.get(1), 24)?;
    same("exclusive or", operate(encode(4, 1, 0, 0)), Ok(0))?;
    same("word", words.get(1), 25)?;
    let a = sleeper(|| code(futex(&[words.at(0), WAIT, 0])))?;
    let b = sleeper(|| code(futex(&[words.at(1), WAIT, 25])))?;
    same("only the first", operate(encode(0, 25, 4, 25)), Ok(1))?;
    same("status", status(a)?, 0)?;
    same("the second as well", operate(encode(0, 0, 5, 25)), Ok(1))?;
    same("status", status(b)?, 0)?;
    fails("no such operation", operate(encode(7, 0, 0, 0)), libc::ENOSYS)
}

fn waitv() -> Outcome {
    let words = Words::new()?;
    let entry = |index: u64, value: u64| [value, words.at(index), 2];
    let wait = |all: &[[u64; 3]], limit: u64| {
        call(libc::SYS_futex_waitv, &[all.as_ptr() as u64, all.len() as u64, 0, limit, libc::CLOCK_MONOTONIC as u64])
    };
    fails("none", wait(&[], 0), libc::EINVAL)?;
    fails("another value", wait(&[entry(0, 0), entry(1, 5)], 0), libc::EAGAIN)?;
    fails("long ago", wait(&[entry(0, 0)], [1_u64, 0].as_ptr() as u64), libc::ETIMEDOUT)?;
    fails("a size", wait(&[[0, words.at(0), 1]], 0), libc::EINVAL)?;
    let child = sleeper(|| match wait(&[entry(0, 0), entry(1, 0), entry(2, 0)], 0) {
        Ok(index) => 100 + index as i32,
        Err(errno) => errno,
    })?;
    same("the third", futex(&[words.at(2), WAKE, 1]), Ok(1))?;
    same("which", status(child)?, 102)
}

fn signal() -> Outcome {
    let words = Words::new()?;
    let child = sleeper(|| {
        let _ = raw::on_signal(libc::SIGUSR1, Disposition::Count(libc::SA_RESTART));
        let answer = futex(&[words.at(0), WAIT, 0]);
        if raw::caught(libc::SIGUSR1) == 1 { code(answer) } else { 255 }
    })?;
    raw::kill(child, libc::SIGUSR1).map_err(text)?;
    asleep(child)?;
    // It went on waiting.
    let begun = Instant::now();
    while futex(&[words.at(0), WAKE, 1]) != Ok(1) && begun.elapsed() < Duration::from_secs(20) {
        std::thread::yield_now();
    }
    same("restarted", status(child)?, 0)?;
    // With a time limit it ends.
    let limit = [100_u64, 0];
    let child = sleeper(|| {
        let _ = raw::on_signal(libc::SIGUSR1, Disposition::Count(libc::SA_RESTART));
        code(futex(&[words.at(0), WAIT, 0, limit.as_ptr() as u64]))
    })?;
    raw::kill(child, libc::SIGUSR1).map_err(text)?;
    same("interrupted", status(child)?, libc::EINTR)
}

fn errors() -> Outcome {
    let words = Words::new()?;
    fails("an odd address", futex(&[words.at(0) + 1, WAIT, 0]), libc::EINVAL)?;
    fails("an odd address", futex(&[words.at(0) + 2, WAKE, 1]), libc::EINVAL)?;
    fails("a bad address", futex(&[8, WAIT, 0]), libc::EFAULT)?;
    fails("no such operation", futex(&[words.at(0), 99, 0]), libc::ENOSYS)?;
    fails("FUTEX_FD", futex(&[words.at(0), 2, 0]), libc::ENOSYS)
}

fn gettid() -> u32 {
    call(libc::SYS_gettid, &[]).unwrap_or(0) as u32
}

fn lock() -> Outcome {
    let words = Words::new()?;
    let at = words.at(0);
    works("take", futex(&[at, LOCK_PI]))?;
    same("word", words.get(0), gettid())?;
    fails("twice", futex(&[at, LOCK_PI]), libc::EDEADLK)?;
    let take = |operation: u64| {
        sleeper(|| {
            let taken = futex(&[at, operation]).is_ok() && words.get(0) == gettid() | WAITERS;
            if taken { code(futex(&[at, UNLOCK_PI])) } else { 255 }
        })
    };
    let (first, second) = (take(LOCK_PI)?, take(LOCK_PI2)?);
    same("others wait", words.get(0), gettid() | WAITERS)?;
    let other = forked(|| code(futex(&[at, TRYLOCK_PI])))?;
    same("try", status(other)?, libc::EAGAIN)?;
    let other = forked(|| code(futex(&[at, UNLOCK_PI])))?;
    same("not its own", status(other)?, libc::EPERM)?;
    let limited = forked(|| code(futex(&[at, LOCK_PI, 0, [1_u64, 0].as_ptr() as u64])))?;
    same("too late", status(limited)?, libc::ETIMEDOUT)?;
    works("give up", futex(&[at, UNLOCK_PI]))?;
    same("handed on", (status(first)?, status(second)?), (0, 0))?;
    same("free", words.get(0), 0)?;
    works("try", futex(&[at, TRYLOCK_PI]))?;
    works("give up", futex(&[at, UNLOCK_PI]))?;
    same("free", words.get(0), 0)
}

fn lock_errors() -> Outcome {
    let words = Words::new()?;
    let at = words.at(0);
    words.set(0, 0x3ff_fff0);
    fails("an owner that is not there", futex(&[at, LOCK_PI]), libc::ESRCH)?;
    words.set(0, 0);
    fails("nobody's", futex(&[at, UNLOCK_PI]), libc::EPERM)?;
    // Waiting for a lock and waiting for a word do not mix.
    words.set(0, gettid());
    let waiter = sleeper(|| code(futex(&[at, LOCK_PI])))?;
    fails("a wake", futex(&[at, WAKE, 1]), libc::EINVAL)?;
    works("give up", futex(&[at, UNLOCK_PI]))?;
    same("status", status(waiter)?, 0)?;
    // Two that wait for each other.
    words.set(1, gettid());
    words.set(2, 0);
    let other = sleeper(|| {
        let _ = futex(&[words.at(2), LOCK_PI]);
        let got = code(futex(&[words.at(1), LOCK_PI]));
        let _ = futex(&[words.at(2), UNLOCK_PI]);
        got
    })?;
    fails("a circle", futex(&[words.at(2), LOCK_PI]), libc::EDEADLK)?;
    works("give up", futex(&[words.at(1), UNLOCK_PI]))?;
    same("status", status(other)?, 0)
}

fn lock_owner_dies() -> Outcome {
    let words = Words::new()?;
    let owner = forked(|| {
        let _ = futex(&[words.at(0), LOCK_PI]);
        words.set(1, 1);
        let _ = futex(&[words.at(2), WAIT, 0]);
        0
    })?;
    let begun = Instant::now();
    while words.get(1) == 0 && begun.elapsed() < Duration::from_secs(20) {
        std::thread::yield_now();
    }
    let heir = sleeper(|| {
        let got = code(futex(&[words.at(0), LOCK_PI]));
        if words.get(0) & !WAITERS == gettid() | OWNER_DIED { got } else { 255 }
    })?;
    works("wake", futex(&[words.at(2), WAKE, 1]))?;
    same("status", (status(owner)?, status(heir)?), (0, 0))
}

fn requeue_lock() -> Outcome {
    let words = Words::new()?;
    let (condition, lock) = (words.at(0), words.at(1));
    let wait = || {
        if futex(&[condition, WAIT_REQUEUE_PI, 0, 0, lock]).is_err() || words.get(1) & !WAITERS != gettid() {
            return 255;
        }
        code(futex(&[lock, UNLOCK_PI]))
    };
    let (a, b) = (sleeper(wait)?, sleeper(wait)?);
    fails("another value", futex(&[condition, CMP_REQUEUE_PI, 1, 9, lock, 7]), libc::EAGAIN)?;
    fails("more than one", futex(&[condition, CMP_REQUEUE_PI, 2, 9, lock, 0]), libc::EINVAL)?;
    fails("to another lock", futex(&[condition, CMP_REQUEUE_PI, 1, 9, words.at(2), 0]), libc::EINVAL)?;
    fails("a wake", futex(&[condition, WAKE, 1]), libc::EINVAL)?;
    same("both", futex(&[condition, CMP_REQUEUE_PI, 1, 9, lock, 0]), Ok(2))?;
    same("status", (status(a)?, status(b)?), (0, 0))?;
    same("free", words.get(1), 0)?;
    fails("to itself", futex(&[lock, WAIT_REQUEUE_PI, 0, 0, lock]), libc::EINVAL)?;
    let past = [1_u64, 0];
    fails("too late", futex(&[condition, WAIT_REQUEUE_PI, 0, past.as_ptr() as u64, lock]), libc::ETIMEDOUT)
}

/// A signal does not end a wait for a lock, nor one to be moved to a lock; one that was moved is given up.
fn lock_and_signals() -> Outcome {
    let words = Words::new()?;
    let (condition, lock, caught) = (words.at(0), words.at(1), words.word(2));
    raw::on_signal(libc::SIGUSR1, Disposition::Count(0)).map_err(text)?;
    let counted = |answer: raw::Answer| {
        caught.store(raw::caught(libc::SIGUSR1), Ordering::SeqCst);
        code(answer)
    };
    let interrupt = |pid: i32| raw::kill(pid, libc::SIGUSR1).map_err(text).and_then(|()| asleep(pid));
    works("lock", futex(&[lock, LOCK_PI]))?;
    let waiter = sleeper(|| counted(futex(&[condition, WAIT_REQUEUE_PI, 0, 0, lock])))?;
    interrupt(waiter)?;
    same("it still waits", futex(&[condition, CMP_REQUEUE_PI, 1, 0, lock, 0]), Ok(1))?;
    raw::kill(waiter, libc::SIGUSR1).map_err(text)?;
    same("given up", status(waiter)?, libc::EAGAIN)?;
    same("both were caught", words.get(2), 2)?;
    let waiter = sleeper(|| {
        let got = counted(futex(&[lock, LOCK_PI]));
        got + code(futex(&[lock, UNLOCK_PI]))
    })?;
    interrupt(waiter)?;
    works("unlock", futex(&[lock, UNLOCK_PI]))?;
    same("it has the lock", (status(waiter)?, words.get(2)), (0, 1))
}

/// A robust list in `map`: the head at 0, an entry for each of `entries` places; its lock lies 8 bytes behind it.
fn list(map: &Map, entries: &[u64], pending: u64) {
    let put = |at: u64, value: u64| {
        raw::word(map.addr() + at).store(value as u32, Ordering::SeqCst);
        raw::word(map.addr() + at + 4).store((value >> 32) as u32, Ordering::SeqCst);
    };
    let place = |entry: &u64| map.addr() + entry;
    put(0, entries.first().map_or(map.addr(), place));
    put(8, 8);
    put(16, if pending == 0 { 0 } else { map.addr() + pending });
    for (index, entry) in entries.iter().enumerate() {
        put(*entry & !1, entries.get(index + 1).map_or(map.addr(), place));
    }
}

fn robust() -> Outcome {
    let words = Words::new()?;
    let map = &words.0;
    // Entries at 64, 128 (a lock with an owner in the kernel) and 192; the one at 256 is pending.
    let lock = |entry: u64| entry / 4 + 2;
    let waiter = {
        words.set(lock(64), 1);
        let value = |word: u32| u64::from(word);
        let at = words.at(lock(64));
        let holder = forked(|| {
            list(map, &[64, 128 | 1, 192], 256);
            words.set(lock(64), gettid() | WAITERS);
            words.set(lock(128), gettid());
            words.set(lock(192), 12345);
            words.set(lock(256), gettid());
            if call(libc::SYS_set_robust_list, &[map.addr(), 24]).is_err() {
                return 1;
            }
            words.set(0x100, 1);
            while words.get(0x100) == 1 {
                let _ = futex(&[words.at(0x100), WAIT, 1]);
            }
            0
        })?;
        let begun = Instant::now();
        while words.get(0x100) == 0 && begun.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
        let (mut head, mut len) = (0_u64, 0_u64);
        let places = [&raw mut head as u64, &raw mut len as u64];
        works("get_robust_list", call(libc::SYS_get_robust_list, &[holder as u64, places[0], places[1]]))?;
        same("list", (head, len), (map.addr(), 24))?;
        let held = words.get(lock(64));
        let waiter = sleeper(|| code(futex(&[at, WAIT, value(held)])))?;
        words.set(0x100, 2);
        works("wake", futex(&[words.at(0x100), WAKE, 1]))?;
        same("holder", status(holder)?, 0)?;
        waiter
    };
    same("waiter", status(waiter)?, 0)?;
    same("left, with waiters", words.get(lock(64)), OWNER_DIED | WAITERS)?;
    same("left, with an owner in the kernel", words.get(lock(128)), OWNER_DIED)?;
    same("another's", words.get(lock(192)), 12345)?;
    same("pending", words.get(lock(256)), OWNER_DIED)?;
    fails("a size", call(libc::SYS_set_robust_list, &[map.addr(), 23]), libc::EINVAL)?;
    fails("no thread", call(libc::SYS_get_robust_list, &[0x3ff_fff0, 0, 0]), libc::ESRCH)
}

fn robust_loop() -> Outcome {
    let words = Words::new()?;
    let map = &words.0;
    for (entries, head) in [(&[64, 128, 64][..], map.addr()), (&[64, 3000][..], map.addr()), (&[][..], 8)] {
        let child = forked(|| {
            list(map, entries, 0);
            if entries.len() == 2 {
                // The second leads nowhere.
                raw::word(map.addr() + 3000).store(16, Ordering::SeqCst);
            }
            words.set(64 / 4 + 2, gettid());
            code(call(libc::SYS_set_robust_list, &[head, 24]))
        })?;
        same("ends", status(child)?, 0)?;
        if head != 8 {
            same("left", words.get(64 / 4 + 2), OWNER_DIED)?;
        }
    }
    Ok(())
}

fn clone_flags() -> Outcome {
    let clone = |flags: i32| call(libc::SYS_clone, &[flags as u64]);
    fails("handlers without memory", clone(libc::CLONE_SIGHAND), libc::EINVAL)?;
    fails("a thread without handlers", clone(libc::CLONE_THREAD | libc::CLONE_VM), libc::EINVAL)?;
    fails("directories shared and not", clone(libc::CLONE_FS | libc::CLONE_NEWNS), libc::EINVAL)?;
    let clone3 = |arguments: [u64; 11]| raw::clone3(&arguments);
    let with = |pairs: &[(usize, u64)]| {
        let mut arguments = [0; 11];
        for (index, value) in pairs {
            arguments[*index] = *value;
        }
        arguments
    };
    fails("a signal in the flags", clone3(with(&[(0, 17)])), libc::EINVAL)?;
    fails("no such signal", clone3(with(&[(4, 65)])), libc::EINVAL)?;
    fails("detached", clone3(with(&[(0, libc::CLONE_DETACHED as u64)])), libc::EINVAL)?;
    fails("an unknown flag", clone3(with(&[(0, 1 << 40)])), libc::EINVAL)?;
    fails("a stack without a size", clone3(with(&[(5, 4096)])), libc::EINVAL)?;
    fails("a size without a stack", clone3(with(&[(6, 4096)])), libc::EINVAL)?;
    fails("ids without a number", clone3(with(&[(8, 4096)])), libc::EINVAL)?;
    fails("too many ids", clone3(with(&[(8, 4096), (9, 33)])), libc::EINVAL)?;
    fails("a brother with a signal", clone3(with(&[(0, libc::CLONE_PARENT as u64), (4, 17)])), libc::EINVAL)?;
    let arguments = with(&[]);
    let place = arguments.as_ptr() as u64;
    fails("too small", call(libc::SYS_clone3, &[place, 56]), libc::EINVAL)?;
    fails("too large", call(libc::SYS_clone3, &[place, 5000]), libc::E2BIG)
}

fn clear_handlers() -> Outcome {
    raw::on_signal(libc::SIGUSR1, Disposition::Count(0)).map_err(text)?;
    raw::on_signal(libc::SIGUSR2, Disposition::Ignore).map_err(text)?;
    let mut arguments = [0; 11];
    (arguments[0], arguments[4]) = (1 << 32, libc::SIGCHLD as u64);
    let child = works("clone3", raw::clone3(&arguments))?;
    if child == 0 {
        let me = std::process::id() as i32;
        let _ = raw::kill(me, libc::SIGUSR2);
        let _ = raw::kill(me, libc::SIGUSR1);
        raw::leave(0);
    }
    same("by the default", status(child as i32)?, 256 + libc::SIGUSR1)?;
    arguments[0] |= libc::CLONE_SIGHAND as u64;
    fails("shared and cleared", raw::clone3(&arguments), libc::EINVAL)
}

fn chosen_id() -> Outcome {
    let gone = forked(|| 0)?;
    same("status", status(gone)?, 0)?;
    let wanted = gone as u32;
    let mut arguments = [0; 11];
    (arguments[4], arguments[8], arguments[9]) = (libc::SIGCHLD as u64, &raw const wanted as u64, 1);
    match raw::clone3(&arguments) {
        Ok(0) => raw::leave(0),
        Ok(pid) => {
            same("the one that was wanted", pid, u64::from(wanted))?;
            same("status", status(pid as i32)?, 0)?;
        }
        // Whoever else runs on this machine may have taken it.
        Err(libc::EEXIST | libc::EPERM) => {}
        Err(errno) => return Err(format!("clone3: error {errno}")),
    }
    let taken = std::process::id();
    arguments[8] = &raw const taken as u64;
    let answer = raw::clone3(&arguments);
    that("taken", matches!(answer, Err(libc::EEXIST | libc::EPERM)))?;
    let none = 0_u32;
    arguments[8] = &raw const none as u64;
    that("no id", matches!(raw::clone3(&arguments), Err(libc::EINVAL | libc::EPERM)))
}

static SEEN: AtomicU32 = AtomicU32::new(0);

fn own_files() -> Outcome {
    // A thread with a table of its own: what it opens and closes the others do not see.
    let kept = std::fs::File::open("/dev/null").map_err(text)?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&kept);
    SEEN.store(fd as u32, Ordering::SeqCst);
    raw::bare_thread(libc::CLONE_FS, || {
        let fd = u64::from(SEEN.load(Ordering::SeqCst));
        let closed = call(libc::SYS_close, &[fd]).is_ok();
        let copied = call(libc::SYS_dup3, &[1, 777, 0]).is_ok();
        SEEN.store(if closed && copied { 1 } else { 2 }, Ordering::SeqCst);
    })
    .map_err(text)?;
    same("worked there", SEEN.load(Ordering::SeqCst), 1)?;
    works("still open here", call(libc::SYS_fcntl, &[fd as u64, libc::F_GETFD as u64]))?;
    fails("not open here", call(libc::SYS_fcntl, &[777, libc::F_GETFD as u64]), libc::EBADF)?;
    // And one that shares it.
    raw::bare_thread(libc::CLONE_FS | libc::CLONE_FILES, || {
        let _ = call(libc::SYS_dup3, &[1, 777, 0]);
    })
    .map_err(text)?;
    works("open here", call(libc::SYS_close, &[777])).map(|_| ())
}

fn own_directory() -> Outcome {
    let here = std::env::current_dir().map_err(text)?;
    let enter = || {
        let _ = call(libc::SYS_chdir, &[c"/".as_ptr() as u64]);
        let _ = call(libc::SYS_umask, &[0o77]);
    };
    let _ = call(libc::SYS_umask, &[0o22]);
    raw::bare_thread(libc::CLONE_FILES, enter).map_err(text)?;
    same("still here", std::env::current_dir().map_err(text)?, here)?;
    same("and the mask", call(libc::SYS_umask, &[0o22]), Ok(0o22))?;
    raw::bare_thread(libc::CLONE_FILES | libc::CLONE_FS, enter).map_err(text)?;
    same("there", std::env::current_dir().map_err(text)?, "/".into())?;
    same("and the mask", call(libc::SYS_umask, &[0o22]), Ok(0o77))
}

fn shared_directory() -> Outcome {
    // Two processes with one working directory.
    let mut arguments = [0; 11];
    (arguments[0], arguments[4]) = (libc::CLONE_FS as u64, libc::SIGCHLD as u64);
    let child = works("clone3", raw::clone3(&arguments))?;
    if child == 0 {
        let _ = call(libc::SYS_chdir, &[c"/".as_ptr() as u64]);
        // A child of its own by fork has a copy.
        let copy = forked(|| code(call(libc::SYS_chdir, &[c"/dev".as_ptr() as u64]))).and_then(status);
        raw::leave(if copy == Ok(0) { 0 } else { 1 });
    }
    same("child", status(child as i32)?, 0)?;
    same("moved along", std::env::current_dir().map_err(text)?, "/".into())
}

fn unshare() -> Outcome {
    fails("an unknown flag", call(libc::SYS_unshare, &[1]), libc::EINVAL)?;
    let mut arguments = [0; 11];
    (arguments[0], arguments[4]) = ((libc::CLONE_FS | libc::CLONE_FILES) as u64, libc::SIGCHLD as u64);
    let here = std::env::current_dir().map_err(text)?;
    let child = works("clone3", raw::clone3(&arguments))?;
    if child == 0 {
        let parted = call(libc::SYS_unshare, &[arguments[0]]).is_ok();
        let _ = call(libc::SYS_chdir, &[c"/".as_ptr() as u64]);
        let _ = call(libc::SYS_dup3, &[1, 777, 0]);
        raw::leave(i32::from(!parted));
    }
    same("child", status(child as i32)?, 0)?;
    same("still here", std::env::current_dir().map_err(text)?, here)?;
    fails("not open", call(libc::SYS_fcntl, &[777, libc::F_GETFD as u64]), libc::EBADF)
}

fn main_thread_ends() -> Outcome {
    let (mut hear, tell) = std::io::pipe().map_err(text)?;
    let child = forked(move || {
        let mut tell = tell;
        std::thread::spawn(move || {
            let task = format!("/proc/{}/task/{}", std::process::id(), gettid());
            let there = std::fs::metadata(task).is_ok();
            let gone = state(std::process::id() as i32, 'Z').is_ok();
            let _ = std::io::Write::write_all(&mut tell, &[u8::from(there && gone)]);
            let _ = call(libc::SYS_exit, &[9]);
        });
        let _ = call(libc::SYS_exit, &[7]);
        0
    })?;
    let mut heard = [0; 2];
    same("the other went on", std::io::Read::read(&mut hear, &mut heard).map_err(text)?, 1)?;
    same("and was listed", heard[0], 1)?;
    same("the last one's status", status(child)?, 9)
}

fn brother() -> Outcome {
    // A child of the same parent: whoever made it cannot wait for it.
    let (mut hear, mut tell) = std::io::pipe().map_err(text)?;
    let maker = forked(|| {
        let mut arguments = [0; 11];
        arguments[0] = libc::CLONE_PARENT as u64;
        match raw::clone3(&arguments) {
            Ok(0) => raw::leave(5),
            Ok(pid) => {
                let mine = raw::wait(pid as i32, 0).is_ok();
                let _ = std::io::Write::write_all(&mut tell, &(pid as u32).to_le_bytes());
                i32::from(mine)
            }
            Err(errno) => errno,
        }
    })?;
    same("maker", status(maker)?, 0)?;
    let mut pid = [0; 4];
    std::io::Read::read_exact(&mut hear, &mut pid).map_err(text)?;
    same("brother", status(u32::from_le_bytes(pid) as i32)?, 5)
}

//! Issues system calls, random ones and such whose answers are known, to find what kills a kernel or answers wrongly.
//!
//! `fuzz-calls --calls N --seed S` runs children until they have issued N calls. Wild children, some with two threads,
//! issue calls at random and may die of it; they run on Shimos only, for they do what they like. Checked children
//! compare every answer with a model; `--checked` runs those alone, on any Linux. Each child is decided by the seed and
//! its number: `--first K` begins with child K.
#![forbid(unsafe_code)]

use shimos_fuzz::{ARENA, Checker, Memory, Reach, Step, Wild};
use shimos_user::raw::{self, Map};
use std::{
    io::{Read, Write},
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

/// Calls of one child, and of one of its threads.
const QUOTA: u64 = 2000;
/// Children at a time.
const TOGETHER: usize = 6;
/// The longest that a child may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Room for the calls of each child that runs.
const SLOT: usize = 16;
/// A checked child's exit status if an answer was wrong.
const WRONG: i32 = 3;
/// Descriptors that a checked child keeps: input, output, errors, and a pipe to look at memory through.
const FLOOR: u64 = 5;
/// Where a checked child maps memory: no kernel places anything here by itself.
const REGION: u64 = 0x10_0000_0000;

struct Wishes {
    calls: u64,
    seed: u64,
    first: u64,
    checked: bool,
}

fn wishes() -> Option<Wishes> {
    let mut wishes = Wishes { calls: 100_000, seed: 1, first: 0, checked: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--checked" => wishes.checked = true,
            "--calls" => wishes.calls = words.next()?.parse().ok()?,
            "--seed" => wishes.seed = words.next()?.parse().ok()?,
            "--first" => wishes.first = words.next()?.parse().ok()?,
            _ => return None,
        }
    }
    let version = rustix::system::uname().version().to_string_lossy().into_owned();
    if !version.starts_with("Shimos") && !wishes.checked {
        eprintln!("fuzz-calls: not on Shimos: only --checked is safe here");
        return None;
    }
    Some(wishes)
}

/// A child at work.
struct Child {
    pid: i32,
    number: u64,
    slot: usize,
    begun: Instant,
}

fn main() -> ExitCode {
    let Some(wishes) = wishes() else {
        eprintln!("usage: fuzz-calls [--calls N] [--seed S] [--first K] [--checked]");
        return ExitCode::from(2);
    };
    let base = std::env::temp_dir().join(format!("fuzz-{}", std::process::id()));
    let Ok(counts) = Map::anonymous(4096, libc::MAP_SHARED) else { return ExitCode::from(2) };
    let _ = std::fs::create_dir_all("/wild");
    let _ = std::fs::create_dir_all(&base);
    let mut running: Vec<Child> = Vec::new();
    let (mut next, mut done, mut said) = (wishes.first, 0, 0);
    let (mut killed, mut ended, mut wrong) = (0, 0, Vec::new());
    loop {
        let under_way: u64 = running.iter().map(|child| counted(&counts, child.slot)).sum();
        if done + under_way >= said + 100_000 {
            said = (done + under_way) / 100_000 * 100_000;
            say(&format!("fuzz-calls: {said} calls, child {next}"));
        }
        if done >= wishes.calls {
            break;
        }
        while running.len() < TOGETHER {
            let Some(slot) = (0..TOGETHER).find(|slot| running.iter().all(|child| child.slot != *slot)) else { break };
            count(&counts, slot, 0);
            let number = next;
            let checked = is_checked(&wishes, number);
            let (seed, place) = (wishes.seed, base.join(format!("{number}")));
            let work = || {
                if checked {
                    checked_child(seed, number, &place, &counts, slot)
                } else {
                    wild_child(seed, number, &counts, slot)
                }
            };
            if let Ok(pid) = raw::fork(work) {
                running.push(Child { pid, number, slot, begun: Instant::now() });
            }
            next += 1;
        }
        running.retain(|child| {
            let over = match raw::wait(child.pid, libc::WNOHANG) {
                Ok((0, _)) if child.begun.elapsed() > PATIENCE => {
                    killed += 1;
                    let _ = raw::kill(-child.pid, libc::SIGKILL);
                    let _ = raw::kill(child.pid, libc::SIGKILL);
                    let _ = raw::wait(child.pid, 0);
                    true
                }
                Ok((0, _)) => false,
                Ok((_, status)) => {
                    // A wild child may end with any status.
                    let exited = libc::WIFEXITED(status) && is_checked(&wishes, child.number);
                    if exited && libc::WEXITSTATUS(status) == WRONG {
                        wrong.push(child.number);
                    }
                    ended += i32::from(libc::WIFSIGNALED(status));
                    // What it has started ends with it.
                    let _ = raw::kill(-child.pid, libc::SIGKILL);
                    true
                }
                Err(_) => true,
            };
            if over {
                done += counted(&counts, child.slot);
                let _ = std::fs::remove_dir_all(base.join(format!("{}", child.number)));
            }
            !over
        });
        while raw::wait(-1, libc::WNOHANG).is_ok_and(|(pid, _)| pid > 0 && running.iter().all(|child| child.pid != pid))
        {
        }
        sleep(Duration::from_millis(2));
    }
    for child in running {
        let _ = raw::kill(-child.pid, libc::SIGKILL);
        let _ = raw::kill(child.pid, libc::SIGKILL);
        let _ = raw::wait(child.pid, 0);
    }
    let _ = std::fs::remove_dir_all(&base);
    let answers =
        if wrong.is_empty() { "no wrong answer".into() } else { format!("WRONG ANSWERS of children {wrong:?}") };
    say(&format!(
        "fuzz-calls: {done} calls, {} children, {ended} ended by signals, {killed} took too long, {answers}",
        next - wishes.first
    ));
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether a child is a checked one.
fn is_checked(wishes: &Wishes, number: u64) -> bool {
    wishes.checked || number.is_multiple_of(3)
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// A wild child may write anywhere, here as well: a number that does not agree with its complement counts for nothing.
fn counted(counts: &Map, slot: usize) -> u64 {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| counts.get(slot * SLOT + at + byte)));
    if word(8) == !word(0) { word(0).min(QUOTA) } else { 0 }
}

fn count(counts: &Map, slot: usize, calls: u64) {
    for (place, byte) in calls.to_le_bytes().into_iter().chain((!calls).to_le_bytes()).enumerate() {
        counts.set(slot * SLOT + place, byte);
    }
}

fn store(arena: &Map, step: &Step) {
    for (at, bytes) in &step.stores {
        let from = (at - arena.addr()) as usize;
        for (place, byte) in bytes.iter().enumerate().take((ARENA as usize).saturating_sub(from)) {
            arena.set(from + place, *byte);
        }
    }
}

fn issue(step: &Step) -> i64 {
    match raw::call(step.number as i64, step.arguments) {
        Ok(value) => value as i64,
        Err(errno) => -i64::from(errno),
    }
}

/// The arena, as far as it is asked about.
struct Inside<'a>(&'a Map);

impl Memory for Inside<'_> {
    fn read(&mut self, addr: u64, into: &mut [u8]) -> bool {
        let inside = addr >= self.0.addr() && addr + into.len() as u64 <= self.0.addr() + ARENA;
        if inside {
            let from = (addr - self.0.addr()) as usize;
            into.iter_mut().enumerate().for_each(|(place, byte)| *byte = self.0.get(from + place));
        }
        inside
    }
}

fn wild_child(seed: u64, number: u64, counts: &Map, slot: usize) -> i32 {
    let _ = rustix::process::setpgid(None, None);
    let _ = std::env::set_current_dir("/wild");
    let seed = seed.wrapping_mul(0x1_0000_0001).wrapping_add(number);
    let other = number.is_multiple_of(2);
    if other {
        std::thread::spawn(move || {
            let Ok(arena) = Map::anonymous(ARENA as usize, libc::MAP_PRIVATE) else { return };
            let mut wild = Wild::new(!seed, arena.addr(), Reach::Contained);
            for _ in 0..QUOTA {
                turn(&mut wild, &arena);
            }
        });
    }
    let Ok(arena) = Map::anonymous(ARENA as usize, libc::MAP_PRIVATE) else { return 1 };
    let mut wild = Wild::new(seed, arena.addr(), Reach::Contained);
    wild.know(std::process::id().into());
    for call in 1..=QUOTA {
        turn(&mut wild, &arena);
        // The other thread issues about as many.
        count(counts, slot, call);
    }
    0
}

fn turn(wild: &mut Wild, arena: &Map) {
    let step = wild.next_call();
    store(arena, &step);
    let result = issue(&step);
    wild.finish(&step, result, &mut Inside(arena));
}

/// All of the process's memory, looked at through a pipe: the kernel says what cannot be read.
struct Everywhere {
    reader: std::fs::File,
    writer: u64,
}

impl Memory for Everywhere {
    fn read(&mut self, addr: u64, into: &mut [u8]) -> bool {
        let mut at = addr;
        into.chunks_mut(4096).all(|piece| {
            let written = raw::call(libc::SYS_write, [self.writer, at, piece.len() as u64, 0, 0, 0]);
            at += piece.len() as u64;
            written == Ok(piece.len() as u64) && self.reader.read_exact(piece).is_ok()
        })
    }
}

fn checked_child(seed: u64, number: u64, place: &std::path::Path, counts: &Map, slot: usize) -> i32 {
    let _ = rustix::process::setpgid(None, None);
    // The descriptors that it keeps are the lowest ones.
    if raw::call(libc::SYS_close_range, [3, u32::MAX.into(), 0, 0, 0, 0]).is_err() {
        return 1;
    }
    let Ok((reader, writer)) = std::io::pipe() else { return 1 };
    let writer = std::os::fd::AsRawFd::as_raw_fd(&writer) as u64;
    let mut memory = Everywhere { reader: std::fs::File::from(std::os::fd::OwnedFd::from(reader)), writer };
    let Ok(arena) = Map::anonymous(ARENA as usize, libc::MAP_PRIVATE) else { return 1 };
    let seed = seed.wrapping_mul(0x1_0000_0001).wrapping_add(number);
    let directory = place.display().to_string();
    let mut checker = Checker::new(seed, arena.addr(), REGION, directory, FLOOR);
    for call in 1..=QUOTA {
        let step = checker.next_call();
        store(&arena, &step);
        let result = issue(&step);
        if let Err(why) = checker.finish(&step, result, &mut memory) {
            let _ = writeln!(std::io::stderr(), "fuzz-calls: child {number}: {why}");
            return WRONG;
        }
        count(counts, slot, call);
    }
    0
}

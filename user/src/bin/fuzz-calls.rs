//! Issues random system calls, to find what kills a kernel. Run it inside Shimos only: it does what it likes.
//!
//! `fuzz-calls SEED BATCHES`: each batch is a child process with its own random numbers; what becomes of the child does
//! not matter. A batch is repeated by `fuzz-calls SEED BATCHES FIRST`, which begins with that batch.
#![forbid(unsafe_code)]

use shimos_user::raw::{self, Map};
use std::{
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

/// Calls in one batch.
const CALLS: usize = 400;
/// Children at a time.
const TOGETHER: usize = 4;
/// The longest that a child may take.
const PATIENCE: Duration = Duration::from_millis(700);
/// Bytes of the memory that arguments point into.
const ARENA: usize = 1 << 16;
/// Names for calls that take paths.
const PATHS: [&str; 16] = [
    "/",
    ".",
    "..",
    "a",
    "b",
    "a/b",
    "/tmp/fuzz/c",
    "/proc/self/fd/3",
    "/proc/self/maps",
    "/dev/null",
    "/dev/zero",
    "/bin/true",
    "/etc/passwd",
    "/proc/self",
    "",
    "/usr/lib/../bin/ls",
];

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

fn main() -> ExitCode {
    let words: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [seed, batches, rest @ ..] = words.as_slice() else {
        eprintln!("usage: fuzz-calls SEED BATCHES [FIRST]");
        return ExitCode::from(2);
    };
    let mut next = rest.first().copied().unwrap_or(0);
    let end = next + batches;
    let mut running: Vec<(i32, Instant)> = Vec::new();
    let (mut killed, mut crashed) = (0, 0);
    let _ = std::fs::create_dir_all("/tmp/fuzz");
    while next < end || !running.is_empty() {
        while next < end && running.len() < TOGETHER {
            if next % 50 == 0 {
                println!("fuzz-calls: batch {next}");
            }
            let (number, seed) = (next, *seed);
            if let Ok(child) = raw::fork(|| batch(seed, number)) {
                running.push((child, Instant::now()));
            }
            next += 1;
        }
        running.retain(|(child, begun)| match raw::wait(*child, libc::WNOHANG) {
            Ok((0, _)) if begun.elapsed() > PATIENCE => {
                killed += 1;
                let _ = raw::kill(*child, libc::SIGKILL);
                let _ = raw::wait(*child, 0);
                false
            }
            Ok((0, _)) => true,
            Ok((_, status)) => {
                crashed += i32::from(libc::WIFSIGNALED(status));
                false
            }
            Err(_) => false,
        });
        // Children of children that were left behind.
        while raw::wait(-1, libc::WNOHANG).is_ok_and(|(pid, _)| pid > 0 && !running.iter().any(|(p, _)| *p == pid)) {}
        sleep(Duration::from_millis(2));
    }
    println!("fuzz-calls: {batches} batches, {crashed} ended by a signal, {killed} took too long");
    ExitCode::SUCCESS
}

/// One argument: a number, a descriptor, an address of some kind.
fn argument(random: &mut Random, arena: &Map) -> u64 {
    let inside = arena.addr() + random.below(ARENA as u64 - 512);
    match random.below(16) {
        0 => 0,
        1 => random.below(8),
        2 => random.below(64),
        3 => random.below(5000),
        4 => 1 << random.below(64),
        5 => u64::MAX - random.below(256),
        6 => random.next(),
        7 | 8 => inside & !7,
        9 => inside,
        10 => arena.addr() + random.below(PATHS.len() as u64) * 64,
        11 => arena.addr() + ARENA as u64 - random.below(32),
        12 => 0x7fff_ffff_0000_u64.wrapping_add(random.below(1 << 17)),
        13 => (-100_i64) as u64,
        14 => random.below(1 << 22) & !0xfff,
        _ => random.next() & random.next() & 0xffff_ffff,
    }
}

/// Fills a place of the arena with words that may mean something.
fn scribble(random: &mut Random, arena: &Map) {
    let at = (1024 + random.below(ARENA as u64 - 2048)) as usize & !7;
    for word in 0..8 {
        let value = argument(random, arena);
        for (place, byte) in value.to_le_bytes().into_iter().enumerate() {
            arena.set(at + word * 8 + place, byte);
        }
    }
}

fn batch(seed: u64, number: u64) -> i32 {
    let mut random = Random(seed.wrapping_mul(0x1_0000_0001).wrapping_add(number));
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get() as u64);
    let _ = rustix::process::setpgid(None, None);
    let _ = std::env::set_current_dir("/tmp/fuzz");
    let Ok(arena) = Map::anonymous(ARENA, libc::MAP_PRIVATE) else { return 1 };
    for (place, path) in PATHS.iter().enumerate() {
        for (at, byte) in path.bytes().enumerate() {
            arena.set(place * 64 + at, byte);
        }
    }
    // Something to work on: files, a pipe, sockets.
    let _ = raw::call(libc::SYS_open, [arena.addr() + 3 * 64, 0o102, 0o644, 0, 0, 0]);
    let _ = raw::call(libc::SYS_pipe, [arena.addr() + 1024, 0, 0, 0, 0, 0]);
    let _ = raw::call(libc::SYS_socketpair, [1, 1 | 0x800, 0, arena.addr() + 1024, 0, 0]);
    let _ = raw::call(libc::SYS_socket, [2, 1 | 0x800, 0, 0, 0, 0]);
    let _ = raw::call(libc::SYS_socket, [2, 2 | 0x800, 0, 0, 0, 0]);
    let _ = raw::call(libc::SYS_open, [arena.addr(), 0o200_000, 0, 0, 0, 0]);
    for _ in 0..CALLS {
        scribble(&mut random, &arena);
        let call = random.below(455) as i64;
        let mut arguments = [0; 6];
        for slot in &mut arguments {
            *slot = argument(&mut random, &arena);
        }
        match call {
            libc::SYS_kill | libc::SYS_tkill | libc::SYS_tgkill if arguments.contains(&parent) => continue,
            // These only wait for the parent's patience to end.
            libc::SYS_pause | libc::SYS_rt_sigsuspend if random.below(8) != 0 => continue,
            libc::SYS_exit | libc::SYS_exit_group if random.below(8) != 0 => continue,
            // What takes the child's own memory or program away ends a batch too soon.
            libc::SYS_munmap | libc::SYS_mremap | libc::SYS_mprotect | libc::SYS_execve | libc::SYS_brk
                if random.below(8) != 0 =>
            {
                continue;
            }
            libc::SYS_rt_sigreturn | libc::SYS_arch_prctl | libc::SYS_mmap if random.below(4) != 0 => continue,
            // Sleeps, and waits for what never comes.
            libc::SYS_nanosleep | libc::SYS_clock_nanosleep | libc::SYS_poll if random.below(4) != 0 => continue,
            _ => {}
        }
        let _ = raw::call(call, arguments);
    }
    0
}

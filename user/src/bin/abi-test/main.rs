//! Tests of the system call interface as a plain Linux program: the same binary passes on Linux and on Shimos.
//!
//! `abi-test [NAME...]` runs the subtests whose names begin with one of the words, or all. Each runs in a process of its
//! own and prints one line; the exit status is 0 if all passed. `abi-test --scripts` runs Debian's programs instead, and
//! `abi-test --kept` what must outlive a kernel; `abi-test --datagrams PORT` prints what comes to a port.
#![forbid(unsafe_code)]

mod administration;
mod beside;
mod check;
mod comparing;
mod corners;
mod enduring;
mod epoll;
mod events;
mod extended;
mod families;
mod files;
mod futexes;
mod hunger;
mod ipc;
mod jobs;
mod kept;
mod locking;
mod long;
mod mappings;
mod memory;
mod names;
mod net;
mod netlink;
mod pidfd;
mod pipes;
mod polling;
mod priorities;
mod privileges;
mod processes;
mod procfs;
mod procfs_more;
mod programs;
mod rights;
mod sending;
mod signals;
mod sockets;
mod splicing;
mod timers;
mod times;
mod ttys;
mod unix;
mod unix_more;
mod watching;

use shimos_user::raw;
use std::{
    io::Write,
    panic,
    process::ExitCode,
    time::{Duration, Instant},
};

/// What a subtest returns: why it failed.
pub type Outcome = Result<(), String>;
/// A subtest: its name and what it does.
pub type Subtest = (&'static str, fn() -> Outcome);

/// The longest that a subtest may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "--helper") {
        return processes::helper(&words[1..]);
    }
    if words.first().is_some_and(|word| word == "--events") {
        return enduring::run();
    }
    if words.first().is_some_and(|word| word == "--beside") {
        return beside::run();
    }
    if words.first().is_some_and(|word| word == "--kept") {
        return kept::run(&words[1..]);
    }
    if words.first().is_some_and(|word| word == "--hunger") {
        return hunger::run(&words[1..]);
    }
    if words.first().is_some_and(|word| word == "--datagrams") {
        return datagrams(&words[1..]);
    }
    let (scripts, words): (Vec<String>, Vec<String>) = words.into_iter().partition(|word| word == "--scripts");
    let mut tests: Vec<Subtest> = Vec::new();
    if scripts.is_empty() {
        for family in [
            administration::TESTS,
            files::TESTS,
            names::TESTS,
            priorities::TESTS,
            processes::TESTS,
            rights::TESTS,
            privileges::TESTS,
            sending::TESTS,
            signals::TESTS,
            pipes::TESTS,
            memory::TESTS,
            times::TESTS,
            ttys::TESTS,
            jobs::TESTS,
            locking::TESTS,
            long::TESTS,
            polling::TESTS,
            epoll::TESTS,
            events::TESTS,
            extended::TESTS,
            timers::TESTS,
            splicing::TESTS,
            pidfd::TESTS,
            watching::TESTS,
            unix::TESTS,
            unix_more::TESTS,
            families::TESTS,
            netlink::TESTS,
            sockets::TESTS,
            procfs::TESTS,
            procfs_more::TESTS,
            corners::TESTS,
            comparing::TESTS,
            ipc::TESTS,
            mappings::TESTS,
            futexes::TESTS,
        ] {
            tests.extend_from_slice(family);
        }
    }
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.starts_with(word.as_str()));
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in tests.into_iter().filter(|(name, _)| wanted(name)) {
        tally(name, alone(name, test), &mut passed, &mut failed);
    }
    if !scripts.is_empty() {
        for script in programs::SCRIPTS.iter().filter(|script| wanted(script.name)) {
            tally(script.name, programs::run(script), &mut passed, &mut failed);
        }
    }
    say(&format!("abi-test: {passed} passed, {failed} failed"));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints every datagram that comes.
fn datagrams(words: &[String]) -> ExitCode {
    let port = words.first().and_then(|word| word.parse().ok()).unwrap_or(5000);
    let socket = match std::net::UdpSocket::bind(("0.0.0.0", port)) {
        Ok(socket) => socket,
        Err(error) => {
            say(&format!("cannot listen: {error}"));
            return ExitCode::FAILURE;
        }
    };
    say("listening");
    let mut bytes = [0; 2048];
    while let Ok(count) = socket.recv(&mut bytes) {
        say(String::from_utf8_lossy(&bytes[..count]).trim_end());
    }
    ExitCode::FAILURE
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

fn tally(name: &str, outcome: Outcome, passed: &mut u32, failed: &mut u32) {
    match outcome {
        Ok(()) => {
            *passed += 1;
            say(&format!("ok {name}"));
        }
        Err(why) => {
            *failed += 1;
            say(&format!("FAIL {name}: {}", why.trim_end().replace('\n', " / ")));
        }
    }
}

/// Runs a subtest in a process of its own, with an empty working directory.
fn alone(name: &str, test: fn() -> Outcome) -> Outcome {
    let dir = std::env::temp_dir().join(format!("abi-{}-{}", std::process::id(), name.replace('/', "-")));
    let text = |error: std::io::Error| error.to_string();
    std::fs::create_dir_all(&dir).map_err(|error| format!("no directory {}: {error}", dir.display()))?;
    let (mut why, mut tell) = std::io::pipe().map_err(text)?;
    let place = dir.clone();
    let child = raw::fork(move || {
        panic::set_hook(Box::new(|_| {}));
        let outcome = match std::env::set_current_dir(&place) {
            Err(error) => Err(format!("cannot enter its directory: {error}")),
            Ok(()) => panic::catch_unwind(test).unwrap_or_else(|payload| {
                let said = payload.downcast_ref::<String>().cloned();
                Err(said.or_else(|| payload.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default())
            }),
        };
        match outcome {
            Ok(()) => 0,
            Err(why) => {
                let _ = tell.write_all(why.as_bytes());
                1
            }
        }
    })
    .map_err(text)?;
    let begun = Instant::now();
    let outcome = loop {
        match raw::wait(child, libc::WNOHANG).map_err(text)? {
            (0, _) if begun.elapsed() > PATIENCE => {
                let _ = raw::kill(child, libc::SIGKILL);
                let _ = raw::wait(child, 0);
                break Err(format!("did not end within {} s", PATIENCE.as_secs()));
            }
            (0, _) => std::thread::sleep(Duration::from_millis(1)),
            (_, 0) => break Ok(()),
            (_, status) if libc::WIFSIGNALED(status) => {
                break Err(format!("ended by signal {}", libc::WTERMSIG(status)));
            }
            _ => {
                let mut said = vec![0; 4096];
                let len = std::io::Read::read(&mut why, &mut said).unwrap_or(0);
                break Err(String::from_utf8_lossy(&said[..len]).into_owned());
            }
        }
    };
    std::fs::remove_dir_all(&dir).map_err(|error| format!("cannot remove its directory: {error}"))?;
    outcome
}

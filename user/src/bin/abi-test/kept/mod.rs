//! State that must outlive a kernel: each case makes some, waits while kernels die, and then demands that it is as it was.
//!
//! `abi-test --kept [NAME...]` runs all cases side by side, says `kept: ready` when all of them wait, and goes on at
//! SIGUSR1. Without a death in between it passes on Linux.
mod connections;
mod events;
mod files;
mod locks;
mod memory;
mod messages;
mod processes;
mod waiting;

use crate::{
    Outcome,
    check::{call, same, text, works},
    say,
};
use shimos_user::raw;
use std::{
    io::{PipeReader, PipeWriter, Read, Write, pipe},
    process::ExitCode,
};

/// A case: its name, and what it does before and after the gate.
type Case = (&'static str, fn(&mut Gate) -> Outcome);

/// Where a case waits for the deaths.
pub struct Gate {
    ready: PipeWriter,
    go: PipeReader,
}

impl Gate {
    /// Returns when all deaths are over.
    fn deaths(&mut self) -> Outcome {
        works("ready", self.ready.write_all(b"r"))?;
        works("go", self.go.read_exact(&mut [0])).map(drop)
    }
}

/// A process that waits for a word at a time and does something at each.
struct Other {
    pid: i32,
    tell: PipeWriter,
}

impl Other {
    /// Makes one; `work` may ask for the next word.
    fn new(work: impl FnOnce(&mut dyn FnMut()) -> Outcome) -> Result<Other, String> {
        let (mut hear, tell) = pipe().map_err(text)?;
        let pid = raw::fork(|| {
            let mut next = || {
                if hear.read_exact(&mut [0]).is_err() {
                    raw::leave(9);
                }
            };
            match work(&mut next) {
                Ok(()) => 0,
                Err(why) => {
                    say(&format!("other process: {why}"));
                    1
                }
            }
        })
        .map_err(text)?;
        Ok(Other { pid, tell })
    }

    /// Says the next word.
    fn go_on(&mut self) -> Outcome {
        works("tell", self.tell.write_all(b"g"))
    }

    /// Says the last word, and demands that all went well.
    fn end(mut self) -> Outcome {
        self.go_on()?;
        same("the other process", works("wait", raw::exit_of(self.pid))?, 0)
    }
}

/// A case that runs.
struct Running {
    name: &'static str,
    pid: i32,
    go: PipeWriter,
    why: PipeReader,
}

fn start((name, case): Case, ready: &PipeWriter) -> std::io::Result<Running> {
    let (hear, go) = pipe()?;
    let (why, mut tell) = pipe()?;
    let mut gate = Gate { ready: ready.try_clone()?, go: hear };
    let place = std::env::temp_dir().join(format!("kept-{}-{}", std::process::id(), name.replace('/', "-")));
    std::fs::create_dir_all(&place)?;
    let pid = raw::fork(|| {
        let outcome = std::env::set_current_dir(&place).map_err(text).and_then(|()| case(&mut gate));
        if let Err(why) = outcome {
            // Nobody waits for a case that failed before.
            let _ = gate.ready.write_all(b"f");
            let _ = tell.write_all(why.as_bytes());
            return 1;
        }
        0
    })?;
    Ok(Running { name, pid, go, why })
}

/// Runs the cases.
pub fn run(words: &[String]) -> ExitCode {
    match cases(words) {
        Ok(code) => code,
        Err(why) => {
            say(&format!("kept: {why}"));
            ExitCode::FAILURE
        }
    }
}

fn cases(words: &[String]) -> Result<ExitCode, String> {
    let signals = 1_u64 << (libc::SIGUSR1 - 1);
    works("block", raw::mask(libc::SIG_BLOCK, signals))?;
    let (mut arrived, ready) = pipe().map_err(text)?;
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.starts_with(word.as_str()));
    let mut running = Vec::new();
    for family in [
        files::CASES,
        locks::CASES,
        messages::CASES,
        events::CASES,
        memory::CASES,
        processes::CASES,
        connections::CASES,
        waiting::CASES,
    ] {
        for case in family.iter().filter(|(name, _)| wanted(name)) {
            running.push(start(*case, &ready).map_err(text)?);
        }
    }
    for _ in &running {
        arrived.read_exact(&mut [0]).map_err(text)?;
    }
    say("kept: ready");
    works("wait for the signal", call(libc::SYS_rt_sigtimedwait, &[&raw const signals as u64, 0, 0, 8]))?;
    let (mut passed, mut failed) = (0, 0);
    for mut case in running {
        let _ = case.go.write_all(b"g");
        let mut why = String::new();
        let status = raw::exit_of(case.pid).map_err(text)?;
        if status == 0 {
            passed += 1;
            continue;
        }
        failed += 1;
        // Others of the case may live on and hold the pipe.
        let mut bytes = [0; 4096];
        if status == 1 {
            let count = case.why.read(&mut bytes).map_err(text)?;
            why = String::from_utf8_lossy(&bytes[..count]).into_owned();
        }
        say(&format!("FAIL {}: status {status}: {}", case.name, why.replace('\n', " / ")));
    }
    say(&format!("kept: {passed} passed, {failed} failed"));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

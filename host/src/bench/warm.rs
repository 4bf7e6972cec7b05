//! Starts of a machine after a reset: from the reset to the first instruction of a program that goes on.
use super::{Goal, Report, Row, host, say};
use crate::{
    machine::{Files, Machine, Options},
    paths::Paths,
    recovery, resets,
    status::{self, ms},
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use shimos_abi::{
    control::{Cause, Output, Protection, Start},
    ids::{KernelId, ProgramId},
    time::Nanos,
};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

const BOOT: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(180);
/// The program's size in MiB, and what it dirties in about the time between two checkpoints.
const SIZE: u32 = 100;
const DIRTY: u32 = 16;
const INTERVAL: Nanos = Nanos::millis(50);
/// Memory of a kernel.
const MEMORY: u64 = 320;
/// The goal in ms.
const GOAL: f64 = 1000.0;
/// Between two resets: each start is to last.
const REST: Duration = Duration::from_secs(3);

/// Measures so many resets; the samples are ms from the reset to the program's first instruction.
pub fn warm_starts(paths: &Paths, files: &Files, rounds: u32) -> Result<Vec<f64>> {
    let options = Options { memory: MEMORY, heartbeat: Some(Nanos::secs(1)), ..Options::default() };
    let mut machine = Machine::boot(paths, files, options, BOOT)?;
    let program = start(&mut machine)?;
    (0..rounds).map(|_| once(&mut machine, program)).collect()
}

/// The same as a report.
pub fn resets(paths: &Paths, files: &Files, rounds: u32) -> Result<Report> {
    say("resets of a machine with a program of 100 MB");
    let mut report = Report::new(host(), String::new(), Vec::new());
    let what = format!("reset to first instruction, {SIZE} MB");
    report.rows.push(match warm_starts(paths, files, rounds) {
        Ok(samples) => Row::new(what, "ms", Goal::AtMost(GOAL), samples),
        Err(error) => Row::failed(what, &error),
    });
    Ok(report)
}

fn start(machine: &mut Machine) -> Result<ProgramId> {
    let words = [SIZE, DIRTY, (INTERVAL.0 / 1_000_000) as u32, 7].map(|word| word.to_string());
    let argv = std::iter::once("/usr/bin/touchpages".to_string()).chain(words).collect();
    let protection = Some(Protection::new(INTERVAL, Output::Commit));
    let kernel = Some(KernelId(1));
    let start = Start { name: "large".into(), argv, cwd: "/".into(), kernel, protection, ..Start::default() };
    let mut control = machine.control();
    let program = control.start(start).context("cannot start the program")?.program;
    let end = Instant::now() + SETTLE;
    loop {
        let status = control.status()?;
        let pages = status::home(&status, program).and_then(|(_, found)| found.checkpoint).map(|it| it.image_pages);
        if pages.is_some_and(|pages| pages >= SIZE * 256) {
            return Ok(program);
        }
        if Instant::now() >= end {
            bail!("the program has no checkpoint after {} s", SETTLE.as_secs());
        }
        sleep(Duration::from_millis(100));
    }
}

fn once(machine: &mut Machine, program: ProgramId) -> Result<f64> {
    let mut control = machine.control();
    recovery::settle(&mut control, program, 2, SETTLE)?;
    sleep(REST);
    let before = control.status()?;
    // Before the order: what passes until the emulator has it counts as well.
    let reset = before.now;
    machine.qmp().execute("system_reset", Value::Null)?;
    let count = before.reset.map_or(0, |reset| reset.count);
    let came = resets::wait(&mut control, count, Instant::now(), SETTLE)?;
    let all = came.status.kernels.iter().flat_map(|kernel| &kernel.published.takeovers);
    let mut found = all.filter(|takeover| takeover.program == program && takeover.cause == Cause::Reset);
    let takeover = found.next().context("the program has not gone on")?;
    Ok(ms(takeover.first_instruction - reset))
}

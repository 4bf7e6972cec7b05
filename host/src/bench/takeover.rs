//! `shimos bench takeover`: what a takeover takes against the program's size and its open connections, when all of its
//! pages are home, and the memory that protection takes.
use super::{
    Chart, Goal, Report, Row, host,
    pinger::{Clients, Pinger},
    say,
};
use crate::{
    control::Control,
    machine::{Files, Machine, Options, Time},
    paths::Paths,
    recovery,
    status::{self, ms},
};
use anyhow::{Context, Result, bail};
use shimos_abi::{
    control::{Fault, Output, Protection, Start, Target},
    ids::{KernelId, ProgramId},
    time::Nanos,
};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

const BOOT: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(180);
const RECOVERY: Duration = Duration::from_secs(180);
/// How often the machine is asked.
const POLL: Duration = Duration::from_millis(20);
/// Sizes of the programs, in MiB, each with one connection.
const SIZES: [u32; 4] = [1, 10, 100, 1000];
/// Connections of the smallest program.
const CONNECTIONS: [usize; 4] = [1, 10, 100, 1000];
/// Time between checkpoints, and pages that are dirtied in about that time.
const INTERVAL: Nanos = Nanos::millis(50);
const DIRTY: u32 = 16;
/// Memory of a kernel that takes the largest program over and still holds what it lent another: it must hold it twice.
const MEMORY: u64 = 2600;
/// The goal: from detection to the first user instruction.
const GOAL: f64 = 5.0;
/// Of a program's own memory, protection may take this share besides twice what is dirtied in an interval.
const SHARE: f64 = 0.02;
/// Frames that a kernel takes and gives for its own work while nothing happens.
const QUIET: u64 = 32;
/// Where the programs listen.
const PORT: u16 = 7;
/// How long the memory that protection takes is watched.
const WATCH: Duration = Duration::from_secs(3);

/// What is measured: all, or one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Kind {
    /// Takeovers of programs of different sizes.
    Size,
    /// Takeovers of programs with different numbers of connections.
    Connections,
}

/// Measures takeovers.
pub fn takeover(paths: &Paths, files: &Files, (rounds, only): (u32, &[Kind]), time: Time) -> Result<Report> {
    let options = Options { kernels: 2, memory: MEMORY, time, ..Options::default() };
    let mut machine = Machine::boot(paths, files, options, BOOT)?;
    let mut report = Report::new(host(), format!("{}{time}", machine.accelerator), Vec::new());
    let wanted = |kind| only.is_empty() || only.contains(&kind);
    first(&mut machine, &mut report)?;
    let mut run = |cases: Vec<Case>, x: &str| {
        let mut lines = [Vec::new(), Vec::new(), Vec::new()];
        for case in cases {
            say(&format!("takeovers of {case}"));
            match measure(&mut machine, case, rounds) {
                Err(error) => report.rows.push(Row::failed(case.to_string(), &error)),
                Ok(mut found) => {
                    if time == Time::Counted {
                        found.gap.clear();
                    }
                    found.into_rows(case, &mut lines, &mut report.rows);
                }
            }
        }
        let names = ["detection to first instruction", "longest wait of a client", "until all pages are home"];
        report.charts.push(Chart {
            title: "takeover".to_string(),
            x: x.to_string(),
            y: "median, ms".to_string(),
            series: names.map(str::to_string).into_iter().zip(lines).collect(),
            goal: Some(GOAL),
        });
    };
    if wanted(Kind::Size) {
        let cases = SIZES.map(|size| Case { size, connections: 1, by: Kind::Size });
        run(cases.to_vec(), "size of the program, MB");
    }
    if wanted(Kind::Connections) {
        let cases = CONNECTIONS.map(|connections| Case { size: 1, connections, by: Kind::Connections });
        run(cases.to_vec(), "open connections");
    }
    Ok(report)
}

/// A kind of program.
#[derive(Clone, Copy)]
struct Case {
    size: u32,
    connections: usize,
    by: Kind,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.by {
            Kind::Size => write!(f, "{} MB", self.size),
            Kind::Connections => write!(f, "{} connections", self.connections),
        }
    }
}

/// What was found, in ms and pages.
#[derive(Default)]
struct Found {
    takeover: Vec<f64>,
    gap: Vec<f64>,
    home: Vec<f64>,
    memory: Option<Memory>,
}

/// What protection takes, in pages.
struct Memory {
    taken: f64,
    allowed: f64,
}

impl Found {
    fn into_rows(self, case: Case, lines: &mut [Vec<(f64, f64)>; 3], rows: &mut Vec<Row>) {
        let x = match case.by {
            Kind::Size => f64::from(case.size),
            Kind::Connections => case.connections as f64,
        };
        let parts = [
            ("detection to first instruction", Goal::AtMost(GOAL), self.takeover),
            ("longest wait of a client", Goal::None, self.gap),
            ("until all pages are home", Goal::None, self.home),
        ];
        for ((name, goal, samples), line) in
            parts.into_iter().zip(lines).filter(|((.., samples), _)| !samples.is_empty())
        {
            let row = Row::new(format!("{case}: {name}"), "ms", goal, samples);
            line.extend(row.median().map(|median| (x, median)));
            rows.push(row);
        }
        if let Some(memory) = self.memory {
            let goal = Goal::AtMost(memory.allowed);
            rows.push(Row::new(format!("{case}: memory that protection takes"), "pages", goal, [memory.taken]));
        }
    }
}

/// The first takeover by each kernel: the emulator sees that code for the first time.
fn first(machine: &mut Machine, report: &mut Report) -> Result<()> {
    say("the first takeovers");
    let case = Case { size: 1, connections: 1, by: Kind::Size };
    let mut samples = Vec::new();
    let started = Started::new(machine, case, 0)?;
    let outcome = (0..2).try_for_each(|_| -> Result<()> {
        let mut control = machine.control();
        recovery::settle(&mut control, started.program, 2, SETTLE)?;
        let death = recovery::kill_under(&mut control, started.program, Fault::Panic, RECOVERY, || {})?;
        samples.push(ms(death.takeover()));
        wait_home(&mut control, started.program)
    });
    started.end(machine)?;
    outcome?;
    let what = "first takeovers of a fresh machine, apart from the rest";
    report.rows.push(Row::new(what, "ms", Goal::None, samples));
    Ok(())
}

fn measure(machine: &mut Machine, case: Case, rounds: u32) -> Result<Found> {
    let started = Started::new(machine, case, 1)?;
    let outcome = deaths(machine, &started, case, rounds);
    started.end(machine)?;
    outcome
}

fn deaths(machine: &mut Machine, started: &Started, case: Case, rounds: u32) -> Result<Found> {
    let mut control = machine.control();
    let mut found = Found { memory: Some(started.memory(&mut control, case)?), ..Found::default() };
    if case.by == Kind::Connections {
        found.memory = None;
    }
    let mut clients = Clients::open(started.port, case.connections)?;
    for _ in 0..rounds {
        recovery::settle(&mut control, started.program, 2, SETTLE)?;
        let pinger = Pinger::start(started.port)?;
        let death = recovery::kill_under(&mut control, started.program, Fault::Panic, RECOVERY, || {});
        let longest = pinger.longest();
        let death = death?;
        clients.check()?;
        found.gap.push(longest?.as_secs_f64() * 1e3);
        found.takeover.push(ms(death.takeover()));
        wait_home(&mut control, started.program)?;
        let status = control.status()?;
        if let Some(takeover) = status::takeover(&status, started.program, death.dead) {
            found.home.push(ms(takeover.home - takeover.first_instruction));
        }
    }
    Ok(found)
}

/// Asks until `done` says so.
fn wait_until<T>(
    control: &mut Control,
    what: &str,
    mut done: impl FnMut(&mut Control) -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + SETTLE;
    loop {
        if let Some(value) = done(control)? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("{what} takes longer than {} s", SETTLE.as_secs());
        }
        sleep(POLL);
    }
}

/// Waits until the last takeover's pages are home.
fn wait_home(control: &mut Control, program: ProgramId) -> Result<()> {
    wait_until(control, "bringing pages home", |control| {
        let status = control.status()?;
        let all = status.kernels.iter().flat_map(|kernel| &kernel.published.takeovers);
        let last = all.filter(|takeover| takeover.program == program).max_by_key(|takeover| takeover.first_instruction);
        Ok(last.filter(|takeover| takeover.home.0 != 0).map(|_| ()))
    })
}

/// A program that runs, and the port of this host that leads to it.
struct Started {
    name: String,
    program: ProgramId,
    port: u16,
    /// Free frames where it runs, before it was protected.
    free: u64,
}

impl Started {
    /// Starts a program on a kernel and protects it when all of its pages are there.
    fn new(machine: &mut Machine, case: Case, kernel: u16) -> Result<Started> {
        let mut control = machine.control();
        let name = format!("echo-{case}-{kernel}").replace(' ', "");
        let step = (INTERVAL.0 / 1_000_000) as u32;
        let words = [case.size, DIRTY, step, u32::from(PORT)].map(|word| word.to_string());
        let argv = std::iter::once("/usr/bin/touchpages".to_string()).chain(words).collect();
        let kernel = Some(KernelId(kernel));
        let start = Start { name: name.clone(), argv, cwd: "/".to_string(), kernel, ..Start::default() };
        let program = control.start(start).with_context(|| format!("cannot start {name}"))?.program;
        let mut last = (0, 0);
        let free = wait_until(&mut control, "the program's start", |control| {
            let status = control.status()?;
            let Some((kernel, found)) = status::home(&status, program) else { return Ok(None) };
            let pages = found.processes.iter().map(|process| process.pages).sum::<u32>();
            // As many as there shall be, and no more of them come. The kernel itself always takes and gives a few.
            let before = std::mem::replace(&mut last, (pages, kernel.free_frames));
            let still = kernel.free_frames.abs_diff(before.1) <= QUIET;
            let settled = pages >= case.size * 256 && pages == before.0 && still;
            sleep(Duration::from_millis(200));
            Ok(settled.then_some(kernel.free_frames))
        })?;
        let port = machine.publish(0, program, PORT)?;
        let protection = Protection::new(INTERVAL, Output::Commit);
        control.protect(Target::Name(name.clone()), protection)?;
        Ok(Started { name, program, port, free })
    }

    /// What its protection takes.
    fn memory(&self, control: &mut Control, case: Case) -> Result<Memory> {
        recovery::settle(control, self.program, 2, SETTLE)?;
        let end = Instant::now() + WATCH;
        let (mut least, mut dirty) = (self.free, 0);
        while Instant::now() < end {
            let status = control.status()?;
            let Some((kernel, found)) = status::home(&status, self.program) else { continue };
            least = least.min(kernel.free_frames);
            dirty = dirty.max(found.checkpoint.map_or(0, |checkpoint| checkpoint.pages));
            sleep(POLL);
        }
        let pages = f64::from(case.size) * 256.0;
        Ok(Memory { taken: (self.free - least) as f64, allowed: 2.0 * f64::from(dirty) + SHARE * pages })
    }

    fn end(&self, machine: &Machine) -> Result<()> {
        let mark = format!("program {} ended", self.name);
        let _ = machine.control().kill(Target::Name(self.name.clone()), 9);
        let ended = machine.console().wait_for(SETTLE, |line| line.text.starts_with(&mark));
        ended.map(drop).with_context(|| format!("{} does not end", self.name))
    }
}

//! `shimos campaign`: faults of every class, one after another, under services with clients that check every answer. Each
//! run follows from seed and number and can be repeated.
mod class;
mod flips;
mod gdb;
mod report;
mod stand;
mod starved;

use crate::{machine::Files, paths::Paths};
use anyhow::{Result, bail};
pub use class::Class;
use class::Plan;
pub use report::{Outcome, Record, Report};
pub use stand::Made;
use stand::Stand;
use std::{
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// The services, if nobody says others.
pub const SERVICES: [&str; 3] = ["httpd", "redis", "nginx"];
/// Seconds after which the watchdog resets a machine that no kernel watches.
pub const WATCHDOG: u64 = 4;
/// Runs on one machine at most: a fault that has not shown must not wait for ever.
const RUNS: u32 = 40;
/// Boots in a row that may fail.
const BOOTS: u32 = 3;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The numbers of its runs.
    pub numbers: Range<u64>,
    /// No run begins later than this after the start.
    pub within: Option<Duration>,
    /// What all follows from.
    pub seed: u64,
    /// The classes that take turns.
    pub classes: Vec<Class>,
    /// Machines at a time.
    pub jobs: u16,
    /// What each machine is made of.
    pub made: Made,
}

/// Runs them. `told` is called with every run as it ends.
pub fn run(paths: &Paths, files: &Files, wanted: &Wanted, told: &(dyn Fn(&Record) + Sync)) -> Result<Report> {
    wanted.made.options.check()?;
    let next = AtomicU64::new(wanted.numbers.start);
    let until = wanted.within.map(|within| Instant::now() + within);
    let records = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..wanted.jobs.max(1) {
            scope.spawn(|| {
                worker(paths, files, wanted, (&next, until), &|record: Record| {
                    told(&record);
                    records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
                })
            });
        }
    });
    let mut records = records.into_inner().unwrap_or_else(PoisonError::into_inner);
    records.sort_by_key(|record| record.number);
    if records.is_empty() {
        bail!("nothing was tried");
    }
    Ok(Report { seed: wanted.seed, integrity: wanted.made.protection.integrity, records })
}

/// Tells a run on one line.
pub fn tell(record: &Record) {
    let said = if record.outcome.good() { "" } else { record.said.first().map_or("", String::as_str) };
    eprintln!(
        "shimos: {:>5} {:<24} {:<12} {:>5.1} s  {} {said}",
        record.number,
        record.class.to_string(),
        record.outcome.name(),
        record.seconds,
        record.injected,
    );
}

/// Takes one number after another, and machines as they are needed.
fn worker(
    paths: &Paths,
    files: &Files,
    wanted: &Wanted,
    (next, until): (&AtomicU64, Option<Instant>),
    done: &dyn Fn(Record),
) {
    let mut used: Option<(Stand, u32, Vec<Record>)> = None;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= wanted.numbers.end || until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        let plan = Plan::new(wanted.seed, number, &wanted.classes);
        let (mut stand, runs, mut waiting) = match used.take() {
            Some(stand) => stand,
            None => match boot(paths, files, wanted) {
                Ok(stand) => (stand, 0, Vec::new()),
                Err(error) => {
                    done(untried(&plan, &error));
                    // What could not be booted several times will not be the next time.
                    break;
                }
            },
        };
        let (mut record, again) = stand.run(&plan);
        if !record.outcome.good() {
            record.said.push(format!("log: {}", stand.log()));
        }
        waiting.push(record);
        if again && runs + 1 < RUNS {
            used = Some((stand, runs + 1, waiting));
        } else {
            finish(stand, waiting, done);
        }
    }
    if let Some((stand, _, waiting)) = used {
        finish(stand, waiting, done);
    }
}

/// Ends a machine. What its clients find wrong at the end is of some run that nobody could tell from the others: it counts
/// for the last one.
fn finish(stand: Stand, mut waiting: Vec<Record>, done: &dyn Fn(Record)) {
    let healthy = waiting.last().is_some_and(|record| record.outcome.good());
    if healthy {
        let wrong = stand.end();
        if let (false, Some(last)) = (wrong.is_empty(), waiting.last_mut()) {
            last.outcome = Outcome::Silent;
            last.said.extend(wrong);
            last.said.push("found at the end, so it may come from any run on this machine".to_string());
        }
    }
    waiting.into_iter().for_each(done);
}

fn boot(paths: &Paths, files: &Files, wanted: &Wanted) -> Result<Stand> {
    let mut tries = 0;
    loop {
        tries += 1;
        match Stand::new(paths, files, &wanted.made, wanted.seed) {
            Ok(stand) => return Ok(stand),
            Err(error) if tries >= BOOTS => return Err(error),
            Err(_) => {}
        }
    }
}

fn untried(plan: &Plan, error: &anyhow::Error) -> Record {
    Record {
        number: plan.number,
        class: plan.class,
        kernel: None,
        injected: String::new(),
        outcome: Outcome::Invalid,
        deaths: Vec::new(),
        takeovers: 0,
        contained: true,
        answers: 0,
        said: vec![crate::usage::one_line(error)],
        seconds: 0.0,
    }
}

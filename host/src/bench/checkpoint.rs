//! `shimos bench checkpoint`: the pause of a checkpoint against dirty pages and size of the program, and what it is spent on.
use super::{Chart, Goal, Report, Row, basics, host, median, round, say};
use crate::{
    control::Control,
    machine::{Files, Machine, Options, Time},
    paths::Paths,
    recovery,
    status::ms,
};
use anyhow::{Context, Result, bail};
use shimos_abi::{
    control::{CheckpointStatus, Output, Phases, Protection, Target},
    ids::{Epoch, KernelId, ProgramId},
    time::Nanos,
};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

const BOOT: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(120);
/// Sizes of the programs, in MiB.
const SIZES: [u32; 3] = [10, 100, 1000];
/// Pages that are dirtied between two checkpoints.
const DIRTY: [u32; 6] = [0, 1, 10, 100, 1000, 10_000];
/// Where programs are measured.
const KERNEL: KernelId = KernelId(1);
/// Frames that a program may leave behind: blocks of the disk that were read for it.
const LEFT: u64 = 4096;
/// Time between checkpoints; the program dirties its pages once in about that time.
const INTERVAL: Nanos = Nanos::millis(50);
/// Checkpoints of each kind that are wanted, and how long they are waited for.
const WANTED: usize = 150;
const PATIENCE: Duration = Duration::from_secs(30);
/// Memory of a kernel that holds the largest program, its page tables and its image.
const MEMORY: u64 = 1600;
/// What a program dirties besides the pages that it is told to: its stack and its notes.
const BESIDES: u32 = 8;
/// The goal: this many dirty pages of the largest program, within this time.
const GOAL: (u32, f64) = (1000, 1.0);

/// What a phase took.
type Took = fn(&Phases) -> Nanos;
/// The phases by name.
const PHASES: [(&str, Took); 6] = [
    ("stop", |phases| phases.stop),
    ("pages", |phases| phases.pages),
    ("tables", |phases| phases.tables),
    ("records", |phases| phases.records),
    ("commit", |phases| phases.commit),
    ("release", |phases| phases.release),
];

/// One of the sizes, by its word.
pub fn size(word: &str) -> Result<u32, String> {
    let known = SIZES.into_iter().find(|size| size.to_string() == word);
    known.ok_or_else(|| format!("there is no program of that size: choose one of {SIZES:?}"))
}

/// Measures pauses; `rounds` is how many programs of each kind are tried.
pub fn checkpoint(paths: &Paths, files: &Files, (rounds, only): (u32, &[u32]), time: Time) -> Result<Report> {
    let options = Options { kernels: 2, memory: MEMORY, time, ..Options::default() };
    let machine = Machine::boot(paths, files, options, BOOT)?;
    let mut report = Report::new(host(), format!("{}{time}", machine.accelerator), Vec::new());
    let mut lines = Vec::new();
    let mut table = format!("{:<30}", "medians of the phases, us");
    for (name, _) in PHASES {
        table += &format!(" {name:>8}");
    }
    table += "  records, bytes";
    for size in SIZES.into_iter().filter(|size| only.is_empty() || only.contains(size)) {
        let mut points = Vec::new();
        for dirty in DIRTY.into_iter().filter(|dirty| *dirty <= size * 256) {
            let what = format!("{size} MB, {dirty} dirty pages");
            say(&what);
            match (0..rounds).map(|round| one(&machine, size, dirty, round)).collect::<Result<Vec<_>>>() {
                Err(error) => report.rows.push(Row::failed(what, &error)),
                Ok(rounds) => {
                    let samples: Vec<CheckpointStatus> = rounds.into_iter().flatten().collect();
                    table += &format!("\n{what:<30}{}", phases(&samples));
                    let goal = match dirty == GOAL.0 && size == SIZES[2] {
                        true => Goal::MostlyAtMost(GOAL.1),
                        false => Goal::None,
                    };
                    let row = Row::new(what, "ms", goal, samples.iter().map(|sample| ms(sample.pause)));
                    points.extend(row.median().map(|median| (f64::from(dirty.max(1)), median)));
                    report.rows.push(row);
                }
            }
        }
        lines.push((format!("{size} MB"), points));
    }
    report.charts.push(Chart {
        title: "pause of a checkpoint".to_string(),
        x: "pages dirtied since the last one (0 is shown at 1)".to_string(),
        y: "median, ms".to_string(),
        series: lines,
        goal: Some(GOAL.1),
    });
    report.notes.push(table);
    Ok(report)
}

fn phases(samples: &[CheckpointStatus]) -> String {
    let mut text = String::new();
    for (_, phase) in PHASES {
        let times = samples.iter().filter_map(|sample| sample.phases.as_ref()).map(|found| phase(found).0 as f64 / 1e3);
        let mut times: Vec<f64> = times.collect();
        times.sort_by(f64::total_cmp);
        text += &format!(" {:>8}", median(&times).map_or("none".to_string(), round));
    }
    let mut bytes: Vec<f64> = samples.iter().map(|sample| f64::from(sample.record_bytes)).collect();
    bytes.sort_by(f64::total_cmp);
    text + &format!("  {}", median(&bytes).map_or("none".to_string(), |bytes| format!("{bytes:.0}")))
}

/// The checkpoints of one program with about that many dirty pages.
fn one(machine: &Machine, size: u32, dirty: u32, round: u32) -> Result<Vec<CheckpointStatus>> {
    let mut control = machine.control();
    let free = free_frames(&mut control)?;
    let step = (INTERVAL.0 / 1_000_000) as u32;
    let protection = Protection::new(INTERVAL, Output::Commit);
    let name = format!("touch{size}x{dirty}x{round}");
    let program = basics::toucher(&mut control, &name, (size, dirty, step), Some(KERNEL), Some(protection))?;
    let samples = recovery::settle(&mut control, program, 2, SETTLE)
        .and_then(|_| watch(machine, program, dirty.saturating_sub(dirty / 10)..=dirty + dirty / 2 + BESIDES));
    let mark = format!("program {name} ended");
    let _ = control.kill(Target::Name(name), 9);
    machine.console().wait_for(SETTLE, |line| line.text.starts_with(&mark)).context("the program does not end")?;
    // Its memory is given back in the background; the next program needs it.
    let end = Instant::now() + SETTLE;
    while free_frames(&mut control)? + LEFT < free {
        if Instant::now() >= end {
            bail!("the memory of {mark} is not given back");
        }
        sleep(Duration::from_millis(50));
    }
    samples
}

/// Free frames of the kernel that is measured.
fn free_frames(control: &mut Control) -> Result<u64> {
    let status = control.status()?;
    let kernel = status.kernels.iter().find(|kernel| kernel.id == KERNEL).context("the kernel has no status")?;
    Ok(kernel.free_frames)
}

fn watch(machine: &Machine, program: ProgramId, about: std::ops::RangeInclusive<u32>) -> Result<Vec<CheckpointStatus>> {
    let mut control = machine.control();
    let mut seen = Epoch(0);
    // What was before the program had settled does not count.
    while let Some(last) = control.checkpoints(program, seen)?.last() {
        seen = last.epoch;
    }
    let mut samples = Vec::new();
    let end = Instant::now() + PATIENCE;
    while samples.len() < WANTED && Instant::now() < end {
        let new = control.checkpoints(program, seen)?;
        seen = new.last().map_or(seen, |last| last.epoch);
        samples.extend(new.into_iter().filter(|checkpoint| about.contains(&checkpoint.pages)));
        sleep(Duration::from_millis(200));
    }
    Ok(samples)
}

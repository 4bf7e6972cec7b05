//! `shimos bench core`: the basics, which must hold on every change.
use super::{Goal, Report, Row, hang_goal, host, say};
use crate::{
    control::Control,
    demo,
    machine::{Files, Machine, Options},
    paths::Paths,
    recovery::{self, Death},
    status::{self, ms},
};
use anyhow::{Context, Result};
use shimos_abi::{
    control::{Fault, Output, Protection, Start, Target},
    ids::{Epoch, KernelId, ProgramId},
    time::Nanos,
};
use std::{
    collections::BTreeMap,
    thread::sleep,
    time::{Duration, Instant},
};

const BOOT: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(60);
const RECOVERY: Duration = Duration::from_secs(30);
/// Time between checkpoints of the measured programs.
const INTERVAL: Nanos = Nanos::millis(50);
const PROTECTION: Protection = Protection::new(INTERVAL, Output::Commit);
/// Private memory of a kernel that must hold the large program twice: its own and one it takes over.
const MEMORY: u64 = 640;
/// Dirty pages of the checkpoint whose pause is measured, and what counts as such a checkpoint.
const DIRTY: u32 = 100;
const ABOUT_DIRTY: std::ops::RangeInclusive<u32> = 90..=150;
/// How long checkpoints are watched.
const WATCH: Duration = Duration::from_secs(5);
/// How long the idle machine is watched.
const IDLE: Duration = Duration::from_secs(5);
/// Rounds of the inter-kernel measurement.
const IKC_ROUNDS: u32 = 1000;

/// Measures everything.
pub fn core(paths: &Paths, files: &Files, rounds: u32) -> Result<Report> {
    let mut rows = Vec::new();
    let options = Options { memory: MEMORY, ..Options::default() };
    let machine = Machine::boot(paths, files, options, BOOT)?;
    let accelerator = machine.accelerator.to_string();
    let machine_words = host();
    idle(&mut rows, &machine);
    if let Err(error) = deaths(&mut rows, &mut machine.control(), rounds) {
        rows.push(Row::failed("deaths", &error));
    }
    if let Err(error) = pause(&mut rows, &mut machine.control()) {
        rows.push(Row::failed("pause of a checkpoint", &error));
    }
    if let Err(error) = ikc(&mut rows, &mut machine.control()) {
        rows.push(Row::failed("inter-kernel communication", &error));
    }
    drop(machine);
    many(&mut rows, paths, files);
    say("the demonstration");
    match demo::run(paths, files, Options::default(), Nanos::millis(20)) {
        Ok(report) if report.held() => {
            rows.push(Row::new("demonstration, once built", "s", Goal::AtMost(60.0), [report.took.as_secs_f64()]));
        }
        Ok(_) => rows.push(Row::failed("demonstration", &anyhow::anyhow!("not everything held"))),
        Err(error) => rows.push(Row::failed("demonstration", &error)),
    }
    Ok(Report::new(machine_words, accelerator, rows))
}

fn idle(rows: &mut Vec<Row>, machine: &Machine) {
    say("an idle machine");
    sleep(Duration::from_secs(1));
    let start = Instant::now();
    let sample = || machine.processor_time();
    let measured = sample().and_then(|before| {
        sleep(IDLE);
        Ok((sample()? - before).as_secs_f64() / start.elapsed().as_secs_f64() * 100.0)
    });
    let what = "idle machine of 4 kernels, of one host core";
    rows.push(match measured {
        Ok(share) => Row::new(what, "%", Goal::AtMost(15.0), [share]),
        Err(error) => Row::failed(what, &error),
    });
}

/// A program of so many MiB that dirties so many pages every so many milliseconds; it is protected when all of its pages
/// are there.
pub(super) fn toucher(
    control: &mut Control,
    name: &str,
    (size, pages, step): (u32, u32, u32),
    kernel: Option<KernelId>,
    protection: Option<Protection>,
) -> Result<ProgramId> {
    let argv = ["/usr/bin/touchpages".to_string(), size.to_string(), pages.to_string(), step.to_string()];
    let start = Start { name: name.to_string(), argv: argv.to_vec(), cwd: "/".to_string(), kernel, ..Start::default() };
    let started = control.start(start).with_context(|| format!("cannot start {name}"))?;
    let end = Instant::now() + SETTLE;
    while Instant::now() < end {
        let status = control.status()?;
        let pages = status::home(&status, started.program)
            .map_or(0, |(_, program)| program.processes.iter().map(|process| process.pages).sum::<u32>());
        if pages >= size * 256 {
            break;
        }
        sleep(Duration::from_millis(20));
    }
    if let Some(protection) = protection {
        control.protect(Target::Pid(started.pid), protection)?;
    }
    Ok(started.program)
}

fn deaths(rows: &mut Vec<Row>, control: &mut Control, rounds: u32) -> Result<()> {
    let heartbeat = control.status()?.heartbeat;
    let mut reboots = Vec::new();
    let mut panics = BTreeMap::new();
    let mut hangs = Vec::new();
    let mut fences = Vec::new();
    for size in [1, 200] {
        say(&format!("deaths under a program of {size} MB"));
        let name = format!("touch{size}");
        let program = toucher(control, &name, (size, 16, 10), None, Some(PROTECTION))?;
        let mut die = |fault: Fault| -> Result<Death> {
            recovery::settle(control, program, 2, SETTLE)?;
            let death = recovery::kill_under(control, program, fault, RECOVERY, || {})?;
            reboots.push(ms(death.reboot()));
            fences.push(ms(death.fence()));
            Ok(death)
        };
        for _ in 0..rounds {
            panics.entry(size).or_insert_with(Vec::new).push(ms(die(Fault::Panic)?.outage()));
        }
        if size == 1 {
            for round in 0..rounds {
                let fault = if round % 2 == 0 { Fault::InfiniteLoop } else { Fault::IrqDeadlock };
                hangs.push(ms(die(fault)?.detect()));
            }
        }
        let _ = control.kill(Target::Name(name), 9);
    }
    let small = Row::new(
        "panic to first user instruction, 1 MB program",
        "ms",
        Goal::AtMost(5.0),
        panics.remove(&1).unwrap_or_default(),
    );
    let twice = small.median().map_or(Goal::None, |median| Goal::AtMost(2.0 * median));
    rows.push(small);
    rows.push(Row::new(
        "panic to first user instruction, 200 MB program",
        "ms",
        twice,
        panics.remove(&200).unwrap_or_default(),
    ));
    rows.push(Row::new(
        format!("hang detected (heartbeat {} ms; since the last stamp)", ms(heartbeat)),
        "ms",
        hang_goal(heartbeat),
        hangs,
    ));
    rows.push(Row::new("detected to fenced", "ms", Goal::None, fences));
    rows.push(Row::new("fenced kernel to rejoined kernel", "ms", Goal::AtMost(50.0), reboots));
    Ok(())
}

fn pause(rows: &mut Vec<Row>, control: &mut Control) -> Result<()> {
    say("checkpoints");
    let step = (INTERVAL.0 / 1_000_000) as u32;
    let program = toucher(control, "dirty", (32, DIRTY, step), None, Some(PROTECTION))?;
    recovery::settle(control, program, 2, SETTLE)?;
    let mut pauses: BTreeMap<Epoch, f64> = BTreeMap::new();
    let end = Instant::now() + WATCH;
    while Instant::now() < end {
        let status = control.status()?;
        if let Some(checkpoint) = status::home(&status, program).and_then(|(_, program)| program.checkpoint)
            && ABOUT_DIRTY.contains(&checkpoint.pages)
        {
            pauses.insert(checkpoint.epoch, ms(checkpoint.pause));
        }
        sleep(Duration::from_millis(20));
    }
    let _ = control.kill(Target::Name("dirty".to_string()), 9);
    rows.push(Row::new(
        format!("pause of a checkpoint with {DIRTY} dirty pages"),
        "ms",
        Goal::AtMost(1.0),
        pauses.into_values(),
    ));
    Ok(())
}

fn ikc(rows: &mut Vec<Row>, control: &mut Control) -> Result<()> {
    say("inter-kernel communication");
    for figure in control.bench_ikc(IKC_ROUNDS)? {
        let samples = figure.samples.iter().map(|nanos| *nanos as f64 / 1e3);
        rows.push(Row::new(figure.name, "us", Goal::None, samples));
    }
    Ok(())
}

fn many(rows: &mut Vec<Row>, paths: &Paths, files: &Files) {
    say("the boot of 64 kernels");
    let what = "64 kernels boot";
    let options = Options { kernels: 64, memory: 32, ..Options::default() };
    rows.push(match Machine::boot(paths, files, options, BOOT) {
        Ok(machine) => Row::new(what, "s", Goal::AtMost(10.0), [machine.boot_time.as_secs_f64()]),
        Err(error) => Row::failed(what, &error),
    });
}

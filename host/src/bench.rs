//! `shimos bench core`: what the project must reach, measured, with goal and verdict.
use crate::{
    control::Control,
    demo,
    machine::{Files, Machine, Options},
    paths::Paths,
    recovery::{self, Death},
    status::{self, ms},
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use shimos_abi::{
    control::{Fault, Output, Protection, Start, Target},
    ids::{Epoch, ProgramId},
    time::Nanos,
};
use std::{
    collections::BTreeMap,
    thread::sleep,
    time::{Duration, Instant},
};

const BOOT: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(30);
const RECOVERY: Duration = Duration::from_secs(30);
/// Time between checkpoints of the measured programs.
const INTERVAL: Nanos = Nanos::millis(50);
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

/// What a median may be at most.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Goal {
    None,
    AtMost(f64),
}

/// One measured quantity.
#[derive(Clone, Debug)]
struct Row {
    what: String,
    unit: &'static str,
    goal: Goal,
    /// Sorted.
    samples: Vec<f64>,
    /// Why there are no samples.
    error: Option<String>,
}

impl Row {
    fn new(what: impl Into<String>, unit: &'static str, goal: Goal, samples: impl IntoIterator<Item = f64>) -> Row {
        let mut samples: Vec<f64> = samples.into_iter().collect();
        samples.sort_by(f64::total_cmp);
        Row { what: what.into(), unit, goal, samples, error: None }
    }

    fn failed(what: impl Into<String>, error: &anyhow::Error) -> Row {
        let error = Some(crate::usage::one_line(error));
        Row { what: what.into(), unit: "", goal: Goal::AtMost(0.0), samples: Vec::new(), error }
    }

    fn median(&self) -> Option<f64> {
        median(&self.samples)
    }

    fn met(&self) -> bool {
        match (self.goal, self.median()) {
            (Goal::None, _) => self.error.is_none(),
            (Goal::AtMost(most), Some(median)) => median <= most,
            (Goal::AtMost(_), None) => false,
        }
    }
}

/// The middle of sorted samples.
fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match (sorted.len() % 2, sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (0, Some(low), Some(high)) => Some((low + high) / 2.0),
        (_, _, high) => high.copied(),
    }
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Report {
    machine: String,
    accelerator: String,
    rows: Vec<Row>,
}

impl Report {
    /// Whether every goal was met.
    pub fn held(&self) -> bool {
        self.rows.iter().all(Row::met)
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!("machine: {}\naccelerator: {}\n\n", self.machine, self.accelerator);
        text +=
            &format!("{:<52} {:>10} {:>21} {:>5} {:>10}  met\n", "what (medians)", "median", "min .. max", "n", "goal");
        for row in &self.rows {
            if let Some(error) = &row.error {
                text += &format!("{:<52} FAILED: {error}\n", row.what);
                continue;
            }
            let (goal, met) = match row.goal {
                Goal::None => (String::new(), ""),
                Goal::AtMost(most) => (format!("{} {}", round(most), row.unit), if row.met() { "yes" } else { "NO" }),
            };
            let shown = |value: Option<f64>| value.map_or("none".to_string(), round);
            text += &format!(
                "{:<52} {:>10} {:>21} {:>5} {:>10}  {met}\n",
                row.what,
                format!("{} {}", shown(row.median()), row.unit),
                format!("{} .. {}", shown(row.samples.first().copied()), shown(row.samples.last().copied())),
                row.samples.len(),
                goal
            );
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "what": row.what,
                "unit": row.unit,
                "median": row.median(),
                "min": row.samples.first(),
                "max": row.samples.last(),
                "samples": row.samples.len(),
                "goal": match row.goal { Goal::None => Value::Null, Goal::AtMost(most) => json!(most) },
                "met": row.met(),
                "error": row.error,
            })
        });
        json!({ "machine": self.machine, "accelerator": self.accelerator, "rows": rows.collect::<Vec<_>>() })
    }
}

/// Three digits that matter.
fn round(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// One measured figure of the kernel's own, on one line.
pub fn figure(name: &str, nanos: &[u64]) -> String {
    let samples: Vec<f64> = nanos.iter().map(|nanos| *nanos as f64 / 1e3).collect();
    let at =
        |share: f64| samples.get((samples.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or(0.0);
    format!(
        "{name}: min {:.2} us, median {:.2} us, 99 % {:.2} us, max {:.2} us, {} samples",
        at(0.0),
        median(&samples).unwrap_or(0.0),
        at(0.99),
        at(1.0),
        samples.len()
    )
}

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
    Ok(Report { machine: machine_words, accelerator, rows })
}

fn say(what: &str) {
    eprintln!("shimos: measuring {what}");
}

/// The host in a few words.
fn host() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_string();
    format!("{}, {cores} cores, load {load} at the start", model.unwrap_or("unknown processor"))
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

/// A program of so many MiB that dirties so many pages every so many milliseconds, protected.
fn toucher(control: &mut Control, name: &str, size: u32, pages: u32, step: u32) -> Result<ProgramId> {
    let argv = ["/usr/bin/touchpages".to_string(), size.to_string(), pages.to_string(), step.to_string()];
    let started = control
        .start(Start {
            name: name.to_string(),
            argv: argv.to_vec(),
            env: Vec::new(),
            cwd: "/".to_string(),
            ..Start::default()
        })
        .with_context(|| format!("cannot start {name}"))?;
    control.protect(Target::Pid(started.pid), Protection { interval: INTERVAL, output: Output::Commit })?;
    // Until all its pages are there.
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
        let program = toucher(control, &name, size, 16, 10)?;
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
        format!("hang detected (heartbeat {} ms; goal 3 of them + 1)", ms(heartbeat)),
        "ms",
        Goal::AtMost(4.0 * ms(heartbeat)),
        hangs,
    ));
    rows.push(Row::new("detected to fenced", "ms", Goal::None, fences));
    rows.push(Row::new("fenced kernel to rejoined kernel", "ms", Goal::AtMost(50.0), reboots));
    Ok(())
}

fn pause(rows: &mut Vec<Row>, control: &mut Control) -> Result<()> {
    say("checkpoints");
    let step = (INTERVAL.0 / 1_000_000) as u32;
    let program = toucher(control, "dirty", 32, DIRTY, step)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_goals() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[1.0, 3.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
        assert!(Row::new("a", "ms", Goal::AtMost(2.0), [9.0, 1.0, 2.0]).met());
        assert!(!Row::new("a", "ms", Goal::AtMost(1.9), [9.0, 1.0, 2.0]).met());
        assert!(!Row::new("a", "ms", Goal::AtMost(1.9), []).met());
        assert!(Row::new("a", "ms", Goal::None, [1.0]).met());
    }

    #[test]
    fn a_report_shows_what_failed() {
        let rows = vec![
            Row::new("fast", "ms", Goal::AtMost(5.0), [1.0, 2.0, 3.0]),
            Row::failed("broken", &anyhow::anyhow!("no kernel")),
        ];
        let report = Report { machine: "m".to_string(), accelerator: "tcg".to_string(), rows };
        assert!(!report.held());
        let table = report.table();
        assert!(table.contains("yes") && table.contains("FAILED: no kernel"), "{table}");
        assert_eq!(report.json()["rows"][0]["median"], 2.0);
    }

    #[test]
    fn figures_fit_on_a_line() {
        assert_eq!(
            figure("woken", &[1000, 2000, 3000]),
            "woken: min 1.00 us, median 2.00 us, 99 % 2.00 us, max 3.00 us, 3 samples"
        );
        assert!(figure("none", &[]).contains("0 samples"));
    }
}

//! `shimos bench influence`: what protection costs a program that computes, and one that computes beside a protected one
//! (the paper's incoming and outgoing influence, Figures 5 and 4).
use super::{
    Chart, Goal, Report, Row, host,
    loads::{LOADS, Load},
    say,
};
use crate::{
    machine::{Files, Machine, Options, Time},
    paths::Paths,
    units,
};
use anyhow::{Context, Result, bail};
use shimos_abi::{
    control::{Output, Protection, Start, Target},
    ids::KernelId,
    time::Nanos,
};
use std::time::Duration;

const BOOT: Duration = Duration::from_secs(120);
/// Memory of each kernel, in MiB.
const MEMORY: u64 = 2600;
const HEARTBEAT: Nanos = Nanos::secs(10);
/// Where programs are looked for.
const PATH: &str = "PATH=/usr/local/bin:/usr/bin:/usr/sbin:/usr/games:/bin:/sbin";
/// The longest that one measurement may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// Where programs are measured.
const KERNEL: KernelId = KernelId(1);
/// Intervals for the program itself, with what they may cost in per cent on the geometric mean.
const INCOMING: [(Nanos, f64); 4] =
    [(Nanos::secs(15), 0.2), (Nanos::secs(1), 1.0), (Nanos::millis(50), 5.0), (Nanos::millis(10), 20.0)];
/// The interval of the protected program beside, and what that may cost.
const OUTGOING: (Nanos, f64) = (Nanos::secs(15), 0.2);
/// The program beside: a web server that nobody asks, as in the paper.
const BESIDE: &str = "mkdir -p /tmp/www && exec busybox httpd -f -p 80 -h /tmp/www";

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Rounds.
    pub rounds: u32,
    /// Names of programs; none stands for all.
    pub only: Vec<String>,
    /// What is measured; none stands for all.
    pub every: Vec<Part>,
    /// How long each is measured at least; with protection at least for an interval.
    pub span: Duration,
    /// How time passes.
    pub time: Time,
}

/// The names of all programs.
pub fn names() -> Vec<&'static str> {
    LOADS.iter().map(|load| load.name).collect()
}

/// Under which a program is measured.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Setting {
    /// Alone and not protected.
    Off,
    /// Protected with this interval.
    Protected(Nanos),
    /// Not protected, beside the web server, which is protected or not.
    Beside(Option<Nanos>),
}

/// What one program took for one unit of work, in seconds, by setting.
type Times = Vec<(Setting, Vec<f64>)>;

/// What can be chosen to be measured.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Part {
    /// Programs protected with this interval.
    Every(Nanos),
    /// Programs beside a protected one.
    Beside,
}

fn settings(parts: &[Part]) -> Vec<Setting> {
    let wanted = |part| parts.is_empty() || parts.contains(&part);
    let intervals = INCOMING.iter().map(|(interval, _)| *interval).filter(|interval| wanted(Part::Every(*interval)));
    let mut all: Vec<Setting> = intervals.map(Setting::Protected).collect();
    if !all.is_empty() {
        all.insert(0, Setting::Off);
    }
    if wanted(Part::Beside) {
        all.extend([Setting::Beside(None), Setting::Beside(Some(OUTGOING.0))]);
    }
    all
}

/// A part by its word: an interval, or `beside`.
pub fn part(word: &str) -> Result<Part, String> {
    if word == "beside" {
        return Ok(Part::Beside);
    }
    let wanted = units::duration(word)?;
    let known: Vec<String> = INCOMING.iter().map(|(interval, _)| span(*interval)).collect();
    match INCOMING.iter().any(|(interval, _)| *interval == wanted) {
        true => Ok(Part::Every(wanted)),
        false => Err(format!("not an interval that is measured: {}", known.join(", "))),
    }
}

/// Measures influences.
pub fn influence(paths: &Paths, files: &Files, wanted: &Wanted) -> Result<Report> {
    // Nobody dies here, and a host that stalls must not make it look so.
    let heartbeat = Some(HEARTBEAT);
    let options = Options { kernels: 2, memory: MEMORY, time: wanted.time, heartbeat, ..Options::default() };
    let machine = Machine::boot(paths, files, options, BOOT)?;
    let mut report = Report::new(host(), format!("{}{}", machine.accelerator, wanted.time), Vec::new());
    let chosen = LOADS.iter().filter(|load| wanted.only.is_empty() || wanted.only.iter().any(|name| name == load.name));
    let mut all: Vec<(Load, Result<Times>)> = chosen.map(|load| (*load, Ok(Vec::new()))).collect();
    let mut number = 0;
    for round in 0..wanted.rounds {
        for (load, times) in &mut all {
            let Ok(found) = times else { continue };
            say(&format!("{}, round {}", load.name, round + 1));
            // Once unmeasured: what it reads from the disk is in memory from then on.
            number += 1;
            if let Err(error) = one(&machine, load, Setting::Off, Duration::ZERO, number) {
                *times = Err(error);
                continue;
            }
            for setting in settings(&wanted.every) {
                number += 1;
                match one(&machine, load, setting, wanted.span, number) {
                    Err(error) => {
                        *times = Err(error);
                        break;
                    }
                    Ok(time) => match found.iter_mut().find(|(known, _)| *known == setting) {
                        Some((_, list)) => list.push(time),
                        None => found.push((setting, vec![time])),
                    },
                }
            }
        }
    }
    fill(&mut report, all);
    report.notes.push(
        "Each figure is the time of a unit of work against the same program's time in the same round without protection \
         (or beside the web server without protection). Negative ones are noise."
            .to_string(),
    );
    Ok(report)
}

/// By how many per cent each time exceeds the one of the same round under another setting.
fn excess(times: &Times, setting: Setting, base: Setting) -> Vec<f64> {
    let of = |wanted| times.iter().find(|(known, _)| *known == wanted).map_or(&[][..], |(_, list)| list.as_slice());
    of(setting).iter().zip(of(base)).map(|(time, base)| (time / base - 1.0) * 100.0).collect()
}

/// The geometric mean of ratios that are given as excess in per cent.
fn mean(excesses: &[f64]) -> Option<f64> {
    let logs = excesses.iter().map(|excess| (1.0 + excess / 100.0).ln());
    (!excesses.is_empty()).then(|| ((logs.sum::<f64>() / excesses.len() as f64).exp() - 1.0) * 100.0)
}

fn fill(report: &mut Report, all: Vec<(Load, Result<Times>)>) {
    let mut kinds: Vec<(Setting, Setting, f64, String)> = INCOMING
        .iter()
        .map(|(interval, goal)| {
            (Setting::Protected(*interval), Setting::Off, *goal, format!("every {}", span(*interval)))
        })
        .collect();
    let (interval, goal) = OUTGOING;
    let beside = format!("beside one protected every {}", span(interval));
    kinds.push((Setting::Beside(Some(interval)), Setting::Beside(None), goal, beside));
    let measured = |setting: &Setting| {
        all.iter().any(|(_, times)| times.as_ref().is_ok_and(|times| times.iter().any(|(known, _)| known == setting)))
    };
    kinds.retain(|(setting, ..)| measured(setting));
    let mut means = vec![Vec::new(); kinds.len()];
    let mut series = Vec::new();
    for (load, times) in all {
        let what = format!("{} ({})", load.name, load.part);
        let times = match times {
            Ok(times) => times,
            Err(error) => {
                report.rows.push(Row::failed(what, &error));
                continue;
            }
        };
        let mut line = Vec::new();
        for ((setting, base, _, name), means) in kinds.iter().zip(&mut means) {
            let row = Row::new(format!("{}, {name}", load.name), "%", Goal::None, excess(&times, *setting, *base));
            if let Some(median) = row.median() {
                means.push(median);
                if let Setting::Protected(interval) = setting {
                    line.push((interval.0 as f64 / 1e6, median));
                }
            }
            report.rows.push(row);
        }
        series.push((load.name.to_string(), line));
    }
    for ((_, _, goal, name), medians) in kinds.iter().zip(&means) {
        report.rows.push(Row::new(format!("geometric mean, {name}"), "%", Goal::AtMost(*goal), mean(medians)));
    }
    report.charts.push(Chart {
        title: "what protection costs".to_string(),
        x: "interval, ms".to_string(),
        y: "median, per cent (0 and less at the bottom)".to_string(),
        series,
        goal: None,
    });
}

fn span(interval: Nanos) -> String {
    match interval.0 {
        nanos if nanos >= 1_000_000_000 => format!("{} s", nanos / 1_000_000_000),
        nanos => format!("{} ms", nanos / 1_000_000),
    }
}

/// The time of one unit of work, in seconds.
pub(super) fn one(machine: &Machine, load: &Load, setting: Setting, least: Duration, number: u32) -> Result<f64> {
    let every = |interval| Protection::new(interval, Output::Commit);
    let (protection, beside) = match setting {
        Setting::Off => (None, None),
        Setting::Protected(interval) => (Some(every(interval)), None),
        Setting::Beside(interval) => (None, Some(interval.map(every))),
    };
    let longest = match setting {
        Setting::Protected(interval) | Setting::Beside(Some(interval)) => Duration::from_nanos(interval.0),
        _ => Duration::ZERO,
    };
    let name = format!("load{number}");
    let server = format!("beside{number}");
    if let Some(protection) = beside {
        start(machine, &server, BESIDE, protection)?;
    }
    let line = format!(
        "({}) && s=$(date +%s%N) && n=0 && while :; do ({}) >/dev/null 2>/tmp/errors || {{ head -n 1 /tmp/errors; exit 1; }}; \
         n=$((n + 1)); t=$(($(date +%s%N) - s)); [ $t -lt {} ] || break; done; echo units $n nanos $t",
        load.before,
        load.line,
        least.max(longest).as_nanos()
    );
    let measured = start(machine, &name, &line, protection).and_then(|()| finish(machine, &name));
    if beside.is_some() {
        let _ = machine.control().kill(Target::Name(server.clone()), 9);
        let mark = format!("program {server} ended");
        machine.console().wait_for(PATIENCE, |line| line.text.starts_with(&mark)).context("the server does not end")?;
    }
    measured
}

fn start(machine: &Machine, name: &str, line: &str, protection: Option<Protection>) -> Result<()> {
    let start = Start {
        name: name.to_string(),
        argv: ["/bin/sh", "-c", line].map(str::to_string).to_vec(),
        env: vec![PATH.to_string(), "LC_ALL=C.UTF-8".to_string(), "HOME=/tmp".to_string()],
        cwd: "/tmp".to_string(),
        kernel: Some(KERNEL),
        protection,
        ..Start::default()
    };
    machine.control().start(start).with_context(|| format!("cannot start {name}"))?;
    Ok(())
}

/// Waits for a program's end; what it says of its work.
fn finish(machine: &Machine, name: &str) -> Result<f64> {
    let mark = format!("program {name} ended, status ");
    let ended = machine.console().wait_for(PATIENCE, |line| line.text.starts_with(&mark));
    let said = machine.console().of_program(name);
    let Some(ended) = ended else {
        let _ = machine.control().kill(Target::Name(name.to_string()), 9);
        bail!("not finished within {} s", PATIENCE.as_secs());
    };
    let words: Vec<&str> = said.last().map(|line| line.split(' ').collect()).unwrap_or_default();
    match words.as_slice() {
        ["units", units, "nanos", nanos] => Ok(nanos.parse::<f64>()? / 1e9 / units.parse::<f64>()?),
        _ => bail!("{}: {}", ended.text, said.join(" / ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excesses_are_taken_round_by_round() {
        let times = vec![(Setting::Off, vec![1.0, 2.0]), (Setting::Protected(Nanos::secs(1)), vec![1.1, 2.0])];
        let found = excess(&times, Setting::Protected(Nanos::secs(1)), Setting::Off);
        assert!((found[0] - 10.0).abs() < 1e-9 && found[1].abs() < 1e-9);
        assert!(excess(&times, Setting::Beside(None), Setting::Off).is_empty());
        assert_eq!(mean(&[]), None);
        assert!((mean(&[21.0, 0.0]).expect("a mean") - 10.0).abs() < 1e-9);
    }

    #[test]
    fn parts_can_be_chosen() {
        assert_eq!(part("50ms"), Ok(Part::Every(Nanos::millis(50))));
        assert!(part("51ms").is_err() && part("soon").is_err());
        let chosen = settings(&[Part::Every(Nanos::secs(1))]);
        assert_eq!(chosen, [Setting::Off, Setting::Protected(Nanos::secs(1))]);
        let chosen = settings(&[part("beside").expect("a part")]);
        assert_eq!(chosen, [Setting::Beside(None), Setting::Beside(Some(OUTGOING.0))]);
        assert_eq!(settings(&[]).len(), INCOMING.len() + 3);
    }

    #[test]
    fn means_are_judged_and_what_failed_is_told() {
        let load = LOADS[0];
        let times = settings(&[]).into_iter().map(|setting| (setting, vec![1.0])).collect();
        let mut report = Report::new("m".to_string(), "tcg".to_string(), Vec::new());
        fill(&mut report, vec![(load, Ok(times)), (LOADS[1], Err(anyhow::anyhow!("not there")))]);
        let table = report.table();
        assert!(table.contains("geometric mean, every 50 ms") && table.contains("FAILED: not there"), "{table}");
        assert!(!report.held());
    }
}

//! `shimos soak`: services under load from this host while kernels die at random moments, also together: each must go on as
//! if nothing had been. Who watches is independent of the kernels: clients that check every answer, and a checker of
//! the packets that leave the machine.
pub mod deaths;
pub mod plan;

use crate::{
    loads::{Load, Service, Verdict},
    machine::{Files, Machine, Options},
    names,
    paths::Paths,
    wire::{Tap, checker::Seen},
};
use anyhow::{Context, Result};
use plan::Burst;
use serde_json::{Value, json};
use shimos_abi::control::{Protection, address_of};
use shimos_random::Random;
use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

/// Longest that a boot may take.
const BOOT: Duration = Duration::from_secs(60);
/// How long clients work before the first death and after the last one.
const MARGIN: Duration = Duration::from_millis(500);
/// Deaths between two words about how far it is.
const TOLD: usize = 10;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Only these services; all if there is none.
    pub services: Vec<String>,
    /// Deaths of kernels under each.
    pub deaths: u32,
    /// Deaths at a time, at most.
    pub together: u32,
    /// What decides which kernels die, when, and how.
    pub seed: u64,
    /// How the services are protected.
    pub protection: Protection,
    /// The machine that each service gets.
    pub machine: Options,
}

impl Wanted {
    /// Whether it can be done.
    pub fn check(&self) -> Result<()> {
        self.machine.check()?;
        if u32::from(self.machine.kernels) <= self.together {
            let Wanted { together, machine, .. } = self;
            return Err(crate::usage::usage(format!(
                "--together {together}: one of the {} kernels must be left",
                machine.kernels
            )));
        }
        Ok(())
    }

    fn loads(&self) -> Vec<&'static dyn Load> {
        let wanted = |load: &&'static dyn Load| {
            self.services.is_empty() || self.services.iter().any(|service| service == load.name())
        };
        crate::loads::all().into_iter().filter(wanted).collect()
    }
}

/// What became of one service.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which.
    pub service: &'static str,
    /// What its kernels, moments and faults followed from.
    pub seed: u64,
    /// Kernels that died, and how.
    pub deaths: Vec<String>,
    /// What its clients say.
    pub clients: Verdict,
    /// What its packets say.
    pub wire: Seen,
    /// What kept it from being tried to the end.
    pub error: Option<String>,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// Whether nobody has noticed a death.
    pub fn held(&self) -> bool {
        self.error.is_none() && self.clients.held() && self.wire.violations == 0
    }

    fn wrong(&self) -> Vec<&str> {
        self.error.iter().chain(&self.clients.failures).chain(&self.wire.told).map(String::as_str).collect()
    }

    fn json(&self) -> Value {
        json!({
            "service": self.service,
            "held": self.held(),
            "seed": self.seed,
            "deaths": self.deaths.len(),
            "killed": self.deaths,
            "operations": self.clients.operations,
            "longest_ms": self.clients.longest.as_secs_f64() * 1e3,
            "connections": self.wire.connections,
            "segments": self.wire.segments,
            "segments_repeated": self.wire.repeated,
            "bytes_compared": self.wire.compared,
            "bytes_not_compared": self.wire.unknown,
            "violations": self.wrong(),
            "seconds": self.took.as_secs_f64(),
        })
    }
}

/// What became of all.
#[derive(Clone, Debug)]
pub struct Report(pub Vec<Outcome>);

impl Report {
    /// Whether all held.
    pub fn held(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(Outcome::held)
    }

    /// For programs: a list.
    pub fn json(&self) -> Value {
        self.0.iter().map(Outcome::json).collect()
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<16} {:>6} {:>10} {:>10} {:>8} {:>8} {:>7}  verdict\n",
            "service", "deaths", "operations", "longest ms", "segments", "repeated", "seconds"
        );
        for outcome in &self.0 {
            text += &format!(
                "{:<16} {:>6} {:>10} {:>10.0} {:>8} {:>8} {:>7.0}  {}\n",
                outcome.service,
                outcome.deaths.len(),
                outcome.clients.operations,
                outcome.clients.longest.as_secs_f64() * 1e3,
                outcome.wire.segments,
                outcome.wire.repeated,
                outcome.took.as_secs_f64(),
                if outcome.held() { "held" } else { "VIOLATED" },
            );
            for what in outcome.wrong() {
                text += &format!("    {what}\n");
            }
            if !outcome.held() {
                text += &format!("    again: --service {} --seed {}\n", outcome.service, outcome.seed);
            }
        }
        text
    }
}

/// Tries all services that are wanted, one machine after another.
pub fn run(paths: &Paths, files: &Files, wanted: &Wanted) -> Result<Report> {
    wanted.check()?;
    let mut outcomes = Vec::new();
    for load in wanted.loads() {
        let outcome = one(paths, files, wanted, load);
        for what in outcome.wrong() {
            eprintln!("shimos: {}: {what}", load.name());
        }
        outcomes.push(outcome);
    }
    Ok(Report(outcomes))
}

/// Tries one service on a machine of its own.
pub fn one(paths: &Paths, files: &Files, wanted: &Wanted, load: &'static dyn Load) -> Outcome {
    let begin = Instant::now();
    let mut outcome = Outcome {
        service: load.name(),
        seed: wanted.seed,
        deaths: Vec::new(),
        clients: Verdict::default(),
        wire: Seen::default(),
        error: None,
        took: Duration::ZERO,
    };
    let result = watched(paths, files, wanted, load, &mut outcome);
    outcome.error = result.err().map(|error| format!("{error:#}"));
    outcome.took = begin.elapsed();
    outcome
}

/// On a machine whose frames are watched; the last of them are kept if anything was wrong.
fn watched(
    paths: &Paths,
    files: &Files,
    wanted: &Wanted,
    load: &'static dyn Load,
    outcome: &mut Outcome,
) -> Result<()> {
    let directory = paths.build.join("soak");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let name = format!("{}-{}-{}", load.name(), wanted.seed, std::process::id());
    let tap = Tap::new(&directory.join(format!("{name}.pipe")))?;
    let options = Options { capture: Some(tap.path().to_owned()), ..wanted.machine.clone() };
    let tried = Machine::boot(paths, files, options, BOOT).and_then(|mut machine| {
        let result = under_load(&mut machine, &tap, wanted, load, outcome);
        let log = machine.entry().directory.join("console.log");
        result.with_context(|| format!("{} (log: {})", load.name(), log.display()))
    });
    let wrong = tried.is_err() || !outcome.clients.held() || tap.failed();
    let kept = directory.join(format!("{name}.pcap"));
    outcome.wire = tap.finish(wrong.then_some(kept.as_path()))?;
    if wrong {
        eprintln!("shimos: {}: the last frames are in {}", load.name(), kept.display());
    }
    tried
}

fn under_load(
    machine: &mut Machine,
    tap: &Tap,
    wanted: &Wanted,
    load: &'static dyn Load,
    outcome: &mut Outcome,
) -> Result<()> {
    let plan = plan::plan(wanted.seed, wanted.deaths, wanted.together);
    let service = Service::start(machine, load, None)?;
    service.protect(machine, wanted.protection)?;
    tap.watch(address_of(service.program));
    eprintln!("shimos: {} answers; {} kernels are to die", load.name(), wanted.deaths);
    let work = service.work(Random::new(wanted.seed ^ 0x10ad).bits())?;
    let result = (|| {
        sleep(MARGIN);
        let mut told = 0;
        for burst in &plan {
            kill(machine, &service, burst, outcome)?;
            if outcome.deaths.len() / TOLD > told {
                told = outcome.deaths.len() / TOLD;
                let (name, deaths) = (load.name(), outcome.deaths.len());
                eprintln!("shimos: {name}: {deaths} of {} deaths, {} operations", wanted.deaths, work.operations());
            }
            if work.failed() || tap.failed() {
                break;
            }
        }
        let now = deaths::quiet(&mut machine.control(), service.program)?;
        deaths::not_reset(machine, &now)?;
        sleep(MARGIN);
        Ok(())
    })();
    outcome.clients = if tap.failed() { work.leave() } else { work.end() };
    result
}

fn kill(machine: &Machine, service: &Service, burst: &Burst, outcome: &mut Outcome) -> Result<()> {
    let died = deaths::carry_out(machine, service.program, burst).with_context(|| {
        let faults: Vec<_> = burst.iter().map(|death| names::fault(death.fault)).collect();
        format!("after {} deaths, with {}", outcome.deaths.len(), faults.join(" and "))
    })?;
    outcome.deaths.extend(died.iter().map(|(life, fault)| format!("{life} {}", names::fault(*fault))));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            service: "redis",
            seed: 7,
            deaths: vec!["k1.1 panic".to_string()],
            wire: Seen::default(),
            clients: Verdict { operations: 3, ..Verdict::default() },
            error: None,
            took: Duration::from_secs(1),
        }
    }

    #[test]
    fn anything_wrong_is_a_violation() {
        assert!(Report(vec![outcome()]).held() && !Report(Vec::new()).held());
        let mut wrong = [outcome(), outcome(), outcome()];
        wrong[0].error = Some("no machine".to_string());
        wrong[1].clients.failures.push("lost".to_string());
        wrong[2].wire.violations = 1;
        for wrong in wrong {
            let report = Report(vec![outcome(), wrong]);
            assert!(!report.held() && report.table().contains("--service redis --seed 7"));
            assert_eq!(report.json()[1]["held"], false);
        }
    }
}

//! A machine under test with its services and their clients, and one run on it.
use super::{
    class::{Aim, Class, Expected, Part, Plan},
    flips::{Flip, Flipper},
    report::{Outcome, Record},
};
use crate::{
    control::Control,
    faults::{self, Fault, Injury},
    loads::{self, Service, Work},
    machine::{Files, Machine, Options},
    names, recovery,
    status::{self, ms},
};
use anyhow::{Context, Result, bail};
use serde_json::json;
use shimos_abi::{
    control::{Device, KernelState, MachineStatus, Protection},
    ids::{KernelId, Life},
};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// Longest that a boot may take.
const BOOT: Duration = Duration::from_secs(60);
/// How long the machine is watched when nothing must happen, and at most until what must happen has.
const WATCH: Duration = Duration::from_millis(900);
const DEATH: Duration = Duration::from_secs(10);
/// How long the machine may take to be well again, and clients to get answers.
const WELL: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(25);
/// Answers that each service gives after a run.
const ANSWERS: u64 = 5;
/// Words on the console by which a kernel says that it has found damage.
const FOUND: [&str; 5] = ["passed over", " closed: ", "cannot be read", "is lost", "overwritten"];

/// What a stand is made of.
#[derive(Clone, Debug)]
pub struct Made {
    /// The machine.
    pub options: Options,
    /// The services that run on it.
    pub services: Vec<String>,
    /// How they are protected.
    pub protection: Protection,
}

/// A machine under test.
pub struct Stand {
    services: Vec<(Service, Option<Work>)>,
    flipper: Option<Flipper>,
    control: Control,
    machine: Machine,
}

/// What was seen of a machine after an injury.
struct Seen {
    before: MachineStatus,
    after: Option<MachineStatus>,
    said: Vec<String>,
}

impl Stand {
    /// Boots a machine and starts its services and their clients.
    pub fn new(paths: &crate::paths::Paths, files: &Files, made: &Made, seed: u64) -> Result<Stand> {
        let mut machine = Machine::boot(paths, files, made.options.clone(), BOOT)?;
        let mut services = Vec::new();
        for (place, name) in made.services.iter().enumerate() {
            let load = loads::named(name).with_context(|| format!("no service {name}"))?;
            let kernel = KernelId((place as u16 + 1) % made.options.kernels);
            let service = Service::start(&mut machine, load, Some(kernel))?;
            service.protect(&machine, made.protection)?;
            services.push((service, None));
        }
        for (service, work) in &mut services {
            *work = Some(service.work(seed)?);
        }
        let control = machine.control();
        Ok(Stand { services, flipper: None, control, machine })
    }

    /// Where the machine's log is.
    pub fn log(&self) -> String {
        self.machine.entry().directory.join("console.log").display().to_string()
    }

    /// Ends the clients and has them check all that they were told; what was wrong.
    pub fn end(mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (service, work) in &mut self.services {
            if let Some(work) = work.take() {
                let name = service.load.name();
                wrong.extend(work.end().failures.into_iter().map(|what| format!("{name}: {what}")));
            }
        }
        wrong
    }

    fn well(&mut self, within: Duration) -> Result<MachineStatus> {
        let end = Instant::now() + within;
        for (service, _) in &self.services {
            recovery::settle(&mut self.control, service.program, 1, end.saturating_duration_since(Instant::now()))?;
        }
        self.control.status()
    }

    fn answers(&self) -> Vec<u64> {
        self.services.iter().map(|(_, work)| work.as_ref().map_or(0, Work::operations)).collect()
    }

    fn failed(&self) -> bool {
        self.services.iter().any(|(_, work)| work.as_ref().is_some_and(Work::failed))
    }

    fn target(&self, aim: Aim, status: &MachineStatus) -> Option<Life> {
        let number = |n: usize, all: usize| n.checked_rem(all).unwrap_or_default();
        let kernel = match aim {
            Aim::Service(n) => {
                let (service, _) = self.services.get(number(n, self.services.len()))?;
                status::home(status, service.program)?.0.id
            }
            Aim::Monitor => status.monitor,
            Aim::Card => status.owners.get(Device::Network as usize).copied()?,
            Aim::Any(n) => status.kernels.get(number(n, status.kernels.len()))?.id,
        };
        recovery::life(status, kernel)
    }

    fn flipper(&mut self) -> Result<&mut Flipper> {
        if self.flipper.is_none() {
            let directory = self.machine.entry().directory.clone();
            // The path of a UNIX socket is short.
            let port = std::env::temp_dir().join(format!("{}.gdb", self.machine.entry().id));
            let line = format!("gdbserver unix:{},server=on,wait=off", port.display());
            let said = self.machine.qmp().human(&line)?;
            let kernels = self.machine.options.kernels;
            let flipper = Flipper::new(&port, &directory.join(faults::KERNEL_FILE), kernels);
            let _ = std::fs::remove_file(&port);
            self.flipper = Some(flipper.with_context(|| said)?);
        }
        self.flipper.as_mut().context("no debugger")
    }

    fn inflict(&mut self, plan: &Plan, life: Life) -> Result<(String, Option<Flip>)> {
        match plan.class {
            Class::Ordered(Injury::Ordered(fault)) => {
                self.control.inject_seeded(life, fault, plan.seed)?;
                Ok((format!("{} in {life}", names::fault(fault)), None))
            }
            Class::Ordered(Injury::MachineCheck(told)) => {
                faults::machine_check(self.machine.qmp(), life.kernel, told)?;
                Ok((format!("{} in {life}", plan.class), None))
            }
            Class::Flip(part) => {
                // A program's image is with the kernel under it: nobody else has one.
                let flip = self.flipper()?.flip(part, life.kernel, plan.seed)?;
                Ok((flip.place.clone(), Some(flip)))
            }
        }
    }

    /// One run. The stand may be used again if the second value says so.
    pub fn run(&mut self, plan: &Plan) -> (Record, bool) {
        let begin = Instant::now();
        let mut record = Record {
            number: plan.number,
            class: plan.class,
            kernel: None,
            injected: String::new(),
            outcome: Outcome::Invalid,
            deaths: Vec::new(),
            takeovers: 0,
            contained: true,
            answers: 0,
            said: Vec::new(),
            seconds: 0.0,
        };
        let answers: u64 = self.answers().iter().sum();
        let again = match self.try_run(plan, &mut record) {
            Ok(again) => again,
            Err(error) => {
                record.said.push(crate::usage::one_line(&error));
                false
            }
        };
        record.answers = self.answers().iter().sum::<u64>().saturating_sub(answers);
        record.seconds = begin.elapsed().as_secs_f64();
        let again =
            again && record.outcome.good() && !self.failed() && self.services.iter().all(|(_, work)| work.is_some());
        (record, again)
    }

    fn try_run(&mut self, plan: &Plan, record: &mut Record) -> Result<bool> {
        let before = self.well(WELL).context("the machine was not well before")?;
        // Images are where programs are.
        let aim = match (plan.class, plan.aim) {
            (Class::Flip(Part::Image | Part::Page), _) => Aim::Service(plan.seed as usize % 64),
            (_, aim) => aim,
        };
        let life = self.target(aim, &before).context("nobody to injure")?;
        record.kernel = Some(life.kernel.0);
        sleep(plan.delay);
        let line = self.machine.console().count();
        let (injected, flip) = self.inflict(plan, life)?;
        record.injected = injected;
        let seen = self.watch(plan.class.expected(), life, before, line);
        self.judge(plan, life, seen, record);
        if let (Some(flip), Outcome::Unseen) = (&flip, record.outcome) {
            self.flipper()?.take_back(flip)?;
        }
        // What was overwritten there stays so for whoever comes after.
        let spoilt = plan.class == Class::Ordered(Injury::Ordered(shimos_abi::control::Fault::WildCommons));
        let lives_on = matches!(plan.class, Class::Ordered(_) | Class::Flip(Part::Registers));
        if lives_on && !spoilt && record.outcome == Outcome::Unseen {
            // It lives on with its injury: another life takes its place, so that the next run finds it well.
            self.control.inject_life(life, shimos_abi::control::Fault::Panic)?;
            self.gone(life)?;
        }
        Ok(!spoilt)
    }

    fn gone(&mut self, life: Life) -> Result<()> {
        let end = Instant::now() + WELL;
        while Instant::now() < end {
            let status = self.control.status()?;
            if status::kernel(&status, life.kernel).is_some_and(|kernel| kernel.incarnation > life.incarnation.0) {
                return Ok(());
            }
            sleep(POLL);
        }
        bail!("{life} lives on")
    }

    /// Waits until all that may happen has.
    fn watch(&mut self, expected: Expected, life: Life, before: MachineStatus, line: usize) -> Seen {
        let begin = Instant::now();
        let answers = self.answers();
        let mut said = Vec::new();
        let mut after = None;
        let mut died: Option<Instant> = None;
        loop {
            if self.machine.ended() {
                said.push("the machine has ended".to_string());
                break;
            }
            match self.control.status() {
                Ok(status) => {
                    let changed = status.kernels.iter().any(|kernel| {
                        let old = status::kernel(&before, kernel.id).map_or(0, |old| old.incarnation);
                        kernel.incarnation != old || kernel.state != KernelState::Running
                    }) || status::recovery(&status, life).is_some();
                    if changed && died.is_none() {
                        died = Some(Instant::now());
                    }
                    after = Some(status);
                }
                Err(error) => {
                    said.push(format!("no status: {}", crate::usage::one_line(&error)));
                    after = None;
                    break;
                }
            }
            let over = match (died, expected) {
                (Some(_), _) => true,
                (None, Expected::Death) => begin.elapsed() >= DEATH,
                (None, _) => begin.elapsed() >= WATCH,
            };
            if over || self.failed() {
                break;
            }
            sleep(POLL);
        }
        if after.is_some() {
            match self.well(WELL) {
                Ok(status) => after = Some(status),
                Err(error) => {
                    said.push(crate::usage::one_line(&error));
                    after = self.control.status().ok();
                }
            }
        }
        if after.is_some() {
            self.answered(&answers, &mut said);
        }
        let lines = self.machine.console().since(line);
        said.extend(
            lines.iter().filter(|line| FOUND.iter().any(|word| line.raw.contains(word))).map(|it| it.raw.clone()),
        );
        Seen { before, after, said }
    }

    /// Waits until every service has answered a few times more.
    fn answered(&mut self, before: &[u64], said: &mut Vec<String>) {
        let end = Instant::now() + WELL;
        while Instant::now() < end && !self.failed() {
            let slow = self.answers().iter().zip(before).position(|(now, before)| *now < before + ANSWERS);
            let Some(_) = slow else { return };
            sleep(POLL);
        }
        for ((service, _), (now, before)) in self.services.iter().zip(self.answers().iter().zip(before)) {
            if *now < before + ANSWERS {
                said.push(format!("{} answers no more", service.load.name()));
            }
        }
    }

    fn judge(&mut self, plan: &Plan, life: Life, seen: Seen, record: &mut Record) {
        let Seen { before, after, said } = seen;
        record.said.extend(said);
        let failed = self.failed();
        if failed {
            // The clients' own words: they have stopped by themselves.
            for (service, work) in &mut self.services {
                if let Some(work) = work.take_if(|work| work.failed()) {
                    let failures = work.end().failures;
                    let name = service.load.name();
                    record.said.splice(..0, failures.into_iter().map(|what| format!("{name}: {what}")));
                }
            }
        }
        let Some(after) = after else {
            record.outcome = Outcome::Machine;
            record.contained = false;
            return;
        };
        let new: Vec<Fault> = faults::all(&after)
            .into_iter()
            .filter(|fault| {
                let dead = fault.recovery.dead;
                let lived = status::kernel(&before, dead.kernel).is_some_and(|it| it.incarnation <= dead.incarnation.0);
                lived && fault.recovery.detected >= before.now
            })
            .collect();
        for fault in &new {
            let recovery = &fault.recovery;
            let span = |from: shimos_abi::time::Nanos, to: shimos_abi::time::Nanos| {
                if to.0 == 0 { json!(null) } else { json!(ms(to - from)) }
            };
            record.takeovers += fault.takeovers.len() as u64;
            record.deaths.push(json!({
                "dead": recovery.dead.to_string(),
                "cause": names::cause(recovery.cause),
                "message": recovery.message.lines().next().unwrap_or_default(),
                "detected_by": names::detected_by(recovery.detected_by),
                "detect_ms": span(before.now, recovery.detected),
                "fenced_by": names::fenced_by(recovery.fenced_by),
                "fence_ms": span(recovery.detected, recovery.fenced),
                "rejoin_ms": span(recovery.fenced, recovery.rejoined),
                "programs": fault.takeovers.iter().map(|it| it.program.0).collect::<Vec<_>>(),
            }));
        }
        let others = |kernel: &&shimos_abi::control::KernelStatus| {
            let old = status::kernel(&before, kernel.id).map_or(0, |old| old.incarnation);
            kernel.id != life.kernel && (kernel.incarnation != old || kernel.state != KernelState::Running)
        };
        let spread = after.kernels.iter().filter(others).count() > 0;
        record.contained = !spread;
        let stuck = after.kernels.iter().any(|kernel| kernel.id == life.kernel && kernel.state != KernelState::Running)
            || status::recovery(&after, life).is_some_and(|it| it.fenced.0 == 0 && it.detected.0 != 0);
        let lost = self.services.iter().any(|(service, _)| status::home(&after, service.program).is_none());
        let silent_services = record.said.iter().any(|what| what.ends_with("answers no more"));
        let died = !new.is_empty();
        let found = record.said.iter().any(|what| FOUND.iter().any(|word| what.contains(word)));
        record.outcome = if spread {
            Outcome::Spread
        } else if stuck {
            Outcome::Stuck
        } else if lost {
            Outcome::ProgramLost
        } else if failed || silent_services {
            let broken = record.said.iter().filter(|what| what.contains(": client ")).all(|what| {
                ["connection was closed", "connection broke", "cannot connect", "answered 'HTTP/1.1 408"]
                    .iter()
                    .any(|word| what.contains(word))
            });
            match (died || found, failed && found && broken && !silent_services) {
                (_, true) => Outcome::WentBack,
                (true, false) => Outcome::ClientWrong,
                (false, false) => Outcome::Silent,
            }
        } else if died || found {
            Outcome::Recovered
        } else if plan.class.expected() == Expected::Death {
            record.said.push("nobody died of it".to_string());
            Outcome::Invalid
        } else {
            Outcome::Unseen
        };
    }
}

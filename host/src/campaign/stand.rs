//! A machine under test with its services and their clients, and one run on it.
use super::{
    class::{Aim, Class, Expected, Part, Plan},
    flips::{Flip, Flipper},
    report::{Outcome, Record},
    starved::Starved,
};
use crate::{
    control::Control,
    faults::{self, Fault, Injury},
    loads::{self, Service, Work},
    machine::{Files, Machine, Options},
    names, recovery, resets,
    status::{self, ms},
};
use anyhow::{Context, Result, bail};
use serde_json::json;
use shimos_abi::{
    control::{DetectedBy, Device, KernelState, MachineStatus, Protection, Recovery},
    ids::{KernelId, Life, ProgramId},
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
/// How often, and how long apart, kernels must say that they run the same program until that is believed.
const LOOKS: u32 = 4;
const LOOK: Duration = Duration::from_millis(300);
/// How long a service may take to answer new clients.
const RENEW: Duration = Duration::from_secs(8);
/// How long clients may take to end, once one of them has found something wrong.
const LEFT: Duration = Duration::from_secs(4);
/// Answers that each service gives after a run.
const ANSWERS: u64 = 5;
/// Words on the console by which a kernel says that it has found damage.
const FOUND: [&str; 6] = ["passed over", "was set right", " closed: ", "cannot be read", "is lost", "overwritten"];
/// Words of a client whose connection has ended, without an answer that was wrong.
const CUT: [&str; 4] = ["connection was closed", "connection broke", "cannot connect", "answered 'HTTP/1.1 408"];

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
    /// How often clients were replaced.
    renewed: u64,
}

/// What was seen of a machine after an injury.
struct Seen {
    before: MachineStatus,
    after: Option<MachineStatus>,
    said: Vec<String>,
    /// What clients found wrong.
    failures: Vec<String>,
    /// A service that answers nobody.
    silent: bool,
    /// Programs that two kernels ran.
    doubled: Vec<ProgramId>,
    /// Whether the processor of each kernel had to wait long for one of the host's, at one time.
    starved: Vec<bool>,
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
        Ok(Stand { services, flipper: None, control, machine, renewed: 0 })
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
                let told = format!("{} in {life}", names::fault(fault));
                match self.control.inject_seeded(life, fault, plan.seed) {
                    Ok(_) => Ok((told, None)),
                    // Who has to answer may be on that very kernel. What comes of it is seen all the same.
                    Err(error) if format!("{error:#}").contains("gave no answer") => {
                        Ok((format!("{told}, without an answer"), None))
                    }
                    Err(error) => Err(error),
                }
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
        let (mut said, mut failures, mut silent) = (Vec::new(), Vec::new(), false);
        let mut after = None;
        let mut died: Option<Instant> = None;
        let starved = Starved::watch(self.machine.qmp());
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
            let missing = self.answered(&answers);
            let (cut, mute) = self.renew();
            failures = cut;
            silent = !(missing.is_empty() && mute.is_empty());
            said.extend(missing.into_iter().chain(mute));
        }
        let lines = self.machine.console().since(line);
        said.extend(
            lines.iter().filter(|line| FOUND.iter().any(|word| line.raw.contains(word))).map(|it| it.raw.clone()),
        );
        let doubled = self.doubled();
        said.extend(doubled.iter().map(|program| format!("{program} runs in two kernels")));
        Seen { before, after, said, failures, silent, doubled, starved: starved.end() }
    }

    /// Programs that two living kernels say they run, and say so again later: each tells what it runs, a moment late.
    fn doubled(&mut self) -> Vec<ProgramId> {
        let mut doubled: Option<Vec<ProgramId>> = None;
        for _ in 0..LOOKS {
            let Ok(status) = self.control.status() else { return Vec::new() };
            let alive = status.kernels.iter().filter(|kernel| kernel.state == KernelState::Running);
            let mut run: Vec<ProgramId> =
                alive.flat_map(|kernel| kernel.published.programs.iter().map(|program| program.id)).collect();
            run.sort_unstable();
            let twice = run.windows(2).filter(|pair| pair.first() == pair.last()).filter_map(|pair| pair.first());
            let twice: Vec<ProgramId> = twice.copied().collect();
            let still = doubled
                .map_or(twice.clone(), |before| before.into_iter().filter(|program| twice.contains(program)).collect());
            if still.is_empty() {
                return still;
            }
            doubled = Some(still);
            sleep(LOOK);
        }
        doubled.unwrap_or_default()
    }

    /// Waits until every service has answered a few times more, those aside whose clients have ended; which do not.
    fn answered(&self, before: &[u64]) -> Vec<String> {
        let end = Instant::now() + WELL;
        loop {
            let slow = self.services.iter().zip(before).filter(|((_, work), before)| {
                work.as_ref().is_some_and(|work| !work.failed() && work.operations() < *before + ANSWERS)
            });
            let slow: Vec<String> = slow.map(|((it, _), _)| format!("{} answers no more", it.load.name())).collect();
            if slow.is_empty() || Instant::now() >= end {
                return slow;
            }
            sleep(POLL);
        }
    }

    /// Ends clients that have found something wrong, and lets others take their place: the service must answer those. What
    /// was found, and which services answer nobody.
    fn renew(&mut self) -> (Vec<String>, Vec<String>) {
        let (mut failures, mut mute) = (Vec::new(), Vec::new());
        for (service, work) in &mut self.services {
            let Some(ended) = work.take_if(|work| work.failed()) else { continue };
            let name = service.load.name();
            failures.extend(ended.end_within(LEFT).failures.into_iter().map(|what| format!("{name}: {what}")));
            self.renewed += 1;
            let renewed = service.renew(&mut self.machine, RENEW).and_then(|()| service.work(self.renewed));
            match renewed {
                Ok(renewed) => *work = Some(renewed),
                Err(error) => mute.push(format!("{name} answers no more: {}", crate::usage::one_line(&error))),
            }
        }
        let answers = vec![0; self.services.len()];
        mute.extend(self.answered(&answers));
        (failures, mute)
    }

    fn judge(&mut self, plan: &Plan, life: Life, seen: Seen, record: &mut Record) {
        let Seen { before, after, said, failures, silent, doubled, starved } = seen;
        let failed = !failures.is_empty();
        let cut = failures.iter().all(|what| CUT.iter().any(|word| what.contains(word)));
        record.said.extend(failures.into_iter().chain(said));
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
        // Of what belongs to all, the first that dies is the victim.
        let first = new.iter().min_by_key(|fault| fault.recovery.detected).filter(|_| plan.class.hits_all());
        let victim = first.map_or(life, |fault| fault.recovery.dead);
        record.kernel = Some(victim.kernel.0);
        let others = |kernel: &&shimos_abi::control::KernelStatus| {
            let old = status::kernel(&before, kernel.id).map_or(0, |old| old.incarnation);
            kernel.id != victim.kernel && (kernel.incarnation != old || kernel.state != KernelState::Running)
        };
        // Then all kernels have new lives.
        let count = |status: &MachineStatus| status.reset.map_or(0, |reset| reset.count);
        let reset = count(&after) != count(&before);
        let spread = !reset && after.kernels.iter().filter(others).count() > 0;
        record.contained = !spread && !reset;
        if reset {
            record.said.insert(0, format!("the machine was reset: {}", resets::cause(&self.machine.entry().directory)));
        }
        let starved = |kernel: KernelId| starved.get(kernel.index()).copied().unwrap_or_default();
        // A hang that the monitor has seen in a kernel whose processor did not run is none of the fault's.
        let slow = new.iter().filter(|fault| fault.recovery.dead.kernel != victim.kernel).all(|fault| {
            let it = &fault.recovery;
            it.detected_by == DetectedBy::Heartbeat && starved(it.dead.kernel)
        });
        if spread {
            let others = new.iter().filter(|fault| fault.recovery.dead.kernel != victim.kernel);
            record.said.splice(
                ..0,
                others.map(|fault| {
                    let it = &fault.recovery;
                    let (cause, by) = (names::cause(it.cause), names::detected_by(it.detected_by));
                    let message = it.message.lines().next().unwrap_or_default();
                    let host = if starved(it.dead.kernel) { "; its processor had to wait for the host's" } else { "" };
                    format!("{} died too: {cause}, told by {by}: {message}{host}", it.dead)
                }),
            );
        }
        // A reset ends what the monitor had begun.
        let unfenced = |it: &Recovery| it.fenced.0 == 0 && it.detected.0 != 0 && !reset;
        let stuck =
            after.kernels.iter().any(|kernel| kernel.id == victim.kernel && kernel.state != KernelState::Running)
                || status::recovery(&after, victim).is_some_and(unfenced);
        let lost = self.services.iter().any(|(service, _)| status::home(&after, service.program).is_none());
        let died = !new.is_empty();
        let found = record.said.iter().any(|what| FOUND.iter().any(|word| what.contains(word)));
        record.outcome = if !doubled.is_empty() {
            Outcome::TwoCopies
        } else if spread && !(slow && !stuck && !lost && !failed && !silent) {
            Outcome::Spread
        } else if stuck {
            Outcome::Stuck
        } else if lost {
            Outcome::ProgramLost
        } else if failed || silent {
            // That connections may end is said together with how far back the program went.
            let back = record.said.iter().any(|what| what.contains("behind released output"));
            match (died || found || reset, back && cut && !silent) {
                (_, true) => Outcome::WentBack,
                (true, false) => Outcome::ClientWrong,
                (false, false) => Outcome::Silent,
            }
        } else if reset {
            Outcome::Reset
        } else if spread {
            Outcome::Suspected
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

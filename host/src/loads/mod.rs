//! Services inside under load from this host: how each is started, what its clients do, and whether all that they were
//! told came out true. What happens to the machine meanwhile is for others to decide.
//!
//! Each client keeps its own record of what was acknowledged, and checks every answer against it: a lost operation, or one
//! that was applied twice, shows in the next answer or at the end, when all is read back.
mod dial;
mod git;
mod http;
mod lines;
mod memory;
mod postgres;
mod redis;
mod sqlite;
mod ssh;
mod svn;

pub use dial::{Connection, Dial, SILENCE};

use crate::machine::Machine;
use anyhow::{Context, Result, bail};
use shimos_abi::{
    control::{Protection, Start, Target},
    ids::{KernelId, ProgramId},
    time::Nanos,
};
use shimos_random::Random;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

/// The longest pause of a client between two operations, in microseconds.
const PAUSE: u64 = 4000;
/// How often a service that is starting is asked.
const POLL: Duration = Duration::from_millis(100);
/// Failures that are kept in words.
const KEPT: usize = 20;

/// A service: how it is started, and how it is used.
pub trait Load: Send + Sync {
    /// What it is called; the program inside has this name too.
    fn name(&self) -> &'static str;
    /// What is run inside.
    fn command(&self) -> Vec<String>;
    /// Where it listens.
    fn port(&self) -> u16;
    /// Clients at a time.
    fn clients(&self) -> usize {
        4
    }
    /// How long it may take to start.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
    /// Makes ready what the clients share, when the service answers. It is tried until it succeeds. Nothing of earlier
    /// clients counts any more.
    fn prepare(&self, dial: Dial) -> Result<Arc<dyn Shared>>;
}

/// What the clients of one run have together.
pub trait Shared: Send + Sync {
    /// A client. `number` is below [`Load::clients`].
    fn client(&self, number: usize, seed: u64) -> Result<Box<dyn Client>>;
    /// Looks at everything once more when all clients are done.
    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

/// One client.
pub trait Client: Send {
    /// One operation: asks, waits for the answer and checks it. An error is a violation: a broken connection, silence, or
    /// an answer that is not true.
    fn step(&mut self) -> Result<()>;
    /// Checks what it has been told before against what is there now.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// All services.
pub fn all() -> Vec<&'static dyn Load> {
    let mut all: Vec<&'static dyn Load> = Vec::new();
    all.extend(http::LOADS.iter().map(|load| load as &dyn Load));
    all.push(&redis::Redis);
    all.extend(sqlite::LOADS.iter().map(|load| load as &dyn Load));
    all.push(&postgres::Postgres);
    all.push(&svn::Svnserve);
    all.push(&git::GitDaemon);
    all.push(&ssh::Sshd);
    all.push(&memory::Memory);
    all.extend(lines::LOADS.iter().map(|load| load as &dyn Load));
    all
}

/// A service by its name.
pub fn named(name: &str) -> Option<&'static dyn Load> {
    all().into_iter().find(|load| load.name() == name)
}

/// The names of all services.
pub fn names() -> Vec<&'static str> {
    all().iter().map(|load| load.name()).collect()
}

/// A command for busybox's shell.
fn shell(text: &str) -> Vec<String> {
    ["/bin/busybox", "sh", "-ec", text].map(str::to_string).to_vec()
}

/// What has been seen so far.
#[derive(Default)]
struct Tally {
    operations: AtomicU64,
    /// In nanoseconds.
    longest: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Tally {
    fn fail(&self, what: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < KEPT {
            failures.push(what);
        }
    }

    fn verdict(&self) -> Verdict {
        Verdict {
            operations: self.operations.load(Ordering::Relaxed),
            longest: Duration::from_nanos(self.longest.load(Ordering::Relaxed)),
            failures: self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// What came of a load.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Operations that were acknowledged and right.
    pub operations: u64,
    /// The longest that one of them took.
    pub longest: Duration,
    /// What was wrong.
    pub failures: Vec<String>,
}

impl Verdict {
    /// Whether nothing was wrong.
    pub fn held(&self) -> bool {
        self.failures.is_empty()
    }
}

/// A service that runs and answers, not yet used.
pub struct Service {
    /// What it is.
    pub load: &'static dyn Load,
    /// The program inside.
    pub program: ProgramId,
    /// How it is reached.
    pub dial: Dial,
    shared: Arc<dyn Shared>,
}

impl Service {
    /// Starts it and waits until it answers. It is not protected yet.
    pub fn start(machine: &mut Machine, load: &'static dyn Load, kernel: Option<KernelId>) -> Result<Service> {
        let mut control = machine.control();
        let start = Start {
            name: load.name().to_string(),
            argv: load.command(),
            env: vec![
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_string(),
                "HOME=/root".to_string(),
                "LANG=C.UTF-8".to_string(),
            ],
            cwd: "/".to_string(),
            kernel,
            ..Start::default()
        };
        let program = control.start(start).with_context(|| format!("cannot start {}", load.name()))?.program;
        let dial = Dial { port: machine.publish(0, program, load.port())? };
        let shared = prepared(machine, load, dial, load.patience())?;
        Ok(Service { load, program, dial, shared })
    }

    /// Begins anew with a service whose clients have ended: what they were told does not count any more.
    pub fn renew(&mut self, machine: &mut Machine, patience: Duration) -> Result<()> {
        self.shared = prepared(machine, self.load, self.dial, patience)?;
        Ok(())
    }

    /// Protects it and waits for its first checkpoint.
    pub fn protect(&self, machine: &Machine, protection: Protection) -> Result<()> {
        let mut control = machine.control();
        control.protect(Target::Name(self.load.name().to_string()), protection)?;
        crate::recovery::settle(&mut control, self.program, 1, self.load.patience()).map(drop)
    }

    /// Lets its clients work until [`Work::end`].
    pub fn work(&self, seed: u64) -> Result<Work> {
        let end = Arc::new(AtomicBool::new(false));
        let tally = Arc::new(Tally::default());
        let mut threads = Vec::new();
        for number in 0..self.load.clients() {
            let seed = Random::new(seed ^ (number as u64) << 32).bits();
            let client = self.shared.client(number, seed).with_context(|| format!("client {number}"))?;
            let (end, tally) = (end.clone(), tally.clone());
            threads.push(thread::spawn(move || until_told(client, number, seed, &end, &tally)));
        }
        Ok(Work { end, tally, threads, shared: self.shared.clone() })
    }
}

fn prepared(machine: &mut Machine, load: &dyn Load, dial: Dial, patience: Duration) -> Result<Arc<dyn Shared>> {
    let end = Instant::now() + patience;
    loop {
        match load.prepare(dial) {
            Ok(shared) => return Ok(shared),
            Err(error) if Instant::now() >= end => {
                let why = format!("{} does not answer after {} s", load.name(), patience.as_secs());
                return Err(error.context(why));
            }
            Err(_) => sleep(POLL),
        }
        if machine.ended() {
            bail!("the machine ended before {} answered", load.name());
        }
    }
}

/// Clients at work.
pub struct Work {
    end: Arc<AtomicBool>,
    tally: Arc<Tally>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<dyn Shared>,
}

impl Work {
    /// Operations so far that were acknowledged and right.
    pub fn operations(&self) -> u64 {
        self.tally.operations.load(Ordering::Relaxed)
    }
    /// Whether something was wrong already.
    pub fn failed(&self) -> bool {
        self.tally.failed.load(Ordering::Relaxed) > 0
    }

    /// Ends the clients' work, has them check all that they were told, and says what came of it.
    pub fn end(self) -> Verdict {
        self.end.store(true, Ordering::Relaxed);
        for (number, thread) in self.threads.into_iter().enumerate() {
            if thread.join().is_err() {
                self.tally.fail(format!("client {number} broke"));
            }
        }
        // Those who found something wrong have stopped early: what all of them have together is not whole then.
        if self.tally.failed.load(Ordering::Relaxed) == 0
            && let Err(error) = self.shared.finish()
        {
            self.tally.fail(format!("{error:#}"));
        }
        self.tally.verdict()
    }

    /// Ends the clients' work after some of them have found something wrong. Who still waits for an answer then is left.
    pub fn end_within(self, patience: Duration) -> Verdict {
        self.end.store(true, Ordering::Relaxed);
        let until = Instant::now() + patience;
        while Instant::now() < until && !self.threads.iter().all(JoinHandle::is_finished) {
            sleep(POLL);
        }
        for number in (0..self.threads.len()).filter(|n| self.threads.get(*n).is_some_and(|it| !it.is_finished())) {
            self.tally.fail(format!("client {number}: its connection broke, or it waits for an answer in vain"));
        }
        self.tally.verdict()
    }

    /// Ends the clients' work without waiting for them: they may be waiting for answers that never come. They end with
    /// the machine.
    pub fn leave(self) -> Verdict {
        self.end.store(true, Ordering::Relaxed);
        self.tally.verdict()
    }
}

fn until_told(mut client: Box<dyn Client>, number: usize, seed: u64, end: &AtomicBool, tally: &Tally) {
    let mut random = Random::new(seed);
    let mut count = 0_u64;
    while !end.load(Ordering::Relaxed) {
        let begin = Instant::now();
        if let Err(error) = client.step() {
            tally.fail(format!("client {number}, operation {count}: {error:#}"));
            return;
        }
        count += 1;
        tally.operations.fetch_add(1, Ordering::Relaxed);
        tally.longest.fetch_max(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
        sleep(Duration::from_nanos(Nanos::micros(random.below(PAUSE)).0));
    }
    if let Err(error) = client.finish() {
        tally.fail(format!("client {number}, at the end after {count} operations: {error:#}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_service_has_a_name_that_a_program_can_have() {
        let names = names();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        for name in names {
            crate::units::name(name).expect("fits");
            assert!(named(name).is_some_and(|load| load.clients() > 0 && load.command().len() < 16));
        }
    }

    struct Counter(u64);
    impl Client for Counter {
        fn step(&mut self) -> Result<()> {
            self.0 += 1;
            if self.0 > 3 { bail!("no more") } else { Ok(()) }
        }
    }
    struct Counters;
    impl Shared for Counters {
        fn client(&self, _: usize, _: u64) -> Result<Box<dyn Client>> {
            Ok(Box::new(Counter(0)))
        }
        fn finish(&self) -> Result<()> {
            bail!("not whole")
        }
    }

    #[test]
    fn a_failure_is_told_with_its_operation_and_ends_the_client() {
        let tally = Tally::default();
        until_told(Box::new(Counter(0)), 7, 1, &AtomicBool::new(false), &tally);
        assert_eq!(tally.operations.load(Ordering::Relaxed), 3);
        assert_eq!(*tally.failures.lock().expect("whole"), ["client 7, operation 3: no more"]);
        let work =
            |tally| Work { end: Arc::default(), tally: Arc::new(tally), threads: vec![], shared: Arc::new(Counters) };
        assert!(work(tally).failed());
        let verdict = work(Tally::default()).end();
        assert_eq!((verdict.held(), verdict.failures), (false, vec!["not whole".to_string()]));
    }
}

//! Very many short schedules, one for each seed, on the host's processors.
use crate::options::Options;
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Time between two words about how far it is.
const TOLD: Duration = Duration::from_secs(10);
/// Turns of kernels lie within each other where one loses the processor to others.
const STACK: usize = 64 << 20;

/// Whether what happens is written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Log {
    Kept,
    None,
}

/// What happened in schedules, and how often.
pub type Tally = BTreeMap<&'static str, u64>;

/// One kind of schedule.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Runs the schedule of a seed; says what is wrong, if anything is.
    pub schedule: fn(u64, Log) -> Result<Tally, String>,
    /// The options that replay it, but for the seed.
    pub replay: &'static str,
}

/// How many passed and failed, and what happened in those that passed.
#[derive(Default)]
pub struct Summary {
    pub passed: u64,
    pub failed: u64,
    pub tally: Tally,
    pub seconds: f64,
}

impl Summary {
    /// As a JSON object.
    pub fn json(&self) -> String {
        let counts: Vec<String> = self.tally.iter().map(|(what, count)| format!(r#""{what}":{count}"#)).collect();
        let (passed, failed, seconds) = (self.passed, self.failed, self.seconds);
        format!(r#"{{"passed":{passed},"failed":{failed},"seconds":{seconds:.1},"happened":{{{}}}}}"#, counts.join(","))
    }
    /// What happened, a line for each thing.
    pub fn happened(&self) -> String {
        self.tally.iter().map(|(what, count)| format!("{count:>12} {what}\n")).collect()
    }
}

/// Runs one schedule and takes a broken invariant for a failure.
pub fn tried(kind: Kind, seed: u64, log: Log) -> Result<Tally, String> {
    catch_unwind(AssertUnwindSafe(|| (kind.schedule)(seed, log))).unwrap_or_else(|broken| {
        let text = broken.downcast_ref::<String>().cloned();
        Err(text.or_else(|| broken.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
    })
}

/// Runs the schedules of as many seeds as the options say.
pub fn run(kind: Kind, options: &Options) -> Summary {
    let begun = Instant::now();
    let jobs = options.jobs.unwrap_or(thread::available_parallelism().map_or(1, usize::from));
    let many = Many { kind, options, begun, next: AtomicU64::new(0), summary: Mutex::default() };
    thread::scope(|scope| {
        for worker in 0..jobs {
            let many = &many;
            let work = move || many.work(worker);
            if let Err(why) = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work) {
                eprintln!("shimos-sim: {why}");
            }
        }
    });
    let mut summary = many.summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Where no worker could start.
    summary.failed += options.runs.saturating_sub(summary.passed + summary.failed);
    summary.seconds = begun.elapsed().as_secs_f64();
    summary
}

struct Many<'a> {
    kind: Kind,
    options: &'a Options,
    begun: Instant,
    next: AtomicU64,
    summary: Mutex<Summary>,
}

impl Many<'_> {
    /// Takes one seed after the other until none is left.
    fn work(&self, worker: usize) {
        let mut told = Instant::now();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.options.runs {
                return;
            }
            let seed = self.options.seed.wrapping_add(number);
            let result = tried(self.kind, seed, Log::None);
            if result.is_err() {
                self.tell(seed);
            }
            let mut summary = self.summary.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(tally) => {
                    summary.passed += 1;
                    tally.into_iter().for_each(|(what, count)| *summary.tally.entry(what).or_default() += count);
                }
                Err(_) => summary.failed += 1,
            }
            if worker == 0 && told.elapsed() >= TOLD {
                told = Instant::now();
                let (failed, seconds) = (summary.failed, self.begun.elapsed().as_secs());
                eprintln!("{number} of {} schedules, {failed} failed, {seconds} s", self.options.runs);
            }
        }
    }

    /// Tells of a failure: once more, with words.
    fn tell(&self, seed: u64) {
        let why = tried(self.kind, seed, Log::Kept).err().unwrap_or_else(|| "passed when it was run again".into());
        if self.options.json {
            println!(r#"{{"seed":{seed},"failure":{why:?}}}"#);
        } else {
            println!("seed {seed}: {why}\n  replay: shimos-sim {} --seed {seed}", self.kind.replay);
        }
    }
}

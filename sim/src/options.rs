//! The command line.
use crate::plan::{Kill, Pace, Under};
use shimos_abi::ids::KernelId;
use shimos_soft::Crash;
use std::process::exit;

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// What runs on the cores.
    pub under: Under,
    /// The (first) seed.
    pub seed: u64,
    /// How long each part of a run is.
    pub pace: Pace,
    /// Turns of kernels in one run, at most.
    pub steps: u64,
    /// How many kernels; left to the seed otherwise.
    pub kernels: Option<usize>,
    /// How many kernels die in a run; left to the seed otherwise.
    pub crashes: Option<u32>,
    /// Bits of a dead kernel's memory that flip.
    pub flips: u32,
    /// How often a kernel is emptied or given a fresh life.
    pub drains: u32,
    /// How often the whole machine is reset.
    pub resets: u32,
    /// A kernel dies whenever this many turns have passed.
    pub crash_every: Option<u64>,
    /// How many seeds to run, one after the other.
    pub runs: u64,
    /// Deaths at exact places.
    pub kills: Vec<Kill>,
    /// Crash at every step of a checkpoint and of a takeover.
    pub sweep: bool,
    /// In a sweep, how many steps to go on from one run to the next.
    pub stride: u64,
    /// Results as JSON, one object a line.
    pub json: bool,
    /// Say what happens as it happens.
    pub verbose: bool,
    /// Fuzz the system calls: how many calls in a run.
    pub fuzz_calls: Option<u64>,
    /// Run short schedules.
    pub schedules: bool,
    /// They are of whole kernels.
    pub whole: bool,
    /// How many of them run at a time; as many as the host has processors otherwise.
    pub jobs: Option<usize>,
    /// Measure detection and election with up to so many kernels.
    pub scale: Option<usize>,
    /// In such a run, go on from damaged records instead of checking answers.
    pub fuzz_records: bool,
}

const USAGE: &str = "\
Runs a whole Shimos machine in one process, the same for the same seed, and crashes kernels in it.

usage: shimos-sim [options]
  --seed S          first seed (default 1)
  --runs R          how many seeds, from the first on (default 1)
  --steps N         turns of kernels in a run, at most (default 400000)
  --kernels K       how many kernels (default: from the seed, 3 to 5)
  --short           few kernels and programs, and the next death soon after the last: for very many deaths
  --crashes N       how many kernels die in a run (default: from the seed, 0 to 4)
  --drains N        empty a kernel, fill it again or give it a fresh life, N times, at any time (default 0)
  --resets N        reset the whole machine N times, at any time; programs go on from memory (default 0)
  --crash-every N   let a kernel die whenever N turns have passed
  --kill K:STEP:HOW let kernel K die in its STEP-th step; HOW is panic, exception, hang, deaf or scribble
  --flip N          flip N bits in the memory of every kernel that dies; programs may be lost, other kernels not
  --daemons         run the daemons alone, with toy programs, instead of whole kernels
  --schedules       short schedules of the daemons, one for each of --runs: kernels die, stall, scribble and fail to boot until all is well
  --whole           with --schedules: of whole kernels, with programs, a disk and a client on the network; they are reset as well, and emptied
  --jobs N          with --schedules: so many at a time (default: one for each processor); the outcome does not depend on it
  --scale K         how long detection and election take with 4 to K kernels (1024 is usual), and what the monitor costs for each
  --sweep           crash at every step of a checkpoint, and of a takeover
  --stride N        with --sweep: every N-th step only (default 1)
  --fuzz-calls N    issue N random system calls, with takeovers in between; answers are checked where they are known
  --fuzz-records    with --fuzz-calls: go on from damaged records now and then, and check no answers
  --json            results as JSON, one object a line
  --verbose         say what happens as it happens
";

fn wrong(text: &str) -> ! {
    eprintln!("shimos-sim: {text}\n\n{USAGE}");
    exit(2)
}

fn kill(text: &str) -> Option<Kill> {
    let mut parts = text.split(':');
    let kernel = KernelId(parts.next()?.parse().ok()?);
    let step = parts.next()?.parse().ok()?;
    let crash = match parts.next()? {
        "panic" => Crash::Panic,
        "exception" => Crash::Exception,
        "hang" => Crash::Hang,
        "deaf" => Crash::Deaf,
        "scribble" => Crash::Scribble,
        _ => return None,
    };
    Some(Kill { kernel, step, crash })
}

impl Options {
    /// Reads the command line; ends the process if it cannot be understood.
    pub fn read(args: impl Iterator<Item = String>) -> Options {
        let mut options = Options {
            under: Under::Kernel,
            seed: 1,
            pace: Pace::Long,
            steps: 400_000,
            kernels: None,
            crashes: None,
            drains: 0,
            resets: 0,
            flips: 0,
            crash_every: None,
            kills: Vec::new(),
            runs: 1,
            sweep: false,
            stride: 1,
            json: false,
            verbose: false,
            fuzz_calls: None,
            fuzz_records: false,
            schedules: false,
            whole: false,
            jobs: None,
            scale: None,
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            if arg == "--kill" {
                let text = args.next().unwrap_or_default();
                options.kills.push(kill(&text).unwrap_or_else(|| wrong(&format!("--kill: {text} is not K:STEP:HOW"))));
                continue;
            }
            let mut number = || -> u64 {
                let text = args.next().unwrap_or_else(|| wrong(&format!("{arg} needs a number")));
                text.parse().unwrap_or_else(|_| wrong(&format!("{arg}: {text} is not a number")))
            };
            match arg.as_str() {
                "--seed" => options.seed = number(),
                "--steps" => options.steps = number(),
                "--kernels" => options.kernels = Some(number().clamp(2, 64) as usize),
                "--crashes" => options.crashes = Some(number().min(1_000_000) as u32),
                "--drains" => options.drains = number().min(1_000_000) as u32,
                "--resets" => options.resets = number().min(1_000_000) as u32,
                "--crash-every" => options.crash_every = Some(number().max(1)),
                "--flip" => options.flips = number().min(10_000) as u32,
                "--runs" => options.runs = number(),
                "--short" => options.pace = Pace::Short,
                "--daemons" => options.under = Under::Daemons,
                "--schedules" => options.schedules = true,
                "--whole" => options.whole = true,
                "--jobs" => options.jobs = Some(number().clamp(1, 256) as usize),
                "--scale" => options.scale = Some(number().clamp(4, 4096) as usize),
                "--sweep" => options.sweep = true,
                "--fuzz-calls" => options.fuzz_calls = Some(number()),
                "--fuzz-records" => options.fuzz_records = true,
                "--stride" => options.stride = number().max(1),
                "--json" => options.json = true,
                "--verbose" => options.verbose = true,
                "--help" | "-h" => {
                    print!("{USAGE}");
                    exit(0)
                }
                _ => wrong(&format!("{arg} is unknown")),
            }
        }
        options
    }
}

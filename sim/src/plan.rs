//! What one run is made of, all of it from the seed.
use crate::{image::Image, options::Options, programs};
use shimos_abi::{
    control::{Output, Protection, Request, Start},
    ids::KernelId,
    time::Nanos,
};
use shimos_random::Random;
use shimos_soft::{Config, Crash, Timing};

/// A death that was planned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kill {
    /// Whose.
    pub kernel: KernelId,
    /// In which call of the machine.
    pub step: u64,
    /// How.
    pub crash: Crash,
}

/// What runs on the cores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Under {
    /// The whole kernel.
    Kernel,
    /// The daemons alone, with toy programs.
    Daemons,
}

/// What one run is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// What runs.
    pub under: Under,
    /// How long its parts are.
    pub pace: Pace,
    /// Turns at most.
    pub steps: u64,
    /// How many kernels.
    pub kernels: usize,
    /// How many deaths are left to chance.
    pub crashes: u32,
    /// How often a kernel is emptied, filled again or given a fresh life.
    pub drains: u32,
    /// How often the machine is reset.
    pub resets: u32,
    /// A death whenever this many turns have passed.
    pub crash_every: Option<u64>,
    /// Deaths at exact places.
    pub kills: Vec<Kill>,
    /// Bits that flip in the memory of each kernel that dies.
    pub flips: u32,
    /// Time between checkpoints.
    pub interval: Nanos,
    /// The letters of the programs that run.
    pub programs: Vec<u8>,
    /// Whether cores stall, rings and packets get lost.
    pub rough: Rough,
}

/// How long the parts of a run are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// Much happens between two deaths.
    Long,
    /// As many deaths as can be.
    Short,
}

impl Pace {
    /// Longest calm before a death is ordered.
    pub fn calm(self) -> Nanos {
        match self {
            Pace::Long => Nanos::millis(300),
            Pace::Short => Nanos::millis(10),
        }
    }
    /// In how many of its steps, at most, a kernel dies then.
    pub fn steps(self) -> u64 {
        match self {
            Pace::Long => 3_000,
            Pace::Short => 600,
        }
    }
    /// Shortest pause of a program that does something all the time.
    fn pause(self) -> u64 {
        match self {
            Pace::Long => 100_000,
            Pace::Short => 1_000_000,
        }
    }
    /// Lines that a program must show after the last death.
    pub fn lines(self) -> u64 {
        match self {
            Pace::Long => 3,
            Pace::Short => 1,
        }
    }
}

/// How rough the machine is with its kernels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rough {
    /// Nothing goes wrong but the planned deaths.
    Smooth,
    /// Cores stall, interrupts and packets get lost.
    Rough,
}

impl Plan {
    /// The plan for a seed.
    pub fn new(seed: u64, options: &Options) -> Plan {
        let mut rng = Random::new(seed ^ 0x005e_ed0f_9a11);
        let most = if options.pace == Pace::Short { (2, 4) } else { (3, 5) };
        let kernels = options.kernels.unwrap_or(rng.between(most.0, most.1) as usize);
        let crashes = options.crashes.unwrap_or(rng.below(5) as u32);
        let all = b"CDPTE";
        let start = rng.below(all.len() as u64) as usize;
        let count = rng.between(2, all.len() as u64) as usize;
        let count = if options.pace == Pace::Short { 2 } else { count };
        let programs = (0..count).map(|i| all[(start + i) % all.len()]).collect();
        let programs = match options.under {
            Under::Kernel => programs,
            Under::Daemons => (0..kernels as u8).map(|kernel| b'A' + kernel).collect(),
        };
        Plan {
            seed,
            under: options.under,
            pace: options.pace,
            steps: options.steps,
            kernels,
            crashes: if options.crash_every.is_some() || !options.kills.is_empty() { 0 } else { crashes },
            drains: options.drains,
            resets: if options.under == Under::Kernel { options.resets } else { 0 },
            crash_every: options.crash_every,
            kills: options.kills.clone(),
            flips: options.flips,
            interval: Nanos::millis(rng.between(3, 30)),
            programs,
            // A sweep and its replays are smooth.
            rough: if !options.kills.is_empty() || options.sweep || rng.below(2) == 0 {
                Rough::Smooth
            } else {
                Rough::Rough
            },
        }
    }

    /// The machine it runs on.
    pub fn machine(&self) -> Config {
        let mut config = Config::new(self.kernels, self.seed);
        if self.under == Under::Kernel {
            config.disk = self.image();
        }
        // The first program is not protected: it must live until it has started the others.
        config.timing = self.machine_timing();
        config.timing.stall_ppm = 0;
        config
    }

    /// How fast the machine is, and what goes wrong with time, once all programs run.
    pub fn machine_timing(&self) -> Timing {
        let mut timing = Timing::default();
        let mut rng = Random::new(self.seed ^ 0x7141_1465);
        timing.preempt_ppm = rng.below(3) as u32 * 5_000;
        if self.rough == Rough::Rough {
            // Short stalls often, or now and then one so long that the kernel is taken for dead.
            (timing.stall, timing.stall_ppm) = match rng.below(3) {
                0 => (Nanos::secs(4), rng.below(40) as u32),
                _ => (Nanos::millis(40), rng.below(3_000) as u32),
            };
            timing.lost_ipi_ppm = rng.below(20_000) as u32;
            timing.lost_packet_ppm = rng.below(20_000) as u32;
        }
        timing
    }

    /// The root image: `/bin/init` starts the programs.
    fn image(&self) -> Vec<u8> {
        let mut image = Image::new();
        let mut requests = Vec::new();
        let mut rng = Random::new(self.seed ^ 0x0914_a3e5);
        for letter in &self.programs {
            let name = format!("prog-{}", (*letter as char).to_ascii_lowercase());
            let elf = match letter {
                b'C' => programs::counter(*letter, 2_000_000),
                b'D' => programs::counter(*letter, self.pace.pause()),
                b'P' => programs::ping_pong(*letter, 2 * self.pace.pause()),
                b'T' => programs::toucher(*letter, 48, 1_000_000),
                _ => programs::echo_server(*letter),
            };
            image.program(&name, elf);
            requests.push(Request::Start(Start {
                name: name.clone(),
                argv: vec![format!("/bin/{name}")],
                env: Vec::new(),
                cwd: "/".into(),
                kernel: Some(KernelId(rng.below(self.kernels as u64) as u16)),
                protection: Some(Protection::new(self.interval, Output::Commit)),
                ..Start::default()
            }));
        }
        image.program("init", programs::init(&requests));
        image.build()
    }
}

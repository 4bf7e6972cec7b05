//! System calls at random against the kernel on the simulated machine, at the host's full speed.
//!
//! Two kernels run. The program's threads do not execute instructions: each issues one call after the other, random ones
//! or such whose answers a model knows. In between the kernel under the program is killed, and the program goes on in
//! the other: it must show what it showed when it was checkpointed. All of it follows from the seed.
mod machine;
mod state;

use crate::image::Image;
use machine::FuzzMachine;
use shimos_abi::{
    control::{Output, Protection, Start},
    ids::{KernelId, Life, ProgramId},
    time::Nanos,
};
use shimos_checkpoint::{RecordWriter, Records};
use shimos_core::{BootConfig, Kernel, inspect::read_records};
use shimos_fuzz::ARENA;
use shimos_random::Random;
use shimos_soft::{Config, Crash, End, Next, Phase, SoftMachine, World, asm::Asm};
use state::State;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Frames of each kernel's pool.
const POOL: u32 = 16_384;
/// Calls between two looks at the kernel's objects.
const LOOK: u64 = 2_000;
/// Calls between two takeovers.
const LIFE: u64 = 25_000;
/// Turns without a call after which nothing is thought to go on.
const STILL: u64 = 2_000_000;
/// The program's id: it is the first.
const PROGRAM: ProgramId = ProgramId(1);

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// How many calls.
    pub calls: u64,
    /// The seed.
    pub seed: u64,
    /// Whether the program goes on from damaged records now and then; then no answers are checked.
    pub damages: bool,
    /// Say what happens as it happens.
    pub verbose: bool,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What broke, if anything did.
    pub failure: Option<String>,
    /// Calls issued, and those among them whose answers were checked.
    pub calls: u64,
    /// See `calls`.
    pub checked: u64,
    /// Takeovers.
    pub takeovers: u64,
    /// Damaged records that were read; those that were still a program's.
    pub damaged: (u64, u64),
}

impl Outcome {
    /// One line that says how it went.
    pub fn line(&self, seed: u64) -> String {
        format!(
            "fuzz seed {seed}: {} ({} calls, {} of them checked, {} takeovers, {} damaged records, {} gone on with)",
            self.failure.as_deref().unwrap_or("passed"),
            self.calls,
            self.checked,
            self.takeovers,
            self.damaged.0,
            self.damaged.1
        )
    }
}

/// What is done between calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Calls are issued up to this number.
    Running(u64),
    /// Nobody issues calls until a checkpoint that was taken later than this.
    Checkpointing(Nanos),
    /// The kernel under the program was killed; another must have it by then.
    Dying(Life, Nanos),
}

struct Run {
    wishes: Wishes,
    world: World,
    state: Arc<Mutex<State>>,
    kernels: Vec<Option<Kernel<FuzzMachine>>>,
    stage: Stage,
    looked: u64,
    random: Random,
    outcome: Outcome,
    /// Turns since the last call, and how many calls there were then.
    still: (u64, u64),
    /// There was no room for a takeover.
    full: bool,
    /// Turns since the program has ended.
    gone: u32,
}

/// Why one machine's run is over.
enum Over {
    /// The calls that were wished for are done.
    Done,
    /// What the program has filled, files and shared memory, leaves no room for a takeover: a fresh machine goes on.
    Full,
}

/// Runs until the wish is fulfilled or something breaks.
pub fn run(wishes: Wishes) -> Outcome {
    let mut sum = Outcome::default();
    for machine in 0.. {
        let seed = wishes.seed ^ machine << 32;
        let (outcome, over) = run_machine(Wishes { calls: wishes.calls - sum.calls, seed, ..wishes });
        sum = Outcome {
            failure: outcome.failure,
            calls: sum.calls + outcome.calls,
            checked: sum.checked + outcome.checked,
            takeovers: sum.takeovers + outcome.takeovers,
            damaged: (sum.damaged.0 + outcome.damaged.0, sum.damaged.1 + outcome.damaged.1),
        };
        if sum.failure.is_some() || matches!(over, Over::Done) || sum.calls >= wishes.calls {
            break;
        }
    }
    sum
}

fn run_machine(wishes: Wishes) -> (Outcome, Over) {
    let mut asm = Asm::new();
    let arena = asm.zeros(ARENA * state::ARENAS);
    asm.nop().exit(0);
    let mut image = Image::new();
    image.program("init", asm.elf());
    let mut config = Config::new(2, wishes.seed);
    config.pool_frames = POOL;
    config.disk = image.build();
    let world = World::new(config);
    let mut state = State::new(wishes.seed, arena, PROGRAM.first_pid().0.into());
    state.wild_only = wishes.damages;
    let mut run = Run {
        wishes,
        kernels: (0..world.kernels()).map(|_| None).collect(),
        state: Arc::new(Mutex::new(state)),
        stage: Stage::Running(LIFE),
        looked: 0,
        random: Random::new(wishes.seed ^ 0xda3a_9e00),
        outcome: Outcome::default(),
        still: (0, 0),
        full: false,
        gone: 0,
        world,
    };
    let (over, failure) = match run.go() {
        Ok(over) => (over, None),
        Err(why) => (Over::Done, Some(why)),
    };
    let state = run.lock();
    let failure = failure.map(|why| {
        let last = if wishes.verbose {
            let threads: String = run.kernels.iter().flatten().map(|kernel| kernel.describe(PROGRAM)).collect();
            let console = run.world.console_output();
            let console = String::from_utf8_lossy(&console[console.len().saturating_sub(2000)..]).into_owned();
            format!("\n{}\n  threads:\n{threads}  console:\n{console}", state.history())
        } else {
            String::new()
        };
        format!("{why}; after {} calls{last}", state.calls)
    });
    (Outcome { failure, calls: state.calls, checked: state.checked, ..run.outcome.clone() }, over)
}

impl Run {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, text: &str) {
        if self.wishes.verbose {
            eprintln!("{} {} calls: {text}", self.world.now(), self.lock().calls);
        }
    }

    fn go(&mut self) -> Result<Over, String> {
        loop {
            match self.world.advance() {
                Next::Boot(kernel) => self.boot(kernel)?,
                Next::Turn(kernel) => self.turn(kernel)?,
                Next::Host => self.wire(),
                Next::Off => return Err("the machine was switched off".into()),
                Next::Still => return Err("nothing will ever happen again".into()),
            }
            for index in 0..self.kernels.len() {
                if self.world.phase(KernelId(index as u16)) == Phase::Parked {
                    self.kernels[index] = None;
                }
            }
            let (calls, failure) = {
                let state = self.lock();
                (state.calls, state.failure.clone())
            };
            if let Some(failure) = failure {
                return Err(failure);
            }
            if calls >= self.wishes.calls {
                return Ok(Over::Done);
            }
            if self.full {
                return Ok(Over::Full);
            }
            self.still = if calls == self.still.1 { (self.still.0 + 1, calls) } else { (0, calls) };
            if self.still.0 > STILL {
                return Err(format!("no thread issues a call any more, in stage {:?}", self.stage));
            }
            self.stages(calls)?;
        }
    }

    fn boot(&mut self, kernel: KernelId) -> Result<(), String> {
        let life = self.world.life(kernel);
        self.say(&format!("{life} boots"));
        let machine = FuzzMachine::new(SoftMachine::new(&self.world, kernel), self.state.clone());
        let init = Start {
            name: "fuzz".into(),
            argv: vec!["/bin/init".into()],
            env: Vec::new(),
            cwd: "/".into(),
            protection: Some(Protection::new(Nanos::millis(3), Output::Free)),
            ..Start::default()
        };
        let config = BootConfig { heartbeat: Nanos::millis(10), init: Some(init) };
        self.kernels[kernel.index()] = None;
        match catch_unwind(AssertUnwindSafe(|| Kernel::boot(machine, config))) {
            Ok(booted) => {
                self.kernels[kernel.index()] = Some(booted);
                Ok(())
            }
            Err(payload) => self.ended(kernel, payload),
        }
    }

    fn turn(&mut self, kernel: KernelId) -> Result<(), String> {
        let Some(running) = &mut self.kernels[kernel.index()] else { return Ok(()) };
        match catch_unwind(AssertUnwindSafe(|| running.turn())) {
            Ok(()) => Ok(()),
            Err(payload) => self.ended(kernel, payload),
        }
    }

    fn ended(&mut self, kernel: KernelId, payload: Box<dyn std::any::Any + Send>) -> Result<(), String> {
        let life = self.world.life(kernel);
        let end = self.world.settle(kernel, payload);
        self.say(&format!("{life} ended: {end:?}"));
        self.kernels[kernel.index()] = None;
        match end {
            End::Crashed(_) | End::Parked | End::Stopped => Ok(()),
            End::PowerOff => Err(format!("{life} switched the machine off")),
            End::Fault(text) => Err(text),
            End::Panicked(text) => Err(format!("{life} panicked: {text}")),
        }
    }

    /// Frames come out; some come back damaged, as from a hostile network.
    fn wire(&mut self) {
        while let Some(mut packet) = self.world.wire_take() {
            if self.random.once_in(4) && packet.len() > 12 {
                if !self.random.once_in(3) {
                    let (to, from) = packet.split_at_mut(6);
                    to.swap_with_slice(&mut from[..6]);
                }
                for _ in 0..self.random.below(6) {
                    let place = self.random.below(packet.len() as u64) as usize;
                    packet[place] = self.random.bits() as u8;
                }
                self.world.wire_send(packet, Nanos::micros(50));
            }
        }
    }

    /// The kernel that the program lives on.
    fn home(&self) -> Option<KernelId> {
        let place =
            self.kernels.iter().position(|kernel| kernel.as_ref().is_some_and(|k| k.programs().contains(&PROGRAM)));
        place.map(|place| KernelId(place as u16))
    }

    fn stages(&mut self, calls: u64) -> Result<(), String> {
        if calls > 0 && matches!(self.stage, Stage::Running(_)) && self.home().is_none() {
            // What the kernel says of it takes a while to be printed.
            self.gone += 1;
            if self.gone < 3_000 {
                return Ok(());
            }
            let told = self.world.console_output();
            let told = String::from_utf8_lossy(&told[told.len().saturating_sub(4000)..]).into_owned();
            // It filled all memory, and its first process was the one to ask for more.
            self.full = told.contains(&format!("{}: no memory", PROGRAM.first_pid()));
            return if self.full { Ok(()) } else { Err("the program has ended".into()) };
        }
        if calls >= self.looked + LOOK {
            self.looked = calls;
            self.look()?;
        }
        let now = self.world.now();
        match self.stage {
            Stage::Running(until) if calls < until => {}
            Stage::Running(_) if self.wishes.damages => {
                self.damage()?;
                self.stage = Stage::Running(calls + LIFE / 10);
            }
            Stage::Running(_) => {
                self.lock().paused = true;
                self.stage = Stage::Checkpointing(now);
            }
            Stage::Checkpointing(since) => {
                let home = self.home().ok_or("the program has ended")?;
                let taken = self.kernels[home.index()].as_ref().and_then(|kernel| kernel.checkpoint_of(PROGRAM));
                let others = (0..self.kernels.len()).filter(|index| {
                    *index != home.index()
                        && matches!(self.world.phase(KernelId(*index as u16)), Phase::Running | Phase::Idle(_))
                });
                let used =
                    self.kernels[home.index()].as_ref().map_or(0, |kernel| kernel.frames().0 - kernel.frames().1);
                let room = self.kernels.iter().enumerate().filter(|(index, _)| *index != home.index());
                let room = room.filter_map(|(_, kernel)| kernel.as_ref()).map(|kernel| kernel.frames().1).max();
                if room.is_some_and(|room| room < used + POOL as usize / 4) {
                    self.full = true;
                    return Ok(());
                }
                if taken.is_some_and(|at| at > since + Nanos::millis(1)) && others.count() > 0 {
                    let crash = self.random.one(&[Crash::Panic, Crash::Exception, Crash::Hang]);
                    let life = self.world.life(home);
                    self.world.kill(home, crash);
                    self.stage = Stage::Dying(life, now + Nanos::secs(30));
                } else if now > since + Nanos::secs(60) {
                    return Err("no checkpoint comes".into());
                }
            }
            Stage::Dying(dead, limit) => {
                if self.home().is_some_and(|home| self.world.life(home) != dead) {
                    self.outcome.takeovers += 1;
                    self.lock().paused = false;
                    self.stage = Stage::Running(calls + LIFE);
                } else if now > limit {
                    return Err(format!("nobody took over from {dead}"));
                }
            }
        }
        Ok(())
    }

    /// What must hold of the kernel's objects; and the records of the program must say what it is.
    fn look(&mut self) -> Result<(), String> {
        if self.outcome.damaged.1 > 0 {
            // What damaged records say need not hold.
            return Ok(());
        }
        self.kernels.iter().flatten().try_for_each(Kernel::inspect)?;
        let Some(records) = self.kernels.iter().flatten().find_map(|kernel| kernel.records_of(PROGRAM)) else {
            return Ok(());
        };
        let read = read_records(&records, PROGRAM).map_err(|why| format!("its own records are refused: {why}"))?;
        if read != records {
            let place = read.iter().zip(&records).position(|(a, b)| a != b);
            return Err(format!("records that were read are others from byte {place:?} on"));
        }
        self.outcome.damaged.0 += 1;
        let damaged = self.damaged(&records);
        catch_unwind(|| read_records(&damaged, PROGRAM).map(|_| ()))
            .map(|_| ())
            .map_err(|payload| format!("damaged records: {}", told(&*payload)))
    }

    /// Records with some bytes changed and right checksums.
    fn damaged(&mut self, records: &[u8]) -> Vec<u8> {
        let mut writer = RecordWriter::new();
        let count = Records::new(records).count() as u64;
        let hit = self.random.below(count);
        for (place, record) in Records::new(records).flatten().enumerate() {
            let mut payload = record.payload.to_vec();
            let here = place as u64 == hit || self.random.once_in(count);
            if here && !payload.is_empty() {
                for _ in 0..1 + self.random.below(4) {
                    let at = self.random.below(payload.len() as u64) as usize;
                    match self.random.below(3) {
                        0 => payload[at] ^= 1 << self.random.below(8),
                        1 => payload[at] = self.random.bits() as u8,
                        _ => payload[at] = self.random.one(&[0, 1, 0x17, 0x18, 0x1b, 0xff]),
                    }
                }
            }
            writer.add(record.kind, record.version, &payload);
        }
        writer.into_bytes()
    }

    /// Lets the program go on from damaged records.
    fn damage(&mut self) -> Result<(), String> {
        let Some(home) = self.home() else { return Err("the program has ended".into()) };
        let Some(records) = self.kernels[home.index()].as_ref().and_then(|kernel| kernel.records_of(PROGRAM)) else {
            return Ok(());
        };
        for _ in 0..20 {
            let damaged = self.damaged(&records);
            self.outcome.damaged.0 += 1;
            let Some(kernel) = &mut self.kernels[home.index()] else { return Ok(()) };
            let replaced = catch_unwind(AssertUnwindSafe(|| kernel.replace(PROGRAM, &damaged)));
            match replaced {
                Ok(Ok(())) => {
                    self.outcome.damaged.1 += 1;
                    break;
                }
                Ok(Err(_)) => {}
                Err(payload) => return self.ended(home, payload),
            }
        }
        Ok(())
    }
}

/// What a panic said.
fn told(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(calls: u64, seed: u64, damages: bool) {
        let outcome = run(Wishes { calls, seed, damages, verbose: true });
        assert_eq!(outcome.failure, None, "{}", outcome.line(seed));
    }

    #[test]
    fn random_calls_kill_no_kernel_and_get_right_answers() {
        for seed in 1..4 {
            passes(60_000, seed, false);
        }
    }

    #[test]
    fn a_program_goes_on_from_damaged_records() {
        for seed in 1..4 {
            passes(20_000, seed, true);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        let twice = || run(Wishes { calls: 5_000, seed: 7, damages: false, verbose: false });
        let (one, two) = (twice(), twice());
        assert_eq!((one.calls, one.checked, one.takeovers), (two.calls, two.checked, two.takeovers));
    }
}

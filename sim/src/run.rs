//! One run: a machine, its kernels, what is done to them, and whether the promise was kept.
use crate::{
    checks::{Checks, Trust},
    client::Client,
    daemons::{self, Toys},
    kernel,
    plan::{Kill, Pace, Plan, Rough, Under},
};
use shimos_abi::{ids::KernelId, time::Nanos};
use shimos_ikc::{Area, warm};
use shimos_random::Random;
use shimos_soft::{Crash, End, Next, Phase, SoftMachine, Threads, Turn, World};
use std::collections::BTreeMap;

/// How long the programs may be without visible progress after a death.
const PATIENCE: Nanos = Nanos::secs(20);
/// Turns between two resets, on average.
const RESET_GAP: u64 = 4_000;

/// How a run went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What broke, if anything did.
    pub failure: Option<String>,
    /// Turns that were run.
    pub turns: u64,
    /// The machine's time at the end.
    pub time: Nanos,
    /// Deaths, in order.
    pub deaths: Vec<(Nanos, KernelId, u64, Crash)>,
    /// Kernels that were parked though nobody had killed them (stalls that were too long).
    pub suspected: u32,
    /// Whether stalls and deaths together left no kernel.
    pub extinct: bool,
    /// How often the machine was reset.
    pub resets: u32,
    /// How often a program went on in another kernel.
    pub takeovers: u64,
    /// How many of them were planned moves.
    pub moves: u64,
    /// Jumps in the lines of programs when the console's owner had died.
    pub jumps: u64,
    /// Connections that the echo server served from beginning to end.
    pub served: u64,
    /// The last line of each program.
    pub lines: BTreeMap<u8, u64>,
    /// Steps of each kernel when all programs had shown their first lines.
    pub steps_at_start: Vec<u64>,
    /// Steps of each kernel at the last death.
    pub steps_at_death: Vec<u64>,
    /// Steps of each kernel when all programs had shown that they had survived.
    pub steps_at_end: Vec<u64>,
    /// The console's output, for a failure's sake.
    pub console: Vec<u8>,
}

/// What the run waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// All programs have shown lines.
    Starting,
    /// The next death has come about, at a random time.
    Calm(Nanos),
    /// A death was ordered for one of the next steps of this kernel.
    Ordered(KernelId),
    /// All programs have shown new lines.
    Surviving,
}

struct Run<'a> {
    plan: &'a Plan,
    world: World,
    checks: Checks,
    rng: Random,
    stage: Stage,
    kills_left: u32,
    drains_left: u32,
    resets_left: u32,
    /// When the next kernel is emptied, filled or given a fresh life.
    drain_at: Nanos,
    since: Nanos,
    goals: BTreeMap<u8, u64>,
    suspected: BTreeMap<KernelId, u32>,
    outcome: Outcome,
    toys: Toys,
    client: Client,
    verbose: bool,
}

/// Does one run.
pub fn run(plan: &Plan, verbose: bool) -> Outcome {
    let world = World::new(plan.machine());
    for kill in &plan.kills {
        world.kill_at(kill.kernel, kill.step, kill.crash);
    }
    let mut run = Run {
        plan,
        checks: Checks::new(&world),
        rng: Random::new(plan.seed ^ 0x0c4a_5e50),
        stage: Stage::Starting,
        kills_left: plan.crashes,
        drains_left: if plan.under == Under::Kernel { plan.drains } else { 0 },
        resets_left: plan.resets,
        drain_at: Nanos(0),
        since: Nanos(0),
        goals: plan.programs.iter().map(|letter| (*letter, plan.pace.lines())).collect(),
        suspected: BTreeMap::new(),
        outcome: Outcome::default(),
        toys: Toys::default(),
        client: Client::new(plan.seed),
        world: world.clone(),
        verbose,
    };
    let result = match plan.under {
        Under::Kernel => run.go(&mut Threads::new(world.clone(), kernel::run)),
        Under::Daemons => {
            let toys = run.toys.clone();
            run.go(&mut Threads::new(world.clone(), move |machine| daemons::run(machine, toys.clone())))
        }
    };
    let mut outcome = std::mem::take(&mut run.outcome);
    outcome.failure = result.err();
    outcome.time = world.now();
    outcome.takeovers = run.checks.takeovers;
    outcome.moves = run.checks.moves;
    outcome.lines = run.counts();
    outcome.served = run.client.served;
    outcome.jumps = run.checks.console.jumps;
    outcome.console = world.console_output();
    if verbose {
        outcome.console.extend(run.client.state().into_bytes());
        outcome.console.extend(run.checks.published().into_bytes());
    }
    outcome
}

impl Run<'_> {
    fn go<F: Fn(SoftMachine) + Send + Sync + 'static>(&mut self, threads: &mut Threads<F>) -> Result<(), String> {
        while self.outcome.turns < self.plan.steps {
            match threads.advance() {
                Next::Boot(kernel) => {
                    self.disturb();
                    let life = self.world.life(kernel);
                    self.say(&format!("{life} boots"));
                    let killed = self.outcome.deaths.iter().filter(|(_, dead, _, _)| *dead == kernel).count() as u32;
                    let ended = killed + self.outcome.resets;
                    let lost = life.incarnation.0.saturating_sub(1).saturating_sub(ended);
                    self.suspected.insert(kernel, lost);
                    self.outcome.suspected = self.suspected.values().sum();
                    threads.boot(kernel);
                }
                Next::Turn(kernel) => {
                    self.outcome.turns += 1;
                    self.checks.before(&self.world);
                    let turn = threads.turn(kernel);
                    self.checks.after(&self.world, kernel, self.trust())?;
                    // The server listens when it shows its first line.
                    if !self.client.is_started()
                        && self.checks.console.counts.contains_key(&b'E')
                        && let Some(server) = self.checks.program("prog-e")
                    {
                        self.client.start(server, &self.world);
                    }
                    if let Some(wrong) = self.toys.wrong().filter(|_| self.trust() == Trust::Whole) {
                        return Err(wrong);
                    }
                    if let Turn::Ended(end) = turn {
                        self.ended(kernel, end)?;
                    }
                    if self.stages()? {
                        return Ok(());
                    }
                }
                Next::Host => match self.client.turn(&self.world) {
                    Err(_) if self.trust() == Trust::Damaged => {}
                    result => result?,
                },
                Next::Off => return Err("the machine was switched off".into()),
                Next::Still => {
                    let cores = (0..self.plan.kernels as u16).map(KernelId);
                    // A long stall can make a kernel be parked that the plan counts as alive; then the last one may die.
                    if self.plan.rough == Rough::Rough && cores.clone().all(|kernel| !self.alive(kernel)) {
                        self.outcome.extinct = true;
                        return Ok(());
                    }
                    let cores: Vec<String> =
                        cores.map(|k| format!("{} {:?}", self.world.life(k), self.world.phase(k))).collect();
                    return Err(format!("nothing will ever happen again: {}", cores.join(", ")));
                }
            }
        }
        match self.stage {
            Stage::Calm(_) | Stage::Ordered(_) => Ok(()),
            Stage::Starting | Stage::Surviving => Err(format!("out of steps; {}", self.waiting())),
        }
    }

    /// Whether programs may have lost their way, by flipped bits.
    fn trust(&self) -> Trust {
        if self.plan.flips > 0 && !self.outcome.deaths.is_empty() { Trust::Damaged } else { Trust::Whole }
    }

    fn disturb(&mut self) {
        if self.plan.rough == Rough::Rough {
            self.checks.disturb(self.world.now());
        }
    }

    fn say(&self, text: &str) {
        if self.verbose {
            eprintln!("{} turn {}: {text}", self.world.now(), self.outcome.turns);
        }
    }

    fn ended(&mut self, kernel: KernelId, end: End) -> Result<(), String> {
        let life = self.world.life(kernel);
        self.say(&format!("{life} ended: {end:?}"));
        match end {
            End::Crashed(crash) => {
                self.disturb();
                if crash == Crash::Scribble {
                    // As the console's owner it may have said that lines are printed which are not.
                    self.checks.disturb(self.world.now());
                }
                self.outcome.deaths.push((self.world.now(), kernel, self.world.steps(kernel), crash));
                self.outcome.steps_at_death = self.steps();
                self.world.flip(kernel, self.plan.flips);
                self.died();
                Ok(())
            }
            // It was told to park, or found itself parked: a suspicion, which must do no harm.
            End::Parked | End::Stopped => Ok(()),
            End::PowerOff => Err(format!("{life} switched the machine off")),
            End::Fault(text) => Err(text),
            End::Panicked(text) => Err(format!("{life} panicked: {text}")),
        }
    }

    /// A kernel has died as it should: decide what comes next.
    fn died(&mut self) {
        self.since = self.world.now();
        self.aim();
        // Sometimes the next one dies while this one is still being recovered.
        let soon = self.kills_left > 0 && self.rng.below(3) == 0;
        self.stage =
            if soon { Stage::Calm(self.since + Nanos::micros(self.rng.below(60_000))) } else { Stage::Surviving };
    }

    /// What each program has shown last.
    fn counts(&self) -> BTreeMap<u8, u64> {
        match self.plan.under {
            Under::Kernel => self.checks.console.counts.clone(),
            Under::Daemons => self.toys.counts(),
        }
    }

    /// From here on all programs must show some lines more.
    fn aim(&mut self) {
        let counts = self.counts();
        for (letter, goal) in &mut self.goals {
            *goal = counts.get(letter).copied().unwrap_or(0) + self.plan.pace.lines();
        }
    }

    fn reached(&self) -> bool {
        // What was in flipped memory may be lost. The others have some time to be hurt by it.
        if self.plan.flips > 0 && self.stage == Stage::Surviving {
            return self.world.now() > self.since + Nanos::secs(3);
        }
        let counts = self.counts();
        self.goals.iter().all(|(letter, goal)| counts.get(letter).is_some_and(|count| count >= goal))
    }

    fn waiting(&self) -> String {
        let counts = self.counts();
        let missing: Vec<String> = self
            .goals
            .iter()
            .map(|(letter, goal)| (letter, goal, counts.get(letter).copied().unwrap_or(0)))
            .filter(|(_, goal, count)| count < goal)
            .map(|(letter, goal, count)| format!("{} is at {count}, not {goal}", *letter as char))
            .collect();
        format!("no progress since {}: {}", self.since, missing.join(", "))
    }

    /// Moves on to the next stage; true at the end of the run.
    fn stages(&mut self) -> Result<bool, String> {
        if let Some(every) = self.plan.crash_every
            && self.outcome.turns.is_multiple_of(every)
            && self.stage != Stage::Starting
        {
            self.order();
        }
        let now = self.world.now();
        if self.drains_left > 0 && self.stage != Stage::Starting && now >= self.drain_at {
            self.drains_left -= 1;
            self.drain_at = now + Nanos::micros(self.rng.below(60_000));
            let kernel = KernelId(self.rng.below(self.plan.kernels as u64) as u16);
            let told = self.checks.disturb_kernel(kernel, self.rng.below(3));
            self.say(&format!("{kernel} {told}"));
        }
        if self.resets_left > 0 && self.stage != Stage::Starting && self.rng.below(RESET_GAP) == 0 {
            self.resets_left -= 1;
            self.outcome.resets += 1;
            self.say("the machine is reset");
            self.disturb();
            self.world.reset(|words, layout, now| {
                let _ = warm::resume(Area::new(words, layout), now);
            });
            self.died();
            return Ok(false);
        }
        match self.stage {
            Stage::Starting | Stage::Surviving => {
                if self.reached() {
                    if self.stage == Stage::Starting {
                        self.outcome.steps_at_start = self.steps();
                        self.say("all programs run");
                        let timing = self.plan.machine_timing();
                        self.world.set_timing(|now| *now = timing);
                    } else {
                        self.say("all programs have survived");
                    }
                    self.outcome.steps_at_end = self.steps();
                    let pending = self.plan.kills.iter().any(|kill| self.world.steps(kill.kernel) < kill.step);
                    if self.kills_left == 0
                        && self.drains_left == 0
                        && self.resets_left == 0
                        && !pending
                        && self.plan.crash_every.is_none()
                    {
                        return Ok(true);
                    }
                    self.stage = Stage::Calm(now + Nanos(self.rng.below(self.plan.pace.calm().0)));
                } else if now > self.since + PATIENCE {
                    return Err(self.waiting());
                }
            }
            Stage::Calm(at) => {
                if at <= now {
                    if self.kills_left == 0 && self.drains_left > 0 {
                        // Nothing dies any more: all must go on through the moves that are left.
                        self.since = now;
                        self.stage = Stage::Calm(now + Nanos::millis(20));
                    } else if self.kills_left > 0 && self.is_short_of_kernels(now) {
                        return Ok(true);
                    } else if self.kills_left == 0 || !self.order() {
                        self.since = now;
                        self.aim();
                        self.stage = Stage::Surviving;
                    } else {
                        self.kills_left -= 1;
                    }
                }
            }
            // It may be parked by suspicion before it gets there.
            Stage::Ordered(kernel) => {
                if !self.alive(kernel) || now > self.since + PATIENCE {
                    self.died();
                }
            }
        }
        Ok(false)
    }

    /// Cores whose kernels died soon after each boot are retired, and the last kernel must live.
    fn is_short_of_kernels(&self, now: Nanos) -> bool {
        let died = self.outcome.deaths.last().map_or(Nanos(0), |(time, ..)| *time);
        let living = (0..self.plan.kernels as u16).filter(|kernel| self.alive(KernelId(*kernel))).count();
        living < 2 && now > died + PATIENCE
    }

    fn alive(&self, kernel: KernelId) -> bool {
        matches!(self.world.phase(kernel), Phase::Running | Phase::Idle(_))
    }

    /// Orders a death; false if too few kernels are alive for one more.
    fn order(&mut self) -> bool {
        let living: Vec<KernelId> =
            (0..self.plan.kernels as u16).map(KernelId).filter(|kernel| self.alive(*kernel)).collect();
        if living.len() < 2 {
            return false;
        }
        let kernel = living[self.rng.below(living.len() as u64) as usize];
        let crash = match self.rng.below(8) {
            0 | 1 => Crash::Panic,
            2 | 3 => Crash::Exception,
            // Nothing wakes core 0 from there: INIT would reset the machine.
            4 if kernel != KernelId(0) => Crash::Deaf,
            5 => Crash::Scribble,
            _ => Crash::Hang,
        };
        let step = self.world.steps(kernel) + 1 + self.near(self.plan.pace.steps());
        self.say(&format!("{kernel} is to die at its step {step}: {crash:?}"));
        self.world.kill_at(kernel, step, crash);
        self.since = self.world.now();
        self.stage = Stage::Ordered(kernel);
        true
    }

    /// A number below `most`; in short runs a small one is as likely as a great one.
    fn near(&mut self, most: u64) -> u64 {
        match self.plan.pace {
            Pace::Long => self.rng.below(most),
            Pace::Short => {
                let bits = u64::from(u64::BITS - most.leading_zeros());
                let end = 1 << self.rng.below(bits);
                self.rng.below(end)
            }
        }
    }

    fn steps(&self) -> Vec<u64> {
        (0..self.plan.kernels as u16).map(|kernel| self.world.steps(KernelId(kernel))).collect()
    }
}

impl Outcome {
    /// One line that says how it went.
    pub fn line(&self, plan: &Plan) -> String {
        let rough = if plan.rough == Rough::Rough { ", rough" } else { "" };
        let lines: Vec<String> = self.lines.iter().map(|(l, n)| format!("{}{n}", *l as char)).collect();
        format!(
            "seed {}: {} ({} kernels{rough}, {} turns, {} s, {} deaths, {} takeovers, {} moves, {} suspected, {} resets, {} connections, {} console jumps, {})",
            plan.seed,
            self.failure.as_deref().unwrap_or(if self.extinct { "passed, but no kernel is left" } else { "passed" }),
            plan.kernels,
            self.turns,
            self.time,
            self.deaths.len(),
            self.takeovers,
            self.moves,
            self.suspected,
            self.resets,
            self.served,
            self.jumps,
            lines.join(" ")
        )
    }

    /// The same as a JSON object.
    pub fn json(&self, plan: &Plan) -> String {
        let deaths: Vec<String> = self
            .deaths
            .iter()
            .map(|(at, kernel, step, crash)| {
                format!(r#"{{"at_ns":{},"kernel":{},"step":{step},"crash":"{crash:?}"}}"#, at.0, kernel.0)
            })
            .collect();
        let lines: Vec<String> = self.lines.iter().map(|(l, n)| format!(r#""{}":{n}"#, *l as char)).collect();
        let kills: Vec<String> = plan
            .kills
            .iter()
            .map(|Kill { kernel, step, crash }| {
                format!(r#"{{"kernel":{},"step":{step},"crash":"{crash:?}"}}"#, kernel.0)
            })
            .collect();
        let failure = self.failure.as_deref().map_or("null".to_string(), |text| format!("{text:?}"));
        format!(
            r#"{{"seed":{},"kernels":{},"turns":{},"time_ns":{},"kills":[{}],"deaths":[{}],"takeovers":{},"moves":{},"suspected":{},"served":{},"console_jumps":{},"lines":{{{}}},"failure":{failure}}}"#,
            plan.seed,
            plan.kernels,
            self.turns,
            self.time.0,
            kills.join(","),
            deaths.join(","),
            self.takeovers,
            self.moves,
            self.suspected,
            self.served,
            self.jumps,
            lines.join(",")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    fn plan(seed: u64, args: &[&str]) -> Plan {
        Plan::new(seed, &Options::read(args.iter().map(|arg| arg.to_string())))
    }

    #[test]
    fn the_daemons_survive_a_campaign() {
        for seed in 1..=6 {
            let plan = plan(seed, &["--daemons", "--crashes", "3"]);
            let outcome = run(&plan, false);
            assert_eq!(outcome.failure, None, "{}", outcome.line(&plan));
        }
    }

    #[test]
    fn programs_survive_the_deaths_of_their_kernels() {
        for seed in [1, 8, 25] {
            let plan = plan(seed, &["--crashes", "2"]);
            let outcome = run(&plan, false);
            assert_eq!(outcome.failure, None, "{}", outcome.line(&plan));
            assert_eq!(outcome.deaths.len(), 2);
        }
    }

    #[test]
    fn programs_survive_very_many_deaths() {
        for seed in [2, 7, 8] {
            let plan = plan(seed, &["--short", "--crashes", "80", "--steps", "3000000"]);
            let outcome = run(&plan, false);
            assert_eq!(outcome.failure, None, "{}", outcome.line(&plan));
        }
    }

    #[test]
    fn programs_are_moved_while_kernels_die() {
        let mut moves = 0;
        for seed in 1..=3 {
            let plan = plan(seed, &["--crashes", "2", "--drains", "8"]);
            let outcome = run(&plan, false);
            assert_eq!(outcome.failure, None, "{}", outcome.line(&plan));
            moves += outcome.moves;
        }
        assert!(moves > 0);
    }

    #[test]
    fn programs_survive_resets_of_the_machine() {
        for seed in 1..=4 {
            let plan = plan(seed, &["--crashes", "2", "--resets", "3", "--drains", "3"]);
            let outcome = run(&plan, false);
            assert_eq!(outcome.failure, None, "{}", outcome.line(&plan));
            assert_eq!(outcome.resets, 3);
        }
    }

    #[test]
    fn a_run_can_be_replayed() {
        let plan = plan(5, &["--daemons", "--crashes", "2"]);
        assert_eq!(run(&plan, false).json(&plan), run(&plan, false).json(&plan));
    }
}

//! What happens in a schedule, and what must come of it.
use super::{
    blows::{self, Blow},
    machine,
};
use crate::{
    checks::{Checks, Trust},
    client::Client,
    many::{Log, Tally},
};
use shimos_abi::{
    control::KernelState,
    ids::{KernelId, Life},
    time::Nanos,
};
use shimos_ikc::{Area, warm};
use shimos_random::Random;
use shimos_soft::{Crash, End, Phase, World};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Longest until the programs run, and until all is well after the last blow.
const PATIENCE: Nanos = Nanos::secs(20);
/// Rings and packets come again, and kernels are filled again, so long after the last blow.
const CALM: Nanos = Nanos::millis(10);
/// Turns between two looks at who has written to the shared area.
const SELDOM: u64 = 200;
/// Turns of kernels in a schedule, and in each of its milliseconds, that are not too many.
const MANY_TURNS: u64 = 4_000;
const MOST_TURNS: u64 = 40;
/// Words of what happened that are told of a failure.
const TOLD: usize = 40;

/// Where a schedule is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// All programs have to show their first lines.
    Starting,
    /// Blows are struck, the first one counted from here.
    Trouble(Nanos),
    /// Nothing more is done. From here on all programs have to show new lines, and every kernel has to run.
    Settling(Nanos),
}

/// Whether frames are to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Audit {
    Done,
    Wanted,
    /// The last one.
    Final,
}

/// One schedule's story.
pub struct Story {
    checks: Checks,
    client: Client,
    random: Random,
    stage: Stage,
    since: Nanos,
    blows: VecDeque<(Nanos, Blow)>,
    /// Where kernels are to be hit, by step.
    aimed: Vec<(KernelId, u64)>,
    /// Kernels that something was aimed at since they booted: they may die, or be taken for dead.
    doubted: BTreeSet<KernelId>,
    /// Kernels whose next boot dies.
    fail_boots: BTreeMap<KernelId, Crash>,
    /// The line that each program has to show.
    goals: BTreeMap<u8, u64>,
    /// What the client has to have received.
    bytes: u64,
    audit: Audit,
    takeovers: u64,
    over: Option<Result<(), String>>,
    tally: Tally,
    log: Log,
    words: Vec<String>,
}

impl Story {
    pub fn new(seed: u64, world: &World, blows: Vec<(Nanos, Blow)>, log: Log) -> Story {
        Story {
            checks: Checks::new(world).looking_every(SELDOM),
            client: Client::slow(seed),
            stage: Stage::Starting,
            since: Nanos(0),
            blows: blows.into(),
            random: Random::new(seed ^ 0x0b10_4500),
            aimed: Vec::new(),
            doubted: BTreeSet::new(),
            fail_boots: BTreeMap::new(),
            goals: machine::letters(seed).into_iter().map(|letter| (letter, 1)).collect(),
            bytes: 1,
            audit: Audit::Done,
            takeovers: 0,
            over: None,
            tally: Tally::new(),
            log,
            words: Vec::new(),
        }
    }

    pub fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// How it went.
    pub fn end(&mut self) -> Result<Tally, String> {
        self.count_many("takeovers", self.checks.takeovers);
        self.count_many("connections served", self.client.served);
        self.check_rest();
        let words = self.words[self.words.len().saturating_sub(TOLD)..].join("\n  ");
        match self.over.take() {
            Some(Ok(())) => Ok(std::mem::take(&mut self.tally)),
            Some(Err(why)) => Err(format!("{why}\n  {words}")),
            None => Err("it has no end".into()),
        }
    }

    /// Kernels sleep when they have nothing to do.
    fn check_rest(&mut self) {
        let count = |what| self.tally.get(what).copied().unwrap_or(0);
        let (turns, time) = (count("turns"), count("simulated milliseconds"));
        if self.over == Some(Ok(())) && turns > MANY_TURNS + MOST_TURNS * time {
            self.over = Some(Err(format!("{turns} turns in {time} ms: a kernel does not sleep")));
        }
    }

    pub fn fail(&mut self, why: String) {
        self.over.get_or_insert(Err(why));
    }

    /// Before a kernel has the processor.
    pub fn before(&mut self, world: &World) {
        self.checks.before(world);
    }

    /// After a kernel had the processor.
    pub fn after(&mut self, world: &World, kernel: KernelId) {
        self.count("turns");
        if let Err(why) = self.checks.after(world, kernel, Trust::Whole) {
            self.fail(why);
        }
    }

    pub fn boots(&mut self, world: &World, kernel: KernelId) {
        let life = world.life(kernel);
        self.say(world, || format!("{life} boots"));
        self.doubted.remove(&kernel);
        // What was aimed at the life before comes too late.
        world.spare(kernel);
        self.aimed.retain(|(aimed, _)| *aimed != kernel);
        self.want_audit();
        let crash = self.fail_boots.remove(&kernel).filter(|_| life.incarnation.0 > 1);
        if let Some(crash) = crash.filter(|_| self.comes_another(world, kernel)) {
            self.count("boots that failed");
            self.aim(world, kernel, crash);
        }
    }

    pub fn outside(&mut self, world: &World) {
        if let Err(why) = self.client.turn(world) {
            self.fail(why);
        }
    }

    /// A kernel's life has ended.
    pub fn ended(&mut self, world: &World, life: Life, end: End) {
        self.say(world, || format!("{life} ended: {end:?}"));
        match end {
            End::Crashed(crash) => {
                self.count(match crash {
                    Crash::Panic => "panics",
                    Crash::Exception => "exceptions",
                    Crash::Hang => "hangs",
                    Crash::Deaf => "deaf hangs",
                    Crash::Scribble => "scribbles",
                });
                self.settle(world);
            }
            // It was told to park, or found itself parked: a suspicion, or the end of the schedule.
            End::Parked | End::Stopped => {}
            End::PowerOff => self.fail(format!("{life} switched the machine off")),
            End::Fault(text) => self.fail(text),
            End::Panicked(text) => self.fail(format!("{life} panicked: {text}")),
        }
    }

    /// After a turn.
    pub fn go_on(&mut self, world: &World) {
        if self.is_over() {
            return;
        }
        if self.checks.takeovers > self.takeovers {
            self.takeovers = self.checks.takeovers;
            self.want_audit();
        }
        // The server listens when it shows its first line.
        if !self.client.is_started()
            && self.checks.console.counts.contains_key(&b'E')
            && let Some(server) = self.checks.program("prog-e")
        {
            self.client.start(server, world);
        }
        let now = world.now();
        match self.stage {
            Stage::Starting if self.reached() => {
                self.say(world, || "all programs run".into());
                self.stage = Stage::Trouble(now);
            }
            Stage::Trouble(start) => match self.blows.front() {
                Some((at, _)) if start + *at > now => {}
                Some((_, blow)) => {
                    let blow = *blow;
                    self.blows.pop_front();
                    self.strike(world, blow);
                }
                None => self.settle(world),
            },
            Stage::Settling(start) if now > start + CALM && self.reached() => self.finish(world),
            _ => {}
        }
        if self.stage == Stage::Starting || matches!(self.stage, Stage::Settling(_)) {
            self.hurry(world, now);
        }
    }

    /// Frames are looked at after each takeover and boot, and when all is well, between the turns of all kernels.
    pub fn wants_audit(&self, waiting: Option<Life>) -> bool {
        self.audit != Audit::Done && waiting.is_none() && !self.is_over()
    }

    pub fn audited(&mut self, result: Result<(), String>) {
        if let Err(why) = result {
            self.fail(why);
        } else if self.audit == Audit::Final {
            self.over.get_or_insert(Ok(()));
        }
        self.audit = Audit::Done;
        self.count("looks at all frames");
    }

    fn want_audit(&mut self) {
        if self.audit == Audit::Done {
            self.audit = Audit::Wanted;
        }
    }

    /// Nobody may wait for ever.
    fn hurry(&mut self, world: &World, now: Nanos) {
        if now > self.since + PATIENCE {
            let missing = self.missing(world).unwrap_or_default();
            let client = self.client.state();
            self.say(world, || client);
            self.fail(format!("not well since {}: {missing}", self.since));
        }
    }

    fn strike(&mut self, world: &World, blow: Blow) {
        let kernels = world.kernels() as u64;
        // Half of the time the monitor.
        let monitor = self.area(world).election().monitor;
        let any = KernelId(self.random.below(kernels) as u16);
        let victim = if self.random.once_in(2) { monitor } else { any };
        if blow.is_rough() {
            self.checks.disturb(world.now());
        }
        self.say(world, || format!("{victim} is to be struck: {blow:?}"));
        match blow {
            Blow::Die(crash) => self.order(world, victim, crash),
            Blow::FailBoot(crash) => {
                self.fail_boots.insert(victim, crash);
                self.order(world, victim, Crash::Panic);
            }
            Blow::Stall(time) => {
                if self.can_spare(world, victim) {
                    let step = world.steps(victim) + blows::distance(&mut self.random);
                    world.stall_at(victim, step, time);
                    self.aimed.push((victim, step));
                    self.doubted.insert(victim);
                }
            }
            Blow::LoseRings(ppm) => world.set_timing(|timing| timing.lost_ipi_ppm = ppm),
            Blow::LosePackets(ppm) => world.set_timing(|timing| timing.lost_packet_ppm = ppm),
            Blow::Empty(kind) => {
                // For a fresh life it has to end this one.
                if self.can_spare(world, victim) {
                    self.doubted.insert(victim);
                    self.checks.disturb_kernel(victim, kind);
                }
            }
            Blow::Reset => world.reset(|words, layout, now| {
                let _ = warm::resume(Area::new(words, layout), now);
            }),
        }
        self.count(blow.name());
    }

    /// Orders a death, unless no kernel would be left.
    fn order(&mut self, world: &World, victim: KernelId, crash: Crash) {
        if self.can_spare(world, victim) {
            self.aim(world, victim, crash);
        }
    }

    fn aim(&mut self, world: &World, victim: KernelId, crash: Crash) {
        let step = world.steps(victim) + blows::distance(&mut self.random);
        world.kill_at(victim, step, blows::curable(crash, victim));
        self.aimed.push((victim, step));
        self.doubted.insert(victim);
    }

    /// Whether another kernel is left that lives and that nothing is aimed at.
    fn can_spare(&self, world: &World, victim: KernelId) -> bool {
        let others = (0..world.kernels() as u16).map(KernelId).filter(|other| *other != victim);
        let mut sound = others.filter(|other| is_up(world, *other) && !self.doubted.contains(other));
        sound.next().is_some()
    }

    /// Whether another kernel lives, or boots as well, and nothing keeps it from that.
    fn comes_another(&self, world: &World, kernel: KernelId) -> bool {
        let others = (0..world.kernels() as u16).map(KernelId).filter(|other| *other != kernel);
        let mut sound = others.filter(|other| !self.doubted.contains(other) && !self.fail_boots.contains_key(other));
        sound.any(|other| is_up(world, other) || matches!(world.phase(other), Phase::Booting(_)))
    }

    /// From here on all has to become well.
    fn settle(&mut self, world: &World) {
        if !self.blows.is_empty() {
            return;
        }
        self.since = world.now();
        self.stage = Stage::Settling(self.since);
        let counts = &self.checks.console.counts;
        // The server shows a line for each connection only.
        for (letter, goal) in self.goals.iter_mut().filter(|(letter, _)| **letter != b'E') {
            *goal = counts.get(letter).copied().unwrap_or(0) + 1;
        }
        self.bytes = self.client.bytes + 1;
    }

    /// Whether all programs have shown what they have to.
    fn reached(&self) -> bool {
        let counts = &self.checks.console.counts;
        let shown = self.goals.iter().all(|(letter, goal)| counts.get(letter).is_some_and(|count| count >= goal));
        shown && self.client.bytes >= self.bytes
    }

    /// The programs have gone on: ends what still goes wrong, and the schedule when all is well.
    fn finish(&mut self, world: &World) {
        world.set_timing(|timing| (timing.lost_ipi_ppm, timing.lost_packet_ppm) = (0, 0));
        self.checks.fill_kernels();
        self.client.rest();
        if self.missing(world).is_none() {
            self.count_many("simulated milliseconds", world.now().0 / 1_000_000);
            self.audit = Audit::Final;
        }
    }

    /// What is not well, if anything is not.
    fn missing(&self, world: &World) -> Option<String> {
        let area = self.area(world);
        if let Some((letter, goal)) =
            self.goals.iter().find(|(letter, goal)| self.checks.console.counts.get(letter).is_none_or(|n| n < goal))
        {
            return Some(format!("{} has not shown {goal}", *letter as char));
        }
        if self.client.bytes < self.bytes {
            return Some("the client has received nothing more".into());
        }
        if let Some((kernel, step)) = self.aimed.iter().find(|(kernel, step)| world.steps(*kernel) < *step) {
            return Some(format!("{kernel} has not come to its step {step}"));
        }
        for kernel in area.kernels() {
            let up = is_up(world, kernel) && area.incarnation(kernel) == Some(world.life(kernel).incarnation);
            if !up || area.state(kernel) != KernelState::Running {
                return Some(format!("{} is {:?}", world.life(kernel), world.phase(kernel)));
            }
        }
        self.checks.settled(world)
    }

    fn area(&self, world: &World) -> Area {
        Area::new(world.shared(), world.layout())
    }

    fn count(&mut self, what: &'static str) {
        self.count_many(what, 1);
    }

    fn count_many(&mut self, what: &'static str, times: u64) {
        *self.tally.entry(what).or_default() += times;
    }

    fn say(&mut self, world: &World, text: impl FnOnce() -> String) {
        if self.log == Log::Kept {
            self.words.push(format!("{} {}", world.now(), text()));
        }
    }
}

fn is_up(world: &World, kernel: KernelId) -> bool {
    matches!(world.phase(kernel), Phase::Running | Phase::Idle(_))
}

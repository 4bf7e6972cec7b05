//! A machine of kernels that run nothing but their daemons, stepped in a seeded random order.
//!
//! Between any two actions of a kernel anything may happen: another kernel steps, time passes, a kernel dies or its
//! virtual processor stands still.
#[cfg(test)]
mod tests;

use crate::many::Log;
use shimos_abi::{
    control::{DeathCause, Device, KernelState},
    ids::{Incarnation, KernelId, Life, ProgramId},
    time::Nanos,
};
use shimos_ikc::DeathRecord;
use shimos_monitor::{
    Action, Claim, Config, Drained, Election, Freed, Home, KernelView, MonitorDaemon, Refusal, TimerDaemon, View, Work,
};
use shimos_random::Random;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Programs in the world.
pub const PROGRAMS: u16 = 6;

/// What a core does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Core {
    Running,
    /// Spins; non-maskable interrupts are answered.
    Hung,
    /// Spins where no non-maskable interrupt reaches it.
    Deaf,
    /// Has written its death record and parks itself then.
    Dying(Nanos),
    Parked,
    /// The park stub has been told to boot; starts then.
    Told(Nanos),
    /// Is on its way up; runs then, or not at all.
    Booting(Nanos),
}

/// How a kernel may die.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// It writes its death record and parks itself.
    Panic,
    /// It spins.
    Hang,
    /// It spins where nothing but INIT reaches it.
    Deaf,
    /// It fills its words in the shared area with nonsense, and spins.
    Scribble,
}

enum Message {
    Order { work: Work, from: Life, term: u32, at: Nanos },
    Refused { work: Work, from: Life, by: KernelId, why: Refusal },
    Park(Life),
}

pub struct Kernel {
    pub id: KernelId,
    pub core: Core,
    pub life: Life,
    stalled: Nanos,
    nmi: bool,
    init: bool,
    // Words.
    incarnation: Option<Incarnation>,
    state: KernelState,
    stamp: u64,
    stamp_time: Nanos,
    acks: Vec<u64>,
    death: Option<DeathRecord>,
    parked: Option<Incarnation>,
    command: Option<Incarnation>,
    fence: Option<Incarnation>,
    probed: u64,
    claim: Claim,
    // Private.
    timer: TimerDaemon,
    pub monitor: MonitorDaemon,
    actions: VecDeque<Action>,
    /// An action that was permitted, and then the virtual processor stood still.
    in_hand: Option<Action>,
    timer_at: Nanos,
    monitor_at: Nanos,
    inbox: Vec<Message>,
    /// Programs of which this core runs a copy.
    pub living: BTreeSet<ProgramId>,
    fail_boots: u32,
}

pub struct World {
    pub now: Nanos,
    pub random: Random,
    pub config: Config,
    pub heartbeat: Nanos,
    pub election: Election,
    pub homes: Vec<Home>,
    pub owners: [Option<Life>; 3],
    pub kernels: Vec<Kernel>,
    /// How often a target refuses, one in so many; 0 for never.
    pub refusals: u64,
    /// How often a monitor stands still between the check and the action, one in so many; 0 for never.
    pub late: u64,
    /// Programs that kill every kernel they run on.
    pub deadly: BTreeSet<ProgramId>,
    /// Devices that confirm no reset.
    pub stubborn: BTreeSet<usize>,
    /// Kernels that give up what a device may write.
    pub quarantined: BTreeSet<KernelId>,
    /// What happened, for invariants and for reading.
    pub adopted: BTreeMap<(Work, Life), KernelId>,
    pub acted: BTreeMap<u32, KernelId>,
    pub harmful: u64,
    pub lost: u64,
    log: Vec<String>,
    logging: Log,
    /// Acknowledgements that a kernel writes at a time: each is one store.
    pub stores: usize,
    monitor_missing: Nanos,
}

impl World {
    pub fn new(kernels: usize, seed: u64, logging: Log) -> World {
        let config = Config::default();
        let kernel = |k: u16| {
            let life = Life { kernel: KernelId(k), incarnation: Incarnation(1) };
            Kernel {
                id: life.kernel,
                core: Core::Running,
                life,
                stalled: Nanos(0),
                nmi: false,
                init: false,
                incarnation: Some(life.incarnation),
                state: KernelState::Running,
                stamp: 0,
                stamp_time: Nanos(0),
                acks: vec![0; kernels],
                death: None,
                parked: None,
                command: Some(life.incarnation),
                fence: None,
                probed: 0,
                claim: Claim::default(),
                timer: TimerDaemon::new(life, config),
                monitor: MonitorDaemon::new(life, config),
                actions: VecDeque::new(),
                in_hand: None,
                timer_at: Nanos(0),
                monitor_at: Nanos(0),
                inbox: Vec::new(),
                living: BTreeSet::new(),
                fail_boots: 0,
            }
        };
        let mut world = World {
            now: Nanos(0),
            random: Random::new(seed),
            config,
            heartbeat: Nanos::millis(10),
            election: Election { term: 0, monitor: KernelId(0) },
            homes: vec![Home::Free; usize::from(PROGRAMS)],
            owners: [None; 3],
            kernels: (0..kernels as u16).map(kernel).collect(),
            refusals: 5,
            late: 0,
            deadly: BTreeSet::new(),
            stubborn: BTreeSet::new(),
            quarantined: BTreeSet::new(),
            adopted: BTreeMap::new(),
            acted: BTreeMap::new(),
            harmful: 0,
            lost: 0,
            log: Vec::new(),
            logging,
            stores: 1,
            monitor_missing: Nanos(0),
        };
        for program in 1..PROGRAMS {
            let k = world.random.below(kernels as u64) as usize;
            let life = world.kernels[k].life;
            world.homes[usize::from(program)] = Home::committed(life);
            world.kernels[k].living.insert(ProgramId(program));
        }
        world.owners = [Some(world.kernels[0].life); 3];
        world
    }

    /// Lets some time pass and every kernel do one thing, in random order.
    pub fn step(&mut self) {
        self.now = self.now + Nanos::micros(50 + self.random.below(400));
        let n = self.kernels.len();
        let first = self.random.below(n as u64) as usize;
        for place in 0..n {
            let k = if self.random.once_in(2) { (first + place) % n } else { (first + n - place) % n };
            self.step_kernel(k);
        }
        self.check_monitor();
    }

    pub fn run_until(&mut self, end: Nanos, mut each: impl FnMut(&mut World)) {
        while self.now < end {
            self.step();
            each(self);
        }
    }

    /// Everything is as it should be: all kernels run, every program lives exactly where its home word says.
    pub fn whole(&self) -> Result<(), String> {
        for kernel in &self.kernels {
            if kernel.core != Core::Running || self.kernel(kernel.id).state != KernelState::Running {
                return Err(format!("{} is {:?}", kernel.life, kernel.core));
            }
        }
        for program in 1..PROGRAMS {
            let Some(life) = self.homes[usize::from(program)].life() else {
                return Err(format!("p{program} is lost"));
            };
            for kernel in &self.kernels {
                let here = kernel.living.contains(&ProgramId(program));
                if here != (kernel.life == life) {
                    return Err(format!("p{program} has its home at {life}, and at {} it is {here}", kernel.life));
                }
            }
        }
        match self.owners.iter().find(|owner| !self.kernels.iter().any(|kernel| Some(kernel.life) == **owner)) {
            Some(owner) => Err(format!("a device is owned by {owner:?}")),
            None => Ok(()),
        }
    }

    /// Kernels that do useful work.
    pub fn running(&self) -> usize {
        self.kernels.iter().filter(|k| k.core == Core::Running).count()
    }

    pub fn stall(&mut self, k: usize, time: Nanos) {
        // One stall at a time.
        if self.kernels[k].stalled + Nanos::millis(100) <= self.now {
            self.kernels[k].stalled = self.now + time;
        }
    }

    pub fn fail_boots(&mut self, k: usize, boots: u32) {
        self.kernels[k].fail_boots = boots;
    }

    pub fn kill(&mut self, k: usize, death: Death) {
        let now = self.now;
        self.say(|| format!("k{k} dies: {death:?}"));
        let kernel = &mut self.kernels[k];
        kernel.actions.clear();
        kernel.in_hand = None;
        match death {
            Death::Panic => {
                let incarnation = kernel.life.incarnation;
                kernel.death = Some(DeathRecord::new(incarnation, DeathCause::Panic, now, "test"));
                kernel.state = KernelState::Panicked;
                kernel.core = Core::Dying(now + Nanos::micros(self.random.below(8000)));
                // It rings everyone.
                for other in &mut self.kernels {
                    other.timer_at = now;
                    other.monitor_at = now;
                }
            }
            Death::Hang => kernel.core = Core::Hung,
            Death::Deaf => kernel.core = Core::Deaf,
            Death::Scribble => {
                kernel.core = Core::Hung;
                kernel.stamp = self.random.bits();
                kernel.stamp_time = Nanos(self.random.bits());
                kernel.acks.iter_mut().for_each(|ack| *ack = self.random.bits());
                kernel.state = [KernelState::Down, KernelState::Booting, KernelState::Running, KernelState::Panicked]
                    [self.random.below(4) as usize];
                let some = Incarnation(self.random.below(4) as u32);
                kernel.incarnation = self.random.once_in(2).then_some(some);
                kernel.death = Some(DeathRecord::new(some, DeathCause::Hang, Nanos(self.random.bits()), "scribble"));
            }
        }
    }

    fn say(&mut self, text: impl FnOnce() -> String) {
        if self.logging == Log::Kept {
            self.log.push(format!("{} {}", self.now, text()));
        }
    }

    /// There is never long no monitor.
    fn check_monitor(&mut self) {
        let monitor = &self.kernels[self.election.monitor.index()];
        if monitor.core == Core::Running && monitor.stalled <= self.now {
            self.monitor_missing = self.now;
        }
        let missing = self.now - self.monitor_missing;
        assert!(missing < Nanos::secs(4) || self.running() == 0, "no monitor for {missing}: {}", self.tail());
    }

    pub fn tail(&self) -> String {
        self.log[self.log.len().saturating_sub(60)..].join("\n")
    }

    fn step_kernel(&mut self, k: usize) {
        let now = self.now;
        if self.kernels[k].stalled > now {
            return;
        }
        let (init, nmi) = (core::mem::take(&mut self.kernels[k].init), core::mem::take(&mut self.kernels[k].nmi));
        if init {
            assert!(k != 0, "INIT to the boot core resets the machine");
            if !matches!(self.kernels[k].core, Core::Parked | Core::Told(_)) {
                self.park(k);
            }
        } else if nmi {
            let kernel = &mut self.kernels[k];
            match kernel.core {
                Core::Deaf | Core::Parked | Core::Told(_) => {}
                _ if kernel.fence == Some(kernel.life.incarnation) => self.park(k),
                _ => kernel.probed += 1,
            }
        }
        match self.kernels[k].core {
            Core::Running => self.run_kernel(k),
            Core::Dying(at) if now >= at => self.park(k),
            Core::Told(at) if now >= at => {
                let kernel = &mut self.kernels[k];
                kernel.parked = None;
                kernel.life.incarnation = kernel.command.unwrap_or(kernel.life.incarnation);
                let time = Nanos::millis(5 + self.random.below(200));
                self.kernels[k].core = Core::Booting(now + time);
            }
            Core::Booting(at) if now >= at => self.boot(k),
            _ => {}
        }
    }

    fn park(&mut self, k: usize) {
        let kernel = &mut self.kernels[k];
        kernel.core = Core::Parked;
        kernel.parked = Some(kernel.life.incarnation);
        kernel.living.clear();
        kernel.actions.clear();
        kernel.in_hand = None;
        kernel.inbox.clear();
        self.say(|| format!("k{k} is parked"));
    }

    fn boot(&mut self, k: usize) {
        if self.kernels[k].fail_boots > 0 {
            self.kernels[k].fail_boots -= 1;
            return match self.random.below(3) {
                0 => self.kill(k, Death::Panic),
                1 => self.kill(k, Death::Hang),
                _ if k != 0 => self.kill(k, Death::Deaf),
                _ => self.kill(k, Death::Hang),
            };
        }
        let config = self.config;
        let kernel = &mut self.kernels[k];
        kernel.core = Core::Running;
        kernel.incarnation = Some(kernel.life.incarnation);
        kernel.state = KernelState::Running;
        kernel.stamp = 0;
        kernel.acks.iter_mut().for_each(|ack| *ack = 0);
        kernel.timer = TimerDaemon::new(kernel.life, config);
        kernel.monitor = MonitorDaemon::new(kernel.life, config);
        kernel.timer_at = self.now;
        kernel.monitor_at = self.now;
        self.say(|| format!("k{k} has booted"));
    }

    /// One thing that a running kernel does.
    fn run_kernel(&mut self, k: usize) {
        if let Some(action) = self.kernels[k].in_hand.take() {
            return self.perform(k, action);
        }
        for _ in 1..self.stores {
            let actions = &mut self.kernels[k].actions;
            if !matches!(actions.front(), Some(Action::Acknowledge { .. })) {
                break;
            }
            let Some(action) = actions.pop_front() else { break };
            if self.kernels[k].monitor.permits(&action, self) {
                self.perform(k, action);
            }
        }
        if let Some(action) = self.kernels[k].actions.pop_front() {
            let monitor = self.kernels[k].monitor.clone();
            if monitor.permits(&action, self) {
                assert_eq!(self.election.monitor, KernelId(k as u16));
                let actor = *self.acted.entry(self.election.term).or_insert(KernelId(k as u16));
                assert_eq!(actor, KernelId(k as u16), "two monitors in one term");
                if self.late > 0 && !matches!(action, Action::Acknowledge { .. }) && self.random.once_in(self.late) {
                    let time = Nanos::millis(self.random.below(500));
                    self.say(|| format!("k{k} is about to do {action:?}"));
                    self.stall(k, time);
                    self.kernels[k].in_hand = Some(action);
                } else {
                    self.perform(k, action);
                }
            }
            return;
        }
        let now = self.now;
        let ready = self.kernels[k].inbox.iter().position(|m| !matches!(m, Message::Order { at, .. } if *at > now));
        if let Some(place) = ready {
            let message = self.kernels[k].inbox.remove(place);
            return self.take(k, message);
        }
        if now >= self.kernels[k].timer_at {
            let mut timer = self.kernels[k].timer.clone();
            let turn = timer.turn(self, now);
            self.kernels[k].timer = timer;
            self.kernels[k].timer_at = turn.next;
            if let Some(stamp) = turn.stamp {
                self.kernels[k].stamp = stamp;
                self.kernels[k].stamp_time = now;
            }
            self.run_programs(k);
            if let Some(seen) = turn.nominate.filter(|seen| *seen == self.election) {
                self.election = seen.won_by(KernelId(k as u16));
                self.kernels[k].monitor_at = now;
                self.say(|| format!("k{k} is elected in place of {}", seen.monitor));
            }
            return;
        }
        if now >= self.kernels[k].monitor_at {
            let mut monitor = self.kernels[k].monitor.clone();
            let step = monitor.step(self, now);
            self.kernels[k].monitor = monitor;
            self.kernels[k].monitor_at = step.next;
            self.kernels[k].actions.extend(step.actions);
        }
    }

    /// A deadly program kills the kernel before it has committed a checkpoint; the others commit theirs.
    fn run_programs(&mut self, k: usize) {
        if self.running() > 1 && self.kernels[k].living.intersection(&self.deadly).next().is_some() {
            return self.kill(k, Death::Panic);
        }
        let life = self.kernels[k].life;
        for program in self.kernels[k].living.difference(&self.deadly) {
            let home = &mut self.homes[usize::from(program.0)];
            if matches!(home, Home::Protected { life: at, .. } if *at == life) {
                *home = Home::committed(life);
            }
        }
    }

    fn ended(&self, life: Life) -> bool {
        let kernel = &self.kernels[life.kernel.index()];
        kernel.parked.is_some_and(|parked| parked >= life.incarnation)
            || kernel.parked.is_none() && kernel.life.incarnation > life.incarnation
    }

    fn take(&mut self, k: usize, message: Message) {
        let me = self.kernels[k].life;
        match message {
            Message::Park(life) => {
                if life == me {
                    self.park(k);
                }
            }
            Message::Refused { work, from, by, why } => self.kernels[k].monitor.refused(work, from, by, why),
            Message::Order { work, from, term, .. } => {
                if term != self.election.term || !self.ended(from) {
                    return;
                }
                let monitor = self.election.monitor.index();
                if self.refusals > 0 && self.random.once_in(self.refusals) {
                    let why = if self.random.once_in(2) { Refusal::NoRoom } else { Refusal::Busy };
                    self.kernels[monitor].inbox.push(Message::Refused { work, from, by: me.kernel, why });
                    return;
                }
                match work {
                    Work::Device(device) if self.stubborn.contains(&(device as usize)) => {
                        let why = Refusal::Device;
                        self.kernels[monitor].inbox.push(Message::Refused { work, from, by: me.kernel, why });
                    }
                    Work::Device(device) => {
                        if self.owners[device as usize] == Some(from) {
                            self.owners[device as usize] = Some(me);
                        }
                    }
                    Work::Program(program) => {
                        let home = self.homes[usize::from(program.0)];
                        if home.life() != Some(from) {
                            return;
                        }
                        self.homes[usize::from(program.0)] = home.moved_to(me);
                        for other in &self.kernels {
                            assert!(!other.living.contains(&program), "two copies of {program}: {}", self.tail());
                        }
                        let before = self.adopted.insert((work, from), me.kernel);
                        assert_eq!(before, None, "{program} was adopted twice from {from}");
                        self.kernels[k].living.insert(program);
                        self.say(|| format!("{program} of {from} goes on at {me}"));
                    }
                }
            }
        }
    }

    fn perform(&mut self, k: usize, action: Action) {
        if !matches!(action, Action::Acknowledge { .. }) {
            self.say(|| format!("k{k} does {action:?}"));
            self.harmful += 1;
        }
        match action {
            Action::Acknowledge { kernel, stamp } => self.kernels[k].acks[kernel.index()] = stamp,
            Action::Claim { kernel, from, to } => {
                let claim = &mut self.kernels[kernel.index()].claim;
                if *claim == from {
                    *claim = to;
                }
            }
            Action::Probe(kernel) => self.kernels[kernel.index()].nmi = true,
            Action::AskToPark(life) => self.kernels[life.kernel.index()].inbox.push(Message::Park(life)),
            Action::Nmi(life) => {
                let kernel = &mut self.kernels[life.kernel.index()];
                kernel.fence = kernel.fence.max(Some(life.incarnation));
                kernel.nmi = true;
            }
            Action::Init(life) => self.kernels[life.kernel.index()].init = true,
            Action::Order { work, from, target, term } => {
                let at = self.now + Nanos::micros(self.random.below(30_000));
                let target = &mut self.kernels[target.kernel.index()];
                if target.core == Core::Running {
                    target.inbox.push(Message::Order { work, from, term, at });
                }
            }
            Action::FreeHome { program, home, why } => {
                let word = &mut self.homes[usize::from(program.0)];
                if *word == home {
                    *word = Home::Free;
                    self.lost += u64::from(why != Freed::Unsaved);
                }
            }
            Action::Restart(life) => {
                let kernel = &mut self.kernels[life.kernel.index()];
                if kernel.parked == Some(life.incarnation) && kernel.core == Core::Parked {
                    kernel.command = Some(Incarnation(life.incarnation.0 + 1));
                    kernel.core = Core::Told(self.now + Nanos::micros(self.random.below(3000)));
                }
            }
            Action::Quarantine(kernel) => drop(self.quarantined.insert(kernel)),
            Action::Log(text) => self.say(|| text),
        }
    }
}

impl View for World {
    fn kernels(&self) -> usize {
        self.kernels.len()
    }
    fn election(&self) -> Election {
        self.election
    }
    fn heartbeat(&self) -> Nanos {
        self.heartbeat
    }
    fn kernel(&self, kernel: KernelId) -> KernelView {
        let k = &self.kernels[kernel.index()];
        KernelView {
            incarnation: k.incarnation,
            state: k.state,
            stamp: k.stamp,
            stamp_time: k.stamp_time,
            load: k.living.len() as u32,
            free_frames: 1000,
            parked: k.parked,
            command: k.command,
            probed: k.probed,
            claim: k.claim,
            drained: Drained::No,
        }
    }
    fn acknowledged(&self, monitor: KernelId, kernel: KernelId) -> u64 {
        self.kernels[monitor.index()].acks[kernel.index()]
    }
    fn death(&self, kernel: KernelId) -> Option<DeathRecord> {
        self.kernels[kernel.index()].death.clone()
    }
    fn home(&self, program: ProgramId) -> Home {
        self.homes[usize::from(program.0)]
    }
    fn owner(&self, device: Device) -> Option<Life> {
        self.owners[device as usize]
    }
    fn is_quarantined(&self, kernel: KernelId) -> bool {
        self.quarantined.contains(&kernel)
    }
    fn programs(&self, visit: &mut dyn FnMut(ProgramId, Home)) {
        for (program, home) in self.homes.iter().enumerate().filter(|(_, home)| **home != Home::Free) {
            visit(ProgramId(program as u16), *home);
        }
    }
}

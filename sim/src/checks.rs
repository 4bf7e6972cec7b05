//! What must hold after every step, looked at from outside the kernels.
use crate::console::{Console, Memory};
use shimos_abi::{
    control::{Device, Published},
    ids::{KernelId, Life, MAX_PROGRAMS, ProgramId},
    shared::commons,
    time::Nanos,
};
use shimos_ikc::{Area, Drained, Election, Home, Rebooting};
use shimos_monitor::View;
use shimos_soft::{Phase, SharedSnapshot, World};
use std::{collections::BTreeMap, sync::atomic::Ordering};

/// For so long after the console's owner died, lines may be missing or come twice.
const CONSOLE_GAP: Nanos = Nanos::secs(8);
/// How many steps lie between two looks at what is dear to look at.
const SELDOM: u64 = 64;

/// What may be expected of the programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// All that was promised.
    Whole,
    /// Their memory was damaged: they may say what they like.
    Damaged,
}

/// What was seen at the last look.
pub struct Checks {
    area: Area,
    election: Election,
    /// Where programs live, by id.
    homes: Vec<u64>,
    /// Who drives the console, and since when.
    console_owner: (Option<Life>, Nanos),
    /// When a kernel last died on a rough machine.
    disturbed: Option<Nanos>,
    before: Option<SharedSnapshot>,
    looks: u64,
    seldom: u64,
    /// How often a program's home moved from one kernel to another.
    pub takeovers: u64,
    /// How often that was planned.
    pub moves: u64,
    /// What the console has shown.
    pub console: Console,
}

impl Checks {
    /// Starts at a machine that has just been switched on.
    pub fn new(world: &World) -> Checks {
        let area = Area::new(world.shared(), world.layout());
        Checks {
            area,
            election: area.election(),
            homes: vec![0; MAX_PROGRAMS],
            console_owner: (None, Nanos(0)),
            disturbed: None,
            before: None,
            looks: 0,
            seldom: SELDOM,
            takeovers: 0,
            moves: 0,
            console: Console::default(),
        }
    }

    /// Looks at what is dear to look at every so many steps.
    pub fn looking_every(self, steps: u64) -> Checks {
        Checks { seldom: steps, ..self }
    }

    /// A kernel has died on a rough machine: what it had released and a stalled owner of the console had not yet taken is
    /// lost.
    pub fn disturb(&mut self, now: Nanos) {
        self.disturbed = Some(now);
    }

    /// Before a step.
    pub fn before(&mut self, world: &World) {
        self.looks += 1;
        self.before = self.looks.is_multiple_of(self.seldom).then(|| world.snapshot());
    }

    /// After a step of `writer`. Says what is wrong.
    pub fn after(&mut self, world: &World, writer: KernelId, trust: Trust) -> Result<(), String> {
        if let Some(first) = world.violations().first() {
            return Err(first.clone());
        }
        if let Some(before) = self.before.take() {
            world.check_shared_writers(&before, writer)?;
            self.copies(world)?;
        }
        self.elections()?;
        self.home_words(world)?;
        let owner = self.area.owner(Device::Console);
        if owner != self.console_owner.0 {
            self.console_owner = (owner, world.now());
        }
        let disturbed = self.disturbed.is_some_and(|at| world.now() < at + CONSOLE_GAP);
        let lost = disturbed
            || world.now() < self.console_owner.1 + CONSOLE_GAP
                && owner.is_some_and(|life| life.incarnation.0 > 1 || life.kernel.0 > 0);
        self.console.memory = if lost { Memory::Lost } else { Memory::Whole };
        if world.console_len() > self.console.position() {
            let result = self.console.feed(&world.console_since(self.console.position()));
            if trust == Trust::Whole {
                result?;
            }
        }
        Ok(())
    }

    /// Has a kernel emptied, filled again, or given a fresh life; at least two go on taking programs.
    pub fn disturb_kernel(&self, kernel: KernelId, kind: u64) -> &'static str {
        let closed = |kernel: &KernelId| self.area.is_drained(*kernel) || self.area.is_rebooting(*kernel);
        let open = self.area.kernels().filter(|other| other != &kernel && !closed(other)).count();
        if self.area.is_drained(kernel) {
            self.area.set_drained(kernel, Drained::No);
            "is filled again"
        } else if open < 2 || self.area.is_rebooting(kernel) {
            "is left alone"
        } else if kind == 0 {
            self.area.set_rebooting(kernel, Rebooting::Asked);
            "is to have a fresh life"
        } else {
            self.area.set_drained(kernel, Drained::Yes);
            "is emptied"
        }
    }

    /// Lets all kernels take programs again.
    pub fn fill_kernels(&self) {
        self.area.kernels().for_each(|kernel| self.area.set_drained(kernel, Drained::No));
    }

    /// What is not where it should be when nothing is under way: says so of a program without a living home, or of a device
    /// without a living owner.
    pub fn settled(&self, world: &World) -> Option<String> {
        let lives = |life: Life| world.life(life.kernel) == life && !ended(world, life);
        for (program, home) in self.area.programs() {
            if let Some(life) = home.life().filter(|life| !lives(*life)) {
                return Some(format!("{program} has its home on {life}, which has ended"));
            }
        }
        let lost = Device::ALL.into_iter().find(|device| !self.area.owner(*device).is_some_and(lives));
        lost.map(|device| format!("{device:?} is owned by {:?}", self.area.owner(device)))
    }

    /// The program of this name, once some living kernel says that it has it.
    pub fn program(&self, name: &str) -> Option<ProgramId> {
        let published = |kernel| minicbor::decode::<Published>(&self.area.read_published(kernel)?).ok();
        let mut programs = self.area.kernels().filter_map(published).flat_map(|published| published.programs);
        programs.find(|program| program.name == name).map(|program| program.id)
    }

    /// What all kernels publish, for people.
    pub fn published(&self) -> String {
        let mut text = String::new();
        for kernel in self.area.kernels() {
            let published = self.area.read_published(kernel).unwrap_or_default();
            text += &format!("{kernel}: {:#?}\n", minicbor::decode::<Published>(&published));
        }
        for (program, home) in self.area.programs() {
            text += &format!("{program}: {home:?}\n");
        }
        text += &format!("{:?}\n", self.area.election());
        for kernel in self.area.kernels() {
            text += &format!("{kernel}: {:?}\n", View::kernel(&self.area, kernel));
        }
        text
    }

    /// A term has one monitor, and terms only grow.
    fn elections(&mut self) -> Result<(), String> {
        let (old, new) = (self.election, self.area.election());
        self.election = new;
        if new.term < old.term || (new.term == old.term && new.monitor != old.monitor) {
            return Err(format!("election went from {old:?} to {new:?}"));
        }
        Ok(())
    }

    /// A program leaves a life only when that life has ended.
    fn home_words(&mut self, world: &World) -> Result<(), String> {
        let first = commons::HOMES;
        let words = world.shared().get(first..first + MAX_PROGRAMS).unwrap_or_default();
        for (place, (word, seen)) in words.iter().zip(&mut self.homes).enumerate() {
            let now = word.load(Ordering::Relaxed);
            if now == *seen {
                continue;
            }
            let (program, before, home) = (ProgramId(place as u16), Home::from_word(*seen), Home::from_word(now));
            *seen = now;
            let (Some(old), Some(new)) = (before.life(), home.life()) else { continue };
            if old != new {
                self.takeovers += 1;
                // Or it was offered to the very kernel that has it now.
                let offered = matches!(before, Home::Offered { to, .. } if to == new.kernel);
                self.moves += u64::from(offered);
                if !offered && !ended(world, old) {
                    return Err(format!("{program} moved from {old} to {new}, but {old} still runs"));
                }
            }
        }
        Ok(())
    }

    /// No two living kernels say that they have the same program.
    fn copies(&self, world: &World) -> Result<(), String> {
        let mut holders: BTreeMap<ProgramId, KernelId> = BTreeMap::new();
        for kernel in self.area.kernels() {
            if !matches!(world.phase(kernel), Phase::Running | Phase::Idle(_))
                || self.area.incarnation(kernel) != Some(world.life(kernel).incarnation)
                // What it publishes is its predecessor's until it has stamped.
                || self.area.stamp(kernel) < 2
            {
                continue;
            }
            let Some(bytes) = self.area.read_published(kernel) else { continue };
            let Ok(published) = minicbor::decode::<Published>(&bytes) else { continue };
            for program in published.programs {
                if let Some(other) = holders.insert(program.id, kernel) {
                    return Err(format!("{} lives on {other} and on {kernel}", program.id));
                }
            }
        }
        Ok(())
    }
}

/// Whether a life has ended, in truth.
fn ended(world: &World, life: Life) -> bool {
    world.life(life.kernel) != life || matches!(world.phase(life.kernel), Phase::Parked | Phase::Booting(_))
}

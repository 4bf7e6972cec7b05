//! One whole simulated machine.
use crate::{
    config::Config,
    cores::{Core, Phase},
    death::{Crash, Died, End, write_record},
    devices::{Card, Console, Disk},
    frames::Frames,
};
use shimos_abi::{
    addr::{Frame, FrameRange},
    control::DeathCause,
    ids::{Incarnation, KernelId, Life},
    shared::{LAYOUT_VERSION, Layout, MASTER_MAGIC, commons, master, outgoing},
    time::Nanos,
};
use shimos_hal::Events;
use shimos_random::Random;
use std::{
    any::Any,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Frames in front of each pool that stand for the kernel itself.
const KERNEL_FRAMES: u32 = 64;
/// CLOCK_REALTIME at the machine's time 0: 2026-01-01.
pub(crate) const WALL_BASE: u64 = 1_767_225_600_000_000_000;

/// Shared areas of worlds that are gone, for the next ones. An area must live for ever (`&'static`), so it is used again
/// instead of being freed.
static SPARE_AREAS: Mutex<Vec<&'static [AtomicU64]>> = Mutex::new(Vec::new());

fn shared_area(words: usize) -> &'static [AtomicU64] {
    let mut spare = SPARE_AREAS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(place) = spare.iter().position(|area| area.len() == words) {
        let area = spare.swap_remove(place);
        area.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        return area;
    }
    Box::leak((0..words).map(|_| AtomicU64::new(0)).collect())
}

/// What happens next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// This core's kernel has a turn.
    Turn(KernelId),
    /// This core boots the life that [`World::life`] names.
    Boot(KernelId),
    /// The world outside has something to do: a frame came out, or the time it asked for has come.
    Host,
    /// The machine is switched off.
    Off,
    /// Nothing will ever happen again.
    Still,
}

/// A copy of the shared area, to see who wrote what.
pub struct SharedSnapshot(Vec<u64>);

pub(crate) struct Inner {
    pub config: Config,
    pub rng: Random,
    pub now: Nanos,
    pub shared: &'static [AtomicU64],
    pub layout: Layout,
    pub frames: Frames,
    pub cores: Vec<Core>,
    pub console: Console,
    pub disk: Disk,
    pub card: Card,
    pub host_due: Nanos,
    pub host_wanted: bool,
    pub off: bool,
    pub violations: Vec<String>,
    /// The last thing a device does by itself is due then.
    device_due: Nanos,
}

impl Drop for Inner {
    fn drop(&mut self) {
        SPARE_AREAS.lock().unwrap_or_else(PoisonError::into_inner).push(self.shared);
    }
}

/// One whole simulated machine. Clones are handles of the same one.
#[derive(Clone)]
pub struct World(Arc<Mutex<Inner>>);

impl World {
    /// Switches a machine on: its cores are about to boot their first incarnation.
    pub fn new(config: Config) -> World {
        let layout = Layout::new(config.kernels.max(1));
        let shared = shared_area(layout.words());
        let size = KERNEL_FRAMES + config.pool_frames.max(1);
        let mut rng = Random::new(config.seed);
        let mut cores = Vec::new();
        for index in 0..layout.kernels() {
            let first = Frame(1 + index as u32 * size);
            let pool = FrameRange { first: Frame(first.0 + KERNEL_FRAMES), count: size - KERNEL_FRAMES };
            let boot = Nanos(rng.below(if index == 0 { 1_000 } else { 2_000_000 }));
            cores.push(Core::new(KernelId(index as u16), FrameRange { first, count: size }, pool, boot));
            let entry = master::ENTRIES + index * master::ENTRY_WORDS;
            for (word, value) in [
                (master::ENTRY_APIC, apic_id(index)),
                (master::ENTRY_PRIVATE, first.0),
                (master::ENTRY_PRIVATE_FRAMES, size),
                (master::ENTRY_POOL, pool.first.0),
                (master::ENTRY_POOL_FRAMES, pool.count),
                (master::ENTRY_FIRST, 1),
            ] {
                shared[entry + word].store(value.into(), Ordering::Relaxed);
            }
            shared[layout.mailbox(KernelId(index as u16)) + commons::MAILBOX_COMMAND].store(2, Ordering::Relaxed);
        }
        shared[master::STARTS].store(1, Ordering::Relaxed);
        shared[master::KERNELS].store(layout.kernels() as u64, Ordering::Relaxed);
        shared[master::VERSION].store(LAYOUT_VERSION, Ordering::Relaxed);
        shared[master::TSC_HZ].store(1_000_000_000, Ordering::Relaxed);
        shared[master::LAPIC_HZ].store(1_000_000_000, Ordering::Relaxed);
        shared[master::WALL_BASE].store(WALL_BASE, Ordering::Relaxed);
        shared[master::MAGIC].store(MASTER_MAGIC, Ordering::Release);
        let frames = Frames::new((1 + layout.kernels() as u32 * size) as usize, config.fill);
        let disk = Disk { content: config.disk.clone(), ..Disk::default() };
        World(Arc::new(Mutex::new(Inner {
            rng,
            now: Nanos(0),
            shared,
            layout,
            frames,
            cores,
            console: Console::default(),
            disk,
            card: Card::default(),
            host_due: Nanos::NEVER,
            host_wanted: false,
            off: false,
            violations: Vec::new(),
            device_due: Nanos::NEVER,
            config,
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A turn that unwinds never does so in the middle of a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides what happens next, and lets the clock run until it does.
    pub fn advance(&self) -> Next {
        let mut world = self.lock();
        loop {
            if world.off {
                return Next::Off;
            }
            world.devices_act();
            if world.host_wanted || world.host_due <= world.now {
                world.host_wanted = false;
                world.host_due = Nanos::NEVER;
                return Next::Host;
            }
            let now = world.now;
            let ready: Vec<usize> =
                (0..world.cores.len()).filter(|i| world.cores[*i].due().is_some_and(|due| due <= now)).collect();
            if ready.is_empty() {
                let due = world.cores.iter().filter_map(Core::due).min().unwrap_or(Nanos::NEVER);
                let due = due.min(world.host_due).min(world.device_due);
                if due == Nanos::NEVER {
                    return Next::Still;
                }
                world.now = world.now.max(due);
                continue;
            }
            let index = ready[world.rng.below(ready.len() as u64) as usize];
            if world.take_signals(index) {
                continue;
            }
            let (ppm, stall) = (world.config.timing.stall_ppm, world.config.timing.stall);
            if world.rng.ppm(ppm) {
                let time = Nanos(world.rng.below(stall.0));
                world.cores[index].stalled = now + time;
                continue;
            }
            let kernel = KernelId(index as u16);
            match world.cores[index].phase {
                Phase::Booting(_) => {
                    world.start(index);
                    return Next::Boot(kernel);
                }
                Phase::Running => return Next::Turn(kernel),
                Phase::Idle(until) => {
                    if until <= now {
                        world.cores[index].events |= Events::TIMER;
                    }
                    world.cores[index].phase = Phase::Running;
                    return Next::Turn(kernel);
                }
                Phase::Hung | Phase::Deaf | Phase::Parked => {}
            }
        }
    }

    /// What became of a turn that unwound with `payload`. A panic that nobody ordered is recorded as a death by panic.
    pub fn settle(&self, kernel: KernelId, payload: Box<dyn Any + Send>) -> End {
        let payload = match payload.downcast::<Died>() {
            Ok(died) => return died.end,
            Err(other) => other,
        };
        let text = payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| payload.downcast_ref::<&str>().map(|s| s.to_string()))
            .unwrap_or_else(|| "panic".to_string());
        self.lock().crash(kernel.index(), Crash::Panic, &text);
        End::Panicked(text)
    }

    /// The machine's time.
    pub fn now(&self) -> Nanos {
        self.lock().now
    }
    /// How many kernels there are.
    pub fn kernels(&self) -> usize {
        self.lock().cores.len()
    }
    /// The shared area.
    pub fn shared(&self) -> &'static [AtomicU64] {
        self.lock().shared
    }
    /// How it is laid out.
    pub fn layout(&self) -> Layout {
        self.lock().layout
    }
    /// The present or last life of a kernel.
    pub fn life(&self, kernel: KernelId) -> Life {
        self.lock().cores[kernel.index()].life
    }
    /// What a core does now.
    pub fn phase(&self, kernel: KernelId) -> Phase {
        self.lock().cores[kernel.index()].phase
    }
    /// How many calls of the machine a core has made, all its incarnations together.
    pub fn steps(&self, kernel: KernelId) -> u64 {
        self.lock().cores[kernel.index()].steps
    }
    /// Lets a core die in its `step`-th call of the machine, before the call does anything.
    pub fn kill_at(&self, kernel: KernelId, step: u64, crash: Crash) {
        self.lock().cores[kernel.index()].kills.insert(step, crash);
    }
    /// Lets a core stand still for a while after its `step`-th call of the machine.
    pub fn stall_at(&self, kernel: KernelId, step: u64, time: Nanos) {
        self.lock().cores[kernel.index()].stalls.insert(step, time);
    }
    /// Takes back what a core's later steps were to bring.
    pub fn spare(&self, kernel: KernelId) {
        let core = &mut self.lock().cores[kernel.index()];
        core.kills.clear();
        core.stalls.clear();
    }
    /// Lets a core die between two turns. It must not be parked already.
    pub fn kill(&self, kernel: KernelId, crash: Crash) {
        self.lock().crash(kernel.index(), crash, "killed");
    }
    /// Resets the machine: all lives end at once, and the memory stays. `prepare` does what the boot core does with the
    /// shared area, given the time; it orders all cores to boot.
    pub fn reset(&self, prepare: impl FnOnce(&'static [AtomicU64], Layout, Nanos)) {
        let mut world = self.lock();
        world.disk = Disk { content: std::mem::take(&mut world.disk.content), ..Disk::default() };
        world.card.owner = None;
        world.card.arrived.clear();
        world.console.owner = None;
        prepare(world.shared, world.layout, world.now);
        for core in 0..world.cores.len() {
            let order = world.mailbox(core, commons::MAILBOX_COMMAND).load(Ordering::SeqCst);
            let boot = world.now + Nanos(world.rng.below(2_000_000));
            let core = &mut world.cores[core];
            core.clear();
            (core.nmi, core.init, core.stalled) = (false, false, Nanos(0));
            core.next = Incarnation((order as u32).saturating_sub(1));
            core.phase = Phase::Booting(boot);
        }
    }
    /// Takes the processor away from a core for a while.
    pub fn stall(&self, kernel: KernelId, time: Nanos) {
        let mut world = self.lock();
        let end = world.now + time;
        world.cores[kernel.index()].stalled = end;
    }
    /// A life's turn is not over and cannot go on before another's is: it gets no time until [`World::resume`]. Interrupts that
    /// park it still reach it.
    pub fn hold(&self, life: Life) {
        let core = &mut self.lock().cores[life.kernel.index()];
        core.held = core.life == life && matches!(core.phase, Phase::Running | Phase::Idle(_));
    }
    /// Its turn can go on.
    pub fn resume(&self, life: Life) {
        self.lock().cores[life.kernel.index()].held = false;
    }
    /// What was done that must never be done, in words.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }
    /// The content of a frame, for tests.
    pub fn frame(&self, frame: Frame) -> [u8; shimos_abi::addr::PAGE] {
        self.lock().frames.page(frame)
    }
    /// The pool of a kernel.
    pub fn pool(&self, kernel: KernelId) -> FrameRange {
        self.lock().cores[kernel.index()].pool
    }
    /// Flips `bits` random bits in what a kernel has written of its pool, as a failing memory would.
    pub fn flip(&self, kernel: KernelId, bits: u32) {
        let mut world = self.lock();
        let pool = world.cores[kernel.index()].pool;
        let mut left = bits;
        // Few frames were ever written, so most guesses miss.
        for _ in 0..u64::from(bits) * 100_000 {
            if left == 0 {
                break;
            }
            let frame = pool.at(world.rng.below(pool.count.into()) as usize);
            let bit = world.rng.below(8 * shimos_abi::addr::PAGE as u64) as usize;
            left -= u32::from(world.frames.flip(frame, bit));
        }
    }
    /// Changes how the rest of the run goes wrong.
    pub fn set_timing(&self, change: impl FnOnce(&mut crate::Timing)) {
        change(&mut self.lock().config.timing);
    }

    /// A copy of the shared area.
    pub fn snapshot(&self) -> SharedSnapshot {
        SharedSnapshot(self.shared().iter().map(|word| word.load(Ordering::Relaxed)).collect())
    }
    /// Whether since `before` nobody but `writer` wrote to outgoing parts, and nobody wrote the master table. Says what
    /// is wrong. To be called around one turn of `writer`.
    pub fn check_shared_writers(&self, before: &SharedSnapshot, writer: KernelId) -> Result<(), String> {
        let (shared, layout) = (self.shared(), self.layout());
        let own = layout.outgoing(writer)..layout.outgoing(KernelId(writer.0 + 1));
        let commons = commons::START..commons::START + commons::WORDS;
        for (index, (word, old)) in shared.iter().zip(&before.0).enumerate() {
            let new = word.load(Ordering::Relaxed);
            if new != *old && !own.contains(&index) && !commons.contains(&index) {
                return Err(format!("{writer} changed shared word {index:#x} from {old:#x} to {new:#x}"));
            }
        }
        Ok(())
    }
}

impl Inner {
    /// A word of a core's mailbox.
    pub fn mailbox(&self, core: usize, word: usize) -> &'static AtomicU64 {
        &self.shared[self.layout.mailbox(KernelId(core as u16)) + word]
    }
    /// Notes what must never happen, once each.
    pub fn violation(&mut self, text: String) {
        if !self.violations.contains(&text) {
            self.violations.push(text);
        }
    }
    /// Whether a core's present step is one after which it stands still; if so, it does from now on.
    pub fn stalls_now(&mut self, core: usize) -> bool {
        let core = &mut self.cores[core];
        let Some(time) = core.stalls.remove(&core.steps) else { return false };
        core.stalled = self.now + time;
        true
    }
    /// Whether `frame` belongs to the pool of `core`.
    pub fn owns(&self, core: usize, frame: Frame) -> bool {
        self.cores[core].pool.contains(frame)
    }
    /// Whether `core` may read `frame`.
    pub fn readable(&self, core: usize, frame: Frame) -> bool {
        self.owns(core, frame)
            || self.cores[core].mapped.iter().any(|peer| self.cores[peer.index()].pool.contains(frame))
    }
    /// Interrupts a core.
    pub fn ring(&mut self, core: usize, event: Events) {
        if event == Events::IKC && self.rng.ppm(self.config.timing.lost_ipi_ppm) {
            return;
        }
        if matches!(self.cores[core].phase, Phase::Running | Phase::Idle(_)) {
            self.cores[core].events |= event;
        }
    }
    /// Something of a device is due at `at`.
    pub fn device_at(&mut self, at: Nanos) {
        self.device_due = self.device_due.min(at);
    }
    /// Lets the devices do what is due.
    pub fn devices_act(&mut self) {
        if self.device_due > self.now {
            return;
        }
        let now = self.now;
        if self.disk.finish(now, &mut self.frames) {
            self.ring_owner(self.disk.owner, Events::BLOCK);
        }
        if self.card.arrive(now) {
            self.ring_owner(self.card.owner, Events::NETWORK);
        }
        let card = self.card.coming.front().map(|(due, _)| *due);
        self.device_due = self.disk.due().unwrap_or(Nanos::NEVER).min(card.unwrap_or(Nanos::NEVER));
    }
    /// Interrupts a device's owner, if it still lives.
    pub fn ring_owner(&mut self, owner: Option<Life>, event: Events) {
        if let Some(owner) = owner
            && self.cores[owner.kernel.index()].life == owner
        {
            self.ring(owner.kernel.index(), event);
        }
    }
    /// A core gets its NMI or INIT; true if there was one.
    fn take_signals(&mut self, core: usize) -> bool {
        let (nmi, init) = (self.cores[core].nmi, self.cores[core].init);
        if !nmi && !init {
            return false;
        }
        let mark = u64::from(self.cores[core].life.incarnation.0) + 1;
        if init {
            self.cores[core].init = false;
            self.cores[core].nmi = false;
            self.park(core);
        } else {
            self.cores[core].nmi = false;
            if self.cores[core].phase == Phase::Deaf {
                return true;
            }
            if self.mailbox(core, commons::MAILBOX_FENCE).load(Ordering::SeqCst) == mark {
                self.park(core);
            } else {
                self.mailbox(core, commons::MAILBOX_PROBE_RIP).store(0x1000, Ordering::SeqCst);
                self.mailbox(core, commons::MAILBOX_PROBED).fetch_add(1, Ordering::SeqCst);
            }
        }
        true
    }
    /// The core leaves the park page for its next incarnation.
    fn start(&mut self, core: usize) {
        let next = self.cores[core].next;
        self.cores[core].life.incarnation = next;
        self.cores[core].clear();
        self.cores[core].nmi = false;
        self.cores[core].init = false;
        self.cores[core].phase = Phase::Running;
        self.mailbox(core, commons::MAILBOX_PARKED).store(0, Ordering::SeqCst);
        self.mailbox(core, commons::MAILBOX_RUNNING).store(u64::from(next.0) + 1, Ordering::SeqCst);
    }
    /// The core goes to the park page.
    pub fn park(&mut self, core: usize) {
        let mark = u64::from(self.cores[core].life.incarnation.0) + 1;
        self.cores[core].clear();
        self.cores[core].phase = Phase::Parked;
        self.mailbox(core, commons::MAILBOX_PARKED).store(mark, Ordering::SeqCst);
    }
    /// The kernel of a core dies.
    pub fn crash(&mut self, core: usize, crash: Crash, message: &str) {
        if matches!(self.cores[core].phase, Phase::Parked | Phase::Booting(_)) {
            return;
        }
        let life = self.cores[core].life;
        self.cores[core].clear();
        match crash {
            Crash::Panic | Crash::Exception => {
                let cause = if crash == Crash::Panic { DeathCause::Panic } else { DeathCause::Exception };
                write_record(self.shared, self.layout, life, self.now, cause, message);
                for peer in (0..self.cores.len()).filter(|peer| *peer != core) {
                    self.ring(peer, Events::IKC);
                }
                self.park(core);
            }
            Crash::Scribble => {
                self.scribble(life.kernel);
                self.cores[core].phase = Phase::Hung;
            }
            Crash::Hang => self.cores[core].phase = Phase::Hung,
            Crash::Deaf => self.cores[core].phase = Phase::Deaf,
        }
    }
    /// Nonsense takes the place of some words of a kernel's outgoing part, but for packets.
    fn scribble(&mut self, kernel: KernelId) {
        let part = self.layout.outgoing(kernel);
        let words = outgoing::packets(self.layout.kernels());
        for word in self.shared.get(part..part + words).unwrap_or_default() {
            match self.rng.below(4) {
                0 => word.store(self.rng.bits(), Ordering::SeqCst),
                // Small numbers make more sense, and so may do more harm.
                1 => word.store(self.rng.below(300), Ordering::SeqCst),
                _ => {}
            }
        }
    }
    /// Random time from a range of nanoseconds.
    pub fn time(&mut self, range: (u64, u64)) -> Nanos {
        Nanos(self.rng.between(range.0, range.1))
    }
}

/// The APIC id of a core: not the core's number, so that nobody mixes them up.
pub(crate) const fn apic_id(core: usize) -> u32 {
    core as u32 * 2
}

//! One core of the simulated machine, as its kernel sees it.
use crate::{
    access::{Tables, book, claim, count_foreign, lent, owner, read, write},
    cores::Phase,
    death::{Crash, Died, End, Step, fault},
    devices::CARD_QUEUE,
    processor::{self, Vectors},
    space::SoftSpace,
    threads::unwind,
    world::{Inner, WALL_BASE, World, apic_id},
};
use shimos_abi::{
    addr::{Frame, PAGE, UserPage},
    control::{Device, Fault},
    ids::{Incarnation, KernelId, Life, MAX_KERNELS},
    shared::{Layout, commons},
    time::Nanos,
};
use shimos_hal::{
    Events, Fenced, Fpu, FrameSource, Identity, Machine, Mapping, OutOfFrames, Regs, Rights, Trap, machine::DeviceError,
};
use std::{
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
};

/// Gives the processor of the host to other cores, for a core whose turn is not over.
pub trait Scheduler {
    /// The core loses the processor in the middle of a turn. Returns when it has it again; false if its kernel is gone.
    fn preempt(&self) -> bool;
    /// The core has gone to sleep. The same, or returns at once if the caller of the turn waits for it to wake.
    fn sleep(&self) -> bool;
}

/// One core of a [`World`] in one of its lives.
pub struct SoftMachine {
    world: World,
    core: usize,
    identity: Identity,
    scheduler: Option<Rc<dyn Scheduler>>,
    vectors: Vectors,
}

impl SoftMachine {
    /// The machine for the present life of `kernel`, to be called at [`crate::Next::Boot`].
    pub fn new(world: &World, kernel: KernelId) -> SoftMachine {
        SoftMachine::build(world, kernel, None)
    }
    /// The same, for one that may lose the processor in the middle of a turn.
    pub fn scheduled(world: &World, kernel: KernelId, scheduler: Rc<dyn Scheduler>) -> SoftMachine {
        SoftMachine::build(world, kernel, Some(scheduler))
    }
    fn build(world: &World, kernel: KernelId, scheduler: Option<Rc<dyn Scheduler>>) -> SoftMachine {
        let inner = world.lock();
        let core = &inner.cores[kernel.index()];
        let mut apic_ids = [0; MAX_KERNELS];
        for (index, id) in apic_ids.iter_mut().enumerate().take(inner.cores.len()) {
            *id = apic_id(index);
        }
        let identity = Identity {
            life: core.life,
            kernels: inner.cores.len(),
            pool: core.pool,
            memory: u64::from(core.private.count) * PAGE as u64,
            apic_ids,
        };
        drop(inner);
        SoftMachine { world: world.clone(), core: kernel.index(), identity, scheduler, vectors: Vectors::default() }
    }
    /// The world that the core is part of.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// One step of this core: time passes, the step may be one to die in, and `work` is done.
    fn step<T>(&self, work: impl FnOnce(&mut Inner, usize) -> Step<T>) -> T {
        let mut inner = self.world.lock();
        let result = self.count(&mut inner).and_then(|()| work(&mut inner, self.core));
        match result {
            Ok(value) => {
                let ppm = inner.config.timing.preempt_ppm;
                let stalled = inner.stalls_now(self.core);
                let preempted = self.scheduler.is_some() && (stalled || inner.rng.ppm(ppm));
                drop(inner);
                if preempted {
                    self.give_way(|scheduler| scheduler.preempt());
                }
                value
            }
            Err(end) => {
                match &end {
                    End::Crashed(crash) => inner.crash(self.core, *crash, "injected"),
                    End::Fault(text) => {
                        let text = format!("{}: {text}", self.identity.life);
                        inner.crash(self.core, Crash::Exception, &text);
                        inner.violation(text);
                    }
                    End::Parked => inner.park(self.core),
                    End::PowerOff => inner.off = true,
                    End::Panicked(_) | End::Stopped => {}
                }
                drop(inner);
                unwind(Died { life: self.identity.life, end })
            }
        }
    }
    fn count(&self, inner: &mut Inner) -> Step<()> {
        // While a death unwinds the kernel, nothing may die again.
        if std::thread::panicking() {
            return Ok(());
        }
        if inner.off || inner.cores[self.core].life != self.identity.life {
            return Err(End::Stopped);
        }
        let core = &mut inner.cores[self.core];
        core.steps += 1;
        let step = core.steps;
        if let Some(crash) = core.kills.remove(&step) {
            return Err(End::Crashed(crash));
        }
        let time = inner.time(inner.config.timing.call);
        inner.now = inner.now + time;
        inner.devices_act();
        Ok(())
    }
    fn give_way(&self, how: impl FnOnce(&dyn Scheduler) -> bool) {
        if let Some(scheduler) = &self.scheduler
            && !how(scheduler.as_ref())
        {
            unwind(Died { life: self.identity.life, end: End::Stopped });
        }
    }
    fn owns_device(&self, inner: &Inner, device: Device) -> Step<()> {
        if owner(inner, device) == Some(self.identity.life) {
            return Ok(());
        }
        fault(format!("used {device:?} without owning it"))
    }
}

impl Machine for SoftMachine {
    type Space = SoftSpace;

    fn identity(&self) -> &Identity {
        &self.identity
    }
    fn now(&self) -> Nanos {
        self.step(|inner, _| Ok(inner.now))
    }
    fn wall_clock(&self) -> u64 {
        self.step(|inner, _| Ok(WALL_BASE + inner.now.0))
    }
    fn random(&mut self) -> u64 {
        self.step(|inner, _| Ok(inner.rng.bits()))
    }
    fn shared(&self) -> &'static [AtomicU64] {
        self.step(|inner, _| Ok(inner.shared))
    }
    fn layout(&self) -> Layout {
        Layout::new(self.identity.kernels)
    }
    fn notify(&self, peer: KernelId) {
        self.step(|inner, _| {
            if peer.index() < inner.cores.len() {
                inner.ring(peer.index(), Events::IKC);
            }
            Ok(())
        });
    }

    fn read_frame(&self, frame: Frame, offset: usize, into: &mut [u8]) {
        self.step(|inner, core| read(inner, core, frame, offset, into));
    }
    fn write_frame(&mut self, frame: Frame, offset: usize, from: &[u8]) {
        self.step(|inner, core| write(inner, core, frame, offset, from));
    }
    fn copy_frame(&mut self, from: Frame, to: Frame) {
        self.step(|inner, core| {
            let mut page = [0; PAGE];
            read(inner, core, from, 0, &mut page)?;
            write(inner, core, to, 0, &page)
        });
    }
    fn zero_frame(&mut self, frame: Frame) {
        self.step(|inner, core| write(inner, core, frame, 0, &[0; PAGE]));
    }
    fn read_word(&self, frame: Frame, index: usize) -> u64 {
        self.step(|inner, core| {
            let mut word = [0; 8];
            read(inner, core, frame, index.saturating_mul(8), &mut word)?;
            Ok(u64::from_le_bytes(word))
        })
    }
    fn read_words<const N: usize>(&self, frame: Frame, index: usize) -> [u64; N] {
        self.step(|inner, core| {
            let mut words = [0; N];
            for (at, word) in words.iter_mut().enumerate() {
                let mut bytes = [0; 8];
                read(inner, core, frame, index.saturating_add(at).saturating_mul(8), &mut bytes)?;
                *word = u64::from_le_bytes(bytes);
            }
            Ok(words)
        })
    }
    fn write_word(&mut self, frame: Frame, index: usize, value: u64) {
        self.step(|inner, core| write(inner, core, frame, index.saturating_mul(8), &value.to_le_bytes()));
    }
    fn readable(&self, frame: Frame) -> bool {
        self.step(|inner, core| Ok(inner.readable(core, frame)))
    }

    fn new_space(&mut self, frames: &mut dyn FrameSource) -> Result<SoftSpace, OutOfFrames> {
        let mut tables = Tables { frames, taken: Vec::new() };
        let space = SoftSpace::new(&mut tables)?;
        self.step(|inner, core| book(inner, core, &tables.taken));
        Ok(space)
    }
    fn drop_space(&mut self, space: SoftSpace, frames: &mut dyn FrameSource) {
        self.step(|inner, core| {
            for frame in &space.tables {
                inner.cores[core].tables.remove(frame);
            }
            for mapping in space.pages.borrow().values() {
                count_foreign(inner, core, mapping.frame, -1);
            }
            Ok(())
        });
        space.tables.into_iter().for_each(|frame| frames.give(frame));
    }
    fn map(
        &mut self,
        space: &mut SoftSpace,
        page: UserPage,
        frame: Frame,
        rights: Rights,
        frames: &mut dyn FrameSource,
    ) -> Result<(), OutOfFrames> {
        let mut tables = Tables { frames, taken: Vec::new() };
        let reached = space.reach(page, &mut tables);
        self.step(|inner, core| {
            book(inner, core, &tables.taken)?;
            if reached.is_err() {
                return Ok(());
            }
            if page.addr().page() != Some(page) {
                return fault(format!("mapped {page:?}, which is no user page"));
            }
            if !inner.readable(core, frame) || inner.cores[core].tables.contains(&frame) {
                return fault(format!("mapped {frame:?}, which is not its own"));
            }
            if rights.contains(Rights::WRITE) {
                if !inner.owns(core, frame) {
                    return fault(format!("mapped {frame:?} of a peer for writing"));
                }
                lent(inner, core, frame)?;
            }
            let old = space.pages.borrow_mut().insert(page, Mapping { frame, rights, dirty: false });
            if let Some(old) = old {
                count_foreign(inner, core, old.frame, -1);
            }
            count_foreign(inner, core, frame, 1);
            Ok(())
        });
        reached
    }
    fn unmap(&mut self, space: &mut SoftSpace, page: UserPage) -> Option<Mapping> {
        self.step(|inner, core| {
            let old = space.pages.borrow_mut().remove(&page);
            if let Some(old) = old {
                count_foreign(inner, core, old.frame, -1);
            }
            Ok(old)
        })
    }
    fn lookup(&self, space: &SoftSpace, page: UserPage) -> Option<Mapping> {
        self.step(|_, _| Ok(space.pages.borrow().get(&page).copied()))
    }
    fn update(
        &mut self,
        space: &mut SoftSpace,
        first: UserPage,
        end: UserPage,
        visit: &mut dyn FnMut(UserPage, Mapping) -> Option<Rights>,
    ) {
        if first >= end {
            return;
        }
        let found: Vec<(UserPage, Mapping)> =
            space.pages.borrow().range(first..end).map(|(page, mapping)| (*page, *mapping)).collect();
        for (page, mapping) in found {
            let rights = visit(page, mapping);
            self.step(|inner, core| {
                let mut pages = space.pages.borrow_mut();
                match rights {
                    Some(rights) => {
                        if rights.contains(Rights::WRITE) && !inner.owns(core, mapping.frame) {
                            return fault(format!("mapped {:?} of a peer for writing", mapping.frame));
                        }
                        if let Some(entry) = pages.get_mut(&page) {
                            // Write protection is what clears the bit; see `Mapping::dirty`.
                            let dirty = entry.dirty && rights.contains(Rights::WRITE);
                            *entry = Mapping { rights, dirty, ..*entry };
                        }
                    }
                    None => {
                        pages.remove(&page);
                        count_foreign(inner, core, mapping.frame, -1);
                    }
                }
                Ok(())
            });
        }
    }

    fn run(&mut self, space: &SoftSpace, regs: &mut Regs, fpu: &mut Fpu, until: Nanos) -> Trap {
        let mut vectors = std::mem::take(&mut self.vectors);
        vectors.load(fpu);
        let trap = self.step(|inner, core| processor::run(inner, core, space, regs, &mut vectors, until));
        self.vectors = vectors;
        trap
    }
    fn save_live(&mut self, _: &mut Regs, fpu: &mut Fpu) {
        self.step(|_, _| Ok(()));
        self.vectors.save(fpu);
    }
    fn forget_live(&mut self) {
        self.step(|_, _| Ok(()));
        self.vectors = Vectors::default();
    }
    fn idle(&mut self, until: Nanos) {
        let sleeps = self.step(|inner, core| {
            if until <= inner.now {
                inner.cores[core].events |= Events::TIMER;
            }
            let sleeps = inner.cores[core].events.is_empty();
            if sleeps {
                inner.cores[core].phase = Phase::Idle(until);
            }
            Ok(sleeps)
        });
        if sleeps {
            self.give_way(|scheduler| scheduler.sleep());
        }
    }
    fn take_events(&mut self) -> Events {
        self.step(|inner, core| Ok(std::mem::take(&mut inner.cores[core].events)))
    }

    fn claim(&mut self, device: Device) -> Result<(), DeviceError> {
        self.step(|inner, core| claim(inner, core, device))
    }
    fn release(&mut self, device: Device) {
        self.step(|inner, _| {
            self.owns_device(inner, device)?;
            match device {
                Device::Console => inner.console.owner = None,
                Device::Block if !inner.disk.requests.is_empty() => {
                    return fault("gave the disk up while it reads".to_string());
                }
                Device::Block => inner.disk.owner = None,
                Device::Network => inner.card.owner = None,
            }
            Ok(())
        });
    }
    fn console_write(&mut self, bytes: &[u8]) -> usize {
        self.step(|inner, _| {
            self.owns_device(inner, Device::Console)?;
            // As a real one, it sometimes takes less than it is given.
            let most = bytes.len().min(64);
            let taken = if inner.rng.below(4) == 0 { inner.rng.below(most as u64 + 1) as usize } else { most };
            inner.console.output.extend(bytes.iter().take(taken));
            Ok(taken)
        })
    }
    fn console_read(&mut self, into: &mut [u8]) -> usize {
        self.step(|inner, _| {
            self.owns_device(inner, Device::Console)?;
            let mut taken = 0;
            for place in into.iter_mut() {
                let Some(byte) = inner.console.input.pop_front() else {
                    break;
                };
                *place = byte;
                taken += 1;
            }
            Ok(taken)
        })
    }
    fn block_count(&self) -> u64 {
        self.step(|inner, _| {
            self.owns_device(inner, Device::Block)?;
            Ok(inner.disk.blocks())
        })
    }
    fn block_read(&mut self, tag: u64, block: u64, frame: Frame) -> Result<(), DeviceError> {
        self.step(|inner, core| {
            self.owns_device(inner, Device::Block)?;
            if !inner.owns(core, frame) {
                return fault(format!("disk read into {frame:?}, which is not its own"));
            }
            let due = inner.now + inner.time(inner.config.timing.disk);
            let result = inner.disk.read(tag, block, frame, due);
            inner.device_at(due);
            Ok(result)
        })
    }
    fn block_done(&mut self) -> Option<(u64, Result<(), DeviceError>)> {
        self.step(|inner, _| {
            self.owns_device(inner, Device::Block)?;
            Ok(inner.disk.done.pop_front())
        })
    }
    fn net_send(&mut self, packet: &[u8]) -> Result<(), DeviceError> {
        self.step(|inner, _| {
            self.owns_device(inner, Device::Network)?;
            if inner.card.sent.len() >= CARD_QUEUE {
                return Ok(Err(DeviceError::Busy));
            }
            let ppm = inner.config.timing.lost_packet_ppm;
            if !inner.rng.ppm(ppm) {
                inner.card.sent.push_back(packet.to_vec());
                inner.host_wanted = true;
            }
            Ok(Ok(()))
        })
    }
    fn net_receive(&mut self, into: &mut [u8]) -> Option<usize> {
        self.step(|inner, _| {
            self.owns_device(inner, Device::Network)?;
            let Some(packet) = inner.card.arrived.pop_front() else {
                return Ok(None);
            };
            let length = packet.len().min(into.len());
            into[..length].copy_from_slice(&packet[..length]);
            Ok(Some(length))
        })
    }

    fn send_nmi(&mut self, peer: KernelId) {
        self.step(|inner, _| {
            if let Some(core) = inner.cores.get_mut(peer.index())
                && core.phase != Phase::Parked
                && !matches!(core.phase, Phase::Booting(_))
            {
                core.nmi = true;
            }
            Ok(())
        });
    }
    fn send_init(&mut self, peer: KernelId) -> bool {
        self.step(|inner, core| {
            if peer == KernelId(0) || peer.index() == core {
                return Ok(false);
            }
            let Some(core) = inner.cores.get_mut(peer.index()) else {
                return Ok(false);
            };
            if core.phase != Phase::Parked && !matches!(core.phase, Phase::Booting(_)) {
                core.init = true;
            }
            Ok(true)
        })
    }
    fn confirm_parked(&self, life: Life) -> Option<Fenced> {
        self.step(|inner, _| {
            let Some(core) = inner.cores.get(life.kernel.index()) else {
                return Ok(None);
            };
            let mark = u64::from(life.incarnation.0) + 1;
            if inner.mailbox(life.kernel.index(), commons::MAILBOX_PARKED).load(Ordering::SeqCst) != mark {
                return Ok(None);
            }
            // One that was to boot when the machine was reset has ended without having begun.
            let has_ended = match core.phase {
                Phase::Parked => core.life == life,
                Phase::Booting(_) => core.next > life.incarnation,
                _ => false,
            };
            if !has_ended {
                return fault(format!("the mailbox says that {life} is parked, and it is not"));
            }
            Ok(Some(Fenced::acknowledged(life)))
        })
    }
    fn map_dead(&mut self, dead: &Fenced) {
        self.step(|inner, core| {
            let peer = dead.life().kernel;
            if peer.index() < inner.cores.len() && peer.index() != core {
                inner.cores[core].mapped.insert(peer);
            }
            Ok(())
        });
    }
    fn map_lent(&mut self, owner: KernelId) {
        self.step(|inner, core| {
            if owner.index() < inner.cores.len() && owner.index() != core {
                inner.cores[core].mapped.insert(owner);
            }
            Ok(())
        });
    }
    fn unmap_peer(&mut self, peer: KernelId) {
        self.step(|inner, core| {
            if let Some(pool) = inner.cores.get(peer.index()).map(|other| other.pool)
                && let Some(frame) = inner.cores[core].foreign.keys().find(|frame| pool.contains(**frame))
            {
                return fault(format!("unmapped {peer} while a program still maps its {frame:?}"));
            }
            inner.cores[core].mapped.remove(&peer);
            Ok(())
        });
    }
    fn restart(&mut self, dead: Fenced) -> Life {
        self.step(|inner, _| {
            let life = dead.life();
            let next = Life { kernel: life.kernel, incarnation: Incarnation(life.incarnation.0 + 1) };
            let index = life.kernel.index();
            // Of two who restart the same life, the second changes nothing.
            if inner.cores[index].life == life && inner.cores[index].phase == Phase::Parked {
                let boot = inner.now + inner.time(inner.config.timing.boot);
                inner.cores[index].next = next.incarnation;
                inner.cores[index].phase = Phase::Booting(boot);
                let mark = u64::from(next.incarnation.0) + 1;
                inner.mailbox(index, commons::MAILBOX_COMMAND).store(mark, Ordering::SeqCst);
            }
            Ok(next)
        })
    }
    fn park(&mut self) -> ! {
        self.step::<()>(|_, _| Err(End::Parked));
        unwind(Died { life: self.identity.life, end: End::Parked })
    }
    fn inject(&mut self, fault: Fault, _: u64) {
        self.step::<()>(|_, _| Err(End::Crashed(fault.into())));
    }
    fn power_off(&mut self) -> ! {
        self.step::<()>(|_, _| Err(End::PowerOff));
        unwind(Died { life: self.identity.life, end: End::PowerOff })
    }
}

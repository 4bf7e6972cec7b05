//! One kernel: what it is made of, and how it boots.
mod loans;
mod programs;
mod turn;

use crate::{
    accusations::Accusations,
    control_daemon::Keeper,
    create::Starting,
    device::{claim::claim, disk::Arriving},
    drain::Emptying,
    join::Joining,
    moves::Moves,
    orders::Orders,
    past::Past,
    reset,
    resident::Resident,
    services::Services,
    transfer::Transfers,
};
use alloc::{
    collections::{BTreeMap, VecDeque},
    format,
    vec::Vec,
};
use shimos_abi::{
    control::{Device, Fault, GivenUp, KernelState, Start, Takeover},
    ids::{KernelId, Life, ProgramId},
    time::Nanos,
};
use shimos_checkpoint::{Slots, Teardown};
use shimos_hal::Machine;
use shimos_ikc::{Drained, Endpoint, Home, Rebooting};
use shimos_memory::Frames;
use shimos_monitor::{Config, MonitorDaemon, TimerDaemon};

/// How often a kernel asks for frames that it has lent.
const LOANS_GAP: Nanos = Nanos::secs(1);

/// How a kernel is to start.
#[derive(Clone, Debug)]
pub struct BootConfig {
    /// The daemons' interval; the first kernel sets it for all.
    pub heartbeat: Nanos,
    /// The control daemon: the first kernel starts it when the machine comes up, the monitor's when it is gone.
    pub init: Option<Start>,
}

/// An order to die.
pub(crate) struct Dying {
    pub fault: Fault,
    /// What a fault that hits at random goes by.
    pub seed: u64,
    /// When: the answer to the request leaves first.
    pub at: Nanos,
    /// The program here that has ordered it, if it is not the one through which the host asks.
    pub by: Option<ProgramId>,
}

/// A kernel.
pub struct Kernel<M: Machine> {
    pub(crate) services: Services<M>,
    pub(crate) residents: BTreeMap<ProgramId, Resident<M>>,
    pub(crate) starting: Vec<Starting>,
    pub(crate) joining: Vec<Joining>,
    pub(crate) slots: Slots,
    pub(crate) teardowns: Vec<Teardown>,
    pub(crate) timer: TimerDaemon,
    pub(crate) monitor: MonitorDaemon,
    pub(crate) takeovers: VecDeque<Takeover>,
    /// Programs that were taken over and have not run here yet.
    pub(crate) newcomers: VecDeque<ProgramId>,
    pub(crate) orders: Orders,
    pub(crate) given_up: VecDeque<GivenUp>,
    pub(crate) moves: Moves<M>,
    pub(crate) emptying: Emptying,
    pub(crate) transfers: Transfers,
    pub(crate) accusations: Accusations,
    pub(crate) past: Past,
    /// The request that is being answered.
    pub(crate) serving: Option<u64>,
    pub(crate) me: Life,
    arriving: Arriving,
    disk_owner: Option<Life>,
    /// When to ask the disk's owner again for what has not come.
    disk_due: Nanos,
    pub(crate) published: Nanos,
    timer_due: Nanos,
    loans_due: Nanos,
    background_due: Nanos,
    monitor_due: Nanos,
    scrub_due: Nanos,
    /// The program whose thread ran last: the others come first now.
    last_run: ProgramId,
    pub(crate) keeper: Keeper,
    pub(crate) image_refused: bool,
    /// A fault to die of.
    pub(crate) dying: Option<Dying>,
}

impl<M: Machine> Kernel<M> {
    /// Starts a kernel: takes its memory, its queues and, on the machine's first boot, the devices.
    pub fn boot(mut machine: M, config: BootConfig) -> Kernel<M> {
        let identity = machine.identity().clone();
        let me = identity.life;
        let mut ikc = Endpoint::new(machine.shared(), machine.layout(), me);
        ikc.set_state(KernelState::Booting);
        let area = ikc.area();
        let past = Past::of(area, me.kernel);
        let mut frames = Frames::new(identity.pool);
        frames.set_reserve(crate::pressure::reserve(frames.total()));
        let mut given_up = 0_usize;
        if area.is_quarantined(me.kernel) {
            machine.quarantine(&mut |frame| {
                frames.reserve(frame);
                given_up += 1;
            });
        }
        // Images are kept while their program lives somewhere: it may still use their frames, or need them.
        let keep = |program| area.home(program) != Home::Free;
        let (slots, retained) = Slots::start(&mut machine, &mut frames, me, keep);
        let mut services = Services::new(machine, frames, ikc);
        let begins = area.owner(Device::Console).is_none() || area.first_incarnation(me.kernel) == me.incarnation;
        let first = me.kernel == KernelId(0) && begins;
        if first {
            if area.heartbeat() == Nanos(0) {
                area.set_heartbeat(config.heartbeat);
            }
            for device in Device::ALL {
                claim(&mut services, device, area.owner(device));
            }
        }
        if area.is_rebooting(me.kernel) {
            // This is the fresh life that was asked for. Programs may come again.
            area.set_drained(me.kernel, Drained::No);
            area.set_rebooting(me.kernel, Rebooting::Done);
        }
        services.ikc.set_state(KernelState::Running);
        services.log(&format!(
            "kernel {} on core {}, APIC id {}, incarnation {}, {} MiB, {}",
            me.kernel,
            me.kernel.0,
            identity.apic_ids.get(me.kernel.index()).copied().unwrap_or_default(),
            me.incarnation.0,
            identity.memory >> 20,
            crate::BUILD,
        ));
        if area.is_quarantined(me.kernel) {
            services.log(&format!("a device may still write here: drives none, and gives {given_up} frames up"));
        }
        if !retained.images.is_empty() || !retained.damages.is_empty() {
            services.log(&format!("kept {} images, {} damages", retained.images.len(), retained.damages.len()));
        }
        if first {
            reset::begin(&mut services);
        }
        // After a reset the first program goes on, if it was protected.
        let begins = first && area.home(ProgramId::DAEMON) == Home::Free;
        let daemons = Config::default();
        let now = services.machine.now();
        let loans_due = now + LOANS_GAP;
        let keeper = if begins { Keeper::of_first(config.init) } else { Keeper::of_other(config.init, now) };
        Kernel {
            services,
            residents: BTreeMap::new(),
            starting: Vec::new(),
            joining: Vec::new(),
            slots,
            teardowns: Vec::new(),
            timer: TimerDaemon::new(me, daemons),
            monitor: MonitorDaemon::new(me, daemons),
            takeovers: VecDeque::new(),
            newcomers: VecDeque::new(),
            orders: Orders::default(),
            given_up: VecDeque::new(),
            moves: Moves::default(),
            emptying: Emptying::default(),
            transfers: Transfers::default(),
            accusations: Accusations::default(),
            past,
            serving: None,
            me,
            arriving: Arriving::default(),
            disk_owner: None,
            disk_due: Nanos(0),
            published: Nanos(0),
            timer_due: Nanos(0),
            loans_due,
            background_due: Nanos(0),
            monitor_due: Nanos(0),
            scrub_due: Nanos(0),
            last_run: ProgramId(0),
            keeper,
            image_refused: false,
            dying: None,
        }
    }

    /// The machine, for whoever built the kernel.
    pub fn machine(&self) -> &M {
        &self.services.machine
    }

    /// Checkpoints are taken in steps of so many pages: for tests, whose programs are small.
    #[cfg(feature = "inspect")]
    pub fn save_in_steps(&mut self, pages: usize) {
        self.services.save_step = pages;
    }

    /// Runs for ever.
    pub fn run(&mut self) -> ! {
        loop {
            self.turn();
        }
    }
}

//! One kernel: what it is made of, how it boots, and its event loop (D1).
use crate::{
    create::Starting,
    daemon::Message,
    device::{console, console::ConsoleOwner, disk, disk::Arriving, disk::DiskOwner, network, network::NetworkOwner},
    process::Ending,
    protect,
    resident::{Key, Resident},
    run::{self, Turn},
    services::Services,
    signal::{Info, Signal},
    syscall,
};
use alloc::{
    collections::{BTreeMap, VecDeque},
    format,
    vec::Vec,
};
use shimos_abi::{
    control::{Device, KernelState, Start, Takeover},
    ids::{KernelId, Life, Pid, ProgramId},
    shared::Queue,
    time::Nanos,
};
use shimos_checkpoint::{SlotState, Slots, Teardown};
use shimos_hal::{Events, Machine};
use shimos_ikc::{Endpoint, Home};
use shimos_memory::{Frames, space::Progress};
use shimos_monitor::{Config, MonitorDaemon, TimerDaemon};

/// How long a thread runs before another gets its turn.
const SLICE: Nanos = Nanos::millis(5);
/// How long background work waits for a kernel that has programs to run.
const BACKGROUND_GAP: Nanos = Nanos::millis(10);
/// How often a kernel asks for frames that it has lent.
const LOANS_GAP: Nanos = Nanos::secs(1);
/// Packets taken in one turn.
const PACKETS: usize = 128;

/// How a kernel is to start.
#[derive(Clone, Debug)]
pub struct BootConfig {
    /// The daemons' interval; the first kernel sets it for all.
    pub heartbeat: Nanos,
    /// The program that the first kernel starts when the machine comes up.
    pub init: Option<Start>,
}

/// A kernel.
pub struct Kernel<M: Machine> {
    pub(crate) services: Services<M>,
    pub(crate) residents: BTreeMap<ProgramId, Resident<M>>,
    pub(crate) starting: Vec<Starting>,
    pub(crate) slots: Slots,
    pub(crate) teardowns: Vec<Teardown>,
    pub(crate) timer: TimerDaemon,
    pub(crate) monitor: MonitorDaemon,
    pub(crate) takeovers: VecDeque<Takeover>,
    /// Requests that are being worked on: who waits for the answer, and which other kernel has it, if one has.
    pub(crate) asked: BTreeMap<u64, (ProgramId, Option<Life>)>,
    pub(crate) me: Life,
    arriving: Arriving,
    disk_owner: Option<Life>,
    pub(crate) published: Nanos,
    timer_due: Nanos,
    loans_due: Nanos,
    background_due: Nanos,
    monitor_due: Nanos,
    /// Which program's thread runs next.
    turn: ProgramId,
    pending_init: Option<Start>,
    pub(crate) image_refused: bool,
    /// A fault to die of, and when: the answer to the request leaves first.
    pub(crate) dying: Option<(shimos_abi::control::Fault, Nanos)>,
}

impl<M: Machine> Kernel<M> {
    /// Starts a kernel: takes its memory, its queues and, on the machine's first boot, the devices.
    pub fn boot(mut machine: M, config: BootConfig) -> Kernel<M> {
        let identity = machine.identity().clone();
        let me = identity.life;
        let mut ikc = Endpoint::new(machine.shared(), machine.layout(), me);
        ikc.set_state(KernelState::Booting);
        let area = ikc.area();
        let mut frames = Frames::new(identity.pool);
        // Images are kept while their program lives somewhere: it may still use their frames, or need them.
        let keep = |program| area.home(program) != Home::Free;
        let (slots, retained) = Slots::start(&mut machine, &mut frames, me, keep);
        let mut services = Services::new(machine, frames, ikc);
        let first = me.kernel == KernelId(0) && area.owner(Device::Console).is_none();
        if first {
            area.set_heartbeat(config.heartbeat);
            for device in Device::ALL {
                claim(&mut services, device, None);
            }
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
        if !retained.images.is_empty() || !retained.damages.is_empty() {
            services.log(&format!("kept {} images, {} damages", retained.images.len(), retained.damages.len()));
        }
        let daemons = Config::default();
        let loans_due = services.machine.now() + LOANS_GAP;
        Kernel {
            services,
            residents: BTreeMap::new(),
            starting: Vec::new(),
            slots,
            teardowns: Vec::new(),
            timer: TimerDaemon::new(me, daemons),
            monitor: MonitorDaemon::new(me, daemons),
            takeovers: VecDeque::new(),
            asked: BTreeMap::new(),
            me,
            arriving: Arriving::default(),
            disk_owner: None,
            published: Nanos(0),
            timer_due: Nanos(0),
            loans_due,
            background_due: Nanos(0),
            monitor_due: Nanos(0),
            turn: ProgramId(0),
            pending_init: if first { config.init } else { None },
            image_refused: false,
            dying: None,
        }
    }

    /// The machine, for whoever built the kernel.
    pub fn machine(&self) -> &M {
        &self.services.machine
    }

    /// Runs for ever.
    pub fn run(&mut self) -> ! {
        loop {
            self.turn();
        }
    }

    /// One turn of the event loop: takes what has happened, runs a thread for a while, or waits.
    pub fn turn(&mut self) {
        self.services.ikc.begin_polling();
        let events = self.services.machine.take_events();
        let more = self.communicate(events);
        self.daemons(events.contains(Events::IKC));
        self.start_programs();
        self.answer_requests();
        let now = self.services.machine.now();
        let ids: Vec<ProgramId> = self.residents.keys().copied().collect();
        for id in ids {
            self.tend(id, now);
        }
        if let Some((fault, at)) = self.dying
            && now >= at
        {
            self.services.machine.inject(fault);
        }
        let ran = self.run_one();
        // What this turn has found missing is asked for before anything waits.
        let arrived = self.work_on_disk();
        if ran || more || arrived {
            // A program that never rests must not keep images and loans from being given back.
            if now >= self.background_due {
                self.work_in_background();
            }
            return;
        }
        if self.work_in_background() {
            return;
        }
        let until = self.next_event();
        // A packet that came meanwhile is looked at first.
        if !self.services.ikc.end_polling() {
            self.services.machine.idle(until);
        }
    }

    /// Packets and devices. Returns whether there is more of it at once.
    fn communicate(&mut self, events: Events) -> bool {
        let mut bytes = Vec::new();
        let mut packets = 0;
        while packets < PACKETS
            && let Some(received) = self.services.ikc.poll_any(&mut bytes)
        {
            packets += 1;
            match received.queue {
                Queue::Daemon => {
                    if let Ok(message) = minicbor::decode::<Message>(&bytes) {
                        self.hear(received.from, message);
                    }
                }
                Queue::Console => console::receive(&mut self.services, &bytes),
                Queue::Network => network::receive(&mut self.services, received.from.kernel, &bytes),
                Queue::Block => {
                    if let Some(block) = disk::receive(&mut self.services, &mut self.arriving, received.from, &bytes) {
                        self.wake_all(Key::Block(block));
                    }
                }
            }
        }
        if let Some(fault) = self.services.ikc.take_fault() {
            self.services.log(&format!("queue {:?} from {} closed: {:?}", fault.queue, fault.peer, fault.what));
        }
        let owner = self.services.ikc.area().owner(Device::Block);
        if owner != self.disk_owner {
            self.disk_owner = owner;
            self.services.blocks.ask_again();
        }
        self.work_on_disk();
        let more = network::drive(&mut self.services);
        if events.contains(Events::CONSOLE) {
            self.read_console();
        }
        if let Some(console) = &mut self.services.console {
            console.flush(&mut self.services.machine);
        }
        console::flush_unsent(&mut self.services);
        self.take_inbound();
        self.services.blocks.relieve(&mut self.services.frames, 64);
        more || packets == PACKETS
    }

    /// Requests blocks and hands those out that have arrived. Returns whether one has.
    fn work_on_disk(&mut self) -> bool {
        let arrived = disk::work(&mut self.services);
        for block in &arrived {
            self.wake_all(Key::Block(*block));
        }
        !arrived.is_empty()
    }

    fn read_console(&mut self) {
        // Typed input goes to the program that is attached to the console; there is none but by request.
        let mut bytes = [0; 64];
        while self.services.machine.console_read(&mut bytes) > 0 {}
    }

    fn take_inbound(&mut self) {
        let now = self.services.machine.now();
        while let Some(frame) = self.services.inbound.pop_front() {
            for (id, resident) in &mut self.residents {
                if network::is_for(&frame, *id) && !network::is_from(&frame, *id) {
                    resident.program.net.receive(now, &frame);
                }
            }
        }
    }

    fn wake_all(&mut self, key: Key) {
        for resident in self.residents.values_mut() {
            resident.wake(key);
        }
    }

    /// The timer daemon and the monitor daemon.
    fn daemons(&mut self, rung: bool) {
        let now = self.services.machine.now();
        if now < self.timer_due && now < self.monitor_due && !rung {
            return;
        }
        let area = self.services.ikc.area();
        let turn = self.timer.turn(&area, now);
        self.timer_due = turn.next;
        if let Some(stamp) = turn.stamp {
            let runnable = self.residents.values().map(|resident| resident.ready.len() as u32).sum();
            let frames = &self.services.frames;
            let (free, total) = (frames.free_count() as u64, frames.total() as u64);
            self.services.ikc.set_load(runnable, free, total);
            self.services.ikc.stamp(stamp, now);
            self.publish();
            self.ask_for_loans(now);
            self.fail_lost_requests();
        }
        if let Some(seen) = turn.nominate {
            let elected = area.elect(seen, self.me.kernel);
            if elected.monitor == self.me.kernel {
                self.services.log(&format!("elected monitor in term {}", elected.term));
            }
        }
        let step = self.monitor.step(&area, now);
        self.monitor_due = step.next;
        for action in step.actions {
            if self.monitor.permits(&action, &area) {
                self.act(action);
            }
        }
    }

    /// What a program needs besides running: timers, network, checkpoints, its end.
    fn tend(&mut self, id: ProgramId, now: Nanos) {
        let Some(resident) = self.residents.get_mut(&id) else { return };
        let services = &mut self.services;
        if let Some(lost) = resident.pending.damage() {
            services.log(&format!("program {id}: its image has lost pages ({lost:?}); it cannot go on"));
            resident.ended.get_or_insert(Signal::BUS.number().into());
        }
        resident.expire(now);
        ring_alarms(resident, now);
        resident.program.net.poll(now);
        while let Some(socket) = resident.program.net.take_changed() {
            resident.wake(Key::Socket(socket));
        }
        protect::flush_network(resident, services);
        console::work(services, resident);
        if resident.ended.is_some() {
            self.end_program(id);
            return;
        }
        if protect::is_due(resident, now) {
            protect::checkpoint(resident, services);
        }
    }

    /// Runs one thread of one program for a slice. Returns whether one ran.
    fn run_one(&mut self) -> bool {
        let next = self
            .residents
            .range(ProgramId(self.turn.0.wrapping_add(1))..)
            .chain(self.residents.iter())
            .find(|(_, resident)| resident.runnable())
            .map(|(id, _)| *id);
        let Some(id) = next else { return false };
        self.turn = id;
        let now = self.services.machine.now();
        let until = self.next_event().min(now + SLICE);
        let Some(resident) = self.residents.get_mut(&id) else { return false };
        let Some(tid) = resident.ready.pop_front() else { return false };
        if let Some(takeover) = self.takeovers.iter_mut().rev().find(|takeover| takeover.program == id)
            && takeover.first_instruction == Nanos(0)
        {
            takeover.first_instruction = now;
        }
        // Peers ring from here on; what came before is looked at in the next turn.
        let pending = self.services.ikc.end_polling();
        let until = if pending { now } else { until };
        if run::run(resident, &mut self.services, tid, until) == Turn::Yielded {
            resident.ready.push_back(tid);
        }
        resident.program.net.poll(now);
        while let Some(socket) = resident.program.net.take_changed() {
            resident.wake(Key::Socket(socket));
        }
        protect::flush_network(resident, &mut self.services);
        true
    }

    /// Work that waits until there is nothing else to do. Returns whether some is left.
    fn work_in_background(&mut self) -> bool {
        const STEP: usize = 1024;
        let mut busy = false;
        self.background_due = self.services.machine.now() + BACKGROUND_GAP;
        if let Some(teardown) = self.teardowns.last_mut() {
            if teardown.step(&self.services.machine, &mut self.services.frames, STEP) == Progress::Done {
                self.teardowns.pop();
            }
            busy = true;
        }
        let mut returned = Vec::new();
        for (id, resident) in &mut self.residents {
            protect::sweep(resident, &mut self.services);
            busy |= resident.guard.is_busy();
            if !resident.program.head.loans.is_empty() {
                returned.extend(protect::pull(resident, &mut self.services).into_iter().map(|kernel| (*id, kernel)));
            }
        }
        for (program, owner) in returned {
            self.return_loan(program, owner);
        }
        busy
    }

    /// When something happens by itself.
    fn next_event(&self) -> Nanos {
        let residents = self.residents.values().filter_map(Resident::next_deadline).min();
        let mut next = self.timer_due.min(self.monitor_due);
        if let Some((_, at)) = self.dying {
            next = next.min(at);
        }
        if let Some(at) = residents {
            next = next.min(at);
        }
        // Something waits for room in a queue, or is being pulled over.
        let waiting = !self.services.unsent_console.is_empty()
            || self.services.disk.as_ref().is_some_and(DiskOwner::is_busy)
            || self.services.console.as_ref().is_some_and(ConsoleOwner::is_busy)
            || !self.starting.is_empty()
            || self.residents.values().any(|resident| !resident.program.head.loans.is_empty());
        if waiting {
            next = next.min(self.services.machine.now() + Nanos::millis(1));
        }
        next
    }

    fn start_programs(&mut self) {
        if self.services.image.is_some()
            && let Some(start) = self.pending_init.take()
            && let Err(error) = self.begin(start, None)
        {
            self.services.log(&format!("the first program cannot start: {error}"));
        }
        self.open_image();
        self.go_on_starting();
    }

    /// Ends a program: its memory, its image, its id.
    fn end_program(&mut self, id: ProgramId) {
        let Some(mut resident) = self.residents.remove(&id) else { return };
        let status = resident.ended.unwrap_or_default();
        let pids: Vec<Pid> = resident.program.processes.keys().copied().collect();
        for pid in pids {
            if resident.program.processes.get(&pid).is_some_and(|process| process.zombie.is_none()) {
                syscall::end_process(&mut resident, &mut self.services, pid, Ending::Killed(Signal::KILL));
            }
        }
        let spaces: Vec<_> = resident.program.spaces.keys().copied().collect();
        for space in spaces {
            self.services.drop_space(&mut resident, space);
        }
        protect::flush_network(&mut resident, &mut self.services);
        self.teardowns.extend(protect::unprotect(&mut resident, &mut self.services));
        protect::release_held(&mut resident, &mut self.services);
        resident.program.objects.destroy(&mut self.services.frames);
        for owner in core::mem::take(&mut resident.program.head.loans) {
            self.return_loan(id, owner);
        }
        console::ended(&mut self.services, &mut resident);
        self.services.log(&format!("program {} ended, status {status:#x}", resident.program.head.name));
        let area = self.services.ikc.area();
        let seen = area.home(id);
        if seen.life() == Some(self.me) {
            let _ = area.move_home(id, seen, Home::Free);
        }
        self.publish();
    }

    /// Tells a kernel that a program needs its frames no more.
    pub(crate) fn return_loan(&mut self, program: ProgramId, owner: KernelId) {
        if owner == self.me.kernel {
            self.loan_returned(program);
        } else {
            self.tell(owner, &Message::Return(program));
            self.unmap_unused(owner);
        }
        if let Some(takeover) = self.takeovers.iter_mut().rev().find(|takeover| takeover.program == program) {
            takeover.home = self.services.machine.now();
        }
    }

    /// Asks now and then whether frames that are lent are still needed.
    fn ask_for_loans(&mut self, now: Nanos) {
        if now < self.loans_due {
            return;
        }
        self.loans_due = now + LOANS_GAP;
        let area = self.services.ikc.area();
        for held in self.slots.held(&self.services.machine) {
            if held.state != SlotState::Lent {
                continue;
            }
            match area.home(held.program).life() {
                None => self.loan_returned(held.program),
                Some(life) if life == self.me => {
                    // It lives here itself, taken over from an earlier life of this kernel: its own image must exist first.
                    if self.residents.get(&held.program).is_some_and(|resident| resident.guard.last.is_some()) {
                        self.loan_returned(held.program);
                    }
                }
                Some(life) if life.kernel == self.me.kernel => {}
                Some(life) => self.tell(life.kernel, &Message::Lent(held.program)),
            }
        }
    }

    /// A loan of this kernel's frames came back.
    pub(crate) fn loan_returned(&mut self, program: ProgramId) {
        let teardown = self.slots.returned(&mut self.services.machine, program);
        self.teardowns.extend(teardown);
    }
}

/// Takes a device, and its owner word from `from`. Returns whether that worked.
pub(crate) fn claim<M: Machine>(services: &mut Services<M>, device: Device, from: Option<Life>) -> bool {
    let me = services.machine.identity().life;
    let area = services.ikc.area();
    // Taking a device resets it: of two who are told to, only one may touch it, and only after the last one's end.
    let last = area.taker(device);
    let free = last.is_none_or(|life| life == me || has_ended(services, life));
    if !free || area.move_taker(device, last, Some(me)).is_err() {
        return false;
    }
    // The owner word moves when the reset is confirmed: until then the dead owner's memory is not used anew.
    if services.machine.claim(device).is_err() {
        // Another may try.
        let _ = area.move_taker(device, Some(me), None);
        return false;
    }
    if area.move_owner(device, from, Some(me)).is_err() {
        return false;
    }
    match device {
        Device::Console => {
            services.console = Some(ConsoleOwner::default());
            if let Some(from) = from {
                console::inherit(services, from.kernel);
            }
        }
        Device::Block => {
            services.disk = Some(DiskOwner::default());
            let blocks = services.machine.block_count();
            services.blocks.set_size(blocks);
        }
        Device::Network => services.network = Some(NetworkOwner::default()),
    }
    true
}

/// Whether a life is over: its core is proven parked, or has booted since.
pub(crate) fn has_ended<M: Machine>(services: &Services<M>, life: Life) -> bool {
    let booted_since = services.ikc.area().incarnation(life.kernel).is_some_and(|now| now > life.incarnation);
    booted_since || services.machine.confirm_parked(life).is_some()
}

fn ring_alarms<M: Machine>(resident: &mut Resident<M>, now: Nanos) {
    let mut due = Vec::new();
    for process in resident.program.processes.values_mut() {
        if let Some((at, period)) = process.alarm
            && at <= now
        {
            // The phase is kept, also over the gap of a takeover; what was missed is told once.
            process.alarm = (period != Nanos(0)).then(|| {
                let missed = (now - at).0 / period.0 + 1;
                (at + period.times(missed), period)
            });
            due.push(process.pid);
        }
    }
    for pid in due {
        crate::delivery::send_to_process(resident, pid, Signal::ALRM, Info::from_kernel());
    }
}

//! The event loop of one kernel (D1).
use super::{Dying, Kernel};
use crate::{
    daemon::Message,
    device::{console, console::ConsoleOwner, disk, disk::DiskOwner, network},
    pressure, protect,
    resident::{Key, Resident},
    run::{self, Turn},
    turns::TURN,
};
use alloc::{format, vec::Vec};
use shimos_abi::{control::Device, ids::ProgramId, shared::Queue, time::Nanos};
use shimos_hal::{Events, Machine, Scrub};
use shimos_memory::space::Progress;
use shimos_monitor::Action;

/// How long background work waits for a kernel that has programs to run.
const BACKGROUND_GAP: Nanos = Nanos::millis(10);
/// How long an idle kernel waits before it has the next part of the shared code looked at.
const SCRUB_GAP: Nanos = Nanos::millis(50);
/// How long a program runs at first after a takeover, before the next is taken and whatever else is due.
const FIRST_TURN: Nanos = Nanos::micros(50);
/// How long a block may take to arrive before it is asked for again.
const DISK_GAP: Nanos = Nanos::secs(1);
/// Packets taken in one turn.
const PACKETS: usize = 128;

impl<M: Machine> Kernel<M> {
    /// One turn of the event loop: takes what has happened, runs a thread for a while, or waits.
    pub fn turn(&mut self) {
        self.services.ikc.begin_polling();
        let events = self.services.machine.take_events();
        if events.contains(Events::MACHINE_CHECK) {
            self.services.log("a machine check that harms nothing here: noted");
        }
        let more = self.communicate(events);
        self.daemons(events.contains(Events::IKC));
        self.carry_orders_out();
        self.start_programs();
        self.answer_requests();
        if !self.moves.is_idle() {
            self.go_on_moving();
        }
        self.go_on_emptying();
        let now = self.services.machine.now();
        let ids: Vec<ProgramId> = self.residents.keys().copied().collect();
        for id in ids {
            self.tend(id, now);
        }
        if let Some(Dying { fault, seed, at, by }) = self.dying
            && now >= at
        {
            self.dying = None;
            let fault = self.damage(fault);
            self.services.ikc.set_suspect(by);
            self.services.machine.inject(fault, seed);
        }
        let ran = self.run_one();
        self.count_for(None);
        self.relieve_memory();
        // What this turn has found missing is asked for before anything waits.
        let arrived = self.work_on_disk();
        if ran || more || arrived || !self.orders.is_empty() {
            // A program that never rests must not keep images and loans from being given back. One that was taken over and has not
            // run yet comes first.
            if now >= self.background_due && !self.is_taking() {
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
            self.scrub();
            self.services.machine.idle(until);
        }
    }

    /// Has a part of the shared code looked at, now and then.
    fn scrub(&mut self) {
        let now = self.services.machine.now();
        if now >= self.scrub_due {
            self.scrub_due = now + SCRUB_GAP;
            self.services.scrub(Scrub::Part);
        }
    }

    fn ask_for_overdue_blocks(&mut self, now: Nanos) {
        if now >= self.disk_due {
            self.disk_due = now + DISK_GAP;
            self.services.blocks.ask_again_for_overdue();
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
            self.accuse(fault.peer);
        }
        let owner = self.services.ikc.area().owner(Device::Block);
        if owner != self.disk_owner {
            self.disk_owner = owner;
            self.services.blocks.ask_again();
        }
        self.work_on_disk();
        let more = self.take_frames();
        if events.contains(Events::CONSOLE) {
            self.read_console();
        }
        if let Some(console) = &mut self.services.console {
            console.flush(&mut self.services.machine, &mut self.services.ikc);
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

    /// Takes what the network card has received. What is for a program here goes to it at once: its connections answer
    /// all that came together. Returns whether there may be more.
    fn take_frames(&mut self) -> bool {
        const BATCH: usize = 64;
        let Some(mut buffer) = network::borrow_buffer(&mut self.services) else { return false };
        let mut count = 0;
        let mut now = None;
        let mut last: Option<ProgramId> = None;
        while count < BATCH
            && let Some(len) = self.services.machine.net_receive(&mut buffer)
        {
            count += 1;
            let frame = buffer.get(..len).unwrap_or_default();
            let Some(id) = network::from_card(&mut self.services, frame) else { continue };
            let now = *now.get_or_insert_with(|| self.services.machine.now());
            if let Some(before) = last.filter(|before| *before != id) {
                self.end_batch(before, now);
            }
            last = Some(id);
            if let Some(resident) = self.residents.get_mut(&id) {
                resident.program.net.receive_one_of(now, frame);
            }
        }
        network::return_buffer(&mut self.services, buffer);
        if let (Some(last), Some(now)) = (last, now) {
            self.end_batch(last, now);
        }
        count == BATCH
    }

    fn end_batch(&mut self, id: ProgramId, now: Nanos) {
        if let Some(resident) = self.residents.get_mut(&id) {
            resident.program.net.end_batch(now);
        }
    }

    fn take_inbound(&mut self) {
        if self.services.inbound.is_empty() {
            return;
        }
        let now = self.services.machine.now();
        while let Some(frame) = self.services.inbound.pop_front() {
            for (id, resident) in &mut self.residents {
                if network::is_for(&frame, *id) && !network::is_from(&frame, *id) {
                    resident.program.net.receive(now, &frame);
                }
            }
            if !self.moves.keep_frame(&frame) {
                self.pass_on(frame);
            }
        }
    }

    /// A frame for a program that has just gone elsewhere follows it.
    fn pass_on(&mut self, frame: Vec<u8>) {
        let Some(program) = network::taker(&frame) else { return };
        let home = self.services.ikc.area().home(program).life();
        if !self.residents.contains_key(&program) && home.is_some_and(|home| home.kernel != self.me.kernel) {
            network::send(&mut self.services, frame);
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
        if rung {
            self.monitor_due = now;
        }
        // What is taken over comes first: the restart of the core that it came from takes longer than its first turn.
        if now < self.timer_due && (now < self.monitor_due || self.is_taking()) {
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
            self.press_charges();
            assert!(self.services.ikc.is_intact(), "words of the own outgoing part were overwritten");
            self.ask_for_loans(now);
            self.fail_lost_requests();
            self.ask_for_overdue_blocks(now);
            self.expire_transfers(now);
            self.note_lasting(now);
        }
        if let Some(seen) = turn.nominate {
            let elected = area.elect(seen, self.me.kernel);
            if elected.monitor == self.me.kernel {
                self.services.log(&format!("elected monitor in term {}", elected.term));
            }
        }
        let step = self.monitor.step(&area, now);
        self.monitor_due = step.next;
        if area.election().monitor == self.me.kernel {
            self.services.machine.kick_watchdog();
        }
        // What is worth a line is worth a record that outlives this kernel.
        let told = step.actions.iter().any(|action| matches!(action, Action::Log(_)));
        for action in step.actions {
            if self.monitor.permits(&action, &area) {
                self.act(action);
            }
        }
        if told {
            self.publish();
        }
    }

    /// The first program that was taken over, has not run here yet, and could.
    pub(crate) fn newcomer(&self) -> Option<ProgramId> {
        let can_run = |id: &ProgramId| self.residents.get(id).is_some_and(Resident::runnable);
        self.newcomers.iter().copied().find(can_run)
    }

    /// Whether programs are being taken over and have not run yet.
    fn is_taking(&self) -> bool {
        self.newcomer().is_some() || !self.orders.is_empty()
    }

    /// The next program to run: newcomers first, else all in turn.
    fn next_program(&self) -> Option<ProgramId> {
        let following = self.residents.range(ProgramId(self.last_run.0.wrapping_add(1))..);
        let in_turn = || following.chain(&self.residents).find(|(_, resident)| resident.runnable()).map(|(id, _)| *id);
        self.newcomer().or_else(in_turn)
    }

    /// Runs one thread of one program for a slice. Returns whether one ran.
    fn run_one(&mut self) -> bool {
        let Some(id) = self.next_program() else { return false };
        self.last_run = id;
        let now = self.services.machine.now();
        let begins = self.note_first_turn(id, now);
        // Peers ring from here on; what came before is looked at in the next turn.
        let pending = self.services.ikc.end_polling();
        let until = if begins {
            now + FIRST_TURN
        } else if pending {
            now
        } else {
            self.next_event().min(now + self.slice(id, now))
        };
        self.count_for(Some(id));
        self.services.ikc.set_suspect(Some(id));
        self.run_threads(id, now, until);
        self.services.ikc.set_suspect(None);
        // What tells of all of them can wait until all of them run.
        if begins && !self.is_taking() {
            self.publish();
        }
        true
    }

    /// Notes that a program runs. Returns whether it is its first turn after a takeover.
    fn note_first_turn(&mut self, id: ProgramId, now: Nanos) -> bool {
        let Some(place) = self.newcomers.iter().position(|newcomer| *newcomer == id) else { return false };
        self.newcomers.remove(place);
        if let Some(takeover) = self.takeovers.iter_mut().rfind(|takeover| takeover.program == id) {
            takeover.first_instruction = now;
        }
        true
    }

    /// How long the next thread of a program may run.
    fn slice(&self, id: ProgramId, now: Nanos) -> Nanos {
        let program = self.residents.get(&id);
        let next = program.and_then(|resident| {
            let (next, _) = resident.ready.first(now)?;
            let thread = resident.program.threads.get(&next)?;
            let process = resident.program.processes.get(&thread.process)?;
            Some(thread.scheduling.turn(process.nice))
        });
        next.unwrap_or(TURN)
    }

    /// Runs threads of one program in turn until `until`, or until there is work for the rest of the event loop. Two
    /// that wait for each other, like the ends of a pipe, take turns here.
    fn run_threads(&mut self, id: ProgramId, mut now: Nanos, mut until: Nanos) {
        loop {
            let Some(tid) = self.residents.get_mut(&id).and_then(|resident| resident.ready.pop(now)) else { return };
            if self.services.loaded.is_some_and(|loaded| loaded != tid) {
                self.write_registers_back();
            }
            let Some(resident) = self.residents.get_mut(&id) else { return };
            let before = resident.program.threads.get(&tid).map_or(Nanos(0), |thread| thread.used);
            let turn = run::run(resident, &mut self.services, tid, until);
            now = self.services.machine.now();
            resident.end_turn(tid, turn, before, now);
            resident.program.net.poll(now);
            resident.take_network();
            protect::flush_network(resident, &mut self.services);
            let leave = turn == Turn::Interrupted
                || resident.ended.is_some()
                || resident.pending.damage().is_some()
                || protect::is_due(resident, now)
                || self.services.has_work();
            // A thread that has blocked may have brought a deadline.
            until = resident.next_deadline().map_or(until, |deadline| deadline.min(until));
            if leave || now >= until {
                return;
            }
        }
    }

    /// Writes the loaded vector registers back to their thread, for another thread is about to load its own.
    pub(crate) fn write_registers_back(&mut self) {
        if let Some(tid) = self.services.loaded
            && let Some(resident) = self.residents.get_mut(&ProgramId::of(tid))
            && let Some(thread) = resident.program.threads.get_mut(&tid)
        {
            self.services.machine.save_live(&mut thread.regs, &mut thread.fpu);
        }
        self.services.loaded = None;
        self.services.machine.forget_live();
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
            busy |= pressure::has_left(resident);
            protect::sweep(resident, &mut self.services);
            self.teardowns.extend(protect::take_replaced(resident));
            busy |= resident.guard.is_busy();
            if resident.is_coming_home() {
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
        if let Some(dying) = &self.dying {
            next = next.min(dying.at);
        }
        if let Some(at) = residents {
            next = next.min(at);
        }
        if let Some(at) = self.emptying_due() {
            next = next.min(at);
        }
        // Something waits for room in a queue, or is being pulled over.
        let waiting = !self.services.unsent_console.is_empty()
            || self.services.disk.as_ref().is_some_and(DiskOwner::is_busy)
            || self.services.console.as_ref().is_some_and(ConsoleOwner::is_busy)
            || !self.starting.is_empty()
            || !self.joining.is_empty()
            || !self.moves.is_idle()
            || self.residents.values().any(Resident::is_coming_home)
            || self
                .residents
                .values()
                .any(|resident| resident.closed.is_some() || resident.program.terminal.waits_for_printer());
        if waiting {
            next = next.min(self.services.machine.now() + Nanos::millis(1));
        }
        next
    }
}

//! Programs between their turns: their start, what they need besides running, their end.
use super::Kernel;
use crate::{device::console, pressure, protect, saving, signal::Signal};
use alloc::format;
use shimos_abi::{control::Response, ids::ProgramId, time::Nanos};
use shimos_hal::Machine;
use shimos_ikc::Home;
use shimos_memory::space::Progress;

impl<M: Machine> Kernel<M> {
    /// Starts the control daemon if there is none, and goes on with programs that are starting.
    pub(super) fn start_programs(&mut self) {
        self.keep_control_daemon();
        self.open_image();
        self.go_on_starting();
        self.go_on_joining();
    }

    /// What a program needs besides running: timers, network, checkpoints, its end.
    pub(super) fn tend(&mut self, id: ProgramId, now: Nanos) {
        self.go_back_if_due(id);
        let Some(resident) = self.residents.get_mut(&id) else { return };
        let services = &mut self.services;
        if let Some(mend) = resident.pending.take_mended() {
            services.log(&format!("program {id}: {mend}"));
        }
        if let Some(damage) = resident.pending.damage() {
            services.log(&format!("program {id}: its image has lost pages ({:?}); it cannot go on", damage.lost));
            resident.ended.get_or_insert(Signal::BUS.number().into());
        }
        resident.expire(now);
        resident.program.head.load.note(now, resident.ready.len());
        resident.program.net.poll(now);
        resident.take_network();
        protect::flush_network(resident, services);
        let printed = resident.program.terminal.printed();
        console::work(services, resident);
        if resident.program.terminal.printed() != printed {
            resident.closed = resident.closed.map(|_| now);
        }
        if resident.ended.is_some() {
            let done = resident.closed.map(|closed| console::is_done(resident, closed, now));
            match done {
                None if self.wind_up(id) == Progress::Done => self.close_program(id, now),
                Some(true) => self.end_program(id),
                None | Some(false) => {}
            }
            return;
        }
        if pressure::has_left(resident) {
            pressure::step(resident, services);
        }
        if protect::is_due(resident, now) {
            saving::checkpoint(resident, services);
            self.answer_protected(id);
        }
    }

    /// Gives back all that an ended program had. Nobody takes it over any more: what it has written leaves now.
    fn close_program(&mut self, id: ProgramId, now: Nanos) {
        let Some(resident) = self.residents.get_mut(&id) else { return };
        resident.closed = Some(now);
        let asking = core::mem::take(&mut resident.guard.waiting);
        let loans = core::mem::take(&mut resident.program.head.loans);
        let why = format!("program {} has ended", resident.program.head.name);
        self.services.requests.forget_program(id);
        protect::flush_network(resident, &mut self.services);
        self.teardowns.extend(protect::unprotect(resident, &mut self.services));
        self.teardowns.extend(protect::take_replaced(resident));
        protect::release_held(resident, &mut self.services);
        resident.program.objects.destroy(&mut self.services.frames);
        for asker in asking {
            self.answer(asker, &Response::Failed(why.clone()));
        }
        for owner in loans {
            self.return_loan(id, owner);
        }
    }

    /// Forgets a program whose last lines are printed: its id is free.
    fn end_program(&mut self, id: ProgramId) {
        let Some(mut resident) = self.residents.remove(&id) else { return };
        let status = resident.ended.unwrap_or_default();
        console::ended(&mut self.services, &mut resident);
        self.services.log(&format!("program {} ended, status {status:#x}", resident.program.head.name));
        let area = self.services.ikc.area();
        let seen = area.home(id);
        if seen.life() == Some(self.me) {
            let _ = area.move_home(id, seen, Home::Free);
        }
        self.publish();
    }
}

//! Frames that are lent to a taker, until it gives them back.
use super::{Kernel, LOANS_GAP};
use crate::{daemon::Message, resident::Resident};
use shimos_abi::{
    ids::{KernelId, ProgramId},
    time::Nanos,
};
use shimos_checkpoint::SlotState;
use shimos_hal::Machine;

impl<M: Machine> Kernel<M> {
    /// Asks now and then whether frames that are lent are still needed.
    pub(super) fn ask_for_loans(&mut self, now: Nanos) {
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
                    // And while it may crash again, what it went back to is kept.
                    let done = |resident: &Resident<M>| {
                        resident.guard.last.is_some()
                            && !resident.guard.needs_base()
                            && !resident.program.head.on_probation(now)
                    };
                    if self.residents.get(&held.program).is_some_and(done) {
                        self.loan_returned(held.program);
                    }
                }
                Some(life) if life.kernel == self.me.kernel => {}
                Some(life) => self.tell(life.kernel, &Message::Lent(held.program)),
            }
        }
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

    /// Nothing that was lent for a program is needed any more: it may be several images, if it was here and was taken over
    /// several times. Or it is of an earlier program of this number.
    pub(crate) fn loan_returned(&mut self, program: ProgramId) {
        while let Some(teardown) = self.slots.returned(&mut self.services.machine, program) {
            self.teardowns.push(teardown);
        }
    }
}

//! The control daemon, through which the machine is asked: started with the machine, and anew when it is gone for good.
use crate::kernel::Kernel;
use shimos_abi::{control::Start, ids::ProgramId, time::Nanos};
use shimos_hal::Machine;
use shimos_ikc::Home;

/// How often the monitor's kernel looks whether there is one.
const GAP: Nanos = Nanos::secs(1);
/// How long the machine's first kernel has to start it, before another does.
const FIRST: Nanos = Nanos::secs(5);

/// How this kernel sees to it that there is a control daemon.
pub(crate) struct Keeper {
    /// How it is started; without that, there is none.
    start: Option<Start>,
    /// When to look next; 0 for the kernel that starts the first one.
    due: Nanos,
}

impl Keeper {
    /// Of the kernel with which the machine begins.
    pub fn of_first(start: Option<Start>) -> Keeper {
        Keeper { start, due: Nanos(0) }
    }
    /// Of any other.
    pub fn of_other(start: Option<Start>, now: Nanos) -> Keeper {
        Keeper { start, due: now + FIRST }
    }
}

impl<M: Machine> Kernel<M> {
    /// Starts the control daemon if there is none and that is this kernel's part.
    pub(crate) fn keep_control_daemon(&mut self) {
        let now = self.services.machine.now();
        if now < self.keeper.due || self.services.image.is_none() {
            return;
        }
        let begins = self.keeper.due == Nanos(0);
        self.keeper.due = now + GAP;
        let area = self.services.ikc.area();
        let Some(start) = self.keeper.start.clone() else { return };
        if !begins && area.election().monitor != self.me.kernel {
            return;
        }
        // Of two that try at once one is first.
        if area.move_home(ProgramId::DAEMON, Home::Free, Home::Held(self.me)).is_err() {
            return;
        }
        if !begins {
            self.services.log("the control daemon is gone: it is started anew, without a policy");
        }
        self.begin_as(ProgramId::DAEMON, start, None);
    }
}

//! Peers that broke the rules of a packet queue. They are heard there no more, so what waits for their answers would wait for
//! ever: the monitor ends them. If the monitor is the one that is accused, the accuser takes its place.
//!
//! Who accuses may be wrong itself: its own notes of a queue may be what was overwritten. So one that has reason to accuse
//! a second kernel soon after the first takes itself for the broken one, and dies.
use crate::{daemon::Message, device::claim::has_ended, kernel::Kernel};
use alloc::{format, vec::Vec};
use shimos_abi::{ids::Life, time::Nanos};
use shimos_hal::Machine;

/// Two kernels do not break their queues by themselves within this time.
const TOGETHER: Nanos = Nanos::secs(10);

/// Lives that are accused, and since when.
#[derive(Default)]
pub(crate) struct Accusations {
    lives: Vec<(Life, Nanos)>,
}

impl<M: Machine> Kernel<M> {
    /// A peer broke the rules of a queue, and this kernel has closed it.
    pub(crate) fn accuse(&mut self, life: Life) {
        let now = self.services.machine.now();
        let lives = &mut self.accusations.lives;
        let two = lives.iter().any(|(other, since)| other.kernel != life.kernel && now < *since + TOGETHER);
        assert!(!two, "queues of two peers look broken: it must be this kernel's own notes of them that are");
        if lives.iter().all(|(other, _)| *other != life) {
            lives.push((life, now));
            self.press(life);
        }
    }

    /// Says it again of those that live on: a message may have been lost, and a monitor may have died.
    pub(crate) fn press_charges(&mut self) {
        self.accusations.lives.retain(|(life, _)| !has_ended(&self.services, *life));
        let lives: Vec<Life> = self.accusations.lives.iter().map(|(life, _)| *life).collect();
        lives.into_iter().for_each(|life| self.press(life));
    }

    fn press(&mut self, life: Life) {
        let area = self.services.ikc.area();
        let election = area.election();
        if election.monitor == self.me.kernel {
            self.monitor.condemn(life);
        } else if election.monitor != life.kernel {
            self.tell(election.monitor, &Message::Broken(life));
        } else if area.elect(election, self.me.kernel).monitor == self.me.kernel {
            // It is active from its next step on, and is told then.
            self.services.log(&format!("elected monitor in place of {life}, which broke the rules of a queue"));
        }
    }
}

//! Short schedules of whole kernels: each boots a small machine, strikes its kernels at moments of its own, and ends when
//! all is well again. Cheap enough to be run by the million.
//!
//! All kernels of a schedule run on one thread of the host. Where one loses the processor in the middle of a turn, others
//! have theirs within it, one inside of the other; so of several that were interrupted the last one goes on first.
mod audit;
mod blows;
mod machine;
mod story;
#[cfg(test)]
mod tests;

use crate::{
    kernel,
    many::{Kind, Log, Tally},
};
use blows::Blow;
use shimos_abi::{
    control::Output,
    ids::{KernelId, Life},
    time::Nanos,
};
use shimos_core::Kernel;
use shimos_soft::{Next, Phase, Scheduler, SoftMachine, World};
use std::{
    cell::{Ref, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::{Rc, Weak},
};
use story::Story;

/// Schedules of whole kernels.
pub const WHOLE: Kind = Kind { schedule, replay: "--schedules --whole" };

/// Runs one schedule; says what is wrong, if anything is.
fn schedule(seed: u64, log: Log) -> Result<Tally, String> {
    Schedule::new(seed, Output::Commit, blows::of(seed), log).run()
}

/// A schedule under way.
struct Schedule {
    world: World,
    /// Kernels that are not in the middle of a turn.
    kernels: Vec<RefCell<Option<Kernel<SoftMachine>>>>,
    story: RefCell<Story>,
    me: Weak<Schedule>,
}

impl Schedule {
    fn new(seed: u64, output: Output, blows: Vec<(Nanos, Blow)>, log: Log) -> Rc<Schedule> {
        let world = World::new(machine::config(seed, output));
        let kernels = (0..world.kernels()).map(|_| RefCell::default()).collect();
        let story = RefCell::new(Story::new(seed, &world, blows, log));
        Rc::new_cyclic(|me| Schedule { world, kernels, story, me: me.clone() })
    }

    fn run(&self) -> Result<Tally, String> {
        self.go_on(None);
        self.story.borrow_mut().end()
    }

    /// Lets cores have their turns: until `waiting`, which is in the middle of one, may go on with it. False if it is never to
    /// do that, or the schedule is over.
    fn go_on(&self, waiting: Option<Life>) -> bool {
        loop {
            if self.story.borrow().is_over() || waiting.is_some_and(|life| !self.lives(life)) {
                return false;
            }
            match self.world.advance() {
                Next::Turn(kernel) if waiting.is_some_and(|life| life.kernel == kernel) => return true,
                Next::Turn(kernel) => {
                    waiting.inspect(|life| self.world.hold(*life));
                    self.turn(kernel);
                    waiting.inspect(|life| self.world.resume(*life));
                    self.look(waiting);
                }
                Next::Boot(kernel) => {
                    self.kernels[kernel.index()].replace(None);
                    self.story.borrow_mut().boots(&self.world, kernel);
                }
                Next::Host => self.story.borrow_mut().outside(&self.world),
                Next::Off => self.story.borrow_mut().fail("the machine was switched off".into()),
                Next::Still => self.story.borrow_mut().fail("nothing will ever happen again".into()),
            }
        }
    }

    fn lives(&self, life: Life) -> bool {
        self.world.life(life.kernel) == life && matches!(self.world.phase(life.kernel), Phase::Running | Phase::Idle(_))
    }

    /// One turn of a kernel; its first one is its boot.
    fn turn(&self, id: KernelId) {
        let life = self.world.life(id);
        let kernel = self.kernels[id.index()].take();
        self.story.borrow_mut().before(&self.world);
        let result = catch_unwind(AssertUnwindSafe(|| match kernel {
            None => self.boot(life),
            Some(mut kernel) => {
                kernel.turn();
                kernel
            }
        }));
        let end = match result {
            Ok(kernel) => {
                self.kernels[id.index()].replace(Some(kernel));
                None
            }
            Err(payload) => Some(self.world.settle(id, payload)),
        };
        let mut story = self.story.borrow_mut();
        story.after(&self.world, id);
        if let Some(end) = end {
            story.ended(&self.world, life, end);
        }
    }

    fn boot(&self, life: Life) -> Kernel<SoftMachine> {
        let scheduler = Interrupted { schedule: self.me.clone(), life };
        kernel::boot(SoftMachine::scheduled(&self.world, life.kernel, Rc::new(scheduler)))
    }

    /// Between two turns: goes on with the story, and looks at all frames when it says so.
    fn look(&self, waiting: Option<Life>) {
        let mut story = self.story.borrow_mut();
        story.go_on(&self.world);
        if story.wants_audit(waiting) {
            story.audited(self.audit());
        }
    }

    fn audit(&self) -> Result<(), String> {
        let kernels: Vec<Ref<'_, Option<Kernel<SoftMachine>>>> = self.kernels.iter().map(RefCell::borrow).collect();
        let running = kernels.iter().enumerate().map(|(id, kernel)| (KernelId(id as u16), kernel));
        let running = running.filter(|(id, _)| self.lives(self.world.life(*id)));
        audit::audit(&self.world, running.filter_map(|(id, kernel)| Some((id, kernel.as_ref()?))))
    }
}

/// A kernel that has lost the processor in the middle of its turn.
struct Interrupted {
    schedule: Weak<Schedule>,
    life: Life,
}

impl Scheduler for Interrupted {
    fn preempt(&self) -> bool {
        let Some(schedule) = self.schedule.upgrade() else { return false };
        schedule.story.borrow_mut().after(&schedule.world, self.life.kernel);
        let again = schedule.go_on(Some(self.life));
        if again {
            schedule.story.borrow_mut().before(&schedule.world);
        }
        again
    }
    /// Its turn ends by itself.
    fn sleep(&self) -> bool {
        true
    }
}

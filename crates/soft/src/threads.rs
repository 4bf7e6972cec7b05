//! Kernels on host threads, of which exactly one runs at a time: so a kernel can lose the processor in the middle of a
//! turn, and the run still is the same for the same seed.
use crate::{
    cores::Phase,
    death::{Died, End},
    machine::{Scheduler, SoftMachine},
    world::{Next, World},
};
use shimos_abi::ids::KernelId;
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    rc::Rc,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Host,
    Core,
    Nobody,
}

/// Says whose turn it is: the scheduler's or the core's.
struct Baton {
    holder: Mutex<Holder>,
    changed: Condvar,
}

impl Baton {
    fn hand(&self, to: Holder) {
        *self.holder.lock().unwrap_or_else(PoisonError::into_inner) = to;
        self.changed.notify_all();
    }
    fn wait_while(&self, unwanted: Holder) -> Holder {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        while *holder == unwanted {
            holder = self.changed.wait(holder).unwrap_or_else(PoisonError::into_inner);
        }
        *holder
    }
    /// The core lets the others run. False if it shall never run again.
    fn pass(&self) -> bool {
        self.hand(Holder::Host);
        self.wait_while(Holder::Host) == Holder::Core
    }
}

impl Scheduler for Arc<Baton> {
    fn preempt(&self) -> bool {
        self.pass()
    }
    fn sleep(&self) -> bool {
        self.pass()
    }
}

struct Thread {
    baton: Arc<Baton>,
    handle: JoinHandle<()>,
    outcome: Arc<Mutex<Option<End>>>,
}

/// What became of a core's time on the processor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It gave the processor back.
    Passed,
    /// Its kernel is gone.
    Ended(End),
}

/// Runs every kernel on a thread of its own.
pub struct Threads<F> {
    world: World,
    kernel: Arc<F>,
    threads: Vec<Option<Thread>>,
}

impl<F: Fn(SoftMachine) + Send + Sync + 'static> Threads<F> {
    /// `kernel` boots a kernel on a machine and runs it for ever.
    pub fn new(world: World, kernel: F) -> Threads<F> {
        let threads = (0..world.kernels()).map(|_| None).collect();
        Threads { world, kernel: Arc::new(kernel), threads }
    }
    /// [`World::advance`], after the threads of cores that were parked meanwhile have ended.
    pub fn advance(&mut self) -> Next {
        let next = self.world.advance();
        for index in 0..self.threads.len() {
            if self.world.phase(KernelId(index as u16)) == Phase::Parked {
                self.stop(index);
            }
        }
        next
    }
    /// Starts the life that is to boot on `core`.
    pub fn boot(&mut self, core: KernelId) {
        self.stop(core.index());
        let baton = Arc::new(Baton { holder: Mutex::new(Holder::Host), changed: Condvar::new() });
        let outcome = Arc::new(Mutex::new(None));
        let (kernel, world) = (self.kernel.clone(), self.world.clone());
        let (own_baton, own_outcome) = (baton.clone(), outcome.clone());
        let handle = std::thread::spawn(move || {
            let end = if own_baton.wait_while(Holder::Host) == Holder::Core {
                let machine = SoftMachine::scheduled(&world, core, Rc::new(own_baton.clone()));
                match catch_unwind(AssertUnwindSafe(|| kernel(machine))) {
                    Ok(()) => End::Stopped,
                    Err(payload) => world.settle(core, payload),
                }
            } else {
                End::Stopped
            };
            *own_outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
            own_baton.hand(Holder::Host);
        });
        self.threads[core.index()] = Some(Thread { baton, handle, outcome });
    }
    /// Lets `core` run until it gives the processor back or dies.
    pub fn turn(&mut self, core: KernelId) -> Turn {
        let Some(thread) = &self.threads[core.index()] else {
            return Turn::Passed;
        };
        thread.baton.hand(Holder::Core);
        thread.baton.wait_while(Holder::Core);
        let outcome = thread.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        match outcome {
            None => Turn::Passed,
            Some(end) => {
                if let Some(thread) = self.threads[core.index()].take() {
                    let _ = thread.handle.join();
                }
                Turn::Ended(end)
            }
        }
    }
    fn stop(&mut self, index: usize) {
        if let Some(thread) = self.threads[index].take() {
            thread.baton.hand(Holder::Nobody);
            let _ = thread.handle.join();
        }
    }
}

impl<F> Drop for Threads<F> {
    fn drop(&mut self) {
        for thread in self.threads.iter_mut().filter_map(Option::take) {
            thread.baton.hand(Holder::Nobody);
            let _ = thread.handle.join();
        }
    }
}

/// Ends the present turn without telling anybody but the scheduler.
pub(crate) fn unwind(died: Died) -> ! {
    resume_unwind(Box::new(died))
}

//! What threads use of the processor. A system call is not worth a look at the clock: use is counted at the end of a turn,
//! and before somebody asks for it. The part of the kernel is estimated from a few ways through it.
use crate::{program::Program, services::Services, turns::USUAL_WEIGHT};
use shimos_abi::{ids::Pid, time::Nanos};
use shimos_hal::Machine;

/// The thread whose turn it is.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    tid: Pid,
    /// When its turn began.
    pub began: Nanos,
    /// Its use is counted up to here.
    pub counted: Nanos,
    /// When it came into the kernel, if that is being timed, and for how many other times this one stands.
    entered: Option<(Nanos, u64)>,
    /// How much it is to have of the processor, compared with others.
    weight: u64,
}

impl<M: Machine> Services<M> {
    /// A thread's turn begins.
    pub fn begin_turn(&mut self, program: &Program, tid: Pid) {
        let weight = program.threads.get(&tid).and_then(|thread| {
            let process = program.processes.get(&thread.process)?;
            Some(thread.scheduling.weight(process.nice))
        });
        let weight = weight.unwrap_or(USUAL_WEIGHT).max(1);
        let now = self.machine.now();
        self.running = Some(Running { tid, began: now, counted: now, entered: None, weight });
    }
    /// It is over.
    pub fn end_turn(&mut self, program: &mut Program) {
        self.end_timing(program);
        self.running = None;
    }
    /// Counts what the thread whose turn it is has used until now. Whoever asks for processor time calls this before.
    pub fn count_use(&mut self, program: &mut Program) {
        let Some(running) = &mut self.running else { return };
        let now = self.machine.now();
        if let Some(thread) = program.threads.get_mut(&running.tid) {
            let used = now - running.counted;
            thread.count_use(used);
            let slowed = used.0.saturating_mul(USUAL_WEIGHT) / running.weight;
            thread.standing.time = thread.standing.time.saturating_add(slowed);
        }
        running.counted = now;
    }

    /// Begins to time a way through the kernel, which stands for so many others.
    #[cold]
    pub fn begin_timing(&mut self, program: &mut Program, others: u64) {
        self.count_use(program);
        if let Some(running) = &mut self.running {
            running.entered = Some((running.counted, others));
        }
    }
    /// Whether a way through the kernel is being timed.
    #[inline]
    pub fn is_timing(&self) -> bool {
        self.running.is_some_and(|running| running.entered.is_some())
    }
    /// Ends it, if there is one: the thread goes on, or is stopped.
    #[cold]
    pub fn end_timing(&mut self, program: &mut Program) {
        let now = self.machine.now();
        if let Some(running) = &mut self.running
            && let Some((entered, others)) = running.entered.take()
            && let Some(thread) = program.threads.get_mut(&running.tid)
        {
            thread.owe_system(now - entered, others.saturating_add(1));
        }
        self.count_use(program);
    }
}

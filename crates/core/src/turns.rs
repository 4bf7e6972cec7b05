//! Whose turn it is: how threads come to the run queue and leave it.
use crate::{
    process::Nice,
    resident::Resident,
    run::Turn,
    run_queue::{End, Rank},
    services::Services,
    thread::{Scheduling, State, Thread, policy},
};
use shimos_abi::{ids::Pid, time::Nanos};
use shimos_hal::Machine;

/// How long a thread with the nice value 0 runs before another gets its turn.
pub const TURN: Nanos = Nanos::millis(5);
/// The weight of such a thread: its virtual time is what it uses.
pub const USUAL_WEIGHT: u64 = 20;
/// How long an ordinary thread runs before another ordinary one that it wakes may overtake it. A server that answers many
/// clients would otherwise give way at each answer, and they at each question.
const UNDISTURBED: Nanos = Nanos::micros(750);
/// How long a thread of `SCHED_RR` runs before others of its priority, as on Linux.
pub const ROUND: Nanos = Nanos::millis(100);

/// What decides about a thread's turns beside what it has asked for. Derived: all begin alike after a takeover.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Its virtual time.
    pub time: u64,
    /// The priority of threads that wait for a lock that it holds; 0 if none of them is real-time.
    pub lent: u8,
    /// What it had used when its round began, if it is one of `SCHED_RR`.
    pub round: Nanos,
}

impl Scheduling {
    /// A thread's weight: that of its process's nice value, the least for `SCHED_IDLE`.
    pub fn weight(self, nice: Nice) -> u64 {
        if u32::from(self.policy) == policy::IDLE { 1 } else { nice.rank() }
    }
    /// How long its turns are: from a twentieth of the usual length to twice as long.
    pub fn turn(self, nice: Nice) -> Nanos {
        if self.priority.is_some() { TURN } else { Nanos(TURN.0 * self.weight(nice) / USUAL_WEIGHT) }
    }
}

impl Thread {
    /// Its real-time priority, with what is lent to it; 0 for an ordinary one.
    pub fn priority(&self) -> u8 {
        self.scheduling.priority.unwrap_or(0).max(self.standing.lent)
    }
    /// What its place goes by.
    pub fn rank(&self) -> Rank {
        match self.priority() {
            0 => Rank::Ordinary(self.standing.time),
            priority => Rank::RealTime(priority.min(policy::HIGHEST)),
        }
    }
}

impl<M: Machine> Resident<M> {
    /// Puts a thread in that can run now.
    pub fn make_ready(&mut self, tid: Pid) {
        let Some(thread) = self.program.threads.get_mut(&tid) else { return };
        thread.standing.time = self.ready.after_sleep(thread.standing.time);
        thread.standing.round = thread.used;
        self.ready.push(tid, thread.rank(), End::Back);
    }
    /// Puts a thread in that gives way to all others.
    pub fn give_way(&mut self, tid: Pid) {
        let Some(thread) = self.program.threads.get_mut(&tid) else { return };
        if thread.priority() == 0 {
            thread.standing.time = self.ready.behind_all(thread.standing.time);
        }
        thread.standing.round = thread.used;
        self.ready.push(tid, thread.rank(), End::Back);
    }
    /// Puts a thread in that was not done when its turn ended.
    fn put_back(&mut self, tid: Pid) {
        let Some(thread) = self.program.threads.get_mut(&tid) else { return };
        let rounds = u32::from(thread.scheduling.policy) == policy::ROUND_ROBIN;
        let over = rounds && thread.used - thread.standing.round >= ROUND;
        if over {
            thread.standing.round = thread.used;
        }
        let end = if thread.priority() == 0 || over { End::Back } else { End::Front };
        self.ready.push(tid, thread.rank(), end);
    }
    /// A turn is over that began when the thread had used so much.
    pub fn end_turn(&mut self, tid: Pid, turn: Turn, before: Nanos, now: Nanos) {
        if let Some(thread) = self.program.threads.get(&tid)
            && thread.priority() > 0
        {
            self.ready.charge_real_time(thread.used - before, now);
        }
        match turn {
            Turn::Yielded => self.give_way(tid),
            Turn::Overtaken | Turn::Interrupted => self.put_back(tid),
            Turn::Off => {}
        }
    }
    /// What a thread's place goes by has changed; it had the priority `before`. As on Linux, one that has a lower priority
    /// now comes before the others that have it.
    pub fn place_anew(&mut self, tid: Pid, before: u8) {
        if self.ready.remove(tid).is_some()
            && let Some(thread) = self.program.threads.get(&tid)
        {
            let end = if thread.priority() < before { End::Front } else { End::Back };
            self.ready.push(tid, thread.rank(), end);
        }
        self.ready.tell();
    }
    /// A thread is lent the priority of one that waits for it; returns whether that is more than it had.
    pub fn lend(&mut self, tid: Pid, priority: u8) -> bool {
        let Some(thread) = self.program.threads.get_mut(&tid) else { return false };
        let before = thread.priority();
        if before >= priority {
            return false;
        }
        thread.standing.lent = priority;
        self.place_anew(tid, before);
        true
    }
    /// Whether the thread whose turn it is must let one go first that has become ready.
    #[cold]
    pub fn is_overtaken(&mut self, services: &mut Services<M>, tid: Pid) -> bool {
        services.count_use(&mut self.program);
        let now = services.machine.now();
        let Some(thread) = self.program.threads.get(&tid) else { return false };
        if !self.ready.comes_before(thread.rank(), now) {
            return false;
        }
        let early = services.running.is_some_and(|running| now < running.began + UNDISTURBED);
        if early && thread.priority() == 0 && matches!(self.ready.first(now), Some((_, Rank::Ordinary(_)))) {
            // After one of its next calls.
            self.ready.tell();
            return false;
        }
        // Threads of SCHED_BATCH and SCHED_IDLE wait for their turn.
        let first = self.ready.first(now).and_then(|(first, _)| self.program.threads.get(&first));
        first.is_some_and(|first| {
            first.state == State::Ready
                && (first.priority() > 0
                    || u32::from(first.scheduling.policy) == policy::OTHER
                    || thread.priority() > 0)
        })
    }
}

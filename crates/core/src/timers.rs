//! Timers of a program in the order in which they are due, derived from what is saved; and what happens when they are.
use crate::{
    delivery,
    event::{
        Event, EventId,
        epoll::bits,
        timer::{Clock, Slot, Tells, Timer, TimerFd, TimerKey},
    },
    program::Program,
    resident::{Key, Resident},
    signal::{Info, Signal},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use shimos_abi::{ids::Pid, time::Nanos};
use shimos_hal::Machine;

/// `si_code` of a signal that a timer of timer_create(2) sends.
pub const SI_TIMER: i32 = -2;
/// The least time between two signals of one timer: a shorter period shows in the overruns.
const GAP: Nanos = Nanos::micros(50);

/// Names a timer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TimerRef {
    /// A timerfd.
    Descriptor(EventId),
    /// One that sends signals.
    Signals(TimerKey),
}

/// Timers by the time at which they are due.
#[derive(Default)]
pub struct TimerQueue {
    order: BTreeSet<(Nanos, TimerRef)>,
    due: BTreeMap<TimerRef, Nanos>,
    /// Those that run by processor time.
    by_use: BTreeSet<TimerKey>,
}

impl TimerQueue {
    /// The timers of a program.
    pub fn of(program: &Program) -> TimerQueue {
        let mut queue = TimerQueue::default();
        for (id, event) in &program.events {
            if let Event::Timer(timer) = event {
                queue.set(TimerRef::Descriptor(*id), timer.deadline());
            }
        }
        for (key, timer) in &program.timers {
            queue.arm(*key, Some(timer), Nanos(0));
        }
        queue
    }
    /// Sets when a timer is due; none takes it out.
    pub fn set(&mut self, timer: TimerRef, at: Option<Nanos>) {
        if let Some(old) = self.due.remove(&timer) {
            self.order.remove(&(old, timer));
        }
        if let Some(at) = at.filter(|at| *at != Nanos::NEVER) {
            self.due.insert(timer, at);
            self.order.insert((at, timer));
        }
    }
    /// A timer has changed, or is gone. It is not told before `earliest`.
    pub fn arm(&mut self, key: TimerKey, timer: Option<&Timer>, earliest: Nanos) {
        let set = timer.and_then(|timer| Some((timer, timer.schedule?))).filter(|(_, s)| s.at != Nanos::NEVER);
        self.by_use.remove(&key);
        let at = match set {
            // Nobody waits for it: it is looked at when it is asked for.
            Some((timer, _)) if timer.tells == Tells::Nobody => None,
            Some((timer, _)) if timer.clock.counts_use() => {
                self.by_use.insert(key);
                None
            }
            Some((_, schedule)) => Some(schedule.at.max(earliest)),
            None => None,
        };
        self.set(TimerRef::Signals(key), at);
    }
    /// When the first one is due.
    #[inline]
    pub fn next(&self) -> Option<Nanos> {
        self.order.first().map(|(at, _)| *at)
    }
    /// Whether any runs by processor time.
    #[inline]
    pub fn count_use(&self) -> bool {
        !self.by_use.is_empty()
    }
    /// Takes the first one out that is due.
    fn take(&mut self, now: Nanos) -> Option<TimerRef> {
        let (at, timer) = self.order.first().copied().filter(|(at, _)| *at <= now)?;
        self.order.remove(&(at, timer));
        self.due.remove(&timer);
        Some(timer)
    }
}

/// What a clock says.
pub fn read(program: &Program, clock: Clock, now: Nanos) -> Nanos {
    match clock {
        Clock::Machine | Clock::Wall => now,
        Clock::Process(pid) => program.used_by(pid),
        Clock::User(pid) => program.used_by(pid) - program.counters_of(pid).system,
        Clock::Thread(tid) => program.threads.get(&tid).map_or(Nanos(0), |thread| thread.used),
    }
}

/// Lets the timers go off that are due.
pub fn expire<M: Machine>(resident: &mut Resident<M>, now: Nanos) {
    while let Some(timer) = resident.timers.take(now) {
        match timer {
            TimerRef::Descriptor(id) => {
                if let Some(Event::Timer(timer)) = resident.program.events.get_mut(&id) {
                    timer.count(now);
                    // It is told again only after it was read.
                    resident.wake_as(Key::Event(id), bits::IN);
                }
            }
            TimerRef::Signals(key) => go_off(resident, key, now, now),
        }
    }
}

/// The same for those that run by processor time, after what a thread has used was counted.
pub fn expire_used<M: Machine>(resident: &mut Resident<M>, now: Nanos) {
    let keys: Vec<TimerKey> = resident.timers.by_use.iter().copied().collect();
    for key in keys {
        let Some(timer) = resident.program.timers.get(&key) else { continue };
        let used = read(&resident.program, timer.clock, now);
        if timer.schedule.is_some_and(|schedule| schedule.at <= used) {
            go_off(resident, key, used, now);
        }
    }
}

/// How long a thread may run until a timer is due that counts what it uses.
pub fn left_to_use(program: &Program, queue: &TimerQueue, process: Pid, tid: Pid) -> Option<Nanos> {
    let mine = queue.by_use.iter().filter_map(|key| program.timers.get(key));
    let clocks = [Clock::Process(process), Clock::User(process), Clock::Thread(tid)];
    let left = mine.filter(|timer| clocks.contains(&timer.clock));
    let left = left.filter_map(|timer| Some(timer.schedule?.left(read(program, timer.clock, Nanos(0)))));
    left.min().map(|left| left.max(GAP))
}

/// A timer is due: `clock` is what its clock says.
fn go_off<M: Machine>(resident: &mut Resident<M>, key: TimerKey, clock: Nanos, now: Nanos) {
    let Some(timer) = resident.program.timers.get_mut(&key) else { return };
    let Some(schedule) = &mut timer.schedule else { return };
    let times = schedule.pass(clock);
    let copy = *timer;
    resident.timers.arm(key, Some(&copy), now + GAP);
    if times > 0 {
        tell(resident, key, copy, times);
    }
}

fn tell<M: Machine>(resident: &mut Resident<M>, key: TimerKey, timer: Timer, times: u64) {
    let (signal, thread) = match timer.tells {
        Tells::Nobody => return,
        Tells::Process(signal) => (signal, None),
        Tells::Thread(signal, tid) => (signal, Some(tid)),
    };
    let Slot::Posix(id) = key.slot else {
        delivery::send_to_process(resident, key.process, signal, Info::from_kernel());
        return;
    };
    // A signal that still waits stands for all that came since.
    if is_waiting(&resident.program, key.process, thread, signal, id) {
        if let Some(timer) = resident.program.timers.get_mut(&key) {
            timer.missed = timer.missed.saturating_add(times);
        }
        return;
    }
    if let Some(timer) = resident.program.timers.get_mut(&key) {
        timer.missed = times - 1;
    }
    let info = Info { code: SI_TIMER, pid: id, value: timer.value, ..Info::default() };
    match thread {
        None => delivery::send_to_process(resident, key.process, signal, info),
        Some(tid) => delivery::send_to_thread(resident, tid, signal, info),
    };
}

fn is_waiting(program: &Program, process: Pid, thread: Option<Pid>, signal: Signal, id: u32) -> bool {
    let pending = match thread {
        None => program.processes.get(&process).map(|process| &process.pending),
        Some(tid) => program.threads.get(&tid).map(|thread| &thread.pending),
    };
    pending.is_some_and(|pending| pending.has(signal, |info| info.code == SI_TIMER && info.pid == id))
}

/// A signal is delivered: where a timer has sent it, it says how often the timer was due besides.
pub fn note_delivery(program: &mut Program, process: Pid, info: &mut Info) {
    if info.code != SI_TIMER {
        return;
    }
    let key = TimerKey { process, slot: Slot::Posix(info.pid) };
    if let Some(timer) = program.timers.get_mut(&key) {
        timer.overrun = Timer::told(core::mem::take(&mut timer.missed));
        info.uid = timer.overrun;
    }
}

/// Which timers of a process go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All: it ends.
    All,
    /// Those of timer_create(2): it executes a file.
    Posix,
}

/// Timers of a process go.
pub fn forget<M: Machine>(resident: &mut Resident<M>, process: Pid, which: Which) {
    let from = TimerKey { process, slot: if which == Which::All { Slot::Real } else { Slot::Posix(0) } };
    let to = TimerKey { process, slot: Slot::Posix(u32::MAX) };
    let keys: Vec<TimerKey> = resident.program.timers.range(from..=to).map(|(key, _)| *key).collect();
    for key in keys {
        resident.program.timers.remove(&key);
        resident.timers.arm(key, None, Nanos(0));
    }
}

impl Program {
    /// Changes the times at which timers of the machine's clock are due.
    pub fn shift_timers(&mut self, moved: impl Fn(Nanos) -> Nanos) {
        for timer in self.timers.values_mut().filter(|timer| matches!(timer.clock, Clock::Machine | Clock::Wall)) {
            if let Some(schedule) = &mut timer.schedule {
                schedule.at = moved(schedule.at);
            }
        }
        for event in self.events.values_mut() {
            if let Event::Timer(TimerFd { schedule: Some(schedule), .. }) = event {
                schedule.at = moved(schedule.at);
            }
        }
    }
}

//! A program at home in this kernel: the program, and what is derived from it.
use crate::{
    event::{
        Event, EventId,
        epoll::{EXCLUSIVE, bits},
        watches::{Watch, Watches},
    },
    pending::PendingPages,
    process::SpaceId,
    program::Program,
    protect::Guard,
    thread::{Call, State},
    timers::{self, TimerQueue},
};
use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    vec::Vec,
};
use shimos_abi::{ids::Pid, time::Nanos};
use shimos_hal::Machine;
use shimos_net::SocketId;

/// Something a blocked thread waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Key {
    /// A pipe's content or ends change.
    Pipe(crate::pipe::PipeId),
    /// A UNIX socket's queue or state changes.
    Unix(crate::files::UnixId),
    /// A network socket's readiness changes.
    Socket(SocketId),
    /// The console has input, or room.
    Terminal,
    /// A pair of pseudo terminals has input, output, room, or loses an end.
    Pair(crate::tty::PairId),
    /// A child of this process ends, stops or goes on.
    Child(Pid),
    /// A futex word: address space or object, and the place in it.
    Futex(u64, u64),
    /// A disk block arrives.
    Block(u64),
    /// A control request is answered.
    Control(u64),
    /// A file lock of the program goes.
    Lock,
    /// A set of System V semaphores is removed.
    Semaphores(i32),
    /// A System V message queue changes.
    Messages(i32),
    /// A POSIX message queue changes.
    Queue(crate::ipc::queue::QueueId),
    /// Nothing but a signal or the deadline.
    Signal,
    /// An event object's readiness changes.
    Event(EventId),
}

/// A program at home here.
pub struct Resident<M: Machine> {
    /// The program.
    pub program: Program,
    /// Its page tables.
    pub tables: BTreeMap<SpaceId, M::Space>,
    /// Threads to run, next first.
    pub ready: VecDeque<Pid>,
    /// Who waits for what.
    waits: BTreeMap<Key, Vec<Pid>>,
    /// Deadlines of blocked threads.
    deadlines: BTreeSet<(Nanos, Pid)>,
    /// Who is told of what by epoll sets.
    pub watches: Watches,
    /// Timers that are set.
    pub timers: TimerQueue,
    /// Pages that are still only in the image it came from.
    pub pending: PendingPages,
    /// Its protection at work.
    pub guard: Guard,
    /// Set once the init process has ended: the program is to be removed.
    pub ended: Option<u32>,
}

impl<M: Machine> Resident<M> {
    /// Takes a program in; all its threads will run, blocked ones issue their call again.
    pub fn new(mut program: Program) -> Resident<M> {
        let mut ready = VecDeque::new();
        for thread in program.threads.values_mut().filter(|thread| thread.state != State::Stopped) {
            thread.state = State::Ready;
            ready.push_back(thread.tid);
        }
        let (watches, timers) = (Watches::of(&program), TimerQueue::of(&program));
        Resident {
            program,
            tables: BTreeMap::new(),
            ready,
            waits: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            watches,
            timers,
            pending: PendingPages::default(),
            guard: Guard::default(),
            ended: None,
        }
    }

    /// Blocks a thread until one of `keys` is woken or its call's deadline comes.
    pub fn block(&mut self, tid: Pid, keys: &[Key]) {
        let Some(thread) = self.program.threads.get_mut(&tid) else { return };
        thread.state = State::Blocked;
        let call = thread.call.get_or_insert_with(Call::default);
        if let Some(deadline) = call.deadline {
            self.deadlines.insert((deadline, tid));
        }
        for key in keys {
            let waiting = self.waits.entry(*key).or_default();
            if !waiting.contains(&tid) {
                waiting.push(tid);
            }
        }
    }

    /// Lets a thread wait for a page that its next instruction needs. It is in no call.
    pub fn wait_for_page(&mut self, tid: Pid, key: Key) {
        let Some(thread) = self.program.threads.get_mut(&tid) else { return };
        thread.state = State::Blocked;
        let waiting = self.waits.entry(key).or_default();
        if !waiting.contains(&tid) {
            waiting.push(tid);
        }
    }

    /// Wakes at most `most` threads that wait for a futex word; their calls return when they are issued again.
    pub fn wake_futex(&mut self, key: Key, most: usize) -> usize {
        let Some(waiting) = self.waits.get_mut(&key) else { return 0 };
        // Threads that were woken by something else may still be listed.
        let mut woken = Vec::new();
        waiting.retain(|tid| {
            let waits = self.program.threads.get(tid).is_some_and(|thread| thread.state == State::Blocked);
            if waits && woken.len() < most {
                woken.push(*tid);
            }
            waits && !woken.contains(tid)
        });
        if waiting.is_empty() {
            self.waits.remove(&key);
        }
        for tid in &woken {
            if let Some(thread) = self.program.threads.get_mut(tid) {
                thread.call.get_or_insert_with(Call::default).moved = crate::syscall::FUTEX_WOKEN;
            }
            self.rouse(*tid);
        }
        woken.len()
    }

    /// Wakes all threads that wait for `key`. They issue their calls again, and block again if that was not it.
    pub fn wake(&mut self, key: Key) {
        self.wake_as(key, bits::ANY);
    }

    /// Wakes all threads that wait for `key`, and tells the epoll sets that watch it for any of `events`. The events say what
    /// may have become possible: an edge is seen only by those who watch for it.
    pub fn wake_as(&mut self, key: Key, events: u16) {
        for tid in self.waits.remove(&key).unwrap_or_default() {
            self.rouse(tid);
        }
        if !self.watches.is_empty() {
            self.tell(key, events);
        }
    }

    /// Wakes all threads that wait for `key`. No epoll set is told: nothing has become possible for those who watch.
    pub fn wake_threads(&mut self, key: Key) {
        self.wake_as(key, 0);
    }

    /// Puts what is watched on the lists of its epoll sets, wakes who waits for these, and goes on with the sets that watch
    /// them. Every set is told once.
    fn tell(&mut self, key: Key, events: u16) {
        let mut open = Vec::from([(key, events)]);
        let mut told = BTreeSet::new();
        while let Some((key, events)) = open.pop() {
            let watching: Vec<Watch> = self.watches.for_key(key).collect();
            // One set with waiters is enough for all that asked to share.
            let mut served = None;
            for Watch { epoll: id, target } in watching {
                let Some(Event::Epoll(epoll)) = self.program.events.get_mut(&id) else { continue };
                let shares = epoll.get(target).is_some_and(|item| item.has(EXCLUSIVE));
                if shares && served.is_some() || !epoll.arrive(target, events) {
                    continue;
                }
                let waited_for = self.waits.get(&Key::Event(id)).is_some_and(|tids| !tids.is_empty());
                if shares && waited_for {
                    served = Some(id);
                }
                if told.insert(id) {
                    for tid in self.waits.remove(&Key::Event(id)).unwrap_or_default() {
                        self.rouse(tid);
                    }
                    open.push((Key::Event(id), bits::READ));
                }
            }
        }
    }

    /// Whether a thread waits for `key` in call `number`.
    pub fn is_awaited(&self, key: Key, number: u64) -> bool {
        let waits = |tid: &Pid| {
            let thread = self.program.threads.get(tid);
            thread.is_some_and(|thread| thread.state == State::Blocked && thread.regs.rax == number)
        };
        self.waits.get(&key).is_some_and(|waiting| waiting.iter().any(waits))
    }

    /// Makes a blocked thread run again.
    pub fn rouse(&mut self, tid: Pid) {
        if let Some(thread) = self.program.threads.get_mut(&tid)
            && thread.state == State::Blocked
        {
            thread.state = State::Ready;
            if let Some(deadline) = thread.call.and_then(|call| call.deadline) {
                self.deadlines.remove(&(deadline, tid));
            }
            self.ready.push_back(tid);
        }
    }

    /// Makes a stopped thread run again.
    pub fn resume(&mut self, tid: Pid) {
        if let Some(thread) = self.program.threads.get_mut(&tid)
            && thread.state == State::Stopped
        {
            thread.state = State::Ready;
            self.ready.push_back(tid);
        }
    }

    /// Wakes the threads whose deadlines have come, and lets timers go off.
    pub fn expire(&mut self, now: Nanos) {
        timers::expire(self, now);
        while let Some((deadline, tid)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            self.deadlines.remove(&(deadline, tid));
            self.rouse(tid);
        }
    }

    /// The earliest time at which something happens by itself.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let threads = self.deadlines.first().map(|(deadline, _)| *deadline);
        let net = self.program.net.next_deadline();
        [threads, net, self.timers.next(), self.guard.next_checkpoint()].into_iter().flatten().min()
    }

    /// Whether it has a thread to run.
    pub fn runnable(&self) -> bool {
        !self.ready.is_empty()
    }
}

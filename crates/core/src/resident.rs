//! A program at home in this kernel: the program, and what is derived from it.
use crate::{
    alarms::Alarms,
    event::{
        Event, EventId,
        epoll::{EXCLUSIVE, bits},
        inotify::FileWatches,
        watches::{Watch, Watches},
    },
    locks::Waits,
    pending::PendingPages,
    process::SpaceId,
    program::Program,
    protect::Guard,
    run_queue::{End, RunQueue},
    syscall::{self, Hearers},
    table::Table,
    thread::{Call, State},
    timers::{self, TimerQueue},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::cmp::Reverse;
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
    /// A netlink socket has answers.
    Netlink(crate::files::NetlinkId),
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
    /// This process ends.
    Ended(Pid),
    /// An event object's readiness changes.
    Event(EventId),
}

/// A program at home here.
pub struct Resident<M: Machine> {
    /// The program.
    pub program: Program,
    /// Address spaces that nobody uses any more: their memory is given back step by step.
    pub leaving: Vec<crate::pressure::Leaving<M::Space>>,
    /// Descriptor tables without users that are being closed step by step.
    pub closing: Vec<crate::files::FilesId>,
    /// Its page tables.
    pub tables: Table<SpaceId, M::Space>,
    /// Threads to run.
    pub ready: RunQueue,
    /// Calls that have begun to wait.
    turns: u64,
    /// Who waits for what.
    waits: BTreeMap<Key, Vec<Pid>>,
    /// The same by thread.
    waiting: BTreeMap<Pid, Vec<Key>>,
    /// When blocked threads are woken that wait no longer than to a deadline.
    alarms: Alarms,
    /// Who is told of what by epoll sets.
    pub watches: Watches,
    /// Descriptions that send signals.
    pub hearers: Hearers,
    /// Which locks blocked threads wait for.
    pub lock_waits: Waits,
    /// Who is told of what happens to files.
    pub file_watches: FileWatches,
    /// Timers that are set.
    pub timers: TimerQueue,
    /// Pages that are still only in the image it came from.
    pub pending: PendingPages,
    /// Its protection at work.
    pub guard: Guard,
    /// Set once the init process has ended: the program is to be removed.
    pub ended: Option<u32>,
    /// Set when nothing is left of it but lines to be printed: when it ended, or when the last one was printed.
    pub closed: Option<Nanos>,
    /// Descriptors that travel in messages of UNIX sockets.
    pub rights_in_flight: usize,
}

impl<M: Machine> Resident<M> {
    /// Takes a program in; all its threads will run, blocked ones issue their call again.
    pub fn new(mut program: Program) -> Resident<M> {
        let mut arrived = Vec::new();
        for thread in program.threads.values_mut().filter(|thread| thread.state != State::Stopped) {
            thread.state = State::Ready;
            arrived.push((thread.call.and_then(|call| call.turn), thread.tid, thread.rank()));
        }
        // Who waited comes to wait in the same order again.
        arrived.sort_by_key(|(turn, tid, _)| (*turn, *tid));
        let turns = arrived.iter().filter_map(|(turn, ..)| *turn).max().unwrap_or(0);
        let mut ready = RunQueue::default();
        for (_, tid, rank) in arrived {
            ready.push(tid, rank, End::Back);
        }
        for socket in program.unix.values_mut() {
            socket.recount();
        }
        let rights_in_flight =
            program.unix.values().flat_map(|socket| &socket.queue).map(|message| message.files.len()).sum();
        let closing = program.tables.iter().filter(|(_, table)| table.users == 0).map(|(id, _)| *id).collect();
        let (watches, timers) = (Watches::of(&program), TimerQueue::of(&program));
        let hearers = Hearers::of(&program);
        let file_watches = FileWatches::all(&program.events);
        Resident {
            program,
            leaving: Vec::new(),
            closing,
            tables: Table::new(),
            ready,
            turns,
            waits: BTreeMap::new(),
            waiting: BTreeMap::new(),
            alarms: Alarms::default(),
            watches,
            hearers,
            lock_waits: Waits::default(),
            file_watches,
            timers,
            pending: PendingPages::default(),
            guard: Guard::default(),
            ended: None,
            closed: None,
            rights_in_flight,
        }
    }

    /// Blocks a thread until one of `keys` is woken or its call's deadline comes.
    pub fn block(&mut self, tid: Pid, keys: &[Key]) {
        let Some(thread) = self.program.threads.get_mut(&tid) else { return };
        thread.state = State::Blocked;
        let call = thread.call.get_or_insert_with(Call::default);
        if call.turn.is_none() {
            self.turns += 1;
            call.turn = Some(self.turns);
        }
        if let Some(deadline) = call.deadline {
            // Linux lets a thread sleep longer by its slack (prctl(2), PR_SET_TIMERSLACK): others have time to wake it.
            let process = self.program.processes.get(&thread.process);
            let slack = process.map_or(Nanos(0), |process| process.rights.timer_slack());
            self.alarms.set(tid, deadline + slack);
        }
        self.leave(tid);
        self.stand(tid, keys);
    }

    /// Lets a thread wait for a page that its next instruction needs. It is in no call.
    pub fn wait_for_page(&mut self, tid: Pid, key: Key) {
        let Some(thread) = self.program.threads.get_mut(&tid) else { return };
        thread.state = State::Blocked;
        self.wait_elsewhere(tid, key);
    }

    /// The threads that wait for `key`, by their real-time priority, else first come first.
    pub fn waiters(&self, key: Key) -> Vec<Pid> {
        let Some(waiting) = self.waits.get(&key) else { return Vec::new() };
        let threads = waiting.iter().filter_map(|tid| self.program.threads.get(tid));
        let mut found: Vec<(u8, Pid)> = threads
            .filter(|thread| thread.state == State::Blocked)
            .map(|thread| (thread.priority(), thread.tid))
            .collect();
        if found.iter().any(|(priority, _)| *priority > 0) {
            found.sort_by_key(|(priority, _)| Reverse(*priority));
        }
        found.into_iter().map(|(_, tid)| tid).collect()
    }

    /// Lets a blocked thread wait for another key than before.
    pub fn wait_elsewhere(&mut self, tid: Pid, key: Key) {
        self.leave(tid);
        self.stand(tid, &[key]);
    }

    /// Lets a thread stand where `keys` are woken.
    fn stand(&mut self, tid: Pid, keys: &[Key]) {
        for key in keys {
            let waiting = self.waits.entry(*key).or_default();
            if !waiting.contains(&tid) {
                waiting.push(tid);
            }
        }
        self.waiting.insert(tid, keys.to_vec());
    }

    /// A thread waits for nothing any more.
    fn leave(&mut self, tid: Pid) {
        for key in self.waiting.remove(&tid).unwrap_or_default() {
            if let Some(waiting) = self.waits.get_mut(&key) {
                waiting.retain(|other| *other != tid);
                if waiting.is_empty() {
                    self.waits.remove(&key);
                }
            }
        }
    }

    /// A thread is no more: nothing here may name it.
    pub fn forget(&mut self, tid: Pid) {
        self.leave(tid);
        self.alarms.clear(tid);
        self.ready.remove(tid);
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
        if !self.hearers.is_empty() {
            syscall::tell_hearers(self, key, events);
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

    /// Takes notice of what has happened to sockets: wakes who waits, and tells of urgent data.
    pub fn take_network(&mut self) {
        // All sockets may have changed when a program has just come, and nobody waits yet.
        if self.waits.is_empty() && self.watches.is_empty() && self.hearers.is_empty() {
            self.program.net.forget_changed();
        }
        while let Some(socket) = self.program.net.take_changed() {
            self.wake(Key::Socket(socket));
        }
        while let Some(socket) = self.program.net.take_urgent() {
            syscall::tell_urgent(self, socket);
        }
    }

    /// Whether a signal is pending for a thread that it does not block.
    #[inline]
    pub fn has_signals(&self, tid: Pid) -> bool {
        let Some(thread) = self.program.threads.get(&tid) else { return true };
        let process = self.program.processes.get(&thread.process);
        let pending = thread.pending.set().0 | process.map_or(0, |process| process.pending.set().0);
        pending & !thread.mask.0 != 0
    }

    /// Makes a blocked thread run again.
    pub fn rouse(&mut self, tid: Pid) {
        if let Some(thread) = self.program.threads.get_mut(&tid)
            && thread.state == State::Blocked
        {
            thread.state = State::Ready;
            self.alarms.clear(tid);
            self.leave(tid);
            self.make_ready(tid);
        }
    }

    /// Makes a stopped thread run again.
    pub fn resume(&mut self, tid: Pid) {
        if let Some(thread) = self.program.threads.get_mut(&tid)
            && thread.state == State::Stopped
        {
            thread.state = State::Ready;
            self.make_ready(tid);
        }
    }

    /// Wakes the threads whose deadlines have come, and lets timers go off.
    pub fn expire(&mut self, now: Nanos) {
        timers::expire(self, now);
        while let Some(tid) = self.alarms.take_due(now) {
            self.rouse(tid);
        }
    }

    /// The earliest time at which something happens by itself.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let threads = self.alarms.next();
        let net = self.program.net.next_deadline();
        [threads, net, self.timers.next(), self.guard.next_checkpoint()].into_iter().flatten().min()
    }

    /// Whether pages of it lie elsewhere: with another kernel, or in an image that it came from.
    pub fn is_coming_home(&self) -> bool {
        !self.program.head.loans.is_empty() || !self.pending.is_empty() || self.guard.needs_base()
    }

    /// Whether it has a thread to run.
    pub fn runnable(&self) -> bool {
        !self.ready.is_empty()
    }
}

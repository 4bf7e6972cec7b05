//! What descriptions are ready for (poll(2)).
use crate::{
    event::{Counter, Event, EventId, epoll::bits},
    files::{Description, DescriptionId, Kind, UnixId},
    pipe::{ATOMIC, Pipe},
    program::Program,
    syscall::terminals,
    unix::{QUEUE_LIMIT, UnixKind, UnixState},
};
use shimos_abi::{ids::Pid, time::Nanos};
use shimos_net::Readiness;

/// Epoll sets within epoll sets that one question looks into; after that the answer is yes, and whoever asks looks again.
const LOOKS: u32 = 4096;

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Viewer {
    /// The process.
    pub process: Pid,
    /// Its thread.
    pub thread: Pid,
    /// The time.
    pub now: Nanos,
}

/// Whether poll(2) makes sense of it: what has nothing to wait for cannot be watched by epoll.
pub fn is_pollable(description: &Description) -> bool {
    match &description.kind {
        Kind::File(_) | Kind::Directory(_) | Kind::Null(_) | Kind::Zero(_) | Kind::Full(_) | Kind::Path(_) => false,
        // /dev/random can be watched, /dev/urandom cannot.
        Kind::Random(_) => description.place.as_ref().is_none_or(|place| place.name == b"random"),
        _ => true,
    }
}

/// What a description is ready for. Nothing for one that does not exist.
pub fn of(program: &Program, who: Viewer, id: DescriptionId) -> u16 {
    look(program, who, id, &mut { LOOKS })
}

fn look(program: &Program, who: Viewer, id: DescriptionId, looks: &mut u32) -> u16 {
    let Some(description) = program.descriptions.get(&id) else { return 0 };
    match &description.kind {
        Kind::PipeReader(pipe) => program.pipes.get(pipe).map_or(bits::ERR, reading_end),
        Kind::PipeWriter(pipe) => program.pipes.get(pipe).map_or(bits::ERR, writing_end),
        Kind::PipeBoth(pipe) => program.pipes.get(pipe).map_or(bits::ERR, |pipe| reading_end(pipe) | writing_end(pipe)),
        Kind::Master(_, pair) => terminals::master_readiness(program, *pair),
        kind @ (Kind::Console(_) | Kind::Slave { .. }) => {
            terminals::opened(program, kind).map_or(bits::ERR, |opened| terminals::readiness(program, opened))
        }
        Kind::Shimos(_, conversation) => {
            let answer = if conversation.answer.is_empty() { 0 } else { bits::READ };
            answer | bits::WRITE
        }
        Kind::Socket(socket) => of_socket(program.net.readiness(*socket)),
        Kind::Unix(id) => of_unix(program, *id),
        Kind::Netlink(id) => program.netlink.get(id).map_or(bits::ERR, |socket| {
            let lost = if socket.overrun.is_some() { bits::ERR } else { 0 };
            let data = if socket.queue.is_empty() { 0 } else { bits::READ };
            lost | data | bits::WRITE
        }),
        Kind::Queue(id) => program.queues.get(id).map_or(bits::ERR, |queue| {
            let data = if queue.messages.is_empty() { 0 } else { bits::READ };
            data | if queue.is_full() { 0 } else { bits::WRITE }
        }),
        Kind::Process(pid, started) => {
            let process = program.processes.get(pid).filter(|process| process.started == *started);
            let alive = process.is_some_and(|process| process.zombie.is_none());
            if alive { 0 } else { bits::READ }
        }
        Kind::Event(_, id) => of_event(program, who, *id, looks),
        _ => bits::READ | bits::WRITE,
    }
}

fn reading_end(pipe: &Pipe) -> u16 {
    let data = if pipe.is_empty() { 0 } else { bits::READ };
    data | if pipe.writers == 0 { bits::HUP } else { 0 }
}

fn writing_end(pipe: &Pipe) -> u16 {
    let room = if pipe.room() >= ATOMIC { bits::WRITE } else { 0 };
    room | if pipe.readers == 0 { bits::ERR } else { 0 }
}

fn of_socket(ready: Readiness) -> u16 {
    let mut events = 0;
    for (flag, bits) in [
        (Readiness::READABLE, bits::READ),
        (Readiness::WRITABLE, bits::WRITE),
        (Readiness::HANGUP, bits::HUP),
        (Readiness::READ_CLOSED, bits::RDHUP | bits::READ),
        (Readiness::ERROR, bits::ERR),
        (Readiness::URGENT, bits::PRI),
    ] {
        if ready.contains(flag) {
            events |= bits;
        }
    }
    events
}

fn of_unix(program: &Program, id: UnixId) -> u16 {
    let Some(socket) = program.unix.get(&id) else { return bits::ERR };
    let mut events = 0;
    let readable = socket.kind != UnixKind::Stream || socket.used >= socket.options.receive_low();
    if !socket.queue.is_empty() && readable || socket.read_closed.is_some() {
        events |= bits::READ;
    }
    if socket.error.is_some() {
        events |= bits::ERR;
    }
    if socket.read_closed.is_some() {
        events |= bits::RDHUP;
        if socket.write_closed.is_some() {
            events |= bits::HUP;
        }
    }
    match &socket.state {
        UnixState::Listening(waiting, _) if !waiting.is_empty() => events |= bits::READ,
        UnixState::Listening(..) => {}
        UnixState::Connected(peer) => {
            if program.unix.get(peer).is_some_and(|peer| !peer.is_full(QUEUE_LIMIT / 2)) {
                events |= bits::WRITE;
            }
        }
        UnixState::Orphaned if socket.kind == UnixKind::Datagram => events |= bits::WRITE,
        UnixState::Orphaned => events |= bits::READ | bits::WRITE | bits::HUP | bits::RDHUP,
        UnixState::Idle if socket.kind == UnixKind::Datagram => events |= bits::WRITE,
        UnixState::Idle => events |= bits::WRITE | bits::HUP,
    }
    events
}

fn of_event(program: &Program, who: Viewer, id: EventId, looks: &mut u32) -> u16 {
    match program.events.get(&id) {
        None => bits::ERR,
        Some(Event::Epoll(epoll)) => {
            let ready = epoll.ready().any(|(target, item)| {
                let inner = program.descriptions.get(&target.description).and_then(|found| found.kind.epoll());
                if inner.is_some() {
                    if *looks == 0 {
                        return true;
                    }
                    *looks -= 1;
                }
                look(program, who, target.description, looks) & item.wanted() != 0
            });
            if ready { bits::READ } else { 0 }
        }
        Some(Event::Counter(counter)) => {
            let read = if counter.value > 0 { bits::IN } else { 0 };
            read | if counter.value < Counter::MAX { bits::OUT } else { 0 }
        }
        Some(Event::Timer(timer)) => {
            let due = timer.ticks > 0 || timer.deadline().is_some_and(|at| at <= who.now);
            if due { bits::IN } else { 0 }
        }
        Some(Event::Files(inotify)) => {
            if inotify.is_empty() {
                0
            } else {
                bits::READ
            }
        }
        Some(Event::Signals(set)) => {
            let own = program.threads.get(&who.thread).map_or(0, |thread| thread.pending.set().0);
            let shared = program.processes.get(&who.process).map_or(0, |process| process.pending.set().0);
            if (own | shared) & set.0 != 0 { bits::IN } else { 0 }
        }
    }
}

//! What closing gives up: descriptor tables, descriptions, and what these are open on.
use crate::{
    context::Context,
    event::{Event, EventId, watches::Watch},
    files::{Conversation, DescriptionId, FilesId, Kind},
    jobs,
    locks::Cut,
    pressure,
    resident::{Key, Resident},
    services::Services,
    syscall,
    timers::TimerRef,
};
use alloc::vec::Vec;
use shimos_hal::Machine;

impl<M: Machine> Services<M> {
    /// A process gives its descriptor table up; its descriptors are closed if no other process uses it.
    pub fn drop_table(&mut self, resident: &mut Resident<M>, files: FilesId) {
        let Some(table) = resident.program.tables.get_mut(&files) else { return };
        table.users = table.users.saturating_sub(1);
        if table.users > 0 {
            return;
        }
        let descriptors: Vec<DescriptionId> = table.iter().map(|(_, descriptor)| descriptor.description).collect();
        if descriptors.len() > pressure::FEW_DESCRIPTORS {
            // It stays, without users, until all of it is closed.
            resident.closing.push(files);
            return;
        }
        resident.program.tables.remove(&files);
        for description in descriptors {
            self.release_description(resident, description);
        }
    }

    /// A reference to a description is given up; with the last one what it is open on is closed.
    pub fn release_description(&mut self, resident: &mut Resident<M>, id: DescriptionId) {
        // Messages of a closed socket hold references as well; they are given up in turn, not one within the other.
        let mut open = Vec::from([id]);
        let sockets = matches!(resident.program.descriptions.get(&id).map(|found| &found.kind), Some(Kind::Unix(_)));
        while let Some(id) = open.pop() {
            open.extend(self.release_one(resident, id));
        }
        if sockets {
            // What was closed may have been the last way to sockets that lie in each other's queues.
            let dead = syscall::unreachable_rights(resident);
            for id in syscall::drop_rights(resident, &dead) {
                open.push(id);
                while let Some(id) = open.pop() {
                    open.extend(self.release_one(resident, id));
                }
            }
        }
    }

    /// Gives up one reference; returns more that are to be given up.
    fn release_one(&mut self, resident: &mut Resident<M>, id: DescriptionId) -> Vec<DescriptionId> {
        let Some(description) = resident.program.descriptions.get_mut(&id) else { return Vec::new() };
        description.references = description.references.saturating_sub(1);
        if description.references > 0 {
            return Vec::new();
        }
        let Some(description) = resident.program.descriptions.remove(&id) else { return Vec::new() };
        for watch in resident.watches.of_description(id) {
            resident.watches.remove(watch);
            if let Some(Event::Epoll(epoll)) = resident.program.events.get_mut(&watch.epoll) {
                epoll.remove(watch.target);
            }
        }
        if resident.program.locks.forget_description(id) == Cut::Some {
            resident.wake(Key::Lock);
        }
        if description.flags & syscall::ASYNC != 0 {
            resident.hearers.forget(id);
        }
        resident.notice_closed(&description);
        if let Some(node) = description.kind.node() {
            resident.program.tree.unpin(node);
            if !resident.program.seals.is_empty() && resident.program.tree.is_gone(node) {
                resident.program.seals.remove(&node);
            }
        }
        match description.kind {
            Kind::PipeReader(pipe) | Kind::PipeWriter(pipe) | Kind::PipeBoth(pipe) => {
                if let Some(state) = resident.program.pipes.get_mut(&pipe) {
                    if !matches!(description.kind, Kind::PipeWriter(_)) {
                        state.readers = state.readers.saturating_sub(1);
                    }
                    if !matches!(description.kind, Kind::PipeReader(_)) {
                        state.writers = state.writers.saturating_sub(1);
                    }
                    if state.readers == 0 && state.writers == 0 {
                        resident.program.forget_pipe(pipe);
                    }
                }
                resident.wake(Key::Pipe(pipe));
            }
            Kind::Queue(queue) => syscall::queue_closed(&mut resident.program, queue),
            Kind::Socket(socket) => {
                let now = self.machine.now();
                let _ = resident.program.net.close(now, socket);
            }
            Kind::Event(_, event) => end_event(resident, event),
            Kind::Master(_, pair) => jobs::master_closed(resident, pair),
            Kind::Slave { pair, .. } => jobs::slave_closed(resident, pair),
            Kind::Unix(socket) => return syscall::unix_closed(resident, socket),
            Kind::Shimos(_, Conversation { pending: Some(number), .. }) => {
                self.requests.forget(number, resident.program.head.id);
            }
            Kind::Netlink(socket) => {
                resident.program.netlink.remove(&socket);
            }
            _ => {}
        }
        Vec::new()
    }
}

impl<M: Machine> Context<'_, M> {
    /// Gives a reference to a description up.
    pub fn release_description(&mut self, id: DescriptionId) {
        self.services.release_description(self.resident, id);
    }
}

/// The last descriptor of an event object is closed.
fn end_event<M: Machine>(resident: &mut Resident<M>, id: EventId) {
    match resident.program.events.remove(&id) {
        Some(Event::Epoll(epoll)) => {
            for (target, _) in epoll.items() {
                resident.watches.remove(Watch { epoll: id, target });
            }
        }
        Some(Event::Files(inotify)) => {
            for (watch, file) in inotify.watches() {
                resident.file_watches.remove(file.node, id, watch);
            }
        }
        Some(Event::Timer(_)) => resident.timers.set(TimerRef::Descriptor(id), None),
        _ => {}
    }
    resident.wake(Key::Event(id));
}

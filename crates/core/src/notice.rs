//! Telling those who watch files what happens to them.
use crate::{
    context::{Context, Result},
    event::{
        Event, EventId,
        epoll::bits,
        inotify::{Told, mask},
    },
    files::{Description, DescriptionId, Kind, Place},
    resident::{Key, Resident},
    syscall::status_flags as flags,
};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_vfs::NodeId;

/// A name that a file has, or had.
#[derive(Clone, Copy)]
pub struct Name<'a> {
    /// The directory.
    pub dir: NodeId,
    /// The name in it.
    pub name: &'a [u8],
}

impl<'a> Name<'a> {
    /// The name of a place.
    pub fn of(place: &'a Place) -> Name<'a> {
        Name { dir: place.dir, name: &place.name }
    }
}

/// A file that a call names: how it is told of.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The file.
    pub node: NodeId,
    /// By which name, if there was one.
    pub place: Option<Place>,
}

impl<M: Machine> Resident<M> {
    /// Something happened to a file: those are told who watch it, and those who watch the directory where it has `name`.
    pub fn notice(&mut self, node: NodeId, name: Option<Name<'_>>, events: u32) {
        if self.file_watches.is_empty() {
            return;
        }
        if let Some(Name { dir, name }) = name.filter(|name| !matches!(name.name, b"" | b"." | b"..")) {
            self.notice_in(dir, name, events, 0);
        }
        self.notice_self(node, events);
    }

    /// Something happened to a file by itself.
    pub fn notice_self(&mut self, node: NodeId, events: u32) {
        self.tell_watchers(node, b"", events, 0);
    }

    /// Something happened to a name in a directory.
    pub fn notice_in(&mut self, dir: NodeId, name: &[u8], events: u32, cookie: u32) {
        self.tell_watchers(dir, name, events, cookie);
    }

    fn tell_watchers(&mut self, node: NodeId, name: &[u8], events: u32, cookie: u32) {
        if self.file_watches.is_empty() {
            return;
        }
        let node = self.program.tree.origin(node);
        // Programs are not told whether it was a directory that moved or went itself.
        let told = if events & (mask::MOVE_SELF | mask::DELETE_SELF) != 0 { events & !mask::ISDIR } else { events };
        for (id, watch) in self.file_watches.of(node) {
            let Some(Event::Files(inotify)) = self.program.events.get_mut(&id) else { continue };
            let Some(wanted) = inotify.get(watch).map(|watch| watch.mask) else { continue };
            if wanted & events & mask::EVENTS == 0 {
                continue;
            }
            inotify.push(Told { watch, mask: told, cookie, name: name.to_vec() });
            if wanted & mask::ONESHOT != 0 {
                inotify.remove(watch);
                self.file_watches.remove(node, id, watch);
            }
            self.wake_as(Key::Event(id), bits::READ);
        }
    }

    /// Files are no more: whoever watches them is told so, and watches them no more.
    pub fn notice_gone(&mut self) {
        for node in self.program.tree.take_gone() {
            self.program.forget_fifo(node);
            if self.file_watches.is_empty() {
                continue;
            }
            self.notice_self(node, mask::DELETE_SELF);
            for (id, watch) in self.file_watches.of(node) {
                self.forget_file_watch(id, watch);
            }
        }
    }

    /// A watch ends. Returns whether there was one.
    pub fn forget_file_watch(&mut self, id: EventId, watch: i32) -> bool {
        let Some(Event::Files(inotify)) = self.program.events.get_mut(&id) else { return false };
        let Some(ended) = inotify.remove(watch) else { return false };
        self.file_watches.remove(ended.node, id, watch);
        self.wake_as(Key::Event(id), bits::READ);
        true
    }

    /// Something happened by way of a description.
    #[inline]
    pub fn notice_by(&mut self, id: DescriptionId, events: u32) {
        if !self.file_watches.is_empty() {
            self.notice_through(id, events);
        }
    }

    fn notice_through(&mut self, id: DescriptionId, events: u32) {
        if let Some(description) = self.program.descriptions.get(&id).cloned() {
            self.notice_description(&description, events);
        }
    }

    fn notice_description(&mut self, description: &Description, events: u32) {
        let Some(node) = description.kind.node() else { return };
        if let Kind::Path(_) = description.kind {
            return;
        }
        let directory = if let Kind::Directory(_) = description.kind { mask::ISDIR } else { 0 };
        let name = description.place.as_ref().map(Name::of);
        self.notice(node, name, events | directory);
    }

    /// A description is closed for good.
    pub fn notice_closed(&mut self, description: &Description) {
        let writes = description.flags & flags::ACCESS_MODE != flags::READ_ONLY;
        self.notice_description(description, if writes { mask::CLOSE_WRITE } else { mask::CLOSE_NOWRITE });
    }
}

impl<M: Machine> Context<'_, M> {
    /// Whether anybody watches files.
    pub fn files_are_watched(&self) -> bool {
        !self.resident.file_watches.is_empty()
    }
    /// A subject was changed.
    pub fn notice_subject(&mut self, subject: &Subject, events: u32) -> Result<()> {
        if self.files_are_watched() {
            let events = events | self.kind_mask(subject.node)?;
            self.resident.notice(subject.node, subject.place.as_ref().map(Name::of), events);
        }
        Ok(())
    }
    /// What is told of a file besides: whether it is a directory. Nothing while no file is watched.
    pub fn kind_mask(&mut self, node: NodeId) -> Result<u32> {
        let watched = self.files_are_watched();
        let directory = watched && self.metadata(node)?.kind == shimos_vfs::Kind::Directory;
        Ok(if directory { mask::ISDIR } else { 0 })
    }
    /// The subject of a descriptor.
    pub fn subject_of(&mut self, fd: u64, otherwise: Errno) -> Result<Subject> {
        let description = self.description(fd)?;
        let node = description.kind.node().ok_or(otherwise)?;
        Ok(Subject { node, place: description.place.clone() })
    }
    /// A number that ties the two ends of a move together.
    pub fn move_cookie(&mut self) -> u32 {
        self.resident.program.fresh_id()
    }
}

//! What a checked process has: files, descriptors, pipes, memory.
use std::collections::{BTreeMap, VecDeque};

/// Bytes that a file of the model may have.
pub(crate) const FILE_LIMIT: u64 = 1 << 17;
/// Bytes in a page.
pub(crate) const PAGE: usize = 4096;
/// Bytes that a pipe holds.
pub(crate) const PIPE_ROOM: usize = 65536;

/// What a description is open on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A file, by its place in [`Model::files`].
    File(usize),
    /// An end of a queue that is read.
    Reader(usize),
    /// An end of a queue that is written.
    Writer(usize),
    /// One end of a socket pair: the queue that it reads, and the one that it writes.
    Socket(usize, usize),
    /// A counter.
    Counter(usize),
}

/// An open file description.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Description {
    pub kind: Kind,
    pub offset: u64,
    pub access: u64,
    pub append: bool,
    pub references: u32,
}

/// A descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Descriptor {
    pub description: usize,
    pub close_on_exec: bool,
}

/// A file: its content, and how many names and descriptions it has.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    pub content: Vec<u8>,
    pub names: u32,
}

/// Bytes under way, and who still has the ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    pub bytes: VecDeque<u8>,
    pub readers: u32,
    pub writers: u32,
}

/// A page of the checked mappings.
#[derive(Clone, Debug, Default)]
pub(crate) enum Page {
    /// Not mapped.
    #[default]
    Hole,
    /// Its own bytes.
    Own { bytes: Vec<u8>, prot: u64, shared: bool },
    /// A page of a file, seen by all.
    OfFile { file: usize, index: u64, prot: u64 },
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub files: Vec<File>,
    pub names: BTreeMap<String, usize>,
    pub descriptions: Vec<Description>,
    pub fds: BTreeMap<u64, Descriptor>,
    pub queues: Vec<Queue>,
    /// Counters: value, and whether reading takes one at a time.
    pub counters: Vec<(u64, bool)>,
    pub pages: Vec<Page>,
    pub mask: u64,
    pub umask: u64,
    pub name: Vec<u8>,
}

impl Model {
    /// The lowest number that is no descriptor, from `from` on.
    pub fn free_fd(&self, from: u64) -> u64 {
        (from..).find(|fd| !self.fds.contains_key(fd)).unwrap_or(u64::MAX)
    }

    /// The description behind a descriptor.
    pub fn description(&self, fd: u64) -> Option<&Description> {
        self.fds.get(&fd).and_then(|descriptor| self.descriptions.get(descriptor.description))
    }

    /// The same, to change.
    pub fn description_mut(&mut self, fd: u64) -> Option<&mut Description> {
        let place = self.fds.get(&fd)?.description;
        self.descriptions.get_mut(place)
    }

    /// Adds a description and a descriptor for it.
    pub fn open(&mut self, fd: u64, kind: Kind, access: u64, append: bool, close_on_exec: bool) {
        let description = self.descriptions.len();
        self.descriptions.push(Description { kind, offset: 0, access, append, references: 1 });
        match kind {
            Kind::Reader(queue) => self.queues[queue].readers += 1,
            Kind::Writer(queue) => self.queues[queue].writers += 1,
            Kind::Socket(reads, writes) => {
                self.queues[reads].readers += 1;
                self.queues[writes].writers += 1;
            }
            Kind::File(_) | Kind::Counter(_) => {}
        }
        self.fds.insert(fd, Descriptor { description, close_on_exec });
    }

    /// Puts a copy of a descriptor at another number.
    pub fn copy(&mut self, from: u64, to: u64, close_on_exec: bool) {
        if let Some(descriptor) = self.fds.get(&from).copied() {
            self.close(to);
            self.descriptions[descriptor.description].references += 1;
            self.fds.insert(to, Descriptor { close_on_exec, ..descriptor });
        }
    }

    /// Closes a descriptor, if there is one.
    pub fn close(&mut self, fd: u64) {
        let Some(descriptor) = self.fds.remove(&fd) else { return };
        let Some(description) = self.descriptions.get_mut(descriptor.description) else { return };
        description.references -= 1;
        if description.references > 0 {
            return;
        }
        match description.kind {
            Kind::Reader(queue) => self.queues[queue].readers -= 1,
            Kind::Writer(queue) => self.queues[queue].writers -= 1,
            Kind::Socket(reads, writes) => {
                self.queues[reads].readers -= 1;
                self.queues[writes].writers -= 1;
            }
            Kind::File(_) | Kind::Counter(_) => {}
        }
    }

    /// Writes to a file of the model; what lies between its end and `at` reads as zeros.
    pub fn store(&mut self, file: usize, at: u64, bytes: &[u8]) {
        let content = &mut self.files[file].content;
        let end = at as usize + bytes.len();
        if !bytes.is_empty() && content.len() < end {
            content.resize(end, 0);
        }
        if !bytes.is_empty() {
            content[at as usize..end].copy_from_slice(bytes);
        }
    }

    /// Reads from a file of the model.
    pub fn load(&self, file: usize, at: u64, count: u64) -> Vec<u8> {
        let content = &self.files[file].content;
        let from = (at as usize).min(content.len());
        let to = (at.saturating_add(count) as usize).min(content.len());
        content[from..to].to_vec()
    }

    /// What is in memory at a place within one page; `None` where it cannot be read.
    pub fn peek(&self, page: usize, offset: usize, count: usize) -> Option<Vec<u8>> {
        match self.pages.get(page)? {
            Page::Own { bytes, prot, .. } if prot & 3 != 0 => Some(bytes[offset..offset + count].to_vec()),
            Page::OfFile { file, index, prot } if prot & 3 != 0 => {
                Some(self.load(*file, index * PAGE as u64 + offset as u64, count as u64))
            }
            _ => None,
        }
    }

    /// Whether memory at a page can be written.
    pub fn is_writable(&self, page: usize) -> bool {
        match self.pages.get(page) {
            Some(Page::Own { prot, .. } | Page::OfFile { prot, .. }) => prot & 2 != 0,
            _ => false,
        }
    }

    /// Changes memory at a place within one page.
    pub fn poke(&mut self, page: usize, offset: usize, new: &[u8]) {
        match self.pages.get_mut(page) {
            Some(Page::Own { bytes, .. }) => bytes[offset..offset + new.len()].copy_from_slice(new),
            Some(Page::OfFile { file, index, .. }) => {
                let (file, at) = (*file, *index * PAGE as u64 + offset as u64);
                self.store(file, at, new);
            }
            _ => {}
        }
    }

    /// How many bytes of a page of a file there are; all of other pages.
    pub fn bytes_of(&self, page: usize) -> usize {
        match self.pages.get(page) {
            Some(Page::OfFile { file, index, .. }) => {
                let len = self.files[*file].content.len() as u64;
                len.saturating_sub(index * PAGE as u64).min(PAGE as u64) as usize
            }
            _ => PAGE,
        }
    }
}

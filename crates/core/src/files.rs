//! Descriptors and the open file descriptions they share.
use crate::{
    event::{EventClass, EventId},
    ipc::queue::QueueId,
    numbered::Numbered,
    pipe::PipeId,
    resident::Key,
    syscall::Hearer,
    tty::PairId,
};
use alloc::vec::Vec;
use minicbor::{Decode, Encode};
use shimos_abi::{
    errno::Errno,
    flat,
    flat::{Flat, Source},
    ids::Pid,
    time::Nanos,
};
use shimos_net::SocketId;
use shimos_vfs::NodeId;

/// Names a descriptor table of a program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct FilesId(#[n(0)] pub u32);

/// Names an open file description of a program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct DescriptionId(#[n(0)] pub u32);

flat!(DescriptionId { 0 });

/// Names a UNIX socket of a program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct UnixId(#[n(0)] pub u32);

/// Names a netlink socket of a program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct NetlinkId(#[n(0)] pub u32);

/// The first inode number of sockets of the network.
pub const SOCKET_NUMBERS: u32 = 1 << 24;

/// An open file description (open(2)): what descriptors made by dup and fork share.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Description {
    /// What it is open on.
    #[n(0)]
    pub kind: Kind,
    /// File status flags: access mode, O_APPEND, O_NONBLOCK ...
    #[n(1)]
    pub flags: u32,
    /// File offset, or a directory's cursor.
    #[n(2)]
    pub offset: u64,
    /// Descriptors that refer to it, over all tables and messages under way.
    #[n(3)]
    pub references: u32,
    /// Under which name it was opened.
    #[n(4)]
    pub place: Option<Place>,
    /// How long calls on a socket wait at most.
    #[n(5)]
    pub patience: Option<Patience>,
    /// Who is sent signals about it.
    #[n(20)]
    pub hearer: Option<Hearer>,
}

flat!(Description { kind, flags, offset, references, place, patience, hearer });

/// Time limits of a socket (SO_RCVTIMEO and SO_SNDTIMEO); none is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Patience {
    /// For receiving and accepting.
    #[n(0)]
    pub receive: Option<Nanos>,
    /// For sending and connecting.
    #[n(1)]
    pub send: Option<Nanos>,
}

flat!(Patience { receive, send });

/// Where a name is: its directory, and the last part of its path.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Place {
    /// The directory.
    #[n(0)]
    pub dir: NodeId,
    /// The name in it.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub name: Vec<u8>,
}

/// What a description is open on.
#[derive(Clone, Debug, Encode, Decode)]
pub enum Kind {
    /// A regular file.
    #[n(0)]
    File(#[n(0)] NodeId),
    /// A directory.
    #[n(1)]
    Directory(#[n(0)] NodeId),
    /// Reading end of a pipe.
    #[n(2)]
    PipeReader(#[n(0)] PipeId),
    /// Writing end of a pipe.
    #[n(3)]
    PipeWriter(#[n(0)] PipeId),
    /// The program's console.
    #[n(4)]
    Console(#[n(0)] NodeId),
    /// /dev/null.
    #[n(5)]
    Null(#[n(0)] NodeId),
    /// /dev/zero.
    #[n(6)]
    Zero(#[n(0)] NodeId),
    /// /dev/full.
    #[n(7)]
    Full(#[n(0)] NodeId),
    /// /dev/random and /dev/urandom.
    #[n(8)]
    Random(#[n(0)] NodeId),
    /// /dev/shimos with the conversation it carries.
    #[n(9)]
    Shimos(#[n(0)] NodeId, #[n(1)] Conversation),
    /// A file of /proc or /sys, as it was when it was opened.
    #[n(10)]
    Snapshot(#[n(0)] NodeId, #[cbor(n(1), with = "minicbor::bytes")] Vec<u8>),
    /// A TCP or UDP socket.
    #[n(11)]
    Socket(#[n(0)] SocketId),
    /// A UNIX socket.
    #[n(12)]
    Unix(#[n(0)] UnixId),
    /// Opened with O_PATH.
    #[n(13)]
    Path(#[n(0)] NodeId),
    /// A named pipe, opened for reading and writing.
    #[n(14)]
    PipeBoth(#[n(0)] PipeId),
    /// A netlink socket.
    #[n(60)]
    Netlink(#[n(0)] NetlinkId),
    /// A POSIX message queue.
    #[n(40)]
    Queue(#[n(0)] QueueId),
    /// An event object.
    #[n(30)]
    Event(#[n(0)] EventClass, #[n(1)] EventId),
    /// A process, by its id and when it started.
    #[n(31)]
    Process(#[n(0)] Pid, #[n(1)] Nanos),
    /// The master of a pair of pseudo terminals.
    #[n(50)]
    Master(#[n(0)] NodeId, #[n(1)] PairId),
    /// The slave of a pair; it works as long as the terminal was not hung up since.
    #[n(51)]
    Slave {
        /// The name that it was opened by.
        #[n(0)]
        node: NodeId,
        /// The pair.
        #[n(1)]
        pair: PairId,
        /// How often the terminal had been hung up before.
        #[n(2)]
        hangups: u32,
    },
}

/// Sockets are many; the others have numbered fields.
impl Flat for Kind {
    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Kind::Socket(id) => (1_u8, id.0).write(to),
            other => {
                to.push(0);
                flat::write_numbered(other, to);
            }
        }
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<Kind> {
        match u8::read(from)? {
            0 => flat::read_numbered(from),
            1 => u32::read(from).map(|id| Kind::Socket(SocketId(id))),
            _ => None,
        }
    }
}

impl Flat for Place {
    fn write(&self, to: &mut Vec<u8>) {
        flat::write_numbered(self, to);
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<Place> {
        flat::read_numbered(from)
    }
}

impl Flat for Hearer {
    fn write(&self, to: &mut Vec<u8>) {
        flat::write_numbered(self, to);
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<Hearer> {
        flat::read_numbered(from)
    }
}

impl Kind {
    /// The number of a socket's inode, if it is one: those of the network have a range of their own.
    pub fn socket_number(&self) -> Option<u32> {
        match self {
            Kind::Socket(socket) => Some(socket.0.wrapping_add(SOCKET_NUMBERS)),
            Kind::Unix(socket) => Some(socket.0),
            Kind::Netlink(socket) => Some(socket.0),
            _ => None,
        }
    }

    /// Whether bytes of it may be asked for at a place (pread(2)).
    pub fn has_places(&self) -> bool {
        matches!(
            self,
            Kind::File(_) | Kind::Snapshot(..) | Kind::Null(_) | Kind::Zero(_) | Kind::Full(_) | Kind::Random(_)
        )
    }

    /// The node it was opened by, if it has one.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Kind::File(node)
            | Kind::Directory(node)
            | Kind::Console(node)
            | Kind::Null(node)
            | Kind::Zero(node)
            | Kind::Full(node)
            | Kind::Random(node)
            | Kind::Shimos(node, _)
            | Kind::Snapshot(node, _)
            | Kind::Master(node, _)
            | Kind::Slave { node, .. }
            | Kind::Path(node) => Some(*node),
            Kind::PipeReader(_)
            | Kind::PipeWriter(_)
            | Kind::PipeBoth(_)
            | Kind::Socket(_)
            | Kind::Unix(_)
            | Kind::Netlink(_)
            | Kind::Queue(_)
            | Kind::Process(..)
            | Kind::Event(..) => None,
        }
    }

    /// What is woken when its readiness changes; none for what is always ready.
    pub fn key(&self) -> Option<Key> {
        match self {
            Kind::PipeReader(pipe) | Kind::PipeWriter(pipe) | Kind::PipeBoth(pipe) => Some(Key::Pipe(*pipe)),
            Kind::Console(_) => Some(Key::Terminal),
            Kind::Master(_, pair) | Kind::Slave { pair, .. } => Some(Key::Pair(*pair)),
            Kind::Shimos(_, conversation) => conversation.pending.map(Key::Control),
            Kind::Socket(socket) => Some(Key::Socket(*socket)),
            Kind::Unix(socket) => Some(Key::Unix(*socket)),
            Kind::Netlink(socket) => Some(Key::Netlink(*socket)),
            Kind::Queue(queue) => Some(Key::Queue(*queue)),
            Kind::Process(pid, _) => Some(Key::Ended(*pid)),
            Kind::Event(EventClass::Signals, _) => Some(Key::Signal),
            Kind::Event(_, id) => Some(Key::Event(*id)),
            Kind::File(_)
            | Kind::Directory(_)
            | Kind::Null(_)
            | Kind::Zero(_)
            | Kind::Full(_)
            | Kind::Random(_)
            | Kind::Snapshot(..)
            | Kind::Path(_) => None,
        }
    }

    /// The epoll set that it is.
    pub fn epoll(&self) -> Option<EventId> {
        match self {
            Kind::Event(EventClass::Epoll, id) => Some(*id),
            _ => None,
        }
    }
}

/// A conversation over /dev/shimos.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub struct Conversation {
    /// Bytes of a request that is not complete yet.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub request: Vec<u8>,
    /// Number of the request that is being worked on.
    #[n(1)]
    pub pending: Option<u64>,
    /// Bytes of answers that were not read yet.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub answer: Vec<u8>,
}

/// A descriptor: an entry of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Descriptor {
    /// What it refers to.
    #[n(0)]
    pub description: DescriptionId,
    /// FD_CLOEXEC.
    #[n(1)]
    pub on_exec: OnExec,
}

flat!(Descriptor { description, on_exec });

/// What execve(2) does with a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum OnExec {
    /// It stays open.
    #[n(0)]
    Keep,
    /// It is closed.
    #[n(1)]
    Close,
}

impl Flat for OnExec {
    fn write(&self, to: &mut Vec<u8>) {
        (*self == OnExec::Close).write(to);
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<OnExec> {
        bool::read(from).map(|closes| if closes { OnExec::Close } else { OnExec::Keep })
    }
}

/// A descriptor table.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub struct FileTable {
    #[n(0)]
    entries: Numbered,
    /// Processes that use it.
    #[n(1)]
    pub users: u32,
    /// All numbers below this are taken, so that a table of many is not searched from its beginning.
    #[cbor(skip)]
    lowest: u32,
}

impl FileTable {
    /// An empty table with one user.
    pub fn new() -> FileTable {
        FileTable { users: 1, ..FileTable::default() }
    }
    /// The descriptor `fd`.
    #[inline]
    pub fn get(&self, fd: u64) -> Result<Descriptor, Errno> {
        u32::try_from(fd).ok().and_then(|fd| self.entries.get(fd)).ok_or(Errno::EBADF)
    }
    /// The descriptor `fd`, to change.
    pub fn get_mut(&mut self, fd: u64) -> Result<&mut Descriptor, Errno> {
        u32::try_from(fd).ok().and_then(|fd| self.entries.get_mut(fd)).ok_or(Errno::EBADF)
    }
    /// Puts a descriptor at the lowest free number from `from` on and below `limit`.
    pub fn insert(&mut self, descriptor: Descriptor, from: u64, limit: u64) -> Result<u64, Errno> {
        let lowest = from <= u64::from(self.lowest);
        let fd = self.entries.free_from(if lowest { self.lowest.into() } else { from });
        if fd >= limit {
            return Err(Errno::EMFILE);
        }
        self.entries.insert(fd as u32, descriptor);
        if lowest {
            self.lowest = (fd as u32).saturating_add(1);
        }
        Ok(fd)
    }
    /// Whether a number below `limit` is free.
    pub fn has_room(&self, limit: u64) -> bool {
        (self.entries.len() as u64) < limit
    }
    /// Puts a descriptor at `fd`; returns what was there.
    pub fn replace(&mut self, fd: u32, descriptor: Descriptor) -> Option<Descriptor> {
        self.entries.insert(fd, descriptor)
    }
    /// Takes `fd` out.
    pub fn remove(&mut self, fd: u64) -> Result<Descriptor, Errno> {
        let number = u32::try_from(fd).map_err(|_| Errno::EBADF)?;
        let removed = self.entries.remove(number).ok_or(Errno::EBADF)?;
        self.lowest = self.lowest.min(number);
        Ok(removed)
    }
    /// All descriptors in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Descriptor)> + '_ {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_read_as_they_were_saved() {
        let place = Place { dir: NodeId::Upper(7), name: b"name".to_vec() };
        let patience = Patience { receive: Some(Nanos(1)), send: None };
        let kinds = [
            Kind::Socket(SocketId(5)),
            Kind::File(NodeId::Upper(9)),
            Kind::Shimos(NodeId::Upper(1), Conversation::default()),
        ];
        for kind in kinds {
            for place in [None, Some(place.clone())] {
                let description = Description {
                    kind: kind.clone(),
                    flags: 2,
                    offset: u64::MAX,
                    references: 3,
                    place,
                    patience: Some(patience),
                    hearer: None,
                };
                let mut form = Vec::new();
                description.write(&mut form);
                let read = Description::read(&mut Source::new(&form)).unwrap();
                assert_eq!(minicbor::to_vec(&read).unwrap(), minicbor::to_vec(&description).unwrap());
                for length in 0..form.len() {
                    assert!(Description::read(&mut Source::new(&form[..length])).is_none(), "{length} bytes");
                }
            }
        }
        assert!(Description::read(&mut Source::new(&[9; 40])).is_none(), "a kind that there is not");
    }

    #[test]
    fn numbers_are_the_lowest_that_are_free() {
        let descriptor = Descriptor { description: DescriptionId(1), on_exec: OnExec::Keep };
        let mut table = FileTable::new();
        for wanted in 0..5 {
            assert_eq!(table.insert(descriptor, 0, 100), Ok(wanted));
        }
        assert_eq!(table.insert(descriptor, 10, 100), Ok(10));
        assert_eq!(table.insert(descriptor, 3, 100), Ok(5));
        assert_eq!(table.remove(1), Ok(descriptor));
        assert_eq!(table.remove(3), Ok(descriptor));
        assert_eq!(table.insert(descriptor, 2, 100), Ok(3));
        assert_eq!(table.insert(descriptor, 0, 100), Ok(1));
        assert_eq!(table.replace(6, descriptor), None);
        assert_eq!(table.insert(descriptor, 0, 100), Ok(7));
        assert_eq!(table.insert(descriptor, 8, 9), Ok(8));
        assert_eq!(table.insert(descriptor, 8, 9), Err(Errno::EMFILE));
    }
}

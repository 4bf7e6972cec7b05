//! Streams without a copy in between: the kernel fills or empties a connection's queue of bytes from or to the program's
//! memory by itself. The queue is lent out for that and must come back at once.
use crate::{
    options::Flags,
    ring::Ring,
    socket::{Kind, More, Socket, SocketId},
    stack::Stack,
    tcp::Connection,
};
use shimos_abi::{errno::Errno, time::Nanos};

/// Bytes that a program may take.
#[derive(Debug)]
pub struct Received {
    socket: SocketId,
    ring: Ring,
}

impl Received {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Up to `count` bytes from place `start` on, in two runs.
    pub fn range(&self, start: usize, count: usize) -> (&[u8], &[u8]) {
        self.ring.range(start, count)
    }
}

/// Room for bytes that are to be sent.
#[derive(Debug)]
pub struct Room {
    socket: SocketId,
    ring: Ring,
    left: usize,
    added: usize,
}

impl Room {
    /// How many bytes still have room.
    pub fn left(&self) -> usize {
        self.left
    }

    /// The place for the next `count` bytes, at most as many as have room, in two runs.
    pub fn space(&mut self, count: usize) -> (&mut [u8], &mut [u8]) {
        self.ring.space(count.min(self.left))
    }

    /// Counts bytes that were put there.
    pub fn commit(&mut self, count: usize) {
        let count = count.min(self.left);
        self.ring.commit(count);
        self.left -= count;
        self.added += count;
    }

    /// How many bytes were put there.
    pub fn added(&self) -> usize {
        self.added
    }
}

fn connection(socket: &mut Socket) -> Option<&mut Connection> {
    match &mut socket.kind {
        Kind::Connection(connection) => Some(connection),
        _ => None,
    }
}

impl Stack {
    /// Lends what a stream has received. `None` if there is nothing, or if reading it takes more than its bytes.
    pub fn lend_received(&mut self, id: SocketId) -> Option<Received> {
        let socket = self.socket_mut(id).ok()?;
        if socket.options.has(Flags::TELL_WAITING) {
            return None;
        }
        let connection = connection(socket)?;
        if connection.urgent.is_some() || connection.receive.is_empty() {
            return None;
        }
        Some(Received { socket: id, ring: core::mem::take(&mut connection.receive) })
    }

    /// Takes it back. The program has taken the first `count` bytes.
    pub fn return_received(&mut self, now: Nanos, received: Received, count: usize) {
        self.with_connection(now, received.socket, |connection, cx| {
            connection.receive = received.ring;
            connection.consume(count, cx);
        });
    }

    /// Lends the room for what a stream is to send. `None` if it is no stream; `EAGAIN` if there is no room now.
    pub fn lend_room(&mut self, id: SocketId) -> Result<Option<Room>, Errno> {
        let socket = self.socket_mut(id)?;
        if !matches!(socket.kind, Kind::Connection(_)) {
            return Ok(None);
        }
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        let Kind::Connection(connection) = &mut socket.kind else { return Ok(None) };
        match connection.room(&socket.options)? {
            0 => Err(Errno::EAGAIN),
            left => Ok(Some(Room { socket: id, ring: core::mem::take(&mut connection.send), left, added: 0 })),
        }
    }

    /// Takes it back, and sends what may be sent of what was added.
    pub fn return_room(&mut self, now: Nanos, room: Room, more: More) {
        self.with_connection(now, room.socket, |connection, cx| {
            connection.send = room.ring;
            if room.added > 0 {
                connection.more = more == More::Follows;
                connection.output(cx);
            }
        });
    }
}

//! Receiving messages: recvfrom, recvmsg, recvmmsg.
use super::{
    Arguments, ancillary, netlink,
    network::{Socket, socket_by, socket_of},
    sending::{Header, MAX_MESSAGES, MESSAGE_STRIDE, message, read_header, waiting},
    sockaddr,
    transfer::{Direction, Waiting, wait_if},
    unix_data,
};
use crate::{
    context::{Context, MAX_TRANSFER, Result, Stop},
    files::{DescriptionId, OnExec},
    resident::Key,
    unix::Owner,
};
use alloc::{vec, vec::Vec};
use shimos_abi::{errno::Errno, time::Nanos};
use shimos_hal::Machine;
use shimos_net::{Control, Protocol, SocketId, Stamp, Take};

/// What was received.
#[derive(Default)]
pub struct Received {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// How many there were; more than `bytes` if a datagram was cut short.
    pub length: usize,
    /// Descriptions that came along; the receiver owns the references.
    pub files: Vec<DescriptionId>,
    /// The sender's address.
    pub from: Vec<u8>,
    /// Who sent it, for who wants to know.
    pub credentials: Option<Owner>,
    /// What else is told about it.
    pub control: Vec<Control>,
    /// When it came, for who wants to know.
    pub stamp: Option<Stamp>,
    /// Message flags.
    pub flags: u64,
}

impl Received {
    /// The bytes alone: nobody asked for the descriptors, so they are closed.
    pub fn without_files<M: Machine>(&mut self, c: &mut Context<'_, M>) {
        for file in core::mem::take(&mut self.files) {
            c.release_description(file);
        }
    }
}

/// Where received bytes go.
struct Place<'a> {
    spans: &'a [(u64, usize)],
}

impl Place<'_> {
    fn room(&self) -> usize {
        self.spans.iter().fold(0_usize, |sum, (_, len)| sum.saturating_add(*len)).min(MAX_TRANSFER)
    }

    /// Makes sure that a message of `count` bytes can be stored: what was taken out cannot be put back.
    fn probe<M: Machine>(&self, c: &mut Context<'_, M>, count: usize) -> Result<()> {
        let mut left = count;
        for (addr, len) in self.spans {
            let now = (*len).min(left);
            if now > 0 {
                c.probe_writable(*addr, now)?;
            }
            left -= now;
        }
        Ok(())
    }

    /// Stores bytes from place `at` on.
    fn store<M: Machine>(&self, c: &mut Context<'_, M>, mut at: usize, mut bytes: &[u8]) -> Result<()> {
        for (addr, len) in self.spans {
            if bytes.is_empty() {
                break;
            }
            if at >= *len {
                at -= len;
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(len - at));
            c.write_bytes(addr.wrapping_add(at as u64), now)?;
            bytes = later;
            at = 0;
        }
        Ok(())
    }

    /// Stores up to `count` bytes of a stream from place `at` on, without a copy in between. Returns how many there were;
    /// `None` if the stream has none, or wants to be read otherwise.
    fn store_stream<M: Machine>(
        &self,
        c: &mut Context<'_, M>,
        id: SocketId,
        at: usize,
        count: usize,
    ) -> Result<Option<usize>> {
        let Some(lent) = c.resident.program.net.lend_received(id) else { return Ok(None) };
        let (first, second) = lent.range(0, count);
        let stored = self.store(c, at, first).and_then(|()| self.store(c, at + first.len(), second));
        let count = if stored.is_ok() { first.len() + second.len() } else { 0 };
        let now = c.now();
        c.resident.program.net.return_received(now, lent, count);
        stored.map(|()| Some(count))
    }
}

/// Reads from a TCP connection into the caller's memory (read(2)). `None` if it is none, or has too little.
pub fn read_stream<M: Machine>(c: &mut Context<'_, M>, id: SocketId, spans: &[(u64, usize)]) -> Result<Option<usize>> {
    let place = Place { spans };
    let room = place.room();
    let net = &c.resident.program.net;
    if room == 0 || net.readable_bytes(id).unwrap_or(0) < net.options(id)?.receive_low().min(room) {
        return Ok(None);
    }
    place.store_stream(c, id, 0, room)
}

/// Receives one message and stores its bytes. Returns it, and what the call returns.
fn receive_message<M: Machine>(
    c: &mut Context<'_, M>,
    fd: u64,
    place: &Place<'_>,
    msg_flags: u64,
) -> Result<(Received, u64)> {
    let (description, socket) = socket_of(c, fd)?;
    let waiting = waiting(c, description, Direction::In, msg_flags)?;
    receive_from(c, socket, place, msg_flags, waiting)
}

fn receive_from<M: Machine>(
    c: &mut Context<'_, M>,
    socket: Socket,
    place: &Place<'_>,
    msg_flags: u64,
    waiting: Waiting,
) -> Result<(Received, u64)> {
    let take = if msg_flags & message::PEEK != 0 { Take::Peek } else { Take::Consume };
    let room = place.room();
    match socket {
        Socket::Net(id) if c.resident.program.net.protocol(id)? == Protocol::Tcp => {
            receive_stream(c, id, place, msg_flags, waiting)
        }
        Socket::Unix(id) => unix_data::receive_into(c, id, msg_flags, waiting, room, |c, at, bytes| {
            place.probe(c, at + bytes.len())?;
            place.store(c, at, bytes)
        }),
        Socket::Net(id) => {
            let received = receive_datagram(c, id, place, msg_flags, waiting, take)?;
            Ok(finish(received, msg_flags))
        }
        Socket::Netlink(id) => {
            let received = netlink::receive(c, id, room, waiting, take)?;
            place.store(c, 0, &received.bytes)?;
            Ok(finish(received, msg_flags))
        }
    }
}

/// What a call returns for a datagram: its true length, if that is asked for.
pub fn finish(mut received: Received, msg_flags: u64) -> (Received, u64) {
    if received.length > received.bytes.len() {
        received.flags |= message::TRUNCATED;
    }
    let whole = msg_flags & message::TRUNCATED != 0;
    let count = if whole { received.length } else { received.bytes.len() };
    (received, count as u64)
}

fn receive_datagram<M: Machine>(
    c: &mut Context<'_, M>,
    id: SocketId,
    place: &Place<'_>,
    msg_flags: u64,
    waiting: Waiting,
    take: Take,
) -> Result<Received> {
    let now = c.now();
    if msg_flags & message::ERRORS != 0 {
        let mut bytes = vec![0; place.room().min(1 << 16)];
        let got = c.resident.program.net.receive_failure(id, &mut bytes)?;
        bytes.truncate(got.copied);
        place.store(c, 0, &bytes)?;
        let from = got.from.map(sockaddr::bytes_of).unwrap_or_default();
        let (length, control) = (got.length, got.control);
        return Ok(Received { bytes, length, from, control, flags: message::ERRORS, ..Received::default() });
    }
    if msg_flags & message::OUT_OF_BAND != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let waits = c.resident.program.net.readable_bytes(id)?;
    let count = place.room().min(waits);
    place.probe(c, count)?;
    let mut bytes = vec![0; count];
    match c.resident.program.net.receive_from(now, id, &mut bytes, take) {
        Ok(got) => {
            bytes.truncate(got.copied);
            place.store(c, 0, &bytes)?;
            let from = got.from.map(sockaddr::bytes_of).unwrap_or_default();
            let (length, control, stamp) = (got.length, got.control, got.stamp);
            Ok(Received { bytes, length, from, control, stamp, ..Received::default() })
        }
        Err(Errno::EAGAIN) => wait_if(c, waiting, Key::Socket(id)),
        Err(errno) => Err(errno.into()),
    }
}

/// Receives from a stream: what is there, or with MSG_WAITALL or SO_RCVLOWAT as much as is asked for. What was stored before
/// the call had to wait is kept in its note.
fn receive_stream<M: Machine>(
    c: &mut Context<'_, M>,
    id: SocketId,
    place: &Place<'_>,
    msg_flags: u64,
    waiting: Waiting,
) -> Result<(Received, u64)> {
    let now = c.now();
    let flag = |flag: u64| msg_flags & flag != 0;
    if flag(message::ERRORS) {
        return Err(Errno::EAGAIN.into());
    }
    let take = if flag(message::PEEK) { Take::Peek } else { Take::Consume };
    if flag(message::OUT_OF_BAND) {
        // There is nothing to wait for: the byte comes when it comes.
        let byte = c.resident.program.net.receive_urgent(id, take)?;
        place.store(c, 0, &[byte])?;
        let flags = message::OUT_OF_BAND;
        return Ok((Received { bytes: vec![byte], length: 1, flags, ..Received::default() }, 1));
    }
    let room = place.room();
    if room == 0 {
        return Ok((Received::default(), 0));
    }
    let low = c.resident.program.net.options(id)?.receive_low();
    let least = if flag(message::WAIT_ALL) { room } else { low.min(room) };
    let mut moved = if take == Take::Consume { (c.moved()? as usize).min(room) } else { 0 };
    let mut control = Vec::new();
    loop {
        let waits = c.resident.program.net.readable_bytes(id).unwrap_or(0);
        if take == Take::Peek && waits < least && waiting != Waiting::Refused && !is_ended(c, id) {
            match wait_if::<M, ()>(c, waiting, Key::Socket(id)) {
                Err(Stop::Errno(_)) if waits > 0 => {}
                other => {
                    other?;
                }
            }
        }
        let count = (room - moved).min(waits);
        if take == Take::Consume && count > 0 && !flag(message::TRUNCATED) {
            match place.store_stream(c, id, moved, count) {
                Ok(None) => {}
                Ok(Some(got)) => {
                    moved += got;
                    if moved >= least {
                        break;
                    }
                    continue;
                }
                Err(Stop::Errno(_)) if moved > 0 => break,
                Err(Stop::Block(keys)) => {
                    c.set_moved(moved as u64)?;
                    return Err(Stop::Block(keys));
                }
                Err(stop) => return Err(stop),
            }
        }
        place.probe(c, moved + count)?;
        // With nothing there, a place for one byte tells the end from nothing yet.
        let mut bytes = vec![0; if room > moved { count.max(1) } else { 0 }];
        match c.resident.program.net.receive_from(now, id, &mut bytes, take) {
            Ok(got) => {
                let bytes = bytes.get(..got.copied).unwrap_or_default();
                if !flag(message::TRUNCATED) {
                    place.store(c, moved, bytes)?;
                }
                moved += bytes.len();
                control = got.control;
                if moved >= least || bytes.is_empty() || take == Take::Peek {
                    break;
                }
            }
            Err(Errno::EAGAIN) => {
                match wait_if::<M, ()>(c, waiting, Key::Socket(id)) {
                    Err(Stop::Errno(_)) if moved > 0 => break,
                    Err(Stop::Block(keys)) => {
                        c.set_moved(moved as u64)?;
                        return Err(Stop::Block(keys));
                    }
                    other => {
                        other?;
                    }
                };
            }
            Err(_) if moved > 0 => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok((Received { length: moved, control, ..Received::default() }, moved as u64))
}

/// Reads from a socket (read(2)): the bytes alone.
pub fn read<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, count: usize, waiting: Waiting) -> Result<Vec<u8>> {
    let now = c.now();
    match socket_by(c, id)? {
        Socket::Net(id) => {
            let waits = c.resident.program.net.readable_bytes(id).unwrap_or(0);
            let mut bytes = vec![0; count.min(waits.max(1))];
            let low = c.resident.program.net.options(id)?.receive_low().min(count);
            let stream = c.resident.program.net.protocol(id)? == Protocol::Tcp;
            if stream && count > 0 && waits < low && waiting != Waiting::Refused && !is_ended(c, id) {
                match wait_if::<M, ()>(c, waiting, Key::Socket(id)) {
                    Err(Stop::Errno(_)) if waits > 0 => {}
                    other => other?,
                }
            }
            match c.resident.program.net.receive_from(now, id, &mut bytes, Take::Consume) {
                Ok(got) => {
                    bytes.truncate(got.copied);
                    Ok(bytes)
                }
                Err(Errno::EAGAIN) if stream && count == 0 => Ok(Vec::new()),
                Err(Errno::EAGAIN) => wait_if(c, waiting, Key::Socket(id)),
                Err(errno) => Err(errno.into()),
            }
        }
        Socket::Unix(id) => {
            let collected = core::cell::RefCell::new(Vec::new());
            let (mut received, _) = unix_data::receive_into(c, id, 0, waiting, count, |_, _, bytes| {
                collected.borrow_mut().extend_from_slice(bytes);
                Ok(())
            })?;
            received.without_files(c);
            Ok(collected.into_inner())
        }
        Socket::Netlink(id) => Ok(netlink::receive(c, id, count, waiting, Take::Consume)?.bytes),
    }
}

fn is_ended<M: Machine>(c: &Context<'_, M>, id: SocketId) -> bool {
    use shimos_net::Readiness;
    c.resident.program.net.readiness(id).intersects(Readiness::READ_CLOSED | Readiness::ERROR | Readiness::HANGUP)
}

pub fn recvfrom<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let place = Place { spans: &[(a[1], a[2] as usize)] };
    let (mut received, count) = receive_message(c, a[0], &place, a[3] as u32 as u64)?;
    received.without_files(c);
    if a[4] != 0 {
        sockaddr::store(c, a[4], a[5], &received.from)?;
    }
    Ok(count)
}

fn receive_header<M: Machine>(c: &mut Context<'_, M>, fd: u64, addr: u64, flags: u64) -> Result<u64> {
    if flags & message::COMPATIBLE != 0 {
        return Err(Errno::EINVAL.into());
    }
    let header = read_header(c, addr)?;
    c.probe_writable(addr, 56)?;
    let place = Place { spans: &header.spans };
    let (received, count) = receive_message(c, fd, &place, flags)?;
    tell(c, addr, &header, received, flags)?;
    Ok(count)
}

/// Fills in what `struct msghdr` tells of a message.
fn tell<M: Machine>(
    c: &mut Context<'_, M>,
    addr: u64,
    header: &Header,
    mut received: Received,
    flags: u64,
) -> Result<()> {
    let on_exec = if flags & message::CLOSE_ON_EXEC != 0 { OnExec::Close } else { OnExec::Keep };
    let (control_len, more) = ancillary::write(c, header.control, header.control_len, on_exec, &mut received)?;
    if header.name != 0 {
        let name = received.from.get(..header.name_len as usize).unwrap_or(&received.from);
        c.write_bytes(header.name, name)?;
        c.write_u32(addr.wrapping_add(8), received.from.len() as u32)?;
    }
    c.write_u64(addr.wrapping_add(40), control_len)?;
    let told = received.flags | u64::from(more) | flags & message::CLOSE_ON_EXEC;
    c.write_u32(addr.wrapping_add(48), told as u32)
}

pub fn recvmsg<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    socket_of(c, a[0])?;
    receive_header(c, a[0], a[1], a[2] as u32 as u64)
}

/// Receives several messages. The high half of the call's note counts those that were stored before it had to wait.
pub fn recvmmsg<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const SHIFT: u32 = 32;
    socket_of(c, a[0])?;
    let count = u64::from(a[2] as u32).min(MAX_MESSAGES);
    let mut flags = a[3] as u32 as u64;
    let one = flags & message::WAIT_FOR_ONE != 0;
    flags &= !message::WAIT_FOR_ONE;
    let until = if a[4] == 0 {
        None
    } else {
        let (seconds, nanos) = (c.read_u64(a[4])? as i64, c.read_u64(a[4].wrapping_add(8))? as i64);
        if seconds < 0 || !(0..1_000_000_000).contains(&nanos) {
            return Err(Errno::EINVAL.into());
        }
        Some(c.now() + Nanos::secs(seconds as u64) + Nanos(nanos as u64))
    };
    let note = c.moved()?;
    let mut done = note >> SHIFT;
    c.set_moved(note & u64::from(u32::MAX))?;
    while done < count {
        let addr = a[1].wrapping_add(done * MESSAGE_STRIDE);
        let later = if one && done > 0 { flags | message::DONT_WAIT } else { flags };
        match receive_header(c, a[0], addr, later) {
            Ok(got) => {
                c.write_u32(addr.wrapping_add(56), got as u32)?;
                done += 1;
                c.set_moved(0)?;
                // As on Linux the time is looked at after each message only.
                if until.is_some_and(|until| c.services.machine.now() >= until) {
                    break;
                }
            }
            Err(Stop::Block(keys)) => {
                let part = c.moved()?;
                c.set_moved(done << SHIFT | part)?;
                return Err(Stop::Block(keys));
            }
            Err(Stop::Errno(_)) if done > 0 => break,
            Err(stop) => return Err(stop),
        }
    }
    Ok(done)
}

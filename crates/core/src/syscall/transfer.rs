//! Moving bytes: read, write and their relatives.
use super::{Arguments, terminals};
use crate::{
    content,
    context::{Context, MAX_TRANSFER, Result, Stop, wait_for},
    delivery, device,
    event::{EventClass, EventId, epoll::bits, inotify::mask},
    files::{Description, DescriptionId, Kind},
    pipe::ATOMIC,
    process::limit,
    resident::Key,
    signal::{Info, Signal},
};
use alloc::{vec, vec::Vec};
use shimos_abi::{errno::Errno, time::Nanos};
use shimos_hal::Machine;
use shimos_vfs::NodeId;

/// File status flags (open(2)).
pub mod flags {
    pub const ACCESS_MODE: u32 = 3;
    pub const READ_ONLY: u32 = 0;
    pub const WRITE_ONLY: u32 = 1;
    pub const READ_WRITE: u32 = 2;
    pub const APPEND: u32 = 0x400;
    pub const NONBLOCK: u32 = 0x800;
}

const IOV_MAX: u64 = 1024;

/// Fails where a description is not open for reading.
pub fn check_readable(flags: u32) -> Result<()> {
    if flags & flags::ACCESS_MODE == flags::WRITE_ONLY { Err(Errno::EBADF.into()) } else { Ok(()) }
}

/// Fails where a description is not open for writing.
pub fn check_writable(flags: u32) -> Result<()> {
    if flags & flags::ACCESS_MODE == flags::READ_ONLY { Err(Errno::EBADF.into()) } else { Ok(()) }
}

/// Reads up to `count` bytes. `at` is a file position that leaves the offset alone (pread).
pub fn read_from<M: Machine>(
    c: &mut Context<'_, M>,
    id: DescriptionId,
    count: usize,
    at: Option<u64>,
) -> Result<Vec<u8>> {
    let count = count.min(MAX_TRANSFER);
    let description = c.description_by(id)?;
    check_readable(description.flags)?;
    let offset = description.offset;
    let seekable = matches!(description.kind, Kind::File(_) | Kind::Snapshot(..) | Kind::Zero(_) | Kind::Null(_));
    if at.is_some() && !seekable {
        return Err(Errno::ESPIPE.into());
    }
    let waiting = waiting_of(description, Direction::In);
    match &description.kind {
        // Reading nothing from a socket takes nothing and waits for nothing.
        Kind::Socket(_) | Kind::Unix(_) if count == 0 => Ok(Vec::new()),
        Kind::File(node) => {
            let node = *node;
            let mut bytes = vec![0; count];
            let got = content::read(c, node, at.unwrap_or(offset), &mut bytes)?;
            bytes.truncate(got);
            advance(c, id, at, got)?;
            if got > 0 {
                c.resident.notice_by(id, mask::ACCESS);
            }
            Ok(bytes)
        }
        Kind::Snapshot(node, text) => {
            let (node, text) = (*node, text.clone());
            if let Some(bytes) = crate::proc::part(c, node, at.unwrap_or(offset), count)? {
                advance(c, id, at, bytes.len())?;
                return Ok(bytes);
            }
            // Reading from the start shows what is now: the file may have been opened by another program before execve.
            let text = if at.unwrap_or(offset) == 0 { crate::proc::content_of_opened(c, node)? } else { text };
            if let Kind::Snapshot(_, kept) = &mut c.description_by(id)?.kind
                && at.unwrap_or(offset) == 0
            {
                kept.clone_from(&text);
            }
            let from = (at.unwrap_or(offset) as usize).min(text.len());
            let to = from.saturating_add(count).min(text.len());
            advance(c, id, at, to - from)?;
            Ok(text[from..to].to_vec())
        }
        Kind::Directory(_) => Err(Errno::EISDIR.into()),
        Kind::Null(_) => Ok(Vec::new()),
        Kind::Zero(_) | Kind::Full(_) => Ok(vec![0; count]),
        Kind::Random(_) => Ok(c.random_bytes(count)),
        Kind::PipeReader(pipe) | Kind::PipeBoth(pipe) => {
            let pipe = *pipe;
            let state = c.resident.program.pipes.get_mut(&pipe).ok_or(Errno::EBADF)?;
            if count == 0 || state.is_empty() && state.writers == 0 {
                return Ok(Vec::new());
            }
            if state.is_empty() {
                return wait_if(c, waiting, Key::Pipe(pipe));
            }
            let full = state.room() < ATOMIC;
            let bytes = state.read(count);
            // Who watches for room sees an edge only where there was none.
            let events = if full && state.room() >= ATOMIC { bits::WRITE } else { 0 };
            c.resident.wake_as(Key::Pipe(pipe), events);
            Ok(bytes)
        }
        Kind::PipeWriter(_) | Kind::Path(_) => Err(Errno::EBADF.into()),
        Kind::Queue(queue) => {
            let queue = *queue;
            let text = super::queues::status(c.resident, queue);
            let from = (at.unwrap_or(offset) as usize).min(text.len());
            let to = from.saturating_add(count).min(text.len());
            advance(c, id, at, to - from)?;
            Ok(text[from..to].to_vec())
        }
        Kind::Master(_, pair) => {
            let pair = *pair;
            terminals::read_master(c, pair, count, waiting)
        }
        kind @ (Kind::Console(_) | Kind::Slave { .. }) => {
            let kind = kind.clone();
            let opened = terminals::opened(&c.resident.program, &kind).ok_or(Errno::EIO)?;
            terminals::read(c, opened, count, waiting)
        }
        Kind::Shimos(..) => device::shimos::read(c, id, count),
        Kind::Socket(_) | Kind::Unix(_) | Kind::Netlink(_) => super::receiving::read(c, id, count, waiting),
        Kind::Process(..) => Err(Errno::EINVAL.into()),
        Kind::Event(class, event) => {
            let (class, event) = (*class, *event);
            read_event(c, class, event, count, waiting)
        }
    }
}

/// Reads from an event object.
fn read_event<M: Machine>(
    c: &mut Context<'_, M>,
    class: EventClass,
    event: EventId,
    count: usize,
    waiting: Waiting,
) -> Result<Vec<u8>> {
    match class {
        EventClass::Counter => super::eventfd::read(c, event, count, waiting),
        EventClass::Timer => super::timerfd::read(c, event, count, waiting),
        EventClass::Signals => super::signalfd::read(c, event, count, waiting),
        EventClass::Files => super::inotify::read(c, event, count, waiting),
        EventClass::Epoll => Err(Errno::EINVAL.into()),
    }
}

/// Whether a call may wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    Allowed,
    /// For so long, from the call's first issue on.
    AtMost(Nanos),
    Refused,
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    In,
    Out,
}

/// Whether calls on a description may wait: as O_NONBLOCK and a socket's time limits say.
pub fn waiting<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, direction: Direction) -> Result<Waiting> {
    Ok(waiting_of(c.description_by(id)?, direction))
}

fn waiting_of(description: &Description, direction: Direction) -> Waiting {
    if description.flags & flags::NONBLOCK != 0 {
        return Waiting::Refused;
    }
    let limit = description.patience.and_then(|patience| match direction {
        Direction::In => patience.receive,
        Direction::Out => patience.send,
    });
    limit.map_or(Waiting::Allowed, Waiting::AtMost)
}

/// Waits for `key`, or fails with EAGAIN where that is not allowed or has lasted too long.
pub fn wait_if<M: Machine, T>(c: &mut Context<'_, M>, waiting: Waiting, key: Key) -> Result<T> {
    match waiting {
        Waiting::Allowed => wait_for(key),
        Waiting::Refused => Err(Errno::EAGAIN.into()),
        Waiting::AtMost(limit) => {
            let deadline = c.deadline_in(limit)?;
            if c.now() >= deadline { Err(Errno::EAGAIN.into()) } else { wait_for(key) }
        }
    }
}

fn advance<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, at: Option<u64>, by: usize) -> Result<()> {
    if at.is_none() {
        let description = c.description_by(id)?;
        description.offset = description.offset.saturating_add(by as u64);
    }
    Ok(())
}

/// Writes as much of `bytes` as goes now; 0 says that it has to wait for the returned key.
pub fn write_to<M: Machine>(
    c: &mut Context<'_, M>,
    id: DescriptionId,
    bytes: &[u8],
    at: Option<u64>,
) -> Result<Progress> {
    let description = c.description_by(id)?;
    check_writable(description.flags)?;
    let (flags, offset) = (description.flags, description.offset);
    let seekable = matches!(description.kind, Kind::File(_) | Kind::Snapshot(..) | Kind::Null(_) | Kind::Zero(_));
    if at.is_some() && !seekable {
        return Err(Errno::ESPIPE.into());
    }
    match description.kind.clone() {
        Kind::File(node) => {
            if bytes.is_empty() {
                return Ok(Progress::Moved(0));
            }
            let end = if flags & flags::APPEND != 0 { Some(content::size(c, node)?) } else { None };
            let from = end.or(at).unwrap_or(offset);
            let written = content::write(c, node, from, bytes)?;
            if at.is_none() {
                c.description_by(id)?.offset = from + written as u64;
            }
            if written > 0 {
                c.resident.notice_by(id, mask::MODIFY);
            }
            Ok(Progress::Moved(written))
        }
        Kind::Null(_) | Kind::Zero(_) | Kind::Random(_) => Ok(Progress::Moved(bytes.len())),
        Kind::Full(_) => Err(Errno::ENOSPC.into()),
        Kind::Master(_, pair) => terminals::write_master(c, pair, bytes),
        kind @ (Kind::Console(_) | Kind::Slave { .. }) => {
            let opened = terminals::opened(&c.resident.program, &kind).ok_or(Errno::EIO)?;
            terminals::write(c, opened, bytes)
        }
        Kind::PipeWriter(pipe) | Kind::PipeBoth(pipe) => {
            let state = c.resident.program.pipes.get_mut(&pipe).ok_or(Errno::EBADF)?;
            if state.readers == 0 {
                return broken_pipe(c);
            }
            let fits = state.accepts(bytes.len());
            if fits == 0 && !bytes.is_empty() {
                return Ok(Progress::Wait(Key::Pipe(pipe)));
            }
            state.write(&bytes[..fits]);
            c.resident.wake_as(Key::Pipe(pipe), bits::READ);
            Ok(Progress::Moved(fits))
        }
        Kind::Shimos(..) => device::shimos::write(c, id, bytes).map(Progress::Moved),
        Kind::Socket(_) => super::sending::write(c, id, bytes),
        Kind::Unix(_) | Kind::Netlink(_) => super::sending::write(c, id, bytes),
        Kind::Event(EventClass::Counter, event) => Ok(match super::eventfd::write(c, event, bytes)? {
            Some(count) => Progress::Moved(count),
            None => Progress::Wait(Key::Event(event)),
        }),
        Kind::Event(..) | Kind::Process(..) => Err(Errno::EINVAL.into()),
        Kind::Snapshot(node, _) => {
            let written = crate::proc::store(c, node, at.unwrap_or(offset), bytes)?;
            advance(c, id, at, written)?;
            Ok(Progress::Moved(written))
        }
        Kind::Directory(_) | Kind::PipeReader(_) | Kind::Path(_) => Err(Errno::EBADF.into()),
        Kind::Queue(_) => Err(Errno::EINVAL.into()),
    }
}

/// What a piece of a write came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// So many bytes went.
    Moved(usize),
    /// None went; the key tells when to try again.
    Wait(Key),
}

/// Nobody reads: SIGPIPE and EPIPE.
pub fn broken_pipe<M: Machine, T>(c: &mut Context<'_, M>) -> Result<T> {
    let tid = c.tid;
    delivery::send_to_thread(c.resident, tid, Signal::PIPE, Info::from_kernel());
    Err(Errno::EPIPE.into())
}

/// Writes all of `bytes`, blocking in between where the description allows it; what has been moved is kept in the call.
pub fn write_all<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, bytes: &[u8]) -> Result<u64> {
    let written = write_pieces(c, id, bytes)?;
    note_written(c, written)?;
    Ok(written)
}

fn note_written<M: Machine>(c: &mut Context<'_, M>, count: u64) -> Result<()> {
    let counters = &mut c.thread()?.counters;
    counters.writes = counters.writes.wrapping_add(1);
    counters.written_bytes = counters.written_bytes.wrapping_add(count);
    Ok(())
}

fn write_pieces<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, bytes: &[u8]) -> Result<u64> {
    let waiting = waiting(c, id, Direction::Out)?;
    // A counter takes one number at a time.
    let bytes = match c.description_by(id)?.kind {
        Kind::Event(..) => bytes.get(..8).unwrap_or(bytes),
        _ => bytes,
    };
    let mut moved = (c.moved()? as usize).min(bytes.len());
    loop {
        match write_to(c, id, &bytes[moved..], None) {
            Ok(Progress::Moved(count)) => {
                moved += count;
                if moved >= bytes.len() || count == 0 {
                    return Ok(moved as u64);
                }
            }
            Ok(Progress::Wait(key)) => {
                return match wait_if(c, waiting, key) {
                    Err(Stop::Errno(_)) if moved > 0 => Ok(moved as u64),
                    Err(Stop::Block(keys)) => {
                        c.set_moved(moved as u64)?;
                        Err(Stop::Block(keys))
                    }
                    other => other,
                };
            }
            Err(Stop::Block(keys)) => {
                c.set_moved(moved as u64)?;
                return Err(Stop::Block(keys));
            }
            Err(Stop::Errno(_)) if moved > 0 => return Ok(moved as u64),
            Err(stop) => return Err(stop),
        }
    }
}

/// Reads from `fd` into the caller's memory; the bytes are taken only once the memory is known to be there.
pub fn read_to_user<M: Machine>(
    c: &mut Context<'_, M>,
    fd: u64,
    spans: &[(u64, usize)],
    at: Option<u64>,
) -> Result<u64> {
    let id = c.descriptor(fd)?.description;
    let description = c.description_by(id)?;
    check_readable(description.flags)?;
    match (&description.kind, spans) {
        (Kind::File(node), [span]) => {
            let (node, from) = (*node, at.unwrap_or(description.offset));
            let got = content::read_to_user(c, node, from, (span.0, span.1.min(MAX_TRANSFER)))?;
            if got > 0 {
                advance(c, id, at, got)?;
                c.resident.notice_by(id, mask::ACCESS);
            }
            return note_read(c, got);
        }
        (Kind::Null(_), _) | (Kind::Zero(_), [(_, 0)]) => return note_read(c, 0),
        _ => {}
    }
    let total = spans.iter().map(|(_, len)| *len).sum::<usize>().min(MAX_TRANSFER);
    if let Some((addr, len)) = spans.iter().find(|(_, len)| *len != 0) {
        c.probe_writable(*addr, (*len).min(total))?;
    }
    let bytes = read_from(c, id, total, at)?;
    let mut rest = bytes.as_slice();
    for (addr, len) in spans {
        let (now, later) = rest.split_at((*len).min(rest.len()));
        if !now.is_empty() {
            c.write_bytes(*addr, now)?;
        }
        rest = later;
    }
    note_read(c, bytes.len())
}

fn note_read<M: Machine>(c: &mut Context<'_, M>, count: usize) -> Result<u64> {
    let counters = &mut c.thread()?.counters;
    counters.reads = counters.reads.wrapping_add(1);
    counters.read_bytes = counters.read_bytes.wrapping_add(count as u64);
    Ok(count as u64)
}

pub fn read<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    read_to_user(c, a[0], &[(a[1], a[2] as usize)], None)
}

pub fn pread64<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let at = position(a[3])?;
    read_to_user(c, a[0], &[(a[1], a[2] as usize)], Some(at))
}

/// A file position of an argument.
pub fn position(offset: u64) -> Result<u64> {
    if (offset as i64) < 0 { Err(Errno::EINVAL.into()) } else { Ok(offset) }
}

/// Reads an array of struct iovec.
pub fn read_spans<M: Machine>(c: &mut Context<'_, M>, addr: u64, count: u64) -> Result<Vec<(u64, usize)>> {
    if count > IOV_MAX {
        return Err(Errno::EINVAL.into());
    }
    let bytes = c.read_bytes(addr, count as usize * 16)?;
    let words: Vec<u64> = bytes.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap_or_default())).collect();
    let spans: Vec<(u64, usize)> = words.chunks_exact(2).map(|pair| (pair[0], pair[1] as usize)).collect();
    let mut total = 0_u64;
    for (_, len) in &spans {
        total = total.checked_add(*len as u64).filter(|sum| *sum <= i64::MAX as u64).ok_or(Errno::EINVAL)?;
    }
    Ok(spans)
}

pub fn readv<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let spans = read_spans(c, a[1], a[2])?;
    read_to_user(c, a[0], &spans, None)
}

pub fn preadv<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let spans = read_spans(c, a[1], a[2])?;
    let at = position(a[3])?;
    read_to_user(c, a[0], &spans, Some(at))
}

/// Collects the bytes of spans of the caller's memory.
pub fn gather<M: Machine>(c: &mut Context<'_, M>, spans: &[(u64, usize)]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for (addr, len) in spans {
        let room = MAX_TRANSFER - bytes.len();
        if room == 0 {
            break;
        }
        bytes.extend_from_slice(&c.read_bytes(*addr, (*len).min(room))?);
    }
    Ok(bytes)
}

pub fn write<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let id = c.descriptor(a[0])?.description;
    let description = c.description_by(id)?;
    check_writable(description.flags)?;
    match description.kind {
        Kind::File(node) => return write_file(c, id, node, (a[1], a[2] as usize), None),
        // Nobody looks at what is thrown away.
        Kind::Null(_) | Kind::Zero(_) => {
            let count = a[2].min(MAX_TRANSFER as u64);
            return note_written(c, count).map(|()| count);
        }
        _ => {}
    }
    let bytes = c.read_bytes(a[1], a[2] as usize)?;
    write_all(c, id, &bytes)
}

/// Writes to a regular file: at `at`, or where the description is. What has been written before the call had to wait is
/// kept in the call.
fn write_file<M: Machine>(
    c: &mut Context<'_, M>,
    id: DescriptionId,
    node: NodeId,
    (addr, len): (u64, usize),
    at: Option<u64>,
) -> Result<u64> {
    let len = len.min(MAX_TRANSFER);
    let mut moved = (c.moved()? as usize).min(len);
    while moved < len {
        let description = c.description_by(id)?;
        let (flags, offset) = (description.flags, description.offset);
        let from = match at {
            _ if flags & flags::APPEND != 0 => content::size(c, node)?,
            Some(at) => at.saturating_add(moved as u64),
            None => offset,
        };
        // What fits under the limit is written; only a call that finds no room at all is told of it.
        if moved > 0 && from >= c.process()?.limit(limit::FSIZE) {
            break;
        }
        match content::write_from_user(c, node, from, (addr.wrapping_add(moved as u64), len - moved)) {
            Ok(written) => {
                if at.is_none() {
                    c.description_by(id)?.offset = from + written as u64;
                }
                moved += written;
                c.resident.notice_by(id, mask::MODIFY);
            }
            Err(Stop::Block(keys)) => {
                c.set_moved(moved as u64)?;
                return Err(Stop::Block(keys));
            }
            Err(Stop::Errno(_)) if moved > 0 => break,
            Err(stop) => return Err(stop),
        }
    }
    note_written(c, moved as u64)?;
    Ok(moved as u64)
}

pub fn writev<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let id = c.descriptor(a[0])?.description;
    check_writable(c.description_by(id)?.flags)?;
    let spans = read_spans(c, a[1], a[2])?;
    let bytes = gather(c, &spans)?;
    write_all(c, id, &bytes)
}

pub fn pwrite64<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let at = position(a[3])?;
    let id = c.descriptor(a[0])?.description;
    let description = c.description_by(id)?;
    check_writable(description.flags)?;
    if let Kind::File(node) = description.kind {
        return write_file(c, id, node, (a[1], a[2] as usize), Some(at));
    }
    let bytes = c.read_bytes(a[1], a[2] as usize)?;
    write_at(c, id, &bytes, at)
}

pub fn pwritev<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let at = position(a[3])?;
    let id = c.descriptor(a[0])?.description;
    check_writable(c.description_by(id)?.flags)?;
    let spans = read_spans(c, a[1], a[2])?;
    let bytes = gather(c, &spans)?;
    write_at(c, id, &bytes, at)
}

fn write_at<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, bytes: &[u8], at: u64) -> Result<u64> {
    match write_to(c, id, bytes, Some(at))? {
        Progress::Moved(count) => note_written(c, count as u64).map(|()| count as u64),
        Progress::Wait(key) => wait_for(key),
    }
}

pub fn lseek<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (offset, whence) = (a[1] as i64, a[2]);
    let id = c.descriptor(a[0])?.description;
    let description = c.description_by(id)?;
    let at = description.offset as i64;
    let end = match description.kind.clone() {
        Kind::File(node) => content::size(c, node)? as i64,
        Kind::Snapshot(_, text) => text.len() as i64,
        Kind::Directory(_) | Kind::Null(_) | Kind::Zero(_) | Kind::Full(_) | Kind::Random(_) => 0,
        Kind::Path(_) => return Err(Errno::EBADF.into()),
        // They have no place, but say nothing against it.
        Kind::Event(..) if whence <= 4 => return Ok(0),
        _ => return Err(Errno::ESPIPE.into()),
    };
    let target = match whence {
        0 => Some(offset),
        1 => at.checked_add(offset),
        2 => end.checked_add(offset),
        // SEEK_DATA and SEEK_HOLE: the whole file counts as data.
        3 if offset >= 0 && offset < end => Some(offset),
        4 if offset >= 0 && offset < end => Some(end),
        3 | 4 => return Err(Errno::ENXIO.into()),
        _ => None,
    };
    match target {
        Some(target) if target >= 0 => {
            c.description_by(id)?.offset = target as u64;
            Ok(target as u64)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

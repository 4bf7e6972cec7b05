//! Reading from whatever a description is open on.
use super::{
    pieces::{self, Piece, in_pieces},
    receiving, terminals,
    transfer::{Direction, Waiting, advance, check_readable, wait_if, waiting_of},
};
use crate::{
    content,
    context::{Context, MAX_TRANSFER, Result},
    device,
    event::{EventClass, EventId, epoll::bits, inotify::mask},
    files::{DescriptionId, Kind},
    pipe::ATOMIC,
    resident::Key,
};
use alloc::{vec, vec::Vec};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;

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
    let seekable = description.kind.has_places();
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
        Kind::Socket(_) | Kind::Unix(_) | Kind::Netlink(_) => receiving::read(c, id, count, waiting),
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
    let got = match (&description.kind, spans) {
        (Kind::File(node), [(addr, len)]) => {
            let node = *node;
            in_pieces(c, (*len).min(pieces::MOST), |c, moved, len| {
                let from = match at {
                    Some(at) => at.saturating_add(moved as u64),
                    None => c.description_by(id)?.offset,
                };
                let got = content::read_to_user(c, node, from, (addr.wrapping_add(moved as u64), len))?;
                if got > 0 {
                    advance(c, id, at, got)?;
                    c.resident.notice_by(id, mask::ACCESS);
                }
                Ok(if got < len { Piece::Last(got) } else { Piece::Moved(got) })
            })?
        }
        (Kind::File(_) | Kind::Zero(_) | Kind::Full(_) | Kind::Random(_), _) => {
            in_pieces(c, pieces::total(spans), |c, moved, len| {
                let at = at.map(|at| at.saturating_add(moved as u64));
                let got = read_piece(c, id, &pieces::part(spans, moved, len), at)?;
                Ok(if got < len { Piece::Last(got) } else { Piece::Moved(got) })
            })?
        }
        (Kind::Socket(socket), _) if at.is_none() => {
            let (socket, part) = (*socket, pieces::part(spans, 0, MAX_TRANSFER));
            match receiving::read_stream(c, socket, &part)? {
                Some(got) => got as u64,
                None => read_piece(c, id, &part, at)? as u64,
            }
        }
        // Of these there is as much as there is.
        _ => read_piece(c, id, &pieces::part(spans, 0, MAX_TRANSFER), at)? as u64,
    };
    c.thread()?.counters.count_read(got);
    Ok(got)
}

fn read_piece<M: Machine>(
    c: &mut Context<'_, M>,
    id: DescriptionId,
    spans: &[(u64, usize)],
    at: Option<u64>,
) -> Result<usize> {
    if let Some((addr, len)) = spans.first() {
        c.probe_writable(*addr, *len)?;
    }
    let bytes = read_from(c, id, pieces::total(spans), at)?;
    let mut rest = bytes.as_slice();
    for (addr, len) in spans {
        let (now, later) = rest.split_at((*len).min(rest.len()));
        if !now.is_empty() {
            c.write_bytes(*addr, now)?;
        }
        rest = later;
    }
    Ok(bytes.len())
}

//! Writing to whatever a description is open on.
use super::{
    pieces::{self, Piece, in_pieces},
    sending, terminals,
    transfer::{Direction, advance, check_writable, flags, gather, wait_if, waiting},
};
use crate::{
    content,
    context::{Context, Result, Stop, wait_for},
    delivery, device,
    event::{EventClass, epoll::bits, inotify::mask},
    files::{DescriptionId, Kind},
    process::limit,
    resident::Key,
    signal::{Info, Signal},
};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_vfs::NodeId;

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
    let seekable = description.kind.has_places();
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
        Kind::Socket(_) => sending::write(c, id, bytes),
        Kind::Unix(_) | Kind::Netlink(_) => sending::write(c, id, bytes),
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

/// Writes all bytes of some spans of the caller's memory, blocking in between where the description allows it.
pub fn write_all<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, spans: &[(u64, usize)]) -> Result<u64> {
    let waiting = waiting(c, id, Direction::Out)?;
    // A counter takes one number at a time.
    let (most, socket) = match c.description_by(id)?.kind {
        Kind::Event(..) => (8, None),
        Kind::Socket(socket) => (pieces::MOST, Some(socket)),
        _ => (pieces::MOST, None),
    };
    let written = in_pieces(c, pieces::total(spans).min(most), |c, moved, len| {
        let part = pieces::part(spans, moved, len);
        let streamed = match socket.map(|socket| sending::stream(c, socket, &part, 0)) {
            Some(Err(Stop::Errno(Errno::EPIPE))) => return broken_pipe(c),
            Some(streamed) => streamed?,
            None => None,
        };
        let progress = match streamed {
            Some(progress) => progress,
            None => {
                let bytes = gather(c, &part)?;
                write_to(c, id, &bytes, None)?
            }
        };
        match progress {
            Progress::Moved(count) => Ok(Piece::Moved(count)),
            Progress::Wait(key) => wait_if(c, waiting, key),
        }
    })?;
    note_written(c, written)?;
    Ok(written)
}

/// Counts a call that has written, for /proc.
pub(super) fn note_written<M: Machine>(c: &mut Context<'_, M>, count: u64) -> Result<()> {
    c.thread()?.counters.count_written(count);
    Ok(())
}

/// Writes spans of the caller's memory: at `at`, or where the description is.
pub(super) fn write_spans<M: Machine>(
    c: &mut Context<'_, M>,
    fd: u64,
    spans: &[(u64, usize)],
    at: Option<u64>,
) -> Result<u64> {
    let id = c.descriptor(fd)?.description;
    let description = c.description_by(id)?;
    check_writable(description.flags)?;
    match description.kind {
        Kind::File(node) => write_file(c, id, node, spans, at),
        // Nobody looks at what is thrown away.
        Kind::Null(_) | Kind::Zero(_) => {
            let count = pieces::total(spans) as u64;
            note_written(c, count).map(|()| count)
        }
        _ => match at {
            None => write_all(c, id, spans),
            Some(at) => {
                let bytes = gather(c, spans)?;
                write_at(c, id, &bytes, at)
            }
        },
    }
}

/// Writes to a regular file: at `at`, or where the description is.
pub(super) fn write_file<M: Machine>(
    c: &mut Context<'_, M>,
    id: DescriptionId,
    node: NodeId,
    spans: &[(u64, usize)],
    at: Option<u64>,
) -> Result<u64> {
    let written = in_pieces(c, pieces::total(spans), |c, moved, len| {
        let description = c.description_by(id)?;
        let (flags, offset) = (description.flags, description.offset);
        let from = match at {
            _ if flags & flags::APPEND != 0 => content::size(c, node)?,
            Some(at) => at.saturating_add(moved as u64),
            None => offset,
        };
        // What fits under the limit is written; only a call that finds no room at all is told of it.
        if moved > 0 && from >= c.process()?.limit(limit::FSIZE) {
            return Ok(Piece::Last(0));
        }
        let written = match spans {
            [(addr, _)] => content::write_from_user(c, node, from, (addr.wrapping_add(moved as u64), len))?,
            spans => {
                let bytes = gather(c, &pieces::part(spans, moved, len))?;
                content::write(c, node, from, &bytes)?
            }
        };
        if at.is_none() && written > 0 {
            c.description_by(id)?.offset = from.saturating_add(written as u64);
        }
        if written > 0 {
            c.resident.notice_by(id, mask::MODIFY);
        }
        Ok(Piece::Moved(written))
    })?;
    note_written(c, written)?;
    Ok(written)
}

/// Writes at a place of its own, once.
pub(super) fn write_at<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, bytes: &[u8], at: u64) -> Result<u64> {
    match write_to(c, id, bytes, Some(at))? {
        Progress::Moved(count) => note_written(c, count as u64).map(|()| count as u64),
        Progress::Wait(key) => wait_for(key),
    }
}

//! Writing to whatever a description is open on.
use super::{
    terminals,
    transfer::{Direction, advance, check_writable, flags, wait_if, waiting},
};
use crate::{
    content,
    context::{Context, MAX_TRANSFER, Result, Stop, wait_for},
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

/// Counts a call that has written, for /proc.
pub(super) fn note_written<M: Machine>(c: &mut Context<'_, M>, count: u64) -> Result<()> {
    c.thread()?.counters.count_written(count);
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

/// Writes to a regular file: at `at`, or where the description is. What has been written before the call had to wait is
/// kept in the call.
pub(super) fn write_file<M: Machine>(
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

/// Writes at a place of its own, once.
pub(super) fn write_at<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, bytes: &[u8], at: u64) -> Result<u64> {
    match write_to(c, id, bytes, Some(at))? {
        Progress::Moved(count) => note_written(c, count as u64).map(|()| count as u64),
        Progress::Wait(key) => wait_for(key),
    }
}

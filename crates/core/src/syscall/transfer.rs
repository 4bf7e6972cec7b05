//! The calls that move bytes: read, write and their relatives, and what they have in common.
use super::{Arguments, reading::read_to_user, writing::write_spans};
use crate::{
    content,
    context::{Context, MAX_TRANSFER, Result, wait_for},
    files::{Description, DescriptionId, Kind},
    resident::Key,
};
use alloc::vec::Vec;
use shimos_abi::{errno::Errno, time::Nanos};
use shimos_hal::Machine;

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

pub(super) fn waiting_of(description: &Description, direction: Direction) -> Waiting {
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

/// Moves a description's offset on, unless the call has brought a position of its own.
pub(super) fn advance<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, at: Option<u64>, by: usize) -> Result<()> {
    if at.is_none() {
        let description = c.description_by(id)?;
        description.offset = description.offset.saturating_add(by as u64);
    }
    Ok(())
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
    write_spans(c, a[0], &[(a[1], a[2] as usize)], None)
}

pub fn writev<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let id = c.descriptor(a[0])?.description;
    check_writable(c.description_by(id)?.flags)?;
    let spans = read_spans(c, a[1], a[2])?;
    write_spans(c, a[0], &spans, None)
}

pub fn pwrite64<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let at = position(a[3])?;
    write_spans(c, a[0], &[(a[1], a[2] as usize)], Some(at))
}

pub fn pwritev<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let at = position(a[3])?;
    let id = c.descriptor(a[0])?.description;
    check_writable(c.description_by(id)?.flags)?;
    let spans = read_spans(c, a[1], a[2])?;
    write_spans(c, a[0], &spans, Some(at))
}

pub fn lseek<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (offset, whence) = (a[1] as i64, a[2]);
    let id = c.descriptor(a[0])?.description;
    let description = c.description_by(id)?;
    let at = description.offset as i64;
    let end = match description.kind.clone() {
        Kind::File(node) => content::size(c, node)? as i64,
        Kind::Snapshot(_, text) => text.len() as i64,
        Kind::Directory(_) => 0,
        // These have one place, wherever one goes.
        Kind::Null(_) | Kind::Zero(_) | Kind::Full(_) | Kind::Random(_) if whence <= 4 => return Ok(0),
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

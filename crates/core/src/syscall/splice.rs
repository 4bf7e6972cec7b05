//! Moving bytes between descriptors without the caller's memory: splice, tee, vmsplice, copy_file_range.
use super::{
    Arguments,
    reading::read_from,
    transfer::{check_readable, check_writable, flags, gather, read_spans},
    writing::{Progress, broken_pipe, write_to},
};
use crate::{
    context::{Context, MAX_TRANSFER, Result, wait_for},
    event::epoll::bits,
    files::{DescriptionId, Kind},
    pipe::{ATOMIC, PipeId},
    resident::Key,
};
use alloc::vec::Vec;
use shimos_abi::errno::Errno;
use shimos_hal::Machine;

const NONBLOCK: u64 = 2;
/// SPLICE_F_MOVE, _NONBLOCK, _MORE, _GIFT. All but the second are hints.
const KNOWN: u64 = 0xf;

/// The pipe that a description is an end of.
fn pipe_of<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId) -> Result<Option<PipeId>> {
    Ok(match c.description_by(id)?.kind {
        Kind::PipeReader(pipe) | Kind::PipeWriter(pipe) | Kind::PipeBoth(pipe) => Some(pipe),
        _ => None,
    })
}

/// Whether a call may wait at a pipe.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    Waits,
    Not,
}

fn patience<M: Machine>(c: &mut Context<'_, M>, options: u64, ends: &[DescriptionId]) -> Result<Patience> {
    let mut patience = if options & NONBLOCK != 0 { Patience::Not } else { Patience::Waits };
    for end in ends {
        if c.description_by(*end)?.flags & flags::NONBLOCK != 0 {
            patience = Patience::Not;
        }
    }
    Ok(patience)
}

fn wait_at<T>(pipe: PipeId, patience: Patience) -> Result<T> {
    match patience {
        Patience::Waits => wait_for(Key::Pipe(pipe)),
        Patience::Not => Err(Errno::EAGAIN.into()),
    }
}

/// What is in a pipe, at most `most` bytes; nothing at its end. Waits for something.
fn content<M: Machine>(c: &mut Context<'_, M>, pipe: PipeId, most: usize, patience: Patience) -> Result<Vec<u8>> {
    let state = c.resident.program.pipes.get(&pipe).ok_or(Errno::EBADF)?;
    if state.is_empty() && state.writers > 0 {
        return wait_at(pipe, patience);
    }
    Ok(state.peek(most))
}

/// Takes bytes that were moved out of a pipe.
fn take<M: Machine>(c: &mut Context<'_, M>, pipe: PipeId, count: usize) {
    let Some(state) = c.resident.program.pipes.get_mut(&pipe) else { return };
    let full = state.room() < ATOMIC;
    state.skip(count);
    let events = if full && state.room() >= ATOMIC { bits::WRITE } else { 0 };
    c.resident.wake_as(Key::Pipe(pipe), events);
}

/// Room in a pipe. Waits for some; fails where nobody reads.
fn room<M: Machine>(c: &mut Context<'_, M>, pipe: PipeId, patience: Patience) -> Result<usize> {
    let state = c.resident.program.pipes.get(&pipe).ok_or(Errno::EBADF)?;
    match state.room() {
        _ if state.readers == 0 => broken_pipe(c),
        0 => wait_at(pipe, patience),
        room => Ok(room),
    }
}

fn put<M: Machine>(c: &mut Context<'_, M>, pipe: PipeId, bytes: &[u8]) {
    if let Some(state) = c.resident.program.pipes.get_mut(&pipe) {
        state.write(bytes);
        c.resident.wake_as(Key::Pipe(pipe), bits::READ);
    }
}

/// Whether splice(2) can write to it or read from it.
fn is_spliceable(kind: &Kind) -> bool {
    !matches!(kind, Kind::Event(..) | Kind::Process(..) | Kind::Directory(_) | Kind::Path(_) | Kind::Queue(_))
}

/// Whether it can be read or written at a position.
fn has_places(kind: &Kind) -> bool {
    matches!(kind, Kind::File(_) | Kind::Snapshot(..) | Kind::Zero(_) | Kind::Null(_))
}

/// An offset in the caller's memory.
fn read_offset<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<Option<u64>> {
    if addr == 0 {
        return Ok(None);
    }
    let offset = c.read_u64(addr)?;
    if (offset as i64) < 0 { Err(Errno::EINVAL.into()) } else { Ok(Some(offset)) }
}

pub fn splice<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [from, from_at, to, to_at, len, options] = a;
    let options = u64::from(options as u32);
    if len == 0 {
        return Ok(0);
    }
    if options & !KNOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (input, output) = (c.descriptor(from)?.description, c.descriptor(to)?.description);
    let (in_pipe, out_pipe) = (pipe_of(c, input)?, pipe_of(c, output)?);
    if in_pipe.is_some() && from_at != 0 || out_pipe.is_some() && to_at != 0 {
        return Err(Errno::ESPIPE.into());
    }
    let (in_offset, out_offset) = (read_offset(c, from_at)?, read_offset(c, to_at)?);
    let input_of = c.description_by(input)?;
    check_readable(input_of.flags)?;
    let readable = is_spliceable(&input_of.kind) && (in_offset.is_none() || has_places(&input_of.kind));
    let output_of = c.description_by(output)?;
    check_writable(output_of.flags)?;
    let writable = is_spliceable(&output_of.kind) && (out_offset.is_none() || has_places(&output_of.kind));
    let appends = output_of.flags & flags::APPEND != 0;
    let most = usize::try_from(len).unwrap_or(MAX_TRANSFER).min(MAX_TRANSFER);
    match (in_pipe, out_pipe) {
        (Some(one), Some(other)) => {
            if one == other {
                return Err(Errno::EINVAL.into());
            }
            let patience = patience(c, options, &[input, output])?;
            let room = room(c, other, patience)?;
            let bytes = content(c, one, most.min(room), patience)?;
            take(c, one, bytes.len());
            put(c, other, &bytes);
            Ok(bytes.len() as u64)
        }
        (Some(pipe), None) => {
            if appends || !writable {
                return Err(Errno::EINVAL.into());
            }
            let patience = patience(c, options, &[input])?;
            let bytes = content(c, pipe, most, patience)?;
            if bytes.is_empty() {
                return Ok(0);
            }
            match write_to(c, output, &bytes, out_offset)? {
                Progress::Moved(count) => {
                    take(c, pipe, count);
                    if let Some(offset) = out_offset {
                        c.write_u64(to_at, offset + count as u64)?;
                    }
                    Ok(count as u64)
                }
                Progress::Wait(key) => {
                    let waits = patience == Patience::Waits && c.description_by(output)?.flags & flags::NONBLOCK == 0;
                    if waits { wait_for(key) } else { Err(Errno::EAGAIN.into()) }
                }
            }
        }
        (None, Some(pipe)) => {
            if !readable {
                return Err(Errno::EINVAL.into());
            }
            let patience = patience(c, options, &[output])?;
            let room = room(c, pipe, patience)?;
            let bytes = read_from(c, input, most.min(room), in_offset)?;
            put(c, pipe, &bytes);
            if let Some(offset) = in_offset {
                c.write_u64(from_at, offset + bytes.len() as u64)?;
            }
            Ok(bytes.len() as u64)
        }
        (None, None) => Err(Errno::EINVAL.into()),
    }
}

/// tee(2): copies from one pipe to another, and takes nothing out.
pub fn tee<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [from, to, len, options, ..] = a;
    let options = u64::from(options as u32);
    if options & !KNOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    if len == 0 {
        return Ok(0);
    }
    let (input, output) = (c.descriptor(from)?.description, c.descriptor(to)?.description);
    check_readable(c.description_by(input)?.flags)?;
    check_writable(c.description_by(output)?.flags)?;
    let (Some(one), Some(other)) = (pipe_of(c, input)?, pipe_of(c, output)?) else {
        return Err(Errno::EINVAL.into());
    };
    if one == other {
        return Err(Errno::EINVAL.into());
    }
    let patience = patience(c, options, &[input, output])?;
    let most = usize::try_from(len).unwrap_or(MAX_TRANSFER).min(MAX_TRANSFER);
    let bytes = content(c, one, most, patience)?;
    if bytes.is_empty() {
        return Ok(0);
    }
    let room = room(c, other, patience)?;
    let bytes = bytes.get(..room).unwrap_or(&bytes);
    put(c, other, bytes);
    Ok(bytes.len() as u64)
}

/// vmsplice(2). The bytes are copied: what the program does to its memory afterwards does not show in the pipe.
pub fn vmsplice<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [fd, spans, count, options, ..] = a;
    let options = u64::from(options as u32);
    if options & !KNOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    let id = c.descriptor(fd)?.description;
    let pipe = pipe_of(c, id)?.ok_or(Errno::EBADF)?;
    let spans = read_spans(c, spans, count)?;
    let total: usize = spans.iter().map(|(_, len)| *len).sum();
    if total == 0 {
        return Ok(0);
    }
    let patience = patience(c, options, &[])?;
    if c.description_by(id)?.flags & flags::ACCESS_MODE != flags::READ_ONLY {
        let room = room(c, pipe, patience)?;
        let mut bytes = gather(c, &spans)?;
        bytes.truncate(room);
        put(c, pipe, &bytes);
        return Ok(bytes.len() as u64);
    }
    let bytes = content(c, pipe, total, patience)?;
    let mut rest = bytes.as_slice();
    for (addr, len) in spans {
        let (now, later) = rest.split_at(len.min(rest.len()));
        if !now.is_empty() {
            c.write_bytes(addr, now)?;
        }
        rest = later;
    }
    take(c, pipe, bytes.len());
    Ok(bytes.len() as u64)
}

pub fn copy_file_range<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [from, from_at, to, to_at, len, options] = a;
    let (input, output) = (c.descriptor(from)?.description, c.descriptor(to)?.description);
    let (in_offset, out_offset) = (read_offset(c, from_at)?, read_offset(c, to_at)?);
    if options as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (source, target) = (c.description_by(input)?.clone(), c.description_by(output)?.clone());
    let (one, other) = match (&source.kind, &target.kind) {
        (Kind::Directory(_), _) | (_, Kind::Directory(_)) => return Err(Errno::EISDIR.into()),
        (Kind::File(one), Kind::File(other)) => (*one, *other),
        (Kind::Snapshot(..), Kind::File(_)) => return Err(Errno::EXDEV.into()),
        _ => return Err(Errno::EINVAL.into()),
    };
    check_readable(source.flags)?;
    check_writable(target.flags)?;
    if target.flags & flags::APPEND != 0 {
        return Err(Errno::EBADF.into());
    }
    let (start, end) = (in_offset.unwrap_or(source.offset), out_offset.unwrap_or(target.offset));
    let len = len.min(i32::MAX as u64);
    if start.checked_add(len).is_none_or(|sum| sum > i64::MAX as u64)
        || end.checked_add(len).is_none_or(|sum| sum > i64::MAX as u64)
    {
        return Err(Errno::EOVERFLOW.into());
    }
    let left = crate::content::size(c, one)?.saturating_sub(start).min(len);
    let tree = &c.resident.program.tree;
    if tree.canonical(one) == tree.canonical(other) && start < end + left && end < start + left {
        return Err(Errno::EINVAL.into());
    }
    let bytes = read_from(c, input, (left as usize).min(MAX_TRANSFER), Some(start))?;
    if bytes.is_empty() {
        return Ok(0);
    }
    let Progress::Moved(moved) = write_to(c, output, &bytes, Some(end))? else { return Err(Errno::EIO.into()) };
    let moved = moved as u64;
    if in_offset.is_some() {
        c.write_u64(from_at, start + moved)?;
    } else {
        c.description_by(input)?.offset = start + moved;
    }
    if out_offset.is_some() {
        c.write_u64(to_at, end + moved)?;
    } else {
        c.description_by(output)?.offset = end + moved;
    }
    Ok(moved)
}

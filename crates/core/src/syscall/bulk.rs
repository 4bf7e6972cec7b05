//! Whole files: copying between descriptors, room, synchronisation, advice.
use super::{
    Arguments,
    reading::read_from,
    transfer::{check_readable, check_writable, flags},
    writing::{Progress, write_to},
};
use crate::{
    content,
    context::{Context, Result, Stop, wait_for},
    event::inotify::mask,
    files::Kind,
};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;

/// Bytes that sendfile(2) moves through one buffer.
const SENDFILE_PIECE: usize = 128 << 10;

/// sendfile(2). The source's position moves only with what the destination took.
pub fn sendfile<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (out, input) = (c.descriptor(a[0])?.description, c.descriptor(a[1])?.description);
    let count = a[3] as usize;
    check_readable(c.description_by(input)?.flags)?;
    let rewinds = a[2] != 0 && (c.read_u64(a[2])? as i64) < 0;
    if rewinds || !matches!(c.description_by(input)?.kind, Kind::File(_)) {
        return Err(Errno::EINVAL.into());
    }
    check_writable(c.description_by(out)?.flags)?;
    if c.description_by(out)?.flags & flags::APPEND != 0 {
        return Err(Errno::EINVAL.into());
    }
    let to_pipe = matches!(c.description_by(out)?.kind, Kind::PipeWriter(_) | Kind::PipeBoth(_));
    let nonblock = c.description_by(out)?.flags & flags::NONBLOCK != 0;
    let start = if a[2] != 0 { c.read_u64(a[2])? } else { c.description_by(input)?.offset };
    // Whatever was moved is noted before the call waits, in the position and in the call: issued again it goes on from there.
    let before = c.moved()? as usize;
    let wanted = count.saturating_sub(before);
    let mut moved = 0;
    let outcome = loop {
        if moved >= wanted {
            break Ok(());
        }
        let piece = match read_from(c, input, (wanted - moved).min(SENDFILE_PIECE), Some(start + moved as u64)) {
            Ok(piece) if piece.is_empty() => break Ok(()),
            Ok(piece) => piece,
            Err(stop) => break Err(stop),
        };
        match write_to(c, out, &piece, None) {
            Ok(Progress::Moved(0)) => break Ok(()),
            Ok(Progress::Moved(sent)) => {
                moved += sent;
                // A pipe takes what fits; other destinations get all of it.
                if to_pipe && sent < piece.len() {
                    break Ok(());
                }
            }
            Ok(Progress::Wait(_)) if nonblock => break Err(Errno::EAGAIN.into()),
            Ok(Progress::Wait(_)) if to_pipe && moved > 0 => break Ok(()),
            Ok(Progress::Wait(key)) => break wait_for(key),
            Err(stop) => break Err(stop),
        }
    };
    let total = before + moved;
    let end = start + moved as u64;
    if a[2] != 0 {
        c.write_u64(a[2], end)?;
    } else {
        c.description_by(input)?.offset = end;
    }
    match outcome {
        Err(Stop::Block(keys)) => {
            c.set_moved(total as u64)?;
            Err(Stop::Block(keys))
        }
        Err(stop) if total == 0 => Err(stop),
        _ => Ok(total as u64),
    }
}

/// fallocate(2): room is given out when it is written to, so only a file's size can change.
pub fn fallocate<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const KEEP_SIZE: u64 = 1;
    const PUNCH_HOLE: u64 = 2;
    let description = c.description(a[0])?;
    let (kind, flags) = (description.kind.clone(), description.flags);
    let end = match ((a[2] as i64), (a[3] as i64)) {
        (offset, len) if offset < 0 || len <= 0 => return Err(Errno::EINVAL.into()),
        (offset, len) => offset.checked_add(len).ok_or(Errno::EFBIG)? as u64,
    };
    let hole = a[1] == PUNCH_HOLE | KEEP_SIZE;
    if a[1] & !KEEP_SIZE != 0 && !hole {
        return Err(Errno::EOPNOTSUPP.into());
    }
    check_writable(flags)?;
    match kind {
        Kind::File(node) => {
            if hole {
                content::punch(c, node, a[2], end)?;
            } else if a[1] & KEEP_SIZE == 0 && end > content::size(c, node)? {
                content::truncate(c, node, end)?;
            }
            let subject = c.subject_of(a[0], Errno::EBADF)?;
            c.notice_subject(&subject, mask::MODIFY)?;
            Ok(0)
        }
        Kind::PipeReader(_) | Kind::PipeWriter(_) | Kind::PipeBoth(_) => Err(Errno::ESPIPE.into()),
        _ => Err(Errno::ENODEV.into()),
    }
}

/// fsync(2): the writable layer lives in memory and in checkpoints; there is nothing behind it to write to.
pub fn fsync<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    match c.description(a[0])?.kind {
        Kind::File(_) | Kind::Directory(_) => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

pub fn sync<M: Machine>(_: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    Ok(0)
}

/// syncfs(2): as sync.
pub fn syncfs<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    match c.description(a[0])?.kind {
        Kind::Path(_) => Err(Errno::EBADF.into()),
        _ => Ok(0),
    }
}

/// sync_file_range(2): as fsync.
pub fn sync_file_range<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (offset, len) = (a[1] as i64, a[2] as i64);
    let kind = &c.description(a[0])?.kind;
    if let Kind::Path(_) = kind {
        return Err(Errno::EBADF.into());
    }
    if a[3] as u32 & !7 != 0 || offset < 0 || len < 0 || offset.checked_add(len).is_none() {
        return Err(Errno::EINVAL.into());
    }
    match kind {
        Kind::File(_) | Kind::Directory(_) | Kind::Snapshot(..) => Ok(0),
        _ => Err(Errno::ESPIPE.into()),
    }
}

/// readahead(2): blocks are read ahead anyway; this is a hint.
pub fn readahead<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let description = c.description(a[0])?;
    check_readable(description.flags)?;
    match description.kind {
        Kind::File(_) => Ok(0),
        Kind::Path(_) => Err(Errno::EBADF.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// posix_fadvise(2): advice is taken note of only where it is wrong.
pub fn fadvise64<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    match c.description(a[0])?.kind {
        Kind::PipeReader(_) | Kind::PipeWriter(_) | Kind::PipeBoth(_) => Err(Errno::ESPIPE.into()),
        _ if a[3] > 5 => Err(Errno::EINVAL.into()),
        _ => Ok(0),
    }
}

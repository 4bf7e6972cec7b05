//! preadv2 and pwritev2: reading and writing with flags for this one call.
use super::{
    Arguments,
    reading::read_to_user,
    transfer::{check_writable, gather, position, read_spans},
    writing::{write_all, write_at, write_file},
};
use crate::{
    content,
    context::{Context, Result},
    event::epoll::bits,
    files::{DescriptionId, Kind},
};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;

/// Poll for the end of it; this is a hint.
const HIGH_PRIORITY: u64 = 1;
/// As with O_DSYNC: whatever is written is where it stays.
const DATA_SYNC: u64 = 2;
/// As with O_SYNC.
const SYNC: u64 = 4;
/// Do not wait.
const NO_WAIT: u64 = 8;
/// At the end of the file.
const APPEND: u64 = 0x10;
const KNOWN: u64 = HIGH_PRIORITY | DATA_SYNC | SYNC | NO_WAIT | APPEND;

/// The position of a call: none for -1, which stands for the description's own.
fn place(offset: u64) -> Result<Option<u64>> {
    if offset == u64::MAX { Ok(None) } else { position(offset).map(Some) }
}

/// Checks the flags; EAGAIN where the call would wait and must not.
fn check<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, flags: u64, wanted: u16) -> Result<()> {
    if flags & !KNOWN != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if flags & NO_WAIT != 0 && c.readiness(id) & (wanted | bits::HUP | bits::ERR) == 0 {
        return Err(Errno::EAGAIN.into());
    }
    Ok(())
}

pub fn preadv2<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let at = place(a[3])?;
    let id = c.descriptor(a[0])?.description;
    let spans = read_spans(c, a[1], a[2])?;
    check(c, id, u64::from(a[5] as u32), bits::READ)?;
    read_to_user(c, a[0], &spans, at)
}

pub fn pwritev2<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let flags = u64::from(a[5] as u32);
    let at = place(a[3])?;
    let id = c.descriptor(a[0])?.description;
    check_writable(c.description_by(id)?.flags)?;
    let spans = read_spans(c, a[1], a[2])?;
    check(c, id, flags, bits::WRITE)?;
    let node = match c.description_by(id)?.kind {
        Kind::File(node) => node,
        _ => {
            let Some(at) = at else { return write_all(c, id, &spans) };
            let bytes = gather(c, &spans)?;
            return write_at(c, id, &bytes, at);
        }
    };
    let end = if flags & APPEND == 0 { None } else { Some(content::size(c, node)?.saturating_sub(c.moved()?)) };
    let written = write_file(c, id, node, &spans, end.or(at))?;
    if let (Some(end), None, 1..) = (end, at, written) {
        c.description_by(id)?.offset = end.saturating_add(written);
    }
    Ok(written)
}

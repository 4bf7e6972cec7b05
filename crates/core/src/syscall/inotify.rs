//! Watching files: inotify.
use super::{
    Arguments,
    descriptors::on_exec,
    transfer::{Waiting, flags, wait_if},
};
use crate::{
    context::{Context, Result},
    event::{
        Event, EventClass, EventId,
        inotify::{FileWatch, Inotify, MAX_INSTANCES, MAX_WATCHES, mask},
    },
    names::AT_FDCWD,
    resident::Key,
};
use alloc::vec::Vec;
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_vfs::{Kind, Last, Want};

const NONBLOCK: u64 = 0x800;
const CLOEXEC: u64 = 0x80000;

pub fn inotify_init<M: Machine>(c: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    inotify_init1(c, [0; 6])
}

pub fn inotify_init1<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let options = u64::from(a[0] as u32);
    if options & !(NONBLOCK | CLOEXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let there = c.resident.program.events.values().filter(|event| event.class() == EventClass::Files).count();
    if there >= MAX_INSTANCES {
        return Err(Errno::EMFILE.into());
    }
    c.install_event(Event::Files(Inotify::default()), flags::READ_ONLY | (options & NONBLOCK) as u32, on_exec(options))
}

fn inotify<'a, M: Machine>(c: &'a mut Context<'_, M>, id: EventId) -> Result<&'a mut Inotify> {
    match c.resident.program.events.get_mut(&id) {
        Some(Event::Files(inotify)) => Ok(inotify),
        _ => Err(Errno::EINVAL.into()),
    }
}

pub fn inotify_add_watch<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let wanted = a[2] as u32;
    if wanted & mask::KNOWN == 0 {
        return Err(Errno::EINVAL.into());
    }
    c.descriptor(a[0])?;
    if wanted & mask::MASK_ADD != 0 && wanted & mask::MASK_CREATE != 0 {
        return Err(Errno::EINVAL.into());
    }
    let id = c.event_of(a[0], EventClass::Files, Errno::EINVAL)?;
    let path = c.read_path(a[1])?;
    let last = if wanted & mask::DONT_FOLLOW != 0 { Last::Keep } else { Last::Follow };
    let node = c.resolve_at(AT_FDCWD, &path, last)?.existing()?;
    let metadata = c.metadata(node)?;
    if wanted & mask::ONLYDIR != 0 && metadata.kind != Kind::Directory {
        return Err(Errno::ENOTDIR.into());
    }
    c.access()?.check(&metadata, Want::READ)?;
    let node = c.resident.program.tree.origin(node);
    let kept = wanted & (mask::EVENTS | mask::ONESHOT | mask::EXCL_UNLINK);
    let there = c.resident.file_watches.of(node).into_iter().find(|(event, _)| *event == id);
    if let Some((_, watch)) = there {
        if wanted & mask::MASK_CREATE != 0 {
            return Err(Errno::EEXIST.into());
        }
        let before = inotify(c, id)?.get(watch).map_or(0, |watch| watch.mask);
        inotify(c, id)?.change(watch, if wanted & mask::MASK_ADD != 0 { before | kept } else { kept });
        return Ok(watch as u64);
    }
    if c.resident.file_watches.len() >= MAX_WATCHES {
        return Err(Errno::ENOSPC.into());
    }
    let watch = inotify(c, id)?.add(FileWatch { node, mask: kept }).ok_or(Errno::ENOSPC)?;
    c.resident.file_watches.add(node, id, watch);
    Ok(watch as u64)
}

pub fn inotify_rm_watch<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let id = c.event_of(a[0], EventClass::Files, Errno::EINVAL)?;
    if c.resident.forget_file_watch(id, a[1] as i32) { Ok(0) } else { Err(Errno::EINVAL.into()) }
}

/// Reads what is to be told, as much as fits.
pub fn read<M: Machine>(c: &mut Context<'_, M>, id: EventId, room: usize, waiting: Waiting) -> Result<Vec<u8>> {
    let told = inotify(c, id)?;
    if told.is_empty() {
        return wait_if(c, waiting, Key::Event(id));
    }
    Ok(told.read(room).ok_or(Errno::EINVAL)?)
}

/// Bytes to be read (FIONREAD).
pub fn readable<M: Machine>(c: &mut Context<'_, M>, id: EventId) -> Result<usize> {
    Ok(inotify(c, id)?.readable())
}

//! Contents of regular files: the image's, or an object's of the writable layer.
use crate::{
    blocks::Files,
    context::{Context, Result},
    files::{DescriptionId, Place},
    process::{SpaceId, limit},
    signal::{Info, Signal},
    syscall::{check_seals, seal},
};
use alloc::{string::String, vec::Vec};
use core::cmp::Ordering;
use shimos_abi::{
    addr::{PAGE, UserAddr},
    errno::Errno,
};
use shimos_hal::Machine;
use shimos_memory::{Backing, BackingError, Bytes, MemoryFault, Sharing, Source, Vma};
use shimos_vfs::{Content, Fault, NodeId, Written};

/// The memory object behind a content object of the name space. Objects that have no file (shared memory) have numbers
/// from the other half.
pub fn object(id: shimos_vfs::ObjectId) -> shimos_memory::ObjectId {
    shimos_memory::ObjectId(id.0 as u32 & shimos_memory::ObjectId::FILE_MASK)
}

/// Where the content of a file is.
pub fn of<M: Machine>(c: &mut Context<'_, M>, node: NodeId) -> Result<Content> {
    if let Some(written) = c.resident.program.tree.written(node) {
        return Ok(Content::Object(written));
    }
    Ok(c.with_tree(|tree, sources| tree.content(sources, node))?)
}

/// The size of a file.
pub fn size<M: Machine>(c: &mut Context<'_, M>, node: NodeId) -> Result<u64> {
    Ok(match of(c, node)? {
        Content::Image { size, .. } | Content::Object(Written { size, .. }) => size,
    })
}

/// The path of a name, for /proc and logs; empty where its directory is gone.
pub fn path<M: Machine>(c: &mut Context<'_, M>, place: &Place) -> Result<String> {
    let root = c.resident.program.tree.root();
    match c.with_tree(|tree, sources| tree.path_of_entry(sources, root, place.dir, &place.name)) {
        Ok(path) => Ok(String::from_utf8_lossy(&path).into_owned()),
        Err(Fault::Errno(_)) => Ok(String::new()),
        Err(fault) => Err(fault.into()),
    }
}

/// The path under which a description was opened.
pub fn path_of<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId) -> Result<String> {
    match c.description_by(id)?.place.clone() {
        Some(place) => path(c, &place),
        None => Ok(String::new()),
    }
}

/// Reads at a place of a file; returns how many bytes, fewer than asked for only at its end.
pub fn read<M: Machine>(c: &mut Context<'_, M>, node: NodeId, offset: u64, into: &mut [u8]) -> Result<usize> {
    let content = of(c, node)?;
    let services = &mut *c.services;
    let image = c.resident.program.tree.image();
    let mut files = Files { cache: &mut services.blocks, image };
    match content {
        Content::Object(Written { object: id, .. }) => {
            let objects = &c.resident.program.objects;
            let got = objects.read(&mut services.machine, &mut services.frames, &mut files, object(id), offset, into);
            Ok(got?)
        }
        Content::Image { nid, size } => {
            let count = size.saturating_sub(offset).min(into.len() as u64) as usize;
            let mut done = 0;
            while done < count {
                let at = offset + done as u64;
                let (page, within) = (at / PAGE as u64, at as usize % PAGE);
                let piece = (PAGE - within).min(count - done);
                match files.page(&mut services.machine, &mut services.frames, nid, page) {
                    Ok(frame) => services.machine.read_frame(frame, within, &mut into[done..done + piece]),
                    // Never less than was asked for: programs take a short read of a file for its end.
                    Err(BackingError::Missing(block)) => {
                        return crate::context::wait_for(crate::resident::Key::Block(block));
                    }
                    Err(BackingError::OutOfMemory) => return Err(Errno::ENOMEM.into()),
                    Err(BackingError::End | BackingError::Failed) => return Err(Errno::EIO.into()),
                }
                done += piece;
            }
            Ok(done)
        }
    }
}

/// Reads at a place of a file to the caller's memory; returns how many bytes, fewer only at its end or that of the memory.
pub fn read_to_user<M: Machine>(
    c: &mut Context<'_, M>,
    node: NodeId,
    offset: u64,
    (addr, len): (u64, usize),
) -> Result<usize> {
    let (bytes, size) = match of(c, node)? {
        Content::Object(Written { object: id, .. }) => {
            let object = object(id);
            (Bytes::Object(object), c.resident.program.objects.size(object))
        }
        Content::Image { nid, size } => (Bytes::Image(nid), size),
    };
    let len = len.min(usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX));
    if len == 0 {
        return Ok(0);
    }
    let space = c.process()?.space;
    let got = c.services.memory(c.resident, space)?.take_from_file(UserAddr(addr), len, bytes, offset);
    match got {
        Err(MemoryFault::Bus) => Err(Errno::EIO.into()),
        got => Ok(got?),
    }
}

/// Makes a file's content writable: from here on it is an object.
pub fn make_writable<M: Machine>(c: &mut Context<'_, M>, node: NodeId) -> Result<shimos_memory::ObjectId> {
    let written = match c.resident.program.tree.written(node) {
        Some(written) => written,
        None => c.with_tree_mut(|tree, sources| tree.open_for_write(sources, node))?,
    };
    let Written { object: id, size, backing } = written;
    let object = object(id);
    let new = c.resident.program.objects.get(object).is_none();
    c.resident.program.objects.ensure(object, size, backing.map(|backing| (backing.nid, backing.len)));
    if let Some(backing) = backing.filter(|_| new) {
        show_object(c, backing.nid, object)?;
    }
    Ok(object)
}

/// Lets shared mappings of a file of the image show its object from now on: what is written is seen in them.
fn show_object<M: Machine>(c: &mut Context<'_, M>, nid: u64, object: shimos_memory::ObjectId) -> Result<()> {
    let shows = |vma: &Vma| {
        vma.sharing == Sharing::Shared && matches!(vma.source, Source::Image { nid: mapped, .. } if mapped == nid)
    };
    let spaces: Vec<SpaceId> = c
        .resident
        .program
        .spaces
        .iter()
        .filter(|(_, space)| space.mappings().iter().any(shows))
        .map(|(id, _)| *id)
        .collect();
    for id in spaces {
        c.services.memory(c.resident, id)?.with_mappings(|space, cx| space.redirect(cx, nid, object));
    }
    Ok(())
}

/// `EFBIG` with SIGXFSZ if a file of the caller's may not grow to `end` bytes (RLIMIT_FSIZE).
pub fn check_size<M: Machine>(c: &mut Context<'_, M>, end: u64) -> Result<()> {
    if end <= c.process()?.limit(limit::FSIZE) {
        return Ok(());
    }
    if let Some(signal) = Signal::new(25) {
        crate::delivery::send_to_thread(c.resident, c.tid, signal, Info::from_kernel());
    }
    Err(Errno::EFBIG.into())
}

/// Makes a file ready for a write of `len` bytes, at least one; returns the object that they go to, and how many may.
fn begin_write<M: Machine>(
    c: &mut Context<'_, M>,
    node: NodeId,
    offset: u64,
    len: usize,
) -> Result<(shimos_memory::ObjectId, usize)> {
    let limit = c.process()?.limit(limit::FSIZE).min(i64::MAX as u64);
    if offset >= i64::MAX as u64 {
        return Err(Errno::EFBIG.into());
    }
    if offset >= limit {
        check_size(c, offset.saturating_add(1))?;
    }
    let len = len.min((limit - offset) as usize);
    if !c.resident.program.seals.is_empty() {
        check_seals(c, node, seal::WRITE | seal::FUTURE_WRITE)?;
        if offset + len as u64 > size(c, node)? {
            check_seals(c, node, seal::GROW)?;
        }
    }
    Ok((make_writable(c, node)?, len))
}

/// Writes at a place of a file from the caller's memory; it grows as needed.
pub fn write_from_user<M: Machine>(
    c: &mut Context<'_, M>,
    node: NodeId,
    offset: u64,
    (addr, len): (u64, usize),
) -> Result<usize> {
    if len == 0 {
        return Ok(0);
    }
    let (object, len) = begin_write(c, node, offset, len)?;
    let space = c.process()?.space;
    let mut memory = c.services.memory(c.resident, space)?;
    let written = memory.put_into_object(UserAddr(addr), len, object, offset)?;
    let size = c.resident.program.objects.size(object);
    note_written(c, node, size)?;
    Ok(written)
}

/// Writes at a place of a file; it grows as needed.
pub fn write<M: Machine>(c: &mut Context<'_, M>, node: NodeId, offset: u64, bytes: &[u8]) -> Result<usize> {
    if bytes.is_empty() {
        return Ok(0);
    }
    let (object, len) = begin_write(c, node, offset, bytes.len())?;
    let bytes = &bytes[..len.min(bytes.len())];
    let services = &mut *c.services;
    let image = c.resident.program.tree.image();
    let mut files = Files { cache: &mut services.blocks, image };
    let objects = &mut c.resident.program.objects;
    let written = objects.write(&mut services.machine, &mut services.frames, &mut files, object, offset, bytes)?;
    let size = objects.size(object);
    note_written(c, node, size)?;
    Ok(written)
}

/// Makes bytes of a file zero again; whole pages of them take no memory any more.
pub fn punch<M: Machine>(c: &mut Context<'_, M>, node: NodeId, start: u64, end: u64) -> Result<()> {
    check_seals(c, node, seal::WRITE | seal::FUTURE_WRITE)?;
    let end = end.min(size(c, node)?);
    if start >= end {
        return Ok(());
    }
    let object = make_writable(c, node)?;
    let services = &mut *c.services;
    let image = c.resident.program.tree.image();
    let mut files = Files { cache: &mut services.blocks, image };
    let objects = &mut c.resident.program.objects;
    objects.punch(&mut services.machine, &mut services.frames, &mut files, object, start, end)?;
    let size = objects.size(object);
    note_written(c, node, size)
}

fn note_written<M: Machine>(c: &mut Context<'_, M>, node: NodeId, end: u64) -> Result<()> {
    let now = c.services.machine.wall_clock() as i64;
    Ok(c.resident.program.tree.wrote(node, end, now)?)
}

fn note_size<M: Machine>(c: &mut Context<'_, M>, node: NodeId, size: u64) -> Result<()> {
    let now = c.services.machine.wall_clock() as i64;
    c.with_tree_mut(|tree, sources| tree.set_size(sources, node, size, now))?;
    Ok(())
}

/// Cuts a file off or lets it grow by zeros.
pub fn truncate<M: Machine>(c: &mut Context<'_, M>, node: NodeId, size: u64) -> Result<()> {
    if size > i64::MAX as u64 {
        return Err(Errno::EINVAL.into());
    }
    if size > self::size(c, node)? {
        check_size(c, size)?;
    }
    if !c.resident.program.seals.is_empty() {
        match size.cmp(&self::size(c, node)?) {
            Ordering::Less => check_seals(c, node, seal::SHRINK)?,
            Ordering::Greater => check_seals(c, node, seal::GROW)?,
            Ordering::Equal => {}
        }
    }
    let object = make_writable(c, node)?;
    let services = &mut *c.services;
    let image = c.resident.program.tree.image();
    let mut files = Files { cache: &mut services.blocks, image };
    let objects = &mut c.resident.program.objects;
    objects.truncate(&mut services.machine, &mut services.frames, &mut files, object, size)?;
    note_size(c, node, size)
}

//! Mappings.
use super::Arguments;
use crate::{
    content,
    context::{Context, Result},
    files::Kind,
    syscall::{self, seal, transfer::flags},
};
use alloc::string::String;
use shimos_abi::{
    addr::{PAGE, UserAddr, UserPage},
    errno::Errno,
};
use shimos_hal::{Access, Machine};
use shimos_memory::{MapRequest, MemoryFault, Place, Prot, RemapTo, Sharing, Source, VmaFlags};
use shimos_vfs::{Content, Written};

const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_SHARED_VALIDATE: u64 = 3;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_GROWSDOWN: u64 = 0x100;
const MAP_LOCKED: u64 = 0x2000;
const MAP_POPULATE: u64 = 0x8000;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;

/// Pages that hold `len` bytes.
fn pages(len: u64) -> Result<u64> {
    if len == 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(len.checked_add(PAGE as u64 - 1).ok_or(Errno::ENOMEM)? / PAGE as u64)
}

/// The page at an aligned address.
fn page_at(addr: u64) -> Result<UserPage> {
    if !addr.is_multiple_of(PAGE as u64) {
        return Err(Errno::EINVAL.into());
    }
    Ok(UserAddr(addr).page().ok_or(Errno::ENOMEM)?)
}

/// The pages from an aligned address on.
fn range(addr: u64, len: u64) -> Result<(UserPage, UserPage)> {
    let first = page_at(addr)?;
    let end = first.0.checked_add(pages(len)?).filter(|end| *end <= shimos_abi::addr::USER_END / PAGE as u64);
    Ok((first, UserPage(end.ok_or(Errno::ENOMEM)?)))
}

fn prot(bits: u64) -> Result<Prot> {
    // PROT_GROWSDOWN and PROT_GROWSUP are not offered; PROT_SEM is ignored as on Linux.
    let bits = bits & !8;
    let mut prot = Prot::from_bits(bits as u8).filter(|_| bits <= 7).ok_or(Errno::EINVAL)?;
    // What can be written or executed can be read.
    if !prot.is_empty() {
        prot |= Prot::READ;
    }
    Ok(prot)
}

pub fn mmap<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [addr, len, prot_bits, flags, fd, offset] = a;
    let count = pages(len)?;
    let prot = prot(prot_bits)?;
    let sharing = match flags & 3 {
        MAP_PRIVATE => Sharing::Private,
        MAP_SHARED | MAP_SHARED_VALIDATE => Sharing::Shared,
        _ => return Err(Errno::EINVAL.into()),
    };
    let place = if flags & MAP_FIXED_NOREPLACE != 0 {
        Place::FixedIfFree(page_at(addr)?)
    } else if flags & MAP_FIXED != 0 {
        Place::Fixed(page_at(addr)?)
    } else {
        match UserAddr(addr).page() {
            Some(page) if page.0 != 0 => Place::Near(page),
            _ => Place::Anywhere,
        }
    };
    let mut vma_flags = VmaFlags::empty();
    if flags & MAP_GROWSDOWN != 0 {
        vma_flags |= VmaFlags::GROWS_DOWN;
    }
    if flags & MAP_LOCKED != 0 {
        vma_flags |= VmaFlags::LOCKED;
    }
    let mut request = MapRequest { sharing, flags: vma_flags, ..MapRequest::anonymous(prot) };
    let mut new_object = None;
    if flags & MAP_ANONYMOUS != 0 {
        if sharing == Sharing::Shared {
            let id = c.resident.program.objects.create(count * PAGE as u64);
            new_object = Some(id);
            request.source = Source::Object { id, first: 0 };
        }
    } else {
        if offset % PAGE as u64 != 0 {
            return Err(Errno::EINVAL.into());
        }
        (request.source, request.may, request.name) = file_source(c, fd, offset, sharing, prot)?;
    }
    let space = c.process()?.space;
    let mapped = c.services.memory(c.resident, space)?.with(|space, cx| {
        let first = space.map(cx, place, count, request)?;
        if flags & (MAP_POPULATE | MAP_LOCKED) != 0 {
            // Populating is a wish: what cannot be had now comes with a fault.
            let _ = space.populate(cx, first, UserPage(first.0 + count), Access::Read);
        }
        Ok::<UserPage, Errno>(first)
    });
    if let Some(id) = new_object {
        // The mapping keeps the object; without one it ends here.
        c.resident.program.objects.release(&mut c.services.frames, id);
    }
    Ok(mapped?.addr().0)
}

/// What a file mapping shows, what mprotect may later allow, and its name.
fn file_source<M: Machine>(
    c: &mut Context<'_, M>,
    fd: u64,
    offset: u64,
    sharing: Sharing,
    prot: Prot,
) -> Result<(Source, Prot, String)> {
    let id = c.descriptor(fd)?.description;
    let description = c.description_by(id)?;
    let access = description.flags & flags::ACCESS_MODE;
    let Kind::File(node) = description.kind else {
        return Err(match description.kind {
            Kind::Zero(_) if sharing == Sharing::Private => {
                return Ok((Source::Anonymous, Prot::all(), String::new()));
            }
            _ => Errno::ENODEV.into(),
        });
    };
    if access == flags::WRITE_ONLY {
        return Err(Errno::EACCES.into());
    }
    let writable = access == flags::READ_WRITE;
    if sharing == Sharing::Shared && prot.contains(Prot::WRITE) && !writable {
        return Err(Errno::EACCES.into());
    }
    let sealed = syscall::check_seals(c, node, seal::WRITE | seal::FUTURE_WRITE);
    if sharing == Sharing::Shared && prot.contains(Prot::WRITE) {
        sealed.clone()?;
    }
    let may = if sharing == Sharing::Shared && (!writable || sealed.is_err()) {
        Prot::READ | Prot::EXECUTE
    } else {
        Prot::all()
    };
    let first = offset / PAGE as u64;
    let name = content::path_of(c, id)?;
    let source = if sharing == Sharing::Shared && writable {
        // Stores must reach the file: it moves to the writable layer now.
        Source::Object { id: content::make_writable(c, node)?, first }
    } else {
        match content::of(c, node)? {
            Content::Image { nid, .. } => Source::Image { nid, first },
            Content::Object(Written { object, .. }) => Source::Object { id: content::object(object), first },
        }
    };
    Ok((source, may, name))
}

pub fn munmap<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (first, end) = range(a[0], a[1]).map_err(|_| Errno::EINVAL)?;
    let space = c.process()?.space;
    c.services.memory(c.resident, space)?.with(|space, cx| space.unmap(cx, first, end));
    Ok(0)
}

pub fn mprotect<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[1] == 0 {
        return page_at(a[0]).map(|_| 0);
    }
    let (first, end) = range(a[0], a[1])?;
    let prot = prot(a[2])?;
    let space = c.process()?.space;
    c.services.memory(c.resident, space)?.with(|space, cx| space.protect(cx, first, end, prot))?;
    Ok(0)
}

pub fn brk<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let space = c.process()?.space;
    let end = c.services.memory(c.resident, space)?.with(|space, cx| space.set_break(cx, UserAddr(a[0])));
    Ok(end.0)
}

pub fn mremap<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const MAY_MOVE: u64 = 1;
    const FIXED: u64 = 2;
    let [old, old_len, new_len, flags, new_addr, _] = a;
    if flags & !(MAY_MOVE | FIXED) != 0 || flags & FIXED != 0 && flags & MAY_MOVE == 0 {
        return Err(Errno::EINVAL.into());
    }
    let (first, end) = range(old, old_len)?;
    let old_pages = end.0 - first.0;
    let new_pages = pages(new_len)?;
    let to = if flags & FIXED != 0 {
        RemapTo::Fixed(page_at(new_addr)?)
    } else if flags & MAY_MOVE != 0 {
        RemapTo::MayMove
    } else {
        RemapTo::InPlace
    };
    let space = c.process()?.space;
    let page =
        c.services.memory(c.resident, space)?.with(|space, cx| space.remap(cx, first, old_pages, new_pages, to))?;
    Ok(page.addr().0)
}

/// msync(2): stores to shared mappings are seen by all at once, so there is nothing to do but check.
pub fn msync<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[2] & !7 != 0 || a[2] & 5 == 5 {
        return Err(Errno::EINVAL.into());
    }
    if a[1] == 0 {
        return page_at(a[0]).map(|_| 0);
    }
    let (first, end) = range(a[0], a[1])?;
    let space = c.process()?.space;
    let covered = c.resident.program.spaces.get(&space).is_some_and(|space| space.mappings().covers(first, end));
    if covered { Ok(0) } else { Err(Errno::ENOMEM.into()) }
}

pub fn madvise<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const DONTNEED: u64 = 4;
    const FREE: u64 = 8;
    const DONTFORK: u64 = 10;
    const DOFORK: u64 = 11;
    const WIPEONFORK: u64 = 18;
    const KEEPONFORK: u64 = 19;
    if a[1] == 0 {
        return page_at(a[0]).map(|_| 0);
    }
    let (first, end) = range(a[0], a[1])?;
    let space = c.process()?.space;
    let mut memory = c.services.memory(c.resident, space)?;
    match a[2] {
        // Normal, random, sequential, will need; huge pages or not; dump or not; cold, page out.
        0..=3 | 14..=17 | 20 | 21 => {
            let covered = memory.with(|space, _| space.mappings().covers(first, end));
            if !covered {
                return Err(Errno::ENOMEM.into());
            }
        }
        DONTNEED | FREE => match memory.with(|space, cx| space.dont_need(cx, first, end)) {
            Ok(()) => {}
            Err(errno) => return Err(errno.into()),
        },
        DONTFORK | DOFORK | WIPEONFORK | KEEPONFORK => return Err(Errno::EINVAL.into()),
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// What a page fault of a thread came to.
pub enum Faulted {
    /// Go on.
    Resolved,
    /// Wait for this disk block, then try again.
    Wait(u64),
    /// The address is bad: signal and `si_code`.
    Signal(crate::signal::Signal, i32),
    /// There is no memory.
    OutOfMemory,
}

/// Resolves a page fault.
pub fn page_fault<M: Machine>(
    resident: &mut crate::resident::Resident<M>,
    services: &mut crate::services::Services<M>,
    space: crate::process::SpaceId,
    addr: UserAddr,
    access: Access,
) -> Faulted {
    use crate::signal::Signal;
    let Ok(mut memory) = services.memory(resident, space) else { return Faulted::Signal(Signal::SEGV, 1) };
    match memory.fault(addr, access) {
        Ok(()) => Faulted::Resolved,
        Err(MemoryFault::Missing(block)) => Faulted::Wait(block),
        Err(MemoryFault::OutOfMemory) => Faulted::OutOfMemory,
        Err(MemoryFault::Bus) => Faulted::Signal(Signal::BUS, 2),
        Err(MemoryFault::Segv(shimos_memory::Segv::Unmapped)) => Faulted::Signal(Signal::SEGV, 1),
        Err(MemoryFault::Segv(shimos_memory::Segv::Protected)) => Faulted::Signal(Signal::SEGV, 2),
    }
}

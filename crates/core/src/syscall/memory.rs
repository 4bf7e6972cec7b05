//! Mappings: mmap, munmap, mprotect, brk, mremap, msync.
use super::{Arguments, ready::Wanted};
use crate::{
    content,
    context::{Context, Result, Stop},
    files::Kind,
    process::{SpaceId, limit},
    syscall::{self, seal, transfer::flags},
};
use alloc::string::String;
use shimos_abi::{
    addr::{PAGE, USER_END, UserAddr, UserPage},
    errno::Errno,
};
use shimos_hal::{Access, Machine};
use shimos_memory::{MapRequest, MemoryFault, Place, Progress, Prot, Remap, RemapTo, Sharing, Source, VmaFlags};
use shimos_vfs::{Content, Written};

const MAP_TYPE: u64 = 0xf;
const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_SHARED_VALIDATE: u64 = 3;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_32BIT: u64 = 0x40;
const MAP_GROWSDOWN: u64 = 0x100;
const MAP_LOCKED: u64 = 0x2000;
const MAP_POPULATE: u64 = 0x8000;
const MAP_NONBLOCK: u64 = 0x1_0000;
const MAP_HUGETLB: u64 = 0x4_0000;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
/// Flags that MAP_SHARED_VALIDATE takes: the old ones. MAP_SYNC needs memory that keeps its content.
const KNOWN: u64 = 0x7_f9f3 | 0x1f << 26;

/// Pages that one turn of a call takes out of memory, at most.
const CLEAR_STEP: u64 = 8192;

/// Pages that hold `len` bytes.
pub fn pages(len: u64) -> Result<u64> {
    if len == 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(len.checked_add(PAGE as u64 - 1).ok_or(Errno::ENOMEM)? / PAGE as u64)
}

/// The page at an aligned address.
pub fn page_at(addr: u64) -> Result<UserPage> {
    if !addr.is_multiple_of(PAGE as u64) {
        return Err(Errno::EINVAL.into());
    }
    Ok(UserAddr(addr).page().ok_or(Errno::ENOMEM)?)
}

/// The pages from an aligned address on.
pub fn range(addr: u64, len: u64) -> Result<(UserPage, UserPage)> {
    let first = page_at(addr)?;
    let end = first.0.checked_add(pages(len)?).filter(|end| *end <= USER_END / PAGE as u64);
    Ok((first, UserPage(end.ok_or(Errno::ENOMEM)?)))
}

/// What can be written or executed can be read.
fn readable(bits: u64) -> Prot {
    let prot = Prot::from_bits_truncate((bits & 7) as u8);
    if prot.is_empty() { prot } else { prot | Prot::READ }
}

/// The caller's address space, with its limits as they are now.
fn space_of<M: Machine>(c: &mut Context<'_, M>) -> Result<SpaceId> {
    let process = c.process()?;
    let (id, limits) = (process.space, process.memory_limits());
    if let Some(space) = c.resident.program.spaces.get_mut(&id) {
        space.set_limits(limits);
    }
    Ok(id)
}

/// Takes what is in memory of a range out of it, over several turns if it is much: the call is issued again.
pub fn clear_all<M: Machine>(c: &mut Context<'_, M>, first: UserPage, end: UserPage) -> Result<()> {
    let id = c.process()?.space;
    let mut memory = c.services.memory(c.resident, id)?;
    if let Ok(Progress::More) = memory.map_range((first, end), CLEAR_STEP as usize) {
        return Err(Stop::Again);
    }
    let resident = c.resident.program.spaces.get(&id).map_or(0, |space| space.resident());
    if resident as u64 <= CLEAR_STEP {
        return Ok(());
    }
    let mut memory = c.services.memory(c.resident, id)?;
    match memory.within((first, end), |space, cx| space.clear_step(cx, first, end, CLEAR_STEP)) {
        Progress::Done => Ok(()),
        Progress::More => Err(Stop::Again),
    }
}

/// Where mmap(2) is told to put a mapping.
fn place_for(addr: u64, flags: u64) -> Result<Place> {
    Ok(if flags & MAP_FIXED_NOREPLACE != 0 {
        Place::FixedIfFree(page_at(addr)?)
    } else if flags & MAP_FIXED != 0 {
        Place::Fixed(page_at(addr)?)
    } else {
        match UserAddr(addr).page() {
            Some(page) if page.0 != 0 => Place::Near(page),
            _ if flags & MAP_32BIT != 0 => Place::Low,
            _ => Place::Anywhere,
        }
    })
}

pub fn mmap<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if let Some(first) = super::ready::under_way(c)? {
        // What cannot be made ready now comes with a fault.
        super::ready::go_on(c, Wanted::IfPossible)?;
        return Ok(first.addr().0);
    }
    let [addr, len, prot_bits, flags, fd, offset] = a;
    if offset % PAGE as u64 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let count = pages(len)?;
    let prot = readable(prot_bits);
    let sharing = match flags & MAP_TYPE {
        MAP_PRIVATE => Sharing::Private,
        MAP_SHARED => Sharing::Shared,
        MAP_SHARED_VALIDATE if flags & MAP_ANONYMOUS == 0 => Sharing::Shared,
        _ => return Err(Errno::EINVAL.into()),
    };
    let place = place_for(addr, flags)?;
    let mut vma_flags = VmaFlags::empty();
    if flags & MAP_GROWSDOWN != 0 {
        if flags & MAP_ANONYMOUS == 0 || sharing == Sharing::Shared {
            return Err(Errno::EINVAL.into());
        }
        vma_flags |= VmaFlags::GROWS_DOWN;
    }
    if flags & MAP_HUGETLB != 0 {
        return Err(no_huge_pages(flags).into());
    }
    vma_flags |= locked(c, count, flags)?;
    let mut request = MapRequest { sharing, flags: vma_flags, ..MapRequest::anonymous(prot) };
    let mut new_object = None;
    if flags & MAP_ANONYMOUS == 0 {
        if flags & MAP_TYPE == MAP_SHARED_VALIDATE && flags & !KNOWN != 0 {
            file_behind(c, fd)?;
            return Err(Errno::EOPNOTSUPP.into());
        }
        if (offset / PAGE as u64).checked_add(count).is_none_or(|end| end > 1 << 51) {
            return Err(Errno::EOVERFLOW.into());
        }
        (request.source, request.may, request.name) = file_source(c, fd, offset, sharing, prot)?;
    }
    if sharing == Sharing::Shared && request.source == Source::Anonymous {
        let id = c.resident.program.objects.create(count.saturating_mul(PAGE as u64));
        new_object = Some(id);
        request.source = Source::Object { id, first: 0 };
    }
    if let Place::Fixed(page) = place
        && let Err(stop) = clear_all(c, page, UserPage(page.0.saturating_add(count)))
    {
        if let Some(id) = new_object {
            c.resident.program.objects.release(&mut c.services.frames, id);
        }
        return Err(stop);
    }
    let whole = vma_flags.contains(VmaFlags::LOCKED) && !vma_flags.contains(VmaFlags::LOCKED_ON_FAULT);
    let space = space_of(c)?;
    let replaced = match place {
        Place::Fixed(page) => (page, UserPage(page.0.saturating_add(count))),
        // Nothing is there.
        _ => (UserPage(0), UserPage(0)),
    };
    let mut memory = c.services.memory(c.resident, space)?;
    let mapped = memory.within(replaced, |space, cx| space.map(cx, place, count, request));
    if let Some(id) = new_object {
        // The mapping keeps the object; without one it ends here.
        c.resident.program.objects.release(&mut c.services.frames, id);
    }
    let first = mapped?;
    if (flags & MAP_POPULATE != 0 && flags & MAP_NONBLOCK == 0) || whole {
        super::ready::begin(c, first, UserPage(first.0 + count))?;
        super::ready::go_on(c, Wanted::IfPossible)?;
    }
    Ok(first.addr().0)
}

/// MAP_HUGETLB: there are no huge pages of the sizes that there may be, and no others.
fn no_huge_pages(flags: u64) -> Errno {
    const TWO_MEGABYTES: u64 = 21;
    const ONE_GIGABYTE: u64 = 30;
    match flags >> 26 & 63 {
        _ if flags & MAP_ANONYMOUS == 0 => Errno::EINVAL,
        0 | TWO_MEGABYTES | ONE_GIGABYTE => Errno::ENOMEM,
        _ => Errno::EINVAL,
    }
}

/// How a new mapping is locked, and whether it may be.
fn locked<M: Machine>(c: &mut Context<'_, M>, count: u64, flags: u64) -> Result<VmaFlags> {
    let process = c.process()?;
    let (limit, root) = (process.limit(limit::MEMLOCK), process.credentials.euid == 0);
    let space = c.resident.program.spaces.get(&process.space).ok_or(Stop::Gone)?;
    let mut lock = space.lock_future().map_or(VmaFlags::empty(), |lock| lock.flags());
    if flags & MAP_LOCKED != 0 {
        if limit == 0 && !root {
            return Err(Errno::EPERM.into());
        }
        lock |= VmaFlags::LOCKED;
    }
    if !lock.is_empty() && !root && space.locked_pages().saturating_add(count) > limit / PAGE as u64 {
        return Err(Errno::EAGAIN.into());
    }
    Ok(lock)
}

/// The node of the file behind a descriptor that is to be mapped.
fn file_behind<M: Machine>(c: &mut Context<'_, M>, fd: u64) -> Result<Kind> {
    let id = c.descriptor(fd)?.description;
    let description = c.description_by(id)?;
    match &description.kind {
        Kind::Path(_) => Err(Errno::EBADF.into()),
        _ if description.flags & flags::ACCESS_MODE == flags::WRITE_ONLY => Err(Errno::EACCES.into()),
        kind @ (Kind::File(_) | Kind::Zero(_)) => Ok(kind.clone()),
        _ => Err(Errno::ENODEV.into()),
    }
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
    let kind = file_behind(c, fd)?;
    let writable = c.description_by(id)?.flags & flags::ACCESS_MODE == flags::READ_WRITE;
    if sharing == Sharing::Shared && prot.contains(Prot::WRITE) && !writable {
        return Err(Errno::EACCES.into());
    }
    let Kind::File(node) = kind else { return Ok((Source::Anonymous, Prot::all(), String::new())) };
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
    clear_all(c, first, end)?;
    let space = c.process()?.space;
    c.services.memory(c.resident, space)?.within((first, end), |space, cx| {
        // To cut a hole makes one mapping more.
        let cuts = space.mappings().find(first).is_some_and(|vma| vma.first < first && vma.end > end);
        if cuts && space.mappings().len() >= shimos_memory::mappings::MAX_MAPPINGS {
            return Err(Errno::ENOMEM);
        }
        space.unmap(cx, first, end);
        Ok(())
    })?;
    Ok(0)
}

pub fn mprotect<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const SEM: u64 = 8;
    const GROWSDOWN: u64 = 0x100_0000;
    const GROWSUP: u64 = 0x200_0000;
    let [addr, len, bits, ..] = a;
    if bits & (GROWSDOWN | GROWSUP) == GROWSDOWN | GROWSUP {
        return Err(Errno::EINVAL.into());
    }
    if len == 0 {
        return page_at(addr).map(|_| 0);
    }
    let (mut first, end) = range(addr, len)?;
    if bits & !(7 | SEM | GROWSDOWN | GROWSUP) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let space = space_of(c)?;
    if bits & (GROWSDOWN | GROWSUP) != 0 {
        let mappings = c.resident.program.spaces.get(&space).ok_or(Stop::Gone)?.mappings();
        let vma = mappings.find(first).ok_or(Errno::ENOMEM)?;
        // No mapping grows up on this machine.
        if bits & GROWSUP != 0 || !vma.flags.contains(VmaFlags::GROWS_DOWN) {
            return Err(Errno::EINVAL.into());
        }
        first = vma.first;
    }
    let prot = readable(bits);
    c.services.memory(c.resident, space)?.with_mappings(|space, cx| space.protect(cx, first, end, prot))?;
    Ok(0)
}

pub fn brk<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let space = space_of(c)?;
    let process = c.process()?;
    let (root, limit) = (process.credentials.euid == 0, process.limit(limit::MEMLOCK) / PAGE as u64);
    let old = c.resident.program.spaces.get(&space).ok_or(Stop::Gone)?;
    let end = old.program_break();
    let more = a[0].saturating_sub(end.0).div_ceil(PAGE as u64);
    if old.lock_future().is_some() && !root && old.locked_pages().saturating_add(more) > limit {
        return Ok(end.0);
    }
    let old_start = old.heap_start().0;
    if a[0] >= old_start && a[0] < end.0 {
        clear_all(c, UserPage(a[0].div_ceil(PAGE as u64)), UserPage(end.0.div_ceil(PAGE as u64)))?;
    }
    let cut = (UserPage(a[0].div_ceil(PAGE as u64)), UserPage(end.0.div_ceil(PAGE as u64)));
    let cut = if a[0] >= old_start { cut } else { (UserPage(0), UserPage(0)) };
    let mut memory = c.services.memory(c.resident, space)?;
    let end = memory.within(cut, |space, cx| space.set_break(cx, UserAddr(a[0])));
    Ok(end.0)
}

pub fn mremap<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const MAY_MOVE: u64 = 1;
    const FIXED: u64 = 2;
    const DONT_UNMAP: u64 = 4;
    let [old, old_len, new_len, flags, new_addr, _] = a;
    let has = |flag| flags & flag != 0;
    if flags & !(MAY_MOVE | FIXED | DONT_UNMAP) != 0 || flags & (FIXED | DONT_UNMAP) != 0 && !has(MAY_MOVE) {
        return Err(Errno::EINVAL.into());
    }
    let first = page_at(old).map_err(|_| Errno::EINVAL)?;
    let size = |len: u64| len.checked_add(PAGE as u64 - 1).map(|len| len / PAGE as u64);
    let (Some(old_pages), Some(new_pages)) = (size(old_len), size(new_len)) else { return Err(Errno::EINVAL.into()) };
    if new_pages == 0 || has(DONT_UNMAP) && old_pages != new_pages {
        return Err(Errno::EINVAL.into());
    }
    let to = if has(FIXED) {
        RemapTo::Fixed(page_at(new_addr).map_err(|_| Errno::EINVAL)?)
    } else if has(MAY_MOVE) {
        RemapTo::MayMove
    } else {
        RemapTo::InPlace
    };
    if new_pages < old_pages {
        clear_all(c, UserPage(first.0 + new_pages), UserPage(first.0.saturating_add(old_pages)))?;
    }
    let kind = if has(DONT_UNMAP) { Remap::Leave } else { Remap::Move };
    let space = space_of(c)?;
    if new_pages > old_pages {
        let process = c.process()?;
        let (root, limit) = (process.credentials.euid == 0, process.limit(limit::MEMLOCK) / PAGE as u64);
        let memory = c.resident.program.spaces.get(&space).ok_or(Stop::Gone)?;
        let locked = memory.mappings().find(first).is_some_and(|vma| vma.flags.contains(VmaFlags::LOCKED));
        if locked && !root && memory.locked_pages().saturating_add(new_pages - old_pages) > limit {
            return Err(Errno::EAGAIN.into());
        }
    }
    let mut memory = c.services.memory(c.resident, space)?;
    Ok(memory.with(|space, cx| space.remap(cx, (first, old_pages), new_pages, to, kind))?.addr().0)
}

/// msync(2): stores to shared mappings are seen by all at once, so there is nothing to do but check.
pub fn msync<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const INVALIDATE: u64 = 2;
    if a[2] & !7 != 0 || a[2] & 5 == 5 {
        return Err(Errno::EINVAL.into());
    }
    if a[1] == 0 {
        return page_at(a[0]).map(|_| 0);
    }
    let (first, end) = range(a[0], a[1])?;
    let space = c.process()?.space;
    let space = c.resident.program.spaces.get(&space).ok_or(Stop::Gone)?;
    if a[2] & INVALIDATE != 0 && space.locked_pages_in(first, end) > 0 {
        return Err(Errno::EBUSY.into());
    }
    if space.mappings().covers(first, end) { Ok(0) } else { Err(Errno::ENOMEM.into()) }
}

/// remap_file_pages(2): lets a part of a shared mapping show another part of its object.
pub fn remap_file_pages<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [addr, len, prot, index, ..] = a;
    let first = UserPage(addr / PAGE as u64);
    let count = len / PAGE as u64;
    let end = first.0.checked_add(count).ok_or(Errno::EINVAL)?;
    if prot != 0 || count == 0 || index.checked_add(count).is_none() {
        return Err(Errno::EINVAL.into());
    }
    let space = space_of(c)?;
    let vma = c.resident.program.spaces.get(&space).ok_or(Stop::Gone)?.mappings().find(first).cloned();
    let vma = vma.filter(|vma| vma.sharing == Sharing::Shared && vma.end.0 >= end).ok_or(Errno::EINVAL)?;
    let source = match vma.source {
        Source::Anonymous => return Err(Errno::EINVAL.into()),
        Source::Object { id, .. } => Source::Object { id, first: index },
        Source::Image { nid, .. } => Source::Image { nid, first: index },
    };
    let request =
        MapRequest { prot: vma.prot, may: vma.may, sharing: vma.sharing, source, flags: vma.flags, name: vma.name };
    c.services.memory(c.resident, space)?.with(|space, cx| space.map(cx, Place::Fixed(first), count, request))?;
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
    space: SpaceId,
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

//! Making pages ready before they are touched, and keeping them: mlock and its family, MAP_POPULATE.
use super::{
    Arguments,
    memory::{page_at, range},
};
use crate::{
    context::{Context, Result, Stop},
    process::limit,
};
use shimos_abi::{
    addr::{PAGE, USER_END, UserAddr, UserPage},
    errno::Errno,
};
use shimos_hal::{Access, Machine};
use shimos_memory::{LockFuture, MemoryFault, VmaFlags};

/// Pages that one turn of a call makes ready, at most.
const STEP: u64 = 1024;

/// What a call does about pages that cannot be made ready.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing.
    IfPossible,
    /// It fails.
    All,
    /// It fails; they must be ready for this.
    For(Access),
}

/// Notes that the caller's call makes the pages of `first..end` ready from here on.
pub fn begin<M: Machine>(c: &mut Context<'_, M>, first: UserPage, end: UserPage) -> Result<()> {
    c.set_moved(first.0)?;
    if let Some(call) = &mut c.thread()?.call {
        call.range = Some((first.0, end.0));
    }
    Ok(())
}

/// The first of the pages that the call makes ready, if it has begun to.
pub fn under_way<M: Machine>(c: &mut Context<'_, M>) -> Result<Option<UserPage>> {
    Ok(c.thread()?.call.and_then(|call| call.range).map(|(first, _)| UserPage(first)))
}

/// Makes some more pages ready; returns when all are.
pub fn go_on<M: Machine>(c: &mut Context<'_, M>, wanted: Wanted) -> Result<()> {
    let Some((_, end)) = c.thread()?.call.and_then(|call| call.range) else { return Ok(()) };
    let at = c.moved()?;
    let space = c.process()?.space;
    let access = match wanted {
        Wanted::For(access) => Some(access),
        _ => None,
    };
    let mut memory = c.services.memory(c.resident, space)?;
    let these = crate::user_memory::with_neighbours(UserPage(at), UserPage(end.min(at.saturating_add(STEP))));
    let outcome = memory.within(these, |space, cx| space.populate(cx, (UserPage(at), UserPage(end)), STEP, access));
    match outcome {
        Ok(reached) if reached.0 >= end => Ok(()),
        Ok(reached) => {
            c.set_moved(reached.0)?;
            Err(Stop::Again)
        }
        Err((page, MemoryFault::Missing(block))) => {
            c.set_moved(page.0)?;
            Err(MemoryFault::Missing(block).into())
        }
        Err(_) if wanted == Wanted::IfPossible => Ok(()),
        Err((_, fault)) => match (wanted, fault) {
            (Wanted::For(_), MemoryFault::Segv(shimos_memory::Segv::Protected)) => Err(Errno::EINVAL.into()),
            (Wanted::For(_), MemoryFault::Bus) => Err(Errno::EFAULT.into()),
            _ => Err(Errno::ENOMEM.into()),
        },
    }
}

/// The pages that hold a range of bytes at any address; `None` for no byte.
fn around<M: Machine>(_: &Context<'_, M>, addr: u64, len: u64, wrong: Errno) -> Result<Option<(UserPage, UserPage)>> {
    let start = addr - addr % PAGE as u64;
    let len = len.checked_add(addr % PAGE as u64).ok_or(wrong)?;
    let end = start.checked_add(len).and_then(|end| end.checked_add(PAGE as u64 - 1)).ok_or(wrong)? / PAGE as u64;
    if len == 0 {
        return Ok(None);
    }
    if end > USER_END / PAGE as u64 {
        return Err(Errno::ENOMEM.into());
    }
    Ok(Some((UserAddr(start).page().ok_or(Errno::ENOMEM)?, UserPage(end))))
}

fn lock<M: Machine>(c: &mut Context<'_, M>, addr: u64, len: u64, how: LockFuture) -> Result<u64> {
    if under_way(c)?.is_some() {
        return go_on(c, Wanted::All).map(|()| 0);
    }
    let process = c.process()?;
    let (root, limit, space) = (process.credentials.euid == 0, process.limit(limit::MEMLOCK), process.space);
    if limit == 0 && !root {
        return Err(Errno::EPERM.into());
    }
    let Some((first, end)) = around(c, addr, len, Errno::EINVAL)? else { return Ok(0) };
    let space = c.resident.program.spaces.get_mut(&space).ok_or(Stop::Gone)?;
    let kept = space.locked_pages().saturating_sub(space.locked_pages_in(first, end));
    if !root && kept.saturating_add(end.0 - first.0) > limit / PAGE as u64 {
        return Err(Errno::ENOMEM.into());
    }
    space.set_locked(first, end, Some(how))?;
    if how == LockFuture::OnFault {
        return Ok(0);
    }
    begin(c, first, end)?;
    go_on(c, Wanted::All).map(|()| 0)
}

pub fn mlock<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    lock(c, a[0], a[1], LockFuture::Whole)
}

pub fn mlock2<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const ON_FAULT: u64 = 1;
    match a[2] as u32 as u64 {
        0 => lock(c, a[0], a[1], LockFuture::Whole),
        ON_FAULT => lock(c, a[0], a[1], LockFuture::OnFault),
        _ => Err(Errno::EINVAL.into()),
    }
}

pub fn munlock<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let Some((first, end)) = around(c, a[0], a[1], Errno::EINVAL)? else { return Ok(0) };
    let space = c.process()?.space;
    c.resident.program.spaces.get_mut(&space).ok_or(Stop::Gone)?.set_locked(first, end, None)?;
    Ok(0)
}

pub fn mlockall<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const CURRENT: u64 = 1;
    const FUTURE: u64 = 2;
    const ON_FAULT: u64 = 4;
    let flags = a[0];
    if flags == 0 || flags & !(CURRENT | FUTURE | ON_FAULT) != 0 || flags == ON_FAULT {
        return Err(Errno::EINVAL.into());
    }
    let process = c.process()?;
    let (root, limit, id) = (process.credentials.euid == 0, process.limit(limit::MEMLOCK), process.space);
    if limit == 0 && !root {
        return Err(Errno::EPERM.into());
    }
    let space = c.resident.program.spaces.get_mut(&id).ok_or(Stop::Gone)?;
    if flags & CURRENT != 0 && !root && space.mappings().total_pages() > limit / PAGE as u64 {
        return Err(Errno::ENOMEM.into());
    }
    let how = if flags & ON_FAULT != 0 { LockFuture::OnFault } else { LockFuture::Whole };
    space.set_lock_future((flags & FUTURE != 0).then_some(how));
    if flags & CURRENT == 0 {
        return Ok(0);
    }
    let _ = space.set_locked(UserPage(0), UserPage(USER_END / PAGE as u64), Some(how));
    if how == LockFuture::OnFault {
        return Ok(0);
    }
    // What is not in memory by now is made ready as far as one turn goes; the rest comes with its faults, as on Linux
    // where it cannot be had at once.
    let mut left = STEP;
    let areas: alloc::vec::Vec<(UserPage, UserPage)> =
        space.mappings().iter().map(|vma| (vma.first, vma.end)).collect();
    for (first, end) in areas {
        if left == 0 {
            break;
        }
        let mut memory = c.services.memory(c.resident, id)?;
        let most = left.min(end.0 - first.0);
        let reached = match memory.with(|space, cx| space.populate(cx, (first, end), most, None)) {
            Ok(reached) | Err((reached, _)) => reached,
        };
        left = left.saturating_sub(reached.0 - first.0);
    }
    Ok(0)
}

pub fn munlockall<M: Machine>(c: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    let space = c.process()?.space;
    let space = c.resident.program.spaces.get_mut(&space).ok_or(Stop::Gone)?;
    space.set_lock_future(None);
    let _ = space.set_locked(UserPage(0), UserPage(USER_END / PAGE as u64), None);
    Ok(0)
}

/// mincore(2): which pages are in memory.
pub fn mincore<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const PIECE: u64 = 4096;
    let [addr, len, out, ..] = a;
    if len == 0 {
        return page_at(addr).map(|_| 0);
    }
    let (first, end) = range(addr, len)?;
    let id = c.process()?.space;
    let covered = c.resident.program.spaces.get(&id).is_some_and(|space| space.mappings().covers(first, end));
    if !covered {
        return Err(Errno::ENOMEM.into());
    }
    let mut at = first.0;
    while at < end.0 {
        let stop = end.0.min(at + PIECE);
        let mut memory = c.services.memory(c.resident, id)?;
        let bytes =
            memory.within((UserPage(at), UserPage(stop)), |space, _| space.residence(UserPage(at), UserPage(stop)));
        c.write_bytes(out.wrapping_add(at - first.0), &bytes)?;
        at = stop;
    }
    Ok(0)
}

/// madvise(2).
pub fn madvise<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [addr, len, advice, ..] = a;
    let advice = Advice::new(advice as u32)?;
    let start = page_at(addr).map_err(|_| Errno::EINVAL)?;
    let count = len.checked_add(PAGE as u64 - 1).ok_or(Errno::EINVAL)? / PAGE as u64;
    let end = start.0.checked_add(count).filter(|end| *end <= u64::MAX / PAGE as u64).ok_or(Errno::EINVAL)?;
    if count == 0 {
        return Ok(0);
    }
    let end = UserPage(end);
    if under_way(c)?.is_some() {
        let Advice::Populate(access) = advice else { return Ok(0) };
        return go_on(c, Wanted::For(access)).map(|()| 0);
    }
    let id = c.process()?.space;
    let space = c.resident.program.spaces.get_mut(&id).ok_or(Stop::Gone)?;
    let complete = space.mappings().covers(start, end);
    match advice {
        Advice::Hint => {}
        Advice::Refused(errno) => return Err(errno.into()),
        Advice::Flags(set, clear) => {
            let private = |vma: &shimos_memory::Vma| {
                vma.sharing == shimos_memory::Sharing::Private && vma.source == shimos_memory::Source::Anonymous
            };
            if set == VmaFlags::WIPE_ON_FORK && !space.mappings().overlapping(start, end).all(private) {
                return Err(Errno::EINVAL.into());
            }
            space.set_mapping_flags(start, end, set, clear)?;
        }
        Advice::Drop(what) => {
            for vma in space.mappings().overlapping(start, end) {
                let private = vma.sharing == shimos_memory::Sharing::Private;
                let anonymous = private && vma.source == shimos_memory::Source::Anonymous;
                let locked = vma.flags.contains(VmaFlags::LOCKED);
                if what == What::Unused && !anonymous || what == What::Unlocked && locked {
                    return Err(Errno::EINVAL.into());
                }
            }
            super::memory::clear_all(c, start, end)?;
            let mut memory = c.services.memory(c.resident, id)?;
            memory.within((start, end), |space, cx| space.clear_step(cx, start, end, u64::MAX));
        }
        Advice::Remove => super::holes::remove(c, start, end)?,
        Advice::Populate(access) => {
            if !complete {
                return Err(Errno::ENOMEM.into());
            }
            begin(c, start, end)?;
            go_on(c, Wanted::For(access))?;
        }
    }
    if complete { Ok(0) } else { Err(Errno::ENOMEM.into()) }
}

/// Which pages an advice drops.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// All (MADV_DONTNEED_LOCKED).
    All,
    /// All, if none is locked (MADV_DONTNEED).
    Unlocked,
    /// Those of private memory (MADV_FREE): the program says that their content does not matter.
    Unused,
}

/// What madvise(2) may be told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Advice {
    /// Something that changes no content.
    Hint,
    /// Something that needs what is not there.
    Refused(Errno),
    Flags(VmaFlags, VmaFlags),
    Drop(What),
    Remove,
    Populate(Access),
}

impl Advice {
    fn new(advice: u32) -> Result<Advice> {
        let (none, flags) = (VmaFlags::empty(), |set, clear| Advice::Flags(set, clear));
        Ok(match advice {
            // Normal, random, sequential, will need; merge or not; huge pages or not; cold, page out.
            0..=3 | 12..=15 | 20 | 21 => Advice::Hint,
            4 => Advice::Drop(What::Unlocked),
            8 => Advice::Drop(What::Unused),
            9 => Advice::Remove,
            10 => flags(VmaFlags::DONT_FORK, none),
            11 => flags(none, VmaFlags::DONT_FORK),
            16 => flags(VmaFlags::NO_DUMP, none),
            17 => flags(none, VmaFlags::NO_DUMP),
            18 => flags(VmaFlags::WIPE_ON_FORK, none),
            19 => flags(none, VmaFlags::WIPE_ON_FORK),
            22 => Advice::Populate(Access::Read),
            23 => Advice::Populate(Access::Write),
            24 => Advice::Drop(What::All),
            // Collapse into huge pages, of which there are none.
            25 => Advice::Refused(Errno::EINVAL),
            // Poison and soft offline: not for programs.
            100 | 101 => Advice::Refused(Errno::EPERM),
            _ => return Err(Errno::EINVAL.into()),
        })
    }
}

/// process_madvise(2): hints about the memory of another process.
pub fn process_madvise<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const VECTORS: u64 = 1024;
    let [fd, vectors, count, advice, flags, _] = a;
    if flags as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    if count > VECTORS {
        return Err(Errno::EINVAL.into());
    }
    let bytes = c.read_bytes(vectors, count as usize * 16)?;
    let (pid, _) = super::pidfd::to_wait_for(c, fd)?;
    let process = c.process_by(pid)?;
    if !matches!(Advice::new(advice as u32)?, Advice::Hint) || !matches!(advice as u32, 3 | 20 | 21) {
        return Err(Errno::EINVAL.into());
    }
    let (who, whose) = (&c.process()?.credentials, &process.credentials);
    if who.euid != 0 && who.euid != whose.uid {
        return Err(Errno::EPERM.into());
    }
    let space = c.resident.program.spaces.get(&process.space).ok_or(Errno::ESRCH)?;
    let word = |b: &[u8], at: usize| b.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    let mut done = 0_u64;
    for vector in bytes.chunks_exact(16) {
        let (addr, len) = (word(vector, 0), word(vector, 8));
        let covered = len == 0 || range(addr, len).is_ok_and(|(first, end)| space.mappings().covers(first, end));
        match covered {
            true => done = done.saturating_add(len),
            false if done > 0 => break,
            false => {
                let wrong = page_at(addr).is_err();
                return Err(if wrong { Errno::EINVAL } else { Errno::ENOMEM }.into());
            }
        }
    }
    Ok(done)
}

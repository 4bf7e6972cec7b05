//! System V shared memory.
use super::Arguments;
use crate::{
    context::{Context, Result},
    ipc::{
        self, Entry, Permissions,
        shared::{LOCKED, MAX_PAGES, MAX_SEGMENTS, MAX_SIZE, REMOVED, Segment},
    },
    process::{Ids, SpaceId},
    program::Program,
    resident::Resident,
};
use alloc::{format, vec::Vec};
use shimos_abi::{
    addr::{PAGE, UserPage},
    errno::Errno,
    ids::Pid,
};
use shimos_hal::Machine;
use shimos_memory::{MapRequest, ObjectId, Place, Prot, Sharing, Source, VmaFlags};

const RMID: u64 = 0;
const SET: u64 = 1;
const STAT: u64 = 2;
const INFO: u64 = 3;
const LOCK: u64 = 11;
const UNLOCK: u64 = 12;
const STAT_AT: u64 = 13;
const USAGE: u64 = 14;
const STAT_ANY: u64 = 15;

/// Seconds since 1970.
pub fn seconds<M: Machine>(c: &Context<'_, M>) -> i64 {
    (c.services.machine.wall_clock() / 1_000_000_000) as i64
}

/// The caller's users and groups.
pub fn who<M: Machine>(c: &Context<'_, M>) -> Result<Ids> {
    Ok(c.process()?.credentials.clone())
}

/// How many mappings show a segment.
pub fn attached(program: &Program, object: ObjectId) -> u64 {
    let shows = |source| matches!(source, Source::Object { id, .. } if id == object);
    let in_one = |space: &shimos_memory::AddressSpace| space.mappings().iter().filter(|vma| shows(vma.source)).count();
    program.spaces.values().map(in_one).sum::<usize>() as u64
}

/// Forgets segments that were removed and are attached no more.
fn sweep<M: Machine>(resident: &mut Resident<M>) {
    let program = &mut resident.program;
    let gone: Vec<i32> = program
        .ipc
        .shared
        .iter()
        .filter(|(_, entry)| program.objects.get(entry.value.object).is_none())
        .map(|(id, _)| id)
        .collect();
    for id in gone {
        program.ipc.shared.remove(id);
    }
}

/// An address space is about to end, or to be replaced: its segments are detached.
pub fn leave<M: Machine>(resident: &mut Resident<M>, space: SpaceId, pid: Pid, now: i64) {
    let program = &mut resident.program;
    if program.ipc.shared.is_empty() {
        return;
    }
    let Some(space) = program.spaces.get(&space) else { return };
    for (_, entry) in program.ipc.shared.iter_mut() {
        let object = entry.value.object;
        let shows = |source| matches!(source, Source::Object { id, .. } if id == object);
        if space.mappings().iter().any(|vma| shows(vma.source)) {
            (entry.value.detached, entry.value.last) = (now, pid);
        }
    }
}

pub fn shmget<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const HUGE: u64 = 0o4000;
    let (key, size, flags) = (a[0] as i32, a[1], a[2] as u32 as u64);
    sweep(c.resident);
    let who = who(c)?;
    let fits = |segment: &Segment| if size > segment.size { Err(Errno::EINVAL) } else { Ok(()) };
    if let Some(id) = ipc::find(&c.resident.program.ipc.shared, key, flags, &who, fits)? {
        return Ok(id as u64);
    }
    if size == 0 || size > MAX_SIZE {
        return Err(Errno::EINVAL.into());
    }
    // There are no huge pages; and what no object can hold no memory can.
    if flags & HUGE != 0 || size > shimos_memory::objects::MAX_SIZE {
        return Err(Errno::ENOMEM.into());
    }
    let now = seconds(c);
    let creator = c.pid;
    let program = &mut c.resident.program;
    if program.ipc.shared.len() >= MAX_SEGMENTS {
        return Err(Errno::ENOSPC.into());
    }
    let object = program.objects.create(size.next_multiple_of(PAGE as u64));
    let segment = Segment { object, size, attached: 0, detached: 0, creator, last: Pid(0) };
    let id = program.ipc.shared.add(Permissions::new(key, &who, flags), segment, now, MAX_SEGMENTS)?;
    Ok(id as u64)
}

pub fn shmat<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const READ_ONLY: u64 = 0o10000;
    const ROUND: u64 = 0o20000;
    const REMAP: u64 = 0o40000;
    const EXECUTE: u64 = 0o100000;
    let (id, flags) = (a[0] as i32, a[2] as u32 as u64);
    let mut addr = a[1];
    sweep(c.resident);
    if !addr.is_multiple_of(PAGE as u64) {
        if flags & ROUND == 0 {
            return Err(Errno::EINVAL.into());
        }
        addr -= addr % PAGE as u64;
        if addr == 0 && flags & REMAP != 0 {
            return Err(Errno::EINVAL.into());
        }
    }
    if a[1] == 0 && flags & REMAP != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (mut prot, mut wanted) = (Prot::READ, ipc::READ);
    if flags & READ_ONLY == 0 {
        prot |= Prot::WRITE;
        wanted |= ipc::WRITE;
    }
    if flags & EXECUTE != 0 {
        prot |= Prot::EXECUTE;
        wanted |= 0o111;
    }
    let who = who(c)?;
    let entry = c.resident.program.ipc.shared.get(id).ok_or(Errno::EINVAL)?;
    entry.permissions.check(&who, wanted)?;
    let (object, size, key) = (entry.value.object, entry.value.size, entry.permissions.key);
    let pages = size.div_ceil(PAGE as u64);
    let place = match addr / PAGE as u64 {
        0 => Place::Anywhere,
        page if flags & REMAP != 0 => Place::Fixed(UserPage(page)),
        page => Place::FixedIfFree(UserPage(page)),
    };
    let may = if flags & READ_ONLY != 0 { Prot::READ | Prot::EXECUTE } else { Prot::all() };
    let request = MapRequest {
        prot,
        may,
        sharing: Sharing::Shared,
        source: Source::Object { id: object, first: 0 },
        flags: VmaFlags::empty(),
        name: format!("/SYSV{key:08x}"),
    };
    let space = c.process()?.space;
    let mapped = c.services.memory(c.resident, space)?.with(|space, cx| space.map(cx, place, pages, request));
    let first = match mapped {
        Err(Errno::EEXIST) => return Err(Errno::EINVAL.into()),
        other => other?,
    };
    let (now, pid) = (seconds(c), c.pid);
    if let Some(entry) = c.resident.program.ipc.shared.get_mut(id) {
        (entry.value.attached, entry.value.last) = (now, pid);
    }
    Ok(first.addr().0)
}

pub fn shmdt<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if !a[0].is_multiple_of(PAGE as u64) {
        return Err(Errno::EINVAL.into());
    }
    let start = a[0] / PAGE as u64;
    let id = c.process()?.space;
    let program = &c.resident.program;
    let space = program.spaces.get(&id).ok_or(Errno::EINVAL)?;
    let segment = |source| match source {
        Source::Object { id, first } => {
            let mut all = program.ipc.shared.iter();
            all.find(|(_, entry)| entry.value.object == id)
                .map(|(segment, entry)| (segment, id, first, entry.value.size))
        }
        _ => None,
    };
    // A part of the attachment may have been unmapped: what is left tells by its place where it began.
    let (found, object, size) = space
        .mappings()
        .iter()
        .filter(|vma| vma.first.0 >= start)
        .find_map(|vma| {
            segment(vma.source)
                .filter(|(.., first, _)| vma.first.0.checked_sub(*first) == Some(start))
                .map(|(segment, object, _, size)| (segment, object, size))
        })
        .ok_or(Errno::EINVAL)?;
    let end = start.saturating_add(size.div_ceil(PAGE as u64));
    let parts: Vec<(UserPage, UserPage)> = space
        .mappings()
        .overlapping(UserPage(start), UserPage(end))
        .filter(|vma| match vma.source {
            Source::Object { id, first } => id == object && vma.first.0.checked_sub(first) == Some(start),
            _ => false,
        })
        .map(|vma| (vma.first, vma.end))
        .collect();
    let (now, pid) = (seconds(c), c.pid);
    if let Some(entry) = c.resident.program.ipc.shared.get_mut(found) {
        (entry.value.detached, entry.value.last) = (now, pid);
    }
    let mut memory = c.services.memory(c.resident, id)?;
    for (first, end) in parts {
        memory.with(|space, cx| space.unmap(cx, first, end));
    }
    sweep(c.resident);
    Ok(0)
}

/// struct shmid64_ds.
fn describe(program: &Program, id: i32, entry: &Entry<Segment>) -> [u8; 112] {
    let mut bytes = [0; 112];
    bytes[..48].copy_from_slice(&entry.permissions.bytes(id));
    let segment = &entry.value;
    let last = u64::from(segment.creator.0) | u64::from(segment.last.0) << 32;
    let words = [
        segment.size,
        segment.attached as u64,
        segment.detached as u64,
        entry.changed as u64,
        last,
        attached(program, segment.object),
    ];
    for (field, word) in bytes[48..].chunks_exact_mut(8).zip(words) {
        field.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Bytes of 64-bit words.
pub fn words<const N: usize>(words: [u64; N]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub fn shmctl<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (mut id, command, addr) = (a[0] as i32, a[1] as u32 as u64, a[2]);
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    sweep(c.resident);
    let highest = c.resident.program.ipc.shared.highest();
    let who = who(c)?;
    match command {
        INFO => {
            let limits = words([MAX_SIZE, 1, MAX_SEGMENTS as u64, MAX_SEGMENTS as u64, MAX_PAGES, 0, 0, 0, 0]);
            c.write_bytes(addr, &limits)?;
            return Ok(highest);
        }
        USAGE => {
            let program = &c.resident.program;
            let all = || program.ipc.shared.iter().map(|(_, entry)| &entry.value);
            let total = all().map(|segment| segment.size.div_ceil(PAGE as u64)).sum();
            let resident = all().filter_map(|segment| program.objects.get(segment.object));
            let resident = resident.map(|object| object.resident() as u64).sum();
            let usage = words([all().count() as u64, total, resident, 0, 0, 0]);
            c.write_bytes(addr, &usage)?;
            return Ok(highest);
        }
        STAT_AT | STAT_ANY => id = c.resident.program.ipc.shared.at(id).ok_or(Errno::EINVAL)?,
        RMID | SET | STAT | LOCK | UNLOCK => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    let wishes = if command == SET { Some(read_wishes(c, addr)?) } else { None };
    let now = seconds(c);
    let entry = c.resident.program.ipc.shared.get_mut(id).ok_or(Errno::EINVAL)?;
    match command {
        STAT | STAT_AT | STAT_ANY => {
            if command != STAT_ANY {
                entry.permissions.check(&who, ipc::READ)?;
            }
            let program = &c.resident.program;
            let entry = program.ipc.shared.get(id).ok_or(Errno::EINVAL)?;
            let bytes = describe(program, id, entry);
            c.write_bytes(addr, &bytes)?;
            return Ok(if command == STAT { 0 } else { id as u64 });
        }
        LOCK | UNLOCK => {
            entry.permissions.check_owner(&who)?;
            let mode = &mut entry.permissions.mode;
            // Nothing is ever swapped out here, locked or not.
            *mode = if command == LOCK { *mode | LOCKED } else { *mode & !LOCKED };
        }
        SET => {
            entry.permissions.check_owner(&who)?;
            if let Some((uid, gid, mode)) = wishes {
                entry.permissions.set(uid, gid, mode);
                entry.changed = now;
            }
        }
        _ => {
            entry.permissions.check_owner(&who)?;
            let first = entry.permissions.mode & REMOVED == 0;
            entry.permissions.mode |= REMOVED;
            entry.permissions.key = ipc::PRIVATE;
            let object = entry.value.object;
            if first {
                c.resident.program.objects.release(&mut c.services.frames, object);
            }
            sweep(c.resident);
        }
    }
    Ok(0)
}

/// What IPC_SET takes from the structure at `addr`: user, group, mode.
pub fn read_wishes<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<(u32, u32, u32)> {
    let mut bytes = [0; 48];
    c.read_into(addr, &mut bytes)?;
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    Ok((word(4), word(8), word(20)))
}

//! Robust futexes: lists of locks that the kernel gives up for a thread that ends (get_robust_list(2)).
use super::{
    Arguments,
    futex::{key_in, wake_one},
    pi::{OWNER_DIED, TID_MASK, WAITERS},
};
use crate::{
    context::{Context, Result},
    process::SpaceId,
    resident::Resident,
    services::Services,
};
use shimos_abi::{addr::UserAddr, errno::Errno, ids::Pid};
use shimos_hal::Machine;

/// The size of struct robust_list_head; Linux takes no other.
const HEAD: u64 = 24;
/// Entries of a list that are looked at, at most: a list may be a loop.
const LIMIT: usize = 2048;
/// The bit of a pointer that marks a lock with priority inheritance.
const OWNED: u64 = 1;

pub fn set_robust_list<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[1] != HEAD {
        return Err(Errno::EINVAL.into());
    }
    c.thread()?.robust_list = a[0];
    Ok(0)
}

pub fn get_robust_list<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let tid = if a[0] as u32 == 0 { c.tid } else { Pid(a[0] as u32) };
    let thread = c.resident.program.threads.get(&tid).ok_or(Errno::ESRCH)?;
    let (list, owner) = (thread.robust_list, thread.process);
    let (who, whose) = (c.process()?, c.process_by(owner)?);
    let ids = &whose.credentials;
    let same = [ids.uid, ids.euid, ids.suid].iter().all(|id| *id == who.credentials.uid);
    if owner != c.pid && who.credentials.euid != 0 && !same {
        return Err(Errno::EPERM.into());
    }
    c.write_u64(a[2], HEAD)?;
    c.write_u64(a[1], list)?;
    Ok(0)
}

fn read<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, space: SpaceId, at: u64) -> Option<u64> {
    let mut word = [0; 8];
    services.memory(resident, space).ok()?.read(UserAddr(at), &mut word).ok()?;
    Some(u64::from_le_bytes(word))
}

/// Gives up the locks of the list at `head`. The list is the program's and may say anything.
pub fn give_up<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    space: SpaceId,
    head: u64,
    tid: Pid,
) {
    let Some(mut entry) = read(resident, services, space, head) else { return };
    let Some(offset) = read(resident, services, space, head.wrapping_add(8)) else { return };
    let Some(pending) = read(resident, services, space, head.wrapping_add(16)) else { return };
    for _ in 0..LIMIT {
        if entry & !OWNED == head {
            break;
        }
        // The lock may be given up before the next is looked at: another thread frees its memory then.
        let next = read(resident, services, space, entry & !OWNED);
        if entry & !OWNED != pending & !OWNED
            && give_up_one(resident, services, (space, (entry & !OWNED).wrapping_add(offset)), entry, tid).is_none()
        {
            return;
        }
        let Some(next) = next else { break };
        entry = next;
    }
    if pending & !OWNED != 0 {
        give_up_pending(resident, services, (space, (pending & !OWNED).wrapping_add(offset)), pending, tid);
    }
}

/// Marks a lock as left by its owner's death, if it is this thread's, and wakes one who waits. `None` where its memory is
/// no good.
fn give_up_one<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    (space, futex): (SpaceId, u64),
    entry: u64,
    tid: Pid,
) -> Option<()> {
    if !futex.is_multiple_of(4) {
        return None;
    }
    let mut word = [0; 4];
    let mut memory = services.memory(resident, space).ok()?;
    memory.read(UserAddr(futex), &mut word).ok()?;
    let value = u32::from_le_bytes(word);
    if value & TID_MASK != tid.0 {
        return Some(());
    }
    memory.write(UserAddr(futex), &(value & WAITERS | OWNER_DIED).to_le_bytes()).ok()?;
    let key = key_in(resident, space, futex).ok()?;
    if entry & OWNED != 0 {
        // Who waits for it gets it whole; the word is theirs to say so.
        if !resident.waiters(key).is_empty() {
            memory_back(resident, services, (space, futex), value);
        }
    } else if value & WAITERS != 0
        && let Some(first) = resident.waiters(key).first().copied()
    {
        wake_one(resident, first, key);
    }
    Some(())
}

/// Leaves a lock that others wait for to `pi::owner_died`, which hands it on: the word says again whose it was.
fn memory_back<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    (space, futex): (SpaceId, u64),
    value: u32,
) {
    if let Ok(mut memory) = services.memory(resident, space) {
        let _ = memory.write(UserAddr(futex), &value.to_le_bytes());
    }
}

/// A lock that was being taken or given up when the thread ended. If it was given up already, one who waits may not have
/// been woken.
fn give_up_pending<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    place: (SpaceId, u64),
    entry: u64,
    tid: Pid,
) {
    let (space, futex) = place;
    let word = read_word(resident, services, place);
    if entry & OWNED == 0
        && word == Some(0)
        && let Ok(key) = key_in(resident, space, futex)
    {
        if let Some(first) = resident.waiters(key).first().copied() {
            wake_one(resident, first, key);
        }
        return;
    }
    let _ = give_up_one(resident, services, place, entry, tid);
}

fn read_word<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    (space, futex): (SpaceId, u64),
) -> Option<u32> {
    let mut word = [0; 4];
    services.memory(resident, space).ok()?.read(UserAddr(futex), &mut word).ok()?;
    Some(u32::from_le_bytes(word))
}

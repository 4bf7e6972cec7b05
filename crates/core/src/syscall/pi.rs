//! Futexes that are locks with an owner: the word holds the owner's thread id, the kernel hands the lock on.
use super::futex::{Clock, Expired, WOKEN, Waiter, key, key_in, move_waiter, set_deadline, waiter, wake_one};
use crate::{
    context::{Context, Result, wait_for},
    process::SpaceId,
    resident::{Key, Resident},
    services::Services,
    thread::{State, Thread},
};
use alloc::vec::Vec;
use shimos_abi::{addr::UserAddr, errno::Errno, ids::Pid};
use shimos_hal::Machine;

/// Somebody waits in the kernel.
pub const WAITERS: u32 = 0x8000_0000;
/// The last owner ended while it held the lock.
pub const OWNER_DIED: u32 = 0x4000_0000;
/// The owner.
pub const TID_MASK: u32 = 0x3fff_ffff;
/// How far a chain of owners that wait for each other is followed.
const CHAIN: usize = 1024;

/// Whether all that wait at a key wait for a lock.
fn only_locks<M: Machine>(resident: &Resident<M>, waiters: &[Pid]) -> bool {
    waiters.iter().all(|tid| resident.program.threads.get(tid).is_some_and(|t| matches!(waiter(t), Waiter::Lock(_))))
}

/// Takes the lock if it is free; its owner if it is not.
fn take<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<Option<Pid>> {
    let key = key(c, addr)?;
    let word = c.read_u32(addr)?;
    let owner = word & TID_MASK;
    if owner == c.tid.0 {
        return Err(Errno::EDEADLK.into());
    }
    let waiters = c.resident.waiters(key);
    if !only_locks(c.resident, &waiters) {
        return Err(Errno::EINVAL.into());
    }
    if owner != 0 {
        return Ok(Some(Pid(owner)));
    }
    let more = if waiters.iter().any(|tid| *tid != c.tid) { WAITERS } else { 0 };
    let tid = c.tid.0;
    c.write_u32(addr, tid | word & OWNER_DIED | more)?;
    Ok(None)
}

/// FUTEX_TRYLOCK_PI.
pub fn try_lock<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<u64> {
    match take(c, addr)? {
        None => Ok(0),
        Some(owner) if c.resident.program.threads.contains_key(&owner) => Err(Errno::EAGAIN.into()),
        Some(_) => Err(Errno::ESRCH.into()),
    }
}

/// FUTEX_LOCK_PI.
pub fn lock<M: Machine>(c: &mut Context<'_, M>, addr: u64, timeout: u64, clock: Clock) -> Result<u64> {
    if c.moved()? == WOKEN {
        return Ok(0);
    }
    let expired = set_deadline(c, timeout, clock)?;
    let Some(owner) = take(c, addr)? else { return Ok(0) };
    if !c.resident.program.threads.contains_key(&owner) {
        return Err(Errno::ESRCH.into());
    }
    if leads_to(c, owner) {
        return Err(Errno::EDEADLK.into());
    }
    let word = c.read_u32(addr)?;
    if word & WAITERS == 0 {
        c.write_u32(addr, word | WAITERS)?;
    }
    if expired == Expired::Yes {
        return Err(Errno::ETIMEDOUT.into());
    }
    let priority = c.thread()?.priority();
    lend(c.resident, c.services, owner, priority);
    wait_for(key(c, addr)?)
}

/// Lends the priority of a thread that waits for a lock to the lock's owner, and to all that this one waits for.
fn lend<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, owner: Pid, priority: u8) {
    let mut at = owner;
    for _ in 0..CHAIN {
        if !resident.lend(at, priority) {
            return;
        }
        let Some(next) = waits_for(resident, services, at) else { return };
        at = next;
    }
}

/// A thread holds a lock less: what is lent to it is the highest priority of those that wait for others of its locks.
fn return_lent<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, tid: Pid) {
    let Some(thread) = resident.program.threads.get(&tid).filter(|thread| thread.standing.lent > 0) else { return };
    let before = thread.priority();
    let waiting: Vec<(Pid, u8)> = resident
        .program
        .threads
        .values()
        .filter(|thread| thread.state == State::Blocked && thread.priority() > 0)
        .map(|thread| (thread.tid, thread.priority()))
        .collect();
    let mut lent = 0;
    for (waiter, priority) in waiting {
        if priority > lent && waits_for(resident, services, waiter) == Some(tid) {
            lent = priority;
        }
    }
    if let Some(thread) = resident.program.threads.get_mut(&tid) {
        thread.standing.lent = lent;
    }
    resident.place_anew(tid, before);
}

/// Whether `owner` waits, over however many others, for a lock of the caller's.
fn leads_to<M: Machine>(c: &mut Context<'_, M>, owner: Pid) -> bool {
    let mut at = owner;
    for _ in 0..CHAIN {
        if at == c.tid {
            return true;
        }
        let Some(next) = waits_for(c.resident, c.services, at) else { return false };
        at = next;
    }
    false
}

/// The owner of the lock that a thread waits for.
fn waits_for<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, tid: Pid) -> Option<Pid> {
    let thread = resident.program.threads.get(&tid).filter(|thread| thread.state == State::Blocked)?;
    let Waiter::Lock(addr) = waiter(thread) else { return None };
    let space = resident.program.processes.get(&thread.process)?.space;
    Some(Pid(read(resident, services, space, addr)? & TID_MASK))
}

fn read<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, space: SpaceId, addr: u64) -> Option<u32> {
    let mut word = [0; 4];
    services.memory(resident, space).ok()?.read(UserAddr(addr), &mut word).ok()?;
    Some(u32::from_le_bytes(word))
}

/// Gives the lock to the first that waits for it, who comes by priority; to none if nobody does. `flag` says how the last owner left it.
fn hand_on<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    place: (SpaceId, u64),
    key: Key,
    flag: u32,
) -> core::result::Result<(), Errno> {
    let (space, addr) = place;
    let waiters = resident.waiters(key);
    let next = waiters.first().copied();
    // Marked also where it was the only one that waited, as on Linux: its unlocking comes here as well.
    let word = next.map_or(flag, |next| next.0 | flag | WAITERS);
    let mut memory = services.memory(resident, space).map_err(|_| Errno::EFAULT)?;
    memory.write(UserAddr(addr), &word.to_le_bytes()).map_err(|_| Errno::EFAULT)?;
    if let Some(next) = next {
        wake_one(resident, next, key);
        let highest = resident.waiters(key).first().and_then(|tid| resident.program.threads.get(tid));
        let priority = highest.map_or(0, Thread::priority);
        lend(resident, services, next, priority);
    }
    Ok(())
}

/// FUTEX_UNLOCK_PI.
pub fn unlock<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<u64> {
    let key = key(c, addr)?;
    if c.read_u32(addr)? & TID_MASK != c.tid.0 {
        return Err(Errno::EPERM.into());
    }
    let waiters = c.resident.waiters(key);
    if !only_locks(c.resident, &waiters) {
        return Err(Errno::EINVAL.into());
    }
    let space = c.process()?.space;
    hand_on(c.resident, c.services, (space, addr), key, 0)?;
    return_lent(c.resident, c.services, c.tid);
    Ok(0)
}

/// FUTEX_WAIT_REQUEUE_PI: waits on the first word until FUTEX_CMP_REQUEUE_PI moves it to the lock that is the second.
pub fn wait_to_be_moved<M: Machine>(
    c: &mut Context<'_, M>,
    [addr, lock]: [u64; 2],
    value: u32,
    timeout: u64,
    clock: Clock,
) -> Result<u64> {
    if addr == lock {
        return Err(Errno::EINVAL.into());
    }
    if c.moved()? == WOKEN {
        return Ok(0);
    }
    let expired = set_deadline(c, timeout, clock)?;
    let moved = c.thread()?.call.and_then(|call| call.queue);
    let queue = match moved {
        Some((object, place)) => Key::Futex(object, place),
        None => key(c, addr)?,
    };
    key(c, lock)?;
    if moved.is_none() && c.read_u32(addr)? != value {
        return Err(Errno::EAGAIN.into());
    }
    if expired == Expired::Yes {
        return Err(Errno::ETIMEDOUT.into());
    }
    wait_for(queue)
}

/// FUTEX_CMP_REQUEUE_PI: moves waiters to a lock; the first gets it if it is free.
pub fn requeue<M: Machine>(
    c: &mut Context<'_, M>,
    [addr, lock]: [u64; 2],
    wakes: i32,
    moves: i32,
    expected: u32,
) -> Result<u64> {
    if wakes != 1 || moves < 0 || addr == lock {
        return Err(Errno::EINVAL.into());
    }
    let (from, to) = (key(c, addr)?, key(c, lock)?);
    if from == to {
        return Err(Errno::EINVAL.into());
    }
    if c.read_u32(addr)? != expected {
        return Err(Errno::EAGAIN.into());
    }
    let waiters = c.resident.waiters(from);
    for tid in &waiters {
        let Some(thread) = c.resident.program.threads.get(tid) else { continue };
        let space = c.resident.program.processes.get(&thread.process).map(|process| process.space);
        let meant = match (waiter(thread), space) {
            (Waiter::Moving(second), Some(space)) => key_in(c.resident, space, second).ok(),
            _ => None,
        };
        if meant != Some(to) {
            return Err(Errno::EINVAL.into());
        }
    }
    let word = c.read_u32(lock)?;
    let owner = Pid(word & TID_MASK);
    if owner.0 != 0 && !c.resident.program.threads.contains_key(&owner) {
        return Err(Errno::ESRCH.into());
    }
    let mut done = 0;
    let mut waiters = waiters.into_iter();
    let mut holder = word;
    if owner.0 == 0
        && let Some(first) = waiters.next()
    {
        holder = first.0 | word & OWNER_DIED;
        c.write_u32(lock, holder)?;
        wake_one(c.resident, first, to);
        done += 1;
    }
    // The one to be woken is moved as well where it does not get the lock.
    let all = wakes.saturating_add(moves) as usize;
    let moved: Vec<Pid> = waiters.take(all.saturating_sub(done as usize)).collect();
    if !moved.is_empty() {
        c.write_u32(lock, holder | WAITERS)?;
    }
    for tid in moved {
        move_waiter(c.resident, tid, to);
        let priority = c.resident.program.threads.get(&tid).map_or(0, Thread::priority);
        lend(c.resident, c.services, Pid(holder & TID_MASK), priority);
        done += 1;
    }
    Ok(done)
}

/// A thread has ended: the locks of its own that others wait for go to them.
pub fn owner_died<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, tid: Pid) {
    let waiting: Vec<(SpaceId, u64)> = resident
        .program
        .threads
        .values()
        .filter(|thread| thread.state == State::Blocked && thread.regs.rax == super::futex::FUTEX)
        .filter_map(|thread| {
            let Waiter::Lock(addr) = waiter(thread) else { return None };
            Some((resident.program.processes.get(&thread.process)?.space, addr))
        })
        .collect();
    for place in waiting {
        let held = read(resident, services, place.0, place.1).is_some_and(|word| word & TID_MASK == tid.0);
        if held && let Ok(key) = key_in(resident, place.0, place.1) {
            let _ = hand_on(resident, services, place, key, OWNER_DIED);
        }
    }
}

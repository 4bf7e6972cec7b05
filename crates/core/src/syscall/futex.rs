//! Futexes: waiting, waking, moving waiters. Locks with an owner are in `pi`, lists of locks in `robust`.
use super::{Arguments, clock, pi};
use crate::{
    context::{Context, Result, Stop, wait_for},
    delivery::InCall,
    process::SpaceId,
    resident::{Key, Resident},
    services::Services,
    thread::Thread,
};
use alloc::vec::Vec;
use shimos_abi::{addr::UserAddr, errno::Errno, ids::Pid, time::Nanos};
use shimos_hal::Machine;

const WAIT: u64 = 0;
const WAKE: u64 = 1;
const REQUEUE: u64 = 3;
const CMP_REQUEUE: u64 = 4;
const WAKE_OP: u64 = 5;
const LOCK_PI: u64 = 6;
const UNLOCK_PI: u64 = 7;
const TRYLOCK_PI: u64 = 8;
const WAIT_BITSET: u64 = 9;
const WAKE_BITSET: u64 = 10;
const WAIT_REQUEUE_PI: u64 = 11;
const CMP_REQUEUE_PI: u64 = 12;
const LOCK_PI2: u64 = 13;
const PRIVATE: u64 = 128;
const CLOCK_REALTIME: u64 = 256;

/// The number of futex(2).
pub const FUTEX: u64 = 202;
/// The number of futex_waitv(2).
const WAITV: u64 = 449;
/// Futexes that one futex_waitv(2) waits for, at most.
const MOST_WAITED: u64 = 128;

/// A call that was woken notes this, so that it returns when it is issued again.
pub const WOKEN: u64 = 1;
/// The set that all waiters are in.
pub const ALL: u32 = u32::MAX;

/// The key of a futex word. A word in shared memory has the same key in all address spaces that map it.
pub fn key<M: Machine>(c: &Context<'_, M>, addr: u64) -> Result<Key> {
    let space = c.process()?.space;
    key_in(c.resident, space, addr).map_err(Stop::Errno)
}

/// The same for a word of any address space.
pub fn key_in<M: Machine>(resident: &Resident<M>, space: SpaceId, addr: u64) -> core::result::Result<Key, Errno> {
    if !addr.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    if addr >= shimos_abi::addr::USER_END {
        return Err(Errno::EFAULT);
    }
    let place = resident.program.spaces.get(&space).and_then(|space| space.shared_place(UserAddr(addr)));
    Ok(match place {
        Some((object, offset)) => Key::Futex(1 << 63 | u64::from(object.0), offset),
        None => Key::Futex(space.0.into(), addr),
    })
}

/// How a blocked thread waits for a futex, as its registers say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiter {
    /// For a wake whose set meets this one.
    Plain(u32),
    /// For the lock at this address.
    Lock(u64),
    /// To be moved to the lock at this address.
    Moving(u64),
}

/// How `thread`, which stands in a futex's queue, waits.
pub fn waiter(thread: &Thread) -> Waiter {
    let r = &thread.regs;
    match r.rsi & !(PRIVATE | CLOCK_REALTIME) {
        _ if r.rax != FUTEX => Waiter::Plain(ALL),
        WAIT_BITSET => Waiter::Plain(r.r9 as u32),
        LOCK_PI | LOCK_PI2 => Waiter::Lock(r.rdi),
        WAIT_REQUEUE_PI if thread.call.is_some_and(|call| call.queue.is_some()) => Waiter::Lock(r.r8),
        WAIT_REQUEUE_PI => Waiter::Moving(r.r8),
        _ => Waiter::Plain(ALL),
    }
}

/// How a signal takes a wait for a lock: it is issued again whatever the handler wants, but a wait that was moved to a lock ends
/// with EAGAIN, as the mutex of its condition variable is still to be locked.
pub fn lock_wait(thread: &Thread) -> Option<InCall> {
    match waiter(thread) {
        Waiter::Plain(_) => None,
        Waiter::Lock(_) if thread.call.is_some_and(|call| call.queue.is_some()) => Some(InCall::GivenUp),
        Waiter::Lock(_) | Waiter::Moving(_) => Some(InCall::Repeated),
    }
}

pub fn futex<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [addr, operation, value, timeout, addr2, bits] = a;
    let (value, bits) = (value as u32, bits as u32);
    let command = operation as u32 as u64 & !(PRIVATE | CLOCK_REALTIME);
    let realtime = operation & CLOCK_REALTIME != 0;
    if realtime && !matches!(command, WAIT_BITSET | WAIT_REQUEUE_PI | LOCK_PI2) {
        return Err(Errno::ENOSYS.into());
    }
    let clock = if realtime { Clock::Wall } else { Clock::Monotonic };
    // For calls that wake and move, the place of the timeout holds a number.
    let count = timeout as u32 as i32;
    match command {
        WAIT => wait(c, addr, value, timeout, Clock::Relative),
        WAIT_BITSET if bits == 0 => Err(Errno::EINVAL.into()),
        WAIT_BITSET => wait(c, addr, value, timeout, clock),
        WAKE => wake(c, addr, value, ALL),
        WAKE_BITSET if bits == 0 => Err(Errno::EINVAL.into()),
        WAKE_BITSET => wake(c, addr, value, bits),
        REQUEUE => requeue(c, addr, addr2, value as i32, count, None),
        CMP_REQUEUE => requeue(c, addr, addr2, value as i32, count, Some(bits)),
        WAKE_OP => wake_op(c, addr, addr2, value, count as u32, bits),
        LOCK_PI => pi::lock(c, addr, timeout, Clock::Wall),
        LOCK_PI2 => pi::lock(c, addr, timeout, clock),
        TRYLOCK_PI => pi::try_lock(c, addr),
        UNLOCK_PI => pi::unlock(c, addr),
        WAIT_REQUEUE_PI => pi::wait_to_be_moved(c, [addr, addr2], value, timeout, clock),
        CMP_REQUEUE_PI => pi::requeue(c, [addr, addr2], value as i32, count, bits),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// What a timeout counts by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    /// From the call on.
    Relative,
    /// CLOCK_MONOTONIC.
    Monotonic,
    /// CLOCK_REALTIME.
    Wall,
}

/// Sets the call's deadline from the timeout at `addr`; says so if it has come already.
pub fn set_deadline<M: Machine>(c: &mut Context<'_, M>, addr: u64, clock: Clock) -> Result<Expired> {
    if addr == 0 {
        return Ok(Expired::No);
    }
    let time = clock::read_timespec(c, addr)?;
    let deadline = match clock {
        Clock::Relative => c.deadline_in(time)?,
        Clock::Monotonic => c.deadline_at(time)?,
        Clock::Wall => {
            let wall = Nanos(c.services.machine.wall_clock());
            c.deadline_in(time - wall)?
        }
    };
    Ok(if c.now() >= deadline { Expired::Yes } else { Expired::No })
}

/// Whether a call's time is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expired {
    /// It may wait.
    No,
    /// It is.
    Yes,
}

fn wait<M: Machine>(c: &mut Context<'_, M>, addr: u64, value: u32, timeout: u64, clock: Clock) -> Result<u64> {
    if c.moved()? == WOKEN {
        return Ok(0);
    }
    let expired = set_deadline(c, timeout, clock)?;
    // Moved to another word: what the first one holds does not matter any more.
    let moved = c.thread()?.call.and_then(|call| call.queue);
    let key = match moved {
        Some((object, place)) => Key::Futex(object, place),
        None => key(c, addr)?,
    };
    if moved.is_none() && c.read_u32(addr)? != value {
        return Err(Errno::EAGAIN.into());
    }
    if expired == Expired::Yes {
        return Err(Errno::ETIMEDOUT.into());
    }
    wait_for(key)
}

fn wake<M: Machine>(c: &mut Context<'_, M>, addr: u64, most: u32, bits: u32) -> Result<u64> {
    let key = key(c, addr)?;
    Ok(wake_plain(c.resident, key, most as i32, bits)?)
}

/// Wakes waiters of one word; `EINVAL` where some wait for a lock.
fn wake_plain<M: Machine>(
    resident: &mut Resident<M>,
    key: Key,
    most: i32,
    bits: u32,
) -> core::result::Result<u64, Errno> {
    let mut woken = Vec::new();
    for tid in resident.waiters(key) {
        let Some(thread) = resident.program.threads.get(&tid) else { continue };
        match waiter(thread) {
            // Linux wakes one even where it is asked for none.
            Waiter::Plain(set) if set & bits != 0 && (woken.len() as i64) < i64::from(most.max(1)) => woken.push(tid),
            Waiter::Plain(_) => {}
            Waiter::Lock(_) | Waiter::Moving(_) => return Err(Errno::EINVAL),
        }
    }
    for tid in &woken {
        wake_one(resident, *tid, key);
    }
    Ok(woken.len() as u64)
}

/// Lets a waiting call return.
pub fn wake_one<M: Machine>(resident: &mut Resident<M>, tid: Pid, key: Key) {
    if let Some(call) = resident.program.threads.get_mut(&tid).and_then(|thread| thread.call.as_mut()) {
        call.moved = WOKEN;
        if let Key::Futex(object, place) = key {
            call.queue = Some((object, place));
        }
    }
    resident.rouse(tid);
}

/// Wakes some waiters and moves others to a second word.
fn requeue<M: Machine>(
    c: &mut Context<'_, M>,
    addr: u64,
    addr2: u64,
    wakes: i32,
    moves: i32,
    expected: Option<u32>,
) -> Result<u64> {
    if wakes < 0 || moves < 0 {
        return Err(Errno::EINVAL.into());
    }
    let (from, to) = (key(c, addr)?, key(c, addr2)?);
    if let Some(expected) = expected
        && c.read_u32(addr)? != expected
    {
        return Err(Errno::EAGAIN.into());
    }
    let waiters = c.resident.waiters(from);
    let plain = |tid: &Pid| c.resident.program.threads.get(tid).is_some_and(|t| matches!(waiter(t), Waiter::Plain(_)));
    if !waiters.iter().all(plain) {
        return Err(Errno::EINVAL.into());
    }
    let mut waiters = waiters.into_iter();
    let (mut woken, mut moved) = (0, 0);
    for tid in waiters.by_ref().take(wakes as usize) {
        wake_one(c.resident, tid, from);
        woken += 1;
    }
    for tid in waiters.take(moves as usize) {
        move_waiter(c.resident, tid, to);
        moved += 1;
    }
    Ok(woken + moved)
}

/// Lets a waiting thread wait for another word.
pub fn move_waiter<M: Machine>(resident: &mut Resident<M>, tid: Pid, to: Key) {
    if let Key::Futex(object, place) = to
        && let Some(call) = resident.program.threads.get_mut(&tid).and_then(|thread| thread.call.as_mut())
    {
        call.queue = Some((object, place));
    }
    resident.wait_elsewhere(tid, to);
}

/// FUTEX_WAKE_OP: changes the second word, wakes waiters of the first, and those of the second if its old value compares.
fn wake_op<M: Machine>(
    c: &mut Context<'_, M>,
    addr: u64,
    addr2: u64,
    wakes: u32,
    wakes2: u32,
    encoded: u32,
) -> Result<u64> {
    const SHIFT: u32 = 8;
    let (first, second) = (key(c, addr)?, key(c, addr2)?);
    let signed = |value: u32| ((value << 20) as i32) >> 20;
    let (operation, compare) = (encoded >> 28, encoded >> 24 & 15);
    let (mut argument, compared) = (signed(encoded >> 12 & 0xfff), signed(encoded & 0xfff));
    if operation & SHIFT != 0 {
        argument = 1 << (argument & 31);
    }
    let old = c.read_u32(addr2)?;
    let new = match operation & 7 {
        0 => argument as u32,
        1 => old.wrapping_add(argument as u32),
        2 => old | argument as u32,
        3 => old & !argument as u32,
        4 => old ^ argument as u32,
        _ => return Err(Errno::ENOSYS.into()),
    };
    c.write_u32(addr2, new)?;
    let signed_old = old as i32;
    let holds = match compare {
        0 => signed_old == compared,
        1 => signed_old != compared,
        2 => signed_old < compared,
        3 => signed_old <= compared,
        4 => signed_old > compared,
        5 => signed_old >= compared,
        _ => return Err(Errno::ENOSYS.into()),
    };
    let mut woken = wake_plain(c.resident, first, wakes as i32, ALL)?;
    if holds {
        woken += wake_plain(c.resident, second, wakes2 as i32, ALL)?;
    }
    Ok(woken)
}

/// futex_waitv(2): waits for the first of several words.
pub fn futex_waitv<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const SIZE_32: u64 = 2;
    const MONOTONIC: u64 = 1;
    let [addr, count, flags, timeout, clock, _] = a;
    if flags as u32 != 0 || count as u32 == 0 || count as u32 as u64 > MOST_WAITED || addr == 0 {
        return Err(Errno::EINVAL.into());
    }
    let clock = match clock as u32 as u64 {
        MONOTONIC => Clock::Monotonic,
        0 => Clock::Wall,
        _ if timeout == 0 => Clock::Monotonic,
        _ => return Err(Errno::EINVAL.into()),
    };
    let bytes = c.read_bytes(addr, count as u32 as usize * 24)?;
    let word =
        |bytes: &[u8], at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    let mut keys = Vec::new();
    let woken = c.thread()?.call.filter(|call| call.moved == WOKEN).and_then(|call| call.queue);
    let expired = set_deadline(c, timeout, clock)?;
    for (index, entry) in (0..).zip(bytes.chunks_exact(24)) {
        let (value, word_addr, rest) = (word(entry, 0), word(entry, 8), word(entry, 16));
        if rest & !PRIVATE != SIZE_32 || value > u64::from(u32::MAX) {
            return Err(Errno::EINVAL.into());
        }
        let key = key(c, word_addr)?;
        if woken.is_some_and(|(object, place)| key == Key::Futex(object, place)) {
            return Ok(index);
        }
        if woken.is_none() && c.read_u32(word_addr)? != value as u32 {
            return Err(Errno::EAGAIN.into());
        }
        keys.push(key);
    }
    if expired == Expired::Yes {
        return Err(Errno::ETIMEDOUT.into());
    }
    Err(Stop::Block(keys))
}

/// Whether a blocked call of this number with this note has been woken.
pub fn is_woken(number: u64, note: u64) -> bool {
    matches!(number, FUTEX | WAITV) && note == WOKEN
}

/// What a thread does about futexes when it ends, or when its memory does: gives up the robust futexes that it holds
/// (set_robust_list(2)) and those that others wait for as their owners', clears and wakes its thread-id word
/// (set_tid_address(2)).
pub fn give_up<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, tid: Pid) {
    let Some(thread) = resident.program.threads.get_mut(&tid) else { return };
    let (clear, list, pid) =
        (core::mem::take(&mut thread.clear_tid), core::mem::take(&mut thread.robust_list), thread.process);
    let Some(space) = resident.program.processes.get(&pid).map(|process| process.space) else { return };
    if list != 0 {
        super::robust::give_up(resident, services, space, list, tid);
    }
    pi::owner_died(resident, services, tid);
    if clear == 0 {
        return;
    }
    // Who is alone with its memory has nobody to tell.
    let shares = |thread: &Thread| {
        let process = resident.program.processes.get(&thread.process);
        thread.tid != tid && process.is_some_and(|process| process.space == space && process.zombie.is_none())
    };
    if resident.program.threads.values().any(shares) {
        let written = services.memory(resident, space).is_ok_and(|mut m| m.write(UserAddr(clear), &[0; 4]).is_ok());
        if written && let Ok(key) = key_in(resident, space, clear) {
            let _ = wake_plain(resident, key, 1, ALL);
        }
    }
}

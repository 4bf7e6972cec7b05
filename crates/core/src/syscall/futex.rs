//! Futexes.
use super::Arguments;
use crate::{
    context::{Context, Result, wait_for},
    resident::{Key, Resident},
    services::Services,
};
use shimos_abi::{addr::UserAddr, errno::Errno, ids::Pid};
use shimos_hal::Machine;

const WAIT: u64 = 0;
const WAKE: u64 = 1;
const REQUEUE: u64 = 3;
const CMP_REQUEUE: u64 = 4;
const WAIT_BITSET: u64 = 9;
const WAKE_BITSET: u64 = 10;
const PRIVATE: u64 = 128;
const CLOCK_REALTIME: u64 = 256;
const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;
const TID_MASK: u32 = 0x3fff_ffff;

/// A call that was woken notes this, so that it returns when it is issued again.
pub const WOKEN: u64 = 1;

/// The key of a futex word. A word in shared memory has the same key in all address spaces that map it.
fn key<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<Key> {
    if !addr.is_multiple_of(4) {
        return Err(Errno::EINVAL.into());
    }
    let space = c.process()?.space;
    key_in(c.resident, space, addr)
}

fn key_in<M: Machine>(resident: &Resident<M>, space: crate::process::SpaceId, addr: u64) -> Result<Key> {
    let place = resident.program.spaces.get(&space).and_then(|space| space.shared_place(UserAddr(addr)));
    Ok(match place {
        Some((object, offset)) => Key::Futex(1 << 63 | u64::from(object.0), offset),
        None => Key::Futex(space.0.into(), addr),
    })
}

pub fn futex<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [addr, operation, value, timeout, addr2, bits] = a;
    match operation & !(PRIVATE | CLOCK_REALTIME) {
        WAIT => wait(c, addr, value, timeout, TimeoutKind::Relative),
        WAIT_BITSET if bits as u32 == 0 => Err(Errno::EINVAL.into()),
        WAIT_BITSET => {
            let kind = if operation & CLOCK_REALTIME != 0 { TimeoutKind::WallClock } else { TimeoutKind::Monotonic };
            wait(c, addr, value, timeout, kind)
        }
        WAKE | WAKE_BITSET => {
            let key = key(c, addr)?;
            Ok(wake(c.resident, key, value as u32 as usize))
        }
        REQUEUE => {
            let (from, _) = (key(c, addr)?, key(c, addr2)?);
            // Waking those that would be moved is allowed: they look at their word again.
            Ok(wake(c.resident, from, (value as u32 as usize).saturating_add(timeout as u32 as usize)))
        }
        CMP_REQUEUE => {
            if c.read_u32(addr)? != bits as u32 {
                return Err(Errno::EAGAIN.into());
            }
            let (from, _) = (key(c, addr)?, key(c, addr2)?);
            Ok(wake(c.resident, from, (value as u32 as usize).saturating_add(timeout as u32 as usize)))
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TimeoutKind {
    Relative,
    Monotonic,
    WallClock,
}

fn wait<M: Machine>(c: &mut Context<'_, M>, addr: u64, value: u64, timeout: u64, kind: TimeoutKind) -> Result<u64> {
    let key = key(c, addr)?;
    if c.moved()? == WOKEN {
        return Ok(0);
    }
    if timeout != 0 {
        let time = super::clock::read_timespec(c, timeout)?;
        let deadline = match kind {
            TimeoutKind::Relative => c.deadline_in(time)?,
            TimeoutKind::Monotonic => c.deadline_at(time)?,
            TimeoutKind::WallClock => {
                let wall = shimos_abi::time::Nanos(c.services.machine.wall_clock());
                c.deadline_in(time - wall)?
            }
        };
        if c.now >= deadline {
            return Err(Errno::ETIMEDOUT.into());
        }
    }
    if c.read_u32(addr)? != value as u32 {
        return Err(Errno::EAGAIN.into());
    }
    wait_for(key)
}

fn wake<M: Machine>(resident: &mut Resident<M>, key: Key, most: usize) -> u64 {
    resident.wake_futex(key, most) as u64
}

/// What a thread does about futexes when it ends: clears and wakes its thread-id word (set_tid_address(2)), and gives up
/// the robust futexes that it holds (set_robust_list(2)).
pub fn give_up<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, tid: Pid) {
    let Some(thread) = resident.program.threads.get_mut(&tid) else { return };
    let (clear, list, pid) =
        (core::mem::take(&mut thread.clear_tid), core::mem::take(&mut thread.robust_list), thread.process);
    let Some(space) = resident.program.processes.get(&pid).map(|process| process.space) else { return };
    if list != 0 {
        give_up_robust(resident, services, space, list, tid);
    }
    // A process that is alone with its memory needs no word cleared, as on Linux.
    if clear != 0 {
        let written = services.memory(resident, space).is_ok_and(|mut m| m.write(UserAddr(clear), &[0; 4]).is_ok());
        if written && let Ok(key) = key_in(resident, space, clear) {
            wake(resident, key, 1);
        }
    }
}

/// Entries of a robust list looked at, at most (a list may be a loop).
const ROBUST_LIMIT: usize = 2048;

fn give_up_robust<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    space: crate::process::SpaceId,
    head: u64,
    tid: Pid,
) {
    let mut word = [0; 8];
    let mut read = |resident: &mut Resident<M>, services: &mut Services<M>, at: u64| {
        let done = services.memory(resident, space).is_ok_and(|mut m| m.read(UserAddr(at), &mut word).is_ok());
        done.then(|| u64::from_le_bytes(word))
    };
    let Some(mut entry) = read(resident, services, head) else { return };
    let Some(offset) = read(resident, services, head.wrapping_add(8)) else { return };
    for _ in 0..ROBUST_LIMIT {
        if entry == head || entry == 0 {
            return;
        }
        let next = read(resident, services, entry);
        let futex = entry.wrapping_add(offset);
        if let Some(word) = read(resident, services, futex & !7) {
            let value = if futex % 8 == 0 { word as u32 } else { (word >> 32) as u32 };
            if value & TID_MASK == tid.0 {
                let died = (value & WAITERS | OWNER_DIED).to_le_bytes();
                let done = services.memory(resident, space).is_ok_and(|mut m| m.write(UserAddr(futex), &died).is_ok());
                if done && let Ok(key) = key_in(resident, space, futex) {
                    wake(resident, key, 1);
                }
            }
        }
        let Some(next) = next else { return };
        entry = next & !1;
    }
}

//! Scheduling as a program sees it: one core and one policy.
use super::Arguments;
use crate::context::{Context, Result, Stop};
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_hal::Machine;

/// SCHED_OTHER, SCHED_BATCH and SCHED_IDLE: all the same here.
const POLICIES: [u64; 3] = [0, 3, 5];

fn check_thread<M: Machine>(c: &Context<'_, M>, id: u64) -> Result<()> {
    if (id as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    if id as u32 != 0 && !c.resident.program.threads.contains_key(&Pid(id as u32)) {
        return Err(Errno::ESRCH.into());
    }
    Ok(())
}

/// sched_yield(2): the thread goes behind all others that are ready.
pub fn sched_yield<M: Machine>(_: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    Err(Stop::Yield)
}

/// sched_getaffinity(2): a kernel has one core, and a program sees that one.
pub fn sched_getaffinity<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[1] < 8 || !a[1].is_multiple_of(8) {
        return Err(Errno::EINVAL.into());
    }
    check_thread(c, a[0])?;
    c.write_u64(a[2], 1)?;
    Ok(8)
}

/// sched_setaffinity(2): the set must have the one core in it.
pub fn sched_setaffinity<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    check_thread(c, a[0])?;
    let bytes = c.read_bytes(a[2], (a[1] as usize).min(128))?;
    if bytes.first().is_some_and(|byte| byte & 1 != 0) { Ok(0) } else { Err(Errno::EINVAL.into()) }
}

pub fn sched_getscheduler<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    check_thread(c, a[0]).map(|()| 0)
}

pub fn sched_getparam<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    check_thread(c, a[0])?;
    if a[1] == 0 {
        return Err(Errno::EINVAL.into());
    }
    c.write_u32(a[1], 0).map(|()| 0)
}

/// sched_setparam(2): the only priority of the policies that are offered is 0.
pub fn sched_setparam<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    check_thread(c, a[0])?;
    if a[1] == 0 || c.read_u32(a[1])? != 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

/// sched_setscheduler(2): real-time policies are not offered.
pub fn sched_setscheduler<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const RESET_ON_FORK: u64 = 0x4000_0000;
    const REAL_TIME: [u64; 2] = [1, 2];
    check_thread(c, a[0])?;
    let policy = a[1] & !RESET_ON_FORK;
    if REAL_TIME.contains(&policy) {
        return Err(Errno::EPERM.into());
    }
    if !POLICIES.contains(&policy) || c.read_u32(a[2])? != 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

/// sched_get_priority_max(2) and _min(2).
pub fn sched_get_priority_max<M: Machine>(_: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    match a[0] {
        1 | 2 => Ok(99),
        policy if POLICIES.contains(&policy) => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

pub fn sched_get_priority_min<M: Machine>(_: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    match a[0] {
        1 | 2 => Ok(1),
        policy if POLICIES.contains(&policy) => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// getcpu(2).
pub fn getcpu<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    for addr in [a[0], a[1]] {
        if addr != 0 {
            c.write_u32(addr, 0)?;
        }
    }
    Ok(0)
}

//! Scheduling as a program sees it: one core, ordinary policies and real-time ones (sched(7)).
use super::Arguments;
use crate::{
    context::{Context, Result, Stop},
    process::{Nice, Untold},
    rights::SYS_NICE,
    thread::{Scheduling, Thread, policy},
    turns::ROUND,
};
use shimos_abi::{addr::PAGE, errno::Errno, ids::Pid, time::Nanos};
use shimos_hal::Machine;

/// Policies without priorities.
const POLICIES: [u32; 3] = [policy::OTHER, policy::BATCH, policy::IDLE];
/// Policies with priorities.
const REAL_TIME: [u32; 2] = [policy::FIRST_IN, policy::ROUND_ROBIN];

/// The thread that `id` names, 0 for the caller.
fn thread_of<M: Machine>(c: &Context<'_, M>, id: u64) -> Result<Pid> {
    if (id as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let tid = if id as u32 == 0 { c.tid } else { Pid(id as u32) };
    if c.resident.program.threads.contains_key(&tid) { Ok(tid) } else { Err(Errno::ESRCH.into()) }
}

/// The same for calls to which no thread has a negative id.
fn thread_named<M: Machine>(c: &Context<'_, M>, id: u64) -> Result<Pid> {
    if (id as i32) < 0 { Err(Errno::ESRCH.into()) } else { thread_of(c, id) }
}

fn get<'a, M: Machine>(c: &'a Context<'_, M>, tid: Pid) -> Result<&'a Thread> {
    c.resident.program.threads.get(&tid).ok_or(Stop::Errno(Errno::ESRCH))
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
    thread_named(c, a[0])?;
    c.write_u64(a[2], 1)?;
    Ok(8)
}

/// sched_setaffinity(2): the set must have the one core in it.
pub fn sched_setaffinity<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    thread_named(c, a[0])?;
    let bytes = c.read_bytes(a[2], (a[1] as usize).min(128))?;
    if bytes.first().is_some_and(|byte| byte & 1 != 0) { Ok(0) } else { Err(Errno::EINVAL.into()) }
}

const RESET_ON_FORK: u32 = 0x4000_0000;

/// `RLIMIT_NICE` and `RLIMIT_RTPRIO`.
const NICE: usize = 13;
const RT_PRIORITY: usize = 14;

/// What a thread is to be scheduled by.
#[derive(Clone, Copy)]
struct Wanted {
    policy: u32,
    priority: u32,
    resets: Option<Untold>,
}

impl Wanted {
    /// Its priority, if it is real-time; EINVAL if the two do not fit.
    fn priority(self) -> Result<Option<u8>> {
        let priority = u8::try_from(self.priority).map_err(|_| Errno::EINVAL)?;
        match priority {
            0 if POLICIES.contains(&self.policy) => Ok(None),
            policy::LOWEST..=policy::HIGHEST if REAL_TIME.contains(&self.policy) => Ok(Some(priority)),
            _ => Err(Errno::EINVAL.into()),
        }
    }
}

/// A thread gets a policy.
fn set_policy<M: Machine>(c: &mut Context<'_, M>, tid: Pid, wanted: Wanted) -> Result<()> {
    if wanted.policy == policy::DEADLINE {
        return Err(Errno::EPERM.into());
    }
    let priority = wanted.priority()?;
    check_change(c, tid, wanted, priority)?;
    let thread = c.resident.program.threads.get_mut(&tid).ok_or(Errno::ESRCH)?;
    let (old, before) = (thread.scheduling, thread.priority());
    thread.scheduling = Scheduling { policy: wanted.policy as u8, resets: wanted.resets, priority, ..old };
    if old.priority.is_some() && priority.is_none() {
        // What it has used before counts no more.
        thread.standing.time = c.resident.ready.floor();
    }
    if (old.policy, old.priority) != (thread.scheduling.policy, priority) {
        c.resident.place_anew(tid, before);
    }
    Ok(())
}

/// EPERM where the caller may not change a thread so (sched(7), "Privileges and resource limits").
fn check_change<M: Machine>(c: &Context<'_, M>, tid: Pid, wanted: Wanted, priority: Option<u8>) -> Result<()> {
    let (own, thread) = (c.process()?, get(c, tid)?);
    if own.rights.has(SYS_NICE) {
        return Ok(());
    }
    let (other, old) = (c.process_by(thread.process)?, thread.scheduling);
    let limit = |index: usize| other.limits.get(index).map_or(0, |limit| limit.0);
    let allowed = limit(RT_PRIORITY);
    let refused = match priority {
        Some(priority) => {
            let rises = u64::from(priority) > u64::from(old.priority.unwrap_or(0)).max(allowed);
            rises || allowed == 0 && u32::from(old.policy) != wanted.policy
        }
        // To leave SCHED_IDLE is to become less nice.
        None => {
            let idle = |policy: u32| policy == policy::IDLE;
            idle(old.policy.into()) && !idle(wanted.policy) && other.nice.rank() > limit(NICE)
        }
    };
    let same = [other.credentials.uid, other.credentials.euid].contains(&own.credentials.euid);
    let clears = old.resets.is_some() && wanted.resets.is_none();
    if refused || !same || clears { Err(Errno::EPERM.into()) } else { Ok(()) }
}

pub fn sched_getscheduler<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let tid = thread_of(c, a[0])?;
    let scheduling = get(c, tid)?.scheduling;
    let resets = if scheduling.resets.is_some() { RESET_ON_FORK } else { 0 };
    Ok(u64::from(scheduling.policy) | u64::from(resets))
}

pub fn sched_getparam<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[1] == 0 {
        return Err(Errno::EINVAL.into());
    }
    let tid = thread_of(c, a[0])?;
    let priority = get(c, tid)?.scheduling.priority.unwrap_or(0);
    c.write_u32(a[1], priority.into()).map(|()| 0)
}

/// sched_setparam(2).
pub fn sched_setparam<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[1] == 0 || (a[0] as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let priority = c.read_u32(a[1])?;
    let tid = thread_of(c, a[0])?;
    let now = get(c, tid)?.scheduling;
    set_policy(c, tid, Wanted { policy: now.policy.into(), priority, resets: now.resets })?;
    Ok(0)
}

/// sched_setscheduler(2).
pub fn sched_setscheduler<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let policy = a[1] as u32;
    if policy as i32 == -1 || a[2] == 0 || (a[0] as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let priority = c.read_u32(a[2])?;
    let tid = thread_of(c, a[0])?;
    let resets = (policy & RESET_ON_FORK != 0).then_some(Untold);
    set_policy(c, tid, Wanted { policy: policy & !RESET_ON_FORK, priority, resets })?;
    Ok(0)
}

/// sched_get_priority_max(2) and _min(2).
pub fn sched_get_priority_max<M: Machine>(_: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    match a[0] as u32 {
        policy if REAL_TIME.contains(&policy) => Ok(policy::HIGHEST.into()),
        policy if POLICIES.contains(&policy) || policy == policy::DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

pub fn sched_get_priority_min<M: Machine>(_: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    match a[0] as u32 {
        policy if REAL_TIME.contains(&policy) => Ok(policy::LOWEST.into()),
        policy if POLICIES.contains(&policy) || policy == policy::DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// sched_rr_get_interval(2): how long the thread's turns are; none of `SCHED_FIFO` ends by time.
pub fn sched_rr_get_interval<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let tid = thread_of(c, a[0])?;
    let thread = get(c, tid)?;
    let turn = match u32::from(thread.scheduling.policy) {
        policy::FIRST_IN => Nanos(0),
        policy::ROUND_ROBIN => ROUND,
        _ => thread.scheduling.turn(c.process_by(thread.process)?.nice),
    };
    c.write_bytes(a[1], &super::clock::pair(turn.0 / 1_000_000_000, turn.0 % 1_000_000_000))?;
    Ok(0)
}

/// struct sched_attr: its first form, and with the two words that a later one has.
const ATTRIBUTES: [u32; 2] = [48, 56];

/// sched_getattr(2).
pub fn sched_getattr<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let size = a[2] as u32;
    if a[1] == 0 || (a[0] as i32) < 0 || size < ATTRIBUTES[0] || size as usize > PAGE || a[3] as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let tid = thread_of(c, a[0])?;
    let thread = get(c, tid)?;
    let (scheduling, process) = (thread.scheduling, thread.process);
    let nice = c.process_by(process)?.nice;
    let size = size.min(ATTRIBUTES[1]);
    let mut bytes = [0; ATTRIBUTES[1] as usize];
    bytes[..4].copy_from_slice(&size.to_le_bytes());
    bytes[4..8].copy_from_slice(&u32::from(scheduling.policy).to_le_bytes());
    bytes[8..16].copy_from_slice(&u64::from(scheduling.resets.is_some()).to_le_bytes());
    match scheduling.priority {
        Some(priority) => bytes[20..24].copy_from_slice(&u32::from(priority).to_le_bytes()),
        None => bytes[16..20].copy_from_slice(&i32::from(nice.value()).to_le_bytes()),
    }
    c.write_bytes(a[1], bytes.get(..size as usize).unwrap_or(&bytes))?;
    Ok(0)
}

/// sched_setattr(2).
pub fn sched_setattr<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const RESETS: u64 = 1;
    const KEEP_POLICY: u64 = 8;
    const KEEP_PARAMETERS: u64 = 0x10;
    let [id, addr, flags, ..] = a;
    if addr == 0 || (id as i32) < 0 || flags as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let size = match c.read_u32(addr)? {
        0 => ATTRIBUTES[0],
        size => size,
    };
    let mut right = (ATTRIBUTES[0]..=PAGE as u32).contains(&size);
    let bytes = if right { c.read_bytes(addr, size as usize)? } else { alloc::vec::Vec::new() };
    // What is not known must not be asked for.
    right &= bytes.iter().skip(ATTRIBUTES[1] as usize).all(|byte| *byte == 0);
    if !right {
        c.write_u32(addr, ATTRIBUTES[1])?;
        return Err(Errno::E2BIG.into());
    }
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    let (policy, options) = (word(4), u64::from(word(8)) | u64::from(word(12)) << 32);
    let (nice, priority) = (word(16) as i32, word(20));
    if (policy as i32) < 0 || options & !(RESETS | KEEP_POLICY | KEEP_PARAMETERS) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let tid = thread_of(c, id)?;
    let now = get(c, tid)?.scheduling;
    let policy = if options & KEEP_POLICY != 0 { now.policy.into() } else { policy };
    let priority = if options & KEEP_PARAMETERS != 0 { now.priority.unwrap_or(0).into() } else { priority };
    // The nice value may be refused as setpriority(2) refuses it; then nothing is changed.
    if POLICIES.contains(&policy) && priority == 0 && options & KEEP_PARAMETERS == 0 {
        super::priority::set_nice(c, tid, Nice::nearest(nice))?;
    }
    let resets = if options & KEEP_POLICY != 0 { now.resets } else { (options & RESETS != 0).then_some(Untold) };
    set_policy(c, tid, Wanted { policy, priority, resets })?;
    Ok(0)
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

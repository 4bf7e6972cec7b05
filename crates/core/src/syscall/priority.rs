//! Nice values: getpriority(2) and setpriority(2). A nicer process has shorter turns.
use super::Arguments;
use crate::{
    context::{Context, Result},
    process::{Nice, Process},
    rights::{SYS_ADMIN, SYS_NICE},
};
use alloc::vec::Vec;
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_hal::Machine;

/// `RLIMIT_NICE`.
const LIMIT: usize = 13;

/// The processes that `which` and `who` name.
fn named<M: Machine>(c: &Context<'_, M>, which: u64, who: u64) -> Result<Vec<Pid>> {
    let own = c.process()?;
    let (pid, group, user) = (c.pid, own.group, own.credentials.uid);
    let id = who as u32;
    let or = |default: Pid| if id == 0 { default } else { Pid(id) };
    let threads = &c.resident.program.threads;
    let process = threads.get(&or(pid)).map_or(or(pid), |thread| thread.process);
    let matches = |candidate: &Process| match which as u32 {
        0 => candidate.pid == process,
        1 => candidate.group == or(group),
        _ => candidate.credentials.uid == if id == 0 { user } else { id },
    };
    if which as u32 > 2 {
        return Err(Errno::EINVAL.into());
    }
    let found: Vec<Pid> = c.resident.program.processes.values().filter(|p| matches(p)).map(|p| p.pid).collect();
    if found.is_empty() { Err(Errno::ESRCH.into()) } else { Ok(found) }
}

/// getpriority(2): 20 minus the least nice value of those named.
pub fn getpriority<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let mut best = 0;
    for pid in named(c, a[0], a[1])? {
        best = best.max(c.process_by(pid)?.nice.rank());
    }
    Ok(best)
}

/// setpriority(2).
pub fn setpriority<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let wanted = Nice::nearest(a[2] as i32);
    let targets = named(c, a[0], a[1])?;
    let own = c.process()?;
    let (privileged, user) = (own.rights.has(SYS_NICE), own.credentials.clone());
    let mut outcome = Ok(0);
    for pid in targets {
        let process = c.process_by(pid)?;
        let limit = process.limits.get(LIMIT).map_or(0, |limit| limit.0);
        let theirs = &process.credentials;
        if !privileged && ![theirs.uid, theirs.euid].contains(&user.euid) {
            outcome = Err(Errno::EPERM.into());
        } else if !privileged && wanted.rank() > process.nice.rank() && wanted.rank() > limit {
            outcome = Err(Errno::EACCES.into());
        } else if let Some(process) = c.resident.program.processes.get_mut(&pid) {
            process.nice = wanted;
        }
    }
    outcome
}

/// The process of a thread gets a nice value (sched_setattr(2)); a lower one needs a right, else it is EPERM.
pub fn set_nice<M: Machine>(c: &mut Context<'_, M>, tid: Pid, wanted: Nice) -> Result<()> {
    let owner = c.resident.program.threads.get(&tid).map(|thread| thread.process).ok_or(Errno::ESRCH)?;
    let (own, process) = (c.process()?, c.process_by(owner)?);
    let limit = process.limits.get(LIMIT).map_or(0, |limit| limit.0);
    let theirs = &process.credentials;
    let same = [theirs.uid, theirs.euid].contains(&own.credentials.euid);
    let lower = wanted.rank() > process.nice.rank() && wanted.rank() > limit;
    if (lower || !same) && !own.rights.has(SYS_NICE) {
        return Err(Errno::EPERM.into());
    }
    c.resident.program.processes.get_mut(&owner).ok_or(Errno::ESRCH)?.nice = wanted;
    Ok(())
}

/// ioprio_get(2) and ioprio_set(2) name threads, where getpriority(2) names processes.
fn threads_named<M: Machine>(c: &Context<'_, M>, which: u64, who: u64) -> Result<Vec<Pid>> {
    const THREAD: u32 = 1;
    const USER: u32 = 3;
    let program = &c.resident.program;
    let found: Vec<Pid> = match which as u32 {
        THREAD => {
            let tid = if who as u32 == 0 { c.tid } else { Pid(who as u32) };
            program.threads.get(&tid).map(|thread| thread.tid).into_iter().collect()
        }
        2..=USER => {
            let processes = named(c, which - 1, who)?;
            program.threads.values().filter(|t| processes.contains(&t.process)).map(|t| t.tid).collect()
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    if found.is_empty() { Err(Errno::ESRCH.into()) } else { Ok(found) }
}

/// ioprio_set(2). Nothing is read in another order for it: a kernel's requests for blocks go out as they come.
pub fn ioprio_set<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let wanted = a[2] as u32;
    let (class, level) = (wanted >> 13 & 7, wanted & 7);
    let own = c.process()?;
    let (privileged, user) = (own.rights.has(SYS_NICE), own.credentials.clone());
    match class {
        1 if !(privileged || own.rights.has(SYS_ADMIN)) => return Err(Errno::EPERM.into()),
        1..=3 => {}
        0 if level == 0 => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    for tid in threads_named(c, a[0], a[1])? {
        let owner = c.resident.program.threads.get(&tid).map(|thread| thread.process).ok_or(Errno::ESRCH)?;
        let theirs = c.process_by(owner)?.credentials.uid;
        if ![user.uid, user.euid].contains(&theirs) && !privileged {
            return Err(Errno::EPERM.into());
        }
        if let Some(thread) = c.resident.program.threads.get_mut(&tid) {
            thread.scheduling.io = wanted as u16;
        }
    }
    Ok(0)
}

/// ioprio_get(2): the highest of those named.
pub fn ioprio_get<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let tids = threads_named(c, a[0], a[1])?;
    let threads = tids.iter().filter_map(|tid| c.resident.program.threads.get(tid));
    let set = threads.map(|thread| thread.scheduling.io);
    // One that was never set comes behind all classes.
    let best = set.min_by_key(|io| if io >> 13 == 0 { u16::MAX } else { *io });
    Ok(best.unwrap_or(0).into())
}

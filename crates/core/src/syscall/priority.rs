//! Nice values: getpriority(2) and setpriority(2). A nicer process has shorter turns.
use super::Arguments;
use crate::{
    context::{Context, Result},
    process::{Nice, Process},
    rights::SYS_NICE,
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

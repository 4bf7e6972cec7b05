//! Who a process is: ids, users, groups, sessions.
use super::{Arguments, quick};
use crate::{
    context::{Context, Result, Stop},
    process::Ids,
    rights::{SETGID, SETUID},
    sharing::Whereabouts,
};
use alloc::vec::Vec;
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_hal::Machine;

/// A call of [`quick::told`].
pub fn tell<M: Machine>(c: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    let thread = c.resident.program.threads.get(&c.tid).ok_or(Stop::Gone)?;
    Ok(quick::told(thread, c.process()?).ok_or(Errno::ENOSYS)?)
}

/// Changes users or groups, and what the process may do along with them.
fn change<M: Machine>(
    c: &mut Context<'_, M>,
    capability: u32,
    how: impl FnOnce(&mut Ids, Privileged) -> Result<()>,
) -> Result<u64> {
    let process = c.process_mut()?;
    let old = process.credentials.clone();
    let privileged = if process.rights.has(capability) { Privileged::Yes } else { Privileged::No };
    let mut new = Ids { file_uid: None, file_gid: None, ..old.clone() };
    how(&mut new, privileged)?;
    process.rights.after_change(&old, &new);
    process.credentials = new;
    Ok(0)
}

/// Whether the caller may take any id.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Privileged {
    Yes,
    No,
}

/// setuid(2): who may sets all three ids, others may go back to the real or the saved one.
pub fn setuid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    change(c, SETUID, |k, privileged| {
        [k.uid, k.euid, k.suid] = one(privileged, [k.uid, k.euid, k.suid], a[0] as u32)?;
        Ok(())
    })
}

/// setgid(2).
pub fn setgid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    change(c, SETGID, |k, privileged| {
        [k.gid, k.egid, k.sgid] = one(privileged, [k.gid, k.egid, k.sgid], a[0] as u32)?;
        Ok(())
    })
}

/// Real, effective and saved id after setuid(2) or setgid(2).
fn one(privileged: Privileged, [real, _, saved]: [u32; 3], id: u32) -> Result<[u32; 3]> {
    match privileged {
        _ if id == u32::MAX => Err(Errno::EINVAL.into()),
        Privileged::Yes => Ok([id; 3]),
        Privileged::No if id == real || id == saved => Ok([real, id, saved]),
        Privileged::No => Err(Errno::EPERM.into()),
    }
}

/// Checks the ids a caller wants (all ones leave one as it is) against those it has, unless it may have any.
fn chosen(privileged: Privileged, have: [u32; 3], allowed: &[u32], want: [u64; 3]) -> Result<[u32; 3]> {
    let mut ids = have;
    for (id, wanted) in ids.iter_mut().zip(want) {
        let wanted = wanted as u32;
        if wanted != u32::MAX {
            if privileged == Privileged::No && !allowed.contains(&wanted) {
                return Err(Errno::EPERM.into());
            }
            *id = wanted;
        }
    }
    Ok(ids)
}

pub fn setresuid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    change(c, SETUID, |k, privileged| {
        let have = [k.uid, k.euid, k.suid];
        [k.uid, k.euid, k.suid] = chosen(privileged, have, &have, [a[0], a[1], a[2]])?;
        Ok(())
    })
}

pub fn setresgid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    change(c, SETGID, |k, privileged| {
        let have = [k.gid, k.egid, k.sgid];
        [k.gid, k.egid, k.sgid] = chosen(privileged, have, &have, [a[0], a[1], a[2]])?;
        Ok(())
    })
}

/// Real, effective and saved id after setreuid(2) or setregid(2): the real one may become the effective one but not the saved
/// one, and the saved one follows where the real one is set or the effective one becomes another than the real one was.
fn exchanged(privileged: Privileged, have: [u32; 3], want: [u64; 2]) -> Result<[u32; 3]> {
    let keep = u64::from(u32::MAX);
    let [real, ..] = chosen(privileged, have, &have[..2], [want[0], keep, keep])?;
    let [_, effective, saved] = chosen(privileged, have, &have, [keep, want[1], keep])?;
    let follows = want[0] as u32 != u32::MAX || want[1] as u32 != u32::MAX && effective != have[0];
    Ok([real, effective, if follows { effective } else { saved }])
}

pub fn setreuid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    change(c, SETUID, |k, privileged| {
        [k.uid, k.euid, k.suid] = exchanged(privileged, [k.uid, k.euid, k.suid], [a[0], a[1]])?;
        Ok(())
    })
}

pub fn setregid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    change(c, SETGID, |k, privileged| {
        [k.gid, k.egid, k.sgid] = exchanged(privileged, [k.gid, k.egid, k.sgid], [a[0], a[1]])?;
        Ok(())
    })
}

/// setfsuid(2): returns the one before, whether it changed or not.
pub fn setfsuid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let process = c.process_mut()?;
    let privileged = process.rights.has(SETUID);
    let (k, id) = (&mut process.credentials, a[0] as u32);
    let before = k.file_uid.unwrap_or(k.euid);
    if id != u32::MAX && (privileged || [k.uid, k.euid, k.suid, before].contains(&id)) {
        k.file_uid = (id != k.euid).then_some(id);
    }
    Ok(before.into())
}

/// setfsgid(2).
pub fn setfsgid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let process = c.process_mut()?;
    let privileged = process.rights.has(SETGID);
    let (k, id) = (&mut process.credentials, a[0] as u32);
    let before = k.file_gid.unwrap_or(k.egid);
    if id != u32::MAX && (privileged || [k.gid, k.egid, k.sgid, before].contains(&id)) {
        k.file_gid = (id != k.egid).then_some(id);
    }
    Ok(before.into())
}

pub fn getresuid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let k = &c.process()?.credentials;
    let ids = [k.uid, k.euid, k.suid];
    for (addr, id) in a.into_iter().zip(ids) {
        c.write_u32(addr, id)?;
    }
    Ok(0)
}

pub fn getresgid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let k = &c.process()?.credentials;
    let ids = [k.gid, k.egid, k.sgid];
    for (addr, id) in a.into_iter().zip(ids) {
        c.write_u32(addr, id)?;
    }
    Ok(0)
}

pub fn getgroups<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let groups = c.process()?.credentials.groups.clone();
    if (a[0] as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    if a[0] as u32 != 0 {
        if u64::from(a[0] as u32) < groups.len() as u64 {
            return Err(Errno::EINVAL.into());
        }
        let bytes: Vec<u8> = groups.iter().flat_map(|group| group.to_le_bytes()).collect();
        c.write_bytes(a[1], &bytes)?;
    }
    Ok(groups.len() as u64)
}

pub fn setgroups<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if !c.process()?.rights.has(SETGID) {
        return Err(Errno::EPERM.into());
    }
    if a[0] > 65536 {
        return Err(Errno::EINVAL.into());
    }
    let bytes = c.read_bytes(a[1], a[0] as usize * 4)?;
    let groups = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    c.process_mut()?.credentials.groups = groups;
    Ok(0)
}

/// The process that an argument names: 0 is the caller.
fn named<M: Machine>(c: &Context<'_, M>, argument: u64) -> Pid {
    if argument as u32 == 0 { c.pid } else { Pid(argument as u32) }
}

/// setpgid(2).
pub fn setpgid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let pid = named(c, a[0]);
    let group = if a[1] as u32 == 0 { pid } else { Pid(a[1] as u32) };
    if (a[1] as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let session = c.process()?.session;
    let target = c.process_by(pid)?;
    if pid != c.pid && target.parent != c.pid {
        return Err(Errno::ESRCH.into());
    }
    if pid != c.pid && target.executed.is_some() {
        return Err(Errno::EACCES.into());
    }
    if target.session != session || target.session == pid {
        return Err(Errno::EPERM.into());
    }
    let exists = c.resident.program.processes.values().any(|p| p.group == group && p.session == session);
    if group != pid && !exists {
        return Err(Errno::EPERM.into());
    }
    if let Some(process) = c.resident.program.processes.get_mut(&pid) {
        process.group = group;
    }
    Ok(0)
}

pub fn getpgid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    Ok(c.process_by(named(c, a[0]))?.group.0.into())
}

pub fn getpgrp<M: Machine>(c: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    Ok(c.process()?.group.0.into())
}

pub fn getsid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    Ok(c.process_by(named(c, a[0]))?.session.0.into())
}

/// setsid(2): a new session and a new group, unless the caller leads a group already.
pub fn setsid<M: Machine>(c: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    let pid = c.pid;
    if c.resident.program.processes.values().any(|process| process.group == pid) {
        return Err(Errno::EPERM.into());
    }
    let process = c.process_mut()?;
    process.session = pid;
    process.group = pid;
    process.detached = None;
    Ok(pid.0.into())
}

pub fn umask<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let now = c.whereabouts()?;
    c.move_to(Whereabouts { umask: a[0] as u32 & 0o777, ..now })?;
    Ok(now.umask.into())
}

pub fn set_tid_address<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    c.thread()?.clear_tid = a[0];
    Ok(c.tid.0.into())
}

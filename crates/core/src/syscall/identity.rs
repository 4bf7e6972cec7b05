//! Who a process is: ids, users, groups, sessions.
use super::Arguments;
use crate::{
    context::{Context, Result},
    sharing::Whereabouts,
};
use alloc::vec::Vec;
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_hal::Machine;

pub fn getpid<M: Machine>(c: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    Ok(c.pid.0.into())
}

pub fn gettid<M: Machine>(c: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    Ok(c.tid.0.into())
}

pub fn getppid<M: Machine>(c: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    Ok(c.process()?.parent.0.into())
}

pub fn getuid<M: Machine>(c: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    Ok(c.process()?.credentials.uid.into())
}

pub fn geteuid<M: Machine>(c: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    Ok(c.process()?.credentials.euid.into())
}

pub fn getgid<M: Machine>(c: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    Ok(c.process()?.credentials.gid.into())
}

pub fn getegid<M: Machine>(c: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    Ok(c.process()?.credentials.egid.into())
}

/// setuid(2): root sets all three ids, others may go back to the real or the saved one.
pub fn setuid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let id = a[0] as u32;
    let credentials = &mut c.process_mut()?.credentials;
    if credentials.euid == 0 {
        (credentials.uid, credentials.euid, credentials.suid) = (id, id, id);
    } else if id == credentials.uid || id == credentials.suid {
        credentials.euid = id;
    } else {
        return Err(Errno::EPERM.into());
    }
    Ok(0)
}

/// setgid(2).
pub fn setgid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let id = a[0] as u32;
    let credentials = &mut c.process_mut()?.credentials;
    if credentials.euid == 0 {
        (credentials.gid, credentials.egid, credentials.sgid) = (id, id, id);
    } else if id == credentials.gid || id == credentials.sgid {
        credentials.egid = id;
    } else {
        return Err(Errno::EPERM.into());
    }
    Ok(0)
}

/// Checks the ids a caller wants (all ones leave one as it is) against those it has, unless it is root.
fn chosen(root: Root, have: [u32; 3], want: [u64; 3]) -> Result<[u32; 3]> {
    let mut ids = have;
    for (id, wanted) in ids.iter_mut().zip(want) {
        let wanted = wanted as u32;
        if wanted != u32::MAX {
            if root == Root::No && !have.contains(&wanted) {
                return Err(Errno::EPERM.into());
            }
            *id = wanted;
        }
    }
    Ok(ids)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Root {
    Yes,
    No,
}

fn root_or_not(euid: u32) -> Root {
    if euid == 0 { Root::Yes } else { Root::No }
}

pub fn setresuid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let k = &mut c.process_mut()?.credentials;
    [k.uid, k.euid, k.suid] = chosen(root_or_not(k.euid), [k.uid, k.euid, k.suid], [a[0], a[1], a[2]])?;
    Ok(0)
}

pub fn setresgid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let k = &mut c.process_mut()?.credentials;
    [k.gid, k.egid, k.sgid] = chosen(root_or_not(k.euid), [k.gid, k.egid, k.sgid], [a[0], a[1], a[2]])?;
    Ok(0)
}

/// setreuid(2): the saved id follows the effective one when the real one is set.
pub fn setreuid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let k = &mut c.process_mut()?.credentials;
    let keep = u64::from(u32::MAX);
    [k.uid, k.euid, k.suid] = chosen(root_or_not(k.euid), [k.uid, k.euid, k.suid], [a[0], a[1], keep])?;
    if a[0] as u32 != u32::MAX {
        k.suid = k.euid;
    }
    Ok(0)
}

pub fn setregid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let k = &mut c.process_mut()?.credentials;
    let keep = u64::from(u32::MAX);
    [k.gid, k.egid, k.sgid] = chosen(root_or_not(k.euid), [k.gid, k.egid, k.sgid], [a[0], a[1], keep])?;
    if a[0] as u32 != u32::MAX {
        k.sgid = k.egid;
    }
    Ok(0)
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
    if a[0] != 0 {
        if a[0] < groups.len() as u64 {
            return Err(Errno::EINVAL.into());
        }
        let bytes: Vec<u8> = groups.iter().flat_map(|group| group.to_le_bytes()).collect();
        c.write_bytes(a[1], &bytes)?;
    }
    Ok(groups.len() as u64)
}

pub fn setgroups<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if c.process()?.credentials.euid != 0 {
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

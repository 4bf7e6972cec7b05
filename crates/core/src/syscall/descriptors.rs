//! Descriptors: copying, closing, flags, pipes.
use super::{Arguments, asynchronous, linger, memfd, transfer::flags};
use crate::{
    context::{Context, Result},
    files::{DescriptionId, Descriptor, Kind, OnExec},
    pipe::{Pipe, PipeId},
};
use alloc::vec::Vec;
use shimos_abi::errno::Errno;
use shimos_hal::Machine;

const O_CLOEXEC: u64 = 0x80000;

/// FD_CLOEXEC as open flags ask for it.
pub fn on_exec(flags: u64) -> OnExec {
    if flags & O_CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep }
}

pub fn close<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    match linger::noted(c.moved()?) {
        Some(id) => linger::go_on(c, id),
        None => {
            let id = take(c, a[0])?;
            linger::begin(c, id)
        }
    }
}

/// Closes a descriptor, and waits for nobody.
fn close_at_once<M: Machine>(c: &mut Context<'_, M>, fd: u64) -> Result<()> {
    let id = take(c, fd)?;
    c.release_description(id);
    Ok(())
}

/// Takes a descriptor out of the caller's table, and what goes with it; its reference is left to give up.
fn take<M: Machine>(c: &mut Context<'_, M>, fd: u64) -> Result<DescriptionId> {
    let descriptor = c.table()?.remove(fd)?;
    c.release_locks_of(descriptor.description);
    if let Kind::Queue(queue) = c.description_by(descriptor.description)?.kind {
        let pid = c.pid;
        super::tell_no_more(c.resident, Some(queue), pid);
    }
    Ok(descriptor.description)
}

pub fn close_range<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const UNSHARE: u64 = 2;
    const CLOEXEC: u64 = 4;
    let (first, last, flags) = (a[0] as u32, a[1] as u32, a[2]);
    if first > last || flags & !(UNSHARE | CLOEXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags & UNSHARE != 0 {
        c.part_files()?;
    }
    let inside: Vec<u32> = c.table()?.iter().map(|(fd, _)| fd).filter(|fd| (first..=last).contains(fd)).collect();
    for fd in inside {
        if flags & CLOEXEC != 0 {
            c.table()?.get_mut(fd.into())?.on_exec = OnExec::Close;
        } else {
            close_at_once(c, fd.into())?;
        }
    }
    Ok(0)
}

pub fn dup<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    duplicate(c, a[0], 0, OnExec::Keep)
}

fn duplicate<M: Machine>(c: &mut Context<'_, M>, fd: u64, from: u64, on_exec: OnExec) -> Result<u64> {
    let descriptor = Descriptor { on_exec, ..c.descriptor(fd)? };
    let limit = c.process()?.limit(crate::process::limit::NOFILE);
    if from >= limit {
        return Err(Errno::EINVAL.into());
    }
    let copy = c.table()?.insert(descriptor, from, limit)?;
    c.resident.program.retain(descriptor);
    Ok(copy)
}

fn duplicate_to<M: Machine>(c: &mut Context<'_, M>, from: u64, to: u64, on_exec: OnExec) -> Result<u64> {
    let descriptor = Descriptor { on_exec, ..c.descriptor(from)? };
    let limit = c.process()?.limit(crate::process::limit::NOFILE);
    if to >= limit {
        return Err(Errno::EBADF.into());
    }
    c.resident.program.retain(descriptor);
    if let Some(old) = c.table()?.replace(to as u32, descriptor) {
        c.release_locks_of(old.description);
        c.release_description(old.description);
    }
    Ok(to)
}

pub fn dup2<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[0] == a[1] {
        c.descriptor(a[0])?;
        return Ok(a[1]);
    }
    duplicate_to(c, a[0], a[1], OnExec::Keep)
}

pub fn dup3<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[0] == a[1] || a[2] & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL.into());
    }
    duplicate_to(c, a[0], a[1], on_exec(a[2]))
}

pub fn pipe<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    pipe2(c, [a[0], 0, 0, 0, 0, 0])
}

pub fn pipe2<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[1] & !(O_CLOEXEC | u64::from(flags::NONBLOCK)) != 0 {
        return Err(Errno::EINVAL.into());
    }
    c.probe_writable(a[0], 8)?;
    let program = &mut c.resident.program;
    let pipe = PipeId(program.fresh_id());
    program.pipes.insert(pipe, Pipe::new());
    let nonblock = a[1] as u32 & flags::NONBLOCK;
    let reader = program.add_description(Kind::PipeReader(pipe), flags::READ_ONLY | nonblock);
    let writer = program.add_description(Kind::PipeWriter(pipe), flags::WRITE_ONLY | nonblock);
    install_pair(c, a[0], [reader, writer], on_exec(a[1]))
}

/// Installs two new descriptions and stores their numbers at `addr`.
pub fn install_pair<M: Machine>(
    c: &mut Context<'_, M>,
    addr: u64,
    descriptions: [DescriptionId; 2],
    on_exec: OnExec,
) -> Result<u64> {
    let [first, second] = descriptions;
    let one = match c.install(Descriptor { description: first, on_exec }) {
        Ok(fd) => fd,
        Err(stop) => {
            c.release_description(second);
            return Err(stop);
        }
    };
    let two = match c.install(Descriptor { description: second, on_exec }) {
        Ok(fd) => fd,
        Err(stop) => {
            close_at_once(c, one)?;
            return Err(stop);
        }
    };
    c.write_u32(addr, one as u32)?;
    c.write_u32(addr.wrapping_add(4), two as u32)?;
    Ok(0)
}

/// fcntl(2).
pub fn fcntl<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const DUPFD: u64 = 0;
    const GETFD: u64 = 1;
    const SETFD: u64 = 2;
    const GETFL: u64 = 3;
    const SETFL: u64 = 4;
    const GETLK: u64 = 5;
    const SETLK: u64 = 6;
    const SETLKW: u64 = 7;
    const OFD_GETLK: u64 = 36;
    const OFD_SETLK: u64 = 37;
    const OFD_SETLKW: u64 = 38;
    const SETLEASE: u64 = 1024;
    const GETLEASE: u64 = 1025;
    const NOTIFY: u64 = 1026;
    const DUPFD_CLOEXEC: u64 = 1030;
    const SETPIPE_SZ: u64 = 1031;
    const GETPIPE_SZ: u64 = 1032;
    const ADD_SEALS: u64 = 1033;
    const GET_SEALS: u64 = 1034;
    /// O_APPEND, O_NONBLOCK, O_ASYNC, O_DIRECT, O_NOATIME.
    const CHANGEABLE: u32 = 0x400 | 0x800 | 0x2000 | 0x4000 | 0x40000;
    let [fd, command, argument, ..] = a;
    match command {
        DUPFD => duplicate(c, fd, argument, OnExec::Keep),
        DUPFD_CLOEXEC => duplicate(c, fd, argument, OnExec::Close),
        GETFD => Ok((c.descriptor(fd)?.on_exec == OnExec::Close).into()),
        SETFD => {
            c.table()?.get_mut(fd)?.on_exec = if argument & 1 != 0 { OnExec::Close } else { OnExec::Keep };
            Ok(0)
        }
        // O_LARGEFILE shows in what Linux returns.
        GETFL => Ok((c.description(fd)?.flags | 0x8000).into()),
        SETFL => {
            let id = c.descriptor(fd)?.description;
            let description = c.description_by(id)?;
            let before = description.flags;
            description.flags = before & !CHANGEABLE | argument as u32 & CHANGEABLE;
            asynchronous::flags_changed(c.resident, id, before);
            Ok(0)
        }
        GETLK | SETLK | SETLKW | OFD_GETLK | OFD_SETLK | OFD_SETLKW => crate::locks::fcntl(c, fd, command, argument),
        SETPIPE_SZ | GETPIPE_SZ => {
            let (Kind::PipeReader(pipe) | Kind::PipeWriter(pipe) | Kind::PipeBoth(pipe)) = c.description(fd)?.kind
            else {
                return Err(Errno::EBADF.into());
            };
            let pipe = c.resident.program.pipes.get_mut(&pipe).ok_or(Errno::EBADF)?;
            let capacity = if command == SETPIPE_SZ { pipe.set_capacity(argument)? } else { pipe.capacity() };
            Ok(capacity.into())
        }
        ADD_SEALS => memfd::add_seals(c, fd, argument),
        GET_SEALS => memfd::get_seals(c, fd),
        // Leases are not to be had, as on file systems of Linux without them; nobody holds one.
        GETLEASE => match c.description(fd)?.kind {
            Kind::File(_) | Kind::Directory(_) => Ok(2),
            _ => Err(Errno::EINVAL.into()),
        },
        SETLEASE => c.descriptor(fd).and_then(|_| Err(Errno::EINVAL.into())),
        // To want to hear of nothing can be had; of the rest inotify(7) tells.
        NOTIFY => match c.description(fd)?.kind {
            _ if argument as u32 & 0x7fff_ffff == 0 => Ok(0),
            Kind::Directory(_) => Err(Errno::EINVAL.into()),
            _ => Err(Errno::ENOTDIR.into()),
        },
        _ => match asynchronous::fcntl(c, fd, command, argument)? {
            Some(value) => Ok(value),
            None => c.descriptor(fd).and_then(|_| Err(Errno::EINVAL.into())),
        },
    }
}

pub fn flock<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    crate::locks::flock(c, a[0], a[1])
}

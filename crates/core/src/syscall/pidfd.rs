//! Descriptors of processes: pidfd_open and its relatives.
use super::{Arguments, signals::may_signal, transfer::flags};
use crate::{
    context::{Context, Result},
    delivery,
    files::{DescriptionId, Descriptor, Kind, OnExec},
    proc,
    process::{By, Process},
    signal::{Info, Signal},
};
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_hal::Machine;

pub fn pidfd_open<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (pid, options) = (a[0] as i32, a[1] as u32);
    if options & !flags::NONBLOCK != 0 || pid <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let pid = Pid(pid as u32);
    let program = &c.resident.program;
    if !program.processes.contains_key(&pid) {
        // A thread that leads no process is none.
        let errno = if program.threads.contains_key(&pid) { Errno::EINVAL } else { Errno::ESRCH };
        return Err(errno.into());
    }
    let description = describe(c, pid, options)?;
    c.install(Descriptor { description, on_exec: OnExec::Close })
}

/// A description of a process that exists.
pub fn describe<M: Machine>(c: &mut Context<'_, M>, pid: Pid, options: u32) -> Result<DescriptionId> {
    let started = c.process_by(pid)?.started;
    Ok(c.resident.program.add_description(Kind::Process(pid, started), flags::READ_WRITE | options))
}

/// The process of a descriptor; `ESRCH` if it has ended and was waited for.
fn process_of<'a, M: Machine>(c: &'a mut Context<'_, M>, fd: u64) -> Result<&'a Process> {
    let Kind::Process(pid, started) = c.description(fd)?.kind else { return Err(Errno::EBADF.into()) };
    let process = c.process_by(pid)?;
    if process.started == started { Ok(process) } else { Err(Errno::ESRCH.into()) }
}

/// The process that waitid(2) is to wait for by a descriptor, and whether it may wait.
pub fn to_wait_for<M: Machine>(c: &mut Context<'_, M>, fd: u64) -> Result<(Pid, u32)> {
    let options = c.description(fd)?.flags;
    match process_of(c, fd) {
        Ok(process) => Ok((process.pid, options)),
        Err(crate::context::Stop::Errno(Errno::ESRCH)) => Err(Errno::ECHILD.into()),
        Err(stop) => Err(stop),
    }
}

/// The process that a signal goes to: that of a descriptor of a process, or of a directory of /proc (pidfd_send_signal(2)).
fn to_signal<M: Machine>(c: &mut Context<'_, M>, fd: u64) -> Result<Pid> {
    let directory = match c.description(fd)?.kind {
        Kind::Directory(node) => proc::process_of(node),
        _ => None,
    };
    match directory {
        Some(pid) => Ok(c.process_by(pid).map_err(|_| Errno::ESRCH)?.pid),
        None => Ok(process_of(c, fd)?.pid),
    }
}

pub fn pidfd_send_signal<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [fd, number, info, options, ..] = a;
    if options as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let pid = to_signal(c, fd)?;
    let number = number as u32;
    let told = if info == 0 {
        let uid = c.process()?.credentials.uid;
        Info::from_user(c.pid, uid)
    } else {
        const TKILL: i32 = -6;
        let bytes = c.read_bytes(info, 32)?;
        let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        if word(0) != number {
            return Err(Errno::EINVAL.into());
        }
        let code = word(8) as i32;
        if pid != c.pid && (code >= 0 || code == TKILL) {
            return Err(Errno::EPERM.into());
        }
        let value = u64::from(word(24)) | u64::from(word(28)) << 32;
        Info { code, pid: word(16), uid: word(20), value, ..Info::default() }
    };
    may_signal(c, pid, Signal::new(number.into()))?;
    if number != 0 {
        let signal = Signal::new(number.into()).ok_or(Errno::EINVAL)?;
        delivery::send_to_process(c.resident, pid, signal, told);
    }
    Ok(0)
}

/// pidfd_getfd(2): a descriptor of another process, here.
pub fn pidfd_getfd<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[2] as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let process = process_of(c, a[0])?;
    let (pid, files) = (process.pid, process.files);
    let other = c.process_by(pid)?;
    if other.zombie.is_some() {
        return Err(Errno::ESRCH.into());
    }
    if !c.process()?.may_look_into(other, By::Real) {
        return Err(Errno::EPERM.into());
    }
    let table = c.resident.program.tables.get(&files).ok_or(Errno::ESRCH)?;
    let descriptor = Descriptor { on_exec: OnExec::Close, ..table.get(a[1])? };
    c.resident.program.retain(descriptor);
    c.install(descriptor)
}

//! kcmp(2): whether two threads share something.
use super::Arguments;
use crate::{
    context::{Context, Result},
    event::{Event, epoll::Target},
    files::{DescriptionId, FilesId, Kind},
    process::{By, Process},
    sharing::Whereabouts,
    thread::Thread,
};
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_hal::Machine;

const FILE: u32 = 0;
const VM: u32 = 1;
const FILES: u32 = 2;
const FS: u32 = 3;
const SIGHAND: u32 = 4;
const IO: u32 = 5;
const SYSVSEM: u32 = 6;
const EPOLL_TARGET: u32 = 7;

/// What the answer is made from: equal numbers are the same thing, and the order of others is any that does not change.
/// The second half tells things that are a thread's own from things that are shared by a number.
type Identity = (u64, u64);

/// A thing that only one has.
fn own(id: Pid) -> Identity {
    (id.0.into(), 1)
}

fn shared(group: u32) -> Identity {
    (group.into(), 2)
}

pub fn kcmp<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (one, two, kind) = (Pid(a[0] as u32), Pid(a[1] as u32), a[2] as u32);
    for tid in [one, two] {
        process_of(c, tid)?;
    }
    let caller = c.process()?;
    for tid in [one, two] {
        if !caller.may_look_into(process_of(c, tid)?, By::Real) {
            return Err(Errno::EPERM.into());
        }
    }
    let both = match kind {
        FILE => [file(c, one, a[3])?, file(c, two, a[4])?].map(|id| shared(id.0)),
        EPOLL_TARGET => [file(c, one, a[3])?, watched(c, two, a[4])?].map(|id| shared(id.0)),
        // No thread has a context of input and output of its own that it might share.
        IO => [(0, 0); 2],
        VM | FILES | FS | SIGHAND | SYSVSEM => [identity(c, one, kind)?, identity(c, two, kind)?],
        _ => return Err(Errno::EINVAL.into()),
    };
    let [first, second] = both;
    Ok(match first.cmp(&second) {
        core::cmp::Ordering::Equal => 0,
        core::cmp::Ordering::Less => 1,
        core::cmp::Ordering::Greater => 2,
    })
}

fn thread_by<'a, M: Machine>(c: &'a Context<'_, M>, tid: Pid) -> Result<&'a Thread> {
    Ok(c.resident.program.threads.get(&tid).ok_or(Errno::ESRCH)?)
}

fn process_of<'a, M: Machine>(c: &'a Context<'_, M>, tid: Pid) -> Result<&'a Process> {
    c.process_by(thread_by(c, tid)?.process)
}

fn files_of<M: Machine>(c: &Context<'_, M>, tid: Pid) -> Result<FilesId> {
    Ok(thread_by(c, tid)?.files.unwrap_or(process_of(c, tid)?.files))
}

/// The description behind a descriptor of a thread.
fn file<M: Machine>(c: &Context<'_, M>, tid: Pid, fd: u64) -> Result<DescriptionId> {
    let files = files_of(c, tid)?;
    let table = c.resident.program.tables.get(&files).ok_or(Errno::EBADF)?;
    Ok(table.get(fd)?.description)
}

/// The description that an epoll set watches: the set's descriptor, the number that was added to it, and which of those
/// that were added by this number.
fn watched<M: Machine>(c: &mut Context<'_, M>, tid: Pid, slot: u64) -> Result<DescriptionId> {
    let [set, fd, offset] = [0, 4, 8].map(|at| slot.wrapping_add(at));
    let (set, fd, offset) = (c.read_u32(set)?, c.read_u32(fd)?, c.read_u32(offset)?);
    let set = file(c, tid, set.into())?;
    let Kind::Event(_, id) = c.description_by(set)?.kind else { return Err(Errno::EINVAL.into()) };
    let Some(Event::Epoll(epoll)) = c.resident.program.events.get(&id) else { return Err(Errno::EINVAL.into()) };
    let mut added = epoll.targets().filter(|target: &Target| target.fd == fd);
    Ok(added.nth(offset as usize).ok_or(Errno::ENOENT)?.description)
}

/// What a thread has of a kind.
fn identity<M: Machine>(c: &Context<'_, M>, tid: Pid, kind: u32) -> Result<Identity> {
    let (thread, process) = (thread_by(c, tid)?, process_of(c, tid)?);
    Ok(match kind {
        VM => shared(process.space.0),
        FILES => shared(files_of(c, tid)?.0),
        FS => match thread.whereabouts {
            Some(Whereabouts { group: None, .. }) => own(tid),
            Some(Whereabouts { group: Some(group), .. }) => shared(group),
            None => process.place_group.map_or(own(process.pid), shared),
        },
        SIGHAND => process.action_group.map_or(own(process.pid), shared),
        // Those without a list have the same: none.
        _ => thread.undo.map_or((0, 0), shared),
    })
}

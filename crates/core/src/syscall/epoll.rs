//! Watching many descriptors: epoll.
use super::{Arguments, clock, descriptors::on_exec, poll, transfer::flags};
use crate::{
    context::{Context, Result, Stop},
    event::{
        Event, EventClass, EventId,
        epoll::{EDGE, EXCLUSIVE, Epoll, Target, WAKEUP, bits},
        watches::{MAX_WATCHES, Watch, may_nest},
    },
    files::Kind,
    readiness::is_pollable,
    resident::Key,
};
use alloc::vec::Vec;
use shimos_abi::{errno::Errno, time::Nanos};
use shimos_hal::Machine;

const ADD: u64 = 1;
const DELETE: u64 = 2;
const MODIFY: u64 = 3;
/// Bytes of struct epoll_event, which is packed.
const ENTRY: usize = 12;
const O_CLOEXEC: u64 = 0x80000;

pub fn epoll_create<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if (a[0] as i32) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    epoll_create1(c, [0; 6])
}

pub fn epoll_create1<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[0] as u32 as u64 & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL.into());
    }
    c.install_event(Event::Epoll(Epoll::default()), flags::READ_WRITE, on_exec(a[0]))
}

fn set<'a, M: Machine>(c: &'a mut Context<'_, M>, id: EventId) -> Result<&'a mut Epoll> {
    match c.resident.program.events.get_mut(&id) {
        Some(Event::Epoll(epoll)) => Ok(epoll),
        _ => Err(Errno::EINVAL.into()),
    }
}

pub fn epoll_ctl<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [epfd, operation, fd, event, ..] = a;
    let operation = operation as u32 as u64;
    let (events, data) =
        if operation == DELETE { (0, 0) } else { (c.read_u32(event)?, c.read_u64(event.wrapping_add(4))?) };
    let (outer, description) = (c.descriptor(epfd)?.description, c.descriptor(fd)?.description);
    let watched = c.description_by(description)?;
    if let Kind::Path(_) = watched.kind {
        return Err(Errno::EBADF.into());
    }
    if !is_pollable(watched) {
        return Err(Errno::EPERM.into());
    }
    let (key, inner) = (watched.kind.key(), watched.kind.epoll());
    let id = c.event_of(epfd, EventClass::Epoll, Errno::EINVAL)?;
    if outer == description {
        return Err(Errno::EINVAL.into());
    }
    if events & EXCLUSIVE != 0 {
        let allowed = u32::from(bits::IN | bits::OUT | bits::ERR | bits::HUP) | WAKEUP | EDGE | EXCLUSIVE;
        if operation == MODIFY || operation == ADD && (inner.is_some() || events & !allowed != 0) {
            return Err(Errno::EINVAL.into());
        }
    }
    let target = Target { description, fd: fd as u32 };
    let watch = Watch { epoll: id, target };
    if operation == ADD
        && let Some(inner) = inner
        && !may_nest(&c.resident.program, &c.resident.watches, id, inner)
    {
        return Err(Errno::ELOOP.into());
    }
    let current = set(c, id)?.get(target).copied();
    match (operation, current) {
        (ADD, Some(_)) => return Err(Errno::EEXIST.into()),
        (ADD, None) => {
            if c.resident.watches.len() >= MAX_WATCHES {
                return Err(Errno::ENOSPC.into());
            }
            set(c, id)?.set(target, events, data);
            c.resident.watches.add(watch, key);
        }
        (MODIFY, Some(item)) if item.has(EXCLUSIVE) => return Err(Errno::EINVAL.into()),
        (MODIFY, Some(_)) => set(c, id)?.set(target, events, data),
        (DELETE, Some(_)) => {
            set(c, id)?.remove(target);
            c.resident.watches.remove(watch);
            return Ok(0);
        }
        (MODIFY | DELETE, None) => return Err(Errno::ENOENT.into()),
        _ => return Err(Errno::EINVAL.into()),
    }
    // What is ready already is told at once, also by edge.
    let ready = c.readiness(description);
    if ready != 0 && set(c, id)?.arrive(target, ready) {
        c.resident.wake_as(Key::Event(id), bits::READ);
    }
    Ok(0)
}

pub fn epoll_wait<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let timeout = if (a[3] as i32) < 0 { None } else { Some(Nanos::millis(u64::from(a[3] as u32))) };
    wait(c, a, timeout)
}

pub fn epoll_pwait<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    poll::lend_mask(c, a[4], a[5])?;
    epoll_wait(c, a)
}

pub fn epoll_pwait2<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let timeout = if a[3] == 0 { None } else { Some(clock::read_timespec(c, a[3])?) };
    poll::lend_mask(c, a[4], a[5])?;
    wait(c, a, timeout)
}

fn wait<M: Machine>(c: &mut Context<'_, M>, a: Arguments, timeout: Option<Nanos>) -> Result<u64> {
    let [epfd, addr, most, ..] = a;
    let most = most as i32;
    if most <= 0 || most as usize > i32::MAX as usize / ENTRY {
        return Err(Errno::EINVAL.into());
    }
    let id = c.event_of(epfd, EventClass::Epoll, Errno::EINVAL)?;
    c.take_network();
    let room = set(c, id)?.ready_count().min(most as usize);
    c.probe_writable(addr, room * ENTRY)?;
    let found = collect(c, id, most as usize)?;
    if !found.is_empty() {
        let bytes: Vec<u8> = found
            .iter()
            .flat_map(|(events, data)| events.to_le_bytes().into_iter().chain(data.to_le_bytes()))
            .collect();
        c.write_bytes(addr, &bytes)?;
        return Ok(found.len() as u64);
    }
    if let Some(timeout) = timeout {
        if timeout == Nanos(0) {
            return Ok(0);
        }
        let deadline = c.deadline_in(timeout)?;
        if c.now() >= deadline {
            return Ok(0);
        }
    }
    Err(Stop::Block(Vec::from([Key::Event(id), Key::Signal])))
}

/// What is ready of what may be, at most `most`: events and data. What turns out not to be ready leaves the list.
fn collect<M: Machine>(c: &mut Context<'_, M>, id: EventId, most: usize) -> Result<Vec<(u32, u64)>> {
    let listed: Vec<Target> = set(c, id)?.ready().map(|(target, _)| target).collect();
    let mut found = Vec::new();
    for target in listed {
        if found.len() >= most {
            break;
        }
        let Some(item) = set(c, id)?.get(target).copied() else { continue };
        let events = c.readiness(target.description) & item.wanted();
        if events == 0 {
            set(c, id)?.settle(target);
        } else {
            set(c, id)?.told(target);
            found.push((u32::from(events), item.data));
        }
    }
    Ok(found)
}

//! POSIX message queues.
use super::{Arguments, clock, shared::who, transfer::flags};
use crate::{
    context::{Context, Result, wait_for},
    event::epoll::bits,
    files::{Descriptor, Kind, OnExec},
    ipc::queue::{
        COST, Cookie, HARD_MESSAGES, HARD_SIZE, MAX_QUEUES, MAX_TOTAL, MESSAGES, Message, Notify, PRIORITIES, Queue,
        QueueId, SIZE,
    },
    process::Ids,
    program::Program,
    resident::{Key, Resident},
    signal::{Info, Signal},
};
use alloc::vec::Vec;
use shimos_abi::{errno::Errno, ids::Pid, time::Nanos};
use shimos_hal::Machine;

const RECEIVE: u64 = 243;

/// Reads a queue's name: one part of a path, without the slash that the library takes off.
fn read_name<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<Vec<u8>> {
    let name = c.read_path(addr)?;
    match name.as_slice() {
        [] => Err(Errno::ENOENT.into()),
        name if name.contains(&b'/') => Err(Errno::EACCES.into()),
        name if name.len() > 255 => Err(Errno::ENAMETOOLONG.into()),
        b"." | b".." => Err(Errno::EACCES.into()),
        _ => Ok(name),
    }
}

fn by_name(program: &Program, name: &[u8]) -> Option<QueueId> {
    program.queues.iter().find(|(_, queue)| queue.name.as_deref() == Some(name)).map(|(id, _)| *id)
}

/// Whether `who` may open a queue for what `wanted` (4 read, 2 write) says.
fn check(queue: &Queue, who: &Ids, wanted: u32) -> core::result::Result<(), Errno> {
    let granted = if who.euid == queue.uid {
        queue.mode >> 6
    } else if who.egid == queue.gid || who.groups.contains(&queue.gid) {
        queue.mode >> 3
    } else {
        queue.mode
    };
    if wanted & !granted == 0 || who.euid == 0 { Ok(()) } else { Err(Errno::EACCES) }
}

/// Makes a queue with the sizes at `attributes`, or the usual ones.
fn make<M: Machine>(c: &mut Context<'_, M>, name: Vec<u8>, mode: u64, attributes: u64) -> Result<QueueId> {
    const LIMIT: usize = 12;
    let who = who(c)?;
    let (most, size) = if attributes == 0 {
        (MESSAGES, SIZE)
    } else {
        (c.read_u64(attributes.wrapping_add(8))?, c.read_u64(attributes.wrapping_add(16))?)
    };
    let (limit, limit_size) = if who.euid == 0 { (HARD_MESSAGES, HARD_SIZE) } else { (MESSAGES, SIZE) };
    if !(1..=limit).contains(&most) || !(1..=limit_size).contains(&size) {
        return Err(Errno::EINVAL.into());
    }
    if c.resident.program.queues.len() >= MAX_QUEUES {
        return Err(Errno::ENOSPC.into());
    }
    let charged: u64 = c
        .resident
        .program
        .queues
        .values()
        .filter(|queue| queue.uid == who.euid)
        .map(|queue| Queue::charge(queue.most, queue.size))
        .fold(0, u64::saturating_add);
    let process = c.process()?;
    let allowed = process.limits.get(LIMIT).map_or(u64::MAX, |limit| limit.0);
    if charged.saturating_add(Queue::charge(most, size)) > allowed {
        return Err(Errno::EMFILE.into());
    }
    let mode = mode as u32 & 0o777 & !c.whereabouts()?.umask;
    let made = c.services.machine.wall_clock() as i64;
    let program = &mut c.resident.program;
    let id = QueueId(program.fresh_id());
    let queue = Queue {
        name: Some(name),
        uid: who.euid,
        gid: who.egid,
        mode,
        most,
        size,
        messages: Default::default(),
        users: 0,
        notify: None,
        made,
    };
    program.queues.insert(id, queue);
    Ok(id)
}

pub fn mq_open<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const CREATE: u64 = 0o100;
    const EXCLUSIVE: u64 = 0o200;
    let [name, open, mode, attributes, ..] = a;
    let name = read_name(c, name)?;
    let access = open as u32 & flags::ACCESS_MODE;
    let wanted = match access {
        flags::READ_ONLY => 4,
        flags::WRITE_ONLY => 2,
        flags::READ_WRITE => 6,
        _ => return Err(Errno::EINVAL.into()),
    };
    let id = match by_name(&c.resident.program, &name) {
        Some(_) if open & CREATE != 0 && open & EXCLUSIVE != 0 => return Err(Errno::EEXIST.into()),
        Some(id) => {
            let who = who(c)?;
            check(c.resident.program.queues.get(&id).ok_or(Errno::ENOENT)?, &who, wanted)?;
            id
        }
        None if open & CREATE == 0 => return Err(Errno::ENOENT.into()),
        None => make(c, name, mode, attributes)?,
    };
    if let Some(queue) = c.resident.program.queues.get_mut(&id) {
        queue.users = queue.users.saturating_add(1);
    }
    let kept = access | open as u32 & flags::NONBLOCK;
    let description = c.resident.program.add_description(Kind::Queue(id), kept);
    c.install(Descriptor { description, on_exec: OnExec::Close })
}

pub fn mq_unlink<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let name = read_name(c, a[0])?;
    let who = who(c)?;
    let id = by_name(&c.resident.program, &name).ok_or(Errno::ENOENT)?;
    let queue = c.resident.program.queues.get_mut(&id).ok_or(Errno::ENOENT)?;
    // The directory of the queues is sticky.
    if who.euid != 0 && who.euid != queue.uid {
        return Err(Errno::EACCES.into());
    }
    queue.name = None;
    forget_unused(&mut c.resident.program, id);
    Ok(0)
}

fn forget_unused(program: &mut Program, id: QueueId) {
    if program.queues.get(&id).is_some_and(|queue| queue.name.is_none() && queue.users == 0) {
        program.queues.remove(&id);
    }
}

/// A description of a queue is gone.
pub fn closed(program: &mut Program, id: QueueId) {
    if let Some(queue) = program.queues.get_mut(&id) {
        queue.users = queue.users.saturating_sub(1);
    }
    forget_unused(program, id);
}

/// A process has closed a descriptor of a queue, or ended (`None`: of any): it is told of messages no more.
pub fn tell_no_more<M: Machine>(resident: &mut Resident<M>, id: Option<QueueId>, process: Pid) {
    let mut cookies = Vec::new();
    for (queue_id, queue) in &mut resident.program.queues {
        let meant = id.is_none_or(|id| id == *queue_id);
        if meant && queue.notify.is_some_and(|notify| notify.process == process) {
            cookies.extend(queue.notify.take().and_then(|notify| notify.cookie));
        }
    }
    for cookie in cookies {
        send_cookie(resident, cookie, Cookie::REMOVED);
    }
}

/// Tells the thread that reads a cookie's socket why; if that was closed, nobody wants to hear it.
fn send_cookie<M: Machine>(resident: &mut Resident<M>, cookie: Cookie, reason: u8) {
    let Some(socket) = resident.program.netlink.get_mut(&cookie.socket) else { return };
    let mut message = cookie.bytes.to_vec();
    if let Some(last) = message.last_mut() {
        *last = reason;
    }
    socket.push(alloc::vec![message]);
    resident.wake(Key::Netlink(cookie.socket));
}

/// The queue behind a descriptor that is open for what `access` says, and the open flags.
fn behind<M: Machine>(c: &mut Context<'_, M>, fd: u64, refused: Option<u32>) -> Result<(QueueId, u32)> {
    let description = c.description(fd)?;
    let Kind::Queue(id) = description.kind else { return Err(Errno::EBADF.into()) };
    let flags = description.flags;
    if refused == Some(flags & flags::ACCESS_MODE) {
        return Err(Errno::EBADF.into());
    }
    Ok((id, flags))
}

/// Waits until something of the queue changes, or until the time at `timeout` of the wall clock.
fn wait<M: Machine>(c: &mut Context<'_, M>, id: QueueId, open: u32, timeout: Option<Nanos>) -> Result<u64> {
    if open & flags::NONBLOCK != 0 {
        return Err(Errno::EAGAIN.into());
    }
    if let Some(timeout) = timeout {
        let wall = Nanos(c.services.machine.wall_clock());
        let deadline = c.deadline_in(timeout - wall)?;
        if c.now() >= deadline {
            return Err(Errno::ETIMEDOUT.into());
        }
    }
    wait_for(Key::Queue(id))
}

fn read_timeout<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<Option<Nanos>> {
    if addr == 0 { Ok(None) } else { clock::read_timespec(c, addr).map(Some) }
}

pub fn mq_timedsend<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [fd, addr, len, priority, timeout, _] = a;
    if priority as u32 as u64 >= PRIORITIES {
        return Err(Errno::EINVAL.into());
    }
    let timeout = read_timeout(c, timeout)?;
    let (id, open) = behind(c, fd, Some(flags::READ_ONLY))?;
    let program = &c.resident.program;
    let queue = program.queues.get(&id).ok_or(Errno::EBADF)?;
    if len > queue.size {
        return Err(Errno::EMSGSIZE.into());
    }
    if queue.is_full() {
        return wait(c, id, open, timeout);
    }
    let cost = |queue: &Queue| queue.bytes() + queue.messages.len() as u64 * COST;
    if program.queues.values().map(cost).sum::<u64>() + len + COST > MAX_TOTAL {
        return Err(Errno::ENOMEM.into());
    }
    let mut bytes = alloc::vec![0; len as usize];
    c.read_into(addr, &mut bytes)?;
    let awaited = c.resident.is_awaited(Key::Queue(id), RECEIVE);
    let queue = c.resident.program.queues.get_mut(&id).ok_or(Errno::EBADF)?;
    let was_empty = queue.messages.is_empty();
    queue.push(Message { priority: priority as u32, bytes });
    if was_empty
        && !awaited
        && let Some(notify) = queue.notify.take()
    {
        tell(c, notify)?;
    }
    c.resident.wake_as(Key::Queue(id), bits::READ);
    Ok(0)
}

/// Sends the signal of mq_notify(3).
fn tell<M: Machine>(c: &mut Context<'_, M>, notify: Notify) -> Result<()> {
    const SI_MESGQ: i32 = -3;
    if let Some(cookie) = notify.cookie {
        send_cookie(c.resident, cookie, Cookie::CAME);
    }
    let Some(signal) = notify.signal.and_then(|number| Signal::new(number.into())) else { return Ok(()) };
    let uid = c.process()?.credentials.uid;
    let info = Info { code: SI_MESGQ, pid: c.pid.0, uid, value: notify.value, ..Info::default() };
    crate::delivery::send_to_process(c.resident, notify.process, signal, info);
    Ok(())
}

pub fn mq_timedreceive<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [fd, addr, len, priority, timeout, _] = a;
    let timeout = read_timeout(c, timeout)?;
    let (id, open) = behind(c, fd, Some(flags::WRITE_ONLY))?;
    let queue = c.resident.program.queues.get(&id).ok_or(Errno::EBADF)?;
    if len < queue.size {
        return Err(Errno::EMSGSIZE.into());
    }
    let Some(message) = queue.messages.front().cloned() else { return wait(c, id, open, timeout) };
    c.write_bytes(addr, &message.bytes)?;
    if priority != 0 {
        c.write_u32(priority, message.priority)?;
    }
    let mut events = 0;
    if let Some(queue) = c.resident.program.queues.get_mut(&id) {
        events = if queue.is_full() { bits::WRITE } else { 0 };
        queue.messages.pop_front();
    }
    c.resident.wake_as(Key::Queue(id), events);
    Ok(message.bytes.len() as u64)
}

pub fn mq_notify<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const BY_SIGNAL: u32 = 0;
    const BY_NONE: u32 = 1;
    const BY_THREAD: u32 = 2;
    let mut cookie = None;
    let wish = if a[1] == 0 {
        None
    } else {
        let (value, signal, method) =
            (c.read_u64(a[1])?, c.read_u32(a[1].wrapping_add(8))?, c.read_u32(a[1].wrapping_add(12))?);
        let signal = match method {
            BY_SIGNAL => Some(Signal::new(signal.into()).ok_or(Errno::EINVAL)?.number()),
            BY_NONE => None,
            BY_THREAD => {
                let mut bytes = [0; Cookie::SIZE];
                c.read_into(value, &mut bytes)?;
                let kind = c.description(u64::from(signal))?.kind.clone();
                let Kind::Netlink(socket) = kind else {
                    let other = matches!(kind, Kind::Socket(_) | Kind::Unix(_));
                    return Err(if other { Errno::EINVAL } else { Errno::ENOTSOCK }.into());
                };
                cookie = Some(Cookie { socket, bytes });
                None
            }
            _ => return Err(Errno::EINVAL.into()),
        };
        Some(Notify { process: c.pid, signal, value, cookie })
    };
    let (id, _) = behind(c, a[0], None)?;
    let pid = c.pid;
    let queue = c.resident.program.queues.get_mut(&id).ok_or(Errno::EBADF)?;
    match wish {
        Some(_) if queue.notify.is_some() => return Err(Errno::EBUSY.into()),
        Some(wish) => queue.notify = Some(wish),
        None => tell_no_more(c.resident, Some(id), pid),
    }
    Ok(0)
}

pub fn mq_getsetattr<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [fd, new, old, ..] = a;
    let wish = if new == 0 { None } else { Some(c.read_u64(new)?) };
    if wish.is_some_and(|wish| wish & !u64::from(flags::NONBLOCK) != 0) {
        return Err(Errno::EINVAL.into());
    }
    let (id, open) = behind(c, fd, None)?;
    let queue = c.resident.program.queues.get(&id).ok_or(Errno::EBADF)?;
    let fields = [u64::from(open & flags::NONBLOCK), queue.most, queue.size, queue.messages.len() as u64, 0, 0, 0, 0];
    if old != 0 {
        c.write_bytes(old, &super::shared::words(fields))?;
    }
    if let Some(wish) = wish {
        let description = c.description(fd)?;
        description.flags = description.flags & !flags::NONBLOCK | wish as u32;
    }
    Ok(0)
}

/// What read(2) of a queue's descriptor shows.
pub fn status<M: Machine>(resident: &Resident<M>, id: QueueId) -> Vec<u8> {
    let Some(queue) = resident.program.queues.get(&id) else { return Vec::new() };
    let notify = queue.notify.map_or((0, 0, 0), |notify| {
        let method = match (notify.signal, notify.cookie) {
            (Some(_), _) => 0,
            (None, None) => 1,
            (None, Some(_)) => 2,
        };
        (method, notify.signal.unwrap_or(0), notify.process.0)
    });
    alloc::format!(
        "QSIZE:{:<10} NOTIFY:{:<5} SIGNO:{:<5} NOTIFY_PID:{:<6}\n",
        queue.bytes(),
        notify.0,
        notify.1,
        notify.2
    )
    .into_bytes()
}

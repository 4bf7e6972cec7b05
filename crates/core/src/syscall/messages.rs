//! System V message queues.
use super::{
    Arguments,
    shared::{read_wishes, seconds, who, words},
};
use crate::{
    context::{Context, Result, wait_for},
    ipc::{
        self, Entry, Permissions,
        messages::{COST, MAX_BYTES, MAX_QUEUES, MAX_SIZE, MAX_TOTAL, Message, MessageQueue, Which},
    },
    program::Program,
    resident::Key,
};
use alloc::vec::Vec;
use shimos_abi::errno::Errno;
use shimos_hal::Machine;

const RMID: u64 = 0;
const SET: u64 = 1;
const STAT: u64 = 2;
const INFO: u64 = 3;
const STAT_AT: u64 = 11;
const USAGE: u64 = 12;
const STAT_ANY: u64 = 13;

/// What the note of a call that waits is: from then on a queue that is gone was removed.
const WAITED: u64 = 1 << 32;

pub fn msgget<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (key, flags) = (a[0] as i32, a[1] as u32 as u64);
    let who = who(c)?;
    let now = seconds(c);
    let queues = &mut c.resident.program.ipc.messages;
    if let Some(id) = ipc::find(queues, key, flags, &who, |_| Ok(()))? {
        return Ok(id as u64);
    }
    let queue = MessageQueue { limit: MAX_BYTES, ..MessageQueue::default() };
    // Each costs the kernel memory of its own.
    let most = MAX_QUEUES.min((MAX_TOTAL / 1024) as usize);
    Ok(queues.add(Permissions::new(key, &who, flags), queue, now, most)? as u64)
}

/// What all messages of a program cost.
fn total(program: &Program) -> u64 {
    let cost = |queue: &MessageQueue| queue.bytes() + queue.messages.len() as u64 * COST;
    program.ipc.messages.iter().map(|(_, entry)| cost(&entry.value)).sum()
}

/// The error for a queue that is not there: removed while the call waited, or never there.
fn gone<M: Machine>(c: &mut Context<'_, M>) -> Result<Errno> {
    Ok(if c.moved()? == WAITED { Errno::EIDRM } else { Errno::EINVAL })
}

pub fn msgsnd<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (id, addr, len, flags) = (a[0] as i32, a[1], a[2], a[3] as u32 as u64);
    let kind = c.read_u64(addr)? as i64;
    if id < 0 || len > MAX_SIZE || kind < 1 {
        return Err(Errno::EINVAL.into());
    }
    let bytes = c.read_bytes(addr.wrapping_add(8), len as usize)?;
    let who = who(c)?;
    let (pid, now) = (c.pid, seconds(c));
    let gone = gone(c)?;
    let used = total(&c.resident.program);
    let entry = c.resident.program.ipc.messages.get_mut(id).ok_or(gone)?;
    entry.permissions.check(&who, ipc::WRITE)?;
    let queue = &mut entry.value;
    if !queue.has_room(bytes.len()) {
        if flags & ipc::NO_WAIT != 0 {
            return Err(Errno::EAGAIN.into());
        }
        c.set_moved(WAITED)?;
        return wait_for(Key::Messages(id));
    }
    if used + len + COST > MAX_TOTAL {
        return Err(Errno::ENOMEM.into());
    }
    queue.messages.push_back(Message { kind, bytes });
    (queue.sent, queue.sender) = (now, Some(pid));
    c.wake(Key::Messages(id));
    Ok(0)
}

pub fn msgrcv<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const NO_ERROR: u64 = 0o10000;
    const EXCEPT: u64 = 0o20000;
    const COPY: u64 = 0o40000;
    let (id, addr, len, kind, flags) = (a[0] as i32, a[1], a[2], a[3] as i64, a[4] as u32 as u64);
    if id < 0 || (len as i64) < 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags & COPY != 0 && (flags & EXCEPT != 0 || flags & ipc::NO_WAIT == 0) {
        return Err(Errno::EINVAL.into());
    }
    let which = match kind {
        place if flags & COPY != 0 => Which::At(place),
        0 => Which::First,
        kind if kind < 0 => Which::UpTo(kind.checked_neg().unwrap_or(i64::MAX)),
        kind if flags & EXCEPT != 0 => Which::Not(kind),
        kind => Which::Of(kind),
    };
    let who = who(c)?;
    let gone = gone(c)?;
    let entry = c.resident.program.ipc.messages.get(id).ok_or(gone)?;
    entry.permissions.check(&who, ipc::READ)?;
    let Some(place) = entry.value.find(which) else {
        if flags & ipc::NO_WAIT != 0 {
            return Err(Errno::ENOMSG.into());
        }
        c.set_moved(WAITED)?;
        return wait_for(Key::Messages(id));
    };
    let message = entry.value.messages.get(place).cloned().ok_or(Errno::ENOMSG)?;
    let length = message.bytes.len().min(len as usize);
    if length < message.bytes.len() && flags & NO_ERROR == 0 {
        return Err(Errno::E2BIG.into());
    }
    let mut bytes = message.kind.to_le_bytes().to_vec();
    bytes.extend_from_slice(message.bytes.get(..length).unwrap_or_default());
    c.write_bytes(addr, &bytes)?;
    if flags & COPY == 0 {
        let (pid, now) = (c.pid, seconds(c));
        if let Some(entry) = c.resident.program.ipc.messages.get_mut(id) {
            entry.value.messages.remove(place);
            (entry.value.received, entry.value.receiver) = (now, Some(pid));
        }
        c.wake(Key::Messages(id));
    }
    Ok(length as u64)
}

/// struct msqid64_ds.
fn describe(id: i32, entry: &Entry<MessageQueue>) -> Vec<u8> {
    let mut bytes = entry.permissions.bytes(id).to_vec();
    let queue = &entry.value;
    let pid = |pid: Option<shimos_abi::ids::Pid>| u64::from(pid.map_or(0, |pid| pid.0));
    bytes.extend(words([
        queue.sent as u64,
        queue.received as u64,
        entry.changed as u64,
        queue.bytes(),
        queue.messages.len() as u64,
        queue.limit,
        pid(queue.sender) | pid(queue.receiver) << 32,
        0,
        0,
    ]));
    bytes
}

pub fn msgctl<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (mut id, command, addr) = (a[0] as i32, a[1] as u32 as u64, a[2]);
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    match command {
        INFO | USAGE => return limits(c, command, addr),
        STAT_AT | STAT_ANY => id = c.resident.program.ipc.messages.at(id).ok_or(Errno::EINVAL)?,
        RMID | SET | STAT => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    let wishes = if command == SET {
        let (uid, gid, mode) = read_wishes(c, addr)?;
        Some((uid, gid, mode, c.read_u64(addr.wrapping_add(88))?))
    } else {
        None
    };
    let who = who(c)?;
    let now = seconds(c);
    let entry = c.resident.program.ipc.messages.get_mut(id).ok_or(Errno::EINVAL)?;
    match command {
        STAT | STAT_AT | STAT_ANY => {
            if command != STAT_ANY {
                entry.permissions.check(&who, ipc::READ)?;
            }
            let bytes = describe(id, entry);
            c.write_bytes(addr, &bytes)?;
            return Ok(if command == STAT { 0 } else { id as u64 });
        }
        SET => {
            entry.permissions.check_owner(&who)?;
            if let Some((uid, gid, mode, limit)) = wishes {
                if limit > MAX_BYTES && who.euid != 0 {
                    return Err(Errno::EPERM.into());
                }
                entry.value.limit = limit;
                entry.permissions.set(uid, gid, mode);
                entry.changed = now;
            }
        }
        _ => {
            entry.permissions.check_owner(&who)?;
            c.resident.program.ipc.messages.remove(id);
        }
    }
    c.wake(Key::Messages(id));
    Ok(0)
}

/// struct msginfo: the limits, or what is in use.
fn limits<M: Machine>(c: &mut Context<'_, M>, command: u64, addr: u64) -> Result<u64> {
    let queues = &c.resident.program.ipc.messages;
    let highest = queues.highest();
    let (pool, map, total) = if command == USAGE {
        let bytes: u64 = queues.iter().map(|(_, entry)| entry.value.bytes()).sum();
        let messages: usize = queues.iter().map(|(_, entry)| entry.value.messages.len()).sum();
        (queues.len() as u64, messages as u64, bytes)
    } else {
        (MAX_QUEUES as u64 * MAX_BYTES / 1024, MAX_BYTES, MAX_BYTES)
    };
    let fields = [pool, map, MAX_SIZE, MAX_BYTES, MAX_QUEUES as u64, 16, total, 0xffff];
    let bytes: Vec<u8> = fields.iter().flat_map(|field| (*field as u32).to_le_bytes()).collect();
    c.write_bytes(addr, &bytes)?;
    Ok(highest)
}

//! System V semaphores.
use super::{
    Arguments, clock,
    shared::{read_wishes, seconds, who},
};
use crate::{
    context::{Context, Result, wait_for},
    ipc::{
        self, Entry, Permissions,
        semaphores::{
            Changed, MAX_IN_ALL, MAX_IN_SET, MAX_OPERATIONS, MAX_SETS, MAX_VALUE, Operation, Outcome, SemaphoreSet,
            Waiting,
        },
    },
    resident::{Key, Resident},
};
use alloc::{vec, vec::Vec};
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_hal::Machine;

const RMID: u64 = 0;
const SET: u64 = 1;
const STAT: u64 = 2;
const INFO: u64 = 3;
const GET_PID: u64 = 11;
const GET_VALUE: u64 = 12;
const GET_ALL: u64 = 13;
const COUNT_GROW: u64 = 14;
const COUNT_ZERO: u64 = 15;
const SET_VALUE: u64 = 16;
const SET_ALL: u64 = 17;
const STAT_AT: u64 = 18;
const USAGE: u64 = 19;
const STAT_ANY: u64 = 20;

/// What the note of a semop call is when another has done its work: this bit, and below it the error, if it failed.
const SETTLED: u64 = 1 << 62;

/// Whether a note says that the call's work is done: no signal may end it otherwise then.
pub fn is_settled(note: u64) -> bool {
    note & SETTLED != 0
}

pub fn semget<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (key, count, flags) = (a[0] as i32, a[1] as i32, a[2] as u32 as u64);
    let count = u64::try_from(count).ok().filter(|count| *count <= MAX_IN_SET).ok_or(Errno::EINVAL)?;
    let who = who(c)?;
    let now = seconds(c);
    let sets = &mut c.resident.program.ipc.semaphores;
    let fits = |set: &SemaphoreSet| if count > set.semaphores.len() as u64 { Err(Errno::EINVAL) } else { Ok(()) };
    if let Some(id) = ipc::find(sets, key, flags, &who, fits)? {
        return Ok(id as u64);
    }
    if count == 0 {
        return Err(Errno::EINVAL.into());
    }
    let all: usize = sets.iter().map(|(_, entry)| entry.value.semaphores.len()).sum();
    if all + count as usize > MAX_IN_ALL {
        return Err(Errno::ENOSPC.into());
    }
    let set = SemaphoreSet::new(count as usize);
    Ok(sets.add(Permissions::new(key, &who, flags), set, now, MAX_SETS)? as u64)
}

pub fn semop<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    semtimedop(c, [a[0], a[1], a[2], 0, 0, 0])
}

pub fn semtimedop<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [id, addr, count, timeout, ..] = a;
    let (id, count) = (id as i32, count as u32 as u64);
    let note = c.moved()?;
    if is_settled(note) {
        return match note & 0xfff {
            0 => Ok(0),
            errno => Err(Errno(errno as u16).into()),
        };
    }
    if note != 0 {
        return wait_on(c, id, note);
    }
    if count == 0 || id < 0 {
        return Err(Errno::EINVAL.into());
    }
    if count > MAX_OPERATIONS {
        return Err(Errno::E2BIG.into());
    }
    let operations = read_operations(c, addr, count as usize)?;
    let timeout = if timeout == 0 { None } else { Some(clock::read_timespec(c, timeout)?) };
    let who = who(c)?;
    let (pid, tid, now) = (c.pid, c.tid, seconds(c));
    let alters = operations.iter().any(|operation| operation.change != 0);
    let entry = c.resident.program.ipc.semaphores.get(id).ok_or(Errno::EINVAL)?;
    if operations.iter().any(|operation| usize::from(operation.number) >= entry.value.semaphores.len()) {
        return Err(Errno::EFBIG.into());
    }
    entry.permissions.check(&who, if alters { ipc::WRITE } else { ipc::READ })?;
    let undoes = operations.iter().any(|operation| operation.flags & Operation::UNDO != 0);
    let undo = if undoes { Some(undo_list(c)?) } else { None };
    let set = &mut c.resident.program.ipc.semaphores.get_mut(id).ok_or(Errno::EINVAL)?.value;
    match set.operate(&operations, pid, undo) {
        Outcome::Failed(errno) => Err(errno.into()),
        Outcome::Done => {
            set.operated = now;
            if alters {
                advance(c.resident, id, now);
            }
            Ok(0)
        }
        Outcome::Stuck(stuck) => {
            let token = u64::from(c.resident.program.fresh_id()) | 1 << 32;
            let set = &mut c.resident.program.ipc.semaphores.get_mut(id).ok_or(Errno::EINVAL)?.value;
            set.wait(Waiting { tid, pid, token, operations, undo, stuck })?;
            c.set_moved(token)?;
            if let Some(timeout) = timeout {
                c.deadline_in(timeout)?;
            }
            wait_on(c, id, token)
        }
    }
}

/// Goes on waiting: the operations stand in the set under `token`.
fn wait_on<M: Machine>(c: &mut Context<'_, M>, id: i32, token: u64) -> Result<u64> {
    let (tid, now) = (c.tid, c.now());
    let over = c.thread()?.call.and_then(|call| call.deadline).is_some_and(|deadline| deadline <= now);
    let Some(entry) = c.resident.program.ipc.semaphores.get_mut(id) else { return Err(Errno::EIDRM.into()) };
    if over {
        entry.value.waiting.retain(|waiting| waiting.tid != tid || waiting.token != token);
        return Err(Errno::EAGAIN.into());
    }
    wait_for(Key::Semaphores(id))
}

fn read_operations<M: Machine>(c: &mut Context<'_, M>, addr: u64, count: usize) -> Result<Vec<Operation>> {
    let bytes = c.read_bytes(addr, count * 6)?;
    let half = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let one = |b: &[u8]| Operation { number: half(b, 0), change: half(b, 2) as i16, flags: half(b, 4) };
    Ok(bytes.chunks_exact(6).map(one).collect())
}

/// The caller's list of what is to be undone at its end.
fn undo_list<M: Machine>(c: &mut Context<'_, M>) -> Result<u32> {
    if let Some(list) = c.thread()?.undo {
        return Ok(list);
    }
    let list = c.resident.program.fresh_id();
    c.thread()?.undo = Some(list);
    Ok(list)
}

/// Gives the caller a list of its own (unshare(2)): what is left to undo of the old one is undone with its last user.
pub fn part_undo_list<M: Machine>(c: &mut Context<'_, M>) -> Result<()> {
    let (pid, now) = (c.pid, seconds(c));
    if let Some(list) = c.thread()?.undo.take() {
        end_list(c.resident, list, pid, now);
    }
    Ok(())
}

/// The list that a thread made with CLONE_SYSVSEM shares with its maker.
pub fn share_undo_list<M: Machine>(c: &mut Context<'_, M>) -> Result<Option<u32>> {
    undo_list(c).map(Some)
}

/// Calls that ended without their set knowing: by a signal, or with their thread.
fn forget_stale<M: Machine>(resident: &mut Resident<M>, id: i32) {
    let program = &mut resident.program;
    let Some(entry) = program.ipc.semaphores.get_mut(id) else { return };
    entry.value.waiting.retain(|waiting| {
        let call = program.threads.get(&waiting.tid).and_then(|thread| thread.call);
        call.is_some_and(|call| call.moved == waiting.token)
    });
}

/// Carries out what can be done now of the calls that wait on a set.
fn advance<M: Machine>(resident: &mut Resident<M>, id: i32, now: i64) {
    forget_stale(resident, id);
    let Some(entry) = resident.program.ipc.semaphores.get_mut(id) else { return };
    if entry.value.waiting.is_empty() {
        return;
    }
    let done = entry.value.advance();
    if done.iter().any(|(_, outcome)| outcome.is_ok()) {
        entry.value.operated = now;
    }
    for (waiting, outcome) in done {
        if let Some(call) = resident.program.threads.get_mut(&waiting.tid).and_then(|thread| thread.call.as_mut()) {
            call.moved = SETTLED | outcome.err().map_or(0, |errno| errno.0.into());
        }
        resident.rouse(waiting.tid);
    }
}

/// A thread has ended: what its operations left to undo is undone, if it was the last that shares the list.
pub fn end_list<M: Machine>(resident: &mut Resident<M>, list: u32, pid: Pid, now: i64) {
    if resident.program.threads.values().any(|thread| thread.undo == Some(list)) {
        return;
    }
    let mut changed = Vec::new();
    for (id, entry) in resident.program.ipc.semaphores.iter_mut() {
        if entry.value.end_list(list, pid) == Changed::Yes {
            entry.value.operated = now;
            changed.push(id);
        }
    }
    for id in changed {
        advance(resident, id, now);
    }
}

/// struct semid64_ds.
fn describe(id: i32, entry: &Entry<SemaphoreSet>) -> Vec<u8> {
    let mut bytes = entry.permissions.bytes(id).to_vec();
    let set = &entry.value;
    let words = [set.operated as u64, 0, entry.changed as u64, 0, set.semaphores.len() as u64, 0, 0];
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

pub fn semctl<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (mut id, number, command, argument) = (a[0] as i32, a[1] as i32, a[2] as u32 as u64, a[3]);
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    match command {
        INFO | USAGE => return limits(c, command, argument),
        STAT_AT | STAT_ANY => id = c.resident.program.ipc.semaphores.at(id).ok_or(Errno::EINVAL)?,
        RMID | SET | STAT | GET_PID..=SET_ALL => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    let wishes = if command == SET { Some(read_wishes(c, argument)?) } else { None };
    let who = who(c)?;
    let now = seconds(c);
    forget_stale(c.resident, id);
    let entry = c.resident.program.ipc.semaphores.get_mut(id).ok_or(Errno::EINVAL)?;
    match command {
        STAT | STAT_AT | STAT_ANY => {
            if command != STAT_ANY {
                entry.permissions.check(&who, ipc::READ)?;
            }
            let bytes = describe(id, entry);
            c.write_bytes(argument, &bytes)?;
            Ok(if command == STAT { 0 } else { id as u64 })
        }
        SET => {
            entry.permissions.check_owner(&who)?;
            if let Some((uid, gid, mode)) = wishes {
                entry.permissions.set(uid, gid, mode);
                entry.changed = now;
            }
            Ok(0)
        }
        RMID => {
            entry.permissions.check_owner(&who)?;
            c.resident.program.ipc.semaphores.remove(id);
            c.wake(Key::Semaphores(id));
            Ok(0)
        }
        SET_VALUE => {
            let value = argument as i32;
            if !(0..=MAX_VALUE).contains(&value) {
                return Err(Errno::ERANGE.into());
            }
            set_values(c, id, &who, number as i64, vec![value as u16])
        }
        GET_ALL => {
            entry.permissions.check(&who, ipc::READ)?;
            let bytes: Vec<u8> = entry.value.semaphores.iter().flat_map(|s| s.value.to_le_bytes()).collect();
            c.write_bytes(argument, &bytes)?;
            Ok(0)
        }
        SET_ALL => {
            entry.permissions.check(&who, ipc::WRITE)?;
            let count = entry.value.semaphores.len();
            let bytes = c.read_bytes(argument, count * 2)?;
            let values: Vec<u16> = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
            if values.iter().any(|value| i32::from(*value) > MAX_VALUE) {
                return Err(Errno::ERANGE.into());
            }
            set_values(c, id, &who, 0, values)
        }
        _ => {
            entry.permissions.check(&who, ipc::READ)?;
            let number = usize::try_from(number).map_err(|_| Errno::EINVAL)?;
            let semaphore = *entry.value.semaphores.get(number).ok_or(Errno::EINVAL)?;
            let (grow, zero) = entry.value.waiting_for(number as u16);
            Ok(match command {
                GET_PID => semaphore.last.into(),
                GET_VALUE => semaphore.value.into(),
                COUNT_GROW => grow,
                COUNT_ZERO => zero,
                _ => return Err(Errno::EINVAL.into()),
            })
        }
    }
}

/// Sets values from semaphore `first` on.
fn set_values<M: Machine>(
    c: &mut Context<'_, M>,
    id: i32,
    who: &crate::process::Ids,
    first: i64,
    values: Vec<u16>,
) -> Result<u64> {
    let (pid, now) = (c.pid, seconds(c));
    let entry = c.resident.program.ipc.semaphores.get_mut(id).ok_or(Errno::EINVAL)?;
    if first < 0 || first + values.len() as i64 > entry.value.semaphores.len() as i64 {
        return Err(Errno::EINVAL.into());
    }
    entry.permissions.check(who, ipc::WRITE)?;
    for (number, value) in (first as u16..).zip(values) {
        entry.value.set(number, value, pid);
    }
    entry.changed = now;
    advance(c.resident, id, now);
    Ok(0)
}

/// struct seminfo: the limits, or what is in use.
fn limits<M: Machine>(c: &mut Context<'_, M>, command: u64, addr: u64) -> Result<u64> {
    let sets = &c.resident.program.ipc.semaphores;
    let all: usize = sets.iter().map(|(_, entry)| entry.value.semaphores.len()).sum();
    let (used, maximum) = if command == USAGE { (sets.len(), all) } else { (20, MAX_VALUE as usize) };
    let operations = MAX_OPERATIONS as usize;
    let (in_all, in_set) = (MAX_IN_ALL, MAX_IN_SET as usize);
    let fields = [in_all, MAX_SETS, in_all, in_all, in_set, operations, operations, used, MAX_VALUE as usize, maximum];
    let highest = sets.highest();
    let bytes: Vec<u8> = fields.iter().flat_map(|field| (*field as u32).to_le_bytes()).collect();
    c.write_bytes(addr, &bytes)?;
    Ok(highest)
}

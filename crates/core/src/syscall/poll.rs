//! Waiting for descriptors: poll and select.
use super::{Arguments, clock};
use crate::{
    context::{Context, Result, Stop},
    files::{DescriptionId, Kind},
    resident::Key,
    signal::SigSet,
    unix::{QUEUE_LIMIT, UnixKind, UnixState},
};
use alloc::{vec, vec::Vec};
use shimos_abi::{errno::Errno, time::Nanos};
use shimos_hal::Machine;
use shimos_net::Readiness;

const IN: u16 = 1;
const PRI: u16 = 2;
const OUT: u16 = 4;
const ERR: u16 = 8;
const HUP: u16 = 16;
const NVAL: u16 = 32;
const RDNORM: u16 = 0x40;
const WRNORM: u16 = 0x100;
const RDHUP: u16 = 0x2000;

/// What a description is ready for (poll(2)), and what would change that.
pub fn readiness<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId) -> Result<(u16, Option<Key>)> {
    const ALWAYS: u16 = IN | OUT | RDNORM | WRNORM;
    let kind = c.description_by(id)?.kind.clone();
    Ok(match kind {
        Kind::PipeReader(pipe) => {
            let state = c.resident.program.pipes.get(&pipe).ok_or(Errno::EBADF)?;
            let data = if state.is_empty() { 0 } else { IN | RDNORM };
            (data | if state.writers == 0 { HUP } else { 0 }, Some(Key::Pipe(pipe)))
        }
        Kind::PipeWriter(pipe) => {
            let state = c.resident.program.pipes.get(&pipe).ok_or(Errno::EBADF)?;
            let room = if state.room() >= crate::pipe::ATOMIC { OUT | WRNORM } else { 0 };
            (room | if state.readers == 0 { ERR } else { 0 }, Some(Key::Pipe(pipe)))
        }
        Kind::PipeBoth(pipe) => {
            let state = c.resident.program.pipes.get(&pipe).ok_or(Errno::EBADF)?;
            let data = if state.is_empty() { 0 } else { IN | RDNORM };
            let room = if state.room() >= crate::pipe::ATOMIC { OUT | WRNORM } else { 0 };
            (data | room, Some(Key::Pipe(pipe)))
        }
        Kind::Console(_) => {
            let typed = if c.resident.program.terminal.input.0.is_empty() { 0 } else { IN | RDNORM };
            (typed | OUT | WRNORM, Some(Key::Terminal))
        }
        Kind::Shimos(_, conversation) => {
            let answer = if conversation.answer.is_empty() { 0 } else { IN | RDNORM };
            (answer | OUT | WRNORM, conversation.pending.map(Key::Control))
        }
        Kind::Socket(socket) => {
            let ready = c.resident.program.net.readiness(socket);
            let mut events = 0;
            for (flag, bits) in [
                (Readiness::READABLE, IN | RDNORM),
                (Readiness::WRITABLE, OUT | WRNORM),
                (Readiness::HANGUP, HUP),
                (Readiness::READ_CLOSED, RDHUP | IN | RDNORM),
                (Readiness::ERROR, ERR),
            ] {
                if ready.contains(flag) {
                    events |= bits;
                }
            }
            (events, Some(Key::Socket(socket)))
        }
        Kind::Unix(id) => (unix_readiness(c, id)?, Some(Key::Unix(id))),
        Kind::Queue(id) => {
            let queue = c.resident.program.queues.get(&id).ok_or(Errno::EBADF)?;
            let data = if queue.messages.is_empty() { 0 } else { IN | RDNORM };
            (data | if queue.is_full() { 0 } else { OUT | WRNORM }, Some(Key::Queue(id)))
        }
        _ => (ALWAYS, None),
    })
}

fn unix_readiness<M: Machine>(c: &Context<'_, M>, id: crate::files::UnixId) -> Result<u16> {
    let sockets = &c.resident.program.unix;
    let socket = sockets.get(&id).ok_or(Errno::EBADF)?;
    let mut events = 0;
    if !socket.queue.is_empty() || socket.read_closed.is_some() {
        events |= IN | RDNORM;
    }
    if socket.read_closed.is_some() {
        events |= RDHUP;
    }
    match &socket.state {
        UnixState::Listening(waiting, _) if !waiting.is_empty() => events |= IN | RDNORM,
        UnixState::Connected(peer) => {
            if sockets.get(peer).is_some_and(|peer| peer.queued() < QUEUE_LIMIT / 2) {
                events |= OUT | WRNORM;
            }
        }
        UnixState::Orphaned if socket.kind == UnixKind::Datagram => events |= OUT | WRNORM,
        UnixState::Orphaned => events |= IN | OUT | HUP | RDHUP,
        UnixState::Idle => events |= OUT | WRNORM,
        UnixState::Listening(..) => {}
    }
    Ok(events)
}

/// One descriptor that a caller asks about.
#[derive(Clone, Copy)]
struct Question {
    fd: u64,
    wanted: u16,
}

/// Answers the questions, or blocks until one has an answer or the timeout is over.
fn ask<M: Machine>(c: &mut Context<'_, M>, questions: &[Question], timeout: Option<Nanos>) -> Result<Vec<u16>> {
    let mut answers = Vec::with_capacity(questions.len());
    let mut keys = vec![Key::Signal];
    let mut any = 0_u16;
    for question in questions {
        let answer = match c.descriptor(question.fd) {
            Ok(descriptor) => {
                let (ready, key) = readiness(c, descriptor.description)?;
                keys.extend(key);
                ready & (question.wanted | ERR | HUP)
            }
            Err(Stop::Errno(_)) => NVAL,
            Err(stop) => return Err(stop),
        };
        any |= answer;
        answers.push(answer);
    }
    if any != 0 || timeout == Some(Nanos(0)) {
        return Ok(answers);
    }
    if let Some(timeout) = timeout {
        let deadline = c.deadline_in(timeout)?;
        if c.now >= deadline {
            return Ok(answers);
        }
    }
    Err(Stop::Block(keys))
}

pub fn poll<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let timeout = if (a[2] as i32) < 0 { None } else { Some(Nanos::millis(a[2] as u32 as u64)) };
    poll_until(c, a[0], a[1], timeout)
}

fn poll_until<M: Machine>(c: &mut Context<'_, M>, addr: u64, count: u64, timeout: Option<Nanos>) -> Result<u64> {
    if count > c.process()?.limits.get(7).map_or(1024, |limit| limit.0) {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = c.read_bytes(addr, count as usize * 8)?;
    let mut places = Vec::new();
    let mut questions = Vec::new();
    for (index, entry) in bytes.chunks_exact(8).enumerate() {
        let fd = i32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
        if fd >= 0 {
            places.push(index);
            questions.push(Question { fd: fd as u64, wanted: u16::from_le_bytes([entry[4], entry[5]]) });
        }
    }
    let answers = ask(c, &questions, timeout)?;
    for entry in bytes.chunks_exact_mut(8) {
        entry[6..8].copy_from_slice(&[0, 0]);
    }
    let mut ready = 0;
    for (index, answer) in places.into_iter().zip(answers) {
        if answer != 0 {
            ready += 1;
            bytes[index * 8 + 6..index * 8 + 8].copy_from_slice(&answer.to_le_bytes());
        }
    }
    c.write_bytes(addr, &bytes)?;
    Ok(ready)
}

/// Sets the mask of ppoll and pselect for the time of the call; the old one comes back when it ends.
fn lend_mask<M: Machine>(c: &mut Context<'_, M>, addr: u64, size: u64) -> Result<()> {
    if addr == 0 {
        return Ok(());
    }
    if size != 8 {
        return Err(Errno::EINVAL.into());
    }
    let mask = SigSet(c.read_u64(addr)?).as_mask();
    let thread = c.thread()?;
    if thread.saved_mask.is_none() {
        thread.saved_mask = Some(thread.mask);
    }
    thread.mask = mask;
    Ok(())
}

pub fn ppoll<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let timeout = if a[2] == 0 { None } else { Some(clock::read_timespec(c, a[2])?) };
    lend_mask(c, a[3], a[4])?;
    poll_until(c, a[0], a[1], timeout)
}

pub fn select<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let timeout = if a[4] == 0 { None } else { Some(clock::read_timeval(c, a[4])?) };
    select_until(c, a, timeout)
}

pub fn pselect6<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let timeout = if a[4] == 0 { None } else { Some(clock::read_timespec(c, a[4])?) };
    if a[5] != 0 {
        let (mask, size) = (c.read_u64(a[5])?, c.read_u64(a[5].wrapping_add(8))?);
        lend_mask(c, mask, size)?;
    }
    select_until(c, a, timeout)
}

fn select_until<M: Machine>(c: &mut Context<'_, M>, a: Arguments, timeout: Option<Nanos>) -> Result<u64> {
    let count = a[0] as i32;
    if count < 0 {
        return Err(Errno::EINVAL.into());
    }
    let count = (count as usize).min(1024);
    let bytes = count.div_ceil(64) * 8;
    let sets = [(a[1], IN | RDNORM | HUP | ERR), (a[2], OUT | WRNORM | ERR), (a[3], PRI)];
    let mut asked: Vec<(usize, u64, u16)> = Vec::new();
    for (which, (addr, wanted)) in sets.iter().enumerate() {
        if *addr == 0 {
            continue;
        }
        let set = c.read_bytes(*addr, bytes)?;
        for fd in 0..count {
            if set[fd / 8] >> (fd % 8) & 1 == 1 {
                c.descriptor(fd as u64)?;
                asked.push((which, fd as u64, *wanted));
            }
        }
    }
    let questions: Vec<Question> = asked.iter().map(|(_, fd, wanted)| Question { fd: *fd, wanted: *wanted }).collect();
    // HUP and ERR come unasked; they count only for the sets that take them.
    let answers = ask(c, &questions, timeout)?;
    let mut results = [vec![0_u8; bytes], vec![0; bytes], vec![0; bytes]];
    let mut ready = 0;
    for ((which, fd, wanted), answer) in asked.into_iter().zip(answers) {
        if answer & wanted != 0 {
            ready += 1;
            results[which][fd as usize / 8] |= 1 << (fd % 8);
        }
    }
    for ((addr, _), result) in sets.iter().zip(&results) {
        if *addr != 0 {
            c.write_bytes(*addr, result)?;
        }
    }
    Ok(ready)
}

//! Waiting for descriptors: poll and select.
use super::{Arguments, clock};
use crate::{
    context::{Context, Result, Stop},
    event::epoll::bits::{ERR, HUP, NVAL, PRI, READ, WRITE},
    files::Kind,
    resident::Key,
    signal::SigSet,
};
use alloc::{vec, vec::Vec};
use shimos_abi::{errno::Errno, time::Nanos};
use shimos_hal::Machine;

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
    c.take_network();
    for question in questions {
        let answer = match c.descriptor(question.fd) {
            Ok(descriptor) => {
                let kind = &c.description_by(descriptor.description)?.kind;
                if let Kind::Path(_) = kind {
                    NVAL
                } else {
                    keys.extend(kind.key());
                    c.readiness(descriptor.description) & (question.wanted | ERR | HUP)
                }
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
        if c.now() >= deadline {
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
    if count > c.process()?.limit(crate::process::limit::NOFILE) {
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
pub fn lend_mask<M: Machine>(c: &mut Context<'_, M>, addr: u64, size: u64) -> Result<()> {
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
    let sets = [(a[1], READ | HUP | ERR), (a[2], WRITE | ERR), (a[3], PRI)];
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

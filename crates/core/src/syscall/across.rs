//! Memory of other processes: process_vm_readv(2), process_vm_writev(2).
use super::Arguments;
use crate::{
    context::{Context, Result, Stop},
    process::By,
};
use alloc::vec::Vec;
use shimos_abi::{addr::UserAddr, errno::Errno, ids::Pid};
use shimos_hal::Machine;
use shimos_memory::MemoryFault;

/// Vectors of one call, at most (`UIO_MAXIOV`).
const VECTORS: u64 = 1024;
/// Bytes that are copied at a time.
const PIECE: usize = 64 << 10;
/// Bytes that one call copies, at most: it may copy less than it was asked for.
const MOST: u64 = 1 << 20;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Here,
    There,
}

/// Bytes at an address.
#[derive(Clone, Copy)]
struct Span {
    addr: u64,
    len: u64,
}

fn read_spans<M: Machine>(c: &mut Context<'_, M>, addr: u64, count: u64) -> Result<Vec<Span>> {
    if count > VECTORS {
        return Err(Errno::EINVAL.into());
    }
    let bytes = c.read_bytes(addr, count as usize * 16)?;
    let word = |b: &[u8], at: usize| b.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    let spans: Vec<Span> = bytes.chunks_exact(16).map(|b| Span { addr: word(b, 0), len: word(b, 8) }).collect();
    if spans.iter().any(|span| span.len > i64::MAX as u64) {
        return Err(Errno::EINVAL.into());
    }
    Ok(spans)
}

/// The first bytes that are left of some spans, and their number.
fn next(spans: &mut Vec<Span>) -> Option<Span> {
    while spans.first().is_some_and(|span| span.len == 0) {
        spans.remove(0);
    }
    spans.first().copied()
}

fn advance(spans: &mut [Span], by: u64) {
    if let Some(span) = spans.first_mut() {
        span.addr = span.addr.wrapping_add(by);
        span.len -= by.min(span.len);
    }
}

fn copy<M: Machine>(c: &mut Context<'_, M>, a: Arguments, way: Way) -> Result<u64> {
    let [pid, here, here_count, there, there_count, flags] = a;
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (mut here, mut there) = (read_spans(c, here, here_count)?, read_spans(c, there, there_count)?);
    if next(&mut here).is_none() || next(&mut there).is_none() {
        return Ok(0);
    }
    // A thread's id names its process as well.
    let pid = c.resident.program.threads.get(&Pid(pid as u32)).map(|thread| thread.process).ok_or(Errno::ESRCH)?;
    if !c.process()?.may_look_into(c.process_by(pid)?, By::Real) {
        return Err(Errno::EPERM.into());
    }
    let (own, other) = (c.process()?.space, c.process_by(pid)?.space);
    let mut done = 0;
    while let (Some(near), Some(far)) = (next(&mut here), next(&mut there)) {
        let count = near.len.min(far.len).min(PIECE as u64 - far.addr % 4096).min(MOST - done);
        if count == 0 {
            break;
        }
        let (from, to) = match way {
            Way::Here => ((other, far.addr), (own, near.addr)),
            Way::There => ((own, near.addr), (other, far.addr)),
        };
        let mut bytes = alloc::vec![0; count as usize];
        let read = c.services.memory(c.resident, from.0)?.read(UserAddr(from.1), &mut bytes);
        let outcome = read.and_then(|()| match c.services.memory(c.resident, to.0) {
            Ok(mut memory) => memory.write(UserAddr(to.1), &bytes),
            Err(_) => Err(MemoryFault::Bus),
        });
        match outcome {
            Ok(()) => {}
            Err(_) if done > 0 => break,
            Err(MemoryFault::OutOfMemory) => return Err(Errno::ENOMEM.into()),
            Err(fault) => return Err(Stop::from(fault)),
        }
        advance(&mut here, count);
        advance(&mut there, count);
        done += count;
    }
    Ok(done)
}

pub fn process_vm_readv<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    copy(c, a, Way::Here)
}

pub fn process_vm_writev<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    copy(c, a, Way::There)
}

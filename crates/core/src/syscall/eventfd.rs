//! Descriptors that count: eventfd.
use super::{
    Arguments,
    descriptors::on_exec,
    transfer::{Waiting, flags, wait_if},
};
use crate::{
    context::{Context, Result},
    event::{Counter, Event, EventId, Takes, epoll::bits},
    resident::Key,
};
use alloc::vec::Vec;
use shimos_abi::errno::Errno;
use shimos_hal::Machine;

const SEMAPHORE: u64 = 1;
const NONBLOCK: u64 = 0x800;
const CLOEXEC: u64 = 0x80000;

pub fn eventfd<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    eventfd2(c, [a[0], 0, 0, 0, 0, 0])
}

pub fn eventfd2<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let options = u64::from(a[1] as u32);
    if options & !(SEMAPHORE | NONBLOCK | CLOEXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let takes = if options & SEMAPHORE != 0 { Takes::One } else { Takes::All };
    let counter = Counter { value: u64::from(a[0] as u32), takes };
    let status = flags::READ_WRITE | (options & NONBLOCK) as u32;
    c.install_event(Event::Counter(counter), status, on_exec(options))
}

fn counter<'a, M: Machine>(c: &'a mut Context<'_, M>, id: EventId) -> Result<&'a mut Counter> {
    match c.resident.program.events.get_mut(&id) {
        Some(Event::Counter(counter)) => Ok(counter),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// Reads the counter.
pub fn read<M: Machine>(c: &mut Context<'_, M>, id: EventId, room: usize, waiting: Waiting) -> Result<Vec<u8>> {
    if room < 8 {
        return Err(Errno::EINVAL.into());
    }
    match counter(c, id)?.take() {
        Some(value) => {
            c.resident.wake_as(Key::Event(id), bits::OUT);
            Ok(value.to_le_bytes().to_vec())
        }
        None => wait_if(c, waiting, Key::Event(id)),
    }
}

/// Adds to the counter; `None` if it has to wait until that fits.
pub fn write<M: Machine>(c: &mut Context<'_, M>, id: EventId, bytes: &[u8]) -> Result<Option<usize>> {
    let amount = bytes.first_chunk().map(|word| u64::from_le_bytes(*word)).ok_or(Errno::EINVAL)?;
    if amount == u64::MAX {
        return Err(Errno::EINVAL.into());
    }
    if counter(c, id)?.add(amount).is_none() {
        return Ok(None);
    }
    c.resident.wake_as(Key::Event(id), bits::IN);
    Ok(Some(8))
}

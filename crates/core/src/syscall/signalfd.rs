//! Descriptors that signals are read from: signalfd.
use super::{
    Arguments,
    descriptors::on_exec,
    transfer::{Waiting, flags, wait_if},
};
use crate::{
    context::{Context, Result},
    event::{Event, EventClass, EventId, epoll::bits},
    resident::Key,
    signal::{Info, SigSet, Signal},
};
use alloc::vec::Vec;
use shimos_abi::errno::Errno;
use shimos_hal::Machine;

const NONBLOCK: u64 = 0x800;
const CLOEXEC: u64 = 0x80000;
/// Bytes of struct signalfd_siginfo.
const ENTRY: usize = 128;

pub fn signalfd<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    signalfd4(c, [a[0], a[1], a[2], 0, 0, 0])
}

pub fn signalfd4<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [fd, mask, size, options, ..] = a;
    let options = u64::from(options as u32);
    if size != 8 {
        return Err(Errno::EINVAL.into());
    }
    let set = SigSet(c.read_u64(mask)?).as_mask();
    if options & !(NONBLOCK | CLOEXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if fd as i32 == -1 {
        let status = flags::READ_WRITE | (options & NONBLOCK) as u32;
        return c.install_event(Event::Signals(set), status, on_exec(options));
    }
    let id = c.event_of(fd, EventClass::Signals, Errno::EINVAL)?;
    c.resident.program.events.insert(id, Event::Signals(set));
    c.resident.wake_as(Key::Signal, bits::IN);
    Ok(fd)
}

/// Reads as many signals as are pending and fit.
pub fn read<M: Machine>(c: &mut Context<'_, M>, id: EventId, room: usize, waiting: Waiting) -> Result<Vec<u8>> {
    if room < ENTRY {
        return Err(Errno::EINVAL.into());
    }
    let Some(Event::Signals(set)) = c.resident.program.events.get(&id) else { return Err(Errno::EINVAL.into()) };
    let set = *set;
    let mut bytes = Vec::new();
    while bytes.len() + ENTRY <= room {
        let Some((signal, info)) = c.take_signal(set)? else { break };
        bytes.extend_from_slice(&entry(signal, info));
    }
    if bytes.is_empty() { wait_if(c, waiting, Key::Signal) } else { Ok(bytes) }
}

/// struct signalfd_siginfo.
fn entry(signal: Signal, info: Info) -> [u8; ENTRY] {
    const TIMER: i32 = -2;
    let mut bytes = [0; ENTRY];
    let mut put = |at: usize, word: u32| bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    put(0, signal.number().into());
    put(8, info.code as u32);
    if info.code == TIMER {
        put(24, info.pid);
        put(32, info.uid);
    } else {
        put(12, info.pid);
        put(16, info.uid);
    }
    if signal == Signal::CHLD {
        put(40, info.value as u32);
    } else {
        put(44, info.value as u32);
        bytes[48..56].copy_from_slice(&info.value.to_le_bytes());
    }
    bytes
}

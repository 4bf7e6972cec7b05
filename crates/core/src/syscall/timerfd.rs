//! Descriptors that tell when a timer is due: timerfd.
use super::{
    Arguments, clock,
    descriptors::on_exec,
    transfer::{Waiting, flags, wait_if},
};
use crate::{
    context::{Context, Result},
    event::{
        Event, EventClass, EventId,
        timer::{Schedule, TimerFd},
    },
    resident::Key,
    timers::TimerRef,
};
use alloc::vec::Vec;
use shimos_abi::{errno::Errno, time::Nanos};
use shimos_hal::Machine;

const NONBLOCK: u64 = 0x800;
const CLOEXEC: u64 = 0x80000;
const ABSOLUTE: u64 = 1;
/// The wall clock is never set while a program runs, so nothing is ever cancelled.
const CANCEL_ON_SET: u64 = 2;

pub fn timerfd_create<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (clock, options) = (a[0] as u32, u64::from(a[1] as u32));
    if options & !(NONBLOCK | CLOEXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    match clock {
        clock::REALTIME | clock::MONOTONIC | clock::BOOTTIME => {}
        clock::REALTIME_ALARM | clock::BOOTTIME_ALARM if c.process()?.credentials.euid == 0 => {}
        clock::REALTIME_ALARM | clock::BOOTTIME_ALARM => return Err(Errno::EPERM.into()),
        _ => return Err(Errno::EINVAL.into()),
    }
    let timer = TimerFd { clock, schedule: None, ticks: 0 };
    let status = flags::READ_WRITE | (options & NONBLOCK) as u32;
    c.install_event(Event::Timer(timer), status, on_exec(options))
}

/// The timer, with what was due up to now counted.
fn timer<'a, M: Machine>(c: &'a mut Context<'_, M>, id: EventId) -> Result<&'a mut TimerFd> {
    let now = c.now();
    match c.resident.program.events.get_mut(&id) {
        Some(Event::Timer(timer)) => {
            timer.count(now);
            Ok(timer)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

/// The timer has changed: it goes off when it says.
fn arm<M: Machine>(c: &mut Context<'_, M>, id: EventId) {
    if let Some(Event::Timer(timer)) = c.resident.program.events.get(&id) {
        let at = timer.deadline();
        c.resident.timers.set(TimerRef::Descriptor(id), at);
    }
}

pub fn timerfd_settime<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [fd, options, new, old, ..] = a;
    let options = u64::from(options as u32);
    let (period, value) = (clock::read_timespec(c, new)?, clock::read_timespec(c, new.wrapping_add(16))?);
    if options & !(ABSOLUTE | CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let id = c.event_of(fd, EventClass::Timer, Errno::EINVAL)?;
    let now = c.now();
    let before = *timer(c, id)?;
    let at = match before.clock {
        clock::REALTIME | clock::REALTIME_ALARM if options & ABSOLUTE != 0 => now + (value - clock::wall(c)),
        _ if options & ABSOLUTE != 0 => value,
        _ => now + value,
    };
    *timer(c, id)? = TimerFd {
        schedule: (value != Nanos(0)).then_some(Schedule { at: at.min(Nanos(u64::MAX - 1)), period }),
        ticks: 0,
        ..before
    };
    arm(c, id);
    if old != 0 {
        let bytes = clock::timer_spec(before.schedule, now);
        c.write_bytes(old, &bytes)?;
    }
    Ok(0)
}

pub fn timerfd_gettime<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let id = c.event_of(a[0], EventClass::Timer, Errno::EINVAL)?;
    let now = c.now();
    let schedule = timer(c, id)?.schedule;
    let bytes = clock::timer_spec(schedule, now);
    c.write_bytes(a[1], &bytes)?;
    Ok(0)
}

/// Reads how often the timer was due.
pub fn read<M: Machine>(c: &mut Context<'_, M>, id: EventId, room: usize, waiting: Waiting) -> Result<Vec<u8>> {
    if room < 8 {
        return Err(Errno::EINVAL.into());
    }
    let ticks = core::mem::take(&mut timer(c, id)?.ticks);
    arm(c, id);
    if ticks == 0 { wait_if(c, waiting, Key::Event(id)) } else { Ok(ticks.to_le_bytes().to_vec()) }
}

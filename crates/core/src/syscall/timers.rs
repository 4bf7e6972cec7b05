//! Timers that send signals: alarm, setitimer, timer_create and its relatives.
use super::{Arguments, clock};
use crate::{
    context::{Context, Result},
    event::timer::{Clock, Schedule, Slot, Tells, Timer, TimerKey},
    signal::Signal,
    timers,
};
use alloc::vec::Vec;
use shimos_abi::{errno::Errno, ids::Pid, time::Nanos};
use shimos_hal::Machine;

const ABSOLUTE: u64 = 1;
/// Timers that a process may have: more than a program that works needs, few enough for the kernel.
const MAX_TIMERS: u64 = 4096;

/// Sets a timer, or stops it; returns what it was.
fn set<M: Machine>(c: &mut Context<'_, M>, key: TimerKey, timer: Timer) -> Option<Timer> {
    let old = c.resident.program.timers.insert(key, timer);
    c.resident.timers.arm(key, Some(&timer), Nanos(0));
    old
}

/// The interval timer of a `which` of setitimer(2).
fn interval_timer<M: Machine>(c: &Context<'_, M>, which: u64) -> Result<(TimerKey, Timer)> {
    let process = c.pid;
    let (slot, clock, signal) = match which as u32 {
        0 => (Slot::Real, Clock::Machine, Signal::ALRM),
        1 => (Slot::Virtual, Clock::User(process), Signal::VTALRM),
        2 => (Slot::Profile, Clock::Process(process), Signal::PROF),
        _ => return Err(Errno::EINVAL.into()),
    };
    let timer = Timer { clock, schedule: None, tells: Tells::Process(signal), value: 0, missed: 0, overrun: 0 };
    Ok((TimerKey { process, slot }, timer))
}

/// Period and time left of a timer; both 0 for one that is not set.
fn state<M: Machine>(c: &mut Context<'_, M>, key: TimerKey) -> (Nanos, Nanos) {
    c.count_use();
    let Some(timer) = c.resident.program.timers.get(&key) else { return (Nanos(0), Nanos(0)) };
    let Some(mut schedule) = timer.schedule else { return (Nanos(0), Nanos(0)) };
    let now = timers::read(&c.resident.program, timer.clock, c.now());
    // One that tells nobody is not counted by anybody else.
    schedule.pass(now);
    (schedule.period, schedule.left(now))
}

pub fn alarm<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (key, timer) = interval_timer(c, 0)?;
    let (_, left) = state(c, key);
    let seconds = a[0] as u32;
    let schedule = (seconds != 0).then(|| Schedule { at: c.now() + Nanos::secs(seconds.into()), period: Nanos(0) });
    set(c, key, Timer { schedule, ..timer });
    // To the nearest second, but never 0 for one that is still to come.
    let rounded = (left.0 + 500_000_000) / 1_000_000_000;
    Ok(if left == Nanos(0) { 0 } else { rounded.max(1) })
}

fn value_bytes((period, left): (Nanos, Nanos)) -> Vec<u8> {
    let left = if left == Nanos(0) { 0 } else { left.0.max(1000) };
    [clock::timeval(period.0), clock::timeval(left)].concat()
}

pub fn getitimer<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (key, _) = interval_timer(c, a[0])?;
    let bytes = value_bytes(state(c, key));
    c.write_bytes(a[1], &bytes)?;
    Ok(0)
}

pub fn setitimer<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (period, first) = if a[1] == 0 {
        (Nanos(0), Nanos(0))
    } else {
        (clock::read_timeval(c, a[1])?, clock::read_timeval(c, a[1].wrapping_add(16))?)
    };
    let (key, timer) = interval_timer(c, a[0])?;
    let old = value_bytes(state(c, key));
    let at = timers::read(&c.resident.program, timer.clock, c.now()) + first;
    set(c, key, Timer { schedule: (first != Nanos(0)).then_some(Schedule { at, period }), ..timer });
    if a[2] != 0 {
        c.write_bytes(a[2], &old)?;
    }
    Ok(0)
}

/// What struct sigevent asks for.
fn read_event<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<(Tells, u64)> {
    const NONE: u32 = 1;
    const THREAD: u32 = 2;
    const THREAD_ID: u32 = 4;
    let value = c.read_u64(addr)?;
    let (number, notify) = (c.read_u32(addr.wrapping_add(8))?, c.read_u32(addr.wrapping_add(12))?);
    let signal = || Signal::new(number.into()).ok_or(Errno::EINVAL);
    let tells = match notify {
        NONE => Tells::Nobody,
        0 | THREAD => Tells::Process(signal()?),
        THREAD_ID => {
            let tid = Pid(c.read_u32(addr.wrapping_add(16))?);
            if c.resident.program.threads.get(&tid).is_none_or(|thread| thread.process != c.pid) {
                return Err(Errno::EINVAL.into());
            }
            Tells::Thread(signal()?, tid)
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok((tells, value))
}

pub fn timer_create<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [clock, event, place, ..] = a;
    let number = clock as u32;
    let clock = clock::by_number(c, clock)?;
    let unfit = [
        clock::MONOTONIC_RAW,
        clock::REALTIME_COARSE,
        clock::MONOTONIC_COARSE,
        // There is no clock that could wake a machine.
        clock::REALTIME_ALARM,
        clock::BOOTTIME_ALARM,
    ];
    if unfit.contains(&number) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let process = c.pid;
    let own = TimerKey { process, slot: Slot::Posix(0) }..=TimerKey { process, slot: Slot::Posix(u32::MAX) };
    let (count, last) = {
        let mine = c.resident.program.timers.range(own);
        mine.fold((0, None), |(count, _), (key, _)| (count + 1, Some(key.slot)))
    };
    let limit = c.process()?.limits.get(11).map_or(MAX_TIMERS, |limit| limit.0);
    if count >= limit.min(MAX_TIMERS) {
        return Err(Errno::EAGAIN.into());
    }
    let id = match last {
        Some(Slot::Posix(last)) => last.checked_add(1).filter(|id| *id <= i32::MAX as u32).ok_or(Errno::EAGAIN)?,
        _ => 0,
    };
    let (tells, value) = if event == 0 { (Tells::Process(Signal::ALRM), id.into()) } else { read_event(c, event)? };
    c.write_u32(place, id)?;
    let timer = Timer { clock, schedule: None, tells, value, missed: 0, overrun: 0 };
    set(c, TimerKey { process, slot: Slot::Posix(id) }, timer);
    Ok(0)
}

/// The caller's timer of an id.
fn find<M: Machine>(c: &Context<'_, M>, id: u64) -> Result<(TimerKey, Timer)> {
    let key = TimerKey { process: c.pid, slot: Slot::Posix(id as u32) };
    let timer = c.resident.program.timers.get(&key).copied().ok_or(Errno::EINVAL)?;
    Ok((key, timer))
}

pub fn timer_settime<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [id, options, new, old, ..] = a;
    if new == 0 {
        return Err(Errno::EINVAL.into());
    }
    let (period, value) = (clock::read_timespec(c, new)?, clock::read_timespec(c, new.wrapping_add(16))?);
    let (key, timer) = find(c, id)?;
    let before = state(c, key);
    let now = timers::read(&c.resident.program, timer.clock, c.now());
    let at = match timer.clock {
        Clock::Wall if options & ABSOLUTE != 0 => now + (value - clock::wall(c)),
        _ if options & ABSOLUTE != 0 => value,
        _ => now + value,
    };
    let schedule = (value != Nanos(0)).then_some(Schedule { at: at.min(Nanos(u64::MAX - 1)), period });
    set(c, key, Timer { schedule, missed: 0, overrun: 0, ..timer });
    if old != 0 {
        c.write_bytes(old, &clock::span_bytes(before))?;
    }
    let now = c.now();
    timers::expire(c.resident, now);
    if timer.clock.counts_use() {
        timers::expire_used(c.resident, now);
    }
    Ok(0)
}

pub fn timer_gettime<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (key, _) = find(c, a[0])?;
    let state = state(c, key);
    c.write_bytes(a[1], &clock::span_bytes(state))?;
    Ok(0)
}

pub fn timer_getoverrun<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    Ok(find(c, a[0])?.1.overrun.into())
}

pub fn timer_delete<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (key, _) = find(c, a[0])?;
    c.resident.program.timers.remove(&key);
    c.resident.timers.arm(key, None, Nanos(0));
    Ok(0)
}

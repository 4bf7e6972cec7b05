//! Clocks, sleeping, interval timers.
use super::Arguments;
use crate::{
    context::{Context, Result, Stop},
    event::timer::Schedule,
    resident::Resident,
    services::Services,
};
use alloc::vec::Vec;
use shimos_abi::{addr::UserAddr, errno::Errno, ids::Pid, time::Nanos};
use shimos_hal::Machine;

/// The wall clock.
pub const REALTIME: u32 = 0;
/// Time since the machine started.
pub const MONOTONIC: u32 = 1;
/// Processor time of the process.
pub const PROCESS_CPUTIME: u32 = 2;
/// Processor time of the thread.
pub const THREAD_CPUTIME: u32 = 3;
/// Time since the machine started; it never sleeps.
pub const BOOTTIME: u32 = 7;
/// The wall clock; timers of it would wake a machine that sleeps.
pub const REALTIME_ALARM: u32 = 8;
/// The same for the time since the start.
pub const BOOTTIME_ALARM: u32 = 9;
const TIMER_ABSTIME: u64 = 1;

/// Reads a struct timespec; `EINVAL` where it is no time.
pub fn read_timespec<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<Nanos> {
    let (secs, nanos) = (c.read_u64(addr)?, c.read_u64(addr.wrapping_add(8))?);
    if secs as i64 <= -1 || nanos >= 1_000_000_000 {
        return Err(Errno::EINVAL.into());
    }
    Ok(Nanos::secs(secs) + Nanos(nanos))
}

/// Reads a struct timeval.
pub fn read_timeval<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<Nanos> {
    let (secs, micros) = (c.read_u64(addr)?, c.read_u64(addr.wrapping_add(8))?);
    if secs as i64 <= -1 || micros >= 1_000_000 {
        return Err(Errno::EINVAL.into());
    }
    Ok(Nanos::secs(secs) + Nanos::micros(micros))
}

/// Two 64-bit words: seconds and the rest.
pub fn pair(seconds: u64, rest: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seconds.to_le_bytes());
    bytes[8..].copy_from_slice(&rest.to_le_bytes());
    bytes
}

/// The wall clock now.
pub fn wall<M: Machine>(c: &Context<'_, M>) -> Nanos {
    Nanos(c.services.machine.wall_clock())
}

/// struct itimerspec of a timer: its period, and the time left.
pub fn timer_spec(schedule: Option<Schedule>, now: Nanos) -> Vec<u8> {
    let (period, left) = schedule.map_or((0, 0), |schedule| (schedule.period.0, schedule.left(now).0));
    [timespec(period), timespec(left)].concat()
}

fn timespec(nanos: u64) -> [u8; 16] {
    pair(nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// A timeval's bytes.
pub fn timeval(nanos: u64) -> [u8; 16] {
    pair(nanos / 1_000_000_000, nanos / 1_000 % 1_000_000)
}

fn read_clock<M: Machine>(c: &mut Context<'_, M>, clock: u64) -> Result<u64> {
    match clock as u32 {
        // CLOCK_REALTIME and its coarse and TAI forms.
        REALTIME | 5 | REALTIME_ALARM | 11 => Ok(c.services.machine.wall_clock()),
        // CLOCK_MONOTONIC, _RAW, _COARSE, CLOCK_BOOTTIME.
        MONOTONIC | 4 | 6 | BOOTTIME | BOOTTIME_ALARM => Ok(c.services.machine.now().0),
        PROCESS_CPUTIME => {
            let pid = c.pid;
            let ended = c.process()?.ended_used;
            Ok(c.resident.program.threads_of(pid).fold(ended, |sum, thread| sum + thread.used).0)
        }
        THREAD_CPUTIME => Ok(c.thread()?.used.0),
        _ => Err(Errno::EINVAL.into()),
    }
}

pub fn clock_gettime<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let nanos = read_clock(c, a[0])?;
    c.write_bytes(a[1], &timespec(nanos))?;
    Ok(0)
}

pub fn clock_getres<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    read_clock(c, a[0])?;
    if a[1] != 0 {
        c.write_bytes(a[1], &timespec(1))?;
    }
    Ok(0)
}

pub fn gettimeofday<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let nanos = c.services.machine.wall_clock();
    if a[0] != 0 {
        c.write_bytes(a[0], &timeval(nanos))?;
    }
    if a[1] != 0 {
        c.write_bytes(a[1], &[0; 8])?;
    }
    Ok(0)
}

pub fn time<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let seconds = c.services.machine.wall_clock() / 1_000_000_000;
    if a[0] != 0 {
        c.write_u64(a[0], seconds)?;
    }
    Ok(seconds)
}

/// Sleeps until a deadline that is already fixed in the thread's call.
fn sleep_until<M: Machine>(c: &Context<'_, M>, deadline: Nanos) -> Result<u64> {
    if c.now >= deadline { Ok(0) } else { Err(Stop::Block(Vec::new())) }
}

pub fn nanosleep<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let span = read_timespec(c, a[0])?;
    let deadline = c.deadline_in(span)?;
    sleep_until(c, deadline)
}

/// Writes the time that an interrupted sleep had left, where its caller asked for that.
pub fn note_time_left<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, tid: Pid) {
    let Some(thread) = resident.program.threads.get(&tid) else { return };
    let Some(deadline) = thread.call.and_then(|call| call.deadline) else { return };
    let addr = match thread.regs.rax {
        35 => thread.regs.rsi,
        230 if thread.regs.rsi & TIMER_ABSTIME == 0 => thread.regs.r10,
        _ => return,
    };
    let Some(space) = resident.program.processes.get(&thread.process).map(|process| process.space) else { return };
    if addr != 0 {
        let left = timespec((deadline - services.machine.now()).0);
        if let Ok(mut memory) = services.memory(resident, space) {
            // An address that is no good is the program's loss alone.
            let _ = memory.write(UserAddr(addr), &left);
        }
    }
}

pub fn clock_nanosleep<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let span = read_timespec(c, a[2])?;
    if a[0] as u32 == THREAD_CPUTIME {
        return Err(Errno::EINVAL.into());
    }
    let clock = read_clock(c, a[0])?;
    let deadline = if a[1] & TIMER_ABSTIME != 0 {
        let left = Nanos(span.0.saturating_sub(clock));
        c.deadline_in(left)?
    } else {
        c.deadline_in(span)?
    };
    sleep_until(c, deadline)
}

pub fn alarm<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let now = c.now;
    let process = c.process_mut()?;
    let left = process.alarm.map_or(0, |(at, _)| (at - now).0.div_ceil(1_000_000_000));
    let seconds = a[0] as u32;
    process.alarm = (seconds != 0).then(|| (now + Nanos::secs(seconds.into()), Nanos(0)));
    Ok(left)
}

fn timer_bytes(now: Nanos, alarm: Option<(Nanos, Nanos)>) -> Vec<u8> {
    let (left, period) = alarm.map_or((Nanos(0), Nanos(0)), |(at, period)| ((at - now).max(Nanos(1000)), period));
    [timeval(period.0), timeval(left.0)].concat()
}

pub fn getitimer<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[0] != 0 {
        return Err(Errno::EINVAL.into());
    }
    let bytes = timer_bytes(c.now, c.process()?.alarm);
    c.write_bytes(a[1], &bytes)?;
    Ok(0)
}

pub fn setitimer<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[0] != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (period, first) = if a[1] == 0 {
        (Nanos(0), Nanos(0))
    } else {
        (read_timeval(c, a[1])?, read_timeval(c, a[1].wrapping_add(16))?)
    };
    if a[2] != 0 {
        let bytes = timer_bytes(c.now, c.process()?.alarm);
        c.write_bytes(a[2], &bytes)?;
    }
    let at = c.now + first;
    c.process_mut()?.alarm = (first != Nanos(0)).then_some((at, period));
    Ok(0)
}

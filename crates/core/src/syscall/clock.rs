//! Clocks and sleeping.
use super::Arguments;
use crate::{
    context::{Context, Result, Stop},
    event::timer::{Clock, Schedule},
    resident::Resident,
    services::Services,
    timers,
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
/// Time since the machine started, never adjusted.
pub const MONOTONIC_RAW: u32 = 4;
/// The wall clock, read in a hurry.
pub const REALTIME_COARSE: u32 = 5;
/// Time since the machine started, read in a hurry.
pub const MONOTONIC_COARSE: u32 = 6;
/// Time since the machine started; it never sleeps.
pub const BOOTTIME: u32 = 7;
/// The wall clock; timers of it would wake a machine that sleeps.
pub const REALTIME_ALARM: u32 = 8;
/// The same for the time since the start.
pub const BOOTTIME_ALARM: u32 = 9;
const TAI: u32 = 11;
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

/// struct itimerspec: a period and the time left.
pub fn span_bytes((period, left): (Nanos, Nanos)) -> Vec<u8> {
    [timespec(period.0), timespec(left.0)].concat()
}

/// The same for a timer.
pub fn timer_spec(schedule: Option<Schedule>, now: Nanos) -> Vec<u8> {
    span_bytes(schedule.map(|schedule| (schedule.period, schedule.left(now))).unwrap_or_default())
}

fn timespec(nanos: u64) -> [u8; 16] {
    pair(nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// A timeval's bytes.
pub fn timeval(nanos: u64) -> [u8; 16] {
    pair(nanos / 1_000_000_000, nanos / 1_000 % 1_000_000)
}

/// The clock of a number; negative numbers are those of other processes and threads (clock_getcpuclockid(3)).
pub fn by_number<M: Machine>(c: &mut Context<'_, M>, number: u64) -> Result<Clock> {
    const OF_DESCRIPTOR: i32 = 3;
    const OF_THREAD: i32 = 4;
    let number = number as i32;
    if number >= 0 {
        return match number as u32 {
            REALTIME | REALTIME_COARSE | REALTIME_ALARM | TAI => Ok(Clock::Wall),
            MONOTONIC | MONOTONIC_RAW | MONOTONIC_COARSE | BOOTTIME | BOOTTIME_ALARM => Ok(Clock::Machine),
            PROCESS_CPUTIME => Ok(Clock::Process(c.pid)),
            THREAD_CPUTIME => Ok(Clock::Thread(c.tid)),
            _ => Err(Errno::EINVAL.into()),
        };
    }
    let (id, program) = (Pid(!(number >> 3) as u32), &c.resident.program);
    match number & 7 {
        kind if kind & OF_DESCRIPTOR == OF_DESCRIPTOR => Err(Errno::EINVAL.into()),
        kind if kind & OF_THREAD != 0 => {
            let id = if id == Pid(0) { c.tid } else { id };
            let own = program.threads.get(&id).is_some_and(|thread| thread.process == c.pid);
            if own { Ok(Clock::Thread(id)) } else { Err(Errno::EINVAL.into()) }
        }
        _ => {
            let id = if id == Pid(0) { c.pid } else { id };
            if program.processes.contains_key(&id) { Ok(Clock::Process(id)) } else { Err(Errno::EINVAL.into()) }
        }
    }
}

fn read_clock<M: Machine>(c: &mut Context<'_, M>, number: u64) -> Result<u64> {
    Ok(match by_number(c, number)? {
        Clock::Wall => wall(c).0,
        Clock::Machine => c.services.machine.now().0,
        clock => {
            c.count_use();
            timers::read(&c.resident.program, clock, c.now()).0
        }
    })
}

pub fn clock_gettime<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let nanos = read_clock(c, a[0])?;
    c.write_bytes(a[1], &timespec(nanos))?;
    Ok(0)
}

pub fn clock_getres<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    /// A tick of the coarse clocks.
    const TICK: u64 = 4_000_000;
    read_clock(c, a[0])?;
    if a[1] != 0 {
        let coarse = [REALTIME_COARSE, MONOTONIC_COARSE].contains(&(a[0] as u32));
        c.write_bytes(a[1], &timespec(if coarse { TICK } else { 1 }))?;
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
    if c.now() >= deadline { Ok(0) } else { Err(Stop::Block(Vec::new())) }
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
    let clock = by_number(c, a[0])?;
    if [THREAD_CPUTIME, MONOTONIC_RAW, REALTIME_COARSE, MONOTONIC_COARSE].contains(&(a[0] as u32)) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let span = read_timespec(c, a[2])?;
    let now = c.now();
    let left = match clock {
        Clock::Thread(_) => return Err(Errno::EINVAL.into()),
        Clock::Process(_) => return sleep_used(c, clock, a[1], span),
        Clock::Wall if a[1] & TIMER_ABSTIME != 0 => span - wall(c),
        Clock::Machine if a[1] & TIMER_ABSTIME != 0 => span - now,
        _ => span,
    };
    let deadline = c.deadline_in(left)?;
    sleep_until(c, deadline)
}

/// Sleeps until a process has used so much time. It looks again when it could have.
fn sleep_used<M: Machine>(c: &mut Context<'_, M>, clock: Clock, flags: u64, span: Nanos) -> Result<u64> {
    c.count_use();
    let used = timers::read(&c.resident.program, clock, c.now());
    let until = if flags & TIMER_ABSTIME != 0 {
        span
    } else {
        let until = if c.moved()? == 0 { (used + span).0.max(1) } else { c.moved()? };
        c.set_moved(until)?;
        Nanos(until)
    };
    if used >= until {
        return Ok(0);
    }
    let deadline = c.now() + (until - used);
    c.thread()?.call.get_or_insert_default().deadline = Some(deadline);
    Err(Stop::Block(Vec::new()))
}

/// clock_settime(2): there is one wall clock for all programs, and none of them sets it.
pub fn clock_settime<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let clock = by_number(c, a[0])?;
    read_timespec(c, a[1])?;
    let of_others = clock.counts_use() && (a[0] as i32) < 0;
    if of_others || a[0] as u32 == REALTIME { Err(Errno::EPERM.into()) } else { Err(Errno::EINVAL.into()) }
}

/// settimeofday(2).
pub fn settimeofday<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[0] != 0 {
        read_timeval(c, a[0])?;
    }
    Err(Errno::EPERM.into())
}

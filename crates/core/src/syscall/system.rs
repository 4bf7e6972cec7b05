//! The system as a program sees it: names, limits, usage, random numbers, prctl.
use super::{Arguments, clock};
use crate::{
    context::{Context, Result},
    process::LIMITS,
    thread::Counters,
};
use alloc::{format, string::String, vec, vec::Vec};
use shimos_abi::{
    addr::{PAGE, USER_END},
    errno::Errno,
    ids::Pid,
    time::Nanos,
};
use shimos_hal::Machine;

/// The Linux release whose behaviour programs get.
pub const LINUX_RELEASE: &str = "6.1.0";

/// What uname(2) calls the version: says that it is Shimos, and which kernel.
pub fn version<M: Machine>(c: &Context<'_, M>) -> String {
    let life = c.services.machine.identity().life;
    format!("Shimos {} {}", env!("CARGO_PKG_VERSION"), life)
}

pub fn uname<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let version = version(c);
    let name = c.resident.program.head.name.clone();
    let release = format!("{LINUX_RELEASE}-shimos");
    let mut bytes = vec![0; 65 * 6];
    for (field, text) in bytes.chunks_exact_mut(65).zip(["Linux", &name, &release, &version, "x86_64", "(none)"]) {
        let len = text.len().min(64);
        field[..len].copy_from_slice(&text.as_bytes()[..len]);
    }
    c.write_bytes(a[0], &bytes)?;
    Ok(0)
}

/// The host name is the program's name; changing it is not offered.
pub fn sethostname<M: Machine>(_: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    Err(Errno::EPERM.into())
}

pub fn sysinfo<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let mut bytes = [0; 112];
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, c.services.machine.now().0 / 1_000_000_000);
    for (at, average) in [8, 16, 24].into_iter().zip(c.resident.program.head.load.scaled()) {
        put(at, average);
    }
    put(32, c.services.frames.total() as u64 * PAGE as u64);
    put(40, c.services.frames.free_count() as u64 * PAGE as u64);
    let processes = c.resident.program.processes.len() as u16;
    bytes[80..82].copy_from_slice(&processes.to_le_bytes());
    bytes[104..108].copy_from_slice(&1_u32.to_le_bytes());
    c.write_bytes(a[0], &bytes)?;
    Ok(0)
}

fn ticks(time: Nanos) -> u64 {
    time.0 / 10_000_000
}

fn used<M: Machine>(c: &Context<'_, M>) -> Result<(Nanos, Nanos)> {
    let process = c.process()?;
    let own = c.resident.program.threads_of(c.pid).fold(process.ended_used, |sum, thread| sum + thread.used);
    Ok((own, process.children_used))
}

pub fn times<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (own, children) = used(c)?;
    if a[0] != 0 {
        let words = [ticks(own), 0, ticks(children), 0];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        c.write_bytes(a[0], &bytes)?;
    }
    Ok(ticks(c.services.machine.now()))
}

pub fn getrusage<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (own, children) = used(c)?;
    let process = c.process()?;
    let (time, counters) = match a[0] as i32 {
        0 => {
            let threads = c.resident.program.threads_of(c.pid);
            (own, threads.fold(process.ended_counters, |sum, thread| sum.with(thread.counters)))
        }
        -1 => (children, process.children_counters),
        1 => {
            let thread = c.thread()?;
            (thread.used, thread.counters)
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    c.write_bytes(a[1], &usage_bytes(time, counters))?;
    Ok(0)
}

/// struct rusage: all time counts as the user's.
pub fn usage_bytes(used: Nanos, counters: Counters) -> [u8; 144] {
    let mut bytes = [0; 144];
    bytes[..16].copy_from_slice(&clock::timeval(used.0));
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(64, counters.minor_faults);
    put(72, counters.major_faults);
    put(128, counters.waits);
    put(136, counters.preemptions);
    bytes
}

fn set_limit<M: Machine>(c: &mut Context<'_, M>, pid: Pid, which: usize, soft: u64, hard: u64) -> Result<()> {
    if soft > hard {
        return Err(Errno::EINVAL.into());
    }
    let root = c.process()?.credentials.euid == 0;
    let process = c.resident.program.processes.get_mut(&pid).ok_or(Errno::ESRCH)?;
    let limit = process.limits.get_mut(which).ok_or(Errno::EINVAL)?;
    if hard > limit.1 && !root {
        return Err(Errno::EPERM.into());
    }
    *limit = (soft, hard);
    Ok(())
}

pub fn prlimit64<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let pid = if a[0] as u32 == 0 { c.pid } else { Pid(a[0] as u32) };
    let which = a[1] as usize;
    if which >= LIMITS {
        return Err(Errno::EINVAL.into());
    }
    let old = c.process_by(pid)?.limits.get(which).copied().ok_or(Errno::EINVAL)?;
    let new = if a[2] == 0 { None } else { Some((c.read_u64(a[2])?, c.read_u64(a[2].wrapping_add(8))?)) };
    if a[3] != 0 {
        c.write_bytes(a[3], &clock::pair(old.0, old.1))?;
    }
    if let Some((soft, hard)) = new {
        set_limit(c, pid, which, soft, hard)?;
    }
    Ok(0)
}

pub fn getrlimit<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    prlimit64(c, [0, a[0], 0, a[1], 0, 0])
}

pub fn setrlimit<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    prlimit64(c, [0, a[0], a[1], 0, 0, 0])
}

pub fn getrandom<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[2] & !7 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let bytes = c.random_bytes((a[1] as usize).min(crate::context::MAX_TRANSFER));
    c.write_bytes(a[0], &bytes)?;
    Ok(bytes.len() as u64)
}

pub fn arch_prctl<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    match a[0] {
        SET_FS | SET_GS if a[1] >= USER_END => Err(Errno::EPERM.into()),
        SET_FS => {
            c.thread()?.regs.fs_base = a[1];
            Ok(0)
        }
        SET_GS => {
            c.thread()?.regs.gs_base = a[1];
            Ok(0)
        }
        GET_FS => {
            let base = c.thread()?.regs.fs_base;
            c.write_u64(a[1], base).map(|()| 0)
        }
        GET_GS => {
            let base = c.thread()?.regs.gs_base;
            c.write_u64(a[1], base).map(|()| 0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

//! The system as a program sees it: names, limits, usage, random numbers, prctl.
use super::{Arguments, clock};
use crate::{
    context::{Context, Result, Stop},
    process::{LIMITS, Process},
    rights::SYS_RESOURCE,
    thread::Counters,
};
use alloc::{format, string::String, vec, vec::Vec};
use shimos_abi::{
    addr::{PAGE, USER_END},
    errno::Errno,
    ids::Pid,
    time::Nanos,
};
use shimos_hal::{Machine, Regs};

/// The Linux release whose behaviour programs get.
pub const LINUX_RELEASE: &str = "6.1.0";

/// What uname(2) calls the version: says that it is Shimos, and which kernel.
pub fn version<M: Machine>(c: &Context<'_, M>) -> String {
    let life = c.services.machine.identity().life;
    format!("Shimos {} {}", env!("CARGO_PKG_VERSION"), life)
}

pub fn uname<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const LINUX32: u32 = 8;
    let version = version(c);
    let release = format!("{LINUX_RELEASE}-shimos");
    let machine = if c.process()?.personality & 0xff == LINUX32 { "i686" } else { "x86_64" };
    let head = &c.resident.program.head;
    let texts = [b"Linux", head.node(), release.as_bytes(), version.as_bytes(), machine.as_bytes(), head.domain()];
    let mut bytes = vec![0; 65 * 6];
    for (field, text) in bytes.chunks_exact_mut(65).zip(texts) {
        let len = text.len().min(64);
        field[..len].copy_from_slice(&text[..len]);
    }
    c.write_bytes(a[0], &bytes)?;
    Ok(0)
}

/// personality(2): what makes no difference here, and the machine's name. Nothing else can be had.
pub fn personality<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const ASK: u32 = u32::MAX;
    const NO_RANDOMIZE: u32 = 0x4_0000;
    /// Linux keeps these as well and does nothing with them.
    const SHORT_INODE: u32 = 0x100_0000;
    const WHOLE_SECONDS: u32 = 0x200_0000;
    const LINUX32: u32 = 8;
    let (wanted, old) = (a[0] as u32, c.process()?.personality);
    if wanted != ASK {
        if wanted & !(NO_RANDOMIZE | SHORT_INODE | WHOLE_SECONDS | LINUX32) != 0 {
            return Err(Errno::EINVAL.into());
        }
        c.process_mut()?.personality = wanted;
    }
    Ok(old.into())
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

/// What a process has used and done, or what a thread has.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor time.
    pub used: Nanos,
    /// What it has done.
    pub done: Counters,
    /// The most pages that were in memory at a time.
    pub peak: u64,
}

impl Usage {
    /// What a child that has ended leaves to its parent: its own, and what its children left to it.
    pub fn of_ended(child: &Process) -> Usage {
        Usage {
            used: child.ended_used + child.children_used,
            done: child.ended_counters.with(child.children_counters),
            peak: child.peak.max(child.children_peak),
        }
    }
    /// struct rusage.
    pub fn bytes(self) -> [u8; 144] {
        let Usage { used, done, peak } = self;
        let mut bytes = [0; 144];
        bytes[..16].copy_from_slice(&clock::timeval((used - done.system).0));
        bytes[16..32].copy_from_slice(&clock::timeval(done.system.0));
        let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(32, peak.saturating_mul(PAGE as u64 / 1024));
        put(64, done.minor_faults);
        put(72, done.major_faults);
        put(128, done.waits);
        put(136, done.preemptions);
        bytes
    }
}

/// What the caller has used and done, and what its children have that were waited for.
fn used<M: Machine>(c: &mut Context<'_, M>) -> Result<[Usage; 2]> {
    c.count_use();
    let (program, process) = (&c.resident.program, c.process()?);
    let own = Usage { used: program.used_by(c.pid), done: program.counters_of(c.pid), peak: program.peak_of(c.pid) };
    let (used, done, peak) = (process.children_used, process.children_counters, process.children_peak);
    Ok([own, Usage { used, done, peak }])
}

pub fn times<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let words = used(c)?.map(|Usage { used, done, .. }| [ticks(used - done.system), ticks(done.system)]);
    if a[0] != 0 {
        let bytes: Vec<u8> = words.concat().iter().flat_map(|word| word.to_le_bytes()).collect();
        c.write_bytes(a[0], &bytes)?;
    }
    Ok(ticks(c.services.machine.now()))
}

pub fn getrusage<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [own, children] = used(c)?;
    let usage = match a[0] as i32 {
        0 => own,
        -1 => children,
        1 => {
            let thread = c.thread()?;
            Usage { used: thread.used, done: thread.counters, peak: own.peak }
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    c.write_bytes(a[1], &usage.bytes())?;
    Ok(0)
}

fn set_limit<M: Machine>(c: &mut Context<'_, M>, pid: Pid, which: usize, soft: u64, hard: u64) -> Result<()> {
    if soft > hard {
        return Err(Errno::EINVAL.into());
    }
    let privileged = c.process()?.rights.has(SYS_RESOURCE);
    let process = c.resident.program.processes.get_mut(&pid).ok_or(Errno::ESRCH)?;
    let limit = process.limits.get_mut(which).ok_or(Errno::EINVAL)?;
    if hard > limit.1 && !privileged {
        return Err(Errno::EPERM.into());
    }
    *limit = (soft, hard);
    Ok(())
}

/// Limits of another are for those who have all its users and groups, or the right.
fn check_limits<M: Machine>(c: &Context<'_, M>, pid: Pid) -> Result<()> {
    let (own, other) = (c.process()?, c.process_by(pid)?);
    let (mine, theirs) = (&own.credentials, &other.credentials);
    let users = [theirs.uid, theirs.euid, theirs.suid].iter().all(|id| *id == mine.uid);
    let groups = [theirs.gid, theirs.egid, theirs.sgid].iter().all(|id| *id == mine.gid);
    let allowed = pid == c.pid || users && groups || own.rights.has(SYS_RESOURCE);
    if allowed { Ok(()) } else { Err(Errno::EPERM.into()) }
}

pub fn prlimit64<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let pid = if a[0] as u32 == 0 { c.pid } else { Pid(a[0] as u32) };
    let which = a[1] as usize;
    if which >= LIMITS {
        return Err(Errno::EINVAL.into());
    }
    let pid = c.resident.program.threads.get(&pid).map_or(pid, |thread| thread.process);
    check_limits(c, pid)?;
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

/// The caller's registers, its bases included, which it may have changed by itself.
fn live_registers<'a, M: Machine>(c: &'a mut Context<'_, M>) -> Result<&'a mut Regs> {
    let thread = c.resident.program.threads.get_mut(&c.tid).ok_or(Stop::Gone)?;
    c.services.machine.save_live(&mut thread.regs, &mut thread.fpu);
    Ok(&mut thread.regs)
}

pub fn arch_prctl<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    match a[0] {
        SET_FS | SET_GS if a[1] >= USER_END => Err(Errno::EPERM.into()),
        SET_FS | SET_GS => {
            let regs = live_registers(c)?;
            if a[0] == SET_FS {
                regs.fs_base = a[1];
            } else {
                regs.gs_base = a[1];
            }
            let tid = c.tid;
            c.services.forget_registers(tid);
            Ok(0)
        }
        GET_FS => {
            let base = live_registers(c)?.fs_base;
            c.write_u64(a[1], base).map(|()| 0)
        }
        GET_GS => {
            let base = live_registers(c)?.gs_base;
            c.write_u64(a[1], base).map(|()| 0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

//! prctl(2): attributes of processes.
use super::Arguments;
use crate::{
    context::{Context, Result},
    rights::{ALL, SETPCAP, secure},
    signal::Signal,
};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;

/// A flag that is an argument: 0 or 1.
fn flag(argument: u64) -> Result<bool> {
    match argument {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// A capability that is an argument.
fn capability(argument: u64) -> Result<u64> {
    if argument <= 40 { Ok(1 << argument) } else { Err(Errno::EINVAL.into()) }
}

fn nothing_behind(arguments: &[u64]) -> Result<()> {
    if arguments.iter().all(|argument| *argument == 0) { Ok(()) } else { Err(Errno::EINVAL.into()) }
}

pub fn prctl<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    match a[0] {
        // PR_SET_PDEATHSIG, PR_GET_PDEATHSIG.
        1 => {
            let signal = if a[1] == 0 { None } else { Some(Signal::new(a[1]).ok_or(Errno::EINVAL)?) };
            c.process_mut()?.rights.parent_death = signal;
        }
        2 => {
            let signal = c.process()?.rights.parent_death;
            c.write_u32(a[1], signal.map_or(0, |signal| signal.number().into()))?;
        }
        // PR_GET_DUMPABLE, PR_SET_DUMPABLE.
        3 => return Ok(c.process()?.rights.dumpable.into()),
        4 => c.process_mut()?.rights.dumpable = flag(a[1])?,
        // PR_GET_KEEPCAPS, PR_SET_KEEPCAPS.
        7 => return Ok((c.process()?.rights.securebits & secure::KEEP_CAPS != 0).into()),
        8 => {
            let keep = flag(a[1])?;
            let rights = &mut c.process_mut()?.rights;
            if rights.securebits & (secure::KEEP_CAPS << 1) != 0 {
                return Err(Errno::EPERM.into());
            }
            rights.securebits = rights.securebits & !secure::KEEP_CAPS | if keep { secure::KEEP_CAPS } else { 0 };
        }
        // PR_GET_TIMING, PR_SET_TIMING: statistical timing is all there is.
        13 => {}
        14 => nothing_behind(&a[1..2])?,
        // PR_SET_NAME, PR_GET_NAME.
        15 => {
            let name = c.read_string(a[1], 4095, Errno::EFAULT)?;
            c.set_name(c.tid, &name)?;
        }
        16 => {
            let mut bytes = c.comm().into_bytes();
            bytes.resize(16, 0);
            c.write_bytes(a[1], &bytes)?;
        }
        // PR_GET_SECCOMP: no filter can be had, so none is there.
        21 => {}
        // PR_CAPBSET_READ, PR_CAPBSET_DROP.
        23 => return Ok((c.process()?.rights.bounding & capability(a[1])? != 0).into()),
        24 => {
            let one = capability(a[1]);
            let rights = &mut c.process_mut()?.rights;
            if !rights.has(SETPCAP) {
                return Err(Errno::EPERM.into());
            }
            rights.bounding &= !one?;
        }
        // PR_GET_SECUREBITS, PR_SET_SECUREBITS.
        27 => return Ok(c.process()?.rights.securebits.into()),
        28 => {
            let rights = &mut c.process_mut()?.rights;
            let (old, new) = (rights.securebits, a[1] as u32);
            // A bit that is locked stays, and so does its lock.
            let locked = (old & 0xaa) >> 1 | old & 0xaa;
            if a[1] > u64::from(secure::ALL) || (old ^ new) & locked != 0 || !rights.has(SETPCAP) {
                return Err(Errno::EPERM.into());
            }
            rights.securebits = new;
        }
        // PR_SET_TIMERSLACK, PR_GET_TIMERSLACK.
        29 => c.process_mut()?.rights.timer_slack = if a[1] as i64 <= 0 { 0 } else { a[1] },
        30 => return Ok(c.process()?.rights.timer_slack().0),
        // PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER.
        36 => c.process_mut()?.rights.reaper = a[1] != 0,
        37 => {
            let reaper = c.process()?.rights.reaper;
            c.write_u32(a[1], reaper.into())?;
        }
        // PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS.
        38 => {
            nothing_behind(&a[2..5])?;
            if a[1] != 1 {
                return Err(Errno::EINVAL.into());
            }
            c.process_mut()?.rights.nothing_new = true;
        }
        39 => {
            nothing_behind(&a[1..5])?;
            return Ok(c.process()?.rights.nothing_new.into());
        }
        // PR_GET_THP_DISABLE: there are no huge pages to switch off.
        42 => nothing_behind(&a[1..5])?,
        47 => return ambient(c, a),
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// PR_CAP_AMBIENT.
fn ambient<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    nothing_behind(&a[3..5])?;
    let rights = &mut c.process_mut()?.rights;
    match a[1] {
        // IS_SET, RAISE, LOWER, CLEAR_ALL.
        1 => return Ok((rights.ambient & capability(a[2])? != 0).into()),
        2 => {
            let one = capability(a[2])?;
            let forbidden = rights.securebits & secure::NO_AMBIENT_RAISE != 0;
            if forbidden || rights.permitted & rights.inheritable & one == 0 {
                return Err(Errno::EPERM.into());
            }
            rights.ambient |= one;
        }
        3 => rights.ambient &= !capability(a[2])?,
        4 if a[2] == 0 => rights.ambient = 0,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// What capget(2) and capset(2) are told: version, and whose.
struct Header {
    /// Words of each set.
    words: usize,
    pid: u32,
}

fn header<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<Header> {
    const VERSION_1: u32 = 0x1998_0330;
    const VERSION_2: u32 = 0x2007_1026;
    const VERSION_3: u32 = 0x2008_0522;
    let words = match c.read_u32(addr)? {
        VERSION_1 => 1,
        VERSION_2 | VERSION_3 => 2,
        _ => {
            c.write_u32(addr, VERSION_3)?;
            return Err(Errno::EINVAL.into());
        }
    };
    Ok(Header { words, pid: c.read_u32(addr.wrapping_add(4))? })
}

pub fn capget<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let header = match header(c, a[0]) {
        // Asking for the version alone is allowed.
        Err(crate::context::Stop::Errno(Errno::EINVAL)) if a[1] == 0 => return Ok(0),
        header => header?,
    };
    if (header.pid as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let threads = &c.resident.program.threads;
    let pid = match header.pid {
        0 => c.pid,
        tid => threads.get(&shimos_abi::ids::Pid(tid)).map(|thread| thread.process).ok_or(Errno::ESRCH)?,
    };
    let rights = c.process_by(pid)?.rights;
    if a[1] == 0 {
        return Err(Errno::EFAULT.into());
    }
    let mut bytes = alloc::vec::Vec::with_capacity(24);
    for word in 0..header.words {
        for set in [rights.effective, rights.permitted, rights.inheritable] {
            bytes.extend_from_slice(&((set >> (32 * word)) as u32).to_le_bytes());
        }
    }
    c.write_bytes(a[1], &bytes).map(|()| 0)
}

/// capset(2): nothing is gained beyond what is permitted.
pub fn capset<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let header = header(c, a[0])?;
    if header.pid != 0 && header.pid != c.tid.0 {
        return Err(Errno::EPERM.into());
    }
    let bytes = c.read_bytes(a[1], header.words * 12)?;
    let mut sets = [0_u64; 3];
    for (place, word) in bytes.chunks_exact(4).enumerate() {
        let word = word.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        if let Some(set) = sets.get_mut(place % 3) {
            *set |= word << (32 * (place / 3));
        }
    }
    let [effective, permitted, inheritable] = sets.map(|set| set & ALL);
    let rights = &mut c.process_mut()?.rights;
    let heritable = rights.inheritable | if rights.has(SETPCAP) { rights.bounding } else { rights.permitted };
    if permitted & !rights.permitted != 0
        || effective & !permitted != 0
        || inheritable & !heritable != 0
        || inheritable & !(rights.inheritable | rights.bounding) != 0
    {
        return Err(Errno::EPERM.into());
    }
    (rights.effective, rights.permitted, rights.inheritable) = (effective, permitted, inheritable);
    rights.ambient &= permitted & inheritable;
    Ok(0)
}

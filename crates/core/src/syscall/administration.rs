//! Calls that change the machine as a whole. A program is a guest of the machine, like what runs in a container: it may ask,
//! and is refused what would reach beyond it, whatever its capabilities. The arguments are checked as Linux does before.
use super::{Arguments, clock};
use crate::{
    context::{Context, Result, wait_for},
    names::AT_FDCWD,
    process::Ending,
    resident::Key,
    rights::{SYS_ADMIN, SYS_BOOT, SYS_PACCT, SYS_TIME, SYSLOG},
    signal::Signal,
};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_vfs::Last;

fn require<M: Machine>(c: &Context<'_, M>, capability: u32) -> Result<()> {
    if c.process()?.rights.has(capability) { Ok(()) } else { Err(Errno::EPERM.into()) }
}

/// What is refused to all.
fn refuse() -> Result<u64> {
    Err(Errno::EPERM.into())
}

fn find<M: Machine>(c: &mut Context<'_, M>, path: u64, last: Last) -> Result<()> {
    let path = c.read_path(path)?;
    if path.is_empty() {
        return Err(Errno::ENOENT.into());
    }
    c.resolve_at(AT_FDCWD, &path, last)?.existing()?;
    Ok(())
}

/// mount(2).
pub fn mount<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    for text in [a[2], a[0]] {
        if text != 0 {
            c.read_string(text, 4095, Errno::EINVAL)?;
        }
    }
    find(c, a[1], Last::Follow)?;
    refuse()
}

/// umount2(2).
pub fn umount2<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    /// `MNT_FORCE`, `MNT_DETACH`, `MNT_EXPIRE`, `UMOUNT_NOFOLLOW`.
    const KNOWN: u32 = 15;
    const NO_FOLLOW: u32 = 8;
    let flags = a[1] as u32;
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    find(c, a[0], if flags & NO_FOLLOW != 0 { Last::Keep } else { Last::Follow })?;
    refuse()
}

/// pivot_root(2), swapoff(2), and modules and kernels to load: these ask for the right before anything else.
pub fn refused<M: Machine>(_: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    refuse()
}

/// swapon(2).
pub fn swapon<M: Machine>(_: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const KNOWN: u32 = 0x7_ffff;
    if a[1] as u32 & !KNOWN != 0 { Err(Errno::EINVAL.into()) } else { refuse() }
}

/// acct(2): there is no accounting to be switched off, and none to be had.
pub fn acct<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    require(c, SYS_PACCT)?;
    if a[0] == 0 {
        return Ok(0);
    }
    find(c, a[0], Last::Follow)?;
    refuse()
}

/// quotactl(2): no file system has quotas, and there are no block devices that could.
pub fn quotactl<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const TYPES: u32 = 3;
    const SYNC: u32 = 0x80_0001;
    let command = a[0] as u32;
    if command & 0xff >= TYPES {
        return Err(Errno::EINVAL.into());
    }
    if a[1] == 0 {
        // All there are: none.
        return if command >> 8 == SYNC { Ok(0) } else { Err(Errno::ENODEV.into()) };
    }
    find(c, a[1], Last::Follow)?;
    Err(Errno::ENOTBLK.into())
}

/// reboot(2): the program is what can be ended, as in a process id name space.
pub fn reboot<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const MAGIC: u32 = 0xfee1_dead;
    const MAGIC2: [u32; 4] = [0x2812_1969, 0x0512_1996, 0x1604_1998, 0x2011_2000];
    const RESTART: [u32; 2] = [0x0123_4567, 0xa1b2_c3d4];
    const OFF: [u32; 2] = [0xcdef_0123, 0x4321_fedc];
    require(c, SYS_BOOT)?;
    if a[0] as u32 != MAGIC || !MAGIC2.contains(&(a[1] as u32)) {
        return Err(Errno::EINVAL.into());
    }
    let signal = match a[2] as u32 {
        command if RESTART.contains(&command) => Signal::HUP,
        command if OFF.contains(&command) => Signal::INT,
        _ => return Err(Errno::EINVAL.into()),
    };
    let init = c.resident.program.init();
    super::end_process(c.resident, c.services, init, Ending::Killed(signal));
    Err(crate::context::Stop::Gone)
}

/// syslog(2): nothing is ever written to a program's own log; the kernel's tells of other programs.
pub fn syslog<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (action, length) = (a[0] as i32, a[2] as i32);
    if !c.process()?.rights.has(SYSLOG) {
        require(c, SYS_ADMIN)?;
    }
    let invalid = || Err(Errno::EINVAL.into());
    match action {
        0 | 1 | 5 => Ok(0),
        2..=4 if a[1] == 0 || length < 0 => invalid(),
        2 if length > 0 => wait_for(Key::Signal),
        // Nothing is there to be read.
        2..=4 | 9 | 10 => Ok(0),
        6 | 7 => refuse(),
        8 if !(1..=8).contains(&length) => invalid(),
        8 => refuse(),
        _ => invalid(),
    }
}

/// A name that a program gives itself.
fn read_name<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<alloc::vec::Vec<u8>> {
    require(c, SYS_ADMIN)?;
    let length = usize::try_from(a[1] as i32).ok().filter(|length| *length <= 64).ok_or(Errno::EINVAL)?;
    let mut name = c.read_bytes(a[0], length)?;
    // It ends where a reader of the string would end.
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    Ok(name)
}

/// sethostname(2): the name is the program's own; it begins as the program's name.
pub fn sethostname<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let name = read_name(c, a)?;
    c.resident.program.head.host_name = Some(name);
    Ok(0)
}

/// setdomainname(2).
pub fn setdomainname<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let name = read_name(c, a)?;
    c.resident.program.head.domain_name = Some(name);
    Ok(0)
}

/// Size of struct timex.
const TIMEX: usize = 208;

/// What adjtimex(2) may only ask for, and what it changes.
fn adjust<M: Machine>(c: &mut Context<'_, M>, addr: u64) -> Result<u64> {
    const ADJTIME: u32 = 0x8000;
    const SINGLESHOT: u32 = 1;
    const READ_ONLY: u32 = 0x2000;
    const UNSYNCHRONISED: u32 = 0x40;
    /// The clock is not synchronised with another (`TIME_ERROR`).
    const ERROR: u64 = 5;
    let old = c.read_bytes(addr, TIMEX)?;
    let modes = old.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let changes = if modes & ADJTIME != 0 {
        if modes & SINGLESHOT == 0 {
            return Err(Errno::EINVAL.into());
        }
        modes & READ_ONLY == 0
    } else {
        modes != 0
    };
    if changes {
        require(c, SYS_TIME)?;
        return refuse();
    }
    let wall = clock::wall(c).0;
    let mut timex = [0; TIMEX];
    let mut put = |at: usize, value: u64| timex[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, modes.into());
    // The errors are as large as they are told; constant, precision, tolerance, time, tick.
    for (at, value) in [
        (24, 16_000_000),
        (32, 16_000_000),
        (40, UNSYNCHRONISED.into()),
        (48, 2),
        (56, 1),
        (64, 32_768_000),
        (72, wall / 1_000_000_000),
        (80, wall / 1_000 % 1_000_000),
        (88, 10_000),
    ] {
        put(at, value);
    }
    c.write_bytes(addr, &timex)?;
    Ok(ERROR)
}

/// adjtimex(2).
pub fn adjtimex<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    adjust(c, a[0])
}

/// clock_adjtime(2): of the wall clock alone.
pub fn clock_adjtime<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    clock::by_number(c, a[0])?;
    if a[0] as u32 == clock::REALTIME { adjust(c, a[1]) } else { Err(Errno::EOPNOTSUPP.into()) }
}

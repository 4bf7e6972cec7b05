//! Waiting for children.
use super::{Arguments, pidfd, system::Usage, transfer::flags};
use crate::{
    context::{Context, Result, wait_for},
    process::Ending,
    resident::Key,
    signal::Signal,
};
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_hal::Machine;

const NOHANG: u64 = 1;
const UNTRACED: u64 = 2;
const CONTINUED: u64 = 8;
const KNOWN: u64 = NOHANG | UNTRACED | CONTINUED | 0xe000_0000;

/// Which children a caller waits for.
#[derive(Clone, Copy)]
enum Whom {
    All,
    One(Pid),
    Group(Pid),
}

/// Whose children a caller waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Those of all threads of its process.
    Process,
    /// Its own (`__WNOTHREAD`).
    Thread,
}

impl Whose {
    fn of(options: u64) -> Whose {
        const NOTHREAD: u64 = 0x2000_0000;
        if options & NOTHREAD != 0 { Whose::Thread } else { Whose::Process }
    }
}

/// What a caller wants to be told.
#[derive(Clone, Copy)]
struct Wishes {
    whose: Whose,
    ended: bool,
    stopped: bool,
    continued: bool,
    kind: Kind,
}

/// What there is to tell of a child.
struct Found {
    pid: Pid,
    uid: u32,
    news: News,
    usage: Usage,
}

/// Finds a child with something to tell; whether there are any that may get something to tell otherwise.
fn find<M: Machine>(c: &Context<'_, M>, whom: Whom, wishes: Wishes) -> core::result::Result<Found, Children> {
    let mut any = Children::None;
    let first = c.resident.program.threads_of(c.pid).next().map(|thread| thread.tid);
    for child in c.resident.program.children_of(c.pid) {
        let wanted = match whom {
            Whom::All => true,
            Whom::One(pid) => child.pid == pid,
            Whom::Group(group) => child.group == group,
        };
        // Those that tell nobody of their end, or by another signal, are waited for by those who ask for them alone.
        let is_clone = child.exit_signal != Some(Signal::CHLD);
        let maker = child.maker.filter(|tid| c.resident.program.threads.get(tid).is_some_and(|t| t.process == c.pid));
        let foreign = wishes.whose == Whose::Thread && maker.or(first) != Some(c.tid);
        if !wanted || foreign || wishes.kind == Kind::Usual && is_clone || wishes.kind == Kind::Clone && !is_clone {
            continue;
        }
        any = Children::Some;
        let news = match (child.zombie, child.stopped) {
            (Some(ending), _) if wishes.ended => News::Ended(ending),
            (Some(_), _) => continue,
            (None, Some(stopped)) if wishes.stopped && stopped.untold.is_some() => News::Stopped(stopped.signal),
            _ if wishes.continued && child.continued.is_some() => News::Continued,
            _ => continue,
        };
        return Ok(Found { pid: child.pid, uid: child.credentials.uid, news, usage: Usage::of_ended(child) });
    }
    Err(any)
}

pub fn wait4<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [which, status_addr, options, usage_addr, ..] = a;
    let options = options as u32 as u64;
    if options & !KNOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    let whom = match which as i32 {
        -1 => Whom::All,
        0 => Whom::Group(c.process()?.group),
        i32::MIN => return Err(Errno::ESRCH.into()),
        pid if pid > 0 => Whom::One(Pid(pid as u32)),
        group => Whom::Group(Pid(group.unsigned_abs())),
    };
    let (stopped, continued) = (options & UNTRACED != 0, options & CONTINUED != 0);
    let whose = Whose::of(options);
    let wishes = Wishes { whose, ended: true, stopped, continued, kind: Kind::of(options) };
    let found = match find(c, whom, wishes) {
        Ok(found) => found,
        Err(Children::None) => return Err(Errno::ECHILD.into()),
        Err(Children::Some) if options & NOHANG != 0 => return Ok(0),
        Err(Children::Some) => return wait_for(Key::Child(c.pid)),
    };
    if status_addr != 0 {
        let status = match found.news {
            News::Ended(ending) => ending.status(),
            News::Stopped(signal) => u32::from(signal.number()) << 8 | 0x7f,
            News::Continued => 0xffff,
        };
        c.write_u32(status_addr, status)?;
    }
    if usage_addr != 0 {
        c.write_bytes(usage_addr, &found.usage.bytes())?;
    }
    acknowledge(c, &found)?;
    Ok(found.pid.0.into())
}

/// waitid(2).
pub fn waitid<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const EXITED: u64 = 4;
    const NOWAIT: u64 = 0x100_0000;
    let [kind, id, info_addr, options, usage_addr, _] = a;
    let (id, options) = (id as u32, options as u32 as u64);
    if options & !(KNOWN | EXITED | NOWAIT) != 0 || options & (EXITED | UNTRACED | CONTINUED) == 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut nonblock = 0;
    let whom = match kind {
        0 => Whom::All,
        1 if id as i32 > 0 => Whom::One(Pid(id)),
        3 if id as i32 >= 0 => {
            let (pid, status) = pidfd::to_wait_for(c, id.into())?;
            nonblock = status & flags::NONBLOCK;
            Whom::One(pid)
        }
        2 if id == 0 => Whom::Group(c.process()?.group),
        2 if id as i32 > 0 => Whom::Group(Pid(id)),
        _ => return Err(Errno::EINVAL.into()),
    };
    let (ended, stopped, continued) = (options & EXITED != 0, options & UNTRACED != 0, options & CONTINUED != 0);
    let whose = Whose::of(options);
    let wishes = Wishes { whose, ended, stopped, continued, kind: Kind::of(options) };
    let mut info = [0; 128];
    let found = match find(c, whom, wishes) {
        Ok(found) => Some(found),
        Err(Children::None) => return Err(Errno::ECHILD.into()),
        Err(Children::Some) if options & NOHANG != 0 => None,
        Err(Children::Some) if nonblock != 0 => return Err(Errno::EAGAIN.into()),
        Err(Children::Some) => return wait_for(Key::Child(c.pid)),
    };
    if let Some(found) = &found {
        let (code, status) = match found.news {
            News::Ended(Ending::Exited(status)) => (1, u32::from(status)),
            News::Ended(Ending::Killed(signal)) => (2, u32::from(signal.number())),
            News::Stopped(signal) => (5, u32::from(signal.number())),
            News::Continued => (6, u32::from(Signal::CONT.number())),
        };
        let words = [Signal::CHLD.number().into(), 0, code, 0, found.pid.0, found.uid, status];
        for (field, word) in info.chunks_exact_mut(4).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
    }
    if info_addr != 0 {
        c.write_bytes(info_addr, &info)?;
    }
    if let Some(found) = found {
        if usage_addr != 0 {
            c.write_bytes(usage_addr, &found.usage.bytes())?;
        }
        if options & NOWAIT == 0 {
            acknowledge(c, &found)?;
        }
    }
    Ok(0)
}

/// Which children, by how they tell of their end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// By SIGCHLD.
    Usual,
    /// In another way, or not (`__WCLONE`).
    Clone,
    /// In whatever way (`__WALL`).
    All,
}

impl Kind {
    fn of(options: u64) -> Kind {
        const ALL: u64 = 0x4000_0000;
        const CLONE: u64 = 0x8000_0000;
        match (options & ALL, options & CLONE) {
            (0, 0) => Kind::Usual,
            (0, _) => Kind::Clone,
            _ => Kind::All,
        }
    }
}

#[derive(PartialEq, Eq)]
enum Children {
    None,
    Some,
}

#[derive(Clone, Copy)]
enum News {
    Ended(Ending),
    Stopped(Signal),
    Continued,
}

/// What was told is not told again.
fn acknowledge<M: Machine>(c: &mut Context<'_, M>, found: &Found) -> Result<()> {
    let (pid, usage) = (found.pid, found.usage);
    match found.news {
        News::Ended(_) => {
            c.resident.program.processes.remove(&pid);
            let process = c.process_mut()?;
            process.children_used = process.children_used + usage.used;
            process.children_counters = process.children_counters.with(usage.done);
            process.children_peak = process.children_peak.max(usage.peak);
        }
        News::Stopped(_) => {
            if let Some(stopped) = c.resident.program.processes.get_mut(&pid).and_then(|p| p.stopped.as_mut()) {
                stopped.untold = None;
            }
        }
        News::Continued => {
            if let Some(process) = c.resident.program.processes.get_mut(&pid) {
                process.continued = None;
            }
        }
    }
    Ok(())
}

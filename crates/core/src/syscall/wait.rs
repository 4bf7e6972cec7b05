//! Waiting for children.
use super::{Arguments, clock};
use crate::{
    context::{Context, Result, wait_for},
    resident::Key,
};
use shimos_abi::{errno::Errno, ids::Pid, time::Nanos};
use shimos_hal::Machine;

const NOHANG: u64 = 1;
const UNTRACED: u64 = 2;
const CONTINUED: u64 = 8;
const KNOWN: u64 = NOHANG | UNTRACED | CONTINUED | 0xe000_0000;

pub fn wait4<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [which, status_addr, options, usage_addr, ..] = a;
    if options & !KNOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    let which = which as i32;
    let own_group = c.process()?.group;
    let wanted = |pid: Pid, group: Pid| match which {
        -1 => true,
        0 => group == own_group,
        w if w > 0 => pid.0 == w as u32,
        w => group.0 == w.unsigned_abs(),
    };
    let parent = c.pid;
    let mut any = Children::None;
    let mut found = None;
    for child in c.resident.program.children_of(parent) {
        if !wanted(child.pid, child.group) {
            continue;
        }
        any = Children::Some;
        let news = if let Some(ending) = child.zombie {
            Some((ending.status(), News::Ended))
        } else if let (Some(stopped), true) = (child.stopped, options & UNTRACED != 0) {
            stopped.untold.map(|_| (u32::from(stopped.signal.number()) << 8 | 0x7f, News::Stopped))
        } else if child.continued.is_some() && options & CONTINUED != 0 {
            Some((0xffff, News::Continued))
        } else {
            None
        };
        if let Some((status, news)) = news {
            found = Some((child.pid, status, news, child.ended_used + child.children_used));
            break;
        }
    }
    let Some((pid, status, news, used)) = found else {
        return match any {
            Children::None => Err(Errno::ECHILD.into()),
            Children::Some if options & NOHANG != 0 => Ok(0),
            Children::Some => wait_for(Key::Child(parent)),
        };
    };
    if status_addr != 0 {
        c.write_u32(status_addr, status)?;
    }
    if usage_addr != 0 {
        let mut usage = [0; 144];
        usage[..16].copy_from_slice(&clock::timeval(used.0));
        c.write_bytes(usage_addr, &usage)?;
    }
    acknowledge(c, pid, news, used)?;
    Ok(pid.0.into())
}

#[derive(PartialEq, Eq)]
enum Children {
    None,
    Some,
}

#[derive(Clone, Copy)]
enum News {
    Ended,
    Stopped,
    Continued,
}

fn acknowledge<M: Machine>(c: &mut Context<'_, M>, pid: Pid, news: News, used: Nanos) -> Result<()> {
    match news {
        News::Ended => {
            c.resident.program.processes.remove(&pid);
            let process = c.process_mut()?;
            process.children_used = process.children_used + used;
        }
        News::Stopped => {
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

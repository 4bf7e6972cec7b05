//! ioctl(2).
use super::{Arguments, transfer::flags};
use crate::{
    context::{Context, Result},
    delivery,
    files::{Kind, OnExec},
    signal::{Info, Signal},
    terminal::Terminal,
};
use alloc::vec::Vec;
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_hal::Machine;

const TCGETS: u64 = 0x5401;
const TCSETS: u64 = 0x5402;
const TCSETSW: u64 = 0x5403;
const TCSETSF: u64 = 0x5404;
const TIOCSCTTY: u64 = 0x540e;
const TIOCGPGRP: u64 = 0x540f;
const TIOCSPGRP: u64 = 0x5410;
const TIOCGWINSZ: u64 = 0x5413;
const TIOCSWINSZ: u64 = 0x5414;
const FIONREAD: u64 = 0x541b;
const FIONBIO: u64 = 0x5421;
const TIOCNOTTY: u64 = 0x5422;
const TIOCGSID: u64 = 0x5429;
const FIONCLEX: u64 = 0x5450;
const FIOCLEX: u64 = 0x5451;

pub fn ioctl<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [fd, request, argument, ..] = a;
    match request {
        FIONBIO => {
            let on = c.read_u32(argument)? != 0;
            let description = c.description(fd)?;
            description.flags = description.flags & !flags::NONBLOCK | if on { flags::NONBLOCK } else { 0 };
            return Ok(0);
        }
        FIOCLEX | FIONCLEX => {
            c.table()?.get_mut(fd)?.on_exec = if request == FIOCLEX { OnExec::Close } else { OnExec::Keep };
            return Ok(0);
        }
        _ => {}
    }
    match c.description(fd)?.kind.clone() {
        Kind::Console(_) => terminal(c, request, argument),
        Kind::PipeReader(pipe) | Kind::PipeBoth(pipe) if request == FIONREAD => {
            let len = c.resident.program.pipes.get(&pipe).map_or(0, |pipe| pipe.len());
            c.write_u32(argument, len as u32).map(|()| 0)
        }
        Kind::Socket(socket) if request == FIONREAD => {
            let len = c.resident.program.net.readable_bytes(socket)?;
            c.write_u32(argument, len as u32).map(|()| 0)
        }
        Kind::Unix(socket) if request == FIONREAD => {
            let len = c.resident.program.unix.get(&socket).map_or(0, |socket| socket.queued());
            c.write_u32(argument, len as u32).map(|()| 0)
        }
        Kind::File(node) if request == FIONREAD => {
            let left = crate::content::size(c, node)?.saturating_sub(c.description(fd)?.offset);
            c.write_u32(argument, left.min(i32::MAX as u64) as u32).map(|()| 0)
        }
        _ => Err(Errno::ENOTTY.into()),
    }
}

fn terminal<M: Machine>(c: &mut Context<'_, M>, request: u64, argument: u64) -> Result<u64> {
    match request {
        TCGETS => {
            let settings = c.resident.program.terminal.settings.clone();
            c.write_bytes(argument, &settings)?;
        }
        TCSETS | TCSETSW | TCSETSF => {
            let settings = c.read_bytes(argument, Terminal::SETTINGS)?;
            c.resident.program.terminal.settings = settings;
        }
        TIOCGWINSZ => {
            let bytes: Vec<u8> = c.resident.program.terminal.window.iter().flat_map(|n| n.to_le_bytes()).collect();
            c.write_bytes(argument, &bytes)?;
        }
        TIOCSWINSZ => {
            let bytes = c.read_bytes(argument, 8)?;
            for (n, b) in c.resident.program.terminal.window.iter_mut().zip(bytes.chunks_exact(2)) {
                *n = u16::from_le_bytes([b[0], b[1]]);
            }
            if let Some(group) = c.resident.program.terminal.foreground {
                let members: Vec<Pid> =
                    c.resident.program.processes.values().filter(|p| p.group == group).map(|p| p.pid).collect();
                for member in members {
                    delivery::send_to_process(c.resident, member, Signal::WINCH, Info::from_kernel());
                }
            }
        }
        TIOCGPGRP => {
            let group = foreground(c)?;
            c.write_u32(argument, group.0)?;
        }
        TIOCSPGRP => {
            let group = Pid(c.read_u32(argument)?);
            let session = c.process()?.session;
            if c.resident.program.terminal.session != Some(session) {
                return Err(Errno::ENOTTY.into());
            }
            if !c.resident.program.processes.values().any(|p| p.group == group && p.session == session) {
                return Err(Errno::EPERM.into());
            }
            c.resident.program.terminal.foreground = Some(group);
        }
        TIOCSCTTY => {
            let process = c.process()?;
            let (session, pid, group) = (process.session, process.pid, process.group);
            let terminal = &mut c.resident.program.terminal;
            if session != pid || terminal.session.is_some_and(|owner| owner != session) && argument != 1 {
                return Err(Errno::EPERM.into());
            }
            terminal.session = Some(session);
            terminal.foreground = Some(group);
        }
        TIOCNOTTY => {
            let session = c.process()?.session;
            let terminal = &mut c.resident.program.terminal;
            if terminal.session != Some(session) {
                return Err(Errno::ENOTTY.into());
            }
            terminal.session = None;
            terminal.foreground = None;
        }
        TIOCGSID => {
            let session = c.resident.program.terminal.session.ok_or(Errno::ENOTTY)?;
            c.write_u32(argument, session.0)?;
        }
        FIONREAD => {
            let len = c.resident.program.terminal.input.0.len();
            c.write_u32(argument, len as u32)?;
        }
        _ => return Err(Errno::ENOTTY.into()),
    }
    Ok(0)
}

fn foreground<M: Machine>(c: &Context<'_, M>) -> Result<Pid> {
    let terminal = &c.resident.program.terminal;
    if terminal.session != Some(c.process()?.session) {
        return Err(Errno::ENOTTY.into());
    }
    Ok(terminal.foreground.unwrap_or(c.process()?.group))
}

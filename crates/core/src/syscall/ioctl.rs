//! ioctl(2).
use super::{
    Arguments,
    asynchronous::{ASYNC, flags_changed, key_of},
    interfaces,
    transfer::flags,
    tty_control,
};
use crate::{
    context::{Context, Result},
    event::EventClass,
    files::{Kind, OnExec},
};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;

const FIONREAD: u64 = 0x541b;
const FIONBIO: u64 = 0x5421;
const FIOASYNC: u64 = 0x5452;
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
        FIOASYNC => {
            let on = c.read_u32(argument)? != 0;
            let id = c.descriptor(fd)?.description;
            let description = c.description_by(id)?;
            let before = description.flags;
            let wanted = before & !ASYNC | if on { ASYNC } else { 0 };
            if wanted != before && key_of(&description.kind).is_none() {
                return Err(Errno::ENOTTY.into());
            }
            description.flags = wanted;
            flags_changed(c.resident, id, before);
            return Ok(0);
        }
        FIOCLEX | FIONCLEX => {
            c.table()?.get_mut(fd)?.on_exec = if request == FIOCLEX { OnExec::Close } else { OnExec::Keep };
            return Ok(0);
        }
        _ => {}
    }
    match c.description(fd)?.kind.clone() {
        Kind::Console(_) | Kind::Slave { .. } | Kind::Master(..) => {
            let id = c.descriptor(fd)?.description;
            tty_control::ioctl(c, id, a)
        }
        Kind::Event(EventClass::Files, id) if request == FIONREAD => {
            let len = super::inotify::readable(c, id)?;
            c.write_u32(argument, len as u32).map(|()| 0)
        }
        Kind::PipeReader(pipe) | Kind::PipeBoth(pipe) if request == FIONREAD => {
            let len = c.resident.program.pipes.get(&pipe).map_or(0, |pipe| pipe.len());
            c.write_u32(argument, len as u32).map(|()| 0)
        }
        Kind::Socket(_) | Kind::Unix(_) | Kind::Netlink(_) => interfaces::ioctl(c, fd, request as u32 as u64, argument),
        Kind::File(node) if request == FIONREAD => {
            let left = crate::content::size(c, node)?.saturating_sub(c.description(fd)?.offset);
            c.write_u32(argument, left.min(i32::MAX as u64) as u32).map(|()| 0)
        }
        _ => Err(Errno::ENOTTY.into()),
    }
}

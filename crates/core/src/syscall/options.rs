//! Socket options.
use super::{
    Arguments, clock, netlink,
    network::{Socket, privilege, socket_of},
    unix,
};
use crate::{
    context::{Context, Result},
    resident::Key,
};
use alloc::vec::Vec;
use shimos_abi::{errno::Errno, time::Nanos};
use shimos_hal::Machine;
use shimos_net::level;

/// The longest value that any option has.
const LONGEST: usize = 512;
const RECEIVE_TIMEOUTS: [i32; 2] = [20, 66];
const SEND_TIMEOUTS: [i32; 2] = [21, 67];
/// Options whose buffer may be too small for nothing but a part: the length is told, and ERANGE.
const PEER_GROUPS: i32 = 59;
const PEER_NAME: i32 = 28;
const BIND_TO_DEVICE: i32 = 25;
const INTERFACE_NAME: usize = 16;

pub fn setsockopt<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (description, socket) = socket_of(c, a[0])?;
    let (level, name, length) = (a[1] as i32, a[2] as i32, a[4] as i32);
    let Ok(length) = usize::try_from(length) else { return Err(Errno::EINVAL.into()) };
    let value = c.read_bytes(a[3], length.min(LONGEST))?;
    if level == level::SOCKET && (RECEIVE_TIMEOUTS.contains(&name) || SEND_TIMEOUTS.contains(&name)) {
        let limit = time_limit(&value)?;
        let patience = c.description_by(description)?.patience.get_or_insert_default();
        if RECEIVE_TIMEOUTS.contains(&name) {
            patience.receive = limit;
        } else {
            patience.send = limit;
        }
        return Ok(0);
    }
    let privilege = privilege(c)?;
    let now = c.now();
    match socket {
        Socket::Net(id) => {
            c.resident.program.net.set_option(now, id, privilege, level, name, &value)?;
            c.wake(Key::Socket(id));
        }
        Socket::Unix(id) => {
            if level != level::SOCKET {
                return Err(Errno::EOPNOTSUPP.into());
            }
            unix::get(c, id)?.options.set_general(privilege, name, &value)?;
        }
        Socket::Netlink(id) => netlink::set_option(c, id, level, name, &value)?,
    }
    Ok(0)
}

/// A struct timeval as a limit; zero is none.
fn time_limit(value: &[u8]) -> Result<Option<Nanos>> {
    let word = |at: usize| value.get(at..at + 8).and_then(|b| b.try_into().ok()).map(i64::from_le_bytes);
    let (Some(seconds), Some(micros)) = (word(0), word(8)) else { return Err(Errno::EINVAL.into()) };
    if !(0..1_000_000).contains(&micros) {
        return Err(Errno::EDOM.into());
    }
    // A negative time is over at once.
    let limit = if seconds < 0 { Nanos(1) } else { Nanos::secs(seconds as u64) + Nanos::micros(micros as u64) };
    Ok((limit != Nanos(0)).then_some(limit))
}

pub fn getsockopt<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (description, socket) = socket_of(c, a[0])?;
    let (level, name) = (a[1] as i32, a[2] as i32);
    let room = c.read_u32(a[4])? as usize;
    if room > i32::MAX as usize {
        return Err(Errno::EINVAL.into());
    }
    let patience = c.description_by(description)?.patience.unwrap_or_default();
    let limit = |limit: Option<Nanos>| clock::timeval(limit.unwrap_or_default().0).to_vec();
    let now = c.now();
    let value: Vec<u8> = match socket {
        _ if level == level::SOCKET && RECEIVE_TIMEOUTS.contains(&name) => limit(patience.receive),
        _ if level == level::SOCKET && SEND_TIMEOUTS.contains(&name) => limit(patience.send),
        Socket::Net(id) => c.resident.program.net.option(now, id, level, name)?,
        Socket::Unix(_) if level != level::SOCKET => return Err(Errno::EOPNOTSUPP.into()),
        Socket::Unix(id) => unix::option(c, id, name)?,
        Socket::Netlink(id) => netlink::option(c, id, level, name)?,
    };
    if level == level::SOCKET && name == PEER_GROUPS && value.len() > room {
        c.write_u32(a[4], value.len() as u32)?;
        return Err(Errno::ERANGE.into());
    }
    let too_small = (name == PEER_NAME && value.len() > room)
        || (name == BIND_TO_DEVICE && !value.is_empty() && room < INTERFACE_NAME);
    if level == level::SOCKET && too_small {
        return Err(Errno::EINVAL.into());
    }
    let len = value.len().min(room);
    c.write_bytes(a[3], value.get(..len).unwrap_or_default())?;
    c.write_u32(a[4], len as u32)?;
    Ok(0)
}

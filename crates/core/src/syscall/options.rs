//! Socket options.
use super::{
    Arguments, clock,
    network::{AF_INET, SOL_SOCKET, Socket, socket_of},
    unix,
};
use crate::context::{Context, Result};
use alloc::vec::Vec;
use shimos_abi::{errno::Errno, time::Nanos};
use shimos_hal::Machine;
use shimos_net::{SocketId, SocketOption};

pub fn setsockopt<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (description, socket) = socket_of(c, a[0])?;
    let value = c.read_bytes(a[3], (a[4] as usize).min(256))?;
    if a[1] as i32 == LEVEL_SOCKET && [SO_RCVTIMEO, SO_SNDTIMEO].contains(&(a[2] as i32)) {
        let limit = time_limit(&value)?;
        let patience = c.description_by(description)?.patience.get_or_insert_default();
        if a[2] as i32 == SO_RCVTIMEO {
            patience.receive = limit;
        } else {
            patience.send = limit;
        }
        return Ok(0);
    }
    match socket {
        Socket::Net(id) => set_net_option(c, id, a[1] as i32, a[2] as i32, &value)?,
        // SO_REUSEADDR, SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE, SO_PRIORITY, SO_LINGER: without effect on Linux, or hints.
        Socket::Unix(_) if a[1] as u32 == SOL_SOCKET && [2, 7, 8, 9, 12, 13].contains(&(a[2] as u32)) => {
            int(&value)?;
        }
        Socket::Unix(_) => return Err(Errno::ENOPROTOOPT.into()),
    }
    Ok(0)
}

const LEVEL_SOCKET: i32 = 1;
const LEVEL_IP: i32 = 0;
const SO_LINGER: i32 = 13;
const SO_RCVTIMEO: i32 = 20;
const SO_SNDTIMEO: i32 = 21;
const SO_DOMAIN: i32 = 39;

fn int(value: &[u8]) -> Result<i32> {
    Ok(value.first_chunk::<4>().map(|bytes| i32::from_le_bytes(*bytes)).ok_or(Errno::EINVAL)?)
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

fn set_net_option<M: Machine>(c: &mut Context<'_, M>, id: SocketId, level: i32, name: i32, value: &[u8]) -> Result<()> {
    let first = int(value)?;
    if level == LEVEL_SOCKET && name == SO_LINGER {
        let seconds = int(value.get(4..).unwrap_or_default())?;
        let linger = if first != 0 { seconds.max(0) } else { -1 };
        let now = c.now;
        return Ok(c.resident.program.net.set_option(now, id, SocketOption::Linger, linger)?);
    }
    if level == LEVEL_IP && [1, 2, 10, 11].contains(&name) {
        // IP_TOS, IP_TTL, IP_MTU_DISCOVER, IP_RECVERR: hints to the network.
        return Ok(());
    }
    let option = SocketOption::from_linux(level, name).ok_or(Errno::ENOPROTOOPT)?;
    let now = c.now;
    Ok(c.resident.program.net.set_option(now, id, option, first)?)
}

fn net_option<M: Machine>(c: &mut Context<'_, M>, id: SocketId, level: i32, name: i32) -> Result<Vec<u8>> {
    if level == LEVEL_SOCKET && name == SO_DOMAIN {
        return Ok((AF_INET as i32).to_le_bytes().to_vec());
    }
    let option = SocketOption::from_linux(level, name).ok_or(Errno::ENOPROTOOPT)?;
    let value = c.resident.program.net.option(id, option)?;
    if option == SocketOption::Linger {
        let (on, seconds) = (i32::from(value >= 0), value.max(0));
        return Ok([on.to_le_bytes(), seconds.to_le_bytes()].concat());
    }
    Ok(value.to_le_bytes().to_vec())
}

pub fn getsockopt<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let (description, socket) = socket_of(c, a[0])?;
    let room = c.read_u32(a[4])? as usize;
    if room > i32::MAX as usize {
        return Err(Errno::EINVAL.into());
    }
    let patience = c.description_by(description)?.patience.unwrap_or_default();
    let limit = |limit: Option<Nanos>| clock::timeval(limit.unwrap_or_default().0).to_vec();
    let value = match socket {
        _ if a[1] as i32 == LEVEL_SOCKET && a[2] as i32 == SO_RCVTIMEO => limit(patience.receive),
        _ if a[1] as i32 == LEVEL_SOCKET && a[2] as i32 == SO_SNDTIMEO => limit(patience.send),
        Socket::Net(id) => net_option(c, id, a[1] as i32, a[2] as i32)?,
        Socket::Unix(id) => unix::option(c, id, a[1] as u32, a[2] as u32)?,
    };
    let len = value.len().min(room);
    c.write_bytes(a[3], &value[..len])?;
    c.write_u32(a[4], len as u32)?;
    Ok(0)
}

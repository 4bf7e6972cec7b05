//! Socket addresses of the internet families as programs have them.
use crate::context::{Context, Result};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;
use shimos_net::Family;

pub const AF_UNSPEC: u16 = 0;
pub const AF_UNIX: u16 = 1;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
pub const AF_NETLINK: u16 = 16;

/// Bytes of `struct sockaddr_in`.
const LENGTH4: usize = 16;
/// The least that counts as `struct sockaddr_in6`: without the scope (RFC 2133).
const LENGTH6: usize = 24;
/// The most that a socket address may be long.
const LONGEST: u64 = 128;

/// The family that an address says it is of.
pub fn family_of(bytes: &[u8]) -> u16 {
    bytes.first_chunk::<2>().map_or(AF_UNSPEC, |bytes| u16::from_le_bytes(*bytes))
}

/// Takes an address of either family apart. One that is too short is invalid, one of another family not supported.
pub fn parse(bytes: &[u8]) -> core::result::Result<SocketAddr, Errno> {
    let port = bytes.get(2..).and_then(|rest| rest.first_chunk::<2>()).map_or(0, |port| u16::from_be_bytes(*port));
    match family_of(bytes) {
        AF_INET => {
            let address = bytes.get(4..8).filter(|_| bytes.len() >= LENGTH4).and_then(|b| b.first_chunk::<4>());
            Ok(SocketAddr::new(Ipv4Addr::from_octets(*address.ok_or(Errno::EINVAL)?).into(), port))
        }
        AF_INET6 => {
            let address = bytes.get(8..24).filter(|_| bytes.len() >= LENGTH6).and_then(|b| b.first_chunk::<16>());
            let scope = bytes.get(24..).and_then(|rest| rest.first_chunk::<4>());
            let scope = scope.map_or(0, |scope| u32::from_le_bytes(*scope));
            let address = Ipv6Addr::from_octets(*address.ok_or(Errno::EINVAL)?);
            Ok(SocketAddrV6::new(address, port, 0, scope).into())
        }
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// The same for a socket that takes addresses of its own family only; the length is looked at first.
pub fn parse_for(family: Family, bytes: &[u8]) -> core::result::Result<SocketAddr, Errno> {
    let least = if family == Family::V4 { LENGTH4 } else { LENGTH6 };
    if bytes.len() < least {
        return Err(Errno::EINVAL);
    }
    match (family, family_of(bytes)) {
        // Old programs bind to all addresses without saying of which family.
        (Family::V4, AF_UNSPEC) if bytes.get(4..8) == Some(&[0; 4]) => {
            let mut named = bytes.to_vec();
            if let Some(first) = named.first_mut() {
                *first = AF_INET as u8;
            }
            parse(&named)
        }
        (Family::V4, AF_INET) | (Family::V6, AF_INET6) => parse(bytes),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// The bytes of an address.
pub fn bytes_of(address: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend_from_slice(&AF_INET.to_le_bytes());
            bytes.extend_from_slice(&v4.port().to_be_bytes());
            bytes.extend_from_slice(&v4.ip().octets());
            bytes.extend_from_slice(&[0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend_from_slice(&AF_INET6.to_le_bytes());
            bytes.extend_from_slice(&v6.port().to_be_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&v6.ip().octets());
            bytes.extend_from_slice(&v6.scope_id().to_le_bytes());
        }
    }
    bytes
}

/// Reads an address from the caller's memory.
pub fn read<M: Machine>(c: &mut Context<'_, M>, addr: u64, len: u64) -> Result<Vec<u8>> {
    let len = u64::from(len as u32);
    if len > LONGEST {
        return Err(Errno::EINVAL.into());
    }
    c.read_bytes(addr, len as usize)
}

/// Stores an address where the caller wants it, cut to the room there is; the true length goes to `len_addr`.
pub fn store<M: Machine>(c: &mut Context<'_, M>, addr: u64, len_addr: u64, bytes: &[u8]) -> Result<()> {
    if addr == 0 {
        return Ok(());
    }
    let room = c.read_u32(len_addr)?;
    if (room as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    c.write_bytes(addr, bytes.get(..room as usize).unwrap_or(bytes))?;
    c.write_u32(len_addr, bytes.len() as u32)
}

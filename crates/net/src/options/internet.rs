//! Options of the levels SOL_IP and SOL_IPV6.
use super::{Flags, Membership, Options, Privilege, bytes, int, int_or_byte};
use crate::{
    config::{CARD_INDEX, Config, LOOPBACK_INDEX},
    endpoint::Host,
};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use shimos_abi::errno::Errno;

/// Names of the level SOL_IP.
mod v4 {
    pub const TOS: i32 = 1;
    pub const TTL: i32 = 2;
    pub const OPTIONS: i32 = 4;
    pub const TELL_OPTIONS: i32 = 6;
    pub const RETURN_OPTIONS: i32 = 7;
    pub const PACKET_INFO: i32 = 8;
    pub const DISCOVERY: i32 = 10;
    pub const ERRORS: i32 = 11;
    pub const TELL_TTL: i32 = 12;
    pub const TELL_TOS: i32 = 13;
    pub const FREE_BIND: i32 = 15;
    pub const TRANSPARENT: i32 = 19;
    pub const TELL_ORIGINAL: i32 = 20;
    pub const LEAST_TTL: i32 = 21;
    pub const BIND_WITHOUT_PORT: i32 = 24;
    pub const GROUP_DEVICE: i32 = 32;
    pub const GROUP_TTL: i32 = 33;
    pub const GROUP_LOOP: i32 = 34;
    pub const JOIN: i32 = 35;
    pub const LEAVE: i32 = 36;
    pub const JOIN_GROUP: i32 = 42;
    pub const LEAVE_GROUP: i32 = 45;
    pub const GROUPS_OF_ALL: i32 = 49;
}

/// Names of the level SOL_IPV6.
mod v6 {
    pub const HOPS: i32 = 16;
    pub const GROUP_DEVICE: i32 = 17;
    pub const GROUP_HOPS: i32 = 18;
    pub const GROUP_LOOP: i32 = 19;
    pub const JOIN: i32 = 20;
    pub const LEAVE: i32 = 21;
    pub const DISCOVERY: i32 = 23;
    pub const MTU: i32 = 24;
    pub const ERRORS: i32 = 25;
    pub const ONLY: i32 = 26;
    pub const GROUPS_OF_ALL: i32 = 29;
    pub const FLOW_INFO_SEND: i32 = 33;
    pub const JOIN_GROUP: i32 = 42;
    pub const LEAVE_GROUP: i32 = 45;
    pub const TELL_PACKET_INFO: i32 = 49;
    pub const PACKET_INFO: i32 = 50;
    pub const TELL_HOPS: i32 = 51;
    pub const TELL_PATH_MTU: i32 = 60;
    pub const DONT_FRAGMENT: i32 = 62;
    pub const TELL_CLASS: i32 = 66;
    pub const CLASS: i32 = 67;
    pub const AUTO_FLOW_LABEL: i32 = 70;
    pub const LEAST_HOPS: i32 = 73;
    pub const TELL_ORIGINAL: i32 = 74;
    pub const TRANSPARENT: i32 = 75;
    pub const FREE_BIND: i32 = 78;
}

/// What every path takes of IPv6 (RFC 8200, 5).
const LEAST_MTU6: i32 = 1280;
/// IP_MTU_DISCOVER as new sockets have it, and the largest value of it.
const DISCOVERY: u8 = 1;
const DISCOVERY_MAX: i32 = 5;
/// Groups one socket may join (net.ipv4.igmp_max_memberships).
const GROUPS: usize = 20;

/// What is done to a membership.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Joining {
    Join,
    Leave,
}

fn flag4(name: i32) -> Option<(Flags, bool)> {
    Some(match name {
        v4::TELL_OPTIONS => (Flags::TELL_OPTIONS, false),
        v4::RETURN_OPTIONS => (Flags::RETURN_OPTIONS, false),
        v4::PACKET_INFO => (Flags::PACKET_INFO4, false),
        v4::ERRORS => (Flags::ERRORS4, false),
        v4::TELL_TTL => (Flags::TELL_TTL, false),
        v4::TELL_TOS => (Flags::TELL_TOS, false),
        v4::FREE_BIND => (Flags::FREE_BIND, false),
        v4::TELL_ORIGINAL => (Flags::TELL_ORIGINAL, false),
        v4::BIND_WITHOUT_PORT => (Flags::BIND_WITHOUT_PORT, false),
        v4::GROUP_LOOP => (Flags::NO_GROUP_LOOP4, true),
        v4::GROUPS_OF_ALL => (Flags::ONLY_OWN_GROUPS4, true),
        _ => return None,
    })
}

fn flag6(name: i32) -> Option<(Flags, bool)> {
    Some(match name {
        v6::ERRORS => (Flags::ERRORS6, false),
        v6::ONLY => (Flags::ONLY_V6, false),
        v6::GROUP_LOOP => (Flags::NO_GROUP_LOOP6, true),
        v6::GROUPS_OF_ALL => (Flags::ONLY_OWN_GROUPS6, true),
        v6::FLOW_INFO_SEND => (Flags::FLOW_INFO_SEND, false),
        v6::TELL_PACKET_INFO => (Flags::PACKET_INFO6, false),
        v6::TELL_HOPS => (Flags::TELL_HOPS, false),
        v6::TELL_PATH_MTU => (Flags::TELL_PATH_MTU, false),
        v6::DONT_FRAGMENT => (Flags::DONT_FRAGMENT6, false),
        v6::TELL_CLASS => (Flags::TELL_CLASS, false),
        v6::AUTO_FLOW_LABEL => (Flags::AUTO_FLOW_LABEL_OFF, true),
        v6::TELL_ORIGINAL => (Flags::TELL_ORIGINAL6, false),
        v6::FREE_BIND => (Flags::FREE_BIND, false),
        _ => return None,
    })
}

/// A byte of a header: -1 for the usual value.
fn limit(value: i32, least: i32) -> Result<Option<u8>, Errno> {
    match value {
        -1 => Ok(None),
        value if value < least => Err(Errno::EINVAL),
        value => u8::try_from(value).map(Some).map_err(|_| Errno::EINVAL),
    }
}

impl Options {
    /// Reads an option of the level SOL_IP.
    pub(crate) fn internet4(&self, name: i32) -> Result<Vec<u8>, Errno> {
        if let Some((flag, opposite)) = flag4(name) {
            return Ok(bytes(i32::from(self.has(flag) != opposite)));
        }
        Ok(match name {
            v4::TOS => bytes(self.v4.tos.into()),
            v4::TTL => bytes(self.v4.ttl.unwrap_or(crate::packet::TTL).into()),
            v4::OPTIONS => Vec::new(),
            v4::DISCOVERY => bytes(self.v4.discovery.unwrap_or(DISCOVERY).into()),
            v4::TRANSPARENT => bytes(self.has(Flags::TRANSPARENT).into()),
            v4::LEAST_TTL => bytes(self.v4.least_ttl.into()),
            v4::GROUP_TTL => bytes(self.v4.group_ttl.unwrap_or(1).into()),
            _ => return Err(Errno::ENOPROTOOPT),
        })
    }

    /// The interface for packets to groups, as IP_MULTICAST_IF tells it: an address.
    pub(crate) fn group_source(&self, config: &Config) -> Ipv4Addr {
        match self.v4.group_device {
            LOOPBACK_INDEX => Ipv4Addr::LOCALHOST,
            CARD_INDEX => config.address,
            _ => Ipv4Addr::UNSPECIFIED,
        }
    }

    /// Changes an option of the level SOL_IP.
    pub(crate) fn set_internet4(
        &mut self,
        privilege: Privilege,
        config: &Config,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        match name {
            v4::JOIN | v4::LEAVE => {
                let joining = if name == v4::JOIN { Joining::Join } else { Joining::Leave };
                let (group, device) = membership4(config, value)?;
                return self.change_membership(joining, group.into(), device);
            }
            v4::JOIN_GROUP | v4::LEAVE_GROUP => {
                let joining = if name == v4::JOIN_GROUP { Joining::Join } else { Joining::Leave };
                return self.change_group(joining, value);
            }
            v4::GROUP_DEVICE => {
                self.v4.group_device = device4(config, value)?;
                return Ok(());
            }
            v4::OPTIONS if value.is_empty() => return Ok(()),
            v4::OPTIONS => return Err(Errno::EINVAL),
            _ => {}
        }
        let first = int_or_byte(value)?;
        if let Some((flag, opposite)) = flag4(name) {
            self.flags.set(flag, (first != 0) != opposite);
            return Ok(());
        }
        match name {
            v4::TOS => self.v4.tos = first as u8 & !3 | self.v4.tos & 3,
            v4::TTL => self.v4.ttl = limit(first, 1)?,
            v4::DISCOVERY if (0..=DISCOVERY_MAX).contains(&first) => self.v4.discovery = Some(first as u8),
            v4::TRANSPARENT => {
                if first != 0 && privilege != Privilege::Admin {
                    return Err(Errno::EPERM);
                }
                self.flags.set(Flags::TRANSPARENT, first != 0);
            }
            v4::LEAST_TTL => self.v4.least_ttl = u8::try_from(first).map_err(|_| Errno::EINVAL)?,
            v4::GROUP_TTL => self.v4.group_ttl = limit(first, 0)?,
            v4::DISCOVERY => return Err(Errno::EINVAL),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    /// Reads an option of the level SOL_IPV6.
    pub(crate) fn internet6(&self, name: i32) -> Result<Vec<u8>, Errno> {
        if let Some((flag, opposite)) = flag6(name) {
            return Ok(bytes(i32::from(self.has(flag) != opposite)));
        }
        Ok(match name {
            v6::HOPS => bytes(self.v6.ttl.unwrap_or(crate::packet::TTL).into()),
            v6::GROUP_DEVICE => bytes(self.v6.group_device as i32),
            v6::GROUP_HOPS => bytes(self.v6.group_ttl.unwrap_or(1).into()),
            v6::DISCOVERY => bytes(self.v6.discovery.unwrap_or(DISCOVERY).into()),
            v6::CLASS => bytes(self.v6.tos.into()),
            v6::LEAST_HOPS => bytes(self.v6.least_ttl.into()),
            v6::TRANSPARENT => bytes(self.has(Flags::TRANSPARENT).into()),
            v6::PACKET_INFO => {
                let address = match self.v6.source {
                    Some(Host(IpAddr::V6(v6))) => v6,
                    _ => Ipv6Addr::UNSPECIFIED,
                };
                [address.octets().as_slice(), &[0; 4]].concat()
            }
            _ => return Err(Errno::ENOPROTOOPT),
        })
    }

    /// Changes an option of the level SOL_IPV6.
    pub(crate) fn set_internet6(
        &mut self,
        privilege: Privilege,
        config: &Config,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        match name {
            v6::JOIN | v6::LEAVE => {
                let joining = if name == v6::JOIN { Joining::Join } else { Joining::Leave };
                let group = value.first_chunk::<16>().ok_or(Errno::EINVAL)?;
                let device = int(value.get(16..).unwrap_or_default())?;
                let device = if device == 0 { CARD_INDEX } else { check_device(device)? };
                let group = Ipv6Addr::from_octets(*group);
                if !group.is_multicast() {
                    return Err(Errno::EINVAL);
                }
                return self.change_membership(joining, group.into(), device);
            }
            v6::JOIN_GROUP | v6::LEAVE_GROUP => {
                let joining = if name == v6::JOIN_GROUP { Joining::Join } else { Joining::Leave };
                return self.change_group(joining, value);
            }
            v6::PACKET_INFO => {
                let address = value.first_chunk::<16>().ok_or(Errno::EINVAL)?;
                let address = Ipv6Addr::from_octets(*address);
                if !address.is_unspecified() && !config.is_local(address.into()) {
                    return Err(Errno::EADDRNOTAVAIL);
                }
                self.v6.source = (!address.is_unspecified()).then_some(Host(address.into()));
                return Ok(());
            }
            _ => {}
        }
        let first = int(value)?;
        if let Some((flag, opposite)) = flag6(name) {
            self.flags.set(flag, (first != 0) != opposite);
            return Ok(());
        }
        match name {
            v6::HOPS => self.v6.ttl = limit(first, 0)?,
            v6::GROUP_DEVICE => {
                self.v6.group_device = if first == 0 { 0 } else { check_device(first)? };
            }
            v6::GROUP_HOPS => self.v6.group_ttl = limit(first, 0)?,
            v6::DISCOVERY if (0..=DISCOVERY_MAX).contains(&first) => self.v6.discovery = Some(first as u8),
            v6::CLASS => self.v6.tos = limit(first, 0)?.unwrap_or(0),
            v6::LEAST_HOPS => self.v6.least_ttl = u8::try_from(first).map_err(|_| Errno::EINVAL)?,
            v6::TRANSPARENT => {
                if first != 0 && privilege != Privilege::Admin {
                    return Err(Errno::EPERM);
                }
                self.flags.set(Flags::TRANSPARENT, first != 0);
            }
            // None is all that the path takes.
            v6::MTU if first == 0 => self.v6.longest = None,
            v6::MTU if first < LEAST_MTU6 => return Err(Errno::EINVAL),
            v6::MTU => self.v6.longest = Some(first.min(u16::MAX.into()) as u16),
            v6::DISCOVERY => return Err(Errno::EINVAL),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    /// MCAST_JOIN_GROUP and MCAST_LEAVE_GROUP: `struct group_req`.
    fn change_group(&mut self, joining: Joining, value: &[u8]) -> Result<(), Errno> {
        let device = int(value)?;
        let device = if device == 0 { CARD_INDEX } else { check_device(device)? };
        let address = value.get(8..136).ok_or(Errno::EINVAL)?;
        let group: IpAddr = match address {
            [2, 0, _, _, a, b, c, d, ..] => Ipv4Addr::new(*a, *b, *c, *d).into(),
            [10, 0, ..] => {
                let octets = address.get(8..24).and_then(|b| b.first_chunk::<16>()).ok_or(Errno::EINVAL)?;
                Ipv6Addr::from_octets(*octets).into()
            }
            _ => return Err(Errno::EADDRNOTAVAIL),
        };
        if !group.is_multicast() {
            return Err(Errno::EINVAL);
        }
        self.change_membership(joining, group, device)
    }

    fn change_membership(&mut self, joining: Joining, group: IpAddr, device: u32) -> Result<(), Errno> {
        let wanted = Membership { group: Host(group), device };
        let place = self.groups.iter().position(|known| *known == wanted);
        match (joining, place) {
            (Joining::Join, Some(_)) => Err(Errno::EADDRINUSE),
            (Joining::Join, None) if self.groups.len() >= GROUPS => Err(Errno::ENOBUFS),
            (Joining::Join, None) => {
                self.groups.push(wanted);
                Ok(())
            }
            (Joining::Leave, Some(place)) => {
                self.groups.remove(place);
                Ok(())
            }
            (Joining::Leave, None) => Err(Errno::EADDRNOTAVAIL),
        }
    }

    /// Whether this group was joined on this interface.
    pub(crate) fn is_member(&self, group: IpAddr, device: u32) -> bool {
        self.groups.iter().any(|known| known.group.0 == group && known.device == device)
    }
}

fn check_device(index: i32) -> Result<u32, Errno> {
    match index as u32 {
        index @ (LOOPBACK_INDEX | CARD_INDEX) => Ok(index),
        _ => Err(Errno::ENODEV),
    }
}

fn octets4(value: &[u8], at: usize) -> Option<Ipv4Addr> {
    value.get(at..)?.first_chunk::<4>().map(|octets| Ipv4Addr::from_octets(*octets))
}

/// The interface that an address or a `struct ip_mreqn` names.
fn device4(config: &Config, value: &[u8]) -> Result<u32, Errno> {
    let (address, index) = if value.len() >= 8 {
        (octets4(value, 4), value.get(8..).and_then(|rest| int(rest).ok()).unwrap_or(0))
    } else {
        (octets4(value, 0), 0)
    };
    let address = address.ok_or(Errno::EINVAL)?;
    match (index, address) {
        (0, address) if address.is_unspecified() => Ok(0),
        (0, address) if address.is_loopback() => Ok(LOOPBACK_INDEX),
        (0, address) if address == config.address => Ok(CARD_INDEX),
        (0, _) => Err(Errno::EADDRNOTAVAIL),
        (index, _) => check_device(index).map_err(|_| Errno::EADDRNOTAVAIL),
    }
}

/// `struct ip_mreq` or `ip_mreqn`: a group, and an address or number of an interface.
fn membership4(config: &Config, value: &[u8]) -> Result<(Ipv4Addr, u32), Errno> {
    if value.len() < 8 {
        return Err(Errno::EINVAL);
    }
    let group = octets4(value, 0).ok_or(Errno::EINVAL)?;
    if !group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    match device4(config, value) {
        Ok(0) => Ok((group, CARD_INDEX)),
        Ok(device) => Ok((group, device)),
        Err(_) => Err(Errno::ENODEV),
    }
}

//! The addresses of a program: which are its own, which are neighbours, and where packets to all others go.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use minicbor::{Decode, Encode};

/// Number of the loopback interface.
pub const LOOPBACK_INDEX: u32 = 1;
/// Number of the network card's interface.
pub const CARD_INDEX: u32 = 2;

/// The addresses of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Config {
    /// Its hardware address.
    #[n(0)]
    pub mac: [u8; 6],
    /// Its IPv4 address.
    #[n(1)]
    pub address: Ipv4Addr,
    /// Bits of the address that name its network.
    #[n(2)]
    pub prefix: u8,
    /// Where packets to other networks go; unspecified if there is no such place.
    #[n(3)]
    pub gateway: Ipv4Addr,
    /// Its global IPv6 address, if it has one. A link-local one follows from the hardware address.
    #[n(4)]
    pub v6: Option<Config6>,
}

/// The global IPv6 address of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Config6 {
    /// The address.
    #[n(0)]
    pub address: Ipv6Addr,
    /// Bits of the address that name its network.
    #[n(1)]
    pub prefix: u8,
    /// Where packets to other networks go; unspecified if there is no such place.
    #[n(2)]
    pub gateway: Ipv6Addr,
}

fn mask4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

fn mask6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0)
}

/// The group that is asked for the hardware address of `address` (RFC 4291).
pub(crate) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let low = address.to_bits() & 0xff_ffff;
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | low)
}

/// Every host on the link.
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Every host on the link, for IPv4.
pub(crate) const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);

impl Config {
    /// The IPv6 address that is valid on the link only: `fe80::` and the hardware address (EUI-64).
    pub fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac.map(u16::from);
        Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
    }

    /// The address of all hosts of the network.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !mask4(self.prefix))
    }

    /// The network mask.
    pub fn netmask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask4(self.prefix))
    }

    /// The address of the network.
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() & mask4(self.prefix))
    }

    /// Whether packets to `address` come back to this program.
    pub fn is_local(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => v4.is_loopback() || v4 == self.address,
            IpAddr::V6(v6) => {
                v6.is_loopback() || v6 == self.link_local() || self.v6.is_some_and(|own| own.address == v6)
            }
        }
    }

    /// Whether `address` names every host of the network.
    pub(crate) fn is_broadcast(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => {
                v4.is_broadcast()
                    || (self.prefix < 31 && v4 == self.broadcast())
                    || (v4.is_loopback() && v4.to_bits() & 0xff_ffff == 0xff_ffff)
            }
            IpAddr::V6(_) => false,
        }
    }

    /// Whether `address` names more than one host.
    pub(crate) fn is_group(&self, address: IpAddr) -> bool {
        address.is_multicast() || self.is_broadcast(address)
    }

    /// The address that packets to `target` come from.
    pub fn source_for(&self, target: IpAddr) -> IpAddr {
        match target {
            IpAddr::V4(v4) if v4.is_loopback() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V4(_) => self.address.into(),
            IpAddr::V6(v6) if v6.is_loopback() => Ipv6Addr::LOCALHOST.into(),
            IpAddr::V6(v6) => {
                let near = v6.is_unicast_link_local() || v6.octets()[..2] == [0xff, 0x02];
                let link_local = self.link_local();
                self.v6.filter(|_| !near).map_or(link_local, |own| own.address).into()
            }
        }
    }

    /// Whether one host of this or another network can be meant by `address`.
    pub(crate) fn is_unicast(&self, address: IpAddr) -> bool {
        !address.is_unspecified() && !self.is_group(address)
    }

    /// The neighbour that takes packets to `target`.
    pub fn next_hop(&self, target: IpAddr) -> Option<IpAddr> {
        match target {
            IpAddr::V4(v4) => {
                if (v4.to_bits() ^ self.address.to_bits()) & mask4(self.prefix) == 0 {
                    Some(target)
                } else {
                    (!self.gateway.is_unspecified()).then_some(self.gateway.into())
                }
            }
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(target),
            IpAddr::V6(v6) => {
                let own = self.v6?;
                if (v6.to_bits() ^ own.address.to_bits()) & mask6(own.prefix) == 0 {
                    Some(target)
                } else {
                    (!own.gateway.is_unspecified()).then_some(own.gateway.into())
                }
            }
        }
    }

    /// Whether packets to `target` can be sent at all.
    pub(crate) fn reaches(&self, target: IpAddr) -> bool {
        self.is_local(target) || self.is_group(target) || self.next_hop(target).is_some()
    }

    /// Whether this IPv6 group is always listened to.
    pub(crate) fn is_own_group(&self, group: IpAddr) -> bool {
        match group {
            IpAddr::V4(v4) => v4 == ALL_HOSTS,
            IpAddr::V6(v6) => {
                v6 == ALL_NODES
                    || v6 == solicited_node(self.link_local())
                    || self.v6.is_some_and(|own| v6 == solicited_node(own.address))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            mac: [0x52, 0x53, 0x48, 0x4d, 0, 7],
            address: Ipv4Addr::new(10, 77, 1, 7),
            prefix: 16,
            gateway: Ipv4Addr::new(10, 77, 0, 2),
            v6: Some(Config6 {
                address: "fec0::1:7".parse().unwrap(),
                prefix: 64,
                gateway: "fec0::2".parse().unwrap(),
            }),
        }
    }

    #[test]
    fn addresses_follow_from_the_hardware_address() {
        let c = config();
        assert_eq!(c.link_local(), "fe80::5053:48ff:fe4d:7".parse::<Ipv6Addr>().unwrap());
        assert_eq!(solicited_node(c.link_local()), "ff02::1:ff4d:7".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn packets_find_their_way() {
        let c = config();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (target, source, hop) in [
            ("10.77.3.1", "10.77.1.7", Some("10.77.3.1")),
            ("8.8.8.8", "10.77.1.7", Some("10.77.0.2")),
            ("fec0::99", "fec0::1:7", Some("fec0::99")),
            ("2001:db8::1", "fec0::1:7", Some("fec0::2")),
            ("fe80::1", "fe80::5053:48ff:fe4d:7", Some("fe80::1")),
        ] {
            assert_eq!(c.source_for(ip(target)), ip(source), "{target}");
            assert_eq!(c.next_hop(ip(target)), hop.map(ip), "{target}");
            assert!(!c.is_local(ip(target)));
        }
        for own in ["127.9.9.9", "10.77.1.7", "::1", "fec0::1:7", "fe80::5053:48ff:fe4d:7"] {
            assert!(c.is_local(ip(own)), "{own}");
        }
        assert!(c.is_broadcast(ip("10.77.255.255")) && c.is_broadcast(ip("255.255.255.255")));
        let bare = Config { v6: None, ..c };
        assert_eq!(bare.next_hop(ip("2001:db8::1")), None);
    }
}

//! An IPv4 address with a port, and the pair of them that names a connection.
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use minicbor::{Decode, Encode};
use shimos_abi::errno::Errno;

/// One end of a connection. Ordered by port first, so that all uses of one local port are neighbours in a map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub(crate) struct Endpoint {
    #[n(0)]
    pub port: u16,
    #[n(1)]
    pub address: Ipv4Addr,
}

impl Endpoint {
    /// No address, no port.
    pub const UNSPECIFIED: Endpoint = Endpoint { port: 0, address: Ipv4Addr::UNSPECIFIED };

    pub const fn new(address: Ipv4Addr, port: u16) -> Endpoint {
        Endpoint { port, address }
    }

    /// The endpoint a program named, if it is of the family this stack speaks.
    pub fn from_socket(address: SocketAddr) -> Result<Endpoint, Errno> {
        match address.ip() {
            IpAddr::V4(v4) => Ok(Endpoint::new(v4, address.port())),
            IpAddr::V6(_) => Err(Errno::EAFNOSUPPORT),
        }
    }

    pub fn to_socket(self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), self.port)
    }

    /// Whether packets to `other` are meant for a socket bound here.
    pub fn covers(self, other: Endpoint) -> bool {
        self.port == other.port && (self.address.is_unspecified() || self.address == other.address)
    }

    /// Whether sockets bound here and there would get some of the same packets.
    pub fn overlaps(self, other: Endpoint) -> bool {
        self.covers(other) || other.covers(self)
    }
}

/// The two ends of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub(crate) struct Tuple {
    #[n(0)]
    pub local: Endpoint,
    #[n(1)]
    pub remote: Endpoint,
}

impl Tuple {
    /// The smallest and the largest tuple with this local port.
    pub const fn range(port: u16) -> core::ops::RangeInclusive<Tuple> {
        let last = Endpoint::new(Ipv4Addr::BROADCAST, u16::MAX);
        Tuple { local: Endpoint::new(Ipv4Addr::UNSPECIFIED, port), remote: Endpoint::UNSPECIFIED }..=Tuple {
            local: Endpoint::new(Ipv4Addr::BROADCAST, port),
            remote: last,
        }
    }
}

//! An address with a port, and the pair of them that names a connection.
//!
//! An IPv4 address in IPv6 clothes (`::ffff:a.b.c.d`) is kept as the IPv4 address that it is; only the socket's family says
//! how a program sees it.
use crate::config::CARD_INDEX;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use minicbor::{Decode, Encode};
use shimos_abi::{
    errno::Errno,
    flat,
    flat::{Flat, Source},
};

/// Which of the two internet families a socket is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum Family {
    /// AF_INET.
    #[default]
    #[n(0)]
    V4,
    /// AF_INET6.
    #[n(1)]
    V6,
}

impl Flat for Family {
    fn write(&self, to: &mut alloc::vec::Vec<u8>) {
        (*self == Family::V6).write(to);
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<Family> {
        bool::read(from).map(|is_v6| if is_v6 { Family::V6 } else { Family::V4 })
    }
}

impl Family {
    /// The address that stands for all.
    pub const fn unspecified(self) -> IpAddr {
        match self {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// An endpoint as a program with a socket of this family sees it.
    pub(crate) fn show(self, end: Endpoint) -> SocketAddr {
        match (self, end.address) {
            (Family::V4, address) => SocketAddr::new(address, end.port),
            (Family::V6, IpAddr::V4(v4)) if v4.is_unspecified() => {
                SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), end.port)
            }
            (Family::V6, IpAddr::V4(v4)) => SocketAddr::new(v4.to_ipv6_mapped().into(), end.port),
            (Family::V6, IpAddr::V6(v6)) => {
                let scope = if v6.is_unicast_link_local() { CARD_INDEX } else { 0 };
                SocketAddrV6::new(v6, end.port, 0, scope).into()
            }
        }
    }
}

/// Encoding of addresses: four bytes or sixteen.
pub(crate) mod address {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use minicbor::{
        decode::{self, Decoder},
        encode::{self, Encoder, Write},
    };

    pub fn encode<C, W: Write>(address: &IpAddr, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        match address {
            IpAddr::V4(v4) => e.bytes(&v4.octets())?.ok(),
            IpAddr::V6(v6) => e.bytes(&v6.octets())?.ok(),
        }
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<IpAddr, decode::Error> {
        let bytes = d.bytes()?;
        if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
            Ok(Ipv4Addr::from_octets(octets).into())
        } else if let Ok(octets) = <[u8; 16]>::try_from(bytes) {
            Ok(Ipv6Addr::from_octets(octets).into())
        } else {
            Err(decode::Error::message("no address"))
        }
    }
}

/// An address as the key of a map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct Host(#[cbor(n(0), with = "address")] pub IpAddr);

flat!(Host { 0 });

/// One end of a connection. Ordered by port first, so that all uses of one local port are neighbours in a map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub(crate) struct Endpoint {
    #[n(0)]
    pub port: u16,
    #[cbor(n(1), with = "address")]
    pub address: IpAddr,
}

flat!(Endpoint { port, address });

impl Endpoint {
    pub const fn new(address: IpAddr, port: u16) -> Endpoint {
        Endpoint { port, address }
    }

    /// The endpoint a program named with an address of either family; an IPv4 address in IPv6 clothes is undressed.
    pub fn from_socket(address: SocketAddr) -> Result<Endpoint, Errno> {
        if let SocketAddr::V6(v6) = address
            && v6.ip().is_unicast_link_local()
        {
            match v6.scope_id() {
                0 => return Err(Errno::EINVAL),
                CARD_INDEX => {}
                _ => return Err(Errno::ENODEV),
            }
        }
        Ok(Endpoint::new(address.ip().to_canonical(), address.port()))
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

flat!(Tuple { local, remote });

impl Tuple {
    /// The smallest and the largest tuple with this local port.
    pub const fn range(port: u16) -> core::ops::RangeInclusive<Tuple> {
        let first = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let last = IpAddr::V6(Ipv6Addr::from_bits(u128::MAX));
        Tuple { local: Endpoint::new(first, port), remote: Endpoint::new(first, 0) }..=Tuple {
            local: Endpoint::new(last, port),
            remote: Endpoint::new(last, u16::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_encoding() {
        for text in ["10.0.0.1", "fec0::1", "::1"] {
            let end = Endpoint::new(text.parse().unwrap(), 80);
            assert_eq!(minicbor::decode::<Endpoint>(&minicbor::to_vec(end).unwrap()).unwrap(), end);
        }
        assert!(
            minicbor::decode::<Host>(&minicbor::to_vec(minicbor::bytes::ByteVec::from([1; 5].to_vec())).unwrap())
                .is_err()
        );
    }

    #[test]
    fn mapped_addresses_are_undressed_and_dressed() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
        let end = Endpoint::from_socket(mapped).unwrap();
        assert_eq!(end, Endpoint::new("10.0.0.1".parse().unwrap(), 80));
        assert_eq!(Family::V6.show(end), mapped);
        assert_eq!(Family::V4.show(end), "10.0.0.1:80".parse().unwrap());
        let near: SocketAddr = "[fe80::1%2]:80".parse().unwrap();
        assert_eq!(Family::V6.show(Endpoint::from_socket(near).unwrap()), near);
        assert_eq!(Endpoint::from_socket("[fe80::1]:80".parse().unwrap()), Err(Errno::EINVAL));
    }
}

//! Netlink sockets: questions about interfaces, addresses, routes and neighbours. Nothing can be changed this way: the
//! network of a program is what the machine gave it.
mod attributes;
mod route;

pub use route::answer;

use alloc::{collections::VecDeque, vec::Vec};
use minicbor::{Decode, Encode};
use shimos_net::Options;

/// The family of questions about the network (NETLINK_ROUTE), the only one there is.
pub const ROUTE: i32 = 0;
/// Bytes of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// Bytes of answers in one datagram, so that the page-sized buffers of the C library take it.
const DATAGRAM: usize = 3776;
/// What keeping a datagram costs besides its bytes.
const COST: usize = 256;

/// A netlink socket.
#[derive(Clone, Debug, Encode, Decode)]
pub struct NetlinkSocket {
    /// The number it is known by (`nl_pid`); 0 before it has one.
    #[n(0)]
    pub port: u32,
    /// Groups it listens to. Nothing ever changes, so nothing is ever said there.
    #[n(1)]
    pub groups: u64,
    /// Datagrams to be received.
    #[n(2)]
    pub queue: VecDeque<Datagram>,
    /// Its settings of the level SOL_SOCKET.
    #[n(3)]
    pub options: Options,
    /// Its settings of the level SOL_NETLINK.
    #[n(4)]
    pub manners: Manners,
    /// Whom it talks to, if that is fixed: port and groups.
    #[n(5)]
    pub peer: Option<(u32, u32)>,
    /// Answers were lost for want of room.
    #[n(6)]
    pub overrun: Option<Lost>,
}

/// A marker that something was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Lost;

/// A datagram of answers.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Datagram(
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub Vec<u8>,
);

bitflags::bitflags! {
    /// Settings of the level SOL_NETLINK.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Manners: u8 {
        /// NETLINK_PKTINFO.
        const PACKET_INFO = 1;
        /// NETLINK_BROADCAST_ERROR.
        const BROADCAST_ERROR = 2;
        /// NETLINK_NO_ENOBUFS.
        const NO_OVERRUN = 4;
        /// NETLINK_CAP_ACK.
        const SHORT_ERRORS = 8;
        /// NETLINK_EXT_ACK.
        const EXTENDED_ERRORS = 16;
        /// NETLINK_GET_STRICT_CHK.
        const STRICT = 32;
    }
}

impl<C> Encode<C> for Manners {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.u8(self.bits())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Manners {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Ok(Manners::from_bits_truncate(d.u8()?))
    }
}

impl Default for NetlinkSocket {
    fn default() -> NetlinkSocket {
        let mut options = Options::new();
        options.send_buffer = shimos_net::BUFFER_MAX;
        options.receive_buffer = shimos_net::BUFFER_MAX;
        NetlinkSocket {
            port: 0,
            groups: 0,
            queue: VecDeque::new(),
            options,
            manners: Manners::default(),
            peer: None,
            overrun: None,
        }
    }
}

impl NetlinkSocket {
    /// Adds answers, as many to a datagram as fit.
    pub fn push(&mut self, messages: Vec<Vec<u8>>) {
        let mut datagram = Vec::new();
        for message in messages {
            if !datagram.is_empty() && datagram.len() + message.len() > DATAGRAM {
                self.push_datagram(core::mem::take(&mut datagram));
            }
            datagram.extend_from_slice(&message);
        }
        if !datagram.is_empty() {
            self.push_datagram(datagram);
        }
    }

    fn push_datagram(&mut self, datagram: Vec<u8>) {
        let used: usize = self.queue.iter().map(|known| known.0.len() + COST).sum();
        if used > self.options.receive_buffer as usize {
            self.overrun = Some(Lost);
            return;
        }
        self.queue.push_back(Datagram(datagram));
    }
}

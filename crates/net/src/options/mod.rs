//! Settings of sockets: getsockopt(2) and setsockopt(2). Names and values are those of Linux.
mod general;
mod internet;
mod stream;

pub use stream::TcpInfo;
pub(crate) use stream::state_number;

use crate::endpoint::Host;
use alloc::vec::Vec;
use minicbor::{Decode, Encode};
use shimos_abi::{
    errno::Errno,
    flat,
    flat::{Flat, Source},
};

/// What the caller may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privilege {
    /// What everybody may.
    None,
    /// What needs CAP_NET_ADMIN and CAP_NET_RAW as well.
    Admin,
}

/// Levels of options.
pub mod level {
    /// SOL_SOCKET.
    pub const SOCKET: i32 = 1;
    /// SOL_IP.
    pub const IP: i32 = 0;
    /// SOL_TCP.
    pub const TCP: i32 = 6;
    /// SOL_UDP.
    pub const UDP: i32 = 17;
    /// SOL_UDPLITE.
    pub const LITE: i32 = 136;
    /// SOL_IPV6.
    pub const IPV6: i32 = 41;
    /// SOL_ICMPV6.
    pub const ICMP6: i32 = 58;
    /// SOL_RAW.
    pub const RAW: i32 = 255;
}

/// The settings of one socket.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Options {
    #[n(0)]
    pub(crate) flags: Flags,
    /// Bytes that may wait to be sent.
    #[n(1)]
    pub send_buffer: u32,
    /// Bytes that may wait to be received.
    #[n(2)]
    pub receive_buffer: u32,
    /// Seconds, if on.
    #[n(3)]
    pub linger: Option<u32>,
    #[n(4)]
    pub(crate) keep_idle: u32,
    #[n(5)]
    pub(crate) keep_interval: u32,
    #[n(6)]
    pub(crate) keep_count: u32,
    /// How often the answer to a SYN is sent again before a connection without data is given up; 0 is off.
    #[n(7)]
    pub(crate) defer_accept: u32,
    #[cbor(n(8), default)]
    pub(crate) general: General,
    /// For packets by IPv4.
    #[cbor(n(9), default)]
    pub(crate) v4: Internet,
    /// For packets by IPv6.
    #[cbor(n(10), default)]
    pub(crate) v6: Internet,
    #[cbor(n(11), default)]
    pub(crate) stream: Stream,
    /// Groups that were joined.
    #[cbor(n(12), default)]
    pub(crate) groups: Vec<Membership>,
}

flat!(Options {
    flags,
    send_buffer,
    receive_buffer,
    linger,
    keep_idle,
    keep_interval,
    keep_count,
    defer_accept,
    general,
    v4,
    v6,
    stream,
    groups,
});

/// More settings of the level of sockets.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub(crate) struct General {
    #[n(0)]
    pub priority: i32,
    #[n(1)]
    pub mark: u32,
    /// Bytes that make a stream readable; 0 counts as 1.
    #[n(2)]
    pub receive_low: u32,
    /// The only interface it uses.
    #[n(3)]
    pub device: Option<u32>,
    #[n(4)]
    pub busy_poll: u32,
    #[n(5)]
    pub pacing: Option<u64>,
    #[n(6)]
    pub timestamping: u32,
    /// Where the next peek begins, if that is kept.
    #[n(7)]
    pub peek_at: Option<u32>,
    #[n(8)]
    pub incoming_cpu: Option<i32>,
    #[n(9)]
    pub buffers_locked: u32,
}

flat!(rare General {
    priority,
    mark,
    receive_low,
    device,
    busy_poll,
    pacing,
    timestamping,
    peek_at,
    incoming_cpu,
    buffers_locked
});

/// Settings of packets of one family.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub(crate) struct Internet {
    #[n(0)]
    pub ttl: Option<u8>,
    #[n(1)]
    pub tos: u8,
    /// Path MTU discovery, if chosen.
    #[n(2)]
    pub discovery: Option<u8>,
    #[n(3)]
    pub group_ttl: Option<u8>,
    /// The interface for packets to groups; 0 leaves it to the routes.
    #[n(4)]
    pub group_device: u32,
    #[n(5)]
    pub least_ttl: u8,
    /// The source address that packets get, if one was fixed (IPV6_PKTINFO as an option).
    #[n(6)]
    pub source: Option<Host>,
    /// The longest packet that is sent in one piece, if it is to be less than what the path takes (IPV6_MTU).
    #[n(7)]
    pub longest: Option<u16>,
}

flat!(rare Internet { ttl, tos, discovery, group_ttl, group_device, least_ttl, source, longest });

/// Settings of streams.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub(crate) struct Stream {
    /// The largest segment asked for; 0 leaves it to the path.
    #[n(0)]
    pub max_segment: u16,
    /// How often a SYN is sent again; 0 is the usual number.
    #[n(1)]
    pub syn_count: u8,
    /// Seconds in FIN_WAIT_2, if chosen; negative: none.
    #[n(2)]
    pub linger2: Option<i32>,
    #[n(3)]
    pub window_clamp: u32,
    /// Milliseconds that sent data may stay unacknowledged; 0 is no limit.
    #[n(4)]
    pub user_timeout: u32,
    /// Unsent bytes below which it is writable.
    #[n(5)]
    pub unsent_low: Option<u32>,
    /// Queue for fast open: kept, and never used, as with net.ipv4.tcp_fastopen=0.
    #[n(6)]
    pub fast_open: u32,
}

flat!(rare Stream { max_segment, syn_count, linger2, window_clamp, user_timeout, unsent_low, fast_open });

/// A group that a socket has joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) struct Membership {
    #[n(0)]
    pub group: Host,
    #[n(1)]
    pub device: u32,
}

flat!(Membership { group, device });

bitflags::bitflags! {
    /// Settings that are on or off. Those that are usually on are kept as their opposite.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(crate) struct Flags: u64 {
        const REUSE_ADDRESS = 1;
        const REUSE_PORT = 2;
        const BROADCAST = 4;
        const KEEP_ALIVE = 8;
        const NO_DELAY = 16;
        const CORK = 32;
        const OUT_OF_BAND_INLINE = 64;
        const DONT_ROUTE = 1 << 7;
        const STAMP_MICROS = 1 << 8;
        const STAMP_NANOS = 1 << 9;
        const PASS_CREDENTIALS = 1 << 10;
        const ONLY_V6 = 1 << 11;
        const ERRORS4 = 1 << 12;
        const PACKET_INFO4 = 1 << 13;
        const TELL_TTL = 1 << 14;
        const TELL_TOS = 1 << 15;
        const OWN_HEADER = 1 << 16;
        const FREE_BIND = 1 << 17;
        const TRANSPARENT = 1 << 18;
        const NO_GROUP_LOOP4 = 1 << 19;
        const ERRORS6 = 1 << 20;
        const PACKET_INFO6 = 1 << 21;
        const TELL_HOPS = 1 << 22;
        const TELL_CLASS = 1 << 23;
        const NO_GROUP_LOOP6 = 1 << 24;
        const ONLY_OWN_GROUPS4 = 1 << 25;
        const TELL_WAITING = 1 << 26;
        const TELL_ORIGINAL = 1 << 27;
        const DEBUG = 1 << 28;
        const NO_CHECK = 1 << 29;
        const TELL_OVERFLOW = 1 << 30;
        const SELECT_ERRORS = 1 << 31;
        const NO_QUICK_ACK = 1 << 32;
        const PASS_SECURITY = 1 << 33;
        const ONLY_OWN_GROUPS6 = 1 << 34;
        const FLOW_INFO_SEND = 1 << 35;
        const DONT_FRAGMENT6 = 1 << 36;
        const ROUTER_ALERT = 1 << 37;
        const BIND_WITHOUT_PORT = 1 << 38;
        const TELL_MARK = 1 << 39;
        const NO_REHASH = 1 << 40;
        const PREFER_BUSY_POLL = 1 << 41;
        const CORK_DATAGRAMS = 1 << 42;
        const NO_FCS = 1 << 43;
        const WIFI_STATUS = 1 << 44;
        const TELL_OPTIONS = 1 << 45;
        const RETURN_OPTIONS = 1 << 46;
        const LOCK_FILTER = 1 << 47;
        const THIN_LINEAR = 1 << 48;
        const AUTO_FLOW_LABEL_OFF = 1 << 49;
        const STAMP_NEW = 1 << 50;
        const TELL_ORIGINAL6 = 1 << 51;
        const TELL_PATH_MTU = 1 << 52;
        const SEND_FREE6 = 1 << 53;
    }
}

impl Flat for Flags {
    fn write(&self, to: &mut Vec<u8>) {
        self.bits().write(to);
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<Flags> {
        u64::read(from).map(Flags::from_bits_truncate)
    }
}

impl<C> Encode<C> for Flags {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.u64(self.bits())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Flags {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Ok(Flags::from_bits_truncate(d.u64()?))
    }
}

/// The largest buffer that everybody may ask for (net.core.rmem_max and wmem_max).
pub const BUFFER_MAX: u32 = 212_992;
/// The largest buffer after doubling, whoever asks.
const BUFFER_LIMIT: u32 = 8 << 20;
const LEAST_SEND: u32 = 4608;
const LEAST_RECEIVE: u32 = 2304;

impl Default for Options {
    fn default() -> Options {
        Options::new()
    }
}

impl Options {
    /// What a new socket has.
    #[inline(always)]
    pub fn new() -> Options {
        Options {
            flags: Flags::default(),
            send_buffer: 256 * 1024,
            receive_buffer: 256 * 1024,
            linger: None,
            keep_idle: 7200,
            keep_interval: 75,
            keep_count: 9,
            defer_accept: 0,
            general: General::default(),
            v4: Internet::default(),
            v6: Internet::default(),
            stream: Stream::default(),
            groups: Vec::new(),
        }
    }

    pub(crate) fn has(&self, flag: Flags) -> bool {
        self.flags.contains(flag)
    }

    /// Whether SO_PASSCRED is on.
    pub fn passes_credentials(&self) -> bool {
        self.has(Flags::PASS_CREDENTIALS)
    }

    /// Whether SO_OOBINLINE is on.
    pub fn has_urgent_inline(&self) -> bool {
        self.has(Flags::OUT_OF_BAND_INLINE)
    }

    /// Bytes that make a stream readable (SO_RCVLOWAT).
    pub fn receive_low(&self) -> usize {
        self.general.receive_low.max(1) as usize
    }

    /// The settings of packets to an address.
    pub(crate) fn internet(&self, address: core::net::IpAddr) -> &Internet {
        match address {
            core::net::IpAddr::V4(_) => &self.v4,
            core::net::IpAddr::V6(_) => &self.v6,
        }
    }
}

/// An `int` of an option: some take a single byte as well.
pub(crate) fn int(value: &[u8]) -> Result<i32, Errno> {
    value.first_chunk::<4>().map(|bytes| i32::from_le_bytes(*bytes)).ok_or(Errno::EINVAL)
}

/// An `int`, or a byte where there is no room for one.
pub(crate) fn int_or_byte(value: &[u8]) -> Result<i32, Errno> {
    match value {
        [] => Err(Errno::EINVAL),
        [byte, ..] if value.len() < 4 => Ok(i32::from(*byte)),
        _ => int(value),
    }
}

/// The bytes of an `int`.
pub(crate) fn bytes(value: i32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

/// The bytes of an `int` that is unsigned here.
pub(crate) fn unsigned(value: u32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

//! Settings of sockets: getsockopt(2) and setsockopt(2).
use minicbor::{Decode, Encode};
use shimos_abi::time::Nanos;

/// A setting of a socket. Values are what C programs pass: an `int`, flags as 0 or 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketOption {
    /// SO_REUSEADDR.
    ReuseAddress,
    /// SO_REUSEPORT.
    ReusePort,
    /// SO_TYPE; cannot be set.
    Type,
    /// SO_PROTOCOL; cannot be set.
    Protocol,
    /// SO_ERROR; reading clears it.
    Error,
    /// SO_ACCEPTCONN; cannot be set.
    Accepting,
    /// SO_BROADCAST.
    Broadcast,
    /// SO_SNDBUF, doubled as Linux does.
    SendBuffer,
    /// SO_RCVBUF, doubled as Linux does.
    ReceiveBuffer,
    /// SO_KEEPALIVE.
    KeepAlive,
    /// SO_LINGER: seconds, or -1 for off. With 0, closing resets the connection; else it closes in the background.
    Linger,
    /// TCP_NODELAY.
    NoDelay,
    /// TCP_CORK.
    Cork,
    /// TCP_MAXSEG; cannot be set.
    MaxSegment,
    /// TCP_KEEPIDLE, in seconds.
    KeepIdle,
    /// TCP_KEEPINTVL, in seconds.
    KeepInterval,
    /// TCP_KEEPCNT.
    KeepCount,
    /// TCP_DEFER_ACCEPT; remembered, but connections are handed out at once, which the call allows.
    DeferAccept,
    /// TCP_QUICKACK; a hint that changes nothing.
    QuickAck,
}

impl SocketOption {
    /// The setting with these numbers of level and name on Linux, if there is one.
    pub const fn from_linux(level: i32, name: i32) -> Option<SocketOption> {
        const SOCKET: i32 = 1;
        const TCP: i32 = 6;
        Some(match (level, name) {
            (SOCKET, 2) => SocketOption::ReuseAddress,
            (SOCKET, 3) => SocketOption::Type,
            (SOCKET, 4) => SocketOption::Error,
            (SOCKET, 6) => SocketOption::Broadcast,
            (SOCKET, 7) => SocketOption::SendBuffer,
            (SOCKET, 8) => SocketOption::ReceiveBuffer,
            (SOCKET, 9) => SocketOption::KeepAlive,
            (SOCKET, 13) => SocketOption::Linger,
            (SOCKET, 15) => SocketOption::ReusePort,
            (SOCKET, 30) => SocketOption::Accepting,
            (SOCKET, 38) => SocketOption::Protocol,
            (TCP, 1) => SocketOption::NoDelay,
            (TCP, 2) => SocketOption::MaxSegment,
            (TCP, 3) => SocketOption::Cork,
            (TCP, 4) => SocketOption::KeepIdle,
            (TCP, 5) => SocketOption::KeepInterval,
            (TCP, 6) => SocketOption::KeepCount,
            (TCP, 9) => SocketOption::DeferAccept,
            (TCP, 12) => SocketOption::QuickAck,
            _ => return None,
        })
    }
}

/// A few figures of a connection (TCP_INFO).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpInfo {
    /// Its state.
    pub state: crate::State,
    /// Retransmissions of the oldest segment so far.
    pub retransmits: u8,
    /// Retransmission time-out.
    pub rto: Nanos,
    /// Smoothed round-trip time.
    pub rtt: Nanos,
    /// Bytes the network is thought to hold without loss.
    pub congestion_window: u32,
    /// Bytes not yet acknowledged.
    pub unacknowledged: u32,
    /// Largest segment it sends.
    pub send_mss: u16,
    /// Segments sent again.
    pub total_retransmits: u32,
}

/// The settings of one socket.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Options {
    #[n(0)]
    pub flags: Flags,
    #[n(1)]
    pub send_buffer: u32,
    #[n(2)]
    pub receive_buffer: u32,
    /// Seconds, if on.
    #[n(3)]
    pub linger: Option<u32>,
    #[n(4)]
    pub keep_idle: u32,
    #[n(5)]
    pub keep_interval: u32,
    #[n(6)]
    pub keep_count: u32,
    #[n(7)]
    pub defer_accept: u32,
}

bitflags::bitflags! {
    /// Settings that are on or off.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(crate) struct Flags: u8 {
        const REUSE_ADDRESS = 1;
        const REUSE_PORT = 2;
        const BROADCAST = 4;
        const KEEP_ALIVE = 8;
        const NO_DELAY = 16;
        const CORK = 32;
    }
}

impl<C> Encode<C> for Flags {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.u8(self.bits())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Flags {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Ok(Flags::from_bits_truncate(d.u8()?))
    }
}

/// The smallest and largest buffer, after doubling.
const BUFFER: core::ops::RangeInclusive<u32> = 4608..=8 << 20;

impl Options {
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
        }
    }

    pub fn has(&self, flag: Flags) -> bool {
        self.flags.contains(flag)
    }

    /// The size of a buffer for which a program asked for `value` bytes.
    pub fn buffer(value: i32) -> u32 {
        u32::try_from(value).unwrap_or(0).saturating_mul(2).clamp(*BUFFER.start(), *BUFFER.end())
    }
}

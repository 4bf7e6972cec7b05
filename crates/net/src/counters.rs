//! What was counted: /proc/net/dev, snmp and netstat show it.
use minicbor::{Decode, Encode};

/// What an interface has carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Traffic {
    /// Bytes received.
    #[n(0)]
    pub received_bytes: u64,
    /// Packets received.
    #[n(1)]
    pub received_packets: u64,
    /// Bytes sent.
    #[n(2)]
    pub sent_bytes: u64,
    /// Packets sent.
    #[n(3)]
    pub sent_packets: u64,
    /// Packets received that were for a group.
    #[n(4)]
    pub multicast: u64,
    /// Packets to send that found no room.
    #[n(5)]
    pub dropped_sending: u64,
}

impl Traffic {
    pub(crate) fn received(&mut self, bytes: usize) {
        self.received_bytes = self.received_bytes.wrapping_add(bytes as u64);
        self.received_packets = self.received_packets.wrapping_add(1);
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent_bytes = self.sent_bytes.wrapping_add(bytes as u64);
        self.sent_packets = self.sent_packets.wrapping_add(1);
    }
}

macro_rules! events {
    ($($number:literal $name:ident: $what:literal,)*) => {
        /// What has happened, by kind.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
        pub struct Counters {
            /// The network card.
            #[n(0)]
            pub card: Traffic,
            /// The loopback interface.
            #[n(1)]
            pub loopback: Traffic,
            $(#[doc = $what] #[cbor(n($number), default)] pub $name: u64,)*
        }
    };
}

events! {
    2 packets_received: "IP packets received.",
    3 packets_sent: "IP packets sent.",
    4 unknown_protocol: "Packets of a protocol that nobody speaks.",
    5 udp_received: "Datagrams received.",
    6 udp_sent: "Datagrams sent.",
    7 udp_no_port: "Datagrams to ports that nobody uses.",
    8 udp_full: "Datagrams that found a full queue.",
    9 tcp_received: "Segments received.",
    10 tcp_sent: "Segments sent.",
    11 tcp_sent_again: "Segments sent again.",
    12 tcp_damaged: "Segments with a wrong checksum, or impossible ones.",
    13 tcp_resets_sent: "Resets sent.",
    14 tcp_active: "Connections that programs began.",
    15 tcp_passive: "Connections that peers began.",
    16 tcp_failed: "Connections that were never established.",
    17 tcp_reset: "Established connections that were reset.",
    18 cookies_sent: "SYN cookies sent.",
    19 cookies_received: "SYN cookies that came back right.",
    20 cookies_failed: "SYN cookies that came back wrong.",
    21 listen_overflows: "Connections that found a full accept queue.",
    22 paws: "Segments that were too old by their timestamp.",
    23 challenges: "Challenge acknowledgements sent.",
    24 icmp_received: "ICMP messages received.",
    25 icmp_sent: "ICMP messages sent.",
    26 udp_damaged: "Datagrams with a wrong checksum.",
}

/// Adds one.
pub(crate) fn count(counter: &mut u64) {
    *counter = counter.wrapping_add(1);
}

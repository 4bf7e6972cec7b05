//! Texts of /proc/net: interfaces, routes, neighbours and counters.
use super::network::hex;
use crate::program::Program;
use alloc::{format, string::String, vec::Vec};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use shimos_abi::time::Nanos;
use shimos_net::{CARD_INDEX, Config, INTERFACES, LOOPBACK_INDEX, Traffic};

/// Columns of the file of routes.
const ROUTE_WIDTH: usize = 127;

/// The interfaces and what they have carried.
pub(super) fn devices(program: &Program) -> Vec<u8> {
    let counters = program.net.counters();
    let mut text = String::from(
        "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs \
         drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n",
    );
    for (index, name) in INTERFACES {
        let t: Traffic = if index == CARD_INDEX { counters.card } else { counters.loopback };
        text += &format!(
            "{name:>6}: {:7} {:7} {none:4} {none:4} {none:4} {none:5} {none:10} {:9} \
             {:8} {:7} {none:4} {:4} {none:4} {none:5} {none:7} {none:10}\n",
            t.received_bytes,
            t.received_packets,
            t.multicast,
            t.sent_bytes,
            t.sent_packets,
            t.dropped_sending,
            none = 0,
        );
    }
    text.into_bytes()
}

fn v4(address: Ipv4Addr) -> String {
    hex(address.into())
}

/// The program's routes.
pub(super) fn routes(config: Config) -> Vec<u8> {
    let header = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
    let none = Ipv4Addr::UNSPECIFIED;
    let mut text = format!("{header:<ROUTE_WIDTH$}\n");
    let mut route = |to: Ipv4Addr, gateway: Ipv4Addr, flags: u32, mask: Ipv4Addr| {
        let line = format!("eth0\t{}\t{}\t{flags:04X}\t0\t0\t0\t{}\t0\t0\t0", v4(to), v4(gateway), v4(mask));
        text += &format!("{line:<ROUTE_WIDTH$}\n");
    };
    if config.gateway != none {
        // Up, and by a gateway.
        route(none, config.gateway, 3, none);
    }
    route(config.network(), none, 1, config.netmask());
    text.into_bytes()
}

fn plain6(address: Ipv6Addr) -> String {
    address.octets().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The IPv6 addresses.
pub(super) fn addresses6(config: Config) -> Vec<u8> {
    const PERMANENT: u8 = 0x80;
    const HOST: u8 = 0x10;
    const LINK: u8 = 0x20;
    const SITE: u8 = 0x40;
    let mut text = String::new();
    let mut line = |address: Ipv6Addr, index: u32, prefix: u8, scope: u8, name: &str| {
        text += &format!("{} {index:02x} {prefix:02x} {scope:02x} {PERMANENT:02x} {name:>8}\n", plain6(address));
    };
    line(Ipv6Addr::LOCALHOST, LOOPBACK_INDEX, 128, HOST, "lo");
    if let Some(own) = config.v6 {
        let site = matches!(own.address.octets(), [0xfe, second, ..] if second & 0xc0 == 0xc0);
        line(own.address, CARD_INDEX, own.prefix, if site { SITE } else { 0 }, "eth0");
    }
    line(config.link_local(), CARD_INDEX, 64, LINK, "eth0");
    text.into_bytes()
}

/// The IPv6 routes.
pub(super) fn routes6(config: Config) -> Vec<u8> {
    const UP: u32 = 1;
    const GATEWAY: u32 = 2;
    const LOCAL: u32 = 0x8020_0000;
    let none = Ipv6Addr::UNSPECIFIED;
    let mut text = String::new();
    let mut route = |to: Ipv6Addr, prefix: u8, hop: Ipv6Addr, metric: u32, flags: u32, name: &str| {
        text += &format!(
            "{} {prefix:02x} {} 00 {} {metric:08x} {:08x} {:08x} {flags:08x} {name:>8}\n",
            plain6(to),
            plain6(none),
            plain6(hop),
            1,
            0
        );
    };
    route(Ipv6Addr::LOCALHOST, 128, none, 256, UP, "lo");
    if let Some(own) = config.v6 {
        let mask = u128::MAX << (128 - u32::from(own.prefix.clamp(1, 128)));
        route(Ipv6Addr::from_bits(own.address.to_bits() & mask), own.prefix, none, 256, UP, "eth0");
        if !own.gateway.is_unspecified() {
            route(none, 0, own.gateway, 1024, UP | GATEWAY, "eth0");
        }
        route(own.address, 128, none, 0, LOCAL | UP, "eth0");
    }
    route(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 64, none, 256, UP, "eth0");
    route(Ipv6Addr::LOCALHOST, 128, none, 0, LOCAL | UP, "lo");
    route(config.link_local(), 128, none, 0, LOCAL | UP, "eth0");
    route(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, none, 256, UP, "eth0");
    text.into_bytes()
}

/// The neighbours that IPv4 knows.
pub(super) fn neighbours(program: &Program, now: Nanos) -> Vec<u8> {
    let mut text = String::from("IP address       HW type     Flags       HW address            Mask     Device\n");
    for (address, mac, _) in program.net.neighbours(now) {
        let IpAddr::V4(address) = address else { continue };
        let flags = if mac.is_some() { 2 } else { 0 };
        let mac: Vec<String> = mac.unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect();
        let address = format!("{address}");
        text += &format!("{address:<16} 0x{:<10x}0x{flags:<10x}{:<17}     *        eth0\n", 1, mac.join(":"));
    }
    text.into_bytes()
}

/// How many sockets there are.
pub(super) fn socket_counts(program: &Program) -> Vec<u8> {
    let census = program.net.census();
    let used = program.descriptions.values().filter(|found| found.kind.socket_number().is_some()).count();
    format!(
        "sockets: used {used}\nTCP: inuse {} orphan {} tw {} alloc {} mem 0\nUDP: inuse {} mem 0\nUDPLITE: inuse 0\n\
         RAW: inuse {}\nFRAG: inuse 0 memory 0\n",
        census.tcp,
        census.orphans,
        program.net.time_wait_count(),
        census.tcp + census.orphans,
        census.udp,
        census.raw,
    )
    .into_bytes()
}

/// A group of counters: a line of names and a line of values.
fn group(name: &str, values: &[(&str, u64)]) -> String {
    let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
    let numbers: Vec<String> = values.iter().map(|(_, value)| format!("{value}")).collect();
    format!("{name}: {}\n{name}: {}\n", names.join(" "), numbers.join(" "))
}

/// The counters of the standard management base.
pub(super) fn counters(program: &Program) -> Vec<u8> {
    let c = program.net.counters();
    let established = program.net.census().established as u64;
    let mut text = group(
        "Ip",
        &[
            ("Forwarding", 2),
            ("DefaultTTL", 64),
            ("InReceives", c.packets_received),
            ("InHdrErrors", 0),
            ("InAddrErrors", 0),
            ("ForwDatagrams", 0),
            ("InUnknownProtos", c.unknown_protocol),
            ("InDiscards", 0),
            ("InDelivers", c.packets_received.saturating_sub(c.unknown_protocol)),
            ("OutRequests", c.packets_sent),
            ("OutDiscards", c.card.dropped_sending),
            ("OutNoRoutes", 0),
            ("ReasmTimeout", 0),
            ("ReasmReqds", 0),
            ("ReasmOKs", 0),
            ("ReasmFails", 0),
            ("FragOKs", 0),
            ("FragFails", 0),
            ("FragCreates", 0),
        ],
    );
    text += &group("Icmp", &[("InMsgs", c.icmp_received), ("InErrors", 0), ("OutMsgs", c.icmp_sent), ("OutErrors", 0)]);
    text += &group(
        "Tcp",
        &[
            ("RtoAlgorithm", 1),
            ("RtoMin", 200),
            ("RtoMax", 120_000),
            ("MaxConn", u64::MAX),
            ("ActiveOpens", c.tcp_active),
            ("PassiveOpens", c.tcp_passive),
            ("AttemptFails", c.tcp_failed),
            ("EstabResets", c.tcp_reset),
            ("CurrEstab", established),
            ("InSegs", c.tcp_received),
            ("OutSegs", c.tcp_sent.saturating_sub(c.tcp_sent_again)),
            ("RetransSegs", c.tcp_sent_again),
            ("InErrs", c.tcp_damaged),
            ("OutRsts", c.tcp_resets_sent),
            ("InCsumErrors", 0),
        ],
    )
    .replace("18446744073709551615", "-1");
    text += &group(
        "Udp",
        &[
            ("InDatagrams", c.udp_received),
            ("NoPorts", c.udp_no_port),
            ("InErrors", c.udp_full + c.udp_damaged),
            ("OutDatagrams", c.udp_sent),
            ("RcvbufErrors", c.udp_full),
            ("SndbufErrors", 0),
            ("InCsumErrors", c.udp_damaged),
            ("IgnoredMulti", 0),
            ("MemErrors", 0),
        ],
    );
    text.into_bytes()
}

/// More counters, mostly of TCP.
pub(super) fn more_counters(program: &Program) -> Vec<u8> {
    let c = program.net.counters();
    let mut text = group(
        "TcpExt",
        &[
            ("SyncookiesSent", c.cookies_sent),
            ("SyncookiesRecv", c.cookies_received),
            ("SyncookiesFailed", c.cookies_failed),
            ("PAWSEstab", c.paws),
            ("ListenOverflows", c.listen_overflows),
            ("ListenDrops", c.listen_overflows),
            ("TCPChallengeACK", c.challenges),
        ],
    );
    let octets = |traffic: Traffic| (traffic.received_bytes, traffic.sent_bytes);
    let (card, loopback) = (octets(c.card), octets(c.loopback));
    text += &group(
        "IpExt",
        &[
            ("InNoRoutes", 0),
            ("InMcastPkts", c.card.multicast),
            ("InOctets", card.0 + loopback.0),
            ("OutOctets", card.1 + loopback.1),
        ],
    );
    text.into_bytes()
}

//! Texts of /proc/net.
use super::{File, Proc};
use crate::files::Kind as Open;
use alloc::{collections::BTreeSet, format, string::String, vec::Vec};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use shimos_net::{Config, Protocol, SocketId, Stack, State};

pub(super) const UNIX_HEADER: &str = "Num       RefCount Protocol Flags    Type St Inode Path\n";

/// The first line of a list of sockets.
pub(super) fn header(file: File) -> String {
    let line = match file {
        File::NetTcp => {
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
        }
        File::NetTcp6 | File::NetUdp6 => {
            "  sl  local_address                         remote_address                        st tx_queue rx_queue tr \
             tm->when retrnsmt   uid  timeout inode"
        }
        _ => {
            "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref \
             pointer drops"
        }
    };
    pad(line.into())
}

/// Lines of these lists are 149 characters long.
fn pad(line: String) -> String {
    format!("{line:<149}\n")
}

/// The interfaces. Nothing is counted.
pub(super) fn devices() -> String {
    let mut text = String::from(
        "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs \
         drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n",
    );
    for name in ["lo", "eth0"] {
        text += &format!(
            "{name:>6}:{0:>8}{0:>8}{0:>5}{0:>5}{0:>5}{0:>6}{0:>11}{0:>10}\
             {0:>9}{0:>8}{0:>5}{0:>5}{0:>5}{0:>6}{0:>8}{0:>11}\n",
            0
        );
    }
    text
}

/// An address as these files show it: the bytes as a number of the machine.
fn hex(address: Ipv4Addr) -> String {
    format!("{:08X}", u32::from_le_bytes(address.octets()))
}

/// The program's routes.
pub(super) fn routes(config: Config) -> Vec<u8> {
    let header = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
    let mask = u32::MAX.checked_shl(32 - u32::from(config.prefix.min(32))).unwrap_or(0);
    let none = Ipv4Addr::UNSPECIFIED;
    let mut text = format!("{header:<127}\n");
    let mut route = |to: Ipv4Addr, gateway: Ipv4Addr, flags: u32, mask: u32| {
        let mask = hex(Ipv4Addr::from_bits(mask));
        let line = format!("eth0\t{}\t{}\t{flags:04X}\t0\t0\t0\t{mask}\t0\t0\t0", hex(to), hex(gateway));
        text += &format!("{line:<127}\n");
    };
    if config.gateway != none {
        // Up, and by a gateway.
        route(none, config.gateway, 3, 0);
    }
    route(Ipv4Addr::from_bits(config.address.to_bits() & mask), none, 1, mask);
    text.into_bytes()
}

/// The state's number in /proc/net/tcp.
fn state_number(state: State) -> u8 {
    match state {
        State::Established => 1,
        State::SynSent => 2,
        State::SynReceived => 3,
        State::FinWait1 => 4,
        State::FinWait2 => 5,
        State::TimeWait => 6,
        State::Closed => 7,
        State::CloseWait => 8,
        State::LastAck => 9,
        State::Closing => 11,
    }
}

/// One end as address and port.
fn end(address: Option<SocketAddr>) -> String {
    let (ip, port) = match address {
        Some(address) => (address.ip(), address.port()),
        None => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    };
    let IpAddr::V4(ip) = ip else { return hex(Ipv4Addr::UNSPECIFIED) + ":0000" };
    format!("{}:{port:04X}", hex(ip))
}

/// The sockets that are open, TCP or UDP.
pub(super) fn sockets(file: File, proc: &Proc<'_>, net: &Stack) -> Vec<u8> {
    const LISTEN: u8 = 10;
    const CLOSE: u8 = 7;
    let wanted = if file == File::NetTcp { Protocol::Tcp } else { Protocol::Udp };
    let open: BTreeSet<SocketId> = proc
        .descriptions
        .values()
        .filter_map(|description| if let Open::Socket(socket) = description.kind { Some(socket) } else { None })
        .filter(|socket| net.protocol(*socket) == Ok(wanted))
        .collect();
    let mut text = header(file);
    let mut row = 0;
    for socket in open {
        let local = net.local_address(socket).ok();
        if local.is_none_or(|local| local.port() == 0) {
            continue;
        }
        let peer = net.peer_address(socket).ok();
        let state = match (wanted, net.tcp_info(socket), peer) {
            (Protocol::Tcp, Ok(info), _) => state_number(info.state),
            // A listener is the one that has no bytes to count.
            (Protocol::Tcp, ..) if net.readable_bytes(socket).is_err() => LISTEN,
            (Protocol::Udp, _, Some(_)) => 1,
            _ => CLOSE,
        };
        let (sending, waiting) = (net.unsent_bytes(socket).unwrap_or(0), net.readable_bytes(socket).unwrap_or(0));
        let line = format!(
            "{row:4}: {} {} {state:02X} {sending:08X}:{waiting:08X} 00:00000000 00000000     0        0 {}",
            end(local),
            end(peer),
            socket.0
        );
        text += &pad(line);
        row += 1;
    }
    text.into_bytes()
}

//! Texts of /proc/net: sockets.
use super::File;
use crate::{
    files::SOCKET_NUMBERS,
    program::Program,
    unix::{UnixKind, UnixState},
};
use alloc::{format, string::String, vec::Vec};
use core::net::{IpAddr, SocketAddr};
use shimos_abi::time::Nanos;
use shimos_net::{Entry, Family, Protocol, Stack};

const UNIX_HEADER: &str = "Num       RefCount Protocol Flags    Type St Inode Path\n";
/// Ticks of a second in these texts.
const TICK: u64 = 10_000_000;

/// The first line of a list of sockets.
fn header(file: File) -> String {
    let line = match file {
        File::NetTcp => {
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
        }
        File::NetTcp6 => {
            "  sl  local_address                         remote_address                        st tx_queue rx_queue tr \
             tm->when retrnsmt   uid  timeout inode"
        }
        File::NetUdp6 | File::NetRaw6 => {
            "  sl  local_address                         remote_address                        st tx_queue rx_queue tr \
             tm->when retrnsmt   uid  timeout inode ref pointer drops"
        }
        _ => {
            "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref \
             pointer drops"
        }
    };
    pad(file, line.into())
}

/// Lines of the IPv4 lists are filled up with blanks.
fn pad(file: File, line: String) -> String {
    match file {
        File::NetTcp => format!("{line:<149}\n"),
        File::NetUdp | File::NetRaw => format!("{line:<127}\n"),
        _ => format!("{line}\n"),
    }
}

/// An address as these files show it: its bytes as numbers of the machine.
pub(super) fn hex(address: IpAddr) -> String {
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    octets.as_chunks::<4>().0.iter().map(|word| format!("{:08X}", u32::from_le_bytes(*word))).collect()
}

/// One end as address and port.
fn end(address: SocketAddr) -> String {
    format!("{}:{:04X}", hex(address.ip()), address.port())
}

fn is_in(file: File, entry: &Entry) -> bool {
    let (protocol, family) = match file {
        File::NetTcp => (Protocol::Tcp, Family::V4),
        File::NetTcp6 => (Protocol::Tcp, Family::V6),
        File::NetUdp => (Protocol::Udp, Family::V4),
        File::NetUdp6 => (Protocol::Udp, Family::V6),
        File::NetRaw6 => (Protocol::Raw, Family::V6),
        _ => (Protocol::Raw, Family::V4),
    };
    entry.protocol == protocol && entry.family == family
}

/// The sockets of a protocol and a family.
pub(super) fn sockets(file: File, net: &Stack, now: Nanos) -> Vec<u8> {
    let mut text = header(file);
    let stream = matches!(file, File::NetTcp | File::NetTcp6);
    for (row, entry) in net.list().iter().filter(|entry| is_in(file, entry)).enumerate() {
        let (sending, waiting) = entry.queues;
        let sending = if entry.state == LISTENS { 0 } else { sending };
        let (timer, due) = entry.timer.unwrap_or_default();
        let due = (due - now).0 / TICK;
        let inode = entry.id.map_or(0, |id| id.0.wrapping_add(SOCKET_NUMBERS));
        let mut line = format!(
            "{row:4}: {} {} {:02X} {sending:08X}:{waiting:08X} {timer:02X}:{due:08X} {:08X} {:5} {:8} {inode}",
            end(entry.local),
            end(entry.remote),
            entry.state,
            entry.retransmits,
            0,
            0,
        );
        if stream {
            line += " 1 0000000000000000 20 4 30 10 -1";
        } else {
            line = format!("{:>5}{}", row, line.get(4..).unwrap_or_default());
            line += &format!(" 2 0000000000000000 {}", entry.drops);
        }
        text += &pad(file, line);
    }
    text.into_bytes()
}

const LISTENS: u8 = 10;

/// The UNIX sockets.
pub(super) fn unix_sockets(program: &Program) -> Vec<u8> {
    const ACCEPTS: u32 = 0x1_0000;
    const UNCONNECTED: u8 = 1;
    const CONNECTED: u8 = 3;
    let mut text = String::from(UNIX_HEADER).into_bytes();
    for (id, socket) in &program.unix {
        let kind = match socket.kind {
            UnixKind::Stream => 1,
            UnixKind::Datagram => 2,
            UnixKind::SeqPacket => 5,
        };
        let (flags, state) = match &socket.state {
            UnixState::Listening(..) => (ACCEPTS, UNCONNECTED),
            UnixState::Connected(_) => (0, CONNECTED),
            _ => (0, UNCONNECTED),
        };
        let line = format!("{:016x}: {:08X} {:08X} {flags:08X} {kind:04X} {state:02X} {:5}", 0, 2, 0, id.0);
        text.extend_from_slice(line.as_bytes());
        if !socket.name.is_empty() {
            text.push(b' ');
            // An abstract name's zeros are shown as something that can be printed.
            text.extend(socket.name.iter().map(|byte| if *byte == 0 { b'@' } else { *byte }));
        }
        text.push(b'\n');
    }
    text
}

/// The netlink sockets.
pub(super) fn netlink_sockets(program: &Program) -> Vec<u8> {
    let mut text =
        String::from("sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n");
    for (id, socket) in &program.netlink {
        let waiting: usize = socket.queue.iter().map(|datagram| datagram.0.len()).sum();
        text += &format!(
            "{:016x} {:<3} {:<10} {:08x} {:<8} {:<8} {:<5} {:<8} {:<8} {:<8}\n",
            0, 0, socket.port, socket.groups, waiting, 0, 0, 2, 0, id.0
        );
    }
    text.into_bytes()
}

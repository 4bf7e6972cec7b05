//! Sockets of the internet families over the program's own loopback: what is under way arrives once, and what is set stays.
use super::{Case, Gate, Other};
use crate::{
    Outcome,
    check::{call, fails, same, text, that, works},
    net::{self, four, get_int, name, receive, set_int, six, socket},
};
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
};

pub const CASES: &[Case] = &[
    ("connections/tcp-with-bytes-both-ways", |gate| both_ways(gate, "127.0.0.1:0")),
    ("connections/tcp-over-ipv6", |gate| both_ways(gate, "[::1]:0")),
    ("connections/tcp-half-closed", half_closed),
    ("connections/tcp-queue", queue),
    ("connections/tcp-window-closed", window),
    ("connections/tcp-settings", settings),
    ("connections/udp-queue", |gate| udp(gate, "127.0.0.1:0")),
    ("connections/udp-over-ipv6", |gate| udp(gate, "[::1]:0")),
    ("connections/multicast", multicast),
    ("connections/netlink", netlink),
    ("connections/error-that-waits", error),
];

fn pair(at: &str) -> Result<(TcpStream, TcpStream, TcpListener), String> {
    let listener = TcpListener::bind(at).map_err(text)?;
    let one = TcpStream::connect(listener.local_addr().map_err(text)?).map_err(text)?;
    let (other, _) = listener.accept().map_err(text)?;
    Ok((one, other, listener))
}

fn exactly(mut stream: &TcpStream, wanted: &[u8]) -> Outcome {
    let mut bytes = vec![0; wanted.len()];
    stream.read_exact(&mut bytes).map_err(text)?;
    same("bytes", bytes.as_slice(), wanted)
}

fn both_ways(gate: &mut Gate, at: &str) -> Outcome {
    let (mut one, mut other, _listener) = pair(at)?;
    one.write_all(b"to the other").map_err(text)?;
    other.write_all(b"to the one").map_err(text)?;
    let ends = (one.local_addr().map_err(text)?, one.peer_addr().map_err(text)?);
    gate.deaths()?;
    one.write_all(b", and more").map_err(text)?;
    exactly(&other, b"to the other, and more")?;
    exactly(&one, b"to the one")?;
    same("ends", (one.local_addr().map_err(text)?, one.peer_addr().map_err(text)?), ends)?;
    drop(other);
    same("the end", one.read(&mut [0]).map_err(text)?, 0)
}

fn half_closed(gate: &mut Gate) -> Outcome {
    let (mut one, mut other, _listener) = pair("127.0.0.1:0")?;
    one.write_all(b"last words").map_err(text)?;
    one.shutdown(Shutdown::Write).map_err(text)?;
    gate.deaths()?;
    let mut all = Vec::new();
    other.read_to_end(&mut all).map_err(text)?;
    same("to the end", all.as_slice(), b"last words")?;
    other.write_all(b"still open").map_err(text)?;
    exactly(&one, b"still open")?;
    fails("closed", net::send(&one, b"x", libc::MSG_NOSIGNAL, &[]), libc::EPIPE)
}

fn queue(gate: &mut Gate) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(text)?;
    let at = listener.local_addr().map_err(text)?;
    let mut clients = Vec::new();
    for number in 0..3_u8 {
        let mut client = TcpStream::connect(at).map_err(text)?;
        client.write_all(&[number]).map_err(text)?;
        clients.push(client);
    }
    gate.deaths()?;
    for (number, client) in (0_u8..).zip(&clients) {
        let (mut accepted, from) = listener.accept().map_err(text)?;
        same("from", from, client.local_addr().map_err(text)?)?;
        exactly(&accepted, &[number])?;
        accepted.write_all(b"ok").map_err(text)?;
        exactly(client, b"ok")?;
    }
    listener.set_nonblocking(true).map_err(text)?;
    fails("no more", listener.accept().map(drop), libc::EAGAIN)
}

/// A writer waits for room; every byte comes once and in order.
fn window(gate: &mut Gate) -> Outcome {
    const MUCH: usize = 3 << 20;
    let byte = |n: usize| (n % 251) as u8;
    let (mut one, other, _listener) = pair("127.0.0.1:0")?;
    let writer = Other::new(|next| {
        let all: Vec<u8> = (0..MUCH).map(byte).collect();
        one.write_all(&all).map_err(text)?;
        next();
        Ok(())
    })?;
    gate.deaths()?;
    let mut all = vec![0; MUCH];
    (&other).read_exact(&mut all).map_err(text)?;
    that("the same bytes", all.iter().enumerate().all(|(n, found)| *found == byte(n)))?;
    writer.end()
}

fn settings(gate: &mut Gate) -> Outcome {
    let (one, _other, listener) = pair("127.0.0.1:0")?;
    let options = [
        (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 77),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::SOL_SOCKET, libc::SO_RCVLOWAT, 5),
        (libc::SOL_SOCKET, libc::SO_OOBINLINE, 1),
        (libc::IPPROTO_IP, libc::IP_TOS, 16),
        (libc::IPPROTO_IP, libc::IP_TTL, 33),
    ];
    for (level, name, value) in options {
        works("set", set_int(&one, level, name, value))?;
    }
    works("linger", net::set(&one, libc::SOL_SOCKET, libc::SO_LINGER, &[1, 0, 0, 0, 9, 0, 0, 0]))?;
    works("reuse", set_int(&listener, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1))?;
    gate.deaths()?;
    for (level, name, value) in options {
        same(&format!("option {level}/{name}"), get_int(&one, level, name), Ok(value))?;
    }
    let linger = works("linger", net::get(&one, libc::SOL_SOCKET, libc::SO_LINGER, 8))?;
    same("linger", linger.as_slice(), &[1, 0, 0, 0, 9, 0, 0, 0])?;
    same("reuse", get_int(&listener, libc::SOL_SOCKET, libc::SO_REUSEADDR), Ok(1))?;
    same("listens", get_int(&listener, libc::SOL_SOCKET, libc::SO_ACCEPTCONN), Ok(1))
}

fn udp(gate: &mut Gate, at: &str) -> Outcome {
    let (one, other) = (UdpSocket::bind(at).map_err(text)?, UdpSocket::bind(at).map_err(text)?);
    one.connect(other.local_addr().map_err(text)?).map_err(text)?;
    one.send(b"first").map_err(text)?;
    one.send(b"").map_err(text)?;
    one.send(b"third").map_err(text)?;
    gate.deaths()?;
    let mut bytes = [0; 32];
    for wanted in [b"first".as_slice(), b"", b"third"] {
        let (count, from) = other.recv_from(&mut bytes).map_err(text)?;
        same("datagram", &bytes[..count], wanted)?;
        same("from", from, one.local_addr().map_err(text)?)?;
    }
    other.send_to(b"answer", one.local_addr().map_err(text)?).map_err(text)?;
    same("answer", one.recv(&mut bytes).map_err(text)?, 6)
}

/// A membership can be given up once: so it was there.
fn multicast(gate: &mut Gate) -> Outcome {
    let socket = works("socket", socket(libc::AF_INET, libc::SOCK_DGRAM, 0))?;
    works("bind", net::bind(&socket, &four([0, 0, 0, 0], 0)))?;
    let membership = [239, 1, 2, 3, 127, 0, 0, 1];
    works("join", net::set(&socket, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &membership))?;
    works("ttl", set_int(&socket, libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, 5))?;
    gate.deaths()?;
    same("ttl", get_int(&socket, libc::IPPROTO_IP, libc::IP_MULTICAST_TTL), Ok(5))?;
    works("leave", net::set(&socket, libc::IPPROTO_IP, libc::IP_DROP_MEMBERSHIP, &membership))?;
    let again = net::set(&socket, libc::IPPROTO_IP, libc::IP_DROP_MEMBERSHIP, &membership);
    fails("leave again", again, libc::EADDRNOTAVAIL)
}

/// An answer that nobody has read yet.
fn netlink(gate: &mut Gate) -> Outcome {
    const GETLINK: u16 = 18;
    let socket = works("socket", socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE))?;
    let before = works("name", name(&socket))?;
    let mut request = vec![0_u8; 32];
    request[0] = 32;
    request[4..6].copy_from_slice(&GETLINK.to_le_bytes());
    // NLM_F_REQUEST and NLM_F_DUMP.
    request[6..8].copy_from_slice(&0x301_u16.to_le_bytes());
    request[8] = 77;
    works("send", net::send(&socket, &request, 0, &[]))?;
    let bound = works("name", name(&socket))?;
    gate.deaths()?;
    that("its name", works("name", name(&socket))? == bound && bound.len() == before.len())?;
    let answer = works("receive", receive(&socket, 32768, libc::MSG_DONTWAIT))?;
    same("kind", answer.get(4..6), Some([16, 0].as_slice()))?;
    same("number", answer.get(8), Some(&77))
}

/// What came of a connection that was refused is told once.
fn error(gate: &mut Gate) -> Outcome {
    let free = TcpListener::bind("[::1]:0").map_err(text)?.local_addr().map_err(text)?.port();
    let socket = works("socket", socket(libc::AF_INET6, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0))?;
    fails("connect", net::connect(&socket, &six("::1", free, 0)), libc::EINPROGRESS)
        .or_else(|_| fails("connect at once", net::connect(&socket, &six("::1", free, 0)), libc::ECONNREFUSED))?;
    let mut fds = [libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 }];
    works("poll", call(libc::SYS_poll, &[fds.as_mut_ptr() as u64, 1, 10_000]))?;
    gate.deaths()?;
    same("error", get_int(&socket, libc::SOL_SOCKET, libc::SO_ERROR), Ok(libc::ECONNREFUSED))?;
    same("once", get_int(&socket, libc::SOL_SOCKET, libc::SO_ERROR), Ok(0))
}

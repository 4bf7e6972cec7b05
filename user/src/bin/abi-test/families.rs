//! IPv6, sockets for both families, datagrams, and what is told about them.
use crate::{
    Outcome, Subtest,
    check::{fails, parent_asleep, same, that, works},
    net::{self, DGRAM, INET, INET6, STREAM, four, six},
};
use libc::{IPPROTO_IPV6, IPPROTO_TCP, SOL_SOCKET};
use shimos_user::raw;
use std::os::fd::OwnedFd;

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("families/tcp6", tcp6),
    ("families/both", both),
    ("families/only-six", only_six),
    ("families/bad-addresses", bad_addresses),
    ("families/bad-sockets", bad_sockets),
    ("families/udp6", udp6),
    ("families/udp-lite", udp_lite),
    ("families/disconnect", disconnect),
    ("families/told", told),
    ("families/truncated", truncated),
    ("families/corked", corked),
    ("families/refused-datagrams", refused_datagrams),
    ("families/errors-queued", errors_queued),
    ("families/many-messages", many_messages),
    ("families/reuse-port", reuse_port),
    ("families/groups", groups),
    ("families/urgent", urgent),
    ("families/wait-for-all", wait_for_all),
    ("families/queues", queues),
    ("families/limits", limits),
    ("families/options", options),
    ("families/stream-options", stream_options),
    ("families/bad-options", bad_options),
    ("families/interfaces", interfaces),
];

const LOCAL: [u8; 4] = [127, 0, 0, 1];

fn bound(family: i32, kind: i32) -> Result<(OwnedFd, Vec<u8>), String> {
    let socket = works("socket", net::socket(family, kind, 0))?;
    let any = if family == INET { four(LOCAL, 0) } else { six("::1", 0, 0) };
    works("bind", net::bind(&socket, &any))?;
    let name = works("name", net::name(&socket))?;
    Ok((socket, name))
}

fn connected(family: i32) -> Result<(OwnedFd, OwnedFd), String> {
    let (listener, address) = bound(family, STREAM)?;
    works("listen", net::listen(&listener, 5))?;
    let client = works("socket", net::socket(family, STREAM, 0))?;
    works("connect", net::connect(&client, &address))?;
    let server = works("accept", net::accept(&listener))?;
    same("peer", net::peer(&client), Ok(address))?;
    same("names", net::peer(&server), net::name(&client))?;
    Ok((client, server))
}

fn tcp6() -> Outcome {
    let (client, server) = connected(INET6)?;
    same("sent", net::send(&client, b"six", 0, &[]), Ok(3))?;
    same("got", net::receive(&server, 9, 0), Ok(b"six".to_vec()))?;
    let name = works("name", net::name(&client))?;
    same("length", name.len(), 28)?;
    same("address", &name[8..24], &six("::1", 0, 0)[8..24])?;
    same("domain", net::get_int(&client, SOL_SOCKET, libc::SO_DOMAIN), Ok(INET6))
}

fn both() -> Outcome {
    let listener = works("socket", net::socket(INET6, STREAM, 0))?;
    same("not only six", net::get_int(&listener, IPPROTO_IPV6, libc::IPV6_V6ONLY), Ok(0))?;
    works("bind", net::bind(&listener, &six("::", 0, 0)))?;
    works("listen", net::listen(&listener, 5))?;
    let port = net::port(&works("name", net::name(&listener))?);
    let taken = works("socket", net::socket(INET, STREAM, 0))?;
    fails("the port is taken", net::bind(&taken, &four([0; 4], port)), libc::EADDRINUSE)?;
    let client = works("socket", net::socket(INET, STREAM, 0))?;
    works("by IPv4", net::connect(&client, &four(LOCAL, port)))?;
    let server = works("accept", net::accept(&listener))?;
    let peer = works("peer", net::peer(&server))?;
    same("dressed", &peer[8..24], &six("::ffff:127.0.0.1", 0, 0)[8..24])?;
    let client = works("socket", net::socket(INET6, STREAM, 0))?;
    works("by a dressed address", net::connect(&client, &six("::ffff:127.0.0.1", port, 0)))?;
    works("accept", net::accept(&listener))?;
    let client = works("socket", net::socket(INET6, STREAM, 0))?;
    works("by IPv6", net::connect(&client, &six("::1", port, 0)))?;
    works("accept", net::accept(&listener)).map(|_| ())
}

fn only_six() -> Outcome {
    let listener = works("socket", net::socket(INET6, STREAM, 0))?;
    works("only", net::set_int(&listener, IPPROTO_IPV6, libc::IPV6_V6ONLY, 1))?;
    works("bind", net::bind(&listener, &six("::", 0, 0)))?;
    fails("too late", net::set_int(&listener, IPPROTO_IPV6, libc::IPV6_V6ONLY, 0), libc::EINVAL)?;
    works("listen", net::listen(&listener, 5))?;
    let port = net::port(&works("name", net::name(&listener))?);
    let client = works("socket", net::socket(INET, STREAM, 0))?;
    fails("not by IPv4", net::connect(&client, &four(LOCAL, port)), libc::ECONNREFUSED)?;
    let four_too = works("socket", net::socket(INET, STREAM, 0))?;
    works("its own port", net::bind(&four_too, &four([0; 4], port)))?;
    let client = works("socket", net::socket(INET6, STREAM, 0))?;
    works("only", net::set_int(&client, IPPROTO_IPV6, libc::IPV6_V6ONLY, 1))?;
    let mapped = six("::ffff:127.0.0.1", port, 0);
    fails("connect", net::connect(&client, &mapped), libc::ENETUNREACH)?;
    fails("bind", net::bind(&client, &mapped), libc::EINVAL)
}

fn bad_addresses() -> Outcome {
    let tcp = works("socket", net::socket(INET, STREAM, 0))?;
    let tcp6 = works("socket", net::socket(INET6, STREAM, 0))?;
    let udp6 = works("socket", net::socket(INET6, DGRAM, 0))?;
    fails("short", net::bind(&tcp, &four(LOCAL, 0)[..15]), libc::EINVAL)?;
    fails("short six", net::bind(&tcp6, &six("::1", 0, 0)[..23]), libc::EINVAL)?;
    fails("six for four", net::bind(&tcp, &six("::1", 0, 0)), libc::EAFNOSUPPORT)?;
    fails("four for six", net::bind(&tcp6, &[four(LOCAL, 0), vec![0; 12]].concat()), libc::EAFNOSUPPORT)?;
    works("without scope", net::bind(&tcp6, &six("::1", 0, 0)[..24]))?;
    fails("twice", net::bind(&tcp6, &six("::1", 0, 0)), libc::EINVAL)?;
    fails("not ours", net::bind(&udp6, &six("2001:db8::7", 0, 0)), libc::EADDRNOTAVAIL)?;
    fails("no scope", net::bind(&udp6, &six("fe80::7", 0, 0)), libc::EINVAL)?;
    fails("connect six", net::connect(&tcp, &six("::1", 1, 0)), libc::EAFNOSUPPORT)?;
    fails("connect short", net::connect(&tcp, &four(LOCAL, 1)[..8]), libc::EINVAL)?;
    fails("connect nothing", net::connect(&tcp, &[2]), libc::EINVAL)?;
    fails("send short", net::send(&udp6, b"x", 0, &six("::1", 1, 0)[..20]), libc::EINVAL)?;
    fails("send nowhere", net::send(&udp6, b"x", 0, &[]), libc::EDESTADDRREQ)?;
    fails("no peer", net::peer(&tcp), libc::ENOTCONN)
}

fn bad_sockets() -> Outcome {
    fails("family", net::socket(99, STREAM, 0), libc::EAFNOSUPPORT)?;
    fails("type", net::socket(INET, 11, 0), libc::EINVAL)?;
    fails("no such type", net::socket(INET, 4, 0), libc::ESOCKTNOSUPPORT)?;
    fails("protocol", net::socket(INET, STREAM, libc::IPPROTO_UDP), libc::EPROTONOSUPPORT)?;
    fails("protocol six", net::socket(INET6, DGRAM, IPPROTO_TCP), libc::EPROTONOSUPPORT)?;
    fails("flags", net::socket(INET, STREAM | 0x100, 0), libc::EINVAL)?;
    fails("negative", net::socket(INET, STREAM, -1), libc::EINVAL)?;
    fails("netlink", net::socket(libc::AF_NETLINK, libc::SOCK_RAW, 31), libc::EPROTONOSUPPORT)?;
    let pair = raw::call(libc::SYS_socketpair, [INET as u64, STREAM as u64, 0, 0, 0, 0]);
    that("no pair", matches!(pair, Err(libc::EOPNOTSUPP | libc::EFAULT)))
}

fn udp6() -> Outcome {
    let (server, address) = bound(INET6, DGRAM)?;
    let client = works("socket", net::socket(INET6, DGRAM, 0))?;
    for size in [0, 1, 2000, 60_000] {
        let bytes = vec![size as u8; size];
        same("sent", net::send(&client, &bytes, 0, &address), Ok(size as u64))?;
        same("got", net::receive(&server, 65536, 0), Ok(bytes))?;
    }
    fails("too long", net::send(&client, &vec![0; 66_000], 0, &address), libc::EMSGSIZE)?;
    // An IPv6 socket also speaks to IPv4.
    let (server, address) = bound(INET, DGRAM)?;
    works("send", net::send(&client, b"dressed", 0, &six("::ffff:127.0.0.1", net::port(&address), 0)))?;
    let message = works("receive", net::receive_message(&server, 99, 0, 0))?;
    same("from", &message.from[4..8], &LOCAL)
}

fn udp_lite() -> Outcome {
    const SEND: i32 = 10;
    const RECEIVE: i32 = 11;
    for family in [INET, INET6] {
        let lite = || works("socket", net::socket(family, DGRAM, libc::IPPROTO_UDPLITE));
        let (server, client) = (lite()?, lite()?);
        let any = if family == INET { four(LOCAL, 0) } else { six("::1", 0, 0) };
        works("bind", net::bind(&server, &any))?;
        let address = works("name", net::name(&server))?;
        same("protocol", net::get_int(&server, SOL_SOCKET, libc::SO_PROTOCOL), Ok(libc::IPPROTO_UDPLITE))?;
        for (covered, told) in [(0, 0), (3, 8), (20, 20)] {
            works("cover", net::set_int(&client, libc::IPPROTO_UDPLITE, SEND, covered))?;
            same("covers", net::get_int(&client, libc::IPPROTO_UDPLITE, SEND), Ok(told))?;
            works("enough", net::set_int(&server, libc::IPPROTO_UDPLITE, RECEIVE, told))?;
            works("send", net::send(&client, &[7; 100], 0, &address))?;
            same("received", net::receive(&server, 200, 0), Ok(vec![7; 100]))?;
        }
        // The port is another than UDP's.
        let udp = works("socket", net::socket(family, DGRAM, 0))?;
        works("bind", net::bind(&udp, &address))?;
    }
    Ok(())
}

fn disconnect() -> Outcome {
    let (server, address) = bound(INET, DGRAM)?;
    let client = works("socket", net::socket(INET, DGRAM, 0))?;
    works("connect", net::connect(&client, &address))?;
    same("peer", net::peer(&client), Ok(address))?;
    that("a port", net::port(&works("name", net::name(&client))?) != 0)?;
    works("disconnect", net::connect(&client, &[0; 16]))?;
    fails("no peer", net::peer(&client), libc::ENOTCONN)?;
    same("no port", net::port(&works("name", net::name(&client))?), 0)?;
    fails("nowhere to send", net::send(&client, b"x", 0, &[]), libc::EDESTADDRREQ)?;
    drop(server);
    let (client, server) = connected(INET)?;
    works("disconnect a stream", net::connect(&client, &[0; 16]))?;
    fails("reset", net::receive(&server, 9, 0), libc::ECONNRESET)
}

fn told() -> Outcome {
    let (server, address) = bound(INET, DGRAM)?;
    for name in [libc::IP_PKTINFO, libc::IP_RECVTTL, libc::IP_RECVTOS] {
        works("tell", net::set_int(&server, libc::IPPROTO_IP, name, 1))?;
    }
    works("stamps", net::set_int(&server, SOL_SOCKET, libc::SO_TIMESTAMP, 1))?;
    let client = works("socket", net::socket(INET, DGRAM, 0))?;
    let ttl = (libc::IPPROTO_IP, libc::IP_TTL, 7_i32.to_le_bytes());
    works("send", net::send_message(&client, b"x", &address, Some((ttl.0, ttl.1, &ttl.2))))?;
    let message = works("receive", net::receive_message(&server, 9, 256, 0))?;
    let find = |level: i32, kind: i32| {
        message.control.iter().find(|c| (c.0, c.1) == (level, kind)).map(|c| c.2.clone()).unwrap_or_default()
    };
    same("ttl", find(libc::IPPROTO_IP, libc::IP_TTL), 7_i32.to_le_bytes().to_vec())?;
    same("tos", find(libc::IPPROTO_IP, libc::IP_TOS), vec![0])?;
    let info = find(libc::IPPROTO_IP, libc::IP_PKTINFO);
    same("interface", &info[..4], &1_i32.to_le_bytes())?;
    same("to", &info[8..], &LOCAL)?;
    same("a stamp", find(SOL_SOCKET, libc::SO_TIMESTAMP).len(), 16)?;
    // Too little room for all of it.
    works("send", net::send(&client, b"x", 0, &address))?;
    let message = works("receive", net::receive_message(&server, 9, 40, 0))?;
    that("cut", message.flags & libc::MSG_CTRUNC != 0)?;
    // The same in IPv6.
    let (server, address) = bound(INET6, DGRAM)?;
    for name in [libc::IPV6_RECVPKTINFO, libc::IPV6_RECVHOPLIMIT, libc::IPV6_RECVTCLASS] {
        works("tell", net::set_int(&server, IPPROTO_IPV6, name, 1))?;
    }
    let client = works("socket", net::socket(INET6, DGRAM, 0))?;
    works("hops", net::set_int(&client, IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, 9))?;
    works("send", net::send(&client, b"x", 0, &address))?;
    let message = works("receive", net::receive_message(&server, 9, 256, 0))?;
    let kinds: Vec<i32> = message.control.iter().map(|c| c.1).collect();
    same("kinds", kinds, vec![libc::IPV6_PKTINFO, libc::IPV6_HOPLIMIT, libc::IPV6_TCLASS])?;
    same("hops", message.control[1].2.clone(), 9_i32.to_le_bytes().to_vec())
}

fn truncated() -> Outcome {
    let (server, address) = bound(INET, DGRAM)?;
    let client = works("socket", net::socket(INET, DGRAM, 0))?;
    for _ in 0..3 {
        works("send", net::send(&client, b"0123456789", 0, &address))?;
    }
    let message = works("peek", net::receive_message(&server, 4, 0, libc::MSG_PEEK | libc::MSG_TRUNC))?;
    same("length", (message.count, message.flags), (10, libc::MSG_TRUNC))?;
    let message = works("cut", net::receive_message(&server, 4, 0, 0))?;
    same("cut", (message.count, message.flags), (4, libc::MSG_TRUNC))?;
    same("the next", net::receive(&server, 99, 0), Ok(b"0123456789".to_vec()))?;
    let (client, server) = connected(INET)?;
    works("send", net::send(&client, b"0123456789", 0, &[]))?;
    let message = works("drop", net::receive_message(&server, 4, 0, libc::MSG_TRUNC))?;
    same("dropped", message.count, 4)?;
    same("the rest", net::receive(&server, 99, 0), Ok(b"456789".to_vec()))
}

fn corked() -> Outcome {
    let (server, address) = bound(INET, DGRAM)?;
    let client = works("socket", net::socket(INET, DGRAM, 0))?;
    works("one", net::send(&client, b"one", libc::MSG_MORE, &address))?;
    works("two", net::send(&client, b"two", 0, &address))?;
    same("together", net::receive(&server, 99, 0), Ok(b"onetwo".to_vec()))?;
    works("cork", net::set_int(&client, libc::IPPROTO_UDP, 1, 1))?;
    works("three", net::send(&client, b"three", 0, &address))?;
    works("four", net::send(&client, b"four", 0, &address))?;
    fails("nothing yet", net::receive(&server, 99, libc::MSG_DONTWAIT), libc::EAGAIN)?;
    works("pull", net::set_int(&client, libc::IPPROTO_UDP, 1, 0))?;
    same("together", net::receive(&server, 99, 0), Ok(b"threefour".to_vec()))
}

fn refused_datagrams() -> Outcome {
    for family in [INET, INET6] {
        let (server, address) = bound(family, DGRAM)?;
        drop(server);
        let client = works("socket", net::socket(family, DGRAM, 0))?;
        works("connect", net::connect(&client, &address))?;
        works("send", net::send(&client, b"anybody?", 0, &[]))?;
        fails("refused", net::receive(&client, 9, 0), libc::ECONNREFUSED)?;
        works("send", net::send(&client, b"anybody?", 0, &[]))?;
        same("by SO_ERROR", net::get_int(&client, SOL_SOCKET, libc::SO_ERROR), Ok(libc::ECONNREFUSED))?;
        same("told once", net::get_int(&client, SOL_SOCKET, libc::SO_ERROR), Ok(0))?;
        // Who is not connected is told nothing.
        let client = works("socket", net::socket(family, DGRAM, 0))?;
        works("send", net::send(&client, b"anybody?", 0, &address))?;
        works("send", net::send(&client, b"anybody?", 0, &address))?;
    }
    Ok(())
}

fn errors_queued() -> Outcome {
    let (server, address) = bound(INET, DGRAM)?;
    drop(server);
    let client = works("socket", net::socket(INET, DGRAM, 0))?;
    works("ask", net::set_int(&client, libc::IPPROTO_IP, libc::IP_RECVERR, 1))?;
    fails("none", net::receive_message(&client, 9, 256, libc::MSG_ERRQUEUE).map(|_| ()), libc::EAGAIN)?;
    works("send", net::send(&client, b"question", 0, &address))?;
    let message = works("error", net::receive_message(&client, 99, 256, libc::MSG_ERRQUEUE))?;
    same("quoted", message.bytes, b"question".to_vec())?;
    same("flags", message.flags, libc::MSG_ERRQUEUE)?;
    same("to", message.from, address)?;
    let [(level, kind, data)] = message.control.as_slice() else { return Err("no control message".into()) };
    same("kind", (*level, *kind), (libc::IPPROTO_IP, libc::IP_RECVERR))?;
    same("why", &data[..8], &[libc::ECONNREFUSED as u8, 0, 0, 0, 2, 3, 3, 0])
}

fn many_messages() -> Outcome {
    let (server, address) = bound(INET, DGRAM)?;
    let client = works("socket", net::socket(INET, DGRAM, 0))?;
    works("connect", net::connect(&client, &address))?;
    let texts = [b"one".to_vec(), b"two!".to_vec(), b"three".to_vec()];
    let place = |bytes: &[u8]| bytes.as_ptr().expose_provenance() as u64;
    let vectors: Vec<Vec<u8>> =
        texts.iter().map(|text| [place(text).to_le_bytes(), (text.len() as u64).to_le_bytes()].concat()).collect();
    let mut headers: Vec<u8> =
        vectors.iter().flat_map(|vector| [0, 0, place(vector), 1, 0, 0, 0, 0]).flat_map(u64::to_le_bytes).collect();
    use std::os::fd::AsRawFd;
    let number = |fd: &OwnedFd| fd.as_raw_fd() as u64;
    let sent = raw::call(libc::SYS_sendmmsg, [number(&client), net::place(&mut headers), 3, 0, 0, 0]);
    same("sent", sent, Ok(3))?;
    let lengths: Vec<u8> = std::hint::black_box(headers).chunks(64).map(|h| h[56]).collect();
    same("lengths", lengths, vec![3, 4, 5])?;
    let mut buffers = [[0_u8; 16]; 4];
    let vectors: Vec<Vec<u8>> =
        buffers.iter_mut().map(|b| [net::place(b).to_le_bytes(), 16_u64.to_le_bytes()].concat()).collect();
    let mut headers: Vec<u8> =
        vectors.iter().flat_map(|vector| [0, 0, place(vector), 1, 0, 0, 0, 0]).flat_map(u64::to_le_bytes).collect();
    let flags = libc::MSG_DONTWAIT as u64;
    let got = raw::call(libc::SYS_recvmmsg, [number(&server), net::place(&mut headers), 4, flags, 0, 0]);
    same("got", got, Ok(3))?;
    let lengths: Vec<u8> = std::hint::black_box(headers.clone()).chunks(64).map(|h| h[56]).collect();
    same("lengths", lengths, vec![3, 4, 5, 0])?;
    let buffers = std::hint::black_box(buffers);
    same("texts", (&buffers[0][..3], &buffers[2][..5]), (b"one".as_slice(), b"three".as_slice()))?;
    let got = raw::call(libc::SYS_recvmmsg, [number(&server), net::place(&mut headers), 4, flags, 0, 0]);
    fails("nothing", got, libc::EAGAIN)
}

fn reuse_port() -> Outcome {
    let one = works("socket", net::socket(INET, DGRAM, 0))?;
    works("share", net::set_int(&one, SOL_SOCKET, libc::SO_REUSEPORT, 1))?;
    works("bind", net::bind(&one, &four(LOCAL, 0)))?;
    let address = works("name", net::name(&one))?;
    let two = works("socket", net::socket(INET, DGRAM, 0))?;
    fails("not shared", net::bind(&two, &address), libc::EADDRINUSE)?;
    works("share", net::set_int(&two, SOL_SOCKET, libc::SO_REUSEPORT, 1))?;
    works("bind", net::bind(&two, &address))?;
    for n in 0..64_u8 {
        let client = works("socket", net::socket(INET, DGRAM, 0))?;
        works("send", net::send(&client, &[n], 0, &address))?;
    }
    let count = |socket: &OwnedFd| (0..).take_while(|_| net::receive(socket, 9, libc::MSG_DONTWAIT).is_ok()).count();
    let (a, b) = (count(&one), count(&two));
    same("all came", a + b, 64)?;
    that(&format!("{a} and {b}"), a > 4 && b > 4)
}

fn groups() -> Outcome {
    let (_, address) = bound(INET, DGRAM)?;
    let port = net::port(&address);
    let member = works("socket", net::socket(INET, DGRAM, 0))?;
    works("bind", net::bind(&member, &four([0; 4], port.wrapping_add(1).max(2000))))?;
    let port = net::port(&works("name", net::name(&member))?);
    let request = [239, 77, 1, 2, 127, 0, 0, 1];
    works("join", net::set(&member, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &request))?;
    fails("twice", net::set(&member, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &request), libc::EADDRINUSE)?;
    let client = works("socket", net::socket(INET, DGRAM, 0))?;
    works("interface", net::set(&client, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &LOCAL))?;
    same("interface", net::get(&client, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, 4), Ok(LOCAL.to_vec()))?;
    works("send", net::send(&client, b"group", 0, &four([239, 77, 1, 2], port)))?;
    same("heard", net::receive(&member, 9, 0), Ok(b"group".to_vec()))?;
    works("leave", net::set(&member, libc::IPPROTO_IP, libc::IP_DROP_MEMBERSHIP, &request))?;
    fails("gone", net::set(&member, libc::IPPROTO_IP, libc::IP_DROP_MEMBERSHIP, &request), libc::EADDRNOTAVAIL)?;
    let one = [10, 0, 0, 1, 127, 0, 0, 1];
    fails("no group", net::set(&member, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &one), libc::EINVAL)?;
    fails("short", net::set(&member, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &request[..7]), libc::EINVAL)
}

fn urgent() -> Outcome {
    const AT_MARK: u64 = 0x8905;
    let (client, server) = connected(INET)?;
    let at_mark = |expected: u8| {
        let mut answer = [9_u8; 4];
        works("mark", net::ioctl(&server, AT_MARK, &mut answer))?;
        same("at the mark", std::hint::black_box(answer)[0], expected)
    };
    use std::os::fd::AsRawFd;
    raw::on_signal(libc::SIGURG, raw::Disposition::Count(0)).map_err(|error| error.to_string())?;
    let own = std::process::id().into();
    works("owner", raw::call(libc::SYS_fcntl, [server.as_raw_fd() as u64, 8, own, 0, 0, 0]))?;
    fails("nothing urgent", net::receive(&server, 1, libc::MSG_OOB), libc::EINVAL)?;
    works("send", net::send(&client, b"before", 0, &[]))?;
    works("urgent", net::send(&client, b"!", libc::MSG_OOB, &[]))?;
    works("send", net::send(&client, b"after", 0, &[]))?;
    let message = works("urgent", net::receive_message(&server, 9, 0, libc::MSG_OOB))?;
    same("byte", (message.bytes, message.flags), (b"!".to_vec(), libc::MSG_OOB))?;
    fails("once", net::receive(&server, 1, libc::MSG_OOB), libc::EINVAL)?;
    same("signals", raw::caught(libc::SIGURG), 1)?;
    at_mark(0)?;
    same("before", net::receive(&server, 99, 0), Ok(b"before".to_vec()))?;
    at_mark(1)?;
    same("after", net::receive(&server, 99, 0), Ok(b"after".to_vec()))?;
    works("in line", net::set_int(&server, SOL_SOCKET, libc::SO_OOBINLINE, 1))?;
    works("urgent", net::send(&client, b"x", libc::MSG_OOB, &[]))?;
    same("in line", net::receive(&server, 99, 0), Ok(b"x".to_vec()))
}

fn wait_for_all() -> Outcome {
    let (client, server) = connected(INET)?;
    let child = raw::fork(|| {
        for piece in [b"abc".as_slice(), b"def", b"ghij"] {
            if net::send(&client, piece, 0, &[]).is_err() || parent_asleep().is_err() {
                return 1;
            }
        }
        0
    })
    .map_err(|error| error.to_string())?;
    same("peeked", net::receive(&server, 5, libc::MSG_WAITALL | libc::MSG_PEEK).map(|b| b.len()), Ok(5))?;
    same("all", net::receive(&server, 10, libc::MSG_WAITALL), Ok(b"abcdefghij".to_vec()))?;
    same("status", raw::exit_of(child).map_err(|e| e.to_string())?, 0)?;
    works("low", net::set_int(&server, SOL_SOCKET, libc::SO_RCVLOWAT, 4))?;
    works("send", net::send(&client, b"abc", 0, &[]))?;
    let ready = |events: i16| {
        use std::os::fd::AsRawFd;
        let poll = [libc::pollfd { fd: server.as_raw_fd(), events, revents: 0 }];
        let place = poll.as_ptr().addr() as u64;
        raw::call(libc::SYS_poll, [place, 1, 0, 0, 0, 0])
    };
    same("not enough", ready(libc::POLLIN), Ok(0))?;
    works("send", net::send(&client, b"d", 0, &[]))?;
    same("enough", ready(libc::POLLIN), Ok(1))
}

fn queues() -> Outcome {
    const WAITING_IN: u64 = 0x541b;
    let (client, server) = connected(INET)?;
    works("send", net::send(&client, b"12345", 0, &[]))?;
    let mut count = [0_u8; 4];
    works("count", net::ioctl(&server, WAITING_IN, &mut count))?;
    same("in", std::hint::black_box(count)[0], 5)?;
    let (server, address) = bound(INET, DGRAM)?;
    let client = works("socket", net::socket(INET, DGRAM, 0))?;
    works("send", net::send(&client, b"123", 0, &address))?;
    works("send", net::send(&client, b"45678", 0, &address))?;
    works("count", net::ioctl(&server, WAITING_IN, &mut count))?;
    same("the first", std::hint::black_box(count)[0], 3)
}

fn limits() -> Outcome {
    // A call with a time limit ends with EINTR whatever the handler's flags say.
    let (_client, server) = connected(INET)?;
    let limit = [5_u64.to_le_bytes(), 0_u64.to_le_bytes()].concat();
    works("limit", net::set(&server, SOL_SOCKET, libc::SO_RCVTIMEO, &limit))?;
    same("limit", net::get(&server, SOL_SOCKET, libc::SO_RCVTIMEO, 16), Ok(limit))?;
    let bad = [0_u64.to_le_bytes(), 1_000_000_u64.to_le_bytes()].concat();
    fails("bad limit", net::set(&server, SOL_SOCKET, libc::SO_RCVTIMEO, &bad), libc::EDOM)?;
    fails("short", net::set(&server, SOL_SOCKET, libc::SO_RCVTIMEO, &bad[..8]), libc::EINVAL)?;
    let soon = [0_u64.to_le_bytes(), 20_000_u64.to_le_bytes()].concat();
    works("limit", net::set(&server, SOL_SOCKET, libc::SO_RCVTIMEO, &soon))?;
    fails("over", net::receive(&server, 9, 0), libc::EAGAIN)
}

fn options() -> Outcome {
    let udp = works("socket", net::socket(INET6, DGRAM, 0))?;
    let tcp = works("socket", net::socket(INET, STREAM, 0))?;
    for (name, value) in [
        (libc::SO_TYPE, DGRAM),
        (libc::SO_PROTOCOL, libc::IPPROTO_UDP),
        (libc::SO_ACCEPTCONN, 0),
        (libc::SO_RCVLOWAT, 1),
        (libc::SO_SNDLOWAT, 1),
        (libc::SO_PRIORITY, 0),
        (libc::SO_MARK, 0),
        (libc::SO_PEEK_OFF, -1),
    ] {
        same("a new socket's", net::get_int(&udp, SOL_SOCKET, name), Ok(value))?;
    }
    for name in [libc::SO_REUSEADDR, libc::SO_KEEPALIVE, libc::SO_BROADCAST, libc::SO_OOBINLINE, libc::SO_DONTROUTE] {
        works("on", net::set_int(&tcp, SOL_SOCKET, name, 5))?;
        same("on", net::get_int(&tcp, SOL_SOCKET, name), Ok(1))?;
        works("off", net::set_int(&tcp, SOL_SOCKET, name, 0))?;
        same("off", net::get_int(&tcp, SOL_SOCKET, name), Ok(0))?;
    }
    works("size", net::set_int(&udp, SOL_SOCKET, libc::SO_RCVBUF, 10_000))?;
    same("doubled", net::get_int(&udp, SOL_SOCKET, libc::SO_RCVBUF), Ok(20_000))?;
    works("size", net::set_int(&udp, SOL_SOCKET, libc::SO_SNDBUF, 1))?;
    same("the least", net::get_int(&udp, SOL_SOCKET, libc::SO_SNDBUF), Ok(4608))?;
    works("linger", net::set(&tcp, SOL_SOCKET, libc::SO_LINGER, &[1, 0, 0, 0, 9, 0, 0, 0]))?;
    same("linger", net::get(&tcp, SOL_SOCKET, libc::SO_LINGER, 8), Ok(vec![1, 0, 0, 0, 9, 0, 0, 0]))?;
    works("priority", net::set_int(&tcp, SOL_SOCKET, libc::SO_PRIORITY, 6))?;
    for (name, value) in [(libc::IP_TTL, 33), (libc::IP_TOS, 16), (libc::IP_RECVERR, 1), (libc::IP_FREEBIND, 1)] {
        works("set", net::set_int(&tcp, libc::IPPROTO_IP, name, value))?;
        same("get", net::get_int(&tcp, libc::IPPROTO_IP, name), Ok(value))?;
        same("a byte", net::get(&tcp, libc::IPPROTO_IP, name, 1), Ok(vec![value as u8]))?;
    }
    for (name, value) in [(libc::IPV6_UNICAST_HOPS, 33), (libc::IPV6_TCLASS, 16), (libc::IPV6_MULTICAST_HOPS, 4)] {
        works("set", net::set_int(&udp, IPPROTO_IPV6, name, value))?;
        same("get", net::get_int(&udp, IPPROTO_IPV6, name), Ok(value))?;
    }
    works("usual", net::set_int(&udp, IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, -1))?;
    same("usual", net::get_int(&udp, IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS), Ok(64))?;
    same("nothing", net::get(&tcp, SOL_SOCKET, libc::SO_TYPE, 0), Ok(vec![]))?;
    same("a part", net::get(&tcp, SOL_SOCKET, libc::SO_TYPE, 2), Ok(vec![1, 0]))
}

fn stream_options() -> Outcome {
    let (client, _server) = connected(INET)?;
    for (name, value) in [
        (libc::TCP_NODELAY, 1),
        (libc::TCP_CORK, 1),
        (libc::TCP_KEEPIDLE, 60),
        (libc::TCP_KEEPINTVL, 7),
        (libc::TCP_KEEPCNT, 3),
        (libc::TCP_SYNCNT, 4),
        (libc::TCP_LINGER2, 20),
        (libc::TCP_USER_TIMEOUT, 4000),
        (libc::TCP_NOTSENT_LOWAT, 16384),
    ] {
        works("set", net::set_int(&client, IPPROTO_TCP, name, value))?;
        same(&format!("option {name}"), net::get_int(&client, IPPROTO_TCP, name), Ok(value))?;
    }
    works("defer", net::set_int(&client, IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 5))?;
    same("defer", net::get_int(&client, IPPROTO_TCP, libc::TCP_DEFER_ACCEPT), Ok(7))?;
    let info = works("info", net::get(&client, IPPROTO_TCP, libc::TCP_INFO, 104))?;
    same("established", (info[0], info.len()), (1, 104))?;
    let closed = works("socket", net::socket(INET, STREAM, 0))?;
    let info = works("info", net::get(&closed, IPPROTO_TCP, libc::TCP_INFO, 104))?;
    same("closed", info[0], 7)?;
    same("segment", net::get_int(&closed, IPPROTO_TCP, libc::TCP_MAXSEG), Ok(536))?;
    let name = works("algorithm", net::get(&client, IPPROTO_TCP, libc::TCP_CONGESTION, 16))?;
    same("a name", name.len(), 16)?;
    works("reno", net::set(&client, IPPROTO_TCP, libc::TCP_CONGESTION, b"reno"))?;
    same(
        "reno",
        works("name", net::get(&client, IPPROTO_TCP, libc::TCP_CONGESTION, 16))?[..5].to_vec(),
        b"reno\0".to_vec(),
    )
}

fn bad_options() -> Outcome {
    let tcp = works("socket", net::socket(INET, STREAM, 0))?;
    let udp = works("socket", net::socket(INET, DGRAM, 0))?;
    fails("no such", net::set_int(&tcp, SOL_SOCKET, 4000, 1), libc::ENOPROTOOPT)?;
    fails("no such", net::get_int(&tcp, SOL_SOCKET, 4000), libc::ENOPROTOOPT)?;
    fails("no such level", net::set_int(&tcp, 4000, 1, 1), libc::ENOPROTOOPT)?;
    fails("six on four", net::set_int(&tcp, IPPROTO_IPV6, libc::IPV6_V6ONLY, 1), libc::ENOPROTOOPT)?;
    fails("type", net::set_int(&tcp, SOL_SOCKET, libc::SO_TYPE, 1), libc::ENOPROTOOPT)?;
    fails("short", net::set(&tcp, SOL_SOCKET, libc::SO_REUSEADDR, &[1, 0]), libc::EINVAL)?;
    fails("ttl", net::set_int(&tcp, libc::IPPROTO_IP, libc::IP_TTL, 256), libc::EINVAL)?;
    fails("groups", net::set_int(&tcp, libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, 4), libc::EINVAL)?;
    let group = [239, 1, 2, 3, 127, 0, 0, 1];
    fails("group", net::set(&tcp, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &group), libc::EPROTO)?;
    fails("ttl", net::set_int(&tcp, libc::IPPROTO_IP, libc::IP_TTL, 0), libc::EINVAL)?;
    fails("idle", net::set_int(&tcp, IPPROTO_TCP, libc::TCP_KEEPIDLE, 0), libc::EINVAL)?;
    fails("segment", net::set_int(&tcp, IPPROTO_TCP, libc::TCP_MAXSEG, 10), libc::EINVAL)?;
    fails("algorithm", net::set(&tcp, IPPROTO_TCP, libc::TCP_CONGESTION, b"nonesuch"), libc::ENOENT)?;
    fails("header", net::set_int(&tcp, libc::IPPROTO_IP, libc::IP_HDRINCL, 1), libc::ENOPROTOOPT)?;
    fails("device", net::set(&tcp, SOL_SOCKET, libc::SO_BINDTODEVICE, b"nonesuch\0"), libc::ENODEV)?;
    fails("urgent datagram", net::send(&udp, b"x", libc::MSG_OOB, &four(LOCAL, 9)), libc::EOPNOTSUPP)?;
    fails("no connection", net::shutdown(&tcp, 2), libc::ENOTCONN)?;
    fails("direction", net::shutdown(&tcp, 3), libc::EINVAL)?;
    fails("broadcast", net::send(&udp, b"x", 0, &four([255; 4], 9)), libc::EACCES)
}

fn interfaces() -> Outcome {
    const GET_INDEX: u64 = 0x8933;
    const GET_FLAGS: u64 = 0x8913;
    const GET_ADDRESS: u64 = 0x8915;
    let socket = works("socket", net::socket(INET, DGRAM, 0))?;
    let request = |name: &str, number: u64| {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(40, 0);
        net::ioctl(&socket, number, &mut bytes).map(|_| std::hint::black_box(bytes)[16..32].to_vec())
    };
    same("loopback", works("index", request("lo", GET_INDEX))?[..4].to_vec(), vec![1, 0, 0, 0])?;
    let flags = works("flags", request("lo", GET_FLAGS))?;
    same("up and loopback", flags[0] & 9, 9)?;
    same("address", works("address", request("lo", GET_ADDRESS))?[4..8].to_vec(), LOCAL.to_vec())?;
    fails("no such", request("nonesuch", GET_INDEX), libc::ENODEV)?;
    let six = std::fs::read_to_string("/proc/net/if_inet6").map_err(|e| e.to_string())?;
    that("six", six.contains("00000000000000000000000000000001 01 80 10 80       lo"))?;
    let dev = std::fs::read_to_string("/proc/net/dev").map_err(|e| e.to_string())?;
    that("dev", dev.lines().any(|line| line.trim_start().starts_with("lo:")))
}

//! Both internet families, one socket for both, and what differs between them.
mod common;
use common::{CLIENT, Faults, Pair, Progress, SERVER, at, moved, option};
use shimos_abi::{errno::Errno, time::Nanos};
use shimos_net::{Control, Family, Message, Privilege, Protocol, Readiness, SocketId, Stack, Take, level};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const SOON: Nanos = Nanos::millis(10);
const V6_ONLY: option::Name = (level::IPV6, 26);

fn six(host: u16) -> IpAddr {
    Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 1, host).into()
}

fn udp6(stack: &mut Stack, address: SocketAddr) -> SocketId {
    let id = stack.open(Family::V6, Protocol::Udp).unwrap();
    stack.bind(id, address).unwrap();
    id
}

#[test]
fn tcp_over_ipv6_and_bad_links() {
    for seed in 0..8 {
        let mut pair = Pair::new(seed, Faults { lose: 5, repeat: 3, delay: 10 });
        pair.family = Family::V6;
        let (_, server, client) = pair.connected(80);
        let total = 200_000;
        let (mut a, mut b) = (Progress::default(), Progress::default());
        while !(a.is_done(total) && b.is_done(total)) {
            let now = pair.now;
            a.go(&mut pair.stacks[0], now, server, total);
            b.go(&mut pair.stacks[1], now, client, total);
            if seed == 3 {
                pair.stacks = [moved(&pair.stacks[0]), moved(&pair.stacks[1])];
            }
            assert!(pair.step());
        }
        assert_eq!(pair.stacks[0].peer_address(server).unwrap().ip(), six(2));
    }
}

#[test]
fn one_socket_for_both_families() {
    let mut pair = Pair::new(1, Faults::default());
    let listener = pair.stacks[0].open(Family::V6, Protocol::Tcp).unwrap();
    pair.stacks[0].bind(listener, "[::]:80".parse().unwrap()).unwrap();
    pair.stacks[0].listen(listener, 5).unwrap();
    // The port is taken for IPv4 as well.
    let other = pair.stacks[0].open(Family::V4, Protocol::Tcp).unwrap();
    assert_eq!(pair.stacks[0].bind(other, "0.0.0.0:80".parse().unwrap()), Err(Errno::EADDRINUSE));
    for (family, to) in [
        (Family::V4, SocketAddr::new(SERVER.into(), 80)),
        (Family::V6, SocketAddr::new(six(1), 80)),
        (Family::V6, SocketAddr::new(SERVER.to_ipv6_mapped().into(), 80)),
    ] {
        let client = pair.stacks[1].open(family, Protocol::Tcp).unwrap();
        assert_eq!(pair.stacks[1].connect(pair.now, client, to), Err(Errno::EINPROGRESS));
        pair.run_for(SOON);
        assert_eq!(pair.stacks[1].peer_address(client).unwrap(), to);
        let (server, peer) = pair.stacks[0].accept(listener).unwrap();
        let expected = if to.ip() == six(1) { six(2) } else { IpAddr::V6(CLIENT.to_ipv6_mapped()) };
        assert_eq!(peer.ip(), expected);
        assert_eq!(pair.stacks[0].family(server), Ok(Family::V6));
    }
}

#[test]
fn only_ipv6_if_asked_for() {
    let mut stack = Stack::new(common::config(1), 1);
    let now = Nanos(1);
    let six = stack.open(Family::V6, Protocol::Tcp).unwrap();
    option::set(&mut stack, now, six, V6_ONLY, 1);
    stack.bind(six, "[::]:80".parse().unwrap()).unwrap();
    let failed = stack.set_option(now, six, Privilege::None, V6_ONLY.0, V6_ONLY.1, &[0; 4]);
    assert_eq!(failed, Err(Errno::EINVAL), "too late");
    let four = stack.open(Family::V4, Protocol::Tcp).unwrap();
    stack.bind(four, "0.0.0.0:80".parse().unwrap()).unwrap();
    stack.listen(six, 1).unwrap();
    stack.listen(four, 1).unwrap();
    let client = stack.open(Family::V6, Protocol::Tcp).unwrap();
    option::set(&mut stack, now, client, V6_ONLY, 1);
    let mapped = "[::ffff:10.77.1.1]:80".parse().unwrap();
    assert_eq!(stack.connect(now, client, mapped), Err(Errno::ENETUNREACH));
    assert_eq!(stack.bind(client, mapped), Err(Errno::EINVAL));
}

#[test]
fn datagrams_of_any_size_both_ways() {
    let mut pair = Pair::new(1, Faults::default());
    let server = udp6(&mut pair.stacks[0], "[::]:53".parse().unwrap());
    let client = pair.stacks[1].open(Family::V6, Protocol::Udp).unwrap();
    for to in [SocketAddr::new(six(1), 53), SocketAddr::new(SERVER.to_ipv6_mapped().into(), 53)] {
        for size in [0, 1, 1452, 1453, 9000, 65_507] {
            let bytes: Vec<u8> = (0..size).map(|n| n as u8).collect();
            assert_eq!(pair.stacks[1].send(pair.now, client, &bytes, Some(to)), Ok(size));
            pair.run_for(SOON);
            let mut buffer = vec![0; 70_000];
            let got = pair.stacks[0].receive_from(pair.now, server, &mut buffer, Take::Consume).unwrap();
            assert_eq!(buffer[..got.copied], bytes, "{size} to {to}");
            assert!(got.from.unwrap().is_ipv6());
        }
    }
    // Nobody there.
    pair.stacks[1].connect(pair.now, client, SocketAddr::new(six(1), 54)).unwrap();
    pair.send(1, client, b"anybody?").unwrap();
    pair.run_for(SOON);
    assert_eq!(pair.receive(1, client), Err(Errno::ECONNREFUSED));
}

#[test]
fn neighbours_by_their_link_local_addresses() {
    let mut pair = Pair::new(1, Faults::default());
    let near = pair.stacks[0].config().link_local();
    let server = udp6(&mut pair.stacks[0], "[::]:53".parse().unwrap());
    let client = pair.stacks[1].open(Family::V6, Protocol::Udp).unwrap();
    let to = |scope: u32| Some(std::net::SocketAddrV6::new(near, 53, 0, scope).into());
    assert_eq!(pair.stacks[1].send(pair.now, client, b"x", to(0)), Err(Errno::EINVAL));
    pair.stacks[1].send(pair.now, client, b"near", to(2)).unwrap();
    pair.run_for(SOON);
    let mut buffer = [0; 9];
    let got = pair.stacks[0].receive_from(pair.now, server, &mut buffer, Take::Consume).unwrap();
    let Some(SocketAddr::V6(from)) = got.from else { panic!("no address") };
    assert_eq!((*from.ip(), from.scope_id()), (pair.stacks[1].config().link_local(), 2));
}

#[test]
fn a_neighbour_that_is_not_there() {
    let mut pair = Pair::new(1, Faults::default());
    let id = pair.stacks[1].open(Family::V6, Protocol::Tcp).unwrap();
    let nobody = SocketAddr::new(six(99), 80);
    assert_eq!(pair.stacks[1].connect(pair.now, id, nobody), Err(Errno::EINPROGRESS));
    pair.run_for(Nanos::secs(10));
    assert_eq!(pair.stacks[1].take_error(id), Ok(Some(Errno::EHOSTUNREACH)));
}

#[test]
fn echo_over_ipv6() {
    let mut pair = Pair::new(4, Faults::default());
    let id = pair.stacks[1].open(Family::V6, Protocol::Echo).unwrap();
    let mut request = vec![128, 0, 0, 0, 9, 9, 0, 1];
    request.extend_from_slice(&[7; 3000]);
    for to in [six(1), Ipv6Addr::LOCALHOST.into()] {
        pair.stacks[1].send(pair.now, id, &request, Some(SocketAddr::new(to, 0))).unwrap();
        pair.run_for(SOON);
        let reply = pair.receive(1, id).unwrap();
        assert_eq!((reply[0], &reply[6..]), (129, &request[6..]));
    }
}

#[test]
fn groups_are_joined_and_left() {
    let mut pair = Pair::new(1, Faults::default());
    let member = pair.stacks[0].open(Family::V4, Protocol::Udp).unwrap();
    pair.stacks[0].bind(member, "0.0.0.0:5353".parse().unwrap()).unwrap();
    let client = pair.stacks[1].open(Family::V4, Protocol::Udp).unwrap();
    let to = Some("239.1.2.3:5353".parse().unwrap());
    let request = [239, 1, 2, 3, 0, 0, 0, 0];
    let say = |pair: &mut Pair, heard: bool| {
        pair.stacks[1].send(pair.now, client, b"all", to).unwrap();
        pair.run_for(SOON);
        assert_eq!(pair.receive(0, member).is_ok(), heard);
    };
    say(&mut pair, false);
    let now = pair.now;
    let set =
        |pair: &mut Pair, name: i32| pair.stacks[0].set_option(now, member, Privilege::None, level::IP, name, &request);
    set(&mut pair, 35).unwrap();
    assert_eq!(set(&mut pair, 35), Err(Errno::EADDRINUSE));
    say(&mut pair, true);
    set(&mut pair, 36).unwrap();
    assert_eq!(set(&mut pair, 36), Err(Errno::EADDRNOTAVAIL));
    say(&mut pair, false);
}

#[test]
fn a_datagram_tells_where_it_went() {
    let mut pair = Pair::new(1, Faults::default());
    let server = udp6(&mut pair.stacks[0], "[::]:53".parse().unwrap());
    for name in [49, 51, 66] {
        option::set(&mut pair.stacks[0], pair.now, server, (level::IPV6, name), 1);
    }
    let client = pair.stacks[1].open(Family::V6, Protocol::Udp).unwrap();
    let hops = Control { level: level::IPV6, kind: 52, bytes: 9_i32.to_le_bytes().to_vec() };
    let message =
        Message { bytes: b"x", to: Some(SocketAddr::new(six(1), 53)), control: &[hops], ..Message::default() };
    assert_eq!(pair.stacks[1].send_message(pair.now, client, &message), Ok(1));
    pair.run_for(SOON);
    let got = pair.stacks[0].receive_from(pair.now, server, &mut [0; 9], Take::Consume).unwrap();
    let find = |kind: i32| got.control.iter().find(|c| c.kind == kind).map(|c| c.bytes.clone()).unwrap();
    let IpAddr::V6(own) = six(1) else { panic!("no IPv6") };
    assert_eq!(find(50)[..16], own.octets());
    assert_eq!(find(50)[16..], 2_u32.to_le_bytes());
    assert_eq!(find(52), 9_i32.to_le_bytes());
    assert_eq!(find(67), 0_i32.to_le_bytes());
}

#[test]
fn refusals_are_queued_for_who_asks() {
    const ERRORS: option::Name = (level::IP, 11);
    let mut pair = Pair::new(1, Faults::default());
    let client = pair.stacks[1].open(Family::V4, Protocol::Udp).unwrap();
    option::set(&mut pair.stacks[1], pair.now, client, ERRORS, 1);
    pair.stacks[1].send(pair.now, client, b"question", Some(at(SERVER, 9))).unwrap();
    pair.run_for(SOON);
    assert!(pair.stacks[1].readiness(client).contains(Readiness::ERROR));
    let mut quoted = [0; 64];
    let got = pair.stacks[1].receive_failure(client, &mut quoted).unwrap();
    assert_eq!((&quoted[..got.copied], got.from), (b"question".as_slice(), Some(at(SERVER, 9))));
    let [told] = got.control.as_slice() else { panic!("no control") };
    assert_eq!(told.bytes[..8], [111, 0, 0, 0, 2, 3, 3, 0]);
    assert_eq!(told.bytes[16..24], [2, 0, 0, 0, 10, 77, 1, 1]);
    assert_eq!(pair.stacks[1].receive_failure(client, &mut quoted).map(|_| ()), Err(Errno::EAGAIN));
}

#[test]
fn raw_packets_are_seen_by_who_may() {
    let mut pair = Pair::new(1, Faults::default());
    let raw = pair.stacks[0].open_raw(Family::V4, 253).unwrap();
    let from = pair.stacks[1].open_raw(Family::V4, 253).unwrap();
    pair.stacks[1].send(pair.now, from, b"something", Some(at(SERVER, 0))).unwrap();
    pair.run_for(SOON);
    let packet = pair.receive(0, raw).unwrap();
    assert_eq!((packet[0], packet[9], &packet[20..]), (0x45, 253, b"something".as_slice()));
    // Nobody speaks that one: the sender is told.
    let other = pair.stacks[1].open_raw(Family::V4, 252).unwrap();
    let icmp = pair.stacks[1].open_raw(Family::V4, 1).unwrap();
    pair.stacks[1].send(pair.now, other, b"?", Some(at(SERVER, 0))).unwrap();
    pair.run_for(SOON);
    let told = pair.receive(1, icmp).unwrap();
    assert_eq!(told[20..22], [3, 2]);
}

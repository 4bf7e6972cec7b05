//! UDP, echo requests, ARP.
mod common;
use common::{CLIENT, Faults, Pair, SERVER, at, moved, option};
use shimos_abi::{errno::Errno, time::Nanos};
use shimos_net::{Family, Protocol, Readiness, SocketId, Stack, Take};
use std::net::Ipv4Addr;

const SOON: Nanos = Nanos::millis(10);

fn udp(stack: &mut Stack, address: Ipv4Addr, port: u16) -> SocketId {
    let id = stack.open(Family::V4, Protocol::Udp).unwrap();
    stack.bind(id, at(address, port)).unwrap();
    id
}

#[test]
fn to_itself() {
    let mut stack = Stack::new(common::config(1), 8);
    let now = Nanos::secs(1);
    let server = udp(&mut stack, Ipv4Addr::UNSPECIFIED, 53);
    let client = stack.open(Family::V4, Protocol::Udp).unwrap();
    assert_eq!(stack.send(now, client, b"x", None), Err(Errno::EDESTADDRREQ));
    let big = vec![5; 60_000];
    for (address, from) in [(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST), (SERVER, SERVER)] {
        assert_eq!(stack.send(now, client, &big, Some(at(address, 53))), Ok(60_000));
        stack = moved(&stack);
        assert_eq!(stack.next_deadline(), Some(Nanos(0)));
        stack.poll(now);
        assert_eq!(stack.take_frame(), None);
        assert!(stack.readiness(server).contains(Readiness::READABLE));
        let mut buffer = vec![0; 100];
        let received = stack.receive_from(now, server, &mut buffer, Take::Peek).unwrap();
        assert_eq!((received.copied, received.length), (100, 60_000));
        assert_eq!(received.from.unwrap().ip(), from);
        stack.receive_from(now, server, &mut buffer, Take::Consume).unwrap();
    }
}

#[test]
fn over_the_wire() {
    let mut pair = Pair::new(4, Faults::default());
    let server = udp(&mut pair.stacks[0], SERVER, 53);
    let client = pair.stacks[1].open(Family::V4, Protocol::Udp).unwrap();
    pair.stacks[1].connect(pair.now, client, at(SERVER, 53)).unwrap();
    assert_eq!(pair.stacks[1].local_address(client).unwrap().ip(), CLIENT);
    assert_eq!(pair.send(1, client, &[0; 65508]), Err(Errno::EMSGSIZE));
    pair.send(1, client, b"question").unwrap();
    pair.send(1, client, b"").unwrap();
    pair.run_for(SOON);
    let mut buffer = [0; 64];
    let received = pair.stacks[0].receive_from(pair.now, server, &mut buffer, Take::Consume).unwrap();
    assert_eq!(&buffer[..received.copied], b"question");
    pair.stacks[0].send(pair.now, server, b"answer", received.from).unwrap();
    assert_eq!(pair.receive(0, server).unwrap(), b"");
    pair.run_for(SOON);
    assert_eq!(pair.receive(1, client).unwrap(), b"answer");
    // Only the peer is heard.
    let other = udp(&mut pair.stacks[0], SERVER, 54);
    let back = pair.stacks[1].local_address(client).unwrap();
    pair.stacks[0].send(pair.now, other, b"stranger", Some(back)).unwrap();
    pair.run_for(SOON);
    assert_eq!(pair.receive(1, client), Err(Errno::EAGAIN));
    // Nobody there any more: the next call is told.
    pair.close(0, server);
    pair.send(1, client, b"anybody?").unwrap();
    pair.run_for(SOON);
    assert!(pair.stacks[1].readiness(client).contains(Readiness::ERROR));
    assert_eq!(pair.receive(1, client), Err(Errno::ECONNREFUSED));
    assert_eq!(pair.receive(1, client), Err(Errno::EAGAIN));
}

#[test]
fn to_everybody() {
    let mut pair = Pair::new(4, Faults::default());
    let first = udp(&mut pair.stacks[0], Ipv4Addr::UNSPECIFIED, 67);
    let client = pair.stacks[1].open(Family::V4, Protocol::Udp).unwrap();
    let to = Some(at(Ipv4Addr::BROADCAST, 67));
    assert_eq!(pair.stacks[1].send(pair.now, client, b"all", to), Err(Errno::EACCES));
    option::set(&mut pair.stacks[1], pair.now, client, option::BROADCAST, 1);
    pair.stacks[1].send(pair.now, client, b"all", to).unwrap();
    pair.run_for(SOON);
    assert_eq!(pair.receive(0, first).unwrap(), b"all");
}

#[test]
fn the_queue_is_bounded() {
    let mut stack = Stack::new(common::config(1), 8);
    let now = Nanos::secs(1);
    let server = udp(&mut stack, Ipv4Addr::UNSPECIFIED, 53);
    for _ in 0..10_000 {
        stack.send(now, server, b"", Some(at(Ipv4Addr::LOCALHOST, 53))).unwrap();
        stack.poll(now);
    }
    assert!(minicbor::to_vec(&stack).unwrap().len() < 300_000);
}

#[test]
fn echo() {
    let mut pair = Pair::new(4, Faults::default());
    let id = pair.stacks[1].open(Family::V4, Protocol::Echo).unwrap();
    let mut request = vec![8, 0, 0, 0, 9, 9, 0, 1];
    request.extend_from_slice(b"payload");
    for to in [SERVER, Ipv4Addr::LOCALHOST] {
        pair.stacks[1].send(pair.now, id, &request, Some(at(to, 0))).unwrap();
        pair.run_for(SOON);
        let reply = pair.receive(1, id).unwrap();
        assert_eq!((reply[0], &reply[6..]), (0, &request[6..]));
        assert_eq!(reply[4..6], pair.stacks[1].local_address(id).unwrap().port().to_be_bytes());
    }
    assert_eq!(pair.stacks[1].send(pair.now, id, b"junk", Some(at(SERVER, 0))), Err(Errno::EINVAL));
}

#[test]
fn networks_without_a_way() {
    let mut config = common::config(1);
    config.gateway = Ipv4Addr::UNSPECIFIED;
    let mut stack = Stack::new(config, 1);
    let id = stack.open(Family::V4, Protocol::Udp).unwrap();
    let to = at(Ipv4Addr::new(8, 8, 8, 8), 53);
    assert_eq!(stack.send(Nanos(0), id, b"x", Some(to)), Err(Errno::ENETUNREACH));
    let id = stack.open(Family::V4, Protocol::Tcp).unwrap();
    assert_eq!(stack.connect(Nanos(0), id, to), Err(Errno::ENETUNREACH));
    // With a gateway, it is the gateway whose address is asked for.
    let mut stack = Stack::new(common::config(1), 1);
    let id = stack.open(Family::V4, Protocol::Udp).unwrap();
    stack.send(Nanos::secs(1), id, b"x", Some(to)).unwrap();
    let frame = stack.take_frame().unwrap();
    assert_eq!((&frame[12..14], &frame[38..42]), (&[8, 6][..], &[10, 77, 0, 1][..]));
}

//! Streams under attack and with options: cookies, urgent data, narrow paths, limits of time.
mod common;
use common::{Faults, Pair, Progress, SERVER, at, moved, option, pattern};
use shimos_abi::{errno::Errno, time::Nanos};
use shimos_net::{Family, Message, Protocol, Readiness, Stack, State, Take, Urgency, level};
use smoltcp::wire::{IpAddress, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};
use std::net::Ipv4Addr;

const SOON: Nanos = Nanos::millis(10);
const ATTACKER: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 9);

/// A frame to the server with a SYN from a forged address.
fn forged_syn(port: u16) -> Vec<u8> {
    let mut frame = vec![0x52, 0x53, 0x48, 0x4d, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
    let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    ip.extend_from_slice(&ATTACKER.octets());
    ip.extend_from_slice(&SERVER.octets());
    let sum = !ip.as_chunks::<2>().0.iter().fold(0_u32, |sum, w| {
        let sum = sum + u32::from(u16::from_be_bytes(*w));
        (sum & 0xffff) + (sum >> 16)
    }) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(&ip);
    let header = TcpRepr {
        src_port: port,
        dst_port: 80,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(7),
        ack_number: None,
        window_len: 1000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let start = frame.len();
    frame.resize(start + 20, 0);
    let (a, b) = (IpAddress::Ipv4(ATTACKER), IpAddress::Ipv4(SERVER));
    header.emit(&mut TcpPacket::new_unchecked(&mut frame[start..]), &a, &b, &Default::default());
    frame
}

#[test]
fn connections_come_through_a_flood() {
    for takeover in [false, true] {
        let mut pair = Pair::new(5, Faults::default());
        let listener = pair.listen(80, 16);
        for port in 1..2000 {
            pair.stacks[0].receive(pair.now, &forged_syn(port));
            while pair.stacks[0].take_frame().is_some() {}
        }
        assert!(minicbor::to_vec(&pair.stacks[0]).unwrap().len() < 40_000, "a flood leaves little behind");
        let client = pair.start(80);
        if takeover {
            // The answer goes out, the kernel dies, and another knows the cookie again.
            pair.run_for(Nanos::micros(150));
            pair.stacks[0] = moved(&pair.stacks[0]);
        }
        pair.run_for(SOON);
        assert!(pair.stacks[0].counters().cookies_sent > 0);
        assert_eq!(pair.stacks[0].counters().cookies_received, 1);
        let (server, _) = pair.stacks[0].accept(listener).unwrap();
        let total = 300_000;
        let (mut a, mut b) = (Progress::default(), Progress::default());
        while !(a.is_done(total) && b.is_done(total)) {
            let now = pair.now;
            a.go(&mut pair.stacks[0], now, server, total);
            b.go(&mut pair.stacks[1], now, client, total);
            assert!(pair.step());
        }
        let info = pair.stacks[0].tcp_info(server).unwrap();
        assert_eq!(info.options, 7, "what the two ends can do has survived the cookie");
    }
}

#[test]
fn forged_cookies_are_refused() {
    let mut pair = Pair::new(5, Faults::default());
    let listener = pair.listen(80, 16);
    for port in 1..200 {
        pair.stacks[0].receive(pair.now, &forged_syn(port));
    }
    while pair.stacks[0].take_frame().is_some() {}
    for guess in 0..2000_u32 {
        let mut frame = forged_syn(999);
        let mut tcp = TcpPacket::new_unchecked(&mut frame[34..]);
        tcp.set_syn(false);
        tcp.set_ack(true);
        tcp.set_ack_number(TcpSeqNumber(guess.wrapping_mul(0x9e37_79b9) as i32));
        tcp.fill_checksum(&IpAddress::Ipv4(ATTACKER), &IpAddress::Ipv4(SERVER));
        pair.stacks[0].receive(pair.now, &frame);
        while pair.stacks[0].take_frame().is_some() {}
    }
    assert_eq!(pair.stacks[0].counters().cookies_failed, 2000);
    assert_eq!(pair.stacks[0].accept(listener).map(|_| ()), Err(Errno::EAGAIN));
}

#[test]
fn urgent_data_overtakes() {
    let mut pair = Pair::new(5, Faults::default());
    let (_, server, client) = pair.connected(80);
    pair.send(1, client, b"before").unwrap();
    let urgent = Message { bytes: b"!", urgent: Urgency::Urgent, ..Message::default() };
    pair.stacks[1].send_message(pair.now, client, &urgent).unwrap();
    pair.send(1, client, b"after").unwrap();
    pair.run_for(SOON);
    pair.stacks[0] = moved(&pair.stacks[0]);
    assert!(pair.stacks[0].readiness(server).contains(Readiness::URGENT));
    assert_eq!(pair.stacks[0].receive_urgent(server, Take::Peek), Ok(b'!'));
    assert_eq!(pair.stacks[0].receive_urgent(server, Take::Consume), Ok(b'!'));
    assert_eq!(pair.stacks[0].receive_urgent(server, Take::Consume), Err(Errno::EINVAL), "only once");
    assert_eq!(pair.stacks[0].is_at_mark(server), Ok(false));
    assert_eq!(pair.receive(0, server).unwrap(), b"before", "reading stops at the mark");
    assert_eq!(pair.stacks[0].is_at_mark(server), Ok(true));
    assert_eq!(pair.receive(0, server).unwrap(), b"after");
    // In line it is a byte like others.
    option::set(&mut pair.stacks[0], pair.now, server, (level::SOCKET, 10), 1);
    pair.send(1, client, b"a").unwrap();
    pair.run_for(SOON);
    pair.stacks[1].send_message(pair.now, client, &urgent).unwrap();
    pair.run_for(SOON);
    assert_eq!(pair.stacks[0].receive_urgent(server, Take::Consume), Err(Errno::EINVAL));
    assert_eq!(pair.receive(0, server).unwrap(), b"a");
    assert_eq!(pair.receive(0, server).unwrap(), b"!");
}

/// The ICMP error that a router sends about a packet that is too large.
fn too_large(packet: &[u8], mtu: u16) -> Vec<u8> {
    let sum = |bytes: &[u8]| {
        !bytes.chunks(2).fold(0_u32, |sum, w| {
            let sum = sum + (u32::from(w[0]) << 8 | w.get(1).copied().map_or(0, u32::from));
            (sum & 0xffff) + (sum >> 16)
        }) as u16
    };
    let mut icmp = vec![3, 4, 0, 0, 0, 0];
    icmp.extend_from_slice(&mtu.to_be_bytes());
    icmp.extend_from_slice(&packet[14..14 + 28]);
    let check = sum(&icmp);
    icmp[2..4].copy_from_slice(&check.to_be_bytes());
    let mut ip = vec![0x45, 0, 0, (20 + icmp.len()) as u8, 0, 0, 0, 0, 64, 1, 0, 0, 10, 77, 8, 8];
    ip.extend_from_slice(&packet[26..30]);
    let check = sum(&ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    let mut frame = packet[6..12].to_vec();
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 8, 8, 0]);
    frame.extend_from_slice(&ip);
    frame.extend_from_slice(&icmp);
    frame
}

#[test]
fn a_narrow_path_is_found() {
    let mut pair = Pair::new(5, Faults::default());
    let (_, server, client) = pair.connected(80);
    let bytes: Vec<u8> = (0..100_000).map(pattern).collect();
    let mut sent = 0;
    let mut got = Vec::new();
    let mut largest = 0;
    for _ in 0..100_000 {
        if let Ok(count) = pair.send(1, client, &bytes[sent..]) {
            sent += count;
        }
        while let Some(frame) = pair.stacks[1].take_frame() {
            if frame.len() > 14 + 900 {
                let error = too_large(&frame, 900);
                pair.stacks[1].receive(pair.now, &error);
            } else {
                largest = largest.max(frame.len());
                pair.put(1, frame);
            }
        }
        if let Ok(piece) = pair.receive(0, server) {
            got.extend(piece);
        }
        if got.len() == bytes.len() {
            break;
        }
        assert!(pair.step());
    }
    assert_eq!(got, bytes);
    assert_eq!(largest, 14 + 900);
    // A stranger's error about numbers that are not in flight changes nothing.
    let before = pair.stacks[1].tcp_info(client).unwrap().send_mss;
    let mut forged = vec![0; 54];
    forged[6..12].copy_from_slice(&[0x52, 0x53, 0x48, 0x4d, 0, 2]);
    forged[14] = 0x45;
    forged[23] = 6;
    forged[26..30].copy_from_slice(&[10, 77, 1, 2]);
    forged[30..34].copy_from_slice(&SERVER.octets());
    pair.stacks[1].receive(pair.now, &too_large(&forged, 600));
    assert_eq!(pair.stacks[1].tcp_info(client).unwrap().send_mss, before);
}

#[test]
fn unacknowledged_data_may_have_a_limit() {
    let mut pair = Pair::new(5, Faults::default());
    let (_, _, client) = pair.connected(80);
    option::set(&mut pair.stacks[1], pair.now, client, (level::TCP, 18), 3000);
    pair.faults.lose = 100;
    pair.send(1, client, b"into the void").unwrap();
    pair.run_for(Nanos::secs(2));
    assert_eq!(pair.stacks[1].take_error(client), Ok(None));
    pair.run_for(Nanos::secs(6));
    assert_eq!(pair.stacks[1].take_error(client), Ok(Some(Errno::ETIMEDOUT)));
}

#[test]
fn connections_without_data_wait_if_that_is_wanted() {
    let mut pair = Pair::new(5, Faults::default());
    let listener = pair.listen(80, 5);
    option::set(&mut pair.stacks[0], pair.now, listener, (level::TCP, 9), 1);
    let client = pair.start(80);
    pair.run_for(SOON);
    assert_eq!(pair.stacks[0].accept(listener).map(|_| ()), Err(Errno::EAGAIN));
    pair.send(1, client, b"data").unwrap();
    pair.run_for(SOON);
    let (server, _) = pair.stacks[0].accept(listener).unwrap();
    assert_eq!(pair.receive(0, server).unwrap(), b"data");
    // Who stays silent is handed out in the end.
    pair.start(80);
    pair.run_for(Nanos::secs(5));
    assert!(pair.stacks[0].accept(listener).is_ok());
}

#[test]
fn a_disconnected_socket_connects_again() {
    let mut pair = Pair::new(5, Faults::default());
    let (listener, server, client) = pair.connected(80);
    pair.stacks[1].disconnect(pair.now, client).unwrap();
    pair.run_for(SOON);
    assert_eq!(pair.receive(0, server), Err(Errno::ECONNRESET));
    assert_eq!(pair.stacks[1].local_address(client).unwrap().port(), 0);
    assert_eq!(pair.stacks[1].connect(pair.now, client, at(SERVER, 80)), Err(Errno::EINPROGRESS));
    pair.run_for(SOON);
    assert!(pair.stacks[0].accept(listener).is_ok());
}

#[test]
fn damaged_frames_do_no_harm() {
    for seed in 0..20 {
        let mut pair = Pair::new(seed, Faults { lose: 2, repeat: 2, delay: 5 });
        if seed % 2 == 1 {
            pair.family = Family::V6;
        }
        let (_, server, client) = pair.connected(80);
        let total = 100_000;
        let (mut a, mut b) = (Progress::default(), Progress::default());
        while !(a.is_done(total) && b.is_done(total)) {
            let now = pair.now;
            a.go(&mut pair.stacks[0], now, server, total);
            b.go(&mut pair.stacks[1], now, client, total);
            for side in 0..2 {
                while let Some(mut frame) = pair.stacks[side].take_frame() {
                    if pair.random.below(100) < 5 {
                        // Beyond the addresses of the hardware, which have no checksum but the wire's.
                        let place = 14 + pair.random.below(frame.len() as u64 - 14) as usize;
                        frame[place] ^= 1 << pair.random.below(8);
                    }
                    pair.put(side, frame);
                }
            }
            assert!(pair.step());
        }
    }
}

#[test]
fn ports_of_connections_do_not_follow_each_other() {
    let mut stack = Stack::new(common::config(1), 7);
    let mut ports = Vec::new();
    for host in 2..20 {
        let id = stack.open(Family::V4, Protocol::Udp).unwrap();
        stack.connect(Nanos(1), id, at(Ipv4Addr::new(10, 77, 1, host), 53)).unwrap();
        ports.push(stack.local_address(id).unwrap().port());
    }
    let neighbours = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 100).count();
    assert!(neighbours < 3, "{ports:?}");
}

#[test]
fn states_are_told() {
    let mut pair = Pair::new(5, Faults::default());
    let (listener, server, client) = pair.connected(80);
    let listed: Vec<(u8, u16)> = pair.stacks[0].list().iter().map(|e| (e.state, e.local.port())).collect();
    assert_eq!(listed, [(10, 80), (1, 80)]);
    assert_eq!(pair.stacks[0].tcp_info(server).unwrap().state, State::Established);
    let info = pair.stacks[0].option(pair.now, server, level::TCP, 11).unwrap();
    assert_eq!((info[0], info.len()), (1, 240));
    let info = pair.stacks[0].option(pair.now, listener, level::TCP, 11).unwrap();
    assert_eq!(info[0], 10);
    pair.close(1, client);
    pair.close(0, server);
    pair.run_for(SOON);
    assert_eq!(pair.stacks[1].time_wait_count(), 1);
    assert_eq!(pair.stacks[1].list().last().map(|e| e.state), Some(6));
}

//! Connections: how they begin, how they end, and what happens in between.
mod common;
use common::{Faults, Pair, SERVER, at, is_reset, moved, option};
use shimos_abi::{errno::Errno, time::Nanos};
use shimos_net::{Family, How, Privilege, Protocol, Readiness, Stack, State, Take, level};
use smoltcp::wire::{IpAddress, TcpPacket};
use std::net::Ipv4Addr;

fn pair() -> Pair {
    Pair::new(42, Faults::default())
}

const SOON: Nanos = Nanos::millis(500);

/// Changes the TCP header of a frame and sets its checksum right again.
fn edit(frame: &mut [u8], change: impl FnOnce(&mut TcpPacket<&mut [u8]>)) {
    let address = |at: usize| IpAddress::v4(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let (source, target) = (address(26), address(30));
    let mut packet = TcpPacket::new_checked(&mut frame[34..]).unwrap();
    change(&mut packet);
    packet.fill_checksum(&source, &target);
}

/// The next TCP frame of a stack.
fn next_frame(pair: &mut Pair, side: usize) -> Vec<u8> {
    loop {
        if let Some(frame) = pair.stacks[side].take_frame() {
            return frame;
        }
        assert!(pair.stacks[side].next_deadline().is_some());
        pair.now = pair.now.max(pair.stacks[side].next_deadline().unwrap());
        let now = pair.now;
        pair.stacks[side].poll(now);
    }
}

#[test]
fn an_idle_connection_needs_no_attention() {
    let mut pair = pair();
    let (_, server, client) = pair.connected(80);
    pair.send(1, client, b"hello").unwrap();
    pair.run_for(SOON);
    assert_eq!(pair.receive(0, server).unwrap(), b"hello");
    assert_eq!(pair.receive(0, server), Err(Errno::EAGAIN));
    assert!(!pair.step());
    assert_eq!(pair.stacks[0].readiness(server), Readiness::WRITABLE);
    let version = pair.stacks[0].version();
    pair.stacks[0].poll(pair.now);
    assert_eq!(pair.stacks[0].version(), version);
    let encoded = minicbor::to_vec(&pair.stacks[0]).unwrap();
    assert!(encoded.len() < 600, "{}", encoded.len());
}

#[test]
fn nobody_listens() {
    let mut pair = pair();
    let id = pair.start(81);
    assert_eq!(pair.stacks[1].connect(pair.now, id, at(SERVER, 81)), Err(Errno::EALREADY));
    assert_eq!(pair.stacks[1].readiness(id), Readiness::empty());
    pair.run_for(SOON);
    assert_eq!(pair.stacks[1].take_changed(), Some(id));
    let ready = pair.stacks[1].readiness(id);
    assert!(ready.contains(Readiness::ERROR | Readiness::HANGUP | Readiness::WRITABLE), "{ready:?}");
    // The call issued again tells the outcome, once; then the socket can be tried again.
    assert_eq!(pair.stacks[1].connect(pair.now, id, at(SERVER, 81)), Err(Errno::ECONNREFUSED));
    pair.listen(81, 1);
    assert_eq!(pair.stacks[1].connect(pair.now, id, at(SERVER, 81)), Err(Errno::EINPROGRESS));
    pair.run_for(SOON);
    assert_eq!(pair.stacks[1].take_error(id), Ok(None));
    assert_eq!(pair.stacks[1].connect(pair.now, id, at(SERVER, 81)), Ok(()));
}

#[test]
fn nobody_answers() {
    let mut pair = pair();
    let to = at(Ipv4Addr::new(10, 77, 9, 9), 80);
    let id = pair.stacks[1].open(Family::V4, Protocol::Tcp).unwrap();
    pair.stacks[1].connect(pair.now, id, to).unwrap_err();
    pair.run_for(Nanos::secs(5));
    assert_eq!(pair.stacks[1].take_error(id), Ok(Some(Errno::EHOSTUNREACH)));

    // The neighbour is there, but no SYN gets through.
    let (_, _, _) = pair.connected(80);
    let id = pair.start(80);
    pair.faults.lose = 100;
    pair.run_for(Nanos::secs(300));
    let error = pair.stacks[1].option(pair.now, id, level::SOCKET, 4).unwrap();
    assert_eq!(error, i32::from(Errno::ETIMEDOUT.0).to_le_bytes());
}

#[test]
fn an_established_connection_gives_up_in_the_end() {
    let mut pair = pair();
    let (_, _, client) = pair.connected(80);
    pair.faults.lose = 100;
    pair.send(1, client, b"lost").unwrap();
    pair.run_for(Nanos::secs(100));
    assert_eq!(pair.stacks[1].take_error(client), Ok(None));
    pair.run_for(Nanos::secs(3600));
    assert_eq!(pair.receive(1, client), Err(Errno::ETIMEDOUT));
    assert_eq!(pair.receive(1, client), Ok(vec![]));
    assert_eq!(pair.send(1, client, b"x"), Err(Errno::EPIPE));
}

#[test]
fn half_close_and_the_rest() {
    let mut pair = pair();
    let (_, server, client) = pair.connected(80);
    pair.send(1, client, b"question").unwrap();
    pair.stacks[1].shutdown(pair.now, client, How::Write).unwrap();
    assert_eq!(pair.send(1, client, b"more"), Err(Errno::EPIPE));
    pair.run_for(SOON);
    let ready = pair.stacks[0].readiness(server);
    assert_eq!(ready, Readiness::READABLE | Readiness::WRITABLE | Readiness::READ_CLOSED);
    assert_eq!(pair.stacks[0].readable_bytes(server), Ok(8));
    assert_eq!(pair.receive(0, server).unwrap(), b"question");
    assert_eq!(pair.receive(0, server).unwrap(), b"");
    pair.send(0, server, b"answer").unwrap();
    pair.run_for(SOON);
    assert_eq!(pair.stacks[1].tcp_info(client).unwrap().state, State::FinWait2);
    assert_eq!(pair.stacks[0].tcp_info(server).unwrap().state, State::CloseWait);
    assert_eq!(pair.receive(1, client).unwrap(), b"answer");
    pair.close(0, server);
    pair.run_for(SOON);
    assert_eq!(pair.receive(1, client).unwrap(), b"");
    assert!(pair.stacks[1].readiness(client).contains(Readiness::HANGUP));
    assert_eq!(pair.stacks[1].tcp_info(client).unwrap().state, State::TimeWait);
    // The closed side of the server is gone, and no timer of it is left.
    assert_eq!(pair.stacks[0].readiness(server), Readiness::HANGUP | Readiness::ERROR);
    assert_eq!(pair.stacks[0].next_deadline(), None);
    pair.close(1, client);
    pair.run_for(Nanos::secs(120));
    assert!(!pair.step());
    assert_eq!(pair.resets, 0);
}

#[test]
fn both_close_at_once() {
    let mut pair = pair();
    let (_, server, client) = pair.connected(80);
    pair.stacks[0].shutdown(pair.now, server, How::Write).unwrap();
    pair.stacks[1].shutdown(pair.now, client, How::Write).unwrap();
    pair.run_for(SOON);
    for (side, id) in [server, client].into_iter().enumerate() {
        assert_eq!(pair.stacks[side].tcp_info(id).unwrap().state, State::TimeWait);
        pair.close(side, id);
    }
    pair.run_for(Nanos::secs(120));
    assert!(!pair.step());
    assert_eq!(pair.resets, 0);
}

#[test]
fn closing_with_unread_data_resets() {
    let mut pair = pair();
    let (_, server, client) = pair.connected(80);
    pair.send(1, client, b"unread").unwrap();
    pair.run_for(SOON);
    pair.close(0, server);
    pair.run_for(SOON);
    assert_eq!(pair.resets, 1);
    assert!(pair.stacks[1].readiness(client).contains(Readiness::ERROR));
    assert_eq!(pair.receive(1, client), Err(Errno::ECONNRESET));
    assert_eq!(pair.receive(1, client), Ok(vec![]));
}

#[test]
fn closing_with_linger_zero_resets() {
    let mut pair = pair();
    let (_, server, client) = pair.connected(80);
    let value = [1_i32.to_le_bytes(), 0_i32.to_le_bytes()].concat();
    pair.stacks[0].set_option(pair.now, server, Privilege::None, level::SOCKET, 13, &value).unwrap();
    pair.close(0, server);
    pair.run_for(SOON);
    assert_eq!(pair.receive(1, client), Err(Errno::ECONNRESET));
}

#[test]
fn data_for_a_closed_reader_resets() {
    let mut pair = pair();
    let (_, server, client) = pair.connected(80);
    pair.close(0, server);
    pair.run_for(SOON);
    assert_eq!(pair.send(1, client, b"too late"), Ok(8));
    pair.run_for(SOON);
    assert_eq!(pair.resets, 1);
    assert_eq!(pair.send(1, client, b"x"), Err(Errno::EPIPE));
}

#[test]
fn closing_sends_what_is_queued() {
    let mut pair = pair();
    let (_, server, client) = pair.connected(80);
    let mut sent = 0;
    while let Ok(count) = pair.send(0, server, &[7; 10_000]) {
        sent += count;
    }
    pair.close(0, server);
    let mut received = 0;
    loop {
        pair.run_for(Nanos::millis(2));
        match pair.receive(1, client) {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => received += bytes.len(),
            Err(error) => assert_eq!(error, Errno::EAGAIN),
        }
    }
    assert_eq!(sent, received);
    assert_eq!(sent, 256 * 1024);
}

#[test]
fn the_backlog_is_bounded() {
    let mut pair = pair();
    let listener = pair.listen(80, 2);
    let clients: Vec<_> = (0..6).map(|_| pair.start(80)).collect();
    pair.run_for(SOON);
    let accepted = |pair: &mut Pair| std::iter::from_fn(|| pair.stacks[0].accept(listener).ok()).count();
    // One more than asked for, as on Linux.
    assert_eq!(accepted(&mut pair), 3);
    assert_eq!(pair.stacks[0].accept(listener), Err(Errno::EAGAIN));
    // The others were not refused: they get their turn when they try again.
    pair.run_for(Nanos::secs(10));
    assert_eq!(accepted(&mut pair), 3);
    for client in clients {
        assert!(pair.stacks[1].readiness(client).contains(Readiness::WRITABLE));
    }
    assert_eq!(pair.resets, 0);
}

#[test]
fn a_flood_of_syns_stays_bounded() {
    let mut pair = pair();
    pair.connected(80);
    pair.run_for(SOON);
    let id = pair.start(80);
    let syn = next_frame(&mut pair, 1);
    let before = minicbor::to_vec(&pair.stacks[0]).unwrap().len();
    for port in 1..20_000u16 {
        let mut syn = syn.clone();
        edit(&mut syn, |tcp| tcp.set_src_port(port));
        pair.stacks[0].receive(pair.now, &syn);
        while pair.stacks[0].take_frame().is_some() {}
    }
    let after = minicbor::to_vec(&pair.stacks[0]).unwrap().len();
    assert!(after - before < 10_000, "{before} {after}");
    // Whoever comes still gets a connection.
    pair.stacks[1].close(pair.now, id).unwrap();
    let id = pair.start(80);
    pair.run_for(SOON);
    assert!(pair.stacks[1].readiness(id).contains(Readiness::WRITABLE));
}

#[test]
fn closing_a_listener_resets_who_waits() {
    let mut pair = pair();
    let listener = pair.listen(80, 5);
    let client = pair.start(80);
    pair.run_for(SOON);
    pair.close(0, listener);
    pair.run_for(SOON);
    assert_eq!(pair.receive(1, client), Err(Errno::ECONNRESET));
    assert!(!pair.step());
}

#[test]
fn half_open_and_waiting_connections_move_along() {
    let mut pair = pair();
    let listener = pair.listen(80, 5);
    let waiting = pair.start(80);
    pair.run_for(SOON);
    let half = pair.start(80);
    // The SYN arrives, the answer is lost with the kernel.
    pair.collect();
    let mut syn_seen = pair.seen[0];
    while pair.seen[0] == syn_seen {
        pair.held = Some(Vec::new());
        assert!(pair.step());
    }
    syn_seen = pair.seen[0];
    assert!(syn_seen > 0);
    pair.held = None;
    pair.stacks[0] = moved(&pair.stacks[0]);
    pair.stacks[0].after_takeover(pair.now);
    pair.run_for(Nanos::millis(2));
    for client in [waiting, half] {
        let (server, peer) = pair.stacks[0].accept(listener).unwrap();
        assert_eq!(peer, pair.stacks[1].local_address(client).unwrap());
        pair.send(1, client, b"hi").unwrap();
        pair.run_for(Nanos::millis(2));
        assert_eq!(pair.receive(0, server).unwrap(), b"hi");
    }
    assert_eq!(pair.resets, 0);
}

/// libslirp forgets what it has sent whenever a SYN tells it a segment size.
#[test]
fn an_old_peer_is_told_the_segment_size_once() {
    let says_size = |frame: &[u8]| frame[54..].starts_with(&[2, 4]);
    for old in [true, false] {
        let mut pair = pair();
        pair.connected(80);
        pair.start(80);
        let mut syn = next_frame(&mut pair, 1);
        if old {
            // All but the segment size becomes padding.
            syn[58..].fill(1);
            edit(&mut syn, |_| {});
        }
        pair.stacks[0].receive(pair.now, &syn);
        let first = next_answer(&mut pair);
        assert!(says_size(&first) && !shimos_net::answers_opening(&syn) && !shimos_net::answers_opening(&first[..40]));
        // The timer, a takeover: the peer may have heard the first answer.
        pair.now = pair.now + Nanos::secs(2);
        pair.stacks[0].poll(pair.now);
        assert_eq!(says_size(&next_answer(&mut pair)), !old);
        pair.stacks[0].after_takeover(pair.now);
        assert_eq!(says_size(&next_answer(&mut pair)), !old);
        // Who says SYN again has not.
        pair.stacks[0].receive(pair.now, &syn);
        assert!(says_size(&next_answer(&mut pair)));
    }
}

/// The next answer to the opening of a connection.
fn next_answer(pair: &mut Pair) -> Vec<u8> {
    std::iter::repeat_with(|| next_frame(pair, 0)).find(|frame| shimos_net::answers_opening(frame)).unwrap()
}

#[test]
fn a_window_that_cannot_open_further_is_not_told_again() {
    let mut pair = pair();
    let (listener, _, _) = pair.connected(80);
    let client = pair.start(80);
    // A peer that cannot scale windows: no header can tell it of all the room that there is.
    let mut syn = next_frame(&mut pair, 1);
    let scale = (54..syn.len() - 2).find(|at| syn[*at..*at + 2] == [3, 3]).unwrap();
    syn[scale..scale + 3].fill(1);
    edit(&mut syn, |_| {});
    pair.put(1, syn);
    pair.run_for(Nanos::millis(10));
    let (server, _) = pair.stacks[0].accept(listener).unwrap();
    for _ in 0..40 {
        pair.send(1, client, &[1; 100]).unwrap();
        pair.run_for(Nanos::millis(60));
        assert_eq!(pair.receive(0, server).unwrap().len(), 100);
        assert_eq!(pair.stacks[0].take_frame(), None);
    }
}

#[test]
fn a_closed_window_opens_again() {
    let mut pair = pair();
    let (_, server, client) = pair.connected(80);
    let mut sent = 0;
    loop {
        match pair.send(0, server, &[1; 20_000]) {
            Ok(count) => sent += count,
            Err(_) if pair.stacks[0].unsent_bytes(server).unwrap() == 256 * 1024 && sent > 400_000 => break,
            Err(_) => pair.run_for(Nanos::millis(5)),
        }
    }
    assert!(!pair.stacks[0].readiness(server).contains(Readiness::WRITABLE));
    // A long time passes; the connection lives, and few packets go.
    let before = pair.seen;
    pair.run_for(Nanos::secs(1000));
    assert!(pair.seen[0] - before[0] < 40, "{:?} {before:?}", pair.seen);
    assert_eq!(pair.stacks[0].tcp_info(server).unwrap().state, State::Established);
    // The update that says the window is open gets lost, too.
    pair.faults.lose = 100;
    let mut received = 0;
    while let Ok(bytes) = pair.receive(1, client) {
        received += bytes.len();
    }
    pair.run_for(Nanos::millis(1));
    pair.faults.lose = 0;
    while received < sent {
        pair.run_for(Nanos::secs(1));
        while let Ok(bytes) = pair.receive(1, client) {
            received += bytes.len();
        }
        assert!(pair.now < Nanos::secs(1400), "{received} of {sent}");
    }
    assert_eq!(received, sent);
}

#[test]
fn old_segments_are_not_taken_for_new() {
    let mut pair = pair();
    let (_, server, client) = pair.connected(80);
    pair.run_for(SOON);
    pair.send(1, client, b"new").unwrap();
    let mut frame = next_frame(&mut pair, 1);
    let good = frame.clone();
    // The same place in the stream, but a timestamp from before: a duplicate from a full turn of the numbers ago.
    edit(&mut frame, |tcp| {
        let options = tcp.options_mut();
        let place = options.windows(2).position(|w| w == [8, 10]).unwrap() + 2;
        let stamp = u32::from_be_bytes(options[place..place + 4].try_into().unwrap()) - 100_000;
        options[place..place + 4].copy_from_slice(&stamp.to_be_bytes());
    });
    pair.stacks[0].receive(pair.now, &frame);
    assert_eq!(pair.receive(0, server), Err(Errno::EAGAIN));
    assert!(pair.stacks[0].take_frame().is_some(), "it is answered");
    pair.stacks[0].receive(pair.now, &good);
    assert_eq!(pair.receive(0, server).unwrap(), b"new");
}

#[test]
fn only_an_exact_reset_resets() {
    let mut pair = pair();
    let (_, server, client) = pair.connected(80);
    pair.run_for(SOON);
    pair.send(1, client, b"x").unwrap();
    let frame = next_frame(&mut pair, 1);
    for (distance, resets) in [(1000, false), (0, true)] {
        let mut reset = frame.clone();
        edit(&mut reset, |tcp| {
            tcp.set_rst(true);
            tcp.set_psh(false);
            tcp.set_seq_number(tcp.seq_number() + distance);
        });
        pair.stacks[0].receive(pair.now, &reset);
        let answer = pair.stacks[0].take_frame();
        assert_eq!(answer.is_some(), !resets);
        assert!(!answer.is_some_and(|answer| is_reset(&answer)));
        assert_eq!(pair.stacks[0].readiness(server).contains(Readiness::ERROR), resets);
    }
}

#[test]
fn a_silent_peer_is_noticed() {
    let mut pair = pair();
    let (_, server, client) = pair.connected(80);
    for (option, value) in
        [(option::KEEP_ALIVE, 1), (option::KEEP_IDLE, 10), (option::KEEP_INTERVAL, 2), (option::KEEP_COUNT, 3)]
    {
        option::set(&mut pair.stacks[0], pair.now, server, option, value);
    }
    pair.run_for(Nanos::secs(100));
    assert_eq!(pair.stacks[0].take_error(server), Ok(None));
    pair.faults.lose = 100;
    pair.run_for(Nanos::secs(5));
    assert_eq!(pair.stacks[0].take_error(server), Ok(None));
    pair.run_for(Nanos::secs(15));
    assert_eq!(pair.stacks[0].take_error(server), Ok(Some(Errno::ETIMEDOUT)));
    assert_eq!(pair.stacks[1].take_error(client), Ok(None));
}

#[test]
fn small_pieces_are_gathered() {
    let mut pair = pair();
    let (_, server, client) = pair.connected(80);
    pair.run_for(SOON);
    let count = |pair: &mut Pair, n: usize| {
        let mut frames = 0;
        for _ in 0..n {
            pair.send(1, client, b"abc").unwrap();
            while let Some(frame) = pair.stacks[1].take_frame() {
                pair.put(1, frame);
                frames += 1;
            }
        }
        frames
    };
    assert_eq!(count(&mut pair, 10), 1, "the rest waits for the acknowledgement");
    pair.run_for(SOON);
    assert_eq!(pair.receive(0, server).unwrap().len(), 30);
    option::set(&mut pair.stacks[1], pair.now, client, option::NO_DELAY, 1);
    assert_eq!(count(&mut pair, 10), 10);
    pair.run_for(SOON);
    option::set(&mut pair.stacks[1], pair.now, client, option::CORK, 1);
    assert_eq!(count(&mut pair, 10), 0);
    option::set(&mut pair.stacks[1], pair.now, client, option::CORK, 0);
    pair.run_for(Nanos::millis(1));
    assert_eq!(pair.receive(0, server).unwrap().len(), 60);
}

#[test]
fn peeking_leaves_the_bytes() {
    let mut pair = pair();
    let (_, server, client) = pair.connected(80);
    pair.send(1, client, b"look").unwrap();
    pair.run_for(SOON);
    let mut buffer = [0; 3];
    let peeked = pair.stacks[0].receive_from(pair.now, server, &mut buffer, Take::Peek).unwrap();
    assert_eq!((peeked.copied, &buffer), (3, b"loo"));
    assert_eq!(pair.receive(0, server).unwrap(), b"look");
}

#[test]
fn addresses_in_use() {
    let mut stack = Stack::new(common::config(1), 3);
    let now = Nanos::secs(1);
    let any = |port| at(Ipv4Addr::UNSPECIFIED, port);
    let socket = |stack: &mut Stack, option: Option<option::Name>| {
        let id = stack.open(Family::V4, Protocol::Tcp).unwrap();
        if let Some(option) = option {
            option::set(stack, now, id, option, 1);
        }
        id
    };
    let reuse = Some(option::REUSE_ADDRESS);
    let a = socket(&mut stack, reuse);
    stack.bind(a, any(80)).unwrap();
    assert_eq!(stack.bind(a, any(81)), Err(Errno::EINVAL));
    let b = socket(&mut stack, reuse);
    stack.bind(b, at(SERVER, 80)).unwrap();
    stack.listen(a, 1).unwrap();
    assert_eq!(stack.listen(b, 1), Err(Errno::EADDRINUSE));
    let c = socket(&mut stack, reuse);
    assert_eq!(stack.bind(c, any(80)), Err(Errno::EADDRINUSE), "somebody listens");
    assert_eq!(stack.bind(c, at(Ipv4Addr::new(8, 8, 8, 8), 80)), Err(Errno::EADDRNOTAVAIL));
    assert_eq!(stack.bind(c, "[::1]:80".parse().unwrap()), Err(Errno::EAFNOSUPPORT));
    stack.bind(c, any(0)).unwrap();
    assert_ne!(stack.local_address(c).unwrap().port(), 0);
    stack.close(now, a).unwrap();
    stack.listen(b, 1).unwrap();
    let shared: Vec<_> = (0..3).map(|_| socket(&mut stack, Some(option::REUSE_PORT))).collect();
    for id in shared {
        stack.bind(id, any(90)).unwrap();
        stack.listen(id, 1).unwrap();
    }
}

#[test]
fn a_server_starts_again_despite_time_wait() {
    let mut pair = pair();
    let (listener, server, client) = pair.connected(80);
    pair.close(0, server);
    pair.run_for(SOON);
    pair.close(1, client);
    pair.close(0, listener);
    pair.run_for(SOON);
    let id = pair.stacks[0].open(Family::V4, Protocol::Tcp).unwrap();
    assert_eq!(pair.stacks[0].bind(id, at(SERVER, 80)), Err(Errno::EADDRINUSE));
    option::set(&mut pair.stacks[0], pair.now, id, option::REUSE_ADDRESS, 1);
    pair.stacks[0].bind(id, at(SERVER, 80)).unwrap();
    pair.stacks[0].listen(id, 3).unwrap();
    // The same client port again: the new connection is recognised as such.
    let from = pair.stacks[1].open(Family::V4, Protocol::Tcp).unwrap();
    pair.stacks[1].bind(from, at(common::CLIENT, 5000)).unwrap();
    pair.stacks[1].connect(pair.now, from, at(SERVER, 80)).unwrap_err();
    pair.run_for(SOON);
    let (server, _) = pair.stacks[0].accept(id).unwrap();
    pair.close(0, server);
    pair.run_for(SOON);
    pair.close(1, from);
    pair.run_for(SOON);
    let from = pair.stacks[1].open(Family::V4, Protocol::Tcp).unwrap();
    pair.stacks[1].bind(from, at(common::CLIENT, 5000)).unwrap();
    pair.stacks[1].connect(pair.now, from, at(SERVER, 80)).unwrap_err();
    pair.run_for(SOON);
    assert!(pair.stacks[0].accept(id).is_ok());
    assert_eq!(pair.resets, 0);
}

#[test]
fn a_socket_may_connect_to_itself() {
    let mut stack = Stack::new(common::config(1), 3);
    let now = Nanos::secs(1);
    let id = stack.open(Family::V4, Protocol::Tcp).unwrap();
    let me = at(Ipv4Addr::LOCALHOST, 4000);
    stack.bind(id, me).unwrap();
    assert_eq!(stack.connect(now, id, me), Err(Errno::EINPROGRESS));
    for _ in 0..10 {
        stack.poll(now);
    }
    assert_eq!(stack.connect(now, id, me), Ok(()));
    assert_eq!(stack.send(now, id, b"echo", None), Ok(4));
    stack.poll(now);
    assert_eq!(stack.readable_bytes(id), Ok(4));
}

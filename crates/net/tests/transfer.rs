//! Transfers over good and bad links, and through takeovers at any moment.
mod common;
use common::{Faults, Pair, Progress, at, moved};
use shimos_abi::time::Nanos;
use shimos_net::{AckMode, Family, Protocol, Stack};
use std::net::Ipv4Addr;

fn transfer(pair: &mut Pair, total: usize) -> Nanos {
    let (_, server, client) = pair.connected(80);
    let ends = [server, client];
    let mut progress = [Progress::default(), Progress::default()];
    let began = pair.now;
    for _ in 0..2_000_000 {
        for side in 0..2 {
            progress[side].go(&mut pair.stacks[side], pair.now, ends[side], total);
        }
        if progress.iter().all(|p| p.is_done(total)) {
            return pair.now - began;
        }
        assert!(pair.step(), "stuck at {} and {}", progress[0].received, progress[1].received);
    }
    panic!("not done: {} and {}", progress[0].received, progress[1].received);
}

#[test]
fn over_a_good_link() {
    let mut pair = Pair::new(1, Faults::default());
    let took = transfer(&mut pair, 1 << 20);
    assert!(took < Nanos::millis(100), "{took}");
    // Segments are full and acknowledgements few.
    assert!(pair.seen[0] < 1 << 20 >> 10 << 1, "{:?}", pair.seen);
    assert_eq!(pair.resets, 0);
}

#[test]
fn over_bad_links() {
    for seed in 1..=12 {
        let faults = Faults { lose: seed % 5 * 2, repeat: seed % 3 * 5, delay: seed % 4 * 10 };
        let mut pair = Pair::new(seed * 7919, faults);
        let took = transfer(&mut pair, 1 << 20);
        assert!(took < Nanos::secs(120), "seed {seed} took {took}");
        assert_eq!(pair.resets, 0, "seed {seed}");
    }
}

#[test]
fn with_every_segment_acknowledged_at_once() {
    let mut pair = Pair::new(3, Faults { lose: 1, ..Faults::default() });
    pair.stacks[0].set_ack_mode(AckMode::Immediate);
    transfer(&mut pair, 1 << 18);
}

/// Moving a stack loses nothing when all its output had left.
#[test]
fn moved_at_every_event() {
    let total = 1 << 18;
    let mut pair = Pair::new(9, Faults { lose: 2, repeat: 2, delay: 10 });
    let (_, server, client) = pair.connected(80);
    let ends = [server, client];
    let mut progress = [Progress::default(), Progress::default()];
    for event in 0.. {
        for side in 0..2 {
            progress[side].go(&mut pair.stacks[side], pair.now, ends[side], total);
        }
        if progress.iter().all(|p| p.is_done(total)) {
            break;
        }
        assert!(pair.step(), "stuck");
        pair.stacks[event % 2] = moved(&pair.stacks[event % 2]);
    }
    assert_eq!(pair.resets, 0);
}

/// The real thing: the server's output is held until a checkpoint commits. It dies at some event, its held output and all
/// it did since is lost, and it goes on from the checkpoint.
fn rolled_back(seed: u64, die_every: usize, faults: Faults) {
    let total = 400_000;
    let mut pair = Pair::new(seed, faults);
    pair.stacks[0].set_ack_mode(AckMode::Immediate);
    let listener = pair.listen(80, 16);
    let client = pair.start(80);
    // The program's state is part of the checkpoint, as its memory is.
    let mut server = None;
    let mut progress = [Progress::default(), Progress::default()];
    pair.held = Some(Vec::new());
    let checkpoint = |pair: &Pair, server: &Option<_>, progress: &Progress| {
        (minicbor::to_vec(&pair.stacks[0]).unwrap(), *server, progress.clone())
    };
    let mut committed = checkpoint(&pair, &server, &progress[0]);
    let mut deaths = 0;
    for event in 1.. {
        if server.is_none() {
            server = pair.stacks[0].accept(listener).ok().map(|(id, _)| id);
        }
        if let Some(id) = server {
            progress[0].go(&mut pair.stacks[0], pair.now, id, total);
        }
        if pair.stacks[1].peer_address(client).is_ok() {
            progress[1].go(&mut pair.stacks[1], pair.now, client, total);
        }
        pair.collect();
        if progress.iter().all(|p| p.is_done(total)) {
            break;
        }
        if event % die_every == 0 {
            deaths += 1;
            pair.held = Some(Vec::new());
            pair.now = pair.now + Nanos::millis(5);
            let mut stack: Stack = minicbor::decode(&committed.0).unwrap();
            stack.after_takeover(pair.now);
            pair.stacks[0] = stack;
            server = committed.1;
            progress[0] = committed.2.clone();
            // What follows the takeover is output too, and held until the first checkpoint.
        } else if event % 3 == 0 {
            committed = checkpoint(&pair, &server, &progress[0]);
            for frame in pair.held.replace(Vec::new()).unwrap() {
                pair.put(0, frame);
            }
        }
        assert!(pair.step(), "stuck after {deaths} deaths at event {event}");
        assert!(event < 200_000, "not done after {deaths} deaths: {} {}", progress[0].received, progress[1].received);
    }
    assert!(deaths > 0);
    assert_eq!(pair.resets, 0);
}

#[test]
fn rolled_back_again_and_again() {
    for (seed, die_every) in [(1, 7), (2, 8), (3, 10), (4, 13), (5, 19), (6, 29)] {
        rolled_back(seed * 31, die_every, Faults::default());
        rolled_back(seed * 37, die_every, Faults { lose: 3, repeat: 2, delay: 10 });
    }
}

/// A takeover does not wait for anybody's retransmission timer.
#[test]
fn a_takeover_repairs_at_once() {
    let mut pair = Pair::new(5, Faults::default());
    let (_, server, client) = pair.connected(80);
    pair.run_for(Nanos::secs(1));
    pair.send(0, server, b"answer").unwrap();
    pair.collect();
    let saved = minicbor::to_vec(&pair.stacks[0]).unwrap();
    pair.lose_flight();
    pair.stacks[0] = minicbor::decode(&saved).unwrap();
    pair.stacks[0].after_takeover(pair.now);
    pair.run_for(Nanos::millis(1));
    assert_eq!(pair.receive(1, client).unwrap(), b"answer");
}

/// With many connections the program does not wait until all peers are told.
#[test]
fn a_takeover_tells_all_peers_in_turn() {
    let mut pair = Pair::new(5, Faults::default());
    let (listener, server, client) = pair.connected(80);
    let mut ends = vec![(server, client)];
    for _ in 0..99 {
        let client = pair.start(80);
        pair.run_for(Nanos::millis(10));
        ends.push((pair.stacks[0].accept(listener).unwrap().0, client));
    }
    pair.run_for(Nanos::secs(1));
    for (server, _) in &ends {
        pair.send(0, *server, b"answer").unwrap();
    }
    pair.collect();
    let saved = minicbor::to_vec(&pair.stacks[0]).unwrap();
    pair.lose_flight();
    let mut stack: Stack = minicbor::decode(&saved).unwrap();
    stack.after_takeover(pair.now);
    assert!(!stack.has_frames());
    // Timers that are due meanwhile do not count for those whose turn has not come.
    stack.poll(pair.now + Nanos::secs(100));
    let told = std::iter::from_fn(|| stack.take_frame()).count();
    assert!((1..=100).contains(&told), "{told}");
    pair.now = pair.now + Nanos::secs(100);
    pair.stacks[0] = stack;
    pair.run_for(Nanos::secs(2));
    for (_, client) in &ends {
        assert_eq!(pair.receive(1, *client).unwrap(), b"answer");
    }
    assert_eq!(pair.resets, 0);
}

#[test]
fn to_itself() {
    for address in [Ipv4Addr::LOCALHOST, common::SERVER] {
        let total = 1 << 20;
        let mut stack = Stack::new(common::config(1), 5);
        let now = Nanos::secs(7);
        let listener = stack.open(Family::V4, Protocol::Tcp).unwrap();
        stack.bind(listener, at(address, 6379)).unwrap();
        stack.listen(listener, 5).unwrap();
        let client = stack.open(Family::V4, Protocol::Tcp).unwrap();
        stack.connect(now, client, at(address, 6379)).unwrap_err();
        let mut progress = [Progress::default(), Progress::default()];
        let mut server = None;
        let mut polls = 0;
        while !progress.iter().all(|p| p.is_done(total)) {
            // Packets in flight to itself move along.
            stack = moved(&stack);
            stack.poll(now);
            assert_eq!(stack.take_frame(), None);
            match server {
                None => server = stack.accept(listener).ok().map(|(id, _)| id),
                Some(server) => {
                    progress[0].go(&mut stack, now, server, total);
                    progress[1].go(&mut stack, now, client, total);
                }
            }
            polls += 1;
            assert!(polls < 2000, "no time may have to pass");
        }
    }
}

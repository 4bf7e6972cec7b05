//! Frames and saved states that somebody made up: they may do nothing, but they may not hurt.
mod common;
use common::{Faults, Pair, Progress, at};
use proptest::prelude::*;
use shimos_abi::time::Nanos;
use shimos_net::{Family, Protocol, SocketId, Stack, Take};
use shimos_random::Random;
use std::net::Ipv4Addr;

/// A stack with sockets of all kinds and some connections, and frames that were sent to it.
fn busy() -> (Pair, Vec<Vec<u8>>, [SocketId; 2]) {
    let mut pair = Pair::new(99, Faults { lose: 5, repeat: 5, delay: 20 });
    let (_, server, client) = pair.connected(80);
    let udp = pair.stacks[0].open(Family::V4, Protocol::Udp).unwrap();
    pair.stacks[0].bind(udp, at(Ipv4Addr::UNSPECIFIED, 53)).unwrap();
    let echo = pair.stacks[0].open(Family::V4, Protocol::Echo).unwrap();
    pair.stacks[0].bind(echo, at(Ipv4Addr::UNSPECIFIED, 7)).unwrap();
    pair.start(80);
    let mut frames = Vec::new();
    let mut progress = [Progress::default(), Progress::default()];
    for _ in 0..60 {
        progress[0].go(&mut pair.stacks[0], pair.now, server, 200_000);
        progress[1].go(&mut pair.stacks[1], pair.now, client, 200_000);
        while let Some(frame) = pair.stacks[1].take_frame() {
            frames.push(frame.clone());
            pair.put(1, frame);
        }
        pair.step();
    }
    let other = pair.stacks[1].open(Family::V4, Protocol::Udp).unwrap();
    pair.stacks[1].send(pair.now, other, b"datagram", Some(at(common::SERVER, 53))).unwrap();
    pair.stacks[1].send(pair.now, other, b"datagram", Some(at(common::SERVER, 54))).unwrap();
    let other = pair.stacks[1].open(Family::V4, Protocol::Echo).unwrap();
    pair.stacks[1].send(pair.now, other, &[8, 0, 0, 0, 0, 0, 0, 0, 1], Some(at(common::SERVER, 0))).unwrap();
    while let Some(frame) = pair.stacks[1].take_frame() {
        frames.push(frame);
    }
    (pair, frames, [server, client])
}

/// Sets the checksums of a frame right, so that what is in it is looked at.
fn repair(frame: &mut [u8]) {
    fn sum(bytes: &[u8], mut sum: u32) -> [u8; 2] {
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }
    if frame.len() < 34 || frame[12..14] != [8, 0] {
        return;
    }
    let length = frame.len();
    let header = 14 + usize::from(frame[14] & 15) * 4;
    if header < 34 || header > length {
        return;
    }
    frame[24..26].copy_from_slice(&[0, 0]);
    let s = sum(&frame[14..header], 0);
    frame[24..26].copy_from_slice(&s);
    let end = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    if end > length || end < header {
        return;
    }
    let place = header
        + match frame[23] {
            1 => 2,
            6 => 16,
            17 => 6,
            _ => return,
        };
    if place + 2 > end {
        return;
    }
    frame[place..place + 2].copy_from_slice(&[0, 0]);
    let mut pseudo = 0;
    if frame[23] != 1 {
        pseudo = frame[26..34].chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(p[1])).sum::<u32>();
        pseudo += u32::from(frame[23]) + (end - header) as u32;
    }
    let s = sum(&frame[header..end], pseudo);
    frame[place..place + 2].copy_from_slice(&s);
}

#[test]
fn mutated_frames() {
    let (pair, frames, [server, _]) = busy();
    let mut random = Random::new(2024);
    for round in 0..60 {
        let mut stack = pair.stacks[0].clone();
        let mut now = pair.now;
        for _ in 0..300 {
            let mut frame = frames[random.below(frames.len() as u64) as usize].clone();
            for _ in 0..random.below(4) {
                // Mostly the headers, where it matters.
                let most = if random.below(4) == 0 { frame.len() } else { 74.min(frame.len()) };
                let place = random.below(most as u64) as usize;
                frame[place] =
                    if random.below(2) == 0 { random.bits() as u8 } else { frame[place] ^ 1 << random.below(8) };
            }
            if random.below(20) == 0 {
                frame.truncate(random.below(frame.len() as u64) as usize);
            }
            if round % 4 != 0 {
                repair(&mut frame);
            }
            stack.receive(now, &frame);
            now = now + Nanos(random.below(50_000_000));
            stack.poll(now);
            if random.below(3) == 0 {
                let _ = stack.receive_from(now, server, &mut [0; 3000], Take::Consume);
                let _ = stack.send(now, server, &[0; 3000], None);
            }
            let mut sent = 0;
            while stack.take_frame().is_some() {
                sent += 1;
            }
            assert!(sent < 1500);
        }
        // What came of it is a state that another kernel accepts.
        let mut stack = common::moved(&stack);
        stack.after_takeover(now);
        stack.poll(now + Nanos::secs(1));
    }
}

#[test]
fn mutated_states() {
    let (pair, frames, [server, _]) = busy();
    let saved = minicbor::to_vec(&pair.stacks[0]).unwrap();
    let mut random = Random::new(77);
    let mut accepted = 0;
    for _ in 0..3000 {
        let mut bytes = saved.clone();
        for _ in 0..=random.below(2) {
            // The bulk of the state is queued bytes, which mean nothing: aim at what is between them.
            let place = match random.below(3) {
                0 => random.below(bytes.len() as u64),
                1 => random.below(600),
                _ => bytes.len() as u64 - 1 - random.below(1500),
            } as usize;
            bytes[place] = random.bits() as u8;
        }
        let Ok(mut stack) = minicbor::decode::<Stack>(&bytes) else { continue };
        accepted += 1;
        let mut now = pair.now;
        stack.after_takeover(now);
        for frame in frames.iter().rev().take(30) {
            stack.receive(now, frame);
        }
        for _ in 0..20 {
            let _ = stack.receive_from(now, server, &mut [0; 9000], Take::Consume);
            let _ = stack.send(now, server, &[0; 3000], None);
            now = stack.next_deadline().unwrap_or(now).clamp(now + Nanos::millis(1), now + Nanos::secs(60));
            stack.poll(now);
            while stack.take_frame().is_some() {}
        }
        let _ = stack.close(now, server);
    }
    assert!(accepted > 100, "{accepted}");
}

proptest! {
    #[test]
    fn random_frames(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20)) {
        let mut stack = Stack::new(common::config(1), 1);
        for frame in frames {
            stack.receive(Nanos::secs(1), &frame);
            let mut addressed = vec![0x52, 0x53, 0x48, 0x4d, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
            addressed.extend_from_slice(&frame);
            stack.receive(Nanos::secs(1), &addressed);
            stack.poll(Nanos::secs(2));
        }
    }

    #[test]
    fn random_states(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = minicbor::decode::<Stack>(&bytes);
    }
}

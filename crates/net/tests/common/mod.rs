//! Two stacks and a link between them that loses, repeats and reorders frames as a seed says.
#![allow(dead_code, reason = "each test uses a part")]
use shimos_abi::{errno::Errno, time::Nanos};
use shimos_net::{Config, Config6, Family, Protocol, Readiness, SocketId, Stack, Take};
use shimos_random::Random;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);

/// Options of sockets that are an `int`.
pub mod option {
    use shimos_abi::time::Nanos;
    use shimos_net::{Privilege, SocketId, Stack, level};

    pub type Name = (i32, i32);
    pub const REUSE_ADDRESS: Name = (level::SOCKET, 2);
    pub const BROADCAST: Name = (level::SOCKET, 6);
    pub const KEEP_ALIVE: Name = (level::SOCKET, 9);
    pub const REUSE_PORT: Name = (level::SOCKET, 15);
    pub const NO_DELAY: Name = (level::TCP, 1);
    pub const CORK: Name = (level::TCP, 3);
    pub const KEEP_IDLE: Name = (level::TCP, 4);
    pub const KEEP_INTERVAL: Name = (level::TCP, 5);
    pub const KEEP_COUNT: Name = (level::TCP, 6);

    pub fn set(stack: &mut Stack, now: Nanos, id: SocketId, name: Name, value: i32) {
        stack.set_option(now, id, Privilege::None, name.0, name.1, &value.to_le_bytes()).unwrap();
    }
}

pub fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::from((address, port))
}

pub fn config(host: u8) -> Config {
    Config {
        mac: [0x52, 0x53, 0x48, 0x4d, 0, host],
        address: Ipv4Addr::new(10, 77, 1, host),
        prefix: 16,
        gateway: Ipv4Addr::new(10, 77, 0, 1),
        v6: Some(Config6 {
            address: Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 1, host.into()),
            prefix: 64,
            gateway: Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2),
        }),
    }
}

/// What the link does to frames, in percent.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub lose: u64,
    pub repeat: u64,
    pub delay: u64,
}

/// Two stacks (0: server, 1: client), a link, and a clock.
pub struct Pair {
    pub now: Nanos,
    pub stacks: [Stack; 2],
    pub faults: Faults,
    pub random: Random,
    flight: BTreeMap<(Nanos, u64), (usize, Vec<u8>)>,
    count: u64,
    /// Frames that were delivered to each side, if they are wanted.
    pub seen: [u64; 2],
    pub resets: u64,
    /// Which family connections use.
    pub family: Family,
    /// Frames of the server are kept here while it is held.
    pub held: Option<Vec<Vec<u8>>>,
}

/// Whether an Ethernet frame is a TCP reset.
pub fn is_reset(frame: &[u8]) -> bool {
    frame.len() >= 54 && frame[12..14] == [8, 0] && frame[23] == 6 && frame[47] & 4 != 0
}

impl Pair {
    pub fn new(seed: u64, faults: Faults) -> Pair {
        Pair {
            now: Nanos::secs(100),
            stacks: [Stack::new(config(1), seed), Stack::new(config(2), seed ^ 77)],
            faults,
            random: Random::new(seed),
            flight: BTreeMap::new(),
            count: 0,
            seen: [0; 2],
            resets: 0,
            family: Family::V4,
            held: None,
        }
    }

    /// Puts frames that stack `from` sends on the link.
    pub fn put(&mut self, from: usize, frame: Vec<u8>) {
        if self.random.below(100) < self.faults.lose {
            return;
        }
        let copies = if self.random.below(100) < self.faults.repeat { 2 } else { 1 };
        for _ in 0..copies {
            let extra = if self.random.below(100) < self.faults.delay { self.random.below(3_000_000) } else { 0 };
            self.count += 1;
            self.flight.insert((self.now + Nanos(100_000 + extra), self.count), (1 - from, frame.clone()));
        }
    }

    pub fn collect(&mut self) {
        for side in 0..2 {
            while let Some(frame) = self.stacks[side].take_frame() {
                match &mut self.held {
                    Some(held) if side == 0 => held.push(frame),
                    _ => self.put(side, frame),
                }
            }
        }
    }

    /// Lets the next thing happen. False if nothing ever will.
    pub fn step(&mut self) -> bool {
        self.collect();
        let frame = self.flight.first_key_value().map(|(key, _)| key.0);
        let timers = self.stacks.iter().filter_map(Stack::next_deadline).min();
        let Some(next) = [frame, timers].into_iter().flatten().min() else { return false };
        self.now = self.now.max(next);
        while let Some(entry) = self.flight.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (to, frame) = entry.remove();
            self.seen[to] += 1;
            self.resets += u64::from(is_reset(&frame));
            self.stacks[to].receive_one_of(self.now, &frame);
        }
        for stack in &mut self.stacks {
            stack.end_batch(self.now);
        }
        for stack in &mut self.stacks {
            stack.poll(self.now);
        }
        self.collect();
        true
    }

    pub fn run_for(&mut self, span: Nanos) {
        let end = self.now + span;
        loop {
            self.collect();
            let frame = self.flight.first_key_value().map(|(key, _)| key.0);
            let timers = self.stacks.iter().filter_map(Stack::next_deadline).min();
            match [frame, timers].into_iter().flatten().min() {
                Some(next) if next <= end => self.step(),
                _ => break,
            };
        }
        self.now = end;
    }

    pub fn lose_flight(&mut self) {
        self.flight.clear();
    }

    /// The server's address in the family of this test.
    pub fn server(&self, port: u16) -> SocketAddr {
        let address: IpAddr = match self.family {
            Family::V4 => SERVER.into(),
            Family::V6 => Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 1, 1).into(),
        };
        SocketAddr::new(address, port)
    }

    /// A listener on the server.
    pub fn listen(&mut self, port: u16, backlog: u32) -> SocketId {
        let id = self.stacks[0].open(self.family, Protocol::Tcp).unwrap();
        self.stacks[0].bind(id, SocketAddr::new(self.family.unspecified(), port)).unwrap();
        self.stacks[0].listen(id, backlog).unwrap();
        id
    }

    pub fn start(&mut self, port: u16) -> SocketId {
        let id = self.stacks[1].open(self.family, Protocol::Tcp).unwrap();
        let server = self.server(port);
        assert_eq!(self.stacks[1].connect(self.now, id, server), Err(Errno::EINPROGRESS));
        id
    }

    /// A connection: listener, server's end, client's end.
    pub fn connected(&mut self, port: u16) -> (SocketId, SocketId, SocketId) {
        let listener = self.listen(port, 16);
        let client = self.start(port);
        let address = self.server(port);
        for _ in 0..100_000 {
            if let Ok((server, peer)) = self.stacks[0].accept(listener) {
                assert_eq!(peer, self.stacks[1].local_address(client).unwrap());
                while !self.stacks[1].readiness(client).contains(Readiness::WRITABLE) {
                    assert!(self.step());
                }
                assert_eq!(self.stacks[1].connect(self.now, client, address), Ok(()));
                assert_eq!(self.stacks[1].connect(self.now, client, address), Err(Errno::EISCONN));
                return (listener, server, client);
            }
            assert!(self.step(), "nothing happens any more");
        }
        panic!("no connection");
    }

    pub fn send(&mut self, side: usize, id: SocketId, bytes: &[u8]) -> Result<usize, Errno> {
        self.stacks[side].send(self.now, id, bytes, None)
    }

    pub fn receive(&mut self, side: usize, id: SocketId) -> Result<Vec<u8>, Errno> {
        let mut buffer = vec![0; 16384];
        let received = self.stacks[side].receive_from(self.now, id, &mut buffer, Take::Consume)?;
        buffer.truncate(received.copied);
        Ok(buffer)
    }

    pub fn close(&mut self, side: usize, id: SocketId) {
        self.stacks[side].close(self.now, id).unwrap();
    }
}

/// Encodes and decodes a stack, as a takeover does.
pub fn moved(stack: &Stack) -> Stack {
    minicbor::decode(&minicbor::to_vec(stack).unwrap()).unwrap()
}

/// One direction of a transfer: bytes that depend on their place.
pub fn pattern(place: usize) -> u8 {
    (place ^ (place >> 8) ^ (place >> 16)) as u8
}

/// What a program at one end of a transfer has done so far.
#[derive(Clone, Default)]
pub struct Progress {
    pub sent: usize,
    pub received: usize,
    pub ended: bool,
}

impl Progress {
    /// Sends and receives what is possible; shuts down when all is sent.
    pub fn go(&mut self, stack: &mut Stack, now: Nanos, id: SocketId, total: usize) {
        while self.sent < total {
            let piece: Vec<u8> = (self.sent..total.min(self.sent + 8000)).map(pattern).collect();
            match stack.send(now, id, &piece, None) {
                Ok(count) => self.sent += count,
                Err(Errno::EAGAIN) => break,
                Err(error) => panic!("send: {error:?}"),
            }
            if self.sent == total {
                stack.shutdown(now, id, shimos_net::How::Write).unwrap();
            }
        }
        let mut buffer = vec![0; 5000];
        while !self.ended {
            match stack.receive_from(now, id, &mut buffer, Take::Consume) {
                Ok(received) if received.copied == 0 => self.ended = true,
                Ok(received) => {
                    for (i, byte) in buffer[..received.copied].iter().enumerate() {
                        assert_eq!(*byte, pattern(self.received + i), "at {}", self.received + i);
                    }
                    self.received += received.copied;
                }
                Err(Errno::EAGAIN) => break,
                Err(error) => panic!("receive: {error:?}"),
            }
        }
    }

    pub fn is_done(&self, total: usize) -> bool {
        self.sent == total && self.received == total && self.ended
    }
}

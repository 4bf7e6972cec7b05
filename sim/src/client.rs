//! A machine on the other end of the network cable: one connection after the other to the echo server. It notices every
//! reset and every byte that is not what it sent.
use crate::programs::ECHO_PORT;
use shimos_abi::{
    control::{NETWORK_PREFIX, address_of},
    errno::Errno,
    ids::ProgramId,
    time::Nanos,
};
use shimos_net::{Config, Family, Protocol, SocketId, Stack, Take};
use shimos_random::Random;
use shimos_soft::World;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
/// Bit of the TCP header that says reset.
const RST: u8 = 4;

/// Longest breath of a client that rests.
const REST: Nanos = Nanos::millis(200);

struct Connection {
    socket: SocketId,
    /// Decides the bytes.
    seed: u64,
    sent: usize,
    received: usize,
    total: usize,
}

/// The client.
pub struct Client {
    stack: Stack,
    rng: Random,
    server: Option<SocketAddr>,
    connection: Option<Connection>,
    /// When the next connection begins.
    next: Nanos,
    /// Bytes of a connection, at most.
    most: u64,
    /// Longest pause between two connections.
    pause: Nanos,
    /// Bytes that it sends at a time, and how long at most it waits after the answer to them.
    piece: usize,
    breath: Nanos,
    /// When it sends again.
    send_at: Nanos,
    /// Connections that were served from beginning to end.
    pub served: u64,
    /// Bytes that came back.
    pub bytes: u64,
}

fn byte(seed: u64, place: usize) -> u8 {
    (seed.wrapping_add(place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl Client {
    /// A client that does nothing yet.
    pub fn new(seed: u64) -> Client {
        let config =
            Config { mac: MAC, address: ADDRESS, prefix: NETWORK_PREFIX, gateway: Ipv4Addr::UNSPECIFIED, v6: None };
        Client {
            stack: Stack::new(config, seed),
            rng: Random::new(seed ^ 0xc11e_4700),
            server: None,
            connection: None,
            next: Nanos(0),
            most: 12_000,
            pause: Nanos::millis(20),
            piece: 1024,
            breath: Nanos(0),
            send_at: Nanos(0),
            served: 0,
            bytes: 0,
        }
    }

    /// One that sends little at a time and waits for the answer, so that it nearly always has a connection.
    pub fn slow(seed: u64) -> Client {
        let (pause, breath) = (Nanos::millis(1), Nanos::millis(6));
        Client { most: 2_000, piece: 200, pause, breath, ..Client::new(seed) }
    }

    /// From now on it does little.
    pub fn rest(&mut self) {
        self.breath = REST;
    }

    /// Begins to use the server.
    pub fn start(&mut self, server: ProgramId, world: &World) {
        if self.server.is_none() {
            let address = Ipv4Addr::from(address_of(server));
            self.server = Some(SocketAddr::V4(SocketAddrV4::new(address, ECHO_PORT)));
            world.host_at(world.now());
        }
    }

    /// Whether it has begun.
    pub fn is_started(&self) -> bool {
        self.server.is_some()
    }

    /// What it is at, for people.
    pub fn state(&self) -> String {
        let Some(c) = &self.connection else { return format!("client: {} connections served, none now", self.served) };
        let (address, info) = (self.stack.local_address(c.socket).ok(), self.stack.tcp_info(c.socket));
        format!("client at {address:?}: sent {} of {}, received {}, {info:?}", c.sent, c.total, c.received)
    }

    /// Does what is to be done now; says what is wrong.
    pub fn turn(&mut self, world: &World) -> Result<(), String> {
        let now = world.now();
        while let Some(packet) = world.wire_take() {
            if let Some((port, what)) = reset(&packet) {
                let own = self.connection.as_ref().and_then(|c| self.stack.local_address(c.socket).ok());
                // A server may answer so to the last acknowledgement of a connection that both have closed, if that
                // comes twice.
                if own.is_some_and(|own| own.port() == port) {
                    return Err(format!("client: reset by {what}; {} connections served", self.served));
                }
            }
            self.stack.receive(now, &packet);
        }
        self.stack.poll(now);
        while self.stack.take_changed().is_some() {}
        self.talk(now)?;
        self.stack.poll(now);
        while let Some(packet) = self.stack.take_frame() {
            world.wire_send(packet, Nanos::micros(20 + self.rng.below(300)));
        }
        if let Some(at) = self.stack.next_deadline() {
            world.host_at(at.max(now + Nanos::micros(1)));
        }
        if self.server.is_some() && self.connection.is_none() {
            world.host_at(self.next.max(now + Nanos::micros(1)));
        }
        if self.connection.is_some() && self.send_at > now {
            world.host_at(self.send_at);
        }
        Ok(())
    }

    fn talk(&mut self, now: Nanos) -> Result<(), String> {
        let Some(server) = self.server else { return Ok(()) };
        if self.connection.is_none() && now >= self.next {
            let socket = self.stack.open(Family::V4, Protocol::Tcp).map_err(|e| format!("client: open: {e:?}"))?;
            match self.stack.connect(now, socket, server) {
                Ok(()) | Err(Errno::EINPROGRESS) => {}
                Err(errno) => return Err(format!("client: connect: {errno:?}")),
            }
            let (seed, total) = (self.rng.bits(), self.rng.between(1, self.most) as usize);
            self.connection = Some(Connection { socket, seed, sent: 0, received: 0, total });
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let socket = connection.socket;
        if let Ok(Some(errno)) = self.stack.take_error(socket) {
            if errno == Errno::EHOSTUNREACH && connection.sent == 0 {
                // A kernel that hangs while it boots is given some seconds, and nobody may answer meanwhile: try again.
                self.connection = None;
                return Ok(());
            }
            return Err(format!("client: connection failed: {errno:?} after {} bytes", connection.received));
        }
        while connection.sent < connection.total {
            if self.breath != Nanos(0) && (connection.received < connection.sent || now < self.send_at) {
                break;
            }
            let end = connection.total.min(connection.sent + self.piece);
            let bytes: Vec<u8> = (connection.sent..end).map(|place| byte(connection.seed, place)).collect();
            match self.stack.send(now, socket, &bytes, None) {
                Ok(0) | Err(Errno::EAGAIN | Errno::ENOTCONN | Errno::EALREADY | Errno::EINPROGRESS) => break,
                Ok(count) => connection.sent += count,
                Err(errno) => return Err(format!("client: send: {errno:?}")),
            }
        }
        let mut bytes = [0; 2048];
        while connection.received < connection.total {
            let count = match self.stack.receive_from(now, socket, &mut bytes, Take::Consume) {
                Ok(received) if received.copied == 0 => return Err("client: the server closed too early".into()),
                Ok(received) => received.copied,
                Err(Errno::EAGAIN | Errno::ENOTCONN | Errno::EALREADY | Errno::EINPROGRESS) => break,
                Err(errno) => return Err(format!("client: receive: {errno:?}")),
            };
            for found in &bytes[..count] {
                let expected = byte(connection.seed, connection.received);
                if *found != expected || connection.received >= connection.sent {
                    return Err(format!("client: byte {} is {found}, not {expected}", connection.received));
                }
                connection.received += 1;
            }
            self.bytes += count as u64;
            if self.breath != Nanos(0) && connection.received == connection.sent {
                self.send_at = now + Nanos(self.rng.below(self.breath.0));
            }
        }
        if connection.received == connection.total {
            self.stack.close(now, socket).map_err(|errno| format!("client: close: {errno:?}"))?;
            self.connection = None;
            self.served += 1;
            self.next = now + Nanos(self.rng.below(self.pause.0));
        }
        Ok(())
    }
}

/// What an Ethernet frame says that is a TCP reset for the client, and for which port.
fn reset(packet: &[u8]) -> Option<(u16, String)> {
    let ip = packet.get(14..)?;
    if packet.get(12..14) != Some(&[8, 0]) || ip.get(9) != Some(&6) || ip.get(16..20) != Some(&ADDRESS.octets()) {
        return None;
    }
    let tcp = ip.get(usize::from(ip[0] & 15) * 4..)?;
    let half = |at: usize| tcp.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let word = |at: usize| tcp.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    if tcp.get(13)? & RST == 0 {
        return None;
    }
    let source = ip.get(12..16)?;
    let text = format!("{source:?} port {} to port {}, seq {}, ack {}", half(0)?, half(2)?, word(4)?, word(8)?);
    Some((half(2)?, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shimos_abi::control::{Device, mac_of};
    use shimos_hal::Machine;
    use shimos_soft::{Next, SoftMachine, Threads};

    /// A kernel that is nothing but an echo server.
    fn server(mut machine: SoftMachine) {
        machine.claim(Device::Network).expect("a card");
        let program = ProgramId(1);
        let config = Config {
            mac: mac_of(program),
            address: address_of(program).into(),
            prefix: NETWORK_PREFIX,
            gateway: Ipv4Addr::UNSPECIFIED,
            v6: None,
        };
        let mut stack = Stack::new(config, 7);
        let listener = stack.open(Family::V4, Protocol::Tcp).expect("a socket");
        stack.bind(listener, SocketAddr::from(([0, 0, 0, 0], ECHO_PORT))).expect("a free port");
        stack.listen(listener, 4).expect("a listener");
        let mut connections = Vec::new();
        loop {
            machine.take_events();
            let now = machine.now();
            let mut packet = [0; 1600];
            while let Some(length) = machine.net_receive(&mut packet) {
                stack.receive(now, &packet[..length]);
            }
            stack.poll(now);
            connections.extend(stack.accept(listener).map(|(id, _)| id));
            connections.retain(|id| {
                let mut bytes = [0; 1000];
                match stack.receive_from(now, *id, &mut bytes, Take::Consume) {
                    Ok(received) if received.copied == 0 => stack.close(now, *id).is_err(),
                    Ok(received) => stack.send(now, *id, &bytes[..received.copied], None).is_ok(),
                    Err(_) => true,
                }
            });
            stack.poll(now);
            while let Some(packet) = stack.take_frame() {
                machine.net_send(&packet).expect("room");
            }
            let until = stack.next_deadline().unwrap_or(Nanos::NEVER).min(now + Nanos::millis(1));
            machine.idle(until);
        }
    }

    #[test]
    fn connections_are_served_even_if_frames_get_lost() {
        let mut config = shimos_soft::Config::new(1, 3);
        config.timing.lost_packet_ppm = 10_000;
        let world = World::new(config);
        let mut threads = Threads::new(world.clone(), server);
        let mut client = Client::new(1);
        client.start(ProgramId(1), &world);
        while client.served < 20 {
            assert!(world.now() < Nanos::secs(120), "{} connections only", client.served);
            match threads.advance() {
                Next::Boot(core) => threads.boot(core),
                Next::Turn(core) => assert_eq!(threads.turn(core), shimos_soft::Turn::Passed),
                Next::Host => client.turn(&world).expect("no fault"),
                other => panic!("{other:?}"),
            }
        }
        assert!(client.bytes > 20_000);
    }
}

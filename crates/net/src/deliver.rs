//! The way of a received packet to the socket it is for.
use crate::{
    endpoint::{Endpoint, Tuple},
    icmp,
    link::Incoming,
    socket::{Kind, Owner, Protocol, Socket, SocketId},
    stack::Stack,
    tcp::{Connection, Segment, State, Verdict, reset_for},
    udp,
};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use shimos_abi::{errno::Errno, time::Nanos};
use smoltcp::wire::IpProtocol;

impl Stack {
    pub(crate) fn dispatch(&mut self, now: Nanos, incoming: &Incoming<'_>) {
        match incoming.protocol {
            IpProtocol::Tcp => {
                if let Some(segment) = Segment::parse(incoming) {
                    self.receive_tcp(now, &segment);
                }
            }
            IpProtocol::Udp => {
                if let Some((tuple, bytes)) = udp::parse(incoming) {
                    self.receive_udp(now, incoming, tuple, bytes);
                }
            }
            IpProtocol::Icmp => match icmp::parse(incoming) {
                Some(icmp::Message::Request(request)) => icmp::reply(&mut self.saved.link, now, incoming, request),
                Some(icmp::Message::Reply(ident, bytes)) => self.receive_echo(incoming, ident, bytes),
                Some(icmp::Message::Failure(protocol, tuple, error)) => {
                    self.receive_failure(now, protocol, tuple, error);
                }
                None => {}
            },
            _ => {}
        }
    }

    fn receive_tcp(&mut self, now: Nanos, segment: &Segment<'_>) {
        let tuple = segment.tuple;
        if let Some(id) = self.derived.connections.get(&tuple).copied() {
            self.with_connection(now, id, |connection, cx| connection.input(segment, cx));
            return;
        }
        if let Some(entry) = self.saved.time_wait.get_mut(&tuple) {
            if !entry.gives_way_to(segment) {
                return entry.input(tuple, segment, &mut self.saved.link, now);
            }
            self.saved.time_wait.remove(&tuple);
        }
        let Some(listener) = self.listener_for(tuple) else {
            return reset_for(segment, &mut self.saved.link, now);
        };
        match self.with_listener(now, listener, |l, secret, cx| l.input(segment, secret, cx)) {
            Some(Verdict::Done) => {}
            Some(Verdict::Established(connection)) => self.enqueue(listener, *connection),
            Some(Verdict::Unknown) | None => reset_for(segment, &mut self.saved.link, now),
        }
    }

    /// The listener that gets new connections of this name.
    fn listener_for(&self, tuple: Tuple) -> Option<SocketId> {
        let sockets = self.derived.ports.get(&(Protocol::Tcp, tuple.local.port))?;
        let mut named = 0;
        let mut found: Vec<SocketId> = Vec::new();
        for id in sockets {
            let Some(socket) = self.saved.sockets.get(id) else {
                continue;
            };
            let (Kind::Listener(_), Some(bound)) = (&socket.kind, socket.bound) else {
                continue;
            };
            let rank = u8::from(!bound.address.is_unspecified());
            if !bound.covers(tuple.local) || rank < named {
                continue;
            }
            if rank > named {
                found.clear();
                named = rank;
            }
            found.push(*id);
        }
        match found.len() as u64 {
            0 | 1 => found.first().copied(),
            count => found.get((self.saved.secret.choice(tuple) % count) as usize).copied(),
        }
    }

    /// Adds a new connection to those that wait to be accepted.
    fn enqueue(&mut self, listener: SocketId, connection: Connection) {
        let child = self.new_id();
        let Some(parent) = self.saved.sockets.get_mut(&listener) else {
            return;
        };
        let Kind::Listener(queue) = &mut parent.kind else {
            return;
        };
        queue.ready.push_back(child);
        let tuple = connection.tuple;
        let blocked = connection.blocked;
        let mut socket = Socket::new(Kind::Connection(connection.into()), parent.options.clone());
        socket.owner = Owner::Listener(listener);
        self.saved.sockets.insert(child, socket);
        self.derived.connections.insert(tuple, child);
        if blocked {
            self.derived.blocked.insert(child);
        }
        self.derived.changed.insert(listener);
        self.arm(child);
    }

    fn receive_udp(&mut self, now: Nanos, incoming: &Incoming<'_>, tuple: Tuple, bytes: &[u8]) {
        let broadcast = self.saved.link.config.is_broadcast(incoming.target);
        let mut best: Option<(u8, SocketId)> = None;
        let mut all = Vec::new();
        for id in self.derived.ports.get(&(Protocol::Udp, tuple.local.port)).into_iter().flatten() {
            let Some(socket) = self.saved.sockets.get(id) else {
                continue;
            };
            let (Kind::Udp(udp), Some(bound)) = (&socket.kind, socket.bound) else {
                continue;
            };
            let Some(fit) = udp.fit(bound, tuple) else {
                continue;
            };
            if broadcast {
                all.push(*id);
            } else if best.is_none_or(|(other, _)| fit >= other) {
                best = Some((fit, *id));
            }
        }
        all.extend(best.map(|(_, id)| id));
        if all.is_empty() && !broadcast {
            icmp::port_unreachable(&mut self.saved.link, now, incoming);
        }
        for id in all {
            let Some(socket) = self.saved.sockets.get_mut(&id) else {
                continue;
            };
            let Kind::Udp(udp) = &mut socket.kind else {
                continue;
            };
            if udp.queue.push(tuple.remote, bytes, &socket.options).is_some() {
                self.derived.changed.insert(id);
            }
        }
    }

    fn receive_echo(&mut self, incoming: &Incoming<'_>, ident: u16, bytes: &[u8]) {
        let from = Endpoint::new(incoming.source, 0);
        for id in self.derived.ports.get(&(Protocol::Echo, ident)).into_iter().flatten() {
            let Some(socket) = self.saved.sockets.get_mut(id) else {
                continue;
            };
            let Kind::Ping(ping) = &mut socket.kind else {
                continue;
            };
            if ping.queue.push(from, bytes, &socket.options).is_some() {
                self.derived.changed.insert(*id);
            }
        }
    }

    /// Something we sent could not be delivered.
    fn receive_failure(&mut self, now: Nanos, protocol: IpProtocol, tuple: Tuple, error: Errno) {
        match protocol {
            IpProtocol::Tcp => {
                if let Some(id) = self.derived.connections.get(&tuple).copied() {
                    self.with_connection(now, id, |connection, cx| {
                        // Once established, the connection tries on: the network may recover (RFC 1122, 4.2.3.9).
                        if connection.state == State::SynSent {
                            connection.fail(error, cx);
                        }
                    });
                }
            }
            IpProtocol::Udp => {
                for id in self.derived.ports.get(&(Protocol::Udp, tuple.local.port)).into_iter().flatten() {
                    let Some(socket) = self.saved.sockets.get_mut(id) else {
                        continue;
                    };
                    if let Kind::Udp(udp) = &socket.kind
                        && udp.peer == Some(tuple.remote)
                    {
                        socket.error = Some(error);
                        self.derived.changed.insert(*id);
                    }
                }
            }
            _ => {}
        }
    }

    /// A neighbour does not answer: who waits for it alone need not wait on.
    pub(crate) fn neighbour_absent(&mut self, now: Nanos, hop: Ipv4Addr) {
        let config = self.saved.link.config;
        let ids: Vec<SocketId> = self
            .derived
            .connections
            .iter()
            .filter(|(tuple, _)| config.next_hop(tuple.remote.address) == Some(hop))
            .map(|(_, id)| *id)
            .collect();
        for id in ids {
            self.with_connection(now, id, |connection, cx| {
                if connection.state == State::SynSent {
                    connection.fail(Errno::EHOSTUNREACH, cx);
                }
            });
        }
    }
}

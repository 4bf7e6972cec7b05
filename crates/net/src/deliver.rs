//! The way of a received packet to the socket it is for.
use crate::{
    counters::count,
    datagram::{self, Coverage, Failure},
    endpoint::{Endpoint, Host, Tuple},
    icmp::{self, Hard, Reason, Refusal},
    options::Flags,
    packet::{Incoming, protocol},
    ring::Bytes,
    socket::{Kind, Owner, Protocol, Socket, SocketId},
    stack::Stack,
    tcp::{Answer, Connection, Segment, State, Verdict, reset_for},
};
use alloc::vec::Vec;
use core::net::IpAddr;
use shimos_abi::{errno::Errno, flat::Flatly, time::Nanos};

impl Stack {
    pub(crate) fn dispatch(&mut self, now: Nanos, incoming: &Incoming<'_>) {
        count(&mut self.saved.link.counters.packets_received);
        let raw = self.receive_raw(now, incoming);
        match (incoming.protocol, incoming.source) {
            (protocol::TCP, _) => {
                if self.saved.link.config.is_group(incoming.target) {
                    return;
                }
                count(&mut self.saved.link.counters.tcp_received);
                match Segment::parse(incoming) {
                    Some(segment) => self.receive_tcp(now, incoming, &segment),
                    None => count(&mut self.saved.link.counters.tcp_damaged),
                }
            }
            (protocol::UDP, _) => match datagram::parse_udp(incoming) {
                Some((tuple, bytes)) => self.receive_udp(now, incoming, tuple, bytes, Cover::Udp),
                None => count(&mut self.saved.link.counters.udp_damaged),
            },
            (protocol::LITE, _) => match datagram::parse_lite(incoming) {
                Some((tuple, bytes, covered)) => self.receive_udp(now, incoming, tuple, bytes, Cover::Lite(covered)),
                None => count(&mut self.saved.link.counters.udp_damaged),
            },
            (protocol::ICMP, IpAddr::V4(_)) | (protocol::ICMP6, IpAddr::V6(_)) => self.receive_icmp(now, incoming),
            _ if raw == Taken::No => {
                count(&mut self.saved.link.counters.unknown_protocol);
                if incoming.protocol != protocol::NONE {
                    icmp::refuse(&mut self.saved.link, now, incoming, Reason::Protocol);
                }
            }
            _ => {}
        }
    }

    fn receive_icmp(&mut self, now: Nanos, incoming: &Incoming<'_>) {
        count(&mut self.saved.link.counters.icmp_received);
        match icmp::parse(incoming) {
            Some(icmp::Message::Request) => {
                // IPv6 nodes also answer when a group is asked, if they are in it.
                let config = self.saved.link.config;
                if config.is_group(incoming.target)
                    && !config.is_own_group(incoming.target)
                    && !self.is_joined(incoming.target)
                {
                    return;
                }
                icmp::reply(&mut self.saved.link, now, incoming);
            }
            Some(icmp::Message::Reply(ident)) => self.receive_echo(now, incoming, ident),
            Some(icmp::Message::Refusal(refusal)) => self.receive_refusal(now, incoming, &refusal),
            Some(icmp::Message::Other) | None => {}
        }
    }

    /// Whether any socket has joined a group.
    fn is_joined(&self, group: IpAddr) -> bool {
        self.saved.sockets.values().any(|socket| socket.options.groups.iter().any(|known| known.group.0 == group))
    }

    fn receive_tcp(&mut self, now: Nanos, incoming: &Incoming<'_>, segment: &Segment<'_>) {
        let tuple = segment.tuple;
        if let Some(id) = self.derived.connections.get(&tuple).copied() {
            return self.receive_connected(now, id, segment);
        }
        if let Some(entry) = self.saved.time_wait.get_mut(&tuple) {
            if !entry.gives_way_to(segment) {
                return entry.input(tuple, segment, &mut self.saved.link, now);
            }
            self.saved.time_wait.remove(&tuple);
        }
        let Some(listener) = self.listener_for(incoming, tuple) else {
            return reset_for(segment, &mut self.saved.link, now);
        };
        match self.with_listener(now, listener, |l, secret, cx| l.input(segment, secret, cx)) {
            Some(Verdict::Done) => {}
            Some(Verdict::Established(connection)) => self.enqueue(listener, *connection),
            Some(Verdict::Unknown) | None => reset_for(segment, &mut self.saved.link, now),
        }
    }

    /// A segment of a connection. What follows from it waits for the end of a batch, if it may.
    fn receive_connected(&mut self, now: Nanos, id: SocketId, segment: &Segment<'_>) {
        let answer = self.act(now, id, |connection, cx| connection.input_one_of(segment, cx));
        match answer {
            Some(Answer::Waits) if !self.derived.unanswered.contains(&id) => self.derived.unanswered.push(id),
            Some(Answer::Given) => self.settle(now, id),
            Some(Answer::Waits) | None => {}
        }
    }

    /// Answers what came in a batch of frames.
    pub(crate) fn answer(&mut self, now: Nanos) {
        while let Some(id) = self.derived.unanswered.pop() {
            self.with_connection(now, id, |connection, cx| connection.output(cx));
        }
    }

    /// The listener that gets new connections of this name.
    fn listener_for(&self, incoming: &Incoming<'_>, tuple: Tuple) -> Option<SocketId> {
        let sockets = self.derived.ports.get(&(Protocol::Tcp, tuple.local.port))?;
        let mut best = 0;
        let mut found: Vec<SocketId> = Vec::new();
        for id in sockets {
            let Some(socket) = self.saved.sockets.get(id) else {
                continue;
            };
            if !matches!(socket.kind, Kind::Listener(_)) || !datagram::takes(&socket.options, incoming) {
                continue;
            }
            let Some(rank) = socket.fits(tuple.local).filter(|rank| *rank >= best) else { continue };
            if rank > best {
                found.clear();
                best = rank;
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
        let mut options = parent.options.clone();
        options.groups.clear();
        let mut socket = Socket::new(parent.family, Kind::Connection(connection.into()), options);
        socket.owner = Owner::Listener(listener);
        self.saved.sockets.insert(child, Flatly::from(socket).into());
        count(&mut self.saved.link.counters.tcp_passive);
        self.derived.connections.insert(tuple, child);
        if blocked {
            self.derived.blocked.insert(child);
        }
        self.derived.changed.insert(listener);
        self.arm(child);
    }

    /// Whether a socket gets what is sent to a group.
    fn hears(&self, socket: &Socket, incoming: &Incoming<'_>) -> bool {
        let group = incoming.target;
        if !group.is_multicast() {
            return true;
        }
        let only_own = match group {
            IpAddr::V4(_) => Flags::ONLY_OWN_GROUPS4,
            IpAddr::V6(_) => Flags::ONLY_OWN_GROUPS6,
        };
        // A looped copy counts as coming from the interface it went to.
        let member = socket.options.is_member(group, incoming.interface())
            || (incoming.looped && socket.options.groups.iter().any(|known| known.group.0 == group));
        member
            || (!socket.options.has(only_own) && (self.is_joined(group) || self.saved.link.config.is_own_group(group)))
    }

    fn receive_udp(&mut self, now: Nanos, incoming: &Incoming<'_>, tuple: Tuple, bytes: &[u8], cover: Cover) {
        let protocol = if cover == Cover::Udp { Protocol::Udp } else { Protocol::Lite };
        let group = self.saved.link.config.is_group(incoming.target);
        let mut best = 0;
        let mut found: Vec<SocketId> = Vec::new();
        for id in self.derived.ports.get(&(protocol, tuple.local.port)).into_iter().flatten() {
            let Some(socket) = self.saved.sockets.get(id) else {
                continue;
            };
            let Kind::Udp(flow) = &socket.kind else { continue };
            if !cover.suffices(flow.coverage) {
                continue;
            }
            if !datagram::takes(&socket.options, incoming) || !self.hears(socket, incoming) {
                continue;
            }
            let Some(fit) = socket.fits(tuple.local).and_then(|rank| flow.fit(rank, tuple)) else { continue };
            if !group {
                if fit < best {
                    continue;
                }
                if fit > best {
                    found.clear();
                    best = fit;
                }
            }
            found.push(*id);
        }
        if found.is_empty() {
            if !group {
                count(&mut self.saved.link.counters.udp_no_port);
                icmp::refuse(&mut self.saved.link, now, incoming, Reason::Port);
            }
            return;
        }
        if !group && found.len() > 1 {
            // Sockets that share the port share the load; of others the newest gets it.
            let shares =
                |id: &SocketId| self.saved.sockets.get(id).is_some_and(|socket| socket.options.has(Flags::REUSE_PORT));
            let place = if found.iter().all(shares) {
                (self.saved.secret.choice(tuple) % found.len() as u64) as usize
            } else {
                found.len() - 1
            };
            found = found.get(place).copied().into_iter().collect();
        }
        count(&mut self.saved.link.counters.udp_received);
        for id in found {
            self.queue(now, id, incoming, tuple, bytes);
        }
    }

    /// Puts a datagram into a socket's queue.
    fn queue(&mut self, now: Nanos, id: SocketId, incoming: &Incoming<'_>, tuple: Tuple, bytes: &[u8]) {
        let Some(socket) = self.saved.sockets.get_mut(&id) else { return };
        let limit = socket.options.receive_buffer;
        let Some(flow) = socket.flow_mut() else { return };
        match flow.queue.push(datagram::datagram(now, incoming, tuple, bytes), limit) {
            Some(()) => {
                self.derived.changed.insert(id);
            }
            None => count(&mut self.saved.link.counters.udp_full),
        }
    }

    fn receive_echo(&mut self, now: Nanos, incoming: &Incoming<'_>, ident: u16) {
        let tuple = Tuple { local: Endpoint::new(incoming.target, ident), remote: Endpoint::new(incoming.source, 0) };
        let ids: Vec<SocketId> = self.derived.ports.get(&(Protocol::Echo, ident)).cloned().unwrap_or_default();
        for id in ids {
            let fits =
                self.saved.sockets.get(&id).is_some_and(|socket| {
                    datagram::takes(&socket.options, incoming) && socket.fits(tuple.local).is_some()
                });
            if fits {
                self.queue(now, id, incoming, tuple, incoming.payload);
            }
        }
    }

    /// Gives a packet to all raw sockets that want it.
    fn receive_raw(&mut self, now: Nanos, incoming: &Incoming<'_>) -> Taken {
        let port = u16::from(incoming.protocol);
        let Some(ids) = self.derived.ports.get(&(Protocol::Raw, port)) else { return Taken::No };
        let tuple = Tuple { local: Endpoint::new(incoming.target, port), remote: Endpoint::new(incoming.source, port) };
        let wants = |id: &&SocketId| {
            let Some(socket) = self.saved.sockets.get(id) else { return false };
            let Kind::Raw(raw) = &socket.kind else { return false };
            let bound = socket.bound.map_or(socket.family.unspecified(), |bound| bound.address);
            let mine = bound.is_unspecified() || bound == incoming.target;
            let from = raw.flow.peer.is_none_or(|peer| peer.address == incoming.source);
            crate::endpoint::Family::of(incoming.source) == socket.family
                && mine
                && from
                && raw.wants(incoming)
                && datagram::takes(&socket.options, incoming)
        };
        let ids: Vec<SocketId> = ids.iter().filter(wants).copied().collect();
        // IPv4 packets come with their header, IPv6 packets without.
        let bytes = if incoming.source.is_ipv4() { incoming.packet } else { incoming.payload };
        for id in &ids {
            self.queue(now, *id, incoming, tuple, bytes);
        }
        if ids.is_empty() { Taken::No } else { Taken::Yes }
    }

    /// Something we sent could not be delivered.
    fn receive_refusal(&mut self, now: Nanos, incoming: &Incoming<'_>, refusal: &Refusal<'_>) {
        let tuple = refusal.tuple;
        match refusal.protocol {
            protocol::TCP => {
                if let Some(id) = self.derived.connections.get(&tuple).copied() {
                    self.with_connection(now, id, |connection, cx| connection.refused(refusal, cx));
                }
            }
            protocol::UDP | protocol::LITE => {
                let kind = if refusal.protocol == protocol::UDP { Protocol::Udp } else { Protocol::Lite };
                let ids = self.derived.ports.get(&(kind, tuple.local.port)).cloned().unwrap_or_default();
                for id in ids {
                    self.tell_refusal(now, id, incoming, refusal);
                }
            }
            protocol::ICMP | protocol::ICMP6 => {
                let ids = self.derived.ports.get(&(Protocol::Echo, tuple.local.port)).cloned().unwrap_or_default();
                for id in ids {
                    self.tell_refusal(now, id, incoming, refusal);
                }
            }
            _ => {}
        }
    }

    /// Tells a datagram socket that something it sent was refused.
    fn tell_refusal(&mut self, now: Nanos, id: SocketId, incoming: &Incoming<'_>, refusal: &Refusal<'_>) {
        let Some(socket) = self.saved.sockets.get_mut(&id) else { return };
        let remote = refusal.tuple.remote;
        let echo = matches!(socket.kind, Kind::Ping(_));
        let (queues, origin) = match remote.address {
            IpAddr::V4(_) => (socket.options.has(Flags::ERRORS4), 2),
            IpAddr::V6(_) => (socket.options.has(Flags::ERRORS6), 3),
        };
        let fits = socket.fits(refusal.tuple.local).is_some();
        let Some(flow) = socket.flow_mut() else { return };
        let connected =
            flow.peer.is_some_and(|peer| if echo { peer.address == remote.address } else { peer == remote });
        if !fits || (flow.peer.is_some() && !connected) {
            return;
        }
        if queues {
            flow.fail(Failure {
                error: refusal.error,
                origin,
                kind: refusal.kind,
                code: refusal.code,
                info: refusal.mtu.unwrap_or(0),
                offender: Some(Host(incoming.source)),
                target: remote,
                bytes: Bytes(refusal.rest.to_vec()),
                at: now,
            });
            socket.error = Some(refusal.error);
        } else if connected && refusal.hard == Hard::Yes {
            socket.error = Some(refusal.error);
        } else {
            return;
        }
        self.derived.changed.insert(id);
    }

    /// A neighbour does not answer: who waits for it alone need not wait on.
    pub(crate) fn neighbour_absent(&mut self, now: Nanos, hop: IpAddr) {
        let config = self.saved.link.config;
        let waits = |target: IpAddr| !config.is_local(target) && config.next_hop(target) == Some(hop);
        let connections = self.derived.connections.iter();
        let ids: Vec<SocketId> =
            connections.filter(|(tuple, _)| waits(tuple.remote.address)).map(|(_, id)| *id).collect();
        for id in ids {
            self.with_connection(now, id, |connection, cx| {
                if connection.state == State::SynSent {
                    connection.fail(Errno::EHOSTUNREACH, cx);
                }
            });
        }
        for (id, socket) in &mut self.saved.sockets {
            let peer = socket.flow().and_then(|flow| flow.peer);
            if peer.is_some_and(|peer| waits(peer.address)) {
                socket.error = Some(Errno::EHOSTUNREACH);
                self.derived.changed.insert(*id);
            }
        }
    }
}

/// What a datagram's checksum covers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cover {
    /// All, as always with UDP.
    Udp,
    /// So many bytes; 0 is all.
    Lite(u16),
}

impl Cover {
    /// Whether that is enough for a socket that wants so much.
    fn suffices(self, wanted: Option<Coverage>) -> bool {
        match (self, wanted) {
            (Cover::Lite(covered), Some(Coverage { receive: Some(least), .. })) => {
                covered == 0 || (least != 0 && covered >= least)
            }
            _ => true,
        }
    }
}

/// Whether somebody took a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    No,
}

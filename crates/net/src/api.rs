//! What a program does with sockets. Errors and their conditions are those of Linux.
use crate::{
    endpoint::{Endpoint, Tuple},
    icmp,
    options::{Flags, Options, TcpInfo},
    socket::{How, Kind, Owner, Protocol, Readiness, Received, Socket, SocketId, Take},
    stack::Stack,
    tcp::{Connection, Context, Listener, State},
    udp,
};
use alloc::boxed::Box;
use core::net::{Ipv4Addr, SocketAddr};
use shimos_abi::{errno::Errno, time::Nanos};

/// Ports that are given to sockets without one.
const EPHEMERAL: core::ops::Range<u16> = 32768..61000;

impl Stack {
    pub(crate) fn socket(&self, id: SocketId) -> Result<&Socket, Errno> {
        self.saved.sockets.get(&id).filter(|socket| socket.owner == Owner::Program).ok_or(Errno::EBADF)
    }

    pub(crate) fn socket_mut(&mut self, id: SocketId) -> Result<&mut Socket, Errno> {
        self.touch();
        self.saved.sockets.get_mut(&id).filter(|socket| socket.owner == Owner::Program).ok_or(Errno::EBADF)
    }

    /// Makes a socket.
    pub fn open(&mut self, protocol: Protocol) -> Result<SocketId, Errno> {
        self.touch();
        let kind = match protocol {
            Protocol::Tcp => Kind::Idle,
            Protocol::Udp => Kind::Udp(udp::Udp::default()),
            Protocol::Echo => Kind::Ping(icmp::Ping::default()),
        };
        let id = self.new_id();
        self.saved.sockets.insert(id, Socket::new(kind, Options::new()));
        Ok(id)
    }

    /// What the socket speaks.
    pub fn protocol(&self, id: SocketId) -> Result<Protocol, Errno> {
        self.socket(id).map(Socket::protocol)
    }

    /// Gives a socket its local address. Port 0 chooses one.
    pub fn bind(&mut self, id: SocketId, address: SocketAddr) -> Result<(), Errno> {
        let mut wanted = Endpoint::from_socket(address)?;
        let config = self.saved.link.config;
        let socket = self.socket(id)?;
        if socket.bound.is_some() || matches!(socket.kind, Kind::Connection(_) | Kind::Listener(_)) {
            return Err(Errno::EINVAL);
        }
        let possible = wanted.address.is_unspecified()
            || config.is_local(wanted.address)
            || (socket.protocol() == Protocol::Udp && config.is_broadcast(wanted.address));
        if !possible {
            return Err(Errno::EADDRNOTAVAIL);
        }
        if wanted.port == 0 {
            wanted.port = self.free_port(socket.protocol(), None).ok_or(Errno::EADDRINUSE)?;
        } else if self.conflicts(id, wanted)? {
            return Err(Errno::EADDRINUSE);
        }
        self.set_bound(id, wanted)
    }

    fn set_bound(&mut self, id: SocketId, at: Endpoint) -> Result<(), Errno> {
        let socket = self.socket_mut(id)?;
        socket.bound = Some(at);
        let protocol = socket.protocol();
        self.derived.ports.entry((protocol, at.port)).or_default().push(id);
        Ok(())
    }

    /// Whether another socket keeps `id` from being bound to `wanted`.
    fn conflicts(&self, id: SocketId, wanted: Endpoint) -> Result<bool, Errno> {
        let socket = self.socket(id)?;
        let protocol = socket.protocol();
        let stream = protocol == Protocol::Tcp;
        let shares = |other: &Socket| {
            let both = |flag| socket.options.has(flag) && other.options.has(flag);
            let listens = stream && matches!(other.kind, Kind::Listener(_));
            both(Flags::REUSE_PORT) || (both(Flags::REUSE_ADDRESS) && !listens)
        };
        let bound = self.derived.ports.get(&(protocol, wanted.port)).into_iter().flatten();
        let mut others = bound.filter(|other| **other != id).filter_map(|other| self.saved.sockets.get(other));
        if others.any(|other| other.bound.is_some_and(|at| at.overlaps(wanted)) && !shares(other)) {
            return Ok(true);
        }
        if !stream {
            return Ok(false);
        }
        let mut connections = self.derived.connections.range(Tuple::range(wanted.port));
        let connected = connections.any(|(tuple, other)| {
            let other = self.saved.sockets.get(other).filter(|other| other.bound.is_none());
            wanted.covers(tuple.local) && other.is_some_and(|other| !shares(other))
        });
        let mut remembered = self.saved.time_wait.range(Tuple::range(wanted.port));
        let lingers = !socket.options.has(Flags::REUSE_ADDRESS) && remembered.any(|(t, _)| wanted.covers(t.local));
        Ok(connected || lingers)
    }

    /// A port nobody uses; for a connection with `remote`, one that makes its name unique.
    fn free_port(&mut self, protocol: Protocol, remote: Option<(Ipv4Addr, Endpoint)>) -> Option<u16> {
        let count = EPHEMERAL.len() as u64;
        let start = self.saved.secret.random() % count;
        (0..count).map(|step| EPHEMERAL.start + ((start + step) % count) as u16).find(|port| {
            let free = !self.derived.ports.contains_key(&(protocol, *port));
            free && match remote {
                Some((local, remote)) => self.is_unused(Tuple { local: Endpoint::new(local, *port), remote }),
                None => {
                    protocol != Protocol::Tcp
                        || (self.derived.connections.range(Tuple::range(*port)).next().is_none()
                            && self.saved.time_wait.range(Tuple::range(*port)).next().is_none())
                }
            }
        })
    }

    fn is_unused(&self, tuple: Tuple) -> bool {
        !self.derived.connections.contains_key(&tuple) && !self.saved.time_wait.contains_key(&tuple)
    }

    /// Begins to accept connections, or changes how many may wait.
    pub fn listen(&mut self, id: SocketId, backlog: u32) -> Result<(), Errno> {
        let socket = self.socket_mut(id)?;
        match &mut socket.kind {
            Kind::Listener(listener) => {
                listener.set_backlog(backlog);
                return Ok(());
            }
            Kind::Idle => {}
            Kind::Connection(_) => return Err(Errno::EINVAL),
            Kind::Udp(_) | Kind::Ping(_) => return Err(Errno::EOPNOTSUPP),
        }
        let bound = match socket.bound {
            Some(bound) => bound,
            None => {
                let port = self.free_port(Protocol::Tcp, None).ok_or(Errno::EADDRINUSE)?;
                let bound = Endpoint::new(Ipv4Addr::UNSPECIFIED, port);
                self.set_bound(id, bound)?;
                bound
            }
        };
        // Sockets that share an address can still not both listen, unless they share the port too.
        let shares = self.socket(id)?.options.has(Flags::REUSE_PORT);
        let others = self.derived.ports.get(&(Protocol::Tcp, bound.port)).into_iter().flatten();
        let taken =
            others.filter(|other| **other != id).filter_map(|other| self.saved.sockets.get(other)).any(|other| {
                matches!(other.kind, Kind::Listener(_))
                    && other.bound.is_some_and(|at| at.overlaps(bound))
                    && !(shares && other.options.has(Flags::REUSE_PORT))
            });
        if taken {
            return Err(Errno::EADDRINUSE);
        }
        self.socket_mut(id)?.kind = Kind::Listener(Box::new(Listener::new(backlog)));
        Ok(())
    }

    /// Takes the next connection that waits: its socket and its peer.
    pub fn accept(&mut self, id: SocketId) -> Result<(SocketId, SocketAddr), Errno> {
        loop {
            let socket = self.socket_mut(id)?;
            let listener = match &mut socket.kind {
                Kind::Listener(listener) => listener,
                Kind::Udp(_) | Kind::Ping(_) => return Err(Errno::EOPNOTSUPP),
                _ => return Err(Errno::EINVAL),
            };
            let child = listener.ready.pop_front().ok_or(Errno::EAGAIN)?;
            if let Some(socket) = self.saved.sockets.get_mut(&child)
                && let Kind::Connection(connection) = &mut socket.kind
            {
                socket.owner = Owner::Program;
                connection.told = true;
                return Ok((child, connection.tuple.remote.to_socket()));
            }
        }
    }

    /// Connects. For TCP the answer at first is `EINPROGRESS`; when the socket is ready, the same call tells the outcome.
    pub fn connect(&mut self, now: Nanos, id: SocketId, to: SocketAddr) -> Result<(), Errno> {
        let mut remote = Endpoint::from_socket(to)?;
        if remote.address.is_unspecified() {
            remote.address = Ipv4Addr::LOCALHOST;
        }
        let socket = self.socket_mut(id)?;
        let error = socket.error;
        match &mut socket.kind {
            Kind::Udp(udp) => {
                udp.peer = Some(remote);
                return self.bind_for(id, remote).map(|_| ());
            }
            Kind::Ping(ping) => {
                ping.peer = Some(remote);
                return self.bind_for(id, remote).map(|_| ());
            }
            Kind::Listener(_) => return Err(Errno::EISCONN),
            Kind::Connection(connection) => match connection.state {
                State::SynSent | State::SynReceived => return Err(Errno::EALREADY),
                State::Closed if !connection.established => {
                    socket.kind = Kind::Idle;
                    socket.error = None;
                    if let Some(error) = error {
                        return Err(error);
                    }
                }
                _ if !connection.told => {
                    connection.told = true;
                    return Ok(());
                }
                _ => return Err(Errno::EISCONN),
            },
            Kind::Idle => {}
        }
        self.begin(now, id, remote)
    }

    /// Sends the SYN of a new connection.
    fn begin(&mut self, now: Nanos, id: SocketId, remote: Endpoint) -> Result<(), Errno> {
        let config = self.saved.link.config;
        if remote.port == 0 {
            return Err(Errno::ECONNREFUSED);
        }
        if config.is_broadcast(remote.address) || remote.address.is_multicast() {
            return Err(Errno::ENETUNREACH);
        }
        if !config.is_local(remote.address) && config.next_hop(remote.address).is_none() {
            return Err(Errno::ENETUNREACH);
        }
        let local = self.bind_for(id, remote)?;
        let tuple = Tuple { local, remote };
        if !self.is_unused(tuple) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let secret = &self.saved.secret;
        let (iss, offset) = (secret.sequence(tuple, now), secret.offset(tuple));
        let Some(socket) = self.saved.sockets.get_mut(&id) else {
            return Err(Errno::EBADF);
        };
        let mut cx = Context {
            now,
            link: &mut self.saved.link,
            options: &socket.options,
            owner: Owner::Program,
            acks: crate::AckMode::Delayed,
            error: None,
        };
        let connection = Connection::connect(tuple, iss, offset, &mut cx);
        socket.kind = Kind::Connection(Box::new(connection));
        self.derived.connections.insert(tuple, id);
        self.with_connection(now, id, |_, _| ());
        Err(Errno::EINPROGRESS)
    }

    /// The local end for packets to `remote`, bound now if it was not.
    fn bind_for(&mut self, id: SocketId, remote: Endpoint) -> Result<Endpoint, Errno> {
        let source = self.saved.link.config.source_for(remote.address);
        let socket = self.socket(id)?;
        if let Some(bound) = socket.bound {
            let named = !bound.address.is_unspecified() && !self.saved.link.config.is_broadcast(bound.address);
            return Ok(if named { bound } else { Endpoint::new(source, bound.port) });
        }
        let protocol = socket.protocol();
        let unique = (protocol == Protocol::Tcp).then_some((source, remote));
        let port = self.free_port(protocol, unique).ok_or(Errno::EADDRNOTAVAIL)?;
        self.set_bound(id, Endpoint::new(Ipv4Addr::UNSPECIFIED, port))?;
        Ok(Endpoint::new(source, port))
    }

    /// Forgets the peer of a datagram socket (connecting to AF_UNSPEC).
    pub fn disconnect(&mut self, id: SocketId) -> Result<(), Errno> {
        match &mut self.socket_mut(id)?.kind {
            Kind::Udp(udp) => udp.peer = None,
            Kind::Ping(ping) => ping.peer = None,
            _ => return Err(Errno::EOPNOTSUPP),
        }
        Ok(())
    }

    /// Sends. A stream may take only a part; `EAGAIN` if it takes nothing now. `to` is for datagrams without a peer.
    pub fn send(&mut self, now: Nanos, id: SocketId, bytes: &[u8], to: Option<SocketAddr>) -> Result<usize, Errno> {
        let socket = self.socket_mut(id)?;
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        let peer = match &socket.kind {
            Kind::Idle | Kind::Listener(_) => return Err(Errno::EPIPE),
            Kind::Connection(_) => {
                return self.with_connection(now, id, |c, cx| c.write(bytes, cx)).unwrap_or(Err(Errno::EPIPE));
            }
            Kind::Udp(udp) if udp.shut_write => return Err(Errno::EPIPE),
            Kind::Udp(udp) => udp.peer,
            Kind::Ping(ping) => ping.peer,
        };
        let mut remote = match to {
            Some(to) => Endpoint::from_socket(to)?,
            None => peer.ok_or(Errno::EDESTADDRREQ)?,
        };
        if remote.address.is_unspecified() {
            remote.address = Ipv4Addr::LOCALHOST;
        }
        self.send_datagram(now, id, bytes, remote)
    }

    fn send_datagram(&mut self, now: Nanos, id: SocketId, bytes: &[u8], remote: Endpoint) -> Result<usize, Errno> {
        let local = self.bind_for(id, remote)?;
        let tuple = Tuple { local, remote };
        let socket = self.saved.sockets.get(&id).ok_or(Errno::EBADF)?;
        let link = &mut self.saved.link;
        let target = remote.address;
        let direct = link.config.is_local(target) || link.config.is_broadcast(target) || target.is_multicast();
        if !direct && link.config.next_hop(target).is_none() {
            return Err(Errno::ENETUNREACH);
        }
        if socket.protocol() == Protocol::Echo {
            return if link.has_room(target) { icmp::request(link, now, tuple, bytes) } else { Err(Errno::EAGAIN) };
        }
        udp::check(link, remote, bytes.len(), &socket.options)?;
        udp::send(link, now, tuple, bytes);
        Ok(bytes.len())
    }

    /// Receives. `EAGAIN` if there is nothing now; nothing copied means the end of a stream.
    pub fn receive_from(&mut self, now: Nanos, id: SocketId, into: &mut [u8], take: Take) -> Result<Received, Errno> {
        let socket = self.socket_mut(id)?;
        // As on Linux an error is told before what is queued; but of a stream after it.
        if !matches!(socket.kind, Kind::Connection(_))
            && let Some(error) = socket.error.take()
        {
            return Err(error);
        }
        let mut ended = false;
        let datagram = match &mut socket.kind {
            Kind::Idle | Kind::Listener(_) => return Err(Errno::ENOTCONN),
            Kind::Connection(_) => return self.receive_stream(now, id, into, take),
            Kind::Udp(udp) => {
                ended = udp.shut_read;
                udp.queue.receive(into, take)
            }
            Kind::Ping(ping) => ping.queue.receive(into, take),
        };
        match datagram {
            Some((copied, length, from)) => Ok(Received { copied, length, from: Some(from.to_socket()) }),
            None if ended => Ok(Received { copied: 0, length: 0, from: None }),
            None => Err(Errno::EAGAIN),
        }
    }

    fn receive_stream(&mut self, now: Nanos, id: SocketId, into: &mut [u8], take: Take) -> Result<Received, Errno> {
        let copied = self.with_connection(now, id, |connection, cx| connection.read(into, take, cx)).flatten();
        let socket = self.socket_mut(id)?;
        if copied.is_none_or(|copied| copied == 0)
            && !into.is_empty()
            && let Some(error) = socket.error.take()
        {
            return Err(error);
        }
        match copied {
            Some(copied) => Ok(Received { copied, length: copied, from: None }),
            None => Err(Errno::EAGAIN),
        }
    }

    /// Shuts down one direction or both.
    pub fn shutdown(&mut self, now: Nanos, id: SocketId, how: How) -> Result<(), Errno> {
        let socket = self.socket_mut(id)?;
        match &mut socket.kind {
            Kind::Idle | Kind::Ping(_) => Err(Errno::ENOTCONN),
            Kind::Listener(_) if how == How::Write => Ok(()),
            Kind::Listener(_) => self.stop_listening(now, id),
            Kind::Udp(udp) => {
                udp.shutdown(how)?;
                self.derived.changed.insert(id);
                Ok(())
            }
            Kind::Connection(connection) if connection.state == State::Closed => Err(Errno::ENOTCONN),
            Kind::Connection(_) => {
                self.with_connection(now, id, |connection, cx| connection.shutdown(how, cx));
                Ok(())
            }
        }
    }

    /// Resets what waits to be accepted; the socket is as it was before listening.
    fn stop_listening(&mut self, now: Nanos, id: SocketId) -> Result<(), Errno> {
        let socket = self.socket_mut(id)?;
        let Kind::Listener(listener) = &mut socket.kind else {
            return Ok(());
        };
        let children = listener.take_ready();
        listener.timer = None;
        for child in children {
            if let Some(socket) = self.saved.sockets.get_mut(&child) {
                socket.owner = Owner::Nobody;
            }
            self.with_connection(now, child, |connection, cx| connection.abort(cx));
        }
        self.arm(id);
        self.socket_mut(id)?.kind = Kind::Idle;
        self.derived.changed.insert(id);
        Ok(())
    }

    /// Gives a socket up. A connection ends by itself in the background.
    pub fn close(&mut self, now: Nanos, id: SocketId) -> Result<(), Errno> {
        let socket = self.socket_mut(id)?;
        match &socket.kind {
            Kind::Listener(_) => self.stop_listening(now, id)?,
            Kind::Connection(_) => {
                socket.owner = Owner::Nobody;
                self.with_connection(now, id, |connection, cx| connection.close(cx));
                self.derived.changed.remove(&id);
                return Ok(());
            }
            _ => {}
        }
        self.remove(id);
        Ok(())
    }

    /// Its own address.
    pub fn local_address(&self, id: SocketId) -> Result<SocketAddr, Errno> {
        let socket = self.socket(id)?;
        let mut local = socket.bound.unwrap_or(Endpoint::UNSPECIFIED);
        let peer = match &socket.kind {
            Kind::Connection(connection) => return Ok(connection.tuple.local.to_socket()),
            Kind::Udp(udp) => udp.peer,
            _ => None,
        };
        if let Some(peer) = peer.filter(|_| local.address.is_unspecified()) {
            local.address = self.saved.link.config.source_for(peer.address);
        }
        Ok(local.to_socket())
    }

    /// The peer's address.
    pub fn peer_address(&self, id: SocketId) -> Result<SocketAddr, Errno> {
        let peer = match &self.socket(id)?.kind {
            Kind::Connection(c) if !matches!(c.state, State::SynSent | State::Closed) => Some(c.tuple.remote),
            Kind::Udp(udp) => udp.peer,
            Kind::Ping(ping) => ping.peer,
            _ => None,
        };
        peer.map(Endpoint::to_socket).ok_or(Errno::ENOTCONN)
    }

    /// Takes the error that waits to be told (SO_ERROR).
    pub fn take_error(&mut self, id: SocketId) -> Result<Option<Errno>, Errno> {
        Ok(self.socket_mut(id)?.error.take())
    }

    /// What can be done with the socket now. A socket that does not exist hangs up.
    pub fn readiness(&self, id: SocketId) -> Readiness {
        self.socket(id).map_or(Readiness::HANGUP | Readiness::ERROR, Socket::readiness)
    }

    /// Bytes that can be received now (FIONREAD).
    pub fn readable_bytes(&self, id: SocketId) -> Result<usize, Errno> {
        match &self.socket(id)?.kind {
            Kind::Connection(connection) => Ok(connection.receive.len()),
            Kind::Udp(udp) => Ok(udp.queue.readable()),
            Kind::Ping(ping) => Ok(ping.queue.readable()),
            Kind::Listener(_) => Err(Errno::EINVAL),
            Kind::Idle => Ok(0),
        }
    }

    /// Bytes not yet acknowledged by the peer (SIOCOUTQ).
    pub fn unsent_bytes(&self, id: SocketId) -> Result<usize, Errno> {
        match &self.socket(id)?.kind {
            Kind::Connection(connection) => Ok(connection.send.len()),
            _ => Ok(0),
        }
    }

    /// Figures of a connection (TCP_INFO).
    pub fn tcp_info(&self, id: SocketId) -> Result<TcpInfo, Errno> {
        match &self.socket(id)?.kind {
            Kind::Connection(connection) => Ok(connection.info()),
            _ => Err(Errno::ENOTCONN),
        }
    }
}

//! What a program does with sockets: making, naming, connecting and closing them. Errors and their conditions are those of
//! Linux.
use crate::{
    datagram::{Coverage, Flow, Raw},
    endpoint::{Endpoint, Family, Tuple},
    options::{Flags, Options},
    socket::{How, Kind, Owner, Protocol, Readiness, Socket, SocketId},
    stack::Stack,
    tcp::{Connection, Context, Listener, State},
};
use alloc::boxed::Box;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use shimos_abi::{errno::Errno, flat::Flatly, time::Nanos};

/// Ports that are given to sockets without one.
const EPHEMERAL: core::ops::Range<u16> = 32768..61000;
/// Sockets of one program, connections in the background included. More than descriptors usually allow.
const MOST_SOCKETS: usize = 65536;

impl Stack {
    pub(crate) fn socket(&self, id: SocketId) -> Result<&Socket, Errno> {
        let socket: &Socket = self.saved.sockets.get(&id).ok_or(Errno::EBADF)?;
        if socket.owner == Owner::Program { Ok(socket) } else { Err(Errno::EBADF) }
    }

    pub(crate) fn socket_mut(&mut self, id: SocketId) -> Result<&mut Socket, Errno> {
        self.touch();
        let socket: &mut Socket = self.saved.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        if socket.owner == Owner::Program { Ok(socket) } else { Err(Errno::EBADF) }
    }

    /// Makes a socket.
    pub fn open(&mut self, family: Family, protocol: Protocol) -> Result<SocketId, Errno> {
        let kind = match protocol {
            Protocol::Tcp => Kind::Idle,
            Protocol::Udp => Kind::Udp(Flow::default()),
            Protocol::Lite => Kind::Udp(Flow { coverage: Some(Coverage::default()), ..Flow::default() }),
            Protocol::Echo => Kind::Ping(Flow::default()),
            Protocol::Raw => return Err(Errno::EPROTONOSUPPORT),
        };
        self.add(Socket::new(family, kind, Options::new()))
    }

    /// Makes a socket for packets of a protocol.
    pub fn open_raw(&mut self, family: Family, protocol: u8) -> Result<SocketId, Errno> {
        const RAW: u8 = 255;
        let mut options = Options::new();
        // Who asks for "raw" brings the headers along.
        options.flags.set(Flags::OWN_HEADER, protocol == RAW);
        let id = self.add(Socket::new(family, Kind::Raw(Box::new(Raw::new(protocol))), options))?;
        self.set_bound(id, Endpoint::new(family.unspecified(), protocol.into()))?;
        Ok(id)
    }

    fn add(&mut self, socket: Socket) -> Result<SocketId, Errno> {
        self.touch();
        if self.saved.sockets.len() >= MOST_SOCKETS {
            return Err(Errno::ENOBUFS);
        }
        let id = self.new_id();
        self.saved.sockets.insert(id, Flatly::from(socket).into());
        Ok(id)
    }

    /// What the socket speaks.
    pub fn protocol(&self, id: SocketId) -> Result<Protocol, Errno> {
        self.socket(id).map(Socket::protocol)
    }

    /// Of which family it is.
    pub fn family(&self, id: SocketId) -> Result<Family, Errno> {
        self.socket(id).map(|socket| socket.family)
    }

    /// The endpoint that a program means, if a socket may use it.
    pub(crate) fn endpoint(&self, id: SocketId, address: SocketAddr) -> Result<Endpoint, Errno> {
        let socket = self.socket(id)?;
        let end = Endpoint::from_socket(address)?;
        match (socket.family, end.address) {
            (Family::V4, _) if address.is_ipv6() => Err(Errno::EAFNOSUPPORT),
            (Family::V6, IpAddr::V4(_)) if socket.options.has(Flags::ONLY_V6) => Err(Errno::ENETUNREACH),
            (Family::V6, IpAddr::V4(_)) if socket.protocol() == Protocol::Raw => Err(Errno::EINVAL),
            _ => Ok(end),
        }
    }

    /// Gives a socket its local address. Port 0 chooses one.
    pub fn bind(&mut self, id: SocketId, address: SocketAddr) -> Result<(), Errno> {
        let mut wanted = match self.endpoint(id, address) {
            Err(Errno::ENETUNREACH) => return Err(Errno::EINVAL),
            wanted => wanted?,
        };
        let config = self.saved.link.config;
        let socket = self.socket(id)?;
        let protocol = socket.protocol();
        if protocol == Protocol::Raw {
            return self.bind_raw(id, wanted.address);
        }
        if socket.bound.is_some() || matches!(socket.kind, Kind::Connection(_) | Kind::Listener(_)) {
            return Err(Errno::EINVAL);
        }
        let free = socket.options.has(Flags::FREE_BIND) || socket.options.has(Flags::TRANSPARENT);
        let possible = wanted.address.is_unspecified()
            || config.is_local(wanted.address)
            || free
            || (matches!(protocol, Protocol::Udp | Protocol::Lite) && config.is_group(wanted.address));
        if !possible {
            return Err(Errno::EADDRNOTAVAIL);
        }
        if wanted.port == 0 {
            wanted.port = self.free_port(protocol, None).ok_or(Errno::EADDRINUSE)?;
        } else if self.conflicts(id, wanted)? {
            return Err(Errno::EADDRINUSE);
        }
        self.set_bound(id, wanted)
    }

    fn bind_raw(&mut self, id: SocketId, address: IpAddr) -> Result<(), Errno> {
        let config = self.saved.link.config;
        if !address.is_unspecified() && !config.is_local(address) && !config.is_group(address) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        if let Some(bound) = &mut self.socket_mut(id)?.bound {
            bound.address = address;
        }
        Ok(())
    }

    pub(crate) fn set_bound(&mut self, id: SocketId, at: Endpoint) -> Result<(), Errno> {
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
        if others.any(|other| socket.meets(wanted, other) && !shares(other)) {
            return Ok(true);
        }
        if !stream {
            return Ok(false);
        }
        let mut connections = self.derived.connections.range(Tuple::range(wanted.port));
        let connected = connections.any(|(tuple, other)| {
            let other = self.saved.sockets.get(other).filter(|other| other.bound.is_none());
            let overlaps = socket.rank(wanted.address, tuple.local.address).is_some();
            overlaps && other.is_some_and(|other| !shares(other))
        });
        let mut remembered = self.saved.time_wait.range(Tuple::range(wanted.port));
        let lingers = !socket.options.has(Flags::REUSE_ADDRESS)
            && remembered.any(|(tuple, _)| socket.rank(wanted.address, tuple.local.address).is_some());
        Ok(connected || lingers)
    }

    /// A port nobody uses; for a connection with `remote`, one that makes its name unique (RFC 6056, algorithm 3).
    fn free_port(&mut self, protocol: Protocol, remote: Option<(IpAddr, Endpoint)>) -> Option<u16> {
        let count = EPHEMERAL.len() as u64;
        let start = match remote {
            Some((local, remote)) => {
                self.saved.ports_given = self.saved.ports_given.wrapping_add(1);
                let step = u64::from(self.saved.ports_given);
                self.saved.secret.first_port(local, remote).wrapping_add(step)
            }
            None => self.saved.secret.random(),
        } % count;
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
            Kind::Udp(_) | Kind::Ping(_) | Kind::Raw(_) => return Err(Errno::EOPNOTSUPP),
        }
        let bound = match socket.bound {
            Some(bound) => bound,
            None => {
                let any = socket.family.unspecified();
                let port = self.free_port(Protocol::Tcp, None).ok_or(Errno::EADDRINUSE)?;
                let bound = Endpoint::new(any, port);
                self.set_bound(id, bound)?;
                bound
            }
        };
        // Sockets that share an address can still not both listen, unless they share the port too.
        let socket = self.socket(id)?;
        let shares = socket.options.has(Flags::REUSE_PORT);
        let others = self.derived.ports.get(&(Protocol::Tcp, bound.port)).into_iter().flatten();
        let taken =
            others.filter(|other| **other != id).filter_map(|other| self.saved.sockets.get(other)).any(|other| {
                matches!(other.kind, Kind::Listener(_))
                    && socket.meets(bound, other)
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
                Kind::Udp(_) | Kind::Ping(_) | Kind::Raw(_) => return Err(Errno::EOPNOTSUPP),
                _ => return Err(Errno::EINVAL),
            };
            let child = listener.ready.pop_front().ok_or(Errno::EAGAIN)?;
            if let Some(socket) = self.saved.sockets.get_mut(&child).map(|kept| &mut ***kept)
                && let Kind::Connection(connection) = &mut socket.kind
            {
                socket.owner = Owner::Program;
                connection.told = true;
                return Ok((child, socket.family.show(connection.tuple.remote)));
            }
        }
    }

    /// Connects. For TCP the answer at first is `EINPROGRESS`; when the socket is ready, the same call tells the outcome.
    pub fn connect(&mut self, now: Nanos, id: SocketId, to: SocketAddr) -> Result<(), Errno> {
        let mut remote = self.endpoint(id, to)?;
        if remote.address.is_unspecified() {
            remote.address = loopback(remote.address);
        }
        let config = self.saved.link.config;
        let socket = self.socket_mut(id)?;
        let error = socket.error;
        match &mut socket.kind {
            Kind::Udp(_) | Kind::Ping(_) | Kind::Raw(_) => {
                if !config.reaches(remote.address) {
                    return Err(Errno::ENETUNREACH);
                }
                if config.is_broadcast(remote.address) && !socket.options.has(Flags::BROADCAST) {
                    return Err(Errno::EACCES);
                }
                self.bind_for(id, remote)?;
                if let Some(flow) = self.socket_mut(id)?.flow_mut() {
                    flow.peer = Some(remote);
                }
                return Ok(());
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
        if config.is_group(remote.address) || !config.reaches(remote.address) {
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
        crate::counters::count(&mut cx.link.counters.tcp_active);
        let connection = Connection::connect(tuple, iss, offset, &mut cx);
        socket.kind = Kind::Connection(Box::new(connection));
        self.derived.connections.insert(tuple, id);
        self.with_connection(now, id, |_, _| ());
        Err(Errno::EINPROGRESS)
    }

    /// The local end for packets to `remote`, bound now if it was not.
    pub(crate) fn bind_for(&mut self, id: SocketId, remote: Endpoint) -> Result<Endpoint, Errno> {
        let source = self.saved.link.config.source_for(remote.address);
        let socket = self.socket(id)?;
        if let Some(bound) = socket.bound {
            let named = !bound.address.is_unspecified() && !self.saved.link.config.is_group(bound.address);
            if named && bound.address.is_ipv4() != remote.address.is_ipv4() {
                return Err(Errno::ENETUNREACH);
            }
            return Ok(if named { bound } else { Endpoint::new(source, bound.port) });
        }
        let (protocol, any) = (socket.protocol(), socket.family.unspecified());
        let unique = (protocol == Protocol::Tcp).then_some((source, remote));
        let port = self.free_port(protocol, unique).ok_or(Errno::EADDRNOTAVAIL)?;
        self.set_bound(id, Endpoint::new(any, port))?;
        self.socket_mut(id)?.chosen = true;
        Ok(Endpoint::new(source, port))
    }

    /// Forgets the peer of a socket (connecting to AF_UNSPEC). A connection is reset; a port that was chosen is given back.
    pub fn disconnect(&mut self, now: Nanos, id: SocketId) -> Result<(), Errno> {
        let socket = self.socket_mut(id)?;
        if let Some(flow) = socket.flow_mut() {
            flow.peer = None;
        } else {
            match &socket.kind {
                Kind::Listener(_) => self.stop_listening(now, id)?,
                Kind::Connection(_) => {
                    self.with_connection(now, id, |connection, cx| connection.abort(cx));
                    self.arm(id);
                    let socket = self.socket_mut(id)?;
                    socket.kind = Kind::Idle;
                    socket.error = None;
                    self.arm(id);
                }
                _ => {}
            }
        }
        let socket = self.socket_mut(id)?;
        if core::mem::take(&mut socket.chosen)
            && socket.protocol() != Protocol::Raw
            && let Some(bound) = socket.bound.take()
        {
            let protocol = socket.protocol();
            self.forget_port(protocol, bound.port, id);
        }
        self.derived.changed.insert(id);
        Ok(())
    }

    /// Shuts down one direction or both.
    pub fn shutdown(&mut self, now: Nanos, id: SocketId, how: How) -> Result<(), Errno> {
        let socket = self.socket_mut(id)?;
        match &mut socket.kind {
            Kind::Idle => Err(Errno::ENOTCONN),
            Kind::Listener(_) if how == How::Write => Ok(()),
            Kind::Listener(_) => self.stop_listening(now, id),
            Kind::Connection(connection) if connection.state == State::Closed => Err(Errno::ENOTCONN),
            Kind::Connection(_) => {
                self.with_connection(now, id, |connection, cx| connection.shutdown(how, cx));
                Ok(())
            }
            Kind::Udp(_) | Kind::Ping(_) | Kind::Raw(_) => {
                self.derived.changed.insert(id);
                self.socket_mut(id)?.flow_mut().ok_or(Errno::ENOTCONN)?.shutdown(how)
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

    /// For how many seconds closing a socket waits until the peer has everything (SO_LINGER); none if it does not wait.
    pub fn lingers(&self, id: SocketId) -> Option<u32> {
        let socket = self.socket(id).ok()?;
        match &socket.kind {
            // Data that was not read resets the connection.
            Kind::Connection(connection) if !connection.has_input() => {
                socket.options.linger.filter(|seconds| *seconds > 0)
            }
            _ => None,
        }
    }

    /// Whether the peer has not yet acknowledged the end of what a connection has sent.
    pub fn is_closing(&self, id: SocketId) -> bool {
        let state = match self.socket(id).map(|socket| &socket.kind) {
            Ok(Kind::Connection(connection)) => connection.state,
            _ => return false,
        };
        matches!(state, State::FinWait1 | State::Closing | State::LastAck)
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
        let mut local = socket.bound.unwrap_or(Endpoint::new(socket.family.unspecified(), 0));
        if let Kind::Connection(connection) = &socket.kind {
            local = connection.tuple.local;
        } else if let Some(peer) = socket.flow().and_then(|flow| flow.peer)
            && local.address.is_unspecified()
        {
            local.address = self.saved.link.config.source_for(peer.address);
        }
        Ok(socket.family.show(local))
    }

    /// The peer's address.
    pub fn peer_address(&self, id: SocketId) -> Result<SocketAddr, Errno> {
        let socket = self.socket(id)?;
        let peer = match &socket.kind {
            Kind::Connection(c) if !matches!(c.state, State::SynSent | State::Closed) => Some(c.tuple.remote),
            Kind::Connection(_) => None,
            _ => socket.flow().and_then(|flow| flow.peer),
        };
        peer.map(|peer| socket.family.show(peer)).ok_or(Errno::ENOTCONN)
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
        let socket = self.socket(id)?;
        match &socket.kind {
            Kind::Connection(connection) => Ok(connection.readable(&socket.options)),
            Kind::Listener(_) => Err(Errno::EINVAL),
            _ => Ok(socket.flow().map_or(0, |flow| flow.queue.readable())),
        }
    }

    /// Bytes not yet acknowledged by the peer (SIOCOUTQ).
    pub fn unsent_bytes(&self, id: SocketId) -> Result<usize, Errno> {
        match &self.socket(id)?.kind {
            Kind::Connection(connection) => Ok(connection.send.len() + usize::from(connection.fin_sent)),
            Kind::Listener(_) => Err(Errno::EINVAL),
            _ => Ok(0),
        }
    }

    /// The settings of a socket.
    pub fn options(&self, id: SocketId) -> Result<&Options, Errno> {
        Ok(&self.socket(id)?.options)
    }
}

/// The address of this host itself in the family of `address`.
pub(crate) fn loopback(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

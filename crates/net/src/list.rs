//! What there is: sockets and connections, for those who look.
use crate::{
    config::Config,
    endpoint::{Endpoint, Family},
    options::TcpInfo,
    socket::{Kind, Owner, Protocol, SocketId},
    stack::Stack,
    tcp::State,
};
use alloc::vec::Vec;
use core::net::SocketAddr;
use shimos_abi::{errno::Errno, time::Nanos};

/// A socket, or a connection that is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The socket, if there still is one.
    pub id: Option<SocketId>,
    /// What it speaks.
    pub protocol: Protocol,
    /// Of which family it is.
    pub family: Family,
    /// Its own end.
    pub local: SocketAddr,
    /// Its peer; unspecified if it has none.
    pub remote: SocketAddr,
    /// The number of its state, as /proc/net/tcp has it: 10 listens.
    pub state: u8,
    /// Bytes to be sent and to be received; of a listener how many may wait and how many do.
    pub queues: (usize, usize),
    /// Which timer runs, and when it is due: 1 retransmission, 2 keep-alive, 3 TIME_WAIT, 4 closed window.
    pub timer: Option<(u8, Nanos)>,
    /// How often the oldest segment was sent again.
    pub retransmits: u8,
    /// Datagrams that found no room.
    pub drops: u32,
}

/// How many sockets of each kind there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// TCP sockets that programs have.
    pub tcp: usize,
    /// Connections that nobody has any more.
    pub orphans: usize,
    /// Established connections.
    pub established: usize,
    /// UDP sockets.
    pub udp: usize,
    /// Raw sockets.
    pub raw: usize,
}

const LISTENS: u8 = 10;
const CLOSED: u8 = 7;
const OPEN: u8 = 1;
const TIME_WAIT: u8 = 6;

impl Stack {
    /// All sockets that are bound or connected, and connections that are remembered.
    pub fn list(&self) -> Vec<Entry> {
        let config: Config = self.saved.link.config;
        let mut entries = Vec::new();
        for (id, socket) in &self.saved.sockets {
            let family = socket.family;
            let nowhere = Endpoint::new(family.unspecified(), 0);
            let Some(bound) = socket.bound.or(match &socket.kind {
                Kind::Connection(connection) => Some(connection.tuple.local),
                _ => None,
            }) else {
                continue;
            };
            let mut entry = Entry {
                id: (socket.owner != Owner::Nobody).then_some(*id),
                protocol: socket.protocol(),
                family,
                local: family.show(bound),
                remote: family.show(nowhere),
                state: CLOSED,
                queues: (0, 0),
                timer: None,
                retransmits: 0,
                drops: 0,
            };
            match &socket.kind {
                Kind::Idle => {}
                Kind::Listener(listener) => {
                    entry.state = LISTENS;
                    entry.queues = (listener.backlog() as usize, listener.ready.len());
                }
                Kind::Connection(connection) => {
                    if connection.state == State::Closed {
                        continue;
                    }
                    entry.state = crate::options::state_number(connection.state);
                    entry.local = family.show(connection.tuple.local);
                    entry.remote = family.show(connection.tuple.remote);
                    entry.queues = (connection.send.len(), connection.receive.len());
                    entry.retransmits = connection.retries;
                    let timers = &connection.timers;
                    let timer = |kind: u8, at: Option<Nanos>| at.map(|at| (kind, at));
                    entry.timer = timer(1, timers.retransmit)
                        .or(timer(4, timers.persist))
                        .or(timer(3, timers.end))
                        .or(timer(2, timers.keep));
                }
                _ => {
                    let Some(flow) = socket.flow() else { continue };
                    if let Some(peer) = flow.peer {
                        entry.state = OPEN;
                        entry.remote = family.show(peer);
                        if bound.address.is_unspecified() {
                            entry.local = family.show(Endpoint::new(config.source_for(peer.address), bound.port));
                        }
                    }
                    entry.queues = (0, flow.queue.used());
                    entry.drops = flow.queue.dropped;
                }
            }
            entries.push(entry);
        }
        for (tuple, entry) in &self.saved.time_wait {
            let family = Family::of(tuple.local.address);
            entries.push(Entry {
                id: None,
                protocol: Protocol::Tcp,
                family,
                local: family.show(tuple.local),
                remote: family.show(tuple.remote),
                state: TIME_WAIT,
                queues: (0, 0),
                timer: Some((3, entry.ends)),
                retransmits: 0,
                drops: 0,
            });
        }
        entries
    }

    /// How many sockets there are.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for socket in self.saved.sockets.values() {
            match (&socket.kind, socket.owner) {
                (Kind::Udp(_), _) => census.udp += 1,
                (Kind::Raw(_), _) => census.raw += 1,
                (Kind::Ping(_), _) => {}
                (_, Owner::Nobody) => census.orphans += 1,
                (kind, _) => {
                    census.tcp += 1;
                    if let Kind::Connection(connection) = kind
                        && matches!(connection.state, State::Established | State::CloseWait)
                    {
                        census.established += 1;
                    }
                }
            }
        }
        census
    }

    /// Figures of a connection (TCP_INFO).
    pub fn tcp_info(&self, id: SocketId) -> Result<TcpInfo, Errno> {
        match &self.socket(id)?.kind {
            Kind::Connection(connection) => Ok(connection.info()),
            _ => Err(Errno::ENOTCONN),
        }
    }
}

//! The stack as a whole: its state, the way of a packet through it, and time.
use crate::{
    config::Config,
    counters::Counters,
    endpoint::Tuple,
    icmp,
    link::{Arrived, Link},
    neighbour::Freshness,
    packet::{self, Packet},
    secret::Secret,
    socket::{Kind, Owner, Protocol, Socket, SocketId},
    tcp::{AckMode, Connection, Context, State, TimeWait},
};
use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    vec::Vec,
};
use core::net::IpAddr;
use minicbor::{
    Decode, Encode,
    decode::{self, Decoder},
    encode::{self, Encoder, Write},
};
use shimos_abi::{errno::Errno, flat::Flatly, kept::Kept, time::Nanos};

/// Packets to itself that one poll delivers.
const LOOPED: usize = 2048;
/// After a takeover so many peers at a time are told of it, so long after each other: the program runs between.
const GREETED: usize = 32;
const GREETING_GAP: Nanos = Nanos::micros(200);

/// No saved socket is shorter.
const LEAST_SOCKET: usize = 32;

/// What is saved.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Saved {
    #[n(0)]
    pub link: Link,
    #[n(1)]
    pub secret: Secret,
    #[cbor(n(2), decode_with = "read_sockets")]
    pub sockets: BTreeMap<SocketId, Kept<Flatly<Socket>>>,
    #[n(3)]
    next_id: u32,
    #[n(4)]
    pub time_wait: BTreeMap<Tuple, TimeWait>,
    #[n(5)]
    acks: AckMode,
    /// Counts the ports given to new connections.
    #[cbor(n(6), default)]
    pub ports_given: u32,
}

/// Reads all sockets, and makes the map at once.
fn read_sockets<C>(
    d: &mut Decoder<'_>,
    ctx: &mut C,
) -> Result<BTreeMap<SocketId, Kept<Flatly<Socket>>>, decode::Error> {
    let count = d.map()?.ok_or_else(|| decode::Error::message("sockets without number"))?;
    // Memory is taken for what can be there, not for what is promised.
    let most = d.input().len().saturating_sub(d.position()) / LEAST_SOCKET;
    let mut sockets = Vec::new();
    let _ = sockets.try_reserve(usize::try_from(count).map_or(most, |count| count.min(most)));
    for _ in 0..count {
        sockets.push((d.decode_with(ctx)?, d.decode_with(ctx)?));
    }
    Ok(sockets.into_iter().collect())
}

/// What follows from what is saved.
#[derive(Clone, Debug, Default)]
pub(crate) struct Derived {
    /// Which socket has a connection.
    pub connections: BTreeMap<Tuple, SocketId>,
    /// Sockets with a local port of their own.
    pub ports: BTreeMap<(Protocol, u16), Vec<SocketId>>,
    /// Sockets in the order of their timers.
    timers: BTreeSet<(Nanos, SocketId)>,
    /// Sockets for the caller to look at.
    pub changed: BTreeSet<SocketId>,
    /// From here on, all sockets are for the caller to look at: nobody knows what he has seen.
    unseen: Option<SocketId>,
    /// Sockets whose program is to be told of urgent data.
    pub urgent: BTreeSet<SocketId>,
    /// Connections that had no room to send.
    pub blocked: BTreeSet<SocketId>,
    /// Connections that have segments of the present batch to answer.
    pub unanswered: Vec<SocketId>,
    /// Sockets whose peers are still to be told of a takeover, in order, and when the next of them are.
    greeted: (Nanos, VecDeque<SocketId>),
    /// Not later than the first TIME_WAIT entry ends.
    time_wait: Option<Nanos>,
    version: u64,
}

/// The network of one program.
#[derive(Clone, Debug)]
pub struct Stack {
    pub(crate) saved: Saved,
    pub(crate) derived: Derived,
}

impl<C> Encode<C> for Stack {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), encode::Error<W::Error>> {
        self.saved.encode(e, ctx)
    }
}

impl<'b, C> Decode<'b, C> for Stack {
    /// Also checks what was decoded and rebuilds what follows from it.
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let saved = Saved::decode(d, ctx)?;
        let mut stack = Stack { saved, derived: Derived::default() };
        stack.validate().map_err(decode::Error::message)?;
        stack.derive();
        Ok(stack)
    }
}

impl Stack {
    /// A stack without sockets. `seed` is random: what must not be guessed is made from it.
    pub fn new(config: Config, seed: u64) -> Stack {
        let saved = Saved {
            link: Link::new(config),
            secret: Secret::new(seed),
            sockets: BTreeMap::new(),
            next_id: 1,
            time_wait: BTreeMap::new(),
            acks: AckMode::Delayed,
            ports_given: 0,
        };
        Stack { saved, derived: Derived::default() }
    }

    /// The addresses it was made with.
    pub fn config(&self) -> Config {
        self.saved.link.config
    }

    /// Changes when received data is acknowledged.
    pub fn set_ack_mode(&mut self, acks: AckMode) {
        self.saved.acks = acks;
    }

    /// Changes whenever the saved state may have changed. Says that a checkpoint can keep what it has.
    pub fn version(&self) -> u64 {
        self.derived.version
    }

    pub(crate) fn touch(&mut self) {
        self.derived.version += 1;
    }

    /// Whether what was decoded hangs together.
    fn validate(&self) -> Result<(), &'static str> {
        for (id, socket) in &self.saved.sockets {
            if id.0 >= self.saved.next_id {
                return Err("a socket that was never made");
            }
            match &socket.kind {
                Kind::Connection(connection) => connection.validate()?,
                Kind::Listener(listener) => {
                    listener.validate()?;
                    if !listener.ready.iter().all(|child| self.is_child(*child, *id)) {
                        return Err("a queue of strangers");
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn is_child(&self, child: SocketId, of: SocketId) -> bool {
        self.saved.sockets.get(&child).is_some_and(|socket| socket.owner == Owner::Listener(of))
    }

    /// Builds what follows from the saved state, each index at once.
    fn derive(&mut self) {
        let (mut connections, mut timers) = (Vec::new(), Vec::new());
        for (id, socket) in &mut self.saved.sockets {
            let at = socket.next_deadline();
            if let Some(bound) = socket.bound {
                self.derived.ports.entry((socket.protocol(), bound.port)).or_default().push(*id);
            }
            if let Kind::Connection(connection) = &socket.kind
                && connection.state != State::Closed
            {
                connections.push((connection.tuple, *id));
                if connection.blocked {
                    self.derived.blocked.insert(*id);
                }
            }
            if at.is_some() {
                socket.armed = at;
            }
            timers.extend(at.map(|at| (at, *id)));
        }
        self.derived.connections = connections.into_iter().collect();
        self.derived.timers = timers.into_iter().collect();
        self.derived.unseen = Some(SocketId(0));
        self.derived.time_wait = self.saved.time_wait.values().map(|entry| entry.ends).min();
    }

    /// The program goes on in this kernel: every peer is told so soon, instead of when its timer runs out. The first of them in
    /// the next poll, the others in those that follow.
    pub fn after_takeover(&mut self, now: Nanos) {
        let speaks = |socket: &Socket| matches!(socket.kind, Kind::Connection(_) | Kind::Listener(_));
        let ids = self.saved.sockets.iter().filter(|(_, socket)| speaks(socket)).map(|(id, _)| *id).collect();
        self.derived.greeted = (now, ids);
    }

    fn greet(&mut self, now: Nanos) {
        if self.derived.greeted.1.is_empty() || self.derived.greeted.0 > now {
            return;
        }
        for _ in 0..GREETED {
            let Some(id) = self.derived.greeted.1.pop_front() else { break };
            self.with_connection(now, id, |connection, cx| connection.after_takeover(cx));
            self.with_listener(now, id, |listener, _, cx| listener.after_takeover(cx));
        }
        self.derived.greeted.0 = now + GREETING_GAP;
    }

    /// Resets all connections: the program has gone back behind what their peers have seen, or is on another machine. Says
    /// how many there were.
    pub fn reset_connections(&mut self, now: Nanos) -> usize {
        self.touch();
        let ids: Vec<SocketId> = self.saved.sockets.keys().copied().collect();
        let mut count = 0;
        for id in ids {
            let reset = self.with_connection(now, id, |connection, cx| {
                let open = connection.state != State::Closed;
                if open {
                    connection.abort(cx);
                    cx.error = Some(Errno::ECONNRESET);
                }
                open
            });
            count += usize::from(reset == Some(true));
            self.arm(id);
        }
        self.saved.time_wait.clear();
        count
    }

    /// Takes the next Ethernet frame to send.
    pub fn take_frame(&mut self) -> Option<Vec<u8>> {
        let frame = self.saved.link.take_frame();
        if frame.is_some() {
            self.touch();
        }
        frame
    }

    /// Takes a socket whose readiness may have changed. Only sockets that the program has are named.
    pub fn take_changed(&mut self) -> Option<SocketId> {
        let changed = self.derived.changed.pop_first();
        if changed.is_none() { self.take_unseen() } else { changed }
    }

    fn take_unseen(&mut self) -> Option<SocketId> {
        let mut left = self.saved.sockets.range(self.derived.unseen?..);
        let found = left.find(|(_, socket)| socket.owner == Owner::Program).map(|(id, _)| *id);
        self.derived.unseen = found.and_then(|id| id.0.checked_add(1)).map(SocketId);
        found
    }

    /// Nobody wants to know which sockets' readiness may have changed so far.
    pub fn forget_changed(&mut self) {
        self.derived.changed.clear();
        self.derived.unseen = None;
    }

    /// Takes a socket to which urgent data came (SIGURG).
    pub fn take_urgent(&mut self) -> Option<SocketId> {
        self.derived.urgent.pop_first()
    }

    /// Deals with an Ethernet frame from the wire, whatever is in it.
    pub fn receive(&mut self, now: Nanos, ethernet_frame: &[u8]) {
        self.receive_one_of(now, ethernet_frame);
        self.answer(now);
    }

    /// The same for one of several that came together; [`Stack::end_batch`] must follow. A stream's segments are then
    /// answered once.
    pub fn receive_one_of(&mut self, now: Nanos, ethernet_frame: &[u8]) {
        self.touch();
        match self.saved.link.receive(now, ethernet_frame) {
            Arrived::Packet(incoming) => self.dispatch(now, &incoming),
            Arrived::Joined(packet) => {
                if let Some(Packet::Whole(incoming)) = packet::parse(&packet) {
                    self.dispatch(now, &incoming);
                }
            }
            Arrived::Nothing => {}
        }
    }

    /// Ends a batch of frames.
    pub fn end_batch(&mut self, now: Nanos) {
        self.answer(now);
    }

    /// Whether frames wait to be taken.
    #[inline]
    pub fn has_frames(&self) -> bool {
        self.saved.link.has_frames()
    }

    /// What has happened so far.
    pub fn counters(&self) -> &Counters {
        &self.saved.link.counters
    }

    /// The neighbours: address, hardware address if known, and how fresh that is.
    pub fn neighbours(&self, now: Nanos) -> Vec<(IpAddr, Option<[u8; 6]>, Freshness)> {
        self.saved.link.neighbours.list(now)
    }

    /// Connections that are over but remembered.
    pub fn time_wait_count(&self) -> usize {
        self.saved.time_wait.len()
    }

    /// Deals with timers that are due, with packets to the program itself, and with what could not be sent before.
    pub fn poll(&mut self, now: Nanos) {
        if self.next_deadline().is_none_or(|at| at > now) {
            return;
        }
        self.touch();
        self.saved.link.poll(now);
        while let Some(hop) = self.saved.link.take_unreachable() {
            self.neighbour_absent(now, hop);
        }
        self.forget_time_wait(now);
        let due: Vec<SocketId> =
            self.derived.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect();
        self.greet(now);
        for id in due {
            // Time has passed for the others while the program was nowhere.
            if self.derived.greeted.1.binary_search(&id).is_ok() {
                continue;
            }
            self.with_connection(now, id, |connection, cx| connection.poll(cx));
            self.with_listener(now, id, |listener, _, cx| listener.poll(cx));
        }
        for id in core::mem::take(&mut self.derived.blocked) {
            if self.with_connection(now, id, |connection, cx| connection.output(cx)).is_none() {
                self.derived.changed.insert(id);
            }
        }
        for _ in 0..LOOPED {
            let Some(frame) = self.saved.link.take_looped() else {
                break;
            };
            if let Some(incoming) = icmp::looped(&frame) {
                self.dispatch(now, &incoming);
            }
        }
        self.answer(now);
    }

    /// Whether packets of the program to itself are on their way.
    pub fn has_looped(&self) -> bool {
        self.saved.link.looped() > 0
    }

    /// When [`Stack::poll`] has something to do; a time that has passed means now.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let room = self.saved.link.wire_has_room();
        if self.saved.link.looped() > 0 || (room && !self.derived.blocked.is_empty()) {
            return Some(Nanos(0));
        }
        let (greeting, greeted) = &self.derived.greeted;
        let timer = self.derived.timers.first().map(|(at, _)| *at);
        let timer = if greeted.is_empty() { timer } else { Some(*greeting) };
        [timer, self.derived.time_wait, self.saved.link.next_deadline()].into_iter().flatten().min()
    }

    pub(crate) fn new_id(&mut self) -> SocketId {
        let id = SocketId(self.saved.next_id);
        self.saved.next_id = self.saved.next_id.saturating_add(1);
        id
    }

    fn forget_time_wait(&mut self, now: Nanos) {
        if self.derived.time_wait.is_some_and(|at| at <= now) {
            self.saved.time_wait.retain(|_, entry| entry.ends > now);
            // Not more often than once a second, for there may be many.
            self.derived.time_wait =
                self.saved.time_wait.values().map(|entry| entry.ends).min().map(|at| at.max(now + Nanos::secs(1)));
        }
    }

    /// Lets a connection do something, and draws the consequences.
    pub(crate) fn with_connection<R>(
        &mut self,
        now: Nanos,
        id: SocketId,
        act: impl FnOnce(&mut Connection, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let result = self.act(now, id, act);
        if result.is_some() {
            self.settle(now, id);
        }
        result
    }

    /// Lets a connection do something. The consequences are still to be drawn.
    #[inline]
    pub(crate) fn act<R>(
        &mut self,
        now: Nanos,
        id: SocketId,
        act: impl FnOnce(&mut Connection, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let socket: &mut Socket = self.saved.sockets.get_mut(&id)?;
        let Kind::Connection(connection) = &mut socket.kind else {
            return None;
        };
        let mut cx = Context {
            now,
            link: &mut self.saved.link,
            options: &socket.options,
            owner: socket.owner,
            acks: self.saved.acks,
            error: None,
        };
        let result = act(connection, &mut cx);
        socket.error = cx.error.or(socket.error);
        Some(result)
    }

    /// Lets a listener do something.
    pub(crate) fn with_listener<R>(
        &mut self,
        now: Nanos,
        id: SocketId,
        act: impl FnOnce(&mut crate::tcp::Listener, &Secret, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let socket: &mut Socket = self.saved.sockets.get_mut(&id)?;
        let Kind::Listener(listener) = &mut socket.kind else {
            return None;
        };
        let mut cx = Context {
            now,
            link: &mut self.saved.link,
            options: &socket.options,
            owner: Owner::Listener(id),
            acks: self.saved.acks,
            error: None,
        };
        let result = act(listener, &self.saved.secret, &mut cx);
        self.arm(id);
        Some(result)
    }

    /// Draws the consequences of what a connection did.
    pub(crate) fn settle(&mut self, now: Nanos, id: SocketId) {
        let Some(socket) = self.saved.sockets.get_mut(&id).map(|kept| &mut ***kept) else {
            return;
        };
        let Kind::Connection(connection) = &mut socket.kind else {
            return;
        };
        if core::mem::take(&mut connection.event) && socket.owner == Owner::Program {
            self.derived.changed.insert(id);
        }
        if core::mem::take(&mut connection.signal) && socket.owner == Owner::Program {
            self.derived.urgent.insert(id);
        }
        if connection.blocked {
            self.derived.blocked.insert(id);
        }
        let tuple = connection.tuple;
        match (connection.state, socket.owner) {
            (State::TimeWait, Owner::Nobody) if !connection.blocked => {
                let entry = TimeWait::new(connection, now);
                let ends = entry.ends;
                self.derived.time_wait = Some(self.derived.time_wait.map_or(ends, |at| at.min(ends)));
                self.saved.time_wait.insert(tuple, entry);
                self.remove(id);
            }
            (State::Closed, Owner::Nobody) => self.remove(id),
            (State::Closed, _) => {
                self.forget_tuple(tuple, id);
                self.arm(id);
            }
            _ => self.arm(id),
        }
    }

    fn forget_tuple(&mut self, tuple: Tuple, id: SocketId) {
        if self.derived.connections.get(&tuple) == Some(&id) {
            self.derived.connections.remove(&tuple);
        }
    }

    /// Puts a socket where its next timer says.
    pub(crate) fn arm(&mut self, id: SocketId) {
        let Some(socket) = self.saved.sockets.get_mut(&id) else {
            return;
        };
        let at = socket.next_deadline();
        if at != socket.armed {
            if let Some(old) = socket.armed {
                self.derived.timers.remove(&(old, id));
            }
            if let Some(new) = at {
                self.derived.timers.insert((new, id));
            }
            socket.armed = at;
        }
    }

    /// Removes a socket and all that refers to it.
    pub(crate) fn remove(&mut self, id: SocketId) {
        let Some(socket) = self.saved.sockets.remove(&id) else {
            return;
        };
        if let Some(at) = socket.armed {
            self.derived.timers.remove(&(at, id));
        }
        if let Some(bound) = socket.bound {
            self.forget_port(socket.protocol(), bound.port, id);
        }
        if let Kind::Connection(connection) = &socket.kind {
            self.forget_tuple(connection.tuple, id);
        }
        self.derived.changed.remove(&id);
        self.derived.urgent.remove(&id);
        self.derived.blocked.remove(&id);
    }

    pub(crate) fn forget_port(&mut self, protocol: Protocol, port: u16, id: SocketId) {
        let key = (protocol, port);
        if let Some(ids) = self.derived.ports.get_mut(&key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.derived.ports.remove(&key);
            }
        }
    }
}

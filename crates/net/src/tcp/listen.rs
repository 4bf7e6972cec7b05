//! Listening: half-open connections and those that wait to be accepted. Both are bounded, and both survive a takeover.
use super::{Agreed, Connection, Context, SHIFT, Seq, State, cookies, input::agree, mss_for, segment};
use crate::{counters::count, endpoint::Tuple, secret::Secret, socket::Readiness, socket::SocketId};
use alloc::{
    boxed::Box,
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use minicbor::{Decode, Encode};
use segment::Segment;
use shimos_abi::time::Nanos;
use smoltcp::wire::TcpControl;

/// The most connections that may wait to be accepted, whatever the program asks for (net.core.somaxconn).
const MOST: u32 = 4096;
/// Half-open connections there is always room for.
const LEAST_HALVES: usize = 64;
/// How often the answer to a SYN is sent again.
const RETRIES: u8 = 5;
const FIRST_WAIT: Nanos = Nanos::secs(1);

/// A connection whose SYN we answered.
#[derive(Clone, Debug, Encode, Decode)]
struct Half {
    #[n(0)]
    iss: Seq,
    #[n(1)]
    irs: Seq,
    #[n(2)]
    agreed: Agreed,
    /// When our answer is sent again.
    #[n(3)]
    due: Nanos,
    #[n(4)]
    tries: u8,
}

/// What a listener makes of a segment.
pub(crate) enum Verdict {
    /// It is dealt with.
    Done,
    /// It belongs to no connection.
    Unknown,
    /// It completes a connection.
    Established(Box<Connection>),
}

/// A socket that accepts connections.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Listener {
    #[n(0)]
    backlog: u32,
    #[n(1)]
    halves: BTreeMap<Tuple, Half>,
    /// Connections to accept.
    #[n(2)]
    pub ready: VecDeque<SocketId>,
    /// Not later than the first half-open connection is due.
    #[n(3)]
    pub timer: Option<Nanos>,
    /// When there last were more half-open connections than are kept: since then cookies are out.
    #[n(4)]
    flooded: Option<Nanos>,
}

impl Listener {
    pub fn new(backlog: u32) -> Listener {
        Listener {
            backlog: backlog.min(MOST),
            halves: BTreeMap::new(),
            ready: VecDeque::new(),
            timer: None,
            flooded: None,
        }
    }

    /// How many connections may wait to be accepted.
    pub fn backlog(&self) -> u32 {
        self.backlog
    }

    pub fn set_backlog(&mut self, backlog: u32) {
        self.backlog = backlog.min(MOST);
    }

    pub fn readiness(&self) -> Readiness {
        if self.ready.is_empty() { Readiness::empty() } else { Readiness::READABLE }
    }

    /// One more than the backlog may wait, as on Linux.
    fn is_full(&self) -> bool {
        self.ready.len() > self.backlog as usize
    }

    /// Deals with a segment that belongs to no connection yet.
    pub fn input(&mut self, segment: &Segment<'_>, secret: &Secret, cx: &mut Context<'_>) -> Verdict {
        let tuple = segment.tuple;
        if segment.is_syn() && segment.ack.is_none() {
            self.receive_syn(segment, secret, cx);
            return Verdict::Done;
        }
        let Some(half) = self.halves.get(&tuple) else {
            return if segment.is_reset() { Verdict::Done } else { self.receive_cookie(segment, secret, cx) };
        };
        if segment.is_reset() {
            if segment.seq == half.irs + 1 {
                self.forget(tuple);
            }
            return Verdict::Done;
        }
        if segment.ack != Some(half.iss + 1) || segment.is_syn() {
            return Verdict::Unknown;
        }
        if self.is_full() {
            // Dropped: the peer, or our timer, tries again when there may be room.
            count(&mut cx.link.counters.listen_overflows);
            return Verdict::Done;
        }
        if segment.payload.is_empty() && !segment.is_fin() && u32::from(half.tries) < cx.options.defer_accept {
            // The program wants connections with data only; our answer is sent again until the peer has had its time.
            return Verdict::Done;
        }
        let mut connection =
            Box::new(Connection::new(tuple, State::SynReceived, half.agreed, half.iss, half.irs, cx.now));
        connection.edge = connection.next + first_window(cx);
        connection.rtt_of_half(half.tries, half.due, cx.now);
        connection.input(segment, cx);
        if !connection.established {
            return Verdict::Done;
        }
        self.forget(tuple);
        Verdict::Established(connection)
    }

    fn forget(&mut self, tuple: Tuple) {
        self.halves.remove(&tuple);
        if self.halves.is_empty() {
            self.timer = None;
        }
    }

    fn receive_syn(&mut self, segment: &Segment<'_>, secret: &Secret, cx: &mut Context<'_>) {
        let tuple = segment.tuple;
        if let Some(half) = self.halves.get(&tuple).filter(|half| half.irs == segment.seq) {
            // It has not seen our answer.
            return half.answer(tuple, Time::First, cx);
        }
        if self.is_full() {
            return;
        }
        // A new number from the same port: the peer has given up the old attempt.
        self.halves.remove(&tuple);
        let agreed = agree(segment, mss_for(cx.link, cx.options, tuple), secret.offset(tuple), cx.now);
        if self.halves.len() >= (self.backlog as usize).max(LEAST_HALVES) {
            // A flood: nothing more is kept; what the answer carries must come back (RFC 4987).
            self.flooded = Some(cx.now);
            count(&mut cx.link.counters.cookies_sent);
            let (iss, stamp) = cookies::make(secret, tuple, segment.seq, &agreed, cx.now);
            // Without timestamps a cookie cannot carry more than the segment size.
            let agreed = match agreed.stamps {
                Some(_) => agreed,
                None => Agreed { send_shift: 0, receive_shift: 0, sack: false, ..agreed },
            };
            let half = Half { iss, irs: segment.seq, agreed, due: cx.now, tries: 0 };
            return half.answer_with(tuple, stamp, Time::First, cx);
        }
        let due = cx.now + FIRST_WAIT;
        let half = Half { iss: secret.sequence(tuple, cx.now), irs: segment.seq, agreed, due, tries: 0 };
        half.answer(tuple, Time::First, cx);
        self.halves.insert(tuple, half);
        self.timer = Some(self.timer.map_or(due, |timer| timer.min(due)));
    }

    /// A segment of a connection that is not known: it may bring a cookie back.
    fn receive_cookie(&mut self, segment: &Segment<'_>, secret: &Secret, cx: &mut Context<'_>) -> Verdict {
        let lately = self.flooded.is_some_and(|at| cx.now - at < cookies::VALID);
        let Some(ack) = segment.ack.filter(|_| lately && !segment.is_syn()) else { return Verdict::Unknown };
        let tuple = segment.tuple;
        let Some(agreed) = cookies::check(secret, segment, cx.now) else {
            count(&mut cx.link.counters.cookies_failed);
            return Verdict::Unknown;
        };
        count(&mut cx.link.counters.cookies_received);
        if self.is_full() {
            count(&mut cx.link.counters.listen_overflows);
            return Verdict::Done;
        }
        let agreed = Agreed { mss: agreed.mss.min(mss_for(cx.link, cx.options, tuple)), ..agreed };
        let (iss, irs) = (ack.back(1), segment.seq.back(1));
        let mut connection = Box::new(Connection::new(tuple, State::SynReceived, agreed, iss, irs, cx.now));
        connection.edge = connection.next + first_window(cx);
        connection.input(segment, cx);
        if connection.established { Verdict::Established(connection) } else { Verdict::Done }
    }

    /// Sends again what was not answered, and gives up what was not answered for long.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        if self.timer.is_none_or(|timer| timer > cx.now) {
            return;
        }
        self.halves.retain(|tuple, half| {
            if half.due > cx.now {
                return true;
            }
            if half.tries >= RETRIES {
                return false;
            }
            half.tries += 1;
            half.due = cx.now + FIRST_WAIT.times(1 << half.tries);
            half.answer(*tuple, Time::Again, cx);
            true
        });
        self.timer = self.halves.values().map(|half| half.due).min();
    }

    /// Answers all half-open connections again.
    pub fn after_takeover(&mut self, cx: &mut Context<'_>) {
        for (tuple, half) in &mut self.halves {
            half.due = cx.now + FIRST_WAIT.times(1 << half.tries.min(RETRIES));
            half.answer(*tuple, Time::Again, cx);
        }
        self.timer = self.halves.values().map(|half| half.due).min();
    }

    /// Whether what was decoded hangs together.
    pub fn validate(&self) -> Result<(), &'static str> {
        let sane = self.halves.values().all(|half| {
            let agreed = &half.agreed;
            agreed.mss >= 32 && agreed.send_shift <= 14 && agreed.receive_shift <= 14 && half.tries <= RETRIES
        });
        if sane { Ok(()) } else { Err("impossible half-open connection") }
    }

    /// Connections that wait to be accepted.
    pub fn take_ready(&mut self) -> Vec<SocketId> {
        self.ready.drain(..).collect()
    }
}

/// The window in our answer to a SYN.
fn first_window(cx: &Context<'_>) -> u32 {
    cx.options.receive_buffer.min(u32::from(u16::MAX))
}

/// Which time something is said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Time {
    /// The peer does not know it yet.
    First,
    /// The peer may know it.
    Again,
}

impl Half {
    /// Sends our SYN with the acknowledgement of the peer's.
    fn answer(&self, tuple: Tuple, time: Time, cx: &mut Context<'_>) {
        let stamp = self.agreed.stamps.map(|stamps| stamps.now(cx.now));
        self.answer_with(tuple, stamp, time, cx);
    }

    /// Whether the peer speaks no more than the first RFC of TCP.
    fn is_old(&self) -> bool {
        let Agreed { stamps, sack, receive_shift, .. } = &self.agreed;
        stamps.is_none() && !sack && *receive_shift == 0
    }

    /// The same with a timestamp of our choice.
    fn answer_with(&self, tuple: Tuple, stamp: Option<u32>, time: Time, cx: &mut Context<'_>) {
        if !cx.link.has_room(tuple.remote.address) {
            return;
        }
        let mut header = segment::header(tuple, self.iss, Some(self.irs + 1));
        header.control = TcpControl::Syn;
        header.window_len = first_window(cx) as u16;
        // libslirp, which speaks for the host in the emulator's network of users, empties its buffers whenever it is told a
        // segment size: what it has sent meanwhile would never come again.
        let told = time == Time::First || !self.is_old();
        header.max_seg_size = told.then(|| mss_for(cx.link, cx.options, tuple));
        header.window_scale = (self.agreed.receive_shift > 0).then_some(SHIFT);
        header.sack_permitted = self.agreed.sack;
        if let (Some(stamps), Some(stamp)) = (self.agreed.stamps, stamp) {
            header.timestamp = segment::timestamp(stamp, stamps.recent);
        }
        segment::send(cx.link, cx.now, tuple, &header, (&[], &[]), segment::Extras::of(cx.options, tuple));
    }
}

impl Connection {
    /// Takes the time of the handshake as the first measure, if nothing was sent twice.
    fn rtt_of_half(&mut self, tries: u8, due: Nanos, now: Nanos) {
        if tries == 0 && due >= now {
            self.rtt.sample(FIRST_WAIT - (due - now));
        }
    }
}

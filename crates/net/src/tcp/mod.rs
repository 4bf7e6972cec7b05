//! TCP (RFC 9293) with window scaling, timestamps and PAWS (RFC 7323), selective acknowledgement (RFC 2018, 6675), New
//! Reno (RFC 5681, 6582) and the retransmission timer of RFC 6298. A connection is plain data.
mod congestion;
mod cookies;
mod input;
mod listen;
mod output;
mod reassembly;
mod rtt;
mod segment;
mod seq;
mod time_wait;
mod timers;
mod urgent;

pub(crate) use input::Answer;
pub(crate) use listen::{Listener, Verdict};
pub use segment::answers_opening;
pub(crate) use segment::{Segment, reset_for};
pub(crate) use seq::Seq;
pub(crate) use time_wait::TimeWait;

use crate::{
    endpoint::{Endpoint, Family, Tuple},
    link::Link,
    options::{Flags, Options, TcpInfo},
    ring::Ring,
    socket::{How, Message, More, Owner, Readiness, Take, Urgency},
};
use alloc::vec::Vec;
use congestion::Congestion;
use minicbor::{Decode, Encode};
use reassembly::Reassembly;
use rtt::Rtt;
use shimos_abi::{
    errno::Errno,
    flat,
    flat::{Flat, Source},
    time::Nanos,
};
use urgent::Urgent;

/// Bytes of a TCP header without options.
const HEADER: usize = 20;
/// Bytes the timestamp option takes, padded.
const STAMP: u16 = 12;
/// The shift of our windows: enough for the largest buffer a socket may have.
const SHIFT: u8 = 7;
/// The window told grows in steps of at least this many bytes, or half the buffer.
const MIN_STEP: u32 = 1448;
/// How long a closed connection is remembered, so that its last packets do not meet a new one.
const TIME_WAIT: Nanos = Nanos::secs(30);
/// How long a closed connection waits for its peer to close too.
const FIN_WAIT_2: Nanos = Nanos::secs(60);

/// When received data is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum AckMode {
    /// Every second segment, or after 40 ms.
    #[n(0)]
    Delayed,
    /// Every segment. For programs whose output is held until a checkpoint commits: the two delays would add up.
    #[n(1)]
    Immediate,
}

/// The state of a connection (RFC 9293). Listening is no state of a connection here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum State {
    /// Our SYN is not answered.
    #[n(0)]
    SynSent,
    /// Both SYNs crossed; ours is not acknowledged.
    #[n(1)]
    SynReceived,
    /// Data flows.
    #[n(2)]
    Established,
    /// We closed; our FIN is not acknowledged.
    #[n(3)]
    FinWait1,
    /// We closed; the peer has not.
    #[n(4)]
    FinWait2,
    /// The peer closed; we have not.
    #[n(5)]
    CloseWait,
    /// Both closed; our FIN is not acknowledged.
    #[n(6)]
    Closing,
    /// Both closed, the peer first; our FIN is not acknowledged.
    #[n(7)]
    LastAck,
    /// Both closed; late packets are waited for.
    #[n(8)]
    TimeWait,
    /// Over.
    #[n(9)]
    Closed,
}

impl State {
    /// All of them, by their number.
    const ALL: [State; 10] = [
        State::SynSent,
        State::SynReceived,
        State::Established,
        State::FinWait1,
        State::FinWait2,
        State::CloseWait,
        State::Closing,
        State::LastAck,
        State::TimeWait,
        State::Closed,
    ];
}

impl Flat for State {
    fn write(&self, to: &mut Vec<u8>) {
        to.push(*self as u8);
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<State> {
        State::ALL.get(usize::from(u8::read(from)?)).copied()
    }
}

/// What a connection works with besides itself.
pub(crate) struct Context<'a> {
    pub now: Nanos,
    pub link: &'a mut Link,
    pub options: &'a Options,
    pub owner: Owner,
    pub acks: AckMode,
    /// Set when the program must be told of a failure.
    pub error: Option<Errno>,
}

/// The timestamp option of one connection.
#[derive(Clone, Copy, Debug, Encode, Decode)]
pub(crate) struct Stamps {
    /// The peer's newest timestamp.
    #[n(0)]
    pub recent: u32,
    /// When it came.
    #[n(1)]
    pub at: Nanos,
    /// What our timestamps are ahead of the machine's clock: random, so that they do not tell how long it runs.
    #[n(2)]
    pub offset: u32,
}

flat!(Stamps { recent, at, offset });

impl Stamps {
    /// Our timestamp of now. The machine's clock never goes back, so this does not either, whichever kernel runs.
    pub fn now(&self, now: Nanos) -> u32 {
        stamp(now, self.offset)
    }

    /// Whether a segment with this timestamp is older than what came before (PAWS).
    fn is_old(&self, stamp: u32, now: Nanos) -> bool {
        const VALID: Nanos = Nanos::secs(24 * 24 * 3600);
        (stamp.wrapping_sub(self.recent) as i32) < 0 && now - self.at < VALID
    }
}

/// The timestamp of a moment, in milliseconds.
fn stamp(now: Nanos, offset: u32) -> u32 {
    ((now.0 / 1_000_000) as u32).wrapping_add(offset)
}

/// What the two ends agreed on when they said hello.
#[derive(Clone, Copy, Debug, Encode, Decode)]
pub(crate) struct Agreed {
    /// The largest payload we send.
    #[n(0)]
    pub mss: u16,
    /// Shift of the windows that the peer tells.
    #[n(1)]
    pub send_shift: u8,
    /// Shift of the windows that we tell.
    #[n(2)]
    pub receive_shift: u8,
    #[n(3)]
    pub sack: bool,
    #[n(4)]
    pub stamps: Option<Stamps>,
}

flat!(Agreed { mss, send_shift, receive_shift, sack, stamps });

/// When something is due.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct Timers {
    /// Sends again what is not acknowledged.
    #[n(0)]
    pub retransmit: Option<Nanos>,
    /// Asks whether a closed window has opened, or sends what was held back to be sent in one piece.
    #[n(1)]
    pub persist: Option<Nanos>,
    /// Acknowledges.
    #[n(2)]
    pub ack: Option<Nanos>,
    /// Asks whether the peer is still there.
    #[n(3)]
    pub keep: Option<Nanos>,
    /// Ends the connection.
    #[n(4)]
    pub end: Option<Nanos>,
}

flat!(Timers { retransmit, persist, ack, keep, end });

/// One connection.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Connection {
    #[n(0)]
    pub tuple: Tuple,
    #[n(1)]
    pub state: State,
    #[n(2)]
    pub agreed: Agreed,
    /// The oldest sequence number that is not acknowledged. While the state has data, the first byte of `send`.
    #[n(3)]
    pub una: Seq,
    /// The next sequence number to send for the first time.
    #[n(4)]
    pub nxt: Seq,
    /// Bytes from `una` on.
    #[n(5)]
    pub send: Ring,
    /// Nothing more will be sent after `send`.
    #[n(6)]
    pub fin_queued: bool,
    #[n(7)]
    pub fin_sent: bool,
    /// The peer's window, the largest it ever was, and the segment that told it.
    #[n(8)]
    pub window: u32,
    #[n(9)]
    pub max_window: u32,
    #[n(10)]
    pub wl1: Seq,
    #[n(11)]
    pub wl2: Seq,
    /// The next sequence number expected.
    #[n(12)]
    pub next: Seq,
    /// The end of the largest window we told.
    #[n(13)]
    pub edge: Seq,
    /// What was acknowledged last.
    #[n(14)]
    pub last_ack: Seq,
    #[n(15)]
    pub receive: Ring,
    /// What came before its turn.
    #[n(16)]
    pub early: Reassembly,
    /// Where the peer's stream ends, once it told.
    #[n(17)]
    pub fin_at: Option<Seq>,
    #[n(18)]
    pub fin_received: bool,
    /// The program will receive nothing more.
    #[n(19)]
    pub shut_read: bool,
    #[n(20)]
    pub congestion: Congestion,
    #[n(21)]
    pub rtt: Rtt,
    #[n(22)]
    pub timers: Timers,
    /// How often the oldest segment was sent again.
    #[n(23)]
    pub retries: u8,
    /// Unanswered probes of a closed window or of a silent peer.
    #[n(24)]
    pub probes: u8,
    /// When the peer was last heard.
    #[n(25)]
    pub heard: Nanos,
    /// When data was last sent.
    #[n(26)]
    pub sent: Nanos,
    /// The end of the last segment that was smaller than it could be (Nagle, as Minshall refined it).
    #[n(27)]
    pub small_end: Seq,
    /// Data segments not acknowledged yet.
    #[n(28)]
    pub unacked: u8,
    /// Data segments still to be acknowledged at once, because the peer's congestion window is small at first.
    #[n(29)]
    pub quick: u8,
    #[n(30)]
    pub ack_now: bool,
    /// When a segment that fits nowhere was last answered.
    #[n(31)]
    pub answered: Nanos,
    /// It was established once.
    #[n(32)]
    pub established: bool,
    /// The program knows that it is established.
    #[n(33)]
    pub told: bool,
    #[n(34)]
    pub total_retransmits: u32,
    /// It has something to send that the link had no room for.
    #[n(35)]
    pub blocked: bool,
    /// Something happened that a waiting program may want to know.
    #[cbor(skip)]
    pub event: bool,
    /// Urgent data of the peer.
    #[n(36)]
    pub urgent: Option<Urgent>,
    /// The end of our urgent data, while it is not acknowledged.
    #[n(37)]
    pub urgent_end: Option<Seq>,
    /// The program said that more follows: small pieces wait for it.
    #[cbor(n(38), default)]
    pub more: bool,
    /// Since when the oldest byte in flight waits to be acknowledged.
    #[n(39)]
    pub waiting_since: Option<Nanos>,
    /// What the network last said about packets that did not arrive.
    #[n(40)]
    pub soft_error: Option<Errno>,
    #[cbor(n(41), default)]
    pub acknowledged_bytes: u64,
    #[cbor(n(42), default)]
    pub received_bytes: u64,
    /// The largest segment received.
    #[cbor(n(43), default)]
    pub receive_mss: u16,
    /// The program is to be told by a signal of urgent data.
    #[cbor(skip)]
    pub signal: bool,
}

flat!(Connection { tuple, state, agreed, una, nxt, send, fin_queued, fin_sent, window, max_window, wl1, wl2, next, edge, last_ack, receive, early, fin_at, fin_received, shut_read, congestion, rtt, timers, retries, probes, heard, sent, small_end, unacked, quick, ack_now, answered, established, told, total_retransmits, blocked, urgent, urgent_end, more, waiting_since, soft_error, acknowledged_bytes, received_bytes, receive_mss; event, signal });

/// What a connection that is read takes the place of.
impl Default for Connection {
    #[inline(always)]
    fn default() -> Connection {
        let nowhere = Endpoint::new(Family::V4.unspecified(), 0);
        let agreed = Agreed { mss: 0, send_shift: 0, receive_shift: 0, sack: false, stamps: None };
        let tuple = Tuple { local: nowhere, remote: nowhere };
        Connection::new(tuple, State::Closed, agreed, Seq(0), Seq(0), Nanos(0))
    }
}

/// The largest segment that fits into packets to the peer.
pub(crate) fn mss_for(link: &Link, options: &Options, tuple: Tuple) -> u16 {
    let path = link.mss(tuple.remote.address);
    match options.stream.max_segment {
        0 => path,
        asked => path.min(asked),
    }
}

impl Connection {
    /// A connection with nothing sent and nothing received.
    pub fn new(tuple: Tuple, state: State, agreed: Agreed, iss: Seq, irs: Seq, now: Nanos) -> Connection {
        let first = iss + 1;
        let next = irs + 1;
        Connection {
            tuple,
            state,
            agreed,
            una: iss,
            nxt: first,
            send: Ring::default(),
            fin_queued: false,
            fin_sent: false,
            window: 0,
            max_window: 0,
            wl1: irs,
            wl2: iss,
            next,
            edge: next,
            last_ack: next,
            receive: Ring::default(),
            early: Reassembly::default(),
            fin_at: None,
            fin_received: false,
            shut_read: false,
            congestion: Congestion::new(agreed.mss),
            rtt: Rtt::new(),
            timers: Timers::default(),
            retries: 0,
            probes: 0,
            heard: now,
            sent: now,
            small_end: iss,
            unacked: 0,
            quick: 16,
            ack_now: false,
            answered: Nanos::default(),
            established: false,
            told: false,
            total_retransmits: 0,
            event: false,
            blocked: false,
            urgent: None,
            urgent_end: None,
            more: false,
            waiting_since: None,
            soft_error: None,
            acknowledged_bytes: 0,
            received_bytes: 0,
            receive_mss: 536,
            signal: false,
        }
    }

    /// Begins a connection by sending a SYN.
    pub fn connect(tuple: Tuple, iss: Seq, offset: u32, cx: &mut Context<'_>) -> Connection {
        let agreed = Agreed {
            mss: mss_for(cx.link, cx.options, tuple),
            send_shift: 0,
            receive_shift: 0,
            sack: false,
            stamps: Some(Stamps { recent: 0, at: cx.now, offset }),
        };
        let mut connection = Connection::new(tuple, State::SynSent, agreed, iss, Seq(0), cx.now);
        connection.send_syn(cx);
        connection.timers.retransmit = Some(cx.now + connection.rtt.rto());
        connection
    }

    /// The sequence number after the last byte the program gave.
    fn data_end(&self) -> Seq {
        self.una + self.send.len() as u32
    }

    /// Bytes the program gave that were never sent.
    fn unsent(&self) -> u32 {
        if self.fin_sent { 0 } else { self.data_end().since(self.nxt).max(0) as u32 }
    }

    fn has_data_state(&self) -> bool {
        !matches!(self.state, State::SynSent | State::SynReceived | State::TimeWait | State::Closed)
    }

    /// How many bytes to send can be taken.
    pub fn room(&self, options: &Options) -> Result<usize, Errno> {
        match self.state {
            State::SynSent | State::SynReceived => Err(Errno::EAGAIN),
            State::Established | State::CloseWait if !self.fin_queued => {
                Ok((options.send_buffer as usize).saturating_sub(self.send.len()))
            }
            _ => Err(Errno::EPIPE),
        }
    }

    /// Takes bytes to send.
    pub fn write(&mut self, message: &Message<'_>, cx: &mut Context<'_>) -> Result<usize, Errno> {
        let room = self.room(cx.options)?;
        let bytes = message.bytes.get(..room).unwrap_or(message.bytes);
        if bytes.is_empty() {
            return if room == 0 { Err(Errno::EAGAIN) } else { Ok(0) };
        }
        self.send.push(bytes);
        self.more = message.more == More::Follows;
        if message.urgent == Urgency::Urgent && bytes.len() == message.bytes.len() {
            self.urgent_end = Some(self.data_end());
            self.small_end = self.una;
        }
        self.output(cx);
        Ok(bytes.len())
    }

    /// Gives bytes received. `None`: there is nothing now.
    pub fn read(&mut self, into: &mut [u8], take: Take, cx: &mut Context<'_>) -> Option<usize> {
        let inline = cx.options.has(Flags::OUT_OF_BAND_INLINE);
        let room = self.before_mark(inline, take);
        if self.receive.is_empty() {
            let ended = self.fin_received || self.shut_read || self.state == State::Closed;
            return ended.then_some(0);
        }
        let most = into.len().min(room);
        let start = if take == Take::Peek { cx.options.general.peek_at.unwrap_or(0) as usize } else { 0 };
        let copied = self.receive.copy(start, into.get_mut(..most).unwrap_or(&mut []));
        if take == Take::Consume {
            self.consume(copied, cx);
        }
        Some(copied)
    }

    /// The program has taken the first `count` bytes received.
    pub fn consume(&mut self, count: usize, cx: &mut Context<'_>) {
        self.receive.skip(count);
        self.forget_passed_mark();
        self.tell_window(cx);
    }

    /// Something that matters to a connection was set.
    pub fn settings_changed(&mut self, cx: &mut Context<'_>) {
        if cx.options.has(Flags::NO_QUICK_ACK) {
            self.quick = 0;
        }
        let asked = cx.options.stream.max_segment;
        if asked != 0 && asked < self.agreed.mss {
            self.shrink(asked);
        }
    }

    /// Segments must be smaller from now on.
    fn shrink(&mut self, mss: u16) {
        self.agreed.mss = mss.max(32);
        self.congestion.shrink(self.agreed.mss);
    }

    /// Closes one direction or both.
    pub fn shutdown(&mut self, how: How, cx: &mut Context<'_>) {
        if how != How::Write {
            self.shut_read = true;
        }
        if how != How::Read && !self.fin_queued {
            match self.state {
                State::Established => self.state = State::FinWait1,
                State::CloseWait => self.state = State::LastAck,
                State::SynSent | State::SynReceived => return self.abort(cx),
                _ => return,
            }
            self.fin_queued = true;
            self.output(cx);
        }
        self.event = true;
    }

    /// Whether something was received that was not read.
    pub fn has_input(&self) -> bool {
        !self.receive.is_empty()
    }

    /// Ends the connection for a program that has closed it.
    pub fn close(&mut self, cx: &mut Context<'_>) {
        if !self.receive.is_empty() || cx.options.linger == Some(0) {
            // The peer must learn that what it sent was not read (RFC 2525, 2.17).
            return self.abort(cx);
        }
        self.shutdown(How::Both, cx);
        if self.state == State::FinWait2 {
            self.wait_for_fin(cx);
        }
    }

    /// Nobody has it any more and the peer has not closed yet: how long that may take.
    fn wait_for_fin(&mut self, cx: &mut Context<'_>) {
        match cx.options.stream.linger2 {
            Some(seconds) if seconds < 0 => self.abort(cx),
            Some(seconds) => self.timers.end = Some(cx.now + Nanos::secs(seconds as u64)),
            None => self.timers.end = Some(cx.now + FIN_WAIT_2),
        }
    }

    /// Resets the connection.
    pub fn abort(&mut self, cx: &mut Context<'_>) {
        if !matches!(self.state, State::SynSent | State::TimeWait | State::Closed) {
            self.send_reset(cx);
        }
        self.end();
    }

    /// The connection is over.
    fn end(&mut self) {
        self.state = State::Closed;
        self.send.clear();
        self.early = Reassembly::default();
        self.una = self.nxt;
        self.congestion.forget();
        self.timers = Timers::default();
        self.event = true;
    }

    /// The connection failed.
    pub(crate) fn fail(&mut self, error: Errno, cx: &mut Context<'_>) {
        use crate::counters::count;
        let error = if error == Errno::ETIMEDOUT { self.soft_error.unwrap_or(error) } else { error };
        cx.error = Some(error);
        if self.established {
            count(&mut cx.link.counters.tcp_reset);
        } else {
            count(&mut cx.link.counters.tcp_failed);
        }
        self.end();
    }

    fn enter_time_wait(&mut self, now: Nanos) {
        self.state = State::TimeWait;
        self.timers = Timers { ack: self.timers.ack, end: Some(now + TIME_WAIT), ..Timers::default() };
    }

    /// What can be done with it now.
    pub fn readiness(&self, options: &Options) -> Readiness {
        if matches!(self.state, State::SynSent | State::SynReceived) {
            return Readiness::empty();
        }
        let closed = self.state == State::Closed;
        let read_closed = self.fin_received || self.shut_read || closed;
        let write_closed = self.fin_queued || closed;
        let mut ready = Readiness::empty();
        let readable = self.readable(options);
        ready.set(Readiness::READABLE, read_closed || (readable > 0 && readable >= options.receive_low()));
        ready.set(Readiness::URGENT, self.has_urgent());
        ready.set(Readiness::WRITABLE, write_closed || self.has_room(options));
        ready.set(Readiness::READ_CLOSED, read_closed);
        ready.set(Readiness::HANGUP, read_closed && write_closed);
        ready
    }

    /// Whether a writer is told to go on. Waking it for a few bytes costs more than it gains: as on Linux, a third must be free.
    pub(super) fn has_room(&self, options: &Options) -> bool {
        let used = self.send.len();
        let room = (options.send_buffer as usize).saturating_sub(used);
        let few_unsent = options.stream.unsent_low.is_none_or(|low| self.unsent() < low);
        few_unsent && room >= used.div_ceil(2).max(1)
    }

    /// Its figures.
    pub fn info(&self) -> TcpInfo {
        let stamps = u8::from(self.agreed.stamps.is_some());
        let scaled = u8::from(self.agreed.receive_shift > 0);
        TcpInfo {
            state: self.state,
            retransmits: self.retries,
            probes: self.probes,
            backoff: self.retries,
            options: stamps | u8::from(self.agreed.sack) << 1 | scaled << 2,
            shifts: (self.agreed.send_shift, self.agreed.receive_shift),
            rto: self.rtt.rto(),
            ato: output::DELAYED_ACK,
            rtt: self.rtt.smoothed(),
            rtt_variance: self.rtt.variance(),
            congestion_window: self.congestion.window(),
            threshold: self.congestion.threshold(),
            unacknowledged: self.nxt.since(self.una).max(0) as u32,
            unsent: self.unsent(),
            send_mss: self.agreed.mss,
            receive_mss: self.receive_mss,
            total_retransmits: self.total_retransmits,
            lost: self.congestion.lost_bytes(self.una, self.nxt),
            last: (self.sent, self.heard),
            receive_window: self.edge.since(self.next).max(0) as u32,
            send_window: self.window,
            acknowledged_bytes: self.acknowledged_bytes,
            received_bytes: self.received_bytes,
        }
    }

    /// Whether what was decoded hangs together.
    pub fn validate(&self) -> Result<(), &'static str> {
        let flying = self.nxt.since(self.una);
        let most = self.send.len() as i64 + 1;
        if flying < 0 || i64::from(flying) > most {
            return Err("more in flight than there is");
        }
        if self.send.len() > 1 << 28 || self.receive.len() > 1 << 28 {
            return Err("a buffer beyond all limits");
        }
        if self.agreed.mss < 32 || self.agreed.send_shift > 14 || self.agreed.receive_shift > 14 {
            return Err("impossible agreement");
        }
        if self.edge.since(self.next) < 0 && self.state != State::Closed && !self.fin_received {
            return Err("window behind the stream");
        }
        self.early.validate(self.next)?;
        self.congestion.validate(self.una, self.nxt)?;
        self.rtt.validate()
    }
}

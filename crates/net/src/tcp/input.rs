//! What a connection does with a segment that belongs to it (RFC 9293, 3.10.7).
use super::{Agreed, Connection, Context, SHIFT, STAMP, Seq, Stamps, State, TIME_WAIT, segment::Segment};
use crate::{counters::count, icmp::Refusal, options::Flags, socket::Owner};
use shimos_abi::{errno::Errno, time::Nanos};

/// A segment that fits nowhere is answered no more often than this, so that two confused ends do not keep each other busy.
const ANSWER_EVERY: Nanos = Nanos::millis(100);
/// The smallest segment size of a peer that is believed.
const LEAST_MSS: u16 = 88;

/// Segments that came together are acknowledged together, but not more than these: the peer is to send on meanwhile.
const STRETCH: u8 = 8;

/// Whether what follows from a segment was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Given,
    /// [`Connection::output`] is still to be called.
    Waits,
}

/// What the options of a SYN and our own say together.
pub(super) fn agree(syn: &Segment<'_>, most: u16, offset: u32, now: Nanos) -> Agreed {
    let stamps = syn.stamp.map(|(recent, _)| Stamps { recent, at: now, offset });
    let mss = syn.mss.unwrap_or(536).clamp(LEAST_MSS, most.max(LEAST_MSS)) - if stamps.is_some() { STAMP } else { 0 };
    Agreed {
        mss,
        send_shift: syn.shift.unwrap_or(0).min(14),
        receive_shift: if syn.shift.is_some() { SHIFT } else { 0 },
        sack: syn.sack_permitted,
        stamps,
    }
}

impl Connection {
    /// Deals with a segment and sends what follows from it.
    pub fn input(&mut self, segment: &Segment<'_>, cx: &mut Context<'_>) {
        self.take(segment, cx);
        if self.state != State::Closed {
            self.output(cx);
        }
    }

    /// Deals with one segment of several that came together, and leaves the answer to the last of them. Returns whether it
    /// could: where something is missing, ends or begins, each segment has its own answer.
    pub fn input_one_of(&mut self, segment: &Segment<'_>, cx: &mut Context<'_>) -> Answer {
        let before = self.next;
        let plain = self.state == State::Established && !segment.is_syn() && !segment.is_fin() && !segment.is_reset();
        self.take(segment, cx);
        let goes_on = self.early.is_empty() && self.quick == 0 && self.unacked < STRETCH && !self.congestion.repairs();
        let expected = segment.payload.is_empty() && !self.ack_now || self.next != before;
        if plain && self.state == State::Established && goes_on && expected {
            return Answer::Waits;
        }
        if self.state != State::Closed {
            self.output(cx);
        }
        Answer::Given
    }

    fn take(&mut self, segment: &Segment<'_>, cx: &mut Context<'_>) {
        match self.state {
            State::Closed => {}
            State::SynSent => self.input_syn_sent(segment, cx),
            _ => self.input_synchronized(segment, cx),
        }
    }

    fn input_syn_sent(&mut self, segment: &Segment<'_>, cx: &mut Context<'_>) {
        let acceptable = segment.ack == Some(self.nxt);
        if segment.ack.is_some() && !acceptable {
            return super::reset_for(segment, cx.link, cx.now);
        }
        if segment.is_reset() {
            if acceptable {
                self.fail(Errno::ECONNREFUSED, cx);
            }
            return;
        }
        if !segment.is_syn() {
            return;
        }
        let offset = self.agreed.stamps.map_or(0, |stamps| stamps.offset);
        self.agreed = agree(segment, super::mss_for(cx.link, cx.options, self.tuple), offset, cx.now);
        self.congestion.set_mss(self.agreed.mss);
        let window_told = self.edge.since(self.next).max(0) as u32;
        self.next = segment.seq + 1;
        self.last_ack = self.next;
        self.edge = self.next + window_told;
        self.set_window(segment, u32::from(segment.window));
        self.heard = cx.now;
        if acceptable {
            let sent = self.sent;
            self.become_established(cx);
            if self.retries == 0 {
                self.rtt.sample(cx.now - sent);
            }
            self.retries = 0;
            self.ack_now = true;
            self.receive_data(segment.seq + 1, segment, cx);
        } else {
            self.state = State::SynReceived;
            self.send_syn(cx);
        }
    }

    /// Our SYN is acknowledged.
    pub(super) fn become_established(&mut self, cx: &Context<'_>) {
        self.state = State::Established;
        self.established = true;
        self.una = self.nxt;
        self.small_end = self.nxt;
        self.timers.retransmit = None;
        self.heard = cx.now;
        self.event = true;
    }

    fn set_window(&mut self, segment: &Segment<'_>, window: u32) {
        if window > self.window {
            self.probes = 0;
            self.timers.persist = None;
        }
        self.window = window;
        self.max_window = self.max_window.max(window);
        self.wl1 = segment.seq;
        self.wl2 = segment.ack.unwrap_or(self.wl2);
    }

    /// Answers a segment that fits nowhere.
    fn answer(&mut self, cx: &mut Context<'_>) {
        if cx.now - self.answered >= ANSWER_EVERY || self.answered == Nanos::default() {
            count(&mut cx.link.counters.challenges);
            self.answered = cx.now;
            self.ack_now = true;
        }
    }

    fn input_synchronized(&mut self, segment: &Segment<'_>, cx: &mut Context<'_>) {
        let old = match (self.agreed.stamps, segment.stamp) {
            (Some(stamps), Some((stamp, _))) => stamps.is_old(stamp, cx.now),
            _ => false,
        };
        if old {
            count(&mut cx.link.counters.paws);
        }
        let fits = !old && !segment.end().before(self.next) && !segment.seq.after(self.edge.max(self.next));
        let repeats = segment.end() == self.next && segment.end() != segment.seq;
        if segment.is_reset() {
            // PAWS does not protect against resets; the exact number does (RFC 5961).
            if segment.seq == self.next {
                self.receive_reset(cx);
            } else if fits {
                self.answer(cx);
            }
            return;
        }
        if segment.is_syn() {
            return self.answer(cx);
        }
        if !fits || repeats {
            if segment.payload.is_empty() && !segment.is_fin() {
                self.answer(cx);
            } else {
                // It was received before: the peer must have missed the acknowledgement.
                self.ack_now = true;
            }
            if self.state == State::TimeWait && segment.is_fin() {
                self.timers.end = Some(cx.now + TIME_WAIT);
            }
            return;
        }
        let Some(ack) = segment.ack else { return };
        if ack.after(self.nxt) || ack.before(self.una.back(self.max_window.max(65535))) {
            return self.answer(cx);
        }
        if self.state == State::SynReceived {
            if ack != self.nxt {
                return super::reset_for(segment, cx.link, cx.now);
            }
            self.become_established(cx);
            self.set_window(segment, u32::from(segment.window) << self.agreed.send_shift);
        }
        self.heard = cx.now;
        if self.timers.persist.is_none() {
            self.probes = 0;
        }
        if let (Some(stamps), Some((stamp, _))) = (&mut self.agreed.stamps, segment.stamp)
            && !segment.seq.after(self.last_ack)
        {
            stamps.recent = stamp;
            stamps.at = cx.now;
        }
        self.receive_ack(ack, segment, cx);
        if self.state != State::Closed {
            self.receive_data(segment.seq, segment, cx);
        }
    }

    /// The network says that something sent did not arrive. Only what quotes a number in flight is believed (RFC 5927).
    pub fn refused(&mut self, refusal: &Refusal<'_>, cx: &mut Context<'_>) {
        let seq = Seq(refusal.seq);
        if seq.before(self.una) || !seq.before(self.nxt) {
            return;
        }
        if let Some(mtu) = refusal.mtu {
            let address = self.tuple.remote.address;
            cx.link.narrow(cx.now, address, mtu);
            let stamp = if self.agreed.stamps.is_some() { STAMP } else { 0 };
            let mss = super::mss_for(cx.link, cx.options, self.tuple).saturating_sub(stamp);
            if mss < self.agreed.mss && self.has_data_state() {
                self.shrink(mss);
                self.congestion.resend(self.una, self.nxt);
                self.output(cx);
            }
            return;
        }
        match self.state {
            // Once established, the connection tries on: the network may recover (RFC 1122, 4.2.3.9).
            State::SynSent | State::SynReceived => self.fail(refusal.error, cx),
            _ => {
                let tells = match self.tuple.remote.address {
                    core::net::IpAddr::V4(_) => Flags::ERRORS4,
                    core::net::IpAddr::V6(_) => Flags::ERRORS6,
                };
                if cx.options.has(tells) {
                    cx.error = Some(refusal.error);
                    self.event = true;
                } else {
                    self.soft_error = Some(refusal.error);
                }
            }
        }
    }

    fn receive_reset(&mut self, cx: &mut Context<'_>) {
        match self.state {
            State::SynReceived => self.fail(Errno::ECONNREFUSED, cx),
            State::TimeWait => self.end(),
            State::CloseWait => self.fail(Errno::EPIPE, cx),
            _ => self.fail(Errno::ECONNRESET, cx),
        }
    }

    fn receive_ack(&mut self, ack: Seq, segment: &Segment<'_>, cx: &mut Context<'_>) {
        let before = self.congestion.pipe(self.una, self.nxt);
        if self.agreed.sack {
            for (start, end) in segment.sacks.iter().flatten() {
                let (start, end) = (Seq(*start), Seq(*end));
                // Blocks below the acknowledged are reports of duplicates (RFC 2883).
                if start.after(self.una) && start.after(ack) && end.after(start) && !end.after(self.nxt) {
                    self.congestion.sack(start, end);
                }
            }
        }
        let window = u32::from(segment.window) << self.agreed.send_shift;
        let same_window = window == self.window;
        if self.wl1.before(segment.seq) || (self.wl1 == segment.seq && !ack.before(self.wl2)) {
            self.set_window(segment, window);
        }
        if ack.after(self.una) {
            self.advance(ack, segment, before, cx);
        } else if ack == self.una
            && self.una != self.nxt
            && segment.payload.is_empty()
            && !segment.is_fin()
            && same_window
        {
            self.congestion.duplicate();
            if window == 0 {
                // The peer lives and has no room: that is no failure, however long it takes.
                self.retries = self.retries.min(3);
            }
        }
        if self.has_data_state() {
            self.congestion.check_loss(self.una, self.nxt);
        }
    }

    /// `ack` acknowledges something new.
    fn advance(&mut self, ack: Seq, segment: &Segment<'_>, before: u32, cx: &mut Context<'_>) {
        let acked = ack.since(self.una).max(0) as u32;
        let fin = self.fin_sent && ack == self.nxt;
        let had_room = self.has_room(cx.options);
        self.send.skip((acked - u32::from(fin)) as usize);
        self.una = ack;
        self.acknowledged_bytes = self.acknowledged_bytes.wrapping_add(u64::from(acked - u32::from(fin)));
        self.waiting_since = (self.una != self.nxt).then_some(cx.now);
        self.soft_error = None;
        if self.urgent_end.is_some_and(|end| !end.after(ack)) {
            self.urgent_end = None;
        }
        let echoed = match (self.agreed.stamps, segment.stamp) {
            (Some(stamps), Some((_, echo))) if echo != 0 => {
                let elapsed = stamps.now(cx.now).wrapping_sub(echo) as i32;
                u64::try_from(elapsed).ok().map(Nanos::millis).filter(|rtt| *rtt < Nanos::secs(600))
            }
            _ => None,
        };
        let timed = self.rtt.acknowledged(ack, cx.now);
        // Our own measure is finer than a millisecond, the echo is right for what was sent again.
        if let Some(rtt) = timed.or(echoed) {
            self.rtt.sample(rtt);
        }
        self.congestion.acknowledged(ack, acked, before);
        self.retries = 0;
        self.timers.retransmit = None;
        // Who watches for room is told when there is room again, not at every acknowledgement.
        self.event |= !had_room && self.has_room(cx.options);
        if !fin {
            return;
        }
        // Who has closed it may wait for that.
        self.event = true;
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                if cx.owner == Owner::Nobody {
                    self.wait_for_fin(cx);
                }
            }
            State::Closing => self.enter_time_wait(cx.now),
            State::LastAck => self.end(),
            _ => {}
        }
    }

    /// Takes the payload, which begins at `seq`, and the FIN.
    fn receive_data(&mut self, seq: Seq, segment: &Segment<'_>, cx: &mut Context<'_>) {
        if !matches!(self.state, State::Established | State::FinWait1 | State::FinWait2) {
            return;
        }
        let end = seq + segment.payload.len() as u32;
        if cx.owner == Owner::Nobody && end.after(self.next) {
            // There is nobody left to read it (RFC 1122, 4.2.2.13).
            return self.abort(cx);
        }
        if let Some(pointer) = segment.urgent {
            self.note_urgent(seq, pointer);
        }
        if !segment.payload.is_empty() {
            self.receive_mss = self.receive_mss.max(segment.payload.len().min(65535) as u16);
            let old = self.next.since(seq).max(0) as usize;
            let room = self.edge.since(seq).max(0) as usize;
            let fresh = segment.payload.get(..room).unwrap_or(segment.payload).get(old..).unwrap_or(&[]);
            let start = seq.max(self.next);
            if fresh.is_empty() {
                self.ack_now = true;
            } else if start == self.next {
                self.receive.push(fresh);
                self.next = self.next + fresh.len() as u32;
                self.received_bytes = self.received_bytes.wrapping_add(fresh.len() as u64);
                if !self.early.is_empty() {
                    self.next = self.early.drain(self.next, &mut self.receive);
                    self.ack_now = true;
                }
                self.unacked = self.unacked.saturating_add(1);
                self.take_urgent_byte();
                if self.unacked >= 2 || self.quick > 0 || cx.acks == super::AckMode::Immediate {
                    self.ack_now = true;
                }
                self.event = true;
            } else {
                self.early.insert(start, fresh);
                self.ack_now = true;
            }
        }
        if segment.is_fin() && !end.after(self.edge) {
            self.fin_at = Some(end);
            self.ack_now = true;
        }
        if self.fin_at == Some(self.next) && !self.fin_received {
            self.receive_fin(cx);
        }
    }

    fn receive_fin(&mut self, cx: &Context<'_>) {
        self.next = self.next + 1;
        self.edge = self.edge.max(self.next);
        self.fin_received = true;
        self.ack_now = true;
        self.event = true;
        match self.state {
            State::Established => self.state = State::CloseWait,
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => self.enter_time_wait(cx.now),
            _ => {}
        }
    }
}

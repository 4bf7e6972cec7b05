//! What a connection sends, and when.
use super::{AckMode, Connection, Context, HEADER, MIN_STEP, Seq, State, mss_for, rtt, segment};
use crate::{counters::count, options::Flags};
use segment::Extras;
use shimos_abi::time::Nanos;
use smoltcp::wire::{TcpControl, TcpRepr};

/// How long an acknowledgement may wait for something to go with it.
pub(super) const DELAYED_ACK: Nanos = Nanos::millis(40);
/// How long a corked or otherwise held back piece may wait for more.
const CORKED: Nanos = Nanos::millis(200);

/// Bytes that may wait to be received: the buffer, within the limit of the window.
fn receive_room(cx: &Context<'_>) -> u32 {
    match cx.options.stream.window_clamp {
        0 => cx.options.receive_buffer,
        clamp => cx.options.receive_buffer.min(clamp),
    }
}

impl Connection {
    /// Sends all that may be sent now, and sets the timers that follow.
    pub fn output(&mut self, cx: &mut Context<'_>) {
        self.blocked = false;
        if self.has_data_state() {
            if self.una == self.nxt && cx.now - self.sent > self.rtt.rto() {
                self.congestion.restart();
            }
            loop {
                if !cx.link.has_room(self.tuple.remote.address) {
                    self.blocked = true;
                    break;
                }
                if !self.send_next(cx) {
                    break;
                }
            }
        }
        if self.ack_now && !self.blocked {
            self.send_ack(cx);
        }
        // Who is told to write only while little is unsent is to look again.
        self.event |= cx.options.stream.unsent_low.is_some();
        self.set_timers(cx);
    }

    /// Sends one segment, if one may be sent: first what was lost, then what is new.
    fn send_next(&mut self, cx: &mut Context<'_>) -> bool {
        let pipe = self.congestion.pipe(self.una, self.nxt);
        if let Some((seq, length)) = self.congestion.lost(self.una, self.nxt) {
            if !self.congestion.force && pipe > 0 && pipe + length > self.congestion.window() {
                return false;
            }
            self.send_again(seq, length, cx);
            self.congestion.sent_again(seq + length);
            return true;
        }
        let unsent = self.unsent();
        let usable = (self.una + self.window).since(self.nxt).max(0) as u32;
        let mss = u32::from(self.agreed.mss);
        let length = unsent.min(usable).min(mss);
        let fin = self.fin_queued && !self.fin_sent && length == unsent;
        if length == 0 && !fin {
            return false;
        }
        if length < mss && !fin {
            if length < unsent {
                // The window cuts the segment short. Small pieces are not worth it (silly windows): the window will grow.
                if length < self.max_window / 2 {
                    return false;
                }
            } else if cx.options.has(Flags::CORK)
                || self.more
                || (!cx.options.has(Flags::NO_DELAY) && self.small_end.after(self.una))
            {
                return false;
            }
        }
        if pipe > 0 && pipe + length > self.congestion.window() {
            return false;
        }
        self.send_new(length, cx);
        true
    }

    /// Sends `length` bytes for the first time, with the FIN if it is their turn.
    pub(super) fn send_new(&mut self, length: u32, cx: &mut Context<'_>) {
        let fin = self.fin_queued && !self.fin_sent && length == self.unsent();
        let start = self.nxt;
        self.fin_sent |= fin;
        self.nxt = start + length + u32::from(fin);
        if length < u32::from(self.agreed.mss) && !fin {
            self.small_end = self.nxt;
        }
        self.sent = cx.now;
        if start == self.una {
            self.waiting_since = Some(cx.now);
        }
        self.rtt.sent(self.nxt, cx.now);
        self.send_piece(start, length, cx);
    }

    /// Sends a piece of the flight again.
    pub(super) fn send_again(&mut self, seq: Seq, length: u32, cx: &mut Context<'_>) {
        self.rtt.retransmitted();
        self.total_retransmits = self.total_retransmits.saturating_add(1);
        count(&mut cx.link.counters.tcp_sent_again);
        self.send_piece(seq, length, cx);
    }

    /// Sends `length` sequence numbers from `seq` on; the last may be the FIN.
    fn send_piece(&mut self, seq: Seq, length: u32, cx: &mut Context<'_>) {
        let offset = seq.since(self.una).max(0) as usize;
        let bytes = (self.send.len().saturating_sub(offset)).min(length as usize);
        let end = seq + bytes as u32;
        let mut header = self.header(seq, cx);
        if self.fin_sent && end == self.data_end() {
            header.control = TcpControl::Fin;
        } else if bytes > 0 && end == self.data_end() {
            header.control = TcpControl::Psh;
        }
        // Data has precedence: blocks go along only if the packet does not get too long.
        header.sack_ranges = self.blocks();
        let most = usize::from(cx.link.mss(self.tuple.remote.address)) + HEADER;
        if header.header_len() + bytes > most {
            header.sack_ranges = [None; 3];
        }
        let mut extras = Extras::of(cx.options, self.tuple);
        if let Some(end) = self.urgent_end {
            extras.urgent = u16::try_from(end.since(seq)).ok().filter(|distance| *distance > 0);
        }
        segment::send(cx.link, cx.now, self.tuple, &header, self.send.range(offset, bytes), extras);
        self.acknowledged();
    }

    fn blocks(&self) -> [Option<(u32, u32)>; 3] {
        if self.agreed.sack && !self.early.is_empty() { self.early.blocks() } else { [None; 3] }
    }

    /// The header of every segment after the first.
    fn header(&mut self, seq: Seq, cx: &Context<'_>) -> TcpRepr<'static> {
        let mut header = segment::header(self.tuple, seq, Some(self.next));
        header.window_len = self.tell(cx);
        header.timestamp = self.agreed.stamps.and_then(|s| segment::timestamp(s.now(cx.now), s.recent));
        header
    }

    /// Notes that everything received is acknowledged now.
    fn acknowledged(&mut self) {
        self.last_ack = self.next;
        self.ack_now = false;
        self.timers.ack = None;
        self.quick = self.quick.saturating_sub(self.unacked);
        self.unacked = 0;
    }

    /// Sends an acknowledgement without data.
    pub(super) fn send_ack(&mut self, cx: &mut Context<'_>) {
        // After the last data the number is the one the peer waits for, whatever is still on its way.
        let mut header = self.header(self.nxt, cx);
        header.sack_ranges = self.blocks();
        segment::send(cx.link, cx.now, self.tuple, &header, (&[], &[]), Extras::of(cx.options, self.tuple));
        self.acknowledged();
    }

    /// Sends a segment the peer must answer, because it lies before what it expects.
    pub(super) fn send_probe(&mut self, cx: &mut Context<'_>) {
        let header = self.header(self.una.back(1), cx);
        segment::send(cx.link, cx.now, self.tuple, &header, (&[], &[]), Extras::of(cx.options, self.tuple));
        self.acknowledged();
    }

    pub(super) fn send_reset(&mut self, cx: &mut Context<'_>) {
        let mut header = segment::header(self.tuple, self.nxt, Some(self.next));
        header.control = TcpControl::Rst;
        count(&mut cx.link.counters.tcp_resets_sent);
        segment::send(cx.link, cx.now, self.tuple, &header, (&[], &[]), Extras::of(cx.options, self.tuple));
    }

    /// Sends the SYN, or the SYN that answers one that crossed it.
    pub(super) fn send_syn(&mut self, cx: &mut Context<'_>) {
        let answer = (self.state == State::SynReceived).then_some(self.next);
        let mut header = segment::header(self.tuple, self.nxt.back(1), answer);
        header.control = TcpControl::Syn;
        header.max_seg_size = Some(mss_for(cx.link, cx.options, self.tuple));
        header.window_scale = (answer.is_none() || self.agreed.receive_shift > 0).then_some(super::SHIFT);
        header.sack_permitted = answer.is_none() || self.agreed.sack;
        header.timestamp = self.agreed.stamps.and_then(|s| segment::timestamp(s.now(cx.now), s.recent));
        header.window_len = receive_room(cx).min(65535) as u16;
        self.edge = self.next + u32::from(header.window_len);
        segment::send(cx.link, cx.now, self.tuple, &header, (&[], &[]), Extras::of(cx.options, self.tuple));
    }

    /// The largest window that a header can tell.
    fn most(&self) -> u32 {
        u32::from(u16::MAX) << self.agreed.receive_shift
    }

    /// How much further the window told last can be opened.
    fn growth(&self, cx: &Context<'_>) -> u32 {
        let free = (receive_room(cx) as usize).saturating_sub(self.receive.len()).min(self.most() as usize) as u32;
        let told = self.edge.since(self.next).max(0) as u32;
        free.saturating_sub(told)
    }

    /// The window to tell, as it goes into the header. Its end never moves back, and forward only by steps worth it.
    fn tell(&mut self, cx: &Context<'_>) -> u16 {
        let growth = self.growth(cx);
        if growth >= MIN_STEP.min(receive_room(cx) / 2).max(1) {
            let window = self.edge.since(self.next).max(0) as u32 + growth;
            let told = window.min(self.most()) >> self.agreed.receive_shift << self.agreed.receive_shift;
            self.edge = self.edge.max(self.next + told);
        }
        let window = self.edge.since(self.next).max(0) as u32 >> self.agreed.receive_shift;
        window.min(u32::from(u16::MAX)) as u16
    }

    /// The program has read: tells the peer if that opens the window notably.
    pub(super) fn tell_window(&mut self, cx: &mut Context<'_>) {
        if !self.has_data_state() || self.fin_received {
            return;
        }
        let told = self.edge.since(self.next).max(0) as u32;
        let buffer = receive_room(cx).min(self.most());
        let step = (2 * u32::from(self.agreed.mss)).min(buffer / 2);
        if told < buffer / 2 && self.growth(cx) >= step && cx.link.has_room(self.tuple.remote.address) {
            self.send_ack(cx);
        }
    }

    /// Sets the timers that follow from the state.
    fn set_timers(&mut self, cx: &Context<'_>) {
        if self.unacked > 0 && self.timers.ack.is_none() {
            let delay = if cx.acks == AckMode::Immediate { Nanos(0) } else { DELAYED_ACK };
            self.timers.ack = Some(cx.now + delay);
        }
        if !self.has_data_state() {
            return;
        }
        if self.una != self.nxt {
            self.timers.persist = None;
            if self.timers.retransmit.is_none() {
                self.timers.retransmit = Some(cx.now + self.rtt.backed_off(self.retries));
            }
        } else {
            self.timers.retransmit = None;
            self.retries = 0;
            if self.unsent() == 0 {
                self.timers.persist = None;
            } else if self.timers.persist.is_none() {
                let wait = if self.window == 0 { self.rtt.backed_off(self.probes) } else { CORKED };
                self.timers.persist = Some(cx.now + wait.min(rtt::MAX));
            }
        }
        let keep = cx.options.has(Flags::KEEP_ALIVE) && self.established;
        if !keep {
            self.timers.keep = None;
        } else if self.timers.keep.is_none() {
            self.timers.keep = Some(cx.now + Nanos::secs(u64::from(cx.options.keep_idle)));
        }
    }
}

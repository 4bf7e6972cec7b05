//! What a connection does when time has passed, and when it goes on in another kernel.
use super::{Connection, Context, State};
use crate::{options::Flags, socket::Owner};
use shimos_abi::{errno::Errno, time::Nanos};

/// How often a SYN is sent again.
const SYN_RETRIES: u8 = 6;
/// How often data is sent again: about a quarter of an hour.
const RETRIES: u8 = 15;
/// The same for a connection nobody has any more.
const ORPHAN_RETRIES: u8 = 8;
/// How long a peer with a closed window may be silent.
const SILENCE: Nanos = Nanos::secs(600);

impl Connection {
    /// When the next of its timers is due.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let t = &self.timers;
        [t.retransmit, t.persist, t.ack, t.keep, t.end].into_iter().flatten().min()
    }

    /// Deals with timers that are due, and sends what follows.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        let due = |timer: Option<Nanos>| timer.is_some_and(|at| at <= cx.now);
        if due(self.timers.end) {
            return self.end();
        }
        if due(self.timers.ack) {
            self.timers.ack = None;
            self.ack_now = true;
        }
        let (retransmit, persist, keep) =
            (due(self.timers.retransmit), due(self.timers.persist), due(self.timers.keep));
        if retransmit {
            self.retransmit(cx);
        } else if persist {
            self.persist(cx);
        }
        if keep && self.state != State::Closed {
            self.keep_alive(cx);
        }
        if self.state != State::Closed {
            self.output(cx);
        }
    }

    fn retransmit(&mut self, cx: &mut Context<'_>) {
        self.timers.retransmit = None;
        let hello = matches!(self.state, State::SynSent | State::SynReceived);
        let most = match cx.owner {
            _ if hello && cx.options.stream.syn_count > 0 => cx.options.stream.syn_count,
            _ if hello => SYN_RETRIES,
            Owner::Nobody => ORPHAN_RETRIES,
            _ => RETRIES,
        };
        let limit = Nanos::millis(cx.options.stream.user_timeout.into());
        let patient = limit == Nanos(0) || self.waiting_since.is_none_or(|since| cx.now - since < limit);
        if self.retries >= most || !patient {
            return self.fail(Errno::ETIMEDOUT, cx);
        }
        if hello {
            self.retries += 1;
            self.send_syn(cx);
            self.timers.retransmit = Some(cx.now + self.rtt.backed_off(self.retries));
        } else if self.una != self.nxt {
            self.congestion.timed_out(self.una, self.nxt, self.retries);
            self.retries += 1;
            // The output that follows sends the first lost segment and sets the timer anew.
        }
    }

    /// The window has been closed for a while, or a piece was held back long enough.
    fn persist(&mut self, cx: &mut Context<'_>) {
        self.timers.persist = None;
        if !self.has_data_state() || self.una != self.nxt || self.unsent() == 0 {
            return;
        }
        if !cx.link.has_room(self.tuple.remote.address) {
            return;
        }
        if self.window > 0 {
            let length = self.unsent().min(self.window).min(u32::from(self.agreed.mss));
            return self.send_new(length, cx);
        }
        let limit = Nanos::millis(cx.options.stream.user_timeout.into());
        if limit != Nanos(0) && cx.now - self.heard >= limit && self.probes > 0 {
            return self.fail(Errno::ETIMEDOUT, cx);
        }
        let given_up = cx.owner == Owner::Nobody && self.probes >= ORPHAN_RETRIES;
        if given_up || (self.probes >= RETRIES && cx.now - self.heard > SILENCE) {
            return self.fail(Errno::ETIMEDOUT, cx);
        }
        self.probes = self.probes.saturating_add(1);
        self.send_probe(cx);
    }

    fn keep_alive(&mut self, cx: &mut Context<'_>) {
        self.timers.keep = None;
        if !cx.options.has(Flags::KEEP_ALIVE) || !self.has_data_state() {
            return;
        }
        let idle = Nanos::secs(u64::from(cx.options.keep_idle.max(1)));
        let interval = Nanos::secs(u64::from(cx.options.keep_interval.max(1)));
        let busy = self.una != self.nxt || self.timers.persist.is_some();
        self.timers.keep = Some(if busy {
            cx.now + idle
        } else if cx.now < self.heard + idle {
            self.heard + idle
        } else if u32::from(self.probes) >= cx.options.keep_count {
            return self.fail(Errno::ETIMEDOUT, cx);
        } else {
            self.probes = self.probes.saturating_add(1);
            self.send_probe(cx);
            cx.now + interval
        });
    }

    /// The connection goes on in another kernel. What was on its way may be lost in either direction, and the peer waits:
    /// it gets the oldest segment again, and an acknowledgement that makes it send what it has to repeat.
    pub fn after_takeover(&mut self, cx: &mut Context<'_>) {
        self.heard = cx.now;
        self.retries = 0;
        self.probes = 0;
        self.timers.persist = None;
        self.timers.keep = None;
        match self.state {
            State::SynSent | State::SynReceived => {
                self.send_syn(cx);
                self.timers.retransmit = Some(cx.now + self.rtt.rto());
            }
            State::TimeWait | State::Closed => {}
            _ => {
                self.rtt.hurry();
                self.congestion.sent_twice(self.nxt);
                self.timers.retransmit = None;
                self.send_ack(cx);
                if self.una != self.nxt {
                    let length = (self.nxt.since(self.una).max(0) as u32).min(u32::from(self.agreed.mss));
                    self.send_again(self.una, length, cx);
                }
                self.output(cx);
            }
        }
    }
}

//! The round-trip time and the retransmission time-out that follows from it (RFC 6298).
use super::Seq;
use minicbor::{Decode, Encode};
use shimos_abi::{flat, time::Nanos};

/// The shortest time-out.
pub(crate) const MIN: Nanos = Nanos::millis(200);
/// The longest, with all its doublings.
pub(crate) const MAX: Nanos = Nanos::secs(120);

#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Rtt {
    /// Nothing is known before the first sample.
    #[n(0)]
    smoothed: Option<Nanos>,
    #[n(1)]
    variance: Nanos,
    #[n(2)]
    rto: Nanos,
    /// The segment whose answer is timed, if the peer does not echo timestamps, and when it was sent.
    #[n(3)]
    timed: Option<(Seq, Nanos)>,
}

flat!(Rtt { smoothed, variance, rto, timed });

impl Rtt {
    pub fn new() -> Rtt {
        Rtt { smoothed: None, variance: Nanos(0), rto: Nanos::secs(1), timed: None }
    }

    pub fn rto(&self) -> Nanos {
        self.rto
    }

    pub fn smoothed(&self) -> Nanos {
        self.smoothed.unwrap_or_default()
    }

    /// How much the round-trip time varies.
    pub fn variance(&self) -> Nanos {
        self.variance
    }

    /// The time-out after this many retransmissions.
    pub fn backed_off(&self, retries: u8) -> Nanos {
        self.rto.times(1 << retries.min(12)).min(MAX)
    }

    /// A takeover has just happened: whatever was lost with it should be repaired soon.
    pub fn hurry(&mut self) {
        self.rto = MIN;
        self.timed = None;
    }

    pub fn sample(&mut self, rtt: Nanos) {
        match self.smoothed {
            None => {
                self.smoothed = Some(rtt);
                self.variance = Nanos(rtt.0 / 2);
            }
            Some(smoothed) => {
                let difference = Nanos(smoothed.0.abs_diff(rtt.0));
                self.variance = Nanos(self.variance.0 - self.variance.0 / 4 + difference.0 / 4);
                self.smoothed = Some(Nanos(smoothed.0 - smoothed.0 / 8 + rtt.0 / 8));
            }
        }
        let margin = self.variance.times(4).max(Nanos::millis(1));
        self.rto = (self.smoothed() + margin).clamp(MIN, MAX);
    }

    /// A segment that ends before `end` was sent for the first time.
    pub fn sent(&mut self, end: Seq, now: Nanos) {
        if self.timed.is_none() {
            self.timed = Some((end, now));
        }
    }

    /// Something was sent again: its answer would say nothing (Karn).
    pub fn retransmitted(&mut self) {
        self.timed = None;
    }

    /// Everything before `ack` has arrived; the measured time if the timed segment is among it.
    pub fn acknowledged(&mut self, ack: Seq, now: Nanos) -> Option<Nanos> {
        let (end, sent) = self.timed?;
        if ack.before(end) {
            return None;
        }
        self.timed = None;
        Some(now - sent)
    }

    pub fn validate(&self) -> Result<(), &'static str> {
        let sane = |time: Nanos| time <= Nanos::secs(3600);
        if sane(self.smoothed()) && sane(self.variance) && (MIN..=MAX).contains(&self.rto) {
            Ok(())
        } else {
            Err("impossible round-trip time")
        }
    }
}

//! How much may be in flight, and which part of it is lost: New Reno with selective acknowledgements.
//!
//! Nothing is ever taken back: `nxt` only grows, and what is lost is found by a second pointer that runs over the flight
//! again. In recovery, all that lies between that pointer and the end of the lost part and is not known to have arrived
//! counts as lost.
use super::Seq;
use alloc::vec::Vec;
use minicbor::{Decode, Encode};
use shimos_abi::{
    flat,
    flat::{Flat, Source},
};

/// Blocks remembered; a peer tells at most four at a time.
const BLOCKS: usize = 64;
/// No more than this is ever in flight.
const MOST: u32 = 8 << 20;

/// Whether something was lost and is being repaired.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) enum Recovery {
    #[n(0)]
    None,
    /// Duplicate acknowledgements told of it; it ends when everything up to here is acknowledged.
    #[n(1)]
    Fast(#[n(0)] Seq),
    /// The timer told of it; everything up to here counts as lost.
    #[n(2)]
    Loss(#[n(0)] Seq),
}

#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Congestion {
    #[n(0)]
    mss: u32,
    #[n(1)]
    window: u32,
    #[n(2)]
    threshold: u32,
    /// Bytes acknowledged since the window last grew linearly.
    #[n(3)]
    counted: u32,
    #[n(4)]
    recovery: Recovery,
    /// What is before this was sent again in this recovery.
    #[n(5)]
    again: Seq,
    /// Duplicate acknowledgements in a row.
    #[n(6)]
    duplicates: u32,
    /// Runs that arrived out of order: in order, none empty, none touching.
    #[n(7)]
    sacked: Vec<(Seq, Seq)>,
    /// The next lost segment is sent whatever the window says.
    #[n(8)]
    pub force: bool,
    /// The end of the flight when something was last repaired. Duplicates that tell of nothing beyond it come from what was
    /// sent twice (RFC 6582, section 3.2).
    #[n(9)]
    repaired: Option<Seq>,
}

flat!(Congestion { mss, window, threshold, counted, recovery, again, duplicates, sacked, force, repaired });

impl Flat for Recovery {
    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Recovery::None => to.push(0),
            Recovery::Fast(end) => (1_u8, *end).write(to),
            Recovery::Loss(end) => (2_u8, *end).write(to),
        }
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<Recovery> {
        match u8::read(from)? {
            0 => Some(Recovery::None),
            1 => Seq::read(from).map(Recovery::Fast),
            2 => Seq::read(from).map(Recovery::Loss),
            _ => None,
        }
    }
}

impl Congestion {
    pub fn new(mss: u16) -> Congestion {
        let mss = u32::from(mss);
        Congestion {
            mss,
            window: mss * 10,
            threshold: MOST,
            counted: 0,
            recovery: Recovery::None,
            again: Seq(0),
            duplicates: 0,
            sacked: Vec::new(),
            force: false,
            repaired: None,
        }
    }

    /// What is in flight may arrive twice: duplicates that come of it say nothing.
    pub fn sent_twice(&mut self, nxt: Seq) {
        self.repaired = Some(nxt);
    }

    pub fn window(&self) -> u32 {
        self.window
    }

    /// Where slow start ends.
    pub fn threshold(&self) -> u32 {
        self.threshold
    }

    /// Whether something lost is being repaired, or may have to be soon.
    pub fn repairs(&self) -> bool {
        self.recovery != Recovery::None || self.duplicates > 0 || !self.sacked.is_empty()
    }

    /// Bytes that count as lost and were not sent again yet.
    pub fn lost_bytes(&self, una: Seq, nxt: Seq) -> u32 {
        if self.recovery == Recovery::None { 0 } else { self.missing(self.again.max(una), self.lost_end(una, nxt)) }
    }

    /// Segments are smaller from now on.
    pub fn shrink(&mut self, mss: u16) {
        self.mss = u32::from(mss);
        self.window = self.window.max(self.mss);
    }

    /// What is in flight was too large for the path: it is sent again in smaller pieces, which is no congestion.
    pub fn resend(&mut self, una: Seq, nxt: Seq) {
        self.recovery = Recovery::Loss(nxt);
        self.repaired = Some(nxt);
        self.again = una;
        self.force = true;
    }

    /// The largest segment became known; nothing was sent before.
    pub fn set_mss(&mut self, mss: u16) {
        *self = Congestion::new(mss);
    }

    /// Forgets the flight.
    pub fn forget(&mut self) {
        self.recovery = Recovery::None;
        self.sacked.clear();
        self.duplicates = 0;
        self.force = false;
    }

    /// The connection was idle: the network may have changed (RFC 5681, 4.1).
    pub fn restart(&mut self) {
        self.window = self.window.min(self.mss * 10);
    }

    /// Notes a run that arrived.
    pub fn sack(&mut self, mut start: Seq, mut end: Seq) {
        let from = self.sacked.partition_point(|run| run.1.before(start));
        let to = self.sacked.partition_point(|run| !run.0.after(end));
        if let Some(first) = self.sacked.get(from).filter(|_| from < to) {
            start = start.min(first.0);
        }
        if let Some(last) = to.checked_sub(1).and_then(|last| self.sacked.get(last)).filter(|_| from < to) {
            end = end.max(last.1);
        }
        if from < to || self.sacked.len() < BLOCKS {
            self.sacked.splice(from..to.max(from), [(start, end)]);
        }
    }

    /// Bytes of `start..end` not known to have arrived.
    fn missing(&self, start: Seq, end: Seq) -> u32 {
        let mut missing = end.since(start).max(0);
        for run in &self.sacked {
            missing -= run.1.min(end).since(run.0.max(start)).max(0);
        }
        missing.max(0) as u32
    }

    /// The end of what counts as lost.
    fn lost_end(&self, una: Seq, nxt: Seq) -> Seq {
        match self.recovery {
            Recovery::None => una,
            Recovery::Loss(end) => end.min(nxt),
            Recovery::Fast(_) => {
                let first = una + self.mss;
                self.sacked.last().map_or(first, |run| run.0.max(first)).min(nxt)
            }
        }
    }

    /// The next lost run to send again, at most `mss` long.
    pub fn lost(&self, una: Seq, nxt: Seq) -> Option<(Seq, u32)> {
        if self.recovery == Recovery::None {
            return None;
        }
        let end = self.lost_end(una, nxt);
        let mut start = self.again.max(una);
        let mut limit = nxt;
        for run in &self.sacked {
            if !start.before(run.0) && start.before(run.1) {
                start = run.1;
            } else if run.0.after(start) {
                limit = limit.min(run.0);
                break;
            }
        }
        start.before(end).then(|| (start, (limit.since(start).max(0) as u32).min(self.mss)))
    }

    /// A lost run that ends here was sent again.
    pub fn sent_again(&mut self, end: Seq) {
        self.again = end;
        self.force = false;
    }

    /// Bytes that the network is thought to hold.
    pub fn pipe(&self, una: Seq, nxt: Seq) -> u32 {
        let flight = self.missing(una, nxt);
        let lost = if self.recovery == Recovery::None {
            0
        } else {
            self.missing(self.again.max(una), self.lost_end(una, nxt))
        };
        // Without selective acknowledgements each duplicate still says that one segment left the network.
        let left = if self.sacked.is_empty() { self.duplicates.saturating_mul(self.mss) } else { 0 };
        flight.saturating_sub(lost).saturating_sub(left)
    }

    /// A duplicate acknowledgement came.
    pub fn duplicate(&mut self) {
        self.duplicates += 1;
    }

    /// Enters fast recovery if enough says that something was lost.
    pub fn check_loss(&mut self, una: Seq, nxt: Seq) {
        let arrived = nxt.since(una).max(0) as u32 - self.missing(una, nxt).min(nxt.since(una).max(0) as u32);
        let told = self.duplicates >= 3 && self.repaired.is_none_or(|end| una.after(end));
        if self.recovery == Recovery::None && una != nxt && (told || arrived > 2 * self.mss) {
            self.reduce(una, nxt);
            self.repaired = Some(nxt);
            self.window = self.threshold;
            self.recovery = Recovery::Fast(nxt);
            self.again = una;
            self.force = true;
        }
    }

    fn reduce(&mut self, una: Seq, nxt: Seq) {
        self.threshold = (nxt.since(una).max(0) as u32 / 2).max(2 * self.mss);
        self.counted = 0;
    }

    /// The timer ran out for the `retries`th time in a row (from 0).
    pub fn timed_out(&mut self, una: Seq, nxt: Seq, retries: u8) {
        if retries == 0 && !matches!(self.recovery, Recovery::Loss(_)) {
            self.reduce(una, nxt);
        }
        // A peer may go back on what it said it had; when the timer says so again, believe the timer.
        if retries > 0 {
            self.sacked.clear();
        }
        self.window = self.mss;
        self.recovery = Recovery::Loss(nxt);
        self.repaired = Some(nxt);
        self.again = una;
        self.duplicates = 0;
        self.force = true;
    }

    /// `acked` bytes more are acknowledged, up to `una`; `before` were thought to be in the network.
    pub fn acknowledged(&mut self, una: Seq, acked: u32, before: u32) {
        self.duplicates = 0;
        self.sacked.retain_mut(|run| {
            run.0 = run.0.max(una);
            run.1.after(run.0)
        });
        match self.recovery {
            Recovery::None => self.grow(acked, before),
            Recovery::Fast(end) if una.before(end) => {
                // A partial acknowledgement: the next gap is lost too.
                self.force = !self.again.after(una);
            }
            Recovery::Fast(_) => {
                self.recovery = Recovery::None;
                self.window = self.threshold;
                self.force = false;
            }
            Recovery::Loss(end) => {
                self.grow(acked.min(self.mss), self.window);
                if !una.before(end) {
                    self.recovery = Recovery::None;
                    self.force = false;
                }
            }
        }
    }

    fn grow(&mut self, acked: u32, before: u32) {
        // A window that is not used says nothing about the network.
        if before.saturating_mul(2) < self.window {
            return;
        }
        if self.window < self.threshold {
            self.window += acked.min(2 * self.mss);
        } else {
            self.counted = self.counted.saturating_add(acked);
            if self.counted >= self.window {
                self.counted -= self.window;
                self.window += self.mss;
            }
        }
        self.window = self.window.min(MOST);
    }

    pub fn validate(&self, una: Seq, nxt: Seq) -> Result<(), &'static str> {
        let sizes = (32..=65535).contains(&self.mss) && (self.mss..=2 * MOST).contains(&self.window);
        if !sizes || self.threshold > MOST || self.duplicates > 1 << 24 {
            return Err("impossible congestion window");
        }
        let mut at = una;
        for run in &self.sacked {
            if run.0.before(at) || !run.1.after(run.0) || run.1.after(nxt) {
                return Err("acknowledged runs out of order");
            }
            at = run.1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_of_a_repair_are_no_loss() {
        let mut c = Congestion::new(100);
        // Everything up to 1000 was sent twice; it is acknowledged, and then the peer answers the second copies.
        c.sent_twice(Seq(1000));
        for _ in 0..5 {
            c.duplicate();
        }
        c.check_loss(Seq(1000), Seq(2000));
        assert_eq!(c.recovery, Recovery::None);
        // Duplicates that tell of something beyond are a loss as ever.
        c.check_loss(Seq(1100), Seq(2000));
        assert_eq!(c.recovery, Recovery::Fast(Seq(2000)));
    }

    #[test]
    fn runs_merge() {
        let mut c = Congestion::new(100);
        let runs = |c: &Congestion| c.sacked.iter().map(|r| (r.0.0, r.1.0)).collect::<Vec<_>>();
        c.sack(Seq(500), Seq(600));
        c.sack(Seq(200), Seq(300));
        c.sack(Seq(700), Seq(800));
        assert_eq!(runs(&c), [(200, 300), (500, 600), (700, 800)]);
        c.sack(Seq(300), Seq(350));
        c.sack(Seq(550), Seq(750));
        assert_eq!(runs(&c), [(200, 350), (500, 800)]);
        c.sack(Seq(100), Seq(900));
        assert_eq!(runs(&c), [(100, 900)]);
    }

    #[test]
    fn the_gaps_are_sent_again() {
        let mut c = Congestion::new(100);
        let (una, nxt) = (Seq(0), Seq(1000));
        c.sack(Seq(100), Seq(200));
        c.sack(Seq(350), Seq(600));
        c.check_loss(una, nxt);
        assert_eq!(c.lost(una, nxt), Some((Seq(0), 100)));
        c.sent_again(Seq(100));
        assert_eq!(c.lost(una, nxt), Some((Seq(200), 100)));
        c.sent_again(Seq(300));
        assert_eq!(c.lost(una, nxt), Some((Seq(300), 50)));
        c.sent_again(Seq(350));
        assert_eq!(c.lost(una, nxt), None);
        assert_eq!(c.pipe(una, nxt), 650);
        c.timed_out(una, nxt, 1);
        assert_eq!(c.lost(una, nxt), Some((Seq(0), 100)));
    }
}

//! Connections that are over but remembered, so that late packets and a too early successor do no harm.
use super::{Connection, Seq, Stamps, segment};
use crate::{endpoint::Tuple, link::Link};
use minicbor::{Decode, Encode};
use segment::Segment;
use shimos_abi::time::Nanos;

/// What is left of a connection in TIME_WAIT.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct TimeWait {
    #[n(0)]
    nxt: Seq,
    #[n(1)]
    next: Seq,
    #[n(2)]
    stamps: Option<Stamps>,
    /// When it is forgotten.
    #[n(3)]
    pub ends: Nanos,
}

impl TimeWait {
    pub fn new(connection: &Connection, now: Nanos) -> TimeWait {
        TimeWait {
            nxt: connection.nxt,
            next: connection.next,
            stamps: connection.agreed.stamps,
            ends: connection.timers.end.unwrap_or(now + super::TIME_WAIT),
        }
    }

    /// Whether this SYN can only be that of a new connection (RFC 6191).
    pub fn gives_way_to(&self, segment: &Segment<'_>) -> bool {
        let newer = match (self.stamps, segment.stamp) {
            (Some(stamps), Some((stamp, _))) => stamp.wrapping_sub(stamps.recent) as i32 > 0,
            _ => false,
        };
        segment.is_syn() && segment.ack.is_none() && (newer || segment.seq.after(self.next))
    }

    /// Answers a late segment.
    pub fn input(&mut self, tuple: Tuple, segment: &Segment<'_>, link: &mut Link, now: Nanos) {
        if segment.is_reset() || (segment.payload.is_empty() && !segment.is_fin() && !segment.is_syn()) {
            return;
        }
        if segment.is_fin() {
            self.ends = now + super::TIME_WAIT;
        }
        if !link.has_room(tuple.remote.address) {
            return;
        }
        let mut header = segment::header(tuple, self.nxt, Some(self.next));
        header.timestamp = self.stamps.and_then(|s| segment::timestamp(s.now(now), s.recent));
        segment::send(link, now, tuple, &header, (&[], &[]), segment::Extras::default());
    }
}

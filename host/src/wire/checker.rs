//! What a peer may rely on, checked on the packets that leave a program: nothing that was once said is taken back.
//!
//! For each connection that begins while it watches: the same number stands for the same byte; the end of the stream stays where
//! it is; acknowledgements, times and the edge of the window never go back; nothing is acknowledged that was not
//! sent; nothing is reset before both sides have ended and know it of each other. A kernel that goes on from a checkpoint, and had let something leave that the
//! checkpoint does not cover, breaks one of these. A segment that leaves once more, exactly as before, contradicts nothing.
use super::segment::{ACK, FIN, RST, SYN, Segment, parse};
use std::{
    collections::{BTreeMap, VecDeque, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

/// Bytes of a stream that are kept to be compared, counted back from its end: more than a program's unacknowledged output.
const KEPT: usize = 2 << 20;
/// Segments of a connection that are known again.
const REMEMBERED: usize = 8192;
/// Violations that are kept in words.
const TOLD: usize = 20;
/// Connections that are watched at a time; the one that was silent longest gives way.
const CONNECTIONS: usize = 4096;

/// What was seen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Connections that began.
    pub connections: u64,
    /// Segments that left.
    pub segments: u64,
    /// Segments that left once more, exactly as before.
    pub repeated: u64,
    /// Bytes that left once more and were the same.
    pub compared: u64,
    /// Bytes that left once more, too late to be compared.
    pub unknown: u64,
    /// Contradictions.
    pub violations: u64,
    /// The first of them, in words.
    pub told: Vec<String>,
}

/// Watches the connections of one program.
#[derive(Debug)]
pub struct Checker {
    address: [u8; 4],
    connections: BTreeMap<Key, Connection>,
    seen: Seen,
}

/// The peer, and the program's port.
type Key = (([u8; 4], u16), u16);

impl Checker {
    /// For the program with this address.
    pub fn new(address: [u8; 4]) -> Checker {
        Checker { address, connections: BTreeMap::new(), seen: Seen::default() }
    }

    /// What was seen so far.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Looks at a frame; `at` is its time in microseconds.
    pub fn frame(&mut self, at: u64, frame: &[u8]) {
        let Some(segment) = parse(frame) else { return };
        if segment.to.0 == self.address {
            self.comes(at, &segment);
        } else if segment.from.0 == self.address {
            self.leaves(at, &segment);
        }
    }

    fn comes(&mut self, at: u64, segment: &Segment<'_>) {
        let key = (segment.from, segment.to.1);
        if segment.has(SYN) && !segment.has(ACK) {
            let again = self.connections.get(&key).is_some_and(|known| known.peer_first == Some(segment.seq));
            if !again {
                self.open(key, at).peer_opens(segment);
                self.seen.connections += 1;
            }
        }
        let Some(connection) = self.connections.get_mut(&key) else { return };
        connection.last = at;
        if segment.has(RST) {
            self.connections.remove(&key);
            return;
        }
        if segment.has(SYN | ACK) && connection.peer_first.is_none() {
            connection.peer_opens(segment);
        }
        connection.peer_says(segment);
    }

    fn leaves(&mut self, at: u64, segment: &Segment<'_>) {
        let key = (segment.to, segment.from.1);
        if segment.has(SYN) && !segment.has(ACK) {
            let again = self.connections.get(&key).is_some_and(|known| known.first == Some(segment.seq));
            if !again {
                self.open(key, at);
                self.seen.connections += 1;
            }
        }
        let Some(connection) = self.connections.get_mut(&key) else { return };
        connection.last = at;
        let mut wrong = Vec::new();
        connection.leaves(segment, &mut self.seen, &mut wrong);
        for what in wrong {
            self.seen.violations += 1;
            if self.seen.told.len() < TOLD {
                let ([a, b, c, d], port) = segment.to;
                let seconds = at as f64 / 1e6;
                self.seen
                    .told
                    .push(format!("at {seconds:.6} s, port {} to {a}.{b}.{c}.{d}:{port}: {what}", segment.from.1));
            }
        }
    }

    fn open(&mut self, key: Key, at: u64) -> &mut Connection {
        if self.connections.len() >= CONNECTIONS
            && let Some(oldest) = self.connections.iter().min_by_key(|(_, known)| known.last).map(|(key, _)| *key)
        {
            self.connections.remove(&oldest);
        }
        let connection = Connection { last: at, ..Connection::default() };
        self.connections.insert(key, connection);
        self.connections.entry(key).or_default()
    }
}

/// One connection; numbers are counted on from the first ones, so that they do not wrap.
#[derive(Debug, Default)]
struct Connection {
    /// When something was seen of it last.
    last: u64,
    first: Option<u32>,
    peer_first: Option<u32>,
    /// How far the peer has sent, and where its stream ends.
    peer_next: u64,
    peer_fin: Option<u64>,
    /// How much of ours the peer has acknowledged.
    peer_ack: u64,
    /// Whether both sides scale their windows, and by how much ours are.
    peer_scales: bool,
    scale: Option<u8>,
    sent: Stream,
    ack: u64,
    edge: u64,
    time: Option<u32>,
    remembered: VecDeque<u64>,
}

impl Connection {
    fn peer_opens(&mut self, segment: &Segment<'_>) {
        self.peer_first = Some(segment.seq);
        self.peer_next = 1;
        self.peer_scales = segment.scale.is_some();
    }

    fn peer_says(&mut self, segment: &Segment<'_>) {
        let Some(first) = self.peer_first else { return };
        let begin = count_on(self.peer_next, first, segment.seq);
        let end = begin + segment.data.len() as u64 + u64::from(segment.has(FIN)) + u64::from(segment.has(SYN));
        self.peer_next = self.peer_next.max(end);
        if let (Some(first), true) = (self.first, segment.has(ACK)) {
            self.peer_ack = self.peer_ack.max(count_on(self.sent.end(), first, segment.ack));
        }
        if segment.has(FIN) {
            self.peer_fin = Some(end);
        }
    }

    fn leaves(&mut self, segment: &Segment<'_>, seen: &mut Seen, wrong: &mut Vec<String>) {
        seen.segments += 1;
        if segment.has(RST) {
            if !self.is_over() {
                wrong.push("a reset".to_string());
            }
            return;
        }
        if self.is_repeated(segment) {
            seen.repeated += 1;
            return;
        }
        let first = *self.first.get_or_insert(segment.seq);
        if segment.has(SYN) {
            if first != segment.seq {
                wrong.push(format!("the connection opens with {} after {first}", segment.seq));
                return;
            }
            self.scale = segment.scale;
        }
        let begin = count_on(self.sent.end(), first, segment.seq) + u64::from(segment.has(SYN));
        self.sent.say(begin, segment, seen, wrong);
        if segment.has(ACK) {
            self.acknowledges(segment, wrong);
        }
        if let (Some(before), Some(now)) = (self.time, segment.time)
            && (now.wrapping_sub(before) as i32) < 0
        {
            wrong.push(format!("the time went back from {before} to {now}"));
        }
        self.time = segment.time.or(self.time);
    }

    /// Whether both sides have ended, and each knows it of the other.
    fn is_over(&self) -> bool {
        self.sent.fin.is_some_and(|fin| self.peer_ack > fin) && self.peer_fin.is_some_and(|fin| self.ack >= fin)
    }

    fn acknowledges(&mut self, segment: &Segment<'_>, wrong: &mut Vec<String>) {
        let Some(peer_first) = self.peer_first else { return };
        let ack = count_on(self.ack, peer_first, segment.ack);
        if ack < self.ack {
            wrong.push(format!(
                "the acknowledgement went back by {} bytes, from {} to {ack}",
                self.ack - ack,
                self.ack
            ));
        }
        if ack > self.peer_next {
            wrong.push(format!("{ack} is acknowledged and the peer has sent up to {}", self.peer_next));
        }
        let scale = match self.scale {
            Some(scale) if self.peer_scales && !segment.has(SYN) => scale.min(14),
            _ => 0,
        };
        let edge = ack + (u64::from(segment.window) << scale);
        // A window is told in steps; within one, nothing was taken back. Behind the end of the peer's stream it means nothing.
        let open = self.peer_fin.is_none_or(|fin| ack < fin);
        if open && edge + (1 << scale) <= self.edge {
            wrong.push(format!("the edge of the window went back by {} bytes", self.edge - edge));
        }
        self.ack = self.ack.max(ack);
        self.edge = self.edge.max(edge);
    }

    /// Whether exactly this segment has left before; it is remembered.
    fn is_repeated(&mut self, segment: &Segment<'_>) -> bool {
        let mut hasher = DefaultHasher::new();
        (segment.seq, segment.ack, segment.flags, segment.window, segment.time, segment.data).hash(&mut hasher);
        let mark = hasher.finish();
        if self.remembered.contains(&mark) {
            return true;
        }
        if self.remembered.len() >= REMEMBERED {
            self.remembered.pop_front();
        }
        self.remembered.push_back(mark);
        false
    }
}

/// What a connection has sent. Numbers count from the opening, which is 0.
#[derive(Debug, Default)]
struct Stream {
    /// Number of the first byte that is kept.
    begin: u64,
    /// Bytes, as far as they were seen.
    kept: VecDeque<Option<u8>>,
    fin: Option<u64>,
}

impl Stream {
    fn end(&self) -> u64 {
        self.begin + self.kept.len() as u64
    }

    fn say(&mut self, begin: u64, segment: &Segment<'_>, seen: &mut Seen, wrong: &mut Vec<String>) {
        if self.begin == 0 {
            self.begin = 1;
        }
        let end = begin + segment.data.len() as u64;
        if let Some(fin) = self.fin
            && ((end > fin && !segment.data.is_empty()) || (segment.has(FIN) && end != fin))
        {
            wrong.push(format!("the stream ended at {fin}, and goes on to {end}"));
            return;
        }
        if segment.has(FIN) {
            if self.end() > end {
                wrong.push(format!("the stream ends at {end}, and went on to {} before", self.end()));
            }
            self.fin = Some(end);
        }
        let mut contradicted = None;
        for (number, byte) in (begin..).zip(segment.data) {
            let Some(place) = number.checked_sub(self.begin) else {
                seen.unknown += 1;
                continue;
            };
            let place = place as usize;
            while self.kept.len() <= place {
                self.kept.push_back(None);
            }
            let Some(known) = self.kept.get_mut(place) else { continue };
            match known {
                Some(known) if known == byte => seen.compared += 1,
                Some(known) => contradicted = contradicted.or(Some((number, *known, *byte))),
                None => *known = Some(*byte),
            }
        }
        if let Some((number, before, now)) = contradicted {
            wrong.push(format!("byte {number} was {before:#04x} and is {now:#04x}"));
        }
        while self.kept.len() > KEPT {
            self.kept.pop_front();
            self.begin += 1;
        }
    }
}

/// The number of a 32-bit one that is nearest to `near`, counted from `first`.
fn count_on(near: u64, first: u32, now: u32) -> u64 {
    let distance = now.wrapping_sub(first).wrapping_sub(near as u32) as i32;
    near.saturating_add_signed(i64::from(distance))
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;

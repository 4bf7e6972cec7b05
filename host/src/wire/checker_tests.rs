//! Good and bad traces for the checker.
use super::*;

const PROGRAM: ([u8; 4], u16) = ([10, 77, 1, 2], 80);
const PEER: ([u8; 4], u16) = ([10, 77, 0, 2], 40000);
/// First numbers close to their end: they wrap within a trace.
const FIRST: u32 = u32::MAX - 10;
const PEER_FIRST: u32 = u32::MAX - 5;

/// A checker that is shown segments.
struct Trace {
    checker: Checker,
    at: u64,
}

fn segment(seq: u32, ack: u32, flags: u8, data: &[u8]) -> Segment<'_> {
    Segment { from: PROGRAM, to: PEER, seq, ack, flags, window: 100, time: None, scale: None, data }
}

/// From the program: numbers count from the first ones.
fn out(seq: u32, ack: u32, flags: u8, data: &[u8]) -> Segment<'_> {
    segment(FIRST.wrapping_add(seq), PEER_FIRST.wrapping_add(ack), flags | ACK, data)
}

impl Trace {
    /// With a connection that is open; both sides shift windows by 2.
    fn open() -> Trace {
        let mut trace = Trace { checker: Checker::new(PROGRAM.0), at: 0 };
        let opening = Segment { scale: Some(2), ..segment(PEER_FIRST, 0, SYN, b"") };
        trace.hears(opening.clone());
        trace.hears(opening);
        trace.leaves(&Segment { time: Some(50), scale: Some(2), ..out(0, 1, SYN, b"") });
        trace.leaves(&Segment { time: Some(51), scale: Some(2), ..out(0, 1, SYN, b"") });
        trace
    }

    fn hears(&mut self, segment: Segment<'_>) {
        self.at += 1;
        self.checker.comes(self.at, &Segment { from: PEER, to: PROGRAM, ..segment });
    }

    fn peer_sends(&mut self, seq: u32, data: &[u8]) {
        self.hears(segment(PEER_FIRST.wrapping_add(seq), 0, ACK, data));
    }

    fn leaves(&mut self, segment: &Segment<'_>) {
        self.at += 1;
        self.checker.leaves(self.at, segment);
    }

    /// The one violation there is.
    fn told(&self) -> &str {
        let seen = self.checker.seen();
        assert_eq!(seen.violations, 1, "{:?}", seen.told);
        seen.told.first().expect("told")
    }

    fn held(&self) -> &Seen {
        let seen = self.checker.seen();
        assert_eq!(seen.violations, 0, "{:?}", seen.told);
        seen
    }
}

#[test]
fn a_connection_that_says_the_same_twice_is_right() {
    let mut trace = Trace::open();
    trace.peer_sends(1, b"question");
    trace.leaves(&out(1, 9, 0, b"an answer"));
    // Cut otherwise, as one whole, and with a new time; then exactly as before.
    trace.leaves(&Segment { time: Some(60), ..out(4, 9, 0, b"answer of more bytes") });
    trace.leaves(&Segment { time: Some(60), ..out(1, 9, 0, b"an answer of more bytes") });
    trace.leaves(&out(1, 9, 0, b"an answer"));
    trace.leaves(&out(24, 9, FIN, b""));
    trace.leaves(&Segment { time: Some(61), ..out(20, 9, FIN, b"ytes") });
    // The end has a number of its own.
    trace.leaves(&Segment { time: Some(62), ..out(25, 9, 0, b"") });
    let seen = trace.held();
    assert_eq!((seen.connections, seen.repeated, seen.unknown), (1, 1, 0));
    assert_eq!(seen.compared, 6 + 23 + 4);
}

#[test]
fn another_byte_for_the_same_number_is_found() {
    let mut trace = Trace::open();
    trace.leaves(&out(1, 1, 0, b"counter is 17"));
    trace.leaves(&out(1, 1, 0, b"counter is 16"));
    assert!(trace.told().contains("byte 13 was 0x37 and is 0x36"), "{}", trace.told());
}

#[test]
fn bytes_that_never_left_are_not_guessed() {
    let mut trace = Trace::open();
    trace.leaves(&out(11, 1, 0, b"later"));
    trace.leaves(&out(1, 1, 0, b"0123456789late"));
    assert_eq!(trace.held().compared, 4);
}

#[test]
fn an_end_that_moves_is_found() {
    for (first, second) in [(out(4, 1, FIN, b""), out(4, 1, 0, b"more")), (out(4, 1, 0, b"more"), out(4, 1, FIN, b""))]
    {
        let mut trace = Trace::open();
        trace.leaves(&out(1, 1, 0, b"abc"));
        trace.leaves(&first);
        trace.leaves(&second);
        assert!(trace.told().contains("the stream end"), "{}", trace.told());
    }
}

#[test]
fn acknowledgements_only_rise_to_what_was_sent() {
    let mut trace = Trace::open();
    trace.peer_sends(1, b"a question");
    trace.leaves(&out(1, 11, 0, b""));
    trace.leaves(&Segment { window: 150, ..out(1, 5, 0, b"") });
    assert!(trace.told().contains("went back by 6 bytes"), "{}", trace.told());
    let mut trace = Trace::open();
    trace.peer_sends(1, b"a question");
    trace.leaves(&out(1, 12, 0, b""));
    assert!(trace.told().contains("12 is acknowledged"), "{}", trace.told());
}

#[test]
fn times_and_windows_only_rise() {
    let mut trace = Trace::open();
    trace.leaves(&Segment { time: Some(70), ..out(1, 1, 0, b"") });
    trace.leaves(&Segment { time: Some(69), ..out(1, 1, 0, b"x") });
    assert!(trace.told().contains("the time went back from 70 to 69"), "{}", trace.told());
    let mut trace = Trace::open();
    trace.peer_sends(1, b"ab");
    trace.leaves(&out(1, 1, 0, b""));
    // The window is told in steps of four bytes: two more are acknowledged, and one step less is open.
    trace.leaves(&Segment { window: 99, ..out(1, 3, 0, b"") });
    trace.held();
    trace.leaves(&Segment { window: 98, ..out(1, 3, 0, b"") });
    assert!(trace.told().contains("edge of the window went back by 6"), "{}", trace.told());
    // Who has said that nothing more comes needs no window.
    let mut trace = Trace::open();
    trace.leaves(&out(1, 1, 0, b""));
    trace.hears(segment(PEER_FIRST.wrapping_add(1), 0, ACK | FIN, b""));
    trace.leaves(&Segment { window: 0, ..out(1, 2, 0, b"") });
    trace.held();
}

#[test]
fn resets_and_second_openings_are_found() {
    let mut trace = Trace::open();
    trace.leaves(&out(1, 1, RST, b""));
    assert!(trace.told().contains("a reset"));
    // An acknowledgement that comes twice, for a connection that is over and forgotten.
    for over in [true, false] {
        let mut trace = Trace::open();
        trace.hears(segment(PEER_FIRST.wrapping_add(1), FIRST.wrapping_add(1), ACK | FIN, b""));
        trace.leaves(&out(1, 2, FIN, b""));
        let known = if over { 2 } else { 1 };
        trace.hears(segment(PEER_FIRST.wrapping_add(2), FIRST.wrapping_add(known), ACK, b""));
        trace.leaves(&segment(FIRST.wrapping_add(2), 0, RST, b""));
        assert_eq!(trace.checker.seen().violations == 0, over);
    }
    let mut trace = Trace::open();
    trace.leaves(&out(7, 1, SYN, b""));
    assert!(trace.told().contains("opens with"));
}

#[test]
fn connections_from_before_and_after_are_left_alone() {
    let mut trace = Trace { checker: Checker::new(PROGRAM.0), at: 0 };
    trace.leaves(&out(1, 1, RST, b""));
    trace.held();
    // The same ports once more are another connection.
    let mut trace = Trace::open();
    trace.leaves(&out(1, 1, 0, b"old"));
    trace.hears(segment(77, 0, SYN, b""));
    trace.leaves(&segment(1000, 78, SYN | ACK, b""));
    trace.leaves(&segment(1001, 78, ACK, b"new"));
    assert_eq!(trace.held().connections, 2);
    // Who was reset by its peer may be told anything.
    trace.hears(segment(78, 0, RST, b""));
    trace.leaves(&segment(1001, 78, RST, b""));
    trace.held();
}

#[test]
fn numbers_are_counted_on_over_their_end() {
    assert_eq!(count_on(0, FIRST, FIRST.wrapping_add(20)), 20);
    assert_eq!(count_on(1 << 33, 5, 5_u32.wrapping_add(7)), (1 << 33) + 7);
    assert_eq!(count_on((1 << 33) + 7, 5, 5), 1 << 33);
    assert_eq!(count_on(3, 5, 4), 0);
}

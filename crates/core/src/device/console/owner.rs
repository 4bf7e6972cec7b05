//! The owner of the console: who prints when, and what is printed of what has come.
use super::{
    WINDOW,
    packet::{Known, Packet},
};
use crate::services::Services;
use alloc::{
    collections::{BTreeMap, VecDeque},
    string::String,
    vec::Vec,
};
use shimos_abi::ids::{KernelId, MAX_PROGRAMS, ProgramId};
use shimos_hal::Machine;
use shimos_ikc::Endpoint;

/// Bytes that the machine is given in one turn: it may take microseconds for each, and other work waits.
const FLUSH: usize = 256;
/// Bytes of an unfinished line that the owner keeps.
const LINE_LIMIT: usize = 4096;
/// Bytes that one source prints before it is another's turn.
const TURN: usize = 4096;
/// Lines of kernels that the owner keeps.
const KERNEL_LINES: usize = 4096;

/// What the owner of the console keeps: bytes, and never more than one line made of them. Those who print take turns, so that one
/// who never stops keeps no other waiting.
#[derive(Default)]
pub struct ConsoleOwner {
    streams: BTreeMap<(ProgramId, u64), Stream>,
    kernel_lines: VecDeque<String>,
    /// Whose turn it is, and how many bytes of it are left.
    turn: Source,
    left: usize,
    /// The line that the machine takes now.
    line: Option<Line>,
    /// Bytes of it that it has taken.
    taken: usize,
    giving_up: bool,
}

/// Whose lines they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Source {
    #[default]
    Kernels,
    /// A stream of a program.
    Program(ProgramId, u64),
}

/// A line for the machine.
struct Line {
    bytes: Vec<u8>,
    source: Source,
    /// What is before this place of a program's stream is printed when the line is.
    place: u64,
}

/// Output of a program.
struct Stream {
    name: String,
    /// What is before this place is printed, or in the line that the machine takes now.
    next: u64,
    /// What comes after it and has arrived.
    bytes: VecDeque<u8>,
    /// Bytes of the first line, if all of it is there.
    ready: Option<usize>,
    /// Nothing more will come.
    ended: bool,
}

impl Stream {
    fn new(name: String, next: u64) -> Stream {
        Stream { name, next, bytes: VecDeque::new(), ready: None, ended: false }
    }

    fn take(&mut self, at: u64, bytes: &[u8]) {
        let end = self.next.saturating_add(self.bytes.len() as u64);
        // What is further on was on its way to the owner before; all of it comes again.
        if at > end {
            return;
        }
        let old = (end - at).min(bytes.len() as u64) as usize;
        // A program has no more than this on its way; a peer that sends more is out of order.
        let room = WINDOW.saturating_sub(self.bytes.len());
        self.bytes.extend(bytes[old..].iter().take(room));
        self.look();
    }

    /// What is before this place is printed.
    fn skip_to(&mut self, place: u64) {
        let count = place.saturating_sub(self.next).min(self.bytes.len() as u64) as usize;
        self.bytes.drain(..count);
        self.next = self.next.max(place);
        self.look();
    }

    fn end(&mut self) {
        self.ended = true;
        self.look();
    }

    /// Looks for the end of the first line.
    fn look(&mut self) {
        let line = self.bytes.iter().take(LINE_LIMIT).position(|&byte| byte == b'\n').map(|at| at + 1);
        let cut = self.bytes.len().min(LINE_LIMIT);
        let must_cut = cut == LINE_LIMIT || self.ended && cut > 0;
        self.ready = line.or(must_cut.then_some(cut));
    }

    /// The first line, as it is printed.
    fn next_line(&mut self) -> Option<Vec<u8>> {
        let count = self.ready?;
        let mut line = [self.name.as_bytes(), b"| "].concat();
        line.extend(self.bytes.drain(..count));
        if !line.ends_with(b"\n") {
            line.push(b'\n');
        }
        self.next = self.next.saturating_add(count as u64);
        self.look();
        Some(line)
    }
}

impl ConsoleOwner {
    pub(super) fn take(&mut self, packet: Packet, ikc: &Endpoint) {
        match packet {
            Packet::Kernel(line) => {
                if self.kernel_lines.len() < KERNEL_LINES {
                    self.kernel_lines.push_back(line);
                }
            }
            Packet::Output { program, name, at, bytes, stream, known } => {
                if let Some(stream) = self.stream(program, (stream, name), known, ikc) {
                    stream.take(at, &bytes);
                }
            }
            Packet::End { program, stream } => {
                if let Some(stream) = self.streams.get_mut(&(program, stream)) {
                    stream.end();
                }
                self.forget_ended();
            }
        }
    }

    /// The stream that a packet is of.
    fn stream(
        &mut self,
        program: ProgramId,
        (id, name): (u64, String),
        known: Known,
        ikc: &Endpoint,
    ) -> Option<&mut Stream> {
        let key = (program, id);
        if !self.streams.contains_key(&key) {
            // Another program had the number: what it has not printed by now ends here.
            self.streams.range_mut((program, 0)..=(program, u64::MAX)).for_each(|(_, other)| other.end());
            self.forget_ended();
            // Of streams that have ended a few are not printed yet; a peer that has more is out of order.
            if usize::from(program.0) >= MAX_PROGRAMS || self.streams.len() >= 2 * MAX_PROGRAMS {
                return None;
            }
            // An owner that died may have left nonsense.
            let told = ikc.area().printed(ikc.me().kernel, program, id);
            let next = if told <= known.written { told } else { known.printed };
            self.streams.insert(key, Stream::new(name, next));
        }
        let stream = self.streams.get_mut(&key)?;
        // Owners before this one have printed what the sender has forgotten.
        stream.skip_to(known.printed.min(known.written));
        Some(stream)
    }

    fn forget_ended(&mut self) {
        self.streams.retain(|_, stream| !stream.ended || !stream.bytes.is_empty());
    }

    /// The next line, of whoever has the turn.
    fn next_line(&mut self) -> Option<Line> {
        if self.left == 0 || !self.ready().any(|source| source == self.turn) {
            let next = self.ready().find(|source| *source > self.turn).or_else(|| self.ready().next());
            self.turn = next?;
            self.left = TURN;
        }
        let (bytes, place) = match self.turn {
            Source::Kernels => (self.kernel_lines.pop_front()?.into_bytes(), 0),
            Source::Program(program, id) => {
                let stream = self.streams.get_mut(&(program, id))?;
                (stream.next_line()?, stream.next)
            }
        };
        self.left = self.left.saturating_sub(bytes.len());
        Some(Line { bytes, source: self.turn, place })
    }

    /// Who has a line, in order.
    fn ready(&self) -> impl Iterator<Item = Source> {
        let kernels = (!self.kernel_lines.is_empty()).then_some(Source::Kernels);
        let streams = self.streams.iter().filter(|(_, stream)| stream.ready.is_some());
        kernels.into_iter().chain(streams.map(|((program, id), _)| Source::Program(*program, *id)))
    }

    /// Gives the machine what it takes, and no more than a turn of the kernel has time for.
    pub fn flush<M: Machine>(&mut self, machine: &mut M, ikc: &mut Endpoint) {
        let mut may = FLUSH;
        while !self.giving_up {
            if self.line.is_none() {
                self.line = self.next_line();
            }
            let Some(line) = &self.line else { return };
            let wanted = &line.bytes[self.taken..];
            let wanted = &wanted[..wanted.len().min(may)];
            let count = if wanted.is_empty() { 0 } else { machine.console_write(wanted).min(wanted.len()) };
            self.taken += count;
            may -= count;
            if self.taken < line.bytes.len() {
                return;
            }
            // Only now: who inherits the console from us prints what we had and did not print.
            if let Source::Program(program, stream) = line.source
                && self.is_last(program, stream)
            {
                ikc.set_printed(program, stream, line.place);
            }
            self.taken = 0;
            self.line = None;
            self.forget_ended();
        }
    }

    /// Whether no later program has the number. There is one mark for each number.
    fn is_last(&self, program: ProgramId, stream: u64) -> bool {
        let mut of_program = self.streams.range((program, 0)..=(program, u64::MAX));
        of_program.next_back().is_none_or(|((_, last), _)| *last <= stream)
    }

    /// Touches the machine's console no more, as another kernel is to take it. What comes is kept, in case it stays here.
    pub fn wind_down(&mut self) {
        self.giving_up = true;
    }

    /// The console stays here after all. A line that was begun is cut, and begins again.
    pub fn wind_up(&mut self) {
        self.giving_up = false;
        self.taken = 0;
    }

    /// What the next owner is to be told: lines of kernels. Programs send again what was not printed.
    pub fn into_kernel_lines(self) -> impl Iterator<Item = Vec<u8>> {
        let begun = self.line.filter(|line| line.source == Source::Kernels);
        let begun = begun.and_then(|line| String::from_utf8(line.bytes).ok());
        let lines = begun.into_iter().chain(self.kernel_lines).map(Packet::Kernel);
        lines.filter_map(|packet| minicbor::to_vec(packet).ok())
    }

    /// Whether something waits to be printed here.
    pub fn is_busy(&self) -> bool {
        !self.giving_up && (self.line.is_some() || self.ready().next().is_some())
    }
}
/// Goes on where the owner before has stopped: it is known what that one has printed.
pub fn inherit<M: Machine>(services: &mut Services<M>, from: KernelId) {
    let area = services.ikc.area();
    for (program, _) in area.programs() {
        if let Some((stream, bytes)) = area.printed_stream(from, program) {
            services.ikc.set_printed(program, stream, bytes);
        }
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn stream(name: &str) -> Stream {
        Stream::new(name.to_string(), 0)
    }

    fn next(owner: &mut ConsoleOwner) -> Option<String> {
        owner.next_line().map(|line| String::from_utf8(line.bytes).expect("text"))
    }

    #[test]
    fn many_small_pieces_fit_and_pieces_that_come_again_are_printed_once() {
        let mut stream = stream("a");
        for at in 0..WINDOW as u64 / 2 {
            stream.take(at * 2, b"y\n");
            stream.take(at, b"y\ny\n"[at as usize % 2..].split_at(1).0);
        }
        for place in 1..=WINDOW as u64 / 2 {
            assert_eq!(stream.next_line().as_deref(), Some(&b"a| y\n"[..]));
            assert_eq!(stream.next, place * 2);
        }
        assert_eq!(stream.next_line(), None);
        // One that is too far on was for the owner before.
        stream.take(WINDOW as u64 + 1, b"\n");
        assert_eq!(stream.next_line(), None);
    }

    #[test]
    fn long_and_last_lines_are_cut() {
        let mut stream = stream("a");
        stream.take(0, &[b'x'; LINE_LIMIT + 5]);
        assert_eq!(stream.next_line().map(|line| line.len()), Some(LINE_LIMIT + 4));
        assert_eq!(stream.next_line(), None);
        stream.end();
        assert_eq!(stream.next_line().as_deref(), Some(&b"a| xxxxx\n"[..]));
        assert_eq!(stream.next_line(), None);
    }

    #[test]
    fn what_others_have_printed_is_not_printed_again() {
        let mut stream = stream("a");
        stream.take(0, b"one\ntwo\nthree\n");
        stream.skip_to(4);
        assert_eq!(stream.next_line().as_deref(), Some(&b"a| two\n"[..]));
        stream.skip_to(100);
        stream.take(8, b"three\n");
        stream.take(100, b"four\n");
        assert_eq!(stream.next_line().as_deref(), Some(&b"a| four\n"[..]));
    }

    #[test]
    fn all_take_turns() {
        let mut owner = ConsoleOwner::default();
        for program in [1, 2] {
            let mut flood = stream("flood");
            flood.take(0, &b"y\n".repeat(WINDOW / 2));
            owner.streams.insert((ProgramId(program), 7), flood);
        }
        owner.left = TURN;
        owner.turn = Source::Program(ProgramId(1), 7);
        let mut quiet = stream("quiet");
        quiet.take(0, b"here\n");
        owner.streams.insert((ProgramId(3), 7), quiet);
        owner.kernel_lines.push_back("kernel\n".to_string());
        let mut before = Vec::new();
        let mut printed = 0;
        while let Some(line) = next(&mut owner) {
            if !line.starts_with("flood") {
                before.push((line, printed / TURN));
            }
            printed += "flood| y\n".len();
        }
        assert_eq!(before, [("quiet| here\n".to_string(), 2), ("kernel\n".to_string(), 2)]);
    }

    #[test]
    fn a_stream_is_forgotten_when_its_last_line_is_taken() {
        let mut owner = ConsoleOwner::default();
        let mut ended = stream("a");
        ended.take(0, b"last");
        ended.end();
        owner.streams.insert((ProgramId(1), 7), ended);
        owner.forget_ended();
        assert!(owner.is_busy());
        assert_eq!(next(&mut owner).as_deref(), Some("a| last\n"));
        owner.forget_ended();
        assert!(owner.streams.is_empty() && !owner.is_busy());
    }
}

//! The virtual console. A program's output is a stream of numbered bytes; the owner prints whole lines and drops bytes that it
//! has printed already, so that output released twice appears once.
use crate::{
    context::Context,
    program::Program,
    resident::{Key, Resident},
    services::Services,
    syscall::Progress,
};
use alloc::{
    collections::{BTreeMap, VecDeque},
    string::String,
    vec::Vec,
};
use minicbor::{Decode, Encode};
use shimos_abi::{
    control::Device,
    ids::{KernelId, ProgramId},
    shared::Queue,
    time::Nanos,
};
use shimos_hal::Machine;
use shimos_ikc::Endpoint;

/// Bytes of output in one packet.
const PIECE: usize = 1024;
/// Bytes that the machine is given in one turn: it may take microseconds for each, and other work waits.
const FLUSH: usize = 256;
/// Bytes of an unfinished line that the owner keeps.
const LINE_LIMIT: usize = 4096;
/// Bytes of a program's output that may be on their way to the printer at a time; more than a line.
const WINDOW: usize = 16 * 1024;
/// Packets that the owner keeps.
const ARRIVED_LIMIT: usize = 4096;
/// How long the last lines of a program that has ended may take.
const LAST_LINES: Nanos = Nanos::secs(1);
/// Packets kept while the owner is away.
const UNSENT_LIMIT: usize = 4096;

/// A console packet.
#[derive(Debug, Encode, Decode)]
enum Packet {
    /// A line of a kernel.
    #[n(0)]
    Kernel(#[n(0)] String),
    /// Output of a program.
    #[n(1)]
    Output {
        #[n(0)]
        program: ProgramId,
        #[n(1)]
        name: String,
        /// Place of the first byte in the program's stream.
        #[n(2)]
        at: u64,
        #[cbor(n(3), with = "minicbor::bytes")]
        bytes: Vec<u8>,
        /// Which stream of this program id it is: when the program started.
        #[n(4)]
        stream: u64,
        /// What the sender knows of it.
        #[n(5)]
        known: Known,
    },
    /// The stream of a program has ended.
    #[n(2)]
    End(#[n(0)] ProgramId),
}

/// What the sender of a piece knows of its stream.
#[derive(Clone, Copy, Debug, Encode, Decode)]
struct Known {
    /// What is before this place is printed.
    #[n(0)]
    printed: u64,
    /// Nothing was ever written from this place on.
    #[n(1)]
    written: u64,
}

/// What the owner of the console keeps.
#[derive(Default)]
pub struct ConsoleOwner {
    streams: BTreeMap<ProgramId, Stream>,
    /// What came and is not taken apart yet. Lines need far more memory than what they are made of.
    arrived: VecDeque<Packet>,
    /// Lines of one packet that the machine has not taken yet.
    lines: VecDeque<Line>,
    /// Bytes of the first one that it has taken.
    taken: usize,
    giving_up: bool,
}

/// A line for the machine.
struct Line {
    bytes: Vec<u8>,
    /// Whose it is; a kernel's if none.
    of: Option<Printed>,
}

/// A place of a program's stream.
struct Printed {
    program: ProgramId,
    stream: u64,
    /// What is before this place of the stream is printed when the line is.
    place: u64,
}

#[derive(Default)]
struct Stream {
    id: u64,
    name: String,
    /// What is before this place is printed, or in `line`.
    next: u64,
    line: Vec<u8>,
}

impl ConsoleOwner {
    fn take(&mut self, packet: Packet) {
        // Programs have less than this on their way; a peer that sends more is out of order.
        if self.arrived.len() < ARRIVED_LIMIT {
            self.arrived.push_back(packet);
        }
    }

    fn take_apart(&mut self, packet: Packet, ikc: &Endpoint) {
        match packet {
            Packet::Kernel(line) => self.lines.push_back(Line { bytes: line.into_bytes(), of: None }),
            Packet::Output { program, name, at, bytes, stream, known } => {
                self.take_output(program, (stream, name), (at, &bytes), known, ikc);
            }
            Packet::End(program) => {
                if let Some(mut stream) = self.streams.remove(&program) {
                    if !stream.line.is_empty() {
                        stream.line.push(b'\n');
                    }
                    self.print(program, &stream);
                }
            }
        }
    }

    fn take_output(
        &mut self,
        program: ProgramId,
        (id, name): (u64, String),
        (at, bytes): (u64, &[u8]),
        known: Known,
        ikc: &Endpoint,
    ) {
        // An owner that died may have left nonsense.
        let told = ikc.area().printed(ikc.me().kernel, program, id);
        let printed = if told <= known.written { told } else { known.printed };
        let mut stream = self.streams.remove(&program).unwrap_or_default();
        if stream.id != id || stream.next == 0 {
            stream = Stream { id, name, next: printed, line: Vec::new() };
        }
        // Owners before this one have printed what the sender has forgotten.
        stream.next = stream.next.max(known.printed);
        // What is further on was on its way to the owner before; all of it comes again.
        if at <= stream.next {
            let old = (stream.next - at).min(bytes.len() as u64) as usize;
            for byte in &bytes[old..] {
                stream.next += 1;
                stream.line.push(*byte);
                if *byte == b'\n' || stream.line.len() >= LINE_LIMIT {
                    if *byte != b'\n' {
                        stream.line.push(b'\n');
                    }
                    self.print(program, &stream);
                    stream.line.clear();
                }
            }
        }
        self.streams.insert(program, stream);
    }

    /// Puts a line there that the machine is to print.
    fn print(&mut self, program: ProgramId, stream: &Stream) {
        let parts: [&[u8]; 3] = [stream.name.as_bytes(), b"| ", &stream.line];
        let bytes = if stream.line.is_empty() { Vec::new() } else { parts.concat() };
        self.lines.push_back(Line { bytes, of: Some(Printed { program, stream: stream.id, place: stream.next }) });
    }

    /// Gives the machine what it takes, and no more than a turn has time for.
    pub fn flush<M: Machine>(&mut self, machine: &mut M, ikc: &mut Endpoint) {
        let mut left = FLUSH;
        while !self.giving_up {
            let Some(line) = self.lines.front() else {
                let Some(packet) = self.arrived.pop_front() else { return };
                self.take_apart(packet, ikc);
                continue;
            };
            let wanted = &line.bytes[self.taken..];
            let wanted = &wanted[..wanted.len().min(left)];
            let count = if wanted.is_empty() { 0 } else { machine.console_write(wanted).min(wanted.len()) };
            self.taken += count;
            left -= count;
            if self.taken < line.bytes.len() {
                return;
            }
            // Only now: who inherits the console from us prints what we had and did not print.
            if let Some(of) = &line.of {
                ikc.set_printed(of.program, of.stream, of.place);
            }
            self.taken = 0;
            self.lines.pop_front();
        }
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
        let lines = self.lines.into_iter().filter(|line| line.of.is_none());
        let begun = lines.filter_map(|line| String::from_utf8(line.bytes).ok()).map(Packet::Kernel);
        let arrived = self.arrived.into_iter().filter(|packet| matches!(packet, Packet::Kernel(_)));
        begun.chain(arrived).filter_map(|packet| minicbor::to_vec(packet).ok())
    }

    /// Whether something waits to be printed here.
    pub fn is_busy(&self) -> bool {
        !self.giving_up && (!self.lines.is_empty() || !self.arrived.is_empty())
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

fn dispatch<M: Machine>(services: &mut Services<M>, packet: Packet) {
    if let Some(console) = &mut services.console {
        console.take(packet);
        return;
    }
    let Ok(bytes) = minicbor::to_vec(&packet) else { return };
    if services.unsent_console.len() >= UNSENT_LIMIT {
        services.unsent_console.pop_front();
    }
    services.unsent_console.push_back(bytes);
    flush_unsent(services);
}

/// Sends console packets that wait for room in the queue or for an owner.
pub fn flush_unsent<M: Machine>(services: &mut Services<M>) {
    while let Some(bytes) = services.unsent_console.pop_front() {
        if let Some(console) = &mut services.console {
            if let Ok(packet) = minicbor::decode(&bytes) {
                console.take(packet);
            }
            continue;
        }
        let sent = services.owner(Device::Console).map(|owner| services.send(owner, Queue::Console, &[&bytes]));
        if !matches!(sent, Some(Ok(()))) {
            services.unsent_console.push_front(bytes);
            return;
        }
    }
}

/// A line of the kernel's own.
pub fn kernel_line<M: Machine>(services: &mut Services<M>, line: &str) {
    dispatch(services, Packet::Kernel(String::from(line)));
    // At once if possible: it may be its last words.
    if let Some(console) = &mut services.console {
        console.flush(&mut services.machine, &mut services.ikc);
    }
}

/// Forgets what was printed of a program's output, and sends what it may show. What finds no room is sent later.
pub fn work<M: Machine>(services: &mut Services<M>, resident: &mut Resident<M>) {
    let owner = services.ikc.area().owner(Device::Console);
    let program = &mut resident.program;
    if program.terminal.sent_to != owner {
        program.terminal.sent_to = owner;
        program.terminal.sent = 0;
    }
    let full = !program.terminal.has_room();
    if let Some(owner) = owner
        && !program.terminal.unprinted.0.is_empty()
    {
        let stream = program.head.started.0;
        program.terminal.note_printed(services.ikc.area().printed(owner.kernel, program.head.id, stream));
    }
    while services.unsent_console.is_empty()
        && let Some(packet) = next_packet(program, WINDOW)
    {
        dispatch(services, packet);
    }
    if full {
        resident.wake(Key::Terminal);
    }
}

/// The next piece of a program's output that may leave, if no more than `window` bytes are on their way.
fn next_packet(program: &mut Program, window: usize) -> Option<Packet> {
    let (at, bytes) = program.terminal.next_piece(PIECE, window)?;
    program.terminal.sent = at + bytes.len() as u64;
    Some(Packet::Output {
        program: program.head.id,
        name: program.head.name.clone(),
        at,
        bytes,
        stream: program.head.started.0,
        known: Known { printed: program.terminal.printed(), written: program.terminal.written },
    })
}

/// Whether all lines of a program that has ended are printed, or nobody prints them within a time.
pub fn is_done<M: Machine>(resident: &Resident<M>, closed: Nanos, now: Nanos) -> bool {
    let terminal = &resident.program.terminal;
    !terminal.unprinted.0.contains(&b'\n') || now >= closed + LAST_LINES
}

/// A program has ended.
pub fn ended<M: Machine>(services: &mut Services<M>, resident: &mut Resident<M>) {
    // All of it at once: there is no later.
    while let Some(packet) = next_packet(&mut resident.program, usize::MAX) {
        dispatch(services, packet);
    }
    dispatch(services, Packet::End(resident.program.head.id));
}

/// A packet has come from another kernel.
pub fn receive<M: Machine>(services: &mut Services<M>, bytes: &[u8]) {
    let Ok(packet) = minicbor::decode::<Packet>(bytes) else { return };
    // Not the owner any more: pass it on.
    dispatch(services, packet);
}

/// A program writes to its console. It has to wait while too much is not printed.
pub fn write<M: Machine>(c: &mut Context<'_, M>, bytes: &[u8]) -> Progress {
    let holds = c.resident.program.holds_output();
    let terminal = &mut c.resident.program.terminal;
    if !terminal.has_room() {
        return Progress::Wait(Key::Terminal);
    }
    let shown = terminal.show(bytes);
    if !holds {
        terminal.release();
        work(c.services, c.resident);
    }
    Progress::Moved(shown)
}

//! The virtual console. A program's output is a stream of numbered bytes; the owner prints whole lines and drops bytes that it
//! has printed already, so that output released twice appears once.
use crate::{context::Context, program::Held, services::Services};
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use minicbor::{Decode, Encode};
use shimos_abi::{control::Device, ids::ProgramId, shared::Queue};
use shimos_hal::Machine;

/// Bytes of output in one packet.
const PIECE: usize = 1024;
/// Bytes of an unfinished line that the owner keeps.
const LINE_LIMIT: usize = 4096;
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
    },
    /// The stream of a program has ended; another may use the id.
    #[n(2)]
    End(#[n(0)] ProgramId),
}

/// What the owner of the console keeps.
#[derive(Default)]
pub struct ConsoleOwner {
    streams: BTreeMap<ProgramId, Stream>,
    /// Bytes that the machine has not taken yet.
    backlog: Vec<u8>,
}

#[derive(Default)]
struct Stream {
    name: String,
    next: Option<u64>,
    line: Vec<u8>,
}

impl ConsoleOwner {
    fn take(&mut self, packet: Packet) {
        match packet {
            Packet::Kernel(line) => self.backlog.extend_from_slice(line.as_bytes()),
            Packet::Output { program, name, at, bytes } => self.take_output(program, name, at, &bytes),
            Packet::End(program) => {
                if let Some(mut stream) = self.streams.remove(&program) {
                    if !stream.line.is_empty() {
                        stream.line.push(b'\n');
                    }
                    print(&mut self.backlog, &stream.name, &stream.line);
                }
            }
        }
    }

    fn take_output(&mut self, program: ProgramId, name: String, at: u64, bytes: &[u8]) {
        let stream = self.streams.entry(program).or_default();
        if stream.name != name {
            *stream = Stream { name, ..Stream::default() };
        }
        let next = stream.next.unwrap_or(at);
        // A gap cannot happen in order; after a new owner has come the stream simply goes on.
        let known = next.saturating_sub(at).min(bytes.len() as u64) as usize;
        let fresh = &bytes[known..];
        stream.next = Some(next.max(at + bytes.len() as u64));
        for byte in fresh {
            stream.line.push(*byte);
            if *byte == b'\n' || stream.line.len() >= LINE_LIMIT {
                if *byte != b'\n' {
                    stream.line.push(b'\n');
                }
                print(&mut self.backlog, &stream.name, &stream.line);
                stream.line.clear();
            }
        }
    }

    /// Gives the machine what it takes.
    pub fn flush<M: Machine>(&mut self, machine: &mut M) {
        if !self.backlog.is_empty() {
            let taken = machine.console_write(&self.backlog).min(self.backlog.len());
            self.backlog.drain(..taken);
        }
    }

    /// Whether bytes wait to be printed.
    pub fn is_busy(&self) -> bool {
        !self.backlog.is_empty()
    }
}

fn print(to: &mut Vec<u8>, name: &str, line: &[u8]) {
    if !line.is_empty() {
        to.extend_from_slice(name.as_bytes());
        to.extend_from_slice(b"| ");
        to.extend_from_slice(line);
    }
}

fn dispatch<M: Machine>(services: &mut Services<M>, packet: Packet) {
    if let Some(console) = &mut services.console {
        console.take(packet);
        console.flush(&mut services.machine);
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
}

/// Output that may leave the program now.
pub fn release<M: Machine>(services: &mut Services<M>, program: ProgramId, name: &str, at: u64, bytes: &[u8]) {
    let mut place = at;
    for piece in bytes.chunks(PIECE) {
        dispatch(services, Packet::Output { program, name: String::from(name), at: place, bytes: piece.to_vec() });
        place += piece.len() as u64;
    }
}

/// A program has ended.
pub fn ended<M: Machine>(services: &mut Services<M>, program: ProgramId) {
    dispatch(services, Packet::End(program));
}

/// A packet has come from another kernel.
pub fn receive<M: Machine>(services: &mut Services<M>, bytes: &[u8]) {
    let Ok(packet) = minicbor::decode::<Packet>(bytes) else { return };
    // Not the owner any more: pass it on.
    dispatch(services, packet);
}

/// A program writes to its console.
pub fn write<M: Machine>(c: &mut Context<'_, M>, bytes: &[u8]) {
    let program = &mut c.resident.program;
    let at = program.terminal.written;
    program.terminal.written += bytes.len() as u64;
    if program.holds_output() {
        match program.held.back_mut() {
            // Joined, so that a program that writes byte by byte does not fill the queue.
            Some(Held::Console(_, last)) if last.len() < PIECE => last.extend_from_slice(bytes),
            _ => program.held.push_back(Held::Console(at, bytes.to_vec())),
        }
    } else {
        let (id, name) = (program.head.id, program.head.name.clone());
        release(c.services, id, &name, at, bytes);
    }
}

//! Those who print: kernels, and the programs that live in them.
use super::{
    WINDOW,
    packet::{Known, Packet},
};
use crate::{
    context::Context,
    program::Program,
    resident::{Key, Resident},
    services::Services,
    syscall::Progress,
};
use alloc::string::String;
use shimos_abi::{control::Device, shared::Queue, time::Nanos};
use shimos_hal::Machine;

/// Bytes of output in one packet.
const PIECE: usize = 1024;
/// How long nothing may be printed of what a program has left when it ended.
const LAST_LINES: Nanos = Nanos::secs(1);
/// Packets kept while the owner is away.
const UNSENT_LIMIT: usize = 4096;

/// Gives a packet to who drives the console, now or as soon as that is possible.
fn dispatch<M: Machine>(services: &mut Services<M>, packet: Packet) {
    if let Err(packet) = offer(services, packet)
        && let Ok(bytes) = minicbor::to_vec(&packet)
    {
        if services.unsent_console.len() >= UNSENT_LIMIT {
            services.unsent_console.pop_front();
        }
        services.unsent_console.push_back(bytes);
    }
}

/// Gives a packet to who drives the console, after all that waits for that; gives it back if it has to wait too.
fn offer<M: Machine>(services: &mut Services<M>, packet: Packet) -> Result<(), Packet> {
    flush_unsent(services);
    if let Some(console) = &mut services.console {
        console.take(packet, &services.ikc);
        return Ok(());
    }
    if !services.unsent_console.is_empty() {
        return Err(packet);
    }
    let (Some(owner), Ok(bytes)) = (services.owner(Device::Console), minicbor::to_vec(&packet)) else {
        return Err(packet);
    };
    services.send(owner, Queue::Console, &[&bytes]).map_err(|_| packet)
}

/// Sends console packets that wait for room in the queue or for an owner.
pub fn flush_unsent<M: Machine>(services: &mut Services<M>) {
    while let Some(bytes) = services.unsent_console.pop_front() {
        if let Some(console) = &mut services.console {
            if let Ok(packet) = minicbor::decode(&bytes) {
                console.take(packet, &services.ikc);
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
    while let Some((packet, end)) = next_packet(program, WINDOW)
        && offer(services, packet).is_ok()
    {
        program.terminal.sent = end;
    }
    if full {
        resident.wake(Key::Terminal);
    }
}

/// The next piece of a program's output that may leave, if no more than `window` bytes are on their way then, and where it ends.
fn next_packet(program: &Program, window: usize) -> Option<(Packet, u64)> {
    let (at, bytes) = program.terminal.next_piece(PIECE, window)?;
    let end = at + bytes.len() as u64;
    let packet = Packet::Output {
        program: program.head.id,
        name: program.head.name.clone(),
        at,
        bytes,
        stream: program.head.started.0,
        known: Known { printed: program.terminal.printed(), written: program.terminal.written },
    };
    Some((packet, end))
}

/// Whether all lines of a program that has ended are printed, or nobody has printed one since a time.
pub fn is_done<M: Machine>(resident: &Resident<M>, last: Nanos, now: Nanos) -> bool {
    resident.program.terminal.is_drained() || now >= last + LAST_LINES
}

/// A program has ended.
pub fn ended<M: Machine>(services: &mut Services<M>, resident: &mut Resident<M>) {
    // As much as is taken at once: there is no later.
    while let Some((packet, end)) = next_packet(&resident.program, WINDOW) {
        dispatch(services, packet);
        resident.program.terminal.sent = end;
    }
    let head = &resident.program.head;
    dispatch(services, Packet::End { program: head.id, stream: head.started.0 });
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

//! Reading, writing and polling of terminals and of the masters of pairs.
use super::{
    transfer::{Waiting, wait_if},
    writing::Progress,
};
use crate::{
    context::{Context, Result},
    event::epoll::bits,
    files::Kind,
    jobs::{self, TtyName},
    program::Program,
    resident::Key,
    signal::Signal,
    tty::{Flow, Input, Master, PairId, settings::local},
};
use alloc::vec::Vec;
use shimos_abi::errno::Errno;
use shimos_hal::Machine;

/// A terminal that a description is open on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Which.
    pub name: TtyName,
    /// Whether it was hung up since.
    pub line: Line,
}

/// Whether a description of a terminal still works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    /// It does.
    Up,
    /// It was hung up: it gives end of file, and takes nothing.
    Down,
}

/// The terminal that a description's kind names; `None` for what is no terminal, and for masters.
pub fn opened(program: &Program, kind: &Kind) -> Option<Opened> {
    match kind {
        Kind::Console(_) => Some(Opened { name: TtyName::Console, line: Line::Up }),
        Kind::Slave { pair, hangups, .. } => {
            let current = program.pairs.get(pair).map(|pair| pair.tty.hangups);
            let line = if current == Some(*hangups) { Line::Up } else { Line::Down };
            Some(Opened { name: TtyName::Slave(*pair), line })
        }
        _ => None,
    }
}

/// Reads from a terminal.
pub fn read<M: Machine>(c: &mut Context<'_, M>, opened: Opened, count: usize, waiting: Waiting) -> Result<Vec<u8>> {
    if opened.line == Line::Down {
        return Ok(Vec::new());
    }
    jobs::check_foreground(c, opened.name, Signal::TTIN)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let now = c.now();
    let tty = c.resident.program.tty(opened.name).ok_or(Errno::EIO)?;
    let arrived = tty.arrived.unwrap_or_default();
    let late = match tty.input(count) {
        Input::Ready => true,
        // Bytes that are too few for VMIN are better than none.
        Input::Bytes | Input::Another(_) if waiting == Waiting::Refused && tty.readable_bytes() > 0 => true,
        Input::Line | Input::Bytes => false,
        Input::Within(time) => now >= c.deadline_in(time)?,
        Input::Another(time) => {
            let first = c.deadline_in(time)?;
            let deadline = first.max(arrived + time);
            c.move_deadline(deadline)?;
            now >= deadline
        }
    };
    if !late {
        return wait_if(c, waiting, opened.name.key());
    }
    let mut signals = Vec::new();
    let bytes = c.resident.program.tty_mut(opened.name).ok_or(Errno::EIO)?.read(count, &mut signals);
    // There may be room for the master's bytes again.
    jobs::settle(c.resident, opened.name, &signals);
    Ok(bytes)
}

/// Writes to a terminal.
pub fn write<M: Machine>(c: &mut Context<'_, M>, opened: Opened, bytes: &[u8]) -> Result<Progress> {
    if opened.line == Line::Down {
        return Err(Errno::EIO.into());
    }
    let tty = c.resident.program.tty(opened.name).ok_or(Errno::EIO)?;
    let (stops, flow) = (tty.settings.has_local(local::TOSTOP), tty.flow);
    if stops {
        jobs::check_foreground(c, opened.name, Signal::TTOU)?;
    }
    let TtyName::Slave(id) = opened.name else {
        if flow != Flow::Going {
            return Ok(Progress::Wait(opened.name.key()));
        }
        return Ok(crate::device::console::write(c, bytes));
    };
    let pair = c.resident.program.pairs.get_mut(&id).ok_or(Errno::EIO)?;
    if pair.master == Master::Closed {
        return Err(Errno::EIO.into());
    }
    let written = pair.write(bytes);
    if written == 0 && !bytes.is_empty() {
        return Ok(Progress::Wait(Key::Pair(id)));
    }
    c.wake(Key::Pair(id));
    Ok(Progress::Moved(written))
}

/// Reads from a master what programs have written to the slave.
pub fn read_master<M: Machine>(c: &mut Context<'_, M>, id: PairId, count: usize, waiting: Waiting) -> Result<Vec<u8>> {
    let pair = c.resident.program.pairs.get_mut(&id).ok_or(Errno::EIO)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    if !pair.master_is_readable() {
        return if pair.deserted { Err(Errno::EIO.into()) } else { wait_if(c, waiting, Key::Pair(id)) };
    }
    let bytes = pair.read_master(count);
    c.wake(Key::Pair(id));
    Ok(bytes)
}

/// Writes to a master: it is typed at the slave.
pub fn write_master<M: Machine>(c: &mut Context<'_, M>, id: PairId, bytes: &[u8]) -> Result<Progress> {
    let now = c.now();
    let pair = c.resident.program.pairs.get_mut(&id).ok_or(Errno::EIO)?;
    if pair.input_flow != Flow::Going {
        return Ok(Progress::Wait(Key::Pair(id)));
    }
    let mut signals = Vec::new();
    let taken = pair.tty.receive(bytes, now, &mut signals);
    jobs::settle(c.resident, TtyName::Slave(id), &signals);
    if taken == 0 && !bytes.is_empty() { Ok(Progress::Wait(Key::Pair(id))) } else { Ok(Progress::Moved(taken)) }
}

/// What a terminal is ready for (poll(2)).
pub fn readiness(program: &Program, opened: Opened) -> u16 {
    let Some(tty) = program.tty(opened.name).filter(|_| opened.line == Line::Up) else {
        return bits::READ | bits::WRITE | bits::ERR | bits::HUP;
    };
    let typed = if tty.is_readable() { bits::READ } else { 0 };
    let room = match opened.name {
        TtyName::Console => tty.flow == Flow::Going && program.terminal.has_room(),
        TtyName::Slave(id) => program.pairs.get(&id).is_some_and(|pair| pair.has_room()),
    };
    typed | if room { bits::WRITE } else { 0 }
}

/// What a master is ready for (poll(2)).
pub fn master_readiness(program: &Program, id: PairId) -> u16 {
    let Some(pair) = program.pairs.get(&id) else { return bits::ERR | bits::HUP };
    let mut ready = 0;
    if pair.master_is_readable() {
        ready |= bits::READ;
    }
    if pair.packet.is_some_and(|told| told != 0) {
        ready |= bits::PRI;
    }
    if pair.deserted {
        ready |= bits::HUP;
    }
    if pair.tty.accepts() && pair.input_flow == Flow::Going {
        ready |= bits::WRITE;
    }
    ready
}

/// Opens a pair by its master (/dev/ptmx).
pub fn open_master<M: Machine>(c: &mut Context<'_, M>) -> Result<PairId> {
    let program = &c.resident.program;
    let id =
        (0..crate::tty::PAIRS_LIMIT).map(PairId).find(|id| !program.pairs.contains_key(id)).ok_or(Errno::ENOSPC)?;
    let uid = c.process()?.credentials.euid;
    let now = c.services.machine.wall_clock() as i64;
    c.resident.program.pairs.insert(id, crate::tty::Pair::new(uid, now));
    Ok(id)
}

/// Opens a slave. A session leader without a terminal gets it as its own, unless it asked not to.
pub fn open_slave<M: Machine>(c: &mut Context<'_, M>, id: PairId, control: Control) -> Result<u32> {
    let root = c.process()?.credentials.euid == 0;
    let pair = c.resident.program.pairs.get_mut(&id).ok_or(Errno::ENXIO)?;
    if pair.master == Master::Closed || pair.locked {
        return Err(Errno::EIO.into());
    }
    if pair.tty.exclusive && !root {
        return Err(Errno::EBUSY.into());
    }
    let (hangups, free) = (pair.tty.hangups, pair.tty.session.is_none());
    pair.slaves = pair.slaves.saturating_add(1);
    pair.deserted = false;
    if control == Control::Take && free && jobs::may_acquire(c)? {
        jobs::acquire(c, TtyName::Slave(id))?;
    }
    c.wake(Key::Pair(id));
    Ok(hangups)
}

/// Whether opening a terminal may make it the controlling one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// Where the rules allow it.
    Take,
    /// Never (O_NOCTTY, or not open for reading).
    Leave,
}

/// The caller's controlling terminal (/dev/tty).
pub fn own<M: Machine>(c: &Context<'_, M>) -> Result<TtyName> {
    Ok(c.resident.program.controlling(c.process()?).ok_or(Errno::ENXIO)?)
}

//! ioctl(2) on terminals and on masters of pairs (ioctl_tty(2)).
use super::{
    Arguments,
    descriptors::on_exec,
    terminals::{self, Control, Line},
    transfer::flags,
};
use crate::{
    context::{Context, Result},
    devpts,
    files::{DescriptionId, Descriptor, Kind, Place},
    jobs::{self, Leaving, TtyName},
    signal::Signal,
    tty::{Flow, Form, PairId, settings::character},
};
use alloc::{format, vec::Vec};
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_hal::Machine;
use shimos_vfs::{NodeId, Rdev};

#[allow(missing_docs, reason = "the names are those of ioctl_tty(2)")]
mod request {
    pub const TCGETS: u64 = 0x5401;
    pub const TCSETS: u64 = 0x5402;
    pub const TCSETSW: u64 = 0x5403;
    pub const TCSETSF: u64 = 0x5404;
    pub const TCGETA: u64 = 0x5405;
    pub const TCSETA: u64 = 0x5406;
    pub const TCSETAW: u64 = 0x5407;
    pub const TCSETAF: u64 = 0x5408;
    pub const TCSBRK: u64 = 0x5409;
    pub const TCXONC: u64 = 0x540a;
    pub const TCFLSH: u64 = 0x540b;
    pub const TIOCEXCL: u64 = 0x540c;
    pub const TIOCNXCL: u64 = 0x540d;
    pub const TIOCSCTTY: u64 = 0x540e;
    pub const TIOCGPGRP: u64 = 0x540f;
    pub const TIOCSPGRP: u64 = 0x5410;
    pub const TIOCOUTQ: u64 = 0x5411;
    pub const TIOCSTI: u64 = 0x5412;
    pub const TIOCGWINSZ: u64 = 0x5413;
    pub const TIOCSWINSZ: u64 = 0x5414;
    pub const FIONREAD: u64 = 0x541b;
    pub const TIOCPKT: u64 = 0x5420;
    pub const TIOCNOTTY: u64 = 0x5422;
    pub const TIOCSETD: u64 = 0x5423;
    pub const TIOCGETD: u64 = 0x5424;
    pub const TCSBRKP: u64 = 0x5425;
    pub const TIOCSBRK: u64 = 0x5427;
    pub const TIOCCBRK: u64 = 0x5428;
    pub const TIOCGSID: u64 = 0x5429;
    pub const TIOCVHANGUP: u64 = 0x5437;
    pub const TCGETS2: u64 = 0x802c_542a;
    pub const TCSETS2: u64 = 0x402c_542b;
    pub const TCSETSW2: u64 = 0x402c_542c;
    pub const TCSETSF2: u64 = 0x402c_542d;
    pub const TIOCGPTN: u64 = 0x8004_5430;
    pub const TIOCSPTLCK: u64 = 0x4004_5431;
    pub const TIOCGDEV: u64 = 0x8004_5432;
    pub const TIOCSIG: u64 = 0x4004_5436;
    pub const TIOCGPKT: u64 = 0x8004_5438;
    pub const TIOCGPTLCK: u64 = 0x8004_5439;
    pub const TIOCGEXCL: u64 = 0x8004_5440;
    pub const TIOCGPTPEER: u64 = 0x5441;
}
use request as r;

/// Which side of a terminal a descriptor is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    /// The terminal itself.
    Tty,
    /// The master of the pair.
    Master(PairId),
}

/// A request on the terminal or master that description `id` is open on; ENOTTY for what is neither.
pub fn ioctl<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, a: Arguments) -> Result<u64> {
    let [_, request, argument, ..] = a;
    let kind = c.description_by(id)?.kind.clone();
    if let Kind::Master(_, pair) = kind {
        return master(c, pair, request, argument);
    }
    let opened = terminals::opened(&c.resident.program, &kind).ok_or(Errno::ENOTTY)?;
    if opened.line == Line::Down {
        return Err(if request == r::TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO }.into());
    }
    match request {
        r::FIONREAD => {
            let count = c.resident.program.tty(opened.name).map_or(0, |tty| tty.readable_bytes());
            answer(c, argument, count as u32)
        }
        r::TCXONC => {
            jobs::check_foreground(c, opened.name, Signal::TTOU)?;
            flow(c, opened.name, argument)
        }
        r::TCFLSH => {
            jobs::check_foreground(c, opened.name, Signal::TTOU)?;
            flush(c, opened.name, argument)
        }
        r::TIOCSCTTY => take(c, id, opened.name, argument),
        r::TIOCNOTTY => detach(c, opened.name),
        r::TIOCSTI => {
            if !jobs::controls(c, opened.name)? && c.process()?.credentials.euid != 0 {
                return Err(Errno::EPERM.into());
            }
            let byte = c.read_bytes(argument, 1)?;
            let (mut signals, now) = (Vec::new(), c.now());
            if let Some(tty) = c.resident.program.tty_mut(opened.name) {
                tty.receive(&byte, now, &mut signals);
            }
            jobs::settle(c.resident, opened.name, &signals);
            Ok(0)
        }
        _ => shared(c, Side::Tty, opened.name, request, argument),
    }
}

/// Requests on a master.
fn master<M: Machine>(c: &mut Context<'_, M>, id: PairId, request: u64, argument: u64) -> Result<u64> {
    let name = TtyName::Slave(id);
    let pair = c.resident.program.pairs.get_mut(&id).ok_or(Errno::EIO)?;
    match request {
        r::TIOCGPTN => answer(c, argument, id.0),
        r::TIOCSPTLCK => {
            let locked = c.read_u32(argument)? != 0;
            if let Some(pair) = c.resident.program.pairs.get_mut(&id) {
                pair.locked = locked;
            }
            Ok(0)
        }
        r::TIOCGPTLCK => {
            let locked = pair.locked;
            answer(c, argument, locked.into())
        }
        r::TIOCPKT => {
            let on = c.read_u32(argument)? != 0;
            if let Some(pair) = c.resident.program.pairs.get_mut(&id) {
                pair.packet = if on { Some(pair.packet.unwrap_or_default()) } else { None };
            }
            Ok(0)
        }
        r::TIOCGPKT => {
            let on = pair.packet.is_some();
            answer(c, argument, on.into())
        }
        r::TIOCSIG => {
            let signal = [Signal::INT, Signal::QUIT, Signal::TSTP].into_iter();
            let signal = signal.clone().find(|signal| u64::from(signal.number()) == argument).ok_or(Errno::EINVAL)?;
            jobs::signal_foreground(c.resident, name, &[signal]);
            Ok(0)
        }
        r::TIOCGPTPEER => peer(c, id, argument),
        r::FIONREAD => {
            let count = pair.output.0.len();
            answer(c, argument, count as u32)
        }
        r::TIOCSTI => {
            let byte = c.read_bytes(argument, 1)?;
            if c.process()?.credentials.euid != 0 {
                return Err(Errno::EPERM.into());
            }
            if let Some(pair) = c.resident.program.pairs.get_mut(&id)
                && pair.output.0.len() < crate::tty::OUTPUT_LIMIT
            {
                pair.output.0.extend(byte);
            }
            jobs::settle(c.resident, name, &[]);
            Ok(0)
        }
        r::TCXONC => {
            pair.input_flow = match argument {
                0 => Flow::Held,
                1 => Flow::Going,
                _ => return Err(Errno::EINVAL.into()),
            };
            c.wake(name.key());
            Ok(0)
        }
        r::TCFLSH => {
            if argument > 2 {
                return Err(Errno::EINVAL.into());
            }
            if argument != 1 {
                pair.output.0.clear();
            }
            jobs::settle(c.resident, name, &[]);
            Ok(0)
        }
        // A master never is a controlling terminal.
        r::TIOCSCTTY => Err(Errno::EPERM.into()),
        r::TIOCNOTTY => Err(Errno::ENOTTY.into()),
        _ => shared(c, Side::Master(id), name, request, argument),
    }
}

fn answer<M: Machine>(c: &mut Context<'_, M>, addr: u64, value: u32) -> Result<u64> {
    c.write_u32(addr, value)?;
    Ok(0)
}

/// Requests that mean the terminal on whichever side they are made.
fn shared<M: Machine>(c: &mut Context<'_, M>, side: Side, name: TtyName, request: u64, argument: u64) -> Result<u64> {
    match request {
        r::TCGETS => settings(c, name, Form::Termios, argument),
        r::TCGETS2 => settings(c, name, Form::Termios2, argument),
        r::TCGETA => settings(c, name, Form::Termio, argument),
        r::TCSETS | r::TCSETSW | r::TCSETSF => set(c, name, Form::Termios, argument, typed(request)),
        r::TCSETS2 | r::TCSETSW2 | r::TCSETSF2 => set(c, name, Form::Termios2, argument, typed(request)),
        r::TCSETA | r::TCSETAW | r::TCSETAF => set(c, name, Form::Termio, argument, typed(request)),
        // There is no line that could break, and what was written is on its way.
        r::TCSBRK | r::TCSBRKP | r::TIOCSBRK => jobs::check_foreground(c, name, Signal::TTOU).map(|()| 0),
        r::TIOCCBRK => jobs::check_foreground(c, name, Signal::TTOU).map(|()| 0),
        r::TIOCEXCL | r::TIOCNXCL => {
            tty(c, name)?.exclusive = request == r::TIOCEXCL;
            Ok(0)
        }
        r::TIOCGEXCL => {
            let exclusive = tty(c, name)?.exclusive;
            answer(c, argument, exclusive.into())
        }
        r::TIOCGPGRP => {
            if side == Side::Tty && !jobs::controls(c, name)? {
                return Err(Errno::ENOTTY.into());
            }
            let group = tty(c, name)?.foreground.map_or(0, |group| group.0);
            answer(c, argument, group)
        }
        r::TIOCSPGRP => set_foreground(c, name, argument),
        r::TIOCGSID => {
            let session = tty(c, name)?.session;
            if side == Side::Tty && !jobs::controls(c, name)? {
                return Err(Errno::ENOTTY.into());
            }
            answer(c, argument, session.ok_or(Errno::ENOTTY)?.0)
        }
        r::TIOCOUTQ => answer(c, argument, 0),
        r::TIOCGWINSZ => {
            let bytes: Vec<u8> = tty(c, name)?.window.iter().flat_map(|n| n.to_le_bytes()).collect();
            c.write_bytes(argument, &bytes)?;
            Ok(0)
        }
        r::TIOCSWINSZ => {
            let bytes = c.read_bytes(argument, 8)?;
            let mut window = [0; 4];
            for (n, pair) in window.iter_mut().zip(bytes.chunks_exact(2)) {
                *n = u16::from_le_bytes([pair[0], pair[1]]);
            }
            if core::mem::replace(&mut tty(c, name)?.window, window) != window {
                jobs::signal_foreground(c.resident, name, &[Signal::WINCH]);
            }
            Ok(0)
        }
        r::TIOCGETD => answer(c, argument, 0),
        r::TIOCSETD => match c.read_u32(argument)? {
            0 => Ok(0),
            _ => Err(Errno::EINVAL.into()),
        },
        r::TIOCGDEV => {
            let device = match name {
                TtyName::Console => Rdev { major: 5, minor: 1 },
                TtyName::Slave(pair) => Rdev { major: devpts::SLAVE_MAJOR, minor: pair.0 },
            };
            answer(c, argument, device.encoded() as u32)
        }
        r::TIOCVHANGUP => {
            if c.process()?.credentials.euid != 0 {
                return Err(Errno::EPERM.into());
            }
            jobs::hang_up(c.resident, name);
            Ok(0)
        }
        _ => Err(Errno::ENOTTY.into()),
    }
}

fn tty<'a, M: Machine>(c: &'a mut Context<'_, M>, name: TtyName) -> Result<&'a mut crate::tty::Tty> {
    Ok(c.resident.program.tty_mut(name).ok_or(Errno::EIO)?)
}

fn settings<M: Machine>(c: &mut Context<'_, M>, name: TtyName, form: Form, addr: u64) -> Result<u64> {
    let bytes = tty(c, name)?.settings.to_bytes(form);
    c.write_bytes(addr, &bytes)?;
    Ok(0)
}

/// What new settings do to what was typed before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Typed {
    Kept,
    Forgotten,
}

fn typed(request: u64) -> Typed {
    match request {
        r::TCSETSF | r::TCSETSF2 | r::TCSETAF => Typed::Forgotten,
        _ => Typed::Kept,
    }
}

/// Sets the settings; what was written is shown before, as output never waits in a terminal.
fn set<M: Machine>(c: &mut Context<'_, M>, name: TtyName, form: Form, addr: u64, typed: Typed) -> Result<u64> {
    jobs::check_foreground(c, name, Signal::TTOU)?;
    let bytes = c.read_bytes(addr, form.size())?;
    let mut signals = Vec::new();
    let tty = tty(c, name)?;
    if typed == Typed::Forgotten {
        tty.flush_input();
    }
    let new = tty.settings.changed(form, &bytes);
    tty.set(new, &mut signals);
    jobs::settle(c.resident, name, &signals);
    Ok(0)
}

/// TIOCSPGRP, which is tcsetpgrp(3).
fn set_foreground<M: Machine>(c: &mut Context<'_, M>, name: TtyName, addr: u64) -> Result<u64> {
    match jobs::check_foreground(c, name, Signal::TTOU) {
        Err(crate::context::Stop::Errno(Errno::EIO)) => return Err(Errno::ENOTTY.into()),
        other => other?,
    }
    let group = Pid(c.read_u32(addr)?);
    if (group.0 as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    if !jobs::controls(c, name)? {
        return Err(Errno::ENOTTY.into());
    }
    let session = c.process()?.session;
    let mut members = c.resident.program.processes.values().filter(|process| process.group == group).peekable();
    if members.peek().is_none() {
        return Err(Errno::ESRCH.into());
    }
    if members.any(|process| process.session != session) {
        return Err(Errno::EPERM.into());
    }
    tty(c, name)?.foreground = Some(group);
    Ok(0)
}

/// TIOCSCTTY.
fn take<M: Machine>(c: &mut Context<'_, M>, id: DescriptionId, name: TtyName, argument: u64) -> Result<u64> {
    let process = c.process()?;
    let (pid, session, root) = (process.pid, process.session, process.credentials.euid == 0);
    let holder = tty(c, name)?.session;
    if pid == session && holder == Some(session) {
        return Ok(0);
    }
    if !jobs::may_acquire(c)? || holder.is_some() && !(argument == 1 && root) {
        return Err(Errno::EPERM.into());
    }
    if c.description_by(id)?.flags & flags::ACCESS_MODE == flags::WRITE_ONLY && !root {
        return Err(Errno::EPERM.into());
    }
    jobs::acquire(c, name)?;
    Ok(0)
}

/// TIOCNOTTY: a session leader takes the terminal from its whole session, others leave it alone.
fn detach<M: Machine>(c: &mut Context<'_, M>, name: TtyName) -> Result<u64> {
    if !jobs::controls(c, name)? {
        return Err(Errno::ENOTTY.into());
    }
    if c.process()?.session == c.pid {
        jobs::give_up(c.resident, c.pid, Leaving::Detaches);
    } else {
        c.process_mut()?.detached = Some(crate::process::Untold);
    }
    Ok(0)
}

/// tcflow(3).
fn flow<M: Machine>(c: &mut Context<'_, M>, name: TtyName, argument: u64) -> Result<u64> {
    let tty = tty(c, name)?;
    match argument {
        0 => tty.hold(),
        1 => tty.release(),
        2 | 3 => {
            let place = if argument == 2 { character::STOP } else { character::START };
            if let Some(byte) = tty.settings.character(place) {
                // It overtakes what is stopped.
                match name {
                    TtyName::Console => {
                        c.resident.program.terminal.show(&[byte]);
                    }
                    TtyName::Slave(id) => {
                        if let Some(pair) = c.resident.program.pairs.get_mut(&id) {
                            pair.output.0.push_back(byte);
                        }
                    }
                }
            }
        }
        _ => return Err(Errno::EINVAL.into()),
    }
    jobs::settle(c.resident, name, &[]);
    Ok(0)
}

/// tcflush(3).
fn flush<M: Machine>(c: &mut Context<'_, M>, name: TtyName, argument: u64) -> Result<u64> {
    if argument > 2 {
        return Err(Errno::EINVAL.into());
    }
    if argument != 1 {
        tty(c, name)?.flush_input();
    }
    if argument != 0
        && let TtyName::Slave(id) = name
        && let Some(pair) = c.resident.program.pairs.get_mut(&id)
    {
        pair.flush_output();
    }
    jobs::settle(c.resident, name, &[]);
    Ok(0)
}

/// TIOCGPTPEER: opens the slave without a look at names.
fn peer<M: Machine>(c: &mut Context<'_, M>, pair: PairId, wanted: u64) -> Result<u64> {
    const O_NOCTTY: u64 = 0o400;
    const STATUS: u64 = 0o3 | 0o2000 | 0o4000;
    let reads = wanted as u32 & flags::ACCESS_MODE != flags::WRITE_ONLY;
    let control = if wanted & O_NOCTTY == 0 && reads { Control::Take } else { Control::Leave };
    let hangups = terminals::open_slave(c, pair, control)?;
    let node = devpts::node_of(pair);
    let kind = Kind::Slave { node, pair, hangups };
    let description = c.resident.program.add_description(kind, (wanted & STATUS) as u32);
    let dir = NodeId::Synthetic { mount: devpts::PTS_MOUNT.number, node: devpts::PTS_MOUNT.root };
    c.description_by(description)?.place = Some(Place { dir, name: format!("{}", pair.0).into_bytes() });
    c.install(Descriptor { description, on_exec: on_exec(wanted) })
}

/// vhangup(2): hangs the caller's terminal up.
pub fn vhangup<M: Machine>(c: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    if c.process()?.credentials.euid != 0 {
        return Err(Errno::EPERM.into());
    }
    if let Some(name) = c.resident.program.controlling(c.process()?) {
        jobs::hang_up(c.resident, name);
    }
    Ok(0)
}

//! Job control: which terminal controls a process, who may use it, and what happens to groups that lose their shell.
use crate::{
    context::{Context, Result, wait_for},
    delivery,
    process::Process,
    program::Program,
    resident::{Key, Resident},
    signal::{Action, Info, Signal},
    tty::{Pair, PairId, Tty},
};
use alloc::vec::Vec;
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_hal::Machine;

/// Names a terminal of a program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TtyName {
    /// The program's console.
    Console,
    /// The slave of a pair.
    Slave(PairId),
}

impl TtyName {
    /// What who waits for it waits for.
    pub fn key(self) -> Key {
        match self {
            TtyName::Console => Key::Terminal,
            TtyName::Slave(pair) => Key::Pair(pair),
        }
    }
}

impl Program {
    /// A terminal by name.
    pub fn tty(&self, name: TtyName) -> Option<&Tty> {
        match name {
            TtyName::Console => Some(&self.terminal.tty),
            TtyName::Slave(pair) => self.pairs.get(&pair).map(|pair| &pair.tty),
        }
    }

    /// The same to change.
    pub fn tty_mut(&mut self, name: TtyName) -> Option<&mut Tty> {
        match name {
            TtyName::Console => Some(&mut self.terminal.tty),
            TtyName::Slave(pair) => self.pairs.get_mut(&pair).map(|pair| &mut pair.tty),
        }
    }

    /// All terminals.
    pub fn ttys(&self) -> impl Iterator<Item = (TtyName, &Tty)> {
        let slaves = self.pairs.iter().map(|(id, pair)| (TtyName::Slave(*id), &pair.tty));
        core::iter::once((TtyName::Console, &self.terminal.tty)).chain(slaves)
    }

    /// The controlling terminal of a process.
    pub fn controlling(&self, process: &Process) -> Option<TtyName> {
        if process.detached.is_some() {
            return None;
        }
        self.ttys().find(|(_, tty)| tty.session == Some(process.session)).map(|(name, _)| name)
    }

    /// Whether no process of the group has a parent of the same session in another group: nobody is there to continue it.
    /// `leaving` is about to go, and does not count.
    pub fn is_orphaned(&self, group: Pid, leaving: Option<Pid>) -> bool {
        !self.processes.values().filter(|p| p.group == group && p.zombie.is_none() && Some(p.pid) != leaving).any(|p| {
            let parent = self.processes.get(&p.parent);
            parent.is_some_and(|parent| parent.group != group && parent.session == p.session)
        })
    }
}

/// Sends a signal to all processes of a group.
pub fn signal_group<M: Machine>(resident: &mut Resident<M>, group: Pid, signal: Signal, info: Info) {
    let members: Vec<Pid> = resident.program.processes.values().filter(|p| p.group == group).map(|p| p.pid).collect();
    for member in members {
        delivery::send_to_process(resident, member, signal, info);
    }
}

/// Sends what typing at a terminal has caused to its foreground group.
pub fn signal_foreground<M: Machine>(resident: &mut Resident<M>, name: TtyName, signals: &[Signal]) {
    let Some(group) = resident.program.tty(name).and_then(|tty| tty.foreground) else { return };
    for signal in signals {
        signal_group(resident, group, *signal, Info::from_kernel());
    }
}

/// Whether the caller's session has that terminal as its controlling terminal.
pub fn controls<M: Machine>(c: &Context<'_, M>, name: TtyName) -> Result<bool> {
    Ok(c.resident.program.controlling(c.process()?) == Some(name))
}

/// Checks that a process in the background may use its terminal; its group is sent `signal` (TTIN or TTOU) if not.
pub fn check_foreground<M: Machine>(c: &mut Context<'_, M>, name: TtyName, signal: Signal) -> Result<()> {
    let process = c.process()?;
    let group = process.group;
    let action = process.actions.get(signal.index()).copied().unwrap_or_default();
    if !controls(c, name)? {
        return Ok(());
    }
    let foreground = c.resident.program.tty(name).and_then(|tty| tty.foreground);
    if foreground.is_none_or(|foreground| foreground == group) {
        return Ok(());
    }
    if action.handler == Action::IGNORE || c.thread()?.mask.has(signal) {
        return if signal == Signal::TTIN { Err(Errno::EIO.into()) } else { Ok(()) };
    }
    if c.resident.program.is_orphaned(group, None) {
        return Err(Errno::EIO.into());
    }
    signal_group(c.resident, group, signal, Info::from_kernel());
    // The signal is delivered before the call is issued again.
    wait_for(Key::Signal)
}

/// Gives a session leader its controlling terminal.
pub fn acquire<M: Machine>(c: &mut Context<'_, M>, name: TtyName) -> Result<()> {
    let (session, group) = (c.process()?.session, c.process()?.group);
    c.process_mut()?.detached = None;
    if let Some(tty) = c.resident.program.tty_mut(name) {
        tty.session = Some(session);
        tty.foreground = Some(group);
    }
    Ok(())
}

/// Whether the caller leads its session and has no controlling terminal.
pub fn may_acquire<M: Machine>(c: &Context<'_, M>) -> Result<bool> {
    let process = c.process()?;
    Ok(process.session == process.pid && c.resident.program.controlling(process).is_none())
}

/// A session leader gives its terminal up: by TIOCNOTTY, or because it ends.
pub fn give_up<M: Machine>(resident: &mut Resident<M>, leader: Pid, why: Leaving) {
    let Some(process) = resident.program.processes.get(&leader) else { return };
    if process.session != leader {
        return;
    }
    let Some(name) = resident.program.controlling(process) else { return };
    let Some(tty) = resident.program.tty_mut(name) else { return };
    tty.session = None;
    if let Some(group) = tty.foreground.take() {
        signal_group(resident, group, Signal::HUP, Info::from_kernel());
        if why == Leaving::Detaches {
            signal_group(resident, group, Signal::CONT, Info::from_kernel());
        }
    }
}

/// Why a session leader gives its terminal up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaving {
    /// It asked for that.
    Detaches,
    /// It ends.
    Ends,
}

/// Hangs a terminal up: descriptions of it are dead, and its session's leader hears of it.
pub fn hang_up<M: Machine>(resident: &mut Resident<M>, name: TtyName) {
    let Some(tty) = resident.program.tty_mut(name) else { return };
    let (session, _) = tty.hang_up();
    if let Some(leader) = session {
        for signal in [Signal::HUP, Signal::CONT] {
            delivery::send_to_process(resident, leader, signal, Info::from_kernel());
        }
    }
    resident.wake(name.key());
}

/// The tie between `process` and a parent of another group is cut, because one of the two ends: stopped processes of the
/// group that nobody can continue any more are sent HUP and CONT.
pub fn cut_ties<M: Machine>(resident: &mut Resident<M>, process: Pid, parent: Pid, leaving: Option<Pid>) {
    let processes = &resident.program.processes;
    let (Some(child), Some(parent)) = (processes.get(&process), processes.get(&parent)) else { return };
    let group = child.group;
    if parent.group == group || parent.session != child.session || !resident.program.is_orphaned(group, leaving) {
        return;
    }
    if processes.values().any(|p| p.group == group && p.zombie.is_none() && p.stopped.is_some()) {
        signal_group(resident, group, Signal::HUP, Info::from_kernel());
        signal_group(resident, group, Signal::CONT, Info::from_kernel());
    }
}

/// The master of a pair is closed: the slave is hung up.
pub fn master_closed<M: Machine>(resident: &mut Resident<M>, id: PairId) {
    if let Some(pair) = resident.program.pairs.get_mut(&id) {
        pair.master = crate::tty::Master::Closed;
        pair.output.0.clear();
    }
    hang_up(resident, TtyName::Slave(id));
    remove_abandoned(resident, id);
}

/// A description of a slave is closed.
pub fn slave_closed<M: Machine>(resident: &mut Resident<M>, id: PairId) {
    if let Some(pair) = resident.program.pairs.get_mut(&id) {
        pair.slaves = pair.slaves.saturating_sub(1);
        pair.deserted = pair.slaves == 0;
    }
    resident.wake(Key::Pair(id));
    remove_abandoned(resident, id);
}

fn remove_abandoned<M: Machine>(resident: &mut Resident<M>, id: PairId) {
    if resident.program.pairs.get(&id).is_some_and(Pair::is_abandoned) {
        resident.program.pairs.remove(&id);
    }
}

/// Moves what was typed and shown on, and tells the foreground group and who waits.
pub fn settle<M: Machine>(resident: &mut Resident<M>, name: TtyName, signals: &[Signal]) {
    match name {
        TtyName::Slave(id) => {
            if let Some(pair) = resident.program.pairs.get_mut(&id) {
                pair.settle();
            }
        }
        TtyName::Console => {
            let echo: Vec<u8> = resident.program.terminal.tty.take_echo().into_iter().collect();
            resident.program.terminal.show(&echo);
            resident.program.terminal.tty.notices = 0;
        }
    }
    signal_foreground(resident, name, signals);
    resident.wake(name.key());
}

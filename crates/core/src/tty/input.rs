//! What comes in at a terminal: special characters, lines, and reading them.
use super::{
    Flow, Tty, notice,
    settings::{character, input, local},
};
use crate::signal::Signal;
use alloc::vec::Vec;
use shimos_abi::time::Nanos;

/// Bytes that wait to be read, the line that is being typed among them.
pub const INPUT_LIMIT: usize = 4095;
/// Bytes that wait to be looked at because there is no room for them.
pub const BACKLOG_LIMIT: usize = 8192;

/// What one byte came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    /// There is no room for it.
    No,
}

impl Tty {
    /// Takes bytes that arrive at the terminal; returns how many. Signals for the foreground group are added to `signals`.
    pub fn receive(&mut self, bytes: &[u8], now: Nanos, signals: &mut Vec<Signal>) -> usize {
        let room = BACKLOG_LIMIT.saturating_sub(self.backlog.0.len());
        let taken = room.min(bytes.len());
        self.backlog.0.extend(&bytes[..taken]);
        if taken > 0 {
            self.arrived = Some(now);
        }
        self.pump(signals);
        taken
    }

    /// Whether a byte more can arrive.
    pub fn accepts(&self) -> bool {
        self.backlog.0.len() < BACKLOG_LIMIT
    }

    /// Looks at what has arrived, as far as there is room.
    pub fn pump(&mut self, signals: &mut Vec<Signal>) {
        while let Some(byte) = self.backlog.0.front().copied() {
            if self.take(byte, signals) == Taken::No {
                break;
            }
            self.backlog.0.pop_front();
        }
    }

    /// Whether there is no room for another byte. A line that has no end yet is cut, so that its end can come.
    fn is_full(&self) -> bool {
        let waiting = self.ready.0.len().saturating_add(self.editing.0.len());
        let cut = self.settings.is_canonical() && self.ready.0.is_empty();
        waiting >= INPUT_LIMIT && !cut || self.lines.len() >= INPUT_LIMIT
    }

    fn take(&mut self, byte: u8, signals: &mut Vec<Signal>) -> Taken {
        if self.is_full() {
            return Taken::No;
        }
        let mut byte = byte;
        if self.settings.has_local(local::EXTPROC) {
            self.queue(byte);
            return Taken::Yes;
        }
        if self.settings.has_input(input::ISTRIP) {
            byte &= 0x7f;
        }
        let extended = self.settings.has_local(local::IEXTEN);
        if self.settings.has_input(input::IUCLC) && extended {
            byte = byte.to_ascii_lowercase();
        }
        if core::mem::take(&mut self.literal) {
            self.restart_by_any();
            self.type_in(byte);
            return Taken::Yes;
        }
        if self.settings.has_input(input::IXON) && self.controls_flow(byte) {
            return Taken::Yes;
        }
        if self.settings.has_local(local::ISIG)
            && let Some(signal) = self.signal_of(byte)
        {
            self.interrupt(byte, signal, signals);
            return Taken::Yes;
        }
        self.restart_by_any();
        if byte == b'\r' {
            if self.settings.has_input(input::IGNCR) {
                return Taken::Yes;
            }
            if self.settings.has_input(input::ICRNL) {
                byte = b'\n';
            }
        } else if byte == b'\n' && self.settings.has_input(input::INLCR) {
            byte = b'\r';
        }
        if self.settings.has_local(local::ICANON) && self.edits(byte) {
            return Taken::Yes;
        }
        self.type_in(byte);
        Taken::Yes
    }

    /// An ordinary byte: shows it and keeps it.
    fn type_in(&mut self, byte: u8) {
        if self.settings.has_local(local::ECHO) {
            self.finish_erasing();
            if byte == b'\n' && self.settings.has_local(local::ICANON) {
                self.echo_plain(byte);
            } else {
                self.begin_line();
                self.echo_typed(byte);
            }
        }
        if byte == 0xff && self.settings.has_input(input::PARMRK) {
            self.queue(byte);
        }
        self.queue(byte);
    }

    /// Notes where the line begins, before its first character shows.
    fn begin_line(&mut self) {
        if self.editing.0.is_empty() {
            self.line_column = self.column;
        }
    }

    fn queue(&mut self, byte: u8) {
        if !self.settings.is_canonical() {
            self.ready.0.push_back(byte);
        } else if self.editing.0.len().saturating_add(self.ready.0.len()) < INPUT_LIMIT {
            self.editing.0.push_back(byte);
        }
    }

    /// VSTART and VSTOP. Returns whether the byte was one of them.
    fn controls_flow(&mut self, byte: u8) -> bool {
        if self.settings.is(byte, character::START) {
            self.start();
        } else if self.settings.is(byte, character::STOP) {
            self.stop();
        } else {
            return false;
        }
        true
    }

    fn restart_by_any(&mut self) {
        if self.flow == Flow::Stopped && self.settings.has_input(input::IXON) && self.settings.has_input(input::IXANY) {
            self.start();
        }
    }

    fn signal_of(&self, byte: u8) -> Option<Signal> {
        let signals =
            [(character::INTR, Signal::INT), (character::QUIT, Signal::QUIT), (character::SUSP, Signal::TSTP)];
        signals.into_iter().find(|(place, _)| self.settings.is(byte, *place)).map(|(_, signal)| signal)
    }

    /// A character that sends a signal: what was typed before it is forgotten, unless NOFLSH is set.
    fn interrupt(&mut self, byte: u8, signal: Signal, signals: &mut Vec<Signal>) {
        signals.push(signal);
        if !self.settings.has_local(local::NOFLSH) {
            self.echo.0.clear();
            self.forget_input();
            self.notices |= notice::FLUSH_READ | notice::FLUSH_WRITE;
        }
        if self.settings.has_input(input::IXON) {
            self.start();
        }
        if self.settings.has_local(local::ECHO) {
            self.echo_typed(byte);
        }
    }

    /// The characters of line editing. Returns whether the byte was one of them.
    fn edits(&mut self, byte: u8) -> bool {
        let extended = self.settings.has_local(local::IEXTEN);
        let echoes = self.settings.has_local(local::ECHO);
        let is = |place| self.settings.is(byte, place);
        if is(character::ERASE) || is(character::KILL) || extended && is(character::WERASE) {
            self.erase(byte);
        } else if extended && is(character::LNEXT) {
            self.literal = true;
            if echoes {
                self.finish_erasing();
                if self.settings.has_local(local::ECHOCTL) {
                    self.echo_plain(b'^');
                    self.echo_plain(0x08);
                }
            }
        } else if extended && echoes && is(character::REPRINT) {
            self.reprint(byte);
        } else if byte == b'\n' {
            if echoes || self.settings.has_local(local::ECHONL) {
                self.echo_plain(byte);
            }
            self.end_line(Some(byte));
        } else if is(character::EOF) {
            self.end_line(None);
        } else if is(character::EOL) || extended && is(character::EOL2) {
            if echoes {
                self.begin_line();
                self.echo_typed(byte);
            }
            self.end_line(Some(byte));
        } else {
            return false;
        }
        true
    }

    /// The line that was typed can be read now; the end of file has no byte.
    fn end_line(&mut self, end: Option<u8>) {
        if !self.settings.is_canonical() {
            self.ready.0.extend(end);
            return;
        }
        let line = core::mem::take(&mut self.editing.0);
        let before = self.ready.0.len();
        self.ready.0.extend(line);
        self.ready.0.extend(end);
        self.lines.push_back((self.ready.0.len() - before) as u32);
    }

    /// Forgets what was typed and not read (TCIFLUSH). What only waits to be looked at stays.
    fn forget_input(&mut self) {
        self.ready.0.clear();
        self.lines.clear();
        self.editing.0.clear();
        self.erasing = false;
    }

    /// Forgets all that has arrived (TCIFLUSH).
    pub fn flush_input(&mut self) {
        self.forget_input();
        self.backlog.0.clear();
        self.notices |= notice::FLUSH_READ;
    }

    /// The kind of input has changed between lines and bytes: what is there is given out in the new way.
    pub(super) fn regroup(&mut self) {
        let typed = core::mem::take(&mut self.editing.0);
        self.ready.0.extend(typed);
        self.lines.clear();
        if self.settings.is_canonical() && !self.ready.0.is_empty() {
            self.lines.push_back(self.ready.0.len() as u32);
        }
        self.erasing = false;
        self.literal = false;
    }

    /// Whether a read of up to `count` bytes is satisfied, or what it waits for.
    pub fn input(&self, count: usize) -> Input {
        if self.settings.is_canonical() {
            return if self.lines.is_empty() { Input::Line } else { Input::Ready };
        }
        let least = self.settings.characters[character::MIN] as usize;
        let time = Nanos::millis(u64::from(self.settings.characters[character::TIME]) * 100);
        let have = self.ready.0.len();
        let satisfied = have >= least.max(1).min(count.max(1));
        match (least, time) {
            _ if satisfied => Input::Ready,
            (0, Nanos(0)) => Input::Ready,
            (0, time) => Input::Within(time),
            (_, Nanos(0)) => Input::Bytes,
            (_, _) if have == 0 => Input::Bytes,
            (_, time) => Input::Another(time),
        }
    }

    /// Whether poll(2) calls the terminal readable.
    pub fn is_readable(&self) -> bool {
        if self.settings.is_canonical() {
            return !self.lines.is_empty();
        }
        let characters = &self.settings.characters;
        let least = if characters[character::TIME] == 0 { characters[character::MIN].max(1) } else { 1 };
        self.ready.0.len() >= least.into()
    }

    /// Takes input out: at most `count` bytes, and of lines at most one. Nothing stands for an end of file.
    pub fn read(&mut self, count: usize, signals: &mut Vec<Signal>) -> Vec<u8> {
        let most = match self.lines.front().copied() {
            Some(line) if self.settings.is_canonical() => {
                let line = line as usize;
                if count < line {
                    if let Some(first) = self.lines.front_mut() {
                        *first = (line - count) as u32;
                    }
                } else {
                    self.lines.pop_front();
                }
                line.min(count)
            }
            _ => count,
        };
        let bytes = self.ready.0.drain(..most.min(self.ready.0.len())).collect();
        self.pump(signals);
        bytes
    }

    /// Bytes that can be read now (FIONREAD).
    pub fn readable_bytes(&self) -> usize {
        self.ready.0.len()
    }
}

/// What a read finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// It gets what there is.
    Ready,
    /// It waits for the end of a line.
    Line,
    /// It waits for bytes, however long.
    Bytes,
    /// It waits for a byte, so long at most.
    Within(Nanos),
    /// Bytes are there; it waits for more, so long after the last at most.
    Another(Nanos),
}

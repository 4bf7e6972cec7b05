//! Terminals: settings, the line discipline, and pairs of pseudo terminals. One implementation serves the program's console
//! and the slaves of all pairs.
//!
//! A terminal knows nothing of processes: what a typed character does to them is returned to the caller.
mod edit;
mod input;
mod output;
mod pair;
pub mod settings;
#[cfg(test)]
mod tests;

pub use input::Input;
pub use pair::{Master, OUTPUT_LIMIT, PAIRS_LIMIT, Pair, PairId};
pub use settings::{Form, Settings};

use crate::pipe::Bytes;
use crate::signal::Signal;
use alloc::{collections::VecDeque, vec::Vec};
use minicbor::{Decode, Encode};
use shimos_abi::{ids::Pid, time::Nanos};

/// One terminal, without what is behind it.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub struct Tty {
    /// As programs have set it.
    #[n(0)]
    pub settings: Settings,
    /// Rows, columns, and their sizes in pixels.
    #[n(1)]
    pub window: [u16; 4],
    /// Session that has it as controlling terminal.
    #[n(2)]
    pub session: Option<Pid>,
    /// Foreground process group.
    #[n(3)]
    pub foreground: Option<Pid>,
    /// Typed and ready to be read.
    #[n(4)]
    ready: Bytes,
    /// Bytes of each line that is ready; an end of file is an empty one, or cuts a line.
    #[n(5)]
    lines: VecDeque<u32>,
    /// The line that is being typed.
    #[n(6)]
    editing: Bytes,
    /// Arrived and not looked at for want of room.
    #[n(7)]
    backlog: Bytes,
    /// Echo that is not shown yet.
    #[n(8)]
    pub echo: Bytes,
    /// The next character has no special meaning.
    #[n(9)]
    literal: bool,
    /// ECHOPRT shows what is erased.
    #[n(10)]
    erasing: bool,
    /// Column that the output is at.
    #[n(11)]
    column: u32,
    /// Column that the line being typed began at.
    #[n(12)]
    line_column: u32,
    /// Whether the output goes on.
    #[n(13)]
    pub flow: Flow,
    /// When input has arrived last.
    #[n(14)]
    pub arrived: Option<Nanos>,
    /// Nobody else may open it (TIOCEXCL).
    #[n(15)]
    pub exclusive: bool,
    /// How often it was hung up. Descriptions that were opened before the last time are dead.
    #[n(16)]
    pub hangups: u32,
    /// What packet mode is to tell of.
    #[cbor(skip)]
    pub notices: u8,
}

/// Whether output goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum Flow {
    /// It does.
    #[n(0)]
    #[default]
    Going,
    /// VSTOP was typed.
    #[n(1)]
    Stopped,
    /// tcflow(3) stopped it; typing does not start it again.
    #[n(2)]
    Held,
}

/// What packet mode tells of (ioctl_tty(2), TIOCPKT).
#[allow(missing_docs, reason = "the names are those of ioctl_tty(2)")]
pub mod notice {
    pub const FLUSH_READ: u8 = 1;
    pub const FLUSH_WRITE: u8 = 2;
    pub const STOP: u8 = 4;
    pub const START: u8 = 8;
    pub const NO_STOP: u8 = 16;
    pub const DO_STOP: u8 = 32;
    pub const IOCTL: u8 = 64;
}

impl Tty {
    /// A terminal in its usual settings with a window of that many rows and columns.
    pub fn new(rows: u16, columns: u16) -> Tty {
        Tty { window: [rows, columns, 0, 0], ..Tty::default() }
    }

    /// Stops the output because VSTOP was typed.
    fn stop(&mut self) {
        if self.flow == Flow::Going {
            self.flow = Flow::Stopped;
            self.notices = self.notices & !notice::START | notice::STOP;
        }
    }

    /// Lets the output go on, unless tcflow(3) holds it.
    fn start(&mut self) {
        if self.flow == Flow::Stopped {
            self.flow = Flow::Going;
            self.notices = self.notices & !notice::STOP | notice::START;
        }
    }

    /// tcflow(3) with TCOOFF.
    pub fn hold(&mut self) {
        if self.flow == Flow::Going {
            self.notices = self.notices & !notice::START | notice::STOP;
        }
        self.flow = Flow::Held;
    }

    /// tcflow(3) with TCOON.
    pub fn release(&mut self) {
        if self.flow == Flow::Held {
            self.flow = Flow::Stopped;
            self.start();
        }
    }

    /// Takes new settings over.
    pub fn set(&mut self, new: Settings, signals: &mut Vec<Signal>) {
        let old = core::mem::replace(&mut self.settings, new);
        if old.is_canonical() != self.settings.is_canonical() {
            self.regroup();
        }
        if old.has_input(settings::input::IXON) && !self.settings.has_input(settings::input::IXON) {
            self.start();
        }
        if old.has_usual_flow() != self.settings.has_usual_flow() {
            self.notices &= !(notice::DO_STOP | notice::NO_STOP);
            self.notices |= if self.settings.has_usual_flow() { notice::DO_STOP } else { notice::NO_STOP };
        }
        if (old.local | self.settings.local) & settings::local::EXTPROC != 0 {
            self.notices |= notice::IOCTL;
        }
        self.pump(signals);
    }

    /// Takes out the echo that may be shown now.
    pub fn take_echo(&mut self) -> VecDeque<u8> {
        if self.flow == Flow::Going { core::mem::take(&mut self.echo.0) } else { VecDeque::new() }
    }

    /// Ends what was before: who opened it until now has a dead description. Returns the session and the foreground group.
    pub fn hang_up(&mut self) -> (Option<Pid>, Option<Pid>) {
        self.hangups = self.hangups.wrapping_add(1);
        self.flow = Flow::Going;
        self.flush_input();
        (self.session.take(), self.foreground.take())
    }
}

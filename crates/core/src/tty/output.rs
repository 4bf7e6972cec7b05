//! What a terminal shows: output processing, and the echo of what is typed.
use super::{Tty, settings::local, settings::output};

/// Columns between tab stops.
const TAB: u32 = 8;
/// Bytes of echo that wait while the output is stopped; more is lost.
const ECHO_LIMIT: usize = 4096;

/// Control characters, as the terminal sees them.
pub(super) fn is_control(byte: u8) -> bool {
    byte < 32 || byte == 127
}

impl Tty {
    /// Adds one byte of a program's output to `out`, processed as `c_oflag` asks.
    pub fn show(&mut self, byte: u8, out: &mut impl Extend<u8>) {
        if !self.settings.has_output(output::OPOST) {
            out.extend([byte]);
            return;
        }
        let mut byte = byte;
        match byte {
            b'\n' => {
                if self.settings.has_output(output::ONLRET) {
                    self.column = 0;
                }
                if self.settings.has_output(output::ONLCR) {
                    (self.column, self.line_column) = (0, 0);
                    out.extend([b'\r', b'\n']);
                    return;
                }
                self.line_column = self.column;
            }
            b'\r' => {
                if self.settings.has_output(output::ONOCR) && self.column == 0 {
                    return;
                }
                let becomes_newline = self.settings.has_output(output::OCRNL);
                if becomes_newline {
                    byte = b'\n';
                }
                if !becomes_newline || self.settings.has_output(output::ONLRET) {
                    (self.column, self.line_column) = (0, 0);
                }
            }
            b'\t' => {
                let spaces = TAB - self.column % TAB;
                self.column = self.column.wrapping_add(spaces);
                if self.settings.output & output::XTABS == output::XTABS {
                    out.extend(core::iter::repeat_n(b' ', spaces as usize));
                    return;
                }
            }
            0x08 => self.column = self.column.saturating_sub(1),
            _ if is_control(byte) => {}
            _ => {
                if self.settings.has_output(output::OLCUC) {
                    byte = byte.to_ascii_uppercase();
                }
                if !self.continues(byte) {
                    self.column = self.column.wrapping_add(1);
                }
            }
        }
        out.extend([byte]);
    }

    /// Whether a byte belongs to the character before it.
    pub(super) fn continues(&self, byte: u8) -> bool {
        self.settings.has_input(super::settings::input::IUTF8) && byte & 0xc0 == 0x80
    }

    /// Echoes a byte as output.
    pub(super) fn echo_plain(&mut self, byte: u8) {
        if self.echo.0.len() < ECHO_LIMIT {
            let mut echo = core::mem::take(&mut self.echo.0);
            self.show(byte, &mut echo);
            self.echo.0 = echo;
        }
    }

    /// Echoes a byte that was typed; control characters show as `^` and a letter where ECHOCTL asks for it.
    pub(super) fn echo_typed(&mut self, byte: u8) {
        if self.settings.has_local(local::ECHOCTL) && is_control(byte) && byte != b'\t' {
            if self.echo.0.len() < ECHO_LIMIT {
                self.echo.0.extend([b'^', byte ^ 0x40]);
                self.column = self.column.wrapping_add(2);
            }
        } else {
            self.echo_plain(byte);
        }
    }

    /// Takes one column back and wipes it.
    pub(super) fn echo_wipe(&mut self) {
        for byte in [0x08, b' ', 0x08] {
            self.echo_plain(byte);
        }
    }

    /// Goes back over a tab, `typed` columns behind the one before it or behind the line's beginning.
    pub(super) fn echo_untab(&mut self, typed: u32, behind: Behind) {
        let columns = match behind {
            Behind::Tab => typed,
            Behind::Beginning => typed.wrapping_add(self.line_column),
        };
        for _ in 0..TAB - columns % TAB {
            if self.echo.0.len() < ECHO_LIMIT {
                self.echo.0.push_back(0x08);
                self.column = self.column.saturating_sub(1);
            }
        }
    }
}

/// What columns are counted from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Behind {
    /// The last tab stop.
    Tab,
    /// The beginning of the line that is typed.
    Beginning,
}

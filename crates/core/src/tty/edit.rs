//! The line that is being typed: erasing and printing it again.
use super::{
    Tty,
    output::{Behind, is_control},
    settings::{character, local},
};

/// How much one character erases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Erase {
    Character,
    Word,
    Line,
}

impl Tty {
    /// VERASE, VWERASE or VKILL was typed.
    pub(super) fn erase(&mut self, byte: u8) {
        if self.editing.0.is_empty() {
            return;
        }
        let how = if self.settings.is(byte, character::ERASE) {
            Erase::Character
        } else if self.settings.is(byte, character::WERASE) {
            Erase::Word
        } else {
            Erase::Line
        };
        let echoes = self.settings.has_local(local::ECHO);
        if how == Erase::Line {
            if !echoes {
                self.editing.0.clear();
                return;
            }
            let visibly = [local::ECHOK, local::ECHOKE, local::ECHOE];
            if !visibly.into_iter().all(|flag| self.settings.has_local(flag)) {
                self.editing.0.clear();
                self.finish_erasing();
                self.echo_typed(byte);
                if self.settings.has_local(local::ECHOK) {
                    self.echo_plain(b'\n');
                }
                return;
            }
        }
        let mut in_word = false;
        while let Some(start) = self.last_character() {
            let first = self.editing.0.get(start).copied().unwrap_or_default();
            if how == Erase::Word {
                if first.is_ascii_alphanumeric() || first == b'_' {
                    in_word = true;
                } else if in_word {
                    break;
                }
            }
            let rest: alloc::vec::Vec<u8> = self.editing.0.drain(start..).collect();
            if echoes {
                self.echo_erased(how, &rest);
            }
            if how == Erase::Character {
                break;
            }
        }
        if echoes && self.editing.0.is_empty() {
            self.finish_erasing();
        }
    }

    /// Where the last character of the line begins; `None` for an empty line, or one of parts of characters only.
    fn last_character(&self) -> Option<usize> {
        let start = self.editing.0.iter().rposition(|byte| !self.continues(*byte));
        if self.editing.0.is_empty() { None } else { start }
    }

    fn echo_erased(&mut self, how: Erase, erased: &[u8]) {
        let first = erased.first().copied().unwrap_or_default();
        let shows_control = self.settings.has_local(local::ECHOCTL);
        if self.settings.has_local(local::ECHOPRT) {
            if !self.erasing {
                self.echo_plain(b'\\');
                self.erasing = true;
            }
            self.echo_typed(first);
            for byte in erased.iter().skip(1) {
                self.echo_plain(*byte);
            }
        } else if how == Erase::Character && !self.settings.has_local(local::ECHOE) {
            if let Some(erase) = self.settings.character(character::ERASE) {
                self.echo_typed(erase);
            }
        } else if first == b'\t' {
            let tab = self.editing.0.iter().rposition(|byte| *byte == b'\t');
            let since = self.editing.0.range(tab.map_or(0, |at| at + 1)..);
            let columns = since.map(|byte| match *byte {
                byte if is_control(byte) => {
                    if shows_control {
                        2
                    } else {
                        0
                    }
                }
                byte if self.continues(byte) => 0,
                _ => 1,
            });
            let columns: u32 = columns.sum();
            self.echo_untab(columns, if tab.is_some() { Behind::Tab } else { Behind::Beginning });
        } else {
            if is_control(first) && shows_control {
                self.echo_wipe();
            }
            if !is_control(first) || shows_control {
                self.echo_wipe();
            }
        }
    }

    /// Ends the mark that ECHOPRT puts around what is erased.
    pub(super) fn finish_erasing(&mut self) {
        if self.erasing {
            self.echo_plain(b'/');
            self.erasing = false;
        }
    }

    /// VREPRINT was typed: shows the line again.
    pub(super) fn reprint(&mut self, byte: u8) {
        self.finish_erasing();
        self.echo_typed(byte);
        self.echo_plain(b'\n');
        for at in 0..self.editing.0.len() {
            let byte = self.editing.0.get(at).copied().unwrap_or_default();
            self.echo_typed(byte);
        }
    }
}

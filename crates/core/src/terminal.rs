//! The program's console: a terminal whose output is a numbered stream of bytes.
use crate::{pipe::Bytes, tty::Tty};
use alloc::vec::Vec;
use minicbor::{Decode, Encode};
use shimos_abi::ids::Life;

/// Bytes of output that may wait to be printed.
const UNPRINTED_LIMIT: usize = 64 * 1024;

/// Bytes that a stream may be behind what was printed of it.
const FARTHEST: u64 = 1 << 40;

/// A console.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Terminal {
    /// Bytes written since the program began: the place of the next byte in its output stream.
    #[n(0)]
    pub written: u64,
    /// The last bytes of the stream, as far as they are not known to be printed. They are part of the image: whoever takes the
    /// program over, or drives the console next, gets them once more, and drops what was printed already.
    #[n(6)]
    pub unprinted: Bytes,
    /// What is before this place may leave the program: a checkpoint covers it.
    #[cbor(skip)]
    pub released: u64,
    /// What is before this place was sent to the console's owner.
    #[cbor(skip)]
    pub sent: u64,
    /// Which owner that was: another one gets everything that is not known to be printed.
    #[cbor(skip)]
    pub sent_to: Option<Life>,
    /// Settings, input, controlled session. The numbers 1 to 5 were parts of it.
    #[n(7)]
    #[cbor(default)]
    pub tty: Tty,
}

impl Terminal {
    /// A console in its usual settings.
    pub fn new() -> Terminal {
        Terminal { written: 0, unprinted: Bytes::default(), released: 0, sent: 0, sent_to: None, tty: Tty::new(24, 80) }
    }

    /// The place of the first byte that is not known to be printed.
    pub fn printed(&self) -> u64 {
        self.written.saturating_sub(self.unprinted.0.len() as u64)
    }

    /// Adds bytes to the stream, as far as there is room for them; returns how many. They are not processed as `c_oflag` says: the
    /// machine's console prints lines.
    pub fn show(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(UNPRINTED_LIMIT.saturating_sub(self.unprinted.0.len()));
        self.unprinted.0.extend(&bytes[..count]);
        self.written = self.written.wrapping_add(count as u64);
        count
    }

    /// Whether output may be added.
    pub fn has_room(&self) -> bool {
        self.unprinted.0.len() < UNPRINTED_LIMIT
    }

    /// What is before `place` was printed, whatever this stream says; but a place that nobody can have come to is nonsense.
    pub fn skip_to(&mut self, place: u64) {
        if place > self.written && place - self.written <= FARTHEST {
            self.unprinted.0.clear();
            self.written = place;
        }
    }

    /// Everything written so far may leave.
    pub fn release(&mut self) {
        self.released = self.written;
    }

    /// The next piece to send, at most `most` bytes of the `window` bytes after what is printed: its place and bytes.
    pub fn next_piece(&self, most: usize, window: usize) -> Option<(u64, Vec<u8>)> {
        let start = self.printed();
        let from = self.sent.max(start);
        let may = self.released.min(self.written).min(start.saturating_add(window as u64));
        let end = may.min(from.saturating_add(most as u64));
        if from >= end {
            return None;
        }
        let bytes = self.unprinted.0.range((from - start) as usize..(end - start) as usize).copied().collect();
        Some((from, bytes))
    }

    /// Whether it is looked at when something of it was printed: more may be sent then, or written.
    pub fn waits_for_printer(&self) -> bool {
        self.sent.max(self.printed()) < self.released.min(self.written) || !self.has_room()
    }

    /// Whether everything but an unfinished line is printed, and that is sent.
    pub fn is_drained(&self) -> bool {
        self.sent.max(self.printed()) == self.written && !self.unprinted.0.contains(&b'\n')
    }

    /// The owner says that everything before `place` is printed.
    pub fn note_printed(&mut self, place: u64) {
        let count = place.min(self.sent).saturating_sub(self.printed());
        self.unprinted.0.drain(..count as usize);
    }
}

impl Default for Terminal {
    fn default() -> Terminal {
        Terminal::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_is_bounded() {
        let mut terminal = Terminal::new();
        assert_eq!(terminal.show(&[b'x'; 100]), 100);
        assert!(terminal.next_piece(40, 60).is_none() && !terminal.waits_for_printer());
        terminal.release();
        for (at, len) in [(0, 40), (40, 20)] {
            let (place, bytes) = terminal.next_piece(40, 60).expect("a piece");
            assert_eq!((place, bytes.len()), (at, len));
            terminal.sent = at + len as u64;
        }
        assert!(terminal.next_piece(40, 60).is_none() && terminal.waits_for_printer());
        terminal.note_printed(50);
        assert_eq!(terminal.next_piece(40, 60).map(|(place, bytes)| (place, bytes.len())), Some((60, 40)));
        terminal.sent = 100;
        assert!(!terminal.waits_for_printer());
    }
}

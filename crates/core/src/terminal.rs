//! The program's console as a terminal: a numbered stream of output bytes, and a line discipline for input.
use crate::pipe::Bytes;
use alloc::vec::Vec;
use minicbor::{Decode, Encode};
use shimos_abi::ids::{Life, Pid};

/// A terminal.
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
    /// Typed and ready to be read.
    #[n(1)]
    pub input: Bytes,
    /// The structure of TCGETS, as programs set it.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub settings: Vec<u8>,
    /// Rows, columns, and their sizes in pixels.
    #[n(3)]
    pub window: [u16; 4],
    /// Foreground process group.
    #[n(4)]
    pub foreground: Option<Pid>,
    /// Session that has it as controlling terminal.
    #[n(5)]
    pub session: Option<Pid>,
}

impl Terminal {
    /// Size of the kernel's termios structure.
    pub const SETTINGS: usize = 36;

    /// A terminal in its usual settings.
    pub fn new() -> Terminal {
        // c_iflag ICRNL|IXON, c_oflag OPOST|ONLCR, c_cflag B38400|CS8|CREAD, c_lflag ISIG|ICANON|ECHO|ECHOE|ECHOK|IEXTEN.
        let mut settings = Vec::with_capacity(Self::SETTINGS);
        for flags in [0x500_u32, 0x5, 0xbf, 0x8a3b & !0x8000 | 0x8000] {
            settings.extend_from_slice(&flags.to_le_bytes());
        }
        settings.push(0);
        settings.extend_from_slice(&[3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0]);
        Terminal {
            written: 0,
            unprinted: Bytes::default(),
            released: 0,
            sent: 0,
            sent_to: None,
            input: Bytes::default(),
            settings,
            window: [24, 80, 0, 0],
            foreground: None,
            session: None,
        }
    }

    /// The place of the first byte that is not known to be printed.
    pub fn printed(&self) -> u64 {
        self.written.saturating_sub(self.unprinted.0.len() as u64)
    }

    /// Everything written so far may leave.
    pub fn release(&mut self) {
        self.released = self.written;
    }

    /// The next piece to send: its place and bytes.
    pub fn next_piece(&self, most: usize) -> Option<(u64, Vec<u8>)> {
        let start = self.printed();
        let from = self.sent.max(start);
        let end = self.released.min(self.written).min(from.saturating_add(most as u64));
        if from >= end {
            return None;
        }
        let bytes = self.unprinted.0.range((from - start) as usize..(end - start) as usize).copied().collect();
        Some((from, bytes))
    }

    /// The owner says that everything before `place` is printed.
    pub fn note_printed(&mut self, place: u64) {
        let count = place.min(self.sent).saturating_sub(self.printed());
        self.unprinted.0.drain(..count as usize);
    }

    /// Takes up to a line of input out, at most `most` bytes.
    pub fn read(&mut self, most: usize) -> Vec<u8> {
        let line = self.input.0.iter().position(|byte| *byte == b'\n').map_or(self.input.0.len(), |at| at + 1);
        self.input.0.drain(..line.min(most)).collect()
    }
}

impl Default for Terminal {
    fn default() -> Terminal {
        Terminal::new()
    }
}

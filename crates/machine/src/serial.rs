//! The first serial port, for what is said before a console owner exists and by the dying. Polled, bounded, no lock.
use crate::arch::{inb, outb, pause};
use core::fmt::{self, Write};

/// I/O address of the first serial port.
pub const PORT: u16 = 0x3f8;
/// How often the port is looked at before a byte is given up.
const PATIENCE: u32 = 100_000;

/// Sets the port up: 115200 baud, 8 bits, FIFO, no interrupts.
pub fn init() {
    outb(PORT + 1, 0);
    outb(PORT + 3, 0x80);
    outb(PORT, 1);
    outb(PORT + 1, 0);
    outb(PORT + 3, 3);
    outb(PORT + 2, 7);
    outb(PORT + 4, 0xb);
}

/// Writes bytes; what the port does not take in time is dropped.
pub fn write(bytes: &[u8]) {
    for &byte in bytes {
        let mut left = PATIENCE;
        while inb(PORT + 5) & 0x20 == 0 && left > 0 {
            left -= 1;
            pause();
        }
        outb(PORT, byte);
    }
}

/// A line that is put together first and written in one go, so that the lines of kernels that speak at the same time seldom mix.
pub struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Line {
    /// An empty line.
    pub const fn new() -> Line {
        Line { bytes: [0; 512], len: 0 }
    }
}

impl Default for Line {
    fn default() -> Line {
        Line::new()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.len..];
        let len = text.len().min(room.len());
        room[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

/// Writes one line.
pub fn print_line(text: fmt::Arguments) {
    let mut line = Line::new();
    let _ = line.write_fmt(text);
    let len = line.len.min(line.bytes.len() - 2);
    line.bytes[len] = b'\r';
    line.bytes[len + 1] = b'\n';
    write(&line.bytes[..len + 2]);
}

/// Writes one line to the serial port.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::serial::print_line(::core::format_args!($($arg)*)) };
}

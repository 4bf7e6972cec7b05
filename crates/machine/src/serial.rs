//! The first serial port, for what is said before a console owner exists and by the dying. Polled, bounded, no lock.
use crate::{
    arch::{inb, outb, pause, rdtsc},
    layout::SHARED_BASE,
};
use core::{
    fmt::{self, Write},
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};
use shimos_abi::{console, shared::commons};

/// I/O address of the first serial port.
pub const PORT: u16 = 0x3f8;
/// How often the port is looked at before a byte is given up.
const PATIENCE: u32 = 100_000;

/// Sets the port up: 115200 baud, 8 bits, FIFO, no interrupts. Whoever wrote before may have stopped within a line.
pub fn init() {
    // To reset the FIFOs loses what is in them.
    let mut left = PATIENCE;
    while inb(PORT + 5) & 0x40 == 0 && left > 0 {
        left -= 1;
        pause();
    }
    outb(PORT + 1, 0);
    outb(PORT + 3, 0x80);
    outb(PORT, 1);
    outb(PORT + 1, 0);
    outb(PORT + 3, 3);
    outb(PORT + 2, 7);
    outb(PORT + 4, 0xb);
    cut();
}

/// Marks what is on this line so far as cut, and goes back to its beginning.
pub fn cut() {
    write(&[console::CUT, b'\r']);
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

/// A line that is put together first and written in one go, so that the lines of kernels that speak at the same time
/// seldom mix.
pub struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Line {
    /// An empty line.
    pub const fn new() -> Line {
        Line { bytes: [0; 512], len: 0 }
    }
    /// What was put in so far.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
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
    let turn = SPEAKER.load(Relaxed);
    let held = turn != 0 && take_turn(turn);
    write(&line.bytes[..len + 2]);
    if held {
        let _ = turn_word().compare_exchange(turn, 0, SeqCst, SeqCst);
    }
}

/// Who speaks here (kernel id plus one); 0 while there is nobody to be polite to.
static SPEAKER: AtomicU64 = AtomicU64::new(0);

/// From here on lines are written as those of `kernel`, one kernel at a time. The commons are mapped.
pub(crate) fn set_speaker(kernel: u32) {
    SPEAKER.store(u64::from(kernel) + 1, Relaxed);
}

fn turn_word() -> &'static AtomicU64 {
    // SAFETY: `set_speaker` is called when the commons are mapped, and their words are only ever accessed as atomics.
    unsafe { &*((SHARED_BASE + commons::SERIAL as u64 * 8) as *const AtomicU64) }
}

/// Waits for our turn, within a bound (some ten milliseconds): who holds it may be dead, and then it is taken from
/// them.
fn take_turn(me: u64) -> bool {
    let start = rdtsc();
    let mut from = 0;
    loop {
        match turn_word().compare_exchange(from, me, SeqCst, SeqCst) {
            Ok(_) => return true,
            Err(holder) if holder == me => return true,
            Err(holder) if rdtsc().wrapping_sub(start) > 40_000_000 => from = holder,
            Err(_) => pause(),
        }
    }
}

/// Writes one line to the serial port.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::serial::print_line(::core::format_args!($($arg)*)) };
}

//! Interrupt vectors, the same in every kernel.

/// The network card.
pub const NETWORK: u8 = 0x40;
/// The disk.
pub const BLOCK: u8 = 0x41;
/// The serial console.
pub const CONSOLE: u8 = 0x42;
/// The local APIC's timer.
pub const TIMER: u8 = 0xe0;
/// A peer rings.
pub const IKC: u8 = 0xe1;
/// The local APIC's error interrupt.
pub const ERROR: u8 = 0xe2;
/// The local APIC's spurious interrupt; takes no EOI.
pub const SPURIOUS: u8 = 0xff;

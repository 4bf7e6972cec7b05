//! Which model-specific registers and I/O ports a kernel may use: what it needs, and nothing else. The maps are the
//! same for all kernels (AMD64 manual 2, 15.10 and 15.11).
use core::ops::Range;

/// Pages of the map of registers.
pub const MSR_PAGES: u64 = 2;
/// Pages of the map of ports.
pub const IO_PAGES: u64 = 3;

/// Registers that a kernel may write without being asked: those of system calls and segments, and those of machine
/// checks. Reading is free.
const WRITABLE: [Range<u32>; 4] = [0xc000_0081..0xc000_0085, 0xc000_0100..0xc000_0103, 0x17a..0x17c, 0x400..0x500];

/// Place of a register's two bits (read, write) in the map.
fn place(msr: u32) -> Option<usize> {
    let base = match msr {
        0..=0x1fff => 0,
        0xc000_0000..=0xc000_1fff => 0x2000,
        0xc001_0000..=0xc001_1fff => 0x4000,
        _ => return None,
    };
    Some((base + (msr & 0x1fff) as usize) * 2)
}

/// Writes the map of registers.
pub fn write_msr_map(map: &mut [u8]) {
    map.fill(0xaa);
    for msr in WRITABLE.into_iter().flatten() {
        if let Some(bit) = place(msr)
            && let Some(byte) = map.get_mut(bit / 8)
        {
            *byte &= !(2 << (bit % 8));
        }
    }
}

/// Writes the map of ports: only `open` ones are a kernel's.
pub fn write_io_map(map: &mut [u8], open: &[Range<u16>]) {
    map.fill(0xff);
    for port in open.iter().cloned().flatten() {
        if let Some(byte) = map.get_mut(usize::from(port) / 8) {
            *byte &= !(1 << (port % 8));
        }
    }
}

/// The ports of a kernel: serial port, battery-backed clock, the emulator's debug exit, the power register at `power`, unless that
/// is 0, and those of the watchdog.
pub fn ports(power: u32, watchdog: Range<u16>) -> [Range<u16>; 5] {
    let power = u16::try_from(power).unwrap_or(0);
    let power = if power == 0 { 0..0 } else { power..power.saturating_add(2) };
    [0x3f8..0x400, 0x70..0x72, 0xf4..0xf8, power, watchdog]
}

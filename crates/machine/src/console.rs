//! The serial port as the machine's console: for the kernel that owns it.
use crate::{
    apic::LAPIC,
    arch::{inb, outb, pause},
    info::{Info, info},
    mmio::{self, Mmio},
    serial::{self, PORT},
    vectors,
};
use shimos_hal::machine::DeviceError;

/// ISA interrupt of the first serial port.
const IRQ: u32 = 4;
/// How often the port is looked at before a writer is told that it took no more.
const PATIENCE: u32 = 20;
/// Bytes that the port takes when it is empty (16550, its FIFO).
const FIFO: usize = 16;

/// The console of its owner.
pub(crate) struct Console {
    io_apic: Option<Mmio>,
}

impl Console {
    pub(crate) const fn new() -> Console {
        Console { io_apic: None }
    }

    /// Sets the port up and aims its interrupt here. Without an I/O APIC the console has to be looked at.
    pub(crate) fn claim(&mut self) -> Result<(), DeviceError> {
        serial::init();
        let info = info();
        let (gsi, level, low) = route(info);
        if let Some(at) = info.ioapics().iter().filter(|at| at.gsi_base <= gsi).max_by_key(|at| at.gsi_base) {
            if self.io_apic.is_none() {
                self.io_apic = mmio::map(at.phys, 0x20);
            }
            if let Some(registers) = self.io_apic {
                let entry = 0x10 + 2 * (gsi - at.gsi_base);
                let set = |register: u32, value: u32| {
                    registers.write32(0, register);
                    registers.write32(0x10, value);
                };
                let low_half = u32::from(vectors::CONSOLE) | u32::from(low) << 13 | u32::from(level) << 15;
                // Masked while it changes.
                set(entry, 1 << 16 | low_half);
                set(entry + 1, LAPIC.id() << 24);
                set(entry, low_half);
            }
        }
        // Interrupt when something was received.
        outb(PORT + 1, 1);
        Ok(())
    }
    /// Writes as much as the port takes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        for (n, chunk) in bytes.chunks(FIFO).enumerate() {
            let mut left = PATIENCE;
            while inb(PORT + 5) & 0x20 == 0 {
                if left == 0 {
                    return n * FIFO;
                }
                left -= 1;
                pause();
            }
            chunk.iter().for_each(|&byte| outb(PORT, byte));
        }
        bytes.len()
    }
    /// Reads what was typed.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> usize {
        let mut len = 0;
        while len < into.len() && inb(PORT + 5) & 1 != 0 {
            into[len] = inb(PORT);
            len += 1;
        }
        len
    }
}

/// Where the interrupt arrives: global interrupt, whether by level, whether active low (ACPI 6.5, table 5.26).
fn route(info: &Info) -> (u32, bool, bool) {
    match info.overrides().iter().find(|line| line.irq == IRQ) {
        Some(line) => (line.gsi, line.flags >> 2 & 3 == 3, line.flags & 3 == 3),
        None => (IRQ, false, false),
    }
}

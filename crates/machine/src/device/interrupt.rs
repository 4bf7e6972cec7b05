//! Where a device's interrupt goes: an entry of its MSI-X table, or a pin of an I/O APIC.
use super::window::Window;
use shimos_hal::machine::DeviceError;

/// The core and the vector that a device's interrupt is to arrive at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Aim {
    /// APIC id of the core, at most 254.
    pub apic_id: u32,
    /// Interrupt vector, at least 32.
    pub vector: u8,
}

impl Aim {
    /// The APIC id as both kinds of interrupts take it.
    fn destination(self) -> Result<u8, DeviceError> {
        match u8::try_from(self.apic_id) {
            // 255 is everyone, and a device must never interrupt every kernel.
            Ok(id) if id != u8::MAX && self.vector >= 32 => Ok(id),
            _ => Err(DeviceError::Io),
        }
    }
}

/// An I/O APIC, as the MADT lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoApic {
    /// Physical address of its registers.
    pub phys: u64,
    /// Number of its first interrupt.
    pub first: u32,
}

/// Bytes of an I/O APIC's registers.
pub const IO_APIC_BYTES: usize = 0x20;

/// A device's interrupt line, mapped.
#[derive(Clone, Copy, Debug)]
pub enum Line {
    /// The device's MSI-X table (at least one entry).
    Msix(Window),
    /// A pin of an I/O APIC.
    Pin {
        /// The I/O APIC's registers.
        registers: Window,
        /// Which pin.
        pin: u8,
    },
}

impl Line {
    /// Shuts the line: nothing arrives any more.
    pub fn mask(&self) -> Result<(), DeviceError> {
        match self {
            Line::Msix(table) => {
                table.store(MSIX_CONTROL, MSIX_MASKED);
                // The load pushes the store out to the device.
                confirm(table.load::<u32>(MSIX_CONTROL) & MSIX_MASKED != 0)
            }
            // Edge mode also clears the "remote IRR" bit, which would keep the pin quiet if somebody had left it set.
            Line::Pin { registers, pin } => write_pin(registers, *pin, PIN_MASKED | 0x20, 0),
        }
    }

    /// Aims the line and opens it.
    pub fn aim(&self, aim: Aim) -> Result<(), DeviceError> {
        let destination = aim.destination()?;
        self.mask()?;
        match self {
            Line::Msix(table) => {
                let address = MSI_ADDRESS | u32::from(destination) << 12;
                let data = u32::from(aim.vector);
                table.store(0, address);
                table.store(4, 0u32);
                table.store(8, data);
                confirm(table.load::<u32>(0) == address && table.load::<u32>(8) == data)?;
                table.store(MSIX_CONTROL, 0u32);
                confirm(table.load::<u32>(MSIX_CONTROL) & MSIX_MASKED == 0)
            }
            Line::Pin { registers, pin } => {
                // Edge mode, active high: one interrupt when the device raises its line, and the next one only after the line was
                // lowered (`ack_interrupt`). So an interrupt that nobody has acknowledged yet does not come again and again.
                write_pin(registers, *pin, u32::from(aim.vector), u32::from(destination) << 24)
            }
        }
    }
}

const MSI_ADDRESS: u32 = 0xfee0_0000;
const MSIX_CONTROL: usize = 12;
const MSIX_MASKED: u32 = 1;

const PIN_MASKED: u32 = 1 << 16;
/// Bits of an entry that only the I/O APIC changes: delivery status and remote IRR.
const PIN_STATUS: u32 = 1 << 12 | 1 << 14;
const PIN_TABLE: u32 = 0x10;
const VERSION: u32 = 1;
const PIN_TRIES: usize = 16;

fn confirm(held: bool) -> Result<(), DeviceError> {
    if held { Ok(()) } else { Err(DeviceError::Io) }
}

fn io_apic_read(registers: &Window, register: u32) -> u32 {
    registers.store(0, register);
    registers.load(0x10)
}

fn io_apic_write(registers: &Window, register: u32, value: u32) {
    registers.store(0, register);
    registers.store(0x10, value);
}

/// How many pins an I/O APIC has.
pub fn pins(registers: &Window) -> u32 {
    (io_apic_read(registers, VERSION) >> 16 & 0xff) + 1
}

/// Writes a pin's entry, high half first and masked meanwhile. Another kernel may be at the same pair of registers for a
/// pin of its own, so what was written is read back, and written again if it is not there.
fn write_pin(registers: &Window, pin: u8, low: u32, high: u32) -> Result<(), DeviceError> {
    let register = PIN_TABLE + 2 * u32::from(pin);
    for _ in 0..PIN_TRIES {
        io_apic_write(registers, register, PIN_MASKED);
        io_apic_write(registers, register + 1, high);
        io_apic_write(registers, register, low);
        let now_low = io_apic_read(registers, register) & !PIN_STATUS;
        let now_high = io_apic_read(registers, register + 1);
        if now_low == low && now_high == high {
            return Ok(());
        }
    }
    Err(DeviceError::Io)
}

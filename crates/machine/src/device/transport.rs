//! How a virtio device is reached: registers behind PCI or plain memory-mapped ones, with one set of operations.
use super::{
    Bus, Place,
    interrupt::{IO_APIC_BYTES, Line},
    mmio::Registers,
    pci,
    queue::{MAX_SIZE, Queue},
    window::Window,
};
use core::hint::spin_loop;
use shimos_hal::machine::DeviceError;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const FEATURE_VERSION_1: u64 = 1 << 32;

/// How often the status is read before a reset counts as unconfirmed: some tenths of a second, or seconds with KVM.
const RESET_LOOKS: usize = 1_000_000;
const CONFIG_LOOKS: usize = 100;

/// Registers of a device.
#[derive(Clone, Copy)]
pub enum Transport {
    /// Virtio over PCI, version 1.
    Pci(pci::Registers),
    /// Virtio over memory-mapped registers, version 2.
    Mmio(Registers),
}

/// Maps a device's registers and its interrupt line.
pub fn connect(bus: &mut impl Bus, place: Place) -> Option<(Transport, Line)> {
    match place {
        Place::Pci(place) => {
            let registers = pci::Registers::map(bus, &place)?;
            Some((Transport::Pci(registers), Line::Msix(map(bus, place.msix.phys, place.msix.len)?)))
        }
        Place::Mmio(place) => {
            let registers = Registers::map(bus, place.phys)?;
            let line = Line::Pin { registers: map(bus, place.io_apic, IO_APIC_BYTES)?, pin: place.pin };
            Some((Transport::Mmio(registers), line))
        }
    }
}

/// Maps registers.
pub fn map(bus: &mut impl Bus, phys: u64, len: usize) -> Option<Window> {
    let base = bus.map_registers(phys, len)?;
    // SAFETY: `Bus::map_registers` promises a mapping of that length for good; registers are never behind references.
    Some(unsafe { Window::new(base, len) })
}

/// Where the device is told that a queue has something new.
#[derive(Clone, Copy)]
pub struct Bell {
    register: Window,
    queue: u16,
    width: Width,
}

/// How wide the store is.
#[derive(Clone, Copy)]
pub enum Width {
    /// 16 bits.
    Two,
    /// 32 bits.
    Four,
}

impl Bell {
    /// A bell for `queue` at `register`.
    pub const fn new(register: Window, queue: u16, width: Width) -> Bell {
        Bell { register, queue, width }
    }

    /// Tells the device.
    pub fn ring(&self) {
        match self.width {
            Width::Two => self.register.store(0, self.queue),
            Width::Four => self.register.store(0, u32::from(self.queue)),
        }
    }
}

impl Transport {
    fn status(&self) -> u8 {
        match self {
            Transport::Pci(it) => it.status(),
            Transport::Mmio(it) => it.status(),
        }
    }
    fn set_status(&self, status: u8) {
        match self {
            Transport::Pci(it) => it.set_status(status),
            Transport::Mmio(it) => it.set_status(status),
        }
    }

    /// Resets the device and waits until it says so: from then on it reads and writes no memory and keeps quiet.
    pub fn reset(&self, line: &Line) -> Result<(), DeviceError> {
        // Shut the line first: whatever comes now belongs to nobody. A failure to do so must not hold up the reset.
        let masked = line.mask();
        self.set_status(0);
        for _ in 0..RESET_LOOKS {
            if self.status() == 0 {
                return masked;
            }
            spin_loop();
        }
        Err(DeviceError::ResetUnconfirmed)
    }

    /// Resets the device and agrees with it on version 1 and those of the `wanted` features that it has.
    pub fn begin(&self, line: &Line, wanted: u64) -> Result<(), DeviceError> {
        self.reset(line)?;
        self.set_status(ACKNOWLEDGE);
        self.set_status(ACKNOWLEDGE | DRIVER);
        let offered = match self {
            Transport::Pci(it) => it.features(),
            Transport::Mmio(it) => it.features(),
        };
        if offered & FEATURE_VERSION_1 == 0 {
            return Err(DeviceError::Io);
        }
        let features = offered & (wanted | FEATURE_VERSION_1);
        match self {
            Transport::Pci(it) => it.set_features(features),
            Transport::Mmio(it) => it.set_features(features),
        }
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if self.status() & FEATURES_OK == 0 { Err(DeviceError::Io) } else { Ok(()) }
    }

    /// How large queue `index` is to be: as large as the device can, up to [`MAX_SIZE`].
    pub fn queue_size(&self, index: u16) -> Result<u16, DeviceError> {
        let most = match self {
            Transport::Pci(it) => it.queue_size(index),
            Transport::Mmio(it) => it.queue_size(index),
        };
        let most = most.min(MAX_SIZE);
        // The largest power of two that is no larger.
        most.checked_ilog2().map(|log| 1 << log).ok_or(DeviceError::Io)
    }

    /// Tells the device where queue `index` is; returns how to notify it.
    pub fn set_queue(&self, index: u16, queue: &Queue) -> Result<Bell, DeviceError> {
        match self {
            Transport::Pci(it) => it.set_queue(index, queue),
            Transport::Mmio(it) => it.set_queue(index, queue),
        }
    }

    /// Lets the device run.
    pub fn go(&self) -> Result<(), DeviceError> {
        let all = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
        self.set_status(all);
        if self.status() == all { Ok(()) } else { Err(DeviceError::Io) }
    }

    /// A number of the device's own configuration, read so that both halves are of the same moment.
    pub fn config_u64(&self, offset: usize) -> Result<u64, DeviceError> {
        for _ in 0..CONFIG_LOOKS {
            let before = self.generation();
            let low = self.config_u32(offset);
            let high = self.config_u32(offset + 4);
            if self.generation() == before {
                return Ok(u64::from(high) << 32 | u64::from(low));
            }
        }
        Err(DeviceError::Io)
    }

    fn config_u32(&self, offset: usize) -> u32 {
        match self {
            Transport::Pci(it) => it.config_u32(offset),
            Transport::Mmio(it) => it.config_u32(offset),
        }
    }

    fn generation(&self) -> u32 {
        match self {
            Transport::Pci(it) => it.generation(),
            Transport::Mmio(it) => it.generation(),
        }
    }

    /// Lowers the interrupt line, where there is one.
    pub fn ack_interrupt(&self) {
        match self {
            Transport::Pci(_) => {}
            Transport::Mmio(it) => it.ack_interrupt(),
        }
    }
}

//! Virtio over memory-mapped registers (virtio 1.2, section 4.2): the devices of an emulated microvm.
use super::{
    Bus, Found, Kind, Place as AnyPlace,
    interrupt::{self, IO_APIC_BYTES, IoApic},
    queue::Queue,
    transport::{Bell, Width, map},
    window::Window,
};
use shimos_hal::machine::DeviceError;

/// Bytes of a device's registers.
pub const BYTES: usize = 0x200;

const MAGIC: usize = 0x00;
const VERSION: usize = 0x04;
const DEVICE_ID: usize = 0x08;
const DEVICE_FEATURES: usize = 0x10;
const DEVICE_FEATURES_SELECT: usize = 0x14;
const DRIVER_FEATURES: usize = 0x20;
const DRIVER_FEATURES_SELECT: usize = 0x24;
const QUEUE_SELECT: usize = 0x30;
const QUEUE_SIZE_MAX: usize = 0x34;
const QUEUE_SIZE: usize = 0x38;
const QUEUE_READY: usize = 0x44;
const QUEUE_NOTIFY: usize = 0x50;
const INTERRUPT_STATUS: usize = 0x60;
const INTERRUPT_ACK: usize = 0x64;
const STATUS: usize = 0x70;
const QUEUE_DESCRIPTORS: usize = 0x80;
const QUEUE_AVAILABLE: usize = 0x90;
const QUEUE_USED: usize = 0xa0;
const GENERATION: usize = 0xfc;
const CONFIG: usize = 0x100;

/// "virt"
const MAGIC_VALUE: u32 = 0x7472_6976;
const MODERN: u32 = 2;

/// Where a microvm of QEMU has its devices, and how many.
const MICROVM_PHYS: u64 = 0xfeb0_0000;
const MICROVM_DEVICES: u32 = 24;
/// The first interrupt of these devices: with a second I/O APIC, that one's first; otherwise this.
const MICROVM_ONE_IO_APIC_FIRST: u32 = 16;
/// With one I/O APIC there are only so many.
const MICROVM_ONE_IO_APIC_DEVICES: u32 = 8;

/// Where a device is, and at which pin of which I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Physical address of its registers.
    pub phys: u64,
    /// Physical address of the I/O APIC.
    pub io_apic: u64,
    /// Pin of that.
    pub pin: u8,
}

/// Where to look without having been told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guess {
    /// Nowhere.
    Never,
    /// Where QEMU's microvm has them; with ACPI on, it does not say so on the command line.
    Microvm,
}

/// Looks for devices that the command line names, and for those of a microvm.
pub fn discover(bus: &mut impl Bus, command_line: &[u8], io_apics: &[IoApic], guess: Guess, found: &mut Found) {
    let mut told = false;
    for word in command_line.split(u8::is_ascii_whitespace) {
        if let Some((phys, line)) = parse(word) {
            told = true;
            look(bus, phys, line, io_apics, found);
        }
    }
    if told || guess == Guess::Never {
        return;
    }
    let (first, count) = match io_apics {
        [_, second, ..] => (second.first, MICROVM_DEVICES),
        _ => (MICROVM_ONE_IO_APIC_FIRST, MICROVM_ONE_IO_APIC_DEVICES),
    };
    for device in 0..count {
        look(bus, MICROVM_PHYS + u64::from(device) * BYTES as u64, first + device, io_apics, found);
    }
}

/// `virtio_mmio.device=512@0xfeb00e00:12`: size, address, interrupt.
fn parse(word: &[u8]) -> Option<(u64, u32)> {
    let word = core::str::from_utf8(word).ok()?;
    let (size, rest) = word.strip_prefix("virtio_mmio.device=")?.split_once('@')?;
    let mut rest = rest.split(':');
    let phys = number(rest.next()?)?;
    let line = number(rest.next()?)?;
    // "512", or "0x200", or "1K".
    let size = match size.strip_suffix(['k', 'K']) {
        Some(kib) => number(kib)?.checked_mul(1024)?,
        None => number(size)?,
    };
    if size < BYTES as u64 || !phys.is_multiple_of(BYTES as u64) {
        return None;
    }
    Some((phys, u32::try_from(line).ok()?))
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Notes the device at `phys`, if there is one that we can drive.
fn look(bus: &mut impl Bus, phys: u64, line: u32, io_apics: &[IoApic], found: &mut Found) {
    let Some(registers) = Registers::map(bus, phys) else { return };
    let Some(kind) = registers.kind() else { return };
    for io_apic in io_apics {
        let Some(pin) = line.checked_sub(io_apic.first) else { continue };
        let Some(window) = map(bus, io_apic.phys, IO_APIC_BYTES) else { continue };
        if pin < interrupt::pins(&window)
            && let Ok(pin) = u8::try_from(pin)
        {
            found.note(kind, AnyPlace::Mmio(Place { phys, io_apic: io_apic.phys, pin }));
            return;
        }
    }
}

/// A device's registers.
#[derive(Clone, Copy)]
pub struct Registers(Window);

impl Registers {
    /// Maps them.
    pub fn map(bus: &mut impl Bus, phys: u64) -> Option<Registers> {
        Some(Registers(map(bus, phys, BYTES)?))
    }

    fn kind(&self) -> Option<Kind> {
        let registers = &self.0;
        if registers.load::<u32>(MAGIC) != MAGIC_VALUE || registers.load::<u32>(VERSION) != MODERN {
            return None;
        }
        Kind::of(registers.load(DEVICE_ID))
    }

    pub(super) fn status(&self) -> u8 {
        self.0.load::<u32>(STATUS) as u8
    }
    pub(super) fn set_status(&self, status: u8) {
        self.0.store(STATUS, u32::from(status));
    }
    pub(super) fn features(&self) -> u64 {
        let half = |select: u32| {
            self.0.store(DEVICE_FEATURES_SELECT, select);
            u64::from(self.0.load::<u32>(DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }
    pub(super) fn set_features(&self, features: u64) {
        self.0.store(DRIVER_FEATURES_SELECT, 0u32);
        self.0.store(DRIVER_FEATURES, features as u32);
        self.0.store(DRIVER_FEATURES_SELECT, 1u32);
        self.0.store(DRIVER_FEATURES, (features >> 32) as u32);
    }
    pub(super) fn queue_size(&self, index: u16) -> u16 {
        self.0.store(QUEUE_SELECT, u32::from(index));
        u16::try_from(self.0.load::<u32>(QUEUE_SIZE_MAX)).unwrap_or(u16::MAX)
    }
    pub(super) fn set_queue(&self, index: u16, queue: &Queue) -> Result<Bell, DeviceError> {
        self.0.store(QUEUE_SELECT, u32::from(index));
        if self.0.load::<u32>(QUEUE_READY) != 0 {
            return Err(DeviceError::ResetUnconfirmed);
        }
        self.0.store(QUEUE_SIZE, u32::from(queue.size()));
        for (register, phys) in
            [(QUEUE_DESCRIPTORS, queue.descriptors()), (QUEUE_AVAILABLE, queue.available()), (QUEUE_USED, queue.used())]
        {
            self.0.store(register, phys as u32);
            self.0.store(register + 4, (phys >> 32) as u32);
        }
        self.0.store(QUEUE_READY, 1u32);
        let register = self.0.part(QUEUE_NOTIFY, 4).ok_or(DeviceError::Io)?;
        Ok(Bell::new(register, index, Width::Four))
    }
    pub(super) fn config_u32(&self, offset: usize) -> u32 {
        self.0.load(CONFIG + offset)
    }
    pub(super) fn generation(&self) -> u32 {
        self.0.load(GENERATION)
    }
    pub(super) fn ack_interrupt(&self) {
        let causes = self.0.load::<u32>(INTERRUPT_STATUS);
        self.0.store(INTERRUPT_ACK, causes);
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn command_line_words() {
        assert_eq!(parse(b"virtio_mmio.device=512@0xfeb00e00:12"), Some((0xfeb0_0e00, 12)));
        assert_eq!(parse(b"virtio_mmio.device=1K@0xfeb00e00:12:3"), Some((0xfeb0_0e00, 12)));
        for bad in ["", "quiet", "virtio_mmio.device=", "virtio_mmio.device=512@", "virtio_mmio.device=512@0x1000"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse(b"virtio_mmio.device=512@0xfeb00e01:12"), None);
        assert_eq!(parse(b"virtio_mmio.device=99999999999999999999@0xfeb00e00:12"), None);
        assert_eq!(parse(b"virtio_mmio.device=512@0xfeb00e00:-1"), None);
    }
}

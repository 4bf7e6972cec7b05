//! Virtio over PCI (virtio 1.2, section 4.1): finding the functions, giving them addresses, their registers.
//!
//! Configuration space is only used while the boot core looks for devices. What a later owner needs is physical addresses
//! of registers ([`Place`]), so two kernels that take devices over at the same time cannot get in each other's way.
use super::{
    Bus, Found, Kind, Place as AnyPlace,
    queue::Queue,
    transport::{Bell, Width, map},
    window::Window,
};
use core::arch::asm;
use shimos_hal::machine::DeviceError;

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;

const COMMAND: u8 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_MASTER: u32 = 1 << 2;
const COMMAND_NO_INTX: u32 = 1 << 10;
const STATUS_HAS_CAPABILITIES: u32 = 1 << 20;
const HEADER: u8 = 0x0c;
const FIRST_BAR: u8 = 0x10;
const BUSES: u8 = 0x18;
const SUBSYSTEM: u8 = 0x2c;
const CAPABILITIES: u8 = 0x34;

const VIRTIO_VENDOR: u32 = 0x1af4;
const CAPABILITY_VENDOR: u32 = 0x09;
const CAPABILITY_MSIX: u32 = 0x11;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_FUNCTION_MASK: u32 = 1 << 30;
const MSIX_ENTRY_BYTES: usize = 16;

/// Addresses for BARs that the firmware left alone: above any memory and any window of memory-mapped configuration space that
/// QEMU's machines have, and below the interrupt controllers.
const HOLE: core::ops::Range<u64> = 0xf000_0000..0xfe00_0000;

/// A run of registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Physical address.
    pub phys: u64,
    /// Bytes.
    pub len: usize,
}

/// Where a device's registers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    common: Span,
    notify: Span,
    notify_step: u32,
    config: Span,
    /// The MSI-X table.
    pub msix: Span,
}

impl Place {
    /// All its registers.
    pub fn spans(&self) -> [Span; 4] {
        [self.common, self.notify, self.config, self.msix]
    }
}

/// Whether there is a PCI bus.
pub fn present() -> bool {
    let host = Function { bus: 0, device: 0, function: 0 };
    host.read(0) & 0xffff != 0xffff
}

/// Looks through all buses.
pub fn discover(found: &mut Found) {
    let mut free = HOLE.start;
    // Firmware that gave addresses gave them to all. Should it have left some out, stay above those it gave.
    each_function(|function| {
        for bar in function.bars() {
            if HOLE.contains(&bar.base) {
                free = free.max(bar.base + bar.size);
            }
        }
    });
    each_function(|function| {
        if let Some(kind) = function.virtio_kind()
            && let Some(place) = function.set_up(&mut free)
        {
            found.note(kind, AnyPlace::Pci(place));
        }
    });
}

fn each_function(mut visit: impl FnMut(Function)) {
    // A bridge leads to a bus of a higher number, so one pass in order reaches them all.
    let mut known = [false; 256];
    known[0] = true;
    for bus in 0..=u8::MAX {
        if !known[usize::from(bus)] {
            continue;
        }
        for device in 0..32 {
            for function in 0..8 {
                let place = Function { bus, device, function };
                if place.read(0) & 0xffff == 0xffff {
                    if function == 0 {
                        break;
                    }
                    continue;
                }
                let header = place.read(HEADER) >> 16 & 0xff;
                if header & 0x7f == 1 {
                    let behind = place.read(BUSES) >> 8 & 0xff;
                    if let Some(known) = known.get_mut(behind as usize) {
                        *known = true;
                    }
                } else {
                    visit(place);
                }
                let single = header & 0x80 == 0;
                if function == 0 && single {
                    break;
                }
            }
        }
    }
}

/// A memory BAR.
#[derive(Clone, Copy, Default)]
struct Bar {
    base: u64,
    size: u64,
}

#[derive(Clone, Copy)]
struct Function {
    bus: u8,
    device: u8,
    function: u8,
}

impl Function {
    fn select(self, offset: u8) {
        let address = 1 << 31
            | u32::from(self.bus) << 16
            | u32::from(self.device & 31) << 11
            | u32::from(self.function & 7) << 8
            | u32::from(offset & 0xfc);
        // SAFETY: these ports are configuration space's; memory is not touched. Only the boot core is here.
        unsafe { asm!("out dx, eax", in("dx") ADDRESS_PORT, in("eax") address, options(nomem, nostack)) }
    }

    fn read(self, offset: u8) -> u32 {
        self.select(offset);
        let value: u32;
        // SAFETY: reading configuration space has no side effect on memory.
        unsafe { asm!("in eax, dx", in("dx") DATA_PORT, out("eax") value, options(nomem, nostack)) }
        value
    }

    fn write(self, offset: u8, value: u32) {
        self.select(offset);
        // SAFETY: the callers write command bits, BARs inside the hole and the MSI-X switch of virtio functions, and put BARs
        // back that they sized; none of it can overlay memory.
        unsafe { asm!("out dx, eax", in("dx") DATA_PORT, in("eax") value, options(nomem, nostack)) }
    }

    fn virtio_kind(self) -> Option<Kind> {
        let id = self.read(0);
        if id & 0xffff != VIRTIO_VENDOR {
            return None;
        }
        match id >> 16 {
            // Transitional functions say in the subsystem id what they are.
            0x1000..=0x103f => Kind::of(self.read(SUBSYSTEM) >> 16),
            modern @ 0x1040..=0x107f => Kind::of(modern - 0x1040),
            _ => None,
        }
    }

    /// Its memory BARs, by number. I/O BARs and the upper halves of long ones have size 0.
    fn bars(self) -> [Bar; 6] {
        let mut bars = [Bar::default(); 6];
        let command = self.read(COMMAND);
        // While a BAR is sized it holds nonsense, which must not be decoded. (The status half ignores zeros.)
        self.write(COMMAND, command & 0xffff & !COMMAND_MEMORY);
        let mut number = 0u8;
        while number < 6 {
            let offset = FIRST_BAR + 4 * number;
            let low = self.read(offset);
            let long = low & 0b111 == 0b100;
            if low & 1 == 0 {
                let mut base = u64::from(low & !0xf);
                self.write(offset, u32::MAX);
                let mut mask = u64::from(self.read(offset) & !0xf) | u64::from(u32::MAX) << 32;
                self.write(offset, low);
                if long && number < 5 {
                    let high = self.read(offset + 4);
                    base |= u64::from(high) << 32;
                    self.write(offset + 4, u32::MAX);
                    mask = mask & 0xffff_ffff | u64::from(self.read(offset + 4)) << 32;
                    self.write(offset + 4, high);
                }
                let implemented = mask as u32 != 0 || long;
                if implemented && let Some(bar) = bars.get_mut(usize::from(number)) {
                    *bar = Bar { base, size: (!mask).wrapping_add(1) };
                }
            }
            number += if long { 2 } else { 1 };
        }
        self.write(COMMAND, command & 0xffff);
        bars
    }

    /// Gives the function addresses where it has none, switches it on, and finds its registers.
    fn set_up(self, free: &mut u64) -> Option<Place> {
        let mut bars = self.bars();
        for (number, bar) in bars.iter_mut().enumerate() {
            if bar.size == 0 || bar.base != 0 {
                continue;
            }
            // Behind a bridge the bridge would have to be opened as well.
            if self.bus != 0 {
                return None;
            }
            // The size is a power of two. A page at least, so that no two devices share one.
            let size = bar.size.max(4096);
            let base = free.checked_next_multiple_of(size)?;
            let end = base.checked_add(size)?;
            if end > HOLE.end {
                return None;
            }
            *free = end;
            let offset = FIRST_BAR + 4 * number as u8;
            let long = self.read(offset) & 0b111 == 0b100;
            self.write(offset, base as u32);
            if long {
                self.write(offset + 4, (base >> 32) as u32);
            }
            bar.base = base;
        }
        let command = self.read(COMMAND) & 0xffff | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_NO_INTX;
        self.write(COMMAND, command);
        self.find_registers(&bars)
    }

    fn find_registers(self, bars: &[Bar; 6]) -> Option<Place> {
        if self.read(COMMAND) & STATUS_HAS_CAPABILITIES == 0 {
            return None;
        }
        let (mut common, mut notify, mut config, mut msix) = (None, None, None, None);
        let mut at = self.read(CAPABILITIES) as u8 & 0xfc;
        // There is room for 48 of them; more would be a loop.
        for _ in 0..48 {
            if at < 0x40 {
                break;
            }
            let head = self.read(at);
            match head & 0xff {
                CAPABILITY_VENDOR if at <= 0xf0 => {
                    let span = self.span(bars, self.read(at + 4), self.read(at + 8), self.read(at + 12));
                    // The first of a kind is the device's favourite.
                    match head >> 24 {
                        1 if common.is_none() => common = span,
                        2 if notify.is_none() && at <= 0xec => notify = span.map(|span| (span, self.read(at + 16))),
                        4 if config.is_none() => config = span,
                        _ => {}
                    }
                }
                CAPABILITY_MSIX if at <= 0xf4 => {
                    let table = self.read(at + 4);
                    let entries = (head >> 16 & 0x7ff) + 1;
                    msix = self.span(bars, table & 7, table & !7, entries * MSIX_ENTRY_BYTES as u32);
                    // On for good; every entry is masked until an owner opens it.
                    self.write(at, (head | MSIX_ENABLE) & !MSIX_FUNCTION_MASK);
                }
                _ => {}
            }
            at = (head >> 8) as u8 & 0xfc;
        }
        let (notify, notify_step) = notify?;
        let place = Place { common: common?, notify, notify_step, config: config?, msix: msix? };
        if place.common.len < COMMON_BYTES { None } else { Some(place) }
    }

    fn span(self, bars: &[Bar; 6], bar: u32, offset: u32, len: u32) -> Option<Span> {
        let bar = bars.get((bar & 0xff) as usize)?;
        let end = u64::from(offset).checked_add(u64::from(len))?;
        if len == 0 || end > bar.size {
            return None;
        }
        Some(Span { phys: bar.base.checked_add(u64::from(offset))?, len: len as usize })
    }
}

const DEVICE_FEATURES_SELECT: usize = 0x00;
const DEVICE_FEATURES: usize = 0x04;
const DRIVER_FEATURES_SELECT: usize = 0x08;
const DRIVER_FEATURES: usize = 0x0c;
const CONFIG_VECTOR: usize = 0x10;
const STATUS: usize = 0x14;
const GENERATION: usize = 0x15;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_VECTOR: usize = 0x1a;
const QUEUE_ENABLE: usize = 0x1c;
const QUEUE_NOTIFY_PLACE: usize = 0x1e;
const QUEUE_DESCRIPTORS: usize = 0x20;
const QUEUE_AVAILABLE: usize = 0x28;
const QUEUE_USED: usize = 0x30;
const COMMON_BYTES: usize = 0x38;
const NO_VECTOR: u16 = 0xffff;

/// A device's registers, mapped.
#[derive(Clone, Copy)]
pub struct Registers {
    common: Window,
    notify: Window,
    notify_step: u32,
    config: Window,
}

impl Registers {
    /// Maps them.
    pub fn map(bus: &mut impl Bus, place: &Place) -> Option<Registers> {
        Some(Registers {
            common: map(bus, place.common.phys, place.common.len)?,
            notify: map(bus, place.notify.phys, place.notify.len)?,
            notify_step: place.notify_step,
            config: map(bus, place.config.phys, place.config.len)?,
        })
    }

    pub(super) fn status(&self) -> u8 {
        self.common.load(STATUS)
    }
    pub(super) fn set_status(&self, status: u8) {
        self.common.store(STATUS, status);
    }
    pub(super) fn features(&self) -> u64 {
        let half = |select: u32| {
            self.common.store(DEVICE_FEATURES_SELECT, select);
            u64::from(self.common.load::<u32>(DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }
    pub(super) fn set_features(&self, features: u64) {
        self.common.store(DRIVER_FEATURES_SELECT, 0u32);
        self.common.store(DRIVER_FEATURES, features as u32);
        self.common.store(DRIVER_FEATURES_SELECT, 1u32);
        self.common.store(DRIVER_FEATURES, (features >> 32) as u32);
    }
    pub(super) fn queue_size(&self, index: u16) -> u16 {
        self.common.store(QUEUE_SELECT, index);
        self.common.load(QUEUE_SIZE)
    }
    pub(super) fn set_queue(&self, index: u16, queue: &Queue) -> Result<Bell, DeviceError> {
        // Changes of the configuration do not interest us.
        self.common.store(CONFIG_VECTOR, NO_VECTOR);
        self.common.store(QUEUE_SELECT, index);
        if self.common.load::<u16>(QUEUE_ENABLE) != 0 {
            return Err(DeviceError::ResetUnconfirmed);
        }
        self.common.store(QUEUE_SIZE, queue.size());
        self.common.store(QUEUE_VECTOR, 0u16);
        // A device that has no vector left says so here.
        if self.common.load::<u16>(QUEUE_VECTOR) != 0 {
            return Err(DeviceError::Io);
        }
        for (register, phys) in
            [(QUEUE_DESCRIPTORS, queue.descriptors()), (QUEUE_AVAILABLE, queue.available()), (QUEUE_USED, queue.used())]
        {
            // Halves: the standard allows devices that take no 64-bit stores.
            self.common.store(register, phys as u32);
            self.common.store(register + 4, (phys >> 32) as u32);
        }
        let place = u64::from(self.common.load::<u16>(QUEUE_NOTIFY_PLACE)) * u64::from(self.notify_step);
        let place = usize::try_from(place).map_err(|_| DeviceError::Io)?;
        let register = self.notify.part(place, 2).ok_or(DeviceError::Io)?;
        self.common.store(QUEUE_ENABLE, 1u16);
        Ok(Bell::new(register, index, Width::Two))
    }
    pub(super) fn config_u32(&self, offset: usize) -> u32 {
        self.config.load(offset)
    }
    pub(super) fn generation(&self) -> u32 {
        u32::from(self.common.load::<u8>(GENERATION))
    }
}

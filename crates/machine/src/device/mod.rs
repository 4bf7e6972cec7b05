//! The disk and the network card: finding them, taking them over, driving them.
//!
//! How the machine layer uses this module:
//!
//! 1. It implements [`Bus`]: map device registers, hand out memory for rings and buffers.
//! 2. The boot core calls [`discover`] **once**, before any other core runs: configuration space and BARs are reached
//!    through a pair of ports that all cores share. The answer, [`Found`], is plain data without pointers; every kernel and
//!    every later incarnation gets a copy.
//! 3. Each kernel keeps `Devices::new(found)`. `Machine::claim(Block)` calls [`Devices::claim_block`] with the kernel's own
//!    APIC id and a vector of its choice, `claim(Network)` calls [`Devices::claim_net`]. Claiming works from any state
//!    that a dead owner may have left, and again in the same kernel. It touches only the device's own registers.
//! 4. Every time the vector has come, sooner or later and before the device is looked at: [`Devices::ack_interrupt`]. It says
//!    which event to raise. The end of interrupt at the local APIC may come before or after.
//! 5. The other methods of `Machine` are one call each: [`Devices::block`] and [`Devices::net`] give the device if this kernel
//!    has claimed it.
//!
//! ```text
//! fn block_read(&mut self, tag: u64, block: u64, frame: Frame) -> Result<(), DeviceError> {
//!     let device = self.devices.block().ok_or(DeviceError::Absent)?;
//!     // SAFETY: the frame is of this kernel's pool, and the caller leaves it alone until the request is done.
//!     unsafe { device.read(tag, block, frame.addr()) }
//! }
//! fn net_receive(&mut self, into: &mut [u8]) -> Option<usize> {
//!     self.devices.net()?.receive(into)
//! }
//! ```
//!
//! On PCI the interrupt is MSI-X entry 0 of the device; on a microvm it is a pin of an I/O APIC. Both queues of the card
//! share one vector. On a microvm QEMU must be told `-global virtio-mmio.force-legacy=false`.
//!
//! The I/O APIC is reached through a pair of registers, too. Two kernels that claim two devices of a microvm at the same
//! moment can spoil each other's entry; each reads its own back and tries again, but an owner should look at its devices
//! now and then without being called.
mod block;
mod interrupt;
mod mmio;
mod net;
mod pci;
mod queue;
mod transport;
mod window;

pub use block::BlockDevice;
pub use interrupt::{Aim, IoApic};
pub use net::NetDevice;
pub use queue::Interrupts;

use core::ptr::NonNull;
use interrupt::Line;
use shimos_abi::control::Device;
use shimos_hal::{Events, machine::DeviceError};
use transport::Transport;
use window::{Dma, Window};

/// What this module needs from the machine layer.
///
/// # Safety
/// The addresses must be as promised: the code here reads and writes through them.
pub unsafe trait Bus {
    /// Maps `len` bytes of device registers at physical address `phys`, uncached and writable, for as long as this kernel runs.
    /// `phys` need not be at a page's start. Mapping the same registers again is no error.
    fn map_registers(&mut self, phys: u64, len: usize) -> Option<NonNull<u8>>;
    /// `pages` frames of this kernel's private memory in a row, mapped and used for nothing else from now on: physical and
    /// virtual address. They never come back. A kernel asks at most once for each device ([`BLOCK_PAGES`], [`NET_PAGES`]).
    /// After this kernel's death they must not be used for anything else until the next owner's claim has succeeded.
    fn take_dma(&mut self, pages: usize) -> Option<(u64, NonNull<u8>)>;
}

/// Pages that claiming the disk takes.
pub const BLOCK_PAGES: usize = block::PAGES;
/// Pages that claiming the network card takes.
pub const NET_PAGES: usize = net::PAGES;

/// Where a device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Pci(pci::Place),
    Mmio(mmio::Place),
}

/// Kinds of devices, with virtio's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Net = 1,
    Block = 2,
}

impl Kind {
    fn of(number: u32) -> Option<Kind> {
        match number {
            1 => Some(Kind::Net),
            2 => Some(Kind::Block),
            _ => None,
        }
    }
}

/// The machine's devices: plain data, the same for all kernels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Found {
    block: Option<Place>,
    net: Option<Place>,
}

impl Found {
    /// Nothing.
    pub const NONE: Found = Found { block: None, net: None };

    /// Whether there is a disk.
    pub const fn has_block(&self) -> bool {
        self.block.is_some()
    }
    /// Whether there is a network card.
    pub const fn has_net(&self) -> bool {
        self.net.is_some()
    }

    /// Calls back with address and length of each run of a device's own registers.
    pub fn registers(&self, device: Device, visit: &mut dyn FnMut(u64, usize)) {
        let place = match device {
            Device::Block => self.block,
            Device::Network => self.net,
            Device::Console => None,
        };
        match place {
            Some(Place::Pci(place)) => place.spans().into_iter().for_each(|span| visit(span.phys, span.len)),
            Some(Place::Mmio(place)) => visit(place.phys, mmio::BYTES),
            None => {}
        }
    }

    /// The first of each kind is used.
    fn note(&mut self, kind: Kind, place: Place) {
        let slot = match kind {
            Kind::Block => &mut self.block,
            Kind::Net => &mut self.net,
        };
        slot.get_or_insert(place);
    }
}

/// Looks for the devices, gives them addresses if the firmware did not, and lets them onto the bus. To be called once, by
/// the boot core, before the others run. `command_line` is the kernel's; `io_apics` are those of the MADT, in its order.
pub fn discover(bus: &mut impl Bus, command_line: &[u8], io_apics: &[IoApic]) -> Found {
    let mut found = Found::NONE;
    if pci::present() {
        pci::discover(&mut found);
    }
    // On a PC an address where a microvm has its devices may be anything, so there we only look where we are told.
    let elsewhere = if pci::present() { mmio::Guess::Never } else { mmio::Guess::Microvm };
    mmio::discover(bus, command_line, io_apics, elsewhere, &mut found);
    found
}

/// A device of this kernel, with what outlasts a claim.
struct Held<D> {
    link: Option<(Transport, Line)>,
    memory: Option<Dma>,
    vector: u8,
    device: Option<D>,
}

impl<D> Held<D> {
    const fn new() -> Held<D> {
        Held { link: None, memory: None, vector: 0, device: None }
    }

    /// Maps the device's registers and takes its memory, the first time.
    fn prepare(
        &mut self,
        bus: &mut impl Bus,
        place: Option<Place>,
        pages: usize,
    ) -> Result<(Transport, Line, Dma), DeviceError> {
        let place = place.ok_or(DeviceError::Absent)?;
        let (transport, line) = match self.link {
            Some(link) => link,
            None => *self.link.insert(transport::connect(bus, place).ok_or(DeviceError::Io)?),
        };
        let memory = match self.memory {
            Some(memory) => memory,
            None => {
                let (phys, virt) = bus.take_dma(pages).ok_or(DeviceError::Io)?;
                // SAFETY: `Bus::take_dma` promises the pages to us alone, for ever.
                let window = unsafe { Window::new(virt, pages * shimos_abi::addr::PAGE) };
                *self.memory.insert(Dma::new(window, phys))
            }
        };
        Ok((transport, line, memory))
    }
}

/// The devices as one kernel sees them.
pub struct Devices {
    found: Found,
    block: Held<BlockDevice>,
    net: Held<NetDevice>,
}

impl Devices {
    /// None of them claimed.
    pub const fn new(found: Found) -> Devices {
        Devices { found, block: Held::new(), net: Held::new() }
    }

    /// Takes the disk: resets it, sets it up, aims its interrupts. Requests of an earlier claim are forgotten.
    pub fn claim_block(&mut self, bus: &mut impl Bus, aim: Aim) -> Result<(), DeviceError> {
        self.block.device = None;
        let (transport, line, memory) = self.block.prepare(bus, self.found.block, BLOCK_PAGES)?;
        self.block.vector = aim.vector;
        self.block.device = Some(BlockDevice::start(transport, line, memory, aim)?);
        Ok(())
    }

    /// Takes the network card: resets it, sets it up, aims its interrupts.
    pub fn claim_net(&mut self, bus: &mut impl Bus, aim: Aim) -> Result<(), DeviceError> {
        self.net.device = None;
        let (transport, line, memory) = self.net.prepare(bus, self.found.net, NET_PAGES)?;
        self.net.vector = aim.vector;
        self.net.device = Some(NetDevice::start(transport, line, memory, aim)?);
        Ok(())
    }

    /// Touches the disk no more.
    pub fn release_block(&mut self) {
        self.block.device = None;
    }
    /// Touches the network card no more.
    pub fn release_net(&mut self) {
        self.net.device = None;
    }

    /// The disk, if claimed.
    pub fn block(&mut self) -> Option<&mut BlockDevice> {
        self.block.device.as_mut()
    }
    /// How many blocks the disk has; 0 if it is not claimed.
    pub fn block_count(&self) -> u64 {
        self.block.device.as_ref().map_or(0, BlockDevice::count)
    }
    /// The network card, if claimed.
    pub fn net(&mut self) -> Option<&mut NetDevice> {
        self.net.device.as_mut()
    }

    /// Quiets the devices that interrupt with `vector`, so that they can interrupt again; says which want attention.
    pub fn ack_interrupt(&self, vector: u8) -> Events {
        let mut events = Events::empty();
        if let (Some((transport, _)), true) = (&self.block.link, self.block.vector == vector) {
            transport.ack_interrupt();
            events |= Events::BLOCK;
        }
        if let (Some((transport, _)), true) = (&self.net.link, self.net.vector == vector) {
            transport.ack_interrupt();
            events |= Events::NETWORK;
        }
        events
    }
}

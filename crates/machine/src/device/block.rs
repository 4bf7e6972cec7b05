//! The disk: reads of 4 KiB blocks, up to 64 at a time.
use super::{
    interrupt::{Aim, Line},
    queue::{Broken, Queue, RING_BYTES, Writer},
    transport::{Bell, Transport},
    window::Dma,
};
use shimos_abi::addr::PAGE;
use shimos_hal::machine::DeviceError;

/// Memory: the ring, and a page of request headers and status bytes.
pub(super) const PAGES: usize = RING_BYTES / PAGE + 1;

/// Most requests in flight.
const REQUESTS: usize = 64;
/// Descriptors of a request: header, data, status.
const PARTS: u16 = 3;
/// Bytes of a request's header and status byte in the page of headers.
const NOTE_BYTES: usize = 32;
const HEADER_BYTES: u32 = 16;
const STATUS: usize = 16;
const STATUS_UNSET: u8 = 0xff;
const STATUS_OK: u8 = 0;
const REQUEST_READ: u32 = 0;
const SECTORS_PER_BLOCK: u64 = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    /// It broke the rules and was reset. Open requests fail with this error.
    Failed(DeviceError),
}

/// The disk, owned by this kernel.
pub struct BlockDevice {
    transport: Transport,
    line: Line,
    queue: Queue,
    bell: Bell,
    notes: Dma,
    tags: [u64; REQUESTS],
    count: u64,
    health: Health,
}

impl BlockDevice {
    pub(super) fn start(transport: Transport, line: Line, memory: Dma, aim: Aim) -> Result<BlockDevice, DeviceError> {
        transport.begin(&line, 0)?;
        let ring = memory.part(0, RING_BYTES).ok_or(DeviceError::Io)?;
        let notes = memory.part(RING_BYTES, PAGE).ok_or(DeviceError::Io)?;
        let queue = Queue::new(ring, transport.queue_size(0)?, PARTS);
        line.aim(aim)?;
        let bell = transport.set_queue(0, &queue)?;
        transport.go()?;
        let count = transport.config_u64(0)? / SECTORS_PER_BLOCK;
        Ok(BlockDevice { transport, line, queue, bell, notes, tags: [0; REQUESTS], count, health: Health::Well })
    }

    /// Size in 4 KiB blocks.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Starts to read block `block` into the page at physical address `phys`; [`BlockDevice::done`] gives `tag` back.
    ///
    /// # Safety
    /// The page belongs to this kernel, and nothing is kept in it, until `done` has returned the tag or the device was claimed
    /// again with success. If `done` says `ResetUnconfirmed`, the page is the device's for ever.
    pub unsafe fn read(&mut self, tag: u64, block: u64, phys: u64) -> Result<(), DeviceError> {
        if self.health != Health::Well || block >= self.count || !phys.is_multiple_of(PAGE as u64) {
            return Err(DeviceError::Io);
        }
        let slot = self.queue.take().ok_or(DeviceError::Busy)?;
        let Some(place) = self.tags.get_mut(usize::from(slot)) else {
            // The queue is larger than our table. The slot stays taken and is never asked for again.
            return Err(DeviceError::Busy);
        };
        *place = tag;
        let note = usize::from(slot) * NOTE_BYTES;
        let memory = self.notes.window();
        memory.store(note, REQUEST_READ);
        memory.store(note + 4, 0u32);
        memory.store(note + 8, block * SECTORS_PER_BLOCK);
        memory.store(note + STATUS, STATUS_UNSET);
        self.queue.describe(slot, 0, self.notes.phys(note), HEADER_BYTES, Writer::Driver);
        self.queue.describe(slot, 1, phys, PAGE as u32, Writer::Device);
        self.queue.describe(slot, 2, self.notes.phys(note + STATUS), 1, Writer::Device);
        self.queue.submit(slot, PAGE as u32 + 1);
        if self.queue.wants_notice() {
            self.bell.ring();
        }
        Ok(())
    }

    /// A finished request: its tag, and how it went.
    pub fn done(&mut self) -> Option<(u64, Result<(), DeviceError>)> {
        if self.health == Health::Well {
            match self.queue.pop() {
                Ok(None) => return None,
                Ok(Some((slot, _))) => {
                    let status = self.notes.window().load::<u8>(usize::from(slot) * NOTE_BYTES + STATUS);
                    let result = if status == STATUS_OK { Ok(()) } else { Err(DeviceError::Io) };
                    self.queue.give(slot);
                    return Some((self.tag(slot), result));
                }
                // It may still be writing into the frames of open requests: they are free only after a reset.
                Err(Broken) => {
                    let error = self.transport.reset(&self.line).err().unwrap_or(DeviceError::Io);
                    self.health = Health::Failed(error);
                }
            }
        }
        let Health::Failed(error) = self.health else { return None };
        let slot = self.queue.abandon()?;
        Some((self.tag(slot), Err(error)))
    }

    fn tag(&self, slot: u16) -> u64 {
        self.tags.get(usize::from(slot)).copied().unwrap_or(0)
    }
}

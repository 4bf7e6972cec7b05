//! The network card: Ethernet frames in and out through buffers of our own. No offloads.
use super::{
    interrupt::{Aim, Line},
    queue::{Broken, Interrupts, MAX_SIZE, Queue, RING_BYTES, Writer},
    transport::{Bell, Transport},
    window::Dma,
};
use shimos_abi::addr::PAGE;
use shimos_hal::machine::DeviceError;

/// Bytes of a buffer: a header and a frame.
const BUFFER_BYTES: usize = 2048;
const BUFFERS_BYTES: usize = MAX_SIZE as usize * BUFFER_BYTES;
/// Memory of one queue: the ring and its buffers.
const QUEUE_BYTES: usize = RING_BYTES + BUFFERS_BYTES;
/// Memory of both.
pub(super) const PAGES: usize = 2 * QUEUE_BYTES / PAGE;

/// The header before every frame (virtio 1.x; all zero without offloads).
const HEADER_BYTES: usize = 12;
const HEADER: [u8; HEADER_BYTES] = [0; HEADER_BYTES];
/// An Ethernet header; a shorter frame is no frame.
const SHORTEST: usize = 14;
const LONGEST: usize = BUFFER_BYTES - HEADER_BYTES;
const FEATURE_MAC: u64 = 1 << 5;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    /// It broke the rules and was reset; it must be claimed again.
    Failed,
}

/// The network card, owned by this kernel.
pub struct NetDevice {
    transport: Transport,
    line: Line,
    receive: Queue,
    receive_bell: Bell,
    receive_buffers: Dma,
    transmit: Queue,
    transmit_bell: Bell,
    transmit_buffers: Dma,
    health: Health,
}

impl NetDevice {
    pub(super) fn start(transport: Transport, line: Line, memory: Dma, aim: Aim) -> Result<NetDevice, DeviceError> {
        transport.begin(&line, FEATURE_MAC)?;
        let piece = |offset, len| memory.part(offset, len).ok_or(DeviceError::Io);
        let receive_buffers = piece(RING_BYTES, BUFFERS_BYTES)?;
        let transmit_buffers = piece(QUEUE_BYTES + RING_BYTES, BUFFERS_BYTES)?;
        let mut receive = Queue::new(piece(0, RING_BYTES)?, transport.queue_size(RECEIVE)?, 1);
        let mut transmit = Queue::new(piece(QUEUE_BYTES, RING_BYTES)?, transport.queue_size(TRANSMIT)?, 1);
        // Buffers of sent frames are collected when the next frame is sent.
        transmit.interrupts(Interrupts::Spared);
        while let Some(slot) = receive.take() {
            receive.describe(slot, 0, receive_buffers.phys(buffer(slot)), BUFFER_BYTES as u32, Writer::Device);
            receive.submit(slot, BUFFER_BYTES as u32);
        }
        line.aim(aim)?;
        let receive_bell = transport.set_queue(RECEIVE, &receive)?;
        let transmit_bell = transport.set_queue(TRANSMIT, &transmit)?;
        transport.go()?;
        receive_bell.ring();
        Ok(NetDevice {
            transport,
            line,
            receive,
            receive_bell,
            receive_buffers,
            transmit,
            transmit_bell,
            transmit_buffers,
            health: Health::Well,
        })
    }

    /// Sends a frame. `Busy` if the card has too many yet to send: [`shimos_hal::Events::NETWORK`] tells when to try again.
    pub fn send(&mut self, frame: &[u8]) -> Result<(), DeviceError> {
        if self.health != Health::Well || frame.len() < SHORTEST || frame.len() > LONGEST {
            return Err(DeviceError::Io);
        }
        self.collect()?;
        let slot = match self.transmit.take() {
            Some(slot) => slot,
            None => {
                self.transmit.interrupts(Interrupts::Wanted);
                self.collect()?;
                self.transmit.take().ok_or(DeviceError::Busy)?
            }
        };
        self.transmit.interrupts(Interrupts::Spared);
        let at = buffer(slot);
        let memory = self.transmit_buffers.window();
        memory.copy_in(at, &HEADER);
        memory.copy_in(at + HEADER_BYTES, frame);
        let len = (HEADER_BYTES + frame.len()) as u32;
        self.transmit.describe(slot, 0, self.transmit_buffers.phys(at), len, Writer::Driver);
        self.transmit.submit(slot, 0);
        if self.transmit.wants_notice() {
            self.transmit_bell.ring();
        }
        Ok(())
    }

    /// Takes a received frame; returns its length. Frames that do not fit in `into` are dropped.
    pub fn receive(&mut self, into: &mut [u8]) -> Option<usize> {
        while self.health == Health::Well {
            let (slot, len) = match self.receive.pop() {
                Ok(None) => return None,
                Ok(Some(finished)) => finished,
                Err(Broken) => {
                    self.fail();
                    return None;
                }
            };
            let at = buffer(slot);
            let frame = (len as usize).saturating_sub(HEADER_BYTES);
            let taken = match into.get_mut(..frame) {
                Some(into) if frame >= SHORTEST => {
                    self.receive_buffers.window().copy_out(at + HEADER_BYTES, into);
                    Some(frame)
                }
                _ => None,
            };
            self.receive.submit(slot, BUFFER_BYTES as u32);
            if self.receive.wants_notice() {
                self.receive_bell.ring();
            }
            if taken.is_some() {
                return taken;
            }
        }
        None
    }

    /// Whether a frame was received that nobody has taken.
    pub fn has_received(&self) -> bool {
        self.health == Health::Well && self.receive.has_finished()
    }

    /// Says whether received frames are to be announced. After asking for that, ask [`NetDevice::has_received`] once more.
    pub fn announce(&mut self, how: Interrupts) {
        self.receive.interrupts(how);
    }

    /// Gives the buffers of sent frames back.
    fn collect(&mut self) -> Result<(), DeviceError> {
        loop {
            match self.transmit.pop() {
                Ok(None) => return Ok(()),
                Ok(Some((slot, _))) => self.transmit.give(slot),
                Err(Broken) => {
                    self.fail();
                    return Err(DeviceError::Io);
                }
            }
        }
    }

    fn fail(&mut self) {
        self.health = Health::Failed;
        // Its buffers are never used for anything else, so an unconfirmed reset does no harm here.
        let _ = self.transport.reset(&self.line);
    }
}

/// Where a slot's buffer starts.
fn buffer(slot: u16) -> usize {
    usize::from(slot) * BUFFER_BYTES
}

//! A split virtqueue (virtio 1.2, section 2.7) for requests of one fixed shape.
//!
//! A request takes a *slot*; the slot names its descriptors (`stride` of them, in a row), so there is no free list in memory
//! that the device could reach and nothing to walk. What the device writes is the used ring alone, and every index and
//! length in it is checked against what we know to be in flight.
use super::window::Dma;
use core::sync::atomic::{Ordering, fence};

/// Largest queue, in descriptors. Larger ones are cut down to this.
pub const MAX_SIZE: u16 = 256;
/// Memory of a queue: a page of descriptors, one for the available ring, one for the used ring.
pub const RING_BYTES: usize = 3 * PAGE;

const PAGE: usize = 4096;
const AVAILABLE: usize = PAGE;
const USED: usize = 2 * PAGE;
const FLAGS: usize = 0;
const INDEX: usize = 2;
const ENTRIES: usize = 4;
const DESCRIPTOR_BYTES: usize = 16;
const HAS_NEXT: u16 = 1;
const DEVICE_WRITES: u16 = 2;
/// In the available ring's flags: spare us interrupts. In the used ring's flags: spare the device notifications.
const SPARE: u16 = 1;

/// Who writes a part of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    /// We do, before the request.
    Driver,
    /// The device does.
    Device,
}

/// Whether the device interrupts us for this queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupts {
    /// It does, after every completion.
    Wanted,
    /// It need not.
    Spared,
}

/// The device broke the rules of the queue; nothing it says can be trusted until it is reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken;

/// One virtqueue.
pub struct Queue {
    ring: Dma,
    size: u16,
    stride: u16,
    free: [u16; MAX_SIZE as usize],
    free_count: usize,
    /// For a slot in flight, how many bytes the device may write for it.
    in_flight: [Option<u32>; MAX_SIZE as usize],
    in_flight_count: u16,
    /// Index of the next entry of the available ring.
    next: u16,
    /// Index of the next entry of the used ring.
    seen: u16,
}

impl Queue {
    /// An empty queue in `ring` ([`RING_BYTES`] long), of `size` descriptors (a power of two, at most [`MAX_SIZE`]), with
    /// `stride` descriptors for each request. The device must not know it yet.
    pub fn new(ring: Dma, size: u16, stride: u16) -> Queue {
        ring.window().clear();
        let size = size.clamp(1, MAX_SIZE);
        let stride = stride.clamp(1, size);
        let mut queue = Queue {
            ring,
            size,
            stride,
            free: [0; MAX_SIZE as usize],
            free_count: 0,
            in_flight: [None; MAX_SIZE as usize],
            in_flight_count: 0,
            next: 0,
            seen: 0,
        };
        // The lowest slot is on top of the stack.
        for slot in (0..queue.slots()).rev() {
            queue.give(slot);
        }
        queue
    }

    /// How many descriptors the device is told.
    pub const fn size(&self) -> u16 {
        self.size
    }
    /// How many requests fit.
    pub const fn slots(&self) -> u16 {
        self.size / self.stride
    }
    /// Physical address of the descriptors.
    pub const fn descriptors(&self) -> u64 {
        self.ring.phys(0)
    }
    /// Physical address of the available ring.
    pub const fn available(&self) -> u64 {
        self.ring.phys(AVAILABLE)
    }
    /// Physical address of the used ring.
    pub const fn used(&self) -> u64 {
        self.ring.phys(USED)
    }

    /// Takes a free slot.
    pub fn take(&mut self) -> Option<u16> {
        let left = self.free_count.checked_sub(1)?;
        let slot = *self.free.get(left)?;
        self.free_count = left;
        Some(slot)
    }

    /// Gives a slot back that is not in flight.
    pub fn give(&mut self, slot: u16) {
        if let Some(place) = self.free.get_mut(self.free_count) {
            *place = slot;
            self.free_count += 1;
        }
    }

    /// Says what part `part` (below the stride) of a slot's request is.
    pub fn describe(&mut self, slot: u16, part: u16, phys: u64, len: u32, writer: Writer) {
        if slot >= self.slots() || part >= self.stride {
            return;
        }
        let descriptor = slot * self.stride + part;
        let mut flags = 0;
        let mut next = 0;
        if part + 1 < self.stride {
            flags |= HAS_NEXT;
            next = descriptor + 1;
        }
        if writer == Writer::Device {
            flags |= DEVICE_WRITES;
        }
        let at = usize::from(descriptor) * DESCRIPTOR_BYTES;
        let memory = self.ring.window();
        memory.store(at, phys);
        memory.store(at + 8, len);
        memory.store(at + 12, flags);
        memory.store(at + 14, next);
    }

    /// Hands a described slot to the device, which may write up to `capacity` bytes. Ask [`Queue::wants_notice`] afterwards.
    pub fn submit(&mut self, slot: u16, capacity: u32) {
        match self.in_flight.get_mut(usize::from(slot)) {
            Some(place @ None) if slot < self.size / self.stride => *place = Some(capacity),
            _ => return,
        }
        self.in_flight_count += 1;
        let memory = self.ring.window();
        let entry = usize::from(self.next % self.size);
        memory.store(AVAILABLE + ENTRIES + 2 * entry, slot * self.stride);
        self.next = self.next.wrapping_add(1);
        // The device must see the descriptors and the entry before it sees the index.
        fence(Ordering::Release);
        memory.store(AVAILABLE + INDEX, self.next);
    }

    /// Whether the device wants to be notified of what was submitted.
    pub fn wants_notice(&self) -> bool {
        // The index must be out before the flag is read, or both sides may wait for the other.
        fence(Ordering::SeqCst);
        self.ring.window().load::<u16>(USED + FLAGS) & SPARE == 0
    }

    /// A finished request: its slot, and how many bytes the device says it wrote, never more than it was allowed to. The slot
    /// is the caller's again, to submit or to give back.
    pub fn pop(&mut self) -> Result<Option<(u16, u32)>, Broken> {
        let memory = self.ring.window();
        let waiting = memory.load::<u16>(USED + INDEX).wrapping_sub(self.seen);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.in_flight_count {
            return Err(Broken);
        }
        // What the index covers must be read after the index.
        fence(Ordering::Acquire);
        let entry = USED + ENTRIES + 8 * usize::from(self.seen % self.size);
        let head = memory.load::<u32>(entry);
        let len = memory.load::<u32>(entry + 4);
        let stride = u32::from(self.stride);
        if !head.is_multiple_of(stride) {
            return Err(Broken);
        }
        let slot = u16::try_from(head / stride).map_err(|_| Broken)?;
        let capacity = self.in_flight.get_mut(usize::from(slot)).and_then(Option::take).ok_or(Broken)?;
        self.in_flight_count -= 1;
        self.seen = self.seen.wrapping_add(1);
        Ok(Some((slot, len.min(capacity))))
    }

    /// Whether the device says that it has finished something.
    pub fn has_finished(&self) -> bool {
        self.ring.window().load::<u16>(USED + INDEX) != self.seen
    }

    /// Takes back a request that will never finish, after the device has been reset.
    pub fn abandon(&mut self) -> Option<u16> {
        let slot = self.in_flight.iter().position(Option::is_some)?;
        *self.in_flight.get_mut(slot)? = None;
        self.in_flight_count = self.in_flight_count.saturating_sub(1);
        u16::try_from(slot).ok()
    }

    /// Tells the device whether to interrupt. It may do so anyway. After asking for interrupts look at the queue once more:
    /// what was finished before is not announced.
    pub fn interrupts(&mut self, how: Interrupts) {
        let flags: u16 = match how {
            Interrupts::Wanted => 0,
            Interrupts::Spared => SPARE,
        };
        self.ring.window().store(AVAILABLE + FLAGS, flags);
        fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::super::window::Window;
    use super::{Broken, Dma, ENTRIES, INDEX, Interrupts, Queue, RING_BYTES, USED, Writer};
    use core::ptr::NonNull;
    use std::{boxed::Box, vec::Vec};

    #[repr(align(4096))]
    struct Memory([u8; RING_BYTES]);

    fn ring() -> Dma {
        let memory = Box::leak(Box::new(Memory([0xaa; RING_BYTES])));
        // SAFETY: leaked, so it stays; the reference is given up here.
        let window = unsafe { Window::new(NonNull::from(&mut memory.0).cast(), RING_BYTES) };
        Dma::new(window, 0x10_0000)
    }

    /// Plays the device: writes a used entry and moves the index on.
    fn complete(queue: &Queue, head: u32, len: u32) {
        let memory = queue.ring.window();
        let index = memory.load::<u16>(USED + INDEX);
        let entry = USED + ENTRIES + 8 * usize::from(index % queue.size);
        memory.store(entry, head);
        memory.store(entry + 4, len);
        memory.store(USED + INDEX, index.wrapping_add(1));
    }

    #[test]
    fn requests_go_round_many_times() {
        let mut queue = Queue::new(ring(), 16, 3);
        assert_eq!(queue.slots(), 5);
        for round in 0..70_000u32 {
            let slot = queue.take().unwrap();
            for part in 0..3 {
                queue.describe(slot, part, 0x1000, 16, Writer::Device);
            }
            queue.submit(slot, 48);
            assert_eq!(queue.pop(), Ok(None));
            complete(&queue, u32::from(slot) * 3, round % 49);
            assert_eq!(queue.pop(), Ok(Some((slot, round % 49))));
            queue.give(slot);
        }
    }

    #[test]
    fn chains_have_the_right_flags() {
        let mut queue = Queue::new(ring(), 16, 3);
        queue.describe(1, 0, 0x111, 16, Writer::Driver);
        queue.describe(1, 1, 0x222, 4096, Writer::Device);
        queue.describe(1, 2, 0x333, 1, Writer::Device);
        let memory = queue.ring.window();
        let flags_next = |d: usize| (memory.load::<u16>(d * 16 + 12), memory.load::<u16>(d * 16 + 14));
        assert_eq!(flags_next(3), (1, 4));
        assert_eq!(flags_next(4), (3, 5));
        assert_eq!(flags_next(5), (2, 0));
        assert_eq!(memory.load::<u64>(4 * 16), 0x222);
        assert_eq!(memory.load::<u32>(4 * 16 + 8), 4096);
    }

    #[test]
    fn slots_run_out() {
        let mut queue = Queue::new(ring(), 8, 1);
        for _ in 0..8 {
            let slot = queue.take().unwrap();
            queue.submit(slot, 1);
        }
        assert_eq!(queue.take(), None);
        complete(&queue, 5, 1);
        assert_eq!(queue.pop(), Ok(Some((5, 1))));
        queue.give(5);
        assert_eq!(queue.take(), Some(5));
    }

    #[test]
    fn a_lying_device_is_found_out() {
        let mut queue = Queue::new(ring(), 8, 2);
        let slot = queue.take().unwrap();
        queue.submit(slot, 10);
        // More completions than requests.
        complete(&queue, 0, 0);
        complete(&queue, 0, 0);
        assert_eq!(queue.pop(), Err(Broken));
        for head in [1, 2, 8, 0xffff_fffe] {
            let mut queue = Queue::new(ring(), 8, 2);
            let slot = queue.take().unwrap();
            queue.submit(slot, 10);
            complete(&queue, head, 0);
            assert_eq!(queue.pop(), Err(Broken), "head {head}");
        }
        // A length that is too long is cut.
        let mut queue = Queue::new(ring(), 8, 2);
        let slot = queue.take().unwrap();
        queue.submit(slot, 10);
        complete(&queue, 0, u32::MAX);
        assert_eq!(queue.pop(), Ok(Some((0, 10))));
    }

    #[test]
    fn abandoned_requests_come_back_once() {
        let mut queue = Queue::new(ring(), 8, 1);
        for _ in 0..3 {
            let slot = queue.take().unwrap();
            queue.submit(slot, 1);
        }
        let mut seen = Vec::new();
        while let Some(slot) = queue.abandon() {
            seen.push(slot);
        }
        assert_eq!(seen, [0, 1, 2]);
        assert_eq!(queue.pop(), Ok(None));
    }

    #[test]
    fn flags_are_stored() {
        let mut queue = Queue::new(ring(), 8, 1);
        assert!(queue.wants_notice());
        queue.ring.window().store(USED, 1u16);
        assert!(!queue.wants_notice());
        queue.interrupts(Interrupts::Spared);
        assert_eq!(queue.ring.window().load::<u16>(super::AVAILABLE), 1);
        queue.interrupts(Interrupts::Wanted);
        assert_eq!(queue.ring.window().load::<u16>(super::AVAILABLE), 0);
    }
}

//! The shared memory area as every kernel may read it.
use crate::{
    DeathRecord, log, seqlock,
    sync::{AtomicU64, Ordering},
};
use alloc::vec::Vec;
use core::ops::Range;
use shimos_abi::{
    addr::{Frame, FrameRange, PAGE},
    control::KernelState,
    ids::{Incarnation, KernelId, Life, ProgramId},
    shared::{Layout, Queue, master, outgoing},
    time::Nanos,
};

/// The words of the shared area, with names. A copy is as good as the original.
///
/// A place outside the area reads as zero, and stores there are dropped: nothing that a peer writes can make a kernel
/// panic here.
#[derive(Clone, Copy)]
pub struct Area {
    words: &'static [AtomicU64],
    layout: Layout,
}

impl Area {
    /// The area made of `words`, laid out as `layout` says.
    pub const fn new(words: &'static [AtomicU64], layout: Layout) -> Area {
        Area { words, layout }
    }
    /// How it is laid out.
    pub const fn layout(self) -> Layout {
        self.layout
    }
    /// All kernels.
    pub fn kernels(self) -> impl Iterator<Item = KernelId> {
        (0..self.layout.kernels() as u16).map(KernelId)
    }

    /// The incarnation that owns a kernel's outgoing part.
    pub fn incarnation(self, kernel: KernelId) -> Option<Incarnation> {
        let word = self.outgoing(kernel, outgoing::INCARNATION, Ordering::Acquire) as u32;
        word.checked_sub(1).map(Incarnation)
    }
    /// The life cycle of a kernel as it says itself; meaningful for the incarnation that owns the part.
    pub fn state(self, kernel: KernelId) -> KernelState {
        match self.outgoing(kernel, outgoing::STATE, Ordering::Acquire) {
            1 => KernelState::Booting,
            2 => KernelState::Running,
            3 => KernelState::Panicked,
            _ => KernelState::Down,
        }
    }
    /// The latest timestamp of a kernel's timer daemon.
    pub fn stamp(self, kernel: KernelId) -> u64 {
        self.outgoing(kernel, outgoing::STAMP, Ordering::Acquire)
    }
    /// The machine's time at that stamp: for people, not for judging.
    pub fn stamp_time(self, kernel: KernelId) -> Nanos {
        Nanos(self.outgoing(kernel, outgoing::STAMP_TIME, Ordering::Relaxed))
    }
    /// The last stamp of `kernel` that the monitor daemon of `monitor` has acknowledged.
    pub fn acknowledged(self, monitor: KernelId, kernel: KernelId) -> u64 {
        if kernel.index() >= self.layout.kernels() {
            return 0;
        }
        self.outgoing(monitor, outgoing::ACKS + kernel.index(), Ordering::Acquire)
    }
    /// Runnable threads.
    pub fn load_of(self, kernel: KernelId) -> u32 {
        u32::try_from(self.outgoing(kernel, outgoing::LOAD, Ordering::Relaxed)).unwrap_or(u32::MAX)
    }
    /// Free frames of the pool.
    pub fn free_frames(self, kernel: KernelId) -> u64 {
        self.outgoing(kernel, outgoing::FREE_FRAMES, Ordering::Relaxed)
    }
    /// All frames of the pool.
    pub fn pool_frames(self, kernel: KernelId) -> u64 {
        self.outgoing(kernel, outgoing::POOL_FRAMES, Ordering::Relaxed)
    }
    /// How many bytes of the output stream `stream` of a program `owner` says were printed.
    pub fn printed(self, owner: KernelId, program: ProgramId, stream: u64) -> u64 {
        let place = outgoing::PRINTED + usize::from(program.0) * 2 % outgoing::PRINTED_WORDS;
        let Some(part) = self.part(owner) else { return 0 };
        // The count is set to zero before the stream changes.
        let count = self.load(part + place + 1);
        if self.load(part + place) == stream { count } else { 0 }
    }
    /// The word that measurements use.
    pub fn bench(self, kernel: KernelId) -> u64 {
        self.outgoing(kernel, outgoing::BENCH, Ordering::Acquire)
    }
    /// The program that a life ran when it ended, or that had ordered its end; none if a later life has taken its place.
    pub fn suspect(self, life: Life) -> Option<ProgramId> {
        if self.incarnation(life.kernel) != Some(life.incarnation) {
            return None;
        }
        let word = self.outgoing(life.kernel, outgoing::SUSPECT, Ordering::Acquire);
        u16::try_from(word).ok().filter(|number| *number != 0).map(ProgramId)
    }
    /// Which output stream of a program `owner` has printed last, and how much of it.
    pub fn printed_stream(self, owner: KernelId, program: ProgramId) -> Option<(u64, u64)> {
        let place = outgoing::PRINTED + usize::from(program.0) * 2 % outgoing::PRINTED_WORDS;
        let part = self.part(owner)?;
        let (stream, count) = (self.load(part + place), self.load(part + place + 1));
        (count != 0).then_some((stream, count))
    }
    /// Bytes of a kernel's private memory, as the machine laid it out at boot.
    pub fn private_bytes(self, kernel: KernelId) -> u64 {
        let entry = master::ENTRIES + kernel.index() * master::ENTRY_WORDS;
        self.load(entry + master::ENTRY_PRIVATE_FRAMES).saturating_mul(PAGE as u64)
    }
    /// The frames of a kernel's pool, as the machine laid them out at boot.
    pub fn pool(self, kernel: KernelId) -> FrameRange {
        let entry = master::ENTRIES + kernel.index() * master::ENTRY_WORDS;
        let (first, count) = (self.load(entry + master::ENTRY_POOL), self.load(entry + master::ENTRY_POOL_FRAMES));
        FrameRange { first: Frame(first as u32), count: count as u32 }
    }
    /// The death record of the present or of an earlier life.
    pub fn death(self, kernel: KernelId) -> Option<DeathRecord> {
        DeathRecord::read(self, kernel)
    }
    /// What a kernel publishes of itself (CBOR of `Published`), if it is whole.
    pub fn read_published(self, kernel: KernelId) -> Option<Vec<u8>> {
        seqlock::read(self.range(kernel, outgoing::STATUS..outgoing::STATUS + outgoing::STATUS_WORDS))
    }
    /// Appends to `into` what `kernel` logged from place `from` on; returns the place to go on from.
    pub fn read_log(self, kernel: KernelId, from: u64, limit: usize, into: &mut Vec<u8>) -> u64 {
        log::read(self.range(kernel, outgoing::LOG..outgoing::LOG + outgoing::LOG_WORDS), from, limit, into)
    }
    /// Appends to the log of `kernel`, which is the caller's own. For the machine layer, which may log before and after
    /// there is an [`crate::Endpoint`].
    pub fn append_log(self, kernel: KernelId, bytes: &[u8]) {
        log::append(self.range(kernel, outgoing::LOG..outgoing::LOG + outgoing::LOG_WORDS), bytes);
    }

    /// First word of a kernel's outgoing part.
    pub(crate) fn part(self, kernel: KernelId) -> Option<usize> {
        (kernel.index() < self.layout.kernels()).then(|| self.layout.outgoing(kernel))
    }
    /// Some words of a kernel's outgoing part; empty if they are not there.
    pub(crate) fn range(self, kernel: KernelId, range: Range<usize>) -> &'static [AtomicU64] {
        let Some(part) = self.part(kernel) else {
            return &[];
        };
        self.words.get(part + range.start..part + range.end).unwrap_or(&[])
    }
    /// One word.
    pub(crate) fn word(self, at: usize) -> Option<&'static AtomicU64> {
        self.words.get(at)
    }
    /// One word's value.
    pub(crate) fn load(self, at: usize) -> u64 {
        self.word(at).map_or(0, |word| word.load(Ordering::Acquire))
    }
    /// Stores a word. The caller is its writer.
    pub(crate) fn store(self, at: usize, value: u64, ordering: Ordering) {
        if let Some(word) = self.word(at) {
            word.store(value, ordering);
        }
    }
    /// A word of an outgoing part.
    pub(crate) fn outgoing(self, kernel: KernelId, offset: usize, ordering: Ordering) -> u64 {
        self.part(kernel).and_then(|part| self.word(part + offset)).map_or(0, |word| word.load(ordering))
    }
    /// The head word of the queue from `producer` to `consumer`.
    pub(crate) fn head(self, producer: KernelId, consumer: KernelId, queue: Queue) -> Option<&'static AtomicU64> {
        self.word(self.part(producer)? + outgoing::head(consumer, queue))
    }
    /// The tail word of the queue from `producer` to `consumer`.
    pub(crate) fn tail(self, producer: KernelId, consumer: KernelId, queue: Queue) -> Option<&'static AtomicU64> {
        self.word(self.part(consumer)? + outgoing::tail(producer, queue))
    }
    /// The descriptors of the queue from `producer` to `consumer`.
    pub(crate) fn slots(self, producer: KernelId, consumer: KernelId, queue: Queue) -> &'static [AtomicU64] {
        let first = outgoing::slots(consumer, queue);
        self.range(producer, first..first + outgoing::RING_SLOTS)
    }
    /// The words of packet `index` of `producer`'s pool.
    pub(crate) fn packet(self, producer: KernelId, index: u16) -> &'static [AtomicU64] {
        let first = outgoing::packets(self.layout.kernels()) + usize::from(index) * outgoing::PACKET_WORDS;
        self.range(producer, first..first + outgoing::PACKET_WORDS)
    }
}

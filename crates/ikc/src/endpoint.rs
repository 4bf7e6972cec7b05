//! One kernel's end of inter-kernel communication: the only writer of its outgoing part.
//!
//! # Who is up
//! A queue links two lives (see [`crate::ring`]). The sender looks at the receiver's incarnation word
//! before every packet; a new one drops what was in flight. The receiver looks at the sender's when a head word has
//! changed, before and after it copies: a new life first clears its incarnation word and only then touches its part,
//! so a copy that an incarnation change did not overtake is of one life.
//!
//! # Packets
//! They come from a pool in the sender's own part. Which packets are in flight is kept in private memory,
//! so nothing that a peer writes can make a packet be given out twice. A packet is free again when the receiver's
//! tail has passed it, or when the receiver is known to be fenced ([`Endpoint::forget`]) or rebooted.
use crate::{
    Area,
    packet::{self, Envelope, MAX_PAYLOAD},
    polling,
    ring::{Link, Ring},
    seqlock,
    sync::{AtomicU64, Ordering, fence},
};
use alloc::{collections::VecDeque, vec::Vec};
use shimos_abi::{
    control::KernelState,
    ids::{Incarnation, KernelId, Life, ProgramId},
    shared::{Layout, Queue, outgoing},
    time::Nanos,
};

/// Descriptors in a ring.
const SLOTS: u32 = outgoing::RING_SLOTS as u32;
/// Packets that only daemon messages may take, so that no flood of frames keeps a restart command from being sent.
const DAEMON_RESERVE: usize = 32;
/// Faults that are kept until somebody asks.
const MAX_FAULTS: usize = 32;

/// Whether the peer's core must be interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Notify {
    /// Yes: it may be asleep.
    Interrupt,
    /// No: it looks at its queues by itself.
    Polling,
}

/// Why a packet was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// The queue or the packet pool is full; try again later.
    Full,
    /// The peer is not up, or it broke the rules of this queue.
    Down,
    /// The payload is longer than [`MAX_PAYLOAD`].
    TooLong,
}

/// A packet that was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Who sent it.
    pub from: Life,
    /// In which queue it lay.
    pub queue: Queue,
}

/// A peer that broke the rules of a queue. The queue is closed until the peer's next incarnation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkFault {
    /// Who.
    pub peer: Life,
    /// In which queue.
    pub queue: Queue,
    /// What was wrong.
    pub what: Misdeed,
}

/// How a peer can break the rules of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misdeed {
    /// A count of sent packets that cannot be.
    Head,
    /// A count of consumed packets that cannot be.
    Tail,
    /// A packet that is not what it must be.
    Packet,
}

/// State of one queue to a peer.
struct Outgoing {
    sent: u32,
    freed: u32,
    broken: bool,
    /// The packets between `freed` and `sent`, by place.
    packets: [u16; outgoing::RING_SLOTS],
}

/// State of one queue from a peer.
struct Incoming {
    consumed: u32,
    broken: bool,
}

struct Peer {
    /// Its incarnation, as far as sending goes.
    receiver: Option<Incarnation>,
    outgoing: [Outgoing; 4],
    /// Its incarnation, as far as receiving goes.
    sender: Option<Incarnation>,
    incoming: [Incoming; 4],
}

/// See the module.
pub struct Endpoint {
    area: Area,
    me: Life,
    free: Vec<u16>,
    peers: Vec<Peer>,
    /// The peer to look at first, so that none starves.
    turn: usize,
    faults: VecDeque<LinkFault>,
}

impl Endpoint {
    /// Takes over the outgoing part of `me.kernel` for a new life and empties its queues. State is
    /// [`KernelState::Booting`]. The death record and the log of earlier lives stay readable.
    pub fn new(words: &'static [AtomicU64], layout: Layout, me: Life) -> Endpoint {
        let area = Area::new(words, layout);
        let queue = || Outgoing { sent: 0, freed: 0, broken: false, packets: [0; outgoing::RING_SLOTS] };
        let from = || Incoming { consumed: 0, broken: false };
        let peer = |_| Peer {
            receiver: None,
            outgoing: core::array::from_fn(|_| queue()),
            sender: None,
            incoming: core::array::from_fn(|_| from()),
        };
        let endpoint = Endpoint {
            area,
            me,
            free: (0..outgoing::PACKETS as u16).rev().collect(),
            peers: (0..layout.kernels()).map(peer).collect(),
            turn: 0,
            faults: VecDeque::new(),
        };
        // First nobody owns the part: who has copied anything of what follows sees that when it looks again.
        endpoint.set(outgoing::INCARNATION, 0, Ordering::Relaxed);
        fence(Ordering::Release);
        for word in [outgoing::STAMP, outgoing::STAMP_TIME, outgoing::POLLING, outgoing::LOAD, outgoing::FREE_FRAMES] {
            endpoint.set(word, 0, Ordering::Relaxed);
        }
        endpoint.set(outgoing::POOL_FRAMES, 0, Ordering::Relaxed);
        endpoint.set(outgoing::SUSPECT, 0, Ordering::Relaxed);
        endpoint.set(outgoing::STATE, 1, Ordering::Relaxed);
        for peer in area.kernels() {
            endpoint.set(outgoing::ACKS + peer.index(), 0, Ordering::Relaxed);
            for queue in Queue::ALL {
                endpoint.set(outgoing::tail(peer, queue), 0, Ordering::Relaxed);
                endpoint.set(outgoing::head(peer, queue), 0, Ordering::Relaxed);
            }
        }
        endpoint.set(outgoing::INCARNATION, u64::from(me.incarnation.0) + 1, Ordering::Release);
        endpoint
    }

    /// The area, to read and to change the commons.
    pub fn area(&self) -> Area {
        self.area
    }
    /// Who we are.
    pub fn me(&self) -> Life {
        self.me
    }

    /// Says how far the life of this kernel has come.
    pub fn set_state(&mut self, state: KernelState) {
        let word = match state {
            KernelState::Down | KernelState::Fenced => 0,
            KernelState::Booting => 1,
            KernelState::Running => 2,
            KernelState::Panicked => 3,
        };
        self.set(outgoing::STATE, word, Ordering::Release);
    }
    /// Timer daemon: writes the latest timestamp.
    pub fn stamp(&mut self, stamp: u64, now: Nanos) {
        self.set(outgoing::STAMP_TIME, now.0, Ordering::Relaxed);
        self.set(outgoing::STAMP, stamp, Ordering::Release);
    }
    /// Monitor daemon: acknowledges a timestamp of `kernel`.
    pub fn acknowledge(&mut self, kernel: KernelId, stamp: u64) {
        if kernel.index() < self.peers.len() {
            self.set(outgoing::ACKS + kernel.index(), stamp, Ordering::Release);
        }
    }
    /// Publishes what a choice of target needs.
    pub fn set_load(&mut self, runnable: u32, free_frames: u64, pool_frames: u64) {
        self.set(outgoing::LOAD, u64::from(runnable), Ordering::Relaxed);
        self.set(outgoing::FREE_FRAMES, free_frames, Ordering::Relaxed);
        self.set(outgoing::POOL_FRAMES, pool_frames, Ordering::Relaxed);
    }
    /// Publishes this kernel's status; returns whether it fits ([`Endpoint::PUBLISHED_BYTES`]).
    pub fn publish(&mut self, bytes: &[u8]) -> bool {
        let range = outgoing::STATUS..outgoing::STATUS + outgoing::STATUS_WORDS;
        seqlock::write(self.area.range(self.me.kernel, range), bytes)
    }
    /// The most bytes of status.
    pub const PUBLISHED_BYTES: usize = seqlock::capacity(outgoing::STATUS_WORDS);
    /// What a peer publishes, if it is whole.
    pub fn read_published(&self, peer: KernelId) -> Option<Vec<u8>> {
        self.area.read_published(peer)
    }
    /// As the console's owner: so many bytes of a program's output stream were printed.
    pub fn set_printed(&mut self, program: ProgramId, stream: u64, bytes: u64) {
        let place = outgoing::PRINTED + usize::from(program.0) * 2 % outgoing::PRINTED_WORDS;
        if self.area.printed(self.me.kernel, program, stream) == 0 {
            self.set(place + 1, 0, Ordering::Release);
            self.set(place, stream, Ordering::Release);
        }
        self.set(place + 1, bytes, Ordering::Release);
    }
    /// Says which program runs, or has ordered this kernel's death: it is looked at only after that.
    pub fn set_suspect(&mut self, program: Option<ProgramId>) {
        self.set(outgoing::SUSPECT, program.map_or(0, |program| u64::from(program.0)), Ordering::Relaxed);
    }
    /// How many words of shared code the shell of this core has set right since somebody asked, and where.
    pub fn take_mended(&mut self) -> Option<(u64, u64)> {
        let words = self.own(outgoing::MENDED)?.swap(0, Ordering::Relaxed);
        let at = self.own(outgoing::MENDED_AT)?.load(Ordering::Relaxed);
        (words != 0).then_some((words, at))
    }
    /// Sets the word that measurements use.
    pub fn set_bench(&mut self, value: u64) {
        self.set(outgoing::BENCH, value, Ordering::Release);
    }
    /// Appends to this kernel's log.
    pub fn log(&mut self, bytes: &[u8]) {
        self.area.append_log(self.me.kernel, bytes);
    }

    /// Sends one packet, its payload given in parts. On success, interrupt the peer if told so.
    pub fn send(&mut self, peer: KernelId, queue: Queue, parts: &[&[u8]]) -> Result<Notify, SendError> {
        let length = parts.iter().map(|part| part.len()).fold(0, usize::saturating_add);
        if length > MAX_PAYLOAD {
            return Err(SendError::TooLong);
        }
        let (link, to) = self.attach_receiver(peer).ok_or(SendError::Down)?;
        let slot = self.room(peer, queue, link)?;
        let count = slot.count;
        let envelope = Envelope { from: self.me, to, queue, sequence: count };
        packet::write(self.area.packet(self.me.kernel, slot.packet), &envelope, length, parts);
        let ring = self.ring(self.me.kernel, peer, queue).ok_or(SendError::Down)?;
        ring.publish(link, count, packet::descriptor(slot.packet, length, count));
        let polls = self.area.range(peer, outgoing::POLLING..outgoing::POLLING + 1);
        let must = polls.first().is_some_and(polling::must_notify);
        Ok(if must { Notify::Interrupt } else { Notify::Polling })
    }

    /// Receives a packet from one queue of one peer; its payload replaces what `into` held.
    pub fn receive(&mut self, peer: KernelId, queue: Queue, into: &mut Vec<u8>) -> Option<Received> {
        let (link, descriptor, count) = self.waiting(peer, queue)?;
        let from = Life { kernel: peer, incarnation: link.producer };
        let envelope = Envelope { from, to: self.me, queue, sequence: count };
        let result = packet::place(descriptor, count)
            .and_then(|(index, length)| packet::read(self.area.packet(peer, index), &envelope, length, into));
        // Our copy comes before the second look at the incarnation.
        fence(Ordering::Acquire);
        if self.area.incarnation(peer) != Some(link.producer) {
            into.clear();
            return None;
        }
        if result.is_err() {
            into.clear();
            self.fault_of_sender(peer, queue, Misdeed::Packet);
            return None;
        }
        let next = count.wrapping_add(1);
        self.peers.get_mut(peer.index())?.incoming[queue as usize].consumed = next;
        self.ring(peer, self.me.kernel, queue)?.release(link, next);
        Some(Received { from, queue })
    }

    /// Receives a packet from anyone: daemon messages first at each peer, and peers in turn.
    pub fn poll_any(&mut self, into: &mut Vec<u8>) -> Option<Received> {
        let kernels = self.peers.len();
        for step in 0..kernels {
            let place = (self.turn + step) % kernels;
            let peer = KernelId(place as u16);
            for queue in Queue::ALL {
                // Looks at one line of a peer that has sent nothing.
                if let Some(received) = self.receive(peer, queue, into) {
                    self.turn = (place + 1) % kernels;
                    return Some(received);
                }
            }
        }
        None
    }

    /// Says that this kernel looks at its queues by itself: no interrupts, please.
    pub fn begin_polling(&mut self) {
        if let Some(word) = self.own(outgoing::POLLING) {
            polling::begin(word);
        }
    }
    /// Says that it does not any more. Returns whether something is waiting after all; then it still polls, and the
    /// caller must receive before it calls this again and sleeps.
    pub fn end_polling(&mut self) -> bool {
        let Some(word) = self.own(outgoing::POLLING) else {
            return false;
        };
        polling::end(word, || self.pending())
    }
    /// Whether a packet waits.
    pub fn pending(&mut self) -> bool {
        let kernels = self.peers.len() as u16;
        (0..kernels).map(KernelId).any(|peer| Queue::ALL.iter().any(|&queue| self.waiting(peer, queue).is_some()))
    }

    /// Forgets what is in flight to a life that is proven fenced, so that its packets can be used again.
    pub fn forget(&mut self, dead: Life) {
        let Some(peer) = self.peers.get_mut(dead.kernel.index()) else {
            return;
        };
        if peer.receiver == Some(dead.incarnation) {
            for queue in &mut peer.outgoing {
                queue.drain_into(&mut self.free);
                queue.broken = true;
            }
        }
    }
    /// The oldest fault that was not yet taken.
    pub fn take_fault(&mut self) -> Option<LinkFault> {
        self.faults.pop_front()
    }
    /// Packets that are not in flight.
    pub fn free_packets(&self) -> usize {
        self.free.len()
    }

    /// Whether the words by which peers know this life and its queues are what it has written. Nobody else writes there, so a
    /// word that differs was hit by a wild write of this kernel.
    pub fn is_intact(&self) -> bool {
        let value = |offset| self.own(offset).map(|word| word.load(Ordering::Relaxed));
        let queues = |(peer, at): (KernelId, &Peer)| {
            Queue::ALL.iter().all(|&queue| {
                let (out, from) = (&at.outgoing[queue as usize], &at.incoming[queue as usize]);
                let sent = at.receiver.filter(|_| out.sent != 0).map(|consumer| {
                    let word = Link { producer: self.me.incarnation, consumer }.word(out.sent);
                    value(outgoing::head(peer, queue)) == Some(word)
                });
                let consumed = at.sender.filter(|_| from.consumed != 0).map(|producer| {
                    let word = Link { producer, consumer: self.me.incarnation }.word(from.consumed);
                    value(outgoing::tail(peer, queue)) == Some(word)
                });
                sent != Some(false) && consumed != Some(false)
            })
        };
        let life = u64::from(self.me.incarnation.0) + 1;
        value(outgoing::INCARNATION) == Some(life) && self.area.kernels().zip(&self.peers).all(queues)
    }

    fn own(&self, offset: usize) -> Option<&'static AtomicU64> {
        self.area.word(self.area.part(self.me.kernel)? + offset)
    }
    fn set(&self, offset: usize, value: u64, ordering: Ordering) {
        if let Some(word) = self.own(offset) {
            word.store(value, ordering);
        }
    }
    fn ring(&self, producer: KernelId, consumer: KernelId, queue: Queue) -> Option<Ring<'static>> {
        Some(Ring {
            head: self.area.head(producer, consumer, queue)?,
            slots: self.area.slots(producer, consumer, queue),
            tail: self.area.tail(producer, consumer, queue)?,
        })
    }
    fn fault(&mut self, peer: Life, queue: Queue, what: Misdeed) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push_back(LinkFault { peer, queue, what });
        }
    }

    /// The link to the life that now receives at `peer`, if it is up; what was in flight to an earlier one is dropped.
    fn attach_receiver(&mut self, kernel: KernelId) -> Option<(Link, Life)> {
        if kernel == self.me.kernel {
            return None;
        }
        let incarnation = self.area.incarnation(kernel)?;
        if !matches!(self.area.state(kernel), KernelState::Booting | KernelState::Running) {
            return None;
        }
        let peer = self.peers.get_mut(kernel.index())?;
        if peer.receiver != Some(incarnation) {
            peer.receiver = Some(incarnation);
            for queue in &mut peer.outgoing {
                queue.drain_into(&mut self.free);
                *queue = Outgoing { sent: 0, freed: 0, broken: false, packets: queue.packets };
            }
        }
        let link = Link { producer: self.me.incarnation, consumer: incarnation };
        Some((link, Life { kernel, incarnation }))
    }

    /// A place in the queue and a packet for it.
    fn room(&mut self, peer: KernelId, queue: Queue, link: Link) -> Result<Slot, SendError> {
        let reserve = if queue == Queue::Daemon { 0 } else { DAEMON_RESERVE };
        let flight = {
            let out = self.peers.get(peer.index()).map(|p| &p.outgoing[queue as usize]).ok_or(SendError::Down)?;
            if out.broken {
                return Err(SendError::Down);
            }
            out.sent.wrapping_sub(out.freed)
        };
        // The tail is a line that the peer writes: look only now and then.
        if flight >= SLOTS / 2 {
            self.reclaim(peer, queue, link)?;
        }
        if self.free.len() <= reserve {
            self.reclaim_all();
        }
        let out = self.peers.get_mut(peer.index()).map(|p| &mut p.outgoing[queue as usize]).ok_or(SendError::Down)?;
        if out.broken {
            return Err(SendError::Down);
        }
        if out.sent.wrapping_sub(out.freed) >= SLOTS || self.free.len() <= reserve {
            return Err(SendError::Full);
        }
        let packet = self.free.pop().ok_or(SendError::Full)?;
        let count = out.sent;
        out.packets[(count % SLOTS) as usize] = packet;
        out.sent = count.wrapping_add(1);
        Ok(Slot { packet, count })
    }

    /// Takes back the packets that `peer` has consumed.
    fn reclaim(&mut self, peer: KernelId, queue: Queue, link: Link) -> Result<(), SendError> {
        let ring = self.ring(self.me.kernel, peer, queue).ok_or(SendError::Down)?;
        let out = self.peers.get_mut(peer.index()).map(|p| &mut p.outgoing[queue as usize]).ok_or(SendError::Down)?;
        match ring.consumed(link, out.freed, out.sent) {
            Ok(tail) => {
                out.free_until(tail, &mut self.free);
                Ok(())
            }
            Err(_) => {
                // What is in flight stays out of the pool until the peer's next life: it may still be read.
                out.broken = true;
                self.fault(Life { kernel: peer, incarnation: link.consumer }, queue, Misdeed::Tail);
                Err(SendError::Down)
            }
        }
    }

    fn reclaim_all(&mut self) {
        for kernel in self.area.kernels() {
            let Some(consumer) = self.peers.get(kernel.index()).and_then(|peer| peer.receiver) else {
                continue;
            };
            let link = Link { producer: self.me.incarnation, consumer };
            for queue in Queue::ALL {
                let busy = self.peers.get(kernel.index()).is_some_and(|peer| {
                    let out = &peer.outgoing[queue as usize];
                    !out.broken && out.sent != out.freed
                });
                if busy {
                    // A fault is kept for whoever asks; here it only means that nothing came back.
                    let _ = self.reclaim(kernel, queue, link);
                }
            }
        }
    }

    /// The packet that waits in a queue, if one does: its link, descriptor and number.
    fn waiting(&mut self, kernel: KernelId, queue: Queue) -> Option<(Link, u64, u32)> {
        if kernel == self.me.kernel || kernel.index() >= self.peers.len() {
            return None;
        }
        let ring = self.ring(kernel, self.me.kernel, queue)?;
        let head = ring.head.load(Ordering::Acquire);
        let peer = self.peers.get_mut(kernel.index())?;
        let link = |producer| Link { producer, consumer: self.me.incarnation };
        let known = peer.sender.map(link).filter(|link| link.count(head).is_some());
        let link = match known {
            Some(link) => link,
            // Zero, or not for this life of ours: nothing to look up.
            None if head == 0 => return None,
            None => {
                let now = self.area.incarnation(kernel)?;
                let link = link(now);
                link.count(head)?;
                peer.sender = Some(now);
                peer.incoming.iter_mut().for_each(|queue| *queue = Incoming { consumed: 0, broken: false });
                link
            }
        };
        let incoming = &peer.incoming[queue as usize];
        if incoming.broken {
            return None;
        }
        let count = incoming.consumed;
        match ring.next(link, count) {
            // What a life sent that is over, or no more says who it is, is never received: nobody waits for it.
            Ok(Some(_)) if self.area.incarnation(kernel) != Some(link.producer) => None,
            Ok(descriptor) => Some((link, descriptor?, count)),
            Err(_) => {
                fence(Ordering::Acquire);
                if self.area.incarnation(kernel) == Some(link.producer) {
                    self.fault_of_sender(kernel, queue, Misdeed::Head);
                }
                None
            }
        }
    }

    fn fault_of_sender(&mut self, kernel: KernelId, queue: Queue, what: Misdeed) {
        let Some(peer) = self.peers.get_mut(kernel.index()) else {
            return;
        };
        peer.incoming[queue as usize].broken = true;
        let Some(incarnation) = peer.sender else {
            return;
        };
        self.fault(Life { kernel, incarnation }, queue, what);
    }
}

/// A place in a queue.
struct Slot {
    packet: u16,
    count: u32,
}

impl Outgoing {
    /// Gives back the packets before number `count`; it lies between `freed` and `sent`.
    fn free_until(&mut self, count: u32, free: &mut Vec<u16>) {
        while self.freed != count {
            free.push(self.packets[(self.freed % SLOTS) as usize]);
            self.freed = self.freed.wrapping_add(1);
        }
    }
    fn drain_into(&mut self, free: &mut Vec<u16>) {
        self.free_until(self.sent, free);
    }
}

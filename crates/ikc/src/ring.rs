//! One packet queue: a ring of descriptors with one producer and one consumer (D7).
//!
//! The producer owns the head word and the slots, the consumer owns the tail word; each only reads what the other
//! owns. Head and tail count descriptors ever sent and ever consumed, and never go back. Each carries a *tag*, made
//! of the two incarnations that the queue links. A word with another tag says nothing:
//!
//! * The consumer reboots: its new tail words are zero, which has another tag, so the producer learns nothing from them
//!   until it has seen the new incarnation itself, has dropped what was in flight and counts from 0 with the new tag.
//!   Heads of the old tag mean nothing to the new consumer.
//! * The producer reboots: its new heads carry its new incarnation; the consumer starts at 0 when it sees the new
//!   incarnation. Its old tail has another tag, so the new producer takes it for nothing.
//! * Both reboot, in any order: both tags are new, and whichever is first finds only words of other tags.
//!
//! So neither ever resets a word of the other, and no order of reboots can make an old count look like a new one.
use crate::sync::{AtomicU64, Ordering};
use shimos_abi::ids::Incarnation;

/// The two lives that a queue links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Who sends.
    pub producer: Incarnation,
    /// Who receives.
    pub consumer: Incarnation,
}

impl Link {
    /// A head or tail word of this link.
    pub fn word(self, count: u32) -> u64 {
        self.tag() << 32 | u64::from(count)
    }
    /// The count in a head or tail word, if the word is of this link.
    pub fn count(self, word: u64) -> Option<u32> {
        (word >> 32 == self.tag()).then_some(word as u32)
    }
    /// Sixteen bits of each incarnation, counted from 1 so that a zeroed word belongs to no link.
    fn tag(self) -> u64 {
        let half = |i: Incarnation| u64::from(i.0.wrapping_add(1) & 0xffff);
        half(self.producer) << 16 | half(self.consumer)
    }
}

/// The other end broke the rules; the link is not to be used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken;

/// The words of one ring.
#[derive(Clone, Copy)]
pub struct Ring<'a> {
    /// Sent count, in the producer's part.
    pub head: &'a AtomicU64,
    /// Descriptors, in the producer's part.
    pub slots: &'a [AtomicU64],
    /// Consumed count, in the consumer's part.
    pub tail: &'a AtomicU64,
}

impl Ring<'_> {
    /// Producer: makes descriptor number `count` visible. The packet's words are written already.
    pub fn publish(&self, link: Link, count: u32, descriptor: u64) {
        if let Some(slot) = self.slots.get(count as usize % self.slots.len().max(1)) {
            slot.store(descriptor, Ordering::Relaxed);
        }
        // Release: who sees the count sees the descriptor and the packet.
        self.head.store(link.word(count.wrapping_add(1)), Ordering::Release);
    }

    /// Producer: how many descriptors the consumer has done with, given that `known` were done and `sent` were sent.
    /// The tail is hostile: it may neither go back nor overtake.
    pub fn consumed(&self, link: Link, known: u32, sent: u32) -> Result<u32, Broken> {
        // Acquire: the consumer's reads of a packet come before our next write to it.
        let Some(tail) = link.count(self.tail.load(Ordering::Acquire)) else {
            return Ok(known);
        };
        if tail.wrapping_sub(known) <= sent.wrapping_sub(known) { Ok(tail) } else { Err(Broken) }
    }

    /// Consumer: descriptor number `count`, if it was sent.
    pub fn next(&self, link: Link, count: u32) -> Result<Option<u64>, Broken> {
        let Some(head) = link.count(self.head.load(Ordering::Acquire)) else {
            return Ok(None);
        };
        let waiting = head.wrapping_sub(count) as usize;
        if waiting > self.slots.len() {
            return Err(Broken);
        }
        if waiting == 0 {
            return Ok(None);
        }
        Ok(self.slots.get(count as usize % self.slots.len()).map(|slot| slot.load(Ordering::Relaxed)))
    }

    /// Consumer: gives everything before descriptor number `count` back to the producer.
    pub fn release(&self, link: Link, count: u32) {
        self.tail.store(link.word(count), Ordering::Release);
    }
}

//! System V message queues.
use alloc::{collections::VecDeque, vec::Vec};
use minicbor::{Decode, Encode};
use shimos_abi::ids::Pid;

/// `MSGMAX`: bytes of one message.
pub const MAX_SIZE: u64 = 8192;
/// `MSGMNB`: bytes of one queue.
pub const MAX_BYTES: u64 = 16384;
/// `MSGMNI`: queues of a program.
pub const MAX_QUEUES: usize = 32000;
/// Bytes of all messages of a program: they are in the kernel's own memory.
pub const MAX_TOTAL: u64 = 8 << 20;
/// What a message costs besides its bytes.
pub const COST: u64 = 64;

/// A message.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Message {
    /// Its type, above 0.
    #[n(0)]
    pub kind: i64,
    /// Its content.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
}

/// A queue.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub struct MessageQueue {
    /// What waits in it, oldest first.
    #[n(0)]
    pub messages: VecDeque<Message>,
    /// How many bytes it takes.
    #[n(1)]
    pub limit: u64,
    /// Seconds since 1970 of the last msgsnd(2).
    #[n(2)]
    pub sent: i64,
    /// Seconds since 1970 of the last msgrcv(2).
    #[n(3)]
    pub received: i64,
    /// Who sent last.
    #[n(4)]
    pub sender: Option<Pid>,
    /// Who received last.
    #[n(5)]
    pub receiver: Option<Pid>,
}

/// Which message a receiver wants (msgrcv(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// The oldest.
    First,
    /// The oldest of a type.
    Of(i64),
    /// The oldest that is not of a type.
    Not(i64),
    /// The oldest of the lowest type up to this one.
    UpTo(i64),
    /// The one at this place, which stays.
    At(i64),
}

impl MessageQueue {
    /// Bytes in it.
    pub fn bytes(&self) -> u64 {
        self.messages.iter().map(|message| message.bytes.len() as u64).sum()
    }
    /// Whether a message of `len` bytes fits.
    pub fn has_room(&self, len: usize) -> bool {
        self.bytes() + len as u64 <= self.limit && (self.messages.len() as u64) < self.limit
    }
    /// The place of the message that is wanted.
    pub fn find(&self, which: Which) -> Option<usize> {
        match which {
            Which::First => (!self.messages.is_empty()).then_some(0),
            Which::Of(kind) => self.messages.iter().position(|message| message.kind == kind),
            Which::Not(kind) => self.messages.iter().position(|message| message.kind != kind),
            Which::UpTo(most) => {
                let lowest = self.messages.iter().map(|message| message.kind).filter(|kind| *kind <= most).min()?;
                self.find(Which::Of(lowest))
            }
            Which::At(place) => usize::try_from(place).ok().filter(|place| *place < self.messages.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_chosen_by_type() {
        let mut queue = MessageQueue { limit: 100, ..MessageQueue::default() };
        for kind in [5, 3, 9, 3] {
            queue.messages.push_back(Message { kind, bytes: alloc::vec![0; 10] });
        }
        assert_eq!(queue.find(Which::First), Some(0));
        assert_eq!(queue.find(Which::Of(3)), Some(1));
        assert_eq!(queue.find(Which::Not(5)), Some(1));
        assert_eq!(queue.find(Which::UpTo(4)), Some(1));
        assert_eq!(queue.find(Which::UpTo(2)), None);
        assert_eq!(queue.find(Which::At(2)), Some(2));
        assert_eq!(queue.find(Which::At(4)), None);
        assert_eq!(queue.find(Which::At(-1)), None);
        assert!(queue.has_room(60) && !queue.has_room(61));
    }
}

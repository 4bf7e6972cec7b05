//! POSIX message queues.
use crate::files::NetlinkId;
use alloc::{collections::VecDeque, vec::Vec};
use minicbor::{Decode, Encode};
use shimos_abi::ids::Pid;

/// Names a queue of a program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct QueueId(#[n(0)] pub u32);

/// Queues of a program (queues_max).
pub const MAX_QUEUES: usize = 256;
/// Messages of a queue by default, and the most without privilege (msg_max).
pub const MESSAGES: u64 = 10;
/// Bytes of a message by default, and the most without privilege (msgsize_max).
pub const SIZE: u64 = 8192;
/// Messages of a queue at most.
pub const HARD_MESSAGES: u64 = 65_536;
/// Bytes of a message at most.
pub const HARD_SIZE: u64 = 16 << 20;
/// Priorities are below this (MQ_PRIO_MAX).
pub const PRIORITIES: u64 = 32_768;
/// Bytes of all messages of a program: they are in the kernel's own memory.
pub const MAX_TOTAL: u64 = 8 << 20;
/// What a message costs besides its bytes.
pub const COST: u64 = 64;

/// A queue.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Queue {
    /// Its name, until it is unlinked.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub name: Option<Vec<u8>>,
    /// Owner.
    #[n(1)]
    pub uid: u32,
    /// Owner's group.
    #[n(2)]
    pub gid: u32,
    /// Permission bits.
    #[n(3)]
    pub mode: u32,
    /// Messages that it takes.
    #[n(4)]
    pub most: u64,
    /// Bytes of a message, at most.
    #[n(5)]
    pub size: u64,
    /// What waits in it: highest priority first, then by age.
    #[n(6)]
    pub messages: VecDeque<Message>,
    /// Open descriptions of it.
    #[n(7)]
    pub users: u32,
    /// Who is told when a message comes to the empty queue.
    #[n(8)]
    pub notify: Option<Notify>,
    /// Nanoseconds since 1970 of its making.
    #[n(9)]
    pub made: i64,
}

/// A message.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Message {
    /// Its priority.
    #[n(0)]
    pub priority: u32,
    /// Its content.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
}

/// A wish to be told (mq_notify(3)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Notify {
    /// Which process.
    #[n(0)]
    pub process: Pid,
    /// By which signal; by none it only holds the place.
    #[n(1)]
    pub signal: Option<u8>,
    /// What the signal carries.
    #[n(2)]
    pub value: u64,
    /// In place of a signal: a message to a thread that waits for it.
    #[n(3)]
    pub cookie: Option<Cookie>,
}

/// A message to a thread of the C library, which calls the program's function (SIGEV_THREAD).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Cookie {
    /// The netlink socket that the thread reads.
    #[n(0)]
    pub socket: NetlinkId,
    /// What it is sent, with the reason in place of the last byte.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub bytes: [u8; Cookie::SIZE],
}

impl Cookie {
    /// Its size (`NOTIFY_COOKIE_LEN`).
    pub const SIZE: usize = 32;
    /// The reason that a message came.
    pub const CAME: u8 = 1;
    /// The reason that the wish is given up.
    pub const REMOVED: u8 = 2;
}

impl Queue {
    /// Adds a message behind those of its priority.
    pub fn push(&mut self, message: Message) {
        let at = self.messages.iter().position(|other| other.priority < message.priority);
        self.messages.insert(at.unwrap_or(self.messages.len()), message);
    }
    /// Whether it takes no more.
    pub fn is_full(&self) -> bool {
        self.messages.len() as u64 >= self.most
    }
    /// Bytes in it.
    pub fn bytes(&self) -> u64 {
        self.messages.iter().map(|message| message.bytes.len() as u64).sum()
    }
    /// What it counts against RLIMIT_MSGQUEUE.
    pub fn charge(most: u64, size: u64) -> u64 {
        let trees = most.saturating_mul(48).saturating_add(most.min(32_768) * 48);
        trees.saturating_add(most.saturating_mul(size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_by_priority_and_age() {
        let mut queue = Queue {
            name: None,
            uid: 0,
            gid: 0,
            mode: 0,
            most: 4,
            size: 1,
            messages: VecDeque::new(),
            users: 1,
            notify: None,
            made: 0,
        };
        for (priority, byte) in [(1, 1), (5, 2), (1, 3), (5, 4)] {
            queue.push(Message { priority, bytes: alloc::vec![byte] });
        }
        let order: Vec<u8> = queue.messages.iter().map(|message| message.bytes[0]).collect();
        assert_eq!(order, [2, 4, 1, 3]);
        assert!(queue.is_full());
    }
}

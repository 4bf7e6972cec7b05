//! Pseudo terminals: a terminal (the slave) and what a program does at its other side (the master).
use super::{Flow, Tty, notice};
use crate::pipe::Bytes;
use alloc::vec::Vec;
use minicbor::{Decode, Encode};

/// Names a pair: the number that /dev/pts shows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct PairId(#[n(0)] pub u32);

/// Pairs that a program may have.
pub const PAIRS_LIMIT: u32 = 1024;
/// Bytes of output that wait for the master.
pub const OUTPUT_LIMIT: usize = 16384;
/// Bytes of output that a flush leaves, as the master has them already.
const DELIVERED: usize = 4095;

/// A pair.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Pair {
    /// The terminal.
    #[n(0)]
    pub tty: Tty,
    /// Output that the master has not read.
    #[n(1)]
    pub output: Bytes,
    /// Whether the master is open.
    #[n(2)]
    pub master: Master,
    /// Open descriptions of the slave.
    #[n(3)]
    pub slaves: u32,
    /// The slave was open and is so no more.
    #[n(4)]
    pub deserted: bool,
    /// The slave cannot be opened (TIOCSPTLCK).
    #[n(5)]
    pub locked: bool,
    /// Packet mode, and what is to be told next.
    #[n(6)]
    pub packet: Option<u8>,
    /// What the master writes waits (tcflow(3) on the master).
    #[n(7)]
    pub input_flow: Flow,
    /// Owner of the slave's name.
    #[n(8)]
    pub uid: u32,
    /// Its group.
    #[n(9)]
    pub gid: u32,
    /// Its permission bits.
    #[n(10)]
    pub mode: u16,
    /// When it was made, in nanoseconds since 1970.
    #[n(11)]
    pub made: i64,
}

/// Whether a master is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Master {
    /// It is.
    #[n(0)]
    Open,
    /// It is not, and never will be again.
    #[n(1)]
    Closed,
}

/// Group that owns slaves (`gid=5` of Debian's mount of devpts).
const TTY_GROUP: u32 = 5;

impl Pair {
    /// A pair whose master is being opened by user `uid`.
    pub fn new(uid: u32, now: i64) -> Pair {
        Pair {
            tty: Tty::new(0, 0),
            output: Bytes::default(),
            master: Master::Open,
            slaves: 0,
            deserted: false,
            locked: true,
            packet: None,
            input_flow: Flow::Going,
            uid,
            gid: TTY_GROUP,
            mode: 0o620,
            made: now,
        }
    }

    /// Whether a byte of output finds room.
    pub fn has_room(&self) -> bool {
        self.output.0.len() < OUTPUT_LIMIT && self.tty.flow == Flow::Going
    }

    /// Shows a program's output; returns how many bytes found room.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let mut count = 0;
        for byte in bytes {
            if !self.has_room() {
                break;
            }
            self.tty.show(*byte, &mut self.output.0);
            count += 1;
        }
        count
    }

    /// Moves echo to the output, and what has happened to packet mode. Echo that finds no room waits.
    pub fn settle(&mut self) {
        let notices = core::mem::take(&mut self.tty.notices);
        if notices & notice::FLUSH_WRITE != 0 {
            self.output.0.truncate(DELIVERED);
        }
        if self.output.0.len() < OUTPUT_LIMIT {
            let echo = self.tty.take_echo();
            self.output.0.extend(echo);
        }
        if let Some(told) = &mut self.packet {
            // Of two that contradict each other the later one counts.
            for pair in [notice::START | notice::STOP, notice::NO_STOP | notice::DO_STOP] {
                if notices & pair != 0 {
                    *told &= !pair;
                }
            }
            *told |= notices;
        }
    }

    /// Drops output that the master has not seen (TCOFLUSH).
    pub fn flush_output(&mut self) {
        self.tty.notices |= notice::FLUSH_WRITE;
        self.settle();
    }

    /// Whether the master has something to read.
    pub fn master_is_readable(&self) -> bool {
        !self.output.0.is_empty() || self.packet.is_some_and(|told| told != 0)
    }

    /// Takes output out for the master; in packet mode behind a byte that tells of what has happened.
    pub fn read_master(&mut self, count: usize) -> Vec<u8> {
        if count == 0 {
            return Vec::new();
        }
        let mut bytes = Vec::new();
        let mut count = count;
        if let Some(told) = &mut self.packet {
            bytes.push(core::mem::take(told));
            if bytes != [0] {
                return bytes;
            }
            count -= 1;
        }
        bytes.extend(self.output.0.drain(..count.min(self.output.0.len())));
        self.settle();
        bytes
    }

    /// Whether neither end is open: the pair is to be removed.
    pub fn is_abandoned(&self) -> bool {
        self.master == Master::Closed && self.slaves == 0
    }
}

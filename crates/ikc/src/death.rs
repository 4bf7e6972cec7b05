//! The death record: what a dying kernel says of itself.
use crate::{Area, sync::Ordering, sync::fence};
use alloc::{string::String, vec::Vec};
use shimos_abi::{
    control::{DeathCause, Evidence},
    ids::{Incarnation, KernelId, Life},
    shared::{death, outgoing},
    time::Nanos,
};

/// How many general registers a record holds.
const REGISTERS: usize = 16;

/// A death record, as found: any value may be nonsense, but it is well formed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeathRecord {
    /// The incarnation that died.
    pub incarnation: Incarnation,
    /// Why.
    pub cause: DeathCause,
    /// When.
    pub time: Nanos,
    /// Exception vector, for traps.
    pub vector: u64,
    /// Exception error code.
    pub code: u64,
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Faulting address.
    pub address: u64,
    /// RFLAGS.
    pub flags: u64,
    /// rax rbx rcx rdx rsi rdi rbp r8 ... r15 (the last one unused).
    pub registers: [u64; REGISTERS],
    /// Return addresses, innermost first.
    pub trace: Vec<u64>,
    /// The message.
    pub message: String,
}

impl DeathRecord {
    /// A record without registers or trace.
    pub fn new(incarnation: Incarnation, cause: DeathCause, time: Nanos, message: &str) -> DeathRecord {
        DeathRecord {
            incarnation,
            cause,
            time,
            vector: 0,
            code: 0,
            rip: 0,
            rsp: 0,
            address: 0,
            flags: 0,
            registers: [0; REGISTERS],
            trace: Vec::new(),
            message: message.into(),
        }
    }

    /// The record of the present or of an earlier life of `kernel`, if there is a valid one.
    pub fn read(area: Area, kernel: KernelId) -> Option<DeathRecord> {
        let base = area.part(kernel)? + outgoing::DEATH;
        // Acquire: the magic is written last.
        if area.word(base + death::VALID)?.load(Ordering::Acquire) != death::MAGIC {
            return None;
        }
        let word = |offset: usize| area.load(base + offset);
        let mut registers = [0; REGISTERS];
        registers.iter_mut().enumerate().for_each(|(i, r)| *r = word(death::REGISTERS + i));
        let trace = (0..death::TRACE_WORDS).map(|i| word(death::TRACE + i)).take_while(|&a| a != 0).collect();
        let length = word(death::MESSAGE_LEN).min(death::MESSAGE_BYTES as u64) as usize;
        let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|i| word(death::MESSAGE + i).to_le_bytes()).collect();
        bytes.truncate(length);
        Some(DeathRecord {
            incarnation: Incarnation(word(death::INCARNATION) as u32),
            cause: cause(word(death::CAUSE)),
            time: Nanos(word(death::TIME)),
            vector: word(death::VECTOR),
            code: word(death::CODE),
            rip: word(death::RIP),
            rsp: word(death::RSP),
            address: word(death::ADDRESS),
            flags: word(death::FLAGS),
            registers,
            trace,
            message: String::from_utf8_lossy(&bytes).into_owned(),
        })
    }

    /// Writes the record into the outgoing part of `kernel`, which is the caller's own.
    pub fn write(&self, area: Area, kernel: KernelId) {
        let Some(base) = area.part(kernel).map(|part| part + outgoing::DEATH) else {
            return;
        };
        let store = |offset: usize, value: u64| area.store(base + offset, value, Ordering::Relaxed);
        store(death::VALID, 0);
        fence(Ordering::Release);
        store(death::INCARNATION, u64::from(self.incarnation.0));
        store(death::CAUSE, self.cause as u64);
        store(death::TIME, self.time.0);
        store(death::VECTOR, self.vector);
        store(death::CODE, self.code);
        store(death::RIP, self.rip);
        store(death::RSP, self.rsp);
        store(death::ADDRESS, self.address);
        store(death::FLAGS, self.flags);
        self.registers.iter().enumerate().for_each(|(i, &r)| store(death::REGISTERS + i, r));
        let trace = self.trace.iter().copied().chain(core::iter::repeat(0));
        trace.take(death::TRACE_WORDS).enumerate().for_each(|(i, a)| store(death::TRACE + i, a));
        let bytes = self.message.as_bytes();
        let bytes = bytes.get(..death::MESSAGE_BYTES).unwrap_or(bytes);
        store(death::MESSAGE_LEN, bytes.len() as u64);
        for (i, chunk) in bytes.chunks(8).enumerate() {
            let mut value = [0; 8];
            value.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            store(death::MESSAGE + i, u64::from_le_bytes(value));
        }
        area.store(base + death::VALID, death::MAGIC, Ordering::Release);
    }

    /// As it is shown to an administrator.
    pub fn evidence(self, kernel: KernelId) -> Evidence {
        Evidence {
            dead: self.life(kernel),
            cause: self.cause,
            time: self.time,
            vector: self.vector,
            code: self.code,
            rip: self.rip,
            rsp: self.rsp,
            flags: self.flags,
            address: self.address,
            registers: self.registers.to_vec(),
            trace: self.trace,
            message: self.message,
        }
    }

    /// The life that died.
    pub fn life(&self, kernel: KernelId) -> Life {
        Life { kernel, incarnation: self.incarnation }
    }
}

fn cause(word: u64) -> DeathCause {
    match word {
        1 => DeathCause::Exception,
        2 => DeathCause::Hang,
        3 => DeathCause::Requested,
        _ => DeathCause::Panic,
    }
}

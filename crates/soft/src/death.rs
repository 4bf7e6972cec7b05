//! How simulated kernels die.
use shimos_abi::{
    control::{DeathCause, Fault},
    ids::Life,
    shared::{Layout, death, outgoing},
    time::Nanos,
};
use std::sync::atomic::{AtomicU64, Ordering};

/// A manner of death.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// Leaves a death record, rings its peers and parks.
    Panic,
    /// The same, from an exception.
    Exception,
    /// Makes no more progress; an NMI still parks it.
    Hang,
    /// Makes no more progress and takes no NMI; only INIT parks it.
    Deaf,
    /// Fills what it tells its peers with nonsense, then hangs.
    Scribble,
}

impl From<Fault> for Crash {
    fn from(fault: Fault) -> Crash {
        match fault {
            Fault::Panic => Crash::Panic,
            Fault::InfiniteLoop | Fault::IrqDeadlock => Crash::Hang,
            _ => Crash::Exception,
        }
    }
}

/// Why a kernel's turn did not return.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// It crashed as ordered.
    Crashed(Crash),
    /// It parked itself.
    Parked,
    /// It switched the machine off.
    PowerOff,
    /// It touched what is not its own: a bug in the kernel.
    Fault(String),
    /// It panicked by itself: a bug in the kernel.
    Panicked(String),
    /// Its core was parked or restarted in the middle of a turn.
    Stopped,
}

/// What a step of a kernel gives, or how it ends the kernel.
pub(crate) type Step<T> = Result<T, End>;

/// Ends a kernel that did what it must not.
pub(crate) fn fault<T>(text: String) -> Step<T> {
    Err(End::Fault(text))
}

/// What a dying kernel's turn unwinds with.
#[derive(Clone, Debug)]
pub struct Died {
    /// Whose life has ended.
    pub life: Life,
    /// How.
    pub end: End,
}

/// Writes a death record and says that it is there, as the bare metal does.
pub(crate) fn write_record(
    shared: &[AtomicU64],
    layout: Layout,
    life: Life,
    now: Nanos,
    cause: DeathCause,
    message: &str,
) {
    let part = layout.outgoing(life.kernel);
    let put = |word: usize, value: u64| {
        if let Some(place) = shared.get(part + outgoing::DEATH + word) {
            place.store(value, Ordering::Release);
        }
    };
    put(death::VALID, 0);
    put(death::INCARNATION, u64::from(life.incarnation.0));
    put(death::CAUSE, cause as u64);
    put(death::TIME, now.0);
    put(death::VECTOR, if cause == DeathCause::Exception { 14 } else { 0 });
    for word in death::CODE..death::MESSAGE_LEN {
        put(word, 0);
    }
    let bytes = &message.as_bytes()[..message.len().min(death::MESSAGE_BYTES)];
    put(death::MESSAGE_LEN, bytes.len() as u64);
    for (index, chunk) in bytes.chunks(8).enumerate() {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        put(death::MESSAGE + index, u64::from_le_bytes(word));
    }
    put(death::VALID, death::MAGIC);
    if let Some(state) = shared.get(part + outgoing::STATE) {
        state.store(3, Ordering::Release);
    }
}

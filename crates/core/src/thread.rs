//! Threads: registers, and what a blocked call has done so far.
use crate::{
    files::FilesId,
    process::Untold,
    sharing::Whereabouts,
    signal::{Pending, SigSet},
    turns::Standing,
};
use alloc::string::String;
use minicbor::{Decode, Encode};
use shimos_abi::{errno::Errno, ids::Pid, time::Nanos};
use shimos_hal::{Fpu, Regs};

/// One thread of a program.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Thread {
    /// Its id.
    #[n(0)]
    pub tid: Pid,
    /// The process (thread group) it belongs to.
    #[n(1)]
    pub process: Pid,
    /// User registers. Of a blocked thread: those at its call's entry.
    #[n(2)]
    pub regs: Regs,
    /// Vector registers.
    #[n(3)]
    pub fpu: Fpu,
    /// What it does.
    #[n(4)]
    pub state: State,
    /// Blocked signals.
    #[n(5)]
    pub mask: SigSet,
    /// The mask to go back to when a call that changed it for its own time (sigsuspend, ppoll) ends.
    #[n(6)]
    pub saved_mask: Option<SigSet>,
    /// Signals sent to this thread alone.
    #[n(7)]
    pub pending: Pending,
    /// Alternate signal stack.
    #[n(8)]
    pub altstack: AltStack,
    /// Word to clear and wake when the thread ends (set_tid_address(2)).
    #[n(9)]
    pub clear_tid: u64,
    /// Head of the robust futex list.
    #[n(10)]
    pub robust_list: u64,
    /// The call that is under way, if one has blocked.
    #[n(11)]
    pub call: Option<Call>,
    /// Processor time used.
    #[n(12)]
    pub used: Nanos,
    /// Its list of semaphore operations to undo (SEM_UNDO), shared with others by CLONE_SYSVSEM.
    #[n(20)]
    pub undo: Option<u32>,
    /// Its own name, 15 bytes at most. The first thread has none: its name is the process's.
    #[n(13)]
    pub name: Option<String>,
    /// What it has done.
    #[n(14)]
    #[cbor(default)]
    pub counters: Counters,
    /// Directories and mask of its own, if it does not share those of its process.
    #[n(21)]
    pub whereabouts: Option<Whereabouts>,
    /// A descriptor table of its own, if it does not share that of its process.
    #[n(22)]
    pub files: Option<FilesId>,
    /// Its memory policy, if it has set one (set_mempolicy(2)).
    #[n(23)]
    pub policy: Option<u32>,
    /// How it wants to be scheduled.
    #[n(25)]
    #[cbor(default)]
    pub scheduling: Scheduling,
    /// Time in the kernel that is estimated and not yet counted. (Number 24 was another form of it.)
    #[n(26)]
    #[cbor(default)]
    pub owed: Nanos,
    /// What decides about its turns.
    #[cbor(skip)]
    pub standing: Standing,
}

/// How a thread wants to be scheduled, as it can ask for again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Scheduling {
    /// `SCHED_` number.
    #[n(0)]
    pub policy: u8,
    /// What is gained over others is not inherited (`SCHED_RESET_ON_FORK`).
    #[n(1)]
    pub resets: Option<Untold>,
    /// Priority of its input and output (ioprio_set(2)).
    #[n(2)]
    pub io: u16,
    /// Its priority if it is a real-time thread, 1 to 99.
    #[n(3)]
    pub priority: Option<u8>,
}

/// Numbers of policies, and the bounds of real-time priorities (sched(7)).
pub mod policy {
    pub const OTHER: u32 = 0;
    pub const FIRST_IN: u32 = 1;
    pub const ROUND_ROBIN: u32 = 2;
    pub const BATCH: u32 = 3;
    pub const IDLE: u32 = 5;
    pub const DEADLINE: u32 = 6;
    pub const LOWEST: u8 = 1;
    pub const HIGHEST: u8 = 99;
}

impl Scheduling {
    /// That of a child: without the flag, and without a real-time policy if the flag says so.
    pub fn of_child(self) -> Scheduling {
        match (self.resets, self.priority) {
            (Some(_), Some(_)) => Scheduling { policy: policy::OTHER as u8, resets: None, priority: None, ..self },
            _ => Scheduling { resets: None, ..self },
        }
    }
}

impl Thread {
    /// It has been in the kernel `times` times, one of them for `spent`: all count as equally long. That is owed, and counted
    /// as use comes, so that neither kind of time ever goes back.
    pub fn owe_system(&mut self, spent: Nanos, times: u64) {
        self.owed = (self.owed + spent.times(times)).min(OWED.max(spent));
    }
    /// It has used the processor for so long.
    pub fn count_use(&mut self, used: Nanos) {
        let system = self.owed.min(used);
        self.owed = self.owed - system;
        self.used = self.used + used;
        self.counters.system = self.counters.system + system;
    }
}

/// Time in the kernel that a thread may owe, at most: a call in which the processor stood still stands for no others.
const OWED: Nanos = Nanos::millis(50);

/// What threads have done: for getrusage(2) and /proc.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Counters {
    /// Page faults that were resolved at once.
    #[n(0)]
    pub minor_faults: u64,
    /// Page faults that waited for the disk.
    #[n(1)]
    pub major_faults: u64,
    /// Turns that ended because the thread waited.
    #[n(2)]
    pub waits: u64,
    /// Turns that ended because their time was over.
    #[n(3)]
    pub preemptions: u64,
    /// Calls that have read.
    #[n(4)]
    pub reads: u64,
    /// Bytes that they have read.
    #[n(5)]
    pub read_bytes: u64,
    /// Calls that have written.
    #[n(6)]
    pub writes: u64,
    /// Bytes that they have written.
    #[n(7)]
    pub written_bytes: u64,
    /// How much of the processor time was spent in the kernel.
    #[n(8)]
    #[cbor(default)]
    pub system: Nanos,
}

impl Counters {
    /// A call has read so many bytes.
    pub fn count_read(&mut self, bytes: u64) {
        self.reads = self.reads.wrapping_add(1);
        self.read_bytes = self.read_bytes.wrapping_add(bytes);
    }
    /// A call has written so many bytes.
    pub fn count_written(&mut self, bytes: u64) {
        self.writes = self.writes.wrapping_add(1);
        self.written_bytes = self.written_bytes.wrapping_add(bytes);
    }
    /// Both together.
    #[must_use]
    pub fn with(self, other: Counters) -> Counters {
        Counters {
            minor_faults: self.minor_faults.wrapping_add(other.minor_faults),
            major_faults: self.major_faults.wrapping_add(other.major_faults),
            waits: self.waits.wrapping_add(other.waits),
            preemptions: self.preemptions.wrapping_add(other.preemptions),
            reads: self.reads.wrapping_add(other.reads),
            read_bytes: self.read_bytes.wrapping_add(other.read_bytes),
            writes: self.writes.wrapping_add(other.writes),
            written_bytes: self.written_bytes.wrapping_add(other.written_bytes),
            system: self.system + other.system,
        }
    }
}

/// What a thread does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum State {
    /// It runs user code, or is about to.
    #[n(0)]
    Ready,
    /// Its call waits. After a takeover the call is simply issued again.
    #[n(1)]
    Blocked,
    /// Job control stopped it.
    #[n(2)]
    Stopped,
}

/// What a call that has blocked must remember when it is issued again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Call {
    /// When it gives up waiting.
    #[n(0)]
    pub deadline: Option<Nanos>,
    /// Bytes it has moved already, or another count of progress.
    #[n(1)]
    pub moved: u64,
    /// The key of the futex that it was moved to, or was woken at.
    #[n(2)]
    pub queue: Option<(u64, u64)>,
    /// Pages that it makes ready for use: the first of all, and the one behind the last. Its progress is where it has come to.
    #[n(3)]
    pub range: Option<(u64, u64)>,
    /// Its turn among all that have begun to wait: whoever came first is first after a takeover too.
    #[n(4)]
    pub turn: Option<u64>,
}

/// sigaltstack(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct AltStack {
    /// Lowest address.
    #[n(0)]
    pub base: u64,
    /// Bytes; 0 stands for none.
    #[n(1)]
    pub size: u64,
    /// It is given up while a handler runs on it (`SS_AUTODISARM`).
    #[n(2)]
    pub disarms: Option<Disarms>,
}

/// A stack that is given up when it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Disarms;

impl AltStack {
    const ON_STACK: u32 = 1;
    const DISABLE: u32 = 2;
    const AUTODISARM: u32 = 1 << 31;
    /// The smallest there may be (`MINSIGSTKSZ`).
    const MIN: u64 = 2048;

    /// What a caller asks for; EINVAL for unknown flags, ENOMEM for a stack that is too small.
    pub fn wanted(base: u64, flags: u32, size: u64) -> Result<AltStack, Errno> {
        let disarms = (flags & Self::AUTODISARM != 0).then_some(Disarms);
        match flags & !Self::AUTODISARM {
            Self::DISABLE => Ok(AltStack { disarms, ..AltStack::default() }),
            0 | Self::ON_STACK if size < Self::MIN => Err(Errno::ENOMEM),
            0 | Self::ON_STACK => Ok(AltStack { base, size, disarms }),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Its `ss_flags`, but for whether it is in use.
    pub fn flags(self) -> u32 {
        let disabled = if self.size == 0 { Self::DISABLE } else { 0 };
        disabled | if self.disarms.is_some() { Self::AUTODISARM } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{create::first_thread, sampling::Sampling};
    use alloc::vec::Vec;

    /// Runs `rounds` of: so long in user mode, then one call after the other.
    fn estimated(user: Nanos, calls: &[Nanos], rounds: u32) -> (Nanos, Nanos) {
        let (mut thread, mut sampling, mut system) = (first_thread(Pid(1)), Sampling::default(), Nanos(0));
        for _ in 0..rounds {
            thread.count_use(user);
            for call in calls {
                system = system + *call;
                if let Some(others) = sampling.next() {
                    thread.owe_system(*call, others + 1);
                }
                thread.count_use(*call);
            }
        }
        (thread.counters.system, system)
    }

    #[test]
    fn short_and_long_calls_in_turn_are_estimated_right() {
        for calls in [&[1, 1][..], &[40, 1], &[1, 1, 1, 1, 90], &[400, 1, 1]] {
            for user in [0, 5, 500] {
                let calls: Vec<Nanos> = calls.iter().map(|micros| Nanos::micros(*micros)).collect();
                let (estimated, system) = estimated(Nanos::micros(user), &calls, 20_000);
                let wrong = estimated.0.abs_diff(system.0);
                assert!(wrong < system.0 / 10, "{calls:?} and {user} us: {estimated} instead of {system}");
            }
        }
    }

    #[test]
    fn a_stall_counts_once() {
        let mut thread = first_thread(Pid(1));
        thread.owe_system(Nanos::millis(200), 30);
        thread.count_use(Nanos::millis(200));
        assert_eq!(thread.counters.system, Nanos::millis(200));
        thread.count_use(Nanos::secs(100));
        assert!(thread.counters.system <= Nanos::millis(250));
    }
}

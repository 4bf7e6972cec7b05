//! The state of a machine as the control protocol tells it: kernels, programs, checkpoints, recoveries, takeovers.
use crate::{
    control::{Level, Protection},
    ids::{Epoch, KernelId, Life, Pid, ProgramId},
    time::Nanos,
};
use alloc::{string::String, vec::Vec};
use minicbor::{Decode, Encode};

/// Why a kernel died.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum DeathCause {
    /// It panicked and left a death record.
    #[n(0)]
    Panic,
    /// An exception in the kernel; it left a death record.
    #[n(1)]
    Exception,
    /// It stopped making progress.
    #[n(2)]
    Hang,
    /// The administrator asked for it.
    #[n(3)]
    Requested,
}

/// How a death was noticed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum DetectedBy {
    /// The dying kernel's death record and its ring.
    #[n(0)]
    DeathRecord,
    /// Missed timestamps, confirmed by a probe.
    #[n(1)]
    Heartbeat,
}

/// How a fence was proven.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum FencedBy {
    /// The kernel had parked itself.
    #[n(0)]
    Itself,
    /// It followed the message.
    #[n(1)]
    Message,
    /// The non-maskable interrupt parked it.
    #[n(2)]
    Nmi,
    /// INIT and SIPI into the park stub.
    #[n(3)]
    Init,
}

/// The state of the machine.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct MachineStatus {
    /// The machine's time.
    #[n(0)]
    pub now: Nanos,
    /// Daemon interval.
    #[n(1)]
    pub heartbeat: Nanos,
    /// The active monitor's kernel; all others are shadows.
    #[n(2)]
    pub monitor: KernelId,
    /// Term of that monitor.
    #[n(3)]
    pub term: u32,
    /// Owner of each device, in the order of [`crate::control::Device::ALL`].
    #[n(4)]
    pub owners: Vec<KernelId>,
    /// One entry a kernel.
    #[n(5)]
    pub kernels: Vec<KernelStatus>,
    /// Kernels that programs are kept off.
    #[n(6)]
    #[cbor(default)]
    pub drained: Vec<KernelId>,
    /// The last reset of the machine that its memory has outlived.
    #[n(7)]
    pub reset: Option<Reset>,
    /// What keeps the kernels apart.
    #[n(8)]
    #[cbor(default)]
    pub partition: Partition,
}

/// What keeps kernels apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
#[cbor(index_only)]
#[repr(u32)]
pub enum Partition {
    /// Their own page tables alone.
    #[default]
    #[n(0)]
    None,
    /// Each is a guest of its core's shell (AMD's SVM): nested page tables confine it.
    #[n(1)]
    Svm,
}

/// A reset of the machine after which its programs went on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Reset {
    /// How many there were, this one among them.
    #[n(0)]
    pub count: u64,
    /// The machine's time when it had started again.
    #[n(1)]
    pub at: Nanos,
    /// Programs of which an image was found.
    #[n(2)]
    pub found: u64,
    /// Programs that could not go on: they were not protected.
    #[n(3)]
    pub gone: u64,
}

/// The life cycle of a kernel, as its peers see it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum KernelState {
    /// Not started.
    #[n(0)]
    Down,
    /// Starting.
    #[n(1)]
    Booting,
    /// At work.
    #[n(2)]
    Running,
    /// It said that it died.
    #[n(3)]
    Panicked,
    /// Its core is proven parked.
    #[n(4)]
    Fenced,
}

/// The state of one kernel.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct KernelStatus {
    /// Which.
    #[n(0)]
    pub id: KernelId,
    /// Its core's APIC id.
    #[n(1)]
    pub apic: u32,
    /// Its present incarnation, counted from 1.
    #[n(2)]
    pub incarnation: u32,
    /// Life cycle.
    #[n(3)]
    pub state: KernelState,
    /// Private memory, in bytes.
    #[n(4)]
    pub memory: u64,
    /// Free frames.
    #[n(5)]
    pub free_frames: u64,
    /// Runnable threads.
    #[n(6)]
    pub load: u32,
    /// The part that the kernel publishes by itself.
    #[n(7)]
    pub published: Published,
}

/// What a kernel publishes of itself in its outgoing part.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Default)]
pub struct Published {
    /// Version and build.
    #[n(0)]
    pub build: String,
    /// The programs that live here.
    #[n(1)]
    pub programs: Vec<ProgramStatus>,
    /// Recoveries this kernel led as monitor, the latest last (a bounded number).
    #[n(2)]
    pub recoveries: Vec<Recovery>,
    /// Takeovers this kernel did, the latest last (a bounded number).
    #[n(3)]
    pub takeovers: Vec<Takeover>,
    /// Programs that the administrator has moved away from here, the latest last (a bounded number).
    #[n(4)]
    #[cbor(default)]
    pub moves: Vec<MoveStatus>,
    /// Why something stays here although this kernel is drained.
    #[n(5)]
    pub trouble: Option<String>,
    /// Programs that this kernel has given up after a death, the latest last (a bounded number).
    #[n(6)]
    #[cbor(default)]
    pub given_up: Vec<GivenUp>,
}

/// A program that does not go on.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct GivenUp {
    /// Which.
    #[n(0)]
    pub program: ProgramId,
    /// Its name, as far as known.
    #[n(1)]
    pub name: String,
    /// When.
    #[n(2)]
    pub at: Nanos,
    /// Why.
    #[n(3)]
    pub why: String,
}

/// How a planned move stands. The kernel that the program leaves tells it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct MoveStatus {
    /// Which program.
    #[n(0)]
    pub program: ProgramId,
    /// To which kernel.
    #[n(1)]
    pub to: KernelId,
    /// When it was asked for.
    #[n(2)]
    pub asked: Nanos,
    /// When the program was stopped; zero before that.
    #[n(3)]
    pub stopped: Nanos,
    /// When it was over, one way or the other; zero before that.
    #[n(4)]
    pub over: Nanos,
    /// Why the program stays where it is, if it does.
    #[n(5)]
    pub failed: Option<String>,
}

/// Why a program went on in another kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum Cause {
    /// The kernel under it died.
    #[n(0)]
    #[default]
    Death,
    /// The administrator wanted it there.
    #[n(1)]
    Move,
    /// It crashed, or a page of its image was found damaged: it went back to an earlier generation on the same kernel.
    #[n(2)]
    Rollback,
    /// The machine was reset.
    #[n(3)]
    Reset,
}

/// The state of one program.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ProgramStatus {
    /// Which.
    #[n(0)]
    pub id: ProgramId,
    /// Its name.
    #[n(1)]
    pub name: String,
    /// Its processes: pid, parent, command name.
    #[n(2)]
    pub processes: Vec<ProcessStatus>,
    /// How it is protected, if it is.
    #[n(3)]
    pub protection: Option<Protection>,
    /// Its last committed checkpoint.
    #[n(4)]
    pub checkpoint: Option<CheckpointStatus>,
    /// What of it cannot be protected.
    #[n(5)]
    pub exceptions: Vec<String>,
    /// How often it was taken over.
    #[n(6)]
    pub takeovers: u32,
    /// Why it waits, if it cannot run now.
    #[n(7)]
    pub waiting: Option<String>,
    /// How often it was moved by the administrator.
    #[n(8)]
    #[cbor(default)]
    pub moves: u32,
    /// How often it was started again after the death of its kernel.
    #[n(9)]
    #[cbor(default)]
    pub restarts: u32,
    /// What happens to it when its kernel dies.
    #[n(10)]
    pub level: Option<Level>,
    /// How often it went back to an earlier generation on its kernel.
    #[n(11)]
    #[cbor(default)]
    pub rollbacks: u32,
    /// Kernels in a row that have died over it in the same way.
    #[n(12)]
    #[cbor(default)]
    pub guilt: u32,
}

/// One process.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ProcessStatus {
    /// Its id.
    #[n(0)]
    pub pid: Pid,
    /// Its parent's.
    #[n(1)]
    pub parent: Pid,
    /// Command name.
    #[n(2)]
    pub comm: String,
    /// Resident pages.
    #[n(3)]
    pub pages: u32,
}

/// One checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct CheckpointStatus {
    /// Epoch.
    #[n(0)]
    pub epoch: Epoch,
    /// When it committed.
    #[n(1)]
    pub at: Nanos,
    /// How long the program stood still for it: at a time, if it was saved in steps.
    #[n(2)]
    pub pause: Nanos,
    /// Pages that it saved.
    #[n(3)]
    pub pages: u32,
    /// Pages in the whole image.
    #[n(4)]
    pub image_pages: u32,
    /// Bytes of records.
    #[n(5)]
    pub record_bytes: u32,
    /// What the pause was spent on.
    #[n(6)]
    pub phases: Option<Phases>,
    /// The time to the next one, if more changes than can be saved in the interval that was asked for.
    #[n(7)]
    pub stretched: Option<Nanos>,
}

/// The parts of one checkpoint's pause, in their order; of the last one, if it was saved in steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Phases {
    /// Stopping: registers are saved, pages that lie elsewhere are mapped, what ended is told to the image.
    #[n(0)]
    pub stop: Nanos,
    /// Changed pages are found and write-protected.
    #[n(1)]
    pub pages: Nanos,
    /// The image's page map is brought up to date.
    #[n(2)]
    pub tables: Nanos,
    /// The records are encoded and stored.
    #[n(3)]
    pub records: Nanos,
    /// The commit, and giving back the oldest generation's records.
    #[n(4)]
    pub commit: Nanos,
    /// Held output leaves.
    #[n(5)]
    pub release: Nanos,
}

/// What a kernel said of itself when it died, or what was found in its processor when it was made to park.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Evidence {
    /// The life that ended.
    #[n(0)]
    pub dead: Life,
    /// Why.
    #[n(1)]
    pub cause: DeathCause,
    /// When this was written.
    #[n(2)]
    pub time: Nanos,
    /// Exception vector, for an exception.
    #[n(3)]
    pub vector: u64,
    /// Its error code.
    #[n(4)]
    pub code: u64,
    /// Instruction pointer.
    #[n(5)]
    pub rip: u64,
    /// Stack pointer.
    #[n(6)]
    pub rsp: u64,
    /// RFLAGS.
    #[n(7)]
    pub flags: u64,
    /// Faulting address.
    #[n(8)]
    pub address: u64,
    /// rax rbx rcx rdx rsi rdi rbp r8 ... r15.
    #[n(9)]
    pub registers: Vec<u64>,
    /// Return addresses, innermost first.
    #[n(10)]
    pub trace: Vec<u64>,
    /// What it said.
    #[n(11)]
    pub message: String,
}

/// How one kernel's death was dealt with. Times that have not come yet are zero.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Recovery {
    /// The life that ended.
    #[n(0)]
    pub dead: Life,
    /// Why, as far as known.
    #[n(1)]
    pub cause: DeathCause,
    /// What the death record says.
    #[n(2)]
    pub message: String,
    /// How it was noticed.
    #[n(3)]
    pub detected_by: DetectedBy,
    /// By which kernel's monitor daemon.
    #[n(4)]
    pub monitor: KernelId,
    /// When it died: the death record's time, or for a hang the time of the last stamp.
    #[n(5)]
    pub died: Nanos,
    /// When the monitor knew.
    #[n(6)]
    pub detected: Nanos,
    /// When the fence was proven.
    #[n(7)]
    pub fenced: Nanos,
    /// How.
    #[n(8)]
    pub fenced_by: FencedBy,
    /// When every program had a new home.
    #[n(9)]
    pub taken_over: Nanos,
    /// When the new incarnation was started.
    #[n(10)]
    pub restarted: Nanos,
    /// When it had rejoined.
    #[n(11)]
    pub rejoined: Nanos,
    /// Why it is not finished, if something is in the way.
    #[n(12)]
    pub waiting: Option<String>,
}

/// One program's takeover.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Takeover {
    /// Which program.
    #[n(0)]
    pub program: ProgramId,
    /// From which life.
    #[n(1)]
    pub from: Life,
    /// To which kernel.
    #[n(2)]
    pub to: KernelId,
    /// The epoch it goes on from.
    #[n(3)]
    pub epoch: Epoch,
    /// When the restart command came.
    #[n(4)]
    pub ordered: Nanos,
    /// When its first user instruction was about to run.
    #[n(5)]
    pub first_instruction: Nanos,
    /// When all its pages were home; zero before that.
    #[n(6)]
    pub home: Nanos,
    /// Pages of the image.
    #[n(7)]
    pub pages: u32,
    /// Why.
    #[n(8)]
    #[cbor(default)]
    pub cause: Cause,
    /// What else is to be said: why it went back, what was damaged, which connections were reset.
    #[n(9)]
    pub note: Option<String>,
}

//! The control protocol: what an administrator may ask, of `/dev/shimos` inside and of `shimosd` from the host.
//!
//! A message is one CBOR item behind its length as a 32-bit little-endian number. A client writes a [`Request`] and reads
//! the [`Response`]; one at a time. The version is asked for first ([`Request::Hello`]).
use crate::{
    ids::{Epoch, Incarnation, KernelId, Pid, ProgramId},
    policy,
    time::Nanos,
};
use alloc::{string::String, vec::Vec};
use minicbor::{Decode, Encode};

pub use crate::state::{
    Cause, CheckpointStatus, DeathCause, DetectedBy, Evidence, FencedBy, GivenUp, KernelState, KernelStatus,
    MachineStatus, MoveStatus, Partition, Phases, ProcessStatus, ProgramStatus, Published, Recovery, Reset, Takeover,
};
pub use crate::{
    fault::Fault,
    level::{Generations, Integrity, Level, OnCrash, Output, Protection, Strictness},
    network::{
        GATEWAY, GATEWAY6, NAMESERVER, NETWORK, NETWORK_PREFIX, NETWORK6, NETWORK6_PREFIX, address_of, address6_of,
        mac_of,
    },
};

/// Version of this protocol.
pub const VERSION: u32 = 2;
/// Largest message, in bytes.
pub const MAX_MESSAGE: usize = 32 * 1024;
/// TCP port of `shimosd`.
pub const PORT: u16 = 7411;
/// Shortest checkpoint interval.
pub const MIN_INTERVAL: Nanos = Nanos::millis(1);
/// Longest checkpoint interval.
pub const MAX_INTERVAL: Nanos = Nanos::secs(7 * 24 * 3600);

/// A device with an owner (paper 2.5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Device {
    /// The machine's console.
    #[n(0)]
    Console,
    /// The disk with the root image.
    #[n(1)]
    Block,
    /// The network card.
    #[n(2)]
    Network,
}

impl Device {
    /// All devices.
    pub const ALL: [Device; 3] = [Device::Console, Device::Block, Device::Network];
}

/// How a program is named in a request.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Target {
    /// By any process id of it.
    #[n(0)]
    Pid(#[n(0)] Pid),
    /// By its name.
    #[n(1)]
    Name(#[n(0)] String),
}

/// Whose rights a program begins with.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct User {
    /// User id.
    #[n(0)]
    pub uid: u32,
    /// Group id.
    #[n(1)]
    pub gid: u32,
    /// Supplementary groups.
    #[n(2)]
    pub groups: Vec<u32>,
}

/// A part of the disk, in blocks of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Extent {
    /// The first block.
    #[n(0)]
    pub first: u64,
    /// How many there are.
    #[n(1)]
    pub blocks: u64,
}

/// A program to start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Start {
    /// Name; unique among running programs.
    #[n(0)]
    pub name: String,
    /// Argument vector; the first is the path of the file to execute.
    #[n(1)]
    pub argv: Vec<String>,
    /// Environment.
    #[n(2)]
    pub env: Vec<String>,
    /// Working directory.
    #[n(3)]
    pub cwd: String,
    /// Kernel to run on; the least loaded one otherwise.
    #[n(4)]
    pub kernel: Option<KernelId>,
    /// Protection from the first instruction on.
    #[n(5)]
    pub protection: Option<Protection>,
    /// Where on the disk its root image lies; the machine's own image, at block 0, otherwise.
    #[n(6)]
    pub image: Option<Extent>,
    /// Whose rights it begins with; those of root otherwise.
    #[n(7)]
    pub user: Option<User>,
    /// Memory that it may have, in bytes: its pages, page tables and files; as much as there is otherwise.
    #[n(8)]
    pub memory: Option<u64>,
    /// Its level from the first instruction on, in place of `protection`.
    #[n(9)]
    pub level: Option<Level>,
    /// What is done if it cannot be given that level.
    #[n(10)]
    #[cbor(default)]
    pub strictness: Strictness,
}

/// A request.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Request {
    /// Which version do you speak?
    #[n(0)]
    Hello,
    /// Everything there is to know.
    #[n(1)]
    Status,
    /// Start a program.
    #[n(2)]
    Start(#[n(0)] Start),
    /// Send a signal to all processes of a program.
    #[n(3)]
    Kill {
        /// Which.
        #[n(0)]
        target: Target,
        /// Signal number.
        #[n(1)]
        signal: u8,
    },
    /// Protect a program, or change how it is protected.
    #[n(4)]
    Protect {
        /// Which.
        #[n(0)]
        target: Target,
        /// How.
        #[n(1)]
        protection: Protection,
    },
    /// Protect it no more.
    #[n(5)]
    Unprotect {
        /// Which.
        #[n(0)]
        target: Target,
    },
    /// Injure a kernel.
    #[n(6)]
    Inject {
        /// Which.
        #[n(0)]
        kernel: KernelId,
        /// How.
        #[n(1)]
        fault: Fault,
        /// Which life of it: an order for a life that is over is obeyed already.
        #[n(2)]
        incarnation: Option<Incarnation>,
        /// What a fault that hits at random goes by.
        #[n(3)]
        #[cbor(default)]
        seed: u64,
    },
    /// Set the timer and monitor daemons' interval.
    #[n(7)]
    SetHeartbeat {
        /// The interval.
        #[n(0)]
        interval: Nanos,
    },
    /// Run a measurement inside: inter-kernel communication.
    #[n(8)]
    BenchIkc {
        /// Rounds.
        #[n(0)]
        rounds: u32,
    },
    /// Stop the machine.
    #[n(9)]
    PowerOff,
    /// Start one more process in a running program, with root's rights and in the working directory of the program's first
    /// process. Nobody is its parent.
    #[n(10)]
    Exec {
        /// Which program.
        #[n(0)]
        target: Target,
        /// Argument vector; the first is the path of the file to execute.
        #[n(1)]
        argv: Vec<String>,
        /// Environment.
        #[n(2)]
        env: Vec<String>,
    },
    /// Send a signal to one process.
    #[n(11)]
    Signal {
        /// Which.
        #[n(0)]
        pid: Pid,
        /// Signal number.
        #[n(1)]
        signal: u8,
    },
    /// List the processes of a program, as many as one answer holds.
    #[n(12)]
    Processes {
        /// Which.
        #[n(0)]
        program: ProgramId,
        /// From this id on.
        #[n(1)]
        from: Pid,
    },
    /// Move a program to another kernel. The answer says that this has begun; the status tells how it goes, see
    /// [`MoveStatus`].
    #[n(13)]
    Move {
        /// Which.
        #[n(0)]
        target: Target,
        /// Where to.
        #[n(1)]
        to: KernelId,
    },
    /// Move all programs and devices away from a kernel and keep others off, or let them come again. The status tells how
    /// far it is.
    #[n(14)]
    Drain {
        /// Which.
        #[n(0)]
        kernel: KernelId,
        /// Which of both.
        #[n(1)]
        drain: Drain,
    },
    /// Drain a kernel, then give it a fresh life.
    #[n(15)]
    Reboot {
        /// Which.
        #[n(0)]
        kernel: KernelId,
        /// Which life of it is to end: an order for a life that is over is obeyed already.
        #[n(1)]
        incarnation: Option<Incarnation>,
    },
    /// Set what happens to a program when its kernel dies.
    #[n(16)]
    SetLevel {
        /// Which.
        #[n(0)]
        target: Target,
        /// What.
        #[n(1)]
        level: Level,
        /// What is done if something of it cannot be protected.
        #[n(2)]
        #[cbor(default)]
        strictness: Strictness,
    },
    /// What the latest death record of a kernel says.
    #[n(30)]
    Evidence {
        /// Whose.
        #[n(0)]
        kernel: KernelId,
    },
    /// The last checkpoints of a program, as many as one answer holds.
    #[n(40)]
    Checkpoints {
        /// Which.
        #[n(0)]
        program: ProgramId,
        /// Only those after this epoch.
        #[n(1)]
        after: Epoch,
    },
    /// Keep a program as it is at this moment, to be read.
    #[n(41)]
    Save {
        /// Which.
        #[n(0)]
        target: Target,
    },
    /// Read a part of a program that is kept. After the last one it is kept no more.
    #[n(42)]
    SavedPart {
        /// Which.
        #[n(0)]
        program: ProgramId,
        /// The place of the first byte.
        #[n(1)]
        from: u64,
    },
    /// Begin to take in a program that was saved.
    #[n(43)]
    BeginRestore(#[n(0)] Transfer),
    /// Bring a part of it.
    #[n(44)]
    RestorePart {
        /// Which.
        #[n(0)]
        program: ProgramId,
        /// The place of the first byte.
        #[n(1)]
        from: u64,
        /// The bytes.
        #[cbor(n(2), with = "minicbor::bytes")]
        bytes: Vec<u8>,
    },
    /// All of it was brought: let it go on.
    #[n(45)]
    EndRestore {
        /// Which.
        #[n(0)]
        program: ProgramId,
    },
    /// Bring a part of the machine's policy. With the last one it takes the place of the policy before.
    #[n(50)]
    SetPolicy(#[n(0)] policy::Part),
    /// Read a part of the machine's policy.
    #[n(51)]
    Policy {
        /// The place of the first byte.
        #[n(0)]
        from: u32,
    },
}

/// A program as a stream of bytes: its records, the list of its pages (key, 4 bytes, and number, 8 bytes, of each), and
/// the pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Transfer {
    /// Its number, on which its process ids and addresses hang.
    #[n(0)]
    pub program: ProgramId,
    /// The machine's time at that moment.
    #[n(1)]
    pub time: Nanos,
    /// Bytes of records.
    #[n(2)]
    pub records: u32,
    /// Pages.
    #[n(3)]
    pub pages: u32,
}

/// What a kernel is to do with its programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Drain {
    /// Move them away and take no others.
    #[n(0)]
    Begin,
    /// Keep those it has; others may come.
    #[n(1)]
    End,
}

impl Request {
    /// Requests that this version knows are numbered from 0 to here.
    pub const LAST: u32 = 51;

    /// Whether being made twice does no more than being made once.
    pub fn is_repeatable(&self) -> bool {
        matches!(
            self,
            Request::Hello
                | Request::Status
                | Request::Processes { .. }
                | Request::Checkpoints { .. }
                | Request::Save { .. }
                | Request::SetPolicy(_)
                | Request::Policy { .. }
                | Request::SavedPart { .. }
                | Request::RestorePart { .. }
                | Request::Protect { .. }
                | Request::Unprotect { .. }
                | Request::SetHeartbeat { .. }
                | Request::Drain { .. }
                | Request::SetLevel { .. }
                | Request::Reboot { incarnation: Some(_), .. }
                | Request::Inject { incarnation: Some(_), .. }
        )
    }

    /// The number of an encoded request, if it is one of this version or a later one.
    pub fn number(bytes: &[u8]) -> Option<u32> {
        let mut decoder = minicbor::Decoder::new(bytes);
        match decoder.datatype().ok()? {
            minicbor::data::Type::Array => decoder.array().ok().and_then(|_| decoder.u32().ok()),
            _ => decoder.u32().ok(),
        }
    }
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Response {
    /// The version spoken.
    #[n(0)]
    Hello {
        /// See [`VERSION`].
        #[n(0)]
        version: u32,
    },
    /// The state of the machine.
    #[n(1)]
    Status(#[n(0)] MachineStatus),
    /// The program runs.
    #[n(2)]
    Started {
        /// The program.
        #[n(0)]
        program: ProgramId,
        /// Its init process.
        #[n(1)]
        pid: Pid,
        /// Where it runs.
        #[n(2)]
        kernel: KernelId,
    },
    /// The program is protected from now on.
    #[n(3)]
    Protected {
        /// The program.
        #[n(0)]
        program: ProgramId,
        /// What of it cannot be protected: process, descriptor or mapping, and why.
        #[n(1)]
        exceptions: Vec<String>,
    },
    /// Done; there is nothing to say.
    #[n(4)]
    Done,
    /// It cannot be done: one line that says why and what to do.
    #[n(5)]
    Failed(#[n(0)] String),
    /// Figures of a measurement.
    #[n(6)]
    Figures(#[n(0)] Vec<Figure>),
    /// Processes of a program.
    #[n(7)]
    Processes(#[n(0)] Processes),
    /// Nothing was done, as a kernel has died or the program is on its way to another: one line that says so. It can be
    /// asked again soon.
    #[n(8)]
    Again(#[n(0)] String),
    /// A death record, if the kernel ever left one.
    #[n(30)]
    Evidence(#[n(0)] Option<Evidence>),
    /// Checkpoints of a program, the oldest first.
    #[n(40)]
    Checkpoints(#[n(0)] Vec<CheckpointStatus>),
    /// The program is kept, to be read.
    #[n(41)]
    Transfer(#[n(0)] Transfer),
    /// Bytes of it; none at the end.
    #[n(42)]
    Part(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// The program goes on here.
    #[n(43)]
    Restored {
        /// The program.
        #[n(0)]
        program: ProgramId,
        /// Its init process.
        #[n(1)]
        pid: Pid,
        /// Where it runs.
        #[n(2)]
        kernel: KernelId,
        /// Connections that were closed, as their peers are elsewhere.
        #[n(3)]
        closed: u32,
    },
    /// A part of the machine's policy.
    #[n(50)]
    Policy(#[n(0)] policy::Part),
}

/// As many checkpoints one answer tells at most.
pub const MAX_CHECKPOINTS: usize = 24;

/// Processes of a program, by their ids.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Processes {
    /// Where the program is.
    #[n(0)]
    pub kernel: KernelId,
    /// The machine's time.
    #[n(1)]
    pub now: Nanos,
    /// When the program started.
    #[n(2)]
    pub started: Nanos,
    /// The processes.
    #[n(3)]
    pub list: Vec<ProcessInfo>,
    /// The id to go on from, if there are more.
    #[n(4)]
    pub next: Option<Pid>,
}

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum ProcessState {
    /// It runs or could run.
    #[n(0)]
    Running,
    /// It waits.
    #[n(1)]
    Sleeping,
    /// Job control has stopped it.
    #[n(2)]
    Stopped,
    /// It has ended, and nobody has asked how.
    #[n(3)]
    Zombie,
}

/// One process, for ps.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ProcessInfo {
    /// Its id.
    #[n(0)]
    pub pid: Pid,
    /// Its parent's.
    #[n(1)]
    pub parent: Pid,
    /// What it does.
    #[n(2)]
    pub state: ProcessState,
    /// Processor time of all its threads.
    #[n(3)]
    pub used: Nanos,
    /// When it started.
    #[n(4)]
    pub started: Nanos,
    /// Threads.
    #[n(5)]
    pub threads: u32,
    /// Resident pages.
    #[n(6)]
    pub pages: u32,
    /// Its command line, cut to [`MAX_COMMAND`] bytes; its name in brackets if there is none.
    #[n(7)]
    pub command: String,
}

/// Longest command line that a list of processes tells, in bytes.
pub const MAX_COMMAND: usize = 256;

/// One measured figure.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Figure {
    /// What.
    #[n(0)]
    pub name: String,
    /// Samples in nanoseconds, sorted.
    #[n(1)]
    pub samples: Vec<u64>,
}

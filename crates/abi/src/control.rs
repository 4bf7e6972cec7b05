//! The control protocol: what an administrator may ask, of `/dev/shimos` inside and of `shimosd` from the host.
//!
//! A message is one CBOR item behind its length as a 32-bit little-endian number. A client writes a [`Request`] and reads
//! the [`Response`]; one at a time. The version is asked for first ([`Request::Hello`]).
use crate::{
    ids::{Epoch, Incarnation, KernelId, Life, Pid, ProgramId},
    time::Nanos,
};
use alloc::{string::String, vec::Vec};
use minicbor::{Decode, Encode};

/// Version of this protocol.
pub const VERSION: u32 = 1;
/// Largest message, in bytes.
pub const MAX_MESSAGE: usize = 32 * 1024;
/// TCP port of `shimosd`.
pub const PORT: u16 = 7411;
/// Shortest checkpoint interval.
pub const MIN_INTERVAL: Nanos = Nanos::millis(1);
/// Longest checkpoint interval.
pub const MAX_INTERVAL: Nanos = Nanos::secs(7 * 24 * 3600);

/// The IPv4 network of the programs: 10.77.0.0/16; the emulator's gateway is .0.2, its name server .0.3.
pub const NETWORK: [u8; 4] = [10, 77, 0, 0];
/// Prefix length of [`NETWORK`].
pub const NETWORK_PREFIX: u8 = 16;
/// The gateway.
pub const GATEWAY: [u8; 4] = [10, 77, 0, 2];
/// The name server.
pub const NAMESERVER: [u8; 4] = [10, 77, 0, 3];

/// The IPv6 network of the programs: fec0::/64.
pub const NETWORK6: [u8; 16] = [0xfe, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Prefix length of [`NETWORK6`].
pub const NETWORK6_PREFIX: u8 = 64;
/// The IPv6 gateway.
pub const GATEWAY6: [u8; 16] = [0xfe, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
/// The IPv6 address of a program: fec0::1:p.
pub const fn address6_of(program: ProgramId) -> [u8; 16] {
    let [high, low] = program.0.to_be_bytes();
    [0xfe, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, high, low]
}

/// The IPv4 address of a program (D12: it brings its address along).
pub const fn address_of(program: ProgramId) -> [u8; 4] {
    [10, 77, 1, program.0 as u8]
}
/// The Ethernet address of a program, locally administered; the last byte names the program.
pub const fn mac_of(program: ProgramId) -> [u8; 6] {
    [0x52, 0x53, 0x48, 0x4d, (program.0 >> 8) as u8, program.0 as u8]
}

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

/// A fault to inject (paper, Table III, and the isolation tests).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Fault {
    /// Unable to handle kernel NULL pointer.
    #[n(0)]
    NullPointer,
    /// Call of panic.
    #[n(1)]
    Panic,
    /// `while (1)` in the kernel, interrupts on.
    #[n(2)]
    InfiniteLoop,
    /// Deadlock with interrupts off.
    #[n(3)]
    IrqDeadlock,
    /// Read a peer's private memory.
    #[n(4)]
    ReadPeer,
    /// Write a peer's private memory.
    #[n(5)]
    WritePeer,
    /// Write the kernel's own text.
    #[n(6)]
    WriteText,
    /// Write the kernel's own read-only data.
    #[n(7)]
    WriteRodata,
    /// Execute data.
    #[n(8)]
    ExecuteData,
    /// Write a peer's outgoing part of the shared area.
    #[n(9)]
    WritePeerShared,
    /// Overflow the kernel's stack.
    #[n(10)]
    StackOverflow,
}

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

/// How a program is protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Protection {
    /// Time between checkpoints.
    #[n(0)]
    pub interval: Nanos,
    /// Whether output waits for the checkpoint that covers it (D11).
    #[n(1)]
    pub output: Output,
}

/// What happens to a protected program's output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Output {
    /// Held until the checkpoint that covers it commits.
    #[n(0)]
    Commit,
    /// Leaves at once: a takeover may repeat or contradict it.
    #[n(1)]
    Free,
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
}

impl Request {
    /// Requests that this version knows are numbered from 0 to here.
    pub const LAST: u32 = 12;

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
}

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
    /// Owner of each device, in the order of [`Device::ALL`].
    #[n(4)]
    pub owners: Vec<KernelId>,
    /// One entry a kernel.
    #[n(5)]
    pub kernels: Vec<KernelStatus>,
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
    /// How long the program stood still for it.
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
}

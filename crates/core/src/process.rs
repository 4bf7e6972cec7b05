//! Processes: what the threads of one thread group share.
use crate::{
    files::FilesId,
    rights::{Rights, SYS_PTRACE},
    signal::{Action, Pending, Signal},
    thread::Counters,
};
use alloc::{string::String, vec::Vec};
use minicbor::{Decode, Encode};
use shimos_abi::{control::User, ids::Pid, kept::Kept, time::Nanos};
use shimos_memory::Limits;
use shimos_vfs::{Credentials, NodeId};

/// Names an address space of a program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
#[cbor(transparent)]
pub struct SpaceId(#[n(0)] pub u32);

/// One process.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Process {
    /// Its id.
    #[n(0)]
    pub pid: Pid,
    /// Its parent; 0 for the program's init.
    #[n(1)]
    pub parent: Pid,
    /// Process group.
    #[n(2)]
    pub group: Pid,
    /// Session.
    #[n(3)]
    pub session: Pid,
    /// Address space; shared between a vfork child and its parent.
    #[n(4)]
    pub space: SpaceId,
    /// Descriptor table.
    #[n(5)]
    pub files: FilesId,
    /// Working directory.
    #[n(6)]
    pub cwd: NodeId,
    /// Root directory.
    #[n(7)]
    pub root: NodeId,
    /// File mode creation mask.
    #[n(8)]
    pub umask: u32,
    /// User, groups.
    #[n(9)]
    pub credentials: Ids,
    /// Signal dispositions, 64 of them.
    #[n(10)]
    pub actions: Kept<Vec<Action>>,
    /// Signals sent to the process as a whole.
    #[n(11)]
    pub pending: Pending,
    /// How it ended, once it has; it stays until its parent has asked.
    #[n(12)]
    pub zombie: Option<Ending>,
    /// The thread of the parent that waits in vfork(2).
    #[n(13)]
    pub vfork_waiter: Option<Pid>,
    /// Path of the executed file.
    #[n(14)]
    pub exe: String,
    /// Command name, 15 bytes at most.
    #[n(15)]
    pub comm: String,
    /// Resource limits: soft and hard, by `RLIMIT_` number.
    #[n(18)]
    pub limits: Kept<Vec<(u64, u64)>>,
    /// When it started.
    #[n(20)]
    pub started: Nanos,
    /// Processor time of children that were waited for.
    #[n(21)]
    pub children_used: Nanos,
    /// Processor time of threads that ended.
    #[n(22)]
    pub ended_used: Nanos,
    /// Signal that tells the parent of its end.
    #[n(23)]
    pub exit_signal: Option<Signal>,
    /// Why it is stopped, if it is, and whether the parent was told.
    #[n(24)]
    pub stopped: Option<Stopped>,
    /// It was continued and the parent was not told yet.
    #[n(25)]
    pub continued: Option<Untold>,
    /// Whether it has executed a file since fork (setpgid(2) asks).
    #[n(26)]
    pub executed: Option<Untold>,
    /// Where its memory holds what it was executed with.
    #[n(27)]
    #[cbor(default)]
    pub layout: Layout,
    /// What threads that ended have done.
    #[n(28)]
    #[cbor(default)]
    pub ended_counters: Counters,
    /// What children that were waited for have done.
    #[n(29)]
    #[cbor(default)]
    pub children_counters: Counters,
    /// The user who logged in (/proc/PID/loginuid).
    #[n(30)]
    pub login: Option<u32>,
    /// It has given its session's controlling terminal up, for itself alone (TIOCNOTTY).
    #[n(40)]
    pub detached: Option<Untold>,
    /// Processes of the same group share their directories and their mask.
    #[n(50)]
    pub place_group: Option<u32>,
    /// Processes of the same group share what they do at signals.
    #[n(51)]
    pub action_group: Option<u32>,
    /// Barriers that it has registered for (membarrier(2)).
    #[n(52)]
    pub barriers: Option<u32>,
    /// What it may do beyond its users and groups.
    #[n(60)]
    #[cbor(default)]
    pub rights: Rights,
    /// How much it leaves to others.
    #[n(61)]
    #[cbor(default)]
    pub nice: Nice,
    /// How much sooner or later it is killed when memory runs out (/proc/PID/oom_score_adj).
    #[n(53)]
    pub oom_adjustment: Option<i32>,
    /// What it wants to be like (personality(2)).
    #[n(62)]
    #[cbor(default)]
    pub personality: u32,
    /// The most pages that it had in memory, in address spaces that are gone.
    #[n(63)]
    #[cbor(default)]
    pub peak: u64,
    /// The most that a descendant had that was waited for.
    #[n(64)]
    #[cbor(default)]
    pub children_peak: u64,
    /// The thread of the parent that made it; once that is gone, its parent's first thread stands for it.
    #[n(65)]
    pub maker: Option<Pid>,
}

/// Where execve(2) has put what a program is executed with. Programs overwrite it to say what they do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Layout {
    /// Its arguments, each with a zero behind it: first address, and the one behind the last.
    #[n(0)]
    pub arguments: (u64, u64),
    /// Its environment, likewise.
    #[n(1)]
    pub environment: (u64, u64),
    /// Its auxiliary vector.
    #[n(2)]
    pub auxiliary: (u64, u64),
    /// Its first stack pointer.
    #[n(3)]
    pub stack: u64,
}

/// Users and groups of a process: real, effective and saved.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
#[allow(missing_docs, reason = "the names are those of credentials(7)")]
pub struct Ids {
    #[n(0)]
    pub uid: u32,
    #[n(1)]
    pub euid: u32,
    #[n(2)]
    pub suid: u32,
    #[n(3)]
    pub gid: u32,
    #[n(4)]
    pub egid: u32,
    #[n(5)]
    pub sgid: u32,
    #[n(6)]
    pub groups: Vec<u32>,
    /// The user for access to files, if it is not the effective one (setfsuid(2)).
    #[n(7)]
    pub file_uid: Option<u32>,
    /// The group, likewise.
    #[n(8)]
    pub file_gid: Option<u32>,
}

impl Ids {
    /// All the rights of a user and no others.
    pub fn of(user: &User) -> Ids {
        let User { uid, gid, groups } = user.clone();
        Ids { uid, euid: uid, suid: uid, gid, egid: gid, sgid: gid, groups, file_uid: None, file_gid: None }
    }
    /// What decides about access to files.
    pub fn access(&self) -> Credentials {
        Credentials {
            uid: self.file_uid.unwrap_or(self.euid),
            gid: self.file_gid.unwrap_or(self.egid),
            groups: self.groups.clone(),
        }
    }
    /// The same for access(2), which asks by the real ids.
    pub fn real_access(&self) -> Credentials {
        Credentials { uid: self.uid, gid: self.gid, groups: self.groups.clone() }
    }
}

/// A marker that something happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Untold;

/// A nice value, -20 to 19.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Nice(#[n(0)] i8);

impl Nice {
    /// The nice value nearest to what is wanted.
    pub fn nearest(wanted: i32) -> Nice {
        Nice(wanted.clamp(-20, 19) as i8)
    }
    /// The value.
    pub fn value(self) -> i8 {
        self.0.clamp(-20, 19)
    }
    /// The same, but not below 0.
    pub fn without_gain(self) -> Nice {
        Nice(self.value().max(0))
    }
    /// 20 minus the value, as the system call returns it: 1 to 40.
    pub fn rank(self) -> u64 {
        (20 - i64::from(self.value())) as u64
    }
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Ending {
    /// exit(2) with this status.
    #[n(0)]
    Exited(#[n(0)] u8),
    /// By a signal.
    #[n(1)]
    Killed(#[n(0)] Signal),
}

impl Ending {
    /// The status word of wait(2).
    pub fn status(self) -> u32 {
        match self {
            Ending::Exited(code) => u32::from(code) << 8,
            Ending::Killed(signal) => u32::from(signal.number()),
        }
    }
}

/// A stop by job control.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Stopped {
    /// Which signal stopped it.
    #[n(0)]
    pub signal: Signal,
    /// Whether the parent still has to be told.
    #[n(1)]
    pub untold: Option<Untold>,
}

/// Number of resource limits (`RLIM_NLIMITS`).
pub const LIMITS: usize = 16;
/// `RLIM_INFINITY`.
pub const UNLIMITED: u64 = u64::MAX;

/// Numbers of resource limits (getrlimit(2)).
pub mod limit {
    /// RLIMIT_CPU: seconds of the processor.
    pub const CPU: usize = 0;
    /// RLIMIT_FSIZE: bytes of a file.
    pub const FSIZE: usize = 1;
    /// RLIMIT_DATA: bytes of private memory.
    pub const DATA: usize = 2;
    /// RLIMIT_STACK: bytes of the stack.
    pub const STACK: usize = 3;
    /// RLIMIT_NPROC: threads of the user.
    pub const NPROC: usize = 6;
    /// RLIMIT_NOFILE: descriptors.
    pub const NOFILE: usize = 7;
    /// RLIMIT_MEMLOCK: bytes of locked memory.
    pub const MEMLOCK: usize = 8;
    /// RLIMIT_AS: bytes of mappings.
    pub const AS: usize = 9;
}

impl Process {
    /// A soft limit.
    pub fn limit(&self, which: usize) -> u64 {
        self.limits.get(which).map_or(UNLIMITED, |limit| limit.0)
    }
    /// The limits of its memory.
    pub fn memory_limits(&self) -> Limits {
        Limits { total: self.limit(limit::AS), data: self.limit(limit::DATA), stack: self.limit(limit::STACK) }
    }
}

/// Which of its users counts when a process looks into another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// The real one: for calls that name a process.
    Real,
    /// That of access to files: for files of /proc.
    Files,
}

impl Process {
    /// Whether it may look into another process (ptrace(2), "Ptrace access mode checking").
    pub fn may_look_into(&self, other: &Process, by: By) -> bool {
        if self.pid == other.pid || self.rights.has(SYS_PTRACE) {
            return true;
        }
        let (own, theirs) = (&self.credentials, &other.credentials);
        let (uid, gid, rights) = match by {
            By::Real => (own.uid, own.gid, self.rights.permitted),
            By::Files => {
                let access = own.access();
                (access.uid, access.gid, self.rights.effective)
            }
        };
        [theirs.uid, theirs.euid, theirs.suid].iter().all(|id| *id == uid)
            && [theirs.gid, theirs.egid, theirs.sgid].iter().all(|id| *id == gid)
            && other.rights.dumpable
            && other.rights.permitted & !rights == 0
    }
}

/// The limits a program starts with, by `RLIMIT_` number: those of a Debian login, descriptors 1024 soft.
pub fn initial_limits() -> Vec<(u64, u64)> {
    let mut limits = alloc::vec![(UNLIMITED, UNLIMITED); LIMITS];
    limits[3] = (8 << 20, UNLIMITED); // RLIMIT_STACK
    limits[4] = (0, UNLIMITED); // RLIMIT_CORE
    limits[6] = (8192, 8192); // RLIMIT_NPROC
    limits[7] = (1024, 65536); // RLIMIT_NOFILE
    limits[8] = (8 << 20, 8 << 20); // RLIMIT_MEMLOCK
    limits[11] = (1024, 1024); // RLIMIT_SIGPENDING
    limits[12] = (819_200, 819_200); // RLIMIT_MSGQUEUE
    limits[13] = (0, 0); // RLIMIT_NICE
    limits[14] = (0, 0); // RLIMIT_RTPRIO
    limits
}

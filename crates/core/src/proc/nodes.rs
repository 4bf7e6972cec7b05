//! The files of /proc and /sys: one table, and how a node id names one of them.
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_vfs::Kind;

/// What the table says of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Kind of file.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u16,
    /// The directory it is in; a root is in itself.
    pub above: File,
    /// Its name. Empty for roots, for what is named by a number, and for what has no name.
    pub name: &'static str,
}

macro_rules! files {
    ($($file:ident: $kind:ident $mode:literal $above:ident $name:literal,)*) => {
        /// A file, or a class of files that differ in a number.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub(super) enum File {
            $($file,)*
        }

        impl File {
            /// All, in the order of their numbers.
            pub const ALL: &[File] = &[$(File::$file),*];

            /// What the table says.
            pub const fn entry(self) -> Entry {
                match self {
                    $(File::$file => {
                        Entry { kind: Kind::$kind, mode: $mode, above: File::$above, name: $name }
                    })*
                }
            }
        }
    };
}

files! {
    ProcRoot: Directory 0o555 ProcRoot "",
    Caller: Symlink 0o777 ProcRoot "self",
    CallerThread: Symlink 0o777 ProcRoot "thread-self",
    Stat: Regular 0o444 ProcRoot "stat",
    MemInfo: Regular 0o444 ProcRoot "meminfo",
    CpuInfo: Regular 0o444 ProcRoot "cpuinfo",
    Uptime: Regular 0o444 ProcRoot "uptime",
    LoadAvg: Regular 0o444 ProcRoot "loadavg",
    MountsLink: Symlink 0o777 ProcRoot "mounts",
    Filesystems: Regular 0o444 ProcRoot "filesystems",
    Version: Regular 0o444 ProcRoot "version",
    BootLine: Regular 0o444 ProcRoot "cmdline",

    SystemIpc: Directory 0o555 ProcRoot "sysvipc",
    SharedMemory: Regular 0o444 SystemIpc "shm",
    Semaphores: Regular 0o444 SystemIpc "sem",
    Messages: Regular 0o444 SystemIpc "msg",

    Net: Directory 0o555 ProcRoot "net",
    NetDev: Regular 0o444 Net "dev",
    NetTcp: Regular 0o444 Net "tcp",
    NetTcp6: Regular 0o444 Net "tcp6",
    NetUdp: Regular 0o444 Net "udp",
    NetUdp6: Regular 0o444 Net "udp6",
    NetRaw: Regular 0o444 Net "raw",
    NetUnix: Regular 0o444 Net "unix",
    NetIfInet6: Regular 0o444 Net "if_inet6",
    NetRoute: Regular 0o444 Net "route",

    Settings: Directory 0o555 ProcRoot "sys",
    KernelSettings: Directory 0o555 Settings "kernel",
    GroupsMax: Regular 0o444 KernelSettings "ngroups_max",
    PidMax: Regular 0o444 KernelSettings "pid_max",
    OsRelease: Regular 0o444 KernelSettings "osrelease",
    OsType: Regular 0o444 KernelSettings "ostype",
    OsVersion: Regular 0o444 KernelSettings "version",
    HostName: Regular 0o444 KernelSettings "hostname",
    SharedMax: Regular 0o644 KernelSettings "shmmax",
    SharedAll: Regular 0o644 KernelSettings "shmall",
    SharedCount: Regular 0o644 KernelSettings "shmmni",
    SharedForced: Regular 0o644 KernelSettings "shm_rmid_forced",
    SemaphoreLimits: Regular 0o644 KernelSettings "sem",
    MessageMax: Regular 0o644 KernelSettings "msgmax",
    MessageBytes: Regular 0o644 KernelSettings "msgmnb",
    MessageQueues: Regular 0o644 KernelSettings "msgmni",
    FileSystemSettings: Directory 0o555 Settings "fs",
    QueueSettings: Directory 0o555 FileSystemSettings "mqueue",
    QueueMessages: Regular 0o644 QueueSettings "msg_max",
    QueueMessagesDefault: Regular 0o644 QueueSettings "msg_default",
    QueueSize: Regular 0o644 QueueSettings "msgsize_max",
    QueueSizeDefault: Regular 0o644 QueueSettings "msgsize_default",
    QueueCount: Regular 0o644 QueueSettings "queues_max",
    NetSettings: Directory 0o555 Settings "net",
    NetCoreSettings: Directory 0o555 NetSettings "core",
    BacklogMax: Regular 0o444 NetCoreSettings "somaxconn",
    MemorySettings: Directory 0o555 Settings "vm",
    Overcommit: Regular 0o444 MemorySettings "overcommit_memory",

    Process: Directory 0o555 ProcRoot "",
    ProcessStat: Regular 0o444 Process "stat",
    ProcessStatus: Regular 0o444 Process "status",
    CommandLine: Regular 0o444 Process "cmdline",
    Comm: Regular 0o444 Process "comm",
    Exe: Symlink 0o777 Process "exe",
    Cwd: Symlink 0o777 Process "cwd",
    RootLink: Symlink 0o777 Process "root",
    Maps: Regular 0o444 Process "maps",
    Smaps: Regular 0o444 Process "smaps",
    SmapsRollup: Regular 0o444 Process "smaps_rollup",
    StatM: Regular 0o444 Process "statm",
    Environ: Regular 0o400 Process "environ",
    Limits: Regular 0o444 Process "limits",
    Mounts: Regular 0o444 Process "mounts",
    MountInfo: Regular 0o444 Process "mountinfo",
    OomScoreAdj: Regular 0o644 Process "oom_score_adj",
    FdDir: Directory 0o500 Process "fd",
    Fd: Symlink 0o700 FdDir "",
    FdInfoDir: Directory 0o500 Process "fdinfo",
    FdInfo: Regular 0o400 FdInfoDir "",
    TaskDir: Directory 0o555 Process "task",
    Task: Directory 0o555 TaskDir "",
    TaskStat: Regular 0o444 Task "stat",
    TaskStatus: Regular 0o444 Task "status",
    TaskComm: Regular 0o444 Task "comm",

    OpenPipe: Fifo 0o600 ProcRoot "",
    OpenSocket: Socket 0o777 ProcRoot "",
    OpenUnix: Socket 0o777 ProcRoot "",

    SysRoot: Directory 0o555 SysRoot "",
    Devices: Directory 0o555 SysRoot "devices",
    DevicesSystem: Directory 0o555 Devices "system",
    Cpus: Directory 0o555 DevicesSystem "cpu",
    CpusOnline: Regular 0o444 Cpus "online",
    CpusPossible: Regular 0o444 Cpus "possible",
    CpusPresent: Regular 0o444 Cpus "present",
    Cpu0: Directory 0o555 Cpus "cpu0",
    ClockSources: Directory 0o555 DevicesSystem "clocksource",
    ClockSource0: Directory 0o555 ClockSources "clocksource0",
    ClockSource: Regular 0o444 ClockSource0 "current_clocksource",
    ClockSourcesAvailable: Regular 0o444 ClockSource0 "available_clocksource",
    SysKernel: Directory 0o555 SysRoot "kernel",
    SysMemory: Directory 0o555 SysKernel "mm",
    HugePages: Directory 0o555 SysMemory "transparent_hugepage",
    HugePagesEnabled: Regular 0o444 HugePages "enabled",
}

/// The longest way from a file to its root.
pub(super) const DEPTH: usize = 8;

impl File {
    /// Whether it is `dir` or somewhere under it.
    pub fn within(self, dir: File) -> bool {
        let mut at = self;
        for _ in 0..DEPTH {
            if at == dir {
                return true;
            }
            at = at.entry().above;
        }
        false
    }

    /// Whether it is the root of a tree.
    pub fn is_root(self) -> bool {
        self.entry().above == self
    }
}

/// Bits of a node id: the file's number, then the process id, then the other number.
const PID_SHIFT: u32 = 8;
const PID_MASK: u64 = (1 << 22) - 1;
const NUMBER_SHIFT: u32 = 30;
const END: u64 = 1 << 62;

/// One file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Node {
    /// Which.
    pub file: File,
    /// The process it tells of; 0 for what tells of none.
    pub pid: Pid,
    /// Thread id, descriptor, or the number of a pipe or socket; 0 for others.
    pub number: u32,
}

impl Node {
    /// A file that tells of no process.
    pub const fn of(file: File) -> Node {
        Node { file, pid: Pid(0), number: 0 }
    }

    /// Its id.
    pub const fn id(self) -> u64 {
        self.file as u64 | (self.pid.0 as u64 & PID_MASK) << PID_SHIFT | (self.number as u64) << NUMBER_SHIFT
    }

    /// The file that an id names, whether or not there is such a process; ENOENT if it cannot be one of this tree.
    pub fn from_id(mount: u8, id: u64) -> Result<Node, Errno> {
        let file = File::ALL.get((id & 0xff) as usize).copied().ok_or(Errno::ENOENT)?;
        let tree = if file.within(File::SysRoot) { super::SYS_MOUNT } else { super::PROC_MOUNT };
        if id >= END || mount != tree.number {
            return Err(Errno::ENOENT);
        }
        let pid = Pid((id >> PID_SHIFT & PID_MASK) as u32);
        Ok(Node { file, pid, number: (id >> NUMBER_SHIFT) as u32 })
    }

    /// Its inode number. Those of files elsewhere are much smaller.
    pub const fn ino(self) -> u64 {
        match self.file {
            // The same as fstat(2) tells of a descriptor.
            File::OpenPipe | File::OpenSocket | File::OpenUnix => self.number as u64,
            _ => self.id() | END,
        }
    }

    /// The directory that holds it.
    pub fn above(self) -> Node {
        let file = self.file.entry().above;
        Node {
            file,
            pid: if file.within(File::Process) { self.pid } else { Pid(0) },
            number: if file.within(File::Task) { self.number } else { 0 },
        }
    }

    /// The number that is its name, where it is named by one.
    pub fn name_number(self) -> Option<u32> {
        match self.file {
            File::Process => Some(self.pid.0),
            File::Fd | File::FdInfo | File::Task => Some(self.number),
            _ => None,
        }
    }

    /// The file in this directory that is named by a number.
    pub fn numbered(self, number: u32) -> Option<Node> {
        Some(match self.file {
            File::ProcRoot => Node { file: File::Process, pid: Pid(number), number: 0 },
            File::FdDir => Node { file: File::Fd, number, ..self },
            File::FdInfoDir => Node { file: File::FdInfo, number, ..self },
            File::TaskDir => Node { file: File::Task, number, ..self },
            _ => return None,
        })
    }
}

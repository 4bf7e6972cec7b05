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
        #[repr(u16)]
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
    VmStat: Regular 0o444 ProcRoot "vmstat",
    DiskStats: Regular 0o444 ProcRoot "diskstats",
    LockList: Regular 0o444 ProcRoot "locks",
    Partitions: Regular 0o444 ProcRoot "partitions",
    Swaps: Regular 0o444 ProcRoot "swaps",
    Interrupts: Regular 0o444 ProcRoot "interrupts",
    Modules: Regular 0o444 ProcRoot "modules",
    DeviceNumbers: Regular 0o444 ProcRoot "devices",
    Symbols: Regular 0o444 ProcRoot "kallsyms",
    Terminals: Directory 0o555 ProcRoot "tty",
    TerminalDrivers: Regular 0o444 Terminals "drivers",

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
    NetRaw6: Regular 0o444 Net "raw6",
    NetLink: Regular 0o444 Net "netlink",
    NetArp: Regular 0o444 Net "arp",
    NetSnmp: Regular 0o444 Net "snmp",
    NetStat: Regular 0o444 Net "netstat",
    NetSockStat: Regular 0o444 Net "sockstat",
    NetRoute6: Regular 0o444 Net "ipv6_route",
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
    LastCapability: Regular 0o444 KernelSettings "cap_last_cap",
    DomainName: Regular 0o444 KernelSettings "domainname",
    OverflowUser: Regular 0o444 KernelSettings "overflowuid",
    OverflowGroup: Regular 0o444 KernelSettings "overflowgid",
    CorePattern: Regular 0o444 KernelSettings "core_pattern",
    Randomize: Regular 0o444 KernelSettings "randomize_va_space",
    Tainted: Regular 0o444 KernelSettings "tainted",
    ThreadsMax: Regular 0o444 KernelSettings "threads-max",
    RandomSettings: Directory 0o555 KernelSettings "random",
    BootId: Regular 0o444 RandomSettings "boot_id",
    FreshId: Regular 0o444 RandomSettings "uuid",
    Entropy: Regular 0o444 RandomSettings "entropy_avail",
    EntropyPool: Regular 0o444 RandomSettings "poolsize",
    FilesMax: Regular 0o444 FsSettings "file-max",
    FilesNow: Regular 0o444 FsSettings "file-nr",
    OpenMax: Regular 0o444 FsSettings "nr_open",
    PipeSizeMax: Regular 0o444 FsSettings "pipe-max-size",
    HostName: Regular 0o444 KernelSettings "hostname",
    SharedMax: Regular 0o644 KernelSettings "shmmax",
    SharedAll: Regular 0o644 KernelSettings "shmall",
    SharedCount: Regular 0o644 KernelSettings "shmmni",
    SharedForced: Regular 0o644 KernelSettings "shm_rmid_forced",
    SemaphoreLimits: Regular 0o644 KernelSettings "sem",
    MessageMax: Regular 0o644 KernelSettings "msgmax",
    MessageBytes: Regular 0o644 KernelSettings "msgmnb",
    MessageQueues: Regular 0o644 KernelSettings "msgmni",
    FsSettings: Directory 0o555 Settings "fs",
    InotifySettings: Directory 0o555 FsSettings "inotify",
    InotifyEvents: Regular 0o444 InotifySettings "max_queued_events",
    InotifyInstances: Regular 0o444 InotifySettings "max_user_instances",
    InotifyWatches: Regular 0o444 InotifySettings "max_user_watches",
    EpollSettings: Directory 0o555 FsSettings "epoll",
    EpollWatches: Regular 0o444 EpollSettings "max_user_watches",
    QueueSettings: Directory 0o555 FsSettings "mqueue",
    QueueMessages: Regular 0o644 QueueSettings "msg_max",
    QueueMessagesDefault: Regular 0o644 QueueSettings "msg_default",
    QueueSize: Regular 0o644 QueueSettings "msgsize_max",
    QueueSizeDefault: Regular 0o644 QueueSettings "msgsize_default",
    QueueCount: Regular 0o644 QueueSettings "queues_max",
    NetSettings: Directory 0o555 Settings "net",
    NetCoreSettings: Directory 0o555 NetSettings "core",
    BacklogMax: Regular 0o444 NetCoreSettings "somaxconn",
    ReceiveMax: Regular 0o444 NetCoreSettings "rmem_max",
    SendMax: Regular 0o444 NetCoreSettings "wmem_max",
    ReceiveDefault: Regular 0o444 NetCoreSettings "rmem_default",
    SendDefault: Regular 0o444 NetCoreSettings "wmem_default",
    ControlMax: Regular 0o444 NetCoreSettings "optmem_max",
    Net4Settings: Directory 0o555 NetSettings "ipv4",
    PortRange: Regular 0o444 Net4Settings "ip_local_port_range",
    FirstFreePort: Regular 0o444 Net4Settings "ip_unprivileged_port_start",
    Forwarding: Regular 0o444 Net4Settings "ip_forward",
    HopLimit: Regular 0o444 Net4Settings "ip_default_ttl",
    EchoGroups: Regular 0o444 Net4Settings "ping_group_range",
    Congestion: Regular 0o444 Net4Settings "tcp_congestion_control",
    Congestions: Regular 0o444 Net4Settings "tcp_available_congestion_control",
    SynCookies: Regular 0o444 Net4Settings "tcp_syncookies",
    FastOpen: Regular 0o444 Net4Settings "tcp_fastopen",
    FinTimeout: Regular 0o444 Net4Settings "tcp_fin_timeout",
    KeepAliveTime: Regular 0o444 Net4Settings "tcp_keepalive_time",
    KeepAliveInterval: Regular 0o444 Net4Settings "tcp_keepalive_intvl",
    KeepAliveProbes: Regular 0o444 Net4Settings "tcp_keepalive_probes",
    SynRetries: Regular 0o444 Net4Settings "tcp_syn_retries",
    TcpReceive: Regular 0o444 Net4Settings "tcp_rmem",
    TcpSend: Regular 0o444 Net4Settings "tcp_wmem",
    Stamps: Regular 0o444 Net4Settings "tcp_timestamps",
    Sack: Regular 0o444 Net4Settings "tcp_sack",
    Scaling: Regular 0o444 Net4Settings "tcp_window_scaling",
    Net6Settings: Directory 0o555 NetSettings "ipv6",
    OnlySix: Regular 0o444 Net6Settings "bindv6only",
    UnixSettings: Directory 0o555 NetSettings "unix",
    UnixDatagrams: Regular 0o444 UnixSettings "max_dgram_qlen",
    MemorySettings: Directory 0o555 Settings "vm",
    Overcommit: Regular 0o444 MemorySettings "overcommit_memory",
    OvercommitRatio: Regular 0o444 MemorySettings "overcommit_ratio",
    MapsMax: Regular 0o444 MemorySettings "max_map_count",
    LowestAddress: Regular 0o444 MemorySettings "mmap_min_addr",
    Swappiness: Regular 0o444 MemorySettings "swappiness",
    HugePagesMax: Regular 0o444 MemorySettings "nr_hugepages",

    Process: Directory 0o555 ProcRoot "",
    ProcessStat: Regular 0o444 Process "stat",
    ProcessStatus: Regular 0o444 Process "status",
    CommandLine: Regular 0o444 Process "cmdline",
    Comm: Regular 0o644 Process "comm",
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
    MountStats: Regular 0o400 Process "mountstats",
    Io: Regular 0o400 Process "io",
    WaitChannel: Regular 0o444 Process "wchan",
    ControlGroup: Regular 0o444 Process "cgroup",
    LoginUser: Regular 0o644 Process "loginuid",
    LoginSession: Regular 0o444 Process "sessionid",
    Scheduling: Regular 0o444 Process "sched",
    SchedulingCounts: Regular 0o444 Process "schedstat",
    Auxiliary: Regular 0o400 Process "auxv",
    Memory: Regular 0o600 Process "mem",
    Personality: Regular 0o400 Process "personality",
    PageMap: Regular 0o400 Process "pagemap",
    UserMap: Regular 0o444 Process "uid_map",
    GroupMap: Regular 0o444 Process "gid_map",
    SetGroups: Regular 0o444 Process "setgroups",
    Namespaces: Directory 0o511 Process "ns",
    CgroupSpace: Symlink 0o777 Namespaces "cgroup",
    IpcSpace: Symlink 0o777 Namespaces "ipc",
    MountSpace: Symlink 0o777 Namespaces "mnt",
    NetSpace: Symlink 0o777 Namespaces "net",
    PidSpace: Symlink 0o777 Namespaces "pid",
    ChildPidSpace: Symlink 0o777 Namespaces "pid_for_children",
    TimeSpace: Symlink 0o777 Namespaces "time",
    ChildTimeSpace: Symlink 0o777 Namespaces "time_for_children",
    UserSpace: Symlink 0o777 Namespaces "user",
    HostSpace: Symlink 0o777 Namespaces "uts",
    OomScoreAdj: Regular 0o644 Process "oom_score_adj",
    OomScore: Regular 0o444 Process "oom_score",
    FdDir: Directory 0o500 Process "fd",
    Fd: Symlink 0o700 FdDir "",
    FdInfoDir: Directory 0o500 Process "fdinfo",
    FdInfo: Regular 0o400 FdInfoDir "",
    TaskDir: Directory 0o555 Process "task",
    Task: Directory 0o555 TaskDir "",
    TaskFdDir: Directory 0o500 Task "fd",
    TaskFdInfoDir: Directory 0o500 Task "fdinfo",
    TaskStat: Regular 0o444 Task "stat",
    TaskStatus: Regular 0o444 Task "status",
    TaskComm: Regular 0o644 Task "comm",
    TaskCommandLine: Regular 0o444 Task "cmdline",
    TaskEnviron: Regular 0o400 Task "environ",
    TaskExe: Symlink 0o777 Task "exe",
    TaskCwd: Symlink 0o777 Task "cwd",
    TaskRoot: Symlink 0o777 Task "root",
    TaskMaps: Regular 0o444 Task "maps",
    TaskSmaps: Regular 0o444 Task "smaps",
    TaskStatM: Regular 0o444 Task "statm",
    TaskLimits: Regular 0o444 Task "limits",
    TaskMounts: Regular 0o444 Task "mounts",
    TaskMountInfo: Regular 0o444 Task "mountinfo",
    TaskIo: Regular 0o400 Task "io",
    TaskWaitChannel: Regular 0o444 Task "wchan",
    TaskControlGroup: Regular 0o444 Task "cgroup",
    TaskLoginUser: Regular 0o644 Task "loginuid",
    TaskScheduling: Regular 0o444 Task "sched",
    TaskSchedulingCounts: Regular 0o444 Task "schedstat",
    TaskAuxiliary: Regular 0o400 Task "auxv",
    TaskPersonality: Regular 0o400 Task "personality",
    TaskChildren: Regular 0o444 Task "children",

    OpenPipe: Fifo 0o600 ProcRoot "",
    OpenSocket: Socket 0o777 ProcRoot "",
    OpenUnix: Socket 0o777 ProcRoot "",
    OpenSpace: Regular 0o444 ProcRoot "",

    SysRoot: Directory 0o555 SysRoot "",
    Devices: Directory 0o555 SysRoot "devices",
    DevicesSystem: Directory 0o555 Devices "system",
    Cpus: Directory 0o555 DevicesSystem "cpu",
    CpusOnline: Regular 0o444 Cpus "online",
    CpusPossible: Regular 0o444 Cpus "possible",
    CpusPresent: Regular 0o444 Cpus "present",
    CpusOffline: Regular 0o444 Cpus "offline",
    CpusIsolated: Regular 0o444 Cpus "isolated",
    CpuLast: Regular 0o444 Cpus "kernel_max",
    Cpu0: Directory 0o555 Cpus "cpu0",
    Topology: Directory 0o555 Cpu0 "topology",
    CoreId: Regular 0o444 Topology "core_id",
    DieId: Regular 0o444 Topology "die_id",
    PackageId: Regular 0o444 Topology "physical_package_id",
    CoreCpus: Regular 0o444 Topology "core_cpus",
    CoreCpusList: Regular 0o444 Topology "core_cpus_list",
    CoreSiblings: Regular 0o444 Topology "core_siblings",
    CoreSiblingsList: Regular 0o444 Topology "core_siblings_list",
    DieCpus: Regular 0o444 Topology "die_cpus",
    DieCpusList: Regular 0o444 Topology "die_cpus_list",
    PackageCpus: Regular 0o444 Topology "package_cpus",
    PackageCpusList: Regular 0o444 Topology "package_cpus_list",
    ThreadSiblings: Regular 0o444 Topology "thread_siblings",
    ThreadSiblingsList: Regular 0o444 Topology "thread_siblings_list",
    MemoryNodes: Directory 0o555 DevicesSystem "node",
    NodesOnline: Regular 0o444 MemoryNodes "online",
    NodesPossible: Regular 0o444 MemoryNodes "possible",
    NodesWithCpu: Regular 0o444 MemoryNodes "has_cpu",
    NodesWithMemory: Regular 0o444 MemoryNodes "has_memory",
    NodesWithNormal: Regular 0o444 MemoryNodes "has_normal_memory",
    MemoryNode0: Directory 0o555 MemoryNodes "node0",
    NodeCpuMap: Regular 0o444 MemoryNode0 "cpumap",
    NodeCpuList: Regular 0o444 MemoryNode0 "cpulist",
    NodeDistance: Regular 0o444 MemoryNode0 "distance",
    NodeMemory: Regular 0o444 MemoryNode0 "meminfo",
    ClockSources: Directory 0o555 DevicesSystem "clocksource",
    ClockSource0: Directory 0o555 ClockSources "clocksource0",
    ClockSource: Regular 0o444 ClockSource0 "current_clocksource",
    ClockSourcesAvailable: Regular 0o444 ClockSource0 "available_clocksource",
    SysKernel: Directory 0o555 SysRoot "kernel",
    SysMemory: Directory 0o555 SysKernel "mm",
    HugePages: Directory 0o555 SysMemory "transparent_hugepage",
    HugePagesEnabled: Regular 0o444 HugePages "enabled",
    HugePagesDefrag: Regular 0o444 HugePages "defrag",
    HugePageSize: Regular 0o444 HugePages "hpage_pmd_size",
    Classes: Directory 0o555 SysRoot "class",
    BlockClass: Directory 0o555 Classes "block",
    NetClass: Directory 0o555 Classes "net",
    NetDevice: Directory 0o555 NetClass "",
    DeviceAddress: Regular 0o444 NetDevice "address",
    DeviceAddressLength: Regular 0o444 NetDevice "addr_len",
    DeviceBroadcast: Regular 0o444 NetDevice "broadcast",
    DeviceCarrier: Regular 0o444 NetDevice "carrier",
    DeviceFlags: Regular 0o444 NetDevice "flags",
    DeviceIndex: Regular 0o444 NetDevice "ifindex",
    DeviceLink: Regular 0o444 NetDevice "iflink",
    DeviceMtu: Regular 0o444 NetDevice "mtu",
    DeviceState: Regular 0o444 NetDevice "operstate",
    DeviceQueue: Regular 0o444 NetDevice "tx_queue_len",
    DeviceType: Regular 0o444 NetDevice "type",
    DeviceEvent: Regular 0o444 NetDevice "uevent",
    Blocks: Directory 0o555 SysRoot "block",
    DevicesByNumber: Directory 0o555 SysRoot "dev",
    BlocksByNumber: Directory 0o555 DevicesByNumber "block",
    CharsByNumber: Directory 0o555 DevicesByNumber "char",
    SysFiles: Directory 0o555 SysRoot "fs",
    SysModules: Directory 0o555 SysRoot "module",
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

    /// The file of the process that a thread's file of the same name is like; others are themselves.
    pub const fn of_process(self) -> File {
        match self {
            File::TaskStat => File::ProcessStat,
            File::TaskStatus => File::ProcessStatus,
            File::TaskComm => File::Comm,
            File::TaskCommandLine => File::CommandLine,
            File::TaskEnviron => File::Environ,
            File::TaskExe => File::Exe,
            File::TaskCwd => File::Cwd,
            File::TaskRoot => File::RootLink,
            File::TaskMaps => File::Maps,
            File::TaskSmaps => File::Smaps,
            File::TaskStatM => File::StatM,
            File::TaskLimits => File::Limits,
            File::TaskMounts => File::Mounts,
            File::TaskMountInfo => File::MountInfo,
            File::TaskIo => File::Io,
            File::TaskWaitChannel => File::WaitChannel,
            File::TaskControlGroup => File::ControlGroup,
            File::TaskLoginUser => File::LoginUser,
            File::TaskScheduling => File::Scheduling,
            File::TaskSchedulingCounts => File::SchedulingCounts,
            File::TaskAuxiliary => File::Auxiliary,
            File::TaskPersonality => File::Personality,
            file => file,
        }
    }

    /// The name space that a link under `ns` stands for: its kind, and its number among those there are.
    pub const fn space(self) -> Option<(&'static str, u32)> {
        Some(match self {
            File::TimeSpace | File::ChildTimeSpace => ("time", 0),
            File::CgroupSpace => ("cgroup", 1),
            File::PidSpace | File::ChildPidSpace => ("pid", 2),
            File::UserSpace => ("user", 3),
            File::HostSpace => ("uts", 4),
            File::IpcSpace => ("ipc", 5),
            File::NetSpace => ("net", 6),
            File::MountSpace => ("mnt", 7),
            _ => return None,
        })
    }

    /// Whether it is the root of a tree.
    pub fn is_root(self) -> bool {
        self.entry().above == self
    }
}

/// Bits of a node id: the file's number, then the process id, then the other number.
const FILE_MASK: u64 = (1 << PID_SHIFT) - 1;
const PID_SHIFT: u32 = 9;
const PID_MASK: u64 = (1 << 22) - 1;
const NUMBER_SHIFT: u32 = 31;
const END: u64 = 1 << 63;
/// The names of network devices, in the order of their numbers, which begin with 1.
const NET_DEVICES: [&str; 2] = ["lo", "eth0"];
/// Inode numbers of name spaces begin here, as on Linux.
const FIRST_SPACE: u64 = 4_026_531_834;

/// One file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Node {
    /// Which.
    pub file: File,
    /// The process it tells of; 0 for what tells of none.
    pub pid: Pid,
    /// Thread id, descriptor, or the number of a pipe, socket or network device; 0 for others.
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
        let file = File::ALL.get((id & FILE_MASK) as usize).copied().ok_or(Errno::ENOENT)?;
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
            File::OpenSpace => FIRST_SPACE + self.number as u64,
            _ => self.id() | END,
        }
    }

    /// The directory that holds it.
    pub fn above(self) -> Node {
        let file = self.file.entry().above;
        Node {
            file,
            pid: if file.within(File::Process) { self.pid } else { Pid(0) },
            number: if file.within(File::Task) || file.within(File::NetDevice) { self.number } else { 0 },
        }
    }

    /// Its name among network devices, if it is one.
    pub fn device_name(self) -> Option<&'static str> {
        let place = (self.number as usize).checked_sub(1).filter(|_| self.file == File::NetDevice)?;
        NET_DEVICES.get(place).copied()
    }

    /// The file in this directory that is a network device of this name.
    pub fn device(self, name: &[u8]) -> Option<Node> {
        let place = NET_DEVICES.iter().position(|known| self.file == File::NetClass && known.as_bytes() == name)?;
        Some(Node { file: File::NetDevice, number: place as u32 + 1, ..self })
    }

    /// The number that is its name, or stands for it.
    pub fn name_number(self) -> Option<u32> {
        match self.file {
            File::Process => Some(self.pid.0),
            File::Fd | File::FdInfo | File::Task | File::NetDevice => Some(self.number),
            _ => None,
        }
    }

    /// The file in this directory that is named by a number.
    pub fn numbered(self, number: u32) -> Option<Node> {
        Some(match self.file {
            File::ProcRoot => Node { file: File::Process, pid: Pid(number), number: 0 },
            File::FdDir | File::TaskFdDir => Node { file: File::Fd, number, ..self },
            File::FdInfoDir | File::TaskFdInfoDir => Node { file: File::FdInfo, number, ..self },
            File::TaskDir => Node { file: File::Task, number, ..self },
            File::NetClass if (1..=NET_DEVICES.len() as u32).contains(&number) => {
                Node { file: File::NetDevice, number, ..self }
            }
            _ => return None,
        })
    }
}

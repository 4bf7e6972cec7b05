//! System calls: the dispatch table, and one file a family.
//!
//! The table below is the single source of what is implemented and of what a call lacks; `docs/abi-calls.md` is
//! generated from it. A line with `partial "..."` names the flags and operations of Linux 6.1 that are not there, and
//! what a program that asks for them gets. Every other call of Linux is absent: `ENOSYS`.
use crate::context::{Context, Result};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;

mod across;
mod administration;
mod ancillary;
mod asynchronous;
mod attributes;
mod bulk;
mod clock;
mod clone;
mod compare;
mod descriptors;
mod epoll;
mod eventfd;
mod exec;
mod futex;
mod holes;
mod identity;
mod inotify;
mod interfaces;
mod ioctl;
mod life;
mod linger;
mod memfd;
mod memory;
mod messages;
mod metadata;
mod names;
mod netlink;
mod network;
mod numa;
mod open;
mod options;
mod pi;
mod pidfd;
mod pieces;
mod poll;
mod prctl;
mod priority;
mod queues;
mod quick;
mod reading;
mod ready;
mod receiving;
mod robust;
mod scheduling;
mod semaphores;
mod sending;
mod shared;
mod signalfd;
mod signals;
mod sockaddr;
mod splice;
mod system;
pub mod terminals;
mod timerfd;
mod timers;
mod transfer;
mod tty_control;
mod unix;
mod unix_data;
mod vectors;
mod wait;
mod writing;

pub use asynchronous::{ASYNC, Hearer, Hearers, tell as tell_hearers, urgent as tell_urgent};
pub use clock::note_time_left;
pub use clone::copy_table;
pub use exec::{bytes_of as strings, run as execute};
pub use futex::lock_wait;
pub use life::end_process;
pub use memfd::{check as check_seals, seal};
pub use memory::{Faulted, page_fault};
pub use queues::{closed as queue_closed, tell_no_more};
pub use quick::answer;
pub use shared::{attached, leave as leave_segments};
pub use transfer::flags as status_flags;
pub use unix::{closed as unix_closed, drop_rights, unreachable_rights};
pub use writing::Progress;

/// Whether a blocked call's note says that its work is done: no signal may end it in another way then.
pub fn is_settled(number: u64, note: u64) -> bool {
    match number {
        65 | 220 => semaphores::is_settled(note),
        // close: it looks for signals by itself.
        3 => linger::noted(note).is_some(),
        202 | 449 => futex::is_woken(number, note),
        // open, creat, openat: what other calls note may be any number.
        2 | 85 | 257 => open::is_granted(note),
        _ => false,
    }
}

/// The six arguments of a call.
pub type Arguments = [u64; 6];

/// A call that is there.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its number.
    pub number: u64,
    /// Its name on Linux.
    pub name: &'static str,
    /// What of Linux's call is not there, and what asking for it gives; empty where nothing is missing.
    pub missing: &'static str,
}

macro_rules! table {
    ($($number:literal $name:ident => $family:ident :: $handler:ident $(, partial $missing:literal)?;)*) => {
        /// Every call that is there, in the order of the numbers.
        pub const IMPLEMENTED: &[Call] = &[$(
            Call { number: $number, name: stringify!($name), missing: concat!($($missing)?) },
        )*];

        /// Carries out call `number`.
        pub fn dispatch<M: Machine>(context: &mut Context<'_, M>, number: u64, arguments: Arguments) -> Result<u64> {
            match number {
                $($number => $family::$handler(context, arguments),)*
                _ => {
                    context.services.log_unknown_call(number);
                    Err(Errno::ENOSYS.into())
                }
            }
        }
    };
}

table! {
    0 read => transfer::read;
    1 write => transfer::write;
    2 open => open::open,
        partial "`O_DIRECT` (no effect)";
    3 close => descriptors::close;
    4 stat => metadata::stat;
    5 fstat => metadata::fstat;
    6 lstat => metadata::lstat;
    7 poll => poll::poll;
    8 lseek => transfer::lseek;
    9 mmap => memory::mmap,
        partial "`MAP_HUGETLB` (`ENOMEM`), `MAP_SYNC` (`EOPNOTSUPP`); devices other than `/dev/zero` (`ENODEV`)";
    10 mprotect => memory::mprotect;
    11 munmap => memory::munmap;
    12 brk => memory::brk;
    13 rt_sigaction => signals::rt_sigaction;
    14 rt_sigprocmask => signals::rt_sigprocmask;
    15 rt_sigreturn => signals::rt_sigreturn;
    16 ioctl => ioctl::ioctl,
        partial "terminals: all of ioctl_tty(2) but locked settings, modem lines, `TIOCCONS` and the requests of virtual consoles and serial lines; sockets: queues, owners, and questions about interfaces, addresses and neighbours; descriptors: `FIONREAD`, `FIONBIO`, `FIOASYNC`, `FIOCLEX`, `FIONCLEX`; nothing else (`ENOTTY`)";
    17 pread64 => transfer::pread64;
    18 pwrite64 => transfer::pwrite64;
    19 readv => transfer::readv;
    20 writev => transfer::writev;
    21 access => metadata::access;
    22 pipe => descriptors::pipe;
    23 select => poll::select;
    24 sched_yield => scheduling::sched_yield;
    25 mremap => memory::mremap;
    26 msync => memory::msync;
    27 mincore => ready::mincore;
    28 madvise => ready::madvise, partial "`MADV_COLLAPSE` (`EINVAL`), `MADV_HWPOISON`, `MADV_SOFT_OFFLINE` (`EPERM`)";
    29 shmget => shared::shmget;
    30 shmat => shared::shmat;
    31 shmctl => shared::shmctl;
    32 dup => descriptors::dup;
    33 dup2 => descriptors::dup2;
    34 pause => signals::pause;
    35 nanosleep => clock::nanosleep;
    36 getitimer => timers::getitimer;
    37 alarm => timers::alarm;
    38 setitimer => timers::setitimer;
    39 getpid => identity::tell;
    40 sendfile => bulk::sendfile;
    41 socket => network::socket,
        partial "families other than `AF_UNIX`, `AF_INET`, `AF_INET6` and `AF_NETLINK` (`EAFNOSUPPORT`); of netlink \
         `NETLINK_ROUTE` only, of IP protocols TCP, UDP, echo requests and raw packets (`EPROTONOSUPPORT`)";
    42 connect => network::connect;
    43 accept => network::accept;
    44 sendto => sending::sendto,
        partial "`MSG_DONTROUTE`, `MSG_CONFIRM` (no effect)";
    45 recvfrom => receiving::recvfrom;
    46 sendmsg => sending::sendmsg,
        partial "`MSG_DONTROUTE`, `MSG_CONFIRM` (no effect)";
    47 recvmsg => receiving::recvmsg;
    48 shutdown => network::shutdown;
    49 bind => network::bind;
    50 listen => network::listen;
    51 getsockname => network::getsockname;
    52 getpeername => network::getpeername;
    53 socketpair => network::socketpair;
    54 setsockopt => options::setsockopt,
        partial "filters (`SO_ATTACH_FILTER`, `SO_ATTACH_BPF`: `ENOMEM`), `SO_ZEROCOPY` (`EOPNOTSUPP`), `SO_TXTIME` (`ENOPROTOOPT`), \
         hardware time stamps, rates for `SO_MAX_PACING_RATE` (`EINVAL`), congestion control other than `reno` (`ENOENT`), \
         `TCP_REPAIR` (`EPERM`), `TCP_FASTOPEN_CONNECT` (`EOPNOTSUPP`), source filters of groups, `TCP_MD5SIG`, \
         `TCP_SAVE_SYN`, `UDP_SEGMENT` but as a control message, `UDP_GRO` (`ENOPROTOOPT`)";
    55 getsockopt => options::getsockopt, partial "as `setsockopt`";
    56 clone => clone::clone, partial "`CLONE_NEW*` (`EPERM`)";
    57 fork => clone::fork;
    58 vfork => clone::vfork;
    59 execve => exec::execve;
    60 exit => life::exit;
    61 wait4 => wait::wait4;
    62 kill => signals::kill;
    63 uname => system::uname;
    64 semget => semaphores::semget;
    65 semop => semaphores::semop;
    66 semctl => semaphores::semctl;
    67 shmdt => shared::shmdt;
    68 msgget => messages::msgget;
    69 msgsnd => messages::msgsnd;
    70 msgrcv => messages::msgrcv;
    71 msgctl => messages::msgctl;
    72 fcntl => descriptors::fcntl,
        partial "`F_SETLEASE`, `F_NOTIFY` of anything, `F_*_RW_HINT` (`EINVAL`)";
    73 flock => descriptors::flock;
    74 fsync => bulk::fsync;
    75 fdatasync => bulk::fsync;
    76 truncate => metadata::truncate;
    77 ftruncate => metadata::ftruncate;
    79 getcwd => names::getcwd;
    80 chdir => names::chdir;
    81 fchdir => names::fchdir;
    82 rename => names::rename;
    83 mkdir => names::mkdir;
    84 rmdir => names::rmdir;
    85 creat => open::creat,
        partial "`O_DIRECT` (no effect)";
    86 link => names::link;
    87 unlink => names::unlink;
    88 symlink => names::symlink;
    89 readlink => names::readlink;
    90 chmod => metadata::chmod;
    91 fchmod => metadata::fchmod;
    92 chown => metadata::chown;
    93 fchown => metadata::fchown;
    94 lchown => metadata::lchown;
    95 umask => identity::umask;
    96 gettimeofday => clock::gettimeofday;
    97 getrlimit => system::getrlimit;
    98 getrusage => system::getrusage,
        partial "times, memory, faults and switches; the rest is 0";
    99 sysinfo => system::sysinfo,
        partial "buffers and swap are 0";
    100 times => system::times;
    102 getuid => identity::tell;
    103 syslog => administration::syslog,
        partial "the log is empty, and how the console shows it cannot be changed (`EPERM`)";
    104 getgid => identity::tell;
    105 setuid => identity::setuid;
    106 setgid => identity::setgid;
    107 geteuid => identity::tell;
    108 getegid => identity::tell;
    109 setpgid => identity::setpgid;
    110 getppid => identity::tell;
    111 getpgrp => identity::getpgrp;
    112 setsid => identity::setsid;
    113 setreuid => identity::setreuid;
    114 setregid => identity::setregid;
    115 getgroups => identity::getgroups;
    116 setgroups => identity::setgroups;
    117 setresuid => identity::setresuid;
    118 getresuid => identity::getresuid;
    119 setresgid => identity::setresgid;
    120 getresgid => identity::getresgid;
    121 getpgid => identity::getpgid;
    122 setfsuid => identity::setfsuid;
    123 setfsgid => identity::setfsgid;
    124 getsid => identity::getsid;
    125 capget => prctl::capget;
    126 capset => prctl::capset, partial "what is in effect counts for `chroot`, `prctl` and changes of ids; access to files and the rest go by the effective user";
    127 rt_sigpending => signals::rt_sigpending;
    128 rt_sigtimedwait => signals::rt_sigtimedwait;
    129 rt_sigqueueinfo => signals::rt_sigqueueinfo;
    130 rt_sigsuspend => signals::rt_sigsuspend;
    131 sigaltstack => signals::sigaltstack;
    132 utime => metadata::utime;
    133 mknod => names::mknod;
    135 personality => system::personality,
        partial "`PER_LINUX`, `PER_LINUX32`, `ADDR_NO_RANDOMIZE`, `SHORT_INODE`, `WHOLE_SECONDS`; nothing else (`EINVAL`)";
    137 statfs => metadata::statfs;
    138 fstatfs => metadata::fstatfs;
    140 getpriority => priority::getpriority;
    141 setpriority => priority::setpriority, partial "the threads of a process have one nice value";
    142 sched_setparam => scheduling::sched_setparam;
    143 sched_getparam => scheduling::sched_getparam;
    144 sched_setscheduler => scheduling::sched_setscheduler,
        partial "`SCHED_DEADLINE` (`EPERM`)";
    145 sched_getscheduler => scheduling::sched_getscheduler;
    146 sched_get_priority_max => scheduling::sched_get_priority_max;
    147 sched_get_priority_min => scheduling::sched_get_priority_min;
    148 sched_rr_get_interval => scheduling::sched_rr_get_interval;
    149 mlock => ready::mlock;
    150 munlock => ready::munlock;
    151 mlockall => ready::mlockall;
    152 munlockall => ready::munlockall;
    153 vhangup => tty_control::vhangup;
    157 prctl => prctl::prctl, partial "no `PR_SET_MM`, `PR_SET_SECCOMP`, `PR_SET_TSC`, `PR_MCE_KILL`, `PR_SCHED_CORE`, speculation controls (`EINVAL`); the attributes are the process's, not the thread's";
    158 arch_prctl => system::arch_prctl, partial "`ARCH_[GS]ET_FS`, `ARCH_[GS]ET_GS`; nothing else (`EINVAL`)";
    155 pivot_root => administration::refused,
        partial "refused to all (`EPERM`)";
    159 adjtimex => administration::adjtimex,
        partial "changes are refused to all (`EPERM`)";
    160 setrlimit => system::setrlimit;
    161 chroot => names::chroot;
    162 sync => bulk::sync;
    163 acct => administration::acct,
        partial "switching it on is refused to all (`EPERM`)";
    164 settimeofday => clock::settimeofday, partial "refused to all (`EPERM`)";
    165 mount => administration::mount,
        partial "refused to all (`EPERM`)";
    166 umount2 => administration::umount2,
        partial "refused to all (`EPERM`)";
    167 swapon => administration::swapon,
        partial "refused to all (`EPERM`)";
    168 swapoff => administration::refused,
        partial "refused to all (`EPERM`)";
    169 reboot => administration::reboot,
        partial "ends the program; `CAD_ON`, `CAD_OFF`, `SW_SUSPEND` and `KEXEC` (`EINVAL`)";
    170 sethostname => administration::sethostname;
    171 setdomainname => administration::setdomainname;
    175 init_module => administration::refused,
        partial "refused to all (`EPERM`)";
    176 delete_module => administration::refused,
        partial "refused to all (`EPERM`)";
    179 quotactl => administration::quotactl,
        partial "there are no quotas and no block devices (`ENODEV`, `ENOTBLK`)";
    186 gettid => identity::tell;
    187 readahead => bulk::readahead;
    188 setxattr => attributes::setxattr, partial "kinds of attributes other than `user` and `trusted` (`EOPNOTSUPP`)";
    189 lsetxattr => attributes::lsetxattr, partial "kinds of attributes other than `user` and `trusted` (`EOPNOTSUPP`)";
    190 fsetxattr => attributes::fsetxattr, partial "kinds of attributes other than `user` and `trusted` (`EOPNOTSUPP`)";
    191 getxattr => attributes::getxattr, partial "kinds of attributes other than `user` and `trusted` (`EOPNOTSUPP`)";
    192 lgetxattr => attributes::lgetxattr, partial "kinds of attributes other than `user` and `trusted` (`EOPNOTSUPP`)";
    193 fgetxattr => attributes::fgetxattr, partial "kinds of attributes other than `user` and `trusted` (`EOPNOTSUPP`)";
    194 listxattr => attributes::listxattr;
    195 llistxattr => attributes::llistxattr;
    196 flistxattr => attributes::flistxattr;
    197 removexattr => attributes::removexattr, partial "kinds of attributes other than `user` and `trusted` (`EOPNOTSUPP`)";
    198 lremovexattr => attributes::lremovexattr, partial "kinds of attributes other than `user` and `trusted` (`EOPNOTSUPP`)";
    199 fremovexattr => attributes::fremovexattr, partial "kinds of attributes other than `user` and `trusted` (`EOPNOTSUPP`)";
    200 tkill => signals::tkill;
    201 time => clock::time;
    202 futex => futex::futex;
    203 sched_setaffinity => scheduling::sched_setaffinity;
    204 sched_getaffinity => scheduling::sched_getaffinity;
    213 epoll_create => epoll::epoll_create;
    216 remap_file_pages => memory::remap_file_pages;
    217 getdents64 => names::getdents64;
    218 set_tid_address => identity::set_tid_address;
    220 semtimedop => semaphores::semtimedop;
    221 fadvise64 => bulk::fadvise64;
    222 timer_create => timers::timer_create, partial "the `_ALARM` clocks (`EOPNOTSUPP`)";
    223 timer_settime => timers::timer_settime;
    224 timer_gettime => timers::timer_gettime;
    225 timer_getoverrun => timers::timer_getoverrun;
    226 timer_delete => timers::timer_delete;
    227 clock_settime => clock::clock_settime, partial "refused to all (`EPERM`)";
    228 clock_gettime => clock::clock_gettime, partial "descriptors as clocks (`EINVAL`)";
    229 clock_getres => clock::clock_getres, partial "descriptors as clocks (`EINVAL`)";
    230 clock_nanosleep => clock::clock_nanosleep;
    231 exit_group => life::exit_group;
    232 epoll_wait => epoll::epoll_wait;
    233 epoll_ctl => epoll::epoll_ctl;
    234 tgkill => signals::tgkill;
    235 utimes => metadata::utimes;
    237 mbind => numa::mbind;
    238 set_mempolicy => numa::set_mempolicy;
    239 get_mempolicy => numa::get_mempolicy;
    240 mq_open => queues::mq_open;
    241 mq_unlink => queues::mq_unlink;
    242 mq_timedsend => queues::mq_timedsend;
    243 mq_timedreceive => queues::mq_timedreceive;
    244 mq_notify => queues::mq_notify;
    245 mq_getsetattr => queues::mq_getsetattr;
    246 kexec_load => administration::refused,
        partial "refused to all (`EPERM`)";
    247 waitid => wait::waitid;
    251 ioprio_set => priority::ioprio_set,
        partial "kept, and makes no difference";
    252 ioprio_get => priority::ioprio_get;
    253 inotify_init => inotify::inotify_init;
    254 inotify_add_watch => inotify::inotify_add_watch;
    255 inotify_rm_watch => inotify::inotify_rm_watch;
    256 migrate_pages => numa::migrate_pages;
    257 openat => open::openat,
        partial "`O_DIRECT` (no effect)";
    258 mkdirat => names::mkdirat;
    259 mknodat => names::mknodat;
    260 fchownat => metadata::fchownat;
    261 futimesat => metadata::futimesat;
    262 newfstatat => metadata::newfstatat;
    263 unlinkat => names::unlinkat;
    264 renameat => names::renameat;
    265 linkat => names::linkat;
    266 symlinkat => names::symlinkat;
    267 readlinkat => names::readlinkat;
    268 fchmodat => metadata::fchmodat;
    269 faccessat => metadata::faccessat;
    270 pselect6 => poll::pselect6;
    271 ppoll => poll::ppoll;
    272 unshare => clone::unshare, partial "`CLONE_NEW*` (`EPERM`)";
    273 set_robust_list => robust::set_robust_list;
    274 get_robust_list => robust::get_robust_list;
    275 splice => splice::splice;
    276 tee => splice::tee;
    277 sync_file_range => bulk::sync_file_range;
    278 vmsplice => splice::vmsplice;
    279 move_pages => numa::move_pages;
    280 utimensat => metadata::utimensat;
    281 epoll_pwait => epoll::epoll_pwait;
    282 signalfd => signalfd::signalfd;
    283 timerfd_create => timerfd::timerfd_create;
    284 eventfd => eventfd::eventfd;
    285 fallocate => bulk::fallocate, partial "`FALLOC_FL_COLLAPSE_RANGE`, `FALLOC_FL_ZERO_RANGE`, `FALLOC_FL_INSERT_RANGE`, `FALLOC_FL_UNSHARE_RANGE` (`EOPNOTSUPP`)";
    286 timerfd_settime => timerfd::timerfd_settime;
    287 timerfd_gettime => timerfd::timerfd_gettime;
    288 accept4 => network::accept4;
    289 signalfd4 => signalfd::signalfd4;
    290 eventfd2 => eventfd::eventfd2;
    291 epoll_create1 => epoll::epoll_create1;
    292 dup3 => descriptors::dup3;
    293 pipe2 => descriptors::pipe2,
        partial "packets (`O_DIRECT`: `EINVAL`)";
    294 inotify_init1 => inotify::inotify_init1;
    295 preadv => transfer::preadv;
    296 pwritev => transfer::pwritev;
    297 rt_tgsigqueueinfo => signals::rt_tgsigqueueinfo;
    299 recvmmsg => receiving::recvmmsg;
    302 prlimit64 => system::prlimit64;
    305 clock_adjtime => administration::clock_adjtime,
        partial "changes are refused to all (`EPERM`)";
    306 syncfs => bulk::syncfs;
    307 sendmmsg => sending::sendmmsg;
    308 setns => clone::setns, partial "descriptors of name spaces (`EINVAL`)";
    309 getcpu => scheduling::getcpu;
    310 process_vm_readv => across::process_vm_readv;
    311 process_vm_writev => across::process_vm_writev;
    312 kcmp => compare::kcmp;
    313 finit_module => administration::refused,
        partial "refused to all (`EPERM`)";
    314 sched_setattr => scheduling::sched_setattr,
        partial "as `sched_setscheduler`; `SCHED_FLAG_RECLAIM`, `SCHED_FLAG_DL_OVERRUN`, clamps of use (`EINVAL`)";
    315 sched_getattr => scheduling::sched_getattr;
    316 renameat2 => names::renameat2, partial "`RENAME_WHITEOUT` (`EINVAL`)";
    318 getrandom => system::getrandom;
    319 memfd_create => memfd::memfd_create;
    320 kexec_file_load => administration::refused,
        partial "refused to all (`EPERM`)";
    324 membarrier => numa::membarrier, partial "`MEMBARRIER_CMD_*_RSEQ` (`EINVAL`)";
    325 mlock2 => ready::mlock2;
    326 copy_file_range => splice::copy_file_range;
    327 preadv2 => vectors::preadv2;
    328 pwritev2 => vectors::pwritev2;
    329 pkey_mprotect => numa::pkey_mprotect, partial "keys (`EINVAL`)";
    330 pkey_alloc => numa::pkey_alloc, partial "keys (`ENOSPC`)";
    331 pkey_free => numa::pkey_free, partial "keys (`EINVAL`)";
    332 statx => metadata::statx, partial "`STATX_BTIME`, `STATX_MNT_ID` (not in the mask)";
    424 pidfd_send_signal => pidfd::pidfd_send_signal;
    434 pidfd_open => pidfd::pidfd_open;
    435 clone3 => clone::clone3,
        partial "`CLONE_NEW*` (`EPERM`), `CLONE_INTO_CGROUP` (`EBADF`)";
    436 close_range => descriptors::close_range;
    438 pidfd_getfd => pidfd::pidfd_getfd;
    439 faccessat2 => metadata::faccessat2;
    440 process_madvise => ready::process_madvise;
    441 epoll_pwait2 => epoll::epoll_pwait2;
    449 futex_waitv => futex::futex_waitv;
    450 set_mempolicy_home_node => numa::set_mempolicy_home_node, partial "homes of what `mbind` has bound (`EOPNOTSUPP`)";
}

//! System calls: the dispatch table, and one file a family.
//!
//! The table below is the single source of what is implemented; the documentation is generated from it.
use crate::context::{Context, Result};
use shimos_abi::errno::Errno;
use shimos_hal::Machine;

mod attributes;
mod bulk;
mod clock;
mod descriptors;
mod exec;
mod futex;
mod identity;
mod ioctl;
mod life;
mod memory;
mod metadata;
mod names;
mod network;
mod open;
mod options;
mod poll;
mod scheduling;
mod signals;
mod system;
mod transfer;
mod unix;
mod wait;

pub use clock::note_time_left;
pub use exec::{bytes_of as strings, run as execute};
pub use futex::WOKEN as FUTEX_WOKEN;
pub use life::end_process;
pub use memory::{Faulted, page_fault};
pub use open::is_granted;
pub use transfer::{Progress, flags as status_flags};
pub use unix::closed as unix_closed;

/// The six arguments of a call.
pub type Arguments = [u64; 6];

macro_rules! table {
    ($($number:literal $name:ident => $family:ident :: $handler:ident;)*) => {
        /// Every implemented call: number and name.
        pub const IMPLEMENTED: &[(u64, &str)] = &[$(($number, stringify!($name)),)*];

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
    2 open => open::open;
    3 close => descriptors::close;
    4 stat => metadata::stat;
    5 fstat => metadata::fstat;
    6 lstat => metadata::lstat;
    7 poll => poll::poll;
    8 lseek => transfer::lseek;
    9 mmap => memory::mmap;
    10 mprotect => memory::mprotect;
    11 munmap => memory::munmap;
    12 brk => memory::brk;
    13 rt_sigaction => signals::rt_sigaction;
    14 rt_sigprocmask => signals::rt_sigprocmask;
    15 rt_sigreturn => signals::rt_sigreturn;
    16 ioctl => ioctl::ioctl;
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
    28 madvise => memory::madvise;
    32 dup => descriptors::dup;
    33 dup2 => descriptors::dup2;
    34 pause => signals::pause;
    35 nanosleep => clock::nanosleep;
    36 getitimer => clock::getitimer;
    37 alarm => clock::alarm;
    38 setitimer => clock::setitimer;
    39 getpid => identity::getpid;
    40 sendfile => bulk::sendfile;
    41 socket => network::socket;
    42 connect => network::connect;
    43 accept => network::accept;
    44 sendto => network::sendto;
    45 recvfrom => network::recvfrom;
    46 sendmsg => network::sendmsg;
    47 recvmsg => network::recvmsg;
    48 shutdown => network::shutdown;
    49 bind => network::bind;
    50 listen => network::listen;
    51 getsockname => network::getsockname;
    52 getpeername => network::getpeername;
    53 socketpair => network::socketpair;
    54 setsockopt => options::setsockopt;
    55 getsockopt => options::getsockopt;
    56 clone => life::clone;
    57 fork => life::fork;
    58 vfork => life::vfork;
    59 execve => exec::execve;
    60 exit => life::exit;
    61 wait4 => wait::wait4;
    62 kill => signals::kill;
    63 uname => system::uname;
    72 fcntl => descriptors::fcntl;
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
    85 creat => open::creat;
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
    98 getrusage => system::getrusage;
    99 sysinfo => system::sysinfo;
    100 times => system::times;
    102 getuid => identity::getuid;
    104 getgid => identity::getgid;
    105 setuid => identity::setuid;
    106 setgid => identity::setgid;
    107 geteuid => identity::geteuid;
    108 getegid => identity::getegid;
    109 setpgid => identity::setpgid;
    110 getppid => identity::getppid;
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
    124 getsid => identity::getsid;
    127 rt_sigpending => signals::rt_sigpending;
    128 rt_sigtimedwait => signals::rt_sigtimedwait;
    130 rt_sigsuspend => signals::rt_sigsuspend;
    131 sigaltstack => signals::sigaltstack;
    132 utime => metadata::utime;
    133 mknod => names::mknod;
    137 statfs => metadata::statfs;
    138 fstatfs => metadata::fstatfs;
    140 getpriority => scheduling::getpriority;
    141 setpriority => scheduling::setpriority;
    142 sched_setparam => scheduling::sched_setparam;
    143 sched_getparam => scheduling::sched_getparam;
    144 sched_setscheduler => scheduling::sched_setscheduler;
    145 sched_getscheduler => scheduling::sched_getscheduler;
    146 sched_get_priority_max => scheduling::sched_get_priority_max;
    147 sched_get_priority_min => scheduling::sched_get_priority_min;
    157 prctl => system::prctl;
    158 arch_prctl => system::arch_prctl;
    160 setrlimit => system::setrlimit;
    162 sync => bulk::sync;
    170 sethostname => system::sethostname;
    186 gettid => identity::gettid;
    188 setxattr => attributes::of_path;
    189 lsetxattr => attributes::of_link;
    190 fsetxattr => attributes::of_descriptor;
    191 getxattr => attributes::of_path;
    192 lgetxattr => attributes::of_link;
    193 fgetxattr => attributes::of_descriptor;
    194 listxattr => attributes::of_path;
    195 llistxattr => attributes::of_link;
    196 flistxattr => attributes::of_descriptor;
    197 removexattr => attributes::of_path;
    198 lremovexattr => attributes::of_link;
    199 fremovexattr => attributes::of_descriptor;
    200 tkill => signals::tkill;
    201 time => clock::time;
    202 futex => futex::futex;
    203 sched_setaffinity => scheduling::sched_setaffinity;
    204 sched_getaffinity => scheduling::sched_getaffinity;
    217 getdents64 => names::getdents64;
    218 set_tid_address => identity::set_tid_address;
    221 fadvise64 => bulk::fadvise64;
    228 clock_gettime => clock::clock_gettime;
    229 clock_getres => clock::clock_getres;
    230 clock_nanosleep => clock::clock_nanosleep;
    231 exit_group => life::exit_group;
    234 tgkill => signals::tgkill;
    235 utimes => metadata::utimes;
    247 waitid => wait::waitid;
    257 openat => open::openat;
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
    273 set_robust_list => identity::set_robust_list;
    280 utimensat => metadata::utimensat;
    285 fallocate => bulk::fallocate;
    288 accept4 => network::accept4;
    292 dup3 => descriptors::dup3;
    293 pipe2 => descriptors::pipe2;
    295 preadv => transfer::preadv;
    296 pwritev => transfer::pwritev;
    302 prlimit64 => system::prlimit64;
    309 getcpu => scheduling::getcpu;
    316 renameat2 => names::renameat2;
    318 getrandom => system::getrandom;
    332 statx => metadata::statx;
    435 clone3 => life::clone3;
    436 close_range => descriptors::close_range;
    439 faccessat2 => metadata::faccessat2;
}

//! What the arguments of each call are.

/// What an argument is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arg {
    /// Anything at all.
    Any,
    /// A small number.
    Num,
    /// 0.
    Zero,
    /// A descriptor.
    Fd,
    /// A directory's descriptor or AT_FDCWD.
    Dir,
    /// The address of a path.
    Path,
    /// The address of memory to be written to, or of bytes.
    Buf,
    /// A number of bytes.
    Len,
    /// A place in a file.
    Off,
    /// The address of an array of struct iovec; its length comes next.
    Iov,
    /// How many iovecs.
    IovLen,
    /// The address of a socket address; its length comes next.
    Name,
    /// The length of a socket address.
    NameLen,
    /// The address of a length.
    LenPtr,
    /// The address of a struct msghdr.
    Msg,
    /// The address of pollfds.
    Poll,
    /// The address of a struct timespec, a pair of them, or none.
    Time,
    /// The address of a few random words.
    Words,
    /// A process or thread id.
    Pid,
    /// A signal.
    Sig,
    /// The address of a signal set.
    Set,
    /// The address of a mapping.
    Map,
    /// A size in bytes of a mapping.
    MapLen,
    /// A word that futexes are made of.
    Futex,
    /// Permission bits.
    Mode,
    /// Milliseconds to wait.
    Wait,
    /// One of these, perhaps several at once.
    Bits(&'static [u64]),
    /// One of these.
    Of(&'static [u64]),
}

/// A call and its arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub number: u64,
    pub name: &'static str,
    pub arguments: &'static [Arg],
    /// How often it is taken, compared with others.
    pub weight: u64,
}

use Arg::{
    Any, Bits, Buf, Dir, Fd, Futex, Iov, IovLen, Len, LenPtr, Map, MapLen, Mode, Msg, Name, NameLen, Num, Of, Off,
    Path, Pid, Poll, Set, Sig, Time, Wait, Words, Zero,
};

const OPEN: Arg =
    Bits(&[0, 1, 2, 0x40, 0x80, 0x200, 0x400, 0x800, 0x4000, 0x10000, 0x20000, 0x80000, 0x200_000, 0x410_000]);
const AT: Arg = Bits(&[0, 0x100, 0x200, 0x400, 0x800, 0x1000]);
const CLOEXEC: Arg = Bits(&[0, 0x800, 0x80000]);
const PROT: Arg = Bits(&[0, 1, 2, 4, 3]);
const MAP: Arg = Bits(&[1, 2, 0x22, 0x21, 0x32, 0x31, 0x100, 0x2000, 0x8000, 0x10_0000, 0x4000]);
const FAMILY: Arg = Of(&[1, 2, 2, 10, 16, 17, 38]);
const KIND: Arg = Bits(&[1, 2, 5, 3, 0x800, 0x80000]);
const MESSAGE: Arg = Bits(&[0, 1, 2, 0x20, 0x40, 0x40, 0x100, 0x4000, 0x8000, 0x4000_0000]);
const CLOCK: Arg = Of(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, !0, !5]);
const CLONE: Arg = Bits(&[
    17,
    17,
    0x100,
    0x200,
    0x400,
    0x800,
    0x1000,
    0x4000,
    0x8000,
    0x1_0000,
    0x4_0000,
    0x8_0000,
    0x10_0000,
    0x20_0000,
    0x100_0000,
    0xd0f00,
    0x0200_0000,
]);
const LEVEL: Arg = Of(&[0, 1, 1, 1, 6, 6, 17, 41, 255]);
const OPTION: Arg = Of(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18, 20, 21, 26, 30, 36, 38, 39, 49]);
const FUTEX_OP: Arg = Bits(&[0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 128, 256]);
const FCNTL: Arg =
    Of(&[0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 15, 16, 36, 37, 1024, 1025, 1026, 1030, 1031, 1032, 1033, 1034]);
const IOCTL: Arg = Of(&[
    0x5401,
    0x5402,
    0x5403,
    0x5404,
    0x540b,
    0x540e,
    0x540f,
    0x5410,
    0x5413,
    0x5414,
    0x541b,
    0x5421,
    0x5422,
    0x5429,
    0x5430,
    0x5431,
    0x5441,
    0x5450,
    0x5451,
    0x5452,
    0x8910,
    0x8912,
    0x8913,
    0x8915,
    0x8927,
    0x8933,
    0x8004_5430,
    0x4004_5431,
    0x8004_5432,
]);
const ADVICE: Arg = Of(&[0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 100]);
const PRCTL: Arg = Of(&[1, 2, 3, 4, 7, 8, 15, 16, 21, 22, 23, 24, 27, 28, 29, 30, 36, 37, 38, 39, 41, 42, 47]);
const KEY: Arg = Of(&[0, 1, 2, 3, 4]);
const IPC: Arg = Bits(&[0, 0o600, 0o1000, 0o2000, 0o10_000, 0o4000]);
const IPC_COMMAND: Arg = Of(&[0, 1, 2, 3, 11, 12, 13, 14, 15, 16, 17, 18, 19, 0x100, 0x102]);

macro_rules! calls {
    ($($number:literal $name:ident $weight:literal [$($arg:expr),*];)*) => {
        /// Every call that the grammar knows.
        pub(crate) const CALLS: &[Call] = &[$(
            Call { number: $number, name: stringify!($name), arguments: &[$($arg),*], weight: $weight },
        )*];
    };
}

calls! {
    0 read 12 [Fd, Buf, Len];
    1 write 12 [Fd, Buf, Len];
    2 open 8 [Path, OPEN, Mode];
    3 close 5 [Fd];
    4 stat 3 [Path, Buf];
    5 fstat 3 [Fd, Buf];
    6 lstat 2 [Path, Buf];
    7 poll 4 [Poll, Of(&[0, 1, 3, 8]), Wait];
    8 lseek 3 [Fd, Off, Of(&[0, 1, 2, 3, 4, 5])];
    9 mmap 6 [Map, MapLen, PROT, MAP, Fd, Off];
    10 mprotect 4 [Map, MapLen, PROT];
    11 munmap 3 [Map, MapLen];
    12 brk 2 [Any];
    13 rt_sigaction 4 [Sig, Words, Words, Of(&[8, 8, 8, 0])];
    14 rt_sigprocmask 4 [Of(&[0, 1, 2, 3]), Set, Set, Of(&[8, 8, 8, 16])];
    15 rt_sigreturn 1 [];
    16 ioctl 6 [Fd, IOCTL, Buf];
    17 pread64 4 [Fd, Buf, Len, Off];
    18 pwrite64 4 [Fd, Buf, Len, Off];
    19 readv 4 [Fd, Iov, IovLen];
    20 writev 4 [Fd, Iov, IovLen];
    21 access 2 [Path, Of(&[0, 1, 2, 4, 7, 8])];
    22 pipe 3 [Words];
    23 select 3 [Num, Set, Set, Set, Time];
    24 sched_yield 1 [];
    25 mremap 3 [Map, MapLen, MapLen, Bits(&[0, 1, 2, 4]), Map];
    26 msync 2 [Map, MapLen, Bits(&[0, 1, 2, 4])];
    27 mincore 2 [Map, MapLen, Buf];
    28 madvise 4 [Map, MapLen, ADVICE];
    29 shmget 3 [KEY, MapLen, IPC];
    30 shmat 3 [Num, Map, Bits(&[0, 0o10_000, 0o20_000, 0o40_000])];
    31 shmctl 3 [Num, IPC_COMMAND, Buf];
    32 dup 3 [Fd];
    33 dup2 3 [Fd, Fd];
    34 pause 1 [];
    35 nanosleep 1 [Time, Words];
    36 getitimer 1 [Of(&[0, 1, 2, 3]), Words];
    37 alarm 1 [Num];
    38 setitimer 2 [Of(&[0, 1, 2, 3]), Time, Words];
    39 getpid 1 [];
    40 sendfile 3 [Fd, Fd, Of(&[0, 0]), Len];
    41 socket 6 [FAMILY, KIND, Of(&[0, 0, 0, 6, 17, 1, 58])];
    42 connect 6 [Fd, Name, NameLen];
    43 accept 3 [Fd, Buf, LenPtr];
    44 sendto 6 [Fd, Buf, Len, MESSAGE, Name, NameLen];
    45 recvfrom 5 [Fd, Buf, Len, MESSAGE, Buf, LenPtr];
    46 sendmsg 6 [Fd, Msg, MESSAGE];
    47 recvmsg 6 [Fd, Msg, MESSAGE];
    48 shutdown 2 [Fd, Of(&[0, 1, 2, 3])];
    49 bind 6 [Fd, Name, NameLen];
    50 listen 4 [Fd, Num];
    51 getsockname 2 [Fd, Buf, LenPtr];
    52 getpeername 2 [Fd, Buf, LenPtr];
    53 socketpair 4 [FAMILY, KIND, Zero, Words];
    54 setsockopt 5 [Fd, LEVEL, OPTION, Words, Of(&[0, 1, 4, 8, 16, 128])];
    55 getsockopt 5 [Fd, LEVEL, OPTION, Buf, LenPtr];
    56 clone 2 [CLONE, Map, Words, Words, Any];
    57 fork 2 [];
    58 vfork 1 [];
    59 execve 1 [Path, Words, Words];
    60 exit 1 [Num];
    61 wait4 3 [Pid, Words, Bits(&[1, 1, 2, 8, 0x4000_0000]), Buf];
    62 kill 3 [Pid, Sig];
    63 uname 1 [Buf];
    64 semget 3 [KEY, Num, IPC];
    65 semop 4 [Num, Words, Of(&[0, 1, 2, 3])];
    66 semctl 3 [Num, Num, IPC_COMMAND, Any];
    67 shmdt 2 [Map];
    68 msgget 3 [KEY, IPC];
    69 msgsnd 3 [Num, Words, Len, Bits(&[0, 0o4000])];
    70 msgrcv 3 [Num, Buf, Len, Num, Bits(&[0o4000, 0o10_000, 0o20_000])];
    71 msgctl 3 [Num, IPC_COMMAND, Buf];
    72 fcntl 6 [Fd, FCNTL, Any];
    73 flock 2 [Fd, Of(&[1, 2, 5, 6, 8, 4, 0])];
    74 fsync 1 [Fd];
    75 fdatasync 1 [Fd];
    76 truncate 3 [Path, Off];
    77 ftruncate 3 [Fd, Off];
    79 getcwd 1 [Buf, Len];
    80 chdir 2 [Path];
    81 fchdir 2 [Fd];
    82 rename 4 [Path, Path];
    83 mkdir 4 [Path, Mode];
    84 rmdir 3 [Path];
    85 creat 3 [Path, Mode];
    86 link 3 [Path, Path];
    87 unlink 3 [Path];
    88 symlink 3 [Path, Path];
    89 readlink 2 [Path, Buf, Len];
    90 chmod 2 [Path, Mode];
    91 fchmod 2 [Fd, Mode];
    92 chown 2 [Path, Num, Num];
    93 fchown 2 [Fd, Num, Num];
    94 lchown 1 [Path, Num, Num];
    95 umask 1 [Mode];
    96 gettimeofday 1 [Buf, Buf];
    97 getrlimit 1 [Num, Buf];
    98 getrusage 1 [Of(&[0, !0, 1, 5]), Buf];
    99 sysinfo 1 [Buf];
    100 times 1 [Buf];
    101 ptrace 1 [Num, Pid, Any, Any];
    102 getuid 1 [];
    103 syslog 1 [Num, Buf, Len];
    104 getgid 1 [];
    105 setuid 1 [Of(&[0, 0, 0, 1000])];
    106 setgid 1 [Of(&[0, 0, 0, 1000])];
    107 geteuid 1 [];
    108 getegid 1 [];
    109 setpgid 2 [Pid, Pid];
    110 getppid 1 [];
    111 getpgrp 1 [];
    112 setsid 1 [];
    113 setreuid 1 [Of(&[0, !0]), Of(&[0, !0])];
    114 setregid 1 [Of(&[0, !0]), Of(&[0, !0])];
    115 getgroups 1 [Num, Buf];
    116 setgroups 1 [Num, Buf];
    117 setresuid 1 [Of(&[0, !0]), Of(&[0, !0]), Of(&[0, !0])];
    118 getresuid 1 [Words, Words, Words];
    119 setresgid 1 [Of(&[0, !0]), Of(&[0, !0]), Of(&[0, !0])];
    120 getresgid 1 [Words, Words, Words];
    121 getpgid 1 [Pid];
    122 setfsuid 1 [Num];
    123 setfsgid 1 [Num];
    124 getsid 1 [Pid];
    125 capget 1 [Words, Buf];
    126 capset 1 [Words, Words];
    127 rt_sigpending 1 [Set, Of(&[8, 8, 16])];
    128 rt_sigtimedwait 2 [Set, Buf, Time, Of(&[8])];
    129 rt_sigqueueinfo 2 [Pid, Sig, Words];
    130 rt_sigsuspend 1 [Set, Of(&[8])];
    131 sigaltstack 2 [Words, Words];
    132 utime 1 [Path, Time];
    133 mknod 3 [Path, Of(&[0o10_644, 0o20_666, 0o60_666, 0o100_644, 0o140_755, 0o644]), Of(&[0, 0x103, 0x105, 0x500, 0x502])];
    135 personality 1 [Of(&[0, !0, 0x4_0000])];
    137 statfs 1 [Path, Buf];
    138 fstatfs 1 [Fd, Buf];
    140 getpriority 1 [Of(&[0, 1, 2, 3]), Pid];
    141 setpriority 1 [Of(&[0, 1, 2, 3]), Pid, Num];
    142 sched_setparam 1 [Pid, Words];
    143 sched_getparam 1 [Pid, Words];
    144 sched_setscheduler 1 [Pid, Of(&[0, 1, 2, 3, 5, 6]), Words];
    145 sched_getscheduler 1 [Pid];
    146 sched_get_priority_max 1 [Num];
    147 sched_get_priority_min 1 [Num];
    148 sched_rr_get_interval 1 [Pid, Buf];
    149 mlock 2 [Map, MapLen];
    150 munlock 2 [Map, MapLen];
    151 mlockall 1 [Bits(&[1, 2, 4])];
    152 munlockall 1 [];
    157 prctl 3 [PRCTL, Words, Any, Any, Any];
    158 arch_prctl 1 [Of(&[0x1001, 0x1002, 0x1003, 0x1004, 0x1011]), Words];
    160 setrlimit 1 [Of(&[0, 1, 2, 4, 5, 9, 10, 11, 12, 13, 14, 15, 16]), Words];
    161 chroot 1 [Path];
    162 sync 1 [];
    165 mount 1 [Path, Path, Path, Any, Words];
    166 umount2 1 [Path, Num];
    170 sethostname 1 [Buf, Len];
    186 gettid 1 [];
    187 readahead 1 [Fd, Off, Len];
    188 setxattr 1 [Path, Path, Buf, Len, Num];
    191 getxattr 1 [Path, Path, Buf, Len];
    194 listxattr 1 [Path, Buf, Len];
    196 flistxattr 1 [Fd, Buf, Len];
    197 removexattr 1 [Path, Path];
    200 tkill 2 [Pid, Sig];
    201 time 1 [Words];
    202 futex 6 [Futex, FUTEX_OP, Num, Time, Futex, Num];
    203 sched_setaffinity 1 [Pid, Len, Words];
    204 sched_getaffinity 1 [Pid, Len, Buf];
    206 io_setup 1 [Num, Words];
    213 epoll_create 2 [Num];
    217 getdents64 4 [Fd, Buf, Len];
    218 set_tid_address 1 [Words];
    220 semtimedop 3 [Num, Words, Of(&[0, 1, 2]), Time];
    221 fadvise64 1 [Fd, Off, Len, Num];
    222 timer_create 3 [CLOCK, Words, Words];
    223 timer_settime 3 [Num, Num, Time, Buf];
    224 timer_gettime 1 [Num, Buf];
    225 timer_getoverrun 1 [Num];
    226 timer_delete 2 [Num];
    228 clock_gettime 1 [CLOCK, Buf];
    229 clock_getres 1 [CLOCK, Buf];
    230 clock_nanosleep 1 [CLOCK, Num, Time, Buf];
    231 exit_group 1 [Num];
    232 epoll_wait 6 [Fd, Buf, Of(&[1, 4, 0, 64]), Wait];
    233 epoll_ctl 8 [Fd, Of(&[1, 2, 3, 4]), Fd, Words];
    234 tgkill 2 [Pid, Pid, Sig];
    235 utimes 1 [Path, Time];
    240 mq_open 3 [Path, OPEN, Mode, Words];
    241 mq_unlink 2 [Path];
    242 mq_timedsend 3 [Fd, Buf, Len, Num, Time];
    243 mq_timedreceive 3 [Fd, Buf, Len, Words, Time];
    244 mq_notify 2 [Fd, Words];
    245 mq_getsetattr 2 [Fd, Words, Buf];
    247 waitid 2 [Of(&[0, 1, 2, 3]), Pid, Buf, Bits(&[1, 2, 4, 8, 0x100_0000]), Buf];
    253 inotify_init 2 [];
    254 inotify_add_watch 5 [Fd, Path, Bits(&[1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0x100, 0x200, 0xfff, 0x0100_0000, 0x2000_0000, 0x8000_0000])];
    255 inotify_rm_watch 2 [Fd, Num];
    257 openat 10 [Dir, Path, OPEN, Mode];
    258 mkdirat 2 [Dir, Path, Mode];
    259 mknodat 2 [Dir, Path, Of(&[0o10_644, 0o100_644, 0o140_755]), Zero];
    260 fchownat 2 [Dir, Path, Num, Num, AT];
    261 futimesat 1 [Dir, Path, Time];
    262 newfstatat 4 [Dir, Path, Buf, AT];
    263 unlinkat 3 [Dir, Path, Of(&[0, 0x200, 1])];
    264 renameat 2 [Dir, Path, Dir, Path];
    265 linkat 3 [Dir, Path, Dir, Path, AT];
    266 symlinkat 2 [Path, Dir, Path];
    267 readlinkat 2 [Dir, Path, Buf, Len];
    268 fchmodat 2 [Dir, Path, Mode];
    269 faccessat 1 [Dir, Path, Num];
    270 pselect6 3 [Num, Set, Set, Set, Time, Words];
    271 ppoll 3 [Poll, Of(&[0, 1, 3]), Time, Set, Of(&[8])];
    272 unshare 1 [Bits(&[0, 0x200, 0x400, 0x20000])];
    273 set_robust_list 1 [Words, Of(&[24, 24, 8])];
    274 get_robust_list 1 [Pid, Words, Words];
    275 splice 4 [Fd, Of(&[0, 0]), Fd, Of(&[0, 0]), Len, Bits(&[0, 1, 2, 4])];
    276 tee 3 [Fd, Fd, Len, Bits(&[0, 2])];
    277 sync_file_range 1 [Fd, Off, Off, Num];
    278 vmsplice 3 [Fd, Iov, IovLen, Bits(&[0, 2, 8])];
    280 utimensat 2 [Dir, Path, Time, AT];
    281 epoll_pwait 4 [Fd, Buf, Num, Wait, Set, Of(&[8])];
    282 signalfd 2 [Fd, Set, Of(&[8])];
    283 timerfd_create 3 [CLOCK, CLOEXEC];
    284 eventfd 3 [Num];
    285 fallocate 3 [Fd, Bits(&[0, 1, 2, 3, 8, 0x10, 0x20]), Off, Off];
    286 timerfd_settime 4 [Fd, Num, Time, Buf];
    287 timerfd_gettime 2 [Fd, Buf];
    288 accept4 3 [Fd, Buf, LenPtr, CLOEXEC];
    289 signalfd4 3 [Of(&[!0, !0, 5]), Set, Of(&[8]), CLOEXEC];
    290 eventfd2 4 [Num, Bits(&[0, 1, 0x800, 0x80000])];
    291 epoll_create1 4 [Bits(&[0, 0x80000])];
    292 dup3 2 [Fd, Fd, CLOEXEC];
    293 pipe2 4 [Words, Bits(&[0x800, 0x800, 0x80000, 0x4000])];
    294 inotify_init1 3 [CLOEXEC];
    295 preadv 2 [Fd, Iov, IovLen, Off, Zero];
    296 pwritev 2 [Fd, Iov, IovLen, Off, Zero];
    297 rt_tgsigqueueinfo 1 [Pid, Pid, Sig, Words];
    299 recvmmsg 3 [Fd, Msg, Of(&[1, 1, 2]), MESSAGE, Time];
    302 prlimit64 2 [Pid, Of(&[0, 1, 2, 4, 5, 9, 10, 11, 12]), Words, Buf];
    306 syncfs 1 [Fd];
    307 sendmmsg 3 [Fd, Msg, Of(&[1, 1, 2]), MESSAGE];
    309 getcpu 1 [Buf, Buf];
    310 process_vm_readv 2 [Pid, Iov, IovLen, Iov, Num, Zero];
    311 process_vm_writev 1 [Pid, Iov, IovLen, Iov, Num, Zero];
    312 kcmp 1 [Pid, Pid, Num, Fd, Fd];
    314 sched_setattr 1 [Pid, Words, Zero];
    315 sched_getattr 1 [Pid, Buf, Len, Zero];
    316 renameat2 3 [Dir, Path, Dir, Path, Bits(&[0, 1, 2, 4])];
    317 seccomp 1 [Num, Num, Words];
    318 getrandom 2 [Buf, Len, Bits(&[0, 1, 2])];
    319 memfd_create 4 [Path, Bits(&[0, 1, 2, 4])];
    322 execveat 1 [Dir, Path, Words, Words, AT];
    324 membarrier 1 [Of(&[0, 1, 2, 8, 16]), Num];
    325 mlock2 1 [Map, MapLen, Num];
    326 copy_file_range 3 [Fd, Zero, Fd, Zero, Len, Zero];
    327 preadv2 2 [Fd, Iov, IovLen, Off, Zero, Bits(&[0, 1, 2, 8, 16])];
    328 pwritev2 2 [Fd, Iov, IovLen, Off, Zero, Bits(&[0, 1, 2, 8, 16])];
    332 statx 3 [Dir, Path, AT, Num, Buf];
    334 rseq 1 [Words, Of(&[32]), Num, Any];
    424 pidfd_send_signal 2 [Fd, Sig, Zero, Zero];
    434 pidfd_open 2 [Pid, Bits(&[0, 0x800])];
    435 clone3 2 [Words, Of(&[64, 80, 88, 8])];
    436 close_range 1 [Of(&[20, 40, 60]), Of(&[30, 50, 70]), Bits(&[0, 2, 4])];
    437 openat2 3 [Dir, Path, Words, Of(&[24, 24, 8, 32])];
    438 pidfd_getfd 1 [Fd, Fd, Zero];
    439 faccessat2 2 [Dir, Path, Num, AT];
    441 epoll_pwait2 3 [Fd, Buf, Num, Time, Set, Of(&[8])];
    448 process_mrelease 1 [Fd, Zero];
    449 futex_waitv 2 [Words, Of(&[1, 2]), Zero, Time, CLOCK];
}

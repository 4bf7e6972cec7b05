//! Calls that change the machine as a whole, as a user without rights sees them, and what can be asked without harm.
use crate::{
    Outcome, Subtest,
    check::{call, fails, same, text, that, works},
    privileges::{apart, is_root},
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("administration/refused", refused),
    ("administration/names", names),
    ("administration/clock", clock),
    ("administration/personality", personality),
    ("administration/scheduling", scheduling),
    ("administration/attributes", attributes),
    ("administration/resets", resets),
    ("administration/input_output", input_output),
    ("administration/limits_of_others", limits_of_others),
];

/// Runs `work` as a user without rights.
pub fn as_nobody(work: impl FnOnce() -> Outcome) -> Outcome {
    apart(|| {
        if is_root() {
            works("setresgid", call(libc::SYS_setresgid, &[12345, 12345, 12345]))?;
            works("setresuid", call(libc::SYS_setresuid, &[12345, 12345, 12345]))?;
        }
        work()
    })
}

fn refused() -> Outcome {
    let (root, none, proc) = (c"/".as_ptr() as u64, c"/none/such".as_ptr() as u64, c"proc".as_ptr() as u64);
    fails("umount2 flags", call(libc::SYS_umount2, &[root, 1 << 20]), libc::EINVAL)?;
    fails("swapon flags", call(libc::SYS_swapon, &[root, 1 << 30]), libc::EINVAL)?;
    fails("quotactl type", call(libc::SYS_quotactl, &[0x8000_0003, 0, 0, 0]), libc::EINVAL)?;
    fails("quotactl nothing", call(libc::SYS_quotactl, &[0x8000_0700, 0, 0, 0]), libc::ENODEV)?;
    if is_root() {
        fails("reboot without magic", call(libc::SYS_reboot, &[1, 2, 0x0123_4567, 0]), libc::EINVAL)?;
        fails("mount nowhere", call(libc::SYS_mount, &[proc, none, proc, 0, 0]), libc::ENOENT)?;
        fails("umount2 nowhere", call(libc::SYS_umount2, &[none, 0]), libc::ENOENT)?;
    }
    as_nobody(|| {
        fails("mount nowhere", call(libc::SYS_mount, &[proc, none, proc, 0, 0]), libc::ENOENT)?;
        fails("mount on nothing", call(libc::SYS_mount, &[proc, 0, proc, 0, 0]), libc::EFAULT)?;
        fails("mount", call(libc::SYS_mount, &[proc, root, proc, 0, 0]), libc::EPERM)?;
        fails("umount2 nowhere", call(libc::SYS_umount2, &[none, 0]), libc::ENOENT)?;
        fails("umount2", call(libc::SYS_umount2, &[root, 0]), libc::EPERM)?;
        fails("pivot_root", call(libc::SYS_pivot_root, &[none, none]), libc::EPERM)?;
        fails("swapon", call(libc::SYS_swapon, &[none, 0]), libc::EPERM)?;
        fails("swapoff", call(libc::SYS_swapoff, &[none]), libc::EPERM)?;
        fails("reboot", call(libc::SYS_reboot, &[1, 2, 3, 0]), libc::EPERM)?;
        for number in [libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module, libc::SYS_acct] {
            // A Linux may be built without these.
            let answer = call(number, &[none, 0, 0]);
            if answer != Err(libc::ENOSYS) {
                fails("of a right", answer, libc::EPERM)?;
            }
        }
        fails("sethostname", call(libc::SYS_sethostname, &[root, 1]), libc::EPERM)?;
        fails("setdomainname", call(libc::SYS_setdomainname, &[root, 1]), libc::EPERM)?;
        fails("clear the log", call(libc::SYS_syslog, &[5, 0, 0]), libc::EPERM)?;
        fails("read the log", call(libc::SYS_syslog, &[2, root, 0]), libc::EPERM)
    })
}

fn names() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    // The name that it has: this machine keeps it.
    let name = rustix::system::uname().nodename().to_owned();
    let length = name.to_bytes().len() as u64;
    fails("too long", call(libc::SYS_sethostname, &[name.as_ptr() as u64, 65]), libc::EINVAL)?;
    fails("negative", call(libc::SYS_sethostname, &[name.as_ptr() as u64, -1_i64 as u64]), libc::EINVAL)?;
    fails("nowhere", call(libc::SYS_sethostname, &[1, 3]), libc::EFAULT)?;
    works("the same", call(libc::SYS_sethostname, &[name.as_ptr() as u64, length]))?;
    same("kept", rustix::system::uname().nodename().to_owned(), name.clone())?;
    let shown = std::fs::read_to_string("/proc/sys/kernel/hostname").map_err(text)?;
    same("in /proc", shown.trim_end().to_string(), name.to_string_lossy().into_owned())?;
    let domain = rustix::system::uname().domainname().to_owned();
    works("domain", call(libc::SYS_setdomainname, &[domain.as_ptr() as u64, domain.to_bytes().len() as u64]))?;
    same("kept", rustix::system::uname().domainname().to_owned(), domain)?;
    fails("log of nothing", call(libc::SYS_syslog, &[3, 0, 10]), libc::EINVAL)?;
    fails("no such action", call(libc::SYS_syslog, &[77, 0, 0]), libc::EINVAL)?;
    fails("no such level", call(libc::SYS_syslog, &[8, 0, 9]), libc::EINVAL)
}

fn clock() -> Outcome {
    let mut timex = [0_u64; 26];
    let addr = timex.as_mut_ptr() as u64;
    let state = works("adjtimex", call(libc::SYS_adjtimex, &[addr]))?;
    that(&format!("state {state}"), state <= 5)?;
    that(&format!("tick {}", timex[11]), (9_000..=11_000).contains(&timex[11]))?;
    that(&format!("time {}", timex[9]), timex[9] > 1_704_067_200)?;
    fails("clock_adjtime of another", call(libc::SYS_clock_adjtime, &[1, addr]), libc::EOPNOTSUPP)?;
    fails("of none", call(libc::SYS_clock_adjtime, &[77, addr]), libc::EINVAL)?;
    fails("nowhere", call(libc::SYS_adjtimex, &[1]), libc::EFAULT)?;
    timex = [0; 26];
    timex[0] = 0x8000;
    fails("not at once", call(libc::SYS_adjtimex, &[timex.as_mut_ptr() as u64]), libc::EINVAL)?;
    as_nobody(|| {
        let mut timex = [0_u64; 26];
        works("clock_adjtime", call(libc::SYS_clock_adjtime, &[0, timex.as_mut_ptr() as u64]))?;
        timex[0] = 2;
        fails("frequency", call(libc::SYS_adjtimex, &[timex.as_mut_ptr() as u64]), libc::EPERM)?;
        let bad = [1_u64, 1_000_000];
        fails("no time", call(libc::SYS_settimeofday, &[bad.as_ptr() as u64, 0]), libc::EINVAL)?;
        fails("settimeofday", call(libc::SYS_settimeofday, &[[1_u64, 0].as_ptr() as u64, 0]), libc::EPERM)?;
        fails("clock_settime", call(libc::SYS_clock_settime, &[0, [1_u64, 0].as_ptr() as u64]), libc::EPERM)?;
        fails("monotonic", call(libc::SYS_clock_settime, &[1, [1_u64, 0].as_ptr() as u64]), libc::EINVAL)
    })
}

fn personality() -> Outcome {
    const ASK: u64 = 0xffff_ffff;
    const NO_RANDOMIZE: u64 = 0x4_0000;
    const LINUX32: u64 = 8;
    apart(|| {
        let first = works("ask", call(libc::SYS_personality, &[ASK]))?;
        same("set", works("set", call(libc::SYS_personality, &[NO_RANDOMIZE]))?, first)?;
        same("shown", std::fs::read_to_string("/proc/self/personality").map_err(text)?, "00040000\n".to_string())?;
        apart(|| same("inherited", works("ask", call(libc::SYS_personality, &[ASK]))?, NO_RANDOMIZE))?;
        works("32 bits", call(libc::SYS_personality, &[LINUX32]))?;
        same("machine", rustix::system::uname().machine().to_string_lossy().into_owned(), "i686".to_string())
    })
}

fn scheduling() -> Outcome {
    const RESETS: u64 = 0x4000_0000;
    let zero = 0_u32;
    let zero = &raw const zero as u64;
    apart(|| {
        works("batch", call(libc::SYS_sched_setscheduler, &[0, 3, zero]))?;
        same("kept", works("get", call(libc::SYS_sched_getscheduler, &[0]))?, 3)?;
        apart(|| same("inherited", works("get", call(libc::SYS_sched_getscheduler, &[0]))?, 3))?;
        works("reset", call(libc::SYS_sched_setscheduler, &[0, 3 | RESETS, zero]))?;
        same("kept", works("get", call(libc::SYS_sched_getscheduler, &[0]))?, 3 | RESETS)?;
        apart(|| same("the flag is not", works("get", call(libc::SYS_sched_getscheduler, &[0]))?, 3))?;
        fails("no parameters", call(libc::SYS_sched_setscheduler, &[0, 0, 0]), libc::EINVAL)?;
        fails("no policy", call(libc::SYS_sched_setscheduler, &[0, 4, zero]), libc::EINVAL)?;
        fails("nobody", call(libc::SYS_sched_setscheduler, &[4_000_000, 0, zero]), libc::ESRCH)?;
        same("of deadlines", works("max", call(libc::SYS_sched_get_priority_max, &[6]))?, 0)?;
        let mut turn = [7_u64; 2];
        works("turn", call(libc::SYS_sched_rr_get_interval, &[0, turn.as_mut_ptr() as u64]))?;
        that(&format!("turn {turn:?}"), turn[0] == 0 && turn[1] < 1_000_000_000)
    })?;
    as_nobody(|| {
        let one = 1_u32;
        let one = &raw const one as u64;
        fails("real time", call(libc::SYS_sched_setscheduler, &[0, 1, one]), libc::EPERM)?;
        fails("real time of nothing", call(libc::SYS_sched_setscheduler, &[0, 1, zero]), libc::EINVAL)?;
        fails("another's", call(libc::SYS_sched_setscheduler, &[parent(), 0, zero]), libc::EPERM)
    })
}

/// The parent's id; without rights it belongs to another user.
fn parent() -> u64 {
    // Of whoever started the tests' process: root's, where the tests run as root.
    if rustix::process::geteuid().as_raw() == 12345 { std::os::unix::process::parent_id().into() } else { 1 }
}

fn attributes() -> Outcome {
    let mut words = [0_u32; 16];
    let addr = words.as_mut_ptr() as u64;
    let get = |id: u64, size: u64, flags: u64| call(libc::SYS_sched_getattr, &[id, addr, size, flags]);
    fails("too small", get(0, 47, 0), libc::EINVAL)?;
    fails("flags", get(0, 56, 1), libc::EINVAL)?;
    fails("too large", get(0, 5000, 0), libc::EINVAL)?;
    fails("nobody", get(4_000_000, 56, 0), libc::ESRCH)?;
    works("first form", get(0, 48, 0))?;
    same("size", words[0], 48)?;
    works("all", get(0, 64, 0))?;
    same("size and policy", (words[0], words[1]), (56, 0))?;
    apart(|| {
        let set = |words: &mut [u32; 16]| call(libc::SYS_sched_setattr, &[0, words.as_mut_ptr() as u64, 0]);
        let mut words = [0_u32; 16];
        // Size, policy, flags, nice value.
        (words[0], words[1], words[2], words[4]) = (48, 3, 1, 5);
        works("set", set(&mut words))?;
        let mut got = [0_u32; 16];
        works("get", call(libc::SYS_sched_getattr, &[0, got.as_mut_ptr() as u64, 56, 0]))?;
        same("kept", (got[1], got[2], got[4], got[5]), (3, 1, 5, 0))?;
        same("nice", works("getpriority", call(libc::SYS_getpriority, &[0, 0]))?, 15)?;
        same("policy", works("get", call(libc::SYS_sched_getscheduler, &[0]))?, 3 | 0x4000_0000)?;
        words[0] = 20;
        fails("too small", set(&mut words), libc::E2BIG)?;
        that("says how large", words[0] >= 56)?;
        (words[0], words[15]) = (64, 1);
        fails("unknown", set(&mut words), libc::E2BIG)?;
        (words[0], words[1], words[15]) = (48, 9, 0);
        fails("policy", set(&mut words), libc::EINVAL)
    })
}

/// A child of one with SCHED_FLAG_RESET_ON_FORK does not keep a nice value below 0.
fn resets() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    apart(|| {
        let mut words = [0_u32; 16];
        (words[0], words[2], words[4]) = (48, 1, -5_i32 as u32);
        works("set", call(libc::SYS_sched_setattr, &[0, words.as_mut_ptr() as u64, 0]))?;
        same("nice", works("getpriority", call(libc::SYS_getpriority, &[0, 0]))?, 25)?;
        apart(|| same("of a child", works("getpriority", call(libc::SYS_getpriority, &[0, 0]))?, 20))
    })
}

fn input_output() -> Outcome {
    const IDLE: u64 = 3 << 13;
    const BEST: u64 = 2 << 13;
    fails("whose", call(libc::SYS_ioprio_get, &[9, 0]), libc::EINVAL)?;
    fails("nobody", call(libc::SYS_ioprio_get, &[1, 4_000_000]), libc::ESRCH)?;
    fails("class", call(libc::SYS_ioprio_set, &[1, 0, 7 << 13]), libc::EINVAL)?;
    fails("none of a level", call(libc::SYS_ioprio_set, &[1, 0, 3]), libc::EINVAL)?;
    apart(|| {
        works("idle", call(libc::SYS_ioprio_set, &[1, 0, IDLE]))?;
        same("kept", works("get", call(libc::SYS_ioprio_get, &[1, 0]))?, IDLE)?;
        apart(|| same("inherited", works("get", call(libc::SYS_ioprio_get, &[1, 0]))?, IDLE))?;
        works("best effort", call(libc::SYS_ioprio_set, &[1, 0, BEST | 6]))?;
        same("kept", works("get", call(libc::SYS_ioprio_get, &[1, std::process::id().into()]))?, BEST | 6)
    })?;
    as_nobody(|| fails("real time", call(libc::SYS_ioprio_set, &[1, 0, 1 << 13]), libc::EPERM))
}

fn limits_of_others() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    let parent: u64 = std::process::id().into();
    let mut old = [0_u64; 2];
    let addr = old.as_mut_ptr() as u64;
    works("one's own", call(libc::SYS_prlimit64, &[parent, 7, 0, addr]))?;
    as_nobody(|| {
        let mut old = [0_u64; 2];
        let addr = old.as_mut_ptr() as u64;
        fails("root's", call(libc::SYS_prlimit64, &[parent, 7, 0, addr]), libc::EPERM)?;
        fails("nobody's", call(libc::SYS_prlimit64, &[4_000_000, 7, 0, addr]), libc::ESRCH)?;
        works("one's own", call(libc::SYS_prlimit64, &[0, 7, 0, addr]))?;
        let more = [old[0], old[1].saturating_add(1)];
        if old[1] != u64::MAX {
            fails("raise", call(libc::SYS_prlimit64, &[0, 7, more.as_ptr() as u64, 0]), libc::EPERM)?;
        }
        works("the same", call(libc::SYS_prlimit64, &[0, 7, old.as_ptr() as u64, 0])).map(|_| ())
    })
}

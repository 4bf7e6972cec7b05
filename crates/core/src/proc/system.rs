//! Texts of /proc that tell of the kernel and of the program as a whole.
use super::Proc;
use crate::thread::State;
use alloc::{format, string::String};
use shimos_abi::{addr::PAGE, ids::PIDS_PER_PROGRAM, time::Nanos};

/// Nanoseconds in a clock tick of USER_HZ, 100 a second.
const TICK: u64 = 10_000_000;
/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// Clock ticks in a span.
pub(super) fn ticks(time: Nanos) -> u64 {
    time.0 / TICK
}

/// Seconds and hundredths.
fn seconds(time: Nanos) -> String {
    format!("{}.{:02}", time.0 / SECOND, time.0 / TICK % 100)
}

/// What uname(2) calls the release.
pub(super) fn release() -> String {
    String::from("6.1.0-shimos")
}

impl Proc<'_> {
    /// What uname(2) calls the version.
    pub(super) fn build(&self) -> String {
        format!("Shimos {} {}", env!("CARGO_PKG_VERSION"), self.life)
    }

    /// /proc/version: says that it is Shimos, and which kernel of how many.
    pub(super) fn version(&self) -> String {
        let (release, version) = (release(), env!("CARGO_PKG_VERSION"));
        format!("Linux version {release} (Shimos {version} kernel {}) one of {} kernels\n", self.life, self.kernels)
    }

    /// Processor time that the program has used.
    fn used(&self) -> Nanos {
        let ended = self.processes.values().fold(Nanos(0), |sum, process| sum + process.ended_used);
        let reaped = self.processes.values().fold(ended, |sum, process| sum + process.children_used);
        self.threads.values().fold(reaped, |sum, thread| sum + thread.used)
    }

    /// Time that this processor did not spend on the program since the machine started.
    fn idle(&self) -> Nanos {
        self.now - self.used()
    }

    /// Threads that run or want to.
    fn running(&self) -> usize {
        self.threads.values().filter(|thread| thread.state == State::Ready).count()
    }

    /// The last process id given out.
    fn last_pid(&self) -> u64 {
        u64::from(self.head.id.0) * u64::from(PIDS_PER_PROGRAM) + u64::from(self.head.last_pid)
    }

    pub(super) fn stat(&self) -> String {
        let (user, idle) = (ticks(self.used()), ticks(self.idle()));
        let booted = self.wall.saturating_sub(self.now.0) / SECOND;
        let mut text = String::new();
        for name in ["cpu ", "cpu0"] {
            text += &format!("{name} {user} 0 0 {idle} 0 0 0 0 0 0\n");
        }
        text + &format!(
            "intr 0\nctxt 0\nbtime {booted}\nprocesses {}\nprocs_running {}\nprocs_blocked 0\n\
             softirq 0 0 0 0 0 0 0 0 0 0 0\n",
            self.head.last_pid,
            self.running()
        )
    }

    pub(super) fn memory_info(&self) -> String {
        let kib = |pages: u64| pages.saturating_mul(PAGE as u64 / 1024);
        let (total, free) = (kib(self.memory.0), kib(self.memory.1));
        let spaces = self.spaces.values();
        let anonymous = kib(spaces.fold(0_u64, |sum, space| sum.saturating_add(space.owned_pages() as u64)));
        let mut text = String::new();
        for (name, value) in [
            ("MemTotal", total),
            ("MemFree", free),
            ("MemAvailable", free),
            ("Buffers", 0),
            ("Cached", 0),
            ("SwapCached", 0),
            ("Active", anonymous),
            ("Inactive", 0),
            ("SwapTotal", 0),
            ("SwapFree", 0),
            ("Dirty", 0),
            ("Writeback", 0),
            ("AnonPages", anonymous),
            ("Mapped", 0),
            ("Shmem", 0),
            ("Slab", 0),
            ("CommitLimit", total),
            ("Committed_AS", anonymous),
            ("AnonHugePages", 0),
        ] {
            text += &format!("{:<15} {value:>8} kB\n", format!("{name}:"));
        }
        text + "HugePages_Total:       0\nHugePages_Free:        0\nHugepagesize:       2048 kB\n"
    }

    pub(super) fn cpu_info(&self) -> String {
        format!(
            "processor\t: 0\nvendor_id\t: Shimos\ncpu family\t: 6\nmodel\t\t: 0\nmodel name\t: x86-64, core of {}\n\
             stepping\t: 0\nphysical id\t: 0\nsiblings\t: 1\ncore id\t\t: 0\ncpu cores\t: 1\nfpu\t\t: yes\n\
             fpu_exception\t: yes\nwp\t\t: yes\n\
             flags\t\t: fpu tsc cx8 cmov mmx fxsr sse sse2 syscall nx lm constant_tsc\n\
             clflush size\t: 64\ncache_alignment\t: 64\n\n",
            self.life
        )
    }

    pub(super) fn uptime(&self) -> String {
        format!("{} {}\n", seconds(self.now), seconds(self.idle()))
    }

    /// No averages are kept; what runs now stands for all three.
    pub(super) fn load(&self) -> String {
        let running = self.running();
        let (all, last) = (self.threads.len(), self.last_pid());
        format!("{running}.00 {running}.00 {running}.00 {running}/{all} {last}\n")
    }
}

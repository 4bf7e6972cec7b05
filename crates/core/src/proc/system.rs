//! Texts of /proc that tell of the kernel and of the program as a whole.
use super::{Proc, memory::kib};
use crate::thread::{Counters, State};
use alloc::{format, string::String};
use shimos_abi::{ids::PIDS_PER_PROGRAM, time::Nanos};

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
        self.moment.now() - self.used()
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
        let (system, idle) = (ticks(self.done().system), ticks(self.idle()));
        let user = ticks(self.used() - self.done().system);
        let booted = self.moment.wall().saturating_sub(self.moment.now().0) / SECOND;
        let mut text = String::new();
        for name in ["cpu ", "cpu0"] {
            text += &format!("{name} {user} 0 {system} {idle} 0 0 0 0 0 0\n");
        }
        let done = self.done();
        let turns = done.waits.wrapping_add(done.preemptions);
        text + &format!(
            "intr 0\nctxt {turns}\nbtime {booted}\nprocesses {}\nprocs_running {}\nprocs_blocked 0\n\
             softirq 0 0 0 0 0 0 0 0 0 0 0\n",
            self.head.last_pid,
            self.running()
        )
    }

    pub(super) fn memory_info(&self) -> String {
        let (total, free) = (kib(self.moment.memory().total), kib(self.moment.memory().free));
        let (cached, shared) = (kib(self.moment.memory().cached), kib(self.written()));
        let spaces = self.spaces.values();
        let anonymous = kib(spaces.fold(0_u64, |sum, space| sum.saturating_add(space.owned_pages() as u64)));
        let mut text = String::new();
        for (name, value) in [
            ("MemTotal", total),
            ("MemFree", free),
            ("MemAvailable", free.saturating_add(cached)),
            ("Buffers", 0),
            ("Cached", cached.saturating_add(shared)),
            ("SwapCached", 0),
            ("Active", anonymous),
            ("Inactive", cached.saturating_add(shared)),
            ("Active(anon)", anonymous),
            ("Inactive(anon)", shared),
            ("Active(file)", 0),
            ("Inactive(file)", cached),
            ("Unevictable", 0),
            ("Mlocked", 0),
            ("SwapTotal", 0),
            ("SwapFree", 0),
            ("Dirty", 0),
            ("Writeback", 0),
            ("AnonPages", anonymous),
            ("Mapped", 0),
            ("Shmem", shared),
            ("KReclaimable", 0),
            ("Slab", 0),
            ("SReclaimable", 0),
            ("SUnreclaim", 0),
            ("KernelStack", 0),
            ("PageTables", 0),
            ("CommitLimit", total),
            ("Committed_AS", anonymous),
            ("VmallocTotal", 34_359_738_367),
            ("VmallocUsed", 0),
            ("VmallocChunk", 0),
            ("AnonHugePages", 0),
        ] {
            text += &format!("{:<15} {value:>8} kB\n", format!("{name}:"));
        }
        text + "HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\nHugePages_Surp:        0\n\
                Hugepagesize:       2048 kB\nHugetlb:               0 kB\n"
    }

    pub(super) fn cpu_info(&self) -> String {
        format!(
            "processor\t: 0\nvendor_id\t: Shimos\ncpu family\t: 6\nmodel\t\t: 0\nmodel name\t: x86-64, core of {}\n\
             stepping\t: 0\ncpu MHz\t\t: 1000.000\ncache size\t: 0 KB\nphysical id\t: 0\nsiblings\t: 1\ncore id\t\t: 0\ncpu cores\t: 1\napicid\t\t: 0\n\
             initial apicid\t: 0\nfpu\t\t: yes\n\
             fpu_exception\t: yes\ncpuid level\t: 13\nwp\t\t: yes\n\
             flags\t\t: fpu tsc cx8 cmov mmx fxsr sse sse2 syscall nx lm constant_tsc\n\
             bogomips\t: 2000.00\nclflush size\t: 64\ncache_alignment\t: 64\n\
             address sizes\t: 40 bits physical, 48 bits virtual\npower management:\n\n",
            self.life
        )
    }

    pub(super) fn uptime(&self) -> String {
        format!("{} {}\n", seconds(self.moment.now()), seconds(self.idle()))
    }

    pub(super) fn load(&self) -> String {
        let [one, five, fifteen] = self.head.load.averages();
        let (all, last) = (self.threads.len(), self.last_pid());
        format!("{one} {five} {fifteen} {}/{all} {last}\n", self.running())
    }

    /// What all threads of the program have done.
    fn done(&self) -> Counters {
        let of_processes = self
            .processes
            .values()
            .fold(Counters::default(), |sum, process| sum.with(process.ended_counters).with(process.children_counters));
        self.threads.values().fold(of_processes, |sum, thread| sum.with(thread.counters))
    }

    /// Pages of written files and of shared memory.
    fn written(&self) -> u64 {
        self.objects.iter().fold(0, |sum, (_, object)| sum.saturating_add(object.resident() as u64))
    }

    /// vmstat: of Linux's counters those that mean something here.
    pub(super) fn memory_counters(&self) -> String {
        let done = self.done();
        let owned = self.spaces.values().fold(0_u64, |sum, space| sum.saturating_add(space.owned_pages() as u64));
        let mut text = String::new();
        for (name, value) in [
            ("nr_free_pages", self.moment.memory().free),
            ("nr_anon_pages", owned),
            ("nr_mapped", 0),
            ("nr_file_pages", self.moment.memory().cached.saturating_add(self.written())),
            ("nr_dirty", 0),
            ("nr_writeback", 0),
            ("nr_shmem", self.written()),
            ("pgpgin", 0),
            ("pgpgout", 0),
            ("pswpin", 0),
            ("pswpout", 0),
            ("pgfault", done.minor_faults.wrapping_add(done.major_faults)),
            ("pgmajfault", done.major_faults),
            ("oom_kill", 0),
        ] {
            text += &format!("{name} {value}\n");
        }
        text
    }
}

/// Character and block devices by number.
pub(super) const DEVICES: &str =
    "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n 10 misc\n136 pts\n\nBlock devices:\n";

/// Drivers of terminals: name, device, major number, minor numbers, kind.
pub(super) const TERMINAL_DRIVERS: &str = "\
/dev/tty             /dev/tty        5       0 system:/dev/tty
/dev/console         /dev/console    5       1 system:console
/dev/ptmx            /dev/ptmx       5       2 system
pty_slave            /dev/pts      136 0-1048575 pty:slave
pty_master           /dev/ptm      128 0-1048575 pty:master
";

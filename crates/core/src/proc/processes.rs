//! Texts of /proc that tell of one process or thread.
use super::{File, Node, Proc, ROOT_DEVICE, memory::kib, system::ticks};
use crate::{
    devpts::SLAVE_MAJOR,
    files::{Kind as Open, OnExec},
    jobs::TtyName,
    pressure,
    process::{Process, UNLIMITED},
    signal::{Action, SigSet, Signal},
    thread::{Counters, Scheduling, State, Thread},
};
use alloc::{format, string::String, vec::Vec};
use shimos_abi::{addr::PAGE, errno::Errno, ids::Pid, time::Nanos};
use shimos_memory::{AddressSpace, Prot, Sharing, VmaFlags};
use shimos_vfs::{NodeId, Rdev};

/// A controlling terminal.
#[derive(Clone, Copy)]
pub(super) struct Tty {
    /// Which.
    pub name: TtyName,
    /// The process group in the foreground.
    pub foreground: Option<Pid>,
}

/// The number of a terminal, as stat shows it.
fn device_number(name: TtyName) -> u64 {
    match name {
        TtyName::Console => Rdev { major: 5, minor: 1 },
        TtyName::Slave(pair) => Rdev { major: SLAVE_MAJOR, minor: pair.0 },
    }
    .encoded()
}

/// One thread of a process, or the process as a whole.
#[derive(Clone, Copy)]
enum Subject<'a> {
    Whole,
    One(&'a Thread),
}

/// The priority of a thread as stat shows it: below 0 if it is real-time.
fn shown_priority(thread: Option<&Thread>, nice: i8) -> i32 {
    match thread.map_or(0, Thread::priority) {
        0 => 20 + i32::from(nice),
        priority => -1 - i32::from(priority),
    }
}

/// The names and units of the resource limits, by `RLIMIT_` number.
const LIMIT_NAMES: [(&str, &str); 16] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

/// Signals that are ignored, and those that are caught.
fn dispositions(process: &Process) -> (SigSet, SigSet) {
    let (mut ignored, mut caught) = (SigSet::default(), SigSet::default());
    for (number, action) in (1..).zip(process.actions.iter()) {
        let Some(signal) = Signal::new(number) else { break };
        match action.handler {
            0 => {}
            Action::IGNORE => ignored = ignored.with(signal),
            _ => caught = caught.with(signal),
        }
    }
    (ignored, caught)
}

/// A name with what would end a line taken out.
fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('\n', "\\n")
}

impl Proc<'_> {
    /// The text of a file of a process. EISDIR and EINVAL for what has none.
    pub(super) fn process_text(&self, node: Node, tty: Option<Tty>) -> Result<Vec<u8>, Errno> {
        if !node.file.within(File::Process) {
            return Err(Errno::EINVAL);
        }
        let process = self.process(node)?;
        let subject = if node.file.within(File::Task) { Subject::One(self.task(node)?) } else { Subject::Whole };
        let text = match node.file.of_process() {
            File::ProcessStat => self.process_stat(process, subject, tty),
            File::ProcessStatus => self.status(process, subject),
            File::Comm => self.name(process, subject) + "\n",
            File::StatM => self.memory_pages(process),
            File::Limits => limits(process),
            File::Mounts => mounts(),
            File::MountInfo => mount_info(),
            File::MountStats => mount_statistics(),
            File::OomScoreAdj => format!("{}\n", process.oom_adjustment.unwrap_or(0)),
            File::OomScore => {
                let total = self.moment.memory().total;
                let badness = pressure::badness(self.space(process), process, total);
                format!("{}\n", pressure::score(badness, total))
            }
            File::FdInfo => self.descriptor_info(process, node.number)?,
            File::Io => {
                self.inspect(process)?;
                io(self.counters(process, subject))
            }
            File::WaitChannel => "0".into(),
            File::ControlGroup => "0::/\n".into(),
            File::LoginUser => format!("{}", process.login.unwrap_or(u32::MAX)),
            File::LoginSession => format!("{}", u32::MAX),
            File::Scheduling => self.scheduling(process, subject),
            File::SchedulingCounts => {
                let counters = self.counters(process, subject);
                let turns = counters.waits.wrapping_add(counters.preemptions);
                format!("{} 0 {turns}\n", self.used_by(process, subject).0)
            }
            File::Personality => {
                self.inspect(process)?;
                format!("{:08x}\n", process.personality)
            }
            File::UserMap | File::GroupMap => format!("{:10} {:10} {:10}\n", 0, 0, u32::MAX),
            File::SetGroups => "allow\n".into(),
            File::TaskChildren => self.children(process, subject),
            _ => return Err(Errno::EINVAL),
        };
        Ok(text.into_bytes())
    }

    /// The name of a thread, or of a process: that of its first thread.
    fn name(&self, process: &Process, subject: Subject<'_>) -> String {
        match subject {
            Subject::One(Thread { name: Some(name), .. }) => name.clone(),
            _ => process.comm.clone(),
        }
    }

    /// Processor time of a thread, or of all that a process has had.
    fn used_by(&self, process: &Process, subject: Subject<'_>) -> Nanos {
        match subject {
            Subject::One(thread) => thread.used,
            Subject::Whole => self.threads_of(process.pid).fold(process.ended_used, |sum, thread| sum + thread.used),
        }
    }

    /// What a thread has done, or all that a process has had.
    fn counters(&self, process: &Process, subject: Subject<'_>) -> Counters {
        match subject {
            Subject::One(thread) => thread.counters,
            Subject::Whole => {
                let threads = self.threads_of(process.pid);
                threads.fold(process.ended_counters, |sum, thread| sum.with(thread.counters))
            }
        }
    }

    /// sched: a part of what Linux tells.
    fn scheduling(&self, process: &Process, subject: Subject<'_>) -> String {
        let (used, counters) = (self.used_by(process, subject), self.counters(process, subject));
        let thread = self.leading(process, subject);
        let threads = self.threads_of(process.pid).count();
        let head = format!("{} ({}, #threads: {threads})", self.name(process, subject), self.id(process, subject));
        let mut text = format!("{head}\n{}\n", "-".repeat(67));
        let millis = format!("{}.{:06}", used.0 / 1_000_000, used.0 % 1_000_000);
        for (name, value) in [
            ("se.sum_exec_runtime", millis),
            ("nr_switches", format!("{}", counters.waits.wrapping_add(counters.preemptions))),
            ("nr_voluntary_switches", format!("{}", counters.waits)),
            ("nr_involuntary_switches", format!("{}", counters.preemptions)),
            ("policy", format!("{}", thread.map_or(0, |thread| thread.scheduling.policy))),
            ("prio", format!("{}", 100 + shown_priority(thread, process.nice.value()))),
        ] {
            text += &format!("{name:<45}:{value:>21}\n");
        }
        text
    }

    /// The processes that a thread has started: all of the process's are the first thread's.
    fn children(&self, process: &Process, subject: Subject<'_>) -> String {
        if self.id(process, subject) != process.pid {
            return String::new();
        }
        let children = self.processes.values().filter(|child| child.parent == process.pid);
        children.map(|child| format!("{} ", child.pid)).collect()
    }

    /// The id of a thread or process.
    fn id(&self, process: &Process, subject: Subject<'_>) -> Pid {
        match subject {
            Subject::One(thread) => thread.tid,
            Subject::Whole => process.pid,
        }
    }

    /// What a process or thread does: its letter in stat and status.
    fn state(&self, process: &Process, subject: Subject<'_>) -> char {
        if process.zombie.is_some() {
            return 'Z';
        }
        if process.stopped.is_some() {
            return 'T';
        }
        let letter = |thread: &Thread| match thread.state {
            State::Ready => 'R',
            State::Blocked => 'S',
            State::Stopped => 'T',
        };
        match subject {
            Subject::One(thread) => letter(thread),
            // The first thread may end before the others.
            Subject::Whole => self.threads.get(&process.pid).map_or('Z', letter),
        }
    }

    /// The thread that stands for a process, or the one that is meant.
    fn leading<'t>(&'t self, process: &Process, subject: Subject<'t>) -> Option<&'t Thread> {
        match subject {
            Subject::One(thread) => Some(thread),
            Subject::Whole => self.threads.get(&process.pid),
        }
    }

    /// stat, as in proc(5).
    fn process_stat(&self, process: &Process, subject: Subject<'_>, tty: Option<Tty>) -> String {
        let (id, used) = (self.id(process, subject), self.used_by(process, subject));
        let done = self.counters(process, subject);
        let (children, theirs) = match subject {
            Subject::One(_) => (Nanos(0), Counters::default()),
            Subject::Whole => (process.children_used, process.children_counters),
        };
        let leader = self.leading(process, subject);
        let (terminal, foreground) = match tty.filter(|_| process.zombie.is_none()) {
            None => (0, -1),
            Some(tty) => (device_number(tty.name), tty.foreground.map_or(-1, |group| i64::from(group.0))),
        };
        let threads = self.threads_of(process.pid).count();
        let space = self.space(process);
        let bytes = space.map_or(0, |space| space.mappings().total_pages().saturating_mul(PAGE as u64));
        let resident = space.map_or(0, AddressSpace::resident);
        let heap = space.map_or(0, |space| space.heap_start().0);
        let limit = process.limits.get(5).map_or(UNLIMITED, |limit| limit.0);
        let pending = process.pending.set().0 | leader.map_or(0, |thread| thread.pending.set().0);
        let blocked = leader.map_or(0, |thread| thread.mask.0);
        let (ignored, caught) = dispositions(process);
        let low = |set: u64| set & 0x7fff_ffff;
        let exit_signal = process.exit_signal.map_or(0, Signal::number);
        let exit_code = process.zombie.map_or(0, |ending| ending.status());
        // Fresh from fork, and nothing executed yet.
        let flags = if process.executed.is_none() { 0x40 } else { 0 };
        // Where things lie is for those to know who may look into the process.
        let seen = self.inspect(process).is_ok() && space.is_some();
        let hide = |address: u64| if seen { address } else { 0 };
        let (layout, nice) = (process.layout, process.nice.value());
        let scheduling = leader.map_or(Scheduling::default(), |thread| thread.scheduling);
        let policy = scheduling.policy;
        format!(
            "{id} ({}) {} {} {} {} {terminal} {foreground} {flags} {} {} {} {} {} {} {} {} {} {nice} {threads} 0 {} {bytes} \
             {resident} {limit} 0 0 {} 0 0 {} {} {} {} 0 0 0 {exit_signal} 0 {} {policy} 0 0 0 0 0 {} {} {} {} {} {exit_code}\n",
            escaped(&self.name(process, subject)),
            self.state(process, subject),
            process.parent,
            process.group,
            process.session,
            done.minor_faults,
            theirs.minor_faults,
            done.major_faults,
            theirs.major_faults,
            ticks(used - done.system),
            ticks(done.system),
            ticks(children - theirs.system),
            ticks(theirs.system),
            shown_priority(leader, nice),
            ticks(process.started),
            hide(layout.stack),
            low(pending),
            low(blocked),
            low(ignored.0),
            low(caught.0),
            scheduling.priority.unwrap_or(0),
            hide(heap),
            hide(layout.arguments.0),
            hide(layout.arguments.1),
            hide(layout.environment.0),
            hide(layout.environment.1),
        )
    }

    /// status, as in proc(5).
    fn status(&self, process: &Process, subject: Subject<'_>) -> String {
        let thread = self.leading(process, subject);
        let (id, done) = (self.id(process, subject), self.counters(process, subject));
        let letter = self.state(process, subject);
        let word = match letter {
            'R' => "running",
            'T' => "stopped",
            'Z' => "zombie",
            _ => "sleeping",
        };
        let k = &process.credentials;
        let groups: String = k.groups.iter().map(|group| format!("{group} ")).collect();
        let slots = self.table(process).map_or(0, |table| table.iter().count().next_multiple_of(64));
        let mut text = format!(
            "Name:\t{}\nUmask:\t{:04o}\nState:\t{letter} ({word})\nTgid:\t{}\nNgid:\t0\nPid:\t{id}\nPPid:\t{}\n\
             TracerPid:\t0\nUid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t{slots}\nGroups:\t{groups}\n\
             NStgid:\t{}\nNSpid:\t{id}\nNSpgid:\t{}\nNSsid:\t{}\n",
            escaped(&self.name(process, subject)),
            process.umask,
            process.pid,
            process.parent,
            k.uid,
            k.euid,
            k.suid,
            k.euid,
            k.gid,
            k.egid,
            k.sgid,
            k.egid,
            process.pid,
            process.group,
            process.session,
        );
        if let Some(space) = self.space(process) {
            let sizes = Sizes::of(space);
            let (size, resident, own) = (kib(sizes.all), kib(space.resident() as u64), kib(space.owned_pages() as u64));
            for (name, value) in [
                ("VmPeak", size),
                ("VmSize", size),
                ("VmLck", kib(sizes.locked)),
                ("VmPin", 0),
                ("VmHWM", kib(process.peak.max(space.peak()))),
                ("VmRSS", resident),
                ("RssAnon", own),
                ("RssFile", resident.saturating_sub(own)),
                ("RssShmem", 0),
                ("VmData", kib(sizes.data)),
                ("VmStk", kib(sizes.stack)),
                ("VmExe", kib(sizes.text)),
                ("VmLib", 0),
                ("VmPTE", 0),
                ("VmSwap", 0),
            ] {
                text += &format!("{name}:\t{value:>8} kB\n");
            }
        }
        let own = thread.map_or(0, |thread| thread.pending.set().0);
        let blocked = thread.map_or(0, |thread| thread.mask.0);
        let (ignored, caught) = dispositions(process);
        let queued = (process.pending.set().0 | own).count_ones();
        let limit = process.limits.get(11).map_or(0, |limit| limit.0);
        let rights = &process.rights;
        text + &format!(
            "CoreDumping:\t0\nTHP_enabled:\t1\nThreads:\t{}\nSigQ:\t{queued}/{limit}\nSigPnd:\t{own:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{blocked:016x}\n\
             SigIgn:\t{:016x}\nSigCgt:\t{:016x}\nCapInh:\t{:016x}\nCapPrm:\t{:016x}\n\
             CapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\nNoNewPrivs:\t{}\nSeccomp:\t0\n\
             Cpus_allowed:\t1\nCpus_allowed_list:\t0\nMems_allowed:\t1\nMems_allowed_list:\t0\n\
             voluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}\n",
            self.threads_of(process.pid).count(),
            process.pending.set().0,
            ignored.0,
            caught.0,
            rights.inheritable,
            rights.permitted,
            rights.effective,
            rights.bounding,
            rights.ambient,
            u8::from(rights.nothing_new),
            done.waits,
            done.preemptions,
        )
    }

    /// statm, as in proc(5).
    fn memory_pages(&self, process: &Process) -> String {
        let Some(space) = self.space(process) else { return "0 0 0 0 0 0 0\n".into() };
        let sizes = Sizes::of(space);
        let resident = space.resident();
        let shared = resident.saturating_sub(space.owned_pages());
        let data = sizes.data.saturating_add(sizes.stack);
        format!("{} {resident} {shared} {} 0 {data} 0\n", sizes.all, sizes.text)
    }

    /// fdinfo, as in proc(5).
    fn descriptor_info(&self, process: &Process, fd: u32) -> Result<String, Errno> {
        let (descriptor, description) = self.descriptor(process, fd)?;
        let close = if descriptor.on_exec == OnExec::Close { 0o2_000_000 } else { 0 };
        Ok(format!(
            "pos:\t{}\nflags:\t0{:o}\nmnt_id:\t{ROOT_DEVICE}\nino:\t{}\n",
            description.offset,
            description.flags | close,
            inode(&description.kind)
        ))
    }
}

/// Pages mapped, by what they are for.
#[derive(Default)]
struct Sizes {
    all: u64,
    text: u64,
    data: u64,
    stack: u64,
    locked: u64,
}

impl Sizes {
    fn of(space: &AddressSpace) -> Sizes {
        let mut sizes = Sizes { all: space.mappings().total_pages(), ..Sizes::default() };
        for vma in space.mappings().iter() {
            if vma.flags.contains(VmaFlags::LOCKED) {
                sizes.locked = sizes.locked.saturating_add(vma.pages());
            }
            let counter = if vma.flags.contains(VmaFlags::STACK) {
                &mut sizes.stack
            } else if vma.prot.contains(Prot::EXECUTE) {
                &mut sizes.text
            } else if vma.prot.contains(Prot::WRITE) && vma.sharing == Sharing::Private {
                &mut sizes.data
            } else {
                continue;
            };
            *counter = counter.saturating_add(vma.pages());
        }
        sizes
    }
}

/// limits, as in proc(5).
fn limits(process: &Process) -> String {
    let value = |limit: u64| if limit == UNLIMITED { String::from("unlimited") } else { format!("{limit}") };
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for ((name, unit), (soft, hard)) in LIMIT_NAMES.iter().zip(process.limits.iter()) {
        text += &format!("{name:<25} {:<20} {:<20} {unit:<10}\n", value(*soft), value(*hard));
    }
    text
}

/// The inode number that fdinfo tells.
fn inode(kind: &Open) -> u64 {
    match kind {
        Open::PipeReader(pipe) | Open::PipeWriter(pipe) | Open::PipeBoth(pipe) => pipe.0.into(),
        Open::Socket(_) | Open::Unix(_) | Open::Netlink(_) => kind.socket_number().unwrap_or_default().into(),
        other => match other.node() {
            Some(NodeId::Lower(number) | NodeId::Upper(number)) => number,
            Some(NodeId::Synthetic { node, .. }) => node,
            None => 0,
        },
    }
}

/// io, as in proc(5). Nothing is counted below the calls: the disk is the whole machine's.
fn io(done: Counters) -> String {
    format!(
        "rchar: {}\nwchar: {}\nsyscr: {}\nsyscw: {}\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n",
        done.read_bytes, done.written_bytes, done.reads, done.writes
    )
}

/// The file systems that are mounted: what of, where, type, options, and the minor number of the device.
const MOUNTS: [(&str, &str, &str, &str, u32); 4] = [
    ("shimos", "/", "overlay", "rw,relatime", ROOT_DEVICE),
    ("proc", "/proc", "proc", "rw,nosuid,nodev,noexec,relatime", ROOT_DEVICE + 1),
    ("sysfs", "/sys", "sysfs", "ro,nosuid,nodev,noexec,relatime", ROOT_DEVICE + 2),
    ("devpts", "/dev/pts", "devpts", "rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=000", ROOT_DEVICE + 3),
];

fn mounts() -> String {
    MOUNTS.iter().map(|(what, at, kind, options, _)| format!("{what} {at} {kind} {options} 0 0\n")).collect()
}

fn mount_info() -> String {
    let mut text = String::new();
    for (what, at, kind, options, device) in MOUNTS {
        let above = if at == "/" { 1 } else { ROOT_DEVICE };
        let (state, _) = options.split_once(',').unwrap_or((options, ""));
        text += &format!("{device} {above} 0:{device} / {at} {options} - {kind} {what} {state}\n");
    }
    text
}

fn mount_statistics() -> String {
    MOUNTS.iter().map(|(what, at, kind, ..)| format!("device {what} mounted on {at} with fstype {kind}\n")).collect()
}

//! Texts of /proc that tell of one process or thread.
use super::{File, Node, Proc, system::ticks};
use crate::{
    files::OnExec,
    process::{Process, UNLIMITED},
    signal::{Action, SigSet, Signal},
    thread::{State, Thread},
};
use alloc::{format, string::String, vec::Vec};
use shimos_abi::{addr::PAGE, errno::Errno, ids::Pid, time::Nanos};
use shimos_memory::{AddressSpace, Prot, Sharing, Source, Vma, VmaFlags};

/// The program's console as a controlling terminal.
#[derive(Clone, Copy)]
pub(super) struct Tty {
    /// The session it controls.
    pub session: Option<Pid>,
    /// The process group in the foreground.
    pub foreground: Option<Pid>,
}

/// Number of /dev/console.
const CONSOLE: u32 = 5 << 8 | 1;

/// One thread of a process, or the process as a whole.
#[derive(Clone, Copy)]
enum Subject<'a> {
    Whole,
    One(&'a Thread),
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

/// Kibibytes of so many pages.
fn kib(pages: u64) -> u64 {
    pages.saturating_mul(PAGE as u64 / 1024)
}

/// Signals that are ignored, and those that are caught.
fn dispositions(process: &Process) -> (SigSet, SigSet) {
    let (mut ignored, mut caught) = (SigSet::default(), SigSet::default());
    for (number, action) in (1..).zip(&process.actions) {
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
    pub(super) fn process_text(&self, node: Node, tty: Tty) -> Result<Vec<u8>, Errno> {
        if !node.file.within(File::Process) {
            return Err(Errno::EINVAL);
        }
        let process = self.process(node)?;
        let text = match node.file {
            File::ProcessStat => self.process_stat(process, Subject::Whole, tty),
            File::ProcessStatus => self.status(process, Subject::Whole),
            File::TaskStat => self.process_stat(process, Subject::One(self.task(node)?), tty),
            File::TaskStatus => self.status(process, Subject::One(self.task(node)?)),
            File::Comm | File::TaskComm => process.comm.clone() + "\n",
            File::CommandLine if process.zombie.is_some() => String::new(),
            File::CommandLine => return Ok(process.arguments.clone()),
            File::Environ => {
                self.inspect(process)?;
                return Ok(if process.zombie.is_some() { Vec::new() } else { process.environment.clone() });
            }
            File::Maps | File::Smaps | File::SmapsRollup => {
                self.inspect(process)?;
                self.space(process).map(|space| maps(space, node.file)).unwrap_or_default()
            }
            File::StatM => self.memory_pages(process),
            File::Limits => limits(process),
            File::Mounts => "shimos / overlay rw,relatime 0 0\nproc /proc proc rw,nosuid,nodev,noexec,relatime 0 0\n\
                             sysfs /sys sysfs ro,nosuid,nodev,noexec,relatime 0 0\n"
                .into(),
            File::MountInfo => "1 0 0:1 / / rw,relatime - overlay shimos rw\n\
                                2 1 0:2 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n\
                                3 1 0:3 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro\n"
                .into(),
            File::OomScoreAdj => "0\n".into(),
            File::FdInfo => self.descriptor_info(process, node.number)?,
            _ => return Err(Errno::EINVAL),
        };
        Ok(text.into_bytes())
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
            Subject::Whole => {
                let leader = self.threads.get(&process.pid).or_else(|| self.threads_of(process.pid).next());
                leader.map_or('S', letter)
            }
        }
    }

    /// stat, as in proc(5).
    fn process_stat(&self, process: &Process, subject: Subject<'_>, tty: Tty) -> String {
        let (id, used, children) = match subject {
            Subject::One(thread) => (thread.tid, thread.used, Nanos(0)),
            Subject::Whole => {
                let used = self.threads_of(process.pid).fold(process.ended_used, |sum, thread| sum + thread.used);
                (process.pid, used, process.children_used)
            }
        };
        let leader = match subject {
            Subject::One(thread) => Some(thread),
            Subject::Whole => self.threads.get(&process.pid),
        };
        let controlled = process.zombie.is_none() && tty.session == Some(process.session);
        let (terminal, foreground) = match tty.foreground {
            _ if !controlled => (0, -1),
            None => (CONSOLE, -1),
            Some(group) => (CONSOLE, i64::from(group.0)),
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
        format!(
            "{id} ({}) {} {} {} {} {terminal} {foreground} 0 0 0 0 0 {} 0 {} 0 20 0 {threads} 0 {} {bytes} {resident} \
             {limit} 0 0 0 0 0 {} {} {} {} 0 0 0 {exit_signal} 0 0 0 0 0 0 0 0 {heap} 0 0 0 0 {exit_code}\n",
            process.comm,
            self.state(process, subject),
            process.parent,
            process.group,
            process.session,
            ticks(used),
            ticks(children),
            ticks(process.started),
            low(pending),
            low(blocked),
            low(ignored.0),
            low(caught.0),
        )
    }

    /// status, as in proc(5).
    fn status(&self, process: &Process, subject: Subject<'_>) -> String {
        let thread = match subject {
            Subject::One(thread) => Some(thread),
            Subject::Whole => self.threads.get(&process.pid),
        };
        let id = match subject {
            Subject::One(thread) => thread.tid,
            Subject::Whole => process.pid,
        };
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
             TracerPid:\t0\nUid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t{slots}\nGroups:\t{groups}\n",
            escaped(&process.comm),
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
        );
        if let Some(space) = self.space(process) {
            let sizes = Sizes::of(space);
            let (size, resident, own) = (kib(sizes.all), kib(space.resident() as u64), kib(space.owned_pages() as u64));
            for (name, value) in [
                ("VmPeak", size),
                ("VmSize", size),
                ("VmLck", kib(sizes.locked)),
                ("VmPin", 0),
                ("VmHWM", resident),
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
        // Root may do everything that there is to do.
        let capabilities: u64 = if k.euid == 0 { (1 << 41) - 1 } else { 0 };
        text + &format!(
            "Threads:\t{}\nSigQ:\t{queued}/{limit}\nSigPnd:\t{own:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{blocked:016x}\n\
             SigIgn:\t{:016x}\nSigCgt:\t{:016x}\nCapInh:\t{:016x}\nCapPrm:\t{capabilities:016x}\n\
             CapEff:\t{capabilities:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\nNoNewPrivs:\t0\nSeccomp:\t0\n\
             Cpus_allowed:\t1\nCpus_allowed_list:\t0\nMems_allowed:\t1\nMems_allowed_list:\t0\n\
             voluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n",
            self.threads_of(process.pid).count(),
            process.pending.set().0,
            ignored.0,
            caught.0,
            0,
            (1_u64 << 41) - 1,
            0,
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
        Ok(format!("pos:\t{}\nflags:\t0{:o}\nmnt_id:\t1\n", description.offset, description.flags | close))
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

/// One line of maps.
fn line(first: u64, end: u64, permissions: &str, offset: u64, inode: u64, name: &str) -> String {
    let device = if inode == 0 { "00:00" } else { "00:01" };
    let head = format!("{first:08x}-{end:08x} {permissions} {offset:08x} {device} {inode} ");
    if name.is_empty() { head + "\n" } else { format!("{head:<73}{}\n", name.replace('\n', "\\012")) }
}

/// One mapping as a line of maps.
pub(super) fn mapping(vma: &Vma) -> String {
    let bit = |prot, letter| if vma.prot.contains(prot) { letter } else { '-' };
    let permissions: String = [
        bit(Prot::READ, 'r'),
        bit(Prot::WRITE, 'w'),
        bit(Prot::EXECUTE, 'x'),
        if vma.sharing == Sharing::Shared { 's' } else { 'p' },
    ]
    .into_iter()
    .collect();
    let inode = match vma.source {
        Source::Anonymous => 0,
        Source::Object { id, .. } => id.0.into(),
        Source::Image { nid, .. } => nid,
    };
    let name = match vma.name.as_str() {
        "" if vma.flags.contains(VmaFlags::HEAP) => "[heap]",
        "" if vma.flags.contains(VmaFlags::STACK) => "[stack]",
        name => name,
    };
    let page = PAGE as u64;
    let (first, end) = (vma.first.0.saturating_mul(page), vma.end.0.saturating_mul(page));
    line(first, end, &permissions, vma.source.offset(), inode, name)
}

/// maps, smaps or smaps_rollup. Pages in memory are counted for the whole process only, so smaps has no such numbers
/// for each mapping.
fn maps(space: &AddressSpace, file: File) -> String {
    let mut text = String::new();
    if file == File::SmapsRollup {
        let bounds = space.mappings().iter().fold(None, |bounds: Option<(u64, u64)>, vma| {
            Some((bounds.map_or(vma.first.0, |(first, _)| first), vma.end.0))
        });
        let (first, end) = bounds.unwrap_or_default();
        let page = PAGE as u64;
        text += &line(first.saturating_mul(page), end.saturating_mul(page), "---p", 0, 0, "[rollup]");
        let (resident, own) = (kib(space.resident() as u64), kib(space.owned_pages() as u64));
        for (name, value) in [
            ("Rss", resident),
            ("Pss", resident),
            ("Shared_Clean", resident.saturating_sub(own)),
            ("Shared_Dirty", 0),
            ("Private_Clean", 0),
            ("Private_Dirty", own),
            ("Anonymous", own),
            ("AnonHugePages", 0),
            ("Swap", 0),
        ] {
            text += &format!("{:<16}{value:>8} kB\n", format!("{name}:"));
        }
        return text;
    }
    for vma in space.mappings().iter() {
        text += &mapping(vma);
        if file == File::Smaps {
            for (name, value) in
                [("Size", kib(vma.pages())), ("KernelPageSize", 4), ("MMUPageSize", 4), ("AnonHugePages", 0)]
            {
                text += &format!("{:<16}{value:>8} kB\n", format!("{name}:"));
            }
        }
    }
    text
}

/// limits, as in proc(5).
fn limits(process: &Process) -> String {
    let value = |limit: u64| if limit == UNLIMITED { String::from("unlimited") } else { format!("{limit}") };
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for ((name, unit), (soft, hard)) in LIMIT_NAMES.iter().zip(&process.limits) {
        text += &format!("{name:<25} {:<20} {:<20} {unit:<10}\n", value(*soft), value(*hard));
    }
    text
}

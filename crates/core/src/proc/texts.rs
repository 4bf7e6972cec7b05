//! Reading and writing files of /proc and /sys.
use super::{
    Proc, UNREACHABLE, figures, ipc, memory, network,
    nodes::{File, Node},
    processes::Tty,
    settings, system, view,
};
use crate::{
    context::{Context, Result, Stop},
    files::DescriptionId,
    locks::Holder,
    program::Program,
};
use alloc::{format, string::String, vec::Vec};
use shimos_abi::{errno::Errno, ids::Pid, time::Nanos};
use shimos_hal::Machine;
use shimos_vfs::{Fault, Kind, NodeId};

/// The text of a link of /proc with the path that only the tree knows, for readlink(2). `None` for any other file.
pub fn link_text<M: Machine>(c: &mut Context<'_, M>, node: NodeId) -> Result<Option<Vec<u8>>> {
    let NodeId::Synthetic { mount, node } = node else { return Ok(None) };
    let proc = view(c);
    let node = proc.node(mount, node)?;
    if node.file.entry().kind != Kind::Symlink {
        return Ok(None);
    }
    let text = proc.link(node)?;
    let target = if text == UNREACHABLE { proc.target(node)? } else { None };
    let opened = match node.file {
        File::Fd => Some(proc.descriptor(proc.process(node)?, node.number)?.0.description),
        _ => None,
    };
    let Some(target) = target else { return Ok(Some(text)) };
    if c.metadata(target)?.kind != Kind::Directory {
        let Some(id) = opened else { return Ok(Some(text)) };
        let path = crate::content::path_of(c, id)?;
        return Ok(Some(if path.is_empty() { text } else { path.into_bytes() }));
    }
    let root = c.process()?.root;
    match c.with_tree(|tree, sources| tree.path_of(sources, root, target)) {
        Ok(path) => Ok(Some(path)),
        // Removed, or outside of the caller's root.
        Err(Fault::Errno(_)) => Ok(Some(text)),
        Err(fault) => Err(fault.into()),
    }
}

/// The file of /proc or /sys that a node names, whose process may have gone.
fn node_of<M: Machine>(c: &Context<'_, M>, node: NodeId) -> core::result::Result<Node, Errno> {
    let NodeId::Synthetic { mount, node } = node else { return Err(Errno::EINVAL) };
    view(c).node(mount, node)
}

/// EACCES where a file of /proc/sys that cannot be written is opened for that: there root has no more rights than others.
pub fn check_open_for_write<M: Machine>(c: &Context<'_, M>, node: NodeId) -> Result<()> {
    let node = node_of(c, node)?;
    let fixed = node.file.within(File::Settings) && node.file.entry().mode & 0o222 == 0;
    if fixed { Err(Errno::EACCES.into()) } else { Ok(()) }
}

/// The text of a regular file of /proc or /sys, as it is now. ENOENT if what it tells of has gone.
pub fn content<M: Machine>(c: &mut Context<'_, M>, node: NodeId) -> Result<Vec<u8>> {
    c.count_use();
    let node = node_of(c, node)?;
    match node.file.of_process() {
        File::CommandLine | File::Environ | File::Auxiliary => return memory::executed_with(c, node),
        File::Maps | File::Smaps | File::SmapsRollup => return memory::maps(c, node),
        File::PageMap | File::Memory => {
            let proc = view(c);
            proc.inspect(proc.process(node)?)?;
            return Ok(Vec::new());
        }
        File::LockList => return lock_list(c),
        File::FreshId => {
            let random = [c.services.machine.random(), c.services.machine.random()];
            return Ok((settings::uuid(random) + "\n").into_bytes());
        }
        _ => {}
    }
    let (proc, program) = (view(c), &c.resident.program);
    Ok(match node.file {
        file if file.within(File::Net) => network_text(file, program, proc.moment.now()),
        file if file.within(File::NetDevice) => {
            settings::net_device(file, node.number, &program.net.config()).ok_or(Errno::EINVAL)?.into_bytes()
        }
        file => {
            if let Some(text) = ipc::text(file, program) {
                return Ok(text.into_bytes());
            }
            let process = program.processes.get(&node.pid);
            let name = process.and_then(|process| program.controlling(process));
            let tty = name.and_then(|name| program.tty(name).map(|tty| (name, tty)));
            let terminal = tty.map(|(name, tty)| Tty { name, foreground: tty.foreground });
            proc.text(node, terminal)?
        }
    })
}

/// The same for a file that was opened: ESRCH if its process has gone.
pub fn content_of_opened<M: Machine>(c: &mut Context<'_, M>, node: NodeId) -> Result<Vec<u8>> {
    content(c, node).map_err(|stop| if let Stop::Errno(errno) = stop { memory::gone(errno) } else { stop })
}

/// A part of a file that has no text as a whole, from byte `at` on; `None` for files that have.
pub fn part<M: Machine>(c: &mut Context<'_, M>, node: NodeId, at: u64, count: usize) -> Result<Option<Vec<u8>>> {
    let NodeId::Synthetic { mount, node: id } = node else { return Ok(None) };
    let Ok(file @ (File::PageMap | File::Memory)) = Node::from_id(mount, id).map(|node| node.file) else {
        return Ok(None);
    };
    let node = node_of(c, node).map_err(memory::gone)?;
    if file == File::Memory { memory::peek(c, node, at, count) } else { memory::page_words(c, node, at, count) }
        .map(Some)
}

/// locks: who holds which, as in proc(5).
fn lock_list<M: Machine>(c: &mut Context<'_, M>) -> Result<Vec<u8>> {
    let mut text = String::new();
    let held: Vec<_> = c.resident.program.locks.held().collect();
    for (at, held) in (1..).zip(held) {
        let inode = c.metadata(held.node)?.ino;
        let device = super::device_of(held.node);
        // A lock of a description is told of as that of a process which has it.
        let holder = match held.holder {
            Holder::Process(pid) => pid.0 as i32,
            Holder::Whole(id) => having(&c.resident.program, id).map_or(-1, |pid| pid.0 as i32),
            Holder::Ranges => -1,
        };
        let (class, range) = (held.class(), held.range());
        text += &format!("{at}: {class} {holder} 00:{device:02x}:{inode} {range}\n");
    }
    Ok(text.into_bytes())
}

/// A process that has a description open.
fn having(program: &Program, id: DescriptionId) -> Option<Pid> {
    let has = |files| program.tables.get(&files).is_some_and(|table| table.iter().any(|(_, d)| d.description == id));
    program.processes.values().find(|process| has(process.files)).map(|process| process.pid)
}

/// A file of /proc/net.
fn network_text(file: File, program: &Program, now: Nanos) -> Vec<u8> {
    match file {
        File::NetDev => figures::devices(program),
        File::NetUnix => network::unix_sockets(program),
        File::NetLink => network::netlink_sockets(program),
        File::NetIfInet6 => figures::addresses6(program.net.config()),
        File::NetRoute => figures::routes(program.net.config()),
        File::NetRoute6 => figures::routes6(program.net.config()),
        File::NetArp => figures::neighbours(program, now),
        File::NetSnmp => figures::counters(program),
        File::NetStat => figures::more_counters(program),
        File::NetSockStat => figures::socket_counts(program),
        file => network::sockets(file, &program.net, now),
    }
}

/// Writes to a file of /proc; returns how many bytes it took.
pub fn store<M: Machine>(c: &mut Context<'_, M>, node: NodeId, at: u64, bytes: &[u8]) -> Result<usize> {
    let node = node_of(c, node).map_err(memory::gone)?;
    match node.file.of_process() {
        File::Comm => {
            // A name is what comes up to a zero; only the process's own threads may give one.
            let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            if node.pid != c.pid {
                return Err(Errno::EINVAL.into());
            }
            let thread = if node.file == File::TaskComm { Pid(node.number) } else { node.pid };
            c.set_name(thread, name.get(..15).unwrap_or(name)).map_err(|_| Errno::ESRCH)?;
        }
        File::Memory => return memory::poke(c, node, at, bytes),
        File::LoginUser => {
            if node.pid != c.pid {
                return Err(Errno::EPERM.into());
            }
            let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
            let user: u32 = text.trim_end_matches(['\n', '\0']).parse().map_err(|_| Errno::EINVAL)?;
            c.process_mut()?.login = (user != u32::MAX).then_some(user);
        }
        File::OomScoreAdj => {
            const SYS_RESOURCE: u32 = 24;
            let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
            let wanted: i32 = text.trim_matches(['\n', '\0', ' ']).parse().map_err(|_| Errno::EINVAL)?;
            if !(-1000..=1000).contains(&wanted) {
                return Err(Errno::EINVAL.into());
            }
            let may_lower = c.process()?.rights.has(SYS_RESOURCE);
            let process = c.resident.program.processes.get_mut(&node.pid).ok_or(Errno::ESRCH)?;
            if wanted < process.oom_adjustment.unwrap_or(0) && !may_lower {
                return Err(Errno::EACCES.into());
            }
            process.oom_adjustment = (wanted != 0).then_some(wanted);
        }
        file if file.within(File::Process) => return Err(Errno::EINVAL.into()),
        _ => return Err(Errno::EIO.into()),
    }
    Ok(bytes.len())
}

impl Proc<'_> {
    /// The text of a regular file, as far as it can be told without reading memory.
    pub(super) fn text(&self, node: Node, tty: Option<Tty>) -> core::result::Result<Vec<u8>, Errno> {
        if let Some(text) = self.setting(node.file) {
            return Ok(text.into_bytes());
        }
        let text: String = match node.file {
            File::Stat => self.stat(),
            File::MemInfo => self.memory_info(),
            File::CpuInfo => self.cpu_info(),
            File::Uptime => self.uptime(),
            File::LoadAvg => self.load(),
            File::Filesystems => "nodev\tsysfs\nnodev\tproc\nnodev\toverlay\n\terofs\n".into(),
            File::Version => self.version(),
            File::BootLine => format!("shimos kernel={}\n", self.life),
            File::VmStat => self.memory_counters(),
            // Programs have no disk, no swap and no modules; no symbol of the kernel is told.
            File::DiskStats | File::Modules | File::Symbols => String::new(),
            File::Partitions => "major minor  #blocks  name\n\n".into(),
            File::Swaps => "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".into(),
            File::Interrupts => "           CPU0       \n".into(),
            File::DeviceNumbers => system::DEVICES.into(),
            File::TerminalDrivers => system::TERMINAL_DRIVERS.into(),
            _ => return self.process_text(node, tty),
        };
        Ok(text.into_bytes())
    }
}

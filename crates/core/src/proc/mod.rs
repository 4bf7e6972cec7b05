//! /proc and /sys of one program: they show its own processes and what this kernel is.
//!
//! A file's text is made anew when it is opened and whenever it is read from its start.
mod figures;
mod ipc;
mod memory;
mod network;
mod nodes;
mod processes;
mod settings;
mod system;
#[cfg(test)]
mod tests;
mod texts;

pub use texts::{check_open_for_write, content, content_of_opened, link_text, part, store};

use crate::{
    context::Context,
    files::{Description, DescriptionId, Descriptor, FileTable, FilesId, Kind as Open},
    pipe::PipeId,
    process::{By, Process, SpaceId},
    program::Head,
    services::Services,
    table::Table,
    thread::Thread,
};
use alloc::{format, vec::Vec};
use nodes::{DEPTH, File, Node};
use shimos_abi::{
    errno::Errno,
    ids::{Life, Pid},
    time::Nanos,
};
use shimos_hal::Machine;
use shimos_memory::{AddressSpace, Objects};
use shimos_vfs::{DirEntry, Fault, Kind, Link, Metadata, Mount, NodeId, Rdev, Synthetic};

/// The tree to mount at /proc.
pub const PROC_MOUNT: Mount = Mount { number: 0, root: Node::of(File::ProcRoot).id() };
/// The tree to mount at /sys.
pub const SYS_MOUNT: Mount = Mount { number: 1, root: Node::of(File::SysRoot).id() };

/// Minor number of the device that the root file system is on; those of /proc and /sys follow.
pub const ROOT_DEVICE: u32 = 20;
/// The same of pipes, and of sockets.
pub const PIPE_DEVICE: u32 = 13;
/// See [`PIPE_DEVICE`].
pub const SOCKET_DEVICE: u32 = 8;
/// The same of eventfd and its like.
pub const EVENT_DEVICE: u32 = 14;

/// The number of the device that a file is on.
pub fn device_of(node: NodeId) -> u32 {
    match node {
        NodeId::Synthetic { mount, .. } if mount == crate::devpts::PTS_MOUNT.number => ROOT_DEVICE + 3,
        NodeId::Synthetic { mount, node } => match Node::from_id(mount, node).map(|node| node.file) {
            Ok(File::OpenPipe) => PIPE_DEVICE,
            Ok(File::OpenSocket | File::OpenUnix) => SOCKET_DEVICE,
            _ => ROOT_DEVICE + 1 + u32::from(mount),
        },
        _ => ROOT_DEVICE,
    }
}

/// What a link says that leads to a file whose path is not known.
const UNREACHABLE: &[u8] = b"(unreachable)";
/// The directory cursor of the first file that is named by a number; those before are for the table.
const NUMBERED: u64 = 1 << 10;

/// What the files of /proc and /sys tell of.
pub struct Proc<'a> {
    /// The process that asks.
    pub caller: Pid,
    /// Its thread that asks.
    pub thread: Pid,
    /// The program.
    pub head: &'a Head,
    /// Its processes.
    pub processes: &'a Table<Pid, Process>,
    /// Its threads.
    pub threads: &'a Table<Pid, Thread>,
    /// Its address spaces.
    pub spaces: &'a Table<SpaceId, AddressSpace>,
    /// Its descriptor tables.
    pub tables: &'a Table<FilesId, FileTable>,
    /// Its open file descriptions.
    pub descriptions: &'a Table<DescriptionId, Description>,
    /// This kernel and incarnation.
    pub life: Life,
    /// How many kernels the machine has.
    pub kernels: usize,
    /// The moment at which is asked.
    pub moment: &'a dyn Moment,
    /// Its written files and shared memory.
    pub objects: &'a Objects,
}

/// What changes by itself: looked at only by the files that tell of it. A path walk elsewhere pays for none of it.
pub trait Moment {
    /// Time since the machine started.
    fn now(&self) -> Nanos;
    /// Nanoseconds since 1970.
    fn wall(&self) -> u64;
    /// Memory of this kernel.
    fn memory(&self) -> Frames;
}

/// The present moment of a kernel.
pub struct Present<'a, M: Machine> {
    /// The machine.
    pub machine: &'a M,
    /// Its frames.
    pub frames: &'a shimos_memory::Frames,
    /// Disk blocks that are kept.
    pub cached: usize,
}

impl<M: Machine> Moment for Present<'_, M> {
    fn now(&self) -> Nanos {
        self.machine.now()
    }
    fn wall(&self) -> u64 {
        self.machine.wall_clock()
    }
    fn memory(&self) -> Frames {
        Frames { total: self.frames.total() as u64, free: self.frames.free_count() as u64, cached: self.cached as u64 }
    }
}

impl<M: Machine> Moment for Services<M> {
    fn now(&self) -> Nanos {
        // What threads have used is known up to here: later, the idle time would go back.
        self.running.map_or_else(|| self.machine.now(), |running| running.counted)
    }
    fn wall(&self) -> u64 {
        self.machine.wall_clock().saturating_sub((self.machine.now() - self.now()).0)
    }
    fn memory(&self) -> Frames {
        Present { machine: &self.machine, frames: &self.frames, cached: self.blocks.len() }.memory()
    }
}

/// Memory of a kernel, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Frames {
    /// All of this kernel's pool.
    pub total: u64,
    /// What is free of it.
    pub free: u64,
    /// Disk blocks that are kept and can be given up.
    pub cached: u64,
}

impl Proc<'_> {
    /// The file that an id names; ENOENT if there is none, or no more.
    fn node(&self, mount: u8, id: u64) -> Result<Node, Errno> {
        let node = Node::from_id(mount, id)?;
        self.check(node)?;
        Ok(node)
    }

    /// A directory by id.
    fn directory(&self, mount: u8, id: u64) -> Result<Node, Errno> {
        let node = self.node(mount, id)?;
        if node.file.entry().kind == Kind::Directory { Ok(node) } else { Err(Errno::ENOTDIR) }
    }

    /// Whether what the file tells of exists.
    fn check(&self, node: Node) -> Result<(), Errno> {
        if node.file.within(File::Process) {
            let process = self.process(node)?;
            if node.file.within(File::Task) {
                self.task(node)?;
            } else if matches!(node.file, File::Fd | File::FdInfo) {
                self.descriptor(process, node.number)?;
            }
        }
        Ok(())
    }

    /// The process that a file tells of.
    fn process(&self, node: Node) -> Result<&Process, Errno> {
        self.processes.get(&node.pid).ok_or(Errno::ENOENT)
    }

    /// The thread that a file under `task` tells of.
    fn task(&self, node: Node) -> Result<&Thread, Errno> {
        self.threads.get(&Pid(node.number)).filter(|thread| thread.process == node.pid).ok_or(Errno::ENOENT)
    }

    /// The threads of a process.
    fn threads_of(&self, pid: Pid) -> impl Iterator<Item = &Thread> {
        self.threads.values().filter(move |thread| thread.process == pid)
    }

    /// The address space of a process, unless it has ended.
    fn space(&self, process: &Process) -> Option<&AddressSpace> {
        if process.zombie.is_some() { None } else { self.spaces.get(&process.space) }
    }

    /// The descriptor table of a process, unless it has ended.
    fn table(&self, process: &Process) -> Option<&FileTable> {
        if process.zombie.is_some() { None } else { self.tables.get(&process.files) }
    }

    /// A descriptor of a process.
    fn descriptor(&self, process: &Process, fd: u32) -> Result<(Descriptor, &Description), Errno> {
        let table = self.table(process).ok_or(Errno::ENOENT)?;
        let descriptor = table.get(fd.into()).map_err(|_| Errno::ENOENT)?;
        Ok((descriptor, self.descriptions.get(&descriptor.description).ok_or(Errno::ENOENT)?))
    }

    /// EACCES unless the caller may look into the process: it is root's, or both are of one user.
    fn inspect(&self, process: &Process) -> Result<(), Errno> {
        let caller = self.processes.get(&self.caller).ok_or(Errno::EACCES)?;
        if caller.may_look_into(process, By::Files) { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// The numbers that name files in a directory, from `first` on, in order.
    fn numbers(&self, dir: Node, first: u32, limit: usize) -> Result<Vec<u32>, Errno> {
        Ok(match dir.file {
            File::ProcRoot => self.processes.range(Pid(first)..).map(|(pid, _)| pid.0).take(limit).collect(),
            File::TaskDir => {
                let threads = self.threads.range(Pid(first)..);
                threads.filter(|(_, thread)| thread.process == dir.pid).map(|(tid, _)| tid.0).take(limit).collect()
            }
            File::FdDir | File::FdInfoDir | File::TaskFdDir | File::TaskFdInfoDir => {
                match self.table(self.process(dir)?) {
                    Some(table) => table.iter().map(|(fd, _)| fd).filter(|fd| *fd >= first).take(limit).collect(),
                    None => Vec::new(),
                }
            }
            File::NetClass => (first.max(1)..=2).take(limit).collect(),
            _ => Vec::new(),
        })
    }

    /// What stat(2) tells of a file.
    fn metadata_of(&self, node: Node) -> Result<Metadata, Errno> {
        let entry = node.file.entry();
        let (uid, gid) = if node.file.within(File::Process) {
            let credentials = &self.process(node)?.credentials;
            (credentials.euid, credentials.egid)
        } else {
            (0, 0)
        };
        let mode = match node.file {
            // The owner's bits say how the descriptor was opened.
            File::Fd => match self.descriptor(self.process(node)?, node.number)?.1.flags & 3 {
                0 => 0o500,
                1 => 0o300,
                _ => 0o700,
            },
            _ => entry.mode,
        };
        let now = self.moment.wall() as i64;
        Ok(Metadata {
            kind: entry.kind,
            mode,
            uid,
            gid,
            nlink: match node.file {
                File::TaskDir => 2 + self.threads_of(node.pid).count() as u32,
                File::ProcRoot => 2 + self.processes.len() as u32,
                _ if entry.kind == Kind::Directory => 2,
                _ => 1,
            },
            ino: node.ino(),
            rdev: Rdev::default(),
            size: if node.file.within(File::SysRoot) && entry.kind == Kind::Regular { 4096 } else { 0 },
            atime: now,
            mtime: now,
            ctime: now,
        })
    }

    /// The text of a link, as far as it can be told without the tree.
    fn link(&self, node: Node) -> Result<Vec<u8>, Errno> {
        if let Some((kind, _)) = node.file.space() {
            self.inspect(self.process(node)?)?;
            return Ok(format!("{kind}:[{}]", self.space_node(node).ino()).into_bytes());
        }
        Ok(match node.file.of_process() {
            File::Caller => format!("{}", self.caller).into_bytes(),
            File::CallerThread => format!("{}/task/{}", self.caller, self.thread).into_bytes(),
            File::MountsLink => b"self/mounts".to_vec(),
            File::Exe => {
                let process = self.process(node)?;
                self.inspect(process)?;
                if process.zombie.is_some() || process.exe.is_empty() {
                    return Err(Errno::ENOENT);
                }
                process.exe.clone().into_bytes()
            }
            File::Cwd | File::RootLink => {
                self.inspect(self.process(node)?)?;
                UNREACHABLE.to_vec()
            }
            File::Fd => {
                let process = self.process(node)?;
                self.inspect(process)?;
                match &self.descriptor(process, node.number)?.1.kind {
                    Open::PipeReader(pipe) | Open::PipeWriter(pipe) | Open::PipeBoth(pipe) => {
                        format!("pipe:[{}]", pipe.0).into_bytes()
                    }
                    kind @ (Open::Socket(_) | Open::Unix(_) | Open::Netlink(_)) => {
                        format!("socket:[{}]", kind.socket_number().unwrap_or_default()).into_bytes()
                    }
                    Open::Process(..) => b"anon_inode:[pidfd]".to_vec(),
                    Open::Event(class, _) => class.link().into(),
                    Open::Console(_) => b"/dev/console".to_vec(),
                    Open::Null(_) => b"/dev/null".to_vec(),
                    Open::Zero(_) => b"/dev/zero".to_vec(),
                    Open::Full(_) => b"/dev/full".to_vec(),
                    Open::Random(_) => b"/dev/urandom".to_vec(),
                    Open::Shimos(..) => b"/dev/shimos".to_vec(),
                    Open::Master(..) => b"/dev/ptmx".to_vec(),
                    _ => UNREACHABLE.to_vec(),
                }
            }
            _ => return Err(Errno::EINVAL),
        })
    }

    /// The name space that a link under `ns` leads to.
    fn space_node(&self, node: Node) -> Node {
        Node { number: node.file.space().map_or(0, |(_, number)| number), ..Node::of(File::OpenSpace) }
    }

    /// What a link leads to directly.
    fn target(&self, node: Node) -> Result<Option<NodeId>, Errno> {
        let open = |file, number| NodeId::Synthetic {
            mount: PROC_MOUNT.number,
            node: Node { file, pid: Pid(0), number }.id(),
        };
        if node.file.space().is_some() {
            self.inspect(self.process(node)?)?;
            return Ok(Some(NodeId::Synthetic { mount: PROC_MOUNT.number, node: self.space_node(node).id() }));
        }
        if !matches!(node.file.of_process(), File::Cwd | File::RootLink | File::Fd) {
            return Ok(None);
        }
        let process = self.process(node)?;
        self.inspect(process)?;
        if process.zombie.is_some() {
            return Err(Errno::ENOENT);
        }
        Ok(match node.file.of_process() {
            File::Cwd => Some(process.cwd),
            File::RootLink => Some(process.root),
            _ => match &self.descriptor(process, node.number)?.1.kind {
                Open::PipeReader(pipe) | Open::PipeWriter(pipe) | Open::PipeBoth(pipe) => {
                    Some(open(File::OpenPipe, pipe.0))
                }
                kind @ (Open::Socket(_) | Open::Netlink(_)) => {
                    Some(open(File::OpenSocket, kind.socket_number().unwrap_or_default()))
                }
                Open::Unix(socket) => Some(open(File::OpenUnix, socket.0)),
                other => other.node(),
            },
        })
    }
}

/// The number that a name spells, without leading zeros.
fn number(name: &[u8]) -> Option<u32> {
    let spelt = core::str::from_utf8(name).ok()?;
    let plain = spelt.bytes().all(|byte| byte.is_ascii_digit()) && (spelt == "0" || !spelt.starts_with('0'));
    if plain { spelt.parse().ok() } else { None }
}

/// The name of a file in its directory.
fn name_of(node: Node) -> Vec<u8> {
    if let Some(name) = node.device_name() {
        return name.as_bytes().to_vec();
    }
    match node.name_number() {
        Some(number) => format!("{number}").into_bytes(),
        None => node.file.entry().name.as_bytes().to_vec(),
    }
}

/// The files of a directory that the table names, with their places in it.
fn listed(dir: File) -> impl Iterator<Item = (u64, File)> {
    let here = move |(_, file): &(u64, File)| file.entry().above == dir && !file.entry().name.is_empty();
    (0..).zip(File::ALL.iter().copied()).filter(here)
}

impl Synthetic for Proc<'_> {
    fn lookup(&self, mount: u8, dir: u64, name: &[u8]) -> Result<u64, Fault> {
        let dir = self.directory(mount, dir)?;
        let named = listed(dir.file).find(|(_, file)| file.entry().name.as_bytes() == name);
        let node = match named {
            Some((_, file)) => Node { file, ..dir },
            None if dir.file == File::NetClass => dir.device(name).ok_or(Errno::ENOENT)?,
            None => number(name).and_then(|number| dir.numbered(number)).ok_or(Errno::ENOENT)?,
        };
        self.check(node)?;
        Ok(node.id())
    }

    fn parent(&self, mount: u8, dir: u64) -> Result<u64, Fault> {
        Ok(self.directory(mount, dir)?.above().id())
    }

    fn metadata(&self, mount: u8, node: u64) -> Result<Metadata, Fault> {
        Ok(self.metadata_of(self.node(mount, node)?)?)
    }

    fn readlink(&self, mount: u8, node: u64) -> Result<Vec<u8>, Fault> {
        Ok(self.link(self.node(mount, node)?)?)
    }

    fn follow(&self, mount: u8, node: u64) -> Result<Link, Fault> {
        let node = self.node(mount, node)?;
        Ok(match self.target(node)? {
            Some(target) => Link::Node(target),
            None => Link::Text(self.link(node)?),
        })
    }

    fn read_dir(&self, mount: u8, dir: u64, cursor: u64, limit: usize) -> Result<Vec<DirEntry>, Fault> {
        let dir = self.directory(mount, dir)?;
        let mut out = Vec::new();
        let dots = [(&b"."[..], dir), (&b".."[..], dir.above())];
        for (next, (name, node)) in (1..).zip(dots) {
            if cursor < next && out.len() < limit {
                out.push(DirEntry { name: name.to_vec(), ino: node.ino(), kind: Kind::Directory, next });
            }
        }
        for (place, file) in listed(dir.file) {
            let next = place + 3;
            if cursor < next && out.len() < limit {
                let node = Node { file, ..dir };
                out.push(DirEntry { name: name_of(node), ino: node.ino(), kind: file.entry().kind, next });
            }
        }
        let Ok(first) = u32::try_from(cursor.saturating_sub(NUMBERED)) else { return Ok(out) };
        for number in self.numbers(dir, first, limit - out.len())? {
            if let Some(node) = dir.numbered(number) {
                let next = NUMBERED + u64::from(number) + 1;
                out.push(DirEntry { name: name_of(node), ino: node.ino(), kind: node.file.entry().kind, next });
            }
        }
        Ok(out)
    }

    fn path(&self, mount: u8, node: u64) -> Result<Vec<u8>, Fault> {
        let mut at = Node::from_id(mount, node)?;
        let mut path = Vec::new();
        for _ in 0..DEPTH {
            if at.file.is_root() {
                break;
            }
            if !path.is_empty() {
                path.insert(0, b'/');
            }
            path.splice(0..0, name_of(at));
            at = at.above();
        }
        Ok(path)
    }
}

/// The pipe that a node of /proc/PID/fd stands for: opening it opens that pipe again.
pub fn pipe_of(node: NodeId) -> Option<PipeId> {
    let NodeId::Synthetic { mount, node } = node else { return None };
    let node = Node::from_id(mount, node).ok()?;
    if node.file == File::OpenPipe { Some(PipeId(node.number)) } else { None }
}

/// The process whose directory in /proc a node is.
pub fn process_of(node: NodeId) -> Option<Pid> {
    let NodeId::Synthetic { mount, node } = node else { return None };
    let node = Node::from_id(mount, node).ok()?;
    if node.file == File::Process { Some(node.pid) } else { None }
}

/// What the files tell of, as the caller sees it.
fn view<'a, M: Machine>(c: &'a Context<'_, M>) -> Proc<'a> {
    let (services, program) = (&*c.services, &c.resident.program);
    let identity = services.machine.identity();
    Proc {
        caller: c.pid,
        thread: c.tid,
        head: &program.head,
        processes: &program.processes,
        threads: &program.threads,
        spaces: &program.spaces,
        tables: &program.tables,
        descriptions: &program.descriptions,
        objects: &program.objects,
        life: identity.life,
        kernels: identity.kernels,
        moment: services,
    }
}

//! Starting programs: from a request to the first instruction.
use crate::{
    context::{Context, Stop},
    daemon::Message,
    exec,
    files::{Descriptor, FileTable, FilesId, Kind, OnExec},
    kernel::Kernel,
    levels::{self, Again},
    names,
    process::{Ids, Process, SpaceId, initial_limits},
    program::{Head, Program},
    resident::Resident,
    rights::Rights,
    signal::{Action, Pending, SigSet, Signal},
    syscall,
    table::Table,
    terminal::Terminal,
    thread::{AltStack, State, Thread},
};
use alloc::{
    collections::{BTreeMap, VecDeque},
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::net::{Ipv4Addr, Ipv6Addr};
use shimos_abi::{
    control::{self, Extent, Level, Response, Start, Strictness},
    errno::Errno,
    ids::{KernelId, Pid, ProgramId},
    kept::Kept,
    time::Nanos,
};
use shimos_hal::{Fpu, Machine, Regs};
use shimos_net::Stack;
use shimos_vfs::{Fault, Image, NodeId, OpenError, Sources, Tree};

/// Who asked for a program: the number of the request, and the kernel that it came by.
pub type Asker = Option<(u64, KernelId)>;

/// A program that is about to start: its file is being read.
pub struct Starting {
    id: ProgramId,
    start: Start,
    asker: Asker,
    since: Nanos,
    /// Set if it is not its first start.
    again: Option<Again>,
}

impl Starting {
    /// A program that is started again.
    pub fn again(id: ProgramId, start: Start, since: Nanos, again: Again) -> Starting {
        Starting { id, start, asker: None, since, again: Some(again) }
    }
}

/// Why a program does not start, or not yet.
enum Trouble {
    /// Its root image cannot be used.
    Image(String),
    /// It cannot have the level that it must have. It has begun, and is being ended.
    Level(String),
    /// It waits, or a call failed.
    Stop(Stop),
}

impl From<Stop> for Trouble {
    fn from(stop: Stop) -> Trouble {
        Trouble::Stop(stop)
    }
}

/// How long a program may take to start.
const PATIENCE: Nanos = Nanos::secs(30);

impl<M: Machine> Kernel<M> {
    /// Reads the root image's head as soon as it can be had.
    pub(crate) fn open_image(&mut self) {
        if self.services.image.is_some() {
            return;
        }
        match Image::open(&mut self.services.block_reader()) {
            Ok(image) => {
                self.services.blocks.note_image(image.start(), image.block_count());
                self.services.image = Some(image);
            }
            Err(error) => {
                let missing = matches!(error, OpenError::Fault(Fault::Missing(_)));
                if !missing && !self.image_refused {
                    self.image_refused = true;
                    self.services.log(&format!("the root image cannot be used: {error}"));
                }
            }
        }
    }

    /// Begins to start a program. The answer, if somebody asked, comes when it runs or has failed.
    pub(crate) fn begin(&mut self, start: Start, asker: Asker) -> Result<(), String> {
        if start.argv.first().is_none_or(String::is_empty) {
            return Err("the command is empty: name a file to execute".to_string());
        }
        let taken = self.residents.values().map(|resident| &resident.program.head.name);
        if taken.chain(self.starting.iter().map(|other| &other.start.name)).any(|name| *name == start.name) {
            return Err(format!("a program named '{}' runs already: choose another name", start.name));
        }
        let id =
            self.services.ikc.area().allocate_program(self.me).ok_or("the machine has no room for more programs")?;
        self.begin_as(id, start, asker);
        Ok(())
    }

    /// The same for a number that this kernel holds already.
    pub(crate) fn begin_as(&mut self, id: ProgramId, start: Start, asker: Asker) {
        self.loan_returned(id);
        let since = self.services.machine.now();
        self.starting.push(Starting { id, start, asker, since, again: None });
    }

    /// Tries again to start what is starting.
    pub(crate) fn go_on_starting(&mut self) {
        if self.services.image.is_none() {
            return;
        }
        for starting in core::mem::take(&mut self.starting) {
            let outcome = self.image_of(&starting.start).and_then(|image| self.try_start(&starting, image));
            let late = self.services.machine.now() - starting.since > PATIENCE;
            let answer = match outcome {
                Ok(()) => {
                    Response::Started { program: starting.id, pid: starting.id.first_pid(), kernel: self.me.kernel }
                }
                Err(Trouble::Stop(Stop::Block(_))) if !late => {
                    self.starting.push(starting);
                    continue;
                }
                Err(Trouble::Level(why)) => {
                    Response::Failed(format!("'{}' is not started: it cannot be protected: {why}", starting.start.name))
                }
                Err(trouble) => {
                    let area = self.services.ikc.area();
                    let _ = area.move_home(starting.id, area.home(starting.id), shimos_ikc::Home::Free);
                    let path = starting.start.argv.first().cloned().unwrap_or_default();
                    Response::Failed(match trouble {
                        Trouble::Image(why) | Trouble::Level(why) => why,
                        Trouble::Stop(Stop::Errno(errno)) => format!("{path} cannot be executed: {}", errno.name()),
                        Trouble::Stop(_) => format!("{path} cannot be executed: the disk does not answer"),
                    })
                }
            };
            self.publish();
            match starting.asker {
                Some(asker) => self.answer(asker, &answer),
                None => {
                    if let Response::Failed(why) = answer {
                        self.services.log(&why);
                    }
                }
            }
        }
    }

    /// The root image that a program asks for. It lies on a disk that others write: its superblock is read each time.
    fn image_of(&mut self, start: &Start) -> Result<Image, Trouble> {
        let Some(Extent { first, blocks }) = start.image else {
            return self.services.image.clone().ok_or(Trouble::Stop(Errno::EIO.into()));
        };
        match Image::open_at(&mut self.services.block_reader(), first, blocks) {
            Ok(image) => {
                self.services.blocks.note_image(first, image.block_count());
                Ok(image)
            }
            Err(OpenError::Fault(Fault::Missing(block))) => Err(Trouble::Stop(Fault::Missing(block).into())),
            Err(error) => {
                // It may come still.
                self.services.blocks.forget(&mut self.services.frames, first);
                Err(Trouble::Image(format!("the image at block {first} of the disk cannot be used: {error}")))
            }
        }
    }

    /// Gives an answer to whoever asked, here or by way of another kernel.
    pub(crate) fn answer(&mut self, (number, kernel): (u64, KernelId), answer: &Response) {
        let bytes = crate::control::encode(answer);
        if kernel == self.me.kernel {
            self.answered(number, bytes);
        } else {
            self.tell(kernel, &Message::Answer(number, bytes));
        }
    }

    fn try_start(&mut self, starting: &Starting, image: Image) -> Result<(), Trouble> {
        let mut resident = Resident::new(self.make_program(starting, image)?);
        let pid = starting.id.first_pid();
        let outcome = {
            let services = &mut self.services;
            let mut context = Context::new(&mut resident, services, pid, pid);
            enter(&mut context, &starting.start)
        };
        if let Err(stop) = outcome {
            let spaces: Vec<SpaceId> = resident.program.spaces.keys().copied().collect();
            for space in spaces {
                self.services.drop_space(&mut resident, space);
            }
            resident.program.objects.destroy(&mut self.services.frames);
            return Err(stop.into());
        }
        self.services.settle(&mut resident);
        let level = starting.start.level.or(starting.start.protection.map(Level::Checkpoint));
        self.limit_memory(&resident);
        self.residents.insert(starting.id, resident);
        let begun = self.begin_level(starting.id, level.unwrap_or(Level::Off));
        match (begun, self.residents.get_mut(&starting.id)) {
            (Err(why), Some(resident)) if starting.start.strictness == Strictness::Refuse => {
                resident.ended = Some(Signal::KILL.number().into());
                Err(Trouble::Level(why))
            }
            _ => Ok(()),
        }
    }

    fn make_program(&mut self, starting: &Starting, image: Image) -> Result<Program, Stop> {
        let wall = self.services.machine.wall_clock() as i64;
        let mut tree = Tree::new(image);
        let mut blocks = self.services.block_reader();
        let mut sources = Sources { blocks: &mut blocks, synthetic: &shimos_vfs::mounts::NoSynthetic };
        furnish(&mut tree, &mut sources, wall)?;
        let now = self.services.machine.now();
        let seed = self.services.machine.random();
        let config = shimos_net::Config {
            mac: control::mac_of(starting.id),
            address: Ipv4Addr::from(control::address_of(starting.id)),
            prefix: control::NETWORK_PREFIX,
            gateway: Ipv4Addr::from(control::GATEWAY),
            v6: Some(shimos_net::Config6 {
                address: Ipv6Addr::from(control::address6_of(starting.id)),
                prefix: control::NETWORK6_PREFIX,
                gateway: Ipv6Addr::from(control::GATEWAY6),
            }),
        };
        let root = tree.root();
        let files = FilesId(1);
        let pid = starting.id.first_pid();
        let mut program = Program {
            head: Head {
                id: starting.id,
                name: starting.start.name.clone(),
                protection: None,
                takeovers: 0,
                last_pid: 1,
                last_id: 1,
                started: now,
                loans: starting
                    .again
                    .map(|again| again.lender)
                    .into_iter()
                    .filter(|lender| *lender != self.me.kernel)
                    .collect(),
                load: Default::default(),
                memory: starting.start.memory,
                host_name: None,
                domain_name: None,
                moves: 0,
                rollbacks: 0,
                crashes: None,
                order: Some(levels::order_of(&starting.start).into()),
                revival: Default::default(),
                restarts: starting.again.map_or(0, |again| again.restarts),
                guilt: starting.again.and_then(|again| again.guilt),
            },
            processes: Table::new(),
            threads: Table::new(),
            spaces: Table::new(),
            objects: shimos_memory::Objects::default(),
            tables: Table::new(),
            descriptions: Table::new(),
            pipes: Table::new(),
            unix: Table::new(),
            netlink: BTreeMap::new(),
            events: Table::new(),
            tree: tree.into(),
            net: Stack::new(config, seed),
            policy: Kept::default(),
            terminal: Terminal::new(),
            pairs: BTreeMap::new(),
            held: VecDeque::new(),
            locks: Default::default(),
            fifos: BTreeMap::new(),
            ipc: Default::default(),
            queues: BTreeMap::new(),
            seals: BTreeMap::new(),
            timers: BTreeMap::new(),
        };
        program.tables.insert(files, FileTable::new());
        program.processes.insert(pid, first_process(pid, files, root, now));
        program.threads.insert(pid, first_thread(pid));
        program.terminal.tty.session = Some(pid);
        program.terminal.tty.foreground = Some(pid);
        Ok(program)
    }
}

/// Prepares the writable layer: devices, mounts.
fn furnish(tree: &mut Tree, sources: &mut Sources<'_>, wall: i64) -> Result<(), Fault> {
    let dev = tree.populate_dev(sources, wall)?;
    let pts = tree.ensure_directory(sources, wall, dev, b"pts", 0o755)?;
    tree.mount(sources, pts, crate::devpts::PTS_MOUNT)?;
    let root = tree.root();
    for (name, mount) in [(b"proc", crate::proc::PROC_MOUNT), (b"sys\0", crate::proc::SYS_MOUNT)] {
        let name = name.strip_suffix(b"\0").unwrap_or(name);
        let dir = tree.ensure_directory(sources, wall, root, name, 0o555)?;
        tree.mount(sources, dir, mount)?;
    }
    Ok(())
}

/// Executes the program's file and gives it its console.
fn enter<M: Machine>(c: &mut Context<'_, M>, start: &Start) -> Result<(), Stop> {
    if let Some(user) = &start.user {
        let process = c.process_mut()?;
        process.credentials = Ids::of(user);
        process.rights = Rights::of(&process.credentials);
    }
    if !start.cwd.is_empty() {
        let cwd = names::resolve(c, start.cwd.as_bytes())?;
        c.process_mut()?.cwd = cwd;
    }
    execute(c, &start.argv, &start.env)
}

/// Executes a file in a process that is being made, and gives it the program's console.
pub(crate) fn execute<M: Machine>(c: &mut Context<'_, M>, argv: &[String], env: &[String]) -> Result<(), Stop> {
    let console = names::resolve(c, b"/dev/console")?;
    let path = argv.first().map(String::as_bytes).unwrap_or_default().to_vec();
    syscall::execute(c, path, syscall::strings(argv), syscall::strings(env))?;
    let description = c.resident.program.add_description(Kind::Console(console), syscall::status_flags::READ_WRITE);
    c.resident.program.tree.pin(console);
    for _ in 0..3 {
        let descriptor = Descriptor { description, on_exec: OnExec::Keep };
        let limit = 3;
        c.table()?.insert(descriptor, 0, limit)?;
        c.resident.program.retain(descriptor);
    }
    c.release_description(description);
    Ok(())
}

/// A process that has executed nothing yet.
pub(crate) fn first_process(pid: Pid, files: FilesId, root: NodeId, now: Nanos) -> Process {
    Process {
        pid,
        parent: Pid(0),
        group: pid,
        session: pid,
        space: SpaceId(0),
        files,
        cwd: root,
        root,
        umask: 0o022,
        credentials: Ids::default(),
        actions: vec![Action::default(); 64].into(),
        pending: Pending::default(),
        zombie: None,
        vfork_waiter: None,
        exe: String::new(),
        comm: exec::command_name(b"init"),
        limits: initial_limits().into(),
        started: now,
        children_used: Nanos(0),
        ended_used: Nanos(0),
        exit_signal: Some(Signal::CHLD),
        stopped: None,
        continued: None,
        executed: None,
        layout: Default::default(),
        ended_counters: Default::default(),
        children_counters: Default::default(),
        login: None,
        detached: None,
        place_group: None,
        action_group: None,
        barriers: None,
        rights: Rights::default(),
        nice: Default::default(),
        oom_adjustment: None,
        personality: 0,
        peak: 0,
        children_peak: 0,
        maker: None,
    }
}

/// Its thread.
pub(crate) fn first_thread(pid: Pid) -> Thread {
    Thread {
        tid: pid,
        process: pid,
        regs: Regs::default(),
        fpu: Fpu { tag: pid.0.into(), area: Vec::new() },
        state: State::Ready,
        mask: SigSet::default(),
        saved_mask: None,
        pending: Pending::default(),
        altstack: AltStack::default(),
        clear_tid: 0,
        robust_list: 0,
        undo: None,
        whereabouts: None,
        files: None,
        policy: None,
        call: None,
        used: Nanos(0),
        name: None,
        counters: Default::default(),
        owed: Nanos(0),
        scheduling: Default::default(),
        standing: Default::default(),
    }
}

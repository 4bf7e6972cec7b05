//! Behaviour of the two trees, over a program of two processes made by hand.
use super::{
    Frames, Moment, NUMBERED, PROC_MOUNT, Proc, SYS_MOUNT, figures,
    memory::mapping,
    network,
    nodes::{File, Node},
    number,
    processes::Tty,
    settings::net_device,
};
use crate::{
    files::{Description, DescriptionId, Descriptor, FileTable, FilesId, Kind as Open, OnExec},
    pipe::PipeId,
    process::{Ending, Ids, Process, SpaceId, initial_limits},
    program::Head,
    signal::{Action, Pending, SigSet},
    table::Table,
    thread::{AltStack, Counters, State, Thread},
};
use alloc::{
    collections::BTreeSet,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::net::Ipv4Addr;
use shimos_abi::{
    addr::UserPage,
    errno::Errno,
    ids::{Incarnation, KernelId, Life, Pid, ProgramId},
    time::Nanos,
};
use shimos_hal::{Fpu, Regs};
use shimos_memory::{AddressSpace, ObjectId, Objects, Prot, Sharing, Source, Vma, VmaFlags};
use shimos_net::{Config, Family, Protocol, Stack};
use shimos_vfs::{Fault, Kind, Link, NodeId, Synthetic};

const INIT: Pid = Pid(16385);
const CHILD: Pid = Pid(16386);
const THREAD: Pid = Pid(16387);

struct World {
    head: Head,
    processes: Table<Pid, Process>,
    threads: Table<Pid, Thread>,
    spaces: Table<SpaceId, AddressSpace>,
    tables: Table<FilesId, FileTable>,
    descriptions: Table<DescriptionId, Description>,
    objects: Objects,
}

fn process(pid: Pid, parent: Pid, user: u32) -> Process {
    let credentials = Ids { uid: user, euid: user, suid: user, ..Ids::default() };
    let rights = crate::rights::Rights::of(&credentials);
    Process {
        pid,
        parent,
        group: pid,
        session: INIT,
        space: SpaceId(1),
        files: FilesId(1),
        cwd: NodeId::Lower(7),
        root: NodeId::Lower(1),
        umask: 0o22,
        credentials,
        actions: vec![Action { handler: 1, ..Action::default() }, Action { handler: 0x1000, ..Action::default() }]
            .into(),
        pending: Pending::default(),
        zombie: None,
        vfork_waiter: None,
        exe: "/bin/sh".into(),
        comm: "a) b\n".into(),
        limits: initial_limits().into(),
        started: Nanos::secs(2),
        children_used: Nanos(0),
        ended_used: Nanos(0),
        exit_signal: None,
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
        rights,
        nice: Default::default(),
        oom_adjustment: None,
        personality: 0,
        peak: 0,
        children_peak: 0,
        maker: None,
    }
}

fn thread(tid: Pid, process: Pid) -> Thread {
    Thread {
        tid,
        process,
        regs: Regs::default(),
        fpu: Fpu::default(),
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
        owed: Nanos(0),
        scheduling: Default::default(),
        standing: Default::default(),
        call: None,
        used: Nanos::millis(250),
        name: None,
        counters: Counters { minor_faults: 4, waits: 3, ..Counters::default() },
    }
}

impl World {
    /// Init is root's, has two threads and a file, a pipe and a socket open; its child is user 7's.
    fn new() -> World {
        let mut table = FileTable::default();
        let mut descriptions = Table::new();
        let kinds = [Open::File(NodeId::Upper(5)), Open::PipeWriter(PipeId(9)), Open::Null(NodeId::Upper(6))];
        for (id, kind) in (0..).zip(kinds) {
            let description = DescriptionId(id);
            table.replace(id, Descriptor { description, on_exec: OnExec::Close });
            descriptions.insert(
                description,
                Description {
                    kind,
                    flags: id.min(2),
                    offset: 11,
                    references: 1,
                    place: None,
                    patience: None,
                    hearer: None,
                },
            );
        }
        let processes = [process(INIT, Pid(0), 0), process(CHILD, INIT, 7)];
        let threads = [thread(INIT, INIT), thread(CHILD, CHILD), thread(THREAD, INIT)];
        let head = Head {
            id: ProgramId(1),
            name: "test".into(),
            protection: None,
            takeovers: 0,
            last_pid: 3,
            last_id: 3,
            started: Nanos(0),
            loans: Vec::new(),
            load: Default::default(),
            memory: None,
            host_name: None,
            domain_name: None,
            moves: 0,
            rollbacks: 0,
            crashes: None,
            order: None,
            revival: Default::default(),
            restarts: 0,
            guilt: None,
        };
        World {
            head,
            processes: processes.into_iter().map(|process| (process.pid, process)).collect(),
            threads: threads.into_iter().map(|thread| (thread.tid, thread)).collect(),
            spaces: Table::from_iter([(SpaceId(1), AddressSpace::new(UserPage(1 << 20), 1 << 20))]),
            tables: Table::from_iter([(FilesId(1), table)]),
            descriptions,
            objects: Objects::default(),
        }
    }

    fn seen_by(&self, caller: Pid) -> Proc<'_> {
        Proc {
            caller,
            thread: caller,
            head: &self.head,
            processes: &self.processes,
            threads: &self.threads,
            spaces: &self.spaces,
            tables: &self.tables,
            descriptions: &self.descriptions,
            life: Life { kernel: KernelId(2), incarnation: Incarnation(1) },
            kernels: 4,
            moment: &Then,
            objects: &self.objects,
        }
    }
}

/// A moment that stays.
struct Then;

impl Moment for Then {
    fn now(&self) -> Nanos {
        Nanos::secs(100)
    }
    fn wall(&self) -> u64 {
        1_700_000_000_000_000_000
    }
    fn memory(&self) -> Frames {
        Frames { total: 1000, free: 400, cached: 100 }
    }
}

fn config() -> Config {
    let address = Ipv4Addr::new(10, 77, 1, 1);
    Config { mac: [2, 0, 0, 0, 0, 1], address, prefix: 16, gateway: Ipv4Addr::new(10, 77, 0, 1), v6: None }
}

/// Walks a path from the root of /proc (0) or /sys (1), without following links.
fn walk(proc: &Proc<'_>, mount: u8, path: &str) -> Result<u64, Fault> {
    let root = if mount == 0 { PROC_MOUNT.root } else { SYS_MOUNT.root };
    path.split('/').filter(|name| !name.is_empty()).try_fold(root, |at, name| proc.lookup(mount, at, name.as_bytes()))
}

fn text(proc: &Proc<'_>, mount: u8, path: &str) -> Result<String, Errno> {
    let id = walk(proc, mount, path).map_err(|_| Errno::ENOENT)?;
    let tty = Some(Tty { name: crate::jobs::TtyName::Console, foreground: Some(CHILD) });
    proc.text(proc.node(mount, id)?, tty).map(|text| String::from_utf8_lossy(&text).into_owned())
}

fn names(proc: &Proc<'_>, mount: u8, path: &str, step: usize) -> Vec<String> {
    let dir = walk(proc, mount, path).expect("a directory");
    let (mut cursor, mut names) = (0, Vec::new());
    loop {
        let entries = proc.read_dir(mount, dir, cursor, step).expect("entries");
        assert!(entries.len() <= step);
        let Some(last) = entries.last() else { return names };
        cursor = last.next;
        names.extend(entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()));
    }
}

#[test]
fn the_table_is_a_forest_with_distinct_names() {
    let mut seen = BTreeSet::new();
    assert!(File::ALL.len() < 512 && (File::ALL.len() as u64) < NUMBERED - 3);
    for (place, file) in File::ALL.iter().enumerate() {
        let entry = file.entry();
        assert_eq!(*file as usize, place);
        assert!(file.within(File::ProcRoot) != file.within(File::SysRoot), "{file:?}");
        assert_eq!(entry.above.entry().kind, Kind::Directory);
        if !entry.name.is_empty() {
            assert!(seen.insert((entry.above as u16, entry.name)), "{file:?}");
        }
    }
}

#[test]
fn ids_name_what_they_were_made_for() {
    let node = Node { file: File::Fd, pid: INIT, number: u32::MAX };
    assert_eq!(Node::from_id(0, node.id()), Ok(node));
    assert_eq!(Node::from_id(1, node.id()), Err(Errno::ENOENT));
    assert_eq!(Node::from_id(0, u64::MAX), Err(Errno::ENOENT));
    assert_eq!(Node::from_id(0, 0x1ff), Err(Errno::ENOENT));
    assert_eq!(
        (number(b"07"), number(b""), number(b"+7"), number(b"0"), number(b"99999999999")),
        (None, None, None, Some(0), None)
    );
}

#[test]
fn every_listed_file_can_be_looked_up_stated_and_read() {
    let world = World::new();
    let proc = world.seen_by(INIT);
    let tty = None;
    let mut count = 0;
    let mut todo = vec![(0, PROC_MOUNT.root), (1, SYS_MOUNT.root)];
    while let Some((mount, dir)) = todo.pop() {
        for entry in proc.read_dir(mount, dir, 2, 1000).expect("entries") {
            let id = proc.lookup(mount, dir, &entry.name).expect("listed");
            let metadata = proc.metadata(mount, id).expect("metadata");
            assert_eq!((metadata.kind, metadata.ino), (entry.kind, entry.ino));
            let mut path = proc.path(mount, dir).expect("path");
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&entry.name);
            // The descriptors of a thread are those of its process.
            let of_thread = [File::TaskFdDir, File::TaskFdInfoDir].contains(&proc.node(mount, dir).expect("node").file);
            assert!(of_thread || proc.path(mount, id).expect("path") == path);
            let node = proc.node(mount, id).expect("node");
            match metadata.kind {
                Kind::Directory => {
                    assert_eq!(proc.parent(mount, id), Ok(dir));
                    todo.push((mount, id));
                }
                Kind::Symlink => assert!(proc.readlink(mount, id).is_ok() && proc.follow(mount, id).is_ok()),
                // These are made from the program's interprocess communication,
                _ if matches!(node.file.entry().above, File::SystemIpc | File::QueueSettings) => {}
                _ if node.file.entry().above == File::KernelSettings && metadata.mode == 0o644 => {}
                _ if node.file.within(File::Net) => {}
                // from the network's state, from locks, from memory, or from random numbers.
                _ if matches!(node.file, File::FreshId | File::LockList) => {}
                _ if node.file.within(File::NetDevice) => assert!(net_device(node.file, 2, &config()).is_some()),
                _ if matches!(
                    node.file.of_process(),
                    File::CommandLine
                        | File::Environ
                        | File::Auxiliary
                        | File::Maps
                        | File::Smaps
                        | File::SmapsRollup
                        | File::PageMap
                        | File::Memory
                ) => {}
                _ => assert!(proc.text(node, tty).is_ok(), "{path:?}"),
            }
            count += 1;
        }
    }
    assert!(count > 100);
}

#[test]
fn listing_goes_on_where_it_stopped() {
    let world = World::new();
    let proc = world.seen_by(INIT);
    for path in ["", "16385", "16385/fd", "16385/task", "sys/kernel"] {
        let all = names(&proc, 0, path, 1000);
        assert_eq!(names(&proc, 0, path, 1), all);
        assert_eq!(names(&proc, 0, path, 3), all);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }
    assert_eq!(names(&proc, 0, "16385/fd", 9), [".", "..", "0", "1", "2"]);
    assert_eq!(names(&proc, 1, "class/net", 9), [".", "..", "lo", "eth0"]);
    assert_eq!(names(&proc, 1, "class/net", 1), names(&proc, 1, "class/net", 9));
    assert_eq!(names(&proc, 0, "16385/task", 9), [".", "..", "16385", "16387"]);
    assert!(names(&proc, 0, "", 1000).contains(&"16386".to_string()));
    assert_eq!(proc.read_dir(0, PROC_MOUNT.root, u64::MAX, 10), Ok(Vec::new()));
}

#[test]
fn links_lead_to_files_and_open_pipes() {
    let world = World::new();
    let proc = world.seen_by(INIT);
    let link = |path| walk(&proc, 0, path).expect("a link");
    assert_eq!(proc.readlink(0, link("self")), Ok(b"16385".to_vec()));
    assert_eq!(proc.readlink(0, link("thread-self")), Ok(b"16385/task/16385".to_vec()));
    assert_eq!(proc.readlink(0, link("16385/exe")), Ok(b"/bin/sh".to_vec()));
    assert_eq!(proc.follow(0, link("16385/cwd")), Ok(Link::Node(NodeId::Lower(7))));
    assert_eq!(proc.follow(0, link("16385/fd/0")), Ok(Link::Node(NodeId::Upper(5))));
    assert_eq!(proc.readlink(0, link("16385/fd/1")), Ok(b"pipe:[9]".to_vec()));
    assert_eq!(proc.readlink(0, link("16385/fd/2")), Ok(b"/dev/null".to_vec()));
    let Ok(Link::Node(pipe)) = proc.follow(0, link("16385/fd/1")) else { panic!("no node") };
    assert_eq!(super::pipe_of(pipe), Some(PipeId(9)));
    let NodeId::Synthetic { mount, node } = pipe else { panic!("not synthetic") };
    let metadata = proc.metadata(mount, node).expect("metadata");
    assert_eq!((metadata.kind, metadata.ino), (Kind::Fifo, 9));
    assert_eq!(super::pipe_of(NodeId::Lower(3)), None);
}

#[test]
fn what_is_gone_has_no_files() {
    let mut world = World::new();
    for path in ["1", "sys/class/net/1", "16385/task/16386", "16385/fd/3", "16385/fdinfo/77", "16385/nothing", "016385"]
    {
        assert_eq!(walk(&world.seen_by(INIT), 0, path), Err(Errno::ENOENT.into()), "{path}");
    }
    let link = walk(&world.seen_by(INIT), 0, "16385/fd/1").expect("a link");
    let child = walk(&world.seen_by(INIT), 0, "16386/stat").expect("a file");
    world.tables = Table::new();
    world.processes.remove(&CHILD);
    let proc = world.seen_by(INIT);
    assert_eq!(proc.follow(0, link), Err(Errno::ENOENT.into()));
    assert_eq!(proc.metadata(0, child), Err(Errno::ENOENT.into()));
    assert_eq!(proc.lookup(0, child, b"x"), Err(Errno::ENOENT.into()));
}

#[test]
fn users_look_only_into_their_own_processes() {
    let world = World::new();
    let proc = world.seen_by(CHILD);
    assert_eq!(text(&proc, 0, "16385/io"), Err(Errno::EACCES));
    assert!(text(&proc, 0, "16386/io").is_ok());
    let exe = walk(&proc, 0, "16385/exe").expect("a link");
    assert_eq!(proc.follow(0, exe), Err(Errno::EACCES.into()));
    assert!(text(&world.seen_by(INIT), 0, "16386/io").is_ok());
}

#[test]
fn stat_and_status_tell_of_process_and_thread() {
    let mut world = World::new();
    let stat = text(&world.seen_by(INIT), 0, "16385/stat").expect("stat");
    assert!(stat.starts_with("16385 (a) b\\n) R 0 16385 16385 1281 16386 64 8 0 0 0 50 0 0 0 20 0 2 0 200 "), "{stat}");
    // Behind the name are fields 3 to 52.
    assert_eq!(stat.rsplit(')').next().map(|rest| rest.split_whitespace().count()), Some(50));
    let stat = text(&world.seen_by(INIT), 0, "16385/task/16387/stat").expect("stat");
    assert!(stat.starts_with("16387 ") && stat.contains(" 64 4 0 0 0 25 0 "), "{stat}");
    let status = text(&world.seen_by(INIT), 0, "16386/status").expect("status");
    for line in [
        "Name:\ta) b\\n\n",
        "State:\tR (running)\n",
        "Uid:\t7\t7\t7\t7\n",
        "Umask:\t0022\n",
        "SigIgn:\t0000000000000001\n",
        "SigCgt:\t0000000000000002\n",
    ] {
        assert!(status.contains(line), "{line:?} in {status}");
    }
    if let Some(child) = world.processes.get_mut(&CHILD) {
        child.zombie = Some(Ending::Exited(3));
    }
    let proc = world.seen_by(INIT);
    assert!(text(&proc, 0, "16386/stat").is_ok_and(|stat| stat.contains(") Z ") && stat.ends_with(" 768\n")));
    assert_eq!(names(&proc, 0, "16386/fd", 9), [".", ".."]);
}

#[test]
fn the_kernel_is_named_and_has_one_processor() {
    let world = World::new();
    let proc = world.seen_by(INIT);
    let version = text(&proc, 0, "version").expect("version");
    assert!(version.starts_with("Linux version 6.1.0-shimos (Shimos ") && version.contains("kernel k2.1"), "{version}");
    assert_eq!(text(&proc, 0, "sys/kernel/osrelease"), Ok("6.1.0-shimos\n".into()));
    assert_eq!(text(&proc, 0, "sys/kernel/hostname"), Ok("test\n".into()));
    assert_eq!(text(&proc, 0, "uptime"), Ok("100.00 99.25\n".into()));
    assert!(
        text(&proc, 0, "stat")
            .is_ok_and(|stat| stat.contains("\ncpu0 75 0 0 9925 ") && stat.contains("\nbtime 1699999900\n"))
    );
    assert!(
        text(&proc, 0, "meminfo")
            .is_ok_and(|text| text.contains("MemTotal:           4000 kB\nMemFree:            1600 kB\n"))
    );
    assert_eq!(text(&proc, 0, "cpuinfo").map(|text| text.matches("processor\t").count()), Ok(1));
    assert_eq!(text(&proc, 1, "devices/system/cpu/online"), Ok("0\n".into()));
    assert_eq!(text(&proc, 1, "devices/system/clocksource/clocksource0/current_clocksource"), Ok("tsc\n".into()));
    assert!(text(&proc, 0, "16385/limits").is_ok_and(|text| {
        text.contains("Max open files            1024                 65536                files     \n")
    }));
    assert_eq!(text(&proc, 0, "16385/fdinfo/1"), Ok("pos:\t11\nflags:\t02000001\nmnt_id:\t20\nino:\t9\n".into()));
}

#[test]
fn mappings_are_shown_as_in_linux() {
    let mut vma = Vma {
        first: UserPage(0x400),
        end: UserPage(0x402),
        prot: Prot::READ | Prot::EXECUTE,
        may: Prot::all(),
        sharing: Sharing::Private,
        source: Source::Image { nid: 36, first: 2 },
        flags: VmaFlags::empty(),
        name: "/bin/sh\n".into(),
    };
    let line = "00400000-00402000 r-xp 00002000 00:14 36";
    assert_eq!(mapping(&vma), alloc::format!("{line:<73}/bin/sh\\012\n"));
    vma.source = Source::Object { id: ObjectId(4), first: u64::MAX };
    vma.end = UserPage(u64::MAX);
    vma.sharing = Sharing::Shared;
    vma.name.clear();
    assert!(mapping(&vma).contains(" r-xs "));
}

#[test]
fn sockets_and_routes_are_listed() {
    let config = config();
    let routes = String::from_utf8(figures::routes(config)).expect("text");
    assert!(routes.contains("eth0\t00000000\t01004D0A\t0003\t0\t0\t0\t00000000\t"), "{routes}");
    assert!(routes.contains("eth0\t00004D0A\t00000000\t0001\t0\t0\t0\t0000FFFF\t"), "{routes}");
    let mut net = Stack::new(config, 1);
    for port in [80, 81] {
        let socket = net.open(Family::V4, Protocol::Tcp).expect("a socket");
        net.bind(socket, (Ipv4Addr::UNSPECIFIED, port).into()).expect("bound");
        if port == 80 {
            net.listen(socket, 5).expect("listening");
        }
    }
    let list = String::from_utf8(network::sockets(File::NetTcp, &net, Nanos(0))).expect("text");
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines.len() == 3 && lines.iter().all(|line| line.len() == 149));
    assert!(
        list.contains("   0: 00000000:0050 00000000:0000 0A ")
            && list.contains("   1: 00000000:0051 00000000:0000 07 ")
    );
    let udp = String::from_utf8(network::sockets(File::NetUdp, &net, Nanos(0))).expect("text");
    assert_eq!(udp.lines().count(), 1);
}

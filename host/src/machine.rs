//! One machine in the emulator: its command line, its start, its end.
use crate::{
    accelerator::Accelerator,
    children::{Child, found, tied},
    console::Console,
    control::Control,
    disk,
    faults::KERNEL_FILE,
    paths::Paths,
    qmp::Qmp,
    registry::{self, Entry},
    resets,
    units::Published,
    usage::usage,
};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use shimos_abi::{
    control::{KernelState, MachineStatus, PORT, Partition, address_of},
    ids::{MAX_KERNELS, ProgramId},
    shared::Layout,
    time::Nanos,
};
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

/// Least private memory of a kernel, in MiB.
pub const MIN_MEMORY: u64 = 32;
/// Most private memory of a kernel, in MiB.
pub const MAX_MEMORY: u64 = 65536;
/// Memory that belongs to no kernel: firmware, the load image, page tables of the shared area. In MiB.
const COMMON_MEMORY: u64 = 32;
/// Memory that every kind of machine has in one piece, in MiB.
const BELOW_HOLE: u64 = 2048;
/// Where the superblock of an EROFS image lies, and what it starts with.
const EROFS: (u64, u32) = (1024, 0xe0f5_e1e2);
/// Longest path of a UNIX socket.
const SOCKET_PATH: usize = 100;

/// Kinds of machines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kind {
    /// A PC of 2009 with PCI Express.
    Q35,
    /// A PC of 1996.
    Pc,
    /// A minimal machine without PCI.
    Microvm,
}

/// What machine is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Number of kernels.
    pub kernels: u16,
    /// Private memory of each kernel, in MiB.
    pub memory: u64,
    /// Kind of machine.
    pub kind: Kind,
    /// Interval of the daemons; the kernel's own choice otherwise.
    pub heartbeat: Option<Nanos>,
    /// Ports of this host that lead inside.
    pub published: Vec<Published>,
    /// The processor's model, if not the accelerator's usual one.
    pub model: Option<String>,
    /// What is to keep the kernels apart, where the processor offers it.
    pub partition: Partition,
    /// Seconds after which the machine is reset if no kernel watches it.
    pub watchdog: Option<u64>,
    /// More words for the kernel's command line.
    pub words: Vec<String>,
    /// How its time passes.
    pub time: Time,
    /// A file or pipe that gets every frame of the network card, as pcap.
    pub capture: Option<PathBuf>,
}

/// How a machine's time passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Time {
    /// As it does outside.
    #[default]
    Real,
    /// A nanosecond with each instruction; while nothing runs, as outside. The host's load does not matter then.
    Counted,
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Time::Real => "",
            Time::Counted => ", times are counted instructions",
        })
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            kernels: 4,
            memory: 128,
            kind: Kind::Q35,
            heartbeat: None,
            published: Vec::new(),
            model: None,
            partition: Partition::Svm,
            watchdog: None,
            words: Vec::new(),
            time: Time::Real,
            capture: None,
        }
    }
}

impl Options {
    /// Memory of the whole machine, in MiB. Private memories are in one piece each: at the hole below 4 GiB, and at the
    /// end, most of one may be lost.
    pub fn total_memory(&self) -> u64 {
        let shared = Layout::new(usize::from(self.kernels)).words() as u64 * 8;
        let needed = u64::from(self.kernels) * self.memory + shared.div_ceil(1 << 20) + COMMON_MEMORY;
        if needed > BELOW_HOLE { needed + 2 * self.memory } else { needed }
    }

    /// Whether such a machine can be.
    pub fn check(&self) -> Result<()> {
        if self.kernels == 0 || usize::from(self.kernels) > MAX_KERNELS {
            return Err(usage(format!("--kernels {}: a machine has 1 to {MAX_KERNELS} kernels", self.kernels)));
        }
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&self.memory) {
            return Err(usage(format!(
                "--memory {}: a kernel has {MIN_MEMORY} to {MAX_MEMORY} MiB of private memory",
                self.memory
            )));
        }
        let (total, host) = (self.total_memory(), host_memory());
        if total > host {
            return Err(usage(format!(
                "the machine would have {total} MiB of memory and this host has {host} MiB; lower --kernels or --memory"
            )));
        }
        for (index, port) in self.published.iter().enumerate() {
            if port.host != 0 && self.published.iter().take(index).any(|other| other.host == port.host) {
                return Err(usage(format!("port {} is published twice; choose another", port.host)));
            }
            check_port(port.host)?;
        }
        Ok(())
    }

    /// The words for the kernel.
    fn append(&self) -> String {
        let mut words = vec![format!("kernels={}", self.kernels), format!("memory={}", self.memory)];
        words.extend(self.heartbeat.map(|interval| format!("heartbeat={}", (interval.0 / 1_000_000).max(1))));
        if self.partition == Partition::None {
            words.push("partition=none".to_string());
        }
        words.extend(self.watchdog.map(|seconds| format!("watchdog={seconds}")));
        words.extend(self.words.iter().cloned());
        words.join(" ")
    }
}

/// Whether a port of this host can be had.
pub fn check_port(port: u16) -> Result<()> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) => Err(usage(format!("port {port} of this host cannot be used ({error}); choose another"))),
    }
}

/// A port of this host that nobody uses now.
pub fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port of this host is free; close something")?;
    Ok(listener.local_addr()?.port())
}

fn host_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib / 1024)
}

/// Puts the kernel beside the machine's log: it is what runs there, also when another one is built.
fn keep_kernel(kernel: &Path, directory: &Path) -> Result<PathBuf> {
    let kept = directory.join(KERNEL_FILE);
    fs::hard_link(kernel, &kept)
        .or_else(|_| fs::copy(kernel, &kept).map(drop))
        .with_context(|| format!("cannot put the kernel into {}", directory.display()))?;
    Ok(kept)
}

/// Whether a file can be a root image.
pub fn check_image(path: &Path) -> Result<()> {
    let shown = path.display();
    let mut file = File::open(path).map_err(|error| usage(format!("cannot open the image {shown}: {error}")))?;
    let mut bytes = [0; 4];
    let read = file.seek(SeekFrom::Start(EROFS.0)).and_then(|_| file.read_exact(&mut bytes));
    if read.is_err() || u32::from_le_bytes(bytes) != EROFS.1 {
        return Err(usage(format!("{shown} is no root image (EROFS); leave --image out to have one made")));
    }
    // Blocks, and their size as a power of two.
    let mut superblock = [0; 128];
    file.seek(SeekFrom::Start(EROFS.0))?;
    let whole = file.read_exact(&mut superblock).is_ok() && {
        let [.., b0, b1, b2, b3] = superblock[..40] else {
            return Ok(());
        };
        let size = u64::from(u32::from_le_bytes([b0, b1, b2, b3])) << superblock[12].min(16);
        file.metadata()?.len() >= size
    };
    if !whole {
        return Err(usage(format!("the image {shown} is cut short; leave --image out to have one made")));
    }
    Ok(())
}

/// The emulator's name: `QEMU` in the environment, or the usual one.
pub fn emulator() -> Result<String> {
    let name = std::env::var("QEMU").unwrap_or_else(|_| "qemu-system-x86_64".to_string());
    if !found(&name) {
        bail!("{name} is missing; run: apt-get install --no-install-recommends qemu-system-x86");
    }
    Ok(name)
}

/// What the emulator is told, apart from its own name.
pub fn arguments(
    options: &Options,
    accelerator: Accelerator,
    kernel: &Path,
    disk: &Path,
    id: &str,
    control_port: u16,
    sockets: &[&Path],
) -> Vec<String> {
    let path = |path: &Path| path.display().to_string().replace(',', ",,");
    let [a, b, c, d] = address_of(ProgramId(1));
    let mut network = "user,id=n0,net=10.77.0.0/16,host=10.77.0.2,dns=10.77.0.3,ipv6-net=fec0::/64,ipv6-host=fec0::2,ipv6-dns=fec0::3".to_string();
    let control = format!("tcp:127.0.0.1:{control_port}-{a}.{b}.{c}.{d}:{PORT}");
    for rule in std::iter::once(control).chain(options.published.iter().map(Published::rule)) {
        network += &format!(",hostfwd={rule}");
    }
    let (machine, bus): (&[&str], &str) = match options.kind {
        Kind::Q35 => (&["q35", "-bios", "qboot.rom"], "pci"),
        Kind::Pc => (&["pc", "-bios", "qboot.rom"], "pci"),
        // The driver speaks version 1 of virtio; a microvm's devices are of the draft before that unless told otherwise.
        Kind::Microvm => (&["microvm", "-global", "virtio-mmio.force-legacy=false"], "device"),
    };
    let mut words: Vec<String> = vec!["-machine".to_string()];
    let mut add = |more: &[&str]| words.extend(more.iter().map(|word| word.to_string()));
    add(machine);
    match options.time {
        Time::Real => add(&accelerator.arguments()),
        Time::Counted => add(&["-accel", "tcg,thread=single", "-icount", "shift=0", "-cpu", "max"]),
    }
    if let Some(model) = &options.model {
        add(&["-cpu", model]);
    }
    add(&["-name", id, "-nodefaults", "-no-user-config", "-vga", "none", "-display", "none"]);
    add(&["-smp", &options.kernels.to_string(), "-m", &options.total_memory().to_string()]);
    add(&["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
    for socket in sockets {
        add(&["-qmp", &format!("unix:{},server=on,wait=off", path(socket))]);
    }
    add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    if options.watchdog.is_some() {
        add(&["-device", "ib700", "-action", "watchdog=reset"]);
    }
    add(&["-drive", &format!("if=none,id=root,format=raw,readonly=on,file={}", path(disk))]);
    add(&["-device", &format!("virtio-blk-{bus},drive=root")]);
    add(&["-netdev", &network]);
    add(&["-device", &format!("virtio-net-{bus},netdev=n0,mac=52:53:48:4d:ff:ff")]);
    if let Some(capture) = &options.capture {
        add(&["-object", &format!("filter-dump,id=capture,netdev=n0,file={}", path(capture))]);
    }
    add(&["-kernel", &kernel.display().to_string(), "-append", &options.append()]);
    words
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Files {
    /// The kernel.
    pub kernel: PathBuf,
    /// The root image.
    pub image: PathBuf,
}

/// A running machine; it ends when this is dropped.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    qmp: Qmp,
    entry: Entry,
    console: Console,
    started: Instant,
    /// What it was asked to be.
    pub options: Options,
    /// What runs it.
    pub accelerator: Accelerator,
    /// From the emulator's start to the last kernel at work.
    pub boot_time: Duration,
}

impl Machine {
    /// Starts a machine and waits until all its kernels are at work and it can be asked.
    pub fn boot(paths: &Paths, files: &Files, options: Options, within: Duration) -> Result<Machine> {
        let mut machine = Machine::start(paths, files, options)?;
        machine.wait_ready(within)?;
        Ok(machine)
    }

    /// Starts a machine without waiting for its kernels.
    pub fn start(paths: &Paths, files: &Files, options: Options) -> Result<Machine> {
        options.check()?;
        check_image(&files.image)?;
        let emulator = emulator()?;
        let accelerator = match options.time {
            Time::Real => Accelerator::choose(&emulator, &files.kernel),
            Time::Counted => Accelerator::Tcg,
        };
        let (id, directory) = registry::create(paths)?;
        let disk = disk::create(&directory, &files.image).inspect_err(|_| disk::remove(&directory))?;
        let kernel = keep_kernel(&files.kernel, &directory)?;
        // One control socket for this tool and one for others: each serves one client at a time.
        let [own, qmp] = ["own", "qmp"].map(|name| {
            let path = directory.join(name);
            if path.as_os_str().len() > SOCKET_PATH { std::env::temp_dir().join(format!("{id}.{name}")) } else { path }
        });
        let told = resets::socket(&directory, &id, SOCKET_PATH);
        let control_port = free_port()?;
        let errors = directory.join("emulator.log");
        let mut command = tied(&emulator);
        command.args(arguments(&options, accelerator, &kernel, &disk, &id, control_port, &[&own, &qmp, &told]));
        // For those who look into the emulator itself, like `-d cpu_reset -D file`.
        command.args(std::env::var("SHIMOS_QEMU_ARGS").unwrap_or_default().split_whitespace());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&errors)?);
        let started = Instant::now();
        let mut child = Child::spawn(&mut command)?;
        let stdout = child.take_stdout().context("the emulator has no standard output")?;
        let console = Console::read(stdout, &directory.join("console.log"))?;
        let entry = Entry { id, pid: child.id(), control_port, qmp, directory: directory.clone() };
        let connected = Qmp::connect(&own, Duration::from_secs(20));
        // Connected or not, nobody else needs its name.
        let _ = fs::remove_file(&own);
        let qmp = match connected {
            Ok(qmp) => qmp,
            Err(error) => {
                child.kill();
                disk::remove(&directory);
                let said = fs::read_to_string(&errors).unwrap_or_default();
                return match said.lines().next_back() {
                    Some(line) => bail!("the emulator did not start: {line}"),
                    None => Err(error),
                };
            }
        };
        registry::register(&entry)?;
        resets::watch(told, directory);
        Ok(Machine { child, qmp, entry, console, started, options, accelerator, boot_time: Duration::ZERO })
    }

    /// Waits until all kernels are at work.
    pub fn wait_ready(&mut self, within: Duration) -> Result<MachineStatus> {
        let start = Instant::now();
        let mut control = self.control();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the machine stopped while it booted ({status}): {}", self.last_words());
            }
            let left = within.saturating_sub(start.elapsed());
            if control.hello(Duration::ZERO).is_ok() {
                let status = control.status()?;
                let all = status.kernels.len() == usize::from(self.options.kernels);
                if all && status.kernels.iter().all(|kernel| kernel.state == KernelState::Running) {
                    self.boot_time = self.started.elapsed();
                    if let Some(interval) = self.options.heartbeat {
                        control.set_heartbeat(interval)?;
                    }
                    return Ok(status);
                }
            }
            if left.is_zero() {
                bail!("the machine was not ready after {} s: {}", within.as_secs(), self.last_words());
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// The last things that machine and emulator said, and where the rest is.
    fn last_words(&self) -> String {
        let errors = fs::read_to_string(self.entry.directory.join("emulator.log")).unwrap_or_default();
        let mut words: Vec<String> = errors.lines().last().map(str::to_string).into_iter().collect();
        words.extend(self.console.last(3));
        format!("{} (log: {})", words.join(" / "), self.entry.directory.join("console.log").display())
    }

    /// A new client of the control daemon.
    pub fn control(&self) -> Control {
        Control::new(self.entry.control_port)
    }
    /// The console.
    pub fn console(&self) -> &Console {
        &self.console
    }
    /// The emulator's control socket.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }
    /// How it is written down.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Leads a port of this host (0: any) to a port of a program; returns the host's port.
    pub fn publish(&mut self, host: u16, program: ProgramId, port: u16) -> Result<u16> {
        let host = if host == 0 { free_port()? } else { host };
        check_port(host)?;
        self.qmp.forward(&Published { host, address: address_of(program), port }.rule())?;
        Ok(host)
    }

    /// Whether the emulator has ended.
    pub fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Processor time that the emulator has used so far.
    pub fn processor_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.entry.pid);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let (_, fields) = text.rsplit_once(')').context("an odd line in /proc")?;
        let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        let hz = rustix::param::clock_ticks_per_second();
        Ok(Duration::from_secs_f64(ticks as f64 / hz as f64))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.child.kill();
        registry::strike(&self.entry.directory);
        let _ = fs::remove_file(&self.entry.qmp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(options: &Options) -> String {
        let (kernel, disk) = (Path::new("K"), Path::new("/a,b/I"));
        let sockets = [Path::new("/run/o"), Path::new("/run/q")];
        arguments(options, Accelerator::Tcg, kernel, disk, "shimos-1-0", 4000, &sockets).join(" ")
    }

    #[test]
    fn the_command_line_says_what_was_asked_for() {
        let line = line(&Options {
            heartbeat: Some(Nanos::millis(20)),
            published: vec![Published { host: 8080, address: [10, 77, 1, 2], port: 80 }],
            capture: Some(PathBuf::from("/a,b/C")),
            ..Options::default()
        });
        for part in [
            "-machine q35 -bios qboot.rom",
            "-accel tcg,thread=multi",
            "-smp 4",
            "virtio-blk-pci",
            "file=/a,,b/I",
            "-object filter-dump,id=capture,netdev=n0,file=/a,,b/C",
            "hostfwd=tcp:127.0.0.1:4000-10.77.1.1:7411,hostfwd=tcp:127.0.0.1:8080-10.77.1.2:80",
            "-append kernels=4 memory=128 heartbeat=20",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(!line.contains("partition="), "what the processor offers is on");
        let bare = self::line(&Options { partition: Partition::None, ..Options::default() });
        assert!(bare.contains(" partition=none"));
        // A reset is not the end: programs go on after it.
        assert!(!line.contains("-no-reboot"), "{line}");
        let microvm = self::line(&Options { kind: Kind::Microvm, ..Options::default() });
        assert!(microvm.contains("virtio-net-device") && microvm.contains("virtio-mmio.force-legacy=false"));
    }

    #[test]
    fn all_memory_fits_in_the_machine() {
        for kernels in [1, 4, 64] {
            let options = Options { kernels, ..Options::default() };
            let shared = Layout::new(usize::from(kernels)).words() as u64 * 8;
            let needed = u64::from(kernels) * options.memory * (1 << 20) + shared;
            assert!(options.total_memory() * (1 << 20) >= needed + (16 << 20));
        }
    }

    #[test]
    fn impossible_machines_are_refused_as_usage() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = taken.local_addr().expect("address").port();
        let wrong = [
            Options { kernels: 0, ..Options::default() },
            Options { kernels: 65, ..Options::default() },
            Options { memory: 1, ..Options::default() },
            Options { memory: u64::MAX, ..Options::default() },
            Options { kernels: 64, memory: MAX_MEMORY, ..Options::default() },
            Options {
                published: vec![Published { host: port, address: [10, 77, 1, 2], port: 80 }],
                ..Options::default()
            },
        ];
        for options in wrong {
            let error = options.check().expect_err("refused");
            assert!(error.is::<crate::usage::Usage>(), "{error}");
            assert!(!crate::usage::one_line(&error).contains('\n'));
        }
        Options::default().check().expect("fits everywhere");
    }

    #[test]
    fn broken_images_are_refused() {
        let path = std::env::temp_dir().join(format!("shimos-broken-{}", std::process::id()));
        for content in [Vec::new(), vec![7; 8192]] {
            fs::write(&path, content).expect("writes");
            assert!(check_image(&path).expect_err("refused").to_string().contains("no root image"));
        }
        let mut cut = vec![0; 8192];
        cut[1024..1028].copy_from_slice(&EROFS.1.to_le_bytes());
        cut[1024 + 12] = 12;
        cut[1024 + 36] = 100;
        fs::write(&path, cut).expect("writes");
        assert!(check_image(&path).expect_err("refused").to_string().contains("cut short"));
        let _ = fs::remove_file(&path);
        assert!(check_image(&path).expect_err("refused").to_string().contains("cannot open"));
    }
}

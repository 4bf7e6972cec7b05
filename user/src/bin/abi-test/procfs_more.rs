//! More of /proc and /sys: titles, names of threads, memory, what tools read.
use crate::{
    Outcome, Subtest,
    check::{fails, same, text, that, works},
};
use shimos_user::raw::{self, Map};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::{
        linux::fs::MetadataExt,
        unix::fs::{FileExt, PermissionsExt},
    },
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("proc/title", title),
    ("proc/memory", memory),
    ("proc/descriptors_of_threads", descriptors_of_threads),
    ("proc/threads", threads),
    ("proc/name", name),
    ("proc/auxv", auxiliary),
    ("proc/smaps", smaps),
    ("proc/pagemap", pagemap),
    ("proc/counters", counters),
    ("proc/namespaces", namespaces),
    ("proc/permissions", permissions),
    ("proc/gone", gone),
    ("proc/settings", settings),
    ("proc/tables", tables),
    ("proc/mounts", mounts),
    ("proc/load", load),
    ("proc/kernel", kernel),
    ("sys/processors", processors),
    ("sys/network", network),
];

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

fn number(path: &str) -> Result<u64, String> {
    let text = read(path)?;
    text.trim().parse().map_err(|_| format!("{path}: {text:?}"))
}

/// The value of a line `NAME: value kB` of status, smaps or io.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Command lines are read from memory: a program that writes over its arguments has another title.
fn title() -> Outcome {
    let before = fs::read("/proc/self/cmdline").map_err(text)?;
    that("zero at the end", before.last() == Some(&0))?;
    let stat = read("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
    let address = |field: usize| fields.get(field - 3).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    let (first, end) = (address(48), address(49));
    same("length of the arguments", end.wrapping_sub(first), before.len() as u64)?;
    let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem");
    let memory = memory.map_err(text)?;
    memory.write_all_at(b"T", first).map_err(text)?;
    same("first byte", fs::read("/proc/self/cmdline").map_err(text)?[0], b'T')
}

/// The memory of another process, through its file.
fn memory() -> Outcome {
    let shared = Map::anonymous(4096, libc::MAP_SHARED).map_err(text)?;
    let private = Map::anonymous(4096, libc::MAP_PRIVATE).map_err(text)?;
    private.set(9, 42);
    let child = raw::fork(|| {
        let begun = std::time::Instant::now();
        while private.get(9) != 43 && begun.elapsed().as_secs() < 30 {
            shared.set(0, 1);
            std::thread::yield_now();
        }
        i32::from(private.get(9) != 43)
    })
    .map_err(text)?;
    let path = format!("/proc/{child}/mem");
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(text)?;
    let mut byte = [0_u8];
    file.read_exact_at(&mut byte, private.addr() + 9).map_err(text)?;
    same("read", byte[0], 42)?;
    fails("not mapped", file.read_at(&mut byte, 0x1000), libc::EIO)?;
    fails("not mapped", file.write_at(&byte, 0x1000), libc::EIO)?;
    file.write_all_at(&[43], private.addr() + 9).map_err(text)?;
    same("the child has seen it", raw::exit_of(child).map_err(text)?, 0)?;
    same("not here", private.get(9), 42)?;
    same("gone", file.read_at(&mut byte, private.addr()).map_err(text).unwrap_or(0), 0)
}

fn descriptors_of_threads() -> Outcome {
    let directory = File::open("/").map_err(text)?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&directory);
    let one = fs::metadata(format!("/proc/self/fd/{fd}")).map_err(text)?;
    let other = fs::metadata(format!("/proc/thread-self/fd/{fd}")).map_err(text)?;
    same("the same file", (one.st_dev(), one.st_ino()), (other.st_dev(), other.st_ino()))?;
    let told = fs::read_to_string(format!("/proc/thread-self/fdinfo/{fd}")).map_err(text)?;
    that("fdinfo", told.starts_with("pos:"))
}

fn threads() -> Outcome {
    let (begun, wait) = std::sync::mpsc::channel();
    let (finish, end) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::Builder::new().name("a-worker".into()).spawn(move || {
        let _ = begun.send(rustix::thread::gettid().as_raw_nonzero().get());
        let _ = end.recv();
    });
    let thread = thread.map_err(text)?;
    let tid = wait.recv().map_err(|error| error.to_string())?;
    let pid = std::process::id();
    let own = read("/proc/self/comm")?;
    let task = format!("/proc/self/task/{tid}");
    same("its name", read(&format!("{task}/comm"))?.as_str(), "a-worker\n")?;
    that("the process's name", own != "a-worker\n")?;
    that("stat", read(&format!("{task}/stat"))?.starts_with(&format!("{tid} (a-worker) ")))?;
    let status = read(&format!("{task}/status"))?;
    same("Pid", field(&status, "Pid"), Some(tid as u64))?;
    same("Tgid", field(&status, "Tgid"), Some(pid.into()))?;
    same("Threads", field(&read("/proc/self/status")?, "Threads"), Some(2))?;
    let mut listed: Vec<String> = fs::read_dir("/proc/self/task")
        .map_err(text)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    listed.sort();
    let mut wanted = vec![pid.to_string(), tid.to_string()];
    wanted.sort();
    same("listed", listed, wanted)?;
    for name in
        ["cmdline", "environ", "maps", "smaps", "statm", "limits", "mounts", "mountinfo", "io", "wchan", "cgroup"]
    {
        that(name, File::open(format!("{task}/{name}")).is_ok())?;
    }
    // Its name can be written, by threads of the same process alone.
    fs::write(format!("{task}/comm"), b"renamed").map_err(text)?;
    same("its new name", read(&format!("{task}/comm"))?.as_str(), "renamed\n")?;
    same("that of the process", read("/proc/self/comm")?, own)?;
    let child = raw::fork(|| match fs::write(format!("/proc/{pid}/task/{tid}/comm"), b"other") {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => 0,
        _ => 1,
    })
    .map_err(text)?;
    same("another's", raw::exit_of(child).map_err(text)?, 0)?;
    drop(finish);
    thread.join().map_err(|_| "the thread failed".to_string())?;
    fails("after its end", fs::metadata(format!("/proc/{pid}/task/{tid}")), libc::ENOENT)
}

fn name() -> Outcome {
    fs::write("/proc/self/comm", b"a name of more than fifteen").map_err(text)?;
    same("cut", read("/proc/self/comm")?.as_str(), "a name of more \n")?;
    let child = raw::fork(|| i32::from(read("/proc/self/comm").as_deref() != Ok("a name of more \n"))).map_err(text)?;
    same("a child's", raw::exit_of(child).map_err(text)?, 0)
}

fn auxiliary() -> Outcome {
    const PAGE_SIZE: u64 = 6;
    let bytes = fs::read("/proc/self/auxv").map_err(text)?;
    let words: Vec<u64> = bytes.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap_or_default())).collect();
    let pairs: Vec<(u64, u64)> = words.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    that("page size", pairs.contains(&(PAGE_SIZE, 4096)))?;
    that("its end", pairs.last() == Some(&(0, 0)) || pairs.contains(&(0, 0)))
}

/// The lines of smaps of the mapping that begins at an address.
fn mapping(address: u64) -> Result<String, String> {
    let smaps = read("/proc/self/smaps")?;
    let start = format!("{address:08x}-");
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
    let head = lines.next().ok_or(format!("no mapping at {start}"))?;
    let is_field = |line: &&str| line.split(' ').next().is_some_and(|word| word.ends_with(':'));
    Ok([head].into_iter().chain(lines.take_while(is_field)).map(|line| format!("{line}\n")).collect())
}

fn smaps() -> Outcome {
    const PAGES: usize = 64;
    let map = Map::anonymous(PAGES * 4096, libc::MAP_PRIVATE).map_err(text)?;
    // Alone: a mapping of other rights on both sides keeps it from being joined with a neighbour.
    let inner = map.addr() + 4096;
    let protect = |at: u64| raw::call(libc::SYS_mprotect, [at, 4096, 0, 0, 0, 0]);
    works("mprotect", protect(map.addr()))?;
    works("mprotect", protect(map.addr() + (PAGES as u64 - 1) * 4096))?;
    for page in 1..11 {
        map.set(page * 4096, 1);
    }
    let own = mapping(inner)?;
    same("Size", field(&own, "Size"), Some((PAGES as u64 - 2) * 4))?;
    same("Rss", field(&own, "Rss"), Some(40))?;
    same("Pss", field(&own, "Pss"), Some(40))?;
    same("Private_Dirty", field(&own, "Private_Dirty"), Some(40))?;
    same("Anonymous", field(&own, "Anonymous"), Some(40))?;
    let child = raw::fork(|| {
        map.set(4096, 2);
        let Ok(shared) = mapping(inner) else { return 1 };
        let told = |name| field(&shared, name);
        // One page was copied; nine are shared with the parent.
        if told("Private_Dirty") != Some(4) || told("Rss") != Some(40) || told("Pss") != Some(4 + 18) {
            eprintln!("{shared}");
            return 2;
        }
        0
    })
    .map_err(text)?;
    same("after fork", raw::exit_of(child).map_err(text)?, 0)?;
    let rollup = read("/proc/self/smaps_rollup")?;
    that("rollup", rollup.contains("[rollup]") && field(&rollup, "Rss").is_some_and(|kib| kib >= 40))?;
    let statm = read("/proc/self/statm")?;
    same("statm", statm.split_whitespace().count(), 7)
}

fn pagemap() -> Outcome {
    let map = Map::anonymous(2 * 4096, libc::MAP_PRIVATE).map_err(text)?;
    map.set(0, 1);
    let Ok(file) = File::open("/proc/self/pagemap") else { return Ok(()) };
    let mut words = [0; 16];
    file.read_exact_at(&mut words, map.addr() / 4096 * 8).map_err(text)?;
    that("present", words[7] & 0x80 != 0)?;
    that("absent", words[15] & 0x80 == 0)?;
    fails("out of step", file.read_at(&mut words, 4), libc::EINVAL)
}

fn counters() -> Outcome {
    let before = read("/proc/self/io")?;
    let mut file = File::create("file").map_err(text)?;
    file.write_all(&[0; 1000]).map_err(text)?;
    let after = read("/proc/self/io")?;
    let grown = |name| Some(field(&after, name)?.wrapping_sub(field(&before, name)?));
    same("wchar", grown("wchar"), Some(1000))?;
    same("syscw", grown("syscw"), Some(1))?;
    that("rchar", grown("rchar").is_some_and(|bytes| bytes >= before.len() as u64))?;
    let usage = || {
        let mut usage = [0_u64; 18];
        let done = raw::call(libc::SYS_getrusage, [0, usage.as_mut_ptr() as u64, 0, 0, 0, 0]);
        works("getrusage", done).map(|_| usage)
    };
    let faults = usage()?[8];
    let map = Map::anonymous(16 * 4096, libc::MAP_PRIVATE).map_err(text)?;
    for page in 0..16 {
        map.set(page * 4096, 1);
    }
    that("faults", usage()?[8] >= faults + 16)?;
    let waits = usage()?[16];
    std::thread::sleep(std::time::Duration::from_millis(2));
    that("waits", usage()?[16] > waits)?;
    let status = read("/proc/self/status")?;
    that("waits in status", field(&status, "voluntary_ctxt_switches").is_some_and(|count| count > 0))
}

fn namespaces() -> Outcome {
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "user", "uts"] {
        let path = format!("/proc/self/ns/{name}");
        let link = fs::read_link(&path).map_err(text)?.display().to_string();
        let kind = name.trim_end_matches("_for_children");
        let inode = fs::metadata(&path).map_err(text)?.st_ino();
        same(name, link, format!("{kind}:[{inode}]"))?;
    }
    Ok(())
}

fn permissions() -> Outcome {
    let mode = |name: &str| {
        fs::symlink_metadata(format!("/proc/self/{name}")).map(|data| data.permissions().mode() & 0o7777).map_err(text)
    };
    for (name, wanted) in [
        ("stat", 0o444),
        ("status", 0o444),
        ("cmdline", 0o444),
        ("comm", 0o644),
        ("environ", 0o400),
        ("auxv", 0o400),
        ("maps", 0o444),
        ("io", 0o400),
        ("pagemap", 0o400),
        ("personality", 0o400),
        ("fd", 0o500),
        ("task", 0o555),
        ("ns", 0o511),
        ("exe", 0o777),
    ] {
        // A container's host may show descriptors as 0555.
        let got = mode(name)?;
        that(&format!("{name}: {got:o} instead of {wanted:o}"), got == wanted || name == "fd" && got == 0o555)?;
    }
    for name in ["stat", "maps", "smaps", "environ"] {
        same(name, fs::metadata(format!("/proc/self/{name}")).map_err(text)?.len(), 0)?;
    }
    Ok(())
}

fn gone() -> Outcome {
    let (mut wait, finish) = std::io::pipe().map_err(text)?;
    let child = raw::fork(move || {
        drop(finish);
        i32::from(wait.read(&mut [0]).is_err())
    })
    .map_err(text)?;
    let mut open: Vec<(&str, File)> = Vec::new();
    for name in ["stat", "status", "statm", "limits", "cgroup"] {
        open.push((name, File::open(format!("/proc/{child}/{name}")).map_err(text)?));
    }
    raw::kill(child, libc::SIGKILL).map_err(text)?;
    raw::wait(child, 0).map_err(text)?;
    for (name, file) in &mut open {
        fails(name, file.read(&mut [0; 64]), libc::ESRCH)?;
    }
    fails("opened", File::open(format!("/proc/{child}/stat")), libc::ENOENT)
}

fn settings() -> Outcome {
    that("osrelease", read("/proc/sys/kernel/osrelease")?.split('.').count() >= 3)?;
    same("ostype", read("/proc/sys/kernel/ostype")?.as_str(), "Linux\n")?;
    for name in [
        "kernel/pid_max",
        "kernel/ngroups_max",
        "kernel/cap_last_cap",
        "kernel/overflowuid",
        "kernel/threads-max",
        "kernel/random/entropy_avail",
        "fs/file-max",
        "fs/nr_open",
        "fs/pipe-max-size",
        "vm/max_map_count",
        "vm/overcommit_memory",
        "vm/mmap_min_addr",
        "net/core/somaxconn",
    ] {
        number(&format!("/proc/sys/{name}"))?;
    }
    let (one, two) = (read("/proc/sys/kernel/random/uuid")?, read("/proc/sys/kernel/random/uuid")?);
    that("uuid", one != two && one.len() == 37)?;
    let boot = read("/proc/sys/kernel/random/boot_id")?;
    same("boot_id", read("/proc/sys/kernel/random/boot_id")?, boot)?;
    fails("written", OpenOptions::new().write(true).open("/proc/sys/kernel/ostype"), libc::EACCES)
        .or_else(|_| fails("written", OpenOptions::new().write(true).open("/proc/sys/kernel/ostype"), libc::EROFS))
        .or_else(|_| fails("written", fs::write("/proc/sys/kernel/ostype", b"x"), libc::EPERM))
}

fn tables() -> Outcome {
    let begins = |path: &str, start: &str| that(path, read(path)?.starts_with(start));
    begins("/proc/partitions", "major minor  #blocks  name\n\n")?;
    begins("/proc/swaps", "Filename")?;
    begins("/proc/devices", "Character devices:\n  1 mem\n")?;
    begins("/proc/interrupts", "           CPU0")?;
    for name in ["diskstats", "cmdline", "vmstat", "filesystems"] {
        read(&format!("/proc/{name}"))?;
    }
    let stat = read("/proc/stat")?;
    for name in ["cpu", "cpu0", "intr", "ctxt", "btime", "processes", "procs_running", "procs_blocked", "softirq"] {
        that(name, stat.lines().any(|line| line.split_whitespace().next() == Some(name)))?;
    }
    let memory = read("/proc/meminfo")?;
    for name in ["MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapTotal", "Shmem", "SReclaimable"] {
        that(name, field(&memory, name).is_some())?;
    }
    that("free", field(&memory, "MemFree") <= field(&memory, "MemTotal"))?;
    same("cgroup", read("/proc/self/cgroup")?.lines().last().map(|line| line.starts_with("0::/")), Some(true))?;
    that("drivers", read("/proc/tty/drivers")?.contains("pty_slave"))
}

fn mounts() -> Outcome {
    let info = read("/proc/self/mountinfo")?;
    for path in ["/", "/proc"] {
        let fields =
            info.lines().map(|line| line.split(' ').collect::<Vec<_>>()).rfind(|fields| fields.get(4) == Some(&path));
        let fields = fields.ok_or(format!("no mount at {path}: {info}"))?;
        let device = fs::metadata(path).map_err(text)?.st_dev();
        same(path, fields[2].to_string(), format!("{}:{}", libc::major(device), libc::minor(device)))?;
        that("a separator", fields.contains(&"-"))?;
    }
    same(
        "one device",
        fs::metadata("/proc").map_err(text)?.st_dev(),
        fs::metadata("/proc/self/stat").map_err(text)?.st_dev(),
    )?;
    that("another", fs::metadata("/proc").map_err(text)?.st_dev() != fs::metadata("/").map_err(text)?.st_dev())?;
    that("mounts", read("/proc/self/mounts")?.lines().all(|line| line.split(' ').count() == 6))?;
    that("mountstats", read("/proc/self/mountstats")?.contains("device proc mounted on /proc with fstype proc"))
}

fn load() -> Outcome {
    let line = read("/proc/loadavg")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    for word in &words[..3] {
        that(word, word.parse::<f64>().is_ok() && word.split('.').nth(1).is_some_and(|digits| digits.len() == 2))?;
    }
    let mut info = [0_u64; 14];
    works("sysinfo", raw::call(libc::SYS_sysinfo, [info.as_mut_ptr() as u64, 0, 0, 0, 0, 0]))?;
    that("uptime", info[0] > 0 && info[4] > info[5])?;
    let uptime = read("/proc/uptime")?;
    let seconds: f64 = uptime.split(' ').next().and_then(|word| word.parse().ok()).ok_or("no uptime")?;
    that("the same uptime", (seconds - info[0] as f64).abs() < 5.0)
}

/// Programs read the release as numbers, and all places say the same.
fn kernel() -> Outcome {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let numbers: Vec<u32> = release.split(['.', '-']).take(3).filter_map(|word| word.parse().ok()).collect();
    same("three numbers", numbers.len(), 3)?;
    same("osrelease", read("/proc/sys/kernel/osrelease")?, format!("{release}\n"))?;
    same("version", read("/proc/sys/kernel/version")?, format!("{}\n", name.version().to_string_lossy()))?;
    that("/proc/version", read("/proc/version")?.starts_with(&format!("Linux version {release} (")))
}

fn processors() -> Outcome {
    let online = read("/sys/devices/system/cpu/online")?;
    that("online", online.starts_with('0'))?;
    for name in ["possible", "present", "kernel_max", "cpu0/topology/core_id", "cpu0/topology/thread_siblings"] {
        read(&format!("/sys/devices/system/cpu/{name}"))?;
    }
    if let Ok(nodes) = read("/sys/devices/system/node/online") {
        that("nodes", nodes.starts_with('0'))?;
        that("memory", read("/sys/devices/system/node/node0/meminfo")?.contains("Node 0 MemTotal:"))?;
    }
    Ok(())
}

fn network() -> Outcome {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .map_err(text)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    that("lo", names.iter().any(|name| name == "lo"))?;
    for name in names {
        let device = format!("/sys/class/net/{name}");
        let index = number(&format!("{device}/ifindex"))?;
        that("an index", index > 0 && (name != "lo" || index == 1))?;
        that("mtu", number(&format!("{device}/mtu"))? >= 68)?;
        that("address", read(&format!("{device}/address"))?.trim().split(':').count() == 6 || name != "lo")?;
        read(&format!("{device}/operstate"))?;
        same("type of lo", (name == "lo").then(|| number(&format!("{device}/type"))).transpose()?.unwrap_or(772), 772)?;
    }
    Ok(())
}

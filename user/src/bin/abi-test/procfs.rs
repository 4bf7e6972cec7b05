//! /proc as programs use it.
use crate::{
    Outcome, Subtest,
    check::{asleep, fails, same, text, that, works},
};
use shimos_user::raw;
use std::{
    fs::{self, File},
    io::{Read, Seek},
    os::fd::AsRawFd,
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("proc/self", own),
    ("proc/exe", exe),
    ("proc/descriptors", descriptors),
    ("proc/maps", maps),
    ("proc/stat", stat),
    ("proc/status", status),
    ("proc/processes", processes),
    ("proc/machine", machine),
    ("proc/snapshot", snapshot),
    ("proc/network", network),
];

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

fn own() -> Outcome {
    let pid = std::process::id();
    same("self", fs::read_link("/proc/self").map_err(text)?.display().to_string(), pid.to_string())?;
    same("cwd", fs::read_link("/proc/self/cwd").map_err(text)?, std::env::current_dir().map_err(text)?)?;
    same("root", fs::read_link("/proc/self/root").map_err(text)?.display().to_string(), "/".to_string())?;
    that("command line", read("/proc/self/cmdline")?.starts_with(&std::env::args().next().unwrap_or_default()))?;
    that("environment", File::open("/proc/self/environ").is_ok())?;
    fs::write("here", b"x").map_err(text)?;
    same("through cwd", read("/proc/self/cwd/here")?.as_str(), "x")?;
    fails("no such process", fs::metadata("/proc/99999999"), libc::ENOENT)?;
    fails("written to", fs::write("/proc/version", b"x"), libc::EACCES)
        .or_else(|_| fails("written to", fs::write("/proc/version", b"x"), libc::EIO))
}

fn exe() -> Outcome {
    let path = fs::read_link("/proc/self/exe").map_err(text)?;
    that(&format!("absolute: {}", path.display()), path.is_absolute())?;
    same("the file", fs::metadata("/proc/self/exe").map_err(text)?.len(), fs::metadata(&path).map_err(text)?.len())?;
    let output = std::process::Command::new("/bin/readlink").arg("/proc/self/exe").output().map_err(text)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    that(&format!("another's: {said}"), said.trim_end() == "/usr/bin/readlink" || said.trim_end().contains("coreutils"))
}

fn descriptors() -> Outcome {
    fs::write("file", b"content").map_err(text)?;
    let file = File::open("file").map_err(text)?;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let wanted = std::env::current_dir().map_err(text)?.join("file");
    same("path", fs::read_link(&link).map_err(text)?, wanted)?;
    same("opened again", read(&link)?.as_str(), "content")?;
    let (reader, _writer) = std::io::pipe().map_err(text)?;
    let text_of = fs::read_link(format!("/proc/self/fd/{}", reader.as_raw_fd())).map_err(text)?.display().to_string();
    that(&text_of, text_of.starts_with("pipe:["))?;
    let inode = works("fstat", rustix::fs::fstat(&reader))?.st_ino;
    same("its number", text_of, format!("pipe:[{inode}]"))?;
    let count = fs::read_dir("/proc/self/fd").map_err(text)?.count();
    that("listed", count >= 5)?;
    let info = read(&format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    that("fdinfo", info.starts_with("pos:\t0\nflags:"))
}

fn maps() -> Outcome {
    let maps = read("/proc/self/maps")?;
    that("stack", maps.contains("[stack]"))?;
    let exe = fs::read_link("/proc/self/exe").map_err(text)?.display().to_string();
    that(&format!("{exe} in:\n{maps}"), maps.lines().any(|line| line.ends_with(&exe) && line.contains(" r-xp ")))?;
    let map = raw::Map::anonymous(4096, libc::MAP_PRIVATE).map_err(text)?;
    let maps = read("/proc/self/maps")?;
    let inside = |line: &str| {
        let (range, _) = line.split_once(' ')?;
        let (low, high) = range.split_once('-')?;
        let number = |word| u64::from_str_radix(word, 16).ok();
        Some((number(low)?..number(high)?).contains(&map.addr()))
    };
    that("a mapping", maps.lines().any(|line| inside(line) == Some(true)))?;
    let output = std::process::Command::new("/bin/cat").arg("/proc/self/maps").output().map_err(text)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    that(&format!("libraries in:\n{said}"), said.lines().any(|line| line.contains("/libc.so.6")))
}

fn stat() -> Outcome {
    let stat = read("/proc/self/stat")?;
    let (head, tail) = stat.rsplit_once(") ").ok_or("no name")?;
    that("pid", head.starts_with(&format!("{} (", std::process::id())))?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    same("fields", fields.len(), 50)?;
    same("state", fields[0], "R")?;
    same("parent", fields[1].parse().ok(), rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()))
}

fn status() -> Outcome {
    let status = read("/proc/self/status")?;
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).map(str::trim).map(str::to_string)
    };
    same("Pid", field("Pid"), Some(std::process::id().to_string()))?;
    same("Threads", field("Threads"), Some("1".to_string()))?;
    that("VmRSS", field("VmRSS").is_some_and(|size| size.ends_with("kB")))?;
    that("Uid", field("Uid").is_some_and(|ids| ids.split_whitespace().count() == 4))
}

fn processes() -> Outcome {
    let (_keep, writer) = std::io::pipe().map_err(text)?;
    let child = raw::fork(|| {
        std::thread::sleep(std::time::Duration::from_secs(20));
        drop(writer.try_clone());
        0
    })
    .map_err(text)?;
    let listed =
        fs::read_dir("/proc").map_err(text)?.flatten().any(|e| e.file_name().to_string_lossy() == child.to_string());
    that("the child is listed", listed)?;
    asleep(child)?;
    let state = read(&format!("/proc/{child}/stat"))?;
    that(&format!("it sleeps: {state}"), state.contains(") S "))?;
    raw::kill(child, libc::SIGSTOP).map_err(text)?;
    raw::wait(child, libc::WUNTRACED).map_err(text)?;
    that("it is stopped", read(&format!("/proc/{child}/stat"))?.contains(") T "))?;
    raw::kill(child, libc::SIGKILL).map_err(text)?;
    let info = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
    works("waitid", rustix::process::waitid(rustix::process::WaitId::All, info))?;
    that("a zombie", read(&format!("/proc/{child}/stat"))?.contains(") Z "))?;
    same("its command line", read(&format!("/proc/{child}/cmdline"))?.len(), 0)?;
    raw::exit_of(child).map_err(text)?;
    fails("gone", fs::metadata(format!("/proc/{child}")), libc::ENOENT)
}

fn machine() -> Outcome {
    that("meminfo", read("/proc/meminfo")?.starts_with("MemTotal:"))?;
    that("cpuinfo", read("/proc/cpuinfo")?.contains("processor\t: 0"))?;
    that("uptime", read("/proc/uptime")?.split_whitespace().count() == 2)?;
    that("loadavg", read("/proc/loadavg")?.split_whitespace().count() == 5)?;
    that("stat", read("/proc/stat")?.starts_with("cpu "))?;
    that("mounts", read("/proc/mounts")?.lines().any(|line| line.split(' ').nth(1) == Some("/")))?;
    that("version", read("/proc/version")?.starts_with("Linux version"))?;
    that("filesystems", read("/proc/filesystems")?.contains("proc"))?;
    that("pid_max", read("/proc/sys/kernel/pid_max")?.trim_end().parse::<u32>().is_ok())
}

fn snapshot() -> Outcome {
    let mut file = File::open("/proc/self/stat").map_err(text)?;
    let mut one = String::new();
    file.read_to_string(&mut one).map_err(text)?;
    file.rewind().map_err(text)?;
    let mut first = [0; 4];
    file.read_exact(&mut first).map_err(text)?;
    same("from the start", &first[..], &one.as_bytes()[..4])?;
    // It shows what is at the time of reading: here after the execution of another program.
    let child = raw::fork(|| {
        let Ok(comm) = File::open("/proc/self/comm") else { return 2 };
        let mut cat = std::process::Command::new("/bin/cat");
        let output = File::create("said");
        let Ok(output) = output else { return 3 };
        let _ = std::os::unix::process::CommandExt::exec(cat.stdin(comm).stdout(output));
        4
    })
    .map_err(text)?;
    same("cat", raw::exit_of(child).map_err(text)?, 0)?;
    same("its name", read("said")?.as_str(), "cat\n")?;
    same("no size is told", fs::metadata("/proc/self/stat").map_err(text)?.len(), 0)
}

fn network() -> Outcome {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
    let port = listener.local_addr().map_err(text)?.port();
    let table = read("/proc/net/tcp")?;
    that("the listener is shown", table.contains(&format!("0100007F:{port:04X} 00000000:0000 0A")))?;
    that("devices", read("/proc/net/dev")?.contains("lo:"))
}

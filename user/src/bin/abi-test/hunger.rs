//! Eating all memory in several ways. Each is run in a child, which may be refused or killed; the system must live.
//!
//! `abi-test --hunger [WAY...]` runs them, one after the other, and says how each ended. It is no part of the other tests:
//! a machine that others use should not be starved.
use shimos_user::raw::{self, Map};
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{IntoRawFd, OwnedFd},
    process::{Command, ExitCode},
};

/// One way to eat memory: its name, and what eats.
type Way = (&'static str, fn());

const WAYS: &[Way] = &[
    ("touch", touch),
    ("fork", fork),
    ("threads", threads),
    ("files", files),
    ("pipes", pipes),
    ("sockets", sockets),
    ("descriptors", descriptors),
    ("directories", directories),
    ("environment", environment),
    ("mappings", mappings),
    ("shared", shared),
    ("messages", messages),
];

/// Runs the ways that are named, or all.
pub fn run(words: &[String]) -> ExitCode {
    // Whatever runs short, this process shall say how it went.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| word == name);
    for (name, way) in WAYS.iter().filter(|(name, _)| wanted(name)) {
        println!("hunger {name}");
        let child = raw::fork(|| {
            let _ = std::fs::write("/proc/self/oom_score_adj", "0");
            std::panic::set_hook(Box::new(|_| {}));
            let _ = raw::call(libc::SYS_setpgid, [0; 6]);
            way();
            0
        });
        let ended = child.and_then(raw::exit_of);
        if let Ok(child) = raw::fork(|| 0) {
            let _ = raw::exit_of(child);
        }
        match ended {
            Ok(status) if status > 256 => println!("hunger {name}: killed by signal {}", status - 256),
            Ok(status) => println!("hunger {name}: ended with {status}"),
            Err(error) => println!("hunger {name}: {error}"),
        }
    }
    println!("hunger: lived");
    ExitCode::SUCCESS
}

fn touch() {
    let mut all = Vec::new();
    while let Ok(map) = Map::anonymous(16 << 20, libc::MAP_PRIVATE) {
        for at in (0..map.len()).step_by(4096) {
            map.set(at, 1);
        }
        all.push(map);
    }
}

/// Children that stay until a pipe closes, as many as there can be.
fn fork() {
    let Ok((mut hear, tell)) = std::io::pipe() else { return };
    let mut children = Vec::new();
    let mut tell = Some(tell);
    while children.len() < 10_000 {
        let child = raw::fork(|| {
            tell = None;
            let _ = hear.read(&mut [0]);
            0
        });
        match child {
            Ok(child) => children.push(child),
            Err(_) => break,
        }
    }
    drop(tell);
    println!("hunger fork: {} children", children.len());
    for child in children {
        let _ = raw::exit_of(child);
    }
}

fn threads() {
    let mut all = Vec::new();
    let (send, receive) = std::sync::mpsc::channel::<()>();
    let receive = std::sync::Arc::new(std::sync::Mutex::new(receive));
    while all.len() < 10_000 {
        let receive = receive.clone();
        let made = std::thread::Builder::new().stack_size(65_536).spawn(move || drop(receive.lock().map(|r| r.recv())));
        match made {
            Ok(thread) => all.push(thread),
            Err(_) => break,
        }
    }
    println!("hunger threads: {} threads", all.len());
    drop(send);
    all.into_iter().for_each(|thread| drop(thread.join()));
}

fn files() {
    let path = format!("/tmp/hunger-{}", std::process::id());
    let Ok(mut file) = File::create(&path) else { return };
    let block = vec![1; 1 << 20];
    let mut written = 0;
    while file.write_all(&block).is_ok() {
        written += 1;
    }
    println!("hunger files: {written} MiB");
    let _ = std::fs::remove_file(&path);
}

fn pipes() {
    raise_limit();
    let mut all = Vec::new();
    let block = [1; 65_536];
    while let Ok((reader, mut writer)) = std::io::pipe() {
        if writer.write(&block).is_err() {
            break;
        }
        all.push((reader, writer));
    }
    println!("hunger pipes: {} full", all.len());
}

fn sockets() {
    raise_limit();
    let mut all: Vec<(OwnedFd, OwnedFd)> = Vec::new();
    let block = [1; 65_536];
    while let Ok((a, b)) = std::os::unix::net::UnixStream::pair() {
        let _ = a.set_nonblocking(true);
        let mut writer = &a;
        while writer.write(&block).is_ok_and(|written| written > 0) {}
        all.push((a.into(), b.into()));
    }
    println!("hunger sockets: {} full", all.len());
}

fn raise_limit() {
    let limit = [65_536_u64, 65_536];
    let _ = raw::call(libc::SYS_setrlimit, [libc::RLIMIT_NOFILE.into(), limit.as_ptr() as u64, 0, 0, 0, 0]);
}

fn descriptors() {
    raise_limit();
    let mut count = 0;
    while let Ok(file) = File::open("/dev/null") {
        let _ = file.into_raw_fd();
        count += 1;
    }
    println!("hunger descriptors: {count}");
}

fn directories() {
    let base = format!("/tmp/hunger-{}", std::process::id());
    let mut count = 0;
    if std::fs::create_dir(&base).is_ok() && std::env::set_current_dir(&base).is_ok() {
        while count < 100_000 && std::fs::create_dir("d").is_ok() && std::env::set_current_dir("d").is_ok() {
            count += 1;
        }
    }
    println!("hunger directories: {count} deep");
    while count > 0 && std::env::set_current_dir("..").is_ok() && std::fs::remove_dir("d").is_ok() {
        count -= 1;
    }
    let _ = std::env::set_current_dir("/");
    let _ = std::fs::remove_dir(&base);
}

fn environment() {
    let long = "x".repeat(120_000);
    for _ in 0..8 {
        let mut command = Command::new("/bin/true");
        for n in 0..40 {
            command.env(format!("V{n}"), &long);
        }
        let _ = command.status();
    }
}

fn mappings() {
    let mut count = 0;
    let mut all = Vec::new();
    // Alternating protections keep neighbours apart.
    while let Ok(map) =
        Map::new(4096, if count % 2 == 0 { 1 } else { 3 }, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    {
        all.push(map);
        count += 1;
    }
    println!("hunger mappings: {count}");
}

fn shared() {
    let mut count = 0;
    while let Ok(id) = raw::call(libc::SYS_shmget, [0, 16 << 20, 0o600, 0, 0, 0]) {
        let Ok(at) = raw::call(libc::SYS_shmat, [id, 0, 0, 0, 0, 0]) else { break };
        let _ = raw::call(libc::SYS_shmctl, [id, 0, 0, 0, 0, 0]);
        for page in (0..16 << 20).step_by(4096) {
            raw::word(at + page).store(1, std::sync::atomic::Ordering::Relaxed);
        }
        count += 1;
    }
    println!("hunger shared: {count}");
}

fn messages() {
    let mut count = 0;
    let message = [1_u64; 1001];
    let mut queues = Vec::new();
    while let Ok(id) = raw::call(libc::SYS_msgget, [0, 0o600, 0, 0, 0, 0]) {
        queues.push(id);
        let send = || raw::call(libc::SYS_msgsnd, [id, message.as_ptr() as u64, 8000, 0o4000, 0, 0]);
        let before = count;
        while send().is_ok() {
            count += 1;
        }
        if before == count {
            break;
        }
    }
    println!("hunger messages: {count}");
    for id in queues {
        let _ = raw::call(libc::SYS_msgctl, [id, 0, 0, 0, 0, 0]);
    }
}

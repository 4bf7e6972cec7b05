//! Processes: fork, exec, wait, ids, groups, threads.
use crate::{
    Outcome, Subtest,
    check::{fails, same, text, that, works},
};
use rustix::process::{self, Pid};
use shimos_user::raw;
use std::{
    io::{Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
};

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("process/clones", clones),
    ("process/fork-and-wait", fork_and_wait),
    ("process/copy-on-write", copy_on_write),
    ("process/tree", tree),
    ("process/orphans", orphans),
    ("process/exec", exec),
    ("process/exec-fails", exec_fails),
    ("process/exec-descriptors", exec_descriptors),
    ("process/script", script),
    ("process/wait-options", wait_options),
    ("process/waitid", waitid),
    ("process/ignored-children", ignored_children),
    ("process/groups", groups),
    ("process/sessions", sessions),
    ("process/ids", ids),
    ("process/many", many),
    ("process/threads", threads),
    ("process/thread-exec", thread_exec),
    ("process/thread-exit-group", thread_exit_group),
    ("process/long-arguments", long_arguments),
    ("process/usage", usage),
    ("process/most-memory", most_memory),
    ("process/threads-children", threads_children),
    ("process/scheduling", scheduling),
];

/// What `abi-test --helper WORD...` does: the other end of the tests of exec.
pub fn helper(words: &[String]) -> ExitCode {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["privileges"] => return ExitCode::from(u8::from(crate::privileges::say_ids().is_err())),
        ["echo", rest @ ..] => println!("{}", rest.join(" ")),
        ["variable", name] => println!("{}", std::env::var(name).unwrap_or_default()),
        ["status", code] => return ExitCode::from(code.parse::<u8>().unwrap_or(255)),
        ["rights"] => println!(
            "{} {} {}",
            process::getuid().as_raw(),
            process::geteuid().as_raw(),
            raw::call(libc::SYS_prctl, [3, 0, 0, 0, 0, 0]).unwrap_or(9)
        ),
        ["count"] => println!("{} {}", words.len(), std::env::args_os().map(|word| word.len()).sum::<usize>()),
        ["descriptors"] => {
            for fd in 0..64 {
                if raw::call(libc::SYS_fcntl, [fd, libc::F_GETFD as u64, 0, 0, 0, 0]).is_ok() {
                    print!("{fd} ");
                }
            }
            println!();
        }
        ["ids"] => println!("{} {}", std::process::id(), process::getpgrp().as_raw_nonzero()),
        _ => return ExitCode::from(99),
    }
    ExitCode::SUCCESS
}

/// This program, to be executed with `--helper`.
fn me() -> Result<Command, String> {
    let mut command = Command::new(std::env::current_exe().map_err(text)?);
    command.arg("--helper");
    Ok(command)
}

fn fork_and_wait() -> Outcome {
    let before = std::process::id();
    let child = raw::fork(move || {
        let parent = process::getppid().map(|pid| pid.as_raw_nonzero().get() as u32);
        if parent == Some(before) && std::process::id() != before { 7 } else { 8 }
    })
    .map_err(text)?;
    same("status", raw::exit_of(child).map_err(text)?, 7)?;
    fails("waited for already", raw::wait(child, 0), libc::ECHILD)?;
    let child = raw::fork(|| 300).map_err(text)?;
    same("the low eight bits", raw::exit_of(child).map_err(text)?, 44)?;
    let child = raw::fork(|| raw::kill(std::process::id() as i32, libc::SIGKILL).map_or(1, |()| 2)).map_err(text)?;
    same("killed", raw::exit_of(child).map_err(text)?, 256 + libc::SIGKILL)
}

fn copy_on_write() -> Outcome {
    let map = raw::Map::anonymous(1 << 20, libc::MAP_PRIVATE).map_err(text)?;
    let shared = raw::Map::anonymous(1 << 16, libc::MAP_SHARED).map_err(text)?;
    let mut on_heap = vec![1_u8; 300_000];
    for at in (0..map.len()).step_by(4096) {
        map.set(at, 1);
    }
    let child = raw::fork(|| {
        let whole = (0..map.len()).step_by(4096).all(|at| map.get(at) == 1) && on_heap.iter().all(|byte| *byte == 1);
        for at in (0..map.len()).step_by(4096) {
            map.set(at, 2);
        }
        on_heap.fill(2);
        shared.set(100, 9);
        i32::from(!whole)
    })
    .map_err(text)?;
    same("the child's view", raw::exit_of(child).map_err(text)?, 0)?;
    that("the parent's memory is its own", (0..map.len()).step_by(4096).all(|at| map.get(at) == 1))?;
    that("so is its heap", on_heap.iter().all(|byte| *byte == 1))?;
    same("shared memory is shared", shared.get(100), 9)?;
    // The parent writes first; the child sees what was.
    let (mut told, mut tell) = std::io::pipe().map_err(text)?;
    let child = raw::fork(|| {
        let _ = told.read(&mut [0]);
        i32::from(!(0..map.len()).step_by(4096).all(|at| map.get(at) == 1))
    })
    .map_err(text)?;
    for at in (0..map.len()).step_by(4096) {
        map.set(at, 3);
    }
    tell.write_all(b"x").map_err(text)?;
    same("the child's view", raw::exit_of(child).map_err(text)?, 0)
}

fn branch(depth: u32) -> i32 {
    if depth == 0 {
        return 1;
    }
    let mut sum = 1;
    for _ in 0..2 {
        match raw::fork(|| branch(depth - 1)).and_then(raw::exit_of) {
            Ok(count) => sum += count,
            Err(_) => return 255,
        }
    }
    sum
}

fn tree() -> Outcome {
    same("processes of a binary tree", branch(5), 63)?;
    // A chain: each is the parent of the next.
    fn chain(depth: i32) -> i32 {
        if depth == 0 { 0 } else { raw::fork(|| chain(depth - 1)).and_then(raw::exit_of).map_or(255, |n| n + 1) }
    }
    same("length of a chain", chain(60), 60)
}

fn orphans() -> Outcome {
    let (mut told, tell) = std::io::pipe().map_err(text)?;
    let child = raw::fork(|| {
        let own = std::process::id();
        let mut tell = tell.try_clone().ok();
        let grandchild = raw::fork(|| {
            while process::getppid().is_some_and(|pid| pid.as_raw_nonzero().get() as u32 == own) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            i32::from(tell.as_mut().is_none_or(|tell| tell.write_all(b"free").is_err()))
        });
        i32::from(grandchild.is_err())
    })
    .map_err(text)?;
    drop(tell);
    same("child", raw::exit_of(child).map_err(text)?, 0)?;
    let mut said = String::new();
    told.read_to_string(&mut said).map_err(text)?;
    same("the grandchild has a new parent", said.as_str(), "free")
}

fn exec() -> Outcome {
    let output = me()?.args(["echo", "a", "b c"]).output().map_err(text)?;
    same("output", String::from_utf8_lossy(&output.stdout).into_owned(), "a b c\n".to_string())?;
    let output = me()?.args(["variable", "COLOUR"]).env("COLOUR", "blue").output().map_err(text)?;
    same("environment", String::from_utf8_lossy(&output.stdout).into_owned(), "blue\n".to_string())?;
    same("status", me()?.args(["status", "42"]).status().map_err(text)?.code(), Some(42))?;
    let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(text)?;
    child.stdin.take().ok_or("no pipe")?.write_all(b"through cat").map_err(text)?;
    let output = child.wait_with_output().map_err(text)?;
    same("a dynamic program", output.stdout, b"through cat".to_vec())?;
    let status = Command::new("/bin/sh").args(["-c", "kill -9 $$"]).status().map_err(text)?;
    same("signal", status.signal(), Some(9))
}

fn exec_fails() -> Outcome {
    fails("nothing there", Command::new("./nothing").status(), libc::ENOENT)?;
    std::fs::write("data", b"no program").map_err(text)?;
    fails("not executable", Command::new("./data").status(), libc::EACCES)?;
    works("chmod", rustix::fs::chmod("data", rustix::fs::Mode::from_raw_mode(0o755)))?;
    fails("no known format", Command::new("./data").status(), libc::ENOEXEC)?;
    std::fs::write("script", b"#!/no/such/interpreter\n").map_err(text)?;
    works("chmod", rustix::fs::chmod("script", rustix::fs::Mode::from_raw_mode(0o755)))?;
    fails("no interpreter", Command::new("./script").status(), libc::ENOENT)?;
    fails("a directory", Command::new("/tmp").status(), libc::EACCES)?;
    let mut broken = std::fs::read("/bin/cat").map_err(text)?;
    broken.truncate(100);
    std::fs::write("broken", broken).map_err(text)?;
    works("chmod", rustix::fs::chmod("broken", rustix::fs::Mode::from_raw_mode(0o755)))?;
    that("a cut file", Command::new("./broken").status().is_err())
}

fn exec_descriptors() -> Outcome {
    let output = me()?.arg("descriptors").stdin(Stdio::null()).stderr(Stdio::null()).output().map_err(text)?;
    let before = String::from_utf8_lossy(&output.stdout).into_owned();
    let kept = std::fs::File::open("/dev/null").map_err(text)?;
    works("dup2", raw::call(libc::SYS_dup3, [std::os::fd::AsRawFd::as_raw_fd(&kept) as u64, 40, 0, 0, 0, 0]))?;
    works("dup3", raw::call(libc::SYS_dup3, [40, 41, libc::O_CLOEXEC as u64, 0, 0, 0]))?;
    let output = me()?.arg("descriptors").stdin(Stdio::null()).stderr(Stdio::null()).output().map_err(text)?;
    let after = String::from_utf8_lossy(&output.stdout).into_owned();
    that("one is kept", after.split(' ').any(|fd| fd == "40"))?;
    that("one is closed", !after.split(' ').any(|fd| fd == "41"))?;
    same("no other", after.split(' ').count(), before.split(' ').count() + 1)
}

fn script() -> Outcome {
    std::fs::write("s", b"#!/bin/sh -e\necho \"$0 $1 $#\"\nexit 3\n").map_err(text)?;
    works("chmod", rustix::fs::chmod("s", rustix::fs::Mode::from_raw_mode(0o755)))?;
    let output = Command::new("./s").args(["x", "y"]).output().map_err(text)?;
    same("output", String::from_utf8_lossy(&output.stdout).into_owned(), "./s x 2\n".to_string())?;
    same("status", output.status.code(), Some(3))
}

fn wait_options() -> Outcome {
    let (_keep, release) = std::io::pipe().map_err(text)?;
    let mut blocked = _keep.try_clone().map_err(text)?;
    let child = raw::fork(|| {
        drop(release.try_clone());
        raw::on_signal(libc::SIGTERM, raw::Disposition::Default).map_or(1, |()| {
            std::thread::sleep(std::time::Duration::from_secs(30));
            let _ = blocked.read(&mut [0]);
            2
        })
    })
    .map_err(text)?;
    same("nothing yet", raw::wait(child, libc::WNOHANG).map_err(text)?.0, 0)?;
    raw::kill(child, libc::SIGSTOP).map_err(text)?;
    let (pid, status) = raw::wait(child, libc::WUNTRACED).map_err(text)?;
    same("stopped", (pid, libc::WIFSTOPPED(status), libc::WSTOPSIG(status)), (child, true, libc::SIGSTOP))?;
    raw::kill(child, libc::SIGCONT).map_err(text)?;
    let (pid, status) = raw::wait(child, libc::WCONTINUED).map_err(text)?;
    same("continued", (pid, libc::WIFCONTINUED(status)), (child, true))?;
    raw::kill(child, libc::SIGTERM).map_err(text)?;
    same("ended", raw::exit_of(child).map_err(text)?, 256 + libc::SIGTERM)?;
    fails("no children", raw::wait(-1, 0), libc::ECHILD)?;
    fails("bad options", raw::wait(-1, 0x100), libc::EINVAL)
}

fn waitid() -> Outcome {
    let child = raw::fork(|| 5).map_err(text)?;
    let pid = Pid::from_raw(child).ok_or("no pid")?;
    let looked = works(
        "waitid",
        process::waitid(process::WaitId::Pid(pid), process::WaitIdOptions::EXITED | process::WaitIdOptions::NOWAIT),
    )?;
    same("looked at", looked.and_then(|status| status.exit_status()), Some(5))?;
    let taken = works("waitid", process::waitid(process::WaitId::All, process::WaitIdOptions::EXITED))?;
    same("taken", taken.and_then(|status| status.exit_status()), Some(5))?;
    fails("gone", process::waitid(process::WaitId::All, process::WaitIdOptions::EXITED), libc::ECHILD)
}

fn ignored_children() -> Outcome {
    raw::on_signal(libc::SIGCHLD, raw::Disposition::Ignore).map_err(text)?;
    let child = raw::fork(|| 0).map_err(text)?;
    fails("no zombie is left", raw::wait(child, 0), libc::ECHILD)
}

fn groups() -> Outcome {
    let output = me()?.arg("ids").process_group(0).output().map_err(text)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = said.split_whitespace();
    same("its own group", words.next(), words.next())?;
    let one = raw::fork(|| {
        std::thread::sleep(std::time::Duration::from_secs(30));
        0
    })
    .map_err(text)?;
    let pid = Pid::from_raw(one).ok_or("no pid")?;
    works("setpgid", process::setpgid(Some(pid), Some(pid)))?;
    same("getpgid", works("getpgid", process::getpgid(Some(pid)))?, pid)?;
    raw::kill(-one, libc::SIGKILL).map_err(text)?;
    let (found, _) = raw::wait(-one, 0).map_err(text)?;
    same("waited for by group", found, one)?;
    fails("nobody in the group", raw::kill(-one, 0), libc::ESRCH)?;
    fails("no such group", process::setpgid(None, Pid::from_raw(one)), libc::EPERM)
}

fn sessions() -> Outcome {
    let child = raw::fork(|| {
        let Ok(session) = process::setsid() else { return 1 };
        let own = std::process::id() as i32;
        if session.as_raw_nonzero().get() != own || process::getpgrp().as_raw_nonzero().get() != own {
            return 2;
        }
        if process::setsid().is_ok() {
            return 3;
        }
        // A new session has no terminal.
        match std::fs::File::open("/dev/tty") {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => 0,
            _ => 4,
        }
    })
    .map_err(text)?;
    same("setsid", raw::exit_of(child).map_err(text)?, 0)
}

fn ids() -> Outcome {
    fails("nobody", raw::kill(0x3ff_ffff, 0), libc::ESRCH)?;
    fails("no such signal", raw::kill(std::process::id() as i32, 65), libc::EINVAL)?;
    if !process::geteuid().is_root() {
        return Ok(());
    }
    let child = raw::fork(|| {
        let set = |number, a, b, c| raw::call(number, [a, b, c, 0, 0, 0]);
        if set(libc::SYS_setresuid, 1, 2, 3).is_err() || process::getuid().as_raw() != 1 {
            return 1;
        }
        if process::geteuid().as_raw() != 2 || set(libc::SYS_setresuid, 9, 9, 9) != Err(libc::EPERM) {
            return 2;
        }
        if set(libc::SYS_setuid, 3, 0, 0).is_err() || process::geteuid().as_raw() != 3 {
            return 3;
        }
        if raw::kill(1, libc::SIGCONT).map_err(|e| e.raw_os_error()) != Err(Some(libc::EPERM)) {
            return 4;
        }
        i32::from(set(libc::SYS_setgroups, 0, 0, 0) != Err(libc::EPERM)) * 5
    })
    .map_err(text)?;
    let status = raw::exit_of(child).map_err(text)?;
    // Process 1 is only there where the machine has one.
    that(&format!("step {status}"), status == 0 || status == 4)
}

fn many() -> Outcome {
    let mut children = Vec::new();
    for n in 0..100 {
        children.push(raw::fork(|| n).map_err(text)?);
    }
    let mut sum = 0;
    for _ in 0..100 {
        let (pid, status) = raw::wait(-1, 0).map_err(text)?;
        that("one of ours", children.contains(&pid))?;
        sum += libc::WEXITSTATUS(status);
    }
    same("all statuses", sum, 4950)?;
    for round in 0..200 {
        let child = raw::fork(|| 0).map_err(text)?;
        same(&format!("round {round}"), raw::exit_of(child).map_err(text)?, 0)?;
    }
    Ok(())
}

fn threads() -> Outcome {
    let total = Arc::new(AtomicU32::new(0));
    let gate = Arc::new((Mutex::new(0), Condvar::new()));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (total, gate) = (Arc::clone(&total), Arc::clone(&gate));
            std::thread::spawn(move || {
                let (lock, changed) = &*gate;
                if let Ok(mut arrived) = lock.lock() {
                    *arrived += 1;
                    changed.notify_all();
                    while *arrived < 8 {
                        match changed.wait(arrived) {
                            Ok(guard) => arrived = guard,
                            Err(_) => return,
                        }
                    }
                }
                for _ in 0..1000 {
                    total.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")?;
    }
    same("sum", total.load(Ordering::SeqCst), 8000)?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(rustix::thread::gettid()));
    let other = receiver.recv().map_err(|error| error.to_string())?;
    that("another id", other != rustix::thread::gettid())?;
    let waited = receiver.recv_timeout(std::time::Duration::from_millis(5));
    that("a closed channel", waited.is_err())
}

fn thread_exec() -> Outcome {
    // A thread that is not the first executes a program; it takes the process over.
    let child = raw::fork(|| {
        let thread = std::thread::spawn(|| {
            let error = me().map(|mut command| command.args(["status", "21"]).exec());
            drop(error);
        });
        std::thread::sleep(std::time::Duration::from_secs(20));
        drop(thread);
        1
    })
    .map_err(text)?;
    same("status", raw::exit_of(child).map_err(text)?, 21)
}

fn thread_exit_group() -> Outcome {
    let child = raw::fork(|| {
        std::thread::spawn(|| std::process::exit(9));
        std::thread::sleep(std::time::Duration::from_secs(20));
        1
    })
    .map_err(text)?;
    same("status", raw::exit_of(child).map_err(text)?, 9)
}

fn long_arguments() -> Outcome {
    let word = "x".repeat(1000);
    let mut command = me()?;
    command.arg("count").env_clear();
    same("few", command.output().map_err(text)?.status.code(), Some(0))?;
    let output = me()?.arg("echo").args(vec![word.as_str(); 500]).output().map_err(text)?;
    same("half a megabyte", output.stdout.len(), 500 * 1001)?;
    let error = me()?.arg("echo").arg("x".repeat(200_000)).output();
    fails("an argument that is too long", error.map(|_| ()), libc::E2BIG)
}

fn usage() -> Outcome {
    let child = raw::fork(|| {
        let begun = std::time::Instant::now();
        while begun.elapsed().as_millis() < 60 {
            std::hint::black_box(0);
        }
        0
    })
    .map_err(text)?;
    same("child", raw::exit_of(child).map_err(text)?, 0)?;
    let mut words = [0_u64; 18];
    works("getrusage", raw::call(libc::SYS_getrusage, [u64::MAX, words.as_mut_ptr() as u64, 0, 0, 0, 0]))?;
    let micros = words[0] * 1_000_000 + words[1] + words[2] * 1_000_000 + words[3];
    that(&format!("children used {micros} us"), (10_000..20_000_000).contains(&micros))?;
    let mut times = [0_u64; 4];
    that("times", works("times", raw::call(libc::SYS_times, [times.as_mut_ptr() as u64, 0, 0, 0, 0, 0]))? > 0)?;
    that("children's ticks", times[2] + times[3] > 0)
}

fn scheduling() -> Outcome {
    works("sched_yield", raw::call(libc::SYS_sched_yield, [0; 6]))?;
    let mut cpu = [u32::MAX; 2];
    works("getcpu", raw::call(libc::SYS_getcpu, [cpu.as_mut_ptr() as u64, 0, 0, 0, 0, 0]))?;
    that("a processor", cpu[0] < 4096)?;
    same("policy", works("policy", raw::call(libc::SYS_sched_getscheduler, [0; 6]))?, 0)?;
    let mut parameter = [7_u32; 1];
    works("parameters", raw::call(libc::SYS_sched_getparam, [0, parameter.as_mut_ptr() as u64, 0, 0, 0, 0]))?;
    same("priority", parameter[0], 0)?;
    // The raw call returns 20 minus the nice value.
    same("priority", works("getpriority", raw::call(libc::SYS_getpriority, [0; 6]))?, 20)?;
    fails("nobody", raw::call(libc::SYS_sched_getscheduler, [0x3ff_ffff, 0, 0, 0, 0, 0]), libc::ESRCH)
}

/// A child that does not tell of its end by SIGCHLD is waited for only by those who ask for such.
fn clones() -> Outcome {
    const CLONE: u64 = 0x8000_0000;
    const ALL: u64 = 0x4000_0000;
    let wait = |pid: u64, options: u64| raw::call(libc::SYS_wait4, [pid, 0, options, 0, 0, 0]);
    for options in [CLONE, ALL] {
        let child = works("clone", raw::call(libc::SYS_clone, [0; 6]))?;
        if child == 0 {
            let _ = raw::call(libc::SYS_exit_group, [0; 6]);
        }
        fails("the usual way", wait(child, 0), libc::ECHILD)?;
        same("asked for", works("wait4", wait(child, options))?, child)?;
    }
    let usual = raw::fork(|| 0).map_err(|error| error.to_string())?;
    fails("a usual one", wait(usual as u64, CLONE), libc::ECHILD)?;
    same("of all", works("wait4", wait(usual as u64, ALL))?, usual as u64)
}

/// ru_maxrss: what was in memory at a time, also after it is given back, and of children that were waited for.
fn most_memory() -> Outcome {
    const KIB: i64 = 24 << 10;
    let most = |whose: i64| -> Result<i64, String> {
        let mut words = [0_i64; 18];
        works("getrusage", raw::call(libc::SYS_getrusage, [whose as u64, words.as_mut_ptr() as u64, 0, 0, 0, 0]))?;
        Ok(words[4])
    };
    let fill = || -> Result<raw::Map, String> {
        let map = raw::Map::anonymous((KIB as usize) << 10, libc::MAP_PRIVATE).map_err(text)?;
        (0..map.len()).step_by(4096).for_each(|at| map.set(at, 1));
        Ok(map)
    };
    let before = most(0)?;
    that("some", before > 0 && before < KIB)?;
    same("no child", most(-1)?, 0)?;
    let child = raw::fork(|| i32::from(fill().is_err())).map_err(text)?;
    same("child", raw::exit_of(child).map_err(text)?, 0)?;
    that("the child's", most(-1)? >= KIB)?;
    that("not its own", most(0)? < KIB)?;
    drop(fill()?);
    that("its own, given back", most(0)? >= KIB)?;
    same("its thread's", most(1)?, most(0)?)
}

/// `__WNOTHREAD`: a thread waits for its own children alone.
fn threads_children() -> Outcome {
    const NOTHREAD: i32 = 0x2000_0000;
    let first = raw::fork(|| 3).map_err(text)?;
    let (say, hear) = mpsc::channel::<()>();
    let other = std::thread::spawn(move || -> Result<i32, String> {
        let second = raw::fork(|| 4).map_err(text)?;
        fails("another's child", raw::wait(first, NOTHREAD), libc::ECHILD)?;
        let _ = hear.recv();
        same("its own", raw::wait(second, NOTHREAD).map_err(text)?, (second, 4 << 8))?;
        // This one is left to the threads that remain.
        raw::fork(|| 5).map_err(text)
    });
    drop(say);
    let third = other.join().map_err(|_| "a thread panicked")??;
    same("the first", raw::wait(first, NOTHREAD).map_err(text)?, (first, 3 << 8))?;
    same("what was left", raw::wait(third, NOTHREAD).map_err(text)?, (third, 5 << 8))
}

//! Who waits for whom: calls under way, groups that nobody minds, connections that are half there, and the order of those who wait.
use super::{Case, Gate, Other};
use crate::{
    Outcome,
    check::{asleep, call, fails, same, state, text, that, works},
    net::{self, four, set_int, socket},
};
use shimos_user::raw::{self, Disposition, Map};
use std::{
    fs,
    io::{Read, Write, pipe},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::Path,
    process::Command,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

pub const CASES: &[Case] = &[
    ("waiting/vfork", vfork),
    ("waiting/exec-again-and-again", execs),
    ("waiting/group-that-becomes-orphaned", orphaned_later),
    ("waiting/group-that-is-orphaned", orphaned),
    ("waiting/order-at-a-futex", order),
    ("waiting/time-wait", time_wait),
    ("waiting/connection-deferred", deferred),
];

fn expect(ledger: &mut impl Read, wanted: &[u8]) -> Outcome {
    let mut got = vec![0; wanted.len()];
    works("ledger", ledger.read_exact(&mut got))?;
    same("ledger", got.as_slice(), wanted)
}

/// A parent waits until its child is another program or none, and no shorter.
fn vfork(gate: &mut Gate) -> Outcome {
    let (mut ledger, mut write) = pipe().map_err(text)?;
    let (mut hear, mut tell) = pipe().map_err(text)?;
    let parent = raw::fork(|| {
        let flags = (libc::CLONE_VFORK | libc::SIGCHLD) as u64;
        match call(libc::SYS_clone, &[flags, 0, 0, 0, 0]) {
            Ok(0) => {
                let heard = hear.read_exact(&mut [0]).is_ok();
                raw::leave(i32::from(!heard || write.write_all(&[1]).is_err()))
            }
            Ok(child) => {
                let told = write.write_all(&[2]).is_ok();
                let child = raw::exit_of(child as i32);
                i32::from(!told || !matches!(child, Ok(0)))
            }
            Err(_) => 9,
        }
    })
    .map_err(text)?;
    gate.deaths()?;
    let mut waiting = 0_i32;
    let fd = ledger.as_raw_fd() as u64;
    works("FIONREAD", call(libc::SYS_ioctl, &[fd, libc::FIONREAD, &raw mut waiting as u64]))?;
    same("went on in between", std::hint::black_box(waiting), 0)?;
    works("tell", tell.write_all(b"g"))?;
    expect(&mut ledger, &[1, 2])?;
    same("parent", works("wait", raw::exit_of(parent))?, 0)
}

/// Programs are executed all the while: whatever moment a kernel dies at, each runs once and ends well.
fn execs(gate: &mut Gate) -> Outcome {
    let child = raw::fork(|| {
        let mut count = 0;
        while !Path::new("stop").exists() {
            count += 1;
            let output = Command::new("/bin/echo").arg(count.to_string()).output();
            match output {
                Ok(output) if output.status.success() && output.stdout == format!("{count}\n").into_bytes() => {}
                _ => return 1,
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        0
    })
    .map_err(text)?;
    gate.deaths()?;
    fs::write("stop", "").map_err(text)?;
    same("all", works("wait", raw::exit_of(child))?, 0)
}

/// A stopped group whose last mindful parent ends after the deaths gets SIGHUP and SIGCONT.
fn orphaned_later(gate: &mut Gate) -> Outcome {
    let (mut ledger, write) = pipe().map_err(text)?;
    let (mut ours, mut theirs) = (works("clone", write.try_clone())?, write);
    let leader = Other::new(move |next| {
        works("setsid", call(libc::SYS_setsid, &[]))?;
        let child = raw::fork(|| {
            let ready = call(libc::SYS_setpgid, &[0, 0]).is_ok()
                && raw::on_signal(libc::SIGHUP, Disposition::Count(0)).is_ok()
                && raw::kill(std::process::id() as i32, libc::SIGSTOP).is_ok();
            let told = [if ready && raw::caught(libc::SIGHUP) == 1 { 2 } else { 3 }];
            i32::from(theirs.write_all(&told).is_err())
        })
        .map_err(text)?;
        state(child, 'T')?;
        works("ready", ours.write_all(&[1]))?;
        next();
        Ok(())
    })?;
    expect(&mut ledger, &[1])?;
    gate.deaths()?;
    leader.end()?;
    expect(&mut ledger, &[2])
}

/// A group that nobody minds is not stopped by the terminal's signal.
fn orphaned(gate: &mut Gate) -> Outcome {
    let (mut ledger, mut write) = pipe().map_err(text)?;
    let (mut hear, mut tell) = pipe().map_err(text)?;
    let mut leader = Other::new(move |next| {
        works("setsid", call(libc::SYS_setsid, &[]))?;
        let child = raw::fork(|| {
            let ready = call(libc::SYS_setpgid, &[0, 0]).is_ok();
            let own = std::process::id().to_le_bytes();
            let well = ready
                && write.write_all(&own).is_ok()
                && hear.read_exact(&mut [0]).is_ok()
                && write.write_all(&[4]).is_ok();
            i32::from(!well)
        });
        works("child", child)?;
        next();
        Ok(())
    })?;
    let mut pid = [0; 4];
    works("pid", ledger.read_exact(&mut pid))?;
    leader.go_on()?;
    same("leader", works("wait", raw::exit_of(leader.pid))?, 0)?;
    gate.deaths()?;
    raw::kill(i32::from_le_bytes(pid), libc::SIGTSTP).map_err(text)?;
    works("tell", tell.write_all(b"g"))?;
    expect(&mut ledger, &[4])
}

/// How often a process has gone to sleep.
fn sleeps(pid: i32) -> Result<u64, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(text)?;
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse().ok());
    count.ok_or("no count of sleeps".to_string())
}

/// Who came first is woken first, whatever the order of their numbers.
fn order(gate: &mut Gate) -> Outcome {
    let map = Map::anonymous(4096, libc::MAP_SHARED).map_err(text)?;
    let at = map.addr();
    let (mut ledger, write) = pipe().map_err(text)?;
    let mut waiters = Vec::new();
    for number in 1..=4_u8 {
        let mut write = write.try_clone().map_err(text)?;
        waiters.push(Other::new(move |next| {
            next();
            works("wait", call(libc::SYS_futex, &[at, libc::FUTEX_WAIT as u64, 0, 0]))?;
            works("ledger", write.write_all(&[number]))?;
            next();
            Ok(())
        })?);
    }
    let order = [3, 1, 4, 2_u8];
    for number in order {
        let waiter = waiters.get_mut(usize::from(number) - 1).ok_or("no waiter")?;
        // It sleeps until the word comes; then it runs, and sleeps once more at the futex.
        asleep(waiter.pid)?;
        let before = sleeps(waiter.pid)?;
        waiter.go_on()?;
        while sleeps(waiter.pid)? == before {
            works("yield", call(libc::SYS_sched_yield, &[]))?;
        }
        asleep(waiter.pid)?;
    }
    gate.deaths()?;
    for number in order {
        same("woken", works("wake", call(libc::SYS_futex, &[at, libc::FUTEX_WAKE as u64, 1, 0]))?, 1)?;
        expect(&mut ledger, &[number])?;
    }
    same("word", raw::word(at).load(SeqCst), 0)?;
    waiters.into_iter().try_for_each(Other::end)
}

/// A connection that was closed here first keeps its port for a while.
fn time_wait(gate: &mut Gate) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(text)?;
    let at = listener.local_addr().map_err(text)?;
    let mut client = TcpStream::connect(at).map_err(text)?;
    let (server, _) = listener.accept().map_err(text)?;
    drop(server);
    same("end", works("read", client.read(&mut [0]))?, 0)?;
    drop(client);
    drop(listener);
    let closed = Instant::now();
    let again = || {
        let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        net::bind(&socket, &four([127, 0, 0, 1], at.port()))
    };
    fails("before", again(), libc::EADDRINUSE)?;
    gate.deaths()?;
    // It lasts a minute.
    if closed.elapsed() < Duration::from_secs(50) {
        fails("after", again(), libc::EADDRINUSE)?;
    }
    works("with SO_REUSEADDR", TcpListener::bind(at)).map(drop)
}

/// A connection that is not handed out before it has data stays with the listener.
fn deferred(gate: &mut Gate) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(text)?;
    works("TCP_DEFER_ACCEPT", set_int(&listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 60))?;
    let mut client = TcpStream::connect(listener.local_addr().map_err(text)?).map_err(text)?;
    listener.set_nonblocking(true).map_err(text)?;
    that("no data yet", matches!(listener.accept(), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock))?;
    gate.deaths()?;
    listener.set_nonblocking(false).map_err(text)?;
    works("write", client.write_all(b"now"))?;
    let (mut server, _) = listener.accept().map_err(text)?;
    let mut got = [0; 3];
    works("read", server.read_exact(&mut got))?;
    same("bytes", &got, b"now")?;
    works("answer", server.write_all(b"yes"))?;
    works("read", client.read_exact(&mut got))?;
    same("bytes", &got, b"yes")
}

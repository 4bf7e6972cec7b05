//! Sessions and job control: controlling terminals, the foreground, stopping and going on, hanging up.
use crate::{
    Outcome, Subtest,
    check::{fails, same, text, that, works},
    ttys::{self, Pair, await_event, change, give, ioctl, number, once, open_at, pair, put},
};
use rustix::fs::OFlags;
use shimos_user::raw::{self, Disposition};
use std::os::fd::OwnedFd;

/// The subtests.
pub const TESTS: &[Subtest] = &[
    ("jobs/controlling", controlling),
    ("jobs/giving-up", giving_up),
    ("jobs/interrupt", interrupt),
    ("jobs/stop-and-go-on", stop_and_go_on),
    ("jobs/background-read", background_read),
    ("jobs/background-write", background_write),
    ("jobs/foreground", foreground),
    ("jobs/orphans", orphans),
    ("jobs/leader-ends", leader_ends),
    ("jobs/hang-up", hang_up),
    ("jobs/vhangup", vhangup),
    ("jobs/window", window),
    ("jobs/typed-in", typed_in),
    ("jobs/groups", groups),
    ("jobs/told", told),
];

fn own() -> i32 {
    std::process::id() as i32
}

/// Runs `work` in a child that leads a session of its own, with the slave as its terminal.
fn session(pair: &Pair, work: impl FnOnce() -> Outcome) -> Outcome {
    let (mut why, mut tell) = std::io::pipe().map_err(text)?;
    let child = raw::fork(|| {
        let begin = || {
            works("setsid", raw::call(libc::SYS_setsid, [0; 6]))?;
            works("TIOCSCTTY", ioctl(&pair.slave, libc::TIOCSCTTY, 0)).map(drop)
        };
        match begin().and_then(|()| work()) {
            Ok(()) => 0,
            Err(said) => {
                let _ = std::io::Write::write_all(&mut tell, said.as_bytes());
                1
            }
        }
    })
    .map_err(text)?;
    drop(tell);
    let exit = raw::exit_of(child).map_err(text)?;
    let mut said = String::new();
    std::io::Read::read_to_string(&mut why, &mut said).map_err(text)?;
    if exit == 0 { Ok(()) } else { Err(format!("{exit}: {said}")) }
}

/// A child in a group of its own; the parent has put it there when this returns.
fn job(work: impl FnOnce() -> i32) -> Result<i32, String> {
    let (go, begin) = std::io::pipe().map_err(text)?;
    let child = raw::fork(move || {
        let mut byte = [0];
        let _ = std::io::Read::read(&mut (&go), &mut byte);
        work()
    })
    .map_err(text)?;
    works("setpgid", raw::call(libc::SYS_setpgid, [child as u64, child as u64, 0, 0, 0, 0]))?;
    std::io::Write::write_all(&mut (&begin), b"x").map_err(text)?;
    Ok(child)
}

/// Waits for a change of a child and expects its status word.
fn expect(what: &str, pid: i32, wanted: i32) -> Outcome {
    let (found, status) = raw::wait(pid, libc::WUNTRACED | libc::WCONTINUED).map_err(text)?;
    same(what, (found, format!("{status:#x}")), (pid, format!("{wanted:#x}")))
}

const fn stopped_by(signal: i32) -> i32 {
    signal << 8 | 0x7f
}
const CONTINUED: i32 = 0xffff;

fn pause() -> i32 {
    let _ = raw::call(libc::SYS_pause, [0; 6]);
    0
}

/// Waits until a signal has been caught so often.
fn await_caught(signal: i32, count: u32) {
    while raw::caught(signal) < count {
        let _ = raw::call(libc::SYS_sched_yield, [0; 6]);
    }
}

/// A child that was sent SIGCONT stops again; that it went on may be told before.
fn expect_stop_again(pid: i32, signal: i32) -> Outcome {
    let (_, status) = raw::wait(pid, libc::WUNTRACED | libc::WCONTINUED).map_err(text)?;
    if status == CONTINUED {
        expect("stopped", pid, stopped_by(signal))
    } else {
        same("stopped", status, stopped_by(signal))
    }
}

fn foreground_of(fd: &OwnedFd) -> Result<i32, i32> {
    number(fd, libc::TIOCGPGRP)
}

fn controlling() -> Outcome {
    let pair = pair()?;
    fails("not ours", foreground_of(&pair.slave), libc::ENOTTY)?;
    fails("not ours", number(&pair.slave, libc::TIOCGSID), libc::ENOTTY)?;
    same("none", works("master", foreground_of(&pair.master))?, 0)?;
    fails("no session", number(&pair.master, libc::TIOCGSID), libc::ENOTTY)?;
    let second = ttys::pair()?;
    let child = raw::fork(|| {
        let work = || {
            let setsid = works("setsid", raw::call(libc::SYS_setsid, [0; 6]))?;
            same("session", setsid, own() as u64)?;
            fails("twice", raw::call(libc::SYS_setsid, [0; 6]), libc::EPERM)?;
            fails("none yet", open_at("/dev/tty", OFlags::RDWR), libc::ENXIO)?;
            // Opened for writing alone it does not become the session's, nor where that is not wanted.
            let flags = OFlags::CLOEXEC;
            let plain = |flags| rustix::fs::open(&pair.name, flags, rustix::fs::Mode::empty());
            works("to write", plain(flags | OFlags::WRONLY))?;
            works("without", plain(flags | OFlags::RDWR | OFlags::NOCTTY))?;
            fails("none yet", open_at("/dev/tty", OFlags::RDWR), libc::ENXIO)?;
            let slave = works("open", plain(flags | OFlags::RDWR))?;
            let tty = works("/dev/tty", open_at("/dev/tty", OFlags::RDWR))?;
            same("leader", works("TIOCGSID", number(&tty, libc::TIOCGSID))?, own())?;
            same("group", works("TIOCGPGRP", foreground_of(&slave))?, own())?;
            same("master", works("TIOCGPGRP", foreground_of(&pair.master))?, own())?;
            same(
                "the same",
                works("TIOCGDEV", number(&tty, ttys::TIOCGDEV))?,
                works("TIOCGDEV", number(&slave, ttys::TIOCGDEV))?,
            )?;
            let stat = works("fstat", rustix::fs::fstat(&tty))?;
            same("its own node", stat.st_rdev, rustix::fs::makedev(5, 0))?;
            put(&tty, b"hello")?;
            works("again", ioctl(&slave, libc::TIOCSCTTY, 0))?;
            // One is enough.
            fails("another", ioctl(&second.slave, libc::TIOCSCTTY, 0), libc::EPERM)?;
            fails("a master", ioctl(&second.master, libc::TIOCSCTTY, 0), libc::EPERM)?;
            let stat = std::fs::read_to_string("/proc/self/stat").map_err(text)?;
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let device = works("TIOCGDEV", number(&slave, ttys::TIOCGDEV))?.to_string();
            same("tty_nr", fields.get(4).copied(), Some(device.as_str()))?;
            same("tpgid", fields.get(5).copied(), Some(own().to_string().as_str()))
        };
        match work() {
            Ok(()) => 0,
            Err(said) => {
                let _ = put(&pair.slave, said.as_bytes());
                1
            }
        }
    })
    .map_err(text)?;
    let exit = raw::exit_of(child).map_err(text)?;
    let said = works("read", once(&pair.master))?;
    same("exit", (exit, said.as_str()), (0, "hello"))?;
    // Its leader has ended: it is free for another.
    session(&pair, || Ok(()))
}

fn giving_up() -> Outcome {
    let pair = pair()?;
    session(&pair, || {
        raw::on_signal(libc::SIGHUP, Disposition::Count(0)).map_err(text)?;
        raw::on_signal(libc::SIGCONT, Disposition::Count(0)).map_err(text)?;
        let child = raw::fork(|| {
            let tty = open_at("/dev/tty", OFlags::RDWR);
            let Ok(tty) = tty else { return 1 };
            // Not the leader: it gives the terminal up for itself.
            if ioctl(&tty, libc::TIOCNOTTY, 0).is_err() || ioctl(&tty, libc::TIOCNOTTY, 0) != Err(libc::ENOTTY) {
                return 2;
            }
            i32::from(open_at("/dev/tty", OFlags::RDWR).is_ok()) * 3
        })
        .map_err(text)?;
        same("a child", raw::exit_of(child).map_err(text)?, 0)?;
        same("still ours", works("TIOCGPGRP", foreground_of(&pair.slave))?, own())?;
        works("TIOCNOTTY", ioctl(&pair.slave, libc::TIOCNOTTY, 0))?;
        same("told", (raw::caught(libc::SIGHUP), raw::caught(libc::SIGCONT)), (1, 1))?;
        fails("gone", open_at("/dev/tty", OFlags::RDWR), libc::ENXIO)?;
        works("back", ioctl(&pair.slave, libc::TIOCSCTTY, 0)).map(drop)
    })
}

fn interrupt() -> Outcome {
    for (byte, signal) in [(b"\x03", libc::SIGINT), (b"\x1c", libc::SIGQUIT)] {
        let pair = pair()?;
        session(&pair, || {
            raw::on_signal(signal, Disposition::Ignore).map_err(text)?;
            let child = raw::fork(|| {
                let _ = raw::on_signal(signal, Disposition::Default);
                let _ = rustix::io::write(&pair.slave, b"r");
                pause()
            })
            .map_err(text)?;
            works("read", once(&pair.master))?;
            put(&pair.master, byte)?;
            let (_, status) = raw::wait(child, 0).map_err(text)?;
            same("killed", status & 0x7f, signal)
        })?;
    }
    Ok(())
}

fn stop_and_go_on() -> Outcome {
    let pair = pair()?;
    session(&pair, || {
        raw::on_signal(libc::SIGTTOU, Disposition::Ignore).map_err(text)?;
        let (slave, master) = (&pair.slave, &pair.master);
        let (go, begin) = std::io::pipe().map_err(text)?;
        let child = job(|| {
            // Not before it is in the foreground.
            let _ = std::io::Read::read(&mut (&go), &mut [0]);
            let mut line = [0; 10];
            match rustix::io::read(slave, &mut line) {
                Ok(count) => count as i32,
                Err(_) => 99,
            }
        })?;
        works("tcsetpgrp", give(slave, libc::TIOCSPGRP, child))?;
        std::io::Write::write_all(&mut (&begin), b"x").map_err(text)?;
        put(master, b"\x1a")?;
        expect("stopped", child, stopped_by(libc::SIGTSTP))?;
        same("nothing more", raw::wait(child, libc::WUNTRACED | libc::WNOHANG).map_err(text)?.0, 0)?;
        works("tcsetpgrp", give(slave, libc::TIOCSPGRP, own()))?;
        raw::kill(-child, libc::SIGCONT).map_err(text)?;
        // It goes on in the background, where it may not read.
        expect_stop_again(child, libc::SIGTTIN)?;
        works("tcsetpgrp", give(slave, libc::TIOCSPGRP, child))?;
        raw::kill(-child, libc::SIGCONT).map_err(text)?;
        expect("continued", child, CONTINUED)?;
        put(master, b"abc\n")?;
        expect("reads", child, 4 << 8)?;
        works("tcsetpgrp", give(slave, libc::TIOCSPGRP, own())).map(drop)
    })
}

fn background_read() -> Outcome {
    let pair = pair()?;
    session(&pair, || {
        let slave = &pair.slave;
        put(&pair.master, b"line\n")?;
        let child = job(|| i32::from(once(slave).ok().as_deref() != Some("line\n")))?;
        expect("stopped", child, stopped_by(libc::SIGTTIN))?;
        raw::kill(child, libc::SIGKILL).map_err(text)?;
        expect("killed", child, libc::SIGKILL)?;
        // Who ignores or blocks the signal gets an error, and who catches it is interrupted.
        let ignoring = job(|| {
            let _ = raw::on_signal(libc::SIGTTIN, Disposition::Ignore);
            i32::from(once(slave) != Err(rustix::io::Errno::IO))
        })?;
        expect("ignored", ignoring, 0)?;
        let blocking = job(|| {
            let _ = raw::mask(libc::SIG_BLOCK, 1 << (libc::SIGTTIN - 1));
            i32::from(once(slave) != Err(rustix::io::Errno::IO))
        })?;
        expect("blocked", blocking, 0)?;
        let catching = job(|| {
            let _ = raw::on_signal(libc::SIGTTIN, Disposition::Count(0));
            i32::from(once(slave) != Err(rustix::io::Errno::INTR) || raw::caught(libc::SIGTTIN) != 1)
        })?;
        expect("caught", catching, 0)?;
        same("still there", works("read", once(slave))?.as_str(), "line\n")
    })
}

fn background_write() -> Outcome {
    let pair = pair()?;
    session(&pair, || {
        let slave = &pair.slave;
        let writes = || i32::from(rustix::io::write(slave, b"x").is_err());
        let child = job(writes)?;
        expect("allowed", child, 0)?;
        // To change settings is not.
        let child = job(|| i32::from(change(slave, |s| s.local |= libc::TOSTOP).is_err()))?;
        expect("stopped", child, stopped_by(libc::SIGTTOU))?;
        works("tcsetpgrp", give(slave, libc::TIOCSPGRP, child))?;
        raw::kill(child, libc::SIGCONT).map_err(text)?;
        same("done", raw::exit_of(child).map_err(text)?, 0)?;
        raw::on_signal(libc::SIGTTOU, Disposition::Ignore).map_err(text)?;
        works("tcsetpgrp", give(slave, libc::TIOCSPGRP, own()))?;
        raw::on_signal(libc::SIGTTOU, Disposition::Default).map_err(text)?;
        let child = job(writes)?;
        expect("stopped", child, stopped_by(libc::SIGTTOU))?;
        raw::kill(child, libc::SIGKILL).map_err(text)?;
        expect("killed", child, libc::SIGKILL)?;
        let child = job(|| {
            let _ = raw::on_signal(libc::SIGTTOU, Disposition::Ignore);
            writes()
        })?;
        expect("ignored", child, 0)
    })
}

fn foreground() -> Outcome {
    let pair = pair()?;
    fails("no terminal of ours", give(&pair.slave, libc::TIOCSPGRP, own()), libc::ENOTTY)?;
    session(&pair, || {
        let slave = &pair.slave;
        fails("no such group", give(slave, libc::TIOCSPGRP, 4_000_000), libc::ESRCH)?;
        fails("negative", give(slave, libc::TIOCSPGRP, -1), libc::EINVAL)?;
        let parent_group = works("getpgid", raw::call(libc::SYS_getpgid, [parent(), 0, 0, 0, 0, 0]))?;
        fails("another session", give(slave, libc::TIOCSPGRP, parent_group as i32), libc::EPERM)?;
        // From the background it stops whoever does not ignore that.
        let child = job(|| i32::from(give(slave, libc::TIOCSPGRP, own()).is_err()))?;
        expect("stopped", child, stopped_by(libc::SIGTTOU))?;
        raw::kill(child, libc::SIGKILL).map_err(text)?;
        expect("killed", child, libc::SIGKILL)?;
        let child = job(|| {
            let _ = raw::on_signal(libc::SIGTTOU, Disposition::Ignore);
            i32::from(give(slave, libc::TIOCSPGRP, own()).is_err())
        })?;
        expect("taken", child, 0)?;
        same("its group", works("TIOCGPGRP", foreground_of(slave))?, child)
    })
}

fn parent() -> u64 {
    raw::call(libc::SYS_getppid, [0; 6]).unwrap_or_default()
}

fn orphans() -> Outcome {
    let pair = pair()?;
    let (reader, writer) = std::io::pipe().map_err(text)?;
    session(&pair, || {
        // Its group's last tie to the session is its parent: when that ends, a stopped process is woken to die.
        let parent = job(|| {
            let child = raw::fork(|| {
                let _ = raw::on_signal(libc::SIGHUP, Disposition::Count(0));
                let _ = raw::kill(own(), libc::SIGSTOP);
                let counted = raw::caught(libc::SIGHUP);
                // In an orphaned group nothing but SIGSTOP stops.
                let _ = raw::kill(own(), libc::SIGTSTP);
                let _ = raw::kill(own(), libc::SIGTTIN);
                let read = once(&pair.slave) == Err(rustix::io::Errno::IO);
                let _ = rustix::io::write(&writer, &[counted as u8, u8::from(read)]);
                0
            });
            let Ok(child) = child else { return 1 };
            i32::from(raw::wait(child, libc::WUNTRACED).is_err())
        })?;
        expect("ended", parent, 0)?;
        let mut said = [9; 2];
        works("read", rustix::io::read(&reader, &mut said))?;
        same("hung up and refused", said, [1, 1])
    })
}

fn leader_ends() -> Outcome {
    let pair = pair()?;
    let (reader, writer) = std::io::pipe().map_err(text)?;
    session(&pair, || {
        raw::on_signal(libc::SIGTTOU, Disposition::Ignore).map_err(text)?;
        let child = job(|| {
            let _ = raw::on_signal(libc::SIGHUP, Disposition::Count(0));
            let _ = rustix::io::write(&writer, b"r");
            await_caught(libc::SIGHUP, 1);
            let gone = open_at("/dev/tty", OFlags::RDWR).is_err();
            // The terminal itself goes on.
            let writes = rustix::io::write(&pair.slave, b"x").is_ok();
            let _ = rustix::io::write(&writer, &[raw::caught(libc::SIGHUP) as u8, gone.into(), writes.into()]);
            0
        })?;
        let mut ready = [0];
        works("read", rustix::io::read(&reader, &mut ready))?;
        works("tcsetpgrp", give(&pair.slave, libc::TIOCSPGRP, child)).map(drop)
    })?;
    let mut said = [9; 3];
    works("read", rustix::io::read(&reader, &mut said))?;
    same("its foreground is told", said, [1, 1, 1])
}

fn hang_up() -> Outcome {
    let Pair { master, slave, .. } = pair()?;
    let (reader, writer) = std::io::pipe().map_err(text)?;
    let leader = raw::fork(|| {
        let _ = raw::call(libc::SYS_setsid, [0; 6]);
        let _ = ioctl(&slave, libc::TIOCSCTTY, 0);
        let _ = raw::on_signal(libc::SIGHUP, Disposition::Count(0));
        let _ = raw::on_signal(libc::SIGCONT, Disposition::Count(0));
        let _ = raw::call(libc::SYS_close, [std::os::fd::AsRawFd::as_raw_fd(&master) as u64, 0, 0, 0, 0, 0]);
        let _ = rustix::io::write(&writer, b"r");
        // A read that waits ends with the end of file, or is interrupted.
        let read = match once(&slave) {
            Ok(text) => text.is_empty(),
            Err(error) => error == rustix::io::Errno::INTR || error == rustix::io::Errno::IO,
        };
        let gone = open_at("/dev/tty", OFlags::RDWR).is_err();
        let counts = [raw::caught(libc::SIGHUP) as u8, raw::caught(libc::SIGCONT) as u8, read.into(), gone.into()];
        let _ = rustix::io::write(&writer, &counts);
        0
    })
    .map_err(text)?;
    let mut ready = [0];
    works("read", rustix::io::read(&reader, &mut ready))?;
    drop(master);
    same("leader", raw::exit_of(leader).map_err(text)?, 0)?;
    let mut said = [9; 4];
    works("read", rustix::io::read(&reader, &mut said))?;
    same("HUP, CONT, end of file, no terminal", said, [1, 1, 1, 1])
}

fn vhangup() -> Outcome {
    let pair = pair()?;
    let leave = rustix::process::geteuid().is_root();
    session(&pair, || {
        if !leave {
            return fails("for root", raw::call(libc::SYS_vhangup, [0; 6]), libc::EPERM);
        }
        raw::on_signal(libc::SIGHUP, Disposition::Count(0)).map_err(text)?;
        works("vhangup", raw::call(libc::SYS_vhangup, [0; 6]))?;
        same("told", raw::caught(libc::SIGHUP), 1)?;
        same("end of file", works("read", once(&pair.slave))?.as_str(), "")?;
        fails("dead", rustix::io::write(&pair.slave, b"x"), libc::EIO)?;
        fails("no terminal", open_at("/dev/tty", OFlags::RDWR), libc::ENXIO)?;
        let again = works("again", open_at(&pair.name, OFlags::RDWR))?;
        put(&again, b"back")?;
        same("goes on", ttys::take(&pair.master, 4)?.as_str(), "back")
    })
}

fn window() -> Outcome {
    let pair = pair()?;
    session(&pair, || {
        raw::on_signal(libc::SIGWINCH, Disposition::Count(0)).map_err(text)?;
        let size = [40_u16, 100, 0, 0];
        works("TIOCSWINSZ", ioctl(&pair.master, libc::TIOCSWINSZ, &raw const size as u64))?;
        same("told", raw::caught(libc::SIGWINCH), 1)?;
        works("TIOCSWINSZ", ioctl(&pair.slave, libc::TIOCSWINSZ, &raw const size as u64))?;
        same("no change", raw::caught(libc::SIGWINCH), 1)
    })
}

fn typed_in() -> Outcome {
    let pair = pair()?;
    session(&pair, || {
        change(&pair.slave, |s| s.local &= !libc::ECHO)?;
        for byte in b"ok\n" {
            let answer = ioctl(&pair.slave, libc::TIOCSTI, &raw const *byte as u64);
            // Newer systems switch it off.
            if answer == Err(libc::EIO) {
                return Ok(());
            }
            works("TIOCSTI", answer)?;
        }
        that("readable", await_event(&pair.slave, libc::POLLIN)? != 0)?;
        same("typed", works("read", once(&pair.slave))?.as_str(), "ok\n")
    })
}

fn groups() -> Outcome {
    let set = |pid: i32, group: i32| raw::call(libc::SYS_setpgid, [pid as u64, group as u64, 0, 0, 0, 0]);
    fails("negative", set(0, -1), libc::EINVAL)?;
    fails("nobody", set(4_000_000, 0), libc::ESRCH)?;
    fails("not a child", set(1, 0), libc::ESRCH)?;
    fails("no such group", set(0, 4_000_000), libc::EPERM)?;
    let pair = pair()?;
    session(&pair, || {
        fails("a leader", set(0, 0), libc::EPERM)?;
        let child = job(pause)?;
        let other = job(pause)?;
        works("join", set(other, child))?;
        same("joined", works("getpgid", raw::call(libc::SYS_getpgid, [other as u64, 0, 0, 0, 0, 0]))?, child as u64)?;
        same("session", works("getsid", raw::call(libc::SYS_getsid, [other as u64, 0, 0, 0, 0, 0]))?, own() as u64)?;
        raw::kill(-child, libc::SIGKILL).map_err(text)?;
        expect("one", child, libc::SIGKILL)?;
        expect("two", other, libc::SIGKILL)?;
        fails("empty", raw::kill(-child, 0), libc::ESRCH)
    })
}

fn told() -> Outcome {
    raw::on_signal(libc::SIGCHLD, Disposition::Count(libc::SA_RESTART)).map_err(text)?;
    let child = job(|| {
        loop {
            pause();
        }
    })?;
    raw::kill(child, libc::SIGSTOP).map_err(text)?;
    let mut info = [0_i32; 32];
    let waitid = |options: i32, info: &mut [i32; 32]| {
        raw::call(libc::SYS_waitid, [1, child as u64, info as *mut _ as u64, options as u64, 0, 0])
    };
    works("waitid", waitid(libc::WSTOPPED | libc::WNOWAIT, &mut info))?;
    same("CLD_STOPPED", (info[0], info[2], info[4], info[6]), (libc::SIGCHLD, 5, child, libc::SIGSTOP))?;
    same("told once", (raw::caught(libc::SIGCHLD), raw::last_info()), (1, (child, 5)))?;
    works("waitid", waitid(libc::WSTOPPED, &mut info))?;
    info = [7; 32];
    works("waitid", waitid(libc::WSTOPPED | libc::WNOHANG, &mut info))?;
    same("nothing", (info[0], info[4]), (0, 0))?;
    raw::kill(child, libc::SIGCONT).map_err(text)?;
    works("waitid", waitid(libc::WCONTINUED, &mut info))?;
    same("CLD_CONTINUED", (info[2], info[6]), (6, libc::SIGCONT))?;
    await_caught(libc::SIGCHLD, 2);
    same("told", raw::last_info().1, 6)?;
    raw::on_signal(libc::SIGCHLD, Disposition::Count(libc::SA_NOCLDSTOP)).map_err(text)?;
    raw::kill(child, libc::SIGSTOP).map_err(text)?;
    expect("stopped", child, stopped_by(libc::SIGSTOP))?;
    raw::kill(child, libc::SIGCONT).map_err(text)?;
    expect("continued", child, CONTINUED)?;
    same("not told", raw::caught(libc::SIGCHLD), 2)?;
    raw::kill(child, libc::SIGKILL).map_err(text)?;
    works("waitid", waitid(libc::WEXITED, &mut info))?;
    same("CLD_KILLED", (info[2], info[6]), (2, libc::SIGKILL))?;
    // Who does not want to wait finds no child.
    raw::on_signal(libc::SIGCHLD, Disposition::Count(libc::SA_NOCLDWAIT)).map_err(text)?;
    let child = raw::fork(|| 0).map_err(text)?;
    fails("no zombie", raw::wait(child, 0), libc::ECHILD)
}

//! `shimos shell` on a terminal of the test's own: line editing, job control, window size.
use anyhow::{Context, Result, bail, ensure};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};
use shimos::{children::Child, machine::Options};
use shimos_abi::control::{Fault, Target};
use shimos_tests::{
    clock::{self, SOON},
    group::Group,
    makings::Makings,
    programs,
    rig::Rig,
    suite::Suite,
    tool::command,
};
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Command, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

pub fn run(suite: &mut Suite) {
    let makings = suite.makings.clone();
    let mut group = Group::new(suite, Options::default());
    group.case("shell::editing_and_status", |_| editing(&makings));
    group.case("shell::jobs", |_| jobs(&makings));
    group.case("shell::window_size", |_| window(&makings));
    group.case("shell::in_a_running_program", |rig| joined(&makings, rig));
    group.case("shell::the_terminal_is_put_right_when_the_program_dies", |rig| put_right(&makings, rig));
    group.case("shell::outlives_its_kernel", |rig| takeover(&makings, rig));
}

/// A terminal with the tool on it.
struct Terminal {
    master: File,
    /// Kept open, to look at its settings.
    slave: OwnedFd,
    before: Termios,
    child: Child,
    shown: Arc<Mutex<String>>,
    /// What was waited for lies before this place.
    seen: usize,
}

impl Terminal {
    fn start(makings: &Makings, words: &[&str]) -> Result<Terminal> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(ptsname(&master, Vec::new())?, flags, Mode::empty())?;
        resize(&slave, 30, 100)?;
        let before = tcgetattr(&slave)?;
        // The tool's session has this terminal, so that it is told of a new size.
        let tool = command(makings, words);
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]).arg(tool.get_program()).args(tool.get_args());
        session.envs(tool.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "xterm");
        session.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave.try_clone()?);
        let child = Child::spawn(&mut session)?;
        drop(session);
        let master = File::from(master);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut reader, text) = (master.try_clone()?, Arc::clone(&shown));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                let piece = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()).into_owned();
                text.lock().unwrap_or_else(PoisonError::into_inner).push_str(&piece);
            }
        });
        let mut terminal = Terminal { master, slave, before, child, shown, seen: 0 };
        terminal.prompt()?;
        Ok(terminal)
    }

    /// Waits for the shell's prompt. It edits lines in another mode than the one that commands find: a key that means something
    /// in one of them is lost, or means something else, if it is typed in the other, here as on Linux.
    fn prompt(&mut self) -> Result<()> {
        self.wait("# ")
    }

    fn keys(&mut self, keys: &str) -> Result<()> {
        self.master.write_all(keys.as_bytes()).context("cannot type")
    }

    /// Waits until a text is shown, after what was waited for before.
    fn wait(&mut self, wanted: &str) -> Result<()> {
        let found = clock::until(SOON, &format!("'{wanted}'"), || {
            let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(shown.get(self.seen..).and_then(|rest| rest.find(wanted)))
        });
        match found {
            Ok(at) => self.seen += at + wanted.len(),
            Err(error) => bail!("{error:#}; shown is {:?}", self.text()),
        }
        Ok(())
    }

    fn text(&self) -> String {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the tool's end; the terminal must be as it was.
    fn end(mut self) -> Result<ExitStatus> {
        let ended = clock::until(SOON, "the tool's end", || Ok(self.child.try_wait()?));
        let status = ended.with_context(|| format!("shown is {:?}", self.text()))?;
        let after = tcgetattr(&self.slave)?;
        let same = after.local_modes == self.before.local_modes
            && after.input_modes == self.before.input_modes
            && after.output_modes == self.before.output_modes;
        ensure!(same, "the terminal is left as {after:?}");
        Ok(status)
    }
}

fn resize(terminal: &OwnedFd, rows: u16, columns: u16) -> Result<()> {
    Ok(tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
}

/// Ends a shell by a command and looks at its status.
fn leave(mut terminal: Terminal) -> Result<()> {
    terminal.keys("exit 5\r")?;
    let status = terminal.end()?;
    ensure!(status.code() == Some(5), "it ended with {status}");
    Ok(())
}

fn editing(makings: &Makings) -> Result<()> {
    let mut terminal = Terminal::start(makings, &["shell"])?;
    // What is typed is shown as well: what is computed tells the answer from the question.
    terminal.keys("echo abX\x7fc-$((40+2))\r")?;
    terminal.wait("abc-42\r\n")?;
    terminal.prompt()?;
    terminal.keys("echo wrong-$((1+1))\x15echo right-$((1+2))\r")?;
    terminal.wait("right-3\r\n")?;
    terminal.prompt()?;
    ensure!(!terminal.text().contains("wrong-2"), "a line that was killed was run");
    // Up, back to the start of the line, and another word.
    terminal.keys("\x1b[A\x01\x0b")?;
    terminal.keys("true; \x19\r")?;
    terminal.wait("right-3\r\n")?;
    terminal.prompt()?;
    terminal.keys("tty; stty size\r")?;
    terminal.wait("/dev/pts/")?;
    terminal.wait("30 100")?;
    terminal.prompt()?;
    // The end of input.
    terminal.keys("\x04")?;
    let status = terminal.end()?;
    ensure!(status.code() == Some(0), "it ended with {status}");
    Ok(())
}

fn jobs(makings: &Makings) -> Result<()> {
    let mut terminal = Terminal::start(makings, &["shell"])?;
    // It says when it has the terminal.
    terminal.keys("sh -c 'echo on-$((1+1)); exec cat'\r")?;
    terminal.wait("on-2\r\n")?;
    terminal.keys("\x1a")?;
    terminal.wait("Stopped")?;
    terminal.prompt()?;
    terminal.keys("jobs; echo list-$((1+1))\r")?;
    terminal.wait("[1]+  Stopped")?;
    terminal.wait("list-2")?;
    terminal.prompt()?;
    terminal.keys("echo back-$((1+1)); fg\r")?;
    terminal.wait("back-2\r\n")?;
    terminal.keys("in front\r")?;
    terminal.wait("in front\r\nin front\r\n")?;
    terminal.keys("\x03")?;
    terminal.prompt()?;
    terminal.keys("echo status-$?\r")?;
    terminal.wait("status-130\r\n")?;
    terminal.prompt()?;
    terminal.keys("sleep 1000 &\r")?;
    terminal.wait("[1] ")?;
    terminal.prompt()?;
    terminal.keys("kill %1; wait %1; echo waited-$?\r")?;
    terminal.wait("waited-143\r\n")?;
    terminal.prompt()?;
    terminal.keys("echo go-$((1+1)); cat | cat\r")?;
    terminal.wait("go-2\r\n")?;
    terminal.keys("through pipes\r")?;
    terminal.wait("through pipes\r\nthrough pipes\r\n")?;
    terminal.keys("\x03")?;
    terminal.prompt()?;
    leave(terminal)
}

fn window(makings: &Makings) -> Result<()> {
    let mut terminal = Terminal::start(makings, &["shell"])?;
    terminal.keys("trap 'echo now-$(stty size)' WINCH; echo set-$((1+1))\r")?;
    terminal.wait("set-2\r\n")?;
    terminal.prompt()?;
    resize(&terminal.slave, 41, 132)?;
    // The trap is run when the shell has something to do.
    terminal.keys("\r")?;
    terminal.wait("now-41 132")?;
    leave(terminal)
}

fn joined(makings: &Makings, rig: &mut Rig) -> Result<()> {
    rig.start(programs::web("inside", 1))?;
    let mut terminal = Terminal::start(makings, &["shell", "inside"])?;
    terminal.keys("ps | grep -c '[h]ttpd -f'; echo $((6*7))\r")?;
    terminal.wait("\r\n1\r\n42\r\n")?;
    leave(terminal)
}

fn put_right(makings: &Makings, rig: &mut Rig) -> Result<()> {
    let mut terminal = Terminal::start(makings, &["shell", "--name", "doomed"])?;
    terminal.keys("echo in-$((1+1))\r")?;
    terminal.wait("in-2\r\n")?;
    rig.control.kill(Target::Name("doomed".to_string()), 9)?;
    let status = terminal.end()?;
    ensure!(status.code() == Some(137), "it ended with {status}");
    Ok(())
}

/// The kernel under a shell dies: variables, jobs and the terminal stay.
fn takeover(makings: &Makings, rig: &mut Rig) -> Result<()> {
    let mut terminal = Terminal::start(makings, &["shell", "--name", "lives", "--kernel", "k2", "--protect", "20ms"])?;
    terminal.keys("x=kept; sleep 1000 &\r")?;
    terminal.wait("[1] ")?;
    let program = rig.until(SOON, "the shell's program", |now| {
        shimos::programs::all(now).into_iter().find(|found| found.status.name == "lives").map(|found| found.status.id)
    })?;
    for fault in [Fault::Panic, Fault::IrqDeadlock] {
        rig.settle(program)?;
        rig.kill_under(program, fault)?;
        terminal.keys("echo $x-$((40+2)); jobs; stty size\r")?;
        terminal.wait("kept-42\r\n")?;
        terminal.wait("Running")?;
        terminal.wait("30 100")?;
        terminal.prompt()?;
    }
    terminal.keys("kill %1\r")?;
    leave(terminal)
}

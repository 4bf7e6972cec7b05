//! Child processes that never outlive this tool: each is a process group that is killed on every way out.
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use std::{
    io,
    os::unix::process::CommandExt,
    process::{self, Command, ExitStatus},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

/// Process groups that live now.
static LIVE: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn live() -> MutexGuard<'static, Vec<Pid>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on, a signal that ends this tool ends its children first. While somebody takes signals, they end nothing.
pub fn end_with_us() {
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else {
        return;
    };
    thread::spawn(move || {
        if let Some(signal) = signals.forever().find(|signal| !crate::signals::pass(*signal)) {
            crate::terminal::restore();
            // Keeps the lock: nothing is started any more.
            let groups = live();
            for group in groups.iter() {
                end(*group);
            }
            process::exit(128 + signal);
        }
    });
}

/// Kills all children that still live.
pub fn end_all() {
    for group in live().drain(..) {
        end(group);
    }
}

/// Kills a process group and waits until its first process is gone, unless someone else has waited for that.
fn end(group: Pid) {
    let _ = kill_process_group(group, Signal::KILL);
    let _ = waitpid(Some(group), WaitOptions::empty());
}

/// A child process and all it starts; killed when dropped.
#[derive(Debug)]
pub struct Child {
    inner: process::Child,
    group: Pid,
}

impl Child {
    /// Starts a command as a process group of its own.
    pub fn spawn(command: &mut Command) -> Result<Child> {
        let mut groups = live();
        let program = command.get_program().to_string_lossy().into_owned();
        let inner = command.process_group(0).spawn().with_context(|| format!("cannot run {program}"))?;
        let group = Pid::from_raw(inner.id() as i32).context("a child without a process id")?;
        groups.push(group);
        Ok(Child { inner, group })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.inner.id()
    }
    /// Its standard output, if it was piped; once.
    pub fn take_stdout(&mut self) -> Option<process::ChildStdout> {
        self.inner.stdout.take()
    }
    /// Its standard error, if it was piped; once.
    pub fn take_stderr(&mut self) -> Option<process::ChildStderr> {
        self.inner.stderr.take()
    }
    /// Its standard input, if it was piped; once.
    pub fn take_stdin(&mut self) -> Option<process::ChildStdin> {
        self.inner.stdin.take()
    }
    /// Whether it has ended, and how.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.inner.try_wait()
    }
    /// Waits for its end.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.inner.wait()
    }
    /// Kills it and all it started.
    pub fn kill(&mut self) {
        let _ = kill_process_group(self.group, Signal::KILL);
        let _ = self.inner.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        live().retain(|group| *group != self.group);
    }
}

/// The command that runs `program` so that it dies with this tool even when the tool is killed outright.
pub fn tied(program: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| dir.join("setpriv").is_file()) {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]);
        command
    } else {
        Command::new(program)
    }
}

/// Whether a program can be found to run.
pub fn found(program: &str) -> bool {
    if program.contains('/') {
        return std::path::Path::new(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_a_child_ends_what_it_started() {
        let child = Child::spawn(Command::new("sh").args(["-c", "sleep 1000 & sleep 1000"])).expect("sh runs");
        let group = child.group;
        assert!(rustix::process::test_kill_process_group(group).is_ok());
        drop(child);
        // The orphaned sleeper is reaped by the system, not by us: give that a moment.
        for _ in 0..100 {
            if rustix::process::test_kill_process_group(group).is_err() {
                return;
            }
            thread::sleep(std::time::Duration::from_millis(20));
        }
        let left = std::fs::read_to_string(format!("/proc/{}/stat", group.as_raw_nonzero())).unwrap_or_default();
        assert!(left.is_empty() || left.contains(" Z "), "still there: {left}");
    }
}

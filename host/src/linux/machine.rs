//! Such a machine while it runs.
use super::{
    files::{self, Files, READY, STATUS},
    options::{Options, arguments},
};
use crate::{
    accelerator::Accelerator,
    children::{Child, tied},
    console::Console,
    machine::{check_image, emulator, free_port},
    paths::Paths,
    qmp::Qmp,
    registry,
    units::Published,
};
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    process::{ChildStdin, Stdio},
    time::{Duration, Instant},
};

/// Longest path of a UNIX socket.
const SOCKET_PATH: usize = 100;

/// What a command came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Its exit status.
    pub status: i32,
    /// What it said, on both of its outputs.
    pub lines: Vec<String>,
}

/// A running machine; it ends when this is dropped.
#[derive(Debug)]
pub struct Linux {
    child: Child,
    stdin: ChildStdin,
    console: Console,
    qmp: Qmp,
    directory: PathBuf,
    /// What it was asked to be.
    pub options: Options,
    /// Which release of Linux it is.
    pub release: String,
    /// From the emulator's start until it was ready.
    pub boot_time: Duration,
}

impl Linux {
    /// Fetches and makes what is needed, boots, and waits until commands can be run.
    pub fn boot(paths: &Paths, options: Options, within: Duration) -> Result<Linux> {
        let files = files::make(paths, &options)?;
        Linux::boot_files(paths, &files, options, within)
    }

    /// The same with files that are there.
    pub fn boot_files(paths: &Paths, files: &Files, options: Options, within: Duration) -> Result<Linux> {
        if let Some(image) = &options.image {
            check_image(image)?;
        }
        let emulator = emulator()?;
        // Which accelerator works is found out with our kernel; without it there is nothing to find out with.
        let accelerator = match paths.kernel() {
            kernel if kernel.is_file() => Accelerator::choose(&emulator, &kernel),
            _ => Accelerator::Tcg,
        };
        let (id, directory) = registry::create(paths)?;
        let socket = directory.join("qmp");
        let socket = if socket.as_os_str().len() > SOCKET_PATH {
            std::env::temp_dir().join(format!("{id}.qmp"))
        } else {
            socket
        };
        let errors = directory.join("emulator.log");
        let mut command = tied(&emulator);
        command.args(arguments(&options, accelerator, files, &id, &socket));
        command.args(std::env::var("SHIMOS_QEMU_ARGS").unwrap_or_default().split_whitespace());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&errors)?);
        let started = Instant::now();
        let mut child = Child::spawn(&mut command)?;
        let stdout = child.take_stdout().context("the emulator has no standard output")?;
        let stdin = child.take_stdin().context("the emulator has no standard input")?;
        let console = Console::read(stdout, &directory.join("console.log"))?;
        let connected = Qmp::connect(&socket, Duration::from_secs(20));
        let _ = fs::remove_file(&socket);
        let qmp = match connected {
            Ok(qmp) => qmp,
            Err(error) => {
                child.kill();
                let said = fs::read_to_string(&errors).unwrap_or_default();
                return match said.lines().next_back() {
                    Some(line) => bail!("the emulator did not start: {line}"),
                    None => Err(error),
                };
            }
        };
        let release = files.release.clone();
        let mut linux = Linux { child, stdin, console, qmp, directory, options, release, boot_time: Duration::ZERO };
        if linux.console.wait_for(within, |line| line.raw.trim() == READY).is_none() {
            bail!("Linux was not ready after {} s: {}", within.as_secs(), linux.last_words());
        }
        linux.boot_time = started.elapsed();
        Ok(linux)
    }

    fn last_words(&self) -> String {
        format!("{} (log: {})", self.console.last(3).join(" / "), self.directory.join("console.log").display())
    }

    /// Runs a line of shell inside and waits for its end. What it leaves in the background goes on.
    pub fn run(&mut self, line: &str, within: Duration) -> Result<Answer> {
        if line.contains('\n') || line.len() > 4000 {
            bail!("a command for Linux must be one line of at most 4000 bytes");
        }
        let first = self.console.count();
        writeln!(self.stdin, "{line}").context("Linux has ended")?;
        self.stdin.flush()?;
        let end = Instant::now() + within;
        let mut lines = Vec::new();
        let mut seen = first;
        loop {
            let fresh = self.console.next(seen, end.saturating_duration_since(Instant::now()));
            if fresh.is_empty() {
                bail!("Linux did not finish '{line}' within {} s: {}", within.as_secs(), self.last_words());
            }
            seen += fresh.len();
            for said in fresh {
                match said.raw.strip_prefix(STATUS) {
                    Some(status) => {
                        let status = status.trim().parse().unwrap_or(-1);
                        return Ok(Answer { status, lines });
                    }
                    None => lines.push(said.raw),
                }
            }
        }
    }

    /// The serial console.
    pub fn console(&self) -> &Console {
        &self.console
    }
    /// The emulator's control socket.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }
    /// The emulator's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Leads a port of this host to a port inside; returns the host's port.
    pub fn publish(&mut self, port: u16) -> Result<u16> {
        let host = free_port()?;
        self.qmp.forward(&Published { host, address: self.options.address, port }.rule())?;
        Ok(host)
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        self.child.kill();
    }
}

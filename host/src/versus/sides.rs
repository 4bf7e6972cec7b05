//! The two machines that are compared: each runs lines of shell, serves, and stands still while the other is measured.
use crate::{
    linux::{self, Linux},
    machine::{Files, Machine, Options},
    paths::Paths,
    qmp::Qmp,
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use shimos_abi::{
    control::{Partition, Start, Target},
    ids::KernelId,
};
use std::{path::Path, time::Duration};

/// How long a boot may take.
const BOOT: Duration = Duration::from_secs(120);
/// Where programs are looked for.
const PATH: &str = "PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin";

/// A machine to measure on.
pub trait Side {
    /// What it is called.
    fn name(&self) -> &'static str;
    /// Runs a line of shell to its end; returns what it said.
    fn run(&mut self, line: &str, within: Duration) -> Result<Vec<String>>;
    /// Starts a line of shell that serves on `port`; returns the port of this host that leads there.
    fn serve(&mut self, line: &str, port: u16) -> Result<u16>;
    /// Ends what serves.
    fn end_serving(&mut self) -> Result<()>;
    /// The emulator's control socket.
    fn qmp(&mut self) -> &mut Qmp;

    /// Stops its time.
    fn pause(&mut self) -> Result<()> {
        self.qmp().execute("stop", Value::Null).map(drop)
    }
    /// Lets it go on.
    fn go_on(&mut self) -> Result<()> {
        self.qmp().execute("cont", Value::Null).map(drop)
    }
}

/// What both machines are.
#[derive(Clone, Debug)]
pub struct Size {
    /// Memory in MiB.
    pub memory: u64,
    /// The processor's model, if not the accelerator's usual one.
    pub model: Option<String>,
    /// What keeps the kernels of Shimos apart beside their page tables.
    pub partition: Partition,
}

/// Shimos with one kernel.
pub struct OneKernel {
    machine: Machine,
    started: u32,
    serving: Option<String>,
}

impl OneKernel {
    /// Boots it.
    pub fn boot(paths: &Paths, kernel: &Path, image: &Path, size: &Size) -> Result<OneKernel> {
        let files = Files { kernel: kernel.to_path_buf(), image: image.to_path_buf() };
        let (model, partition) = (size.model.clone(), size.partition);
        let options = Options { kernels: 1, memory: size.memory, model, partition, ..Options::default() };
        Ok(OneKernel { machine: Machine::boot(paths, &files, options, BOOT)?, started: 0, serving: None })
    }

    fn start(&mut self, line: &str) -> Result<(String, shimos_abi::ids::ProgramId)> {
        self.started += 1;
        let name = format!("row{}", self.started);
        let started = self.machine.control().start(Start {
            name: name.clone(),
            argv: ["/bin/sh", "-c", line].map(str::to_string).to_vec(),
            env: vec![PATH.to_string()],
            cwd: "/".to_string(),
            kernel: Some(KernelId(0)),
            ..Start::default()
        })?;
        Ok((name, started.program))
    }
}

impl Side for OneKernel {
    fn name(&self) -> &'static str {
        "shimos"
    }
    fn run(&mut self, line: &str, within: Duration) -> Result<Vec<String>> {
        let (name, _) = self.start(line)?;
        // Watching the console costs the machine nothing, unlike asking it.
        let mark = format!("program {name} ended, status ");
        let ended = self.machine.console().wait_for(within, |line| line.text.starts_with(&mark));
        let said = self.machine.console().of_program(&name);
        match ended {
            None => {
                let _ = self.machine.control().kill(Target::Name(name), 9);
                bail!("not finished within {} s: {}", within.as_secs(), said.join(" / "))
            }
            Some(line) if line.text != format!("{mark}0x0") => bail!("{}: {}", line.text, said.join(" / ")),
            Some(_) => Ok(said),
        }
    }
    fn serve(&mut self, line: &str, port: u16) -> Result<u16> {
        let (name, program) = self.start(line)?;
        self.serving = Some(name);
        self.machine.publish(0, program, port)
    }
    fn end_serving(&mut self) -> Result<()> {
        match self.serving.take() {
            Some(name) => {
                let _ = self.machine.control().kill(Target::Name(name.clone()), 9);
                let mark = format!("program {name} ended");
                let ended =
                    self.machine.console().wait_for(Duration::from_secs(20), |line| line.text.starts_with(&mark));
                ended.context("a server does not end").map(drop)
            }
            None => Ok(()),
        }
    }
    fn qmp(&mut self) -> &mut Qmp {
        self.machine.qmp()
    }
}

/// Debian's Linux with one processor.
pub struct Debian {
    linux: Linux,
    serving: Option<String>,
    forwarded: Option<(u16, u16)>,
}

impl Debian {
    /// Boots it.
    pub fn boot(paths: &Paths, image: &Path, size: &Size) -> Result<Debian> {
        let options = linux::Options {
            cores: 1,
            memory: size.memory,
            model: size.model.clone(),
            image: Some(image.to_path_buf()),
            ..linux::Options::default()
        };
        Ok(Debian { linux: Linux::boot(paths, options, BOOT)?, serving: None, forwarded: None })
    }
    /// Which release of Linux it is.
    pub fn release(&self) -> &str {
        &self.linux.release
    }
}

impl Side for Debian {
    fn name(&self) -> &'static str {
        "linux"
    }
    fn run(&mut self, line: &str, within: Duration) -> Result<Vec<String>> {
        let answer = self.linux.run(line, within)?;
        if answer.status != 0 {
            bail!("status {}: {}", answer.status, answer.lines.join(" / "));
        }
        Ok(answer.lines)
    }
    fn serve(&mut self, line: &str, port: u16) -> Result<u16> {
        let quoted = line.replace('\'', "'\\''");
        let said = self.run(&format!("setsid sh -c '{quoted}' >/dev/null 2>&1 & echo $!"), Duration::from_secs(20))?;
        self.serving = said.last().cloned();
        match self.forwarded {
            Some((inside, host)) if inside == port => Ok(host),
            _ => {
                let host = self.linux.publish(port)?;
                self.forwarded = Some((port, host));
                Ok(host)
            }
        }
    }
    fn end_serving(&mut self) -> Result<()> {
        match self.serving.take() {
            Some(pid) => self
                .run(&format!("kill -9 -{pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.1; done; true"), BOOT)
                .map(drop),
            None => Ok(()),
        }
    }
    fn qmp(&mut self) -> &mut Qmp {
        self.linux.qmp()
    }
}

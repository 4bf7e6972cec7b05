//! `shimos compat`: boots once and tries every program that must run, each through `shimos run`.
pub mod checks;
mod host_server;

use crate::{
    children::Child,
    machine::{Files, Machine, Options},
    paths::Paths,
    registry,
};
use anyhow::{Context, Result, bail};
use checks::{CHECKS, Check};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    fs::{self, File},
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

/// Longest that boot may take.
const BOOT: Duration = Duration::from_secs(60);
/// What every script is run with before its own first line.
const PROLOGUE: &str = "set -Eeuo pipefail; trap 'echo \"line $LINENO: $BASH_COMMAND\" >&2' ERR\n\
    rm -rf /tmp/compat; mkdir -p /tmp/compat; cd /tmp/compat\n";
/// The environment of a login of root.
const ENVIRONMENT: [&str; 3] =
    ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"];
/// Bytes of a detail that are shown.
const DETAIL: usize = 200;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Only checks with these names; all if there is none.
    pub only: Vec<String>,
    /// Kernels, each with programs one after another.
    pub kernels: u16,
    /// Private memory of each kernel, in MiB.
    pub memory: u64,
    /// The `shimos` tool.
    pub tool: PathBuf,
}

/// How a check came out.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Which.
    pub name: &'static str,
    /// Whether all was right.
    pub passed: bool,
    /// What it said last, or what was wrong.
    pub detail: String,
    /// How long it took.
    pub took: Duration,
}

/// How all checks came out.
#[derive(Clone, Debug)]
pub struct Report {
    /// In the order of the list.
    pub verdicts: Vec<Verdict>,
    logs: PathBuf,
}

impl Report {
    /// Whether all passed.
    pub fn held(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.passed)
    }

    /// For programs: a list.
    pub fn json(&self) -> Value {
        let one = |verdict: &Verdict| {
            json!({
                "name": verdict.name,
                "passed": verdict.passed,
                "detail": verdict.detail,
                "seconds": (verdict.took.as_secs_f64() * 100.0).round() / 100.0,
            })
        };
        self.verdicts.iter().map(one).collect()
    }

    /// For people.
    pub fn table(&self) -> String {
        let width = self.verdicts.iter().map(|verdict| verdict.name.len()).max().unwrap_or(4);
        let mut text = format!("{:<width$}  result  seconds  detail\n", "name");
        for verdict in &self.verdicts {
            let result = if verdict.passed { "passed" } else { "FAILED" };
            let (name, took) = (verdict.name, verdict.took.as_secs_f64());
            text += format!("{name:<width$}  {result}  {took:>7.1}  {}", verdict.detail).trim_end();
            text.push('\n');
        }
        let failed = self.verdicts.iter().filter(|verdict| !verdict.passed).count();
        text += &format!("{} passed, {failed} failed\n", self.verdicts.len() - failed);
        if failed > 0 {
            text += &format!("what they said is in {}\n", self.logs.display());
        }
        text
    }
}

/// The names of all checks.
pub fn names() -> Vec<&'static str> {
    CHECKS.iter().map(|check| check.name).collect()
}

/// The checks with these names, in the order of the list; all if no name is given.
fn select(only: &[String]) -> Vec<Check> {
    CHECKS.iter().filter(|check| only.is_empty() || only.iter().any(|name| name == check.name)).copied().collect()
}

/// Boots a machine and runs the checks, as many at a time as it has kernels.
pub fn run(paths: &Paths, files: &Files, wanted: &Wanted) -> Result<Report> {
    let queue = select(&wanted.only);
    let logs = paths.build.join("compat");
    fs::create_dir_all(&logs).with_context(|| format!("cannot make the directory {}", logs.display()))?;
    let server = host_server::start()?;
    let options = Options { kernels: wanted.kernels, memory: wanted.memory, ..Options::default() };
    let machine = Machine::boot(paths, files, options, BOOT)?;
    let count = queue.len();
    let work = Work {
        paths: paths.clone(),
        tool: wanted.tool.clone(),
        machine: machine.entry().id.clone(),
        logs: logs.clone(),
        host_url: server,
        count,
        queue: Mutex::new(queue.into_iter().enumerate().collect()),
        done: Mutex::new(Vec::new()),
    };
    thread::scope(|scope| {
        for kernel in 0..wanted.kernels {
            let work = &work;
            scope.spawn(move || work.until_none_is_left(kernel));
        }
    });
    let mut verdicts = work.done.into_inner().unwrap_or_default();
    verdicts.sort_by_key(|(place, _)| *place);
    Ok(Report { verdicts: verdicts.into_iter().map(|(_, verdict)| verdict).collect(), logs })
}

/// What the workers share.
struct Work {
    paths: Paths,
    tool: PathBuf,
    machine: String,
    logs: PathBuf,
    host_url: String,
    count: usize,
    queue: Mutex<VecDeque<(usize, Check)>>,
    done: Mutex<Vec<(usize, Verdict)>>,
}

impl Work {
    fn until_none_is_left(&self, kernel: u16) {
        loop {
            let next = self.queue.lock().map(|mut queue| queue.pop_front()).unwrap_or_default();
            let Some((place, check)) = next else { return };
            let begin = Instant::now();
            let (passed, detail) = match self.carry_out(&check, kernel) {
                Ok(detail) => (true, detail),
                Err(error) => (false, format!("{error:#}")),
            };
            let verdict = Verdict { name: check.name, passed, detail, took: begin.elapsed() };
            let result = if passed { "passed" } else { "FAILED" };
            let took = verdict.took.as_secs_f64();
            if let Ok(mut done) = self.done.lock() {
                done.push((place, verdict));
                eprintln!("shimos: {}/{} {} {result} after {took:.1} s", done.len(), self.count, check.name);
            }
        }
    }

    /// Runs a check as a user would; the last line that it printed.
    fn carry_out(&self, check: &Check, kernel: u16) -> Result<String> {
        let name = format!("compat-{}", check.name.replace('_', "-"));
        let log = self.logs.join(format!("{}.log", check.name));
        let mut command = self.tool();
        command.args(["run", "-T", "--name", &name, "--kernel", &format!("k{kernel}")]);
        for variable in ENVIRONMENT {
            command.args(["--env", variable]);
        }
        command.arg("--env").arg(format!("HOST_URL={}", self.host_url));
        for (key, value) in check.env {
            command.arg("--env").arg(format!("{key}={value}"));
        }
        command.args(["--", "/bin/bash", "-c", &format!("{PROLOGUE}{}", check.script)]);
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output);
        let mut child = Child::spawn(&mut command)?;
        let status = self.wait(&mut child, check.limit)?;
        let said = fs::read(&log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let last: String = last.chars().filter(|c| !c.is_control()).take(DETAIL).collect();
        match status {
            Some(status) if status.success() => Ok(last),
            Some(status) => match status.code() {
                Some(code) => bail!("status {code}: {last}"),
                None => bail!("the tool was killed: {last}"),
            },
            None => {
                drop(child);
                let _ = self.tool().args(["stop", &name, "--timeout", "1s"]).stdin(Stdio::null()).output();
                bail!("not done after {} s: {last}", check.limit.as_secs())
            }
        }
    }

    fn wait(&self, child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The tool, for the machine of this run.
    fn tool(&self) -> Command {
        let mut command = Command::new(&self.tool);
        command.env("SHIMOS_ROOT", &self.paths.root).env(registry::MACHINE, &self.machine);
        if self.paths.build != self.paths.root.join("build") {
            command.env("SHIMOS_BUILD_DIR", &self.paths.build);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_chosen_by_name() {
        assert_eq!(select(&[]).len(), names().len());
        let two = select(&["perl".to_string(), "bash".to_string()]);
        assert_eq!(two.iter().map(|check| check.name).collect::<Vec<_>>(), ["bash", "perl"]);
    }

    #[test]
    fn one_failure_is_enough() {
        let verdict =
            |passed| Verdict { name: "x", passed, detail: "d".to_string(), took: Duration::from_millis(1234) };
        let report = |verdicts| Report { verdicts, logs: PathBuf::from("/logs") };
        assert!(report(vec![verdict(true)]).held());
        let mixed = report(vec![verdict(true), verdict(false)]);
        assert!(!mixed.held() && mixed.table().contains("1 passed, 1 failed"));
        assert_eq!(mixed.json()[1], json!({"name": "x", "passed": false, "detail": "d", "seconds": 1.23}));
    }
}

//! Resets of a machine: `reset` orders one; and the emulator tells of each why it came, which is written down beside the
//! machine's log, because nothing inside can know that.
use crate::{
    control::Control,
    qmp::{self, Qmp},
    registry::Entry,
    status,
};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use shimos_abi::{
    control::{Cause, KernelState, MachineStatus, Reset},
    time::Nanos,
};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    thread::{self, sleep},
    time::{Duration, Instant},
};

/// The file in a machine's directory with one line a reset.
const FILE: &str = "resets";
/// How often the machine is asked whether it has come up again.
const LOOK: Duration = Duration::from_millis(20);

/// Longest that a program which can go on may take.
const PATIENCE: Nanos = Nanos::secs(5);

/// Notes the resets of a machine for as long as its emulator runs.
pub fn watch(socket: PathBuf, directory: PathBuf) {
    thread::spawn(move || {
        let mut watchdog = false;
        let told = qmp::events(&socket, Duration::from_secs(20), |event| {
            let name = event.get("event").and_then(Value::as_str);
            if name == Some("WATCHDOG") {
                watchdog = true;
            }
            if name == Some("RESET") {
                let guest = event.pointer("/data/guest").and_then(Value::as_bool) == Some(true);
                let cause = match (std::mem::take(&mut watchdog), guest) {
                    (true, _) => "watchdog",
                    (false, true) => "triple fault",
                    (false, false) => "reset from outside",
                };
                let file = OpenOptions::new().create(true).append(true).open(directory.join(FILE));
                // Without the note the cause is unknown, and that is said.
                let _ = file.and_then(|mut file| file.write_all(format!("{cause}\n").as_bytes()));
            }
        });
        // The emulator has ended, or somebody else holds the socket: then nobody notes causes.
        drop(told);
        let _ = fs::remove_file(socket);
    });
}

/// Why the last reset of a machine came.
pub fn cause(directory: &Path) -> String {
    let text = fs::read_to_string(directory.join(FILE)).unwrap_or_default();
    text.lines().next_back().unwrap_or("cause unknown").to_string()
}

/// One line about the last reset, for people; nothing if there was none.
pub fn line(status: &MachineStatus, directory: &Path) -> String {
    let Some(Reset { count, at, found, gone }) = status.reset else { return String::new() };
    format!(
        "resets: {count}, the last one {:.1} s ago ({}): {found} programs had images, {} went on, {gone} are gone\n",
        status::ms(status.now - at) / 1000.0,
        cause(directory),
        resumed(status)
    )
}

/// The same for programs.
pub fn json(status: &MachineStatus, directory: &Path) -> Value {
    status.reset.map_or(Value::Null, |Reset { count, at, found, gone }| {
        json!({
            "count": count,
            "at": at.0,
            "cause": cause(directory),
            "found": found,
            "resumed": resumed(status),
            "gone": gone,
        })
    })
}

/// How many programs went on after the last reset.
fn resumed(status: &MachineStatus) -> usize {
    let takeovers = status.kernels.iter().flat_map(|kernel| &kernel.published.takeovers);
    takeovers.filter(|takeover| takeover.cause == Cause::Reset).count()
}

/// How a reset that was ordered went.
#[derive(Clone, Debug)]
pub struct Came {
    /// From the order until all that can go on does.
    pub after: Duration,
    /// The state then.
    pub status: MachineStatus,
}

/// Resets a machine and waits until all its kernels are at work and its programs go on.
pub fn order(entry: &Entry, within: Duration) -> Result<Came> {
    let mut control = Control::new(entry.control_port);
    let before = control.status().ok().and_then(|status| status.reset).map_or(0, |reset| reset.count);
    let start = Instant::now();
    Qmp::connect(&entry.qmp, Duration::from_secs(2))?.execute("system_reset", Value::Null)?;
    wait(&mut control, before, start, within)
}

/// Waits until a machine has come up after its reset number `before + 1`.
pub fn wait(control: &mut Control, before: u64, start: Instant, within: Duration) -> Result<Came> {
    loop {
        if let Ok(status) = control.status() {
            match status.reset {
                Some(reset) if reset.count > before && is_up(&status, &reset) => {
                    return Ok(Came { after: start.elapsed(), status });
                }
                // It remembers nothing, and all is new.
                None if status.kernels.iter().all(|kernel| kernel.state == KernelState::Running)
                    && status.now.0 < start.elapsed().as_nanos() as u64 =>
                {
                    return Ok(Came { after: start.elapsed(), status });
                }
                _ => {}
            }
        }
        if start.elapsed() >= within {
            bail!("the machine has not come up after {} s; look at ./shimos logs", within.as_secs());
        }
        sleep(LOOK);
    }
}

fn is_up(status: &MachineStatus, reset: &Reset) -> bool {
    let running = status.kernels.iter().all(|kernel| kernel.state == KernelState::Running);
    running && (resumed(status) as u64 >= reset.found || status.now > reset.at + PATIENCE)
}

impl Came {
    /// For people.
    pub fn text(&self) -> String {
        match self.status.reset {
            Some(reset) => format!(
                "the machine was reset; {} of {} programs with an image go on after {:.0} ms, {} are gone\n",
                resumed(&self.status),
                reset.found,
                self.after.as_secs_f64() * 1000.0,
                reset.gone
            ),
            None => "the machine was reset and has started anew, without the programs of before\n".to_string(),
        }
    }
}

/// The socket of a machine on which the emulator tells of its resets.
pub fn socket(directory: &Path, id: &str, longest: usize) -> PathBuf {
    let path = directory.join("events");
    if path.as_os_str().len() > longest { std::env::temp_dir().join(format!("{id}.events")) } else { path }
}

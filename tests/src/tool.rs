//! The `shimos` tool as a user runs it.
use crate::{clock, makings::Makings};
use anyhow::{Context, Result, bail, ensure};
use shimos::children::Child;
use std::{
    fs,
    io::Read,
    process::{Command, Stdio},
    time::Duration,
};

/// How long a command that is refused may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub errors: String,
}

/// A command of the tool for the machines of these tests.
pub fn command(makings: &Makings, words: &[&str]) -> Command {
    let mut command = Command::new(&makings.tool);
    command.args(words).env("SHIMOS_BUILD_DIR", &makings.paths.build).env("SHIMOS_ROOT", &makings.paths.root);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command to its end.
pub fn run(mut command: Command) -> Result<Said> {
    let mut child = Child::spawn(&mut command)?;
    let mut stdout = child.take_stdout().context("no standard output")?;
    let mut stderr = child.take_stderr().context("no standard error")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let out_reader = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stdout.read_to_string(&mut text);
        text
    });
    let status = clock::until(PATIENCE, "the command's end", || Ok(child.try_wait()?))?;
    let join = |reader: std::thread::JoinHandle<String>| reader.join().unwrap_or_default();
    Ok(Said { code: status.code(), out: join(out_reader), errors: join(reader) })
}

/// Runs a command that must be refused: one line on standard error that holds `telling`, a code that is not zero.
pub fn refused(command: Command, telling: &str) -> Result<()> {
    let shown = format!("{:?}", command.get_args().collect::<Vec<_>>());
    let said = run(command)?;
    let lines: Vec<&str> = said.errors.lines().collect();
    let [line] = lines.as_slice() else { bail!("{shown} said {} lines: {:?}", lines.len(), said.errors) };
    ensure!(matches!(said.code, Some(1..)), "{shown} ended with {:?}", said.code);
    ensure!(line.contains(telling), "{shown} said '{line}', which does not name '{telling}'");
    ensure!(said.out.is_empty(), "{shown} printed {:?}", said.out);
    Ok(())
}

/// Process ids of the emulators whose machines lie in our directory and that are not children of this process.
pub fn strangers(makings: &Makings) -> Result<Vec<u32>> {
    let place = makings.paths.build.display().to_string();
    let mut found = Vec::new();
    for item in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = item.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let read = |name: &str| fs::read(item.path().join(name)).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&read("cmdline")).into_owned();
        let status = String::from_utf8_lossy(&read("status")).into_owned();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<u32>().ok());
        if arguments.contains(&place) && arguments.contains("-qmp") && parent != Some(std::process::id()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Demands that no emulator is left that the tool started.
pub fn nothing_left(makings: &Makings) -> Result<()> {
    clock::until(clock::SOON, "the end of every emulator", || Ok(strangers(makings)?.is_empty().then_some(())))
}

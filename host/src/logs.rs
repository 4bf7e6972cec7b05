//! What programs said, a file for each in its machine's directory: lines of the console, and what `run` showed.
use crate::{
    control::Control,
    paths::Paths,
    programs,
    registry::{self, Entry},
    usage::usage,
};
use anyhow::{Context, Result, anyhow, bail};
use shimos_abi::control::Target;
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

/// Files that are held open for writing.
const OPEN: usize = 64;
/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How often it is asked whether the program still runs, in looks.
const ASK: u32 = 10;

fn directory(machine: &Path) -> PathBuf {
    machine.join("logs")
}

fn file(machine: &Path, name: &str) -> PathBuf {
    directory(machine).join(format!("{name}.log"))
}

/// Opens a program's log to add to it.
pub fn append(machine: &Path, name: &str) -> Option<File> {
    fs::create_dir_all(directory(machine)).ok()?;
    File::options().create(true).append(true).open(file(machine, name)).ok()
}

/// Takes the lines of a console apart, by program.
#[derive(Debug)]
pub struct Splitter {
    machine: PathBuf,
    open: HashMap<String, File>,
}

impl Splitter {
    /// For a machine's directory.
    pub fn new(machine: &Path) -> Splitter {
        Splitter { machine: machine.to_path_buf(), open: HashMap::new() }
    }

    /// A program has said a line.
    pub fn line(&mut self, name: &str, text: &str) {
        if !self.open.contains_key(name) {
            if self.open.len() >= OPEN {
                self.open.clear();
            }
            let Some(file) = append(&self.machine, name) else { return };
            self.open.insert(name.to_string(), file);
        }
        if let Some(file) = self.open.get_mut(name) {
            let _ = file.write_all(format!("{text}\n").as_bytes());
        }
    }
}

/// The machine whose logs are meant: the one that runs, or the one that ran last.
fn machine(paths: &Paths) -> Result<(PathBuf, Option<Entry>)> {
    if let Ok(entry) = registry::current(paths) {
        return Ok((entry.directory.clone(), Some(entry)));
    }
    let all = fs::read_dir(paths.runs()).into_iter().flatten().flatten();
    let aged = all.filter_map(|item| Some((fs::metadata(item.path()).ok()?.modified().ok()?, item.path())));
    match aged.max() {
        Some((_, directory)) => Ok((directory, None)),
        None => bail!("no machine has run yet; start one with: ./shimos boot"),
    }
}

/// Shows what a program said; follows it until its end if that is wanted.
pub fn show(paths: &Paths, name: &str, follow: bool) -> Result<()> {
    crate::units::name(name).map_err(|why| usage(format!("'{name}' {why}")))?;
    let (directory, entry) = machine(paths)?;
    let mut control = entry.as_ref().map(|entry| Control::new(entry.control_port));
    let mut runs = || match &mut control {
        Some(control) => programs::find(control, &Target::Name(name.to_string())).map(drop),
        None => bail!("no machine runs"),
    };
    let mut log = match File::open(file(&directory, name)) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A program that runs may have said nothing yet.
            runs().map_err(|_| anyhow!("there is no log of '{name}'; there are: {}", known(&directory)))?;
            None
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read the log of '{name}'")),
    };
    let mut turns = 0_u32;
    let mut over = false;
    loop {
        if log.is_none() {
            log = File::open(file(&directory, name)).ok();
        }
        let mut bytes = Vec::new();
        if let Some(log) = &mut log {
            log.read_to_end(&mut bytes).context("cannot read the log")?;
        }
        let mut out = io::stdout();
        if out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
            // Nobody reads any more.
            return Ok(());
        }
        if bytes.is_empty() && (over || !follow) {
            return Ok(());
        }
        turns += 1;
        if follow && turns.is_multiple_of(ASK) {
            over = over || runs().is_err();
        }
        if bytes.is_empty() {
            sleep(LOOK);
        }
    }
}

/// Names of the logs that there are.
fn known(machine: &Path) -> String {
    let mut names: Vec<String> = fs::read_dir(directory(machine))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|item| Some(item.path().file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    if names.is_empty() { "none".to_string() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_a_log_of_its_own() {
        let machine = std::env::temp_dir().join(format!("shimos-logs-{}", std::process::id()));
        let mut splitter = Splitter::new(&machine);
        for number in 0..200 {
            splitter.line(&format!("p{}", number % 100), &number.to_string());
        }
        splitter.line("p7", "last");
        assert_eq!(fs::read_to_string(file(&machine, "p7")).expect("there"), "7\n107\nlast\n");
        assert_eq!(known(&machine).split(", ").count(), 100);
        let _ = fs::remove_dir_all(machine);
    }
}

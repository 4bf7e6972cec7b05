//! Which machines run: one directory each under `build/run`, so that a second `shimos` finds them.
use crate::{disk, faults::KERNEL_FILE, paths::Paths};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

/// Directories of ended machines that are kept for their logs.
const KEEP: usize = 8;
/// Longest that a machine may take from its directory's making until it is written down.
const STARTING: Duration = Duration::from_secs(600);
const FILE: &str = "machine.json";

/// A machine that runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its name, unique on this host; the emulator's arguments hold it.
    pub id: String,
    /// The emulator's process id.
    pub pid: u32,
    /// Port of the control daemon.
    pub control_port: u16,
    /// The emulator's control socket.
    pub qmp: PathBuf,
    /// Where its log lies.
    pub directory: PathBuf,
}

/// Makes a directory for a new machine; returns the machine's name and the directory.
pub fn create(paths: &Paths) -> Result<(String, PathBuf)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let id = format!("shimos-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let directory = paths.runs().join(&id);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).with_context(|| format!("cannot make the directory {}", directory.display()))?;
    tidy(paths);
    Ok((id, directory))
}

/// Writes a machine down.
pub fn register(entry: &Entry) -> Result<()> {
    let text = json!({
        "id": entry.id,
        "pid": entry.pid,
        "control_port": entry.control_port,
        "qmp": entry.qmp,
    });
    let path = entry.directory.join(FILE);
    fs::write(&path, format!("{text}\n")).with_context(|| format!("cannot write {}", path.display()))
}

/// Strikes a machine out; its log stays.
pub fn strike(directory: &Path) {
    let _ = fs::remove_file(directory.join(FILE));
    let _ = fs::remove_file(directory.join(KERNEL_FILE));
    disk::remove(directory);
}

/// The variable that names the machine to use, where more than one runs.
pub const MACHINE: &str = "SHIMOS_MACHINE";

/// The machine that [`MACHINE`] names, or else the one that was started last and still runs.
pub fn current(paths: &Paths) -> Result<Entry> {
    if let Some(id) = std::env::var(MACHINE).ok().filter(|id| !id.is_empty()) {
        let named = live(paths).into_iter().map(|(_, entry)| entry).find(|entry| entry.id == id);
        return named.with_context(|| format!("no machine {id} runs ({MACHINE} names it)"));
    }
    match live(paths).pop() {
        Some((_, entry)) => Ok(entry),
        None => bail!("no machine runs; start one with: ./shimos boot"),
    }
}

/// All machines that run.
pub fn all(paths: &Paths) -> Vec<Entry> {
    live(paths).into_iter().map(|(_, entry)| entry).collect()
}

/// All machines that run, the latest last. Entries whose emulator is gone are struck out.
fn live(paths: &Paths) -> Vec<(SystemTime, Entry)> {
    let mut entries: Vec<(SystemTime, Entry)> = fs::read_dir(paths.runs())
        .into_iter()
        .flatten()
        .filter_map(|item| {
            let directory = item.ok()?.path();
            let file = directory.join(FILE);
            let written = fs::metadata(&file).ok()?.modified().ok()?;
            let entry = fs::read_to_string(&file).ok().and_then(|text| read(&text, &directory));
            match entry.filter(alive) {
                Some(entry) => Some((written, entry)),
                None => {
                    strike(&directory);
                    None
                }
            }
        })
        .collect();
    entries.sort_by_key(|(written, _)| *written);
    entries
}

fn read(text: &str, directory: &Path) -> Option<Entry> {
    let value: Value = serde_json::from_str(text).ok()?;
    Some(Entry {
        id: value.get("id")?.as_str()?.to_string(),
        pid: value.get("pid")?.as_u64()?.try_into().ok()?,
        control_port: value.get("control_port")?.as_u64()?.try_into().ok()?,
        qmp: value.get("qmp")?.as_str()?.into(),
        directory: directory.to_path_buf(),
    })
}

/// Whether the process still is that machine's emulator and not another one that got its number.
pub fn alive(entry: &Entry) -> bool {
    fs::read(format!("/proc/{}/cmdline", entry.pid))
        .is_ok_and(|arguments| arguments.split(|byte| *byte == 0).any(|argument| argument == entry.id.as_bytes()))
}

/// Removes the directories of machines that ended long ago.
fn tidy(paths: &Paths) {
    let mut ended: Vec<(SystemTime, PathBuf)> = fs::read_dir(paths.runs())
        .into_iter()
        .flatten()
        .filter_map(|item| {
            let directory = item.ok()?.path();
            let modified = fs::metadata(&directory).ok()?.modified().ok()?;
            (!directory.join(FILE).exists()).then_some((modified, directory))
        })
        .collect();
    ended.sort();
    for (modified, directory) in &ended {
        // A start that was killed has left its disk.
        if modified.elapsed().is_ok_and(|age| age > STARTING) {
            disk::remove(directory);
        }
    }
    // The newest may belong to machines that are just being started.
    let surplus = ended.len().saturating_sub(KEEP);
    for (_, directory) in ended.into_iter().take(surplus) {
        let _ = fs::remove_dir_all(directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_without_their_emulator_are_struck_out() {
        let build = std::env::temp_dir().join(format!("shimos-registry-{}", std::process::id()));
        let paths = Paths { root: build.clone(), target: build.clone(), build: build.clone() };
        let (id, directory) = create(&paths).expect("directory");
        // This process runs, but it is no emulator of that name.
        let entry = Entry { id, pid: std::process::id(), control_port: 1, qmp: "q".into(), directory };
        register(&entry).expect("writes");
        assert_eq!(
            read(&fs::read_to_string(entry.directory.join(FILE)).expect("reads"), &entry.directory),
            Some(entry.clone())
        );
        let error = current(&paths).expect_err("none runs");
        assert!(error.to_string().contains("./shimos boot"), "{error}");
        assert!(!entry.directory.join(FILE).exists());
        let _ = fs::remove_dir_all(build);
    }
}

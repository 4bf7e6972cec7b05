//! Watches the frames of a machine's network card from outside, while they pass.
//!
//! The emulator writes every frame into a pipe; a thread here reads them, shows them to a [`checker::Checker`] and
//! keeps the last ones, so that there is something to look at when anything was wrong.
pub mod checker;
pub mod pcap;
pub mod segment;

use anyhow::{Context, Result};
use checker::{Checker, Seen};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

/// Bytes of frames that are kept.
const KEPT: usize = 32 << 20;

/// A pipe that the emulator is to write frames into; see [`crate::machine::Options::capture`].
#[derive(Debug)]
pub struct Tap {
    path: PathBuf,
    shared: Arc<Mutex<Shared>>,
    held: File,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    checker: Option<Checker>,
    head: Vec<u8>,
    kept: VecDeque<pcap::Frame>,
    bytes: usize,
    error: Option<String>,
}

impl Tap {
    /// Makes the pipe and waits for frames in a thread of its own.
    pub fn new(path: &Path) -> Result<Tap> {
        let _ = fs::remove_file(path);
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .with_context(|| format!("cannot make the pipe {}", path.display()))?;
        // Held here, it does not end before it is let go, and nobody waits for the other side to open it.
        let held = OpenOptions::new().read(true).write(true).open(path)?;
        let from = File::open(path)?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let ours = shared.clone();
        let thread = thread::spawn(move || {
            let mut from = BufReader::with_capacity(1 << 20, from);
            if let Err(error) = read(&mut from, &ours) {
                lock(&ours).error = Some(format!("the frames cannot be read: {error:#}"));
                // The emulator must not wait.
                let _ = io::copy(&mut from, &mut io::sink());
            }
        });
        Ok(Tap { path: path.to_owned(), shared, held, thread })
    }

    /// The pipe.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on the connections that a program begins or gets are checked.
    pub fn watch(&self, address: [u8; 4]) {
        lock(&self.shared).checker = Some(Checker::new(address));
    }

    /// Whether something was wrong so far.
    pub fn failed(&self) -> bool {
        let shared = lock(&self.shared);
        shared.error.is_some() || shared.checker.as_ref().is_some_and(|checker| checker.seen().violations > 0)
    }

    /// What was seen. To be called when the machine has ended; `keep` says where the last frames are put.
    pub fn finish(self, keep: Option<&Path>) -> Result<Seen> {
        // The emulator is gone: nobody else holds the pipe open.
        drop(self.held);
        let _ = fs::remove_file(&self.path);
        let _ = self.thread.join();
        let mut shared = lock(&self.shared);
        if let Some(path) = keep {
            save(&shared, path).with_context(|| format!("cannot write {}", path.display()))?;
        }
        if let Some(error) = shared.error.take() {
            anyhow::bail!(error);
        }
        Ok(shared.checker.as_ref().map(|checker| checker.seen().clone()).unwrap_or_default())
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(from: &mut impl Read, shared: &Mutex<Shared>) -> Result<()> {
    match pcap::head(from) {
        // No emulator.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        head => lock(shared).head = head?.to_vec(),
    }
    while let Some(frame) = pcap::next(from)? {
        let mut shared = lock(shared);
        if let Some(checker) = &mut shared.checker {
            checker.frame(frame.at, &frame.bytes);
        }
        shared.bytes += frame.bytes.len();
        shared.kept.push_back(frame);
        while shared.bytes > KEPT
            && let Some(old) = shared.kept.pop_front()
        {
            shared.bytes -= old.bytes.len();
        }
    }
    Ok(())
}

fn save(shared: &Shared, path: &Path) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&shared.head)?;
    for frame in &shared.kept {
        file.write_all(&frame.head)?;
        file.write_all(&frame.bytes)?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_go_through_a_pipe_and_are_kept() {
        let path = std::env::temp_dir().join(format!("shimos-tap-{}", std::process::id()));
        let tap = Tap::new(&path).expect("a pipe");
        tap.watch([10, 77, 1, 2]);
        let mut bytes = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
        bytes.resize(pcap::HEAD, 0);
        for word in [0_u32, 5, 60, 60] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.resize(bytes.len() + 60, 0);
        OpenOptions::new().write(true).open(&path).expect("opens").write_all(&bytes).expect("writes");
        let kept = path.with_extension("pcap");
        let seen = tap.finish(Some(&kept)).expect("read");
        assert_eq!((seen.segments, fs::read(&kept).expect("kept")), (0, bytes));
        let _ = fs::remove_file(kept);
        // An emulator that never comes is no reason to wait.
        let tap = Tap::new(&path).expect("a pipe");
        assert_eq!(tap.finish(None).expect("nothing").segments, 0);
    }
}

//! `kernel dump`: the memory of one kernel as a core file that a debugger opens, with the kernel's own addresses.
//!
//! All is read from outside, through the emulator, while the machine stands still: no kernel has to work for it, and
//! nothing inside notices.
mod core_file;
mod memory;
mod registers;

use crate::{faults::KERNEL_FILE, qmp::Qmp, registry::Entry};
use anyhow::{Context, Result, bail};
use memory::{Physical, Shared};
use registers::{Registers, Whence};
use serde_json::Value;
use shimos_abi::ids::KernelId;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Whether a dump has the pool too: the pages of programs, page tables, images.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pool {
    /// It has not.
    Without,
    /// It has, at the addresses of the direct map.
    With,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Dumped {
    what: String,
    bytes: u64,
    whence: Whence,
    kernel: PathBuf,
    file: PathBuf,
}

impl Dumped {
    /// For people.
    pub fn text(&self) -> String {
        format!(
            "{}: {:.1} MiB; its registers are {}\nlook with: gdb {} {}\n",
            self.what,
            self.bytes as f64 / f64::from(1 << 20),
            self.whence.words(),
            self.kernel.display(),
            self.file.display()
        )
    }
}

/// A machine that stands still as long as this is there.
struct Still<'a>(&'a mut Qmp);

impl<'a> Still<'a> {
    fn new(qmp: &'a mut Qmp) -> Result<Still<'a>> {
        qmp.execute("stop", Value::Null)?;
        Ok(Still(qmp))
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        // If the emulator does not answer any more there is nothing to go on.
        let _ = self.0.execute("cont", Value::Null);
    }
}

/// Writes a kernel's memory to a file.
pub fn kernel(entry: &Entry, kernel: KernelId, file: &Path, pool: Pool) -> Result<Dumped> {
    let binary = entry.directory.join(KERNEL_FILE);
    let mut qmp = Qmp::connect(&entry.qmp, Duration::from_secs(5))?;
    let still = Still::new(&mut qmp)?;
    let mut memory = Physical::new(&mut *still.0, &entry.directory)?;
    let shared = Shared::find(&mut memory)?;
    if kernel.index() >= shared.kernels() {
        bail!("there is no kernel {kernel}; the machine has {}", shared.kernels());
    }
    let segments = memory.map(shared.tables(kernel), pool).with_context(|| format!("{kernel} has not booted"))?;
    if segments.is_empty() {
        bail!("{kernel} has no page tables yet: it has not booted");
    }
    let (registers, whence) = Registers::of(&mut memory, &shared, kernel, &segments, &binary)?;
    let bytes = core_file::write(file, &registers, &segments, &mut memory)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(Dumped { what: shared.life(kernel), bytes, whence, kernel: binary, file: file.to_path_buf() })
}

//! The memory of a machine that stands still: physical, as a kernel's page tables show it, and the shared area.
use super::Pool;
use crate::qmp::Qmp;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use shimos_abi::{
    ids::KernelId,
    shared::{Layout, MASTER_MAGIC, commons, master},
};
use shimos_ikc::{Area, DeathRecord};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicU64,
};

/// Memory is read in pieces of this size, which is also what the shared area is aligned to.
const PIECE: u64 = 2 << 20;
/// Pieces that are kept.
const KEPT: usize = 64;
const PAGE: u64 = 4096;
/// Bits of entries in page tables (SDM 3, 4.5).
const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const UNCACHED: u64 = 1 << 4;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The kernel half of a top table, and the part of it that is the direct map (see `crates/machine/src/layout.rs`).
const KERNEL_HALF: std::ops::Range<u64> = 256..512;
const DIRECT_MAP: u64 = 0x110;

/// Physical memory.
pub struct Physical<'a> {
    qmp: &'a mut Qmp,
    scratch: PathBuf,
    pieces: BTreeMap<u64, Vec<u8>>,
    /// Its bytes, without those above a hole.
    size: u64,
}

/// A run of virtual addresses with what is behind them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// First address.
    pub start: u64,
    /// Whether stores, and whether instructions are allowed.
    pub write: bool,
    /// Whether instructions are allowed.
    pub execute: bool,
    /// Physical addresses and lengths, in order.
    pub runs: Vec<(u64, u64)>,
}

impl Segment {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|(_, len)| len).sum()
    }
}

impl<'a> Physical<'a> {
    /// The memory of a machine; `directory` is the machine's.
    pub fn new(qmp: &'a mut Qmp, directory: &Path) -> Result<Physical<'a>> {
        let sizes = qmp.execute("query-memory-size-summary", Value::Null)?;
        let size = sizes.get("base-memory").and_then(Value::as_u64).context("the emulator names no memory size")?;
        let scratch = directory.join(format!("dump-{}", std::process::id()));
        Ok(Physical { qmp, scratch, pieces: BTreeMap::new(), size })
    }

    /// The emulator.
    pub fn qmp(&mut self) -> &mut Qmp {
        self.qmp
    }

    fn fetch(&mut self, from: u64, len: u64) -> Result<Vec<u8>> {
        let filename = self.scratch.to_string_lossy().into_owned();
        let arguments = json!({ "val": from, "size": len, "filename": filename });
        self.qmp.execute("pmemsave", arguments).context("the emulator does not give its memory")?;
        let bytes = fs::read(&self.scratch).context("cannot read what the emulator has written")?;
        if bytes.len() as u64 != len {
            bail!("the emulator gave {} bytes of memory in place of {len}", bytes.len());
        }
        Ok(bytes)
    }

    /// Appends some of it, which does not cross a piece's end, to `into`.
    pub fn read(&mut self, from: u64, len: u64, into: &mut Vec<u8>) -> Result<()> {
        let mut at = from;
        let end = from.checked_add(len).context("an address beyond all memory")?;
        while at < end {
            let piece = at & !(PIECE - 1);
            if !self.pieces.contains_key(&piece) {
                let bytes = self.fetch(piece, PIECE)?;
                if self.pieces.len() >= KEPT {
                    self.pieces.pop_first();
                }
                self.pieces.insert(piece, bytes);
            }
            let upto = end.min(piece + PIECE);
            let bytes = self.pieces.get(&piece).and_then(|all| all.get((at - piece) as usize..(upto - piece) as usize));
            into.extend_from_slice(bytes.unwrap_or_default());
            at = upto;
        }
        Ok(())
    }

    fn table(&mut self, at: u64) -> Result<Vec<u64>> {
        let mut bytes = Vec::with_capacity(PAGE as usize);
        self.read(at & ADDRESS, PAGE, &mut bytes)?;
        Ok(words(&bytes))
    }

    /// What page tables map in the kernel half, but for device registers.
    pub fn map(&mut self, tables: u64, pool: Pool) -> Result<Vec<Segment>> {
        let mut found = Vec::new();
        let top = self.table(tables)?;
        for (index, entry) in (0_u64..).zip(top) {
            if KERNEL_HALF.contains(&index) && entry & PRESENT != 0 && (index != DIRECT_MAP || pool == Pool::With) {
                let virt = 0xffff_0000_0000_0000 | index << 39;
                self.walk(entry, 2, virt, (entry & WRITE != 0, entry & NO_EXECUTE == 0), &mut found)?;
            }
        }
        Ok(found)
    }

    /// Adds what the table behind `above` maps; `level` is 2 for those of 1 GiB an entry.
    fn walk(
        &mut self,
        above: u64,
        level: u32,
        virt: u64,
        (write, execute): (bool, bool),
        found: &mut Vec<Segment>,
    ) -> Result<()> {
        for (index, entry) in (0_u64..).zip(self.table(above)?) {
            let size = PAGE << (9 * level);
            let virt = virt + index * size;
            if entry & PRESENT == 0 {
                continue;
            }
            let rights = (write && entry & WRITE != 0, execute && entry & NO_EXECUTE == 0);
            if level > 0 && entry & LARGE == 0 {
                self.walk(entry, level - 1, virt, rights, found)?;
                continue;
            }
            // Reading registers of devices may change something, and they are no memory.
            if entry & UNCACHED != 0 {
                continue;
            }
            let (phys, (write, execute)) = (entry & ADDRESS & !(size - 1), rights);
            match found.last_mut() {
                Some(last) if last.start + last.len() == virt && (last.write, last.execute) == (write, execute) => {
                    match last.runs.last_mut() {
                        Some((from, len)) if *from + *len == phys => *len += size,
                        _ => last.runs.push((phys, size)),
                    }
                }
                _ => found.push(Segment { start: virt, write, execute, runs: vec![(phys, size)] }),
            }
        }
        Ok(())
    }
}

impl Drop for Physical<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.scratch);
    }
}

/// A word at a virtual address.
pub fn word_at(memory: &mut Physical<'_>, segments: &[Segment], virt: u64) -> Result<Option<u64>> {
    for segment in segments {
        let mut start = segment.start;
        for (phys, len) in &segment.runs {
            if (start..start + len).contains(&virt) && virt - start <= len - 8 {
                let mut bytes = Vec::new();
                memory.read(phys + (virt - start), 8, &mut bytes)?;
                return Ok(words(&bytes).first().copied());
            }
            start += len;
        }
    }
    Ok(None)
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

/// The shared area of a machine that stands still.
pub struct Shared(Area, &'static [AtomicU64]);

impl Shared {
    /// Looks for it: it begins with a known word at a multiple of 2 MiB.
    pub fn find(memory: &mut Physical<'_>) -> Result<Shared> {
        let mut at = PIECE;
        while at < memory.size {
            let front = words(&memory.fetch(at, 4 * 8)?);
            if front.first() == Some(&MASTER_MAGIC)
                && let Some(kernels @ 1..=64) = front.get(master::KERNELS).copied()
            {
                let layout = Layout::new(kernels as usize);
                let mut bytes = Vec::new();
                memory.read(at, layout.words() as u64 * 8, &mut bytes)?;
                // This command ends soon.
                let all: &'static [AtomicU64] =
                    words(&bytes).into_iter().map(AtomicU64::new).collect::<Vec<_>>().leak();
                return Ok(Shared(Area::new(all, layout), all));
            }
            at += PIECE;
        }
        bail!("the machine has not laid its memory out yet: no kernel has booted")
    }

    fn word(&self, at: usize) -> u64 {
        self.1.get(at).map_or(0, |word| word.load(std::sync::atomic::Ordering::Relaxed))
    }
    fn entry(&self, kernel: KernelId, word: usize) -> u64 {
        self.word(master::ENTRIES + kernel.index() * master::ENTRY_WORDS + word)
    }
    /// How many kernels there are.
    pub fn kernels(&self) -> usize {
        self.0.layout().kernels()
    }
    /// Physical address of a kernel's page tables.
    pub fn tables(&self, kernel: KernelId) -> u64 {
        self.entry(kernel, master::ENTRY_TABLES)
    }
    /// APIC id of its core.
    pub fn apic(&self, kernel: KernelId) -> u64 {
        self.entry(kernel, master::ENTRY_APIC)
    }
    /// Whether its core is parked, and no later life has begun.
    pub fn is_parked(&self, kernel: KernelId) -> bool {
        self.0.parked(kernel).is_some()
    }
    /// The death record of the life whose memory it is.
    pub fn death(&self, kernel: KernelId) -> Option<DeathRecord> {
        let running = self.word(self.0.layout().mailbox(kernel) + commons::MAILBOX_RUNNING);
        self.0.death(kernel).filter(|record| u64::from(record.incarnation.0) + 1 == running)
    }
    /// Whose memory it is, in words.
    pub fn life(&self, kernel: KernelId) -> String {
        let running = self.word(self.0.layout().mailbox(kernel) + commons::MAILBOX_RUNNING);
        let how = match (self.is_parked(kernel), self.death(kernel)) {
            (true, Some(record)) => {
                format!("dead: {}", record.message.lines().next().unwrap_or_default())
            }
            (true, None) => "parked".to_string(),
            (false, Some(record)) => format!("dying: {}", record.message.lines().next().unwrap_or_default()),
            (false, None) => "alive".to_string(),
        };
        format!("{kernel}.{} ({how})", running.saturating_sub(1))
    }
}

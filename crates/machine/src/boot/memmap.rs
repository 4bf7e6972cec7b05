//! Physical memory as the loader describes it, and the taking of parts of it.
use super::pvh::{MAGIC, MemmapEntry, Module, StartInfo};

/// Most ranges of free memory that are looked at.
const MAX_RANGES: usize = 64;

/// What the loader said, copied out of its memory before anything is written.
pub struct Facts {
    /// Free memory: start and end, sorted.
    ranges: [(u64, u64); MAX_RANGES],
    count: usize,
    /// Physical address of the ACPI root, or 0.
    pub rsdp: u64,
    /// The command line.
    pub cmdline: [u8; 2048],
    /// Bytes of it.
    pub cmdline_len: usize,
}

impl Facts {
    /// Copies what is at `start` (a physical address below 4 GiB).
    ///
    /// # Safety
    /// The first 4 GiB are mapped one to one, and `start` is what the loader gave.
    pub unsafe fn read(start: u64) -> Option<Facts> {
        let mut facts = Facts { ranges: [(0, 0); MAX_RANGES], count: 0, rsdp: 0, cmdline: [0; 2048], cmdline_len: 0 };
        // SAFETY: the caller's: the structures are where the loader says, and readable one to one.
        unsafe {
            let info = &*(start as *const StartInfo);
            if info.magic != MAGIC || info.version < 1 {
                return None;
            }
            facts.rsdp = info.rsdp;
            let entries = core::slice::from_raw_parts(info.memmap as *const MemmapEntry, info.memmap_entries as usize);
            for entry in entries.iter().filter(|entry| entry.kind == 1) {
                facts.add(entry.start, entry.start.saturating_add(entry.len));
            }
            if info.modules > 0 {
                let modules = core::slice::from_raw_parts(info.module_list as *const Module, info.modules as usize);
                for module in modules {
                    facts.remove(module.start, module.start.saturating_add(module.len));
                }
            }
            if info.cmdline != 0 {
                let mut at = info.cmdline as *const u8;
                while facts.cmdline_len < facts.cmdline.len() && at.read() != 0 {
                    facts.cmdline[facts.cmdline_len] = at.read();
                    facts.cmdline_len += 1;
                    at = at.add(1);
                }
            }
        }
        facts.ranges[..facts.count].sort_unstable();
        Some(facts)
    }

    fn add(&mut self, start: u64, end: u64) {
        let start = start.next_multiple_of(4096);
        let end = end & !4095;
        if start < end && self.count < MAX_RANGES {
            self.ranges[self.count] = (start, end);
            self.count += 1;
        }
    }
    /// Takes a range out of the free memory.
    pub fn remove(&mut self, start: u64, end: u64) {
        for n in 0..self.count {
            let (from, to) = self.ranges[n];
            if end <= from || start >= to {
                continue;
            }
            self.ranges[n] = (from, from);
            self.add(from, start.max(from) & !4095);
            self.add(end.min(to).max(from), to);
        }
        // Empty ranges sort behind all others and are dropped.
        self.ranges[..self.count]
            .sort_unstable_by_key(|&(from, to)| if from == to { (u64::MAX, 0) } else { (from, to) });
        self.count = self.ranges[..self.count].iter().filter(|(from, to)| from != to).count();
    }
    /// Makes a range free again that was taken.
    pub fn give_back(&mut self, start: u64, end: u64) {
        self.add(start, end);
        self.ranges[..self.count].sort_unstable();
    }
    /// Free memory, sorted.
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges[..self.count]
    }
    /// End of physical memory.
    pub fn end(&self) -> u64 {
        self.ranges().iter().map(|range| range.1).max().unwrap_or(0)
    }
    /// Takes `bytes` from the first free range at or above `above`, aligned.
    pub fn take(&mut self, bytes: u64, align: u64, above: u64) -> Option<u64> {
        let start = find(self.ranges(), bytes, align, above)?;
        self.remove(start, start + bytes);
        Some(start)
    }
    /// The command line.
    pub fn cmdline(&self) -> &str {
        core::str::from_utf8(&self.cmdline[..self.cmdline_len]).unwrap_or("")
    }
}

fn find(ranges: &[(u64, u64)], bytes: u64, align: u64, above: u64) -> Option<u64> {
    ranges.iter().find_map(|&(from, to)| {
        let start = from.max(above).next_multiple_of(align);
        (start < to && to - start >= bytes).then_some(start)
    })
}

/// How many regions of `bytes`, aligned, fit above `above`.
pub fn fit(ranges: &[(u64, u64)], bytes: u64, align: u64, above: u64) -> u64 {
    ranges.iter().map(|&(from, to)| to.saturating_sub(from.max(above).next_multiple_of(align)) / bytes).sum()
}

/// A number from the command line, as in `kernels=4`.
pub fn option(cmdline: &str, name: &str) -> Option<u64> {
    cmdline.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// Whether the command line has this word, as in `start=cold`.
pub fn option_is(cmdline: &str, name: &str, value: &str) -> bool {
    cmdline.split_ascii_whitespace().filter_map(|word| word.strip_prefix(name)?.strip_prefix('=')).any(|it| it == value)
}

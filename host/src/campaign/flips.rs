//! Bit flips from outside: where each part of a kernel lies, and the one bit of it that a seed names.
use super::{class::Part, gdb::Gdb};
use anyhow::{Context, Result, bail, ensure};
use shimos_abi::{
    ids::KernelId,
    shared::{Layout, commons, master, outgoing},
};
use shimos_random::Random;
use std::{fs, ops::Range, path::Path, thread::sleep, time::Duration};

/// Where every kernel has its own memory: `layout.rs` of the machine crate has these numbers' home.
const FIXED: u64 = 0xffff_c000_0000_0000;
const HEAP: u64 = FIXED;
const SHARED: u64 = FIXED + (64 << 30);
/// Top of the event loop's stack, and its bytes.
const STACK_TOP: u64 = FIXED + (128 << 30) + 0x100_0000 + 0x10_0000;
const STACK_BYTES: u64 = 512 << 10;
/// What is looked at of the stack when nobody knows how deep it is.
const STACK_SHALLOW: u64 = 4096;
/// The kernel half of the address space.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;
/// Numbers of registers: general ones from 0 on, then these.
const RSP: u32 = 7;
const RIP: u32 = 16;
const FLAGS: u32 = 17;
const CR3: u32 = 29;
/// How often a core is looked at until it executes its kernel.
const TRIES: u32 = 400;
/// Frames and words.
const FRAME: u64 = 4096;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where the parts of the kernel's file lie.
#[derive(Clone, Debug)]
pub struct Sections {
    text: Range<u64>,
    data: Range<u64>,
}

impl Sections {
    /// Of a kernel's file (ELF, 64 bits).
    pub fn of(kernel: &Path) -> Result<Sections> {
        let file = fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
        let number = |at: u64, len: usize| -> Option<u64> {
            let bytes = file.get(usize::try_from(at).ok()?..)?.get(..len)?;
            Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
        };
        let find = |wanted: &str| -> Option<Range<u64>> {
            let (table, size, count) = (number(40, 8)?, number(58, 2)?, number(60, 2)?);
            let names = number(table + number(62, 2)? * size + 24, 8)?;
            (0..count).map(|n| table + n * size).find_map(|header| {
                let at = usize::try_from(names + number(header, 4)?).ok()?;
                let name = file.get(at..)?.split(|byte| *byte == 0).next()?;
                let start = number(header + 16, 8)?;
                (name == wanted.as_bytes()).then_some(start..start + number(header + 32, 8)?)
            })
        };
        let missing = || format!("{} has no sections", kernel.display());
        let (text, data, bss) = (find(".text"), find(".data"), find(".bss"));
        let (data, bss) = (data.with_context(missing)?, bss.with_context(missing)?);
        Ok(Sections { text: text.with_context(missing)?, data: data.start..bss.end })
    }
}

/// A flip that was done.
#[derive(Clone, Debug)]
pub struct Flip {
    /// Where, for people.
    pub place: String,
    /// How it is taken back: physical or not, the address, and the byte before and after.
    undo: Option<(bool, u64, u8, u8)>,
    core: u16,
}

/// Flips bits of one machine.
pub struct Flipper {
    gdb: Gdb,
    sections: Sections,
    kernels: usize,
}

impl Flipper {
    /// For the machine behind a debugger port; it runs on.
    pub fn new(port: &Path, kernel: &Path, kernels: u16) -> Result<Flipper> {
        let sections = Sections::of(kernel)?;
        let mut gdb = Gdb::connect(port)?;
        gdb.go_on()?;
        Ok(Flipper { gdb, sections, kernels: kernels.into() })
    }

    /// Flips a bit of a part of a kernel.
    pub fn flip(&mut self, part: Part, kernel: KernelId, seed: u64) -> Result<Flip> {
        let mut random = Random::new(seed);
        let in_kernel = matches!(part, Part::Registers | Part::Image | Part::Page);
        self.halt(kernel, in_kernel, &mut random)?;
        let done = self.flip_stopped(part, kernel, &mut random);
        self.gdb.physical(false)?;
        self.gdb.go_on()?;
        done
    }

    /// Takes a flip back if nobody has written there since.
    pub fn take_back(&mut self, flip: &Flip) -> Result<()> {
        let Some((physical, address, before, after)) = flip.undo else { return Ok(()) };
        self.gdb.stop()?;
        let result = (|| {
            self.gdb.core(flip.core)?;
            self.gdb.physical(physical)?;
            if self.gdb.read(address, 1)? == [after] {
                self.gdb.write(address, &[before])?;
            }
            Ok(())
        })();
        self.gdb.physical(false)?;
        self.gdb.go_on()?;
        result
    }

    /// Stops the machine; if that is wanted, when the core executes its kernel.
    fn halt(&mut self, kernel: KernelId, in_kernel: bool, random: &mut Random) -> Result<()> {
        for _ in 0..TRIES {
            self.gdb.stop()?;
            self.gdb.core(kernel.0)?;
            if !in_kernel || self.gdb.register(RIP)? >= KERNEL_HALF {
                return Ok(());
            }
            self.gdb.go_on()?;
            sleep(Duration::from_micros(random.below(3000)));
        }
        bail!("{kernel} was never seen to execute its kernel")
    }

    fn flip_stopped(&mut self, part: Part, kernel: KernelId, random: &mut Random) -> Result<Flip> {
        let own = Layout::new(self.kernels).outgoing(kernel) as u64;
        match part {
            Part::Registers => self.register(kernel, random),
            Part::Text => self.virtual_bit(kernel, part, self.sections.text.clone(), random),
            Part::Data => self.virtual_bit(kernel, part, self.sections.data.clone(), random),
            Part::Heap => {
                let used = self.heap_used(kernel)?;
                self.virtual_bit(kernel, part, HEAP..HEAP + used, random)
            }
            Part::Stack => {
                let (rip, rsp) = (self.gdb.register(RIP)?, self.gdb.register(RSP)?);
                let deep = rip >= KERNEL_HALF && (STACK_TOP - STACK_BYTES..STACK_TOP).contains(&rsp);
                let from = if deep { rsp } else { STACK_TOP - STACK_SHALLOW };
                self.virtual_bit(kernel, part, from..STACK_TOP, random)
            }
            Part::Shared => {
                // What all share, or what this kernel tells: about as much is looked at of both.
                let words = if random.once_in(2) {
                    commons::START as u64..(commons::START + commons::WORDS) as u64
                } else {
                    own..own + outgoing::packets(self.kernels) as u64
                };
                self.virtual_bit(kernel, part, SHARED + words.start * 8..SHARED + words.end * 8, random)
            }
            Part::Tables => self.table_bit(kernel, random),
            Part::Image | Part::Page => self.image_bit(kernel, part, random),
        }
    }

    /// How much of the heap was ever used: its zero end does not count.
    fn heap_used(&mut self, kernel: KernelId) -> Result<u64> {
        let _ = kernel;
        let mut used = 64 << 10;
        while used < 8 << 20 && self.gdb.read(HEAP + used, 512)?.iter().any(|byte| *byte != 0) {
            used *= 2;
        }
        Ok(used)
    }

    fn register(&mut self, kernel: KernelId, random: &mut Random) -> Result<Flip> {
        let number = random.below(u64::from(FLAGS) + 1) as u32;
        let width = if number == FLAGS { 4 } else { 8 };
        // Of the flags, those that exist.
        let bit = random.below(if number == FLAGS { 22 } else { 64 });
        let before = self.gdb.register(number)?;
        let rip = self.gdb.register(RIP)?;
        self.gdb.set_register(number, before ^ 1 << bit, width)?;
        let name = match number {
            RIP => "rip".to_string(),
            FLAGS => "rflags".to_string(),
            n => ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"]
                .get(n as usize)
                .map_or_else(|| format!("r{n}"), |name| name.to_string()),
        };
        Ok(Flip { place: format!("bit {bit} of {name} at {rip:#x} in {kernel}"), undo: None, core: kernel.0 })
    }

    fn virtual_bit(&mut self, kernel: KernelId, part: Part, range: Range<u64>, random: &mut Random) -> Result<Flip> {
        let address = range.start + random.below(range.end - range.start);
        self.bit(kernel, false, address, &format!("{part:?}"), random)
    }

    fn bit(&mut self, kernel: KernelId, physical: bool, at: u64, what: &str, random: &mut Random) -> Result<Flip> {
        let bit = random.below(8);
        let before = self.gdb.read(at, 1)?.first().copied().unwrap_or_default();
        let after = before ^ 1 << bit;
        self.gdb.write(at, &[after])?;
        let place = format!("bit {bit} of {at:#x} ({what}) in {kernel}").to_lowercase();
        Ok(Flip { place, undo: Some((physical, at, before, after)), core: kernel.0 })
    }

    /// A bit of an entry that is in use, at any level.
    fn table_bit(&mut self, kernel: KernelId, random: &mut Random) -> Result<Flip> {
        let mut table = self.gdb.register(CR3)? & ADDRESS;
        self.gdb.physical(true)?;
        let target = random.below(4);
        for level in 0..4 {
            let mut entries = Vec::new();
            for part in 0..4 {
                for (n, word) in words(&self.gdb.read(table + part * 1024, 1024)?).enumerate() {
                    if word & 1 != 0 {
                        entries.push((table + part * 1024 + n as u64 * 8, word));
                    }
                }
            }
            ensure!(!entries.is_empty(), "an empty page table");
            let (at, word) = random.one(&entries);
            let large = level > 0 && word & 0x80 != 0;
            if level == target || large || level == 3 {
                let byte = random.below(8);
                return self.bit(kernel, true, at + byte, &format!("page table, level {}", 4 - level), random);
            }
            table = word & ADDRESS;
        }
        bail!("no page table")
    }

    /// A bit of what the newest checkpoint consists of; the kernel dies of a wrong instruction pointer right after.
    fn image_bit(&mut self, kernel: KernelId, part: Part, random: &mut Random) -> Result<Flip> {
        let entry = SHARED + (master::ENTRIES + kernel.index() * master::ENTRY_WORDS) as u64 * 8;
        let first = self.gdb.word(entry + master::ENTRY_POOL as u64 * 8)?;
        let count = self.gdb.word(entry + master::ENTRY_POOL_FRAMES as u64 * 8)?;
        self.gdb.physical(true)?;
        let pool = first..first + count;
        let head: Vec<u64> = words(&self.read_frame(first)?).collect();
        let word = |n: usize| head.get(n).copied().unwrap_or_default();
        let slots: Vec<usize> =
            (1..16).map(|n| n * 32).filter(|slot| word(*slot) >> 16 & 3 == 1 && word(slot + 1) != 0).collect();
        ensure!(!slots.is_empty(), "{kernel} has no image");
        let slot = random.one(&slots);
        let epoch = word(slot + 1) >> 32;
        let descriptor = slot + 8 + (epoch % 3) as usize * 8;
        let list = word(descriptor + 1) & 0xffff_ffff;
        let (frame, what) = if part == Part::Page {
            (self.walk(word(slot + 2), &pool, u32::MAX, random)?, "page")
        } else {
            match random.below(4) {
                0 => {
                    let place = random.one(&[slot, slot + 1, slot + 2, descriptor, descriptor + 1, descriptor + 2]);
                    let at = first * FRAME + place as u64 * 8 + random.below(8);
                    let flip = self.bit(kernel, true, at, "head of the image", random)?;
                    return self.dies(flip);
                }
                1 => (list, "list of records"),
                2 => {
                    let bytes = word(descriptor) & 0xffff_ffff;
                    let frames = bytes.div_ceil(FRAME).clamp(1, 8);
                    let number = random.below(frames);
                    let pair = words(&self.read_frame(list)?).nth(1 + number as usize / 2).unwrap_or_default();
                    let frame = if number.is_multiple_of(2) { pair & 0xffff_ffff } else { pair >> 32 };
                    (frame, "records")
                }
                _ => {
                    let depth = random.below(4) as u32;
                    (self.walk(word(slot + 2), &pool, depth, random)?, "page map")
                }
            }
        };
        ensure!(pool.contains(&frame), "the image leads to frame {frame:#x}");
        // Where there is something: most of a frame of records or of a map may be unused.
        let used: Vec<u64> =
            (0..FRAME).zip(self.read_frame(frame)?).filter(|(_, byte)| *byte != 0).map(|(at, _)| at).collect();
        let at = if used.is_empty() { random.below(FRAME) } else { random.one(&used) };
        let flip = self.bit(kernel, true, frame * FRAME + at, what, random)?;
        self.dies(flip)
    }

    /// Lets the core, which is in its kernel, go on where there is nothing.
    fn dies(&mut self, mut flip: Flip) -> Result<Flip> {
        self.gdb.physical(false)?;
        self.gdb.set_register(RIP, 0, 8)?;
        flip.undo = None;
        flip.place += ", and rip is 0";
        Ok(flip)
    }

    fn read_frame(&mut self, frame: u64) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        for part in 0..4 {
            all.extend(self.gdb.read(frame * FRAME + part * 1024, 1024)?);
        }
        Ok(all)
    }

    /// Follows pointers from a page map's root, at most so many, choosing among those that are there.
    fn walk(&mut self, root: u64, pool: &Range<u64>, depth: u32, random: &mut Random) -> Result<u64> {
        let mut frame = root & 0xffff_ffff;
        let mut height = root >> 32 & 0xff;
        ensure!(pool.contains(&frame), "no page map");
        let mut trees = false;
        for _ in 0..depth.min(16) {
            let all: Vec<u64> = words(&self.read_frame(frame)?).collect();
            // The lowest node of the directory leads to trees; that of a tree has entries of four words, three of them versions.
            let entries = trees && height == 0;
            let leads = all.iter().enumerate().filter(|(n, word)| {
                let target = **word & 0xffff_ffff;
                (!entries || n % 4 != 3) && pool.contains(&target)
            });
            let leads: Vec<u64> = leads.map(|(_, word)| *word).collect();
            if leads.is_empty() {
                break;
            }
            let word = random.one(&leads);
            trees |= height == 0;
            frame = word & 0xffff_ffff;
            height = word >> 32 & 0xff;
            if entries {
                break;
            }
        }
        Ok(frame)
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word))
}

//! The registers of a kernel: what its core has, what it had at its death, or what it had when it went to user mode.
use super::memory::{Physical, Segment, Shared, word_at};
use anyhow::{Context, Result};
use object::{Object, ObjectSymbol};
use serde_json::json;
use shimos_abi::ids::KernelId;
use std::{collections::BTreeMap, fs, path::Path};

/// Where the kernel's stack pointer is kept while its core is in user mode (`crates/machine/src/user.rs`).
const KEPT_STACK: &str = "user_kernel_stack";
/// What lies there, the lowest first.
const KEPT: [&str; 7] = ["R15", "R14", "R13", "R12", "RBX", "RBP", "RIP"];
/// General registers in the order of a death record.
const RECORDED: [&str; 15] =
    ["RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];

/// Where registers come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whence {
    /// From the core, which was in the kernel.
    Core,
    /// From the core's kernel stack: the core was in user mode.
    BeforeUser,
    /// From the death record.
    Record,
    /// Nobody knows them.
    Unknown,
}

impl Whence {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Whence::Core => "those of its core",
            Whence::BeforeUser => "those with which it went to user mode, where its core was",
            Whence::Record => "those of its death record",
            Whence::Unknown => "not known: it left no death record",
        }
    }
}

/// Registers by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Registers(BTreeMap<String, u64>);

impl Registers {
    /// A register's value.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
    fn set(&mut self, name: &str, value: u64) {
        self.0.insert(name.to_string(), value);
    }
    /// A kernel's selectors.
    fn in_kernel(mut self) -> Registers {
        self.set("CS", 0x08);
        self.set("SS", 0x10);
        self
    }

    /// Those of a kernel. `binary` is the file it was loaded from.
    pub fn of(
        memory: &mut Physical<'_>,
        shared: &Shared,
        kernel: KernelId,
        segments: &[Segment],
        binary: &Path,
    ) -> Result<(Registers, Whence)> {
        if let Some(record) = shared.death(kernel) {
            let mut registers = Registers::default();
            RECORDED.iter().zip(record.registers).for_each(|(name, value)| registers.set(name, value));
            registers.set("RIP", record.rip);
            registers.set("RSP", record.rsp);
            registers.set("RFL", record.flags);
            return Ok((registers.in_kernel(), Whence::Record));
        }
        if shared.is_parked(kernel) {
            return Ok((Registers::default(), Whence::Unknown));
        }
        let arguments = json!({ "command-line": "info registers", "cpu-index": shared.apic(kernel) });
        let told = memory.qmp().execute("human-monitor-command", arguments)?;
        let registers = Registers::parse(told.as_str().unwrap_or_default());
        if registers.get("CS") & 3 == 0 {
            return Ok((registers, Whence::Core));
        }
        let place = symbol(binary, KEPT_STACK)?;
        let stack = word_at(memory, segments, place)?.unwrap_or(0);
        let mut kept = Registers::default();
        for (at, name) in (stack..).step_by(8).zip(KEPT) {
            kept.set(name, word_at(memory, segments, at)?.unwrap_or(0));
        }
        kept.set("RSP", stack.wrapping_add(8 * KEPT.len() as u64));
        kept.set("RFL", 2);
        Ok((kept.in_kernel(), Whence::BeforeUser))
    }

    /// What the emulator's monitor prints: `RAX=0123... R8 =... CS =0008 ...`.
    fn parse(text: &str) -> Registers {
        let mut registers = Registers::default();
        let text = text.replace(" =", "=");
        for word in text.split_whitespace() {
            if let Some((name, value)) = word.split_once('=')
                && let Ok(value) = u64::from_str_radix(value, 16)
            {
                registers.set(name, value);
            }
        }
        // A segment's selector is followed by its base.
        for name in ["FS", "GS"] {
            let mut words = text.split_whitespace().skip_while(|word| !word.starts_with(&format!("{name}=")));
            if let Some(base) = words.nth(1).and_then(|base| u64::from_str_radix(base, 16).ok()) {
                registers.set(&format!("{name}_BASE"), base);
            }
        }
        registers
    }
}

/// The address of a symbol.
fn symbol(binary: &Path, name: &str) -> Result<u64> {
    let bytes = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("{} is no ELF file", binary.display()))?;
    let found = file.symbols().find(|symbol| symbol.name() == Ok(name));
    found.map(|symbol| symbol.address()).with_context(|| format!("{} has no symbol {name}", binary.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: &str = "\
RAX=0000000000000001 RBX=ffffc00000001000 RCX=0000000000000000 RDX=00000000000003fd
R8 =0000000000000008 R9 =0000000000000009 R10=0000000000000010 R11=0000000000000011
RIP=ffffffff80201234 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
ES =0010 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
CS =0008 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]
FS =0000 00007f0000000740 00000000 00000000
CR0=80050033 CR2=0000000000000000 CR3=0000000008000000 CR4=000006e0
";

    #[test]
    fn the_monitors_words_are_read() {
        let registers = Registers::parse(TOLD);
        for (name, value) in [
            ("RBX", 0xffff_c000_0000_1000),
            ("R8", 8),
            ("R11", 0x11),
            ("RIP", 0xffff_ffff_8020_1234),
            ("RFL", 0x246),
            ("CS", 8),
            ("FS_BASE", 0x7f00_0000_0740),
            ("CR3", 0x800_0000),
        ] {
            assert_eq!(registers.get(name), value, "{name}");
        }
    }
}

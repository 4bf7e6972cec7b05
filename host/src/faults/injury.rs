//! Ways to injure a kernel: those that it is ordered to do to itself, and those that come from the emulator.
use crate::{control::Control, names, qmp::Qmp, registry::Entry};
use anyhow::{Result, bail};
use shimos_abi::{control::Fault, ids::KernelId};
use std::time::Duration;

/// A way to injure a kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Injury {
    /// The kernel does it.
    Ordered(Fault),
    /// The emulator tells its core of an error that cannot be survived.
    MachineCheck(Told),
}

/// Who is told of a machine check.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Told {
    /// The core whose error it is.
    Alone,
    /// All others too, as Intel's processors do.
    Everyone,
}

/// The bank, and what it says: valid, uncorrected, enabled, context lost; a bus error.
const BANK: u32 = 4;
const STATUS: u64 = 1 << 63 | 1 << 61 | 1 << 60 | 1 << 57 | 0x0800;
/// A machine check is being dealt with.
const IN_PROGRESS: u64 = 1 << 2;
const EMULATOR: Duration = Duration::from_secs(5);

/// Those that the emulator does, by name.
const OUTSIDE: [(&str, Injury); 2] = [
    ("machine-check", Injury::MachineCheck(Told::Alone)),
    ("machine-check-broadcast", Injury::MachineCheck(Told::Everyone)),
];

impl Injury {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Injury> {
        let ordered = names::FAULTS.into_iter().map(|(_, fault)| Injury::Ordered(fault));
        ordered.chain(OUTSIDE.into_iter().map(|(_, injury)| injury))
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Injury::Ordered(fault) => names::fault(fault),
            other => OUTSIDE.into_iter().find(|(_, known)| *known == other).map_or("unknown", |(name, _)| name),
        }
    }

    /// The one of this name.
    pub fn named(word: &str) -> Result<Injury, String> {
        Injury::all().find(|injury| injury.name() == word).ok_or_else(|| {
            let known: Vec<&str> = Injury::all().map(Injury::name).collect();
            format!("is no fault; one of {}", known.join(", "))
        })
    }

    /// Does it. What hits at random goes by the seed.
    pub fn inflict(self, entry: &Entry, control: &mut Control, kernel: KernelId, seed: u64) -> Result<()> {
        match self {
            Injury::Ordered(fault) => control.inject(kernel, fault, seed),
            Injury::MachineCheck(told) => {
                let known = control.status()?.kernels.iter().any(|seen| seen.id == kernel);
                if !known {
                    bail!("there is no kernel {kernel}");
                }
                machine_check(&mut Qmp::connect(&entry.qmp, EMULATOR)?, kernel, told)
            }
        }
    }
}

/// Has the emulator tell a kernel's core of an error. Kernels are on cores in the order of their numbers.
pub fn machine_check(qmp: &mut Qmp, kernel: KernelId, told: Told) -> Result<()> {
    let all = if told == Told::Everyone { "-b " } else { "" };
    let complaint = qmp.human(&format!("mce {all}{} {BANK} {STATUS:#x} {IN_PROGRESS:#x} 0 0", kernel.0))?;
    if complaint.is_empty() { Ok(()) } else { bail!("the emulator refused the machine check: {complaint}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_injury_is_found_by_its_name() {
        for injury in Injury::all() {
            assert_eq!(Injury::named(injury.name()), Ok(injury));
        }
        assert!(Injury::named("flood").expect_err("unknown").contains("machine-check"));
    }
}

//! Running programs by the names that users give them.
use crate::{control::Control, usage::usage};
use anyhow::{Result, anyhow};
use shimos_abi::{
    control::{KernelState, MachineStatus, ProgramStatus, Target},
    ids::{KernelId, ProgramId},
};

/// A program that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Where it is.
    pub kernel: KernelId,
    /// What its kernel says of it.
    pub status: ProgramStatus,
}

/// All programs of a machine, by their numbers.
pub fn all(status: &MachineStatus) -> Vec<Found> {
    let running = status.kernels.iter().filter(|kernel| kernel.state == KernelState::Running);
    let mut found: Vec<Found> = running
        .flat_map(|kernel| {
            let found = |status: &ProgramStatus| Found { kernel: kernel.id, status: status.clone() };
            kernel.published.programs.iter().map(found)
        })
        .collect();
    found.sort_by_key(|found| found.status.id);
    found.dedup_by_key(|found| found.status.id);
    found
}

/// The program that a target names: by its name, its number like `p2`, or the id of any of its processes.
pub fn find(control: &mut Control, target: &Target) -> Result<Found> {
    let all = all(&control.status()?);
    let wanted = |found: &&Found| match target {
        Target::Name(name) => found.status.name == *name,
        Target::Pid(pid) => ProgramId::of(*pid) == found.status.id,
    };
    match all.iter().find(wanted) {
        Some(found) => Ok(found.clone()),
        None => Err(unknown(target, &all)),
    }
}

fn unknown(target: &Target, all: &[Found]) -> anyhow::Error {
    let names: Vec<&str> = all.iter().map(|found| found.status.name.as_str()).collect();
    let there = if names.is_empty() { "none runs".to_string() } else { format!("there are: {}", names.join(", ")) };
    match target {
        Target::Name(name) => anyhow!("there is no program '{name}'; {there}"),
        Target::Pid(pid) => anyhow!("there is no process {pid}; {there}"),
    }
}

/// A name for a program that runs a command, which no program of the machine has.
pub fn fresh_name(status: &MachineStatus, command: &str, turn: usize) -> Result<String> {
    let base = command.rsplit('/').next().unwrap_or_default();
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut base: String = base.chars().filter(plain).take(24).collect();
    if base.is_empty() || base.chars().all(|c| c.is_ascii_digit()) {
        base.insert_str(0, "run");
    }
    let all = all(status);
    let taken = |name: &str| all.iter().any(|found| found.status.name == name);
    let names = std::iter::once(base.clone()).chain((2..10_000).map(|number| format!("{base}-{number}")));
    names
        .filter(|name| !taken(name))
        .nth(turn)
        .ok_or_else(|| usage(format!("there are too many programs named {base}; give one with --name")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;
    use shimos_abi::ids::Pid;

    #[test]
    fn names_are_made_from_commands() {
        let status = sample::machine();
        let name = |command| fresh_name(&status, command, 0).expect("a name");
        assert_eq!(name("/bin/bash"), "bash");
        assert_eq!(name("/usr/sbin/httpd"), "httpd-2");
        assert_eq!(name("./7"), "run7");
        assert_eq!(name("/strange/ä b"), "b");
        assert_eq!(name(""), "run");
        assert_eq!(fresh_name(&status, "httpd", 1).expect("a name"), "httpd-3");
        assert!(crate::units::name(&name(&"x".repeat(99))).is_ok());
    }

    #[test]
    fn who_is_not_there_is_told_with_who_is() {
        let all = all(&sample::machine());
        assert_eq!(all.len(), 1);
        let told = unknown(&Target::Name("web".to_string()), &all).to_string();
        assert_eq!(told, "there is no program 'web'; there are: httpd");
        let told = unknown(&Target::Pid(Pid(5)), &[]).to_string();
        assert!(told.ends_with("none runs"), "{told}");
    }
}

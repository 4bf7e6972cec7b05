//! `faults`: deaths of kernels, and what is known of each.
mod evidence;
mod injury;
mod symbols;

use crate::{
    names,
    status::{self, ms},
};
use serde_json::{Value, json};
use shimos_abi::{
    control::{MachineStatus, Recovery, Takeover},
    ids::{KernelId, Life},
    time::Nanos,
};
use std::collections::BTreeSet;

pub use evidence::{Case, investigate};
pub use injury::{Injury, Told, machine_check};

/// The name under which a machine's directory keeps the kernel that runs there, for its symbols.
pub const KERNEL_FILE: &str = "kernel";

/// A life that ended, and what became of its programs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// How the death was dealt with.
    pub recovery: Recovery,
    /// Who took programs over.
    pub takeovers: Vec<Takeover>,
}

/// Which deaths are meant: the last one of a kernel, or a certain one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// The last life of this kernel that ended.
    LastOf(KernelId),
    /// This life.
    Exactly(Life),
}

/// All deaths that the machine remembers, the first one first.
pub fn all(status: &MachineStatus) -> Vec<Fault> {
    let published = || status.kernels.iter().map(|kernel| &kernel.published);
    let dead: BTreeSet<Life> = published().flat_map(|it| &it.recoveries).map(|recovery| recovery.dead).collect();
    let mut faults: Vec<Fault> = dead
        .into_iter()
        .filter_map(|dead| {
            let recovery = status::recovery(status, dead)?.clone();
            let mut takeovers: Vec<Takeover> =
                published().flat_map(|it| &it.takeovers).filter(|takeover| takeover.from == dead).cloned().collect();
            takeovers.sort_by_key(|takeover| (takeover.ordered, takeover.program));
            Some(Fault { recovery, takeovers })
        })
        .collect();
    faults.sort_by_key(|fault| fault.recovery.detected);
    faults
}

/// The death that is meant, if the machine remembers it.
pub fn find(faults: &[Fault], which: Which) -> Option<&Fault> {
    faults.iter().rev().find(|fault| match which {
        Which::LastOf(kernel) => fault.recovery.dead.kernel == kernel,
        Which::Exactly(life) => fault.recovery.dead == life,
    })
}

/// A span between two times of which the second may not have come.
fn span(from: Nanos, to: Nanos) -> String {
    if to == Nanos(0) { "-".to_string() } else { format!("{:.2}", ms(to - from)) }
}

/// What was done about a death, in words.
fn outcome(recovery: &Recovery) -> String {
    match &recovery.waiting {
        Some(why) => format!("waits: {why}"),
        None if recovery.rejoined != Nanos(0) => "rebooted and rejoined".to_string(),
        None if recovery.restarted != Nanos(0) => "is rebooting".to_string(),
        None if recovery.fenced != Nanos(0) => "fenced".to_string(),
        None => "is being fenced".to_string(),
    }
}

/// For people.
pub fn table(status: &MachineStatus, faults: &[Fault]) -> String {
    if faults.is_empty() {
        return "no kernel has died\n".to_string();
    }
    let mut text =
        "death    ago s     cause      detected by   after ms  fenced by  rejoined ms  programs  outcome; message\n"
            .to_string();
    for Fault { recovery, takeovers } in faults {
        text += &format!(
            "{:<8} {:<9.1} {:<10} {:<13} {:<9} {:<10} {:<12} {:<9} {}; {}\n",
            recovery.dead.to_string(),
            ms(status.now - recovery.died) / 1000.0,
            names::cause(recovery.cause),
            names::detected_by(recovery.detected_by),
            span(recovery.died, recovery.detected),
            names::fenced_by(recovery.fenced_by),
            span(recovery.fenced, recovery.rejoined),
            takeovers.len(),
            outcome(recovery),
            recovery.message.lines().next().unwrap_or_default(),
        );
    }
    text
}

/// For programs. Times are nanoseconds of the machine's clock.
pub fn json(faults: &[Fault]) -> Value {
    faults.iter().map(fault_json).collect()
}

/// One death, for programs.
pub fn fault_json(fault: &Fault) -> Value {
    let Recovery { dead, died, detected, fenced, taken_over, restarted, rejoined, .. } = fault.recovery;
    json!({
        "dead": dead.to_string(),
        "kernel": dead.kernel.0,
        "incarnation": dead.incarnation.0,
        "cause": names::cause(fault.recovery.cause),
        "message": fault.recovery.message,
        "detected_by": names::detected_by(fault.recovery.detected_by),
        "fenced_by": names::fenced_by(fault.recovery.fenced_by),
        "monitor": fault.recovery.monitor.0,
        "died": died.0,
        "detected": detected.0,
        "fenced": fenced.0,
        "taken_over": taken_over.0,
        "restarted": restarted.0,
        "rejoined": rejoined.0,
        "outcome": outcome(&fault.recovery),
        "takeovers": fault.takeovers.iter().map(|takeover| json!({
            "program": takeover.program.0,
            "to": takeover.to.0,
            "epoch": takeover.epoch.0,
            "ordered": takeover.ordered.0,
            "first_instruction": takeover.first_instruction.0,
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;
    use shimos_abi::ids::Incarnation;

    #[test]
    fn deaths_are_told_once_with_their_takeovers() {
        let status = sample::machine();
        let faults = all(&status);
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].takeovers.len(), 1);
        let text = table(&status, &faults);
        for part in ["k1.1", "panic", "death-record", "rebooted and rejoined; injected"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert_eq!(json(&faults)[0]["takeovers"][0]["to"], 0);
    }

    #[test]
    fn a_death_is_found_by_kernel_or_by_life() {
        let faults = all(&sample::machine());
        let life = |incarnation| Life { kernel: KernelId(1), incarnation: Incarnation(incarnation) };
        assert!(find(&faults, Which::LastOf(KernelId(1))).is_some());
        assert!(find(&faults, Which::LastOf(KernelId(0))).is_none());
        assert!(find(&faults, Which::Exactly(life(1))).is_some());
        assert!(find(&faults, Which::Exactly(life(2))).is_none());
    }
}

//! All that is known of one death: the record that the kernel left, symbols for its addresses, and its last lines on
//! the console.
use super::{
    Fault, KERNEL_FILE, fault_json, outcome, span,
    symbols::{Place, Symbols},
};
use crate::{
    console::{self, Source},
    control::Control,
    names,
    status::ms,
};
use anyhow::Result;
use serde_json::{Value, json};
use shimos_abi::{control::Evidence, ids::Life};
use std::{fs, path::Path};

/// How many lines of the console are shown.
const LINES: usize = 20;
/// Names of the registers, in the order of the record.
const REGISTERS: [&str; 15] =
    ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// One death with everything that was found.
#[derive(Clone, Debug)]
pub struct Case {
    fault: Fault,
    record: Option<Evidence>,
    places: Vec<(u64, Vec<Place>)>,
    lines: Vec<String>,
}

/// Gathers what there is. `machine` is the directory of the machine, `root` the checkout.
pub fn investigate(control: &mut Control, machine: &Path, root: &Path, fault: &Fault) -> Result<Case> {
    let dead = fault.recovery.dead;
    let record = control.evidence(dead.kernel)?.filter(|record| record.dead == dead);
    let symbols = Symbols::of(&machine.join(KERNEL_FILE), root).ok();
    let places = record.iter().flat_map(addresses).map(|(address, instruction)| {
        (address, symbols.as_ref().map_or(Vec::new(), |symbols| symbols.at(instruction)))
    });
    let places = places.collect();
    let log = fs::read(machine.join("console.log")).unwrap_or_default();
    let lines = last_lines(&String::from_utf8_lossy(&log), dead);
    Ok(Case { fault: fault.clone(), record, places, lines })
}

/// The addresses of the trace, each with that of the instruction it stands for: a return address is behind its call.
fn addresses(record: &Evidence) -> impl Iterator<Item = (u64, u64)> {
    let returns = record.trace.iter().map(|back| (*back, back.saturating_sub(1)));
    [(record.rip, record.rip)].into_iter().chain(returns)
}

/// The last lines that a life said before its end.
fn last_lines(log: &str, dead: Life) -> Vec<String> {
    let end = format!("{dead} dies:");
    let restarted = format!("{dead} is restarted");
    let parked = format!("{dead} is fenced");
    let until_death = log.lines().take_while(|line| {
        let over = [&restarted, &parked].into_iter().any(|text| line.contains(text.as_str()));
        !(over || line.starts_with(&end))
    });
    let born = format!("kernel {} on core", dead.kernel);
    let mut lines = Vec::new();
    for line in until_death {
        let (Source::Kernel(kernel), text) = console::parse(line) else { continue };
        if kernel == dead.kernel.0 {
            if text.starts_with(&born) {
                lines.clear();
            }
            lines.push(text.to_string());
        }
    }
    lines.drain(..lines.len().saturating_sub(LINES));
    lines
}

impl Case {
    /// For people.
    pub fn text(&self) -> String {
        let recovery = &self.fault.recovery;
        let mut text = format!("{} died: {}\n", recovery.dead, names::cause(recovery.cause));
        for line in recovery.message.lines() {
            text += &format!("    {line}\n");
        }
        text += &format!(
            "detected by {} after {} ms by the monitor of {}, fenced by {} after {} ms more; {}\n",
            names::detected_by(recovery.detected_by),
            span(recovery.died, recovery.detected),
            recovery.monitor,
            names::fenced_by(recovery.fenced_by),
            span(recovery.detected, recovery.fenced),
            outcome(recovery),
        );
        for takeover in &self.fault.takeovers {
            text += &format!(
                "program {} went on on {} from epoch {}, {} ms after the detection\n",
                takeover.program,
                takeover.to,
                takeover.epoch.0,
                span(recovery.detected, takeover.first_instruction),
            );
        }
        match &self.record {
            Some(record) => text += &self.record_text(record),
            None => {
                text += "\nno record of its registers: it left none, or a later death of this kernel took its place\n"
            }
        }
        if !self.lines.is_empty() {
            text += "\nits last lines:\n";
            for line in &self.lines {
                text += &format!("    {line}\n");
            }
        }
        text
    }

    fn record_text(&self, record: &Evidence) -> String {
        let mut text = format!("\nregisters, at {:.3} ms of the machine's time:\n", ms(record.time));
        text += &format!(
            "    rip {:016x}  rsp {:016x}  rflags {:08x}  vector {}  code {:#x}  address {:#x}\n",
            record.rip, record.rsp, record.flags, record.vector, record.code, record.address
        );
        let named: Vec<(&str, u64)> = REGISTERS.into_iter().zip(record.registers.iter().copied()).collect();
        for row in named.chunks(4) {
            let row: Vec<String> = row.iter().map(|(name, value)| format!("{name:<3} {value:016x}")).collect();
            text += &format!("    {}\n", row.join("  "));
        }
        text += "stack, innermost first:\n";
        for (address, places) in &self.places {
            text += &format!("    {address:016x}\n");
            for Place { function, line } in places {
                text += &format!("        {function}\n");
                if let Some(line) = line {
                    text += &format!("            {line}\n");
                }
            }
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let place = |place: &Place| json!({ "function": place.function, "line": place.line });
        let record = self.record.as_ref().map(|record| {
            let named = REGISTERS.into_iter().zip(&record.registers);
            json!({
                "cause": names::cause(record.cause),
                "time": record.time.0,
                "vector": record.vector,
                "code": record.code,
                "rip": record.rip,
                "rsp": record.rsp,
                "rflags": record.flags,
                "address": record.address,
                "registers": named.map(|(name, value)| (name.to_string(), json!(value)))
                    .collect::<serde_json::Map<String, Value>>(),
                "message": record.message,
                "stack": self.places.iter().map(|(address, places)| json!({
                    "address": address,
                    "places": places.iter().map(place).collect::<Vec<_>>(),
                })).collect::<Vec<_>>(),
            })
        });
        json!({ "fault": fault_json(&self.fault), "record": record, "last_lines": self.lines })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shimos_abi::ids::{Incarnation, KernelId};

    #[test]
    fn the_last_lines_end_with_the_death() {
        let log = "[k1] one\n[k2] other\n[k1] two\nweb| [k1] no\nk1.1 dies: oops\n[k0] k1.1 is restarted\n\
                   [k1] kernel k1 on core 1\n[k1] three\n";
        let life = |incarnation| Life { kernel: KernelId(1), incarnation: Incarnation(incarnation) };
        assert_eq!(last_lines(log, life(1)), ["one", "two"]);
        assert_eq!(last_lines(log, life(2)), ["kernel k1 on core 1", "three"]);
        let many: String = (0..50).map(|n| format!("[k1] line {n}\n")).collect();
        let last = last_lines(&many, life(1));
        assert_eq!((last.len(), last[0].as_str()), (LINES, "line 30"));
    }
}

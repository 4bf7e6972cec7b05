//! `shimos bench partition`: what hardware partitioning costs, with and without it side by side.
use super::{
    Goal, Report, Row,
    basics::toucher,
    host,
    influence::{Setting, one},
    loads::Load,
    say,
};
use crate::{
    machine::{Files, Machine, Options},
    names,
    paths::Paths,
    recovery,
    status::ms,
};
use anyhow::{Result, ensure};
use shimos_abi::{
    control::{Fault, Output, Partition, Protection},
    time::Nanos,
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const BOOT: Duration = Duration::from_secs(120);
const SETTLE: Duration = Duration::from_secs(60);
const RECOVERY: Duration = Duration::from_secs(30);
/// Private memory of each kernel, in MiB.
const MEMORY: u64 = 256;
/// How long each program is measured at least.
const SPAN: Duration = Duration::from_secs(2);
/// Deaths of each kind in a round.
const DEATHS: u32 = 3;
/// Both settings, in the order in which they are measured.
const BOTH: [Partition; 2] = [Partition::None, Partition::Svm];

const fn load(name: &'static str, line: &'static str) -> Load {
    Load { name, part: "", before: "true", line }
}

/// Programs that do mostly one thing.
const LOADS: [Load; 4] = [
    load("computing", "perl -e 'my $s = 0; for my $i (1 .. 1500000) { $s += $i * 3 & 255 } print $s'"),
    load("memory", "perl -e 'my %h; for my $i (1 .. 150000) { $h{$i} = $i } print scalar(keys %h)'"),
    load("system calls", "dd if=/dev/zero of=/dev/null bs=1 count=200000"),
    load("processes", "i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i + 1)); done"),
];

/// What was measured: by name and unit, without and with.
type Found = BTreeMap<(String, &'static str), [Vec<f64>; 2]>;

/// Measures the cost of the partition.
pub fn partition(paths: &Paths, files: &Files, rounds: u32) -> Result<Report> {
    let mut found = Found::new();
    let mut report = Report::new(host(), String::new(), Vec::new());
    for round in 0..rounds {
        for (side, wanted) in BOTH.into_iter().enumerate() {
            say(&format!("partition {}, round {}", names::partition(wanted), round + 1));
            let options = Options { memory: MEMORY, partition: wanted, ..Options::default() };
            let machine = Machine::boot(paths, files, options, BOOT)?;
            report.accelerator = machine.accelerator.to_string();
            let has = machine.control().status()?.partition;
            ensure!(has == wanted, "the processor has no SVM with nested paging: there is nothing to compare");
            let mut note = |what: &str, unit: &'static str, value: f64| {
                if let Some(list) = found.entry((what.to_string(), unit)).or_default().get_mut(side) {
                    list.push(value);
                }
            };
            note("boot of 4 kernels", "s", machine.boot_time.as_secs_f64());
            for (number, load) in (1..).zip(&LOADS) {
                // Once unmeasured: what it reads from the disk is in memory from then on.
                one(&machine, load, Setting::Off, Duration::ZERO, 2 * number)?;
                let (start, used) = (Instant::now(), machine.processor_time()?);
                let unit = one(&machine, load, Setting::Off, SPAN, 2 * number + 1)?;
                let share = (machine.processor_time()? - used).as_secs_f64() / start.elapsed().as_secs_f64();
                note(load.name, "s", unit);
                // A loaded host takes time from the emulator; what that uses itself says more.
                note(&format!("{}, emulator's own time", load.name), "s", unit * share);
            }
            deaths(&machine, wanted, &mut note)?;
        }
    }
    for ((what, unit), [without, with]) in found {
        let excess: Vec<f64> =
            with.iter().zip(&without).map(|(with, without)| (with / without - 1.0) * 100.0).collect();
        if !without.is_empty() {
            report.rows.push(Row::new(format!("{what}, none"), unit, Goal::None, without));
        }
        report.rows.push(Row::new(format!("{what}, svm"), unit, Goal::None, with));
        if !excess.is_empty() {
            report.rows.push(Row::new(format!("{what}, cost"), "%", Goal::None, excess));
        }
    }
    report
        .notes
        .push("Each cost is one figure against the other of the same round. Negative ones are noise.".to_string());
    Ok(report)
}

fn deaths(machine: &Machine, partition: Partition, note: &mut dyn FnMut(&str, &'static str, f64)) -> Result<()> {
    let mut control = machine.control();
    let protection = Protection::new(Nanos::millis(50), Output::Commit);
    let program = toucher(&mut control, "touch", (1, 16, 10), None, Some(protection))?;
    // Without a partition a triple fault resets the machine.
    let faults: &[Fault] = match partition {
        Partition::None => &[Fault::Panic],
        Partition::Svm => &[Fault::Panic, Fault::TripleFault],
    };
    for fault in faults {
        for _ in 0..DEATHS {
            recovery::settle(&mut control, program, 2, SETTLE)?;
            let death = recovery::kill_under(&mut control, program, *fault, RECOVERY, || {})?;
            let name = names::fault(*fault);
            note(&format!("{name} to first user instruction"), "ms", ms(death.outage()));
            note(&format!("{name} to rejoined kernel"), "ms", ms(death.recovery.rejoined - death.recovery.died));
        }
    }
    Ok(())
}

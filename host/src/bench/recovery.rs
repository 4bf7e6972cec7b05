//! `shimos bench recovery`: how long each step of a recovery takes, by the way in which the kernel dies and by the number of
//! kernels.
use super::{Goal, Report, Row, basics::toucher, hang_goal, host, say};
use crate::{
    faults::{self, Injury, Told},
    machine::{Files, Machine, Options},
    paths::Paths,
    recovery,
    status::{self, ms},
};
use anyhow::{Context, Result, bail};
use shimos_abi::{
    control::{Device, Fault, KernelState, Output, Protection, Recovery},
    ids::{KernelId, Life, ProgramId},
    time::Nanos,
};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

const BOOT: Duration = Duration::from_secs(120);
const WAIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
const PROTECTION: Protection = Protection::new(Nanos::millis(20), Output::Commit);
/// Longer than a life that counts as a boot that failed.
const REST: Duration = Duration::from_millis(250);
/// Private memory by kernels, in MiB.
const MEMORY: [(u16, u64); 2] = [(16, 128), (64, 32)];
/// Ways to die, and whether the kernel tells itself.
const WAYS: [(Injury, Notice); 8] = [
    (Injury::Ordered(Fault::NullPointer), Notice::Record),
    (Injury::Ordered(Fault::Panic), Notice::Record),
    (Injury::Ordered(Fault::StackOverflow), Notice::Record),
    (Injury::Ordered(Fault::DoubleFault), Notice::Record),
    (Injury::MachineCheck(Told::Alone), Notice::Record),
    (Injury::Ordered(Fault::InfiniteLoop), Notice::Stamps),
    (Injury::Ordered(Fault::IrqDeadlock), Notice::Stamps),
    (Injury::Ordered(Fault::NmiLoop), Notice::Unanswered),
];

/// How a death is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Notice {
    /// By a death record.
    Record,
    /// By stamps that stop, from a core that answers.
    Stamps,
    /// By stamps that stop, from a core that answers nothing: its host might have stopped it.
    Unanswered,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Recoveries {
    /// Deaths of each kind.
    pub rounds: u32,
    /// Numbers of kernels.
    pub kernels: Vec<u16>,
}

/// Measures recoveries.
pub fn recoveries(paths: &Paths, files: &Files, wanted: &Recoveries) -> Result<Report> {
    let mut rows = Vec::new();
    let mut accelerator = String::new();
    let words = host();
    for kernels in &wanted.kernels {
        let memory = MEMORY.into_iter().find(|(most, _)| kernels <= most).map_or(32, |(_, memory)| memory);
        let options = Options { kernels: *kernels, memory, ..Options::default() };
        match Machine::boot(paths, files, options, BOOT) {
            Ok(mut machine) => {
                accelerator = machine.accelerator.to_string();
                match toucher(&mut machine.control(), "touch", (1, 16, 10), None, Some(PROTECTION)) {
                    Ok(program) => measure(&mut rows, &mut machine, program, wanted.rounds),
                    Err(error) => rows.push(Row::failed(format!("{kernels} kernels"), &error)),
                }
            }
            Err(error) => rows.push(Row::failed(format!("{kernels} kernels"), &error)),
        }
    }
    Ok(Report::new(words, accelerator, rows))
}

fn measure(rows: &mut Vec<Row>, machine: &mut Machine, program: ProgramId, rounds: u32) {
    let kernels = machine.options.kernels;
    let heartbeat = machine.control().status().map_or(Nanos::millis(100), |status| status.heartbeat);
    let mut fences = Vec::new();
    let mut reboots = Vec::new();
    let mut handovers = Vec::new();
    for (injury, notice) in WAYS {
        let what = format!("{kernels} kernels, {}", injury.name());
        say(&what);
        let mut detected = Vec::new();
        for round in 0..rounds {
            match one(machine, program, injury, round) {
                Ok((recovery, owner)) => {
                    detected.push(ms(recovery.detected - recovery.died));
                    if notice == Notice::Record {
                        fences.push(ms(recovery.fenced - recovery.detected));
                    }
                    reboots.push(ms(recovery.rejoined - recovery.restarted));
                    if owner {
                        handovers.push(ms(recovery.taken_over - recovery.fenced));
                    }
                }
                Err(error) => {
                    rows.push(Row::failed(what.clone(), &error));
                    break;
                }
            }
        }
        let goal = match notice {
            Notice::Record => Goal::AtMost(1.0),
            Notice::Stamps => hang_goal(heartbeat),
            Notice::Unanswered => Goal::None,
        };
        rows.push(Row::new(format!("{what}: detected"), "ms", goal, detected));
    }
    rows.push(Row::new(format!("{kernels} kernels: fence proven, after a record"), "ms", Goal::AtMost(1.0), fences));
    rows.push(Row::new(format!("{kernels} kernels: devices handed over"), "ms", Goal::AtMost(20.0), handovers));
    rows.push(Row::new(format!("{kernels} kernels: rebooted and rejoined"), "ms", Goal::AtMost(20.0), reboots));
}

/// One death under a program; every other time that of the devices' owner. Returns whether the dead one had devices.
fn one(machine: &mut Machine, program: ProgramId, injury: Injury, round: u32) -> Result<(Recovery, bool)> {
    let mut control = machine.control();
    let home = recovery::settle(&mut control, program, 2, WAIT)?;
    sleep(REST);
    let status = control.status()?;
    let owner = status.owners.get(Device::Network as usize).copied();
    let victim = match (round % 2, owner) {
        (1, Some(owner)) => owner,
        _ => home,
    };
    // Nothing but INIT ends an NMI, and that is not for the boot core.
    let victim = match injury {
        Injury::Ordered(Fault::NmiLoop) if victim == KernelId(0) => other(machine.options.kernels, round),
        _ => victim,
    };
    let dead = recovery::life(&status, victim).context("a kernel without a life")?;
    match injury {
        Injury::Ordered(fault) => control.inject_life(dead, fault)?,
        Injury::MachineCheck(told) => faults::machine_check(machine.qmp(), victim, told)?,
    }
    Ok((recovered(&mut control, dead)?, owner == Some(victim)))
}

fn other(kernels: u16, round: u32) -> KernelId {
    let others = u32::from(kernels.saturating_sub(1)).max(1);
    KernelId(1 + (round % others) as u16)
}

fn recovered(control: &mut crate::control::Control, dead: Life) -> Result<Recovery> {
    let end = Instant::now() + WAIT;
    loop {
        let status = control.status()?;
        let back = status::kernel(&status, dead.kernel)
            .is_some_and(|kernel| kernel.incarnation > dead.incarnation.0 && kernel.state == KernelState::Running);
        if let (Some(found), true) = (status::recovery(&status, dead), back)
            && found.rejoined.0 != 0
            && found.taken_over.0 != 0
        {
            return Ok(found.clone());
        }
        if Instant::now() >= end {
            bail!("the recovery of {dead} did not end within {} s", WAIT.as_secs());
        }
        sleep(POLL);
    }
}

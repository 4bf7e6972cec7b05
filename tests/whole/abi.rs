//! What programs may rely on: the test program of the system calls says so itself.
use anyhow::{Result, ensure};
use shimos::{artifacts::USER_PROGRAMS, control::Started, machine::Options};
use shimos_abi::control::Fault;
use shimos_tests::{clock::SOON, group::Group, programs, rig::Rig, suite::Suite};

pub fn run(suite: &mut Suite) {
    let Some((_, inside)) = USER_PROGRAMS.iter().find(|(name, _)| *name == "abi-test") else { return };
    Group::new(suite, Options { kernels: 2, ..Options::default() })
        .case("abi::all_system_calls", |rig| all(rig, inside));
    Group::new(suite, Options::default()).case("abi::while_kernels_die", |rig| while_kernels_die(rig, inside));
}

/// Whatever system call the deaths fall into: the program notices nothing.
fn while_kernels_die(rig: &mut Rig, inside: &str) -> Result<()> {
    let started = rig.start_protected(programs::command("abi", 1, &[inside]))?;
    for fault in [Fault::Panic, Fault::IrqDeadlock, Fault::NullPointer, Fault::InfiniteLoop] {
        rig.wait_more("abi", 5)?;
        rig.kill_under(started.program, fault)?;
    }
    demand(rig, started)
}

fn all(rig: &mut Rig, inside: &str) -> Result<()> {
    let started = rig.start(programs::command("abi", 1, &[inside]))?;
    demand(rig, started)
}

/// Demands that the test program ends, and says that all is well.
fn demand(rig: &mut Rig, started: Started) -> Result<()> {
    rig.until(SOON * 3, "its end", |now| shimos::status::home(now, started.program).is_none().then_some(()))?;
    let lines = rig.lines("abi");
    let wrong: Vec<&String> = lines.iter().filter(|line| line.starts_with("not ok") || line.contains("FAIL")).collect();
    let summary = lines.last().map(String::as_str).unwrap_or_default();
    ensure!(wrong.is_empty() && summary.ends_with(" passed, 0 failed"), "'{summary}': {wrong:?}");
    Ok(())
}

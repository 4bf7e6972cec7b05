//! Every kind of state outlives its kernel: `abi-test --kept` makes it, waits for the deaths, and looks at it again.
use anyhow::{Context, Result, ensure};
use shimos::{artifacts::USER_PROGRAMS, machine::Options, names, status};
use shimos_abi::control::Fault;
use shimos_tests::{clock::SOON, group::Group, programs, rig::Rig, suite::Suite};

/// Deaths in a row, unless `SHIMOS_DEATHS` names another number.
const DEATHS: usize = 20;
/// The signal at which the program looks.
const GO_ON: u8 = 10;

pub fn run(suite: &mut Suite) {
    let Some((_, inside)) = USER_PROGRAMS.iter().find(|(name, _)| *name == "abi-test") else { return };
    let deaths = std::env::var("SHIMOS_DEATHS").ok().and_then(|number| number.parse().ok()).unwrap_or(DEATHS);
    let mut group = Group::new(suite, Options::default());
    group.case("state::as_it_was_after_a_panic", |rig| kept(rig, inside, "panic", &[Fault::Panic]));
    group.case("state::as_it_was_after_a_hang", |rig| kept(rig, inside, "hang", &[Fault::IrqDeadlock]));
    // Each takeover is of a program that was taken over a moment before.
    let faults: Vec<Fault> = [Fault::Panic, Fault::NullPointer].into_iter().cycle().take(deaths).collect();
    group.case("state::as_it_was_after_many_deaths_in_a_row", |rig| kept(rig, inside, "many", &faults));
}

fn kept(rig: &mut Rig, inside: &str, name: &str, faults: &[Fault]) -> Result<()> {
    let name = format!("kept-{name}");
    let started = rig.start_protected(programs::command(&name, 1, &[inside, "--kept"]))?;
    rig.wait_line(&name, "kept: ready")?;
    for (number, fault) in (1..).zip(faults) {
        rig.settle(started.program)?;
        rig.kill_under(started.program, *fault).with_context(|| format!("death {number}, {}", names::fault(*fault)))?;
    }
    rig.control.signal(started.pid, GO_ON)?;
    rig.until(SOON * 3, "its end", |now| status::home(now, started.program).is_none().then_some(()))
        .with_context(|| format!("it said {:?}", rig.lines(&name)))?;
    let lines = rig.lines(&name);
    let wrong: Vec<&String> = lines.iter().filter(|line| line.starts_with("FAIL")).collect();
    let summary = lines.last().map(String::as_str).unwrap_or_default();
    ensure!(wrong.is_empty() && summary.ends_with(" passed, 0 failed"), "'{summary}': {wrong:#?}");
    Ok(())
}

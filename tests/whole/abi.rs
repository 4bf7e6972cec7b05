//! What programs may rely on: the test program of the system calls says so itself.
use anyhow::{Result, ensure};
use shimos::{artifacts::USER_PROGRAMS, machine::Options};
use shimos_tests::{clock::SOON, group::Group, programs, rig::Rig, suite::Suite};

pub fn run(suite: &mut Suite) {
    let Some((_, inside)) = USER_PROGRAMS.iter().find(|(name, _)| *name == "abi-test") else { return };
    Group::new(suite, Options { kernels: 2, ..Options::default() })
        .case("abi::all_system_calls", |rig| all(rig, inside));
}

fn all(rig: &mut Rig, inside: &str) -> Result<()> {
    let started = rig.start(programs::command("abi", 1, &[inside]))?;
    rig.until(SOON * 3, "its end", |now| shimos::status::home(now, started.program).is_none().then_some(()))?;
    let lines = rig.lines("abi");
    let wrong: Vec<&String> = lines.iter().filter(|line| line.starts_with("not ok") || line.contains("FAIL")).collect();
    let summary = lines.last().map(String::as_str).unwrap_or_default();
    ensure!(wrong.is_empty() && summary.ends_with(" passed, 0 failed"), "'{summary}': {wrong:?}");
    Ok(())
}

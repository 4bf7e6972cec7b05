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
    let failed: Vec<&String> = lines.iter().filter(|line| line.contains("FAIL") || line.contains("not ok")).collect();
    ensure!(failed.is_empty() && !lines.is_empty(), "of {} lines these tell of failures: {failed:?}", lines.len());
    Ok(())
}

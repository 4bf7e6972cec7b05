//! The machine layer's own tests: the kernel runs them instead of its work, and says what came of it.
use anyhow::{Context, Result, ensure};
use shimos::machine::{Machine, Options};
use shimos_abi::control::Partition;
use shimos_tests::{makings::Makings, suite::Suite};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// Longest that one may take.
const PATIENCE: Duration = Duration::from_secs(240);

pub fn run(suite: &mut Suite) {
    let makings = suite.makings.clone();
    for (partition, name) in [(Partition::Svm, "shells"), (Partition::None, "page_tables_alone")] {
        suite.case(&format!("machine_layer::all_deaths::{name}"), || passes(&makings, "selftest", partition));
        suite.case(&format!("machine_layer::a_storm_of_nmis::{name}"), || passes(&makings, "storm", partition));
    }
}

/// Runs the test that a word on the kernel's command line stands for.
fn passes(makings: &Makings, word: &str, partition: Partition) -> Result<()> {
    let options = Options { kernels: 3, partition, words: vec![word.to_string()], ..Options::default() };
    let mut machine = Machine::start(&makings.paths, &makings.files, options)?;
    let end = Instant::now() + PATIENCE;
    while !machine.ended() && Instant::now() < end {
        sleep(Duration::from_millis(50));
    }
    let log = std::fs::read_to_string(machine.entry().directory.join("console.log")).context("the console's log")?;
    // A triple fault starts the machine again.
    let starts = log.lines().filter(|line| line.contains("TSC")).count();
    ensure!(starts == 1, "the machine was reset {} times:\n{log}", starts.saturating_sub(1));
    ensure!(log.contains(&format!("{word}: PASS")), "no success:\n{log}");
    Ok(())
}

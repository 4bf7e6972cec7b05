//! A few runs of `shimos campaign`: what must never come of any fault, whatever the moment it strikes at.
use anyhow::{Result, ensure};
use shimos::{
    campaign::{self, Class, Made, Outcome, Wanted},
    machine::Options,
};
use shimos_abi::{
    control::{Integrity, Output, Protection},
    time::Nanos,
};
use shimos_tests::{makings::Makings, suite::Suite};
use std::time::Duration;

/// Runs of each kind at most. No run begins after [`WITHIN`]; a slow host does fewer.
const RUNS: u64 = 12;
const WITHIN: Duration = Duration::from_secs(40);
const SEED: u64 = 5;
const USUAL: Protection = Protection::new(Nanos::millis(20), Output::Commit);

pub fn run(suite: &mut Suite) {
    let makings = suite.makings.clone();
    suite.case("campaign::flips", || sample(&makings, "flips", RUNS, USUAL));
    suite.case("campaign::ordered", || sample(&makings, "ordered", RUNS, USUAL));
    suite.case("campaign::wild_commons", || sample(&makings, "wild-commons", 3, USUAL));
    let checked = Protection { integrity: Integrity::Pages, ..USUAL };
    suite.case("campaign::flipped_pages_with_checksums", || sample(&makings, "flip-page", 5, checked));
}

fn sample(makings: &Makings, classes: &str, count: u64, protection: Protection) -> Result<()> {
    let wanted = Wanted {
        numbers: 0..count,
        within: Some(WITHIN),
        seed: SEED,
        classes: Class::named(classes).map_err(anyhow::Error::msg)?,
        jobs: 1,
        made: Made {
            options: Options { watchdog: Some(campaign::WATCHDOG), ..Options::default() },
            services: vec!["httpd".to_string()],
            protection,
        },
    };
    let report = campaign::run(&makings.paths, &makings.files, &wanted, &campaign::tell)?;
    let tried = report.records.iter().filter(|record| record.outcome != Outcome::Invalid).count();
    ensure!(tried * 2 >= report.records.len(), "most could not be tried:\n{}", report.table());
    // One that could not be tried says nothing; what a class may do is said where classes are.
    let bad = report.records.iter().filter(|record| {
        let excused = record.outcome.good() || record.class.excuse(record.outcome, report.integrity).is_some();
        // A busy host can make a kernel so slow that it is taken for dead.
        let suspected = record.outcome == Outcome::Spread
            && record.said.iter().filter(|what| what.contains("died too")).all(|what| what.contains("by heartbeat"));
        !(excused || suspected || record.outcome == Outcome::Invalid)
    });
    ensure!(bad.count() == 0, "what must never happen:\n{}", report.table());
    eprintln!("        ({tried} faults)");
    Ok(())
}

//! Services under load while kernels die, a few of what `shimos soak` does; and the proof that who watches would see it.
use anyhow::{Context, Result, ensure};
use shimos::{
    images::build,
    loads,
    machine::{Files, Options},
    soak::{self, Outcome, Wanted},
};
use shimos_abi::{
    control::{Output, Protection},
    time::Nanos,
};
use shimos_tests::{makings::Makings, suite::Suite};

/// Deaths under each service.
const DEATHS: u32 = 5;
const INTERVAL: Nanos = Nanos::millis(20);

pub fn run(suite: &mut Suite) {
    let makings = suite.makings.clone();
    suite.case("soak::downloads_go_on", || {
        let outcome = tried(&makings, &makings.files, "httpd", Output::Commit)?;
        ensure!(outcome.held(), "{outcome:?}");
        Ok(())
    });
    suite.case("soak::nothing_acknowledged_is_lost", || {
        let outcome = tried(&makings, &programs(&makings)?, "redis", Output::Commit)?;
        ensure!(outcome.held(), "{outcome:?}");
        Ok(())
    });
    suite.case("soak::output_that_leaves_early_is_found", || {
        let outcome = tried(&makings, &programs(&makings)?, "redis", Output::Free)?;
        ensure!(outcome.error.is_none(), "{outcome:?}");
        ensure!(outcome.wire.violations > 0, "nobody has noticed: {outcome:?}");
        Ok(())
    });
}

fn programs(makings: &Makings) -> Result<Files> {
    let image = build::compat_image(&makings.paths).context("the image with the programs")?;
    Ok(Files { kernel: makings.files.kernel.clone(), image: image.file })
}

fn tried(makings: &Makings, files: &Files, service: &str, output: Output) -> Result<Outcome> {
    let load = loads::named(service).context("no such service")?;
    let wanted = Wanted {
        services: vec![service.to_string()],
        deaths: DEATHS,
        together: 2,
        seed: 11,
        protection: Protection::new(INTERVAL, output),
        machine: Options { memory: 256, ..Options::default() },
    };
    let outcome = soak::one(&makings.paths, files, &wanted, load);
    eprintln!(
        "        ({} deaths, {} operations, {} segments, {} contradictions)",
        outcome.deaths.len(),
        outcome.clients.operations,
        outcome.wire.segments,
        outcome.wire.violations
    );
    Ok(outcome)
}

//! The deterministic simulator: the whole machine, seeded, in one host process (D5).
#![forbid(unsafe_code)]

mod checks;
mod client;
mod console;
mod daemons;
mod fuzz;
mod image;
mod kernel;
mod many;
mod options;
mod plan;
mod programs;
mod run;
mod scale;
mod schedules;
mod sweep;
mod whole;
mod world;

use options::Options;
use plan::Plan;
use run::Outcome;
use std::process::ExitCode;

fn main() -> ExitCode {
    let options = Options::read(std::env::args().skip(1));
    // A kernel that panics is a result, which is told with its seed.
    if !options.verbose {
        std::panic::set_hook(Box::new(|_| {}));
    }
    if let Some(calls) = options.fuzz_calls {
        return fuzz(&options, calls);
    }
    if options.schedules {
        return schedules(&options);
    }
    if let Some(most) = options.scale {
        return match scale::run(most, options.seed, options.json) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("shimos-sim: {why}");
                ExitCode::FAILURE
            }
        };
    }
    let (mut passed, mut failed) = (0_u64, 0_u64);
    let mut report = |plan: &Plan, outcome: &Outcome| {
        if options.json {
            println!("{}", outcome.json(plan));
        } else if outcome.failure.is_some() || !options.sweep {
            println!("{}", outcome.line(plan));
        }
        if outcome.failure.is_none() {
            passed += 1;
            return;
        }
        failed += 1;
        if !options.json {
            let kills: String = plan
                .kills
                .iter()
                .map(|k| format!(" --kill {}:{}:{}", k.kernel.0, k.step, format!("{:?}", k.crash).to_lowercase()))
                .collect();
            let under = if options.under == plan::Under::Daemons { " --daemons" } else { "" };
            let short = if options.pace == plan::Pace::Short { " --short" } else { "" };
            let crashes = options.crashes.map_or(String::new(), |n| format!(" --crashes {n}"));
            let drains = if options.drains > 0 { format!(" --drains {}", options.drains) } else { String::new() };
            let flips = if plan.flips == 0 { String::new() } else { format!(" --flip {}", plan.flips) };
            let every = options.crash_every.map_or(String::new(), |n| format!(" --crash-every {n}"));
            println!(
                "  replay: shimos-sim{under}{short} --seed {} --steps {} --kernels {}{crashes}{drains}{flips}{every}{kills} --verbose; failed at turn {}",
                plan.seed, plan.steps, plan.kernels, outcome.turns
            );
            if options.verbose {
                println!("{}", String::from_utf8_lossy(&outcome.console));
            }
        }
    };
    if options.sweep {
        sweep::sweep(&options, &mut report);
    } else {
        for seed in (options.seed..).take(options.runs as usize) {
            let plan = Plan::new(seed, &options);
            report(&plan, &run::run(&plan, options.verbose));
        }
    }
    if options.runs > 1 || options.sweep {
        println!("{passed} passed, {failed} failed");
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Short schedules, one for each seed.
fn schedules(options: &Options) -> ExitCode {
    let kind = if options.whole { whole::WHOLE } else { schedules::DAEMONS };
    let summary = many::run(kind, options);
    if options.json {
        println!("{}", summary.json());
    } else {
        println!("{}{} passed, {} failed", summary.happened(), summary.passed, summary.failed);
    }
    if summary.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs of random system calls, one for each seed.
fn fuzz(options: &Options, calls: u64) -> ExitCode {
    let mut failed = 0;
    for seed in (options.seed..).take(options.runs as usize) {
        let wishes = fuzz::Wishes { calls, seed, damages: options.fuzz_records, verbose: options.verbose };
        let outcome = fuzz::run(wishes);
        println!("{}", outcome.line(seed));
        if outcome.failure.is_some() {
            failed += 1;
            let records = if options.fuzz_records { " --fuzz-records" } else { "" };
            println!("  replay: shimos-sim --fuzz-calls {calls}{records} --seed {seed} --verbose");
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! `shimos test`: every kind of test, with progress and one summary.
use crate::{artifacts, children::Child, image, paths::Paths};
use anyhow::{Context, Result};
use clap::ValueEnum;
use std::{
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::Instant,
};

/// Packages that build only for the bare machine, or whose tests are a step of their own.
const APART: [&str; 3] = ["shimos-kernel", "shimos-machine", "shimos-tests"];
/// What the simulator runs: random deaths under many seeds, and a death at every so many steps of the protocols.
const SIMULATIONS: [(&str, &[&str]); 5] = [
    ("simulator, short schedules", &["--schedules", "--runs", "10000"]),
    ("simulator, short schedules of whole kernels", &["--schedules", "--whole", "--runs", "3000"]),
    ("simulator, daemons", &["--daemons", "--seed", "1", "--runs", "200"]),
    ("simulator, random deaths", &["--seed", "1", "--runs", "24"]),
    ("simulator, a death at every step", &["--sweep", "--stride", "23"]),
];

/// Kinds of tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kind {
    /// What runs as ordinary programs of the host.
    Host,
    /// All interleavings of the lock-free parts.
    Models,
    /// The kernel in the simulator.
    Simulator,
    /// Machines in the emulator.
    Machine,
}

/// Tests counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Passed.
    pub passed: u64,
    /// Failed.
    pub failed: u64,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Reads the summary line of one test binary.
fn summary(line: &str) -> Option<Tally> {
    let line = line.trim();
    let counts = match line.strip_prefix("test result: ") {
        Some(result) => result.split_once(". ")?.1.to_string(),
        // The simulator's.
        None => line.replace(',', ";"),
    };
    let count =
        |what: &str| counts.split(';').find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok());
    Some(Tally { passed: count("passed")?, failed: count("failed")? })
}

/// One kind of test.
struct Step {
    what: &'static str,
    command: Command,
}

/// Runs the tests of these kinds; of all kinds if none is named.
pub fn run(paths: &Paths, kinds: &[Kind]) -> Result<ExitCode> {
    let start = Instant::now();
    let mut total = Tally::default();
    let mut failures = Vec::new();
    for kind in Kind::value_variants() {
        if !kinds.is_empty() && !kinds.contains(kind) {
            continue;
        }
        let steps = match kind {
            Kind::Host => Ok(host_steps(paths)),
            Kind::Models => Ok(vec![models(paths)]),
            Kind::Simulator => Ok(SIMULATIONS.map(|simulation| simulation_step(paths, simulation)).into()),
            Kind::Machine => whole_machine(paths).map(|step| vec![step]),
        };
        match steps {
            Ok(steps) => {
                for step in steps {
                    let what = step.what;
                    let (tally, failed) = perform(step);
                    total.add(tally);
                    failures.extend(failed.into_iter().map(|failure| format!("{what}: {failure}")));
                }
            }
            Err(error) => {
                println!("== whole machine");
                failures.push(format!("whole machine: {}", crate::usage::one_line(&error)));
                total.failed += 1;
            }
        }
    }
    // Last, so that the end of what was printed says which tests failed and why.
    for failure in &failures {
        println!("FAILED {failure}");
    }
    println!("{} passed, {} failed in {:.0} s", total.passed, total.failed, start.elapsed().as_secs_f64());
    Ok(if total.failed == 0 && total.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn host_steps(paths: &Paths) -> Vec<Step> {
    let mut host = artifacts::cargo(paths);
    host.args(["test", "--no-fail-fast", "--workspace", "--target-dir"]).arg(&paths.target);
    for name in APART {
        host.args(["--exclude", name]);
    }
    // The machine layer brings its own panic handler, so it shares no build with what needs the library.
    let mut layer = artifacts::cargo(paths);
    layer.args(["test", "-p", "shimos-machine", "--target-dir"]).arg(&paths.target);
    vec![Step { what: "host", command: host }, Step { what: "host, machine layer", command: layer }]
}

/// Model checking replaces the atomics, so everything is compiled apart.
fn models(paths: &Paths) -> Step {
    let mut command = artifacts::cargo(paths);
    command.args(["test", "--release", "--no-fail-fast", "-p", "shimos-ikc", "--target-dir"]);
    command.arg(paths.target.join("loom")).env("RUSTFLAGS", "--cfg loom");
    Step { what: "model checking", command }
}

fn simulation_step(paths: &Paths, (what, arguments): (&'static str, &[&str])) -> Step {
    let mut command = simulator(paths);
    command.args(arguments);
    Step { what, command }
}

/// What these tests need is built here, so that its progress is seen and its failure is told once.
fn whole_machine(paths: &Paths) -> Result<Step> {
    let (kernel, image) = (artifacts::kernel(paths)?, image::root(paths)?);
    let mut command = artifacts::cargo(paths);
    command.args(["test", "--release", "--no-fail-fast", "-p", "shimos-tests", "--target-dir"]).arg(&paths.target);
    command.env("SHIMOS_KERNEL", kernel).env("SHIMOS_IMAGE", image).env("SHIMOS_ROOT", &paths.root);
    Ok(Step { what: "whole machine", command })
}

fn simulator(paths: &Paths) -> Command {
    let mut command = artifacts::cargo(paths);
    command.args(["run", "--release", "-p", "shimos-sim", "--target-dir"]).arg(&paths.target).arg("--");
    command
}

/// Runs the simulator in the foreground.
pub fn simulate(paths: &Paths, seed: u64, steps: u64, more: &[String]) -> Result<ExitCode> {
    let mut command = simulator(paths);
    command.args(["--seed", &seed.to_string(), "--steps", &steps.to_string()]).args(more);
    let status = Child::spawn(&mut command)?.wait()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Lines of a failed test's report that are repeated at the end.
const TOLD: usize = 4;

/// The tests that failed, each with the beginning of what it reported, out of everything that a step said.
fn failures(said: &[String]) -> Vec<String> {
    let mut names: Vec<&str> =
        said.iter().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED")).collect();
    names.dedup();
    let report = |name: &str| {
        let heads = [format!("---- {name} ----"), format!("---- {name} stdout ----")];
        let from = said.iter().position(|line| heads.contains(line)).map_or(said.len(), |head| head + 1);
        let lines = said.iter().skip(from).skip_while(|line| line.is_empty());
        let told: Vec<&str> = lines.take_while(|line| !line.is_empty()).take(TOLD).map(|line| line.trim()).collect();
        told.join(" | ")
    };
    names.into_iter().map(|name| format!("{name}: {}", report(name))).collect()
}

/// Runs one step; shows results as they come, and everything it said when it fails. Returns what failed.
fn perform(step: Step) -> (Tally, Vec<String>) {
    println!("== {}", step.what);
    let (tally, failed) = match observe(step) {
        Ok(result) => result,
        Err(error) => (Tally { passed: 0, failed: 1 }, vec![crate::usage::one_line(&error)]),
    };
    println!("   {} passed, {} failed", tally.passed, tally.failed);
    (tally, failed)
}

fn observe(step: Step) -> Result<(Tally, Vec<String>)> {
    let mut command = step.command;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Child::spawn(&mut command)?;
    let stdout = child.take_stdout().context("no standard output")?;
    let stderr = child.take_stderr().context("no standard error")?;
    let (sender, lines) = mpsc::channel();
    let other = sender.clone();
    let readers = [
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        }),
        thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| other.send(line))
        }),
    ];
    let mut tally = Tally::default();
    let mut said = Vec::new();
    for line in lines {
        let step = line.trim_start();
        if let Some(found) = summary(&line) {
            tally.add(found);
        } else if step.starts_with("Running") || step.starts_with("Compiling") || step.starts_with("Downloading") {
            println!("   {step}");
        } else if line.starts_with("test ") && (line.ends_with("FAILED") || line.ends_with("ok")) {
            println!("   {line}");
        }
        said.push(line);
    }
    for reader in readers {
        let _ = reader.join();
    }
    let succeeded = child.wait()?.success();
    let mut failed = failures(&said);
    match succeeded {
        true if tally.passed == 0 => failed.push("no test ran".to_string()),
        false if failed.is_empty() => failed.push(said.last().cloned().unwrap_or_default()),
        _ => {}
    }
    if !failed.is_empty() {
        tally.failed = tally.failed.max(1);
        println!("   FAILED: what it said follows");
        for line in &said {
            println!("   | {line}");
        }
    }
    Ok((tally, failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_read() {
        let line = "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(summary(line), Some(Tally { passed: 12, failed: 0 }));
        let line = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(summary(line), Some(Tally { passed: 1, failed: 2 }));
        assert_eq!(summary("test passed ... ok"), None);
        assert_eq!(summary("40 passed, 2 failed"), Some(Tally { passed: 40, failed: 2 }));
    }

    #[test]
    fn failed_tests_are_told_with_their_reasons() {
        let said = [
            "test a::good ... ok",
            "test a::bad ... FAILED",
            "test other ... FAILED",
            "",
            "failures:",
            "",
            "---- a::bad stdout ----",
            "",
            "thread 'a::bad' panicked at src/a.rs:1:2:",
            "left is not right",
            "",
            "---- other ----",
            "not within 20 s: its end",
            "    [k0] the last line of a kernel",
            "",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored",
        ]
        .map(str::to_string);
        let wanted = [
            "a::bad: thread 'a::bad' panicked at src/a.rs:1:2: | left is not right",
            "other: not within 20 s: its end | [k0] the last line of a kernel",
        ];
        assert_eq!(failures(&said), wanted);
    }

    fn step(script: &str) -> Step {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Step { what: "a step", command }
    }

    #[test]
    fn a_step_without_a_test_is_a_failure() {
        assert_eq!(perform(step("true")), (Tally { passed: 0, failed: 1 }, vec!["no test ran".to_string()]));
        let last_words = perform(step("echo one; echo two; exit 3"));
        assert_eq!(last_words, (Tally { passed: 0, failed: 1 }, vec!["two".to_string()]));
        let script =
            "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; echo 'test result: ok. 3 passed; 0 failed; x'";
        assert_eq!(perform(step(script)), (Tally { passed: 5, failed: 0 }, Vec::new()));
    }

    #[test]
    fn a_step_that_cannot_start_is_a_failure() {
        let step = Step { what: "a step", command: Command::new("/does/not/exist") };
        let (tally, failed) = perform(step);
        assert_eq!((tally.failed, failed.len()), (1, 1));
    }
}

//! Runs cases one after another and reports them as cargo's own harness does.
use crate::makings::Makings;
use anyhow::Result;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

/// The cases that are run and what came of them.
pub struct Suite {
    /// What machines are made of.
    pub makings: Makings,
    filters: Vec<String>,
    passed: usize,
    left_out: usize,
    failures: Vec<(String, String)>,
    start: Instant,
}

/// What became of one case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It held.
    Passed,
    /// It did not.
    Failed,
    /// It was not asked for.
    LeftOut,
}

impl Suite {
    /// A suite of the cases whose names contain one of the words of the command line; all when there are none.
    pub fn new(makings: Makings) -> Suite {
        let filters = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
        Suite { makings, filters, passed: 0, left_out: 0, failures: Vec::new(), start: Instant::now() }
    }

    /// Whether any case of this group could be asked for.
    pub fn wants(&self, group: &str) -> bool {
        self.filters.is_empty()
            || self.filters.iter().any(|word| word.starts_with(group) || group.contains(word.as_str()))
    }

    /// Whether a case is asked for.
    fn wants_case(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|word| name.contains(word.as_str()))
    }

    /// Runs one case. `case` must not rely on what an earlier case leaves behind.
    pub fn case(&mut self, name: &str, case: impl FnOnce() -> Result<()>) -> Outcome {
        if !self.wants_case(name) {
            self.left_out += 1;
            return Outcome::LeftOut;
        }
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(case));
        let seconds = start.elapsed().as_secs_f64();
        let why = match result {
            Ok(Ok(())) => {
                eprintln!("        ({seconds:.1} s)");
                println!("test {name} ... ok");
                self.passed += 1;
                return Outcome::Passed;
            }
            Ok(Err(error)) => format!("{error:#}"),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default()
            }
        };
        eprintln!("        ({seconds:.1} s) {}", why.lines().next().unwrap_or_default());
        println!("test {name} ... FAILED");
        self.failures.push((name.to_string(), why));
        Outcome::Failed
    }

    /// Prints the summary. What is needed most comes last: whoever sees only the end of it sees which cases failed, and
    /// why.
    pub fn finish(self) -> ExitCode {
        let failed = self.failures.len();
        if failed > 0 {
            println!("\nfailures:\n");
            for (name, why) in &self.failures {
                println!("---- {name} ----\n{why}\n");
            }
            println!("failures:");
            for (name, why) in &self.failures {
                // As much as comes before the log and the status of the machine.
                let told: Vec<&str> = why.lines().take_while(|line| !line.starts_with("    [k")).take(6).collect();
                println!("    {name}: {}", told.join(" "));
            }
        }
        println!(
            "\ntest result: {}. {} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
            if failed == 0 { "ok" } else { "FAILED" },
            self.passed,
            self.left_out,
            self.start.elapsed().as_secs_f64()
        );
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

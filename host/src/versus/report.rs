//! What came out, for people and for programs.
use super::rows::{Group, Row};
use serde_json::{Value, json};

/// The kernel-bound rows must be this many times as fast as on Linux, on the geometric mean.
const KERNEL_GOAL: f64 = 3.0;
/// The whole programs must be as fast.
const PROGRAM_GOAL: f64 = 1.0;
/// No row may be slower than that.
const ROW_GOAL: f64 = 0.8;

/// The nanoseconds of one operation on one side, or why there are none.
pub type Samples = Result<Vec<f64>, String>;

/// One row's figures.
#[derive(Clone, Debug)]
pub struct Line {
    /// The row.
    pub row: Row,
    /// On Linux, sorted.
    pub linux: Samples,
    /// On Shimos, sorted.
    pub shimos: Samples,
}

fn median(samples: &Samples) -> Option<f64> {
    let sorted = samples.as_ref().ok()?;
    let middle = sorted.len() / 2;
    match (sorted.len() % 2, sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (0, Some(low), Some(high)) => Some((low + high) / 2.0),
        (_, _, high) => high.copied(),
    }
}

impl Line {
    /// How many times as fast Shimos is.
    pub fn ratio(&self) -> Option<f64> {
        Some(median(&self.linux)? / median(&self.shimos)?)
    }
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The host, the emulator, the processor's model.
    pub machine: String,
    /// Which Linux.
    pub linux: String,
    /// Rounds.
    pub rounds: u32,
    /// The rows that were measured.
    pub lines: Vec<Line>,
}

/// The geometric mean.
fn mean(ratios: &[f64]) -> Option<f64> {
    (!ratios.is_empty()).then(|| (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp())
}

/// Three digits that matter.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A time with its unit.
fn time(nanos: f64) -> String {
    match nanos {
        size if size >= 1e9 => format!("{} s", digits(size / 1e9)),
        size if size >= 1e6 => format!("{} ms", digits(size / 1e6)),
        size => format!("{} us", digits(size / 1e3)),
    }
}

fn spread(samples: &Samples) -> String {
    match samples.as_deref() {
        Ok([first, .., last]) => format!("{} .. {}", time(*first), time(*last)),
        _ => String::new(),
    }
}

impl Report {
    /// The geometric mean over a group of rows, if all of them have figures.
    pub fn mean(&self, group: Group) -> Option<f64> {
        let ratios: Option<Vec<f64>> =
            self.lines.iter().filter(|line| line.row.group == group).map(Line::ratio).collect();
        mean(&ratios?)
    }

    /// The rows that are slower than they may be.
    fn slow(&self) -> Vec<&str> {
        let slow = |line: &&Line| line.ratio().is_some_and(|ratio| ratio < ROW_GOAL);
        self.lines.iter().filter(slow).map(|line| line.row.name).collect()
    }

    /// Whether a group was measured and reached its goal; a group without rows is not asked.
    fn reached(&self, group: Group, goal: f64) -> bool {
        !self.lines.iter().any(|line| line.row.group == group) || self.mean(group).is_some_and(|mean| mean >= goal)
    }

    /// Whether every goal was met.
    pub fn held(&self) -> bool {
        let complete = self.lines.iter().all(|line| line.ratio().is_some());
        let reached = self.reached(Group::Kernel, KERNEL_GOAL) && self.reached(Group::Program, PROGRAM_GOAL);
        complete && reached && self.slow().is_empty()
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "machine: {}\nlinux: {}, one processor; shimos: one kernel; {} rounds\n\n{:<33} {:>8} {:>22}  {:>8} {:>22}  {:>7}\n",
            self.machine,
            self.linux,
            self.rounds,
            "what (medians, times)",
            "linux",
            "min .. max",
            "shimos",
            "min .. max",
            "speed"
        );
        for line in &self.lines {
            for (side, samples) in [("linux", &line.linux), ("shimos", &line.shimos)] {
                if let Err(error) = samples {
                    text += &format!("{:<33} FAILED on {side}: {error}\n", line.row.what);
                }
            }
            let (Some(linux), Some(shimos), Some(ratio)) = (median(&line.linux), median(&line.shimos), line.ratio())
            else {
                continue;
            };
            let mark = if ratio < ROW_GOAL { "  SLOW" } else { "" };
            text += &format!(
                "{:<33} {:>8} {:>22}  {:>8} {:>22}  {:>6}x{mark}\n",
                line.row.what,
                time(linux),
                spread(&line.linux),
                time(shimos),
                spread(&line.shimos),
                digits(ratio)
            );
        }
        for (group, what, goal) in [
            (Group::Kernel, "geometric mean, kernel-bound", KERNEL_GOAL),
            (Group::Program, "geometric mean, whole programs", PROGRAM_GOAL),
        ] {
            if self.lines.iter().any(|line| line.row.group == group) {
                let met = if self.reached(group, goal) { "yes" } else { "NO" };
                let mean = self.mean(group).map_or("none".to_string(), |mean| format!("{}x", digits(mean)));
                text += &format!("\n{what:<33} {mean:>8}   goal {goal:.1}x   {met}");
            }
        }
        let slow = self.slow();
        if !slow.is_empty() {
            text += &format!("\nslower than {ROW_GOAL}x: {}", slow.join(", "));
        }
        text + "\n"
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let side = |samples: &Samples| match samples {
            Ok(sorted) => {
                json!({ "median": median(samples), "min": sorted.first(), "max": sorted.last(), "samples": sorted.len() })
            }
            Err(error) => json!({ "error": error }),
        };
        let rows = self.lines.iter().map(|line| {
            json!({
                "name": line.row.name,
                "what": line.row.what,
                "group": line.row.group.name(),
                "unit": "ns",
                "linux": side(&line.linux),
                "shimos": side(&line.shimos),
                "ratio": line.ratio(),
            })
        });
        json!({
            "machine": self.machine,
            "linux": self.linux,
            "rounds": self.rounds,
            "rows": rows.collect::<Vec<_>>(),
            "kernel_mean": self.mean(Group::Kernel),
            "kernel_goal": KERNEL_GOAL,
            "program_mean": self.mean(Group::Program),
            "program_goal": PROGRAM_GOAL,
            "slow": self.slow(),
            "held": self.held(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::rows::ROWS, *};

    fn report(rows: &[(&str, f64, f64)]) -> Report {
        let lines = rows.iter().map(|(name, linux, shimos)| Line {
            row: *ROWS.iter().find(|row| row.name == *name).expect("a row"),
            linux: Ok(vec![*linux]),
            shimos: if *shimos > 0.0 { Ok(vec![*shimos]) } else { Err("broke".to_string()) },
        });
        Report { machine: "m".to_string(), linux: "l".to_string(), rounds: 1, lines: lines.collect() }
    }

    #[test]
    fn means_are_geometric_and_goals_are_judged() {
        let good = report(&[("null_call", 200.0, 100.0), ("pipe", 800.0, 100.0), ("gzip", 100.0, 90.0)]);
        assert!((good.mean(Group::Kernel).expect("a mean") - 4.0).abs() < 1e-9);
        assert!(good.held());
        assert!(good.table().contains("4.00x") && good.table().contains("yes"));
        assert_eq!(good.json()["rows"][0]["ratio"], 2.0);
        let slow = report(&[("null_call", 100.0, 10.0), ("pipe", 100.0, 200.0)]);
        assert!(!slow.held() && slow.table().contains("slower than 0.8x: pipe"));
        let broken = report(&[("null_call", 100.0, 0.0)]);
        assert!(!broken.held() && broken.table().contains("FAILED on shimos: broke"));
    }
}

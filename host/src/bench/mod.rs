//! `shimos bench`: what the project must reach, measured, with goal and verdict.
mod basics;
mod checkpoint;
mod influence;
mod loads;
mod partition;
mod pinger;
mod plot;
mod recovery;
mod takeover;
mod warm;

use crate::status::ms;
pub use basics::core;
pub use checkpoint::{checkpoint, size};
pub use influence::{Part, Wanted, influence, names, part};
pub use loads::{IMAGE, PACKAGES};
pub use partition::partition;
use plot::Chart;
pub use recovery::{Recoveries, recoveries};
use serde_json::{Value, json};
use shimos_abi::time::Nanos;
pub use takeover::{Kind, takeover};
pub use warm::{resets, warm_starts};

/// What must be reached.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Goal {
    None,
    /// What the median may be at most.
    AtMost(f64),
    /// What 99 of 100 samples may be at most.
    MostlyAtMost(f64),
}

/// One measured quantity.
#[derive(Clone, Debug)]
struct Row {
    what: String,
    unit: &'static str,
    goal: Goal,
    /// Sorted.
    samples: Vec<f64>,
    /// Why there are no samples.
    error: Option<String>,
}

impl Row {
    fn new(what: impl Into<String>, unit: &'static str, goal: Goal, samples: impl IntoIterator<Item = f64>) -> Row {
        let mut samples: Vec<f64> = samples.into_iter().collect();
        samples.sort_by(f64::total_cmp);
        Row { what: what.into(), unit, goal, samples, error: None }
    }

    fn failed(what: impl Into<String>, error: &anyhow::Error) -> Row {
        let error = Some(crate::usage::one_line(error));
        Row { what: what.into(), unit: "", goal: Goal::AtMost(0.0), samples: Vec::new(), error }
    }

    fn median(&self) -> Option<f64> {
        median(&self.samples)
    }

    /// What 99 of 100 samples do not exceed.
    fn most(&self) -> Option<f64> {
        let place = (self.samples.len() * 99).div_ceil(100).checked_sub(1)?;
        self.samples.get(place).copied()
    }

    fn met(&self) -> bool {
        let held = |value: Option<f64>, most| value.is_some_and(|value| value <= most);
        match self.goal {
            Goal::None => self.error.is_none(),
            Goal::AtMost(most) => held(self.median(), most),
            Goal::MostlyAtMost(most) => held(self.most(), most),
        }
    }
}

/// The middle of sorted samples.
fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match (sorted.len() % 2, sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (0, Some(low), Some(high)) => Some((low + high) / 2.0),
        (_, _, high) => high.copied(),
    }
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Report {
    machine: String,
    accelerator: String,
    rows: Vec<Row>,
    charts: Vec<Chart>,
    /// What a reader of the figures must know.
    notes: Vec<String>,
}

impl Report {
    fn new(machine: String, accelerator: String, rows: Vec<Row>) -> Report {
        Report { machine, accelerator, rows, charts: Vec::new(), notes: Vec::new() }
    }

    /// The charts as one picture.
    pub fn svg(&self) -> String {
        plot::svg(&self.charts)
    }

    /// Whether every goal was met.
    pub fn held(&self) -> bool {
        self.rows.iter().all(Row::met)
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!("machine: {}\naccelerator: {}\n\n", self.machine, self.accelerator);
        text += &format!(
            "{:<52} {:>10} {:>9} {:>21} {:>5} {:>15}  met\n",
            "what", "median", "99 %", "min .. max", "n", "goal"
        );
        for row in &self.rows {
            if let Some(error) = &row.error {
                text += &format!("{:<52} FAILED: {error}\n", row.what);
                continue;
            }
            let met = if row.met() { "yes" } else { "NO" };
            let (goal, met) = match row.goal {
                Goal::None => (String::new(), ""),
                Goal::AtMost(most) => (format!("{} {}", round(most), row.unit), met),
                Goal::MostlyAtMost(most) => (format!("99 %: {} {}", round(most), row.unit), met),
            };
            let shown = |value: Option<f64>| value.map_or("none".to_string(), round);
            text += &format!(
                "{:<52} {:>10} {:>9} {:>21} {:>5} {:>15}  {met}\n",
                row.what,
                format!("{} {}", shown(row.median()), row.unit),
                shown(row.most()),
                format!("{} .. {}", shown(row.samples.first().copied()), shown(row.samples.last().copied())),
                row.samples.len(),
                goal
            );
        }
        for note in &self.notes {
            text += &format!("\n{note}\n");
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "what": row.what,
                "unit": row.unit,
                "median": row.median(),
                "min": row.samples.first(),
                "max": row.samples.last(),
                "p99": row.most(),
                "samples": row.samples.len(),
                "goal": match row.goal {
                    Goal::None => Value::Null,
                    Goal::AtMost(most) => json!(most),
                    Goal::MostlyAtMost(most) => json!({ "p99": most }),
                },
                "met": row.met(),
                "error": row.error,
            })
        });
        json!({
            "machine": self.machine,
            "accelerator": self.accelerator,
            "rows": rows.collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

/// Three digits that matter.
fn round(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// One measured figure of the kernel's own, on one line.
pub fn figure(name: &str, nanos: &[u64]) -> String {
    let samples: Vec<f64> = nanos.iter().map(|nanos| *nanos as f64 / 1e3).collect();
    let at =
        |share: f64| samples.get((samples.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or(0.0);
    format!(
        "{name}: min {:.2} us, median {:.2} us, 99 % {:.2} us, max {:.2} us, {} samples",
        at(0.0),
        median(&samples).unwrap_or(0.0),
        at(0.99),
        at(1.0),
        samples.len()
    )
}

/// How soon a hang is to be noticed: three intervals, by the last stamp. The looks that end that are up to 10 ms apart.
fn hang_goal(heartbeat: Nanos) -> Goal {
    Goal::AtMost(3.0 * ms(heartbeat) + 10.0)
}

/// The host in a few words.
fn host() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_string();
    format!("{}, {cores} cores, load {load} at the start", model.unwrap_or("unknown processor"))
}

/// Says what is measured now.
fn say(what: &str) {
    eprintln!("shimos: measuring {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_goals() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[1.0, 3.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
        assert!(Row::new("a", "ms", Goal::AtMost(2.0), [9.0, 1.0, 2.0]).met());
        assert!(!Row::new("a", "ms", Goal::AtMost(1.9), [9.0, 1.0, 2.0]).met());
        assert!(!Row::new("a", "ms", Goal::AtMost(1.9), []).met());
        assert!(Row::new("a", "ms", Goal::None, [1.0]).met());
        let many = (1..=200).map(f64::from);
        assert_eq!(Row::new("a", "ms", Goal::None, many.clone()).most(), Some(198.0));
        assert!(Row::new("a", "ms", Goal::MostlyAtMost(198.0), many.clone()).met());
        assert!(!Row::new("a", "ms", Goal::MostlyAtMost(197.0), many).met());
        assert_eq!(Row::new("a", "ms", Goal::None, []).most(), None);
    }

    #[test]
    fn a_report_shows_what_failed() {
        let rows = vec![
            Row::new("fast", "ms", Goal::AtMost(5.0), [1.0, 2.0, 3.0]),
            Row::failed("broken", &anyhow::anyhow!("no kernel")),
        ];
        let report = Report::new("m".to_string(), "tcg".to_string(), rows);
        assert!(!report.held());
        let table = report.table();
        assert!(table.contains("yes") && table.contains("FAILED: no kernel"), "{table}");
        assert_eq!(report.json()["rows"][0]["median"], 2.0);
    }

    #[test]
    fn figures_fit_on_a_line() {
        assert_eq!(
            figure("woken", &[1000, 2000, 3000]),
            "woken: min 1.00 us, median 2.00 us, 99 % 2.00 us, max 3.00 us, 3 samples"
        );
        assert!(figure("none", &[]).contains("0 samples"));
    }
}

//! What came of a campaign: counts with bounds, run by run for programs.
use super::class::Class;
use serde_json::{Value, json};
use shimos_abi::control::Integrity;
use std::collections::BTreeMap;

/// What became of one run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// Nothing showed.
    Unseen,
    /// A kernel died, or somebody noticed the damage; no other kernel and no program was disturbed.
    Recovered,
    /// Damage to an image was found and said, and the generation before was taken: connections were closed, as what was sent
    /// since then is no longer true. Nobody was told anything wrong.
    WentBack,
    /// The same as [`Outcome::Recovered`], and a kernel whose processor had to wait for the host's was taken for dead as well:
    /// that cost a rollback, and nobody outside noticed.
    Suspected,
    /// A program was lost or could not go on, and it was said. No other kernel was disturbed.
    ProgramLost,
    /// A client was told something wrong, or its connection broke, after a death.
    ClientWrong,
    /// A client was told something wrong, and no kernel has noticed anything.
    Silent,
    /// Other kernels died as well.
    Spread,
    /// No kernel was left that could go on: the watchdog reset the machine, all programs went on from their images, and no
    /// client noticed.
    Reset,
    /// A core could not be brought back; all others and all their programs go on.
    Stuck,
    /// The whole machine ended or answered no more.
    Machine,
    /// Two kernels ran the same program.
    TwoCopies,
    /// It could not be tried.
    Invalid,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Outcome; 13] = [
        Outcome::Unseen,
        Outcome::Recovered,
        Outcome::WentBack,
        Outcome::Suspected,
        Outcome::ProgramLost,
        Outcome::ClientWrong,
        Outcome::Silent,
        Outcome::Spread,
        Outcome::Reset,
        Outcome::Stuck,
        Outcome::Machine,
        Outcome::TwoCopies,
        Outcome::Invalid,
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Unseen => "unseen",
            Outcome::Recovered => "recovered",
            Outcome::WentBack => "went-back",
            Outcome::Suspected => "suspected",
            Outcome::ProgramLost => "program-lost",
            Outcome::ClientWrong => "client-wrong",
            Outcome::Silent => "silent",
            Outcome::Spread => "spread",
            Outcome::Reset => "reset",
            Outcome::Stuck => "stuck",
            Outcome::Machine => "machine",
            Outcome::TwoCopies => "two-copies",
            Outcome::Invalid => "invalid",
        }
    }

    /// Whether something showed.
    pub fn manifested(self) -> bool {
        !matches!(self, Outcome::Unseen | Outcome::Invalid)
    }

    /// Whether all is as it must be.
    pub fn good(self) -> bool {
        matches!(self, Outcome::Unseen | Outcome::Recovered | Outcome::WentBack | Outcome::Suspected)
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number.
    pub number: u64,
    /// Its class.
    pub class: Class,
    /// The kernel that was hit.
    pub kernel: Option<u16>,
    /// What was done exactly.
    pub injected: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Who noticed the death, who fenced it: words and milliseconds.
    pub deaths: Vec<Value>,
    /// Takeovers of programs that followed.
    pub takeovers: u64,
    /// Whether no other kernel died.
    pub contained: bool,
    /// Answers to clients during the run.
    pub answers: u64,
    /// What was wrong, or said.
    pub said: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

impl Record {
    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "number": self.number,
            "class": self.class.to_string(),
            "kernel": self.kernel,
            "injected": self.injected,
            "outcome": self.outcome.name(),
            "manifested": self.outcome.manifested(),
            "contained": self.contained,
            "deaths": self.deaths,
            "takeovers": self.takeovers,
            "answers": self.answers,
            "said": self.said,
            "seconds": (self.seconds * 100.0).round() / 100.0,
        })
    }
}

/// All of them.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What of the images carried checksums.
    pub integrity: Integrity,
    /// By number.
    pub records: Vec<Record>,
}

/// Wilson's bounds of a share, with 95 % confidence.
pub fn wilson(hits: u64, of: u64) -> (f64, f64) {
    if of == 0 {
        return (0.0, 1.0);
    }
    const Z: f64 = 1.959_963_984_540_054;
    let (n, p) = (of as f64, hits as f64 / of as f64);
    let middle = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let whole = 1.0 + Z * Z / n;
    (((middle - half) / whole).max(0.0), ((middle + half) / whole).min(1.0))
}

type Counts = BTreeMap<Outcome, u64>;

impl Report {
    /// Whether nothing happened that must not.
    pub fn held(&self) -> bool {
        let excused =
            |record: &&Record| record.outcome.good() || record.class.excuse(record.outcome, self.integrity).is_some();
        !self.records.is_empty() && self.records.iter().filter(excused).count() == self.records.len()
    }

    fn counts(&self, wanted: impl Fn(&Record) -> bool) -> Counts {
        let mut counts = Counts::new();
        for record in self.records.iter().filter(|record| wanted(record)) {
            *counts.entry(record.outcome).or_default() += 1;
        }
        counts
    }

    fn classes(&self) -> Vec<Class> {
        let mut classes: Vec<Class> = self.records.iter().map(|record| record.class).collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let class = |class: &Class| summary(&class.to_string(), &self.counts(|record| record.class == *class));
        json!({
            "seed": self.seed,
            "held": self.held(),
            "all": summary("all", &self.counts(|_| true)),
            "classes": self.classes().iter().map(class).collect::<Vec<_>>(),
            "runs": self.records.iter().map(Record::json).collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!("{:<24} {:>5} {:>6}", "class", "runs", "shown");
        for outcome in Outcome::ALL.into_iter().skip(1) {
            text += &format!(" {:>12}", outcome.name());
        }
        text += "  recovered of shown, 95 %\n";
        for class in self.classes() {
            text += &row(&class.to_string(), &self.counts(|record| record.class == class));
        }
        text += &row("all", &self.counts(|_| true));
        for record in self.records.iter().filter(|record| !record.outcome.good()) {
            let excuse =
                record.class.excuse(record.outcome, self.integrity).map_or(String::new(), |why| format!(" [{why}]"));
            text += &format!(
                "{}: number {}, {}, {}: {}{excuse}\n",
                record.outcome.name(),
                record.number,
                record.class,
                record.injected,
                record.said.first().map_or("", String::as_str),
            );
        }
        text
    }
}

fn shares(counts: &Counts) -> (u64, u64, u64) {
    let of = |wanted: fn(Outcome) -> bool| counts.iter().filter(|(it, _)| wanted(**it)).map(|(_, n)| n).sum::<u64>();
    let all = of(|it| it != Outcome::Invalid);
    (all, of(Outcome::manifested), of(|it| it.good() && it.manifested()))
}

fn summary(name: &str, counts: &Counts) -> Value {
    let (runs, shown, recovered) = shares(counts);
    let silent = counts.get(&Outcome::Silent).copied().unwrap_or_default();
    let bounds = |(low, high): (f64, f64)| json!([low, high]);
    let each = Outcome::ALL.map(|it| (it.name().to_string(), json!(counts.get(&it).copied().unwrap_or_default())));
    json!({
        "class": name,
        "runs": runs,
        "manifested": shown,
        "outcomes": each.into_iter().collect::<serde_json::Map<String, Value>>(),
        "recovered_of_manifested_95": bounds(wilson(recovered, shown)),
        "manifested_95": bounds(wilson(shown, runs)),
        "silent_95": bounds(wilson(silent, runs)),
    })
}

fn row(name: &str, counts: &Counts) -> String {
    let (runs, shown, recovered) = shares(counts);
    let mut text = format!("{name:<24} {runs:>5} {shown:>6}");
    for outcome in Outcome::ALL.into_iter().skip(1) {
        text += &format!(" {:>12}", counts.get(&outcome).copied().unwrap_or_default());
    }
    let (low, high) = wilson(recovered, shown);
    let share = if shown == 0 { "-".to_string() } else { format!("{:.1} %", recovered as f64 / shown as f64 * 100.0) };
    text + &format!("  {share} ({:.1} to {:.1} %)\n", low * 100.0, high * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Injury;
    use shimos_abi::control::Fault;

    fn record(outcome: Outcome, class: Class) -> Record {
        Record {
            number: 0,
            class,
            kernel: Some(1),
            injected: "panic in k1".to_string(),
            outcome,
            deaths: Vec::new(),
            takeovers: 0,
            contained: true,
            answers: 1,
            said: Vec::new(),
            seconds: 0.5,
        }
    }

    #[test]
    fn bounds_are_wilsons() {
        let (low, high) = wilson(0, 10);
        assert!(low == 0.0 && (high - 0.2775).abs() < 0.001, "{high}");
        let (low, high) = wilson(5, 10);
        assert!((low - 0.2366).abs() < 0.001 && (high - 0.7634).abs() < 0.001);
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        assert!(wilson(1000, 1000).0 > 0.996);
    }

    #[test]
    fn only_named_exceptions_may_fail() {
        let panic = Class::Ordered(Injury::Ordered(Fault::Panic));
        let text = Class::Flip(super::super::class::Part::Text);
        let report_with = |integrity, records| Report { seed: 1, integrity, records };
        let report = |records| report_with(Integrity::Records, records);
        let page = || vec![record(Outcome::ClientWrong, Class::Flip(super::super::class::Part::Page))];
        assert!(report(page()).held() && !report_with(Integrity::Pages, page()).held());
        assert!(report(vec![record(Outcome::Recovered, panic), record(Outcome::Spread, text)]).held());
        assert!(!report(vec![record(Outcome::TwoCopies, text)]).held());
        let heap = Class::Flip(super::super::class::Part::Heap);
        assert!(report(vec![record(Outcome::Silent, heap)]).held());
        assert!(!report(vec![record(Outcome::Spread, heap)]).held());
        assert!(!report(vec![record(Outcome::Silent, panic)]).held());
        assert!(!report(vec![record(Outcome::Invalid, panic)]).held());
        assert!(!report(Vec::new()).held());
        let table = report(vec![record(Outcome::Silent, panic), record(Outcome::Unseen, panic)]).table();
        assert!(table.contains("silent: number 0, panic") && table.contains("0.0 %"), "{table}");
    }
}

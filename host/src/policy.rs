//! Policy files: which programs have which reliability level. TOML, a table for each rule; the first one that names a program
//! counts:
//!
//! ```toml
//! [[program]]
//! name = "web*"            # * is any letters, ? any one
//! level = "checkpoint"     # or restart, off
//! interval = "50ms"
//! output = "commit"        # or free
//! ```
use crate::{control::Control, programs, protection, registry::Entry, units};
use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use serde_json::{Value, json};
use shimos_abi::{
    control::{Generations, Level, MachineStatus, OnCrash, Output, Protection, Strictness, Target},
    ids::ProgramId,
    time::Nanos,
};
use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};
use toml::Spanned;

/// Where a machine's policy lies, in its directory.
const FILE: &str = "policy.toml";
/// Time between checkpoints if a rule says nothing.
pub const INTERVAL: Nanos = Nanos::millis(50);
/// How often a file is looked at for changes.
const LOOK: Duration = Duration::from_millis(500);
/// The program that only a rule with just this name changes: through it the machine is asked.
const DAEMON: &str = "shimosd";

/// A policy: rules in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// Programs of a name have a level.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    pattern: String,
    level: Level,
}

/// What is wrong with a policy, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrong {
    line: usize,
    column: usize,
    what: String,
}

impl Wrong {
    fn at(text: &str, span: Option<Range<usize>>, what: impl Into<String>) -> Wrong {
        let before = span.and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Wrong { line, column, what: what.into() }
    }
    /// As one line.
    pub fn told(&self, file: &Path) -> String {
        format!("{}:{}:{}: {}", file.display(), self.line, self.column, self.what)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    program: Vec<Entries>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entries {
    name: Spanned<String>,
    level: Spanned<String>,
    interval: Option<Spanned<String>>,
    output: Option<Spanned<String>>,
    integrity: Option<Spanned<String>>,
    #[serde(rename = "on-crash")]
    on_crash: Option<Spanned<String>>,
    #[serde(rename = "crash-limit")]
    crash_limit: Option<Spanned<u32>>,
    generations: Option<Spanned<u8>>,
}

impl Policy {
    /// Reads a policy; says all that is wrong with it.
    pub fn parse(text: &str) -> Result<Policy, Vec<Wrong>> {
        let file: File = toml::from_str(text).map_err(|error| {
            vec![Wrong::at(text, error.span(), error.message().lines().collect::<Vec<_>>().join("; "))]
        })?;
        let mut wrong = Vec::new();
        let mut rules: Vec<Rule> = Vec::new();
        for entries in &file.program {
            let mut complain = |span: Range<usize>, what: String| wrong.push(Wrong::at(text, Some(span), what));
            let pattern = entries.name.get_ref().clone();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.*?".contains(c);
            if pattern.is_empty() || pattern.len() > 64 || !pattern.chars().all(plain) {
                let rule = "a name has letters, digits, - _ . and the wildcards * and ?";
                complain(entries.name.span(), format!("'{pattern}' names no program: {rule}"));
            } else if let Some(first) = rules.iter().find(|rule| covers(&rule.pattern, &pattern)) {
                let what =
                    format!("this rule is never used: '{}' before it names these programs already", first.pattern);
                complain(entries.name.span(), what);
            }
            let checkpoint = match entries.level.get_ref().as_str() {
                "checkpoint" => Some(true),
                "off" | "restart" => Some(false),
                other => {
                    let what = format!("'{other}' is no level: write \"off\", \"restart\" or \"checkpoint\"");
                    complain(entries.level.span(), what);
                    None
                }
            };
            let mut protection = Protection::new(INTERVAL, Output::Commit);
            if let Some(word) = &entries.interval {
                match units::interval(word.get_ref()) {
                    Ok(interval) => protection.interval = interval,
                    Err(why) => complain(word.span(), format!("'{}': {why}, like \"50ms\"", word.get_ref())),
                }
            }
            if let Some(word) = &entries.output {
                match units::output(word.get_ref()) {
                    Ok(output) => protection.output = output,
                    Err(why) => complain(word.span(), format!("'{}' {why}", word.get_ref())),
                }
            }
            if let Some(word) = &entries.integrity {
                match units::integrity(word.get_ref()) {
                    Ok(integrity) => protection.integrity = integrity,
                    Err(why) => complain(word.span(), format!("'{}' {why}", word.get_ref())),
                }
            }
            let limit = entries.crash_limit.as_ref().map_or(protection::CRASH_LIMIT, |limit| *limit.get_ref());
            if let Some(word) = &entries.on_crash {
                match units::on_crash(word.get_ref(), limit) {
                    Ok(on_crash) => protection.on_crash = on_crash,
                    Err(why) => complain(word.span(), format!("'{}' {why}", word.get_ref())),
                }
            }
            if let Some(number) = &entries.crash_limit {
                if limit == 0 {
                    complain(number.span(), "a limit of 0 is no rollback: write 1 or more".to_string());
                } else if protection.on_crash == OnCrash::Stop {
                    complain(number.span(), "crash-limit is for on-crash = \"rollback\" only".to_string());
                }
            }
            if let Some(number) = &entries.generations {
                match *number.get_ref() {
                    count @ 1..=Generations::MOST => protection.generations = Generations(count),
                    _ => complain(number.span(), format!("1 to {} generations can be kept", Generations::MOST)),
                }
            }
            if checkpoint == Some(false) {
                let words = [
                    ("interval", &entries.interval),
                    ("output", &entries.output),
                    ("integrity", &entries.integrity),
                    ("on-crash", &entries.on_crash),
                ];
                for (key, word) in words {
                    if let Some(word) = word {
                        let what = format!("{key} is for the level \"checkpoint\" only: leave it out");
                        complain(word.span(), what);
                    }
                }
                if let Some(number) = &entries.generations {
                    let what = "generations is for the level \"checkpoint\" only: leave it out";
                    complain(number.span(), what.to_string());
                }
            }
            let level = match entries.level.get_ref().as_str() {
                "off" => Level::Off,
                "restart" => Level::Restart,
                _ => Level::Checkpoint(protection),
            };
            rules.push(Rule { pattern, level });
        }
        if wrong.is_empty() { Ok(Policy { rules }) } else { Err(wrong) }
    }

    /// Reads a policy file.
    pub fn read(file: &Path) -> Result<(Policy, String)> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        match Policy::parse(&text) {
            Ok(policy) => Ok((policy, text)),
            Err(wrong) => {
                let lines: Vec<String> = wrong.iter().map(|wrong| wrong.told(file)).collect();
                Err(anyhow!(lines.join("\n")))
            }
        }
    }

    /// The level of a program, if a rule names it.
    pub fn level_of(&self, name: &str) -> Option<Level> {
        let names = |rule: &&Rule| if name == DAEMON { rule.pattern == DAEMON } else { matches(&rule.pattern, name) };
        self.rules.iter().find(names).map(|rule| rule.level)
    }

    /// For people: the rules, and which programs of a machine have which level by them.
    pub fn table(&self, status: Option<&MachineStatus>) -> String {
        let mut text = String::new();
        for rule in &self.rules {
            text += &format!("{:<24} {}\n", rule.pattern, level(&rule.level));
        }
        for program in status.map(programs::all).unwrap_or_default() {
            let wanted = self.level_of(&program.status.name);
            let told = wanted.map_or("no rule".to_string(), |wanted| match program.status.level == Some(wanted) {
                true => level(&wanted),
                false => {
                    format!("{}, but it is {}", level(&wanted), program.status.level.map_or("?".into(), |l| level(&l)))
                }
            });
            text += &format!("  {} {:<20} {told}\n", program.status.id, program.status.name);
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({ "program": self.rules.iter().map(|rule| {
            let mut told = level_json(&rule.level);
            told["name"] = json!(rule.pattern);
            told
        }).collect::<Vec<_>>() })
    }
}

/// A level, for people.
pub fn level(level: &Level) -> String {
    match level {
        Level::Off => "off".to_string(),
        Level::Restart => "restart".to_string(),
        Level::Checkpoint(protection) => {
            format!("checkpoint {}", protection::told(protection))
        }
    }
}

/// A level, for programs.
pub fn level_json(level: &Level) -> Value {
    match level {
        Level::Off => json!({ "level": "off" }),
        Level::Restart => json!({ "level": "restart" }),
        Level::Checkpoint(protection) => {
            let mut told = protection::json(protection);
            told["level"] = json!("checkpoint");
            told
        }
    }
}

/// Whether a pattern names a program.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where to go on after the last star, if what follows it does not fit.
    let mut again: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                again = Some((p + 1, n));
                p += 1;
            }
            Some(letter) if *letter == b'?' || *letter == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match again {
                Some((after, from)) => {
                    (p, n) = (after, from + 1);
                    again = Some((after, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|letter| *letter == b'*')
}

/// Whether all programs that `later` names are named by `first` as well, as far as that is plain to see.
fn covers(first: &str, later: &str) -> bool {
    let wild = |pattern: &str| pattern.contains(['*', '?']);
    first == later || (first == "*" || !wild(later) && wild(first)) && later != DAEMON && matches(first, later)
}

/// What was changed in a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Which program.
    pub name: String,
    /// What it has now.
    pub level: Level,
    /// What of it cannot be protected, or why it could not be changed.
    pub trouble: Vec<String>,
}

/// Makes a policy that of a machine: for the programs that run, and for those that are started.
pub fn apply(control: &mut Control, entry: &Entry, policy: &Policy, text: &str) -> Result<Vec<Change>> {
    let path = entry.directory.join(FILE);
    // Whoever reads it meanwhile finds a whole one.
    let new = entry.directory.join(format!("{FILE}.new"));
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, &path))
        .with_context(|| format!("cannot write {}", path.display()))?;
    let mut changes = Vec::new();
    for program in programs::all(&control.status()?) {
        let Some(level) = policy.level_of(&program.status.name) else { continue };
        if program.status.level == Some(level) {
            continue;
        }
        let trouble = match control.set_level(by_id(program.status.id), level, Strictness::Tell) {
            Ok(exceptions) => exceptions,
            Err(error) => vec![format!("{error:#}")],
        };
        changes.push(Change { name: program.status.name, level, trouble });
    }
    Ok(changes)
}

fn by_id(program: ProgramId) -> Target {
    Target::Pid(program.first_pid())
}

/// For people: what was changed.
pub fn told(changes: &[Change]) -> String {
    let mut text = String::new();
    for change in changes {
        text += &format!("{}: {}\n", change.name, level(&change.level));
        for trouble in &change.trouble {
            text += &format!("  {trouble}\n");
        }
    }
    text
}

/// The policy of a machine, if it has one.
pub fn of_machine(entry: &Entry) -> Result<Option<Policy>> {
    let path = entry.directory.join(FILE);
    if path.exists() { Policy::read(&path).map(|(policy, _)| Some(policy)) } else { Ok(None) }
}

/// A policy file that is applied whenever it changes.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    /// What was read last, and is still to be applied.
    due: Option<(Policy, String)>,
    /// When the file was last changed, as far as that is known.
    changed: Option<SystemTime>,
    looked: Instant,
}

impl Watched {
    /// Reads the file a first time; it must be right.
    pub fn open(path: &Path) -> Result<Watched> {
        let due = Some(Policy::read(path)?);
        Ok(Watched { path: path.to_path_buf(), due, changed: changed(path), looked: Instant::now() })
    }

    /// Applies what is new; says what that changed, or why it could not be. While the file is wrong the policy before it
    /// stays.
    pub fn look(&mut self, entry: &Entry) -> Option<String> {
        if self.due.is_none() {
            if self.looked.elapsed() < LOOK {
                return None;
            }
            self.looked = Instant::now();
            let now = changed(&self.path);
            if now == self.changed {
                return None;
            }
            self.changed = now;
            match Policy::read(&self.path) {
                Ok(new) => self.due = Some(new),
                Err(error) => return Some(format!("{error:#}\nthe policy stays as it was")),
            }
        }
        let (policy, text) = self.due.take()?;
        match apply(&mut Control::new(entry.control_port), entry, &policy, &text) {
            Ok(changes) if changes.is_empty() => Some("the policy is applied; no program changes by it".to_string()),
            Ok(changes) => Some(format!("the policy is applied\n{}", told(&changes))),
            Err(error) => Some(format!("the policy cannot be applied: {error:#}")),
        }
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|found| found.modified()).ok()
}

/// The level that a machine's policy gives a program that is about to start.
pub fn level_for(entry: &Entry, name: &str) -> Result<Option<Level>> {
    Ok(of_machine(entry)?.and_then(|policy| policy.level_of(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        let wrong = Policy::parse(text).expect_err("it is wrong");
        wrong.iter().map(|wrong| wrong.told(Path::new("p.toml"))).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_first_rule_that_names_a_program_counts() {
        let text = "[[program]]\nname = \"web-?\"\nlevel = \"restart\"\n\n[[program]]\nname = \"w*\"\nlevel = \"checkpoint\"\n\
            interval = \"20ms\"\noutput = \"free\"\n\n[[program]]\nname = \"*\"\nlevel = \"off\"\n";
        let policy = Policy::parse(text).expect("a policy");
        assert_eq!(policy.level_of("web-1"), Some(Level::Restart));
        let free = Protection::new(Nanos::millis(20), Output::Free);
        assert_eq!(policy.level_of("web-12"), Some(Level::Checkpoint(free)));
        assert_eq!(policy.level_of("other"), Some(Level::Off));
        // The daemon is changed by its own name alone.
        assert_eq!(policy.level_of("shimosd"), None);
        assert_eq!(Policy::parse("").expect("empty").level_of("web"), None);
        assert_eq!(policy.json()["program"][1]["output"], "free");
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name) in
            [("*", "a"), ("a*c", "abc"), ("a*c", "acbc"), ("?", "x"), ("web", "web"), ("*b*", "abc"), ("a**", "a")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "ab"), ("?", ""), ("a*c", "ab"), ("", "a"), ("*x", "xy")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let rule = |line: &str| format!("[[program]]\nname = \"web\"\n{line}\n");
        for (text, told) in [
            (
                rule("level = \"often\""),
                "p.toml:3:9: 'often' is no level: write \"off\", \"restart\" or \"checkpoint\"",
            ),
            (rule("level = \"checkpoint\"\ninterval = \"0ms\""), "p.toml:4:12: '0ms'"),
            (rule("level = \"checkpoint\"\noutput = \"never\""), "p.toml:4:10: 'never' is neither"),
            (rule("level = \"off\"\ninterval = \"5ms\""), "p.toml:4:12: interval is for the level"),
            (rule("level = \"off\"\nretries = 3"), "p.toml:4:1: unknown field `retries`"),
            (rule("level = 3"), "p.toml:3:9: "),
            ("[[program]]\nlevel = \"off\"\n".to_string(), "p.toml:1:1: missing field `name`"),
            ("[[program]]\nname = \"we b\"\nlevel = \"off\"\n".to_string(), "p.toml:2:8: 'we b' names no program"),
            ("[[program]\n".to_string(), "p.toml:1:"),
            (rule("level = \"off\"") + &rule("level = \"off\""), "p.toml:5:8: this rule is never used"),
        ] {
            let found = wrong(&text);
            assert!(found.starts_with(told), "{text}\n{found}");
        }
        // All of it at once.
        assert_eq!(wrong(&rule("level = \"x\"\ninterval = \"y\"")).lines().count(), 2);
    }
}

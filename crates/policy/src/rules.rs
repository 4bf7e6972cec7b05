//! The rules of a policy, and what is wrong with a text that is none.
use crate::{
    pattern::{covers, matches},
    words::{self, CRASH_LIMIT, INTERVAL},
};
use serde::Deserialize;
use shimos_abi::control::{Generations, Level, OnCrash, Output, ProgramStatus, Protection};
use std::{fs, ops::Range, path::Path};
use toml::Spanned;

/// The program that only a rule with just this name changes: through it the machine is asked.
pub(crate) const DAEMON: &str = "shimosd";

/// A policy: rules in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// Programs of a name have a level.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The names, with wildcards.
    pub pattern: String,
    /// What they have.
    pub level: Level,
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
                match words::interval(word.get_ref()) {
                    Ok(interval) => protection.interval = interval,
                    Err(why) => complain(word.span(), format!("'{}': {why}, like \"50ms\"", word.get_ref())),
                }
            }
            if let Some(word) = &entries.output {
                match words::output(word.get_ref()) {
                    Ok(output) => protection.output = output,
                    Err(why) => complain(word.span(), format!("'{}' {why}", word.get_ref())),
                }
            }
            if let Some(word) = &entries.integrity {
                match words::integrity(word.get_ref()) {
                    Ok(integrity) => protection.integrity = integrity,
                    Err(why) => complain(word.span(), format!("'{}' {why}", word.get_ref())),
                }
            }
            let limit = entries.crash_limit.as_ref().map_or(CRASH_LIMIT, |limit| *limit.get_ref());
            if let Some(word) = &entries.on_crash {
                match words::on_crash(word.get_ref(), limit) {
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

    /// Reads a policy file. What is wrong is told in one line each.
    pub fn read(file: &Path) -> Result<(Policy, String), String> {
        let text = fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        match Policy::parse(&text) {
            Ok(policy) => Ok((policy, text)),
            Err(wrong) => Err(wrong.iter().map(|wrong| wrong.told(file)).collect::<Vec<_>>().join("\n")),
        }
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The level of a program, if a rule names it.
    pub fn level_of(&self, name: &str) -> Option<Level> {
        let names = |rule: &&Rule| if name == DAEMON { rule.pattern == DAEMON } else { matches(&rule.pattern, name) };
        self.rules.iter().find(names).map(|rule| rule.level)
    }

    /// For people: the rules, and which of these programs have which level by them.
    pub fn table(&self, programs: &[&ProgramStatus]) -> String {
        let mut text = String::new();
        for rule in &self.rules {
            text += &format!("{:<24} {}\n", rule.pattern, words::level(&rule.level));
        }
        for program in programs {
            let has = || program.level.map_or("?".to_string(), |level| words::level(&level));
            let told = match self.level_of(&program.name) {
                None => "no rule".to_string(),
                Some(wanted) if program.level == Some(wanted) => words::level(&wanted),
                Some(wanted) => format!("{}, but it is {}", words::level(&wanted), has()),
            };
            text += &format!("  {} {:<20} {told}\n", program.id, program.name);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shimos_abi::time::Nanos;

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

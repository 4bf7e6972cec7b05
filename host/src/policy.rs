//! Policies from the host: told as JSON, and files that are applied whenever they change. What a policy is, and how a machine
//! keeps it, is in the crate of policies.
use crate::{control::Control, protection, registry::Entry};
use serde_json::{Value, json};
use shimos_abi::control::Level;
use shimos_policy::{Policy, machine};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

/// How often a file is looked at for changes.
const LOOK: Duration = Duration::from_millis(500);

/// A policy, for programs.
pub fn json(policy: &Policy) -> Value {
    let rules = policy.rules().iter().map(|rule| {
        let mut told = level_json(&rule.level);
        told["name"] = json!(rule.pattern);
        told
    });
    json!({ "program": rules.collect::<Vec<_>>() })
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
    pub fn open(path: &Path) -> Result<Watched, String> {
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
                Err(why) => return Some(format!("{why}\nthe policy stays as it was")),
            }
        }
        let (policy, text) = self.due.take()?;
        match machine::apply(&mut Control::new(entry.control_port), &policy, &text) {
            Ok(changes) if changes.is_empty() => Some("the policy is applied; no program changes by it".to_string()),
            Ok(changes) => Some(format!("the policy is applied\n{}", machine::told(&changes))),
            Err(why) => Some(format!("the policy cannot be applied: {why}")),
        }
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|found| found.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_told_to_programs() {
        let text = "[[program]]\nname = \"web\"\nlevel = \"checkpoint\"\noutput = \"free\"\n";
        let told = json(&Policy::parse(text).expect("a policy"));
        assert_eq!((&told["program"][0]["name"], &told["program"][0]["output"]), (&json!("web"), &json!("free")));
    }
}

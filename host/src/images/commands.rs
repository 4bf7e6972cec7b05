//! `shimos image`.
use super::{
    build, import, remove,
    store::{Kept, Store},
};
use crate::{cli::ImageCommand, paths::Paths};
use anyhow::Result;
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Does what was asked; returns what to print.
pub fn run(paths: &Paths, command: ImageCommand) -> Result<String> {
    match command {
        ImageCommand::Build { packages, name } => {
            let kept = build::run(paths, &packages, name.as_deref())?;
            Ok(told(&kept))
        }
        ImageCommand::Import { source, name, wanted } => {
            let kept = import(paths, &source, name.as_deref(), wanted.as_deref())?;
            Ok(told(&kept))
        }
        ImageCommand::List { json } => {
            let all = Store::of(paths).list();
            Ok(if json { format!("{}\n", Value::Array(all.iter().map(Kept::to_json).collect())) } else { table(&all) })
        }
        ImageCommand::Rm { image } => {
            remove(paths, &image)?;
            Ok(String::new())
        }
    }
}

fn told(kept: &Kept) -> String {
    let mut text = format!("{}  {}\n", kept.short(), kept.names.join(", "));
    let command = kept.config.command(&[]);
    if !command.is_empty() {
        text += &format!(
            "runs {}\n",
            command.iter().map(|word| word.escape_default().to_string()).collect::<Vec<_>>().join(" ")
        );
    }
    text
}

fn table(all: &[Kept]) -> String {
    if all.is_empty() {
        return "there are no images; make one with ./shimos image build or import\n".to_string();
    }
    let mut text = format!("{:<14}{:>9}  {:<9}{:<24}{}\n", "DIGEST", "SIZE", "AGE", "NAME", "MADE FROM");
    for kept in all {
        let (size, age) = (format!("{} MiB", kept.size >> 20), age(kept.created));
        let source: String = kept.source.chars().take(60).collect();
        text +=
            &format!("{:<14}{size:>9}  {age:<9}{:<24}{}\n", kept.short(), kept.names.join(","), source.escape_debug());
    }
    text
}

fn age(created: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    match now.saturating_sub(created) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

//! How a program is protected: the command line's words for it, and how it is told.
use crate::{names, units};
use clap::Args;
use serde_json::{Value, json};
use shimos_abi::{
    control::{Generations, Integrity, OnCrash, Output, Protection},
    time::Nanos,
};
use shimos_policy::words::CRASH_LIMIT;

/// Options of a level with checkpoints.
#[derive(Args, Clone, Debug)]
pub struct ProtectionArgs {
    /// What happens to its output: commit (held until the next checkpoint) or free.
    #[arg(long, value_parser = units::output, default_value = "commit")]
    pub output: Output,
    /// What of its image carries checksums: records, or pages too.
    #[arg(long, value_parser = units::integrity, default_value = "records")]
    pub integrity: Integrity,
    /// What is done when it crashes itself: stop, or rollback to its last generation.
    #[arg(long, value_name = "stop|rollback", value_parser = |word: &str| units::on_crash(word, CRASH_LIMIT), default_value = "stop")]
    pub on_crash: OnCrash,
    /// Rollbacks in a row, after which a further crash ends it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub crash_limit: Option<u32>,
    /// Committed generations that are kept, 1 or 2.
    #[arg(long, value_name = "N", default_value_t = Generations::MOST, value_parser = clap::value_parser!(u8).range(1..=i64::from(Generations::MOST)))]
    pub generations: u8,
}

impl ProtectionArgs {
    /// With a time between checkpoints.
    pub fn every(&self, interval: Nanos) -> Protection {
        let on_crash = match (self.on_crash, self.crash_limit) {
            (OnCrash::Rollback { .. }, Some(limit)) => OnCrash::Rollback { limit },
            (on_crash, _) => on_crash,
        };
        let generations = Generations(self.generations);
        Protection { interval, output: self.output, integrity: self.integrity, on_crash, generations }
    }
}

/// For programs.
pub fn json(protection: &Protection) -> Value {
    json!({
        "interval": protection.interval.0,
        "output": names::output(protection.output),
        "integrity": names::integrity(protection.integrity),
        "on_crash": names::on_crash(protection.on_crash),
        "crash_limit": match protection.on_crash {
            OnCrash::Stop => Value::Null,
            OnCrash::Rollback { limit } => json!(limit),
        },
        "generations": protection.generations.0,
    })
}

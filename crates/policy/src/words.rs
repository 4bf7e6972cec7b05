//! Words for how a program is protected: as people write them, and as they are told.
use shimos_abi::{
    control::{Generations, Integrity, Level, MAX_INTERVAL, MIN_INTERVAL, OnCrash, Output, Protection},
    time::Nanos,
};

/// Rollbacks in a row, if nothing else is said.
pub const CRASH_LIMIT: u32 = 3;
/// Time between checkpoints, if nothing else is said.
pub const INTERVAL: Nanos = Nanos::millis(50);

/// A duration: a number and a unit, like `50ms`.
pub fn duration(word: &str) -> Result<Nanos, String> {
    let digits = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
    let (number, unit) = word.split_at(digits);
    let scale = match unit {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" | "min" => 60e9,
        "h" => 3600e9,
        "d" => 24.0 * 3600e9,
        "" => return Err("needs a unit: us, ms, s, m, h or d, like 50ms".to_string()),
        _ => {
            return Err(format!("'{unit}' is no unit; use us, ms, s, m, h or d, like 50ms"));
        }
    };
    let number: f64 = number.parse().map_err(|_| format!("'{number}' is no number; write it like 50ms"))?;
    let nanos = number * scale;
    if nanos > u64::MAX as f64 {
        return Err("is longer than any clock runs".to_string());
    }
    Ok(Nanos(nanos.round() as u64))
}

/// A checkpoint interval.
pub fn interval(word: &str) -> Result<Nanos, String> {
    match duration(word)? {
        interval if interval < MIN_INTERVAL || interval > MAX_INTERVAL => {
            Err("the interval must be from 1ms to 7d".to_string())
        }
        interval => Ok(interval),
    }
}

/// What happens to output: `commit` or `free`.
pub fn output(word: &str) -> Result<Output, String> {
    match word {
        "commit" => Ok(Output::Commit),
        "free" => Ok(Output::Free),
        _ => Err("is neither commit (held until the next checkpoint) nor free".to_string()),
    }
}

/// What of an image carries checksums: `records` or `pages`.
pub fn integrity(word: &str) -> Result<Integrity, String> {
    match word {
        "records" => Ok(Integrity::Records),
        "pages" => Ok(Integrity::Pages),
        _ => Err("is neither records nor pages (records and the contents of pages)".to_string()),
    }
}

/// What is done when a program crashes: `stop`, or `rollback`, as often as the limit says.
pub fn on_crash(word: &str, limit: u32) -> Result<OnCrash, String> {
    match word {
        "stop" => Ok(OnCrash::Stop),
        "rollback" => Ok(OnCrash::Rollback { limit }),
        _ => Err("is neither stop nor rollback".to_string()),
    }
}

/// The word for what happens to output.
pub fn output_word(output: Output) -> &'static str {
    match output {
        Output::Commit => "commit",
        Output::Free => "free",
    }
}

/// The word for what of an image carries checksums.
pub fn integrity_word(integrity: Integrity) -> &'static str {
    match integrity {
        Integrity::Records => "records",
        Integrity::Pages => "pages",
    }
}

/// The word for what is done when a program crashes.
pub fn on_crash_word(on_crash: OnCrash) -> &'static str {
    match on_crash {
        OnCrash::Stop => "stop",
        OnCrash::Rollback { .. } => "rollback",
    }
}

/// How a program is protected, for people: what is as usual is not told.
pub fn protection(protection: &Protection) -> String {
    let interval = protection.interval.0 as f64 / 1e6;
    let mut text = format!("every {interval} ms, output {}", output_word(protection.output));
    if protection.integrity != Integrity::default() {
        text += &format!(", integrity {}", integrity_word(protection.integrity));
    }
    if let OnCrash::Rollback { limit } = protection.on_crash {
        text += &format!(", rollback up to {limit} times");
    }
    if protection.generations != Generations::default() {
        text += &format!(", {} generation", protection.generations.0);
    }
    text
}

/// A level, for people.
pub fn level(level: &Level) -> String {
    match level {
        Level::Off => "off".to_string(),
        Level::Restart => "restart".to_string(),
        Level::Checkpoint(how) => format!("checkpoint {}", protection(how)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("50ms"), Ok(Nanos::millis(50)));
        assert_eq!(duration("1s"), Ok(Nanos::secs(1)));
        assert_eq!(duration("2h"), Ok(Nanos::secs(7200)));
        assert_eq!(duration("1.5ms"), Ok(Nanos::micros(1500)));
        for wrong in ["50", "ms", "", "5 ms", "-1s", "1y", "1.2.3s", "99999999999999999999h", "∞s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn intervals_are_from_a_millisecond_to_a_week() {
        assert_eq!(interval("1ms"), Ok(Nanos::millis(1)));
        assert_eq!(interval("7d"), Ok(MAX_INTERVAL));
        for wrong in ["0ms", "0.9ms", "8d", "0"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn words_are_read_as_they_are_told() {
        for how in [Output::Commit, Output::Free] {
            assert_eq!(output(output_word(how)), Ok(how));
        }
        for how in [Integrity::Records, Integrity::Pages] {
            assert_eq!(integrity(integrity_word(how)), Ok(how));
        }
        for how in [OnCrash::Stop, OnCrash::Rollback { limit: 7 }] {
            assert_eq!(on_crash(on_crash_word(how), 7), Ok(how));
        }
    }
}

//! The demonstration's computation: a state that lives only in a program's memory, printed step by step, and its check.
use shimos_abi::{control::Start, ids::KernelId};

/// The generator's modulus and multiplier (Park and Miller): products stay exact in awk's floating-point numbers.
const MODULUS: u64 = 2_147_483_647;
const MULTIPLIER: u64 = 16_807;
/// Steps of the generator between two lines; they set the pace, without a clock.
const STEPS: u32 = 2_000;

/// The program: `awk` of Debian's busybox.
pub fn program(name: &str, kernel: Option<KernelId>) -> Start {
    let script = format!(
        "BEGIN {{ x = 1; for (n = 1; ; n++) {{ for (i = 0; i < {STEPS}; i++) x = (x * {MULTIPLIER}) % {MODULUS}; \
         print n, x; fflush() }} }}"
    );
    Start {
        name: name.to_string(),
        argv: ["/bin/busybox", "awk", &script].map(str::to_string).to_vec(),
        env: vec!["PATH=/usr/bin:/usr/sbin".to_string()],
        cwd: "/".to_string(),
        kernel,
        ..Start::default()
    }
}

/// What the lines say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Lines seen.
    pub lines: u64,
    /// Numbers that were jumped over.
    pub missing: u64,
    /// Numbers that came again, or after a higher one.
    pub repeated: u64,
    /// Lines whose value is not what the computation gives.
    pub wrong: u64,
}

impl Count {
    /// Whether every line came exactly once, in order, with the right value.
    pub fn perfect(&self) -> bool {
        self.lines > 0 && self.missing == 0 && self.repeated == 0 && self.wrong == 0
    }
}

/// Checks the lines.
pub fn check<'a>(lines: impl IntoIterator<Item = &'a str>) -> Count {
    let mut count = Count::default();
    let stride = power(MULTIPLIER, STEPS);
    let (mut last, mut value) = (0_u64, 1_u64);
    for line in lines {
        count.lines += 1;
        let mut words = line.split(' ');
        let numbers = (words.next().and_then(number), words.next().and_then(number), words.next());
        let (Some(found), Some(shown), None) = numbers else {
            count.wrong += 1;
            continue;
        };
        if found <= last {
            count.repeated += 1;
            continue;
        }
        // A number far off is damage, not a gap: do not follow it.
        if found - last > 1_000_000 {
            count.wrong += 1;
            continue;
        }
        count.missing += found - last - 1;
        for _ in last..found {
            value = value * stride % MODULUS;
        }
        last = found;
        if shown != value {
            count.wrong += 1;
        }
    }
    count
}

fn number(word: &str) -> Option<u64> {
    word.parse().ok()
}

fn power(base: u64, exponent: u32) -> u64 {
    (0..exponent).fold(1, |product, _| product * base % MODULUS)
}

#[cfg(test)]
mod tests {
    use super::*;

    // What busybox awk prints on Linux.
    const LINES: [&str; 2] = ["1 75099568", "2 221735936"];

    #[test]
    fn the_computation_is_known() {
        let count = check(LINES);
        assert_eq!(count, Count { lines: 2, ..Count::default() });
        assert!(count.perfect());
        assert!(!check([]).perfect());
    }

    #[test]
    fn gaps_repetitions_and_damage_are_told_apart() {
        assert_eq!(check([LINES[1]]), Count { lines: 1, missing: 1, ..Count::default() });
        assert_eq!(check([LINES[0], LINES[0], LINES[1]]), Count { lines: 3, repeated: 1, ..Count::default() });
        assert_eq!(check([LINES[0], "2 7"]), Count { lines: 2, wrong: 1, ..Count::default() });
        assert_eq!(
            check(["what?", LINES[0], "18446744073709551615 1"]),
            Count { lines: 3, wrong: 2, ..Count::default() }
        );
    }
}

//! Patterns for the names of programs: `*` is any letters, `?` any one.
use crate::rules::DAEMON;

/// Whether a pattern names a program.
pub fn matches(pattern: &str, name: &str) -> bool {
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
pub fn covers(first: &str, later: &str) -> bool {
    let wild = |pattern: &str| pattern.contains(['*', '?']);
    first == later || (first == "*" || !wild(later) && wild(first)) && later != DAEMON && matches(first, later)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}

//! Reads the console as a person would: every program's lines must come exactly once and in order.
use shimos_abi::console::CUT;
use std::collections::BTreeMap;

/// What whoever drives the console can know of what was shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Memory {
    /// Everything.
    #[default]
    Whole,
    /// Another kernel drove it until a moment ago.
    Lost,
}

/// What the console has shown so far.
#[derive(Debug, Default)]
pub struct Console {
    read: usize,
    line: Vec<u8>,
    /// The last number each program has shown.
    pub counts: BTreeMap<u8, u64>,
    /// The last number that nobody could foresee, of each program that shows such.
    chains: BTreeMap<u8, u64>,
    /// Lines of any kind.
    pub lines: u64,
    /// Whether the console may just have lost its memory of what it has shown: a new kernel drives it.
    pub memory: Memory,
    /// How often a program's lines jumped because of that.
    pub jumps: u64,
}

impl Console {
    /// How many bytes have been read.
    pub fn position(&self) -> usize {
        self.read
    }

    /// Reads further bytes; says what is wrong with them.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.read += bytes.len();
        for byte in bytes {
            match *byte {
                b'\n' => {}
                CUT => {
                    self.line.clear();
                    continue;
                }
                _ => {
                    self.line.push(*byte);
                    continue;
                }
            }
            let line = std::mem::take(&mut self.line);
            self.lines += 1;
            self.whole(line.trim_ascii_end())?;
        }
        Ok(())
    }

    fn whole(&mut self, line: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(line);
        if text.ends_with(" FAILED") {
            return Err(format!("a program says: {text}"));
        }
        if text.matches("| ").count() > 1 {
            return Err(format!("console: a line within a line: {text}"));
        }
        // The progress line may stand behind a prefix of the console.
        let Some(start) = line.len().checked_sub(10) else { return Ok(()) };
        let (letter, number) = (line[start], &line[start + 2..]);
        if line[start + 1] != b' ' || !letter.is_ascii_uppercase() || !number.iter().all(u8::is_ascii_digit) {
            return Ok(());
        }
        let number: u64 = String::from_utf8_lossy(number).parse().unwrap_or(0);
        let last = self.counts.entry(letter).or_insert(0);
        if number != *last + 1 && self.memory == Memory::Lost {
            self.jumps += 1;
        } else if number != *last + 1 {
            return Err(format!("console: {} {number} after {last}", letter as char));
        }
        let follows = number == *last + 1;
        *last = number;
        self.chain(letter, &line[..start], follows)
    }

    /// What stands in front of a progress line may be a number and the one that the line before it had: what was shown must
    /// never have been otherwise.
    fn chain(&mut self, letter: u8, front: &[u8], follows: bool) -> Result<(), String> {
        let front = String::from_utf8_lossy(front);
        let mut words = front.split_ascii_whitespace().rev();
        let number = |word: Option<&str>| word.filter(|word| word.len() == 8)?.parse::<u64>().ok();
        let (Some(now), Some(before)) = (number(words.next()), number(words.next())) else {
            // It has none, or its beginning was lost with the console's owner.
            self.chains.remove(&letter);
            return Ok(());
        };
        let shown = self.chains.insert(letter, now);
        if let Some(shown) = shown.filter(|shown| follows && before != *shown) {
            return Err(format!("output before its commit: {} was shown {shown}, and it was {before}", letter as char));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_otherwise_is_seen() {
        let mut console = Console::default();
        assert_eq!(console.feed(b"00000000 00000017 R 00000001\n[r] 00000017 00000023 R 00000002\n"), Ok(()));
        assert!(console.feed(b"00000024 00000031 R 00000003\n").is_err());
        // What came between was lost with the console's owner.
        console.memory = Memory::Lost;
        assert_eq!(console.feed(b"00000040 00000041 R 00000005\n"), Ok(()));
    }

    #[test]
    fn a_line_twice_or_missing_is_seen() {
        let mut console = Console::default();
        assert_eq!(console.feed(b"C 00000001\r\nbooting\nD 00000001\n[c] C 00000002\n"), Ok(()));
        assert_eq!(console.counts.get(&b'C'), Some(&2));
        assert!(console.feed(b"C 00000002\n").is_err());
        assert!(console.feed(b"D 00000003\n").is_err());
        assert!(console.feed(b"D FAILED\n").is_err());
        assert!(console.feed(b"d| D 000d| D 00000002\n").is_err());
        assert_eq!(console.feed(b"d| D 000\x18\rd| D 00000002\n"), Ok(()));
    }
}

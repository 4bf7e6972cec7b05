//! The machine's console: every line, by who said it, in memory and in a log file.
//!
//! The console's owner prints `[k1] text` for a kernel's log and `name| text` for a line of a program.
use crate::logs::Splitter;
use shimos_abi::console::CUT;
use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Who said a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A kernel.
    Kernel(u16),
    /// A program, by name.
    Program(String),
    /// Something else: firmware, or a line that was cut.
    Other,
}

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// When it came.
    pub at: Instant,
    /// Who said it.
    pub source: Source,
    /// What, without the mark in front.
    pub text: String,
    /// The whole line as it came.
    pub raw: String,
}

/// Takes a line apart.
pub fn parse(raw: &str) -> (Source, &str) {
    if let Some((id, text)) = raw.strip_prefix("[k").and_then(|rest| rest.split_once(']'))
        && let Ok(id) = id.parse()
    {
        return (Source::Kernel(id), text.strip_prefix(' ').unwrap_or(text));
    }
    if let Some((name, text)) = raw.split_once('|')
        && crate::units::name(name).is_ok()
    {
        return (Source::Program(name.to_string()), text.strip_prefix(' ').unwrap_or(text));
    }
    (Source::Other, raw)
}

/// What came up to the end of a line, or to the machine's: pieces that were cut, which nobody said, and the line itself.
fn pieces(text: &str) -> Vec<(&str, (Source, &str))> {
    let mut pieces: Vec<&str> = text.split(char::from(CUT)).collect();
    // After the mark its writer returns to the beginning of the line.
    let line = pieces.pop_if(|line| line.ends_with('\n')).map(|line| line.trim_matches(['\r', '\n']));
    let cut = pieces.into_iter().map(|piece| piece.trim_matches('\r')).filter(|piece| !piece.is_empty());
    cut.map(|piece| (piece, (Source::Other, piece))).chain(line.map(|line| (line, parse(line)))).collect()
}

#[derive(Default, Debug)]
struct State {
    lines: Vec<Line>,
    closed: bool,
}

/// The console of a running machine. Clones show the same console.
#[derive(Clone, Default, Debug)]
pub struct Console {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Console {
    /// Reads lines from `from` until it ends, in a thread of its own; each also goes to the file `log`, and those of programs
    /// to logs of their own beside it.
    pub fn read(from: impl Read + Send + 'static, log: &Path) -> std::io::Result<Console> {
        let mut file = File::create(log)?;
        let console = Console::default();
        let writer = console.clone();
        let mut logs = Splitter::new(log.parent().unwrap_or(Path::new(".")));
        thread::spawn(move || {
            let mut reader = BufReader::new(from);
            let mut bytes = Vec::new();
            while matches!(reader.read_until(b'\n', &mut bytes), Ok(1..)) {
                let text = String::from_utf8_lossy(&bytes);
                for (raw, (source, said)) in pieces(&text) {
                    let _ = writeln!(file, "{raw}");
                    if let Source::Program(name) = &source {
                        logs.line(name, said);
                    }
                    writer.push(Line { at: Instant::now(), source, text: said.to_string(), raw: raw.to_string() });
                }
                bytes.clear();
            }
            writer.state().closed = true;
            writer.shared.1.notify_all();
        });
        Ok(console)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: Line) {
        self.state().lines.push(line);
        self.shared.1.notify_all();
    }

    /// How many lines there are.
    pub fn count(&self) -> usize {
        self.state().lines.len()
    }

    /// The lines from number `first` on.
    pub fn since(&self, first: usize) -> Vec<Line> {
        self.state().lines.get(first..).unwrap_or_default().to_vec()
    }

    /// Waits until there are lines from number `first` on; empty when the console has closed or the time is over.
    pub fn next(&self, first: usize, within: Duration) -> Vec<Line> {
        let end = Instant::now() + within;
        let mut state = self.state();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if state.lines.len() > first || state.closed || left.is_zero() {
                return state.lines.get(first..).unwrap_or_default().to_vec();
            }
            state = self.shared.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the first line that satisfies `wanted`.
    pub fn wait_for(&self, within: Duration, wanted: impl Fn(&Line) -> bool) -> Option<Line> {
        let end = Instant::now() + within;
        let mut seen = 0;
        loop {
            let lines = self.next(seen, end.saturating_duration_since(Instant::now()));
            if lines.is_empty() {
                return None;
            }
            seen += lines.len();
            if let Some(line) = lines.into_iter().find(&wanted) {
                return Some(line);
            }
        }
    }

    /// What a program said, line by line.
    pub fn of_program(&self, name: &str) -> Vec<String> {
        let state = self.state();
        let said = |line: &&Line| matches!(&line.source, Source::Program(source) if source == name);
        state.lines.iter().filter(said).map(|line| line.text.clone()).collect()
    }

    /// Whether the machine has closed it.
    pub fn closed(&self) -> bool {
        self.state().closed
    }

    /// The last `count` lines as they came.
    pub fn last(&self, count: usize) -> Vec<String> {
        let state = self.state();
        let first = state.lines.len().saturating_sub(count);
        state.lines.iter().skip(first).map(|line| line.raw.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart_by_source() {
        assert_eq!(parse("[k3] up"), (Source::Kernel(3), "up"));
        assert_eq!(parse("counter| 17 4711"), (Source::Program("counter".to_string()), "17 4711"));
        assert_eq!(parse("counter|"), (Source::Program("counter".to_string()), ""));
        assert_eq!(parse("a b| c"), (Source::Other, "a b| c"));
        assert_eq!(parse("[kx] odd"), (Source::Other, "[kx] odd"));
        assert_eq!(parse(""), (Source::Other, ""));
    }

    #[test]
    fn what_was_cut_is_nobodys_line() {
        let of = |text| pieces(text).into_iter().map(|(_, found)| found).collect::<Vec<_>>();
        let program = |text| (Source::Program("row".to_string()), text);
        assert_eq!(of("row| 5 77\r\n"), [program("5 77")]);
        assert_eq!(of("row| 5\x18\rrow| 5 77\r\n"), [(Source::Other, "row| 5"), program("5 77")]);
        assert_eq!(of("ro\x18\r\x18\r[k0] up\n"), [(Source::Other, "ro"), (Source::Kernel(0), "up")]);
        assert_eq!(of("\x18\r\n"), [(Source::Other, "")]);
        assert_eq!(of("\x18\rrow| 5 7"), [(Source::Other, "row| 5 7")]);
    }

    #[test]
    fn a_console_is_read_to_its_end() {
        let directory = std::env::temp_dir().join(format!("shimos-console-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("directory");
        let log = directory.join("console.log");
        let console = Console::read(&b"[k0] one\r\ncounter| 1\ncounter| 2\n"[..], &log).expect("log file");
        let line = console.wait_for(Duration::from_secs(5), |line| line.text == "2").expect("comes");
        assert_eq!(line.source, Source::Program("counter".to_string()));
        assert!(console.wait_for(Duration::from_millis(50), |line| line.text == "3").is_none());
        assert!(console.closed());
        assert_eq!(console.of_program("counter"), ["1", "2"]);
        assert_eq!(console.last(1), ["counter| 2"]);
        assert_eq!(std::fs::read_to_string(&log).expect("written"), "[k0] one\ncounter| 1\ncounter| 2\n");
        assert_eq!(std::fs::read_to_string(directory.join("logs/counter.log")).expect("written"), "1\n2\n");
        let _ = std::fs::remove_dir_all(directory);
    }
}

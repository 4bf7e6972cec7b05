//! What became of a program, as the kernels say on the console.
use crate::{console, registry::Entry};
use anyhow::Result;
use shimos_abi::{ids::ProgramId, session::Ending};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
};

/// How a program ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// With its first process.
    Ended(Ending),
    /// With its kernel; why.
    Lost(String),
}

/// Reads the console's log for the end of one program.
#[derive(Debug)]
pub struct Follower {
    log: PathBuf,
    at: u64,
    rest: Vec<u8>,
    /// What it is waited for: the program's name, and its number once that is known.
    name: String,
    program: Option<ProgramId>,
}

impl Follower {
    /// Looks at what is said from now on.
    pub fn new(machine: &Entry, name: &str) -> Follower {
        let log = machine.directory.join("console.log");
        let at = std::fs::metadata(&log).map_or(0, |found| found.len());
        Follower { log, at, rest: Vec::new(), name: name.to_string(), program: None }
    }

    /// The program got this number.
    pub fn is(&mut self, program: ProgramId) {
        self.program = Some(program);
    }

    /// What became of it, if that has been said since it was asked last.
    pub fn look(&mut self) -> Result<Option<Fate>> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.at))?;
        let count = file.read_to_end(&mut self.rest)?;
        self.at += count as u64;
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        let mut fate = None;
        for line in String::from_utf8_lossy(&lines).lines() {
            fate = self.read(line).or(fate);
        }
        Ok(fate)
    }

    fn read(&self, line: &str) -> Option<Fate> {
        let (console::Source::Kernel(_), text) = console::parse(line) else { return None };
        let text = text.strip_prefix("program ")?;
        if let Some(status) = text.strip_prefix(&self.name).and_then(|text| text.strip_prefix(" ended, status 0x")) {
            return Some(Fate::Ended(ending(u32::from_str_radix(status, 16).ok()?)));
        }
        let lost = text.strip_prefix(&self.program?.to_string())?.strip_prefix(" is lost: ")?;
        Some(Fate::Lost(lost.to_string()))
    }
}

/// From the status word of wait(2).
fn ending(status: u32) -> Ending {
    match status & 0x7f {
        0 => Ending::Exited((status >> 8) as u8),
        signal => Ending::Killed(signal as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_end_of_one_program_is_found_among_others() {
        let directory = std::env::temp_dir().join(format!("shimos-fate-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("directory");
        let log = directory.join("console.log");
        std::fs::write(&log, "[k0] program web ended, status 0x0\n").expect("writes");
        let entry = Entry { id: "m".to_string(), pid: 1, control_port: 1, qmp: "q".into(), directory };
        let mut follower = Follower::new(&entry, "web");
        follower.is(ProgramId(7));
        let mut file = File::options().append(true).open(&log).expect("opens");
        assert_eq!(follower.look().expect("reads"), None);
        write!(file, "web| program web ended, status 0x1\n[k0] program web2 ended, status 0x100\n[k1] program w")
            .expect("");
        assert_eq!(follower.look().expect("reads"), None);
        writeln!(file, "eb ended, status 0x300").expect("writes");
        assert_eq!(follower.look().expect("reads"), Some(Fate::Ended(Ending::Exited(3))));
        writeln!(file, "[k1] program web ended, status 0xf").expect("writes");
        assert_eq!(follower.look().expect("reads"), Some(Fate::Ended(Ending::Killed(15))));
        writeln!(file, "[k1] program {} is lost: no reason", ProgramId(7)).expect("writes");
        assert_eq!(follower.look().expect("reads"), Some(Fate::Lost("no reason".to_string())));
        let _ = std::fs::remove_dir_all(entry.directory);
    }
}

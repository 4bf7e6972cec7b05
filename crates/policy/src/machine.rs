//! A machine's policy: kept there as text, and carried out by whoever brings it.
use crate::{Policy, words};
use shimos_abi::{
    control::{KernelState, Level, MachineStatus, ProgramStatus, Request, Response, Strictness, Target},
    policy::{MAX_POLICY, PART, Part},
};

/// Whoever answers requests: the control daemon, or the kernel's device.
pub trait Ask {
    /// Asks; a refusal is an error, told in one line.
    fn ask(&mut self, request: &Request) -> Result<Response, String>;
}

/// How often a text is read that others change meanwhile.
const TRIES: usize = 8;

/// The text of the machine's policy, if it has one.
pub fn text(machine: &mut impl Ask) -> Result<Option<String>, String> {
    for _ in 0..TRIES {
        if let Some(bytes) = read(machine)? {
            let text = String::from_utf8(bytes).map_err(|_| "the machine's policy is no text".to_string())?;
            return Ok(Some(text).filter(|text| !text.is_empty()));
        }
    }
    Err("the machine's policy is changed all the time: try again".to_string())
}

/// The whole text, unless it changes while it is read.
fn read(machine: &mut impl Ask) -> Result<Option<Vec<u8>>, String> {
    let mut bytes = Vec::new();
    loop {
        let from = bytes.len() as u32;
        let Response::Policy(part) = machine.ask(&Request::Policy { from })? else { return Err(odd()) };
        let ends = part.bytes.is_empty();
        bytes.extend_from_slice(&part.bytes);
        if bytes.len() == part.total as usize {
            return Ok((crc32fast::hash(&bytes) == part.checksum).then_some(bytes));
        }
        if ends || part.from != from || bytes.len() > part.total as usize {
            return Ok(None);
        }
    }
}

fn odd() -> String {
    "an answer that does not fit the question".to_string()
}

/// The machine's policy, if it has one.
pub fn policy(machine: &mut impl Ask) -> Result<Option<Policy>, String> {
    let Some(text) = text(machine)? else { return Ok(None) };
    Policy::parse(&text).map(Some).map_err(|wrong| {
        let place = std::path::Path::new("the machine's policy");
        wrong.iter().map(|wrong| wrong.told(place)).collect::<Vec<_>>().join("\n")
    })
}

/// Makes a text the machine's policy.
fn keep(machine: &mut impl Ask, text: &str) -> Result<(), String> {
    if text.len() > MAX_POLICY {
        return Err(format!("the policy has {} bytes; a machine keeps {MAX_POLICY} at most", text.len()));
    }
    let (total, checksum) = (text.len() as u32, crc32fast::hash(text.as_bytes()));
    let mut parts: Vec<&[u8]> = text.as_bytes().chunks(PART).collect();
    if parts.is_empty() {
        parts.push(&[]);
    }
    let mut from = 0;
    for bytes in parts {
        let part = Part { total, checksum, from, bytes: bytes.to_vec() };
        from += bytes.len() as u32;
        match machine.ask(&Request::SetPolicy(part))? {
            Response::Done => {}
            _ => return Err(odd()),
        }
    }
    Ok(())
}

/// What was changed in a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Which program.
    pub name: String,
    /// What it has now.
    pub level: Level,
    /// What of it cannot be protected, or why it could not be changed.
    pub trouble: Vec<String>,
}

/// Makes a policy that of the machine: for the programs that run, and for those that are started.
pub fn apply(machine: &mut impl Ask, policy: &Policy, text: &str) -> Result<Vec<Change>, String> {
    keep(machine, text)?;
    let Response::Status(status) = machine.ask(&Request::Status)? else { return Err(odd()) };
    let mut changes = Vec::new();
    for program in programs(&status) {
        let Some(level) = policy.level_of(&program.name).filter(|level| program.level != Some(*level)) else {
            continue;
        };
        let target = Target::Pid(program.id.first_pid());
        let request = Request::SetLevel { target, level, strictness: Strictness::Tell };
        let trouble = match machine.ask(&request) {
            Ok(Response::Protected { exceptions, .. }) => exceptions,
            Ok(_) => Vec::new(),
            Err(why) => vec![why],
        };
        changes.push(Change { name: program.name.clone(), level, trouble });
    }
    Ok(changes)
}

/// All programs of a machine, by their numbers.
pub fn programs(status: &MachineStatus) -> Vec<&ProgramStatus> {
    let running = status.kernels.iter().filter(|kernel| kernel.state == KernelState::Running);
    let mut found: Vec<&ProgramStatus> = running.flat_map(|kernel| &kernel.published.programs).collect();
    found.sort_by_key(|program| program.id);
    found.dedup_by_key(|program| program.id);
    found
}

/// For people: what was changed.
pub fn told(changes: &[Change]) -> String {
    let mut text = String::new();
    for change in changes {
        text += &format!("{}: {}\n", change.name, words::level(&change.level));
        for trouble in &change.trouble {
            text += &format!("  {trouble}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps parts as a kernel does, and can be changed between two questions.
    #[derive(Default)]
    struct Toy {
        text: Vec<u8>,
        coming: Vec<u8>,
        asked: usize,
        next: Option<Vec<u8>>,
    }

    impl Ask for Toy {
        fn ask(&mut self, request: &Request) -> Result<Response, String> {
            self.asked += 1;
            match request {
                Request::SetPolicy(part) => {
                    self.coming.truncate(part.from as usize);
                    self.coming.extend_from_slice(&part.bytes);
                    if self.coming.len() == part.total as usize {
                        assert_eq!(crc32fast::hash(&self.coming), part.checksum);
                        self.text = std::mem::take(&mut self.coming);
                    }
                    Ok(Response::Done)
                }
                Request::Policy { from } => {
                    let rest = self.text.get(*from as usize..).unwrap_or_default();
                    let part = Part {
                        total: self.text.len() as u32,
                        checksum: crc32fast::hash(&self.text),
                        from: *from,
                        bytes: rest.iter().take(PART).copied().collect(),
                    };
                    if let Some(next) = self.next.take() {
                        self.text = next;
                    }
                    Ok(Response::Policy(part))
                }
                _ => Err("unknown".to_string()),
            }
        }
    }

    #[test]
    fn a_text_is_read_as_it_was_kept() {
        for length in [0, 1, PART, PART + 1, 3 * PART, MAX_POLICY] {
            let mut toy = Toy { text: b"old".to_vec(), ..Toy::default() };
            let wanted = "# ".repeat(length / 2) + &"#".repeat(length % 2);
            assert_eq!(keep(&mut toy, &wanted), Ok(()));
            assert_eq!(text(&mut toy), Ok(Some(wanted).filter(|text| !text.is_empty())));
        }
        assert!(keep(&mut Toy::default(), &"#".repeat(MAX_POLICY + 1)).is_err());
    }

    #[test]
    fn a_text_that_changes_while_it_is_read_is_read_again() {
        let (old, new) = ("a".repeat(2 * PART), "b".repeat(2 * PART + 5));
        let mut toy = Toy { text: old.into_bytes(), next: Some(new.clone().into_bytes()), ..Toy::default() };
        assert_eq!(text(&mut toy), Ok(Some(new)));
    }
}

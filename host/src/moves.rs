//! Planned moves from the host: a program to another kernel, everything away from a kernel, a fresh life for a kernel.
//!
//! The machine answers at once that it has begun. The daemon that is asked may itself be moved, so how it goes is read from the
//! state.
use crate::{
    control::Control,
    names, programs,
    status::{self, ms},
};
use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};
use shimos_abi::{
    control::{Cause, Device, Drain, KernelState, MachineStatus, MoveStatus, Target},
    ids::{Incarnation, KernelId, Life, ProgramId},
    time::Nanos,
};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// How often the state is looked at.
const LOOK: Duration = Duration::from_millis(30);
/// How long one move may take.
const MOVE: Duration = Duration::from_secs(60);
/// How long a program may be seen nowhere.
const NOWHERE: Duration = Duration::from_secs(10);

/// A program that was moved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved {
    name: String,
    program: ProgramId,
    from: KernelId,
    to: KernelId,
    /// From the stop to the first instruction, if both are known.
    gap: Option<Nanos>,
    pages: Option<u32>,
}

impl Moved {
    /// For people.
    pub fn line(&self) -> String {
        let gap = self.gap.map_or(String::new(), |gap| format!(", stopped for {:.2} ms", ms(gap)));
        format!("{} moved from {} to {}{gap}\n", self.name, self.from, self.to)
    }
    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "name": self.name,
            "program": self.program.0,
            "from": self.from.0,
            "to": self.to.0,
            "gap": self.gap.map(|gap| gap.0),
            "pages": self.pages,
        })
    }
}

/// Moves a program, and waits until it is there.
pub fn program(control: &mut Control, target: &Target, to: KernelId) -> Result<Moved> {
    let found = programs::find(control, target)?;
    let asked = control.status()?.now;
    let (id, from, name) = (found.status.id, found.kernel, found.status.name);
    control.begin_move(target.clone(), to)?;
    let end = Instant::now() + MOVE;
    let mut seen = Instant::now();
    loop {
        let now = control.status()?;
        let home = status::home(&now, id).map(|(kernel, _)| kernel.id);
        if home.is_some() {
            seen = Instant::now();
        }
        let told = told(&now, id, asked);
        if let Some(why) = told.and_then(|told| told.failed.as_ref()) {
            bail!("{name} stays on {from}: {why}");
        }
        if home == Some(to) {
            let arrived = now.kernels.iter().flat_map(|kernel| &kernel.published.takeovers);
            let arrived = arrived
                .filter(|seen| {
                    seen.cause == Cause::Move && seen.program == id && seen.to == to && seen.ordered >= asked
                })
                .find(|seen| seen.first_instruction.0 != 0);
            // A program that waits has no first instruction until it is woken.
            if arrived.is_some() || seen_running(&now, id) {
                let gap = told.zip(arrived).map(|(told, arrived)| arrived.first_instruction - told.stopped);
                return Ok(Moved { name, program: id, from, to, gap, pages: arrived.map(|arrived| arrived.pages) });
            }
        }
        if seen.elapsed() > NOWHERE {
            bail!("{name} has ended, or was lost with its kernel");
        }
        if Instant::now() >= end {
            bail!("{name} is still not on {to}: look at the status");
        }
        sleep(LOOK);
    }
}

/// Whether a program is idle where it is: it has a home, and nothing says that it is on its way.
fn seen_running(status: &MachineStatus, id: ProgramId) -> bool {
    status.kernels.iter().flat_map(|kernel| &kernel.published.moves).all(|told| told.program != id || told.over.0 != 0)
}

/// What its last home says of a move that was asked for at `asked` or later.
fn told(status: &MachineStatus, id: ProgramId, asked: Nanos) -> Option<&MoveStatus> {
    let all = status.kernels.iter().flat_map(|kernel| &kernel.published.moves);
    all.filter(|told| told.program == id && told.asked >= asked).max_by_key(|told| told.asked)
}

/// A kernel that was emptied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Emptied {
    kernel: KernelId,
    /// What has left it, and where it is now.
    moved: Vec<(String, Option<KernelId>)>,
    /// Its fresh life, if it was given one.
    life: Option<Life>,
}

impl Emptied {
    /// For people.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        for (name, to) in &self.moved {
            text += &match to {
                Some(to) => format!("{name} is on {to} now\n"),
                None => format!("{name} has ended\n"),
            };
        }
        text += &match self.life {
            Some(life) => format!("{} has a fresh life: {life}\n", self.kernel),
            None => format!("{} is empty; let programs come again by 'kernel undrain {}'\n", self.kernel, self.kernel),
        };
        text
    }
    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "kernel": self.kernel.0,
            "moved": self.moved.iter().map(|(name, to)| json!({ "name": name, "to": to.map(|to| to.0) })).collect::<Vec<_>>(),
            "incarnation": self.life.map(|life| life.incarnation.0),
        })
    }
}

/// What is still on a kernel: names of programs, and of devices.
fn left(status: &MachineStatus, kernel: KernelId) -> (Vec<(ProgramId, String)>, Vec<&'static str>) {
    let programs = status::kernel(status, kernel).map(|found| found.published.programs.as_slice()).unwrap_or_default();
    let devices = Device::ALL.iter().zip(&status.owners).filter(|(_, owner)| **owner == kernel);
    (
        programs.iter().map(|program| (program.id, program.name.clone())).collect(),
        devices.map(|(device, _)| names::device(*device)).collect(),
    )
}

/// Shows how far the emptying is, when that has changed.
struct Progress {
    shown: String,
}

impl Progress {
    fn show(&mut self, status: &MachineStatus, kernel: KernelId) {
        let (programs, devices) = left(status, kernel);
        let all: Vec<&str> = programs.iter().map(|(_, name)| name.as_str()).chain(devices).collect();
        let trouble = status::kernel(status, kernel).and_then(|found| found.published.trouble.clone());
        let mut text = match all.as_slice() {
            [] => format!("{kernel}: nothing is left"),
            some => format!("{kernel}: {} left: {}", some.len(), some.join(", ")),
        };
        if let Some(trouble) = trouble {
            text += &format!(" ({trouble})");
        }
        if text != self.shown {
            eprintln!("shimos: {text}");
            self.shown = text;
        }
    }
}

/// Where programs are now.
fn places(status: &MachineStatus, programs: &[(ProgramId, String)]) -> Vec<(String, Option<KernelId>)> {
    let place = |id| status::home(status, id).map(|(kernel, _)| kernel.id);
    programs.iter().map(|(id, name)| (name.clone(), place(*id))).collect()
}

/// Empties a kernel.
pub fn drain(control: &mut Control, kernel: KernelId, within: Duration) -> Result<Emptied> {
    let before = control.status()?;
    control.drain(kernel, Drain::Begin)?;
    let (programs, _) = left(&before, kernel);
    let end = Instant::now() + within;
    let mut progress = Progress { shown: String::new() };
    loop {
        let now = control.status()?;
        progress.show(&now, kernel);
        let (stay, devices) = left(&now, kernel);
        let moved = places(&now, &programs);
        // A program that is nowhere may be between two kernels.
        let between = moved.iter().any(|(_, to)| to.is_none()) && Instant::now() + within < end + NOWHERE;
        if stay.is_empty() && devices.is_empty() && !between {
            return Ok(Emptied { kernel, moved, life: None });
        }
        if Instant::now() >= end {
            return Err(late(&now, kernel, "empty"));
        }
        sleep(LOOK);
    }
}

/// Empties a kernel and has it begin a fresh life.
pub fn reboot(control: &mut Control, kernel: KernelId, within: Duration) -> Result<Emptied> {
    let before = control.status()?;
    let old = status::kernel(&before, kernel).map_or(0, |found| found.incarnation);
    control.reboot(Life { kernel, incarnation: Incarnation(old) })?;
    let (programs, _) = left(&before, kernel);
    let end = Instant::now() + within;
    let mut progress = Progress { shown: String::new() };
    loop {
        let now = control.status()?;
        let found = status::kernel(&now, kernel).ok_or_else(|| anyhow!("there is no kernel {kernel}"))?;
        if found.incarnation > old && found.state == KernelState::Running {
            let life = Some(Life { kernel, incarnation: Incarnation(found.incarnation) });
            return Ok(Emptied { kernel, moved: places(&now, &programs), life });
        }
        if found.incarnation == old && found.state == KernelState::Running {
            progress.show(&now, kernel);
        }
        if Instant::now() >= end {
            return Err(late(&now, kernel, "given a fresh life"));
        }
        sleep(LOOK);
    }
}

fn late(status: &MachineStatus, kernel: KernelId, what: &str) -> anyhow::Error {
    let (programs, devices) = left(status, kernel);
    let all: Vec<String> =
        programs.into_iter().map(|(_, name)| name).chain(devices.iter().map(ToString::to_string)).collect();
    let trouble = status::kernel(status, kernel).and_then(|found| found.published.trouble.clone());
    let why = trouble.map_or(String::new(), |trouble| format!(": {trouble}"));
    match all.as_slice() {
        [] => anyhow!("{kernel} is not {what} yet{why}"),
        some => anyhow!("{kernel} is not {what} yet, it still has {}{why}", some.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    #[test]
    fn what_is_left_on_a_kernel_is_named() {
        let status = sample::machine();
        let (programs, devices) = left(&status, KernelId(0));
        assert_eq!(programs, [(ProgramId(2), "httpd".to_string())]);
        assert_eq!(devices, ["console", "block"]);
        assert_eq!(left(&status, KernelId(9)), (Vec::new(), Vec::new()));
        let told = late(&status, KernelId(0), "empty").to_string();
        assert_eq!(told, "k0 is not empty yet, it still has httpd, console, block");
    }

    #[test]
    fn a_move_is_told_by_the_kernel_that_it_left() {
        let mut status = sample::machine();
        let told_of = MoveStatus {
            program: ProgramId(2),
            to: KernelId(0),
            asked: Nanos::millis(10),
            stopped: Nanos::millis(11),
            over: Nanos(0),
            failed: None,
        };
        status.kernels[1].published.moves.push(told_of);
        assert!(told(&status, ProgramId(2), Nanos::millis(10)).is_some());
        assert!(told(&status, ProgramId(2), Nanos::millis(11)).is_none());
        assert!(!seen_running(&status, ProgramId(2)));
    }

    #[test]
    fn results_are_told_to_people_and_programs() {
        let moved = Moved {
            name: "web".to_string(),
            program: ProgramId(3),
            from: KernelId(1),
            to: KernelId(2),
            gap: Some(Nanos::micros(2500)),
            pages: Some(7),
        };
        assert_eq!(moved.line(), "web moved from k1 to k2, stopped for 2.50 ms\n");
        assert_eq!(moved.json()["gap"], 2_500_000);
        let life = Some(Life { kernel: KernelId(1), incarnation: Incarnation(2) });
        let emptied = Emptied { kernel: KernelId(1), moved: vec![("web".to_string(), Some(KernelId(2)))], life };
        assert_eq!(emptied.lines(), "web is on k2 now\nk1 has a fresh life: k1.2\n");
        assert_eq!(emptied.json()["incarnation"], 2);
    }
}

//! `events`: what happens in a machine, seen from one look at its state to the next.
use crate::{
    faults::{self, Fault},
    names,
    status::{self, ms},
};
use serde_json::{Value, json};
use shimos_abi::{
    control::{Cause, Device, GivenUp, KernelState, MachineStatus, ProgramStatus, Reset, Takeover},
    ids::{Epoch, KernelId, Life, ProgramId},
    time::Nanos,
};
use std::collections::BTreeMap;

/// Something that has happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// When, by the machine's clock; for what leaves no time behind, when it was seen.
    pub at: Nanos,
    /// What.
    pub what: What,
}

/// What has happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A kernel died.
    Died(Life, String),
    /// Its core was proven to run nothing of it any more.
    Fenced(Life, String),
    /// Its core runs its next life.
    Rejoined(Life),
    /// A program went on on another kernel.
    TakenOver(ProgramId, Life, KernelId),
    /// The administrator moved a program from a kernel to another.
    Moved(ProgramId, Life, KernelId),
    /// A program went back to an earlier generation on its kernel; which one, and why.
    WentBack(ProgramId, KernelId, Epoch, String),
    /// Something is to be said of how a program went on.
    Noted(ProgramId, KernelId, String),
    /// A kernel's monitor daemon became the active one.
    Elected(KernelId, u32),
    /// A device has another owner.
    DeviceMoved(Device, KernelId),
    /// A program was started.
    Started(ProgramId, String, KernelId),
    /// A program is no more.
    Ended(ProgramId, String),
    /// How a program is protected has changed.
    Protected(ProgramId, String, String),
    /// A program waits for something before it can go on.
    Waits(ProgramId, String),
    /// A program does not go on after a death: its name, and why.
    GivenUp(ProgramId, String, String),
    /// The machine was reset, and has found programs that can go on; why it was.
    Reset(Reset, String),
    /// A program went on after a reset.
    Resumed(ProgramId, Life, KernelId),
}

/// What a state tells of that leaves its own time behind: deaths, takeovers, programs that were given up.
#[derive(Default)]
struct Recorded {
    faults: BTreeMap<Life, Fault>,
    takeovers: BTreeMap<(Nanos, ProgramId), Takeover>,
    given_up: BTreeMap<(Nanos, ProgramId), GivenUp>,
    reset: Option<Reset>,
}

fn recorded(status: &MachineStatus) -> Recorded {
    let faults: BTreeMap<Life, Fault> =
        faults::all(status).into_iter().map(|fault| (fault.recovery.dead, fault)).collect();
    let takeovers = status.kernels.iter().flat_map(|kernel| &kernel.published.takeovers);
    let takeovers = takeovers.filter(|takeover| takeover.first_instruction != Nanos(0));
    let given_up = status.kernels.iter().flat_map(|kernel| &kernel.published.given_up);
    Recorded {
        faults,
        takeovers: takeovers.map(|found| ((found.ordered, found.program), found.clone())).collect(),
        reset: status.reset,
        given_up: given_up.map(|lost| ((lost.at, lost.program), lost.clone())).collect(),
    }
}

/// The deaths and takeovers that a machine remembers.
pub fn remembered(status: &MachineStatus) -> Vec<Event> {
    let none = Recorded::default();
    let mut events = new_records(&none, &recorded(status));
    events.sort_by_key(|event| event.at);
    events
}

/// What has happened between two states.
pub fn between(before: &MachineStatus, after: &MachineStatus) -> Vec<Event> {
    let mut events = new_records(&recorded(before), &recorded(after));
    let mut seen = |what| events.push(Event { at: after.now, what });
    if after.term != before.term {
        seen(What::Elected(after.monitor, after.term));
    }
    for ((device, old), new) in Device::ALL.iter().zip(&before.owners).zip(&after.owners) {
        if old != new {
            seen(What::DeviceMoved(*device, *new));
        }
    }
    let (old, new) = (programs(before), programs(after));
    for (id, (kernel, program)) in &new {
        let earlier = old.get(id).map(|(_, program)| *program);
        if earlier.is_none() {
            seen(What::Started(*id, program.name.clone(), *kernel));
        }
        let how = |program: &ProgramStatus| program.protection.as_ref().map_or("no".to_string(), status::protection);
        let (was, is) = (earlier.map_or("no".to_string(), how), how(program));
        if was != is {
            seen(What::Protected(*id, program.name.clone(), is));
        }
        if let Some(why) = &program.waiting
            && earlier.and_then(|earlier| earlier.waiting.as_ref()) != Some(why)
        {
            seen(What::Waits(*id, why.clone()));
        }
    }
    // While a kernel is down its programs are in nobody's state; they are gone only when all kernels run.
    if after.kernels.iter().all(|kernel| kernel.state == KernelState::Running) {
        for (id, (_, program)) in old.iter().filter(|(id, _)| !new.contains_key(id)) {
            seen(What::Ended(*id, program.name.clone()));
        }
    }
    events.sort_by_key(|event| event.at);
    events
}

/// The state to compare the next one with: programs that no kernel tells of while one is down are kept from before.
pub fn carry(before: &MachineStatus, mut after: MachineStatus) -> MachineStatus {
    if after.kernels.iter().all(|kernel| kernel.state == KernelState::Running) {
        return after;
    }
    let missing: Vec<(KernelId, ProgramStatus)> = {
        let there = programs(&after);
        let all = programs(before).into_iter().filter(|(id, _)| !there.contains_key(id));
        all.map(|(_, (kernel, program))| (kernel, program.clone())).collect()
    };
    for (kernel, program) in missing {
        if let Some(found) = after.kernels.iter_mut().find(|found| found.id == kernel) {
            found.published.programs.push(program);
        }
    }
    after
}

fn programs(status: &MachineStatus) -> BTreeMap<ProgramId, (KernelId, &ProgramStatus)> {
    let all = status.kernels.iter().flat_map(|kernel| kernel.published.programs.iter().map(|it| (kernel.id, it)));
    all.map(|(kernel, program)| (program.id, (kernel, program))).collect()
}

fn new_records(before: &Recorded, after: &Recorded) -> Vec<Event> {
    let mut events = Vec::new();
    if let Some(reset) = after.reset.filter(|_| after.reset != before.reset) {
        events.push(Event { at: reset.at, what: What::Reset(reset, String::new()) });
    }
    for (dead, fault) in &after.faults {
        let (now, was) = (&fault.recovery, before.faults.get(dead).map(|fault| &fault.recovery));
        if was.is_none() {
            let first = now.message.lines().next().unwrap_or_default();
            let why =
                format!("{}, noticed by {}: {first}", names::cause(now.cause), names::detected_by(now.detected_by));
            events.push(Event { at: now.died, what: What::Died(*dead, why) });
        }
        if now.fenced != Nanos(0) && was.is_none_or(|was| was.fenced == Nanos(0)) {
            let by = names::fenced_by(now.fenced_by).to_string();
            events.push(Event { at: now.fenced, what: What::Fenced(*dead, by) });
        }
        if now.rejoined != Nanos(0) && was.is_none_or(|was| was.rejoined == Nanos(0)) {
            events.push(Event { at: now.rejoined, what: What::Rejoined(*dead) });
        }
    }
    for (key, takeover) in after.takeovers.iter().filter(|(key, _)| !before.takeovers.contains_key(key)) {
        let what = match takeover.cause {
            Cause::Death => What::TakenOver(key.1, takeover.from, takeover.to),
            Cause::Move => What::Moved(key.1, takeover.from, takeover.to),
            Cause::Reset => What::Resumed(key.1, takeover.from, takeover.to),
            Cause::Rollback => {
                What::WentBack(key.1, takeover.to, takeover.epoch, takeover.note.clone().unwrap_or_default())
            }
        };
        if let (Some(note), true) = (&takeover.note, takeover.cause != Cause::Rollback) {
            let what = What::Noted(key.1, takeover.to, note.clone());
            events.push(Event { at: takeover.first_instruction, what });
        }
        events.push(Event { at: takeover.first_instruction, what });
    }
    for (key, lost) in after.given_up.iter().filter(|(key, _)| !before.given_up.contains_key(key)) {
        events.push(Event { at: lost.at, what: What::GivenUp(key.1, lost.name.clone(), lost.why.clone()) });
    }
    events
}

impl What {
    /// Its kind, as a word.
    fn kind(&self) -> &'static str {
        match self {
            What::Died(..) => "died",
            What::Fenced(..) => "fenced",
            What::Rejoined(..) => "rejoined",
            What::TakenOver(..) => "taken-over",
            What::Moved(..) => "moved",
            What::WentBack(..) => "went-back",
            What::Noted(..) => "noted",
            What::Elected(..) => "elected",
            What::DeviceMoved(..) => "device-moved",
            What::Started(..) => "started",
            What::Ended(..) => "ended",
            What::Protected(..) => "protected",
            What::Waits(..) => "waits",
            What::GivenUp(..) => "given-up",
            What::Reset(..) => "reset",
            What::Resumed(..) => "resumed",
        }
    }
    fn words(&self) -> String {
        match self {
            What::Died(life, why) => format!("{life}: {why}"),
            What::Fenced(life, by) => format!("{life}: by {by}"),
            What::Rejoined(life) => format!("{} after the death of {life}", life.kernel),
            What::Reset(Reset { found, gone, .. }, cause) => {
                format!("the machine, {cause}: {found} programs had images, {gone} are gone")
            }
            What::TakenOver(program, from, to) | What::Moved(program, from, to) | What::Resumed(program, from, to) => {
                format!("{program}: from {from} to {to}")
            }
            What::WentBack(program, kernel, epoch, why) => format!("{program}: on {kernel} to {epoch}: {why}"),
            What::Noted(program, kernel, what) => format!("{program}: on {kernel}: {what}"),
            What::Elected(kernel, term) => format!("{kernel}: active monitor in term {term}"),
            What::DeviceMoved(device, to) => format!("{}: to {to}", names::device(*device)),
            What::Started(program, name, kernel) => format!("{program} ({name}): on {kernel}"),
            What::Ended(program, name) => format!("{program} ({name})"),
            What::Protected(program, name, how) => format!("{program} ({name}): {how}"),
            What::Waits(program, why) => format!("{program}: {why}"),
            What::GivenUp(program, name, why) => format!("{program} ({name}): {why}"),
        }
    }
}

impl Event {
    /// One line for people.
    pub fn line(&self) -> String {
        format!("{:>10.3} s  {:<12} {}\n", ms(self.at) / 1000.0, self.what.kind(), self.what.words())
    }
    /// One line for programs: the time in nanoseconds of the machine's clock, what, and about whom.
    pub fn json(&self) -> Value {
        let mut value = json!({ "at": self.at.0, "event": self.what.kind(), "text": self.what.words() });
        let mut put = |name: &str, content: Value| value[name] = content;
        match &self.what {
            What::Died(life, _) | What::Fenced(life, _) | What::Rejoined(life) => put("life", json!(life.to_string())),
            What::Reset(reset, cause) => {
                put("cause", json!(cause));
                put("found", json!(reset.found));
                put("gone", json!(reset.gone));
            }
            What::TakenOver(program, from, to) | What::Moved(program, from, to) | What::Resumed(program, from, to) => {
                put("program", json!(program.0));
                put("life", json!(from.to_string()));
                put("kernel", json!(to.0));
            }
            What::WentBack(program, kernel, epoch, _) => {
                put("program", json!(program.0));
                put("kernel", json!(kernel.0));
                put("epoch", json!(epoch.0));
            }
            What::Noted(program, kernel, _) => {
                put("program", json!(program.0));
                put("kernel", json!(kernel.0));
            }
            What::Elected(kernel, _) => put("kernel", json!(kernel.0)),
            What::DeviceMoved(device, to) => {
                put("device", json!(names::device(*device)));
                put("kernel", json!(to.0));
            }
            What::Started(program, name, _)
            | What::Ended(program, name)
            | What::Protected(program, name, _)
            | What::GivenUp(program, name, _) => {
                put("program", json!(program.0));
                put("name", json!(name));
            }
            What::Waits(program, _) => put("program", json!(program.0)),
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    fn kinds(events: &[Event]) -> Vec<&'static str> {
        events.iter().map(|event| event.what.kind()).collect()
    }

    #[test]
    fn what_is_remembered_comes_in_the_order_of_its_times() {
        let events = remembered(&sample::machine());
        assert_eq!(kinds(&events), ["died", "fenced", "taken-over", "rejoined"]);
        assert!(events.is_sorted_by_key(|event| event.at));
        assert!(events[0].line().contains("k1.1: panic, noticed by death-record: injected"));
        assert_eq!(events[2].json()["kernel"], 0);
    }

    #[test]
    fn only_what_is_new_is_told() {
        let now = sample::machine();
        assert_eq!(between(&now, &now), []);
        let mut before = now.clone();
        for kernel in &mut before.kernels {
            kernel.published.recoveries.clear();
            kernel.published.takeovers.clear();
        }
        before.term = now.term + 1;
        assert_eq!(kinds(&between(&before, &now)), ["died", "fenced", "taken-over", "rejoined", "elected"]);
    }

    #[test]
    fn a_program_of_a_kernel_that_is_down_has_not_ended() {
        let before = sample::machine();
        let home = before.kernels.iter().position(|kernel| !kernel.published.programs.is_empty()).expect("one");
        let mut down = before.clone();
        down.kernels[home].state = KernelState::Panicked;
        down.kernels[home].published.programs.clear();
        assert_eq!(between(&before, &down), []);
        let kept = carry(&before, down.clone());
        assert_eq!(between(&kept, &before), []);
        let mut gone = down;
        gone.kernels.iter_mut().for_each(|kernel| kernel.state = KernelState::Running);
        assert_eq!(kinds(&between(&kept, &gone)), ["ended"]);
    }
}

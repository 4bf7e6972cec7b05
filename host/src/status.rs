//! The state of a machine, as a table and as JSON; and questions about it.
use crate::{names, policy, protection};
use serde_json::{Value, json};
use shimos_abi::{
    control::{
        Cause, Device, KernelState, KernelStatus, Level, MachineStatus, MoveStatus, ProgramStatus, Protection,
        Recovery, Takeover,
    },
    ids::{KernelId, Life, ProgramId},
    time::Nanos,
};

/// A span in milliseconds, for people.
pub fn ms(span: Nanos) -> f64 {
    span.0 as f64 / 1e6
}

/// The kernel on which a program lives, and what it says of it.
pub fn home(status: &MachineStatus, program: ProgramId) -> Option<(&KernelStatus, &ProgramStatus)> {
    let running = status.kernels.iter().filter(|kernel| kernel.state == KernelState::Running);
    running
        .filter_map(|kernel| Some((kernel, kernel.published.programs.iter().find(|found| found.id == program)?)))
        .next()
}

/// What is known of a life's end.
pub fn recovery(status: &MachineStatus, dead: Life) -> Option<&Recovery> {
    let all = status.kernels.iter().flat_map(|kernel| &kernel.published.recoveries);
    // A second monitor may have finished what the first began: what got further counts.
    all.filter(|recovery| recovery.dead == dead)
        .max_by_key(|recovery| (recovery.rejoined, recovery.restarted, recovery.fenced))
}

/// How a program left a life that ended.
pub fn takeover(status: &MachineStatus, program: ProgramId, from: Life) -> Option<&Takeover> {
    let mut all = status.kernels.iter().flat_map(|kernel| &kernel.published.takeovers);
    all.find(|takeover| {
        takeover.program == program
            && takeover.from == from
            && takeover.cause == Cause::Death
            && takeover.first_instruction.0 != 0
    })
}

/// The state of one kernel.
pub fn kernel(status: &MachineStatus, id: KernelId) -> Option<&KernelStatus> {
    status.kernels.iter().find(|kernel| kernel.id == id)
}

/// How a program is protected, for people.
pub fn protection(protection: &Protection) -> String {
    shimos_policy::words::protection(protection)
}

/// For people.
pub fn table(status: &MachineStatus) -> String {
    let mut text = format!(
        "time {} s, heartbeat {} ms, active monitor {} (term {}), shadows: {}\n",
        status.now,
        ms(status.heartbeat),
        status.monitor,
        status.term,
        status
            .kernels
            .iter()
            .filter(|kernel| kernel.id != status.monitor && kernel.state == KernelState::Running)
            .map(|kernel| kernel.id.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    );
    let owners: Vec<String> = Device::ALL
        .iter()
        .zip(&status.owners)
        .map(|(device, owner)| format!("{} {owner}", names::device(*device)))
        .collect();
    text += &format!("devices: {}\n", owners.join(", "));
    text += &format!("hardware partition: {}\n", names::partition(status.partition));
    if !status.drained.is_empty() {
        let drained: Vec<String> = status.drained.iter().map(ToString::to_string).collect();
        text += &format!("drained: {}\n", drained.join(", "));
    }
    text += "\n";
    text += "kernel  apic  inc  state     memory    free      load  build\n";
    for kernel in &status.kernels {
        text += &format!(
            "{:<7} {:<5} {:<4} {:<9} {:<9} {:<9} {:<5} {}\n",
            kernel.id.to_string(),
            kernel.apic,
            kernel.incarnation,
            names::state(kernel.state),
            format!("{} MiB", kernel.memory >> 20),
            format!("{} MiB", kernel.free_frames >> 8),
            kernel.load,
            kernel.published.build
        );
        if let Some(why) = &kernel.published.trouble {
            text += &format!("        waits: {why}\n");
        }
    }
    text += "\nprogram  name          on   pids                  protected                     checkpoint\n";
    for kernel in &status.kernels {
        for program in &kernel.published.programs {
            let pids: Vec<String> = program.processes.iter().map(|process| process.pid.0.to_string()).collect();
            let checkpoint = program.checkpoint.map_or("none".to_string(), |checkpoint| {
                format!(
                    "{}: {} pages ({} in all), pause {:.2} ms, {} bytes of records",
                    checkpoint.epoch,
                    checkpoint.pages,
                    checkpoint.image_pages,
                    ms(checkpoint.pause),
                    checkpoint.record_bytes
                )
            });
            text += &format!(
                "{:<8} {:<13} {:<4} {:<21} {:<29} {}\n",
                program.id.to_string(),
                program.name,
                kernel.id.to_string(),
                pids.join(" "),
                match (&program.protection, program.level) {
                    (Some(found), _) => protection(found),
                    (None, Some(Level::Restart)) => format!("restart, {} so far", program.restarts),
                    (None, _) => "no".to_string(),
                },
                checkpoint
            );
            if let Some(stretched) = program.checkpoint.and_then(|checkpoint| checkpoint.stretched) {
                let why = "more changes than can be saved in the interval";
                text += &format!("         {why}: the next checkpoint comes after {:.1} ms\n", ms(stretched));
            }
            if let Some(why) = &program.waiting {
                text += &format!("         waits: {why}\n");
            }
            if program.rollbacks > 0 {
                text += &format!("         went back {} times\n", program.rollbacks);
            }
            if program.guilt > 0 {
                text += &format!("         kernels that died over it in the same way, in a row: {}\n", program.guilt);
            }
            for exception in &program.exceptions {
                text += &format!("         not protected: {exception}\n");
            }
        }
    }
    let noted = status.kernels.iter().flat_map(|kernel| &kernel.published.takeovers);
    for takeover in noted {
        if let Some(note) = &takeover.note {
            text += &format!("{} goes on from {}: {note}\n", takeover.program, takeover.epoch);
        }
    }
    for lost in status.kernels.iter().flat_map(|kernel| &kernel.published.given_up) {
        text += &format!("{} {} was given up: {}\n", lost.program, lost.name, lost.why);
    }
    let recoveries: Vec<&Recovery> = status.kernels.iter().flat_map(|kernel| &kernel.published.recoveries).collect();
    if !recoveries.is_empty() {
        text += "\ndeath    cause      detected by   fenced by  detect ms  fence ms  rejoin ms  message\n";
        for recovery in recoveries {
            text += &format!(
                "{:<8} {:<10} {:<13} {:<10} {:<10.3} {:<9.3} {:<10.3} {}\n",
                recovery.dead.to_string(),
                names::cause(recovery.cause),
                names::detected_by(recovery.detected_by),
                names::fenced_by(recovery.fenced_by),
                ms(recovery.detected - recovery.died),
                ms(recovery.fenced - recovery.detected),
                ms(recovery.rejoined - recovery.fenced),
                recovery.message.lines().next().unwrap_or_default()
            );
            if let Some(why) = &recovery.waiting {
                text += &format!("         waits: {why}\n");
            }
        }
    }
    text
}

/// For programs. Times are nanoseconds of the machine's clock.
pub fn json(status: &MachineStatus) -> Value {
    json!({
        "now": status.now.0,
        "heartbeat": status.heartbeat.0,
        "monitor": status.monitor.0,
        "term": status.term,
        "owners": Device::ALL.iter().zip(&status.owners)
            .map(|(device, owner)| (names::device(*device).to_string(), json!(owner.0)))
            .collect::<serde_json::Map<String, Value>>(),
        "drained": status.drained.iter().map(|kernel| kernel.0).collect::<Vec<_>>(),
        "partition": names::partition(status.partition),
        "kernels": status.kernels.iter().map(kernel_json).collect::<Vec<_>>(),
    })
}

fn kernel_json(kernel: &KernelStatus) -> Value {
    json!({
        "id": kernel.id.0,
        "apic": kernel.apic,
        "incarnation": kernel.incarnation,
        "state": names::state(kernel.state),
        "memory": kernel.memory,
        "free_frames": kernel.free_frames,
        "load": kernel.load,
        "build": kernel.published.build,
        "programs": kernel.published.programs.iter().map(program_json).collect::<Vec<_>>(),
        "recoveries": kernel.published.recoveries.iter().map(recovery_json).collect::<Vec<_>>(),
        "takeovers": kernel.published.takeovers.iter().map(takeover_json).collect::<Vec<_>>(),
        "moves": kernel.published.moves.iter().map(move_json).collect::<Vec<_>>(),
        "given_up": kernel.published.given_up.iter().map(|lost| json!({
            "program": lost.program.0, "name": lost.name, "at": lost.at.0, "why": lost.why,
        })).collect::<Vec<_>>(),
        "trouble": kernel.published.trouble,
    })
}

fn program_json(program: &ProgramStatus) -> Value {
    json!({
        "id": program.id.0,
        "name": program.name,
        "processes": program.processes.iter().map(|process| json!({
            "pid": process.pid.0, "parent": process.parent.0, "comm": process.comm, "pages": process.pages,
        })).collect::<Vec<_>>(),
        "protection": program.protection.as_ref().map(protection::json),
        "checkpoint": program.checkpoint.map(|checkpoint| json!({
            "epoch": checkpoint.epoch.0, "at": checkpoint.at.0, "pause": checkpoint.pause.0, "pages": checkpoint.pages,
            "image_pages": checkpoint.image_pages, "record_bytes": checkpoint.record_bytes,
            "stretched": checkpoint.stretched.map(|span| span.0),
        })),
        "exceptions": program.exceptions,
        "takeovers": program.takeovers,
        "moves": program.moves,
        "restarts": program.restarts,
        "rollbacks": program.rollbacks,
        "guilt": program.guilt,
        "level": program.level.as_ref().map(policy::level_json),
        "waiting": program.waiting,
    })
}

fn recovery_json(recovery: &Recovery) -> Value {
    json!({
        "kernel": recovery.dead.kernel.0,
        "incarnation": recovery.dead.incarnation.0,
        "cause": names::cause(recovery.cause),
        "message": recovery.message,
        "detected_by": names::detected_by(recovery.detected_by),
        "monitor": recovery.monitor.0,
        "died": recovery.died.0,
        "detected": recovery.detected.0,
        "fenced": recovery.fenced.0,
        "fenced_by": names::fenced_by(recovery.fenced_by),
        "taken_over": recovery.taken_over.0,
        "restarted": recovery.restarted.0,
        "rejoined": recovery.rejoined.0,
        "waiting": recovery.waiting,
    })
}

fn move_json(moved: &MoveStatus) -> Value {
    json!({
        "program": moved.program.0,
        "to": moved.to.0,
        "asked": moved.asked.0,
        "stopped": moved.stopped.0,
        "over": moved.over.0,
        "failed": moved.failed,
    })
}

fn takeover_json(takeover: &Takeover) -> Value {
    json!({
        "program": takeover.program.0,
        "from": { "kernel": takeover.from.kernel.0, "incarnation": takeover.from.incarnation.0 },
        "to": takeover.to.0,
        "epoch": takeover.epoch.0,
        "ordered": takeover.ordered.0,
        "first_instruction": takeover.first_instruction.0,
        "home": takeover.home.0,
        "pages": takeover.pages,
        "cause": names::handover(takeover.cause),
        "note": takeover.note,
    })
}

#[cfg(test)]
pub mod sample {
    //! A made-up machine for tests.
    use super::*;
    use shimos_abi::{
        control::{
            Cause, CheckpointStatus, DeathCause, DetectedBy, FencedBy, Output, Partition, ProcessStatus, Published,
        },
        ids::{Epoch, Incarnation, Pid},
    };

    fn at(ms: u64) -> Nanos {
        Nanos::millis(ms)
    }

    /// Two kernels; k1 had died, program 2 is on k0 now.
    pub fn machine() -> MachineStatus {
        let dead = Life { kernel: KernelId(1), incarnation: Incarnation(1) };
        let program = ProgramStatus {
            id: ProgramId(2),
            name: "httpd".to_string(),
            processes: vec![ProcessStatus { pid: Pid(32769), parent: Pid(0), comm: "busybox".to_string(), pages: 40 }],
            protection: Some(Protection::new(at(20), Output::Commit)),
            checkpoint: Some(CheckpointStatus {
                epoch: Epoch(9),
                at: at(900),
                pause: Nanos::micros(310),
                pages: 12,
                image_pages: 90,
                record_bytes: 1234,
                phases: None,
                stretched: None,
            }),
            exceptions: Vec::new(),
            takeovers: 1,
            waiting: None,
            moves: 0,
            restarts: 0,
            rollbacks: 0,
            guilt: 0,
            level: None,
        };
        let recovery = Recovery {
            dead,
            cause: DeathCause::Panic,
            message: "injected".to_string(),
            detected_by: DetectedBy::DeathRecord,
            monitor: KernelId(0),
            died: at(1000),
            detected: at(1001),
            fenced: at(1003),
            fenced_by: FencedBy::Itself,
            taken_over: at(1006),
            restarted: at(1007),
            rejoined: at(1023),
            waiting: None,
        };
        let takeover = Takeover {
            program: ProgramId(2),
            from: dead,
            to: KernelId(0),
            epoch: Epoch(9),
            ordered: at(1003),
            first_instruction: at(1005),
            home: at(1040),
            pages: 90,
            cause: Cause::Death,
            note: None,
        };
        let kernel = |id: u16, incarnation: u32, published: Published| KernelStatus {
            id: KernelId(id),
            apic: u32::from(id) * 2,
            incarnation,
            state: KernelState::Running,
            memory: 128 << 20,
            free_frames: 25600,
            load: 1,
            published,
        };
        let busy = Published {
            build: "0.1.0".to_string(),
            programs: vec![program],
            recoveries: vec![recovery],
            takeovers: vec![takeover],
            ..Published::default()
        };
        MachineStatus {
            now: at(2000),
            heartbeat: at(10),
            monitor: KernelId(0),
            term: 1,
            owners: vec![KernelId(0), KernelId(0), KernelId(1)],
            kernels: vec![kernel(0, 1, busy), kernel(1, 2, Published::default())],
            drained: Vec::new(),
            partition: Partition::Svm,
            reset: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shimos_abi::ids::Incarnation;

    #[test]
    fn the_table_has_what_an_administrator_asks_for() {
        let text = table(&sample::machine());
        for part in [
            "active monitor k0",
            "hardware partition: svm",
            "shadows: k1",
            "network k1",
            "every 20 ms, output commit",
            "e9: 12 pages (90 in all), pause 0.31 ms",
            "k1.1",
            "death-record",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn json_has_the_same() {
        let value = json(&sample::machine());
        assert_eq!(value["kernels"][0]["programs"][0]["checkpoint"]["epoch"], 9);
        assert_eq!(value["owners"]["network"], 1);
        assert_eq!(value["kernels"][0]["recoveries"][0]["fenced_by"], "itself");
    }

    #[test]
    fn lives_are_found_by_kernel_and_incarnation() {
        let status = sample::machine();
        let dead = Life { kernel: KernelId(1), incarnation: Incarnation(1) };
        assert!(recovery(&status, dead).is_some());
        assert!(recovery(&status, Life { incarnation: Incarnation(2), ..dead }).is_none());
        assert_eq!(takeover(&status, ProgramId(2), dead).map(|takeover| takeover.to), Some(KernelId(0)));
        assert_eq!(home(&status, ProgramId(2)).map(|(kernel, _)| kernel.id), Some(KernelId(0)));
    }
}

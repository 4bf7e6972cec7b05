//! The demonstration: two Debian programs go on while the kernel under them dies in four ways.
use crate::{
    counter,
    download::{self, Download, Outcome},
    machine::{Files, Machine, Options},
    names,
    paths::Paths,
    recovery::{self, Death},
    status::ms,
};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use shimos_abi::{
    control::{Device, Fault, Output, Protection, Start, Target},
    ids::ProgramId,
    time::Nanos,
};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// The four ways of the paper's Table III.
pub const FAULTS: [Fault; 4] = [Fault::NullPointer, Fault::Panic, Fault::InfiniteLoop, Fault::IrqDeadlock];
/// Longest that boot may take.
const BOOT: Duration = Duration::from_secs(60);
/// Longest that a program may take to get its next checkpoints.
const SETTLE: Duration = Duration::from_secs(20);
/// Longest that one recovery may take.
const RECOVERY: Duration = Duration::from_secs(20);
/// Checkpoints on the present kernel before it is killed.
const CHECKPOINTS: u32 = 3;
/// How long the stream is watched before a kernel is killed, and after its program goes on.
const MARGIN: Duration = Duration::from_millis(150);
const HTTPD: &str = "httpd";
const COUNTER: &str = "counter";

/// What became of one fault.
#[derive(Clone, Debug)]
struct Trial {
    fault: Fault,
    victim: &'static str,
    result: std::result::Result<Death, String>,
    gap: Duration,
}

/// What the demonstration showed.
#[derive(Clone, Debug)]
pub struct Report {
    kernels: u16,
    accelerator: String,
    trials: Vec<Trial>,
    stream: Outcome,
    counter: counter::Count,
    /// How long it all took.
    pub took: Duration,
}

impl Report {
    /// Whether everything held.
    pub fn held(&self) -> bool {
        self.failed() == 0 && self.trials.len() == FAULTS.len() && self.stream_held() && self.counter.perfect()
    }

    fn stream_held(&self) -> bool {
        self.stream.sha256_ok && self.stream.connections == 1 && self.stream.resets == 0 && self.stream.error.is_none()
    }

    fn failed(&self) -> usize {
        FAULTS.len() - self.survived()
    }

    fn survived(&self) -> usize {
        self.trials.iter().filter(|trial| trial.result.is_ok()).count()
    }

    /// For programs: one object.
    pub fn json(&self) -> Value {
        json!({
            "kernels": self.kernels,
            "accelerator": self.accelerator,
            "faults": self.trials.iter().map(trial_json).collect::<Vec<_>>(),
            "stream": {
                "bytes": self.stream.bytes,
                "sha256_ok": self.stream.sha256_ok,
                "connections": self.stream.connections,
                "resets": self.stream.resets,
            },
            "counter": {
                "lines": self.counter.lines,
                "missing": self.counter.missing,
                "repeated": self.counter.repeated,
                "wrong": self.counter.wrong,
            },
            "survived": self.survived(),
            "failed": self.failed(),
        })
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "fault          under    died  went on  detected by   detect ms  fence ms  takeover ms  \
             client gap ms  reboot ms\n",
        );
        for trial in &self.trials {
            let name = names::fault(trial.fault);
            match &trial.result {
                Ok(death) => {
                    text += &format!(
                        "{name:<14} {:<8} {:<5} {:<8} {:<13} {:<10.2} {:<9.2} {:<12.2} {:<14.1} {:.2}\n",
                        trial.victim,
                        death.dead.kernel.to_string(),
                        death.takeover.to.to_string(),
                        names::detected_by(death.recovery.detected_by),
                        ms(death.detect()),
                        ms(death.fence()),
                        ms(death.takeover()),
                        trial.gap.as_secs_f64() * 1e3,
                        ms(death.reboot()),
                    );
                }
                Err(why) => text += &format!("{name:<14} {:<8} FAILED: {why}\n", trial.victim),
            }
        }
        let verdict = |held: bool| if held { "ok" } else { "FAILED" };
        text += &format!(
            "stream:  {} bytes, checksum {}, {} connection(s), {} reset(s): {}{}\n",
            self.stream.bytes,
            if self.stream.sha256_ok { "right" } else { "wrong" },
            self.stream.connections,
            self.stream.resets,
            verdict(self.stream_held()),
            self.stream.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default(),
        );
        text += &format!(
            "counter: {} lines, {} missing, {} repeated, {} wrong: {}\n",
            self.counter.lines,
            self.counter.missing,
            self.counter.repeated,
            self.counter.wrong,
            verdict(self.counter.perfect()),
        );
        let sentence = if self.held() {
            "both programs outlived every kernel that died under them"
        } else {
            "NOT everything held"
        };
        text += &format!(
            "{} of {} deaths survived in {:.1} s: {sentence}\n",
            self.survived(),
            FAULTS.len(),
            self.took.as_secs_f64()
        );
        text
    }
}

fn trial_json(trial: &Trial) -> Value {
    let gap = trial.gap.as_secs_f64() * 1e3;
    match &trial.result {
        Ok(death) => json!({
            "kind": names::fault(trial.fault),
            "program": trial.victim,
            "kernel": death.dead.kernel.0,
            "takeover_kernel": death.takeover.to.0,
            "detected_by": names::detected_by(death.recovery.detected_by),
            "fenced_by": names::fenced_by(death.recovery.fenced_by),
            "detect_ms": ms(death.detect()),
            "fence_ms": ms(death.fence()),
            "takeover_ms": ms(death.takeover()),
            "client_gap_ms": gap,
            "reboot_ms": ms(death.reboot()),
            "rejoined": true,
        }),
        Err(why) => json!({
            "kind": names::fault(trial.fault),
            "program": trial.victim,
            "kernel": null,
            "takeover_kernel": null,
            "detected_by": null,
            "detect_ms": null,
            "fence_ms": null,
            "takeover_ms": null,
            "client_gap_ms": gap,
            "reboot_ms": null,
            "rejoined": false,
            "error": why,
        }),
    }
}

/// Tells how it goes on, with the time.
struct Progress(Instant);

impl Progress {
    fn say(&self, what: &str) {
        eprintln!("[{:6.2} s] {what}", self.0.elapsed().as_secs_f64());
    }
}

/// Whether there can be a demonstration on such a machine.
pub fn check(options: &Options) -> Result<()> {
    if options.kernels < 2 {
        return Err(crate::usage::usage("a demonstration needs at least 2 kernels: one must survive"));
    }
    Ok(())
}

/// Runs the demonstration.
pub fn run(paths: &Paths, files: &Files, options: Options, interval: Nanos) -> Result<Report> {
    let progress = Progress(Instant::now());
    let kernels = options.kernels;
    check(&options)?;
    progress.say(&format!("booting {kernels} kernels of {} MiB", options.memory));
    let mut machine = Machine::boot(paths, files, options, BOOT)?;
    progress.say(&format!(
        "{kernels} kernels run after {:.2} s ({}); log: {}",
        machine.boot_time.as_secs_f64(),
        machine.accelerator,
        machine.entry().directory.join("console.log").display()
    ));
    let report = drive(&progress, &mut machine, interval);
    if report.is_err() {
        for line in machine.console().last(12) {
            eprintln!("    {line}");
        }
    }
    report
}

fn drive(progress: &Progress, machine: &mut Machine, interval: Nanos) -> Result<Report> {
    let mut control = machine.control();
    let protection = Protection::new(interval, Output::Commit);
    let mut programs = Vec::new();
    let httpd = Start {
        name: HTTPD.to_string(),
        argv: ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/srv/www"].map(str::to_string).to_vec(),
        env: vec!["PATH=/usr/bin:/usr/sbin".to_string()],
        cwd: "/".to_string(),
        ..Start::default()
    };
    for start in [httpd, counter::program(COUNTER, None)] {
        let name = start.name.clone();
        let started = control.start(start).with_context(|| format!("cannot start {name}"))?;
        let exceptions =
            control.protect(Target::Pid(started.pid), protection).with_context(|| format!("cannot protect {name}"))?;
        progress.say(&format!("{name} runs on {} as process {}, protected", started.kernel, started.pid.0));
        for exception in exceptions {
            progress.say(&format!("  not protected: {exception}"));
        }
        programs.push(started.program);
    }
    let &[web, count] = programs.as_slice() else { bail!("two programs were started") };
    let port = machine.publish(0, web, 80)?;
    download::wait_for_server(port, SETTLE)?;
    let download = Download::start(port);
    progress.say(&format!("a client downloads http://127.0.0.1:{port}/{}", crate::image::STREAM_NAME));

    let mut trials = Vec::new();
    for (fault, (victim, program)) in FAULTS.into_iter().zip([(HTTPD, web), (COUNTER, count)].into_iter().cycle()) {
        let (result, gap) = one_death(progress, &mut control, &download, victim, program, fault);
        if let Err(error) = &result {
            progress.say(&format!("FAILED: {error:#}"));
        }
        let failed = result.is_err();
        trials.push(Trial { fault, victim, result: result.map_err(|error| format!("{error:#}")), gap });
        if failed || machine.ended() {
            break;
        }
    }

    progress.say("the client takes the rest of the file");
    let stream = download.finish();
    // What is held is released with the next checkpoint.
    let _ = recovery::settle(&mut control, count, CHECKPOINTS, SETTLE);
    let _ = control.kill(Target::Name(COUNTER.to_string()), 9);
    sleep(MARGIN);
    let lines = machine.console().of_program(COUNTER);
    Ok(Report {
        kernels: machine.options.kernels,
        accelerator: machine.accelerator.to_string(),
        trials,
        stream,
        counter: counter::check(lines.iter().map(String::as_str)),
        took: progress.0.elapsed(),
    })
}

fn one_death(
    progress: &Progress,
    control: &mut crate::control::Control,
    download: &Download,
    victim: &str,
    program: ProgramId,
    fault: Fault,
) -> (Result<Death>, Duration) {
    let kernel = match recovery::settle(control, program, CHECKPOINTS, SETTLE) {
        Ok(kernel) => kernel,
        Err(error) => return (Err(error), Duration::ZERO),
    };
    let owner = control.status().ok().map(|status| {
        let owned = Device::ALL.iter().zip(&status.owners).filter(|(_, owner)| **owner == kernel);
        let mut roles: Vec<&str> = owned.map(|(device, _)| names::device(*device)).collect();
        if status.monitor == kernel {
            roles.push("monitor");
        }
        if roles.is_empty() { String::new() } else { format!(" ({})", roles.join(", ")) }
    });
    progress.say(&format!("{} in {kernel}{}, under {victim}", names::fault(fault), owner.unwrap_or_default()));
    download.watch();
    sleep(MARGIN);
    let mut gap = None;
    let result = recovery::kill_under(control, program, fault, RECOVERY, || {
        sleep(MARGIN);
        gap = Some(download.unwatch());
    });
    let gap = gap.unwrap_or_else(|| download.unwatch());
    if let Ok(death) = &result {
        progress.say(&format!(
            "  {victim} goes on in {} after {:.2} ms; {} is back after {:.2} ms as incarnation {}",
            death.takeover.to,
            ms(death.outage()),
            death.dead.kernel,
            ms(death.recovery.rejoined - death.recovery.died),
            death.dead.incarnation.0 + 1
        ));
    }
    (result, gap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status;
    use shimos_abi::ids::{Incarnation, KernelId, Life};

    fn report() -> Report {
        let machine = status::sample::machine();
        let dead = Life { kernel: KernelId(1), incarnation: Incarnation(1) };
        let death = |fault| Death {
            fault,
            dead,
            injected: Nanos::millis(999),
            recovery: status::recovery(&machine, dead).expect("there").clone(),
            takeover: status::takeover(&machine, ProgramId(2), dead).expect("there").clone(),
        };
        let trial = |fault| Trial { fault, victim: HTTPD, result: Ok(death(fault)), gap: Duration::from_millis(12) };
        Report {
            kernels: 4,
            accelerator: "tcg".to_string(),
            trials: FAULTS.map(trial).to_vec(),
            stream: Outcome { bytes: 1, sha256_ok: true, connections: 1, resets: 0, error: None },
            counter: counter::Count { lines: 10, ..counter::Count::default() },
            took: Duration::from_secs(20),
        }
    }

    #[test]
    fn a_report_holds_only_when_everything_held() {
        assert!(report().held());
        let mut broken = [report(), report(), report(), report(), report()];
        broken[0].stream.resets = 1;
        broken[1].counter.repeated = 1;
        broken[2].trials[3].result = Err("lost".to_string());
        broken[3].trials.pop();
        broken[4].stream.connections = 2;
        for report in broken {
            assert!(!report.held());
            assert!(report.table().contains("NOT everything held"));
        }
    }

    #[test]
    fn json_has_the_promised_fields() {
        let value = report().json();
        for field in ["kernels", "accelerator", "faults", "stream", "counter", "survived", "failed"] {
            assert!(value.get(field).is_some(), "{field}");
        }
        for field in [
            "kind",
            "kernel",
            "takeover_kernel",
            "detected_by",
            "detect_ms",
            "fence_ms",
            "takeover_ms",
            "client_gap_ms",
            "reboot_ms",
            "rejoined",
        ] {
            assert!(value["faults"][0].get(field).is_some(), "{field}");
        }
        assert_eq!(value["faults"][0]["takeover_ms"], 4.0);
        assert_eq!((value["survived"].as_u64(), value["failed"].as_u64()), (Some(4), Some(0)));
        assert_eq!(value["stream"]["sha256_ok"], true);
    }
}

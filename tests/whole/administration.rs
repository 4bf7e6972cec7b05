//! What an administrator can ask for, and what is refused.
use anyhow::{Context, Result, bail, ensure};
use shimos::{counter, machine::Options, status};
use shimos_abi::{
    control::{Fault, Output, Protection, Target},
    ids::{KernelId, ProgramId},
    time::Nanos,
};
use shimos_tests::{
    clock::SOON,
    group::Group,
    makings::Makings,
    programs,
    rig::Rig,
    suite::Suite,
    tool::{self, command, refused},
};

pub fn run(suite: &mut Suite) {
    let makings = suite.makings.clone();
    let mut group = Group::new(suite, Options::default());
    group.case("administration::protect_and_unprotect", protect_and_unprotect);
    group.case("administration::an_unprotected_program_dies_with_its_kernel", dies_unprotected);
    group.case("administration::protected_from_the_first_instruction", from_the_first);
    group.case("administration::output_that_does_not_wait", free_output);
    group.case("administration::programs_end_and_leave_nothing", leave_nothing);
    group.case("administration::programs_of_one_kernel_do_not_disturb_one_another", side_by_side);
    group.case("administration::the_control_daemon_comes_back", daemon_comes_back);
    group.case("administration::refusals", refusals);
    let own = makings.clone();
    group.case("administration::deaths_leave_evidence", move |rig| evidence(rig, &own));
    group.case("administration::the_tool", |rig| {
        rig.start(programs::count("target", 1))?;
        let said = |words: &[&str]| -> Result<String> {
            let said = tool::run(command(&makings, words))?;
            ensure!(said.code == Some(0) && said.errors.is_empty(), "{words:?}: {said:?}");
            Ok(said.out)
        };
        ensure!(said(&["status"])?.contains("active monitor"), "no monitor in the state");
        ensure!(said(&["status", "--json"])?.contains("\"target\""), "no program in the state");
        ensure!(said(&["protect", "target", "--interval", "30ms"])?.is_empty(), "something is not protected");
        ensure!(said(&["status"])?.contains("every 30 ms"), "the protection is not shown");
        said(&["unprotect", "target"])?;
        said(&["heartbeat", "10"])?;
        let started = said(&["start", "greeter", "--kernel", "k3", "--", "/bin/busybox", "echo", "hello"])?;
        ensure!(started.contains("on k3"), "{started}");
        rig.wait_line("greeter", "hello")?;
        said(&["kill", "target", "--signal", "9"])?;
        let cases: [(&[&str], &str); 9] = [
            (&["protect", "4000000"], "no process"),
            (&["protect", "nobody"], "nobody"),
            (&["unprotect", "nobody"], "nobody"),
            (&["kill", "nobody"], "nobody"),
            (&["inject", "k9", "panic"], "k9"),
            (&["protect", "shimosd", "--interval", "0"], "--interval"),
            (&["protect", "shimosd", "--interval", "0ms"], "--interval"),
            (&["start", "ghost", "--", "/no/such/program"], "/no/such/program"),
            (&["start", "ghost", "--kernel", "9", "--", "/bin/busybox", "true"], "k9"),
        ];
        for (words, telling) in cases {
            refused(command(&makings, words), telling)?;
        }
        ensure!(!said(&["status"])?.contains("ghost"), "a program that was refused is there");
        Ok(())
    });
}

/// By process id and by name, with another interval, off and on again; and it is the protection that saves it.
fn protect_and_unprotect(rig: &mut Rig) -> Result<()> {
    let started = rig.start(programs::count("toggled", 2))?;
    rig.wait_more("toggled", 2)?;
    let (by_pid, by_name) = (Target::Pid(started.pid), Target::Name("toggled".to_string()));
    for target in [by_pid, by_name] {
        for interval in [Nanos::millis(1), Nanos::millis(30), Nanos::secs(3600), Nanos::millis(20)] {
            rig.control.protect(target.clone(), programs::every(interval))?;
            let found = rig.program(started.program, |found| {
                found.checkpoint.is_some() && found.protection == Some(programs::every(interval))
            })?;
            let checkpoint = found.checkpoint.context("no checkpoint")?;
            ensure!(checkpoint.epoch.0 > 0 && checkpoint.image_pages > 0, "{checkpoint:?}");
            ensure!(checkpoint.record_bytes > 0 && checkpoint.pause.0 > 0, "{checkpoint:?}");
            if interval <= Nanos::millis(30) {
                rig.program(started.program, |found| {
                    found.checkpoint.is_some_and(|later| later.epoch.0 > checkpoint.epoch.0 + 3)
                })?;
            }
        }
        rig.control.unprotect(target)?;
        rig.program(started.program, |found| found.protection.is_none() && found.checkpoint.is_none())?;
        rig.wait_more("toggled", 2)?;
    }
    rig.control.protect(Target::Pid(started.pid), programs::every(Nanos::millis(20)))?;
    rig.settle(started.program)?;
    rig.kill_under(started.program, Fault::Panic)?;
    rig.settle(started.program)?;
    rig.counts_on("toggled", 2)
}

/// Without it nobody could ask the machine for anything, so it is started anew.
fn daemon_comes_back(rig: &mut Rig) -> Result<()> {
    rig.start_protected(programs::count("meanwhile", 1))?;
    // The answer may be lost with it.
    let _ = rig.control.kill(Target::Pid(ProgramId::DAEMON.first_pid()), 9);
    let said = rig.console().wait_for(SOON, |line| line.raw.contains("the control daemon is gone"));
    said.context("nobody misses it")?;
    rig.until(SOON, "a control daemon", |now| status::home(now, ProgramId::DAEMON).map(|_| ()))?;
    let after = rig.start(programs::count("afterwards", 2))?;
    ensure!(after.program != ProgramId::DAEMON, "a program has its number");
    rig.counts_on("meanwhile", 3)?;
    rig.counts_on("afterwards", 2)
}

fn dies_unprotected(rig: &mut Rig) -> Result<()> {
    let gone = rig.start(programs::count("mortal", 2))?;
    let once = rig.start(programs::count("once-protected", 2))?;
    rig.control.protect(Target::Pid(once.pid), programs::every(Nanos::millis(20)))?;
    rig.settle(once.program)?;
    rig.control.unprotect(Target::Pid(once.pid))?;
    rig.wait_more("mortal", 2)?;
    rig.kill_kernel(KernelId(2), Fault::Panic)?;
    rig.until(SOON, "the end of what was not protected", |now| {
        let left = [gone.program, once.program].iter().any(|program| status::home(now, *program).is_some());
        (!left).then_some(())
    })?;
    for name in ["mortal", "once-protected"] {
        let Err(error) = rig.control.protect(Target::Name(name.to_string()), programs::every(Nanos::millis(20))) else {
            bail!("{name} could be protected after its death");
        };
        ensure!(error.to_string().contains(name), "{error:#}");
    }
    // Its name can be used again.
    rig.start(programs::count("mortal", 2))?;
    rig.wait_more("mortal", 2)
}

fn from_the_first(rig: &mut Rig) -> Result<()> {
    let mut start = programs::count("early", 3);
    start.protection = Some(programs::every(Nanos::millis(5)));
    let started = rig.start(start)?;
    rig.settle(started.program)?;
    rig.kill_under(started.program, Fault::Panic)?;
    rig.counts_on("early", 3)
}

/// Output leaves at once: lines may come twice after a death, none may be missing.
fn free_output(rig: &mut Rig) -> Result<()> {
    let started = rig.start(programs::count("free", 2))?;
    let free = Protection::new(Nanos::millis(300), Output::Free);
    rig.control.protect(Target::Pid(started.pid), free)?;
    rig.settle(started.program)?;
    rig.kill_under(started.program, Fault::Panic)?;
    rig.settle(started.program)?;
    rig.wait_more("free", 3)?;
    let count = counter::check(rig.lines("free").iter().map(String::as_str));
    ensure!(count.missing == 0 && count.wrong == 0, "{count:?}");
    Ok(())
}

/// A kernel's free frames, once nothing is left to clean up.
fn free_frames(rig: &mut Rig, kernel: KernelId) -> Result<u64> {
    let (mut last, mut same) = (0, 0);
    rig.until(SOON, "free memory that stays as it is", |now| {
        let frames = status::kernel(now, kernel)?.free_frames;
        same = if frames == last { same + 1 } else { 0 };
        last = frames;
        (same >= 20).then_some(frames)
    })
}

fn leave_nothing(rig: &mut Rig) -> Result<()> {
    let mut before = None;
    // The first round fills caches.
    for round in 0..4 {
        let program = rig.start(programs::script("brief", 3, "seq 1 200 | sort -rn | head -n 1; sleep 0.2"))?;
        rig.control.protect(Target::Pid(program.pid), programs::every(Nanos::millis(10)))?;
        rig.until(SOON, "its end", |now| status::home(now, program.program).is_none().then_some(()))?;
        let started = rig.start(programs::command("moved", 3, &["/usr/bin/touchpages", "8", "50", "5"]))?;
        rig.control.protect(Target::Pid(started.pid), programs::every(Nanos::millis(10)))?;
        rig.settle(started.program)?;
        rig.control.kill(Target::Pid(started.pid), 9)?;
        rig.until(SOON, "its end", |now| status::home(now, started.program).is_none().then_some(()))?;
        let frames = free_frames(rig, KernelId(3))?;
        match before {
            Some(earlier) if round > 1 => ensure!(frames + 16 >= earlier, "{earlier} frames were free, now {frames}"),
            _ => before = Some(frames),
        }
    }
    Ok(())
}

/// Their registers are their own, those for floating-point numbers too.
fn side_by_side(rig: &mut Rig) -> Result<()> {
    let names = ["side-a", "side-b", "side-c"];
    for name in names {
        rig.start(programs::count(name, 2))?;
    }
    for name in names {
        rig.wait_more(name, 10)?;
    }
    for name in names {
        let count = counter::check(rig.lines(name).iter().map(String::as_str));
        ensure!(count.perfect(), "{name}: {count:?}");
    }
    Ok(())
}

fn refusals(rig: &mut Rig) -> Result<()> {
    let started = rig.start(programs::count("there", 1))?;
    rig.wait_more("there", 1)?;
    let wanted = programs::every(Nanos::millis(20));
    let mut told = Vec::new();
    let mut refuse = |result: Result<()>, telling: &str| -> Result<()> {
        let Err(error) = result else { bail!("'{telling}' was not refused") };
        let text = format!("{error:#}");
        ensure!(text.contains(telling) && text.lines().count() == 1, "'{text}' does not name '{telling}'");
        told.push(text);
        Ok(())
    };
    let control = &mut rig.control;
    let gone = shimos_abi::ids::Pid(started.pid.0 + 77);
    refuse(control.protect(Target::Pid(gone), wanted).map(drop), "no process")?;
    refuse(control.protect(Target::Pid(shimos_abi::ids::Pid(0)), wanted).map(drop), "no process")?;
    refuse(control.protect(Target::Name("nobody".to_string()), wanted).map(drop), "nobody")?;
    refuse(control.unprotect(Target::Name("nobody".to_string())), "nobody")?;
    for interval in [Nanos(0), Nanos(999_999), Nanos(u64::MAX)] {
        refuse(control.protect(Target::Pid(started.pid), programs::every(interval)).map(drop), "interval")?;
    }
    refuse(control.kill(Target::Pid(started.pid), 0), "signals")?;
    refuse(control.kill(Target::Pid(started.pid), 65), "signals")?;
    refuse(control.inject(KernelId(4), Fault::Panic, 0), "k4")?;
    refuse(control.inject(KernelId(u16::MAX), Fault::Panic, 0), "k65535")?;
    refuse(control.set_heartbeat(Nanos(0)), "heartbeat")?;
    let mut start = |name: &str, argv: &[&str]| control.start(programs::command(name, 2, argv)).map(drop);
    refuse(start("ghost", &["/no/such/program"]), "/no/such/program")?;
    refuse(start("ghost", &["/etc/passwd"]), "/etc/passwd")?;
    refuse(start("ghost", &["/tmp"]), "/tmp")?;
    refuse(start("ghost", &[]), "empty")?;
    refuse(start("there", &["/bin/busybox", "true"]), "there")?;
    let mut strange = programs::count("ghost", 9);
    refuse(control.start(strange.clone()).map(drop), "k9")?;
    strange.kernel = Some(KernelId(2));
    strange.protection = Some(programs::every(Nanos(0)));
    refuse(control.start(strange).map(drop), "interval")?;
    ensure!(rig.program(started.program, |_| true)?.protection.is_none(), "a refused protection was switched on");
    let now = rig.status()?;
    let ghosts = now.kernels.iter().flat_map(|kernel| &kernel.published.programs).filter(|found| found.name == "ghost");
    ensure!(ghosts.count() == 0, "a refused program is there");
    ensure!(now.kernels.iter().all(|kernel| kernel.incarnation >= 1), "a kernel is gone");
    Ok(())
}

/// Every death leaves its registers, where in the source it was, and its last lines; also one that had to be parked.
fn evidence(rig: &mut Rig, makings: &Makings) -> Result<()> {
    for (fault, cause) in [(Fault::NullPointer, "exception"), (Fault::IrqDeadlock, "hang"), (Fault::Panic, "panic")] {
        let dead = rig.kill_kernel(KernelId(3), fault)?.dead;
        let said = tool::run(command(makings, &["faults", "show", &dead.to_string(), "--json"]))?;
        ensure!(said.code == Some(0), "{said:?}");
        let case: serde_json::Value = serde_json::from_str(&said.out).context("no JSON")?;
        ensure!(case["fault"]["cause"] == cause && case["record"]["cause"] == cause, "{dead}: {case}");
        let stack = case["record"]["stack"].as_array().context("no stack")?;
        let in_it = |part: &str| stack.iter().any(|entry| entry["places"].to_string().contains(part));
        ensure!(in_it("fault.rs") && in_it("kernel_start"), "{dead}: the stack does not show the fault: {case}");
        let lines = case["last_lines"].to_string();
        ensure!(lines.contains(&format!("incarnation {}", dead.incarnation.0)), "{dead}: {lines}");
        let listed = tool::run(command(makings, &["faults", "list"]))?;
        ensure!(listed.out.contains(&dead.to_string()), "{dead} is not in\n{}", listed.out);
    }
    refused(command(makings, &["faults", "show", "k0.77"]), "no such death")?;
    refused(command(makings, &["faults", "show", "k0.x"]), "k0.x")
}

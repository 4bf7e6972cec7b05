//! Programs go on in another kernel: their memory, processes, pipes, files, signals and output.
use anyhow::{Context, Result, ensure};
use shimos::{counter, machine::Options, names, status};
use shimos_abi::{
    control::{DeathCause, DetectedBy, Fault, Start, Target},
    ids::KernelId,
    time::Nanos,
};
use shimos_tests::{clock, clock::SOON, group::Group, programs, rig::Rig, suite::Suite};

/// The kernel that dies first.
const VICTIM: u16 = 2;
/// The paper's Table III, and what the record of such a death must say.
const FAULTS: [(Fault, DeathCause, DetectedBy); 4] = [
    (Fault::NullPointer, DeathCause::Exception, DetectedBy::DeathRecord),
    (Fault::Panic, DeathCause::Panic, DetectedBy::DeathRecord),
    (Fault::InfiniteLoop, DeathCause::Hang, DetectedBy::Heartbeat),
    (Fault::IrqDeadlock, DeathCause::Hang, DetectedBy::Heartbeat),
];
/// The checksum of the numbers from 1 to 5000, a line each: what `seq 1 5000 | md5sum` begins with.
const NUMBERS: &str = "a5a208cd";
/// A paced line of a shell without a clock: what it counts lies in its memory.
const PACE: &str = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); done";

pub fn run(suite: &mut Suite) {
    let mut group = Group::new(suite, Options::default());
    for (name, start) in [
        ("takeover::a_computation", programs::count("awk", VICTIM)),
        (
            "takeover::a_shell",
            programs::script("sh", VICTIM, &format!("n=0; while :; do n=$((n+1)); {PACE}; echo $n; done")),
        ),
        (
            "takeover::a_pipeline",
            programs::script("pipe", VICTIM, &format!("seq 1 1000000 | cat | while read n; do {PACE}; echo $n; done")),
        ),
        (
            "takeover::many_short_processes",
            programs::script("fork", VICTIM, "n=0; while :; do n=$((n+1)); /bin/busybox expr $n + 0; done"),
        ),
        // Each copy of its memory needs all of it, also right after a takeover.
        (
            "takeover::processes_of_a_large_shell",
            programs::script(
                "large-fork",
                VICTIM,
                "x=$(head -c 12000000 /dev/zero | tr '\\0' a); n=0; while :; do n=$((n+1)); echo $(echo $n); done",
            ),
        ),
        (
            "takeover::a_dynamic_program",
            programs::command(
                "bash",
                VICTIM,
                &["/bin/bash", "-c", &format!("n=0; while :; do n=$((n+1)); {PACE}; printf '%d\\n' $n; done")],
            ),
        ),
        ("takeover::a_program_of_events", programs::command("events", VICTIM, &["/usr/bin/abi-test", "--events"])),
    ] {
        group.case(name, |rig| goes_on(rig, start));
    }
    group.case("takeover::own_pages_beside_those_of_a_file", beside_a_file);
    group.case("takeover::all_at_once", all_at_once);
    group.case("takeover::very_many_programs", very_many);
    group.case("takeover::sleeping", sleeping);
    group.case("takeover::reading_from_a_pipe", reading_from_a_pipe);
    group.case("takeover::files_and_traps", files_and_traps);
    group.case("takeover::a_stopped_program", stopped);
    group.case("takeover::large_memory", large_memory);
}

/// Demands that lines are 1, 2, 3 and so on, or for the computation what it gives.
fn in_order(name: &str, lines: &[String]) -> Result<()> {
    if name == "awk" || name.starts_with("awk-") {
        let count = counter::check(lines.iter().map(String::as_str));
        ensure!(count.perfect(), "{count:?}");
        return Ok(());
    }
    ensure!(!lines.is_empty(), "{name} said nothing");
    for (number, line) in (1_u64..).zip(lines) {
        ensure!(line.parse() == Ok(number), "{name} said '{line}' as line {number}");
    }
    Ok(())
}

/// Kills the kernel under a program in the four ways.
fn goes_on(rig: &mut Rig, start: Start) -> Result<()> {
    let name = start.name.clone();
    let started = rig.start_protected(start)?;
    for (fault, cause, detected_by) in FAULTS {
        rig.settle(started.program).with_context(|| format!("before {}", names::fault(fault)))?;
        rig.wait_more(&name, 2)?;
        let death = rig.kill_under(started.program, fault)?;
        let recovery = &death.recovery;
        ensure!(recovery.cause == cause, "{}: cause {}", names::fault(fault), names::cause(recovery.cause));
        ensure!(recovery.detected_by == detected_by, "{}: {:?}", names::fault(fault), recovery.detected_by);
        ensure!(death.takeover.to != death.dead.kernel, "taken over by {}", death.takeover.to);
        rig.wait_more(&name, 2).with_context(|| format!("after {}", names::fault(fault)))?;
        in_order(&name, &rig.lines(&name)).with_context(|| format!("after {}", names::fault(fault)))?;
    }
    let state = rig.program(started.program, |_| true)?;
    ensure!(state.takeovers == 4, "{} takeovers are counted", state.takeovers);
    ensure!(state.processes.iter().any(|process| process.pid == started.pid), "process {} is gone", started.pid);
    Ok(())
}

/// Every kernel has the file in its memory, and so may map its pages around one that is read.
fn beside_a_file(rig: &mut Rig) -> Result<()> {
    const PROGRAM: &str = "/usr/bin/abi-test";
    let kernels = rig.lives()?.len() as u16;
    for kernel in 0..kernels {
        let name = format!("reader-{kernel}");
        rig.start(programs::script(&name, kernel, &format!("md5sum {PROGRAM} >/dev/null && echo read")))?;
        rig.wait_line(&name, "read")?;
    }
    goes_on(rig, programs::command("beside", VICTIM, &[PROGRAM, "--beside"]))
}

/// Several programs of one kernel are all taken over at its death.
fn all_at_once(rig: &mut Rig) -> Result<()> {
    let mut started = Vec::new();
    for number in 0..4 {
        let name = format!("awk-{number}");
        started.push((rig.start_protected(programs::count(&name, VICTIM))?.program, name));
    }
    let mut left = rig.home(started[0].0)?;
    for fault in [Fault::Panic, Fault::IrqDeadlock] {
        for (program, _) in &started {
            rig.settle(*program)?;
        }
        rig.kill_kernel(left, fault)?;
        for (program, name) in &started {
            let home = rig.home(*program)?;
            ensure!(home != left || fault != Fault::Panic, "{name} is back on {home}");
            rig.wait_more(name, 2)?;
            in_order(name, &rig.lines(name))?;
        }
        left = rig.home(started[0].0)?;
    }
    Ok(())
}

/// More than the images of earlier versions had room for in one kernel.
fn very_many(rig: &mut Rig) -> Result<()> {
    let mut started = Vec::new();
    for number in 0..20 {
        let name = format!("many-{number}");
        let text = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done";
        let one = rig.start(programs::script(&name, VICTIM, text))?;
        rig.protect(&one, programs::every(Nanos::millis(200)))?;
        started.push((one.program, name));
    }
    for _ in 0..2 {
        for (program, _) in &started {
            rig.settle(*program)?;
        }
        let home = rig.home(started[0].0)?;
        rig.kill_kernel(home, Fault::Panic)?;
        for (_, name) in &started {
            rig.wait_more(name, 2)?;
            in_order(name, &rig.lines(name))?;
        }
    }
    Ok(())
}

fn sleeping(rig: &mut Rig) -> Result<()> {
    let started = rig.start_protected(programs::script("sleeper", VICTIM, "echo before; sleep 3; echo after"))?;
    rig.wait_line("sleeper", "before")?;
    let death = rig.kill_under(started.program, Fault::Panic)?;
    ensure!(rig.lines("sleeper") == ["before"], "it slept too short a time");
    ensure!(death.takeover.program == started.program, "another program was taken over");
    rig.wait_line("sleeper", "after")?;
    ensure!(rig.lines("sleeper") == ["before", "after"], "{:?}", rig.lines("sleeper"));
    Ok(())
}

fn reading_from_a_pipe(rig: &mut Rig) -> Result<()> {
    let text = "echo before; (sleep 3; echo data; sleep 1; echo more) | { read x; echo got $x; read y; echo got $y; }; echo end";
    let started = rig.start_protected(programs::script("reader", VICTIM, text))?;
    rig.wait_line("reader", "before")?;
    rig.kill_under(started.program, Fault::InfiniteLoop)?;
    rig.wait_line("reader", "end")?;
    ensure!(rig.lines("reader") == ["before", "got data", "got more", "end"], "{:?}", rig.lines("reader"));
    Ok(())
}

/// Files, directories and the answers to signals are as they were.
fn files_and_traps(rig: &mut Rig) -> Result<()> {
    let text = "cd /tmp; mkdir d; echo one >d/a; ln -s a d/b; seq 1 5000 >d/c; exec 3<d/c; read x <&3; \
        trap 'trapped' USR1; \
        trapped() { read x <&3; echo $(cat d/b) $(md5sum <d/c | cut -c1-8) $x $(pwd); exec 3>d/c; echo two >&3; cat d/c; exit 7; }; \
        echo ready; while :; do sleep 1; done";
    let started = rig.start_protected(programs::script("files", VICTIM, text))?;
    rig.wait_line("files", "ready")?;
    rig.settle(started.program)?;
    for fault in [Fault::Panic, Fault::InfiniteLoop] {
        rig.kill_under(started.program, fault)?;
        rig.settle(started.program)?;
    }
    rig.control.kill(Target::Name("files".to_string()), 10)?;
    rig.wait_line("files", "two")?;
    let told = format!("one {NUMBERS} 2 /tmp");
    ensure!(rig.lines("files").contains(&told), "it said {:?}", rig.lines("files"));
    clock::until(SOON, "the program's end", || {
        let now = rig.status()?;
        Ok(status::home(&now, started.program).is_none().then_some(()))
    })
}

/// A stopped program stays stopped until it is told to go on.
fn stopped(rig: &mut Rig) -> Result<()> {
    let started = rig.start_protected(programs::count("awk-stopped", VICTIM))?;
    rig.wait_more("awk-stopped", 2)?;
    rig.control.kill(Target::Pid(started.pid), 19)?;
    rig.settle(started.program)?;
    let before = rig.lines("awk-stopped").len();
    // It takes over without running: no first instruction is told.
    rig.kill_kernel(KernelId(VICTIM), Fault::Panic)?;
    rig.settle(started.program)?;
    let after = rig.lines("awk-stopped").len();
    ensure!(before == after, "it said {} lines while it was stopped", after - before);
    rig.control.kill(Target::Pid(started.pid), 18)?;
    rig.wait_more("awk-stopped", 2)?;
    in_order("awk-stopped", &rig.lines("awk-stopped"))
}

/// A program whose memory is checked by itself page by page, while it changes.
fn large_memory(rig: &mut Rig) -> Result<()> {
    let started =
        rig.start_protected(programs::command("large", VICTIM, &["/usr/bin/touchpages", "24", "200", "5"]))?;
    rig.wait_line("large", "touchpages: ready")?;
    for fault in [Fault::Panic, Fault::NullPointer, Fault::IrqDeadlock] {
        rig.settle(started.program)?;
        let death = rig.kill_under(started.program, fault)?;
        let program = started.program;
        // All pages come over before the next death.
        rig.until(SOON, "all pages at home", |now| {
            status::takeover(now, program, death.dead).filter(|takeover| takeover.home.0 != 0).map(drop)
        })?;
    }
    rig.settle(started.program)?;
    ensure!(rig.lines("large") == ["touchpages: ready"], "{:?}", rig.lines("large"));
    Ok(())
}

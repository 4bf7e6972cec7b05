//! The machine is reset: its memory stays, and protected programs go on.
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shimos::{counter, events, faults, machine::Options, recovery, resets, status};
use shimos_abi::{
    control::{
        Cause, Fault, Integrity, KernelState, Level, MachineStatus, Partition, Protection, Reset, Strictness, Target,
    },
    ids::{KernelId, ProgramId},
    time::Nanos,
};
use shimos_tests::{
    client::Client,
    clock::SOON,
    group::Group,
    programs,
    rig::{INTERVAL, Rig},
    suite::Suite,
};
use std::time::Instant;

/// A server that counts what it is told.
const TALK: &str = "n=0; while read x; do n=$((n+1)); echo got $x $n; done";

pub fn run(suite: &mut Suite) {
    let patient = || Options { heartbeat: Some(Nanos::secs(1)), ..Options::default() };
    let mut group = Group::new(suite, patient());
    group.case("resets::from_outside_with_what_the_processor_offers", |rig| {
        goes_on(rig, None, "reset from outside")?;
        in_a_row(rig)
    });
    group.case("resets::within_a_line", within_a_line);
    // A triple fault resets the machine where no shell of the core catches it.
    let patient = || Options { partition: Partition::None, ..patient() };
    let mut group = Group::new(suite, patient());
    group.case("resets::from_outside", |rig| goes_on(rig, None, "reset from outside"));
    for kernel in [2, 0] {
        let name = format!("resets::a_triple_fault_on_core_{kernel}");
        group.case(&name, |rig| goes_on(rig, Some(KernelId(kernel)), "triple fault"));
    }
    group.case("resets::just_after_a_takeover", just_after_a_takeover);
    group.case("resets::in_a_row", in_a_row);
    group.case("resets::deaths_are_remembered", deaths_are_remembered);
    let single = Options { kernels: 1, ..patient() };
    let mut group = Group::new(suite, single);
    group.case("resets::the_only_kernel_is_dead", |rig| only_kernel(rig, Fault::NullPointer, None));
    let told = Some("records are damaged");
    group.case("resets::with_damaged_records", |rig| only_kernel(rig, Fault::DamageRecords, told));
    // What no kernel is left to notice.
    let watched = Options { kernels: 2, watchdog: Some(4), ..Options::default() };
    let mut group = Group::new(suite, watched);
    group.case("resets::by_the_watchdog", by_the_watchdog);
    let cold = Options { words: vec!["start=cold".to_string()], ..patient() };
    let mut group = Group::new(suite, cold);
    group.case("resets::a_cold_start", cold_start);
}

/// The reset that a machine has seen last.
fn count(rig: &mut Rig) -> Result<u64> {
    Ok(rig.status()?.reset.map_or(0, |reset| reset.count))
}

/// Resets the machine and waits until it is up.
fn reset(rig: &mut Rig, by: Option<KernelId>) -> Result<Reset> {
    let before = count(rig)?;
    match by {
        Some(kernel) => drop(rig.inject(kernel, Fault::TripleFault)?),
        None => drop(rig.machine.qmp().execute("system_reset", Value::Null)?),
    }
    let came = resets::wait(&mut rig.control, before, Instant::now(), SOON)?;
    came.status.reset.context("the machine remembers nothing")
}

/// Where a program has been resumed since.
fn resumed(rig: &mut Rig, program: ProgramId, since: Nanos) -> Result<KernelId> {
    rig.until(SOON, "a program to be resumed", |now| {
        let all = now.kernels.iter().flat_map(|kernel| &kernel.published.takeovers);
        let mut of_it = all
            .filter(|found| found.program == program && found.cause == Cause::Reset && found.first_instruction > since);
        of_it.next().map(|found| found.to)
    })
}

/// All kernels hang at the same time.
fn by_the_watchdog(rig: &mut Rig) -> Result<()> {
    let counter = rig.start_protected(programs::count("watched", 1))?.program;
    rig.settle(counter)?;
    rig.settle(ProgramId(1))?;
    let (since, before) = (rig.status()?.now, count(rig)?);
    for kernel in [1, 0] {
        rig.inject(KernelId(kernel), Fault::IrqDeadlock)?;
    }
    let came = resets::wait(&mut rig.control, before, Instant::now(), SOON * 2)?;
    ensure!(came.status.reset.is_some_and(|reset| reset.at > since), "the clock has gone back");
    resumed(rig, counter, since)?;
    rig.counts_on("watched", 5)?;
    let directory = rig.machine.entry().directory.clone();
    ensure!(resets::cause(&directory) == "watchdog", "{}", resets::cause(&directory));
    // It goes on watching, and resets nothing that is well.
    let reset = count(rig)?;
    rig.until(SOON, "some time without trouble", |now| (now.now > came.status.now + Nanos::secs(6)).then_some(()))?;
    ensure!(count(rig)? == reset, "a machine that was well was reset");
    rig.counts_on("watched", 3)
}

/// A computation and a connection go on, and what was not protected is gone.
fn goes_on(rig: &mut Rig, by: Option<KernelId>, cause: &str) -> Result<()> {
    let name = format!("counter-{}", rig.status()?.now.0);
    let counter = rig.start_protected(programs::count(&name, 1))?;
    let argv = ["/bin/busybox", "nc", "-l", "-p", "7000", "-e", "/bin/busybox", "sh", "-c", TALK];
    let server = rig.start(programs::command("talker", 2, &argv))?;
    let port = rig.machine.publish(0, server.program, 7000)?;
    let (mut client, first) = Client::greet(port, "0\n")?;
    ensure!(first == "got 0 1", "it answered '{first}'");
    rig.protect(&server, programs::every(INTERVAL))?;
    rig.settle(server.program)?;
    let bare = rig.start(programs::count("bare", 3))?;
    rig.wait_more("bare", 1)?;
    rig.wait_more(&name, 3)?;
    let (since, home) = (rig.status()?.now, rig.home(counter.program)?);
    let found = reset(rig, by)?;
    // The control daemon is the third.
    ensure!((found.found, found.gone) == (3, 1), "{found:?}");
    ensure!(found.at > since, "the clock has gone back");
    ensure!(resumed(rig, counter.program, since)? == home, "it went on elsewhere than where its pages are");
    rig.counts_on(&name, 5)?;
    for word in ["1", "2"] {
        client.send(&format!("{word}\n"))?;
        let answer = client.line()?;
        ensure!(answer == Some(format!("got {word} {}", word.parse::<u32>()? + 1)), "it answered {answer:?}");
    }
    let now = rig.status()?;
    ensure!(status::home(&now, bare.program).is_none(), "what was not protected is there");
    let directory = rig.machine.entry().directory.clone();
    ensure!(resets::cause(&directory) == cause, "{}", resets::cause(&directory));
    let line = resets::line(&now, &directory);
    ensure!(line.contains(cause) && line.contains("1 are gone"), "{line}");
    let kinds: Vec<Value> = events::remembered(&now).iter().map(|event| event.json()["event"].clone()).collect();
    ensure!(kinds.contains(&"reset".into()) && kinds.contains(&"resumed".into()), "{kinds:?}");
    // And it outlives its kernel's next death.
    rig.settle(counter.program)?;
    rig.kill_under(counter.program, Fault::Panic)?;
    rig.counts_on(&name, 3)
}

/// The record of a death outlives the kernel that led the recovery, and the machine's reset.
fn deaths_are_remembered(rig: &mut Rig) -> Result<()> {
    let program = rig.start_protected(programs::count("remembers", 2))?.program;
    let home = rig.settle(program)?;
    let dead = rig.inject(home, Fault::NullPointer)?;
    let record = rig.recovered(dead)?;
    let known = |now: &MachineStatus| {
        let fault = faults::all(now).into_iter().find(|fault| fault.recovery.dead == dead);
        fault.is_some_and(|it| {
            it.recovery.rejoined == record.rejoined && it.recovery.fenced == record.fenced && !it.takeovers.is_empty()
        })
    };
    rig.settle(ProgramId(1))?;
    rig.kill_kernel(record.monitor, Fault::Panic)?;
    rig.until(SOON, "the record, from the monitor's next life", |now| known(now).then_some(()))?;
    reset(rig, None)?;
    rig.until(SOON, "the record, after a reset", |now| known(now).then_some(()))?;
    rig.counts_on("remembers", 3)
}

/// Pages and image may still lie in the kernel that died.
fn just_after_a_takeover(rig: &mut Rig) -> Result<()> {
    for round in 0..3 {
        let name = format!("moved-{round}");
        let started = rig.start_protected(programs::count(&name, 2))?;
        rig.wait_more(&name, 2)?;
        let before = count(rig)?;
        let since = rig.status()?.now;
        let dead = rig.inject(KernelId(2), Fault::Panic)?;
        rig.until(SOON, "a takeover", |now| status::takeover(now, started.program, dead).map(drop))?;
        rig.machine.qmp().execute("system_reset", Value::Null)?;
        resets::wait(&mut rig.control, before, Instant::now(), SOON)?;
        resumed(rig, started.program, since)?;
        rig.counts_on(&name, 3)?;
        rig.control.kill(Target::Pid(started.pid), 9)?;
    }
    Ok(())
}

/// One reset while the machine has hardly come up from the one before.
fn in_a_row(rig: &mut Rig) -> Result<()> {
    let started = rig.start_protected(programs::count("row", 1))?;
    rig.wait_more("row", 2)?;
    for _ in 0..4 {
        reset(rig, None)?;
    }
    rig.settle(started.program)?;
    rig.counts_on("row", 3)
}

/// What was printed of a line when the machine was reset is nobody's, and all of it is printed again.
fn within_a_line(rig: &mut Rig) -> Result<()> {
    rig.start_protected(programs::long_lines("long", 1))?;
    for _ in 0..3 {
        rig.wait_more("long", 3)?;
        reset(rig, None)?;
        rig.wait_more("long", 3)?;
        programs::check_long_lines(&rig.lines("long"))?;
    }
    Ok(())
}

/// Nobody is left to take its programs over; a reset brings them back, from an older generation if need be.
fn only_kernel(rig: &mut Rig, fault: Fault, telling: Option<&str>) -> Result<()> {
    let name = format!("alone-{}", rig.status()?.now.0);
    let started = rig.start(programs::count(&name, 0))?;
    let level = Level::Checkpoint(Protection { integrity: Integrity::Pages, ..programs::every(INTERVAL) });
    rig.control.set_level(Target::Pid(started.pid), level, Strictness::Refuse)?;
    rig.settle(started.program)?;
    rig.wait_more(&name, 2)?;
    let before = count(rig)?;
    let since = rig.status()?.now;
    let life = recovery::life(&rig.status()?, KernelId(0)).context("no such kernel")?;
    // The answer may be lost with the kernel.
    let _ = rig.inject(KernelId(0), fault);
    // Its last words come out when it dies.
    let words = format!("{life} dies:");
    let said = rig.console().wait_for(SOON, |line| line.raw.contains(&words));
    said.context("the kernel did not die")?;
    rig.machine.qmp().execute("system_reset", Value::Null)?;
    let came = resets::wait(&mut rig.control, before, Instant::now(), SOON)?;
    ensure!(came.status.kernels.iter().all(|kernel| kernel.state == KernelState::Running), "it does not run");
    resumed(rig, started.program, since)?;
    rig.wait_more(&name, 3)?;
    let count = counter::check(rig.lines(&name).iter().map(String::as_str));
    ensure!(count.wrong == 0, "{count:?}");
    if let Some(telling) = telling {
        ensure!(status::table(&rig.status()?).contains(telling), "status does not say: {telling}");
    } else {
        ensure!(count.perfect(), "{count:?}");
    }
    Ok(())
}

/// Everything is new, and nothing of before is there.
fn cold_start(rig: &mut Rig) -> Result<()> {
    let started = rig.start_protected(programs::count("forgotten", 1))?;
    rig.wait_more("forgotten", 2)?;
    rig.machine.qmp().execute("system_reset", Value::Null)?;
    let came = resets::wait(&mut rig.control, 0, Instant::now(), SOON)?;
    ensure!(came.status.reset.is_none(), "{:?}", came.status.reset);
    ensure!(status::home(&came.status, started.program).is_none(), "a program of before is there");
    let fresh = rig.start_protected(programs::count("fresh", 1))?;
    ensure!(fresh.program == started.program, "its number is not free");
    rig.counts_on("fresh", 2)
}

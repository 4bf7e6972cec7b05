//! Programs that crash themselves and go back, and damaged images.
use anyhow::{Result, ensure};
use shimos::{counter, events, machine::Options, status};
use shimos_abi::{
    control::{Cause, Fault, Generations, Integrity, Level, OnCrash, Protection, Strictness, Takeover, Target},
    ids::ProgramId,
    time::Nanos,
};
use shimos_policy::words;
use shimos_tests::{
    client::Client,
    clock::SOON,
    group::Group,
    programs,
    rig::{INTERVAL, Rig},
    suite::Suite,
};

/// A crash.
const SEGV: u8 = 11;

pub fn run(suite: &mut Suite) {
    let patient = || Options { heartbeat: Some(Nanos::secs(1)), ..Options::default() };
    let mut group = Group::new(suite, patient());
    group.case("rollback::after_a_crash", after_a_crash);
    group.case("rollback::connections", connections);
    group.case("rollback::crashes_in_a_row", in_a_row);
    group.case("rollback::only_for_crashes", only_for_crashes);
    group.case("rollback::with_one_generation", one_generation);
    group.case("rollback::damaged_records", |rig| damaged(rig, Fault::DamageRecords, "records are damaged"));
    group.case("rollback::a_damaged_page", |rig| damaged(rig, Fault::DamagePage, "is damaged"));
}

fn rolling(limit: u32) -> Protection {
    Protection { on_crash: OnCrash::Rollback { limit }, ..programs::every(INTERVAL) }
}

/// Waits until something is said of how a program went on.
fn noted(rig: &mut Rig, (program, since): (ProgramId, Nanos), telling: &str) -> Result<Takeover> {
    rig.until(SOON, telling, |now| {
        let all = now.kernels.iter().flat_map(|kernel| &kernel.published.takeovers);
        let mut of_it = all.filter(|takeover| {
            takeover.program == program && takeover.ordered > since && takeover.first_instruction != Nanos(0)
        });
        of_it.find(|takeover| takeover.note.as_ref().is_some_and(|note| note.contains(telling))).cloned()
    })
}

/// Nothing that it has said is lost or repeated, and its kernel goes on.
fn after_a_crash(rig: &mut Rig) -> Result<()> {
    let since = rig.status()?.now;
    let started = rig.start(programs::count("crasher", 1))?;
    rig.protect(&started, rolling(2))?;
    rig.settle(started.program)?;
    rig.wait_more("crasher", 3)?;
    rig.control.signal(started.pid, SEGV)?;
    rig.program(started.program, |found| found.rollbacks == 1)?;
    rig.counts_on("crasher", 5)?;
    let takeover = noted(rig, (started.program, since), "signal 11")?;
    ensure!(takeover.cause == Cause::Rollback, "{takeover:?}");
    ensure!(takeover.note.as_ref().is_some_and(|note| !note.contains("behind")), "{takeover:?}");
    let told = events::remembered(&rig.status()?);
    ensure!(told.iter().any(|event| event.json()["event"] == "went-back"), "{told:?}");
    // And it outlives its kernel.
    rig.settle(started.program)?;
    rig.kill_under(started.program, Fault::Panic)?;
    rig.counts_on("crasher", 3)?;
    Ok(())
}

/// To the newest generation and all connections go on; behind released output and they are reset.
fn connections(rig: &mut Rig) -> Result<()> {
    let since = rig.status()?.now;
    let talk = "n=0; while read x; do n=$((n+1)); echo got $x $n; done";
    let argv = ["/bin/busybox", "nc", "-l", "-p", "7000", "-e", "/bin/busybox", "sh", "-c", talk];
    let server = rig.start(programs::command("tumbler", 2, &argv))?;
    let port = rig.machine.publish(0, server.program, 7000)?;
    let (mut client, first) = Client::greet(port, "0\n")?;
    ensure!(first == "got 0 1", "it answered '{first}'");
    rig.protect(&server, rolling(5))?;
    rig.settle(server.program)?;
    client.send("1\n")?;
    ensure!(client.line()? == Some("got 1 2".to_string()), "before the crash");
    rig.control.signal(server.pid, SEGV)?;
    rig.program(server.program, |found| found.rollbacks == 1)?;
    client.send("2\n")?;
    let got = client.line()?;
    ensure!(got == Some("got 2 3".to_string()), "it answered {got:?}");
    rig.control.signal(server.pid, SEGV)?;
    noted(rig, (server.program, since), "behind released output: 1 connections reset")?;
    // What it may still have got before it was reset is no answer to this.
    let _ = client.send("3\n");
    let end = client.line();
    ensure!(!matches!(&end, Ok(Some(_))), "it answered {end:?}");
    Ok(())
}

/// One generation further back each time, then the oldest, then the end.
fn in_a_row(rig: &mut Rig) -> Result<()> {
    let since = rig.status()?.now;
    let started = rig.start(programs::count("doomed", 3))?;
    rig.protect(&started, rolling(3))?;
    rig.settle(started.program)?;
    let mut epochs = Vec::new();
    for times in 1..=3 {
        rig.wait_more("doomed", 2)?;
        rig.control.signal(started.pid, SEGV)?;
        rig.program(started.program, |found| found.rollbacks == times)?;
        let latest = rig.until(SOON, "its takeover", |now| {
            let all = now.kernels.iter().flat_map(|kernel| &kernel.published.takeovers);
            let of_it: Vec<u32> = all
                .filter(|takeover| takeover.program == started.program && takeover.ordered > since)
                .map(|takeover| takeover.epoch.0)
                .collect();
            (of_it.len() == times as usize).then(|| of_it.last().copied()).flatten()
        })?;
        epochs.push(latest);
    }
    ensure!(epochs[1] < epochs[0] && epochs[2] == epochs[1], "went back to {epochs:?}");
    rig.wait_more("doomed", 2)?;
    rig.control.signal(started.pid, SEGV)?;
    rig.until(SOON, "its end", |now| status::home(now, started.program).is_none().then_some(()))
}

/// Who is killed, or ends, has not crashed.
fn only_for_crashes(rig: &mut Rig) -> Result<()> {
    for (name, signal) in [("killed", 9), ("asked", 15)] {
        let started = rig.start(programs::count(name, 1))?;
        rig.protect(&started, rolling(3))?;
        rig.settle(started.program)?;
        rig.control.signal(started.pid, signal)?;
        rig.until(SOON, "its end", |now| status::home(now, started.program).is_none().then_some(()))?;
    }
    let started = rig.start(programs::script("done", 1, "sleep 0.5; exit 3"))?;
    rig.protect(&started, rolling(3))?;
    rig.until(SOON, "its end", |now| status::home(now, started.program).is_none().then_some(()))?;
    // Without the word for it a crash is the end.
    let started = rig.start_protected(programs::count("stopped", 1))?;
    rig.control.signal(started.pid, SEGV)?;
    rig.until(SOON, "its end", |now| status::home(now, started.program).is_none().then_some(()))
}

fn one_generation(rig: &mut Rig) -> Result<()> {
    let started = rig.start(programs::count("single", 2))?;
    let single = Protection { generations: Generations(1), ..rolling(4) };
    rig.protect(&started, single)?;
    rig.settle(started.program)?;
    for times in 1..=2 {
        rig.wait_more("single", 2)?;
        rig.control.signal(started.pid, SEGV)?;
        rig.program(started.program, |found| found.rollbacks == times)?;
    }
    rig.settle(started.program)?;
    rig.kill_under(started.program, Fault::NullPointer)?;
    rig.settle(started.program)?;
    rig.wait_more("single", 3)?;
    let found = rig.control.protect(Target::Pid(started.pid), Protection { generations: Generations(3), ..single });
    ensure!(found.is_err(), "3 generations are kept");
    ensure!(words::protection(&single).contains("1 generation"), "{}", words::protection(&single));
    Ok(())
}

/// The generation before is used, and it is said.
fn damaged(rig: &mut Rig, fault: Fault, telling: &str) -> Result<()> {
    for round in 0..3 {
        let name = format!("damaged-{round}");
        let since = rig.status()?.now;
        let started = rig.start(programs::count(&name, 1))?;
        let level = Level::Checkpoint(Protection { integrity: Integrity::Pages, ..programs::every(INTERVAL) });
        rig.control.set_level(Target::Pid(started.pid), level, Strictness::Refuse)?;
        rig.settle(started.program)?;
        rig.wait_more(&name, 2)?;
        let home = rig.home(started.program)?;
        let dead = rig.inject(home, fault)?;
        rig.recovered(dead)?;
        rig.wait_more(&name, 3)?;
        noted(rig, (started.program, since), telling)?;
        ensure!(status::table(&rig.status()?).contains(telling), "status says nothing");
        let count = counter::check(rig.lines(&name).iter().map(String::as_str));
        ensure!(count.wrong == 0, "{count:?}");
        rig.control.kill(Target::Pid(started.pid), 9)?;
    }
    Ok(())
}

//! Programs that go to another machine in a file.
use anyhow::{Context, Error, Result, ensure};
use shimos::{
    machine::Options,
    saved::{self, Saved},
    status,
};
use shimos_abi::{
    control::{Fault, Level, Target},
    time::Nanos,
};
use shimos_core::inspect;
use shimos_tests::{
    client::Client,
    clock::{self, SOON},
    group::Group,
    makings::Makings,
    programs,
    rig::Rig,
    suite::Suite,
    tool::{self, command, refused},
};

pub fn run(suite: &mut Suite) {
    let makings = suite.makings.clone();
    let mut group = Group::new(suite, patient());
    group.case("saved::to_another_machine", |rig| to_another(rig, &makings));
    group.case("saved::by_an_earlier_version", by_an_earlier_version);
}

fn patient() -> Options {
    Options { heartbeat: Some(Nanos::secs(1)), ..Options::default() }
}

/// `fixtures/voyager.shimos` was written by commit b30e050 (records of that time, version 2 of images), as its program had printed a
/// number of lines; the source of the program lies beside it. Here it lies on this machine's root image, of which it uses nothing.
fn by_an_earlier_version(rig: &mut Rig) -> Result<()> {
    let native = rig.start_protected(programs::count("native", 1))?;
    let here = Saved::of_machine(&mut rig.control, Target::Pid(native.pid))?;
    rig.control.kill(Target::Pid(native.pid), 9)?;
    rig.until(SOON, "room for its number", |now| status::home(now, native.program).is_none().then_some(()))?;
    let mut voyager = Saved::decode(include_bytes!("fixtures/voyager.shimos"))?;
    let (records, pages) = voyager.front.split_at(voyager.what.records as usize);
    let (there, _) = here.front.split_at(here.what.records as usize);
    let moved = inspect::on_image_of(records, voyager.what.program, there, here.what.program).map_err(Error::msg)?;
    voyager.what.records = u32::try_from(moved.len())?;
    voyager.front = [&moved, pages].concat();
    let restored = voyager.restore(&mut rig.control)?;
    rig.wait_more("voyager", 5)?;
    rig.settle(restored.program)?;
    rig.kill_under(restored.program, Fault::Panic)?;
    rig.wait_more("voyager", 5)?;
    let lines = rig.lines("voyager");
    let first = lines.first().and_then(|line| line.strip_prefix("old ")?.split_once(':')).context("no first line")?;
    let first: u32 = first.0.parse()?;
    ensure!(first > 1, "it began anew");
    for (number, line) in (first..).zip(&lines) {
        ensure!(*line == format!("old {number}: kept 12 {number}"), "it says '{line}' at {number}");
    }
    Ok(())
}

/// Machine after machine: the program goes on in the second one as it was in the first, and in the first as well.
fn to_another(rig: &mut Rig, makings: &Makings) -> Result<()> {
    let started = rig.start_protected(programs::count("traveller", 1))?;
    let talk = "while read x; do echo got $x; done; echo the end >/dev/console; sleep 1000";
    let argv = ["/bin/busybox", "nc", "-l", "-p", "7000", "-e", "/bin/busybox", "sh", "-c", talk];
    let server = rig.start(programs::command("talker", 2, &argv))?;
    let port = rig.machine.publish(0, server.program, 7000)?;
    let (mut client, _) = Client::greet(port, "0\n")?;
    rig.wait_more("traveller", 5)?;
    let directory = rig.machine.entry().directory.clone();
    let files = ["traveller", "talker"].map(|name| (name, directory.join(format!("{name}.shimos"))));
    for (name, file) in &files {
        let path = file.to_str().context("a path that is no text")?;
        let said = tool::run(command(makings, &["checkpoint", "save", name, path]))?;
        ensure!(said.code == Some(0) && said.out.contains("pages of program"), "{said:?}");
    }
    refused(command(makings, &["checkpoint", "save", "nobody", "/dev/null"]), "nobody")?;
    refused(command(makings, &["checkpoint", "restore", "/dev/null"]), "no saved program")?;
    client.send("1\n")?;
    ensure!(client.line()? == Some("got 1".to_string()), "it goes on here");
    // It runs here: there cannot be two of them.
    let (_, traveller) = &files[0];
    refused(command(makings, &["checkpoint", "restore", traveller.to_str().unwrap_or_default()]), "runs here")?;

    let mut second = Rig::boot(makings, patient())?;
    for (_, file) in &files {
        let told = saved::restore(&mut second.control, file)?;
        ensure!(told.contains("goes on"), "{told}");
        ensure!(told.contains("1 connections were closed") == file.ends_with("talker.shimos"), "{told}");
    }
    second.wait_more("traveller", 5)?;
    second.wait_line("talker", "the end")?;
    // What it says there it also says here.
    let there = second.lines("traveller");
    let first = there.first().context("it says nothing")?.clone();
    clock::until(SOON, "the same lines in the first machine", || {
        let here = rig.lines("traveller");
        let at = here.iter().position(|line| *line == first);
        Ok(at.is_some_and(|at| here.get(at..at + 5) == there.get(..5)).then_some(()))
    })?;
    // Its level came along, and holds.
    let target = || Target::Pid(started.pid);
    let found = shimos::programs::find(&mut second.control, &target())?;
    ensure!(matches!(found.status.level, Some(Level::Checkpoint(_))), "{found:?}");
    second.settle(started.program)?;
    second.kill_under(started.program, Fault::Panic)?;
    second.wait_more("traveller", 3)?;
    // Damage is noticed before anything is begun.
    let bytes = std::fs::read(traveller)?;
    let damaged = directory.join("damaged.shimos");
    for at in [9, 70, bytes.len() / 2, bytes.len() - 1] {
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x20;
        std::fs::write(&damaged, &wrong)?;
        ensure!(saved::restore(&mut second.control, &damaged).is_err(), "damage at {at} is not noticed");
    }
    // And the kernel looks for itself.
    let mut wrong = Saved::decode(&bytes)?;
    second.control.kill(target(), 9)?;
    second.until(SOON, "its end", |now| status::home(now, started.program).is_none().then_some(()))?;
    for at in [3, wrong.front.len() / 3, wrong.front.len() - 5] {
        let whole = wrong.front[at];
        wrong.front[at] ^= 0x41;
        ensure!(wrong.restore(&mut second.control).is_err(), "damage at {at} of the front is not noticed");
        wrong.front[at] = whole;
    }
    wrong.restore(&mut second.control).map(drop)
}

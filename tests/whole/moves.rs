//! Planned moves: programs, devices and whole kernels change places, and nothing is rolled back, lost or repeated.
use anyhow::{Context, Result, ensure};
use shimos::{artifacts::USER_PROGRAMS, download, machine::Options, moves, status};
use shimos_abi::{
    control::{Drain, Fault, Target, address_of},
    ids::{KernelId, ProgramId},
    time::Nanos,
};
use shimos_tests::{
    client::Client,
    clock::SOON,
    group::Group,
    programs,
    rig::Rig,
    suite::Suite,
    tool::{self, command, refused},
};

pub fn run(suite: &mut Suite) {
    let makings = suite.makings.clone();
    let mut group = Group::new(suite, patient());
    group.case("moves::a_program_goes_round", goes_round);
    group.case("moves::a_program_that_is_not_protected", unprotected);
    group.case("moves::a_conversation_goes_on", conversation);
    group.case("moves::datagrams_on_their_way", datagrams);
    group.case("moves::the_tool", |rig| {
        let started = rig.start(programs::count("tooled", 1))?;
        rig.wait_more("tooled", 1)?;
        let said = tool::run(command(&makings, &["move", "tooled", "--to", "k2", "--json"]))?;
        ensure!(said.code == Some(0) && said.out.contains("\"to\":2"), "{said:?}");
        ensure!(rig.home(started.program)? == KernelId(2), "it is elsewhere");
        let cases: [(&[&str], &str); 6] = [
            (&["move", "tooled", "--to", "k2"], "already"),
            (&["move", "tooled", "--to", "k9"], "k9"),
            (&["move", "nobody", "--to", "k1"], "nobody"),
            (&["kernel", "drain", "k9"], "k9"),
            (&["kernel", "reboot", "k9"], "k9"),
            (&["move", "tooled"], "--to"),
        ];
        for (words, telling) in cases {
            refused(command(&makings, words), telling)?;
        }
        let said = tool::run(command(&makings, &["kernel", "drain", "k2", "--json"]))?;
        ensure!(said.code == Some(0) && said.out.contains("tooled"), "{said:?}");
        refused(command(&makings, &["move", "tooled", "--to", "k2"]), "drained")?;
        refused(command(&makings, &["start", "ghost", "--kernel", "k2", "--", "/bin/busybox", "true"]), "drained")?;
        ensure!(tool::run(command(&makings, &["status"]))?.out.contains("drained: k2"), "it is not shown");
        let said = tool::run(command(&makings, &["kernel", "undrain", "k2"]))?;
        ensure!(said.code == Some(0), "{said:?}");
        let said = tool::run(command(&makings, &["move", "tooled", "--to", "k2"]))?;
        ensure!(said.code == Some(0) && said.out.contains("to k2"), "{said:?}");
        Ok(())
    });
    group.case("moves::a_death_after_a_move", death_after);
    Group::new(suite, patient()).case("moves::every_kernel_gets_a_fresh_life", every_kernel);
}

/// A host that stands still for a while must not look like a death: which kernels die is told here.
fn patient() -> Options {
    Options { heartbeat: Some(Nanos::secs(1)), ..Options::default() }
}

fn by_name(name: &str) -> Target {
    Target::Name(name.to_string())
}

/// Over all kernels and back to where it was, several times, protected all the while.
fn goes_round(rig: &mut Rig) -> Result<()> {
    let started = rig.start_protected(programs::count("round", 0))?;
    let mut moved = 0;
    for to in [1, 2, 3, 0, 3, 0, 1, 0] {
        moves::program(&mut rig.control, &by_name("round"), KernelId(to))?;
        moved += 1;
        rig.counts_on("round", 3)?;
        let now = rig.status()?;
        let (kernel, found) = status::home(&now, started.program).context("it is nowhere")?;
        ensure!(kernel.id == KernelId(to) && found.moves == moved && found.takeovers == 0, "{found:?}");
    }
    Ok(())
}

fn unprotected(rig: &mut Rig) -> Result<()> {
    let started = rig.start(programs::count("bare", 1))?;
    for to in [2, 1, 3] {
        moves::program(&mut rig.control, &by_name("bare"), KernelId(to))?;
        rig.counts_on("bare", 3)?;
        let now = rig.status()?;
        let (_, found) = status::home(&now, started.program).context("it is nowhere")?;
        ensure!(found.protection.is_none() && found.checkpoint.is_none(), "{found:?}");
    }
    // It still dies with its kernel.
    rig.kill_kernel(KernelId(3), Fault::Panic)?;
    rig.until(SOON, "its end", |now| status::home(now, started.program).is_none().then_some(()))
}

/// Open connections, a file that is written, a child process and a pipe: all of it goes along.
fn conversation(rig: &mut Rig) -> Result<()> {
    let talk = "n=0; while read x; do n=$((n+1)); echo $x >> /tmp/log; echo got $x $(wc -l < /tmp/log); done";
    let server = rig.start(programs::command(
        "talker",
        1,
        &["/bin/busybox", "nc", "-l", "-p", "7000", "-e", "/bin/busybox", "sh", "-c", talk],
    ))?;
    let port = rig.machine.publish(0, server.program, 7000)?;
    let (mut client, first) = Client::greet(port, "0\n")?;
    ensure!(first == "got 0 1", "it answered '{first}'");
    for (asked, to) in (1..).zip([2, 3, 1, 0, 2]) {
        moves::program(&mut rig.control, &by_name("talker"), KernelId(to))?;
        client.send(&format!("{asked}\n"))?;
        let got = client.line()?;
        ensure!(got == Some(format!("got {asked} {}", asked + 1)), "it answered {got:?}");
    }
    Ok(())
}

/// A kernel dies just after a program has come to it, and just after one has left it.
fn death_after(rig: &mut Rig) -> Result<()> {
    rig.start_protected(programs::count("restless", 1))?;
    for (from, to) in [(1, 2), (2, 1)] {
        for dies in [to, from] {
            let now = rig.status()?;
            let id = now.kernels.iter().flat_map(|kernel| &kernel.published.programs);
            let id = id.clone().find(|program| program.name == "restless").map(|program| program.id);
            let id = id.context("it is nowhere")?;
            if rig.home(id)? != KernelId(from) {
                moves::program(&mut rig.control, &by_name("restless"), KernelId(from))?;
            }
            moves::program(&mut rig.control, &by_name("restless"), KernelId(to))?;
            rig.kill_kernel(KernelId(dies), Fault::Panic)?;
            rig.settle(id)?;
            rig.counts_on("restless", 3)?;
        }
    }
    Ok(())
}

/// Every kernel in turn is rebooted: the one that drives all devices, leads the monitor and runs `shimosd` first.
fn every_kernel(rig: &mut Rig) -> Result<()> {
    for kernel in 0..4 {
        rig.start(programs::count(&format!("count-{kernel}"), kernel))?;
    }
    rig.start_protected(programs::count("guarded", 0))?;
    let web = rig.start(programs::web("web", 0))?;
    let port = rig.machine.publish(0, web.program, 80)?;
    download::wait_for_server(port, SOON)?;
    for kernel in (0..4).map(KernelId) {
        moves::reboot(&mut rig.control, kernel, SOON).with_context(|| format!("{kernel}"))?;
        let lives = rig.lives()?;
        let fresh = lives.iter().filter(|incarnation| **incarnation == 2).count();
        ensure!(
            fresh == usize::from(kernel.0) + 1 && lives.iter().all(|incarnation| *incarnation <= 2),
            "incarnations {lives:?} after {kernel}"
        );
        for name in ["count-0", "count-1", "count-2", "count-3", "guarded"] {
            rig.counts_on(name, 3).with_context(|| format!("after {kernel}"))?;
        }
        download::wait_for_server(port, SOON)?;
        // A program that nobody has run before comes from the disk.
        let name = format!("fresh-{kernel}");
        rig.start(programs::script(&name, 3, "md5sum /usr/bin/bash >/dev/null && echo read"))?;
        rig.wait_line(&name, "read")?;
    }
    let now = rig.status()?;
    ensure!(now.drained.is_empty(), "{:?} are drained", now.drained);
    let daemon = status::home(&now, ProgramId(1)).context("shimosd is nowhere")?.1;
    ensure!(daemon.takeovers == 0, "shimosd was taken over {} times", daemon.takeovers);
    // Drained it stays empty, devices and all, until it is let be filled.
    moves::drain(&mut rig.control, KernelId(1), SOON)?;
    moves::drain(&mut rig.control, KernelId(0), SOON)?;
    rig.start(programs::count("late", 2))?;
    rig.counts_on("late", 3)?;
    let now = rig.status()?;
    for kernel in [0, 1] {
        let found = status::kernel(&now, KernelId(kernel)).context("no kernel")?;
        ensure!(found.published.programs.is_empty(), "{:?}", found.published.programs);
        ensure!(!now.owners.contains(&KernelId(kernel)), "owners {:?}", now.owners);
        rig.control.drain(KernelId(kernel), Drain::End)?;
    }
    Ok(())
}

/// Nothing repeats a datagram: all that come while a program is stopped reach it where it goes.
fn datagrams(rig: &mut Rig) -> Result<()> {
    let inside = USER_PROGRAMS.iter().find(|(name, _)| *name == "abi-test").context("no abi-test")?.1;
    let taker = rig.start(programs::command("taker", 1, &[inside, "--datagrams", "5000"]))?;
    rig.wait_line("taker", "listening")?;
    let [a, b, c, d] = address_of(taker.program);
    let text =
        format!("exec 3>/dev/udp/{a}.{b}.{c}.{d}/5000; i=0; while :; do i=$((i+1)); echo $i >&3; usleep 2000; done");
    rig.start(programs::command("teller", 0, &["/usr/bin/bash", "-c", &text.replace("usleep", "busybox usleep")]))?;
    rig.wait_more("taker", 20)?;
    for to in [2, 3, 1, 2, 3, 1, 2, 3] {
        moves::program(&mut rig.control, &by_name("taker"), KernelId(to))?;
        rig.wait_more("taker", 20)?;
    }
    let numbers: Vec<u64> = rig.lines("taker").iter().filter_map(|line| line.parse().ok()).collect();
    let first = numbers.first().copied().context("no numbers")?;
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    let missing = (first..).zip(&sorted).find(|(wanted, found)| wanted != *found);
    ensure!(missing.is_none(), "lost, or twice: {missing:?}");
    Ok(())
}

//! Reliability levels and the policy that gives them.
use anyhow::{Context, Result, ensure};
use shimos::{machine::Options, moves};
use shimos_abi::{
    control::{Fault, Level, Strictness, Target},
    ids::{KernelId, ProgramId},
    time::Nanos,
};
use shimos_tests::{
    clock::{self, SOON},
    group::Group,
    programs,
    rig::Rig,
    suite::Suite,
    tool::{self, command, refused},
};

pub fn run(suite: &mut Suite) {
    let makings = suite.makings.clone();
    let patient = || Options { heartbeat: Some(Nanos::secs(1)), ..Options::default() };
    let mut group = Group::new(suite, patient());
    group.case("levels::a_program_is_started_again", started_again);
    group.case("levels::from_one_to_another_while_it_runs", changed);
    group.case("levels::a_program_that_is_to_be_started_again_is_moved", moved);
    group.case("levels::a_death_amid_a_change", death_amid_a_change);
    group.case("levels::what_cannot_be_protected", |rig| {
        // A request is under way: it was written, and its answer is not read before the signal.
        let asks = "exec 3<>/dev/shimos; trap 'head -c 7 <&3 >/dev/null; echo read' USR1; \
            printf '\\003\\000\\000\\000\\202\\000\\200' >&3; echo asked; while :; do sleep 1000 & wait; done";
        let started = rig.start(programs::command("asker", 1, &["/usr/bin/bash", "-c", asks]))?;
        rig.wait_line("asker", "asked")?;
        refused(command(&makings, &["protect", "asker", "--strict"]), "descriptor 3: a control request")?;
        rig.program(started.program, |found| found.level == Some(Level::Off) && found.exceptions.is_empty())?;
        let said = tool::run(command(&makings, &["protect", "asker"]))?;
        let telling = format!("not protected: process {} (bash), descriptor 3", started.pid.0);
        ensure!(said.code == Some(0) && said.out.contains(&telling), "{said:?}");
        rig.program(started.program, |found| !found.exceptions.is_empty())?;
        let shown = tool::run(command(&makings, &["status"]))?;
        ensure!(shown.out.contains(&telling), "{shown:?}");
        rig.control.signal(started.pid, 10)?;
        rig.wait_line("asker", "read")?;
        rig.program(started.program, |found| found.exceptions.is_empty())?;
        let said = tool::run(command(&makings, &["protect", "asker", "--strict"]))?;
        ensure!(said.code == Some(0) && said.out.is_empty(), "{said:?}");
        Ok(())
    });
    group.case("levels::a_policy", |rig| {
        let file = rig.machine.entry().directory.join("wanted.toml");
        let path = file.to_str().context("a path that is no text")?;
        let rules = "[[program]]\nname = \"pol-a*\"\nlevel = \"restart\"\n\n[[program]]\nname = \"pol-b\"\n\
            level = \"checkpoint\"\ninterval = \"25ms\"\n";
        std::fs::write(&file, rules.replace("restart", "often"))?;
        for word in ["check", "apply"] {
            refused(command(&makings, &["policy", word, path]), "wanted.toml:3:9: 'often' is no level")?;
        }
        refused(command(&makings, &["policy", "show"]), "no policy")?;
        std::fs::write(&file, rules)?;
        let before = rig.start(programs::count("pol-a1", 1))?;
        for words in [["policy", "check", path], ["policy", "apply", path]] {
            let said = tool::run(command(&makings, &words))?;
            ensure!(said.code == Some(0) && said.errors.is_empty(), "{said:?}");
        }
        rig.program(before.program, |found| found.level == Some(Level::Restart))?;
        // It counts for what is started from now on, unless the command line says otherwise.
        for (name, options, wanted) in [
            ("pol-b", None, Level::Checkpoint(programs::every(Nanos::millis(25)))),
            ("pol-a2", None, Level::Restart),
            ("pol-a3", Some("off"), Level::Off),
            ("pol-c", None, Level::Off),
        ] {
            let mut words = vec!["start", name];
            words.extend(options.iter().flat_map(|level| ["--level", level]));
            words.extend(["--", "/bin/busybox", "sleep", "1000"]);
            let said = tool::run(command(&makings, &words))?;
            ensure!(said.code == Some(0), "{said:?}");
            rig.until(SOON, "its level", |now| {
                let mut all = now.kernels.iter().flat_map(|kernel| &kernel.published.programs);
                all.any(|found| found.name == name && found.level == Some(wanted)).then_some(())
            })
            .with_context(|| name.to_string())?;
        }
        let shown = tool::run(command(&makings, &["policy", "show"]))?;
        ensure!(shown.out.contains("restart, but it is off"), "{shown:?}");
        Ok(())
    });
    group.case("levels::a_policy_from_inside", |rig| {
        let started = rig.start(programs::count("pol-inside", 1))?;
        // From another kernel than the daemon's, and longer than one packet.
        let home = rig.home(ProgramId::DAEMON)?;
        let other = if home == KernelId(2) { "k3" } else { "k2" };
        let script = "cd /tmp; printf '[[program]]\\nname = \"pol-in*\"\\nlevel = \"restart\"\\n' > p; yes '# more' | head -n 999 >> p; \
            shimosctl policy check p && shimosctl policy apply p && shimosctl policy show; \
            echo level = often >> p; shimosctl policy apply p";
        let said = tool::run(command(&makings, &["run", "--kernel", other, "--", "/bin/sh", "-c", script]))?;
        ensure!(said.out.contains("pol-inside: restart\npol-in*"), "{said:?}");
        ensure!(said.errors.contains("p:1003:9: "), "{said:?}");
        rig.program(started.program, |found| found.level == Some(Level::Restart))?;
        // It outlives the kernel of the program that keeps it.
        let home = rig.home(ProgramId::DAEMON)?;
        rig.kill_kernel(home, Fault::Panic)?;
        let shown = tool::run(command(&makings, &["policy", "show"]))?;
        ensure!(shown.out.starts_with("pol-in*") && shown.out.contains("pol-inside           restart"), "{shown:?}");
        Ok(())
    });
    group.case("levels::the_policy_s_daemon_hears_the_host_alone", |_| {
        // The same question as the host's tool asks first, from a program that has no rights.
        let script = "printf '\\003\\000\\000\\000\\202\\000\\200' | nc 10.77.1.1 7411 | wc -c";
        let said = tool::run(command(&makings, &["run", "--user", "1000", "--", "/bin/sh", "-c", script]))?;
        ensure!(said.code == Some(0) && said.out.trim() == "0", "{said:?}");
        Ok(())
    });
}

fn by_name(name: &str) -> Target {
    Target::Name(name.to_string())
}

/// From the beginning, by the same order, whenever its kernel dies; wherever that was.
fn started_again(rig: &mut Rig) -> Result<()> {
    let mut order = programs::script("again", 1, "echo begins as $WHO in $PWD, $$; sleep 1000");
    order.env.push("WHO=me".to_string());
    order.cwd = "/tmp".to_string();
    order.level = Some(Level::Restart);
    let started = rig.start(order)?;
    let begun = format!("begins as me in /tmp, {}", started.pid.0);
    rig.wait_line("again", &begun)?;
    for restarts in 1..=3 {
        let home = rig.home(started.program)?;
        rig.kill_kernel(home, Fault::Panic)?;
        rig.program(started.program, |found| found.restarts == restarts && found.level == Some(Level::Restart))?;
        // Each life says it once.
        let console = rig.console().clone();
        clock::until(SOON, "its first words once more", || {
            let said = console.of_program("again").iter().filter(|line| **line == begun).count();
            Ok((said == restarts as usize + 1).then_some(()))
        })?;
    }
    Ok(())
}

fn changed(rig: &mut Rig) -> Result<()> {
    let started = rig.start(programs::count("changing", 2))?;
    let every = Level::Checkpoint(programs::every(Nanos::millis(20)));
    for level in [Level::Restart, every, Level::Off, every, Level::Restart, Level::Off, Level::Restart, every] {
        rig.control.set_level(by_name("changing"), level, Strictness::Tell)?;
        rig.program(started.program, |found| found.level == Some(level))?;
        rig.wait_more("changing", 1)?;
    }
    rig.settle(started.program)?;
    rig.kill_under(started.program, Fault::Panic)?;
    rig.settle(started.program)?;
    rig.counts_on("changing", 2)
}

/// A move takes it as it is; a death after that starts it again.
fn moved(rig: &mut Rig) -> Result<()> {
    let started = rig.start(programs::count("nomad", 1))?;
    rig.control.set_level(by_name("nomad"), Level::Restart, Strictness::Tell)?;
    for to in [2, 3] {
        moves::program(&mut rig.control, &by_name("nomad"), KernelId(to))?;
        rig.counts_on("nomad", 2)?;
        rig.program(started.program, |found| found.level == Some(Level::Restart) && found.restarts == 0)?;
    }
    rig.kill_kernel(KernelId(3), Fault::Panic)?;
    rig.program(started.program, |found| found.restarts == 1)?;
    rig.wait_more("nomad", 2)
}

/// A kernel dies while a program gets another level: it has the one or the other, and is never without.
fn death_amid_a_change(rig: &mut Rig) -> Result<()> {
    let mut order = programs::command("amid", 1, &["/usr/bin/touchpages", "20", "500", "5"]);
    order.level = Some(Level::Restart);
    let started = rig.start(order)?;
    rig.wait_more("amid", 1)?;
    for _ in 0..3 {
        let home = rig.home(started.program)?;
        // It dies a moment after the answer, while it saves what is large.
        let dead = rig.inject(home, Fault::Panic)?;
        let _ = rig.control.set_level(
            by_name("amid"),
            Level::Checkpoint(programs::every(Nanos::secs(5))),
            Strictness::Tell,
        );
        rig.recovered(dead)?;
        rig.program(started.program, |found| found.restarts + found.takeovers > 0)?;
        rig.control.set_level(by_name("amid"), Level::Restart, Strictness::Tell)?;
    }
    Ok(())
}

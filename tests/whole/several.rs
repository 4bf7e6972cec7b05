//! Deaths that come together or one after another.
use anyhow::{Context, Result, ensure};
use shimos::{events, machine::Options, names, recovery, status};
use shimos_abi::{
    control::{Fault, Level, Request},
    ids::{KernelId, ProgramId},
    time::Nanos,
};
use shimos_tests::{clock, clock::SOON, group::Group, programs, rig::Rig, suite::Suite};
use shimos_user::framing;

pub fn run(suite: &mut Suite) {
    let mut group = Group::new(suite, Options::default());
    group.case("several::the_monitor_and_a_program_together", |rig| with_monitor(rig, Fault::Panic, Fault::Panic));
    group.case("several::a_hung_monitor_and_a_program_together", |rig| {
        with_monitor(rig, Fault::IrqDeadlock, Fault::InfiniteLoop)
    });
    group.case("several::the_taker_dies_as_it_takes", taker);
    group.case("several::takers_die_one_after_the_other", takers_in_a_row);
    group.case("several::many_deaths_of_one_program", many);
    group.case("several::two_kernels_together", two);
    group.case("several::a_program_that_kills_every_kernel_is_given_up", deadly);
    group.case("several::a_request_to_a_kernel_that_hangs_is_answered", unanswered);
    group.case("several::last_words_are_not_mixed_with_lines", last_words);
    group.case("several::an_order_to_die_for_a_life_that_ends_is_obeyed", over);
    group.case("several::an_order_to_die_is_not_put_off_by_another", pressed);
    group.case("several::a_question_under_way_at_the_daemons_death_is_answered", under_way);
}

/// A kernel that neither watches nor drives nor runs the control daemon.
fn plain_kernel(rig: &mut Rig) -> Result<u16> {
    let now = rig.status()?;
    let daemon = status::home(&now, ProgramId(1)).map(|(kernel, _)| kernel.id);
    let plain = now
        .kernels
        .iter()
        .map(|kernel| kernel.id)
        .find(|kernel| *kernel != now.monitor && !now.owners.contains(kernel) && Some(*kernel) != daemon);
    Ok(plain.context("every kernel has a role")?.0)
}

/// One that has its own kernel die, checkpoints or not; what ran beside it goes on.
fn deadly(rig: &mut Rig) -> Result<()> {
    let bystander = rig.start_protected(programs::count("bystander", 2))?.program;
    rig.settle(bystander)?;
    let script = "while :; do k=$(shimosctl status | awk '/^k/ {k=$1} $2 == \"deadly:\" {print k}'); \
        shimosctl inject $k null-pointer; done";
    let mut order = programs::script("deadly", 1, script);
    order.level = Some(Level::Checkpoint(programs::every(Nanos::millis(20))));
    let deadly = rig.start(order)?.program;
    let lost = rig.until(SOON * 2, "the end of the deadly program", |now| {
        let mut all = now.kernels.iter().flat_map(|kernel| &kernel.published.given_up);
        all.find(|lost| lost.program == deadly).cloned()
    })?;
    ensure!(lost.name == "deadly" && lost.why.starts_with("5 kernels in a row have died over it"), "{lost:?}");
    let now = rig.status()?;
    ensure!(status::table(&now).contains("deadly was given up: 5 kernels"), "it is not shown");
    let told = events::remembered(&now).iter().map(|event| event.line()).collect::<String>();
    ensure!(told.contains("given-up") && told.contains("(deadly)"), "{told}");
    rig.settle(bystander)?;
    rig.counts_on("bystander", 3)
}

/// Waits until a kernel has another life than this.
fn reborn(rig: &mut Rig, dead: shimos_abi::ids::Life) -> Result<()> {
    rig.until(SOON, &format!("another life after {dead}"), |now| {
        let found = recovery::life(now, dead.kernel)?;
        let running = status::kernel(now, dead.kernel)?.state == shimos_abi::control::KernelState::Running;
        (running && found.incarnation > dead.incarnation).then_some(())
    })
}

fn with_monitor(rig: &mut Rig, of_monitor: Fault, of_program: Fault) -> Result<()> {
    let name = format!("together-{}", names::fault(of_program));
    let kernel = plain_kernel(rig)?;
    let program = rig.start_protected(programs::count(&name, kernel))?.program;
    rig.settle(ProgramId(1))?;
    rig.settle(program)?;
    let monitor = rig.status()?.monitor;
    let first = rig.inject(KernelId(kernel), of_program)?;
    let second = rig.inject(monitor, of_monitor)?;
    reborn(rig, first)?;
    reborn(rig, second)?;
    rig.settle(program)?;
    rig.counts_on(&name, 3)
}

/// The kernel that takes a program over dies before the program's pages are home.
fn taker(rig: &mut Rig) -> Result<()> {
    for (fault, size) in [(Fault::Panic, "8"), (Fault::NullPointer, "30")] {
        let kernel = plain_kernel(rig)?;
        let name = format!("taker-{size}");
        let start = programs::command(&name, kernel, &["/usr/bin/touchpages", size, "100", "5"]);
        let program = rig.start_protected(start)?.program;
        rig.wait_line(&name, "touchpages: ready")?;
        rig.settle(program)?;
        let first = rig.inject(KernelId(kernel), fault)?;
        let (taker, _) = rig
            .until(SOON, "a takeover", |now| status::takeover(now, program, first).map(|takeover| (takeover.to, ())))?;
        let second = rig.inject(taker, Fault::Panic)?;
        reborn(rig, first)?;
        reborn(rig, second)?;
        rig.settle(program).with_context(|| format!("with {size} MiB"))?;
        ensure!(rig.lines(&name) == ["touchpages: ready"], "{:?}", rig.lines(&name));
    }
    Ok(())
}

/// Takers die as soon as they have a checkpoint of their own, which says only what has changed: the rest of the pages is in
/// the images of those before.
fn takers_in_a_row(rig: &mut Rig) -> Result<()> {
    let kernel = plain_kernel(rig)?;
    let start = programs::command("row", kernel, &["/usr/bin/touchpages", "30", "200", "5"]);
    let program = rig.start_protected(start)?.program;
    rig.wait_line("row", "touchpages: ready")?;
    rig.settle(program)?;
    let mut at = KernelId(kernel);
    for fault in [Fault::Panic, Fault::NullPointer, Fault::Panic, Fault::Panic] {
        let dead = rig.inject(at, fault)?;
        at = rig.until(SOON, "a checkpoint after a takeover", |now| {
            let takeover = status::takeover(now, program, dead)?;
            let (home, found) = status::home(now, program)?;
            let saved = found.checkpoint.is_some_and(|checkpoint| checkpoint.epoch > takeover.epoch);
            (home.id == takeover.to && saved).then_some(takeover.to)
        })?;
    }
    rig.settle(program)?;
    // It goes through all of its memory, and checks it.
    let before = rig.program(program, |_| true)?.checkpoint.map_or(0, |checkpoint| checkpoint.epoch.0);
    rig.program(program, |found| found.checkpoint.is_some_and(|checkpoint| checkpoint.epoch.0 > before + 20))?;
    ensure!(rig.lines("row") == ["touchpages: ready"], "{:?}", rig.lines("row"));
    Ok(())
}

/// One death after another, each as soon as the program is safe again.
fn many(rig: &mut Rig) -> Result<()> {
    let kernel = plain_kernel(rig)?;
    let program = rig.start_protected(programs::count("many", kernel))?.program;
    let before = rig.lives()?.iter().sum::<u32>();
    for fault in [Fault::Panic, Fault::NullPointer, Fault::InfiniteLoop, Fault::Panic, Fault::IrqDeadlock] {
        rig.kill_under(program, fault).with_context(|| names::fault(fault))?;
        rig.settle(program)?;
    }
    rig.counts_on("many", 3)?;
    let after = rig.lives()?.iter().sum::<u32>();
    ensure!(after == before + 5, "{} lives ended", after - before);
    Ok(())
}

/// Two kernels with programs die at the same time.
fn two(rig: &mut Rig) -> Result<()> {
    let now = rig.status()?;
    let victims: Vec<KernelId> = now.kernels.iter().map(|kernel| kernel.id).filter(|id| *id != now.monitor).collect();
    let [.., one, other] = victims.as_slice() else { anyhow::bail!("too few kernels") };
    let first = rig.start_protected(programs::count("two-a", one.0))?.program;
    let second = rig.start_protected(programs::count("two-b", other.0))?.program;
    rig.settle(ProgramId(1))?;
    rig.settle(first)?;
    let dead = [rig.inject(*one, Fault::Panic)?, rig.inject(*other, Fault::InfiniteLoop)?];
    for life in dead {
        reborn(rig, life)?;
    }
    rig.settle(first)?;
    rig.settle(second)?;
    rig.counts_on("two-a", 3)?;
    rig.counts_on("two-b", 3)
}

/// What a dead kernel was asked is refused, and the control daemon goes on.
fn unanswered(rig: &mut Rig) -> Result<()> {
    let kernel = plain_kernel(rig)?;
    let dead = rig.inject(KernelId(kernel), Fault::IrqDeadlock)?;
    // Nobody knows yet that it hangs.
    if let Err(error) = rig.control.start(programs::script("asked", kernel, "echo here")) {
        ensure!(!format!("{error:#}").contains("control daemon"), "{error:#}");
    }
    reborn(rig, dead)?;
    rig.settle(ProgramId(1)).map(drop)
}

/// Kernels die while another one prints without a pause: no line is cut, and the log says why they died.
fn last_words(rig: &mut Rig) -> Result<()> {
    let kernel = plain_kernel(rig)?;
    let speaker = rig.status()?.owners.first().copied().context("no console")?;
    rig.start(programs::command("speaker", speaker.0, &["/usr/bin/seq", "1", "1000000000"]))?;
    let before = rig.console().count();
    for _ in 0..4 {
        rig.wait_more("speaker", 1000)?;
        rig.kill_kernel(KernelId(kernel), Fault::Panic)?;
    }
    rig.wait_more("speaker", 1000)?;
    let lines = rig.lines("speaker");
    for (wanted, line) in (1_u64..).zip(&lines) {
        ensure!(line.parse() == Ok(wanted), "'{line}' came in place of {wanted}");
    }
    // What the kernels say waits behind what the program has said.
    clock::until(SOON, "the reasons of four deaths in the log", || {
        let told = rig.console().since(before).iter().filter(|line| line.text.contains("ordered panic")).count();
        Ok((told >= 4).then_some(()))
    })
}

/// Whenever an order to die is brought again, before, at and after the death: what was wanted has come true.
fn over(rig: &mut Rig) -> Result<()> {
    let kernel = plain_kernel(rig)?;
    for fault in [Fault::IrqDeadlock, Fault::Panic] {
        let dead = rig.inject(KernelId(kernel), fault)?;
        clock::until(SOON, &format!("another life after {dead}"), || {
            rig.control.inject_life(dead, fault).context("an order for a life that is over")?;
            let found = recovery::life(&rig.status()?, dead.kernel);
            Ok(found.is_some_and(|found| found.incarnation > dead.incarnation).then_some(()))
        })?;
        reborn(rig, dead)?;
        rig.control.inject_life(dead, fault).context("an order for a life long past")?;
        rig.settle(ProgramId(1))?;
        let now = recovery::life(&rig.status()?, dead.kernel).context("no such kernel")?;
        ensure!(now.incarnation.0 == dead.incarnation.0 + 1, "{dead} died, and {now} lives");
    }
    Ok(())
}

/// Orders to die come faster than the first one is due, from a shell that starts no command for them.
fn pressed(rig: &mut Rig) -> Result<()> {
    let victim = KernelId(plain_kernel(rig)?);
    let life = recovery::life(&rig.status()?, victim).context("no such kernel")?;
    let order = Request::Inject { kernel: victim, fault: Fault::Panic, incarnation: Some(life.incarnation), seed: 0 };
    let order = framing::frame(&minicbor::to_vec(order)?).map_err(|long| anyhow::anyhow!("{long}"))?;
    let octal: String = order.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let script = format!("while :; do printf '{octal}' > /dev/shimos; done");
    rig.start(programs::script("presser", victim.0, &script))?;
    let death = rig.recovered(life)?;
    ensure!(death.message.contains("ordered panic"), "it died of something else: {}", death.message);
    Ok(())
}

/// The daemon waits for a kernel that hangs, and its own kernel dies: a question that does no harm is asked again.
fn under_way(rig: &mut Rig) -> Result<()> {
    let hung = plain_kernel(rig)?;
    let program = rig.start_protected(programs::count("asked-about", hung))?.program;
    rig.settle(ProgramId(1))?;
    let home = rig.home(ProgramId(1))?;
    let first = rig.inject(KernelId(hung), Fault::IrqDeadlock)?;
    // It hangs by now, and nobody has noticed.
    let told = rig.status()?.now;
    rig.until(SOON, "the hang", |now| (now.now > told + Nanos::millis(25)).then_some(()))?;
    // It is told to die a moment later, while the question waits.
    let second = rig.inject(home, Fault::Panic)?;
    rig.control.processes(program).context("the question under way")?;
    reborn(rig, first)?;
    reborn(rig, second)?;
    rig.settle(program)?;
    rig.counts_on("asked-about", 3)
}

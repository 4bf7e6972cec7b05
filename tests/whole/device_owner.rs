//! Kernel 0 drives the devices, watches the others and runs on the core that booted; it dies like any other.
use anyhow::{Context, Result, ensure};
use shimos::{
    download,
    faults::{Injury, Told},
    machine::Options,
    moves, names, recovery, status,
};
use shimos_abi::{
    control::{Device, Drain, Fault, FencedBy, KernelState},
    ids::{KernelId, ProgramId},
    time::Nanos,
};
use shimos_tests::{client::Client, clock::SOON, group::Group, programs, rig::Rig, suite::Suite};

const BOOT: KernelId = KernelId(0);

pub fn run(suite: &mut Suite) {
    for fault in [Fault::Panic, Fault::InfiniteLoop, Fault::IrqDeadlock] {
        let name = names::fault(fault).replace('-', "_");
        // A machine of its own: each wants kernel 0 to have its first roles.
        Group::new(suite, Options::default()).case(&format!("device_owner::{name}"), |rig| dies(rig, fault));
    }
    let patient = Options { heartbeat: Some(Nanos::secs(1)), ..Options::default() };
    Group::new(suite, patient).case("device_owner::what_it_has_not_printed", unprinted);
    Group::new(suite, Options::default()).case("device_owner::within_a_line", within_a_line);
    Group::new(suite, Options::default()).case("device_owner::flood", flood);
    Group::new(suite, Options::default()).case("device_owner::an_order_to_die_is_obeyed_once", dies_once);
    Group::new(suite, Options::default()).case("device_owner::every_owner_in_turn", in_turn);
}

/// What must go on while the owner dies: a computation, and a conversation by the network.
struct Witness {
    name: String,
    count: ProgramId,
    client: Client,
    asked: u32,
}

impl Witness {
    fn start(rig: &mut Rig, name: &str, kernel: u16) -> Result<Witness> {
        let count = rig.start_protected(programs::count(name, kernel))?.program;
        let talk = "while read x; do echo got $x; done";
        let server = rig.start_protected(programs::command(
            &format!("{name}-talk"),
            kernel,
            &["/bin/busybox", "nc", "-l", "-p", "7000", "-e", "/bin/busybox", "sh", "-c", talk],
        ))?;
        let port = rig.machine.publish(0, server.program, 7000)?;
        let (client, first) = Client::greet(port, "0\n")?;
        ensure!(first == "got 0", "it answered '{first}'");
        let mut witness = Witness { name: name.to_string(), count, client, asked: 0 };
        witness.check(rig)?;
        Ok(witness)
    }

    /// Demands that both go on.
    fn check(&mut self, rig: &mut Rig) -> Result<()> {
        self.asked += 1;
        self.client.send(&format!("{}\n", self.asked))?;
        let got = self.client.line()?;
        ensure!(got == Some(format!("got {}", self.asked)), "it answered {got:?}");
        rig.counts_on(&self.name, 3)
    }
}

fn dies(rig: &mut Rig, fault: Fault) -> Result<()> {
    let before = rig.status()?;
    ensure!(before.owners.iter().all(|owner| *owner == BOOT), "owners {:?}", before.owners);
    let mut witness = Witness::start(rig, "elsewhere", 2)?;
    let mut under = Witness::start(rig, "under", 0)?;
    let daemon = ProgramId(1);
    rig.settle(daemon)?;
    rig.settle(under.count)?;
    let dead = rig.inject(BOOT, fault)?;
    let record = rig.until(SOON, "the record of the death and another life", |now| {
        let back = recovery::life(now, BOOT).is_some_and(|life| life.incarnation > dead.incarnation);
        let running = now.kernels.iter().all(|kernel| kernel.state == KernelState::Running);
        (back && running).then(|| status::recovery(now, dead).cloned())?
    })?;
    ensure!(record.fenced_by != FencedBy::Init, "the core that booted was fenced by INIT");
    ensure!(record.monitor != BOOT, "{} led the recovery", record.monitor);
    let after = rig.until(SOON, "an owner of every device, a monitor, and shimosd at home", |now| {
        let alive = |kernel: KernelId| recovery::life(now, kernel).is_some();
        let owned = now.owners.len() == Device::ALL.len() && now.owners.iter().all(|owner| alive(*owner));
        (owned && status::home(now, daemon).is_some()).then(|| now.clone())
    })?;
    ensure!(after.term > before.term, "term {} after {}", after.term, before.term);
    ensure!(after.monitor != BOOT, "the monitor still is {}", after.monitor);
    witness.check(rig).context("a program elsewhere")?;
    under.check(rig).context("a program of that kernel")?;
    let lives = rig.lives()?;
    ensure!(lives.iter().skip(1).all(|incarnation| *incarnation == 1), "incarnations {lives:?}");
    // A program that nobody has run before comes from the disk.
    rig.start(programs::script("fresh", 3, "md5sum /usr/bin/bash >/dev/null && echo read"))?;
    rig.wait_line("fresh", "read")?;
    // And the network takes new connections.
    let web = rig.start(programs::web("web", 1))?;
    let port = rig.machine.publish(0, web.program, 80)?;
    download::wait_for_server(port, SOON)
}

/// The daemon that brings the order dies with the kernel it is for, and must not bring it again.
fn dies_once(rig: &mut Rig) -> Result<()> {
    for (round, fault) in (1..).zip([Fault::Panic, Fault::NullPointer, Fault::Panic]) {
        rig.settle(ProgramId(1))?;
        let home = rig.home(ProgramId(1))?;
        let before = rig.lives()?;
        let dead = rig.inject(home, fault)?;
        rig.recovered(dead)?;
        rig.settle(ProgramId(1))?;
        let after = rig.lives()?;
        let ended: u32 = after.iter().sum::<u32>() - before.iter().sum::<u32>();
        ensure!(ended == 1, "round {round}: incarnations {before:?} became {after:?}");
    }
    Ok(())
}

/// The kernel that drives the network dies, whichever it is, several times.
fn in_turn(rig: &mut Rig) -> Result<()> {
    let mut witness = Witness::start(rig, "turns", 3)?;
    for fault in [Fault::Panic, Fault::InfiniteLoop, Fault::NullPointer, Fault::Panic] {
        let now = rig.status()?;
        let owner = *now.owners.last().context("no owner")?;
        rig.settle(ProgramId(1))?;
        rig.settle(witness.count)?;
        let dead = rig.inject(owner, fault)?;
        rig.recovered(dead)?;
        rig.settle(witness.count)?;
        witness.check(rig).with_context(|| format!("after {} in {owner}", names::fault(fault)))?;
    }
    Ok(())
}

/// The console's owner dies with lines that it has taken and not printed: each is printed once, in its place.
fn unprinted(rig: &mut Rig) -> Result<()> {
    const LINES: u64 = 6000;
    let text = format!("seq 1 {LINES}; sleep 1000");
    let plain = rig.start(programs::script("burst", 1, &text))?;
    let guarded = rig.start_protected(programs::script("guarded", 2, &format!("sleep 0.3; {text}")))?;
    rig.wait_line("guarded", "1")?;
    rig.kill_kernel(BOOT, Fault::Panic)?;
    for name in ["burst", "guarded"] {
        rig.wait_line(name, &LINES.to_string())?;
        let lines = rig.lines(name);
        let odd = (1..).zip(&lines).find(|(number, line)| **line != u64::to_string(number));
        ensure!(odd.is_none() && lines.len() as u64 == LINES, "{name}: {} lines, {odd:?}", lines.len());
    }
    for program in [plain.program, guarded.program] {
        ensure!(status::home(&rig.status()?, program).is_some(), "{program} is gone");
    }
    Ok(())
}

/// The console's owner dies while it prints a line: what was printed of it is nobody's, and all of it is printed again.
fn within_a_line(rig: &mut Rig) -> Result<()> {
    rig.start_protected(programs::long_lines("long", 2))?;
    for _ in 0..3 {
        rig.wait_more("long", 3)?;
        let owner = *rig.status()?.owners.first().context("nobody drives the console")?;
        let dead = rig.injure(owner, Injury::MachineCheck(Told::Alone), 1)?;
        rig.recovered(dead)?;
        rig.wait_more("long", 3)?;
        programs::check_long_lines(&rig.lines("long"))?;
    }
    Ok(())
}

/// Programs write to the console as fast as they can, with names that make much of little: no kernel is late, none runs
/// out of memory, and all goes on when kernels die or are emptied.
fn flood(rig: &mut Rig) -> Result<()> {
    let name = |kernel: u16| format!("{kernel}-{}", "flood".repeat(5));
    let mut floods = Vec::new();
    for kernel in 0..4 {
        floods.push(rig.start_protected(programs::command(&name(kernel), kernel, &["/bin/busybox", "yes"]))?.program);
    }
    let owner = *rig.status()?.owners.first().context("nobody drives the console")?;
    moves::drain(&mut rig.control, owner, SOON)?;
    rig.control.drain(owner, Drain::End)?;
    for round in 0..3 {
        let owner = *rig.status()?.owners.first().context("nobody drives the console")?;
        let before = rig.lives()?;
        rig.kill_kernel(owner, Fault::Panic)?;
        for (kernel, program) in (0..4).zip(&floods) {
            rig.settle(*program)?;
            rig.wait_more(&name(kernel), 100)?;
        }
        let ended = rig.lives()?.iter().sum::<u32>() - before.iter().sum::<u32>();
        ensure!(ended == 1, "round {round}: {ended} kernels have ended");
    }
    for kernel in 0..4 {
        let odd = rig.lines(&name(kernel)).into_iter().find(|line| line != "y");
        ensure!(odd.is_none(), "{}: {odd:?}", name(kernel));
    }
    Ok(())
}

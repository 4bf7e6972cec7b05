//! Ways to die, and injuries that nobody may die of: the program above goes on, where anything can see to that, and nobody else notices.
use anyhow::{Result, ensure};
use shimos::{
    faults::{self, Injury, Told},
    machine::Options,
    names, status,
};
use shimos_abi::{
    control::{DeathCause, DetectedBy, Fault, FencedBy, KernelState, Partition},
    ids::{KernelId, Life},
};
use shimos_tests::{clock::SOON, group::Group, programs, rig::Rig, suite::Suite};
use std::time::Instant;

/// What must come of an injury.
#[derive(Clone, Copy)]
enum Fate {
    /// This kernel dies, so noticed and fenced.
    Dies(DetectedBy, &'static [FencedBy]),
    /// Nobody dies.
    Lives,
    /// It depends on what was hit. Nobody else dies.
    Either,
    /// The same, and its program may be lost or wrong: its own state was hit, and nobody can tell. No other program is.
    Alone,
}

const ITSELF: Fate = Fate::Dies(DetectedBy::DeathRecord, &[FencedBy::Itself]);
const BY_NMI: Fate = Fate::Dies(DetectedBy::Heartbeat, &[FencedBy::Message, FencedBy::Nmi]);
const BY_ANY: Fate = Fate::Dies(DetectedBy::Heartbeat, &[FencedBy::Itself, FencedBy::Nmi, FencedBy::Init]);
const BY_INIT: Fate = Fate::Dies(DetectedBy::Heartbeat, &[FencedBy::Init]);
const WAYS: [(Injury, Fate); 12] = [
    (Injury::Ordered(Fault::NmiLoop), BY_NMI),
    (Injury::Ordered(Fault::DoubleFault), ITSELF),
    (Injury::Ordered(Fault::DeadCore), BY_ANY),
    (Injury::Ordered(Fault::LostIpis), Fate::Lives),
    (Injury::Ordered(Fault::Stall), BY_NMI),
    (Injury::Ordered(Fault::Slow), Fate::Lives),
    (Injury::Ordered(Fault::WildHeap), Fate::Alone),
    (Injury::Ordered(Fault::WildTables), Fate::Either),
    (Injury::Ordered(Fault::WildOutgoing), Fate::Either),
    (Injury::Ordered(Fault::WildQueue), Fate::Either),
    (Injury::MachineCheck(Told::Alone), ITSELF),
    (Injury::MachineCheck(Told::Everyone), ITSELF),
];
/// Not the boot core, and not the owner of the devices.
const HOME: u16 = 2;
/// Checkpoints and lines that show that a program goes on.
const LINES: usize = 10;

pub fn run(suite: &mut Suite) {
    let mut group = Group::new(suite, Options::default());
    for (injury, fate) in WAYS {
        let name = injury.name().replace('-', "_");
        group.case(&format!("ways::{name}"), |rig| goes_on(rig, HOME, injury, fate));
    }
    // The boot core is never sent INIT: the shell of the core hears the NMI all the same.
    for fault in [Fault::NmiLoop, Fault::DeadCore] {
        let name = format!("ways::{}_on_core_0", names::fault(fault).replace('-', "_"));
        group.case(&name, |rig| goes_on(rig, 0, Injury::Ordered(fault), BY_NMI));
    }
    drop(group);
    let bare = Options { partition: Partition::None, ..Options::default() };
    let mut group = Group::new(suite, bare);
    group.case("ways::nmi_loop_without_a_shell", |rig| goes_on(rig, HOME, Injury::Ordered(Fault::NmiLoop), BY_INIT));
    drop(group);
    let makings = suite.makings.clone();
    suite.case("ways::machine_check_on_a_parked_core", || {
        let mut rig = Rig::boot(&makings, Options { kernels: 2, ..Options::default() })?;
        parked_core(&mut rig).map_err(|error| rig.explain(error))
    });
}

fn goes_on(rig: &mut Rig, kernel: u16, injury: Injury, fate: Fate) -> Result<()> {
    let name = &format!("{}-{kernel}", injury.name());
    let program = rig.start_protected(programs::count(name, kernel))?.program;
    let before = rig.lives()?;
    let home = rig.settle(program)?;
    // Whoever must go on: the program itself, or one beside it.
    let (name, program) = &match fate {
        Fate::Alone => {
            let (beside, kernel) = (format!("beside-{name}"), kernel + 1);
            let program = rig.start_protected(programs::count(&beside, kernel))?.program;
            rig.settle(program)?;
            (beside, program)
        }
        _ => (name.clone(), program),
    };
    let dead = rig.injure(home, injury, 1)?;
    match fate {
        Fate::Lives => {
            rig.counts_on(name, LINES)?;
            rig.settle(*program)?;
            ensure!(rig.lives()? == before, "somebody died of {name}");
        }
        Fate::Dies(detected_by, fenced_by) => {
            let recovery = rig.recovered(dead)?;
            ensure!(recovery.detected_by == detected_by, "noticed by {}", names::detected_by(recovery.detected_by));
            ensure!(fenced_by.contains(&recovery.fenced_by), "fenced by {}", names::fenced_by(recovery.fenced_by));
            let told = matches!(injury, Injury::MachineCheck(_));
            ensure!(!told || recovery.message.contains("machine check"), "the record says '{}'", recovery.message);
            ensure!(!told || recovery.cause == DeathCause::Exception, "cause {}", names::cause(recovery.cause));
        }
        Fate::Either | Fate::Alone => rig.counts_on(name, LINES)?,
    }
    if !matches!(fate, Fate::Lives) {
        replace(rig, dead)?;
    }
    rig.settle(*program)?;
    rig.counts_on(name, LINES)?;
    for (kernel, (before, after)) in before.iter().zip(rig.lives()?).enumerate() {
        ensure!(kernel == home.index() || *before == after, "k{kernel} died of {name} in {home}");
    }
    // What lives on injured must not meet the next case.
    if let (Fate::Lives, true) = (fate, injury == Injury::Ordered(Fault::LostIpis)) {
        rig.kill_kernel(home, Fault::Panic)?;
    }
    Ok(())
}

/// Sees to it that an injured life is over, whether it died of its injury or not.
fn replace(rig: &mut Rig, injured: Life) -> Result<()> {
    rig.control.inject_life(injured, Fault::Panic)?;
    rig.until(SOON, &format!("a life after {injured}"), |now| {
        let kernel = status::kernel(now, injured.kernel)?;
        (kernel.incarnation > injured.incarnation.0 && kernel.state == KernelState::Running).then_some(())
    })
}

/// All cores are told of a machine check of a core whose kernel failed so often that it stays parked.
fn parked_core(rig: &mut Rig) -> Result<()> {
    rig.start_protected(programs::count("beside", 0))?;
    let end = Instant::now() + SOON;
    while !rig.console().since(0).iter().any(|line| line.text.contains("is retired")) {
        ensure!(Instant::now() < end, "k1 is never given up");
        let now = rig.status()?;
        if status::kernel(&now, KernelId(1)).is_some_and(|kernel| kernel.state == KernelState::Running) {
            rig.inject(KernelId(1), Fault::Panic)?;
        }
    }
    faults::machine_check(rig.machine.qmp(), KernelId(1), Told::Everyone)?;
    ensure!(
        rig.console().wait_for(SOON, |line| line.text.contains("a machine check that harms nothing here")).is_some(),
        "k0 did not note the machine check"
    );
    rig.counts_on("beside", LINES)
}

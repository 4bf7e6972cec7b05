//! A kernel that does what it must not dies of it, alone.
use anyhow::{Result, ensure};
use shimos::{counter, machine::Options, names};
use shimos_abi::{
    control::{DeathCause, DetectedBy, Fault, Partition},
    ids::KernelId,
};
use shimos_tests::{
    group::Group,
    programs,
    rig::{Rig, life},
    suite::Suite,
};

/// What a kernel must not do.
const FAULTS: [Fault; 8] = [
    Fault::ReadPeer,
    Fault::WritePeer,
    Fault::WriteText,
    Fault::WriteRodata,
    Fault::ExecuteData,
    Fault::WritePeerShared,
    Fault::StackOverflow,
    Fault::NullPointer,
];
/// What page tables do not stop.
const BEYOND_PAGE_TABLES: [Fault; 2] = [Fault::TripleFault, Fault::MapPeer];
/// The kernel that does it; its peer is the witness.
const VICTIM: KernelId = KernelId(2);
/// The kernel of an unprotected program: that of the memory that the victim reaches for.
const WITNESS: u16 = 3;

pub fn run(suite: &mut Suite) {
    let mut group = Group::new(suite, Options::default());
    for fault in FAULTS.into_iter().chain(BEYOND_PAGE_TABLES) {
        let name = names::fault(fault).replace('-', "_");
        group.case(&format!("isolation::{name}"), |rig| match rig.status()?.partition {
            Partition::None if BEYOND_PAGE_TABLES.contains(&fault) => {
                eprintln!("        (left out: there is no hardware partition)");
                Ok(())
            }
            _ => dies_alone(rig, fault),
        });
    }
    group.case("isolation::triple_fault_on_the_boot_core", |rig| match rig.status()?.partition {
        Partition::None => Ok(()),
        Partition::Svm => triple_fault_on_the_boot_core(rig),
    });
    let mut group = Group::new(suite, Options { partition: Partition::None, ..Options::default() });
    for fault in FAULTS {
        let name = names::fault(fault).replace('-', "_");
        group.case(&format!("isolation::by_page_tables_alone::{name}"), |rig| {
            ensure!(rig.status()?.partition == Partition::None, "there is a hardware partition");
            dies_alone(rig, fault)
        });
    }
}

/// The kernel that has all devices and the monitor dies in the way that resets a machine without a partition; a
/// protected program goes on, and so does one elsewhere.
fn triple_fault_on_the_boot_core(rig: &mut Rig) -> Result<()> {
    rig.start(programs::count("elsewhere", WITNESS))?;
    rig.wait_more("elsewhere", 3)?;
    let recovery = rig.kill_kernel(KernelId(0), Fault::TripleFault)?;
    ensure!(recovery.detected_by == DetectedBy::DeathRecord, "by {}", names::detected_by(recovery.detected_by));
    ensure!(recovery.message.contains("triple fault"), "the record says '{}'", recovery.message);
    rig.wait_more("elsewhere", 3)?;
    let count = counter::check(rig.lines("elsewhere").iter().map(String::as_str));
    ensure!(count.perfect(), "{count:?}");
    Ok(())
}

fn dies_alone(rig: &mut Rig, fault: Fault) -> Result<()> {
    let name = format!("witness-{}", names::fault(fault));
    rig.start(programs::count(&name, WITNESS))?;
    rig.wait_more(&name, 3)?;
    let before = rig.lives()?;
    let recovery = rig.kill_kernel(VICTIM, fault)?;
    let mut expected = before.clone();
    if let Some(incarnation) = expected.get_mut(VICTIM.index()) {
        ensure!(recovery.dead == life(VICTIM.0, *incarnation), "{} died", recovery.dead);
        *incarnation += 1;
    }
    ensure!(recovery.cause == DeathCause::Exception, "cause {}", names::cause(recovery.cause));
    ensure!(recovery.detected_by == DetectedBy::DeathRecord, "by {}", names::detected_by(recovery.detected_by));
    ensure!(recovery.message.contains("fault"), "the record says '{}'", recovery.message);
    rig.wait_more(&name, 3)?;
    let after = rig.lives()?;
    ensure!(after == expected, "incarnations {before:?} became {after:?}");
    let count = counter::check(rig.lines(&name).iter().map(String::as_str));
    ensure!(count.perfect(), "{count:?}");
    Ok(())
}

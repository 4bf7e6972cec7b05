//! A program whose kernel dies while no other has room for it is not lost.
use anyhow::{Result, ensure};
use shimos::machine::Options;
use shimos_abi::{control::Fault, ids::KernelId};
use shimos_tests::{group::Group, programs, rig::Rig, suite::Suite};

/// Private memory of a kernel here, in MiB.
const MEMORY: u64 = 48;
/// Frames that a kernel has left which is too full to take a program over, and too few for the large program.
const LITTLE: u64 = 600;
const ENOUGH: u64 = 2200;

pub fn run(suite: &mut Suite) {
    let mut group = Group::new(suite, Options { kernels: 2, memory: MEMORY, ..Options::default() });
    group.case("room::none_elsewhere", none_elsewhere);
    group.case("room::not_for_all_pages", not_for_all_pages);
}

fn none_elsewhere(rig: &mut Rig) -> Result<()> {
    let program = rig.start_protected(programs::count("patient", 1))?.program;
    rig.fill("hog", 0, LITTLE)?;
    rig.settle(program)?;
    let dead = rig.inject(KernelId(1), Fault::Panic)?;
    rig.recovered(dead)?;
    let home = rig.home(program)?;
    eprintln!("        (it went on in {home})");
    rig.settle(program)?;
    rig.counts_on("patient", 3)
}

/// The other kernel is not full, and yet cannot hold all pages: it must not take the program over and run out of memory.
fn not_for_all_pages(rig: &mut Rig) -> Result<()> {
    let program =
        rig.start_protected(programs::command("large", 1, &["/usr/bin/touchpages", "12", "20", "10"]))?.program;
    rig.wait_line("large", "touchpages: ready")?;
    rig.fill("hog-2", 0, ENOUGH)?;
    rig.settle(program)?;
    let dead = rig.inject(KernelId(1), Fault::InfiniteLoop)?;
    rig.recovered(dead)?;
    rig.settle(program)?;
    ensure!(rig.lines("large") == ["touchpages: ready"], "{:?}", rig.lines("large"));
    Ok(())
}

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
/// Files of a program, so that what a kernel keeps of four such programs is more than its heap.
const FILES: u32 = 6000;

pub fn run(suite: &mut Suite) {
    let mut group = Group::new(suite, Options { kernels: 2, memory: MEMORY, ..Options::default() });
    group.case("room::none_elsewhere", none_elsewhere);
    group.case("room::not_for_all_pages", not_for_all_pages);
    let mut group = Group::new(suite, Options { kernels: 2, ..Options::default() });
    group.case("room::not_for_its_kernel_state", not_for_its_kernel_state);
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

/// What a kernel keeps of a program, here its files, may be much and is no page: two kernels are half full of it, and one dies.
fn not_for_its_kernel_state(rig: &mut Rig) -> Result<()> {
    let files = format!(
        "BEGIN {{ for (i = 0; i < {FILES}; i++) {{ f = \"/tmp/a-file-with-a-name-\" i; printf \"\" > f; close(f) }} }}"
    );
    let text = format!("busybox awk '{files}'; while echo on; do busybox ls /tmp | busybox wc -l; sleep 0.1; done");
    let programs = [("a", 0), ("b", 0), ("c", 1), ("d", 1)];
    let mut started = Vec::new();
    for (name, kernel) in programs {
        started.push(rig.start_protected(programs::script(name, kernel, &text))?.program);
        rig.wait_line(name, &FILES.to_string())?;
    }
    let before = rig.lives()?;
    let dead = rig.inject(KernelId(1), Fault::Panic)?;
    rig.recovered(dead)?;
    for ((name, _), program) in programs.iter().zip(started) {
        rig.settle(program)?;
        rig.wait_more(name, 4)?;
        let odd = rig.lines(name).into_iter().find(|line| line != "on" && *line != FILES.to_string());
        ensure!(odd.is_none(), "{name}: {odd:?}");
    }
    let ended = rig.lives()?.iter().sum::<u32>() - before.iter().sum::<u32>();
    ensure!(ended == 1, "{ended} kernels have ended");
    Ok(())
}

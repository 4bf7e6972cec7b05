//! The memory of a kernel as a file that a debugger opens.
use anyhow::{Context, Result, ensure};
use shimos::{
    children::found,
    dump::{self, Pool},
    faults::KERNEL_FILE,
    machine::Options,
    recovery,
};
use shimos_abi::{control::Fault, ids::KernelId};
use shimos_tests::{clock::SOON, group::Group, programs, rig::Rig, suite::Suite};
use std::{fs, process::Command};

pub fn run(suite: &mut Suite) {
    let mut group = Group::new(suite, Options::default());
    group.case("dump::living_kernels", living);
    let mut group = Group::new(suite, Options { kernels: 1, ..Options::default() });
    group.case("dump::a_dead_kernel", dead);
}

/// Dumps a kernel; what the debugger says of its stack and of a variable, if there is a debugger.
fn look(rig: &Rig, kernel: KernelId) -> Result<(String, Option<String>)> {
    let entry = rig.machine.entry();
    let file = entry.directory.join("core");
    let told = dump::kernel(entry, kernel, &file, Pool::Without)?.text();
    let binary = entry.directory.join(KERNEL_FILE);
    let said = found("gdb").then(|| {
        let commands = ["-ex", "bt", "-ex", "print *(unsigned char (*)[3])$rsp", "-ex", "info files"];
        let out = Command::new("gdb").args(["-nx", "-batch"]).args(commands).arg(&binary).arg(&file).output();
        out.map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
    });
    let said = said.transpose().context("gdb does not run")?;
    fs::remove_file(&file)?;
    Ok((told, said))
}

/// One that rests, and one whose core is in a program; neither notices.
fn living(rig: &mut Rig) -> Result<()> {
    let busy = rig.start_protected(programs::count("busy", 1))?;
    let before = rig.lives()?;
    for kernel in [0, 1, 3].map(KernelId) {
        let (told, said) = look(rig, kernel)?;
        ensure!(told.contains("(alive)"), "{told}");
        if let Some(said) = said {
            ensure!(said.contains("main () at kernel"), "{told}{said}");
            ensure!(!said.contains("Cannot access memory"), "{said}");
        }
    }
    rig.counts_on("busy", 3)?;
    ensure!(rig.lives()? == before, "a kernel was taken for dead");
    let refused = look(rig, KernelId(9)).expect_err("there is no such kernel");
    ensure!(refused.to_string().contains("there is no kernel k9"), "{refused}");
    rig.settle(busy.program).map(drop)
}

/// With the registers of its death record: nobody restarts the only kernel.
fn dead(rig: &mut Rig) -> Result<()> {
    let life = recovery::life(&rig.status()?, KernelId(0)).context("no such kernel")?;
    // The answer may be lost with the kernel.
    let _ = rig.inject(KernelId(0), Fault::NullPointer);
    let words = format!("{life} dies:");
    rig.console().wait_for(SOON, |line| line.raw.contains(&words)).context("the kernel did not die")?;
    let (told, said) = look(rig, KernelId(0))?;
    ensure!(told.contains("page fault") && told.contains("death record"), "{told}");
    if let Some(said) = said {
        ensure!(said.contains("inject") && said.contains("main () at kernel"), "{told}{said}");
    }
    // What the case after this one finds is a machine that works.
    let before = rig.machine.entry().clone();
    shimos::resets::order(&before, SOON)?;
    Ok(())
}

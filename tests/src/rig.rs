//! A machine with its client: what the cases do to it and wait for.
use crate::{
    clock::{self, SOON},
    makings::Makings,
    programs,
};
use anyhow::{Context, Result, bail, ensure};
use shimos::{
    console::{Console, Line, Source},
    control::{Control, Started},
    counter,
    faults::{self, Injury},
    machine::{Machine, Options},
    names, recovery,
    status::{self},
};
use shimos_abi::{
    control::{Fault, KernelState, MachineStatus, Partition, ProgramStatus, Protection, Recovery, Start, Target},
    ids::{Incarnation, KernelId, Life, ProgramId},
    time::Nanos,
};
use std::time::Duration;

/// Longest that a machine may take to boot.
const BOOT: Duration = Duration::from_secs(60);
/// Checkpoints that are waited for before a kernel is killed.
const CHECKPOINTS: u32 = 2;
/// Lines of the kernels that are shown with a failure.
const LAST_WORDS: usize = 16;
/// A life that is shorter counts as a failed boot, and a core with a row of these is retired (docs/fault-model.md).
const LONG_LIFE: Nanos = Nanos::millis(250);
/// Time between checkpoints of the programs here.
pub const INTERVAL: Nanos = Nanos::millis(20);

/// A machine under test.
#[derive(Debug)]
pub struct Rig {
    /// The machine.
    pub machine: Machine,
    /// Its control daemon.
    pub control: Control,
    programs: Vec<ProgramId>,
}

impl Rig {
    /// Boots a machine; without a hardware partition if `SHIMOS_TEST_PARTITION` says `none`.
    pub fn boot(makings: &Makings, options: Options) -> Result<Rig> {
        let mut options = options;
        if std::env::var("SHIMOS_TEST_PARTITION").is_ok_and(|wish| wish == "none") {
            options.partition = Partition::None;
        }
        let machine = Machine::boot(&makings.paths, &makings.files, options, BOOT)?;
        eprintln!(
            "        (machine of {} kernels after {:.1} s)",
            machine.options.kernels,
            machine.boot_time.as_secs_f64()
        );
        let control = machine.control();
        Ok(Rig { machine, control, programs: Vec::new() })
    }

    /// Adds what the console said last to an error.
    pub fn explain(&mut self, error: anyhow::Error) -> anyhow::Error {
        let mut text = format!("{error:#}");
        let mut lines = self.machine.console().since(0);
        lines.retain(|line| !matches!(line.source, Source::Program(_)));
        for line in lines.iter().skip(lines.len().saturating_sub(LAST_WORDS)) {
            text += &format!("\n    {}", line.raw);
        }
        if self.machine.ended() {
            text += "\n    (the emulator has ended)";
        } else if let Ok(now) = self.control.status() {
            text += &format!("\n{}", status::table(&now));
        }
        anyhow::anyhow!(text)
    }

    /// The console.
    pub fn console(&self) -> &Console {
        self.machine.console()
    }

    /// The machine's state.
    pub fn status(&mut self) -> Result<MachineStatus> {
        self.control.status()
    }

    /// Waits for a state.
    pub fn until<T>(
        &mut self,
        within: Duration,
        what: &str,
        mut wanted: impl FnMut(&MachineStatus) -> Option<T>,
    ) -> Result<T> {
        let control = &mut self.control;
        clock::until(within, what, || Ok(wanted(&control.status()?)))
    }

    /// Starts a program.
    pub fn start(&mut self, start: Start) -> Result<Started> {
        let name = start.name.clone();
        let started = self.control.start(start).with_context(|| format!("cannot start {name}"))?;
        self.programs.push(started.program);
        Ok(started)
    }

    /// Starts a program, protects it and waits until it is safe.
    pub fn start_protected(&mut self, start: Start) -> Result<Started> {
        let started = self.start(start)?;
        self.protect(&started, programs::every(INTERVAL))?;
        self.settle(started.program)?;
        Ok(started)
    }

    /// Protects a program; nothing of it may be left out.
    pub fn protect(&mut self, started: &Started, protection: Protection) -> Result<()> {
        let exceptions = self.control.protect(Target::Pid(started.pid), protection)?;
        ensure!(exceptions.is_empty(), "not protected: {exceptions:?}");
        Ok(())
    }

    /// Waits until all kernels run and the program has been checkpointed where it is.
    pub fn settle(&mut self, program: ProgramId) -> Result<KernelId> {
        recovery::settle(&mut self.control, program, CHECKPOINTS, SOON)
    }

    /// The lives of all kernels.
    pub fn lives(&mut self) -> Result<Vec<u32>> {
        Ok(self.status()?.kernels.iter().map(|kernel| kernel.incarnation).collect())
    }

    /// The lines of a program so far.
    pub fn lines(&self, name: &str) -> Vec<String> {
        self.console().of_program(name)
    }

    /// Waits until a program has said a line.
    pub fn wait_line(&self, name: &str, wanted: &str) -> Result<()> {
        let from = |line: &Line| matches!(&line.source, Source::Program(source) if source == name);
        match self.console().wait_for(SOON, |line| from(line) && line.text == wanted) {
            Some(_) => Ok(()),
            None => {
                let said = self.lines(name);
                let last: Vec<&String> = said.iter().rev().take(5).rev().collect();
                bail!("{name} did not say '{wanted}'; it said {} lines, the last {last:?}", said.len())
            }
        }
    }

    /// Waits until a program has said so many more lines than it has now.
    pub fn wait_more(&self, name: &str, more: usize) -> Result<()> {
        let wanted = self.lines(name).len() + more;
        clock::until(SOON, &format!("{more} more lines of {name}"), || {
            Ok((self.lines(name).len() >= wanted).then_some(()))
        })
    }

    /// Injures a kernel. There is an answer even when the control daemon lives there.
    pub fn inject(&mut self, kernel: KernelId, fault: Fault) -> Result<Life> {
        let before = self.status()?;
        let life = recovery::life(&before, kernel).context("no such kernel")?;
        self.control.inject_life(life, fault).with_context(|| format!("{} for {life}", names::fault(fault)))?;
        Ok(life)
    }

    /// Injures a kernel in any way.
    pub fn injure(&mut self, kernel: KernelId, injury: Injury, seed: u64) -> Result<Life> {
        let life = recovery::life(&self.status()?, kernel).context("no such kernel")?;
        match injury {
            Injury::Ordered(fault) => self.control.inject_seeded(life, fault, seed)?,
            Injury::MachineCheck(told) => faults::machine_check(self.machine.qmp(), kernel, told)?,
        }
        Ok(life)
    }

    /// Fills a kernel's memory with a program until so many frames are free.
    pub fn fill(&mut self, name: &str, kernel: u16, left: u64) -> Result<()> {
        let free = status::kernel(&self.status()?, KernelId(kernel)).map_or(0, |kernel| kernel.free_frames);
        let size = free.saturating_sub(left) / 256;
        ensure!(size > 0, "there is nothing to fill");
        self.start(programs::command(name, kernel, &["/usr/bin/touchpages", &size.to_string(), "1", "1000"]))?;
        self.wait_line(name, "touchpages: ready")
    }

    /// Waits until the recovery of a life is finished; returns the record of it.
    pub fn recovered(&mut self, dead: Life) -> Result<Recovery> {
        self.until(SOON, &format!("the recovery of {dead}"), |status| {
            let back = status::kernel(status, dead.kernel)?;
            let found = status::recovery(status, dead)?;
            let over = back.incarnation > dead.incarnation.0 && back.state == KernelState::Running;
            (over && found.rejoined.0 != 0).then(|| found.clone())
        })
    }

    /// Kills a kernel that has lived for a while, and waits until it is back.
    pub fn kill_kernel(&mut self, kernel: KernelId, fault: Fault) -> Result<Recovery> {
        self.until(SOON, &format!("a life of {kernel} that is no failed boot"), |now| {
            let all = now.kernels.iter().flat_map(|kernel| &kernel.published.recoveries);
            let joined = all.filter(|recovery| recovery.dead.kernel == kernel).map(|recovery| recovery.rejoined).max();
            (now.now > joined.unwrap_or_default() + LONG_LIFE).then_some(())
        })?;
        let life = self.inject(kernel, fault)?;
        self.recovered(life).with_context(|| format!("after {} in {kernel}", names::fault(fault)))
    }

    /// Waits for more lines of a program that counts, and demands that all of them are there once and in order.
    pub fn counts_on(&mut self, name: &str, lines: usize) -> Result<()> {
        self.wait_more(name, lines)?;
        let count = counter::check(self.lines(name).iter().map(String::as_str));
        ensure!(count.perfect(), "{name}: {count:?}");
        Ok(())
    }

    /// The kernel that a program lives on.
    pub fn home(&mut self, program: ProgramId) -> Result<KernelId> {
        self.until(SOON, &format!("a home of program {program}"), |status| {
            status::home(status, program).map(|(kernel, _)| kernel.id)
        })
    }

    /// A program's state as soon as it is as wanted.
    pub fn program(&mut self, program: ProgramId, wanted: impl Fn(&ProgramStatus) -> bool) -> Result<ProgramStatus> {
        self.until(SOON, &format!("a state of program {program}"), |status| {
            status::home(status, program).map(|(_, found)| found).filter(|found| wanted(found)).cloned()
        })
    }

    /// Kills the kernel under a program and waits until the program runs elsewhere and the kernel is back.
    pub fn kill_under(&mut self, program: ProgramId, fault: Fault) -> Result<recovery::Death> {
        recovery::kill_under(&mut self.control, program, fault, SOON, || ())
    }

    /// Ends the programs that were started here and waits until they are gone and every kernel runs.
    pub fn tidy(&mut self) -> Result<()> {
        let programs = std::mem::take(&mut self.programs);
        let mut asked = Vec::new();
        let control = &mut self.control;
        clock::until(SOON, "all kernels at work and no program left", || {
            let status = control.status()?;
            let calm = status.kernels.iter().all(|kernel| kernel.state == KernelState::Running);
            let mut left = 0;
            for program in &programs {
                let Some((kernel, _)) = status::home(&status, *program) else { continue };
                left += 1;
                // Asked once wherever it lives: the answer to a second request could be that it is gone.
                let life = recovery::life(&status, kernel.id);
                if !asked.contains(&(*program, life)) {
                    asked.push((*program, life));
                    let _ = control.kill(Target::Pid(program.first_pid()), 9);
                }
            }
            Ok((calm && left == 0).then_some(()))
        })
    }
}

/// A life by its numbers.
pub fn life(kernel: u16, incarnation: u32) -> Life {
    Life { kernel: KernelId(kernel), incarnation: Incarnation(incarnation) }
}

//! `stop PROGRAM`: asks a program to end, and ends it if it does not.
use crate::{control::Control, programs, status, usage::usage};
use anyhow::{Result, bail};
use shimos_abi::{
    control::{MachineStatus, Target},
    ids::ProgramId,
};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// How often its end is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// How often SIGKILL is sent again, in case its kernel died over it.
const AGAIN: Duration = Duration::from_secs(2);
/// How long it may take to die of SIGKILL.
const DYING: Duration = Duration::from_secs(20);
const SIGTERM: u8 = 15;
const SIGKILL: u8 = 9;

/// How a program went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Went {
    /// When it was asked.
    Asked,
    /// When it was killed.
    Killed,
}

/// Sends SIGTERM to a program's first process, and SIGKILL to all of it when it is still there after `grace`.
pub fn program(control: &mut Control, target: &Target, grace: Duration) -> Result<(String, Went)> {
    let found = programs::find(control, target)?.status;
    if found.id == ProgramId(1) {
        return Err(usage("this is the control daemon; it ends with the machine: ./shimos stop"));
    }
    let name = found.name;
    let start = Instant::now();
    let mut asked_after = None;
    let mut killed: Option<Instant> = None;
    loop {
        let status = control.status()?;
        if is_gone(&status, found.id) {
            return Ok((name, if killed.is_some() { Went::Killed } else { Went::Asked }));
        }
        let takeovers = status::home(&status, found.id).map(|(_, program)| program.takeovers);
        if killed.is_none() && start.elapsed() >= grace || killed.is_some_and(|at| at.elapsed() >= AGAIN) {
            // It may end by itself just now.
            let _ = control.kill(Target::Pid(found.id.first_pid()), SIGKILL);
            killed = Some(Instant::now());
        } else if killed.is_none() && takeovers.is_some() && takeovers != asked_after {
            // A program that was taken over since goes on from a time before it was asked.
            if control.signal(found.id.first_pid(), SIGTERM).is_ok() {
                asked_after = takeovers;
            }
        }
        if start.elapsed() >= grace + DYING {
            bail!("{name} does not end, not even by SIGKILL; look at ./shimos status");
        }
        sleep(LOOK);
    }
}

/// Whether a program is nowhere, and not on its way either.
fn is_gone(status: &MachineStatus, program: ProgramId) -> bool {
    let calm = status.kernels.iter().all(|kernel| kernel.state == shimos_abi::control::KernelState::Running);
    calm && status::home(status, program).is_none()
}

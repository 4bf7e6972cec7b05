//! Carries a plan of deaths out on a machine.
use super::plan::{Aim, Burst};
use crate::{
    control::Control,
    machine::Machine,
    names, recovery, resets,
    status::{self, home},
};
use anyhow::{Context, Result, bail};
use shimos_abi::{
    control::{Device, Fault, KernelState, MachineStatus},
    ids::{KernelId, Life, ProgramId},
};
use std::{
    thread::{self, sleep},
    time::{Duration, Instant},
};

/// How long a machine may take to be whole again.
const RECOVERY: Duration = Duration::from_secs(90);
/// How often it is asked.
const POLL: Duration = Duration::from_millis(20);

/// Waits until all kernels run and the program is protected where it is.
pub fn quiet(control: &mut Control, program: ProgramId) -> Result<MachineStatus> {
    recovery::settle(control, program, 1, RECOVERY)?;
    control.status()
}

/// Kills the kernels of a burst; returns the lives that ended, when the machine has noticed all of them.
pub fn carry_out(machine: &Machine, program: ProgramId, burst: &Burst) -> Result<Vec<(Life, Fault)>> {
    let mut control = machine.control();
    let now = quiet(&mut control, program)?;
    not_reset(machine, &now)?;
    let victims = victims(&now, program, burst)?;
    // Each order has a connection of its own: the daemon may be among those who die.
    let mut orders = Vec::new();
    let mut after = Duration::ZERO;
    for (death, life) in burst.iter().zip(&victims) {
        after += death.after;
        let mut control = machine.control();
        control.hello(RECOVERY)?;
        orders.push((after, *life, death.fault, control));
    }
    let begin = Instant::now();
    let ordered: Vec<Result<()>> = thread::scope(|scope| {
        let threads: Vec<_> = orders
            .iter_mut()
            .map(|(after, life, fault, control)| {
                scope.spawn(move || {
                    sleep(after.saturating_sub(begin.elapsed()));
                    order(control, *life, *fault).with_context(|| format!("{} for {life}", names::fault(*fault)))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a client broke"))).collect()
    });
    ordered.into_iter().collect::<Result<Vec<()>>>()?;
    let end = Instant::now() + RECOVERY;
    for life in &victims {
        loop {
            let now = control.status()?;
            let seen = status::kernel(&now, life.kernel).context("a kernel is not there any more")?;
            if seen.incarnation > life.incarnation.0 && seen.state == KernelState::Running {
                break;
            }
            if Instant::now() >= end {
                bail!("{life} did not come back as another life within {} s", RECOVERY.as_secs());
            }
            sleep(POLL);
        }
    }
    Ok(victims.into_iter().zip(burst.iter().map(|death| death.fault)).collect())
}

/// A death ends one kernel. A machine that was reset has lost all of them at once, though its programs go on.
pub fn not_reset(machine: &Machine, now: &MachineStatus) -> Result<()> {
    match now.reset {
        None => Ok(()),
        Some(_) => bail!("the whole machine was reset: {}", resets::cause(&machine.entry().directory)),
    }
}

/// Orders a life to end. An order that is under way when the daemon's kernel dies is answered with an error; it names one
/// life, so that it can be given again.
fn order(control: &mut Control, life: Life, fault: Fault) -> Result<()> {
    let end = Instant::now() + RECOVERY;
    loop {
        match control.inject_life(life, fault) {
            Err(error) if Instant::now() >= end => return Err(error),
            Err(_) => sleep(POLL),
            Ok(()) => return Ok(()),
        }
    }
}

/// Which lives a burst ends: different ones, and not all.
fn victims(now: &MachineStatus, program: ProgramId, burst: &Burst) -> Result<Vec<Life>> {
    let (at, _) = home(now, program).with_context(|| format!("program {program} runs nowhere"))?;
    let mut left: Vec<KernelId> = now.kernels.iter().map(|kernel| kernel.id).collect();
    let mut lives = Vec::new();
    for death in burst {
        if left.len() < 2 {
            bail!("a machine with {} kernels cannot lose {} at a time", now.kernels.len(), burst.len());
        }
        let wanted = match death.aim {
            Aim::Home => Some(at.id),
            Aim::Monitor => Some(now.monitor),
            Aim::Card => now.owners.get(Device::Network as usize).copied(),
            Aim::Other(_) => None,
        };
        let number = if let Aim::Other(number) = death.aim { usize::from(number) } else { 0 };
        let place = left
            .iter()
            .position(|kernel| Some(*kernel) == wanted)
            .unwrap_or_else(|| number.checked_rem(left.len()).unwrap_or_default());
        lives.push(recovery::life(now, left.remove(place)).context("a kernel without a life")?);
    }
    Ok(lives)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{soak::plan::Death, status::sample};

    #[test]
    fn victims_are_different_and_one_is_left() {
        let now = sample::machine();
        let death = |aim| Death { after: Duration::ZERO, aim, fault: Fault::Panic };
        let home = victims(&now, ProgramId(2), &vec![death(Aim::Home)]).expect("a home");
        let at = status::home(&now, ProgramId(2)).expect("a home").0.id;
        assert_eq!(home.first().map(|life| life.kernel), Some(at));
        let all = vec![death(Aim::Other(0)); now.kernels.len()];
        assert!(victims(&now, ProgramId(2), &all).is_err());
        let most = vec![death(Aim::Other(5)); now.kernels.len() - 1];
        let lives = victims(&now, ProgramId(2), &most).expect("enough");
        assert!(lives.iter().enumerate().all(|(place, life)| !lives[..place].contains(life)));
    }
}

//! Kill a kernel and watch the machine recover.
use crate::{control::Control, names, status};
use anyhow::{Context, Result, bail};
use shimos_abi::{
    control::{Fault, KernelState, MachineStatus, Recovery, Takeover},
    ids::{Incarnation, KernelId, Life, ProgramId},
    time::Nanos,
};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// How often the machine is asked how far it is.
const POLL: Duration = Duration::from_millis(20);

/// One death and how it was dealt with.
#[derive(Clone, Debug)]
pub struct Death {
    /// How it was caused.
    pub fault: Fault,
    /// The life that ended.
    pub dead: Life,
    /// The machine's time shortly before.
    pub injected: Nanos,
    /// The monitor's record.
    pub recovery: Recovery,
    /// The program's way out.
    pub takeover: Takeover,
}

impl Death {
    /// From the death to the monitor's knowing.
    pub fn detect(&self) -> Nanos {
        self.recovery.detected - self.recovery.died
    }
    /// From knowing to the proof.
    pub fn fence(&self) -> Nanos {
        self.recovery.fenced - self.recovery.detected
    }
    /// From knowing to the first user instruction on the new kernel.
    pub fn takeover(&self) -> Nanos {
        self.takeover.first_instruction - self.recovery.detected
    }
    /// From the death to the first user instruction on the new kernel.
    pub fn outage(&self) -> Nanos {
        self.takeover.first_instruction - self.recovery.died
    }
    /// From the proof to the new incarnation's rejoining.
    pub fn reboot(&self) -> Nanos {
        self.recovery.rejoined - self.recovery.fenced
    }
}

/// The life of a kernel that lives now.
pub fn life(status: &MachineStatus, kernel: KernelId) -> Option<Life> {
    status::kernel(status, kernel).map(|found| Life { kernel, incarnation: Incarnation(found.incarnation) })
}

/// Waits until all kernels run and the program has committed `checkpoints` more checkpoints where it is now; returns
/// the kernel it lives on.
pub fn settle(control: &mut Control, program: ProgramId, checkpoints: u32, within: Duration) -> Result<KernelId> {
    let end = Instant::now() + within;
    let mut first = None;
    loop {
        let status = control.status()?;
        let all = status.kernels.iter().all(|kernel| kernel.state == KernelState::Running);
        let home = status::home(&status, program);
        if let (true, Some((kernel, found))) = (all, home)
            && let (Some(checkpoint), None) = (found.checkpoint, &found.waiting)
        {
            let (at, start) = *first.get_or_insert((kernel.id, checkpoint.epoch.0));
            if at != kernel.id {
                first = None;
            } else if checkpoint.epoch.0 >= start + checkpoints {
                return Ok(kernel.id);
            }
        }
        if Instant::now() >= end {
            let why = match home {
                None => "it runs nowhere".to_string(),
                Some((_, found)) => match (&found.waiting, found.checkpoint) {
                    (Some(why), _) => format!("it waits: {why}"),
                    (None, None) => "it has no checkpoint".to_string(),
                    (None, Some(_)) if !all => "not all kernels run".to_string(),
                    (None, Some(checkpoint)) => {
                        format!("its checkpoints stopped at {}", checkpoint.epoch)
                    }
                },
            };
            bail!("program {program} did not settle within {} s: {why}", within.as_secs());
        }
        sleep(POLL);
    }
}

/// Kills the kernel under a program and waits until the program runs elsewhere (then `onward` is called) and the kernel
/// has rejoined.
pub fn kill_under(
    control: &mut Control,
    program: ProgramId,
    fault: Fault,
    within: Duration,
    mut onward: impl FnMut(),
) -> Result<Death> {
    let before = control.status()?;
    let (kernel, _) = status::home(&before, program).with_context(|| format!("program {program} runs nowhere"))?;
    let dead = life(&before, kernel.id).context("a kernel without a life")?;
    control.inject_life(dead, fault).with_context(|| format!("{} for {dead}", names::fault(fault)))?;
    let end = Instant::now() + within;
    let mut told = false;
    loop {
        let status = control.status()?;
        let recovery = status::recovery(&status, dead);
        let takeover = status::takeover(&status, program, dead);
        if takeover.is_some() && !told {
            told = true;
            onward();
        }
        let back = status::kernel(&status, dead.kernel)
            .is_some_and(|kernel| kernel.incarnation > dead.incarnation.0 && kernel.state == KernelState::Running);
        if let (Some(recovery), Some(takeover), true) = (recovery, takeover, back)
            && recovery.rejoined.0 != 0
        {
            return Ok(Death {
                fault,
                dead,
                injected: before.now,
                recovery: recovery.clone(),
                takeover: takeover.clone(),
            });
        }
        if Instant::now() >= end {
            bail!("{}", unfinished(&status, dead, program, fault));
        }
        sleep(POLL);
    }
}

/// How far a recovery got that did not end in time.
fn unfinished(status: &MachineStatus, dead: Life, program: ProgramId, fault: Fault) -> String {
    let fault = names::fault(fault);
    let Some(recovery) = status::recovery(status, dead) else {
        return format!("nobody noticed the death of {dead} ({fault})");
    };
    if let Some(why) = &recovery.waiting {
        return format!("the recovery of {dead} ({fault}) waits: {why}");
    }
    let step = if recovery.fenced.0 == 0 {
        "it was not fenced"
    } else if status::takeover(status, program, dead).is_none() {
        "the program was not taken over"
    } else if recovery.restarted.0 == 0 {
        "its core was not restarted"
    } else {
        "it did not rejoin"
    };
    format!("the recovery of {dead} ({fault}) did not finish: {step}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    #[test]
    fn spans_are_taken_from_the_records() {
        let status = sample::machine();
        let dead = Life { kernel: KernelId(1), incarnation: Incarnation(1) };
        let death = Death {
            fault: Fault::Panic,
            dead,
            injected: Nanos::millis(999),
            recovery: status::recovery(&status, dead).expect("there").clone(),
            takeover: status::takeover(&status, ProgramId(2), dead).expect("there").clone(),
        };
        let spans = [death.detect(), death.fence(), death.takeover(), death.outage(), death.reboot()];
        assert_eq!(spans, [1, 2, 4, 5, 20].map(Nanos::millis));
    }

    #[test]
    fn an_unfinished_recovery_says_how_far_it_got() {
        let mut status = sample::machine();
        let dead = Life { kernel: KernelId(1), incarnation: Incarnation(1) };
        let say = |status: &MachineStatus| unfinished(status, dead, ProgramId(2), Fault::Panic);
        assert!(say(&status).contains("did not rejoin"));
        status.kernels[0].published.takeovers.clear();
        assert!(say(&status).contains("not taken over"));
        status.kernels[0].published.recoveries[0].waiting = Some("no room on any kernel".to_string());
        assert!(say(&status).contains("no room"));
        status.kernels[0].published.recoveries.clear();
        assert!(say(&status).contains("nobody noticed"));
    }
}

//! Crashes at every step of a checkpoint, and of a takeover.
use crate::{
    options::Options,
    plan::{Kill, Plan},
    run::{self, Outcome},
};
use shimos_abi::ids::KernelId;
use shimos_random::Random;
use shimos_soft::Crash;

/// Does the sweep for one seed; calls `report` for every run.
pub fn sweep(options: &Options, report: &mut dyn FnMut(&Plan, &Outcome)) {
    let mut plan = Plan::new(options.seed, options);
    plan.crashes = 0;
    plan.crash_every = None;
    let calm = run::run(&plan, options.verbose);
    report(&plan, &calm);
    if calm.failure.is_some() {
        return;
    }
    // The lines that a program must show after its first ones need several checkpoints each.
    let mut rng = Random::new(options.seed);
    let mut first = None;
    for kernel in 0..plan.kernels {
        let start = calm.steps_at_start.get(kernel).copied().unwrap_or(0);
        let window = (options.steps / 100).min(4_000);
        for step in (start..start + window).step_by(options.stride as usize) {
            let crash = if rng.below(2) == 0 { Crash::Panic } else { Crash::Hang };
            let kill = Kill { kernel: KernelId(kernel as u16), step, crash };
            let plan = Plan { kills: vec![kill], ..plan.clone() };
            let outcome = run::run(&plan, false);
            report(&plan, &outcome);
            if outcome.failure.is_none() && outcome.takeovers > 0 && first.is_none() {
                first = Some((kill, outcome));
            }
        }
    }
    let Some((kill, outcome)) = first else { return };
    for kernel in (0..plan.kernels).filter(|kernel| *kernel != kill.kernel.index()) {
        let place = |steps: &Vec<u64>| steps.get(kernel).copied().unwrap_or(0);
        for step in (place(&outcome.steps_at_death) + 1..=place(&outcome.steps_at_end)).step_by(options.stride as usize)
        {
            let crash = if rng.below(2) == 0 { Crash::Panic } else { Crash::Hang };
            let second = Kill { kernel: KernelId(kernel as u16), step, crash };
            let plan = Plan { kills: vec![kill, second], ..plan.clone() };
            let outcome = run::run(&plan, false);
            report(&plan, &outcome);
        }
    }
}

//! Many short schedules of the daemons: each with its own deaths and stalls at moments of its own, until everything is as it
//! should be again. Where whole kernels are run by hundreds, these are run by millions.
use crate::{
    many::{Kind, Log, Tally},
    world::{Core, Death, World},
};
use shimos_abi::time::Nanos;

/// In which part of a schedule something is done to a kernel.
const TROUBLE: Nanos = Nanos::millis(150);
/// Longest until everything is as it should be: a core that cannot boot is tried again with longer and longer waits.
const SETTLED: Nanos = Nanos::secs(60);
/// How often it is looked at whether that is so.
const LOOK: Nanos = Nanos::millis(10);

/// What is done to one kernel.
enum Blow {
    Die(Death),
    /// Its virtual processor stands still: to others it seems dead.
    Stall(Nanos),
    /// So many of its next boots fail.
    FailBoots(u32),
}

/// Runs one schedule; says what is wrong, if anything is.
fn schedule(seed: u64, log: Log) -> Result<Tally, String> {
    let mut world = World::new(2 + (seed % 4) as usize, seed, log);
    let kernels = world.kernels.len();
    world.late = world.random.one(&[0, 0, 0, 20]);
    world.run_until(Nanos::millis(5), |_| {});
    let blows = 1 + world.random.below(3);
    let mut times: Vec<Nanos> = (0..blows).map(|_| world.now + Nanos(world.random.below(TROUBLE.0))).collect();
    times.sort();
    for time in times {
        world.run_until(time, |_| {});
        strike(&mut world, kernels);
    }
    world.late = 0;
    let (calm, end) = (world.now + Nanos::secs(1), world.now + SETTLED);
    loop {
        let next = world.now + LOOK;
        world.run_until(next, |_| {});
        let Err(what) = world.whole() else { break };
        if world.now > end {
            return Err(format!("{what}\n{}", world.tail()));
        }
        // Nobody refuses for ever.
        if world.now > calm {
            world.refusals = 0;
        }
    }
    if world.lost == 0 { Ok(Tally::new()) } else { Err(format!("a program was given up\n{}", world.tail())) }
}

fn strike(world: &mut World, kernels: usize) {
    // Half of the time the monitor.
    let victim = if world.random.once_in(2) { world.election.monitor.index() } else { world.random.index(kernels) };
    let blow = match world.random.below(7) {
        0 => Blow::Stall(Nanos::millis(world.random.below(300))),
        1 => Blow::FailBoots(1),
        2 if victim != 0 => Blow::Die(Death::Deaf),
        3 => Blow::Die(Death::Scribble),
        4 => Blow::Die(Death::Hang),
        _ => Blow::Die(Death::Panic),
    };
    match blow {
        Blow::Stall(time) => world.stall(victim, time),
        Blow::FailBoots(count) => world.fail_boots(victim, count),
        // One kernel with room is left.
        Blow::Die(death) => {
            if world.running() > 1 && world.kernels.get(victim).is_some_and(|kernel| kernel.core == Core::Running) {
                world.kill(victim, death);
            }
        }
    }
}

/// Schedules of the daemons alone.
pub const DAEMONS: Kind = Kind { schedule, replay: "--schedules" };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::many::tried;

    #[test]
    fn short_schedules_end_well() {
        for seed in 1..=300 {
            let outcome = tried(DAEMONS, seed, Log::None);
            assert_eq!(outcome, Ok(Tally::new()), "seed {seed}");
        }
    }
}

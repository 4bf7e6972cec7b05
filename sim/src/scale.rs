//! Detection and election with many kernels, up to a thousand: how long they take on the simulated machine, and what the
//! monitor daemon costs the host for each kernel.
use crate::{
    many::Log,
    world::{Core, Death, World},
};
use shimos_abi::time::Nanos;
use shimos_monitor::{Config, MonitorDaemon};
use std::{hint::black_box, time::Instant};

/// Interval of the daemons.
const HEARTBEAT: Nanos = Nanos::millis(100);
/// Rounds of a measurement.
const ROUNDS: u32 = 200;

/// What was measured with one number of kernels.
struct Row {
    kernels: usize,
    panic: Nanos,
    hang: Nanos,
    election: Nanos,
    /// One look of the active monitor at all kernels, in nanoseconds of the host; the median.
    look: u64,
}

/// The time until `done`, from now on.
fn until(world: &mut World, mut done: impl FnMut(&World) -> bool) -> Result<Nanos, String> {
    let begun = world.now;
    while !done(world) {
        world.step();
        if world.now > begun + Nanos::secs(60) {
            return Err(format!("{} kernels: it does not come\n{}", world.kernels.len(), world.tail()));
        }
    }
    Ok(world.now - begun)
}

/// The time until the active monitor has noticed the death of `victim`.
fn noticed(world: &mut World, victim: usize, death: Death) -> Result<Nanos, String> {
    let dead = world.kernels.get(victim).map(|kernel| kernel.life);
    world.kill(victim, death);
    let took = until(world, |world| {
        let monitor = world.kernels.get(world.election.monitor.index());
        monitor.is_some_and(|kernel| kernel.monitor.recoveries().any(|recovery| Some(recovery.dead) == dead))
    })?;
    until(world, |world| world.whole().is_ok())?;
    Ok(took)
}

fn row(kernels: usize, seed: u64) -> Result<Row, String> {
    let mut world = World::new(kernels, seed, Log::Kept);
    world.heartbeat = HEARTBEAT;
    world.refusals = 0;
    // To acknowledge a stamp is one store.
    world.stores = kernels;
    world.run_until(Nanos::secs(1), |_| {});
    if world.election.term != 0 {
        return Err(format!("{kernels} kernels: a false election\n{}", world.tail()));
    }
    let panic = noticed(&mut world, kernels / 2, Death::Panic)?;
    let hang = noticed(&mut world, kernels / 2 + 1, Death::Hang)?;
    let monitor = world.election;
    world.kill(monitor.monitor.index(), Death::Hang);
    let election = until(&mut world, |world| {
        let now = world.election;
        let works = world.kernels.get(now.monitor.index()).is_some_and(|kernel| kernel.core == Core::Running);
        now.term > monitor.term && works
    })?;
    until(&mut world, |world| world.whole().is_ok())?;
    Ok(Row { kernels, panic, hang, election, look: look(&world) })
}

fn look(world: &World) -> u64 {
    let active = world.election.monitor;
    let Some(kernel) = world.kernels.get(active.index()) else { return 0 };
    let mut monitor = MonitorDaemon::new(kernel.life, Config::default());
    let mut now = world.now;
    let mut times: Vec<u64> = (0..ROUNDS)
        .map(|_| {
            now = now + HEARTBEAT;
            let begun = Instant::now();
            black_box(monitor.step(black_box(world), now));
            begun.elapsed().as_nanos() as u64
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Measures with growing numbers of kernels, the last of them `most`; prints a table or JSON.
pub fn run(most: usize, seed: u64, json: bool) -> Result<(), String> {
    if !json {
        println!(
            "heartbeat {} ms; times until noticed are the simulated machine's, looks the host's",
            HEARTBEAT.0 / 1_000_000
        );
        println!("kernels  panic ms  hang ms  election ms  a look us  per kernel ns");
    }
    let sizes: Vec<usize> = [4, 16, 64, 256, 1024].into_iter().filter(|size| *size < most).chain([most]).collect();
    for kernels in sizes {
        let Row { kernels, panic, hang, election, look } = row(kernels, seed)?;
        let ms = |time: Nanos| time.0 as f64 / 1e6;
        let each = look as f64 / kernels as f64;
        if json {
            println!(
                "{{\"kernels\":{kernels},\"panic_ns\":{},\"hang_ns\":{},\"election_ns\":{},\"look_ns\":{look},\"look_ns_per_kernel\":{each:.1}}}",
                panic.0, hang.0, election.0
            );
        } else {
            let look = look as f64 / 1e3;
            println!("{kernels:<8} {:<9.2} {:<8.1} {:<12.1} {look:<10.2} {each:.1}", ms(panic), ms(hang), ms(election));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the number of kernels, a death is noticed in the same time.
    #[test]
    fn many_kernels_are_watched_as_few_are() {
        let few = row(4, 1).expect("four");
        let many = row(300, 1).expect("three hundred");
        for row in [&few, &many] {
            assert!(row.panic < Nanos::millis(5) && row.hang < HEARTBEAT.times(6), "{} {}", row.panic, row.hang);
            assert!(row.election < HEARTBEAT.times(6), "{}", row.election);
        }
        assert_eq!((few.kernels, many.kernels), (4, 300));
    }
}

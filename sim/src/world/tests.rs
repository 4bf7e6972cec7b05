//! The daemons of N kernels, killed and stalled between any two of their steps, by seed.
//!
//! `SEEDS=1000 cargo test -p shimos-sim --release world` looks further; `SEED=n` replays one.
use super::{Core, Death, PROGRAMS, World};
use crate::many::Log;
use shimos_abi::{
    control::{DeathCause, FencedBy},
    ids::{KernelId, ProgramId},
    time::Nanos,
};
use shimos_monitor::{Home, Work};

fn seeds(usual: u64) -> Vec<u64> {
    let variable = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match (variable("SEED"), variable("SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, count) => (1..=count.unwrap_or(usual)).collect(),
    }
}

/// Everything is as it should be.
fn assert_whole(world: &World, seed: u64) {
    if let Err(what) = world.whole() {
        panic!("seed {seed}: {what}\n{}", world.tail());
    }
}

#[test]
fn nothing_happens_on_a_calm_machine() {
    for seed in seeds(5) {
        let mut world = World::new(4, seed, Log::Kept);
        world.run_until(Nanos::secs(3), |_| {});
        // The administrator changes the interval, up and down.
        for interval in [Nanos::secs(1), Nanos::millis(5), Nanos::millis(300)] {
            world.heartbeat = interval;
            let end = world.now + Nanos::secs(4);
            world.run_until(end, |_| {});
        }
        assert_eq!(world.election.term, 0, "seed {seed}: {}", world.tail());
        assert_eq!(world.harmful, 0, "seed {seed}: {}", world.tail());
        assert_whole(&world, seed);
    }
}

#[test]
fn short_stalls_kill_nobody() {
    for seed in seeds(5) {
        let mut world = World::new(4, seed, Log::Kept);
        world.heartbeat = Nanos::millis(50);
        world.run_until(Nanos::secs(10), |world| {
            if world.random.once_in(2000) {
                let k = world.random.below(4) as usize;
                let time = Nanos::millis(world.random.below(500));
                world.stall(k, time);
            }
        });
        let lives: Vec<u32> = world.kernels.iter().map(|k| k.life.incarnation.0).collect();
        assert_eq!(lives, [1; 4], "seed {seed}: {}", world.tail());
    }
}

#[test]
fn one_death_of_each_kind_is_dealt_with() {
    for seed in seeds(4) {
        for victim in 0..3 {
            for death in [Death::Panic, Death::Hang, Death::Deaf] {
                if victim == 0 && death == Death::Deaf {
                    continue;
                }
                let mut world = World::new(3, seed, Log::Kept);
                world.refusals = 0;
                world.run_until(Nanos::secs(1), |_| {});
                world.kill(victim, death);
                world.run_until(Nanos::secs(5), |_| {});
                assert_eq!(world.kernels[victim].life.incarnation.0, 2, "seed {seed}: {}", world.tail());
                assert_whole(&world, seed);
                let monitor = world.election.monitor.index();
                assert_eq!(monitor == 0, victim != 0);
                let record = world.kernels[monitor].monitor.recoveries().last().cloned();
                let record = record.unwrap_or_else(|| panic!("no record: {}", world.tail()));
                assert_eq!(record.dead.kernel, KernelId(victim as u16));
                assert!(record.detected <= record.fenced && record.fenced <= record.taken_over, "{record:?}");
                assert!(record.taken_over <= record.restarted && record.restarted <= record.rejoined, "{record:?}");
                if death == Death::Panic {
                    assert!(record.detected - record.died < Nanos::millis(5), "{record:?}");
                }
            }
        }
    }
}

#[test]
fn nobody_has_room_so_the_rebooted_kernel_goes_on() {
    let mut world = World::new(3, 7, Log::Kept);
    world.refusals = 1;
    world.run_until(Nanos::secs(1), |_| {});
    // Its devices are somewhere else.
    let other = world.kernels[0].life;
    world.owners = [Some(other); 3];
    let (old, programs) = (world.kernels[2].life, world.kernels[2].living.len());
    world.kill(2, Death::Panic);
    world.run_until(Nanos::secs(3), |_| {});
    assert_eq!(world.kernels[2].life.incarnation.0, 2, "{}", world.tail());
    let waiting = world.homes.iter().filter(|home| home.life() == Some(old)).count();
    assert_eq!(waiting, programs);
    world.refusals = 0;
    world.run_until(Nanos::secs(6), |_| {});
    assert_whole(&world, 7);
}

#[test]
fn unprotected_programs_die_with_their_kernel() {
    let mut world = World::new(3, 9, Log::Kept);
    let life = world.kernels[1].life;
    for home in &mut world.homes[1..] {
        *home = Home::Held(life);
    }
    world.run_until(Nanos::secs(1), |_| {});
    world.kill(1, Death::Hang);
    world.run_until(Nanos::secs(4), |_| {});
    assert!(world.homes.iter().all(|home| *home == Home::Free), "{}", world.tail());
}

/// It is given up, and all others go on.
#[test]
fn a_program_that_kills_one_kernel_after_the_other() {
    for seed in seeds(20) {
        let mut world = World::new(4, seed, Log::Kept);
        world.run_until(Nanos::secs(1), |_| {});
        let (deadly, before) = (ProgramId(1), world.adopted.len());
        world.deadly.insert(deadly);
        world.run_until(Nanos::secs(60), |_| {});
        let homes = world.homes[1..].iter().filter(|home| home.life().is_some()).count();
        assert_eq!(homes, usize::from(PROGRAMS) - 2, "seed {seed}: {}", world.tail());
        assert_eq!(world.homes[usize::from(deadly.0)], Home::Free);
        assert_eq!(world.lost, 1);
        let takeovers = world.adopted.keys().skip(before).filter(|(work, _)| *work == Work::Program(deadly)).count();
        assert!(takeovers <= usize::from(world.config.falls), "{takeovers} takeovers");
        let whole = |kernel: &super::Kernel| kernel.core == Core::Running && !kernel.living.contains(&deadly);
        assert!(world.kernels.iter().all(whole), "seed {seed}: {}", world.tail());
    }
}

#[test]
fn a_kernel_that_does_not_come_up_is_tried_again_and_then_retired() {
    let mut world = World::new(3, 11, Log::Kept);
    world.fail_boots(1, 3);
    world.run_until(Nanos::secs(1), |_| {});
    world.kill(1, Death::Panic);
    world.run_until(Nanos::secs(40), |_| {});
    assert_whole(&world, 11);
    assert_eq!(world.kernels[1].life.incarnation.0, 5);
    world.fail_boots(1, 100);
    world.kill(1, Death::Panic);
    let end = world.now + Nanos::secs(90);
    world.run_until(end, |_| {});
    let last = world.kernels[1].life.incarnation.0;
    assert!(last < 13, "{}", world.tail());
    let end = world.now + Nanos::secs(30);
    world.run_until(end, |_| {});
    assert_eq!(world.kernels[1].life.incarnation.0, last);
    assert!(world.homes[1..].iter().all(|home| home.life().is_some_and(|life| life.kernel != KernelId(1))));
}

#[test]
fn a_kernel_that_dies_again_and_again_is_retired() {
    let mut world = World::new(3, 5, Log::Kept);
    world.run_until(Nanos::secs(1), |_| {});
    world.run_until(Nanos::secs(60), |world| {
        if world.kernels[1].core == Core::Running {
            world.kill(1, Death::Panic);
        }
    });
    let lives = world.kernels[1].life.incarnation.0;
    assert!(lives <= 8, "{lives} lives: {}", world.tail());
    assert!(world.homes[1..].iter().all(|home| home.life().is_some_and(|life| life.kernel != KernelId(1))));
}

/// Kernels die in every way at every moment, the monitor first of all, and virtual processors stand still.
#[test]
fn many_deaths_and_stalls() {
    for seed in seeds(40) {
        let kernels = 2 + (seed % 5) as usize;
        let mut world = World::new(kernels, seed, Log::Kept);
        let stalls = seed % 3;
        world.late = [0, 0, 30][stalls as usize];
        world.run_until(Nanos::secs(15), |world| {
            let monitor = world.election.monitor.index();
            if world.running() > 1 && world.random.once_in(4000) {
                // Half of the time the monitor, and that is when it is at work.
                let busy = world.harmful > 0 && world.random.once_in(2);
                let k = if busy { monitor } else { world.random.below(kernels as u64) as usize };
                if world.kernels[k].core == Core::Running {
                    let death = match world.random.below(3) {
                        0 => Death::Hang,
                        1 if k != 0 => Death::Deaf,
                        _ => Death::Panic,
                    };
                    world.kill(k, death);
                    if world.random.once_in(8) {
                        world.fail_boots(k, 1);
                    }
                }
            }
            if stalls > 0 && world.random.once_in(3000) {
                let k = world.random.below(kernels as u64) as usize;
                let time = Nanos::millis(world.random.below(500));
                world.stall(k, time);
            }
        });
        world.refusals = 0;
        world.late = 0;
        let end = world.now + Nanos::secs(40);
        world.run_until(end, |_| {});
        assert_eq!(world.lost, 0);
        assert_whole(&world, seed);
    }
}

/// A monitor dies at each of its actions during a recovery, one after the other.
#[test]
fn the_monitor_dies_at_every_step_of_a_recovery() {
    for seed in seeds(2) {
        for step in 1..30 {
            let mut world = World::new(4, seed, Log::Kept);
            world.run_until(Nanos::secs(1), |_| {});
            world.kill(2, Death::Hang);
            let mut killed = false;
            world.run_until(Nanos::secs(8), |world| {
                if !killed && world.harmful >= step {
                    killed = true;
                    let monitor = world.election.monitor.index();
                    world.kill(monitor, if step % 2 == 0 { Death::Panic } else { Death::Hang });
                }
            });
            assert_whole(&world, seed);
        }
    }
}

#[test]
fn a_condemned_kernel_is_asked_first() {
    let mut world = World::new(3, 13, Log::Kept);
    world.refusals = 0;
    world.run_until(Nanos::secs(1), |_| {});
    let life = world.kernels[2].life;
    world.kernels[0].monitor.condemn(life);
    world.run_until(Nanos::secs(3), |_| {});
    assert_whole(&world, 13);
    let record = world.kernels[0].monitor.recoveries().last().cloned();
    let how = record.map(|record| (record.dead, record.cause, record.fenced_by));
    assert_eq!(how, Some((life, DeathCause::Requested, FencedBy::Message)));
}

/// The boot core cannot be sent INIT; if no interrupt reaches it, its programs must stay where they are.
#[test]
fn what_cannot_be_fenced_is_left_alone() {
    let mut world = World::new(3, 15, Log::Kept);
    world.run_until(Nanos::secs(1), |_| {});
    let (life, programs) = (world.kernels[0].life, world.kernels[0].living.clone());
    world.kill(0, Death::Deaf);
    world.run_until(Nanos::secs(12), |_| {});
    assert_eq!(world.kernels[0].living, programs);
    assert!(programs.iter().all(|p| world.homes[usize::from(p.0)].life() == Some(life)));
    let monitor = &world.kernels[world.election.monitor.index()].monitor;
    assert!(monitor.recoveries().last().is_some_and(|record| record.waiting.is_some()));
    // It comes back to its senses, and is fenced at the next try.
    world.kernels[0].core = Core::Hung;
    world.run_until(Nanos::secs(30), |_| {});
    world.refusals = 0;
    world.run_until(Nanos::secs(35), |_| {});
    assert_whole(&world, 15);
}

/// Nobody gets its reset confirmed. Its kernel waits for a while, and then starts without the memory that it may write.
#[test]
fn a_device_that_confirms_no_reset_does_not_keep_its_kernel_for_ever() {
    let mut world = World::new(3, 17, Log::Kept);
    world.refusals = 0;
    world.run_until(Nanos::secs(1), |_| {});
    let owner = world.owners[1].expect("the disk has an owner");
    world.stubborn.insert(1);
    world.kill(owner.kernel.index(), Death::Panic);
    world.run_until(Nanos::secs(15), |_| {});
    assert!(world.quarantined.is_empty());
    assert_eq!(world.kernels[owner.kernel.index()].life, owner);
    let waits = |world: &World| {
        let monitor = &world.kernels[world.election.monitor.index()].monitor;
        monitor.recoveries().last().and_then(|record| record.waiting.clone())
    };
    assert!(waits(&world).is_some_and(|why| why.contains("does not confirm its reset")));
    world.run_until(Nanos::secs(30), |_| {});
    assert!(world.quarantined.contains(&owner.kernel));
    assert!(world.kernels[owner.kernel.index()].life.incarnation > owner.incarnation);
    assert_eq!(world.owners[1], Some(owner));
    // It may come to its senses still.
    world.stubborn.clear();
    world.run_until(Nanos::secs(35), |_| {});
    assert_whole(&world, 17);
}

//! Schedules of whole kernels end well, and what they look for would be seen.
use super::{Schedule, WHOLE, blows, blows::Blow};
use crate::{
    many::{self, Log, tried},
    options::Options,
};
use shimos_abi::{control::Output, time::Nanos};
use shimos_hal::Rights;
use shimos_soft::Crash;

#[test]
fn schedules_end_well() {
    for seed in 1..=60 {
        if let Err(why) = tried(WHOLE, seed, Log::Kept) {
            panic!("seed {seed}: {why}");
        }
    }
}

/// A monitor judged a silent kernel by the interval of before, and looked again by the present one: at once, for tens of
/// milliseconds, in which no program ran.
#[test]
fn a_new_monitor_rests_while_it_waits_for_a_stamp() {
    for seed in [58_740, 368_902] {
        if let Err(why) = tried(WHOLE, seed, Log::Kept) {
            panic!("seed {seed}: {why}");
        }
    }
}

/// A second reset comes before the lives that the first one ordered have begun.
#[test]
fn the_machine_is_reset_while_it_starts() {
    if let Err(why) = tried(WHOLE, 385_265, Log::Kept) {
        panic!("{why}");
    }
}

/// A kernel asks for a block where the disk was driven before the reset, and nobody drives it yet: that is no reason to say that it
/// cannot be read, and to end the program.
#[test]
fn a_program_needs_the_disk_before_it_has_an_owner() {
    if let Err(why) = tried(WHOLE, 284_045, Log::Kept) {
        panic!("{why}");
    }
}

/// The control daemon is started anew, and the programs that it is to start run.
#[test]
fn the_control_daemon_starts_over() {
    if let Err(why) = tried(WHOLE, 256_909, Log::Kept) {
        panic!("{why}");
    }
}

#[test]
fn the_outcome_does_not_depend_on_the_number_of_jobs() {
    let happened = |jobs: &str| {
        let args = ["--runs", "12", "--seed", "100", "--jobs", jobs].map(str::to_string);
        let summary = many::run(WHOLE, &Options::read(args.into_iter()));
        (summary.passed, summary.tally)
    };
    let one = happened("1");
    assert_eq!(one.0, 12);
    assert_eq!(one, happened("3"));
}

/// The devices' words still name the life before, and the new one never said that it is there.
#[test]
fn a_boot_after_a_reset_dies_at_one_of_its_first_steps() {
    for seed in 1..=40 {
        let blows = vec![(Nanos(0), Blow::FailBoot(Crash::Exception)), (Nanos(0), Blow::Reset)];
        if let Err(why) = Schedule::new(seed, Output::Commit, blows, Log::Kept).run() {
            panic!("seed {seed}: {why}");
        }
    }
}

/// The same schedules with output that leaves before it is committed: some must show it.
#[test]
fn output_before_its_commit_would_be_seen() {
    let seen = (1..=200).filter_map(|seed| Schedule::new(seed, Output::Free, blows::of(seed), Log::None).run().err());
    let told = seen.filter(|why| why.contains("output before its commit")).count();
    assert!(told > 0);
}

/// A kernel gives a frame up that one of its programs still writes to: the next one would get it too.
#[test]
fn a_frame_that_is_free_and_in_use_would_be_seen() {
    let schedule = Schedule::new(1, Output::Commit, blows::of(1), Log::None);
    assert!(schedule.run().is_ok());
    assert_eq!(schedule.audit(), Ok(()));
    let mut lost = false;
    for kernel in &schedule.kernels {
        let mut kernel = kernel.borrow_mut();
        let Some(kernel) = kernel.as_mut() else { continue };
        let mapped = kernel.spaces().flat_map(|(_, space)| space.mappings());
        let mut written = mapped.filter(|(_, mapping)| mapping.rights.contains(Rights::WRITE));
        if let Some((_, mapping)) = written.next() {
            drop(written);
            while kernel.holders(mapping.frame) > 0 {
                kernel.lose(mapping.frame);
                lost = true;
            }
        }
    }
    assert!(lost);
    let why = schedule.audit().expect_err("a frame of a program is free");
    assert!(why.contains("is free in"), "{why}");
}

//! The kernel dies at every store there is; the image must be whole each time.
use super::program::{LIFE, POOL, PROGRAM, Program, check_image};
use crate::{
    error::ImageError,
    fake::{Died, Fake},
    reader::Image,
    slots::Slots,
};
use shimos_abi::{
    addr::PAGE,
    ids::{Incarnation, Life},
};
use shimos_hal::{FrameSource, Machine};
use shimos_memory::{Frames, frames::HEAD_FRAMES, space::Progress};

/// A life with everything in it: new, changed and removed pages, taller trees, an abort, a dropped key, sweeps.
fn live(program: &mut Program) {
    let mut value = 0;
    for round in 0..7u64 {
        for page in [0, 1, 2, 127 + round, 500 * round, 3] {
            value += 1;
            program.write(0, page, value);
        }
        program.write(600, round << 20, value);
        program.remove(0, (round / 2) * 500);
        if round < 3 {
            program.write(0x8000_0001, round, value);
        }
        if round == 3 {
            program.drop_key(0x8000_0001);
        }
        if round == 2 || round == 5 {
            program.abort();
            program.write(0, 1, value + 1000);
        }
        program.checkpoint();
        if round % 2 == 1 {
            while program.sweep(5) == Progress::More {}
        } else {
            program.sweep(3);
        }
    }
}

/// Boots again: keeps the image, then scribbles over every frame that is free.
fn reboot(machine: &mut Fake) {
    let mut frames = Frames::new(POOL);
    machine.stores_left = u64::MAX;
    let life = Life { incarnation: Incarnation(2), ..LIFE };
    let (slots, kept) = Slots::start(machine, &mut frames, life, |_| true);
    assert_eq!(kept.damages, []);
    let mut taken = alloc::vec::Vec::new();
    while let Some(frame) = frames.take() {
        machine.write_frame(frame, 0, &[0x55; PAGE]);
        taken.push(frame);
    }
    taken.into_iter().for_each(|frame| frames.release(frame));
    let mut copy = Frames::new(POOL);
    let retained = crate::slots::retained(machine, POOL, |_| true, |frame| copy.reserve(frame)).unwrap();
    assert_eq!((retained.references, copy.free_count()), (kept.references, frames.free_count()));
    let _ = slots;
}

/// Returns the loan: everything must be free then.
fn return_loan(machine: &mut Fake) {
    let mut frames = Frames::new(POOL);
    let life = Life { incarnation: Incarnation(3), ..LIFE };
    let (slots, _) = Slots::start(machine, &mut frames, life, |_| true);
    let mut teardown = slots.returned(machine, PROGRAM).unwrap();
    while teardown.step(machine, &mut frames, 50) == Progress::More {}
    assert_eq!((frames.free_count(), frames.mistakes()), (frames.total() - HEAD_FRAMES as usize, 0));
}

#[test]
fn a_death_at_any_store_leaves_the_last_committed_generation_whole() {
    let mut whole = Program::new(u64::MAX);
    live(&mut whole);
    let total = whole.machine.stores;
    let mut seen = 0;
    for stores in 0..=total {
        let mut program = Program::new(stores);
        let result = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| live(&mut program)));
        assert!(result.is_ok() == (stores == total) && result.err().is_none_or(|cause| cause.is::<Died>()));
        let done = whole.commit_stores.iter().filter(|(_, at)| **at <= stores).map(|(epoch, _)| *epoch).max();
        let Some(epoch) = done else {
            let error = Image::open(&program.machine, POOL, &[], PROGRAM).unwrap_err();
            assert_eq!(error, ImageError::NoGeneration);
            continue;
        };
        seen = seen.max(epoch);
        check_image(&program.machine, &whole.committed[&epoch], epoch);
        reboot(&mut program.machine);
        check_image(&program.machine, &whole.committed[&epoch], epoch);
        return_loan(&mut program.machine);
    }
    assert_eq!(seen, 7);
}

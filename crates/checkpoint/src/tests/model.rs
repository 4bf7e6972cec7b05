//! Page maps and generations against a model.
use super::program::{KEYS, LENT, POOL, PROGRAM, Program, check_image};
use crate::{
    error::{ImageError, WriteError},
    layout::{Descriptor, PageKey, SLOT_WORDS, SLOTS},
    reader::Image,
    record::Records,
    saved_page::SavedPage,
    slots::Slots,
};
use alloc::{collections::BTreeSet, vec::Vec};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use shimos_abi::{
    addr::Frame,
    ids::{Epoch, Incarnation, Life, ProgramId},
};
use shimos_memory::{Frames, frames::HEAD_FRAMES, space::Progress};

#[derive(Clone, Debug)]
pub enum Op {
    Write { key: usize, page: u64, value: u64 },
    Remove { key: usize, page: u64 },
    DropKey { key: usize },
    Checkpoint,
    Abort,
    Sweep { max: usize },
}

/// Pages far apart, at leaf borders and at the ends.
const PAGES: [u64; 8] = [0, 1, 127, 128, 70_000, 0x7_ffff_fffe, (1 << 36) - 1, 5];

pub fn ops() -> impl Strategy<Value = Vec<Op>> {
    let at = || (0..KEYS.len(), 0..PAGES.len()).prop_map(|(key, page)| (key, PAGES[page]));
    let op = prop_oneof![
        12 => (at(), any::<u64>()).prop_map(|((key, page), value)| Op::Write { key, page, value }),
        3 => at().prop_map(|(key, page)| Op::Remove { key, page }),
        1 => (0..KEYS.len()).prop_map(|key| Op::DropKey { key }),
        6 => Just(Op::Checkpoint),
        1 => Just(Op::Abort),
        4 => (0..30usize).prop_map(|max| Op::Sweep { max }),
    ];
    proptest::collection::vec(op, 1..90)
}

/// The generation before the newest is whole as well: it is what a reader falls back to.
fn check_previous(program: &mut Program, epoch: u32) {
    let at = (SLOT_WORDS + Descriptor::start(epoch)) * 8 + 3;
    program.machine.corrupt(POOL.first, at, 1);
    match program.committed.get(&(epoch - 1)) {
        Some(expected) => {
            check_image(&program.machine, expected, epoch - 1);
            let image = Image::open(&program.machine, POOL, &[], PROGRAM).unwrap();
            assert_eq!(image.passed_over(), Some(ImageError::Descriptor));
        }
        None => assert!(Image::open(&program.machine, POOL, &[], PROGRAM).is_err()),
    }
    program.machine.corrupt(POOL.first, at, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn generations_hold_what_the_program_held(ops in ops()) {
        let mut program = Program::new(u64::MAX);
        let mut dropped = BTreeSet::new();
        for op in ops {
            match op {
                Op::Write { key, page, value } if !dropped.contains(&key) => program.write(KEYS[key], page, value),
                Op::Remove { key, page } => program.remove(KEYS[key], page),
                Op::DropKey { key } => {
                    if dropped.insert(key) {
                        program.drop_key(KEYS[key]);
                    }
                }
                Op::Checkpoint => program.checkpoint(),
                Op::Abort => program.abort(),
                Op::Sweep { max } => drop(program.sweep(max)),
                Op::Write { .. } => {}
            }
            if let Some((epoch, expected)) = program.committed.iter().next_back() {
                check_image(&program.machine, expected, *epoch);
                let epoch = *epoch;
                check_previous(&mut program, epoch);
            }
        }
        // Two more commits without changes: then only the present pages and what leads to them are held.
        program.checkpoint();
        program.checkpoint();
        while program.sweep(10) == Progress::More {}
        for frame in program.pages.values() {
            assert_eq!(program.frames.references(*frame), 2);
        }
        let Program { mut machine, mut frames, writer, pages, .. } = program;
        let mut teardown = writer.close(&mut machine);
        while teardown.step(&machine, &mut frames, 7) == Progress::More {}
        assert_eq!(frames.free_count(), frames.total() - HEAD_FRAMES as usize - pages.len());
        assert!(pages.values().all(|frame| frames.exclusive(*frame)));
        assert_eq!(frames.mistakes(), 0);
    }
}

#[test]
fn memory_in_use_does_not_grow_with_the_number_of_checkpoints() {
    let mut program = Program::new(u64::MAX);
    let mut used = Vec::new();
    for round in 0..60 {
        for page in 0..40 {
            program.write(0, page, round);
        }
        program.write(0, 10_000 + round, 1);
        program.remove(0, (10_000 + round).saturating_sub(2));
        program.checkpoint();
        while program.sweep(64) == Progress::More {}
        used.push(program.frames.free_count());
    }
    assert_eq!(used[20], used[59]);
}

#[test]
fn foreign_frames_are_counted_until_no_generation_has_them() {
    let mut program = Program::new(u64::MAX);
    let lent = Frame(LENT.first.0 + 2);
    let commit = |program: &mut Program, frame| {
        program.writer.begin(&program.machine).unwrap();
        program.writer.put(&mut program.machine, &mut program.frames, &[(PageKey(1), 9, frame)]).unwrap();
        program.writer.commit(&mut program.machine, &mut program.frames).unwrap();
        while program.sweep(9) == Progress::More {}
        program.writer.foreign_frames()
    };
    let own = Frame(POOL.first.0 + 500);
    program.frames.reserve(own);
    assert_eq!(commit(&mut program, Some(lent)), 1);
    let open = |program: &Program, lent: &[_]| {
        let image = Image::open(&program.machine, POOL, lent, PROGRAM).unwrap();
        image.pages(&program.machine, PageKey(1)).unwrap().collect::<Vec<_>>()
    };
    assert_eq!(open(&program, &[LENT]), [Ok((9, SavedPage { frame: lent, flip: None }))]);
    assert_eq!(open(&program, &[]), [Err(ImageError::Outside(lent))]);
    assert_eq!(commit(&mut program, Some(own)), 1);
    assert_eq!(commit(&mut program, Some(own)), 0);
}

#[test]
fn calls_out_of_turn_and_lack_of_room_are_refused() {
    let mut program = Program::new(u64::MAX);
    let Program { machine, frames, writer, slots, .. } = &mut program;
    assert_eq!(writer.put(machine, frames, &[(PageKey(0), 0, None)]), Err(WriteError::OutOfTurn));
    assert_eq!(writer.commit(machine, frames), Err(WriteError::OutOfTurn));
    writer.begin(machine).unwrap();
    assert_eq!(writer.begin(machine), Err(WriteError::OutOfTurn));
    assert_eq!(writer.put(machine, frames, &[(PageKey(0), 1 << 36, None)]), Err(WriteError::BadPage));
    let large = alloc::vec![0; 4 << 20];
    let free = frames.free_count();
    assert_eq!(writer.records(machine, frames, &large), Err(WriteError::OutOfFrames));
    assert_eq!(frames.free_count(), free);
    for more in 1..SLOTS {
        slots.create(machine, ProgramId(100 + more as u16), Epoch(0)).unwrap();
    }
    assert_eq!(slots.create(machine, ProgramId(99), Epoch(0)).err(), Some(WriteError::NoSlot));
    assert_eq!(slots.held(machine).len(), SLOTS);
    assert_eq!(Image::open(machine, POOL, &[], ProgramId(100 + 1)).err(), Some(ImageError::NoGeneration));
    assert_eq!(Image::open(machine, POOL, &[], ProgramId(98)).err(), Some(ImageError::NoSlot));
}

#[test]
fn an_image_goes_on_after_the_epoch_of_its_predecessor() {
    let mut program = Program::new(u64::MAX);
    let Program { machine, frames, slots, .. } = &mut program;
    let mut writer = slots.create(machine, ProgramId(8), Epoch(500)).unwrap();
    assert_eq!(writer.begin(machine), Ok(Epoch(501)));
    writer.records(machine, frames, &[]).unwrap();
    writer.commit(machine, frames).unwrap();
    let image = Image::open(machine, POOL, &[], ProgramId(8)).unwrap();
    assert_eq!((image.epoch(), image.record_bytes(), image.passed_over()), (Epoch(501), 0, None));
    assert_eq!(Records::new(&[]).count(), 0);
}

#[test]
fn an_image_is_lent_while_its_kernel_lives() {
    for swept in [0, 3, 40, 10_000] {
        let mut program = Program::new(u64::MAX);
        for page in 0..60 {
            program.write(1, page, page);
            program.write(600, page, page + 100);
        }
        program.checkpoint();
        program.drop_key(600);
        program.write(1, 7, 77);
        program.checkpoint();
        program.write(1, 8, 88);
        program.checkpoint();
        program.sweep(swept);
        let Program { mut machine, mut frames, slots, writer, pages, committed, .. } = program;
        let left = writer.lend(&mut machine);
        pages.values().for_each(|frame| frames.release(*frame));
        if let Some(mut left) = left {
            while left.step(&machine, &mut frames, 7) == Progress::More {}
        }
        check_image(&machine, &committed[&3], 3);
        let mut returned = slots.returned(&mut machine, PROGRAM).expect("it is lent");
        while returned.step(&machine, &mut frames, 7) == Progress::More {}
        assert_eq!(
            (frames.free_count(), frames.mistakes()),
            (frames.total() - HEAD_FRAMES as usize, 0),
            "swept {swept}"
        );
    }
}

#[test]
fn a_reboot_keeps_what_is_wanted_and_a_returned_loan_frees_it() {
    let mut program = Program::new(u64::MAX);
    let other = ProgramId(9);
    for page in 0..200 {
        program.write(1, page, page);
    }
    program.checkpoint();
    program.write(1, 7, 77);
    program.checkpoint();
    program.slots.create(&mut program.machine, other, Epoch(0)).unwrap();
    // One that died before its first commit is of no use to anybody.
    program.slots.create(&mut program.machine, PROGRAM, Epoch(2)).unwrap();
    let Program { mut machine, committed, .. } = program;
    let life = Life { incarnation: Incarnation(2), ..super::program::LIFE };
    let mut frames = Frames::new(POOL);
    let (slots, kept) = Slots::start(&mut machine, &mut frames, life, |program| program == PROGRAM);
    assert_eq!((kept.images.as_slice(), kept.damages.as_slice()), (&[PROGRAM][..], &[][..]));
    assert_eq!(slots.held(&machine).len(), 1);
    check_image(&machine, &committed[&2], 2);
    assert!(frames.free_count() < frames.total() - 200);
    let mut teardown = slots.returned(&mut machine, PROGRAM).unwrap();
    assert!(slots.returned(&mut machine, PROGRAM).is_none());
    while teardown.step(&machine, &mut frames, 11) == Progress::More {}
    assert_eq!((frames.free_count(), frames.mistakes()), (frames.total() - HEAD_FRAMES as usize, 0));
}

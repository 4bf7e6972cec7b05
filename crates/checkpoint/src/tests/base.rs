//! Images over images: generations that say only what has changed since another one.
use super::{
    model::{Op, ops},
    program::{KEYS, POOL, PROGRAM, Program, check_image},
};
use crate::{
    error::ImageError,
    layout::{Base, Descriptor, PageKey, SLOT_WORDS},
    reader::{Image, MOST_LAYERS},
};
use alloc::{collections::BTreeSet, vec::Vec};
use proptest::prelude::{ProptestConfig, proptest};
use shimos_abi::ids::{Epoch, ProgramId};
use shimos_memory::{frames::HEAD_FRAMES, space::Progress};

/// Does what `ops` say. The newest generation is checked after each.
fn live(program: &mut Program, dropped: &mut BTreeSet<usize>, ops: Vec<Op>) {
    for op in ops {
        match op {
            Op::Write { key, page, value } if !dropped.contains(&key) => program.write(KEYS[key], page, value),
            Op::Write { .. } => {}
            Op::Remove { key, page } => program.remove(KEYS[key], page),
            Op::DropKey { key } => {
                if dropped.insert(key) {
                    program.drop_key(KEYS[key]);
                }
            }
            Op::Checkpoint => program.checkpoint(),
            Op::Abort => program.abort(),
            Op::Sweep { max } => drop(program.sweep(max)),
        }
        if let Some((epoch, expected)) = program.committed.iter().next_back() {
            check_image(&program.machine, expected, *epoch);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn what_a_generation_does_not_say_is_in_its_base(lives in proptest::collection::vec(ops(), 2..5)) {
        let mut program = Program::new(u64::MAX);
        let mut dropped = BTreeSet::new();
        let bases = lives.len() - 1;
        for (at, ops) in lives.into_iter().enumerate() {
            if at > 0 {
                program.checkpoint();
                program.go_on_over();
            }
            live(&mut program, &mut dropped, ops);
        }
        program.checkpoint();
        assert!(program.writer.needs_base());
        program.bring_home();
        program.checkpoint();
        assert!(program.writer.needs_base(), "the generation before is kept");
        let (epoch, expected) = program.committed.iter().next_back().unwrap();
        check_image(&program.machine, expected, *epoch);
        program.checkpoint();
        assert!(!program.writer.needs_base());
        for _ in 0..bases {
            let mut returned = program.slots.returned(&mut program.machine, PROGRAM).expect("it is lent");
            while returned.step(&program.machine, &mut program.frames, 7) == Progress::More {}
        }
        let (epoch, expected) = program.committed.iter().next_back().unwrap();
        check_image(&program.machine, expected, *epoch);
        // Marks of absence go with the base.
        program.checkpoint();
        while program.sweep(10) == Progress::More {}
        let Program { mut machine, mut frames, writer, pages, .. } = program;
        let leaves = |image: &Image| KEYS.iter().map(|key| image.pages(&machine, PageKey(*key)).unwrap().count()).sum::<usize>();
        assert_eq!(leaves(&Image::open(&machine, POOL, &[], PROGRAM).unwrap()), pages.len());
        let mut teardown = writer.close(&mut machine);
        while teardown.step(&machine, &mut frames, 7) == Progress::More {}
        assert_eq!(frames.free_count(), frames.total() - HEAD_FRAMES as usize - pages.len());
        assert_eq!(frames.mistakes(), 0);
    }
}

#[test]
fn marks_of_absence_are_swept_when_there_is_no_base_any_more() {
    let mut program = Program::new(u64::MAX);
    for page in 0..500 {
        program.write(1, page, page);
    }
    program.checkpoint();
    program.go_on_over();
    for page in 0..500 {
        program.remove(1, page);
    }
    program.write(1, 1000, 5);
    program.checkpoint();
    while program.sweep(10) == Progress::More {}
    check_image(&program.machine, &program.committed[&2], 2);
    program.bring_home();
    for _ in 0..3 {
        program.checkpoint();
        while program.sweep(10) == Progress::More {}
    }
    let mut returned = program.slots.returned(&mut program.machine, PROGRAM).expect("it is lent");
    while returned.step(&program.machine, &mut program.frames, 7) == Progress::More {}
    // Beside the head: page, directory with three levels, tree with a node and a leaf, records of two generations.
    let used = program.frames.total() - program.frames.free_count();
    assert!(used < HEAD_FRAMES as usize + 24, "{used} frames");
}

#[test]
fn a_base_that_is_not_what_it_was_is_no_base() {
    let mut program = Program::new(u64::MAX);
    program.write(1, 7, 70);
    program.checkpoint();
    program.go_on_over();
    program.write(1, 8, 80);
    program.checkpoint();
    let open = |program: &Program| {
        let mut image = Image::open(&program.machine, POOL, &[], PROGRAM).unwrap();
        assert_eq!(image.page(&program.machine, PageKey(1), 8).err(), Some(ImageError::Base), "not opened yet");
        assert!(image.cursor(&program.machine, PageKey(1)).is_err());
        image.open_bases(&program.machine).map(|()| image.page(&program.machine, PageKey(1), 7).unwrap().is_some())
    };
    assert_eq!(open(&program), Ok(true));
    // Its descriptor is damaged.
    let at = (SLOT_WORDS + Descriptor::start(1)) * 8 + 3;
    program.machine.corrupt(POOL.first, at, 1);
    assert_eq!(open(&program), Err(ImageError::Base));
    program.machine.corrupt(POOL.first, at, 1);
    // It was given back.
    program.slots.returned(&mut program.machine, PROGRAM).unwrap();
    assert_eq!(open(&program), Err(ImageError::Base));
}

#[test]
fn so_many_images_lie_on_top_of_each_other_and_no_more() {
    let mut program = Program::new(u64::MAX);
    for layer in 1..MOST_LAYERS as u64 {
        program.write(1, layer, layer);
        program.checkpoint();
        program.go_on_over();
    }
    program.checkpoint();
    let mut image = Image::open(&program.machine, POOL, &[], PROGRAM).unwrap();
    image.open_bases(&program.machine).unwrap();
    assert_eq!(image.pages(&program.machine, PageKey(1)).unwrap().count(), MOST_LAYERS - 1);
    assert_eq!(image.as_base(), None);
}

#[test]
fn a_base_is_part_of_a_descriptor() {
    let base = Base { head: shimos_abi::addr::Frame(77), slot: 3, epoch: 9 };
    let descriptor = Descriptor { epoch: 10, base: Some(base), ..Descriptor::default() };
    let words = descriptor.words(ProgramId(3));
    assert_eq!(Descriptor::from_words(&words, ProgramId(3)), Some(descriptor));
    let mut damaged = words;
    damaged[3] ^= 1;
    assert_eq!(Descriptor::from_words(&damaged, ProgramId(3)), None);
    assert_eq!(Epoch(base.epoch), Epoch(9));
}

#[test]
fn a_cursor_begins_where_it_is_told_to() {
    let mut program = Program::new(u64::MAX);
    let pages = [0, 1, 127, 128, 600, 70_000, 0x7_ffff_fffe, (1 << 36) - 1];
    for page in pages {
        program.write(1, page, page);
    }
    program.checkpoint();
    program.go_on_over();
    program.write(1, 300, 1);
    program.remove(1, 128);
    program.checkpoint();
    let mut image = Image::open(&program.machine, POOL, &[], PROGRAM).unwrap();
    image.open_bases(&program.machine).unwrap();
    let there: BTreeSet<u64> = program.contents.keys().map(|(_, page)| *page).collect();
    for first in there.iter().flat_map(|page| [*page, page + 1]).chain([2, 500, 1 << 20]) {
        for end in there.iter().flat_map(|page| [*page, page + 1]).chain([u64::MAX]) {
            let mut cursor = image.cursor_over(&program.machine, PageKey(1), first, end).unwrap();
            let mut found = BTreeSet::new();
            while let Some(page) = cursor.next(&program.machine, &image) {
                assert!(found.insert(page.unwrap().0));
            }
            let expected: BTreeSet<u64> = there.iter().copied().filter(|page| (first..end).contains(page)).collect();
            assert_eq!(found, expected, "{first:#x}..{end:#x}");
        }
    }
}

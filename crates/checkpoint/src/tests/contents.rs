//! Checksums of page contents, and how many generations are kept.
use super::program::{LIFE, POOL, PROGRAM, Program, read_all};
use crate::{Image, ImageError, Mend, PageKey, Slots};
use shimos_abi::{
    control::{Generations, Integrity},
    ids::{Epoch, Incarnation, Life},
};
use shimos_hal::Machine;
use shimos_memory::Frames;

fn open(program: &Program, below: Option<u32>) -> Result<Image, ImageError> {
    let mut image = Image::open_below(&program.machine, POOL, &[], PROGRAM, below.map(Epoch))?;
    image.check_contents();
    Ok(image)
}

fn image(integrity: Integrity) -> Program {
    let mut program = Program::new(u64::MAX);
    program.writer.set_integrity(integrity);
    for round in 0..3 {
        for page in 0..200 {
            program.write(1, page * (round + 1), page + round);
        }
        program.checkpoint();
        while program.sweep(1000) == shimos_memory::space::Progress::More {}
    }
    program
}

#[test]
fn whole_pages_are_found_whole() {
    for integrity in [Integrity::Records, Integrity::Pages] {
        let program = image(integrity);
        for (below, epoch) in [(None, 3), (Some(3), 2)] {
            let image = open(&program, below).unwrap();
            assert_eq!((image.epoch(), image.newest()), (Epoch(epoch), Epoch(3)));
            assert_eq!(&read_all(&program.machine, &image).unwrap(), &program.committed[&epoch]);
        }
        assert!(open(&program, Some(2)).is_err());
    }
}

#[test]
fn a_damaged_page_is_noticed_and_the_generation_before_is_whole() {
    let mut program = image(Integrity::Pages);
    // Changed by the last generation.
    let saved = open(&program, None).unwrap().page(&program.machine, PageKey(1), 3).unwrap().unwrap();
    let frame = saved.frame;
    program.machine.corrupt(frame, 2000, 5);
    let now = open(&program, None).unwrap();
    assert_eq!(now.page(&program.machine, PageKey(1), 3), Err(ImageError::Page(frame)));
    assert!(now.pages(&program.machine, PageKey(1)).unwrap().any(|page| page == Err(ImageError::Page(frame))));
    let before = open(&program, Some(3)).unwrap();
    assert_eq!(&read_all(&program.machine, &before).unwrap(), &program.committed[&2]);
    // Nobody asks for the contents, or there are no checksums.
    let trusting = Image::open(&program.machine, POOL, &[], PROGRAM).unwrap();
    assert_eq!(trusting.page(&program.machine, PageKey(1), 3), Ok(Some(saved)));
    let mut without = image(Integrity::Records);
    let saved = open(&without, None).unwrap().page(&without.machine, PageKey(1), 3).unwrap().unwrap();
    without.machine.corrupt(saved.frame, 2000, 4);
    assert_eq!(open(&without, None).unwrap().page(&without.machine, PageKey(1), 3), Ok(Some(saved)));
}

#[test]
fn a_flipped_bit_of_a_page_is_set_right_also_where_both_generations_have_it() {
    for offset in [0, 7, 2000, 4095] {
        for page in [3, 599] {
            let mut program = image(Integrity::Pages);
            let saved = open(&program, None).unwrap().page(&program.machine, PageKey(1), page).unwrap();
            let Some(saved) = saved else { continue };
            program.machine.corrupt(saved.frame, offset, 1 << (offset % 8));
            for (below, epoch) in [(None, 3), (Some(3), 2)] {
                let image = open(&program, below).unwrap();
                assert_eq!(&read_all(&program.machine, &image).unwrap(), &program.committed[&epoch]);
            }
            let image = open(&program, None).unwrap();
            let found = image.page(&program.machine, PageKey(1), page).unwrap().unwrap();
            assert!(found.frame == saved.frame && found.flip.is_some());
            assert_eq!(image.take_mended(), Some(Mend::Page(saved.frame)));
        }
    }
}

#[test]
fn checksums_outlive_the_kernel_that_made_them() {
    let mut program = image(Integrity::Pages);
    let mut frames = Frames::new(POOL);
    let life = Life { incarnation: Incarnation(2), ..LIFE };
    let (slots, kept) = Slots::start(&mut program.machine, &mut frames, life, |_| true);
    assert!(kept.damages.is_empty());
    // All that is free is used for something else.
    while let Some(frame) = shimos_hal::FrameSource::take(&mut frames) {
        program.machine.write_word(frame, 7, u64::MAX);
    }
    let image = open(&program, None).unwrap();
    assert_eq!(&read_all(&program.machine, &image).unwrap(), &program.committed[&3]);
    assert!(slots.returned(&mut program.machine, PROGRAM).is_some());
}

#[test]
fn one_generation_is_kept_if_no_more_are_wanted() {
    let mut program = image(Integrity::Records);
    program.writer.keep(Generations(1));
    let used = program.frames.free_count();
    for page in 0..200 {
        program.write(1, page, page + 9);
    }
    program.checkpoint();
    while program.sweep(1000) == shimos_memory::space::Progress::More {}
    assert!(program.frames.free_count() >= used);
    let image = open(&program, None).unwrap();
    assert_eq!(&read_all(&program.machine, &image).unwrap(), &program.committed[&4]);
    assert_eq!(open(&program, Some(4)).map(|image| image.epoch()).err(), Some(ImageError::NoGeneration));
}

//! Damaged images: never a panic, never a frame from outside, and damage of what counts is noticed.
use super::program::{POOL, PROGRAM, Program, TOTAL};
use crate::{
    error::ImageError,
    layout::{
        Descriptor, HEAD_VERSION, SLOT_COMMIT, SLOT_ROOT, SLOT_STATE, SLOT_WORDS, SlotPlace, Sum, VERSION,
        encode_version,
    },
    reader::Image,
    record::{RecordWriter, Records},
    saved_page::SavedPage,
    slots::{Slots, retained},
};
use alloc::{collections::BTreeSet, vec::Vec};
use proptest::prelude::{ProptestConfig, any, proptest};
use shimos_abi::{
    addr::{Frame, PAGE},
    ids::{Incarnation, Life},
};
use shimos_hal::Machine;
use shimos_memory::{Frames, frames::HEAD_FRAMES, space::Progress};

fn image() -> Program {
    let mut program = Program::new(u64::MAX);
    for round in 0..4 {
        for page in 0..30 {
            program.write(0, page * (round + 1), page);
            program.write(600, page << 12, round);
        }
        program.checkpoint();
    }
    program
}

/// The frames that hold the image itself, pages not counted.
fn structure(program: &Program) -> Vec<Frame> {
    let mut frames = BTreeSet::from([POOL.first]);
    retained(
        &program.machine,
        POOL,
        |_| true,
        |frame| {
            frames.insert(frame);
        },
    )
    .unwrap();
    let image = Image::open(&program.machine, POOL, &[], PROGRAM).unwrap();
    let read = |frame: &Frame| program.machine.read_word(*frame, 511) == !program.machine.read_word(*frame, 0);
    let frames: Vec<Frame> = frames.into_iter().filter(|frame| !read(frame)).collect();
    assert!(image.page_count() > 0 && frames.len() > 10);
    frames
}

/// Reads everything there is to read.
fn read(program: &Program) -> Result<usize, ImageError> {
    let machine = &program.machine;
    let image = Image::open(machine, POOL, &[], PROGRAM)?;
    let mut count = 0;
    for key in [0, 600, 5, u32::MAX] {
        for page in image.pages(machine, crate::layout::PageKey(key))? {
            let (_, SavedPage { frame, .. }) = page?;
            assert!(POOL.contains(frame) && frame != POOL.first && (frame.0 as usize) < TOTAL);
            count += 1;
        }
    }
    for record in image.records() {
        record?;
    }
    Ok(count)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn damage_never_leads_outside(hits in proptest::collection::vec((any::<u16>(), 0..PAGE, 1..=255u8), 1..40)) {
        let mut program = image();
        let frames = structure(&program);
        for (frame, offset, value) in hits {
            // Half of the hits go to the small part of a frame that is in use.
            let offset = if offset % 2 == 0 { offset % 512 } else { offset };
            program.machine.corrupt(frames[usize::from(frame) % frames.len()], offset, value);
            let _ = read(&program);
        }
        let mut frames = Frames::new(POOL);
        let life = Life { incarnation: Incarnation(2), ..super::program::LIFE };
        let (slots, _) = Slots::start(&mut program.machine, &mut frames, life, |_| true);
        if let Some(mut teardown) = slots.returned(&mut program.machine, PROGRAM) {
            while teardown.step(&program.machine, &mut frames, 100) == Progress::More {}
            assert_eq!((frames.free_count(), frames.mistakes()), (frames.total() - HEAD_FRAMES as usize, 0));
        }
    }

    #[test]
    fn one_damaged_byte_is_noticed_or_does_not_matter(frame in any::<u16>(), offset in 0..PAGE, value in 1..=255u8) {
        let mut program = image();
        let frames = structure(&program);
        let frame = frames[usize::from(frame) % frames.len()];
        let before = read(&program).unwrap();
        program.machine.corrupt(frame, offset, value);
        if let Ok(found) = read(&program) {
            let image = Image::open(&program.machine, POOL, &[], PROGRAM).unwrap();
            assert!(found == before || found != image.page_count() as usize || image.passed_over().is_some());
        }
    }
}

#[test]
fn a_damaged_newest_generation_is_passed_over() {
    let mut program = image();
    let open = |program: &Program| {
        Image::open(&program.machine, POOL, &[], PROGRAM).map(|image| (image.epoch().0, image.passed_over()))
    };
    assert_eq!(open(&program), Ok((4, None)));
    let descriptor = (SLOT_WORDS + Descriptor::start(4)) * 8;
    program.machine.corrupt(POOL.first, descriptor + 10, 1);
    assert_eq!(open(&program), Ok((3, Some(ImageError::Descriptor))));
    program.machine.corrupt(POOL.first, descriptor + 10, 1);
    // Its records.
    let list = Frame(program.machine.read_word(POOL.first, SLOT_WORDS + Descriptor::start(4) + 1) as u32);
    let data = Frame(program.machine.read_word(list, 1) as u32);
    program.machine.corrupt(data, 100, 1);
    assert_eq!(open(&program), Ok((3, Some(ImageError::RecordChecksum))));
    program.machine.corrupt(data, 100, 1);
    // The commit word: the newest descriptor is whole.
    program.machine.corrupt(POOL.first, (SLOT_WORDS + SLOT_COMMIT) * 8, 1);
    assert_eq!(open(&program), Ok((4, Some(ImageError::Descriptor))));
    program.machine.corrupt(POOL.first, (SLOT_WORDS + SLOT_COMMIT) * 8, 1);
    // What stands once may have one flipped bit.
    let version = ImageError::Version(VERSION ^ 3);
    for (word, error) in
        [(SLOT_WORDS + SLOT_STATE, ImageError::NoSlot), (0, ImageError::NoHead), (HEAD_VERSION, version)]
    {
        program.machine.corrupt(POOL.first, word * 8, 1);
        assert_eq!(open(&program), Ok((4, None)));
        program.machine.corrupt(POOL.first, word * 8, 2);
        assert_eq!(open(&program), Err(error));
        program.machine.corrupt(POOL.first, word * 8, 3);
    }
    program.machine.write_word(POOL.first, HEAD_VERSION, 0);
    assert_eq!(open(&program), Err(ImageError::Version(0)));
}

/// The pages that the newest generation has under a key that is in use.
fn pages(program: &Program, image: &Image) -> Result<Vec<(u64, SavedPage)>, ImageError> {
    let keys = [0, 600].map(crate::layout::PageKey);
    let mut all = Vec::new();
    for key in keys {
        for page in image.pages(&program.machine, key)? {
            all.push(page?);
        }
    }
    Ok(all)
}

#[test]
fn one_flipped_bit_of_the_page_map_is_set_right() {
    let mut program = image();
    let open = |program: &Program| Image::open(&program.machine, POOL, &[], PROGRAM).unwrap();
    let before = pages(&program, &open(&program)).unwrap();
    let kept_before = retained(&program.machine, POOL, |_| true, |_| {}).unwrap();
    let nodes: Vec<Frame> = structure(&program).into_iter().filter(|frame| *frame != POOL.first).collect();
    assert!(nodes.len() > 8);
    let (mut mended, mut ambiguous) = (0, 0);
    for (number, node) in nodes.iter().enumerate() {
        for bit in (number % 7..PAGE * 8).step_by(509) {
            program.machine.corrupt(*node, bit / 8, 1 << (bit % 8));
            let image = open(&program);
            match pages(&program, &image) {
                // Records are not of the map: each generation has its own.
                _ if image.passed_over().is_some() => {}
                Ok(found) => {
                    assert_eq!(found, before, "bit {bit} of {node:?}");
                    mended += u32::from(image.take_mended().is_some());
                    assert_eq!(image.take_mended(), None, "told once");
                    let kept = retained(&program.machine, POOL, |_| true, |_| {}).unwrap();
                    assert!(kept == kept_before || !kept.damages.is_empty());
                }
                // More than one bit may explain it: that is damage.
                Err(_) => ambiguous += 1,
            }
            program.machine.corrupt(*node, bit / 8, 1 << (bit % 8));
        }
    }
    assert!(mended > 200 && ambiguous * 50 < mended, "{mended} {ambiguous}");
    // Two bits of one word are damage, and said to be.
    let root = Frame(program.machine.read_word(POOL.first, SLOT_WORDS + SLOT_ROOT) as u32);
    program.machine.corrupt(root, 0, 0x11);
    assert!(pages(&program, &open(&program)).is_err());
}

#[test]
fn damaged_records_end_the_reading() {
    let mut writer = RecordWriter::new();
    writer.add(1, 1, b"first");
    writer.add(2, 1, b"second");
    let bytes = writer.into_bytes();
    assert_eq!(Records::new(&bytes).filter_map(Result::ok).count(), 2);
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        let found: Vec<_> = Records::new(&bad).collect();
        assert!(found.last().unwrap().is_err(), "byte {at}");
        let short: Vec<_> = Records::new(&bytes[..at]).collect();
        assert!(at == 0 || at == 17 || short.last().unwrap().is_err(), "cut at {at}");
    }
}

#[test]
fn an_image_of_the_version_before_is_read() {
    let mut program = image();
    let (newest, _) = (0..3)
        .filter_map(|number| Descriptor::read(&program.machine, SlotPlace::of(POOL.first, 0), number, PROGRAM))
        .max_by_key(|(descriptor, _)| descriptor.epoch)
        .unwrap();
    assert_eq!(newest.sum, Sum::Headers);
    let records: Vec<u8> = {
        let image = Image::open(&program.machine, POOL, &[], PROGRAM).unwrap();
        let mut writer = RecordWriter::new();
        image.records().map(Result::unwrap).for_each(|record| writer.add(record.kind, record.version, record.payload));
        writer.into_bytes()
    };
    let pages = read(&program).unwrap();
    // Version 1 had the checksum of all bytes and nothing in the place that says so.
    let old = Descriptor { sum: Sum::Bytes, record_crc: crc32fast::hash(&records), ..newest };
    let words = old.words(PROGRAM);
    assert_eq!(words[2] >> 32, 0);
    let start = SLOT_WORDS + Descriptor::start(old.epoch);
    for (at, word) in words.iter().enumerate() {
        program.machine.write_word(POOL.first, start + at, *word);
    }
    program.machine.write_word(POOL.first, SLOT_WORDS + SLOT_COMMIT, old.commit_word(&words));
    for version in [1, 2, 3] {
        program.machine.write_word(POOL.first, HEAD_VERSION, version);
        assert_eq!(read(&program).as_ref(), Ok(&pages));
    }
    assert_eq!(Image::open(&program.machine, POOL, &[], PROGRAM).unwrap().passed_over(), None);
    // A later one is refused rather than guessed at.
    program.machine.write_word(POOL.first, HEAD_VERSION, encode_version(VERSION + 1));
    assert_eq!(read(&program), Err(ImageError::Version(VERSION + 1)));
}

#[test]
fn a_damaged_payload_is_noticed_by_its_record() {
    let mut writer = RecordWriter::new();
    writer.add(1, 1, b"first");
    let start = writer.bytes().len();
    writer.add(2, 1, b"second");
    let kept = writer.since(start).to_vec();
    let mut again = RecordWriter::new();
    again.add(1, 1, b"first");
    again.add_record(&kept);
    assert_eq!(again.bytes(), writer.bytes());
    let whole = crate::record::checksum(writer.bytes());
    for at in 0..writer.bytes().len() {
        let mut bytes = writer.bytes().to_vec();
        bytes[at] ^= 4;
        let broken = Records::new(&bytes).any(|record| record.is_err());
        assert!(broken || crate::record::checksum(&bytes) != whole, "byte {at}");
    }
}

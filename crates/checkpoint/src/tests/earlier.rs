//! An image that an earlier version of the format has written is read as it was meant.
//!
//! `images/version-N.bin` is the memory after [`history`], as the last commit with that version left it: runs of equal words, each as frame,
//! first word, number of words (32 bits each) and value (64 bits), little-endian. All other bytes are those of a fresh [`Fake`].
use super::program::{LIFE, POOL, PROGRAM, Program, TOTAL, check_image};
use crate::{
    error::WriteError,
    fake::Fake,
    layout::{Descriptor, FEW_SLOTS, HEAD_VERSION, SLOT_WORDS, SLOTS, WIDE},
    slots::Slots,
};
use alloc::vec::Vec;
use shimos_abi::{
    addr::Frame,
    ids::{Epoch, Incarnation, Life, ProgramId},
};
use shimos_hal::Machine;
use shimos_memory::Frames;

/// What the program did: pages written, rewritten, taken away; a space that ended; a checkpoint that was given up.
fn history() -> Program {
    let mut program = Program::new(u64::MAX);
    for page in [0, 1, 5, 127, 128, 70_000] {
        program.write(0, page, page + 1000);
        program.write(600, page, page + 2000);
    }
    program.checkpoint();
    program.write(0, 5, 77);
    program.remove(600, 128);
    program.write(1, (1 << 36) - 1, 78);
    program.checkpoint();
    program.write(0, 5, 99);
    program.abort();
    program.write(u32::MAX, 3, 79);
    program.checkpoint();
    program.write(0, 127, 80);
    program.checkpoint();
    program
}

/// The versions of which there is a file.
const FILES: [(u64, &[u8]); 3] = [
    (2, include_bytes!("images/version-2.bin")),
    (3, include_bytes!("images/version-3.bin")),
    (4, include_bytes!("images/version-4.bin")),
];

/// The memory in a file.
fn memory(bytes: &[u8]) -> Fake {
    const RUN: usize = 20;
    let mut machine = Fake::new(TOTAL, POOL);
    assert_eq!(bytes.len() % RUN, 0);
    for run in bytes.chunks_exact(RUN) {
        let part = |at: usize| u32::from_le_bytes(*run[at..].first_chunk().unwrap());
        let value = u64::from_le_bytes(*run[12..].first_chunk().unwrap());
        for word in part(4)..part(4) + part(8) {
            machine.write_word(Frame(part(0)), word as usize, value);
        }
    }
    machine
}

#[test]
fn images_of_earlier_versions_are_read_as_they_were_meant() {
    let expected = history();
    let (epoch, contents) = expected.committed.iter().next_back().unwrap();
    for (version, bytes) in FILES {
        let machine = memory(bytes);
        assert_eq!(machine.read_word(POOL.first, HEAD_VERSION) as u32, version as u32);
        check_image(&machine, contents, *epoch);
    }
}

#[test]
fn the_generation_before_is_there_as_well() {
    let expected = history();
    let (newest, _) = expected.committed.iter().next_back().unwrap();
    for (_, bytes) in FILES {
        let mut machine = memory(bytes);
        machine.corrupt(POOL.first, (SLOT_WORDS + Descriptor::start(*newest)) * 8 + 3, 1);
        check_image(&machine, &expected.committed[&(newest - 1)], newest - 1);
    }
}

#[test]
fn a_kept_image_of_an_earlier_version_keeps_its_head_until_it_is_returned() {
    for (version, bytes) in FILES {
        let room = if version < WIDE { FEW_SLOTS } else { SLOTS };
        let mut machine = memory(bytes);
        let mut frames = Frames::new(POOL);
        let life = |incarnation| Life { incarnation: Incarnation(incarnation), ..LIFE };
        let (slots, kept) = Slots::start(&mut machine, &mut frames, life(2), |_| true);
        assert_eq!((kept.images, kept.damages), (alloc::vec![PROGRAM], Vec::new()));
        // There is room for as many as that version had.
        for more in 1..room {
            slots.create(&mut machine, ProgramId(100 + more as u16), Epoch(0)).unwrap();
        }
        assert_eq!(slots.create(&mut machine, ProgramId(99), Epoch(0)).err(), Some(WriteError::NoSlot));
        let expected = history();
        let (epoch, contents) = expected.committed.iter().next_back().unwrap();
        check_image(&machine, contents, *epoch);
        let (slots, _) = Slots::start(&mut machine, &mut Frames::new(POOL), life(3), |_| false);
        for more in 0..SLOTS {
            slots.create(&mut machine, ProgramId(more as u16), Epoch(0)).unwrap();
        }
    }
}

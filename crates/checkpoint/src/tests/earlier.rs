//! An image that an earlier version of the format has written is read as it was meant.
//!
//! `images/version-2.bin` is the memory after [`history`], as the last commit with that version left it: runs of equal words, each as frame,
//! first word, number of words (32 bits each) and value (64 bits), little-endian. All other bytes are those of a fresh [`Fake`].
use super::program::{POOL, Program, TOTAL, check_image};
use crate::{
    fake::Fake,
    layout::{Descriptor, HEAD_VERSION},
};
use shimos_abi::addr::Frame;
use shimos_hal::Machine;

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

/// The memory in the file.
fn memory() -> Fake {
    const RUN: usize = 20;
    let bytes = include_bytes!("images/version-2.bin");
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
fn an_image_of_version_2_is_read_as_it_was_meant() {
    let machine = memory();
    assert_eq!(machine.read_word(POOL.first, HEAD_VERSION), 2);
    let expected = history();
    let (epoch, contents) = expected.committed.iter().next_back().unwrap();
    check_image(&machine, contents, *epoch);
}

#[test]
fn the_generation_before_is_there_as_well() {
    let expected = history();
    let (newest, _) = expected.committed.iter().next_back().unwrap();
    let mut machine = memory();
    machine.corrupt(POOL.first, Descriptor::start(0, *newest) * 8 + 3, 1);
    check_image(&machine, &expected.committed[&(newest - 1)], newest - 1);
}

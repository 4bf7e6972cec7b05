//! Checksums of page contents, for images that want them.
//!
//! A frame of an image is never written while the image holds it, so a checksum belongs to a frame and not to a page or a
//! version. They stand in a table of the reserved memory, a word for each frame of the pool: directories named by the head
//! lead to chunks of 512 words. Both are made when the first checksum in their range is stored.
use crate::{
    error::WriteError,
    layout::{HEAD_SUMS, SUM_DIRECTORIES, WORDS, mix},
    saved_page::{Flip, SavedPage},
};
use shimos_abi::{
    addr::{Frame, FrameRange, PAGE},
    ids::ProgramId,
};
use shimos_hal::{FrameSource, Machine};
use shimos_memory::Frames;

/// A pointer to a directory or a chunk: the frame, and a check of it and of the place.
fn pointer(frame: Frame, place: u64) -> u64 {
    let low = u64::from(frame.0);
    low | (mix(low ^ place << 32 ^ 0x5355_4d53) >> 32 | 1) << 32
}

fn follow<M: Machine>(machine: &M, pool: FrameRange, at: Frame, word: usize, place: u64) -> Option<Frame> {
    let found = machine.read_word(at, word);
    let frame = Frame(found as u32);
    let whole = found != 0 && found == pointer(frame, place);
    (whole && pool.contains(frame) && frame != pool.first && machine.readable(frame)).then_some(frame)
}

/// Where the word of a frame is: directory, place in it, place in the chunk.
fn place_of(pool: FrameRange, frame: Frame) -> Option<(usize, usize, usize)> {
    let index = pool.contains(frame).then(|| (frame.0 - pool.first.0) as usize)?;
    let directory = index / (WORDS * WORDS);
    (directory < SUM_DIRECTORIES).then_some((directory, index / WORDS % WORDS, index % WORDS))
}

fn chunk_place(directory: usize, place: usize) -> u64 {
    (1 + directory as u64) << 16 | place as u64
}

fn chunk<M: Machine>(machine: &M, pool: FrameRange, directory: usize, place: usize) -> Option<Frame> {
    let top = follow(machine, pool, pool.first, HEAD_SUMS + directory, directory as u64)?;
    follow(machine, pool, top, place, chunk_place(directory, place))
}

/// The word of a checksum: it is for this frame and this program only.
fn word(sum: u32, frame: Frame, program: ProgramId) -> u64 {
    let tag = mix(u64::from(sum) ^ u64::from(frame.0) << 32 ^ u64::from(program.0) << 17) >> 32 | 1;
    u64::from(sum) | tag << 32
}

/// Whether there are checksums of any frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    /// There are none, so none must be forgotten.
    None,
    /// There may be some.
    Some,
}

/// Whether checksums of any frame of a pool are known.
pub(crate) fn known<M: Machine>(machine: &M, pool: FrameRange) -> Known {
    let none = (0..SUM_DIRECTORIES).all(|directory| machine.read_word(pool.first, HEAD_SUMS + directory) == 0);
    if none { Known::None } else { Known::Some }
}

/// The checksum of what a frame holds.
pub(crate) fn of_frame<M: Machine>(machine: &M, frame: Frame) -> u32 {
    const PART: usize = 1024;
    let mut hasher = crc32fast::Hasher::new();
    let mut bytes = [0; PART];
    for offset in (0..PAGE).step_by(PART) {
        machine.read_frame(frame, offset, &mut bytes);
        hasher.update(&bytes);
    }
    hasher.finalize()
}

/// Stores the checksum of a frame that a program's image takes.
pub(crate) fn store<M: Machine>(
    machine: &mut M,
    frames: &mut Frames,
    pool: FrameRange,
    frame: Frame,
    program: ProgramId,
) -> Result<(), WriteError> {
    let Some((directory, place, at)) = place_of(pool, frame) else { return Ok(()) };
    let top = make(machine, frames, pool, (pool.first, HEAD_SUMS + directory), directory as u64)?;
    let chunk = make(machine, frames, pool, (top, place), chunk_place(directory, place))?;
    let sum = of_frame(machine, frame);
    machine.write_word(chunk, at, word(sum, frame, program));
    Ok(())
}

/// What a table says of a frame is over: an image takes it without a checksum.
pub(crate) fn forget<M: Machine>(machine: &mut M, pool: FrameRange, frame: Frame) {
    let Some((directory, place, at)) = place_of(pool, frame) else { return };
    if let Some(chunk) = chunk(machine, pool, directory, place) {
        machine.write_word(chunk, at, 0);
    }
}

fn make<M: Machine>(
    machine: &mut M,
    frames: &mut Frames,
    pool: FrameRange,
    (at, word): (Frame, usize),
    place: u64,
) -> Result<Frame, WriteError> {
    if let Some(frame) = follow(machine, pool, at, word, place) {
        return Ok(frame);
    }
    let frame = frames.take().ok_or(WriteError::OutOfFrames)?;
    machine.zero_frame(frame);
    machine.write_word(at, word, pointer(frame, place));
    Ok(frame)
}

/// The page in a frame as a program's image took it, as far as that is known. `None` if the frame holds something else by more
/// than a bit.
pub(crate) fn compare<M: Machine>(
    machine: &M,
    pool: FrameRange,
    frame: Frame,
    program: ProgramId,
) -> Option<SavedPage> {
    let as_it_is = SavedPage { frame, flip: None };
    let Some((directory, place, at)) = place_of(pool, frame) else { return Some(as_it_is) };
    let Some(chunk) = chunk(machine, pool, directory, place) else { return Some(as_it_is) };
    let known = machine.read_word(chunk, at);
    let saved = known as u32;
    // A word that is not for this program and frame is of an earlier use of the frame.
    if known != word(saved, frame, program) {
        return Some(as_it_is);
    }
    match of_frame(machine, frame) {
        found if found == saved => Some(as_it_is),
        found => Flip::between(saved, found).map(|flip| SavedPage { frame, flip: Some(flip) }),
    }
}

/// Visits the frames of the table.
pub(crate) fn frames_of<M: Machine>(machine: &M, pool: FrameRange, visit: &mut dyn FnMut(Frame)) {
    for directory in 0..SUM_DIRECTORIES {
        let Some(top) = follow(machine, pool, pool.first, HEAD_SUMS + directory, directory as u64) else { continue };
        visit(top);
        for place in 0..WORDS {
            if let Some(chunk) = follow(machine, pool, top, place, chunk_place(directory, place)) {
                visit(chunk);
            }
        }
    }
}

/// Forgets the whole table, whose frames nobody holds.
pub(crate) fn clear<M: Machine>(machine: &mut M, head: Frame) {
    for directory in 0..SUM_DIRECTORIES {
        machine.write_word(head, HEAD_SUMS + directory, 0);
    }
}

//! Records in frames: a chained list of frame numbers, and the frames with the bytes.
use crate::{
    error::{ImageError, WriteError},
    layout::{Descriptor, LIST_ENTRIES, LIST_FRAMES, LIST_NEXT, Sum},
    record::{Records, checksum},
};
use alloc::vec::Vec;
use shimos_abi::addr::{Frame, FrameRange, PAGE};
use shimos_hal::{FrameSource, Machine};
use shimos_memory::Frames;

/// Records that are stored.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub list: u32,
    pub bytes: u32,
    pub crc: u32,
    /// All frames, those of the list included.
    pub frames: Vec<Frame>,
}

impl Stored {
    pub fn release(self, frames: &mut Frames) {
        for frame in self.frames {
            frames.release(frame);
        }
    }
}

/// Stores bytes in new frames.
pub(crate) fn store<M: Machine>(machine: &mut M, frames: &mut Frames, bytes: &[u8]) -> Result<Stored, WriteError> {
    let length = u32::try_from(bytes.len()).map_err(|_| WriteError::TooLarge)?;
    let mut stored = Stored { bytes: length, crc: checksum(bytes), ..Stored::default() };
    let pages = bytes.len().div_ceil(PAGE);
    let total = pages + pages.div_ceil(LIST_ENTRIES);
    if frames.free_count() < total {
        return Err(WriteError::OutOfFrames);
    }
    while stored.frames.len() < total {
        match frames.take() {
            Some(frame) => stored.frames.push(frame),
            None => {
                stored.release(frames);
                return Err(WriteError::OutOfFrames);
            }
        }
    }
    let (data, list) = stored.frames.split_at(pages);
    for (frame, chunk) in data.iter().zip(bytes.chunks(PAGE)) {
        machine.write_frame(*frame, 0, chunk);
    }
    // From the end, so that each one's successor is known.
    let mut next = 0;
    for (list_frame, entries) in list.iter().zip(data.chunks(LIST_ENTRIES)).rev() {
        machine.write_word(*list_frame, LIST_NEXT, next);
        for (at, pair) in entries.chunks(2).enumerate() {
            let low = pair.first().map_or(0, |frame| u64::from(frame.0));
            let high = pair.get(1).map_or(0, |frame| u64::from(frame.0));
            machine.write_word(*list_frame, LIST_FRAMES + at, low | high << 32);
        }
        next = u64::from(list_frame.0);
    }
    stored.list = next as u32;
    Ok(stored)
}

/// Visits the frames of a generation's records: those of the list, then for each its data frames. Stops at damage.
pub(crate) fn frames_of<M: Machine>(
    machine: &M,
    pool: FrameRange,
    descriptor: &Descriptor,
    mut visit: impl FnMut(Part),
) -> Result<(), ImageError> {
    let pages = (descriptor.record_bytes as usize).div_ceil(PAGE);
    if pages > pool.count as usize {
        return Err(ImageError::RecordList);
    }
    let usable = |frame: Frame| pool.contains(frame) && frame != pool.first && machine.readable(frame);
    let mut next = u64::from(descriptor.record_list);
    let mut left = pages;
    while left > 0 {
        let list = u32::try_from(next).map(Frame).map_err(|_| ImageError::RecordList)?;
        if !usable(list) {
            return Err(ImageError::Outside(list));
        }
        visit(Part::List(list));
        let here = left.min(LIST_ENTRIES);
        for at in 0..here {
            let word = machine.read_word(list, LIST_FRAMES + at / 2);
            let frame = Frame((word >> (32 * (at % 2))) as u32);
            if !usable(frame) {
                return Err(ImageError::Outside(frame));
            }
            visit(Part::Data(frame));
        }
        left -= here;
        next = machine.read_word(list, LIST_NEXT);
    }
    if next == 0 { Ok(()) } else { Err(ImageError::RecordList) }
}

/// A frame of stored records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    List(Frame),
    Data(Frame),
}

impl Part {
    pub fn frame(self) -> Frame {
        match self {
            Part::List(frame) | Part::Data(frame) => frame,
        }
    }
}

/// Reads a generation's records.
pub(crate) fn load<M: Machine>(machine: &M, pool: FrameRange, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
    let total = descriptor.record_bytes as usize;
    if total.div_ceil(PAGE) > pool.count as usize {
        return Err(ImageError::RecordList);
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(total).map_err(|_| ImageError::OutOfMemory)?;
    frames_of(machine, pool, descriptor, |part| {
        if let Part::Data(frame) = part {
            let start = bytes.len();
            let step = PAGE.min(total - start.min(total));
            bytes.resize(start + step, 0);
            if let Some(into) = bytes.get_mut(start..) {
                machine.read_frame(frame, 0, into);
            }
        }
    })?;
    let found = match descriptor.sum {
        Sum::Bytes => crc32fast::hash(&bytes),
        Sum::Headers if Records::new(&bytes).any(|record| record.is_err()) => return Err(ImageError::RecordChecksum),
        Sum::Headers => checksum(&bytes),
    };
    if found == descriptor.record_crc { Ok(bytes) } else { Err(ImageError::RecordChecksum) }
}

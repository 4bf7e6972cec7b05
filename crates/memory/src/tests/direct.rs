//! Bytes that move between files and a program's memory.
use super::basics::World;
use crate::{
    backing::{Backing, BackingError},
    direct::Bytes,
    fake::Fake,
    fault::{MemoryFault, Segv},
    frames::Frames,
    objects::{MAX_SIZE, ObjectId},
};
use alloc::{vec, vec::Vec};
use shimos_abi::addr::{Frame, PAGE, UserAddr, UserPage};
use shimos_hal::Machine;

/// A file of the image, whose third page comes later and whose fourth cannot be read.
struct File(Vec<Frame>);

impl Backing<Fake> for File {
    fn page(&mut self, _: &mut Fake, _: &mut Frames, _: u64, index: u64) -> Result<Frame, BackingError> {
        match index {
            2 => Err(BackingError::Missing(77)),
            3 => Err(BackingError::Failed),
            _ => self.0.get(index as usize).copied().ok_or(BackingError::End),
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / PAGE + 1) as u8).collect()
}

fn program(world: &mut World, at: UserAddr, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    world.run(|space, cx| space.read(cx, at, &mut bytes)).unwrap();
    bytes
}

fn take(world: &mut World, at: u64, len: usize, id: ObjectId, offset: u64) -> Result<usize, MemoryFault> {
    world.run(|space, cx| space.take_from_file(cx, UserAddr(at), len, Bytes::Object(id), offset))
}

fn put(world: &mut World, at: u64, len: usize, id: ObjectId, offset: u64) -> Result<usize, MemoryFault> {
    world.run(|space, cx| space.put_into_object(cx, UserAddr(at), len, id, offset))
}

#[test]
fn what_is_put_is_taken_at_any_place() {
    let mut world = World::new();
    let (from, to) = (world.anonymous(4).addr().0, world.anonymous(4).addr().0);
    let bytes = pattern(4 * PAGE);
    world.run(|space, cx| space.write(cx, UserAddr(from), &bytes)).unwrap();
    let id = world.objects.create(0);
    for (offset, start, len) in [(0, 0, 1), (5, 9, PAGE), (4090, 1, 20), (100, 4000, 2 * PAGE), (0, 0, 3 * PAGE)] {
        assert_eq!(put(&mut world, from + start, len, id, offset), Ok(len));
        assert!(world.objects.size(id) >= offset + len as u64);
        world.run(|space, cx| space.fill(cx, UserAddr(to), 4 * PAGE, 0xee)).unwrap();
        assert_eq!(take(&mut world, to + 3, len, id, offset), Ok(len));
        let got = program(&mut world, UserAddr(to), 4 * PAGE);
        assert!(got[3..3 + len] == bytes[start as usize..start as usize + len], "offset {offset}");
        assert!(got[..3].iter().chain(&got[3 + len..]).all(|byte| *byte == 0xee), "offset {offset}");
    }
    // A hole reads as zeros, over pages as well.
    assert_eq!(put(&mut world, from, 1, id, 9 * PAGE as u64), Ok(1));
    assert_eq!(take(&mut world, to + 10, 2 * PAGE, id, 5 * PAGE as u64 + 50), Ok(2 * PAGE));
    assert!(program(&mut world, UserAddr(to + 10), 2 * PAGE).iter().all(|byte| *byte == 0));
    let World { objects, frames, .. } = &mut world;
    objects.release(frames, id);
    world.end();
}

#[test]
fn the_end_of_the_programs_memory_ends_it_where_it_is() {
    let mut world = World::new();
    let first = world.anonymous(2);
    let (start, end) = (first.addr().0, UserPage(first.0 + 2).addr().0);
    let unmapped = MemoryFault::Segv(Segv::Unmapped);
    let id = world.objects.create(0);
    assert_eq!(put(&mut world, end, 10, id, 0), Err(unmapped));
    assert_eq!(world.objects.size(id), 0, "a write that failed leaves the size alone");
    assert_eq!(put(&mut world, end - 30, 100, id, 5), Ok(30));
    assert_eq!(world.objects.size(id), 35, "it grows by what was written");
    assert_eq!(put(&mut world, end - 3, 100, id, 0), Ok(3));
    assert_eq!(world.objects.size(id), 35, "and never shrinks");
    assert_eq!(take(&mut world, end - 7, 35, id, 0), Ok(7));
    assert_eq!(take(&mut world, end, 35, id, 0), Err(unmapped));
    assert_eq!(take(&mut world, u64::MAX - 3, 35, id, 0), Err(unmapped));
    assert_eq!(put(&mut world, start, 10, id, MAX_SIZE - 9), Err(MemoryFault::Bus));
    assert_eq!(put(&mut world, start, 10, id, u64::MAX - 3), Err(MemoryFault::Bus));
    assert_eq!((take(&mut world, start, 0, id, 0), put(&mut world, start, 0, id, 0)), (Ok(0), Ok(0)));
    let World { objects, frames, .. } = &mut world;
    objects.release(frames, id);
    world.end();
}

#[test]
fn a_block_that_is_missing_is_waited_for_and_a_bad_one_ends_it() {
    let mut world = World::new();
    let at = world.anonymous(5).addr();
    let mut frames: Vec<Frame> = Vec::new();
    for value in [1, 2] {
        let frame = shimos_hal::FrameSource::take(&mut world.frames).unwrap();
        world.machine.write_frame(frame, 0, &[value; PAGE]);
        frames.push(frame);
    }
    let mut file = File(frames.clone());
    let mut take = |world: &mut World, len: usize, offset: usize| {
        world.with(&mut file, |space, cx| space.take_from_file(cx, at, len, Bytes::Image(4), offset as u64))
    };
    assert_eq!(take(&mut world, 2 * PAGE - 1, 1), Ok(2 * PAGE - 1));
    assert_eq!(take(&mut world, 2 * PAGE, 1), Err(MemoryFault::Missing(77)), "no short read");
    assert_eq!(take(&mut world, 10, 3 * PAGE), Err(MemoryFault::Bus));
    let got = program(&mut world, at, 2 * PAGE - 1);
    assert!(got[..PAGE - 1].iter().all(|byte| *byte == 1) && got[PAGE - 1..].iter().all(|byte| *byte == 2));
    for frame in frames {
        world.frames.release(frame);
    }
    world.end();
}

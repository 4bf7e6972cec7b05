//! Frames, page sets, system-call copies, stacks and the heap.
use crate::{
    backing::{Backing, BackingError, NoBacking},
    fake::{Fake, FakeSpace},
    fault::{MemoryFault, Segv},
    frames::{Frames, HEAD_FRAMES},
    mappings::Mappings,
    objects::Objects,
    page_set::PageSet,
    space::{AddressSpace, Context, MapRequest, Place, Progress, RemapTo, Tracking},
    track::Adopted,
    vma::{Prot, Sharing, Source, Vma, VmaFlags},
};
use alloc::{collections::BTreeSet, vec, vec::Vec};
use proptest::prelude::{any, proptest};
use shimos_abi::{
    addr::{Frame, FrameRange, PAGE, UserAddr, UserPage},
    errno::Errno,
};
use shimos_hal::{Access, FrameSource, Machine};

const POOL: FrameRange = FrameRange { first: Frame(8), count: 200 };
const TOP: UserPage = UserPage(1 << 20);

/// A program with one address space.
pub(super) struct World {
    pub machine: Fake,
    pub frames: Frames,
    pub objects: Objects,
    tables: FakeSpace,
    pub space: AddressSpace,
    free: usize,
}

impl World {
    pub fn new() -> World {
        let mut machine = Fake::new(256, POOL);
        let mut frames = Frames::new(POOL);
        frames.zero_frame(&mut machine);
        let free = frames.free_count();
        let tables = machine.new_space(&mut frames).unwrap();
        let space = AddressSpace::new(TOP, 1 << 20);
        World { machine, frames, objects: Objects::default(), tables, space, free }
    }
    pub fn with<T>(
        &mut self,
        backing: &mut dyn Backing<Fake>,
        work: impl FnOnce(&mut AddressSpace, &mut Context<'_, Fake>) -> T,
    ) -> T {
        let World { machine, frames, objects, tables, space, .. } = self;
        work(space, &mut Context { machine, frames, objects, backing, tables })
    }
    pub fn run<T>(&mut self, work: impl FnOnce(&mut AddressSpace, &mut Context<'_, Fake>) -> T) -> T {
        self.with(&mut NoBacking, work)
    }
    pub fn anonymous(&mut self, pages: u64) -> UserPage {
        let request = MapRequest::anonymous(Prot::READ | Prot::WRITE);
        self.run(|space, cx| space.map(cx, Place::Anywhere, pages, request)).unwrap()
    }
    /// Ends it; nothing may be left.
    pub fn end(mut self) {
        while self.run(|space, cx| space.destroy_step(cx, 3)) == Progress::More {}
        let tables = core::mem::take(&mut self.tables);
        assert!(tables.pages.is_empty());
        self.machine.drop_space(tables, &mut self.frames);
        self.objects.destroy(&mut self.frames);
        assert_eq!(self.frames.free_count(), self.free);
        assert_eq!(self.frames.mistakes(), 0);
    }
}

#[test]
fn frames_are_handed_out_once_and_come_back() {
    let mut frames = Frames::new(POOL);
    let mut seen = BTreeSet::new();
    while let Some(frame) = frames.take() {
        assert!(POOL.contains(frame) && frame.0 >= POOL.first.0 + HEAD_FRAMES && seen.insert(frame));
    }
    assert_eq!((seen.len(), frames.free_count()), (200 - HEAD_FRAMES as usize, 0));
    let one = Frame(40);
    frames.share(one);
    frames.release(one);
    assert!(frames.exclusive(one));
    frames.release(one);
    assert_eq!(frames.take(), Some(one));
    frames.release(one);
    assert_eq!(frames.mistakes(), 0);
    frames.release(one);
    assert_eq!(frames.mistakes(), 1);
    frames.share(Frame(3));
    frames.release(Frame(3));
    assert!(!frames.exclusive(Frame(3)) && frames.mistakes() == 1);
}

#[test]
fn reserved_frames_are_not_handed_out() {
    let mut frames = Frames::new(POOL);
    let held = Frame(40);
    frames.reserve(held);
    frames.reserve(held);
    let left = 199 - HEAD_FRAMES as usize;
    assert_eq!((frames.references(held), frames.free_count()), (2, left));
    for _ in 0..left {
        assert_ne!(frames.take(), Some(held));
    }
}

proptest! {
    #[test]
    fn page_sets_are_sets(ops in proptest::collection::vec((any::<u8>(), any::<bool>(), 0..2000u64, 1..700u64), 1..80)) {
        let mut set = PageSet::new();
        let mut model = BTreeSet::new();
        for (op, far, page, count) in ops {
            // Near ones meet in a few chunks, far ones are in many.
            let page = if far { page * 199 } else { page };
            let other: BTreeSet<u64> = (page..page + count).step_by(1 + count as usize / 9).collect();
            let mut others = PageSet::new();
            other.iter().for_each(|page| assert!(others.insert(*page)));
            match op % 8 {
                0 | 1 => assert_eq!(set.insert(page), model.insert(page)),
                2 => assert_eq!(set.remove(page), model.remove(&page)),
                3 => {
                    let before = model.len();
                    model.retain(|member| !(page..page + count).contains(member));
                    assert_eq!(set.remove_range(page, page + count), before - model.len());
                }
                4 => {
                    set.merge(&others);
                    model.extend(other);
                }
                5 => {
                    set.subtract(&others);
                    model.retain(|member| !other.contains(member));
                }
                6 => {
                    let bits = count & (u64::MAX >> (page % 64));
                    set.insert_window(page, bits);
                    model.extend((0..64).filter(|at| bits >> at & 1 != 0).map(|at| page + at));
                }
                _ => {
                    let taken = set.take_some(count as usize / 100);
                    let first: BTreeSet<u64> = model.iter().copied().take(taken.len()).collect();
                    assert!(taken.len() >= model.len().min(count as usize / 100));
                    assert_eq!(taken.iter().collect::<BTreeSet<_>>(), first);
                    model.retain(|member| !first.contains(member));
                }
            }
            assert_eq!(set.len(), model.len());
            assert_eq!(set.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            assert_eq!(set.contains(page), model.contains(&page));
            assert_eq!(set.first_from(page), model.range(page..).next().copied());
            if let Some((low, high)) = set.chunk_from(page, page + count).and_then(|chunk| chunk.bounds()) {
                assert_eq!(Some(low), model.range(page..page + count).next().copied());
                assert!(model.contains(&(high - 1)) && high <= page + count);
            } else {
                assert!(model.range(page..page + count).next().is_none());
            }
        }
        let mut same = PageSet::new();
        model.iter().rev().for_each(|page| assert!(same.insert(*page)));
        assert!(same == set);
    }
}

#[test]
fn bytes_cross_pages_and_stop_at_the_border() {
    let mut world = World::new();
    let first = world.anonymous(2);
    let end = UserPage(first.0 + 2).addr();
    let bytes: Vec<u8> = (0..PAGE + 100).map(|at| at as u8).collect();
    let at = UserAddr(first.addr().0 + 50);
    world.run(|space, cx| space.write(cx, at, &bytes)).unwrap();
    let mut back = vec![0; bytes.len()];
    world.run(|space, cx| space.read(cx, at, &mut back)).unwrap();
    assert_eq!(back, bytes);
    let partial = world.run(|space, cx| space.write(cx, UserAddr(end.0 - 10), &bytes)).unwrap_err();
    assert_eq!((partial.done, partial.fault), (10, MemoryFault::Segv(Segv::Unmapped)));
    for wild in [u64::MAX - 4, 1 << 63, 0x0000_7fff_ffff_f000, 0] {
        let partial = world.run(|space, cx| space.read(cx, UserAddr(wild), &mut [0; 16])).unwrap_err();
        assert_eq!(partial.done, 0);
    }
    world.run(|space, cx| space.write(cx, UserAddr(end.0 - 4), b"end\0")).unwrap();
    let string = world.run(|space, cx| space.read_cstring(cx, UserAddr(end.0 - 4), 100)).unwrap();
    assert_eq!(string.as_deref(), Some(&b"end"[..]));
    world.run(|space, cx| space.fill(cx, first.addr(), PAGE, b'x')).unwrap();
    assert_eq!(world.run(|space, cx| space.read_cstring(cx, first.addr(), 1000)).unwrap(), None);
    let old = world.run(|space, cx| space.update_u32(cx, first.addr(), |old| Some(old + 1))).unwrap();
    assert_eq!(world.run(|space, cx| space.read_u32(cx, first.addr())).unwrap(), old + 1);
    world.end();
}

#[test]
fn reads_of_untouched_memory_share_one_frame_of_zeros() {
    let mut world = World::new();
    let first = world.anonymous(20);
    let before = world.frames.free_count();
    world.run(|space, cx| space.read(cx, first.addr(), &mut vec![1; 20 * PAGE])).unwrap();
    assert_eq!((world.frames.free_count(), world.space.owned_pages(), world.space.resident()), (before, 0, 20));
    world.end();
}

#[test]
fn the_stack_grows_to_its_limit() {
    let mut world = World::new();
    let request =
        MapRequest { flags: VmaFlags::GROWS_DOWN | VmaFlags::STACK, ..MapRequest::anonymous(Prot::READ | Prot::WRITE) };
    let top = UserPage(1 << 19);
    world.run(|space, cx| space.map(cx, Place::Fixed(UserPage(top.0 - 1)), 1, request)).unwrap();
    let push =
        |world: &mut World, page: u64| world.run(|space, cx| space.fault(cx, UserPage(page).addr(), Access::Write));
    push(&mut world, top.0 - 200).unwrap();
    push(&mut world, top.0 - 256).unwrap();
    assert_eq!(push(&mut world, top.0 - 257), Err(MemoryFault::Segv(Segv::Unmapped)));
    assert_eq!(world.space.mappings().total_pages(), 256);
    // A mapping right below stops it as well.
    let plain = MapRequest::anonymous(Prot::READ);
    world.space.set_limits(crate::Limits { total: u64::MAX, data: u64::MAX, stack: u64::MAX });
    world.run(|space, cx| space.map(cx, Place::Fixed(UserPage(top.0 - 600)), 1, plain)).unwrap();
    assert_eq!(push(&mut world, top.0 - 400), Err(MemoryFault::Segv(Segv::Unmapped)));
    push(&mut world, top.0 - 300).unwrap();
    world.end();
}

#[test]
fn the_heap_grows_shrinks_and_keeps_off_other_mappings() {
    let mut world = World::new();
    world.space.set_heap(UserAddr(0x10_0100));
    let set = |world: &mut World, to: u64| world.run(|space, cx| space.set_break(cx, UserAddr(to))).0;
    assert_eq!(set(&mut world, 0), 0x10_0100);
    assert_eq!(set(&mut world, 0x10_5000), 0x10_5000);
    world.run(|space, cx| space.fill(cx, UserAddr(0x10_1000), 0x4000, 1)).unwrap();
    assert_eq!(set(&mut world, 0x10_2800), 0x10_2800);
    assert_eq!(world.space.owned_pages(), 2);
    let request = MapRequest::anonymous(Prot::READ);
    world.run(|space, cx| space.map(cx, Place::Fixed(UserPage(0x110)), 1, request)).unwrap();
    assert_eq!(set(&mut world, 0x20_0000), 0x10_2800);
    world.end();
}

#[test]
fn fixed_places_are_honoured_or_refused() {
    let mut world = World::new();
    let request = || MapRequest::anonymous(Prot::READ);
    let at = UserPage(0x100);
    let mut map = |place, pages| world.run(|space, cx| space.map(cx, place, pages, request()));
    assert_eq!(map(Place::Fixed(at), 4), Ok(at));
    assert_eq!(map(Place::FixedIfFree(UserPage(0x103)), 4), Err(Errno::EEXIST));
    assert_ne!(map(Place::Near(at), 4), Ok(at));
    assert_eq!(map(Place::Fixed(UserPage(1)), 1), Err(Errno::EPERM));
    assert_eq!(map(Place::Fixed(UserPage(u64::MAX)), 1), Err(Errno::ENOMEM));
    assert_eq!(map(Place::Anywhere, u64::MAX), Err(Errno::ENOMEM));
    world.end();
}

#[test]
fn remap_moves_the_pages_along() {
    let mut world = World::new();
    let first = world.anonymous(2);
    world.run(|space, cx| space.write_u64(cx, first.addr(), 77)).unwrap();
    // Another mapping right behind, so that it has to move.
    let request = MapRequest::anonymous(Prot::READ);
    world.run(|space, cx| space.map(cx, Place::Fixed(UserPage(first.0 + 2)), 1, request)).unwrap();
    assert_eq!(
        world.run(|space, cx| space.remap(cx, (first, 2), 9, RemapTo::InPlace, crate::Remap::Move)),
        Err(Errno::ENOMEM)
    );
    let moved = world.run(|space, cx| space.remap(cx, (first, 2), 9, RemapTo::MayMove, crate::Remap::Move)).unwrap();
    assert_eq!(world.run(|space, cx| space.read_u64(cx, moved.addr())), Ok(77));
    assert_eq!(world.run(|space, cx| space.read_u64(cx, first.addr())), Err(MemoryFault::Segv(Segv::Unmapped)));
    world.run(|space, cx| space.write_u64(cx, UserPage(moved.0 + 8).addr(), 1)).unwrap();
    world.run(|space, cx| space.remap(cx, (moved, 9), 1, RemapTo::InPlace, crate::Remap::Move)).unwrap();
    assert_eq!(world.space.owned_pages(), 1);
    world.end();
}

/// A root image whose file 5 has two pages in frames 1 and 2; the second is not cached at first.
struct Files {
    cached: usize,
}

impl Backing<Fake> for Files {
    fn page(&mut self, _: &mut Fake, _: &mut Frames, nid: u64, index: u64) -> Result<Frame, BackingError> {
        match (nid, index) {
            (5, 0) => Ok(Frame(1)),
            (5, 1) if self.cached > 1 => Ok(Frame(2)),
            (5, 1) => Err(BackingError::Missing(99)),
            _ => Err(BackingError::End),
        }
    }
    fn cached(&mut self, _: &mut Fake, nid: u64, index: u64) -> Option<Frame> {
        (nid == 5 && index < self.cached as u64).then_some(Frame(index as u32 + 1))
    }
}

#[test]
fn files_are_mapped_where_they_are_cached_and_copied_on_write() {
    let mut world = World::new();
    let mut files = Files { cached: 1 };
    let request = MapRequest {
        source: Source::Image { nid: 5, first: 0 },
        ..MapRequest::anonymous(Prot::READ | Prot::WRITE | Prot::EXECUTE)
    };
    let first = UserPage(0x200);
    world.with(&mut files, |space, cx| space.map(cx, Place::Fixed(first), 3, request)).unwrap();
    let mut fault = |files: &mut Files, page: u64, access| {
        world.with(files, |space, cx| space.fault(cx, UserPage(first.0 + page).addr(), access))
    };
    assert_eq!(fault(&mut files, 1, Access::Execute), Err(MemoryFault::Missing(99)));
    files.cached = 2;
    fault(&mut files, 0, Access::Execute).unwrap();
    assert_eq!(fault(&mut files, 2, Access::Read), Err(MemoryFault::Bus));
    assert_eq!((world.space.resident(), world.space.owned_pages()), (2, 0));
    world.with(&mut files, |space, cx| space.write_u64(cx, first.addr(), 5)).unwrap();
    assert_eq!(world.machine.read_word(Frame(1), 0), 0xeeee_eeee_eeee_eeee);
    assert_eq!(world.machine.read_word(world.tables.pages[&first].frame, 0), 5);
    assert_eq!(world.space.owned_pages(), 1);
    world.end();
}

#[test]
fn objects_read_write_and_truncate() {
    let mut world = World::new();
    let World { machine, frames, objects, .. } = &mut world;
    let files = &mut Files { cached: 2 };
    let id = objects.create_over(5, PAGE as u64 + 100);
    let mut bytes = [0; 8];
    assert_eq!(objects.read(machine, frames, files, id, PAGE as u64 + 96, &mut bytes), Ok(4));
    assert_eq!(bytes, [0xee, 0xee, 0xee, 0xee, 0, 0, 0, 0]);
    assert_eq!(objects.write(machine, frames, files, id, 3 * PAGE as u64, b"far"), Ok(3));
    assert_eq!((objects.size(id), objects.get(id).unwrap().resident()), (3 * PAGE as u64 + 3, 1));
    assert_eq!(objects.write(machine, frames, files, id, 1, b"ab"), Ok(2));
    assert_eq!(objects.read(machine, frames, files, id, 0, &mut bytes[..4]), Ok(4));
    assert_eq!(bytes[..4], [0xee, b'a', b'b', 0xee]);
    objects.truncate(machine, frames, files, id, 2).unwrap();
    objects.truncate(machine, frames, files, id, 2 * PAGE as u64).unwrap();
    assert_eq!(objects.read(machine, frames, files, id, 0, &mut bytes), Ok(8));
    assert_eq!(bytes, [0xee, b'a', 0, 0, 0, 0, 0, 0]);
    // The file below does not come back either.
    assert_eq!(objects.read(machine, frames, files, id, PAGE as u64, &mut bytes), Ok(8));
    assert_eq!(bytes, [0; 8]);
    assert_eq!(objects.write(machine, frames, files, id, u64::MAX, b"x"), Err(MemoryFault::Bus));
    objects.release(frames, id);
    assert!(objects.get(id).is_none());
    assert_eq!(objects.take_ended(), [id]);
    world.end();
}

#[test]
fn pages_that_a_base_has_are_saved_when_they_change_or_come_home() {
    let mut world = World::new();
    let first = world.anonymous(6);
    let World { machine, frames, tables, space, .. } = &mut world;
    space.set_tracking(Tracking::On);
    let page = |at: u64| UserPage(first.0 + at);
    for at in 0..3 {
        space.adopt(machine, frames, tables, page(at), Frame(at as u32), Adopted::Based).unwrap();
    }
    assert_eq!((space.changed_pages(), space.lent_pages()), (0, 3));
    // One that lies here is to be saved, as nothing will bring it home.
    let own = frames.take().unwrap();
    space.adopt(machine, frames, tables, page(3), own, Adopted::Based).unwrap();
    frames.release(own);
    space.bring(machine, frames, tables, page(4), Frame(4)).unwrap();
    assert_eq!((space.changed_pages(), space.lent_pages()), (2, 3));
    world.run(|space, cx| space.write_u64(cx, page(0).addr(), 1)).unwrap();
    world.run(|space, cx| space.unmap(cx, page(1), page(2)));
    let World { machine, frames, tables, space, .. } = &mut world;
    assert_eq!((space.changed_pages(), space.lent_pages()), (4, 1));
    let pulled = space.pull_step(machine, frames, tables, 9).unwrap();
    assert_eq!((pulled.iter().collect::<Vec<_>>(), space.changed_pages()), ([page(2).0].into(), 5));
    let mut seen = Vec::new();
    space
        .collect_these(machine, tables, &pulled, |_, page, frame| {
            seen.push((page, frame.is_some()));
            Ok::<(), ()>(())
        })
        .unwrap();
    assert_eq!((seen, space.changed_pages()), ([(page(2), true)].into(), 4));
    let failed = space.collect_these(machine, tables, &pulled, |_, _, _| Err(()));
    assert_eq!((failed, space.changed_pages()), (Err(()), 5));
    world.end();
}

#[test]
fn adopted_pages_are_never_written_and_can_be_pulled() {
    let mut world = World::new();
    let first = world.anonymous(4);
    let id = world.objects.create(8 * PAGE as u64);
    let request = MapRequest {
        source: Source::Object { id, first: 0 },
        sharing: Sharing::Shared,
        ..MapRequest::anonymous(Prot::READ | Prot::WRITE)
    };
    let shared = world.run(|space, cx| space.map(cx, Place::Anywhere, 4, request)).unwrap();
    let World { machine, frames, objects, tables, space, .. } = &mut world;
    // Frames 0 to 3 lie outside the pool; storing there would panic.
    for at in 0..3 {
        space.adopt(machine, frames, tables, UserPage(first.0 + at), Frame(at as u32), Adopted::Unsaved).unwrap();
    }
    assert!(space.adopt(machine, frames, tables, UserPage(1 << 30), Frame(1), Adopted::Unsaved).is_err());
    objects.adopt(frames, id, 0, Frame(3)).unwrap();
    objects.adopt(frames, id, 1, Frame(4)).unwrap();
    space.set_tracking(Tracking::On);
    objects.set_tracking(Tracking::On);
    world.run(|space, cx| space.write_u64(cx, first.addr(), 1)).unwrap();
    world.run(|space, cx| space.write_u64(cx, shared.addr(), 2)).unwrap();
    assert_eq!((world.space.lent_pages(), world.objects.lent_pages()), (2, 1));
    let World { machine, frames, objects, tables, space, .. } = &mut world;
    assert_eq!(space.pull_step(machine, frames, tables, 1).map(|pulled| pulled.len()), Ok(1));
    assert_eq!(space.lent_pages(), 1);
    assert_eq!(space.pull_step(machine, frames, tables, 9).map(|pulled| pulled.len()), Ok(1));
    assert_eq!(space.lent_pages(), 0);
    assert_eq!(objects.pull_step(machine, frames, 9), Ok(Progress::Done));
    assert_eq!(objects.lent_pages(), 0);
    let mut bytes = [0; 8];
    world.run(|space, cx| space.read(cx, UserPage(first.0 + 2).addr(), &mut bytes)).unwrap();
    assert_eq!(bytes, [0xee; 8]);
    assert!(world.tables.pages.values().all(|mapping| POOL.contains(mapping.frame)));
    world.end();
}

#[test]
fn a_decoded_space_goes_on_with_the_pages_of_its_image() {
    let mut world = World::new();
    let first = world.anonymous(3);
    let id = world.objects.create(PAGE as u64);
    let request = MapRequest { source: Source::Object { id, first: 0 }, ..MapRequest::anonymous(Prot::READ) };
    world.run(|space, cx| space.map(cx, Place::Anywhere, 1, request)).unwrap();
    world.objects.release(&mut world.frames, id);
    world.run(|space, cx| space.protect(cx, first, UserPage(first.0 + 1), Prot::empty())).unwrap();
    let bytes = (minicbor::to_vec(&world.space).unwrap(), minicbor::to_vec(&world.objects).unwrap());
    let mut space: AddressSpace = minicbor::decode(&bytes.0).unwrap();
    let mut objects: Objects = minicbor::decode(&bytes.1).unwrap();
    space.validate().unwrap();
    objects.validate().unwrap();
    assert_eq!(space.mappings(), world.space.mappings());
    space.count_mapped(&mut objects);
    assert_eq!(objects.get(id).unwrap().mapped(), 1);
    let mut tables = world.machine.new_space(&mut world.frames).unwrap();
    for page in [first, UserPage(first.0 + 1)] {
        space.adopt(&mut world.machine, &mut world.frames, &mut tables, page, Frame(1), Adopted::Unsaved).unwrap();
    }
    // The first page allows nothing, so it is not in the page tables; it is there all the same.
    assert_eq!((space.owned_pages(), tables.pages.len()), (2, 1));
    let old = (core::mem::replace(&mut world.space, space), core::mem::replace(&mut world.tables, tables));
    world.objects = objects;
    world.run(|space, cx| space.protect(cx, first, UserPage(first.0 + 1), Prot::READ)).unwrap();
    assert_eq!(world.run(|space, cx| space.read_u32(cx, first.addr())), Ok(0xeeee_eeee));
    world.machine.drop_space(old.1, &mut world.frames);
    // Ids, ranges and bounds that cannot be are refused.
    let mut bad = Mappings::default();
    bad.insert(Vma { first: UserPage(1), ..world.space.mappings().iter().next().unwrap().clone() });
    assert!(bad.validate().is_err());
    world.end();
}

#[test]
fn who_walks_finds_the_next_pages_ready_and_none_beyond_the_mapping() {
    let mut world = World::new();
    let first = world.anonymous(80);
    world.anonymous(1);
    let mut faults = 0;
    for page in first.0..first.0 + 80 {
        let page = UserPage(page);
        world.run(|space, cx| {
            if !space.owns(page) {
                faults += 1;
                space.fault(cx, page.addr(), Access::Write).unwrap();
                space.make_ready_ahead(cx, page);
            }
        });
    }
    assert!((5..20).contains(&faults), "{faults}");
    assert_eq!(world.space.owned_pages(), 80);
    world.end();
}

#[test]
fn who_jumps_gets_what_was_asked_for() {
    let mut world = World::new();
    let first = world.anonymous(40);
    for page in (first.0..first.0 + 40).rev().chain([first.0 + 7, first.0 + 3]).step_by(3) {
        world.run(|space, cx| {
            space.fault(cx, UserPage(page).addr(), Access::Write).unwrap();
            space.make_ready_ahead(cx, UserPage(page));
        });
    }
    assert_eq!(world.space.owned_pages(), 14);
    world.end();
}

/// A world whose page tables have lost a page behind the back of the space that owns it.
fn with_a_lost_page() -> (World, UserPage) {
    let mut world = World::new();
    let page = world.anonymous(4);
    world.run(|space, cx| space.fault(cx, page.addr(), Access::Write)).unwrap();
    world.run(|_, cx| cx.machine.update(cx.tables, page, UserPage(page.0 + 1), &mut |_, _| None));
    (world, page)
}

#[test]
#[should_panic(expected = "page tables were overwritten")]
fn a_page_that_the_tables_have_lost_is_not_replaced() {
    let (mut world, page) = with_a_lost_page();
    let _ = world.run(|space, cx| space.fault(cx, page.addr(), Access::Read));
}

#[test]
#[should_panic(expected = "page tables were overwritten")]
fn a_page_that_the_tables_have_lost_is_not_saved_as_none() {
    let (mut world, page) = with_a_lost_page();
    let World { machine, tables, space, .. } = &mut world;
    space.set_tracking(Tracking::On);
    let mut wanted = PageSet::new();
    wanted.insert(page.0);
    let _ = space.collect_these(machine, tables, &wanted, |_, _, _| Ok::<(), ()>(()));
}

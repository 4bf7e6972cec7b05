//! Several address spaces and objects with checkpoints against a model of their contents.
use crate::{
    backing::NoBacking,
    fake::{Fake, FakeSpace},
    frames::{Frames, HEAD_FRAMES},
    objects::{ObjectId, Objects},
    space::{AddressSpace, Context, MapRequest, Place, Progress, RemapTo, Tracking},
    vma::{Prot, Sharing, Source},
};
use alloc::{collections::BTreeMap, vec, vec::Vec};
use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof, proptest};
use shimos_abi::addr::{Frame, FrameRange, PAGE, UserAddr, UserPage};
use shimos_hal::Machine;

const POOL: FrameRange = FrameRange { first: Frame(8), count: 3000 };
const BASE: u64 = 0x1fe;
const PAGES: u64 = 24;
const OBJECT_PAGES: u64 = 8;

#[derive(Clone, Debug)]
enum Op {
    Map { space: usize, first: u64, pages: u64, kind: u8 },
    Unmap { space: usize, first: u64, pages: u64 },
    Protect { space: usize, first: u64, pages: u64, prot: u8 },
    DontNeed { space: usize, first: u64, pages: u64 },
    Move { space: usize, first: u64, pages: u64, to: u64 },
    Write { space: usize, page: u64, value: u64 },
    Walk { space: usize, first: u64, pages: u64, value: u64 },
    Read { space: usize, page: u64 },
    WriteObject { object: usize, page: u64, value: u64 },
    Fork { space: usize },
    Destroy { space: usize },
    Track,
    Checkpoint,
    Abort,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let space = || 0..4usize;
    let range = || (0..PAGES - 1, 1..9u64);
    let op = prop_oneof![
        4 => (space(), range(), any::<u8>()).prop_map(|(space, (first, pages), kind)| Op::Map { space, first, pages, kind }),
        1 => (space(), range()).prop_map(|(space, (first, pages))| Op::Unmap { space, first, pages }),
        2 => (space(), range(), 0..4u8).prop_map(|(space, (first, pages), prot)| Op::Protect { space, first, pages, prot }),
        1 => (space(), range()).prop_map(|(space, (first, pages))| Op::DontNeed { space, first, pages }),
        1 => (space(), range(), 0..PAGES).prop_map(|(space, (first, pages), to)| Op::Move { space, first, pages, to }),
        12 => (space(), 0..PAGES, 1..u64::MAX).prop_map(|(space, page, value)| Op::Write { space, page, value }),
        3 => (space(), range(), 1..u64::MAX)
            .prop_map(|(space, (first, pages), value)| Op::Walk { space, first, pages, value }),
        6 => (space(), 0..PAGES).prop_map(|(space, page)| Op::Read { space, page }),
        3 => (0..2usize, 0..OBJECT_PAGES, 1..u64::MAX)
            .prop_map(|(object, page, value)| Op::WriteObject { object, page, value }),
        2 => space().prop_map(|space| Op::Fork { space }),
        1 => space().prop_map(|space| Op::Destroy { space }),
        1 => proptest::prelude::Just(Op::Track),
        4 => proptest::prelude::Just(Op::Checkpoint),
        1 => proptest::prelude::Just(Op::Abort),
    ];
    proptest::collection::vec(op, 1..80)
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Anonymous,
    Object { object: usize, index: u64, shared: bool },
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Page {
    kind: Kind,
    prot: Prot,
    own: Option<u64>,
}

struct Space {
    name: u32,
    real: AddressSpace,
    tables: FakeSpace,
    model: Vec<Option<Page>>,
}

struct World {
    machine: Fake,
    frames: Frames,
    objects: Objects,
    ids: [ObjectId; 2],
    object_model: [Vec<Option<u64>>; 2],
    spaces: Vec<Space>,
    names: u32,
    tracking: Tracking,
    /// What images hold: by space or object, page.
    image: BTreeMap<(bool, u32, u64), (Frame, u64)>,
}

impl World {
    fn new() -> World {
        let mut machine = Fake::new(3100, POOL);
        let frames = &mut Frames::new(POOL);
        let mut objects = Objects::default();
        let ids = [objects.create(OBJECT_PAGES * PAGE as u64), objects.create(OBJECT_PAGES * PAGE as u64)];
        let tables = machine.new_space(frames).unwrap();
        let real = AddressSpace::new(UserPage(1 << 20), 0);
        let frames = core::mem::replace(frames, Frames::new(POOL));
        World {
            machine,
            frames,
            objects,
            ids,
            object_model: [vec![None; OBJECT_PAGES as usize], vec![None; OBJECT_PAGES as usize]],
            spaces: vec![Space { name: 0, real, tables, model: vec![None; PAGES as usize] }],
            names: 1,
            tracking: Tracking::Off,
            image: BTreeMap::new(),
        }
    }

    fn with<T>(
        &mut self,
        at: usize,
        work: impl FnOnce(&mut AddressSpace, &mut Context<'_, Fake>, &mut Vec<Option<Page>>) -> T,
    ) -> Option<T> {
        let count = self.spaces.len();
        let World { machine, frames, objects, spaces, .. } = self;
        let space = spaces.get_mut(at % count.max(1))?;
        let Space { real, tables, model, .. } = space;
        let mut backing = NoBacking;
        let result = work(real, &mut Context { machine, frames, objects, backing: &mut backing, tables }, model);
        self.settle();
        Some(result)
    }

    fn settle(&mut self) {
        let stale = self.objects.take_stale();
        let World { machine, frames, objects, spaces, .. } = self;
        for Space { real, tables, .. } in spaces {
            real.drop_stale(&mut Context { machine, frames, objects, backing: &mut NoBacking, tables }, &stale);
        }
    }

    fn apply(&mut self, op: Op) {
        let page_of = |at: u64| UserPage(BASE + at);
        match op {
            Op::Map { space, first, pages, kind } => {
                let end = (first + pages).min(PAGES);
                let object = usize::from(kind / 4 % 2);
                let start = u64::from(kind / 8) % OBJECT_PAGES;
                let (source, shared) = match kind % 4 {
                    0 | 1 => (Source::Anonymous, false),
                    other => (Source::Object { id: self.ids[object], first: start }, other == 3),
                };
                let sharing = if shared { Sharing::Shared } else { Sharing::Private };
                let prot = Prot::READ | Prot::WRITE;
                let request = MapRequest { source, sharing, ..MapRequest::anonymous(prot) };
                self.with(space, |real, cx, model| {
                    real.map(cx, Place::Fixed(page_of(first)), end - first, request).unwrap();
                    for at in first..end {
                        let kind = match source {
                            Source::Anonymous => Kind::Anonymous,
                            _ => Kind::Object { object, index: start + at - first, shared },
                        };
                        model[at as usize] = Some(Page { kind, prot, own: None });
                    }
                });
            }
            Op::Unmap { space, first, pages } => {
                let end = (first + pages).min(PAGES);
                self.with(space, |real, cx, model| {
                    real.unmap(cx, page_of(first), page_of(end));
                    model[first as usize..end as usize].fill(None);
                });
            }
            Op::Protect { space, first, pages, prot } => {
                let end = (first + pages).min(PAGES);
                let prot = Prot::from_bits_truncate(prot);
                self.with(space, |real, cx, model| {
                    let result = real.protect(cx, page_of(first), page_of(end), prot);
                    let mut complete = true;
                    for page in &mut model[first as usize..end as usize] {
                        match page {
                            Some(page) if complete => page.prot = prot,
                            _ => complete = false,
                        }
                    }
                    assert_eq!(result.is_ok(), complete);
                });
            }
            Op::DontNeed { space, first, pages } => {
                let end = (first + pages).min(PAGES);
                self.with(space, |real, cx, model| {
                    let _ = real.clear_step(cx, page_of(first), page_of(end), u64::MAX);
                    model[first as usize..end as usize].iter_mut().flatten().for_each(|page| page.own = None);
                });
            }
            Op::Move { to, pages, .. } if to + pages > PAGES => {}
            Op::Move { space, first, pages, to } => {
                self.with(space, |real, cx, model| {
                    let result =
                        real.remap(cx, (page_of(first), pages), pages, RemapTo::Fixed(page_of(to)), crate::Remap::Move);
                    if result.is_err() {
                        return;
                    }
                    for at in 0..pages {
                        model[(to + at) as usize] = model[(first + at) as usize].take();
                    }
                });
            }
            Op::Walk { space, first, pages, value } => {
                for page in first..(first + pages).min(PAGES) {
                    self.apply(Op::Write { space, page, value });
                }
            }
            Op::Write { space, page, value } => {
                let written = self.with(space, |real, cx, model| {
                    let result = real.write_u64(cx, page_of(page).addr(), value);
                    if result.is_ok() {
                        real.make_ready_ahead(cx, page_of(page));
                        // What was made ready are zeros of its own.
                        for (at, entry) in model.iter_mut().enumerate() {
                            if let Some(Page { kind: Kind::Anonymous, own: own @ None, .. }) = entry
                                && at as u64 != page
                                && real.owns(page_of(at as u64))
                            {
                                *own = Some(0);
                            }
                        }
                    }
                    let beyond = matches!(model[page as usize], Some(Page { kind: Kind::Object { index, .. }, own: None, .. }) if index >= OBJECT_PAGES);
                    match &mut model[page as usize] {
                        Some(entry) if entry.prot.contains(Prot::WRITE) && !beyond => {
                            result.unwrap();
                            match entry.kind {
                                Kind::Object { object, index, shared: true } => Some((object, index)),
                                _ => {
                                    entry.own = Some(value);
                                    None
                                }
                            }
                        }
                        _ => {
                            assert!(result.is_err());
                            None
                        }
                    }
                });
                if let Some(Some((object, index))) = written {
                    self.object_model[object][index as usize] = Some(value);
                }
            }
            Op::Read { space, page } => {
                let count = self.spaces.len().max(1);
                self.check_page(space % count, page);
            }
            Op::WriteObject { object, page, value } => {
                let World { machine, frames, objects, ids, .. } = self;
                let at = page * PAGE as u64;
                objects.write(machine, frames, &mut NoBacking, ids[object], at, &value.to_le_bytes()).unwrap();
                self.object_model[object][page as usize] = Some(value);
                self.settle();
            }
            Op::Fork { space } => {
                if self.spaces.len() >= 4 {
                    return;
                }
                let forked = self.with(space, |real, cx, model| {
                    let (real, tables) = real.fork(cx).unwrap();
                    (real, tables, model.clone())
                });
                if let Some((real, tables, model)) = forked {
                    self.spaces.push(Space { name: self.names, real, tables, model });
                    self.names += 1;
                }
            }
            Op::Destroy { space } => {
                if self.spaces.len() > 1 {
                    self.destroy(space % self.spaces.len());
                }
            }
            Op::Track => {
                self.tracking = Tracking::On;
                self.objects.set_tracking(Tracking::On);
                self.spaces.iter_mut().for_each(|space| space.real.set_tracking(Tracking::On));
            }
            Op::Checkpoint => self.checkpoint(),
            Op::Abort => {
                let World { machine, spaces, objects, .. } = self;
                for Space { real, tables, .. } in spaces.iter_mut() {
                    let changes = real.collect(machine, tables, |_, _, _| Ok::<(), ()>(())).unwrap();
                    real.restore_changes(&changes);
                }
                let changes = objects.collect(|_, _, _| Ok::<(), ()>(())).unwrap();
                objects.restore_changes(&changes);
            }
        }
    }

    fn destroy(&mut self, at: usize) {
        while self.with(at, |real, cx, _| real.destroy_step(cx, 5)) == Some(Progress::More) {}
        let Space { name, tables, .. } = self.spaces.remove(at);
        assert!(tables.pages.is_empty());
        self.machine.drop_space(tables, &mut self.frames);
        let gone: Vec<_> = self.image.keys().filter(|key| !key.0 && key.1 == name).copied().collect();
        for key in gone {
            self.frames.release(self.image.remove(&key).unwrap().0);
        }
    }

    fn checkpoint(&mut self) {
        if self.tracking == Tracking::Off {
            return;
        }
        let mut reports = Vec::new();
        let World { machine, spaces, objects, .. } = self;
        for Space { name, real, tables, .. } in spaces.iter_mut() {
            real.collect(machine, tables, |_, page, frame| {
                reports.push(((false, *name, page.0), frame));
                Ok::<(), ()>(())
            })
            .unwrap();
        }
        objects
            .collect(|id, index, frame| {
                reports.push(((true, id.0, index), frame));
                Ok::<(), ()>(())
            })
            .unwrap();
        for (key, frame) in reports {
            if let Some(frame) = frame {
                self.frames.share(frame);
            }
            let value = frame.map(|frame| (frame, self.machine.read_word(frame, 0)));
            let old = match value {
                Some(value) => self.image.insert(key, value),
                None => self.image.remove(&key),
            };
            if let Some((old, _)) = old {
                self.frames.release(old);
            }
        }
        // The image now is what the model is.
        let mut expected = BTreeMap::new();
        for space in &self.spaces {
            for (at, page) in space.model.iter().enumerate() {
                if let Some(Page { own: Some(value), .. }) = page {
                    expected.insert((false, space.name, BASE + at as u64), *value);
                }
            }
        }
        for (object, pages) in self.object_model.iter().enumerate() {
            for (at, value) in pages.iter().enumerate() {
                if let Some(value) = value {
                    expected.insert((true, self.ids[object].0, at as u64), *value);
                }
            }
        }
        let found: BTreeMap<_, _> = self.image.iter().map(|(key, (_, value))| (*key, *value)).collect();
        assert_eq!(found, expected);
    }

    fn check_page(&mut self, space: usize, page: u64) {
        let value = self.spaces[space].model[page as usize].map(|entry| {
            let shown = match entry.kind {
                Kind::Anonymous => Ok(0),
                Kind::Object { index, .. } if index >= OBJECT_PAGES => Err(()),
                Kind::Object { object, index, .. } => Ok(self.object_model[object][index as usize].unwrap_or(0)),
            };
            if entry.prot.is_empty() { Err(()) } else { entry.own.map_or(shown, Ok) }
        });
        let addr = UserAddr((BASE + page) * PAGE as u64);
        let found = self.with(space, |real, cx, _| real.read_u64(cx, addr)).unwrap();
        match value {
            Some(Ok(value)) => assert_eq!(found, Ok(value), "space {space} page {page}"),
            _ => assert!(found.is_err(), "space {space} page {page}"),
        }
    }

    /// No store has gone to a frame of the image.
    fn check_image(&self) {
        for (key, (frame, value)) in &self.image {
            assert_eq!(self.machine.read_word(*frame, 0), *value, "{key:?}");
        }
    }

    fn finish(mut self) {
        for space in 0..self.spaces.len() {
            for page in 0..PAGES {
                self.check_page(space, page);
            }
        }
        while !self.spaces.is_empty() {
            self.destroy(0);
        }
        for (frame, _) in self.image.values() {
            self.frames.release(*frame);
        }
        for id in self.ids {
            self.objects.release(&mut self.frames, id);
        }
        assert_eq!(self.objects.iter().count(), 0, "an object is still counted as mapped");
        assert_eq!(self.frames.mistakes(), 0);
        let zero = self.frames.zero_frame(&mut self.machine);
        assert!(zero.is_some());
        // The head and the frame of zeros.
        assert_eq!(self.frames.free_count(), self.frames.total() - HEAD_FRAMES as usize - 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn contents_are_those_of_the_model(ops in ops()) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
            world.check_image();
        }
        world.finish();
    }
}

//! The head of a reserved memory: which images there are, and which frames they need after a reboot.
use crate::{
    error::{ImageError, WriteError},
    layout::{
        DESCRIPTOR_WORDS, Descriptor, GENERATIONS, HEAD_LIFE, HEAD_MAGIC, HEAD_VERSION, MAGIC, SLOT_COMMIT,
        SLOT_DESCRIPTORS, SLOT_ROOT, SLOT_STATE, SLOTS, SlotPlace, SlotState, Tree, VERSION, check_head, decode_state,
        encode_state, encode_version, slots_in,
    },
    record_frames::frames_of,
    sums,
    teardown::Teardown,
    walk::{Event, Walk},
    writer::Writer,
};
use alloc::vec::Vec;
use shimos_abi::{
    addr::{Frame, FrameRange},
    ids::{Epoch, Life, ProgramId},
};
use shimos_hal::Machine;
use shimos_memory::{Frames, frames::HEAD_FRAMES};

/// An image in some kernel's reserved memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Whose.
    pub program: ProgramId,
    /// Whether the program lives there.
    pub state: SlotState,
    /// Its newest committed epoch, if it has one.
    pub epoch: Option<Epoch>,
}

/// What a walk over the images of an earlier life has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// The images that are kept.
    pub images: Vec<ProgramId>,
    /// Where they are.
    pub(crate) slots: Vec<usize>,
    /// References to frames that they hold.
    pub references: usize,
    /// Damage found on the way; what lies behind it is not kept.
    pub damages: Vec<ImageError>,
}

/// The generations of a slot that its commit word keeps, newest first.
pub(crate) struct Generations {
    pub kept: Vec<Descriptor>,
    /// The newest epoch that was committed, as far as can be told.
    pub newest: u32,
    /// Whether the first is not the one the commit word names.
    pub damage: Option<ImageError>,
}

pub(crate) fn generations<M: Machine>(machine: &M, slot: SlotPlace, program: ProgramId) -> Generations {
    let commit = slot.read(machine, SLOT_COMMIT);
    let mut found: Vec<(Descriptor, u64)> =
        (0..GENERATIONS).filter_map(|number| Descriptor::read(machine, slot, number, program)).collect();
    found.sort_by_key(|(descriptor, _)| core::cmp::Reverse(descriptor.epoch));
    if commit == 0 {
        // Nothing is committed yet.
        return Generations { kept: Vec::new(), newest: 0, damage: None };
    }
    let committed = (commit >> 32) as u32;
    let named = found.iter().any(|(_, word)| *word == commit);
    // If only the descriptor is damaged the generation before is still whole. If the commit word itself is, the newest
    // descriptor is: it is stored after everything it names, and before the commit that may have followed.
    let newest = if named || found.iter().any(|(descriptor, _)| descriptor.epoch.checked_add(1) == Some(committed)) {
        committed
    } else {
        found.first().map_or(0, |(descriptor, _)| descriptor.epoch)
    };
    let kept = found
        .into_iter()
        .filter(|(descriptor, word)| {
            (*word == commit || descriptor.epoch < committed || !named)
                && descriptor.epoch <= newest
                && descriptor.epoch.saturating_add(1) >= newest
        })
        .map(|(descriptor, _)| descriptor)
        .collect();
    Generations { kept, newest, damage: if named { None } else { Some(ImageError::Descriptor) } }
}

/// The slots of a kernel's reserved memory and what is in them.
pub fn slots_of<M: Machine>(machine: &M, pool: FrameRange) -> Result<Vec<(usize, Held)>, ImageError> {
    let head = check_head(machine, pool)?;
    let mut slots = Vec::new();
    for slot in 0..slots_in(machine, head) {
        let place = SlotPlace::of(head, slot);
        let (state, program) = decode_state(place.read(machine, SLOT_STATE));
        if state != SlotState::Free {
            let epoch = generations(machine, place, program).kept.first().map(|newest| Epoch(newest.epoch));
            slots.push((slot, Held { program, state, epoch }));
        }
    }
    Ok(slots)
}

/// Finds every frame of `pool` that the images for which `keep` is true need: nodes and versions of the page map and the
/// records of kept generations. `mark` is called once for every reference. Reads only. An image without a committed epoch is of
/// no use to anybody.
pub fn retained<M: Machine>(
    machine: &M,
    pool: FrameRange,
    mut keep: impl FnMut(ProgramId) -> bool,
    mut mark: impl FnMut(Frame),
) -> Result<Retained, ImageError> {
    let mut result = Retained::default();
    for (slot, held) in slots_of(machine, pool)? {
        let place = SlotPlace::of(pool.first, slot);
        let committed = place.read(machine, SLOT_COMMIT) != 0;
        if committed && keep(held.program) {
            result.images.push(held.program);
            result.slots.push(slot);
            references(machine, pool, place, held.program, &mut |frame| {
                result.references += 1;
                mark(frame);
            })
            .into_iter()
            .for_each(|damage| result.damages.push(damage));
        }
    }
    if !result.images.is_empty() {
        sums::frames_of(machine, pool, &mut |frame| {
            result.references += 1;
            mark(frame);
        });
    }
    Ok(result)
}

/// Every reference of one image to a frame of the pool; what is damaged.
fn references<M: Machine>(
    machine: &M,
    pool: FrameRange,
    slot: SlotPlace,
    program: ProgramId,
    mark: &mut dyn FnMut(Frame),
) -> Vec<ImageError> {
    let mut damages = Vec::new();
    let head = pool.first;
    for frame in record_references(machine, pool, slot, program, &mut damages) {
        mark(frame);
    }
    let root = slot.read(machine, SLOT_ROOT);
    match Walk::new(pool, Tree::Directory, root) {
        Err(error) => damages.push(error),
        Ok(mut walk) => {
            while let Some(event) = walk.next(machine) {
                match event {
                    Event::Enter(node) => mark(node),
                    Event::Entry { entry, .. } => entry
                        .versions
                        .iter()
                        .flatten()
                        .filter_map(|version| version.page())
                        .filter(|frame| pool.contains(*frame) && *frame != head)
                        .for_each(&mut *mark),
                    Event::Leave(_) => {}
                    Event::Damaged(error) => damages.push(error),
                }
            }
        }
    }
    damages
}

/// The frames of the records of a slot's kept generations.
fn record_references<M: Machine>(
    machine: &M,
    pool: FrameRange,
    slot: SlotPlace,
    program: ProgramId,
    damages: &mut Vec<ImageError>,
) -> Vec<Frame> {
    let mut frames = Vec::new();
    for descriptor in generations(machine, slot, program).kept {
        let found = frames_of(machine, pool, &descriptor, |part| frames.push(part.frame()));
        if let Err(error) = found {
            damages.push(error);
        }
    }
    frames
}

/// Clears what earlier versions did not have of the head.
fn zero_further<M: Machine>(machine: &mut M, head: Frame) {
    (1..HEAD_FRAMES).for_each(|at| machine.zero_frame(Frame(head.0.saturating_add(at))));
}

/// The head of this kernel's own reserved memory.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    pool: FrameRange,
}

impl Slots {
    /// Takes the reserved memory over at boot. Images of an earlier life for which `keep` is true are lent from now on,
    /// and their frames are reserved; all else is forgotten. Without a valid head there is nothing to keep.
    pub fn start<M: Machine>(
        machine: &mut M,
        frames: &mut Frames,
        life: Life,
        mut keep: impl FnMut(ProgramId) -> bool,
    ) -> (Slots, Retained) {
        let pool = frames.pool();
        let head = pool.first;
        let slots = Slots { pool };
        let kept = retained(machine, pool, &mut keep, |frame| frames.reserve(frame));
        let life = u64::from(life.incarnation.0) << 32 | u64::from(life.kernel.0);
        match kept {
            Ok(kept) => {
                for slot in 0..slots_in(machine, head) {
                    let place = SlotPlace::of(head, slot);
                    let (state, program) = decode_state(place.read(machine, SLOT_STATE));
                    let new = match state {
                        SlotState::Free => SlotState::Free,
                        _ if kept.slots.contains(&slot) => SlotState::Lent,
                        _ => SlotState::Free,
                    };
                    place.write(machine, SLOT_STATE, encode_state(new, program));
                }
                if kept.images.is_empty() {
                    // One of an earlier version goes on with the slots it has until nothing in it is needed any more.
                    if slots_in(machine, head) < SLOTS {
                        zero_further(machine, head);
                    }
                    machine.write_word(head, HEAD_VERSION, encode_version(VERSION));
                    sums::clear(machine, head);
                }
                machine.write_word(head, HEAD_LIFE, life);
                (slots, kept)
            }
            Err(_) => {
                machine.zero_frame(head);
                zero_further(machine, head);
                machine.write_word(head, HEAD_VERSION, encode_version(VERSION));
                machine.write_word(head, HEAD_LIFE, life);
                // Last: a head that is valid is complete.
                machine.write_word(head, HEAD_MAGIC, MAGIC);
                (slots, Retained::default())
            }
        }
    }

    /// Starts an image of a program. Its first epoch is the one after `after`.
    pub fn create<M: Machine>(&self, machine: &mut M, program: ProgramId, after: Epoch) -> Result<Writer, WriteError> {
        let head = self.pool.first;
        let is_free =
            |slot: &usize| decode_state(SlotPlace::of(head, *slot).read(machine, SLOT_STATE)).0 == SlotState::Free;
        let slot = (0..slots_in(machine, head)).find(is_free).ok_or(WriteError::NoSlot)?;
        let place = SlotPlace::of(head, slot);
        place.write(machine, SLOT_COMMIT, 0);
        place.write(machine, SLOT_ROOT, 0);
        for word in 0..GENERATIONS as usize * DESCRIPTOR_WORDS {
            place.write(machine, SLOT_DESCRIPTORS + word, 0);
        }
        place.write(machine, SLOT_STATE, encode_state(SlotState::Active, program));
        Ok(Writer::new(self.pool, slot, program, after))
    }

    /// The images in this reserved memory.
    pub fn held<M: Machine>(&self, machine: &M) -> Vec<Held> {
        slots_of(machine, self.pool).unwrap_or_default().into_iter().map(|(_, held)| held).collect()
    }

    /// Whether one more image finds a slot.
    pub fn has_room<M: Machine>(&self, machine: &M) -> bool {
        slots_of(machine, self.pool).is_ok_and(|used| used.len() < slots_in(machine, self.pool.first))
    }

    /// A loan came back: the slot is free at once, its frames after the returned work. `None` if nothing was lent.
    pub fn returned<M: Machine>(&self, machine: &mut M, program: ProgramId) -> Option<Teardown> {
        let slots = slots_of(machine, self.pool).ok()?;
        let lent = |held: &Held| held.program == program && held.state == SlotState::Lent;
        let (slot, _) = slots.into_iter().find(|(_, held)| lent(held))?;
        let place = SlotPlace::of(self.pool.first, slot);
        let records = record_references(machine, self.pool, place, program, &mut Vec::new());
        let root = place.read(machine, SLOT_ROOT);
        place.write(machine, SLOT_STATE, encode_state(SlotState::Free, program));
        place.write(machine, SLOT_ROOT, 0);
        Some(Teardown::new(self.pool, Tree::Directory, root, records))
    }
}

//! Protection at work: checkpoints, when to take them, and the output that waits for them (paper 2.2; D10, D11).
use crate::{
    device::{console, network},
    levels::Revival,
    process::SpaceId,
    program::{Head, Held},
    records,
    resident::Resident,
    saving::{self, Begun},
    services::Services,
};
use alloc::{collections::VecDeque, format, string::String, vec::Vec};
use shimos_abi::{
    addr::Frame,
    control::{CheckpointStatus, MAX_CHECKPOINTS, Protection},
    ids::{Epoch, KernelId},
    time::Nanos,
};
use shimos_checkpoint::{Image, PageKey, Slots, WriteError, Writer};
use shimos_hal::Machine;
use shimos_ikc::Home;
use shimos_memory::{Adopted, ObjectId, PageSet, Tracking, space::Progress};
use shimos_net::AckMode;

/// Held bytes beyond which a checkpoint is taken at once.
const HELD_LIMIT: usize = 1 << 20;
/// The least time between two checkpoints that output asks for.
const OUTPUT_GAP: Nanos = Nanos::micros(200);
/// Checkpoints that are remembered for measurements.
const HISTORY: usize = 128;

/// The protection of one program, as far as it is this kernel's business.
#[derive(Default)]
pub struct Guard {
    pub(crate) writer: Option<Writer>,
    /// When the next checkpoint, or the next step of the one under way, is due.
    pub(crate) next: Option<Nanos>,
    /// The checkpoint under way.
    pub(crate) begun: Begun,
    /// Requests that wait for the next commit: their numbers, and who asked.
    pub(crate) waiting: Vec<(u64, KernelId)>,
    /// The last committed one.
    pub last: Option<CheckpointStatus>,
    /// The last committed ones, the oldest first: as many as [`HISTORY`].
    history: VecDeque<CheckpointStatus>,
    /// Address spaces that ended since the last checkpoint.
    pub ended_spaces: Vec<SpaceId>,
    /// Why there is no checkpoint now, if there should be.
    pub trouble: Option<String>,
    pub(crate) buffer: Vec<u8>,
    pub(crate) batch: Vec<(PageKey, u64, Option<Frame>)>,
    /// Whether the last sweep left something to do.
    unswept: Progressing,
    /// What the image is for.
    holds: Holds,
    /// The image that counts until the first checkpoint has committed.
    before: Option<Writer>,
    /// Images that were replaced, and are still to be freed.
    replaced: Vec<shimos_checkpoint::Teardown>,
}

/// What an image holds.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Holds {
    /// The whole program: checkpoints are taken.
    #[default]
    Program,
    /// The order that started it, and nothing else.
    Order,
    /// Pages of a program that is about to leave. Nothing is committed before it is stopped.
    Pages,
}

/// Whether a program can be stopped to leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaving {
    /// More has changed than one pause may save.
    NotYet,
    /// What is left can be saved in one pause.
    Ready,
}

/// Whether work is left.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Progressing {
    #[default]
    Done,
    More,
}

/// The image's key for an address space.
pub fn space_key(space: SpaceId) -> PageKey {
    PageKey(space.0 & 0x3fff_ffff)
}

/// The image's key for an object: those of files and those of shared memory apart.
pub fn object_key(object: ObjectId) -> PageKey {
    let class = if object.0 & !ObjectId::FILE_MASK == 0 { 0x4000_0000 } else { 0x8000_0000 };
    PageKey(class | object.0 & 0x3fff_ffff)
}

/// A new address space is tracked if the others are.
pub fn track_new_space<M: Machine>(resident: &mut Resident<M>, id: SpaceId) {
    if resident.guard.is_on()
        && let Some(space) = resident.program.spaces.get_mut(&id)
    {
        space.set_tracking(Tracking::On);
    }
}

impl Guard {
    /// Whether an image of the program's pages is kept up.
    pub fn is_on(&self) -> bool {
        self.writer.is_some() && self.holds != Holds::Order
    }
    /// Whether the checkpoint under way must not commit yet.
    pub(crate) fn only_prepares(&self) -> bool {
        self.holds == Holds::Pages
    }
    /// When the next one is due.
    pub fn next_checkpoint(&self) -> Option<Nanos> {
        self.next
    }
    /// References of the image to frames of other kernels.
    pub fn foreign_frames(&self) -> u64 {
        self.writer.as_ref().map_or(0, Writer::foreign_frames)
    }
    /// Whether a generation of the image needs the one that the program came from.
    pub fn needs_base(&self) -> bool {
        self.writer.as_ref().is_some_and(Writer::needs_base)
    }
    /// Whether pages that are mapped where they lie are in the image by what it is based on.
    pub fn adopted(&self) -> Adopted {
        if self.writer.as_ref().is_some_and(Writer::has_base) { Adopted::Based } else { Adopted::Unsaved }
    }
    /// The first of the checkpoints after an epoch that are remembered: as many as one answer tells.
    pub fn checkpoints_after(&self, epoch: Epoch) -> Vec<CheckpointStatus> {
        self.history.iter().filter(|checkpoint| checkpoint.epoch > epoch).take(MAX_CHECKPOINTS).copied().collect()
    }
    pub(crate) fn remember(&mut self, checkpoint: CheckpointStatus) {
        self.last = Some(checkpoint);
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(checkpoint);
    }
    /// Whether a checkpoint is under way, in steps.
    pub(crate) fn is_under_way(&self) -> bool {
        self.begun.is_under_way()
    }
    /// There is something to give back.
    pub(crate) fn note_unswept(&mut self) {
        self.unswept = Progressing::More;
    }
    /// Whether there is background work.
    pub fn is_busy(&self) -> bool {
        self.unswept == Progressing::More
    }
}

/// Switches protection on, or changes it.
pub fn protect<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    slots: &Slots,
    protection: Protection,
) -> Result<(), WriteError> {
    let now = services.machine.now();
    let after = resident.guard.last.map_or(Epoch(0), |last| last.epoch);
    let (id, fresh) = (resident.program.head.id, !resident.guard.is_on());
    // Pages that are in an image without checksums would stay so.
    let checked = |writer: &Writer| protection.integrity == writer.integrity();
    if fresh || !resident.guard.writer.as_ref().is_some_and(checked) {
        let mut writer = slots.create(&mut services.machine, id, after)?;
        writer.set_integrity(protection.integrity);
        if resident.guard.is_under_way() {
            abort(resident, services);
        }
        // What there was stays until there is more.
        drop_before(resident, services);
        resident.guard.before = resident.guard.writer.replace(writer);
        resident.program.objects.set_tracking(Tracking::Off);
        resident.guard.holds = Holds::Program;
        resident.program.head.revival = Revival::Never;
        for space in resident.program.spaces.values_mut() {
            space.set_tracking(Tracking::Off);
            space.set_tracking(Tracking::On);
        }
        resident.program.objects.set_tracking(Tracking::On);
    }
    if let Some(writer) = &mut resident.guard.writer {
        writer.keep(protection.generations);
    }
    resident.program.head.protection = Some(protection);
    // Acknowledgements are held anyway; delaying them on top would only slow the peer down.
    let acks = if resident.program.holds_output() { AckMode::Immediate } else { AckMode::Delayed };
    resident.program.net.set_ack_mode(acks);
    // The first checkpoint comes at once: from then on the program is safe.
    resident.guard.next = Some(now);
    Ok(())
}

/// Goes on with an image's epochs after a takeover: the next checkpoint is the one after `epoch`. It says only what has
/// changed since: all else is in `image`, which stays as it is until all of it has come here.
pub fn resume<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    slots: &Slots,
    (image, epoch): (&Image, Epoch),
) -> Result<(), WriteError> {
    let Some(protection) = resident.program.head.protection else { return Ok(()) };
    let mut writer = slots.create(&mut services.machine, resident.program.head.id, epoch)?;
    writer.set_integrity(protection.integrity);
    writer.keep(protection.generations);
    for space in resident.program.spaces.values_mut() {
        space.set_tracking(Tracking::On);
    }
    match image.as_base() {
        Some(base) => {
            writer.set_base(base, image.page_count());
            resident.program.objects.track_from_here();
        }
        // Too many lie on top of each other: this one gets all pages.
        None => resident.program.objects.set_tracking(Tracking::On),
    }
    resident.guard.writer = Some(writer);
    // Soon: until then it would go back to the same checkpoint again, and its image stays in another kernel's memory.
    resident.guard.next = Some(services.machine.now() + protection.interval.min(AFTER_TAKEOVER));
    Ok(())
}

/// From a takeover to the first checkpoint, at most.
const AFTER_TAKEOVER: Nanos = Nanos::millis(20);

/// Switches protection off: held output leaves, the image goes. The work that is left of it is returned.
pub fn unprotect<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
) -> Vec<shimos_checkpoint::Teardown> {
    let area = services.ikc.area();
    let life = services.machine.identity().life;
    let id = resident.program.head.id;
    let seen = area.home(id);
    if seen.life() == Some(life) {
        let _ = area.move_home(id, seen, Home::Held(life));
    }
    end_checkpoints(resident, services)
}

/// Takes no more checkpoints, and has no image.
fn end_checkpoints<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
) -> Vec<shimos_checkpoint::Teardown> {
    resident.program.head.protection = None;
    resident.program.head.revival = Revival::Never;
    resident.guard.holds = Holds::Program;
    resident.program.net.set_ack_mode(AckMode::Delayed);
    resident.guard.next = None;
    for space in resident.program.spaces.values_mut() {
        space.set_tracking(Tracking::Off);
    }
    resident.program.objects.set_tracking(Tracking::Off);
    release_held(resident, services);
    resident.guard.last = None;
    resident.guard.history.clear();
    resident.guard.begun = Begun::default();
    // What the sweep has left over goes with the image. Else this kernel would never sleep.
    resident.guard.unswept = Progressing::Done;
    let writers = resident.guard.before.take().into_iter().chain(resident.guard.writer.take());
    writers.map(|writer| writer.close(&mut services.machine)).collect()
}

/// The image before needs to be kept no longer: there is a checkpoint.
pub(crate) fn drop_before<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) {
    if let Some(before) = resident.guard.before.take() {
        let teardown = before.close(&mut services.machine);
        resident.guard.replaced.push(teardown);
    }
}

/// Lets all held output leave.
pub fn release_held<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) {
    for Held::Packet(frame) in core::mem::take(&mut resident.program.held) {
        network::send(services, frame);
    }
    resident.program.terminal.release();
    console::work(services, resident);
}

/// Writes an image that holds nothing but the order that started the program. Checkpoints are kept until it is there, and
/// no longer.
pub fn keep_order<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    slots: &Slots,
) -> Result<(), WriteError> {
    let id = resident.program.head.id;
    let after = resident.guard.last.map_or(Epoch(0), |last| last.epoch);
    let mut writer = slots.create(&mut services.machine, id, after)?;
    let head = Head { protection: None, revival: Revival::Restart, ..resident.program.head.clone() };
    let bytes = records::encode_head(&head);
    let Services { machine, frames, .. } = services;
    let stored = writer
        .begin(machine)
        .and_then(|_| writer.records(machine, frames, &bytes))
        .and_then(|()| writer.commit(machine, frames));
    let epoch = match stored {
        Ok(epoch) => epoch,
        Err(error) => {
            resident.guard.replaced.push(writer.close(machine));
            return Err(error);
        }
    };
    let checkpoints = end_checkpoints(resident, services);
    resident.guard.replaced.extend(checkpoints);
    resident.program.head.revival = Revival::Restart;
    let life = services.machine.identity().life;
    let area = services.ikc.area();
    let seen = area.home(id);
    if seen.life() == Some(life) {
        let _ = area.move_home(id, seen, Home::committed(life));
    }
    let at = services.machine.now();
    resident.guard.last = Some(CheckpointStatus {
        epoch,
        at,
        pause: Nanos(0),
        pages: 0,
        image_pages: 0,
        record_bytes: writer.record_bytes(),
        phases: None,
        stretched: None,
    });
    resident.guard.holds = Holds::Order;
    resident.guard.writer = Some(writer);
    Ok(())
}

/// Takes the last checkpoint of a program that goes elsewhere, after which nothing of its output waits here. A program that
/// is not protected gets an image for this one time.
pub fn checkpoint_to_leave<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    slots: &Slots,
) -> Result<(), String> {
    begin_to_leave(resident, services, slots)?;
    resident.guard.holds = Holds::Program;
    let outcome = commit_all(resident, services);
    drop_before(resident, services);
    resident.guard.next = None;
    outcome
}

/// Makes sure that there is an image for the program's pages.
fn begin_to_leave<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    slots: &Slots,
) -> Result<(), String> {
    let guard = &mut resident.guard;
    if guard.is_on() {
        return Ok(());
    }
    // The order alone does not do; it stays until there is more.
    let after = guard.writer.as_ref().map_or(Epoch(0), Writer::committed);
    let writer = slots
        .create(&mut services.machine, resident.program.head.id, after)
        .map_err(|error| format!("there is no room for an image: {error:?}"))?;
    guard.before = guard.writer.replace(writer);
    guard.holds = Holds::Pages;
    for space in resident.program.spaces.values_mut() {
        space.set_tracking(Tracking::On);
    }
    resident.program.objects.set_tracking(Tracking::On);
    Ok(())
}

/// Saves pages of a program that is to leave while it runs, in steps, until what is left can be saved in one pause.
pub fn prepare_to_leave<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    slots: &Slots,
) -> Result<Leaving, String> {
    if resident.guard.is_under_way() && !resident.guard.only_prepares() {
        return Ok(Leaving::NotYet);
    }
    if !resident.guard.is_on() && resident.program.owned_pages() <= services.save_step {
        return Ok(Leaving::Ready);
    }
    begin_to_leave(resident, services, slots)?;
    if let Some(trouble) = resident.guard.trouble.clone().filter(|_| resident.guard.only_prepares()) {
        return Err(trouble);
    }
    if resident.program.changed_pages() <= services.save_step {
        return Ok(Leaving::Ready);
    }
    if resident.guard.next.is_none() {
        resident.guard.next = Some(services.machine.now());
    }
    Ok(Leaving::NotYet)
}

/// Takes checkpoints until no output waits.
fn commit_all<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) -> Result<(), String> {
    // The first commits what waits, so that it leaves; the second is without it.
    for _ in 0..2 {
        flush_network(resident, services);
        saving::checkpoint_at_once(resident, services);
        if let Some(trouble) = resident.guard.trouble.clone() {
            return Err(trouble);
        }
        if !resident.program.holds_output() {
            break;
        }
    }
    Ok(())
}

/// Images that were replaced.
pub fn take_replaced<M: Machine>(resident: &mut Resident<M>) -> Vec<shimos_checkpoint::Teardown> {
    core::mem::take(&mut resident.guard.replaced)
}

/// The program stays here after all.
pub fn stay<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) -> Vec<shimos_checkpoint::Teardown> {
    match resident.program.head.protection {
        Some(_) => {
            resident.guard.next = Some(services.machine.now());
            Vec::new()
        }
        None => unprotect(resident, services),
    }
}

/// Gives up the checkpoint under way.
fn abort<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) {
    if let Some(writer) = &mut resident.guard.writer
        && writer.is_writing()
    {
        // Damage in an image under construction is noticed by the next checkpoint.
        let _ = writer.abort(&mut services.machine, &mut services.frames);
    }
    resident.guard.begun = Begun::default();
}

/// The program goes back to the generation `epoch`: the image stays if that is one of it. What is left to be freed.
pub(crate) fn set_aside<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    epoch: Epoch,
) -> Vec<shimos_checkpoint::Teardown> {
    abort(resident, services);
    let mut left = take_replaced(resident);
    resident.guard.next = None;
    for writer in resident.guard.before.take().into_iter().chain(resident.guard.writer.take()) {
        if writer.has(epoch) {
            left.extend(writer.lend(&mut services.machine));
        } else {
            left.push(writer.close(&mut services.machine));
        }
    }
    left
}

/// The program has gone elsewhere with its image: what is left of the image's work here.
pub fn lend<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) -> Option<shimos_checkpoint::Teardown> {
    resident.guard.next = None;
    resident.guard.writer.take().and_then(|writer| writer.lend(&mut services.machine))
}

/// Moves what the network stack wants to send on its way: out, or into the held output.
pub fn flush_network<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) {
    let holds = resident.program.holds_output();
    while let Some(frame) = resident.program.net.take_frame() {
        if holds {
            resident.program.held.push_back(Held::Packet(frame));
        } else {
            network::send(services, frame);
        }
    }
}

/// Why a checkpoint is taken now, if one is.
pub fn is_due<M: Machine>(resident: &Resident<M>, now: Nanos) -> bool {
    let Some(next) = resident.guard.next else { return false };
    if now >= next {
        return true;
    }
    let unreleased = resident.program.terminal.written - resident.program.terminal.released;
    if resident.program.held.is_empty() && unreleased == 0 || resident.guard.trouble.is_some() {
        return false;
    }
    // Nothing runs and output waits: commit now. Much output waits: commit now as well.
    let rested = resident.guard.last.is_none_or(|last| now >= last.at + OUTPUT_GAP);
    let packets: usize = resident.program.held.iter().map(|Held::Packet(bytes)| bytes.len()).sum();
    let full = unreleased > 0 && !resident.program.terminal.has_room();
    rested && (full || !resident.runnable()) || packets + unreleased as usize > HELD_LIMIT
}

/// Gives back what the image needs no more, a bounded amount at a time.
pub fn sweep<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) {
    const STEP: usize = 256;
    let Some(writer) = &mut resident.guard.writer else { return };
    if resident.guard.unswept == Progressing::More {
        let done = writer.sweep(&mut services.machine, &mut services.frames, STEP);
        if !matches!(done, Ok(Progress::More)) {
            resident.guard.unswept = Progressing::Done;
        }
    }
}

/// Pages that are copied at a time.
const PULLED: usize = 256;

/// Copies pages that still lie in a dead kernel's memory into this one's, a bounded number at a time. Returns the kernels
/// whose loan has ended.
pub fn pull<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) -> Vec<KernelId> {
    let step = PULLED.min(services.save_step);
    if resident.pending.damage().is_some() {
        return Vec::new();
    }
    let incomplete = resident.pending.spaces().next();
    if let Some(id) = incomplete {
        let mut brought = PageSet::new();
        if let Ok(mut memory) = services.memory(resident, id) {
            // What is lost is noted, and ends the program.
            let _ = memory.bring_pending(step, &mut brought);
        }
        saving::save_ahead(resident, services, id, &brought);
        return Vec::new();
    }
    let mut left = step;
    let lent = |resident: &Resident<M>| {
        let mut spaces = resident.program.spaces.iter();
        spaces.find(|(_, space)| space.lent_pages() > 0).map(|(id, _)| *id)
    };
    while left > 0
        && let Some(id) = lent(resident)
    {
        let Services { machine, frames, .. } = services;
        let (Some(space), Some(tables)) = (resident.program.spaces.get_mut(&id), resident.tables.get_mut(&id)) else {
            return Vec::new();
        };
        let Ok(pulled) = space.pull_step(machine, frames, tables, left) else { return Vec::new() };
        left -= pulled.len().clamp(1, left);
        saving::save_ahead(resident, services, id, &pulled);
    }
    let Services { machine, frames, .. } = services;
    let objects = resident.program.objects.pull_step(machine, frames, left);
    services.settle(resident);
    saving::save_objects_ahead(resident, services, step);
    let more = lent(resident).is_some() || !matches!(objects, Ok(Progress::Done));
    let unsaved = resident.guard.is_on() && resident.guard.last.is_none();
    if more || unsaved || resident.guard.foreign_frames() > 0 || resident.guard.needs_base() {
        return Vec::new();
    }
    // All pages are home, and no kept generation of the image needs another one or names a frame of another kernel.
    core::mem::take(&mut resident.program.head.loans)
}

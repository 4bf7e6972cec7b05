//! Protection at work: checkpoints, when to take them, and the output that waits for them (paper 2.2; D10, D11).
use crate::{
    device::{console, network},
    levels::Revival,
    process::SpaceId,
    program::Held,
    records,
    resident::Resident,
    services::Services,
};
use alloc::{format, string::String, vec::Vec};
use shimos_abi::{
    control::{CheckpointStatus, Protection},
    ids::KernelId,
    time::Nanos,
};
use shimos_checkpoint::{PageKey, Slots, WriteError, Writer};
use shimos_hal::Machine;
use shimos_ikc::Home;
use shimos_memory::{ObjectId, PageSet, Tracking, space::Progress};
use shimos_net::AckMode;

/// Held bytes beyond which a checkpoint is taken at once.
const HELD_LIMIT: usize = 1 << 20;
/// The least time between two checkpoints that output asks for.
const OUTPUT_GAP: Nanos = Nanos::micros(200);
/// How long a checkpoint that failed is not tried again.
const RETRY: Nanos = Nanos::millis(100);

/// The protection of one program, as far as it is this kernel's business.
#[derive(Default)]
pub struct Guard {
    writer: Option<Writer>,
    /// When the next checkpoint is due.
    next: Option<Nanos>,
    /// The last committed one.
    pub last: Option<CheckpointStatus>,
    /// Address spaces that ended since the last checkpoint.
    pub ended_spaces: Vec<SpaceId>,
    /// Why there is no checkpoint now, if there should be.
    pub trouble: Option<String>,
    buffer: Vec<u8>,
    /// Whether the last sweep left something to do.
    unswept: Progressing,
    /// What the image is for.
    holds: Holds,
    /// An image that was replaced, and is still to be freed.
    replaced: Option<shimos_checkpoint::Teardown>,
}

/// What an image holds.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Holds {
    /// The whole program: checkpoints are taken.
    #[default]
    Program,
    /// The order that started it, and nothing else.
    Order,
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
    /// Whether checkpoints are taken.
    pub fn is_on(&self) -> bool {
        self.writer.is_some() && self.holds == Holds::Program
    }
    /// When the next one is due.
    pub fn next_checkpoint(&self) -> Option<Nanos> {
        self.next
    }
    /// References of the image to frames of other kernels.
    pub fn foreign_frames(&self) -> u64 {
        self.writer.as_ref().map_or(0, Writer::foreign_frames)
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
    let after = resident.guard.last.map_or(shimos_abi::ids::Epoch(0), |last| last.epoch);
    if resident.guard.writer.is_none() {
        let writer = slots.create(&mut services.machine, resident.program.head.id, after)?;
        resident.guard.writer = Some(writer);
        for space in resident.program.spaces.values_mut() {
            space.set_tracking(Tracking::On);
        }
        resident.program.objects.set_tracking(Tracking::On);
    }
    resident.program.head.protection = Some(protection);
    // Acknowledgements are held anyway; delaying them on top would only slow the peer down.
    let acks = if resident.program.holds_output() { AckMode::Immediate } else { AckMode::Delayed };
    resident.program.net.set_ack_mode(acks);
    // The first checkpoint comes at once: from then on the program is safe.
    resident.guard.next = Some(now);
    Ok(())
}

/// Goes on with an image's epochs after a takeover: the next checkpoint is the one after `epoch`.
pub fn resume<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    slots: &Slots,
    epoch: shimos_abi::ids::Epoch,
) -> Result<(), WriteError> {
    let Some(protection) = resident.program.head.protection else { return Ok(()) };
    resident.guard.writer = Some(slots.create(&mut services.machine, resident.program.head.id, epoch)?);
    for space in resident.program.spaces.values_mut() {
        space.set_tracking(Tracking::On);
    }
    resident.program.objects.set_tracking(Tracking::On);
    resident.guard.next = Some(services.machine.now() + protection.interval);
    Ok(())
}

/// Switches protection off: held output leaves, the image goes.
pub fn unprotect<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
) -> Option<shimos_checkpoint::Teardown> {
    resident.program.head.protection = None;
    resident.program.head.revival = Revival::Never;
    resident.guard.holds = Holds::Program;
    resident.program.net.set_ack_mode(AckMode::Delayed);
    resident.guard.next = None;
    for space in resident.program.spaces.values_mut() {
        space.set_tracking(Tracking::Off);
    }
    resident.program.objects.set_tracking(Tracking::Off);
    let area = services.ikc.area();
    let life = services.machine.identity().life;
    let id = resident.program.head.id;
    let seen = area.home(id);
    if seen.life() == Some(life) {
        let _ = area.move_home(id, seen, Home::Held(life));
    }
    release_held(resident, services);
    resident.guard.last = None;
    resident.guard.writer.take().map(|writer| writer.close(&mut services.machine))
}

/// Lets all held output leave.
pub fn release_held<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) {
    for Held::Packet(frame) in core::mem::take(&mut resident.program.held) {
        network::send(services, frame);
    }
    resident.program.terminal.release();
    console::work(services, resident);
}

/// Writes an image that holds nothing but the order that started the program.
pub fn keep_order<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    slots: &Slots,
) -> Result<(), (WriteError, Option<shimos_checkpoint::Teardown>)> {
    let id = resident.program.head.id;
    let mut writer =
        slots.create(&mut services.machine, id, shimos_abi::ids::Epoch(0)).map_err(|error| (error, None))?;
    resident.program.head.revival = Revival::Restart;
    let bytes = records::encode_head(&resident.program.head);
    let Services { machine, frames, .. } = services;
    let stored = writer
        .begin()
        .and_then(|_| writer.records(machine, frames, &bytes))
        .and_then(|()| writer.commit(machine, frames));
    let epoch = match stored {
        Ok(epoch) => epoch,
        Err(error) => {
            resident.program.head.revival = Revival::Never;
            return Err((error, Some(writer.close(machine))));
        }
    };
    let life = services.machine.identity().life;
    let area = services.ikc.area();
    let seen = area.home(id);
    if seen.life() == Some(life) {
        let _ = area.move_home(id, seen, Home::Protected { life, image: life.kernel });
    }
    let at = services.machine.now();
    let (pause, record_bytes) = (Nanos(0), writer.record_bytes());
    resident.guard.last = Some(CheckpointStatus { epoch, at, pause, pages: 0, image_pages: 0, record_bytes });
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
    // The order alone does not do; it stays until there is more.
    let order = if resident.guard.holds == Holds::Order { resident.guard.writer.take() } else { None };
    if resident.guard.writer.is_none() {
        let after = order.as_ref().map_or(shimos_abi::ids::Epoch(0), Writer::committed);
        match slots.create(&mut services.machine, resident.program.head.id, after) {
            Ok(writer) => resident.guard.writer = Some(writer),
            Err(error) => {
                resident.guard.writer = order;
                return Err(format!("there is no room for an image: {error:?}"));
            }
        }
        resident.guard.holds = Holds::Program;
        for space in resident.program.spaces.values_mut() {
            space.set_tracking(Tracking::On);
        }
        resident.program.objects.set_tracking(Tracking::On);
    }
    let outcome = commit_all(resident, services);
    resident.guard.replaced = order.map(|order| order.close(&mut services.machine));
    resident.guard.next = None;
    outcome
}

/// Takes checkpoints until no output waits.
fn commit_all<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) -> Result<(), String> {
    // The first commits what waits, so that it leaves; the second is without it.
    for _ in 0..2 {
        flush_network(resident, services);
        checkpoint(resident, services);
        if let Some(trouble) = resident.guard.trouble.clone() {
            return Err(trouble);
        }
        if !resident.program.holds_output() {
            break;
        }
    }
    Ok(())
}

/// An image that was replaced.
pub fn take_replaced<M: Machine>(resident: &mut Resident<M>) -> Option<shimos_checkpoint::Teardown> {
    resident.guard.replaced.take()
}

/// The program stays here after all.
pub fn stay<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) -> Option<shimos_checkpoint::Teardown> {
    match resident.program.head.protection {
        Some(_) => {
            resident.guard.next = Some(services.machine.now());
            None
        }
        None => unprotect(resident, services),
    }
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
    rested && !resident.runnable() || packets + unreleased as usize > HELD_LIMIT
}

/// Takes a checkpoint and releases the output that it covers. What went wrong is kept as the guard's trouble.
pub fn checkpoint<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) {
    let Some(mut writer) = resident.guard.writer.take() else { return };
    let started = services.machine.now();
    let outcome = write(resident, services, &mut writer);
    let interval = resident.program.head.protection.map_or(RETRY, |protection| protection.interval);
    match outcome {
        Ok(pages) => {
            let life = services.machine.identity().life;
            let area = services.ikc.area();
            let id = resident.program.head.id;
            let seen = area.home(id);
            let wanted = Home::Protected { life, image: life.kernel };
            if seen != wanted && seen.life() == Some(life) {
                let _ = area.move_home(id, seen, wanted);
            }
            release_held(resident, services);
            let at = services.machine.now();
            resident.guard.last = Some(CheckpointStatus {
                epoch: writer.committed(),
                at,
                pause: at - started,
                pages,
                image_pages: writer.pages(),
                record_bytes: writer.record_bytes(),
            });
            resident.guard.trouble = None;
            resident.guard.unswept = Progressing::More;
            resident.guard.next = Some(at + interval);
        }
        Err(error) => {
            let text = format!("checkpoint failed: {error:?}");
            if resident.guard.trouble.as_ref() != Some(&text) {
                services.log(&format!("program {}: {text}", resident.program.head.name));
            }
            resident.guard.trouble = Some(text);
            resident.guard.next = Some(services.machine.now() + RETRY.max(interval));
        }
    }
    resident.guard.writer = Some(writer);
}

fn write<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    writer: &mut Writer,
) -> Result<u32, WriteError> {
    for thread in resident.program.threads.values_mut() {
        services.machine.save_live(&mut thread.regs, &mut thread.fpu);
    }
    // The first checkpoint after a takeover needs every page.
    let incomplete: Vec<SpaceId> = resident.pending.spaces().collect();
    for space in incomplete {
        if let Ok(mut memory) = services.memory(resident, space) {
            memory.with(|_, _| ());
        }
    }
    if resident.pending.damage().is_some() {
        return Err(WriteError::OutOfTurn);
    }
    for space in resident.guard.ended_spaces.drain(..) {
        writer.drop_key(space_key(space));
    }
    for object in resident.program.objects.take_ended() {
        writer.drop_key(object_key(object));
    }
    writer.begin()?;
    let mut changes: Vec<(SpaceId, PageSet)> = Vec::new();
    let mut object_changes = None;
    let outcome = collect(resident, services, writer, &mut changes, &mut object_changes);
    let outcome = outcome.and_then(|pages| {
        let buffer = core::mem::take(&mut resident.guard.buffer);
        let bytes = records::encode(&resident.program, buffer);
        let stored = writer.records(&mut services.machine, &mut services.frames, &bytes);
        resident.guard.buffer = bytes;
        stored.map(|()| pages)
    });
    let outcome = outcome.and_then(|pages| writer.commit(&mut services.machine, &mut services.frames).map(|_| pages));
    if outcome.is_err() {
        let _ = writer.abort(&mut services.machine, &mut services.frames);
        for (id, pages) in &changes {
            if let Some(space) = resident.program.spaces.get_mut(id) {
                space.restore_changes(pages);
            }
        }
        if let Some(pages) = &object_changes {
            resident.program.objects.restore_changes(pages);
        }
    }
    outcome
}

fn collect<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    writer: &mut Writer,
    changes: &mut Vec<(SpaceId, PageSet)>,
    object_changes: &mut Option<shimos_memory::ObjectChanges>,
) -> Result<u32, WriteError> {
    let mut pages = 0;
    let Services { machine, frames, .. } = services;
    for (id, space) in &mut resident.program.spaces {
        let Some(tables) = resident.tables.get_mut(id) else { continue };
        let key = space_key(*id);
        let set = space.collect(machine, tables, |machine, page, frame| {
            pages += 1;
            writer.page(machine, frames, key, page.0, frame)
        })?;
        changes.push((*id, set));
    }
    let set = resident.program.objects.collect(|id, index, frame| {
        pages += 1;
        writer.page(machine, frames, object_key(id), index, frame)
    })?;
    *object_changes = Some(set);
    Ok(pages)
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

/// Copies pages that still lie in a dead kernel's memory into this one's, a bounded number at a time. Returns the kernels
/// whose loan has ended.
pub fn pull<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) -> Vec<KernelId> {
    const STEP: usize = 64;
    if resident.program.head.loans.is_empty() {
        return Vec::new();
    }
    let next = resident.pending.spaces().next();
    if let Some(space) = next {
        // First all pages are mapped where they lie, then they are copied.
        if let Ok(mut memory) = services.memory(resident, space) {
            // What is lost is noted, and ends the program.
            let _ = memory.map_pending(STEP * 16);
        }
        return Vec::new();
    }
    let Services { machine, frames, .. } = services;
    let mut more = false;
    for (id, space) in &mut resident.program.spaces {
        let Some(tables) = resident.tables.get_mut(id) else { continue };
        more |= !matches!(space.pull_step(machine, frames, tables, STEP), Ok(Progress::Done));
    }
    more |= !matches!(resident.program.objects.pull_step(machine, frames, STEP), Ok(Progress::Done));
    services.settle(resident);
    if more || resident.guard.foreign_frames() > 0 || resident.guard.is_on() && resident.guard.last.is_none() {
        return Vec::new();
    }
    // All pages are home, and no kept generation of the image names a frame of another kernel.
    core::mem::take(&mut resident.program.head.loans)
}

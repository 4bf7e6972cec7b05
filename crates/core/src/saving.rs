//! Taking a checkpoint: in one pause if little has changed, else in bounded steps between which the program and the kernel
//! go on (paper 2.2; D1, D10).
use crate::{process::SpaceId, protect, records, resident::Resident, services::Services};
use alloc::{collections::BTreeMap, format, vec::Vec};
use shimos_abi::{
    addr::Frame,
    control::{CheckpointStatus, Phases},
    time::Nanos,
};
use shimos_checkpoint::{PageKey, WriteError, Writer};
use shimos_hal::Machine;
use shimos_ikc::Home;
use shimos_memory::{Frames, ObjectChanges, PageSet};

/// Changed pages that one step deals with. What is left when there are no more than that is saved in the last pause.
pub(crate) const STEP: usize = 512;
/// Changed pages that are noted before they go into the page map.
const BATCH: usize = 256;
/// A checkpoint that is not finished after so many steps is finished in one pause, however long.
const MOST_STEPS: u32 = 16_384;
/// A program runs at least so many times as long as it stood still for the last checkpoint.
const SHARE: u64 = 3;
/// How long a checkpoint that failed is not tried again.
const RETRY: Nanos = Nanos::millis(100);

/// A generation under way: what its steps have saved so far.
#[derive(Default)]
pub struct Begun {
    steps: u32,
    pages: u32,
    spaces: BTreeMap<SpaceId, PageSet>,
    objects: ObjectChanges,
    /// The longest stop, and all of them together.
    longest: Nanos,
    total: Nanos,
    pace: Pace,
}

/// How long a program runs between the steps of one checkpoint: as long as a step takes, and less and less if it changes more
/// meanwhile than half of what a step saves. So every checkpoint comes to its end, whatever the program does.
#[derive(Default)]
struct Pace {
    /// Changed pages that the last step left.
    left: Option<usize>,
    /// How often its time was halved.
    halved: u32,
}

impl Pace {
    /// After so many halvings it hardly runs at all.
    const MOST: u32 = 10;

    /// A step for `size` pages took so long, and left so many: how long the program may run now.
    fn after_step(&mut self, size: usize, left: usize, took: Nanos) -> Nanos {
        let gained = self.left.is_none_or(|before| left.saturating_add(size / 2) <= before);
        if !gained && self.halved < Self::MOST {
            self.halved += 1;
        }
        self.left = Some(left);
        Nanos(took.0 >> self.halved)
    }
}

impl Begun {
    /// Pages of a space were saved.
    fn note(&mut self, id: SpaceId, pages: &PageSet) {
        match self.spaces.get_mut(&id) {
            Some(before) => before.merge(pages),
            None if pages.is_empty() => {}
            None => drop(self.spaces.insert(id, pages.clone())),
        }
    }
    /// Whether there was a step that was not the last.
    pub fn is_under_way(&self) -> bool {
        self.steps > 0
    }
}

/// How far a step has brought a checkpoint.
enum Step {
    /// There is more to save than one pause may take.
    More,
    /// What is left is saved when the program is stopped to leave.
    Prepared,
    /// The image is the program as it is now.
    Committed,
}

/// Tells how long each part took.
struct Stopwatch {
    last: Nanos,
}

impl Stopwatch {
    fn lap<M: Machine>(&mut self, services: &Services<M>) -> Nanos {
        let now = services.machine.now();
        now - core::mem::replace(&mut self.last, now)
    }
}

/// Takes a checkpoint, or a step of one, and releases the output that it covers. What went wrong is kept as the guard's
/// trouble.
pub fn checkpoint<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) {
    let Some(mut writer) = resident.guard.writer.take() else { return };
    let started = services.machine.now();
    let mut watch = Stopwatch { last: started };
    let mut phases = Phases::default();
    let mut begun = core::mem::take(&mut resident.guard.begun);
    let outcome = step(resident, services, &mut writer, &mut begun, (&mut watch, &mut phases));
    let interval = resident.program.head.protection.map_or(RETRY, |protection| protection.interval);
    match outcome {
        Ok(Step::More) => {
            let now = services.machine.now();
            let took = now - started;
            begun.steps += 1;
            begun.longest = begun.longest.max(took);
            begun.total = begun.total + took;
            let left = resident.program.changed_pages();
            // While pages are mapped that an image has, there are ever more to save.
            let mapping = !resident.pending.is_empty() && !writer.has_base();
            let runs = if mapping { took } else { begun.pace.after_step(services.save_step, left, took) };
            resident.guard.begun = begun;
            resident.guard.next = Some(now + runs);
        }
        Ok(Step::Prepared) => {
            resident.guard.begun = begun;
            resident.guard.next = None;
        }
        Ok(Step::Committed) => {
            claim_home(resident, services);
            protect::drop_before(resident, services);
            protect::release_held(resident, services);
            phases.release = watch.lap(services);
            let at = watch.last;
            let took = at - started;
            // What changes faster than it can be saved must not bring the program to a standstill.
            let least = Nanos((begun.total + took).0.saturating_mul(SHARE));
            resident.guard.remember(CheckpointStatus {
                epoch: writer.committed(),
                at,
                pause: begun.longest.max(took),
                pages: begun.pages,
                image_pages: writer.pages(),
                record_bytes: writer.record_bytes(),
                phases: Some(phases),
                stretched: (least > interval).then_some(least),
            });
            resident.guard.trouble = None;
            resident.guard.note_unswept();
            resident.guard.next = Some(at + interval.max(least));
        }
        Err(error) => {
            give_up(resident, services, &mut writer, &begun);
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

/// Whether all of a program's pages are in its own image or changed since.
fn is_home<M: Machine>(resident: &Resident<M>) -> bool {
    resident.pending.is_empty()
        && resident.program.objects.lent_pages() == 0
        && resident.program.spaces.values().all(|space| space.lent_pages() == 0)
}

/// Saves pages of a space that have come home, before the checkpoint that will have them: so that it has little to do.
pub(crate) fn save_ahead<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    id: SpaceId,
    pages: &PageSet,
) {
    save_some_ahead(resident, services, |resident, services, writer, (batch, begun)| {
        let (Some(space), Some(tables)) = (resident.program.spaces.get_mut(&id), resident.tables.get_mut(&id)) else {
            return Ok(());
        };
        let Services { machine, frames, .. } = services;
        let key = protect::space_key(id);
        space.collect_these(machine, tables, pages, |machine, page, frame| {
            batch.add(machine, frames, writer, (key, page.0, frame))
        })?;
        begun.note(id, pages);
        batch.flush(machine, frames, writer)
    });
}

/// The same for pages of objects, when there are many.
pub(crate) fn save_objects_ahead<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, many: usize) {
    if resident.program.objects.changed_pages() < many {
        return;
    }
    save_some_ahead(resident, services, |resident, services, writer, (batch, begun)| {
        let Services { machine, frames, .. } = services;
        for (id, space) in resident.program.spaces.some_mut(|_, space| space.is_to_be_saved()) {
            if let Some(tables) = resident.tables.get_mut(id) {
                space.protect_shared(machine, tables);
            }
        }
        let set = resident.program.objects.collect_some(many, |id, index, frame| {
            batch.add(machine, frames, writer, (protect::object_key(id), index, frame))
        })?;
        begun.objects.append(set);
        batch.flush(machine, frames, writer)
    });
}

/// Saves something before its checkpoint.
fn save_some_ahead<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    save: impl FnOnce(&mut Resident<M>, &mut Services<M>, &mut Writer, (&mut Batch, &mut Begun)) -> Result<(), WriteError>,
) {
    if !resident.guard.is_on() {
        return;
    }
    let Some(mut writer) = resident.guard.writer.take() else { return };
    let mut begun = core::mem::take(&mut resident.guard.begun);
    let mut batch = Batch { pages: core::mem::take(&mut resident.guard.batch), count: 0, tables: Nanos(0) };
    let ready = if writer.is_writing() { Ok(()) } else { writer.begin(&services.machine).map(drop) };
    let outcome = ready.and_then(|()| save(resident, services, &mut writer, (&mut batch, &mut begun)));
    batch.pages.clear();
    resident.guard.batch = batch.pages;
    resident.guard.begun = match outcome {
        Ok(()) => begun,
        Err(_) => {
            // The checkpoint finds what is the matter, and says so.
            give_up(resident, services, &mut writer, &begun);
            Begun::default()
        }
    };
    resident.guard.writer = Some(writer);
}

/// Takes a whole checkpoint now, however long it takes.
pub fn checkpoint_at_once<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>) {
    loop {
        checkpoint(resident, services);
        if !resident.guard.is_under_way() {
            return;
        }
    }
}

/// From the first commit on the image is here.
fn claim_home<M: Machine>(resident: &Resident<M>, services: &Services<M>) {
    let life = services.machine.identity().life;
    let area = services.ikc.area();
    let id = resident.program.head.id;
    let seen = area.home(id);
    let wanted = Home::committed(life);
    if seen != wanted && seen.life() == Some(life) {
        let _ = area.move_home(id, seen, wanted);
    }
}

/// Takes back what a generation has saved that will not be committed.
fn give_up<M: Machine>(resident: &mut Resident<M>, services: &mut Services<M>, writer: &mut Writer, begun: &Begun) {
    let _ = writer.abort(&mut services.machine, &mut services.frames);
    for (id, pages) in &begun.spaces {
        if let Some(space) = resident.program.spaces.get_mut(id) {
            space.restore_changes(pages);
        }
    }
    resident.program.objects.restore_changes(&begun.objects);
}

fn step<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    writer: &mut Writer,
    begun: &mut Begun,
    (watch, phases): (&mut Stopwatch, &mut Phases),
) -> Result<Step, WriteError> {
    let most = services.save_step;
    // Without a base every page is needed.
    let incomplete = resident.pending.spaces().next().filter(|_| !writer.has_base());
    if let Some(space) = incomplete
        && begun.steps < MOST_STEPS
    {
        // What is lost is noted, and ends the program.
        if let Ok(mut memory) = services.memory(resident, space) {
            let _ = memory.map_pending(most);
        }
    }
    if resident.pending.damage().is_some() {
        return Err(WriteError::OutOfTurn);
    }
    if !resident.pending.is_empty() && !writer.has_base() {
        // A space that can never be mapped must not keep the kernel busy for ever.
        return if begun.steps < MOST_STEPS { Ok(Step::More) } else { Err(WriteError::OutOfTurn) };
    }
    if !writer.is_writing() {
        writer.begin(&services.machine)?;
    }
    let left = resident.program.changed_pages();
    let last = left <= most || begun.steps >= MOST_STEPS;
    if last && resident.guard.only_prepares() {
        return Ok(Step::Prepared);
    }
    if last {
        // Of all threads only the one that ran last has registers that are not with it.
        if let Some(thread) = services.loaded.and_then(|tid| resident.program.threads.get_mut(&tid)) {
            services.machine.save_live(&mut thread.regs, &mut thread.fpu);
        }
        if is_home(resident) {
            writer.end_base();
        }
        for space in resident.guard.ended_spaces.drain(..) {
            writer.drop_key(protect::space_key(space));
        }
        for object in resident.program.objects.take_ended() {
            writer.drop_key(protect::object_key(object));
        }
    }
    phases.stop = watch.lap(services);
    let mut batch = Batch { pages: core::mem::take(&mut resident.guard.batch), count: 0, tables: Nanos(0) };
    let part = if last { usize::MAX } else { most };
    let collected = collect(resident, services, writer, &mut batch, (begun, part));
    phases.tables = batch.tables;
    phases.pages = watch.lap(services) - batch.tables;
    begun.pages = begun.pages.saturating_add(batch.count);
    batch.pages.clear();
    resident.guard.batch = batch.pages;
    collected?;
    if !last {
        return Ok(Step::More);
    }
    let buffer = core::mem::take(&mut resident.guard.buffer);
    let bytes = records::encode(&resident.program, buffer);
    let stored = writer.records(&mut services.machine, &mut services.frames, &bytes);
    resident.guard.buffer = bytes;
    stored?;
    phases.records = watch.lap(services);
    writer.commit(&mut services.machine, &mut services.frames)?;
    phases.commit = watch.lap(services);
    Ok(Step::Committed)
}

/// Changed pages on their way into the page map: what they are is noted first, so that both parts can be timed.
struct Batch {
    pages: Vec<(PageKey, u64, Option<Frame>)>,
    count: u32,
    tables: Nanos,
}

impl Batch {
    fn add<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        writer: &mut Writer,
        page: (PageKey, u64, Option<Frame>),
    ) -> Result<(), WriteError> {
        self.pages.push(page);
        if self.pages.len() < BATCH { Ok(()) } else { self.flush(machine, frames, writer) }
    }

    fn flush<M: Machine>(
        &mut self,
        machine: &mut M,
        frames: &mut Frames,
        writer: &mut Writer,
    ) -> Result<(), WriteError> {
        let start = machine.now();
        let outcome = writer.put(machine, frames, &self.pages);
        self.count += self.pages.len() as u32;
        self.pages.clear();
        outcome?;
        self.tables = self.tables + (machine.now() - start);
        Ok(())
    }
}

/// Saves about so many changed pages and notes them in `begun`.
fn collect<M: Machine>(
    resident: &mut Resident<M>,
    services: &mut Services<M>,
    writer: &mut Writer,
    batch: &mut Batch,
    (begun, mut left): (&mut Begun, usize),
) -> Result<(), WriteError> {
    let Services { machine, frames, .. } = services;
    for (id, space) in resident.program.spaces.some_mut(|_, space| space.is_to_be_saved()) {
        let Some(tables) = resident.tables.get_mut(id) else { continue };
        let key = protect::space_key(*id);
        // Stores by shared mappings are noticed again from here on, as their objects' pages are saved below.
        space.protect_shared(machine, tables);
        if left == 0 || space.changed_pages() == 0 {
            continue;
        }
        let set = space.collect_some(machine, tables, left, |machine, page, frame| {
            batch.add(machine, frames, writer, (key, page.0, frame))
        })?;
        left = left.saturating_sub(set.len());
        begun.note(*id, &set);
    }
    let set = resident.program.objects.collect_some(left, |id, index, frame| {
        batch.add(machine, frames, writer, (protect::object_key(id), index, frame))
    })?;
    begun.objects.append(set);
    batch.flush(machine, frames, writer)
}

#[cfg(test)]
mod tests {
    use super::{Nanos, Pace};

    /// A program that changes `rate` pages in the time in which one is saved, of `all` that it has.
    fn steps_until_done(size: usize, all: usize, rate: f64) -> usize {
        let (mut pace, mut left, mut steps) = (Pace::default(), all, 0);
        while left > size {
            left -= size;
            let took = Nanos(size as u64 * 1000);
            let runs = pace.after_step(size, left, took);
            assert!(runs <= took);
            left = all.min(left + (runs.0 as f64 / 1000.0 * rate) as usize);
            steps += 1;
            assert!(steps < 10_000, "rate {rate}: it never ends");
        }
        steps
    }

    #[test]
    fn a_checkpoint_ends_however_fast_pages_change() {
        assert_eq!(steps_until_done(512, 100_000, 0.0), 195);
        for rate in [0.1, 0.4, 0.9, 1.0, 2.0, 10.0, 50.0, 200.0] {
            let steps = steps_until_done(512, 100_000, rate);
            assert!(steps <= 500, "rate {rate}: {steps} steps");
        }
    }

    #[test]
    fn who_changes_little_is_not_slowed_down() {
        let mut pace = Pace::default();
        for left in [10_000, 9_600, 9_200, 8_900] {
            assert_eq!(pace.after_step(512, left, Nanos(77)), Nanos(77));
        }
        assert_eq!(pace.after_step(512, 8_850, Nanos(77)), Nanos(38));
    }
}

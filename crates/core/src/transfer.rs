//! Programs on their way out of the machine and into it: what `checkpoint save` reads and `checkpoint restore` writes.
//!
//! Both are one stream of bytes, asked for and brought in pieces: the program's records, then the list of its pages (key
//! and number of each), then the pages. What makes a file of it, with checksums, is the host's tool.
use crate::{
    files::Kind, kernel::Kernel, levels::Revival, pressure, process::SpaceId, program::Program, protect, records,
    resident::Resident, thread::Call,
};
use alloc::{
    boxed::Box,
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};
use shimos_abi::{
    addr::{Frame, PAGE, UserPage},
    control::{Level, Response, Transfer},
    ids::{KernelId, ProgramId},
    time::Nanos,
};
use shimos_checkpoint::Image;
use shimos_hal::{FrameSource, Machine};
use shimos_ikc::Home;
use shimos_memory::{Adopted, ObjectId};

/// Bytes of a page in the list: key and number.
const ENTRY: usize = 12;
/// Pages of a program that can be saved or restored: what one turn of the event loop may list.
const MAX_PAGES: usize = 1 << 15;
/// Bytes of records.
const MAX_RECORDS: usize = 4 << 20;
/// Bytes that one answer brings to a program here, and by way of another kernel.
const PART: usize = 28 << 10;
const PART_BY_PACKET: usize = 1800;
/// After so long without a request nobody is interested any more.
const PATIENCE: Nanos = Nanos::secs(30);
/// Frames that are left when a program is restored.
const SPARE: usize = 1024;

/// A program as it was at one moment, being read.
pub(crate) struct Export {
    what: Transfer,
    /// Records and list.
    front: Vec<u8>,
    frames: Vec<Frame>,
    used: Nanos,
}

/// A program that is being brought.
pub(crate) struct Import {
    what: Transfer,
    front: Vec<u8>,
    frames: Vec<Frame>,
    /// Bytes that have come.
    got: u64,
    used: Nanos,
}

/// What is being read and brought here.
#[derive(Default)]
pub(crate) struct Transfers {
    exports: BTreeMap<ProgramId, Export>,
    imports: BTreeMap<ProgramId, Import>,
}

fn front_bytes(what: &Transfer) -> usize {
    what.records as usize + what.pages as usize * ENTRY
}

impl<M: Machine> Kernel<M> {
    /// Keeps a program as it is now, to be read.
    pub(crate) fn save(&mut self, program: ProgramId) -> Response {
        match self.export(program) {
            Ok(what) => Response::Transfer(what),
            Err(why) => *why,
        }
    }

    fn export(&mut self, program: ProgramId) -> Result<Transfer, Box<Response>> {
        let again =
            || Box::new(Response::Again(format!("program {program} is on its way to another kernel: try again")));
        let failed = |why: String| Box::new(Response::Failed(format!("program {program} cannot be saved: {why}")));
        self.drop_export(program);
        self.write_registers_back();
        let now = self.services.machine.now();
        let resident = self.residents.get_mut(&program).ok_or_else(again)?;
        if resident.is_coming_home() || self.moves.has(program) {
            return Err(again());
        }
        let pages = resident.program.owned_pages();
        if pages > MAX_PAGES {
            let (has, most) = (pages / 256, MAX_PAGES / 256);
            return Err(failed(format!("it has {has} MiB, and {most} MiB can be saved")));
        }
        let level = resident.program.head.level();
        let kept = protect::checkpoint_to_leave(resident, &mut self.services, &self.slots);
        self.teardowns.extend(protect::take_replaced(resident));
        let listed = kept.and_then(|()| self.list_pages(program));
        if let Some(resident) = self.residents.get_mut(&program) {
            self.teardowns.extend(protect::stay(resident, &mut self.services));
        }
        if level == Level::Restart {
            let _ = self.begin_level(program, level);
        }
        self.answer_protected(program);
        let (front, records, frames) = listed.map_err(failed)?;
        let what = Transfer { program, time: now, records: records as u32, pages: frames.len() as u32 };
        self.transfers.exports.insert(program, Export { what, front, frames, used: now });
        Ok(what)
    }

    /// Records and list, the size of the former, and the frames of the pages, which are held.
    fn list_pages(&mut self, program: ProgramId) -> Result<(Vec<u8>, usize, Vec<Frame>), String> {
        let Some(resident) = self.residents.get(&program) else { return Err("it has ended".to_string()) };
        let services = &mut self.services;
        let pool = services.machine.identity().pool;
        let image = Image::open(&services.machine, pool, &[], program).map_err(|error| error.to_string())?;
        let mut front = records::encode(&resident.program, Vec::new());
        let records = front.len();
        if records > MAX_RECORDS {
            return Err("it has too many objects".to_string());
        }
        let spaces = resident.program.spaces.keys().map(|id| protect::space_key(*id));
        let objects = resident.program.objects.iter().map(|(id, _)| protect::object_key(id));
        let mut frames: Vec<Frame> = Vec::new();
        for key in spaces.chain(objects) {
            let mut cursor = image.cursor(&services.machine, key).map_err(|error| error.to_string())?;
            while let Some(page) = cursor.next(&services.machine, &image) {
                match page {
                    Ok((page, saved)) if frames.len() < MAX_PAGES => {
                        services.frames.share(saved.frame);
                        frames.push(saved.frame);
                        front.extend_from_slice(&key.0.to_le_bytes());
                        front.extend_from_slice(&page.to_le_bytes());
                    }
                    other => {
                        frames.into_iter().for_each(|frame| services.frames.release(frame));
                        return Err(other.map_or_else(|error| error.to_string(), |_| "it is too large".to_string()));
                    }
                }
            }
        }
        Ok((front, records, frames))
    }

    /// The bytes of a program that was kept, from a place on.
    pub(crate) fn saved_part(&mut self, program: ProgramId, from: u64, asker: KernelId) -> Response {
        let now = self.services.machine.now();
        let Some(export) = self.transfers.exports.get_mut(&program) else {
            return Response::Failed(format!("program {program} is not being saved any more: begin anew"));
        };
        export.used = now;
        let most = if asker == self.me.kernel { PART } else { PART_BY_PACKET };
        let mut bytes = Vec::new();
        let mut at = from;
        while bytes.len() < most {
            let left = most - bytes.len();
            let before = bytes.len();
            if let Some(rest) = usize::try_from(at).ok().and_then(|at| export.front.get(at..)).filter(|r| !r.is_empty())
            {
                bytes.extend(rest.iter().take(left));
            } else {
                let place = at - export.front.len() as u64;
                let (index, offset) = ((place / PAGE as u64) as usize, (place % PAGE as u64) as usize);
                let Some(frame) = export.frames.get(index) else { break };
                bytes.resize(before + left.min(PAGE - offset), 0);
                if let Some(into) = bytes.get_mut(before..) {
                    self.services.machine.read_frame(*frame, offset, into);
                }
            }
            at += (bytes.len() - before) as u64;
        }
        if bytes.is_empty() {
            // All was read.
            self.drop_export(program);
        }
        Response::Part(bytes)
    }

    fn drop_export(&mut self, program: ProgramId) {
        if let Some(export) = self.transfers.exports.remove(&program) {
            export.frames.into_iter().for_each(|frame| self.services.frames.release(frame));
        }
    }

    /// Begins to take a program in. Its number must be free: process ids and address hang on it.
    pub(crate) fn begin_restore(&mut self, what: Transfer) -> Response {
        let program = what.program;
        let failed = |why: String| Response::Failed(format!("the program cannot be restored: {why}"));
        self.drop_import(program);
        if what.records as usize > MAX_RECORDS || what.pages as usize > MAX_PAGES {
            return failed("it is larger than this build can restore".to_string());
        }
        if self.services.frames.free_count() < what.pages as usize + SPARE.min(self.services.frames.total() / 8) {
            return failed(format!("there is no room: it needs {} MiB", what.pages.div_ceil(256)));
        }
        if program.0 == 0 || self.services.ikc.area().move_home(program, Home::Free, Home::Held(self.me)).is_err() {
            return failed(format!("a program with its number, {program}, runs here: end that first"));
        }
        self.loan_returned(program);
        let used = self.services.machine.now();
        let import = Import { what, front: Vec::new(), frames: Vec::new(), got: 0, used };
        self.transfers.imports.insert(program, import);
        Response::Done
    }

    /// Takes bytes of a program in. Those that have come already are no harm.
    pub(crate) fn restore_part(&mut self, program: ProgramId, from: u64, bytes: &[u8]) -> Response {
        let now = self.services.machine.now();
        let gone = || Response::Failed(format!("program {program} is not being restored here any more: begin anew"));
        let Some(import) = self.transfers.imports.get_mut(&program) else { return gone() };
        import.used = now;
        let known = import.got.checked_sub(from).and_then(|known| usize::try_from(known).ok());
        let Some(mut rest) = known.and_then(|known| bytes.get(known..)) else {
            return Response::Failed("the parts of a program come in order".to_string());
        };
        let front = front_bytes(&import.what);
        let all = front as u64 + u64::from(import.what.pages) * PAGE as u64;
        while !rest.is_empty() {
            let step = if import.front.len() < front {
                let step = rest.len().min(front - import.front.len());
                import.front.extend_from_slice(&rest[..step]);
                step
            } else if import.got < all {
                let offset = ((import.got - front as u64) % PAGE as u64) as usize;
                if offset == 0 {
                    let Some(frame) = self.services.frames.take() else {
                        return Response::Failed("no memory is left".to_string());
                    };
                    import.frames.push(frame);
                }
                let step = rest.len().min(PAGE - offset);
                if let Some(frame) = import.frames.last() {
                    self.services.machine.write_frame(*frame, offset, &rest[..step]);
                }
                step
            } else {
                return Response::Failed("there is more of the program than was said".to_string());
            };
            import.got += step as u64;
            rest = &rest[step..];
        }
        Response::Done
    }

    /// All has come: the program goes on here.
    pub(crate) fn end_restore(&mut self, program: ProgramId) -> Response {
        let outcome = self.assemble(program);
        self.drop_import(program);
        self.publish();
        match outcome {
            Ok(closed) => Response::Restored { program, pid: program.first_pid(), kernel: self.me.kernel, closed },
            Err(why) => {
                if !self.residents.contains_key(&program) {
                    let _ = self.services.ikc.area().move_home(program, Home::Held(self.me), Home::Free);
                }
                Response::Failed(format!("the program cannot be restored: {why}"))
            }
        }
    }

    fn assemble(&mut self, program: ProgramId) -> Result<u32, String> {
        let Some(import) = self.transfers.imports.remove(&program) else {
            return Err("it is not being restored here any more: begin anew".to_string());
        };
        let outcome = self.take_in(&import);
        import.frames.into_iter().for_each(|frame| self.services.frames.release(frame));
        outcome
    }

    fn take_in(&mut self, import: &Import) -> Result<u32, String> {
        let Transfer { program, time, records, pages } = import.what;
        let now = self.services.machine.now();
        if import.frames.len() != pages as usize
            || import.got != front_bytes(&import.what) as u64 + u64::from(pages) * PAGE as u64
        {
            return Err("a part of it has not come".to_string());
        }
        let (bytes, list) = import.front.split_at_checked(records as usize).ok_or("its records are cut off")?;
        let machine = &self.services.machine;
        let read = records::decode_bytes(bytes, program, |bytes| pressure::has_heap(machine, bytes));
        let mut saved = read.map_err(|unreadable| unreadable.why().to_string())?;
        let there = self.residents.values().map(|resident| resident.program.tree.image());
        if !self.services.image.iter().chain(there).any(|image| image == saved.tree.image()) {
            return Err("its root image is not that of this machine".to_string());
        }
        let name = saved.head.name.clone();
        if self.is_name_taken(&name) {
            return Err(format!("a program named '{name}' runs here: end that first"));
        }
        saved.objects.forget_mapped();
        for space in saved.spaces.values() {
            space.count_mapped(&mut saved.objects);
        }
        let level = saved.head.level();
        make_new(&mut saved, time, now);
        let mut resident = Resident::new(saved);
        let closed = resident.program.net.reset_connections(now);
        // Their peers are in another network.
        while resident.program.net.take_frame().is_some() {}
        if let Err(why) = self.take_pages(&mut resident, list, &import.frames) {
            self.drop_resident(&mut resident);
            return Err(why);
        }
        let root = resident.program.tree.image();
        self.services.blocks.note_image(root.start(), root.block_count());
        resident.program.net.after_takeover(now);
        self.limit_memory(&resident);
        self.residents.insert(program, resident);
        let _ = self.begin_level(program, level);
        self.services.log(&format!("program {name} is restored from a file; {closed} connections are closed"));
        Ok(closed as u32)
    }

    fn take_pages(&mut self, resident: &mut Resident<M>, list: &[u8], pages: &[Frame]) -> Result<(), String> {
        let contradiction = || "its pages contradict its records".to_string();
        let services = &mut self.services;
        let ids: Vec<SpaceId> = resident.program.spaces.keys().copied().collect();
        for id in &ids {
            let tables =
                services.machine.new_space(&mut services.frames).map_err(|_| "no memory is left".to_string())?;
            resident.tables.insert(*id, tables);
        }
        let spaces: BTreeMap<u32, SpaceId> = ids.iter().map(|id| (protect::space_key(*id).0, *id)).collect();
        let objects: BTreeMap<u32, ObjectId> =
            resident.program.objects.iter().map(|(id, _)| (protect::object_key(id).0, id)).collect();
        for (entry, frame) in list.chunks_exact(ENTRY).zip(pages) {
            let (key, page) = entry.split_first_chunk::<4>().ok_or_else(contradiction)?;
            let page = page.first_chunk::<8>().map(|page| u64::from_le_bytes(*page)).ok_or_else(contradiction)?;
            let key = u32::from_le_bytes(*key);
            if let Some(id) = objects.get(&key) {
                let taken = resident.program.objects.adopt(&mut services.frames, *id, page, *frame);
                taken.map_err(|_| contradiction())?;
                continue;
            }
            let id = spaces.get(&key).ok_or_else(contradiction)?;
            let (Some(space), Some(tables)) = (resident.program.spaces.get_mut(id), resident.tables.get_mut(id)) else {
                return Err(contradiction());
            };
            if space.mappings().find(UserPage(page)).is_some_and(|vma| vma.name == "[vdso]")
                && let Some(image) = &services.vdso
            {
                // The clock of this machine.
                services.machine.write_frame(*frame, 0, image.get(..PAGE).unwrap_or(image));
            }
            let (machine, frames) = (&mut services.machine, &mut services.frames);
            let taken = space.adopt(machine, frames, tables, UserPage(page), *frame, Adopted::Unsaved);
            taken.map_err(|_| contradiction())?;
        }
        Ok(())
    }

    fn drop_import(&mut self, program: ProgramId) {
        if let Some(import) = self.transfers.imports.remove(&program) {
            import.frames.into_iter().for_each(|frame| self.services.frames.release(frame));
            let _ = self.services.ikc.area().move_home(program, Home::Held(self.me), Home::Free);
        }
    }

    /// Forgets what nobody has asked for any more.
    pub(crate) fn expire_transfers(&mut self, now: Nanos) {
        let late = |used: Nanos| now >= used + PATIENCE;
        let exports = self.transfers.exports.values().filter(|export| late(export.used));
        let exports: Vec<ProgramId> = exports.map(|export| export.what.program).collect();
        exports.into_iter().for_each(|program| self.drop_export(program));
        let imports = self.transfers.imports.values().filter(|import| late(import.used));
        let imports: Vec<ProgramId> = imports.map(|import| import.what.program).collect();
        imports.into_iter().for_each(|program| self.drop_import(program));
    }
}

/// Makes a program one of this machine: its clock, and nothing of the kernels that it was on.
fn make_new(program: &mut Program, then: Nanos, now: Nanos) {
    let moved = |at: Nanos| if at == Nanos::NEVER { at } else { now + (at - then) };
    for thread in program.threads.values_mut() {
        if let Some(Call { deadline: Some(deadline), .. }) = &mut thread.call {
            *deadline = moved(*deadline);
        }
    }
    program.shift_timers(moved);
    for process in program.processes.values_mut() {
        process.started = now;
    }
    program.held.clear();
    let head = &mut program.head;
    head.started = now;
    head.loans.clear();
    head.crashes = None;
    head.protection = None;
    head.revival = Revival::Never;
    for description in program.descriptions.values_mut() {
        match &mut description.kind {
            Kind::Shimos(_, conversation) => conversation.pending = conversation.pending.map(|_| 0),
            Kind::Process(_, started) => *started = now,
            _ => {}
        }
    }
}

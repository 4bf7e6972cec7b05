//! Takeover: a program goes on here from the image in a dead kernel's reserved memory (paper 2.2, 2.6).
use crate::{
    kernel::Kernel,
    levels::Revival,
    pressure,
    process::SpaceId,
    program::Held,
    protect,
    records::{self, Unreadable},
    resident::Resident,
    rollback::{self, Crashes, Fallen},
};
use alloc::{
    format,
    rc::Rc,
    string::{String, ToString},
    vec::Vec,
};
use shimos_abi::{
    addr::FrameRange,
    control::{Cause, Device, Integrity, KernelState, Level, Output, Takeover},
    ids::{Epoch, KernelId, Life, ProgramId},
    time::Nanos,
};
use shimos_checkpoint::{Image, ImageError};
use shimos_hal::{Machine, Scrub};
use shimos_ikc::Home;
use shimos_monitor::Refusal;

/// A program that changes its kernel.
pub(crate) struct Handover {
    pub program: ProgramId,
    /// Where it lived.
    pub from: Life,
    /// Whose memory holds its image.
    pub image: KernelId,
    /// Its home word.
    pub seen: Home,
    /// When that was ordered.
    pub ordered: Nanos,
    pub cause: Cause,
    /// Only generations before this one can be used.
    pub below: Option<Epoch>,
    /// What is left of it, if it goes back on its own kernel.
    pub fallen: Option<Fallen>,
    /// What is to be said of it.
    pub notes: Vec<String>,
}

impl Handover {
    fn new(program: ProgramId, from: Life, image: KernelId, seen: Home, ordered: Nanos, cause: Cause) -> Handover {
        Handover { program, from, image, seen, ordered, cause, below: None, fallen: None, notes: Vec::new() }
    }
}

/// A program that goes on here.
pub(crate) struct Adopted {
    /// The generation that it goes on from.
    pub epoch: Epoch,
    /// Whether output was released that came after that generation.
    pub is_behind: bool,
}

/// Why a generation is not used.
enum Unfit {
    /// None of them would do.
    Refused(Refusal),
    /// This one is damaged.
    Damaged(String),
}

impl From<Refusal> for Unfit {
    fn from(refusal: Refusal) -> Unfit {
        Unfit::Refused(refusal)
    }
}

/// Free frames that a taker must have beyond the image's pages.
const SPARE_FRAMES: usize = 1024;

impl<M: Machine> Kernel<M> {
    /// Takes a program over from the dead life `from`.
    pub(crate) fn take_over(&mut self, program: ProgramId, from: Life, ordered: Nanos) -> Result<(), Refusal> {
        let me = self.services.machine.identity().life;
        let area = self.services.ikc.area();
        let seen = area.home(program);
        let (Some(life), Some(image)) = (seen.life(), seen.image()) else { return Err(Refusal::BadImage) };
        if life == me {
            // Done already.
            return Ok(());
        }
        if life != from {
            return Err(Refusal::Busy);
        }
        if let Home::Protected { falls: 1.., .. } = seen {
            // It had no checkpoint since it was taken over last: code that kills whoever executes it is one reason for that.
            self.services.scrub(Scrub::All);
        }
        // The proof, from the parked core itself; or this very core was that kernel and has booted since.
        if from.kernel != me.kernel {
            match self.services.machine.confirm_parked(from) {
                Some(fenced) => self.services.machine.map_dead(&fenced),
                // It has found the image and keeps it.
                None if self.lives_again(from) => self.services.machine.map_lent(from.kernel),
                None => return Err(Refusal::Busy),
            }
        }
        if image != me.kernel && image != from.kernel {
            self.services.machine.map_lent(image);
        }
        let cause = if area.ended_at_reset(from) { Cause::Reset } else { Cause::Death };
        let mut handover = Handover::new(program, from, image, seen, ordered, cause);
        let outcome = self.adopt(&mut handover).map(drop);
        if outcome.is_err() {
            self.unmap_unused(from.kernel);
            self.unmap_unused(image);
        }
        outcome
    }

    /// Whether the kernel of a life that is over runs again.
    fn lives_again(&self, from: Life) -> bool {
        let area = self.services.ikc.area();
        area.parked(from.kernel).is_none()
            && area.incarnation(from.kernel).is_some_and(|now| now > from.incarnation)
            && area.state(from.kernel) == KernelState::Running
    }

    /// Takes a program that the living kernel `from` offers.
    pub(crate) fn take_offered(&mut self, program: ProgramId, from: Life) -> Result<(), Refusal> {
        let me = self.services.machine.identity().life;
        let seen = self.services.ikc.area().home(program);
        if seen != (Home::Offered { life: from, to: me.kernel }) {
            // It is here already, or the offer was taken back.
            return Ok(());
        }
        let ordered = self.services.machine.now();
        self.services.machine.map_lent(from.kernel);
        let mut handover = Handover::new(program, from, from.kernel, seen, ordered, Cause::Move);
        let outcome = self.adopt(&mut handover).map(drop);
        match outcome {
            // Who waits for the program looks here.
            Ok(()) => self.publish(),
            Err(_) => self.unmap_unused(from.kernel),
        }
        outcome
    }

    /// Takes a program from the newest generation that is whole.
    pub(crate) fn adopt(&mut self, handover: &mut Handover) -> Result<Adopted, Refusal> {
        let (program, image_kernel) = (handover.program, handover.image);
        loop {
            let pool = self.pool_of(image_kernel);
            let lent: Vec<FrameRange> =
                (0..self.services.machine.identity().kernels).map(|k| self.pool_of(KernelId(k as u16))).collect();
            let opened = Image::open_below(&self.services.machine, pool, &lent, program, handover.below);
            let image = opened.map_err(|error| {
                self.services.log(&format!("program {program}: image in {image_kernel} cannot be read: {error}"));
                if error == ImageError::OutOfMemory { Refusal::NoRoom } else { Refusal::BadImage }
            })?;
            if let Some(error) = image.passed_over() {
                self.services.log(&format!("program {program}: newest generation passed over: {error}"));
                handover.notes.push(format!("newest generation passed over: {error}"));
            }
            let epoch = image.epoch();
            match self.adopt_from(image, handover) {
                Ok(adopted) => return Ok(adopted),
                Err(Unfit::Refused(refusal)) => return Err(refusal),
                Err(Unfit::Damaged(why)) => {
                    let told = format!("generation {} passed over: {why}", epoch.0);
                    self.services.log(&format!("program {program}: {told}"));
                    handover.notes.push(told);
                    handover.below = Some(epoch);
                }
            }
        }
    }

    fn adopt_from(&mut self, mut image: Image, handover: &mut Handover) -> Result<Adopted, Unfit> {
        let Handover { program, from, image: image_kernel, seen, cause, .. } = *handover;
        let me = self.services.machine.identity().life;
        let mut head = records::decode_head(&image).map_err(|error| Unfit::Damaged(error.0.to_string()))?;
        if cause == Cause::Death
            && let Err(why) = self.judge(&mut head, from, self.services.machine.now())
        {
            self.give_up(program, seen, Some(head.name), &why);
            // The monitor looks at the home word before it asks another.
            return Err(Refusal::Busy.into());
        }
        if head.revival == Revival::Restart && matches!(cause, Cause::Death | Cause::Reset) {
            if head.id != program {
                return Err(Refusal::BadImage.into());
            }
            self.start_again(head, from.kernel, image_kernel, seen)?;
            return Ok(Adopted { epoch: image.epoch(), is_behind: false });
        }
        if head.protection.is_some_and(|protection| protection.integrity == Integrity::Pages) {
            image.check_contents();
        }
        // A rollback gives one up itself.
        if head.protection.is_some() && cause != Cause::Rollback && !self.slots.has_room(&self.services.machine) {
            return Err(Refusal::NoRoom.into());
        }
        for owner in head.loans.iter().filter(|owner| **owner != me.kernel && **owner != from.kernel) {
            self.services.machine.map_lent(*owner);
        }
        image.open_bases(&self.services.machine).map_err(|error| Unfit::Damaged(error.to_string()))?;
        // Pages that lie in this kernel's own memory are here already; others will come.
        let to_come = if image_kernel == me.kernel { 0 } else { image.page_count() as usize };
        let spare = SPARE_FRAMES.min(self.services.frames.total() / 8);
        if self.services.frames.free_count() < to_come.saturating_add(spare) {
            return Err(Refusal::NoRoom.into());
        }
        let machine = &self.services.machine;
        let read = records::decode_program(&image, program, |bytes| pressure::has_heap(machine, bytes));
        let mut saved = read.map_err(|unreadable| match unreadable {
            Unreadable::Bad(error) => Unfit::Damaged(error.0.to_string()),
            Unreadable::NoRoom => Unfit::Refused(Refusal::NoRoom),
        })?;
        saved.objects.forget_mapped();
        for space in saved.spaces.values() {
            space.count_mapped(&mut saved.objects);
        }
        for owner in [image_kernel, from.kernel] {
            if owner != me.kernel && !saved.head.loans.contains(&owner) {
                saved.head.loans.push(owner);
            }
        }
        saved.head.guilt = head.guilt;
        match cause {
            Cause::Death | Cause::Reset => saved.head.takeovers = saved.head.takeovers.saturating_add(1),
            Cause::Move => saved.head.moves = saved.head.moves.saturating_add(1),
            Cause::Rollback => {}
        }
        let epoch = image.epoch();
        let newest = handover.fallen.as_ref().map_or(Epoch(0), |fallen| fallen.newest).max(image.newest());
        let free = handover.fallen.as_ref().is_some_and(|fallen| fallen.output == Output::Free);
        let is_behind = epoch < newest || free;
        if let Some(fallen) = &handover.fallen {
            rollback::catch_up(&mut saved, fallen);
            saved.head.crashes = fallen.crashes.map(|crashes| Crashes { used: epoch, ..crashes });
        }
        let mut resident = Resident::new(saved);
        let image = Rc::new(image);
        if let Err(unfit) = self.adopt_pages(&mut resident, &image) {
            self.drop_resident(&mut resident);
            return Err(unfit);
        }
        handover.notes.extend(image.take_mended().map(|mend| mend.to_string()));
        // The one store that decides: from here on the program lives here.
        let home = match resident.program.head.protection {
            Some(_) => seen.moved_to(me),
            // The image was for this one time.
            None => Home::Held(me),
        };
        if self.services.ikc.area().move_home(program, seen, home).is_err() {
            self.drop_resident(&mut resident);
            return Err(Refusal::Busy.into());
        }
        let adopted = Adopted { epoch, is_behind };
        self.start_adopted(resident, &image, handover, (&adopted, newest));
        Ok(adopted)
    }

    fn adopt_pages(&mut self, resident: &mut Resident<M>, image: &Rc<Image>) -> Result<(), Unfit> {
        let full = |_| Unfit::Refused(Refusal::NoRoom);
        let damaged = |error: ImageError| Unfit::Damaged(error.to_string());
        let services = &mut self.services;
        for id in resident.program.spaces.keys().copied() {
            let tables = services.machine.new_space(&mut services.frames).map_err(|_| Refusal::NoRoom)?;
            resident.tables.insert(id, tables);
            resident.pending.add(&services.machine, image, id).map_err(damaged)?;
        }
        let objects: Vec<_> = resident.program.objects.iter().map(|(id, _)| id).collect();
        for id in objects {
            let mut cursor = image.cursor(&services.machine, protect::object_key(id)).map_err(damaged)?;
            while let Some(page) = cursor.next(&services.machine, image) {
                let (index, page) = page.map_err(damaged)?;
                let frame = page.hold(&mut services.machine, &mut services.frames).ok_or(Refusal::NoRoom)?;
                let taken = resident.program.objects.adopt(&mut services.frames, id, index, frame);
                // The object has a reference of its own.
                services.frames.release(frame);
                taken.map_err(full)?;
            }
        }
        Ok(())
    }

    fn start_adopted(
        &mut self,
        mut resident: Resident<M>,
        image: &Image,
        handover: &mut Handover,
        (adopted, newest): (&Adopted, Epoch),
    ) {
        let Handover { from, ordered, cause, .. } = *handover;
        let epoch: Epoch = image.epoch();
        let id = resident.program.head.id;
        let now = self.services.machine.now();
        let root = resident.program.tree.image();
        self.services.blocks.note_image(root.start(), root.block_count());
        if adopted.is_behind {
            // What was sent since cannot be taken back: who has heard it must not go on with this program.
            resident.program.held.clear();
            self.skip_printed(&mut resident);
            let reset = resident.program.net.reset_connections(now);
            handover.notes.push(format!("behind released output: {reset} connections reset"));
        } else {
            // Its peers must hear from it at once. Half-open connections are answered anew: not twice.
            resident.program.held.retain(|Held::Packet(frame)| !shimos_net::answers_opening(frame));
            resident.program.net.after_takeover(now);
        }
        protect::release_held(&mut resident, &mut self.services);
        if let Err(error) = protect::resume(&mut resident, &mut self.services, &self.slots, (image, newest)) {
            self.services.log(&format!("program {id}: runs without protection: {error:?}"));
            // What nobody will commit must not wait for it.
            self.teardowns.extend(protect::unprotect(&mut resident, &mut self.services));
        }
        protect::flush_network(&mut resident, &mut self.services);
        let note = (!handover.notes.is_empty()).then(|| handover.notes.join("; "));
        if let Some(note) = &note {
            self.services.log(&format!("program {id}: {note}"));
        }
        self.takeovers.push_back(Takeover {
            program: id,
            from,
            to: self.services.machine.identity().life.kernel,
            epoch,
            ordered,
            first_instruction: Nanos(0),
            home: Nanos(0),
            pages: image.page_count(),
            cause,
            note,
        });
        self.newcomers.retain(|newcomer| *newcomer != id && self.residents.contains_key(newcomer));
        self.newcomers.push_back(id);
        while self.takeovers.len() > 16 {
            self.takeovers.pop_front();
        }
        let life = self.services.machine.identity().life;
        self.limit_memory(&resident);
        let level = resident.program.head.level();
        self.residents.insert(id, resident);
        if level == Level::Restart {
            // It was moved; the order has to be kept here from now on.
            let _ = self.begin_level(id, level);
        }
        self.services.log(&format!("program {id} goes on here ({life}) from epoch {} of {from}", epoch.0));
    }

    /// A console that an earlier generation finds further on than it knows.
    fn skip_printed(&self, resident: &mut Resident<M>) {
        if let Some(owner) = self.services.owner(Device::Console) {
            let (id, stream) = (resident.program.head.id, resident.program.head.started.0);
            resident.program.terminal.skip_to(self.services.ikc.area().printed(owner, id, stream));
        }
    }

    /// The frames of a kernel's pool, as it said itself: a bound for what its images may name; what can be read is
    /// decided by the machine.
    pub(crate) fn pool_of(&self, kernel: KernelId) -> FrameRange {
        if kernel == self.services.machine.identity().life.kernel {
            return self.services.machine.identity().pool;
        }
        self.services.ikc.area().pool(kernel)
    }

    /// Unmaps a peer's memory unless a program here still uses it.
    pub(crate) fn unmap_unused(&mut self, peer: KernelId) {
        let used = self.residents.values().any(|resident| resident.program.head.loans.contains(&peer));
        if !used && peer != self.services.machine.identity().life.kernel {
            self.services.machine.unmap_peer(peer);
        }
    }

    /// Gives everything of a program back that was not started.
    pub(crate) fn drop_resident(&mut self, resident: &mut Resident<M>) {
        let spaces: Vec<SpaceId> = resident.program.spaces.keys().copied().collect();
        for space in spaces {
            self.services.drop_space(resident, space);
        }
        resident.program.objects.destroy(&mut self.services.frames);
    }
}

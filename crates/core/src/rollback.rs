//! A program goes back to an earlier generation on the kernel it is on: as it crashed, or as a page of the image that it came
//! from turned out to be damaged.
//!
//! The image stays as it is, as after the death of a kernel, and the program is taken from it once more. It is kept until the
//! program has run for a while: who crashes again before that goes one generation further back.
use crate::{
    files::Kind,
    kernel::Kernel,
    pending::{Damage, Lost},
    program::{Head, Program},
    protect,
    signal::Signal,
    takeover::Handover,
    terminal::Terminal,
};
use alloc::{
    format,
    string::{String, ToString},
};
use minicbor::{Decode, Encode};
use shimos_abi::{
    control::{Cause, OnCrash, Output},
    ids::{Epoch, KernelId, ProgramId},
    time::Nanos,
};
use shimos_hal::Machine;
use shimos_ikc::Home;

/// Who crashes again within this time has not got over it.
const PROBATION: Nanos = Nanos::secs(10);
/// The number of no request: its answer is lost.
const LOST_REQUEST: u64 = 0;

/// The crashes of a program that it has not got over.
#[derive(Clone, Copy, Debug, Encode, Decode)]
pub struct Crashes {
    /// How many in a row.
    #[n(0)]
    pub count: u32,
    /// When the last one was.
    #[n(1)]
    pub at: Nanos,
    /// The generation that it went back to.
    #[n(2)]
    pub used: Epoch,
}

/// What is left of a program that goes back.
pub(crate) struct Fallen {
    /// Its console, as far as its output has left.
    pub terminal: Terminal,
    /// What it had committed.
    pub newest: Epoch,
    /// Whether it has sent what no generation covers.
    pub output: Output,
    /// How often it went back before.
    pub rollbacks: u32,
    /// Its crashes, this one included.
    pub crashes: Option<Crashes>,
    /// The signal of its crash.
    pub signal: Option<Signal>,
}

/// Why a program goes back.
enum Reason {
    Crash(Signal),
    Damage(Damage),
}

impl Reason {
    fn told(&self) -> String {
        match self {
            Reason::Crash(signal) => format!("it crashed by signal {}", signal.number()),
            Reason::Damage(Damage { lost: Lost::Image(error), .. }) => error.to_string(),
            Reason::Damage(Damage { lost: Lost::Memory, .. }) => "its image contradicts itself".to_string(),
        }
    }
}

impl Head {
    /// Whether it has crashed a short time ago: the generations before that are still kept.
    pub fn on_probation(&self, now: Nanos) -> bool {
        self.crashes.is_some_and(|crashes| now < crashes.at + PROBATION)
    }
}

/// The signal of a crash, if that is how a program ended. Signals by which others end a program are none.
fn crash_of(status: u32) -> Option<Signal> {
    let crashes = [Signal::ILL, Signal::TRAP, Signal::ABRT, Signal::BUS, Signal::FPE, Signal::SEGV, Signal::SYS];
    crashes.into_iter().find(|signal| status & 0x7f == u32::from(signal.number()))
}

impl<M: Machine> Kernel<M> {
    /// Lets a program that has crashed, or lost pages of its image, go back if it may. It ends otherwise.
    pub(crate) fn go_back_if_due(&mut self, id: ProgramId) {
        let Some(resident) = self.residents.get(&id) else { return };
        let head = &resident.program.head;
        let Some(protection) = head.protection else { return };
        let now = self.services.machine.now();
        let (reason, below, crashes) = match (resident.pending.damage(), resident.ended) {
            // Who touched the page may have died of it.
            (Some(damage), status) if status.is_none_or(|status| status == u32::from(Signal::BUS.number())) => {
                (Reason::Damage(damage), Some(damage.epoch), head.crashes)
            }
            (_, Some(status)) => {
                let OnCrash::Rollback { limit } = protection.on_crash else { return };
                let Some(signal) = crash_of(status) else { return };
                let before = head.crashes.filter(|_| head.on_probation(now));
                let count = before.map_or(0, |before| before.count).saturating_add(1);
                if count > limit {
                    let name = head.name.clone();
                    self.services.log(&format!("program {name} has crashed {count} times in a row: it ends"));
                    self.end_for_good(id);
                    return;
                }
                let used = before.map(|before| before.used);
                (Reason::Crash(signal), used, Some(Crashes { count, at: now, used: used.unwrap_or(Epoch(0)) }))
            }
            _ => return,
        };
        if let Err(why) = self.go_back(id, &reason, below, crashes) {
            let told = reason.told();
            self.services.log(&format!("program {id}: {told}; it cannot go back: {why}"));
            self.end_for_good(id);
        }
    }

    /// No further attempts.
    fn end_for_good(&mut self, id: ProgramId) {
        if let Some(resident) = self.residents.get_mut(&id) {
            if let Some(protection) = &mut resident.program.head.protection {
                protection.on_crash = OnCrash::Stop;
            }
            resident.ended.get_or_insert(Signal::BUS.number().into());
        }
    }

    fn go_back(
        &mut self,
        id: ProgramId,
        reason: &Reason,
        below: Option<Epoch>,
        crashes: Option<Crashes>,
    ) -> Result<(), &'static str> {
        let seen = self.services.ikc.area().home(id);
        let Home::Protected { life, image, falls } = seen else { return Err("it has no image") };
        if life != self.me {
            return Err("it has no image");
        }
        let (mut image, mut seen) = (image, seen);
        if let Reason::Damage(damage) = reason {
            // What was committed here may be based on the damaged generation: what is before that is where that lies.
            let kernels = (0..self.services.machine.identity().kernels).map(|kernel| KernelId(kernel as u16));
            let found = kernels.into_iter().find(|kernel| self.pool_of(*kernel).first == damage.head);
            let holder = found.ok_or("its image is nowhere")?;
            if holder != image {
                // Until it has a checkpoint of its own it would be taken from there once more.
                let word = Home::Protected { life, image: holder, falls };
                self.services.ikc.area().move_home(id, seen, word).map_err(|_| "it is not here")?;
                (image, seen) = (holder, word);
            }
        }
        // Registers of its threads may still be in the processor: they are not those that will be loaded.
        self.write_registers_back();
        let Some(mut fallen) = self.residents.remove(&id) else { return Err("it is not here") };
        // What it asks after that is asked anew.
        self.services.requests.forget_program(id);
        let head = &fallen.program.head;
        let state = Fallen {
            terminal: fallen.program.terminal.clone(),
            newest: fallen.guard.last.map_or(Epoch(0), |last| last.epoch),
            output: head.protection.map_or(Output::Free, |protection| protection.output),
            rollbacks: head.rollbacks,
            crashes,
            signal: match reason {
                Reason::Crash(signal) => Some(*signal),
                Reason::Damage(_) => None,
            },
        };
        let mut handover = Handover {
            program: id,
            from: self.me,
            image,
            seen,
            ordered: self.services.machine.now(),
            cause: Cause::Rollback,
            below,
            fallen: Some(state),
            notes: [reason.told()].into(),
        };
        let mut adopted = self.adopt(&mut handover);
        if adopted.is_err() && matches!(reason, Reason::Crash(_)) && below.is_some() {
            // There is none further back: the oldest once more.
            handover.below = below.map(|below| Epoch(below.0.saturating_add(1)));
            adopted = self.adopt(&mut handover);
        }
        let adopted = match adopted {
            Ok(adopted) => adopted,
            Err(_) => {
                self.residents.insert(id, fallen);
                return Err("there is no generation that can be used");
            }
        };
        if adopted.is_behind {
            // Peers are told with the numbers that they know.
            fallen.program.held.clear();
            let now = self.services.machine.now();
            fallen.program.net.reset_connections(now);
            while let Some(frame) = fallen.program.net.take_frame() {
                crate::device::network::send(&mut self.services, frame);
            }
        }
        self.teardowns.extend(protect::set_aside(&mut fallen, &mut self.services, adopted.epoch));
        self.put_away(fallen);
        self.publish();
        Ok(())
    }
}

/// What an earlier generation of a program must be told of the time since.
pub(crate) fn catch_up(program: &mut Program, fallen: &Fallen) {
    // What has left is in the console's stream for good.
    let terminal = &fallen.terminal;
    if terminal.released >= program.terminal.written {
        let left = terminal.released.saturating_sub(terminal.printed());
        program.terminal.unprinted = terminal.unprinted.clone();
        program.terminal.unprinted.0.truncate(left as usize);
        program.terminal.written = terminal.released;
        program.terminal.released = terminal.released;
    }
    if let Some(signal) = fallen.signal {
        // It may have been on its way already when the generation was saved.
        let init = program.init();
        program
            .processes
            .values_mut()
            .filter(|process| process.pid == init)
            .for_each(|process| process.pending.discard(signal));
        program
            .threads
            .values_mut()
            .filter(|thread| thread.process == init)
            .for_each(|thread| thread.pending.discard(signal));
    }
    program.head.rollbacks = fallen.rollbacks.saturating_add(1);
    for description in program.descriptions.values_mut() {
        if let Kind::Shimos(_, conversation) = &mut description.kind {
            // It was answered, or will be, to nobody.
            conversation.pending = conversation.pending.map(|_| LOST_REQUEST);
        }
    }
}

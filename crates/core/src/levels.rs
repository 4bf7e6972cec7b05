//! Reliability levels: what happens to a program when its kernel dies.
//!
//! *Off*: it dies as well. *Restart*: it is started again elsewhere from the beginning, by the order that started it.
//! *Checkpoint*: it goes on from its last checkpoint. A level can be changed while the program runs.
use crate::{create::Starting, exceptions::exceptions, guilt::Guilt, kernel::Kernel, program::Head, protect, saving};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use minicbor::{Decode, Encode};
use shimos_abi::{
    control::{Level, Response, Start, Strictness},
    ids::{KernelId, ProgramId},
};
use shimos_hal::Machine;
use shimos_ikc::Home;
use shimos_monitor::Refusal;

/// What is done with a program that has no checkpoints when its kernel dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum Revival {
    /// Nothing: it is gone.
    #[n(0)]
    #[default]
    Never,
    /// It is started again from the beginning.
    #[n(1)]
    Restart,
}

/// What a program that is started again brings from its earlier life.
#[derive(Clone, Copy, Debug)]
pub struct Again {
    /// How often it was started again, this time included.
    pub restarts: u32,
    /// Whose memory holds the order until there is a new image.
    pub lender: KernelId,
    /// Deaths of kernels that it seems to have provoked.
    pub guilt: Option<Guilt>,
}

impl Head {
    /// The level.
    pub fn level(&self) -> Level {
        match (self.protection, self.revival) {
            (Some(protection), _) => Level::Checkpoint(protection),
            (None, Revival::Restart) => Level::Restart,
            (None, Revival::Never) => Level::Off,
        }
    }
}

/// The order to be kept for a program: without what is only for its first start.
pub fn order_of(start: &Start) -> Start {
    Start { kernel: None, protection: None, level: None, strictness: Strictness::Tell, ..start.clone() }
}

impl<M: Machine> Kernel<M> {
    /// Changes the level of a program that lives here. No answer means that whoever asks is answered when the next checkpoint
    /// has committed or failed: from then on the program is safe.
    pub(crate) fn set_level(
        &mut self,
        program: ProgramId,
        level: Level,
        strictness: Strictness,
        asker: Option<(u64, KernelId)>,
    ) -> Option<Response> {
        if let Level::Checkpoint(protection) = level
            && let Err(why) = crate::control::check(protection)
        {
            return Some(Response::Failed(why));
        }
        let Some(resident) = self.residents.get_mut(&program) else {
            return Some(Response::Again(format!("program {program} is on its way to another kernel: try again")));
        };
        let before = resident.program.head.level();
        let same_kind = matches!((before, level), (Level::Checkpoint(_), Level::Checkpoint(_)));
        if before == level && !same_kind {
            return Some(Response::Protected { program, exceptions: Vec::new() });
        }
        // What was saved for a move is of no use with another level.
        self.abandon_preparation(program);
        let resident = self.residents.get_mut(&program)?;
        if strictness == Strictness::Refuse && matches!(level, Level::Checkpoint(_)) {
            let exceptions = exceptions(resident, asker.map(|(number, _)| number));
            if !exceptions.is_empty() {
                let what = exceptions.join("; ");
                return Some(Response::Failed(format!("not all of program {program} can be protected: {what}")));
            }
        }
        if !same_kind {
            let told = Response::Failed(format!("program {program} got another level meanwhile"));
            for waiting in core::mem::take(&mut resident.guard.waiting) {
                self.answer(waiting, &told);
            }
        }
        let resident = self.residents.get_mut(&program)?;
        let outcome = match level {
            Level::Off => {
                self.teardowns.extend(protect::unprotect(resident, &mut self.services));
                Ok(())
            }
            Level::Restart => self.keep_order(program),
            Level::Checkpoint(protection) => {
                match protect::protect(resident, &mut self.services, &self.slots, protection) {
                    Err(error) => Err(format!("there is no room for an image: {error:?}")),
                    Ok(()) => {
                        resident.guard.waiting.extend(asker);
                        saving::checkpoint(resident, &mut self.services);
                        self.answer_protected(program);
                        return None;
                    }
                }
            }
        };
        self.publish();
        Some(match outcome {
            Ok(()) => Response::Protected { program, exceptions: Vec::new() },
            Err(why) => Response::Failed(why),
        })
    }

    /// Keeps the order that started a program where it outlives this kernel.
    fn keep_order(&mut self, program: ProgramId) -> Result<(), String> {
        let Some(resident) = self.residents.get_mut(&program) else { return Err("the program has ended".to_string()) };
        if resident.program.head.order.is_none() {
            return Err("it is not known how it was started: it comes from an older build".to_string());
        }
        let kept = protect::keep_order(resident, &mut self.services, &self.slots);
        self.teardowns.extend(protect::take_replaced(resident));
        kept.map_err(|error| format!("there is no room for an image: {error:?}"))
    }

    /// Gives a program that has just started, or come here, the level that its order or its head asks for.
    /// Says why it does not have it, if it does not.
    pub(crate) fn begin_level(&mut self, program: ProgramId, level: Level) -> Result<(), String> {
        let outcome = match level {
            Level::Off => Ok(()),
            Level::Restart => self.keep_order(program),
            Level::Checkpoint(_) => match self.set_level(program, level, Strictness::Tell, None) {
                Some(Response::Failed(why)) => Err(why),
                _ => {
                    self.residents.get(&program).and_then(|resident| resident.guard.trouble.clone()).map_or(Ok(()), Err)
                }
            },
        };
        if let Err(why) = &outcome {
            self.services.log(&format!("program {program} is not protected: {why}"));
        }
        outcome
    }

    /// Begins to start a program of a dead kernel again.
    pub(crate) fn start_again(
        &mut self,
        head: Head,
        from: KernelId,
        image: KernelId,
        seen: Home,
    ) -> Result<(), Refusal> {
        let order = head.order.ok_or(Refusal::BadImage)?;
        if order.argv.first().is_none_or(String::is_empty) {
            return Err(Refusal::BadImage);
        }
        // The order stays where it is until the program has an image of its own here.
        self.services.ikc.area().move_home(head.id, seen, seen.moved_to(self.me)).map_err(|_| Refusal::Busy)?;
        let restarts = head.restarts.saturating_add(1);
        self.services.log(&format!("program {} is started again here, after the death of {from}", head.name));
        let start = Start { level: Some(Level::Restart), ..order.into_inner() };
        let since = self.services.machine.now();
        self.starting.push(Starting::again(
            head.id,
            start,
            since,
            Again { restarts, lender: image, guilt: head.guilt },
        ));
        Ok(())
    }
}

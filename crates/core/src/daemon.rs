//! What the daemons of this kernel say to those of others, and what they have it do.
use crate::{
    bench::{Ball, Mode},
    control,
    kernel::Kernel,
    orders::Order,
    resident::Resident,
};
use alloc::{format, vec::Vec};
use minicbor::{Decode, Encode};
use shimos_abi::{
    ids::{KernelId, Life, ProgramId},
    shared::Queue,
};
use shimos_hal::Machine;
use shimos_ikc::Quarantine;
use shimos_monitor::{Action, Freed, Refusal, Work};

/// A message between daemons.
#[derive(Debug, Encode, Decode)]
pub enum Message {
    /// Park yourself, if this is you.
    #[n(0)]
    Park(#[n(0)] Life),
    /// Restart command: take this over.
    #[n(1)]
    Order {
        /// What.
        #[n(0)]
        work: Work,
        /// From whom.
        #[n(1)]
        from: Life,
        /// In which term it was said.
        #[n(2)]
        term: u32,
    },
    /// I cannot.
    #[n(2)]
    Refused {
        /// What.
        #[n(0)]
        work: Work,
        /// From whom.
        #[n(1)]
        from: Life,
        /// Why.
        #[n(2)]
        why: Refusal,
    },
    /// The program needs your frames no more.
    #[n(3)]
    Return(#[n(0)] ProgramId),
    /// I still lend you frames for this program: if it needs them no more, return them. (Said now and then, so that a lost
    /// `Return` does not keep frames for ever.)
    #[n(8)]
    Lent(#[n(0)] ProgramId),
    /// A control request that is yours to work on.
    #[n(4)]
    Request(#[n(0)] u64, #[cbor(n(1), with = "minicbor::bytes")] Vec<u8>),
    /// Its answer.
    #[n(5)]
    Answer(#[n(0)] u64, #[cbor(n(1), with = "minicbor::bytes")] Vec<u8>),
    /// Measure with me.
    #[n(6)]
    Bench {
        /// What.
        #[n(0)]
        mode: Mode,
        /// How often.
        #[n(1)]
        rounds: u32,
    },
    /// A packet of a measurement.
    #[n(7)]
    Ball(#[n(0)] Ball),
    /// Take this from me, who gives it up.
    #[n(9)]
    Offer(#[n(0)] Work),
    /// This life broke the rules of a packet queue, and nothing it says there is heard any more.
    #[n(11)]
    Broken(#[n(0)] Life),
    /// I cannot take what you offer.
    #[n(10)]
    Declined {
        /// What.
        #[n(0)]
        work: Work,
        /// Why.
        #[n(1)]
        why: Refusal,
    },
}

impl<M: Machine> Kernel<M> {
    /// Sends a message; one that cannot be sent is lost, and whoever waits for its effect asks again.
    pub(crate) fn tell(&mut self, to: KernelId, message: &Message) {
        if let Ok(bytes) = minicbor::to_vec(message)
            && let Err(error) = self.services.send(to, Queue::Daemon, &[&bytes])
        {
            self.services.log(&format!("message to {to} not sent: {error:?}"));
        }
    }

    /// A message has come.
    pub(crate) fn hear(&mut self, from: Life, message: Message) {
        match message {
            Message::Park(life) => {
                let monitor = self.services.ikc.area().election().monitor;
                if life == self.me && monitor == from.kernel {
                    self.services.machine.park();
                }
            }
            Message::Order { work, from: dead, term } => {
                self.take_order(Order { work, dead, term, by: from.kernel });
            }
            Message::Refused { work, from: dead, why } => self.monitor.refused(work, dead, from.kernel, why),
            Message::Broken(life) => self.monitor.condemn(life),
            Message::Return(program) => self.loan_returned(program),
            Message::Lent(program) => {
                let done = |resident: &Resident<M>| !resident.program.head.loans.contains(&from.kernel);
                if self.residents.get(&program).is_some_and(done) {
                    self.tell(from.kernel, &Message::Return(program));
                }
            }
            Message::Request(number, bytes) => {
                let answer = self.serve(number, from.kernel, &bytes);
                if let Some(answer) = answer {
                    self.tell(from.kernel, &Message::Answer(number, control::encode(&answer)));
                }
            }
            Message::Answer(number, bytes) => self.answered(number, bytes),
            Message::Bench { mode, rounds } => self.answer_bench(from.kernel, mode, rounds),
            // The measurement is over.
            Message::Ball(_) => {}
            Message::Offer(work) => {
                if let Err(why) = self.accept(work, from) {
                    self.tell(from.kernel, &Message::Declined { work, why });
                }
            }
            Message::Declined { work, why } => self.declined(work, from, why),
        }
    }

    /// Does what the monitor daemon asks for.
    pub(crate) fn act(&mut self, action: Action) {
        let area = self.services.ikc.area();
        match action {
            Action::Acknowledge { kernel, stamp } => self.services.ikc.acknowledge(kernel, stamp),
            Action::Claim { kernel, from, to } => {
                let _ = area.move_claim(kernel, from, to);
            }
            Action::Probe(kernel) => self.services.machine.send_nmi(kernel),
            Action::AskToPark(life) => self.tell(life.kernel, &Message::Park(life)),
            Action::Nmi(life) => {
                area.set_fence_word(life);
                self.services.machine.send_nmi(life.kernel);
            }
            Action::Init(life) => {
                area.set_fence_word(life);
                self.services.machine.send_init(life.kernel);
            }
            Action::Order { work, from, target, term } => {
                if target == self.me {
                    self.take_order(Order { work, dead: from, term, by: self.me.kernel });
                } else {
                    self.tell(target.kernel, &Message::Order { work, from, term });
                }
            }
            Action::FreeHome { program, home, why } => {
                let reason = match why {
                    Freed::Unsaved => "there was no checkpoint of it: it died with its kernel",
                    Freed::Lost => "no kernel can read its image",
                    Freed::Deadly => "one kernel after the other died under it before its next checkpoint",
                };
                self.give_up(program, home, None, reason);
            }
            Action::Restart(life) => {
                if let Some(fenced) = self.services.machine.confirm_parked(life) {
                    self.services.ikc.forget(life);
                    let next = self.services.machine.restart(fenced);
                    self.services.log(&format!("{life} is restarted as {next}"));
                }
            }
            Action::Quarantine(kernel) if area.is_quarantined(kernel) => {}
            Action::Quarantine(kernel) => {
                area.set_quarantined(kernel, Quarantine::Begin);
                self.services.log(&format!(
                    "a device of {kernel} does not confirm its reset: {kernel} gives up the memory that it may write"
                ));
            }
            Action::Log(text) => self.services.log(&text),
        }
    }
}

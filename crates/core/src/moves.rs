//! Planned moves: a program goes on in another kernel because the administrator wants it to, without a rollback.
//!
//! The program is stopped, its last checkpoint is taken and its output leaves. Then its home word offers it to the chosen
//! kernel, which takes it from the image as it would take it from a dead kernel. One compare-and-swap decides: the taker's,
//! or that of this kernel when it takes the offer back. So there never are two living copies, whoever dies meanwhile.
use crate::{
    daemon::Message,
    device::{claim::has_ended, network},
    kernel::Kernel,
    pressure, protect,
    protect::Leaving,
    resident::{Key, Resident},
};
use alloc::{
    boxed::Box,
    collections::VecDeque,
    format,
    string::{String, ToString},
    vec::Vec,
};
use shimos_abi::{
    control::{KernelState, Level, MoveStatus},
    ids::{KernelId, Life, ProgramId},
    time::Nanos,
};
use shimos_hal::Machine;
use shimos_ikc::Home;
use shimos_memory::space::Progress;
use shimos_monitor::{Refusal, Work};

/// After so long an offer is repeated: the message may have been lost.
const REPEAT: Nanos = Nanos::millis(100);
/// After so long without an answer an offer is taken back.
const PATIENCE: Nanos = Nanos::secs(5);
/// How long a program that waits for the answer to a control request is not moved.
const COURTESY: Nanos = Nanos::secs(2);
/// After so long a program that changes its pages faster than they can be saved is stopped all the same.
const PREPARATION: Nanos = Nanos::secs(10);
/// Frames that are kept for a program that is stopped. What comes then is dropped, as a full queue of a network does.
const FRAMES: usize = 1024;
/// Moves that are remembered.
const HISTORY: usize = 16;

/// The moves of programs that live here.
pub struct Moves<M: Machine> {
    under_way: Vec<Move<M>>,
    over: VecDeque<MoveStatus>,
    /// Programs that live elsewhere now, and what is still to be freed of them here.
    departed: Vec<Resident<M>>,
}

struct Move<M: Machine> {
    status: MoveStatus,
    to: Life,
    stage: Stage<M>,
    /// Frames that have come while the program is stopped.
    frames: VecDeque<Vec<u8>>,
}

/// How far a move is.
enum Stage<M: Machine> {
    /// The program runs until it can be stopped: pages of it are on their way here from an earlier home.
    Waiting,
    /// It is stopped, and offered.
    Offered { resident: Box<Resident<M>>, asked: Nanos },
}

/// What became of an offer.
enum Answer {
    /// None yet.
    Open,
    /// The program lives elsewhere.
    Taken,
    /// It does not, and this is why.
    Failed(String),
}

impl<M: Machine> Default for Moves<M> {
    fn default() -> Moves<M> {
        Moves { under_way: Vec::new(), over: VecDeque::new(), departed: Vec::new() }
    }
}

impl<M: Machine> Moves<M> {
    /// Whether nothing is being moved, and nothing is left of what was.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.departed.is_empty()
    }
    /// Whether a program is being moved.
    pub fn has(&self, program: ProgramId) -> bool {
        self.under_way.iter().any(|moving| moving.status.program == program)
    }
    /// How many are being moved.
    pub fn count(&self) -> usize {
        self.under_way.len()
    }
    /// All moves that are known, the latest last.
    pub fn told(&self) -> impl Iterator<Item = MoveStatus> + '_ {
        self.over.iter().chain(self.under_way.iter().map(|moving| &moving.status)).cloned()
    }
    /// Keeps a frame for the programs that are stopped and take it. It will come to them alone. Says whether one did.
    pub fn keep_frame(&mut self, frame: &[u8]) -> bool {
        let mut kept = false;
        for moving in &mut self.under_way {
            let program = moving.status.program;
            let stopped = matches!(moving.stage, Stage::Offered { .. });
            if stopped && network::is_for(frame, program) && !network::is_from(frame, program) {
                kept = true;
                if moving.frames.len() < FRAMES {
                    moving.frames.push_back(network::readdressed(frame, program));
                }
            }
        }
        kept
    }
    /// A program that is stopped for its move.
    pub fn stopped(&self, name: &str) -> Option<ProgramId> {
        self.under_way.iter().find_map(|moving| match &moving.stage {
            Stage::Offered { resident, .. } if resident.program.head.name == name => Some(moving.status.program),
            _ => None,
        })
    }
}

impl<M: Machine> Kernel<M> {
    /// The life of a kernel that may be given programs.
    pub(crate) fn may_take(&self, kernel: KernelId) -> Result<Life, String> {
        let area = self.services.ikc.area();
        let kernels = self.services.machine.identity().kernels;
        if kernel.index() >= kernels {
            return Err(format!("there is no kernel {kernel}: they are k0 to k{}", kernels - 1));
        }
        if area.is_rebooting(kernel) {
            return Err(format!("{kernel} is about to be given a fresh life: wait for that"));
        }
        if area.is_drained(kernel) {
            return Err(format!("{kernel} is drained: let programs come again by 'kernel undrain {kernel}'"));
        }
        let running = area.parked(kernel).is_none() && area.state(kernel) == KernelState::Running;
        match area.incarnation(kernel) {
            Some(incarnation) if running => Ok(Life { kernel, incarnation }),
            _ => Err(format!("{kernel} does not run now: see 'status'")),
        }
    }

    /// Begins to move a program that lives here.
    pub(crate) fn begin_move(&mut self, program: ProgramId, kernel: KernelId) -> Result<(), String> {
        let to = self.may_take(kernel)?;
        let Some(resident) = self.residents.get(&program) else {
            return Err(format!("program {program} is on its way to another kernel: try again"));
        };
        let name = &resident.program.head.name;
        if kernel == self.me.kernel {
            return Err(format!("program '{name}' is on {kernel} already"));
        }
        if self.moves.has(program) {
            return Err(format!("program '{name}' is being moved already: see 'status'"));
        }
        if resident.ended.is_some() {
            return Err(format!("program '{name}' has ended"));
        }
        let pages: usize = resident.program.spaces.values().map(shimos_memory::AddressSpace::owned_pages).sum();
        let free = self.services.ikc.area().free_frames(kernel);
        if free < pages as u64 {
            let mebibytes = |pages: u64| pages.div_ceil(256);
            let (needs, has) = (mebibytes(pages as u64), mebibytes(free));
            return Err(format!("there is no room: '{name}' needs {needs} MiB, {kernel} has {has} MiB free"));
        }
        let asked = self.services.machine.now();
        let status = MoveStatus { program, to: kernel, asked, stopped: Nanos(0), over: Nanos(0), failed: None };
        self.moves.under_way.push(Move { status, to, stage: Stage::Waiting, frames: VecDeque::new() });
        Ok(())
    }

    /// Goes on with all moves.
    pub(crate) fn go_on_moving(&mut self) {
        if let Some(left) = self.moves.departed.last_mut()
            && pressure::step(left, &mut self.services) == Progress::Done
        {
            self.moves.departed.pop();
        }
        let mut rest = Vec::new();
        for mut moving in core::mem::take(&mut self.moves.under_way) {
            match self.step_move(&mut moving) {
                Answer::Open => rest.push(moving),
                Answer::Taken => self.finish(moving, None),
                Answer::Failed(why) => self.finish(moving, Some(why)),
            }
        }
        self.moves.under_way.append(&mut rest);
    }

    fn step_move(&mut self, moving: &mut Move<M>) -> Answer {
        let now = self.services.machine.now();
        let program = moving.status.program;
        match &mut moving.stage {
            Stage::Waiting => {
                let Some(resident) = self.residents.get(&program).filter(|resident| resident.ended.is_none()) else {
                    return Answer::Failed("the program has ended".to_string());
                };
                match self.may_take(moving.to.kernel) {
                    Err(why) => return Answer::Failed(why),
                    Ok(life) if life != moving.to => return Answer::Failed(format!("{} has died", moving.to)),
                    Ok(_) => {}
                }
                // Who has asked for something, perhaps for this move, is answered first.
                let asks =
                    !crate::exceptions::exceptions(resident, None).is_empty() && now < moving.status.asked + COURTESY;
                if asks || resident.is_coming_home() {
                    return Answer::Open;
                }
                match self.prepare(program) {
                    Err(why) => return Answer::Failed(why),
                    Ok(Leaving::NotYet) if now < moving.status.asked + PREPARATION => return Answer::Open,
                    Ok(_) => {}
                }
                match self.offer(program, moving.to) {
                    Err(why) => Answer::Failed(why),
                    Ok(resident) => {
                        moving.status.stopped = now;
                        moving.stage = Stage::Offered { resident: Box::new(resident), asked: now };
                        self.publish();
                        self.tell(moving.to.kernel, &Message::Offer(Work::Program(program)));
                        Answer::Open
                    }
                }
            }
            Stage::Offered { asked, .. } => {
                let offered = Home::Offered { life: self.me, to: moving.to.kernel };
                if self.services.ikc.area().home(program) != offered {
                    return Answer::Taken;
                }
                if has_ended(&self.services, moving.to) {
                    return Answer::Failed(format!("{} has died", moving.to));
                }
                if now >= moving.status.stopped + PATIENCE {
                    return Answer::Failed(format!("{} does not answer", moving.to));
                }
                if now >= *asked + REPEAT {
                    *asked = now;
                    self.tell(moving.to.kernel, &Message::Offer(Work::Program(program)));
                }
                Answer::Open
            }
        }
    }

    /// Saves pages of a program that is to leave while it still runs.
    fn prepare(&mut self, program: ProgramId) -> Result<Leaving, String> {
        let Some(resident) = self.residents.get_mut(&program) else { return Err("the program has ended".to_string()) };
        protect::prepare_to_leave(resident, &mut self.services, &self.slots)
    }

    /// Stops a program, takes its last checkpoint and offers it.
    fn offer(&mut self, program: ProgramId, to: Life) -> Result<Resident<M>, String> {
        self.write_registers_back();
        let Some(resident) = self.residents.get_mut(&program) else { return Err("the program has ended".to_string()) };
        let level = resident.program.head.level();
        let saved = protect::checkpoint_to_leave(resident, &mut self.services, &self.slots);
        self.teardowns.extend(protect::take_replaced(resident));
        self.answer_protected(program);
        let Some(resident) = self.residents.get_mut(&program) else { return Err("the program has ended".to_string()) };
        let area = self.services.ikc.area();
        let seen = area.home(program);
        let offered = Home::Offered { life: self.me, to: to.kernel };
        let outcome = saved.and_then(|()| {
            let moved =
                if seen.life() == Some(self.me) { area.move_home(program, seen, offered).is_ok() } else { false };
            if moved { Ok(()) } else { Err("its home word has changed".to_string()) }
        });
        match outcome {
            Ok(()) => self.residents.remove(&program).ok_or_else(|| "the program has ended".to_string()),
            Err(why) => {
                self.teardowns.extend(protect::stay(resident, &mut self.services));
                if level == Level::Restart {
                    let _ = self.begin_level(program, level);
                }
                Err(why)
            }
        }
    }

    /// A move is over.
    fn finish(&mut self, mut moving: Move<M>, failed: Option<String>) {
        let program = moving.status.program;
        let mut failed = failed;
        if let Stage::Offered { resident, .. } = moving.stage {
            let mut resident = *resident;
            let offered = Home::Offered { life: self.me, to: moving.to.kernel };
            let back = Home::committed(self.me);
            // Whoever changes the word first has the program.
            if self.services.ikc.area().move_home(program, offered, back).is_ok() {
                let level = resident.program.head.level();
                self.teardowns.extend(protect::stay(&mut resident, &mut self.services));
                for number in self.services.requests.answered(program) {
                    resident.wake(Key::Control(number));
                }
                self.residents.insert(program, resident);
                if level == Level::Restart {
                    let _ = self.begin_level(program, level);
                }
                failed.get_or_insert_with(|| "the offer was not taken".to_string());
            } else {
                failed = None;
                self.services.requests.forget_program(program);
                self.depart(resident);
            }
        } else {
            self.abandon_preparation(program);
        }
        // What came while it was stopped finds it where it is now.
        for frame in moving.frames {
            network::send(&mut self.services, frame);
        }
        moving.status.over = self.services.machine.now();
        match &failed {
            None => self.services.log(&format!("program {program} has moved to {}", moving.to)),
            Some(why) => {
                self.services.log(&format!("program {program} is not moved to {}: {why}", moving.to));
                self.note_refusal(moving.to.kernel, why.clone());
            }
        }
        moving.status.failed = failed;
        self.moves.over.push_back(moving.status);
        while self.moves.over.len() > HISTORY {
            self.moves.over.pop_front();
        }
        self.publish();
    }

    /// A program does not leave after all: what was saved for that goes.
    pub(crate) fn abandon_preparation(&mut self, program: ProgramId) {
        let Some(resident) = self.residents.get_mut(&program) else { return };
        if !resident.guard.only_prepares() {
            return;
        }
        let level = resident.program.head.level();
        self.teardowns.extend(protect::stay(resident, &mut self.services));
        if level == Level::Restart {
            let _ = self.begin_level(program, level);
        }
    }

    /// A program lives elsewhere now: its image stays until the taker needs it no more, all else goes.
    fn depart(&mut self, mut resident: Resident<M>) {
        self.teardowns.extend(protect::lend(&mut resident, &mut self.services));
        self.put_away(resident);
    }

    /// Frees a program that goes on without this copy of it.
    pub(crate) fn put_away(&mut self, mut resident: Resident<M>) {
        let spaces: Vec<_> = resident.program.spaces.keys().copied().collect();
        for space in spaces {
            self.services.drop_space(&mut resident, space);
        }
        resident.program.objects.abandon();
        resident.closing.clear();
        self.moves.departed.push(resident);
    }

    /// Another kernel offers something.
    pub(crate) fn accept(&mut self, work: Work, from: Life) -> Result<(), Refusal> {
        match work {
            Work::Program(program) => {
                // It may be coming back before it was noticed that it had gone.
                self.go_on_moving();
                self.take_offered(program, from)
            }
            Work::Device(device) => self.take_device(device, from),
        }
    }

    /// Another kernel does not take what was offered to it.
    pub(crate) fn declined(&mut self, work: Work, by: Life, why: Refusal) {
        let why = match why {
            Refusal::NoRoom => format!("{by} has no room for it"),
            Refusal::BadImage => format!("{by} cannot read its image"),
            Refusal::Device => format!("{by} cannot drive it"),
            Refusal::Busy => format!("{by} cannot take it now"),
        };
        match work {
            Work::Program(program) => {
                let offered = |moving: &Move<M>| {
                    moving.status.program == program && moving.to == by && matches!(moving.stage, Stage::Offered { .. })
                };
                if let Some(at) = self.moves.under_way.iter().position(offered) {
                    let moving = self.moves.under_way.remove(at);
                    self.finish(moving, Some(why));
                }
            }
            Work::Device(device) => self.device_declined(device, by, &why),
        }
    }
}

//! Control requests: what an administrator asks by /dev/shimos, answered here or by the kernel whose business it is.
use crate::{
    daemon::Message,
    delivery,
    exceptions::exceptions,
    kernel::{Dying, Kernel},
    requests::{Loss, order_for},
    resident::Key,
    signal::{Info, Signal},
};
use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
    vec::Vec,
};
use shimos_abi::{
    control::{
        Generations, Level, MAX_INTERVAL, MIN_INTERVAL, OnCrash, Protection, Request, Response, Start, Strictness,
        Target, VERSION,
    },
    ids::{KernelId, Life, Pid, ProgramId},
    time::Nanos,
};
use shimos_hal::Machine;
use shimos_ikc::Home;

/// Longest and shortest interval of the daemons.
const HEARTBEATS: core::ops::RangeInclusive<u64> = 1_000_000..=60_000_000_000;

/// How long a kernel lives on after it was told how to die.
const INJECT_DELAY: Nanos = Nanos::millis(20);

/// An answer's bytes.
pub fn encode(answer: &Response) -> Vec<u8> {
    minicbor::to_vec(answer).unwrap_or_default()
}

/// Whose business a request is.
enum Business {
    Here,
    Of(KernelId),
    Nobody(String),
    /// What is wanted has come true already.
    Done,
}

impl<M: Machine> Kernel<M> {
    /// Works on the requests that programs here have written.
    pub(crate) fn answer_requests(&mut self) {
        while let Some((number, bytes)) = self.services.requests.take_fresh() {
            let me = self.me.kernel;
            match minicbor::decode::<Request>(&bytes) {
                Err(_) => self.fail(number, not_understood(&bytes)),
                Ok(decoded) => match self.business_of(&decoded) {
                    Business::Here => {
                        if let Some(answer) = self.serve(number, me, &bytes) {
                            self.answered(number, encode(&answer));
                        }
                    }
                    Business::Of(kernel) => {
                        let message = Message::Request(number, bytes);
                        let sent = minicbor::to_vec(&message)
                            .map(|bytes| self.services.send(kernel, shimos_abi::shared::Queue::Daemon, &[&bytes]));
                        match sent {
                            Ok(Ok(())) => self.note_passed_on(number, kernel, Loss::of(&decoded)),
                            Ok(Err(shimos_ikc::SendError::TooLong)) => {
                                self.fail(number, "the command line is too long for one packet".to_string());
                            }
                            _ => {
                                let why = format!("{kernel} does not answer: try again");
                                self.answered(number, encode(&Response::Again(why)));
                            }
                        }
                    }
                    Business::Nobody(why) => self.fail(number, why),
                    Business::Done => self.answered(number, encode(&Response::Done)),
                },
            }
        }
    }

    /// A request is with another kernel now.
    fn note_passed_on(&mut self, number: u64, kernel: KernelId, loss: Loss) {
        if let Some(incarnation) = self.services.ikc.area().incarnation(kernel) {
            self.services.requests.passed_on(number, Life { kernel, incarnation }, loss);
        }
    }

    /// Answers the requests whose kernel has died over them.
    pub(crate) fn fail_lost_requests(&mut self) {
        let lost = self.services.requests.lost(|life| crate::device::claim::has_ended(&self.services, life));
        for (number, with, loss) in lost {
            let answer = match loss {
                Loss::Order(life) if crate::device::claim::has_ended(&self.services, life) => Response::Done,
                Loss::Told => {
                    Response::Failed(format!("{with} died before it answered: look at the status and try again"))
                }
                _ => Response::Again(format!("{with} died before it answered: try again")),
            };
            self.answered(number, encode(&answer));
        }
    }

    fn fail(&mut self, number: u64, why: String) {
        self.answered(number, encode(&Response::Failed(why)));
    }

    /// An answer is there: whoever asked may read it.
    pub(crate) fn answered(&mut self, number: u64, bytes: Vec<u8>) {
        let Some(program) = self.services.requests.answer(number, bytes) else { return };
        if let Some(resident) = self.residents.get_mut(&program) {
            resident.wake(Key::Control(number));
        }
    }

    fn business_of(&self, request: &Request) -> Business {
        match request {
            Request::Start(start) => self.place_for(start),
            Request::Kill { target, .. }
            | Request::Protect { target, .. }
            | Request::Unprotect { target }
            | Request::Move { target, .. }
            | Request::SetLevel { target, .. }
            | Request::Save { target }
            | Request::Exec { target, .. } => match self.find(target) {
                Err(why) => Business::Nobody(why),
                Ok(program) => self.at_home(program),
            },
            Request::Signal { pid, .. } => self.at_home(ProgramId::of(*pid)),
            Request::Processes { program, .. }
            | Request::Checkpoints { program, .. }
            | Request::SavedPart { program, .. } => self.at_home(*program),
            Request::SetPolicy(_) | Request::Policy { .. } => self.at_home(ProgramId::DAEMON),
            Request::Inject { kernel, .. } => match (self.of_kernel(*kernel), order_for(request)) {
                // Who asks has died of it and asks again, or its answer was lost.
                (Business::Of(_), Some(life)) if crate::device::claim::has_ended(&self.services, life) => {
                    Business::Done
                }
                (business, _) => business,
            },
            _ => Business::Here,
        }
    }

    /// The kernel that a program lives on.
    fn at_home(&self, program: ProgramId) -> Business {
        match self.services.ikc.area().home(program).life() {
            Some(life) if life.kernel == self.me.kernel => Business::Here,
            Some(life) => Business::Of(life.kernel),
            None => Business::Nobody(format!("there is no program {program}")),
        }
    }

    fn of_kernel(&self, kernel: KernelId) -> Business {
        let kernels = self.services.machine.identity().kernels;
        if kernel.index() >= kernels {
            Business::Nobody(format!("there is no kernel {kernel}: they are k0 to k{}", kernels - 1))
        } else if kernel == self.me.kernel {
            Business::Here
        } else {
            Business::Of(kernel)
        }
    }

    /// The kernel that a new program is placed on: the wanted one, or the running one with the fewest programs and the
    /// most free memory.
    fn place_for(&self, start: &Start) -> Business {
        if self.name_of(&start.name).is_some() {
            return Business::Nobody(format!("a program named '{}' runs already: choose another name", start.name));
        }
        if let Some(kernel) = start.kernel {
            if self.services.ikc.area().is_drained(kernel) {
                return Business::Nobody(format!(
                    "{kernel} is drained: name another kernel, or let programs come again by 'kernel undrain {kernel}'"
                ));
            }
            return self.of_kernel(kernel);
        }
        let area = self.services.ikc.area();
        let mut homes = alloc::vec![0_usize; self.services.machine.identity().kernels];
        for (_, home) in area.programs() {
            if let Some(count) = home.life().and_then(|life| homes.get_mut(life.kernel.index())) {
                *count += 1;
            }
        }
        let best = area
            .kernels()
            .filter(|kernel| area.state(*kernel) == shimos_abi::control::KernelState::Running)
            .filter(|kernel| !area.is_drained(*kernel) && !area.is_rebooting(*kernel))
            .min_by_key(|kernel| (homes[kernel.index()], u64::MAX - area.free_frames(*kernel)));
        match best {
            Some(kernel) if kernel == self.me.kernel => Business::Here,
            Some(kernel) => Business::Of(kernel),
            None => Business::Nobody("no kernel runs that could take the program".to_string()),
        }
    }

    /// Whether a program has a name.
    pub(crate) fn is_name_taken(&self, name: &str) -> bool {
        self.name_of(name).is_some()
    }

    fn name_of(&self, name: &str) -> Option<ProgramId> {
        let here = self.residents.values().find(|resident| resident.program.head.name == name);
        if let Some(resident) = here {
            return Some(resident.program.head.id);
        }
        if let Some(program) = self.moves.stopped(name) {
            return Some(program);
        }
        let area = self.services.ikc.area();
        for kernel in area.kernels().filter(|kernel| *kernel != self.me.kernel) {
            let Some(published) = self.published_by(kernel) else { continue };
            for program in published.programs {
                let lives_there = area.home(program.id).life().is_some_and(|life| life.kernel == kernel);
                if program.name == name && lives_there {
                    return Some(program.id);
                }
            }
        }
        None
    }

    /// The program that a target names.
    fn find(&self, target: &Target) -> Result<ProgramId, String> {
        match target {
            Target::Pid(pid) => {
                let program = ProgramId::of(*pid);
                if self.services.ikc.area().home(program) == Home::Free || !self.has_pid(program, *pid) {
                    return Err(format!("there is no process {pid}: 'status' lists them"));
                }
                Ok(program)
            }
            Target::Name(name) => {
                self.name_of(name).ok_or_else(|| format!("there is no program '{name}': 'status' lists them"))
            }
        }
    }

    fn has_pid(&self, program: ProgramId, pid: Pid) -> bool {
        if let Some(resident) = self.residents.get(&program) {
            return resident.program.processes.get(&pid).is_some_and(|process| process.zombie.is_none());
        }
        let Some(life) = self.services.ikc.area().home(program).life() else { return false };
        // What was published may be older than the process: then the program's home decides.
        self.published_by(life.kernel).is_none_or(|published| {
            published
                .programs
                .iter()
                .find(|status| status.id == program)
                .is_none_or(|status| status.processes.iter().any(|process| process.pid == pid))
        })
    }

    /// Works on a request that is this kernel's business. No answer means that it comes later.
    pub(crate) fn serve(&mut self, number: u64, asker: KernelId, bytes: &[u8]) -> Option<Response> {
        self.serving = Some(number);
        let answer = self.answer_to(number, asker, bytes);
        self.serving = None;
        answer
    }

    fn answer_to(&mut self, number: u64, asker: KernelId, bytes: &[u8]) -> Option<Response> {
        let Ok(request) = minicbor::decode::<Request>(bytes) else {
            return Some(Response::Failed(not_understood(bytes)));
        };
        Some(match request {
            Request::Hello => Response::Hello { version: VERSION },
            Request::Status => Response::Status(self.machine_status()),
            Request::Start(start) => {
                if let Some(protection) = start.protection
                    && let Err(why) = check(protection)
                {
                    return Some(Response::Failed(why));
                }
                match self.begin(start, Some((number, asker))) {
                    Ok(()) => return None,
                    Err(why) => Response::Failed(why),
                }
            }
            Request::Kill { target, signal } => self.kill(&target, signal),
            Request::Protect { target, protection } => {
                return self.change_level(&target, Level::Checkpoint(protection), Strictness::Tell, (number, asker));
            }
            Request::Unprotect { target } => return self.unprotect(&target, (number, asker)),
            // The order was for an earlier life, which has obeyed it: who asks was taken over and asks again.
            Request::Inject { incarnation: Some(meant), .. } if meant != self.me.incarnation => Response::Done,
            Request::Inject { fault, seed, .. } => {
                let by = self.services.requests.asker(number).filter(|_| asker == self.me.kernel);
                let by = by.filter(|program| *program != ProgramId::DAEMON);
                // The answer leaves first. The first order stands: others, one soon after the other, would put it off for ever.
                let at = self.services.machine.now() + INJECT_DELAY;
                self.dying.get_or_insert(Dying { fault, seed, at, by });
                Response::Done
            }
            Request::SetHeartbeat { interval } if HEARTBEATS.contains(&interval.0) => {
                self.services.ikc.area().set_heartbeat(interval);
                Response::Done
            }
            Request::SetHeartbeat { .. } => {
                Response::Failed("the heartbeat interval must be between 1 ms and 60 s".to_string())
            }
            Request::BenchIkc { rounds } => self.bench_ikc(rounds),
            Request::Evidence { kernel } => {
                Response::Evidence(self.services.ikc.area().death(kernel).map(|record| record.evidence(kernel)))
            }
            Request::PowerOff => self.services.machine.power_off(),
            Request::Exec { target, argv, env } => match self.here(&target) {
                Err(answer) => *answer,
                Ok(program) => match self.begin_joining(program, argv, env, (number, asker)) {
                    Ok(()) => return None,
                    Err(why) => Response::Failed(why),
                },
            },
            Request::Signal { pid, signal } => self.signal(pid, signal),
            Request::Processes { program, from } => self.processes(program, from),
            Request::Move { target, to } => match self.here(&target) {
                Err(answer) => *answer,
                Ok(program) => match self.begin_move(program, to) {
                    Ok(()) => Response::Done,
                    Err(why) => Response::Failed(why),
                },
            },
            Request::SetLevel { target, level, strictness } => {
                return self.change_level(&target, level, strictness, (number, asker));
            }
            Request::Drain { kernel, drain } => self.drain(kernel, drain),
            Request::Reboot { kernel, incarnation } => self.reboot(kernel, incarnation),
            Request::Save { target } => match self.here(&target) {
                Err(answer) => *answer,
                Ok(program) => self.save(program),
            },
            Request::SavedPart { program, from } => self.saved_part(program, from, asker),
            Request::BeginRestore(what) => self.begin_restore(what),
            Request::RestorePart { program, from, bytes } => self.restore_part(program, from, &bytes),
            Request::EndRestore { program } => self.end_restore(program),
            Request::SetPolicy(part) => self.set_policy(&part),
            Request::Policy { from } => self.policy_part(from),
            Request::Checkpoints { program, after } => match self.residents.get(&program) {
                Some(resident) => Response::Checkpoints(resident.guard.checkpoints_after(after)),
                None => Response::Again(format!("program {program} is on its way to another kernel: try again")),
            },
        })
    }

    fn here(&mut self, target: &Target) -> Result<ProgramId, Box<Response>> {
        let program = self.find(target).map_err(|why| Box::new(Response::Failed(why)))?;
        if self.residents.contains_key(&program) {
            Ok(program)
        } else {
            Err(Box::new(Response::Again(format!("program {program} is on its way to another kernel: try again"))))
        }
    }

    fn kill(&mut self, target: &Target, signal: u8) -> Response {
        let program = match self.here(target) {
            Ok(program) => program,
            Err(answer) => return *answer,
        };
        let Some(signal) = Signal::new(signal.into()) else {
            return Response::Failed("signals have numbers from 1 to 64".to_string());
        };
        if let Some(resident) = self.residents.get_mut(&program) {
            let pids: Vec<Pid> = resident.program.processes.keys().copied().collect();
            for pid in pids {
                delivery::send_to_process(resident, pid, signal, Info::from_kernel());
            }
        }
        Response::Done
    }

    fn signal(&mut self, pid: Pid, signal: u8) -> Response {
        let Some(signal) = Signal::new(signal.into()) else {
            return Response::Failed("signals have numbers from 1 to 64".to_string());
        };
        let program = match self.here(&Target::Pid(pid)) {
            Ok(program) => program,
            Err(answer) => return *answer,
        };
        if let Some(resident) = self.residents.get_mut(&program) {
            delivery::send_to_process(resident, pid, signal, Info::from_kernel());
        }
        Response::Done
    }

    /// No answer means that it comes with the program's first checkpoint.
    fn change_level(
        &mut self,
        target: &Target,
        level: Level,
        strictness: Strictness,
        asker: (u64, KernelId),
    ) -> Option<Response> {
        match self.here(target) {
            Ok(program) => self.set_level(program, level, strictness, Some(asker)),
            Err(answer) => Some(*answer),
        }
    }

    fn unprotect(&mut self, target: &Target, asker: (u64, KernelId)) -> Option<Response> {
        self.change_level(target, Level::Off, Strictness::Tell, asker).map(|answer| match answer {
            Response::Protected { .. } => Response::Done,
            other => other,
        })
    }

    /// Answers those who wait for a checkpoint of a program, if it has committed or failed.
    pub(crate) fn answer_protected(&mut self, program: ProgramId) {
        let Some(resident) = self.residents.get_mut(&program) else { return };
        if resident.guard.waiting.is_empty() || resident.guard.is_under_way() {
            return;
        }
        let waiting = core::mem::take(&mut resident.guard.waiting);
        let answers: Vec<_> = waiting
            .into_iter()
            .map(|asker| match resident.guard.trouble.clone() {
                Some(trouble) => (asker, Response::Failed(trouble)),
                None => (asker, Response::Protected { program, exceptions: exceptions(resident, Some(asker.0)) }),
            })
            .collect();
        for (asker, answer) in answers {
            self.answer(asker, &answer);
        }
        self.publish();
    }
}

/// Why a request is not understood: whoever asks may be newer than this kernel.
fn not_understood(bytes: &[u8]) -> String {
    match Request::number(bytes) {
        Some(number) if number > Request::LAST => {
            let last = Request::LAST;
            format!(
                "request {number} is unknown here: version {VERSION} of this kernel knows 0 to {last}; build both anew"
            )
        }
        _ => "the request cannot be understood".to_string(),
    }
}

/// Whether a protection is within the bounds.
pub(crate) fn check(protection: Protection) -> Result<(), String> {
    if protection.interval < MIN_INTERVAL || protection.interval > MAX_INTERVAL {
        let seconds = MAX_INTERVAL.0 / Nanos::secs(1).0;
        return Err(format!("the checkpoint interval must be between 1 ms and {seconds} s"));
    }
    if !(1..=Generations::MOST).contains(&protection.generations.0) {
        return Err(format!("1 to {} generations can be kept", Generations::MOST));
    }
    if let OnCrash::Rollback { limit: 0 } = protection.on_crash {
        return Err("a limit of 0 rollbacks is no rollback: say 'stop'".to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_a_later_version_are_named() {
        let mut bytes = minicbor::to_vec(Request::Status).unwrap_or_default();
        assert_eq!(Request::number(&bytes), Some(1));
        // The number is the second byte: an array, the number, the fields.
        bytes[1] = 0x18;
        bytes.insert(2, 200);
        assert!(minicbor::decode::<Request>(&bytes).is_err());
        let told = not_understood(&bytes);
        assert!(told.contains("200") && told.contains(&Request::LAST.to_string()), "{told}");
        for garbage in [&b""[..], &[0xff], &[0x81, 0x61, 0x41], &[1]] {
            assert_eq!(not_understood(garbage), "the request cannot be understood");
        }
    }

    /// `Start` as the first version of the protocol had it.
    #[derive(minicbor::Encode, minicbor::Decode, PartialEq, Debug)]
    struct FirstStart {
        #[n(0)]
        name: String,
        #[n(1)]
        argv: Vec<String>,
        #[n(2)]
        env: Vec<String>,
        #[n(3)]
        cwd: String,
        #[n(4)]
        kernel: Option<KernelId>,
        #[n(5)]
        protection: Option<Protection>,
    }

    #[test]
    fn both_sides_understand_what_they_knew() {
        let first = FirstStart {
            name: "web".to_string(),
            argv: Vec::from(["/bin/httpd".to_string()]),
            env: Vec::new(),
            cwd: "/".to_string(),
            kernel: Some(KernelId(2)),
            protection: None,
        };
        let old = minicbor::to_vec(&first).unwrap_or_default();
        let now: Start = minicbor::decode(&old).unwrap_or_default();
        assert_eq!((now.name.as_str(), now.kernel, now.level), ("web", Some(KernelId(2)), None));
        let later = minicbor::to_vec(Start { level: Some(Level::Restart), memory: Some(1), ..now }).unwrap_or_default();
        assert_eq!(minicbor::decode::<FirstStart>(&later).ok(), Some(first));
    }

    #[test]
    fn the_last_request_is_the_last() {
        let last = Request::Policy { from: 0 };
        assert_eq!(Request::number(&minicbor::to_vec(last).unwrap_or_default()), Some(Request::LAST));
    }
}

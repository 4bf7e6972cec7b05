//! What the fuzzer knows of the threads that it drives.
//!
//! A thread is told apart by its id, and by what its maker has put into two registers: what it is to be, and which one.
//! Both move with the thread through fork and takeover.
use shimos_fuzz::{ARENA, Checker, Memory, Reach, Step, Wild};
use shimos_hal::Regs;
use shimos_random::Random;
use std::collections::{BTreeMap, VecDeque};

/// Where the arenas of a process's threads are, and how many there are.
pub const ARENAS: u64 = 8;
/// Where checked processes map memory.
const REGION: u64 = 0x10_0000_0000;
/// What `r12` says of a thread.
const WILD: u64 = 1;
const CHECKED: u64 = 2;
/// Calls after which a thread ends itself.
const WILD_CALLS: u64 = 3000;
const CHECKED_CALLS: u64 = 4000;
/// Processes at a time.
const WILD_AT_A_TIME: usize = 24;
const CHECKED_AT_A_TIME: usize = 2;
/// A thread that has done nothing for so many calls of all is killed.
const PATIENCE: u64 = 6_000;
/// The last calls that are kept for a report.
const HISTORY: usize = 24;
/// Page faults in a row at one place, after which the kernel is thought not to resolve them.
const FAULTS: u32 = 5000;

/// What a thread does next.
pub enum Drive {
    /// It issues a call, once its bytes are stored.
    Call(Step),
    /// It touches memory that is not there.
    Missing,
    /// Nothing now.
    Rest,
}

enum Role {
    Keeper,
    Wild(Box<Wild>),
    Checked(Box<Checker>),
}

struct Runner {
    serial: u64,
    role: Role,
    /// Chosen, and not yet issued.
    chosen: Option<Step>,
    /// Issued, and not yet answered.
    issued: Option<Step>,
    calls: u64,
    active: u64,
    faults: u32,
    /// A checked process's calls and what they gave, for a report.
    said: Vec<(Step, i64)>,
}

/// All of it.
pub struct State {
    random: Random,
    seed: u64,
    arena: u64,
    init: u64,
    threads: BTreeMap<u64, Runner>,
    next_serial: u64,
    /// Children of the keeper, and whether they are checked.
    children: BTreeMap<u64, bool>,
    prepared: u32,
    /// What the keeper's last call was for.
    forking: Option<u64>,
    doomed: VecDeque<u64>,
    /// Nobody issues calls.
    pub paused: bool,
    /// Only wild processes are made.
    pub wild_only: bool,
    /// Calls issued so far, and those of checked processes among them.
    pub calls: u64,
    /// See `calls`.
    pub checked: u64,
    /// What went wrong.
    pub failure: Option<String>,
    history: VecDeque<(u64, Step)>,
    /// All calls of the process that got a wrong answer.
    story: Vec<(Step, i64)>,
}

impl State {
    /// A fresh one. `init` is the id of the first process; its arenas begin at `arena`.
    pub fn new(seed: u64, arena: u64, init: u64) -> State {
        State {
            random: Random::new(seed ^ 0x00f0_22e5),
            seed,
            arena,
            init,
            threads: BTreeMap::new(),
            next_serial: 1,
            children: BTreeMap::new(),
            prepared: 0,
            forking: None,
            doomed: VecDeque::new(),
            paused: false,
            wild_only: false,
            calls: 0,
            checked: 0,
            failure: None,
            history: VecDeque::new(),
            story: Vec::new(),
        }
    }

    /// The last calls, for a report.
    pub fn history(&self) -> String {
        let line = |(tid, step): &(u64, Step)| {
            let arguments: Vec<String> = step.arguments.iter().map(|argument| format!("{argument:#x}")).collect();
            format!("    {tid}: {}({})", shimos_fuzz::name(step.number), arguments.join(", "))
        };
        let mut lines: Vec<String> = self.history.iter().map(line).collect();
        lines.extend(self.story.iter().enumerate().map(|(place, (step, result))| {
            let arguments: Vec<String> = step.arguments.iter().map(|argument| format!("{argument:#x}")).collect();
            format!("  story {}: {}({}) = {result}", place + 1, shimos_fuzz::name(step.number), arguments.join(", "))
        }));
        lines.join("\n")
    }

    fn fresh(&mut self, tid: u64, regs: &Regs) -> Runner {
        let serial = regs.r13;
        let seed = self.seed ^ serial.wrapping_mul(0x9e37_79b9) ^ tid << 40;
        let role = match regs.r12 {
            _ if tid == self.init => Role::Keeper,
            CHECKED => {
                let directory = format!("/checked-{serial}");
                Role::Checked(Box::new(Checker::new(seed, self.arena, REGION, directory, 0)))
            }
            _ => {
                let slot = if regs.r12 == WILD { tid % ARENAS } else { 0 };
                let mut wild = Wild::new(seed, self.arena + slot * ARENA, Reach::Free);
                wild.know(tid);
                let others: Vec<u64> = self
                    .threads
                    .iter()
                    .filter(|(_, runner)| matches!(runner.role, Role::Wild(_)))
                    .map(|(tid, _)| *tid)
                    .collect();
                for _ in 0..4.min(others.len()) {
                    wild.know(self.random.one(&others));
                }
                Role::Wild(Box::new(wild))
            }
        };
        Runner { serial, role, chosen: None, issued: None, calls: 0, active: self.calls, faults: 0, said: Vec::new() }
    }

    /// Says what thread `tid` does next.
    pub fn drive(&mut self, tid: u64, regs: &mut Regs, memory: &mut dyn Memory) -> Drive {
        if self.paused || self.failure.is_some() || self.random.once_in(16) {
            return Drive::Rest;
        }
        let mut runner = match self.threads.remove(&tid) {
            Some(runner) if tid == self.init || runner.serial == regs.r13 => runner,
            _ => self.fresh(tid, regs),
        };
        let drive = self.turn(tid, &mut runner, regs, memory);
        self.threads.insert(tid, runner);
        drive
    }

    fn turn(&mut self, tid: u64, runner: &mut Runner, regs: &mut Regs, memory: &mut dyn Memory) -> Drive {
        if let Some(step) = &runner.issued {
            let result = regs.rax as i64;
            match &mut runner.role {
                Role::Keeper => self.kept(step, result, regs),
                Role::Wild(wild) => wild.finish(step, result, memory),
                Role::Checked(checker) => {
                    if runner.faults == 0 {
                        runner.said.push((Step { stores: Vec::new(), ..step.clone() }, result));
                    }
                    // What it looks at may not be mapped yet: then it looks again.
                    let mut watched = Watched { memory, missing: false };
                    let outcome = checker.finish(step, result, &mut watched);
                    if let Err(why) = outcome {
                        runner.faults += 1;
                        if watched.missing && runner.faults < FAULTS {
                            return Drive::Missing;
                        }
                        self.failure = Some(format!("process {tid}: {why}"));
                        self.story = std::mem::take(&mut runner.said);
                        return Drive::Rest;
                    }
                }
            }
            runner.issued = None;
            runner.faults = 0;
        }
        let step = match runner.chosen.take() {
            Some(step) => step,
            None => match &mut runner.role {
                Role::Keeper => self.keep(regs),
                Role::Wild(_) if runner.calls >= WILD_CALLS => leave(),
                Role::Wild(wild) => wild.next_call(),
                Role::Checked(_) if runner.calls >= CHECKED_CALLS => leave(),
                Role::Checked(checker) => checker.next_call(),
            },
        };
        if step.number == 15 && self.random.once_in(2) {
            // The return from a handler takes the frame's first word off the stack.
            regs.rsp = regs.rsp.wrapping_add(8);
        }
        runner.chosen = Some(step.clone());
        Drive::Call(step)
    }

    /// The bytes of a thread's call could not be stored: it will try again.
    pub fn faulted(&mut self, tid: u64) {
        let Some(runner) = self.threads.get_mut(&tid) else { return };
        runner.faults += 1;
        if runner.faults > FAULTS {
            match runner.role {
                // It has taken its own memory away, and catches the signal for it.
                Role::Wild(_) => self.doomed.push_back(tid),
                _ => self.failure = Some(format!("thread {tid}: a page fault is not resolved")),
            }
        }
    }

    /// A thread's call is on its way.
    pub fn issued(&mut self, tid: u64) {
        let Some(runner) = self.threads.get_mut(&tid) else { return };
        runner.issued = runner.chosen.take();
        runner.calls += 1;
        runner.faults = 0;
        runner.active = self.calls;
        self.calls += 1;
        self.checked += u64::from(matches!(runner.role, Role::Checked(_)));
        if let Some(step) = &runner.issued {
            if self.history.len() >= HISTORY {
                self.history.pop_front();
            }
            self.history.push_back((tid, Step { stores: Vec::new(), ..step.clone() }));
        }
    }

    /// The next call of the first process: it makes processes, and ends those that do nothing.
    fn keep(&mut self, regs: &mut Regs) -> Step {
        (regs.r12, regs.r13) = (0, 0);
        let call = |number, arguments: &[u64]| {
            let mut step = Step { number, ..Step::default() };
            step.arguments[..arguments.len()].copy_from_slice(arguments);
            step
        };
        let path = |text: &[u8]| vec![(self.arena, [text, &[0]].concat())];
        let stage = self.prepared;
        self.prepared += 1;
        match stage {
            0 => return Step { stores: path(b"/wild"), ..call(83, &[self.arena, 0o777]) },
            1 => return Step { stores: path(b"/wild"), ..call(80, &[self.arena]) },
            2..=4 => return call(3, &[u64::from(stage - 2)]),
            // What its children bring about, like the hang-up of an orphaned group, does not end it.
            5 => return Step { stores: vec![(self.arena, vec![0xff; 8])], ..call(14, &[2, self.arena, 0, 8]) },
            _ => {}
        }
        if let Some(tid) = self.doomed.pop_front() {
            return call(200, &[tid, 9]);
        }
        let checked = self.children.values().filter(|checked| **checked).count();
        let wild = self.children.len() - checked;
        let more_checked = checked < CHECKED_AT_A_TIME && !self.wild_only;
        if (more_checked || wild < WILD_AT_A_TIME) && !self.random.once_in(3) {
            regs.r12 = if more_checked { CHECKED } else { WILD };
            regs.r13 = self.next_serial;
            self.next_serial += 1;
            self.forking = Some(regs.r12);
            return call(57, &[]);
        }
        let idle: Vec<u64> = self
            .threads
            .iter()
            .filter(|(tid, runner)| **tid != self.init && runner.active + PATIENCE < self.calls)
            .map(|(tid, _)| *tid)
            .collect();
        for tid in idle {
            self.doomed.push_back(tid);
            // Until it is killed it goes on with its story, if it wakes: a story begun anew would find its own files there.
            if let Some(runner) = self.threads.get_mut(&tid) {
                runner.active = self.calls;
            }
        }
        if self.random.once_in(2) {
            return call(61, &[u64::MAX, 0, 0x4000_0001, 0]);
        }
        let span: Vec<u8> = [0, self.random.below(300_000)].iter().flat_map(|word| word.to_le_bytes()).collect();
        Step { stores: vec![(self.arena, span)], ..call(35, &[self.arena, 0]) }
    }

    /// What came of a call of the first process.
    fn kept(&mut self, step: &Step, result: i64, regs: &mut Regs) {
        (regs.r12, regs.r13) = (0, 0);
        match step.number {
            57 if result > 0 => {
                let checked = self.forking.take() == Some(CHECKED);
                self.children.insert(result as u64, checked);
            }
            61 if result > 0 => {
                self.children.remove(&(result as u64));
                self.threads.remove(&(result as u64));
            }
            _ => {}
        }
    }
}

fn leave() -> Step {
    Step { number: 231, ..Step::default() }
}

/// Notes whether something was asked for that is not there.
struct Watched<'a> {
    memory: &'a mut dyn Memory,
    missing: bool,
}

impl Memory for Watched<'_> {
    fn read(&mut self, addr: u64, into: &mut [u8]) -> bool {
        let there = self.memory.read(addr, into);
        self.missing |= !there;
        there
    }
}

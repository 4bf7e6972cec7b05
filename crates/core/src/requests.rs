//! Control requests of programs here, from the write to /dev/shimos that completes one to the read that takes its answer.
use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use shimos_abi::{
    control::Request,
    ids::{Life, ProgramId},
};

/// What a request has come to whose kernel died over it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// Nobody knows.
    Told,
    /// It is as if nothing was asked.
    Again,
    /// This life was to end.
    Order(Life),
}

impl Loss {
    /// That of a request.
    pub fn of(request: &Request) -> Loss {
        match order_for(request) {
            Some(life) => Loss::Order(life),
            None if request.is_repeatable() => Loss::Again,
            None => Loss::Told,
        }
    }
}

/// The life that a request is to end.
pub fn order_for(request: &Request) -> Option<Life> {
    match request {
        Request::Inject { kernel, incarnation: Some(incarnation), .. } => {
            Some(Life { kernel: *kernel, incarnation: *incarnation })
        }
        _ => None,
    }
}

/// How far a request has come.
#[derive(Debug)]
enum Stage {
    /// This kernel works on it, or has not begun.
    Here,
    /// Another kernel works on it.
    With(Life, Loss),
    Answered(Vec<u8>),
}

#[derive(Debug)]
struct Open {
    /// Who asks.
    program: ProgramId,
    stage: Stage,
}

/// What a program finds that comes for an answer.
#[derive(PartialEq, Eq, Debug)]
pub enum Reply {
    /// The answer, encoded.
    Is(Vec<u8>),
    /// It is not there yet.
    Open,
    /// Nobody here works on that: it was put to a kernel that has died, or before the program was rolled back.
    Unknown,
}

/// The requests.
#[derive(Debug)]
pub struct Requests {
    last: u64,
    /// Those that nobody has worked on, undecoded.
    fresh: VecDeque<(u64, Vec<u8>)>,
    open: BTreeMap<u64, Open>,
}

impl Requests {
    /// None yet. Their numbers are those of this life: no other life uses them.
    pub fn new(life: Life) -> Requests {
        let last = u64::from(life.kernel.0) << 48 | u64::from(life.incarnation.0) << 24;
        Requests { last, fresh: VecDeque::new(), open: BTreeMap::new() }
    }

    /// A program asks. Returns the number of the request.
    pub fn put(&mut self, program: ProgramId, request: Vec<u8>) -> u64 {
        self.last += 1;
        self.fresh.push_back((self.last, request));
        self.open.insert(self.last, Open { program, stage: Stage::Here });
        self.last
    }

    /// Whether there are some that nobody has worked on.
    pub fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// The next one to be worked on, undecoded.
    pub fn take_fresh(&mut self) -> Option<(u64, Vec<u8>)> {
        self.fresh.pop_front()
    }

    /// Who has asked.
    pub fn asker(&self, number: u64) -> Option<ProgramId> {
        self.open.get(&number).map(|open| open.program)
    }

    /// Another kernel works on it.
    pub fn passed_on(&mut self, number: u64, to: Life, loss: Loss) {
        if let Some(open) = self.open.get_mut(&number) {
            open.stage = Stage::With(to, loss);
        }
    }

    /// Those whose kernel has died over them.
    pub fn lost(&self, has_ended: impl Fn(Life) -> bool) -> Vec<(u64, Life, Loss)> {
        let with = self.open.iter().filter_map(|(number, open)| match open.stage {
            Stage::With(life, loss) => Some((*number, life, loss)),
            _ => None,
        });
        with.filter(|(_, life, _)| has_ended(*life)).collect()
    }

    /// The answer is there. Returns who waits for it, if somebody still does.
    pub fn answer(&mut self, number: u64, answer: Vec<u8>) -> Option<ProgramId> {
        let open = self.open.get_mut(&number)?;
        if !matches!(open.stage, Stage::Answered(_)) {
            open.stage = Stage::Answered(answer);
        }
        Some(open.program)
    }

    /// A program comes for an answer.
    pub fn take(&mut self, number: u64, program: ProgramId) -> Reply {
        match self.open.get(&number).filter(|open| open.program == program).map(|open| &open.stage) {
            None => Reply::Unknown,
            Some(Stage::Answered(_)) => match self.open.remove(&number) {
                Some(Open { stage: Stage::Answered(answer), .. }) => Reply::Is(answer),
                _ => Reply::Unknown,
            },
            Some(_) => Reply::Open,
        }
    }

    /// Answers that a program has not come for.
    pub fn answered(&self, program: ProgramId) -> Vec<u64> {
        let of = self.open.iter().filter(|(_, open)| open.program == program);
        of.filter(|(_, open)| matches!(open.stage, Stage::Answered(_))).map(|(number, _)| *number).collect()
    }

    /// Nobody waits for the answer any more. What is asked for is done all the same.
    pub fn forget(&mut self, number: u64, program: ProgramId) {
        if self.asker(number) == Some(program) {
            self.open.remove(&number);
        }
    }

    /// A program is not here any more, or is another one by a rollback.
    pub fn forget_program(&mut self, program: ProgramId) {
        self.open.retain(|_, open| open.program != program);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shimos_abi::ids::{Incarnation, KernelId};

    const ASKER: ProgramId = ProgramId(3);

    fn life(kernel: u16, incarnation: u32) -> Life {
        Life { kernel: KernelId(kernel), incarnation: Incarnation(incarnation) }
    }

    #[test]
    fn an_answer_is_taken_once_and_by_its_asker() {
        let mut requests = Requests::new(life(1, 2));
        let number = requests.put(ASKER, Vec::from(*b"ask"));
        assert_eq!(requests.take(number, ASKER), Reply::Open);
        assert_eq!(requests.take_fresh(), Some((number, Vec::from(*b"ask"))));
        assert!(!requests.has_fresh());
        assert_eq!(requests.answer(number, Vec::from(*b"one")), Some(ASKER));
        // The first answer stands.
        assert_eq!(requests.answer(number, Vec::from(*b"two")), Some(ASKER));
        assert_eq!(requests.answered(ASKER), [number]);
        assert_eq!(requests.take(number, ProgramId(4)), Reply::Unknown);
        assert_eq!(requests.take(number, ASKER), Reply::Is(Vec::from(*b"one")));
        assert_eq!(requests.take(number, ASKER), Reply::Unknown);
        assert_eq!(requests.answer(number, Vec::new()), None);
    }

    #[test]
    fn what_nobody_waits_for_takes_no_room() {
        let mut requests = Requests::new(life(0, 1));
        for _ in 0..3 {
            let number = requests.put(ASKER, Vec::new());
            requests.forget(number, ProgramId(4));
            assert_eq!(requests.asker(number), Some(ASKER));
            requests.forget(number, ASKER);
            // It is worked on all the same.
            assert!(requests.take_fresh().is_some());
            assert_eq!(requests.answer(number, Vec::from(*b"late")), None);
        }
        requests.put(ASKER, Vec::new());
        requests.forget_program(ASKER);
        assert!(requests.open.is_empty());
    }

    #[test]
    fn what_was_passed_on_is_lost_with_its_kernel() {
        let mut requests = Requests::new(life(0, 1));
        let [first, second] = [1, 2].map(|_| requests.put(ASKER, Vec::new()));
        requests.passed_on(first, life(2, 7), Loss::Again);
        requests.passed_on(second, life(3, 1), Loss::Told);
        assert_eq!(requests.lost(|life| life.kernel == KernelId(2)), [(first, life(2, 7), Loss::Again)]);
        requests.answer(first, Vec::new());
        assert_eq!(requests.lost(|_| true), [(second, life(3, 1), Loss::Told)]);
    }

    #[test]
    fn numbers_of_other_lives_are_unknown() {
        let mut before = Requests::new(life(1, 1));
        let mut after = Requests::new(life(1, 2));
        let old = before.put(ASKER, Vec::new());
        let new = after.put(ASKER, Vec::new());
        assert_ne!(old, new);
        assert_eq!(after.take(old, ASKER), Reply::Unknown);
    }
}

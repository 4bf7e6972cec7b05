//! Semaphore sets.
//!
//! Operations that must wait stand in the set, in order. Whoever changes a value carries out what can be done then, in
//! the name of those that wait; they only return.
use alloc::{collections::BTreeMap, vec::Vec};
use minicbor::{Decode, Encode};
use shimos_abi::{errno::Errno, ids::Pid};

/// `SEMVMX`: the largest value.
pub const MAX_VALUE: i32 = 32767;
/// `SEMMSL`: semaphores of one set.
pub const MAX_IN_SET: u64 = 32000;
/// `SEMMNS`: semaphores of a program.
pub const MAX_IN_ALL: usize = 262_144;
/// `SEMOPM`: operations of one call.
pub const MAX_OPERATIONS: u64 = 500;
/// `SEMMNI`: sets of a program.
pub const MAX_SETS: usize = 4096;
/// Operations that wait in one set, and adjustments that it keeps, at most.
const MAX_KEPT: usize = 65_536;

/// One semaphore.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Semaphore {
    /// Its value.
    #[n(0)]
    pub value: u16,
    /// Who operated on it last.
    #[n(1)]
    pub last: u32,
}

/// One operation (struct sembuf).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Operation {
    /// Which semaphore.
    #[n(0)]
    pub number: u16,
    /// What to add; 0 waits for zero.
    #[n(1)]
    pub change: i16,
    /// `IPC_NOWAIT`, `SEM_UNDO`.
    #[n(2)]
    pub flags: u16,
}

impl Operation {
    /// `SEM_UNDO`.
    pub const UNDO: u16 = 0x1000;
    /// `IPC_NOWAIT`.
    const NO_WAIT: u16 = 0o4000;
}

/// A call that waits.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Waiting {
    /// Whose.
    #[n(0)]
    pub tid: Pid,
    /// Its process.
    #[n(1)]
    pub pid: Pid,
    /// Names this call among all of its thread.
    #[n(2)]
    pub token: u64,
    /// What it wants.
    #[n(3)]
    pub operations: Vec<Operation>,
    /// The list that takes what is to be undone.
    #[n(4)]
    pub undo: Option<u32>,
    /// The operation that it cannot pass now.
    #[n(5)]
    pub stuck: u16,
}

/// A set.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub struct SemaphoreSet {
    /// Its semaphores.
    #[n(0)]
    pub semaphores: Vec<Semaphore>,
    /// Seconds since 1970 of the last semop(2).
    #[n(1)]
    pub operated: i64,
    /// Calls that wait, first come first.
    #[n(2)]
    pub waiting: Vec<Waiting>,
    /// What is added when the owner of an undo list ends: by list and semaphore.
    #[n(3)]
    pub undo: BTreeMap<(u32, u16), i16>,
}

/// What operations came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All were done.
    Done,
    /// The one at this place has to wait; nothing was done.
    Stuck(u16),
    /// Nothing was done.
    Failed(Errno),
}

impl SemaphoreSet {
    /// A set of `count` semaphores.
    pub fn new(count: usize) -> SemaphoreSet {
        SemaphoreSet { semaphores: alloc::vec![Semaphore::default(); count], ..SemaphoreSet::default() }
    }
    /// Whether decoded values can be.
    pub fn is_valid(&self) -> bool {
        self.semaphores.iter().all(|semaphore| i32::from(semaphore.value) <= MAX_VALUE)
    }
    /// Does all operations or none.
    pub fn operate(&mut self, operations: &[Operation], pid: Pid, undo: Option<u32>) -> Outcome {
        let mut values: BTreeMap<u16, i32> = BTreeMap::new();
        let mut adjusted: BTreeMap<(u32, u16), i16> = BTreeMap::new();
        for (place, operation) in (0..).zip(operations) {
            let Some(semaphore) = self.semaphores.get(usize::from(operation.number)) else {
                return Outcome::Failed(Errno::EFBIG);
            };
            let value = values.entry(operation.number).or_insert_with(|| semaphore.value.into());
            let new = *value + i32::from(operation.change);
            if operation.change == 0 && *value != 0 || new < 0 {
                let may_wait = operation.flags & Operation::NO_WAIT == 0;
                return if may_wait { Outcome::Stuck(place) } else { Outcome::Failed(Errno::EAGAIN) };
            }
            if new > MAX_VALUE {
                return Outcome::Failed(Errno::ERANGE);
            }
            *value = new;
            if operation.flags & Operation::UNDO != 0
                && operation.change != 0
                && let Some(list) = undo
            {
                let key = (list, operation.number);
                let old = adjusted.get(&key).or_else(|| self.undo.get(&key)).copied().unwrap_or(0);
                let Some(adjustment) = old.checked_sub(operation.change) else {
                    return Outcome::Failed(Errno::ERANGE);
                };
                adjusted.insert(key, adjustment);
            }
        }
        if self.undo.len() + adjusted.len() > MAX_KEPT {
            return Outcome::Failed(Errno::ENOMEM);
        }
        for (key, adjustment) in adjusted {
            if adjustment == 0 {
                self.undo.remove(&key);
            } else {
                self.undo.insert(key, adjustment);
            }
        }
        for (number, value) in values {
            if let Some(semaphore) = self.semaphores.get_mut(usize::from(number)) {
                *semaphore = Semaphore { value: value as u16, last: pid.0 };
            }
        }
        Outcome::Done
    }
    /// Lets a call wait.
    pub fn wait(&mut self, waiting: Waiting) -> Result<(), Errno> {
        let kept: usize = self.waiting.iter().map(|other| other.operations.len()).sum();
        if kept + waiting.operations.len() > MAX_KEPT {
            return Err(Errno::ENOMEM);
        }
        self.waiting.push(waiting);
        Ok(())
    }
    /// Carries out what can be done now of the calls that wait; returns who is to return, and with what.
    pub fn advance(&mut self) -> Vec<(Waiting, Result<(), Errno>)> {
        let mut done = Vec::new();
        let mut at = 0;
        while let Some(mut waiting) = self.waiting.get(at).cloned() {
            match self.operate(&waiting.operations, waiting.pid, waiting.undo) {
                Outcome::Stuck(stuck) => {
                    waiting.stuck = stuck;
                    if let Some(slot) = self.waiting.get_mut(at) {
                        slot.stuck = stuck;
                    }
                    at += 1;
                    continue;
                }
                Outcome::Done => done.push((waiting.clone(), Ok(()))),
                Outcome::Failed(errno) => done.push((waiting.clone(), Err(errno))),
            }
            self.waiting.remove(at);
            // What was done may have made room for one that came before.
            if waiting.operations.iter().any(|operation| operation.change != 0) {
                at = 0;
            }
        }
        done
    }
    /// How many calls wait for a semaphore to grow, and how many for it to become zero.
    pub fn waiting_for(&self, number: u16) -> (u64, u64) {
        let (mut grow, mut zero) = (0, 0);
        for waiting in &self.waiting {
            match waiting.operations.get(usize::from(waiting.stuck)) {
                Some(operation) if operation.number != number => {}
                Some(operation) if operation.change == 0 => zero += 1,
                Some(_) => grow += 1,
                None => {}
            }
        }
        (grow, zero)
    }
    /// Sets a value (SETVAL, SETALL): what was to be undone of it is forgotten.
    pub fn set(&mut self, number: u16, value: u16, pid: Pid) {
        if let Some(semaphore) = self.semaphores.get_mut(usize::from(number)) {
            *semaphore = Semaphore { value, last: pid.0 };
        }
        self.undo.retain(|(_, of), _| *of != number);
    }
    /// The owner of an undo list has ended. Returns whether a value may have changed.
    pub fn end_list(&mut self, list: u32, pid: Pid) -> Changed {
        let mine: Vec<((u32, u16), i16)> =
            self.undo.range((list, 0)..=(list, u16::MAX)).map(|(key, adjustment)| (*key, *adjustment)).collect();
        for (key, adjustment) in &mine {
            self.undo.remove(key);
            if let Some(semaphore) = self.semaphores.get_mut(usize::from(key.1)) {
                let value = (i32::from(semaphore.value) + i32::from(*adjustment)).clamp(0, MAX_VALUE);
                *semaphore = Semaphore { value: value as u16, last: pid.0 };
            }
        }
        if mine.is_empty() { Changed::No } else { Changed::Yes }
    }
}

/// Whether something changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Changed {
    /// It did not.
    No,
    /// It did.
    Yes,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(number: u16, change: i16, flags: u16) -> Operation {
        Operation { number, change, flags }
    }

    fn values(set: &SemaphoreSet) -> Vec<u16> {
        set.semaphores.iter().map(|semaphore| semaphore.value).collect()
    }

    #[test]
    fn operations_are_done_together_or_not_at_all() {
        let mut set = SemaphoreSet::new(2);
        assert_eq!(set.operate(&[operation(0, 3, 0), operation(1, -1, 0)], Pid(1), None), Outcome::Stuck(1));
        assert_eq!(values(&set), [0, 0]);
        let both = [operation(0, 3, 0), operation(1, 1, 0), operation(1, -1, 0), operation(1, 0, 0)];
        assert_eq!(set.operate(&both, Pid(1), None), Outcome::Done);
        assert_eq!(values(&set), [3, 0]);
        assert_eq!(set.operate(&[operation(0, 32767, 0)], Pid(1), None), Outcome::Failed(Errno::ERANGE));
        assert_eq!(set.operate(&[operation(0, 0, 0o4000)], Pid(1), None), Outcome::Failed(Errno::EAGAIN));
        assert_eq!(set.operate(&[operation(2, 1, 0)], Pid(1), None), Outcome::Failed(Errno::EFBIG));
    }

    #[test]
    fn who_waits_is_served_by_who_changes() {
        let mut set = SemaphoreSet::new(1);
        for (tid, change) in [(1, -2), (2, -1), (3, 0)] {
            let operations = alloc::vec![operation(0, change, 0)];
            set.wait(Waiting { tid: Pid(tid), pid: Pid(tid), token: 9, operations, undo: None, stuck: 0 }).unwrap();
        }
        // The third need not wait; it stands there for the test.
        assert_eq!(set.waiting_for(0), (2, 1));
        assert_eq!(set.operate(&[operation(0, 1, 0)], Pid(4), None), Outcome::Done);
        let done: Vec<u32> = set.advance().iter().map(|(waiting, _)| waiting.tid.0).collect();
        assert_eq!(done, [2, 3]);
        assert_eq!((set.waiting_for(0), values(&set)[0]), ((1, 0), 0));
    }

    #[test]
    fn what_a_process_did_is_undone_at_its_end() {
        let mut set = SemaphoreSet::new(1);
        set.set(0, 5, Pid(1));
        let take = [operation(0, -2, Operation::UNDO)];
        assert_eq!(set.operate(&take, Pid(2), Some(7)), Outcome::Done);
        assert_eq!(set.operate(&take, Pid(3), Some(8)), Outcome::Done);
        assert_eq!(set.end_list(7, Pid(2)), Changed::Yes);
        assert_eq!((values(&set)[0], set.semaphores[0].last), (3, 2));
        // A value that is set leaves nothing to undo.
        set.set(0, 1, Pid(1));
        assert_eq!(set.end_list(8, Pid(3)), Changed::No);
    }
}

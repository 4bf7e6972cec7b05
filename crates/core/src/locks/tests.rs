use super::{Cut, END, LIMIT, Lock, LockKind, Locks, Owner};
use crate::files::DescriptionId;
use shimos_abi::{errno::Errno, ids::Pid};
use shimos_vfs::NodeId;

const NODE: NodeId = NodeId::Upper(1);

fn lock(pid: u32, kind: LockKind, start: u64, end: u64) -> Lock {
    Lock { node: NODE, owner: Owner::Process(Pid(pid)), kind, start, end }
}

#[test]
fn locks_are_cut_and_joined() {
    let mut locks = Locks::default();
    locks.set(lock(1, LockKind::Exclusive, 0, 10)).expect("room");
    locks.set(lock(1, LockKind::Exclusive, 10, 20)).expect("room");
    assert_eq!(locks.locks, [lock(1, LockKind::Exclusive, 0, 20)]);
    locks.set(lock(1, LockKind::Shared, 5, 8)).expect("room");
    assert_eq!(locks.locks.len(), 3);
    assert_eq!(locks.conflict(&lock(2, LockKind::Shared, 5, 8)), None);
    assert_eq!(locks.conflict(&lock(2, LockKind::Shared, 0, END)), Some(lock(1, LockKind::Exclusive, 0, 5)));
    assert_eq!(locks.cut(NODE, Owner::Process(Pid(1)), 2, 15), Ok(Cut::Some));
    assert_eq!(locks.cut(NODE, Owner::Process(Pid(1)), 2, 15), Ok(Cut::Nothing));
    assert_eq!(locks.locks, [lock(1, LockKind::Exclusive, 0, 2), lock(1, LockKind::Exclusive, 15, 20)]);
    locks.set(lock(1, LockKind::Exclusive, 0, END)).expect("room");
    assert_eq!(locks.locks, [lock(1, LockKind::Exclusive, 0, END)]);
}

#[test]
fn families_meet_as_on_linux() {
    let mut locks = Locks::default();
    let by = |owner| Lock { owner, ..lock(0, LockKind::Exclusive, 0, 10) };
    let description = DescriptionId(7);
    locks.set(by(Owner::Description(description))).expect("room");
    assert_eq!(locks.conflict(&by(Owner::Process(Pid(1)))), None);
    locks.set(by(Owner::Ranges(description))).expect("room");
    assert!(locks.conflict(&by(Owner::Process(Pid(1)))).is_some());
    assert!(locks.conflict(&by(Owner::Ranges(DescriptionId(8)))).is_some());
    assert_eq!(locks.forget_description(description), Cut::Some);
    assert_eq!(locks.forget_description(description), Cut::Nothing);
}

#[test]
fn there_is_a_limit() {
    let at = LIMIT as u64 * 2;
    let mut locks = Locks { locks: (0..at).step_by(2).map(|at| lock(1, LockKind::Shared, at, at + 1)).collect() };
    assert_eq!(locks.set(lock(1, LockKind::Shared, at, at + 1)), Err(Errno::ENOLCK));
    locks.set(lock(1, LockKind::Shared, 0, END)).expect("fewer than before");
    assert_eq!(locks.cut(NODE, Owner::Process(Pid(1)), 5, 6), Ok(Cut::Some));
    assert_eq!(locks.locks.len(), 2);
}

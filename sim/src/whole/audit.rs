//! Who has which frame: no frame has two owners, and none that somebody uses is free.
use shimos_abi::{
    addr::Frame,
    ids::{KernelId, ProgramId},
};
use shimos_core::Kernel;
use shimos_hal::Rights;
use shimos_soft::{SoftMachine, World};
use std::collections::BTreeMap;

/// What a frame is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// A page that the program may write to.
    Written,
    /// A page that it may not write to.
    Read,
    /// A table of one of its address spaces.
    Table,
}

/// Who uses a frame, and what for.
type User = (KernelId, ProgramId, Use);

/// Looks at all kernels that are not in the middle of a turn; says what is wrong.
pub fn audit<'a>(
    world: &World,
    kernels: impl Iterator<Item = (KernelId, &'a Kernel<SoftMachine>)> + Clone,
) -> Result<(), String> {
    let mut users: BTreeMap<Frame, User> = BTreeMap::new();
    for (id, kernel) in kernels.clone() {
        kernel.inspect().map_err(|why| format!("{id}: {why}"))?;
        for (program, space) in kernel.spaces() {
            for (_, mapping) in space.mappings() {
                let how = if mapping.rights.contains(Rights::WRITE) { Use::Written } else { Use::Read };
                note(&mut users, mapping.frame, (id, program, how))?;
            }
            for frame in space.tables() {
                note(&mut users, *frame, (id, program, Use::Table))?;
            }
        }
    }
    for (id, kernel) in kernels {
        let pool = world.pool(id);
        let last = Frame(pool.first.0 + pool.count - 1);
        for (frame, user) in users.range(pool.first..=last) {
            if kernel.holders(*frame) == 0 {
                return Err(format!("{frame:?} is free in {id}, and {}", told(*user)));
            }
        }
    }
    Ok(())
}

/// One more user of a frame. Programs of one kernel may share what none of them writes, and processes of one program
/// more than that.
fn note(users: &mut BTreeMap<Frame, User>, frame: Frame, new: User) -> Result<(), String> {
    let Some(old) = users.insert(frame, new) else { return Ok(()) };
    if old.2 == Use::Written {
        users.insert(frame, old);
    }
    let same_program = (old.0, old.1) == (new.0, new.1);
    let shared = match (old.2, new.2) {
        (Use::Table, _) | (_, Use::Table) => false,
        (Use::Read, Use::Read) => old.0 == new.0,
        _ => same_program,
    };
    if shared { Ok(()) } else { Err(format!("{frame:?} has two owners: {}, and {}", told(old), told(new))) }
}

fn told((kernel, program, how): User) -> String {
    let how = match how {
        Use::Written => "writes to it",
        Use::Read => "reads it",
        Use::Table => "has a page table in it",
    };
    format!("{program} on {kernel} {how}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const K0: KernelId = KernelId(0);
    const K1: KernelId = KernelId(1);
    const P1: ProgramId = ProgramId(1);
    const P2: ProgramId = ProgramId(2);

    fn noted(uses: &[User]) -> Result<(), String> {
        let mut users = BTreeMap::new();
        uses.iter().try_for_each(|user| note(&mut users, Frame(7), *user))
    }

    #[test]
    fn what_may_be_shared() {
        assert!(noted(&[(K0, P1, Use::Written), (K0, P1, Use::Read), (K0, P1, Use::Written)]).is_ok());
        assert!(noted(&[(K0, P1, Use::Read), (K0, P2, Use::Read)]).is_ok());
    }

    #[test]
    fn what_has_two_owners() {
        assert!(noted(&[(K0, P1, Use::Written), (K0, P2, Use::Read)]).is_err());
        assert!(noted(&[(K0, P1, Use::Read), (K1, P1, Use::Read)]).is_err());
        assert!(noted(&[(K0, P1, Use::Table), (K0, P1, Use::Read)]).is_err());
    }
}

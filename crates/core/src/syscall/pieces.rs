//! Long transfers: one call moves all that it is asked to, in pieces, and gives others their turn in between.
//!
//! Programs rely on that: what read(2) leaves out of a file they take for its end, and a write that waits for room is
//! done when it returns.
use crate::context::{Context, MAX_TRANSFER, Result, Stop};
use alloc::vec::Vec;
use shimos_hal::Machine;

/// The most that one call moves (`MAX_RW_COUNT` of Linux).
pub const MOST: usize = 0x7fff_f000;
/// What a call moves in one turn, at most.
const TURN: usize = 4 * MAX_TRANSFER;

/// What a piece came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    /// So many bytes were moved; there may be more to move.
    Moved(usize),
    /// So many bytes were moved, and no more will be.
    Last(usize),
}

/// The bytes of some spans, as many as one call moves.
pub fn total(spans: &[(u64, usize)]) -> usize {
    spans.iter().fold(0_usize, |sum, (_, len)| sum.saturating_add(*len)).min(MOST)
}

/// What lies behind the first `skip` bytes of some spans, `len` bytes at most.
pub fn part(spans: &[(u64, usize)], skip: usize, len: usize) -> Vec<(u64, usize)> {
    let (mut skip, mut left) = (skip, len);
    let mut found = Vec::new();
    for (addr, len) in spans {
        let skipped = skip.min(*len);
        let taken = left.min(len - skipped);
        skip -= skipped;
        left -= taken;
        if taken > 0 {
            found.push((addr.wrapping_add(skipped as u64), taken));
        }
    }
    found
}

/// Moves `total` bytes by steps that are told how many were moved before, and how many they may move. What was moved is
/// kept in the call when it waits, or when its turn is over. A failure after the first piece is not told.
pub fn in_pieces<M: Machine>(
    c: &mut Context<'_, M>,
    total: usize,
    mut step: impl FnMut(&mut Context<'_, M>, usize, usize) -> Result<Piece>,
) -> Result<u64> {
    let begun = (c.moved()? as usize).min(total);
    let mut moved = begun;
    loop {
        match step(c, moved, MAX_TRANSFER.min(total - moved)) {
            Ok(Piece::Last(count)) => return Ok((moved + count) as u64),
            Ok(Piece::Moved(count)) => {
                moved += count;
                if count == 0 || moved >= total {
                    return Ok(moved as u64);
                }
            }
            Err(Stop::Block(keys)) => {
                c.set_moved(moved as u64)?;
                return Err(Stop::Block(keys));
            }
            Err(Stop::Errno(_)) if moved > 0 => return Ok(moved as u64),
            Err(stop) => return Err(stop),
        }
        if moved - begun >= TURN {
            c.set_moved(moved as u64)?;
            return Err(Stop::Again);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_spans() {
        let spans = [(100, 10), (200, 0), (300, 5)];
        assert_eq!(total(&spans), 15);
        assert_eq!(total(&[(0, usize::MAX), (0, 1)]), MOST);
        assert_eq!(part(&spans, 0, 100), [(100, 10), (300, 5)]);
        assert_eq!(part(&spans, 4, 7), [(104, 6), (300, 1)]);
        assert_eq!(part(&spans, 12, 2), [(302, 2)]);
        assert_eq!(part(&spans, 15, 2), []);
        assert_eq!(part(&spans, 0, 0), []);
    }
}

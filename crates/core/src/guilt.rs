//! Programs that kill the kernels they run on.
//!
//! A kernel says in its outgoing part which program it runs, or which one has ordered its death. Whoever takes that program over counts
//! deaths of one kind, at one place, that follow each other: a fault that comes from outside strikes here and there, one that the
//! program provokes strikes the same way again. After [`MOST`] of them the program is given up: it would kill the next kernel too.
use crate::{kernel::Kernel, program::Head};
use alloc::{format, string::String};
use minicbor::{Decode, Encode};
use shimos_abi::{
    control::{DeathCause, GivenUp},
    ids::{Life, ProgramId},
    time::Nanos,
};
use shimos_hal::Machine;
use shimos_ikc::{DeathRecord, Home};

/// Deaths in a row that a program is allowed to provoke.
pub const MOST: u32 = 5;
/// Deaths that are further apart are no row.
const ROW: Nanos = Nanos::secs(60);
/// Hangs within so many bytes of code are one place: where a loop is interrupted is chance.
const LOOP: u64 = 64;
/// Programs that were given up are told, so many at most.
const TOLD: usize = 8;

/// Deaths that a program seems to have provoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Guilt {
    /// How many in a row.
    #[n(0)]
    pub deaths: u32,
    /// When it was taken over after the last one.
    #[n(1)]
    last: Nanos,
    #[n(2)]
    kind: u64,
    #[n(3)]
    place: u64,
}

impl Guilt {
    /// With one more death.
    fn after(before: Option<Guilt>, record: &DeathRecord, now: Nanos) -> Guilt {
        let kind = record.cause as u64 | record.vector << 8;
        let place = if record.rip == 0 { record.trace.first().copied().unwrap_or_default() } else { record.rip };
        let near = if record.cause == DeathCause::Hang { LOOP } else { 0 };
        let again = before
            // A place that is not known is not the same one.
            .filter(|_| place != 0)
            .filter(|before| before.kind == kind && before.place.abs_diff(place) <= near && now <= before.last + ROW);
        Guilt { deaths: again.map_or(0, |again| again.deaths).saturating_add(1), last: now, kind, place }
    }
}

impl<M: Machine> Kernel<M> {
    /// A program is about to be taken over after the death of `from`. Notes its part in that; says why it is given up, if it is.
    pub(crate) fn judge(&self, head: &mut Head, from: Life, now: Nanos) -> Result<(), String> {
        let area = self.services.ikc.area();
        let record = area.death(from.kernel).filter(|record| record.incarnation == from.incarnation);
        let Some(record) = record.filter(|_| area.suspect(from) == Some(head.id)) else { return Ok(()) };
        let guilt = Guilt::after(head.guilt, &record, now);
        head.guilt = Some(guilt);
        if guilt.deaths < MOST {
            return Ok(());
        }
        let last = record.message.lines().next().unwrap_or_default();
        Err(format!("{MOST} kernels in a row have died over it in the same way, {from} the last: {last}"))
    }

    /// A program has no home any more.
    pub(crate) fn give_up(&mut self, program: ProgramId, home: Home, name: Option<String>, why: &str) {
        if self.services.ikc.area().move_home(program, home, Home::Free).is_err() {
            return;
        }
        self.services.log(&format!("program {program} is lost: {why}"));
        let name = name.or_else(|| {
            let published = self.published_by(home.life()?.kernel)?;
            published.programs.into_iter().find(|told| told.id == program).map(|told| told.name)
        });
        let at = self.services.machine.now();
        self.given_up.push_back(GivenUp { program, name: name.unwrap_or_default(), at, why: String::from(why) });
        while self.given_up.len() > TOLD {
            self.given_up.pop_front();
        }
        self.publish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shimos_abi::ids::Incarnation;

    fn record(cause: DeathCause, vector: u64, rip: u64) -> DeathRecord {
        DeathRecord { vector, rip, ..DeathRecord::new(Incarnation(1), cause, Nanos(0), "") }
    }

    #[test]
    fn deaths_of_one_kind_at_one_place_are_a_row() {
        let trap = record(DeathCause::Exception, 14, 0x1000);
        let mut guilt = None;
        for count in 1..=7 {
            guilt = Some(Guilt::after(guilt, &trap, Nanos::secs(count * 30)));
            assert_eq!(guilt.map(|guilt| guilt.deaths), Some(count as u32));
        }
        // Long after, in another way, at another place: a new row.
        let at = Nanos::secs(8 * 30);
        assert_eq!(Guilt::after(guilt, &trap, at + Nanos::secs(60)).deaths, 1);
        assert_eq!(Guilt::after(guilt, &record(DeathCause::Exception, 13, 0x1000), at).deaths, 1);
        assert_eq!(Guilt::after(guilt, &record(DeathCause::Exception, 14, 0x1001), at).deaths, 1);
        assert_eq!(Guilt::after(guilt, &record(DeathCause::Panic, 14, 0x1000), at).deaths, 1);
    }

    #[test]
    fn a_loop_is_one_place() {
        let first = Guilt::after(None, &record(DeathCause::Hang, 0, 0x2010), Nanos(0));
        assert_eq!(Guilt::after(Some(first), &record(DeathCause::Hang, 0, 0x2000), Nanos(1)).deaths, 2);
        assert_eq!(Guilt::after(Some(first), &record(DeathCause::Hang, 0, 0x3000), Nanos(1)).deaths, 1);
    }

    #[test]
    fn places_that_are_not_known_are_no_row() {
        let unknown = record(DeathCause::Hang, 0, 0);
        let first = Guilt::after(None, &unknown, Nanos(0));
        assert_eq!(Guilt::after(Some(first), &unknown, Nanos(1)).deaths, 1);
    }

    #[test]
    fn a_panic_has_the_place_that_called_it() {
        let panic = |caller| DeathRecord { trace: [caller].into(), ..record(DeathCause::Panic, 0, 0) };
        let first = Guilt::after(None, &panic(0x3000), Nanos(0));
        assert_eq!(Guilt::after(Some(first), &panic(0x3000), Nanos(1)).deaths, 2);
        assert_eq!(Guilt::after(Some(first), &panic(0x3008), Nanos(1)).deaths, 1);
    }
}

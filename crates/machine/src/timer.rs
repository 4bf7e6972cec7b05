//! The local APIC's timer, as the one alarm that the kernel has.
use crate::{apic::LAPIC, clock::now, info::info, traps::raise};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use shimos_abi::time::Nanos;
use shimos_hal::Events;

/// When the alarm is due; `u64::MAX` for never.
static DUE: AtomicU64 = AtomicU64::new(u64::MAX);
/// What the timer was last set for; 0 when it is not running.
static SET: AtomicU64 = AtomicU64::new(0);

/// What setting the alarm came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Alarm {
    /// It will ring.
    Set,
    /// The time has come already.
    Due,
}

/// Sets the alarm. A timer that rings too early is left alone and set anew when it has rung: deadlines mostly move on, and
/// each store to the timer costs more than a rare interrupt too many.
#[inline]
pub(crate) fn set(until: Nanos) -> Alarm {
    DUE.store(until.0, Relaxed);
    let running = SET.load(Relaxed);
    if until == Nanos::NEVER || running != 0 && running <= until.0 {
        // If its time has come, the interrupt follows at once.
        return Alarm::Set;
    }
    let now = now();
    if now >= until {
        raise(Events::TIMER);
        return Alarm::Due;
    }
    arm(until, now);
    Alarm::Set
}

fn arm(until: Nanos, now: Nanos) {
    let ticks = u128::from((until - now).0) * u128::from(info().lapic_hz) / 1_000_000_000;
    SET.store(until.0, Relaxed);
    // A time beyond the timer's range is reached in steps.
    LAPIC.timer(u32::try_from(ticks).unwrap_or(u32::MAX).max(1));
}

/// The timer has rung.
pub(crate) fn fired() {
    SET.store(0, Relaxed);
    let due = Nanos(DUE.load(Relaxed));
    let now = now();
    if now >= due {
        raise(Events::TIMER);
    } else if due != Nanos::NEVER {
        arm(due, now);
    }
}

//! The machine's watchdog, if it has one: QEMU's `ib700`, after the card of that name. It resets the machine when nobody has kicked it
//! for a while. It cannot be found by looking: the command line says that it is there.
use crate::{arch::outb, info::info};
use core::ops::Range;

/// The register that starts it anew.
const KICK: u16 = 0x443;
/// The longest time it waits, in seconds; it counts in steps of two.
const LONGEST: u64 = 30;

/// How many seconds it is to wait, as the command line says: `watchdog=SECONDS`; 0 if there is none.
pub(crate) fn wanted(cmdline: &str) -> u64 {
    let wish = cmdline.split_ascii_whitespace().find_map(|word| word.strip_prefix("watchdog="));
    wish.and_then(|seconds| seconds.parse().ok()).map_or(0, |seconds: u64| seconds.min(LONGEST))
}

/// Its ports, given how many seconds it waits.
pub(crate) fn ports(seconds: u64) -> Range<u16> {
    if seconds == 0 { 0..0 } else { KICK..KICK + 1 }
}

/// Has it wait anew, if there is one.
pub(crate) fn kick() {
    if let seconds @ 1.. = info().watchdog {
        outb(KICK, ((LONGEST - seconds.min(LONGEST)) / 2) as u8);
    }
}

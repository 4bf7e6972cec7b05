//! Time: the machine's clock from the time-stamp counter, its calibration, and the wall clock at the start.
use crate::{
    apic::Lapic,
    arch::{cpuid, hypervisor, inb, outb, pause, rdtsc},
    info::info,
};
use shimos_abi::time::Nanos;

/// PIT ticks a second.
const PIT_HZ: u64 = 1_193_182;
/// PIT ticks of one measurement: ten milliseconds.
const SPAN: u64 = 11_932;
/// Measurements at most.
const TRIES: u32 = 32;
/// Measurements without an end after which there is no PIT.
const MOST_SILENT: u32 = 4;

/// The machine's time. A multiplication in place of a division: every turn of every kernel asks several times.
#[inline]
pub fn now() -> Nanos {
    let info = info();
    let ticks = rdtsc().saturating_sub(info.tsc_base);
    Nanos(((u128::from(ticks) * u128::from(info.tsc_scale)) >> 32) as u64)
}

/// Whether the time-stamp counter runs at one rate whatever the processor does, and is the same on all cores: the
/// processor says so (SDM 3, 18.17.1), or it is QEMU's translator, where all cores read the host's one clock.
pub fn is_steady() -> bool {
    const INVARIANT: u32 = 1 << 8;
    let [_, _, _, power] = cpuid(0x8000_0007, 0);
    power & INVARIANT != 0 || hypervisor() == *b"TCGTCGTCGTCG"
}

/// What the calibration found.
#[derive(Clone, Copy)]
pub struct Rates {
    /// TSC ticks a second.
    pub tsc: u64,
    /// Local APIC timer ticks a second.
    pub lapic: u64,
}

/// One look at all three clocks: the time-stamp counter around it, in the middle and how wide it was.
struct Look {
    pit: u64,
    lapic: u64,
    tsc: u64,
    width: u64,
}

fn look(lapic: Lapic) -> Look {
    let before = rdtsc();
    outb(0x43, 0x80); // Latch counter 2.
    let left = lapic.timer_left();
    let pit = u64::from(inb(0x42)) | u64::from(inb(0x42)) << 8;
    let after = rdtsc();
    Look { pit, lapic: left.into(), tsc: before.midpoint(after), width: after.saturating_sub(before) }
}

/// Measures against channel 2 of the PIT. Each look at it is bracketed by reads of the time-stamp counter, and of
/// several measurements the one with the tightest brackets counts: the host may take the processor away in any of them.
pub fn calibrate(lapic: Lapic) -> Rates {
    let mut best: Option<(u64, Rates)> = None;
    let mut silent = 0;
    for _ in 0..TRIES {
        // Gate on, speaker off; channel 2, low and high byte, mode 0: counts down once.
        outb(0x61, inb(0x61) & !2 | 1);
        outb(0x43, 0xb0);
        outb(0x42, 0xff);
        outb(0x42, 0xff);
        lapic.timer_measure();
        let start = rdtsc();
        // The counter loads at the next PIT tick.
        while rdtsc().wrapping_sub(start) < 20_000 {
            pause();
        }
        let first = look(lapic);
        let mut last = look(lapic);
        let mut longest = last.tsc.saturating_sub(first.tsc);
        while first.pit.saturating_sub(last.pit) < SPAN {
            if rdtsc().wrapping_sub(first.tsc) > 1_000_000_000 {
                silent += 1;
                break;
            }
            let before = last.tsc;
            last = look(lapic);
            longest = longest.max(last.tsc.saturating_sub(before));
        }
        if silent == MOST_SILENT {
            break;
        }
        // The host was away: the PIT's counter may have gone round meanwhile.
        if longest.saturating_mul(4) > last.tsc.saturating_sub(first.tsc) {
            continue;
        }
        let (pit, tsc) = (first.pit.saturating_sub(last.pit), last.tsc.saturating_sub(first.tsc));
        if !(SPAN..0xf000).contains(&pit) || tsc == 0 {
            continue;
        }
        let rates = Rates { tsc: tsc * PIT_HZ / pit, lapic: first.lapic.saturating_sub(last.lapic) * PIT_HZ / pit };
        let width = first.width + last.width;
        if best.is_none_or(|(least, _)| width < least) {
            best = Some((width, rates));
        }
        // Good to a two-thousandth: no need to look for better.
        if width * 2000 < tsc {
            break;
        }
    }
    lapic.timer(0);
    match best {
        Some((_, rates)) if rates.lapic > 0 => rates,
        _ => without_pit(lapic),
    }
}

/// A machine without PIT: what the processor says of itself (SDM 2, CPUID leaves 15H and 16H); else measured against
/// the local APIC's timer, which emulators run at 1 GHz.
fn without_pit(lapic: Lapic) -> Rates {
    const LAPIC_HZ: u64 = 1_000_000_000;
    let [denominator, numerator, crystal, _] = cpuid(0x15, 0);
    let [base, _, _, _] = cpuid(0x16, 0);
    let tsc = if denominator != 0 && numerator != 0 && crystal != 0 {
        u64::from(crystal) * u64::from(numerator) / u64::from(denominator)
    } else if base != 0 {
        u64::from(base) * 1_000_000
    } else {
        lapic.timer_measure();
        let (from, start) = (u64::from(lapic.timer_left()), rdtsc());
        while from.saturating_sub(lapic.timer_left().into()) < LAPIC_HZ / 50 && rdtsc().wrapping_sub(start) < 1 << 32 {
            pause();
        }
        let ticks = from.saturating_sub(lapic.timer_left().into()).max(1);
        let tsc = u128::from(rdtsc().wrapping_sub(start)) * u128::from(LAPIC_HZ) / u128::from(ticks);
        lapic.timer(0);
        tsc as u64
    };
    Rates { tsc, lapic: LAPIC_HZ }
}

fn cmos(register: u8) -> u8 {
    outb(0x70, 0x80 | register);
    inb(0x71)
}

/// CLOCK_REALTIME now, in nanoseconds, from the battery-backed clock; 0 if there is none.
pub fn read_wall() -> u64 {
    let read = || {
        let mut patience = 1_000_000;
        while cmos(0xa) & 0x80 != 0 && patience > 0 {
            patience -= 1;
            pause();
        }
        [0, 2, 4, 7, 8, 9].map(cmos)
    };
    let mut fields = read();
    // Twice the same means that no update fell between the fields.
    for _ in 0..8 {
        let again = read();
        if again == fields {
            break;
        }
        fields = again;
    }
    let mode = cmos(0xb);
    let number = |value: u8| -> u64 {
        if mode & 4 != 0 { value.into() } else { u64::from(value >> 4) * 10 + u64::from(value & 15) }
    };
    let afternoon = mode & 2 == 0 && fields[2] & 0x80 != 0;
    let hour = number(fields[2] & 0x7f);
    let hour = if mode & 2 == 0 { hour % 12 + if afternoon { 12 } else { 0 } } else { hour };
    let (day, month, year) = (number(fields[3]), number(fields[4]), 2000 + number(fields[5]));
    if !(1..=31).contains(&day) || !(1..=12).contains(&month) || year > 2099 {
        return 0;
    }
    let seconds = days(year, month, day) * 86400 + hour * 3600 + number(fields[1]) * 60 + number(fields[0]);
    seconds * 1_000_000_000
}

/// Days since 1970 of a date in 2000 to 2099, where every fourth year is a leap year.
fn days(year: u64, month: u64, day: u64) -> u64 {
    const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let since = year - 2000;
    let leap = u64::from(year.is_multiple_of(4) && month > 2);
    10957 + since * 365 + since.div_ceil(4) + BEFORE[(month - 1) as usize % 12] + leap + day - 1
}

//! Machine checks of this core: switched on at the start, read and cleared when one comes.
use crate::arch::{cpuid, rdmsr, wrmsr};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use shimos_hal::check::{BANKS, Verdict, judge};

const CAP: u32 = 0x179;
const STATUS: u32 = 0x17a;
const CONTROL: u32 = 0x17b;
/// Control register of bank 0; that of the next lies four further. Its status register follows it.
const FIRST_BANK: u32 = 0x400;
/// `MCG_CAP`: there is a global control register.
const HAS_CONTROL: u64 = 1 << 8;
/// More banks than any processor has.
const MOST: u32 = 64;

/// How many banks there are: none where the processor does not say that it has machine checks (MCE and MCA).
static COUNT: AtomicU32 = AtomicU32::new(0);

fn status_of(bank: u32) -> u32 {
    FIRST_BANK + bank * 4 + 1
}

/// Switches machine checks on and forgets what an earlier life was told.
pub(crate) fn init() {
    const BOTH: u32 = 1 << 7 | 1 << 14;
    let [_, _, _, features] = cpuid(1, 0);
    if features & BOTH != BOTH {
        return;
    }
    let capabilities = rdmsr(CAP);
    let count = ((capabilities & BANKS) as u32).min(MOST);
    // SAFETY: the registers exist as the capabilities say; all ones switch on what there is.
    unsafe {
        if capabilities & HAS_CONTROL != 0 {
            wrmsr(CONTROL, u64::MAX);
        }
        for bank in 0..count {
            wrmsr(FIRST_BANK + bank * 4, u64::MAX);
            wrmsr(status_of(bank), 0);
        }
        wrmsr(STATUS, 0);
    }
    COUNT.store(count, Relaxed);
}

/// Judges the machine check that has come, and gets ready for the next one.
pub(crate) fn take() -> Verdict {
    let count = COUNT.load(Relaxed);
    if count == 0 {
        return Verdict::Fatal(u8::MAX);
    }
    let verdict = judge(rdmsr(CAP), rdmsr(STATUS), (0..count).map(|bank| rdmsr(status_of(bank))));
    // SAFETY: as in `init`. The status last: while it says that one is being dealt with, another resets the machine
    // (SDM 3, 16.3.1.2).
    unsafe {
        for bank in 0..count {
            wrmsr(status_of(bank), 0);
        }
        wrmsr(STATUS, 0);
    }
    verdict
}

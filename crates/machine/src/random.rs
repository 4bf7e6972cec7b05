//! Random numbers: the processor's, or the time-stamp counter stirred.
use crate::{arch::rdtsc, cpu::has_rdrand};
use core::{
    arch::asm,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

static STATE: AtomicU64 = AtomicU64::new(0);

/// 64 bits. Without RDRAND they are unlike each other, and not secret.
pub(crate) fn next() -> u64 {
    if has_rdrand() {
        // SDM 1, 7.3.17: ten tries; more failures mean a broken generator.
        for _ in 0..10 {
            let (value, ok): (u64, u8);
            // SAFETY: the processor has the instruction.
            unsafe { asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack)) };
            if ok != 0 {
                return value;
            }
        }
    }
    // SplitMix64, with the counter stirred in.
    let state = STATE.load(Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15) ^ rdtsc().rotate_left(32);
    STATE.store(state, Relaxed);
    let x = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

//! The processor's modes, set from scratch at every start: INIT leaves most registers as they were.
use crate::{
    arch::{cpuid, wrmsr},
    layout::{KERNEL_CODE, USER_BASE},
    user::syscall_entry,
};
use core::{
    arch::asm,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const SFMASK: u32 = 0xc000_0084;
/// FS base.
pub const FS_BASE: u32 = 0xc000_0100;
/// GS base.
pub const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// Flags that SYSCALL clears: trap, interrupt, direction, I/O privilege, nested task, alignment check, and the
/// arithmetic ones.
const CLEARED: u64 = 0x4_7fd5;

static FSGSBASE: AtomicBool = AtomicBool::new(false);
static RDRAND: AtomicBool = AtomicBool::new(false);

/// Whether user code (and we) may use WRFSBASE and its kin.
#[inline]
pub(crate) fn has_fsgsbase() -> bool {
    FSGSBASE.load(Relaxed)
}
/// Whether there is RDRAND.
pub(crate) fn has_rdrand() -> bool {
    RDRAND.load(Relaxed)
}

/// Sets the processor up. Returns the vector features that it may use (XCR0), 0 without XSAVE.
pub(crate) fn init() -> u64 {
    let [_, _, features, _] = cpuid(1, 0);
    let [_, extended, more, _] = cpuid(7, 0);
    let has_xsave = features & 1 << 26 != 0;
    RDRAND.store(features & 1 << 30 != 0, Relaxed);
    FSGSBASE.store(extended & 1 != 0, Relaxed);
    // CR0 (SDM 3, 2.5): PG, AM, WP, NE, ET, MP, PE; no EM, no TS.
    let cr0: u64 = 0x8005_0033;
    // CR4: PAE, MCE, OSFXSR, OSXMMEXCPT, and what the processor has of UMIP, FSGSBASE, OSXSAVE, SMEP, SMAP.
    let mut cr4: u64 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10;
    for (present, bit) in [
        (more & 1 << 2, 11),
        (extended & 1, 16),
        (features & 1 << 26, 18),
        (extended & 1 << 7, 20),
        (extended & 1 << 20, 21),
    ] {
        if present != 0 {
            cr4 |= 1 << bit;
        }
    }
    let star = u64::from(USER_BASE) << 48 | u64::from(KERNEL_CODE) << 32;
    // SAFETY: each bit is one that the processor says it has, and none changes what the running code relies on.
    unsafe {
        asm!("mov cr0, {}", in(reg) cr0, options(nostack));
        asm!("mov cr4, {}", in(reg) cr4, options(nostack));
        // SCE, LME, LMA, NXE.
        wrmsr(EFER, 0xd01);
        wrmsr(STAR, star);
        wrmsr(LSTAR, syscall_entry as *const () as u64);
        wrmsr(SFMASK, CLEARED);
        wrmsr(FS_BASE, 0);
        wrmsr(GS_BASE, 0);
        wrmsr(KERNEL_GS_BASE, 0);
        asm!("mov dr7, {}", in(reg) 0u64, options(nostack));
        asm!("fninit", options(nostack));
    }
    if !has_xsave {
        return 0;
    }
    let [low, _, _, _] = cpuid(0xd, 0);
    // x87, SSE, AVX. Larger sets would make every checkpoint's records larger.
    let enabled = u64::from(low) & 7;
    // SAFETY: OSXSAVE is on, x87 is always among the bits, and AVX (with SSE) only if offered.
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") enabled as u32, in("edx") 0, options(nostack)) }
    enabled
}

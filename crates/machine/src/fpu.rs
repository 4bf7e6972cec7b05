//! The vector registers of threads. The kernel itself uses none, so a thread's stay loaded until another thread runs.
use crate::arch::cpuid;
use core::{
    arch::asm,
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
};
use shimos_hal::Fpu;

/// Bytes that FXSAVE writes: the legacy part, the same in both formats.
const LEGACY: usize = 512;
/// Bytes of the header behind it (SDM 1, 13.4.2).
const HEADER: usize = 64;
/// The largest area that we use: legacy part, header, AVX.
const LARGEST: usize = 1024;
/// Bits of MXCSR that exist if the processor does not say (SDM 1, 11.6.6).
const DEFAULT_MXCSR_MASK: u32 = 0xffbf;
/// MXCSR after reset.
const RESET_MXCSR: u32 = 0x1f80;
/// x87 control word after reset.
const RESET_FCW: u16 = 0x37f;

/// An area with the alignment that XSAVE wants.
#[repr(C, align(64))]
struct Area(UnsafeCell<[u8; LARGEST]>);

// SAFETY: a kernel runs on one core, and only the functions below touch it, none of which is used by an interrupt
// handler.
unsafe impl Sync for Area {}

static AREA: Area = Area(UnsafeCell::new([0; LARGEST]));
static ENABLED: AtomicU64 = AtomicU64::new(0);
static SIZE: AtomicUsize = AtomicUsize::new(LEGACY);
static MXCSR_MASK: AtomicU64 = AtomicU64::new(DEFAULT_MXCSR_MASK as u64);
/// Whose registers are loaded, if anyone's.
static OWNER: AtomicU64 = AtomicU64::new(0);
static OWNED: AtomicBool = AtomicBool::new(false);

/// Notes what the processor has: `enabled` is XCR0, 0 without XSAVE.
pub(crate) fn init(enabled: u64) {
    ENABLED.store(enabled, Relaxed);
    if enabled != 0 {
        let [_, size, _, _] = cpuid(0xd, 0);
        SIZE.store((size as usize).clamp(LEGACY + HEADER, LARGEST), Relaxed);
    }
    save_all();
    let mask = u32::from_le_bytes([28, 29, 30, 31].map(|at| area()[at]));
    MXCSR_MASK.store(if mask == 0 { DEFAULT_MXCSR_MASK } else { mask }.into(), Relaxed);
}

fn area() -> &'static mut [u8; LARGEST] {
    // SAFETY: see `Area`: callers use it in one place at a time and keep no reference.
    unsafe { &mut *AREA.0.get() }
}

fn save_all() {
    let enabled = ENABLED.load(Relaxed);
    // XSAVE leaves out what is in its reset state, so that must not show what another thread left here.
    area().fill(0);
    area()[..2].copy_from_slice(&RESET_FCW.to_le_bytes());
    // SAFETY: the area is aligned and large enough for the enabled features (`SIZE` is at most its size).
    unsafe {
        if enabled == 0 {
            asm!("fxsave64 [{}]", in(reg) AREA.0.get(), options(nostack));
        } else {
            asm!("xsave64 [{}]", in(reg) AREA.0.get(), in("eax") enabled as u32, in("edx") 0, options(nostack));
        }
    }
}

/// Loads a thread's registers, unless they are loaded. The area may be anything: what would fault is corrected.
#[inline]
pub(crate) fn load(fpu: &Fpu) {
    if !OWNED.load(Relaxed) || OWNER.load(Relaxed) != fpu.tag {
        replace(fpu);
    }
}

fn replace(fpu: &Fpu) {
    let enabled = ENABLED.load(Relaxed);
    let to = area();
    let len = fpu.area.len().min(SIZE.load(Relaxed));
    to[..len].copy_from_slice(&fpu.area[..len]);
    to[len..].fill(0);
    let mut present = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|n| to[LEGACY + n]));
    if len < LEGACY {
        to.fill(0);
        to[..2].copy_from_slice(&RESET_FCW.to_le_bytes());
        to[24..28].copy_from_slice(&RESET_MXCSR.to_le_bytes());
        present = 0;
    } else if len < LEGACY + HEADER {
        // Saved by FXSAVE: x87 and SSE are there.
        present = 3;
    }
    let mxcsr = u32::from_le_bytes([24, 25, 26, 27].map(|n| to[n])) & MXCSR_MASK.load(Relaxed) as u32;
    to[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    to[LEGACY..LEGACY + HEADER].fill(0);
    to[LEGACY..LEGACY + 8].copy_from_slice(&(present & enabled).to_le_bytes());
    // SAFETY: the area is aligned, the header says nothing that the processor refuses (SDM 1, 13.8.1), reserved MXCSR
    // bits are clear.
    unsafe {
        if enabled == 0 {
            asm!("fxrstor64 [{}]", in(reg) AREA.0.get(), options(nostack));
        } else {
            asm!("xrstor64 [{}]", in(reg) AREA.0.get(), in("eax") enabled as u32, in("edx") 0, options(nostack));
        }
    }
    OWNER.store(fpu.tag, Relaxed);
    OWNED.store(true, Relaxed);
}

/// Writes a thread's registers back, if they are loaded. They stay loaded.
pub(crate) fn save(fpu: &mut Fpu) {
    if !OWNED.load(Relaxed) || OWNER.load(Relaxed) != fpu.tag {
        return;
    }
    save_all();
    let size = if ENABLED.load(Relaxed) == 0 { LEGACY } else { SIZE.load(Relaxed) };
    fpu.area.resize(size, 0);
    fpu.area.copy_from_slice(&area()[..size]);
}

/// Forgets whose registers are loaded.
pub(crate) fn forget() {
    OWNED.store(false, Relaxed);
}

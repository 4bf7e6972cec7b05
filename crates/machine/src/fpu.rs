//! The vector registers of threads. The kernel itself uses none, so a thread's stay loaded until another thread runs.
//!
//! With AVX and nothing larger, which is the usual case, the vectors are moved by plain loads and stores in the layout of
//! XSAVE, and the instruction itself only serves x87: an emulator carries it out piece by piece, at many times the cost.
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
/// Where XSAVE puts the upper halves of the AVX registers, if the processor says so.
const UPPER: usize = LEGACY + HEADER;
/// Bytes of an area with AVX.
const WITH_AVX: usize = UPPER + 256;
/// Where the lower halves are.
const LOWER: usize = 160;
/// XCR0 with x87, SSE and AVX.
const AVX: u64 = 7;
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
static PLAIN: AtomicBool = AtomicBool::new(false);
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
        let [bytes, offset, _, _] = cpuid(0xd, 2);
        let usual = bytes as usize == 256 && offset as usize == UPPER && size as usize == WITH_AVX;
        PLAIN.store(enabled == AVX && usual, Relaxed);
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

/// Whether a thread's registers are loaded.
#[inline]
pub(crate) fn is_loaded(fpu: &Fpu) -> bool {
    OWNED.load(Relaxed) && OWNER.load(Relaxed) == fpu.tag
}

/// Loads a thread's registers. The area may be anything: what would fault is corrected.
pub(crate) fn load(fpu: &Fpu) {
    OWNER.store(fpu.tag, Relaxed);
    OWNED.store(true, Relaxed);
    if PLAIN.load(Relaxed)
        && let Some(from) = fpu.area.first_chunk::<WITH_AVX>()
    {
        return load_plain(from);
    }
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
}

/// What the header says is there.
fn present(area: &[u8; WITH_AVX]) -> u64 {
    u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| area[LEGACY + at]))
}

/// Loads registers from an area with AVX, which may be anything.
fn load_plain(from: &[u8; WITH_AVX]) {
    static NOTHING: [u8; 256] = [0; 256];
    let present = present(from);
    let to = area();
    to[..LOWER].copy_from_slice(&from[..LOWER]);
    to[LEGACY..LEGACY + HEADER].fill(0);
    to[LEGACY] = present as u8 & 1;
    let mxcsr = u32::from_le_bytes([24, 25, 26, 27].map(|at| from[at])) & MXCSR_MASK.load(Relaxed) as u32;
    let lower = if present & 2 != 0 { from[LOWER..].as_ptr() } else { NOTHING.as_ptr() };
    let upper = if present & 4 != 0 { from[UPPER..].as_ptr() } else { NOTHING.as_ptr() };
    // SAFETY: the area is aligned and its header names x87 alone or nothing; reserved MXCSR bits are clear; 256 bytes can
    // be read at each of the two pointers. The kernel's own code uses none of the registers.
    unsafe {
        asm!("xrstor64 [{}]", in(reg) AREA.0.get(), in("eax") 1, in("edx") 0, options(nostack));
        asm!(
            "ldmxcsr [{mxcsr}]",
            ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "vmovdqu xmm\\i, xmmword ptr [{lower} + 16 * \\i]",
            "vinsertf128 ymm\\i, ymm\\i, xmmword ptr [{upper} + 16 * \\i], 1",
            ".endr",
            mxcsr = in(reg) &mxcsr, lower = in(reg) lower, upper = in(reg) upper,
            options(nostack, readonly)
        );
    }
}

/// Writes the registers to an area with AVX.
fn save_plain(to: &mut [u8; WITH_AVX]) {
    let x87 = area();
    x87[LEGACY..LEGACY + HEADER].fill(0);
    // SAFETY: the areas are large enough, the one for XSAVE is aligned and its header clean.
    unsafe {
        asm!("xsave64 [{}]", in(reg) AREA.0.get(), in("eax") 1, in("edx") 0, options(nostack));
        asm!(
            ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "vmovdqu xmmword ptr [{to} + {lower} + 16 * \\i], xmm\\i",
            "vextractf128 xmmword ptr [{to} + {upper} + 16 * \\i], ymm\\i, 1",
            ".endr",
            "stmxcsr [{to} + 24]",
            to = in(reg) to.as_mut_ptr(), lower = const LOWER, upper = const UPPER,
            options(nostack)
        );
    }
    let in_use = x87[LEGACY] & 1;
    let mxcsr = [24, 25, 26, 27].map(|at| to[at]);
    if in_use != 0 {
        to[..LOWER].copy_from_slice(&x87[..LOWER]);
    } else {
        to[..LOWER].fill(0);
        to[..2].copy_from_slice(&RESET_FCW.to_le_bytes());
    }
    to[24..28].copy_from_slice(&mxcsr);
    to[28..32].copy_from_slice(&(MXCSR_MASK.load(Relaxed) as u32).to_le_bytes());
    to[LOWER + 256..UPPER].fill(0);
    to[LEGACY] = in_use | AVX as u8 & !1;
}

/// Writes a thread's registers back, which are loaded. They stay loaded.
pub(crate) fn save(fpu: &mut Fpu) {
    if PLAIN.load(Relaxed) {
        fpu.area.resize(WITH_AVX, 0);
        if let Some(to) = fpu.area.first_chunk_mut::<WITH_AVX>() {
            return save_plain(to);
        }
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

//! Access to frames through the direct map: this kernel's pool, and peers' pools while they are mapped. Every access is
//! checked; a frame number that is out of bounds is a mistake of this kernel and kills it.
use crate::{
    info::{info, me},
    layout::DIRECT_BASE,
    paging::kernel::{Peer, set_peer},
    shell::call::{Answer, Call, ask},
};
use core::{
    arch::asm,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use shimos_abi::{
    addr::{Frame, PAGE},
    ids::KernelId,
};

/// One bit a peer whose pool is mapped.
static MAPPED: AtomicU64 = AtomicU64::new(0);

#[inline]
fn is_mapped(kernel: usize) -> bool {
    MAPPED.load(Relaxed) >> kernel & 1 != 0
}

/// Shows or hides a peer's pool.
pub(crate) fn set_readable(peer: KernelId, how: Peer) {
    let kernel = peer.index();
    let info = info();
    if kernel >= info.kernels as usize || info.entries[kernel].pool.first == me().pool.first {
        return;
    }
    let old = MAPPED.load(Relaxed);
    let new = if how == Peer::Readable { old | 1 << kernel } else { old & !(1 << kernel) };
    if old == new {
        return;
    }
    // Not to see what the shell refuses is an error that the caller finds in what it cannot read.
    let granted = match how {
        Peer::Readable => ask(Call::ShowPeer(peer)) == Answer::Granted,
        Peer::Hidden => true,
    };
    if granted {
        set_peer(info.entries[kernel].pool, how);
        MAPPED.store(new, Relaxed);
    }
    if how == Peer::Hidden {
        let _ = ask(Call::HidePeer(peer));
    }
}

/// Whether a frame may be read now.
#[inline]
pub(crate) fn readable(frame: Frame) -> bool {
    if me().pool.contains(frame) {
        return true;
    }
    if MAPPED.load(Relaxed) == 0 {
        return false;
    }
    let info = info();
    (0..info.kernels as usize).any(|kernel| is_mapped(kernel) && info.entries[kernel].pool.contains(frame))
}

#[inline]
fn source(frame: Frame) -> *const u64 {
    assert!(readable(frame), "frame {:#x} cannot be read", frame.0);
    (DIRECT_BASE + frame.addr()) as *const u64
}

#[inline]
fn target(frame: Frame) -> *mut u64 {
    assert!(me().pool.contains(frame), "frame {:#x} is not ours to write", frame.0);
    (DIRECT_BASE + frame.addr()) as *mut u64
}

/// Copies out of a frame.
#[inline]
pub(crate) fn read(frame: Frame, offset: usize, into: &mut [u8]) {
    assert!(offset <= PAGE && into.len() <= PAGE - offset, "read beyond a frame");
    // SAFETY: `source` checked that the frame is mapped, the range lies inside it; frames are never Rust objects, so
    // `into` does not overlap. Peers' frames belong to the dead, or are lent and not written.
    unsafe { core::ptr::copy_nonoverlapping(source(frame).cast::<u8>().add(offset), into.as_mut_ptr(), into.len()) }
}

/// Copies into a frame.
#[inline]
pub(crate) fn write(frame: Frame, offset: usize, from: &[u8]) {
    assert!(offset <= PAGE && from.len() <= PAGE - offset, "write beyond a frame");
    // SAFETY: as for `read`; `target` checked that the frame is of our pool.
    unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), target(frame).cast::<u8>().add(offset), from.len()) }
}

/// Copies a whole frame. Eight words are loaded before eight are stored: an emulator's direct-mapped TLB then suffers
/// least from pages that share a place in it, and string moves of bytes would be ten times slower there.
pub(crate) fn copy(from: Frame, to: Frame) {
    let (from, to) = (source(from), target(to));
    // SAFETY: both frames are mapped and whole pages; the loop moves exactly one page.
    unsafe {
        asm!(
            "2:",
            ".irp at, 0, 64, 128, 192",
            "mov r8, [rsi + \\at]", "mov r9, [rsi + \\at + 8]", "mov r10, [rsi + \\at + 16]", "mov r11, [rsi + \\at + 24]",
            "mov r12, [rsi + \\at + 32]", "mov r13, [rsi + \\at + 40]", "mov r14, [rsi + \\at + 48]", "mov r15, [rsi + \\at + 56]",
            "mov [rdi + \\at], r8", "mov [rdi + \\at + 8], r9", "mov [rdi + \\at + 16], r10", "mov [rdi + \\at + 24], r11",
            "mov [rdi + \\at + 32], r12", "mov [rdi + \\at + 40], r13", "mov [rdi + \\at + 48], r14", "mov [rdi + \\at + 56], r15",
            ".endr",
            "add rsi, 256", "add rdi, 256", "dec ecx", "jnz 2b",
            inout("rsi") from => _, inout("rdi") to => _, inout("ecx") (PAGE / 256) as u32 => _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            options(nostack)
        );
    }
}

/// Copies a part of a frame. Within one frame the two parts may overlap.
pub(crate) fn copy_part(from: (Frame, usize), to: (Frame, usize), len: usize) {
    assert!(from.1 <= PAGE && len <= PAGE - from.1 && to.1 <= PAGE && len <= PAGE - to.1, "copy beyond a frame");
    let (source, target) = (source(from.0).cast::<u8>(), target(to.0).cast::<u8>());
    // SAFETY: both frames are mapped, and both ranges lie inside them. Two frames never overlap.
    unsafe {
        if from.0 == to.0 {
            core::ptr::copy(source.add(from.1), target.add(to.1), len);
        } else {
            core::ptr::copy_nonoverlapping(source.add(from.1), target.add(to.1), len);
        }
    }
}

/// Fills a frame with zeros, eight words at a time: string instructions are dear in an emulator.
pub(crate) fn zero(frame: Frame) {
    // SAFETY: the frame is of our pool; the loop stores to exactly one page.
    unsafe {
        asm!(
            "2:",
            "mov [rdi], rax", "mov [rdi + 8], rax", "mov [rdi + 16], rax", "mov [rdi + 24], rax",
            "mov [rdi + 32], rax", "mov [rdi + 40], rax", "mov [rdi + 48], rax", "mov [rdi + 56], rax",
            "add rdi, 64", "dec ecx", "jnz 2b",
            inout("rdi") target(frame) => _, inout("ecx") (PAGE / 64) as u32 => _, in("rax") 0u64,
            options(nostack)
        );
    }
}

/// Reads one word.
#[inline]
pub(crate) fn read_word(frame: Frame, index: usize) -> u64 {
    assert!(index < PAGE / 8, "word beyond a frame");
    // SAFETY: mapped and inside the frame.
    unsafe { source(frame).add(index).read_volatile() }
}

/// Reads some words.
#[inline]
pub(crate) fn read_words<const N: usize>(frame: Frame, index: usize) -> [u64; N] {
    assert!(index < PAGE / 8 && N <= PAGE / 8 - index, "words beyond a frame");
    let first = source(frame);
    // SAFETY: mapped and inside the frame.
    core::array::from_fn(|at| unsafe { first.add(index + at).read_volatile() })
}

/// The words of a frame of our pool. They may change at any time: page tables are looked at that way.
#[inline]
pub(crate) fn words(frame: Frame) -> &'static [AtomicU64; PAGE / 8] {
    // SAFETY: our pool is mapped for as long as this kernel runs, and atomic words may be changed through other pointers.
    unsafe { &*target(frame).cast() }
}

/// Writes one word, in one store.
#[inline]
pub(crate) fn write_word(frame: Frame, index: usize, value: u64) {
    assert!(index < PAGE / 8, "word beyond a frame");
    // SAFETY: of our pool and inside the frame.
    unsafe { target(frame).add(index).write_volatile(value) }
}

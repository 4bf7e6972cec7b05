//! A copy of what all kernels share of the image, code and constants, where no kernel reaches it. A bit that flips in shared code
//! kills one kernel after the other; so whoever dies has the code that it was in set right first, before its core parks.
//!
//! The pages that it died in may not be those that it died of, so the shell looks through all of it when the core starts again; and
//! when a kernel takes a program over again that had no checkpoint meanwhile. While a kernel is idle, its shell does the same in parts.
use super::{
    mend::{Mended, mend},
    permit,
    record::word,
};
use crate::{
    boot::image,
    info::{Info, info},
};
use core::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};
use shimos_abi::shared::{death, outgoing};

/// Parts of the image. One takes some microseconds.
pub const PARTS: u64 = 32;
const PAGE_BYTES: u64 = 4096;

/// Pages that all kernels share: code, constants, and the pattern of initialised data.
pub fn pages() -> u64 {
    image::text().pages + image::rodata().pages + image::data().pages
}

/// Some pages of the image, or of the copy, at a physical address.
fn words(at: u64, pages: &Range<u64>) -> &'static [AtomicU64] {
    let count = (pages.end - pages.start) * PAGE_BYTES / 8;
    // SAFETY: the image and the shells' memory are mapped one to one, writable, where shells run; all use them as atomic words,
    // and the processor as instructions.
    unsafe { core::slice::from_raw_parts((at + pages.start * PAGE_BYTES) as *const AtomicU64, count as usize) }
}

fn copy_at(info: &Info) -> u64 {
    info.shell + (permit::MSR_PAGES + permit::IO_PAGES) * PAGE_BYTES
}

/// Makes the copy. By the boot core, once.
pub fn keep(info: &Info) {
    let _ = mend(words(copy_at(info), &(0..pages())), words(image::text().phys, &(0..pages())));
}

/// Sets the code right that a life was in when it ended: where its death record says it was, and the calls that led there.
pub fn mend_after(kernel: u32, life: u64) {
    let info = info();
    let record = |at: usize| word(info, kernel, outgoing::DEATH + at).load(SeqCst);
    if record(death::VALID) != death::MAGIC || record(death::INCARNATION) != life.wrapping_sub(1) {
        return;
    }
    let calls = (0..death::TRACE_WORDS).map(|n| record(death::TRACE + n)).take_while(|address| *address != 0);
    let mut last = None;
    for address in core::iter::once(record(death::RIP)).chain(calls) {
        let Some(offset) = address.checked_sub(image::text().virt) else { continue };
        let page = offset / PAGE_BYTES;
        if page < pages() && last != Some(page) {
            last = Some(page);
            // What led to a wrong instruction often lies shortly before it.
            mend_pages(kernel, page.saturating_sub(1)..(page + 1).min(pages()));
        }
    }
}

/// Sets the next part of the image right, from page `next` on.
pub fn scrub(kernel: u32, next: &mut u64) {
    let end = (*next + part()).min(pages());
    mend_pages(kernel, (*next).min(end)..end);
    *next = if end == pages() { 0 } else { end };
}

/// Sets all of it right. With a part more than there are, as `next` may lie within one.
pub fn scrub_all(kernel: u32, next: &mut u64) {
    (0..=PARTS).for_each(|_| scrub(kernel, next));
}

/// Pages of a part.
pub fn part() -> u64 {
    pages().div_ceil(PARTS)
}

fn mend_pages(kernel: u32, range: Range<u64>) {
    let info = info();
    let first = range.start * PAGE_BYTES;
    if let Some(mended) = mend(words(image::text().phys, &range), words(copy_at(info), &range)) {
        tell(info, kernel, image::text().virt + first, mended);
    }
}

/// Says so to the kernel that starts next on this core.
fn tell(info: &Info, kernel: u32, base: u64, Mended { first, words }: Mended) {
    let told = word(info, kernel, outgoing::MENDED);
    if told.fetch_add(words as u64, SeqCst) == 0 {
        word(info, kernel, outgoing::MENDED_AT).store(base + first as u64 * 8, SeqCst);
    }
}

//! The shared area at the machine's start: laid out anew, or taken over from before a reset.
//!
//! A reset leaves the memory as it is, but for what firmware and loader write: the lowest 640 KiB, the image's place, and
//! nothing else (the loader loads the image anew). The plan comes out as before, as it is made from the same facts. So the
//! shared area is where it was, and so are the pools with the images.
use super::{memmap::option_is, stage::tables_of};
use crate::{
    arch::{cpuid, rdmsr, rdtsc, wrmsr},
    clock,
    info::{Info, scale_of},
    say,
};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use shimos_abi::{
    ids::{KernelId, MAX_KERNELS},
    shared::{LAYOUT_VERSION, Layout, MASTER_MAGIC, commons, master, outgoing},
    time::Nanos,
};
use shimos_ikc::{
    Area,
    warm::{self, Entry, Resumed},
};

/// Added to the time-stamp counter (SDM 3, 18.17.3).
pub const TSC_ADJUST: u32 = 0x3b;
/// The first incarnation, as mailboxes say it: plus one.
const FIRST: u64 = 2;
/// How much a kernel's latest stamp may be behind its end, when nothing else tells the time.
const UNSEEN: u64 = 1_000_000_000;
/// How wrong the battery-backed clock may be.
const WALL_ERROR: u64 = 10_000_000_000;

/// Lays the shared area out, or takes it over; sets the clock that belongs to it. Returns what was found, if it was taken
/// over.
///
/// # Safety
/// The area is the caller's alone, and mapped one to one.
pub unsafe fn begin(info: &mut Info) -> Option<Resumed> {
    let layout = Layout::new(info.kernels as usize);
    // SAFETY: the caller's; all accesses are atomic ones to its words.
    let words: &'static [AtomicU64] =
        unsafe { core::slice::from_raw_parts(info.shared as *const AtomicU64, layout.words()) };
    let area = Area::new(words, layout);
    let resumed = if option_is(info.cmdline(), "start", "cold") {
        None
    } else {
        match examine(area, words, info) {
            Ok(now) => Some(warm::resume(area, now)),
            Err(why) => {
                if let Some(why) = why {
                    say!("shimos: what was in memory is not used: {why}");
                }
                None
            }
        }
    };
    if resumed.is_none() {
        clear(words, layout, info);
    }
    warm::seal(area);
    resumed
}

fn entry(info: &Info, kernel: KernelId) -> Entry {
    let entry = &info.entries[kernel.index() % MAX_KERNELS];
    let number = |value: u32| u64::from(value);
    [
        number(entry.apic),
        number(entry.private.first.0),
        number(entry.private.count),
        number(entry.pool.first.0),
        number(entry.pool.count),
    ]
}

/// Whether the area is that of an earlier start; then its clock goes on, and the time is returned. `None` is a memory
/// that nobody has used.
fn examine(area: Area, words: &[AtomicU64], info: &mut Info) -> Result<Nanos, Option<&'static str>> {
    warm::examine(area, |kernel| entry(info, kernel)).map_err(|why| match why {
        warm::Unusable::Fresh => None,
        why => Some(why.why()),
    })?;
    let word = |at: usize| words.get(at).map_or(0, |word| word.load(Relaxed));
    // The very same numbers, whatever was measured now: programs have read the time by them.
    let scale = scale_of(word(master::TSC_HZ));
    let (base, wall_base) = (word(master::TSC_BASE), word(master::WALL_BASE));
    let since = clock::read_wall().checked_sub(wall_base).filter(|_| wall_base != 0);
    let limit = Nanos(since.map_or(u64::MAX, |since| since.saturating_add(WALL_ERROR)));
    let last = warm::last_time(area, limit);
    let at = |tsc: u64| Nanos(((u128::from(tsc.saturating_sub(base)) * u128::from(scale)) >> 32) as u64);
    let mut now = at(rdtsc());
    if now < last {
        // The counter has begun anew. It is set to what it would be, on this core now and on others when they start.
        let [_, extended, _, _] = cpuid(7, 0);
        if extended & 1 << 1 == 0 {
            return Err(Some("its clock cannot be gone on with"));
        }
        let wanted = last.0.saturating_add(UNSEEN).max(since.unwrap_or(0).min(limit.0));
        let ticks = ((u128::from(wanted) << 32) / u128::from(scale.max(1))) as u64;
        let adjust = base.wrapping_add(ticks).wrapping_sub(rdtsc()).wrapping_add(rdmsr(TSC_ADJUST));
        // SAFETY: the processor has the register; nothing has told a time in this start yet.
        unsafe { wrmsr(TSC_ADJUST, adjust) };
        info.tsc_adjust = adjust;
        now = at(rdtsc());
    }
    info.tsc_hz = word(master::TSC_HZ);
    info.lapic_hz = word(master::LAPIC_HZ);
    info.tsc_scale = scale;
    info.tsc_base = base;
    info.wall_base = wall_base;
    Ok(now)
}

/// Clears the area and writes the master table. Packets' content is left as it is.
fn clear(words: &[AtomicU64], layout: Layout, info: &mut Info) {
    info.wall_base = clock::read_wall();
    info.tsc_base = rdtsc();
    let zero = |from: usize, count: usize| words.iter().skip(from).take(count).for_each(|word| word.store(0, Relaxed));
    let put = |at: usize, value: u64| {
        if let Some(word) = words.get(at) {
            word.store(value, Relaxed);
        }
    };
    zero(0, commons::START + commons::WORDS);
    for kernel in (0..info.kernels as u16).map(KernelId) {
        zero(layout.outgoing(kernel), outgoing::packets(layout.kernels()));
        let at = master::ENTRIES + kernel.index() * master::ENTRY_WORDS;
        for (word, value) in entry(info, kernel).into_iter().enumerate() {
            put(at + word, value);
        }
        put(at + master::ENTRY_FIRST, FIRST - 1);
        put(at + master::ENTRY_TABLES, tables_of(info, &info.entries[kernel.index() % MAX_KERNELS]));
        put(layout.mailbox(kernel) + commons::MAILBOX_COMMAND, FIRST);
    }
    put(master::VERSION, LAYOUT_VERSION);
    put(master::KERNELS, info.kernels.into());
    put(master::TSC_HZ, info.tsc_hz);
    put(master::LAPIC_HZ, info.lapic_hz);
    put(master::TSC_BASE, info.tsc_base);
    put(master::WALL_BASE, info.wall_base);
    put(master::STARTS, 1);
    put(master::MAGIC, MASTER_MAGIC);
}

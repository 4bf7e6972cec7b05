//! Starting the other cores: INIT, SIPI, a second SIPI for who did not come, and an end to patience.
use crate::{
    apic::{Ipi, LAPIC},
    arch::{pause, rdtsc},
    info::Info,
    layout::SHARED_BASE,
    say,
};
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use shimos_abi::{
    control::Device,
    ids::KernelId,
    shared::{
        Layout,
        commons::{DEVICE_OWNERS, MAILBOX_COMMAND, MAILBOX_RUNNING, START, WORDS},
    },
};

/// How long a core may take to come, in seconds. The host may have less processors than we have cores.
const PATIENCE: u64 = 10;

/// A word of a kernel's mailbox.
pub fn mailbox(kernel: u32, word: usize) -> &'static AtomicU64 {
    let at = Layout::new(0).mailbox(KernelId(kernel as u16)) + word;
    // SAFETY: the commons are mapped here under all page tables, and only ever accessed as atomic words.
    unsafe { &*((SHARED_BASE + at as u64 * 8) as *const AtomicU64) }
}

/// A word of the commons, by its place in the shared area.
pub(crate) fn commons_word(at: usize) -> &'static AtomicU64 {
    assert!((START..START + WORDS).contains(&at), "no word of the commons");
    // SAFETY: as in `mailbox`.
    unsafe { &*((SHARED_BASE + at as u64 * 8) as *const AtomicU64) }
}

/// The owner's word of a device.
pub(crate) fn device_owner(device: Device) -> u64 {
    commons_word(DEVICE_OWNERS + device as usize).load(SeqCst)
}

fn wait(info: &Info, micros: u64) {
    let start = rdtsc();
    while rdtsc().wrapping_sub(start) < info.tsc_hz * micros / 1_000_000 {
        pause();
    }
}

/// Starts all cores but our own: their kernels are ordered to boot. Those that do not come are told to stay away.
pub fn start(info: &Info) {
    let page = info.trampoline_page();
    let others = || (0..info.kernels).filter(|&kernel| kernel != info.boot_kernel);
    let ordered = |kernel: u32| mailbox(kernel, MAILBOX_COMMAND).load(SeqCst);
    let came = |kernel: u32| mailbox(kernel, MAILBOX_RUNNING).load(SeqCst) >= ordered(kernel);
    if info.kernels == 1 {
        return;
    }
    for kernel in others() {
        LAPIC.send(info.entries[kernel as usize].apic, Ipi::Init);
    }
    // SDM 3, 8.4.4.1: ten milliseconds from INIT to the first SIPI.
    wait(info, 10_000);
    for kernel in others() {
        LAPIC.send(info.entries[kernel as usize].apic, Ipi::Startup(page));
    }
    let begin = rdtsc();
    let mut again = false;
    while !others().all(came) {
        let waited = rdtsc().wrapping_sub(begin);
        if !again && waited > info.tsc_hz / 5 {
            again = true;
            for kernel in others().filter(|&kernel| !came(kernel)) {
                LAPIC.send(info.entries[kernel as usize].apic, Ipi::Startup(page));
            }
        }
        if waited > info.tsc_hz * PATIENCE {
            break;
        }
        pause();
    }
    for kernel in others() {
        // A core that comes after this stays parked.
        let order = ordered(kernel);
        if !came(kernel) && mailbox(kernel, MAILBOX_COMMAND).compare_exchange(order, 0, SeqCst, SeqCst).is_ok() {
            say!("k{kernel}: core with APIC id {} did not start", info.entries[kernel as usize].apic);
        }
    }
}

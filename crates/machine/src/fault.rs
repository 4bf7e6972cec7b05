//! Faults to order (paper, Table III, the isolation tests, and other ways to die). Each really is what it says.
use crate::{
    apic::{Ipi, LAPIC},
    arch::{cli, pause, sti},
    boot::image,
    info::{info, life},
    layout::{DIRECT_BASE, SHARED_BASE, STACKS_BASE},
    paging::kernel,
    wild,
};
use core::{
    arch::asm,
    hint::black_box,
    sync::atomic::{
        AtomicBool,
        Ordering::{Relaxed, SeqCst},
    },
};
use shimos_abi::{
    control::{Fault, Partition},
    ids::KernelId,
    shared::{Layout, commons, outgoing},
    time::Nanos,
};

/// The lock of the ordered deadlock.
static LOCK: AtomicBool = AtomicBool::new(false);
/// Whether NMIs are never come back from.
static STUCK: AtomicBool = AtomicBool::new(false);
/// Whether interrupts to and from peers are lost.
static LOSING: AtomicBool = AtomicBool::new(false);
/// Halves of a heartbeat that the kernel stands still for: fewer than are waited for since its last stamp, and many more.
const SLOW: u64 = 3;
const STALL: u64 = 100;

/// Another kernel; ourselves if there is none.
fn peer() -> KernelId {
    let kernels = info().kernels.max(1);
    KernelId(((u32::from(life().kernel.0) + 1) % kernels) as u16)
}

/// Whether interrupts to and from peers are to be lost.
#[inline]
pub(crate) fn loses_ipis() -> bool {
    LOSING.load(Relaxed)
}

/// Called by an NMI's handler: does not return if that is ordered.
pub(crate) fn on_nmi() {
    while STUCK.load(Relaxed) {
        pause();
    }
}

/// Does nothing, and lets nothing in, for so many halves of a heartbeat.
fn stand_still(halves: u64) {
    // SAFETY: a word of the shared area, which is mapped and accessed as atomic words only.
    let interval = unsafe {
        let word = (SHARED_BASE + commons::HEARTBEAT as u64 * 8) as *const core::sync::atomic::AtomicU64;
        (*word).load(Relaxed)
    };
    let until = crate::clock::now() + Nanos(interval.saturating_mul(halves) / 2);
    cli();
    while crate::clock::now() < until {
        pause();
    }
}

/// Dies in the given way. Returns if the machine failed to stop the deed, or if the kernel is to live with it.
pub(crate) fn inject(fault: Fault, seed: u64) {
    let peer_entry = &info().entries[peer().index()];
    let peer_pool = (DIRECT_BASE + peer_entry.pool.first.addr()) as *mut u64;
    // A pool may be lent, and then it is no fault to read there.
    let peer_heap = (DIRECT_BASE + peer_entry.heap) as *mut u64;
    // SAFETY: there is none; each of these is meant to be stopped by the page tables.
    unsafe {
        match fault {
            Fault::NullPointer => {
                black_box(black_box(core::ptr::null::<u64>()).read_volatile());
            }
            // Damage was done by the kernel itself.
            Fault::Panic | Fault::DamagePage | Fault::DamageRecords => panic!("ordered panic"),
            Fault::InfiniteLoop => {
                sti();
                loop {
                    pause();
                }
            }
            Fault::IrqDeadlock => {
                cli();
                LOCK.store(true, SeqCst);
                while LOCK.swap(true, SeqCst) {
                    pause();
                }
            }
            Fault::ReadPeer => {
                black_box(peer_heap.read_volatile());
            }
            Fault::WritePeer => peer_pool.write_volatile(1),
            Fault::WriteText => (image::text().virt as *mut u64).write_volatile(0),
            Fault::WriteRodata => (image::rodata().virt as *mut u64).write_volatile(0),
            Fault::ExecuteData => {
                // A return instruction, so that it would come back if it could be executed.
                static mut CODE: [u8; 16] = [0xc3; 16];
                let code: extern "C" fn() = core::mem::transmute(black_box(&raw mut CODE));
                code();
            }
            Fault::WritePeerShared => {
                let at = Layout::new(info().kernels as usize).outgoing(peer()) + outgoing::STAMP;
                ((SHARED_BASE + at as u64 * 8) as *mut u64).write_volatile(0);
            }
            Fault::StackOverflow => {
                black_box(deeper(black_box(1)));
            }
            Fault::NmiLoop => stuck_in_nmi(),
            // Where the exception's frame would go there is no page.
            Fault::DoubleFault => asm!("mov rsp, {}", "ud2", in(reg) STACKS_BASE + 0x1000, options(noreturn)),
            Fault::DeadCore => {
                cli();
                if u32::from(life().kernel.0) == info().boot_kernel {
                    stuck_in_nmi();
                }
                // It waits for a start-up interrupt, deaf to all others.
                LAPIC.send(LAPIC.id(), Ipi::Init);
                loop {
                    pause();
                }
            }
            Fault::LostIpis => LOSING.store(true, Relaxed),
            Fault::Stall => stand_still(STALL),
            Fault::Slow => stand_still(SLOW),
            Fault::WildHeap => wild::heap(seed),
            Fault::WildTables => wild::tables(seed),
            Fault::WildOutgoing => wild::outgoing(seed),
            Fault::WildQueue => wild::queues(seed),
            Fault::WildCommons => wild::commons(seed),
            Fault::TripleFault => {
                // Without a handler the exception is a double fault, and that one a triple fault.
                let empty = [0_u16; 5];
                asm!("lidt [{}]", "ud2", in(reg) &empty);
            }
            Fault::MapPeer => {
                let pool = info().entries[peer().index()].pool;
                kernel::map_writable(pool);
                // Its last word: what damage is done is in one frame of programs.
                let last = (pool.first.addr() + u64::from(pool.count) * 4096 - 8) + DIRECT_BASE;
                (last as *mut u64).write_volatile(1);
            }
        }
    }
}

fn stuck_in_nmi() {
    STUCK.store(true, SeqCst);
    match info().partition {
        Partition::None => LAPIC.send(LAPIC.id(), Ipi::Nmi),
        // An NMI would go to the shell.
        // SAFETY: the handler of vector 2 does not come back.
        Partition::Svm => unsafe { asm!("int 2") },
    }
    loop {
        pause();
    }
}

/// Never ends, and every call keeps its frame.
#[allow(unconditional_recursion, reason = "that is the fault")]
fn deeper(n: u64) -> u64 {
    let mut block = [n; 64];
    black_box(&mut block);
    deeper(n + 1) + block[(n % 64) as usize]
}

//! Faults to order (paper, Table III, and the isolation tests). Each really is what it says.
use crate::{
    arch::{cli, pause, sti},
    boot::image,
    info::{info, life},
    layout::{DIRECT_BASE, SHARED_BASE},
};
use core::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};
use shimos_abi::{
    control::Fault,
    ids::KernelId,
    shared::{Layout, outgoing},
};

/// The lock of the ordered deadlock.
static LOCK: AtomicBool = AtomicBool::new(false);

/// Another kernel; ourselves if there is none.
fn peer() -> KernelId {
    let kernels = info().kernels.max(1);
    KernelId(((u32::from(life().kernel.0) + 1) % kernels) as u16)
}

/// Dies in the given way. Returns only if the machine failed to stop the deed.
pub(crate) fn inject(fault: Fault) {
    let peer_memory = (DIRECT_BASE + info().entries[peer().index()].pool.first.addr()) as *mut u64;
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
                black_box(peer_memory.read_volatile());
            }
            Fault::WritePeer => peer_memory.write_volatile(1),
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
        }
    }
}

/// Never ends, and every call keeps its frame.
#[allow(unconditional_recursion, reason = "that is the fault")]
fn deeper(n: u64) -> u64 {
    let mut block = [n; 64];
    black_box(&mut block);
    deeper(n + 1) + block[(n % 64) as usize]
}

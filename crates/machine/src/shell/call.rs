//! What a kernel may ask its shell for, and whether it is granted: both sides.
use super::{Shell, original, pool_of_peer, registers_of};
use crate::{
    boot::cores::{commons_word, mailbox},
    info::info,
};
use core::{arch::asm, sync::atomic::Ordering::SeqCst};
use shimos_abi::{
    control::{Device, Partition},
    ids::{KernelId, MAX_PROGRAMS},
    shared::commons::{DEVICE_TAKERS, HOMES, MAILBOX_PARKED, MAILBOX_RUNNING},
};
use shimos_hal::Scrub;

/// The number of the call that changes no tables.
pub const SCRUB: u64 = 5;

/// What can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// The end of this kernel, and its core into the park page.
    Park,
    /// A view of a peer's pool.
    ShowPeer(KernelId),
    /// The end of that.
    HidePeer(KernelId),
    /// A device's registers.
    ShowDevice(Device),
    /// The end of that.
    HideDevice(Device),
    /// A look at the code that all kernels share.
    Scrub(Scrub),
}

/// What the shell says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is done.
    Granted,
    /// The shared words say that it must not be.
    Refused,
}

/// Asks the shell; without one, there is nothing to ask for.
pub fn ask(call: Call) -> Answer {
    if info().partition == Partition::None {
        return Answer::Granted;
    }
    let (number, argument) = match call {
        Call::Park => (0u64, 0u64),
        Call::ShowPeer(peer) => (1, peer.0.into()),
        Call::HidePeer(peer) => (2, peer.0.into()),
        Call::ShowDevice(device) => (3, device as u64),
        Call::HideDevice(device) => (4, device as u64),
        Call::Scrub(Scrub::Part) => (SCRUB, 0),
        Call::Scrub(Scrub::All) => (SCRUB, 1),
    };
    let answer: u64;
    // SAFETY: a kernel of a partitioned machine is a guest; the shell changes RAX alone, and no memory.
    unsafe { asm!("vmmcall", inlateout("rax") number => answer, in("rdi") argument, options(nostack)) };
    if answer == 1 { Answer::Granted } else { Answer::Refused }
}

fn device(number: u64) -> Option<Device> {
    Device::ALL.into_iter().find(|device| *device as u64 == number)
}

impl Shell {
    /// Answers a call: 1 if it is granted.
    pub(super) fn call(&mut self, number: u64, argument: u64) -> u64 {
        let info = info();
        let peer = u32::try_from(argument).ok().filter(|peer| *peer < info.kernels && *peer != self.kernel);
        let granted = match number {
            0 => self.park(),
            1 => peer.filter(|peer| self.may_see(*peer)).map(|peer| pool_of_peer(info, peer).map(&mut self.tables)),
            2 => peer.map(|peer| pool_of_peer(info, peer).hidden().map(&mut self.tables)),
            3 => device(argument).filter(|device| self.may_have(*device)).map(|device| self.show(device)),
            4 => device(argument).map(|device| self.hide(device)),
            SCRUB => {
                match argument {
                    0 => original::scrub(self.kernel, &mut self.scrubbed),
                    _ => original::scrub_all(self.kernel, &mut self.scrubbed),
                }
                Some(())
            }
            _ => None,
        };
        granted.is_some().into()
    }

    /// Whether a kernel may look into a peer's pool: the peer is parked; or a program is to be taken, and its pages may lie
    /// in any memory: its home is a life that has ended, or it is offered to this kernel.
    fn may_see(&self, peer: u32) -> bool {
        mailbox(peer, MAILBOX_PARKED).load(SeqCst) != 0
            || (0..MAX_PROGRAMS).any(|program| self.may_take(commons_word(HOMES + program).load(SeqCst)))
    }
    fn may_take(&self, home: u64) -> bool {
        let (kernel, incarnation) = ((home >> 48) as u32, home >> 16 & 0xffff_ffff);
        match home & 0xf {
            3 => home >> 8 & 0xff == u64::from(self.kernel),
            1 | 2 if kernel < info().kernels => {
                let word = incarnation + 1;
                mailbox(kernel, MAILBOX_PARKED).load(SeqCst) == word
                    || mailbox(kernel, MAILBOX_RUNNING).load(SeqCst) != word
            }
            _ => false,
        }
    }

    /// Whether a kernel may have a device's registers: it is the one that takes it, or nobody does.
    fn may_have(&self, device: Device) -> bool {
        let taker = commons_word(DEVICE_TAKERS + device as usize).load(SeqCst);
        taker == 0 || taker == self.word.wrapping_sub(1) << 32 | u64::from(self.kernel)
    }
    fn show(&mut self, device: Device) {
        self.devices |= 1 << device as u8;
        registers_of(info(), device, &mut |run| run.map(&mut self.tables));
    }
    fn hide(&mut self, device: Device) {
        self.devices &= !(1 << device as u8);
        registers_of(info(), device, &mut |run| run.hidden().map(&mut self.tables));
        // Two small devices may share a page.
        for other in Device::ALL.into_iter().filter(|other| self.devices >> *other as u8 & 1 != 0) {
            registers_of(info(), other, &mut |run| run.map(&mut self.tables));
        }
    }
}

//! A kernel that the administrator wants empty: its programs and devices go elsewhere; then, if that was asked for, it ends
//! itself, so that the monitor gives its core a fresh life.
//!
//! What is wanted stands in two words of the commons, so that any kernel can be asked, and an answer that was lost or a
//! death on the way changes nothing.
use crate::{
    daemon::Message,
    device::{
        claim::{claim, has_ended},
        console::ConsoleOwner,
    },
    kernel::Kernel,
};
use alloc::{format, string::String, vec::Vec};
use shimos_abi::{
    control::{DeathCause, Device, Drain, KernelState, Response},
    ids::{Incarnation, KernelId, Life, ProgramId},
    time::Nanos,
};
use shimos_hal::Machine;
use shimos_ikc::{DeathRecord, Drained, Rebooting};
use shimos_monitor::{Refusal, Work};

/// After so long an offer is repeated, and what failed is tried again.
const REPEAT: Nanos = Nanos::millis(100);
/// Programs that are moved at a time.
const AT_A_TIME: usize = 2;

/// What is being done to empty this kernel.
#[derive(Default)]
pub struct Emptying {
    /// When to look again.
    due: Nanos,
    /// A device that was given up, and who is to take it.
    handing: Option<Handing>,
    /// Kernels that could not take something, one bit each; forgotten when all were asked.
    refused: u64,
    /// Why something stays.
    pub trouble: Option<String>,
}

struct Handing {
    device: Device,
    to: Life,
    asked: Nanos,
}

impl<M: Machine> Kernel<M> {
    /// Writes down what an administrator wants of a kernel.
    pub(crate) fn drain(&mut self, kernel: KernelId, drain: Drain) -> Response {
        let area = self.services.ikc.area();
        if let Err(why) = self.check_emptied(kernel) {
            return Response::Failed(why);
        }
        match drain {
            Drain::Begin => area.set_drained(kernel, Drained::Yes),
            Drain::End if area.is_rebooting(kernel) => {
                return Response::Failed(format!("{kernel} is about to be given a fresh life: wait for that"));
            }
            Drain::End => area.set_drained(kernel, Drained::No),
        }
        Response::Done
    }

    /// Writes down that a life of a kernel is to be followed by a fresh one.
    pub(crate) fn reboot(&mut self, kernel: KernelId, incarnation: Option<Incarnation>) -> Response {
        let area = self.services.ikc.area();
        if let Err(why) = self.check_emptied(kernel) {
            return Response::Failed(why);
        }
        // An order for a life that is over is obeyed already.
        if incarnation.is_none_or(|meant| area.incarnation(kernel) == Some(meant)) {
            area.set_rebooting(kernel, Rebooting::Asked);
        }
        Response::Done
    }

    fn check_emptied(&self, kernel: KernelId) -> Result<(), String> {
        let kernels = self.services.machine.identity().kernels;
        if kernel.index() >= kernels {
            return Err(format!("there is no kernel {kernel}: they are k0 to k{}", kernels - 1));
        }
        let area = self.services.ikc.area();
        let other = |other: &KernelId| *other != kernel && self.may_take(*other).is_ok();
        if area.kernels().any(|kernel| other(&kernel)) {
            Ok(())
        } else {
            Err(format!("no other kernel than {kernel} may take programs now: see 'status'"))
        }
    }

    /// Goes on with what empties this kernel, if it is to be empty.
    pub(crate) fn go_on_emptying(&mut self) {
        let area = self.services.ikc.area();
        let me = self.me.kernel;
        self.go_on_handing();
        let rebooting = area.is_rebooting(me);
        let now = self.services.machine.now();
        if !rebooting && !area.is_drained(me) || now < self.emptying.due {
            return;
        }
        self.emptying.due = now + REPEAT;
        let mut left = self.moves.count();
        let ids: Vec<ProgramId> = self.residents.keys().copied().filter(|id| !self.moves.has(*id)).collect();
        for id in ids {
            if left >= AT_A_TIME {
                break;
            }
            left += 1;
            match self.best_other() {
                None => self.emptying.trouble = Some(String::from("no other kernel takes its programs")),
                Some(to) => {
                    if let Err(why) = self.begin_move(id, to.kernel) {
                        self.note_refusal(to.kernel, why);
                    }
                }
            }
        }
        let device = Device::ALL.into_iter().find(|device| self.services.owns(*device));
        if let Some(device) = device {
            if self.emptying.handing.is_none() {
                self.hand_over(device);
            }
            return;
        }
        let empty = left == 0 && self.moves.is_idle() && self.starting.is_empty() && self.joining.is_empty();
        if empty {
            self.emptying.trouble = None;
            if rebooting {
                self.end_for_reboot();
            }
        }
    }

    /// When emptying goes on by itself.
    pub(crate) fn emptying_due(&self) -> Option<Nanos> {
        let area = self.services.ikc.area();
        let wanted = area.is_rebooting(self.me.kernel) || area.is_drained(self.me.kernel);
        let something = !self.residents.is_empty() || Device::ALL.iter().any(|device| self.services.owns(*device));
        let ends = area.is_rebooting(self.me.kernel);
        (wanted && (something || ends)).then_some(self.emptying.due)
    }

    /// A kernel has not taken something.
    pub(crate) fn note_refusal(&mut self, by: KernelId, why: String) {
        self.emptying.refused |= 1_u64.checked_shl(by.0.into()).unwrap_or(0);
        self.emptying.trouble = Some(why);
    }

    /// The running kernel with the most free memory for its load, of those that have not refused lately.
    fn best_other(&mut self) -> Option<Life> {
        let area = self.services.ikc.area();
        for _ in 0..2 {
            let refused =
                |kernel: KernelId| self.emptying.refused & 1_u64.checked_shl(kernel.0.into()).unwrap_or(0) != 0;
            let best = area
                .kernels()
                .filter(|kernel| *kernel != self.me.kernel && !refused(*kernel))
                .filter_map(|kernel| self.may_take(kernel).ok())
                .max_by_key(|life| area.free_frames(life.kernel) / (1 + u64::from(area.load_of(life.kernel))));
            if best.is_some() {
                return best;
            }
            self.emptying.refused = 0;
        }
        None
    }

    /// Gives a device up for another kernel to take. Until that one has it the owner word still names this kernel, and what
    /// is asked of it waits.
    fn hand_over(&mut self, device: Device) {
        let ready = match device {
            Device::Block => self.services.disk.as_mut().is_none_or(crate::device::disk::DiskOwner::wind_down),
            Device::Console | Device::Network => true,
        };
        if !ready {
            self.emptying.due = self.services.machine.now() + Nanos::millis(1);
            return;
        }
        let Some(to) = self.best_other() else {
            self.emptying.trouble = Some(format!("no other kernel takes the {device:?} device"));
            self.stay_owner(device);
            return;
        };
        match device {
            // They keep what is asked of them, in case they stay here.
            Device::Console => {
                if let Some(console) = &mut self.services.console {
                    console.wind_down();
                }
            }
            Device::Block => {}
            Device::Network => self.services.network = None,
        }
        self.services.machine.release(device);
        // From here on another may touch it.
        let _ = self.services.ikc.area().move_taker(device, Some(self.me), None);
        let asked = self.services.machine.now();
        self.emptying.handing = Some(Handing { device, to, asked });
        self.tell(to.kernel, &Message::Offer(Work::Device(device)));
    }

    /// The disk is read here as before.
    fn stay_owner(&mut self, device: Device) {
        if device == Device::Block
            && let Some(disk) = &mut self.services.disk
        {
            disk.wind_up();
        }
    }

    fn go_on_handing(&mut self) {
        let Some(handing) = &mut self.emptying.handing else { return };
        let (device, to) = (handing.device, handing.to);
        if !self.services.owns(device) {
            self.emptying.handing = None;
            match device {
                Device::Console => {
                    let lines = self.services.console.take().into_iter().flat_map(ConsoleOwner::into_kernel_lines);
                    self.services.unsent_console.extend(lines);
                }
                Device::Block => self.services.disk = None,
                Device::Network => {}
            }
            self.services.log(&format!("has handed the {device:?} device over to {to}"));
            return;
        }
        if has_ended(&self.services, to) {
            self.take_back(device, to, &format!("{to} has died"));
            return;
        }
        let now = self.services.machine.now();
        if now >= handing.asked + REPEAT {
            handing.asked = now;
            self.tell(to.kernel, &Message::Offer(Work::Device(device)));
        }
    }

    /// A device comes back here: the other kernel cannot drive it.
    fn take_back(&mut self, device: Device, from: Life, why: &str) {
        let (disk, console) = match device {
            Device::Block => (self.services.disk.take(), None),
            Device::Console => (None, self.services.console.take()),
            Device::Network => (None, None),
        };
        let claimed = claim(&mut self.services, device, Some(self.me));
        if claimed {
            self.emptying.handing = None;
            self.note_refusal(from.kernel, format!("the {device:?} device stays: {why}"));
        }
        if let Some(mut disk) = disk {
            disk.wind_up();
            self.services.disk = Some(disk);
        }
        if let Some(mut console) = console {
            if claimed {
                console.wind_up();
            }
            self.services.console = Some(console);
        }
    }

    /// The other kernel cannot drive a device.
    pub(crate) fn device_declined(&mut self, device: Device, by: Life, why: &str) {
        if self.emptying.handing.as_ref().is_some_and(|handing| handing.device == device && handing.to == by) {
            self.take_back(device, by, why);
        }
    }

    /// Takes a device that its living owner has given up.
    pub(crate) fn take_device(&mut self, device: Device, from: Life) -> Result<(), Refusal> {
        if self.services.owns(device) {
            return Ok(());
        }
        if self.services.ikc.area().owner(device) != Some(from) {
            // It has gone elsewhere.
            return Ok(());
        }
        if claim(&mut self.services, device, Some(from)) {
            self.services.log(&format!("drives the {device:?} device now, which {from} has handed over"));
            Ok(())
        } else {
            Err(Refusal::Device)
        }
    }

    /// Nothing lives here: the core is given to a fresh life.
    fn end_for_reboot(&mut self) {
        let area = self.services.ikc.area();
        let election = area.election();
        // Others watch the machine from here on, and this kernel's end.
        if election.monitor == self.me.kernel {
            if let Some(next) = self.best_other() {
                area.elect(election, next.kernel);
                self.services.machine.notify(next.kernel);
            }
            return;
        }
        self.services.log("ends here: a fresh life was asked for");
        let now = self.services.machine.now();
        let record = DeathRecord::new(self.me.incarnation, DeathCause::Requested, now, "a fresh life was asked for");
        record.write(area, self.me.kernel);
        self.services.ikc.set_state(KernelState::Panicked);
        for peer in area.kernels().filter(|kernel| *kernel != self.me.kernel) {
            self.services.machine.notify(peer);
        }
        self.services.machine.park();
    }
}

//! Taking a device: its reset, and the words that say who drives it.
use super::{
    console::{self, ConsoleOwner},
    disk::DiskOwner,
    network::NetworkOwner,
};
use crate::services::Services;
use alloc::format;
use shimos_abi::{control::Device, ids::Life};
use shimos_hal::Machine;
use shimos_ikc::Quarantine;

/// Takes a device, and its owner word from `from`. Returns whether that worked.
pub(crate) fn claim<M: Machine>(services: &mut Services<M>, device: Device, from: Option<Life>) -> bool {
    let me = services.machine.identity().life;
    let area = services.ikc.area();
    // Taking a device resets it: of two who are told to, only one may touch it, and only after the last one's end.
    let last = area.taker(device);
    let free = last.is_none_or(|life| life == me || has_ended(services, life));
    if !free || area.move_taker(device, last, Some(me)).is_err() {
        return false;
    }
    // The owner word moves when the reset is confirmed: until then the dead owner's memory is not used anew.
    if services.machine.claim(device).is_err() {
        // Another may try.
        let _ = area.move_taker(device, Some(me), None);
        return false;
    }
    if area.move_owner(device, from, Some(me)).is_err() {
        return false;
    }
    release_quarantine(services, from);
    match device {
        Device::Console => {
            services.console = Some(ConsoleOwner::default());
            if let Some(from) = from {
                console::inherit(services, from.kernel);
            }
        }
        Device::Block => services.disk = Some(DiskOwner::default()),
        Device::Network => services.network = Some(NetworkOwner::default()),
    }
    true
}

/// Ends the quarantine of a kernel whose last device was reset after all.
fn release_quarantine<M: Machine>(services: &mut Services<M>, from: Option<Life>) {
    let area = services.ikc.area();
    let Some(from) = from.filter(|from| area.is_quarantined(from.kernel)) else { return };
    let left = |device: &Device| area.owner(*device).is_some_and(|owner| owner.kernel == from.kernel && owner <= from);
    if !Device::ALL.iter().any(left) {
        area.set_quarantined(from.kernel, Quarantine::End);
        services.log(&format!(
            "the devices of {from} are reset: {} may use all of its memory in its next life",
            from.kernel
        ));
    }
}

/// Whether a life is over: its core is proven parked, or has booted since.
pub(crate) fn has_ended<M: Machine>(services: &Services<M>, life: Life) -> bool {
    let area = services.ikc.area();
    let booted_since = area.incarnation(life.kernel).is_some_and(|now| now > life.incarnation);
    // A later life may have died before it said that it is there.
    let last = area.parked(life.kernel).map_or(life.incarnation, |parked| parked.max(life.incarnation));
    booted_since || services.machine.confirm_parked(Life { incarnation: last, ..life }).is_some()
}

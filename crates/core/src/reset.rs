//! A start of the machine after a reset: what the first kernel tells of it, and who tells that it lasts.
use crate::{kernel::Kernel, services::Services};
use alloc::format;
use shimos_abi::{control::Reset, time::Nanos};
use shimos_hal::Machine;
use shimos_ikc::{Area, Home};

/// A start that has gone on for so long lasts: the next reset is not another one in a row.
const LASTS: Nanos = Nanos::secs(2);

/// Frees what cannot go on after a reset, and says what can.
pub(crate) fn begin<M: Machine>(services: &mut Services<M>) {
    let area = services.ikc.area();
    let Some((resumed, _)) = area.resumed() else { return };
    services.log(&format!(
        "the machine was reset: start {}, {} programs have images, {} are gone",
        resumed.starts, resumed.found, resumed.gone
    ));
    for (program, home) in area.programs() {
        if let Home::Held(life) = home
            && area.ended_at_reset(life)
            && area.move_home(program, home, Home::Free).is_ok()
        {
            services
                .log(&format!("program {program} is lost: there was no checkpoint of it, and it ended with the reset"));
        }
    }
}

/// What the status says of the last reset.
pub(crate) fn told(area: Area) -> Option<Reset> {
    let (resumed, at) = area.resumed()?;
    Some(Reset { count: resumed.starts - 1, at, found: resumed.found, gone: resumed.gone })
}

impl<M: Machine> Kernel<M> {
    /// The active monitor says that a start lasts.
    pub(crate) fn note_lasting(&self, now: Nanos) {
        let area = self.services.ikc.area();
        if self.monitor.is_active() && area.resumed().is_some_and(|(_, at)| now >= at + LASTS) {
            area.set_lasting();
        }
    }
}

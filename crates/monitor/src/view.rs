//! What the daemons see of the machine: the words of the shared area.
use shimos_abi::{
    control::{Device, KernelState},
    ids::{Incarnation, KernelId, Life, MAX_PROGRAMS, ProgramId},
    time::Nanos,
};
use shimos_ikc::{Area, Claim, DeathRecord, Drained, Election, Home};

/// What the words say now. Any of it may be nonsense that a dying kernel wrote.
pub trait View {
    /// Number of kernels.
    fn kernels(&self) -> usize;
    /// Who is the active monitor.
    fn election(&self) -> Election;
    /// The interval that was set, or zero.
    fn heartbeat(&self) -> Nanos;
    /// The words of one kernel.
    fn kernel(&self, kernel: KernelId) -> KernelView;
    /// The stamp of `kernel` that `monitor` has acknowledged.
    fn acknowledged(&self, monitor: KernelId, kernel: KernelId) -> u64;
    /// A kernel's death record, of whatever life.
    fn death(&self, kernel: KernelId) -> Option<DeathRecord>;
    /// Where a program lives.
    fn home(&self, program: ProgramId) -> Home;
    /// Who drives a device.
    fn owner(&self, device: Device) -> Option<Life>;
    /// Whether memory of a kernel that a device may write was given up.
    fn is_quarantined(&self, _: KernelId) -> bool {
        false
    }
    /// Calls `visit` for each program that there is.
    fn programs(&self, visit: &mut dyn FnMut(ProgramId, Home)) {
        for program in (0..MAX_PROGRAMS as u16).map(ProgramId) {
            match self.home(program) {
                Home::Free => {}
                home => visit(program, home),
            }
        }
    }
}

/// The words of one kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelView {
    /// The incarnation that owns its outgoing part.
    pub incarnation: Option<Incarnation>,
    /// How far it says it has come.
    pub state: KernelState,
    /// Its latest timestamp.
    pub stamp: u64,
    /// The machine's time at that stamp, as the kernel says.
    pub stamp_time: Nanos,
    /// Runnable threads.
    pub load: u32,
    /// Free frames.
    pub free_frames: u64,
    /// The incarnation that is parked.
    pub parked: Option<Incarnation>,
    /// The incarnation that the parked core was told to boot.
    pub command: Option<Incarnation>,
    /// Answered probes.
    pub probed: u64,
    /// Who works on its recovery.
    pub claim: Claim,
    /// Whether the administrator keeps programs off it.
    pub drained: Drained,
}

/// How a kernel stands, all words considered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// This incarnation is on its way up.
    Booting(Incarnation),
    /// This incarnation says that it runs.
    Running(Incarnation),
    /// This incarnation says that it died.
    Dead(Incarnation),
    /// The core is parked, and this incarnation was the last to run on it.
    Parked(Incarnation),
}

impl Phase {
    /// The incarnation that counts now.
    pub const fn incarnation(self) -> Incarnation {
        match self {
            Phase::Booting(i) | Phase::Running(i) | Phase::Dead(i) | Phase::Parked(i) => i,
        }
    }
    /// Whether everything of `incarnation` has ended for good.
    pub const fn ended(self, incarnation: Incarnation) -> bool {
        match self {
            Phase::Parked(last) => incarnation.0 <= last.0,
            Phase::Booting(now) | Phase::Running(now) | Phase::Dead(now) => incarnation.0 < now.0,
        }
    }
}

impl KernelView {
    /// How the kernel stands. `death` is asked only when it says that it died.
    ///
    /// Which incarnation counts is taken from the mailbox, which the kernel itself has no business with; its own word
    /// counts only as long as it was never restarted.
    pub fn phase(&self, death: impl FnOnce() -> Option<DeathRecord>) -> Phase {
        if let Some(parked) = self.parked {
            return match self.command {
                Some(next) if next > parked => Phase::Booting(next),
                _ => Phase::Parked(parked),
            };
        }
        let dealt_with = Some(self.claim.incarnation).filter(|i| *i != Incarnation(0));
        let now = dealt_with.max(self.command).or(self.incarnation).unwrap_or(Incarnation(1));
        match self.state {
            KernelState::Panicked if death().is_some_and(|record| record.incarnation == now) => Phase::Dead(now),
            // A life that has stamped has come up, whatever it says since.
            _ if self.incarnation == Some(now) && self.stamp != 0 => Phase::Running(now),
            KernelState::Running if self.incarnation == Some(now) => Phase::Running(now),
            _ => Phase::Booting(now),
        }
    }
}

impl View for Area {
    fn kernels(&self) -> usize {
        self.layout().kernels()
    }
    fn election(&self) -> Election {
        Area::election(*self)
    }
    fn heartbeat(&self) -> Nanos {
        Area::heartbeat(*self)
    }
    fn kernel(&self, kernel: KernelId) -> KernelView {
        KernelView {
            incarnation: self.incarnation(kernel),
            state: self.state(kernel),
            stamp: self.stamp(kernel),
            stamp_time: self.stamp_time(kernel),
            load: self.load_of(kernel),
            free_frames: self.free_frames(kernel),
            parked: self.parked(kernel),
            command: self.command(kernel),
            probed: self.probed(kernel),
            claim: self.claim(kernel),
            drained: if self.is_drained(kernel) || self.is_rebooting(kernel) { Drained::Yes } else { Drained::No },
        }
    }
    fn acknowledged(&self, monitor: KernelId, kernel: KernelId) -> u64 {
        Area::acknowledged(*self, monitor, kernel)
    }
    fn death(&self, kernel: KernelId) -> Option<DeathRecord> {
        Area::death(*self, kernel)
    }
    fn home(&self, program: ProgramId) -> Home {
        Area::home(*self, program)
    }
    fn owner(&self, device: Device) -> Option<Life> {
        Area::owner(*self, device)
    }
    fn is_quarantined(&self, kernel: KernelId) -> bool {
        Area::is_quarantined(*self, kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_that_has_stamped_has_come_up_whatever_it_says() {
        let seen = |state, stamp, incarnation| KernelView {
            incarnation: Some(Incarnation(incarnation)),
            state,
            stamp,
            stamp_time: Nanos(0),
            load: 0,
            free_frames: 0,
            parked: None,
            command: Some(Incarnation(4)),
            probed: 0,
            claim: Claim::default(),
            drained: Drained::No,
        };
        let phase = |state, stamp, incarnation| seen(state, stamp, incarnation).phase(|| None);
        for state in [KernelState::Down, KernelState::Booting, KernelState::Panicked, KernelState::Running] {
            assert_eq!(phase(state, 9, 4), Phase::Running(Incarnation(4)), "{state:?}");
            // These are the words of the life before.
            assert_eq!(phase(state, 9, 3), Phase::Booting(Incarnation(4)), "{state:?}");
        }
        assert_eq!(phase(KernelState::Booting, 0, 4), Phase::Booting(Incarnation(4)));
    }
}

//! The state of one core.
use crate::death::Crash;
use shimos_abi::{
    addr::{Frame, FrameRange},
    ids::{Incarnation, KernelId, Life},
    time::Nanos,
};
use shimos_hal::Events;
use std::collections::{BTreeMap, BTreeSet};

/// What a core does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// It starts its present incarnation at the given time.
    Booting(Nanos),
    /// It has a turn to do.
    Running,
    /// It waits for an interrupt until the given time.
    Idle(Nanos),
    /// It makes no progress; an NMI still reaches it.
    Hung,
    /// It makes no progress and takes no NMI; only INIT reaches it.
    Deaf,
    /// It is parked: proven so in its mailbox.
    Parked,
}

/// One core and its private memory.
#[derive(Debug)]
pub(crate) struct Core {
    pub life: Life,
    pub phase: Phase,
    /// The incarnation that boots next.
    pub next: Incarnation,
    /// The core gets no time until then, as if the host had taken it away.
    pub stalled: Nanos,
    /// Its turn is not over and cannot go on yet.
    pub held: bool,
    pub events: Events,
    pub nmi: bool,
    pub init: bool,
    /// Calls of the machine by this core since the start, all incarnations together.
    pub steps: u64,
    /// Crash points: step and manner.
    pub kills: BTreeMap<u64, Crash>,
    /// Steps after which the core stands still, and for how long.
    pub stalls: BTreeMap<u64, Nanos>,
    pub pool: FrameRange,
    /// All private memory: the pool, and in front of it what stands for the kernel itself.
    pub private: FrameRange,
    /// Peers whose memory is readable here.
    pub mapped: BTreeSet<KernelId>,
    /// Frames of peers that address spaces here map, and how often.
    pub foreign: BTreeMap<Frame, u32>,
    /// Frames that hold page tables.
    pub tables: BTreeSet<Frame>,
}

impl Core {
    pub fn new(kernel: KernelId, private: FrameRange, pool: FrameRange, boot: Nanos) -> Core {
        Core {
            life: Life { kernel, incarnation: Incarnation(0) },
            next: Incarnation(1),
            phase: Phase::Booting(boot),
            stalled: Nanos(0),
            held: false,
            events: Events::empty(),
            nmi: false,
            init: false,
            steps: 0,
            kills: BTreeMap::new(),
            stalls: BTreeMap::new(),
            pool,
            private,
            mapped: BTreeSet::new(),
            foreign: BTreeMap::new(),
            tables: BTreeSet::new(),
        }
    }
    /// Forgets what a kernel that is gone had set up.
    pub fn clear(&mut self) {
        self.held = false;
        self.events = Events::empty();
        self.mapped.clear();
        self.foreign.clear();
        self.tables.clear();
    }
    /// When the core next does something by itself, if it does.
    pub fn due(&self) -> Option<Nanos> {
        let at = match self.phase {
            Phase::Booting(at) => at,
            Phase::Running | Phase::Idle(_) if self.held && !self.nmi && !self.init => return None,
            Phase::Running => Nanos(0),
            Phase::Idle(until) if self.events.is_empty() && !self.nmi && !self.init => until,
            Phase::Idle(_) => Nanos(0),
            Phase::Hung if self.nmi || self.init => Nanos(0),
            Phase::Deaf if self.init => Nanos(0),
            Phase::Hung | Phase::Deaf | Phase::Parked => return None,
        };
        Some(at.max(self.stalled)).filter(|at| *at != Nanos::NEVER)
    }
}

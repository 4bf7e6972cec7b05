//! The monitor daemon (paper 2.3.2). Every kernel has one; it acts only while the election word names its kernel.
use crate::{
    Action, Config, Election, KernelView, Phase, Refusal, View, Work,
    core_state::{Context, CoreState},
    history::History,
    watch::Gap,
    work::{Candidate, WorkList},
};
use alloc::vec::Vec;
use shimos_abi::{
    control::Recovery,
    ids::{Incarnation, KernelId, Life},
    time::Nanos,
};

/// The longest time between two steps.
const LONGEST: Nanos = Nanos::secs(1);

/// What to do after a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// To be done in this order, each only if [`MonitorDaemon::permits`] it just before.
    pub actions: Vec<Action>,
    /// When to call again at the latest.
    pub next: Nanos,
}

/// The monitor daemon of one kernel.
#[derive(Clone, Debug)]
pub struct MonitorDaemon {
    me: Life,
    config: Config,
    /// The election as seen last.
    election: Option<Election>,
    /// One entry a kernel while active, empty in a shadow. What is in it can all be found again in the shared words.
    cores: Vec<CoreState>,
    /// The life of each kernel that was seen to run last, by a shadow too: a dead one may say that it still boots.
    ran: Vec<Option<Incarnation>>,
    works: WorkList,
    history: History,
    /// Lives that are to end although they work.
    condemned: Vec<Life>,
    /// When the next step was due.
    due: Nanos,
    /// The interval as seen last.
    interval: Nanos,
    /// Others may go by this longer interval still, until then.
    slow: (Nanos, Nanos),
}

impl MonitorDaemon {
    /// The daemon of a kernel that has just booted: a shadow, until the election word says otherwise.
    pub fn new(me: Life, config: Config) -> MonitorDaemon {
        MonitorDaemon {
            me,
            config,
            election: None,
            cores: Vec::new(),
            ran: Vec::new(),
            works: WorkList::default(),
            history: History::default(),
            condemned: Vec::new(),
            due: Nanos::NEVER,
            interval: Nanos(0),
            slow: (Nanos(0), Nanos(0)),
        }
    }

    /// Whether it was active at its last step.
    pub fn is_active(&self) -> bool {
        self.election.is_some_and(|election| election.monitor == self.me.kernel)
    }

    /// The recoveries that this daemon led, the latest last.
    pub fn recoveries(&self) -> impl Iterator<Item = &Recovery> {
        self.history.iter()
    }

    /// A target refused an order.
    pub fn refused(&mut self, work: Work, from: Life, by: KernelId, why: Refusal) {
        self.works.refused(work, from, by, why);
    }

    /// Ends a life that seems to work: because the administrator asked, or because it broke the rules of a packet
    /// queue. It is asked to park itself first.
    pub fn condemn(&mut self, life: Life) {
        if self.is_active() && life.kernel != self.me.kernel && self.condemned.len() < self.cores.len() {
            self.condemned.push(life);
        }
    }

    /// Whether `action` may be done now. A monitor that was superseded while it acted must stop between two actions;
    /// and what hurts a core is done only under the claim of this term for that very life.
    pub fn permits(&self, action: &Action, view: &impl View) -> bool {
        let Some(election) = self.election.filter(|e| *e == view.election() && e.monitor == self.me.kernel) else {
            return false;
        };
        let Some(life) = action.hurts() else {
            return true;
        };
        let claim = view.kernel(life.kernel).claim;
        let expected = match action {
            Action::Restart(_) => life.incarnation.0.wrapping_add(1),
            _ => life.incarnation.0,
        };
        claim.term == election.term && claim.incarnation.0 == expected
    }

    /// One step: at every interval, when a peer rings, and when [`Step::next`] has come.
    pub fn step(&mut self, view: &impl View, now: Nanos) -> Step {
        let interval = self.config.interval(view.heartbeat());
        let patient = self.patient(interval, now);
        let election = view.election();
        let before = self.election.replace(election);
        let kernels = view.kernels();
        let seen: Vec<KernelView> = (0..kernels as u16).map(|k| view.kernel(KernelId(k))).collect();
        let phases: Vec<Phase> =
            (0..kernels as u16)
                .map(KernelId)
                .zip(&seen)
                .map(|(k, seen)| {
                    if k == self.me.kernel { Phase::Running(self.me.incarnation) } else { seen.phase(|| view.death(k)) }
                })
                .collect();
        self.ran.resize(kernels, None);
        for (ran, phase) in self.ran.iter_mut().zip(&phases) {
            if let Phase::Running(incarnation) = phase {
                *ran = Some(*incarnation);
            }
        }
        if election.monitor != self.me.kernel {
            self.cores.clear();
            self.works.clear();
            self.condemned.clear();
            self.due = Nanos::NEVER;
            return Step { actions: Vec::new(), next: now + interval.min(LONGEST) };
        }
        if before != Some(election) || self.cores.len() != kernels {
            let failed = before.map(|e| e.monitor).filter(|k| *k != self.me.kernel);
            let known = |(ran, phase): (&Option<Incarnation>, &Phase)| match phase {
                Phase::Booting(incarnation) if *ran == Some(*incarnation) => Phase::Running(*incarnation),
                phase => *phase,
            };
            let cores = seen.iter().zip(self.ran.iter().zip(&phases).map(known)).enumerate();
            self.cores = cores
                .map(|(k, (seen, phase))| CoreState::new(KernelId(k as u16), seen, phase, failed, now, &self.config))
                .collect();
            self.works.clear();
            self.due = now;
        }
        // Late by more than an interval: it cannot be told who else stood still.
        let gap = if now > self.due + interval { Gap::Stalled } else { Gap::Usual };

        let mut out = Vec::new();
        for (k, seen) in seen.iter().enumerate().map(|(k, seen)| (KernelId(k as u16), seen)) {
            if k != self.me.kernel && view.acknowledged(self.me.kernel, k) != seen.stamp {
                out.push(Action::Acknowledge { kernel: k, stamp: seen.stamp });
            }
        }
        self.works.refresh(view, &phases, now, &self.config, &mut out);
        let mut context = Context {
            view,
            me: self.me.kernel,
            term: election.term,
            now,
            interval: patient,
            gap,
            config: &self.config,
            works: &self.works,
            history: &mut self.history,
            out: &mut out,
        };
        for (place, core) in self.cores.iter_mut().enumerate() {
            if let (true, Some(seen), Some(phase)) =
                (place != self.me.kernel.index(), seen.get(place), phases.get(place))
            {
                core.step(seen, *phase, &mut context);
            }
        }
        for life in core::mem::take(&mut self.condemned) {
            let place = life.kernel.index();
            if let (Some(core), Some(seen)) = (self.cores.get_mut(place), seen.get(place)) {
                core.condemn(life, seen, &mut context);
            }
        }
        let works = &self.works;
        self.history.settle(|kernel| works.any_of(kernel), now);
        let candidates = self.candidates(&seen);
        let coming = self.cores.iter().enumerate().filter(|(_, core)| core.is_coming());
        let coming = coming.fold(0, |bits, (place, _)| bits | 1_u64.checked_shl(place as u32).unwrap_or(0));
        self.works.step(&candidates, coming, (election.term, now), &self.config, &mut out);
        let others = self.cores.iter().enumerate().filter(|(place, _)| *place != self.me.kernel.index());
        let next =
            others.map(|(_, core)| core.next(now, patient, &self.config)).fold(now + interval.min(LONGEST), Nanos::min);
        let next = if self.works.is_empty() { next } else { next.min(now + Nanos::millis(1)) };
        self.due = next;
        Step { actions: out, next }
    }

    /// The interval to judge others by. They learn of a new one only when they wake by the old one.
    fn patient(&mut self, interval: Nanos, now: Nanos) -> Nanos {
        if interval != self.interval {
            let slow = interval.max(self.interval);
            self.slow = (slow, now + slow.times(u64::from(self.config.missed)));
            self.interval = interval;
        }
        let (slow, until) = self.slow;
        if now < until { slow } else { interval }
    }

    /// The kernels that may be given work, this one among them.
    fn candidates(&self, seen: &[KernelView]) -> Vec<Candidate> {
        let lives =
            self.cores.iter().enumerate().filter_map(|(place, core)| {
                if place == self.me.kernel.index() { Some(self.me) } else { core.trusted() }
            });
        lives
            .filter_map(|life| {
                let seen = seen.get(life.kernel.index())?;
                Some(Candidate { life, free_frames: seen.free_frames, load: seen.load, drained: seen.drained })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Home;
    use shimos_abi::{
        control::{Device, KernelState},
        ids::ProgramId,
    };
    use shimos_ikc::{Claim, DeathRecord, Drained};

    /// Two kernels; the first is the monitor, the second stamps no more.
    struct Silent {
        heartbeat: Nanos,
    }

    impl View for Silent {
        fn kernels(&self) -> usize {
            2
        }
        fn election(&self) -> Election {
            Election { term: 1, monitor: KernelId(0) }
        }
        fn heartbeat(&self) -> Nanos {
            self.heartbeat
        }
        fn kernel(&self, _: KernelId) -> KernelView {
            KernelView {
                incarnation: Some(Incarnation(1)),
                state: KernelState::Running,
                stamp: 1,
                stamp_time: Nanos(0),
                load: 0,
                free_frames: 0,
                parked: None,
                command: None,
                probed: 0,
                claim: Claim::default(),
                drained: Drained::No,
            }
        }
        fn acknowledged(&self, _: KernelId, _: KernelId) -> u64 {
            1
        }
        fn death(&self, _: KernelId) -> Option<DeathRecord> {
            None
        }
        fn home(&self, _: ProgramId) -> Home {
            Home::Free
        }
        fn owner(&self, _: Device) -> Option<Life> {
            None
        }
    }

    #[test]
    fn it_rests_between_two_looks_also_while_others_go_by_a_longer_interval() {
        let mut daemon =
            MonitorDaemon::new(Life { kernel: KernelId(0), incarnation: Incarnation(1) }, Config::default());
        let (mut view, mut now) = (Silent { heartbeat: Nanos::millis(100) }, Nanos(0));
        for step in 0..200 {
            let next = daemon.step(&view, now).next;
            assert!(next > now, "step {step} at {now} is to be done again at {next}");
            now = next;
            if step == 0 {
                view.heartbeat = Nanos::millis(10);
            }
        }
    }
}

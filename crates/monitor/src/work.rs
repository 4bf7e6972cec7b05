//! What dead lives leave behind: programs and devices that need a new home, and the choice of one.
//!
//! The list is derived from home and owner words at every step; what is kept beside it is only who was asked already.
use crate::{Action, Config, Drained, Freed, Home, Phase, Refusal, View, Work};
use alloc::{format, string::String, vec::Vec};
use shimos_abi::{
    control::Device,
    ids::{KernelId, Life},
    time::Nanos,
};

/// A kernel that could take work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Who.
    pub life: Life,
    /// Its free frames.
    pub free_frames: u64,
    /// Its runnable threads.
    pub load: u32,
    /// Whether the administrator keeps programs off it.
    pub drained: Drained,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// A target must be chosen.
    Choose,
    /// This target was asked.
    Ordered { target: Life, until: Nanos },
    /// Everyone was asked.
    Waiting { until: Nanos },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Item {
    work: Work,
    from: Life,
    home: Home,
    stage: Stage,
    /// Kernels that were asked, one bit each.
    tried: u64,
    /// Kernels that found no readable image, one bit each.
    unreadable: u64,
    /// The last refusal.
    refusal: Option<Refusal>,
    /// When this was found.
    since: Nanos,
}

fn bit(kernel: KernelId) -> u64 {
    1_u64.checked_shl(u32::from(kernel.0)).unwrap_or(0)
}

/// All work that is to be done.
#[derive(Clone, Debug, Default)]
pub struct WorkList(Vec<Item>);

impl WorkList {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Brings the list up to date. What has moved is done; homes of programs without a checkpoint are freed, and of those that kill
    /// one kernel after the other.
    pub fn refresh(&mut self, view: &impl View, phases: &[Phase], now: Nanos, config: &Config, out: &mut Vec<Action>) {
        let ended = |life: Life| phases.get(life.kernel.index()).is_some_and(|phase| phase.ended(life.incarnation));
        let mut found = Vec::new();
        for device in Device::ALL {
            if let Some(from) = view.owner(device).filter(|owner| ended(*owner)) {
                found.push((Work::Device(device), from, Home::Free));
            }
        }
        view.programs(&mut |program, home| match home {
            Home::Held(life) if ended(life) => {
                out.push(Action::FreeHome { program, home, why: Freed::Unsaved });
            }
            Home::Protected { life, falls, .. } if ended(life) && falls >= config.falls => {
                out.push(Action::FreeHome { program, home, why: Freed::Deadly });
            }
            Home::Protected { life, .. } | Home::Offered { life, .. } if ended(life) => {
                found.push((Work::Program(program), life, home))
            }
            _ => {}
        });
        self.0.retain(|item| found.iter().any(|(work, from, _)| *work == item.work && *from == item.from));
        for (work, from, home) in found {
            match self.0.iter_mut().find(|item| item.work == work) {
                Some(item) => item.home = home,
                None => self.0.push(Item {
                    work,
                    from,
                    home,
                    stage: Stage::Choose,
                    tried: 0,
                    unreadable: 0,
                    refusal: None,
                    since: now,
                }),
            }
        }
    }

    /// A target refused.
    pub fn refused(&mut self, work: Work, from: Life, by: KernelId, why: Refusal) {
        let Some(item) = self.0.iter_mut().find(|item| item.work == work && item.from == from) else {
            return;
        };
        item.tried |= bit(by);
        item.refusal = Some(why);
        if why == Refusal::BadImage {
            item.unreadable |= bit(by);
        }
        if matches!(item.stage, Stage::Ordered { target, .. } if target.kernel == by) {
            item.stage = Stage::Choose;
        }
    }

    /// Gives orders. `coming` are the kernels that are on their way up, one bit each: what one of them has left behind is
    /// best off there, where its pages are.
    pub fn step(
        &mut self,
        candidates: &[Candidate],
        coming: u64,
        (term, now): (u32, Nanos),
        config: &Config,
        out: &mut Vec<Action>,
    ) {
        for place in 0..self.0.len() {
            let busy: Vec<KernelId> = self.0.iter().filter_map(Item::target).map(|life| life.kernel).collect();
            let Some(item) = self.0.get_mut(place) else {
                break;
            };
            let awaited = coming & !item.tried & bit(item.from.kernel) != 0;
            if awaited && matches!((item.work, &item.stage), (Work::Program(_), Stage::Choose)) {
                continue;
            }
            match item.stage {
                Stage::Ordered { target, until } => {
                    // A target that died, or takes too long, may still have moved the home word; then the item would
                    // be gone.
                    let gone = !candidates.iter().any(|c| c.life == target);
                    if !gone && now < until {
                        continue;
                    }
                    item.tried |= bit(target.kernel);
                }
                Stage::Waiting { until } if now >= until => item.tried = 0,
                Stage::Waiting { .. } | Stage::Choose => {}
            }
            item.stage = match item.choose(candidates, &busy) {
                Some(target) => {
                    out.push(Action::Order { work: item.work, from: item.from, target, term });
                    Stage::Ordered { target, until: now + config.order }
                }
                None => match item.stage {
                    Stage::Waiting { until } if now < until => Stage::Waiting { until },
                    _ => Stage::Waiting { until: now + config.retry },
                },
            };
            if item.is_beyond_reach(now, config) {
                out.push(Action::Quarantine(item.from.kernel));
            }
            if let (Work::Program(program), Some(why)) = (item.work, item.lost()) {
                out.push(Action::FreeHome { program, home: item.home, why });
            }
        }
    }

    /// Whether something that `kernel` left behind must be moved before its core is restarted. A device must be: its
    /// reset is what keeps it from writing into frames that are used anew. A program that nobody takes need not be:
    /// its image stays, and the restarted kernel itself is the target of last resort.
    pub fn blocks_restart(&self, kernel: KernelId) -> Blocks {
        let mut items = self.0.iter().filter(|item| item.from.kernel == kernel);
        if items.clone().any(|item| matches!(item.work, Work::Device(_))) {
            Blocks::Device
        } else if items.any(|item| !matches!(item.stage, Stage::Waiting { .. })) {
            Blocks::Program
        } else {
            Blocks::Nothing
        }
    }
    /// Whether anything that `kernel` left behind is still to be moved.
    pub fn any_of(&self, kernel: KernelId) -> bool {
        self.0.iter().any(|item| item.from.kernel == kernel)
    }
    /// Whether there is any work.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Why something that `kernel` left behind waits.
    pub fn waiting(&self, kernel: KernelId) -> Option<String> {
        let item =
            self.0.iter().find(|item| item.from.kernel == kernel && matches!(item.stage, Stage::Waiting { .. }))?;
        let why = match item.refusal {
            Some(Refusal::NoRoom) => "no kernel has room for it",
            Some(Refusal::BadImage) => "its image cannot be read",
            Some(Refusal::Device) => "the device does not confirm its reset",
            Some(Refusal::Busy) => "no kernel can take it now",
            None => "no other kernel runs",
        };
        Some(match item.work {
            Work::Program(program) => format!("program {program}: {why}"),
            Work::Device(device) => format!("device {device:?}: {why}"),
        })
    }
}

/// What stands in the way of a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocks {
    /// Nothing.
    Nothing,
    /// A program that may still find a home; not for ever.
    Program,
    /// A device that is not reset.
    Device,
}

impl Item {
    fn target(&self) -> Option<Life> {
        match self.stage {
            Stage::Ordered { target, .. } => Some(target),
            Stage::Choose | Stage::Waiting { .. } => None,
        }
    }
    /// The kernel with the most free memory for its load, of those that were not asked yet.
    fn choose(&self, candidates: &[Candidate], busy: &[KernelId]) -> Option<Life> {
        let weight =
            |c: &Candidate| 1 + u128::from(c.load) + busy.iter().filter(|k| **k == c.life.kernel).count() as u128;
        let free = |c: &Candidate| u128::from(c.free_frames) + 1;
        let untried = || candidates.iter().filter(|c| self.tried & bit(c.life.kernel) == 0);
        // A kernel that is being emptied comes last: better there than nowhere.
        let open = if untried().any(|c| c.drained == Drained::No) { Drained::No } else { Drained::Yes };
        let at_home = |c: &&Candidate| c.life.kernel == self.from.kernel && c.drained == open;
        if let (Work::Program(_), Some(own)) = (self.work, untried().find(at_home)) {
            // Its pages are there.
            return Some(own.life);
        }
        let mut best: Option<&Candidate> = None;
        for c in untried().filter(|c| c.drained == open) {
            // free(a) / weight(a) > free(b) / weight(b), without the division.
            if best.is_none_or(|b| free(c) * weight(b) > free(b) * weight(c)) {
                best = Some(c);
            }
        }
        best.map(|c| c.life)
    }
    /// Whether it is a device whose reset nobody gets confirmed, and that for so long that its kernel is not to wait any
    /// more.
    fn is_beyond_reach(&self, now: Nanos, config: &Config) -> bool {
        let nobody = matches!(self.stage, Stage::Waiting { .. }) && self.refusal == Some(Refusal::Device);
        matches!(self.work, Work::Device(_)) && nobody && now >= self.since + config.takeover
    }
    /// Whether its image is lost: two kernels could not read it, or the only one there is.
    fn lost(&self) -> Option<Freed> {
        let nobody = matches!(self.stage, Stage::Waiting { .. });
        let unreadable = self.unreadable.count_ones();
        (unreadable >= 2 || unreadable == 1 && nobody && self.refusal == Some(Refusal::BadImage)).then_some(Freed::Lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shimos_abi::ids::{Incarnation, ProgramId};

    fn candidate(kernel: u16, free_frames: u64, drained: Drained) -> Candidate {
        Candidate {
            life: Life { kernel: KernelId(kernel), incarnation: Incarnation(1) },
            free_frames,
            load: 0,
            drained,
        }
    }

    #[test]
    fn a_drained_kernel_is_asked_last() {
        let from = Life { kernel: KernelId(9), incarnation: Incarnation(1) };
        let mut item = Item {
            work: Work::Program(ProgramId(1)),
            from,
            home: Home::Free,
            stage: Stage::Choose,
            tried: 0,
            unreadable: 0,
            refusal: None,
            since: Nanos(0),
        };
        let all = [candidate(0, 900, Drained::Yes), candidate(1, 10, Drained::No), candidate(2, 20, Drained::No)];
        for wanted in [Some(2), Some(1), Some(0), None] {
            let chosen = item.choose(&all, &[]).map(|life| life.kernel);
            assert_eq!(chosen, wanted.map(KernelId));
            item.tried |= chosen.map_or(0, bit);
        }
    }
}

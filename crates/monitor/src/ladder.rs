//! The fencing ladder (D8): message, non-maskable interrupt, INIT; each confirmed by the parked core's acknowledgement.
use crate::Config;
use shimos_abi::{control::FencedBy, ids::Life, time::Nanos};

/// What is believed of the core that is to be fenced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Belief {
    /// It takes messages.
    Responsive,
    /// It left a death record and is about to park itself.
    Panicked,
    /// It takes no messages.
    Unresponsive,
}

/// What to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// Nothing, until this time.
    Wait(Nanos),
    /// Ask it to park itself.
    Ask,
    /// Fence word and non-maskable interrupt.
    Nmi,
    /// Fence word, INIT and SIPI.
    Init,
    /// Give up: its memory is lost, its programs are not to be touched.
    Unfenceable,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rung {
    Ground,
    SelfPark,
    Message,
    Nmi,
    Init,
}

/// One climb.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ladder {
    life: Life,
    belief: Belief,
    rung: Rung,
    /// When the present step has had its time.
    until: Nanos,
    /// When to give up.
    end: Nanos,
}

impl Ladder {
    /// A ladder for `life`.
    pub fn new(life: Life, belief: Belief, now: Nanos) -> Ladder {
        Ladder { life, belief, rung: Rung::Ground, until: now, end: Nanos::NEVER }
    }
    /// Who is to be fenced.
    pub const fn life(&self) -> Life {
        self.life
    }
    /// When to look again.
    pub const fn until(&self) -> Nanos {
        self.until
    }
    /// The step that was last taken: what parked the core, if it is parked now.
    pub const fn last(&self) -> FencedBy {
        match self.rung {
            Rung::Ground | Rung::SelfPark => FencedBy::Itself,
            Rung::Message => FencedBy::Message,
            Rung::Nmi => FencedBy::Nmi,
            Rung::Init => FencedBy::Init,
        }
    }

    /// The next move of a core that is not seen parked. Look at the parked word before every call.
    pub fn step(&mut self, now: Nanos, config: &Config) -> Move {
        if now < self.until {
            return Move::Wait(self.until);
        }
        let boot_core = self.life.kernel == config.boot;
        match (self.rung, self.belief) {
            (Rung::Ground, Belief::Panicked) => {
                self.climb(Rung::SelfPark, now + config.self_park);
                Move::Wait(self.until)
            }
            (Rung::Ground, Belief::Responsive) => {
                self.climb(Rung::Message, now + config.message);
                Move::Ask
            }
            (Rung::Ground, Belief::Unresponsive) | (Rung::SelfPark | Rung::Message, _) => {
                self.end = now + config.fence;
                self.climb(Rung::Nmi, now + config.nmi);
                Move::Nmi
            }
            (Rung::Nmi | Rung::Init, _) if now >= self.end => Move::Unfenceable,
            (Rung::Nmi, _) if boot_core => {
                self.climb(Rung::Nmi, now + config.nmi.times(3));
                Move::Nmi
            }
            (Rung::Nmi | Rung::Init, _) => {
                self.climb(Rung::Init, now + config.init);
                Move::Init
            }
        }
    }

    fn climb(&mut self, rung: Rung, until: Nanos) {
        self.rung = rung;
        self.until = until;
    }
}

#[cfg(test)]
mod tests {
    use super::{Belief, Ladder, Move};
    use crate::Config;
    use alloc::vec::Vec;
    use shimos_abi::{
        ids::{Incarnation, KernelId, Life},
        time::Nanos,
    };

    fn climb(kernel: u16, belief: Belief) -> Vec<Move> {
        let config = Config::default();
        let mut ladder = Ladder::new(Life { kernel: KernelId(kernel), incarnation: Incarnation(1) }, belief, Nanos(0));
        let mut now = Nanos(0);
        let mut moves = Vec::new();
        loop {
            match ladder.step(now, &config) {
                Move::Wait(until) => now = until,
                Move::Unfenceable => return moves,
                other => moves.push(other),
            }
        }
    }

    #[test]
    fn each_step_follows_the_last() {
        let moves = climb(1, Belief::Responsive);
        assert_eq!(moves[..3], [Move::Ask, Move::Nmi, Move::Init]);
        assert!(moves[3..].iter().all(|m| *m == Move::Init));
    }
    #[test]
    fn a_hung_core_is_not_asked() {
        assert_eq!(climb(1, Belief::Unresponsive)[..2], [Move::Nmi, Move::Init]);
        assert_eq!(climb(1, Belief::Panicked)[..2], [Move::Nmi, Move::Init]);
    }
    #[test]
    fn the_boot_core_is_never_sent_init() {
        assert!(climb(0, Belief::Responsive)[1..].iter().all(|m| *m == Move::Nmi));
    }
}

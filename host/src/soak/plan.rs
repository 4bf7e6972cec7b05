//! Which kernels are killed, when and how: all of it follows from a seed.
use shimos_abi::control::Fault;
use shimos_random::Random;
use std::time::Duration;

/// Faults that contain themselves, or hang: each ends a kernel and nothing else.
pub const FAULTS: [Fault; 11] = [
    Fault::NullPointer,
    Fault::Panic,
    Fault::InfiniteLoop,
    Fault::IrqDeadlock,
    Fault::ReadPeer,
    Fault::WritePeer,
    Fault::WriteText,
    Fault::WriteRodata,
    Fault::ExecuteData,
    Fault::WritePeerShared,
    Fault::StackOverflow,
];
/// The longest time from a quiet machine to the next death.
const WAIT: u64 = 120_000;
/// The longest time from one death of a burst to the next: a takeover takes milliseconds, a checkpoint half of one.
const NEXT: [u64; 3] = [2_000, 10_000, 40_000];

/// Which kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aim {
    /// The one that the program runs on.
    Home,
    /// Another one, by a number.
    Other(u16),
    /// The one that drives the network card.
    Card,
    /// The one whose monitor is active.
    Monitor,
}

/// One death.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Death {
    /// How long after the death before it; after the machine was quiet for the first of a burst.
    pub after: Duration,
    /// Which kernel.
    pub aim: Aim,
    /// How.
    pub fault: Fault,
}

/// Deaths that come together, one at least.
pub type Burst = Vec<Death>;

/// All deaths of a run: `deaths` in bursts of at most `most`.
pub fn plan(seed: u64, deaths: u32, most: u32) -> Vec<Burst> {
    let mut random = Random::new(seed);
    let mut left = deaths;
    let mut bursts = Vec::new();
    while left > 0 {
        let together = if random.once_in(3) { random.between(2, u64::from(most.max(2))) as u32 } else { 1 };
        let together = together.min(most).min(left).max(1);
        let mut burst = Vec::new();
        for turn in 0..together {
            let aim = match (turn, random.below(10)) {
                (0, 0) => Aim::Other(random.below(64) as u16),
                (0, 1) => Aim::Card,
                (0, 2) => Aim::Monitor,
                (0, _) => Aim::Home,
                _ => Aim::Other(random.below(64) as u16),
            };
            let longest = if turn == 0 { WAIT } else { random.one(&NEXT) };
            // Those that are noticed at once leave the least time to everybody else.
            let fault = if random.once_in(3) { Fault::Panic } else { random.one(&FAULTS) };
            burst.push(Death { after: Duration::from_micros(random.below(longest)), aim, fault });
        }
        left -= together;
        bursts.push(burst);
    }
    bursts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_all() {
        assert_eq!(plan(7, 100, 2), plan(7, 100, 2));
        assert_ne!(plan(7, 100, 2), plan(8, 100, 2));
    }

    #[test]
    fn as_many_die_as_was_asked_for() {
        for (seed, deaths, most) in [(1, 0, 2), (2, 1, 3), (3, 100, 1), (4, 101, 3)] {
            let plan = plan(seed, deaths, most);
            assert_eq!(plan.iter().map(|burst| burst.len() as u32).sum::<u32>(), deaths);
            assert!(plan.iter().all(|burst| (1..=most as usize).contains(&burst.len())));
        }
        let many = plan(5, 1000, 3);
        assert!(FAULTS.iter().all(|fault| many.iter().flatten().any(|death| death.fault == *fault)));
        let homes = many.iter().filter(|burst| burst.first().is_some_and(|death| death.aim == Aim::Home)).count();
        assert!(homes * 2 > many.len() && many.iter().any(|burst| burst.len() == 3));
    }
}

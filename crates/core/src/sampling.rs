//! When time in the kernel is measured: once in a while, so that few calls look at the clock for it.

/// Ways into user mode between two measurements, on average.
const MEAN: u32 = 16;

/// Says which ways into user mode are measured. The distances vary: programs do the same again and again, and a fixed
/// distance might always meet the same call of theirs.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    left: u32,
    distance: u32,
    state: u32,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { left: MEAN, distance: MEAN, state: 1 }
    }
}

impl Sampling {
    /// A thread is about to be let run: for how many others a measurement now stands, if there is to be one.
    #[inline]
    pub fn next(&mut self) -> Option<u64> {
        self.left = self.left.saturating_sub(1);
        if self.left > 0 { None } else { Some(self.measured()) }
    }

    fn measured(&mut self) -> u64 {
        let others = u64::from(self.distance.saturating_sub(1));
        // A linear congruential generator (Numerical Recipes); its high bits are the good ones.
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.distance = 1 + (self.state >> 16) % (2 * MEAN - 1);
        self.left = self.distance;
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that does two things in turn: both are measured, each for its share.
    #[test]
    fn what_comes_in_turn_is_measured_in_turn() {
        let mut sampling = Sampling::default();
        let mut shares = [0_u64; 2];
        for turn in 0..100_000 {
            if let Some(others) = sampling.next() {
                shares[turn % 2] += others + 1;
            }
        }
        for share in shares {
            assert!((45_000..55_000).contains(&share), "{shares:?}");
        }
    }
}

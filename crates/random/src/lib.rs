//! Random numbers that are the same for the same seed, in every build: a failure that the simulator, a fuzzer or a test
//! reports by its seed can be seen again. (SplitMix64; not for secrets.)
#![no_std]
#![forbid(unsafe_code)]

/// A source of random numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The source that belongs to `seed`.
    pub const fn new(seed: u64) -> Random {
        Random(seed)
    }
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.bits() % end }
    }
    /// A place in something of `len` parts; 0 if it has none.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }
    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }
    /// One of `all`, which is not empty.
    pub fn one<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.index(all.len())]
    }
    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
    /// True `n` times in a million.
    pub fn ppm(&mut self, n: u32) -> bool {
        n != 0 && self.below(1_000_000) < u64::from(n)
    }
    /// Endless random bytes.
    pub fn bytes(&mut self) -> impl Iterator<Item = u8> {
        core::iter::repeat_with(|| self.bits().to_le_bytes()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeds that documents and tests name must keep their meaning.
    #[test]
    fn a_seed_always_gives_the_same_numbers() {
        let mut random = Random::new(1_234_567);
        let found = [random.bits(), random.bits(), random.bits()];
        assert_eq!(found, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn numbers_stay_in_their_bounds() {
        let mut random = Random::new(7);
        for end in 1..200 {
            assert!(random.below(end) < end);
            assert!((end..=end + 3).contains(&random.between(end, end + 3)));
        }
        assert_eq!((random.below(0), random.index(0)), (0, 0));
        assert!(!(0..1000).any(|_| random.ppm(0)));
        assert!((0..1000).all(|_| random.ppm(1_000_000)));
        assert_eq!(random.between(u64::MAX, u64::MAX), u64::MAX);
    }
}

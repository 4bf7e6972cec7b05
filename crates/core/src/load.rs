//! Load averages: how many threads of a program wanted to run, over one, five and fifteen minutes.
use alloc::{format, string::String};
use minicbor::{Decode, Encode};
use shimos_abi::time::Nanos;

/// How often the averages are brought up to date.
const STEP: Nanos = Nanos::secs(5);
/// One, as a fixed-point number.
const ONE: u64 = 1 << 32;
/// What is left of an average after one step: e to the power of -5 s over 60, 300 and 900 s.
const LEFT: [u64; 3] = [3_951_560_672, 4_223_977_731, 4_271_172_524];
/// Steps after which nothing is left.
const FORGOTTEN: u64 = 4096;

/// The averages of one program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Load {
    #[n(0)]
    averages: [u64; 3],
    /// When the next step is due.
    #[n(1)]
    due: Nanos,
}

impl Load {
    /// Notes how many threads run or want to, if it is time. Steps that were missed count as idle.
    pub fn note(&mut self, now: Nanos, running: usize) {
        if now < self.due {
            return;
        }
        let missed = ((now - self.due).0 / STEP.0).min(FORGOTTEN);
        for (average, left) in self.averages.iter_mut().zip(LEFT) {
            for _ in 0..missed {
                *average = scaled(*average, left);
            }
            *average = scaled(*average, left).saturating_add((ONE - left).saturating_mul(running.min(1 << 16) as u64));
        }
        self.due = now + STEP;
    }

    /// As sysinfo(2) gives them, with 16 bits behind the point.
    pub fn scaled(&self) -> [u64; 3] {
        self.averages.map(|average| average >> 16)
    }

    /// As /proc/loadavg shows them.
    pub fn averages(&self) -> [String; 3] {
        self.averages.map(|average| {
            let hundredths = ((u128::from(average) * 100) >> 32) as u64;
            format!("{}.{:02}", hundredths / 100, hundredths % 100)
        })
    }
}

/// A fixed-point product.
fn scaled(average: u64, by: u64) -> u64 {
    ((u128::from(average) * u128::from(by)) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_comes_near_to_one_and_an_idle_minute_forgets_two_thirds() {
        let mut load = Load::default();
        let mut now = Nanos(0);
        for _ in 0..240 {
            load.note(now, 1);
            now = now + STEP;
        }
        assert_eq!(load.averages()[0], "0.99");
        let busy = load;
        load.note(now + STEP.times(11), 0);
        assert_eq!(load.averages()[0], "0.36");
        assert!(load.averages[2] > load.averages[0]);
        let mut early = busy;
        early.note(now - Nanos(1), 5);
        assert_eq!(early, busy);
        load.note(Nanos(u64::MAX), 0);
        assert_eq!(load.averages(), ["0.00", "0.00", "0.00"].map(String::from));
    }
}

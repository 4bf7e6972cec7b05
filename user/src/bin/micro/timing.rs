//! How often an operation is repeated, and what counts.
use std::{
    error::Error,
    time::{Duration, Instant},
};

/// Nanoseconds of one operation, or why there are none.
pub type Measured = Result<f64, Box<dyn Error>>;

/// How long one batch takes at least.
const BATCH: Duration = Duration::from_millis(40);
/// Batches; the middle one counts.
const BATCHES: usize = 5;

/// Measures a loop: `batch` does the operation as often as it is told. Finds by itself how often that must be.
pub fn repeat(mut batch: impl FnMut(u64) -> Result<(), Box<dyn Error>>) -> Measured {
    measure(|count| {
        let start = Instant::now();
        batch(count)?;
        Ok(start.elapsed())
    })
}

/// The same for a batch that takes its own time.
pub fn measure(mut batch: impl FnMut(u64) -> Result<Duration, Box<dyn Error>>) -> Measured {
    let mut count = 1;
    while batch(count)? < BATCH {
        count *= 2;
    }
    let mut samples = Vec::new();
    for _ in 0..BATCHES {
        samples.push(batch(count)?.as_nanos() as f64 / count as f64);
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples.get(samples.len() / 2).copied().unwrap_or_default())
}

//! Waiting with a deadline.
use anyhow::{Result, bail};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// How often a state is asked for.
const POLL: Duration = Duration::from_millis(20);
/// How long something that takes milliseconds may take on a host that stalls.
pub const SOON: Duration = Duration::from_secs(20);

/// Asks until there is an answer. `what` says what is waited for when it does not come.
pub fn until<T>(within: Duration, what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + within;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() >= end {
            bail!("not within {} s: {what}", within.as_secs());
        }
        sleep(POLL);
    }
}

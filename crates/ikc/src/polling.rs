//! When an interrupt is needed: Dekker's handshake between who sends and who goes to sleep.
//!
//! ```text
//! sender:   head := n;    fence(SeqCst);  polling == 0 ?  -> interrupt
//! sleeper:  polling := 0; fence(SeqCst);  any head new ?  -> stay awake
//! ```
//! Of two fences one is first. If the sender's is, the sleeper sees the head and stays awake; if the sleeper's is,
//! the sender sees that it does not poll and interrupts. It may be that both happen, never that neither does.
use crate::sync::{AtomicU64, Ordering, fence};

/// Sender, after the head was published: whether the peer must be interrupted.
pub fn must_notify(polling: &AtomicU64) -> bool {
    fence(Ordering::SeqCst);
    polling.load(Ordering::Relaxed) == 0
}

/// Sleeper: says that it looks by itself from now on.
pub fn begin(polling: &AtomicU64) {
    polling.store(1, Ordering::Relaxed);
}

/// Sleeper: says that it does not look any more, then looks a last time; when something is there it goes on polling.
/// Returns whether something is there.
pub fn end(polling: &AtomicU64, pending: impl FnOnce() -> bool) -> bool {
    polling.store(0, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    let pending = pending();
    if pending {
        polling.store(1, Ordering::Relaxed);
    }
    pending
}

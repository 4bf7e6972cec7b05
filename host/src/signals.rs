//! Signals to this tool: usually they end it; while a command of the user's runs inside, they are passed on to that.
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

/// Who gets signals now.
static TAKER: Mutex<Option<mpsc::Sender<i32>>> = Mutex::new(None);

fn taker() -> MutexGuard<'static, Option<mpsc::Sender<i32>>> {
    TAKER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Signals are taken by whoever holds this; dropped, they end the tool again.
#[derive(Debug)]
pub struct Taken {
    /// Their numbers as they come.
    pub numbers: mpsc::Receiver<i32>,
}

/// From now on signals come to the caller.
pub fn take() -> Taken {
    let (sender, numbers) = mpsc::channel();
    *taker() = Some(sender);
    Taken { numbers }
}

/// From now on they end the tool again; whoever took them gets no more.
pub fn release() {
    *taker() = None;
}

impl Drop for Taken {
    fn drop(&mut self) {
        release();
    }
}

/// Hands a signal to whoever takes them. Returns whether somebody does.
pub fn pass(number: i32) -> bool {
    taker().as_ref().is_some_and(|sender| sender.send(number).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_to_whoever_takes_them() {
        assert!(!pass(2));
        let taken = take();
        assert!(pass(15));
        assert_eq!(taken.numbers.recv(), Ok(15));
        drop(taken);
        assert!(!pass(15));
    }
}

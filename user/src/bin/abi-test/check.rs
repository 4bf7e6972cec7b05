//! Saying what was expected and what came.
use crate::Outcome;
use shimos_user::raw::{self, Answer};
use std::{
    fmt::Debug,
    fs, io, thread,
    time::{Duration, Instant},
};

/// Fails unless two values are the same.
pub fn same<T: PartialEq + Debug>(what: &str, got: T, wanted: T) -> Outcome {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?} instead of {wanted:?}")) }
}

/// Fails unless `holds`.
pub fn that(what: &str, holds: bool) -> Outcome {
    if holds { Ok(()) } else { Err(what.to_string()) }
}

/// Fails unless the call failed with this error number.
pub fn fails<T: Debug, E: Number>(what: &str, got: Result<T, E>, errno: i32) -> Outcome {
    match got {
        Err(error) if error.number() == errno => Ok(()),
        Err(error) => Err(format!("{what}: error {} instead of {errno}", error.number())),
        Ok(value) => Err(format!("{what}: {value:?} instead of error {errno}")),
    }
}

/// The value of what must succeed.
pub fn works<T, E: Number>(what: &str, got: Result<T, E>) -> Result<T, String> {
    got.map_err(|error| format!("{what}: error {}", error.number()))
}

/// What an error says.
pub fn text(error: io::Error) -> String {
    error.to_string()
}

/// Issues a system call; arguments that are not given are 0.
pub fn call(number: i64, arguments: &[u64]) -> Answer {
    let mut all = [0; 6];
    all.iter_mut().zip(arguments).for_each(|(place, argument)| *place = *argument);
    raw::call(number, all)
}

/// Waits until the first thread of a process is in a state that proc(5) has a letter for.
pub fn state(pid: i32, letter: char) -> Outcome {
    let (wanted, begun) = (format!(") {letter} "), Instant::now());
    while !fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(&wanted)) {
        that(&format!("{pid} comes to state {letter}"), begun.elapsed() < Duration::from_secs(20))?;
        thread::yield_now();
    }
    Ok(())
}

/// Waits until the first thread of a process sleeps: it waits in a call then.
pub fn asleep(pid: i32) -> Outcome {
    state(pid, 'S')
}

/// Waits until the parent sleeps; for children.
pub fn parent_asleep() -> Outcome {
    asleep(works("getppid", call(libc::SYS_getppid, &[]))? as i32)
}

/// Errors that have a number.
pub trait Number {
    /// The number.
    fn number(&self) -> i32;
}

impl Number for i32 {
    fn number(&self) -> i32 {
        *self
    }
}

impl Number for io::Error {
    fn number(&self) -> i32 {
        self.raw_os_error().unwrap_or(-1)
    }
}

impl Number for rustix::io::Errno {
    fn number(&self) -> i32 {
        self.raw_os_error()
    }
}
